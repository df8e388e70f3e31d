"""Tells processes of this machine apart for good: a number alone is given to another process later (Linux, proc(5))."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A process that runs, or has run.

    Attributes:
        pid: its number.
        birth: when it was started: this system's boot, and clock ticks since then.
    """

    pid: int
    birth: str


@dataclass(frozen=True)
class Kinship:
    """What a process has from others.

    Attributes:
        zombie: it has ended, and its parent has not asked how.
    """

    parent: int
    group: int
    zombie: bool


def process_of(pid: int) -> Process | None:
    """The process that has this number now."""
    fields = _stat(pid)
    return Process(pid, f"{_boot()}/{fields[19]}") if fields else None


def kinship_of(pid: int) -> Kinship | None:
    """Parent and process group of the process that has this number now."""
    fields = _stat(pid)
    return Kinship(int(fields[1]), int(fields[2]), fields[0] == "Z") if fields else None


def runs(process: Process) -> bool:
    """Whether a process has not ended yet."""
    kinship = kinship_of(process.pid)
    return kinship is not None and not kinship.zombie and process_of(process.pid) == process


def open_process(process: Process) -> int | None:
    """A descriptor that stands for this very process (see pidfd_open(2)): readable once it has ended, good for signals.

    Returns:
        None when the process is no more, whoever may have its number now.

    Raises:
        OSError: the system has no descriptors left, or knows no such descriptors.
    """
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    if process_of(process.pid) == process:
        return descriptor
    os.close(descriptor)
    return None


def pids() -> Iterator[int]:
    """The numbers of all processes."""
    return (int(name) for name in os.listdir(PROC) if name.isdecimal())


def command_line(pid: int) -> list[str]:
    """The words of a process's command; none when it is no more."""
    return _words(pid, "cmdline")


def environment(pid: int) -> dict[str, str]:
    """The variables that a process was started with; none when it is no more, or somebody else's."""
    return {name: value for name, _, value in (word.partition("=") for word in _words(pid, "environ"))}


def describe_exit(code: int) -> str:
    """How a process ended, from its return code; -N means by signal N."""
    return f"exit code {code}" if code >= 0 else f"killed by {signal_name(-code)}"


def signal_name(number: int) -> str:
    """SIGTERM and the like; real-time signals have numbers only."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; the name before them may hold anything, also brackets."""
    try:
        return (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _words(pid: int, file: str) -> list[str]:
    try:
        text = (PROC / str(pid) / file).read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []
    return text.rstrip("\0").split("\0") if text else []


def _boot() -> str:
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # some sandboxes have none; a pid and its time of birth rarely meet again
        return ""
