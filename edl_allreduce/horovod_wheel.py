"""Builds the Horovod wheel we need, since Horovod's source package does not compile against a current TensorFlow.

    python -m edl_allreduce.horovod_wheel build      build it or take it from the cache; prints the wheel's path
    python -m edl_allreduce.horovod_wheel install    the same, and install it into this Python's environment
    python -m edl_allreduce.horovod_wheel check      run an allreduce with the installed Horovod; says what it can do
    python -m edl_allreduce.horovod_wheel build --as_released      for comparisons: Horovod does what it did when it was
                                                     released; only what keeps it from compiling is changed

What is changed in the source stands in horovod_patches.py, what a wheel depends on in horovod_recipe.py. Horovod's own
build variables (HOROVOD_GPU_OPERATIONS=NCCL, ...) are obeyed. The cache is `$EDL_CACHE/wheels`, else
`$XDG_CACHE_HOME/edl_allreduce/wheels`, else `~/.cache/edl_allreduce/wheels`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from edl_allreduce import horovod_patches
from edl_allreduce.build_log import Progress, run_logged
from edl_allreduce.errors import EdlError
from edl_allreduce.horovod_patch import Patch
from edl_allreduce.horovod_patches import PATCHES, TO_BUILD
from edl_allreduce.horovod_recipe import HOROVOD, SDIST_SHA256, build_variables, find_recipe

# Newer setuptools lack what Horovod's setup.py uses, CMake 4 refuses the policy versions of its bundled libraries.
BUILD_TOOLS = ("setuptools<80", "cmake<4", "wheel", "packaging", "cloudpickle", "psutil", "pyyaml")
JOB_MEMORY = 1_500_000_000  # bytes that one compiler of TensorFlow's headers may take


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where built wheels are kept."""
    if environ.get("EDL_CACHE"):
        return Path(environ["EDL_CACHE"]).expanduser().absolute() / "wheels"
    home = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser().absolute() / "edl_allreduce" / "wheels"


def job_count(makeflags: str, cores: int, memory: int) -> int:
    """How many compilers to run at once: what MAKEFLAGS asks for, else one per core and 1.5 GB of `memory` (bytes)."""
    asked = re.search(r"-j ?(\d+)", makeflags)
    return int(asked[1]) if asked else max(1, min(cores, memory // JOB_MEMORY))


def free_memory() -> int:
    """Bytes that compilers may take: what the machine has available, or the limit of our cgroup if that is less."""
    available = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
    rooms = [int(available[1]) * 1024] if available else [JOB_MEMORY]
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        rooms.append(int(text))
    return min(rooms)


def build(environ: Mapping[str, str], progress: Progress, patches: Sequence[Patch] = PATCHES) -> Path:
    """The wheel for this environment, from the cache or built now.

    Args:
        patches: what is changed in its source.

    Raises:
        EdlError: something is missing or a step failed; the text says what to do.
    """
    recipe = find_recipe(environ, patches)
    folder = cache_folder(environ) / recipe.key()
    if found := sorted(folder.glob("*.whl")):
        progress.phase(f"Horovod {HOROVOD} for {recipe.tensorflow}: taken from the cache")
        return found[0]
    if importlib.util.find_spec("pip") is None:
        raise EdlError(f"{sys.prefix} has no pip: {sys.executable} -m ensurepip")
    progress.phase(f"Horovod {HOROVOD} for {recipe.tensorflow}: compiling it once (about 4 minutes on 2 cores)")
    log = folder / f"build-{uuid.uuid4().hex[:8]}.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        log.touch()
    except OSError as error:
        raise EdlError(f"the cache {folder} cannot be written ({error.strerror}): set EDL_CACHE to a folder") from error
    with tempfile.TemporaryDirectory(prefix="edl-horovod-") as work:
        compiled = _compile(Path(work), environ, log, progress, patches)
        _place(folder / "recipe.json", recipe.as_json().encode())
        _place(folder / compiled.name, compiled.read_bytes())
    log.replace(folder / "build.log")
    return folder / compiled.name


def _compile(work: Path, environ: Mapping[str, str], log: Path, progress: Progress, patches: Sequence[Patch]) -> Path:
    """Builds the wheel inside `work`, with build tools that nobody else sees, and gives its path there."""
    tools, wheels = work / "tools", work / "wheels"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    jobs = job_count(environ.get("MAKEFLAGS", ""), len(os.sched_getaffinity(0)), free_memory())
    inside = {name: value for name, value in environ.items() if name not in ("MAKELEVEL", "MFLAGS")} | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(tools), environ.get("PYTHONPATH")])),
        "PATH": os.pathsep.join([str(tools / "bin"), environ.get("PATH", os.defpath)]),
        "MAKEFLAGS": f"-j{jobs}",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **build_variables(environ),
    }
    progress.phase(f"  build tools: {', '.join(BUILD_TOOLS[:3])}")
    run_logged([*pip, "install", "--target", str(tools), *BUILD_TOOLS], environ, log, progress)
    progress.phase(f"  source package: horovod {HOROVOD}")
    wanted = ["download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", f"horovod=={HOROVOD}"]
    run_logged([*pip, *wanted, "--dest", str(work)], inside, log, progress)
    source = _unpack(work / f"horovod-{HOROVOD}.tar.gz", patches)
    progress.phase(f"  compiler: {jobs} at once")
    build_it = ["wheel", "--verbose", "--no-deps", "--no-build-isolation", "--use-pep517", "--wheel-dir", str(wheels)]
    run_logged([*pip, *build_it, str(source)], inside, log, progress)
    return next(wheels.glob("horovod-*.whl"))


def _unpack(sdist: Path, patches: Sequence[Patch] = PATCHES) -> Path:
    """Checks, unpacks and patches the source package, and gives its folder."""
    found = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if found != SDIST_SHA256:
        raise EdlError(f"{sdist.name} has SHA-256 {found}, not {SDIST_SHA256}: which package index gave it?")
    with tarfile.open(sdist) as archive:
        # Early 3.10 and 3.11 have no filters; the documented way to ask for one where there is.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(sdist.parent)
    source = sdist.parent / f"horovod-{HOROVOD}"
    horovod_patches.apply(source, patches)
    return source


def _place(path: Path, content: bytes) -> None:
    """Writes a file so that others see it whole or not at all."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    part.write_bytes(content)
    part.replace(path)


def install(environ: Mapping[str, str], progress: Progress) -> None:
    """Puts the wheel for this environment into it, unless that very wheel is already there."""
    wheel = build(environ, progress)
    if _installed_from() == wheel.as_uri():
        progress.phase(f"Horovod {HOROVOD}: already installed in {sys.prefix}")
        return
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
    # Twice, since --force-reinstall without --no-deps would install what Horovod needs again as well.
    for arguments in (["--force-reinstall", "--no-deps", str(wheel)], [str(wheel)]):
        if subprocess.run([*pip, *arguments], env=dict(environ), stdin=subprocess.DEVNULL).returncode:
            raise EdlError(f"pip could not install {wheel} into {sys.prefix}; its own words stand above")
    progress.phase(f"Horovod {HOROVOD}: installed in {sys.prefix}")


def _installed_from() -> str | None:
    """The URL of the wheel that the installed Horovod came from."""
    try:
        origin = importlib.metadata.distribution("horovod").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return None
    return str(json.loads(origin)["url"]) if origin else None


TRIAL = """
import json
import horovod.tensorflow as hvd
import tensorflow as tf
hvd.init()
total = hvd.allreduce(tf.constant([1.0, 2.0]), op=hvd.Sum).numpy().tolist()
assert total == [1.0, 2.0], total
built = {name: bool(getattr(hvd, name + "_built")()) for name in ("gloo", "nccl", "mpi")}
print(json.dumps({"tensorflow": tf.__version__, "built": built}))
"""


def check(environ: Mapping[str, str]) -> str:
    """Runs a single-process allreduce in a fresh Python; says what was built.

    Raises:
        EdlError: Horovod is missing, does not load or does not reduce.
    """
    alone = {name: value for name, value in environ.items() if not name.startswith("HOROVOD_")}
    command = [sys.executable, "-c", TRIAL]
    try:
        trial = subprocess.run(
            command, env=alone | {"TF_CPP_MIN_LOG_LEVEL": "3"}, capture_output=True, text=True, timeout=300
        )
    except subprocess.TimeoutExpired as error:
        raise EdlError("Horovod did not finish an allreduce with itself within 300 seconds") from error
    if trial.returncode:
        reason = (trial.stderr.strip().splitlines() or [f"exit code {trial.returncode}"])[-1]
        raise EdlError(f"Horovod does not work ({reason}): python -m edl_allreduce.horovod_wheel install")
    report = json.loads(trial.stdout.splitlines()[-1])
    built = ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in report["built"].items())
    return f"Horovod {HOROVOD} works with TensorFlow {report['tensorflow']}: {built}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m edl_allreduce.horovod_wheel",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("command", choices=["build", "install", "check"])
    parser.add_argument("--as_released", action="store_true", help="build: change only what keeps it from compiling")
    arguments = parser.parse_args(argv)
    command = arguments.command
    if arguments.as_released and command != "build":
        parser.error(
            f"--as_released goes with build: workers need Horovod as 'build' without it makes it, not '{command}'"
        )
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        if command == "build":
            print(build(os.environ, Progress(), TO_BUILD if arguments.as_released else PATCHES))
        elif command == "install":
            install(os.environ, Progress())
        else:
            print(check(os.environ))
    except EdlError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; nothing was installed", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
