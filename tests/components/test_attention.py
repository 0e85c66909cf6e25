"""Softmax attention and the softmax of a row: weight moments, symbolic identities, the real sampler, torch."""

import math

import numpy as np
import pytest
import sympy as sp

from symprop.components import UniformAttention
from symprop.components.attention import Attention, by_shared_length
from symprop.components.softmax import Softmax
from symprop.core import symbols
from symprop.core.errors import InputError, RefusedError
from symprop.core.expression import compare
from symprop.core.signal import Gradient, Signal
from symprop.functions.depth_nodes import ExpMinusOne
from symprop.functions.softmax_expansion import weight_moment
from symprop.functions.softmax_layer import small_scores
from symprop.functions.softmax_overlap import (
    OverlapGap,
    Participation,
    RowGap,
    RowOverlap,
    SoftmaxSlope,
    WeightGap,
    expanded,
    softmax_gradient,
    softmax_variance,
)
from symprop.functions.softmax_values import value as double
from symprop.wick import mean_gradient_norm, output_norm_beyond_uniform, token_average

a, g = sp.symbols("a g", positive=True)
n, d = symbols.n, symbols.d


def value(expression, order=1):
    return float(sp.N(expanded(sp.sympify(expression), order), 25))


def moments(x):
    count = x.shape[1]
    second = (x**2).mean(axis=(1, 2))
    common = (x.mean(axis=1) ** 2).mean(axis=1)
    return np.column_stack([second, (second - common) * count / (count - 1)])


def adjusted(samples, controls):
    """Means and standard errors after regression on controls of known mean zero."""
    controls = controls[:, controls.std(axis=0) > 0]
    design = np.column_stack([np.ones(len(samples)), controls])
    coefficients = np.linalg.lstsq(design, samples, rcond=None)[0]
    rest = samples - design @ coefficients
    return coefficients[0], rest.std(axis=0, ddof=design.shape[1]) / math.sqrt(len(samples))


# Moments of the weights.


def test_the_delta_method_gives_the_known_leading_terms():
    _, X, Y = sp.symbols("m X Y")
    square = [c.as_expr() for c in weight_moment(((2, 0),), 1)]
    assert [sp.expand(c.subs({X: sp.exp(a)})) for c in square] == [
        sp.exp(a),
        sp.expand(-sp.exp(a) * (2 * (sp.exp(2 * a) - 1) - 3 * (sp.exp(a) - 1))),
    ]
    overlap = weight_moment(((1, 1),), 1)[1].as_expr()
    assert sp.expand(overlap - (Y * (Y - 1) - 2 * Y * (X * Y - X))) == 0
    # Equal rows: Y = X.
    assert sp.expand(overlap.subs(Y, X) - square[1]) == 0


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("node", [Participation, WeightGap, SoftmaxSlope])
def test_what_an_expansion_neglects_falls_at_its_order(node, order):
    errors = []
    for tokens in (64, 128):
        exact = sp.N(node(sp.Rational(1, 5), tokens), 20)
        errors.append(abs(sp.N(node(sp.Rational(1, 5), tokens).expansion(order), 20) / exact - 1))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order + 1, abs=0.15)


def test_the_expansions_of_two_rows_fall_at_their_order():
    exact = sp.N(RowOverlap(sp.Rational(1, 5), sp.Rational(1, 10), 40), 15)
    errors = [
        abs(sp.N(RowOverlap(sp.Rational(1, 5), sp.Rational(1, 10), 40).expansion(order), 20) / exact - 1)
        for order in range(3)
    ]
    # The next term of each: about 1/40 of the one before.
    assert errors[0] < 1e-2 and errors[1] < 2e-4 and errors[2] < 1e-5
    assert errors[2] < errors[1] / 10 < errors[0] / 100


def test_exact_values_are_those_of_drawn_weights():
    rng = np.random.default_rng(0)
    tokens, variance, score_gap = 6, 0.5, 0.2
    common = math.sqrt(variance - score_gap) * rng.standard_normal((200_000, tokens))
    rows = [np.exp(common + math.sqrt(score_gap) * rng.standard_normal(common.shape)) for _ in range(2)]
    one, two = (row / row.sum(axis=1, keepdims=True) for row in rows)
    square, product = (one**2).sum(axis=1), (one * two).sum(axis=1)
    own, pair = (sp.Rational(1, 2), tokens), (sp.Rational(1, 2), sp.Rational(1, 5), tokens)
    measured = {
        Participation(*own): square,
        SoftmaxSlope(*own): (square - 2 * (one**3).sum(axis=1) + square**2) / (tokens - 1),
        RowOverlap(*pair): product,
        RowGap(*pair): ((one - two) ** 2).sum(axis=1) / 2,
    }
    for node, samples in measured.items():
        error = samples.std() / math.sqrt(len(samples))
        assert abs(samples.mean() - float(sp.N(node, 12))) < 4 * error, node


def test_gaps_are_differences_of_the_moments():
    own, pair = (sp.Rational(1, 10), 5), (sp.Rational(1, 10), sp.Rational(1, 20), 5)
    chi, overlap = sp.N(Participation(*own), 15), sp.N(RowOverlap(*pair), 15)
    assert sp.N(WeightGap(*own), 12) == pytest.approx((5 * chi - 1) / 4, rel=1e-11)
    assert sp.N(RowGap(*pair), 12) == pytest.approx(chi - overlap, rel=1e-10)
    for order in (0, 1, 2):
        difference = Participation(a, n).expansion(order) - RowOverlap(a, g, n).expansion(order)
        rest = (difference - RowGap(a, g, n).expansion(order)).subs(a, g + symbols.q)
        assert sp.expand(rest.replace(ExpMinusOne, lambda x: sp.exp(x) - 1), power_exp=True) == 0
    assert compare(OverlapGap(a, sp.S.Zero, n).expansion(2), WeightGap(a, n).expansion(2)).equal


@pytest.mark.parametrize(("a", "g", "n"), [
    (2, 1, 8), (2, sp.Rational(1, 3), 3), pytest.param(1, 1 - sp.Rational(1, 2**30), 5, marks=pytest.mark.slow),
])
def test_an_overlap_gap_in_doubles_is_the_exact_one(a, g, n):
    """At a correlation that is large, and at one that vanishes."""
    node = OverlapGap(sp.sympify(a), sp.sympify(g), sp.sympify(n))
    assert double(node) == pytest.approx(float(sp.N(node, 20)), rel=1e-9, abs=0)


def test_edges_are_structural():
    assert Participation(0, n) == RowOverlap(0, 0, n) == RowOverlap(a, a, n) == 1 / n
    assert Participation(a, 1) == RowOverlap(a, g, 1) == 1
    assert WeightGap(0, n) == RowGap(a, 0, n) == OverlapGap(a, a, n) == RowGap(a, g, 1) == SoftmaxSlope(a, 1) == 0
    assert RowOverlap(a, 0, n) == Participation(a, n)
    with pytest.raises(InputError):
        Participation(a, n).expansion(-1)


# The component, symbolically.


def test_zero_score_variance_is_uniform_attention():
    q, gap, s, s_gap = sp.symbols("q_x gap_x s_x s_gap", positive=True)
    x = Signal(q=q, gap=gap, tokens=n, width=d, gaussian=True)
    attention, uniform = Attention(symbols.d_o, symbols.sigma_v2), UniformAttention(symbols.d_o, symbols.sigma_v2)
    got, wanted = attention.forward(x), uniform.forward(x)
    assert sp.expand(got.q - wanted.q) == 0 and got.gap == wanted.gap == 0 and got.width == wanted.width
    (back,), (reference,) = (item.backward(Gradient(s, s_gap), x) for item in (attention, uniform))
    assert sp.expand(back.q - reference.q) == 0 and sp.expand(back.gap) == reference.gap == 0


def test_a_single_token_attends_to_itself():
    x = Signal(q=symbols.q, gap=sp.S.Zero, tokens=sp.S.One, width=d, gaussian=True)
    attention = Attention(d, 1 / d, symbols.d_k, symbols.sigma_q2, symbols.sigma_k2, symbols.P)
    y = attention.forward(x)
    assert compare(y.q, symbols.q / (1 - symbols.P)).equal and y.gap == 0
    (back,) = attention.backward(Gradient(symbols.s2, sp.S.Zero), x)
    assert compare(back.q, symbols.s2 / (1 - symbols.P)).equal and back.gap == 0


LAYER = Attention(symbols.d_o, symbols.sigma_v2, symbols.d_k, symbols.sigma_q2, symbols.sigma_k2, temperature=symbols.tau)


CORRELATED = Signal(
    q=symbols.sigma_x2, gap=symbols.sigma_x2 * (1 - symbols.rho), tokens=n, width=d, gaussian=True
)


def square(size):
    """As many tokens as coordinates and keys."""
    return {
        n: size, d: size, symbols.d_o: size, symbols.d_k: size, symbols.rho: sp.Rational(3, 10),
        symbols.sigma_x2: sp.Rational(11, 10), symbols.sigma_q2: 1, symbols.sigma_k2: 1, symbols.sigma_v2: 1,
    }  # fmt: skip


def strength_coefficient(expression):
    """Coefficient of tau^2 of an expression, with its weight moments expanded."""
    return sp.diff(small_scores(expression), symbols.tau, 2).subs(symbols.tau, 0) / 2


@pytest.mark.parametrize("size", [20, 80])
def test_leading_order_forward_is_that_of_the_wick_calculus(size):
    numbers = square(size)
    ours = strength_coefficient(LAYER.forward(CORRELATED).q).subs(numbers)
    norm = token_average(output_norm_beyond_uniform()).expression
    theirs = sp.expand(norm).coeff(symbols.tau, 2).subs(numbers)
    # Neglected: 1/(n d) against 1/n + 1/d, so about 2/size.
    assert abs(ours * size * size / theirs - 1) < 4 / size


@pytest.mark.parametrize("size", [20, 80])
def test_leading_order_backward_is_that_of_the_wick_calculus(size):
    numbers = square(size)
    (back,) = LAYER.backward(Gradient(sp.S.One, sp.S.One), CORRELATED)
    # The calculus takes the weights 1/n in both factors: no change of the value path, no product of value and key path.
    value_path = symbols.d_o * symbols.sigma_v2 * (LAYER.moment("own", CORRELATED) + LAYER.moment("slope", CORRELATED) / d)
    ours = strength_coefficient(back.q - value_path).subs(numbers)
    theirs = sp.expand(mean_gradient_norm("X").expression).coeff(symbols.tau, 2).subs(numbers)
    assert abs(ours * size * size / theirs - 1) < 4 / size


def test_gaps_keep_their_relative_accuracy_near_collapse():
    q = sp.S.One
    results = []
    for exponent in (4, 14):
        gap = sp.Rational(1, 10**exponent)
        x = Signal(q=q, gap=gap, tokens=sp.Integer(16), width=sp.Integer(64), gaussian=True)
        layer = Attention(64, sp.Rational(1, 64), 64, sp.Rational(1, 64), sp.Rational(1, 64))
        y, (back,) = layer.forward(x), layer.backward(Gradient(sp.S.One, gap), x)
        # Every power of the gap but the leading one is gone at 1e-14.
        results.append((double(y.gap) / float(gap) ** 3, double(back.gap) / float(gap)))
    assert results[1] == pytest.approx(results[0], rel=1e-3)
    first = small_scores(y.gap), small_scores(back.gap)
    assert [double(item) for item in (y.gap, back.gap)] == pytest.approx([float(item) for item in first], rel=1e-8)


def test_refusals():
    x = Signal(q=symbols.q, gap=symbols.gap, tokens=n, width=d)
    for component in (*Attention.examples(), *Softmax.examples()):
        with pytest.raises(RefusedError, match="not Gaussian"):
            component.forward(x)
    with pytest.raises(InputError):
        Attention(d, 1 / d, dropout=1)
    with pytest.raises(InputError):
        Attention(5, 1, heads=2).sample(np.zeros((1, 2, 3)), rng=np.random.default_rng(0), values={})


# The component against the real operation.


def simulate(layer, tokens, width, rho, rho_g, draws, seed):
    """(q, gap) of output and of the input gradient, with standard errors, after control by the inputs."""
    rng = np.random.default_rng(seed)
    collected, controls = [], []
    for _ in range(20):
        shape = (draws // 20, tokens, width)
        x, upstream = (
            math.sqrt(r) * rng.standard_normal((shape[0], 1, width)) + math.sqrt(1 - r) * rng.standard_normal(shape)
            for r in (rho, rho_g)
        )
        y, vjp = layer.sample(x, rng=rng, values={})
        collected.append(np.column_stack([moments(y), moments(vjp(upstream)[0])]))
        controls.append(
            np.column_stack([moments(x) - [1, 1 - rho], moments(upstream) - [1, 1 - rho_g]])
        )
    return adjusted(np.concatenate(collected), np.concatenate(controls))


@pytest.mark.parametrize(
    ("dropout", "rho", "rho_g", "heads"),
    [(sp.S.Zero, 0.3, 0.5, 1), (sp.Rational(1, 5), 0.5, 0.2, 2), (sp.Rational(1, 10), 0.0, 0.6, 4)],
)
def test_moments_are_those_of_the_sampler(dropout, rho, rho_g, heads):
    tokens, width, omega = 24, 48, sp.Rational(1, 4)
    weight = sp.sqrt(omega) / width
    layer = Attention(width, sp.Rational(1, width), 48, weight, weight, dropout, heads=heads)
    measured, error = simulate(layer, tokens, width, rho, rho_g, 4000, 5)
    r, r_g = sp.nsimplify(rho), sp.nsimplify(rho_g)
    x = Signal(q=sp.S.One, gap=1 - r, tokens=sp.Integer(tokens), width=sp.Integer(width), gaussian=True)
    y, (back,) = layer.forward(x), layer.backward(Gradient(sp.S.One, 1 - r_g), x)
    theory = np.array([double(item) for item in (y.q, y.gap, back.q, back.gap)])
    # Neglected: second order in 1/d_k + 2/d, which is 0.06 here.
    assert np.all(abs(theory - measured) < 4 * error + 0.06**2 * theory)
    uniform = Attention(width, sp.Rational(1, width), dropout=dropout)
    (plain,) = uniform.backward(Gradient(sp.S.One, 1 - r_g), x)
    assert abs(double(plain.q) - measured[2]) > 0.03 * measured[2] > 6 * error[2]


def test_vjp_is_that_of_torch():
    torch = pytest.importorskip("torch")
    tokens, width, key_width, heads, keep = 4, 6, 3, 2, 0.7
    layer = Attention(8, 0.3, key_width, 0.4, 0.5, sp.Rational(3, 10), 1.5, heads)
    x = np.random.default_rng(1).standard_normal((3, tokens, width))
    upstream = np.random.default_rng(2).standard_normal((3, tokens, 8))
    y, vjp = layer.sample(x, rng=np.random.default_rng(3), values={})
    rng = np.random.default_rng(3)
    values = torch.tensor(rng.standard_normal((3, width, 8)) * 0.3**0.5)
    rng = rng.spawn(1)[0]
    inputs = torch.tensor(x, requires_grad=True)
    outputs = []
    for head in range(heads):
        query = torch.tensor(rng.standard_normal((3, width, key_width)) * 0.4**0.5)
        key = torch.tensor(rng.standard_normal((3, width, key_width)) * 0.5**0.5)
        mask = torch.tensor((rng.random((3, tokens, tokens)) < keep) / keep)
        scores = 1.5 * (inputs @ query) @ (inputs @ key).transpose(1, 2) / math.sqrt(key_width)
        outputs.append(torch.softmax(scores, dim=2) * mask @ inputs @ values[:, :, 4 * head : 4 * head + 4])
    result = torch.cat(outputs, dim=2)
    result.backward(torch.tensor(upstream))
    assert y == pytest.approx(result.detach().numpy(), rel=1e-10, abs=1e-12)
    assert vjp(upstream)[0] == pytest.approx(inputs.grad.numpy(), rel=1e-10, abs=1e-12)


# The softmax of a row.


def test_softmax_of_a_row_against_its_sampler():
    tokens, gap = 8, sp.Rational(2, 5)
    rng = np.random.default_rng(3)
    x = 0.5 * rng.standard_normal((20_000, 1, 6)) + float(gap) ** 0.5 * rng.standard_normal((20_000, tokens, 6))
    upstream = rng.standard_normal((20_000, 1, 6)) + 0.7 * rng.standard_normal(x.shape)
    weights, vjp = Softmax().sample(x, rng=rng, values={})
    signal = Signal(q=gap + sp.Rational(1, 4), gap=gap, tokens=sp.Integer(tokens), width=sp.Integer(6), gaussian=True)
    y = Softmax().forward(signal)
    (back,) = Softmax().backward(Gradient(sp.Rational(149, 100), sp.Rational(49, 100)), signal)
    for theory, measured in ((y, moments(weights)), (back, moments(vjp(upstream)[0]))):
        error = measured.std(axis=0) / math.sqrt(len(measured))
        exact = np.array([float(sp.N(theory.q, 12)), float(sp.N(theory.gap, 12))])
        assert np.all(abs(exact - measured.mean(axis=0)) < 4 * error)
    assert weights.mean() == pytest.approx(float(y.mean), rel=1e-12)


def test_the_leading_order_of_the_literature_misses_one_over_n():
    exact_variance, exact_gradient = (sp.N(f(sp.S.One, 300), 12) for f in (softmax_variance, softmax_gradient))
    leading = (sp.E - 1) / sp.Integer(300) ** 2
    assert sp.N(leading / exact_variance - 1) > 0.03
    assert abs(value(softmax_variance(sp.S.One, sp.Integer(300)), 1) / exact_variance - 1) < 0.005
    assert abs(value(softmax_variance(sp.S.One, sp.Integer(300)), 2) / exact_variance - 1) < 0.001
    assert sp.N(sp.E / 300**2 / exact_gradient - 1) > 0.05
    assert abs(value(softmax_gradient(sp.S.One, sp.Integer(300)), 1) / exact_gradient - 1) < 0.012


def test_two_lengths_of_what_tokens_shared_have_the_moments_of_a_gamma_law():
    x = Signal(q=sp.Integer(1), gap=sp.Rational(2, 5), tokens=n, width=d, fixed_norm=sp.Integer(7))
    spread = 2 * sp.Rational(3, 5) ** 2 / 7
    parts = by_shared_length(x)
    for power, moment in enumerate((1, 1, 1 + spread, (1 + spread) * (1 + 2 * spread))):
        assert sp.simplify(sum(share * (part.gap / x.gap) ** power for share, part in parts) - moment) == 0
    assert by_shared_length(x.replace(fixed_norm=None)) == ((1, x.replace(fixed_norm=None)),)


def test_the_size_of_tokens_of_fixed_norm_is_that_of_the_scores():
    x = Signal(q=sp.Integer(1), gap=sp.Rational(7, 10), tokens=sp.Integer(6), width=sp.Integer(16), gaussian=True,
               fixed_norm=sp.Integer(16))
    larger, one = x.replace(q=4 * x.q, gap=4 * x.gap), sp.Rational(1, 16)
    plain, smaller = (Attention(8, one, 8, query, one) for query in (one, one / 16))
    assert smaller.score_variance(larger) == plain.score_variance(x)
    assert sp.cancel(smaller._lost_norm(larger) / plain._lost_norm(x)) == 4
