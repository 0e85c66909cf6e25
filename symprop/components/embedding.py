"""Token, position and segment embeddings, and how often two tokens are the same word."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import sympy as sp

from symprop.components.base import Array, Component, PairState, Values, Vjp
from symprop.components.linear import INDEPENDENT_GRADIENT, INDEPENDENT_WEIGHTS
from symprop.core import symbols
from symprop.core.errors import InputError
from symprop.core.provenance import Assumption, Source
from symprop.core.signal import Gradient, Signal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Identifiers: TypeAlias = npt.NDArray[np.int64]

INDEPENDENT_WORDS = Assumption(
    "independent words", "the words of a text are independent draws from one distribution"
)
AVERAGE_PAIR = Assumption(
    "average pair", "the moment of two tokens is its average over repeated words, positions and segment boundaries"
)


class WordLaw(ABC):
    """The distribution that words are drawn from."""

    @property
    @abstractmethod
    def repeat(self) -> sp.Expr:
        """Probability that two draws are the same word."""

    @abstractmethod
    def draw(
        self, rng: np.random.Generator, shape: tuple[int, int], number: Callable[[sp.Expr], float]
    ) -> Identifiers:
        """Independent words of shape (draws, tokens); ``number`` turns a parameter into a number."""


@dataclass(frozen=True)
class RepeatProbability(WordLaw):
    """Any distribution of that probability of a repeat; words are drawn from one with a single common word."""

    probability: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "probability", sp.sympify(self.probability))

    @property
    def repeat(self) -> sp.Expr:
        return self.probability

    def draw(
        self, rng: np.random.Generator, shape: tuple[int, int], number: Callable[[sp.Expr], float]
    ) -> Identifiers:
        import numpy as np

        common = rng.random(shape) < number(self.probability) ** 0.5
        words: Identifiers = np.where(common, 0, np.arange(1, shape[1] + 1))
        return words


@dataclass(frozen=True)
class Zipf(WordLaw):
    r"""Zipf's law: the k-th of V words has probability proportional to :math:`k^{-s}`.

    Two draws agree with probability :math:`H_V^{(2s)}/(H_V^{(s)})^2`, with :math:`H_V^{(s)} = \sum_{k=1}^{V} k^{-s}`;
    s = 0 is the uniform distribution. Kedia et al. 2024, embeddings.

    >>> Zipf(symbols.V, 0).repeat, Zipf(2).repeat
    (1/V, 5/9)
    """

    vocabulary: Any
    exponent: Any = sp.S.One

    def __post_init__(self) -> None:
        for name in ("vocabulary", "exponent"):
            object.__setattr__(self, name, sp.sympify(getattr(self, name)))
        if self.exponent.is_negative:
            raise InputError("exponent", self.exponent, "a number >= 0")

    @property
    def repeat(self) -> sp.Expr:
        return sp.harmonic(self.vocabulary, 2 * self.exponent) / sp.harmonic(self.vocabulary, self.exponent) ** 2

    def polygamma(self) -> sp.Expr:
        """The probability of a repeat in polygamma functions, at an integer exponent.

        >>> Zipf(symbols.V).polygamma()
        (-polygamma(1, V + 1) + pi**2/6)/(polygamma(0, V + 1) + EulerGamma)**2
        """
        return self._harmonic_polygamma(2 * self.exponent) / self._harmonic_polygamma(self.exponent) ** 2

    def expansion(self) -> sp.Expr:
        r"""The probability of a repeat for a large vocabulary, by the sum formula of Euler and Maclaurin.

        Both sums are right up to :math:`O(V^{-s-3})`, s their exponent. A symbolic exponent must be neither 1/2 nor 1.

        >>> sp.N(Zipf(100).expansion()/Zipf(100).repeat - 1, 2)
        3.0e-11
        """
        return _harmonic_expansion(self.vocabulary, 2 * self.exponent) / _harmonic_expansion(
            self.vocabulary, self.exponent
        ) ** 2

    def logarithmic(self) -> sp.Expr:
        r"""The leading order :math:`\pi^2/(6 \ln^2 V)` at s = 1, up to a relative O(1/log V): 11% off at V = 32000.

        >>> Zipf(symbols.V).logarithmic()
        pi**2/(6*log(V)**2)
        """
        if self.exponent != 1:
            raise InputError("exponent", self.exponent, "1")
        return sp.pi**2 / (6 * sp.log(self.vocabulary) ** 2)

    def _harmonic_polygamma(self, exponent: sp.Expr) -> sp.Expr:
        if not (exponent.is_Integer and exponent > 0):
            raise InputError("exponent", self.exponent, "a positive integer")
        order = int(exponent) - 1
        at_end = sp.polygamma(order, self.vocabulary + 1)
        if order == 0:
            return at_end + sp.EulerGamma
        return sp.zeta(exponent) + sp.Integer(-1) ** order * at_end / sp.factorial(order)

    def draw(
        self, rng: np.random.Generator, shape: tuple[int, int], number: Callable[[sp.Expr], float]
    ) -> Identifiers:
        import numpy as np

        weights = np.arange(1, int(number(self.vocabulary)) + 1) ** -number(self.exponent)
        total = np.cumsum(weights)
        words: Identifiers = np.searchsorted(total, rng.random(shape) * total[-1], side="right")
        return words


def _harmonic_expansion(count: sp.Expr, exponent: sp.Expr) -> sp.Expr:
    tail = count**-exponent / 2 - exponent * count ** (-exponent - 1) / 12
    if exponent == 1:
        return sp.log(count) + sp.EulerGamma + tail
    return sp.zeta(exponent) + count ** (1 - exponent) / (1 - exponent) + tail


@dataclass(frozen=True)
class Embedding(Component):
    r"""Sum of a token, a position and a segment embedding: where a network starts.

    .. math:: q = \sigma_t^2 + \sigma_p^2 + \sigma_s^2, \qquad
        \Delta = (1 - C)\, \sigma_t^2 + \sigma_p^2 + (1 - S)\, \sigma_s^2

    C is the probability that two tokens are the same word, S that they lie in the same segment. A text has two segments
    whose boundary is uniform over its n + 1 places, so that

    .. math:: S = \frac{E[k (k - 1) + (n - k)(n - k - 1)]}{n (n - 1)} = \frac23

    at every n; where neither segment may be empty (``both_segments``) it is :math:`\frac23 \frac{n - 2}{n - 1}`. Exact,
    as an average over pairs: a pair of one word is more alike than others, so that two tokens are not jointly Gaussian.
    Kedia et al. 2024, embeddings.

    >>> from symprop.core.symbols import d, sigma_s2, sigma_t2, V
    >>> Embedding(d, sigma_t2, Zipf(V, 0), segment_variance=sigma_s2).forward().gap
    sigma_s2/3 + sigma_t2*(1 - 1/V)
    """

    width: Any
    token_variance: Any
    words: WordLaw
    position_variance: Any = sp.S.Zero
    segment_variance: Any = sp.S.Zero
    both_segments: bool = False
    tokens: Any = symbols.n

    rule = "embedding"
    reason = "the tables are independent, and two tokens share a row where they are the same word or in the same segment"
    inputs = 0
    assumptions = (INDEPENDENT_WEIGHTS, INDEPENDENT_WORDS, AVERAGE_PAIR, INDEPENDENT_GRADIENT)
    sources = (Source("kedia2024", "embeddings"),)

    def __post_init__(self) -> None:
        self._sympify("width", "token_variance", "position_variance", "segment_variance", "tokens")

    @classmethod
    def examples(cls) -> tuple[Component, ...]:
        variances = {"position_variance": symbols.sigma_p2, "segment_variance": symbols.sigma_s2}
        return (
            cls(symbols.d, symbols.sigma_t2, RepeatProbability(symbols.C_rep), **variances),
            cls(symbols.d, symbols.sigma_t2, Zipf(symbols.V, symbols.zipf), **variances, both_segments=True),
            cls(symbols.d, symbols.sigma_t2, Zipf(symbols.V)),
        )

    @property
    def same_segment(self) -> sp.Expr:
        """Probability that two different tokens lie in the same segment."""
        share = sp.Rational(2, 3)
        return share * (self.tokens - 2) / (self.tokens - 1) if self.both_segments else share

    def forward(self, *signals: Signal) -> Signal:
        token, position, segment = self.token_variance, self.position_variance, self.segment_variance
        change = token * (1 - self.words.repeat) + position + segment * (1 - self.same_segment)
        return Signal(
            q=token + position + segment,
            gap=sp.S.Zero if self.tokens == 1 else change,
            tokens=self.tokens,
            width=self.width,
            fresh=True,
        )

    def backward(self, gradient: Gradient, *signals: Signal) -> tuple[Gradient, ...]:
        return ()

    def pair(self, *states: PairState) -> PairState:
        return PairState.of(self.forward())

    def token_gradient(self, gradient: Gradient, probability: sp.Expr) -> sp.Expr:
        """Second moment of a weight's gradient in the row of a word of that probability.

        >>> g = Gradient(q=sp.Integer(1), gap=sp.Integer(1))
        >>> Embedding(8, 1, Zipf(9)).token_gradient(g, sp.Rational(1, 9))
        n/9
        """
        return self.tokens * probability * gradient.q + self._pairs * probability**2 * gradient.p

    def position_gradient(self, gradient: Gradient) -> sp.Expr:
        """Second moment of a weight's gradient in the position table: one token uses a row."""
        return gradient.q

    def segment_gradient(self, gradient: Gradient) -> sp.Expr:
        """Second moment of a weight's gradient in the segment table: half of the tokens use a row, on average."""
        return self.tokens * gradient.q / 2 + self._pairs * self.same_segment * gradient.p / 2

    @property
    def _pairs(self) -> sp.Expr:
        return self.tokens * (self.tokens - 1)

    def sample(self, *x: Array, rng: np.random.Generator, values: Values, draws: int = 1) -> tuple[Array, Vjp]:
        """Draw words, the segment boundary and the tables; the output has shape (draws, tokens, width)."""
        import numpy as np

        count, width = (int(self.number(size, values)) for size in (self.tokens, self.width))
        words = self.words.draw(rng, (draws, count), lambda item: self.number(item, values))
        segments = self.draw_segments(rng, draws, count)

        def rows(rows_of: Identifiers, variance: sp.Expr) -> Array:
            # The row of a token is that of the first token which uses the same one.
            table = rng.standard_normal((draws, count, width)) * self.number(variance, values) ** 0.5
            first = (rows_of[:, :, None] == rows_of[:, None, :]).argmax(axis=2)
            chosen: Array = np.take_along_axis(table, first[:, :, None], axis=1)
            return chosen

        positions = np.broadcast_to(np.arange(count), (draws, count))
        output = (
            rows(words, self.token_variance)
            + rows(positions, self.position_variance)
            + rows(segments, self.segment_variance)
        )
        return output, lambda g: ()

    def draw_segments(self, rng: np.random.Generator, draws: int, count: int) -> Identifiers:
        """The segment, 0 or 1, of every token: shape (draws, count)."""
        import numpy as np

        lower, upper = (1, count - 1) if self.both_segments else (0, count)
        boundary = rng.integers(lower, upper, size=(draws, 1), endpoint=True)
        return (np.arange(count) >= boundary).astype(np.int64)

    def describe(self) -> str:
        """Width and words, as a reader writes them."""
        return f"{type(self).__name__}({self.width}, {self.words})"
