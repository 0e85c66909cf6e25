"""Attention whose weights or queries and keys are changed, against its own sampler: centred, shaped, normalised."""

import math

import numpy as np
import pytest
import sympy as sp

from symprop.components import RMSNorm, ShapedAttention
from symprop.core.signal import Gradient
from symprop.functions.softmax_values import evaluator
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
