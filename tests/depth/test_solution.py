"""Depth solutions and their limits against layers iterated one by one, and what a solution stands on."""

import time
from dataclasses import dataclass, replace
from fractions import Fraction

import mpmath
import pytest
import sympy as sp

from symprop.codegen.render import load
from symprop.codegen.spec import FunctionSpec, evaluate, parameters
from symprop.components import Dropout, Elementwise, LayerScale, Linear, UniformAttention
from symprop.components.base import PairState
from symprop.core.errors import InputError, RefusedError
from symprop.core.symbols import K_ij, L, P, a_1, alpha_1, alpha_2, d, n, sigma_b2, sigma_x2
from symprop.depth.solution import solve
from symprop.functions.activation import Relu
from symprop.network import residual, sequential, stack, token_input

X = token_input()
BIAS = 2
AT = {n: 4, sigma_b2: BIAS, P: sp.Rational(1, 3), X.q: 1, X.gap: sp.Rational(1, 2), d: 10}
"""The point of all iterations by hand."""


@dataclass(frozen=True)
class Wrong(Linear):
    """A linear layer whose rule for entries of the Gram matrix takes a part of their average for their own."""

    share: sp.Expr = sp.S.Zero

    def pair(self, *states: PairState) -> PairState:
        found = super().pair(*states)
        return replace(found, entry=found.entry + self.share * states[0].average)


def test_pair_rules_that_disagree_with_the_exchangeable_map_are_noticed():
    for share in (sp.S.Zero, sp.Rational(1, 1000)):
        block = stack(residual(Wrong(d, 1 / d, share=share), alpha_1))
        if share == 0:
            solve(block)
        else:
            with pytest.raises(AssertionError, match=r"disagree|different"):
                solve(block)


def mean_of_all(q, gap):
    return q - 3 * gap / 4


# Branches of blocks, each with what it makes of (q, gap) by hand.
BRANCHES = {
    "bias": (Linear(d, 1 / d, sigma_b2), lambda q, gap: (q + BIAS, gap)),
    "attention": (UniformAttention(d, 1 / d), lambda q, gap: (mean_of_all(q, gap), 0 * gap)),
    "attention, bias": (
        sequential(UniformAttention(d, 1 / d), Linear(d, 1 / d, sigma_b2)),
        lambda q, gap: (mean_of_all(q, gap) + BIAS, 0 * gap),
    ),
    "attention, dropout": (
        sequential(UniformAttention(d, 1 / d), Dropout(P)),
        lambda q, gap: (3 * mean_of_all(q, gap) / 2, mean_of_all(q, gap) / 2),
    ),
    "dropout, attention": (
        sequential(Dropout(P), UniformAttention(d, 1 / d)), lambda q, gap: (mean_of_all(3 * q / 2, gap + q / 2), 0 * gap),
    ),
}  # fmt: skip


def iterate(name, depth, weight2, skip2=1, kind=Fraction):
    """(q, gap) after so many layers of squared branch weight ``weight2`` on a stream of squared weight ``skip2``."""
    q, gap = kind(1), kind(1) / 2
    for _ in range(depth):
        branch = BRANCHES[name][1](q, gap)
        q, gap = skip2 * q + weight2 * branch[0], skip2 * gap + weight2 * branch[1]
    return q, gap


def exact(value):
    return sp.Rational(value.numerator, value.denominator)


def number(expression, more=None):
    """Exactly, at the point of the iterations."""
    return sp.sympify(expression).subs({**AT, **(more or {})}).rewrite(sp.Pow)


@pytest.mark.parametrize("name", BRANCHES)
@pytest.mark.parametrize(("weight", "skip"), [(sp.Rational(1, 2), 1), (sp.Rational(1, 2), sp.Rational(2, 3)), (1, 0)])
def test_solution_is_the_iterated_block(name, weight, skip):
    net = solve(stack(residual(BRANCHES[name][0], alpha_1, skip), L))
    for depth in (1, 2, 40):
        expected = iterate(name, depth, Fraction(str(weight)) ** 2, Fraction(str(skip)) ** 2)
        found = net.signal.q, net.signal.gap
        own = solve(stack(residual(BRANCHES[name][0], weight, skip), depth)).signal
        for symbolic, written, value in zip(found, (own.q, own.gap), expected, strict=True):
            assert number(symbolic, {alpha_1: weight, L: depth}) == exact(value)
            assert number(written) == exact(value)
        if expected[1] != 0:
            growth = mean_of_all(*expected) / mean_of_all(1, Fraction(1, 2)) / (2 * expected[1])
            assert number(net.excess, {alpha_1: weight, L: depth}) == exact(growth) - 1


@pytest.mark.parametrize("name", BRANCHES)
@pytest.mark.parametrize("skip", [1, sp.sqrt(1 - a_1 / L)])
def test_scaling_limit_is_approached_at_the_rate_of_one_layer(name, skip):
    """alpha_1^2 = a_1/L with a_1 = 1/2: doubling the depth halves the distance."""
    limit = solve(stack(residual(BRANCHES[name][0], alpha_1, skip), L)).scaling_limit({alpha_1: sp.sqrt(a_1 / L)})
    end = [float(value.subs({**AT, a_1: sp.Rational(1, 2)})) for value in (limit.signal.q, limit.signal.gap)]
    errors = []
    for depth in (2000, 4000):
        weight2 = 1 / 2 / depth
        path = iterate(name, depth, weight2, 1 if skip == 1 else 1 - weight2, float)
        errors.append([reached - value for reached, value in zip(path, end, strict=True)])
    for first, second in zip(*errors, strict=True):
        assert abs(second) < 1e-3 and abs(first - 2 * second) <= 2e-3 * abs(first) + 1e-11
    q, gap = end
    common = mean_of_all(q, gap) / mean_of_all(1, 0.5)
    assert float(limit.excess.subs({**AT, a_1: sp.Rational(1, 2)})) == pytest.approx(common / (gap / 0.5) - 1, rel=1e-12)


def test_bias_limits_by_hand():
    """q + b grows by 1 + alpha^2: three becomes 3 e^(1/2), of which b = 2 are no part."""
    net = solve(stack(residual(Linear(d, 1 / d, sigma_b2), alpha_1), L))
    limit = net.scaling_limit({alpha_1: sp.sqrt(a_1 / L)}).signal
    assert sp.simplify(limit.q.subs({**AT, a_1: sp.Rational(1, 2)}).rewrite(sp.Pow) - (3 * sp.exp(sp.Rational(1, 2)) - 2)) == 0
    assert net.correlation_limit().subs({**AT, alpha_1: sp.Rational(1, 2)}) == sp.Rational(5, 6)


@pytest.mark.parametrize("name", BRANCHES)
@pytest.mark.parametrize(
    ("weight", "skip"), [("1/2", "1"), ("1/2", "4/5"), ("4/5", "3/5"), ("1", "0"), ("1/2", "6/5"), ("0", "1")]
)
def test_correlation_limit_is_that_of_many_layers(name, weight, skip):
    net = solve(stack(residual(BRANCHES[name][0], alpha_1, sp.Rational(skip)), L))
    found = net.correlation_limit().subs(alpha_1, sp.Rational(weight)).subs(AT)
    slow = Fraction(weight) ** 2 + Fraction(skip) ** 2 == 1
    with mpmath.workdps(30):
        q, gap = iterate(name, 2000, mpmath.mpf(sp.Rational(weight)) ** 2, mpmath.mpf(sp.Rational(skip)) ** 2, mpmath.mpf)
        assert float(found) == pytest.approx(float(1 - gap / q), abs=2e-3 if slow else 1e-9)


@pytest.mark.parametrize("name", ["bias", "attention", "attention, bias"])
@pytest.mark.parametrize("skip", [1, 0])
def test_gram_of_tokens_of_any_geometry(name, skip):
    """A Gram matrix of three tokens, iterated entry by entry."""
    kernel = [[sp.Rational(item) for item in row] for row in ((3, 1, 0), (1, 2, -1), (0, -1, 5))]
    average = sum(map(sum, kernel)) / 9
    mixes, bias = name.startswith("attention"), BIAS if "bias" in name else 0
    net = solve(stack(residual(BRANCHES[name][0], alpha_1, skip), L))
    start = kernel
    for depth in range(1, 13):
        total = sum(map(sum, kernel)) / 9
        kernel = [[skip * item + ((total if mixes else item) + bias) / 4 for item in row] for row in kernel]
        if depth in (1, 2, 12):
            for i, j in ((0, 0), (0, 1), (1, 2)):
                assert number(net.gram(start[i][j], average), {alpha_1: sp.S.Half, L: depth}) == kernel[i][j]


def test_gram_agrees_with_the_signal_of_exchangeable_tokens():
    net = solve(stack(residual(Linear(d, 1 / d, sigma_b2), alpha_1), L))
    assert sp.simplify((net.gram(X.q, X.common) - net.signal.q).rewrite(sp.Pow)) == 0
    one = solve(stack(residual(UniformAttention(d, 1 / d), alpha_1), L), token_input(1))
    assert sp.simplify((one.gram(X.q, X.q) - one.signal.q).rewrite(sp.Pow)) == 0 and one.excess == 0


def test_gram_is_refused_where_one_entry_does_not_determine_the_average():
    for name in ("attention, dropout", "dropout, attention"):
        with pytest.raises(RefusedError, match="average"):
            solve(stack(residual(BRANCHES[name][0], alpha_1), L)).gram(K_ij, X.common)


def test_pure_attention_leaves_the_average():
    average = sp.Symbol("average", nonnegative=True)
    for skip in (None, 0):
        block = UniformAttention(d, 1 / d)
        net = solve(stack(block if skip is None else residual(block, 1, skip), L))
        assert net.gram(K_ij, average) == average
        assert net.excess == sp.oo and net.correlation_limit() == 1
        limit = net.scaling_limit({})
        assert sp.expand(limit.signal.q - X.common) == 0 and limit.signal.gap == 0 and limit.excess == sp.oo


@pytest.mark.parametrize(
    ("substitution", "what"),
    [({alpha_1: L ** sp.Rational(-1, 4)}, "grow"), ({}, "grow"), ({alpha_1: sp.sqrt(sp.log(L) / L)}, "grow")],
)
def test_growth_without_end_is_no_limit(substitution, what):
    for branch in (Linear(d, 1 / d), Linear(d, 1 / d, sigma_b2), UniformAttention(d, 1 / d)):
        with pytest.raises(RefusedError, match=what):
            solve(stack(residual(branch, alpha_1), L)).scaling_limit(substitution)


def test_a_constant_that_does_not_shrink_is_no_limit():
    with pytest.raises(RefusedError, match="what blocks add"):
        solve(stack(Linear(d, 1 / d, sigma_b2), L)).scaling_limit({})


def test_an_unknown_factor_is_not_guessed():
    with pytest.raises(RefusedError, match="not known"):
        solve(stack(residual(Linear(d, 1 / d), alpha_1, alpha_2), L)).scaling_limit({alpha_1: 0})


def test_shrinking_streams_have_their_limit():
    """q' = q/4 + 2/4: the fixed point 2/3; the start is forgotten, also where the factor tends to one slowly."""
    net = solve(stack(residual(Linear(d, 1 / d, sigma_b2), sp.S.Half, 0), L))
    limit = net.scaling_limit({})
    assert limit.signal.q.subs(AT) == sp.Rational(2, 3) and limit.signal.gap == 0
    slow = solve(stack(residual(Linear(d, 1 / d, sigma_b2), alpha_1, sp.sqrt(1 - 2 * alpha_1**2)), L))
    assert slow.scaling_limit({alpha_1: L ** sp.Rational(-1, 4)}).signal.q == sigma_b2


def test_limit_of_twice_the_depth():
    net = solve(stack(residual(Linear(d, 1 / d), alpha_1), 2 * L))
    limit = net.scaling_limit({alpha_1: sp.sqrt(a_1 / L)})
    assert limit.signal.q == X.q * sp.exp(2 * a_1)
    exactly = [(1 + sp.Rational(1, 2 * depth)) ** (2 * depth) / sp.E - 1 for depth in (1000,)]
    assert float(1000 * sp.N(exactly[0], 30)) == pytest.approx(float(limit.relative_error["common"].subs(a_1, 0.5)), rel=1e-3)


def test_blocks_that_do_not_fit_on_another_are_refused():
    for depth in (2, L):
        with pytest.raises(RefusedError, match=r"^Linear\(2\*d, .*width d .*width 2\*d.*: end the block in Linear\(d, "):
            solve(stack(Linear(2 * d, 1 / d), depth))
    assert solve(stack(Linear(2 * d, 1 / d), 1)).signal.width == 2 * d
    with pytest.raises(RefusedError, match="not Gaussian"):
        solve(stack(Elementwise(Relu()), 2), token_input(1, gaussian=True))
    with pytest.raises(RefusedError, match="gap"):
        solve(stack(residual(sequential(UniformAttention(d, 1 / d), Dropout(P)))), X.replace(gap=sp.S.Zero))
    with pytest.raises(InputError, match="symbol"):
        solve(stack(Linear(d, 1 / d)), X.replace(q=sp.Integer(2)))


def test_mean_is_propagated():
    mean = sp.Symbol("mean_X", real=True)
    given = X.replace(mean=mean)
    for depth in (1, 2, 3):
        assert solve(stack(LayerScale(2), depth), given).signal.mean == 2**depth * mean
    halved = solve(stack(residual(Linear(d, 1 / d), alpha_1, sp.S.Half), L), given)
    assert halved.signal.mean.subs(L, 5) == mean / 32
    assert solve(stack(Linear(d, 1 / d), 3), given).signal.mean == 0


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_mean_of_the_last_block_is_that_of_its_own_input(depth):
    block = sequential(Linear(d, 3 / d), Elementwise(Relu()))
    found = solve(stack(block, L), token_input(1)).signal
    q, mean = sp.Integer(5), None
    for _ in range(depth):
        q, mean = 3 * q / 2, sp.sqrt(3 * q / (2 * sp.pi))
    for signal in (found, solve(stack(block, depth), token_input(1)).signal):
        assert sp.simplify(signal.q.subs({L: depth, X.q: 5}) - q) == 0
        assert sp.simplify(signal.mean.subs({L: depth, X.q: 5}) - mean) == 0


def test_relu_network_of_one_token():
    branch = sequential(Linear(d, 2 / d), Elementwise(Relu()), Linear(d, 1 / d))
    net = solve(stack(residual(branch, alpha_1), L), token_input(1))
    q = Fraction(3)
    for depth in range(1, 12):
        q += Fraction(1, 4) * q
        assert net.signal.q.subs({alpha_1: sp.S.Half, X.q: 3, L: depth}) == exact(q)


@pytest.mark.parametrize("bias", [0, sigma_x2])
def test_a_billion_layers_take_the_time_of_ten(bias):
    weight, taken = sp.Rational(1, 1000), []
    solve(stack(residual(sequential(UniformAttention(d, 1 / d), Linear(d, 1 / d, bias)), weight), 10))
    for depth in (10, 10**5, 10**9):
        begun = time.perf_counter()
        net = solve(stack(residual(sequential(UniformAttention(d, 1 / d), Linear(d, 1 / d, bias)), weight), depth))
        value = sp.N(net.signal.q.subs({n: 4, X.q: 1, X.gap: sp.S.Half, sigma_x2: 3}), 20)
        taken.append(time.perf_counter() - begun)
        with mpmath.workdps(60):
            added, common = mpmath.mpf(3 if bias else 0), mpmath.mpf(5) / 8
            expected = mpmath.mpf(3) / 8 + (common + added) * (1 + mpmath.mpf(10) ** -6) ** depth - added
            assert abs(mpmath.mpf(str(value)) / expected - 1) < mpmath.mpf(10) ** -18
    assert taken[2] < taken[0] + 0.5


def test_deep_stacks_take_numbers_later():
    q = solve(stack(residual(Linear(d, 1 / d, sigma_b2), alpha_1), 10**8)).signal.q
    value = sp.N(q.subs({alpha_1: sp.Rational(1, 10**4), X.q: 1, sigma_b2: 2}), 15)
    assert float(value) == pytest.approx(3 * float(mpmath.e) - 2, rel=1e-7)
    spec = FunctionSpec("deep", parameters(alpha_1), (("q", q.subs({X.q: 1, sigma_b2: 2})),), "q after 10^8 layers.")
    assert load(spec)(1e-4) == pytest.approx(float(value), rel=1e-12)
    assert float(evaluate(spec, {"alpha_1": sp.Rational(1, 10**4)})["q"]) == pytest.approx(float(value), rel=1e-14)
