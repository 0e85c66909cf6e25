"""What the calculus cannot do is refused by naming the factor, the reason and a remedy."""

from __future__ import annotations

import pytest
import sympy as sp

from symprop.core.errors import InputError, RefusedError, UnknownNameError
from symprop.wick import (
    AttentionBlock,
    AttentionLayer,
    Equicorrelated,
    Gaussian,
    Iid,
    Softmax,
    SymmetricMatrix,
    at_constant_logits,
    centring,
    evaluate,
    expectation,
    frobenius2,
    gradient_norm,
    jacobian,
    kron,
    matching_temperature,
    trace,
)

n, d = sp.symbols("n d", integer=True, positive=True)
X, W = sp.MatrixSymbol("X", n, d), sp.MatrixSymbol("W", n, n)
S = SymmetricMatrix("S", n)


def test_non_gaussian_at_fourth_order_names_the_factor_and_the_remedy() -> None:
    with pytest.raises(RefusedError, match=r"Trace\(X\.T\*X\)\*\*2.*order 4 in the iid matrix X.*fourth_cumulant"):
        expectation(trace(X * X.T) ** 2, X=Iid(1))
    with pytest.raises(RefusedError, match="order 6"):
        expectation(trace(X * X.T) ** 3, X=Iid(1, fourth_cumulant=-2))
    with pytest.raises(RefusedError, match="third cumulant"):
        expectation(trace(W**3), W=Iid(1))
    assert expectation(trace(W**3), W=Iid(1, symmetric=True)).expression == 0


@pytest.mark.parametrize(
    "expression",
    [
        sp.sqrt(sp.Trace(X * X.T)),
        1 / sp.Trace(X * X.T),
        sp.exp(sp.Trace(W)),
        sp.Determinant(W),
        sp.Trace((W + sp.Identity(n)).inv()),
        sp.Trace(sp.HadamardProduct(W, W)),
        sp.Trace(Softmax(W)),
        sp.Trace(W) ** n,
    ],
    ids=str,
)
def test_what_is_not_a_polynomial_is_refused_by_name(expression: sp.Expr) -> None:
    name = "X" if expression.has(X) else "W"
    with pytest.raises(RefusedError, match=rf"\b{name}\b.*remedy"):
        expectation(expression, {X: Gaussian(), W: Gaussian()})


def test_shapes_and_kronecker_factors_are_checked() -> None:
    with pytest.raises(RefusedError, match=r"X: the trace of a n x d matrix"):
        trace(X)
    with pytest.raises(InputError, match="a matrix expression"):
        trace(n)
    big = sp.MatrixSymbol("big", n * n, n * n)
    with pytest.raises(RefusedError, match="do not match"):
        expectation(trace(kron(W, W) * big), W=Gaussian())


def test_laws_are_checked() -> None:
    with pytest.raises(InputError, match="variance = -1"):
        Gaussian(-1)
    with pytest.raises(InputError, match="a matrix is a row_covariance"):
        Gaussian(S)
    with pytest.raises(InputError, match="rho = 2"):
        Equicorrelated(1, 2)
    with pytest.raises(InputError, match="not below"):
        Iid(1, fourth_cumulant=-3)
    with pytest.raises(InputError, match="row_covariance"):
        expectation(trace(X.T * X), X=Gaussian(row_covariance=SymmetricMatrix("S", d)))
    with pytest.raises(InputError, match="Y"):
        expectation(trace(X.T * X), Y=Gaussian())
    with pytest.raises(InputError, match="law of X"):
        expectation(trace(X.T * X), X=1)  # type: ignore[arg-type]
    with pytest.raises(RefusedError, match="no independent entries"):
        expectation(trace(S * S), S=Gaussian())
    with pytest.raises(RefusedError, match="covariance contains the random matrix W"):
        expectation(trace(X.T * X), {X: Gaussian(row_covariance=W * W.T), W: Gaussian()})
    with pytest.raises(InputError, match="rho"):
        expectation(trace(sp.MatrixSymbol("Z", 5, d) * sp.MatrixSymbol("Z", 5, d).T), Z=Equicorrelated(1, -0.5))


def test_fourth_cumulants_of_two_factors_of_one_product() -> None:
    V = sp.MatrixSymbol("V", d, n)
    law = Iid(1, fourth_cumulant=-2)
    mixed = expectation(frobenius2(X * V) ** 2, X=Gaussian(), V=law).expression
    assert sp.expand(mixed - d * n**2 * (d * n**2 + 2 * d + 2 * n - 2)) == 0
    with pytest.raises(RefusedError, match="fourth cumulant of V multiplies entries of the random matrix X"):
        expectation(frobenius2(X * V) ** 2, X=law, V=law)


def test_text_and_impossible_covariances_are_refused() -> None:
    with pytest.raises(InputError, match="not text"):
        Gaussian("__import__('os')")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not text"):
        AttentionLayer(tau="1")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="semidefinite"):
        Gaussian(row_covariance=sp.Matrix([[1, 2], [2, 1]]))
    with pytest.raises(InputError, match="d_k = 5/2"):
        AttentionLayer(d_k=sp.Rational(5, 2))
    with pytest.raises(RefusedError, match=r"entry\(M, i, j\)"):
        expectation((X * X.T)[0, 1], X=Gaussian())


def test_two_matrices_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="one matrix of that name"):
        expectation(trace(X * X.T) + trace(sp.MatrixSymbol("X", d, d)), {X: Gaussian()})


def test_calculus_refusals() -> None:
    with pytest.raises(RefusedError, match="HadamardProduct"):
        jacobian(sp.HadamardProduct(W, W), W)
    with pytest.raises(RefusedError, match="scalar factor"):
        jacobian(trace(W) * W, W)
    with pytest.raises(RefusedError, match="vary along a row"):
        at_constant_logits(Softmax(W))
    with pytest.raises(InputError, match="an array for every matrix"):
        evaluate(W * W, {})
    with pytest.raises(InputError, match="shape"):
        evaluate(W, {W: [[1.0, 2.0]]})


def test_layers_are_checked() -> None:
    with pytest.raises(UnknownNameError, match="W_Q"):
        gradient_norm("W_q")
    with pytest.raises(InputError, match="d_o"):
        AttentionBlock(AttentionLayer())
    with pytest.raises(RefusedError, match="query gradient is zero"):
        matching_temperature(Equicorrelated(1, 1))
    assert expectation(frobenius2(centring(n) * X), X=Gaussian()).expression == d * (n - 1)
