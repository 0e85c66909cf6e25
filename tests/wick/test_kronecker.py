"""Kronecker and commutation rules, symbolic and against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

from symprop.wick import (
    Commutation,
    Gaussian,
    Iid,
    averaging,
    centring,
    evaluate,
    expectation,
    frobenius2,
    jacobian,
    kron,
    kronecker_form,
    trace,
)

m, n, p, q, r, s = sp.symbols("m n p q r s", integer=True, positive=True)
A, B = sp.MatrixSymbol("A", m, n), sp.MatrixSymbol("B", p, q)
C, D = sp.MatrixSymbol("C", n, r), sp.MatrixSymbol("D", q, s)
Q, R = sp.MatrixSymbol("Q", n, n), sp.MatrixSymbol("R", p, p)
SIZES = {m: 2, n: 3, p: 4, q: 5, r: 2, s: 3}
RNG = np.random.default_rng(1)
VALUES = {k: RNG.normal(size=[SIZES[x] for x in k.shape]) for k in (A, B, C, D, Q, R)} | SIZES


def same(left: sp.Expr, right: sp.Expr) -> None:
    np.testing.assert_allclose(evaluate(left, VALUES), evaluate(right, VALUES), atol=1e-12)


def test_commutation_matrix_swaps_kronecker_factors() -> None:
    whole = Commutation(p, m) * kron(A, B) * Commutation(n, q)
    assert kronecker_form(whole) == kron(B, A)
    same(whole, kron(B, A))
    identity = sp.Identity(n)
    assert kronecker_form(Commutation(n, n) * kron(identity, Q) * Commutation(n, n)) == kron(Q, identity)
    assert Commutation(m, n).as_explicit is not None
    np.testing.assert_array_equal(
        np.array(Commutation(2, 3).as_explicit(), dtype=float), evaluate(Commutation(2, 3), {})
    )


def test_row_vec_rules() -> None:
    a, w, b = VALUES[A], VALUES[C], RNG.normal(size=(2, 4))
    np.testing.assert_allclose((a @ w @ b).ravel(), np.kron(a, b.T) @ w.ravel(), atol=1e-12)
    np.testing.assert_allclose(w.T.ravel(), evaluate(Commutation(2, 3), {}) @ w.ravel())
    W = sp.MatrixSymbol("W", n, r)
    assert jacobian(A * W * sp.MatrixSymbol("E", r, p), W) == kron(A, sp.MatrixSymbol("E", r, p).T)
    assert jacobian(W.T, W) == Commutation(r, n)


def test_mixed_product_and_trace() -> None:
    assert kronecker_form(kron(A, B) * kron(C, D)) == kron(A * C, B * D)
    product = expectation(trace(kron(Q, R))).expression
    assert product == sp.Trace(Q) * sp.Trace(R)
    assert expectation(frobenius2(kron(A, B))).expression == frobenius2(A.T) * frobenius2(B.T)
    swapped = trace(kron(Q, sp.MatrixSymbol("Y", n, n)) * Commutation(n, n))
    assert expectation(swapped).expression == sp.Trace(Q * sp.MatrixSymbol("Y", n, n))
    assert expectation(trace(Commutation(n, n))).expression == n
    assert expectation(trace(Commutation(n, p) * Commutation(p, n))).expression == n * p


@pytest.mark.parametrize("seed", range(6))
def test_norm_of_a_sum_with_commutation_matrices(seed: int) -> None:
    pick = np.random.default_rng(seed)
    E, F = sp.MatrixSymbol("E", p, n), sp.MatrixSymbol("F", m, q)
    total = sp.Integer(2) * kron(A, B) + kron(averaging(m) * F, E) * Commutation(q, n) - kron(A * Q, R * B) / 3
    values = VALUES | {E: pick.normal(size=(4, 3)), F: pick.normal(size=(2, 5))}
    direct = np.sum(evaluate(total, values) ** 2)
    assert evaluate(expectation(frobenius2(total)).expression, values) == pytest.approx(direct, rel=1e-12)
    np.testing.assert_allclose(evaluate(kronecker_form(total), values), evaluate(total, values), atol=1e-12)


def test_dropping_the_commutation_matrix_changes_the_norm() -> None:
    """What invalidates Eq 8 of Noci et al.: K (I kron Q) K = Q kron I is not I kron Q beside I kron Pi."""
    Pi, identity = centring(n), sp.Identity(n)
    kept = expectation(frobenius2(kron(identity, Pi) * Commutation(n, n) * kron(identity, Q))).expression
    dropped = expectation(frobenius2(kron(identity, Pi) * kron(identity, Q))).expression
    assert kept == (n - 1) * sp.Trace(Q.T * Q)
    assert dropped == n * sp.Trace(Q.T * Pi * Q)


def test_three_factors_and_random_factors() -> None:
    W, Y = sp.MatrixSymbol("W", m, n), sp.MatrixSymbol("Y", p, p)
    assert expectation(frobenius2(kron(W, R, W)), W=Gaussian()).expression == (
        m * n * (m * n + 2) * sp.Trace(R.T * R)
    )
    value = expectation(frobenius2(kron(W, Y)), W=Iid(2), Y=Iid(3)).expression
    assert value == 6 * m * n * p**2
