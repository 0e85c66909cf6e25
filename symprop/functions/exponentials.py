"""Formulas with exponentials that doubles evaluate without overflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import sympy as sp

from symprop.functions.table_sum import Larger, Smaller

_CAP = 100
"""Exponents in doubles end here: products of seven such exponentials are finite."""
_GROWING = (sp.exp, sp.cosh, sp.sinh)
_HYPERBOLIC = {
    sp.cosh: lambda u: (sp.exp(u) + sp.exp(-u)) / 2, sp.sinh: lambda u: (sp.exp(u) - sp.exp(-u)) / 2,
    sp.tanh: lambda u: (sp.exp(u) - sp.exp(-u)) / (sp.exp(u) + sp.exp(-u)),
}


def bounded(formula: sp.Expr) -> sp.Expr:
    r"""A formula with exponents that doubles can take: no quotient of two infinities.

    The logarithm of a sum of exponentials takes out the largest one, :math:`\log(1 + e^u) = \max(u, 0) + \log(1 + e^{-|u|})`.

    >>> x = sp.Symbol("x", real=True)
    >>> bounded(sp.log(1 + sp.exp(x)))
    log(1 + exp(-Abs(x))) + Larger(x, 0)
    >>> bounded(sp.log(sp.cosh(x)))
    log(1 + exp(-2*Abs(x))) + Abs(x) - log(2)
    """
    formula = formula.replace(
        lambda node: node.is_Pow and node.base.is_number and node.base.is_positive and node.exp.free_symbols,
        # A float: SymPy writes exp(x log 2) as a power of 2 again.
        lambda node: sp.exp(sp.N(sp.log(node.base), 17) * node.exp),
    )
    if not formula.has(*_GROWING, sp.log):
        return formula
    largest: dict[sp.Expr, sp.Expr] = {}
    for node in formula.atoms(*_GROWING):
        coefficient, rest = _exponent(node)[1:]
        largest[rest] = max(abs(coefficient), largest.get(rest, sp.S.Zero))
    return _clipped(formula, largest)


def _clipped(node: sp.Expr, largest: Mapping[sp.Expr, sp.Expr]) -> sp.Expr:
    if isinstance(node, sp.log):
        logarithm = _logarithm(node.args[0], largest)
        if logarithm is not None:
            return logarithm
    if isinstance(node, sp.asinh) and _grows(node.args[0]) and node.args[0].is_positive:
        inner = node.args[0]
        logarithm = _of_positive(inner + sp.sqrt(inner**2 + 1), largest)
        if logarithm is not None:
            return logarithm
    if isinstance(node, _GROWING):
        constant, coefficient, rest = _exponent(node)
        if not rest.free_symbols:
            return node
        bound = _CAP / largest.get(rest, abs(coefficient))
        clipped = Smaller(Larger(_clipped(rest, largest), -bound), bound)
        return node.func(constant + coefficient * clipped)
    return node if node.is_Atom else node.func(*(_clipped(argument, largest) for argument in node.args))


def _grows(node: sp.Expr) -> bool:
    """Whether it has exponentials outside logarithms."""
    return isinstance(node, (*_HYPERBOLIC, sp.exp)) or (not isinstance(node, sp.log) and any(map(_grows, node.args)))


def _logarithm(node: sp.Expr, largest: Mapping[sp.Expr, sp.Expr]) -> sp.Expr | None:
    """The logarithm of what has exponentials, whatever their size; None of what has none."""
    if not _grows(node):
        return None
    of_terms = _of_positive(node, largest)
    if of_terms is not None:
        return of_terms
    for function, by_exponentials in _HYPERBOLIC.items():
        node = node.replace(function, by_exponentials)
    above, below = map(sp.expand, sp.fraction(sp.together(node)))
    return _of_any(above, largest) - _of_any(below, largest)


def _of_positive(node: sp.Expr, largest: Mapping[sp.Expr, sp.Expr]) -> sp.Expr | None:
    """The logarithm of a sum or product of positive parts; None where a sign is not known."""
    if isinstance(node, sp.exp):
        return _clipped(node.args[0], largest)
    if isinstance(node, sp.cosh):
        size = sp.Abs(_clipped(node.args[0], largest))
        return size + sp.log(1 + sp.exp(-2 * size)) - sp.log(2)
    if not node.is_positive:
        return None
    if not _grows(node):
        return sp.log(_clipped(node, largest))
    if node.is_Pow and node.exp.is_number:
        parts: Sequence[sp.Expr | None] = [_of_positive(node.base, largest)]
        return None if parts[0] is None else node.exp * parts[0]
    if node.is_Mul:
        parts = [_of_positive(factor, largest) for factor in node.args]
        return None if None in parts else sp.Add(*parts)
    if node.is_Add:
        growing, plain = sp.sift(node.args, _grows, binary=True)
        # The plain part comes last: where the sum is nearly one its logarithm keeps all digits.
        parts = [_of_positive(term, largest) for term in (*growing, *([sp.Add(*plain)] if plain else []))]
        return None if None in parts else reduce(_logarithm_of_sum, parts)
    return None


def _logarithm_of_sum(one: sp.Expr, other: sp.Expr) -> sp.Expr:
    """log(e^one + e^other)."""
    return Larger(one, other) + sp.log(1 + sp.exp(-sp.Abs(one - other)))


def _of_any(total: sp.Expr, largest: Mapping[sp.Expr, sp.Expr]) -> sp.Expr:
    """The logarithm of the size of a sum whose terms may have either sign."""
    of_terms = _of_positive(total, largest)
    if of_terms is not None:
        return of_terms
    terms = []
    for term in sp.Add.make_args(total):
        powers, rest = sp.sift(sp.Mul.make_args(term), lambda factor: isinstance(factor, sp.exp), binary=True)
        exponent = sp.Add(*(_clipped(power.args[0], largest) for power in powers))
        terms.append((_clipped(sp.Mul(*rest), largest), exponent))
    top = reduce(Larger, (exponent for _, exponent in terms))
    return top + sp.log(sp.Abs(sp.Add(*(factor * sp.exp(exponent - top) for factor, exponent in terms))))


def _exponent(node: sp.Expr) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """Constant, coefficient and rest of an exponent."""
    constant, rest = node.args[0].as_coeff_Add()
    return (constant, *rest.as_coeff_Mul())
