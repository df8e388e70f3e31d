"""What `edl zoo list`, `edl zoo init` and `edl export` do. The docstrings are their help texts."""

from __future__ import annotations

import ast
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edl_allreduce.errors import UsageError
from edl_allreduce.storage_ranges import local_errors
from launcher.commands.arguments import BOOLEAN_WORDS

STOCK = Path(__file__).resolve().parents[2] / "model_zoo"
"""The models that come with edl_allreduce; installed beside this package."""

TEMPLATE = "template"
TEMPLATE_FILES = ("model.py", "make_data.py", "requirements.txt")

EXPORT_NEEDS = ("tensorflow", "keras", "safetensors")


@dataclass(frozen=True)
class StockModel:
    """A model of a zoo.

    Attributes:
        model_def: what `--model_def` calls it.
        summary: the first line of its docstring.
    """

    model_def: str
    summary: str


def zoo_list() -> None:
    """Tells which models come with edl_allreduce.

    Each file says in its first lines what its models are, where they come from, and how to make data and train.
    """
    print(f"models in {STOCK}, for --model_zoo:")
    for module, about, models in stock_models(STOCK):
        print(f"\n{module}: {about}")
        width = max(len(each.model_def) for each in models)
        for each in models:
            print(f"  {each.model_def:<{width}}  {each.summary}")


def stock_models(zoo: Path) -> Iterator[tuple[str, str, list[StockModel]]]:
    """Of each file with models: its module, the first line of its docstring, its models. Imports none of them."""
    for file in sorted(zoo.rglob("*.py")):
        if TEMPLATE in file.relative_to(zoo).parts:
            continue
        with local_errors(str(file)):
            tree = ast.parse(file.read_bytes())
        module = ".".join(file.relative_to(zoo).with_suffix("").parts).removesuffix(".__init__")
        models = [
            StockModel(module if node.name == "custom_model" else f"{module}.{node.name}", _first_line(node))
            for node in tree.body
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and _is_model(node)
        ]
        if models:
            yield module, _first_line(tree), models


def _is_model(node: ast.ClassDef | ast.FunctionDef) -> bool:
    """Whether it is a subclass of a model or of a model's specification, or a function that makes a model's inputs."""
    if node.name.startswith("_"):
        return False
    if isinstance(node, ast.ClassDef):
        return any(
            ast.unparse(base).rpartition(".")[2] in ("Model", "ElasticDLSpec", "TrainSpec") for base in node.bases
        )
    return any(isinstance(each, ast.Call) and ast.unparse(each.func) == "keras.Input" for each in ast.walk(node))


def _first_line(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0]


def zoo_init(folder: str) -> None:
    """Makes a folder with a first model of your own, which trains at once.

    FOLDER  a new folder, or an empty one

    It gets model.py, a commented classifier; make_data.py, which makes records for it; and requirements.txt, which
    names what the model needs besides TensorFlow. The commands to go on with are printed.

    Example:
      edl zoo init fintech
    """
    target = Path(folder).expanduser()
    if target.exists() and not target.is_dir():
        raise UsageError(f"FOLDER: {folder} is a file; choose another name")
    if target.is_dir() and any(target.iterdir()):
        raise UsageError(f"FOLDER: {folder} is not empty; choose a new folder")
    with local_errors(folder):
        _copy_template(target.absolute())
    print(f"made {', '.join(os.path.join(folder, name) for name in TEMPLATE_FILES)}")
    print("\nThe next steps:\n" + "\n".join(f"  {line}" for line in next_steps(folder)))


def _copy_template(target: Path) -> None:
    """The folder appears with all of its files, or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for name in TEMPLATE_FILES:
            shutil.copyfile(STOCK / TEMPLATE / name, temporary / name)
        temporary.chmod(0o755)
        os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def next_steps(folder: str) -> list[str]:
    """The commands that make data, train, evaluate and predict with a folder that `zoo_init` made."""
    name = Path(folder).absolute().name
    data, out = f"data/{name}", f"out/{name}"

    def quoted(text: str) -> str:
        return shlex.quote(text)

    trained = f"--trained_model={quoted(out)} --data={shlex.quote(f'{data}/test/*.recordio')}"
    return [
        f"python {quoted(os.path.join(folder, 'make_data.py'))} {quoted(data)}",
        f"edl train --model_zoo={quoted(folder)} --model_def=model.Classifier \\",
        f"    --data={quoted(f'{data}/train/*.recordio')} --output={quoted(out)} --num_epochs=20 --num_workers=2",
        f"edl evaluate {trained}",
        f"edl predict {trained} --output={quoted(f'{out}-predictions')}",
    ]


def export(*, trained_model: str, output: str, format: str = "", overwrite: str | bool = False) -> int:
    """Writes a trained model in forms that other programs read, without edl_allreduce.

    --trained_model  folder or URL that `edl train` has written
    --output         folder or URL for the result
    --format         keras, saved_model or both joined by a comma (default: all that the model can be written in)
                     keras        OUTPUT/model.keras; a model that is a class needs that class to be loaded
                     saved_model  OUTPUT/saved_model, for TensorFlow and TensorFlow Serving; needs no Python code. Its
                                  signature serving_default takes the features by name, serving_serialized records
    --overwrite      replace what an earlier export has written there

    Example:
      edl export --trained_model=out/digits --output=out/digits-exported
    """
    missing = [name for name in EXPORT_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        python = shlex.quote(sys.executable)
        command = f"{python} -m pip install 'edl_allreduce[worker]'"
        raise UsageError(f"edl export needs {' and '.join(missing)}, not installed in {sys.prefix}: {command}")
    if str(overwrite).lower() not in BOOLEAN_WORDS:
        raise UsageError(f"--overwrite: expected true or false, got {overwrite!r}")
    words = [f"--trained_model={trained_model}", f"--output={output}", f"--format={format}"]
    if str(overwrite).lower() in ("true", "yes", "1", "on"):
        words.append("--overwrite")
    return subprocess.run([sys.executable, "-m", "edl_allreduce.export", *words], check=False).returncode
