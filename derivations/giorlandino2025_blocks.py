"""The blocks of Giorlandino and Goldt 2025: a skip of given strength around softmax attention and around a ReLU network.

Skips multiply the stream, branches are added as they are. Scores of unit tokens have the variance beta^2 log n; value, first
and second feed-forward weights have gains sigma_v^2, sigma_w^2, sigma_w^2, and all three a bias of variance sigma_b^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import sympy as sp

from symprop.codegen.recursion import Recursion
from symprop.components import Attention, CausalAttention, Elementwise, LayerNorm, Linear, ShapedAttention
from symprop.core.signal import Signal, from_common
from symprop.core.symbols import L, alpha_mlp, alpha_sa, beta_a, d, d_k, gain_v, gain_w, n, q_0, rho, sigma_b2
from symprop.depth.common import common_map
from symprop.functions.activation import Activation, Relu
from symprop.functions.softmax_closures import Closure
from symprop.functions.softmax_layer import LayerMoment
from symprop.functions.softmax_overlap import Participation, RowGap, SoftmaxSlope
from symprop.network import Block, Trace, residual, sequential, trace_of

GAP = sp.Symbol("gap_X", nonnegative=True)
UNIT = Signal(q=sp.S.One, gap=GAP, tokens=n, width=d, gaussian=True)
"""Tokens behind a norm."""
STREAM = UNIT.replace(q=sp.Symbol("q_X", positive=True))
"""Tokens of any size."""
COMMON = sp.Symbol("common_X", nonnegative=True)
"""Second moment of the mean of all tokens."""


SCALE = beta_a * sp.sqrt(sp.log(n)) / d
"""Variance of the entries of queries and keys."""


def attention(*, scored: bool = True, centred: bool = False) -> Attention:
    """Softmax attention, or with all weights equal; centred where gain control takes the mean of a row's weights off."""
    scale = SCALE if scored else sp.S.Zero
    return (ShapedAttention if centred else Attention)(d, gain_v / d, d_k, scale, scale, value_bias=sigma_b2)


def causal_attention(*, scored: bool = True) -> CausalAttention:
    """The same under a causal mask, without a bias of the values."""
    scale = SCALE if scored else sp.S.Zero
    return CausalAttention(d, gain_v / d, d_k, scale, scale)


def feed_forward(activation: Activation) -> Block:
    """W_2 phi(W_1 x + b_1) + b_2."""
    return sequential(Linear(d, gain_w / d, sigma_b2), Elementwise(activation), Linear(d, gain_w / d, sigma_b2))


def block(
    placement: str, activation: Activation | None = None, *, scored: bool = True, centred: bool = False, causal: bool = False
) -> Block:
    """A block whose norms are at ``placement``: ``post``, ``pre`` or ``none``."""
    halves: list[Block] = []
    mixing = causal_attention(scored=scored) if causal else attention(scored=scored, centred=centred)
    branches = (mixing, alpha_sa), (feed_forward(activation or Relu()), alpha_mlp)
    for branch, skip in branches:
        inside = sequential(LayerNorm(), branch) if placement == "pre" else branch
        halves.append(residual(inside, 1, skip))
        halves += [LayerNorm()] if placement == "post" else []
    return sequential(*halves)


@lru_cache(maxsize=8)
def traced(placement: str, activation: Activation | None = None, *, centred: bool = False) -> Trace:
    """The block, step by step; of ReLU unless told."""
    return trace_of(block(placement, activation, centred=centred), UNIT if placement == "post" else STREAM)


def _rows(moment: LayerMoment) -> sp.Expr:
    _, _, variance, tokens, _, _, deficit, *_ = moment.args
    own, square = Participation(variance, tokens), (tokens - 1) * SoftmaxSlope(variance, tokens)
    rows = {
        "mean": own, "token_gap": RowGap(variance, variance * deficit, tokens), "spread": own - 1 / tokens, "lean": sp.S.Zero,
        "form": square, "scaled_form": square, "along": sp.S.Zero, "scaled_along": sp.S.Zero,
    }  # fmt: skip
    return rows.get(moment.name, moment)


def of_rows(expression: sp.Expr) -> sp.Expr:
    """A layer's moments as those of one or two rows, from which they differ by fluctuations that vanish with the widths."""
    return sp.sympify(expression).replace(lambda node: isinstance(node, LayerMoment), _rows)


def wide(expression: sp.Expr) -> sp.Expr:
    """Infinitely wide tokens and keys at a given number of tokens."""
    narrow = sp.Dummy("narrow")
    return of_rows(expression).subs({d: 1 / narrow, d_k: 1 / narrow}).subs(narrow, 0)


@dataclass(frozen=True)
class Depth:
    """A block over depth: its recursion in the second moment of the token mean and the gap, and q and q - gap at the end."""

    recursion: Recursion
    second: sp.Expr
    shared: sp.Expr

    @property
    def arguments(self) -> tuple[sp.Symbol, ...]:
        """Every parameter, in the order of the paper."""
        order = (rho, q_0, L, n, beta_a, gain_v, gain_w, sigma_b2, alpha_sa, alpha_mlp)
        return tuple(symbol for symbol in order if symbol in self.recursion.free_symbols)


@lru_cache(maxsize=16)
def over_depth(
    placement: str, closure: Closure, activation: Activation | None = None, *, centred: bool = False
) -> Depth:
    """Tokens of second moment q_0 (1 behind a norm) and overlap rho, after L blocks."""
    tokens = sp.oo if closure.many else n
    known, size = (sp.S.One, sp.S.One) if placement == "post" else (None, q_0)
    layer = common_map(
        trace_of(block(placement, activation, centred=centred), STREAM), COMMON, others=1 - 1 / tokens, q=known,
        close=lambda moment: closure(wide(moment)),
    )
    start = {COMMON: size * (rho if closure.many else (1 + rho * (n - 1)) / n), GAP: size * (1 - rho)}
    second = known or from_common(COMMON, GAP, tokens)
    return Depth(Recursion.of(layer, start, settled=GAP / second), second, COMMON - GAP / tokens)
