"""Activations on coordinates that have a mean."""

import pytest
import sympy as sp

from symprop.components import Elementwise, PairState
from symprop.core.signal import Signal
from symprop.core.symbols import d
from symprop.functions.activation import Gelu, SquaredRelu


@pytest.mark.parametrize("activation", [Gelu(), SquaredRelu()], ids=lambda item: item.name)
def test_an_entry_of_the_gram_matrix_is_that_of_exchangeable_tokens(activation):
    component = Elementwise(activation)
    x = Signal(
        q=sp.Rational(9, 5), gap=sp.Rational(4, 5), tokens=sp.Integer(8), width=d, mean=sp.Rational(7, 10), gaussian=True
    )
    after, pair = component.forward(x), component.pair(PairState.of(x))
    for found, expected in ((pair.entry, after.p), (pair.left, after.q), (pair.mean, after.mean)):
        assert abs(sp.N(found - expected, 20)) < 1e-15
