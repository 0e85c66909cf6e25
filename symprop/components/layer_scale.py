"""LayerScale: a branch multiplied by a small learnt gain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from symprop.components.base import Array, Component, PairState, Values, Vjp
from symprop.core import symbols
from symprop.core.provenance import Assumption, Source
from symprop.core.signal import Gradient, Signal

if TYPE_CHECKING:
    import numpy as np

CONSTANT_GAIN = Assumption("constant gain", "at initialisation every coordinate of a LayerScale has the same gain")


@dataclass(frozen=True)
class LayerScale(Component):
    r"""LayerScale :math:`y = \gamma x`; ``scale`` is the amplitude :math:`\gamma`.

    .. math:: \mu' = \gamma \mu, \qquad q' = \gamma^2 q, \qquad \Delta' = \gamma^2 \Delta

    Exact, with the same factor for the gradient. Touvron et al. 2021, Eq. 4.

    >>> from symprop.core.symbols import alpha_1, d, n
    >>> x = Signal(q=1, gap=1, tokens=n, width=d)
    >>> LayerScale(alpha_1).forward(x).q
    alpha_1**2
    """

    scale: Any

    rule = "scale"
    reason = "multiplication by a constant"
    assumptions = (CONSTANT_GAIN,)
    sources = (Source("touvron2021", "Eq. 4"),)

    def __post_init__(self) -> None:
        self._sympify("scale")

    @classmethod
    def examples(cls) -> tuple[Component, ...]:
        return (cls(symbols.alpha_1),)

    def forward(self, *signals: Signal) -> Signal:
        (x,) = signals
        return x.replace(mean=self.scale * x.mean, q=self.scale**2 * x.q, gap=self.scale**2 * x.gap)

    def backward(self, gradient: Gradient, *signals: Signal) -> tuple[Gradient, ...]:
        return (Gradient(self.scale**2 * gradient.q, self.scale**2 * gradient.gap),)

    def pair(self, *states: PairState) -> PairState:
        (x,) = states
        return x.affine(self.scale**2, scale=self.scale)

    def sample(self, *x: Array, rng: np.random.Generator, values: Values) -> tuple[Array, Vjp]:
        (tokens,) = x
        scale = self.number(self.scale, values)
        return scale * tokens, lambda g: (scale * g,)
