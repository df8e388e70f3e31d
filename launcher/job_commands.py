"""What `edl scale` and `edl stop` do. The docstrings are their help texts."""

from __future__ import annotations

from edl_allreduce.errors import UsageError
from launcher.jobs import attach
from launcher.progress import ending


def scale(job: str, num_workers: str) -> None:
    """Changes how many workers a running job of this machine keeps alive.

    JOB          the job's name, or as much of its beginning as tells it from other running jobs
    NUM_WORKERS  how many workers from now on, 1 or more

    New workers prepare themselves completely before the others let them in; those that are too many finish their
    step and leave. Training pauses for a moment at most. With a global --batch_size the result does not change.

    Example:
      edl scale digits-20261122-153012-a1b2 4
    """
    try:
        number = int(num_workers)
    except ValueError:
        number = 0
    if number < 1:
        raise UsageError(f"NUM_WORKERS: expected a whole number, greater than 0, got {num_workers!r}")
    handle = attach(job)
    before = handle.scale(number)
    print(f"{handle.name} keeps {number} worker{'' if number == 1 else 's'} now ({before} before)")


def stop(job: str) -> None:
    """Ends a running job of this machine. It saves a checkpoint, and writes no trained model.

    JOB  the job's name, or as much of its beginning as tells it from other running jobs

    `edl train` with the same output goes on from the checkpoint.

    Example:
      edl stop digits-20261122-153012-a1b2
    """
    handle = attach(job)
    handle.stop()
    status = handle.status()
    lines = ending(status, "its output", handle.logs_hint) or [status.phase]
    print(handle.name, "\n".join(lines))
