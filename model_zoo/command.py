"""The command line that a model's file with data of its own gets: make the data, evaluate what was trained on it."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Sequence

BATCH_SIZE = 256


def run(name: str, make: Callable[..., str], at_least: float | None = None, argv: Sequence[str] | None = None) -> None:
    """`make FOLDER` and `evaluate OUTPUT FILES…`; ends the process, with exit code 1 when the accuracy is too low.

    Args:
        name: the module's, for the help.
        make: writes the data into a folder and says what it did; its keyword-only parameters become flags.
        at_least: the accuracy that `evaluate` asks for, unless told otherwise; None: there is no `evaluate`.
        argv: the arguments, by default the process's.
    """
    from edl_allreduce.errors import EdlError

    parser = argparse.ArgumentParser(prog=f"python -m model_zoo.{name}", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    about = "write the data as RecordIO into FOLDER/train and FOLDER/test"
    maker = commands.add_parser("make", help=about, description=inspect.getdoc(make), allow_abbrev=False)
    maker.add_argument("folder")
    flags = [each for each in inspect.signature(make).parameters.values() if each.kind is each.KEYWORD_ONLY]
    for flag in flags:
        maker.add_argument(f"--{flag.name}", type=type(flag.default), default=flag.default)
    if at_least is not None:
        evaluator = commands.add_parser(
            "evaluate", help="print the accuracy of a trained model on RecordIO files", allow_abbrev=False
        )
        evaluator.add_argument("output", help="folder or URL of the trained model")
        evaluator.add_argument("files", nargs="+", help="files, patterns or folders of held-out records")
        evaluator.add_argument(
            "--at_least", type=float, default=at_least, help="fail below this accuracy (%(default)s)"
        )
    chosen = parser.parse_args(argv)
    try:
        if chosen.command == "make":
            print(make(chosen.folder, **{flag.name: getattr(chosen, flag.name) for flag in flags}))
            sys.exit(0)
        reached, records = accuracy(chosen.output, chosen.files)
    except EdlError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    enough = reached >= chosen.at_least
    verdict = "" if enough else f", less than the {chosen.at_least:.2%} asked for"
    print(f"accuracy {reached:.2%} on {records} held-out records{verdict}")
    sys.exit(0 if enough else 1)


def accuracy(output: str, files: Sequence[str]) -> tuple[float, int]:
    """The share of records whose label is the model's largest output, and the number of records.

    Args:
        output: folder or URL of a trained model with integer labels.
        files: paths, patterns or folders of RecordIO files.

    Raises:
        EdlError: the model or a file cannot be read.
    """
    import numpy as np

    from edl_allreduce import trained_model
    from model_zoo.data import records_of

    held_out = records_of(files)
    loaded = trained_model.load(output)
    right = records = 0
    for features, labels in loaded.parse(held_out, BATCH_SIZE):
        found = np.argmax(loaded.model(features, training=False), axis=-1)
        right += int(np.sum(found == np.reshape(labels, -1)))
        records += len(found)
    return right / max(records, 1), records
