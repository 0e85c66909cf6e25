"""Jacobians of the attention layer against torch autograd, for the true softmax and at the uniform point."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

from symprop.wick import (
    AttentionBlock,
    AttentionLayer,
    Commutation,
    Softmax,
    SoftmaxJacobian,
    at_constant_logits,
    at_uniform,
    attention_jacobian,
    evaluate,
    frobenius2,
    jacobian,
    kron,
    kronecker_form,
    matrices_equal,
    ones,
)

torch = pytest.importorskip("torch")
LAYER = AttentionLayer()
NAMES = ("W_V", "W_Q", "W_K", "X")
SHAPES = [(3, 4, 2, 5, 1.0), (4, 3, 5, 2, 2.5), (2, 5, 3, 3, 0.7), (1, 3, 2, 2, 1.0), (5, 1, 1, 1, 1.3)]


def arrays(n: int, d: int, d_k: int, d_o: int, tau: float, seed: int = 0) -> dict[sp.Expr, object]:
    rng = np.random.default_rng(seed)
    return {
        LAYER.X: rng.normal(size=(n, d)),
        LAYER.W_Q: rng.normal(size=(d, d_k)),
        LAYER.W_K: rng.normal(size=(d, d_k)),
        LAYER.W_V: rng.normal(size=(d, d_o)),
        LAYER.tau: tau,
    }


def autograd(name: str, values: dict[sp.Expr, object], uniform: bool) -> np.ndarray:
    tensors = {k.name: torch.tensor(v) for k, v in values.items() if isinstance(k, sp.MatrixSymbol)}
    tau, d_k = values[LAYER.tau], tensors["W_Q"].shape[1]

    def output(argument: torch.Tensor) -> torch.Tensor:
        t = {**tensors, name: argument}
        logits = tau * t["X"] @ t["W_Q"] @ t["W_K"].T @ t["X"].T / d_k**0.5
        if uniform:
            logits = logits - logits.detach()
        return torch.softmax(logits, dim=1) @ t["X"] @ t["W_V"]

    found = torch.autograd.functional.jacobian(output, tensors[name])
    return found.reshape(-1, tensors[name].numel()).numpy()


@pytest.mark.parametrize("uniform", [False, True], ids=["true softmax", "uniform"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_attention_jacobians(name: str, shape: tuple[int, int, int, int, float], uniform: bool) -> None:
    values = arrays(*shape)
    symbolic = evaluate(attention_jacobian(name, LAYER, uniform=uniform), values)
    expected = autograd(name, values, uniform)
    assert symbolic.shape == expected.shape
    assert np.abs(symbolic - expected).max() <= 1e-12 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("name", ["X", "W_1", "W_2", "W_V", "W_Q"])
def test_block_jacobian(name: str) -> None:
    block = AttentionBlock(AttentionLayer(d_o=LAYER.d))
    rng = np.random.default_rng(3)
    n, d, d_k, d_f = 3, 4, 2, 5
    layer = block.layer
    values = arrays(n, d, d_k, d, 1.2) | {
        layer.W_V: rng.normal(size=(d, d)), block.W_1: rng.normal(size=(d, d_f)),
        block.W_2: rng.normal(size=(d_f, d)), block.alpha_1: 0.7, block.alpha_2: -0.4,
    }
    values.pop(LAYER.W_V)
    tensors = {k.name: torch.tensor(v) for k, v in values.items() if isinstance(k, sp.MatrixSymbol)}

    def output(argument: torch.Tensor) -> torch.Tensor:
        t = {**tensors, name: argument}
        attention = torch.softmax(1.2 * t["X"] @ t["W_Q"] @ t["W_K"].T @ t["X"].T / d_k**0.5, dim=1)
        z = t["X"] + 0.7 * attention @ t["X"] @ t["W_V"]
        return z - 0.4 * z @ t["W_1"] @ t["W_2"]

    expected = torch.autograd.functional.jacobian(output, tensors[name]).reshape(n * d, -1).numpy()
    np.testing.assert_allclose(evaluate(jacobian(block.output, block.variable(name)), values), expected, atol=1e-12)


def test_lemmas_a2_and_a3() -> None:
    """The Jacobians as Lemmas A.2 and A.3 print them, equal matrix for matrix."""
    X, W_Q, W_K, W_V = LAYER.X, LAYER.W_Q, LAYER.W_K, LAYER.W_V
    n, d_o, scale = LAYER.n, LAYER.d_o, LAYER.tau / sp.sqrt(LAYER.d_k)
    attention = Softmax(LAYER.logits)
    inner, outer = SoftmaxJacobian(attention), kron(sp.Identity(n), W_V.T * X.T)
    lemmas = {
        "W_V": kron(attention * X, sp.Identity(d_o)),
        "W_Q": scale * outer * inner * kron(X, X * W_K),
        "W_K": scale * outer * inner * Commutation(n, n) * kron(X, X * W_Q),
        "X": scale * outer * inner * (
            kron(sp.Identity(n), X * W_K * W_Q.T)
            + Commutation(n, n) * kron(sp.Identity(n), X * W_Q * W_K.T)
        ) + kron(attention, W_V.T),
    }
    values = arrays(3, 4, 2, 5, 1.5)
    for name, printed in lemmas.items():
        np.testing.assert_allclose(
            evaluate(attention_jacobian(name, LAYER), values), evaluate(printed, values), atol=1e-13
        )
        assert matrices_equal(printed, attention_jacobian(name, LAYER))
        assert not matrices_equal(2 * printed, attention_jacobian(name, LAYER))
        assert kronecker_form(at_uniform(printed)) == attention_jacobian(name, LAYER, uniform=True)


def test_softmax_jacobian_entries() -> None:
    M = sp.MatrixSymbol("M", 2, 3)
    values = {M: np.random.default_rng(0).normal(size=(2, 3))}
    block = evaluate(SoftmaxJacobian(Softmax(M)), values)
    a = evaluate(Softmax(M), values)
    for i in range(2):
        np.testing.assert_allclose(block[3 * i : 3 * i + 3, 3 * i : 3 * i + 3], np.diag(a[i]) - np.outer(a[i], a[i]))
    assert np.all(block[:3, 3:] == 0)


def test_true_softmax_is_uniform_on_collapsed_tokens() -> None:
    x = sp.MatrixSymbol("x", LAYER.d, 1)
    collapsed = {LAYER.X: ones(LAYER.n) * x.T}
    for name in ("W_Q", "W_K"):
        exact = attention_jacobian(name, LAYER)
        reduced = kronecker_form(at_constant_logits(exact.xreplace(collapsed)))
        assert isinstance(reduced, sp.ZeroMatrix)
        values = arrays(3, 4, 2, 5, 1.5)
        values[LAYER.X] = np.ones((3, 1)) @ values[LAYER.X][:1]  # type: ignore[index]
        assert np.abs(evaluate(exact, values)).max() < 1e-14


def test_products_powers_and_sums() -> None:
    W = sp.MatrixSymbol("W", 3, 3)
    A = sp.MatrixSymbol("A", 3, 3)
    rng = np.random.default_rng(2)
    values = {W: rng.normal(size=(3, 3)), A: rng.normal(size=(3, 3))}
    expression = 2 * W**3 - A * W.T * W * A + A
    w, a = torch.tensor(values[W]), torch.tensor(values[A])
    expected = torch.autograd.functional.jacobian(lambda t: 2 * t @ t @ t - a @ t.T @ t @ a + a, w)
    np.testing.assert_allclose(evaluate(jacobian(expression, W), values), expected.reshape(9, 9).numpy(), atol=1e-12)
    assert jacobian(A, W) == sp.ZeroMatrix(9, 9)
    assert frobenius2(W) == sp.Trace(W * W.T)
