"""The update of a model by one gradient step: against weight gradients worked out by automatic differentiation."""

import numpy as np
import pytest
import sympy as sp
import torch

from symprop.components import Elementwise, Linear
from symprop.core.errors import RefusedError
from symprop.core.symbols import L, beta, d, lam
from symprop.depth.update import model_update
from symprop.functions.activation import Relu
from symprop.network import post_norm, residual, sequential, token_input, trace_of

TOKEN = token_input(tokens=1)
BRANCH = sequential(Linear(d, beta**2 / d), Linear(d, beta**2 / d))


def test_autograd_of_sublayers():
    """Four residual sublayers without norms, a ReLU inside: the sum of squared weight gradients over the width."""
    width, draws, scale, depth = 48, 400, 0.7, 4
    token = token_input(tokens=1, gaussian=True)
    branch = sequential(Linear(d, scale**2 / d), Elementwise(Relu()), Linear(d, scale**2 / d))
    found = model_update(trace_of(residual(branch), token), sp.Integer(depth)).expression
    predicted = float(found.subs({token.q: 2, d: width}))
    generator = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weights = [normal(draws, width, width).mul(scale / width**0.5).requires_grad_() for _ in range(2 * depth)]
    x = normal(draws, width, 1) * 2**0.5
    for first, last in zip(weights[::2], weights[1::2], strict=True):
        x = x + last @ torch.relu(first @ x)
    (x * normal(draws, width, 1) / width).sum().backward()
    total = sum((weight.grad**2).sum(dim=(1, 2)) for weight in weights).numpy()
    assert abs(total.mean() - predicted) < 4 * total.std(ddof=1) / np.sqrt(draws)


def test_update_is_linear_in_depth_behind_norms():
    found = model_update(trace_of(post_norm(BRANCH, 1, lam), TOKEN)).expression
    assert sp.simplify(found - 2 * L * beta**2 / (lam**2 + beta**4)) == 0


def test_refusals():
    with pytest.raises(RefusedError, match="tokens=1"):
        model_update(trace_of(residual(BRANCH), token_input()))
    with pytest.raises(RefusedError, match="takes q_X"):
        model_update(trace_of(residual(sequential(Linear(d, 1 / d, 1))), TOKEN))
