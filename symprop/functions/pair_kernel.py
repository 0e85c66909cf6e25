r"""The expected product of an activation at two tokens, over a whole matrix of covariances at once.

Closed forms are compiled. Activations whose kernel is a sum over a table (mixtures, quadrature rules) use Mehler's series
:math:`E \phi(x)\phi(y) = \sum_k a_k(v_x)\, a_k(v_y)\, r^k` with :math:`a_k(v) = E \phi(\sqrt{v} z) h_k(z)` and orthonormal
Hermite polynomials :math:`h_k`: one dimension of quadrature for each token instead of two for each pair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import sympy as sp
from sympy.core.function import ArgumentIndexError

from symprop.core.errors import RefusedError
from symprop.functions.activation import Activation
from symprop.functions.arc_cosine import arc_cosine_array
from symprop.functions.quadrature_activation import QuadratureActivation
from symprop.functions.table_sum import TableSum

Array = npt.NDArray[np.float64]

REACH, STEP, RESOLVED = 9.0, 0.05, 8.0
"""Trapezoidal rule over +-REACH standard deviations; STEP resolves standard deviations up to RESOLVED."""
GRADED = 64.0
"""The standard deviation from which nodes lie the closer the nearer they are to zero, where activations bend."""
TERMS, TAIL = 240, 1e-13
"""The series ends where it holds all but TAIL of the second moment, or after TERMS terms."""
NODES, CLOSE = 16, 1.5
"""Functions of the variance are interpolated between powers of CLOSE at NODES, to a relative error of the order of TAIL."""
_DEGREES = np.arange(NODES)[:, None]
SMALLEST = 1e-300
"""A variance below counts as zero."""
FEW = 64
"""Pairs up to which all powers are taken at once."""

_FIRST, _SECOND = sp.symbols("v_first v_second", positive=True)
_COVARIANCE = sp.Symbol("c_pair", real=True)


@dataclass(frozen=True)
class PairKernel:
    r"""E phi(x) phi(y), or with ``order`` 1 E phi'(x) phi'(y), for zero-mean Gaussians x and y.

    >>> from symprop.functions.logistic import Tanh
    >>> v = np.array([1.0, 1.0])
    >>> PairKernel(Tanh()).of(v, v, np.array([0.0, 1.0])).round(8).tolist()
    [0.0, 0.39429449]
    """

    activation: Activation
    order: int = 0

    def of(self, first: Array, second: Array, covariance: Array) -> Array:
        """The kernel at variances and covariances that broadcast against each other.

        A covariance beyond the Cauchy-Schwarz bound, as rounding leaves it, is taken as the bound.
        """
        if self.order > 1:
            raise RefusedError(
                f"kernel of {self.activation.name}", "only the function and its slope have pair moments here",
                "differentiate once at most",
            )
        first, second, covariance = (np.asarray(item, dtype=float) for item in (first, second, covariance))
        bound = np.sqrt(first * second)
        covariance = np.clip(covariance, -bound, bound)
        closed = _closed(self.activation, self.order)
        if closed is None:
            return self._series(first, second, covariance / np.where(bound > 0, bound, 1.0))
        return np.asarray(closed(first, second, covariance), dtype=float) + np.zeros_like(bound)

    def _series(self, first: Array, second: Array, r: Array) -> Array:
        variances, places = np.unique(np.concatenate([first.ravel(), second.ravel()]), return_inverse=True)
        one, other = places[: first.size].reshape(first.shape), places[first.size :].reshape(second.shape)
        coefficients, whole = self._coefficients(variances)
        if np.array_equal(first, second) and (r == 1).all():
            return np.asarray(whole[one] * r)
        apart = float(np.abs(r[r != 1]).max(initial=0.0))
        rest = np.maximum(whole - np.cumsum(coefficients**2, axis=0), 0.0)
        powers = apart ** np.arange(1, TERMS + 1)
        short = (rest * powers[:, None] <= TAIL * whole).all(axis=1)
        last = int(np.argmax(short)) if short.any() else TERMS - 1
        # The tail counts as one more power: exact where two tokens coincide.
        rows = np.concatenate([coefficients[: last + 1], np.sqrt(rest[last : last + 1])])
        if r.size <= FEW:
            return np.asarray((rows.T[one] * rows.T[other] * r[..., None] ** np.arange(last + 2)).sum(axis=-1))
        total = np.zeros_like(r)
        for row in rows[::-1]:
            total *= r
            total += row[one] * row[other]
        return total

    def _coefficients(self, variances: Array) -> tuple[Array, Array]:
        """Hermite coefficients of shape (TERMS, variances), and second moments.

        Both are smooth functions of the variance, interpolated between powers of CLOSE.
        """
        found = np.empty((TERMS + 1, len(variances)))
        panels = np.floor(np.log(np.maximum(variances, SMALLEST)) / np.log(CLOSE))
        for panel in np.unique(panels):
            chosen, low, high = panels == panel, CLOSE**panel, CLOSE ** (panel + 1)
            place = np.clip((2 * variances[chosen] - low - high) / (high - low), -1.0, 1.0)
            found[:, chosen] = _panel(self.activation, self.order, int(panel)) @ np.cos(_DEGREES * np.arccos(place))
        zero = variances < SMALLEST
        if zero.any():
            found[:, zero] = _expanded(self.activation, self.order, variances[zero])
        return found[:-1], found[-1]


@lru_cache(maxsize=512)
def _panel(activation: Activation, order: int, index: int) -> Array:
    """Chebyshev coefficients, of shape (TERMS + 1, NODES), of :func:`_expanded` between two powers of CLOSE."""
    nodes = np.polynomial.chebyshev.chebpts1(NODES)
    among = np.polynomial.chebyshev.chebvander(nodes, NODES - 1)
    low, high = CLOSE**index, CLOSE ** (index + 1)
    values = _expanded(activation, order, (high + low + (high - low) * nodes) / 2)
    return np.asarray(np.linalg.solve(among, values.T).T)


def _expanded(activation: Activation, order: int, variances: Array) -> Array:
    """Hermite coefficients of a function, or with ``order`` 1 of its slope, above its second moment: (TERMS + 1, variances)."""
    spread = np.sqrt(variances)
    z, weight, polynomials = _mesh(max(RESOLVED, float(spread.max(initial=0.0))))
    values = (activation.apply, activation.slope)[order](spread[:, None] * z)
    return np.vstack([polynomials @ (values * weight).T, (values**2) @ weight])


@lru_cache(maxsize=4)
def _mesh(spread: float) -> tuple[Array, Array, Array]:
    """Nodes z and weights of a Gaussian expectation of f(spread z), and Hermite polynomials of shape (TERMS, nodes)."""
    graded = spread > GRADED
    step, reach = (STEP / REACH, np.arcsinh(REACH * spread)) if graded else (STEP * RESOLVED / spread, REACH)
    count = int(np.ceil(reach / step))
    z, density = np.arange(-count, count + 1) * step, np.full(2 * count + 1, step)
    if graded:
        z, density = np.sinh(z) / spread, step * np.cosh(z) / spread
    rows = [np.ones_like(z)]
    for k in range(TERMS - 1):
        before = rows[-2] if k else 0.0
        rows.append((z * rows[-1] - np.sqrt(k) * before) / np.sqrt(k + 1))
    return np.asarray(z), np.asarray(np.exp(-(z**2) / 2) * density / np.sqrt(2 * np.pi)), np.array(rows)


class KernelCall(sp.Function):
    """A :class:`PairKernel` as a node of a formula, KernelCall(order, v_x, v_y, c); its derivative in c has one order more."""

    nargs = (4,)

    def fdiff(self, argindex: int = 4) -> sp.Expr:
        order, *moments = self.args
        if argindex != 4:
            raise ArgumentIndexError(self, argindex)
        return KernelCall(order + 1, *moments)


@dataclass(frozen=True)
class CalledActivation(Activation):
    """An activation whose two-token moments at zero mean stay calls, where formulas are only traced and run on matrices."""

    activation: Activation
    name = "opaque"

    def expression(self, x: sp.Expr) -> sp.Expr:
        return self.activation.expression(x)

    def mean(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return sp.S.Zero if self.activation.odd else sp.S.One

    def second(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return KernelCall(0, v, v, v)

    def gap(self, m: sp.Expr, v: sp.Expr, gap: sp.Expr) -> sp.Expr:
        return self.second(m, v) - self.cross(m, m, v, v, v - gap)

    def cross(self, m1: sp.Expr, m2: sp.Expr, v1: sp.Expr, v2: sp.Expr, c: sp.Expr) -> sp.Expr:
        return KernelCall(0, v1, v2, c)

    def slope_mean(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return self.activation.slope_mean(m, v)

    def slope_second(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return KernelCall(1, v, v, v)

    def slope_gap(self, m: sp.Expr, v: sp.Expr, gap: sp.Expr) -> sp.Expr:
        return self.slope_second(m, v) - self.slope_cross(m, m, v, v, v - gap)

    def slope_cross(self, m1: sp.Expr, m2: sp.Expr, v1: sp.Expr, v2: sp.Expr, c: sp.Expr) -> sp.Expr:
        return KernelCall(1, v1, v2, c)

    def apply(self, x: Array) -> Array:
        return self.activation.apply(x)

    def slope(self, x: Array) -> Array:
        return self.activation.slope(x)


@lru_cache(maxsize=64)
def _closed(activation: Activation, order: int) -> Callable[..., Array] | None:
    """The kernel in closed form as a numpy function, None where it is a sum over a table."""
    if isinstance(activation, QuadratureActivation):
        # Its kernel is always such a sum, and takes a second to write down.
        return None
    kernel = (activation.cross, activation.slope_cross)[order]
    expression = kernel(sp.S.Zero, sp.S.Zero, _FIRST, _SECOND, _COVARIANCE)
    if expression.has(TableSum):
        return None
    degree = _homogeneous(activation)
    if degree is None:
        compiled: Callable[..., Array] = sp.lambdify((_FIRST, _SECOND, _COVARIANCE), expression, modules=np, cse=True)
        return compiled
    # The unit-variance form has no quotients that are 0/0 where two tokens coincide.
    equal = kernel(sp.S.Zero, sp.S.Zero, _FIRST, _FIRST, _COVARIANCE)
    unit = equal.subs(_FIRST, 1)
    shape: Callable[..., Array] = sp.lambdify(
        _COVARIANCE, unit, modules=[{"ArcCosine": arc_cosine_array}, np], cse=True
    )

    def scaled(first: Array, second: Array, covariance: Array) -> Array:
        size = np.sqrt(first * second)
        r = np.clip(covariance / np.where(size > 0, size, 1.0), -1.0, 1.0)
        return size ** (degree - order) * shape(r)

    return scaled


def _homogeneous(activation: Activation) -> int | None:
    """The degree k of a function with phi(s x) = s^k phi(x) for s > 0, None for any other."""
    x = np.array([-1.0, 1.0])
    for degree in (1, 2):
        if np.array_equal(activation.apply(2 * x), 2**degree * activation.apply(x)):
            return degree
    return None
