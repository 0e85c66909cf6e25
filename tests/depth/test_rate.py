"""Laws near collapse against the iterated map: the ratio to the law tends to one as depth grows."""

import mpmath
import numpy as np
import pytest
import sympy as sp

from symprop.components import Attention, DynamicTanh, Elementwise, LayerNorm, Linear, RMSNorm, UniformAttention
from symprop.core.errors import RefusedError
from symprop.core.symbols import L, alpha_2, d, layer, n, sigma_w
from symprop.depth.collapse import collapse
from symprop.depth.iterate import iterate_exact, layer_map
from symprop.depth.local_expansion import expand_at_collapse
from symprop.depth.rate import SHARE, drift_law, rate_law
from symprop.functions.activation import Erf, Gelu, Relu, Sine
from symprop.functions.generic_activation import GenericActivation, SlopeMoment
from symprop.functions.logistic import Sigmoid, Silu, Tanh
from symprop.functions.quadrature_activation import VARIABLE, QuadratureActivation
from symprop.network import parallel, peri_norm, post_norm, pre_norm, residual, sequential, token_input, trace_of

X = token_input(gaussian=True)


def feed_forward(activation, first=1, second=1):
    return sequential(Linear(d, sp.sympify(first) / d), Elementwise(activation), Linear(d, sp.sympify(second) / d))


def shares(block, depth, gap, values=None, digits=30):
    """1 - rho at every depth, in mpmath numbers."""
    start = {X.q: sp.Integer(1), X.gap: gap}
    path = iterate_exact(layer_map(trace_of(block, X), backward=False), start, depth, values or {}, digits=digits).forward
    return [one / two for one, two in zip(path[X.gap], path[X.q], strict=True)]


def test_critical_relu():
    block = post_norm(feed_forward(Relu(), sigma_w**2, sigma_w**2), 1, alpha_2)
    law = rate_law(trace_of(block, X))
    weight = sigma_w**4 / 2 / (sigma_w**4 / 2 + alpha_2**2)
    assert law.kind == "algebraic" and sp.simplify(law.share - 9 * sp.pi**2 / (2 * weight**2 * layer**2)) == 0
    path = shares(post_norm(feed_forward(Relu(), 2)), 1200, sp.S.Half)
    ratios = [float(path[depth] / sp.N(law.share.subs({sigma_w**4: 2, alpha_2: 1, layer: depth}), 20)) for depth in (300, 1200)]
    assert abs(ratios[1] - 1) < abs(ratios[0] - 1) / 2 and abs(ratios[1] - 1) < 0.05


def test_smooth_activation_at_slope_one():
    """sin at the variance where its slope equals its second moment: E cos^2 v = E sin^2."""
    generic = post_norm(feed_forward(GenericActivation(odd=True), sigma_w**2))
    moment, slope = SlopeMoment(0, sigma_w**2), SlopeMoment(1, sigma_w**2)
    law = rate_law(trace_of(generic, X), {slope: moment / sigma_w**2})
    curvature = SlopeMoment(2, sigma_w**2)
    assert sp.simplify(law.share - 2 * (1 + moment) / (sigma_w**4 * curvature * layer)) == 0


def test_smooth_law_with_a_moving_second_moment():
    """A block whose q follows the gap: attention at criticality, against the iterated map."""
    scale, weight = sp.Rational(3, 2), sp.Rational(1, 2)
    unknown, attention = sp.Symbol("gain", positive=True), pre_norm(UniformAttention(d, weight / d), 1, sp.sqrt(weight))

    def with_gain(gain):
        return sequential(attention, pre_norm(feed_forward(Erf(), scale, gain), 1, sp.Rational(3, 5)))

    free = trace_of(with_gain(unknown), X)
    (gain,) = [root for root in sp.solve(collapse(free).exponents.angle_factor - 1, unknown) if root.is_positive]
    law = rate_law(free, {unknown: gain})
    assert law.kind == "algebraic" and law.rate == -1
    share = sp.Rational(1, 10**4)
    path = shares(with_gain(gain), 400, share, {n: sp.Integer(16)}, 40)
    # 1/share grows by the coefficient of every layer once q has settled.
    grown = (1 / path[400] - 1 / path[100]) / 300
    predicted = float(sp.N((1 / law.share).subs({layer: 1, n: 16}), 20))
    assert float(grown) == pytest.approx(predicted, rel=2e-3)


def test_pure_attention_collapses_super_exponentially():
    block = Attention(d, 1 / d, d, 1 / d, 1 / d)
    law = rate_law(trace_of(block, X))
    assert (law.kind, law.rate) == ("super-exponential", 3)
    strength = sp.limit(law.share.subs({X.q: 1, layer: 1}) / SHARE**3, d, sp.oo)
    assert sp.simplify(strength - (1 - 1 / n) / n) == 0
    # D_3 = k^(-1/2) (D_0 sqrt(k))^27 with k = (1 - 1/n)(1/n + 1/d).
    k = (1 - sp.Rational(1, 64)) * (sp.Rational(1, 64) + sp.Rational(1, 10**6))
    third = law.share.subs({X.q: 1, n: 64, d: 10**6, layer: 3, SHARE: sp.S.Half})
    assert abs(sp.N(third * k ** sp.S.Half / (k ** sp.S.Half / 2) ** 27 - 1, 20)) < 1e-18


def test_pre_norm_is_a_ratio_of_gamma_functions():
    value = sp.Symbol("v", positive=True)
    law = drift_law(trace_of(sequential(pre_norm(UniformAttention(d, value / d)),
                                        pre_norm(feed_forward(GenericActivation(), sigma_w**2))), X))
    m, slope = SlopeMoment(0, sigma_w**2), sigma_w**2 * SlopeMoment(1, sigma_w**2)
    assert sp.simplify(law.angle.rate - (slope / (value + m) - 1)) == 0
    assert sp.simplify(law.common - (value + slope) / (value + m)) == 0
    assert sp.simplify(law.deviation - slope / (value + m)) == 0


@pytest.mark.parametrize(("block", "rate"), [
    (sequential(pre_norm(UniformAttention(d, 1 / d)), pre_norm(feed_forward(Relu(), 2))), sp.Rational(-1, 2)),
    (parallel(UniformAttention(d, 1 / d), feed_forward(Relu(), 2)), sp.Rational(-1, 2)),
    (sequential(peri_norm(UniformAttention(d, 3 / d)), peri_norm(feed_forward(Relu(), 7))), sp.Rational(-1, 2)),
], ids=["pre", "parallel", "peri"])  # fmt: skip
def test_growing_streams(block, rate):
    law = drift_law(trace_of(block, X))
    assert law.angle.rate == rate
    counted = {n: sp.Integer(8)} if n in layer_map(trace_of(block, X), backward=False).parameters else {}
    path = shares(block, 64, sp.Rational(1, 10**30), counted, 60)
    q = 1 + law.added * 64
    exact = law.product.subs({L: 64, X.q: 1}) / q
    assert abs(float(path[64] / path[0] / sp.N(exact, 50) - 1)) < 1e-12
    assert float(mpmath.log(path[64] / path[32], 2)) == pytest.approx(float(rate), abs=0.03)


@pytest.mark.parametrize("activation", [Tanh(), Sigmoid(), Erf()], ids=lambda item: item.name)
def test_saturating_functions_move_tokens_apart(activation):
    """Exponent from 40000 to 160000 layers, by quadrature of the function itself; relative 1/sqrt(l) is left out."""
    z = np.linspace(-9, 9, 20001)
    density = np.exp(-(z**2) / 2) * (z[1] - z[0]) / np.sqrt(2 * np.pi)
    stream = np.geomspace(1, 1e6, 400)
    scaled = np.sqrt(stream)[:, None] * z
    added, slope = activation.apply(scaled) ** 2 @ density, activation.slope(scaled) ** 2 @ density
    q, exponents = 1.0, []
    for _ in range(160_000):
        exponents.append(np.log1p(np.interp(np.log(q), np.log(stream), slope)))
        q += np.interp(np.log(q), np.log(stream), added)
    measured = np.sum(exponents[40_000:])
    law = drift_law(trace_of(residual(sequential(DynamicTanh(activation, 1), Linear(d, 1 / d))), X))
    assert law.angle.kind == "stretched"
    assert measured == pytest.approx(float(law.angle.rate) * (400 - 200), rel=3 / 200)


def test_functions_that_do_not_saturate_are_refused_by_name():
    with pytest.raises(RefusedError, match="silu at large variance"):
        drift_law(trace_of(residual(sequential(Elementwise(Silu()), Linear(d, 1 / d))), X))


def test_gelu_pre_norm_moves_tokens_apart():
    """GeLU's slope exceeds its second moment: without attention the exponent is positive."""
    law = drift_law(trace_of(pre_norm(feed_forward(Gelu(), 2)), X))
    assert law.angle.kind == "power" and float(law.angle.rate) > 0


def test_marginal_relu_creeps_logarithmically():
    block = pre_norm(feed_forward(Relu(), 2))
    law = drift_law(trace_of(block, X))
    assert law.angle.kind == "logarithmic"
    path = shares(block, 3000, sp.S.Half)
    predicted = [float(sp.N(law.angle.share.subs({SHARE: sp.S.Half, layer: depth}), 20)) for depth in (100, 3000)]
    off = [float(path[depth]) / value - 1 for depth, value in zip((100, 3000), predicted, strict=True)]
    assert abs(off[1]) < abs(off[0]) < 0.1


def test_dynamic_tanh_is_a_stretched_exponential():
    block = sequential(DynamicTanh(Erf(), sp.S.Half), Linear(d, 1 / d))
    law = drift_law(trace_of(residual(block), X))
    assert law.angle.kind == "stretched" and law.product is None
    path = shares(residual(block), 2000, sp.Rational(1, 10**40), digits=60)
    gaps = [mpmath.log(path[depth] * (1 + depth)) for depth in (500, 2000)]
    grown = float(gaps[1] - gaps[0]) / (np.sqrt(2000) - np.sqrt(500))
    assert grown == pytest.approx(float(law.angle.rate), rel=0.05)


def test_expansion_of_a_norm_and_a_kink():
    expansion = expand_at_collapse(trace_of(sequential(LayerNorm(), feed_forward(Relu(), 2)), X))
    q, gap = X.q, X.gap
    layer_map_gap = layer_map(trace_of(sequential(LayerNorm(), feed_forward(Relu(), 2)), X), backward=False).updates[gap]
    small = sp.Rational(1, 10**12)
    value = sp.N(layer_map_gap.subs({q: 3, gap: small}), 60)
    series = sp.N(sum(expansion.gap[k].subs(q, 3) * small ** sp.Rational(k, 2) for k in (2, 3, 4)), 60)
    assert abs(value / series - 1) < 1e-16


def test_norm_with_an_epsilon_settles_and_has_the_law_of_its_fixed_point():
    """q' = 2q/(2q + 1/10) keeps 19/20; ReLU's covariance by its closed form, layer by layer."""
    trace = trace_of(post_norm(feed_forward(Relu(), 2), norm=LayerNorm(epsilon=sp.Rational(1, 10))), X)
    law = rate_law(trace)
    assert collapse(trace).stationary == sp.Rational(19, 20) and law.kind == "algebraic"
    q, gap, ratios = mpmath.mpf(1), mpmath.mpf("0.5"), []
    for depth in range(1, 4001):
        v, c = 2 * q, 2 * (q - gap)
        pair = (mpmath.sqrt(v**2 - c**2) + c * (mpmath.pi - mpmath.acos(c / v))) / (2 * mpmath.pi)
        size = q + v / 2 + mpmath.mpf("0.1")
        q, gap = (q + v / 2) / size, (gap + v / 2 - pair) / size
        if depth in (1000, 4000):
            ratios.append(float(gap / q / sp.N(law.share.subs(layer, depth), 20)))
    assert abs(float(q) - 0.95) < 1e-9 and abs(ratios[1] - 1) < abs(ratios[0] - 1) / 2 < 0.05


def test_remedies_lead_somewhere():
    """A block is sent to the other law only if that has it."""
    epsilon = sp.Symbol("epsilon", positive=True)
    unknown = trace_of(post_norm(feed_forward(Relu(), 2), norm=LayerNorm(epsilon=epsilon)), X)
    doubling = trace_of(residual(feed_forward(Relu(), 2)), X)
    for trace, remedy in ((unknown, "put numbers in"), (doubling, "iterate the map")):
        with pytest.raises(RefusedError) as refused:
            rate_law(trace)
        assert refused.value.remedy.startswith(remedy)
        with pytest.raises(RefusedError) as refused:
            drift_law(trace)
        assert refused.value.remedy == "iterate the map"


def test_hard_tanh_given_as_a_formula():
    """Tokens separate; half their sum and half their difference on a grid, layer by layer."""
    hard = QuadratureActivation(VARIABLE, sp.Max(-1, sp.Min(VARIABLE, 1)), "hard_tanh")
    law = rate_law(trace_of(post_norm(feed_forward(hard)), X))
    sums, (nodes, weights) = np.linspace(-9, 9, 200001), np.polynomial.hermite_e.hermegauss(12)
    density = np.exp(-(sums**2) / 2)
    density /= density.sum()
    gap, path = 1e-7, []
    for _ in range(12):
        s, half = np.sqrt(1 - gap / 2) * sums, np.sqrt(gap / 2) * nodes
        changes = [np.clip(s + t, -1, 1) - np.clip(s - t, -1, 1) for t in half]
        moved = sum(w * (density @ change**2) for w, change in zip(weights, changes, strict=True)) / weights.sum() / 2
        gap = (gap + moved) / (1 + density @ np.clip(sums, -1, 1) ** 2)
        path.append(gap)
    assert law.kind == "exponential"
    assert np.log(path[-1] / path[0]) / 11 == pytest.approx(float(law.rate), rel=2e-3)


@pytest.mark.parametrize(
    "formula", [sp.Max(-1, sp.Min(VARIABLE, 1)), sp.Piecewise((VARIABLE, VARIABLE > 0), (2 * sp.exp(VARIABLE) - 2, True))]
)
@pytest.mark.parametrize("mean", [0, sp.Rational(1, 3)])
def test_powers_of_the_gap_of_a_kinked_formula(formula, mean):
    """What three powers leave is of the order gap^(5/2)."""
    activation = QuadratureActivation(VARIABLE, formula, "kinked")
    powers = activation.gap_powers(mean, sp.Rational(3, 2))
    left = []
    for gap in (sp.Rational(1, 25), sp.Rational(1, 100)):
        series = sum(value * gap ** sp.Rational(k, 2) for k, value in powers.items())
        left.append(float(sp.N(activation.gap(mean, sp.Rational(3, 2), gap) - series)))
    assert 24 < left[0] / left[1] < 40


def test_a_slope_of_one_by_quadrature_is_not_taken_for_another():
    """ReLU as a formula: whether its slope is one, a rule of eight digits cannot say."""
    ruled = QuadratureActivation(VARIABLE, sp.Max(VARIABLE, 0), "ruled")
    with pytest.raises(RefusedError, match="is one to the digits"):
        rate_law(trace_of(post_norm(feed_forward(ruled, 2)), X))


def test_refusals():
    with pytest.raises(RefusedError, match="drift_law"):
        rate_law(trace_of(pre_norm(UniformAttention(d, 1 / d)), X))
    with pytest.raises(RefusedError, match="does not tend to a constant"):
        drift_law(trace_of(post_norm(feed_forward(Relu())), X))
    with pytest.raises(RefusedError, match="identity"):
        rate_law(trace_of(post_norm(Linear(d, 1 / d)), X))


def test_powers_of_one_number_cancel():
    branch = sequential(Linear(d, 1 / d), Elementwise(Sine()), Linear(d, 1 / d))
    law = rate_law(trace_of(sequential(residual(branch), RMSNorm()), token_input(gaussian=True)))
    assert sp.exp(law.rate) == (3 * sp.exp(2) + 1) / (3 * sp.exp(2) - 1)


def test_moments_that_are_not_expanded_are_said_to_be_so_and_a_formula_is_expanded():
    def trace(activation):
        return trace_of(sequential(Linear(d, 1 / d), Elementwise(activation), Linear(d, 1 / d)), token_input())

    with pytest.raises(RefusedError, match="QuadratureActivation"):
        expand_at_collapse(trace(Tanh()))
    assert set(expand_at_collapse(trace(QuadratureActivation(VARIABLE, sp.tanh(VARIABLE), "my_tanh"))).gap) == {2, 3, 4}
