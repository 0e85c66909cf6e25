"""What a trace knows of its steps: zero mean relative to the stream, and the order in the width."""

import numpy as np
import pytest
import sympy as sp

from symprop.components import Dropout, Elementwise, GatedUnit, LayerNorm, LayerScale, Linear, RMSNorm
from symprop.core.errors import RefusedError
from symprop.core.symbols import P, d
from symprop.functions.activation import Relu
from symprop.network import parallel, pre_norm, residual, sequential, token_input, trace_of
from symprop.network.builders import Sequential

LINEAR = Linear(d, 1 / d)


@pytest.mark.parametrize("block", [
    residual(LayerScale(2)), residual(LayerNorm()), pre_norm(Dropout(P)), residual(residual(LINEAR)),
    parallel(LayerScale(1), norm=RMSNorm()), parallel(LINEAR, LayerScale(1)), residual(Sequential(())),
    parallel(LINEAR, Sequential(())),
], ids=["scale", "norm", "dropout", "nested", "parallel", "second of two", "nothing", "second nothing"])
def test_a_stream_of_zero_mean_makes_no_branch_fresh(block):
    with pytest.raises(RefusedError, match="not fresh"):
        trace_of(sequential(LINEAR, block))


def test_a_stream_stays_fresh_behind_a_residual_block():
    inner = sequential(LINEAR, residual(LINEAR), parallel(LINEAR, LINEAR, norm=LayerScale(2)))
    found = trace_of(residual(inner)).expand()
    assert sp.expand(found.q) == 19 * token_input().q
    rng = np.random.default_rng(0)
    width, draws = 40, 600
    sizes = []
    for _ in range(draws):
        x, *w = rng.standard_normal(width), *(rng.standard_normal((4, width, width)) / width**0.5)
        y = x @ w[0]
        y += y @ w[1]
        sizes.append(np.mean((x + y + 2 * y @ (w[2] + w[3])) ** 2))
    assert abs(np.mean(sizes) - 19) < 4 * np.std(sizes) / draws**0.5


@pytest.mark.parametrize(("block", "neglected"), [
    (RMSNorm(finite=True), "exact"),
    (sequential(RMSNorm(finite=True), LINEAR), "exact"),
    (sequential(LINEAR, RMSNorm(finite=True)), "O(1/d)"),
    (sequential(RMSNorm(finite=True), LINEAR, Elementwise(Relu())), "O(1/d)"),
    (sequential(LayerNorm(finite=True), GatedUnit(d, 1 / d, 1 / d, Relu())), "O(1/d)"),
], ids=str)
def test_a_norm_at_finite_width_is_exact_for_gaussian_tokens_only(block, neglected):
    assert trace_of(block, token_input(gaussian=True)).neglected == neglected
