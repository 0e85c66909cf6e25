"""Results with their proofs, read off a solved stack: what a derivation file asks for by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import sympy as sp

from symprop.claims.chain import indexed, names_of, trace_chain
from symprop.claims.claim import Result
from symprop.components.base import Component, PairState
from symprop.core.proof import ProofStep, about
from symprop.core.provenance import Derived
from symprop.core.signal import Gradient, Signal
from symprop.depth.solution import DepthSolution, solve
from symprop.network.builders import Block, Stack
from symprop.network.trace import trace_of
from symprop.notation.view import DEPTH, Coordinate, View
from symprop.wick.steps import Derivation

UNROLL = "the recursion is solved over depth and put back into itself"
LAST = f"X^{{{DEPTH}}}"
"""The signal after all blocks."""
LIMIT = "a factor 1 + x/k + O(1/k^2), taken k times, tends to e^x as k grows"


def depth_result(solution: DepthSolution, view: View, key: str) -> Result:
    """A coordinate after L blocks, in the coordinates of the given input; the proof walks through one block."""
    coordinate = _coordinate(view, key)
    expression = _after_depth(solution, view, coordinate)
    block = about(coordinate.latex.format(X=r"X^{\ell+1}"), trace_chain(solution.trace, view, coordinate))
    steps = (*block, ProofStep("unroll", UNROLL, expression))
    return _result(solution, view, coordinate, expression, solution.provenance, LAST, steps)


def limit_result(
    solution: DepthSolution, view: View, key: str, scaling: Mapping[sp.Expr, sp.Expr]
) -> Result:
    """A coordinate at infinite depth when residual weights shrink as ``scaling`` says."""
    coordinate = _coordinate(view, key)
    limit = solution.scaling_limit(scaling)
    initial = view.initial(solution.input)
    finite = _after_depth(solution, view, coordinate).subs(dict(scaling))
    expression = view.express(coordinate.of(limit.signal), (solution.input,)).xreplace(initial)
    steps = (ProofStep("unroll", UNROLL, finite), ProofStep("infinite depth", LIMIT, expression, relation=r"\to"))
    return _result(solution, view, coordinate, expression, limit.provenance, LAST, steps)


def signal_result(
    solution: DepthSolution,
    view: View,
    of: Callable[[Signal], sp.Expr],
    quantity: str,
    definition: str,
    scaling: Mapping[sp.Expr, sp.Expr] | None = None,
) -> Result:
    """Any function of the final signal, such as its correlation, in the coordinates of the given input.

    ``definition`` is the reason printed at the first step, where the coordinates of the last layer are put in.
    """
    initial = view.initial(solution.input)
    provenance = solution.provenance
    finite = view.express(of(solution.signal), (solution.input,)).xreplace(initial)
    steps = [ProofStep("definition", definition, finite)]
    if scaling is not None:
        limit = solution.scaling_limit(scaling)
        provenance = limit.provenance
        finite = view.express(of(limit.signal), (solution.input,)).xreplace(initial)
        steps.append(ProofStep("infinite depth", LIMIT, finite, relation=r"\to"))
    return Result(
        finite,
        quantity,
        tuple(steps),
        assumptions=provenance.assumptions,
        neglected=provenance.neglected,
        sources=provenance.sources,
        names=names_of(solution.trace, view),
    )


def gram_result(solution: DepthSolution, entry: sp.Expr, average: sp.Expr) -> Result:
    """The inner product of two tokens after L blocks, for tokens of any geometry.

    ``entry`` is the initial inner product, ``average`` the average of all n^2 of them.
    """
    expression = solution.gram(entry, average)
    one = solution.trace.pair(PairState(entry, average, solution.input.width)).entry
    steps = (
        ProofStep("pair rules", "every component acts on one entry of the expected Gram matrix", sp.factor(one),
                  r"\mathbb{E}\,\langle X^{1}_k, X^{1}_{k'} \rangle"),
        ProofStep("unroll", UNROLL, expression),
    )
    return Result(
        expression,
        rf"\mathbb{{E}}\,\langle {LAST}_k, {LAST}_{{k'}} \rangle",
        steps,
        assumptions=solution.provenance.assumptions,
        neglected=solution.provenance.neglected,
        sources=solution.provenance.sources,
    )


def component_result(component: Component, view: View, key: str) -> Result:
    """A coordinate of the output of one component, for given input tokens."""
    solution = _single(component)
    coordinate = _coordinate(view, key)
    trace = solution.trace
    initial = view.initial(trace.input)
    links = trace_chain(trace, view, coordinate)
    steps = tuple(ProofStep(link.rule, link.reason, link.expression.xreplace(initial)) for link in links)
    output = "S" if component.rule == "attention" else "D"
    return _result(solution, view, coordinate, steps[-1].expression, solution.provenance, output, steps)


def forward_result(block: Block, view: View, key: str, signal: Signal, output: str = "Y") -> Result:
    """A coordinate of the output of a block, in this view's coordinates of its input ``signal``.

    The block need not be affine; its proof walks from the output back to the input.
    """
    trace = trace_of(block, signal)
    coordinate = _coordinate(view, key)
    initial = view.initial(trace.input)
    steps = tuple(
        ProofStep(link.rule, link.reason, link.expression.xreplace(initial))
        for link in trace_chain(trace, view, coordinate)
    )
    return Result(
        steps[-1].expression if steps else sp.S.Zero,
        coordinate.latex.format(X=output),
        steps,
        assumptions=trace.assumptions,
        neglected=trace.neglected,
        sources=trace.sources,
        names=names_of(trace, view),
    )


def backward_result(block: Block, view: View, signal: Signal, gradient: Gradient, *, pair: bool = False) -> Result:
    """Second moment of dLoss/d(input) of a block (with ``pair``, that of two tokens), in the input's coordinates.

    ``gradient`` is that of the output. The proof lists what every component does to it, from the output back.
    """
    trace = trace_of(block, signal)
    initial = view.initial(trace.input)

    def shown(found: Gradient) -> sp.Expr:
        value = trace.substitute_moments(found.p if pair else found.q)
        return view.express(value, (trace.input,)).xreplace(initial)

    def quantity(label: str) -> str:
        of = f"({label})" if label else ""
        return rf"\mathbb{{E}}\, g_t{of} g_s{of}" if pair else rf"\mathbb{{E}}\, g_t{of}^2"

    # What the last of these steps reaches is the input, whose gradient is the one that is asked for.
    links = [
        ProofStep(step.component.rule, step.component.reason, shown(found),
                  "" if step is trace.steps[0] else quantity(indexed(trace.signal(step.inputs[0]).label)))
        for step, found in zip(reversed(trace.steps), trace.sweep(gradient), strict=True)
    ]  # fmt: skip
    return Result(
        links[-1].expression,
        quantity(""),
        tuple(links),
        assumptions=trace.assumptions,
        neglected=trace.neglected,
        sources=trace.sources,
    )


def pair_result(component: Component, quantity: str, *states: PairState) -> Result:
    """One entry of the expected Gram matrix of a component's output, per coordinate."""
    expression = component.pair(*states).entry
    step = ProofStep(component.rule, component.reason, expression)
    return Result(
        expression, quantity, (step,), assumptions=component.assumptions, sources=component.sources
    )


def wick_result(derivation: Derivation, quantity: str, naming: Mapping[sp.Expr, sp.Expr] | None = None) -> Result:
    """A result of the Wick calculus; ``naming`` replaces traces by symbols in the final expression."""
    expression = derivation.expression.subs(dict(naming or {}))
    steps = derivation.steps
    if naming and steps:
        steps = (*steps[:-1], replace(steps[-1], expression=steps[-1].expression.subs(dict(naming))))
    return Result(
        expression,
        quantity,
        steps,
        derivation.setup,
        derivation.assumptions,
        derivation.neglected,
        derivation.sources,
    )


def _single(component: Component) -> DepthSolution:
    return solve(Stack(component, sp.S.One))


def _coordinate(view: View, key: str) -> Coordinate:
    return next(item for item in view.coordinates if item.key == key)


def _after_depth(solution: DepthSolution, view: View, coordinate: Coordinate) -> sp.Expr:
    expression = view.express(coordinate.of(solution.signal), (solution.input,))
    return expression.xreplace(view.initial(solution.input))


def _result(
    solution: DepthSolution,
    view: View,
    coordinate: Coordinate,
    expression: sp.Expr,
    provenance: Derived,
    label: str,
    steps: tuple[ProofStep, ...],
) -> Result:
    return Result(
        expression,
        coordinate.latex.format(X=label),
        steps,
        assumptions=provenance.assumptions,
        neglected=provenance.neglected,
        sources=provenance.sources,
        names=names_of(solution.trace, view),
    )
