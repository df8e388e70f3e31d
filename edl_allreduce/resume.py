"""Decides whether a training goes on from a checkpoint, so that nobody trains on from somebody else's by accident."""

from __future__ import annotations

from edl_allreduce import checkpoint
from edl_allreduce.checkpoint import Checkpoint
from edl_allreduce.errors import UsageError
from edl_allreduce.spec import JobSpec

CHOICES = (
    "--resume=must goes on from it all the same, --resume=never removes it and starts anew, or choose another output"
)


def checkpoint_to_resume(spec: JobSpec, newest: Checkpoint | None) -> Checkpoint | None:
    """The checkpoint from which a new job goes on; None when it starts anew.

    Args:
        newest: the newest complete one in the job's output, if any.

    Raises:
        UsageError: there is none although there must be, or it is another training's.
    """
    output, resume = spec.output.output, spec.output.resume
    if newest is None:
        if resume == "must":
            raise UsageError(f"--resume=must: there is no complete checkpoint in {output}; --resume=auto starts anew")
        return None
    differing = checkpoint.differences(newest.origin.spec, spec)
    if differing and resume == "auto":
        raise UsageError(f"--output: {newest.url} is of another training ({'; '.join(differing)}): {CHOICES}")
    return newest


def check_data(found: str, newest: Checkpoint) -> None:
    """Refuses data that is not what a checkpoint was trained on: its position would mean other records.

    Args:
        found: the fingerprint of the data as it is now.

    Raises:
        UsageError: it differs.
    """
    if found != newest.origin.fingerprint:
        raise UsageError(
            f"--data: the files are not those of {newest.url}: files were added, removed or written anew since; "
            "--resume=never removes it and starts anew, or choose another output"
        )
