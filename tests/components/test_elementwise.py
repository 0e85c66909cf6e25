"""Activations on coordinates that have a mean."""

import math

import numpy as np
import pytest
import sympy as sp

from symprop.components import DynamicTanh, Elementwise, GatedUnit, LayerNorm, LayerScale, Linear, PairState, RMSNorm
from symprop.core.signal import Signal
from symprop.core.symbols import d
from symprop.functions.activation import Erf, Gelu, Relu, SquaredRelu
from symprop.network import sequential, token_input, trace_of


@pytest.mark.parametrize(
    "activation", [pytest.param(Gelu(), marks=pytest.mark.slow), SquaredRelu()], ids=lambda item: item.name
)
def test_an_entry_of_the_gram_matrix_is_that_of_exchangeable_tokens(activation):
    component = Elementwise(activation)
    x = Signal(
        q=sp.Rational(9, 5), gap=sp.Rational(4, 5), tokens=sp.Integer(8), width=d, mean=sp.Rational(7, 10), gaussian=True
    )
    after, pair = component.forward(x), component.pair(PairState.of(x))
    for found, expected in ((pair.entry, after.p), (pair.left, after.q), (pair.left_mean, after.mean)):
        assert abs(sp.N(found - expected, 20)) < 1e-15


def by_quadrature(first, second, rho, function):
    """Expectations over Gaussian tokens of these deviations: of function(x) function(y), and of each."""
    x, wx = np.polynomial.legendre.leggauss(200)
    x, wx = 9 * x, 9 * wx * np.exp(-81 * x**2 / 2) / np.sqrt(2 * np.pi)
    one = function(first * x[:, None] + 0 * x)
    other = function(second * (rho * x[:, None] + np.sqrt(1 - rho**2) * x))
    return [float(wx @ values @ wx) for values in (one * other, one, other, one**2, other**2)]


@pytest.mark.parametrize(
    ("make", "normalised"),
    [(lambda: LayerNorm(), True), (lambda: RMSNorm(), False), (lambda: sequential(RMSNorm(), LayerNorm()), True),
     (lambda: sequential(LayerScale(3), LayerNorm()), True)],
)  # fmt: skip
def test_tokens_of_unequal_size_have_means_of_their_own(make, normalised):
    trace = trace_of(sequential(Linear(d, 1 / d), Elementwise(Gelu()), make()), token_input(2))
    found = trace.pair(PairState(sp.Rational(3, 2), None, d, sp.Integer(1), sp.Integer(9)))
    cross, *means, left, right = by_quadrature(1, 3, 0.5, Gelu().apply)
    shift = means if normalised else [0, 0]
    expected = (cross - shift[0] * shift[1]) / ((left - shift[0] ** 2) * (right - shift[1] ** 2)) ** 0.5
    assert float(sp.N(found.entry)) == pytest.approx(expected, rel=1e-9)
    assert (found.left_mean == 0) == (found.right_mean == 0) == normalised
    if not normalised:
        assert float(sp.N(found.right_mean)) == pytest.approx(means[1] / right**0.5, rel=1e-9)


def test_unequal_means_go_through_activations_and_units():
    apart = PairState(sp.Rational(3, 2), None, d, sp.Integer(1), sp.Integer(9))
    relu = Elementwise(Relu()).pair(apart)
    assert relu.right_mean == 3 * relu.left_mean
    gated = GatedUnit(d, 1 / d, 1 / d, Relu(), up_bias=1).pair(apart)
    assert sp.simplify(gated.right_mean - 3 * gated.left_mean) == 0 != gated.left_mean
    unlike = PairState(sp.Integer(1), None, d, sp.Integer(2), sp.Integer(5), sp.S.One, sp.S.Zero)
    square = Elementwise(SquaredRelu()).pair(unlike)
    assert square.right_mean == sp.Rational(5, 2) and float(sp.N(square.left_mean)) == pytest.approx(1.92466, rel=1e-5)
    shifted = DynamicTanh(Erf(), 1, 1, 2).pair(unlike)
    assert shifted.right_mean == 2 and float(sp.N(shifted.left_mean)) == pytest.approx(2 + math.erf(1 / 3**0.5))
