"""Flows at infinite depth: closed forms against numerical integration, and the error of finite depth."""

import numpy as np
import pytest
import sympy as sp

from symprop.components import Elementwise, Linear, UniformAttention
from symprop.core.errors import InputError, RefusedError
from symprop.core.symbols import L, a_1, a_2, alpha_1, alpha_2, d, n
from symprop.depth.flow import SHARE, SHARE_0, TIME, depth_error, depth_flow, integrate_flow, integrate_powers
from symprop.functions.activation import Relu
from symprop.network import post_norm, pre_norm, residual, sequential, token_input, trace_of

X = token_input(gaussian=True)
SCALING = {alpha_1: sp.sqrt(a_1 / L), alpha_2: sp.sqrt(a_2 / L)}
ATTENTION = UniformAttention(d, 1 / d)
RELU = sequential(Linear(d, 2 / d), Elementwise(Relu()), Linear(d, 1 / d))


def at_many_tokens(flow):
    return sp.limit(flow.share, n, sp.oo)


@pytest.mark.parametrize("half", [post_norm(ATTENTION, alpha_1), residual(ATTENTION, alpha_1)], ids=["post-norm", "no norm"])
def test_attention_is_logistic(half):
    flow = depth_flow(trace_of(half, X), SCALING)
    share = integrate_powers(at_many_tokens(flow))
    rho = 1 - SHARE_0
    assert sp.simplify(1 - share - rho * sp.exp(a_1 * TIME) / (1 - rho + rho * sp.exp(a_1 * TIME))) == 0
    end = integrate_flow(flow, {X.q: 1.0, X.gap: 0.8}, {a_1: 1.0, n: 10**9})
    assert end[X.gap][-1] / end[X.q][-1] == pytest.approx(float(share.subs({SHARE_0: 0.8, a_1: 1, TIME: 1})), rel=1e-8)
    assert 1 - end[X.gap][-1] / end[X.q][-1] == pytest.approx(0.4046, abs=5e-5)


def test_linear_flow_is_exponential():
    flow = depth_flow(trace_of(residual(Linear(d, 1 / d), alpha_1), X), SCALING)
    q = sp.Symbol("q_0", positive=True)
    assert integrate_powers(flow.field[X.q], X.q, q) == q * sp.exp(a_1 * TIME)
    assert flow.share == 0


def test_relu_block_near_collapse_is_a_bernoulli_flow():
    block = sequential(post_norm(ATTENTION, alpha_1), post_norm(RELU, alpha_2))
    flow = depth_flow(trace_of(block, X), SCALING)
    field = sp.limit(flow.near_collapse(), n, sp.oo)
    drift, kink = a_1, 2 * sp.sqrt(2) / (3 * sp.pi) * a_2
    assert sp.simplify(field + drift * SHARE + kink * SHARE ** sp.Rational(3, 2)) == 0
    solution = integrate_powers(field)
    stated = ((SHARE_0 ** -sp.S.Half + kink / drift) * sp.exp(drift * TIME / 2) - kink / drift) ** -2
    at = {SHARE_0: sp.Rational(1, 10), a_1: 1, a_2: 1, TIME: 1}
    assert abs(sp.N(solution.subs(at) / stated.subs(at) - 1, 30)) < 1e-28
    assert float(solution.subs(at)) == pytest.approx(0.0342, abs=5e-5)


def test_error_is_of_order_one_over_depth():
    flow = depth_flow(trace_of(sequential(pre_norm(ATTENTION, alpha_1), pre_norm(RELU, alpha_2)), X), SCALING)
    start, values = {X.q: 1.0, X.gap: 0.1}, {a_1: 1.0, a_2: 1.0, n: 64.0}
    coarse, fine = depth_error(flow, start, values, (50, 400))
    assert abs(fine) > 1e-3 and coarse == pytest.approx(fine, rel=0.1)


def test_tiny_gaps_keep_their_digits():
    flow = depth_flow(trace_of(sequential(pre_norm(ATTENTION, alpha_1), pre_norm(RELU, alpha_2)), X), SCALING)
    values = {a_1: 1.0, a_2: 1.0, n: 64.0}
    ends = [integrate_flow(flow, {X.q: 1.0, X.gap: gap}, values)[X.gap][-1] / gap for gap in (1e-300, 1e-200)]
    assert np.isfinite(ends).all() and ends[0] == pytest.approx(ends[1], rel=1e-11)


def test_refusals():
    with pytest.raises(RefusedError, match="scale every branch"):
        depth_flow(trace_of(pre_norm(ATTENTION), X), SCALING)
    with pytest.raises(RefusedError, match="linear term and one power"):
        integrate_powers(SHARE + SHARE**2 + SHARE**3)
    flow = depth_flow(trace_of(residual(ATTENTION, alpha_1), X), SCALING)
    with pytest.raises(InputError, match="a_1 = missing"):
        integrate_flow(flow, {X.q: 1.0, X.gap: 0.5}, {n: 4.0})
    with pytest.raises(InputError, match="gap"):
        integrate_flow(flow, {X.q: 1.0, X.gap: 0.0}, {n: 4.0, a_1: 1.0})
