"""Turns what the Docker engine streams into short lines, and what fails into a text that says what to do."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from edl_allreduce.errors import EdlError, UsageError

SHOWN_LINES = 20
QUIET_SECONDS = 5.0  # a long step or transfer says how far it is so often
STEP = re.compile(r"Step (\d+)/(\d+) : (.+)", re.DOTALL)
COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
NO_NETWORK = re.compile(
    r"NewConnectionError|Temporary failure in name resolution|Read timed out|Failed to fetch|Could not resolve"
    r"|Connection (refused|reset)|ProxyError|Network is unreachable"
)
TOOL = r"(gcc|g\+\+|cc|c\+\+|cmake|make|git)"
NO_TOOL = re.compile(
    rf"\b{TOOL}'? ?(failed|: No such file|: (command )?not found)|No such file or directory: '{TOOL}'"
    r"|Cannot find command 'git'|Failed (to build|building wheel)"
)
WORDS = {"Pushing": "pushed", "Downloading": "pulled"}


class Report:
    """Follows one build, push or pull.

    Attributes:
        what: what is done, such as "image of fintech".
        tell: gets short lines.
        dockerfile: the name of the file that is followed, in a build.
        clock: seconds since any time.
        digest: of the manifest that was pushed, once it was.
        step: the instruction that runs.
    """

    def __init__(
        self, what: str, tell: Callable[[str], None], dockerfile: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.what, self.tell, self.digest, self.step = what, tell, "", ""
        self._clock, self._told = clock, clock()
        self._dockerfile, self._place = dockerfile, ""
        self._failed: EdlError | None = None
        self._lines: deque[str] = deque(maxlen=SHOWN_LINES)
        self._layers: dict[str, tuple[int, int]] = {}

    def follow(self, messages: Iterable[Mapping[str, Any]]) -> None:
        """Takes all messages of a stream; an error in it is raised at its end, which leaves no connection half read.

        Raises:
            UsageError, EdlError: what was done failed.
        """
        for message in messages:
            self._take(message)
        if self._failed:
            raise self._failed

    def _take(self, message: Mapping[str, Any]) -> None:
        if "error" in message:
            detail = message.get("errorDetail") or {}
            self._failed = self._failed or self._failure(str(detail.get("message") or message["error"]).strip())
        self.digest = (message.get("aux") or {}).get("Digest", self.digest)
        for line in str(message.get("stream", "")).splitlines():
            self._line(COLOURS.sub("", line).strip())
        if message.get("status"):
            self._layer(str(message["status"]), str(message.get("id", "")), message.get("progressDetail") or {})

    def _line(self, line: str) -> None:
        if found := STEP.fullmatch(line):
            self._place, self.step = f"step {found[1]}/{found[2]}", " ".join(found[3].split())
            self._lines.clear()
            if re.match(r"RUN|COPY|ADD|FROM", self.step):
                self._say(f"{self.what}, {self._place}: {_short(self.step)}")
        elif line and not re.match(r"---> |Removing intermediate container |Successfully ", line):
            self._lines.append(line)
            self._now_and_then(f"{self.what}, {self._place}: {_short(line)}")

    def _layer(self, status: str, layer: str, detail: Mapping[str, Any]) -> None:
        """Adds up what the layers say of themselves."""
        if layer and detail.get("total"):
            self._layers[layer] = int(detail.get("current", 0)), int(detail["total"])
        elif layer in self._layers and status in ("Pushed", "Pull complete", "Download complete"):
            self._layers[layer] = (self._layers[layer][1],) * 2
        if status in WORDS:
            done, total = (sum(each[part] for each in self._layers.values()) for part in (0, 1))
            self._now_and_then(f"{self.what}: {WORDS[status]} {done / 1e6:,.0f} of {total / 1e6:,.0f} MB")

    def _say(self, text: str) -> None:
        self._told = self._clock()
        self.tell(text)

    def _now_and_then(self, text: str) -> None:
        if self._clock() - self._told >= QUIET_SECONDS:
            self._say(text)

    def _failure(self, reason: str) -> EdlError:
        ended = re.search(r"returned a non-zero code: (\d+)", reason)
        if not ended:
            return engine_error(self.what, reason)
        last = "\n".join(f"    {line[:300]}" for line in self._lines)
        text = (
            f"{self.what}: {self._place} of {self._dockerfile} ({_short(self.step)}) failed with exit code {ended[1]}"
        )
        advice = build_advice("\n".join(self._lines), ended[1])
        return UsageError(f"{text}; its last lines:\n{last}\n{advice}")


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:99]}…"


def build_advice(output: str, code: str) -> str:
    """What to do about a RUN that failed.

    Args:
        output: its last lines.
        code: its exit code.
    """
    if NO_NETWORK.search(output):
        return (
            "the build has no way to the package index: PIP_INDEX_URL names another one; proxies stand in "
            "~/.docker/config.json"
        )
    if found := re.search(r"(?:No matching distribution found for|satisfies the requirement) ([^\s()]+)", output):
        return f"requirements.txt asks for {found[1]}, which the package index does not have: correct that line"
    if re.search(r"ResolutionImpossible|conflicting dependencies|The user requested \(constraint\)", output):
        return (
            "requirements.txt contradicts itself or the base image, which keeps TensorFlow, Keras, protobuf and grpcio "
            "as they are (docs/images.md): loosen the lines that are named above"
        )
    if found := re.search(r"Invalid requirement: '?([^\n']+)'?", output):
        return f"requirements.txt has a line that is no requirement, {found[1]!r}: correct it"
    if NO_TOOL.search(output):
        return (
            "a requirement wants to be compiled or cloned, and images have no compiler and no git: ask for a version "
            "that has a wheel, or add it in a base image of your own (docs/images.md)"
        )
    if "No space left on device" in output:
        return "the Docker engine's disk is full: docker system prune"
    if code == "137" or "Killed" in output:
        return "it was killed, probably for want of memory: give the Docker engine more"
    return "correct what it complains about, and build again"


def engine_error(what: str, reason: str) -> EdlError:
    """The error for what an engine or a registry refuses."""
    said = " ".join(reason.split())[:400]
    if re.search(r"no space left", said, re.IGNORECASE):
        return EdlError(f"{what}: the Docker engine's disk is full ({said}): docker system prune")
    if re.search(r"unauthorized|denied|no basic auth|authentication required|401|403", said, re.IGNORECASE):
        return UsageError(f"{what}: the registry refuses ({said}): docker login, and may you push there?")
    if re.search(r"server gave HTTP response to HTTPS", said):
        return UsageError(f"{what}: the registry speaks HTTP ({said}): add it to the engine's insecure-registries")
    if re.search(r"manifest unknown|not found|does not exist|name unknown", said, re.IGNORECASE):
        return UsageError(f"{what}: there is no such image ({said}): check its name")
    if re.search(
        r"no such host|connection refused|timeout|timed out|unreachable|EOF|x509|dial tcp", said, re.IGNORECASE
    ):
        return UsageError(f"{what}: the Docker engine does not reach the registry ({said}): check its name and network")
    return EdlError(f"{what}: {said}")


def innermost(error: Exception) -> str:
    """The words of an error without those of the libraries around it."""
    said = " ".join(str(error).split())
    found = re.findall(r"\[Errno -?\d+\] ([^\"')]+)|(?:Error|Exception)\(\d+, '([^']+)'", said)
    return next(filter(None, found[-1])) if found else said[:300]
