"""The iris, wine, breast-cancer and diabetes tables as RecordIO: small real data without a download.

They come with scikit-learn (`sklearn.datasets`). For classifiers, from the UCI Machine Learning Repository: 150 flowers
with 4 features in 3 classes, 178 wines with 13 features in 3 classes, 569 tumours with 30 features in 2 classes. For
regressors: 442 patients with 10 features and how their diabetes went on after a year, from 25 to 346 (B. Efron et al.,
"Least Angle Regression", 2004). Features are standardised by the training part's mean and deviation.

    python -m model_zoo.tables make data
    edl train --model_zoo=model_zoo --model_def=classifier.DNN --params="n_features=13, n_classes=3" \\
        --data='data/wine/train/*.recordio' --output=out/wine --num_epochs=50 --batch_size=32
    python -m model_zoo.tables evaluate out/wine data/wine/test/*.recordio
"""

from __future__ import annotations

CLASSES = ("iris", "wine", "breast_cancer")
"""Tables whose label is a class, from 0 on; the others' is a number."""
TABLES = (*CLASSES, "diabetes")


def make(folder: str) -> str:
    """Writes FOLDER/TABLE/train and FOLDER/TABLE/test for every table, the same at every call; says what was done."""
    return "\n".join(make_table(f"{folder}/{table}", table) for table in TABLES)


def make_table(folder: str, table: str) -> str:
    """Writes one table as FOLDER/train and FOLDER/test: tf.Examples with `features`, some floats, and `label`."""
    import sklearn.datasets
    import sklearn.preprocessing

    from model_zoo.data import split, write_splits

    features, labels = getattr(sklearn.datasets, f"load_{table}")(return_X_y=True)
    kind, classes = (int, labels) if table in CLASSES else (float, None)
    parts = split(
        [{"features": row, "label": kind(label)} for row, label in zip(features, labels, strict=True)], classes
    )
    scaler = sklearn.preprocessing.StandardScaler().fit([example["features"] for example in parts["train"]])
    scaled = {
        name: [
            {**example, "features": scaler.transform([example["features"]])[0].astype("float32")}
            for example in examples
        ]
        for name, examples in parts.items()
    }
    return write_splits(folder, table, scaled)


if __name__ == "__main__":
    from model_zoo.command import run

    run("tables", make, at_least=0.9)
