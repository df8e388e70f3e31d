"""Decides, from signatures alone, which arguments a user's function gets, so that one rule serves every contract.

The rule: every function that makes a part of the model (the model itself, its loss, its optimizer, its input function)
gets those params that are named like its parameters; one that takes `**kwargs` gets all. A param that nobody takes is
an error. A function of labels and outputs gets them by the names of its parameters, else by their order.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from edl_allreduce.errors import ModelError, did_you_mean

LABELS = frozenset({"label", "labels", "y_true", "true", "target", "targets", "truth", "y"})
OUTPUTS = frozenset({"output", "outputs", "prediction", "predictions", "y_pred", "pred", "preds", "logits", "y_hat"})
WEIGHTS = frozenset({"sample_weight", "sample_weights", "weights"})
_ROLES = {"labels": LABELS, "outputs": OUTPUTS, "weights": WEIGHTS, "mode": frozenset({"mode"})}


@dataclass(frozen=True)
class Takes:
    """What a function can be called with.

    Attributes:
        names: of its named parameters, in order.
        required: those without a default.
        anything: whether it also takes arbitrary keyword arguments.
    """

    names: tuple[str, ...]
    required: tuple[str, ...]
    anything: bool

    def __str__(self) -> str:
        return ", ".join(self.names) or "none"

    def chosen(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Those params that the function takes."""
        return {name: value for name, value in params.items() if self.anything or name in self.names}


def takes(function: Callable[..., Any]) -> Takes:
    """What `function` takes; for a class, what its constructor takes (without `self`)."""
    if inspect.isclass(function):
        parameters = list(inspect.signature(function.__init__).parameters.values())[1:]
    else:
        parameters = list(inspect.signature(function).parameters.values())
    named = [each for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    return Takes(
        names=tuple(each.name for each in named),
        required=tuple(each.name for each in named if each.default is each.empty),
        anything=any(each.kind is each.VAR_KEYWORD for each in parameters),
    )


def is_loss(function: Callable[..., Any], params: Iterable[str] = ()) -> bool:
    """Whether `function` is a loss of (labels, outputs), as opposed to a function that returns a loss.

    It is one when two of its parameters are named like labels and outputs, or when it cannot be called without two
    arguments that are no params.
    """
    signature = takes(function)
    if LABELS & set(signature.names[:2]) and OUTPUTS & set(signature.names[:2]):
        return True
    return len([name for name in signature.required if name not in set(params)]) >= 2


@dataclass(frozen=True)
class ByRole:
    """A user's function of labels and outputs, called by what its parameters are named.

    Attributes:
        function: the user's.
        roles: what each of its parameters gets: "labels", "outputs", "weights" or "mode".
        order: the roles of its first arguments, when its parameters cannot be told.
    """

    function: Callable[..., Any]
    roles: Mapping[str, str]
    order: tuple[str, ...]

    def gets(self, role: str) -> bool:
        """Whether a parameter stands for `role`."""
        return role in self.roles.values()

    def __call__(self, **values: Any) -> Any:
        """The function's value; those roles that it has no parameter for are left out."""
        if not self.roles:
            return self.function(*(values[role] for role in self.order))
        return self.function(**{name: values[role] for name, role in self.roles.items() if role in values})


def by_role(function: Callable[..., Any], order: tuple[str, ...] = ("labels", "outputs")) -> ByRole:
    """Finds out which parameter of `function` stands for what: by its name, else by its place in `order`."""
    names = takes(function).names
    roles = {name: role for name in names for role, aliases in _ROLES.items() if name in aliases}
    missing = [role for role in order if role not in roles.values()]
    if missing and len({roles.get(name) for name in names[:2]} - {None}) == 1 and not set(names[:2]) - set(roles):
        return ByRole(function, dict(zip(names, order, strict=False)), order)  # as in loss(y, target)
    unknown = [name for name in names if name not in roles]
    return ByRole(function, roles | dict(zip(unknown, missing, strict=False)), order)


def check_all_taken(params: Mapping[str, Any], takers: Mapping[str, Takes], file: str) -> None:
    """Refuses params that none of the functions takes.

    Args:
        params: what the user gave.
        takers: each function's name, and what it takes.
        file: where the functions are.

    Raises:
        ModelError: a param has no taker; names what each function takes, and the nearest name.
    """
    known = {name for taker in takers.values() for name in taker.names}
    for name in params:
        if name not in known and not any(taker.anything for taker in takers.values()):
            listed = "; ".join(
                f"{function} takes {taker}"
                for function, taker in takers.items()
                if taker.names or function == next(iter(takers))
            )
            raise ModelError(f"{file}: there is no parameter {name!r}{did_you_mean(name, known)}; {listed}")


def check_required(params: Mapping[str, Any], function: str, signature: Takes, file: str) -> None:
    """Refuses to call a function without an argument it needs.

    Raises:
        ModelError: names the params to give.
    """
    missing = [name for name in signature.required if name not in params]
    if missing:
        wanted = ", ".join(f"{name}=…" for name in missing)
        raise ModelError(f'{file}: {function} cannot be made without {", ".join(missing)}; give --params="{wanted}"')
