"""Any activation given as a formula: its Gaussian moments by a quadrature rule that knows its kinks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import sympy as sp

from symprop.core.errors import InputError, RefusedError
from symprop.functions import piece_sum
from symprop.functions.activation import Activation
from symprop.functions.admission import admit, in_doubles
from symprop.functions.piece_rule import LINE, PLANE
from symprop.functions.pieces import Pieces, split
from symprop.functions.table_sum import TableSum, lambdified

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

VARIABLE = sp.Symbol("x", real=True)
"""The variable of the formulas that this package writes."""


@dataclass(frozen=True)
class QuadratureActivation(Activation):
    r"""A function of one variable, given as a formula; any mean.

    The formula may have kinks and jumps (Abs, Max, Min, sign, Heaviside, Piecewise); they are found from it. Moments are sums
    over Gauss's rule on every piece between them, evaluated in doubles and right to a relative 1e-8 for variances from 1e-6
    to 1e6 and gaps from 1e-14 to 2 of the variance (2e-8 for squares at 1e6). Smooth parts must be of unit scale: no
    singularities within a distance 1 of the real line, the structure near zero or the kinks. What is
    more than 8.5 standard deviations from the mean counts for nothing. A function that jumps has all moments but those of
    products of slopes.

    A function that grows exponentially or oscillates is right up to the variance that ``neglected`` names, and refused at
    numbers above it.

    Raises ``InputError`` for a formula in another variable and ``RefusedError`` for kinks that are not found, for a formula
    that is not real, finite and smooth between them, and for products of the slopes of a function that jumps.

    >>> x, v = sp.symbols("x v", real=True)
    >>> mish = QuadratureActivation(x, x*sp.tanh(sp.log(1 + sp.exp(x))), "mish")
    >>> mish.mean(0, v), sp.N(mish.mean(0, v).subs(v, 1), 9)
    (mish mean(0, v), 0.240403888)
    >>> hard_tanh = QuadratureActivation(x, sp.Max(-1, sp.Min(x, 1)), "hard_tanh")
    >>> hard_tanh.kinks, sp.N(hard_tanh.slope_second(0, v).subs(v, 1), 9)
    ((-1, 1), 0.682689492)
    """

    variable: sp.Symbol
    formula: sp.Expr
    name: str  # type: ignore[misc]

    @property
    def neglected(self) -> str:  # type: ignore[override]
        """The error of the rule, and up to which variance it holds where a function grows exponentially or oscillates."""
        reach = "" if self._reach == sp.oo else f" up to variance {self._reach}"
        return f"relative 1e-8{reach}, a quadrature rule"

    @property
    def _reach(self) -> sp.Expr:
        return admit(self._pieces, self.name)

    def __post_init__(self) -> None:
        if self.formula.free_symbols != {self.variable}:
            raise InputError("formula", self.formula, f"a formula in {self.variable} alone")
        admit(self._pieces, self.name)

    @property
    def _pieces(self) -> Pieces:
        return _split(self.formula, self.variable, self.name)

    @property
    def kinks(self) -> tuple[sp.Expr, ...]:
        """Where the formula changes, ascending."""
        return self._pieces.kinks

    @property
    def odd(self) -> bool:  # type: ignore[override]
        """Whether phi(-x) = -phi(x)."""
        return self._pieces.odd

    def expression(self, x: sp.Expr) -> sp.Expr:
        return self.formula.subs(self.variable, x)

    def mean(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return sp.S.Zero if m == 0 and self.odd else self._line("mean", self._pieces, m, v)

    def slope_mean(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        jumps = zip(self._pieces.jumps, self.kinks, strict=True)
        density = (jump * sp.exp(-((kink - m) ** 2) / (2 * v)) / sp.sqrt(2 * sp.pi * v) for jump, kink in jumps)
        return self._line("slope mean", self._pieces.slope, m, v) + sp.Add(*density)

    def second(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return self._line("second", _squared(self._pieces), m, v)

    def slope_second(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return self._line("slope second", _squared(self._slope), m, v)

    def gap(self, m: sp.Expr, v: sp.Expr, gap: sp.Expr) -> sp.Expr:
        return self._difference("gap", self._pieces, m, v, gap)

    def gap_powers(self, m: sp.Expr, v: sp.Expr) -> dict[int, sp.Expr]:
        r"""Coefficients of gap^(k/2), k = 2, 3, 4, of ``gap`` near collapse, where a derivative of its sum has no value.

        With J_k the jumps of the slope at the kinks x_k, p the density there and :math:`\psi` the second derivative between
        the kinks, in the middle at one:

        .. math:: \Delta' = E \phi'^2 \Delta - \frac{2}{3\sqrt\pi} \sum_k J_k^2 p(x_k) \Delta^{3/2}
            - \tfrac12 \Big[E \psi^2 + 2 \sum_k J_k p(x_k) \psi(x_k)\Big] \Delta^2 + \dots

        >>> v = sp.Symbol("v", positive=True)
        >>> QuadratureActivation(VARIABLE, sp.Max(VARIABLE, 0), "relu").gap_powers(sp.S.Zero, v)[3]
        -sqrt(2)/(3*pi*sqrt(v))
        """
        bent = self._slope.slope
        curved = self._line("curvature second", _squared(bent), m, v)
        kinked: sp.Expr = sp.S.Zero
        for index, (kink, jump) in enumerate(zip(self.kinks, self._slope.jumps, strict=True)):
            density = sp.exp(-((kink - m) ** 2) / (2 * v)) / sp.sqrt(2 * sp.pi * v)
            kinked += jump**2 * density
            curved += jump * density * (bent.at(index, kink) + bent.at(index + 1, kink))
        return {2: self.slope_second(m, v), 3: -2 * kinked / (3 * sp.sqrt(sp.pi)), 4: -curved / 2}

    def slope_gap(self, m: sp.Expr, v: sp.Expr, gap: sp.Expr) -> sp.Expr:
        return self._difference("slope gap", self._slope, m, v, gap)

    def cross(self, m1: sp.Expr, m2: sp.Expr, v1: sp.Expr, v2: sp.Expr, c: sp.Expr) -> sp.Expr:
        if m1 == m2 and v1 == v2:
            return self.second(m1, v1) - self.gap(m1, v1, v1 - c)
        return self._product("cross", self._pieces, m1, m2, v1, v2, c)

    def slope_cross(self, m1: sp.Expr, m2: sp.Expr, v1: sp.Expr, v2: sp.Expr, c: sp.Expr) -> sp.Expr:
        if m1 == m2 and v1 == v2:
            return self.slope_second(m1, v1) - self.slope_gap(m1, v1, v1 - c)
        return self._product("slope cross", self._slope, m1, m2, v1, v2, c)

    def saturated(self) -> tuple[sp.Expr, sp.Expr]:
        """Leading terms at large variance, piece by piece."""
        x, formulas = self.variable, self._pieces.formulas
        ends = [sp.limit(formula, x, end) for formula, end in ((formulas[0], -sp.oo), (formulas[-1], sp.oo))]
        if not all(end.is_finite for end in ends):
            raise RefusedError(f"{self.name} at large variance", f"it tends to {ends[0]} and {ends[1]}", "iterate the map")
        places = (-sp.oo, *self.kinks, sp.oo)
        steep = (sp.integrate(slope**2, (x, *places[i : i + 2])) for i, slope in enumerate(self._slope.formulas))
        return (ends[0] ** 2 + ends[1] ** 2) / 2, sp.Add(*steep) / sp.sqrt(2 * sp.pi)

    @property
    def _slope(self) -> Pieces:
        """The slope where its products have moments."""
        if any(self._pieces.jumps):
            raise RefusedError(
                self.name, "it jumps, and the second moment of its slope is infinite",
                "use it forward only, or give a formula that is continuous",
            )
        return self._pieces.slope

    def _line(self, what: str, function: Pieces, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return self._sum(TableSum(f"{self.name} {what}", LINE, piece_sum.line(function), m, v), v)

    def _difference(self, what: str, function: Pieces, m: sp.Expr, v: sp.Expr, gap: sp.Expr) -> sp.Expr:
        if gap == 0:
            return sp.S.Zero
        summand = piece_sum.difference(function, function.slope)
        return self._sum(TableSum(f"{self.name} {what}", PLANE, summand, m, v, gap), v)

    def _product(
        self, what: str, function: Pieces, m1: sp.Expr, m2: sp.Expr, v1: sp.Expr, v2: sp.Expr, c: sp.Expr
    ) -> sp.Expr:
        summand = piece_sum.product(function)
        return self._sum(TableSum(f"{self.name} {what}", PLANE, summand, m1, m2, v1, v2, c), v1, v2)

    def _sum(self, found: TableSum, *variances: sp.Expr) -> TableSum:
        """A sum whose variances, as far as they are numbers, are within reach of the rule."""
        for v in map(sp.sympify, variances):
            if v.is_number and v > self._reach:
                raise RefusedError(
                    self.name, f"the quadrature rule does not reach its moments at variances above {self._reach}",
                    "scale its input down",
                )
        return found

    def apply(self, x: Array) -> Array:
        return _evaluated(_in_doubles(self._pieces), x)

    def slope(self, x: Array) -> Array:
        return _evaluated(_slope_in_doubles(self._pieces), x)


@lru_cache(maxsize=64)
def _split(formula: sp.Expr, variable: sp.Symbol, name: str) -> Pieces:
    """The pieces in a real variable, in which SymPy knows more signs."""
    real = variable if variable.is_real else sp.Symbol(variable.name, real=True)
    return split(formula.xreplace({variable: real}), real, name)


def _squared(pieces: Pieces) -> Pieces:
    return pieces.map(lambda formula: formula**2)


@lru_cache(maxsize=64)
def _in_doubles(pieces: Pieces) -> Pieces:
    return pieces.map(lambda formula: in_doubles(formula, pieces.variable))


@lru_cache(maxsize=64)
def _slope_in_doubles(pieces: Pieces) -> Pieces:
    return _in_doubles(pieces.slope)


def _evaluated(pieces: Pieces, x: Array) -> Array:
    import numpy as np

    with np.errstate(all="ignore"):
        value = _numpy(pieces.variable, pieces.formulas[0])(x) + 0 * x
        for kink, formula in zip(pieces.kinks, pieces.formulas[1:], strict=True):
            value = np.where(x > float(kink), _numpy(pieces.variable, formula)(x), value)
    return np.asarray(value, dtype=float)


@lru_cache(maxsize=64)
def _numpy(variable: sp.Symbol, formula: sp.Expr) -> Any:
    import numpy as np

    return lambdified(sp.Lambda(variable, formula), np)


class GeluTanh(QuadratureActivation):
    r"""GeLU as GPT-2 computes it, :math:`\tfrac12 x (1 + \tanh(\sqrt{2/\pi} (x + 0.044715 x^3)))`."""

    def __init__(self) -> None:
        inner = sp.sqrt(2 / sp.pi) * (VARIABLE + sp.Rational(44715, 10**6) * VARIABLE**3)
        super().__init__(VARIABLE, VARIABLE * (1 + sp.tanh(inner)) / 2, "gelu_tanh")

    def __repr__(self) -> str:
        return "GeluTanh()"
