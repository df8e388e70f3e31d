"""Writes the help texts from the flags' own definitions, grouped, in the order in which people need them."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping

from edl_allreduce.flags import Flag

COLUMN, NARROW = 30, 20  # where a flag's description begins, and a command's
TYPES = {int: "N", float: "SECONDS", bool: "", str: "TEXT"}

EXAMPLE = (
    "edl train --model_zoo=model_zoo --model_def=digits.Classifier --data='data/digits/train/*.recordio' \\\n"
    "      --output=out/digits --num_epochs=20 --num_workers=2"
)
TRAIN_EXAMPLES = f"""\
Two workers of this machine train the digits, 20 epochs:
  {EXAMPLE}
The same model with other arguments; first see what would be started:
  edl train --model_zoo=model_zoo --model_def=digits.Classifier --data='data/digits/train/*.recordio' \\
      --output=out/wide --params='hidden_units=[200, 100], learning_rate=0.01' --dry_run"""


EXAMPLES = {
    "train": TRAIN_EXAMPLES,
    "evaluate": """\
The accuracy of the trained digits on held-out ones, by two workers of this machine:
  edl evaluate --trained_model=out/digits --data='data/digits/test/*.recordio' --num_workers=2""",
    "predict": """\
One prediction for every record, in their order, as CSV files:
  edl predict --trained_model=out/digits --data='data/digits/test/*.recordio' --output=out/predicted \\
      --output_format=csv""",
    "sql": """\
A model of the table employee of the SQLite file edl.db, and what it predicts, in a column of another table:
  edl sql "SELECT role, age, salary FROM employee
      TRAIN regressor.DNN WITH hidden_units=[10, 100, 20, 5], learning_rate=0.01 INTO my_trained_model"
  edl sql "SELECT role, age FROM testdata PREDICT testdata.predicted_salary USING my_trained_model"
The statements of a file, on PostgreSQL; the password is in ~/.pgpass:
  edl sql --file=nightly.sql --database=postgresql://me@db.example.com/shop --num_workers=4""",
}
WORDS = {"sql": "STATEMENT"}  # which stand before the flags
TITLES = {
    "train": "trains a Keras model on RecordIO data, elastically",
    "evaluate": "tells loss and metrics of a trained model, exactly, with any number of workers",
    "predict": "writes the predictions of a trained model, with any number of workers",
    "sql": "trains on what a SELECT gives, evaluates on it, or writes predictions back into a table (docs/sql.md)",
}


def overview(sections: Mapping[str, Mapping[str, str]], width: int) -> str:
    """What `edl --help` prints.

    Args:
        sections: of each, by its title, one line for every command.
        width: of the terminal, in characters.
    """
    lines = [
        "edl: elastic allreduce training of Keras models; workers may come, go and fail at any moment",
        "",
        "usage: edl COMMAND [--flag=value …]",
    ]
    for title, summaries in sections.items():
        lines += ["", f"{title}:", *_table(summaries.items(), width, NARROW)]
    return "\n".join([*lines, "", "example:", f"  {EXAMPLE}", "", "edl COMMAND --help explains a command."])


def group_help(name: str, summaries: Mapping[str, str], width: int) -> str:
    """What `edl NAME --help` prints for a group of commands."""
    usage = f"usage: edl {name} COMMAND [--flag=value …]"
    return "\n".join(
        [usage, "", *_table(summaries.items(), width, NARROW), "", f"edl {name} COMMAND --help explains a command."]
    )


def job_help(kind: str, flags: Iterable[Flag], width: int) -> str:
    """What `edl train --help`, `edl evaluate --help`, `edl predict --help` or `edl sql --help` prints."""
    flags = list(flags)
    named = [f"--{each.name}={each.metavar or TYPES[each.type]}" for each in flags if each.required]
    required = " ".join([*filter(None, [WORDS.get(kind)]), *named])
    lines = [f"edl {kind}: {TITLES[kind]}", "", f"usage: edl {kind} \\"]
    lines += [
        f"    {line}" for line in textwrap.wrap(f"{required} [flags]", max(20, width - 4), break_on_hyphens=False)
    ]
    plain = [each for each in flags if not each.advanced]
    for group in dict.fromkeys(each.group for each in plain):
        lines += ["", f"{group}:", *_table((_row(each) for each in plain if each.group == group), width)]
    lines += ["", "Advanced:", *_table((_row(each) for each in flags if each.advanced), width)]
    note = "A boolean flag stands alone for true, --noNAME for false. --flag value and --flag=value are the same."
    lines += ["", *textwrap.wrap(note, width, break_on_hyphens=False)]
    lines += ["", "Examples:", textwrap.indent(EXAMPLES[kind], "  ")]
    return "\n".join(lines)


def _row(flag: Flag) -> tuple[str, str]:
    if flag.type is bool:
        name = f"--[no]{flag.name}" if flag.default else f"--{flag.name}"
    else:
        name = f"--{flag.name}={flag.metavar or TYPES[flag.type]}"
    return name, f"{flag.help} ({default_of(flag)})" if default_of(flag) else flag.help


def default_of(flag: Flag) -> str:
    """What the help says about a flag's default."""
    if flag.required:
        return "required"
    if flag.default is None or flag.default == "":
        return ""
    if flag.type in (int, float):
        return f"default {flag.default:g}"
    return f"default {str(flag.default).lower() if flag.type is bool else flag.default}"


def _table(rows: Iterable[tuple[str, str]], width: int, column: int = COLUMN) -> list[str]:
    """Two columns; the second is wrapped."""
    lines: list[str] = []
    for name, text in rows:
        wrapped = textwrap.wrap(text, max(30, width - column))
        first = f"  {name}"
        if len(first) > column - 2:
            lines.append(first)
            first = ""
        lines.append(f"{first:<{column}}{wrapped[0]}")
        lines += [" " * column + line for line in wrapped[1:]]
    return lines


VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def parameters_of(function: Callable[..., object]) -> list[inspect.Parameter]:
    """A function's parameters, in order."""
    return list(inspect.signature(function).parameters.values())


def is_word(parameter: inspect.Parameter) -> bool:
    """Whether a command line gives this parameter as a plain word, such as a file; the others are flags."""
    required = parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is parameter.empty
    return required or parameter.kind is parameter.VAR_POSITIONAL


def is_boolean(parameter: inspect.Parameter) -> bool:
    """Whether the parameter's flag may stand without a value."""
    return isinstance(parameter.default, bool)


def function_help(name: str, function: Callable[..., object], width: int) -> str:
    """What `edl NAME --help` prints for a command that is a plain function with a docstring."""
    usage = ["usage: edl", name]
    for each in parameters_of(function):
        if is_word(each):
            usage.append(each.name.upper() + ("…" if each.kind in VARIABLE else ""))
        else:
            negated = "no" if each.default is True else ""
            flag = f"--{negated}{each.name}" if is_boolean(each) else f"--{each.name}={each.name.upper()}"
            usage.append(flag if each.default is each.empty else f"[{flag}]")
    lines = textwrap.wrap(" ".join(usage), width, subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join([*lines, "", inspect.getdoc(function) or ""])
