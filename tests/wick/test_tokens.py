"""Averages over Gaussian tokens against the verified formulas."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

from symprop.core.errors import RefusedError
from symprop.core.symbols import d, d_k, d_o, n, rho, sigma_k2, sigma_q2, sigma_v2, sigma_x2, tau
from symprop.wick import (
    AttentionLayer,
    Gaussian,
    averaging,
    centring,
    distance_to_uniform,
    factorised_gradient_norm,
    gradient_norm,
    matching_temperature,
    mean_gradient_norm,
    missing_factor,
    output_norm_beyond_uniform,
    token_average,
    token_covariance,
)
from symprop.wick.invariants import C_X, G_2, N_X, T_X

XAVIER = AttentionLayer(d_k=d, d_o=d, tau=1, sigma_v2=1 / d, sigma_q2=1 / d, sigma_k2=1 / d)
r, sx = 1 - rho, sigma_x2


def equal(left: sp.Expr, right: sp.Expr) -> None:
    assert sp.cancel(sp.together(left - right)) == 0


BLOCKS = {
    N_X: n * d * sx,
    C_X: n * d * sx * (1 + (n - 1) * rho),
    T_X: sx * r * d * (n - 1),
    G_2: sx**2 * r**2 * d * (n - 1) * (n + d),
    N_X * T_X: sx**2 * r * d * (n - 1) * (n * d + 2 * r),
    N_X * G_2: sx**3 * r**2 * d * (n - 1) * (n + d) * (n * d + 4 * r),
    N_X**2: n * d * sx**2 * (n * d + 2 + 2 * (n - 1) * rho**2),
    T_X**2: sx**2 * r**2 * d * (n - 1) * (d * (n - 1) + 2),
    T_X * G_2: sx**3 * r**3 * d * (n - 1) * (n + d) * (d * (n - 1) + 4),
    G_2**2: sx**4 * r**4 * d * (n - 1) * (
        d**3 * (n - 1) + 2 * d**2 * n * (n - 1) + 8 * d**2 + d * n**2 * (n - 1) + 20 * d * n + 8 * n**2 + 4 * n + 8
    ),
}


@pytest.mark.parametrize("quantity", BLOCKS, ids=str)
def test_equicorrelated_blocks(quantity: sp.Expr) -> None:
    equal(token_average(quantity).expression, BLOCKS[quantity])


def test_eq_17_and_the_exact_form_of_eq_18() -> None:
    equal(mean_gradient_norm("W_V").expression, d_o * d * sx * (1 + (n - 1) * rho))
    scale = tau**2 * sigma_v2 * sigma_k2 * d_o / n**2
    equal(mean_gradient_norm("W_Q").expression, scale * BLOCKS[N_X * G_2])
    equal(mean_gradient_norm("W_K").expression, scale * BLOCKS[N_X * G_2] * sigma_q2 / sigma_k2)
    published = sx**3 * (n - 1) / n * r**2 * d * (n + d)
    equal(factorised_gradient_norm("W_Q", layer=XAVIER).expression, published)
    equal(missing_factor().expression, 1 + 4 * r / (n * d))
    equal(missing_factor(layer=XAVIER).expression, 1 + 4 * r / (n * d))
    assert factorised_gradient_norm("W_Q").neglected != "exact"


def test_mean_input_gradient() -> None:
    inner = (n * d + 2) * (n + d) * r + d * (n * d + 2 * r)
    scale = tau**2 * sigma_q2 * sigma_k2 * sx**2 * r * d * (n - 1) / n**2
    equal(mean_gradient_norm("X").expression, sigma_v2 * d_o * (d + scale * inner))
    assert sp.count_ops(mean_gradient_norm("X").expression) < 120


def test_any_row_covariance() -> None:
    Sigma = token_covariance()
    law = Gaussian(row_covariance=Sigma)
    Pi, tr = centring(n), sp.Trace
    l_1, l_2 = tr(Pi * Sigma), tr(Pi * Sigma * Sigma)
    l_11, l_12, s = tr(Pi * Sigma * Pi * Sigma), tr(Pi * Sigma * Pi * Sigma * Sigma), tr(Sigma)
    norm_g = d * l_1**2 + d * (d + 1) * l_11
    assert sp.expand(token_average(G_2, law).expression - norm_g) == 0
    assert sp.expand(token_average(N_X * T_X, law).expression - d**2 * s * l_1 - 2 * d * l_2) == 0
    known = d * s * norm_g + 4 * d * l_1 * l_2 + 4 * d * (d + 1) * l_12
    assert sp.expand(token_average(N_X * G_2, law).expression - known) == 0
    queries = mean_gradient_norm("W_Q", law).expression
    assert sp.expand(queries - tau**2 * sigma_v2 * sigma_k2 * d_o * known / n**2) == 0
    assert sp.expand(mean_gradient_norm("W_V", law).expression - d * d_o * tr(averaging(n) * Sigma)) == 0


def test_matching_temperature() -> None:
    layer = AttentionLayer(d_k=d, d_o=d, sigma_v2=1 / d, sigma_q2=1 / d, sigma_k2=1 / d)
    squared = matching_temperature(layer=layer).expression
    approximate = n * d * (1 + rho * (n - 1)) / (sx**2 * (n - 1) * r**2 * (n + d))
    equal(squared * missing_factor().expression, approximate)
    value = approximate.subs({n: 25, d: 512, rho: sp.Rational(3, 5), sx: 1})
    assert float(sp.sqrt(value)) == pytest.approx(9.78, abs=0.005)
    equal(matching_temperature(layer=layer, factorised=True).expression, approximate)
    value = mean_gradient_norm("W_V", layer=layer).expression
    equal(mean_gradient_norm("W_Q", layer=layer).expression.subs(tau, sp.sqrt(squared)), value)


def test_distance_to_uniform_for_gaussian_tokens() -> None:
    known = sx**2 * r * (n - 1) * (n * d + 2 * r) / (n**2 * d)
    found = token_average(distance_to_uniform(XAVIER), layer=XAVIER)
    equal(found.expression, known)
    assert found.neglected == "O(tau^4)"


def test_correction_beyond_uniform_attention_for_gaussian_tokens() -> None:
    """Exchangeable tokens: n times the first token replaces the sum; a row covariance of its own is refused."""
    found = token_average(output_norm_beyond_uniform(XAVIER), layer=XAVIER)
    rng = np.random.default_rng(0)
    tokens, width, correlation = 3, 2, 0.3
    mix = np.linalg.cholesky((1 - correlation) * np.eye(tokens) + correlation)
    x = mix @ rng.normal(size=(200_000, tokens, width))
    gram, pi = x @ x.swapaxes(1, 2), np.eye(tokens) - 1 / tokens
    centred = pi @ gram @ pi
    diagonal = np.einsum("bjj->bj", centred)
    mean_dot = gram.mean(axis=1)
    w = ((diagonal - diagonal.mean(axis=1, keepdims=True)) * mean_dot).sum(axis=1)
    norm, total, g_2 = np.einsum("bjj->b", gram), gram.sum(axis=(1, 2)), (centred**2).sum(axis=(1, 2))
    sample = total / tokens + norm / width**2 * (g_2 / tokens**2 + w / tokens)
    predicted = float(found.expression.subs({n: tokens, d: width, rho: sp.Rational(3, 10), sigma_x2: 1}))
    assert abs(sample.mean() - predicted) < 4 * sample.std() / len(sample) ** 0.5
    with pytest.raises(RefusedError, match="X"):
        token_average(output_norm_beyond_uniform(), Gaussian(row_covariance=token_covariance()))


def test_numeric_sizes_and_laws() -> None:
    layer = AttentionLayer(n=5, d=4, d_k=4, d_o=4, tau=1, sigma_v2=sp.Rational(1, 4), sigma_q2=sp.Rational(1, 4),
                           sigma_k2=sp.Rational(1, 4))
    from symprop.wick import Equicorrelated

    value = mean_gradient_norm("W_Q", Equicorrelated(sp.Rational(13, 10), sp.Rational(2, 5)), layer).expression
    assert float(value) == pytest.approx(25.5119, rel=1e-5)
    table = [(3, 3, 3, 1.0, 0.0, 1.0, 17.3333, 10.333), (5, 4, 4, 1.3, 0.4, 1.0, 25.5119, 12.258),
             (4, 6, 3, 0.8, -0.2, 1.5, 179.159, 107.61), (8, 6, 6, 1.0, 0.7, 1.0, 6.78038, 8.7431)]
    for tokens, width, keys, variance, correlation, temperature, queries, inputs in table:
        point = {n: tokens, d: width, d_o: width, d_k: keys, sigma_x2: variance, rho: correlation, tau: temperature,
                 sigma_v2: 1 / width, sigma_q2: 1 / keys, sigma_k2: 1 / keys}
        assert float(mean_gradient_norm("W_Q").expression.subs(point)) == pytest.approx(queries, rel=1e-5)
        assert float(mean_gradient_norm("X").expression.subs(point)) == pytest.approx(inputs, rel=1e-4)
    assert gradient_norm("W_Q", layer).expression.free_symbols == {N_X, G_2}
    assert d_k not in value.free_symbols
