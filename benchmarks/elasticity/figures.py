"""What is measured, what it is called, and the table that shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf

from benchmarks.common.summary import Summary, summarize

OURS, HOROVOD, TORCHRUN = "edl_allreduce", "Horovod Elastic", "torchrun"
SYSTEMS = (OURS, HOROVOD, TORCHRUN)

KINDS = {
    "kill": "SIGKILL of a random worker",
    "hang": "SIGSTOP of a random worker",
    "join": "one worker more is wanted",
    "leave": "one worker less is wanted",
    "sigterm": "SIGTERM to a random worker",
    "coordinator": "SIGKILL of the coordinator",
}

NEXT_STEP = "fault to next step, s"
PAUSE = "last step before to first after, s"
TOLD = "the same as history.jsonl has it, s"
AFTER_DECISION = "decision to next step, s"
REPEATED = "steps rolled back"
TRAINS = "wish to first step with it, s"
GAP = "longest time between two steps, s"
USUAL_GAP = "the same in as long a time before, s"
GREETED = "until the new one knows all workers, s"

ROWS = {
    "kill": (NEXT_STEP, PAUSE, TOLD, REPEATED),
    "hang": (NEXT_STEP, AFTER_DECISION, REPEATED),
    "join": (PAUSE, TOLD, TRAINS, REPEATED),
    "leave": (PAUSE, TOLD, REPEATED),
    "sigterm": (PAUSE, TOLD, REPEATED),
    "coordinator": (GAP, USUAL_GAP, GREETED),
}

MEANING = {
    NEXT_STEP: "from the moment before the signal was sent to the end of the first step of a ring (process group) made "
    "after it, on whichever worker was first",
    PAUSE: "from the end of the last step in the ring before, on whichever worker was last, to the end of the first "
    "step in the next one, on whichever was first; contains that step",
    TOLD: "the same between two steps of one worker that was in both rings, by its own clock; the last step before may "
    "be an earlier one than the other workers'",
    AFTER_DECISION: "from the coordinator's log line that says the worker is lost to the end of the next step",
    REPEATED: "steps that a surviving worker had finished and has to do again",
    TRAINS: "from the wish to the first step of the ring with the newcomer, its start included",
    GAP: "between the ends of any two steps, of any workers, until one second after the last greeting",
    USUAL_GAP: "what the machine's other load does by itself",
    GREETED: "from the moment before the signal was sent to the last worker's greeting in the coordinator's log",
}


@dataclass(frozen=True)
class Measurement:
    """One fault.

    Attributes:
        system: whose workers.
        kind: key of KINDS.
        load: of the machine just before, mean number of running processes over a minute, the training's own among them.
        values: by the names above; None: not within the limit.
    """

    system: str
    kind: str
    load: float
    values: Mapping[str, float | None]


def values_of(measurements: Iterable[Measurement], system: str, kind: str, figure: str) -> list[float | None]:
    """Every value of one figure."""
    return [
        each.values[figure]
        for each in measurements
        if each.system == system and each.kind == kind and figure in each.values
    ]


def table(measurements: Sequence[Measurement], limit: float) -> str:
    """Median (least … most) × number, systems side by side.

    Args:
        limit: seconds after which a fault's end was no longer waited for.
    """
    systems = [each for each in SYSTEMS if any(one.system == each for one in measurements)]
    rows = [["", *systems]]
    for kind, figures in ROWS.items():
        if not any(each.kind == kind for each in measurements):
            continue
        rows.append([f"{kind}: {KINDS[kind]}", *["" for _ in systems]])
        for figure in figures:
            summaries = [summarize(values_of(measurements, system, kind, figure)) for system in systems]
            if any(summaries):
                rows.append([f"  {figure}", *[_cell(each, figure, limit) for each in summaries]])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def as_json(values: Iterable[float | None]) -> dict[str, float | int | None]:
    """A summary without infinities: None is "not within the limit"."""
    found = summarize(values)
    assert found
    return {name: None if value == inf else value for name, value in asdict(found).items()}


def headline(measurement: Measurement, limit: float) -> str:
    """The figure that matters most, for a line of progress."""
    figure = ROWS[measurement.kind][0]
    value = measurement.values[figure]
    return f"{figure.removesuffix(', s')} {shown(inf if value is None else value, figure, limit)} s"


def shown(value: float, figure: str, limit: float) -> str:
    """A value as people read it: steps as whole numbers, seconds with three digits that mean something."""
    if value == inf:
        return f"> {limit:g}"
    if figure == REPEATED:
        return f"{value:g}"
    return f"{value:.3f}" if value < 1 else f"{value:.3g}"


def _cell(summary: Summary | None, figure: str, limit: float) -> str:
    if summary is None:
        return "–"
    middle, least, most = (shown(each, figure, limit) for each in (summary.median, summary.least, summary.most))
    return f"{middle} ({least} … {most}) ×{summary.count}" if summary.count > 1 else f"{middle} ×1"
