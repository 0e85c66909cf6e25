"""Figures: theory as lines, simulation as points with error bars."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from symprop.claims import Figure
from symprop.core.errors import MissingExtraError, UnknownNameError
from symprop.report.prose import pretty

FORMATS: Mapping[str, Mapping[str, Any]] = {
    "png": {"Software": None}, "svg": {"Date": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
}  # fmt: skip
"""File formats of pictures, and what is left out of their metadata so that the same data give the same bytes."""
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
_STYLE = {
    "pdf.fonttype": 42, "font.family": ["DejaVu Sans"], "font.size": 8, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.linewidth": 0.3, "grid.alpha": 0.5, "legend.frameon": False,
    "path.simplify": False, "axes.formatter.use_mathtext": False, "axes.unicode_minus": True,
    "mathtext.fontset": "dejavusans", "svg.fonttype": "none", "svg.hashsalt": "symprop",
}  # fmt: skip


def colour_groups(figure: Figure) -> dict[str, int]:
    """Labels by the number of their colour: a curve and the points with its label, or one that continues it, share one."""
    curves = [curve.label for curve in figure.curves]
    owners: dict[str, int] = {}
    found = {}
    for label in dict.fromkeys([*curves, *(points.label for points in figure.points)]):
        owner = max((known for known in curves if label.startswith(known)), key=len, default=label)
        found[label] = owners.setdefault(owner, len(owners))
    return found


def figure_file(figure: Figure, kind: str = "pdf") -> bytes:
    """One figure as one of :data:`FORMATS`; the same data give the same bytes.

    Raises :class:`MissingExtraError` where matplotlib is not installed and :class:`UnknownNameError` for another format.
    """
    if kind not in FORMATS:
        raise UnknownNameError("picture format", kind, FORMATS)
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Canvas
    except ImportError as missing:
        raise MissingExtraError("figures", "plot") from missing
    with mpl.rc_context({**mpl.rcParamsDefault, **_STYLE, "savefig.dpi": 200}):
        canvas = Canvas(figsize=(5.2, 3.1), layout="constrained")
        FigureCanvasAgg(canvas)
        axes = canvas.subplots()
        curves = {curve.label for curve in figure.curves}
        colours = {label: _COLOURS[group % len(_COLOURS)] for label, group in colour_groups(figure).items()}
        for curve in figure.curves:
            axes.plot(
                curve.x, curve.y, color=colours[curve.label], linewidth=1.2, label=_plot_text(curve.label), zorder=2
            )
        for points in figure.points:
            label = "_nolegend_" if points.label in curves else _plot_text(points.label)
            axes.errorbar(
                points.x,
                points.y,
                yerr=points.yerr,
                color=colours[points.label],
                linestyle="none",
                marker="o",
                markersize=3,
                markerfacecolor="white",
                elinewidth=0.8,
                capsize=1.5,
                label=label,
                zorder=3,
            )
        if figure.logy:
            axes.set_yscale("log")
        axes.set_xlabel(_plot_text(figure.xlabel))
        axes.set_ylabel(_plot_text(figure.ylabel))
        axes.legend()
        stream = io.BytesIO()
        canvas.savefig(stream, format=kind, metadata=FORMATS[kind])
    return stream.getvalue()


def _plot_text(text: str) -> str:
    return pretty(text).replace("$", r"\$")
