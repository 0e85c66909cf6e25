"""Derivatives of generated functions against torch autograd, differences and each other, through depth as well."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

from symprop.codegen.jacobian import jacobian
from symprop.codegen.recursion import Recursion
from symprop.codegen.render import load
from symprop.codegen.spec import FunctionSpec, evaluate, parameters
from symprop.core.errors import RefusedError, UnknownNameError
from symprop.core.symbols import L, d, d_k, gap, n, q
from symprop.functions.logistic import Tanh
from symprop.functions.rising_ratio import RisingRatio
from symprop.functions.softmax_layer import Geometry, layer_moment
from tests.codegen.test_generated import GEOMETRIC, GROWTH, MOMENTS
from tests.codegen.test_recursion import LAYER, POINT, SPEC, START

CLOSED = {"q": 1.7, "rho": 0.4, "n": 7, "d": 64, "L": 12, "alpha_1": 0.3, "alpha_2": 0.2, "sigma_v2": 0.03}
SMOOTH = FunctionSpec("smooth", parameters(q, gap), (("gap", Tanh().gap(sp.S.Zero, q, gap)),), "F.", formula="x")
RISING = FunctionSpec("rising", parameters(q, gap, L), (("ratio", RisingRatio(q + gap, q, L)),), "F.", formula="x")
LARGER = FunctionSpec("larger", parameters(q, gap), (("y", sp.Max(q, gap) * q),), "F.")
FORWARD = FunctionSpec("forward", SPEC.parameters, SPEC.outputs[:3], "Stream.", formula="x",
                       recursion=Recursion.of(LAYER, START))
CASES = {
    "moments": (MOMENTS, CLOSED), "growth": (GROWTH, CLOSED), "geometric": (GEOMETRIC, CLOSED), "stream": (FORWARD, POINT),
    "smooth": (SMOOTH, {"q": 1.2, "gap": 0.3}), "rising": (RISING, {"q": 1.2, "gap": 0.3, "L": 10**5}),
    "larger": (LARGER, {"q": 1.2, "gap": 0.3}),
}


def own(spec, point):
    return {item.name: point[item.name] for item in spec.signature}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", ["numpy", "compiled"])
def test_derivatives_are_those_of_autograd(name, backend):
    torch = pytest.importorskip("torch")
    spec, point = CASES[name]
    real = [item.name for item in spec.signature if not item.domain.integer]
    numbers = {key: torch.tensor(float(value), dtype=torch.float64, requires_grad=key in real)
               for key, value in own(spec, point).items()}
    values = load(spec, "torch")(**numbers)
    got = load(jacobian(spec), backend)(**own(spec, point))
    for (output, _), value in zip(spec.outputs, values if isinstance(values, tuple) else (values,), strict=True):
        assert float(getattr(got, output)) == pytest.approx(float(value.detach()), rel=1e-11, abs=1e-13)
        slopes = torch.autograd.grad(value, [numbers[key] for key in real], retain_graph=True, allow_unused=True)
        for key, slope in zip(real, slopes, strict=True):
            want = 0.0 if slope is None else float(slope)
            assert float(getattr(got, f"d_{output}_d_{key}")) == pytest.approx(want, rel=1e-7, abs=1e-10), key


def test_derivatives_have_as_many_digits_as_values():
    spec, point = CASES["stream"]
    exact = evaluate(jacobian(spec, ["alpha_1"]), point, 30)
    step = sp.Float("1e-12", 60)
    at = sp.Rational(point["alpha_1"])
    ends = [evaluate(spec, point | {"alpha_1": at + sign * sp.Rational(step)}, 40) for sign in (1, -1)]
    for output, _ in spec.outputs:
        difference = (ends[0][output] - ends[1][output]) / (2 * step)
        assert abs(exact[f"d_{output}_d_alpha_1"] - difference) < 1e-18 * max(1, abs(difference))


def test_a_grid_is_its_points():
    function = load(jacobian(FORWARD, ["sigma_w2", "alpha_1"]))
    strengths = np.linspace(0.1, 1, 5)
    together = function(**(POINT | {"alpha_1": strengths, "L": np.array([[1], [20]])}))
    for k, depth in enumerate((1, 20)):
        for j, strength in enumerate(strengths):
            alone = function(**(POINT | {"alpha_1": float(strength), "L": depth}))
            for many, one in zip(together, alone, strict=True):
                assert float(many[k, j]) == pytest.approx(float(one), rel=1e-13)


def test_what_has_no_derivative_is_refused_by_name():
    with pytest.raises(UnknownNameError, match="real parameter of growth"):
        jacobian(GROWTH, ["L"])
    with pytest.raises(RefusedError, match="it has no real parameter"):
        jacobian(FunctionSpec("f", parameters(L), (("y", 1 / L),), "F."))
    moment = layer_moment("own", "exact", Geometry(n, d, d_k, q, sp.S.Half))
    with pytest.raises(RefusedError, match="differentiate the torch evaluator"):
        jacobian(FunctionSpec("f", parameters(q, n, d, d_k), (("y", moment),), "F.", formula="x"))
