"""Activations of the feed-forward block, by name."""

from __future__ import annotations

from collections.abc import Mapping

from symprop.architectures.entries import ACTIVATION_NAMES
from symprop.functions.activation import Absolute, Activation, Erf, Gelu, Identity, Relu, Sine, SquaredRelu
from symprop.functions.logistic import Sigmoid, Silu, Tanh
from symprop.functions.quadrature_activation import GeluTanh

ACTIVATIONS: Mapping[str, Activation] = dict(zip(
    ACTIVATION_NAMES,
    (Relu(), Gelu(), GeluTanh(), Silu(), SquaredRelu(), Absolute(), Erf(), Sine(), Tanh(), Sigmoid(), Identity()),
    strict=True,
))  # fmt: skip
"""Activations of the feed-forward block, by name."""
