"""A block at collapse, where all tokens are equal: its linearisation, forward and backward, and the exponents over depth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import sympy as sp

from symprop.core.errors import RefusedError
from symprop.core.expression import Comparison, compare, factored, near_one
from symprop.core.provenance import Derived
from symprop.core.signal import Gradient, from_common
from symprop.depth.local_expansion import in_powers
from symprop.depth.solution import INDEPENDENT_LAYERS
from symprop.network.trace import Step, Trace

COMMON, DEVIATION = "token-common gradient", "token-deviation gradient"
"""The two modes of a gradient: equal for all tokens, or of zero sum over tokens."""


@dataclass(frozen=True)
class CollapsedStep:
    """One step at gap 0, in the atoms of its inputs, with one entry for each input.

    ``q`` is the output's second moment, ``slopes`` are d gap'/d gap; ``deviation`` and ``common`` multiply the second
    moments of the two gradient modes on their way from the output to the input.
    """

    step: Step
    q: sp.Expr
    slopes: tuple[sp.Expr, ...]
    deviation: tuple[sp.Expr, ...]
    common: tuple[sp.Expr, ...]


@dataclass(frozen=True)
class Exponents:
    r"""Growth per block of the angle between tokens and of the gradient, at collapse.

    ``lyapunov_angle`` is that of the correlation's gap, log of (d gap'/d gap)/(q'/q); ``lyapunov_deviation`` and
    ``lyapunov_common`` are those of the gradient's second moment in its two modes, from the top down. ``q`` is the
    stationary second moment at the block's input, or its symbol where the block maps q to a multiple of itself.
    """

    q: sp.Expr
    angle_factor: sp.Expr
    deviation_factor: sp.Expr
    common_factor: sp.Expr
    provenance: Derived

    @cached_property
    def lyapunov_angle(self) -> sp.Expr:
        """Exponent of the angle between tokens: negative in the ordered phase."""
        return sp.log(near_one(self.angle_factor))

    @cached_property
    def lyapunov_deviation(self) -> sp.Expr:
        """Exponent of gradients of zero sum over tokens."""
        return sp.log(near_one(self.deviation_factor))

    @cached_property
    def lyapunov_common(self) -> sp.Expr:
        """Exponent of gradients that all tokens share."""
        return sp.log(near_one(self.common_factor))

    def gradient_growth(self, tokens: sp.Expr, depth: sp.Expr) -> sp.Expr:
        """Second moment of the gradient after ``depth`` blocks for one that starts independent for every token."""
        return (1 - 1 / tokens) * near_one(self.deviation_factor) ** depth + near_one(self.common_factor) ** depth / tokens

    def crossover_depth(self, tokens: sp.Expr) -> sp.Expr:
        """Depth at which the common mode, 1/n of an independent gradient, has caught up with the deviation mode."""
        return -sp.log(tokens) / sp.log(near_one(self.deviation_factor / self.common_factor))

    def at(self, values: Mapping[sp.Symbol, sp.Expr]) -> Exponents:
        """The same with values put in."""
        put = dict(values)
        parts = (self.q, self.angle_factor, self.deviation_factor, self.common_factor)
        q, angle, deviation, common = (part.subs(put) for part in parts)
        return Exponents(q, angle, deviation, common, self.provenance)


@dataclass(frozen=True)
class Collapse:
    """A block linearised at gap 0, by the chain rule through its steps.

    ``q`` is the output's second moment, ``slope`` d gap'/d gap, ``deviation`` and ``common`` the factors of the two
    gradient modes from the output to the input: all in the second moment ``trace.input.q`` of the input.
    """

    trace: Trace
    steps: tuple[CollapsedStep, ...]
    q: sp.Expr
    slope: sp.Expr
    deviation: sp.Expr
    common: sp.Expr

    @property
    def angle(self) -> sp.Expr:
        """Growth of gap/q over one block."""
        return _tidy(self.slope * self.trace.input.q / self.q)

    @property
    def added(self) -> sp.Expr:
        """What one block adds to the second moment of the stream."""
        return factored(self.q - self.trace.input.q)

    @cached_property
    def provenance(self) -> Derived:
        """What the linearisation stands on."""
        trace = self.trace
        return Derived(
            self.slope, (*trace.assumptions, INDEPENDENT_LAYERS), trace.neglected, trace.sources,
            ("width to infinity first", "linear in the gap"),
        )

    @cached_property
    def stationary(self) -> sp.Expr | None:
        """The second moment that a block keeps; None where q grows or has no closed fixed point that attracts it.

        Where every q is kept it is the symbol itself.
        """
        q = self.trace.input.q
        if not self.q.has(q):
            return self.q
        factor = factored(sp.diff(self.q, q))
        if factor.has(q):
            return _attracting(self.q, factor, q)
        constant = factored(self.q.xreplace({q: sp.S.Zero}))
        if constant == 0:
            return q if factor == 1 else None
        return None if factor == 1 else factored(constant / (1 - factor))

    @cached_property
    def exponents(self) -> Exponents:
        """Exponents at the stationary q, or where q' is a multiple of q and nothing else depends on it.

        Raises :class:`RefusedError` where q drifts otherwise: then the law over depth is no exponential.
        """
        q, point = self.trace.input.q, self.stationary
        factors = (self.angle, self.deviation, self.common)
        if point is not None:
            # There q' = q, so that gap/q grows as the gap does.
            factors = (self.slope, self.deviation, self.common)
            angle, deviation, common = (_tidy(item.xreplace({q: point})) for item in factors)
            return Exponents(point, angle, deviation, common, self.provenance)
        if any(item.has(q) for item in factors):
            raise RefusedError(
                "exponents of the block", f"its second moment {q} goes to {self.q}, and the factors change with it",
                "symprop.depth.rate.drift_law where it grows by a constant, the iterated map otherwise",
            )
        return Exponents(q, *factors, self.provenance)

    def reciprocity(self) -> Comparison:
        """Whether every step takes gradient deviations back as it takes token deviations forward.

        Step by step, (width of the input) * backward = (width of the output) * forward: summed over paths, a block of
        equal widths at both ends then has ``deviation == slope``, whatever it is made of. A signal whose tokens are equal
        by construction carries no deviation, and is left out.
        """
        found = Comparison(True, "identical in every step")
        for item in self.steps:
            for source, slope, back in zip(item.step.inputs, item.slopes, item.deviation, strict=True):
                if self.trace.signal(source).gap == 0:
                    continue
                width_in, width_out = self.trace.signal(source).width, item.step.atoms.width
                one = compare(width_in * back, width_out * slope)
                if one.equal is not True:
                    found = one
                if one.equal is False:
                    return found
        return found


def collapse(trace: Trace) -> Collapse:
    """Linearise a block at gap 0.

    Each step is expanded in its own gap, and the slopes are multiplied along the steps. Raises :class:`RefusedError` for
    a step that separates equal tokens (dropout), or one that turns a common gradient into a deviation.

    >>> from symprop.components import LayerNorm, UniformAttention
    >>> from symprop.core.symbols import alpha_1, d, n
    >>> from symprop.network import residual, sequential, trace_of
    >>> block = collapse(trace_of(residual(sequential(LayerNorm(), UniformAttention(d, 1/d)), alpha_1, 2)))
    >>> block.q, block.slope, block.common
    (alpha_1**2 + 4*q_X, 4, alpha_1**2/q_X + 4)
    """
    steps = tuple(_collapsed(trace, step) for step in trace.steps)
    start = trace.input
    second: list[sp.Expr] = [start.q]
    growth: list[sp.Expr] = [sp.S.One]
    atoms: dict[sp.Basic, sp.Basic] = {}
    for item in steps:
        second.append(item.q.xreplace(atoms))
        growth.append(sp.Add(*(
            slope.xreplace(atoms) * growth[source] for slope, source in zip(item.slopes, item.step.inputs, strict=True)
        )))
        if item.step.atoms.q.is_Symbol:
            atoms[item.step.atoms.q] = second[-1]
    deviation = _swept(trace, [[part.xreplace(atoms) for part in item.deviation] for item in steps])
    common = _swept(trace, [[part.xreplace(atoms) for part in item.common] for item in steps])
    return Collapse(trace, steps, *(
        _tidy(value) for value in (second[trace.output], growth[trace.output], deviation, common)
    ))


def _attracting(after: sp.Expr, slope: sp.Expr, q: sp.Symbol) -> sp.Expr | None:
    """The fixed point of a rational map of q that is known to be positive and to attract, where there is one alone."""
    if not after.is_rational_function(q):
        return None
    numerator = sp.Poly(sp.fraction(factored(after - q))[0], q)
    roots = [factored(root) for root in sp.roots(numerator)] if numerator.degree() <= 2 else []
    found = [root for root in roots if root.is_positive and (1 - slope.xreplace({q: root}) ** 2).is_positive]
    return found[0] if len(found) == 1 else None


def _tidy(expression: sp.Expr) -> sp.Expr:
    """Factored where that is much shorter: otherwise the sum over paths reads better."""
    short = factored(expression)
    return short if 3 * sp.count_ops(short) < 2 * sp.count_ops(expression) else expression


def _swept(trace: Trace, factors: list[list[sp.Expr]]) -> sp.Expr:
    """Factors multiplied from the output back to the input, and added over paths."""
    reached: dict[int, sp.Expr] = {trace.output: sp.S.One}
    for position in range(len(trace.steps), 0, -1):
        incoming = reached.pop(position, sp.S.Zero)
        for source, factor in zip(trace.steps[position - 1].inputs, factors[position - 1], strict=True):
            reached[source] = reached.get(source, sp.S.Zero) + factor * incoming
    return reached.get(0, sp.S.Zero)


def _collapsed(trace: Trace, step: Step) -> CollapsedStep:
    inputs = [trace.signal(position) for position in step.inputs]
    equal = [signal.replace(gap=sp.S.Zero) for signal in inputs]
    output = step.component.forward(*equal)
    name = f"{step.component.describe()} at collapse"
    if output.gap != 0:
        raise RefusedError(name, f"it separates equal tokens by a gap {output.gap}", "leave it out, or iterate the map")
    others = {signal.gap: sp.S.Zero for signal in inputs if signal.gap.is_Symbol}
    near = in_powers(step, sp.sympify(step.value.gap))
    slopes = tuple(gap_slope(near, signal.gap, others) for signal in inputs)
    # The gradient in its modes: g_q = common + (1 - 1/n) deviation.
    shared, apart = sp.Dummy("g_common", positive=True), sp.Dummy("g_gap", positive=True)
    tokens = step.atoms.tokens
    above = Gradient(from_common(shared, apart, tokens), apart)
    deviation, common = [], []
    for part in step.component.backward(above, *equal):
        gap = sp.expand(part.gap)
        if factored(sp.diff(gap, shared)) != 0:
            raise RefusedError(name, "a gradient that tokens share comes back different for each", "iterate the map")
        deviation.append(factored(sp.diff(gap, apart)))
        common.append(factored(sp.diff(sp.expand(part.common(tokens)), shared)))
    return CollapsedStep(step, output.q, slopes, tuple(deviation), tuple(common))


def gap_slope(value: sp.Expr, gap: sp.Expr, zero: Mapping[sp.Expr, sp.Expr]) -> sp.Expr:
    """d value/d gap where all gaps in ``zero`` vanish; by a limit where the derivative is not evaluated there.

    >>> g = sp.Symbol("g", nonnegative=True)
    >>> gap_slope(sp.sin(3*g), g, {g: sp.S.Zero})
    3
    """
    if not gap.is_Symbol or not value.has(gap):
        return sp.S.Zero
    slope = sp.diff(value, gap).subs(dict(zero))
    if slope.has(sp.nan, sp.zoo, sp.oo, sp.Subs):
        rest = {key: item for key, item in zero.items() if key != gap}
        slope = sp.limit(value.subs(rest) / gap, gap, 0, "+")
    if not slope.is_finite and slope.has(sp.nan, sp.zoo, sp.oo):
        raise RefusedError(f"slope of {value}", f"it has no finite derivative in {gap} at zero", "use a smooth component")
    return slope
