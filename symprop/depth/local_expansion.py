"""A block near collapse beyond linear order: every step is expanded in its own gap, then the expansions are composed.

With gap = e^2 the composed map is a power series in e, whose odd powers come from kinked activations. Composing the
expansions of the steps costs a few products; expanding the composed map would cost minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sympy as sp

from symprop.core.errors import RefusedError
from symprop.core.expression import factored
from symprop.functions.quadrature_activation import QuadratureActivation
from symprop.functions.softmax_layer import small_scores
from symprop.functions.softmax_overlap import expanded
from symprop.functions.table_sum import TableSum
from symprop.network.trace import Step, Trace

HIGHEST = 6
"""Highest power of e that is looked at: gap^3, by which attention alone collapses."""


@dataclass(frozen=True)
class LocalExpansion:
    r"""A block near collapse, to relative order gap.

    .. math:: \Delta' = g_2 \Delta + g_3 \Delta^{3/2} + g_4 \Delta^2, \qquad q' = q_0 + q_2 \Delta

    with coefficients that depend on the second moment q of the input. ``leading`` is the coefficient and the power of the
    leading term of gap' where all three g vanish, and that of the first one that does not otherwise.
    """

    trace: Trace
    gap: Mapping[int, sp.Expr]
    q: Mapping[int, sp.Expr]
    leading: tuple[sp.Expr, sp.Expr]

    def on_slow_manifold(self, q: sp.Expr) -> dict[int, sp.Expr]:
        """g_2, g_3, g_4 where q follows the gap: q + y gap with the y that a block of slope g_2 = 1 keeps.

        ``q`` is the stationary second moment, or the symbol of the input where every second moment is stationary and is
        not moved by the gap.
        """
        start = self.trace.input.q
        relax = sp.diff(self.q[0], start)
        shift = self.q[2].xreplace({start: q})
        if shift != 0:
            rate = factored(relax.xreplace({start: q}))
            if rate == 1:
                raise RefusedError("expansion at collapse", f"{start} drifts with the gap", "iterate the map")
            shift = shift / (1 - rate)
        moved = self.gap[4] + sp.diff(self.gap[2], start) * shift
        return {power: value.xreplace({start: q}) for power, value in {**self.gap, 4: moved}.items()}


def expand_at_collapse(trace: Trace) -> LocalExpansion:
    """Expand a block at gap 0.

    Raises :class:`RefusedError` for a step that separates equal tokens, or a step of several inputs that is not linear.

    >>> from symprop.components import Elementwise, Linear
    >>> from symprop.core.symbols import d
    >>> from symprop.functions.activation import Relu
    >>> from symprop.network import sequential, token_input, trace_of
    >>> relu = trace_of(sequential(Elementwise(Relu()), Linear(d, 2/d)), token_input(gaussian=True))
    >>> expand_at_collapse(relu).gap[3]
    -2*sqrt(2)/(3*pi*sqrt(q_X))
    """
    start = trace.input
    gaps: list[dict[int, sp.Expr]] = [{2: sp.S.One}]
    seconds: list[dict[int, sp.Expr]] = [{0: start.q}]
    atoms: dict[sp.Basic, sp.Basic] = {}
    for step in trace.steps:
        inputs = [(trace.signal(item), gaps[item], seconds[item]) for item in step.inputs]
        collapsed = {signal.gap: sp.S.Zero for signal, _, _ in inputs if signal.gap.is_Symbol}
        gap: dict[int, sp.Expr] = {}
        second = {0: sp.sympify(step.value.q).subs(collapsed).xreplace(atoms)}
        powers: list[tuple[sp.Expr, int]] = []
        for signal, own, q in inputs:
            others = {key: value for key, value in collapsed.items() if key != signal.gap}
            near = in_powers(step, second_order_scores(sp.sympify(step.value.gap)))
            in_gap = _terms(step, near.subs(others), signal.gap)
            moved = sp.diff(sp.sympify(step.value.q).subs(collapsed), signal.q).xreplace(atoms)
            pushed = _terms(step, second_order_scores(sp.sympify(step.value.q)).subs(others), signal.gap, constant=True)
            slope_change = sp.diff(in_gap.get(2, sp.S.Zero), signal.q)
            at = {power: value.xreplace(atoms) for power, value in in_gap.items()}
            for power, value in _composed(at, own, slope_change.xreplace(atoms) * q.get(2, sp.S.Zero)).items():
                gap[power] = gap.get(power, sp.S.Zero) + value
            change = moved * q.get(2, sp.S.Zero) + pushed.get(2, sp.S.Zero).xreplace(atoms) * own.get(2, sp.S.Zero)
            second[2] = second.get(2, sp.S.Zero) + change
            powers += [(value, power) for power, value in at.items()]
        if len(inputs) > 1 and any(power > 2 for _, power in powers):
            raise RefusedError(step.component.describe(), "it is not linear in its inputs", "iterate the map")
        gaps.append({power: factored(value) for power, value in gap.items() if factored(value) != 0})
        seconds.append({power: value for power, value in second.items() if value != 0})
        if step.atoms.q.is_Symbol:
            atoms[step.atoms.q] = second[0]
    end, last = gaps[trace.output], seconds[trace.output]
    lowest = min(end, default=0)
    return LocalExpansion(
        trace, {power: end.get(power, sp.S.Zero) for power in (2, 3, 4)},
        {power: last.get(power, sp.S.Zero) for power in (0, 2)},
        (end.get(lowest, sp.S.Zero), sp.Rational(lowest, 2)),
    )


def _composed(outer: Mapping[int, sp.Expr], inner: Mapping[int, sp.Expr], slope_change: sp.Expr) -> dict[int, sp.Expr]:
    """Powers of e of outer(gap), gap being the series ``inner`` in e; the slope changes by ``slope_change`` e^2."""
    if not inner:
        return {}
    small = sp.Dummy("e", positive=True)
    lowest = min(inner)
    rest = sp.Add(*(value * small ** (power - lowest) for power, value in inner.items()))
    head = inner[lowest]
    total: dict[int, sp.Expr] = {}
    for power, coefficient in outer.items():
        half = sp.Rational(power, 2)
        # (head e^lowest (1 + x))^half with x = rest/head - 1, which starts at e.
        x = sp.expand(rest / head - 1)
        grown = 1 + half * x + half * (half - 1) / 2 * x**2
        series = sp.Poly(sp.expand(coefficient * head**half * grown), small)
        for (shift,), value in series.terms():
            reached = lowest * half + shift
            if reached <= HIGHEST and shift <= 2 and reached.is_Integer:
                total[int(reached)] = total.get(int(reached), sp.S.Zero) + value
    if slope_change != 0 and lowest == 2:
        total[4] = total.get(4, sp.S.Zero) + slope_change * head
    return total


def second_order_scores(expression: sp.Expr) -> sp.Expr:
    """Every moment of softmax weights, up to the second order in the scores and relative order 1/n; a layer's to the first.

    Scores vanish with the gap, so that what is left out is of the order gap^3, or gap^2, relative to the moment at uniform
    attention.

    >>> a, n = sp.symbols("a n", positive=True)
    >>> from symprop.functions.softmax_overlap import Participation
    >>> second_order_scores(Participation(a, n)).coeff(a, 0)
    1/n
    """

    def taylor(node: sp.Expr) -> sp.Expr:
        *scores, tokens = node.args
        scale = sp.Dummy("scale")
        formal = [sp.Dummy(f"score{index}", positive=True) for index in range(len(scores))]
        value = expanded(node.func(*formal, tokens), 1)
        along = value.subs({item: scale * item for item in formal}, simultaneous=True)
        terms = (sp.diff(along, scale, order).subs(scale, 0) / sp.factorial(order) for order in range(3))
        return sp.Add(*map(sp.expand, terms)).xreplace(dict(zip(formal, scores, strict=True)))

    return small_scores(expression).replace(lambda node: hasattr(node, "expansion"), taylor)


def in_powers(step: Step, value: sp.Expr) -> sp.Expr:
    """A step's gap with the leading powers of the inner gap for sums over a table that have no derivative at collapse."""
    activation = getattr(step.component, "activation", None)
    if not isinstance(activation, QuadratureActivation):
        return value

    def is_gap(node: sp.Expr) -> bool:
        return isinstance(node, TableSum) and len(node.arguments) == 3 and node == activation.gap(*node.arguments)

    def powers(node: TableSum) -> sp.Expr:
        mean, variance, gap = node.arguments
        return sp.Add(*(item * gap ** sp.Rational(k, 2) for k, item in activation.gap_powers(mean, variance).items()))

    return value.replace(is_gap, powers)


def _terms(step: Step, value: sp.Expr, gap: sp.Expr, *, constant: bool = False) -> dict[int, sp.Expr]:
    """Coefficients of gap^(k/2) of a step's output moment: of k = 2, 3, 4, and of k = 6 where these vanish."""
    if not gap.is_Symbol or not value.has(gap):
        return {}
    name = f"{step.component.describe()} near collapse"
    at_zero = [sp.diff(value, gap, order).subs(gap, 0) / sp.factorial(order) for order in range(3)]
    if not constant and factored(at_zero[0]) != 0:
        if at_zero[0].has(TableSum):
            raise RefusedError(
                name, "its moments are sums over a table that are not expanded in the gap",
                "collapse for the exponents, or give its formula to QuadratureActivation",
            )
        raise RefusedError(name, "it separates equal tokens", "leave it out, or iterate the map")
    if all(_finite(item) for item in at_zero[1:]):
        found = {2: at_zero[1], 4: at_zero[2]}
    else:
        root = sp.Dummy("e", positive=True)
        try:
            series = sp.expand(sp.series(value.subs(gap, root**2), root, 0, 5).removeO())
        except (NotImplementedError, ValueError) as error:
            raise RefusedError(name, f"no expansion in the gap ({error})", "iterate the map") from error
        found = {power: series.coeff(root, power) for power in (2, 3, 4)}
        if series.coeff(root, 1) != 0:
            raise RefusedError(name, "it moves by the square root of the gap", "iterate the map")
    found = {power: item for power, item in found.items() if factored(item) != 0}
    if not found and not constant:
        cubic = sp.diff(value, gap, 3).subs(gap, 0) / 6
        found = {6: cubic} if factored(cubic) != 0 else {}
    return found


def _finite(value: sp.Expr) -> bool:
    return not value.has(sp.nan, sp.zoo, sp.oo, -sp.oo, sp.Subs, sp.Derivative)
