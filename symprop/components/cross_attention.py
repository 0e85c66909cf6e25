"""Softmax attention of one sequence to another, as a decoder attends to what its encoder has read."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import sympy as sp

from symprop.components.attention import Attention, WeightGradients
from symprop.components.base import Component
from symprop.core import symbols
from symprop.core.errors import RefusedError
from symprop.core.signal import Gradient, Signal


@dataclass(frozen=True)
class CrossAttention(Attention):
    r"""Softmax attention with queries from a first input of m tokens, keys and values from a second of n tokens.

    The parameters and levels are those of :class:`Attention`. Given its query, a row is a softmax over n scores of variance
    :math:`a = \kappa q_1 \Delta_2 (1 + \beta)` about what the keys share; two rows are correlated as their queries are,
    :math:`r = p_1/q_1`, so that the moments of the weights are those of self-attention at these numbers. The output has the
    tokens of the first input and the Gram matrix of the second: equal queries make equal outputs. Backward the first
    input has the path through the queries, the second those through values and keys, as each of its tokens meets m rows:

    .. math:: q_2 = \frac{m}{n} \bigl(q_V + q_{VK} + q_K\bigr), \qquad n q_2 + n (n - 1) p_2 = m s + m (m - 1) g_p

    the latter without dropout, since the weights of a row sum to one. The two inputs have one width. Both are Gaussian; they
    may depend on each other, as the direction of a key row is that of its random weights.

    >>> from symprop.core.symbols import d, n
    >>> queries = Signal(q=sp.Integer(1), gap=sp.Integer(1), tokens=sp.Integer(3), width=d, gaussian=True)
    >>> memory = Signal(q=sp.Integer(1), gap=sp.Integer(1), tokens=n, width=d, gaussian=True)
    >>> out = CrossAttention(d, 1/d).forward(queries, memory)
    >>> out.tokens, out.q, out.gap
    (3, 1/n, 0)
    >>> [item.q for item in CrossAttention(d, 1/d).backward(Gradient(sp.S.One, sp.S.One), queries, memory)]
    [0, 3/n**2]
    """

    rule = "cross-attention"
    reason = (
        "every query averages the tokens of the other sequence with its weights, whose second moments are the participation of "
        "a row and the overlap of two rows as correlated as the queries are"
    )
    inputs = 2

    @property
    def neglected(self) -> str:  # type: ignore[override]
        """What the level leaves out, and of dropout."""
        return super().neglected + "; of what dropped weights give the queries, relative 2/d"

    @classmethod
    def examples(cls) -> tuple[Component, ...]:
        small = sp.Rational(1, 10**6)
        scored = {"key_width": symbols.d_k, "query_variance": small, "key_variance": symbols.sigma_k2}
        return (
            cls(symbols.d_o, symbols.sigma_v2, dropout=symbols.P, heads=2, key_heads=1),
            cls(symbols.d_o, symbols.sigma_v2, **scored, level="uniform"),
            cls(symbols.d_o, symbols.sigma_v2, **scored, query_bias=small / 3, value_bias=symbols.sigma_x2),
        )

    def accept(self, *signals: Signal) -> None:
        """Two Gaussian signals of one width."""
        if len(signals) != 2:
            raise RefusedError(
                self.describe(), f"it reads queries and a second sequence, and got {len(signals)} signal",
                "give both signals, or use Attention where they are one",
            )
        for signal in signals:
            if signal.fixed_norm is not None:
                raise RefusedError(
                    f"{self.describe()} of {signal.label}",
                    f"its moments are known for Gaussian tokens, and {signal.label} has a fixed norm",
                    "put a wide random linear layer after the norm",
                )
        super().accept(*signals)
        first, second = (sp.sympify(signal.width) for signal in signals)
        if first != second:
            raise RefusedError(
                f"{self.describe()} of {signals[0].label} and {signals[1].label}", f"widths {first} and {second} differ",
                f"put Linear({second}, ...) before the queries",
            )

    def _rows(self, queries: Signal) -> _Rows:
        return _Rows(**{item.name: getattr(self, item.name) for item in fields(self)}, queries=queries)

    def neglected_size(self, *signals: Signal) -> sp.Expr:
        queries, memory = signals
        return self._rows(queries).neglected_size(memory)

    def forward(self, *signals: Signal) -> Signal:
        self.accept(*signals)
        queries, memory = signals
        return self._rows(queries).forward(memory)

    def backward(self, gradient: Gradient, *signals: Signal) -> tuple[Gradient, ...]:
        """Gradients of the queries' sequence, by the query path, and of the second one, by values and keys."""
        self.accept(*signals)
        queries, memory = signals
        return self._rows(queries).split(gradient, memory)

    def weight_gradients(self, gradient: Gradient, *signals: Signal) -> WeightGradients:
        """E ||dLoss/dW||^2 as in :meth:`Attention.weight_gradients`, for both signals."""
        self.accept(*signals)
        queries, memory = signals
        return self._rows(queries).weight_gradients(gradient, memory)


@dataclass(frozen=True)
class _Rows(Attention):
    """Attention of the tokens ``queries``: a map of the keys' sequence alone."""

    queries: Any = None

    def _queries(self, x: Signal) -> Signal:
        found: Signal = self.queries
        return found

    def split(self, gradient: Gradient, x: Signal) -> tuple[Gradient, Gradient]:
        """The gradients of both sequences."""
        gain = self.width * self.value_variance
        paths = self._query_path(gradient, x), self._key_path(gradient, x)
        to_queries, to_keys = (Gradient(gain * path.q, gain * path.gap) for path in paths)
        return to_queries, to_keys
