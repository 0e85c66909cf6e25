"""Moments of ogive activations at a nonzero mean: independent integrals, Owen's formulas, tails, generated code."""

from functools import cache

import mpmath
import numpy as np
import pytest
import sympy as sp

from symprop.codegen import FunctionSpec, parameters
from symprop.codegen.render import load
from symprop.core.symbols import gap, mu, sigma2
from symprop.functions.activation import Absolute, Erf, Gelu, LeakyRelu, Relu, SkipSum, SquaredRelu
from symprop.functions.normal_moment import NormalMoment

SUM = SkipSum(Gelu(), sp.Rational(3, 5), 2)
ACTIVATIONS = (Relu(), LeakyRelu(sp.Rational(1, 5)), Absolute(), SquaredRelu(), Gelu(), Erf(), SUM)
CLOSED = ACTIVATIONS[:-1]
ZERO = sp.S.Zero


def with_slow(activations, *slow):
    """A test for each of the activations, of which some are slow ones."""
    cases = [pytest.param(item, marks=pytest.mark.slow if item in slow else ()) for item in activations]
    return pytest.mark.parametrize("activation", cases, ids=lambda item: item.name)


named = with_slow(CLOSED)


def moments(activation, m=mu, v=sigma2, g=gap):
    return {
        "mean": activation.mean(m, v),
        "second": activation.second(m, v),
        "change": activation.gap(m, v, g),
        "slope_mean": activation.slope_mean(m, v),
        "slope_second": activation.slope_second(m, v),
        "slope_change": activation.slope_gap(m, v, g),
    }


@cache
def compiled(activation, backend):
    outputs = tuple((name, sp.sympify(value)) for name, value in moments(activation).items())
    return load(FunctionSpec("moments", parameters(mu, sigma2, gap), outputs, "Moments at a mean."), backend)


def exact(activation, m, v, g, digits=20):
    """The moments at a double's exact value."""
    point = [sp.Rational(item) for item in (m, v, g)]
    return {name: sp.N(value, digits) for name, value in moments(activation, *point).items()}


def by_product_rule(f, g, m, v, c):
    """E f(x) g(y) by Gauss's rule in each quadrant; x and y have means m, variances v and covariance c."""
    nodes, weights = np.polynomial.legendre.leggauss(90)
    total, determinant = 0.0, v[0] * v[1] - c**2
    reach = [(mean - 9 * var**0.5, mean + 9 * var**0.5) for mean, var in zip(m, v, strict=True)]
    for first in ((min(reach[0][0], 0), 0), (0, max(reach[0][1], 0))):
        for second in ((min(reach[1][0], 0), 0), (0, max(reach[1][1], 0))):
            (x, wx), (y, wy) = (((a + (b - a) * (nodes + 1) / 2), weights * (b - a) / 2) for a, b in (first, second))
            dx, dy = x[:, None] - m[0], y[None, :] - m[1]
            exponent = (v[1] * dx**2 - 2 * c * dx * dy + v[0] * dy**2) / (2 * determinant)
            density = np.exp(-exponent) / (2 * np.pi * determinant**0.5)
            total += (wx * f(x)) @ density @ (wy * g(y))
    return total


@with_slow(ACTIVATIONS, Gelu(), SUM)
@pytest.mark.parametrize("covariance", [pytest.param(0.9, marks=pytest.mark.slow), -0.7])
def test_moments_are_the_integrals(activation, covariance):
    m, v = (0.6, -0.9), (1.3, 0.8)
    exactly = [sp.Rational(item) for item in (*m, *v, covariance)]
    for function, cross in ((activation.apply, activation.cross), (activation.slope, activation.slope_cross)):
        expected = by_product_rule(function, function, m, v, covariance)
        assert float(sp.N(cross(*exactly), 15)) == pytest.approx(expected, rel=1e-11, abs=1e-12)
    values = exact(activation, 0.6, 1.3, 1.3 - covariance)
    ones = np.ones_like
    for function, mean, second, change in (
        (activation.apply, "mean", "second", "change"),
        (activation.slope, "slope_mean", "slope_second", "slope_change"),
    ):
        same = ((0.6, 0.6), (1.3, 1.3))
        squared = by_product_rule(lambda x, f=function: f(x) ** 2, ones, *same, 0.0)
        crossed = by_product_rule(function, function, *same, covariance)
        assert float(values[mean]) == pytest.approx(by_product_rule(function, ones, *same, 0.0), rel=1e-11)
        assert float(values[second]) == pytest.approx(squared, rel=1e-11)
        assert float(values[change]) == pytest.approx(squared - crossed, rel=1e-10)


def owen(h, a):
    return mpmath.quad(lambda u: mpmath.exp(-(h**2) * (1 + u**2) / 2) / (1 + u**2), mpmath.linspace(0, a, 9)) / (2 * mpmath.pi)


def orthant(h, r):
    return mpmath.ncdf(h) - 2 * owen(h, mpmath.sqrt((1 - r) / (1 + r)))


def relu_by_owen(m, v, r):
    h, a = m / mpmath.sqrt(v), mpmath.sqrt((1 - r) / (1 + r))
    crossed = 2 * m * mpmath.sqrt(v) * mpmath.npdf(h) * mpmath.ncdf(h * a)
    return (m**2 + r * v) * orthant(h, r) + crossed + (
        v * mpmath.sqrt(1 - r**2) * mpmath.exp(-(h**2) / (1 + r)) / (2 * mpmath.pi)
    )


def gelu_by_owen(m, v, r):
    s = 1 + v
    h, rho = m / mpmath.sqrt(s), r * v / s
    root = mpmath.sqrt((1 - rho) / (1 + rho))
    single = mpmath.npdf(h) / mpmath.sqrt(s) * mpmath.ncdf(h * root)
    both = mpmath.exp(-(m**2) / (s + r * v)) / (2 * mpmath.pi * mpmath.sqrt(s**2 - (r * v) ** 2))
    return (
        (m**2 + r * v) * orthant(h, rho) + 2 * m * v * (1 + r - rho) * single + v**2 * (1 + r**2 - 2 * r * rho) * both
    )


def erf_by_owen(m, v, r):
    h = mpmath.sqrt(2) * m / mpmath.sqrt(1 + 2 * v)
    return 1 - 8 * owen(h, mpmath.sqrt((1 + 2 * v - 2 * r * v) / (1 + 2 * v + 2 * r * v)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "formula"), [(Relu(), relu_by_owen), (Gelu(), gelu_by_owen), (Erf(), erf_by_owen)],
    ids=["relu", "gelu", "erf"],
)
def test_generated_code_keeps_the_digits_that_owens_formulas_lose(activation, formula):
    function = compiled(activation, "numpy")
    with mpmath.workdps(90):
        for h in (-8, -2, 0.5, 3):
            for v in (0.01, 1, 1000):
                for t in (1e-10, 0.25, 1.5):
                    m, g = h * v**0.5, t * v
                    at = [mpmath.mpf(item) for item in (m, v)]
                    second = formula(*at, mpmath.mpf(1))
                    change = second - formula(*at, 1 - mpmath.mpf(g) / v)
                    found = function(m, v, g)
                    assert float(found.second) == pytest.approx(float(second), rel=1e-12), (h, v, t)
                    assert float(found.change) == pytest.approx(float(change), rel=1e-12), (h, v, t)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numpy", "torch"])
@named
def test_generated_code_keeps_every_digit(activation, backend):
    function = compiled(activation, backend)
    if backend == "torch":
        torch = pytest.importorskip("torch")
    for h, v, t in EDGES:
        point = (h * v**0.5, v, t * v)
        found = function(*(point if backend == "numpy" else [torch.tensor(x, dtype=torch.float64) for x in point]))
        for name, value in exact(activation, *point).items():
            assert float(getattr(found, name)) == pytest.approx(float(value), rel=1e-12, abs=1e-290), (h, v, t, name)


EDGES = [
    (-30, 1e-6, 1e-16), (-30, 1.0, 1e-3), (-30, 1e6, 1.5), (-8, 1.0, 2.0), (-3, 100.0, 1e-8), (-0.3, 1e-6, 1.9),
    (1e-5, 1.0, 2.0), (0.5, 1e6, 1e-16), (0.5, 1.0, 1.0), (3, 1e-2, 0.3), (30, 1.0, 1e-10), (30, 1e6, 1.999),
]  # fmt: skip


@with_slow(CLOSED, Gelu())
def test_small_means_meet_the_forms_at_zero_mean(activation):
    tiny, v, g = sp.Rational(1, 10**30), sp.Rational(13, 10), sp.Rational(19, 10)
    at_zero, near = moments(activation, ZERO, v, g), moments(activation, tiny, v, g)
    for name, value in at_zero.items():
        # What is odd in the mean is of its order.
        assert abs(sp.N(value, 45) - sp.N(near[name], 45)) < sp.Float("1e-28"), name
    unequal = activation.cross(ZERO, ZERO, v, 2 * v, -1), activation.cross(tiny, -tiny, v, 2 * v, -1)
    assert abs(sp.N(unequal[0], 45) - sp.N(unequal[1], 45)) < sp.Float("1e-28")


@with_slow(CLOSED, *(item for item in CLOSED if item != Erf()))
def test_price_and_stein(activation):
    """The slopes are the derivatives of the moments in the covariance and in the mean, which the integrals know."""
    m, v, c = sp.symbols("m v c", real=True)
    point = {m: sp.Rational(3, 5), v: sp.Rational(13, 10), c: sp.Rational(1, 2)}
    pairs = (
        (sp.diff(activation.cross(m, m, v, v, c), c), activation.slope_cross(m, m, v, v, c)),
        (-sp.diff(activation.gap(m, v, v - c), c), activation.slope_cross(m, m, v, v, c)),
        (sp.diff(activation.mean(m, v), m), activation.slope_mean(m, v)),
    )
    for derivative, slope in pairs:
        assert abs(sp.N(derivative.subs(point), 20) - sp.N(slope.subs(point), 20)) < sp.Float("1e-15")


@with_slow(CLOSED, *(item for item in CLOSED if item not in (Relu(), Erf())))
def test_aligned_and_opposite_tokens(activation):
    m, v = sp.Rational(1, 2), sp.Rational(2)
    assert activation.gap(m, v, ZERO) == 0
    parts = (activation.second(m, v), activation.gap(m, v, 2 * v), activation.cross(m, m, v, v, -v))
    # Each for itself: to the digits of a sum that vanishes there is no end.
    second, opposite, cross = (sp.N(part, 20) for part in parts)
    assert abs(second - opposite - cross) < sp.Float("1e-15")


@pytest.mark.parametrize("backend", ["numpy", "torch", "compiled"])
@pytest.mark.parametrize("activation", [Relu(), Absolute(), SquaredRelu()], ids=lambda item: item.name)
def test_tokens_without_variance_are_the_function_of_their_mean(activation, backend, monkeypatch, tmp_path):
    monkeypatch.setenv("SYMPROP_CACHE", str(tmp_path))
    if backend == "torch":
        pytest.importorskip("torch")
    function, x = compiled(activation, backend), sp.Symbol("x", real=True)
    for mean in (-1e12, -0.5, 1e-6, 0.3, 1e12):
        at = {x: sp.Rational(mean)}
        value, slope = activation.expression(x).subs(at), sp.diff(activation.expression(x), x).subs(at).doit()
        want = {"mean": value, "second": value**2, "change": ZERO, "slope_mean": slope, "slope_second": slope**2,
                "slope_change": ZERO}
        with np.errstate(divide="ignore", over="ignore"):
            found = function(mean, 0.0, 0.0)
        for name, exactly in want.items():
            assert float(getattr(found, name)) == pytest.approx(float(sp.N(exactly, 30)), rel=1e-15, abs=0), (mean, name)


@pytest.mark.parametrize("activation", [Relu(), Absolute(), SquaredRelu()], ids=lambda item: item.name)
def test_many_digits_at_no_variance_are_the_function_of_the_mean(activation):
    reference = pytest.importorskip("symprop.reference")
    outputs = tuple((name, sp.sympify(value)) for name, value in moments(activation).items())
    found = reference.Reference(FunctionSpec("moments", parameters(mu, sigma2, gap), outputs, "Moments.")).at(
        {"mu": -0.3, "sigma2": 0.0, "gap": 0.0})
    exact_mean = sp.N(activation.expression(sp.Rational(-0.3)), 30)
    assert abs(sp.Float(str(found["mean"]), 30) - exact_mean) < 1e-24 and found["change"] == found["slope_change"] == 0


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_opposite_tokens_of_an_even_function_are_alike(backend):
    v = 2.0
    outputs = (("change", Absolute().gap(ZERO, sigma2, gap)), ("slope_change", Absolute().slope_gap(ZERO, sigma2, gap)))
    function = load(FunctionSpec("absolute", parameters(sigma2, gap), outputs, "At zero mean."), backend)
    for distance in (0.0, 1e-15, 1e-6, 0.3, 1.9):
        near = float(function(v, distance).change)
        assert float(function(v, 2 * v - distance).change) == pytest.approx(near, rel=1e-6 if 0 < distance < 1e-9 else 1e-9)
    given = 4.0 - 2.0**-40
    expected = sp.N(Absolute().gap(ZERO, sp.Integer(2), sp.Rational(given)), 20)
    assert float(function(v, given).change) == pytest.approx(float(expected), rel=1e-13)
    assert float(expected) == pytest.approx(2.0**-40, rel=1e-5)


@pytest.mark.slow
def test_torch_gradients_are_the_symbolic_derivatives():
    torch = pytest.importorskip("torch")
    activation, function = Relu(), compiled(Relu(), "torch")
    point = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (-0.7, 1.3, 0.4)]
    found = function(*point)
    at = dict(zip((mu, sigma2, gap), map(sp.Rational, (-0.7, 1.3, 0.4)), strict=True))
    for name, value in moments(activation).items():
        gradients = torch.autograd.grad(getattr(found, name), point, retain_graph=True, allow_unused=True)
        for symbol, gradient in zip((mu, sigma2, gap), gradients, strict=True):
            expected = float(sp.N(sp.diff(value, symbol).subs(at), 15))
            assert (0.0 if gradient is None else float(gradient)) == pytest.approx(expected, rel=1e-11, abs=1e-13), name


def test_normal_moments():
    for k in range(5):
        for m, v in ((-30.0, 1.0), (-1.2, 0.7), (0.4, 2.5)):
            start = max(0.0, m)
            with mpmath.workdps(30):
                reach = [mpmath.mpf(x) for x in (0, 0.1, 1, 3, start + 12, start + 30)]
                integral = mpmath.quad(lambda x, k=k, m=m, v=v: x**k * mpmath.npdf(x, m, mpmath.sqrt(v)), reach)
            node = NormalMoment(k, sp.Rational(m), sp.Rational(v))
            assert float(sp.N(node, 20)) == pytest.approx(float(integral), rel=1e-13)
    m, v = sp.symbols("m v", real=True)
    for symbol in (m, v):
        value = NormalMoment(2, m, v)
        step = {m: sp.Rational(1, 2), v: sp.Rational(3, 2)}
        shifts = (-sp.Rational(1, 10**12), sp.Rational(1, 10**12))
        moved = [sp.N(value.subs(step | {symbol: step[symbol] + shift}), 40) for shift in shifts]
        assert abs((moved[1] - moved[0]) * 10**12 / 2 - sp.N(value.diff(symbol).subs(step), 40)) < sp.Float("1e-20")
