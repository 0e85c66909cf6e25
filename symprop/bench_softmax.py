"""Running times of softmax moments: a layer after the first one, a sweep of moments of one row, and two rows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import sympy as sp

from symprop.components import Attention
from symprop.core import symbols as s
from symprop.core.signal import Gradient, Signal
from symprop.functions.softmax_numeric import pair_moments, row_moments
from symprop.functions.softmax_values import Evaluator, evaluator

ROW = [((2, 0),), ((3, 0),), ((4, 0),), ((2, 0), (2, 0))]
"""Y, S_3, S_4 and the second moment of the participation."""


def layer() -> Evaluator:
    """Output moments, gradient moments and weight gradients of the default level, in (q, gap, n, d) for keys of width 32."""
    x = Signal(q=s.q, gap=s.gap, tokens=s.n, width=s.d, gaussian=True)
    attention, gradient = Attention(s.d, 1 / s.d, 32, 1 / s.d, 1 / s.d), Gradient(sp.S.One, sp.S.Half)
    y, (back,), weights = attention.forward(x), attention.backward(gradient, x), attention.weight_gradients(gradient, x)
    return evaluator((y.q, y.gap, back.q, back.gap, weights.query, weights.key, weights.value), (s.q, s.gap, s.n, s.d))


def seconds_per_layer(gaps: Sequence[float], tokens: float = 64.0, width: float = 128.0) -> float:
    """Processor time of one layer after the first, at gaps that were not met before; scores of unit tokens have variance 1."""
    compiled = layer()
    compiled(1.0, 0.5, tokens, width)
    start = time.process_time()
    for gap in gaps:
        compiled(1.0, gap, tokens, width)
    return (time.process_time() - start) / len(gaps)


def sweep_seconds(points: int = 10_000) -> float:
    """Processor time of the moments of one row at random score deviations up to 20 and up to a million tokens."""
    rng = np.random.default_rng(0)
    scale, tokens = rng.uniform(0, 20, points), np.round(np.exp(rng.uniform(0, np.log(1e6), points)))
    start = time.process_time()
    row_moments(ROW, scale**2, tokens, 0 * scale + np.inf)
    return time.process_time() - start


def pair_seconds(points: int = 100) -> float:
    """Processor time of one point of two rows, at random score deviations up to 6 and up to 65536 tokens."""
    rng = np.random.default_rng(0)
    variance, tokens = rng.uniform(0, 6, points) ** 2, np.round(np.exp(rng.uniform(np.log(2), np.log(65536), points)))
    start = time.process_time()
    pair_moments([((1, 1),)], variance, variance, rng.uniform(0, 1, points), tokens, 0 * tokens)
    return (time.process_time() - start) / points


def rows(repeats: int) -> Iterator[str]:
    """The rows as text."""
    gaps = np.linspace(0.05, 0.95, repeats + 1)[1:].tolist()
    yield f"{'softmax layer after the first':40}{1e3 * seconds_per_layer(gaps):8.1f} ms"
    yield f"{'10000 points of one row, 4 moments':40}{sweep_seconds():8.1f} s"
    yield f"{'a point of two rows':40}{1e3 * pair_seconds():8.1f} ms"
