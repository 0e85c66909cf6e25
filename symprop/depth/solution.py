"""The signal after L identical blocks, and its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sympy as sp

from symprop.components.base import PairState
from symprop.core import symbols
from symprop.core.display import equations
from symprop.core.expression import collect_linear, factored
from symprop.core.provenance import Assumption, Derived, neglected_order
from symprop.core.signal import Signal, from_common
from symprop.depth.closed_form import solve_affine
from symprop.functions import ExpMinusOne, GrowthMinusOne
from symprop.network.builders import Block, Stack
from symprop.network.trace import Trace, token_input, trace_of

INDEPENDENT_LAYERS = Assumption("independent layers", "weights of different layers are independent")


@dataclass(frozen=True)
class Mode:
    """A combination of moments that a block maps to a multiple of itself (plus a constant ``drift``)."""

    name: str
    symbol: sp.Symbol
    factor: sp.Expr
    drift: sp.Expr
    solution: sp.Expr

    def growth(self, substitution: Mapping[sp.Expr, sp.Expr]) -> tuple[sp.Expr, sp.Expr]:
        """Exponent lim L (factor - 1) under a depth scaling, and the coefficient of 1/L in the relative error."""
        rate = factored(self.factor.subs(dict(substitution)) - 1)
        exponent = sp.limit(sp.expand(symbols.L * rate), symbols.L, sp.oo)
        remainder = sp.expand(symbols.L * (symbols.L * rate - exponent)) - (symbols.L * rate) ** 2 / 2
        return factored(exponent), sp.limit(sp.expand(remainder), symbols.L, sp.oo)


@dataclass(frozen=True)
class DepthLimit:
    """The signal at infinite depth under a depth-scaled residual weight.

    ``exponents`` maps a mode to lim L (factor - 1), ``relative_error`` to the coefficient c of its relative error c/L.
    ``excess`` is the limit of ``DepthSolution.excess``.
    """

    signal: Signal
    excess: sp.Expr
    exponents: Mapping[str, sp.Expr]
    relative_error: Mapping[str, sp.Expr]
    provenance: Derived

    def _repr_latex_(self) -> str:
        return self.signal._repr_latex_()


@dataclass(frozen=True)
class DepthSolution:
    """Moments after ``depth`` blocks in terms of the moments of the input.

    ``modes`` are the two that uniform attention and linear layers keep apart: ``common`` (second moment of the token
    mean) and ``gap``. ``signal`` is the output; nothing in it is a difference of nearly equal numbers.
    """

    stack: Stack
    trace: Trace
    modes: tuple[Mode, ...]
    signal: Signal
    provenance: Derived

    @property
    def input(self) -> Signal:
        """The signal that enters the first block."""
        return self.trace.input

    def mode(self, name: str) -> Mode:
        """The mode of that name: ``common`` or ``gap``."""
        return next(mode for mode in self.modes if mode.name == name)

    @property
    def excess(self) -> sp.Expr:
        """How much more the common mode grows than the gap over all blocks, minus one: q_L ~ q + excess * common."""
        common, gap = self.mode("common").factor, self.mode("gap").factor
        return GrowthMinusOne(factored(common / gap - 1), self.stack.depth)

    def _repr_latex_(self) -> str:
        factors = [(rf"\lambda_{{\text{{{mode.name}}}}}", mode.factor) for mode in self.modes]
        return equations([("q_L", self.signal.q), (r"\Delta_L", self.signal.gap), *factors])

    def scaling_limit(self, substitution: Mapping[sp.Expr, sp.Expr]) -> DepthLimit:
        """The limit L -> infinity when residual weights shrink with depth.

        ``substitution`` writes parameters in terms of L, such as ``{alpha_1: sqrt(a_1/L)}``. Factors of the form
        1 + x/L + O(1/L^2) become e^x.
        """
        found = {mode.name: mode.growth(substitution) for mode in self.modes}
        exponents = {name: pair[0] for name, pair in found.items()}
        start = self.input
        common = exponents.get("common", sp.S.Zero)
        gap = exponents.get("gap", common)
        excess = ExpMinusOne(factored(common - gap))
        q = _recombined(start, sp.exp(gap), excess)
        signal = self.signal.replace(q=q, gap=sp.exp(gap) * start.gap)
        neglected = neglected_order(self.provenance.neglected, "O(1/L)")
        return DepthLimit(
            signal,
            excess,
            exponents,
            {name: pair[1] for name, pair in found.items()},
            self.provenance.with_expression(q, neglected, "L -> infinity with the residual weights scaled by depth"),
        )

    def correlation_limit(self) -> sp.Expr:
        """The correlation at infinite depth with residual weights that do not shrink, with its degenerate branches."""
        start = self.input
        if start.gap == 0:
            return sp.S.One
        common, gap = self.mode("common"), self.mode("gap")
        excess = factored(common.factor / gap.factor - 1)
        return sp.Piecewise(
            (-1 / (start.tokens - 1), sp.Eq(start.common, 0)),
            (start.rho, sp.Eq(excess, 0)),
            (sp.S.One, excess > 0),
            (-1 / (start.tokens - 1), True),
        )

    def gram(self, entry: sp.Expr, average: sp.Expr) -> sp.Expr:
        """An entry of E K^L for tokens of any geometry, given that entry and the average of all entries of K."""
        return self.mode("gap").factor ** self.stack.depth * (entry + self.excess * average)


def solve(stack: Stack | Block, signal: Signal | None = None) -> DepthSolution:
    """Propagate a stack: compose one block symbolically, solve its recursion over depth, put the solution back.

    Raises :class:`~symprop.core.errors.RefusedError` where a block's map is not affine in (common, gap).

    >>> from symprop.components import Linear
    >>> from symprop.core.symbols import alpha_2, d
    >>> from symprop.network import residual, stack
    >>> solve(stack(residual(Linear(d, 1/d), alpha_2))).signal.q
    q_X*(alpha_2**2 + 1)**L
    """
    if not isinstance(stack, Stack):
        stack = Stack(stack, sp.S.One)
    trace = trace_of(stack.body, signal or token_input())
    start, end = trace.input, trace.expand()
    common = sp.Symbol(f"common_{start.label}", nonnegative=True)
    in_modes = {start.q: from_common(common, start.gap, start.tokens)}
    updates = {common: factored(end.common.xreplace(in_modes))}
    if start.gap != 0:
        updates[start.gap] = factored(end.gap.xreplace(in_modes))
    solutions = solve_affine(updates, stack.depth)
    names = {common: "common", start.gap: "gap"}
    modes = tuple(
        Mode(
            names[symbol],
            symbol,
            factored(sp.diff(update, symbol)),
            factored(update.xreplace(dict.fromkeys(updates, sp.S.Zero))),
            solutions[symbol],
        )
        for symbol, update in updates.items()
    )
    gap = solutions.get(start.gap, sp.S.Zero)
    q = _output(start, modes, gap, stack.depth)
    result = end.replace(q=q, gap=gap, label=start.label)
    provenance = Derived(
        q,
        (*trace.assumptions, INDEPENDENT_LAYERS),
        trace.neglected,
        trace.sources,
        ("expectation over the weights, tokens given",),
    )
    _check_pairs(trace, modes)
    return DepthSolution(stack, trace, modes, result, provenance)


def _output(start: Signal, modes: tuple[Mode, ...], gap: sp.Expr, depth: sp.Expr) -> sp.Expr:
    """q after L blocks, in the initial q where the modes have no drift."""
    # A gap factor that may vanish cannot be divided out; the sum of the two modes has no cancellation either.
    if any(mode.drift != 0 for mode in modes) or len(modes) == 1 or not modes[1].factor.is_positive:
        total = from_common(modes[0].solution, gap, start.tokens)
        return collect_linear(total.xreplace({modes[0].symbol: start.common}), [start.q, start.gap])
    common, other = modes
    ratio = factored(common.factor / other.factor)
    return _recombined(start, other.factor**depth, GrowthMinusOne(factored(ratio - 1), depth))


def _recombined(start: Signal, gap_growth: sp.Expr, excess: sp.Expr) -> sp.Expr:
    """q = growth of the gap times (q + excess growth of the common mode times its initial value)."""
    return gap_growth * (start.q + excess * start.common)


def _check_pairs(trace: Trace, modes: tuple[Mode, ...]) -> None:
    """The pair rules must have the modes that the exchangeable map has: the Gram result stands on it."""
    entry, average = sp.Symbol("K_entry"), sp.Symbol("K_average")
    after = trace.pair(PairState(entry, average, trace.input.width))
    if after.width != trace.input.width or len(modes) < 2:
        return
    common, gap = modes[0].factor, modes[1].factor
    same = [
        sp.expand(sp.diff(after.entry, entry) - gap),
        sp.expand(sp.diff(after.entry, average) - (common - gap)),
        sp.expand(sp.diff(after.average, average) - common),
    ]
    if any(factored(item) != 0 for item in same):
        raise AssertionError("pair rules and exchangeable map disagree")
