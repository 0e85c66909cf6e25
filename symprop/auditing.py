"""The audit of an architecture as a person, a script or a paper reads it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from symprop.core.display import COLUMNS, aligned, counted
from symprop.core.errors import InputError, RefusedError, UnknownNameError

if TYPE_CHECKING:
    from symprop.architectures.audit import Audit, LayerRow
    from symprop.architectures.checkpoint import Contrast
    from symprop.architectures.description import Architecture
    from symprop.architectures.signal import Words
    from symprop.claims import Curve, Figure
    from symprop.network.trace import Trace

SCHEMA, CONTRAST_SCHEMA = "symprop-audit-1", "symprop-checkpoint-1"
"""Names of the forms of :func:`data` and :func:`contrast_data`; one changes when an entry is renamed or dropped."""
WORDS = ("distinct", "uniform", "zipf")
SPECIAL, MAX_DRAWN = 5, 10**7
"""Words that are drawn leave out the first SPECIAL; a larger vocabulary than MAX_DRAWN would fill the memory."""
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


def words_of(kind: str, tokens: int, vocabulary: int, seed: int) -> Words | None:
    """Words of an audited sequence: ``distinct`` (None, for the audit to count them), or drawn as ``uniform`` or ``zipf``.

    >>> len(set(words_of("zipf", 64, 1000, 0).tolist())) < len(set(words_of("uniform", 64, 1000, 0).tolist())) <= 64
    True
    """
    from symprop.architectures.entries import MAX_TOKENS

    if kind not in WORDS:
        raise UnknownNameError("words", kind, WORDS)
    if kind == "distinct" or not 1 <= tokens <= MAX_TOKENS:
        return None
    if not SPECIAL < vocabulary <= MAX_DRAWN:
        raise InputError("vocabulary", vocabulary, f"an integer in ({SPECIAL}, {MAX_DRAWN}] to draw words from")
    from symprop.architectures.verification import tokens_of

    return tokens_of(seed, 1, tokens, vocabulary, repeated=kind == "zipf").ravel()


def text(found: Audit) -> str:
    """The audit for a terminal: a table of the layers, the verdict and the repairs."""
    model = found.architecture
    lines = [
        f"{model.name} ({model.source}): {counted(model.layers, 'layer')}, width {model.width}, "
        f"{counted(model.heads, 'head')}, {counted(found.tokens, 'token')}"
        f"{f', the last {found.padding} of them padding' if found.padding else ''}",
        f"gradients of {found.cotangent}; moments are per coordinate, expectations over the initialisation",
        "cosine: of two tokens; keys: to how many a query attends, 1/E sum_j A_ij^2; |dW|: root mean square norm of the"
        " gradient of a matrix",
        f"state of the tokens: {found.state} ({found.reason})",
        "",
    ]
    names = list(dict.fromkeys(name for row in found.rows for name in row.weights))
    heading = ("layer", "E x^2", "mean", "cosine", "logit sd", "keys", "E g^2", "g cosine", *(f"|d{name}|" for name in names))
    table = [heading]
    for row in shown_rows(found):
        table.append(
            (
                str(row.layer) if row.logit_deviation is not None else "out", number(row.q), number(row.mean),
                f"{row.cosine:z.4f}", number(row.logit_deviation), number(row.participation), number(row.gradient),
                f"{row.gradient_cosine:z.4f}", *(number(row.weights.get(name)) for name in names),
            )
        )
    lines += aligned(table)
    lines += ["", *found.findings]
    return _filled(lines)


def _filled(lines: Iterable[str]) -> str:
    """Lines as text, sentences that are too long for a terminal broken between words."""
    return "\n".join(textwrap.fill(line, COLUMNS) if len(line) > COLUMNS else line for line in lines) + "\n"


def shown_rows(found: Audit) -> Iterable[LayerRow]:
    """The layers that a table shows: all, or so many that are evenly spread."""
    count = len(found.rows)
    if count <= FULL_TABLE + 1:
        return found.rows
    return [found.rows[round(k * (count - 1) / FULL_TABLE)] for k in range(FULL_TABLE + 1)]


def number(value: float | None) -> str:
    """Three digits; empty where there is no value."""
    return "" if value is None else f"{value:z.3g}"


def data(found: Audit) -> dict[str, Any]:
    """The audit as plain data of the form :data:`SCHEMA`, every number finite or null.

    >>> from symprop.architectures.audit import audit
    >>> from symprop.architectures.presets import preset
    >>> list(data(audit(preset("bert").replace(layers=1), tokens=2)))
    ['schema', 'architecture', 'tokens', 'padding', 'state', 'reason', 'cotangent', 'rows', 'verdict', 'repairs']
    """
    model = found.architecture
    sizes = ("layers", "width", "heads", "key_width", "hidden", "vocabulary")
    words = ("order", "norm", "activation", "gated", "causal", "positions", "epsilon")
    return {
        "schema": SCHEMA,
        "architecture": {
            "name": model.name, "source": str(model.source), **{name: getattr(model, name) for name in (*sizes, *words)},
            "initialisation": {name: str(value) for name, value in initialisation(model).items()},
        },
        "tokens": found.tokens, "padding": found.padding, "state": found.state, "reason": found.reason,
        "cotangent": found.cotangent, "rows": _finite([asdict(row) for row in found.rows]),
        "verdict": list(found.verdict), "repairs": _finite([asdict(item) for item in found.repairs]),
    }  # fmt: skip


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def initialisation(model: Architecture) -> dict[str, Any]:
    """Variances and scales that are given and not zero."""
    from symprop.architectures.description import SCALES, VARIANCES

    given = {name: getattr(model, name) for name in (*VARIANCES, *SCALES)}
    return {name: value for name, value in given.items() if value is not None and value != 0}


def contrast_text(found: Contrast) -> str:
    """A checkpoint for a terminal: its matrices beside what was assumed, its layers in both theories, and the verdict."""
    model = found.architecture
    lines = [
        f"{model.name}: {counted(model.layers, 'layer')}, width {model.width}, {counted(found.tokens, 'token')};"
        " trained weights beside their initialisation",
        "", "weights: smallest and largest over the layers",
    ]
    table: list[Sequence[str]] = [("matrix", "E w^2 / assumed", "mean^2 share", "kurtosis", "top / iid edge", "E bias^2")]
    for name in dict.fromkeys(item.name for item in found.matrices):
        own = [item for item in found.matrices if item.name == name]
        columns = ("ratio", "mean_share", "kurtosis", "edge", "bias")
        table.append((name, *(_range([getattr(item, column) for item in own]) for column in columns)))
    lines += aligned(table)
    gains = [gain for pair in found.norms for gain in pair]
    lines += ["", f"norms: E gain^2 {_range([gain.gain2 for gain in gains])}, E bias^2 {_range([gain.bias for gain in gains])}"]
    lines += ["", "streams: at initialisation; by theory with the measured moments of the weights"
              + ("; in a real forward pass" if found.real is not None else "")]  # fmt: skip
    quantities = ("E x^2", "cosine", "logit sd", "E g^2")
    table = [("layer", *(f"{name} {state}" for name in quantities for state in ("init", "measured")))]
    for first, then in zip(found.initial, found.trained, strict=True):
        pairs = [(getattr(first, name), getattr(then, name)) for name in ("q", "cosine", "logit_deviation", "gradient")]
        table.append((str(first.layer), *(number(value) for pair in pairs for value in pair)))
    if found.real is not None:
        real = [("E x^2 real", "cosine real"), *((number(q), number(cosine)) for q, cosine in found.real)]
        table = [(*row[:3], end[0], *row[3:5], end[1], *row[5:]) for row, end in zip(table, real, strict=True)]
    return _filled([*lines, *aligned(table), "", *found.verdict])


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.3g} .. {max(values):.3g}"


def contrast_data(found: Contrast) -> dict[str, Any]:
    """The same as plain data of the form :data:`CONTRAST_SCHEMA`, every number finite or null."""
    streams = None if found.real is None else [{"q": q, "cosine": cosine} for q, cosine in found.real]
    return {
        "schema": CONTRAST_SCHEMA, "name": found.architecture.name, "tokens": found.tokens,
        "matrices": _finite([asdict(item) | {"ratio": item.ratio} for item in found.matrices]),
        "norms": [[asdict(gain) for gain in pair] for pair in found.norms],
        "initial": _finite([asdict(row) for row in found.initial]), "trained": _finite([asdict(row) for row in found.trained]),
        "real": streams, "verdict": list(found.verdict),
    }  # fmt: skip


def formulas(model: Architecture) -> str:
    r"""One layer's moments in LaTeX, step by step, for exchangeable tokens: (q, gap) of every step from those before it.

    Tokens that a causal mask or a class token tells apart have no closed map; for them these are the formulas of the average
    token, and the numbers of the audit come from the whole Gram matrix.
    """
    from symprop.notation import view
    from symprop.report.content import block_steps

    if model.cross:
        raise RefusedError(
            model.name, "a layer has two inputs, and its formulas one", "see the component CrossAttention, or audit in numbers"
        )
    lines = [rf"% {model.name}: {model.source}; phi is {model.activation}"]
    lines.append("% for exchangeable tokens; where a mask, a class token or positions tell them apart, for the average one")
    if model.positions == "sinusoidal" and model.norm == "layer":
        lines.append("% the first norm also takes away the coordinate mean of the positions, which is left out here")
    for name, value in initialisation(model).items():
        lines.append(rf"% {name} = {value}")
    lines.append(r"\begin{align*}")
    for step in block_steps(layer_trace(model), view("symprop"), tidy=False):
        lines += [rf"{item.quantity} &= {item.latex} && \text{{{step.rule}}} \\" for item in step.equations]
    return "\n".join([*lines, r"\end{align*}"]) + "\n"


def layer_trace(model: Architecture) -> Trace:
    """One layer on exchangeable tokens, its sizes and its activation as symbols."""
    from symprop.core import symbols
    from symprop.network import token_input, trace_of

    # The moments of the activation stay expectations: their closed forms fill a page.
    return trace_of(model.block(symbolic=True, called=True), token_input(symbols.n, symbols.d, gaussian=True))


def figure(found: Audit) -> Figure:
    """Second moments, cosine and logits over depth."""
    from symprop.claims import Figure

    name = found.architecture.name
    return Figure("audit", f"Signal of {name}", *axis_labels(name, found.tokens), curves(found.rows), (), logy=True)


def axis_labels(name: str, tokens: int) -> tuple[str, str]:
    """What the axes of :func:`curves` say."""
    return f"layer of {name}, {counted(tokens, 'token')}", "moments and deviations"


def curves(rows: Sequence[LayerRow]) -> tuple[Curve, ...]:
    """What a figure shows of the layers, where it is positive."""
    from symprop.claims import Curve

    depth = tuple(float(row.layer) for row in rows)
    last = rows[-1].gradient
    series = {
        "E x^2": tuple(row.q for row in rows),
        "E g^2 over its value at the output": tuple(row.gradient / last if last > 0 else math.nan for row in rows),
        "1 - token cosine": tuple(row.gap / row.q if row.q > 0 else math.nan for row in rows),
        "logit deviation": tuple(math.nan if row.logit_deviation is None else row.logit_deviation for row in rows),
    }
    # A logarithmic axis shows what is positive.
    kept = {label: [(x, y) for x, y in zip(depth, values, strict=True) if 0 < y < math.inf] for label, values in series.items()}
    return tuple(Curve(label, *zip(*points, strict=True)) for label, points in kept.items() if points)


def plot(found: Audit, kind: str = "pdf") -> bytes:
    """Second moments, cosine and logits over depth as pdf, png or svg; :class:`MissingExtraError` without matplotlib."""
    from symprop.report.figures import figure_file

    return figure_file(figure(found), kind)
