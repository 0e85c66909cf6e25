"""Second moments at finite width: the map of a layer, its power and its depth limit."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

from symprop.core.errors import InputError, RefusedError
from symprop.core.symbols import L, a_1, a_2, alpha_1, alpha_2, d, d_F, n, sigma_down2, sigma_up2, sigma_v2
from symprop.wick import AttentionBlock, AttentionLayer, moment_map, norm_moments, tail_ratio, tail_ratio_limit
from symprop.wick.invariants import C_X, G_2, Q_X, T_X

v = alpha_1**2 * d * sigma_v2
g = d_F * sigma_up2 * d * sigma_down2
w = alpha_2**2 * g
BLOCK = AttentionBlock()


def same(found: sp.Matrix, known: sp.Matrix) -> None:
    assert (found - known).applyfunc(sp.expand) == sp.zeros(*found.shape)


def test_first_moments_are_lemma_3_2() -> None:
    same(moment_map(1).matrix, sp.diag(1 + w, (1 + w) * (1 + v)))


def test_second_moments_of_the_sublayers() -> None:
    attention = sp.eye(5)
    attention[2, 2] = 1 + v
    attention[3, 2] = v / d
    attention[4, 4] = (1 + v) ** 2 + 4 * v / d + 2 * v**2 / d
    same(moment_map(2, "attention").matrix, attention)
    a = 1 + 2 * w + w**2 * (1 + 2 / (d * d_F))
    b = 2 * w / d + w**2 * (1 / d + 1 / d_F + 1 / (d * d_F))
    pair = sp.Matrix([[a, 2 * b], [b, a + b]])
    feed_forward = sp.diag(pair, pair, a + 2 * b)
    same(moment_map(2, "feed_forward").matrix, feed_forward)
    same(moment_map(2).matrix, feed_forward * attention)


def test_tail_ratio_and_its_limit() -> None:
    ones = {alpha_1: 1, sigma_v2: 1 / d, alpha_2: 0}
    assert sp.cancel(tail_ratio(1).expression.subs(ones) - 1 - sp.Rational(3, 2) / d) == 0
    expected = sp.exp(4 * (a_1 * d * sigma_v2 + a_2 * g) / d)
    assert sp.expand(sp.log(tail_ratio_limit().expression).expand(force=True)
                     - sp.log(expected).expand(force=True)) == 0
    numbers = {d: 7, d_F: 11, sigma_v2: 0.2, sigma_up2: 0.1, sigma_down2: 0.15}
    depth = 10**7
    finite = tail_ratio(depth).expression.subs({alpha_1: sp.sqrt(1.3 / depth), alpha_2: sp.sqrt(0.6 / depth)})
    limit = tail_ratio_limit().expression.subs({a_1: 1.3, a_2: 0.6})
    assert float(finite.subs(numbers)) == pytest.approx(float(limit.subs(numbers)), rel=1e-5)


def test_power_in_closed_form_agrees_with_repeated_multiplication() -> None:
    sixteenth = sp.Rational(1, 16)
    block = AttentionBlock(AttentionLayer(n=4, d=16, d_o=16, sigma_v2=sixteenth), d_F=8, alpha_1=1,
                           alpha_2=sp.Rational(1, 2), sigma_up2=sixteenth, sigma_down2=sp.Rational(1, 8))
    start = {T_X: 40, C_X: 95, G_2: 550, Q_X: 800}
    closed, repeated = norm_moments(L, block), norm_moments(7, block)
    values = {alpha_1: 1, alpha_2: sp.Rational(1, 2), n: 4, d: 16, d_F: 8, sigma_v2: sixteenth, sigma_up2: sixteenth,
              sigma_down2: sp.Rational(1, 8)}
    for name, value in norm_moments(7).items():
        assert sp.expand(value.subs(values) - repeated[name]) == 0
    for name, value in repeated.items():
        found = sp.N(closed[name].subs(start).subs(L, 7), 30)
        assert abs(found / sp.N(value.subs(start), 30) - 1) < 1e-20, name


def test_depth_limit_is_the_matrix_exponential() -> None:
    limit = moment_map(2).depth_limit(BLOCK)
    numbers = {n: 4, d: 6, d_F: 9, sigma_v2: 0.3, sigma_up2: 0.2, sigma_down2: 0.1, a_1: 0.9, a_2: 1.4}
    depth = 10**6
    one = moment_map(2).matrix.subs({alpha_1: sp.sqrt(sp.Rational(9, 10) / depth),
                                     alpha_2: sp.sqrt(sp.Rational(14, 10) / depth)}).subs(numbers)
    power = np.linalg.matrix_power(np.array(one, dtype=float), depth)
    np.testing.assert_allclose(np.array(limit.subs(numbers).evalf(), dtype=float), power, rtol=1e-4)


def test_second_moments_by_simulation() -> None:
    rng = np.random.default_rng(1)
    tokens, width, hidden, depth, draws = 3, 6, 4, 2, 40000
    x = rng.normal(size=(tokens, width)) + 0.5
    variances = {"v": 0.2, "up": 0.15, "down": 0.3}
    layer = AttentionLayer(n=tokens, d=width, d_o=width, sigma_v2=sp.Rational(1, 5))
    block = AttentionBlock(layer, d_F=hidden, alpha_1=sp.Rational(3, 4), alpha_2=sp.Rational(2, 3),
                           sigma_up2=sp.Rational(3, 20), sigma_down2=sp.Rational(3, 10))
    stream = np.broadcast_to(x, (draws, tokens, width))
    for _ in range(depth):
        values = rng.normal(size=(draws, width, width)) * variances["v"] ** 0.5
        stream = stream + 0.75 * stream.mean(axis=1, keepdims=True) @ values
        up = rng.normal(size=(draws, width, hidden)) * variances["up"] ** 0.5
        down = rng.normal(size=(draws, hidden, width)) * variances["down"] ** 0.5
        stream = stream + (2 / 3) * stream @ up @ down
    norm = (stream**2).sum(axis=(1, 2))
    total = (stream.sum(axis=1) ** 2).sum(axis=1)
    centred = x - x.mean(axis=0)
    gram, pull = centred.T @ centred, centred @ x.sum(axis=0)
    start = {T_X: np.trace(gram), C_X: (x.sum(axis=0) ** 2).sum(), G_2: (gram**2).sum(), Q_X: pull @ pull}
    predicted = {k: float(value.subs(start)) for k, value in norm_moments(depth, block).items()}
    rest = norm - total / tokens
    samples = {"C": total, "N": norm, "C^2": total**2, "N^2": norm**2, "T^2": rest**2, "T C": rest * total}
    for name, sample in samples.items():
        assert abs(sample.mean() - predicted[name]) < 4 * sample.std() / draws**0.5, name


def test_degenerate_blocks() -> None:
    off = AttentionBlock(alpha_2=0)
    assert moment_map(1, block=off).matrix[0, 0] == 1
    assert sp.expand(norm_moments(2, off)["T^2"] - T_X**2) == 0
    for name, value in norm_moments(L, off).items():
        assert sp.expand(sp.expand_power_base(value.subs(L, 2)) - norm_moments(2, off)[name]) == 0
    still = AttentionBlock(alpha_1=0, alpha_2=0)
    assert norm_moments(5, still)["C^2"] == C_X**2
    assert norm_moments(0) == {"C": C_X, "N": T_X + C_X / n, "C^2": C_X**2, "T^2": T_X**2, "T C": T_X * C_X,
                               "N^2": T_X**2 + 2 * T_X * C_X / n + C_X**2 / n**2}
    with pytest.raises(InputError, match="depth = -1"):
        norm_moments(-1)
    with pytest.raises(RefusedError, match="order 3"):
        moment_map(3)
    with pytest.raises(RefusedError, match="pooling"):
        moment_map(1, "pooling")
    with pytest.raises(RefusedError, match="not the identity"):
        moment_map(1, block=AttentionBlock(alpha_1=1)).generator(AttentionBlock(alpha_1=1))
