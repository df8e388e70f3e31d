"""What `%load_ext launcher.notebook` gives: `%%edl`, which runs SQL statements and shows the curve of the loss."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edl_allreduce.errors import EdlError, UsageError
from launcher.commands.arguments import normalise
from launcher.display.curves import Curve, Point, chart
from launcher.display.notebook import Place
from launcher.handle import JobHandle

HELP = {"-h", "--help"}


def load_ipython_extension(shell: Any) -> None:
    """Called by `%load_ext`."""
    shell.register_magic_function(edl, magic_kind="cell", magic_name="edl")


def edl(line: str, cell: str) -> JobHandle | list[JobHandle] | None:
    """Runs the cell's SQL statements; the line has the flags of `edl sql`, such as --database=sqlite:///staff.db.

    Returns:
        The handle of the job, a list of them for several statements; None where nothing runs.
    """
    from launcher.commands.table import COMMANDS, Command
    from launcher.sqlflow.api import run_statements

    command = COMMANDS["sql"]
    assert isinstance(command, Command)
    words = _words(line)
    if HELP & set(words):
        print(command.help("sql", 100))
        return None
    given = (word[2:].partition("=") for word in normalise(words, command.flags(), takes_words=False))
    values = {name: value for name, _, value in given}
    _check(values)
    handles = run_statements(cell.rstrip(), values, sys.stdout)
    for handle in handles:
        _show_curves(handle)
    return handles[0] if len(handles) == 1 else handles or None


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise UsageError(f"%%edl {line}: {error}") from None


def _check(values: Mapping[str, str]) -> None:
    from launcher.sqlflow import database_url

    if "file" in values:
        raise UsageError("--file: the statements are those of the cell; leave it out")
    if database_url.has_password(values.get("database", "")):
        print(
            f"warning: --database has a password in it, which stays in the notebook; set {database_url.VARIABLE} "
            "before the notebook is started, or give --database=@FILE, or leave the password out (~/.pgpass)",
            file=sys.stderr,
        )


def _show_curves(handle: JobHandle) -> None:
    """Draws the losses of a training that has come to its end."""
    if handle.exit_code != 0:
        return
    try:
        curves = loss_curves(handle.events(steps=True))
    except EdlError:  # of a job on Kubernetes, when its output cannot be read from here
        return
    if curves:
        said = "; ".join(f"{name} {points[0][1]:.4g} … {points[-1][1]:.4g}" for name, points in curves.items())
        Place()({"text/html": chart(curves, "step"), "text/plain": said})


def loss_curves(lines: Iterable[Mapping[str, Any]]) -> dict[str, Sequence[Point]]:
    """Step and loss, from the lines of a training's history: of the training, and of the validation data if there are.

    Returns:
        Curves by name; empty for a job that has trained nothing.
    """
    curves = {"loss": Curve(), "val_loss": Curve()}
    for line in lines:
        match line:
            case {"step": step, "loss": loss}:
                curves["loss"].add(step, loss)
            case {"epoch_end": _, "step": step, "figures": {"val_loss": loss}}:
                curves["val_loss"].add(step, loss)
            case {"evaluation": step, "figures": {"loss": loss}} if step:
                curves["val_loss"].add(step, loss)
    return {name: curve.points for name, curve in curves.items() if curve.points}
