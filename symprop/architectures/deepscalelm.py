"""DeepScaleLM: the variances at which every block of a transformer has unit variance, solved layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any

import mpmath
import sympy as sp

from symprop.components import Dropout, Elementwise, LayerNorm, Linear, UniformAttention
from symprop.components.embedding import Embedding, RepeatProbability, Zipf
from symprop.core import symbols
from symprop.core.display import html_table
from symprop.core.errors import InputError, UnknownNameError
from symprop.core.signal import Gradient
from symprop.functions.activation import Absolute, Activation, Erf, Gelu, Identity, Relu, Sine, SquaredRelu
from symprop.functions.arc_cosine import absolute_gap, arc_cosine
from symprop.functions.logistic import Sigmoid, Silu, Tanh
from symprop.functions.normal_moment import normal_moment
from symprop.functions.quadrature_activation import GeluTanh
from symprop.functions.table_sum import callable_sums
from symprop.network import Block, residual, sequential, token_input, trace_of

ACTIVATIONS: Mapping[str, Activation] = {
    item.name: item
    for item in (Relu(), Gelu(), GeluTanh(), Silu(), SquaredRelu(), Absolute(), Erf(), Sine(), Tanh(), Sigmoid(), Identity())
}
"""Activations of the feed-forward block, by name."""


@dataclass(frozen=True)
class LayerScales:
    """One layer: absolute weight variances, and what the theory predicts.

    ``value_variance`` is that of the value and of the output matrix, ``ffn_variance`` that of both feed-forward matrices.
    ``correlation`` belongs to the tokens that enter the layer; ``gradient`` is the second moment of a coordinate of
    dLoss/dx there, relative to the top.
    """

    layer: int
    value_variance: float
    ffn_variance: float
    correlation: float
    gradient: float


@dataclass(frozen=True)
class Recipe:
    """A solved recipe: ``x = skip_scale*x + branch_scale*branch(norm(x))`` with these variances.

    ``query_variance`` is that of queries and keys, ``embedding_variance`` that of every embedding table.
    """

    width: int
    hidden: int
    embedding_variance: float
    query_variance: float
    skip_scale: float
    branch_scale: float
    layers: tuple[LayerScales, ...]
    final_correlation: float

    def _repr_html_(self) -> str:
        headings = tuple(item.name.replace("_", " ") for item in fields(LayerScales))
        title = f"width {self.width}, skip {self.skip_scale:.6g}, branch {self.branch_scale:.6g}"
        return html_table(title, headings, [astuple(layer) for layer in self.layers])


def solve_recipe(
    layers: int,
    width: int,
    vocabulary: int,
    *,
    dropout: float = 0.1,
    tokens: int | None = None,
    expansion: int = 4,
    activation: str | Activation = "relu",
    segments: bool = False,
    gradient_correlation: float = 0.0,
) -> Recipe:
    """Solve the unit-variance conditions of every block of a Pre-LN transformer with scaled residuals.

    The residual scales are lambda^2 = 1 - 2/N and beta^2 = 2/N for N ``layers`` of one attention and one feed-forward
    block each. Words follow Zipf's law over the ``vocabulary``, ``tokens`` is the sequence length (None for the limit of
    many tokens), attention is uniform (small logits), ``activation`` is a name or an activation of one's own.
    ``gradient_correlation`` is that of dLoss/dx at the top. Raises :class:`InputError` for a value out of range. Kedia et
    al. 2024, DeepScaleLM.

    >>> recipe = solve_recipe(12, 768, 30522)
    >>> round(recipe.layers[0].ffn_variance*768/math.sqrt(0.9/2), 12)
    1.0
    """
    _check(layers, width, vocabulary, dropout, tokens, expansion, gradient_correlation)
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            raise UnknownNameError("activation", activation, ACTIVATIONS)
        activation = ACTIVATIONS[activation]
    p = sp.nsimplify(dropout)
    hidden = expansion * width
    table = sp.Symbol("s", positive=True)
    words = RepeatProbability(_repeat(vocabulary))
    embedding = Embedding(width, table, words, table, table if segments else sp.S.Zero).forward()
    start = Dropout(p).forward(embedding)
    variance = sp.solve(sp.Eq(start.q, 1), table)[0]
    gap = float(sp.N(start.gap.subs(table, variance)))
    skip, branch = math.sqrt(1 - 2 / layers), math.sqrt(2 / layers)
    count = sp.oo if tokens is None else sp.Integer(tokens)
    attention, feed_forward = _blocks(width, hidden, p, activation, count, skip, branch)
    found = []
    for _ in range(layers):
        correlation = 1 - gap
        value = attention.unit_variance(gap)
        middle = attention.step(gap, value)
        ffn = feed_forward.unit_variance(middle)
        found.append((value, ffn, correlation, gap, middle))
        gap = feed_forward.step(middle, ffn)
    gradient = (1.0, 1.0 - gradient_correlation)
    scales = []
    for index in reversed(range(layers)):
        value, ffn, correlation, before, middle = found[index]
        gradient = feed_forward.back(gradient, middle, ffn)
        gradient = attention.back(gradient, before, value)
        scales.append(LayerScales(index, value, ffn, correlation, gradient[0]))
    return Recipe(width, hidden, float(variance), 1 / width, skip, branch, tuple(reversed(scales)), 1 - gap)


def _repeat(vocabulary: int) -> sp.Expr:
    """Zipf's probability of a repeat as a number: an exact harmonic sum would be a fraction of thousands of digits."""
    found = sp.lambdify(symbols.V, Zipf(symbols.V).polygamma(), modules="mpmath")(mpmath.mpf(vocabulary))
    return sp.Float(str(found), 17)


def _check(
    layers: int, width: int, vocabulary: int, dropout: float, tokens: int | None, expansion: int, correlation: float
) -> None:
    for name, value, least in (
        ("layers", layers, 3), ("width", width, 1), ("vocab", vocabulary, 2), ("expansion", expansion, 1),
        ("tokens", 2 if tokens is None else tokens, 1),
    ):  # fmt: skip
        if value != int(value) or value < least:
            raise InputError(name, value, f"an integer >= {least}")
    if not 0 <= dropout < 1:
        raise InputError("dropout", dropout, "a number in [0, 1)")
    if not 0 <= correlation <= 1:
        raise InputError("gradient_correlation", correlation, "a number in [0, 1]")


@dataclass(frozen=True)
class _Branch:
    """One residual branch as numeric maps: its second moment, and the step and gradient of the whole residual block."""

    second: Callable[[float, float], float]
    gap: Callable[[float, float], float]
    pulled: Callable[[float, float, float, float], tuple[float, float]]
    quadratic: bool

    def unit_variance(self, gap: float) -> float:
        """The weight variance at which the branch has unit second moment."""
        from scipy.optimize import brentq

        if self.quadratic:
            return 1 / math.sqrt(self.second(gap, 1.0))
        return float(brentq(lambda s: math.log(self.second(gap, s)), 1e-9, 1e3, xtol=1e-300, rtol=1e-14))

    def step(self, gap: float, variance: float) -> float:
        """The gap after the residual block."""
        return self.gap(gap, variance)

    def back(self, gradient: tuple[float, float], gap: float, variance: float) -> tuple[float, float]:
        """The gradient below the residual block."""
        return self.pulled(*gradient, gap, variance)


def _blocks(
    width: int, hidden: int, dropout: sp.Expr, activation: Activation, tokens: sp.Expr, skip: float, branch: float
) -> tuple[_Branch, _Branch]:
    s = sp.Symbol("s", positive=True)
    attention = sequential(UniformAttention(width, s), Linear(width, s), Dropout(dropout))
    feed_forward = sequential(Linear(hidden, s), Elementwise(activation), Linear(width, s), Dropout(dropout))
    return (
        _branch(attention, width, tokens, s, skip, branch),
        _branch(feed_forward, width, tokens, s, skip, branch),
    )


_NODES: dict[str, Callable[..., float]] = {
    "ArcCosine": lambda k, gap, v: float(arc_cosine(k, gap, v)),
    "AbsoluteGap": lambda gap, v: float(absolute_gap(gap, v)),
    "NormalMoment": lambda k, m, v: float(normal_moment(k, m, v)),
    "ExpMinusOne": math.expm1,
}


def _branch(block: Block, width: int, tokens: sp.Expr, s: sp.Symbol, skip: float, branch: float) -> _Branch:
    signal = token_input(symbols.n, sp.Integer(width), gaussian=True)
    unit: dict[Any, Any] = {signal.q: 1}

    def compiled(arguments: list[sp.Symbol], expression: sp.Expr) -> Callable[..., float]:
        at = expression.subs(unit)
        at = sp.limit(at, symbols.n, sp.oo) if tokens is sp.oo else at.subs(symbols.n, tokens)
        plain, sums = callable_sums(at, double=True)
        function: Callable[..., float] = sp.lambdify(arguments, plain, modules=[dict(sums), _NODES, "math"])
        return function

    alone = trace_of(block, signal).expand().q
    whole = trace_of(residual(sequential(LayerNorm(), block), branch, skip), signal)
    above = Gradient(sp.Symbol("g_q", positive=True), sp.Symbol("g_gap", nonnegative=True))
    below = whole.backpropagate(above)
    back = [compiled([above.q, above.gap, signal.gap, s], whole.substitute_moments(item)) for item in (below.q, below.gap)]
    quadratic = sp.cancel(alone.subs(s, 2) / alone.subs(s, 1)) == 4
    return _Branch(
        compiled([signal.gap, s], alone), compiled([signal.gap, s], whole.expand().gap),
        lambda *values: (back[0](*values), back[1](*values)), quadratic,
    )  # fmt: skip
