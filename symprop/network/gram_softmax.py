r"""Attention on the token Gram matrix beyond small logits: averages over one drawn layer, with the softmax as it is.

A draw takes token vectors with the given Gram matrix C, of as many dimensions as the sample fluctuation of C asks for, and a
head's queries and keys. Everything that is linear in values and in the incoming gradient is averaged exactly: with
:math:`J_i = \mathrm{diag}(A_i) - A_i A_i^\top` and the Gram matrices :math:`G^Q, G^K` of queries and keys

.. math::
    C' \propto E\, A C A^\top, \quad \Gamma^v \propto E\, A^\top \Gamma A, \quad
    \Gamma^q_{ik} \propto E\, \Gamma_{ik}\, \mathrm{tr}(J_i C J_k G^K), \quad
    \Gamma^k_{jl} \propto E \sum_{ik} \Gamma_{ik} G^Q_{ik} (J_i C J_k)_{jl} .
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from symprop.network.gram_attention import AttentionGradient, AttentionGram, Mixing, over_keys, over_queries, symmetric

Array = npt.NDArray[np.float64]

SMALL_LOGITS = 0.5
"""Logit deviation up to which the first order of :class:`AttentionGram` is kept."""
HARD_LOGITS = 1e6
"""Logit deviation beyond which the derivative of the softmax, a difference of nearly equal numbers that the squared deviation
multiplies, has no digits left."""
PAIRS, FEWEST, MOST = 6000, 8, 96
"""Draws: PAIRS over the number of tokens, between FEWEST and MOST. More tokens average more in one draw."""
LEAST, DRAWN_LAYERS = 2, 12
"""Draws of a layer of which there are so many that their errors average out, and layers from which each draws fewer."""
CHUNK = 2_000_000
"""Numbers in one stack of drawn matrices."""
WIDEST = 1e12
"""Dimensions beyond which a sample Gram matrix does not fluctuate in double precision."""


class _Heads(NamedTuple):
    """Drawn attention weights and Gram matrices of tokens, queries and keys, each of shape (draws, tokens, tokens)."""

    weights: Array
    gram: Array
    queries: Array
    keys: Array


@dataclass(frozen=True, eq=False)
class SampledAttentionGram(AttentionGram):
    """An attention layer at logits of any size, without rotary embeddings.

    ``share`` is that of the heads which one of DRAWN_LAYERS layers draws.

    ``fixed_norm`` says that a norm has given every token its size. Equal ``seed`` gives equal draws; layers of one network
    take different ones, or their errors add up. :attr:`error` is the standard error of the output's second moment.

    >>> from symprop.components import Attention
    >>> from symprop.network.gram_attention import pattern
    >>> head = Attention(64, 1.0, 64, 0.1, 0.1)
    >>> layer = SampledAttentionGram(head, np.eye(8), pattern(8), 64.0, 1.0, fixed_norm=True)
    >>> bool(1/8 < layer.participation().mean() < 1 and layer.error < 0.05)
    True
    """

    fixed_norm: bool = False
    share: float = 1.0
    seed: tuple[int, ...] = (0,)

    @cached_property
    def draws(self) -> int:
        """Number of drawn heads."""
        return max(round(self.share * min(max(PAIRS // self.pattern.tokens, FEWEST), MOST)), LEAST)

    @property
    def _together(self) -> int:
        """Heads in a stack."""
        return max(CHUNK // self.pattern.tokens**2, 1)

    @property
    def kept(self) -> int:
        return len(_Heads._fields) * self.draws if self.draws <= self._together else 0

    def _heads(self) -> Iterable[_Heads]:
        """Stacks of heads, drawn once where one holds them all."""
        return (self._stack,) if self.kept else self._drawn()

    @cached_property
    def _stack(self) -> _Heads:
        (heads,) = self._drawn()
        return heads

    def _drawn(self) -> Iterator[_Heads]:
        rng = np.random.default_rng(self.seed)
        tokens, key_width = self.pattern.tokens, int(self._value("key_width"))
        own = np.sqrt(np.diag(self.gram))
        size = np.outer(own, own)
        r = np.clip(self.gram / np.where(size > 0, size, 1.0), -1.0, 1.0)
        dimensions = min(self.fan_in / self.spread, WIDEST) if self.spread > 0 else WIDEST
        # Giving sampled vectors their sizes back lowers their mean cosine by (1 - r^2)/2D.
        r = r * (1 + (1 - r**2) / (2 * dimensions)) if self.fixed_norm else r
        root = _root(r)
        hidden = np.where(self.pattern.visible, 0.0, -np.inf)
        for start in range(0, self.draws, self._together):
            count = min(self._together, self.draws - start)
            vector = root @ _wishart_factor(rng, count, tokens, dimensions)
            if self.fixed_norm:
                norm = np.sqrt((vector**2).sum(axis=-1, keepdims=True))
                vector = vector / np.where(norm > 0, norm, 1.0)
            vector = vector * own[:, None]
            query, key = (
                vector @ (rng.standard_normal((count, vector.shape[-1], key_width)) / np.sqrt(key_width)) for _ in range(2)
            )
            scale = np.sqrt(self.logit_scale * key_width)
            logits = scale * query @ key.swapaxes(1, 2) + hidden
            weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
            weights /= weights.sum(axis=-1, keepdims=True)
            yield _Heads(weights, *(item @ item.swapaxes(1, 2) for item in (vector, query, key)))

    @cached_property
    def _averages(self) -> tuple[Array, Array, float]:
        """Mean of A C A^T, participation of the rows, relative standard error of the first one's trace."""
        shared, participation = np.zeros_like(self.gram), np.zeros(self.pattern.tokens)
        traces: list[float] = []
        for weights, gram, _, _ in self._heads():
            found = weights @ gram @ weights.swapaxes(1, 2)
            shared += found.sum(axis=0)
            participation += (weights**2).sum(axis=(0, 2))
            traces += found.trace(axis1=1, axis2=2).tolist()
        mean = float(np.mean(traces))
        error = float(np.std(traces, ddof=1)) / np.sqrt(self.draws) / mean if mean > 0 else 0.0
        return shared / self.draws, participation / self.draws, error

    @property
    def error(self) -> float:
        """Relative standard error of the output's second moment."""
        return self._averages[2]

    def forward(self) -> Array:
        return self.value_gain * self._averages[0]

    def participation(self) -> Array:
        return self._averages[1]

    def backward(self, gradient: Array) -> AttentionGradient:
        value, query, key = (np.zeros_like(self.gram) for _ in range(3))
        squares = {"query": 0.0, "key": 0.0, "value": 0.0}
        for weights, gram, queries, keys in self._heads():
            mixing = Mixing(weights)
            left = mixing.mix(gram)
            both = mixing.mix_right(left)
            values_path = mixing.back_right(mixing.back(gradient))
            query_path = gradient * over_keys(mixing, gram, keys, left, both)
            parts = over_queries(mixing, gradient * queries, left.swapaxes(-1, -2), both)
            key_path = gram * parts.whole + parts.rest
            value += values_path.sum(axis=0) / self.draws
            query += query_path.sum(axis=0) / self.draws
            key += key_path.sum(axis=0) / self.draws
            for name, path in (("query", query_path), ("key", key_path), ("value", values_path)):
                squares[name] += float((gram * path).sum()) / self.draws
        return self._gradient(value, symmetric(query), symmetric(key), squares)


def _root(matrix: Array) -> Array:
    """R with R R^T = matrix, of which negative eigenvalues count as zero."""
    try:
        return np.asarray(np.linalg.cholesky(matrix))
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(matrix)
        return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def _wishart_factor(rng: np.random.Generator, count: int, tokens: int, dimensions: float) -> Array:
    """Matrices F whose F F^T are sample Gram matrices of independent vectors: triangular (Bartlett) with enough dimensions."""
    if dimensions < tokens:
        size = max(round(dimensions), 1)
        return np.asarray(rng.standard_normal((count, tokens, size)) / np.sqrt(size))
    factor = np.tril(rng.standard_normal((count, tokens, tokens)), -1)
    degrees = dimensions - np.arange(tokens)
    factor[:, np.arange(tokens), np.arange(tokens)] = np.sqrt(rng.chisquare(np.maximum(degrees, 1.0), (count, tokens)))
    return np.asarray(factor / np.sqrt(dimensions))
