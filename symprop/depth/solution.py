"""The signal after L identical blocks, and its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sympy as sp

from symprop.components.base import PairState
from symprop.core.display import equations
from symprop.core.errors import InputError, RefusedError
from symprop.core.expression import collect_linear, factored
from symprop.core.provenance import Assumption, Derived, neglected_order
from symprop.core.signal import Signal, from_common
from symprop.depth.closed_form import solve_affine
from symprop.depth.modes import Mode, combined, correlation_limit, limits_over_depth, recombined
from symprop.functions import DepthPower, GeometricSum, GrowthMinusOne
from symprop.network.builders import Block, Stack
from symprop.network.trace import Trace, token_input, trace_of

INDEPENDENT_LAYERS = Assumption("independent layers", "weights of different layers are independent")


@dataclass(frozen=True)
class DepthLimit:
    """The signal at infinite depth under a depth-scaled residual weight.

    ``exponents`` maps a mode to lim L (factor - 1), -oo where its growth factor^L vanishes, ``relative_error`` to the
    coefficient c of the relative error c/L of that growth where it does not. ``excess`` is the limit of
    ``DepthSolution.excess``.
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
        """How much more the common mode grows than the gap over all blocks, minus one: q_L ~ q + excess * common.

        Infinite where a block leaves no gap, zero where there is none.
        """
        common, gap, depth = self.mode("common"), self.modes[-1], self.stack.depth
        if gap is common:
            return sp.S.Zero
        if gap.solution == 0:
            return sp.oo
        start = self.input
        if not gap.is_free or gap.factor == 0:
            return common.solution.xreplace({common.symbol: start.common}) * start.gap / (start.common * self.signal.gap) - 1
        homogeneous = GrowthMinusOne(factored(common.factor / gap.factor - 1), depth)
        if common.is_free:
            return homogeneous
        grown = common.solution - DepthPower(common.factor, depth) * common.symbol
        return homogeneous + grown / (DepthPower(gap.factor, depth) * start.common)

    def _repr_latex_(self) -> str:
        factors = [(rf"\lambda_{{\text{{{mode.name}}}}}", mode.factor) for mode in self.modes]
        return equations([("q_L", self.signal.q), (r"\Delta_L", self.signal.gap), *factors])

    def scaling_limit(self, substitution: Mapping[sp.Expr, sp.Expr]) -> DepthLimit:
        """The limit L -> infinity when residual weights shrink with depth.

        ``substitution`` writes parameters in terms of L, such as ``{alpha_1: sqrt(a_1/L)}``. Factors of the form
        1 + x/L + O(1/L^2) become e^x, those that stay below one forget the start. Raises
        :class:`~symprop.core.errors.RefusedError` where the signal grows without end.
        """
        start = self.input
        values = {mode.symbol: start.common if mode.name == "common" else start.gap for mode in self.modes}
        limits = limits_over_depth(self.modes, values, substitution, self.stack.depth)
        q, gap, excess = combined(start, limits)
        signal = self.signal.replace(q=q, gap=gap)
        neglected = neglected_order(self.provenance.neglected, "O(1/L)")
        return DepthLimit(
            signal,
            excess,
            limits.exponents,
            limits.relative_error,
            self.provenance.with_expression(q, neglected, "L -> infinity with the residual weights scaled by depth"),
        )

    def correlation_limit(self) -> sp.Expr:
        """The correlation at infinite depth with residual weights that do not shrink, with its degenerate branches."""
        if self.input.gap == 0:
            return sp.S.One
        return correlation_limit(self.input, self.mode("common"), self.mode("gap"))

    def gram(self, entry: sp.Expr, average: sp.Expr) -> sp.Expr:
        """An entry of E K^L for tokens of any geometry, given that entry and the average of all entries of K.

        Raises :class:`~symprop.core.errors.RefusedError` for a block that needs more than these two.
        """
        depth, (gap, common, drift) = self.stack.depth, _pair_factors(self.trace)
        added = drift * GeometricSum(sp.S.One, common, depth)
        if not gap.is_positive:
            return DepthPower(gap, depth) * (entry - average) + DepthPower(common, depth) * average + added
        excess = GrowthMinusOne(factored(common / gap - 1), depth)
        return DepthPower(gap, depth) * (entry + excess * average) + added


def solve(stack: Stack | Block, signal: Signal | None = None) -> DepthSolution:
    """Propagate a stack: compose one block symbolically, solve its recursion over depth, put the solution back.

    Raises :class:`~symprop.core.errors.RefusedError` where a block's map is not affine in (common, gap), and where a block
    does not fit on another.

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
    for name, moment in (("q", start.q), ("gap", start.gap), ("mean", start.mean)):
        if not (moment.is_Symbol or (moment == 0 and name != "q")):
            raise InputError(name, moment, "a symbol as of token_input(), for which the result is given")
    common = sp.Symbol(f"common_{start.label}", nonnegative=True)
    in_modes = {start.q: from_common(common, start.gap, start.tokens)}
    updates = {common: factored(end.common.xreplace(in_modes))}
    if start.gap != 0:
        updates[start.gap] = factored(end.gap.xreplace(in_modes))
    if start.mean != 0 and any(update.has(start.mean) for update in updates.values()):
        raise RefusedError(f"recursion of {start.q}", f"it depends on {start.mean}", "iterate the map numerically")
    _check_repeats(stack, trace, end)
    solutions = solve_affine(updates, stack.depth)
    zero = dict.fromkeys(updates, sp.S.Zero)
    modes = tuple(
        Mode(
            "common" if symbol == common else "gap",
            symbol,
            factored(sp.diff(update, symbol)),
            factored(update.xreplace(zero)),
            solutions[symbol],
            sp.Add(*(factored(sp.diff(update, other)) for other in updates if other != symbol)),
        )
        for symbol, update in updates.items()
    )
    gap = solutions.get(start.gap, sp.S.Zero).xreplace({common: start.common})
    q = _output(start, modes, gap, stack.depth)
    mean = _mean_after(stack.depth, start, end.mean.xreplace(in_modes), updates).xreplace({common: start.common})
    result = end.replace(q=q, gap=gap, mean=mean, label=start.label)
    provenance = Derived(
        q,
        (*trace.assumptions, INDEPENDENT_LAYERS),
        trace.neglected,
        trace.sources,
        ("expectation over the weights, tokens given",),
    )
    _check_pairs(trace, modes)
    return DepthSolution(stack, trace, modes, result, provenance)


def _check_repeats(stack: Stack, trace: Trace, end: Signal) -> None:
    """A block after the first must have the map of the first: what it is fed differs by its moments only."""
    if stack.depth == 1:
        return
    start, last = trace.input, trace.steps[trace.output - 1].component.describe() if trace.output else "empty block"
    if factored(end.width - start.width) != 0:
        raise RefusedError(last, f"it ends a block of width {start.width} at width {end.width}, where no second block fits",
                           f"end the block in Linear({start.width}, ...)")
    if start.gap == 0 and end.gap != 0:
        raise RefusedError(last, f"it ends the first block with a gap of {end.gap}, and the input has none",
                           "solve for an input with a gap (token_input()), and put it to zero in the result")
    mean = start.mean
    if mean == 0 and end.mean != 0:
        mean = sp.Symbol(f"mean_{start.label}", real=True)
    fed = start.replace(mean=mean, gaussian=end.gaussian, fixed_norm=end.fixed_norm)
    if fed == start:
        return
    again = trace_of(stack.body, fed).expand()
    for one, other in ((end.q, again.q), (end.gap, again.gap), (end.mean, again.mean)):
        if factored(one - other) != 0:
            raise RefusedError(last, f"the first block has {one} where the next, which reads its output, has {other}",
                               "solve for an input like that output: Signal.replace(mean=..., gaussian=..., fixed_norm=...)")


def _mean_after(depth: sp.Expr, start: Signal, once: sp.Expr, updates: Mapping[sp.Symbol, sp.Expr]) -> sp.Expr:
    """The mean after all blocks: of itself, or of the moments before the last block."""
    if depth == 1 or not once.free_symbols & {start.mean, *updates}:
        return once
    if start.mean in once.free_symbols:
        return solve_affine({start.mean: once}, depth)[start.mean]
    if any(factored(sp.diff(update, symbol)) == 0 for symbol, update in updates.items()):
        raise RefusedError("mean over depth", f"it is {once} of a moment that a block forgets", "iterate the map numerically")
    return once.xreplace(solve_affine(updates, depth - 1))


def _output(start: Signal, modes: tuple[Mode, ...], gap: sp.Expr, depth: sp.Expr) -> sp.Expr:
    """q after L blocks, in the initial q where the modes have no drift."""
    # A gap factor that may vanish cannot be divided out; the sum of the two modes has no cancellation either.
    if any(not mode.is_free for mode in modes) or len(modes) == 1 or not modes[1].factor.is_positive:
        total = from_common(modes[0].solution, gap, start.tokens).xreplace({modes[0].symbol: start.common})
        return total if any(mode.drive != 0 for mode in modes) else collect_linear(total, [start.q, start.gap])
    common, other = modes
    ratio = factored(common.factor / other.factor)
    return recombined(start, DepthPower(other.factor, depth), GrowthMinusOne(factored(ratio - 1), depth))


def _pair_factors(trace: Trace) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """What a block multiplies an entry of the Gram matrix minus the average by, and the average, and what it adds."""
    entry, average = sp.Symbol("K_entry"), sp.Symbol("K_average")
    mean = trace.input.mean
    after = trace.pair(PairState(entry, average, trace.input.width, left_mean=mean, right_mean=mean))
    if after.average is None:
        raise RefusedError("entry of the Gram matrix over depth", "after one block it does not determine their average",
                           "take the signal of exchangeable tokens")
    own, shared = (factored(sp.diff(after.entry, symbol)) for symbol in (entry, average))
    common, drift = factored(sp.diff(after.average, average)), factored(after.average.xreplace({average: 0}))
    if factored(after.entry - own * entry - shared * average - drift) != 0 or factored(own + shared - common) != 0:
        raise AssertionError("the pair rules add different amounts to an entry and to the average of all")
    return own, common, drift


def _check_pairs(trace: Trace, modes: tuple[Mode, ...]) -> None:
    """The pair rules must have the modes that the exchangeable map has, where they have any: the Gram result stands on it."""
    if len(modes) < 2:
        return
    try:
        gap, common, drift = _pair_factors(trace)
    except RefusedError:
        return
    expected = (modes[1].factor, modes[0].factor, modes[0].drift)
    if any(factored(one - other) != 0 for one, other in zip((gap, common, drift), expected, strict=True)):
        raise AssertionError("pair rules and exchangeable map disagree")
