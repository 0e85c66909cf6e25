"""Second moments of the token norms over Gaussian weights at finite width, and their recursion in depth.

The block is X' = Z + alpha_2 Z W_1 W_2, Z = X + alpha_1 P X W_V with W_V of shape (d, d): uniform attention, linear
feed-forward. The expectations of T, C close under a block, and so do those of T^2, ||G||^2, T C, q, C^2; both linear
maps are derived by Isserlis' theorem. N = T + C/n gives the moments of N. The norms are heavy-tailed: E C^2/(E C)^2
grows exponentially in depth/width at fixed residual weights and stays bounded for alpha^2 = a/L (Noci et al. 2022,
Figure 10).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import sympy as sp

from symprop.core import symbols
from symprop.core.errors import InputError, RefusedError
from symprop.core.expression import factored
from symprop.core.proof import ProofStep
from symprop.core.provenance import Assumption, Source, merge_unique
from symprop.functions import GeometricSum
from symprop.wick.attention import UNIFORM, AttentionBlock
from symprop.wick.distributions import scalar
from symprop.wick.invariants import C_X, G_2, Q_X, T_X
from symprop.wick.isserlis import expectation
from symprop.wick.matrices import averaging
from symprop.wick.steps import Derivation

FIRST = (T_X, C_X)
"""The invariants whose expectations close under a block."""

SECOND = (T_X**2, G_2, T_X * C_X, Q_X, C_X**2)
"""The products of invariants whose expectations close under a block."""

_STREAM = sp.Dummy("s", positive=True)
_MULTIPLIED_OUT = 64


@dataclass(frozen=True)
class MomentMap:
    """A linear map on expectations of token invariants: E state' = matrix * E state."""

    state: tuple[sp.Expr, ...]
    matrix: sp.ImmutableMatrix
    assumptions: tuple[Assumption, ...]
    steps: tuple[ProofStep, ...]

    def power(self, depth: sp.Expr | int) -> sp.ImmutableMatrix:
        """The map of ``depth`` blocks with independent weights.

        The coupled pairs are solved block by block: a small integer depth as a polynomial in trace and determinant,
        any other by their two eigenvalues, which may coincide.
        """
        depth = scalar("depth", depth)
        if depth.is_number and not (depth.is_Integer and depth >= 0):
            raise InputError("depth", depth, "an integer >= 0")
        if depth.is_Integer and not self.matrix.free_symbols:
            return sp.ImmutableMatrix(self.matrix**depth)
        if depth.is_Integer and depth <= _MULTIPLIED_OUT:
            return _by_blocks(self.matrix, lambda value: value**depth, lambda block: _pair_power(block, int(depth)))
        return _function_of(self.matrix, lambda value: value**depth, lambda high, low: GeometricSum(high, low, depth))

    def generator(self, block: AttentionBlock) -> sp.ImmutableMatrix:
        """The derivative of the matrix in 1/L at alpha_1^2 = a_1/L, alpha_2^2 = a_2/L, where it is the identity."""
        scaled = self.matrix.subs(
            {block.alpha_1: sp.sqrt(symbols.a_1 * _STREAM), block.alpha_2: sp.sqrt(symbols.a_2 * _STREAM)}
        )
        at_zero = scaled.subs(_STREAM, 0)
        if sp.expand(at_zero - sp.eye(at_zero.rows)) != sp.zeros(at_zero.rows):
            raise RefusedError("MomentMap.generator", "the map is not the identity at alpha_1 = alpha_2 = 0",
                               "use symbolic residual weights alpha_1 and alpha_2")
        return sp.ImmutableMatrix(scaled.diff(_STREAM).subs(_STREAM, 0).applyfunc(factored))

    def depth_limit(self, block: AttentionBlock) -> sp.ImmutableMatrix:
        """The limit of the map of L blocks as L grows, at alpha_1^2 = a_1/L, alpha_2^2 = a_2/L: exp(generator)."""
        return _function_of(self.generator(block), sp.exp, lambda high, low: (sp.exp(high) - sp.exp(low)) / (high - low))


def moment_map(order: int, sublayer: str = "block", block: AttentionBlock | None = None) -> MomentMap:
    """The map of one sublayer (``attention``, ``feed_forward``) or of the whole ``block`` on moments of that order.

    Order 1 acts on :data:`FIRST`, order 2 on :data:`SECOND`. Gaussian weights are needed at order 2.

    >>> moment_map(1, "attention").matrix
    Matrix([
    [1,                         0],
    [0, alpha_1**2*d*sigma_v2 + 1]])
    """
    return _moment_map(order, sublayer, block or AttentionBlock())


@lru_cache(maxsize=32)
def _moment_map(order: int, sublayer: str, block: AttentionBlock) -> MomentMap:
    if order not in (1, 2):
        raise RefusedError("moment_map", f"order {order} has no derived closed state", "use order 1 or 2")
    state = FIRST if order == 1 else SECOND
    layer = block.layer
    if sublayer == "block":
        first, second = (_moment_map(order, name, block) for name in ("attention", "feed_forward"))
        matrix = sp.ImmutableMatrix((second.matrix * first.matrix).applyfunc(factored))
        return MomentMap(state, matrix, merge_unique(first.assumptions, second.assumptions), first.steps + second.steps)
    if sublayer == "attention":
        output = layer.X + block.alpha_1 * averaging(layer.n) * layer.X * layer.W_V
    elif sublayer == "feed_forward":
        output = layer.X + block.alpha_2 * layer.X * block.W_1 * block.W_2
    else:
        raise RefusedError(f"moment_map of {sublayer}", "it is not a sublayer", "use attention, feed_forward or block")
    laws = {matrix: law for matrix, law in block.laws.items() if output.has(matrix)}
    names = layer.invariants
    rows, steps = [], []
    assumptions: tuple[Assumption, ...] = (UNIFORM,) if sublayer == "attention" else ()
    for quantity in state:
        mean = expectation(names.traces(quantity).xreplace({layer.X: output}), laws, tidy=False)
        reduced = names.reduced(mean.expression)
        rows.append(_coefficients(reduced, state))
        assumptions = merge_unique(assumptions, mean.assumptions)
        value = sp.Add(*(c * s for c, s in zip(rows[-1], state, strict=True)))
        # What closes by itself is a factor, whatever the input is.
        factor = value / quantity
        closed = not factor.has(*names.definitions)
        of = _after(quantity, "Z" if sublayer == "attention" else "X'")
        before = _after(quantity, "X" if sublayer == "attention" else "Z")
        steps.append(ProofStep(
            sublayer.replace("_", "-"), f"E {quantity} after the sublayer, X -> {output}", factor if closed else value,
            rf"\mathbb{{E}}\,{of}{f'/{before}' if closed else ''}",
        ))  # fmt: skip
    return MomentMap(state, sp.ImmutableMatrix(rows), assumptions, tuple(steps))


def _after(quantity: sp.Expr, signal: str) -> str:
    """A product of invariants of a signal in LaTeX."""
    names = {C_X: f"C({signal})", T_X: f"T({signal})", G_2: rf"\|G({signal})\|_F^2", Q_X: rf"\|\Pi K({signal}) 1\|^2"}
    return str(sp.latex(quantity, symbol_names=names))


def _coefficients(expression: sp.Expr, state: Sequence[sp.Expr]) -> list[sp.Expr]:
    generators = sorted(set().union(*(s.free_symbols for s in state)), key=str)
    polynomial = sp.Poly(expression, *generators)
    row = [factored(polynomial.coeff_monomial(quantity)) for quantity in state]
    rest = expression - sp.Add(*(c * s for c, s in zip(row, state, strict=True)))
    if sp.expand(rest) != 0:
        raise RefusedError("moment_map", "the moments do not close", "add the missing invariants to the state")
    return row


def _pair_power(block: sp.Matrix, depth: int) -> sp.Matrix:
    """A power of a 2 x 2 matrix by Cayley and Hamilton: p_L M - det p_{L-1} I with Chebyshev polynomials p."""
    trace, determinant = factored(block.trace()), factored(block.det())

    def p(order: int) -> sp.Expr:
        terms = ((-determinant) ** k * sp.binomial(order - 1 - k, k) * trace ** (order - 1 - 2 * k)
                 for k in range((order + 1) // 2))
        return sp.Add(*terms)

    return sp.eye(2) if depth == 0 else p(depth) * block - determinant * p(depth - 1) * sp.eye(2)


def _function_of(
    matrix: sp.Matrix,
    function: Callable[[sp.Expr], sp.Expr],
    difference_quotient: Callable[[sp.Expr, sp.Expr], sp.Expr],
) -> sp.ImmutableMatrix:
    """A function of a matrix, block by block, by Sylvester's formula with its difference quotient of two eigenvalues."""

    def of_pair(block: sp.Matrix) -> sp.Matrix:
        constant, rest = sp.expand(block.trace() / 2).as_coeff_Add()
        half = constant + factored(rest)
        apart, product = (block[0, 0] - block[1, 1]) / 2, block[0, 1] * block[1, 0]
        root = sp.sqrt(factored(apart**2 + product))
        if root.is_polynomial(*block.free_symbols):
            high, low = factored(half + root), factored(half - root)
        else:
            # As a sum of squares the root is real in any arithmetic.
            root = sp.sqrt(factored(apart) ** 2 + factored(product))
            high, low = half + root, half - root
        return function(low) * sp.eye(2) + (block - low * sp.eye(2)) * difference_quotient(high, low)

    return _by_blocks(matrix, function, of_pair)


def _by_blocks(
    matrix: sp.Matrix, single: Callable[[sp.Expr], sp.Expr], pair: Callable[[sp.Matrix], sp.Matrix]
) -> sp.ImmutableMatrix:
    """Apply functions to the diagonal blocks of size 1 and 2 that a matrix is made of."""
    size = matrix.rows
    result = sp.zeros(size)
    i = 0
    while i < size:
        coupled = i + 1 < size and (matrix[i, i + 1] != 0 or matrix[i + 1, i] != 0)
        width = 2 if coupled else 1
        block = matrix[i : i + width, i : i + width]
        value = pair(block) if coupled else block.applyfunc(single)
        result[i : i + width, i : i + width] = value
        i += width
    return sp.ImmutableMatrix(result)


def norm_moments(depth: sp.Expr | int, block: AttentionBlock | None = None) -> dict[str, sp.Expr]:
    """E C, E N, E C^2, E N^2, E T^2, E T C after ``depth`` blocks, in the invariants of the input.

    Exact at any width for Gaussian weights and uniform attention. ``depth`` is an integer or a symbol.
    """
    block = block or AttentionBlock()
    n = block.layer.n
    first = moment_map(1, block=block).power(depth) * sp.Matrix(FIRST)
    second = moment_map(2, block=block).power(depth) * sp.Matrix(SECOND)
    return {
        "C": first[1],
        "N": first[0] + first[1] / n,
        "C^2": second[4],
        "N^2": second[0] + 2 * second[2] / n + second[4] / n**2,
        "T^2": second[0],
        "T C": second[2],
    }


def tail_ratio(depth: sp.Expr | int = symbols.L, block: AttentionBlock | None = None) -> Derivation:
    """E C_L^2 / (E C_L)^2 after L blocks, for a given input with C > 0: how heavy the tail of the norm is."""
    block = block or AttentionBlock()
    one, two = moment_map(1, block=block), moment_map(2, block=block)
    ratio = factored(two.matrix[4, 4] / one.matrix[1, 1] ** 2)
    expression = ratio ** sp.sympify(depth)
    power = ProofStep("power", "the factors of independent blocks multiply", expression)
    steps = (*one.steps[1::2], *two.steps[4::5], power)
    return Derivation(expression, two.assumptions, sources=(Source("noci2022", "Figure 10"),), steps=steps,
                      traces=expression)


def tail_ratio_limit(block: AttentionBlock | None = None) -> Derivation:
    """The limit of :func:`tail_ratio` as L grows, at alpha_1^2 = a_1/L, alpha_2^2 = a_2/L: bounded in depth."""
    block = block or AttentionBlock()
    one, two = moment_map(1, block=block), moment_map(2, block=block)
    rate = factored(two.generator(block)[4, 4] - 2 * one.generator(block)[1, 1])
    expression = sp.exp(rate)
    step = ProofStep("depth limit", "(1 + g/L + O(1/L^2))^L -> exp(g), for the moment of C^2 and twice for that of C",
                     expression)
    return Derivation(expression, two.assumptions, sources=(Source("noci2022", "Figure 10"),), steps=(step,),
                      tags=("L to infinity",), traces=expression)
