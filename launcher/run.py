"""Carries a request out, from flags to the job's end; every door of train, evaluate and predict leads here."""

from __future__ import annotations

import dataclasses
import os
import secrets
import signal
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TextIO

from edl_allreduce.errors import UsageError
from edl_allreduce.spec import JobSpec
from launcher import zoo_source
from launcher.check import check
from launcher.display.choice import display_on
from launcher.display.terminal import Silent
from launcher.handle import RUNNING, JobHandle
from launcher.interrupt import Interruption
from launcher.local import jobs, runner
from launcher.local.plan import make_plan
from launcher.settings import KUBERNETES, LaunchSpec, Request, read_request


def run(
    values: Mapping[str, Any], out: TextIO, leave: bool = False, kind: str = "train", keeps: bool = True
) -> JobHandle | None:
    """Runs a job.

    Args:
        values: its flags, each typed or a string.
        out: where progress is shown, and the plan of a dry run.
        kind: train, evaluate or predict.
        leave: with `wait=False`, let the job go on when this process ends.
        keeps: whether its output is for the user, who is then told where it is.

    Returns:
        The job, done; with `wait=False`, at work. None for a dry run.

    Raises:
        EdlError: the request is wrong, or the job failed.
        KeyboardInterrupt: Ctrl-C; the job has been stopped.
        SystemExit: SIGTERM; the job has been stopped.
    """
    request = read_request(values, kind, os.environ)
    launch, now, random = request.launch, datetime.now(), secrets.token_hex(2)
    work = on_backend(request, now, random)
    work.check()
    if launch.dry_run:
        print(work, file=out)
        return None
    signals = (signal.SIGINT,) if work.outlives_launcher else (signal.SIGINT, signal.SIGTERM)
    with Interruption(signals) as interruption, display_on(out, launch.quiet) as display:
        handle = work.start(display, leave and not launch.wait)
        interruption.guard(handle, display.note)
        try:
            _follow(handle, launch, request.job.output.output if keeps else "", display)
        except BaseException:
            if not work.outlives_launcher:
                handle.stop()
            raise
    status = handle.status()
    if status.phase != "done":
        interruption.raise_if_interrupted()
    if launch.wait or status.phase not in RUNNING:
        handle.wait()
    return handle


class Work(Protocol):
    """A request on its way to a job, on one of the backends."""

    outlives_launcher: bool

    def check(self) -> None:
        """Finds what would make the job fail at once."""

    def __str__(self) -> str:
        """Exactly what would be started, and where."""

    def start(self, display: Silent, leave: bool) -> JobHandle:
        """Starts the job; `leave`: it goes on when this process ends."""


def on_backend(request: Request, now: datetime, random: str) -> Work:
    """A request on its backend, which nothing has been asked of yet.

    Args:
        now, random: see `plan.make_plan`.

    Raises:
        UsageError: it lacks what its backend needs.
    """
    named = request.job.model.model_zoo if isinstance(request.job, JobSpec) else ""
    request, zoo = _with_zoo(request, os.environ)
    if request.backend == KUBERNETES:
        from launcher.kubernetes.request import OnKubernetes

        labels = zoo_source.labels(named, zoo, os.environ) if zoo else {}
        return OnKubernetes(request, zoo, labels, now, random)
    return OnThisMachine(request, now, random, os.environ)


def _with_zoo(request: Request, environ: Mapping[str, str]) -> tuple[Request, Path | None]:
    """The request with the model zoo's folder on this machine, and that; None: it is in an image."""
    job = request.job
    if not isinstance(job, JobSpec) or job.model.image:
        return request, None
    zoo = zoo_source.fetch(job.model.model_zoo, environ)
    if zoo_source.parse(job.model.model_zoo) is None:  # a folder keeps the name that the user gave it
        return request, zoo
    model = dataclasses.replace(job.model, model_zoo=str(zoo))
    return dataclasses.replace(request, job=dataclasses.replace(job, model=model)), zoo


class OnThisMachine:
    """One request for a job of this machine; the arguments are those of `plan.make_plan`."""

    outlives_launcher = False

    def __init__(self, request: Request, now: datetime, random: str, environ: Mapping[str, str]) -> None:
        job, self._environ = request.job, environ
        self._plan = make_plan(job, request.launch, now=now, random=random, environ=environ, python=sys.executable)

    def check(self) -> None:
        """Raises what `check.check` raises; UsageError also where another job is writing its result."""
        check(self._plan.job)
        output = self._plan.job.output.output
        if output and (writer := jobs.writer_of(output, self._environ)):
            raise UsageError(
                f"--output: job {writer} is writing to {output}; choose another, or end that job: edl stop {writer}"
            )

    def __str__(self) -> str:
        return str(self._plan)

    def start(self, display: Silent, leave: bool) -> JobHandle:
        """Starts its processes."""
        jobs.clear_up(self._environ)
        return runner.start(self._plan, detach=leave)


def _follow(handle: JobHandle, launch: LaunchSpec, output: str, display: Silent) -> None:
    """Shows the job until it has ended; without `wait`, until it is at work."""
    page = ""
    display.introduce(handle.name)
    for status in handle.watch():
        display.show(status)
        if not page and (page := handle.page):
            display.link(page)
        if not launch.wait and status.phase in RUNNING:
            display.note(f"job {handle.name} goes on in the background; {handle.logs_hint}")
            display.note(f"edl status {handle.words} --watch shows it, edl wait {handle.words} waits for its end")
            display.note(f"edl scale {handle.words} N changes its number of workers, edl stop {handle.words} ends it")
            return
    display.end(handle.status(), output, handle.logs_hint)
