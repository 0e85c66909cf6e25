"""Attention on the token Gram matrix to a second sequence, as a decoder attends to what its encoder has read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from symprop.components.attention import Attention
from symprop.core.errors import InputError
from symprop.network.gram_attention import AttentionGradient, AttentionGram, AttentionPattern

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MemoryAttention(Attention):
    """Attention whose keys and values come from a :class:`Memory` that the trace does not hold.

    Only the Gram interpreter knows what it reads; (q, gap) of two sequences are those of
    :class:`~symprop.components.CrossAttention`.
    """


@dataclass(frozen=True, eq=False)
class Memory:
    """The second sequence: ``gram`` of shape (keys, keys) per coordinate, and ``weights`` of shape (tokens, keys), rows that
    are uniform over the keys that a token sees. ``spread`` is the relative fluctuation of its centred Gram matrix over 1/d."""

    gram: Array
    weights: Array
    spread: float = 1.0

    def __post_init__(self) -> None:
        if self.gram.shape != (self.weights.shape[1],) * 2 or not np.allclose(self.weights.sum(axis=1), 1):
            raise InputError("memory", f"shapes {self.gram.shape} and {self.weights.shape}", "rows over its keys that add to 1")

    @property
    def keys(self) -> int:
        """Number of its tokens."""
        return len(self.gram)

    def joined(self, gram: Array) -> Array:
        """A matrix of the tokens after that of the keys, with nothing between them: a logit asks for no inner product of a
        token with a key."""
        return np.block([
            [self.gram, np.zeros((self.keys, len(gram)))], [np.zeros((len(gram), self.keys)), gram],
        ])  # fmt: skip

    @cached_property
    def pattern(self) -> AttentionPattern:
        """Both sequences as one: keys see themselves, which nobody reads, and tokens see keys."""
        tokens = len(self.weights)
        weights = np.zeros((self.keys + tokens, self.keys + tokens))
        weights[: self.keys, : self.keys] = np.eye(self.keys)
        weights[self.keys :, : self.keys] = self.weights
        return _Joined(weights, np.zeros(len(weights)), keys=self.keys)


@dataclass(frozen=True, eq=False)
class _Joined(AttentionPattern):
    """The pattern of both sequences, ``keys`` of them first."""

    keys: int = 0

    def private(self, gram: Array) -> float:
        """What the keys that one token sees do not share: a token and a key have no inner product here."""
        seen = self.visible[self.keys :, : self.keys].astype(float)
        together = (seen.T @ seen > 0) & ~np.eye(self.keys, dtype=bool)
        own = gram[: self.keys, : self.keys]
        return float(np.diag(own)[seen.any(axis=0)].mean()) - (float(own[together].mean()) if together.any() else 0.0)


@dataclass(frozen=True, eq=False)
class MemoryAttentionGram:
    """The rule of self-attention on both sequences as one, of which the rows of the tokens are read."""

    whole: AttentionGram
    memory: Memory

    def logit_deviation(self, rows: slice = slice(None)) -> float:
        """Root mean square of a visible logit about the average of its row, over some tokens."""
        own = range(self.memory.keys, len(self.whole.gram))[rows]
        return self.whole.logit_deviation(slice(own.start, own.stop))

    @property
    def kept(self) -> int:
        """Matrices of the tokens' size that are kept for the way back, about."""
        return self.whole.kept * len(self.whole.gram) ** 2 // len(self.memory.weights) ** 2

    def forward(self) -> Array:
        """Gram matrix of the outputs of all heads, per coordinate."""
        return self.whole.forward()[self.memory.keys :, self.memory.keys :]

    def participation(self) -> Array:
        """E sum_j A_ij^2 of every token."""
        return self.whole.participation()[self.memory.keys :]

    def backward(self, gradient: Array) -> AttentionGradient:
        """Gram matrices of the gradient at the tokens, with that at the keys as ``memory``."""
        padded = np.zeros_like(self.whole.gram)
        keys = self.memory.keys
        padded[keys:, keys:] = gradient
        found = self.whole.backward(padded)
        return AttentionGradient(found.gram[keys:, keys:], found.weights, found.gram[:keys, :keys])
