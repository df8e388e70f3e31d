"""`edl sql` and `edl models` as people type them: plans, mistakes, passwords that stay secret, models by name."""

from __future__ import annotations

import ast
import io
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import launcher
from edl_allreduce import storage
from edl_allreduce.errors import EdlError, UsageError
from edl_allreduce.schema import Schema, SchemaColumn
from edl_allreduce.trained_model_pb2 import TrainedModel
from launcher.cli import main
from launcher.local.plan import Plan
from launcher.local.process import spawn
from launcher.sqlflow import database_url, steps
from tests.fakes import planned

TRAIN = "SELECT a, b, y FROM t TRAIN regressor.DNN WITH hidden_units=[3], learning_rate=0.5 INTO m"
PREDICT = "SELECT a, b FROM t PREDICT t.c USING m"
EVALUATE = "SELECT a, b, y FROM t TO EVALUATE m"
SECRET = "postgresql://me:s3cr%2Fet@db.example.com/shop?connect_timeout=2"
SCHEMA = Schema(
    (
        SchemaColumn("a", "number", "integer", nulls=2, mean=1.5, std=0.5),
        SchemaColumn("b", "vocabulary", "text", vocabulary=("x", "y")),
        SchemaColumn("y", "number", "float", mean=4.0, std=2.0),
    ),
    "y",
    1200,
)


@pytest.fixture(autouse=True)
def work_in_a_folder_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "120")
    with sqlite3.connect("edl.db") as db:
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER, b TEXT, y REAL)")
        db.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", [(n, n % 5, "xy"[n % 2], n % 5 + n % 2) for n in range(64)])
    db.close()
    yield


def trained(name: str, params: str = f"hidden_units=[3], schema={SCHEMA.to_params()}") -> Path:
    """A model as far as it can be told without TensorFlow."""
    place = Path("home/models") / name
    place.mkdir(parents=True)
    message = TrainedModel(model_def="regressor.DNN", model_def_params=params)
    (place / "trained_model.pb").write_bytes(message.SerializeToString())
    steps.keep_statement(str(place), f"SELECT 1 TRAIN regressor.DNN INTO {name}", SECRET)
    return place


def lines(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The lines of a plan by their first word."""
    return {line.partition(" ")[0]: line[11:] for line in capsys.readouterr().out.splitlines()}


def test_a_plan_says_all_and_does_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["sql", TRAIN, "--num_workers=2", "--dry_run"]) == 0
    plan, home = lines(capsys), tmp_path / "home"
    assert plan["statement"] == TRAIN and plan["database"] == "sqlite:///edl.db"
    assert plan["result"] == f"{home}/models/m" and plan["rows"].startswith(f"{home}/models/m/_data/m-")
    assert "edl train --model_zoo=" in plan["job"] and "--model_def=regressor.DNN" in plan["job"]
    assert "'--params=hidden_units=[3], learning_rate=0.5, schema={…}'" in plan["job"]
    assert "--input_fn=sqlflow.elasticdl_input_function --num_workers=2 " in plan["job"]
    assert not home.exists()


def test_the_statement_says_it_before_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    stated = TRAIN.replace("learning_rate", "train.num_epochs=7, train.shuffle=False, learning_rate")
    assert main(["sql", stated, "--num_epochs=3", "--batch_size=9", "--dry_run"]) == 0
    job = lines(capsys)["job"]
    assert "--num_epochs=7" in job and "--shuffle=False" in job and "--batch_size=9" in job and "epochs=3" not in job


def test_statements_of_a_file_and_of_the_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"-- nightly\n{TRAIN};\n{PREDICT};{EVALUATE}"
    Path("nightly.sql").write_text(text, encoding="utf-8-sig")
    assert main(["sql", "--file=nightly.sql", "--dry_run", "--num_epochs=2"]) == 0
    of_file = capsys.readouterr().out
    assert [line for line in of_file.splitlines() if line.startswith("statement")] == [
        f"statement  {each}" for each in (TRAIN, PREDICT, EVALUATE)
    ]
    assert "column c of table t" in of_file and of_file.count("--num_epochs") == 1, "it means nothing to the others"
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert main(["sql", "-", "--dry_run", "--num_epochs=2"]) == 0
    assert capsys.readouterr().out.count("statement ") == 3


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "edl sql: STATEMENT is missing; edl sql --help explains it"),
        (["SELECT", "a"], 2, "edl sql: 'a' is too much; put the statement in quotes"),
        ([TRAIN, "--file=x"], 2, "--file: give a statement or a file, not both"),
        (["--file=nowhere.sql"], 3, "--file: nowhere.sql: No such file or directory"),
        ([TRAIN, "--num_worker=2"], 2, "--num_worker: there is no such flag (did you mean 'num_workers'?)"),
        ([TRAIN, "--num_workers=x"], 2, "--num_workers: expected a whole number"),
        ([TRAIN, "--model_def=x"], 2, "--model_def: there is no such flag"),
        ([PREDICT, "--num_epochs=2"], 2, "--num_epochs: means nothing to PREDICT; leave it out"),
        ([PREDICT, "--nowait"], 2, "--wait: PREDICT waits for the predictions"),
        ([TRAIN.replace("h", "train.h", 1)], 2, "train.hidden_units: there is no such flag; edl train --help lists"),
        ([TRAIN.replace("hidden_units", "train.data")], 2, "train.data: is not for WITH"),
        ([TRAIN.replace("[3]", "f()")], 2, "line 1, column 61: hidden_units: f() is not a plain value"),
        ([TRAIN.replace("DNN", "DN")], 2, "--model_def: "),
        ([TRAIN.replace("FROM t ", "FROM u ")], 3, "sqlite:///edl.db: no such table: u"),
        ([TRAIN.replace("a, b, y", "a, y, b")], 4, "sqlite:///edl.db: row 1, column 'b': the label is text"),
        ([TRAIN.replace("FROM t ", "FROM t WHERE a > 9 ")], 4, "sqlite:///edl.db: the SELECT gives no row"),
        ([TRAIN.replace("INTO", "LABEL z INTO")], 4, "sqlite:///edl.db: the SELECT has no column 'z'"),
        ([PREDICT], 2, "there is no model m in "),
        ([TRAIN, "--database=other.db"], 3, "sqlite:///other.db: there is no file 'other.db'"),
        ([TRAIN, "--database=@nowhere"], 3, "--database: nowhere: No such file or directory"),
        ([TRAIN, "--database=@edl.db"], 3, "--database: edl.db"),
        ([TRAIN, "--backend=kubernetes", "--image=a/b:1"], 2, "--models: pods do not see "),
        (
            [TRAIN, "--backend=kubernetes", "--models=memory://x/models"],
            2,
            "--image_repository: required and not given",
        ),
        (
            [PREDICT.replace("USING", "WITH predict.probabilities=2 USING")],
            2,
            "predict.probabilities: expected True or",
        ),
    ],
)
def test_a_mistake_is_told_before_anything_is_started(
    words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = main(["sql", *words])
    out, err = capsys.readouterr()
    assert err.startswith(f"error: {message}") and found == code and not out
    assert not (tmp_path / "home/jobs").exists()


def test_no_database_is_said_and_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    Path("edl.db").unlink()
    assert main(["sql", TRAIN]) == 2
    assert capsys.readouterr().err.startswith("error: --database: required and not given, such as sqlite:///shop.db;")


def test_a_name_that_is_taken(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    place = trained("m")
    assert main(["sql", TRAIN]) == 2
    assert "INTO m: there is such a model in" in capsys.readouterr().err
    assert not (place / "_data").exists(), "no row has been asked for"


@pytest.mark.parametrize("way", ["variable", "file", "flag"])
def test_a_password_is_never_shown(
    way: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("url").write_text(f"{SECRET}\n")
    if way == "variable":
        monkeypatch.setenv("EDL_DATABASE", SECRET)
    flags = {"variable": [], "file": ["--database=@url"], "flag": [f"--database={SECRET}"]}[way]
    for more in (["--dry_run"], ["--print_submitter"]):
        assert main(["sql", f"{TRAIN};{PREDICT}", *flags, *more]) == 0
    monkeypatch.setattr(steps, "extract", refuse)
    trained("n")
    assert main(["sql", TRAIN, *flags]) == 3
    assert main(["models", "show", "n"]) == 0
    out, err = capsys.readouterr()
    assert "postgresql://db.example.com/shop" in out
    assert "s3cr" not in out + err
    assert ("warning: --database has a password" in err) == (way == "flag")
    assert not any(
        "s3cr" in path.name or (path.is_file() and b"s3cr" in path.read_bytes()) for path in Path("home").rglob("*")
    )


def refuse(database: str, *_: object, **__: object) -> object:
    from edl_allreduce.sql_source import SqlSource

    assert database == SECRET
    with (
        SqlSource("postgresql://me:s3cr%2Fet@127.0.0.1:1/shop?connect_timeout=2") as source,
        source.select("SELECT 1", 1),
    ):
        raise AssertionError("nobody listens there")


def test_databases_by_url_path_file_and_variable(tmp_path: Path) -> None:
    assert database_url.resolve("", {}) == "sqlite:///edl.db"
    assert database_url.resolve("", {"EDL_DATABASE": SECRET}) == SECRET
    assert database_url.resolve("a/b.db", {"EDL_DATABASE": SECRET}) == "sqlite:///a/b.db"
    (tmp_path / "url").write_text(f" {SECRET} \n")
    assert database_url.resolve("", {"EDL_DATABASE": f"@{tmp_path}/url"}) == SECRET
    with pytest.raises(UsageError, match="expected the URL of a database in it"):
        (tmp_path / "url").write_text("secret word")
        database_url.resolve(f"@{tmp_path}/url", {})
    assert database_url.identity(SECRET) == "postgresql://me@db.example.com/shop?connect_timeout=2"
    assert database_url.identity("sqlite:///edl.db") == f"sqlite:///{tmp_path}/edl.db"
    assert "pw" not in database_url.identity("postgresql:///shop?user=me&password=pw&host=db")
    assert [database_url.has_password(each) for each in (SECRET, "mysql://me@host/x", "sqlite:///a@b:c")] == [1, 0, 0]
    assert database_url.dialect_of("mysql+pymysql://h/d") == "mysql"


def test_processes_of_a_job_do_not_get_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDL_DATABASE", SECRET)
    plan = planned("train")
    plan.folder.create("{}", "token")
    seen = tmp_path / "seen"
    command = (sys.executable, "-c", f"import os; open({str(seen)!r}, 'w').write(repr(dict(os.environ)))")
    process = spawn(Plan(plan.job, plan.folder, command, ()), detach=False)
    assert process.wait(30) == 0 and process.stdin
    process.stdin.close()
    assert "PATH" in seen.read_text() and "s3cr" not in seen.read_text()


def test_kubernetes_gets_urls_and_the_zoo_of_the_image(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDL_MODELS", "s3://bucket/models")
    flags = ["--backend=kubernetes", "--image=registry.example.com/zoo:1", "--data_folder=s3://other/rows"]
    assert main(["sql", TRAIN, *flags, "--dry_run"]) == 0
    plan = lines(capsys)
    assert plan["result"] == "s3://bucket/models/m" and plan["rows"].startswith("s3://other/rows/m-")
    assert "--image=registry.example.com/zoo:1" in plan["job"] and "--model_zoo" not in plan["job"]
    assert main(["sql", TRAIN, *flags, "--print_submitter"]) == 0
    program = capsys.readouterr().out
    [train] = [each for each in ast.walk(ast.parse(program)) if isinstance(each, ast.Call) and name_of(each) == "train"]
    given = {each.arg: each.value for each in train.keywords}
    assert ast.literal_eval(given.pop("image")) == "registry.example.com/zoo:1"
    assert ast.unparse(given.pop("params")).endswith("schema=' + rows.schema.to_params()")
    assert ast.unparse(given.pop("data")) == "rows.data"
    assert all(isinstance(ast.literal_eval(value), str) for value in given.values())


def name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


@pytest.mark.parametrize("nasty", ["'; import os #", 'it\'s "quoted" \\', "a\u2028b\x0cc", "日本\nTRAIN"])
def test_the_submitter_is_a_program_whatever_a_statement_holds(nasty: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = "SELECT a, '{}' FROM t TRAIN n.N WITH x='{}' INTO m".format(*2 * [nasty.replace("'", "''")])
    assert main(["sql", f"{text};{PREDICT};{EVALUATE}", "--print_submitter"]) == 0
    program = ast.parse(capsys.readouterr().out)
    calls = [name_of(each) or ast.unparse(each.func) for each in ast.walk(program) if isinstance(each, ast.Call)]
    assert sorted(set(calls)) == [
        *(
            "check_target",
            "database",
            "evaluate",
            "keep_statement",
            "predict",
            "remove",
            "rows_for_model",
            "to_params",
            "train",
        ),
        *("training_rows", "write_back"),
    ]
    assert any(
        isinstance(each, ast.Constant) and nasty.replace("'", "''") in str(each.value) for each in ast.walk(program)
    )


def test_rows_are_taken_again_only_where_a_training_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there: list[object] = []
    monkeypatch.setattr("edl_allreduce.checkpoint.newest", lambda output: there and there[0])
    told: list[str] = []

    def rows(resume: str = "auto") -> int:
        settings = {"output": str(tmp_path / "m"), "target": "number", "resume": resume, "tell": told.append}
        taken = steps.training_rows("sqlite:///edl.db", "SELECT a, y FROM t", str(tmp_path / "rows"), **settings)  # type: ignore[arg-type]
        with sqlite3.connect("edl.db") as db:
            db.execute("DELETE FROM t WHERE id IN (SELECT id FROM t LIMIT 10)")
        return taken.rows

    assert [rows(), rows()] == [64, 54], "nothing was begun: fresh rows"
    there.append("a checkpoint")
    assert [rows(), rows("must"), rows("never")] == [54, 54, 24]
    assert sum("goes on with its rows" in line for line in told) == 2
    (tmp_path / "m").mkdir()
    (tmp_path / "m/trained_model.pb").touch()
    assert rows() == 14, "it is done: a new training"


def test_models_are_listed_shown_and_deleted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["models", "list"]) == 0 and "no models in " in capsys.readouterr().out
    place = trained("salaries")
    other = trained("plain", params="")
    (other / "trained_model.pb").unlink()
    Path("home/models/notes").mkdir()
    assert main(["models", "list"]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "model", "label", "rows", "made"]
    assert first.startswith("plain     not trained to its end") and second.split()[:4] == [
        *("salaries", "regressor.DNN", "y", "1,200")
    ]
    assert main(["models", "show", "salaries"]) == 0
    shown = capsys.readouterr().out
    assert "on postgresql://db.example.com/shop by\n  SELECT 1 TRAIN regressor.DNN INTO salaries;" in shown
    assert "model regressor.DNN with hidden_units=[3]\ntrained on 1,200 rows\n" in shown
    assert "  a  integer, mean 1.5, deviation 0.5, 2 NULL\n  b  text, one of 'x', 'y'\n  y  label, float" in shown
    assert main(["models", "delete", "salarie", "--yes"]) == 2
    assert "there is no model salarie in" in capsys.readouterr().err
    assert main(["models", "delete", "salaries"]) == 2 and place.exists()
    assert "nobody is here to be asked; --yes deletes" in capsys.readouterr().err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert main(["models", "delete", "salaries"]) == 1 and place.exists()
    monkeypatch.setattr("builtins.input", lambda question: "yes")
    assert main(["models", "delete", "salaries"]) == 0 and not place.exists() and other.exists()
    assert main(["models", "delete", "../models", "--yes"]) == 2 and other.exists()


def test_predictions_know_what_the_model_was_trained_on(capsys: pytest.CaptureFixture[str]) -> None:
    trained("m")
    trained("old", params="hidden_units=[3]")
    for text, message in (
        (PREDICT.replace("a, b", "b"), "has no column 'a', which the model was trained with; it has b"),
        (PREDICT.replace("a, b", "b AS a, b"), "column 'a'"),
        (EVALUATE.replace("m", "m LABEL b"), "LABEL b: model m was trained with the label y"),
        (EVALUATE.replace("m", "old"), "model old in "),
        (EVALUATE.replace("m", "olt"), "(did you mean 'old'?)"),
    ):
        assert main(["sql", text]) in (2, 4)
        assert message in capsys.readouterr().err
    assert not list(Path("home/models/m").glob("_data/*")), "rows are removed"


def test_in_python(capsys: pytest.CaptureFixture[str]) -> None:
    assert launcher.sql(TRAIN, database="edl.db", models="mine", num_workers=2, dry_run=True) is None
    assert "mine/m/_data/m-" in capsys.readouterr().out
    with pytest.raises(EdlError, match="did you mean 'num_workers'"):
        launcher.sql(TRAIN, num_worker=2)
    with pytest.raises(EdlError, match="--model_def: follows from the statement; leave it out"):
        launcher.sql(TRAIN, model_def="x.Y")


def test_a_statement_may_begin_with_a_comment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", f"-- every night\n{TRAIN}", "--dry_run"]) == 0
    assert lines(capsys)["statement"] == TRAIN


def test_what_a_failed_statement_leaves(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["sql", TRAIN.replace("INTO", "LABEL z INTO")]) == 4
    assert not list(Path("home").glob("models/*")), "neither rows nor an empty model"

    def fail(*_: object, **__: object) -> object:
        raise UsageError("no job today")

    monkeypatch.setattr("launcher.sqlflow.carry_out.run", fail)
    assert main(["sql", TRAIN]) == 2
    assert [path.name for path in Path("home/models/m").iterdir()] == ["statement.sql"]
    made = trained("n")
    before = (made / "statement.sql").read_bytes()
    assert main(["sql", TRAIN.replace("INTO m", "INTO n"), "--overwrite"]) == 2
    assert (made / "statement.sql").read_bytes() == before, "the old model is still there"
    assert "no job today" in capsys.readouterr().err


def test_a_name_that_a_running_job_writes_to(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.local.jobs.writer_of", lambda output, environ: "nightly")
    assert main(["sql", TRAIN]) == 2
    assert "INTO m: job nightly is training it" in capsys.readouterr().err and not Path("home/models").exists()
    place = trained("m")
    assert main(["models", "delete", "m", "--yes"]) == 2 and place.exists()
    assert "edl models delete m: job nightly is training it" in capsys.readouterr().err


def test_models_and_rows_in_a_store(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    place = "memory://bucket/models/m"
    rows = steps.training_rows(
        "sqlite:///edl.db", "SELECT a, b, y FROM t", f"{place}/_data/m-1", output=place, target="number"
    )
    assert rows.rows == 64 and storage.expand(rows.data)
    steps.keep_statement(place, TRAIN, SECRET)
    assert main(["models", "list", "--models=memory://bucket/models"]) == 0
    assert "m     not trained to its end" in capsys.readouterr().out
    steps.remove(f"{place}/_data/m-1")
    assert storage.names_in(place) == ["statement.sql"]
    assert main(["models", "delete", "m", "--yes", "--models=memory://bucket/models"]) == 0
    assert not storage.names_in("memory://bucket/models")
