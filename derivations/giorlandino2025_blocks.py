"""The blocks of Giorlandino and Goldt 2025: a skip of given strength around softmax attention and around a ReLU network.

Skips multiply the stream, branches are added as they are. Scores of unit tokens have the variance beta^2 log n; value, first
and second feed-forward weights have gains sigma_v^2, sigma_w^2, sigma_w^2, and all three a bias of variance sigma_b^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import sympy as sp

from symprop.codegen.recursion import Recursion
from symprop.components import Attention, Elementwise, LayerNorm, Linear
from symprop.core.signal import Signal
from symprop.core.symbols import L, alpha_mlp, alpha_sa, beta_a, d, d_k, gain_v, gain_w, n, q_0, rho, sigma_b2
from symprop.depth.iterate import LayerMap, layer_map
from symprop.functions.activation import Activation, Relu
from symprop.functions.softmax_closures import Closure
from symprop.network import Block, Trace, residual, sequential, trace_of

GAP = sp.Symbol("gap_X", nonnegative=True)
UNIT = Signal(q=sp.S.One, gap=GAP, tokens=n, width=d, gaussian=True)
"""Tokens behind a norm."""
STREAM = UNIT.replace(q=sp.Symbol("q_X", positive=True))
"""Tokens of any size."""


def attention(*, scored: bool = True) -> Attention:
    """Softmax attention, or with all weights equal."""
    scale = beta_a * sp.sqrt(sp.log(n)) / d if scored else sp.S.Zero
    return Attention(d, gain_v / d, d_k, scale, scale, bias_variance=sigma_b2)


def feed_forward(activation: Activation) -> Block:
    """W_2 phi(W_1 x + b_1) + b_2."""
    return sequential(Linear(d, gain_w / d, sigma_b2), Elementwise(activation), Linear(d, gain_w / d, sigma_b2))


def block(placement: str, activation: Activation | None = None, *, scored: bool = True) -> Block:
    """A block whose norms are at ``placement``: ``post``, ``pre`` or ``none``."""
    halves: list[Block] = []
    for branch, skip in ((attention(scored=scored), alpha_sa), (feed_forward(activation or Relu()), alpha_mlp)):
        inside = sequential(LayerNorm(), branch) if placement == "pre" else branch
        halves.append(residual(inside, 1, skip))
        halves += [LayerNorm()] if placement == "post" else []
    return sequential(*halves)


@lru_cache(maxsize=8)
def traced(placement: str) -> Trace:
    """The ReLU block, step by step."""
    return trace_of(block(placement), UNIT if placement == "post" else STREAM)


def wide(expression: sp.Expr) -> sp.Expr:
    """Infinitely wide tokens and keys at a given number of tokens."""
    narrow = sp.Dummy("narrow")
    return sp.sympify(expression).subs({d: 1 / narrow, d_k: 1 / narrow}).subs(narrow, 0)


@lru_cache(maxsize=16)
def mapped(placement: str, closure: Closure | None = None) -> LayerMap:
    """The map of a block at infinite width, its softmax moments closed or kept."""
    updates = layer_map(traced(placement), backward=False).updates
    put = {key: wide(value) for key, value in updates.items()}
    return LayerMap(put if closure is None else {key: closure(value) for key, value in put.items()})


@dataclass(frozen=True)
class Depth:
    """A block over depth: its recursion and the end of it."""

    recursion: Recursion
    second: sp.Expr
    gap: sp.Expr

    @property
    def arguments(self) -> tuple[sp.Symbol, ...]:
        """Every parameter, in the order of the paper."""
        order = (rho, q_0, L, n, beta_a, gain_v, gain_w, sigma_b2, alpha_sa, alpha_mlp)
        return tuple(symbol for symbol in order if symbol in self.recursion.free_symbols)


def over_depth(placement: str, closure: Closure) -> Depth:
    """Tokens of second moment q_0 (1 behind a norm) and overlap rho, after L blocks."""
    layer = mapped(placement, closure)
    if placement == "post":
        return Depth(Recursion.of(layer, {GAP: 1 - rho}, settled=GAP), sp.S.One, GAP)
    start = {STREAM.q: q_0, GAP: q_0 * (1 - rho)}
    return Depth(Recursion.of(layer, start, settled=GAP / STREAM.q), STREAM.q, GAP)
