"""Heart disease: a small table with a category, its features made by plain TensorFlow operations in the input function.

The columns are those of the Cleveland table (R. Detrano et al., 1989; UCI Machine Learning Repository), which
TensorFlow's tutorials on structured data use too. `census.py` does such work in the model, by Keras layers: then
whoever uses the model sends columns as they are. Here the input function does it, on a whole batch at once: the model
is smaller, and whoever uses it sends records, or vectors of numbers.

    python -m model_zoo.heart make data/heart
    edl train --model_zoo=model_zoo --model_def=heart.risk_model --data='data/heart/train/*.recordio' \\
        --output=out/heart --num_epochs=30 --batch_size=64
    edl evaluate --trained_model=out/heart --data='data/heart/test/*.recordio'

The data made here are synthetic, drawn column by column, the label by a formula. Who has the real table as a CSV file
with these column names gets records by `edl convert heart.csv --output=data/heart --label=target`.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from edl_allreduce.contracts import Mode, vectorised

NUMBERS = {"age": (54, 9), "trestbps": (132, 18), "chol": (247, 52), "thalach": (149, 23)}
"""Whole numbers with about their mean and deviation: years, blood pressure, cholesterol, highest pulse."""
SIGNS = ("sex", "fbs", "exang")
"""0 or 1: male; blood sugar above 120 mg/dl; angina when exercising."""
KINDS = {"cp": 5, "restecg": 3, "slope": 4, "ca": 4}
"""Small whole numbers that name a kind, and how many kinds there are."""
THAL = ("normal", "fixed", "reversible")
"""The texts of column `thal`; others count as a fourth."""
WIDTH = len(NUMBERS) + 1 + len(SIGNS) + sum(KINDS.values()) + len(THAL) + 1


def risk_model(hidden_units: int = 16) -> tuple[Any, Any]:
    """One logit [n, 1] of features [n, WIDTH]; as (inputs, outputs), of which the model is made."""
    features = keras.Input([WIDTH], name="features")
    hidden = keras.layers.Dense(hidden_units, activation="gelu")(features)
    return features, keras.layers.Dense(1, name="logit")(hidden)


def default_loss() -> Any:
    """Cross entropy of the logit."""
    return keras.losses.BinaryCrossentropy(from_logits=True)


def default_optimizer(learning_rate: float = 0.01) -> Any:
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
    """Features [n, WIDTH] and labels [n] of n records; for prediction the features alone."""
    example = {name: tf.io.FixedLenFeature([], tf.int64) for name in (*NUMBERS, *SIGNS, *KINDS)}
    example |= {"oldpeak": tf.io.FixedLenFeature([], tf.float32), "thal": tf.io.FixedLenFeature([], tf.string, "")}
    if mode != Mode.PREDICTION:
        example["label"] = tf.io.FixedLenFeature([], tf.int64)
    parsed = tf.io.parse_example(records, example)
    columns = [(tf.cast(parsed[name], tf.float32) - mean) / std for name, (mean, std) in NUMBERS.items()]
    columns += [parsed["oldpeak"], *(tf.cast(parsed[name], tf.float32) for name in SIGNS)]
    kinds = [tf.one_hot(parsed[name], number) for name, number in KINDS.items()]
    thal = tf.cast(tf.equal(parsed["thal"][:, None], THAL), tf.float32)
    other = 1 - tf.reduce_sum(thal, axis=1, keepdims=True)
    features = tf.concat([tf.stack(columns, axis=1), *kinds, thal, other], axis=1)
    return features if mode == Mode.PREDICTION else (features, tf.cast(parsed["label"], tf.float32))


def make(folder: str, *, records: int = 1500) -> str:
    """Writes synthetic patients into FOLDER/train and FOLDER/test, the same at every call; says what was done."""
    import numpy as np

    from model_zoo.data import cut, write_splits

    random = np.random.default_rng(0)
    columns: dict[str, Any] = {
        name: random.normal(mean, std, records).round().astype(int) for name, (mean, std) in NUMBERS.items()
    }
    columns |= {name: random.integers(0, 2, records) for name in SIGNS}
    columns |= {name: random.integers(0, number, records) for name, number in KINDS.items()}
    columns |= {"oldpeak": random.exponential(1, records), "thal": random.integers(0, len(THAL), records)}
    risk = (columns["age"] - 54) / 9 + (columns["chol"] - 247) / 52 - (columns["thalach"] - 149) / 23 - 3
    risk = risk + columns["exang"] + columns["oldpeak"] + columns["ca"] + columns["thal"] * (columns["cp"] == 4)
    labels = random.random(records) < 1 / (1 + np.exp(-2 * risk))
    examples = [
        {name: values[i].item() for name, values in columns.items()}
        | {"thal": THAL[columns["thal"][i]], "label": int(labels[i])}
        for i in range(records)
    ]
    return write_splits(folder, "heart", cut(examples))


if __name__ == "__main__":
    from model_zoo.command import run

    run("heart", make)
