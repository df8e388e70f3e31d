"""A command line reaches Fire in one form only, and every slip of the fingers is named."""

from __future__ import annotations

import pytest

from edl_allreduce.errors import UsageError
from launcher.commands.arguments import normalise

FLAGS = {"data": False, "seed": False, "params": False, "shuffle": True, "overwrite": True, "notes": False}


@pytest.mark.parametrize(
    ("words", "normal"),
    [
        (["--data=x"], ["--data=x"]),
        (["--data", "x"], ["--data=x"]),
        (["-data", "x"], ["--data=x"]),
        (["--data="], ["--data="]),
        (["--data", ""], ["--data="]),
        (["--data=a=b,c"], ["--data=a=b,c"]),
        (["--seed", "-1"], ["--seed=-1"]),
        (["--data", "-"], ["--data=-"]),
        (["--params", "a=-1, b='--x'"], ["--params=a=-1, b='--x'"]),
        (["--params=--x"], ["--params=--x"]),
        (["--shuffle"], ["--shuffle=true"]),
        (["--noshuffle"], ["--shuffle=false"]),
        (["--no-shuffle"], ["--shuffle=false"]),
        (["--no_shuffle", "--overwrite"], ["--shuffle=false", "--overwrite=true"]),
        (["--shuffle", "no", "--data", "x"], ["--shuffle=no", "--data=x"]),
        (["--shuffle=False"], ["--shuffle=False"]),
        (["--notes", "x"], ["--notes=x"]),
        ([], []),
    ],
)
def test_every_spelling_becomes_name_equals_value(words: list[str], normal: list[str]) -> None:
    assert normalise(words, FLAGS, takes_words=False) == normal


def test_hyphens_are_accepted_for_underscores() -> None:
    flags = {"num_workers": False, "dry_run": True}
    assert normalise(["--num-workers", "3", "--dry-run"], flags, False) == ["--num_workers=3", "--dry_run=true"]


def test_a_letter_stands_for_a_flag_where_a_command_says_so() -> None:
    flags, short = {"follow": True, "worker": False}, {"f": "follow", "w": "worker"}
    assert normalise(["job", "-f", "-w", "3"], flags, True, short) == ["job", "--follow=true", "--worker=3"]
    assert normalise(["-w=3", "-f=no"], flags, True, short) == ["--worker=3", "--follow=no"]
    assert normalise(["-follow"], flags, True, short) == ["--follow=true"]
    with pytest.raises(UsageError, match=r"--follow: given twice"):
        normalise(["-f", "--follow"], flags, True, short)
    with pytest.raises(UsageError, match=r"-f: there is no such flag"):
        normalise(["-f"], flags, True)


def test_words_stay_where_a_command_takes_them() -> None:
    assert normalise(["a", "--seed", "3", "b", "-"], FLAGS, takes_words=True) == ["a", "--seed=3", "b", "-"]
    assert normalise(["--overwrite", "1", "x"], FLAGS, takes_words=True) == ["--overwrite=true", "1", "x"]
    with pytest.raises(UsageError, match=r"expected a flag, got '--'"):
        normalise(["a", "--"], FLAGS, takes_words=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sead", "3"], r"--sead: there is no such flag \(did you mean 'seed'\?\)"),
        (["--noseed"], r"--noseed: there is no such flag"),
        (["--noshuffle=1"], r"--noshuffle: there is no such flag"),
        (["-n", "3"], r"--n: there is no such flag"),
        (["--data"], r"--data: its value is missing; give it as --data=VALUE"),
        (["--data", "--seed=3"], r"--data: its value is missing"),
        (["--data", "a", "b", "c"], r"--data: more than one value, also 'b'.*quotes: --data='data/\*\.recordio'"),
        (["--data=a", "b"], r"expected a flag, got 'b'; --help"),
        (["--overwrite", "out"], r"expected a flag, got 'out'"),
        (["data=x"], r"expected a flag, got 'data=x'; flags are given as --name=value"),
        (["-"], r"expected a flag, got '-'"),
        (["--", "--trace"], r"expected a flag, got '--'"),
        (["--seed=1", "--seed=2"], r"--seed: given twice, '1' and '2'"),
        (["--shuffle", "--noshuffle"], r"--shuffle: given twice, 'true' and 'false'"),
    ],
)
def test_slips_are_named(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        normalise(words, FLAGS, takes_words=False)
