"""Plots as SVG elements of a web page: their colours are classes, so that the page decides between light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from symprop.claims import Curve, Figure, Points
from symprop.report.figures import colour_groups
from symprop.report.prose import pretty

WIDTH, HEIGHT = 640.0, 400.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 70.0, 16.0, 14.0, 48.0
_TICKS = 6
COLOURS = 7
"""How many colours a page must give: classes ``c0`` to ``c6``."""


@dataclass(frozen=True)
class Scale:
    """A range of values and the pixels that it takes, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value.

        >>> Scale(1.0, 100.0, 0.0, 10.0, log=True).at(10.0)
        5.0
        """
        share = (value - self.low) / (self.high - self.low)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + (self.end - self.start) * share

    def ticks(self) -> list[float]:
        """Round values inside the range.

        >>> Scale(0.0, 24.0, 0.0, 1.0).ticks()
        [0.0, 5.0, 10.0, 15.0, 20.0]
        """
        if self.log:
            low, high = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            if high > low:
                return [float(f"1e{power}") for power in range(low, high + 1, max(1, -((low - high) // _TICKS)))]
        rough = (self.high - self.low) / _TICKS
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * unit for factor in (1.0, 2.0, 5.0, 10.0) if factor * unit >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [float(f"{count * step:.12g}") for count in range(first, last + 1)]


def figure_svg(figure: Figure) -> str:
    """A figure as an ``svg`` element, in the colours of :func:`colour_groups`."""
    across, up = scales(figure.curves, figure.points, logy=figure.logy)
    colours = {label: group % COLOURS for label, group in colour_groups(figure).items()}
    curves = {curve.label for curve in figure.curves}
    drawn = [f'<path class="line c{colours[curve.label]}" d="{path(curve, across, up)}"/>' for curve in figure.curves]
    for points in figure.points:
        drawn += _markers(points, across, up, colours[points.label])
    legend = [(colour, label, label in curves) for label, colour in colours.items()]
    return svg(figure.xlabel, figure.ylabel, across, up, drawn, figure.caption) + legend_html(legend)


def scales(curves: Iterable[Curve], points: Iterable[Points] = (), *, logy: bool = False) -> tuple[Scale, Scale]:
    """Scales that hold every curve and every error bar."""
    xs: list[float] = []
    ys: list[float] = []
    for curve in curves:
        xs += curve.x
        ys += curve.y
    for item in points:
        xs += item.x
        ys += item.y
        ys += [y + sign * error for y, error in zip(item.y, item.yerr, strict=True) for sign in (-1, 1)]
    ys = [y for y in ys if math.isfinite(y) and (y > 0 or not logy)] or [1.0]
    low, high = min(ys), max(ys)
    if logy:
        low, high = low / 1.3, high * 1.3
    else:
        margin = 0.05 * (high - low) or abs(high) or 1.0
        low, high = low - margin, high + margin
    left, right = (min(xs), max(xs)) if xs else (0.0, 1.0)
    right = right if right > left else left + 1.0
    return Scale(left, right, _LEFT, WIDTH - _RIGHT), Scale(low, high, HEIGHT - _BOTTOM, _TOP, logy)


def path(curve: Curve, across: Scale, up: Scale) -> str:
    """The ``d`` of a curve; it is interrupted where a value cannot be shown."""
    parts: list[str] = []
    pen = "M"
    for x, y in zip(curve.x, curve.y, strict=True):
        if not math.isfinite(y) or (up.log and y <= 0):
            pen = "M"
            continue
        parts.append(f"{pen}{across.at(x):.1f} {up.at(y):.1f}")
        pen = "L"
    return "".join(parts)


def _markers(points: Points, across: Scale, up: Scale, colour: int) -> Iterable[str]:
    for x, y, error in zip(points.x, points.y, points.yerr, strict=True):
        if not math.isfinite(y) or (up.log and y <= 0):
            continue
        column, row = across.at(x), up.at(y)
        low = up.at(max(y - error, up.low))
        yield f'<path class="line c{colour}" d="M{column:.1f} {low:.1f}L{column:.1f} {up.at(y + error):.1f}"/>'
        yield f'<circle class="mark c{colour}" cx="{column:.1f}" cy="{row:.1f}" r="3.2"/>'


def svg(xlabel: str, ylabel: str, across: Scale, up: Scale, drawn: Sequence[str], description: str) -> str:
    """An ``svg`` element with axes, grid and what is drawn over them."""
    bottom, left = HEIGHT - _BOTTOM, _LEFT
    middle = f"translate(15 {(bottom + _TOP) / 2:g}) rotate(-90)"
    parts = [
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(pretty(description))}">',
        *(f'<path class="grid" d="M{across.at(tick):.1f} {_TOP:g}V{bottom:g}"/>' for tick in across.ticks()),
        *(f'<path class="grid" d="M{left:g} {up.at(tick):.1f}H{WIDTH - _RIGHT:g}"/>' for tick in up.ticks()),
        f'<path class="axis" d="M{left:g} {_TOP:g}V{bottom:g}H{WIDTH - _RIGHT:g}"/>',
        *(f'<text x="{across.at(tick):.1f}" y="{bottom + 18:g}" text-anchor="middle">{_number(tick, across.log)}</text>'
          for tick in across.ticks()),
        *(f'<text x="{left - 8:g}" y="{up.at(tick) + 4:.1f}" text-anchor="end">{_number(tick, up.log)}</text>'
          for tick in up.ticks()),
        f'<text x="{(left + WIDTH - _RIGHT) / 2:g}" y="{HEIGHT - 8:g}" text-anchor="middle">{escape(pretty(xlabel))}</text>',
        f'<text transform="{middle}" text-anchor="middle">{escape(pretty(ylabel))}</text>',
    ]  # fmt: skip
    return "".join([*parts, *drawn, "</svg>"])


def legend_html(entries: Iterable[tuple[int, str, bool]]) -> str:
    """A list of colour, label, and whether it is a line."""
    rows = "".join(
        f'<li><span class="{"swatch" if line else "dot"} c{colour}"></span>{escape(pretty(label))}</li>'
        for colour, label, line in entries
    )
    return f'<ul class="legend">{rows}</ul>'


def _number(value: float, log: bool) -> str:
    if value == 0 or (1e-3 <= abs(value) < 1e5 and not log):
        return f"{value:g}".replace("-", "−")
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    power = f'10<tspan dy="-5" font-size="75%">{str(int(exponent)).replace("-", "−")}</tspan>'
    return power if mantissa == "1" else f"{mantissa.replace('-', '−')}·{power}"
