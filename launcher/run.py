"""Carries a request out, from flags to the job's end; every door of train, evaluate and predict leads here."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TextIO

from launcher import local
from launcher.check import check
from launcher.display import Silent, display_on
from launcher.handle import RUNNING, JobHandle
from launcher.interrupt import Interruption
from launcher.plan import Plan, make_plan
from launcher.settings import LaunchSpec, read_request


def run(values: Mapping[str, Any], out: TextIO, leave: bool = False, kind: str = "train") -> JobHandle | None:
    """Runs a job.

    Args:
        values: its flags, each typed or a string.
        out: where progress is shown, and the plan of a dry run.
        kind: train, evaluate or predict.
        leave: with `wait=False`, let the job go on when this process ends.

    Returns:
        The job, done; with `wait=False`, at work. None for a dry run.

    Raises:
        EdlError: the request is wrong, or the job failed.
        KeyboardInterrupt: Ctrl-C; the job has been stopped.
        SystemExit: SIGTERM; the job has been stopped.
    """
    job, launch = read_request(values, kind)
    now, random = datetime.now(), secrets.token_hex(2)
    plan = make_plan(job, launch, now=now, random=random, environ=os.environ, python=sys.executable)
    if launch.dry_run:
        print(plan, file=out)
    check(job)
    if launch.dry_run:
        return None
    with Interruption() as interruption, display_on(out, launch.quiet) as display:
        handle = local.start(plan, detach=leave and not launch.wait)
        interruption.guard(handle, display.note)
        try:
            _follow(handle, launch, plan, display)
        except BaseException:
            handle.stop()
            raise
    status = handle.status()
    if status.phase != "done":
        interruption.raise_if_interrupted()
    if launch.wait or status.phase not in RUNNING:
        handle.wait()
    return handle


def _follow(handle: local.LocalJob, launch: LaunchSpec, plan: Plan, display: Silent) -> None:
    """Shows the job until it has ended; without `wait`, until it is at work."""
    for status in handle.watch():
        display.show(status)
        if not launch.wait and status.phase in RUNNING:
            display.note(f"job {handle.name} goes on in the background; {handle.logs_hint}")
            display.note(f"edl scale {handle.name} N changes its number of workers, edl stop {handle.name} ends it")
            return
    display.end(handle.status(), plan.job.output.output, handle.logs_hint)
