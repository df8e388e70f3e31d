"""Reads statements in both forms in use, the design's and SQLFlow's later one, into plain values.

    SELECT … TRAIN model [WITH x=…, …] [COLUMN …] [LABEL column] INTO name;
    SELECT … PREDICT table.column [WITH …] USING name;
    SELECT … TO TRAIN …;  SELECT … TO PREDICT …;  SELECT … TO EVALUATE name [WITH …] [LABEL column];

What is in WITH are plain values (numbers, strings, lists, …). What stands before a dot says what they are for:
`model.x`, or `x` alone, is an argument of the model, `train.x` a flag of `edl train`, `validation.select` a query for
the rows to evaluate on. In PREDICT and TO EVALUATE, `predict.x` and `evaluate.x` are flags of those commands.
"""

from __future__ import annotations

import re
from typing import Any

from edl_allreduce.errors import UsageError
from launcher.sqlflow.column_clause import read_columns
from launcher.sqlflow.lexer import error_at
from launcher.sqlflow.names import unquoted
from launcher.sqlflow.reader import END, Reader, short
from launcher.sqlflow.split import Dialect, Split, split
from launcher.sqlflow.statements import Evaluate, Predict, Statement, Train
from launcher.sqlflow.with_clause import With, read_with

MODEL_NAME = re.compile(r"[^\W_][\w-]*(\.[\w-]+)*")
MODEL_NAME_LENGTH = 100


def parse(text: str, dialect: str) -> tuple[Statement, ...]:
    """The statements of a text, which semicolons separate; at least one.

    Args:
        dialect: the database's name in its URL, such as sqlite or postgresql; it decides what a string, a quoted name
            and a comment is in the SELECT.

    Raises:
        UsageError: a statement cannot be read, or there is none; says where, by line and column.
    """
    cut, statements, place = Dialect(dialect), list[Statement](), 0
    while found := split(text, place, cut):
        clause = _Clause(text, found, dialect)
        statements.append(clause.read())
        place = clause.end
    if not statements:
        raise UsageError(
            "there is no statement; expected SELECT … TRAIN …, SELECT … PREDICT … or SELECT … TO EVALUATE …"
        )
    return tuple(statements)


class _Clause:
    """Reads one clause of ours.

    Attributes:
        end: after `read`, where the next statement may begin.
    """

    def __init__(self, text: str, found: Split, database: str) -> None:
        self._text, self._found, self._database = text, found, database
        self._reader = Reader(text, found.verb)
        self._verb = self._reader.take().text.upper()
        self.end = 0

    def read(self) -> Statement:
        """The whole statement."""
        if self._verb == "TRAIN":
            statement: Statement = self._train()
        else:
            statement = self._predict() if self._verb == "PREDICT" else self._evaluate()
        self.end = self._reader.peek().end
        return statement

    def _train(self) -> Train:
        model = ".".join(each.value for each in self._reader.names("a model, such as regressor.DNN", "TRAIN"))
        parts = self._parts(["WITH", "COLUMN", "LABEL"], "INTO")
        given: With = parts.get("WITH", With())
        return Train(
            text=self._whole(),
            select=self._found.select,
            model=model,
            name=parts["INTO"],
            params=given.params,
            settings=given.settings,
            validation=given.validation,
            columns=parts.get("COLUMN", {}),
            label=parts.get("LABEL"),
        )

    def _predict(self) -> Predict:
        target = self._reader.names("a column, such as testdata.predicted_salary", "PREDICT")
        if len(target) == 1:
            raise self._reader.error(target[0], f"expected TABLE.COLUMN after PREDICT, got {target[0].text} alone")
        parts = self._parts(["WITH"], "USING")
        table = ".".join(each.text for each in target[:-1])
        settings = parts.get("WITH", With()).settings
        return Predict(self._whole(), self._found.select, parts["USING"], table, target[-1].text, settings)

    def _evaluate(self) -> Evaluate:
        if not self._found.with_to:
            raise error_at(self._text, self._found.verb, "expected TO before EVALUATE")
        name = self._model_name("EVALUATE")
        parts = self._parts(["WITH", "LABEL"])
        settings = parts.get("WITH", With()).settings
        return Evaluate(self._whole(), self._found.select, name, parts.get("LABEL"), settings)

    def _parts(self, optional: list[str], last: str = "") -> dict[str, Any]:
        """The parts of the clause up to the end of the statement, by the words that they begin with.

        Args:
            optional: words of parts that may be there, once, in any order.
            last: the word of the part that must be there, behind them; empty: none.
        """
        parts: dict[str, Any] = {}
        while not (last in parts or (self._reader.at_end and not last)):
            wanted = [word for word in (*optional, last) if word and word not in parts]
            if not self._reader.peek().is_word(*wanted):
                raise self._reader.unexpected(wanted if last else [*wanted, END])
            word = self._reader.take().text.upper()
            parts[word] = self._part(word)
        if not self._reader.at_end:
            raise self._reader.unexpected([END])
        return parts

    def _part(self, word: str) -> Any:
        if word == "WITH":
            return read_with(self._reader, self._verb)
        if word == "COLUMN":
            return read_columns(self._reader, self._database)
        if word == "LABEL":
            return unquoted(self._reader.name("a column", word).text, self._database)
        return self._model_name(word)

    def _model_name(self, after: str) -> str:
        """The name of a trained model, which is a folder's."""
        tokens = self._reader.names("the name of a trained model", after)
        name = ".".join(each.value for each in tokens)
        if not MODEL_NAME.fullmatch(name) or len(name) > MODEL_NAME_LENGTH:
            expected = "letters, digits, hyphens, underscores and single dots, a letter or digit first"
            raise self._reader.error(tokens[0], f"{short(name)} is no name for a model; expected {expected}")
        return name

    def _whole(self) -> str:
        return self._text[self._found.start : self._reader.peek().start].rstrip()
