"""Takes a table's primary key along in a SELECT that reads from it, so that predictions find their rows again.

The SELECT stays as it was written; the key's columns are added in front of its FROM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edl_allreduce.errors import UsageError
from edl_allreduce.extras import need
from edl_allreduce.sql_source import SqlSource, sa
from launcher.sqlflow.names import FOLDS, split_table
from launcher.sqlflow.split import Dialect

ALIAS = "edl_key_"
_ROWID = "rowid"


@dataclass(frozen=True)
class KeyedSelect:
    """A SELECT, and how a row is found again.

    Attributes:
        select: gives the key's columns last.
        key: the names of the key's columns in the table; empty when the SELECT does not read from it.
    """

    select: str
    key: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table's name as the database has it.

    Attributes:
        name: without quotes.
        schema: None for the default one.
        is_view: whether it is a view.
        exists: whether there is one of that name, table or view.
    """

    name: str
    schema: str | None = None
    is_view: bool = False
    exists: bool = False


def table_of(source: SqlSource, text: str) -> Table:
    """The table that a statement names. Raises UsageError, StorageError."""
    *schema, name = split_table(text, source.backend)
    if len(schema) > 1:
        raise UsageError(f"PREDICT: expected TABLE or SCHEMA.TABLE, got {text!r}")
    within = schema[0] if schema else None
    with source.errors():
        inspector = sa.inspect(source.engine)
        views = inspector.get_view_names(schema=within)
        names = [*inspector.get_table_names(schema=within), *views]
    alike = [each for each in names if each.casefold() == name.casefold()] if source.backend not in FOLDS else []
    found = name if name in names else alike[0] if alike else None
    return Table(found or name, within, found in views, found is not None)


def with_key(source: SqlSource, select: str, into: str) -> KeyedSelect:
    """The SELECT that also gives the primary key of the table `into`, if it reads from that table.

    Raises:
        UsageError: it reads from it, but not row by row; or the table has no primary key.
        StorageError: the database cannot be reached.
    """
    table, dialect = table_of(source, into), Dialect(source.backend)
    tree = dialect.tree(select)
    reads = [] if tree is None else _reads(source, tree, table)
    if tree is None or not reads:
        return KeyedSelect(select, ())
    exp = need("sqlglot", "sql", "an SQL statement").exp
    direct = [each for each in reads if each.parent_select is tree and isinstance(each.parent, (exp.From, exp.Join))]
    if len(direct) != 1 or tree.args.get("group") or tree.args.get("distinct") or _aggregates(exp, tree):
        raise UsageError(
            f"PREDICT: the SELECT reads from {into}, but not row by row; read from it once, without DISTINCT, GROUP "
            "BY, UNION or a subquery, or let PREDICT name another table"
        )
    key = _primary_key(source, table, into)
    (read,) = direct
    named = source.quote(read.alias) if read.alias else ".".join(source.quote(part.name) for part in read.parts)
    added = "".join(f", {named}.{source.quote(name)} AS {ALIAS}{number}" for number, name in enumerate(key))
    place = _place_of_from(exp, tree, dialect.tokens(select) or [])
    return KeyedSelect(f"{select[:place]}{added}\n{select[place:]}", key)


def _reads(source: SqlSource, tree: Any, table: Table) -> list[Any]:
    """Where the query reads from the table."""
    exp, folds = need("sqlglot", "sql", "an SQL statement").exp, source.backend in FOLDS
    with source.errors():
        default = str(sa.inspect(source.engine).default_schema_name or "")

    def meant(name: Any) -> str:
        if not folds:
            return str(name.name).casefold()
        return str(name.name) if name.args.get("quoted") else str(name.name).lower()

    wanted = (table.schema or default, table.name)
    wanted = wanted if folds else (wanted[0].casefold(), wanted[1].casefold())
    default = default if folds else default.casefold()
    own = {meant(each.args["alias"].this) for each in tree.find_all(exp.CTE)}
    found = []
    for read in tree.find_all(exp.Table):
        if isinstance(read.this, exp.Identifier):
            schema = read.args.get("db")
            if not schema and meant(read.this) in own and read.find_ancestor(exp.CTE) is None:
                continue  # what a WITH calls so
            if (meant(schema) if schema else default, meant(read.this)) == wanted:
                found.append(read)
    return found


def _aggregates(exp: Any, tree: Any) -> bool:
    return any(
        found.find_ancestor(exp.Window, exp.Subquery) is None
        for each in tree.expressions
        for found in each.find_all(exp.AggFunc)
    )


def _primary_key(source: SqlSource, table: Table, into: str) -> tuple[str, ...]:
    with source.errors():
        inspector = sa.inspect(source.engine)
        key = tuple(inspector.get_pk_constraint(table.name, schema=table.schema)["constrained_columns"])
    if not key and source.backend == "sqlite" and not table.is_view:
        return (_ROWID,)
    if not key:
        raise UsageError(
            f"PREDICT: {into} has no primary key, so the rows of the SELECT cannot be found again in it; add one, or "
            "name a table that does not exist yet: it gets the selected columns and the prediction"
        )
    return key


def _place_of_from(exp: Any, tree: Any, tokens: Sequence[Any]) -> int:
    """Where the query's FROM stands: the last one outside brackets before the first name that it reads from."""
    clause = tree.args.get("from_") or tree.args["from"]
    start = min(name.meta["start"] for name in clause.find_all(exp.Identifier) if "start" in name.meta)
    depth, place = 0, 0
    for token in tokens:
        if token.start >= start:
            break
        depth += {"L_PAREN": 1, "R_PAREN": -1}.get(token.token_type.name, 0)
        if token.token_type.name == "FROM" and depth == 0:
            place = token.start
    return place
