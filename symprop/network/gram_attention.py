r"""Attention on the token Gram matrix: the one rule that mixes tokens.

Weights are the softmax of small Gaussian logits about a fixed pattern T, uniform over the keys that a query may see:
:math:`A_{ij} = T_{ij} (1 + x_{ij} - \sum_l T_{il} x_{il})` at first order, with logits of covariance

.. math:: E\, x_{ij} x_{kl} = s^2\, C_{ik} C_{jl}\, \kappa(j - l - i + k), \qquad
    s^2 = \tau^2 d_{in}^2 \sigma_q^2 \sigma_k^2, \qquad \kappa(\Delta) = \langle \cos \theta \Delta \rangle_\theta

where rotary position embeddings turn the query and key coordinates by the angle theta times the position (kappa = 1
without). Averages over theta are sums over the given angles. Exact at first order in s^2, for keys in large heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from symprop.components.attention import Attention
from symprop.core.errors import InputError, RefusedError

Array = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]
Rotary = tuple[tuple[float, float], ...]
"""Angles per position, each with its share of the coordinates."""

NO_ROTATION: Rotary = ((0.0, 1.0),)
ANGLE_ERROR = 1e-10
"""Error of the average cosine where few angles stand for many."""


@dataclass(frozen=True, eq=False)
class Mixing:
    """Products of matrices x with attention weights A, which may be stacked in front: A x, x A', A' x and x A."""

    weights: Array

    def mix(self, x: Any) -> Any:
        """A x."""
        return self.weights @ x

    def mix_right(self, x: Any) -> Any:
        """x A'."""
        return x @ self.weights.swapaxes(-1, -2)

    def back(self, x: Any) -> Any:
        """A' x."""
        return self.weights.swapaxes(-1, -2) @ x

    def back_right(self, x: Any) -> Any:
        """x A."""
        return x @ self.weights


@dataclass(frozen=True, eq=False)
class AttentionPattern(Mixing):
    """Who sees whom, before any logit.

    ``weights`` of shape (tokens, tokens) has rows that are uniform over the visible keys; ``positions`` of shape (tokens,)
    are places in the sequence; ``rotary`` lists angles per position with their share of the query and key coordinates.
    ``kind`` says that every one of ``rows`` equal sequences sees all of itself (``uniform``) or its past (``causal``),
    so that products with the weights are means and running sums.
    """

    positions: Array
    rotary: Rotary = NO_ROTATION
    rows: int = 1
    kind: str = "any"
    visible: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not np.allclose(self.weights.sum(axis=1), 1):
            raise InputError("weights", "rows", "rows that add to one: every token must see at least one key")
        object.__setattr__(self, "visible", self.weights > 0)

    @property
    def tokens(self) -> int:
        """Number of tokens in all sequences."""
        return len(self.weights)

    @property
    def turns(self) -> bool:
        """Whether rotary embeddings turn any coordinate."""
        return any(angle != 0 and share != 0 for angle, share in self.rotary)

    @property
    def row_lengths(self) -> Array:
        """Number of keys that each token sees."""
        return np.asarray(1 / (self.weights**2).sum(axis=1))

    def mix(self, x: Any) -> Any:
        return super().mix(x) if self.kind == "any" else self._averaged(x, 0)

    def mix_right(self, x: Any) -> Any:
        return super().mix_right(x) if self.kind == "any" else self._averaged(x, 1)

    def back(self, x: Any) -> Any:
        return super().back(x) if self.kind == "any" else self._shared(x, 0)

    def back_right(self, x: Any) -> Any:
        return super().back_right(x) if self.kind == "any" else self._shared(x, 1)

    def _split(self, x: Any, axis: int) -> tuple[Any, int, Array]:
        """x with the sequences on an axis of their own before that of their tokens, which comes second; 1 / keys seen."""
        length = self.tokens // self.rows
        split = x.reshape((self.rows, length, -1) if axis == 0 else (-1, self.rows, length))
        seen = 1 / np.arange(1, length + 1)
        return split, axis + 1, seen[:, None] if axis == 0 else seen

    def _averaged(self, x: Any, axis: int) -> Any:
        """Every token's mean over the keys that it sees."""
        split, own, seen = self._split(x, axis)
        if self.kind == "uniform":
            return np.broadcast_to(split.mean(axis=own, keepdims=True), split.shape).reshape(x.shape)
        total = np.cumsum(split, axis=own)
        total *= seen
        return total.reshape(x.shape)

    def _shared(self, x: Any, axis: int) -> Any:
        """The transpose of that: every key's sum over the tokens that see it."""
        if self.kind == "uniform":
            return self._averaged(x, axis)
        split, own, seen = self._split(x, axis)
        shares = split * seen
        np.cumsum(np.flip(shares, own), axis=own, out=np.flip(shares, own))
        return shares.reshape(x.shape)

    @cached_property
    def pairs(self) -> npt.NDArray[np.bool_]:
        """Which entries belong to two different tokens of one sequence."""
        seen = self.visible.astype(float)
        return np.asarray(((seen @ seen.T) > 0) & ~np.eye(self.tokens, dtype=bool))

    def pair_mean(self, matrix: Array | float) -> float:
        """Mean over two different tokens of one sequence; zero for single tokens."""
        chosen = np.broadcast_to(matrix, self.pairs.shape)[self.pairs]
        return float(chosen.mean()) if chosen.size else 0.0

    def private(self, gram: Array) -> float:
        """Mean diagonal minus :meth:`pair_mean`: what tokens of a sequence do not share."""
        return float(np.diag(gram).mean()) - self.pair_mean(gram)

    def phases(self) -> Iterator[tuple[float, Complex | Array]]:
        """Angles with the same average cosine as ``rotary``: the share of each and exp(i theta (position_j - position_l)),
        which is real where nothing turns."""
        for angle, share in self._angles:
            turned = np.exp(1j * angle * self.positions)
            yield share, np.outer(turned, turned.conj()) if angle != 0 else np.ones(())

    @cached_property
    def _angles(self) -> Rotary:
        # A logit's covariance takes the difference of two distances, each of a token and a key that it sees.
        distances = np.subtract.outer(self.positions, self.positions)[self.visible]
        return merged_angles(self.rotary, float(np.ptp(distances)))


def pattern(
    tokens: int,
    *,
    sequences: int = 1,
    causal: bool = False,
    padding: int = 0,
    rotary: Rotary = NO_ROTATION,
) -> AttentionPattern:
    """The pattern of ``sequences`` sequences of ``tokens`` tokens; the last ``padding`` ones of each are never seen.

    >>> pattern(3, causal=True).weights.round(2).tolist()
    [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.33, 0.33, 0.33]]
    """
    if not 0 <= padding < tokens:
        raise InputError("padding", padding, f"an integer in [0, {tokens - 1}]")
    visible = np.tril(np.ones((tokens, tokens))) if causal else np.ones((tokens, tokens))
    visible[:, tokens - padding :] = 0
    block = visible / visible.sum(axis=1, keepdims=True)
    positions = np.tile(np.arange(tokens, dtype=float), sequences)
    kind = "any" if padding else "causal" if causal else "uniform"
    return AttentionPattern(np.kron(np.eye(sequences), block), positions, rotary, sequences, kind)


def rotary_angles(key_width: int, rotated: int, base: float) -> Rotary:
    """Angles of rotary embeddings on the first ``rotated`` of ``key_width`` coordinates: base^(-2f/rotated), Su et al. 2021.

    >>> rotary_angles(4, 2, 10000.0)
    ((1.0, 0.5), (0.0, 0.5))
    """
    if rotated % 2 or not 0 <= rotated <= key_width:
        raise InputError("rotated", rotated, f"an even integer in [0, {key_width}]")
    angles = [(base ** (-2 * f / rotated), 2 / key_width) for f in range(rotated // 2)]
    return (*angles, (0.0, 1 - rotated / key_width)) if rotated < key_width else tuple(angles)


def merged_angles(rotary: Rotary, distance: float) -> Rotary:
    r"""Fewer angles with the same average of :math:`\cos \theta \Delta` up to a ``distance`` Delta, to ANGLE_ERROR.

    A cosine of small angles is a polynomial in their squares, for which the Gauss quadrature of the slow angles needs few
    nodes (Golub and Welsch 1969); fast angles are kept.

    >>> len(merged_angles(rotary_angles(128, 128, 10000.0), 254.0))
    29
    """
    if len(rotary) == 1:
        return rotary
    ordered = sorted(rotary, reverse=True)
    nodes = [min(_gauss_order(angle * distance), len(ordered) - kept) for kept, (angle, _) in enumerate(ordered)]
    kept = min(range(len(ordered)), key=lambda place: place + nodes[place])
    if nodes[kept] == len(ordered) - kept:
        return rotary
    fast, slow = ordered[:kept], np.array(ordered[kept:])
    squares, shares = slow[:, 0] ** 2, slow[:, 1]
    # The recurrence of the polynomials that are orthogonal under the shares, by Lanczos.
    basis = [np.sqrt(shares / shares.sum())]
    for _ in range(nodes[kept] - 1):
        following = squares * basis[-1]
        for _ in range(2):
            following = following - np.array(basis).T @ (np.array(basis) @ following)
        basis.append(following / np.linalg.norm(following))
    values, vectors = np.linalg.eigh(np.array(basis) * squares @ np.array(basis).T)
    merged = zip(np.sqrt(np.maximum(values, 0.0)), shares.sum() * vectors[0] ** 2, strict=True)
    return (*fast, *((float(angle), float(share)) for angle, share in merged))


def _gauss_order(argument: float) -> int:
    """Nodes at which the quadrature of cos(argument t) over t in [0, 1], even in t, is right to ANGLE_ERROR."""
    from scipy.special import jv

    order = 1 + int(argument / 4)
    # The series of Chebyshev polynomials beyond degree 4 order - 2, which Gauss' rule integrates.
    while 4 * abs(jv(4 * order, argument)) > ANGLE_ERROR:
        order += 1
    return order


@dataclass(frozen=True, eq=False)
class AttentionGram:
    """One attention layer at a token Gram matrix: everything forward and backward needs.

    ``gram`` is that of the input per coordinate, ``spread`` the relative fluctuation of the centred Gram matrix in units of
    1/d, ``fan_in`` the input width. All gains of the component are numbers.
    """

    attention: Attention
    gram: Array
    pattern: AttentionPattern
    fan_in: float
    spread: float

    def __post_init__(self) -> None:
        if self.attention.dropout != 0:
            raise RefusedError(
                self.attention.describe(), "dropped attention weights have no rule on the Gram matrix",
                "audit the network as it is evaluated, without dropout",
            )

    def _value(self, name: str) -> float:
        return float(getattr(self.attention, name))

    @property
    def logit_scale(self) -> float:
        """s^2: the variance of a logit of tokens of unit second moment."""
        gain = self._value("query_variance") * self._value("key_variance")
        return self._value("temperature") ** 2 * self.fan_in**2 * gain

    @property
    def value_gain(self) -> float:
        """d_in sigma_v^2."""
        return self.fan_in * self._value("value_variance")

    @cached_property
    def _mixed(self) -> tuple[Array, Array]:
        """T C and T C T^T."""
        left = self.pattern.mix(self.gram)
        return left, self.pattern.mix(left.T).T

    @cached_property
    def logit_variance(self) -> Array:
        """Variance of every logit about the average of its row."""
        left, both = self._mixed
        own = np.diag(self.gram)
        return np.asarray(self.logit_scale * own[:, None] * (own - 2 * left + np.diag(both)[:, None]))

    def logit_deviation(self, rows: slice = slice(None)) -> float:
        """Root mean square of a visible logit about the average of its row, over some rows."""
        return float(np.sqrt(max((self.pattern.weights * self.logit_variance).sum(axis=1)[rows].mean(), 0.0)))

    @property
    def kept(self) -> int:
        """Matrices that are kept from the way forward for the way back, beside a few."""
        return 0

    @cached_property
    def mean_weights(self) -> Array:
        """E A: the pattern and the second-order shift towards keys of larger logit variance."""
        weights = self.pattern.weights
        shift = self.logit_variance - (weights * self.logit_variance).sum(axis=1, keepdims=True)
        return np.asarray(weights * (1 + shift / 2))

    @cached_property
    def _covariance(self) -> Array:
        """sum_jl T_ij T_kl C_jl times the centred key covariance, averaged over angles."""
        total = np.zeros_like(self.gram)
        for share, phase in self.pattern.phases():
            inner = over_keys(self.pattern, self.gram, self.gram * phase, *self._mixed)
            total += share * (phase.conj() * inner).real
        return symmetric(total)

    @cached_property
    def _fluctuation(self) -> Array:
        """What the sample fluctuation of the Gram matrix adds to the same sum."""
        _, both = self._mixed
        private = self.pattern.weights @ np.diag(self.gram) - np.diag(both)
        return np.asarray(self.spread / self.fan_in * np.outer(private, private))

    @cached_property
    def mixing(self) -> Array:
        """Covariance of the fluctuating part of two outputs, over s^2 d_in sigma_v^2 and the queries' inner product."""
        return self._covariance + self._fluctuation

    def forward(self) -> Array:
        """Gram matrix of the outputs of all heads, per coordinate."""
        shared = self.mean_weights @ self.gram @ self.mean_weights.T
        return np.asarray(self.value_gain * (shared + self.logit_scale * self.gram * self.mixing))

    def participation(self) -> Array:
        """E sum_j A_ij^2 of every row, at first order in the logit variance."""
        weights = self.pattern.weights
        average = (weights * self.logit_variance).sum(axis=1, keepdims=True)
        return np.asarray((weights**2 * (1 + 2 * self.logit_variance - average)).sum(axis=1))

    def backward(self, gradient: Array) -> AttentionGradient:
        """Gram matrices of the gradient at the input and at queries, keys and values; ``gradient`` is that of the output."""
        gram = self.gram
        keys, fluctuating = self._over_queries(gradient * gram)
        value = self.mean_weights.T @ gradient @ self.mean_weights + self.logit_scale * fluctuating
        steep = gradient * (self._covariance * self._next_order() + self._fluctuation)
        square = float((gram * steep).sum())
        return self._gradient(
            value, gradient * self.mixing, keys,
            {"query": square, "key": square, "value": float((gram * value).sum())},
        )

    def _gradient(self, value: Array, query: Array, key: Array, squares: Mapping[str, float]) -> AttentionGradient:
        """The gradient from its Gram matrices at values, queries and keys, and from their sums weighed with the input's,
        all of them without their gains."""
        sizes = {name: self._value(f"{name}_variance") for name in ("query", "key", "value")}
        logit = self._value("temperature") ** 2 * self.fan_in * self.value_gain
        heads_width = self._value("width")
        below = heads_width * (sizes["value"] * value + logit * sizes["query"] * sizes["key"] * (query + key))
        gains = {"query": logit * sizes["key"], "key": logit * sizes["query"], "value": 1.0}
        return AttentionGradient(
            np.asarray(below), {name: self.fan_in * heads_width * gains[name] * squares[name] for name in gains}
        )

    def _over_queries(self, weighed: Array) -> tuple[Array, Array]:
        """sum_ik T_ij T_kl of the weighed gradient with two covariances of the keys j and l.

        That of the values, centred and then turned, gives the gradient of the keys; that of the logits, turned and then
        centred, the fluctuating weights of the values. What is the same for every angle is done once.
        """
        mixing, (left, both) = self.pattern, self._mixed
        whole, key, outer, inner = (np.zeros_like(self.gram) for _ in range(4))
        for share, phase in self.pattern.phases():
            turned = weighed * phase.conj()
            parts = over_queries(mixing, turned, left.T, both)
            whole += share * (parts.whole * phase).real
            key += share * (parts.rest * phase).real
            if self.pattern.turns:
                right = mixing.mix_right(self.gram * phase)
                outer += share * (turned * mixing.mix(right)).real
                inner += share * (parts.half * right).real
        value = mixing.back_right(mixing.back(outer) - 2 * inner) if self.pattern.turns else key
        return symmetric(self.gram * whole + key), symmetric(self.gram * whole + value)

    def _next_order(self) -> Array:
        """Factor of the squared gradients of query and key weights at the next order in the logit variance."""
        gram, private = self.gram, self.pattern.private(self.gram)
        longest = np.maximum.outer(self.pattern.row_lengths, self.pattern.row_lengths)
        # A factor beyond e is no longer a correction.
        return np.asarray(np.exp(np.minimum(self.logit_scale * gram * private * (1 - 4 / longest), 1.0)))


def over_keys(weights: Mixing, first: Any, second: Any, left: Any, both: Any) -> Any:
    """tr(J_i C J_k C') for all i and k, with J_i = diag(a_i) - a_i a_i^T for the rows a_i of ``weights``.

    C (``first``) is symmetric, with ``left`` = A C and ``both`` = A C A^T; C' (``second``) is Hermitian. The answer is the
    Hermitian part of what is returned, which saves the time of transposing.
    """
    turned_left = weights.mix(second)
    inner = weights.mix_right(weights.mix(first * second) - 2 * left * turned_left)
    return inner + both * weights.mix_right(turned_left)


class OverQueries(NamedTuple):
    """sum_ik B_ik J_i C J_k = C * ``whole`` + ``rest``, of which the Hermitian part counts; ``half`` is A' B."""

    half: Any
    whole: Any
    rest: Any


def over_queries(weights: Mixing, weighed: Any, right: Any, both: Any) -> OverQueries:
    """That sum for a Hermitian B (``weighed``) and a covariance C of keys with ``right`` = C A' and ``both`` = A C A'."""
    half = weights.back(weighed)
    rest = weights.back_right(weights.back(weighed * both) - 2 * half * right)
    return OverQueries(half, weights.back_right(half), rest)


def symmetric(matrix: Array) -> Array:
    """The symmetric part."""
    return np.asarray((matrix + matrix.T) / 2)


@dataclass(frozen=True, eq=False)
class AttentionGradient:
    """``gram`` is the gradient's Gram matrix at the input, ``weights`` the squared norms of the weight gradients.

    ``memory`` is the gradient's Gram matrix at the keys and values of another sequence."""

    gram: Array
    weights: dict[str, float]
    memory: Array | None = None
