"""Softmax attention with normalised queries and keys (QK-norm)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy as sp

from symprop.components.attention import Attention, WeightGradients
from symprop.components.base import Array, Component, Values, Vjp
from symprop.components.linear import Linear
from symprop.components.norm import LayerNorm, RMSNorm
from symprop.core import symbols
from symprop.core.errors import InputError
from symprop.core.provenance import Source
from symprop.core.signal import Gradient, Signal
from symprop.functions.softmax_layer import Geometry

_RMS_NORM = RMSNorm(finite=True)


@dataclass(frozen=True)
class QueryKeyNormAttention(Attention):
    r"""Softmax attention with scores :math:`M = \tau \hat Q \hat K^\top/\sqrt{d_k}` of queries and keys normalised per head.

    ``norm`` is RMSNorm or LayerNorm over the coordinates of a head, with its gain, applied to queries and to keys. Scores do
    not depend on the size of the tokens or of the query and key weights:

    .. math:: a = \tau^2 g^4 \frac{d_k}{f} (1 - \hat r), \qquad \hat r = E \cos(k_j, k_l)

    with f the dimensions that a normalised key varies in. A row is a softmax of the cosines of keys on a sphere of f dimensions
    with a random direction, as for tokens of fixed norm; only the share of its direction in the covariance of the keys
    fluctuates, with relative variance 2/d. The Gram matrix of the tokens is that of the keys up to the noise of W_K.

    Backward the gradients of the normalised queries and keys are passed through :meth:`RMSNorm.backward` with what they have
    along their own query or key, and through the linear layers; :math:`x_i \cdot \partial x_i` vanishes in both paths, exactly,
    as no size matters. All is of first order in 1/d_k and 1/d. Biases of queries and keys are refused. Parameters as in
    :class:`Attention`; ``query_variance`` and ``key_variance`` only set the size of the weight gradients.
    Henry et al. 2020; Dehghani et al. 2023.

    >>> from symprop.core.symbols import d, n
    >>> x = Signal(q=sp.Integer(9), gap=sp.Integer(9), tokens=n, width=d, gaussian=True)
    >>> QueryKeyNormAttention(d, 1/d, 64).score_variance(x)
    1
    """

    query_variance: Any = sp.S.One
    key_variance: Any = sp.S.One
    norm: LayerNorm | RMSNorm = _RMS_NORM

    rule = "attention of normalised queries and keys"
    reason = (
        "normalised queries and keys meet at random angles, so that the weights of a row are those of keys on a sphere at a "
        "scale that the gains set"
    )
    sources = (Source("henry2020", "Eq. 4"), Source("dehghani2023", "Section 2"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.norm, (LayerNorm, RMSNorm)) or not self.norm.finite:
            raise InputError("norm", self.norm, "RMSNorm(finite=True) or LayerNorm(finite=True)")
        for name in ("query_bias", "key_bias"):
            if getattr(self, name) != 0:
                raise InputError(name, getattr(self, name), "0: the size of a biased query is not free of its token's")
        for name in ("query_variance", "key_variance"):
            if getattr(self, name) == 0:
                raise InputError(name, 0, "a positive variance, as a vanishing vector has no direction")
        freedom = self.norm.freedom(self.key_width)
        if freedom.is_number and freedom <= 2:
            raise InputError("key_width", self.key_width, "more than 2 dimensions after the norm, for a finite gradient")

    @property
    def neglected(self) -> str:  # type: ignore[override]
        """What the level leaves out, at first order in both widths."""
        return super().neglected + "; second order in 1/d_k and 1/d"

    @classmethod
    def examples(cls) -> tuple[Component, ...]:
        gain2 = sp.Rational(1, 1000)
        return (
            cls(symbols.d_o, symbols.sigma_v2, symbols.d_k, norm=RMSNorm(gain2, finite=True)),
            cls(
                symbols.d_o, symbols.sigma_v2, symbols.d_k, symbols.sigma_k2, symbols.sigma_w2, symbols.P, heads=2,
                key_heads=1, value_bias=symbols.sigma_x2, norm=LayerNorm(gain2, finite=True),
            ),
        )

    def describe(self) -> str:
        """As of softmax attention, with the norm."""
        return f"{super().describe()[:-1]}, norm={type(self.norm).__name__}, gain2={self.norm.gain2})"

    def _linear(self, x: Signal, variance: sp.Expr) -> Signal:
        return Linear(self.key_width, variance).forward(x)

    def _normalised(self, x: Signal) -> Signal:
        """Queries and keys as the scores see them."""
        return self.norm.forward(self._linear(x, self.key_variance))

    def score_variance(self, x: Signal) -> sp.Expr:
        """Variance a of the scores of a row about what they share."""
        keys = self._normalised(x)
        return self.temperature**2 * keys.q * keys.gap * self.key_width / keys.fixed_norm

    def geometry(self, x: Signal) -> Geometry:
        """What the weight moments depend on: keys in their own space, tokens in theirs."""
        keys = self._normalised(x)
        dimension = sp.sympify(x.width if x.fixed_norm is None else x.fixed_norm)
        return Geometry(x.tokens, dimension, keys.fixed_norm, self.score_variance(x), keys.gap / keys.q, sp.S.Zero, 2)

    def _lost_norm(self, x: Signal) -> sp.Expr:
        """Keys that point away from what all share have the larger private part, and so the larger weights."""
        if x.fixed_norm is not None:
            return super()._lost_norm(x)
        return 2 * x.gap * self.geometry(x).rho / x.width * self.moment("excess", x)

    def neglected_size(self, *signals: Signal) -> sp.Expr:
        (x,) = signals
        keys = self._normalised(x)
        variance = self.temperature**2 * keys.q**2
        return variance * (x.tokens if self.level == "uniform" else 1 / self.key_width + 2 / x.width + 1 / x.tokens)

    def _unit(self, x: Signal) -> sp.Expr:
        """Factor of the gradients of normalised queries and keys: tau^2 d/f and the private size of the tokens."""
        return self.temperature**2 * x.width / self.norm.freedom(self.key_width) * x.gap

    def _below(self, gradient: Gradient, variance: sp.Expr, x: Signal) -> Gradient:
        """From normalised queries or keys to the tokens, which get nothing along their own direction."""
        (before,) = self.norm.backward(gradient, self._linear(x, variance))
        (found,) = Linear(self.key_width, variance).backward(before, x)
        return found.times(1 - 1 / sp.sympify(x.width))

    def _of_queries(self, gradient: Gradient, x: Signal) -> Gradient:
        """Gradient of the normalised queries, in units of the output width times the value variance."""
        scale, form = self._unit(x) * self._normalised(x).gap, self.moment("form", x)
        dropped = self._noise * self._value_size(x) / x.gap * self.moment("square", x) * gradient.q if x.gap != 0 else sp.S.Zero
        radial = scale * (self.geometry(x).dimension * self.moment("along", x) - form) * gradient.q
        change = form * gradient.gap + (form - self.moment("joint", x)) * gradient.p
        return Gradient(scale * (form * gradient.q + dropped), scale * (change + dropped), radial, radial)

    def _tied(self, x: Signal, own: sp.Expr) -> sp.Expr:
        """Share of the variance of two rows' score correlation that a part of it of variance ``own`` has."""
        item = self.geometry(x)
        r, turn = item.rho, (1 - item.rho**2) ** 2
        return turn * own / (turn * (1 / item.key_width + 1 / item.dimension) + (1 + r**2) / item.dimension)

    def _cosine(self, plain: sp.Expr, weighted: sp.Expr, x: Signal) -> sp.Expr:
        """The mean over two rows times the cosine of their queries, from the plain one and that times the score correlation."""
        item = self.geometry(x)
        shared = item.rho * plain
        return shared + self._tied(x, 1 / item.key_width + 1 / item.dimension) * (weighted - shared)

    def _of_keys(self, gradient: Gradient, x: Signal) -> Gradient:
        """Gradient of the normalised keys, in the same units; it vanishes in the sum over keys."""
        keys, others = self._normalised(x), x.tokens - 1
        dropped = self._noise * self._value_size(x) / x.gap if x.gap != 0 else sp.S.Zero
        q = self._unit(x) * keys.q * (
            (1 + dropped) * self.moment("scaled_jacobian", x) * gradient.q
            + others * self._cosine(self.moment("plain_jacobian", x), self.moment("pair_jacobian", x), x) * gradient.p
        )
        excess, _ = self._score_along(gradient, x)
        radial = x.width * x.gap / (self.key_width * keys.q) * excess
        return Gradient(q, x.tokens / others * q, radial, (1 + 2 / others) * radial)

    def _cross(self, gradient: Gradient, x: Signal) -> Gradient:
        """Twice the value path times the key path: what a key has along itself is gone, also from the sum over keys."""
        keys, others = self._normalised(x), x.tokens - 1
        _, tilt = self._score_along(gradient, x)
        plain = self.moment("slope", x) * gradient.q + others * self.moment("pair_slope", x) * gradient.p
        lost = 2 * keys.gap / keys.q / x.width
        q = plain / x.width - lost * (self.moment("value_along", x) * gradient.q + tilt)
        total = -lost * self.moment("pull", x) * (gradient.q + others * gradient.p)
        return Gradient(q, q - (total - q) / others)

    def _query_path(self, gradient: Gradient, x: Signal) -> Gradient:
        if x.tokens == 1:
            return Gradient(sp.S.Zero, sp.S.Zero)
        return self._below(self._of_queries(gradient, x), self.query_variance, x)

    def _key_path(self, gradient: Gradient, x: Signal) -> Gradient:
        values = self._value_path(gradient, x)
        if x.tokens == 1:
            return values
        keys = self._below(self._of_keys(gradient, x), self.key_variance, x)
        return values.plus(keys).plus(self._cross(gradient, x))

    def _radial(self, gradient: Gradient, x: Signal) -> Gradient:
        """Queries, keys and the product of keys with values have nothing along their token, where an isotropic one has 1/d."""
        queries = self._below(self._of_queries(gradient, x), self.query_variance, x)
        keys = self._below(self._of_keys(gradient, x), self.key_variance, x)
        paths = queries.plus(keys).plus(self._cross(gradient, x))
        return Gradient(sp.S.Zero, sp.S.Zero, -paths.q, -paths.q + (2 - x.rho**2) * paths.p)

    def weight_gradients(self, gradient: Gradient, signal: Signal) -> WeightGradients:
        r"""E ||dLoss/dW||^2 of the query, key and value matrices: linear layers below the norms.

        Beyond independent tokens and gradients the Gram matrix of the tokens fluctuates with that of the keys: in the query
        gradient of two rows by Stein's lemma, in the key gradient by a second Gram matrix.
        """
        self.accept(signal)
        x, others = signal, (signal.tokens - 1) * gradient.p
        if x.tokens == 1:
            return WeightGradients(sp.S.Zero, sp.S.Zero, self._value_gradient(gradient, x))
        keys, item = self._normalised(x), self.geometry(x)
        gain, size = self.width * self.value_variance, x.width * self.key_width
        by_query, by_key = (
            Linear(self.key_width, variance).weight_gradient(self.norm.backward(of, self._linear(x, variance))[0], x)
            for variance, of in (
                (self.query_variance, self._of_queries(gradient, x)), (self.key_variance, self._of_keys(gradient, x))
            )
        )
        joint, scaled_joint = self.moment("joint", x), self.moment("scaled_joint", x)
        again, jacobian, form = (self.moment(f"scaled_{name}", x) for name in ("square", "jacobian", "form"))
        # The form with both Gram matrices of tokens, from that with one of keys.
        trace = self._cosine(joint - self.moment("plain_jacobian", x), scaled_joint - self.moment("pair_jacobian", x), x)
        form -= (jacobian - again) * item.dimension / item.key_width
        by_query += x.tokens * self._unit(x) * keys.gap * x.q * self._gain(x, self.query_variance) * (
            others * self._tied(x, 1 / item.dimension) * (scaled_joint - item.rho * joint)
        )
        by_key += x.tokens * self._unit(x) * keys.q * x.gap * self._gain(x, self.key_variance) * (
            gradient.q * (form - jacobian) + others * trace
        )
        return WeightGradients(gain * size * by_query, gain * size * by_key, self._value_gradient(gradient, x))

    def _gain(self, x: Signal, variance: sp.Expr) -> sp.Expr:
        """Factor of an isotropic gradient in its way below the norm."""
        return self.norm.gain2 / self.norm.size2(self._linear(x, variance))

    def _scored(self, x: Array, values: Values) -> tuple[Array, Vjp]:
        import numpy as np

        return self.norm.sample(x, rng=np.random.default_rng(0), values=values)
