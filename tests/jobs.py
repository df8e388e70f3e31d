"""Runs real jobs on this machine for the tests, and reads back what they did."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from edl_allreduce.worker.audit import consumed

BATCH, EPOCHS = 64, 15
REPOSITORY = Path(__file__).resolve().parent.parent
PATIENCE_SECONDS = 150.0


@dataclass
class Run:
    """A finished job.

    Attributes:
        code: exit code of the command.
        text: what it printed, standard output and error together.
        folder: the job's folder.
    """

    code: int
    text: str
    folder: Path
    lines: list[dict[str, Any]] = field(default_factory=list)

    @property
    def losses(self) -> dict[int, float]:
        """Step → mean loss of the step's records, as history has it last."""
        return {line["step"]: line["loss"] for line in self.lines if "loss" in line}

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """Every round: number, members, cause, first step."""
        return [line for line in self.lines if "cause" in line]

    @property
    def pauses(self) -> list[float]:
        """Seconds nobody was stepping, of every round that has survivors."""
        return [line["paused_seconds"] for line in self.lines if "paused_seconds" in line]


class Job:
    """`edl train …`, or another command, as a child process, in a state folder of its own."""

    def __init__(
        self,
        home: Path,
        flags: Mapping[str, Any],
        environ: Mapping[str, str] | None = None,
        command: str = "train",
    ) -> None:
        self.home = home
        line = [
            sys.executable,
            "-m",
            "edl_allreduce.launch",
            command,
            *(f"--{name}={value}" for name, value in flags.items()),
        ]
        self.process = subprocess.Popen(
            line,
            cwd=REPOSITORY,
            env=os.environ | {"EDL_HOME": str(home)} | dict(environ or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @property
    def folder(self) -> Path:
        [folder] = (self.home / "jobs").iterdir()
        return folder

    def history(self) -> list[dict[str, Any]]:
        """The lines written so far."""
        found = list(self.home.glob("jobs/*/history.jsonl"))
        text = found[0].read_text() if found else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def steps(self) -> int:
        """The newest step that the coordinator has heard of."""
        return max((line["step"] for line in self.history() if "loss" in line), default=0)

    def workers(self) -> dict[int, psutil.Process]:
        """Living worker processes by id."""
        found = {}
        for process in psutil.process_iter(["cmdline"]):
            line = process.info["cmdline"] or []
            if "edl_allreduce.worker" in line and f"EDL_TOKEN_FILE={self.home}" in _environ(process):
                [number] = [each.partition("=")[2] for each in line if each.startswith("--worker_id=")]
                found[int(number)] = process
        return found

    def until(self, ready: Callable[[], Any], what: str) -> Any:
        """Waits for something that only the outside of a job can tell, looking every 10 ms."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not (result := ready()):
            assert self.process.poll() is None, f"the job ended before {what}:\n{self._rest()}"
            assert time.monotonic() < end, f"{what} did not come"
            time.sleep(0.01)  # another process's files: there is no event to await
        return result

    def reaches_step(self, step: int) -> None:
        """Waits until the coordinator has heard of that step."""
        self.until(lambda: self.steps() >= step, f"step {step}")

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def finish(self, patience: float = PATIENCE_SECONDS) -> Run:
        """Waits for the end, at most `patience` seconds; the text is what the command printed."""
        text = self._rest(patience)
        lines = self.history()
        return Run(self.process.returncode, text, next(iter((self.home / "jobs").glob("*")), self.home), lines)

    def _rest(self, patience: float = PATIENCE_SECONDS) -> str:
        try:
            return self.process.communicate(timeout=patience)[0]
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise


def digits_job(home: Path, digits: Path, **flags: Any) -> Job:
    """`edl train` on the digits in this folder, its output in `home/output`."""
    defaults = {
        "model_zoo": "model_zoo",
        "model_def": "digits.Classifier",
        "data": f"{digits}/train/*.recordio",
        "output": home / "output",
        "num_epochs": EPOCHS,
        "batch_size": BATCH,
        "audit": True,
    }
    return Job(home, defaults | flags)


def _environ(process: psutil.Process) -> str:
    try:
        return "\n".join(f"{name}={value}" for name, value in process.environ().items())
    except psutil.Error:
        return ""


def coordinator_of(job: Job) -> psutil.Process | None:
    """The job's coordinator, if one runs."""
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "rendezvous" in line and any(str(job.home) in word for word in line):
            return process
    return None


def left_over(home: Path) -> list[str]:
    """Command lines of processes that still belong to jobs of this home."""
    lines = [(" ".join(each.info["cmdline"] or []), _environ(each)) for each in psutil.process_iter(["cmdline"])]
    return [line for line, environ in lines if str(home) in line or f"EDL_TOKEN_FILE={home}" in environ]


Train = Callable[..., Job]


@dataclass(frozen=True)
class Hold:
    """Entered: a job takes its time, while it waits for what needs the cores more; for jobs with these `flags`.

    Attributes:
        file: is there while it is entered.
    """

    file: Path

    @property
    def flags(self) -> dict[str, str]:
        """The digits' model, but for its pace."""
        return {"model_zoo": "tests/zoo", "model_def": "troubled.Held", "params": f"held_by={str(self.file)!r}"}

    def __enter__(self) -> None:
        self.file.touch()

    def __exit__(self, *_: object) -> None:
        self.file.unlink()


def weights(run: Run) -> dict[str, np.ndarray]:
    """The parameters of the trained model in the folder `output` of the job's home."""
    from safetensors.numpy import load_file

    return load_file(next((run.folder.parent.parent / "output").glob("*.safetensors")))


def assert_each_record_once(run: Run, records: int, epochs: int) -> None:
    """The audit of this run proves that every epoch consumed every record exactly once."""
    by_epoch = consumed(run.folder / "audit")
    assert sorted(by_epoch) == list(range(epochs))
    for steps in by_epoch.values():
        everything = [record for step in steps.values() for record in step]
        assert len(everything) == records and len(set(everything)) == records


def assert_done(run: Run) -> None:
    """The job has its result, and no process is left."""
    assert run.code == 0, run.text
    assert left_over(run.folder.parent.parent) == []
