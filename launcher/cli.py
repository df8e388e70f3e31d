"""The command line `edl`: turns every error into one line and an exit code."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

UNUSABLE, INTERRUPTED, BROKEN_PIPE = 2, 128 + 2, 128 + 13


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the process's exit code."""
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has enough of it
        _drop_output()
        return BROKEN_PIPE
    except ModuleNotFoundError as error:  # a checkout that nobody has installed
        print(f"error: edl_allreduce needs {error.name}, not installed in {sys.prefix}: {_install()}", file=sys.stderr)
        return UNUSABLE


def _run(words: list[str]) -> int:
    """Loads everything else only here, so that Ctrl-C in the meantime is no traceback either."""
    from edl_allreduce.errors import EdlError, StorageError
    from launcher.commands.dispatch import run

    try:
        code = run(words)
        sys.stdout.flush()
        return code
    except EdlError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        raise
    except OSError as error:  # such as a disk that is full, where our output goes
        print(f"error: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}", file=sys.stderr)
        _drop_output()
        return StorageError.exit_code


def _install() -> str:
    root = Path(__file__).resolve().parent.parent
    what = f"-e {shlex.quote(str(root))}" if (root / "setup.py").exists() else "edl_allreduce"
    return f"{shlex.quote(sys.executable)} -m pip install {what}"


def _drop_output() -> None:
    """Spares Python's flush at exit what cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
