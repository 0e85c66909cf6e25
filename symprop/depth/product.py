"""Gradients through blocks whose stream grows: products over depth of factors that depend on the layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sympy as sp

from symprop.core import symbols
from symprop.core.errors import RefusedError
from symprop.core.expression import compare, factored
from symprop.core.provenance import Derived
from symprop.core.signal import Gradient
from symprop.depth.closed_form import solve_affine
from symprop.depth.iterate import LayerMap
from symprop.depth.solution import INDEPENDENT_LAYERS
from symprop.functions import GeometricSum
from symprop.functions.rising_ratio import RisingRatio
from symprop.network.trace import Trace


def product_over_depth(factor: sp.Expr, layer: sp.Symbol, depth: sp.Expr) -> sp.Expr:
    """The product of ``factor`` over layer = 0 ... depth - 1, for a ratio of products of terms linear in ``layer``.

    Each pair of factors x + a layer becomes a :class:`~symprop.functions.rising_ratio.RisingRatio`. The result is put
    back into its recursion. Raises :class:`RefusedError` where a factor is not a ratio of equally many linear ones.

    >>> x, a, c = sp.symbols("x a c", positive=True)
    >>> product_over_depth(1 + c/(x + a*symbols.layer), symbols.layer, symbols.L)
    RisingRatio((c + x)/a, x/a, L)
    >>> product_over_depth(1 + a/(x + a*symbols.layer), symbols.layer, symbols.L)
    L*a/x + 1
    """
    if not factor.has(layer):
        return factor**depth
    above, below = (_linear_factors(part, layer) for part in sp.fraction(factored(factor)))
    if len(above[1]) != len(below[1]):
        raise RefusedError(
            f"product of {factor}", "numerator and denominator have different degrees in the layer", "iterate numerically"
        )
    slopes = [sp.Mul(part[0], *(slope for slope, _ in part[1])) for part in (above, below)]
    result = factored(slopes[0] / slopes[1]) ** depth
    for start, other_start in _paired(*([factored(start / slope) for slope, start in part[1]] for part in (above, below))):
        result *= RisingRatio(start, other_start, depth)
    if depth.is_Symbol:
        step = result.subs(depth, depth + 1) / result / factor.subs(layer, depth)
        if compare(step, sp.S.One).equal is False or compare(result.subs(depth, 0), sp.S.One).equal is False:
            raise AssertionError(f"the product of {factor} does not satisfy its recursion")
    return result if result.has(RisingRatio) or not depth.is_Symbol else sp.expand(result)


def _paired(above: list[sp.Expr], below: list[sp.Expr]) -> list[tuple[sp.Expr, sp.Expr]]:
    """Starts of the numerator with those of the denominator, an integer apart where that can be: such pairs telescope."""
    free = list(below)
    pairs: list[tuple[sp.Expr, sp.Expr]] = []
    waiting: list[sp.Expr] = []
    for start in above:
        steps = {other: factored(start - other) for other in free}
        near = [other for other, step in steps.items() if step.is_Integer]
        if near:
            other = min(near, key=lambda item: abs(steps[item]))
            free.remove(other)
            pairs.append((start, other))
        else:
            waiting.append(start)
    return pairs + list(zip(waiting, free, strict=True))


def _linear_factors(part: sp.Expr, layer: sp.Symbol) -> tuple[sp.Expr, list[tuple[sp.Expr, sp.Expr]]]:
    constant, found = sp.S.One, []
    for base, power in sp.factor_list(part, layer)[1]:
        polynomial = sp.Poly(base, layer)
        if polynomial.degree() != 1:
            raise RefusedError(f"product of {part}", "a factor is not linear in the layer", "iterate numerically")
        found += [(polynomial.coeff_monomial(layer), polynomial.coeff_monomial(1))] * power
    constant = sp.factor_list(part, layer)[0]
    return constant, found


@dataclass(frozen=True)
class GrowingStream:
    """A stream to which every block adds the same second moment, and the gradient that comes back through it.

    ``added`` is the second moment a that a block adds, ``gain`` the gradient gain c of its branch at unit input,
    ``layers`` the stream's second moment as a function of ``symbols.layer``, ``gradient`` that of dLoss/dx at the bottom
    relative to the top: the product of 1 + c/q_l.
    """

    added: sp.Expr
    gain: sp.Expr
    layers: sp.Expr
    gradient: sp.Expr
    provenance: Derived


def solve_growing(trace: Trace, depth: sp.Expr = symbols.L) -> GrowingStream:
    """Solve a Pre-LN block over depth: q_l = q_0 + l a, and the gradient as a product of 1 + c/q_l.

    The norm in the branch must make its output independent of the stream's size, and the gradient's second moment must
    come back without its covariance (a block that acts on every token alone). Raises :class:`RefusedError` otherwise.
    """
    start = trace.input
    end = trace.expand()
    added = factored(end.q - start.q)
    if added.has(start.q, start.gap):
        raise RefusedError("recursion of q", f"a block adds {added}, which depends on the stream", "iterate numerically")
    layers = solve_affine({start.q: start.q + added}, symbols.layer)[start.q]
    incoming = Gradient(sp.Symbol("g_q", positive=True), sp.Symbol("g_gap", nonnegative=True))
    back = trace.substitute_moments(trace.backpropagate(incoming).q)
    factor = factored(back / incoming.q)
    if factor.has(start.gap, incoming.gap):
        raise RefusedError("recursion of the gradient", f"its factor is {factor}, which mixes tokens", "iterate numerically")
    gain = factored((factor - 1) * start.q)
    if gain.has(start.q):
        raise RefusedError("recursion of the gradient", f"its factor is {factor}, not 1 + c/q", "iterate numerically")
    a, c = sp.symbols("a c", positive=True)
    product = product_over_depth(1 + c / (start.q + a * symbols.layer), symbols.layer, depth)
    if sp.cancel(gain - added) == 0:
        product = product_over_depth(1 + a / (start.q + a * symbols.layer), symbols.layer, depth)
    provenance = Derived(
        factor, (*trace.assumptions, INDEPENDENT_LAYERS), trace.neglected, trace.sources, ("gradient from the top down",)
    )
    return GrowingStream(added, gain, layers, product.xreplace({a: added, c: gain}), provenance)


@dataclass(frozen=True)
class LayerwiseSolution:
    """A layer's map solved over depth.

    ``states`` holds, for every state that has a closed form, its value before block ``symbols.layer`` in terms of the
    input's moments (the state symbols themselves). ``transfer`` takes the gradient moments at the top of all ``depth``
    blocks to those at the bottom. States without a closed form are left out.
    """

    layer: LayerMap
    depth: sp.Expr
    states: Mapping[sp.Symbol, sp.Expr]
    transfer: sp.ImmutableMatrix | None

    def output(self, state: sp.Symbol) -> sp.Expr:
        """A state after all blocks."""
        return self.states[state].subs(symbols.layer, self.depth)


def closed_part(updates: Mapping[sp.Symbol, sp.Expr]) -> dict[sp.Symbol, sp.Expr]:
    """The largest set of states whose updates depend, affinely, on each other alone.

    >>> q, gap, a = sp.symbols("q gap a", positive=True)
    >>> closed_part({q: q + a, gap: gap + sp.sqrt(gap/q)})
    {q: a + q}
    """
    kept = {state: factored(update) for state, update in updates.items()}
    while True:
        outside = set(updates) - set(kept)
        dropped = [
            state
            for state, update in kept.items()
            if update.has(*outside) or any(factored(sp.diff(update, other)).has(*kept) for other in kept)
        ]
        if not dropped:
            return {state: sp.expand(update) for state, update in kept.items()}
        for state in dropped:
            del kept[state]


def solve_layerwise(layer: LayerMap, depth: sp.Expr = symbols.L) -> LayerwiseSolution:
    """Solve the closed part of a layer's map, put it into the backward factors, and multiply these over depth.

    The transfer is solved where it is one by one or, for two moments, diagonal, triangular or full with modes that are
    the same in every layer: then each mode is a product over depth. Several residual branches in one layer give several
    factors. The product is put back into its recursion over depth. Raises :class:`RefusedError` where the transfer needs
    a state without closed form, its modes turn from layer to layer, or a factor is not a ratio of linear ones.

    >>> q, a, b, c = sp.symbols("q a b c", positive=True)
    >>> two = LayerMap({q: q + a + b}, sp.Matrix([[(1 + a/q)*(1 + b/(q + a))]]))
    >>> solve_layerwise(two).transfer[0]
    L*a/q + L*b/q + 1
    """
    closed = closed_part(layer.updates)
    states = solve_affine(closed, symbols.layer) if closed else {}
    if layer.transfer is None:
        return LayerwiseSolution(layer, depth, states, None)
    missing = [state for state in layer.state if state not in closed and layer.transfer.has(state)]
    if missing:
        raise RefusedError(
            "product of the backward map", f"it depends on {missing[0]}, which has no closed form", "iterate numerically"
        )
    factors = layer.transfer.applyfunc(lambda entry: factored(entry.xreplace(states)))
    product = _product_of_matrices(factors, depth)
    _check_product(product, factors, depth)
    return LayerwiseSolution(layer, depth, states, product)


def _product_of_matrices(factors: sp.ImmutableMatrix, depth: sp.Expr) -> sp.ImmutableMatrix:
    """The product over depth of matrices that share their modes."""
    index = symbols.layer
    if factors.rows == 1:
        return sp.ImmutableMatrix([[product_over_depth(factors[0, 0], index, depth)]])
    if factors.rows > 2:
        raise RefusedError("product of the backward map", f"it has {factors.rows} moments", "iterate numerically")
    (a, b), (c, d) = factors.tolist()
    if b == 0 and c == 0:
        return sp.ImmutableMatrix(sp.diag(product_over_depth(a, index, depth), product_over_depth(d, index, depth)))
    reference = b if b != 0 else c
    shape = [factored(entry / reference) for entry in (b, c, a - d)]
    if any(entry.has(index) for entry in shape):
        raise RefusedError("product of the backward map", "its modes turn from layer to layer", "iterate numerically")
    # Every factor is x 1 + y S with a constant S, so that they commute and share the eigenvectors of S.
    fixed = sp.Matrix([[shape[2], shape[0]], [shape[1], 0]])
    coupled = shape[0] * shape[1] != 0
    root = sp.sqrt(factored(shape[2] ** 2 + 4 * shape[0] * shape[1])) if coupled else shape[2]
    if root == 0:
        return _resonant(fixed - sp.eye(2) * shape[2] / 2, factored((a + d) / 2), reference, depth)
    high, low = factored((shape[2] + root) / 2), factored((shape[2] - root) / 2)
    if not factors.has(index):
        first, second = factored(d + reference * high), factored(d + reference * low)
        excess = (factors - second * sp.eye(2)).applyfunc(factored)
        return sp.ImmutableMatrix(second**depth * sp.eye(2) + excess * GeometricSum(first, second, depth))
    grown, shrunk = (product_over_depth(factored(d + reference * value), index, depth) for value in (high, low))
    projector = (fixed - low * sp.eye(2)) / (high - low)
    return sp.ImmutableMatrix(
        (projector * grown + (sp.eye(2) - projector) * shrunk).applyfunc(lambda entry: sp.together(entry))
    )


def _resonant(nilpotent: sp.Matrix, diagonal: sp.Expr, reference: sp.Expr, depth: sp.Expr) -> sp.ImmutableMatrix:
    """Equal eigenvalues: the mixing adds up over depth."""
    ratio = factored(reference / diagonal)
    if ratio.has(symbols.layer):
        raise RefusedError("product of the backward map", "a mode drives an equal one", "iterate numerically")
    return sp.ImmutableMatrix((sp.eye(2) + nilpotent * ratio * depth) * product_over_depth(diagonal, symbols.layer, depth))


def _check_product(product: sp.ImmutableMatrix, factors: sp.ImmutableMatrix, depth: sp.Expr) -> None:
    if not depth.is_Symbol:
        return
    later = product.xreplace({depth: depth + 1})
    expected = product * factors.xreplace({symbols.layer: depth})
    pairs = [*zip(later, expected, strict=True), *zip(product.xreplace({depth: sp.S.Zero}), sp.eye(product.rows), strict=True)]
    if any(compare(left, right).equal is False for left, right in pairs):
        raise AssertionError("the product of the backward maps does not satisfy its recursion")
