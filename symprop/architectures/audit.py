"""The audit of an architecture: what its initialisation does to tokens and gradients, in numbers and in sentences."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import sympy as sp

from symprop.architectures.description import Architecture
from symprop.architectures.signal import MAX_TOKENS, ModelPass, Words, run
from symprop.core.errors import InputError
from symprop.network.gram import GramSignal

COLLAPSED = 0.99
"""Token cosine from which tokens count as collapsed."""
VALID_LOGITS, USABLE_LOGITS = 0.5, 1.6
"""Logit deviations up to which attention is described at first order, and up to which its forward moments still are."""
SOLVE_TOKENS = 16
"""Tokens of the smaller batch that repairs are solved on."""
RANGE = 1e4
"""A repair is sought between 1/RANGE and RANGE times the present scale."""


@dataclass(frozen=True)
class LayerRow:
    """The stream that enters a layer, its attention, and the gradients there; the last row is the output of the model.

    ``q`` is the second moment of a coordinate, ``mean`` the root mean square of a token's coordinate mean, ``cosine`` that of
    two tokens. ``logit_deviation`` is the standard deviation of a logit about its row, ``participation`` the number of keys
    that a query attends to, 1/E sum_j A_ij^2. ``gradient`` is the second moment of dLoss/dx, ``gradient_cosine`` that of
    two tokens, and ``weights`` the root mean square norm of dLoss/dW by matrix.
    """

    layer: int
    q: float
    mean: float
    cosine: float
    logit_deviation: float | None
    participation: float | None
    gradient: float
    gradient_cosine: float
    weights: dict[str, float]


@dataclass(frozen=True)
class Repair:
    """A change that brings a quantity to a wanted value; ``factor`` multiplies ``target``, None where none does."""

    problem: str
    target: str
    factor: float | None
    sentence: str


@dataclass(frozen=True)
class Audit:
    """Everything the audit of one architecture found."""

    architecture: Architecture
    tokens: int
    cotangent: str
    rows: tuple[LayerRow, ...]
    verdict: tuple[str, ...]
    repairs: tuple[Repair, ...]


def audit(
    architecture: Architecture, *, tokens: int = 128, words: Words | None = None, growth: float = 10.0, cosine: float = 0.9
) -> Audit:
    """Audit an architecture on one sequence of ``tokens`` tokens, all different unless ``words`` are given.

    Gradients are those of the cross-entropy of random labels where the readout is linear, of independent unit cotangents
    at the last layer otherwise. ``growth`` is the factor by which the gradient's second moment may change over depth and
    ``cosine`` the token cosine wanted at the output; repairs are solved for these. No weight is ever drawn.

    >>> from symprop.architectures.presets import preset
    >>> small = preset("gpt2").replace(layers=2, width=64, heads=4, key_width=0, hidden=256)
    >>> found = audit(small, tokens=8)
    >>> len(found.rows), found.rows[0].cosine, found.repairs
    (3, 0.0, ())
    """
    if not growth > 1:
        raise InputError("growth", growth, "a number > 1")
    if not 0 < cosine < 1:
        raise InputError("cosine", cosine, "a number in (0, 1)")
    if not 1 <= tokens <= MAX_TOKENS:
        raise InputError("tokens", tokens, f"an integer in [1, {MAX_TOKENS}]")
    words = np.arange(tokens) if words is None else words
    model, rows, cotangent = _rows(architecture, words)
    return Audit(
        architecture, len(words), cotangent, rows, tuple(_verdict(rows, len(words), growth)),
        tuple(_repairs(architecture, rows, growth, cosine, _smaller(model))),
    )


def _smaller(model: ModelPass) -> Words:
    return np.arange(min(model.pattern.tokens, SOLVE_TOKENS))


def _rows(architecture: Architecture, words: Words) -> tuple[ModelPass, tuple[LayerRow, ...], str]:
    model = run(architecture, words)
    tokens = len(words)
    if architecture.head is None:
        gradient, cotangent = model.unit_gradient(), "unit cotangents at the output"
    else:
        # Labels that no two tokens share: the next words of a text of different words.
        gradient, cotangent = model.loss_gradient(np.arange(tokens)), "cross-entropy"
    gradients, weights = model.backward(gradient)
    rows = []
    for layer, (stream, above) in enumerate(zip(model.streams, gradients, strict=True)):
        inside = layer < architecture.layers
        deviation = participation = None
        if inside:
            attention = model.attention(layer)
            spread = (model.pattern.weights * attention.logit_variance).sum(axis=1)
            deviation, participation = math.sqrt(float(spread.mean())), 1 / float(attention.participation().mean())
        own = float(np.diag(above.gram).mean())
        rows.append(
            LayerRow(
                layer, stream.q, _mean(stream), _cosine(model, stream.gram), deviation, participation, own,
                model.pattern.pair_mean(above.gram) / own if own > 0 else 0.0,
                {name: math.sqrt(max(value, 0.0)) for name, value in weights[layer].items()} if inside else {},
            )
        )
    return model, tuple(rows), cotangent


def _mean(stream: GramSignal) -> float:
    return math.sqrt(stream.q * stream.mean_share / stream.width)


def _cosine(model: ModelPass, gram: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    own = float(np.diag(gram).mean())
    return model.pattern.pair_mean(gram) / own if own > 0 else 0.0


def gradient_growth(rows: tuple[LayerRow, ...]) -> float:
    """Second moment of dLoss/dx at the input over that at the output of the layers."""
    return rows[0].gradient / rows[-1].gradient if rows[-1].gradient > 0 else math.nan


def _verdict(rows: tuple[LayerRow, ...], tokens: int, growth: float) -> list[str]:
    depth = len(rows) - 1
    first, last = rows[0], rows[-1]
    sentences = [
        f"The second moment of a coordinate goes from {first.q:.3g} to {last.q:.3g} over {depth} layers"
        f" (a factor {last.q / first.q:.3g})." if first.q > 0 else "The model's input has zero variance."
    ]
    collapsed = next((row.layer for row in rows if row.cosine >= COLLAPSED), None)
    if tokens > 1:
        sentences.append(
            f"Tokens collapse: their cosine passes {COLLAPSED} by layer {collapsed}, and is {last.cosine:.6g} at the output."
            if collapsed is not None
            else f"Tokens stay apart: their cosine goes from {first.cosine:.3g} to {last.cosine:.3g}."
        )
    ratio = gradient_growth(rows)
    direction = "grow" if ratio >= 1 else "shrink"
    size = ratio if ratio >= 1 else 1 / ratio
    healthy = "within" if size <= growth else "beyond"
    sentences.append(
        f"Gradients {direction} by {size:.3g} in second moment from the output to the input, {healthy} the allowed {growth:g}."
    )
    logits = [(row.logit_deviation, row.layer, row.participation) for row in rows if row.logit_deviation is not None]
    deviation, layer, participation = max(logits, key=lambda item: item[0] or 0.0)
    assert deviation is not None and participation is not None
    if deviation > VALID_LOGITS:
        sentences.append(
            f"Attention leaves the uniform pattern: logits deviate by {deviation:.3g} in layer {layer}, more than the"
            f" {VALID_LOGITS} up to which its first order holds. "
            + (
                "Moments of tokens and gradients are good to some 10% there, gradients of attention's weights are not."
                if deviation <= USABLE_LOGITS
                else "The numbers above and the repairs are then those of a theory outside its range."
            )
        )
    elif tokens > 1:
        sentences.append(
            f"Attention stays close to uniform: logits deviate by at most {deviation:.3g} (layer {layer}), where a query"
            f" attends to {participation:.3g} keys."
        )
    return sentences


def _repairs(
    architecture: Architecture, rows: tuple[LayerRow, ...], growth: float, cosine: float, words: Words
) -> list[Repair]:
    found = []
    ratio = gradient_growth(rows)
    if not 1 / growth <= ratio <= growth:
        wanted = growth if ratio > 1 else 1 / growth

        def excess(scale: float) -> float:
            return math.log(gradient_growth(_scaled(architecture, scale, words)) / wanted)

        found.append(_branch_repair(architecture, "gradient growth", excess, f"the gradient's growth {wanted:.3g}"))
    if len(words) > 1 and rows[-1].cosine >= COLLAPSED:

        def aligned(scale: float) -> float:
            return _scaled(architecture, scale, words)[-1].cosine - cosine

        found.append(_branch_repair(architecture, "rank collapse", aligned, f"the token cosine {cosine:.3g} at the output"))
    deviation = max(row.logit_deviation or 0.0 for row in rows)
    if deviation > 1:
        # Logits are linear in the query and in the key weights.
        factor = math.sqrt(1 / deviation)
        found.append(
            Repair(
                "large logits", "query and key std", factor,
                f"Multiply the std of query and key weights by {factor:.4g} for logits that deviate by 1.",
            )
        )
    return found


def _scaled(architecture: Architecture, scale: float, words: Words) -> tuple[LayerRow, ...]:
    changed = architecture.replace(branch_scale=architecture.branch_scale * sp.Float(scale, 17))
    return _rows(changed, words)[1]


def _branch_repair(architecture: Architecture, problem: str, excess: Callable[[float], float], wanted: str) -> Repair:
    """The factor of the residual branches at which ``excess`` is zero, by bracketing and Brent's method in its logarithm."""
    from scipy.optimize import brentq

    def of(log_scale: float) -> float:
        value = excess(math.exp(log_scale))
        return value if math.isfinite(value) else math.copysign(1e6, value) if not math.isnan(value) else 1e6

    now = of(0.0)
    for direction in (-1.0, 1.0):
        edge, step = 0.0, direction * 0.5
        while abs(edge) < math.log(RANGE):
            other = edge + step
            if of(other) * now <= 0:
                factor = math.exp(brentq(of, min(edge, other), max(edge, other), xtol=1e-4))
                return Repair(problem, "branch scale", factor, _sentence(architecture, factor, wanted))
            edge, step = other, step * 2
    return Repair(problem, "branch scale", None, f"No scale of the residual branches brings {wanted}.")


def _sentence(architecture: Architecture, factor: float, wanted: str) -> str:
    scaled = f"Multiply the residual branches by {factor:.4g}"
    if architecture.order != "peri":
        stds = [math.sqrt(architecture.number(name)) * factor for name in ("output", "down")]
        scaled += f" (or initialise output with std {stds[0]:.4g} and down with std {stds[1]:.4g})"
    return f"{scaled} for {wanted}."
