"""torch.func.vmap and torch.compile on generated torch functions."""

import importlib

import pytest
import sympy as sp

from symprop.codegen.render import load
from symprop.codegen.spec import FunctionSpec, parameters
from symprop.core.symbols import gap, n, q
from symprop.functions.logistic import Tanh
from symprop.functions.softmax_overlap import RowGap

torch = pytest.importorskip("torch")

POINTS = {
    "noci2022:norm": {"L": 10, "alpha_1": 0.3, "alpha_2": 0.4, "n": 8, "C": 1.0, "N": 3.0},
    "noci2022:query_gradient": {"n": 8, "d": 16, "N": 9.0, "G_2": 1.3},
    "kedia2024:gelu_moments": {"sigma2": 1.3, "gap": 0.4},
    "kedia2024:preln_gradient": {"L": 10, "q_0": 1.0, "a_q": 0.5, "c_g": 0.7},
    "norm_placement:pre_stream": {"q_0": 1.0, "gain_v": 0.5, "m": 1.0, "chi": 0.8, "L": 12},
    "giorlandino2025:overlap_uniform": {
        "rho": 0.2, "gain_v": 1.0, "gain_w": 2.0, "sigma_b2": 0.1, "alpha_sa": 0.5, "alpha_mlp": 0.5, "n": 64, "L": 7,
    },
}  # fmt: skip


def case(name):
    """The function of real arguments, and three points; counts are numbers."""
    module, function = name.split(":")
    evaluator = getattr(importlib.import_module(f"symprop.generated.{module}_torch"), function)
    fixed = {key: value for key, value in POINTS[name].items() if isinstance(value, int)}
    real = [key for key in POINTS[name] if key not in fixed]
    points = [POINTS[name][key] * torch.tensor([0.5, 0.8, 1.0], dtype=torch.float64) for key in real]

    def of_reals(*values):
        found = evaluator(**fixed, **dict(zip(real, values, strict=True)))
        return tuple(found) if isinstance(found, tuple) else (found,)

    return of_reals, points


@pytest.mark.parametrize("name", POINTS)
def test_vmap_is_the_function_of_each_point(name):
    function, points = case(name)
    for mapped, whole in zip(torch.func.vmap(function)(*points), function(*points), strict=True):
        torch.testing.assert_close(mapped, whole, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", POINTS)
def test_vmap_of_the_gradient(name):
    function, points = case(name)
    slopes = torch.func.vmap(torch.func.grad(lambda *values: function(*values)[0].sum()))(*points)
    first = points[0].clone().requires_grad_()
    (wanted,) = torch.autograd.grad(function(first, *points[1:])[0].sum(), first)
    torch.testing.assert_close(slopes, wanted, rtol=1e-12, atol=1e-300)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in POINTS if not name.startswith("giorlandino2025")])
def test_compiled_functions_give_the_same(name):
    """Without the depth loop, which the compiler unrolls."""
    function, points = case(name)
    torch._dynamo.reset()
    for compiled, plain in zip(torch.compile(function)(*points), function(*points), strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-12, atol=0)


LINE = FunctionSpec("line", parameters(q), (("y", Tanh().second(sp.S.Zero, q)),), "A sum over cells.", formula="x")
PLANE = FunctionSpec("plane", parameters(q, gap), (("y", Tanh().gap(sp.S.Zero, q, gap)),), "A sum over cells.", formula="x")
VARIANCES = torch.tensor([1e-3, 0.5, 2.0, 3e3, 1e12], dtype=torch.float64)
GAPS = VARIANCES * torch.tensor([0.1, 0.3, 1.0, 1.999, 0.5], dtype=torch.float64)
"""The last beyond all cells."""


@pytest.mark.parametrize("spec", [LINE, PLANE], ids=lambda spec: spec.name)
def test_sums_over_cells_are_mapped_with_their_derivatives(spec):
    function, points = load(spec, "torch"), (VARIANCES, GAPS)[: len(spec.parameters)]
    # Inside, the sum itself; outside, its interpolation, right to 3e-9.
    torch.testing.assert_close(torch.func.vmap(function)(*points), function(*points), rtol=3e-9, atol=0)
    slopes = torch.func.vmap(torch.func.grad(function, argnums=tuple(range(len(points)))))(*points)
    places = [item.clone().requires_grad_() for item in points]
    for mapped, whole in zip(slopes, torch.autograd.grad(function(*places).sum(), places), strict=True):
        torch.testing.assert_close(mapped, whole, rtol=1e-7, atol=0)


@pytest.mark.slow
def test_a_compiled_sum_over_cells_is_the_sum():
    torch._dynamo.reset()
    function = load(LINE, "torch")
    torch.testing.assert_close(torch.compile(function)(VARIANCES), function(VARIANCES), rtol=1e-12, atol=0)


def test_softmax_moments_say_why_they_are_not_mapped():
    spec = FunctionSpec("rows", parameters(q, gap, n), (("gap", RowGap(q, gap, n)),), "Rows.", formula="x")
    function = load(spec, "torch")
    assert function(VARIANCES[:3], GAPS[:3], 8).shape == (3,)
    with pytest.raises(RuntimeError, match="call the function itself with tensors of all points"):
        torch.func.vmap(lambda *at: function(*at, 8))(VARIANCES[:3], GAPS[:3])
