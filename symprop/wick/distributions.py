"""Laws of random matrices: zero mean, real entries."""

from __future__ import annotations

from dataclasses import dataclass

import sympy as sp

from symprop.core.errors import InputError
from symprop.wick.matrices import averaging, centring


@dataclass(frozen=True)
class Gaussian:
    """A centred Gaussian matrix with ``E X_ij X_kl = variance * R_ik * S_jl``.

    ``row_covariance`` is R (rows x rows) and ``column_covariance`` is S (columns x columns); each is the identity
    where it is left out. ``Gaussian(v)`` has iid entries of variance v; ``Gaussian(row_covariance=Sigma)`` has iid
    columns N(0, Sigma). Covariances are deterministic matrix expressions and are taken as symmetric.
    """

    variance: sp.Expr | float = sp.S.One
    row_covariance: sp.MatrixExpr | None = None
    column_covariance: sp.MatrixExpr | None = None

    def __post_init__(self) -> None:
        _check_variance(self.variance)
        for name in ("row_covariance", "column_covariance"):
            matrix = getattr(self, name)
            if matrix is not None and not getattr(matrix, "is_Matrix", False):
                raise InputError(name, matrix, "a square matrix expression; a scalar is the variance")
            if matrix is not None and matrix.shape[0] != matrix.shape[1]:
                raise InputError(name, matrix, "a square matrix expression")
            if isinstance(matrix, sp.MatrixBase):
                object.__setattr__(self, name, matrix.as_immutable())
                if not matrix.is_symmetric() or matrix.is_positive_semidefinite is False:
                    raise InputError(name, matrix.tolist(), "a symmetric positive semidefinite matrix")

    def covariances(self, rows: sp.Expr, columns: sp.Expr) -> tuple[sp.MatrixExpr | None, sp.MatrixExpr | None]:
        """The row and column covariance for a matrix of that shape, None where it is the identity."""
        for name, size in (("row_covariance", rows), ("column_covariance", columns)):
            matrix = getattr(self, name)
            if matrix is not None and matrix.shape[0] != size:
                raise InputError(name, matrix, f"a matrix of shape ({size}, {size})")
        return self.row_covariance, self.column_covariance


@dataclass(frozen=True)
class Equicorrelated:
    """A Gaussian matrix with iid columns of covariance variance * [(1 - rho) I + rho 1 1^T].

    Its eigenvalues are variance (1 - rho) off the vector 1 and variance (1 + (n-1) rho) on it, so that closed forms in
    n, the number of columns and rho follow. ``rho`` lies in [-1/(n-1), 1].
    """

    variance: sp.Expr | float = sp.S.One
    rho: sp.Expr | float = sp.S.Zero

    def __post_init__(self) -> None:
        _check_variance(self.variance)
        value = scalar("rho", self.rho)
        if value.is_number and not -1 <= value <= 1:
            raise InputError("rho", self.rho, "a number in [-1/(n-1), 1]")

    def covariances(self, rows: sp.Expr, columns: sp.Expr) -> tuple[sp.MatrixExpr | None, sp.MatrixExpr | None]:
        """The row covariance without its variance, in the projections Pi and P."""
        rho = sp.sympify(self.rho)
        if rho.is_number and rows.is_number and rows > 1 and rho < -1 / (rows - 1):
            raise InputError("rho", self.rho, f"a number in [-1/({rows}-1), 1]")
        return (1 - rho) * centring(rows) + (1 + (rows - 1) * rho) * averaging(rows), None


@dataclass(frozen=True)
class Iid:
    """A matrix of iid entries with mean zero and the given variance, of any law.

    Sufficient wherever the matrix occurs at most twice. At fourth order ``fourth_cumulant``, E x^4 - 3 variance^2, is
    needed (-2 variance^2 for random signs); odd orders from three on vanish only for a ``symmetric`` law. Higher
    orders are refused.
    """

    variance: sp.Expr | float = sp.S.One
    fourth_cumulant: sp.Expr | float | None = None
    symmetric: bool = False

    def __post_init__(self) -> None:
        _check_variance(self.variance)
        if self.fourth_cumulant is not None:
            variance, cumulant = sp.sympify(self.variance), scalar("fourth_cumulant", self.fourth_cumulant)
            excess = cumulant + 2 * variance**2
            if excess.is_number and excess.is_negative:
                raise InputError("fourth_cumulant", cumulant, "a number not below -2 variance^2")

    def covariances(self, rows: sp.Expr, columns: sp.Expr) -> tuple[sp.MatrixExpr | None, sp.MatrixExpr | None]:
        """Both covariances are the identity."""
        return None, None


Law = Gaussian | Equicorrelated | Iid


def scalar(name: str, value: object) -> sp.Expr:
    """A number or SymPy expression; text is refused, since SymPy would execute it."""
    if isinstance(value, str):
        raise InputError(name, value, "a number or a SymPy expression, not text")
    return sp.sympify(value)


def _check_variance(variance: object) -> None:
    value = scalar("variance", variance)
    if getattr(value, "is_Matrix", False):
        raise InputError("variance", variance, "a scalar; a matrix is a row_covariance")
    if value.is_number and (value.is_real is False or value.is_negative or not value.is_finite):
        raise InputError("variance", variance, "a number >= 0")
