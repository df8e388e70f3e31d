"""Who earns more than 50 thousand: a table of numbers and texts, turned into features by Keras's preprocessing layers.

The columns, their values and the question are those of the Adult table (R. Kohavi, 1996; UCI Machine Learning
Repository). Everything the layers must know (means, boundaries, vocabularies) stands here in the code: nothing is
learned from the data when the model is made (`adapt`), so all workers make the same model.

    python -m model_zoo.census make data/census
    edl train --model_zoo=model_zoo --model_def=census.income_model --data='data/census/train/*.recordio' \\
        --output=out/census --num_epochs=5
    edl evaluate --trained_model=out/census --data='data/census/test/*.recordio'

The data made here are synthetic, drawn column by column, income by a formula of the columns. Who has the real table as
a CSV file with these column names gets records by `edl convert adult.csv --output=data/census --label=label`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from edl_allreduce.contracts import Mode, vectorised

NUMBERS = {
    "age": (38.6, 13.7),
    "education_num": (10.1, 2.6),
    "capital_gain": (1079.0, 7452.0),
    "capital_loss": (87.5, 403.0),
    "hours_per_week": (40.4, 12.4),
}
"""Whole numbers, with the real table's means and standard deviations."""

AGES = (18, 25, 30, 35, 40, 45, 50, 55, 60, 65)
"""Boundaries of age groups: income does not grow with age for ever."""

TEXTS = {
    "workclass": ("Private", "Self-emp-not-inc", "Self-emp-inc", "Federal-gov", "Local-gov", "State-gov"),
    "education": ("HS-grad", "Some-college", "Bachelors", "Masters", "Doctorate", "Assoc-voc", "11th", "10th", "9th"),
    "marital_status": ("Married-civ-spouse", "Never-married", "Divorced", "Separated", "Widowed"),
    "occupation": (
        "Tech-support", "Craft-repair", "Other-service", "Sales", "Exec-managerial", "Prof-specialty",
        "Handlers-cleaners", "Machine-op-inspct", "Adm-clerical", "Farming-fishing", "Transport-moving",
    ),
    "sex": ("Female", "Male"),
}  # fmt: skip
"""Texts, with their vocabularies; other texts share one place."""


def income_model(hidden_units: Sequence[int] = (64, 32)) -> Any:
    """One logit [n, 1] of the columns, each [n] or [n, 1], by name."""
    inputs = {name: keras.Input([1], name=name, dtype="float32") for name in NUMBERS}
    inputs |= {name: keras.Input([1], name=name, dtype="string") for name in TEXTS}
    encoded = [
        keras.layers.Normalization(mean=mean, variance=std**2)(inputs[name]) for name, (mean, std) in NUMBERS.items()
    ]
    groups = keras.layers.Discretization(bin_boundaries=list(AGES))(inputs["age"])
    encoded.append(keras.layers.CategoryEncoding(len(AGES) + 1, "one_hot")(groups))
    for name, vocabulary in TEXTS.items():
        lookup = keras.layers.StringLookup(vocabulary=list(vocabulary))
        places = lookup(inputs[name])
        encoded.append(keras.layers.CategoryEncoding(lookup.vocabulary_size(), "one_hot")(places))
    x = keras.layers.Concatenate()(encoded)
    for units in hidden_units:
        x = keras.layers.Dense(units, activation="gelu")(x)
    return keras.Model(inputs, keras.layers.Dense(1, name="logit")(x), name="census")


def default_loss() -> Any:
    """Cross entropy of the logit."""
    return keras.losses.BinaryCrossentropy(from_logits=True)


def default_optimizer(learning_rate: float = 0.005) -> Any:
    """Adam."""
    return keras.optimizers.Adam(learning_rate, epsilon=1e-4)


def default_metrics() -> list[Any]:
    """Area under the ROC curve, and the share told right."""
    return [
        keras.metrics.AUC(from_logits=True, name="auc"),
        keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy"),
    ]


@vectorised
def default_input(records: Any, mode: Mode = Mode.TRAINING) -> Any:
    """Columns [n, 1] by name, and labels [n], of n records; for prediction the columns alone."""
    example = {name: tf.io.FixedLenFeature([1], tf.int64) for name in NUMBERS}
    example |= {name: tf.io.FixedLenFeature([1], tf.string, [""]) for name in TEXTS}
    if mode != Mode.PREDICTION:
        example["label"] = tf.io.FixedLenFeature([], tf.int64)
    parsed = tf.io.parse_example(records, example)
    features = {name: tf.cast(parsed[name], tf.float32) for name in NUMBERS} | {name: parsed[name] for name in TEXTS}
    return features if mode == Mode.PREDICTION else (features, tf.cast(parsed["label"], tf.float32))


def make(folder: str, *, records: int = 10000) -> str:
    """Writes synthetic people into FOLDER/train and FOLDER/test, the same at every call; says what was done.

    Besides the columns each has `income`, in thousands, and `label`, whether that is more than 50.
    """
    import numpy as np

    from model_zoo.data import cut, write_splits

    random = np.random.default_rng(0)
    number = {
        "age": random.integers(17, 80, records),
        "education_num": random.integers(1, 17, records),
        "capital_gain": np.where(random.random(records) < 0.08, random.integers(100, 20000, records), 0),
        "capital_loss": np.where(random.random(records) < 0.05, random.integers(100, 2500, records), 0),
        "hours_per_week": random.normal(40, 11, records).clip(1, 99).astype(int),
    }
    place = {name: random.integers(0, len(vocabulary), records) for name, vocabulary in TEXTS.items()}
    worth = {name: random.normal(0, 5, len(vocabulary)) for name, vocabulary in TEXTS.items()}
    together = random.normal(0, 6, [len(TEXTS["education"]), len(TEXTS["occupation"])])
    income = 15 + 1.6 * number["education_num"] + 0.4 * number["hours_per_week"] - (number["age"] - 50) ** 2 / 60
    income = income + number["capital_gain"] / 500 + together[place["education"], place["occupation"]]
    income = income + sum(worth[name][place[name]] for name in TEXTS) + random.normal(0, 5, records)
    examples = [
        {name: int(values[i]) for name, values in number.items()}
        | {name: vocabulary[place[name][i]] for name, vocabulary in TEXTS.items()}
        | {"income": float(income[i]), "label": int(income[i] > 50)}
        for i in range(records)
    ]
    return write_splits(folder, "census", cut(examples))


if __name__ == "__main__":
    from model_zoo.command import run

    run("census", make)
