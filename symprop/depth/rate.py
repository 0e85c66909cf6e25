"""Laws over depth near collapse: how fast tokens align, or move apart, and how gradients grow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import sympy as sp

from symprop.core import symbols
from symprop.core.errors import RefusedError
from symprop.core.expression import factored
from symprop.core.provenance import Derived
from symprop.depth.collapse import Collapse, collapse
from symprop.depth.fixed_point import leading_power
from symprop.depth.local_expansion import expand_at_collapse
from symprop.depth.product import product_over_depth
from symprop.functions.table_sum import TableSum
from symprop.network.trace import Trace

SHARE = symbols.delta_0
"""1 - rho at the input."""
ROUNDED = 1e-7
"""Ten times the error of a sum over a quadrature rule."""


@dataclass(frozen=True)
class RateLaw:
    """How 1 - rho changes with depth.

    ``kind`` is ``exponential``, ``algebraic``, ``super-exponential``, ``power`` (of the depth, in a growing stream),
    ``stretched`` (exponential of a power below one) or ``logarithmic``. ``share`` is the leading behaviour of 1 - rho in
    ``symbols.layer`` and, where it matters, :data:`SHARE`; proportional to it for the kinds exponential, power and
    stretched. ``rate`` is the number that the kind is about: exponent per block, exponent of the depth, coefficient in
    the exponent, or the order of the map.
    """

    kind: str
    share: sp.Expr
    rate: sp.Expr
    provenance: Derived


@dataclass(frozen=True)
class DriftLaw:
    """A stream that grows by ``added`` in every block, near collapse.

    ``product`` is gap after L blocks over gap at the input, exactly at linear order, or None where the factors of the
    layers are no ratios of linear ones. ``angle`` says how 1 - rho goes; ``deviation`` and ``common`` are the exponents p of
    the gradient at layer l of L, (L/l)^p, or None where it is no power.
    """

    added: sp.Expr
    product: sp.Expr | None
    angle: RateLaw
    deviation: sp.Expr | None
    common: sp.Expr | None


def rate_law(trace: Trace, where: Mapping[sp.Basic, sp.Expr] = MappingProxyType({})) -> RateLaw:
    """The law of a block that keeps a second moment, by its expansion at collapse.

    ``where`` puts a critical parameter in: the exponent must then vanish identically. Raises :class:`RefusedError` where q
    drifts (see :func:`drift_law`) or the slope's size against one is unknown.

    >>> from symprop.components import Elementwise, LayerNorm, Linear
    >>> from symprop.core.symbols import d
    >>> from symprop.functions.activation import Relu
    >>> from symprop.network import residual, sequential, token_input, trace_of
    >>> relu = sequential(Linear(d, 2/d), Elementwise(Relu()), Linear(d, 1/d))
    >>> rate_law(trace_of(sequential(residual(relu), LayerNorm()), token_input(gaussian=True))).share
    18*pi**2/layer**2
    """
    expansion, layer = expand_at_collapse(trace), symbols.layer
    linear = collapse(trace)
    q = linear.stationary
    if q is None:
        known = linear.q.free_symbols <= {trace.input.q}
        iterate = "iterate the map" if known else "put numbers in for its parameters, or iterate the map"
        raise RefusedError(
            "law of the block", f"its second moment {trace.input.q} goes to {linear.q}, which settles at no known value",
            "drift_law" if _grows_by_constant(linear) else iterate,
        )
    start = _put(q, where)
    coefficient, order = expansion.leading
    if order > 1 and expansion.gap[2] == 0:
        strength = _put(coefficient.xreplace({trace.input.q: q}), where)
        root = strength ** (1 / (order - 1))
        # gap' = k gap^p is q^(p-1) k in gap/q.
        share = (SHARE * start * root) ** (order**layer) / (root * start)
        return RateLaw("super-exponential", share, order, _neglecting(linear, "higher powers of the gap"))
    terms = {power: _put(value, where) for power, value in expansion.on_slow_manifold(q).items()}
    slope = factored(terms[2])
    if not slope.free_symbols and slope.has(TableSum) and abs(float(sp.N(slope)) - 1) < ROUNDED:
        raise RefusedError("law of the block", f"its slope {slope} is one to the digits that its sums have",
                           "use an activation with closed moments, or iterate the map")
    if slope != 1:
        return RateLaw("exponential", SHARE * slope**layer, sp.log(slope), _neglecting(linear, "O(gap)"))
    power = 3 if factored(terms[3]) != 0 else 4
    order = sp.Rational(power, 2)
    lost = -factored(terms[power])
    if lost == 0:
        raise RefusedError("law of the block", "its map is the identity to relative order gap", "iterate the map")
    decay = (order - 1) * lost * start ** (order - 1) * layer
    share = sp.powdenest(decay ** (-1 / (order - 1)), force=True)
    return RateLaw("algebraic", factored(share), -1 / (order - 1), _neglecting(linear, "relative O(1/l)"))


def drift_law(trace: Trace) -> DriftLaw:
    """The law of a block whose second moment grows, q' = q + R at large q, from its linearisation at collapse.

    With R and c/q^k the leading terms of what is added and of the slope's excess over one, the gap grows like l^(c/R) for
    k = 1, like exp of c (R l)^(1-k)/(R (1 - k)) for k < 1. Where 1 - rho stays put at that order the next power of the gap
    decides. Raises :class:`RefusedError` where the stream does not grow linearly.

    >>> from symprop.components import Elementwise, LayerNorm, Linear, UniformAttention
    >>> from symprop.core.symbols import d
    >>> from symprop.functions.activation import Relu
    >>> from symprop.network import residual, sequential, token_input, trace_of
    >>> halves = (UniformAttention(d, 1/d), sequential(Linear(d, 2/d), Elementwise(Relu()), Linear(d, 1/d)))
    >>> block = sequential(*(residual(sequential(LayerNorm(), half)) for half in halves))
    >>> law = drift_law(trace_of(block, token_input(gaussian=True)))
    >>> law.angle.rate, law.common, law.deviation
    (-1/2, 1, 1/2)
    """
    exactly, q = collapse(trace), trace.input.q
    linear = _at_large_variance(exactly)
    added = sp.limit(linear.added, q, sp.oo)
    if not _is_growth(added, q):
        raise RefusedError("law of the block", f"what it adds to {q}, {linear.added}, does not tend to a constant above zero",
                           "iterate the map" if exactly.stationary is None else "rate_law")
    amount, power = _tail(linear.slope - 1, q)
    product = None
    if not linear.added.has(q) and linear.slope.is_rational_function(q):
        product = _product(linear, q)
    return DriftLaw(
        exactly.added, product, _drifting(linear, added, amount, power),
        *(_exponent(*_tail(factor - 1, q), added) for factor in (linear.deviation, linear.common)),
    )


def _is_growth(added: sp.Expr, q: sp.Symbol) -> bool:
    return not (added.has(sp.oo, -sp.oo, sp.zoo, sp.nan, q) or added == 0 or added.is_negative)


def _grows_by_constant(linear: Collapse) -> bool:
    """Whether the block adds a constant to a large second moment, so that it has a law of a growing stream."""
    q = linear.trace.input.q
    try:
        return _is_growth(sp.limit(_at_large_variance(linear).added, q, sp.oo), q)
    except (RefusedError, NotImplementedError):
        return False


def _at_large_variance(linear: Collapse) -> Collapse:
    """Moments that are sums over a table by their leading terms at large variance, where they grow with the stream."""
    q = linear.trace.input.q
    parts = (linear.added, linear.slope, linear.deviation, linear.common)
    nodes = [node for node in set().union(*(part.atoms(TableSum) for part in parts)) if node.has(q)]
    activations = {item.component.activation for item in linear.trace.steps if hasattr(item.component, "activation")}
    known: dict[tuple[sp.Basic, ...], sp.Expr] = {}
    gap = sp.Dummy("gap", nonnegative=True)
    for activation in activations if nodes else ():
        full, slope = activation.saturated()
        for v in {argument for node in nodes for argument in node.arguments if argument.has(q)}:
            second, steep = (moment(sp.S.Zero, v) for moment in (activation.second, activation.slope_second))
            near = sp.diff(activation.gap(sp.S.Zero, v, gap), gap).subs(gap, 0)
            known |= {_named(second): full} | dict.fromkeys(map(_named, (steep, near)), slope / sp.sqrt(v))
    for node in nodes:
        if _named(node) not in known:
            raise RefusedError(f"{node} at large {q}", "its leading term is not known", "iterate the map")
    added, slope, deviation, common = (part.xreplace({node: known[_named(node)] for node in nodes}) for part in parts)
    return replace(linear, q=q + added, slope=slope, deviation=deviation, common=common) if nodes else linear


def _named(node: sp.Expr) -> tuple[sp.Basic, ...]:
    """A sum by its name and arguments: its summand may have been written in another way."""
    return (node.args[0], *node.arguments) if isinstance(node, TableSum) else (node,)


def _product(linear: Collapse, q: sp.Symbol) -> sp.Expr:
    """The growth of the gap over all blocks; moments of activations are constants of the recursion."""
    nodes = sorted(linear.slope.atoms(sp.Function) | linear.added.atoms(sp.Function), key=str)
    names = {node: sp.Dummy(f"moment_{index}", positive=True) for index, node in enumerate(nodes)}
    slope, added = (item.xreplace(names) for item in (linear.slope, linear.added))
    found = product_over_depth(factored(slope.xreplace({q: q + added * symbols.layer})), symbols.layer, symbols.L)
    return found.xreplace({name: node for node, name in names.items()})


def _drifting(linear: Collapse, added: sp.Expr, amount: sp.Expr, power: sp.Expr) -> RateLaw:
    layer = symbols.layer
    if power < 1:
        rate = factored(amount * added ** (-power) / (1 - power))
        return RateLaw("stretched", SHARE * sp.exp(rate * layer ** (1 - power)), rate, _neglecting(linear, "powers of l"))
    rate = factored((amount / added if power == 1 else sp.S.Zero) - 1)
    if rate != 0:
        return RateLaw("power", SHARE * layer**rate, rate, _neglecting(linear, "relative O(1/l)"))
    return _marginal(linear, added)


def _marginal(linear: Collapse, added: sp.Expr) -> RateLaw:
    """1 - rho is kept at linear order: the next power of the gap acts with a strength that falls like 1/q."""
    expansion, q, layer = expand_at_collapse(linear.trace), linear.trace.input.q, symbols.layer
    for power in (3, 4):
        if expansion.gap[power] == 0:
            continue
        order = sp.Rational(power, 2)
        amount, falls = _tail(factored(expansion.gap[power] * q ** (order - 1)), q)
        if falls != 1:
            break
        clock = -(order - 1) * amount / added * sp.log(layer)
        share = sp.powdenest((SHARE ** (1 - order) + clock) ** (-1 / (order - 1)), force=True)
        return RateLaw("logarithmic", share, -1 / (order - 1), _neglecting(linear, "relative O(1/log l)"))
    raise RefusedError("law of the block", "1 - rho is kept to the order of the expansion", "iterate the map")


def _exponent(amount: sp.Expr, power: sp.Expr, added: sp.Expr) -> sp.Expr | None:
    """The exponent of a product of 1 + amount/q^power along q = added l."""
    if power < 1:
        return None
    return factored(amount / added) if power == 1 else sp.S.Zero


def _tail(expression: sp.Expr, q: sp.Symbol) -> tuple[sp.Expr, sp.Expr]:
    """Coefficient and k of the leading term c/q^k at large q; c = 0 with k = 1 for zero."""
    if factored(expression) == 0:
        return sp.S.Zero, sp.S.One
    small = sp.Dummy("t", positive=True)
    return leading_power(expression.subs(q, 1 / small), small, f"factor of the block at large {q}")


def _put(expression: sp.Expr, where: Mapping[sp.Basic, sp.Expr]) -> sp.Expr:
    return sp.sympify(expression).subs(dict(where))


def _neglecting(linear: Collapse, order: str) -> Derived:
    return linear.provenance.with_expression(linear.slope, order)
