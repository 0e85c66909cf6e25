"""Diagrams: an evaluator over two parameters, drawn with its boundaries, its regions and simulated points."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from symprop.claims import Axis, Diagram, PaperDerivation, Progress
from symprop.codegen.render import load
from symprop.codegen.spec import FunctionSpec
from symprop.core.errors import InputError, MissingExtraError, UnknownNameError
from symprop.core.symbols import info
from symprop.depth.iterate import numpy_compile
from symprop.report.figures import FORMATS
from symprop.simulate.sweep import Sweep, Task

MOST_POINTS = 4_000_000
"""The largest grid that is evaluated."""
_TITLE_WIDTH = 60
"""Characters of a title that are as wide as the axes."""
Array = NDArray[np.float64]
_STYLE = {
    "pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "symprop", "font.family": ["DejaVu Sans"], "font.size": 9,
    "mathtext.fontset": "dejavusans", "axes.unicode_minus": True,
}  # fmt: skip


@dataclass(frozen=True)
class Simulated:
    """Simulated outputs at points of the diagram, with one standard error each; arrays of shape (points,)."""

    x: Array
    y: Array
    value: Array
    stderr: Array


@dataclass(frozen=True)
class Picture:
    """A computed diagram: the output on the grid, of shape (y, x), and what is drawn over it.

    ``boundaries`` maps a label to the field whose zero is the line and to its line style, ``regions`` a label to where it
    holds. ``values`` are the other parameters.
    """

    diagram: Diagram
    level: str
    x: Array
    y: Array
    output: Array
    boundaries: Mapping[str, tuple[Array, str]]
    regions: Mapping[str, NDArray[np.bool_]]
    values: Mapping[sp.Symbol, float]
    simulated: Simulated | None = None

    @property
    def title(self) -> str:
        """The title, with the values that it names, and the level where there are several."""
        title = self.diagram.title.format_map({str(symbol): f"{value:g}" for symbol, value in self.values.items()})
        return f"{title}, {self.level}" if len(self.diagram.evaluators) > 1 else title

    def arrays(self) -> dict[str, Array]:
        """What the data file holds: axes, output, the fields of the boundaries, simulated points and parameters."""
        found = {self.diagram.x.name: self.x, self.diagram.y.name: self.y, str(self.diagram.output): self.output}
        found |= {f"boundary: {label}": field for label, (field, _) in self.boundaries.items()}
        found |= {f"parameter: {symbol}": np.asarray(value) for symbol, value in self.values.items()}
        if self.simulated is not None:
            found |= {f"simulated: {key}": value for key, value in vars(self.simulated).items()}
        return found


def parse_axis(text: str, diagram: Diagram, default: Axis, option: str) -> Axis:
    """``name:low:high:points`` as an axis; a name alone keeps the default range where it is the default's.

    Raises :class:`InputError` for a range that is empty, not finite, outside the parameter's domain or too fine.
    """
    allowed = f"name:low:high:points, as in {default.name}:{default.low:g}:{default.high:g}:{default.points}"
    name, *rest = text.split(":")
    symbol = parameter_symbols(diagram).get(name)
    if symbol is None:
        raise UnknownNameError("axis", name, sorted(parameter_symbols(diagram)))
    if not rest and symbol == default.symbol:
        return default
    try:
        low, high, points = float(rest[0]), float(rest[1]), int(rest[2])
    except (IndexError, ValueError):
        raise InputError(option, text, allowed) from None
    if len(rest) != 3 or not (np.isfinite(low) and np.isfinite(high) and low < high and points >= 2):
        raise InputError(option, text, f"{allowed}, with low < high and at least 2 points")
    domain = info(symbol).domain
    if domain.integer:
        raise InputError(option, text, "a parameter that takes any real value")
    for end in (low, high):
        if not domain.contains(end):
            raise InputError(name, end, str(domain))
    return Axis(symbol, name, low, high, points)


def parameter_symbols(diagram: Diagram) -> dict[str, sp.Symbol]:
    """Parameters of a diagram by every name that they have on the command line."""
    own = (diagram.x.symbol, diagram.y.symbol, *diagram.values)
    axes = {axis.name: axis.symbol for axis in (diagram.x, diagram.y)}
    return {str(symbol): symbol for symbol in own} | axes | dict(diagram.names)


def read_symbols(derivation: PaperDerivation, diagram: Diagram, level: str, *, simulated: bool = False) -> set[sp.Symbol]:
    """The parameters that a picture of that level depends on: those of its function, lines, regions and simulation.

    Raises :class:`UnknownNameError` for a level that the diagram lacks.
    """
    known = set(parameter_symbols(diagram).values())
    if simulated:
        return known
    names = {parameter.name for parameter in _evaluator(derivation, diagram, level).parameters}
    drawn = set().union(*(item.field().free_symbols for item in diagram.boundaries),
                        *(item.where.free_symbols for item in diagram.regions))  # fmt: skip
    return {symbol for symbol in known if symbol in drawn or str(symbol) in names}


def _evaluator(derivation: PaperDerivation, diagram: Diagram, level: str) -> FunctionSpec:
    if level not in diagram.evaluators:
        raise UnknownNameError("closure", level, diagram.evaluators)
    return derivation.evaluator(diagram.evaluators[level])


def compute(
    derivation: PaperDerivation,
    diagram: Diagram,
    level: str,
    values: Mapping[sp.Symbol, float] = MappingProxyType({}),
    *,
    simulate: int = 0,
    draws: int = 4,
    seed: int = 0,
    progress: Progress | None = None,
    sweep: Sweep | None = None,
) -> Picture:
    """Evaluate a diagram on its grid, at ``simulate`` points also by simulation.

    ``values`` replace defaults; ``sweep`` says where simulations run and are kept.
    Raises :class:`UnknownNameError` for a level that the diagram lacks and
    :class:`InputError` for a value outside its range, a grid of more than 4 million points, or one without any value.
    """
    spec = _evaluator(derivation, diagram, level)
    if diagram.x.symbol == diagram.y.symbol:
        raise InputError("y", diagram.y.name, "another parameter than that of the x axis")
    if diagram.x.points * diagram.y.points > MOST_POINTS:
        raise InputError("points", f"{diagram.x.points} x {diagram.y.points}", f"at most {MOST_POINTS} in all")
    axes = (diagram.x.symbol, diagram.y.symbol)
    given = {**diagram.values, **values}
    for symbol, value in given.items():
        if not info(symbol).domain.contains(value):
            raise InputError(str(symbol), value, str(info(symbol).domain))
    others = {symbol: value for symbol, value in given.items() if symbol not in axes}
    x, y = (np.linspace(axis.low, axis.high, axis.points) for axis in (diagram.x, diagram.y))
    names = {parameter.name for parameter in spec.parameters}
    at: dict[sp.Symbol, Any] = {**others, axes[0]: x, axes[1]: y[:, None]}
    if progress is not None:
        progress("diagram", 0, 1)
    with np.errstate(all="ignore"):
        result = load(spec)(**{str(symbol): value for symbol, value in at.items() if str(symbol) in names})
        outputs = {name: getattr(result, name, result) for name, _ in spec.outputs}
        output = np.broadcast_to(outputs[str(diagram.output)], (len(y), len(x)))
        at |= {sp.Symbol(name): np.broadcast_to(value, output.shape) for name, value in outputs.items()}
        fields = {item.label: (_on_grid(item.field(), at, output.shape), item.style) for item in diagram.boundaries}
        regions = {item.label: _on_grid(item.where, at, output.shape).astype(bool) for item in diagram.regions}
    if np.isnan(output).all():
        shown = (f"{axis.name} = {axis.low:g} to {axis.high:g}" for axis in (diagram.x, diagram.y))
        raise InputError("axes", ", ".join(shown), f"ranges where {diagram.output} has a value in doubles")
    if progress is not None:
        progress("diagram", 1, 1)
    found = Picture(diagram, level, x, y, output, fields, regions, others)
    if simulate:
        found = replace(found, simulated=_simulated(derivation.key, found, simulate, draws, seed, progress, sweep or Sweep()))
    return found


def _on_grid(expression: sp.Basic, at: Mapping[sp.Symbol, Any], shape: tuple[int, ...]) -> Array:
    used = sorted(expression.free_symbols, key=str)
    with np.errstate(all="ignore"):
        # A conjunction needs operands of one shape.
        whole = (np.broadcast_to(np.asarray(at[symbol], dtype=float), shape) for symbol in used)
        values = numpy_compile(used, (expression,))(*whole)
    return np.broadcast_to(np.asarray(values[0], dtype=float), shape)


def _simulated(
    key: str, picture: Picture, points: int, draws: int, seed: int, progress: Progress | None, sweep: Sweep
) -> Simulated:
    """Simulate at points of a low-discrepancy sequence inside the axes."""
    diagram = picture.diagram
    if diagram.simulate is None:
        raise InputError("simulate", points, "0 for a diagram that has no simulation")
    # Additive recurrence of the plastic number: evenly spread for every number of points.
    steps = np.arange(1, points + 1)[:, None] * np.array([0.7548776662466927, 0.5698402909980532])
    places = 0.06 + 0.88 * (steps % 1)
    x = diagram.x.low + places[:, 0] * (diagram.x.high - diagram.x.low)
    y = diagram.y.low + places[:, 1] * (diagram.y.high - diagram.y.low)
    tasks = []
    for index in range(points):
        at = {**picture.values, diagram.x.symbol: float(x[index]), diagram.y.symbol: float(y[index])}
        named = sorted((str(symbol), float(value)) for symbol, value in at.items())
        identity = ("diagram", key, tuple(named), draws, seed + index)
        tasks.append(Task(identity, partial(diagram.simulate, at, draws, seed + index)))
    found = sweep.results(tasks, None if progress is None else lambda done: progress("simulation", done, points))
    value, stderr = np.array(found).T
    return Simulated(x, y, value, stderr)


def data_file(picture: Picture) -> bytes:
    """The arrays of a picture as an .npz archive."""
    stream = io.BytesIO()
    named: dict[str, Any] = picture.arrays()
    np.savez_compressed(stream, **named)
    return stream.getvalue()


def draw(picture: Picture, kind: str) -> bytes:
    """The picture as png, svg or pdf: colour, labelled regions, boundaries, and simulated points in the same colours.

    Raises :class:`MissingExtraError` where matplotlib is not installed and :class:`UnknownNameError` for another format.
    """
    if kind not in FORMATS:
        raise UnknownNameError("picture format", kind, FORMATS)
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
        from matplotlib.patheffects import withStroke
    except ImportError as missing:
        raise MissingExtraError("diagrams", "plot") from missing
    diagram = picture.diagram
    # An axis that ends at the largest double has ticks beyond it.
    with np.errstate(all="ignore"), mpl.rc_context({**mpl.rcParamsDefault, **_STYLE}):
        canvas = Figure(figsize=(5.6, 4.4), layout="constrained", dpi=200)
        FigureCanvasAgg(canvas)
        axes = canvas.subplots()
        colours = _colours(picture)
        mesh = axes.pcolormesh(picture.x, picture.y, picture.output, **colours, shading="gouraud", rasterized=True)
        canvas.colorbar(mesh, ax=axes, label=diagram.label, pad=0.02)
        lines = []
        crossed = np.zeros(picture.output.shape, dtype=bool)
        for label, (values, style) in picture.boundaries.items():
            finite = np.where(np.isfinite(values), values, np.nan)
            if np.nanmin(finite, initial=1.0) < 0 < np.nanmax(finite, initial=-1.0):
                axes.contour(picture.x, picture.y, finite, levels=[0.0], colors="black", linewidths=1.4, linestyles=style)
                crossed |= crossing(finite)
                lines.append(Line2D([], [], color="black", linewidth=1.4, linestyle=style, label=label))
        for label, inside in picture.regions.items():
            place = label_place(inside, crossed)
            if place is not None:
                row, column = place
                axes.text(picture.x[column], picture.y[row], label, color="white", ha="center", va="center", fontsize=10,
                          path_effects=[withStroke(linewidth=2.5, foreground="black")], zorder=4)
        if picture.simulated is not None:
            seen = picture.simulated
            axes.scatter(seen.x, seen.y, c=seen.value, **colours, s=42, edgecolors="red", linewidths=1.1, zorder=5)
            lines.append(Line2D([], [], color="none", marker="o", markeredgecolor="red", markerfacecolor="none",
                                label="simulated, same colours"))
        axes.set_xlabel(_axis_label(diagram.x))
        axes.set_ylabel(_axis_label(diagram.y))
        axes.set_title(textwrap.fill(picture.title, _TITLE_WIDTH), fontsize=10)
        if lines:
            canvas.legend(handles=lines, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
        stream = io.BytesIO()
        canvas.savefig(stream, format=kind, metadata=FORMATS[kind])
    return stream.getvalue()


def _colours(picture: Picture) -> dict[str, Any]:
    """Map and range of the colours."""
    finite = picture.output[np.isfinite(picture.output)]
    low, high = picture.diagram.limits or (float(finite.min(initial=0.0)), float(finite.max(initial=0.0)))
    if low < 0 < high:
        low, high = -max(-low, high), max(-low, high)
        return {"cmap": "RdBu_r", "vmin": low, "vmax": high}
    return {"cmap": "viridis", "vmin": low, "vmax": high}


def _axis_label(axis: Axis) -> str:
    words = re.split("[:;,]", info(axis.symbol).meaning)[0]
    return f"{axis.name if '^' in words else words} ${info(axis.symbol).latex}$"


def crossing(field: Array) -> NDArray[np.bool_]:
    """The points of the grid on both sides of the line where a field is zero."""
    positive, found = field > 0, np.zeros(field.shape, dtype=bool)
    for axis in (0, 1):
        changes = np.diff(positive, axis=axis)
        for ends in ((0, 1), (1, 0)):
            found |= np.pad(changes, [ends if k == axis else (0, 0) for k in (0, 1)])
    return found


def label_place(inside: NDArray[np.bool_], crossed: NDArray[np.bool_]) -> tuple[int, int] | None:
    """A point of a region far from its edge and from lines; None for a region under 2% of the picture or all under lines."""
    if inside.mean() < 0.02:
        return None
    padded = np.pad(inside & ~crossed, 1)
    if not padded.any():
        return None
    steps = max(1, min(inside.shape) // 40)
    left = padded
    while True:
        smaller = left.copy()
        for _ in range(steps):
            inner = smaller.copy()
            for axis in (0, 1):
                for shift in (1, -1):
                    inner &= np.roll(smaller, shift, axis)
            smaller = inner
        if not smaller.any():
            break
        left = smaller
    rows, columns = np.nonzero(left)
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return int(rows[nearest]) - 1, int(columns[nearest]) - 1
