"""What attention layers with positions share: parameters, refusals and the sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sympy as sp

from symprop.components.base import Array, PairState, Values, Vjp
from symprop.components.level_warning import RangedAttention
from symprop.components.linear import gaussian_matrix
from symprop.core.errors import InputError, RefusedError
from symprop.core.provenance import Assumption
from symprop.core.signal import Gradient, Signal

if TYPE_CHECKING:
    import numpy as np

GAUSSIAN_TOKENS = Assumption("Gaussian tokens", "tokens are jointly Gaussian and exchangeable before the layer")


def later_keys(count: int) -> Array:
    """True where a causal mask hides key j from row i, of shape (rows, keys)."""
    import numpy as np

    return np.triu(np.ones((count, count), dtype=bool), 1)


@dataclass(frozen=True)
class PositionalAttention(RangedAttention):
    """Softmax attention in which the position of a token matters; the parameters are those of :class:`Attention`.

    ``width`` is the output width of all ``heads`` together, ``key_width`` that of the keys of one head; variances are
    absolute. ``query_variance`` 0 makes the weights of a row equal.
    """

    width: Any
    value_variance: Any
    key_width: Any = sp.S.One
    query_variance: Any = sp.S.Zero
    key_variance: Any = sp.S.Zero
    temperature: Any = sp.S.One
    heads: Any = sp.S.One

    gaussian_input = True
    maps_entries = False

    def __post_init__(self) -> None:
        self._sympify("width", "value_variance", "key_width", "query_variance", "key_variance", "temperature", "heads")
        if self.heads.is_number and not (self.heads.is_Integer and self.heads > 0):
            raise InputError("heads", self.heads, "an integer >= 1")

    def _strength(self, x: Signal) -> sp.Expr:
        return self.temperature**2 * self.query_variance * self.key_variance * x.width**2

    def score_variance(self, x: Signal) -> sp.Expr:
        """Variance of the scores of a row that the private parts of the tokens cause, at large width."""
        return self._strength(x) * x.q * x.gap

    def _value_gradient(self, gradient: Gradient, x: Signal) -> sp.Expr:
        """That of a linear layer of the averaged tokens, which are the output over the gain of the values."""
        n, out = x.tokens, self.forward(x)
        return self.width * n * (out.q * gradient.q + (n - 1) * out.p * gradient.p) / self.value_variance

    def pair(self, *states: PairState) -> PairState:
        raise RefusedError(
            self.describe(),
            "the weights of a row depend on all tokens it sees, and on its position",
            "propagate exchangeable tokens",
        )

    def _hidden(self, count: int) -> Array | None:
        """True where row i does not see key j."""
        return None

    def _placed(self, x: Array, values: Values, sign: int = 1) -> Array:
        """Queries or keys of shape (draws, tokens, key width) with their positions; ``sign`` -1 undoes it."""
        return x

    def _mask(self, rng: np.random.Generator, shape: tuple[int, ...], values: Values) -> Array | float:
        """Factors of the attention weights."""
        return 1.0

    def sample(self, *x: Array, rng: np.random.Generator, values: Values) -> tuple[Array, Vjp]:
        import numpy as np

        (tokens,) = x
        draws, count, fan_in = tokens.shape
        heads, width, key_width = (int(self.number(size, values)) for size in (self.heads, self.width, self.key_width))
        if width % heads:
            raise InputError("heads", heads, f"a divisor of the output width {width}")
        value = gaussian_matrix(rng, draws, fan_in, width, self.number(self.value_variance, values))
        rng = rng.spawn(1)[0]
        scale = self.number(self.temperature, values) / key_width**0.5
        hidden = self._hidden(count)
        parts = []
        for head_value in np.split(value, heads, axis=2):
            query = gaussian_matrix(rng, draws, fan_in, key_width, self.number(self.query_variance, values))
            key = gaussian_matrix(rng, draws, fan_in, key_width, self.number(self.key_variance, values))
            queries, keys = self._placed(tokens @ query, values), self._placed(tokens @ key, values)
            scores = queries @ keys.swapaxes(1, 2) * scale
            scores = scores if hidden is None else np.where(hidden, -np.inf, scores)
            weights = np.exp(scores - scores.max(axis=2, keepdims=True))
            weights /= weights.sum(axis=2, keepdims=True)
            parts.append((head_value, query, key, queries, keys, weights, self._mask(rng, weights.shape, values)))
        output = np.concatenate([(weights * mask) @ (tokens @ v) for v, *_, weights, mask in parts], axis=2)

        def vjp(g: Array) -> tuple[Array, ...]:
            pulled = np.zeros_like(tokens)
            for (v, query, key, queries, keys, weights, mask), part in zip(parts, np.split(g, heads, axis=2), strict=True):
                to_values = part @ v.swapaxes(1, 2)
                to_weights = to_values @ tokens.swapaxes(1, 2) * mask
                to_scores = weights * (to_weights - (weights * to_weights).sum(axis=2, keepdims=True)) * scale
                pulled += (weights * mask).swapaxes(1, 2) @ to_values
                pulled += self._placed(to_scores @ keys, values, -1) @ query.swapaxes(1, 2)
                pulled += self._placed(to_scores.swapaxes(1, 2) @ queries, values, -1) @ key.swapaxes(1, 2)
            return (pulled,)

        return output, vjp
