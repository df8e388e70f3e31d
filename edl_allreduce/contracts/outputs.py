"""Tells a model's outputs apart and finds each one's labels, so that losses and metrics per output agree with Keras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edl_allreduce.errors import ModelError, did_you_mean


@dataclass(frozen=True)
class Output:
    """One output of a model.

    Attributes:
        name: as in `model.output_names`, or the key in a dict of outputs; None when it has none.
        place: among the model's outputs.
        key: the dict's key, the place in a list or tuple, or None when the model gives a single tensor.
    """

    name: str | None
    place: int
    key: Any

    def of(self, outputs: Any) -> Any:
        """This output, of what the model gives."""
        return outputs if self.key is None else outputs[self.key]


def outputs_of(outputs: Any, names: Sequence[str] | None = None) -> tuple[Output, ...]:
    """The outputs in what a model gives: a tensor, or a dict, list or tuple of them (or of their specs).

    Args:
        outputs: what the model gives.
        names: `model.output_names`; only functional models have them.
    """
    if isinstance(outputs, Mapping):
        keys = list(names) if names and set(names) == set(outputs) else sorted(outputs)
        return tuple(Output(str(key), place, key) for place, key in enumerate(keys))
    if isinstance(outputs, (list, tuple)):
        named = names if names and len(names) == len(outputs) else [None] * len(outputs)
        return tuple(Output(name, place, place) for place, name in enumerate(named))
    return (Output(names[0] if names and len(names) == 1 else None, 0, None),)


def labels_of(output: Output, labels: Any, among: Sequence[Output], count: int) -> Any:
    """The labels of one output: by its name in a dict, by its place in a tuple; a single tensor is everybody's.

    Args:
        output: whose labels are wanted.
        labels: as the input function gives them.
        among: the outputs that have labels, when not all of them do.
        count: how many outputs there are.

    Raises:
        ModelError: the labels do not fit to the outputs.
    """
    if isinstance(labels, Mapping):
        if output.name in labels:
            return labels[output.name]
        if count == len(labels) == 1:
            return next(iter(labels.values()))
        expected = (
            f"labels for the output {output.name!r}" if output.name else "a tuple of labels (outputs have no name)"
        )
        raise ModelError(f"the input function: expected {expected}, got a dict with {', '.join(map(repr, labels))}")
    if isinstance(labels, (list, tuple)):
        if len(labels) == count:
            return labels[output.place]
        if len(labels) == len(among):
            return labels[list(among).index(output)]
        raise ModelError(f"the input function: expected labels for {count} outputs, got {len(labels)}")
    return labels


def by_output(values: Any, outputs: Sequence[Output], where: str) -> list[Any]:
    """What a dict (by name) or list (by place) says for each output; None where it says nothing.

    Raises:
        ModelError: a name is no output's, or a list has another length.
    """
    if isinstance(values, Mapping):
        names = [output.name for output in outputs]
        for name in values:
            if name not in names:
                known = [each for each in names if each is not None]
                near = did_you_mean(str(name), known)
                has = f"has {', '.join(map(repr, known))}" if known else "names none of its outputs: give a list"
                raise ModelError(f"{where}: there is no output {name!r}{near}; the model {has}")
        return [values.get(name) for name in names]
    if len(values) != len(outputs):
        raise ModelError(f"{where}: expected one for each of the model's {len(outputs)} outputs, got {len(values)}")
    return list(values)
