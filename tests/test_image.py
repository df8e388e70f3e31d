"""What images are built of, and what is said when that fails; nothing here needs a Docker engine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from edl_allreduce import horovod_recipe
from edl_allreduce.errors import EdlError, UsageError
from edl_allreduce.horovod_recipe import build_variables, find_recipe
from launcher.image import builder, package
from launcher.image.context import Context, Entry, included_files, is_secret
from launcher.image.package import COMPILES_HOROVOD, SITE, base_context, base_tag, requirements, seeds, wheel
from launcher.image.report import Report, build_advice, engine_error, innermost

KEY = "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEow" * 20 + "\n-----END RSA PRIVATE KEY-----\n"
BASE = "registry.example.com/base:1"


def write(folder: Path, **files: str) -> Path:
    """A folder with files; two underscores in a name stand for a slash, one for a dot."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def planned(zoo: Path, repository: str = "r.example.com/t/z", base: str = BASE) -> builder.Plan:
    return builder.plan_zoo(zoo, repository, base, {}, None)


def names(context: Context) -> list[str]:
    return [entry.name for entry in context.entries]


def test_a_zoo_becomes_requirements_and_code(tmp_path: Path) -> None:
    zoo = write(tmp_path, model_py="x = 1\n", sub__other_py="y = 2\n", requirements_txt="-r more.txt\n", more_txt="a\n")
    assert names(planned(zoo).context) == [
        "Dockerfile",
        "requirements/more.txt",
        "requirements/requirements.txt",
        "zoo/model.py",
        "zoo/more.txt",
        "zoo/requirements.txt",
        "zoo/sub/other.py",
    ]


def test_a_zoo_without_requirements(tmp_path: Path) -> None:
    context = planned(write(tmp_path, model_py="x = 1\n")).context
    (entry,) = [entry for entry in context.entries if entry.name == "requirements/requirements.txt"]
    assert entry.content == b""


def test_what_is_left_out(tmp_path: Path) -> None:
    zoo = write(
        tmp_path,
        model_py="x = 1\n",
        data__train_recordio="x",
        big_bin="x",
        docs__guide_md="x",
        docs__keep_md="x",
        __git__config="x",
        sub____pycache____m_pyc="x",
        venv__bin__python="x",
        _dockerignore="# comment\n*.bin\ndocs\n!docs/keep.md\n",
    )
    assert [name for name in names(planned(zoo).context) if name.startswith("zoo/")] == [
        "zoo/docs/keep.md",
        "zoo/model.py",
    ]


def test_nothing_secret_enters_and_it_is_said(tmp_path: Path) -> None:
    zoo = write(
        tmp_path,
        model_py="x = 1\n",
        _env="PASSWORD=1",
        certs__server_pem=KEY,
        sub__id_rsa="x",
        _aws__credentials="x",
        notes_txt=f"the key:\n{KEY}",
        account_json=json.dumps({"type": "service_account", "private_key": KEY}),
        _dockerignore="*\n!model.py\n!.env\n!certs\n!notes.txt\n!account.json\n!sub\n!.aws\n",
    )
    (zoo / "id_rsa").write_text("x")
    context = planned(zoo).context
    assert [name for name in names(context) if name.startswith("zoo/")] == ["zoo/model.py", "zoo/sub/id.rsa"]
    assert context.secret == (".aws/credentials", ".env", "account.json", "certs/server.pem", "notes.txt")
    (line,) = context.remarks("zoo")
    assert line == f"left out, since they look like keys or passwords: {', '.join(context.secret)}"


@pytest.mark.parametrize("name", [".env", "a/.env.local", "ID_RSA", "a/.ssh/known_hosts", "x.KEY", ".netrc", "k.p12"])
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", ["model.py", "env.py", "keys.py", "monkey", "credentials.py", "environment/x.csv"])
def test_names_that_are_none(name: str) -> None:
    assert not is_secret(name)


def test_code_that_speaks_of_keys_is_code(tmp_path: Path) -> None:
    zoo = write(tmp_path, model_py='MARK = "-----BEGIN PRIVATE KEY-----"\nif MARK in text:\n    refuse()\n')
    assert planned(zoo).context.secret == ()


def test_links_out_of_the_zoo_are_left_out(tmp_path: Path) -> None:
    zoo = write(tmp_path / "zoo", model_py="x = 1\n")
    write(tmp_path, outside_txt="x")
    (zoo / "inside.py").symlink_to("model.py")
    (zoo / "outside.txt").symlink_to(tmp_path / "outside.txt")
    (zoo / "nothing").symlink_to("nowhere")
    context = planned(zoo).context
    assert context.outside == ("outside.txt",) and "zoo/inside.py" in names(context)
    assert "lead out of zoo: outside.txt" in context.remarks("zoo")[0]


def test_a_large_zoo_is_warned_about(tmp_path: Path) -> None:
    zoo = write(tmp_path, model_py="x = 1\n")
    with (zoo / "weights.bin").open("wb") as file:
        file.truncate(150_000_000)
    (line,) = planned(zoo).context.remarks("zoo")
    assert line.startswith("warning: zoo brings 150 MB into the image, above all weights.bin (150 MB)")
    assert "zoo/.dockerignore" in line


def test_a_folder_that_is_no_zoo_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "disk.img").open("wb") as file:
        file.truncate(50_000_000_000)
    with pytest.raises(UsageError, match="50 GB are too much for an image; is it the model zoo"):
        planned(tmp_path)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, r"no file to put into an image"),
        ({"requirements_txt": "-r nope.txt\n"}, r"includes nope.txt, which is not among the files"),
        ({"requirements_txt": "-c ../up.txt\n"}, r"includes ../up.txt, which is not among the files"),
    ],
)
def test_zoos_of_which_no_image_is_made(tmp_path: Path, files: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        planned(write(tmp_path, **files))


def test_the_same_files_give_the_same_archive_and_tag(tmp_path: Path) -> None:
    one, two = (write(tmp_path / name, model_py="x = 1\n", a__b_py="y\n") for name in ("one", "two"))
    os.utime(two / "model.py", (1, 1))
    (two / "model.py").chmod(0o600)
    with planned(one).context.tar() as first, planned(two).context.tar() as second:
        assert first.read() == second.read()
    assert planned(one).tag == planned(two).tag != planned(one, base="other:1").tag
    (two / "model.py").write_text("x = 2\n")
    assert planned(one).tag != planned(two).tag


def test_everybody_may_read_what_is_in_an_image(tmp_path: Path) -> None:
    zoo = write(tmp_path, model_py="x", run_sh="x")
    (zoo / "model.py").chmod(0o600)
    (zoo / "run.sh").chmod(0o700)
    with planned(zoo).context.tar() as file, tarfile.open(fileobj=file) as archive:
        modes = {each.name: (each.mode, each.uid, each.uname) for each in archive}
    assert modes["zoo/model.py"] == (0o644, 0, "") and modes["zoo/run.sh"] == (0o755, 0, "")


def test_files_that_requirements_include() -> None:
    text = "a==1\n-r one.txt\n  -ctwo.txt\n--requirement=three.txt # x\n# -r four.txt\n-c https://h/five.txt\n-rx-y.txt"
    assert included_files(text) == ["one.txt", "two.txt", "three.txt", "x-y.txt"]


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("registry.example.com/team/fintech", ("registry.example.com/team/fintech", "")),
        ("127.0.0.1:5000/a/b:v1", ("127.0.0.1:5000/a/b", "v1")),
        ("localhost/a", ("localhost/a", "")),
        ("team/name", ("team/name", "")),
        ("Host.Example.com:443/a", ("Host.Example.com:443/a", "")),
    ],
)
def test_names_of_images(reference: str, expected: tuple[str, str]) -> None:
    assert builder.split_reference(reference) == expected


@pytest.mark.parametrize(
    "reference", ["", "Team/name", "a b", "https://h/a", "h.example.com/a@sha256:00", "a/:x", "-a"]
)
def test_names_that_are_refused(reference: str) -> None:
    with pytest.raises(UsageError, match="--image_repository: .*registry.example.com/team/name") as raised:
        builder.split_reference(reference)
    assert "\n" not in str(raised.value)


def test_where_pip_looks_is_passed_on_but_passwords_only_to_a_stage_that_vanishes(tmp_path: Path) -> None:
    zoo = write(tmp_path, model_py="x")
    environ = {"PIP_INDEX_URL": "https://u:p@index/simple", "PIP_TRUSTED_HOST": "index", "PIP_CONFIG_FILE": "x"}
    arguments = builder.plan_zoo(zoo, "r/z", BASE, environ, None).arguments
    assert arguments == {"BASE_IMAGE": BASE, "PIP_TRUSTED_HOST": "index"}
    assert (builder.plan_base(False, "", environ).arguments or {})["PIP_INDEX_URL"] == "https://u:p@index/simple"


def test_a_dry_run_tells_all(tmp_path: Path) -> None:
    told = builder.describe(write(tmp_path / "zoo", model_py="x = 1\n", _env="x"), "r.example.com/z:v1", BASE)
    for words in ("image of zoo: r.example.com/z:v1", f"base image: {BASE}", "COPY zoo/", "6  zoo/model.py", ".env"):
        assert words in told


# The base image.


def test_the_wheel_is_this_installation() -> None:
    made = wheel()
    assert made == wheel()
    with zipfile.ZipFile(BytesIO(made)) as archive:
        assert archive.testzip() is None
        there = set(archive.namelist())
        entry_points = archive.read(next(name for name in there if name.endswith("entry_points.txt"))).decode()
    assert {
        "launcher/image/dockerfiles/zoo.Dockerfile",
        "edl_allreduce/control/control.proto",
        "model_zoo/digits.py",
    } <= there
    assert {"model_zoo/template/requirements.txt", "rendezvous/__main__.py"} <= there
    assert not [name for name in there if "__pycache__" in name]
    assert "edl = launcher.cli:main" in entry_points


def test_pip_installs_the_wheel(tmp_path: Path) -> None:
    name = "edl_allreduce-0.1.0-py3-none-any.whl"
    context = base_context(False, {"EDL_CACHE": str(tmp_path)})
    (entry,) = [entry for entry in context.entries if entry.name.startswith("dist/")]
    assert isinstance(entry.content, bytes)
    path = tmp_path / Path(entry.name).name
    path.write_bytes(entry.content)
    target = tmp_path / "target"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    done = subprocess.run([*pip, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    code = "import launcher.image.package as p; print(p.SITE, len(p.dockerfile('Dockerfile')), len(p.wheel()))"
    ran = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(target)}, cwd=tmp_path, capture_output=True
    )
    assert ran.stdout.decode().split()[0] == str(target), (ran.stderr, name)
    assert int(ran.stdout.split()[1]) > 1000 and int(ran.stdout.split()[2]) > 100_000


def test_what_horovod_is_compiled_with_is_complete(tmp_path: Path) -> None:
    context = base_context(False, {"EDL_CACHE": str(tmp_path)})
    for entry in context.entries:
        if entry.name.startswith("horovod/"):
            path = tmp_path / entry.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with entry.open() as file:
                path.write_bytes(file.read())
    command = [sys.executable, "-m", "edl_allreduce.horovod_wheel", "--help"]
    done = subprocess.run(command, cwd=tmp_path / "horovod", env={"PYTHONPATH": "."}, capture_output=True, text=True)
    assert done.returncode == 0 and "check" in done.stdout, done.stderr


def test_the_tag_changes_with_what_matters(tmp_path: Path) -> None:
    context = base_context(False, {"EDL_CACHE": str(tmp_path)})
    seeded = Context((*context.entries, Entry("seed/abc/horovod.whl", b"x")))
    changed = Context((*context.entries, Entry("model_zoo/new.py", b"x")))
    assert base_tag(context, {}) == base_tag(seeded, {}) != base_tag(changed, {})
    assert base_tag(context, {"PYTHON_IMAGE": "python:3.12-slim"}) != base_tag(context, {})
    assert re.fullmatch(r"\d+\.\d+\.\d+-[0-9a-f]{12}", base_tag(context, {}))


def test_requirements_of_extras() -> None:
    stated = ["numpy>=1", 'a>=1; python_version < "3.11"', 'b; extra == "x"', "c<2; extra == 'y'"]
    stated += ['d>1; platform_machine == "x86_64" and extra == "x"', 'e; extra == "z"']
    assert requirements(["x", "y"], stated) == [
        'a>=1; python_version < "3.11"', "b", "c<2", 'd>1; platform_machine == "x86_64"', "numpy>=1",
    ]  # fmt: skip


def recipe(folder: Path, **changes: str) -> Path:
    about = {
        "horovod": horovod_recipe.HOROVOD,
        "sdist": horovod_recipe.SDIST_SHA256,
        "patches": horovod_recipe.patches_digest(),
        "tensorflow": "tensorflow_cpu 2.21.0",
    }
    text = json.dumps(about | changes)
    place = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
    place.mkdir(parents=True)
    (place / "recipe.json").write_text(text)
    (place / "horovod-0.28.1-cp311-cp311-linux_x86_64.whl").write_bytes(b"wheel")
    return place


def test_seeds_are_wheels_of_this_horovod_under_their_own_key(tmp_path: Path) -> None:
    good = recipe(tmp_path)
    recipe(tmp_path, patches="other")
    recipe(tmp_path, horovod="0.27.0")
    recipe(tmp_path, tensorflow="tensorflow 2.20").rename(tmp_path / "0123456789abcdef")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/recipe.json").write_text("{")
    assert [entry.name for entry in seeds(tmp_path)] == [
        f"seed/{good.name}/horovod-0.28.1-cp311-cp311-linux_x86_64.whl"
    ]


def test_seeds_of_no_cache(tmp_path: Path) -> None:
    assert seeds(tmp_path / "nowhere") == []


# The Dockerfiles.


def instructions(name: str) -> list[tuple[str, str]]:
    """The instructions of one of our Dockerfiles, continuation lines joined."""
    text = re.sub(r"^#.*\n", "", package.dockerfile(name).decode(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(line.split()[0], " ".join(line.split()[1:])) for line in lines if line.strip()]


def sources(name: str) -> Iterator[str]:
    """What a Dockerfile copies from its context."""
    for word, rest in instructions(name):
        if word == "COPY" and not rest.startswith("--from="):
            yield rest.split()[0]


DOCKERFILES = ["Dockerfile", "gpu.Dockerfile", "zoo.Dockerfile"]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_all_that_a_dockerfile_copies_is_in_its_context(name: str, tmp_path: Path) -> None:
    if name == "zoo.Dockerfile":
        context = planned(write(tmp_path, model_py="x")).context
    else:
        context = base_context(name == "gpu.Dockerfile", {"EDL_CACHE": str(tmp_path)})
    copied = list(sources(name))
    assert copied
    for source in copied:
        assert any(entry == source or entry.startswith(source) for entry in names(context)), source


@pytest.mark.parametrize("name", DOCKERFILES)
def test_all_stages_and_arguments_of_a_dockerfile_are_there(name: str) -> None:
    stages: set[str] = set()
    arguments: set[str] = set()
    for word, rest in instructions(name):
        if word == "ARG":
            arguments.add(rest.partition("=")[0])
        elif word == "FROM":
            begun, _, stage = rest.partition(" AS ")
            used = re.findall(r"\$\{(\w+)\}", begun)
            assert begun in stages or (used and set(used) <= arguments), rest
            stages.add(stage)
        elif found := re.match(r"--from=(\S+)", rest):
            assert found[1] in stages
        elif word not in ("RUN", "COPY", "ENV", "WORKDIR", "USER", "CMD"):
            pytest.fail(f"{word}: no instruction that an old engine knows")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_pods_run_as_a_user_that_can_do_nothing(name: str) -> None:
    assert [rest for word, rest in instructions(name) if word == "USER"][-1] == "1000:1000"
    assert not any("--mount" in rest for word, rest in instructions(name) if word == "RUN")


def test_the_code_is_the_last_layer() -> None:
    layers = [rest for word, rest in instructions("zoo.Dockerfile") if word in ("COPY", "RUN")]
    assert layers[-1] == "zoo/ /model_zoo/custom/"
    assert "pip install" in layers[-2]


def test_the_gpu_flags_reach_the_recipe_of_horovod() -> None:
    before = [rest for word, rest in instructions("gpu.Dockerfile") if word in ("ENV", "RUN")]
    at = next(number for number, rest in enumerate(before) if "horovod_wheel install" in rest)
    environ = {name: value for rest in before[:at] for name, value in re.findall(r"(\w+)=(\S+)", rest)}
    assert build_variables(environ)["HOROVOD_GPU_OPERATIONS"] == "NCCL"
    cpu, gpu = find_recipe({"PATH": os.environ["PATH"]}), find_recipe({"PATH": os.environ["PATH"]} | {
        name: value for name, value in environ.items() if name.startswith("HOROVOD_")})  # fmt: skip
    assert gpu.variables["HOROVOD_NCCL_LINK"] == "STATIC" and gpu.key() != cpu.key()
    needed = next(e for e in base_context(True, {"EDL_CACHE": "/nowhere"}).entries if e.name == "requirements.txt")
    assert isinstance(needed.content, bytes) and b"tensorflow[and-cuda]" in needed.content


def test_the_modules_that_compile_horovod_need_no_others(tmp_path: Path) -> None:
    package = tmp_path / "edl_allreduce"
    package.mkdir()
    for name in COMPILES_HOROVOD:
        shutil.copy(SITE / "edl_allreduce" / f"{name}.py", package)
    command = [sys.executable, "-m", "edl_allreduce.horovod_wheel", "--help"]
    ran = subprocess.run(command, cwd=tmp_path, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)})
    assert ran.returncode == 0


# What the engine says.


def report(dockerfile: str = "zoo.Dockerfile") -> tuple[Report, list[str], list[float]]:
    told: list[str] = []
    now = [0.0]
    return Report("image of z", told.append, dockerfile, lambda: now[0]), told, now


def test_steps_are_told_and_long_ones_say_how_far_they_are() -> None:
    followed, told, now = report()
    for text in ("Step 1/3 : ARG X\n", " ---> 0123\n", "Step 2/3 : RUN pip install    a\n"):
        followed.follow([{"stream": text}])
    followed.follow([{"stream": "Collecting a\n"}])
    now[0] = 6.0
    followed.follow([{"stream": "\x1b[91mCollecting b\x1b[0m\nDownloading c\n"}])
    assert told == ["image of z, step 2/3: RUN pip install a", "image of z, step 2/3: Collecting b"]


def test_a_transfer_tells_its_megabytes_and_its_digest() -> None:
    followed, told, now = report("")
    for current, seconds in ((0, 1.0), (30_000_000, 6.0), (60_000_000, 7.0)):
        now[0] = seconds
        detail = {"current": current, "total": 90_000_000}
        followed.follow([{"status": "Pushing", "id": "a", "progressDetail": detail}])
    followed.follow([{"status": "Pushed", "id": "a"}])
    now[0] = 20.0
    followed.follow([{"status": "Pushing", "id": "b", "progressDetail": {"current": 10_000_000, "total": 10_000_000}}])
    followed.follow([{"aux": {"Tag": "v1", "Digest": "sha256:00", "Size": 1}}])
    assert told == ["image of z: pushed 30 of 90 MB", "image of z: pushed 100 of 100 MB"]
    assert followed.digest == "sha256:00"


def test_a_run_that_fails_shows_its_place_and_its_last_lines() -> None:
    followed, _, _ = report()
    followed.follow([{"stream": "Step 8/10 : RUN pip install x\n"}])
    followed.follow([{"stream": "".join(f"line {number}\n" for number in range(40))}])
    followed.follow([{"stream": "ERROR: No matching distribution found for humanise==9\n"}])
    reason = "The command '/bin/sh -c pip install x' returned a non-zero code: 1"
    with pytest.raises(UsageError) as raised:
        followed.follow([{"errorDetail": {"code": 1, "message": reason}, "error": reason}])
    first, *lines, last = str(raised.value).splitlines()
    assert first == (
        "image of z: step 8/10 of zoo.Dockerfile (RUN pip install x) failed with exit code 1; its last lines:"
    )
    assert lines[0] == "    line 21" and len(lines) == 20
    assert last == "requirements.txt asks for humanise==9, which the package index does not have: correct that line"


@pytest.mark.parametrize(
    ("output", "code", "words"),
    [
        ("NewConnectionError(...): Failed", "1", "no way to the package index"),
        ("ERROR: ResolutionImpossible: for help visit", "1", "contradicts itself or the base image"),
        ("ERROR: Invalid requirement: 'x===='", "1", "a line that is no requirement, 'x===='"),
        ("error: command 'gcc' failed: No such file or directory", "1", "images have no compiler"),
        ("ERROR: Cannot find command 'git' - do you have 'git' installed", "1", "images have no compiler and no git"),
        ("OSError: [Errno 28] No space left on device", "1", "docker system prune"),
        ("", "137", "want of memory"),
        ("something else", "2", "correct what it complains about"),
    ],
)
def test_advice(output: str, code: str, words: str) -> None:
    assert words in build_advice(output, code)


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        ("unauthorized: authentication required", UsageError, "docker login"),
        ("denied: requested access to the resource is denied", UsageError, "docker login"),
        ("no basic auth credentials", UsageError, "docker login"),
        ("dial tcp: lookup r.example.com: no such host", UsageError, "does not reach the registry"),
        ("http: server gave HTTP response to HTTPS client", UsageError, "insecure-registries"),
        ("manifest for x:1 not found: manifest unknown", UsageError, "no such image"),
        ("write /var/lib: no space left on device", EdlError, "docker system prune"),
        ("something else", EdlError, "x: something else"),
    ],
)
def test_what_engines_and_registries_refuse(said: str, kind: type[EdlError], words: str) -> None:
    error = engine_error("x", said)
    assert type(error) is kind and words in str(error)
    assert "\n" not in str(error)


def test_the_inner_words_of_an_error() -> None:
    nested = "HTTPConnectionPool(...): (Caused by NewConnectionError('x: [Errno 111] Connection refused'))"
    assert innermost(Exception(nested)) == "Connection refused"
    assert innermost(Exception("('Connection aborted.', FileNotFoundError(2, 'No such file or directory'))")) == (
        "No such file or directory"
    )
    assert innermost(Exception("plain\nwords")) == "plain words"
