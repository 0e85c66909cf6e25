"""Expectations against quadrature, exhaustive enumeration and the known moments of random-matrix theory."""

from __future__ import annotations

import itertools
from functools import reduce

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from symprop.wick import (
    Equicorrelated,
    Gaussian,
    Iid,
    SymmetricMatrix,
    averaging,
    centring,
    entry,
    evaluate,
    expectation,
    frobenius2,
    kron,
    ones,
    pairings,
    trace,
)

n, d, m = sp.symbols("n d m", integer=True, positive=True)
s2, v2 = sp.symbols("s2 v2", positive=True)
X = sp.MatrixSymbol("X", n, d)
P, Pi = averaging(n), centring(n)

ROWS, COLUMNS = 2, 2
W = sp.MatrixSymbol("W", ROWS, COLUMNS)
A = sp.MatrixSymbol("A", ROWS, ROWS)
B = sp.MatrixSymbol("B", COLUMNS, COLUMNS)
D = sp.MatrixSymbol("D", ROWS, COLUMNS)
S, R = SymmetricMatrix("S", ROWS), SymmetricMatrix("R", COLUMNS)
u = sp.MatrixSymbol("u", ROWS, 1)
RNG = np.random.default_rng(5)
VALUES = {k: RNG.normal(size=k.shape) for k in (A, B, D, u)}
VALUES |= {k: (lambda f: f @ f.T)(RNG.normal(size=k.shape)) for k in (S, R)}


def mean(expression: sp.Expr, **laws: object) -> sp.Expr:
    return expectation(expression, **laws).expression  # type: ignore[arg-type]


def quadrature(count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """All nodes and weights for a standard Gaussian W, exact to degree 2 count - 1 in every entry."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    weights = weights / weights.sum()
    grid = np.array(list(itertools.product(nodes, repeat=ROWS * COLUMNS))).reshape(-1, ROWS, COLUMNS)
    mass = np.array(list(itertools.product(weights, repeat=ROWS * COLUMNS))).prod(axis=1)
    return grid, mass


def signs() -> tuple[np.ndarray, np.ndarray]:
    grid = np.array(list(itertools.product([-1.0, 1.0], repeat=ROWS * COLUMNS))).reshape(-1, ROWS, COLUMNS)
    return grid, np.full(len(grid), 1 / len(grid))


def batch(factors: list[sp.MatrixExpr], draws: np.ndarray) -> np.ndarray:
    """The trace of a product at every draw of W."""

    def array(factor: sp.MatrixExpr) -> np.ndarray:
        base = factor.arg if isinstance(factor, sp.Transpose) else factor
        value = draws if base == W else evaluate(base, {**VALUES, W: np.zeros(W.shape)})[None]
        return value.swapaxes(1, 2) if factor is not base else value

    product = reduce(lambda x, y: x @ y, [array(factor) for factor in factors])
    return np.trace(product, axis1=1, axis2=2)


def random_word(pick: np.random.Generator, order: int) -> list[sp.MatrixExpr]:
    """A closed word with W or W^T ``order`` times and random constants in between."""
    row_side = [A, A.T, centring(ROWS), averaging(ROWS), S, D * B * D.T, u * u.T]
    column_side = [B, B.T, R, D.T * A * D, ones(COLUMNS) * ones(COLUMNS).T]
    word: list[sp.MatrixExpr] = []
    for _ in range(order):
        flipped = pick.random() < 0.5
        # Both sizes are equal, so that W W and W W^T both occur, with constants of either kind between.
        word.append(W.T if flipped else W)
        side = row_side if pick.random() < 0.5 else column_side
        if pick.random() < 0.6:
            word.extend([side[pick.integers(len(side))]])
    return word or [A]


def random_monomial(seed: int, order: int) -> list[list[sp.MatrixExpr]]:
    pick = np.random.default_rng(seed)
    cuts = sorted(pick.choice(np.arange(order + 1), size=pick.integers(0, 3)).tolist())
    bounds = [0, *cuts, order]
    return [random_word(pick, b - a) for a, b in itertools.pairwise(bounds) if b > a]


def factors_of(word: list[sp.MatrixExpr]) -> list[sp.MatrixExpr]:
    return [f for factor in word for f in (factor.args if isinstance(factor, sp.MatMul) else (factor,))]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), order=st.sampled_from([2, 4, 6, 8]), kind=st.sampled_from(["iid", "row", "both"]))
def test_random_trace_words_against_quadrature(seed: int, order: int, kind: str) -> None:
    words = random_monomial(seed, order)
    law = {
        "iid": Gaussian(sp.Rational(3, 2)),
        "row": Gaussian(row_covariance=S),
        "both": Gaussian(sp.Rational(3, 2), row_covariance=S, column_covariance=R),
    }[kind]
    grid, mass = quadrature()
    left = np.linalg.cholesky(VALUES[S]) if kind != "iid" else np.eye(ROWS)
    right = np.linalg.cholesky(VALUES[R]) if kind == "both" else np.eye(COLUMNS)
    scale = np.sqrt(1.5) if kind != "row" else 1.0
    draws = scale * left @ grid @ right.T
    sample = np.prod([batch(factors_of(word), draws) for word in words], axis=0)
    expected = float(mass @ sample)
    symbolic = sp.Mul(*(trace(sp.MatMul(*word)) if len(word) > 1 else trace(word[0]) for word in words))
    got = evaluate(mean(symbolic, W=law), VALUES)
    assert got == pytest.approx(expected, rel=1e-8, abs=1e-8 * float(mass @ abs(sample)))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), order=st.sampled_from([2, 4]))
def test_random_signs_against_enumeration(seed: int, order: int) -> None:
    words = random_monomial(seed, order)
    grid, mass = signs()
    sample = np.prod([batch(factors_of(word), grid) for word in words], axis=0)
    symbolic = sp.Mul(*(trace(sp.MatMul(*word)) if len(word) > 1 else trace(word[0]) for word in words))
    got = evaluate(mean(symbolic, W=Iid(1, fourth_cumulant=-2)), VALUES)
    assert got == pytest.approx(float(mass @ sample), rel=1e-9, abs=1e-9 * float(mass @ abs(sample)))


@pytest.mark.parametrize("seed", range(8))
def test_matrix_valued_expectation_against_quadrature(seed: int) -> None:
    pick = np.random.default_rng(seed)
    word = random_word(pick, 4)
    grid, mass = quadrature(4)
    expression = sp.MatMul(*word, A)
    expected = np.zeros((ROWS, ROWS))
    for i, j in itertools.product(range(ROWS), repeat=2):
        probe = sp.zeros(ROWS, ROWS)
        probe[j, i] = 1
        expected[i, j] = mass @ batch([*factors_of(word), A, sp.ImmutableMatrix(probe)], grid)
    np.testing.assert_allclose(evaluate(mean(expression, W=Gaussian()), VALUES), expected, atol=1e-8)


def test_two_independent_matrices_of_unequal_shape_against_quadrature() -> None:
    left, right = sp.MatrixSymbol("U", 2, 1), sp.MatrixSymbol("V", 1, 2)
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    weights = weights / weights.sum()
    grid = np.array(list(itertools.product(nodes, repeat=4)))
    mass = np.array(list(itertools.product(weights, repeat=4))).prod(axis=1)
    U, V, a = grid[:, :2, None], grid[:, None, 2:], VALUES[A]

    def tr(product: np.ndarray) -> np.ndarray:
        return np.trace(product, axis1=1, axis2=2)

    cases = {
        trace(left * right * A) ** 2: tr(U @ V @ a) ** 2,
        trace(left * left.T * A * right.T * right): tr(U @ U.swapaxes(1, 2) @ a @ V.swapaxes(1, 2) @ V),
        trace((left * right) ** 2 * A) * trace(A * left * right * A) ** 2:
            tr(U @ V @ U @ V @ a) * tr(a @ U @ V @ a) ** 2,
        trace(kron(left * right, right.T * right)) ** 2:
            (tr(U @ V) * tr(V.swapaxes(1, 2) @ V)) ** 2,
        frobenius2(left * right + A) ** 2: ((U @ V + a) ** 2).sum(axis=(1, 2)) ** 2,
    }
    for expression, sample in cases.items():
        got = evaluate(mean(expression, U=Gaussian(), V=Gaussian()), VALUES)
        assert got == pytest.approx(float(mass @ sample), rel=1e-9)


def test_random_signs_of_unequal_shape() -> None:
    Y = sp.MatrixSymbol("Y", 2, 3)
    M = sp.MatrixSymbol("M", 3, 3)
    values = VALUES | {M: RNG.normal(size=(3, 3))}
    draws = np.array(list(itertools.product([-1.0, 1.0], repeat=6))).reshape(-1, 2, 3)
    turned = draws.swapaxes(1, 2)
    forms = {
        trace(A * Y * M * Y.T) ** 2: np.trace(values[A] @ draws @ values[M] @ turned, axis1=1, axis2=2) ** 2,
        trace(A * Y * M * Y.T * Y * Y.T): np.trace(
            values[A] @ draws @ values[M] @ turned @ draws @ turned, axis1=1, axis2=2
        ),
        frobenius2(centring(2) * Y) ** 2: ((draws - draws.mean(axis=1, keepdims=True)) ** 2).sum(axis=(1, 2)) ** 2,
    }
    for expression, sample in forms.items():
        got = evaluate(mean(expression, Y=Iid(1, fourth_cumulant=-2)), values)
        assert got == pytest.approx(float(sample.mean()), rel=1e-10)


def test_weight_elimination() -> None:
    V, Q = sp.MatrixSymbol("V", d, m), sp.MatrixSymbol("Q", d, d)
    U, Y = sp.MatrixSymbol("U", m, m), sp.MatrixSymbol("Y", d, d)
    assert mean(V.T * Q * V, V=Gaussian(s2)) == s2 * sp.Trace(Q) * sp.Identity(m)
    assert mean(V * U * V.T, V=Iid(s2)) == s2 * sp.Trace(U) * sp.Identity(d)
    assert mean(Y * Q * Y, Y=Iid(s2)) == s2 * Q.T
    assert mean(V * V.T, V=Gaussian(s2)) == m * s2 * sp.Identity(d)
    assert mean(V.T * V, V=Gaussian(s2)) == d * s2 * sp.Identity(m)
    assert mean(V * V.T * V, V=Gaussian()) == sp.ZeroMatrix(d, m)
    assert mean(trace(Q * Y), Y=Iid(s2)) == 0


def test_fourth_order_matrix_expectation() -> None:
    V, Q = sp.MatrixSymbol("V", d, m), sp.MatrixSymbol("Q", m, m)
    U, Z = sp.MatrixSymbol("U", d, d), sp.MatrixSymbol("Z", m, m)
    result = mean(V * Q * V.T * U * V * Z * V.T, V=Gaussian(s2))
    identity = sp.Identity(d)
    known = (
        s2**2 * sp.Trace(Q) * sp.Trace(Z) * U
        + s2**2 * sp.Trace(Q * Z.T) * U.T
        + s2**2 * sp.Trace(Q * Z) * sp.Trace(U) * identity
    )
    rng = np.random.default_rng(0)
    values = {Q: rng.normal(size=(3, 3)), U: rng.normal(size=(2, 2)), Z: rng.normal(size=(3, 3)), s2: 1.7}
    np.testing.assert_allclose(evaluate(result, values), evaluate(known, values), rtol=1e-13)


WISHART = {
    1: d * n,
    2: n * d * (n + d + 1),
    3: n * d * (n**2 + d**2 + 3 * n * d + 3 * n + 3 * d + 4),
    4: n * d * (n**3 + d**3 + 6 * n**2 * d + 6 * n * d**2 + 6 * n**2 + 6 * d**2 + 17 * n * d + 21 * n + 21 * d + 20),
}


@pytest.mark.parametrize("power", WISHART)
def test_wishart_moments(power: int) -> None:
    """E tr W^k of a real Wishart matrix (Letac and Massam 2004)."""
    assert sp.expand(mean(trace((X * X.T) ** power), X=Gaussian()) - WISHART[power]) == 0


def test_chi_squared_moments() -> None:
    """||X||^2 is chi-squared with n d degrees of freedom."""
    for k in range(1, 5):
        known = sp.Mul(*(n * d + 2 * i for i in range(k)))
        assert sp.expand(mean(frobenius2(X) ** k, X=Gaussian()) - known) == 0


def test_independent_matrices_and_shared_weights() -> None:
    V, U = sp.MatrixSymbol("V", d, m), sp.MatrixSymbol("U", m, n)
    product = expectation(frobenius2(X * V * U), X=Gaussian(), V=Iid(s2), U=Iid(v2))
    assert sp.expand(product.expression - n * d * m * n * s2 * v2) == 0
    Y = sp.MatrixSymbol("Y", n, n)
    shared = mean(frobenius2(Y * Y), Y=Gaussian(s2))
    # tr(Y Y Y^T Y^T): neighbours (1,2)(3,4) give n, (1,3)(2,4) n, nested (1,4)(2,3) n^3.
    assert sp.expand(shared - s2**2 * n * (n**2 + 2)) == 0


def test_projections() -> None:
    assert mean(trace(P * X * X.T * P), X=Gaussian()) == d
    assert mean(trace(Pi * X * X.T * P * X * X.T), X=Gaussian()) == d * (n - 1)
    assert expectation(trace(Pi * P * X * X.T), X=Gaussian()).expression == 0
    spelled = sp.Identity(n) - sp.OneMatrix(n, n) / n
    assert mean(trace(spelled * X * X.T * spelled * X * X.T), X=Gaussian()) == mean(
        trace(Pi * X * X.T * Pi * X * X.T), X=Gaussian()
    )
    assert mean(sp.trace(X.T * Pi * X), X=Gaussian()) == d * (n - 1)
    assert mean(trace(X.T * centring(n) * X).subs(n, 1), X=Gaussian()) == 0


def test_equicorrelated_limits() -> None:
    rho = sp.Symbol("rho", real=True)
    quantity = frobenius2(X) * frobenius2(X.T * Pi * X)
    general = mean(quantity, X=Equicorrelated(s2, rho))
    assert sp.expand(general.subs(rho, 0) - mean(quantity, X=Gaussian(s2))) == 0
    assert general.subs(rho, 1) == 0
    spelled = s2 * ((1 - rho) * sp.Identity(n) + rho * sp.OneMatrix(n, n))
    assert sp.expand(general - mean(quantity, X=Gaussian(row_covariance=spelled))) == 0
    with_matrix = mean(trace(X.T * sp.MatrixSymbol("M", n, n) * X), X=Equicorrelated(s2, rho))
    values = {sp.MatrixSymbol("M", n, n): np.arange(9.0).reshape(3, 3), s2: 2, rho: 0.5, d: 4}
    assert evaluate(with_matrix, values) == pytest.approx(4 * 2 * (12 * 0.5 + 36 * 0.5))


def test_entries_and_explicit_matrices() -> None:
    i, j, k, el = sp.symbols("i j k l", integer=True, nonnegative=True)
    assert mean(X[i, j] * X[k, el], X=Iid(s2)) == s2 * sp.KroneckerDelta(i, k) * sp.KroneckerDelta(j, el)
    assert mean(X[0, 1] ** 4, X=Gaussian(s2)) == 3 * s2**2
    assert mean(X[0, 1] ** 2 * X[0, 0] ** 2, X=Gaussian(s2)) == s2**2
    assert mean(entry(X * X.T, 0, 1) ** 2, X=Gaussian(s2)) == d * s2**2
    assert mean(entry(X * X.T, i, j), X=Iid(s2)) == d * s2 * sp.KroneckerDelta(i, j)
    explicit = sp.ImmutableMatrix([[1, 2], [3, 5]])
    assert mean(trace(explicit * W * W.T), W=Gaussian()) == 6 * COLUMNS
    assert mean(trace(explicit * W * explicit * W), W=Gaussian()) == sp.trace(explicit * explicit.T)


def test_scalar_coefficients_and_constants_pass_through() -> None:
    Q = SymmetricMatrix("Q", n)
    expression = (2 * s2 + trace(Q) ** 2) * trace(X * X.T) + sp.sin(s2) + 1 / trace(Q)
    result = mean(expression, X=Gaussian())
    assert sp.expand(result - (2 * s2 + sp.Trace(Q) ** 2) * n * d - sp.sin(s2) - 1 / sp.Trace(Q)) == 0
    assert mean(trace(Q.inv() * Q * X * X.T), X=Gaussian()) == n * d


def test_quadratic_form_and_inverse_covariance() -> None:
    """x^T A x, and the Mahalanobis norm of Gaussian columns, which is chi-squared."""
    M, Sigma = sp.MatrixSymbol("M", n, n), sp.MatrixSymbol("Sigma", n, n)
    x = sp.MatrixSymbol("x", n, 1)
    quadratic = mean(trace(x.T * M * x) ** 2, x=Gaussian(s2))
    assert sp.expand(quadratic - s2**2 * (sp.Trace(M) ** 2 + sp.Trace(M * M) + sp.Trace(M.T * M))) == 0
    chi = mean(trace(Sigma.inv() * X * X.T) ** 2, X=Gaussian(row_covariance=Sigma))
    assert sp.expand(chi - n * d * (n * d + 2)) == 0


def test_fourth_cumulant_of_a_trace() -> None:
    Y = sp.MatrixSymbol("Y", n, n)
    assert sp.expand(mean(trace(Y) ** 4, Y=Iid(s2, fourth_cumulant=v2)) - 3 * n**2 * s2**2 - n * v2) == 0


def test_assumptions_say_what_sufficed() -> None:
    low = expectation(trace(X * X.T), X=Gaussian(s2))
    assert "zero-mean iid suffices" in low.assumptions[0].statement
    high = expectation(trace(X * X.T) ** 2, X=Gaussian(s2))
    assert "Gaussian needed" in high.assumptions[0].statement
    iid = expectation(trace(X * X.T) ** 2, X=Iid(s2, fourth_cumulant=v2))
    assert "Gaussian needed" not in iid.assumptions[0].statement
    assert sp.expand(iid.expression - (n * d * (n * d + 2) * s2**2 + n * d * v2)) == 0
    assert len(high.steps) == 1
    assert "3 pairings" in high.steps[0].reason


def test_pairings_are_counted_by_double_factorials() -> None:
    assert [len(list(pairings(k))) for k in (0, 2, 4, 6, 8)] == [1, 1, 3, 15, 105]


def test_diagonals_of_projections_of_two_sizes_are_two_matrices():
    n, d = sp.symbols("n d", integer=True, positive=True)
    X = sp.MatrixSymbol("X", n, d)
    centred = trace(X.T * centring(n) * X * centring(d))
    found = expectation(centred**2, {X: Iid(1, fourth_cumulant=-2)}).expression
    signs = [np.reshape(choice, (2, 3)) for choice in itertools.product((-1, 1), repeat=6)]
    squares = [((x - x.mean(0) - x.mean(1, keepdims=True) + x.mean()) ** 2).sum() ** 2 for x in signs]
    assert float(evaluate(found, {n: 2, d: 3})) == pytest.approx(np.mean(squares))
