"""Generated loops over depth against mpmath, the iterator of layer maps, finite differences and each other."""

from __future__ import annotations

import time

import numpy as np
import pytest
import sympy as sp

from symprop.codegen.lowering import loop_program
from symprop.codegen.recursion import Recursion
from symprop.codegen.render import load, render
from symprop.codegen.spec import FunctionSpec, evaluate, parameters
from symprop.components import Elementwise, LayerNorm, Linear, UniformAttention
from symprop.core.errors import InputError, RefusedError
from symprop.core.symbols import L, alpha_1, d, gap, layer, n, q_0, rho, sigma_v2, sigma_w2
from symprop.depth.iterate import LayerMap, iterate, iterate_exact, layer_map
from symprop.functions.activation import Erf, Gelu, Relu
from symprop.functions.logistic import Tanh
from symprop.network import residual, sequential, token_input, trace_of

X = token_input()
ATTENTION = residual(sequential(LayerNorm(), UniformAttention(d, sigma_v2 / d)), 1, alpha_1)
FEED_FORWARD = residual(
    sequential(LayerNorm(), Linear(d, sigma_w2 / d), Elementwise(Relu()), Linear(d, 1 / d)), 1, alpha_1
)
LAYER = layer_map(trace_of(sequential(ATTENTION, FEED_FORWARD), X))
TRANSFER = sp.symbols("t_qq t_qg t_gq t_gg", real=True)
START = {X.q: q_0, X.gap: q_0 * (1 - rho)}
ARGUMENTS = (q_0, rho, n, L, sigma_v2, sigma_w2, alpha_1)
SPEC = FunctionSpec(
    "stream", parameters(*ARGUMENTS),
    (("q_L", X.q), ("gap_L", X.gap), ("overlap", 1 - X.gap / X.q), *((str(entry), entry) for entry in TRANSFER)),
    "Moments and gradient growth of a Pre-LN stream.", formula="x",
    recursion=Recursion.of(LAYER, START, transfer=TRANSFER, settled=X.gap / X.q),
)  # fmt: skip
POINT = {"q_0": 1.5, "rho": 0.3, "n": 12, "L": 20, "sigma_v2": 0.4, "sigma_w2": 1.3, "alpha_1": 0.9}


@pytest.fixture(scope="module")
def stream():
    return load(SPEC)


def test_one_point_three_ways(stream):
    exact, got = evaluate(SPEC, POINT, 30), stream(**POINT)
    values = {symbol: sp.Rational(POINT[str(symbol)]) for symbol in (n, sigma_v2, sigma_w2, alpha_1)}
    start = {symbol: expression.subs({q_0: POINT["q_0"], rho: sp.Rational(0.3)}) for symbol, expression in START.items()}
    found = iterate_exact(LAYER, start, 20, values, [1, 0])
    assert abs(found.forward[X.gap][-1] / exact["gap_L"] - 1) < 1e-28
    assert abs(found.gradient[0][0] / exact["t_qq"] - 1) < 1e-28
    assert float(found.gradient[0][1]) == pytest.approx(float(exact["t_gq"]), rel=1e-15)
    for (name, _), value in zip(SPEC.outputs, got, strict=True):
        assert float(value) == pytest.approx(float(exact[name]), rel=1e-13, abs=1e-13), name


@pytest.mark.parametrize("start", [1e-300, 1e-150, 1e-16, 1.0])
def test_the_gap_keeps_its_digits_to_the_smallest_numbers(start):
    spec = FunctionSpec("gaps", parameters(gap, n, L, sigma_v2, sigma_w2, alpha_1), (("gap_L", X.gap),), "Gaps.", formula="x",
                        recursion=Recursion.of(LAYER, {X.q: 1, X.gap: gap}))
    point = {key: value for key, value in POINT.items() if key not in ("q_0", "rho")} | {"gap": start}
    assert load(spec)(**point) == pytest.approx(float(evaluate(spec, point)["gap_L"]), rel=1e-13, abs=0)


@pytest.mark.parametrize(("activation", "gain", "units"), [
    (Relu(), 1.3, 1), (Gelu(), 1.3, 1), (Erf(), 30.0, 1), pytest.param(Tanh(), 1.3, 60, marks=pytest.mark.slow),
], ids=["relu", "gelu", "chaos", "tanh"])
def test_no_backend_loses_a_digit_through_collapse(activation, gain, units, monkeypatch, tmp_path):
    """Fifty layers from gaps down to 1e-300, towards equal tokens or away from them: a unit of the last place a layer.

    Polynomials on cells cost some more, and no more at the smallest gap than elsewhere.
    """
    monkeypatch.setenv("SYMPROP_CACHE", str(tmp_path))
    branch = sequential(LayerNorm(), Linear(d, sigma_w2 / d), Elementwise(activation), Linear(d, 1 / d))
    body = layer_map(trace_of(sequential(ATTENTION, residual(branch, 1, alpha_1)), X), backward=False)
    spec = FunctionSpec("through", parameters(q_0, gap, n, L, sigma_v2, sigma_w2, alpha_1), (("q_L", X.q), ("gap_L", X.gap)),
                        "Through collapse.", formula="x",
                        recursion=Recursion.of(body, {X.q: q_0, X.gap: gap}, settled=X.gap / X.q))
    gaps = np.array([1e-300, 1e-16, 1.0])
    point = {"q_0": 1.0, "n": 12, "L": 50, "sigma_v2": 0.4, "sigma_w2": gain, "alpha_1": 0.9}
    exact = [evaluate(spec, point | {"gap": float(start)}, 25) for start in gaps]
    for backend in ("numpy", "torch", "compiled"):
        function = load(spec, backend)
        found = function(**point, gap=pytest.importorskip("torch").tensor(gaps) if backend == "torch" else gaps)
        for name in ("q_L", "gap_L"):
            off = [float(sp.Rational(float(got)) / want[name] - 1)
                   for got, want in zip(getattr(found, name), exact, strict=True)]
            assert max(map(abs, off)) < units * point["L"] * np.finfo(float).eps, (backend, name, off)
        if gain < 2:
            start = pytest.importorskip("torch").tensor(gaps) if backend == "torch" else gaps
            early = function(**point | {"L": 10**9, "gap": start}, settle=1e-6)
            assert all(0 < one <= 1e-6 * two for one, two in zip(early.gap_L, early.q_L, strict=True))


def test_collapsed_start_stays_collapsed(stream):
    at = stream(**{**POINT, "rho": 1.0})
    assert (at.gap_L, at.overlap) == (0, 1)
    assert stream(**{**POINT, "n": 1, "rho": 1.0}).gap_L == 0


def test_an_array_of_depths_is_the_trajectory(stream):
    depths = np.array([[1, 2, 7], [8, 9, 33]])
    together = stream(**{**POINT, "L": depths})
    for name, values in together._asdict().items():
        alone = [getattr(stream(**{**POINT, "L": int(depth)}), name) for depth in depths.ravel()]
        assert values.ravel().tolist() == alone, name


def test_blocks_do_not_change_a_value(stream):
    strengths, correlations = np.linspace(0, 3, 301)[:, None], np.linspace(0, 1, 41)
    whole = stream(**{**POINT, "alpha_1": strengths, "rho": correlations})
    for row, column in ((0, 0), (150, 3), (300, 40)):
        alone = stream(**{**POINT, "alpha_1": strengths[row, 0], "rho": correlations[column]})
        assert [value[row, column] for value in whole] == pytest.approx(list(alone), rel=1e-14, abs=1e-300)


def test_settling_stops_early_and_says_how_far(stream):
    point = {**POINT, "L": 2000, "alpha_1": 0.5}
    exact, early = stream(**point), stream(**point, settle=1e-6)
    assert exact.gap_L < 1e-100 < early.gap_L
    assert abs(early.overlap - exact.overlap) < 1e-6


@pytest.mark.parametrize(("backend", "error"), [("numpy", 2e-14), ("torch", 2e-14), ("compiled", 1e-10)])
def test_a_smooth_activation_keeps_the_gap_of_a_layer(backend, error, monkeypatch, tmp_path):
    """A layer of tanh from gaps down to 1e-300: the error of the cells, or of a sum of seventy terms in doubles."""
    monkeypatch.setenv("SYMPROP_CACHE", str(tmp_path))
    torch = pytest.importorskip("torch") if backend == "torch" else None
    gaps = np.array([1e-300, 1e-150, 1e-16, 1e-5])
    spec = FunctionSpec("change", parameters(q_0, gap), (("moved", Tanh().gap(sp.S.Zero, q_0, gap)),), "A layer.")
    for moment in (1e-3, 0.7, 30.0):
        found = load(spec, backend)(q_0=moment, gap=gaps if torch is None else torch.tensor(gaps))
        exact = [evaluate(spec, {"q_0": moment, "gap": float(start)}, 20)["moved"] for start in gaps]
        off = [abs(float(sp.Rational(float(one)) / want - 1)) for one, want in zip(found, exact, strict=True)]
        assert max(off) < error, (moment, off)


def test_settling_is_off_where_torch_maps_a_function():
    torch = pytest.importorskip("torch")
    function, strengths = load(SPEC, "torch"), torch.linspace(0.2, 0.5, 4, dtype=torch.float64)
    whole = function(**{**POINT, "alpha_1": strengths}).gap_L
    mapped = torch.func.vmap(lambda alpha: function(**{**POINT, "alpha_1": alpha}).gap_L)(strengths)
    torch.testing.assert_close(mapped, whole, rtol=1e-13, atol=0)
    early = function(**{**POINT, "alpha_1": strengths.requires_grad_(), "L": 10**9}, settle=1e-6)
    assert (early.gap_L <= 1e-6 * early.q_L).all()
    (slope,) = torch.autograd.grad(early.overlap.sum(), strengths)
    assert torch.isfinite(slope).all()


def test_a_state_that_no_longer_changes_ends_the_loop():
    a = sp.Symbol("state", nonnegative=True)
    spec = FunctionSpec("fixed", parameters(q_0, L), (("end", a),), "Newton's square root.",
                        recursion=Recursion({a: q_0}, {a: (a + q_0 / a) / 2}))
    start = time.process_time()
    assert load(spec)(q_0=2.0, L=10**9) == pytest.approx(2**0.5, rel=1e-15)
    assert time.process_time() - start < 1


def test_layers_that_differ_never_end_early():
    a = sp.Symbol("state", nonnegative=True)
    spec = FunctionSpec("late", parameters(q_0, L), (("end", a),), "Only the last layers add.",
                        recursion=Recursion({a: q_0}, {a: a + sp.Max(0, layer - 50)}))
    assert load(spec)(q_0=1.0, L=54) == load(spec, "torch")(q_0=1.0, L=54) == 1 + 1 + 2 + 3
    assert evaluate(spec, {"q_0": 1, "L": 54})["end"] == sp.Float(7, 15)


def test_torch_agrees_and_its_derivatives_are_those_of_the_exact_values(stream):
    torch = pytest.importorskip("torch")
    function = load(SPEC, "torch")
    point = {**POINT, "L": torch.tensor([3, 20]), "alpha_1": torch.tensor(0.9, dtype=torch.float64, requires_grad=True)}
    found = function(**point)
    numbers = stream(**{**POINT, "L": np.array([3, 20])})
    for ours, theirs in zip(numbers, found, strict=True):
        np.testing.assert_allclose(theirs.detach().numpy(), ours, rtol=1e-13, atol=1e-13)
    (slope,) = torch.autograd.grad(found.overlap[1], point["alpha_1"])
    step = sp.Rational(1, 10**12)
    high, low = (evaluate(SPEC, {**POINT, "alpha_1": sp.Rational(0.9) + s}, 40)["overlap"] for s in (step, -step))
    assert float(slope) == pytest.approx(float((high - low) / (2 * step)), rel=1e-9)


def test_gradients_follow_the_numpy_iterator(stream):
    values = {n: 12, sigma_v2: 0.4, sigma_w2: 1.3, alpha_1: 0.9}
    found = iterate(LAYER, {X.q: 1.5, X.gap: 1.05}, 20, values, [1.0, 0.5])
    at = stream(**POINT)
    assert at.t_qq + 0.5 * at.t_qg == pytest.approx(float(found.gradient[0][0]), rel=1e-12)
    assert at.t_gq + 0.5 * at.t_gg == pytest.approx(float(found.gradient[0][1]), rel=1e-12)


def test_a_layer_holds_nothing_that_could_be_computed_before_it():
    lowered = loop_program(SPEC, SPEC.recursion)
    inside = {*SPEC.recursion.state, *(item.name for item in lowered.body)}
    for expression in (*(item.expression for item in lowered.body), *lowered.updates):
        for node in sp.preorder_traversal(expression):
            free = node.free_symbols
            assert not free or free & inside or node.is_Atom, node


def test_text_is_the_same_in_every_run_and_imports_one_library():
    for backend in ("numpy", "torch"):
        text = render([SPEC], backend, "Streams.")
        assert text == render([SPEC], backend, "Streams.")
        imports = {line.split()[1] for line in text.splitlines() if line.startswith(("import ", "from "))}
        assert imports == {"typing", backend}


def test_bad_loops_are_refused():
    a = sp.Symbol("state", nonnegative=True)
    with pytest.raises(InputError, match="start"):
        Recursion({a: 1}, {a: a, X.q: a})
    with pytest.raises(InputError, match="transfer = 1 names"):
        Recursion.of(LAYER, START, transfer=TRANSFER[:1])
    with pytest.raises(RefusedError, match="L is not among its parameters"):
        FunctionSpec("f", parameters(q_0), (("end", a),), "f", recursion=Recursion({a: q_0}, {a: a}))
    with pytest.raises(RefusedError, match="one name"):
        FunctionSpec("f", parameters(q_0, L), (("end", q_0),), "f", recursion=Recursion({q_0: q_0}, {q_0: q_0 + 1}))
    with pytest.raises(RefusedError, match="rho is not among its parameters"):
        FunctionSpec("f", parameters(q_0, L), (("end", a),), "f", recursion=Recursion({a: q_0}, {a: a + rho}))
    assert LayerMap({a: a}).parameters == ()


@pytest.mark.parametrize("backend", ["numpy", "compiled"])
def test_states_that_repeat_end_a_deep_loop_at_the_right_one_of_them(backend):
    """q to 1/q and back; a loop through a billion layers would not return."""
    spec = FunctionSpec("turns", parameters(q_0, L), (("q_L", X.q),), "Turns.", recursion=Recursion({X.q: q_0}, {X.q: 1 / X.q}))
    layers = np.array([1, 2, 7, 8, 9, 16, 10**9, 10**9 + 1, 10**9 + 3])
    for depth in (layers, *layers):
        found = load(spec, backend)(q_0=4.0, L=depth)
        assert np.array_equal(found, np.where(depth % 2, 0.25, 4.0))


@pytest.mark.parametrize("backend", ["numpy", "compiled"])
def test_states_that_are_no_numbers_end_a_deep_loop(backend):
    spec = FunctionSpec("none", parameters(q_0, alpha_1, L), (("q_L", X.q),), "None.",
                        recursion=Recursion({X.q: q_0}, {X.q: X.q / alpha_1}))
    with np.errstate(divide="ignore", invalid="ignore"):
        assert np.isnan(load(spec, backend)(q_0=0.0, alpha_1=0.0, L=10**9, check=False))
