"""Generated code of gamma ratios against exact products, from a stream that hardly grows to one that explodes."""

import mpmath
import numpy as np
import pytest
import sympy as sp

from symprop.codegen.render import load
from symprop.codegen.spec import FunctionSpec, parameters
from symprop.core.symbols import L, a_q, c_g, layer, q_0
from symprop.depth.product import product_over_depth
from symprop.functions.rising_ratio import RisingRatio

GROWTH = FunctionSpec(
    "growth", parameters(q_0, a_q, c_g, L), (("g", product_over_depth(1 + c_g / (q_0 + a_q * layer), layer, L)),), "Growth."
)


def exact(a, c, depth):
    """The product at q_0 = 1: factor by factor, or where that takes long by the definition with guard digits."""
    with mpmath.workdps(60):
        a, c = mpmath.mpf(a), mpmath.mpf(c)
        if depth <= 1000:
            return mpmath.fprod(1 + c / (1 + a * index) for index in range(depth))
        u, v = (1 + c) / a, 1 / a
        with mpmath.workdps(60 + 2 * max(10, int(mpmath.log10(u)))):
            return mpmath.exp(mpmath.loggamma(depth + u) + mpmath.loggamma(v) - mpmath.loggamma(u) - mpmath.loggamma(depth + v))


@pytest.mark.parametrize("a", [1e-300, 1e-30, 1e-12, 1e-6, 1e-3, 0.1, 0.32, 1.0, 30.0, 1e6])
def test_no_digit_is_lost_to_the_size_of_the_arguments(a):
    function = load(GROWTH)
    for c in (0.0, 1e-9, 1e-3, 0.33, 1.0, 2.5, 100.0):
        for depth in (1, 2, 5, 30, 1000, 10**6):
            want = exact(a, c, depth)
            if want < mpmath.mpf("1e300"):
                assert abs(mpmath.mpf(float(function(q_0=1.0, a_q=a, c_g=c, L=depth))) / want - 1) < 1e-12, (c, depth)


@pytest.mark.parametrize("a", [1e-4, 0.05, 0.32, 3.0, 1e4])
def test_torch_has_the_value_and_the_gradient(a):
    torch = pytest.importorskip("torch")
    function = load(GROWTH, "torch")
    for c in (1e-6, 0.03, 0.9, 1.7, 20.0):
        for depth in (1, 4, 50):
            q0, added, gain = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (1.0, a, c))
            value = function(q_0=q0, a_q=added, c_g=gain, L=torch.tensor(depth))
            torch.log(value).backward()
            index = np.arange(depth)
            assert value.item() == pytest.approx(float(exact(a, c, depth)), rel=1e-12)
            assert gain.grad.item() == pytest.approx(np.sum(1 / (1 + c + a * index)), rel=1e-11)
            assert q0.grad.item() == pytest.approx(np.sum(-c / (1 + c + a * index) / (1 + a * index)), rel=1e-9)
            slope = np.sum(-c * index / (1 + c + a * index) / (1 + a * index))
            assert added.grad.item() == pytest.approx(slope, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_numbers_in_place_of_parameters(backend):
    if backend == "torch":
        pytest.importorskip("torch")
    ratio = RisingRatio(sp.Rational(7, 2), sp.Rational(5, 3), L)
    function = load(FunctionSpec("ratio", parameters(L), (("r", ratio),), "Ratio."), backend)
    assert float(function(L=10**6)) == pytest.approx(float(ratio.subs(L, 10**6).evalf(20)), rel=1e-13)


@pytest.mark.parametrize("backend", ["numpy", "torch", "compiled"])
def test_no_digit_is_lost_where_one_start_is_small_to_the_other(backend):
    if backend == "torch":
        pytest.importorskip("torch")
    function = load(FunctionSpec("ratio", parameters(q_0, a_q, L), (("r", RisingRatio(q_0, a_q, L)),), "Ratio."), backend)
    for small in (1e-300, 1e-12, 1e-3, 0.7, 6.0):
        for large in (1.0, 9.5, 1e3, 1e12):
            for u, v in ((small, large), (large, small)):
                for depth in (1, 3, 20, 200):
                    with mpmath.workdps(40):
                        want = mpmath.fprod((mpmath.mpf(u) + k) / (mpmath.mpf(v) + k) for k in range(depth))
                        if 1e-300 < want < 1e300:
                            got = mpmath.mpf(float(function(q_0=u, a_q=v, L=depth)))
                            # The rounding of the logarithm is that of the result.
                            assert abs(got / want - 1) < 4e-16 * (20 + abs(mpmath.log(want))), (u, v, depth)
