"""Every component against its own sampler, forward and backward. New components are covered without an edit here."""

import re
from dataclasses import fields

import numpy as np
import pytest
import sympy as sp

from symprop.components import COMPONENTS, GatedUnit, PairState
from symprop.core import symbols
from symprop.core.errors import RefusedError, SympropError
from symprop.core.signal import Gradient, Signal
from symprop.functions.logistic import Sigmoid, Silu
from symprop.functions.softmax_layer import LayerMoment
from symprop.functions.softmax_values import value
from symprop.functions.table_sum import sums_in_double

SIZES = {symbols.n: 5, symbols.d: 7, symbols.d_o: 6, symbols.d_k: 4, symbols.d_F: 9}
VALUES = {
    **SIZES,
    symbols.sigma_w2: 0.3,
    symbols.sigma_v2: 0.2,
    symbols.sigma_k2: 0.15,
    symbols.sigma_x2: 0.4,
    symbols.sigma_up2: 0.35,
    symbols.alpha_1: 0.8,
    symbols.alpha_2: -1.3,
    symbols.alpha_t: 0.7,
    symbols.P: 0.3,
    symbols.sigma_t2: 0.6,
    symbols.sigma_p2: 0.25,
    symbols.sigma_s2: 0.45,
    symbols.C_rep: 0.2,
    symbols.V: 11,
    symbols.zipf: 0.8,
}
DRAWS = 40_000


def _derives_sums(component):
    """Whether gradients of a component derive sums over a table in their mean, which takes ten seconds."""
    return isinstance(component, GatedUnit) and component.gate_bias != 0 and isinstance(component.activation, (Sigmoid, Silu))


CASES = [pytest.param(example, id=example.describe()) for component in COMPONENTS for example in component.examples()]
BACKWARD = [
    pytest.param(*case.values, id=case.id, marks=pytest.mark.slow) if _derives_sums(*case.values) else case for case in CASES
]


def moments(x):
    """(q, gap) of arrays of shape (..., tokens, width), averaged over tokens, pairs and coordinates."""
    tokens = x.shape[-2]
    q = (x**2).mean(axis=(-2, -1))
    common = (x.mean(axis=-2) ** 2).mean(axis=-1)
    gap = (q - common) * tokens / (tokens - 1)
    return q, gap


def numbers(expression):
    exact = {key: sp.nsimplify(value) for key, value in VALUES.items()}
    found = sums_in_double(sp.sympify(expression).xreplace(exact))
    # Digits of the moments of a softmax layer cost minutes, and doubles are enough beside a simulation.
    return value(found) if found.has(LayerMoment) else float(sp.N(found, 15))


def exchangeable(rng, shape, mean, common, gap):
    """Gaussian tokens with covariance ``common`` between tokens and variance ``common + gap``."""
    draws, _, width = shape
    return mean + common**0.5 * rng.standard_normal((draws, 1, width)) + gap**0.5 * rng.standard_normal(shape)


def fixed_tokens(rng, mean, rho=0.2, q=1.1):
    """Tokens of equal norm and equal inner products, whose coordinates have exactly that mean."""
    tokens, width = SIZES[symbols.n], SIZES[symbols.d]
    # An orthonormal frame whose first vector is constant over coordinates: the others have zero mean.
    start = np.column_stack([np.ones(width), rng.standard_normal((width, tokens))])
    frame = np.linalg.qr(start)[0][:, 1:].T
    values, vectors = np.linalg.eigh((1 - rho) * np.eye(tokens) + rho)
    return mean + np.sqrt(q * width) * (vectors * np.sqrt(values)) @ vectors.T @ frame


def given(component, rng, draws, mean):
    """Inputs with their signals: Gaussian ones where a component needs them, else fixed tokens.

    Of two inputs the second is a branch: drawn anew with zero mean.
    """
    shape = (draws, SIZES[symbols.n], SIZES[symbols.d])
    inputs, signals = [], []
    for index in range(component.inputs):
        fresh = index > 0
        if component.gaussian_input:
            common, gap = 0.5, 0.8
            x = exchangeable(rng, shape, mean, common, gap)
            q = sp.nsimplify(common + gap) + sp.nsimplify(mean) ** 2
            signal = Signal(q=q, gap=sp.nsimplify(gap), tokens=symbols.n, width=symbols.d, mean=sp.nsimplify(mean))
        else:
            x = np.repeat(fixed_tokens(rng, mean)[None], draws, axis=0)
            x = x * rng.choice([-1.0, 1.0], size=(draws, 1, 1)) if fresh else x
            q, gap = (sp.Float(moment.mean(), 20) for moment in moments(x))
            coordinate = sp.S.Zero if fresh else sp.nsimplify(mean)
            signal = Signal(q=q, gap=gap, tokens=symbols.n, width=symbols.d, mean=coordinate)
        inputs.append(x)
        signals.append(signal.replace(fresh=fresh, gaussian=True))
    return inputs, signals


def sampled(component, inputs, seed):
    """The output and its vector-Jacobian product; a component without inputs is told how often to draw."""
    more = {} if component.inputs else {"draws": DRAWS}
    return component.sample(*inputs, rng=np.random.default_rng(seed), values=VALUES, **more)


def agrees(predicted, samples, neglected):
    error = samples.std(ddof=1) / np.sqrt(len(samples))
    assert abs(samples.mean() - predicted) <= 4 * error + 1e-12 * max(1, abs(predicted)) + neglected


def means(component):
    return (0.0, 0.6) if component.takes_mean else (0.0,)


@pytest.mark.parametrize("component", CASES)
def test_forward_moments_are_those_of_the_sampler(component):
    for mean in means(component):
        inputs, signals = given(component, np.random.default_rng(1), DRAWS, mean)
        theory = component.forward(*signals)
        neglected = numbers(component.neglected_size(*signals) * theory.q)
        output, _ = sampled(component, inputs, 2)
        q, gap = moments(output)
        agrees(numbers(theory.q), q, neglected)
        agrees(numbers(theory.gap), gap, neglected)
        agrees(numbers(theory.mean), output.mean(axis=(1, 2)), neglected)
        assert output.shape[-1] == numbers(theory.width)


@pytest.mark.parametrize("component", BACKWARD)
def test_backward_moments_are_those_of_the_sampler(component):
    for mean in means(component):
        rng = np.random.default_rng(3)
        inputs, signals = given(component, rng, DRAWS, mean)
        output, vjp = sampled(component, inputs, 4)
        common, gap = 0.5, 0.7
        g = exchangeable(rng, output.shape, 0.0, common, gap)
        incoming = Gradient(sp.nsimplify(common + gap), sp.nsimplify(gap))
        for gradient, measured in zip(component.backward(incoming, *signals), vjp(g), strict=True):
            q, change = moments(measured)
            neglected = numbers(component.neglected_size(*signals) * gradient.q)
            agrees(numbers(gradient.q), q, neglected)
            agrees(numbers(gradient.gap), change, neglected)


@pytest.mark.parametrize("component", CASES)
def test_a_signal_without_moments_is_refused(component):
    _, signals = given(component, np.random.default_rng(1), 1, 0.0)
    if component.inputs and component.gaussian_input:
        with pytest.raises(RefusedError, match="not Gaussian"):
            component.forward(*(signal.replace(gaussian=False) for signal in signals))
    if not component.takes_mean:
        with pytest.raises(RefusedError, match="zero coordinate mean"):
            component.forward(*(signal.replace(mean=sp.Rational(1, 3)) for signal in signals))


@pytest.mark.parametrize("component", CASES)
def test_vjp_is_the_derivative_of_the_sampler_by_torch_autograd(component, torch_gradients):
    rng = np.random.default_rng(5)
    inputs, _ = given(component, rng, 3, 0.0)

    def sample(*x):
        return component.sample(*x, rng=np.random.default_rng(6), values=VALUES)

    output, vjp = sample(*inputs)
    g = rng.standard_normal(output.shape)
    pulled = vjp(g)
    assert len(pulled) == component.inputs
    if component.inputs:
        for mine, theirs in zip(pulled, torch_gradients(sample, inputs, g), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-12 * np.abs(theirs).max())


@pytest.mark.parametrize("component", CASES)
def test_pair_rule_reduces_to_the_exchangeable_map(component):
    q, gap = sp.symbols("q_t gap_t", positive=True)
    signal = Signal(q=q, gap=gap, tokens=symbols.n, width=symbols.d, fresh=True, gaussian=True)
    forward = component.forward(*[signal] * component.inputs)
    states = [PairState.of(signal)] * component.inputs
    if not component.maps_entries:
        with pytest.raises(RefusedError, match=re.escape(component.describe())):
            component.pair(*states)
        return
    off_diagonal = component.pair(*states)
    point = {q: sp.Rational(13, 10), gap: sp.Rational(4, 10)}
    values = {key: sp.nsimplify(value) for key, value in VALUES.items()}

    def same(one, other):
        # The two forms of a kernel differ by identities that SymPy need not see: 30 digits decide.
        first, second = (sp.N(item.xreplace(values).xreplace(point), 30, maxn=200) for item in (one, other))
        assert abs(first - second) < sp.Float("1e-27"), first - second

    same(off_diagonal.entry, forward.p)
    if off_diagonal.average is not None:
        same(off_diagonal.average, forward.common)
    if off_diagonal.left is not None:
        same(off_diagonal.left, forward.q)
        same(off_diagonal.right, forward.q)


@pytest.mark.parametrize("component", CASES)
def test_states_what_it_is(component):
    assert ".. math::" in component.__doc__ or ":math:" in component.__doc__
    assert component.rule and component.reason and component.sources and component.assumptions
    parameters = [getattr(component, item.name) for item in fields(component)]
    if any(getattr(item, "free_symbols", None) for item in parameters):
        with pytest.raises(SympropError):
            component.sample(*[np.zeros((1, 2, 3))] * component.inputs, rng=np.random.default_rng(0), values={})
