"""Says in one line what went wrong in a user's code and where, so that nobody reads sixty lines of TensorFlow's."""

from __future__ import annotations

import contextlib
import os
import re
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edl_allreduce.errors import EdlError, ModelError

MAX_LENGTH = 500
"""Characters of an error's own text that are shown."""

_FRAME = re.compile(r'File "(?P<file>[^"\n]+)", line (?P<line>\d+), in (?P<function>\S+)')
_NODE = re.compile(r"\{\{node ([^}]+)\}\}")
_OURS = Path(__file__).resolve().parent.parent
_LIBRARIES = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")}


@dataclass(frozen=True)
class Place:
    """A line of the user's code."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        inside = "" if self.function in ("<module>", "None") else f" in {self.function}"
        return f"{self.file}:{self.line}{inside}"


@contextlib.contextmanager
def user_code(model_zoo: str, doing: str, graphs: Iterable[Any] = ()) -> Iterator[None]:
    """Turns any exception of the user's code into a `ModelError` of one line; our own errors pass through.

    Args:
        model_zoo: the folder with the user's files, as the user named it.
        doing: what is being done ("making the model"), for errors that no line of the user's can be blamed for.
        graphs: as in `explain`.
    """
    try:
        yield
    except EdlError:
        raise
    except Exception as error:
        place, told = _place_and_told(error, model_zoo, tuple(graphs))
        raise ModelError(f"{place or doing}: {told}") from error


def explain(error: BaseException, model_zoo: str, graphs: Iterable[Any] = ()) -> str:
    """`model_zoo/digits.py:42 in call: ValueError: …`: the last line of the user's own code, the type, and the essence.

    Args:
        error: what was raised, also by TensorFlow while tracing or running a graph.
        model_zoo: the folder with the user's files, as the user named it.
        graphs: TensorFlow graphs in which to look up the operation of an error at graph run time.

    Returns:
        One line; without the place when no line of the user's is involved.
    """
    if isinstance(error, EdlError):
        return str(error)
    place, told = _place_and_told(error, model_zoo, tuple(graphs))
    return f"{place}: {told}" if place else told


def _place_and_told(error: BaseException, model_zoo: str, graphs: tuple[Any, ...]) -> tuple[Place | None, str]:
    text = _text(error)
    place = _place(error, model_zoo, graphs)
    kind, essence = _kind_and_essence(type(error).__name__, text)
    if place is None and (nodes := _NODE.findall(text)):
        essence = f"{essence} (operation {nodes[-1]})"
    return place, f"{kind}: {essence}" if essence else kind


def shown(model_zoo: str) -> str:
    """The zoo's folder as error texts show it."""
    return os.path.normpath(model_zoo)


def _text(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.msg}: {error.text.strip()}" if error.text else str(error.msg)
    metadata = getattr(error, "ag_error_metadata", None)
    text = str(error)
    return text if metadata is None or "in user code:" in text else str(metadata.get_message())


def _place(error: BaseException, model_zoo: str, graphs: tuple[Any, ...]) -> Place | None:
    """The last line of the user's, from the most telling source that has one."""
    seen: set[int] = set()
    if isinstance(error, SyntaxError) and error.filename and (file := _users_file(error.filename, model_zoo)):
        return Place(file, error.lineno or 1, "<module>")
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        in_text = [(found["file"], int(found["line"]), found["function"]) for found in _FRAME.finditer(_text(at))]
        in_graphs = _frames_in_graphs(_text(at), graphs)
        in_traceback = [
            (frame.f_code.co_filename, line, frame.f_code.co_name)
            for frame, line in traceback.walk_tb(at.__traceback__)
        ]
        for frames in (in_text, in_graphs, in_traceback):
            for filename, line, function in reversed(frames):
                if file := _users_file(filename, model_zoo):
                    return Place(file, line, function.strip(","))
        at = at.__cause__ or at.__context__
    return None


def _users_file(filename: str, model_zoo: str) -> str | None:
    """The file as the user would name it, if it is one of the zoo's."""
    zoo, path = Path(model_zoo).resolve(), Path(filename).resolve()
    if not path.is_relative_to(zoo):
        return None
    if any(path.is_relative_to(other) and not zoo.is_relative_to(other) for other in (_OURS, *_LIBRARIES)):
        return None
    return os.path.join(shown(model_zoo), path.relative_to(zoo))


def _frames_in_graphs(text: str, graphs: tuple[Any, ...]) -> list[tuple[str, int, str]]:
    """Where the operation that failed was made, from the graph that has it."""
    for name in reversed(_NODE.findall(text)):
        for graph in graphs:
            operations = {operation.name: operation for operation in graph.get_operations()}
            for candidate in _names_around(name):
                if candidate in operations:
                    return [(frame.filename, frame.lineno, frame.name) for frame in operations[candidate].traceback]
    return []


def _names_around(name: str) -> Iterator[str]:
    """An operation's name, then that of the forward or outer operation that a gradient's or nested one belongs to."""
    forward = re.sub(r"^(gradient_tape|gradients)/", "", name)
    yield name
    yield forward
    yield forward.rpartition("/")[0]


def _kind_and_essence(kind: str, text: str) -> tuple[str, str]:
    """The type of an error and its own words, without what Keras and TensorFlow wrap around them."""
    if "in user code:" in text:
        after = text[[found.end() for found in _FRAME.finditer(text)][-1] :] if _FRAME.search(text) else text
        if told := re.search(r"\n\s*\n\s*(?P<kind>[A-Za-z_][\w.]*): ?(?P<text>.*)", after, re.DOTALL):
            kind, text = told["kind"].rpartition(".")[2], told["text"]
    if told := re.search(r"Exception encountered when calling .*?\x1b\[1m(?P<text>.*?)\x1b\[0m", text, re.DOTALL):
        text = told["text"]
    if "Graph execution error:" in text and (frames := list(_FRAME.finditer(text))):
        text = text[frames[-1].end() :].partition("\n\n")[2] or text
    if told := _FIRST_OF_SEVERAL.search(text):
        text = told["text"]
    for pattern, replacement in _CLUTTER:
        text = pattern.sub(replacement, text)
    text = " ".join(text.split())
    return kind, text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 1] + "…"


_FIRST_OF_SEVERAL = re.compile(
    r"root error\(s\) found\.\s*\(0\) (?:[A-Z_]+: )?(?P<text>.*?)(?=\n\s*\(1\)|\Z)", re.DOTALL
)
_CLUTTER = [
    (re.compile(r"for '\{\{node [^}]*\}\} = (\w+)\[.*?\]\([^)]*\)'"), r"for \1"),
    (re.compile(r"\[\[(?:\{\{[^}]*\}\}\s*)+\]\]|\[\[[A-Z]\w*\]\]"), ""),
    (re.compile(r"\nTraceback \(most recent call last\):\n.*", re.DOTALL), ""),  # of a tf.py_function
    (re.compile(r"\[Op:[^\]]*\](?: name: ?\S*)?"), ""),
    (re.compile(r"\{\{function_node [^}]*\}\}"), ""),
    (re.compile(r"Error in user-defined function passed to \S+ transformation with iterator: \S+: "), ""),
    (re.compile(r"\x1b\[\d*m"), ""),
]
