"""Activations as named classes: what they compute, and their Gaussian moments in closed form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import sympy as sp

from symprop.core.errors import RefusedError
from symprop.core.provenance import EXACT, Source
from symprop.functions import gaussian_expectation as ge
from symprop.functions.depth_nodes import ExpMinusOne
from symprop.functions.difference import Kernel
from symprop.functions.ogive_moments import OgiveMoments

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]


class Activation(ABC):
    r"""A function phi of one variable with its moments at Gaussian inputs.

    x and y are jointly Gaussian with mean m, variance v and covariance v - gap; ``cross`` takes unequal moments. Slopes are
    the same moments of phi'. ``odd`` says that phi(-x) = -phi(x).
    """

    name: ClassVar[str]
    neglected: ClassVar[str] = EXACT
    odd: ClassVar[bool] = False
    sources: ClassVar[tuple[Source, ...]] = ()

    @abstractmethod
    def expression(self, x: sp.Expr) -> sp.Expr:
        """phi(x)."""

    @abstractmethod
    def mean(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        """E phi(x)."""

    @abstractmethod
    def second(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        """E phi(x)^2."""

    @abstractmethod
    def gap(self, m: sp.Expr, v: sp.Expr, gap: sp.Expr) -> sp.Expr:
        """E phi(x)^2 - E phi(x) phi(y), right to every digit as gap tends to zero."""

    @abstractmethod
    def cross(self, m1: sp.Expr, m2: sp.Expr, v1: sp.Expr, v2: sp.Expr, c: sp.Expr) -> sp.Expr:
        """E phi(x) phi(y) at means m1, m2, variances v1, v2 and covariance c."""

    @abstractmethod
    def slope_mean(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        """E phi'(x)."""

    @abstractmethod
    def slope_second(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        """E phi'(x)^2."""

    @abstractmethod
    def slope_gap(self, m: sp.Expr, v: sp.Expr, gap: sp.Expr) -> sp.Expr:
        """E phi'(x)^2 - E phi'(x) phi'(y)."""

    @abstractmethod
    def slope_cross(self, m1: sp.Expr, m2: sp.Expr, v1: sp.Expr, v2: sp.Expr, c: sp.Expr) -> sp.Expr:
        """E phi'(x) phi'(y)."""

    @abstractmethod
    def apply(self, x: Array) -> Array:
        """phi of every entry."""

    @abstractmethod
    def slope(self, x: Array) -> Array:
        """phi' of every entry."""

    def saturated(self) -> tuple[sp.Expr, sp.Expr]:
        r"""Leading terms at large variance v and mean zero: E phi^2, and :math:`\sqrt{v}\, E \phi'^2`.

        .. math:: \tfrac{1}{2}(\phi(\infty)^2 + \phi(-\infty)^2), \quad \int \phi'(x)^2\, dx / \sqrt{2\pi}

        Raises :class:`RefusedError` for a function that does not saturate.
        """
        x = sp.Symbol("x", real=True)
        phi = self.expression(x)
        ends = [sp.limit(phi, x, end) for end in (sp.oo, -sp.oo)]
        if not all(end.is_finite for end in ends):
            raise RefusedError(f"{self.name} at large variance", f"it tends to {ends[1]} and {ends[0]}", "iterate the map")
        return (ends[0] ** 2 + ends[1] ** 2) / 2, sp.integrate(sp.diff(phi, x) ** 2, (x, -sp.oo, sp.oo)) / sp.sqrt(2 * sp.pi)

    @property
    def takes_mean(self) -> bool:
        """Whether the moments are known at a nonzero mean."""
        return True


class OgiveActivation(Activation):
    r"""A polynomial times a step or a normal cdf, plus a polynomial; its moments are derived.

    At zero mean they are elementary up to an angle; slopes follow from Price's theorem,
    :math:`E \phi'(x)\phi'(y) = \partial_c E \phi(x)\phi(y)`, and :math:`E \phi' = \partial_m E \phi`. At any other mean
    they are those of :class:`~symprop.functions.ogive_moments.OgiveMoments`.
    """

    @property
    @abstractmethod
    def terms(self) -> tuple[ge.Term, ...]:
        """phi as coefficients, powers and bases."""

    @property
    def _at_mean(self) -> OgiveMoments:
        return OgiveMoments(self.name, self.terms)

    def mean(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        if m != 0:
            return self._at_mean.mean(m, v)
        return sp.expand(at_zero_mean(ge.single_moment(self.terms), v, v))

    def slope_mean(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        if m != 0:
            return self._at_mean.slope.mean(m, v)
        return sp.expand(at_zero_mean(sp.diff(ge.single_moment(self.terms), ge.M1), v, v))

    def cross(self, m1: sp.Expr, m2: sp.Expr, v1: sp.Expr, v2: sp.Expr, c: sp.Expr) -> sp.Expr:
        if m1 != 0 or m2 != 0:
            return self._at_mean.cross(m1, m2, v1, v2, c)
        return _cross(self.terms, 0, v1, v2, c)

    def slope_cross(self, m1: sp.Expr, m2: sp.Expr, v1: sp.Expr, v2: sp.Expr, c: sp.Expr) -> sp.Expr:
        if m1 != 0 or m2 != 0:
            return self._at_mean.slope.cross(m1, m2, v1, v2, c)
        return _cross(self.terms, 1, v1, v2, c)

    def second(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return self._at_mean.second(m, v) if m != 0 else _normal(self.terms, 0).full().subs(ge.V1, v)

    def slope_second(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return self._at_mean.slope.second(m, v) if m != 0 else _normal(self.terms, 1).full().subs(ge.V1, v)

    def gap(self, m: sp.Expr, v: sp.Expr, gap: sp.Expr) -> sp.Expr:
        if m != 0:
            return self._at_mean.gap(m, v, gap)
        return _normal(self.terms, 0).difference(ge.GAP).subs({ge.V1: v, ge.GAP: gap}, simultaneous=True)

    def slope_gap(self, m: sp.Expr, v: sp.Expr, gap: sp.Expr) -> sp.Expr:
        if m != 0:
            return self._at_mean.slope.gap(m, v, gap)
        return _normal(self.terms, 1).difference(ge.GAP).subs({ge.V1: v, ge.GAP: gap}, simultaneous=True)


def at_zero_mean(moment: sp.Expr, v1: sp.Expr, v2: sp.Expr) -> sp.Expr:
    """A moment at zero means and the given variances."""
    return moment.subs({ge.M1: 0, ge.M2: 0}).subs({ge.V1: v1, ge.V2: v2}, simultaneous=True)


@cache
def _kernel(terms: tuple[ge.Term, ...], order: int) -> sp.Expr:
    """E phi phi at zero means, or its derivative in the covariance."""
    kernel = at_zero_mean(ge.cross_moment(terms, terms), ge.V1, ge.V2)
    return sp.diff(kernel, ge.COV, order)


@cache
def _normal(terms: tuple[ge.Term, ...], order: int) -> Kernel:
    """The same kernel at equal variances."""
    return Kernel.of(_kernel(terms, order).subs(ge.V2, ge.V1), ge.COV, ge.V1, ge.noise2(terms))


@cache
def _opposite(terms: tuple[ge.Term, ...], order: int) -> sp.Expr:
    return _normal(terms, order).from_opposite()


def _cross(terms: tuple[ge.Term, ...], order: int, v1: sp.Expr, v2: sp.Expr, c: sp.Expr) -> sp.Expr:
    """E phi phi at zero means, or its derivative in the covariance."""
    if v1 != v2 and not _homogeneous(terms):
        return _kernel(terms, order).subs({ge.V1: v1, ge.V2: v2, ge.COV: c}, simultaneous=True)
    # A homogeneous function sees no variance but the geometric mean of the two.
    v = v1 if v1 == v2 else sp.sqrt(v1 * v2)
    return _opposite(terms, order).subs({ge.V1: v, ge.COV: c}, simultaneous=True)


def _homogeneous(terms: tuple[ge.Term, ...]) -> bool:
    """Whether phi(a x) is a power of a times phi(x) for positive a."""
    return ge.noise2(terms) == 0 and len({power for _, power, _ in terms}) == 1


CHO_SAUL = Source("cho2009", "Section 2")
WILLIAMS = Source("williams1997", "Eq. 11")


@dataclass(frozen=True)
class LeakyRelu(OgiveActivation):
    """x for x > 0, else ``negative_slope`` times x.

    >>> v, g = sp.symbols("v g", positive=True)
    >>> LeakyRelu(sp.Rational(1, 2)).second(sp.S.Zero, v)
    5*v/8
    """

    negative_slope: Any
    name = "leaky_relu"
    sources = (CHO_SAUL,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "negative_slope", sp.sympify(self.negative_slope))

    @property
    def terms(self) -> tuple[ge.Term, ...]:
        return ((1 - self.negative_slope, 1, ge.STEP), (self.negative_slope, 1, None))

    def expression(self, x: sp.Expr) -> sp.Expr:
        slope = self.negative_slope
        if slope == -1:
            return sp.Abs(x)
        if not slope.is_number:
            return sp.Max(x, 0) + slope * sp.Min(x, 0)
        return (sp.Max if slope <= 1 else sp.Min)(x, slope * x)

    def apply(self, x: Array) -> Array:
        import numpy as np

        return np.where(x > 0, x, float(self.negative_slope) * x)

    def slope(self, x: Array) -> Array:
        import numpy as np

        return np.where(x > 0, 1.0, float(self.negative_slope))


@dataclass(frozen=True)
class Relu(LeakyRelu):
    """max(x, 0).

    >>> v, g = sp.symbols("v g", positive=True)
    >>> Relu().gap(sp.S.Zero, v, g)
    g/2 - ArcCosine(1, g, v)/(2*pi)
    """

    negative_slope: Any = sp.S.Zero
    name = "relu"


@dataclass(frozen=True)
class Absolute(LeakyRelu):
    """The absolute value ``|x|``."""

    negative_slope: Any = sp.S.NegativeOne
    name = "abs"


@dataclass(frozen=True)
class Identity(LeakyRelu):
    """x."""

    negative_slope: Any = sp.S.One
    name = "identity"
    odd = True


@dataclass(frozen=True)
class SquaredRelu(OgiveActivation):
    """max(x, 0)^2.

    >>> v = sp.Symbol("v", positive=True)
    >>> SquaredRelu().second(sp.S.Zero, v), SquaredRelu().slope_second(sp.S.Zero, v)
    (3*v**2/2, 2*v)
    """

    name = "squared_relu"
    sources = (CHO_SAUL,)

    @property
    def terms(self) -> tuple[ge.Term, ...]:
        return ((sp.S.One, 2, ge.STEP),)

    def expression(self, x: sp.Expr) -> sp.Expr:
        return sp.Max(x, 0) ** 2

    def apply(self, x: Array) -> Array:
        import numpy as np

        return np.maximum(x, 0) ** 2

    def slope(self, x: Array) -> Array:
        import numpy as np

        return 2 * np.maximum(x, 0)


@dataclass(frozen=True)
class Gelu(OgiveActivation):
    r"""The exact GeLU, :math:`x \Phi(x)`.

    >>> v = sp.Symbol("v", positive=True)
    >>> Gelu().mean(sp.S.Zero, v)
    sqrt(2)*v/(2*sqrt(pi)*sqrt(v + 1))
    """

    name = "gelu"
    sources = (WILLIAMS,)

    @property
    def terms(self) -> tuple[ge.Term, ...]:
        return ((sp.S.One, 1, ge.Ogive(sp.S.One)),)

    def expression(self, x: sp.Expr) -> sp.Expr:
        return x * ge.NormalCdf(x)

    def apply(self, x: Array) -> Array:
        import numpy as np
        from scipy.special import ndtr

        return np.asarray(x * ndtr(x))

    def slope(self, x: Array) -> Array:
        import numpy as np
        from scipy.special import ndtr

        return np.asarray(ndtr(x) + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi))


@dataclass(frozen=True)
class Erf(OgiveActivation):
    r"""The error function, :math:`2 \Phi(\sqrt{2} x) - 1`."""

    name = "erf"
    odd = True
    sources = (WILLIAMS,)

    @property
    def terms(self) -> tuple[ge.Term, ...]:
        return ((sp.Integer(2), 0, ge.Ogive(sp.S.Half)), (sp.S.NegativeOne, 0, None))

    def expression(self, x: sp.Expr) -> sp.Expr:
        return sp.erf(x)

    def apply(self, x: Array) -> Array:
        import numpy as np
        from scipy.special import erf

        return np.asarray(erf(x))

    def slope(self, x: Array) -> Array:
        import numpy as np

        return np.asarray(2 / np.sqrt(np.pi) * np.exp(-(x**2)))


@dataclass(frozen=True)
class Sine(Activation):
    r"""sin(x), by the characteristic function :math:`E e^{i(sx + ty)} = e^{i(sm_1 + tm_2) - (s^2 v_1 + t^2 v_2)/2 - stc}`.

    >>> v, g = sp.symbols("v g", positive=True)
    >>> Sine().second(sp.S.Zero, v)
    -ExpMinusOne(-2*v)/2
    """

    name = "sin"
    odd = True

    def expression(self, x: sp.Expr) -> sp.Expr:
        return sp.sin(x)

    def mean(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return sp.sin(m) * sp.exp(-v / 2)

    def second(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return self._below_one(m, -2 * v) / 2

    def gap(self, m: sp.Expr, v: sp.Expr, gap: sp.Expr) -> sp.Expr:
        return -ExpMinusOne(-gap) * (1 + sp.cos(2 * m) * sp.exp(gap - 2 * v)) / 2

    def cross(self, m1: sp.Expr, m2: sp.Expr, v1: sp.Expr, v2: sp.Expr, c: sp.Expr) -> sp.Expr:
        # The difference of the two waves, with sinh(c) = tanh(c) cosh(c) so that neither small nor large c loses digits.
        means = sp.sin(m1) * sp.sin(m2) * sp.exp(c - (v1 + v2) / 2)
        return means + sp.tanh(c) * (self._wave(m1 + m2, v1, v2, -c) + self._wave(m1 + m2, v1, v2, c)) / 2

    def slope_mean(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return sp.cos(m) * sp.exp(-v / 2)

    def slope_second(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return (1 + sp.cos(2 * m) * sp.exp(-2 * v)) / 2

    def slope_gap(self, m: sp.Expr, v: sp.Expr, gap: sp.Expr) -> sp.Expr:
        return -ExpMinusOne(-gap) * self._below_one(m, gap - 2 * v) / 2

    def slope_cross(self, m1: sp.Expr, m2: sp.Expr, v1: sp.Expr, v2: sp.Expr, c: sp.Expr) -> sp.Expr:
        return (self._wave(m1 - m2, v1, v2, -c) + self._wave(m1 + m2, v1, v2, c)) / 2

    @staticmethod
    def _below_one(m: sp.Expr, exponent: sp.Expr) -> sp.Expr:
        """1 - cos(2m) e^exponent, without cancellation."""
        return -ExpMinusOne(exponent) + 2 * sp.sin(m) ** 2 * sp.exp(exponent)

    @staticmethod
    def _wave(mean: sp.Expr, v1: sp.Expr, v2: sp.Expr, c: sp.Expr) -> sp.Expr:
        return sp.cos(mean) * sp.exp(-(v1 + v2) / 2 - c)

    def apply(self, x: Array) -> Array:
        import numpy as np

        return np.sin(x)

    def slope(self, x: Array) -> Array:
        import numpy as np

        return np.cos(x)


@dataclass(frozen=True)
class SkipSum(Activation):
    r"""A residual sum around an activation, :math:`\lambda x + \beta \phi(x)`, with its cross terms.

    Stein's lemma gives them: :math:`E x \phi(y) = m E \phi + c\, E \phi'`.
    """

    activation: Activation
    skip_scale: Any = sp.S.One
    branch_scale: Any = sp.S.One
    name = "skip_sum"

    def __post_init__(self) -> None:
        for item in ("skip_scale", "branch_scale"):
            object.__setattr__(self, item, sp.sympify(getattr(self, item)))

    @property
    def takes_mean(self) -> bool:
        return self.activation.takes_mean

    @property
    def neglected(self) -> str:  # type: ignore[override]
        """What the moments of the branch leave out."""
        return self.activation.neglected

    def expression(self, x: sp.Expr) -> sp.Expr:
        return self.skip_scale * x + self.branch_scale * self.activation.expression(x)

    def mean(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return self.skip_scale * m + self.branch_scale * self.activation.mean(m, v)

    def second(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        mixed = m * self.activation.mean(m, v) + v * self.activation.slope_mean(m, v)
        return self._sum(v + m**2, self.activation.second(m, v), mixed)

    def gap(self, m: sp.Expr, v: sp.Expr, gap: sp.Expr) -> sp.Expr:
        return self._sum(gap, self.activation.gap(m, v, gap), gap * self.activation.slope_mean(m, v))

    def cross(self, m1: sp.Expr, m2: sp.Expr, v1: sp.Expr, v2: sp.Expr, c: sp.Expr) -> sp.Expr:
        phi = self.activation
        first = m1 * phi.mean(m2, v2) + c * phi.slope_mean(m2, v2)
        other = m2 * phi.mean(m1, v1) + c * phi.slope_mean(m1, v1)
        return self._sum(c + m1 * m2, phi.cross(m1, m2, v1, v2, c), (first + other) / 2)

    def slope_mean(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return self.skip_scale + self.branch_scale * self.activation.slope_mean(m, v)

    def slope_second(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return self._sum(sp.S.One, self.activation.slope_second(m, v), self.activation.slope_mean(m, v))

    def slope_gap(self, m: sp.Expr, v: sp.Expr, gap: sp.Expr) -> sp.Expr:
        return self.branch_scale**2 * self.activation.slope_gap(m, v, gap)

    def slope_cross(self, m1: sp.Expr, m2: sp.Expr, v1: sp.Expr, v2: sp.Expr, c: sp.Expr) -> sp.Expr:
        phi = self.activation
        mixed = (phi.slope_mean(m1, v1) + phi.slope_mean(m2, v2)) / 2
        return self._sum(sp.S.One, phi.slope_cross(m1, m2, v1, v2, c), mixed)

    def _sum(self, stream: sp.Expr, branch: sp.Expr, mixed: sp.Expr) -> sp.Expr:
        skip, scale = self.skip_scale, self.branch_scale
        return skip**2 * stream + scale**2 * branch + 2 * skip * scale * mixed

    def apply(self, x: Array) -> Array:
        return float(self.skip_scale) * x + float(self.branch_scale) * self.activation.apply(x)

    def slope(self, x: Array) -> Array:
        return float(self.skip_scale) + float(self.branch_scale) * self.activation.slope(x)
