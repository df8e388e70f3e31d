"""Lists what a Python file defines without running it, so that a misspelt model is noticed before anything starts."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator

from edl_allreduce.errors import ModelError


def declared_names(source: bytes, file: str) -> frozenset[str] | None:
    """The names at the top level of a module: definitions, imports, assignments, also under `if`, `try`, `with`, loops.

    Args:
        source: the file's content.
        file: its name, for errors.

    Returns:
        None when only running the file could tell: it has a star-import or its own `__getattr__`.

    Raises:
        ModelError: the file is not Python; names the line.
    """
    names = frozenset(_names_in(parsed(source, file).body))
    return None if names & {"*", "__getattr__"} else names


def parsed(source: bytes, file: str) -> ast.Module:
    """The syntax of a module.

    Raises:
        ModelError: the file is not Python; names the line.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the worker, which runs the file, shows them
            return ast.parse(source, file)
    except SyntaxError as error:
        line = f": {error.text.strip()}" if error.text else ""
        raise ModelError(f"{file}:{error.lineno}: SyntaxError: {error.msg}{line}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ModelError(f"{file}: Python cannot read it: {error}") from None


def _names_in(statements: list[ast.stmt]) -> Iterator[str]:
    for statement in statements:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield statement.name
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in statement.names)
        else:
            yield from _names_bound_by(statement)


def _names_bound_by(statement: ast.stmt) -> Iterator[str]:
    """Names that a statement assigns, and those of the statements inside it."""
    for field in ast.iter_child_nodes(statement):
        if isinstance(field, ast.stmt):
            yield from _names_in([field])
        elif isinstance(field, (ast.ExceptHandler, ast.match_case)):
            yield from _names_in(field.body)
        else:
            yield from (
                node.id for node in ast.walk(field) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            )
