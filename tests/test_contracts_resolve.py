# ruff: noqa: E501 (what users read stands here unbroken)
"""Names in a model zoo are found as files; nothing of it needs TensorFlow."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edl_allreduce.contracts import Mode, arguments, vectorised, zoo_files
from edl_allreduce.contracts.arguments import Takes, by_role, is_loss, takes
from edl_allreduce.contracts.base import is_vectorised
from edl_allreduce.contracts.resolve import Location, find_definition, locate, modules_of
from edl_allreduce.contracts.zoo_files import code_files
from edl_allreduce.errors import ModelError, UsageError
from edl_allreduce.spec import ModelSpec


@pytest.fixture(autouse=True)
def _path_without_zoos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Python's path as it was, without the zoo that some test before has entered: nobody would take that out again."""
    zoos = str(tmp_path_factory.getbasetemp())
    before = [path for path in sys.path if not path.startswith(zoos)]
    yield
    sys.path[:] = before


def make(folder: Path, *files: str, text: str = "") -> Path:
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text or f"WHERE = {file!r}\n")
    return folder


def where(zoo: Path, model_def: str) -> Any:
    return find_definition(ModelSpec(model_zoo=str(zoo), model_def=model_def)).target


def test_neither_the_package_nor_finding_files_imports_tensorflow() -> None:
    code = "import sys, edl_allreduce.contracts, edl_allreduce.contracts.resolve; print({'tensorflow', 'keras'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("dotted", "module", "file", "name"),
    [
        ("fintech.MyKerasModel", "fintech", "fintech.py", "MyKerasModel"),
        ("regressor.wide_and_deep.MagicalWAD", "regressor.wide_and_deep", "regressor/wide_and_deep.py", "MagicalWAD"),
        ("regressor.deep.MagicalWAD", "regressor.deep", "regressor/deep/__init__.py", "MagicalWAD"),
        ("fintech", "fintech", "fintech.py", ""),
        ("regressor.deep", "regressor.deep", "regressor/deep/__init__.py", ""),
    ],
)
def test_locate(tmp_path: Path, dotted: str, module: str, file: str, name: str) -> None:
    zoo = make(tmp_path, "fintech.py", "regressor/wide_and_deep.py", "regressor/deep/__init__.py")
    assert locate(str(zoo), dotted) == Location(module, str(zoo / file), name)


def test_locate_speaks_of_files_as_the_user_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make(tmp_path, "zoo/fintech.py"))
    assert locate("./zoo/", "fintech.Model").file == "zoo/fintech.py"
    with pytest.raises(
        UsageError,
        match=r"^--input_fn: 'fintec\.parse' needs the file zoo/fintec\.py or .*\(did you mean 'fintech'\?\)$",
    ):
        locate("zoo", "fintec.parse", "input_fn")


def test_modules_come_from_the_zoo_with_and_without_init_files(tmp_path: Path) -> None:
    zoo = make(tmp_path, "one.py", "plain/two.py", "package/__init__.py", "package/three.py")
    found = [where(zoo, f"{name}.WHERE") for name in ("one", "plain.two", "package", "package.three")]
    assert found == ["one.py", "plain/two.py", "package/__init__.py", "package/three.py"]
    assert sys.path[0] == str(zoo)
    assert set(modules_of(zoo)) == {"one", "plain", "plain.two", "package", "package.three"}


def test_another_zoo_may_have_files_of_the_same_names(tmp_path: Path) -> None:
    first = make(tmp_path / "first", "one.py", "plain/two.py", text="WHERE = 1\n")
    second = make(tmp_path / "second", "one.py", "plain.py", text="WHERE = 2\n")
    assert [where(first, "one.WHERE"), where(first, "plain.two.WHERE")] == [1, 1]
    assert [where(second, "one.WHERE"), where(second, "plain.WHERE")] == [2, 2]
    assert [where(first, "one.WHERE"), where(first, "plain.two.WHERE")] == [1, 1]
    assert str(second) not in sys.path


def test_files_of_a_zoo_may_import_each_other(tmp_path: Path) -> None:
    zoo = make(tmp_path, "parts/words.py", text="WORD = 'hello'\n")
    make(tmp_path, "line.py", text="from parts.words import WORD\n")
    assert where(zoo, "line.WORD") == "hello"


def test_modules_that_make_up_attributes_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As TensorBoard has them."""
    strange = types.ModuleType("strange")
    strange.__dict__["__getattr__"] = lambda name: 0
    monkeypatch.setitem(sys.modules, "strange", strange)
    assert modules_of(tmp_path) == {}


def test_code_files_are_the_users_only(tmp_path: Path) -> None:
    zoo = make(
        tmp_path,
        "one.py",
        "plain/two.py",
        "requirements.txt",
        "notes.txt",
        ".hidden.py",
        ".git/hook.py",
        "__pycache__/one.py",
        "venv/lib/site.py",
        "venv/pyvenv.cfg",
        "node_modules/x.py",
        "lib/site-packages/y.py",
    )
    (zoo / "loop").symlink_to(zoo)
    assert code_files(str(zoo)) == ["one.py", "plain/two.py", "requirements.txt"]


@pytest.mark.parametrize("limit", ["MAX_FILES", "MAX_BYTES"])
def test_of_a_huge_folder_only_what_was_imported_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    zoo = make(tmp_path, "one.py", "plain/two.py", "three.py", "requirements.txt")
    where(zoo, "plain.two.WHERE")
    monkeypatch.setattr(zoo_files, limit, 2)
    assert code_files(str(zoo)) == ["plain/two.py", "requirements.txt"]


def test_mode_is_elasticdls_string_too() -> None:
    said: str = Mode.TRAINING
    assert said == "training" and Mode("prediction") is Mode.PREDICTION


def test_vectorised_marks_methods() -> None:
    class Model:
        @vectorised
        def method(self, records: Any) -> None: ...

        @vectorised
        @staticmethod
        def static(records: Any) -> None: ...

        def plain(self, record: Any) -> None: ...

    assert is_vectorised(Model().method) and is_vectorised(Model.static) and not is_vectorised(Model().plain)


def two(labels: Any, outputs: Any) -> None: ...
def swapped(predictions: Any, labels: Any) -> None: ...
def defaults(outputs: Any = None, labels: Any = None) -> None: ...
def unnamed(a: Any, b: Any) -> None: ...
def factory() -> None: ...
def with_params(alpha: float, beta: float) -> None: ...
def with_defaults(from_logits: bool = True, smoothing: float = 0.0) -> None: ...


@pytest.mark.parametrize(
    ("function", "is_one"),
    [
        (two, True),
        (swapped, True),
        (defaults, True),
        (unnamed, True),
        (factory, False),
        (with_params, False),
        (with_defaults, False),
    ],
)
def test_losses_are_told_from_functions_that_return_one(function: Callable[..., Any], is_one: bool) -> None:
    assert is_loss(function, {"alpha", "beta"}) is is_one


@pytest.mark.parametrize(
    ("function", "given"),
    [
        (lambda labels, outputs: (labels, outputs), "LO"),
        (lambda outputs=None, labels=None: (outputs, labels), "OL"),
        (lambda a, b: (a, b), "LO"),
        (lambda *both: both, "LO"),
        (lambda y, target: (y, target), "LO"),  # both mean labels: then the order counts
        (lambda logits, x: (logits, x), "OL"),
        (lambda a, y: (a, y), "OL"),
        (lambda labels, predictions, alpha="-": (labels, predictions, alpha), "LO-"),
        (lambda labels, outputs, sample_weight: (labels, outputs, sample_weight), "LOW"),
        (lambda mode, outputs, labels, predictions: (mode, outputs, labels, predictions), "MOLO"),
    ],
)
def test_functions_get_labels_and_outputs_by_name_else_in_order(function: Callable[..., Any], given: str) -> None:
    assert "".join(by_role(function)(labels="L", outputs="O", weights="W", mode="M")) == given


def test_where_names_say_nothing_the_contracts_order_counts() -> None:
    def short(m: Any, o: Any, l: Any) -> Any:  # noqa: E741
        return m, o, l

    given = by_role(short, ("mode", "outputs", "labels"))(labels="L", outputs="O", mode="M")
    assert given == ("M", "O", "L")


def test_what_functions_take() -> None:
    class Model:
        def __init__(self, units: int, rate: float = 0.1, **others: Any) -> None: ...

    class Child(Model): ...

    assert takes(Model) == takes(Child) == Takes(("units", "rate"), ("units",), True)
    assert takes(with_params).chosen({"alpha": 1, "gamma": 2}) == {"alpha": 1}
    assert takes(Model).chosen({"alpha": 1}) == {"alpha": 1}


def test_a_param_that_nobody_takes_is_refused() -> None:
    takers = {"Model": takes(with_params), "default_loss": takes(factory)}
    arguments.check_all_taken({"alpha": 1}, takers, "a.py")
    with pytest.raises(
        ModelError, match=r"^a\.py: there is no parameter 'alpah' \(did you mean 'alpha'\?\); Model takes alpha, beta$"
    ):
        arguments.check_all_taken({"alpah": 1}, takers, "a.py")


def test_a_zoo_around_this_package_forgets_nothing_of_it(tmp_path: Path) -> None:
    house = Path(zoo_files.__file__).parents[2]
    before = {name: module for name, module in sys.modules.items() if name.startswith("edl_allreduce")}
    with pytest.raises(ModelError, match=r"has no 'NOTHING'$"):
        find_definition(ModelSpec(model_zoo=str(house), model_def="tests.zoo.NOTHING"))
    assert where(make(tmp_path, "one.py"), "one.WHERE") == "one.py"
    assert all(sys.modules.get(name) is module for name, module in before.items())
