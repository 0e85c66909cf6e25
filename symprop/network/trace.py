"""A block as straight-line code: single-assignment steps, which every interpreter reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sympy as sp

from symprop.components.base import Component, PairState
from symprop.components.gated import GAUSSIAN_WEIGHTS
from symprop.core import symbols
from symprop.core.display import html_table
from symprop.core.errors import RefusedError
from symprop.core.provenance import EXACT, Assumption, Source, merge_unique, neglected_order
from symprop.core.signal import Gradient, Signal, opaque
from symprop.network.builders import Block, Named, Parallel, Residual, Sequential, Stack


@dataclass(frozen=True)
class Step:
    """One application of a component.

    ``inputs`` are positions of earlier signals (0 is the input of the trace, k + 1 the output of step k), ``atoms`` is
    the output as symbols and ``value`` the same output in terms of the atoms of the inputs.
    """

    component: Component
    inputs: tuple[int, ...]
    atoms: Signal
    value: Signal


@dataclass(frozen=True)
class Trace:
    """The steps of a block, from the symbols of its input to those of its output."""

    input: Signal
    steps: tuple[Step, ...]
    output: int

    def signal(self, position: int) -> Signal:
        """The atoms of a signal: 0 is the input, k + 1 the output of step k."""
        return self.input if position == 0 else self.steps[position - 1].atoms

    @property
    def result(self) -> Signal:
        """The atoms of the output."""
        return self.signal(self.output)

    def expand(self) -> Signal:
        """The output in terms of the moments of the input."""
        return self.substitute(self.result)

    def substitute(self, signal: Signal) -> Signal:
        """Replace the atoms of every step, from the last to the first, by what they stand for."""
        for step in reversed(self.steps):
            signal = signal.subs(definitions(step))
        return signal

    def substitute_moments(self, expression: sp.Expr) -> sp.Expr:
        """An expression in atoms of the trace, in terms of the moments of the input."""
        for step in reversed(self.steps):
            expression = expression.xreplace(definitions(step))
        return expression

    def backpropagate(self, gradient: Gradient) -> Gradient:
        """Moments of dLoss/d(input) given those of dLoss/d(output), in terms of the atoms of the trace."""
        return list(self.sweep(gradient))[-1] if self.steps else gradient

    def sweep(self, gradient: Gradient) -> Iterator[Gradient]:
        """After every step, from the last to the first, the gradient that has reached the first of its inputs."""
        for step, _, gradients in self._backward(gradient):
            yield gradients[step.inputs[0]]

    def reaching(self, gradient: Gradient) -> Iterator[tuple[Step, Gradient]]:
        """Every step, from the last to the first, with the gradient that reaches its output."""
        for step, incoming, _ in self._backward(gradient):
            yield step, incoming

    def _backward(self, gradient: Gradient) -> Iterator[tuple[Step, Gradient, dict[int, Gradient]]]:
        """Every step with the gradient of its output, and what has reached each signal so far."""
        gradients: dict[int, Gradient] = {self.output: gradient}
        for position in range(len(self.steps), 0, -1):
            incoming = gradients.pop(position, Gradient(sp.S.Zero, sp.S.Zero))
            step = self.steps[position - 1]
            parts = step.component.backward(incoming, *(self.signal(item) for item in step.inputs))
            for source, part in zip(step.inputs, parts, strict=True):
                known = gradients.get(source)
                gradients[source] = part if known is None else known.plus(part)
            yield step, incoming, gradients

    def _repr_html_(self) -> str:
        rows = [
            (self.signal(position + 1).label, step.component.describe(), ", ".join(self.signal(k).label for k in step.inputs),
             step.component.rule, step.component.reason)
            for position, step in enumerate(self.steps)
        ]  # fmt: skip
        return html_table(f"{len(rows)} steps from {self.input.label}", ("output", "component", "of", "rule", "because"), rows)

    def pair(self, state: PairState) -> PairState:
        """The same block on one entry of the expected token Gram matrix, for tokens that are not exchangeable."""
        states = [state]
        for step in self.steps:
            states.append(step.component.pair(*(states[item] for item in step.inputs)))
        return states[self.output]

    @property
    def assumptions(self) -> tuple[Assumption, ...]:
        """Every assumption that a step makes, in order of first use."""
        return merge_unique(*(step.component.assumptions for step in self.steps))

    @property
    def neglected(self) -> str:
        """What the steps neglect together.

        A norm at finite width is exact for Gaussian tokens, which those behind random weights are in the limit of width only;
        so is what follows it for given inner products of the tokens, which a norm does not fix.
        """
        kept = any(getattr(step.component, "finite", False) for step in self.steps) and any(map(self._limited, self.steps))
        return neglected_order(*(step.component.neglected for step in self.steps), "O(1/d)" if kept else EXACT)

    def _limited(self, step: Step) -> bool:
        """Whether the moments of a step are those of coordinates or inner products at infinite width."""
        position = step.inputs[0]
        gaussian = step.component.gaussian_input and position != 0 and self.signal(position).fixed_norm is None
        return gaussian or GAUSSIAN_WEIGHTS in step.component.assumptions

    @property
    def sources(self) -> tuple[Source, ...]:
        """Where the rules of the steps were published."""
        return merge_unique(*(step.component.sources for step in self.steps))


def definitions(step: Step) -> dict[sp.Basic, sp.Basic]:
    """The moments of a step's output as equations: symbol to expression in the moments of its inputs."""
    pairs = ((step.atoms.q, step.value.q), (step.atoms.gap, step.value.gap), (step.atoms.mean, step.value.mean))
    return {atom: value for atom, value in pairs if atom.is_Symbol}


def token_input(
    tokens: sp.Expr = symbols.n, width: sp.Expr = symbols.d, *, label: str = "X", gaussian: bool = False
) -> Signal:
    """Exchangeable tokens with opaque moments ``q_X``, ``gap_X`` and zero coordinate mean."""
    tokens, width = sp.sympify(tokens), sp.sympify(width)
    gap = sp.S.Zero if tokens == 1 else sp.S.One
    return opaque(label, Signal(q=sp.S.One, gap=gap, tokens=tokens, width=width, gaussian=gaussian))


def trace_of(block: Block, signal: Signal | None = None) -> Trace:
    """Turn a block without stacks into its trace; the signal's moments should be symbols.

    >>> from symprop.components import Linear, UniformAttention
    >>> from symprop.core.symbols import alpha_1, d, sigma_v2
    >>> from symprop.network import residual
    >>> trace_of(residual(UniformAttention(d, sigma_v2), alpha_1)).expand().gap
    gap_X
    """
    start = signal or token_input()
    steps: list[Step] = []
    labels = _Labels(start.label)
    shared: list[int] = []
    """What the branch in the making is added to: given that, nothing of it has zero mean."""

    def at(position: int) -> Signal:
        found = start if position == 0 else steps[position - 1].atoms
        return found.replace(fresh=False) if position in shared else found

    def emit(component: Component, inputs: tuple[int, ...], label: str | None) -> int:
        first, *others = inputs
        value = component.forward(at(first), *(at(item).replace(fresh=at(item).fresh and item > first) for item in others))
        atoms = opaque(labels.next(label), value)
        steps.append(Step(component, inputs, atoms, value))
        return len(steps)

    def build(part: Block, position: int, label: str | None) -> int:
        if isinstance(part, Sequential):
            for index, item in enumerate(part.blocks):
                position = build(item, position, label if index == len(part.blocks) - 1 else None)
            return position
        if isinstance(part, Named):
            return build(part.block, position, part.label)
        if isinstance(part, Residual):
            return emit(part.sum, (position, branched(part.branch, position, position)), label)
        if isinstance(part, Parallel):
            read, total = branched(part.before, position, position), position
            for index, (branch, added) in enumerate(zip(part.branches, part.sums, strict=True), 1):
                branch_end = branched(branch, read, position, read)
                total = emit(added, (total, branch_end), label if index == len(part.sums) else None)
            return total
        if isinstance(part, Stack):
            raise RefusedError(
                "Stack", "a stack inside a block has no closed map yet", "solve the stack, then go on from its output"
            )
        return emit(part, (position,), label)

    def branched(part: Block, position: int, *streams: int) -> int:
        shared.extend(streams)
        end = build(part, position, None)
        del shared[-len(streams) :]
        return end

    output = build(block, 0, None)
    return Trace(start, tuple(steps), output)


class _Labels:
    """Unique print names: one that is taken gets a number, a missing one is drawn from the alphabet."""

    def __init__(self, taken: str) -> None:
        self._taken = {taken}
        self._spare: Iterator[str] = (f"H{index}" for index in range(1, 10**6))

    def next(self, wanted: str | None) -> str:
        label = next(self._spare) if wanted is None else wanted
        if label in self._taken:
            label = next(f"{label}{index}" for index in range(2, 10**6) if f"{label}{index}" not in self._taken)
        self._taken.add(label)
        return label
