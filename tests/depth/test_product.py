"""Products over depth against exact layer-by-layer iteration."""

import mpmath
import pytest
import sympy as sp

from symprop.components import Elementwise, LayerNorm, Linear, UniformAttention
from symprop.core.errors import RefusedError
from symprop.core.expression import compare
from symprop.core.symbols import L, alpha_1, d, layer, n, sigma_down2, sigma_up2, sigma_v2
from symprop.depth.iterate import LayerMap, iterate, layer_map
from symprop.depth.product import closed_part, product_over_depth, solve_growing, solve_layerwise
from symprop.functions import GeometricSum
from symprop.functions.activation import Gelu, Relu
from symprop.functions.rising_ratio import RisingRatio
from symprop.network import residual, sequential, token_input, trace_of

X, A, C, B = sp.symbols("x a c b", positive=True)
POINT = {X: sp.Rational(3, 2), A: sp.Rational(2, 7), C: sp.Rational(5, 9), B: sp.Rational(7, 4)}
FACTORS = {
    "one branch": 1 + C / (X + A * layer),
    "two branches": (1 + C / (X + (A + B) * layer)) * (1 + B / (X + A + (A + B) * layer)),
    "shrinking": 1 - X / 2 / (X + A * layer),
    "slopes differ": (2 * X + layer) / (X + 3 * A * layer),
    "with a constant": B * (1 + C / (X + A * layer)),
    "repeated": (1 + C / (X + A * layer)) ** 2,
}


def exact(factor, count, point=POINT):
    return sp.Mul(*(factor.subs(layer, index).subs(point) for index in range(count)))


def feed_forward(activation):
    return residual(sequential(LayerNorm(), Linear(4 * d, sigma_up2), Elementwise(activation), Linear(d, sigma_down2)))


@pytest.mark.parametrize("count", [1, 2, 7, 40])
@pytest.mark.parametrize("factor", FACTORS.values(), ids=FACTORS)
def test_closed_form_is_the_product(factor, count):
    closed = product_over_depth(factor, layer, L).subs(POINT).subs(L, count)
    want = exact(factor, count)
    assert want.is_Rational
    assert abs(sp.N(closed / want - 1, 50, maxn=500, chop=False)) < sp.Rational(1, 10**45)


@pytest.mark.parametrize("count", [1, 3])
def test_a_numeric_depth_gives_the_same(count):
    closed = product_over_depth(FACTORS["two branches"], layer, sp.Integer(count))
    assert sp.cancel(closed.subs(POINT) - exact(FACTORS["two branches"], count)) == 0


def test_pairs_an_integer_apart_telescope():
    factor = (1 + A / (X + 2 * A * layer)) * (1 + 2 * A / (X + 2 * A * layer))
    found = product_over_depth(factor, layer, L)
    assert len(found.atoms(RisingRatio)) == 1
    assert found.subs(POINT).subs(L, 5).evalf(40) == pytest.approx(exact(factor, 5), rel=1e-30)


@pytest.mark.parametrize(("values", "want"), [
    ({C: 0}, sp.S.One),
    ({A: 0}, (1 + C / X) ** L),
    ({C: A}, 1 + L * A / X),
    ({C: 2 * A}, (1 + L * A / X) * (1 + L * A / (X + A))),
])
def test_degenerate_factors(values, want):
    assert compare(product_over_depth(FACTORS["one branch"].subs(values), layer, L), want).equal is True


@pytest.mark.parametrize(("factor", "message"), [
    (1 + C / (X + A * layer) ** 2, "not linear"), (X + layer, "degrees"), (1 / (X + layer), "degrees"),
])
def test_other_factors_are_refused(factor, message):
    with pytest.raises(RefusedError, match=message):
        product_over_depth(factor, layer, L)


def test_several_branches_in_one_layer():
    q = sp.Symbol("q", positive=True)
    two = LayerMap({q: q + A + B}, sp.Matrix([[(1 + C / q) * (1 + A / (q + A))]]))
    solution = solve_layerwise(two)
    closed = float(solution.transfer[0].subs({**POINT, q: 1, L: 9}).evalf())
    values = {A: POINT[A], B: POINT[B], C: POINT[C]}
    steps = iterate(two, {q: 1}, 9, {key: float(value) for key, value in values.items()}, [1.0])
    assert closed == pytest.approx(steps.gradient[0, 0], rel=1e-13)
    assert float(solution.output(q).subs({**POINT, q: 1, L: 9})) == pytest.approx(steps.forward[q][-1], rel=1e-13)


@pytest.mark.parametrize("activation", [Relu(), pytest.param(Gelu(), marks=pytest.mark.slow)], ids=["relu", "gelu"])
def test_a_pre_norm_block_is_solved_like_a_growing_stream(activation):
    trace = trace_of(feed_forward(activation), token_input(tokens=sp.S.One, gaussian=True))
    solution = solve_layerwise(layer_map(trace))
    at = {trace.input.q: sp.Rational(4, 3), d: 3, sigma_up2: sp.Rational(1, 5), sigma_down2: sp.Rational(2, 7)}
    known = solve_growing(trace)
    for depth in (1, 12):
        values = [item.subs({**at, L: depth}).evalf(30) for item in (solution.transfer[0], known.gradient)]
        assert values[0] == pytest.approx(values[1], rel=1e-25)
    assert solution.transfer.has(RisingRatio) is (activation == Gelu())


def test_the_attention_gradient_keeps_its_modes_apart():
    start = token_input()
    block = layer_map(trace_of(residual(UniformAttention(d, sigma_v2), alpha_1), start))
    solution = solve_layerwise(block)
    at = {alpha_1: sp.Rational(1, 3), d: 5, sigma_v2: sp.Rational(2, 5), n: 4}
    want = block.transfer.subs(at) ** 6
    got = solution.transfer.subs(at).subs(L, 6).applyfunc(lambda entry: entry.rewrite(sp.Pow))
    assert (got - want).applyfunc(sp.nsimplify) == sp.zeros(2, 2)
    assert solution.transfer[0, 1].has(GeometricSum), "nothing cancels where the residual weight is small"


@pytest.mark.parametrize("matrix", [
    [[1 + A, B], [B, 1 + C]], [[1 + A, B], [0, 1 + A]], [[1 + A, 0], [B, 2]], [[A, 0], [0, B]],
], ids=["symmetric", "resonant", "lower", "diagonal"])
def test_a_constant_transfer_is_a_matrix_power(matrix):
    q = sp.Symbol("q", positive=True)
    found = solve_layerwise(LayerMap({q: q + 1}, sp.Matrix(matrix))).transfer
    want = sp.Matrix(matrix).subs(POINT) ** 5
    for got, expected in zip(found.subs(POINT).subs(L, 5), want, strict=True):
        assert sp.N(got, 40) == pytest.approx(sp.N(expected, 40), rel=1e-30, abs=1e-30)


@pytest.mark.parametrize("shape", [[[2, 1], [1, 3]], [[1, 2], [0, 2]], [[3, 1], [-1, 1]]], ids=["full", "upper", "resonant"])
def test_a_transfer_that_depends_on_the_layer_is_multiplied_in_its_modes(shape):
    q, a = sp.symbols("q a", positive=True)
    transfer = sp.Matrix(shape) * (1 + a / (3 * q))
    block = LayerMap({q: q + a}, transfer)
    found = solve_layerwise(block).transfer.subs({q: 2, a: sp.Rational(1, 3), L: 6})
    want = sp.eye(2)
    for index in range(6):
        want = want * transfer.subs({q: 2 + sp.Rational(index, 3), a: sp.Rational(1, 3)})
    for got, expected in zip(found, want, strict=True):
        assert sp.N(got, 40) == pytest.approx(sp.N(expected, 40), rel=1e-30, abs=1e-30)


def test_what_is_not_closed_is_named():
    q, gap = sp.symbols("q gap", positive=True)
    updates = {q: q + A, gap: gap + sp.sqrt(gap / q)}
    assert set(closed_part(updates)) == {q}
    assert set(closed_part({q: q + gap, gap: sp.sqrt(gap)})) == set()
    assert set(closed_part({q: q * gap, gap: gap / 2})) == {gap}
    with pytest.raises(RefusedError, match="gap"):
        solve_layerwise(LayerMap(updates, sp.Matrix([[1 + gap / q]])))
    with pytest.raises(RefusedError, match="turn"):
        solve_layerwise(LayerMap({q: q + A}, sp.Matrix([[1 + 1 / q, 1], [2, 1]])))
    assert solve_layerwise(LayerMap(updates)).transfer is None


def test_power_law_of_the_gamma_ratio():
    closed = product_over_depth(FACTORS["one branch"], layer, L)
    node = closed.atoms(RisingRatio).pop()
    at = {**POINT, L: 10**8}
    with mpmath.workdps(30):
        error = mpmath.mpf(sp.N(closed.subs(at), 30)) / mpmath.mpf(sp.N(node.power_law().subs(at), 30)) - 1
    assert 0 < abs(error) < 1e-6
