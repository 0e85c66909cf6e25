"""Numeric propagation over depth against exact rational iteration, 50 digits and generated code."""

import mpmath
import numpy as np
import pytest
import sympy as sp

from symprop.codegen.render import load
from symprop.codegen.spec import FunctionSpec, Parameter
from symprop.components import Elementwise, LayerNorm, Linear, UniformAttention
from symprop.core.errors import InputError
from symprop.core.symbols import Domain, alpha_1, d, n, sigma_down2, sigma_up2, sigma_v2
from symprop.depth.iterate import LayerMap, iterate, iterate_exact, iterate_until, layer_map, mpmath_compile
from symprop.functions.activation import Relu
from symprop.functions.arc_cosine import arc_cosine, arc_cosine_array
from symprop.functions.logistic import Silu
from symprop.functions.softmax_overlap import OverlapGap
from symprop.network import post_norm, residual, sequential, token_input, trace_of

TOKENS = token_input(gaussian=True)
Q, GAP, A, B = sp.symbols("q_s gap_s a_s b_s", positive=True)
RATIONAL = LayerMap(
    {Q: Q + A, GAP: GAP * (1 - A / (Q + 1)) + B}, sp.Matrix([[1 + A / Q, -B / Q], [GAP / (Q + GAP), 1]])
)


def transformer():
    attention = residual(sequential(LayerNorm(), UniformAttention(d, sigma_v2)))
    feed_forward = residual(
        sequential(LayerNorm(), Linear(4 * d, sigma_up2), Elementwise(Relu()), Linear(d, sigma_down2))
    )
    return layer_map(trace_of(sequential(attention, feed_forward), token_input(gaussian=True)))


def generated(arguments, expressions):
    """Compile through the code generator: one function per tuple of expressions."""
    names = {symbol: sp.Symbol(f"p{k}", positive=True) for k, symbol in enumerate(arguments)}
    inputs = tuple(Parameter(symbol, symbol.name, symbol.name, Domain()) for symbol in names.values())
    outputs = tuple((f"out{k}", item.xreplace(names)) for k, item in enumerate(expressions))
    function = load(FunctionSpec("layer_step", inputs, outputs, "One layer."))
    return lambda *values: function(*values, check=False)


def rational_sweep(depth, rows):
    states = [{Q: sp.Integer(2), GAP: sp.Rational(1, 2)}]
    for row in rows:
        at = {**states[-1], **row}
        states.append({key: value.xreplace(at) for key, value in RATIONAL.updates.items()})
    above = sp.Matrix([1, sp.Rational(1, 3)])
    for state, row in zip(reversed(states[:-1]), reversed(rows), strict=True):
        above = sp.Matrix(RATIONAL.transfer.xreplace({**state, **row})) * above
    return states, above


@pytest.mark.parametrize("per_layer", [False, True])
def test_both_sweeps_are_the_exact_iteration(per_layer):
    depth = 7
    rows = [{A: sp.Rational(1, 3 + k * per_layer), B: sp.Rational(1, 5)} for k in range(depth)]
    states, bottom = rational_sweep(depth, rows)
    values = rows if per_layer else rows[0]
    start, top = {Q: 2, GAP: sp.Rational(1, 2)}, [1, sp.Rational(1, 3)]
    exact = iterate_exact(RATIONAL, start, depth, values, top, digits=50)
    for index in range(2):
        assert abs(sp.Float(exact.gradient[0][index], 60) - bottom[index]) < sp.Rational(1, 10**48)
    assert abs(sp.Float(exact.forward[GAP][-1], 60) - states[-1][GAP]) < sp.Rational(1, 10**48)
    rounded = [{key: float(value) for key, value in row.items()} for row in rows]
    found = iterate(RATIONAL, {Q: 2, GAP: 0.5}, depth, rounded if per_layer else rounded[0], [1, 1 / 3])
    assert found.forward[Q][-1] == pytest.approx(float(states[-1][Q]), rel=1e-13)
    assert found.gradient[0].tolist() == pytest.approx([float(item) for item in bottom], rel=1e-13)


def test_arrays_of_parameters_broadcast():
    a = np.array([0.1, 0.2, 0.4])
    b = np.array([[0.3], [0.6]])
    found = iterate(RATIONAL, {Q: 2.0, GAP: 0.5}, 4, {A: a, B: b}, [1.0, 0.5])
    assert found.forward[Q].shape == (5, 2, 3) and found.gradient.shape == (5, 2, 2, 3)
    one = iterate(RATIONAL, {Q: 2.0, GAP: 0.5}, 4, {A: 0.2, B: 0.6}, [1.0, 0.5])
    assert found.gradient[0, :, 1, 1] == pytest.approx(one.gradient[0], rel=1e-14)


def test_no_layer_is_the_identity():
    found = iterate(RATIONAL, {Q: 2.0, GAP: 0.5}, 0, {A: 1, B: 1}, [3.0, 2.0])
    assert found.forward[Q].tolist() == [2.0] and found.gradient.tolist() == [[3.0, 2.0]]


def test_a_transformer_in_50_digits_in_numpy_and_in_generated_code():
    block = transformer()
    start = dict(zip(block.state, (1, sp.Rational(7, 10)), strict=True))
    values = {d: 16, n: 32, sigma_v2: sp.Rational(1, 16), sigma_up2: sp.Rational(1, 40), sigma_down2: sp.Rational(1, 40)}
    exact = iterate_exact(block, start, 6, values, [1, sp.Rational(4, 5)], digits=50)
    arguments = ({key: float(value) for key, value in start.items()}, 6,
                 {key: float(value) for key, value in values.items()}, [1.0, 0.8])
    for found in (iterate(block, *arguments), iterate(block, *arguments, compile=generated)):
        for symbol in block.state:
            want = [float(item) for item in exact.forward[symbol]]
            assert found.forward[symbol].tolist() == pytest.approx(want, rel=1e-12)
        assert found.gradient[0].tolist() == pytest.approx([float(item) for item in exact.gradient[0]], rel=1e-12)


def test_a_small_gap_keeps_its_digits():
    block = transformer()
    start = dict(zip(block.state, (1, sp.Rational(1, 10**14)), strict=True))
    values = {d: 16, n: 32, sigma_v2: sp.Rational(1, 16), sigma_up2: sp.Rational(1, 40), sigma_down2: sp.Rational(1, 40)}
    exact = iterate_exact(block, start, 5, values)
    found = iterate(block, {key: float(value) for key, value in start.items()}, 5,
                    {key: float(value) for key, value in values.items()}, compile=generated)
    gap = block.state[1]
    assert found.forward[gap][-1] == pytest.approx(float(exact.forward[gap][-1]), rel=1e-12)


@pytest.mark.parametrize(("start", "depth", "values", "gradient", "message"), [
    ({Q: 1}, 2, {A: 1, B: 1}, None, "start"),
    ({Q: 1, GAP: 1}, 2, {A: 1}, None, "values"),
    ({Q: 1, GAP: 1}, 2, {A: 1, B: 1, sp.Symbol("z"): 1}, None, "values"),
    ({Q: 1, GAP: 1}, 2, [{A: 1, B: 1}], None, "layers"),
    ({Q: 1, GAP: 1}, 1.5, {A: 1, B: 1}, None, "depth"),
    ({Q: 1, GAP: 1}, 2, {A: 1, B: 1}, [1.0], "moments"),
])
def test_missing_or_extra_values_are_named(start, depth, values, gradient, message):
    for sweep in (iterate, iterate_exact):
        with pytest.raises(InputError, match=message):
            sweep(RATIONAL, start, depth, values, gradient)
    with pytest.raises(InputError, match="square"):
        LayerMap({Q: Q}, sp.Matrix([[1, 2]]))


def test_a_block_with_a_mixture_activation_iterates_in_floats_and_in_fifty_digits():
    tokens = token_input(sp.Integer(8), sp.Integer(16), gaussian=True)
    branch = sequential(
        LayerNorm(), Linear(sp.Integer(32), sp.Rational(1, 16)), Elementwise(Silu()), Linear(sp.Integer(16), sp.Rational(1, 32))
    )
    layer = layer_map(trace_of(residual(branch), tokens))
    start = {tokens.q: sp.S.One, tokens.gap: sp.Rational(1, 2)}
    exact = iterate_exact(layer, start, 3, {}, [1, sp.Rational(1, 2)])
    floats = iterate(layer, {key: float(item) for key, item in start.items()}, 3, {}, [1.0, 0.5])
    for state in layer.state:
        assert floats.forward[state][-1] == pytest.approx(float(exact.forward[state][-1]), rel=1e-13)
    assert floats.gradient[0] == pytest.approx([float(item) for item in exact.gradient[0]], rel=1e-13)


def test_kernels_of_arrays_keep_their_digits():
    for k in (0, 1, 2):
        for gap in (1e-300, 1e-12, 1e-3, 0.4999, 0.5, 0.7, 1.3, 1.999999, 2.0):
            exact = arc_cosine(k, mpmath.mpf(3 * gap), mpmath.mpf(3))
            assert abs(float(arc_cosine_array(k, 3 * gap, 3.0)) / float(exact) - 1) < 2e-14 if float(exact) else True
    assert arc_cosine_array(1, 0.0, 0.0) == 0


def test_a_grid_with_early_exit_ends_where_the_loop_does():
    trace = trace_of(post_norm(sequential(Linear(d, 2 / d), Elementwise(Relu()), Linear(d, 1 / d)), 1, alpha_1), TOKENS)
    layer = layer_map(trace, backward=False)
    strengths = np.array([[0.0, 0.1], [1.0, 5.0]])
    start = {TOKENS.q: 1.0, TOKENS.gap: 0.5}
    whole = iterate(layer, start, 60, {alpha_1: strengths}).forward[TOKENS.gap]
    found = iterate_until(layer, start, 60, {alpha_1: strengths}, share=0.02)
    assert found.layers.shape == strengths.shape
    for index in np.ndindex(strengths.shape):
        stop = found.layers[index]
        assert found.states[TOKENS.gap][index] == pytest.approx(whole[(stop, *index)], rel=1e-14)
        assert found.collapsed[index] == (whole[(stop, *index)] < 0.02)
        assert stop == 60 or whole[(stop - 1, *index)] >= 0.02
    nothing = iterate_until(layer, start, 0, {alpha_1: strengths})
    assert (nothing.layers == 0).all() and (nothing.states[TOKENS.gap] == 0.5).all()


def test_tiny_gaps_keep_every_digit_over_depth():
    trace = trace_of(post_norm(sequential(Linear(d, 2 / d), Elementwise(Relu()), Linear(d, 1 / d)), 1, alpha_1), TOKENS)
    layer = layer_map(trace, backward=False)
    for gap in (1e-300, 1e-30, 1e-3):
        values, start = {alpha_1: sp.S.Half}, {TOKENS.q: sp.Integer(1), TOKENS.gap: sp.Rational(gap)}
        exact = iterate_exact(layer, start, 40, values).forward[TOKENS.gap][-1]
        found = iterate(layer, {TOKENS.q: 1.0, TOKENS.gap: gap}, 40, {alpha_1: 0.5}).forward[TOKENS.gap][-1]
        assert abs(float(found / exact - 1)) < 40 * 4e-16


def test_settled_points_stop():
    layer = LayerMap({Q: 1 + Q / 2, GAP: GAP / 2 + sp.S.Half})
    found = iterate_until(layer, {Q: 1, GAP: [1, 4]}, 1000, change=1e-12)
    assert found.settled.all() and (found.layers < 60).all() and np.allclose(found.states[GAP], 1)


def test_a_state_that_is_complex_by_rounding_has_no_value():
    compute = mpmath_compile((GAP,), (OverlapGap(sp.S.One, sp.sqrt(GAP), sp.Integer(4)),))
    (value,), (lost,) = compute(mpmath.mpf("0.04")), compute(mpmath.mpf("-1e-40"))
    assert 0 < value < 1 and mpmath.isnan(lost)
