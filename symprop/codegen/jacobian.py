"""A function together with its derivatives, as another function to generate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import sympy as sp

from symprop.codegen.recursion import Recursion
from symprop.codegen.spec import FunctionSpec, Parameter
from symprop.core.errors import RefusedError, UnknownNameError
from symprop.functions.arc_cosine import ArcCosine


def jacobian(spec: FunctionSpec, parameters: Iterable[str] | None = None) -> FunctionSpec:
    r"""The outputs of a spec and their derivatives in parameters, with everything that they share computed once.

    The derivative of output y in parameter a is the output ``d_y_d_a``; the function is called ``NAME_jacobian``. Derivatives
    go through a recursion over depth by the chain rule, layer by layer: the tangents of the state are further states.
    ``parameters`` are names; by default all that are not integers. A parameter that has a default is one like others: its
    derivative is that at fixed others. Raises ``UnknownNameError`` for a name that is no real parameter of the spec and
    ``RefusedError`` where there is none, or for a node without a derivative.

    >>> from symprop.codegen.spec import parameters
    >>> from symprop.core.symbols import L, alpha_1
    >>> spec = FunctionSpec("growth", parameters(alpha_1, L), (("C", (1 + alpha_1**2)**L),), "Growth of C.")
    >>> dict(jacobian(spec).outputs)["d_C_d_alpha_1"]
    2*L*alpha_1*(alpha_1**2 + 1)**L/(alpha_1**2 + 1)
    """
    known = {item.name: item for item in spec.signature if not item.domain.integer}
    wanted = list(known) if parameters is None else list(parameters)
    for name in wanted:
        if name not in known:
            raise UnknownNameError(f"real parameter of {spec.name}", name, known)
    if not wanted:
        raise RefusedError(f"jacobian of {spec.name}", "it has no real parameter", "take differences in the integers")
    chosen = [known[name] for name in wanted]
    loop, tangents = (None, {}) if spec.recursion is None else _tangents(spec.recursion, chosen)
    values = [(name, _factored(expression)) for name, expression in spec.outputs]
    outputs = [*values]
    for name, expression in values:
        outputs += [(f"d_{name}_d_{item.name}", _derivative(expression, item.symbol, tangents)) for item in chosen]
    return replace(
        spec, name=f"{spec.name}_jacobian", outputs=tuple(outputs), recursion=loop,
        summary=f"{spec.summary.rstrip('.')}, and derivatives in {', '.join(wanted)}.",
        formula=spec.formula_latex + r" \\ \text{and its derivatives}", defaults=dict(spec.defaults),
    )


def _tangents(
    loop: Recursion, parameters: Iterable[Parameter]
) -> tuple[Recursion, dict[sp.Symbol, Mapping[sp.Symbol, sp.Symbol]]]:
    """The recursion with the tangents of its state, and the tangents by state and parameter."""
    found: dict[sp.Symbol, Mapping[sp.Symbol, sp.Symbol]] = {
        state: {item.symbol: sp.Symbol(f"d_{state}_d_{item.name}", real=True) for item in parameters} for state in loop.state
    }
    start, updates = dict(loop.start), {state: _factored(update) for state, update in loop.updates.items()}
    for state, by in found.items():
        for parameter, tangent in by.items():
            start[tangent] = sp.diff(loop.start[state], parameter)
            updates[tangent] = _derivative(updates[state], parameter, found)
    return Recursion(start, updates, loop.count, loop.settled), found


def _factored(expression: sp.Expr) -> sp.Expr:
    """The same with factors outside in every term: derivatives in them then have the rest in common with the value."""
    plain = expression.replace(ArcCosine, lambda *arguments: ArcCosine(*arguments).without_scale())
    return sp.Add(*map(sp.factor_terms, sp.Add.make_args(plain)))


def _derivative(
    expression: sp.Expr, parameter: sp.Symbol, tangents: Mapping[sp.Symbol, Mapping[sp.Symbol, sp.Symbol]]
) -> sp.Expr:
    """The derivative of an expression in a parameter, by which its state symbols move as well."""
    through = (sp.diff(expression, state) * by[parameter] for state, by in tangents.items())
    found = sp.Add(sp.diff(expression, parameter), *through)
    if found.has(sp.Derivative):
        raise RefusedError(f"the derivative in {parameter}", "an opaque node has none in closed form",
                           "differentiate the torch evaluator")
    return found
