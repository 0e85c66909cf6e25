"""Moments of softmax weights: double precision against exact values, quadrature, refined steps and drawn weights."""

import itertools
from functools import partial

import mpmath
import numpy as np
import pytest
import sympy as sp

from symprop.bench_softmax import sweep_seconds
from symprop.core.errors import InputError, RefusedError
from symprop.functions import softmax_contractions as contractions
from symprop.functions import softmax_exact, softmax_numeric
from symprop.functions.softmax_double import in_double
from symprop.functions.softmax_interpolation import interpolation, normal_average
from symprop.functions.softmax_limits import (
    annealed_participation,
    closed_form,
    condensed,
    condensed_participation,
    nearly_uniform,
)
from symprop.functions.softmax_numeric import gamma_nodes, overlap_gap, pair_moments, row_gap, row_moments, weight_gap
from symprop.functions.softmax_operators import by_parts, cross_heat, heat, own_heat, stretch
from symprop.functions.softmax_overlap import (
    JacobianOverlap,
    OverlapGap,
    PairMoment,
    Participation,
    RowGap,
    RowOverlap,
    SoftmaxSlope,
    WeightGap,
    WeightMoment,
    jacobian_square,
    jacobian_trace_square,
    participation_slope,
)

a, g, n, D = sp.symbols("a g n D", positive=True)
Y, S3, S4, Y2 = ((2, 0),), ((3, 0),), ((4, 0),), ((2, 0), (2, 0))
JACOBIANS = [((1, 1),), ((1, 2),), ((2, 1),), ((1, 1), (1, 1))]


def row(requests, variance, tokens, dimension=np.inf, step=0.27):
    variance, tokens, dimension = (np.array(item, dtype=float).ravel() for item in np.broadcast_arrays(
        variance, tokens, dimension))
    return row_moments(requests, variance, tokens, dimension, step)


def pair(requests, variance, rho, tokens, extra=0, step=0.27):
    one = np.array([float(variance)])
    return pair_moments(requests, one, one, 1 - rho + 0 * one, tokens + 0 * one, extra + 0 * one, step)[:, 0]


def number(expression, **point):
    """An expression at a point, with its moments in double precision."""
    at = {symbol: point[symbol.name] for symbol in expression.free_symbols}
    return float(expression.xreplace(in_double(expression, at)).xreplace({key: sp.sympify(value) for key, value in at.items()}))


def trace(values):
    return values[0] - values[1] - values[2] + values[3]


# One row.


def test_known_values():
    assert row([Y], [36, 400], [1e6, 1e6]).round(4).tolist() == [[0.2410, 0.7575]]


def test_refining_the_steps_changes_nothing():
    grid = np.array([(s * s, count) for s in (0.01, 0.3, 0.69, 0.7, 1, 3, 6, 12, 20) for count in (1, 2, 3, 17, 128, 129, 1e6)])
    coarse, fine = (row([Y, S3, S4, Y2], *grid.T, step=step) for step in (0.27, 0.19))
    assert np.abs(coarse / fine - 1).max() < 2e-11


@pytest.mark.parametrize(
    "scale, tokens, dimension", [(0.5, 2, None), (1.5, 3, None), (3.0, 40, None), (0.1, 10**6, None), (0.3, 5, 6)]
)
def test_double_precision_is_that_of_twenty_digits(scale, tokens, dimension):
    requests = [Y, Y2, ((2, 2),), ((1, 1), (2, 1))]
    got = row(requests, scale**2, tokens, dimension or np.inf)[:, 0]
    with mpmath.workdps(18):
        exact = softmax_exact.row_moments(requests, mpmath.mpf(scale) ** 2, tokens, dimension and mpmath.mpf(dimension))
    assert got == pytest.approx([float(value) for value in exact], rel=1e-11)


def test_two_tokens_are_the_logistic_normal():
    with mpmath.workdps(25):
        def integrand(x):
            first = 1 / (1 + mpmath.exp(-mpmath.sqrt(2) * 2 * x))
            return (first**2 + (1 - first) ** 2) * mpmath.npdf(x)

        exact = sp.Float._new(mpmath.quad(integrand, [-14, -4, 0, 4, 14])._mpf_, 80)
    assert abs(sp.N(Participation(4, 2), 20) - exact) < 1e-18
    assert row([Y], 4, 2)[0, 0] == pytest.approx(float(exact), rel=1e-13)


def test_fifty_digits_of_a_row_do_not_change_with_a_hundred():
    low, high = sp.N(WeightMoment((2, 2), sp.Rational(1, 4), 16), 50), sp.N(WeightMoment((2, 2), sp.Rational(1, 4), 16), 70)
    assert abs(low / high - 1) < sp.Float("1e-49", 60)


def test_uniform_weights_and_a_single_token_are_exact():
    assert row([Y, S3, Y2], [0, 0, 9], [7, 1e6, 1]).T.tolist() == [
        [1 / 7, 7.0**-2, 7.0**-2], [1e-6, 1e6**-2.0, 1e6**-2.0], [1, 1, 1]
    ]
    assert WeightMoment((2, 3), 0, n) == n**-3 and WeightMoment(((2, 2),), a, 1, D) == 1 / D
    assert sp.simplify(WeightMoment(((1, 1), (1, 1)), 0, n, D) - 1 / (n * D)) == 0
    assert WeightMoment((1, 1), a, n) == 1 and WeightMoment((2,), a, n, sp.oo, 0, 3) == Participation(a, n)


@pytest.mark.slow
def test_ten_thousand_points_take_less_than_half_a_minute():
    assert sweep_seconds() < 30


@pytest.mark.parametrize("count", [15, pytest.param(1200, marks=pytest.mark.slow)])
def test_halving_the_step_changes_nothing_at_random_points(count):
    rng = np.random.default_rng(5)
    scale = np.concatenate([rng.uniform(0, 20, count), np.exp(rng.uniform(np.log(1e-4), np.log(20), count))])
    tokens = np.round(np.exp(rng.uniform(np.log(2), np.log(1e6), 2 * count)))
    requests = [Y, S3, S4, Y2, ((3, 0), (2, 0)), ((2, 2),), ((1, 1), (2, 1))]
    coarse, fine = (row(requests, scale**2, tokens, step=step) for step in (0.27, 0.135))
    assert np.abs(coarse / fine - 1).max() < 1e-10


@pytest.mark.parametrize("count", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_two_tokens_are_the_logistic_normal_at_random_scales(count):
    rng = np.random.default_rng(6)
    for scale in rng.uniform(0, 20, count):
        with mpmath.workdps(30):
            def integrand(x, scale=scale):
                first = 1 / (1 + mpmath.exp(-mpmath.sqrt(2) * scale * x))
                return 2 * first**3 * mpmath.npdf(x)

            ends = [sign * 10 ** mpmath.mpf(k) / scale for sign, powers in ((-1, (1, 0)), (1, (0, 1))) for k in powers]
            inside = sorted(x for x in (*ends, 0) if abs(x) < 15)
            exact = float(mpmath.quad(integrand, [-15, *inside, 15]))
        assert row([S3], scale**2, 2)[0, 0] == pytest.approx(exact, rel=1e-10), scale


def test_both_grids_agree_for_wide_spheres():
    for dimension, scale in itertools.product((64.0, 1000.0), (0.7, 3.0)):
        point = (np.array([scale]), np.array([30.0]), np.array([dimension]))
        requests = [Y2, ((2, 2),), ((1, 1), (2, 1))]
        one, two = (softmax_numeric._row_block(requests, *point, shared, 0.27) for shared in (True, False))
        assert np.abs(one / two - 1).max() < 1e-11


def test_drawn_rows_of_every_key_law():
    rng = np.random.default_rng(1)
    draws, tokens, scale = 60_000, 6, 1.7
    vectors = rng.standard_normal((draws, tokens, 5))
    laws = {
        np.inf: rng.standard_normal((draws, tokens)),
        5.0: np.sqrt(5) * vectors[..., 0] / np.linalg.norm(vectors, axis=-1),
        -6.0: np.sqrt(rng.gamma(3, 1 / 3, (draws, tokens))) * rng.standard_normal((draws, tokens)),
    }
    for dimension, zeta in laws.items():
        weights = np.exp(scale * zeta)
        weights /= weights.sum(axis=1, keepdims=True)
        for power, sample in ((Y, (weights**2).sum(axis=1)), (Y2, (weights**2).sum(axis=1) ** 2)):
            error = sample.std() / np.sqrt(draws)
            # Five nodes stand for the Gamma law of the mixture.
            allowed = 4 * error + (0.002 * sample.mean() if dimension < 0 else 0)
            assert abs(row([power], scale**2, tokens, dimension)[0, 0] - sample.mean()) < allowed, dimension


def test_the_fluctuating_variance():
    for spread in (0.0, 1e-300, 1e-9, 0.05, 0.8):
        nodes, parts = gamma_nodes(np.array([spread]))
        for power in range(10):
            wanted = np.prod([1 + k * spread for k in range(power)])
            assert (parts * nodes**power).sum() == pytest.approx(wanted, rel=1e-12)
    w = sp.Rational(1, 5)
    got = softmax_numeric.averaged_moments([(Y, 0), (Y, 1)], 2.0, 9.0, None, 0.2)
    for k in (0, 1):
        assert got[k] == pytest.approx(float(sp.N(Participation(2, 9, sp.oo, w, k), 15)), rel=1e-12)
    for k, scale in enumerate((sp.S.One, sp.S.One, 1 + w, (1 + w) * (1 + 2 * w))):
        # Equal weights whatever the scale: E G^k/n.
        assert Participation(0, 9, sp.oo, w, k) == scale / 9
    sample = np.random.default_rng(2).gamma(5, 0.2, 40_000)
    drawn = row([Y], 2 * sample, 9.0)[0]
    assert abs(got[0] - drawn.mean()) < 4 * drawn.std() / 200


@pytest.mark.parametrize("tokens", [2, 3, 50, 10**6])
def test_the_gap_of_the_weights_keeps_its_digits(tokens):
    assert weight_gap(0.0, float(tokens)) == 0
    # W = (n/(n - 1)) (Y'(0) a + Y''(0) a^2/2 + ...), Y'(0) = (n - 1)/n^2.
    for variance in (1e-300, 1e-12):
        assert weight_gap(variance, float(tokens)) == pytest.approx(variance / tokens, rel=1e-11)
    for variance in (1e-3, 0.49, 0.51, 4.0):
        exact = sp.N(WeightGap(sp.Rational(str(variance)), tokens), 15)
        assert weight_gap(variance, float(tokens)) == pytest.approx(float(exact), rel=2e-11)


# Derivatives and integration by parts.


def test_by_parts_agrees_with_powers_of_the_keys():
    scale, tokens = 1.3, 5
    for powers in (((1, 1), (1, 1)), ((2, 2),), ((1, 1), (2, 1)), ((1, 2), (1, 2))):
        terms = [
            float(value) * scale**power * (row([key], scale**2, tokens)[0, 0] if key else 1.0)
            for power, polynomial in by_parts(powers).items() for key, value in polynomial.items()
        ]
        # The terms cancel; each has a relative error of 1e-11.
        assert abs(row([powers], scale**2, tokens)[0, 0] - sum(terms)) < 1e-11 * np.abs(terms).sum()


def test_known_identities_of_integration_by_parts():
    mean = WeightMoment(((1, 1),), a, n).by_parts()
    assert sp.expand(mean - sp.sqrt(a) * (1 - Participation(a, n))) == 0
    square = contractions.score_mean_square(a, n).by_parts()
    known = Participation(a, n) + a * (1 - Participation(a, n) + 6 * WeightMoment((2, 2), a, n) - 6 * WeightMoment((3,), a, n))
    assert sp.expand(square - known) == 0
    slope = 2 * a * (Participation(a, n) - 4 * WeightMoment((3,), a, n) + 3 * WeightMoment((2, 2), a, n))
    assert sp.expand(participation_slope(a, n) - slope) == 0


@pytest.mark.parametrize("dimension", [np.inf, 12.0])
def test_slopes_in_the_variance(dimension):
    variance, tokens, step = 1.7, 6, 1e-4
    for powers in (Y, Y2, S4):
        up, down = (row([powers], variance + sign * step, tokens, dimension)[0, 0] for sign in (1, -1))
        factor = 1.0 if dimension == np.inf else dimension / (dimension - 1)
        by_heat = factor * sum(float(value) * row([key], variance, tokens, dimension)[0, 0]
                               for key, value in heat(powers, dimension != np.inf).items())
        unit = 1.0 if dimension == np.inf else np.sqrt(dimension)
        by_stretch = unit / (2 * np.sqrt(variance)) * sum(
            value * row([key], variance, tokens, dimension)[0, 0] for key, value in stretch(powers).items())
        assert by_heat == pytest.approx(by_stretch, rel=1e-10)
        assert by_heat == pytest.approx((up - down) / (2 * step), rel=1e-7)


def test_derivatives_of_the_nodes_are_nodes():
    assert RowOverlap(a, g, n).diff(g) == -JacobianOverlap(a, g, n)
    assert RowGap(a, g, n).diff(g) == JacobianOverlap(a, g, n)
    assert sp.expand(SoftmaxSlope(a, n).diff(a) * (n - 1) - jacobian_square(a, n).diff(a)) == 0
    assert sp.expand(WeightGap(a, n).diff(a) * (n - 1) / n - Participation(a, n).diff(a)) == 0
    with pytest.raises(RefusedError, match="number of tokens"):
        Participation(a, n).diff(n)
    with pytest.raises(InputError, match="powers"):
        WeightMoment((0,), a, n)
    with pytest.raises(RefusedError, match="expansion"):
        Participation(a, n, D).expansion()


def test_slopes_of_two_rows():
    variance, rho, tokens, step = 1.2, 0.4, 5, 1e-3
    powers = ((1, 1), (1, 2))
    covariance = rho * variance

    def at(own, across):
        return pair([powers], own, across / own, tokens)[0]

    def total(polynomial):
        values = {key: pair([key], variance, rho, tokens)[0] if all(any(p[s] for p in key) for s in (0, 1)) else row(
            [tuple((k + m, 0) for k, m in key)], variance, tokens)[0, 0] for key in polynomial}
        return sum(float(value) * values[key] for key, value in polynomial.items())

    across = (at(variance, covariance + step) - at(variance, covariance - step)) / (2 * step)
    own = (at(variance + step, covariance) - at(variance - step, covariance)) / (2 * step)
    assert total(cross_heat(powers)) == pytest.approx(across, rel=1e-5)
    assert total(own_heat(powers)) == pytest.approx(own, rel=1e-5)


# Two rows.


@pytest.mark.parametrize("variance, tokens", [(0.04, 4), (4.0, 40), (25.0, 300)])
def test_the_jacobian_overlap_is_the_slope_of_the_overlap(variance, tokens):
    step = 1e-4
    up, down = (pair(JACOBIANS[:1], variance, 0.5 + sign * step, tokens)[0] for sign in (1, -1))
    slope = variance * trace(pair(JACOBIANS, variance, 0.5, tokens))
    assert (up - down) / (2 * step) == pytest.approx(slope, rel=2e-7)


def test_ends_of_two_rows():
    for variance, tokens in ((0.3, 3), (9.0, 64)):
        y, cube, square = row([Y, S3, Y2], variance, tokens)[:, 0]
        zero, one = pair(JACOBIANS, variance, 0.0, tokens), pair(JACOBIANS, variance, 1.0, tokens)
        assert zero[0] == pytest.approx(1 / tokens, rel=1e-11) and one[0] == pytest.approx(y, rel=1e-11)
        assert trace(zero) == pytest.approx((1 - y) ** 2 / (tokens - 1), rel=1e-10)
        assert trace(one) == pytest.approx(y - 2 * cube + square, rel=1e-10)


def test_a_row_of_one_key_is_certain_unless_others_see_more():
    assert RowOverlap(2, 1, 1) == 1
    assert number(RowOverlap(2, 1, 1, 3)) < 1


def test_rows_of_unequal_length():
    # Values of an independent implementation of the nested integrals.
    for (short, long, scale, rho), wanted in (((12, 24, 0.13, 0.8), 0.92503), ((5, 20, 0.3, 0.8), 0.8146)):
        got = long * trace(pair(JACOBIANS, scale**2, rho, short, long - short))
        assert got == pytest.approx(wanted, abs=1.2e-5 if short == 12 else 1e-4)
        cheap = interpolation(sp.Float(scale**2), sp.Integer(short), extra=long - short)
        equal = pair(JACOBIANS[:1], scale**2, 1.0, short, long - short)[0]
        jacobian = cheap.jacobian(sp.Float(scale**2 * (1 - rho))).subs(cheap.equal, sp.Float(equal))
        assert long * number(jacobian) == pytest.approx(got, rel=1e-3)


def test_two_rows_in_double_precision_are_those_of_fifteen_digits():
    third = sp.Rational(1, 3)
    for variance, gap, tokens, extra in ((1, third, 3, 0), (1, 4 * third, 3, 0), (1, third, 2, 3)):
        node = JacobianOverlap(sp.Integer(variance), gap, sp.Integer(tokens), sp.Integer(extra))
        got = trace(pair(JACOBIANS, variance, 1 - float(gap) / variance, tokens, extra))
        assert got == pytest.approx(float(sp.N(node, 12)), rel=1e-11)


def test_the_gaps_of_two_rows_keep_their_digits():
    variance, tokens = 2.0, 9.0
    slope = number(jacobian_square(sp.Integer(2), sp.Integer(9)))
    for gap in (1e-300, 1e-13):
        assert row_gap(variance, gap, tokens) == pytest.approx(gap * slope, rel=1e-10)
    assert row_gap(variance, 0.0, tokens) == 0 == overlap_gap(variance, variance, tokens)
    y = row([Y], variance, tokens)[0, 0]
    independent = (1 - y) ** 2 * tokens / (tokens - 1) ** 2
    # a - 1e-14 rounds to a multiple of the spacing of doubles at 2.
    small = variance - (variance - 1e-10)
    assert overlap_gap(variance, variance - 1e-10, tokens) == pytest.approx(small * independent, rel=1e-9)
    for gap in (0.0399, 0.0401):
        exact = pair([((1, 1),)], variance, 1.0, tokens)[0] - pair([((1, 1),)], variance, 1 - gap / variance, tokens)[0]
        assert row_gap(variance, gap, tokens) == pytest.approx(exact, rel=1e-10)
        both = (tokens * pair([((1, 1),)], variance, gap / variance / 2, tokens)[0] - 1) / (tokens - 1)
        assert overlap_gap(variance, variance - gap / 2, tokens) == pytest.approx(both, rel=1e-10)


def test_canonical_forms_of_two_rows():
    assert PairMoment(((2, 1),), a, g, n) == PairMoment(((1, 2),), a, g, n)
    assert PairMoment(((2, 0), (2, 0)), a, g, n) == WeightMoment((2, 2), a, n)
    assert JacobianOverlap(a, 0, n) == jacobian_square(a, n)
    assert RowOverlap(a, a, n, 3) == 1 / (n + 3) and OverlapGap(a, a, n) == 0
    with pytest.raises(RefusedError, match="unequal"):
        RowOverlap(a, g, n, 3).diff(a)


# Spheres, interpolation, limits.


def test_contractions_with_the_gram_matrix_against_drawn_keys():
    rng = np.random.default_rng(3)
    draws, tokens, dimension, scale = 40_000, 6, 10, 2.0
    query, keys = rng.standard_normal((draws, dimension)), rng.standard_normal((draws, tokens, dimension))
    query, keys = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (query, keys))
    c = np.einsum("bnd,bd->bn", keys, query)
    zeta = np.sqrt(dimension) * c
    w = np.exp(scale * zeta)
    w /= w.sum(axis=1, keepdims=True)
    gram = keys @ keys.swapaxes(1, 2)
    jacobian = w[:, :, None] * (np.eye(tokens) - w[:, None])
    turned = jacobian @ gram
    pulled = np.einsum("bij,bj->bi", jacobian, c)
    away = keys - np.einsum("bn,bnd->bd", w, keys)[:, None]
    drawn = {
        contractions.private_square: np.einsum("bi,bij,bj->b", w, gram, w),
        contractions.gram_jacobian_square: np.einsum("bij,bji->b", jacobian, turned.swapaxes(1, 2)),
        contractions.gram_jacobian_pair: np.einsum("bij,bji->b", turned, turned),
        contractions.query_square: np.einsum("bi,bij,bj->b", pulled, gram, pulled),
        contractions.radial_key_square: (w**2 * zeta**2 * (away**2).sum(axis=2)).sum(axis=1),
        partial(contractions.radial_value_key, 1): scale * (w * zeta * (keys * away).sum(axis=2)).sum(axis=1),
        partial(contractions.radial_value_key, 2): scale * (w**2 * zeta * (keys * away).sum(axis=2)).sum(axis=1),
        contractions.score_mean: (w * zeta).sum(axis=1),
        contractions.score_mean_square: (w * zeta).sum(axis=1) ** 2,
        contractions.score_excess: (w * zeta**2).sum(axis=1) - 1,
        contractions.score_jacobian_square: dimension * (pulled**2).sum(axis=1),
        contractions.score_variance_square: np.einsum("bi,bi->b", zeta, np.sqrt(dimension) * pulled) ** 2,
    }
    for function, sample in drawn.items():
        exact = number(function(sp.Integer(4), sp.Integer(tokens), sp.Integer(dimension)))
        assert abs(exact - sample.mean()) < 4 * sample.std() / np.sqrt(draws), function
    with pytest.raises(RefusedError, match="cosines"):
        contractions.private_square(a, n, sp.oo)


def test_wide_spheres_are_normal_keys():
    for function in (contractions.aligned_slope, contractions.score_mean, contractions.score_jacobian_square):
        wide, normal = (number(function(sp.Integer(2), sp.Integer(10), dimension)) for dimension in (sp.Integer(10**7), sp.oo))
        assert wide == pytest.approx(normal, rel=1e-5)


@pytest.mark.parametrize("variance, error", [(1, 0.002), (4, 0.01), (9, 0.03)])
def test_the_interpolation_of_two_rows_has_its_stated_error(variance, error):
    cheap = interpolation(sp.Integer(variance), sp.Integer(64))
    for rho in (0.0, 0.3, 0.5, 0.8, 1.0):
        exact = pair(JACOBIANS, variance, rho, 64)
        gap = sp.Float(variance * (1 - rho))
        got = [number(form) for form in (cheap.overlap(gap), cheap.jacobian(gap), cheap.row_gap(gap))]
        allowed = error if 0 < rho < 1 else 1e-9
        assert got[0] == pytest.approx(exact[0], rel=allowed)
        assert got[1] == pytest.approx(trace(exact), rel=3 * allowed)
        assert got[2] == pytest.approx(number(cheap.equal) - got[0], abs=1e-12)


def test_the_interpolation_on_a_sphere_has_exact_ends():
    cheap, point = interpolation(a, n, D), {"a": sp.Integer(2), "n": sp.Integer(12), "D": sp.Integer(20)}
    assert number(cheap.overlap(0), **point) == pytest.approx(number(Participation(a, n, D), **point), rel=1e-12)
    slope = number(contractions.gram_jacobian_square(a, n, D), **point)
    assert number(cheap.jacobian(0), **point) == pytest.approx(slope, rel=1e-10)
    first, last = contractions.pair_trace(a, n)
    assert sp.expand(last - jacobian_trace_square(a, n)) == 0 == sp.expand(first - (1 - Participation(a, n)) ** 2)


def test_the_gap_of_interpolated_overlaps_and_the_order_of_a_moment():
    cheap = interpolation(sp.Integer(2), sp.Integer(12))
    for gap in (sp.S.Zero, sp.Rational(1, 2), sp.Rational(3, 2)):
        assert number(cheap.overlap_gap(gap)) == pytest.approx((12 * number(cheap.overlap(gap)) - 1) / 11, rel=1e-13)
    for powers in (((1, 1),), ((1, 2),), ((3, 2), (1, 1))):
        # Equal weights 1/n, whose sums each have n terms.
        assert sp.simplify(PairMoment(powers, 0, 0, n) * n ** PairMoment(powers, a, g, n).leading) == 1


def test_the_average_over_a_normal_pair():
    x, y, v, w, c = sp.symbols("x y v w c", positive=True)
    got = normal_average(lambda one, two: one**2 * two**2, (x, y), (v, w), c)
    assert sp.expand(got - (x**2 + v) * (y**2 + w) - 4 * x * y * c - 2 * c**2) == 0


def test_limits():
    assert sp.factor(nearly_uniform(jacobian_trace_square(a, n), a) - (1 - 1 / n) ** 2 * (1 - 2 * a / n)) == 0
    # Lognormal sums: the next term is O(e^(3 a)/n^2).
    assert annealed_participation(0.25, 4096) == pytest.approx(row([Y], 0.25, 4096)[0, 0], rel=4 * np.exp(0.75) / 4096)
    ratios = []
    for tokens, scale in ((1024, 3.0), (1024, 6.0), (10**6, 20.0)):
        y, cube, square = row([Y, S3, Y2], scale**2, tokens)[:, 0]
        ratios.append((y - 2 * cube + square) / float(condensed(jacobian_square(a, n), y)))
    assert np.round(1 / np.array(ratios), 2).tolist() == [0.65, 0.90, 0.99]
    assert condensed_participation(1, 100) == 0
    with pytest.raises(RefusedError, match="keys"):
        condensed(WeightMoment(((2, 2),), a, n, D), sp.Rational(1, 2))


def test_the_closed_form_has_its_stated_error():
    sizes, scales = (8, 64, 1024, 65536), (0.1, 0.5, 1, 2, 3, 4, 6, 10, 20)
    points = [(s, size) for s in scales for size in sizes]
    exact = row([Y], [s * s for s, _ in points], [size for _, size in points])[0]
    fit = sp.lambdify((a, n), closed_form(a, n), modules=["scipy", "numpy"])
    errors = np.abs([fit(s * s, float(size)) for s, size in points] / exact - 1)
    assert np.median(errors) < 0.009 and errors.max() < 0.04
    with pytest.raises(InputError, match="8 tokens"):
        closed_form(a, 7)
