"""Variances solved for, and depth-scaled growth against exact powers."""

import pytest
import sympy as sp

from symprop.core.errors import InputError, RefusedError
from symprop.core.symbols import L, P, alpha, c_g, d, kappa, r, sigma_down2, sigma_o2, sigma_up2, sigma_v2, sigma_w2
from symprop.depth.balance import balance, scaled_growth

FEED_FORWARD = sp.Eq(2 * d**2 * sigma_up2 * sigma_down2 / (1 - P), 1)
ATTENTION = sp.Eq(d**2 * sigma_v2 * sigma_o2 * r / (1 - P), 1)


def test_tied_variances_of_two_branches():
    found = balance(
        [sigma_up2 - sigma_down2, FEED_FORWARD, sigma_v2 - sigma_o2, ATTENTION], [sigma_up2, sigma_down2, sigma_v2, sigma_o2]
    )
    at = {d: 12, P: sp.Rational(1, 10), r: sp.Rational(1, 4)}
    assert float(found[sigma_up2].subs(at)) == pytest.approx(float(sp.sqrt(sp.Rational(9, 20)) / 12))
    assert float(found[sigma_v2].subs(at)) == pytest.approx(float(sp.sqrt(sp.Rational(36, 10)) / 12))
    assert found[sigma_up2] == found[sigma_down2] and found[sigma_v2] == found[sigma_o2]


def test_a_free_variance_is_solved_in_terms_of_a_parameter():
    found = balance([FEED_FORWARD], [sigma_down2])
    assert sp.simplify(found[sigma_down2] - (1 - P) / (2 * d**2 * sigma_up2)) == 0


def test_later_conditions_are_put_into_earlier_ones():
    found = balance([sigma_up2 - 3 * sigma_down2, sigma_down2 + sigma_up2 - 8], [sigma_up2, sigma_down2])
    assert found == {sigma_up2: 6, sigma_down2: 2}


@pytest.mark.parametrize(("conditions", "unknowns", "message"), [
    ([ATTENTION.subs(r, 0)], [sigma_v2], "never met"),
    ([sigma_w2 + sp.S.Half], [sigma_w2], "no positive solution"),
    ([sp.Eq((sigma_w2 - 1) * (sigma_w2 - 2), 0)], [sigma_w2], "2 positive solutions"),
    ([sp.Eq(sp.erf(sigma_w2) + sigma_w2 * sp.cos(sigma_w2), d)], [sigma_w2], "no closed solution"),
    ([sigma_w2 - 1, sigma_w2 - 2], [sigma_w2], "condition 2 .* not met by sigma_w2 = 1"),
])
def test_an_unsolvable_condition_is_named(conditions, unknowns, message):
    with pytest.raises(RefusedError, match=message):
        balance(conditions, unknowns)


def test_too_few_conditions():
    with pytest.raises(InputError, match="sigma_down2"):
        balance([sigma_up2 - 1], [sigma_up2, sigma_down2])


STRENGTH = kappa * (c_g - 1)
AT = {kappa: sp.Rational(7, 5), c_g: sp.Rational(8, 5)}


@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("power", [
    sp.Rational(3, 2), sp.S.One, sp.Rational(3, 4), sp.S.Half, sp.Rational(2, 5), sp.Rational(1, 3), sp.Rational(3, 10),
])
def test_the_error_is_the_stated_order(power, repeats):
    found = scaled_growth(STRENGTH, power, L, repeats=sp.Integer(repeats))
    (branch,) = found.branches
    ratios = []
    for depth in (10**12, 10**18):
        at = {**AT, L: depth}
        base, exponent = found.exact.as_base_exp()
        logarithm = sp.log(branch.growth).expand(force=True)
        left = sp.N(exponent.subs(at) * sp.log(base.subs(at)) - logarithm.subs(at), 40, maxn=400)
        ratios.append(float(sp.N(left / branch.relative_error.subs(at), 20)))
    assert ratios[1] == pytest.approx(1, abs=2e-2)
    assert abs(ratios[1] - 1) < abs(ratios[0] - 1) or ratios == [1, 1]


def test_branches_of_a_symbolic_exponent():
    found = scaled_growth(STRENGTH, alpha, L)
    trivial, one, between, half = found.branches
    assert trivial.growth == 1
    assert one.growth == sp.exp(STRENGTH)
    assert sp.simplify(sp.log(between.growth) - STRENGTH * L ** (1 - alpha)) == 0
    assert sp.expand(half.growth.args[0] - STRENGTH * sp.sqrt(L) + STRENGTH**2 / 2) == 0
    for value in (2, 1, sp.Rational(3, 4), sp.S.Half):
        (own,) = scaled_growth(STRENGTH, sp.sympify(value), L).branches
        assert sp.simplify(found.asymptotic.subs(alpha, value) - own.growth) == 0
    assert found.asymptotic.subs(alpha, sp.Rational(2, 5)) is sp.nan
    assert len(scaled_growth(STRENGTH, alpha, L, terms=3).branches) == 6


@pytest.mark.parametrize("arguments", [{"alpha": sp.S.Zero}, {"terms": 0}])
def test_exponents_out_of_range(arguments):
    with pytest.raises(InputError, match=next(iter(arguments))):
        scaled_growth(STRENGTH, **arguments)
