"""The command line `edl`: turns every error into one line and an exit code."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

INTERRUPTED, BROKEN_PIPE = 128 + 2, 128 + 13
OURS = ("edl_allreduce", "launcher", "rendezvous", "model_zoo")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the process's exit code."""
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has enough of it
        _drop_output()
        return BROKEN_PIPE


def _run(words: list[str]) -> int:
    """Loads everything else only here, so that Ctrl-C in the meantime is no traceback either."""
    from edl_allreduce.errors import EdlError, StorageError
    from edl_allreduce.extras import not_installed

    try:
        from launcher.commands.dispatch import run

        code = run(words)
        sys.stdout.flush()
        return code
    except ModuleNotFoundError as error:  # a checkout that nobody has installed
        if not error.name or error.name.partition(".")[0] in OURS:
            raise
        missing = not_installed("edl_allreduce", error.name, _ourselves())
        print(f"error: {missing}", file=sys.stderr)
        return missing.exit_code
    except EdlError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        raise
    except OSError as error:  # such as a disk that is full, where our output goes
        print(f"error: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}", file=sys.stderr)
        _drop_output()
        return StorageError.exit_code


def _ourselves() -> str:
    """What pip is asked for to install this very edl_allreduce."""
    root = Path(__file__).resolve().parent.parent
    return f"-e {shlex.quote(str(root))}" if (root / "setup.py").exists() else "edl_allreduce"


def _drop_output() -> None:
    """Spares Python's flush at exit what cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
