"""Gradients through blocks whose stream grows: products over depth of factors that depend on the layer."""

from __future__ import annotations

from dataclasses import dataclass

import sympy as sp

from symprop.core import symbols
from symprop.core.errors import RefusedError
from symprop.core.expression import compare, factored
from symprop.core.provenance import Derived
from symprop.core.signal import Gradient
from symprop.depth.closed_form import solve_affine
from symprop.depth.solution import INDEPENDENT_LAYERS
from symprop.functions.rising_ratio import RisingRatio
from symprop.network.trace import Trace


def product_over_depth(factor: sp.Expr, layer: sp.Symbol, depth: sp.Expr) -> sp.Expr:
    """The product of ``factor`` over layer = 0 ... depth - 1, for a ratio of polynomials linear factors of ``layer``.

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
    result = (above[0] / below[0]) ** depth
    for (slope, start), (other_slope, other_start) in zip(above[1], below[1], strict=True):
        result *= factored(slope / other_slope) ** depth
        result *= RisingRatio(factored(start / slope), factored(other_start / other_slope), depth)
    if depth.is_Symbol:
        step = result.subs(depth, depth + 1) / result / factor.subs(layer, depth)
        if compare(step, sp.S.One).equal is False or compare(result.subs(depth, 0), sp.S.One).equal is False:
            raise AssertionError(f"the product of {factor} does not satisfy its recursion")
    return result if result.has(RisingRatio) else sp.expand(result)


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
