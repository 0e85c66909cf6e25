"""A block's map in the second moment of the token mean and the gap: accurate where tokens start orthogonal or opposite."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import sympy as sp

from symprop.components.elementwise import Elementwise
from symprop.core.signal import Signal
from symprop.depth.iterate import LayerMap
from symprop.network.trace import Step, Trace, definitions

OTHERS = sp.Dummy("others", nonnegative=True)
"""1 - 1/n, which stays a factor of what it multiplies."""


def common_map(
    trace: Trace, common: sp.Symbol, *, others: sp.Expr | None = None, q: sp.Expr | None = None,
    close: Callable[[sp.Expr], sp.Expr] = sp.sympify,
) -> LayerMap:
    r"""The map of a block in :math:`c = q - (1 - 1/n)\Delta` and the gap.

    From q and the gap c is a difference, without digits where tokens are orthogonal (many of them) or opposite; a block may
    multiply it there. Here :math:`q = c + (1 - 1/n)\Delta` is put into every step, and what vanishes with c is a multiple of
    it wherever moments are linear in (q, gap) up to functions, and after odd activations by their moments of two tokens. A
    norm divides by this sum of its own input, so that the two it returns add up to one whatever was rounded before.
    ``close`` is applied to every step's moments first; ``others`` stands for 1 - 1/n, where that takes n to infinity, and
    ``q`` for that of the input where it is known, as behind a norm. Exact otherwise. The input's moments must be symbols.

    >>> from symprop.components import UniformAttention
    >>> from symprop.core.symbols import alpha_1, d, sigma_v2
    >>> from symprop.network import residual, trace_of
    >>> c = sp.Symbol("c", nonnegative=True)
    >>> common_map(trace_of(residual(UniformAttention(d, sigma_v2/d), alpha_1)), c).updates[c]
    alpha_1**2*c*sigma_v2 + c
    """
    others = 1 - 1 / trace.input.tokens if others is None else others
    sums: dict[sp.Basic, tuple[sp.Symbol, sp.Expr]] = {}
    put: dict[sp.Basic, sp.Basic] = {}

    def enter(atoms: Signal, second: sp.Expr | None, shared: sp.Expr) -> None:
        """Note c of a signal, and q, which follows from it and the gap where it is not known."""
        symbol = sp.Dummy(f"c_{atoms.label}", nonnegative=True)
        sums[atoms.q] = symbol, atoms.gap
        put[symbol] = shared
        put[atoms.q] = (symbol + others * atoms.gap).xreplace(put) if second is None else second

    enter(trace.input, q, common)
    for step in trace.steps:
        inputs = [trace.signal(position) for position in step.inputs]
        found = {atom: close(sp.sympify(value)) for atom, value in definitions(step).items()}
        second = found.pop(step.atoms.q)
        shared = _after_odd(step, inputs, sums, others)
        if shared is None:
            shared = _eliminated(second - OTHERS * found.get(step.atoms.gap, sp.S.Zero), sums, others)
        if second.has(*(signal.gap for signal in inputs)):
            second = _eliminated(second, sums, others)
        put |= {atom: _eliminated(value, sums, others).xreplace(put) for atom, value in found.items()}
        enter(step.atoms, second.xreplace(put), shared.xreplace(put))
    end = trace.result
    return LayerMap({common: sp.sympify(put[sums[end.q][0]]), trace.input.gap: sp.sympify(put.get(end.gap, end.gap))})


def _after_odd(
    step: Step, signals: Sequence[Signal], sums: Mapping[sp.Basic, tuple[sp.Symbol, sp.Expr]], others: sp.Expr
) -> sp.Expr | None:
    """c after an odd activation, whose second moment of two tokens vanishes with theirs; None after anything else."""
    component, x = step.component, signals[0]
    if not isinstance(component, Elementwise) or not component.activation.odd or x.mean != 0:
        return None
    common, gap = sums[x.q]
    pair = component.activation.cross(x.mean, x.mean, x.q, x.q, common - (1 - others) * gap)
    return pair + (1 - others) * step.value.gap


def _eliminated(expression: sp.Expr, sums: Mapping[sp.Basic, tuple[sp.Symbol, sp.Expr]], others: sp.Expr) -> sp.Expr:
    """A moment in the c and gaps of signals for their q, outside of functions."""
    roots = {power for power in expression.atoms(sp.Pow) if not power.exp.is_Integer}
    found = sorted(expression.atoms(sp.Function, sp.Max, sp.Min) | roots, key=sp.default_sort_key)
    names = {node: sp.Dummy("node") for node in found}
    nodes, put = {symbol: node for node, symbol in names.items()}, {OTHERS: others}
    put |= {q: common + others * gap for q, (common, gap) in sums.items()}
    flat = expression.xreplace(names)
    numerator, denominator = sp.fraction(sp.together(flat))
    if not denominator.has(*sums):
        numerator, denominator = flat, sp.S.One
    terms = sp.Add.make_args(sp.expand(numerator))
    opaque = sp.Add(*(term.xreplace(put) for term in terms if term.has(*nodes)))
    plain = sp.expand(sp.Add(*(term.xreplace(put) for term in terms if not term.has(*nodes))))
    moments = sorted({moment for pair in sums.values() for moment in pair if moment.is_Symbol}, key=str)
    return ((sp.collect(plain, moments, sp.factor_terms) + opaque) / denominator.xreplace(put)).xreplace(nodes)
