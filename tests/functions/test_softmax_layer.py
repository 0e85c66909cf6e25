"""The nodes of two rows are correlations of vectors at any width, and a layer with them gives moments of vectors."""

import importlib
import itertools
import math

import numpy as np
import pytest

from symprop.functions.causal_numeric import overlap_and_slope
from symprop.functions.softmax_values import _rules

DIMENSIONS, DEFICITS = (2, 3, 6, 16, 64, 512), (1e-300, 1e-9, 0.1, 0.5, 1.0, 1.5, 2.0)


@pytest.mark.parametrize("bias", [0.0, 0.5, 100.0])
@pytest.mark.parametrize("unit", [0, 1, 2])
def test_nodes_of_two_rows_are_correlations(unit, bias):
    for dimension, key_width, deficit in itertools.product(map(float, DIMENSIONS), (2.0, 4.0, 8.0, 64.0), DEFICITS):
        scale, rest, below, weight = _rules(unit)(dimension, key_width, deficit, bias)[1].T
        assert np.all(weight > 0) and weight.sum() == pytest.approx(1, rel=1e-14)
        assert np.all(scale > 0) and np.all(scale + rest > 0)
        # Vectors whose correlations vanish with the deficit, whatever its size.
        assert np.all(below >= 0) and np.all(below <= 2) and below.max() <= 2 * (2 * dimension + 100) * deficit
        if min(dimension, key_width) >= 8:
            r = 1 - deficit / (1 + bias)
            assert weight @ (scale * (1 - below)) == pytest.approx(r, abs=1e-14)


def drawn(tokens, width, key_width, deficit, variance, draws, mask):
    """Means and standard errors of the second moment and the gap of attention without its bookkeeping."""
    rng = np.random.default_rng(7)
    root = np.linalg.cholesky(deficit * np.eye(tokens) + (1 - deficit))
    x = root @ rng.standard_normal((draws, tokens, width))
    size = math.sqrt(math.sqrt(variance / deficit) / width)
    queries, keys = (x @ rng.standard_normal((draws, width, key_width)) * size for _ in range(2))
    scores = queries @ keys.swapaxes(1, 2) / math.sqrt(key_width)
    if mask:
        scores = np.where(np.triu(np.ones((tokens, tokens), dtype=bool), 1), -np.inf, scores)
    weights = np.exp(scores - scores.max(2, keepdims=True))
    y = weights / weights.sum(2, keepdims=True) @ x
    second, common = (y**2).mean((1, 2)), (y.mean(1) ** 2).mean(1)
    sample = np.stack([second, (second - common) * tokens / (tokens - 1)])
    return sample.mean(1), sample.std(1, ddof=1) / math.sqrt(draws)


@pytest.mark.parametrize(("name", "mask"), [("output_moments", False), ("causal_output", True)])
@pytest.mark.parametrize(("tokens", "width", "key_width", "deficit", "variance"), [
    (8, 16, 8, 0.5, 4.0), (8, 16, 8, 0.5, 10.0), (16, 32, 8, 0.2, 10.0), (3, 32, 16, 1.4, 10.0),
])
def test_few_coordinates_and_large_scores(name, mask, tokens, width, key_width, deficit, variance):
    measured, error = drawn(tokens, width, key_width, deficit, variance, 4000, mask)
    size = math.sqrt(variance / deficit) / width
    found = np.array(getattr(importlib.import_module("generated.softmax_attention_numpy"), name)(
        n=tokens, d=width, d_k=key_width, q=1.0, gap=deficit, sigma_q2=size, sigma_k2=size))
    # Neglected: second order in 1/d_k + 2/d, with a coefficient of the order of the score variance.
    order = (1 / key_width + 2 / width) ** 2 * (1 + variance / 2)
    assert np.all(abs(found - measured) < 4 * error + order * measured), (found, measured, error)


def test_values_of_opposed_and_few_tokens_are_those_of_vectors():
    module = importlib.import_module("generated.softmax_attention_numpy")
    share, deviation = map(np.ravel, np.meshgrid([0.0, 1e-12, 0.1, 0.5, 0.9, 1.0], [0.01, 1.0, 5.0, 10.0]))
    for tokens, width, key_width in ((2, 16, 2), (3, 6, 4), (5, 64, 2)):
        top = tokens / (tokens - 1)
        found = module.output_moments(n=tokens, d=width, d_k=key_width, q=1.0, gap=top * share,
                                      sigma_q2=deviation / width, sigma_k2=deviation / width)
        assert np.all(found.q > 0) and np.all(found.gap >= 0) and np.all(found.gap <= top * found.q * (1 + 1e-8))


@pytest.mark.parametrize("variance", [1.0, 10.0])
@pytest.mark.parametrize("rho", [-0.1, -0.25, -0.5, -1.0])
def test_overlap_of_rows_that_are_opposed(variance, rho):
    rng = np.random.default_rng(5)
    one, other = rng.standard_normal((2, 100_000, 8))
    one, other = (np.exp(math.sqrt(variance) * item) for item in (one, rho * one + math.sqrt(1 - rho**2) * other))
    product = (one[:, :4] / one[:, :4].sum(1, keepdims=True) * other[:, :4] / other.sum(1, keepdims=True)).sum(1)
    four = np.array([4.0])
    overlap, _ = overlap_and_slope(np.array([variance]), np.array([variance * (1 - rho)]), four, four)[:, 0]
    # The third order in rho is neglected, in units of the overlap without correlation.
    assert abs(overlap - product.mean()) < 4 * product.std() / len(product) ** 0.5 + abs(rho) ** 3 / 8
