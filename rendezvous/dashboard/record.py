"""What a job has done so far, as charts and lists show it: made of the lines of its history, in bounded memory.

The number of a line in the history is its serial: whoever has seen all up to one asks for what came after it. Since the
history outlives its coordinator, so do serials.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edl_allreduce.history import parsed
from rendezvous.activity import NAMES
from rendezvous.dashboard.table import Array, Merge, Table

Line = Mapping[str, Any]

STEP_COLUMNS = {
    "step": Merge.LAST,
    "time": Merge.LAST,
    "epoch": Merge.LAST,
    "loss": Merge.SUM,
    "loss_min": Merge.LOW,
    "loss_max": Merge.HIGH,
    "records": Merge.SUM,
    "seconds": Merge.SUM,
    "useful": Merge.SUM,
    "learning_rate": Merge.LAST,
    "serial": Merge.LAST,
    "count": Merge.SUM,
}
ACTIVITY_COLUMNS = {"time": Merge.LAST} | dict.fromkeys(NAMES, Merge.SUM)
ACTIVITIES_KEPT = 1 << 15
FIGURES_KEPT = 2000  # of each name
ROUNDS_KEPT = 5000
NAMES_KEPT = 64  # members that came or went with a round, by id; of more only the number
EVENTS_KEPT, EVENT_BYTES = 5000, 4 << 20


@dataclass
class RoundEntry:
    """A round on the timeline.

    Attributes:
        time: when it began, seconds since 1970.
        came, gone: ids of members, against the round before; at most NAMES_KEPT of them.
        came_count, gone_count: how many it were.
        paused_seconds: how long nobody was stepping before its first step; 0: not known yet, or the first round.
        repeated_records: computed once more because of it.
        steps: that it did and that count; of the newest one, so far.
    """

    number: int
    time: float
    size: int
    cause: str
    kind: str
    first_step: int
    came: list[int]
    gone: list[int]
    came_count: int
    gone_count: int
    paused_seconds: float = 0.0
    repeated_records: int = 0
    steps: int = 0


@dataclass(frozen=True)
class Figures:
    """What an evaluation or the end of an epoch has told.

    Attributes:
        at_end: of an epoch; then names of figures on the validation data begin with val_.
        stopped: why training ends here; empty: it does not.
    """

    serial: int
    step: int
    epoch: int
    time: float
    values: dict[str, float]
    at_end: bool
    stopped: str = ""


@dataclass
class Record:
    """Grows with every line.

    Attributes:
        serial: of the newest line.
        time: of the newest line that has one, and of the steps since, seconds since 1970.
        members: ids of those who are in the newest round.
        steps: each step that counts; of a job of tasks, each lease that is done.
        activities: counts of what workers were doing, over time.
        events: serial and text of every line that is none of these; of the newest ones.
        forgotten: serial of the newest event that is not kept any more.
    """

    serial: int = 0
    steps: Table = field(default_factory=lambda: Table(STEP_COLUMNS))
    activities: Table = field(default_factory=lambda: Table(ACTIVITY_COLUMNS, ACTIVITIES_KEPT))
    rounds: deque[RoundEntry] = field(default_factory=lambda: deque(maxlen=ROUNDS_KEPT))
    figures: deque[Figures] = field(default_factory=lambda: deque(maxlen=FIGURES_KEPT))
    events: deque[tuple[int, str]] = field(default_factory=deque)
    forgotten: int = 0
    time: float = 0.0
    members: frozenset[int] = frozenset()
    _event_bytes: int = 0

    def read(self, lines: Iterable[str]) -> None:
        """Takes lines of the file; one that is cut off is passed over, its coordinator died while it wrote it."""
        for text in lines:
            self.note(parsed(text) or {})

    def note(self, line: Line) -> None:
        """Takes a line."""
        self.serial += 1
        self.time = max(self.time, line.get("time", 0.0))
        match line:
            case {"step": step, "loss": loss, "records": records, "seconds": seconds, "useful": useful}:
                rate = line.get("learning_rate", self._newest("learning_rate"))
                self._stepped(step, line.get("epoch", 0), loss, records, seconds, useful, rate)
            case {"tasks": _, "records": records, "time": time}:
                since = time - (self._newest("time") or time)
                self._stepped(len(self.steps) + 1, 0, float("nan"), records, since, since, 0.0)
            case {"activity": counts}:
                self.activities.append((self.time, *(counts.get(name, 0) for name in NAMES)))
            case {"cause": _, "members": _, "first_step": _}:
                self._began(line)
                self._happened(line)
            case {"round": number} if self.rounds and self.rounds[-1].number == number:
                self.rounds[-1].paused_seconds = line.get("paused_seconds", self.rounds[-1].paused_seconds)
                self.rounds[-1].repeated_records += line.get("repeated", 0)
                self._happened(line)
            case {"figures": figures}:
                step, at_end = line.get("step", line.get("evaluation", 0)), "epoch_end" in line
                epoch = line["epoch_end"] if at_end else line.get("epoch", 0)
                stopped = line.get("stopped", "")
                self.figures.append(Figures(self.serial, step, epoch, self.time, dict(figures), at_end, stopped))
                self._happened(line)
            case _ if line:
                self._happened(line)

    def since(self, serial: int) -> list[tuple[int, str]] | None:
        """The events after a line; None: some of them are not kept any more."""
        if serial < self.forgotten:
            return None
        return [each for each in self.events if each[0] > serial]

    def _newest(self, column: str) -> float:
        return float(self.steps.column(column)[-1]) if len(self.steps) else 0.0

    def _stepped(
        self, step: int, epoch: int, loss: float, records: int, seconds: float, useful: float, rate: float
    ) -> None:
        # Steps are told several at a time, without a time of their own.
        self.time = max(self.time, (self._newest("time") or self.time) + seconds)
        row = (step, self.time, epoch, loss, loss, loss, records, seconds, useful, rate, self.serial, 1)
        self.steps.append(row)
        if self.rounds:
            self.rounds[-1].steps += 1

    def _began(self, line: Line) -> None:
        members, first = frozenset(line["members"]), line["first_step"]
        before, self.members = self.members, members
        self.steps.drop_from("step", first)  # they are done again
        for each in self.rounds:
            each.steps = max(0, min(each.steps, first - each.first_step))
        came, gone = sorted(members - before), sorted(before - members)
        self.rounds.append(
            RoundEntry(
                number=line["round"],
                time=line.get("time", self.time),
                size=len(members),
                cause=line["cause"],
                kind=line.get("kind", "other"),
                first_step=first,
                came=came[:NAMES_KEPT],
                gone=gone[:NAMES_KEPT],
                came_count=len(came),
                gone_count=len(gone),
            )
        )

    def _happened(self, line: Line) -> None:
        text = json.dumps({name: value for name, value in line.items() if name not in ("members", "lanes")})
        self.events.append((self.serial, text))
        self._event_bytes += len(text)
        while len(self.events) > EVENTS_KEPT or self._event_bytes > EVENT_BYTES:
            self.forgotten, text = self.events.popleft()
            self._event_bytes -= len(text)


def curves(points: Mapping[str, Array]) -> dict[str, list[float | None]]:
    """The points of a chart, see `openapi.json`: means over the steps of each; what is not a number becomes None."""
    count, seconds = points["count"], points["seconds"]
    rate = points["records"] / seconds.clip(min=1e-9)
    rate[seconds <= 0] = float("nan")
    made = {
        "time": points["time"].round(3),
        "loss": points["loss"] / count,
        "loss_min": points["loss_min"],
        "loss_max": points["loss_max"],
        "records_per_second": rate,
        "step_seconds": seconds / count,
        "useful_seconds": points["useful"] / count,
        "learning_rate": points["learning_rate"],
    }
    plain = {name: _plain(values) for name, values in made.items()}
    return {name: points[name].astype(int).tolist() for name in ("step", "epoch", "count")} | plain


def _plain(values: Array) -> list[float | None]:
    finite = abs(values) < float("inf")
    return [value if fine else None for value, fine in zip(values.tolist(), finite.tolist(), strict=True)]
