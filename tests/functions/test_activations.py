"""Closed forms of the activations: independent integrals, Price's theorem, generated code, the edges."""

import itertools
import math
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import sympy as sp
from scipy.integrate import quad

from symprop.codegen import FunctionSpec, evaluate, parameters
from symprop.codegen.render import load
from symprop.core import symbols as s
from symprop.core.symbols import gap, sigma2
from symprop.functions.activation import Absolute, Erf, Gelu, Identity, LeakyRelu, Relu, Sine, SkipSum, SquaredRelu
from symprop.functions.arc_cosine import ArcCosine, arc_cosine_array
from symprop.functions.finite_width import CorrelationDeficit, CorrelationSlopeDeficit

HOMOGENEOUS = (Relu(), LeakyRelu(sp.Rational(1, 5)), Absolute(), SquaredRelu(), Identity())
SMOOTH = (Gelu(), Erf(), Sine(), SkipSum(Gelu(), sp.Rational(3, 5), 2))
ALL = (*HOMOGENEOUS, *SMOOTH)
ZERO = sp.S.Zero


def moments(activation):
    return {
        "second": activation.second(ZERO, sigma2),
        "change": activation.gap(ZERO, sigma2, gap),
        "slope_second": activation.slope_second(ZERO, sigma2),
        "slope_change": activation.slope_gap(ZERO, sigma2, gap),
    }


def spec(activation):
    outputs = tuple((name, sp.sympify(value)) for name, value in moments(activation).items())
    return FunctionSpec(activation.name, parameters(sigma2, gap), outputs, "Moments of an activation.")


def by_quadrature(function, v, c):
    """E f(x) f(y) in polar coordinates of the plane, the radius by its own quadrature, split at the kinks."""
    theta = math.acos(max(-1.0, min(1.0, c / v)))
    kinks = sorted({(k * math.pi / 2 + shift) % (2 * math.pi) for k in range(4) for shift in (0.0, theta)})

    def along(angle):
        first, other = math.cos(angle) * math.sqrt(v), math.cos(angle - theta) * math.sqrt(v)
        return quad(
            lambda s: float(function(np.array(s * first)) * function(np.array(s * other))) * s * math.exp(-s * s / 2),
            0, 9, epsabs=1e-13, epsrel=1e-12,
        )[0]  # fmt: skip

    edges = [0.0, *kinks, 2 * math.pi]
    pieces = pairwise(edges)
    return sum(quad(along, a, b, epsabs=1e-12, epsrel=1e-11)[0] for a, b in pieces if b > a) / (2 * math.pi)


@pytest.mark.parametrize("activation", ALL, ids=lambda item: item.name)
def test_moments_are_the_integrals(activation):
    v, g = 1.7, 0.6
    values = evaluate(spec(activation), {"sigma2": v, "gap": g}, 20)
    for function, second, change in (
        (activation.apply, "second", "change"), (activation.slope, "slope_second", "slope_change")
    ):  # fmt: skip
        full, part = by_quadrature(function, v, v), by_quadrature(function, v, v - g)
        assert float(values[second]) == pytest.approx(full, rel=1e-9)
        assert float(values[change]) == pytest.approx(full - part, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("activation", ALL, ids=lambda item: item.name)
def test_unequal_moments_reduce_to_the_gap(activation):
    v, c = sp.Rational(17, 10), sp.Rational(11, 10)
    for cross, second, change in (
        (activation.cross, activation.second, activation.gap),
        (activation.slope_cross, activation.slope_second, activation.slope_gap),
    ):
        difference = second(ZERO, v) - change(ZERO, v, v - c) - cross(ZERO, ZERO, v, v, c)
        assert abs(sp.N(difference, 40, maxn=300)) < 1e-35


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("activation", (Relu(), SquaredRelu()), ids=lambda item: item.name)
def test_opposite_tokens_of_unequal_variances_keep_their_digits(activation, backend):
    v1, v2, c = parameters(s.q, s.q_0, s.alpha_1)
    cross = activation.cross(ZERO, ZERO, v1.symbol, v2.symbol, c.symbol)
    evaluator = load(FunctionSpec("cross", (v1, v2, c), (("cross", cross),), "Of two tokens."), backend)
    for distance in (1.7, 0.3, 1e-2, 1e-6, 1e-9, 1e-13):
        covariance = -2 * (1 - distance)
        with mpmath.workdps(90):
            cosine = mpmath.mpf(covariance) / 2
            angle, sine = mpmath.acos(-cosine), mpmath.sqrt(1 - cosine**2)
            # Cho & Saul 2009, J_1 and J_2, in the supplement of their angle.
            known = {
                "relu": 2 * (sine + angle * cosine),
                "squared_relu": 4 * (3 * sine * cosine + angle * (1 + 2 * cosine**2)),
            }[activation.name] / (2 * mpmath.pi)
        found = float(evaluator(1.0, 4.0, covariance))
        assert abs(found / known - 1) < 1e-14, distance


@pytest.mark.parametrize("activation", ALL, ids=lambda item: item.name)
def test_price(activation):
    v, c = sp.Rational(17, 10), sp.Symbol("c", positive=True)
    slope = sp.diff(activation.cross(ZERO, ZERO, v, v, c), c) - activation.slope_cross(ZERO, ZERO, v, v, c)
    assert abs(sp.N(slope.subs(c, sp.Rational(9, 10)), 40, maxn=300)) < 1e-35


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("activation", ALL, ids=lambda item: item.name)
def test_generated_code_keeps_every_digit(activation, backend):
    made, function = spec(activation), load(spec(activation), backend)
    if backend == "torch":
        torch = pytest.importorskip("torch")
    for v in (1e-6, 1e-2, 1.0, 30.0, 1e6):
        for t in (1e-16, 1e-10, 1e-5, 1e-2, 0.5, 1.0, 1.5, 1.99):
            exact = evaluate(made, {"sigma2": v, "gap": t * v}, 20)
            point = (v, t * v) if backend == "numpy" else [torch.tensor(x, dtype=torch.float64) for x in (v, t * v)]
            found = function(*point)
            for name, value in exact.items():
                assert float(getattr(found, name)) == pytest.approx(float(value), rel=1e-12), (v, t, name)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("activation", (*HOMOGENEOUS, Gelu(), Erf()), ids=lambda item: item.name)
def test_collapsed_tokens_and_no_signal(activation, backend):
    function = load(spec(activation), backend)
    collapsed = function(2.0, 0.0)
    assert float(collapsed.change) == 0 and float(collapsed.slope_change) == 0
    silent = function(0.0, 0.0)
    assert all(math.isfinite(float(value)) for value in silent)


@pytest.mark.parametrize("k", [0, 1, 2])
def test_arc_cosine_series_away_from_equal_tokens(k):
    x = sp.Symbol("x", positive=True)
    node = ArcCosine(k, 1 + x, 1)
    series, small = sp.series(node, x, 0, 4).removeO(), sp.Rational(1, 10**6)
    assert series.is_polynomial(x)
    assert abs(sp.N((series - node).subs(x, small), 40)) < 10 * small**4


def test_arc_cosine_series_and_derivatives():
    g, v = sp.symbols("g v", positive=True)
    for k in range(3):
        node = ArcCosine(k, g, 1 + v)
        series = sp.series(ArcCosine(k, g, 1), g, 0, k + 2).removeO()
        small = sp.Rational(1, 10**6)
        error = sp.N((series - ArcCosine(k, g, 1)).subs(g, small), 40)
        assert abs(error) < small ** (k + 2)
        for symbol in (g, v):
            point = {g: sp.Rational(3, 10), v: sp.Rational(2, 5)}
            change = node.diff(symbol) - node.elementary().diff(symbol)
            assert abs(sp.N(change.subs(point), 40, maxn=300)) < 1e-35
    assert sp.limit(Relu().gap(ZERO, sp.S.One, g) / g, g, 0) == sp.S.Half


def test_correlation_deficit_is_that_of_samples():
    rng, width, r, draws = np.random.default_rng(0), 6, 0.55, 200_000
    x = rng.standard_normal((draws, width))
    y = r * x + math.sqrt(1 - r**2) * rng.standard_normal((draws, width))
    for centre, freedom in ((True, width - 1), (False, width)):
        a, b = ((z - z.mean(axis=1, keepdims=True) if centre else z) for z in (x, y))
        samples = 1 - (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))
        expected = float(sp.N(CorrelationDeficit(sp.Rational(45, 100), freedom), 15))
        assert abs(samples.mean() - expected) < 4 * samples.std() / math.sqrt(draws)
    wide = CorrelationDeficit(sp.Rational(1, 10), 10**4)
    assert float(sp.N(wide - wide.expansion(), 20)) == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("node", [CorrelationDeficit, CorrelationSlopeDeficit])
def test_deficits_of_a_norm_are_their_series_and_have_its_slopes(node):
    point = sp.Rational(3, 10), sp.Integer(7)
    t, freedom = sp.symbols("t f", positive=True)
    for item in (node(t, freedom).elementary(), node(t, freedom).rewrite("hyper")):
        written = item.subs(dict(zip((t, freedom), point, strict=True)))
        assert abs(sp.N(written - node(*point), 50)) < 1e-48
    step = sp.Rational(1, 10**20)
    up, down = (node(point[0] + sign * step, point[1]) for sign in (1, -1))
    slope = node(t, freedom).diff(t).subs(dict(zip((t, freedom), point, strict=True)))
    assert abs(sp.N(slope - (up - down) / (2 * step), 30, maxn=300)) < 1e-25
    small, large = (abs(sp.N(node(point[0], f).expansion() - node(point[0], f), 40)) for f in (10**4, 10**5))
    assert float(small / large) == pytest.approx(100, rel=1e-3)


@pytest.mark.parametrize("node", [CorrelationDeficit, CorrelationSlopeDeficit])
def test_deficits_of_a_norm_claim_no_sign_that_they_lack(node):
    shares = [sp.Rational(k, 20) for k in (1, 7, 20, 33, 39, 50)]
    for t, freedom in itertools.product(shares, map(sp.Rational, ("1/2", "1", "3/2", "2", "21/10", "3", "7", "300"))):
        item = node(t, freedom)
        value = sp.N(item, 20) if item.is_real else sp.S.NaN
        assert value is sp.S.NaN or value.is_real
        assert not item.is_nonnegative or value >= 0
        assert item.is_nonnegative or not (t <= 2 and freedom > 2)
    free = sp.Symbol("t", positive=True)
    assert node(free, 7).is_nonnegative is None


@pytest.mark.parametrize("k", range(3))
def test_arrays_beyond_opposite_tokens_are_those_of_opposite_ones(k):
    """Rounding leaves gaps beyond twice the variance."""
    exact = float(sp.N(ArcCosine(k, sp.Integer(6), sp.Integer(3)), 17))
    found = arc_cosine_array(k, np.array([6.0, 6.0 * (1 + 1e-15), 7.5]), 3.0)
    assert found == pytest.approx([exact] * 3, rel=1e-14)


@pytest.mark.parametrize("slope", [-2, -1, 0, sp.Rational(1, 5), 1, 3])
def test_the_formula_is_the_function_at_every_negative_slope(slope):
    x, s = sp.symbols("x s", real=True)
    for activation in (LeakyRelu(slope), SkipSum(LeakyRelu(slope), 2, 3)):
        formula = activation.expression(x)
        assert [float(formula.subs(x, at)) for at in (-2, 0, 5)] == list(activation.apply(np.array([-2.0, 0.0, 5.0])))
    symbolic = LeakyRelu(s).expression(x)
    assert [symbolic.subs({x: at, s: slope}) for at in (-2, 5)] == [-2 * slope, 5]
