"""Fixed points, their stability and their expansions against direct iteration."""

import mpmath
import pytest
import sympy as sp

from symprop.core.errors import InputError, RefusedError
from symprop.depth.fixed_point import approach, find_fixed_points, small_parameter, solve_fixed_points

r = sp.Symbol("r", nonnegative=True)
P, K = sp.symbols("P k", positive=True)
KERNEL = (sp.sqrt(1 - r**2) + r * (sp.pi - sp.acos(r))) / sp.pi
"""Correlation after a ReLU, over that of equal tokens."""
DROPPED = (1 - P) * KERNEL
ATTENTION = 2 * r / (1 + r / (1 - P))


def iterated(update, values, start, steps):
    function = sp.lambdify(r, update.xreplace(values), modules="mpmath")
    with mpmath.workdps(40):
        point = mpmath.mpf(start)
        for _ in range(steps):
            point = mpmath.re(function(point))
        return point


@pytest.mark.parametrize("dropout", [sp.Rational(1, 20), sp.Rational(1, 10), sp.Rational(3, 10)])
def test_feed_forward_fixed_point_is_the_limit_of_iteration(dropout):
    (point,) = find_fixed_points(DROPPED, r, {P: dropout})
    assert point.attracting is True
    assert abs(point.value - sp.Float(iterated(DROPPED, {P: dropout}, "0.2", 600), 40)) < sp.Float("1e-35")
    with mpmath.workdps(80):
        residual = DROPPED.subs(P, dropout).subs(r, sp.Float(point.value, 80)) - point.value
        assert abs(sp.N(residual, 60)) < sp.Float("1e-49")


def test_attention_keeps_what_dropout_leaves():
    zero, kept = solve_fixed_points(ATTENTION, r)
    assert (zero.value, zero.slope, zero.attracting) == (0, 2, False)
    assert (kept.value, kept.slope, kept.attracting) == (1 - P, sp.S.Half, True)
    found = find_fixed_points(ATTENTION, r, {P: sp.Rational(1, 10)}, digits=30)
    assert [float(item.value) for item in found] == pytest.approx([0, 0.9], rel=1e-15)


def test_without_dropout_correlation_creeps_to_one():
    (point,) = find_fixed_points(KERNEL, r)
    assert point.value == 1 and point.slope == 1 and point.attracting is None
    found = approach(KERNEL, r, sp.S.One)
    assert (found.kind, found.exponent) == ("algebraic", -2)
    deviations = [
        float((1 - iterated(KERNEL, {}, "0.5", steps)) / (found.coefficient * steps**found.exponent) - 1)
        for steps in (400, 1600)
    ]
    assert abs(deviations[1]) < abs(deviations[0]) < 0.2 and abs(deviations[1]) < 0.06


def test_rate_of_approach_is_the_slope():
    (point,) = find_fixed_points(DROPPED, r, {P: sp.Rational(1, 10)}, digits=30)
    limit = mpmath.mpf(str(point.value))
    before, after = (float(iterated(DROPPED, {P: sp.Rational(1, 10)}, "0.9", steps) - limit) for steps in (20, 21))
    assert after / before == pytest.approx(float(point.slope), rel=1e-4)
    assert approach(ATTENTION, r, 1 - P).kind == "geometric"
    assert approach(r**2, r, sp.S.Zero, below=False).kind == "finite"
    assert approach(2 * r, r, sp.S.Zero, below=False).kind == "repelling"
    assert approach(r + r**2, r, sp.S.Zero, below=False).kind == "repelling"


def test_small_dropout_moves_the_fixed_point_by_a_two_thirds_power():
    found = small_parameter(DROPPED, r, P)
    assert found.exponent == sp.Rational(2, 3)
    assert sp.simplify(found.coefficient**3 - sp.Rational(9, 8) * sp.pi**2) == 0
    deviations = []
    for exponent in (9, 12, 15):
        value = {P: sp.Rational(1, 10**exponent)}
        (point,) = find_fixed_points(DROPPED, r, value, digits=40)
        deviations.append(float((1 - point.value) / found.leading.subs(value) - 1))
    # The next order is relative p^(2/3): a factor of a hundred for every three decades.
    assert deviations[1] / deviations[0] == pytest.approx(0.01, rel=1e-2)
    assert deviations[2] / deviations[1] == pytest.approx(0.01, rel=1e-3)


def test_small_parameter_with_another_symbol_and_above():
    found = small_parameter(r + K * (1 - r) ** 3 - P * r, r, P)
    assert found.exponent == sp.Rational(1, 3) and sp.simplify(found.coefficient**3 * K - 1) == 0
    assert small_parameter(r / 2 + P**2, r, P, sp.S.Zero, below=False).leading == 2 * P**2


@pytest.mark.parametrize(("update", "start", "message"), [
    (r - (1 - r) ** 3 + P * (1 - r) + P**2 * r, sp.S.One, "mixed terms"),
    (DROPPED, sp.S.Half, "not fixed"),
    (r - (1 - r) ** 3 - P, sp.S.One, "other side"),
])
def test_a_balance_that_does_not_hold_is_refused(update, start, message):
    with pytest.raises(RefusedError, match=message):
        small_parameter(update, r, P, start)


def test_roots_without_a_sign_change_and_at_the_ends():
    touching = find_fixed_points(r + (r - sp.Rational(1, 3)) ** 2, r, digits=25)
    assert [float(item.value) for item in touching] == pytest.approx([1 / 3], rel=1e-15)
    cubic = r + r * (r - sp.Rational(1, 10**12)) * (1 - r)
    assert [float(item.value) for item in find_fixed_points(cubic, r, digits=30)] == pytest.approx([0, 1e-12, 1])
    assert find_fixed_points(r + 1, r) == ()


def test_refusals_and_inputs():
    with pytest.raises(InputError, match="P = missing"):
        find_fixed_points(DROPPED, r)
    with pytest.raises(InputError, match="interval"):
        find_fixed_points(KERNEL, r, interval=(1, 1))
    with pytest.raises(RefusedError, match="not rational"):
        solve_fixed_points(DROPPED, r)
    with pytest.raises(RefusedError, match="every point"):
        solve_fixed_points(r * (1 + P) - r * P, r)
    with pytest.raises(RefusedError, match="not fixed"):
        approach(ATTENTION, r, sp.S.Half)
