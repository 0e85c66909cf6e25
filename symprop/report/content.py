"""What a derivation has to say, gathered once for terminals and for LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import sympy as sp

from symprop.claims import Claim, LatexName, PaperDerivation, Result, Verdict, names_of, step_equations, trace_chain
from symprop.claims.chain import indexed
from symprop.core import symbols
from symprop.core.errors import RefusedError
from symprop.core.expression import factored
from symprop.core.proof import ProofStep
from symprop.depth import DepthSolution
from symprop.functions.softmax_layer import LayerMoment
from symprop.network.trace import Trace
from symprop.notation import View
from symprop.report.escape import escape
from symprop.report.printer import latex, text

Names = Mapping[sp.Symbol, LatexName]
Found = TypeVar("Found")

READABLE = 250
"""Operations up to which a chain of equalities is printed: beyond, the steps of the block say it better."""


@dataclass(frozen=True)
class Formula:
    """An equation, in every form in which it may be printed."""

    quantity: str
    expression: Any
    names: Names
    view: View

    @property
    def latex(self) -> str:
        """The right-hand side in LaTeX."""
        return latex(self.expression, self.names, self.view)

    @property
    def unicode(self) -> str:
        """The right-hand side in one line of Unicode."""
        return text(self.expression, self.names, self.view)

    @property
    def sympy(self) -> str:
        """The right-hand side as SymPy prints it."""
        return str(self.expression)


@dataclass(frozen=True)
class BlockStep:
    """One step of the block: what is applied to which signals, and the coordinates of the result."""

    signal: str
    inputs: tuple[str, ...]
    component: str
    rule: str
    reason: str
    equations: tuple[Formula, ...]


@dataclass(frozen=True)
class Chain:
    """A quantity and the chain of equalities that follows the block from its output back to its input."""

    quantity: str
    steps: tuple[ProofStep, ...]
    names: Names


@dataclass(frozen=True)
class BlockReport:
    """The block in a view's coordinates, from its steps to its depth limit."""

    steps: tuple[BlockStep, ...]
    chains: tuple[Chain, ...]
    closed: tuple[Formula, ...]
    scaling: str
    limit: tuple[Formula, ...]
    limit_neglected: str
    correlation: Formula | None


def block_names(trace: Trace, view: View) -> dict[sp.Symbol, LatexName]:
    """How the moments of a block print, with indexed names for signals that the block leaves unnamed."""
    names = names_of(trace, view)
    return {key: LatexName(name.text, re.sub(r"\bH(\d+)\^", r"H_{\1}^", name.latex)) for key, name in names.items()}


def given_names(trace: Trace, view: View) -> dict[sp.Symbol, LatexName]:
    """The same names, with the input of the whole network as a given matrix instead of the signal of a layer."""
    names = block_names(trace, view)
    label = trace.input.label
    return names | {item.symbol(label): names[item.initial] for item in view.coordinates}


def block_report(derivation: PaperDerivation, view: View) -> BlockReport:
    """Steps, proof chains, closed form over depth and depth limit of a derivation's block."""
    trace = derivation.trace
    names = block_names(trace, view)
    steps = block_steps(trace, view)
    chains = []
    # A chain through a single step is that step again.
    for coordinate in view.coordinates if len(trace.steps) > 1 else ():
        links = trace_chain(trace, view, coordinate)
        if links and links[-1].expression != 0 and max(sp.count_ops(link.expression) for link in links) <= READABLE:
            chains.append(Chain(_name(coordinate.symbol(trace.result.label), names), links, names))
    if derivation.solution is None:
        return BlockReport(steps, tuple(chains), (), "", (), "", None)
    return _solved(derivation.solution, view, steps, tuple(chains))


def block_steps(trace: Trace, view: View, *, tidy: bool = True) -> tuple[BlockStep, ...]:
    """The steps of a block in a view's coordinates; ``tidy=False`` leaves the equations as the components state them."""
    names = block_names(trace, view)
    labels = {0: r"X^{\ell}"} | {position: _label(step.atoms.label) for position, step in enumerate(trace.steps, 1)}
    labels[trace.output] = r"X^{\ell+1}"
    steps = []
    for position, step in enumerate(trace.steps, 1):
        if tidy:
            equations = step_equations(step, tuple(trace.signal(item) for item in step.inputs), view)
        else:
            equations = dict(zip(view.symbols(step.atoms), view.values(step.value), strict=True))
        calls = sorted(set().union(*(value.atoms(LayerMoment) for value in equations.values())), key=str)
        named, own = _named_moments(calls), dict(names)
        own |= {symbol: LatexName(symbol.name, _moment_name(call)) for call, symbol in named.items()}
        formulas = tuple(
            Formula(_name(symbol, names), value.xreplace(named), own, view) for symbol, value in equations.items() if value != 0
        ) + tuple(Formula(_moment_name(call), call, names, view) for call in named)
        component = step.component
        inputs = tuple(labels[item] for item in step.inputs)
        steps.append(BlockStep(labels[position], inputs, _described(step.component, view), component.rule,
                               component.reason, formulas))  # fmt: skip
    return tuple(steps)


def _named_moments(calls: Sequence[LayerMoment]) -> dict[LayerMoment, sp.Symbol]:
    """Symbols for moments of softmax weights, which would fill a line each; none where one moment has two arguments."""
    named = {call: sp.Symbol(f"M_{call.args[0]}", positive=True) for call in calls}
    return named if len(set(named.values())) == len(named) else {}


def _moment_name(call: LayerMoment) -> str:
    return latex(call).partition("(")[0].removesuffix(r"\bigl").removesuffix(r"\Bigl")


def _solved(
    solution: DepthSolution, view: View, steps: tuple[BlockStep, ...], chains: tuple[Chain, ...]
) -> BlockReport:
    """The report of a block with its closed form over depth and its limits."""
    given = given_names(solution.trace, view)
    start = (solution.input,)
    depth = latex(solution.stack.depth, view=view)

    def at(signal: Any, superscript: str) -> tuple[Formula, ...]:
        found = []
        for item in view.coordinates:
            value = view.express(item.of(signal), start)
            if value != 0:
                left = item.latex.format(X=f"X^{{{superscript}}}")
                found.append(Formula(left, value, given, view))
        return tuple(found)

    scaling = depth_scaling(solution)
    limit = _unless_refused(lambda: solution.scaling_limit(scaling)) if scaling else None
    written = ", ".join(f"{latex(key**2, view=view)} = {latex(value**2, view=view)}" for key, value in scaling.items())
    found = _unless_refused(solution.correlation_limit) if len(solution.modes) == 2 else None
    correlation = None
    if found is not None:
        value = _branches(found, solution, view)
        correlation = Formula(rf"\lim_{{{depth} \to \infty}} \rho(X^{{{depth}}})", value, given, view)
    return BlockReport(
        steps, chains, at(solution.signal, depth), written,
        at(limit.signal, r"\infty") if limit else (), limit.provenance.neglected if limit else "",
        correlation,
    )  # fmt: skip


def _unless_refused(limit: Callable[[], Found]) -> Found | None:
    """A limit over depth, or None where there is none."""
    try:
        return limit()
    except RefusedError:
        return None


def depth_scaling(solution: DepthSolution) -> dict[sp.Expr, sp.Expr]:
    """Residual weights that shrink with depth, alpha_k^2 = a_k/L, for every registered pair that the block uses."""
    used: set[sp.Symbol] = set().union(*(mode.factor.free_symbols for mode in solution.modes))
    pairs = ((symbol, str(symbol.name).replace("alpha_", "a_")) for symbol in sorted(used, key=str))
    return {
        symbol: sp.sqrt(symbols.symbol(scaled) / symbols.L)
        for symbol, scaled in pairs
        if scaled != symbol.name and symbols.is_registered(scaled)
    }


def claim_names(derivation: PaperDerivation, view: View, result: Result) -> dict[sp.Symbol, LatexName]:
    """The names in which a result prints: its own before those of the block."""
    return {**given_names(derivation.trace, view), **result.names}


def dynamics(derivation: PaperDerivation, view: View) -> tuple[Formula, ...]:
    """Exponents and boundaries over depth of a block that has no closed form there."""
    return tuple(
        Formula(view.quantity(item.quantity), item.expression, claim_names(derivation, view, item), view)
        for item in derivation.dynamics
    )


def stated_formula(claim: Claim, names: Names, view: View) -> str:
    """What the paper states, in LaTeX."""
    return claim.stated_latex or ("" if claim.stated is None else latex(claim.stated, names, view))


def setting(mapping: Mapping[sp.Symbol, sp.Expr], names: Names, view: View) -> str:
    """A specialisation as equations in LaTeX, in a fixed order."""
    items = sorted(mapping.items(), key=lambda pair: str(pair[0]))
    return r",\ ".join(
        f"{latex(key, names, view)} {'> 0' if _positive(value) else f'= {latex(value, names, view)}'}" for key, value in items
    )


def _positive(value: Any) -> bool:
    """Whether a value is any positive one: a symbol of no meaning of its own."""
    own = isinstance(value, sp.Symbol) and not (symbols.is_registered(value) and symbols.symbol(value.name) == value)
    return own and bool(value.is_positive)


def occurring_symbols(formulas: Iterable[Any]) -> tuple[symbols.SymbolInfo, ...]:
    """The registered symbols that occur, in order of registration."""
    used: set[sp.Basic] = set()
    for expression in formulas:
        used |= getattr(sp.sympify(expression, strict=True), "free_symbols", set())
    return tuple(item for item in symbols.registered() if item.symbol in used)


def verdict_rows(verdicts: Iterable[Verdict]) -> list[dict[str, Any]]:
    """The verdicts as plain data."""
    return [
        {
            "id": item.claim.id, "where": item.claim.where, "title": item.claim.title, "verdict": item.status.value,
            "expected": item.claim.expected.value, "as_expected": item.as_expected, "detail": item.detail,
            "corrected_by": item.claim.corrected_by, "note": item.claim.note,
        }
        for item in verdicts
    ]  # fmt: skip


def _branches(value: sp.Expr, solution: DepthSolution, view: View) -> sp.Expr:
    """A case distinction in a view's coordinates, its conditions without factors that are positive anyway."""
    start = (solution.input,)
    if not isinstance(value, sp.Piecewise):
        return view.express(value, start)
    vanishing: set[sp.Expr] = set()

    def condition(found: Any) -> Any:
        if not isinstance(found, sp.core.relational.Relational):
            return found.func(*map(condition, found.args)) if found.args else found
        factors = sp.Mul.make_args(factored(view.express(found.lhs - found.rhs, start)))
        side = sp.Mul(*(factor for factor in factors if not factor.is_positive))
        # What cannot be negative and did not vanish in a branch before is positive.
        decided = isinstance(found, sp.StrictGreaterThan) and side in vanishing and side.is_nonnegative
        return sp.true if decided else found.func(side, 0)

    branches = []
    for item, when in value.args:
        shown = condition(when)
        branches.append((factored(view.express(item, start)), shown))
        if isinstance(shown, sp.Eq):
            vanishing.add(shown.lhs)
    return sp.Piecewise(*branches)


def _label(label: str) -> str:
    return indexed(label) + r"^{\ell}"


def _name(symbol: sp.Symbol, names: Names) -> str:
    return names[symbol].latex if symbol in names else latex(symbol)


def _described(component: Any, view: View) -> str:
    """Name and parameters of a component in LaTeX, without parameters at their default."""
    defaults = {item.name: item.default for item in fields(component)}
    shown = [
        latex(value, view=view) if isinstance(value, sp.Basic) else rf"\text{{{escape(getattr(value, 'name', name))}}}"
        for name, default in defaults.items()
        if (value := getattr(component, name)) != default
    ]
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(component).__name__).lower()
    arguments = r",\, ".join(shown)
    return rf"\text{{{words}}}({arguments})" if shown else rf"\text{{{words}}}"
