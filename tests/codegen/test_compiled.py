"""Compiled functions: against exact values and the numpy ones, their own elementary functions, and life without a compiler."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import warnings

import mpmath
import numpy as np
import pytest
import sympy as sp

from symprop.codegen import special_c
from symprop.codegen.jacobian import jacobian
from symprop.codegen.render import load, render
from symprop.codegen.spec import FunctionSpec, evaluate, parameters
from symprop.codegen.template_compiled import PRELUDE
from symprop.core.errors import RefusedError
from symprop.core.symbols import L, alpha_1, d, gap, n, q
from symprop.functions.finite_width import CorrelationDeficit, CorrelationSlopeDeficit
from symprop.functions.logistic import Silu, Tanh
from symprop.functions.normal_moment import NormalMoment
from symprop.functions.rising_ratio import ReciprocalSum, RisingRatio
from symprop.functions.softmax_overlap import Participation
from tests.codegen.test_generated import GEOMETRIC, GROWTH, LIMIT, MOMENTS
from tests.codegen.test_recursion import POINT, SPEC

RNG = np.random.default_rng(3)


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYMPROP_CACHE", str(tmp_path_factory.mktemp("kernels")))
        yield


def compiled(spec: FunctionSpec):
    """The compiled function; that it runs as numpy is an error."""
    function = load(spec, "compiled")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert function.__globals__["_kernel"](spec.name) is not None
    return function


ELEMENTARY = {
    "f_exp": [RNG.uniform(-745, 709.7, 300), RNG.uniform(-1, 1, 200), 10 ** RNG.uniform(-300, 0, 50)],
    "f_expm1": [RNG.uniform(-50, 709, 200), RNG.uniform(-1, 1, 300), 10 ** RNG.uniform(-300, 0, 50)],
    "f_log": [10 ** RNG.uniform(-320, 308, 300), RNG.uniform(0.5, 2, 300), 1 + 1e-8 * RNG.uniform(-1, 1, 50)],
    "f_log1p": [10 ** RNG.uniform(-300, 308, 200), RNG.uniform(-1, 1, 300), -(10 ** RNG.uniform(-20, 0, 50))],
    "f_asin": [RNG.uniform(-1, 1, 300), 10 ** RNG.uniform(-300, 0, 50), 1 - 10 ** RNG.uniform(-16, 0, 50)],
    "f_atan": [RNG.uniform(-4, 4, 300), 10 ** RNG.uniform(-300, 300, 100), -(10 ** RNG.uniform(-3, 3, 50))],
    "f_acos": [RNG.uniform(-1, 1, 300), 1 - 10 ** RNG.uniform(-15, 0, 100)],
}
EDGES = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324, -5e-324, 1e308, -1.0, 1.0])


def test_elementary_functions_are_right_to_two_units_in_the_last_place(tmp_path):
    calls = {name: f"{name}(x[i])" for name in ELEMENTARY} | {"f_atan": "f_atan(x[i], 1.0)"}
    loops = (f"void each_of_{name}(long n, const double *x, double *y) {{ for (long i = 0; i < n; i++) y[i] = {call}; }}"
             for name, call in calls.items())
    texts = special_c.functions()
    source = "\n".join((PRELUDE, *(texts[name] for name in special_c.needed(" ".join(ELEMENTARY))), *loops))
    (tmp_path / "f.c").write_text(source)
    flags = load(MOMENTS, "compiled").__globals__["_FLAGS"]
    subprocess.run(["cc", *flags, "-o", tmp_path / "f.so", tmp_path / "f.c", "-lm"], check=True)
    library = ctypes.CDLL(str(tmp_path / "f.so"))
    numpy_names = {"f_asin": "arcsin", "f_acos": "arccos", "f_atan": "arctan"}

    def values(name, x):
        y = np.empty_like(x)
        pointers = (ctypes.c_void_p(array.ctypes.data) for array in (x, y))
        getattr(library, f"each_of_{name}")(ctypes.c_long(len(x)), *pointers)
        return y

    for name, parts in ELEMENTARY.items():
        points = np.concatenate(parts)
        with mpmath.workprec(120):
            for x, y in zip(points, values(name, points), strict=True):
                exact = getattr(mpmath, name[2:])(mpmath.mpf(x))
                assert abs(mpmath.mpf(y) - exact) <= 2 * np.spacing(abs(float(exact))), (name, x)
        with np.errstate(all="ignore"):
            want = getattr(np, numpy_names.get(name, name[2:]))(EDGES)
        np.testing.assert_allclose(values(name, EDGES), want, rtol=1e-15)


@pytest.mark.parametrize("spec", [MOMENTS, GEOMETRIC, LIMIT, GROWTH], ids=lambda spec: spec.name)
def test_closed_forms_keep_their_digits(spec):
    function = compiled(spec)
    rng = np.random.default_rng(1)
    for _ in range(40):
        point = {"q": 1.7, "rho": float(rng.choice([0.0, 0.4, 1 - 1e-15, 1.0])), "n": int(rng.integers(1, 90)), "d": 64,
                 "a_1": float(rng.choice([0.0, 1e-12, 2.0])), "L": int(rng.choice([1, 2, 37, 1000])),
                 "alpha_1": float(rng.choice([0.0, 1e-12, 1e-3, 0.3])), "alpha_2": float(rng.choice([0.0, 1e-12, 1e-3, 0.3])),
                 "sigma_v2": float(rng.uniform(0, 0.1))}
        own = {item.name: point[item.name] for item in spec.parameters}
        got = function(**own)
        for value, exact in zip(got if isinstance(got, tuple) else (got,), evaluate(spec, own, 30).values(), strict=True):
            assert float(value) == pytest.approx(float(exact), rel=1e-12, abs=0), own


WHOLE = np.floor(10 ** RNG.uniform(0, 9, 12))
SPECIAL = {
    "rising": (RisingRatio(q + gap, q, L), {"q": 10 ** RNG.uniform(-3, 6, 12), "gap": RNG.uniform(0, 5, 12), "L": WHOLE}),
    "reciprocals": (ReciprocalSum(q, L), {"q": 10 ** RNG.uniform(-6, 8, 12), "L": WHOLE}),
    "deficit": (CorrelationDeficit(gap, d), {"gap": 10 ** RNG.uniform(-12, 0, 12), "d": RNG.integers(7, 1000, 12)}),
    "slope_deficit": (CorrelationSlopeDeficit(gap, d), {"gap": 10 ** RNG.uniform(-12, 0, 12), "d": RNG.integers(7, 1000, 12)}),
    "normal": (NormalMoment(3, alpha_1, q), {"alpha_1": RNG.uniform(-9, 9, 12), "q": 10 ** RNG.uniform(-2, 4, 12)}),
    "sine": (sp.sin(q) * sp.Heaviside(q - gap), {"q": RNG.uniform(0.1, 9, 12), "gap": RNG.uniform(0, 9, 12)}),
    "angle": (sp.atan(alpha_1 / (q + gap)) + sp.atan(q) + sp.atan(gap / alpha_1), {
        "alpha_1": RNG.uniform(-9, 9, 12), "q": 10 ** RNG.uniform(-3, 3, 12), "gap": 10 ** RNG.uniform(-3, 3, 12)}),
    "larger": (sp.Max(q, gap) + sp.Piecewise((q, q < gap), (2 * gap, True)), {"q": RNG.uniform(0, 9, 12),
                                                                          "gap": RNG.uniform(0, 9, 12)}),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_functions_are_those_of_many_digits(name):
    expression, columns = SPECIAL[name]
    spec = FunctionSpec(name, parameters(*(symbol for symbol in (q, gap, L, d, alpha_1) if str(symbol) in columns)),
                        (("y", expression),), "F.", formula="x")
    got = compiled(spec)(**columns, check=False)
    for k, value in enumerate(got):
        exact = evaluate(spec, {key: float(column[k]) for key, column in columns.items()}, 20)["y"]
        assert value == pytest.approx(float(exact), rel=5e-13), k


@pytest.mark.parametrize("activation", [Silu(), Tanh()], ids=lambda item: item.name)
def test_smooth_sums_are_right_to_ten_digits_on_their_cells_and_beyond(activation):
    spec = FunctionSpec("moments", parameters(q, gap), (("second", activation.second(sp.S.Zero, q)),
                                                        ("gap", activation.gap(sp.S.Zero, q, gap))), "F.", formula="x")
    function, rng = compiled(spec), np.random.default_rng(2)
    variance = np.concatenate([10 ** rng.uniform(-6, 6, 60), [1e9, 1.0, 1.0]])
    gaps = variance * np.concatenate([10 ** rng.uniform(-12, 0, 30), rng.uniform(0, 2, 30), [0.5, 2.0, 1.0]])
    found = function(variance, gaps, check=False)
    for k, (v, g) in enumerate(zip(variance, gaps, strict=True)):
        exact = evaluate(spec, {"q": float(v), "gap": float(g)}, 20)
        assert found.second[k] == pytest.approx(float(exact["second"]), rel=1e-10), v
        assert found.gap[k] == pytest.approx(float(exact["gap"]), rel=1e-10), (v, g)


@pytest.mark.parametrize("activation", [Silu(), Tanh()], ids=lambda item: item.name)
def test_derivatives_of_smooth_sums_are_right_to_nine_digits(activation):
    values = FunctionSpec("moments", parameters(q, gap), (("second", activation.second(sp.S.Zero, q)),
                                                          ("gap", activation.gap(sp.S.Zero, q, gap))), "F.", formula="x")
    spec, rng = jacobian(values), np.random.default_rng(4)
    variance = 10 ** rng.uniform(-6, 6, 9)
    shares = np.concatenate([10 ** rng.uniform(-12, 0, 3), rng.uniform(0, 2, 3), 2 - 10 ** rng.uniform(-12, 0, 3)])
    found = [load(spec, backend)(variance, shares * variance, check=False) for backend in ("numpy", "compiled")]
    for k, (v, g) in enumerate(zip(variance, shares * variance, strict=True)):
        exact = evaluate(spec, {"q": float(v), "gap": float(g)}, 20)
        for name in ("d_second_d_q", "d_gap_d_q", "d_gap_d_gap"):
            for own in found:
                assert getattr(own, name)[k] == pytest.approx(float(exact[name]), rel=1e-9, abs=0), (name, v, g)


def test_a_recursion_is_that_of_numpy_for_every_depth_and_shape():
    function, twin = compiled(SPEC), load(SPEC)
    rng = np.random.default_rng(0)
    change = {"rho": np.append(rng.uniform(0, 1, 699), 1.0)[:, None], "L": np.array([1, 2, 60]),
              "alpha_1": rng.uniform(0, 1, (2, 1, 1))}
    for got, want in zip(function(**(POINT | change)), twin(**(POINT | change)), strict=True):
        assert got.shape == (2, 700, 3)
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-13)
    settled = function(**(POINT | {"L": 10**9}), settle=1e-9)
    assert settled.gap_L <= 1e-9 * settled.q_L


def test_workers_do_not_change_a_bit():
    columns = POINT | {"rho": np.linspace(0, 1, 40_001)}
    for function in (compiled(SPEC), load(SPEC)):
        one, three = function(**columns), function(**columns, workers=3)
        assert all(np.array_equal(a, b) for a, b in zip(one, three, strict=True))
        with pytest.raises(ValueError, match="workers = 0 is not allowed: expected an integer >= 1"):
            function(**columns, workers=0)


def test_arguments_of_every_kind():
    function, twin = compiled(MOMENTS), load(MOMENTS)
    columns = {"q": np.float32(1.5), "rho": np.linspace(0, 1, 12).reshape(3, 4).T[::2], "n": 4, "d": [[8], [9]],
               "L": np.array([True, True, True]), "alpha_1": 1, "alpha_2": np.float64(0.5)}
    for got, want in zip(function(**columns), twin(**columns), strict=True):
        assert got.shape == want.shape and got.dtype == np.float64
        np.testing.assert_allclose(got, want, rtol=1e-14)
    alone = function(q=1, rho=0.5, n=4, d=8, L=3, alpha_1=1, alpha_2=1)
    assert all(type(value) is np.float64 for value in alone)
    assert function(**(columns | {"q": np.zeros((0, 1, 1))})).second.shape == (0, 2, 3)
    with pytest.raises(ValueError, match=r"rho = -0.5 is not allowed: expected a number in \[-1/\(n - 1\), 1\]"):
        function(q=1, rho=-0.5, n=4, d=8, L=3, alpha_1=1, alpha_2=1)
    with pytest.raises(ValueError, match=r"L = 2\.5 is not allowed"):
        function(q=1, rho=0.5, n=4, d=8, L=2.5, alpha_1=1, alpha_2=1)


def test_without_a_compiler_it_is_the_numpy_function(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    function = load(GROWTH.__class__("lonely", GROWTH.parameters, GROWTH.outputs, "Growth."), "compiled")
    with pytest.warns(RuntimeWarning, match="lonely runs as numpy: no C compiler no-such-compiler"):
        first = function(0.1, 0.2, 5)
    assert first == load(GROWTH)(0.1, 0.2, 5) == function(0.1, 0.2, 5)


def test_a_damaged_library_is_built_again(tmp_path, monkeypatch):
    monkeypatch.setenv("SYMPROP_CACHE", str(tmp_path))
    first = load(GROWTH, "compiled")(0.1, 0.2, 5)
    library, = tmp_path.iterdir()
    # A new file: the old one is in use.
    library.unlink()
    library.write_bytes(b"not a library")
    assert load(GROWTH, "compiled")(0.1, 0.2, 5) == first and [item.name for item in tmp_path.iterdir()] == [library.name]


def test_what_has_no_kernel_is_refused_or_taken_from_numpy():
    spec = FunctionSpec("f", parameters(q), (("y", sp.besselj(0, q)),), "F.")
    with pytest.raises(RefusedError, match="besselj"):
        render([spec], "compiled", "F.")
    row = FunctionSpec("row", parameters(q, n), (("chi", Participation(q, n)),), "F.")
    with pytest.raises(RefusedError, match="moments of softmax weights: the compiled backend has none"):
        render([row], "compiled", "F.")
    text = render([row, GROWTH], "compiled", "F.", "f_numpy")
    assert "row = _numpy.row" in text and "def growth(" in text


def test_modules_stand_alone(tmp_path):
    for backend in ("numpy", "compiled"):
        (tmp_path / f"growth_{backend}.py").write_text(render([GROWTH, jacobian(GROWTH)], backend, "Growth.", "growth_numpy"))
    code = ("import sys, growth_compiled as c, growth_numpy as p\n"
            "a, b = c.growth_jacobian(.5, .25, 6), p.growth_jacobian(.5, .25, 6)\n"
            "assert all(abs(x - y) <= 1e-14*abs(y) for x, y in zip(a, b)) and not {'sympy', 'symprop'} & set(sys.modules)\n"
            "print(*a._fields)")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["ratio", "d_ratio_d_alpha_1", "d_ratio_d_alpha_2"]
