"""SiLU, tanh, sigmoid and user-given activations: mixture and rule against composite quadrature, and each other."""

import pickle

import numpy as np
import pytest
import sympy as sp

from symprop.components import Elementwise, GatedUnit
from symprop.core.errors import InputError, RefusedError
from symprop.core.signal import Gradient, Signal
from symprop.core.symbols import d, n
from symprop.functions.activation import Gelu
from symprop.functions.generic_activation import GenericActivation, MixedMoment, SlopeMoment
from symprop.functions.logistic import Sigmoid, Silu, Tanh, mixture
from symprop.functions.quadrature_activation import GeluTanh, QuadratureActivation
from symprop.functions.table_sum import sums_in_double

X, M = sp.symbols("x m", real=True)
v, g = sp.symbols("v g", positive=True)
CLAIMED = 1e-8
"""The relative error that the activations state."""
RULES = {
    "silu": QuadratureActivation(X, X / (1 + sp.exp(-X)), "silu rule"),
    "tanh": QuadratureActivation(X, sp.tanh(X), "tanh rule"),
    "sigmoid": QuadratureActivation(X, 1 / (1 + sp.exp(-X)), "sigmoid rule"),
}
MIXTURES = [Silu(), Tanh(), Sigmoid()]



# Composite Gauss rules in doubles: independent of the formulas they check.
NODES, WEIGHTS = np.polynomial.legendre.leggauss(16)
STEPS, STEP_WEIGHTS = np.polynomial.legendre.leggauss(8)


def _nodes(mean, spread, features):
    low, high = mean - 9.5 * spread, mean + 9.5 * spread
    edges = [low]
    while edges[-1] < high:
        near = min(abs(edges[-1] - item) for item in features)
        edges.append(min(edges[-1] + min(0.8 * spread, max(0.6, 0.5 * near)), high))
    edges = np.array(edges)
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    x = (middle[:, None] + half[:, None] * NODES).ravel()
    weight = (half[:, None] * WEIGHTS).ravel() * np.exp(-(((x - mean) / spread) ** 2) / 2) / (spread * np.sqrt(2 * np.pi))
    return x, weight


def expectation(function, mean, variance):
    x, weight = _nodes(mean, variance**0.5, [0.0])
    return float(weight @ function(x))


def gap(function, slope, mean, variance, change):
    """E f(x)^2 - E f(x) f(y): half the mean square of f(s + t) - f(s - t), t half the difference of the two."""
    steps, step_weights = _nodes(0.0, (change / 2) ** 0.5, [0.0])
    spread = max(variance - change / 2, 1e-16 * variance) ** 0.5
    total = 0.0
    for step, weight in zip(steps, step_weights, strict=True):
        s, inner = _nodes(mean, spread, [0.0, step, -step])
        if abs(step) < 0.05:
            difference = step * sum(w * slope(s + step * u) for u, w in zip(STEPS, STEP_WEIGHTS, strict=True))
        else:
            difference = function(s + step) - function(s - step)
        total += weight * float(inner @ difference**2) / 2
    return total


def number(expression, variance, change=0.0):
    return float(sp.N(sp.sympify(expression).subs({v: sp.Rational(variance), g: sp.Rational(change)}), 17))


def second_slope(activation):
    function = sp.lambdify(X, sp.diff(activation.expression(X), X, 2), "numpy")

    def evaluate(x):
        with np.errstate(over="ignore", invalid="ignore"):
            return np.nan_to_num(function(x))

    return evaluate


def test_the_mixture_is_the_logistic_function():
    from scipy.special import expit, ndtr

    x = np.linspace(-40, 40, 4001)
    total = sum(float(w) * ndtr(x / float(s2) ** 0.5) for w, s2 in mixture())
    assert all(w > 0 for w, _ in mixture())
    assert np.abs(total - expit(x)).max() < 3e-10


@pytest.mark.parametrize("variance", [1e-6, 1e-2, 1.0, 30.0, 1e3, 1e6])
@pytest.mark.parametrize("activation", MIXTURES, ids=lambda item: item.name)
def test_moments_of_one_token_against_quadrature(activation, variance):
    zero = sp.S.Zero
    for derived, function in (
        (activation.mean(zero, v), activation.apply),
        (activation.second(zero, v), lambda x: activation.apply(x) ** 2),
        (activation.slope_mean(zero, v), activation.slope),
        (activation.slope_second(zero, v), lambda x: activation.slope(x) ** 2),
    ):
        oracle = expectation(function, 0.0, variance)
        # An odd mean is zero in both; the oracle rounds.
        assert number(derived, variance) == pytest.approx(oracle, rel=CLAIMED, abs=1e-13)


@pytest.mark.parametrize("variance", [1e-6, 1e-2, 1.0, 30.0, 1e3])
@pytest.mark.parametrize("share", [1e-12, 1e-4, 0.3, 1.0, 1.7, 2.0])
@pytest.mark.parametrize("activation", MIXTURES, ids=lambda item: item.name)
def test_gaps_against_quadrature(activation, share, variance):
    change = share * variance
    oracle = gap(activation.apply, activation.slope, 0.0, variance, change)
    assert number(activation.gap(sp.S.Zero, v, g), variance, change) == pytest.approx(oracle, rel=CLAIMED)
    found = number(activation.slope_gap(sp.S.Zero, v, g), variance, change)
    if share == 2.0 and activation.name != "silu":
        assert found == pytest.approx(0, abs=1e-15), "an even slope is the same at opposite tokens"
        return
    oracle = gap(activation.slope, second_slope(activation), 0.0, variance, change)
    assert found == pytest.approx(oracle, rel=CLAIMED)


@pytest.mark.parametrize("name", RULES)
def test_the_rule_agrees_with_the_mixture(name):
    mixed, ruled = next(item for item in MIXTURES if item.name == name), RULES[name]
    far = ((1e4, 1e-3), (1e6, 1e-8), (1e6, 1e3), (1e6, 9e5))
    for variance, change in ((1, 0.5), (1e-6, 1e-9), (100, 1), *far, (1, 1e-10), (4, 8)):
        expected = number(mixed.gap(sp.S.Zero, v, g), variance, change)
        assert number(ruled.gap(sp.S.Zero, v, g), variance, change) == pytest.approx(expected, rel=2 * CLAIMED)


@pytest.mark.parametrize("mean", [-3.0, 0.4, 20.0])
@pytest.mark.parametrize("activation", [GeluTanh(), Tanh()], ids=lambda item: item.name)
def test_a_mean_goes_to_the_rule(activation, mean):
    at = {M: sp.Rational(mean), v: sp.Rational(3, 2), g: sp.Rational(1, 2)}
    for derived, oracle in (
        (activation.mean(M, v), expectation(activation.apply, mean, 1.5)),
        (activation.second(M, v), expectation(lambda x: activation.apply(x) ** 2, mean, 1.5)),
        (activation.slope_mean(M, v), expectation(activation.slope, mean, 1.5)),
        (activation.gap(M, v, g), gap(activation.apply, activation.slope, mean, 1.5, 0.5)),
    ):
        assert float(sp.N(derived.subs(at), 17)) == pytest.approx(oracle, rel=CLAIMED)


@pytest.mark.parametrize("activation", [Silu(), pytest.param(GeluTanh(), marks=pytest.mark.slow)], ids=lambda item: item.name)
def test_derivatives_are_those_of_the_moments(activation):
    zero, h = sp.S.Zero, sp.Rational(1, 10**4)
    for derived in (activation.second(zero, v), activation.gap(zero, v, sp.Rational(1, 3))):
        change = (derived.subs(v, 1 + h) - derived.subs(v, 1 - h)) / (2 * h)
        # Central differences: h^2 of the third derivative, and the rounding of doubles over h.
        assert sp.N(sp.diff(derived, v).subs(v, 1), 15) == pytest.approx(sp.N(change, 15), rel=1e-6)
    # Price: the gap grows with the slopes' cross moment.
    price = activation.slope_second(zero, v) - activation.slope_gap(zero, v, g)
    at = {v: 2, g: sp.Rational(1, 2)}
    assert sp.N(sp.diff(activation.gap(zero, v, g), g).subs(at), 15) == pytest.approx(sp.N(price.subs(at), 15), rel=CLAIMED)


def test_a_user_given_activation_is_a_component_in_one_line():
    mish = Elementwise(QuadratureActivation(X, X * sp.tanh(sp.log(1 + sp.exp(X))), "mish"))
    x = Signal(q=sp.Integer(1), gap=sp.Rational(1, 2), tokens=n, width=d, gaussian=True)
    rng = np.random.default_rng(0)
    common, own = rng.standard_normal((2, 400_000, 1)), rng.standard_normal((2, 400_000, 2))
    tokens = np.sqrt(0.5) * (common[0] + own[0])
    output, vjp = mish.sample(tokens[None], rng=rng, values={})
    y, forward = output[0], mish.forward(x)
    samples = {forward.q: y[:, 0] ** 2, forward.p: y[:, 0] * y[:, 1], forward.mean: y[:, 0]}
    gradient = mish.backward(Gradient(sp.Integer(1), sp.S.Zero), x)[0]
    slopes = vjp(np.ones_like(output))[0][0]
    samples |= {gradient.q: slopes[:, 0] ** 2, gradient.p: slopes[:, 0] * slopes[:, 1]}
    for expected, drawn in samples.items():
        assert abs(drawn.mean() - float(sp.N(expected, 12))) < 4 * drawn.std() / len(drawn) ** 0.5


@pytest.mark.slow
def test_gated_units_of_a_user_given_activation_have_gradients():
    unit = GatedUnit(d, 1 / d, 1 / d, RULES["silu"])
    x = Signal(q=sp.Integer(1), gap=sp.Rational(1, 2), tokens=n, width=sp.Integer(8), gaussian=True)
    incoming = Gradient(sp.Integer(1), sp.Rational(1, 2))
    ruled = unit.backward(incoming, x)[0]
    mixed = GatedUnit(d, 1 / d, 1 / d, Silu()).backward(incoming, x)[0]
    for one, other in ((ruled.q, mixed.q), (ruled.gap, mixed.gap)):
        values = (float(sp.N(item.subs(d, 8), 15)) for item in (one, other))
        assert next(values) == pytest.approx(next(values), rel=10 * CLAIMED)


@pytest.mark.slow
def test_a_biased_gate_of_gelu_is_its_sampler():
    unit = GatedUnit(16, sp.Rational(1, 2), sp.Rational(1, 4), Gelu(), sp.Rational(1, 3), -1)
    x = Signal(q=sp.Integer(1), gap=sp.Rational(1, 2), tokens=sp.Integer(2), width=sp.Integer(4))
    y, gradient = unit.forward(x), unit.backward(Gradient(sp.Integer(1), sp.Integer(1)), x)[0]
    rng = np.random.default_rng(8)
    # Two tokens of unit mean square whose inner product is half of it.
    tokens = np.array([[1.0, 1.0, 1.0, 1.0], [2.0, 0.0, 0.0, 0.0]])
    output, vjp = unit.sample(np.repeat(tokens[None], 40_000, axis=0), rng=rng, values={})
    below = vjp(rng.standard_normal(output.shape))[0]
    samples = {y.mean: output[:, 0], y.q: output[:, 0] ** 2, y.p: output[:, 0] * output[:, 1], gradient.q: below[:, 0] ** 2}
    for expected, drawn in samples.items():
        drawn = drawn.mean(axis=-1)
        assert abs(drawn.mean() - float(sp.N(sums_in_double(expected), 12))) < 4 * drawn.std() / len(drawn) ** 0.5


def test_a_gate_without_moments_at_a_mean_takes_no_bias():
    assert GatedUnit(d, 1 / d, 1 / d, GenericActivation(), up_bias=1).takes_mean
    with pytest.raises(RefusedError, match=r"gate_bias=1.*zero mean"):
        GatedUnit(d, 1 / d, 1 / d, GenericActivation(), gate_bias=1)


def test_bad_formulas_are_refused():
    with pytest.raises(InputError, match="formula"):
        QuadratureActivation(X, X * M, "two")


def test_sums_survive_substitution_and_pickling():
    moment = Silu().second(sp.S.Zero, v)
    assert pickle.loads(pickle.dumps(moment)) == moment
    assert moment.subs(v, 2 * g).free_symbols == {g}
    assert sp.latex(moment) == r"\mathrm{silu\,second}\left(v\right)"


def test_opaque_moments_follow_from_each_other():
    """Price's theorem in the gap, and E f''/2 in the variance for every other."""
    phi = GenericActivation()
    assert sp.expand(phi.gap(0, v, g).diff(g) - phi.slope_second(0, v) + phi.slope_gap(0, v, g)) == 0
    assert phi.slope_cross(0, 0, v, v, v - g) == -phi.cross(0, 0, v, v, v - g).diff(g)
    assert MixedMoment(2, 0, v).diff(v) == MixedMoment(4, 0, v) / 2 + MixedMoment(3, 1, v) + SlopeMoment(2, v) / 2
