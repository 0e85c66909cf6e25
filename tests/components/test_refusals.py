"""What a component refuses: each limit of a parameter from both sides, and states that lack what a rule needs."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

from symprop.components import Attention, Dropout, Elementwise, Linear, UniformAttention
from symprop.components.base import PairState
from symprop.components.causal_attention import CausalAttention
from symprop.components.cross_attention import CrossAttention
from symprop.components.dyt import DynamicTanh
from symprop.components.gated import GatedUnit
from symprop.components.norm import LayerNorm, RMSNorm
from symprop.components.query_key_norm import QueryKeyNormAttention
from symprop.components.rotary_attention import RotaryAttention
from symprop.components.softmax import Softmax
from symprop.core.errors import InputError, RefusedError, UnknownNameError
from symprop.core.signal import Gradient, Signal
from symprop.core.symbols import d
from symprop.functions.activation import Gelu
from symprop.functions.generic_activation import GenericActivation
from symprop.functions.logistic import Tanh


def normed(norm, key_width):
    return QueryKeyNormAttention(4, 1, key_width, 1, 1, norm=norm)


@pytest.mark.parametrize(
    ("make", "good", "bad", "word"),
    [
        (lambda p: Attention(d, 1, dropout=p), (0, sp.Rational(99, 100)), (1, sp.Rational(-1, 100)), "dropout"),
        (lambda p: CausalAttention(d, 1, dropout=p), (0, sp.Rational(99, 100)), (1, sp.Rational(-1, 100)), "dropout"),
        (lambda p: Dropout(p), (0, sp.Rational(99, 100)), (1, sp.Rational(-1, 100)), "probability"),
        (lambda k: Attention(d, 1, heads=k), (1, 3), (0, -1, sp.Rational(1, 2)), "heads"),
        (lambda k: CausalAttention(d, 1, heads=k), (1, 3), (0, -1, sp.Rational(1, 2)), "heads"),
        (lambda k: Attention(d, 1, heads=6, key_heads=k), (1, 2, 6), (0, 4, 12), "key_heads"),
        (lambda k: RotaryAttention(4, 1, 8, 1, 1, rotated=k), (0, 2, 8), (-2, 3, 10), "rotated"),
        (lambda b: RotaryAttention(4, 1, 8, 1, 1, base=b), (sp.Rational(1, 10), 1), (0, -1), "base"),
        (lambda k: normed(RMSNorm(finite=True), k), (3,), (2,), "key_width"),
        (lambda k: normed(LayerNorm(finite=True), k), (4,), (3,), "key_width"),
        (lambda e: RMSNorm(epsilon=e, finite=True), (0,), (sp.Rational(1, 10**6),), "epsilon"),
        (lambda width: Linear(width, 1), (1, d), ("d",), "a number or a SymPy expression"),
    ],
)
def test_limits_of_parameters_are_refused_by_name(make, good, bad, word):
    for value in good:
        make(value)
    for value in bad:
        with pytest.raises(InputError, match=word):
            make(value)


@pytest.mark.parametrize(("norm", "lost"), [(RMSNorm, 0), (LayerNorm, 1)])
def test_a_finite_norm_refuses_widths_without_finite_moments(norm, lost):
    def tokens(width):
        return Signal(q=sp.S.One, gap=sp.S.Half, tokens=sp.Integer(4), width=sp.Integer(width), gaussian=True)

    layer, gradient = norm(finite=True), Gradient(sp.S.One, sp.Rational(1, 3))
    for width in (lost + 1, lost + 2):
        assert 0 < layer.forward(tokens(width)).gap.evalf() < 1
        with pytest.raises(RefusedError, match=f"{norm.__name__}.* of width {width}: .* is infinite; .* above {lost + 2}"):
            layer.backward(gradient, tokens(width))
        assert norm().backward(gradient, tokens(width))[0].q == 1
    assert layer.backward(gradient, tokens(lost + 3))[0].q == 2
    with pytest.raises(RefusedError, match=f"nothing is left .* above {lost}"):
        layer.forward(tokens(lost))


def test_a_level_that_does_not_exist():
    with pytest.raises(UnknownNameError, match="level"):
        Attention(d, 1, level="best")


@pytest.mark.parametrize("component", [Attention(6, 1, heads=4), CausalAttention(6, 1, heads=4)], ids=lambda item: item.rule)
def test_heads_divide_the_width_of_a_sampler(component):
    values, tokens = dict.fromkeys(sp.Tuple(component.key_width).free_symbols, 2.0), np.zeros((1, 2, 3))
    with pytest.raises(InputError, match="a divisor of the output width 6"):
        component.sample(tokens, rng=np.random.default_rng(0), values=values)


def test_a_sampler_names_the_value_that_it_misses():
    with pytest.raises(InputError, match="a number for d as well"):
        Linear(d, 1).sample(np.zeros((1, 2, 3)), rng=np.random.default_rng(0), values={})


@pytest.mark.parametrize(
    "component",
    [
        Elementwise(Gelu()),
        DynamicTanh(Tanh(), 1),
        GatedUnit(4, 1, 1, Gelu()),
        RMSNorm(),
        Attention(d, 1),
        CausalAttention(d, 1),
        Softmax(),
        UniformAttention(d, 1),
    ],
    ids=lambda item: type(item).__name__,
)
def test_an_entry_of_the_gram_matrix_alone_is_refused(component):
    x = sp.Symbol("x", positive=True)
    for sides in ({}, {"left": x}, {"right": x}):
        with pytest.raises(RefusedError):
            component.pair(PairState(x / 2, None, d, **sides))


def test_what_has_no_moments():
    x = Signal(q=sp.Integer(1), gap=sp.Rational(1, 2), tokens=sp.Integer(4), width=d, gaussian=True)
    with pytest.raises(RefusedError, match="got 1 signal"):
        CrossAttention(d, 1).forward(x)
    with pytest.raises(RefusedError, match="fixed norm"):
        CrossAttention(d, 1).forward(x, x.replace(fixed_norm=d))
    with pytest.raises(RefusedError, match="position"):
        RotaryAttention(d, 1, 8, 1, 1, causal=True).forward(x)
    with pytest.raises(RefusedError, match="zero mean only"):
        GatedUnit(4, 1, 1, GenericActivation(), gate_bias=1)


@pytest.mark.parametrize("layer", [Attention, CausalAttention])
@pytest.mark.parametrize(("norm", "least"), [(LayerNorm(), 3), (RMSNorm(), 2)])
def test_attention_needs_tokens_that_a_norm_leaves_a_direction(layer, norm, least):
    def after(width):
        tokens = Signal(q=sp.Integer(1), gap=sp.Rational(1, 2), tokens=sp.Integer(8), width=sp.Integer(width), gaussian=True)
        return layer(width, 1, width, sp.Rational(1, width), sp.Rational(1, width)).forward(norm.forward(tokens))

    assert after(least).gap.has(sp.Function)
    with pytest.raises(RefusedError, match="degrees of freedom"):
        after(least - 1)
