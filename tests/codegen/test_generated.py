"""Generated functions against 50 digits, each other, finite differences, and their own text."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

from symprop.codegen.lowering import program
from symprop.codegen.render import load, render
from symprop.codegen.spec import FunctionSpec, evaluate, parameters
from symprop.core.errors import InputError, RefusedError, UnknownNameError
from symprop.core.provenance import Assumption, Derived, Source
from symprop.core.symbols import L, a_1, alpha_1, alpha_2, d, gap, n, q, rho, sigma2, sigma_v2
from symprop.functions.depth_nodes import ExpMinusOne, GeometricSum, GrowthMinusOne, Saturated
from symprop.functions.logistic import Silu
from symprop.functions.softmax_overlap import Participation
from symprop.functions.token_means import ROW, RowMean

COMMON = q * (1 + (n - 1) * rho) / n
MOMENTS = FunctionSpec(
    "moments",
    parameters(q, rho, n, d, L, alpha_1, alpha_2, sigma_v2),
    (
        ("second", (1 + alpha_2**2) ** L * (q + GrowthMinusOne(alpha_1**2 * sigma_v2 * d, L) * COMMON)),
        ("common", (1 + alpha_2**2) ** L * (1 + alpha_1**2 * sigma_v2 * d) ** L * COMMON),
        ("gap", (1 + alpha_2**2) ** L * q * (1 - rho)),
    ),
    "Moments after L blocks.",
    assumptions=(Assumption("uniform", "attention is uniform"),),
    sources=(Source("noci2022", "Eq. 12"),),
    defaults={sigma_v2: 1 / d},
)
GEOMETRIC = FunctionSpec("drift", parameters(alpha_1, alpha_2, L),
                         (("sum", GeometricSum(1 + alpha_1**2, 1 + alpha_2**2, L)),), "Drift.")
GENERAL = FunctionSpec("general", parameters(q, a_1, L), (("sum", GeometricSum(q, a_1, L)),), "Drift.")
LIMIT = FunctionSpec("limit", parameters(a_1, q), (("value", ExpMinusOne(a_1) * sp.sqrt(q) / 3 + sp.sqrt(2) * q**5),),
                     "Depth limit.")
GROWTH = FunctionSpec("growth", parameters(alpha_1, alpha_2, L),
                      (("ratio", (1 + alpha_1**2) ** (L - 1) * sp.exp(-alpha_2) / (1 + alpha_2**2) ** L),), "Growth.")

TABULATED = FunctionSpec("tabulated", parameters(sigma2, gap), (("change", Silu().gap(sp.S.Zero, sigma2, gap)),), "Table.")
AVERAGED = FunctionSpec("averaged", parameters(q, n), (("mean", RowMean(sp.Lambda(ROW, Participation(q, ROW)), n)),), "Mean.")


def relative_error(spec: FunctionSpec, point: dict[str, float], backend: str = "numpy") -> float:
    exact = evaluate(spec, point, digits=50)
    results = load_once(spec, backend)(**point)
    worst = 0.0
    for got, (name, _) in zip(results if len(spec.outputs) > 1 else (results,), spec.outputs, strict=True):
        want = exact[name]
        if want == 0:
            assert float(got) == 0
        elif abs(want) < sp.Float("1e300"):
            worst = max(worst, abs(float((sp.Float(float(got), 50) - want) / want)))
    return worst


_LOADED: dict[tuple[str, str], object] = {}


def load_once(spec: FunctionSpec, backend: str):
    return _LOADED.setdefault((spec.name, backend), load(spec, backend))


DEPTHS = (1, 2, 37, 1000, 10**6)
WEIGHTS = (0.0, 1e-12, 1e-6, 1e-3, 0.3, 1.0)


def test_moments_keep_twelve_digits_over_the_domain():
    rng = np.random.default_rng(1)
    for depth, one, two in itertools.product(DEPTHS, WEIGHTS, (0.0, 1e-6, 0.7)):
        point = {"q": 1.7, "rho": float(rng.choice([0.0, 0.4, 1 - 1e-15, 1.0])), "n": int(rng.integers(1, 90)), "d": 64,
                 "L": depth, "alpha_1": one, "alpha_2": two, "sigma_v2": float(rng.uniform(0, 0.1))}
        if depth * (one**2 * 6.4 + two**2) < 600:
            assert relative_error(MOMENTS, point) < 1e-12, point


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_geometric_sum_through_equal_rates(backend):
    if backend == "torch":
        pytest.importorskip("torch")
    for depth in DEPTHS:
        for one in (0.0, 1e-12, 1e-4, 0.02):
            for other in (one, -one, one * (1 + 1e-15), one * (1 + 1e-8), one + 1e-9, 2 * one, 0.0):
                point = {"alpha_1": one, "alpha_2": other, "L": depth}
                if depth * max(one**2, other**2) < 600:
                    assert relative_error(GEOMETRIC, point, backend) < 1e-12, point
    for r, s, depth in ((0.0, 0.0, 1), (0.0, 0.0, 3), (0.5, 0.0, 1), (0.0, 0.5, 4), (0.5, 0.5, 4), (2.0, 1e-3, 9)):
        assert relative_error(GENERAL, {"q": r, "a_1": s, "L": depth}, backend) < 1e-12 or r == s == 0.0


def test_constants_limits_and_merged_powers():
    for a, moment in itertools.product((0.0, 1e-12, 2.0), (0.0, 0.3, 4.0)):
        assert relative_error(LIMIT, {"a_1": a, "q": moment}) < 1e-14
    for depth, one, two in itertools.product((1, 50, 10**6), (0.0, 1e-3), (0.0, 1e-3, -1e-12)):
        assert relative_error(GROWTH, {"alpha_1": one, "alpha_2": two, "L": depth}) < 1e-12
    text = render([GROWTH], "numpy", "Growth.")
    assert text.count("np.exp(") == 1 and "**" not in text.split("# ")[-1]


def test_scalars_broadcasting_and_blocks():
    function = load(MOMENTS)
    single = function(q=1, rho=0.5, n=4, d=8, L=3, alpha_1=1, alpha_2=1)
    assert type(single).__name__ == "MomentsResult" and all(type(value) is np.float64 for value in single)
    assert single.second == pytest.approx(8 * (1 + 7 * 0.625), rel=1e-15)
    rng = np.random.default_rng(0)
    shapes = [((), (30_000,)), ((300, 1), (70,)), ((3, 1), (20_000,)), ((20_000, 1), (3,)), ((40, 1, 30), (1, 50, 1)),
              ((2, 5, 1), (9_000,)), ((0,), ()), ((1, 1), ())]
    for one, other in shapes:
        weight, depth = rng.uniform(0, 0.2, one), rng.integers(1, 20, other)
        for got, want in zip(function(1.0, 0.5, 4, 8, depth, weight, weight), (
            (1 + weight**2) ** depth * (1 + ((1 + weight**2) ** depth - 1) * 0.625),
            (1 + weight**2) ** (2 * depth) * 0.625,
            (1 + weight**2) ** depth * 0.5,
        ), strict=True):
            assert np.shape(got) == np.broadcast_shapes(one, other) and got.dtype == np.float64
            np.testing.assert_allclose(got, want, rtol=1e-13)
    with pytest.raises(ValueError, match="shape"):
        function(np.ones(3), np.zeros(4), 4, 8, 1, 1, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rho": 1.5}, r"rho = 1.5 is not allowed: expected a number in \[-1/\(n - 1\), 1\]"),
        ({"rho": -0.5}, r"rho = -0.5 is not allowed: expected a number in \[-1/\(n - 1\), 1\]"),
        ({"L": 2.5}, "L = 2.5 is not allowed: expected an integer >= 1"),
        ({"L": np.array([1] * 9000 + [0])}, "L = 0.0 is not allowed"),
        ({"sigma_v2": -1e-9}, "sigma_v2 = -1e-09 is not allowed: expected a number >= 0"),
        ({"q": np.nan}, "q = nan is not allowed"),
    ],
)
def test_values_outside_the_domain_are_named(change, message):
    inside = {"q": 1.0, "rho": 0.0, "n": 4, "d": 8, "L": 3, "alpha_1": 1.0, "alpha_2": 1.0}
    function = load_once(MOMENTS, "numpy")
    with pytest.raises(ValueError, match=message):
        function(**(inside | change))
    function(**(inside | {"rho": -1 / 3, "n": 4}))
    function(**(inside | {"rho": -1.0, "n": np.array([1, 2])}))
    function(**(inside | {"L": 2.5}), check=False)


def test_evaluate_says_what_is_wrong():
    point = {"q": 1, "rho": Fraction(1, 2), "n": 4, "d": 8, "L": 3, "alpha_1": 1, "alpha_2": 1}
    assert float(evaluate(MOMENTS, point)["second"]) == 43.0
    with pytest.raises(UnknownNameError, match="did you mean 'alpha_1'"):
        evaluate(MOMENTS, point | {"alpha1": 1})
    with pytest.raises(InputError, match="rho = missing"):
        evaluate(MOMENTS, {key: value for key, value in point.items() if key != "rho"})
    with pytest.raises(InputError, match=r"in \[-1/\(n - 1\), 1\]"):
        evaluate(MOMENTS, point | {"rho": -1})
    with pytest.raises(InputError, match="L = 5/2"):
        evaluate(MOMENTS, point | {"L": sp.Rational(5, 2)})
    with pytest.raises(InputError, match="q = x"):
        evaluate(MOMENTS, point | {"q": "x"})


def test_specs_and_backends_refuse_by_name():
    with pytest.raises(RefusedError, match="alpha_2 is not among its parameters"):
        FunctionSpec("f", parameters(alpha_1), (("y", alpha_1 + alpha_2),), "F.")
    with pytest.raises(RefusedError, match="'lambda' cannot name"):
        FunctionSpec("lambda", parameters(alpha_1), (("y", alpha_1),), "F.")
    with pytest.raises(UnknownNameError, match="unknown symbol"):
        parameters(sp.Symbol("unheard_of"))
    error_function = FunctionSpec("f", parameters(alpha_1), (("y", sp.erfc(alpha_1)),), "F.")
    with pytest.raises(RefusedError, match="erfc: the numpy backend has no such function; remedy: use the torch"):
        render([error_function], "numpy", "F.")
    with pytest.raises(RefusedError, match="besselj"):
        render([FunctionSpec("f", parameters(alpha_1), (("y", sp.besselj(0, alpha_1)),), "F.")], "torch", "F.")
    with pytest.raises(UnknownNameError, match="did you mean 'numpy'"):
        render([MOMENTS], "numpi", "F.")


def test_branches_and_extremes():
    value = sp.Piecewise((q, sp.Eq(n, 1)), (q / (n - 1), True)) + sp.Max(0, q - 1, rho)
    spec = FunctionSpec("branches", parameters(q, rho, n), (("y", value),), "Branches.")
    np.testing.assert_allclose(load(spec)([2.0, 0.5], 0.25, [1, 3]), [3.0, 0.5])
    torch = pytest.importorskip("torch")
    got = load(spec, "torch")(torch.tensor([2.0, 0.5]), 0.25, torch.tensor([1, 3]))
    assert got.dtype == torch.float32 and got.tolist() == [3.0, 0.5]


def test_constant_defaults_and_saturation():
    growth = Saturated(GrowthMinusOne(alpha_1**2 * d * sigma_v2, L))
    spec = FunctionSpec("ratio", parameters(L, alpha_1, d, sigma_v2), (("y", growth / (1 + growth)),), "Ratio.",
                        defaults={d: sp.Integer(1), sigma_v2: 1 / d})
    assert load(spec)([1, 10**6], 1.0).tolist() == [0.5, 1.0] and load(spec)(1, 1.0, [2, 4]).tolist() == [0.5, 0.5]
    assert relative_error(spec, {"L": 10**6, "alpha_1": 1e-9}) < 1e-12
    torch = pytest.importorskip("torch")
    for dtype in (torch.float32, torch.float64):
        weight = torch.tensor(1.0, dtype=dtype, requires_grad=True)
        value = load(spec, "torch")(10**6, weight)
        value.backward()
        assert value.item() == 1.0 and weight.grad.item() == 0.0 and value.dtype == dtype


def test_the_largest_number_is_that_of_the_dtype():
    torch = pytest.importorskip("torch")
    spec = FunctionSpec("bounded", parameters(q, rho), (("y", Saturated(q * rho)),), "Bounded.")
    for dtype in (torch.float32, torch.float64):
        largest = torch.finfo(dtype).max
        found = load(spec, "torch")(torch.tensor([largest, 2.0], dtype=dtype), torch.tensor(4.0, dtype=dtype))
        assert found.dtype == dtype and found.tolist() == [largest, 8.0]


def test_torch_agrees_with_numpy_and_keeps_dtypes():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    count = 500
    columns = [rng.uniform(0.1, 2, count), rng.uniform(0, 1, count), rng.integers(2, 50, count), np.full(count, 64),
               rng.integers(1, 200, count), rng.uniform(0, 0.3, count), rng.uniform(0, 0.3, count)]
    ours, theirs = load_once(MOMENTS, "numpy")(*columns), load_once(MOMENTS, "torch")(*map(torch.as_tensor, columns))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(other.numpy(), one, rtol=2e-14)
    single = load_once(MOMENTS, "torch")(torch.tensor(1.0), torch.zeros(3, 1), 4, 8, torch.ones(2), 0.1, 0.2)
    assert single.gap.shape == (3, 2) and single.gap.dtype == torch.float32
    assert load_once(MOMENTS, "torch")(1, 0, 4, 8, 1, 0.1, 0.2).gap.dtype == torch.float64


@pytest.mark.parametrize(
    "spec, point",
    [
        (MOMENTS, {"q": 1.3, "rho": 0.2, "n": 5, "d": 8.0, "L": 1.0, "alpha_1": 0.0, "alpha_2": 0.0, "sigma_v2": 0.0}),
        (MOMENTS, {"q": 1.3, "rho": 1.0, "n": 5, "d": 8.0, "L": 7.0, "alpha_1": 0.3, "alpha_2": 0.4, "sigma_v2": 0.2}),
        (GEOMETRIC, {"alpha_1": 0.3, "alpha_2": 0.3, "L": 9.0}),
        (GEOMETRIC, {"alpha_1": 0.0, "alpha_2": 0.0, "L": 1.0}),
        (GEOMETRIC, {"alpha_1": 0.3, "alpha_2": 0.3 + 1e-9, "L": 9.0}),
        (GEOMETRIC, {"alpha_1": 0.9, "alpha_2": 0.1, "L": 5.0}),
    ],
)
def test_torch_gradients_match_the_derivatives(spec, point):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in point.items()}
    results = load_once(spec, "torch")(**tensors)
    exact = {sp.Symbol(name): sp.Rational(value) for name, value in point.items()}
    plain = {p.symbol: sp.Symbol(p.name) for p in spec.parameters}
    for result, (_, output) in zip(results if len(spec.outputs) > 1 else (results,), spec.outputs, strict=True):
        gradient = torch.autograd.grad(result, tuple(tensors.values()), retain_graph=True, allow_unused=True)
        for name, got in zip(tensors, gradient, strict=True):
            step = sp.Rational(1, 10**20)
            formula = output.xreplace(plain).rewrite(sp.Pow)
            above, below = (
                sp.N(formula.subs({**exact, sp.Symbol(name): exact[sp.Symbol(name)] + side * step}
                                  | ({sp.Symbol("alpha_2"): exact[sp.Symbol("alpha_2")] + step * step * 3}
                                     if spec is GEOMETRIC and name != "alpha_2" else {})), 120)
                for side in (1, -1)
            )
            want = float((above - below) / (2 * step))
            assert (0.0 if got is None else float(got)) == pytest.approx(want, rel=1e-10, abs=1e-12), name


def test_text_is_the_same_under_any_hash_seed():
    code = ("import sys; sys.path.insert(0, sys.argv[1]); import test_generated as t\n"
            "specs = [t.MOMENTS, t.GEOMETRIC, t.GENERAL, t.LIMIT, t.GROWTH, t.TABULATED, t.AVERAGED]\n"
            "for backend in ('numpy', 'torch'):\n"
            "    print(t.render(specs, backend, 'All.'))")
    folder = str(Path(__file__).parent)
    texts = {
        subprocess.run([sys.executable, "-c", code, folder], env=os.environ | {"PYTHONHASHSEED": seed}, check=True,
                       capture_output=True).stdout
        for seed in ("1", "4711")
    }
    assert len(texts) == 1 and b"np.expm1" in texts.pop()


def test_docstring_and_provenance():
    derived = Derived(MOMENTS.outputs[0][1], (Assumption("uniform", "attention is uniform"),), "O(1/L)",
                      (Source("noci2022", "Eq. 12"),))
    spec = FunctionSpec.from_derived("second", "Second moment.", [p.symbol for p in MOMENTS.parameters],
                                     {"second": derived}, defaults={sigma_v2: 1 / d})
    text = load(spec).__doc__
    for part in ("Second moment.", r"\frac{", "rho: token correlation p/q, a number in [-1/(n - 1), 1].",
                 "default 1/d", "uniform: attention is uniform", "Neglected: O(1/L).", "Source: noci2022, Eq. 12."):
        assert part in text
    assert program(spec).operations > 10


@pytest.mark.parametrize("backend", ["numpy", "torch", "compiled"])
def test_an_output_may_have_the_name_of_any_helper(backend):
    if backend == "torch":
        pytest.importorskip("torch")
    names = ("shape", "shapes", "blocks", "in_parts", "work", "part", "parts", "values", "arguments", "domains", "state",
             "like")
    outputs = tuple((name, (k + 1) * q + a_1) for k, name in enumerate(names))
    spec = FunctionSpec("named", parameters(q, a_1), outputs, "Named.")
    found = load(spec, backend)(2.0, 0.5)
    assert [float(getattr(found, name)) for name in names] == [2.0 * (k + 1) + 0.5 for k in range(len(names))]
