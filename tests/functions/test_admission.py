"""Which formulas a quadrature rule takes, and that their logarithms and exponentials are right at every variance it claims."""

from itertools import pairwise

import numpy as np
import pytest
import sympy as sp

from symprop.codegen import FunctionSpec
from symprop.codegen.render import load
from symprop.codegen.spec import parameters
from symprop.core.errors import RefusedError
from symprop.core.symbols import sigma2
from symprop.functions.activation import Gelu, Sine
from symprop.functions.exponentials import bounded
from symprop.functions.quadrature_activation import QuadratureActivation

X = sp.Symbol("x", real=True)
CLAIMED = 1e-8
ZERO = sp.S.Zero
NODES, WEIGHTS = np.polynomial.legendre.leggauss(400)


def number(expression):
    return float(sp.N(expression, 15))


def mean(function, variance):
    """E f(x) by a rule on either side of zero, in units of the deviation and of one."""
    spread, total = variance**0.5, 0.0
    ends = [0, min(40 / spread, 8), 8.5]
    for low, high in pairwise(ends):
        z = (low + high) / 2 + (high - low) / 2 * NODES
        weight = WEIGHTS * (high - low) / 2 * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        total += sum(float(weight @ function(side * spread * z)) for side in (-1, 1))
    return total


LOGARITHMS = {
    "log_cosh": (sp.log(sp.cosh(X)), lambda x: np.logaddexp(x, -x) - np.log(2)),
    "two": (sp.log(1 + 2 * sp.exp(X)), lambda x: np.logaddexp(0, x + np.log(2))),
    "three": (sp.log(1 + sp.exp(X) + sp.exp(2 * X)), lambda x: np.logaddexp(0, np.logaddexp(x, 2 * x))),
    "quotient": (-sp.log(1 / (1 + sp.exp(-X))), lambda x: np.logaddexp(0, -x)),
    "tanh": (sp.log(1 + sp.tanh(X)), lambda x: np.log(2) + x - np.logaddexp(x, -x)),
    "power": (sp.log(1 + 2**X), lambda x: np.logaddexp(0, x * np.log(2))),
    "signs": (sp.log(2 * sp.exp(2 * X) - sp.exp(X) + 1), lambda x: np.where(
        x > 0, 2 * np.abs(x) + np.log(2 - np.exp(-np.abs(x)) + np.exp(-2 * np.abs(x))),
        np.log1p(2 * np.exp(-2 * np.abs(x)) - np.exp(-np.abs(x))))),
    "asinh": (sp.asinh(sp.exp(X)), lambda x: np.logaddexp(x, np.logaddexp(0, 2 * x) / 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", LOGARITHMS)
def test_logarithms_of_exponentials_do_not_saturate(name):
    formula, function = LOGARITHMS[name]
    activation = QuadratureActivation(X, formula, name)
    assert activation.neglected == "relative 1e-8, a quadrature rule"
    for variance in (1, 1000, 10**4, 10**6):
        assert number(activation.mean(ZERO, sp.Integer(variance))) == pytest.approx(mean(function, variance), rel=CLAIMED)
        squared = mean(lambda x: function(x) ** 2, variance)
        assert number(activation.second(ZERO, sp.Integer(variance))) == pytest.approx(squared, rel=2 * CLAIMED)
    with np.errstate(all="raise", under="ignore"):
        x = np.array([-1e5, -3.0, 0.0, 1e5])
        assert activation.apply(x) == pytest.approx(function(x), rel=1e-11, abs=1e-16)


def test_a_nearly_vanishing_logarithm_keeps_its_digits():
    found = sp.lambdify(X, bounded(sp.log(1 + 2 * sp.exp(X))), [{"Larger": np.maximum, "log": lambda u: u}, "numpy"])
    assert found(-50.0) - 1 == 0
    activation = QuadratureActivation(X, sp.log(1 + 2 * sp.exp(X)), "two")
    assert number(activation.mean(sp.Integer(-50), sp.Integer(1))) == pytest.approx(2 * np.exp(-49.5), rel=CLAIMED)


def test_what_grows_or_oscillates_names_its_variances_and_is_refused_above():
    grown, wave = QuadratureActivation(X, sp.exp(X), "grown"), QuadratureActivation(X, sp.sin(X), "wave")
    assert (grown.neglected, wave.neglected) == (
        "relative 1e-8 up to variance 25/16, a quadrature rule", "relative 1e-8 up to variance 25, a quadrature rule")
    assert number(grown.second(ZERO, sp.Rational(25, 16))) == pytest.approx(np.exp(25 / 8), rel=CLAIMED)
    for share in (1e-6, 1.5):
        at = ZERO, sp.Integer(25), sp.Float(25 * share, 30)
        assert number(wave.slope_gap(*at)) == pytest.approx(number(Sine().slope_gap(*at)), rel=CLAIMED)
    for moment in (lambda: grown.mean(0, 2), lambda: wave.gap(0, 26, 1), lambda: wave.cross(0, 1, 1, 26, 0)):
        with pytest.raises(RefusedError, match="does not reach its moments at variances above"):
            moment()


@pytest.mark.parametrize(("formula", "reach"), [
    (X + sp.sin(X) ** 2, sp.Rational(25, 4)), (sp.sin(X) * sp.cos(2 * X), sp.Rational(25, 9)),
    (sp.exp(sp.sin(X)), sp.Rational(25, 16)), (sp.tanh(sp.sin(X)), 1), (sp.sin(X / 2 + sp.sin(X)), sp.Rational(2500, 121) / 9),
])
def test_products_and_functions_of_waves_are_resolved_up_to_the_variance_that_is_named(formula, reach):
    activation = QuadratureActivation(X, formula, "waves")
    named = sp.Rational(activation.neglected.split("variance ")[1].split(",")[0])
    assert named <= reach
    z = np.linspace(-9, 9, 20001)
    weight = np.exp(-(z**2) / 2) * (z[1] - z[0]) / np.sqrt(2 * np.pi)
    for what, function in (("second", formula), ("slope_second", sp.diff(formula, X))):
        squares = sp.lambdify(X, function, "numpy")(z * float(named) ** 0.5) ** 2
        assert number(getattr(activation, what)(ZERO, named)) == pytest.approx(weight @ squares, rel=CLAIMED)
    with pytest.raises(RefusedError, match="does not reach"):
        activation.second(ZERO, sp.Integer(25))


@pytest.mark.parametrize("formula", [X * (1 + sp.erf(X / sp.sqrt(2))) / 2, X * sp.erfc(-X / sp.sqrt(2)) / 2])
def test_error_functions_are_evaluated(formula):
    activation, at = QuadratureActivation(X, formula, "my_gelu"), (ZERO, sp.Integer(2))
    for what in ("mean", "second", "slope_second"):
        assert number(getattr(activation, what)(*at)) == pytest.approx(number(getattr(Gelu(), what)(*at)), rel=CLAIMED)
    for what in ("gap", "slope_gap"):
        closed = number(getattr(Gelu(), what)(*at, sp.S.Half))
        assert number(getattr(activation, what)(*at, sp.S.Half)) == pytest.approx(closed, rel=CLAIMED)
    x = np.linspace(-3, 3, 7)
    assert activation.apply(x) == pytest.approx(Gelu().apply(x), abs=1e-15)
    assert activation.slope(x) == pytest.approx(Gelu().slope(x), abs=1e-15)


REFUSED = {
    "not finite at 0": [1 / X, sp.log(sp.Abs(X)), sp.Piecewise((1 / X, X > 0), (0, True)), X**2 * sp.log(sp.Abs(X))],
    "a root or a logarithm of zero at 0": [sp.Abs(X) ** sp.Rational(3, 2), sp.sqrt(sp.Max(X, 0)), sp.sqrt(X), sp.cbrt(X)],
    "not real and finite": [sp.Abs(X) + sp.I, sp.sqrt(-1 - X**2), sp.log(-1 - X**2)],
    "not known to be finite": [sp.gamma(X), sp.tan(X), sp.besselj(0, X)],
    "beyond doubles": [sp.exp(X**2), sp.log(sp.erfc(X)), X * sp.exp(X) / (sp.exp(X) + sp.exp(-(X**2)))],
}


@pytest.mark.parametrize(("reason", "formula"), [(reason, item) for reason, items in REFUSED.items() for item in items])
def test_what_is_not_smooth_between_kinks_is_refused_by_name(reason, formula):
    with pytest.raises(RefusedError, match=f"mine: .*{reason}.*; remedy: "):
        QuadratureActivation(X, formula, "mine")


@pytest.mark.parametrize("formula", [sp.Piecewise((sp.S.One, sp.Eq(X, 0)), (sp.sin(X) / X, True)), sp.sinc(X)])
def test_a_quotient_of_zeros_has_its_limit(formula):
    activation = QuadratureActivation(X, formula, "sinc")
    x = np.array([-1.0, 0.0, 2.0])
    assert activation.apply(x) == pytest.approx(np.sinc(x / np.pi))
    assert activation.slope(x) == pytest.approx([np.sin(1) - np.cos(1), 0, (2 * np.cos(2) - np.sin(2)) / 4])
    assert number(activation.mean(ZERO, sp.Integer(2))) == pytest.approx(mean(lambda y: np.sinc(y / np.pi), 2), rel=CLAIMED)
    spec = FunctionSpec("sinc", parameters(sigma2), (("second", activation.second(ZERO, sigma2)),), "A moment.")
    found = float(load(spec, "numpy")(2.0))
    assert found == pytest.approx(number(activation.second(ZERO, sp.Integer(2))), rel=1e-11)


def test_exponents_that_are_whole_floats_are_whole():
    assert QuadratureActivation(X, 1.0 * sp.Max(X, 0) ** 2.0, "square").kinks == (0,)


def test_the_variable_is_taken_as_real():
    x = sp.Symbol("x")
    assert QuadratureActivation(x, sp.sqrt(x**2), "size").kinks == (0,)
    softplus = QuadratureActivation(x, sp.log(1 + 2 * sp.exp(x)), "softplus")
    assert softplus.apply(np.array([-50.0]))[0] == pytest.approx(2 * np.exp(-50), rel=1e-12)
