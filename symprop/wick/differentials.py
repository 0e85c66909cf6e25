"""Jacobians of matrix expressions by matrix differentials, row-vec and numerator layout.

``dY/dX = d vec_r(Y) / d vec_r(X)^T``: a product gives ``d(A W B)/dW = A kron B^T``, a transpose gives a commutation
matrix, a row-wise softmax gives ``blockdiag(diag A_i - A_i A_i^T)`` (:class:`SoftmaxJacobian`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sympy as sp

from symprop.core.errors import InputError, RefusedError
from symprop.wick.matrices import (
    Averaging,
    Centring,
    Commutation,
    Softmax,
    SoftmaxJacobian,
    UnitVector,
    averaging,
    centring,
    kron,
)
from symprop.wick.words import Alphabet, Polynomial, Term

_Pair = tuple[sp.MatrixExpr, sp.MatrixExpr]
_Factor = Any  # a pair (A, B) standing for A kron B, or a matrix expression
_Chain = tuple[sp.Expr, tuple[_Factor, ...]]


def jacobian(expression: sp.MatrixExpr, variable: sp.MatrixSymbol) -> sp.MatrixExpr:
    """The Jacobian of a matrix expression of shape (a, b) in a variable of shape (m, n): a matrix of shape (ab, mn).

    Sums, products, integer powers, transposes and :class:`Softmax` are differentiated by their rules; every occurrence
    of the variable counts. Raises :class:`RefusedError` for anything else that contains the variable, naming it.

    >>> a, b, m, n = sp.symbols("a b m n", integer=True, positive=True)
    >>> A, W, B = sp.MatrixSymbol("A", a, m), sp.MatrixSymbol("W", m, n), sp.MatrixSymbol("B", n, b)
    >>> jacobian(A*W*B, W)
    KroneckerProduct(A, B.T)
    >>> jacobian(W.T, W)
    K[n, m]
    """
    if not getattr(expression, "is_Matrix", False):
        raise InputError("expression", expression, "a matrix expression")
    parts = [_assembled(chain, variable) for chain in _differential(expression, variable)]
    if not parts:
        size = expression.shape[0] * expression.shape[1], variable.shape[0] * variable.shape[1]
        return sp.ZeroMatrix(*size)
    return parts[0] if len(parts) == 1 else sp.MatAdd(*parts)


def at_uniform(expression: sp.Expr) -> sp.Expr:
    """Put every softmax at the uniform point: A -> (1/m) 1 1^T, dA/dM -> (1/m) I kron Pi for m columns.

    >>> n = sp.Symbol("n", integer=True, positive=True)
    >>> at_uniform(SoftmaxJacobian(Softmax(sp.MatrixSymbol("M", n, n))))
    1/n*(KroneckerProduct(I, Pi))
    """
    if isinstance(expression, SoftmaxJacobian):
        rows, columns = expression.attention.shape
        return kron(sp.Identity(rows), centring(columns)) / columns
    if isinstance(expression, Softmax):
        rows, columns = expression.shape
        return averaging(columns) if rows == columns else sp.OneMatrix(rows, columns) / columns
    if not expression.args or not expression.has(Softmax, SoftmaxJacobian):
        return expression
    return expression.func(*(at_uniform(argument) for argument in expression.args))


def at_constant_logits(expression: sp.Expr) -> sp.Expr:
    """Replace every softmax whose logits are constant along each row, where it is exactly uniform.

    Raises :class:`RefusedError` for a softmax whose logits M do not satisfy M Pi = 0 identically.
    """
    for node in sorted(expression.atoms(Softmax), key=str):
        if Alphabet().terms(node.logits * centring(node.shape[1])):
            raise RefusedError(str(node)[:80], "its logits vary along a row, so that it is not uniform",
                               "use at_uniform for the approximation, or tokens of the form 1 x^T")
    return at_uniform(expression)


def kronecker_form(expression: sp.MatrixExpr) -> sp.MatrixExpr:
    """Multiply out into a sum of Kronecker products, each followed by at most one commutation matrix.

    Uses the mixed product, K_{pm} (A kron B) = (B kron A) K_{qn}, and the rules of the projections P and Pi.

    >>> n = sp.Symbol("n", integer=True, positive=True)
    >>> Q, K = sp.MatrixSymbol("Q", n, n), Commutation(n, n)
    >>> kronecker_form(K*kron(sp.Identity(n), Q)*K)
    KroneckerProduct(Q, I)
    """
    alphabet = Alphabet()
    parts = []
    for opaque, terms in _multiplied(alphabet, expression).items():
        # One term for every run of Kronecker factors between two softmax Jacobians.
        for coefficient, runs in terms:
            factors: list[sp.MatrixExpr] = []
            for i, run in enumerate(runs):
                if run is not None:
                    factors.append(alphabet.matrix_expression([run]))
                if i < len(opaque):
                    factors.append(opaque[i])
            product = _scaled_product(factors, expression.shape[0])
            scalar = alphabet.expression(coefficient)
            parts.append(product if scalar == 1 else scalar * product)
    if not parts:
        return sp.ZeroMatrix(*expression.shape)
    return parts[0] if len(parts) == 1 else sp.MatAdd(*parts)


def matrices_equal(left: sp.MatrixExpr, right: sp.MatrixExpr) -> bool:
    """Whether two matrix expressions have the same multiplied-out form, which proves them equal.

    >>> m, n = sp.symbols("m n", integer=True, positive=True)
    >>> A, B = sp.MatrixSymbol("A", m, n), sp.MatrixSymbol("B", n, n)
    >>> matrices_equal(Commutation(n, m)*kron(A, B), kron(B, A)*Commutation(n, n))
    True
    """
    if tuple(left.shape) != tuple(right.shape):
        return False
    return isinstance(kronecker_form(left - right), sp.ZeroMatrix)


_Opaque = tuple[sp.MatrixExpr, ...]
_Runs = list[tuple[Polynomial, tuple[Term | None, ...]]]


def _multiplied(alphabet: Alphabet, expression: sp.MatrixExpr) -> dict[_Opaque, _Runs]:
    """Sums of products, grouped by the softmax Jacobians in them: k of these separate k + 1 Kronecker terms."""
    one = Polynomial.scalar(1)
    flat: list[tuple[_Opaque, Polynomial, tuple[Term | None, ...]]] = []
    if not expression.has(SoftmaxJacobian):
        for term in alphabet.terms(expression):
            flat.append(((), term.coefficient, (Term(one, term.wires, term.permutation),)))
    elif isinstance(expression, SoftmaxJacobian):
        flat.append(((expression,), one, (None, None)))
    elif isinstance(expression, sp.MatAdd):
        for part in expression.args:
            flat.extend((o, c, r) for o, runs in _multiplied(alphabet, part).items() for c, r in runs)
    elif isinstance(expression, sp.MatMul):
        scalar, factors = expression.as_coeff_matrices()
        flat.append(((), alphabet.polynomial(scalar), (None,)))
        for factor in factors:
            right = [(o, c, r) for o, runs in _multiplied(alphabet, factor).items() for c, r in runs]
            flat = [
                (o1 + o2, joined[0] * c1 * c2, (*r1[:-1], joined[1], *r2[1:]))
                for o1, c1, r1 in flat
                for o2, c2, r2 in right
                for joined in _joined(alphabet, r1[-1], r2[0], expression)
            ]
    else:
        raise RefusedError(str(expression)[:80], f"{type(expression).__name__} of a softmax Jacobian is not multiplied "
                           "out", "use sums and products")
    grouped: dict[tuple[_Opaque, tuple[Term | None, ...]], Polynomial] = {}
    shown: dict[object, tuple[_Opaque, tuple[Term | None, ...]]] = {}
    for opaque, coefficient, runs in flat:
        key = shown.setdefault((opaque, tuple(r and (r.wires, r.permutation) for r in runs)), (opaque, runs))
        grouped[key] = grouped[key] + coefficient if key in grouped else coefficient
    result: dict[_Opaque, _Runs] = {}
    for (opaque, runs), coefficient in grouped.items():
        if coefficient:
            result.setdefault(opaque, []).append((coefficient, runs))
    for runs_of in result.values():
        runs_of.sort(key=lambda pair: [(r.permutation, [w.word for w in r.wires]) if r else () for r in pair[1]])
    return result


def _joined(
    alphabet: Alphabet, left: Term | None, right: Term | None, whole: sp.MatrixExpr
) -> list[tuple[Polynomial, Term | None]]:
    one = Polynomial.scalar(1)
    if left is None or right is None:
        return [(one, left or right)]
    return [
        (term.coefficient, Term(one, term.wires, term.permutation))
        for term in alphabet.multiplied(left, right, whole)
    ]


def _scaled_product(factors: list[sp.MatrixExpr], size: sp.Expr) -> sp.MatrixExpr:
    """A product without its identities (factors carry their own scalars, which MatMul collects)."""
    kept = [factor for factor in factors if not isinstance(factor, sp.Identity)]
    return sp.Identity(size) if not kept else kept[0] if len(kept) == 1 else sp.MatMul(*kept).doit(deep=False)


def _differential(expression: sp.MatrixExpr, variable: sp.MatrixSymbol) -> list[_Chain]:
    if expression == variable:
        return [(sp.S.One, ())]
    if not expression.has(variable):
        return []
    if isinstance(expression, sp.MatAdd):
        return [chain for part in expression.args for chain in _differential(part, variable)]
    if isinstance(expression, sp.MatPow) and expression.exp.is_Integer and expression.exp.is_positive:
        return _product_rule(sp.S.One, [expression.base] * int(expression.exp), variable)
    if isinstance(expression, sp.MatMul):
        scalar, factors = expression.as_coeff_matrices()
        if scalar.has(variable):
            raise RefusedError(str(scalar), f"a scalar factor that depends on {variable} is not differentiated here",
                               "keep scalar factors constant")
        return _product_rule(scalar, list(factors), variable)
    if isinstance(expression, sp.Transpose):
        rows, columns = expression.arg.shape
        return [(c, (Commutation(columns, rows), *f)) for c, f in _differential(expression.arg, variable)]
    if isinstance(expression, Softmax):
        outer = SoftmaxJacobian(expression)
        return [(c, (outer, *f)) for c, f in _differential(expression.logits, variable)]
    raise RefusedError(str(expression)[:80], f"no differential rule for {type(expression).__name__}",
                       "use sums, products, transposes, integer powers and Softmax")


def _product_rule(scalar: sp.Expr, factors: Sequence[sp.MatrixExpr], variable: sp.MatrixSymbol) -> list[_Chain]:
    chains: list[_Chain] = []
    for i, factor in enumerate(factors):
        inner = _differential(factor, variable)
        if not inner:
            continue
        left = _product(factors[:i], factor.shape[0])
        right = _product([f.T for f in reversed(factors[i + 1 :])], factor.shape[1])
        for coefficient, chain in inner:
            chains.append((scalar * coefficient, _prepended((left, right), chain)))
    return chains


def _product(factors: Sequence[sp.MatrixExpr], size: sp.Expr) -> sp.MatrixExpr:
    flat: list[sp.MatrixExpr] = []
    for factor in factors:
        flat.extend(factor.args if isinstance(factor, sp.MatMul) else [factor])
    kept = [factor for factor in flat if not isinstance(factor, sp.Identity)]
    return sp.Identity(size) if not kept else kept[0] if len(kept) == 1 else sp.MatMul(*kept)


def _prepended(pair: _Pair, chain: tuple[_Factor, ...]) -> tuple[_Factor, ...]:
    if all(isinstance(factor, sp.Identity) for factor in pair):
        return chain
    if chain and isinstance(chain[0], tuple):
        first, second = chain[0]
        merged = (_product([pair[0], first], pair[0].shape[1]), _product([pair[1], second], pair[1].shape[1]))
        return merged, *chain[1:]
    return pair, *chain


def _assembled(chain: _Chain, variable: sp.MatrixSymbol) -> sp.MatrixExpr:
    scalar, factors = chain
    matrices = [kron(*factor) if isinstance(factor, tuple) else factor for factor in factors]
    if not matrices:
        matrices = [sp.Identity(variable.shape[0] * variable.shape[1])]
    product = matrices[0] if len(matrices) == 1 else sp.MatMul(*matrices)
    return product if scalar == 1 else scalar * product


def evaluate(expression: sp.Expr, values: Mapping[sp.Expr, Any]) -> Any:
    """The number, or numpy array, of an expression of this calculus at given matrices and parameters.

    ``values`` maps every MatrixSymbol to a two-dimensional array and every other symbol to a number; symbolic
    dimensions are read off the arrays. Raises :class:`InputError` for a value that is missing or of the wrong shape.
    """
    import numpy as np

    sizes: dict[sp.Expr, Any] = {}
    arrays: dict[sp.Expr, Any] = {}
    for key, value in values.items():
        if isinstance(key, sp.MatrixSymbol):
            array = np.asarray(value, dtype=float)
            if array.ndim != 2:
                raise InputError(str(key), f"an array of {array.ndim} dimensions", "a two-dimensional array")
            arrays[key] = array
            for size, count in zip(key.shape, array.shape, strict=True):
                known = size if size.is_Integer else sizes.setdefault(size, sp.Integer(count))
                if known != count:
                    raise InputError(str(key), f"shape {array.shape}", f"{size} = {known}")
        else:
            sizes[key] = value

    def number(node: sp.Expr) -> Any:
        if isinstance(node, sp.Trace):
            return np.trace(matrix(node.arg))
        if isinstance(node, sp.Add):
            return sum(number(part) for part in node.args)
        if isinstance(node, sp.Mul) and node.has(sp.Trace):
            return np.prod([number(part) for part in node.args])
        if isinstance(node, sp.Pow) and node.has(sp.Trace):
            return number(node.base) ** number(node.exp)
        found = sp.sympify(node).subs(sizes)
        if not found.is_number:
            missing = ", ".join(sorted(map(str, found.free_symbols)))
            raise InputError("values", missing, "a number for every symbol")
        return float(found)

    def length(size: sp.Expr) -> int:
        return round(float(number(size)))

    def matrix(node: sp.MatrixExpr) -> Any:
        rows, columns = node.shape
        if isinstance(node, Averaging):
            return np.full((length(rows), length(rows)), 1 / length(rows))
        if isinstance(node, Centring):
            return np.eye(length(rows)) - 1 / length(rows)
        if isinstance(node, sp.MatrixSymbol):
            if node not in arrays:
                raise InputError("values", node, "an array for every matrix")
            return arrays[node]
        if isinstance(node, sp.Identity):
            return np.eye(length(rows))
        if isinstance(node, sp.ZeroMatrix):
            return np.zeros((length(rows), length(columns)))
        if isinstance(node, sp.OneMatrix):
            return np.ones((length(rows), length(columns)))
        if isinstance(node, UnitVector):
            return np.eye(length(rows))[:, [length(node.args[1])]]
        if isinstance(node, sp.MatAdd):
            return sum(matrix(part) for part in node.args)
        if isinstance(node, sp.MatMul):
            scalar, factors = node.as_coeff_matrices()
            product = matrix(factors[0])
            for factor in factors[1:]:
                product = product @ matrix(factor)
            return number(scalar) * product
        if isinstance(node, sp.MatPow | sp.Inverse):
            return np.linalg.matrix_power(matrix(node.base), length(node.exp))
        if isinstance(node, sp.Transpose):
            return matrix(node.arg).T
        if isinstance(node, sp.KroneckerProduct):
            product = matrix(node.args[0])
            for factor in node.args[1:]:
                product = np.kron(product, matrix(factor))
            return product
        if isinstance(node, sp.HadamardProduct):
            return np.prod(np.stack([matrix(part) for part in node.args]), axis=0)
        if isinstance(node, sp.HadamardPower):
            return matrix(node.args[0]) ** number(node.args[1])
        if isinstance(node, sp.DiagMatrix):
            return np.diag(matrix(node.args[0]).ravel())
        if isinstance(node, Commutation):
            m, n = (length(size) for size in node.args)
            return np.eye(m * n).reshape(n, m, m * n).swapaxes(0, 1).reshape(m * n, m * n)
        if isinstance(node, Softmax):
            logits = matrix(node.logits)
            weights = np.exp(logits - logits.max(axis=1, keepdims=True))
            return weights / weights.sum(axis=1, keepdims=True)
        if isinstance(node, SoftmaxJacobian):
            attention = matrix(node.attention)
            n, m = attention.shape
            blocks = np.zeros((n, m, n, m))
            for i, row in enumerate(attention):
                blocks[i, :, i, :] = np.diag(row) - np.outer(row, row)
            return blocks.reshape(n * m, n * m)
        if isinstance(node, sp.MatrixBase):
            return np.array(node.subs(sizes), dtype=float)
        raise InputError("expression", type(node).__name__, "a matrix expression of this calculus")

    expression = sp.sympify(expression)
    return matrix(expression) if getattr(expression, "is_Matrix", False) else number(expression)
