"""Laws that hold whatever the formula: over every component, at drawn moments, without an edit for a new one."""

import math
from itertools import pairwise

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from symprop import Linear, UniformAttention, named, residual, sequential, solve, stack
from symprop.components import COMPONENTS
from symprop.core import symbols
from symprop.core.signal import Gradient, Signal
from symprop.core.symbols import L, a_1, a_2, alpha_1, alpha_2, d
from symprop.functions.softmax_layer import LayerMoment
from symprop.functions.softmax_values import value
from symprop.functions.table_sum import sums_in_double

TOKENS, WIDTH = 5, 7
VALUES = {
    symbols.n: TOKENS, symbols.d: WIDTH, symbols.d_o: 6, symbols.d_k: 4, symbols.d_F: 9, symbols.sigma_w2: 0.3,
    symbols.sigma_v2: 0.2, symbols.sigma_k2: 0.15, symbols.sigma_x2: 0.4, symbols.sigma_up2: 0.35, symbols.alpha_1: 0.8,
    symbols.alpha_2: -1.3, symbols.alpha_t: 0.7, symbols.P: 0.3, symbols.sigma_t2: 0.6, symbols.sigma_p2: 0.25,
    symbols.sigma_s2: 0.45, symbols.C_rep: 0.2, symbols.V: 11, symbols.zipf: 0.8,
}  # fmt: skip
EXACT = {key: sp.nsimplify(number) for key, number in VALUES.items()}
EXAMPLES = [example for component in COMPONENTS for example in component.examples()]


def marks(example):
    """Digits of the moments of a softmax layer cost minutes and of a biased gate a quarter of one, of others a second."""
    return (pytest.mark.slow,) if "Attention" in type(example).__name__ or getattr(example, "gate_bias", 0) != 0 else ()


CASES = [pytest.param(example, id=example.describe(), marks=marks(example)) for example in EXAMPLES]
DRAWN = settings(max_examples=4, derandomize=True, deadline=None, database=None)
SIZES = st.sampled_from((0.01, 0.3, 1.0, 2.5))
# Token correlations from the least that TOKENS equal ones can have to equal tokens.
CORRELATIONS = st.sampled_from((-0.2, 0.0, 0.37, 0.9, 0.999999))
ROUNDING = 1e-9


def number(expression):
    found = sums_in_double(sp.sympify(expression).xreplace(EXACT))
    return value(found) if found.has(LayerMoment) else float(sp.N(found, 15))


def inputs(component, q, rho):
    """Gaussian inputs of zero mean; of two the second is a branch."""
    size, gap = sp.nsimplify(q), sp.nsimplify(q) * (1 - sp.nsimplify(rho))
    signal = Signal(q=size, gap=gap, tokens=symbols.n, width=symbols.d, gaussian=True, fresh=True)
    return [signal] * component.inputs


def are_second_moments(q, gap, slack=0.0):
    """Whether TOKENS exchangeable vectors can have them: 0 <= gap, and a token mean of nonnegative size."""
    room = slack + ROUNDING * abs(q)
    assert q >= -room and gap >= -room
    assert q - (1 - 1 / TOKENS) * gap >= -room
    assert abs(q - gap) <= q + room


@pytest.mark.parametrize("component", CASES)
@given(q=SIZES, rho=CORRELATIONS)
@DRAWN
def test_signals_are_those_of_vectors(component, q, rho):
    signals = inputs(component, q, rho)
    output = component.forward(*signals)
    size = number(output.q)
    are_second_moments(size, number(output.gap), number(component.neglected_size(*signals)) * size)


@pytest.mark.parametrize("component", CASES)
@given(q=SIZES, rho=CORRELATIONS, share=st.sampled_from((0.0, 0.4, 1.0, TOKENS / (TOKENS - 1))))
@DRAWN
def test_gradients_are_those_of_vectors(component, q, rho, share):
    signals = inputs(component, q, rho)
    incoming = Gradient(sp.Integer(2), 2 * sp.nsimplify(share))
    for gradient in component.backward(incoming, *signals):
        size = number(gradient.q)
        # Paths may cancel down to the rounding of the incoming gradient.
        slack = number(component.neglected_size(*signals)) * abs(size) + 1e-15 * number(incoming.q)
        are_second_moments(size, number(gradient.gap), slack)


@pytest.mark.parametrize("component", CASES)
def test_theory_scales_as_the_sampler_does(component):
    """Where the sampled layer is homogeneous of degree 0 or 1, its moments are."""
    rng = np.random.default_rng(0)
    x = [rng.standard_normal((2, TOKENS, WIDTH)) for _ in range(component.inputs)]
    if not x:
        return
    one, scaled = (component.sample(*(c * item for item in x), rng=np.random.default_rng(1), values=VALUES)[0] for c in (1, 3))
    degrees = [k for k in (0, 1) if np.allclose(scaled, 3.0**k * one, rtol=1e-12)]
    for k in degrees:
        first, second = (component.forward(*inputs(component, q, 0.3)) for q in (1.0, 9.0))
        for name in ("q", "gap"):
            before, after = number(getattr(first, name)), number(getattr(second, name))
            assert math.isclose(after, 9.0**k * before, rel_tol=1e-9), (k, name)


def blocks():
    attention = named(UniformAttention(d, 1 / d), "S")
    feed_forward = named(sequential(Linear(d, 1 / d), Linear(d, 1 / d)), "Y")
    return residual(attention, alpha_1), residual(feed_forward, alpha_2)


def moments(*body):
    found = solve(stack(sequential(*body), L))
    return found, (found.signal.q, found.signal.gap)


def test_independent_branches_of_a_commuting_kind_can_be_exchanged():
    """Both act linearly on the token mean and on what differs between tokens, so their order is no matter."""
    one, other = blocks()
    for first, second in zip(moments(one, other)[1], moments(other, one)[1], strict=True):
        drawn = map(sp.Rational, ("2/3", "5/7", "3", "4", "8/3", "7"))
        point = dict(zip(sorted((first - second).free_symbols, key=str), drawn, strict=False))
        assert abs(sp.N((first - second).xreplace(point), 30)) < sp.Float("1e-20")


def test_composition_is_associative():
    one, other = blocks()
    more = residual(named(Linear(d, 1 / d), "Z"), alpha_1)
    for first, second in zip(moments(sequential(one, other), more)[1], moments(one, sequential(other, more))[1], strict=True):
        assert sp.simplify(first - second) == 0


def test_limit_is_approached_at_the_rate_of_one_layer():
    """Doubling the depth halves the distance from the limit of weights that shrink with it."""
    network, (q, _) = moments(*blocks())
    limit = network.scaling_limit({alpha_1: sp.sqrt(a_1 / L), alpha_2: sp.sqrt(a_2 / L)}).signal.q
    finite = q.xreplace({alpha_1: sp.sqrt(a_1 / L), alpha_2: sp.sqrt(a_2 / L)})
    point = {network.input.q: sp.Rational(4, 3), network.input.gap: sp.Rational(1, 3), symbols.n: 5, a_1: 2, a_2: 1}
    end = sp.N(limit.subs(point), 40)
    errors = [sp.N(finite.subs({**point, L: depth}), 40) - end for depth in (10**4, 2 * 10**4, 4 * 10**4)]
    for before, after in pairwise(errors):
        assert abs(before / after - 2) < 1e-3
