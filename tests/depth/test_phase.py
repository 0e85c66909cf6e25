"""Boundaries against published tables and equations solved by other means; critical strengths against the iterated map."""

import numpy as np
import pytest
import scipy.optimize
import sympy as sp
from symprop.derivations.cowsik2024 import X, linearised, named

from symprop.components import LayerNorm, Linear, UniformAttention
from symprop.core.errors import InputError, RefusedError
from symprop.core.symbols import A, L, M, alpha_1, d, n, sigma_v2, sigma_w
from symprop.depth.collapse import collapse
from symprop.depth.iterate import iterate_exact, layer_map
from symprop.depth.phase import critical_strength, find_boundary, odds_law, solve_boundary
from symprop.functions.activation import Erf
from symprop.functions.logistic import Tanh
from symprop.network import pre_norm, residual, sequential, trace_of

STRENGTHS = np.array([[1, 1], [2, 2], [3, 3], [4, 4], [5, 5], [3, 6], [1, 5], [2, 8], [5, 8]]) / 10
SCALES = [3.3985, 3.4646, 3.5839, 3.7732, 4.0653, 1.6991, 0.8383, 0.9756, 2.3219]
COMMON = [0.0113, 0.0459, 0.1057, 0.1943, 0.3180, 0.1436, 0.0284, 0.0994, 0.3810]


def test_tanh_boundary():
    found = linearised().exponents
    attention, feed_forward = STRENGTHS.T**2
    at = find_boundary(named(found.deviation_factor, Tanh()), sigma_w, (0.05, 20), {A: attention, M: feed_forward})
    assert np.allclose(at, SCALES, atol=6e-5)
    common = named(found.lyapunov_common, Tanh())
    values = [float(sp.N(common.subs({A: sp.Float(a), M: sp.Float(m), sigma_w: sp.Float(s)}), 15))
              for a, m, s in zip(attention, feed_forward, at, strict=True)]
    assert np.allclose(values, COMMON, atol=6e-5)


def test_erf_boundary_at_small_strength():
    """The equation of the limit solved by Brent's method, and the boundary at strengths that shrink towards it."""
    def limit(scale, ratio):
        s = scale**2
        return 4 * s / (np.pi * np.sqrt(1 + 4 * s)) - 2 / np.pi * np.arcsin(2 * s / (1 + 2 * s)) - ratio

    factor = named(linearised().exponents.deviation_factor, Erf())
    for ratio in (0.25, 1.0, 2.0):
        root = scipy.optimize.brentq(limit, 0.5, 20, args=(ratio,), xtol=1e-13)
        off = [find_boundary(factor, sigma_w, (0.1, 50), {A: ratio * size, M: size}) - root for size in (1e-3, 1e-4)]
        assert off[0] / off[1] == pytest.approx(10, rel=0.05) and abs(off[1]) < 1e-2


def test_boundary_is_solved_to_ten_digits():
    at = float(find_boundary(named(linearised().exponents.deviation_factor, Erf()), sigma_w, (0.1, 50), {A: 0.09, M: 0.09}))
    factor = named(linearised().exponents.lyapunov_deviation, Erf()).subs({A: sp.Float(0.09, 40), M: sp.Float(0.09, 40)})
    exact = sp.nsolve(factor, sigma_w, at, prec=30)
    assert abs(at - float(exact)) < 1e-10


def test_no_crossing_is_not_a_number():
    s, a = sp.symbols("s a", positive=True)
    assert np.isnan(find_boundary(a / (1 + s), s, (0.1, 10), {a: 0.5}))
    with pytest.raises(InputError, match="interval"):
        find_boundary(a * s, s, (0, 1), {a: 1.0})
    with pytest.raises(InputError, match="a = missing"):
        find_boundary(a * s, s, (1, 2))
    with pytest.raises(RefusedError, match="never met"):
        solve_boundary(1 / (1 + s), s)


@pytest.mark.parametrize("normed", [False, True])
def test_odds_law_holds_over_depth(normed):
    half = residual(UniformAttention(d, sigma_v2 / d), 1, alpha_1)
    trace = trace_of(sequential(half, LayerNorm()) if normed else half, X)
    law = odds_law(trace)
    values = {sigma_v2: sp.Rational(1, 5), alpha_1: sp.Rational(7, 10), n: sp.Integer(8)}
    start = {X.q: sp.Integer(1), X.gap: sp.Rational(4, 5)}
    end = iterate_exact(layer_map(trace, backward=False), start, 30, values).forward
    exact = law.correlation(sp.Rational(1, 5), 30).subs(values)
    assert abs(float(end[X.gap][-1] / end[X.q][-1] / sp.N(1 - exact, 50) - 1)) < 1e-13
    strength = law.critical(alpha_1, sp.Rational(1, 5), sp.Rational(19, 20), L).subs({**values, L: 24})
    again = law.correlation(sp.Rational(1, 5), 24).subs({**values, alpha_1: strength})
    assert abs(sp.N(again - sp.Rational(19, 20), 30)) < 1e-28


def test_critical_strength_of_the_iterated_map_is_that_of_the_odds_law():
    trace = trace_of(sequential(residual(UniformAttention(d, 1 / (5 * d)), 1, alpha_1), LayerNorm()), X)
    targets = np.array([0.9, 0.95, 0.99])
    found = critical_strength(layer_map(trace, backward=False), alpha_1, (0.05, 20), {X.q: 1, X.gap: 0.8}, targets, 24, {n: 64})
    law = odds_law(trace)
    exact = [float(law.critical(alpha_1, sp.Rational(1, 5), sp.nsimplify(t), sp.Integer(24)).subs(n, 64)) for t in targets]
    assert np.allclose(found, exact, rtol=1e-10)


def test_odds_that_depend_on_the_state_are_refused():
    with pytest.raises(RefusedError, match="depends on the state"):
        odds_law(trace_of(pre_norm(Linear(d, 1 / d, sp.S.Half)), X))
    with pytest.raises(RefusedError):
        odds_law(trace_of(UniformAttention(d, 1 / d), X))


def test_linear_blocks_keep_the_odds():
    assert odds_law(trace_of(pre_norm(Linear(d, 1 / d)), X)).factor == 1
    assert collapse(trace_of(pre_norm(Linear(d, 1 / d)), X)).angle == 1
