"""Maps in the second moment of the token mean: the same map as in (q, gap), and its digits where that has none."""

from __future__ import annotations

import random

import mpmath
import pytest
import sympy as sp

from symprop.components import Elementwise, LayerNorm, Linear, UniformAttention
from symprop.core.signal import from_common
from symprop.core.symbols import alpha_1, alpha_2, d, n, sigma_b2, sigma_v2, sigma_w2
from symprop.depth.common import common_map
from symprop.depth.iterate import layer_map, mpmath_compile, numpy_compile
from symprop.functions.activation import Absolute, Erf, Gelu, Relu, Sine
from symprop.functions.logistic import Tanh
from symprop.network import parallel, residual, sequential, token_input, trace_of

X, COMMON = token_input(), sp.Symbol("common", nonnegative=True)


def feed_forward(activation):
    return sequential(Linear(d, sigma_w2 / d, sigma_b2), Elementwise(activation), Linear(d, sigma_w2 / d))


ATTENTION = UniformAttention(d, sigma_v2 / d)
BLOCKS = {
    "norm-free": sequential(residual(ATTENTION, alpha_1), residual(feed_forward(Relu()), alpha_2)),
    "Pre-LN": sequential(residual(sequential(LayerNorm(), ATTENTION), 1, alpha_1),
                         residual(sequential(LayerNorm(), feed_forward(Gelu())), alpha_2)),
    "Post-LN": sequential(residual(ATTENTION, alpha_1), LayerNorm(), residual(feed_forward(Absolute()), alpha_2), LayerNorm()),
    "parallel": parallel(ATTENTION, feed_forward(Relu()), scale=alpha_1, skip_scale=alpha_2),
    "odd": sequential(residual(ATTENTION, alpha_1), LayerNorm(), residual(feed_forward(Tanh()), 1, alpha_2)),
    "no skip": sequential(ATTENTION, LayerNorm(), feed_forward(Relu())),
}
PARAMETERS = (n, alpha_1, alpha_2, sigma_b2, sigma_v2, sigma_w2)


def point(seed: int, **changed) -> dict[sp.Symbol, sp.Expr]:
    rng = random.Random(seed)
    values = {symbol: sp.Rational(rng.randint(1, 300), 100) for symbol in PARAMETERS}
    named = {str(symbol): symbol for symbol in PARAMETERS}
    return {**values, n: sp.Integer(rng.randint(2, 9)), **{named[key]: sp.sympify(value) for key, value in changed.items()}}


def at(expressions, values):
    with mpmath.workdps(60):
        numbers = [mpmath.mpmathify(sp.N(value, 60)) for value in values.values()]
        return [mpmath.mpmathify(item) for item in mpmath_compile(tuple(values), tuple(expressions))(*numbers)]


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("known", [False, True])
def test_the_same_map_as_in_q_and_the_gap(name, known):
    trace = trace_of(BLOCKS[name], X)
    plain, found = layer_map(trace, backward=False), common_map(trace, COMMON, q=sp.S.One if known else None)
    for seed in range(4):
        values = point(seed)
        size = sp.S.One if known else sp.Rational(7, 3)
        gap = size * sp.Rational(seed + 1, 5)
        common = size - (1 - 1 / values[n]) * gap
        with mpmath.workdps(60):
            q_next, gap_next = at(plain.updates.values(), {**values, X.q: size, X.gap: gap})
            common_next, same_gap = at(found.updates.values(), {**values, COMMON: common, X.gap: gap})
            assert abs(same_gap - gap_next) <= gap_next * mpmath.mpf(10) ** -50
            expected = q_next - (1 - 1 / mpmath.mpf(int(values[n]))) * gap_next
            assert abs(common_next - expected) <= expected * mpmath.mpf(10) ** -50


@pytest.mark.parametrize("name", ["norm-free", "Pre-LN", "Post-LN"])
@pytest.mark.parametrize("many", [False, True])
def test_a_vanishing_mean_of_the_tokens_keeps_its_digits_in_doubles(name, many):
    """Attention multiplies it; a feed-forward branch adds to it, so that its strength is zero here."""
    q, trace = sp.S.One if name == "Post-LN" else None, trace_of(BLOCKS[name], X)
    found = common_map(trace, COMMON, q=q, others=sp.S.One, close=lambda moment: moment.subs(n, sp.oo)) if many else (
        common_map(trace, COMMON, q=q))
    update = found.updates[COMMON]
    values = {**point(1, sigma_b2=0, alpha_2=0), COMMON: sp.Rational(1, 10**200), X.gap: sp.Integer(1)}
    (exact,), (slope,) = at([update], values), at([sp.diff(update, COMMON)], values)
    (in_doubles,) = numpy_compile(tuple(values), [update])(*map(float, values.values()))
    assert in_doubles == pytest.approx(float(exact), rel=1e-14, abs=0)
    assert in_doubles == pytest.approx(1e-200 * float(slope), rel=1e-14, abs=0) and slope > 0


@pytest.mark.parametrize("activation", [Tanh(), Erf(), Sine()])
def test_odd_activations_keep_what_two_tokens_have_in_common(activation):
    """E phi(x) phi(y) is the covariance times (E phi')^2 where that is small: Price's theorem."""
    trace = trace_of(sequential(Linear(d, sigma_w2 / d), Elementwise(activation)), X)
    update = common_map(trace, COMMON, others=sp.S.One, q=sp.S.One).updates[COMMON]
    slope = sp.Rational(3, 2) * activation.slope_mean(sp.S.Zero, sp.Rational(3, 2)) ** 2
    for small in (sp.Rational(1, 10**200), sp.Rational(1, 10**12)):
        (found,) = at([update], {sigma_w2: sp.Rational(3, 2), COMMON: small, X.gap: sp.Integer(1)})
        with mpmath.workdps(40):
            # The next order is the third; a quotient of tanh has 17 digits.
            assert abs(found / (small * sp.N(slope, 40)) - 1) < 1e-15


def test_what_a_norm_returns_adds_up_to_one_from_any_state():
    found = common_map(trace_of(BLOCKS["Post-LN"], X), COMMON, q=sp.S.One)
    total = from_common(found.updates[COMMON], found.updates[X.gap], n)
    values = {**point(2), COMMON: sp.Rational(3, 2), X.gap: sp.Rational(5, 3)}
    assert abs(at([total], values)[0] - 1) < mpmath.mpf(10) ** -50
