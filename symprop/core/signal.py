"""The state that components act on: moments per coordinate of exchangeable tokens."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import sympy as sp

from symprop.core.display import equations
from symprop.core.errors import InputError


@dataclass(frozen=True)
class Signal:
    """Moments of the entries of an activation matrix with ``tokens`` rows and ``width`` columns.

    Per coordinate and for exchangeable tokens t != s: ``mean`` = E x_t, ``q`` = E x_t^2 and ``gap`` = E x_t^2 - E x_t x_s.
    The gap is stored, not p = E x_t x_s, because q - p loses every digit near rank collapse. ``gaussian`` says that the
    entries are jointly Gaussian, ``fresh`` that the matrix has zero mean given everything computed before it (a random
    linear map sets it), ``label`` is how the signal prints. ``fixed_norm`` says that every token has the same norm, as after a
    norm of Gaussian tokens: the number of dimensions that it varies in; None where norms fluctuate.

    >>> from symprop.core.symbols import n, d
    >>> Signal(q=sp.Integer(2), gap=sp.Integer(1), tokens=n, width=d).rho
    1/2
    """

    q: sp.Expr
    gap: sp.Expr
    tokens: sp.Expr
    width: sp.Expr
    mean: sp.Expr = sp.S.Zero
    gaussian: bool = False
    fresh: bool = False
    label: str = "X"
    fixed_norm: sp.Expr | None = None

    def __post_init__(self) -> None:
        if self.tokens == 1 and self.gap != 0:
            raise InputError("gap", self.gap, "0 for a single token")

    @property
    def p(self) -> sp.Expr:
        """E x_t x_s of two tokens."""
        return self.q - self.gap

    @property
    def var(self) -> sp.Expr:
        """Variance of a coordinate."""
        return self.q - self.mean**2

    @property
    def rho(self) -> sp.Expr:
        """Token correlation p/q (of second moments, not centred)."""
        return 1 - self.gap / self.q

    @property
    def corr(self) -> sp.Expr:
        """Centred token correlation (p - mean^2)/(q - mean^2)."""
        return 1 - self.gap / self.var

    @property
    def common(self) -> sp.Expr:
        """Second moment of a coordinate of the token mean, q - (1 - 1/n) gap."""
        return self.q - (1 - 1 / self.tokens) * self.gap

    def _repr_latex_(self) -> str:
        moments = [("q", self.q), (r"\Delta", self.gap)]
        return equations([*moments, (r"\mu", self.mean)] if self.mean != 0 else moments)

    def replace(self, **changes: Any) -> Signal:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def subs(self, substitution: dict[sp.Basic, sp.Basic]) -> Signal:
        """A copy with a substitution applied to the moments."""
        moments = (self.mean, self.q, self.gap)
        mean, q, gap = (sp.sympify(moment).xreplace(substitution) for moment in moments)
        return self.replace(mean=mean, q=q, gap=gap)


@dataclass(frozen=True)
class Gradient:
    r"""Second moments of dLoss/dx: ``q`` = E g_t^2 and ``gap`` = E g_t^2 - E g_t g_s, per coordinate; the mean is zero.

    A gradient may know the direction :math:`e_t` of its own token. ``radial`` is then the second moment along it beyond that of
    an isotropic gradient, :math:`E (g_t \cdot e_t)^2 - q`, and ``radial_gap`` is ``radial`` minus the same of two tokens: what
    :math:`E\, g_t \cdot g_s` loses, beyond an isotropic gradient, when both lose their radial parts. Zero after components
    that forget the direction.
    """

    q: sp.Expr
    gap: sp.Expr
    radial: sp.Expr = sp.S.Zero
    radial_gap: sp.Expr = sp.S.Zero

    @property
    def p(self) -> sp.Expr:
        """E g_t g_s of two tokens."""
        return self.q - self.gap

    def _repr_latex_(self) -> str:
        radial = [(r"r_g", self.radial), (r"\Delta r_g", self.radial_gap)]
        return equations([("q_g", self.q), (r"\Delta_g", self.gap), *(row for row in radial if row[1] != 0)])

    def plus(self, other: Gradient) -> Gradient:
        """The sum of two uncorrelated gradients of one token."""
        return Gradient(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(self)))

    def times(self, gain: sp.Expr) -> Gradient:
        """Every moment times ``gain``."""
        return Gradient(*(gain * getattr(self, item.name) for item in fields(self)))

    def common(self, tokens: sp.Expr) -> sp.Expr:
        """Second moment of a coordinate of the token-averaged gradient."""
        return self.q - (1 - 1 / tokens) * self.gap


def from_common(common: sp.Expr, gap: sp.Expr, tokens: sp.Expr) -> sp.Expr:
    """The second moment q that belongs to a second moment of the token mean: inverse of ``Signal.common``."""
    return common + (1 - 1 / tokens) * gap


def opaque(label: str, like: Signal, suffix: str = "") -> Signal:
    """A signal whose moments are symbols named after it (``q_Z``, ``gap_Z``), with the flags of ``like``.

    Moments that are structurally zero stay zero; a single token has no gap.
    """
    name = label + suffix
    gap = sp.S.Zero if like.gap == 0 else sp.Symbol(f"gap_{name}", nonnegative=True)
    mean = sp.S.Zero if like.mean == 0 else sp.Symbol(f"mean_{name}", real=True)
    return like.replace(q=sp.Symbol(f"q_{name}", nonnegative=True), gap=gap, mean=mean, label=label)
