"""The Python door: `train`, `evaluate` and `predict`, made of the same definitions as the command line's."""

from __future__ import annotations

import inspect
import sys
import textwrap
from typing import Any

from edl_allreduce.flags import Flag
from launcher.commands.help import default_of
from launcher.handle import JobHandle
from launcher.run import run
from launcher.settings import flags_for


def train(**flags: Any) -> JobHandle | None:
    return run(flags, sys.stdout)


def evaluate(**flags: Any) -> JobHandle | None:
    return run(flags, sys.stdout, kind="evaluate")


def predict(**flags: Any) -> JobHandle | None:
    return run(flags, sys.stdout, kind="predict")


_DOES = {
    "train": ("Trains a Keras model on RecordIO data with any number of workers.", "`params` also as a dict."),
    "evaluate": ("Tells loss and metrics of a trained model on other data.", "The handle's `figures` are the result."),
    "predict": ("Writes the predictions of a trained model, in the order of the records.", "One file per task."),
}


def _parameter(flag: Flag) -> inspect.Parameter:
    return inspect.Parameter(
        flag.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if flag.required else flag.default,
        annotation=flag.type | None if flag.optional else flag.type,
    )


def _documentation(kind: str) -> str:
    what, besides = _DOES[kind]
    lines = [
        what,
        "",
        f"Every argument may also be given as a string. {besides} Shows progress on standard output.",
        "",
        "Args:",
    ]
    for flag in flags_for(kind):
        told = f"{flag.name}: {flag.help}" + (f" ({default_of(flag)})" if default_of(flag) else "") + "."
        lines += textwrap.wrap(told, 112, initial_indent="    ", subsequent_indent="        ")
    lines += [
        "",
        "Returns:",
        "    A JobHandle (name, status(), figures, watch(), events(), logs(), wait(), scale(), stop(), exit_code, …)",
        "    of the job, which is done. With wait=False, of one that is at work now; it ends with this Python process.",
        "    None with dry_run=True.",
        "",
        "Raises:",
        "    UsageError: an argument is unknown, missing or wrong; nothing has been started.",
        "    EdlError: the job failed: ModelError, DataError, StorageError or JobFailed.",
    ]
    return "\n".join(lines)


for _function in (train, evaluate, predict):
    _function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [_parameter(flag) for flag in flags_for(_function.__name__)], return_annotation=JobHandle | None
    )
    _function.__doc__ = _documentation(_function.__name__)
