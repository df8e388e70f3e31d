"""Finds params that nothing of a model takes, without running its code: only where that is certain.

What takes params is decided by `edl_allreduce.contracts.arguments` when the model is loaded, seconds later; here one is
refused only when no function of the files in question, whatever it is for, has a parameter of that name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from launcher.declared import parsed

Function = ast.FunctionDef | ast.AsyncFunctionDef

MODELS = {"Model", "keras.Model", "tf.keras.Model"}
PARTS = re.compile(  # what may make a part of a model, by all contracts
    r"(default|create)_\w+|loss|optimizer|metrics|feed|dataset_fn|input_fn|eval_metrics_fn|callbacks|loss_weights"
    r"|learning_rate_scheduler|custom_\w+|PredictionOutputsProcessor|__init__|__new__|__call__"
)
PLAIN = {"staticmethod", "classmethod", "property", "vectorised", "contracts.vectorised", "override"}  # same parameters


@dataclass(frozen=True)
class Taken:
    """What a file's functions take.

    Attributes:
        wanted: parameters of the function or class in question, in order.
        anywhere: parameters of all functions of the file.
    """

    wanted: tuple[str, ...]
    anywhere: frozenset[str]


def taken(source: bytes, file: str, name: str) -> Taken | None:
    """What the functions of a module take; None when only running it could tell.

    Args:
        name: of the class or function that gets params: a Keras model, a function that returns one, or makes a part.

    Raises:
        ModelError: the file is not Python.
    """
    tree = parsed(source, file)
    found = [each for each in tree.body if getattr(each, "name", "") == name]
    maker = _maker(found[0]) if len(found) == 1 else None
    functions = [each for each in ast.walk(tree) if isinstance(each, Function)]
    if maker is None or _decorated(maker) or maker.args.kwarg or any(map(_is_open, functions)):
        return None
    if any(each == name or PARTS.fullmatch(each) for each in _brought_in(tree)):
        return None
    own = [each for each in _names(maker.args) if each != "self"]
    return Taken(tuple(own), frozenset(name for each in functions for name in _names(each.args)))


def _maker(statement: ast.stmt) -> Function | None:
    """The function that gets the params."""
    if isinstance(statement, Function):
        return statement
    if not isinstance(statement, ast.ClassDef) or statement.decorator_list or statement.keywords:
        return None
    if any(ast.unparse(base) not in MODELS for base in statement.bases):
        return None  # it may inherit anything
    found = [each for each in statement.body if isinstance(each, Function) and each.name == "__init__"]
    return found[0] if len(found) == 1 else None


def _is_open(function: Function) -> bool:
    """Whether it may make a part of a model and take whatever there is."""
    return bool(PARTS.fullmatch(function.name)) and bool(function.args.kwarg or _decorated(function))


def _decorated(function: Function) -> bool:
    return any(ast.unparse(each) not in PLAIN for each in function.decorator_list)


def _brought_in(node: ast.AST, inside: bool = False) -> Iterator[str]:
    """Names of the module and its classes that are no definition: imported, or assigned; attributes set anywhere.

    Args:
        inside: of a function, whose own names are nobody else's.
    """
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        yield node.attr
    elif isinstance(node, ast.alias) and not inside:
        yield "loss" if node.name == "*" else node.asname or node.name
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and not inside:
        yield node.id
    for each in ast.iter_child_nodes(node):
        yield from _brought_in(each, inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))


def _names(arguments: ast.arguments) -> list[str]:
    return [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
