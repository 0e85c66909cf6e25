"""Every component against its own sampler, forward and backward. New components are covered without an edit here."""

import numpy as np
import pytest
import sympy as sp

from symprop.components import COMPONENTS, PairState
from symprop.core import symbols
from symprop.core.errors import SympropError
from symprop.core.signal import Gradient, Signal

SIZES = {symbols.n: 5, symbols.d: 7, symbols.d_o: 6, symbols.d_k: 4, symbols.d_F: 9}
VALUES = {
    **SIZES,
    symbols.sigma_w2: 0.3,
    symbols.sigma_v2: 0.2,
    symbols.sigma_k2: 0.15,
    symbols.sigma_x2: 0.4,
    symbols.alpha_1: 0.8,
    symbols.alpha_2: -1.3,
}
DRAWS = 40_000
CASES = [pytest.param(example, id=example.describe()) for component in COMPONENTS for example in component.examples()]


def moments(x):
    """(q, gap) of arrays of shape (..., tokens, width), averaged over tokens, pairs and coordinates."""
    tokens = x.shape[-2]
    q = (x**2).mean(axis=(-2, -1))
    common = (x.mean(axis=-2) ** 2).mean(axis=-1)
    gap = (q - common) * tokens / (tokens - 1)
    return q, gap


def numbers(expression):
    return float(sp.sympify(expression).subs({key: sp.nsimplify(value) for key, value in VALUES.items()}))


def given(rng, draws, fresh):
    """Tokens of the streams of a component: the first is fixed, a branch is drawn anew with zero mean."""
    tokens, width = SIZES[symbols.n], SIZES[symbols.d]
    fixed = rng.standard_normal((1, tokens, width)) + 0.5 * rng.standard_normal((1, 1, width))
    x = np.repeat(fixed, draws, axis=0)
    return x * rng.choice([-1.0, 1.0], size=(draws, 1, 1)) if fresh else x


def signal_of(x, fresh):
    q, gap = (float(moment.mean()) for moment in moments(x))
    return Signal(
        q=sp.Float(q, 20), gap=sp.Float(gap, 20), tokens=symbols.n, width=symbols.d, fresh=fresh, gaussian=True
    )


def agrees(predicted, samples, neglected):
    error = samples.std(ddof=1) / np.sqrt(len(samples))
    assert abs(samples.mean() - predicted) <= 4 * error + 1e-12 * abs(predicted) + neglected


@pytest.mark.parametrize("component", CASES)
def test_forward_moments_are_those_of_the_sampler(component):
    rng = np.random.default_rng(1)
    inputs = [given(rng, DRAWS, fresh=index > 0) for index in range(component.inputs)]
    signals = [signal_of(x, fresh=index > 0) for index, x in enumerate(inputs)]
    theory = component.forward(*signals)
    neglected = numbers(component.neglected_size(*signals) * theory.q)
    output, _ = component.sample(*inputs, rng=np.random.default_rng(2), values=VALUES)
    q, gap = moments(output)
    agrees(numbers(theory.q), q, neglected)
    agrees(numbers(theory.gap), gap, neglected)
    assert output.shape[-1] == numbers(theory.width)


@pytest.mark.parametrize("component", CASES)
def test_backward_moments_are_those_of_the_sampler(component):
    rng = np.random.default_rng(3)
    inputs = [given(rng, DRAWS, fresh=index > 0) for index in range(component.inputs)]
    output, vjp = component.sample(*inputs, rng=np.random.default_rng(4), values=VALUES)
    g = np.broadcast_to(rng.standard_normal(output.shape[1:]) + 0.4, output.shape)
    gq, ggap = (float(moment.mean()) for moment in moments(g))
    signals = [signal_of(x, fresh=index > 0) for index, x in enumerate(inputs)]
    predicted = component.backward(Gradient(sp.Float(gq, 20), sp.Float(ggap, 20)), *signals)
    for gradient, measured in zip(predicted, vjp(g), strict=True):
        q, gap = moments(measured)
        neglected = numbers(component.neglected_size(*signals) * gradient.q)
        agrees(numbers(gradient.q), q, neglected)
        agrees(numbers(gradient.gap), gap, neglected)


@pytest.mark.parametrize("component", CASES)
def test_vjp_is_the_derivative_of_the_sampler(component):
    rng = np.random.default_rng(5)
    inputs = [given(rng, 3, fresh=index > 0) for index in range(component.inputs)]
    output, vjp = component.sample(*inputs, rng=np.random.default_rng(6), values=VALUES)
    g = rng.standard_normal(output.shape)
    step = 1e-4
    for index, pulled in enumerate(vjp(g)):
        direction = rng.standard_normal(inputs[index].shape)
        moved = []
        for sign in (1, -1):
            shifted = [x + sign * step * direction if k == index else x for k, x in enumerate(inputs)]
            moved.append(component.sample(*shifted, rng=np.random.default_rng(6), values=VALUES)[0])
        change = (g * (moved[0] - moved[1])).sum() / (2 * step)
        # Central differences: error of order step^2 from the third derivative and rounding/step.
        assert change == pytest.approx((pulled * direction).sum(), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("component", CASES)
def test_pair_rule_reduces_to_the_exchangeable_map(component):
    q, gap = sp.symbols("q_t gap_t", positive=True)
    signal = Signal(q=q, gap=gap, tokens=symbols.n, width=symbols.d, fresh=True)
    forward = component.forward(*[signal] * component.inputs)
    state = PairState(signal.p, signal.common, signal.width)
    off_diagonal = component.pair(*[state] * component.inputs)
    assert sp.simplify(off_diagonal.entry - forward.p) == 0
    assert sp.simplify(off_diagonal.average - forward.common) == 0


@pytest.mark.parametrize("component", CASES)
def test_states_what_it_is(component):
    assert ".. math::" in component.__doc__ or ":math:" in component.__doc__
    assert component.rule and component.reason and component.sources and component.assumptions
    with pytest.raises(SympropError):
        component.sample(*[np.zeros((1, 2, 3))] * component.inputs, rng=np.random.default_rng(0), values={})
