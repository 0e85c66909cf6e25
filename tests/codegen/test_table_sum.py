"""Generated sums over tables, numpy and torch, against the sums in 50 digits."""

import numpy as np
import pytest
import sympy as sp

from symprop.codegen import FunctionSpec
from symprop.codegen.render import load, render
from symprop.codegen.spec import parameters
from symprop.core.symbols import gap, sigma2
from symprop.functions.logistic import Sigmoid, Silu, Tanh
from symprop.functions.quadrature_activation import GeluTanh

ZERO = sp.S.Zero


def spec_of(activation):
    outputs = (
        ("mean", activation.slope_mean(ZERO, sigma2)),
        ("second", activation.second(ZERO, sigma2)),
        ("change", activation.gap(ZERO, sigma2, gap)),
        ("slope_change", activation.slope_gap(ZERO, sigma2, gap)),
    )
    return FunctionSpec(f"{activation.name}_test", parameters(sigma2, gap), outputs, "Moments.")


@pytest.mark.parametrize("activation", [Silu(), Tanh(), Sigmoid(), GeluTanh()], ids=lambda item: item.name)
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_generated_code_is_the_formula(activation, backend):
    if backend == "torch":
        pytest.importorskip("torch")
    spec = spec_of(activation)
    function = load(spec, backend)
    points = [(1.0, 0.5), (50.0, 1e-12)]
    if activation.name != "gelu_tanh":
        points += [(1e-6, 1e-3), (1e4, 1.9), (2.0, 2.0)]
    for variance, share in points:
        found = function(variance, share * variance)
        for name, expression in spec.outputs:
            at = {sigma2: sp.Rational(variance), gap: sp.Rational(share * variance)}
            # Differences of doubles f(x) - f(y) at steps of sqrt(gap) lose that many digits, and average out.
            loss = 1e-9 if activation.name == "gelu_tanh" else 1e-11
            rounding = 1e-15 * variance
            assert float(getattr(found, name)) == pytest.approx(float(sp.N(expression.subs(at), 17)), rel=loss, abs=rounding)


def test_arrays_broadcast_and_torch_differentiates():
    torch = pytest.importorskip("torch")
    spec = spec_of(Silu())
    grid = load(spec)(np.array([[0.5], [2.0]]), np.array([0.1, 0.2, 0.3]))
    assert grid.change.shape == (2, 3)
    function = load(spec, "torch")
    at = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (1.3, 0.4)]
    assert torch.autograd.gradcheck(lambda *x: function(*x).change, at)


def test_torch_takes_a_constant_variance():
    torch = pytest.importorskip("torch")
    spec = FunctionSpec("fixed", parameters(gap), (("change", Silu().gap(ZERO, sp.S.One, gap)),), "Unit variance.")
    found = load(spec, "torch")(torch.tensor(0.5, dtype=torch.float64))
    assert float(found) == pytest.approx(float(load(spec)(0.5)), rel=1e-14)


def test_the_text_is_the_same_in_every_run():
    assert render([spec_of(Silu())], "numpy", "m") == render([spec_of(Silu())], "numpy", "m")
