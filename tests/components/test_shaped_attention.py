"""Attention whose weights or queries and keys are changed, against its own sampler: centred, shaped, normalised."""

import math

import numpy as np
import pytest
import sympy as sp

from symprop.components import Attention, LayerNorm, QueryKeyNormAttention, RMSNorm, ShapedAttention, UniformAttention
from symprop.core import symbols
from symprop.core.errors import InputError
from symprop.core.expression import compare
from symprop.core.signal import Gradient, Signal
from symprop.functions.softmax_values import evaluator, value
from symprop.network import sequential, token_input, trace_of

TOKENS, WIDTH, KEYS = 24, 48, 32


def moments(x):
    """(q, gap) of every draw."""
    count = x.shape[1]
    second = (x**2).mean(axis=(1, 2))
    common = (x.mean(axis=1) ** 2).mean(axis=1)
    return np.column_stack([second, (second - common) * count / (count - 1)])


def correlated(rng, draws, rho):
    shared = math.sqrt(rho) * rng.standard_normal((draws, 1, WIDTH))
    return shared + math.sqrt(1 - rho) * rng.standard_normal((draws, TOKENS, WIDTH))


def simulated(layers, rho, rho_g, draws, seed):
    """Means and standard errors of (q, gap) of the output and of the gradient of the input of every layer, last first."""
    rng, collected, controls = np.random.default_rng(seed), [], []
    for _ in range(draws // 250):
        stream, g = correlated(rng, 250, rho), correlated(rng, 250, rho_g)
        controls.append(np.column_stack([moments(stream) - [1, 1 - rho], moments(g) - [1, 1 - rho_g]]))
        x, back, rows = stream, [], []
        for layer in layers:
            x, vjp = layer.sample(x, rng=rng, values={})
            back.append(vjp)
        rows.append(moments(x))
        for vjp in reversed(back):
            (g,) = vjp(g)
            rows.append(moments(g))
        collected.append(np.hstack(rows))
    samples, design = np.concatenate(collected), np.column_stack([np.ones(draws), np.concatenate(controls)])
    coefficients = np.linalg.lstsq(design, samples, rcond=None)[0]
    rest = samples - design @ coefficients
    return coefficients[0], rest.std(axis=0, ddof=design.shape[1]) / math.sqrt(draws)


def predicted(layers, rho, rho_g):
    stream = token_input(sp.Integer(TOKENS), sp.Integer(WIDTH), gaussian=True)
    trace = trace_of(sequential(*layers), stream)
    r_g = sp.nsimplify(rho_g)
    y = trace.steps[-1].value
    found = [y.q, y.gap]
    for item in trace.sweep(Gradient(sp.S.One, 1 - r_g)):
        found += [item.q, item.gap]
    at = {stream.q: sp.S.One, stream.gap: 1 - sp.nsimplify(rho)}
    return np.array(evaluator(tuple(trace.substitute_moments(item).xreplace(at) for item in found), ())())


def layer(kind, deviation, **more):
    strength = sp.nsimplify(deviation) / WIDTH
    return kind(WIDTH, sp.Rational(1, WIDTH), KEYS, strength, strength, **more)


SHAPED = {
    "centred": (1.0, 0.3, 0.2, {}, False),
    "centred, large scores": (2.5, 0.3, 0.2, {}, False),
    "centred, dropout": (1.0, 0.5, 0.4, {"dropout": sp.Rational(1, 5), "value_bias": sp.Rational(1, 2)}, False),
    "shaped": (1.0, 0.4, 0.3, {"identity": sp.Rational(1, 2), "temperature": sp.Rational(1, 2), "heads": 2}, False),
    "partly centred": (1.5, 0.2, 0.4, {"identity": -sp.Rational(1, 3), "centre": sp.Rational(1, 2)}, False),
    "centred after a norm": (2.0, 0.3, 0.2, {}, True),
    "shaped after a norm": (2.0, 0.2, 0.3, {"identity": sp.Rational(1, 2), "centre": sp.Rational(3, 4)}, True),
}


@pytest.mark.parametrize("name", SHAPED)
def test_shaped_attention_is_its_sampler(name):
    deviation, rho, rho_g, more, normed = SHAPED[name]
    layers = (*((RMSNorm(finite=True),) * normed), layer(ShapedAttention, deviation, **more))
    measured, error = simulated(layers, rho, rho_g, 2000, 11)
    theory = predicted(layers, rho, rho_g)
    # Neglected: second order in 1/d_k + 2/d, which is 0.073 here.
    assert np.all(abs(theory - measured) < 4 * error + (1 / KEYS + 2 / WIDTH) ** 2 * (1 + deviation**2 / 2) * abs(measured)), (
        theory / measured - 1, error / measured
    )


NORMED = {
    "small scores": (0.3, 0.2, {"norm": RMSNorm(sp.Rational(1, 2), finite=True)}, False),
    "independent": (0.0, 0.2, {"norm": RMSNorm(2, finite=True)}, False),
    "LayerNorm, dropout": (0.3, 0.2, {"norm": LayerNorm(2, finite=True), "dropout": sp.Rational(1, 5)}, False),
    "dropout of values with a bias": (0.3, 0.2, {"norm": RMSNorm(1, finite=True), "dropout": sp.Rational(2, 5),
                                                 "value_bias": 2}, False),
    "large scores, heads": (0.2, 0.3, {"norm": RMSNorm(3, finite=True), "temperature": sp.Rational(3, 4)}, False),
    "after a norm": (0.3, 0.0, {"norm": RMSNorm(2, finite=True)}, True),
}


@pytest.mark.parametrize("name", NORMED)
def test_normalised_queries_and_keys_are_their_sampler(name):
    rho, rho_g, more, normed = NORMED[name]
    layers = (*((RMSNorm(finite=True),) * normed), layer(QueryKeyNormAttention, 1, **more))
    measured, error = simulated(layers, rho, rho_g, 2000, 12)
    theory = predicted(layers, rho, rho_g)
    # Neglected: second order in 1/d_k + 2/d = 0.073, with a coefficient of the order of the score variance.
    size = float(more["norm"].gain2) ** 2
    order = (1 / KEYS + 2 / WIDTH) ** 2 * (1 + size)
    assert np.all(abs(theory - measured) < 4 * error + order * abs(measured)), (theory / measured - 1, error / measured)


def test_normalised_scores_do_not_depend_on_the_size_of_anything():
    x = Signal(q=sp.S.One, gap=sp.Rational(3, 5), tokens=sp.Integer(16), width=sp.Integer(64), gaussian=True)
    large = x.replace(q=sp.Integer(10**6), gap=sp.Rational(3, 5) * 10**6)
    one = QueryKeyNormAttention(64, sp.Rational(1, 64), 32)
    other = QueryKeyNormAttention(64, sp.Rational(1, 64), 32, sp.Rational(1, 50), 7)
    assert one.score_variance(x) == other.score_variance(large)
    assert value(other.forward(large).q) == pytest.approx(1e6 * value(one.forward(x).q), rel=1e-12)
    # The gradient of tokens through queries and keys falls with their size, that through values does not.
    g = Gradient(sp.S.One, sp.S.One)
    through = [value(item.backward(g, y)[0].q - item._value_path(g, y).q - item._cross(g, y).q) for item, y in
               ((one, x), (other, large))]
    assert through[0] == pytest.approx(through[1], rel=1e-9)


def test_a_wide_key_recovers_attention_at_the_same_scores():
    """Sizes of queries and keys do not fluctuate at large widths: normalising them changes nothing forward."""
    width = sp.Integer(10**9)
    x = Signal(q=sp.S.One, gap=sp.Rational(7, 10), tokens=sp.Integer(20), width=width, gaussian=True)
    plain = Attention(width, 1 / width, width, 1 / width, 1 / width)
    normed = QueryKeyNormAttention(width, 1 / width, width)
    for name in ("own", "mean", "row_gap", "square", "joint"):
        assert value(normed.moment(name, x)) == pytest.approx(value(plain.moment(name, x)), rel=1e-6), name


def test_centred_attention_keeps_its_digits_near_collapse():
    results = []
    for exponent in (6, 14):
        gap = sp.Rational(1, 10**exponent)
        x = Signal(q=sp.S.One, gap=gap, tokens=sp.Integer(16), width=sp.Integer(64), gaussian=True)
        y = layer(ShapedAttention, 1).forward(x.replace(width=sp.Integer(WIDTH)))
        results.append((value(y.q) / float(gap) ** 2, value(y.gap) / float(gap) ** 3))
    # Every power of the gap but the leading one is gone.
    assert results[1] == pytest.approx(results[0], rel=1e-5)


def test_uniform_weights_leave_the_identity_and_the_mean():
    x = Signal(q=symbols.q, gap=symbols.gap, tokens=symbols.n, width=symbols.d, gaussian=True)
    g = Gradient(symbols.s2, symbols.s2 * (1 - symbols.r_g))
    uniform = UniformAttention(symbols.d, symbols.sigma_v2)
    softmax = ShapedAttention(symbols.d, symbols.sigma_v2, centre=0)
    assert compare(softmax.forward(x).q, uniform.forward(x).q).equal and softmax.forward(x).gap == 0
    assert compare(softmax.backward(g, x)[0].q, uniform.backward(g, x)[0].q).equal
    identity = ShapedAttention(symbols.d, symbols.sigma_v2, identity=symbols.alpha_1)
    gain = symbols.d * symbols.sigma_v2 * symbols.alpha_1**2
    y, (back,) = identity.forward(x), identity.backward(g, x)
    assert [compare(one, gain * other).equal for one, other in (
        (y.q, x.q), (y.gap, x.gap), (back.q, g.q), (back.gap, g.gap)
    )] == [True] * 4


def test_a_single_token():
    x = Signal(q=symbols.q, gap=sp.S.Zero, tokens=sp.S.One, width=symbols.d, gaussian=True)
    g = Gradient(symbols.s2, sp.S.Zero)
    shaped = ShapedAttention(symbols.d, 1 / symbols.d, identity=symbols.alpha_1, centre=sp.Rational(1, 3))
    factor = (symbols.alpha_1 + sp.Rational(2, 3)) ** 2
    assert compare(shaped.forward(x).q, factor * symbols.q).equal
    assert compare(shaped.backward(g, x)[0].q, factor * symbols.s2).equal
    normed = QueryKeyNormAttention(symbols.d, 1 / symbols.d, symbols.d_k)
    assert normed.forward(x).q == symbols.q and normed.backward(g, x)[0] == g
    assert normed.weight_gradients(g, x).query == normed.weight_gradients(g, x).key == 0


def test_refusals():
    for more in ({"query_bias": 1}, {"key_bias": 1}, {"query_variance": 0}, {"key_width": 2}, {"norm": RMSNorm()}):
        with pytest.raises(InputError, match=next(iter(more))):
            QueryKeyNormAttention(**{"width": 8, "value_variance": 1, "key_width": 4, **more})
