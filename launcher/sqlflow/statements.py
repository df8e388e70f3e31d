"""What a statement says, once it has been read: plain values that no part of the text is needed for any more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edl_allreduce.schema import ColumnWish


@dataclass(frozen=True)
class Train:
    """SELECT … TRAIN model WITH … COLUMN … LABEL … INTO name.

    Attributes:
        text: the whole statement as it was written.
        select: the part for the database, as it was written.
        model: of the model zoo, such as regressor.DNN.
        name: of the trained model.
        params: arguments of the model.
        settings: of the training, by the names of `edl train`'s flags.
        validation: another SELECT, of the rows to evaluate on; empty: none.
        columns: those to use, and how; empty: all but the label.
        label: its column; None: the last one.
    """

    text: str
    select: str
    model: str
    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    validation: str = ""
    columns: Mapping[str, ColumnWish] = field(default_factory=dict)
    label: str | None = None


@dataclass(frozen=True)
class Predict:
    """SELECT … PREDICT table.column USING name.

    Attributes:
        text, select: as in `Train`.
        name: of the trained model.
        table, column: where predictions go; as they were written, with their quotes, if any.
        settings: of the prediction, by the names of `edl predict`'s flags.
    """

    text: str
    select: str
    name: str
    table: str
    column: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluate:
    """SELECT … TO EVALUATE name.

    Attributes:
        text, select: as in `Train`.
        name: of the trained model.
        label: its column; None: the one that the model was trained on.
        settings: of the evaluation, by the names of `edl evaluate`'s flags.
    """

    text: str
    select: str
    name: str
    label: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


Statement = Train | Predict | Evaluate
