"""What is simulated for pure attention: the power of one and of two layers, and the strength of every layer."""

from __future__ import annotations

from functools import partial

import numpy as np
import sympy as sp
from symprop.derivations.named_blocks import SCORED, X
from symprop.derivations.named_blocks_simulation import jackknife

from symprop.claims import Figure, Progress, StudyPoint
from symprop.components.base import Array
from symprop.core.symbols import d, d_k, gain_v, n, sigma_k2, sigma_q2
from symprop.network import trace_of
from symprop.simulate.measurement import Measurement, measurement
from symprop.simulate.network import apply

TOKENS, WIDTH = 4, 128
VALUES = {n: float(TOKENS), d: float(WIDTH), d_k: float(WIDTH), gain_v: 1.0, sigma_q2: 1 / WIDTH, sigma_k2: 1 / WIDTH}


def _gram(x: Array) -> Array:
    """Gram matrix of the tokens without their mean, per coordinate."""
    apart = x - x.mean(axis=1, keepdims=True)
    return apart @ apart.swapaxes(1, 2) / x.shape[2]


def _gap(gram: Array) -> Array:
    return np.trace(gram, axis1=1, axis2=2) / (gram.shape[1] - 1)


def _layers(share: float, depth: int, draws: int, seed: int) -> list[Array]:
    """Gram matrices behind every layer; one seed gives the same weights whatever the share."""
    rng = np.random.default_rng(seed)
    shared, own = rng.standard_normal((draws, 1, WIDTH)), rng.standard_normal((draws, TOKENS, WIDTH))
    state = (1 - share) ** 0.5 * shared + share**0.5 * own
    grams = [_gram(state)]
    for _ in range(depth):
        state = apply(trace_of(SCORED, X), state, rng, VALUES)
        grams.append(_gram(state))
    return grams


def study_points(strength: sp.Expr, seed: int, full: bool) -> list[StudyPoint]:
    """Power of the gap through one and two layers, from two inputs through the same weights, and the law layer by layer."""
    # The law is that of the lowest order in the share; two layers leave no digits of a smaller one.
    return [partial(_measured, float(strength.subs(VALUES)), depth, share, 400 if full else 80, seed)
            for depth, share in ((1, 1e-6), (2, 2e-3))]


def _measured(factor: float, depth: int, share: float, draws: int, seed: int) -> tuple[Measurement, ...]:
    ratio = 1.25
    name = f"n = {TOKENS}, d = {WIDTH}, 1 - rho = {share:g}"
    low, high = (_layers(share * more, depth, draws, seed) for more in (1.0, ratio))
    ends = np.stack([_gap(low[depth]), _gap(high[depth])], axis=1)
    measured, error = jackknife(lambda means: float(np.log(means[1] / means[0]) / np.log(ratio)), ends / ends.mean())
    power = Measurement(f"power of the gap, {depth} layers", name, float(3**depth), measured, error, draws)
    above, below = low[depth], low[depth - 1]
    # Behind a layer the tokens' deviations are no longer Gaussian ones of one size in all directions.
    spread = (TOKENS - 1) * (below**2).sum(axis=(1, 2)) / np.trace(below, axis1=1, axis2=2) ** 2 / (1 + TOKENS / WIDTH)
    one, where = _gap(above) / (factor * _gap(below) ** 3), f"layer {depth}, {name}"
    law = measurement("gap over its law", where, 1.0, one, expected_to_hold=depth == 1)
    return power, law, measurement("gap over its law and the spread of the spectrum", where, 1.0, one / spread)


def figures(seed: int, full: bool, progress: Progress | None) -> tuple[Figure, ...]:
    """No figure."""
    del seed, full, progress
    return ()
