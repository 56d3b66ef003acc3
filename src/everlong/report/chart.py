"""A panel of curves as SVG: a colour and a shape for each method, so that either is enough."""

from __future__ import annotations

import math
from collections.abc import Sequence

from everlong.report import figures
from everlong.report.curves import Curve, Point
from everlong.report.markup import Html, element, joined

WIDTH = 360.0
HEIGHT = 220.0
_LEFT = 58.0
_RIGHT = 12.0
_TOP = 10.0
_BOTTOM = 34.0
COLOURS = 8
_SHAPES = (
    "M-3.5,0a3.5,3.5 0 1,0 7,0a3.5,3.5 0 1,0 -7,0z",
    "M-3.2,-3.2h6.4v6.4h-6.4z",
    "M0,-4.4L4.2,3.4H-4.2z",
    "M0,-4.6L4.6,0L0,4.6L-4.6,0z",
    "M0,4.4L4.2,-3.4H-4.2z",
    "M-4,-1.3h2.7v-2.7h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7z",
)


def swatch(n: int) -> Html:
    """The line and the mark of method number `n`, for a legend."""
    line = element("path", d="M0,6H22", class_="line")
    return element(
        "svg", line, _mark(n, 11.0, 6.0), viewBox="0 0 22 12", class_=f"swatch c{n % COLOURS}", aria_hidden="true"
    )


def chart(curve: Curve, numbers: dict[str, int]) -> Html:
    """The panel; `numbers` are those of the methods, by label."""
    drawn = {label: line for label, line in curve.lines.items() if line}
    points = [point for line in drawn.values() for point in line]
    across = _Across(points, curve.along)
    up = _Up(curve, points)
    lines = [
        element("g", *_line(line, numbers[label], across, up, aside), class_=f"c{numbers[label] % COLOURS}")
        for aside, (label, line) in zip(_asides(len(drawn)), drawn.items(), strict=True)
    ]
    drawing = element(
        "svg",
        *up.ticks(),
        *across.ticks(),
        *lines,
        _text(curve.over, _LEFT + (WIDTH - _LEFT - _RIGHT) / 2, HEIGHT - 4, "middle"),
        viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}",
        role="img",
        aria_label=curve.title,
    )
    return element("figure", element("figcaption", curve.title), drawing, class_="chart")


class _Across:
    """The x axis: tokens; lengths by their logarithm where they reach over more than a factor of four."""

    def __init__(self, points: Sequence[Point], along: bool) -> None:
        self.values = sorted({point.x for point in points})
        first = self.values[0]
        last = self.values[-1]
        self._log = not along and first > 0 and last / first > 4
        low = self._scaled(first)
        high = self._scaled(last)
        pad = 0.04 * (high - low) or 1.0
        self._low, self._high = low - pad, high + pad

    def at(self, x: float | int) -> float:
        """Where x tokens stand."""
        share = (self._scaled(x) - self._low) / (self._high - self._low)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def ticks(self) -> list[Html]:
        """The values that there are points for, as far as their names have room."""
        found = []
        free = -math.inf
        for x in self.values:
            at = self.at(x)
            if at >= free:
                found += [_rule(at, HEIGHT - _BOTTOM, at, HEIGHT - _BOTTOM + 4), self._name(x, at)]
                free = at + 40
        return found

    def _name(self, x: float | int, at: float) -> Html:
        return _text(figures.tokens(round(x)), min(at, WIDTH - 16), HEIGHT - _BOTTOM + 15, "middle")

    def _scaled(self, x: float | int) -> float:
        return math.log2(x) if self._log else float(x)


class _Up:
    """The y axis, from 0 or from a little below the least."""

    def __init__(self, curve: Curve, points: Sequence[Point]) -> None:
        self._say = curve.say
        ends = [y for point in points for y in (point.low, point.y, point.high) if y is not None]
        low, high = (0.0, curve.top) if curve.top is not None else (min(ends), max(ends))
        self._low = 0.0 if curve.from_zero else low
        self.step = _step(high - self._low or abs(high) or 1.0)
        self._low = math.floor(self._low / self.step) * self.step
        self._high = max(math.ceil(high / self.step - 1e-9) * self.step, self._low + self.step)

    def at(self, y: float | int) -> float:
        """Where y stands."""
        share = (min(max(y, self._low), self._high) - self._low) / (self._high - self._low)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _BOTTOM - _TOP)

    def ticks(self) -> list[Html]:
        """A faint line and a name for each step."""
        found = []
        for n in range(round((self._high - self._low) / self.step) + 1):
            y = self._low + n * self.step
            at = self.at(y)
            found += [_rule(_LEFT, at, WIDTH - _RIGHT, at), _text(self._say(y), _LEFT - 6, at + 3.5, "end")]
        return found


def _step(reach: float) -> float:
    """A round step, of which three to six fill the axis."""
    least = reach / 5
    size = 10.0 ** math.floor(math.log10(least))
    return next(size * n for n in (1, 2, 2.5, 5, 10) if size * n >= least)


def _asides(lines: int) -> list[float]:
    """How far each line is moved to the side, so that equal figures do not hide one another."""
    return [3.0 * (n - (lines - 1) / 2) for n in range(lines)]


def _line(points: Sequence[Point], n: int, across: _Across, up: _Up, aside: float) -> list[Html]:
    """The line, the intervals and the marks of one method."""
    places = [(across.at(p.x) + aside, up.at(p.y)) for p in points]
    path = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in places)
    whiskers = [
        element("path", d=f"M{across.at(p.x) + aside:.1f},{up.at(p.low):.1f}V{up.at(p.high):.1f}", class_="whisker")
        for p in points
        if p.low is not None and p.high is not None
    ]
    return [*whiskers, element("path", d=path, class_="line"), *(_mark(n, x, y) for x, y in places)]


def _mark(n: int, x: float, y: float) -> Html:
    return element("path", d=_SHAPES[n % len(_SHAPES)], transform=f"translate({x:.1f},{y:.1f})", class_="mark")


def _rule(x1: float, y1: float, x2: float, y2: float) -> Html:
    return element("path", d=f"M{x1:.1f},{y1:.1f}L{x2:.1f},{y2:.1f}", class_="rule")


def _text(text: str, x: float, y: float, anchor: str) -> Html:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def legend(numbers: dict[str, int]) -> Html:
    """What colour and shape stand for which method."""
    items = [element("li", swatch(n), element("span", label)) for label, n in numbers.items()]
    return element("ul", joined(items), class_="legend")
