"""Names everything a Horovod wheel depends on, so that a wheel is built once and never used where it does not fit."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence

from edl_allreduce.errors import EdlError
from edl_allreduce.horovod_patch import Patch
from edl_allreduce.horovod_patches import PATCHES

HOROVOD = "0.28.1"
SDIST_SHA256 = "92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"
DEFAULTS = {
    "HOROVOD_WITH_TENSORFLOW": "1",
    "HOROVOD_WITH_GLOO": "1",
    "HOROVOD_WITHOUT_MPI": "1",
    "HOROVOD_WITHOUT_PYTORCH": "1",
    "HOROVOD_WITHOUT_MXNET": "1",
}
# The variables that Horovod's setup.py and CMake files read while it is built, and those every CMake build reads.
BUILD_VARIABLE = re.compile(
    r"HOROVOD_(WITH(OUT)?_\w+|GPU(_\w+)?|(CUDA|ROCM|NCCL|NVTX|BUILD)_\w+|CPU_OPERATIONS|ALLOW_MIXED_GPU_IMPL"
    r"|CMAKE|DEBUG|LOCAL_VERSION|SKIP_COMPILE)|CC|CXX|CFLAGS|CXXFLAGS|LDFLAGS|CCL_ROOT|CCL_CONFIGURATION"
)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything a wheel depends on: two builds with equal recipes give interchangeable wheels."""

    horovod: str
    sdist: str
    patches: str
    tensorflow: str
    python: str
    platform: str
    compiler: str
    cuda: str
    variables: Mapping[str, str]

    def key(self) -> str:
        """The name of the recipe's folder in the cache."""
        return hashlib.sha256(self.as_json().encode()).hexdigest()[:16]

    def as_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)


def build_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The build's settings: ours, each giving way to the user's setting of the same thing or of its contrary."""
    given = {name: value for name, value in environ.items() if BUILD_VARIABLE.fullmatch(name)}

    def contrary(name: str) -> str:
        return name.replace("_WITHOUT_", "_WITH_") if "_WITHOUT_" in name else name.replace("_WITH_", "_WITHOUT_")

    return {name: value for name, value in DEFAULTS.items() if contrary(name) not in given} | given


def find_recipe(environ: Mapping[str, str], patches: Sequence[Patch] = PATCHES) -> Recipe:
    """The recipe for this Python, its TensorFlow and this machine's compiler.

    Raises:
        EdlError: one of them is missing; the text has the command that installs it.
    """
    return Recipe(
        horovod=HOROVOD,
        sdist=SDIST_SHA256,
        patches=patches_digest(patches),
        tensorflow=_tensorflow(),
        python=str(sysconfig.get_config_var("SOABI")),
        platform=f"{sysconfig.get_platform()} {' '.join(platform.libc_ver())}",
        compiler=_compiler(environ),
        cuda=_cuda(environ),
        variables=build_variables(environ),
    )


def patches_digest(patches: Sequence[Patch] = PATCHES) -> str:
    """A hash of all that is changed in Horovod's source."""
    changes = json.dumps([[patch.file, patch.old, patch.new] for patch in patches])
    return hashlib.sha256(changes.encode()).hexdigest()


def _tensorflow() -> str:
    """The installed TensorFlow: the name of its package (which tells CPU from GPU builds) and its version."""
    names = sorted(set(importlib.metadata.packages_distributions().get("tensorflow", ())))
    if not names:
        raise EdlError(f"TensorFlow is not installed in {sys.prefix}: pip install 'edl_allreduce[worker]'")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def _compiler(environ: Mapping[str, str]) -> str:
    """The version line of the C++ compiler that CMake will take, after checking that the tools to build with exist."""
    wanted = shlex.split(environ["CXX"])[:1] if environ.get("CXX") else ["c++", "g++", "clang++"]
    found = next((path for name in wanted if (path := shutil.which(name))), None)
    lacking = [] if found else [(f"a C++ compiler ({wanted[0]})", "g++")]
    lacking += [] if shutil.which("make") else [("make", "make")]
    if found is None or lacking:
        what = " and ".join(name for name, _ in lacking)
        packages = " ".join(package for _, package in lacking)
        who = "" if os.geteuid() == 0 else "as root, "
        raise EdlError(f"building Horovod needs {what}: {who}apt-get update && apt-get install -y {packages}")
    return _version(found).splitlines()[0]


def _cuda(environ: Mapping[str, str]) -> str:
    """The last line in which the CUDA compiler tells its version, where the build is one for GPUs that has it."""
    if not any(name.startswith("HOROVOD_GPU") for name in environ):
        return ""
    folder = environ.get("HOROVOD_CUDA_HOME")
    nvcc = shutil.which("nvcc", path=os.path.join(folder, "bin") if folder else environ.get("PATH"))
    return _version(nvcc).splitlines()[-1] if nvcc else ""


def _version(tool: str) -> str:
    return subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout
