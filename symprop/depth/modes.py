"""The modes of a block that is affine in its second moments, and what they tend to over depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sympy as sp

from symprop.core.errors import InputError, RefusedError
from symprop.core.expression import factored
from symprop.core.signal import Signal, from_common
from symprop.core.symbols import L
from symprop.functions import ExpMinusOne

SCALE = "shrink every residual weight with the depth, as alpha_k = sqrt(a_k/L)"


@dataclass(frozen=True)
class Mode:
    """A combination of moments that a block maps to a multiple of itself, plus a constant ``drift``.

    ``drive`` multiplies what the other mode adds, where dropout couples the two.
    """

    name: str
    symbol: sp.Symbol
    factor: sp.Expr
    drift: sp.Expr
    solution: sp.Expr
    drive: sp.Expr = sp.S.Zero

    @property
    def is_free(self) -> bool:
        """Whether it is mapped to a multiple of itself, and nothing is added."""
        return bool(self.drift == 0 and self.drive == 0)


@dataclass(frozen=True)
class ModeLimits:
    """Modes at infinite depth, by name.

    ``exponents`` are lim depth (factor - 1), -oo where the growth vanishes; ``relative_error`` has the coefficient c of the
    relative error c/L of the growth factor^depth of the others. ``added`` is what drift and drive leave.
    """

    exponents: Mapping[str, sp.Expr]
    relative_error: Mapping[str, sp.Expr]
    added: Mapping[str, sp.Expr]

    def growth(self, name: str) -> sp.Expr:
        """lim factor^depth."""
        exponent = self.exponents[name]
        return sp.S.Zero if exponent == -sp.oo else sp.exp(exponent)


@dataclass(frozen=True)
class _Scaled:
    """A mode under a depth scaling, in the variable that goes to infinity."""

    mode: Mode
    factor: sp.Expr
    drift: sp.Expr
    drive: sp.Expr
    depth: sp.Expr
    variable: sp.Symbol

    @property
    def _node(self) -> str:
        return f"limit over depth of the {self.mode.name} mode"

    def _limit(self, expression: sp.Expr) -> sp.Expr:
        try:
            return sp.sympify(sp.limit(sp.expand(expression), self.variable, sp.oo))
        except (NotImplementedError, ValueError) as error:
            raise RefusedError(self._node, f"SymPy finds no limit of {expression}", SCALE) from error

    def finite(self, expression: sp.Expr, what: str) -> sp.Expr:
        """The limit of an expression where it is a number; ``what`` says what diverges otherwise."""
        value = self._limit(expression)
        if value.has(sp.oo, -sp.oo, sp.zoo, sp.nan, sp.AccumBounds):
            raise RefusedError(self._node, f"{what} grows without end", SCALE)
        return factored(value)

    def exponent(self) -> sp.Expr:
        """lim depth (factor - 1), or -oo where factor^depth vanishes."""
        beyond = factored(self._limit(self.factor) - 1)
        if beyond.is_negative:
            return -sp.oo
        if beyond == 0:
            exponent = self._limit(self.depth * factored(self.factor - 1))
            if not exponent.has(sp.oo, -sp.oo, sp.zoo, sp.nan, sp.AccumBounds):
                return factored(exponent)
            if exponent.is_extended_negative:
                return -sp.oo
        elif beyond.is_nonnegative is None:
            raise RefusedError(self._node, f"whether its factor {self.factor} in every block exceeds one is not known",
                               f"{SCALE}, or put numbers in")
        raise RefusedError(self._node, f"its factor {self.factor} in every block makes it grow without end", SCALE)

    def error(self, exponent: sp.Expr) -> sp.Expr:
        """Coefficient of 1/variable in the relative error of the growth."""
        taken = self.depth * factored(self.factor - 1)
        left = self.variable * (taken - exponent) - self.variable * taken**2 / (2 * self.depth)
        return self._limit(left)

    def accumulated(self, amount: sp.Expr, what: str, ratio: sp.Expr, own: sp.Expr) -> sp.Expr:
        """Limit of the sum over layers of amount * ratio-mode growth * own growth, given both exponents."""
        if own == -sp.oo:
            # What a layer adds has died out after few more, so that only the last ones count.
            return sp.S.Zero if ratio == -sp.oo else self.finite(amount / (1 - self.factor), what) * sp.exp(ratio)
        total = self.finite(self.depth * amount, what)
        apart = factored(own - ratio)
        if apart == 0:
            return total * sp.exp(own)
        share = factored(total / apart)
        found = sp.exp(ratio) * share * ExpMinusOne(apart)
        if sp.fraction(share)[1].is_zero is False:
            return found
        return sp.Piecewise((total * sp.exp(own), sp.Eq(apart, 0)), (found, True))


def limits_over_depth(
    modes: Sequence[Mode], start: Mapping[sp.Symbol, sp.Expr], substitution: Mapping[sp.Expr, sp.Expr], depth: sp.Expr
) -> ModeLimits:
    """Modes from their values ``start`` at infinite depth, with parameters that depend on it as ``substitution`` says.

    A factor 1 + x/L + O(1/L^2) grows to e^x, one that stays below 1 forgets the start. Raises :class:`RefusedError` where
    a mode grows without end.
    """
    layers = depth if depth.free_symbols else L
    others = sorted(layers.free_symbols, key=str)
    if L not in others and len(others) > 1:
        raise InputError("depth", depth, f"an expression in {L} or in one symbol")
    variable = L if L in others else others[0]
    put = dict(substitution)
    scaled = [
        _Scaled(mode, mode.factor.subs(put), mode.drift.subs(put), mode.drive.subs(put), layers, variable) for mode in modes
    ]
    exponents = {item.mode.name: item.exponent() for item in scaled}
    errors = {item.mode.name: item.error(exponents[item.mode.name]) for item in scaled if exponents[item.mode.name] != -sp.oo}
    added = {}
    for item in scaled:
        own, total = exponents[item.mode.name], sp.S.Zero
        if item.drift != 0:
            total += item.accumulated(item.drift, f"what blocks add, {item.drift} each,", sp.S.Zero, own)
        for other in scaled:
            if other is item or item.drive == 0:
                continue
            what, ratio = f"what the {other.mode.name} mode adds", exponents[other.mode.name]
            if ratio == -sp.oo and own != -sp.oo:
                moved = item.finite(item.drive / (1 - other.factor), what) * sp.exp(own)
            else:
                moved = item.accumulated(item.drive, what, ratio, own)
            total += moved * start[other.mode.symbol]
        added[item.mode.name] = total
    return ModeLimits(exponents, errors, added)


def correlation_limit(start: Signal, common: Mode, gap: Mode) -> sp.Expr:
    """The correlation of tokens at infinite depth with weights that do not depend on it, with its degenerate branches."""
    if gap.drift != 0 or (common.drift != 0 and (gap.drive != 0 or common.drive != 0)):
        raise RefusedError("correlation at infinite depth", "constants and the other mode drive one mode together",
                           "take the correlation of the signal at a large depth")
    others, one = 1 - 1 / start.tokens, sp.S.One
    opposed = -1 / (start.tokens - 1)
    if gap.factor == 0 and gap.is_free:
        return one
    # Sign of common.factor - gap.factor, in the shorter of two ways to write it.
    apart = factored(common.factor / gap.factor - 1) if gap.factor.is_positive else factored(common.factor - gap.factor)
    same, none = sp.Eq(apart, 0), sp.Eq(start.common, 0)
    if gap.drive != 0:
        beyond, drive = factored(common.factor - gap.factor), gap.drive
        return sp.Piecewise((opposed, none), (start.rho, same & sp.Eq(drive, 0)),
                            (1 - drive / (beyond + others * drive), apart > 0), (opposed, True))
    if common.drive != 0:
        beyond, drive = factored(gap.factor - common.factor), common.drive
        idle = sp.Eq(drive, 0)
        return sp.Piecewise((opposed, none & idle), (start.rho, same & idle), (one, apart >= 0),
                            (1 - beyond / (drive + others * beyond), True))
    still = ((opposed, none), (start.rho, same), (one, apart > 0), (opposed, True))
    drift = common.drift
    if drift == 0:
        return sp.Piecewise(*still)
    beyond, kept = factored(common.factor - 1), factored(gap.factor - 1)
    at_rest = factored(drift / -beyond) if beyond != 0 else sp.oo
    grown = start.gap / (start.q - at_rest)
    left = start.gap / (at_rest + others * start.gap)
    idle = tuple((value, sp.And(sp.Eq(drift, 0), when)) for value, when in still)
    if apart == 0:
        return sp.Piecewise(*idle, (1 - grown, beyond > 0), (one, True))
    if kept == 0:
        return sp.Piecewise(*idle, (one, beyond >= 0), (1 - left, True))
    aligned = sp.Or(sp.And(beyond > 0, apart > 0), sp.And(beyond <= 0, kept < 0), sp.And(sp.Eq(beyond, 0), sp.Eq(kept, 0)))
    return sp.Piecewise(
        *idle, (1 - grown, sp.And(beyond > 0, same)), (one, aligned), (1 - left, sp.And(beyond < 0, sp.Eq(kept, 0))),
        (opposed, True),
    )


def combined(start: Signal, limits: ModeLimits) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """q, the gap and the excess growth of the common mode at infinite depth."""
    common = limits.exponents["common"]
    gap = limits.exponents.get("gap", common)
    left = [limits.added.get(name, sp.S.Zero) for name in ("common", "gap")]
    rest = from_common(left[0], left[1], start.tokens)
    at_end = limits.growth("gap") * start.gap + left[1] if "gap" in limits.exponents else sp.S.Zero
    excess: sp.Expr
    if sp.S.NegativeInfinity in (common, gap):
        growth = [limits.growth(name) for name in ("common", "gap") if name in limits.exponents]
        q = from_common(growth[0] * start.common, growth[-1] * start.gap, start.tokens) + rest
    else:
        q = recombined(start, sp.exp(gap), ExpMinusOne(factored(common - gap))) + rest
    if "gap" not in limits.exponents:
        excess = sp.S.Zero
    elif at_end == 0:
        excess = sp.oo
    elif rest == 0 and sp.S.NegativeInfinity not in (common, gap):
        excess = ExpMinusOne(factored(common - gap))
    else:
        excess = (limits.growth("common") * start.common + left[0]) * start.gap / (start.common * at_end) - 1
    return q, at_end, excess


def recombined(start: Signal, gap_growth: sp.Expr, excess: sp.Expr) -> sp.Expr:
    """q = growth of the gap times (q + excess growth of the common mode times its initial value)."""
    return gap_growth * (start.q + excess * start.common)
