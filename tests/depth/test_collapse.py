"""Linearisation at collapse against the iterated map, the identity of both directions, and what refuses."""

import numpy as np
import pytest
import sympy as sp
from symprop.derivations.cowsik2024 import X, attention_half, feed_forward_half

from symprop.components import Attention, Dropout, LayerNorm, Linear, UniformAttention
from symprop.core.errors import RefusedError
from symprop.core.expression import compare
from symprop.core.symbols import A, M, alpha_1, d, d_k, n, sigma_k2, sigma_q2, sigma_v2, sigma_w
from symprop.depth.collapse import collapse
from symprop.depth.iterate import iterate_exact, layer_map
from symprop.functions.activation import Erf, Relu
from symprop.functions.generic_activation import GenericActivation
from symprop.functions.logistic import Tanh
from symprop.network import pre_norm, residual, sequential, trace_of

AT = {A: sp.Rational(9, 100), M: sp.Rational(4, 25), sigma_w: sp.Integer(2)}


def weighted(activation, attention=None):
    """The block with skip^2 = 1 - A and 1 - M, around a softmax if one is given."""
    return trace_of(sequential(attention_half(attention), feed_forward_half(activation)), X)


@pytest.mark.parametrize("activation", [Relu(), Tanh()], ids=lambda item: item.name)
def test_exponents_are_those_of_the_iterated_map(activation):
    trace = weighted(activation)
    found = collapse(trace).exponents.at(AT)
    layer = layer_map(trace)
    start = {X.q: sp.N(found.q, 40), X.gap: sp.Float("1e-300", 40)}
    tokens = sp.Integer(16)
    deviation, common = ([1, 1], [1, 0])
    path = iterate_exact(layer, start, 5, {**AT, n: tokens}, deviation, 40)
    growth = path.forward[X.gap][-1] / path.forward[X.gap][0]
    assert abs(float(growth / sp.N(found.angle_factor, 40) ** 5 - 1)) < 1e-14
    back = path.gradient[0]
    independent = sp.N(found.gradient_growth(tokens, 5), 40)
    assert abs(float(back[0] / independent - 1)) < 1e-14
    assert abs(float(back[1] / sp.N(found.deviation_factor, 40) ** 5 - 1)) < 1e-14
    back = iterate_exact(layer, start, 5, {**AT, n: tokens}, common, 40).gradient[0]
    shared = back[0] - (1 - 1 / sp.Integer(16)) * back[1]
    assert abs(float(shared / sp.N(found.common_factor, 40) ** 5 - 1)) < 1e-14


def test_an_independent_gradient_crosses_over():
    found = collapse(weighted(Erf())).exponents.at(AT)
    tokens = sp.Integer(16)
    depth = float(found.crossover_depth(tokens))
    assert float(found.common_factor / found.deviation_factor) ** depth == pytest.approx(16, rel=1e-12)
    short, long = (float(sp.N(sp.log(found.gradient_growth(tokens, size + 1) / found.gradient_growth(tokens, size)), 15))
                   for size in (0, 2000))
    assert short < long and long == pytest.approx(float(sp.N(found.lyapunov_common, 15)), rel=1e-6)


@pytest.mark.parametrize("activation", [Relu(), Tanh(), GenericActivation()], ids=lambda item: item.name)
def test_deviations_go_back_as_they_go_forward(activation):
    scored = Attention(d, 1 / d, d_k, sigma_q2, sigma_k2)
    verdict = collapse(weighted(activation, scored)).reciprocity()
    assert verdict.equal is not False
    assert verdict.equal is True or activation.name == "tanh"


def test_the_two_gradient_modes_differ_by_the_value_path():
    half = collapse(trace_of(pre_norm(UniformAttention(d, sigma_v2 / d), 1, alpha_1), X))
    assert compare(half.common / half.deviation, 1 + sigma_v2 / (X.q * alpha_1**2)).equal is True


def test_softmax_adds_nothing_at_linear_order():
    scored = collapse(weighted(Relu(), Attention(d, 1 / d, d_k, sigma_q2, sigma_k2)))
    uniform = collapse(weighted(Relu()))
    for name in ("q", "slope", "deviation", "common"):
        assert compare(getattr(scored, name), getattr(uniform, name)).equal is True


def test_stationary_points_of_three_kinds():
    square = residual(Linear(d, 1 / d), alpha_1, sp.S.Half)
    assert collapse(trace_of(square, X)).stationary is None
    assert collapse(trace_of(sequential(square, LayerNorm()), X)).stationary == 1
    assert collapse(trace_of(Linear(d, 1 / d), X)).stationary == X.q
    homogeneous = collapse(trace_of(square, X)).exponents
    assert homogeneous.q == X.q and homogeneous.angle_factor == 1


def test_zero_branches_leave_the_identity():
    found = collapse(trace_of(sequential(pre_norm(UniformAttention(d, 1 / d), 0), pre_norm(Linear(d, 1 / d), 0)), X))
    assert (found.q, found.slope, found.deviation, found.common) == (X.q, 1, 1, 1)


def test_a_growing_stream_has_no_exponents():
    with pytest.raises(RefusedError, match="drift_law"):
        _ = collapse(trace_of(pre_norm(UniformAttention(d, 1 / d)), X)).exponents


def test_what_separates_equal_tokens_is_refused():
    with pytest.raises(RefusedError, match="separates equal tokens"):
        collapse(trace_of(sequential(Linear(d, 1 / d), Dropout(sp.Rational(1, 10))), X))


def test_collapse_of_a_network_in_numbers():
    trace = weighted(Tanh())
    slope = float(sp.N(collapse(trace).slope.subs({**AT, X.q: 1}), 15))
    layer = layer_map(trace, backward=False)
    moved = float(sp.N(layer.updates[X.gap].subs({**AT, n: 8, X.q: 1, X.gap: sp.Rational(1, 10**200)}), 30) * 10**200)
    assert np.isclose(moved, slope, rtol=1e-13)
