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
from symprop.functions.table_sum import TableSum, register_table

ZERO = sp.S.Zero
INTERPOLATION = 3e-9
"""The relative error of the piecewise polynomials, as their module states it."""


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
    for variance, share in [(1.0, 0.5), (50.0, 1e-12), (1e-6, 1e-3), (1e4, 1.9), (2.0, 2.0)]:
        found = function(variance, share * variance)
        for name, expression in spec.outputs:
            at = {sigma2: sp.Rational(variance), gap: sp.Rational(share * variance)}
            # A rule is the same sum in both, in another order.
            loss = 1e-12 if activation.name == "gelu_tanh" else INTERPOLATION
            rounding = 1e-15 * variance
            assert float(getattr(found, name)) == pytest.approx(float(sp.N(expression.subs(at), 17)), rel=loss, abs=rounding)


def moments_of(activation):
    covariance = sigma2 - gap
    candidates = {
        "mean": activation.mean(ZERO, sigma2), "second": activation.second(ZERO, sigma2),
        "slope_mean": activation.slope_mean(ZERO, sigma2), "slope_second": activation.slope_second(ZERO, sigma2),
        "change": activation.gap(ZERO, sigma2, gap), "slope_change": activation.slope_gap(ZERO, sigma2, gap),
        "cross": activation.cross(ZERO, ZERO, sigma2, sigma2, covariance),
        "slope_cross": activation.slope_cross(ZERO, ZERO, sigma2, sigma2, covariance),
    }
    outputs = tuple((name, item) for name, item in candidates.items() if item.free_symbols)
    return FunctionSpec(f"{activation.name}_moments", parameters(sigma2, gap), outputs, "Moments.")


def spread(largest):
    """Variances from 1e-7 up and gaps to either end of their range, at relative distances down to 1e-16."""
    rng = np.random.default_rng(0)
    near, middle, far = 10 ** rng.uniform(-16, 0, 400), rng.uniform(0, 2, 400), 2 - 10 ** rng.uniform(-12, 0, 200)
    share = np.concatenate([near, middle, far, [0, 1, 2]])
    variance = 10 ** rng.uniform(-7, np.log10(largest), share.size)
    return variance, share * variance


@pytest.mark.parametrize("largest", [30.0, pytest.param(1e6, marks=pytest.mark.slow)])
@pytest.mark.parametrize("activation", [Silu(), Tanh(), Sigmoid()], ids=lambda item: item.name)
def test_polynomials_on_cells_are_the_sums(activation, largest):
    spec = moments_of(activation)
    text = render([spec], "numpy", "Moments.")
    fast, direct = {}, {}
    for namespace in (fast, direct):
        exec(compile(text, "<moments>", "exec"), namespace)
    direct["_on_cells"] = lambda total, factor, scale, *arguments: total(*arguments)
    found, expected = (item[spec.name](*spread(largest)) for item in (fast, direct))
    for name, _ in spec.outputs:
        one, other = getattr(found, name), getattr(expected, name)
        # A covariance's sign may differ from that of the square of the mean: then the parts add up to their size.
        size = getattr(expected, name.replace("cross", "second")) if activation.name != "tanh" else np.abs(other)
        assert np.all(np.abs(one - other) <= INTERPOLATION * size), name


def test_variances_beyond_the_cells_take_the_sum():
    for backend in ("numpy", "torch"):
        if backend == "torch":
            pytest.importorskip("torch")
        function = load(spec_of(Silu()), backend)
        variance, share = 1e15, 1e-3
        one = function(variance, share * variance)
        at = {sigma2: sp.Integer(10) ** 15, gap: sp.Rational(share * variance)}
        for name, expression in spec_of(Silu()).outputs:
            assert float(getattr(one, name)) == pytest.approx(float(sp.N(expression.subs(at), 17)), rel=1e-10)
    mixed = load(spec_of(Silu()))(np.array([1e15, 2.0]), np.array([1e12, 1.0]))
    assert mixed.change.tolist() == [float(one.change), load(spec_of(Silu()))(2.0, 1.0).change]


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_one_point_costs_one_cell(backend):
    """A function that has been called at one point has fitted the cell of that point alone."""
    torch = pytest.importorskip("torch") if backend == "torch" else None
    function = load(spec_of(Tanh()), backend)
    function(1e4, 1.0)
    made = [int(flags.sum()) for _, flags in function.__globals__["_CELLS"].values()]
    assert made and set(made) == {1}
    if torch is not None:
        slope = torch.func.grad(lambda gap: function(1e5, gap).change)(torch.tensor(3.0, dtype=torch.float64))
        assert torch.isfinite(slope)


def test_nothing_varies_at_zero_variance():
    found = load(moments_of(Silu()))(0.0, 0.0)
    assert (found.mean, found.second, found.change, found.cross) == (0, 0, 0, 0)
    assert found.slope_second == pytest.approx(0.25, rel=INTERPOLATION)


def test_arrays_broadcast_and_torch_differentiates():
    torch = pytest.importorskip("torch")
    spec = spec_of(Silu())
    grid = load(spec)(np.array([[0.5], [2.0]]), np.array([0.1, 0.2, 0.3]))
    assert grid.change.shape == (2, 3)
    function = load(spec, "torch")
    at = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (1.3, 0.4)]
    assert torch.autograd.gradcheck(lambda *x: function(*x).change, at)


@pytest.mark.parametrize("variance", [1e-6, 0.7, 1e5])
@pytest.mark.parametrize("share", [1e-12, 0.3, 1.6])
def test_torch_derivatives_are_those_of_the_sum(variance, share):
    torch = pytest.importorskip("torch")
    moment = Silu().gap(ZERO, sigma2, gap)
    at = {sigma2: sp.Rational(variance), gap: sp.Rational(share * variance)}
    inputs = [torch.tensor(float(value), dtype=torch.float64, requires_grad=True) for value in at.values()]
    function = load(FunctionSpec("one", parameters(sigma2, gap), (("change", moment),), "One."), "torch")
    found = torch.autograd.grad(function(*inputs), inputs)
    for symbol, slope in zip(at, found, strict=True):
        assert float(slope) == pytest.approx(float(sp.N(sp.diff(moment, symbol).subs(at), 17)), rel=1e-6)


def test_torch_takes_a_constant_variance():
    torch = pytest.importorskip("torch")
    spec = FunctionSpec("fixed", parameters(gap), (("change", Silu().gap(ZERO, sp.S.One, gap)),), "Unit variance.")
    found = load(spec, "torch")(torch.tensor(0.5, dtype=torch.float64))
    assert float(found) == pytest.approx(float(load(spec)(0.5)), rel=1e-14)


def test_sums_of_the_same_characters_have_names_of_their_own():
    a, b, x = sp.symbols("a b x")
    name = register_table("anagrams", lambda: [(1, 2), (3, 4)])
    one, other = (TableSum("f", name, sp.Lambda((a, b, x), body), sigma2) for body in (a * sp.exp(b * x), b * sp.exp(a * x)))
    spec = FunctionSpec("difference", parameters(sigma2), (("value", one - other),), "A difference.")
    assert load(spec)(1.0) == pytest.approx(float((one - other).subs(sigma2, 1)), rel=1e-14)
