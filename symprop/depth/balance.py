"""Initialisation solved for: variances at which moments take given values, and depth-scaled residual branches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import sympy as sp

from symprop.core import symbols
from symprop.core.errors import InputError, RefusedError
from symprop.core.expression import compare, factored


def balance(conditions: Sequence[sp.Expr | sp.Eq], unknowns: Sequence[sp.Symbol]) -> dict[sp.Symbol, sp.Expr]:
    """Solve conditions (equations, or expressions that must vanish) for positive unknowns, in the order of the conditions.

    Every condition fixes the first unknown of the list that it still contains; one that contains none must hold by
    itself. Equal variances of two matrices are a condition too: ``sigma_v2 - sigma_o2``. The solution is put back into
    all conditions. Raises ``InputError`` for too few conditions, and :class:`RefusedError` naming the condition that has
    no positive solution, several, or none in closed form.

    >>> from symprop.core.symbols import d, sigma_down2, sigma_up2
    >>> tied = balance([sigma_up2 - sigma_down2, sp.Eq(2*d**2*sigma_up2*sigma_down2, 1)], [sigma_up2, sigma_down2])
    >>> tied[sigma_up2]
    sqrt(2)/(2*d)
    >>> balance([sp.Eq(0*sigma_up2, 1)], [sigma_up2])
    Traceback (most recent call last):
    ...
    symprop.core.errors.RefusedError: condition 1 (False): it is never met; remedy: change the block or the target
    """
    residuals = [_residual(condition) for condition in conditions]
    found: dict[sp.Symbol, sp.Expr] = {}
    for position, (condition, residual) in enumerate(zip(conditions, residuals, strict=True), 1):
        name = f"condition {position} ({_shown(condition)})"
        left = residual.xreplace(found)
        unknown = next((symbol for symbol in unknowns if left.has(symbol)), None)
        if unknown is None:
            if condition == False or compare(left, sp.S.Zero).equal is False:  # noqa: E712
                given = ", ".join(f"{key} = {value}" for key, value in found.items() if residual.has(key))
                reason = f"it is not met by {given}" if given else "it is never met"
                raise RefusedError(name, reason, "change the block or the target")
            continue
        root = _positive_root(name, left, unknown)
        found = {key: factored(value.xreplace({unknown: root})) for key, value in found.items()} | {unknown: root}
    if free := [symbol for symbol in unknowns if symbol not in found]:
        raise InputError("conditions", len(conditions), f"one more, that fixes {free[0]}")
    for condition, residual in zip(conditions, residuals, strict=True):
        if compare(residual.xreplace(found), sp.S.Zero).equal is False:
            raise AssertionError(f"the solution does not meet {_shown(condition)}")
    return {symbol: found[symbol] for symbol in unknowns}


def _residual(condition: sp.Expr | sp.Eq) -> sp.Expr:
    if condition == True:  # noqa: E712
        return sp.S.Zero
    if condition == False:  # noqa: E712
        return sp.S.One
    return condition.lhs - condition.rhs if isinstance(condition, sp.Eq) else sp.sympify(condition)


def _shown(condition: sp.Expr | sp.Eq) -> str:
    return f"{condition.lhs} = {condition.rhs}" if isinstance(condition, sp.Eq) else str(condition)


def _positive_root(name: str, residual: sp.Expr, unknown: sp.Symbol) -> sp.Expr:
    positive = sp.Dummy(unknown.name, positive=True)
    numerator = sp.fraction(factored(residual.xreplace({unknown: positive})))[0]
    try:
        roots = sp.solve(numerator, positive)
    except NotImplementedError as error:
        raise RefusedError(name, f"it has no closed solution for {unknown}", "solve it numerically") from error
    kept = [root for root in (factored(root) for root in roots) if _may_be_positive(root)]
    if len(kept) != 1:
        what = "no positive solution" if not kept else f"{len(kept)} positive solutions"
        raise RefusedError(name, f"it has {what} for {unknown}", "change the block, the target or the unknowns")
    return kept[0]


def _may_be_positive(root: sp.Expr) -> bool:
    """Positive at some point of the parameters' ranges."""
    if root.is_positive is not None:
        return bool(root.is_positive)
    free = sorted(root.free_symbols, key=str)
    return any(_at(root, free, fraction).is_positive is True for fraction in (sp.Rational(1, 7), sp.Rational(3, 5)))


def _at(expression: sp.Expr, free: Sequence[sp.Symbol], fraction: sp.Expr) -> sp.Expr:
    point: dict[sp.Basic, sp.Basic] = {}
    for index, symbol in enumerate(free):
        domain = symbols.info(symbol).domain if symbols.is_registered(symbol) else symbols.Domain()
        bounds = [bound if bound is not None and bound.is_number else None for bound in (domain.lower, domain.upper)]
        low = bounds[0] if bounds[0] is not None else sp.S.Zero
        if symbol.is_integer:
            point[symbol] = low + 2 + index
        elif bounds[1] is not None:
            point[symbol] = low + (bounds[1] - low) * fraction
        else:
            point[symbol] = low + fraction * (index + 1)
    return sp.sympify(sp.N(expression.xreplace(point)))


@dataclass(frozen=True)
class ScalingBranch:
    """The growth over depth for one range of the scaling exponent.

    ``relative_error`` is the leading term of (exact growth)/``growth`` - 1, which vanishes at infinite depth.
    """

    condition: sp.Basic
    growth: sp.Expr
    relative_error: sp.Expr


@dataclass(frozen=True)
class ScaledGrowth:
    """(1 + strength/N^alpha)^(repeats N) at large N, for every range of alpha above ``alpha_above``."""

    exact: sp.Expr
    branches: tuple[ScalingBranch, ...]

    @property
    def asymptotic(self) -> sp.Expr:
        """The branches as one Piecewise; undefined below the last one."""
        return sp.Piecewise(*((branch.growth, branch.condition) for branch in self.branches))


def scaled_growth(
    strength: sp.Expr,
    alpha: sp.Expr = symbols.alpha,
    depth: sp.Symbol = symbols.L,
    *,
    repeats: sp.Expr = sp.S.One,
    terms: int = 2,
) -> ScaledGrowth:
    """Expand (1 + strength/N^alpha)^(repeats N) at large depth N, by orders of the logarithm.

    With beta^2 = k/N^alpha and lambda^2 = 1 - beta^2 a block multiplies the gradient by 1 + beta^2 (c - 1): strength
    k (c - 1). The j-th term of N log(1 + x) is of order N^(1 - j alpha): it grows or stays for alpha <= 1/j. The branches
    reach down to alpha = 1/``terms`` inclusive; a numeric ``alpha`` gives its own branch, however small. Raises
    ``InputError`` for alpha <= 0 or fewer than one term.

    >>> k, N = sp.symbols("k N", positive=True)
    >>> [(str(b.condition), b.growth) for b in scaled_growth(k, sp.Symbol("s", positive=True), N).branches][:3]
    [('s > 1', 1), ('Eq(s, 1)', exp(k)), ('(s > 1/2) & (s < 1)', exp(N**(1 - s)*k))]
    >>> scaled_growth(k, sp.S.Half, N).branches[0].growth
    exp(sqrt(N)*k - k**2/2)
    """
    alpha, strength, repeats = sp.sympify(alpha), sp.sympify(strength), sp.sympify(repeats)
    if terms != int(terms) or terms < 1:
        raise InputError("terms", terms, "an integer >= 1")
    exact = (1 + strength / depth**alpha) ** (repeats * depth)
    if alpha.is_number:
        if not alpha.is_positive:
            raise InputError("alpha", alpha, "a positive number")
        kept = int(sp.floor(1 / alpha))
        return ScaledGrowth(exact, (_branch(sp.true, strength, alpha, depth, repeats, kept),))
    branches = [_branch(alpha > 1, strength, alpha, depth, repeats, 0)]
    for j in count(1):
        at = sp.Rational(1, j)
        branches.append(_branch(sp.Eq(alpha, at), strength, at, depth, repeats, j))
        if j >= terms:
            return ScaledGrowth(exact, tuple(branches))
        between = sp.And(alpha > sp.Rational(1, j + 1), alpha < at)
        branches.append(_branch(between, strength, alpha, depth, repeats, j))
    raise AssertionError("unreachable")


def _branch(
    condition: sp.Basic, strength: sp.Expr, alpha: sp.Expr, depth: sp.Symbol, repeats: sp.Expr, kept: int
) -> ScalingBranch:
    small = sp.Dummy("x")
    logarithm = sp.series(sp.log(1 + small), small, 0, kept + 2).removeO()
    parts = [
        repeats * logarithm.coeff(small, j) * strength**j * depth ** (1 - j * alpha) for j in range(1, kept + 2)
    ]
    return ScalingBranch(condition, sp.exp(sp.Add(*parts[:kept])), parts[kept])
