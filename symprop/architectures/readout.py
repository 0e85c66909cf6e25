r"""The cross-entropy of a linear readout: second moments of its gradient in the logits.

A readout of independent weights gives every token V independent Gaussian logits, with the covariance of the tokens' states
between two tokens. Labels are drawn from the V classes, independently and uniformly. With the softmax :math:`p_i` and
the label :math:`y_i`, one-hot,

.. math:: E (p_i - y_i) \cdot (p_j - y_j) = E p_i \cdot p_j - \frac2V + E y_i \cdot y_j, \qquad
    E y_i \cdot y_j = \begin{cases} 1 & i = j \\ 1/V & i \ne j \end{cases}

where :math:`E p_i \cdot p_j` is the overlap of two rows of softmax weights over V keys, :math:`e^{c}/V` for a small covariance
c and many classes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.polynomial.chebyshev import chebvander

from symprop.architectures.description import Architecture
from symprop.functions.softmax_numeric import pair_moments, row_moments

Array = npt.NDArray[np.float64]

SHARPEST, CONDENSED = 8.0, 64.0
"""Logit deviations of the readout up to which the overlap of two tokens and the participation of one are known; larger ones are
taken as so large."""
SAME_SIZE = 1e-3
"""Relative spread of the logit variances of all tokens up to which they are one."""
_ANGLES, _SIZES = 9, 4
"""Nodes of an interpolation in the angle between two tokens, and in the size of their logits."""


def logit_covariance(model: Architecture, gram: Array) -> Array:
    """Covariances of a class's logits at tokens whose states have the Gram matrix ``gram``, per coordinate."""
    covariance: Array = model.number("head") * model.width * gram
    return covariance


def readout_gradient(model: Architecture, gram: Array) -> Array:
    """E g_i.g_j per coordinate of the states that the readout reads, for a loss that is a sum over their tokens."""
    gradient: Array = model.number("head") * loss_gram(model.vocabulary, logit_covariance(model, gram))
    return gradient


def loss_gram(vocabulary: int, logits: Array) -> Array:
    """E (p_i - y_i).(p_j - y_j) of tokens whose logits have the covariances ``logits`` of shape (tokens, tokens).

    Two labels agree as often as two drawn classes do; those of zero logits are then independent.

    >>> loss_gram(50, np.zeros((2, 2))).round(6).tolist()
    [[0.98, 0.0], [0.0, 0.98]]
    """
    own = np.clip(np.diag(logits), 0.0, None)
    gram = _overlaps(vocabulary, logits, own)
    gram[np.diag_indices_from(gram)] = 1 - 2 / vocabulary + _participation(vocabulary, own)
    return gram


def _participation(vocabulary: int, own: Array) -> Array:
    """E p.p of every token."""
    sizes, place = np.unique(np.minimum(own, CONDENSED**2).round(12), return_inverse=True)
    keys = np.full(len(sizes), float(vocabulary))
    return np.asarray(row_moments([((2, 0),)], sizes, keys, np.full(len(sizes), np.inf))[0][place])


def _overlaps(vocabulary: int, logits: Array, own: Array) -> Array:
    """E p_i.p_j - 1/V of two tokens, from a table in the angle between them and, where tokens differ in it, in their size."""
    size = np.sqrt(np.outer(own, own))
    r = np.clip(logits / np.where(size > 0, size, 1.0), -1.0, 1.0)
    apart = ~np.eye(len(own), dtype=bool) & (size > 0) & (r != 0)
    found = np.zeros_like(size)
    if not apart.any():
        return found
    angles, levels = np.arccos(r), np.log(np.clip(own, own[own > 0].min(), SHARPEST**2))
    across, along = _Axis.of(angles[apart], _ANGLES, 1e-9), _Axis.of(levels, _SIZES, SAME_SIZE)
    moments = _moments(vocabulary, tuple(np.exp(along.nodes)), tuple(np.cos(across.nodes)))
    table = np.einsum("ai,bj,ck,ijk->abc", along.fit, along.fit, across.fit, np.log(vocabulary * moments))
    tokens = along.polynomials(levels)
    for row, token in enumerate(tokens):
        own_table = np.tensordot(token, table, 1)
        found[row] = np.expm1((tokens @ own_table * across.polynomials(angles[row])).sum(axis=1)) / vocabulary
    return np.where(apart, found, 0.0)


@lru_cache(maxsize=1024)
def _moments(vocabulary: int, sizes: tuple[float, ...], cosines: tuple[float, ...]) -> Array:
    """E p_i.p_j of shape (sizes, sizes, cosines)."""
    count = len(sizes)
    rows, columns = np.triu_indices(count)
    first, second = (np.repeat(np.array(sizes)[place], len(cosines)) for place in (rows, columns))
    keys = np.full(len(first), float(vocabulary))
    deficit = np.tile(1 - np.array(cosines), len(rows))
    found = np.zeros((count, count, len(cosines)))
    moments = pair_moments([((1, 1),)], first, second, deficit, keys, 0 * keys)[0].reshape(len(rows), -1)
    found[rows, columns] = found[columns, rows] = moments
    return found


class _Axis(NamedTuple):
    """An axis of a table: its range, Chebyshev nodes in it, and ``fit`` from values there to coefficients."""

    low: float
    high: float
    nodes: Array
    fit: Array

    @classmethod
    def of(cls, values: Array, count: int, same: float) -> _Axis:
        """The axis over some values; one node in the middle where they are the ``same`` up to so much."""
        low, high = float(values.min()), float(values.max())
        count = 1 if high - low <= same else count
        places = np.cos(np.pi * (np.arange(count) + 0.5) / count)
        fit = np.linalg.inv(chebvander(places, count - 1)).astype(float)
        return cls(low, high, (low + high) / 2 + (high - low) / 2 * places, fit)

    def polynomials(self, values: Array) -> Array:
        """Chebyshev polynomials at values in the range, of shape (values, nodes)."""
        places = (2 * values - self.low - self.high) / (self.high - self.low) if self.high > self.low else 0 * values
        return np.asarray(chebvander(np.clip(places, -1.0, 1.0), len(self.nodes) - 1))
