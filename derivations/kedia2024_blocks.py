"""The blocks of Kedia et al. 2024, built from components."""

from __future__ import annotations

import sympy as sp

from symprop.components import Attention, Dropout, Elementwise, Linear, UniformAttention
from symprop.core.signal import Gradient
from symprop.core.symbols import (
    P,
    beta,
    d,
    d_F,
    d_k,
    lam,
    r_g,
    s2,
    sigma_down2,
    sigma_k2,
    sigma_o2,
    sigma_q2,
    sigma_up2,
    sigma_v2,
)
from symprop.functions.activation import Activation, Relu
from symprop.network import Block, pre_norm, sequential, token_input

X = token_input(gaussian=True)
SHIFTED = X.replace(mean=sp.Symbol(f"mean_{X.label}", real=True))
"""The same input with a coordinate mean."""
INCOMING = Gradient(s2, s2 * (1 - r_g))


def feed_forward(activation: Activation | None = None, dropout: sp.Expr = P) -> Block:
    """Linear, activation, linear, dropout."""
    return sequential(
        Linear(d_F, sigma_up2), Elementwise(activation or Relu()), Linear(d, sigma_down2), Dropout(dropout)
    )


def attention(dropout: sp.Expr = P) -> Block:
    """Attention with uniform weights, the output layer, dropout."""
    return sequential(UniformAttention(d, sigma_v2), Linear(d, sigma_o2), Dropout(dropout))


def scored_attention(dropout: sp.Expr | int = P) -> Attention:
    """Attention with its softmax and dropout on the weights, before the output layer."""
    return Attention(d, sigma_v2, d_k, sigma_q2, sigma_k2, dropout)


def scaled(branch: Block) -> Block:
    """lambda x + beta branch(norm(x))."""
    return pre_norm(branch, beta, lam)
