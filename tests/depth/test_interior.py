"""Fixed points away from collapse: against iteration from both sides, and what their multipliers say."""

import numpy as np
import pytest
import sympy as sp
from symprop.derivations.cowsik2024 import X, block

from symprop.core.errors import InputError, RefusedError
from symprop.core.symbols import A, M, n, sigma_w
from symprop.depth.interior import find_interior, solve_interior
from symprop.depth.iterate import LayerMap, iterate_exact, layer_map
from symprop.functions.activation import Erf
from symprop.functions.logistic import Tanh
from symprop.network import trace_of

q, gap, a = sp.symbols("q gap a", positive=True)
CHAOTIC = {A: sp.Rational(9, 100), M: sp.Rational(9, 25), sigma_w: sp.Integer(5), n: sp.Integer(64)}


@pytest.fixture(scope="module")
def erf():
    return layer_map(trace_of(block(Erf()), X))


def test_point_is_fixed_to_all_digits_and_attracts(erf):
    (point,) = find_interior(erf, CHAOTIC)
    start = {X.q: point.q, X.gap: point.gap}
    after = iterate_exact(erf, start, 1, CHAOTIC, digits=60).forward
    for state in (X.q, X.gap):
        assert abs(after[state][1] / after[state][0] - 1) < 1e-48
    assert point.attracting is True and 0 < point.multipliers[1] < point.multipliers[0] < 1


def test_multipliers_are_the_rates_of_the_iterated_map(erf):
    (point,) = find_interior(erf, CHAOTIC, 40)
    off = sp.Float("1e-15", 40)
    away = iterate_exact(erf, {X.q: point.q, X.gap: point.gap * (1 + off)}, 60, CHAOTIC, digits=40).forward[X.gap]
    slow = (away[60] - point.gap) / (away[59] - point.gap)
    assert abs(float(slow - point.multipliers[0])) < 1e-9
    gradient = iterate_exact(erf, {X.q: point.q, X.gap: point.gap}, 60, CHAOTIC, [1, 1], 40).gradient
    assert abs(float(gradient[0][0] / gradient[1][0] / sp.exp(point.lyapunov_gradient) - 1)) < 1e-20


def test_the_ordered_phase_has_none(erf):
    ordered = {**CHAOTIC, sigma_w: sp.Rational(1, 2)}
    assert find_interior(erf, ordered) == ()


def test_tanh_points_match_the_simulated_overlaps():
    # Overlaps and standard errors of simulated stacks with the softmax (n = 64, d = 256, 4 seeds).
    layer = layer_map(trace_of(block(Tanh()), X), backward=False)
    for (attention, feed_forward, scale), simulated, error in (
        (("0.3", "0.6", 5), 0.161, 0.035), (("0.3", "0.6", 3), 0.442, 0.032), (("0.5", "0.8", 5), 0.5, 0.008),
    ):  # fmt: skip
        values = {A: sp.Rational(attention) ** 2, M: sp.Rational(feed_forward) ** 2, sigma_w: scale, n: 64}
        (point,) = find_interior(layer, values, 15)
        assert abs(float(point.rho) - simulated) < 3 * error


def test_rational_map_in_closed_form():
    layer = LayerMap({q: q / 2 + 1, gap: 3 * gap / (1 + gap)}, sp.Matrix([[2, 1], [1, 2]]))
    (point,) = solve_interior(layer)
    assert (point.q, point.gap, set(point.multipliers), set(point.gradient)) == (2, 2, {sp.S.Half, sp.Rational(1, 3)}, {1, 3})
    (numeric,) = find_interior(layer, digits=30)
    assert abs(numeric.gap - 2) < sp.Float("1e-28") and abs(numeric.lyapunov_gradient - sp.log(3)) < sp.Float("1e-28")


def test_rotation_has_complex_multipliers():
    layer = LayerMap({q: 1 + (gap - 1) / 2, gap: gap * (1 + gap / 2 - q / 2 - (gap - 1))})
    (point,) = find_interior(layer, digits=20)
    assert point.multipliers[0].is_real is False and point.attracting is True
    assert np.isclose(float(abs(point.multipliers[0])), 0.5, rtol=1e-15)


def test_a_point_on_the_grid_is_found_once():
    (point,) = find_interior(LayerMap({q: sp.Integer(1), gap: gap * (1 + sp.Rational(1, 10) - gap)}), digits=15)
    assert abs(point.gap - sp.Rational(1, 10)) < 1e-15


def test_refusals():
    with pytest.raises(InputError, match="a = missing"):
        find_interior(LayerMap({q: sp.Integer(1), gap: a * gap}))
    with pytest.raises(RefusedError, match="kept"):
        find_interior(LayerMap({q: q + 1, gap: gap / 2}))
    with pytest.raises(InputError, match="two states"):
        find_interior(LayerMap({q: q}))
    with pytest.raises(RefusedError, match="closed fixed point"):
        solve_interior(LayerMap({q: q**2, gap: gap / 2}))
