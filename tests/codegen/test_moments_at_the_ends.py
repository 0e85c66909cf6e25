"""Generated moments of the closed-form activations from aligned to opposite tokens, against mpmath and its elementary forms."""

import mpmath
import numpy as np
import pytest
import sympy as sp

from symprop.codegen import FunctionSpec
from symprop.codegen.render import load
from symprop.codegen.spec import parameters
from symprop.core.symbols import gap, sigma2
from symprop.functions import gaussian_expectation as ge
from symprop.functions.activation import Absolute, Erf, Gelu, LeakyRelu, Relu, Sine, SquaredRelu, at_zero_mean

ZERO = sp.S.Zero
CLOSED = 1e-12
ACTIVATIONS = (Relu(), LeakyRelu(sp.Rational(1, 100)), Absolute(), SquaredRelu(), Gelu(), Erf(), Sine())


def moments(activation):
    v, c = sigma2, sigma2 - gap
    return {
        "mean": activation.mean(ZERO, v), "second": activation.second(ZERO, v), "change": activation.gap(ZERO, v, gap),
        "slope_mean": activation.slope_mean(ZERO, v), "slope_second": activation.slope_second(ZERO, v),
        "slope_change": activation.slope_gap(ZERO, v, gap),
        "cross": activation.cross(ZERO, ZERO, v, v, c), "slope_cross": activation.slope_cross(ZERO, ZERO, v, v, c),
    }


def reference(activation):
    """The outputs from the kernel in asin and roots, without any care for digits."""
    v, c = sigma2, sigma2 - gap
    if isinstance(activation, Sine):
        mean, slope_mean = ZERO, sp.exp(-v / 2)
        kernels = [lambda c, sign=sign: (sp.exp(c - v) + sign * sp.exp(-c - v)) / 2 for sign in (-1, 1)]
        squares = [kernel(v) for kernel in kernels]
    else:
        single = ge.single_moment(activation.terms)
        mean, slope_mean = (at_zero_mean(item, v, v) for item in (single, sp.diff(single, ge.M1)))
        kernel = at_zero_mean(ge.cross_moment(activation.terms, activation.terms), v, v)
        kernels = [lambda c, item=item: item.subs(ge.COV, c) for item in (kernel, sp.diff(kernel, ge.COV))]
        if isinstance(activation, (LeakyRelu, SquaredRelu)):
            squares = [half_line(activation, v), half_line(activation, v, 1)]
        else:
            squares = [kernel(v) for kernel in kernels]
    return {
        "mean": mean, "second": squares[0], "change": squares[0] - kernels[0](c), "slope_mean": slope_mean,
        "slope_second": squares[1], "slope_change": squares[1] - kernels[1](c),
        "cross": kernels[0](c), "slope_cross": kernels[1](c),
    }


def half_line(activation, v, order=0):
    """The second moment of a function that is a multiple of x^k on either side of zero, or of its slope."""
    power = 2 if isinstance(activation, SquaredRelu) else 1
    sides = [activation.expression(sp.Integer(side)) * power**order for side in (1, -1)]
    return (sides[0] ** 2 + sides[1] ** 2) / 2 * sp.factorial2(2 * (power - order) - 1) * v ** (power - order)


def guarded(exact, v, g, shift=0):
    """The outputs with the digits that the elementary forms lose: the slope of squared ReLU has (1 - rho^2)^(-5/2)."""
    with mpmath.workdps(150 + 4 * max(0, int(np.log10(v / g)))):
        return exact(mpmath.mpf(v), mpmath.mpf(g) * (1 + shift))


def points():
    """Variances from 1e-6 to 1e6, and gaps from 1e-300 of them to the last double below opposite tokens."""
    rng = np.random.default_rng(4)
    near, middle, far = 10 ** rng.uniform(-300, 0, 30), rng.uniform(0, 2, 30), 2 - 10 ** rng.uniform(-15.9, 0, 40)
    share = np.concatenate([near, [1e-300, 1e-16, 1.0], middle, far, np.full(5, np.nextafter(2.0, 0))])
    variance = 10 ** rng.uniform(-6, 6, share.size)
    variance[-5:] = 1e-6, 1e-3, 1.0, 1e3, 1e6
    return variance, share * variance


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda item: item.name)
def test_no_digit_is_lost_between_aligned_and_opposite_tokens(activation):
    outputs = tuple((name, item) for name, item in moments(activation).items() if item.free_symbols)
    spec = FunctionSpec(f"{activation.name}_ends", parameters(sigma2, gap), outputs, "Moments.")
    exact = sp.lambdify((sigma2, gap), [reference(activation)[name] for name, _ in outputs], "mpmath", cse=True)
    variance, gaps = points()
    pairs = list(zip(variance.tolist(), gaps.tolist(), strict=True))
    table = np.array([guarded(exact, v, g) for v, g in pairs])
    # Where a moment changes its sign, it is as exact as its arguments: to the change that their rounding makes.
    shifted = np.array([guarded(exact, v, g, mpmath.mpf(2) ** -52) for v, g in pairs])
    with mpmath.workdps(40):
        moved = np.abs(shifted - table)
        allowed = (CLOSED * np.abs(table) + 4 * moved).astype(float) + 1e-307
        for backend in ("numpy", "torch", "compiled"):
            found = load(spec, backend)(variance, gaps)
            for column, (name, _) in enumerate(outputs):
                values = np.array([mpmath.mpf(item) for item in np.asarray(getattr(found, name), dtype=float).tolist()])
                excess = np.abs(values - table[:, column]).astype(float) / allowed[:, column]
                worst = int(np.argmax(excess))
                assert excess[worst] <= 1, (backend, name, variance[worst], gaps[worst] / variance[worst], excess[worst])


@pytest.mark.parametrize("backend", ["numpy", "torch", "compiled"])
def test_a_saturated_function_keeps_its_second_moment(backend):
    if backend == "torch":
        pytest.importorskip("torch")
    spec = FunctionSpec("second", parameters(sigma2), (("second", Erf().second(ZERO, sigma2)),), "Second moment of erf.")
    function = load(spec, backend)
    for variance in (1e-12, 0.3, 1e6, 1e12):
        with mpmath.workdps(30):
            want = 2 / mpmath.pi * mpmath.asin(mpmath.mpf(variance) / (mpmath.mpf(variance) + 0.5))
        assert float(function(sigma2=variance)) == pytest.approx(float(want), rel=1e-14)
