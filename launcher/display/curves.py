"""Draws curves as SVG that stands in any page, light or dark: lines and text take the colour of what is around them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

Point = tuple[float, float]

MAX_POINTS = 400
COLORS = ("#2f81f7", "#c2570c", "#17804a", "#8f4fc0", "#b97209")  # seen on white as well as on black
WIDE = 1000.0  # from this ratio of the greatest to the least on, a chart's axis is logarithmic
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 64, 12, 24, 36  # of a chart, for its axes' texts


class Curve:
    """The points of a curve that grows. Beyond MAX_POINTS neighbours are merged in pairs, so that it stays small."""

    def __init__(self) -> None:
        self._points: list[Point] = []

    @property
    def points(self) -> Sequence[Point]:
        return self._points

    def add(self, x: float, y: float) -> None:
        """A further point; one that is not beyond the last replaces what was there: a step is done again."""
        if not math.isfinite(y):
            return
        while self._points and self._points[-1][0] >= x:
            self._points.pop()
        self._points.append((x, y))
        if len(self._points) > MAX_POINTS:
            self._points = merged(self._points)


def merged(points: Sequence[Point]) -> list[Point]:
    """Half as many points, each the mean of two; of an odd number the last one stays as it is."""
    pairs = zip(points[::2], points[1::2], strict=False)
    means = [((x1 + x2) / 2, (y1 + y2) / 2) for (x1, y1), (x2, y2) in pairs]
    return means + list(points[len(points) // 2 * 2 :])


def sparkline(points: Sequence[Point], said: str, height: int = 40) -> str:
    """A line as wide as the page, without axes.

    Args:
        points: in the order of x.
        said: what a screen reader says of it.
    """
    width = 600
    line = _line(points, _bounds([points]), (0, 3, width, height - 3))
    return (
        f'<svg role="img" aria-label="{escape(said)}" viewBox="0 0 {width} {height}" preserveAspectRatio="none" '
        f'style="display:block;width:100%;height:{height}px">{_polyline(line, COLORS[0])}</svg>'
    )


def chart(curves: Mapping[str, Sequence[Point]], x_label: str, width: int = 640, height: int = 260) -> str:
    """Curves over the same axes, with a legend.

    Args:
        curves: name → points in the order of x; at least one point altogether.
    """
    left, top, right, bottom = box = (MARGIN_LEFT, MARGIN_TOP, width - MARGIN_RIGHT, height - MARGIN_BOTTOM)
    _, least, _, greatest = _bounds(curves.values())
    logarithmic = 0 < least <= greatest / WIDE
    if logarithmic:
        curves = {name: [(x, math.log10(y)) for x, y in points] for name, points in curves.items()}
    bounds = x1, y1, x2, y2 = _bounds(curves.values())
    parts = [_legend(curves, left)]
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * (bottom - top)
        parts.append(f'<path d="M{left} {y:.1f}H{right}" stroke="currentColor" stroke-opacity="0.18"/>')
        value = y1 + share * (y2 - y1)
        parts.append(_text(left - 6, y + 4, f"{10**value if logarithmic else value:.3g}", "end"))
        anchor = {0.0: "start", 0.5: "middle", 1.0: "end"}[share]
        parts.append(_text(left + share * (right - left), bottom + 15, f"{x1 + share * (x2 - x1):,.0f}", anchor))
    parts.append(_text((left + right) / 2, height - 4, x_label, "middle"))
    for color, points in zip(COLORS, curves.values(), strict=False):
        line = _line(points, bounds, box)
        parts.append(_polyline(line, color) if line[1:] else _dots(line, color))
        if 1 < len(line) <= MAX_POINTS // 10:
            parts.append(_dots(line, color))
    said = escape(f"{' and '.join(curves)} over {x_label}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{said}" viewBox="0 0 {width} {height}" '
        f'fill="currentColor" style="display:block;width:100%;max-width:{width}px;font:11px system-ui,sans-serif">'
        f"{''.join(parts)}</svg>"
    )


def _legend(curves: Mapping[str, Sequence[Point]], x: float) -> str:
    parts = []
    for color, name in zip(COLORS, curves, strict=False):
        parts.append(f'<rect x="{x:.0f}" y="6" width="14" height="3" rx="1.5" fill="{color}"/>')
        parts.append(_text(x + 19, 12, name, "start"))
        x += 19 + 7 * len(name) + 18
    return "".join(parts)


def _bounds(curves: Iterable[Sequence[Point]]) -> tuple[float, float, float, float]:
    """Least x, least y, greatest x, greatest y."""
    xs, ys = zip(*(point for points in curves for point in points), strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _line(
    points: Sequence[Point], bounds: tuple[float, float, float, float], box: tuple[float, float, float, float]
) -> list[Point]:
    """The points in the picture: `box` is left, top, right, bottom; its y grows downwards."""
    x1, y1, x2, y2 = bounds
    left, top, right, bottom = box
    wide, high = (right - left) / (x2 - x1 or 1.0), (bottom - top) / (y2 - y1 or 1.0)
    return [(left + (x - x1) * wide, bottom - (y - y1) * high) for x, y in points]


def _polyline(line: Sequence[Point], color: str) -> str:
    where = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
    return (
        f'<polyline points="{where}" fill="none" stroke="{color}" stroke-width="1.75" stroke-linejoin="round" '
        'vector-effect="non-scaling-stroke"/>'
    )


def _dots(line: Sequence[Point], color: str) -> str:
    return "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{color}"/>' for x, y in line)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill-opacity="0.8">{escape(text)}</text>'
