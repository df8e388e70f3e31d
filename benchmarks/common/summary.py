"""Statistics of repeated measurements: medians, spread, and ratios of pairs that were measured side by side."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True)
class Summary:
    """Several measurements of one figure; infinite: not within the limit."""

    count: int
    median: float
    least: float
    most: float

    def __str__(self) -> str:
        if self.count == 1:
            return digits(self.median)
        return f"{digits(self.median)} ({digits(self.least)} … {digits(self.most)})"


def summarize(values: Iterable[float | None]) -> Summary | None:
    """None when there are no values."""
    numbers = [inf if value is None else value for value in values]
    if not numbers:
        return None
    return Summary(len(numbers), statistics.median(numbers), min(numbers), max(numbers))


def summary(values: Iterable[float]) -> Summary:
    """Of at least one value."""
    found = summarize(values)
    assert found
    return found


def ratios(values: Sequence[float], others: Sequence[float]) -> Summary:
    """Of each measurement to the one that was made beside it, which shares the machine's load with it."""
    return summary(value / other for value, other in zip(values, others, strict=True))


def alternate(measures: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Measures everything in turn, `repeats` times: A B, B A, A B, …, so that the machine's load hits all alike."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for turn in range(repeats):
        for name in list(measures) if turn % 2 == 0 else list(measures)[::-1]:
            found[name].append(measures[name]())
    return found


def slope(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The straight line through points (x, y), by least squares: what y grows by, and y at 0."""
    if len({x for x, _ in points}) < 2:
        return 0.0, statistics.mean(y for _, y in points)
    fitted = statistics.linear_regression(*zip(*points, strict=True))
    return fitted.slope, fitted.intercept


def digits(value: float) -> str:
    """As people read it: three digits that mean something."""
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"
