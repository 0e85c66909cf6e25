"""Any smooth activation: its Gaussian moments by a quadrature rule that follows the variance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import mpmath
import sympy as sp

from symprop.core.errors import InputError, RefusedError
from symprop.functions import gaussian_expectation as ge
from symprop.functions.activation import Activation
from symprop.functions.table_sum import TableSum, register_table

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

HALF, REACH = 48, sp.Rational(17, 2)
"""Nodes on either side, and how many standard deviations they reach."""
VARIABLE = sp.Symbol("x", real=True)
"""The variable of the formulas that this package writes."""
_T, _U = sp.symbols("node_x node_y", real=True)

LINE = register_table(
    "quadrature_line", lambda: [(mpmath.mpf(k) / HALF,) for k in range(-HALF, HALF + 1)],
    f"tuple((k/{HALF},) for k in range(-{HALF}, {HALF} + 1))",
)
PLANE = register_table(
    "quadrature_plane",
    lambda: [(mpmath.mpf(j) / HALF, mpmath.mpf(k) / HALF) for j in range(-HALF, HALF + 1) for k in range(-HALF, HALF + 1)],
    f"tuple((j/{HALF}, k/{HALF}) for j in range(-{HALF}, {HALF} + 1) for k in range(-{HALF}, {HALF} + 1))",
)


class _Rule(sp.Function):
    """Part of the rule; it does not count in derivatives, because a rule is right for any smooth change of variable."""

    nargs = (3,)

    @classmethod
    def formula(cls) -> sp.Lambda:
        """The function of t, offset m/sqrt(v) and variance, written out."""
        return _rule()[cls]

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sp.S.Zero

    def _eval_is_real(self) -> bool | None:
        return True if all(argument.is_real for argument in self.args) else None


class QuadratureNode(_Rule):
    r"""The standard normal variable z at t in [-1, 1]: QuadratureNode(t, m/sqrt(v), v) for mean m and variance v.

    :math:`\zeta + \sinh(p + qt)/\sqrt{1 + v}` with :math:`\zeta = -m/\sqrt{v}`: nodes crowd where the variable
    :math:`m + \sqrt{v} z` is of order one, so that what an activation does there is resolved at every variance.
    """


class QuadratureWeight(_Rule):
    """The weight of a node of the rule: QuadratureWeight(t, m/sqrt(v), v)."""


@cache
def _rule() -> Mapping[type[_Rule], sp.Lambda]:
    """Node and weight as formulas: the one place where the rule is written."""
    t, offset, variance = sp.symbols("t offset variance", real=True)
    # Beyond twelve standard deviations the place of the activation does not matter.
    centre = -offset * (1 + (offset**2 / 144) ** 8) ** sp.Rational(-1, 16)
    scale = 1 / sp.sqrt(1 + variance)
    low, high = (sp.asinh((end - centre) / scale) for end in (-REACH, REACH))
    width, at = (high - low) / 2, (high + low) / 2 + (high - low) / 2 * t
    z = centre + scale * sp.sinh(at)
    weight = width * scale * sp.cosh(at) * sp.exp(-(z**2) / 2) / (HALF * sp.sqrt(2 * sp.pi))
    return {kind: sp.Lambda((t, offset, variance), found) for kind, found in ((QuadratureNode, z), (QuadratureWeight, weight))}


def _node(t: sp.Expr, mean: sp.Expr, variance: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """A Gaussian variable and its weight."""
    spread = sp.sqrt(variance)
    # mean/spread, and zero where nothing spreads.
    offset = mean * spread / (variance + sp.Float("1e-290"))
    return mean + spread * QuadratureNode(t, offset, variance), QuadratureWeight(t, offset, variance)


@dataclass(frozen=True)
class QuadratureActivation(Activation):
    r"""A smooth function of one variable, given as a formula; any mean.

    Moments are sums over a fixed rule of 97 nodes in each dimension, right to a relative 1e-8 at variances up to 1e4 for
    functions of unit scale without singularities within a distance 1 of the real line. Raises ``InputError`` for a formula
    in another variable and ``RefusedError`` for one with a kink.

    >>> x, v = sp.symbols("x v", positive=True)
    >>> mish = QuadratureActivation(x, x*sp.tanh(sp.log(1 + sp.exp(x))), "mish")
    >>> mish.mean(0, v), sp.N(mish.mean(0, v).subs(v, 1), 9)
    (mish mean(0, v), 0.240403888)
    """

    variable: sp.Symbol
    formula: sp.Expr
    name: str  # type: ignore[misc]

    neglected = "relative 1e-8, a quadrature rule"

    def __post_init__(self) -> None:
        if self.formula.free_symbols != {self.variable}:
            raise InputError("formula", self.formula, f"a formula in {self.variable} alone")
        if self.formula.has(sp.Abs, sp.Max, sp.Min, sp.Piecewise, sp.Heaviside, sp.sign):
            raise RefusedError(
                self.name, "its formula has a kink, which the rule does not resolve",
                "write it as an OgiveActivation, a polynomial times a step",
            )

    @property
    def odd(self) -> bool:  # type: ignore[override]
        """Whether phi(-x) = -phi(x)."""
        return bool(sp.expand(self.formula + self.formula.subs(self.variable, -self.variable)) == 0)

    def expression(self, x: sp.Expr) -> sp.Expr:
        return self.formula.subs(self.variable, x)

    @property
    def _slope(self) -> sp.Expr:
        return sp.diff(self.formula, self.variable)

    def mean(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return sp.S.Zero if m == 0 and self.odd else self._line("mean", self.formula, m, v)

    def slope_mean(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return self._line("slope mean", self._slope, m, v)

    def second(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return self._line("second", self.formula**2, m, v)

    def slope_second(self, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        return self._line("slope second", self._slope**2, m, v)

    def gap(self, m: sp.Expr, v: sp.Expr, gap: sp.Expr) -> sp.Expr:
        return self._difference("gap", self.formula, m, v, gap)

    def slope_gap(self, m: sp.Expr, v: sp.Expr, gap: sp.Expr) -> sp.Expr:
        return self._difference("slope gap", self._slope, m, v, gap)

    def cross(self, m1: sp.Expr, m2: sp.Expr, v1: sp.Expr, v2: sp.Expr, c: sp.Expr) -> sp.Expr:
        if m1 == m2 and v1 == v2:
            return self.second(m1, v1) - self.gap(m1, v1, v1 - c)
        return self._product("cross", self.formula, m1, m2, v1, v2, c)

    def slope_cross(self, m1: sp.Expr, m2: sp.Expr, v1: sp.Expr, v2: sp.Expr, c: sp.Expr) -> sp.Expr:
        if m1 == m2 and v1 == v2:
            return self.slope_second(m1, v1) - self.slope_gap(m1, v1, v1 - c)
        return self._product("slope cross", self._slope, m1, m2, v1, v2, c)

    def _line(self, what: str, function: sp.Expr, m: sp.Expr, v: sp.Expr) -> sp.Expr:
        x, weight = _node(_T, ge.M1, ge.V1)
        summand = sp.Lambda((_T, ge.M1, ge.V1), weight * function.subs(self.variable, x))
        return TableSum(f"{self.name} {what}", LINE, summand, m, v)

    def _difference(self, what: str, function: sp.Expr, m: sp.Expr, v: sp.Expr, gap: sp.Expr) -> sp.Expr:
        if gap == 0:
            return sp.S.Zero
        x, y, weight = _two(ge.M1, ge.M1, ge.V1, ge.GAP * (2 * ge.V1 - ge.GAP) / ge.V1, 1 - ge.GAP / ge.V1)
        change = function.subs(self.variable, x) - function.subs(self.variable, y)
        summand = sp.Lambda((_T, _U, ge.M1, ge.V1, ge.GAP), weight * change**2 / 2)
        return TableSum(f"{self.name} {what}", PLANE, summand, m, v, gap)

    def _product(
        self, what: str, function: sp.Expr, m1: sp.Expr, m2: sp.Expr, v1: sp.Expr, v2: sp.Expr, c: sp.Expr
    ) -> sp.Expr:
        x, y, weight = _two(ge.M1, ge.M2, ge.V1, ge.V2 - ge.COV**2 / ge.V1, ge.COV / ge.V1)
        both = function.subs(self.variable, x) * function.subs(self.variable, y)
        summand = sp.Lambda((_T, _U, ge.M1, ge.M2, ge.V1, ge.V2, ge.COV), weight * both)
        return TableSum(f"{self.name} {what}", PLANE, summand, m1, m2, v1, v2, c)

    def apply(self, x: Array) -> Array:
        return _evaluated(self.variable, self.formula, x)

    def slope(self, x: Array) -> Array:
        return _evaluated(self.variable, self._slope, x)


def _two(m1: sp.Expr, m2: sp.Expr, v1: sp.Expr, rest: sp.Expr, regression: sp.Expr) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """x, and y given x with variance ``rest`` about its regression, and their weight."""
    x, own = _node(_T, m1, v1)
    y, other = _node(_U, m2 + regression * (x - m1), rest)
    return x, y, own * other


def _evaluated(variable: sp.Symbol, formula: sp.Expr, x: Array) -> Array:
    import numpy as np

    with np.errstate(over="ignore"):
        return np.asarray(_numpy(variable, formula)(x), dtype=float)


@lru_cache(maxsize=64)
def _numpy(variable: sp.Symbol, formula: sp.Expr) -> Any:
    return sp.lambdify(variable, formula, modules="numpy", cse=True)


class GeluTanh(QuadratureActivation):
    r"""GeLU as GPT-2 computes it, :math:`\tfrac12 x (1 + \tanh(\sqrt{2/\pi} (x + 0.044715 x^3)))`."""

    def __init__(self) -> None:
        inner = sp.sqrt(2 / sp.pi) * (VARIABLE + sp.Rational(44715, 10**6) * VARIABLE**3)
        super().__init__(VARIABLE, VARIABLE * (1 + sp.tanh(inner)) / 2, "gelu_tanh")

    def __repr__(self) -> str:
        return "GeluTanh()"
