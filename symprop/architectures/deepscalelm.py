"""DeepScaleLM: the variances at which every block of a transformer has unit variance, solved layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

import mpmath
import sympy as sp

from symprop.architectures.activations import ACTIVATIONS
from symprop.architectures.entries import MAX_INTEGER
from symprop.components import Attention, Dropout, Elementwise, LayerNorm, Linear
from symprop.components.embedding import Embedding, RepeatProbability, Zipf
from symprop.core import symbols
from symprop.core.display import html_table
from symprop.core.errors import InputError, UnknownNameError
from symprop.core.signal import Gradient
from symprop.functions.activation import Activation
from symprop.functions.arc_cosine import absolute_gap, arc_cosine
from symprop.functions.normal_moment import normal_moment
from symprop.functions.softmax_layer import LINEAR, LayerMoment
from symprop.functions.softmax_values import evaluator
from symprop.functions.table_sum import callable_sums, double_function
from symprop.network import Block, residual, sequential, token_input, trace_of

HEAD_WIDTH = 64
"""Width of a head that a model has unless told."""
MANY_TOKENS = 10**12
"""What stands for infinitely many tokens: what they leave out is of the order 1/n."""
MOST_LAYERS = 10_000
_LOGARITHMS = -40.0, 7.0
"""Between which the logarithm of a variance is looked for, at any width."""
PLACES = 10
"""Chebyshev points in the gap at which softmax moments are evaluated; between them they are right to 1e-5."""


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
    heads: int | None = None,
    expansion: int = 4,
    activation: str | Activation = "relu",
    segments: bool = False,
    gradient_correlation: float = 0.0,
) -> Recipe:
    """Solve the unit-variance conditions of every block of a Pre-LN transformer with scaled residuals.

    The residual scales are lambda^2 = 1 - 2/N and beta^2 = 2/N for N ``layers`` of one attention and one feed-forward
    block each. Words follow Zipf's law over the ``vocabulary``, ``tokens`` is the sequence length (None for the limit of
    many tokens), ``activation`` is a name or an activation of one's own. Attention is the true softmax at the score
    variance of the recipe, 1 - r, forward and backward, by :class:`~symprop.components.Attention` at the level exact; the
    width of a key is ``width``/``heads`` (64 unless told, or the ``width`` where 64 does not divide it).
    ``gradient_correlation`` is that of dLoss/dx at the top. Raises :class:`InputError` for a value out of range. Kedia et
    al. 2024, DeepScaleLM.

    >>> recipe = solve_recipe(12, 768, 30522)
    >>> round(recipe.layers[0].ffn_variance*768/math.sqrt(0.9/2), 12)
    1.0
    """
    if heads is None:
        heads = 1 if width % HEAD_WIDTH else width // HEAD_WIDTH
    _check(layers, width, vocabulary, dropout, tokens, heads, expansion, gradient_correlation)
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
    count = MANY_TOKENS if tokens is None else tokens
    attention, feed_forward = _blocks(width, hidden, heads, p, activation, count, skip, branch)
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
    layers: int, width: int, vocabulary: int, dropout: float, tokens: int | None, heads: int, expansion: int, correlation: float
) -> None:
    for name, value, least, most in (
        ("layers", layers, 3, MOST_LAYERS), ("width", width, 3, MAX_INTEGER), ("vocab", vocabulary, 2, MAX_INTEGER),
        ("expansion", expansion, 1, MAX_INTEGER), ("tokens", 2 if tokens is None else tokens, 1, MAX_INTEGER),
        ("heads", heads, 1, MAX_INTEGER),
    ):  # fmt: skip
        if value < least or value > most or value != int(value):
            shown = value if abs(value) < 10**20 else "an integer of many digits"
            raise InputError(name, shown, f"an integer in [{least}, {most}]")
    if width % heads:
        raise InputError("heads", heads, f"a divisor of the width {width}")
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
        # Found as a logarithm, since it falls with the width.
        return math.exp(brentq(lambda s: math.log(self.second(gap, math.exp(s))), *_LOGARITHMS, xtol=1e-14))

    def step(self, gap: float, variance: float) -> float:
        """The gap after the residual block."""
        return self.gap(gap, variance)

    def back(self, gradient: tuple[float, float], gap: float, variance: float) -> tuple[float, float]:
        """The gradient below the residual block."""
        return self.pulled(*gradient, gap, variance)


def _blocks(
    width: int, hidden: int, heads: int, dropout: sp.Expr, activation: Activation, tokens: int, skip: float, branch: float
) -> tuple[_Branch, _Branch]:
    s = sp.Symbol("s", positive=True)
    scores = sp.Rational(1, width)
    attention = sequential(
        Attention(width, s, width // heads, scores, scores, heads=heads), Linear(width, s), Dropout(dropout)
    )
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


def _interpolated(nodes: Sequence[LayerMoment], gap: sp.Symbol) -> list[Callable[[float], float]]:
    """Softmax moments as functions of the gap in (0, 1], by their Chebyshev interpolants."""
    import numpy as np

    if not nodes:
        return []
    factors = [gap if node.name in LINEAR else sp.S.One for node in nodes]
    table = evaluator(tuple(node / factor for node, factor in zip(nodes, factors, strict=True)), (gap,))

    def values(places: Any) -> Any:
        return np.array(table.many([[(1 + place) / 2] for place in places]))

    fitted = np.polynomial.chebyshev.chebinterpolate(values, PLACES - 1)

    def curve(column: int, linear: bool) -> Callable[[float], float]:
        polynomial = np.polynomial.Chebyshev(fitted[:, column], domain=(0, 1))
        return lambda x: float(polynomial(x)) * (x if linear else 1.0)

    return [curve(column, node.name in LINEAR) for column, node in enumerate(nodes)]


def _branch(block: Block, width: int, tokens: int, s: sp.Symbol, skip: float, branch: float) -> _Branch:
    signal = token_input(symbols.n, sp.Integer(width), gaussian=True)
    normed = sequential(LayerNorm(), block)
    alone = trace_of(normed, signal).expand().q
    whole = trace_of(residual(normed, branch, skip), signal)
    above = Gradient(sp.Symbol("g_q", positive=True), sp.Symbol("g_gap", nonnegative=True))
    below = whole.backpropagate(above)
    wanted = (alone, whole.expand().gap, whole.substitute_moments(below.q), whole.substitute_moments(below.gap))
    wanted = tuple(item.subs({signal.q: 1, symbols.n: tokens}) for item in wanted)
    nodes = sorted(set().union(*(item.atoms(LayerMoment) for item in wanted)), key=sp.default_sort_key)
    curves = {f"softmax_moment_{k}": curve for k, curve in enumerate(_interpolated(nodes, signal.gap))}
    softmax = {node: sp.Function(name)(signal.gap) for node, name in zip(nodes, curves, strict=True)}

    def compiled(expression: sp.Expr, *arguments: sp.Symbol) -> Callable[..., float]:
        plain, sums = callable_sums(expression.xreplace(softmax), double_function)
        function: Callable[..., float] = sp.lambdify(arguments, plain, modules=[dict(sums), curves, _NODES, "math"])
        return function

    second, gap = (compiled(item, signal.gap, s) for item in wanted[:2])
    back = [compiled(item, above.q, above.gap, signal.gap, s) for item in wanted[2:]]
    quadratic = sp.cancel(alone.subs(s, 2) / alone.subs(s, 1)) == 4
    return _Branch(second, gap, lambda *values: (back[0](*values), back[1](*values)), quadratic)
