"""How far softmax attention is from a drawn layer, over lengths, widths, correlations and scores: percentiles of the error.

A layer of one head is drawn anew for every sample. Of outputs and weight gradients the mean over the value weights and the
gradient of the output is taken exactly, given tokens, queries and keys; input gradients are vector-Jacobian products. What is
known of the draws otherwise is a control variate.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import sympy as sp

from symprop.claims import Progress
from symprop.components import Attention, CausalAttention, RMSNorm
from symprop.components.base import Array
from symprop.components.level_warning import LevelWarning
from symprop.core.signal import Gradient
from symprop.functions.softmax_values import value
from symprop.network import token_input
from symprop.simulate.measurement import Accuracy, Measurement, accuracy, measurement

OPERATIONS = 2e10
"""Multiplications of the draws of a cell."""
FEWEST, MOST = 64, 2000
"""Draws of a cell."""
AT_ONCE = 4_000_000
"""Entries of an array of a batch."""


@dataclass(frozen=True)
class Cell:
    """One layer: unit tokens of correlation ``r``, gradients of correlation ``r_g``, raw scores of the deviation ``score``."""

    kind: str
    tokens: int
    width: int
    key_width: int
    r: float
    r_g: float
    score: float

    def __str__(self) -> str:
        return f"n={self.tokens} d={self.width} d_k={self.key_width} r={self.r:g} r_g={self.r_g:g} s={self.score:g}"

    @property
    def draws(self) -> int:
        """As many as the operations allow."""
        n, d, k = self.tokens, self.width, self.key_width
        return int(min(MOST, max(FEWEST, OPERATIONS / (n * (12 * d * k + n * (3 * d + 10 * k + 10 * n) + 20 * d)))))


GRID = {"tokens": (16, 64, 256, 1024), "width": (64, 128, 256, 1024), "key_width": (32, 64), "r": (0.0, 0.3, 0.6, 0.9),
        "r_g": (0.0, 0.3), "score": (0.05, 0.3, 1.0, 2.0, 3.0, 4.0, 6.0)}
GAUSSIAN, NORMED, CAUSAL, CAUSAL_NORMED = "Gaussian tokens", "after RMSNorm", "causal, small scores", "causal, after RMSNorm"
FIXED_NORM, MASKED = (NORMED, CAUSAL_NORMED), (CAUSAL, CAUSAL_NORMED)
CORNER = Cell(GAUSSIAN, 1024, 1024, 64, 0.3, 0.3, 3.0)
"""The largest layer."""
NARROWER: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    GAUSSIAN: {},
    NORMED: {"tokens": (16, 64, 256), "width": (64, 128, 256), "score": (0.3, 1.0, 1.5, 2.0, 3.0)},
    CAUSAL: {"tokens": (16, 64, 128), "width": (64, 128, 256), "score": (0.05, 0.3)},
    CAUSAL_NORMED: {"tokens": (16, 64), "width": (64, 128, 256), "score": (0.3, 1.0, 1.5, 2.0, 3.0)},
}
FORWARD, INPUT, WEIGHTS = ("q", "p"), ("Var dX", "Cov dX"), ("|dW_V|^2", "|dW_Q|^2", "|dW_K|^2")
LIMITS: Mapping[str, Mapping[str, Mapping[int, float]]] = {
    GAUSSIAN: {**{key: {50: 0.005, 90: 0.02, 99: 0.05} for key in (*FORWARD, *INPUT)},
               **{key: {50: 0.01, 90: 0.03, 99: 0.06} for key in WEIGHTS}},
    NORMED: {key: {90: limit} for keys, limit in ((FORWARD, 0.005), (INPUT, 0.015), (WEIGHTS, 0.03)) for key in keys},
    CAUSAL: {key: {90: 0.015} for key in WEIGHTS[1:]},
    CAUSAL_NORMED: {key: {90: 0.03} for key in WEIGHTS},
}
"""Largest relative error at a percentile."""


def cells(kind: str, count: int, rng: random.Random) -> list[Cell]:
    """Some of the grid, each value of an axis as often as the others."""
    axes = {**GRID, **NARROWER[kind]}
    columns = {name: (list(values) * (count // len(values) + 1))[:count] for name, values in axes.items()}
    for column in columns.values():
        rng.shuffle(column)
    return [Cell(kind, *row) for row in zip(*columns.values(), strict=True)]


def _layer(cell: Cell) -> Attention | CausalAttention:
    strength, kind = sp.nsimplify(cell.score) / cell.width, CausalAttention if cell.kind in MASKED else Attention
    return kind(cell.key_width, sp.Rational(1, cell.width), cell.key_width, strength, strength)


def predicted(cell: Cell) -> dict[str, float]:
    """The moments that :func:`drawn` samples, by theory."""
    layer, gradient, r = _layer(cell), Gradient(sp.S.One, 1 - sp.nsimplify(cell.r_g)), sp.nsimplify(cell.r)
    stream = token_input(sp.Integer(cell.tokens), sp.Integer(cell.width), gaussian=True)
    tokens = RMSNorm(finite=True).forward(stream) if cell.kind in FIXED_NORM else stream
    x = tokens.subs({stream.q: sp.S.One, stream.gap: 1 - r})
    x = x.replace(q=sp.N(x.q, 17), gap=sp.N(x.gap, 17))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LevelWarning)
        y, (back,), weights = layer.forward(x), layer.backward(gradient, x), layer.weight_gradients(gradient, x)
    found = (y.q, y.p, back.q, back.p, weights.value, weights.query, weights.key)
    return {name: value(item) for name, item in zip((*FORWARD, *INPUT, *WEIGHTS), found, strict=True)}


def _pairs(rows: Array) -> tuple[Array, Array]:
    """Mean square of a token, and mean product of two, per draw and coordinate."""
    n = rows.shape[1]
    own = np.square(rows).mean(axis=(1, 2))
    return own, (np.square(rows.sum(axis=1)).mean(axis=1) / n - own) / (n - 1)


def _through_softmax(weights: Array, left: Array, right: Array) -> Array:
    """tr(J_i left J_k right) of the Jacobians J = diag(w) - w w^T of every two rows i, k, for symmetric matrices."""
    back = weights.swapaxes(1, 2)
    by_left, by_right = left @ back, right @ back
    once = weights @ (by_left * by_right)
    return weights @ (left * right) @ back - once - once.swapaxes(1, 2) + (weights @ by_left) * (weights @ by_right)


def drawn(cell: Cell, draws: int, rng: np.random.Generator) -> tuple[dict[str, Array], Array]:
    """Samples of every moment, and of statistics of mean zero."""
    n, d, k = cell.tokens, cell.width, cell.key_width

    def normal(*shape: int, variance: float = 1.0) -> Array:
        return np.sqrt(variance) * rng.standard_normal((draws, *shape))

    def correlated(size: int, correlation: float) -> Array:
        return normal(1, size, variance=correlation) + normal(n, size, variance=1 - correlation)

    def turned(of: Array) -> Array:
        return of.swapaxes(1, 2)

    stream, g = correlated(d, cell.r), correlated(k, cell.r_g)
    x = stream / np.sqrt(np.square(stream).mean(axis=2, keepdims=True)) if cell.kind in FIXED_NORM else stream
    query, key = (normal(d, k, variance=cell.score / d) for _ in range(2))
    values = normal(d, k, variance=1 / d)
    queries, keys, scale = x @ query, x @ key, k**-0.5
    scores = queries @ turned(keys) * scale
    if cell.kind in MASKED:
        scores += np.triu(np.full((n, n), -np.inf), 1)
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    average = weights @ x
    to_weights = g @ turned(x @ values)
    to_scores = weights * (to_weights - (weights * to_weights).sum(axis=2, keepdims=True)) * scale
    to_queries, to_keys = to_scores @ keys, turned(to_scores) @ queries
    to_tokens = turned(weights) @ (g @ turned(values)) + to_queries @ turned(query) + to_keys @ turned(key)
    found = dict(zip(FORWARD, _pairs(average), strict=True)) | dict(zip(INPUT, _pairs(to_tokens), strict=True))
    own, other = found["q"] * n * d * k, found["p"] * n * (n - 1) * d * k
    alike, asked, offered = (item @ turned(item) for item in (x, queries, keys))
    # dW_Q is the sum of x_i K^T J_i X h_i over rows, dW_K that of q_i X^T J_i X h_i, and E h_i h_k is k/d or that times r_g.
    rows = alike * _through_softmax(weights, offered, alike), asked * _through_softmax(weights, alike, alike)
    shared = cell.r_g + (1 - cell.r_g) * np.eye(n)
    found |= dict(zip(WEIGHTS, (own + cell.r_g * other, *((item * shared).sum(axis=(1, 2)) / d for item in rows)), strict=True))
    known = np.array([*_pairs(stream), *_pairs(g), *_pairs(g @ turned(values) * np.sqrt(d / k))])
    along = np.square(queries @ turned(key)).mean(axis=(1, 2)) * d / (cell.score**2 * k)
    means = np.array([1, cell.r, 1, cell.r_g, 1, cell.r_g])
    return found, np.column_stack([known.T - means, along - 1])


def measured(cell: Cell, seed: int) -> tuple[Measurement, ...]:
    """Every moment of a cell beside its draws."""
    rng, theory = np.random.default_rng(seed), predicted(cell)
    size = max(1, AT_ONCE // (cell.tokens * max(cell.tokens, cell.width)))
    batches = [drawn(cell, min(size, cell.draws - start), rng) for start in range(0, cell.draws, size)]
    controls = np.concatenate([item for _, item in batches])
    return tuple(
        measurement(name, str(cell), theory[name], np.concatenate([found[name] for found, _ in batches]), controls=controls)
        for name in theory
    )


def study(seed: int, progress: Progress | None, count: int = 48) -> tuple[Accuracy, ...]:
    """Percentiles of the error over ``count`` layers of Gaussian tokens and half as many of the others."""
    rng, found = random.Random(seed), []
    for kind, limits in LIMITS.items():
        chosen = cells(kind, count if kind == GAUSSIAN else count // 2, rng)
        if kind == GAUSSIAN:
            chosen[0] = replace(CORNER, r_g=chosen[0].r_g)
        rows = []
        for index, cell in enumerate(chosen):
            rows += measured(cell, seed + index)
            if progress is not None:
                progress(kind, index + 1, len(chosen))
        found += [
            accuracy(f"{name}, {kind}", [row for row in rows if row.quantity == name], limit) for name, limit in limits.items()
        ]
    return tuple(found)
