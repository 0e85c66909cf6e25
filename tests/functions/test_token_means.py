"""Averages over rows, pairs of rows and lags: exact sums, direct kernels and matrices as references."""

from fractions import Fraction

import numpy as np
import pytest
import sympy as sp

from symprop.core.errors import InputError, RefusedError
from symprop.functions.causal_numeric import equal_scores, overlap_and_slope
from symprop.functions.rotary_means import CENTRED, LAG, NORMAL, SCALE, RotaryAverage, RotaryMean
from symprop.functions.rotary_numeric import frequencies, lag_averages
from symprop.functions.softmax_numeric import pair_moments
from symprop.functions.softmax_overlap import JacobianOverlap, Participation, RowOverlap, jacobian_square
from symprop.functions.softmax_values import value as double
from symprop.functions.token_means import AMPLITUDE, COSINE, LATER, ROW, PairMean, RowMean, compiled, sharp

BOUND = (ROW, LATER, AMPLITUDE, COSINE)
n = sp.Symbol("n", integer=True, positive=True)


def number(expression):
    return float(sp.N(expression, 15))


def at(variance, rho, tokens, extra):
    """Overlap and slope of pairs of rows at one score variance and correlation."""
    one = np.array([variance])
    return overlap_and_slope(one, one * (1 - rho), tokens, extra)


@pytest.mark.parametrize("moment", [1 / ROW, (ROW - 1) / ROW**2, (1 - 1 / ROW) ** 2, sp.Integer(3), ROW])
def test_a_rational_row_moment_is_summed_exactly(moment):
    total = RowMean(sp.Lambda(ROW, moment), n)
    assert not total.atoms(RowMean)
    for count in (1, 2, 7):
        direct = sum((Fraction(str(moment.subs(ROW, t))) for t in range(1, count + 1)), Fraction(0)) / count
        assert total.subs(n, count) == sp.Rational(str(direct))


@pytest.mark.parametrize("moment", [1 / LATER, (1 - 1 / ROW) / LATER, (1 - 1 / ROW) * (1 - 1 / LATER), 1 / ROW**2, ROW * LATER])
def test_a_rational_pair_moment_is_summed_exactly(moment):
    total = PairMean(sp.Lambda(BOUND, moment), n, sharp(0))
    for count in (2, 3, 7):
        pairs = [(t, u) for u in range(2, count + 1) for t in range(1, u)]
        direct = sum(moment.subs({ROW: t, LATER: u}) for t, u in pairs) / len(pairs)
        assert sp.simplify(total.subs(n, count) if total.has(sp.harmonic) else total.subs(n, count).doit()) == direct


def test_a_mean_of_row_moments_is_the_mean_of_its_exact_values():
    moment = Participation(2, ROW) + 3 * jacobian_square(2, ROW)
    mean = RowMean(sp.Lambda(ROW, moment), 6)
    assert number(mean) == pytest.approx(number(mean.doit()), rel=1e-9)


@pytest.mark.slow
def test_a_mean_of_pair_moments_is_the_mean_of_its_exact_values():
    rho = sp.Rational(2, 5)
    a = sp.Rational(1, 2)
    for node in (RowOverlap, JacobianOverlap):
        mean = PairMean(sp.Lambda(BOUND, node(a, a * (1 - COSINE), ROW, LATER - ROW)), 4, sharp(rho))
        assert number(mean) == pytest.approx(number(mean.doit()), rel=2e-4)


@pytest.mark.parametrize("variance", [0.04, 1.0, 9.0])
def test_means_over_many_rows_need_few_of_them(variance):
    every = np.arange(1.0, 301.0)
    exact = compiled((ROW,), Participation(variance, ROW))(every).mean()
    assert number(RowMean(sp.Lambda(ROW, Participation(variance, ROW)), 300)) == pytest.approx(exact, rel=1e-4)
    later = np.concatenate([np.full(u - 1, float(u)) for u in range(2, 61)])
    earlier = np.concatenate([np.arange(1.0, u) for u in range(2, 61)])
    overlap, slope = at(variance, 0.6, earlier, later - earlier)
    for node, values in ((RowOverlap, overlap), (JacobianOverlap, slope)):
        moment = node(variance, variance * (1 - COSINE), ROW, LATER - ROW)
        mean = PairMean(sp.Lambda(BOUND, moment), 60, sharp(sp.Rational(3, 5)))
        assert number(mean) == pytest.approx(values.mean(), rel=2e-3)


def test_a_formula_with_averages_has_a_value_at_numbers_for_its_symbols():
    a, rho = sp.symbols("a rho", positive=True)
    pair = PairMean(sp.Lambda(BOUND, RowOverlap(a * AMPLITUDE, a * AMPLITUDE * (1 - COSINE), ROW, LATER - ROW)), n, sharp(rho))
    lag = RotaryMean(sp.Lambda((LAG, CENTRED, SCALE, NORMAL), LAG * SCALE * rho), a / 8, n, 8, 8, sp.Integer(10000))
    total = 2 * a + RowMean(sp.Lambda(ROW, Participation(a, ROW)), n) * pair + lag * RotaryAverage("square", n, 8, 8, 10000)
    found = double(total, {a: 0.5, rho: 0.25, n: 5})
    assert found == pytest.approx(number(total.subs({a: sp.Rational(1, 2), rho: sp.Rational(1, 4), n: 5})), rel=1e-12)


@pytest.mark.parametrize("scale", [0.01, 0.13, 1.0, 4.0])
def test_equal_scores_agree_with_the_kernel_of_two_rows(scale):
    tokens, extra = np.array([5.0, 12.0, 300.0, 12.0]), np.array([15.0, 12.0, 700.0, 0.0])
    flat = 0 * tokens
    values = pair_moments([((1, 1),), ((2, 1),), ((1, 2),), ((1, 1), (1, 1))], flat + scale**2, flat + scale**2, flat,
                          tokens, extra)
    overlap, slope = equal_scores(np.array([scale**2]), tokens, extra, np.array([np.inf]))[..., 0]
    np.testing.assert_allclose(overlap, values[0], rtol=2e-9)
    np.testing.assert_allclose(slope, values[0] - values[1] - values[2] + values[3], rtol=5e-9)


@pytest.mark.parametrize(("scale", "one", "two"), [(0.13, 2e-6, 2e-5), (1.0, 2e-5, 2e-4), (2.0, 7e-4, 5e-3), (3.5, 8e-3, 5e-2)])
def test_overlap_between_the_ends_agrees_with_the_kernel_of_two_rows(scale, one, two):
    tokens, extra = np.array([5.0, 12.0, 50.0, 100.0]), np.array([15.0, 12.0, 150.0, 1.0])
    flat = 0 * tokens
    for rho in (0.2, 0.6, 0.95):
        values = pair_moments([((1, 1),), ((2, 1),), ((1, 2),), ((1, 1), (1, 1))], flat + scale**2, flat + scale**2,
                              flat + 1 - rho, tokens, extra, 0.5)
        overlap, slope = at(scale**2, rho, tokens, extra)
        np.testing.assert_allclose(overlap, values[0], rtol=one)
        np.testing.assert_allclose(slope, values[0] - values[1] - values[2] + values[3], rtol=two)


def test_reference_points_of_short_rows():
    # 24 B and 20 B at (t, u, s, rho) = (12, 24, .13, .8) and (5, 20, .3, .8), from the kernel of two rows.
    for t, u, scale, value in ((12, 24, 0.13, 0.92503), (5, 20, 0.3, 0.8147)):
        slope = at(scale**2, 0.8, np.array([float(t)]), np.array([float(u - t)]))[1]
        assert u * slope[0] == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("variance", [0.0, 1e-300, 1e-12, 9.0])
@pytest.mark.parametrize("rho", [0.0, 1 - 1e-9])
def test_edges_of_two_rows(variance, rho):
    tokens, extra = np.array([1.0, 1.0, 2.0, 500.0]), np.array([1.0, 999.0, 1.0, 500.0])
    overlap, slope = at(variance, rho, tokens, extra)
    # One key: the overlap is the mean weight of the later row, and nothing depends on the scores.
    np.testing.assert_allclose(overlap[:2], 1 / (tokens + extra)[:2], rtol=1e-12)
    np.testing.assert_allclose(slope[:2], 0, atol=1e-15)
    assert np.isfinite(overlap).all() and (overlap >= 1 / (tokens + extra) * (1 - 1e-9)).all()
    if variance < 1e-6:
        np.testing.assert_allclose(slope, (1 - 1 / tokens) / (tokens + extra), rtol=1e-5)


@pytest.mark.parametrize(("width", "rotated", "base"), [(16, 16, 1e4), (16, 8, 100.0)])
def test_averages_over_positions_are_those_of_the_matrices(width, rotated, base):
    count = 24
    lags = np.arange(count)[:, None] - np.arange(count)
    theta = frequencies(width, rotated, base)
    matrix = np.cos(theta[:, None, None] * lags).mean(axis=0)
    centring = np.eye(count) - 1 / count
    centred = centring @ matrix @ centring
    expected = {
        "coherence": matrix.mean(), "square": (matrix**2).mean(),
        "sharing": (centred**2).sum() / np.trace(centred) ** 2,
    }
    for kind, value in expected.items():
        assert number(RotaryAverage(kind, count, width, rotated, int(base))) == pytest.approx(value, rel=1e-10)
    mean = RotaryMean(sp.Lambda((LAG, CENTRED, SCALE, NORMAL), LAG**2 * SCALE**2), sp.Rational(1, 5), count, width, rotated,
                      int(base))
    off = ((matrix**2).sum() - count) / (count * (count - 1))
    assert number(mean) == pytest.approx(1.2 * off, rel=1e-10)


def test_bad_averages_are_refused_by_name():
    with pytest.raises(InputError, match="kind"):
        RotaryAverage("angle", 8, 4, 4, 100)
    with pytest.raises(InputError, match="even"):
        sp.N(RotaryAverage("coherence", 8, 5, 3, 100))
    with pytest.raises(InputError, match="law"):
        PairMean(sp.Lambda(BOUND, 1 / LATER), 5, sp.Tuple(1, 0))
    a = sp.Symbol("a", positive=True)
    mean = RowMean(sp.Lambda(ROW, Participation(a, ROW)), n)
    with pytest.raises(RefusedError, match="number of tokens"):
        mean.diff(n)
    step = 1e-4
    slope = (number(mean.subs({a: 1 + step, n: 5})) - number(mean.subs({a: 1 - step, n: 5}))) / (2 * step)
    assert number(mean.diff(a).subs({a: 1, n: 5})) == pytest.approx(slope, rel=1e-6)


def test_averages_of_rotary_positions_belong_to_their_settings():
    counts, bases = np.array([5, 9, 5]), np.array([[10.0], [1e4]])
    found = lag_averages(counts, 8, 4, bases)
    assert found.shape == (4, 2, 3)
    for place, kind in enumerate(("coherence", "square", "sharing", "peak")):
        for row, base in enumerate(bases.ravel()):
            expected = [RotaryAverage(kind, int(count), 8, 4, sp.Float(base)).in_double() for count in counts]
            np.testing.assert_array_equal(found[place, row], expected)
