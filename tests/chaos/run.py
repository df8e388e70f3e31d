"""One start of the command under the storm: its processes and files, read while it runs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from edl_allreduce.job_folder import JobFolder
from edl_allreduce.processes import Process, command_line, runs
from tests.jobs import REPOSITORY

AUDIT_TAIL = 1 << 14  # bytes; more than two lines


class Lines:
    """A growing file of JSON lines, or of text."""

    def __init__(self, path: Path, parse: Callable[[str], Any] = json.loads) -> None:
        self._path, self._parse, self._offset, self._rest = path, parse, 0, b""
        self.all: list[Any] = []

    def read(self) -> list[Any]:
        """What is new."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                fresh = file.read()
        except FileNotFoundError:
            return []
        self._offset += len(fresh)
        *whole, self._rest = (self._rest + fresh).split(b"\n")
        new = []
        for line in whole:
            with contextlib.suppress(ValueError):  # its writer was killed over it
                new.append(self._parse(line.decode()))
        self.all += new
        return new


def first_step(history: Iterable[Mapping[str, Any]]) -> int:
    """With which step a run began; the first lines may tell what was passed over before."""
    return int(next(line["first_step"] for line in history if "cause" in line))


def reached(history: Sequence[Mapping[str, Any]]) -> int:
    """The last step of the newest round; earlier ones may have got further, and been lost with all their members."""
    begun = max(number for number, line in enumerate(history) if "cause" in line)
    steps = [line["step"] for line in history[begun:] if "loss" in line]
    return int(max(steps, default=history[begun]["first_step"] - 1))


class Run:
    """`edl train …`, started once.

    Args:
        home: a state folder for this start alone.
        flags: of `train`.
        environ: further variables.
    Attributes:
        step: the newest that the coordinator has heard of.
        members: of the newest round; the first is rank 0.
        rounds, restarts: how many there have been; restarts of the coordinator.
        round_steps: how many steps of the newest round have been told.
        exporting: the worker that was last asked to write the trained model.
    """

    def __init__(self, home: Path, flags: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        self.home = home
        self.step = self.rounds = self.round_steps = self.restarts = self._first_step = 0
        self.members: list[int] = []
        self.exporting: int | None = None
        home.mkdir(parents=True)
        self._environ = os.environ | {"EDL_HOME": str(home)} | dict(environ)
        arguments = [f"--{name}={value}" for name, value in flags.items()]
        with (home / "output.txt").open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edl_allreduce.launch", "train", *arguments],
                cwd=REPOSITORY,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @cached_property
    def files(self) -> JobFolder:
        """The job's; waits for the folder, which the command makes first."""
        end = time.monotonic() + 60
        while not (found := list(self.home.glob("jobs/*/logs"))):
            assert self.process.poll() is None and time.monotonic() < end, f"no job began: {self.text}"
            time.sleep(0.01)  # another process's files: there is no event to await
        return JobFolder(found[0].parent)

    @cached_property
    def history(self) -> Lines:
        return Lines(self.files.history)

    @cached_property
    def _log(self) -> Lines:
        return Lines(self.files.coordinator_log, str)

    @property
    def text(self) -> str:
        """What the command has printed."""
        return (self.home / "output.txt").read_text(errors="replace")

    def look(self) -> None:
        """Reads what is new."""
        for line in self.history.read():
            if "loss" in line:
                self.step = line["step"]
                self.round_steps += line["step"] >= self._first_step  # else of an earlier round, told late
            elif "cause" in line:
                self.members, self.rounds = line["members"], self.rounds + 1
                self._first_step, self.round_steps = line["first_step"], 0
            elif "restart" in line:
                self.restarts += 1
        for text in self._log.read():
            if found := re.search(r"AskToExport\(id=(\d+)\)", text):
                self.exporting = int(found[1])

    def workers(self) -> dict[int, int]:
        """The process of every living worker, by id."""
        try:
            known = json.loads(self.files.workers.read_text())["workers"]
        except FileNotFoundError:
            return {}
        return {int(id): each["pid"] for id, each in known.items() if each and runs(Process(**each))}

    def living_members(self) -> dict[int, int]:
        """Process by id of the newest round's members that still live; in the order of their ranks."""
        workers = self.workers()
        return {id: workers[id] for id in self.members if id in workers}

    def supervisor(self) -> Process | None:
        """Its process, while it runs."""
        with contextlib.suppress(FileNotFoundError):
            supervisor = Process(**json.loads(self.files.supervisor.read_text()))
            return supervisor if runs(supervisor) else None
        return None

    def coordinator(self) -> int | None:
        """Its process, if there is one just now."""
        supervisor = self.supervisor()
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(supervisor.pid).children() if supervisor else []
            return next((child.pid for child in children if "rendezvous" in command_line(child.pid)), None)
        return None

    def begun_step(self) -> int:
        """The newest step that the newest round's rank 0 has begun; 0: none."""
        if not self.members:
            return 0
        path = self.files.audit / f"worker-{self.members[0]}.jsonl"
        with contextlib.suppress(FileNotFoundError, ValueError), path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - AUDIT_TAIL))
            text = file.read()
            return max((int(found) for found in re.findall(rb'"step": (\d+)', text)), default=0)
        return 0

    def writes_checkpoint(self, output: Path) -> bool:
        """Whether a checkpoint in the output is not complete yet."""
        try:
            newest = max((output / "checkpoints").iterdir(), key=lambda path: path.name)
            return not (newest / "checkpoint.json").exists()
        except (FileNotFoundError, ValueError):
            return False

    def edl(self, *words: str, patience: float = 60.0) -> str:
        """`edl …` as somebody else on this machine would call it; what it prints."""
        command = [sys.executable, "-m", "edl_allreduce.launch", *words]
        ended = subprocess.run(
            command, cwd=REPOSITORY, env=self._environ, capture_output=True, text=True, timeout=patience
        )
        return (ended.stdout + ended.stderr).strip()

    def kill_everything(self) -> None:
        """SIGKILL to the launcher and to all of the job's processes."""
        self.process.kill()
        if supervisor := self.supervisor():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(supervisor.pid, signal.SIGKILL)
        self.process.wait()


def alive(pid: int) -> bool:
    """Whether a process has not ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def send(pid: int, number: int) -> None:
    """A signal, if the process is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
