"""Kernels over matrices against the same moments evaluated one at a time, and at their edges."""

import numpy as np
import pytest
import sympy as sp

from symprop.core.errors import RefusedError
from symprop.functions import pair_kernel
from symprop.functions.activation import Erf, Gelu, LeakyRelu, Relu, Sine, SquaredRelu
from symprop.functions.logistic import Silu, Tanh
from symprop.functions.pair_kernel import CLOSE, PairKernel, _expanded
from symprop.functions.quadrature_activation import GeluTanh

CLOSED = (Relu(), LeakyRelu(sp.Rational(1, 3)), SquaredRelu(), Gelu(), Erf(), Sine())
SUMS = (Silu(), Tanh(), GeluTanh())
POINTS = ((0.3, 0.35, 0.1), (2.0, 1.0, -0.9), (50.0, 40.0, 30.0))


def double_sum(function, first, second, covariance):
    """E f(x) f(y) by the trapezoidal rule in two dimensions."""
    z = np.linspace(-9, 9, 1501)
    weight = np.exp(-(z**2) / 2) * (z[1] - z[0]) / np.sqrt(2 * np.pi)
    r = covariance / np.sqrt(first * second)
    y = np.sqrt(second) * (r * z[:, None] + np.sqrt(1 - r**2) * z)
    return float(weight * function(np.sqrt(first) * z) @ function(y) @ weight)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("activation", [*CLOSED, *SUMS], ids=lambda item: item.name)
def test_entries_are_those_of_the_pair_moment(activation, order):
    moment = (activation.cross, activation.slope_cross)[order]
    for point in POINTS:
        if activation in SUMS:
            exact, allowed = double_sum((activation.apply, activation.slope)[order], *point), 1e-10
        else:
            exact, allowed = float(sp.N(moment(sp.S.Zero, sp.S.Zero, *map(sp.nsimplify, point)), 17)), 1e-13
        assert float(PairKernel(activation, order).of(*point)) == pytest.approx(exact, rel=allowed, abs=allowed)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("activation", [*CLOSED, *SUMS], ids=lambda item: item.name)
def test_tokens_that_coincide(activation, order):
    moment = (activation.second, activation.slope_second)[order]
    exact = float(sp.N(moment(sp.S.Zero, sp.Rational(3, 10)), 17))
    found = PairKernel(activation, order).of(0.3, 0.3, np.array([0.3, 0.3 * (1 + 1e-15), 0.3 * (1 - 1e-15)]))
    # A kinked slope approaches its value like the angle, the root of the distance.
    assert found[0] == pytest.approx(exact, rel=1e-8)
    assert found == pytest.approx(exact, rel=1e-7)


def test_a_zero_variance_has_no_noise():
    for activation in (Relu(), Gelu(), Silu()):
        found = PairKernel(activation).of(np.array([0.0, 1.0]), np.array([0.0, 0.0]), np.zeros(2))
        assert found == pytest.approx([0.0, 0.0], abs=1e-15)


def test_slopes_have_no_further_derivative():
    with pytest.raises(RefusedError, match="once at most"):
        PairKernel(Gelu(), 2).of(1.0, 1.0, 0.5)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("activation", SUMS, ids=lambda item: item.name)
def test_moments_are_interpolated_in_the_variance_to_the_error_of_the_series(activation, order):
    edges = CLOSE ** np.array([-17.0, 0.0, 8.0])
    for low in edges:
        v = low * np.array([1 - 1e-15, 1.0, 1 + 1e-15, *np.random.default_rng(0).uniform(1, CLOSE, 20)])
        direct = _expanded(activation, order, v)
        found = np.vstack(PairKernel(activation, order)._coefficients(v))
        assert found == pytest.approx(direct, rel=1e-11, abs=1e-12 * np.sqrt(direct[-1].max()))


@pytest.mark.parametrize("activation", [*CLOSED, *SUMS], ids=lambda item: item.name)
def test_uncorrelated_tokens_keep_their_means(activation):
    v = np.array([0.7])
    mean = float(sp.N(activation.mean(sp.S.Zero, sp.Rational(7, 10)), 17))
    assert PairKernel(activation).of(v, v, np.zeros(1)) == pytest.approx([mean**2], rel=1e-8, abs=1e-15)


@pytest.mark.parametrize("phi", [Gelu(), Silu()], ids=lambda item: item.name)
def test_a_wide_preactivation_sees_the_ramp_on_few_nodes(phi):
    # gelu and silu differ from the ramp by O(1) at |x| = O(1): a share 1/v of the second moment.
    v, rho = np.array([1e12, 1e12]), 0.5
    covariance = np.array([rho * 1e12, 1e12])
    ramp = PairKernel(Relu()).of(v, v, covariance)
    np.testing.assert_allclose(PairKernel(phi).of(v, v, covariance), ramp, rtol=1e-10)
    assert pair_kernel._mesh(1e6)[0].size < 10**4


def test_graded_nodes_agree_with_even_ones(monkeypatch):
    v = np.array([200.0**2])
    graded = pair_kernel._expanded(Gelu(), 1, v)
    monkeypatch.setattr(pair_kernel, "GRADED", 1e3)
    pair_kernel._mesh.cache_clear()
    even = pair_kernel._expanded(Gelu(), 1, v)
    pair_kernel._mesh.cache_clear()
    # Both leave out what the highest Hermite functions hold beyond nine deviations.
    np.testing.assert_allclose(graded, even, atol=1e-9 * np.sqrt(even[-1, 0]))


def test_the_gap_of_opaque_moments_is_that_of_two_tokens():
    v, gap = sp.symbols("v gap", positive=True)
    called = pair_kernel.CalledActivation(Relu())
    assert called.gap(sp.S.Zero, v, gap) == called.second(sp.S.Zero, v) - pair_kernel.KernelCall(0, v, v, v - gap)
    assert called.slope_gap(sp.S.Zero, v, gap) == called.gap(sp.S.Zero, v, gap).diff(gap).subs(gap, 0) - called.gap(
        sp.S.Zero, v, gap).diff(gap)
