"""Describes the machine and the software that the figures were measured with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("edl_allreduce", "horovod", "tensorflow", "tensorflow-cpu", "keras", "numpy", "grpcio")


def describe() -> dict[str, Any]:
    """Cores, model of the CPU, memory, load now, kernel."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "load_at_start": [round(each, 2) for each in os.getloadavg()],
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Of the installed packages that matter."""
    return {name: version(name) for name in PACKAGES if any(distributions(name=name))}


def sentence(machine: dict[str, Any]) -> str:
    """The machine in one line."""
    return (
        f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gb']} GB, {machine['kernel']}, "
        f"load at start {machine['load_at_start'][0]}"
    )


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
