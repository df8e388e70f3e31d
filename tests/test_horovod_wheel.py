"""The Horovod wheel: what it depends on, what a user sees when something is missing or fails, and that it works."""

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edl_allreduce import horovod_patches, horovod_recipe, horovod_wheel
from edl_allreduce.build_log import Progress, run_logged
from edl_allreduce.errors import EdlError
from edl_allreduce.horovod_patches import PATCHES, TO_BUILD
from edl_allreduce.horovod_recipe import DEFAULTS, Recipe, build_variables
from edl_allreduce.horovod_wheel import cache_folder, job_count

ROOT = Path(__file__).parent.parent
RECIPE = Recipe(
    horovod="0.28.1",
    sdist="92a4",
    patches="01",
    tensorflow="tensorflow_cpu 2.21.0",
    python="cpython-311-x86_64-linux-gnu",
    platform="linux-x86_64 glibc 2.36",
    compiler="c++ 12.2.0",
    cuda="",
    variables={"HOROVOD_WITH_GLOO": "1", "CXXFLAGS": "-O1"},
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def wheel_command(*arguments: str, options: tuple[str, ...] = (), **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *options, "-m", "edl_allreduce.horovod_wheel", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environ, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, DEFAULTS),
        ({"HOROVOD_WITH_GLOO": "0"}, DEFAULTS | {"HOROVOD_WITH_GLOO": "0"}),
        ({"HOROVOD_GPU_OPERATIONS": "NCCL"}, DEFAULTS | {"HOROVOD_GPU_OPERATIONS": "NCCL"}),
        # What a running job's environment holds has no part in a build.
        ({"HOROVOD_RANK": "3", "HOROVOD_GLOO_IFACE": "eth0", "HOROVOD_ELASTIC": "1", "PATH": "/bin"}, DEFAULTS),
    ],
)
def test_build_variables(given: dict[str, str], expected: dict[str, str]) -> None:
    assert build_variables(given) == expected


def test_a_contrary_of_the_user_replaces_our_default() -> None:
    built = build_variables({"HOROVOD_WITH_MPI": "1", "HOROVOD_WITHOUT_GLOO": "1"})
    assert "HOROVOD_WITHOUT_MPI" not in built
    assert "HOROVOD_WITH_GLOO" not in built
    assert built["HOROVOD_WITH_TENSORFLOW"] == "1"


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Recipe)])
def test_every_part_of_a_recipe_is_part_of_its_key(field: str) -> None:
    other = {"HOROVOD_WITH_GLOO": "0"} if field == "variables" else "something else"
    assert dataclasses.replace(RECIPE, **{field: other}).key() != RECIPE.key()  # type: ignore[arg-type]


def test_the_order_of_the_variables_is_not() -> None:
    backwards = dict(reversed(list(RECIPE.variables.items())))
    assert dataclasses.replace(RECIPE, variables=backwards).key() == RECIPE.key()


@pytest.mark.parametrize(
    ("makeflags", "cores", "gigabytes", "expected"),
    [
        ("", 8, 64, 8),
        ("", 8, 4, 2),
        ("", 2, 0.5, 1),
        ("-j3", 8, 64, 3),
        ("w -j 5 --jobserver-auth=3,4", 8, 64, 5),
        ("w", 4, 64, 4),
    ],
)
def test_job_count(makeflags: str, cores: int, gigabytes: float, expected: int) -> None:
    assert job_count(makeflags, cores, int(gigabytes * 1e9)) == expected


def test_memory_is_that_of_this_machine() -> None:
    assert 1e7 < horovod_wheel.free_memory() < 1e14


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"EDL_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, Path("/a/wheels")),
        ({"XDG_CACHE_HOME": "/b"}, Path("/b/edl_allreduce/wheels")),
        ({}, Path.home() / ".cache" / "edl_allreduce" / "wheels"),
    ],
)
def test_cache_folder(environ: dict[str, str], expected: Path) -> None:
    assert cache_folder(environ) == expected


def test_a_wheel_in_the_cache_is_not_built_again(tmp_path: Path) -> None:
    environ = dict(os.environ) | {"EDL_CACHE": str(tmp_path)}
    wheel = tmp_path / "wheels" / horovod_recipe.find_recipe(environ).key() / "horovod-0.28.1-any.whl"
    wheel.parent.mkdir(parents=True)
    wheel.write_bytes(b"")
    ended = wheel_command("build", EDL_CACHE=str(tmp_path))
    assert ended.stdout == f"{wheel}\n"
    assert "taken from the cache" in ended.stderr


def test_horovod_as_it_was_released_is_another_wheel(tmp_path: Path) -> None:
    environ = dict(os.environ) | {"EDL_CACHE": str(tmp_path)}
    keys = [horovod_recipe.find_recipe(environ, patches).key() for patches in (PATCHES, TO_BUILD)]
    for key in keys:
        (tmp_path / "wheels" / key).mkdir(parents=True)
        (tmp_path / "wheels" / key / "horovod-0.28.1-any.whl").write_bytes(b"")
    ended = wheel_command("build", "--as_released", EDL_CACHE=str(tmp_path))
    assert ended.stdout == f"{tmp_path / 'wheels' / keys[1] / 'horovod-0.28.1-any.whl'}\n"
    assert keys[0] != keys[1] and 0 < len(TO_BUILD) < len(PATCHES)


def test_workers_never_get_horovod_as_it_was_released(tmp_path: Path) -> None:
    ended = wheel_command("install", "--as_released", EDL_CACHE=str(tmp_path))
    assert ended.returncode == 2 and "--as_released goes with build" in ended.stderr


def test_without_a_compiler_the_message_installs_one(tmp_path: Path) -> None:
    ended = wheel_command("build", PATH=str(tmp_path), EDL_CACHE=str(tmp_path))
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert "apt-get install -y g++ make" in ended.stderr


def test_a_compiler_named_by_the_user_but_missing(tmp_path: Path) -> None:
    ended = wheel_command("build", CXX="no-such-compiler -m64", EDL_CACHE=str(tmp_path))
    assert ended.returncode == 1
    assert "no-such-compiler" in ended.stderr


def test_without_tensorflow_the_message_installs_it(tmp_path: Path) -> None:
    # -S hides the installed packages: this also shows that the command needs nothing but the standard library.
    ended = wheel_command("build", options=("-S",), EDL_CACHE=str(tmp_path))
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert "pip install 'edl_allreduce[worker]'" in ended.stderr


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = wheel_command("build", EDL_CACHE=str(tmp_path / "file"))
    assert ended.returncode == 1
    assert "set EDL_CACHE" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_another_source_package_is_refused(tmp_path: Path) -> None:
    sdist = tmp_path / "horovod-0.28.1.tar.gz"
    sdist.write_bytes(b"something else")
    with pytest.raises(EdlError, match="SHA-256"):
        horovod_wheel._unpack(sdist)


def test_patches_change_each_text_once(tmp_path: Path) -> None:
    before: dict[str, str] = {}
    for patch in horovod_patches.PATCHES:
        before[patch.file] = before.get(patch.file, "// kept\n") + patch.old
    for name, text in before.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    horovod_patches.apply(tmp_path)
    for patch in horovod_patches.PATCHES:
        text = (tmp_path / patch.file).read_text()
        assert text.startswith("// kept\n")
        assert patch.new in text
    with pytest.raises(EdlError, match="not Horovod"):
        horovod_patches.apply(tmp_path)


def test_a_file_appears_whole_however_many_write_it(tmp_path: Path) -> None:
    path, contents = tmp_path / "wheel", [bytes([number]) * 3_000_000 for number in range(4)]
    writers = [threading.Thread(target=horovod_wheel._place, args=(path, content)) for content in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert path.read_bytes() in contents
    assert os.listdir(tmp_path) == ["wheel"]


def test_a_pipe_gets_a_line_at_every_fifth() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    for percent in range(0, 101, 5):
        progress.line(f"  [{percent:3d}%] Building CXX object a/b/c.cc.o")
        progress.tick()
    shown = stream.getvalue().splitlines()
    assert [line.split()[0] for line in shown] == ["20", "40", "60", "80", "100"]


def test_a_terminal_gets_one_live_line() -> None:
    stream = Terminal()
    progress = Progress(stream)
    progress.line("[ 42%] Building CXX object horovod/common/operations.cc.o")
    progress.tick()
    assert "42 %" in stream.getvalue()
    assert "operations.cc.o" in stream.getvalue()
    progress.phase("next")
    assert stream.getvalue().endswith("\r\033[Knext\n")
    assert stream.getvalue().count("\n") == 1


def test_a_command_that_fails_tells_why_and_where_the_rest_is(tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    log.write_text("an earlier command: fatal error: not this one\n")
    script = "seq -f 'line %g' 50; echo 'x.cc:7: fatal error: no y.h' >&2; seq -f 'more %g' 50; exit 3"
    progress = Progress(Terminal())
    progress.phase("  compiler: 2 at once")
    with pytest.raises(EdlError) as failure:
        run_logged(["sh", "-c", script], os.environ, log, progress)
    first, *shown, last = str(failure.value).splitlines()
    assert first == "compiler: 2 at once: failed (exit code 3):"
    assert [line.strip() for line in shown] == ["x.cc:7: fatal error: no y.h", "more 1", "more 2", "more 3"]
    assert last == f"Its whole output: {log}"
    assert log.read_text().count("\nline ") == 50


def test_a_command_that_fails_without_a_complaint_shows_its_end(tmp_path: Path) -> None:
    with pytest.raises(EdlError) as failure:
        run_logged(["sh", "-c", "seq -f 'line %g' 50; kill -9 $$"], os.environ, tmp_path / "log", Progress(Terminal()))
    assert "failed (signal 9)" in str(failure.value)
    assert "line 50" in str(failure.value)
    assert "line 20" not in str(failure.value)


class Interrupted(Progress):
    """Ctrl-C as soon as the command has said something."""

    said = False

    def line(self, text: str) -> None:
        self.said = True

    def tick(self) -> None:
        if self.said:
            raise KeyboardInterrupt


def test_an_interrupted_command_leaves_no_process(tmp_path: Path) -> None:
    # The command and its child hold the writing end of a pipe: its reader sees the end when neither is left.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    script = f"exec 3>{pipe}; sleep 600 & echo started; wait"
    with pytest.raises(KeyboardInterrupt):
        run_logged(["sh", "-c", script], os.environ, tmp_path / "log", Interrupted(io.StringIO()))
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_the_installed_horovod_reduces() -> None:
    ended = wheel_command("check", HOROVOD_RANK="7", HOROVOD_SIZE="9")
    assert ended.returncode == 0, ended.stderr
    assert "works with TensorFlow 2.21" in ended.stdout
    assert "gloo yes" in ended.stdout


def test_a_horovod_that_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "horovod").mkdir()
    (tmp_path / "horovod" / "__init__.py").write_text("raise ImportError('undefined symbol: x')")
    ended = wheel_command("check", PYTHONPATH=str(tmp_path))
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert "undefined symbol: x" in ended.stderr
    assert "horovod_wheel install" in ended.stderr


def test_a_misspelt_command() -> None:
    ended = wheel_command("instal")
    assert ended.returncode == 2
    assert "install" in ended.stderr
