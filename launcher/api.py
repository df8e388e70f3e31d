"""The Python door: `train`, whose signature and help are made of the same definitions as the command line's."""

from __future__ import annotations

import inspect
import sys
import textwrap
from typing import Any

from edl_allreduce.flags import Flag
from launcher.handle import JobHandle
from launcher.help import default_of
from launcher.run import run
from launcher.settings import TRAIN_FLAGS


def train(**flags: Any) -> JobHandle | None:
    return run(flags, sys.stdout)


def _parameter(flag: Flag) -> inspect.Parameter:
    return inspect.Parameter(
        flag.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if flag.required else flag.default,
        annotation=flag.type | None if flag.optional else flag.type,
    )


def _documentation() -> str:
    lines = [
        "Trains a Keras model on RecordIO data with any number of workers.",
        "",
        "Every argument may also be given as a string; `params` also as a dict. Shows progress on standard output.",
        "",
        "Args:",
    ]
    for flag in TRAIN_FLAGS:
        told = f"{flag.name}: {flag.help}" + (f" ({default_of(flag)})" if default_of(flag) else "") + "."
        lines += textwrap.wrap(told, 112, initial_indent="    ", subsequent_indent="        ")
    lines += [
        "",
        "Returns:",
        "    A JobHandle (name, folder, logs_folder, status(), watch(), wait(), scale(), stop(), exit_code) of the",
        "    trained model's job. With wait=False, of one that is training now; it ends with this Python process.",
        "    None with dry_run=True.",
        "",
        "Raises:",
        "    UsageError: an argument is unknown, missing or wrong; nothing has been started.",
        "    EdlError: the job failed: ModelError, DataError, StorageError or JobFailed.",
    ]
    return "\n".join(lines)


train.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [_parameter(flag) for flag in TRAIN_FLAGS], return_annotation=JobHandle | None
)
train.__doc__ = _documentation()
