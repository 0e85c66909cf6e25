"""Activations with kinks by quadrature: against closed forms, Taylor's formula in the covariance, simulation and code."""

import mpmath
import numpy as np
import pytest
import sympy as sp
from mpmath import mp

from symprop.codegen import FunctionSpec
from symprop.codegen.render import load
from symprop.codegen.spec import parameters
from symprop.components import Elementwise
from symprop.core.errors import RefusedError
from symprop.core.signal import Gradient, Signal
from symprop.core.symbols import d, gap, n, sigma2
from symprop.functions.activation import Absolute, LeakyRelu, Relu, SquaredRelu
from symprop.functions.exponentials import bounded
from symprop.functions.pieces import split
from symprop.functions.quadrature_activation import QuadratureActivation

X = sp.Symbol("x", real=True)
CLAIMED = 1e-8
"""The relative error that the activation states."""
HALF, THIRD = sp.Rational(1, 2), sp.Rational(3, 10)
HARD_TANH = QuadratureActivation(X, sp.Max(-1, sp.Min(X, 1)), "hard_tanh")
HARD_SWISH = QuadratureActivation(X, X * sp.Min(sp.Max(X + 3, 0), 6) / 6, "hard_swish")
CLOSED = [
    (Relu(), sp.Max(X, 0)),
    (LeakyRelu(sp.Rational(1, 5)), sp.Piecewise((X, X >= 0), (X / 5, True))),
    (Absolute(), sp.Abs(X)),
    (SquaredRelu(), X**2 * sp.Heaviside(X)),
]
PAIRS = [pytest.param(one, QuadratureActivation(X, formula, one.name), id=one.name) for one, formula in CLOSED]
ELU = sp.Piecewise((X, X > 0), (sp.exp(X) - 1, True))
FAMILY = {
    "relu6": (sp.Min(sp.Max(X, 0), 6), (0, 6)),
    "hard_sigmoid": (sp.Min(sp.Max(X / 6 + HALF, 0), 1), (-3, 3)),
    "elu": (ELU, (0,)),
    "selu": (sp.Rational(10507, 10000) * sp.Piecewise((X, X > 0), (sp.Rational(16733, 10000) * (sp.exp(X) - 1), True)), (0,)),
    "celu": (sp.Max(X, 0) + sp.Min(0, 2 * (sp.exp(X / 2) - 1)), (0,)),
    "softshrink": (sp.sign(X) * sp.Max(sp.Abs(X) - HALF, 0), (-HALF, HALF)),
    "tanh_magnitude": (sp.Abs(sp.tanh(X)), (0,)),
    "shifted_squares": (sp.Max(X - 1, 0) ** 2 - sp.Max(-X, 0) ** 2 / 2, (0, 1)),
    "three_kinks": (sp.Abs(sp.Abs(X) - 1), (-1, 0, 1)),
    "exponential_kink": (sp.Max(sp.exp(-(X**2)), sp.exp(-1)), (-1, 1)),
}


def number(expression):
    return float(sp.N(expression, 15))


def precise(value):
    return sp.Float(value, 30)


@pytest.mark.parametrize("mean", [0, THIRD])
@pytest.mark.parametrize(("closed", "ruled"), PAIRS)
def test_moments_of_one_token_are_the_closed_forms(closed, ruled, mean):
    for variance in (1e-2, 1.0, 1e4, 1e6):
        for what in ("mean", "second", "slope_mean", "slope_second"):
            expected, found = (number(getattr(item, what)(sp.sympify(mean), precise(variance))) for item in (closed, ruled))
            assert found == pytest.approx(expected, rel=CLAIMED, abs=1e-15), (variance, what)


@pytest.mark.parametrize("share", [1e-30, 1e-14, 1e-6, 0.3, 1.0, 1.0 + 1e-12, 1.5, 2 - 1e-6, 2.0])
@pytest.mark.parametrize(("closed", "ruled"), PAIRS)
def test_gaps_are_the_closed_forms_at_every_size(closed, ruled, share):
    for variance in (1e-4, 1.0, 1e5):
        at = sp.S.Zero, precise(variance), precise(share * variance)
        for what in ("gap", "slope_gap"):
            expected, found = (number(getattr(item, what)(*at)) for item in (closed, ruled))
            assert found == pytest.approx(expected, rel=CLAIMED, abs=0), (variance, what)


@pytest.mark.parametrize(("closed", "ruled"), PAIRS)
def test_gaps_at_a_mean_are_the_closed_forms(closed, ruled):
    for variance, share in ((1.0, 1e-9), (100.0, 1.2)):
        at = THIRD, precise(variance), precise(share * variance)
        for what in ("gap", "slope_gap"):
            expected, found = (number(getattr(item, what)(*at)) for item in (closed, ruled))
            assert found == pytest.approx(expected, rel=CLAIMED, abs=0), (variance, share, what)


@pytest.mark.parametrize("rho", [-0.99, -0.3, 0.0, 0.7, 1 - 1e-4, 1 - 1e-8])
def test_unequal_variances_against_the_closed_form(rho):
    ruled = QuadratureActivation(X, sp.Max(X, 0), "relu")
    for v1, v2 in ((1.0, 2.0), (1e-4, 1e4), (1e4, 1.1e4)):
        c = rho * (v1 * v2) ** 0.5
        angle = np.arccos(rho) if rho < 0.9 else np.arcsin(((1 - rho) * (1 + rho)) ** 0.5)
        expected = (v1 * v2) ** 0.5 * (np.sin(angle) + (np.pi - angle) * rho) / (2 * np.pi)
        at = 0, 0, *map(precise, (v1, v2, c))
        # Closed form and rule both round, and c has the digits of a double.
        assert number(ruled.cross(*at)) == pytest.approx(expected, rel=CLAIMED)
        assert number(ruled.slope_cross(*at)) == pytest.approx((np.pi - angle) / (2 * np.pi), rel=2 * CLAIMED)


def normal(x, variance):
    return mpmath.exp(-(x**2) / (2 * variance)) / mpmath.sqrt(2 * mpmath.pi * variance)


def within(bound, mean, variance):
    """P(|y| < bound)."""
    return mpmath.ncdf((bound - mean) / mpmath.sqrt(variance)) - mpmath.ncdf((-bound - mean) / mpmath.sqrt(variance))


def by_taylor(jump_left, jump_right, kink, curvature, first, variance, change):
    """Gap and slope gap of a function whose second derivative is two deltas and a constant between: Price's theorem."""

    def two(left, right, distance):
        """Expectation of a product of deltas of these weights at either kink."""
        s, rest = variance - distance, distance * (2 - distance / variance)
        deltas = ((-kink, left), (kink, right))
        return sum(a * b * normal(x, variance) * normal(y - s * x / variance, rest) for x, a in deltas for y, b in deltas)

    def mixed(distance):
        s, rest = variance - distance, distance * (2 - distance / variance)
        deltas = ((-kink, jump_left), (kink, jump_right))
        return 2 * curvature * sum(a * normal(x, variance) * within(kink, s * x / variance, rest) for x, a in deltas)

    # The kernel grows like one over the root of the distance to full covariance.
    def along(power, kernel):
        return mp.quad(lambda w: 2 * change * w * (change * (1 - w * w)) ** power * kernel(change * w * w), [0, 1])

    def kernel_integral(power):
        found = along(power, lambda distance: two(jump_left, jump_right, distance) + mixed(distance))
        # The probability that both variables are between the kinks, by one step more of the same theorem.
        both = within(kink, 0, variance) * change ** (power + 1) - along(power + 1, lambda distance: two(1, -1, distance))
        return found + curvature**2 * both / (power + 1)

    return change * first - kernel_integral(1), kernel_integral(0)


@pytest.mark.parametrize(("variance", "share"), [(1, 0.5), (100, 1e-6)])
def test_hard_tanh_against_taylor_in_the_covariance(variance, share):
    with mp.workdps(20):
        first = within(1, 0, mp.mpf(variance))
        whole, slope = by_taylor(1, -1, 1, 0, first, mp.mpf(variance), mp.mpf(share) * variance)
    at = sp.S.Zero, precise(variance), precise(share) * variance
    assert number(HARD_TANH.gap(*at)) == pytest.approx(float(whole), rel=CLAIMED, abs=0)
    assert number(HARD_TANH.slope_gap(*at)) == pytest.approx(float(slope), rel=CLAIMED, abs=0)
    assert number(HARD_TANH.slope_second(*at[:2])) == pytest.approx(float(first), rel=CLAIMED)


@pytest.mark.parametrize(("variance", "share"), [(4, 0.5), (100, 1e-6)])
def test_hard_swish_against_taylor_in_the_covariance(variance, share):
    with mp.workdps(15):
        v, half = mp.mpf(variance), mp.mpf(1) / 2
        first = mp.quad(lambda x: normal(x, v) * ((2 * x + 3) / 6) ** 2, [-3, 0, 3]) + mpmath.ncdf(-3 / mpmath.sqrt(v))
        whole, slope = by_taylor(-half, -half, 3, mp.mpf(1) / 3, first, v, mp.mpf(share) * variance)
    at = sp.S.Zero, precise(variance), precise(share) * variance
    assert number(HARD_SWISH.gap(*at)) == pytest.approx(float(whole), rel=CLAIMED, abs=0)
    assert number(HARD_SWISH.slope_gap(*at)) == pytest.approx(float(slope), rel=CLAIMED, abs=0)


def test_elu_at_a_mean_and_far_apart_tokens_against_its_closed_form():
    elu = QuadratureActivation(X, ELU, "elu")
    with mp.workdps(30):
        m, v = mp.mpf("0.3"), mp.mpf(2)
        below = mpmath.exp(m + v / 2) * mpmath.ncdf(-(m + v) / mpmath.sqrt(v)) - mpmath.ncdf(-m / mpmath.sqrt(v))
        expected = m * mpmath.ncdf(m / mpmath.sqrt(v)) + v * normal(m, v) + below
    assert number(elu.mean(THIRD, precise(2))) == pytest.approx(float(expected), rel=1e-12)
    # Independent tokens: the gap is the variance of the output.
    at = THIRD, precise(2)
    assert number(elu.gap(*at, precise(2))) == pytest.approx(number(elu.second(*at) - elu.mean(*at) ** 2), rel=1e-11)


@pytest.mark.parametrize("name", FAMILY)
def test_kinks_are_found_and_rules_agree(name):
    formula, kinks = FAMILY[name]
    activation = QuadratureActivation(X, formula, name)
    assert activation.kinks == kinks
    x = np.linspace(-5, 5, 1001)
    assert activation.apply(x) == pytest.approx(sp.lambdify(X, formula, ["numpy"])(x), rel=1e-14, abs=1e-14)
    for variance in (precise(2), precise(300)):
        at = THIRD, variance
        independent = number(activation.second(*at) - activation.mean(*at) ** 2)
        # The rule of small gaps and that of large ones, where one takes over from the other.
        for share in (1, 1 + sp.Float("1e-12", 30)):
            assert number(activation.gap(*at, share * variance)) == pytest.approx(independent, rel=CLAIMED)


@pytest.mark.parametrize("name", ["relu6", "elu", pytest.param("shifted_squares", marks=pytest.mark.slow)])
def test_the_gap_grows_as_price_says_and_the_rule_for_two_variances_agrees(name):
    activation = QuadratureActivation(X, FAMILY[name][0], name)
    v, g = sp.symbols("v g", positive=True)
    price = activation.slope_second(THIRD, v) - activation.slope_gap(THIRD, v, g)
    rate = sp.diff(activation.gap(THIRD, v, g), g)
    for variance, share in ((2.0, 0.25), (1.0, 1.5)):
        at = {v: precise(variance), g: precise(share * variance)}
        assert number(rate.subs(at)) == pytest.approx(number(price.subs(at)), rel=CLAIMED)
        cross = activation.cross(THIRD, THIRD, v, v * (1 + sp.Float("1e-13", 30)), v - g)
        same = activation.cross(THIRD, THIRD, v, v, v - g)
        assert number(cross.subs(at)) == pytest.approx(number(same.subs(at)), rel=CLAIMED)


def test_a_kinked_activation_is_a_component_in_one_line():
    component = Elementwise(HARD_SWISH)
    x = Signal(mean=HALF, q=sp.Integer(4), gap=sp.Integer(1), tokens=n, width=d, gaussian=True)
    rng = np.random.default_rng(0)
    common, own = rng.standard_normal((400_000, 1)), rng.standard_normal((400_000, 2))
    tokens = 0.5 + (3.75 - 1) ** 0.5 * common + own
    output, vjp = component.sample(tokens[None], rng=rng, values={})
    y, forward = output[0], component.forward(x)
    slopes = vjp(np.ones_like(output))[0][0]
    gradient = component.backward(Gradient(sp.Integer(1), sp.S.Zero), x)[0]
    samples = {
        forward.q: y[:, 0] ** 2, forward.p: y[:, 0] * y[:, 1], forward.mean: y[:, 0],
        gradient.q: slopes[:, 0] ** 2, gradient.p: slopes[:, 0] * slopes[:, 1],
    }
    for expected, drawn in samples.items():
        assert abs(drawn.mean() - number(expected)) < 4 * drawn.std() / len(drawn) ** 0.5


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_generated_code_is_the_formula(backend):
    if backend == "torch":
        torch = pytest.importorskip("torch")
    outputs = {
        "mean": HARD_TANH.mean(THIRD, sigma2), "second": HARD_TANH.second(THIRD, sigma2),
        "change": HARD_TANH.gap(THIRD, sigma2, gap), "slope_change": HARD_TANH.slope_gap(THIRD, sigma2, gap),
    }
    function = load(FunctionSpec("hard_tanh", parameters(sigma2, gap), tuple(outputs.items()), "Moments."), backend)
    for variance, share in ((1.0, 0.5), (1e4, 1e-12), (1e4, 1.5), (1.0, 0.0), (1.0, 2.0), (0.0, 0.0)):
        found = function(variance, share * variance)
        for name, formula in outputs.items():
            expected = number(formula.subs({sigma2: precise(variance), gap: precise(share * variance)}))
            assert float(getattr(found, name)) == pytest.approx(expected, rel=1e-11, abs=1e-28)
    if backend == "numpy":
        grid = function(np.array([[0.5], [2.0]]), np.array([0.1, 0.2, 0.3]))
        assert grid.change.shape == (2, 3)
        assert grid.change[1, 2] == pytest.approx(float(function(2.0, 0.3).change), rel=1e-13)
        return
    wanted = (("change", 0, sigma2), ("change", 1, gap), ("slope_change", 1, gap))
    derivatives = [(name, index, sp.diff(outputs[name], symbol)) for name, index, symbol in wanted]
    for variance, share in ((1.0, 0.5), (100.0, 1e-6), (1.0, 1.5)):
        at = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (variance, share * variance)]
        for name, index, derivative in derivatives:
            slope = torch.autograd.grad(getattr(function(*at), name), at)[index]
            exact = number(derivative.subs({sigma2: precise(variance), gap: precise(share * variance)}))
            # The nodes move in one and stay in the other, and the rule neglects something else.
            assert float(slope) == pytest.approx(exact, rel=CLAIMED)


def test_a_step_goes_forward_and_its_slope_is_refused():
    step = QuadratureActivation(X, sp.Heaviside(X - HALF), "step")
    v = precise(2)
    assert number(step.second(0, v)) == pytest.approx(float(mpmath.ncdf(-0.5 / 2**0.5)), rel=1e-13)
    for mean in (0, precise(0.7), precise(-0.7)):
        assert number(step.slope_mean(mean, v)) == pytest.approx(float(normal(0.5 - float(mean), 2)), rel=1e-13)
    sign = QuadratureActivation(X, sp.sign(X), "sign")
    for share in (1e-30, 1e-14, 0.5, 1.5, 2.0):
        # One minus two over pi times the arcsine of the correlation.
        expected = float(2 / mp.pi * mp.acos(1 - mp.mpf(share))) if share > 1e-10 else 2 / np.pi * (2 * share) ** 0.5
        assert number(sign.gap(0, v, precise(2 * share))) == pytest.approx(expected, rel=CLAIMED)
    for refused in (lambda: step.slope_second(0, v), lambda: step.slope_gap(0, v, v), lambda: step.slope_cross(0, 1, v, 1, v)):
        with pytest.raises(RefusedError, match="step: it jumps"):
            refused()


def test_kinks_that_are_not_found_are_refused_by_name():
    for formula in (sp.Max(0, sp.cos(X) - X), sp.Max(sp.sin(X), 0), sp.floor(X)):
        with pytest.raises(RefusedError, match=r"wave: .*remedy: write"):
            QuadratureActivation(X, formula, "wave")
    with pytest.raises(RefusedError, match="end the Piecewise"):
        QuadratureActivation(X, sp.Piecewise((X, X > 0)), "half")


def test_what_looks_like_a_kink_and_is_none_is_dropped():
    assert split(sp.Abs(X) * sp.sign(X) + sp.Max(X, 0) + sp.Min(X, 0), X, "line").kinks == ()
    assert QuadratureActivation(X, sp.sign(X) * sp.Max(sp.Abs(X) - 1, 0), "softshrink").odd
    assert not QuadratureActivation(X, sp.Max(X, 0), "relu").odd


def test_formulas_are_finite_where_exponentials_are_not():
    x = np.array([-1e5, -800.0, -3.0, 800.0, 1e5])
    silu = QuadratureActivation(X, X / (1 + sp.exp(-X)), "silu")
    mish = QuadratureActivation(X, X * sp.tanh(sp.log(1 + sp.exp(X))), "mish")
    softplus = QuadratureActivation(X, sp.log(1 + sp.exp(X)), "softplus")
    with np.errstate(all="raise", under="ignore"):
        for item in (silu, mish, softplus):
            assert item.slope(x)[[0, 1, 3, 4]] == pytest.approx([0, 0, 1, 1], abs=1e-15)
            assert item.apply(x)[3:] == pytest.approx([800, 1e5], rel=1e-15)
    assert bounded(X**2) == X**2
