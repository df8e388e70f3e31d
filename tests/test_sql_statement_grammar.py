"""Statements are read as they were meant: the SELECT untouched, our clause as plain values, mistakes by their place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edl_allreduce.errors import UsageError
from edl_allreduce.schema import ColumnWish
from launcher.sqlflow.grammar import parse
from launcher.sqlflow.statements import Evaluate, Predict, Train

DATABASES = ("sqlite", "postgresql", "mysql", "mariadb")
THE_DESIGNS = """SELECT name, role, salary FROM employee
TRAIN regressor.DNN
WITH hidden_units=[10, 100, 20, 5], learning_rate=0.01
INTO my_trained_model;

SELECT name, role FROM testdata
PREDICT testdata.predicted_salary
USING my_trained_model;"""


def one(text: str, dialect: str = "sqlite") -> Any:
    [statement] = parse(text, dialect)
    return statement


@pytest.mark.parametrize("dialect", DATABASES)
def test_the_statements_of_the_design(dialect: str) -> None:
    train, predict = parse(THE_DESIGNS, dialect)
    assert train == Train(
        text=THE_DESIGNS.partition(";")[0],
        select="SELECT name, role, salary FROM employee",
        model="regressor.DNN",
        name="my_trained_model",
        params={"hidden_units": [10, 100, 20, 5], "learning_rate": 0.01},
    )
    assert predict == Predict(
        text=THE_DESIGNS.split(";")[1].strip(),
        select="SELECT name, role FROM testdata",
        name="my_trained_model",
        table="testdata",
        column="predicted_salary",
    )


@pytest.mark.parametrize("dialect", DATABASES)
def test_the_statements_of_sqlflow(dialect: str) -> None:
    statements: Any = parse(
        """
        SELECT * FROM iris.train TO TRAIN classifier.DNN
        WITH model.n_classes = 3, model.hidden_units = [10, 20], train.batch_size=32,
             validation.select="SELECT * FROM iris.test WHERE a = ''x''"
        COLUMN sepal_length, NUMERIC(sepal_width), CATEGORY_HASH(colour, 100), CATEGORY_ID(`a b`, 7)
        LABEL class
        INTO sqlflow_models.my_dnn_model;
        SELECT * FROM iris.test to predict iris.p.class WITH predict.batch_size=8 USING sqlflow_models.my_dnn_model;
        SELECT * FROM iris.test TO EVALUATE m WITH evaluate.num_workers=2 LABEL class
        """,
        dialect,
    )
    train, predict, evaluate = statements
    assert train.select == "SELECT * FROM iris.train" and train.label == "class"
    assert train.params == {"n_classes": 3, "hidden_units": [10, 20]} and train.settings == {"batch_size": 32}
    assert train.validation == "SELECT * FROM iris.test WHERE a = ''x''" and train.name == "sqlflow_models.my_dnn_model"
    assert train.columns == {
        "sepal_length": ColumnWish(),
        "sepal_width": ColumnWish("number"),
        "colour": ColumnWish("hash", 100),
        "a b": ColumnWish("vocabulary", 7),
    }
    assert (predict.table, predict.column, predict.settings) == ("iris.p", "class", {"batch_size": 8})
    assert isinstance(evaluate, Evaluate) and (evaluate.name, evaluate.label) == ("m", "class")
    assert evaluate.settings == {"num_workers": 2} and evaluate.select == "SELECT * FROM iris.test"


@pytest.mark.parametrize(
    ("dialect", "select"),
    [
        ("sqlite", "SELECT 'it''s; TRAIN a INTO b', [TRAIN a INTO b], `TRAIN a INTO b`, \"TRAIN a INTO b\" FROM t"),
        ("postgresql", "SELECT $$; TRAIN a INTO b'$$, $x$ $$ TRAIN a INTO b $x$, E'\\'TRAIN a INTO b' FROM t"),
        ("postgresql", 'SELECT "a""b TRAIN a INTO b", \'\\\' /* ; /* nested */ TRAIN a INTO b */ FROM t'),
        ("mysql", 'SELECT `a``b TRAIN a INTO b`, "\\" TRAIN a INTO b", 5--3 # TRAIN a INTO b \'\nFROM t'),
        ("mariadb", "SELECT 'a\\'; TRAIN a INTO b' /* /* TRAIN a INTO b */ FROM t"),
        ("sqlite", "SELECT a -- TRAIN a INTO b; 'x\nFROM t"),
        ("sqlite", "SELECT train, t.predict AS evaluate FROM train JOIN predict ON train.a = predict.a, train"),
        ("sqlite", "SELECT (SELECT a train FROM x TRAIN WHERE 1), 'TO TRAIN' FROM (SELECT 1 TO) t"),
        ("postgresql", "WITH train AS (SELECT 1) SELECT *, a @> '{}' , b->>'x', c::text FROM train predict"),
        ("sqlite", "SELECT '日本 TRAIN a INTO b', 'é' FROM \"таблица\" -- ends so"),
        ("sqlite", "(SELECT 1)"),
        ("postgresql", "VALUES (1, 'TRAIN a INTO b')"),
    ],
)
@pytest.mark.parametrize("to", ["", "TO "])
def test_the_select_is_left_as_it_is(dialect: str, select: str, to: str) -> None:
    found = one(f"{select}\n{to}TRAIN m.N WITH a=1 INTO b", dialect)
    assert (found.select, found.model, found.name) == (select, "m.N", "b")
    first, second = parse(f"{select}\n{to}train m INTO b;;{select}\n{to}PREDICT t.c USING b;", dialect)
    assert first.select == second.select == select


words = st.sampled_from(
    ["TRAIN", "PREDICT", "TO", "INTO", "a", ";", "'", '"', "`", "--", "/*", "*/", "#", "\n", " ", "]"]
)
anything = st.lists(words | st.text(max_size=3), max_size=12).map("".join).map(lambda text: text.replace("\0", ""))


@given(anything, anything)
def test_nothing_in_a_string_or_quoted_name_is_ours(text: str, name: str) -> None:
    select = "SELECT '{}' AS \"{}\" FROM t".format(text.replace("'", "''"), name.replace('"', '""') or "x")
    for dialect in ("sqlite", "postgresql"):
        assert one(f"{select} TRAIN m WITH a=1 INTO b", dialect).select == select


@given(anything)
def test_a_string_in_with_is_what_was_written(text: str) -> None:
    for quote in "'\"":
        literal = quote + text.replace(quote, quote * 2) + quote
        found = one(f"SELECT 1 TRAIN m WITH a={literal}, b=[{literal}, ({literal},)] INTO n")
        assert found.params == {"a": text, "b": [text, (text,)]}


literals = st.recursive(
    st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers(), inner, max_size=3),
    max_leaves=8,
)


@given(literals)
def test_plain_values_are_read_as_python_reads_them(value: object) -> None:
    assert one(f"SELECT 1 TRAIN m WITH a={value!r} INTO n").params == {"a": value}


def refusal(text: str, dialect: str) -> str:
    try:
        return f"read {parse(text, dialect)}"
    except UsageError as error:
        return str(error)


@given(st.text(alphabet="SELECTRAINOWHab;'\"`()[]{}=.,-/*#$1 \n", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    for dialect in ("sqlite", "postgresql", "mysql"):
        for whole in (text, f"SELECT a FROM t TRAIN {text}"):
            assert refusal(whole, dialect).startswith(("line ", "there is no statement", "read"))


MISTAKES = {
    "SELECT a FROM t": "1, column 16: expected TRAIN, PREDICT or TO EVALUATE; the database's own client runs anything",
    "SELECT a FROM t; SELECT a FROM t TRAIN m INTO n": "1, column 16: expected TRAIN, PREDICT or TO EVALUATE",
    "SELECT a FROM t TRIAN m INTO n": "1, column 17: there is no 'TRIAN' (did you mean TRAIN?)",
    "DELETE FROM t TRAIN m INTO n": "1, column 1: expected a SELECT, got 'DELETE'",
    "TRAIN m INTO n": "1, column 1: expected a SELECT before TRAIN",
    "SELECT 'a FROM t TRAIN m INTO n": "1, column 8: this quote, bracket or comment is not closed",
    "SELECT a\nFROM t TRAIN INTO n": "2, column 14: expected a model, such as regressor.DNN after TRAIN, got INTO",
    "SELECT a\nFROM t\n TRAIN m": "3, column 9: expected WITH or COLUMN or LABEL or INTO, got the end of the statement",
    "SELECT 1 TRAIN m WIHT a=1 INTO n": "1, column 18: expected WITH or COLUMN or LABEL or INTO, got WIHT (did",
    "SELECT 1 TRAIN m INTO n WITH a=1": "1, column 25: expected the end of the statement, got WITH",
    "SELECT 1 TRAIN m WITH a=adam INTO n": "1, column 25: a: adam is not a plain value; write a='adam' for a string",
    "SELECT 1 TRAIN m WITH a=f('x') INTO n": "1, column 25: a: f('x') is not a plain value, such as 0.01, 'text'",
    "SELECT 1 TRAIN m WITH a='x' 'y' INTO n": "1, column 25: a: 'x' 'y' is not a plain value",
    "SELECT 1 TRAIN m WITH a=[1 INTO n": "1, column 25: a: a bracket is not closed",
    "SELECT 1 TRAIN m WITH a= INTO n": "1, column 26: expected a value after a=, got INTO",
    "SELECT 1 TRAIN m WITH a INTO n": "1, column 25: expected '=' after a, got INTO",
    "SELECT 1 TRAIN m WITH a=1, model.a=2 INTO n": "1, column 28: model.a is given twice",
    "SELECT 1 TRAIN m WITH a='x INTO n": "1, column 25: this string is not closed",
    "SELECT 1 TRAIN m WITH trian.a=1 INTO n": "1, column 23: trian.a means nothing in WITH (did you mean 'train'?)",
    "SELECT 1 TRAIN m WITH validation.select=3 INTO n": "1, column 23: validation.select: expected a SELECT as a str",
    'SELECT 1 TRAIN m WITH "a b"=1 INTO n': "1, column 23: a b is no name of an argument",
    "SELECT 1 PREDICT c USING n": "1, column 18: expected TABLE.COLUMN after PREDICT, got c alone",
    "SELECT 1 TRAIN m WITH model.class=1 INTO n": "1, column 23: model.class is no name of an argument",
    "SELECT 1 PREDICT t.c INTO n": "1, column 22: expected WITH or USING, got INTO",
    "SELECT 1 EVALUATE n": "1, column 10: expected TO before EVALUATE",
    "SELECT 1 TRAIN m COLUMN BUCKET(a, 2) INTO n": "1, column 25: COLUMN does not know BUCKET",
    "SELECT 1 TRAIN m COLUMN NUMERIC(a, 2) INTO n": "1, column 25: NUMERIC(a, 2): a column of a table holds one number",
    "SELECT 1 TRAIN m COLUMN CATEGORY_HASH(a) INTO n": "1, column 25: CATEGORY_HASH(a): say how many",
    "SELECT 1 TRAIN m COLUMN a, a INTO n": "1, column 28: column a is named twice",
    'SELECT 1 TRAIN m INTO "../n"': "1, column 23: ../n is no name for a model; expected letters, digits",
    'SELECT 1 TRAIN m INTO "n/../../x"': "1, column 23: n/../../x is no name for a model",
    'SELECT 1 TRAIN m INTO n.""': "1, column 25: expected a name after n., got",
    "SELECT 1 TRAIN m LABEL 'c' INTO n": "1, column 24: expected a column after LABEL, got 'c'",
    "SELECT 1 TRAIN m WITH a=1 ? INTO n": "1, column 27: '?' means nothing here",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_shown_where_it_is(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, "sqlite")
    first, line, caret = str(caught.value).split("\n")
    assert first.startswith(f"line {MISTAKES[text]}")
    number, column = int(first.split()[1].rstrip(",")), int(first.split()[3].rstrip(":"))
    assert line == f"  {text.splitlines()[number - 1]}" and caret == " " * (column + 1) + "^"


def test_the_caret_stands_below_wide_letters_and_in_long_lines() -> None:
    for select, indent in (("SELECT '日本' AS x", 21), (f"SELECT '{'x' * 500}'", 52)):
        with pytest.raises(UsageError) as caught:
            parse(f"{select} TRAIN ", "sqlite")
        first, line, caret = str(caught.value).split("\n")
        assert len(line) <= 102 and caret == " " * (caret.index("^")) + "^", (first, indent)


@pytest.mark.parametrize("text", ["", " \n", ";;", "-- nothing\n", "/* TRAIN m INTO n */ ;"])
def test_no_statement_at_all(text: str) -> None:
    with pytest.raises(UsageError, match="there is no statement; expected SELECT … TRAIN …"):
        parse(text, "sqlite")


def test_a_database_that_the_tokenizer_does_not_know() -> None:
    assert one("SELECT 'TRAIN a INTO b' FROM t TRAIN m INTO n", "firebird").name == "n"


def test_names_without_quotes_are_those_that_the_database_gives() -> None:
    clause = 'SELECT 1 TRAIN m COLUMN Age, NUMERIC("Age"), CATEGORY_ID(Role, 3) LABEL Salary INTO Big'
    found = one(clause, "postgresql")
    assert [*found.columns, found.label, found.name] == ["age", "Age", "role", "salary", "Big"]
    found = one(clause.replace('NUMERIC("Age"), ', ""), "mariadb")
    assert [*found.columns, found.label] == ["Age", "Role", "Salary"]
