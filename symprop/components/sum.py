"""A residual sum of two inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sympy as sp

from symprop.components.base import Array, Component, PairState, Values, Vjp
from symprop.core import symbols
from symprop.core.errors import RefusedError
from symprop.core.provenance import Assumption, Source
from symprop.core.signal import Gradient, Signal

if TYPE_CHECKING:
    import numpy as np

FRESH_BRANCH = Assumption("fresh branch", "a residual branch has zero mean given the stream it is added to")


@dataclass(frozen=True)
class Sum(Component):
    r"""Residual sum :math:`z = \lambda x + \alpha y` of a stream x and a branch y.

    .. math:: q_z = \lambda^2 q_x + \alpha^2 q_y, \qquad \Delta_z = \lambda^2 \Delta_x + \alpha^2 \Delta_y

    ``skip_scale`` is lambda, ``branch_scale`` is alpha (amplitudes, not squares). The branch must be fresh: zero mean
    given the stream, which a random linear map at its end ensures; otherwise :class:`RefusedError`. Noci et al. 2022,
    Lemma A.5 (there lambda = 1).

    >>> from symprop.components import Linear
    >>> x = Signal(q=sp.Integer(1), gap=sp.Integer(0), tokens=sp.Integer(1), width=sp.Integer(8))
    >>> Sum(branch_scale=2).forward(x, Linear(8, sp.Rational(1, 8)).forward(x)).q
    5
    """

    branch_scale: Any = sp.S.One
    skip_scale: Any = sp.S.One

    rule = "skip"
    reason = "the branch has zero mean given the stream, so that cross terms vanish and second moments add"
    inputs = 2
    assumptions = (FRESH_BRANCH,)
    sources = (Source("noci2022", "Lemma A.5"),)

    def __post_init__(self) -> None:
        self._sympify("branch_scale", "skip_scale")

    @classmethod
    def examples(cls) -> tuple[Component, ...]:
        return Sum(symbols.alpha_1), Sum(symbols.alpha_1, symbols.alpha_2)

    def forward(self, *signals: Signal) -> Signal:
        stream, branch = signals
        if not branch.fresh:
            raise RefusedError(
                f"Sum({stream.label}, {branch.label})",
                f"its branch {branch.label} is not fresh, so cross terms with the stream do not vanish",
                "end the branch in a Linear or attention layer",
            )
        if stream.width != branch.width:
            raise RefusedError(
                f"Sum({stream.label}, {branch.label})",
                f"widths {stream.width} and {branch.width} differ",
                f"end the branch in Linear({stream.width}, ...)",
            )
        return self.exchangeable(
            stream,
            branch,
            mean=self.skip_scale * stream.mean,
            gaussian=stream.gaussian and branch.gaussian,
            fresh=stream.fresh,
        )

    def backward(self, gradient: Gradient, *signals: Signal) -> tuple[Gradient, ...]:
        skip2, branch2 = self.skip_scale**2, self.branch_scale**2
        return (
            Gradient(skip2 * gradient.q, skip2 * gradient.gap),
            Gradient(branch2 * gradient.q, branch2 * gradient.gap),
        )

    def pair(self, *states: PairState) -> PairState:
        stream, branch = states
        skip2, branch2 = self.skip_scale**2, self.branch_scale**2

        def added(one: sp.Expr | None, other: sp.Expr | None) -> sp.Expr | None:
            return None if one is None or other is None else skip2 * one + branch2 * other

        return PairState(
            skip2 * stream.entry + branch2 * branch.entry,
            added(stream.average, branch.average),
            stream.width,
            added(stream.left, branch.left),
            added(stream.right, branch.right),
            self.skip_scale * stream.left_mean,
            self.skip_scale * stream.right_mean,
            stream.diagonal,
        )

    def sample(self, *x: Array, rng: np.random.Generator, values: Values) -> tuple[Array, Vjp]:
        stream, branch = x
        skip, scale = self.number(self.skip_scale, values), self.number(self.branch_scale, values)
        return skip * stream + scale * branch, lambda g: (skip * g, scale * g)
