"""The audit of an architecture as a person, a script or a paper reads it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from symprop.core.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from symprop.architectures.audit import Audit
    from symprop.architectures.description import Architecture
    from symprop.architectures.verification import Comparison

FULL_TABLE = 48
"""Layers up to which the table shows every one; a deeper model shows as many, evenly chosen."""


def overridden(
    architecture: Architecture, *, depth: int | None = None, width: int | None = None, init: Sequence[str] = ()
) -> Architecture:
    """The same architecture at another depth or width, or with other variances and scales.

    A new ``width`` keeps the width of a head where it divides, and the expansion of the feed-forward layer. ``init`` holds
    ``KEY=EXPRESSION`` words, the keys being variances, scales and epsilon. A width at which the model's heads do not fit
    raises :class:`InputError`.

    >>> from symprop.architectures.presets import preset
    >>> wide = overridden(preset("gpt2"), width=1024, init=["output=1/d"])
    >>> wide.heads, wide.hidden, wide.number("output")
    (16, 4096, 0.0009765625)
    """
    from symprop.architectures.description import SCALES, VARIANCES
    from symprop.architectures.readers import NAMES
    from symprop.core.parsing import parse_assignments

    changes: dict[str, Any] = {}
    if depth is not None:
        changes["layers"] = depth
    if width is not None:
        if width < 1 or width % architecture.key_width:
            raise InputError("width", width, f"a multiple of the head width {architecture.key_width}")
        changes["width"], changes["heads"] = width, width // architecture.key_width
        changes["hidden"] = max(1, round(architecture.hidden * width / architecture.width))
    for key, value in parse_assignments(list(init), NAMES).items():
        if key not in (*VARIANCES, *SCALES, "epsilon"):
            raise UnknownNameError("initialisation", key, (*VARIANCES, *SCALES, "epsilon"))
        if key == "epsilon" and not value.is_number:
            raise InputError(key, value, "a number")
        changes[key] = float(value) if key == "epsilon" else value
    return replace(architecture, **changes)


def text(found: Audit) -> str:
    """The audit for a terminal: a table of the layers, the verdict and the repairs."""
    model = found.architecture
    lines = [
        f"{model.name} ({model.source}): {model.layers} layers, width {model.width}, {model.heads} heads, "
        f"{found.tokens} tokens",
        f"gradients of {found.cotangent}; moments are per coordinate, expectations over the initialisation",
        "",
    ]
    names = list(dict.fromkeys(name for row in found.rows for name in row.weights))
    heading = ("layer", "E x^2", "mean", "cosine", "logit sd", "keys", "E g^2", "g cosine", *(f"|d{name}|" for name in names))
    table = [heading]
    for row in _chosen(found):
        table.append(
            (
                str(row.layer) if row.logit_deviation is not None else "out", _number(row.q), _number(row.mean),
                f"{row.cosine:.4f}", _number(row.logit_deviation), _number(row.participation), _number(row.gradient),
                f"{row.gradient_cosine:.4f}", *(_number(row.weights.get(name)) for name in names),
            )
        )
    widths = [max(len(line[k]) for line in table) for k in range(len(heading))]
    lines += ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in table]
    lines += ["", *found.verdict]
    lines += [f"Repair of {item.problem}: {item.sentence}" for item in found.repairs]
    return "\n".join(lines) + "\n"


def _chosen(found: Audit) -> Iterable[Any]:
    count = len(found.rows)
    if count <= FULL_TABLE + 1:
        return found.rows
    return [found.rows[round(k * (count - 1) / FULL_TABLE)] for k in range(FULL_TABLE + 1)]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def data(found: Audit) -> dict[str, Any]:
    """The audit as plain data, every number finite or null."""
    model = found.architecture
    sizes = ("layers", "width", "heads", "key_width", "hidden", "vocabulary")
    words = ("order", "norm", "activation", "gated", "causal", "positions", "epsilon")
    return {
        "architecture": {
            "name": model.name, "source": str(model.source), **{name: getattr(model, name) for name in (*sizes, *words)},
            "initialisation": {name: str(value) for name, value in _initialisation(model).items()},
        },
        "tokens": found.tokens, "cotangent": found.cotangent, "rows": _finite([asdict(row) for row in found.rows]),
        "verdict": list(found.verdict), "repairs": [asdict(item) for item in found.repairs],
    }  # fmt: skip


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _initialisation(model: Architecture) -> dict[str, Any]:
    from symprop.architectures.description import SCALES, VARIANCES

    given = {name: getattr(model, name) for name in (*VARIANCES, *SCALES)}
    return {name: value for name, value in given.items() if value is not None and value != 0}


def formulas(model: Architecture) -> str:
    r"""One layer's moments in LaTeX, step by step, for exchangeable tokens: (q, gap) of every step from those before it.

    Tokens that a causal mask or a class token tells apart have no closed map; for them these are the formulas of the average
    token, and the numbers of the audit come from the whole Gram matrix.
    """
    from symprop.core import symbols
    from symprop.network import token_input, trace_of
    from symprop.report.printer import latex

    # The moments of the activation stay expectations: their closed forms fill a page.
    trace = trace_of(model.block(symbolic=True, called=True), token_input(symbols.n, symbols.d, gaussian=True))
    lines = [rf"% {model.name}: {model.source}; phi is {model.activation}"]
    for name, value in _initialisation(model).items():
        lines.append(rf"% {name} = {value}")
    lines.append(r"\begin{align*}")
    for step in trace.steps:
        for atom, value in ((step.atoms.q, step.value.q), (step.atoms.gap, step.value.gap)):
            if atom.is_Symbol:
                lines.append(rf"{latex(atom)} &= {latex(value)} && \text{{{step.component.rule}}} \\")
    return "\n".join([*lines, r"\end{align*}"]) + "\n"


def plot(found: Audit) -> bytes:
    """Second moments and cosines over depth, as PDF. Raises :class:`MissingExtraError` without matplotlib."""
    from symprop.claims import Figure
    from symprop.claims.paper import Curve
    from symprop.report.figures import figure_pdf

    depth = tuple(float(row.layer) for row in found.rows)
    series = {
        "E x^2": tuple(row.q for row in found.rows),
        "E g^2 over its value at the output": tuple(row.gradient / found.rows[-1].gradient for row in found.rows),
        "1 - token cosine": tuple(max(1 - row.cosine, 1e-16) for row in found.rows),
    }
    curves = tuple(Curve(label, depth, values) for label, values in series.items() if all(map(math.isfinite, values)))
    name = found.architecture.name
    return figure_pdf(Figure("audit", f"Signal of {name}", "layer", name, curves, (), logy=True))


def comparison_text(rows: Sequence[Comparison]) -> str:
    """Predicted beside measured, one line for each quantity and layer, and what disagrees."""
    heading = ("predicted", "measured", "error", "s.e.", "allowed")
    cells = " ".join(name.rjust(width) for name, width in zip(heading, (11, 11, 8, 7, 7), strict=True))
    lines = [f"{'model':<9} {'layer':>5} {'quantity':<13} {cells}"]
    for row in rows:
        spread = row.stderr if row.absolute else row.stderr / row.measured
        mark = "" if row.agrees else "  DISAGREES"
        lines.append(
            f"{row.case:<9} {row.layer:>5} {row.quantity:<13} {row.predicted:>11.5g} {row.measured:>11.5g} {row.error:>+8.2%} "
            f"{spread:>7.2%} {row.tolerance:>7.1%}{mark}"
        )
    wrong = sum(not row.agrees for row in rows)
    lines.append(f"{len(rows) - wrong} of {len(rows)} within tolerance + 2.5 standard errors")
    return "\n".join(lines) + "\n"
