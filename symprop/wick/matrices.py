"""The matrices that trace calculus knows by name, on top of SymPy's matrix expressions.

Everything is real. ``vec_r`` stacks rows, Jacobians are in numerator layout, ``d vec_r(Y) / d vec_r(X)^T``, so that
``d(A W B)/dW = A kron B^T``. The commutation matrix obeys ``K_{pm} (A kron B) K_{nq} = B kron A`` for A of shape
(m, n) and B of shape (p, q); ``vec_r(W^T) = K_{nm} vec_r(W)`` for W of shape (m, n).
"""

from __future__ import annotations

from typing import Any

import sympy as sp
from sympy.core.symbol import Str

from symprop.core.errors import InputError, RefusedError


class SymmetricMatrix(sp.MatrixSymbol):
    """A deterministic symmetric matrix, equal to its transpose.

    >>> n = sp.Symbol("n", integer=True, positive=True)
    >>> A = SymmetricMatrix("A", n)
    >>> A.T == A
    True
    """

    def __new__(cls, name: str | Str, rows: Any, columns: Any = None) -> SymmetricMatrix:
        if columns is not None and sp.sympify(rows) != sp.sympify(columns):
            raise InputError(str(name), f"({rows}, {columns})", "a square shape for a symmetric matrix")
        made: SymmetricMatrix = sp.MatrixSymbol.__new__(cls, name, rows, rows)
        return made

    def _eval_transpose(self) -> SymmetricMatrix:
        return self


class Averaging(SymmetricMatrix):
    """The projection P = (1/n) 1 1^T onto the mean token; made by :func:`averaging`."""

    def _entry(self, i: Any, j: Any, **kwargs: Any) -> sp.Expr:
        return 1 / self.shape[0]


class Centring(SymmetricMatrix):
    """The projection Pi = I - P off the mean token; made by :func:`centring`."""

    def _entry(self, i: Any, j: Any, **kwargs: Any) -> sp.Expr:
        return sp.KroneckerDelta(i, j) - 1 / self.shape[0]

    def _latex(self, printer: Any) -> str:
        return r"\Pi"


class UnitVector(sp.MatrixExpr):
    """The column e_i of length n with a one at position i (counted from 0)."""

    def __new__(cls, size: Any, index: Any) -> UnitVector:
        made: UnitVector = sp.Basic.__new__(cls, sp.sympify(size), sp.sympify(index))
        return made

    @property
    def shape(self) -> tuple[sp.Expr, sp.Expr]:
        return self.args[0], sp.S.One

    def _entry(self, i: Any, j: Any, **kwargs: Any) -> sp.Expr:
        return sp.KroneckerDelta(i, self.args[1])

    def _sympystr(self, printer: Any) -> str:
        return f"e[{printer.doprint(self.args[1])}, {printer.doprint(self.args[0])}]"

    def _latex(self, printer: Any) -> str:
        return f"e_{{{printer.doprint(self.args[1])}}}"


class Commutation(sp.MatrixExpr):
    """The commutation matrix K_{mn} of shape (mn, mn): K_{mn} (a kron b) = b kron a for a in R^n, b in R^m.

    >>> Commutation(2, 3).T == Commutation(3, 2)
    True
    """

    def __new__(cls, m: Any, n: Any) -> Commutation:
        made: Commutation = sp.Basic.__new__(cls, sp.sympify(m), sp.sympify(n))
        return made

    @property
    def shape(self) -> tuple[sp.Expr, sp.Expr]:
        return self.args[0] * self.args[1], self.args[0] * self.args[1]

    def _entry(self, i: Any, j: Any, **kwargs: Any) -> sp.Expr:
        m, n = self.args
        # Row index (b, a) = b*n + a holds the entry of column (a, b) = a*m + b.
        return sp.KroneckerDelta(sp.floor(i / n), sp.Mod(j, m)) * sp.KroneckerDelta(sp.Mod(i, n), sp.floor(j / m))

    def _eval_transpose(self) -> Commutation:
        return Commutation(self.args[1], self.args[0])

    def _eval_inverse(self, **kwargs: Any) -> Commutation:
        return self._eval_transpose()

    def _sympystr(self, printer: Any) -> str:
        return f"K[{printer.doprint(self.args[0])}, {printer.doprint(self.args[1])}]"

    def _latex(self, printer: Any) -> str:
        return f"K_{{{printer.doprint(self.args[0])} {printer.doprint(self.args[1])}}}"


class Softmax(sp.MatrixExpr):
    """The softmax of every row of a matrix of logits; same shape as the logits."""

    def __new__(cls, logits: sp.MatrixExpr) -> Softmax:
        made: Softmax = sp.Basic.__new__(cls, logits)
        return made

    @property
    def logits(self) -> sp.MatrixExpr:
        return self.args[0]

    @property
    def shape(self) -> tuple[sp.Expr, sp.Expr]:
        shape: tuple[sp.Expr, sp.Expr] = self.args[0].shape
        return shape

    def _entry(self, i: Any, j: Any, **kwargs: Any) -> sp.Expr:
        k = sp.Dummy("k", integer=True)
        total = sp.Sum(sp.exp(self.logits[i, k]), (k, 0, self.shape[1] - 1))
        return sp.exp(self.logits[i, j]) / total

    def _sympystr(self, printer: Any) -> str:
        return f"softmax({printer.doprint(self.logits)})"

    def _latex(self, printer: Any) -> str:
        return rf"\operatorname{{softmax}}\left({printer.doprint(self.logits)}\right)"


class SoftmaxJacobian(sp.MatrixExpr):
    """dA/dM = blockdiag(diag(A_i) - A_i A_i^T) for A = softmax(M) row by row; A of shape (n, m) gives (nm, nm)."""

    def __new__(cls, attention: sp.MatrixExpr) -> SoftmaxJacobian:
        made: SoftmaxJacobian = sp.Basic.__new__(cls, attention)
        return made

    @property
    def attention(self) -> sp.MatrixExpr:
        return self.args[0]

    @property
    def shape(self) -> tuple[sp.Expr, sp.Expr]:
        rows, columns = self.attention.shape
        return rows * columns, rows * columns

    def _entry(self, i: Any, j: Any, **kwargs: Any) -> sp.Expr:
        m = self.attention.shape[1]
        row, p, q = sp.floor(i / m), sp.Mod(i, m), sp.Mod(j, m)
        block = self.attention[row, p] * (sp.KroneckerDelta(p, q) - self.attention[row, q])
        return sp.KroneckerDelta(row, sp.floor(j / m)) * block

    def _eval_transpose(self) -> SoftmaxJacobian:
        return self

    def _sympystr(self, printer: Any) -> str:
        return f"dsoftmax({printer.doprint(self.attention)})"

    def _latex(self, printer: Any) -> str:
        return r"\frac{\partial A}{\partial M}"


def averaging(n: sp.Expr | int) -> SymmetricMatrix:
    """The projection P = (1/n) 1 1^T of shape (n, n): P^2 = P, tr P = 1, P = P^T.

    >>> averaging(2).as_explicit()
    Matrix([
    [1/2, 1/2],
    [1/2, 1/2]])
    """
    return Averaging("P", sp.sympify(n))


def centring(n: sp.Expr | int) -> SymmetricMatrix:
    """The projection Pi = I - P of shape (n, n): Pi^2 = Pi, Pi P = 0, Pi 1 = 0, tr Pi = n - 1, Pi = Pi^T.

    >>> n = sp.Symbol("n", integer=True, positive=True)
    >>> centring(n).shape
    (n, n)
    """
    return Centring("Pi", sp.sympify(n))


def ones(n: sp.Expr | int, columns: sp.Expr | int = 1) -> sp.MatrixExpr:
    """The matrix of ones of shape (n, columns), by default the vector 1."""
    return sp.OneMatrix(sp.sympify(n), sp.sympify(columns))


def trace(matrix: sp.MatrixExpr) -> sp.Expr:
    """The trace of a square matrix expression, kept unevaluated.

    Raises :class:`RefusedError` for a matrix that is not square, naming it.

    >>> n, d = sp.symbols("n d", integer=True, positive=True)
    >>> X = sp.MatrixSymbol("X", n, d)
    >>> trace(X.T*X)
    Trace(X.T*X)
    """
    if not getattr(matrix, "is_Matrix", False) and not getattr(matrix, "is_MatrixExpr", False):
        raise InputError("trace of", matrix, "a matrix expression")
    rows, columns = matrix.shape
    if rows != columns:
        raise RefusedError(str(matrix), f"the trace of a {rows} x {columns} matrix is not defined",
                           "multiply it into a square matrix")
    return sp.Trace(matrix)


def frobenius2(matrix: sp.MatrixExpr) -> sp.Expr:
    """The squared Frobenius norm tr(M M^T), for any shape.

    >>> n, d = sp.symbols("n d", integer=True, positive=True)
    >>> frobenius2(sp.MatrixSymbol("X", n, d))
    Trace(X*X.T)
    """
    return trace(matrix * matrix.T)


def entry(matrix: sp.MatrixExpr, row: sp.Expr | int, column: sp.Expr | int) -> sp.Expr:
    """The entry of a matrix expression (counted from 0) as the trace e_row^T M e_column.

    ``M[i, j]`` of a product is a sum over indices in SymPy, which trace calculus does not take.

    >>> n, d = sp.symbols("n d", integer=True, positive=True)
    >>> X = sp.MatrixSymbol("X", n, d)
    >>> entry(X*X.T, 0, 1)
    Trace(e[0, n].T*X*X.T*e[1, n])
    """
    rows, columns = matrix.shape
    return trace(UnitVector(rows, row).T * matrix * UnitVector(columns, column))


def kron(*factors: sp.MatrixExpr) -> sp.MatrixExpr:
    """The Kronecker product of matrix expressions.

    >>> n = sp.Symbol("n", integer=True, positive=True)
    >>> kron(sp.Identity(n), centring(n)).shape
    (n**2, n**2)
    """
    return sp.KroneckerProduct(*factors)
