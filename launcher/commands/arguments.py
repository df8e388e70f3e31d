"""Brings a command line into the one form in which Fire cannot misread it, and refuses what is misspelt.

Fire would take `--data --output=x` for data="True", ignore where a word came from, and end its reading at a lone "-".
After `normalise` every flag is `--name=value`; the rest are plain words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from edl_allreduce.errors import UsageError
from edl_allreduce.flags import reject_unknown

TRUE_WORDS, FALSE_WORDS = frozenset({"true", "yes", "1", "on"}), frozenset({"false", "no", "0", "off"})
BOOLEAN_WORDS = TRUE_WORDS | FALSE_WORDS


def normalise(
    words: Sequence[str], flags: Mapping[str, bool], takes_words: bool, short: Mapping[str, str] = MappingProxyType({})
) -> list[str]:
    """The words of a command as `--name=value` and plain words, in their order.

    Args:
        words: what follows the command's name.
        flags: the command's flags; whether each is a boolean.
        takes_words: whether the command takes words that are not flags, such as files.
        short: the flags that a single letter stands for, such as follow for f.

    Raises:
        UsageError: a flag is unknown, lacks its value or is given twice, or a word belongs to nothing.
    """
    normal: list[str] = []
    seen: dict[str, str] = {}
    rest = list(words)
    before = ""  # the flag whose value was the word before
    while rest:
        word = rest.pop(0)
        if not _is_flag(word):
            if not takes_words or word == "--":
                raise _stray(word, before)
            normal.append(word)
            continue
        left = len(rest)
        if re.match(r"-[A-Za-z](=|$)", word) and word[1] in short:
            word = f"--{short[word[1]]}{word[2:]}"
        name, value = _read_flag(word, rest, flags, takes_words)
        before = name if len(rest) < left and not flags[name] else ""
        if name in seen:
            raise UsageError(f"--{name}: given twice, {seen[name]!r} and {value!r}; give it once")
        seen[name] = value
        normal.append(f"--{name}={value}")
    return normal


def _is_flag(word: str) -> bool:
    return bool(re.match(r"-[A-Za-z]|--\S", word))


def _read_flag(word: str, rest: list[str], flags: Mapping[str, bool], takes_words: bool) -> tuple[str, str]:
    """A flag's name and value; takes the value from `rest` where it stands there.

    After a boolean flag `false` is its value, unless it may be a file's name.
    """
    spelt, has_value, value = word.lstrip("-").partition("=")
    name = spelt.replace("-", "_")
    if has_value:
        reject_unknown(name, flags)
        return name, value
    if name not in flags and name.startswith("no"):
        positive = name[2:].removeprefix("_")
        if flags.get(positive):
            return positive, "false"
    reject_unknown(name, flags)
    if flags[name]:
        stated = bool(rest) and rest[0].lower() in BOOLEAN_WORDS and not takes_words
        return name, rest.pop(0) if stated else "true"
    if not rest or re.match(r"--?[A-Za-z]", rest[0]):
        raise UsageError(f"--{name}: its value is missing; give it as --{name}=VALUE")
    return name, rest.pop(0)


def _stray(word: str, before: str) -> UsageError:
    """The error for a word that belongs to nothing; after a flag's value, the shell has often expanded a pattern."""
    if before and word not in ("-", "--"):
        return UsageError(
            f"--{before}: more than one value, also {word!r}; if the shell has expanded a pattern, put it in quotes: "
            f"--{before}='data/*.recordio'"
        )
    hint = "flags are given as --name=value" if "=" in word else "--help lists the flags"
    return UsageError(f"expected a flag, got {word!r}; {hint}")


def whole_number(flag: str, value: str | int) -> int:
    """The whole number, 0 or more, that a flag was given.

    Raises:
        UsageError: it is none.
    """
    try:
        found = int(value)
    except ValueError:
        found = -1
    if found < 0:
        raise UsageError(f"--{flag}: expected a whole number, 0 or more, got {value!r}")
    return found


def boolean(flag: str, value: str | bool) -> bool:
    """Whether a flag was given as true.

    Raises:
        UsageError: it is neither true nor false.
    """
    if isinstance(value, bool):
        return value
    if value.lower() not in BOOLEAN_WORDS:
        raise UsageError(f"--{flag}: expected true or false, got {value!r}")
    return value.lower() in TRUE_WORDS
