"""The layer of a numpy loop in arrays made once: against mpmath and other backends, in every shape, and at the ends."""

from __future__ import annotations

import ast

import mpmath
import numpy as np
import pytest
import sympy as sp

from symprop.bench_depth import block
from symprop.codegen.jacobian import jacobian
from symprop.codegen.lowering import loop_program
from symprop.codegen.recursion import Recursion
from symprop.codegen.render import load, render
from symprop.codegen.spec import FunctionSpec, evaluate, parameters
from symprop.core.symbols import L, alpha_1, gap, layer, n, q, rho, sigma_w2
from symprop.functions.activation import Gelu, Relu
from symprop.functions.arc_cosine import ArcCosine, arc_cosine

RELU, GELU = block(Relu()), block(Gelu())
A, B, C = sp.symbols("a_state b_state c_state", nonnegative=True)
MIXED = FunctionSpec(
    "mixed", parameters(q, rho, n, L, alpha_1, sigma_w2), (("a", A), ("b", B), ("c", C)), "Operations of all kinds.",
    formula="x", recursion=Recursion(
        {A: q, B: 1, C: rho**2},
        {
            A: B + sp.Max(sp.Rational(1, 10), A / (1 + A), C) - sp.Min(C, 2) * sp.exp(-A) / 4,
            B: A,
            C: sp.Piecewise((sp.sqrt(C + 1) / n, A < 1), (sp.atan(C / (1 + B)) + sp.tanh(alpha_1 * C) ** 2, True))
            + layer * sigma_w2 / (1 + layer) + 1 / (2 + C) - (A - B) ** 2 / (5 * (1 + (A - B) ** 4)),
        },
    ),
)  # fmt: skip
POINT = {"q": 0.7, "rho": 0.4, "n": 3, "L": 9, "alpha_1": 0.8, "sigma_w2": 0.3}
STREAM = {"q_0": 1.3, "rho": 0.3, "L": 11, "sigma_w2": 1.4, "alpha_1": 0.6}
CASES = {
    "mixed": (MIXED, POINT), "relu": (RELU, STREAM), "gelu": (GELU, STREAM), "relu_jacobian": (jacobian(RELU), STREAM),
}


@pytest.mark.parametrize("name", ["mixed", "relu", "gelu"])
def test_a_loop_gives_the_exact_values(name):
    spec, point = CASES[name]
    exact = evaluate(spec, point, 30)
    for (output, _), got in zip(spec.outputs, load(spec)(**point), strict=True):
        assert float(got) == pytest.approx(float(exact[output]), rel=1e-14), output


@pytest.mark.parametrize("name", CASES)
def test_every_shape_of_a_parameter_gives_what_its_points_give(name):
    """Each parameter alone an array, all along one axis, and all along axes of their own; depths included."""
    spec, point = CASES[name]
    function, names = load(spec), [parameter.name for parameter in spec.signature]
    several = {key: np.array([value, value / 3]) if isinstance(value, float) else np.array([value, value - 1])
               for key, value in point.items()}
    own_axis = {key: several[key].reshape((2,) + (1,) * k) for k, key in enumerate(names)}
    grids = [{**point, key: values} for key, values in several.items()] + [several, own_axis]
    for arguments in grids:
        together = function(**arguments)
        shape = np.broadcast_shapes(*(np.shape(value) for value in arguments.values()))
        full = {key: np.broadcast_to(value, shape) for key, value in arguments.items()}
        for index in np.ndindex(shape):
            alone = function(**{key: values[index] for key, values in full.items()})
            for many, one in zip(together, alone, strict=True):
                assert many.shape == shape
                assert many[index] == pytest.approx(one, rel=1e-14, abs=1e-300)


@pytest.mark.parametrize("name", CASES)
def test_workers_and_blocks_do_not_change_a_digit(name):
    spec, point = CASES[name]
    rng = np.random.default_rng(1)
    columns = {key: rng.uniform(0.5, 1, 40_000) * value if isinstance(value, float) else value for key, value in point.items()}
    columns["L"] = rng.integers(1, 5, 40_000)
    function = load(spec)
    alone, shared = function(**columns), function(**columns, workers=3)
    for one, other in zip(alone, shared, strict=True):
        assert np.array_equal(one, other)


def test_arguments_are_left_alone():
    columns = {key: np.full(3, value) for key, value in STREAM.items()}
    before = {key: value.copy() for key, value in columns.items()}
    first = load(RELU)(**columns, workers=1)
    assert all(np.array_equal(columns[key], before[key]) for key in columns)
    assert not any(np.shares_memory(result, value) for result in first for value in columns.values())


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("correlation", [1.0, 1 - 2**-53, 0.999, 0.5, -1.0])
def test_the_ends_of_the_range_have_their_digits(size, correlation):
    point = {**STREAM, "q_0": size, "rho": correlation}
    exact, got = evaluate(RELU, point, 30), load(RELU)(**point)
    # The start rounds 1 - rho, and every layer a few units of the last place.
    assert float(got.gap_L) == pytest.approx(float(exact["gap_L"]), rel=11 * 4 * 2.3e-16, abs=0)
    assert float(got.q_L) == pytest.approx(float(exact["q_L"]), rel=11 * 2.3e-16)


def test_derivatives_are_finite_where_a_gain_is_zero():
    got = load(jacobian(RELU))(**{**STREAM, "sigma_w2": 0.0})
    assert np.isfinite(got).all()
    step = 1e-7
    moved = load(RELU)(**{**STREAM, "sigma_w2": step})
    # The difference neglects half a second derivative times the step.
    assert got.d_gap_L_d_sigma_w2 == pytest.approx((moved.gap_L - got.gap_L) / step, rel=1e-5)


def test_the_arc_cosine_function_over_its_whole_range():
    spec = FunctionSpec("angle", parameters(gap, q), (("a", ArcCosine(1, gap, q)),), "F.", formula="x")
    function = load(spec)
    t = np.array([0, 1e-300, 1e-16, *np.linspace(0, 2, 401)[1:-1], 2 - 2**-52, 2])
    with mpmath.workdps(40):
        exact = np.array([float(arc_cosine(1, mpmath.mpf(x), mpmath.mpf(1))) for x in t])
    # The definition loses 3/(4 t^2) roundings of 1 - t, and is used where t > 1/16.
    loss = 1 + np.where(t > 1 / 16, 0.75 / np.maximum(t, 1 / 16) ** 2, 0)
    for values in (t, t[1:60], t[-3:]):
        got, at = function(gap=values, q=1.0), np.searchsorted(t, values)
        assert np.all(np.abs(got - exact[at]) <= 4 * 2.3e-16 * loss[at] * exact[at])
    with np.errstate(all="raise"):
        assert np.array_equal(function(gap=np.zeros(3), q=np.array([0.0, 1e-310, 1.0]), check=False), np.zeros(3))
    assert function(gap=2 + 4e-16, q=1.0, check=False) == pytest.approx(np.pi, rel=1e-15)
    assert np.isnan(function(gap=np.array([np.nan, 1.0]), q=1.0, check=False)).tolist() == [True, False]


def test_a_layer_makes_no_array():
    """Every operation of the loop over a block writes into what was made before it."""
    module = ast.parse(render([RELU], "numpy", "Block."))
    loop = next(node for node in ast.walk(module) if isinstance(node, ast.While) and ast.unparse(node.test) == "_layer < _most")
    lines = [node for node in loop.body if isinstance(node, ast.Expr)]
    calls = [node.value for node in lines]
    own = loop_program(RELU, RELU.recursion)
    assert len(calls) >= len(own.updates)
    assert all(any(keyword.arg == "out" for keyword in call.keywords) or call.func.id == "_arc_cosine_1" for call in calls)
    assert not any(isinstance(node, ast.BinOp) for line in lines for node in ast.walk(line))
