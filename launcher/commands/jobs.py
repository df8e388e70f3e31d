"""What the commands on jobs do (`edl status JOB` and the like), wherever a job runs. The docstrings are their help."""

from __future__ import annotations

import functools
import inspect
import json as json_text
import sys
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from edl_allreduce.errors import JobFailed, UsageError
from launcher.commands.arguments import boolean, whole_number
from launcher.display.choice import display_on
from launcher.display.progress import ending
from launcher.display.status_json import status_values
from launcher.display.terminal import screens_on
from launcher.handle import JobHandle, JobSummary, how
from launcher.jobs import attach, summaries

if TYPE_CHECKING:
    from edl_allreduce.control.control_pb2 import Status

Find = Callable[[], JobHandle]

JOB_HELP = "JOB             the job's name, or as much of its beginning as tells it from others"
PLACE_HELP = """\
--backend       local or kubernetes (default: $EDL_BACKEND, else this machine, then the cluster)
--namespace     of the cluster (default: the context's)
--kube_context  of the kubeconfig (default: the current one)"""


def on_a_job(function: Callable[..., int | None]) -> Callable[..., int | None]:
    """Makes a command on one job: its first parameter, which finds the job, becomes the job's name and its place.

    JOB_HELP and PLACE_HELP in its docstring become what they stand for.
    """

    @functools.wraps(function)
    def command(
        job: str, *words: str, backend: str = "", namespace: str = "", kube_context: str = "", **flags: Any
    ) -> int | None:
        return function(lambda: attach(job, backend, namespace, kube_context), *words, **flags)

    _, *own = inspect.signature(function).parameters.values()
    name = inspect.Parameter("job", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    place = [
        inspect.Parameter(each, inspect.Parameter.KEYWORD_ONLY, default="")
        for each in ("backend", "namespace", "kube_context")
    ]
    command.__signature__ = inspect.Signature([name, *own, *place])  # type: ignore[attr-defined]
    doc = inspect.getdoc(function) or ""
    command.__doc__ = doc.replace("JOB_HELP", JOB_HELP).replace("PLACE_HELP", PLACE_HELP)
    return command


def jobs(*, json: str | bool = False, backend: str = "", namespace: str = "", kube_context: str = "") -> None:
    """Lists all jobs, the newest first; those that run are marked.

    --json          one line of JSON per job
    --backend       local or kubernetes (default: $EDL_BACKEND, else both, if there is a kubeconfig)
    --namespace     of the cluster (default: the context's)
    --kube_context  of the kubeconfig (default: the current one)

    Example:
      edl jobs
    """
    found, notes = summaries(backend, namespace, kube_context)
    if boolean("json", json):
        for each in found:
            print(json_text.dumps(vars(each)))
    else:
        print("\n".join(_table(found)) if found else "there are no jobs; edl train --help explains how to start one")
    for note in notes:
        print(note, file=sys.stderr)


def _table(found: list[JobSummary]) -> list[str]:
    rows = [("", "job", "kind", "where", "phase", "workers", "began", "")]
    for each in found:
        began = datetime.fromtimestamp(each.began).strftime("%Y-%m-%d %H:%M:%S")
        mark = " " if each.ended else "●"
        rows.append((mark, each.name, each.kind, each.backend, each.phase, str(each.workers), began, each.message))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


@on_a_job
def status(find: Find, *, watch: str | bool = False, json: str | bool = False) -> None:
    """Tells all about a job on one screen: progress, workers, rounds, evaluations, checkpoint; also about an ended one.

    JOB_HELP
    --watch         show it anew whenever something has changed, until the job has ended
    --json          the Status message (edl_allreduce/control/control.proto) as JSON; with --watch one line per change
    PLACE_HELP

    Examples:
      edl status digits-20261122-153012-a1b2 --watch
      edl status digits --json | jq .position.step
    """
    again, as_json = boolean("watch", watch), boolean("json", json)
    handle = find()
    if as_json:
        for each in handle.watch() if again else [handle.status()]:
            print(_status_json(each, None if again else 1), flush=True)
        return
    with screens_on(sys.stdout, handle.name, live=again) as show:
        for each in handle.watch() if again else [handle.status()]:
            show(each)


def _status_json(status: Status, indent: int | None) -> str:
    return json_text.dumps(status_values(status), indent=indent)


@on_a_job
def logs(find: Find, *, worker: str | int = "", follow: str | bool = False) -> None:
    """Prints a log of a job: the coordinator's, or a worker's. Also of a job that has ended.

    JOB_HELP
    --worker        the worker's id, as edl status tells it
    -f, --follow    go on with what is written, until the process has ended
    PLACE_HELP

    Example:
      edl logs digits-20261122-153012-a1b2 --worker=1 -f
    """
    id, onward = whole_number("worker", worker) if worker != "" else None, boolean("follow", follow)
    for line in find().logs(id, onward):
        print(line, flush=onward)


@on_a_job
def events(find: Find, *, follow: str | bool = False, steps: str | bool = False, json: str | bool = False) -> None:
    """Tells what has happened to a job: rounds and why they began, pauses, checkpoints, evaluations, epochs, restarts.

    JOB_HELP
    -f, --follow    go on with what happens, until the job has ended
    --steps         every step as well, and every task of an evaluation or a prediction
    --json          the lines of the job's history as they are (rendezvous/telemetry.py explains them)
    PLACE_HELP

    Example:
      edl events digits-20261122-153012-a1b2 -f
    """
    from launcher.display.event_lines import Narrator

    onward, all_steps, as_json = boolean("follow", follow), boolean("steps", steps), boolean("json", json)
    tell, handle = json_text.dumps if as_json else Narrator().tell, find()
    for line in handle.events(onward, all_steps):
        print(tell(line), flush=onward)
    if onward and not as_json and handle.exit_code is not None:
        print(f"{'':19}  the job has ended: {how(handle.status())}")


@on_a_job
def scale(find: Find, num_workers: str) -> None:
    """Changes how many workers a running job keeps alive.

    JOB_HELP
    NUM_WORKERS     how many workers from now on, 1 or more
    PLACE_HELP

    New workers prepare themselves completely before the others let them in; those that are too many finish their
    step and leave. Training pauses for a moment at most. With a global --batch_size the result does not change.

    Example:
      edl scale digits-20261122-153012-a1b2 4
    """
    try:
        wanted = int(num_workers)
    except ValueError:
        wanted = 0
    if wanted < 1:
        raise UsageError(f"NUM_WORKERS: expected a whole number, greater than 0, got {num_workers!r}")
    handle = find()
    before = handle.scale(wanted)
    print(f"{handle.name} keeps {wanted} worker{'' if wanted == 1 else 's'} now ({before} before)")


@on_a_job
def stop(find: Find) -> None:
    """Ends a running job. It saves a checkpoint, and writes no trained model.

    JOB_HELP
    PLACE_HELP

    `edl train` with the same output goes on from the checkpoint.

    Example:
      edl stop digits-20261122-153012-a1b2
    """
    handle = find()
    if handle.exit_code is not None:
        raise _has_ended(handle)
    handle.stop()
    status = handle.status()
    lines = ending(status, handle.output or "its output", handle.logs_hint) or [status.phase]
    print(handle.name, "\n".join(lines))


@on_a_job
def wait(find: Find, *, quiet: str | bool = False) -> int:
    """Waits for a job's end and shows its progress. The exit code is the job's. Ctrl-C leaves the job to itself.

    JOB_HELP
    --quiet         show no progress
    PLACE_HELP

    Exit codes: 0 its result is there; 2 a flag was wrong; 3 storage, 4 data, 5 the model failed; 6 the job failed or
    was stopped.

    Example:
      edl wait digits-20261122-153012-a1b2 && edl predict --trained_model=out/digits …
    """
    silent, handle = boolean("quiet", quiet), find()
    try:
        with display_on(sys.stdout, silent) as display:
            display.join(handle.status())
            for each in handle.watch():
                display.show(each)
            display.end(handle.status(), handle.output or "its output", handle.logs_hint)
    except KeyboardInterrupt:
        if handle.exit_code is None:
            print(f"{handle.name} goes on; edl wait {handle.words} waits again, edl stop {handle.words} ends it")
        return 130
    handle.wait()
    return 0


def _has_ended(handle: JobHandle) -> JobFailed:
    return JobFailed(f"job {handle.name} has ended: {how(handle.status())}")
