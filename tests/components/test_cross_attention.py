"""Cross-attention: against self-attention where both sequences are one in law, and against torch autograd."""

import math

import numpy as np
import pytest
import sympy as sp
import torch

from symprop.components import Attention, CrossAttention
from symprop.core import symbols
from symprop.core.errors import RefusedError
from symprop.core.signal import Gradient, Signal

WIDTH, KEY_WIDTH = 64, 32


def sequence(count, q, gap, label="X", **more):
    return Signal(q=sp.nsimplify(q), gap=sp.nsimplify(gap), tokens=sp.Integer(count), width=sp.Integer(WIDTH), gaussian=True,
                  label=label, **more)


def layer(std, dropout=0.0, **more):
    score = sp.nsimplify(std) / WIDTH
    return CrossAttention(KEY_WIDTH, sp.Rational(1, WIDTH), KEY_WIDTH, score, score, sp.nsimplify(dropout), **more)


def number(expression):
    return float(sp.N(expression, 15))


def measured(queries, memory, std, r_g, dropout, draws, seed):
    """Means and standard errors over draws of tokens, weights and gradients."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, variance=1.0):
        return torch.randn(draws, *shape, generator=generator, dtype=torch.float64) * math.sqrt(variance)

    def tokens(signal):
        q, gap, count = float(signal.q), float(signal.gap), int(signal.tokens)
        return (normal(1, WIDTH, variance=q - gap) + normal(count, WIDTH, variance=gap)).requires_grad_()

    y, x = tokens(queries), tokens(memory)
    query, key = (normal(WIDTH, KEY_WIDTH, variance=std / WIDTH).requires_grad_() for _ in range(2))
    value = normal(WIDTH, KEY_WIDTH, variance=1 / WIDTH).requires_grad_()
    weights = torch.softmax((y @ query) @ (x @ key).transpose(1, 2) / math.sqrt(KEY_WIDTH), -1)
    if dropout:
        weights = weights * (torch.rand(weights.shape, generator=generator) >= dropout) / (1 - dropout)
    output = weights @ (x @ value)
    g = normal(1, KEY_WIDTH, variance=r_g) + normal(y.shape[1], KEY_WIDTH, variance=1 - r_g)
    (output * g).sum().backward()
    rows = {}
    for name, item in (("out", output.detach()), ("y", y.grad), ("x", x.grad)):
        count = item.shape[1]
        rows[f"{name}_q"] = item.square().mean((1, 2))
        rows[f"{name}_p"] = (item.sum(1).square().mean(1) - count * rows[f"{name}_q"]) / (count * (count - 1))
    for name, weight in (("query", query), ("key", key), ("value", value)):
        rows[name] = weight.grad.square().sum((1, 2))
    return {name: (float(row.mean()), float(row.std()) / math.sqrt(draws)) for name, row in rows.items()}


def predicted(component, queries, memory, r_g):
    g = Gradient(sp.Integer(1), 1 - sp.nsimplify(r_g))
    out, (back_y, back_x) = component.forward(queries, memory), component.backward(g, queries, memory)
    weights = component.weight_gradients(g, queries, memory)
    found = {"out_q": out.q, "out_p": out.p, "y_q": back_y.q, "y_p": back_y.p, "x_q": back_x.q, "x_p": back_x.p,
             "query": weights.query, "key": weights.key, "value": weights.value}
    return {name: number(value) for name, value in found.items()}


# Tokens, moments of both sequences, deviation of raw scores, gradient correlation and dropout.
CELLS = [
    ((24, 2, 0.6), (6, 0.5, 0.4), 1.5, 0.3, 0.0),
    pytest.param(((12, 1, 0.7), (20, 1, 0.9), 1.0, 0.2, 0.0), marks=pytest.mark.slow),
    pytest.param(((5, 1, 1), (40, 1, 0.5), 2.0, 0.0, 0.1), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("cell", CELLS)
def test_moments_are_those_of_autograd(cell):
    first, second, std, r_g, dropout = cell
    queries, memory = sequence(*first), sequence(*second)
    simulation = measured(queries, memory, std, r_g, dropout, 4000, 1)
    for name, value in predicted(layer(std, dropout), queries, memory, r_g).items():
        mean, error = simulation[name]
        # Second order in 1/d_k + 2/d is .004, and the weights' gradients have it up to four times.
        assert abs(value - mean) <= 4 * error + 0.015 * abs(mean), (name, value, mean, error)


@pytest.mark.parametrize("level", ["uniform", "closed_form", "exact", "reference"])
def test_two_sequences_of_one_law_are_self_attention(level):
    """Forward and for the weights; the two input gradients add up to that of self-attention."""
    x, g = sequence(16, 1, 0.6), Gradient(sp.Integer(1), sp.Rational(4, 5))
    cross = layer(0.2, 0.1, level=level)
    score = sp.Rational(1, 5) / WIDTH
    alone = Attention(KEY_WIDTH, sp.Rational(1, WIDTH), KEY_WIDTH, score, score, sp.Rational(1, 10), level=level)
    one, two = cross.forward(x, x), alone.forward(x)
    assert number(one.q) == pytest.approx(number(two.q), rel=1e-13)
    assert number(one.gap) == pytest.approx(number(two.gap), rel=1e-13)
    parts, (whole,) = cross.backward(g, x, x), alone.backward(g, x)
    assert sum(number(part.q) for part in parts) == pytest.approx(number(whole.q), rel=1e-13)
    assert sum(number(part.gap) for part in parts) == pytest.approx(number(whole.gap), rel=1e-12)
    ours, theirs = cross.weight_gradients(g, x, x), alone.weight_gradients(g, x)
    for name in ("query", "key", "value"):
        assert number(getattr(ours, name)) == pytest.approx(number(getattr(theirs, name)), rel=1e-13)


def test_key_gradients_sum_to_the_output_gradients():
    m, n = sp.symbols("m n", integer=True, positive=True)
    queries, memory = sequence(7, 1, 0.6).replace(tokens=m), sequence(11, 1, 0.8).replace(tokens=n)
    g = Gradient(symbols.s2, symbols.s2 * (1 - symbols.r_g))
    back = layer(1.2, level="uniform").backward(g, queries, memory)[1]
    half = sp.Rational(KEY_WIDTH, WIDTH)
    assert sp.simplify(n * back.q + n * (n - 1) * back.p - half * (m * g.q + m * (m - 1) * g.p)) == 0


@pytest.mark.parametrize("gap", [sp.S.Zero, sp.Rational(1, 10**300)])
def test_nearly_equal_queries_make_nearly_equal_outputs(gap):
    queries, memory = sequence(4, 1, 1).replace(gap=gap), sequence(9, 1, 0.5)
    out, (back, _) = layer(1.0).forward(queries, memory), layer(1.0).backward(Gradient(sp.S.One, sp.S.Zero), queries, memory)
    unit = layer(1.0).forward(sequence(4, 1, 1), memory)
    assert 0 <= number(out.gap) <= 4 * float(gap) and (gap == 0) == (number(out.gap) == 0)
    assert 0.5 < number(out.q) < 1 and number(out.q) == pytest.approx(number(unit.q), rel=1e-12)
    assert number(back.q) > 0


def test_one_key_leaves_nothing_to_choose():
    queries, memory = sequence(4, 1, 0.5), sequence(1, 1, 0)
    component, g = layer(1.0, 0.25), Gradient(sp.Integer(1), sp.Integer(1))
    out, (to_queries, to_keys) = component.forward(queries, memory), component.backward(g, queries, memory)
    # Every output is the one value over 1 - P, kept with probability 1 - P.
    assert (number(out.q), number(out.p)) == pytest.approx((4 / 3, 1))
    assert (to_queries.q, number(to_keys.q), to_keys.gap) == (0, pytest.approx(KEY_WIDTH / WIDTH * 4 * 4 / 3), 0)


def test_one_query_is_one_row():
    queries, memory = sequence(1, 1, 0), sequence(9, 1, 0.5)
    out = layer(1.0).forward(queries, memory)
    to_queries, to_keys = layer(1.0).backward(Gradient(sp.S.One, sp.S.Zero), queries, memory)
    assert (out.tokens, out.gap, to_queries.gap) == (1, 0, 0)
    assert number(9 * to_keys.q + 72 * to_keys.p) == pytest.approx(KEY_WIDTH / WIDTH, rel=1e-12)


def test_signals_without_moments_are_refused_by_name():
    component, x = layer(1.0), sequence(4, 1, 0.5, "Y")
    with pytest.raises(RefusedError, match="got 1 signal"):
        component.forward(x)
    with pytest.raises(RefusedError, match=r"of Y.*fixed norm"):
        component.forward(x.replace(fixed_norm=symbols.d), x)
    with pytest.raises(RefusedError, match="widths 8 and 64 differ"):
        component.forward(x.replace(width=sp.Integer(8)), x)


def test_sampler_has_the_tokens_of_the_queries():
    rng = np.random.default_rng(1)
    y, x = rng.standard_normal((2, 3, WIDTH)), rng.standard_normal((2, 5, WIDTH))
    output, vjp = layer(1.0, 0.2, heads=2).sample(y, x, rng=rng, values={})
    assert output.shape == (2, 3, KEY_WIDTH)
    assert [item.shape for item in vjp(np.ones_like(output))] == [y.shape, x.shape]
