"""Kedia et al. 2024, Transformers Get Stable: moments of every component, of the blocks and of deep models.

The state is the paper's: mean, variance and correlation of two tokens, forward; variance and correlation of the gradient.
"""

from __future__ import annotations

import math
from functools import lru_cache, partial
from typing import Any

import sympy as sp
from symprop.derivations import bibliography
from symprop.derivations import kedia2024_simulation as simulation
from symprop.derivations.kedia2024_attention import attention_claims
from symprop.derivations.kedia2024_blocks import (
    INCOMING,
    SHIFTED,
    X,
    attention,
    feed_forward,
    scaled,
    scored_attention,
)
from symprop.derivations.kedia2024_simulation import GRADIENT, Case, Setting

from symprop.claims import (
    Axis,
    Claim,
    Diagram,
    EvaluatorBuilder,
    Figure,
    PaperDerivation,
    Progress,
    Result,
    Status,
    StudyPoint,
    backward_result,
    forward_result,
)
from symprop.codegen import FunctionSpec
from symprop.components import (
    Dropout,
    DynamicTanh,
    Elementwise,
    GatedUnit,
    LayerNorm,
    LayerScale,
    Linear,
    RMSNorm,
    Softmax,
)
from symprop.components.embedding import Embedding, Zipf
from symprop.core.expression import factored
from symprop.core.proof import ProofStep
from symprop.core.provenance import Derived, Source
from symprop.core.signal import Signal
from symprop.core.symbols import (
    L,
    P,
    V,
    a_q,
    beta,
    c_g,
    d,
    d_F,
    d_o,
    gap,
    kappa,
    lam,
    layer,
    mu,
    n,
    q_0,
    r,
    r_g,
    s2,
    sigma2,
    sigma_down2,
    sigma_o2,
    sigma_t2,
    sigma_up2,
    sigma_v2,
    sigma_w2,
)
from symprop.depth.balance import balance, scaled_growth
from symprop.depth.closed_form import solve_affine
from symprop.depth.fixed_point import approach, small_parameter, solve_fixed_points
from symprop.depth.product import GrowingStream, product_over_depth, solve_growing
from symprop.functions.activation import (
    Absolute,
    Activation,
    Erf,
    Gelu,
    Identity,
    LeakyRelu,
    Relu,
    Sine,
    SkipSum,
    SquaredRelu,
)
from symprop.functions.logistic import Sigmoid, Silu, Tanh
from symprop.functions.quadrature_activation import GeluTanh
from symprop.network import Block, Trace, post_norm, pre_norm, sequential, trace_of
from symprop.notation import KEDIA

KERNEL = (sp.sqrt(1 - r**2) + r * (sp.pi - sp.acos(r))) / (2 * sp.pi)
"""E relu(x) relu(y)/sigma^2 as the paper writes it."""
ORTHANT = sp.Rational(1, 4) + sp.asin(r) / (2 * sp.pi)


def _forward(
    id: str, where: str, title: str, block: Block, key: str, stated: sp.Expr, signal: Signal = X, **more: Any
) -> Claim:
    return Claim(id, where, title, lambda: forward_result(block, KEDIA, key, signal), stated, **more)


def _backward(
    id: str, where: str, title: str, block: Block, stated: sp.Expr, signal: Signal = X, *, pair: bool = False, **more: Any
) -> Claim:
    return Claim(id, where, title, lambda: backward_result(block, KEDIA, signal, INCOMING, pair=pair), stated, **more)


def _hotelling(freedom: sp.Expr) -> sp.Expr:
    half = sp.S.Half
    ratio = 2 / freedom * (sp.gamma((freedom + 1) / 2) / sp.gamma(freedom / 2)) ** 2
    return ratio * r * sp.hyper([half, half], [freedom / 2 + 1], r**2)


def _repeats() -> Result:
    embedding = Embedding(d, sigma_t2, Zipf(V)).forward()
    ratio = sp.cancel(embedding.p / embedding.q)
    step = ProofStep("embedding", "two tokens share a row with the probability that two words agree", ratio)
    return Result(ratio, r"C_V", (step,), assumptions=Embedding.assumptions, sources=Embedding.sources)


def component_claims() -> tuple[Claim, ...]:
    linear, relu, gelu, dropout = Linear(d_o, sigma_w2), Elementwise(Relu()), Elementwise(Gelu()), Dropout(P)
    table = "component table"
    s = 1 + sigma2
    gelu_mean = sigma2 / sp.sqrt(2 * sp.pi * s)
    gelu_q = sigma2 / 4 * (1 + 2 / sp.pi * sp.asin(sigma2 / s) + 4 * sigma2 / (sp.pi * s * sp.sqrt(1 + 2 * sigma2)))
    root = s**2 - r**2 * sigma2**2
    return (
        _forward("linear-mean", table, "a linear layer has zero mean", linear, "mu", sp.S.Zero, SHIFTED),
        _forward("linear-variance", table, "variance after a linear layer", linear, "sigma2",
                 d * sigma_w2 * (sigma2 + mu**2), SHIFTED),
        _forward("linear-correlation", table, "a linear layer turns a mean into correlation", linear, "r",
                 (r * sigma2 + mu**2) / (sigma2 + mu**2), SHIFTED),
        _backward("linear-gradient", table, "gradient through a linear layer", linear, d_o * sigma_w2 * s2, SHIFTED),
        _backward("linear-gradient-pair", table, "gradient covariance through a linear layer", linear,
                  d_o * sigma_w2 * r_g * s2, SHIFTED, pair=True),
        _forward("relu-mean", table, "mean after ReLU", relu, "mu", sp.sqrt(sigma2 / (2 * sp.pi))),
        _forward("relu-variance", table, "variance after ReLU", relu, "sigma2", (sp.pi - 1) / (2 * sp.pi) * sigma2),
        _forward("relu-correlation", table, "correlation after ReLU", relu, "r",
                 (KERNEL - 1 / (2 * sp.pi)) * 2 * sp.pi / (sp.pi - 1)),
        _backward("relu-gradient", table, "gradient through ReLU", relu, s2 / 2),
        _backward("relu-gradient-pair", table, "gradient covariance through ReLU", relu, ORTHANT * r_g * s2, pair=True),
        _forward("gelu-mean", table, "mean after GeLU", gelu, "mu", gelu_mean),
        _forward("gelu-variance", table, "variance after GeLU", gelu, "sigma2", gelu_q - gelu_mean**2),
        _backward("gelu-gradient", table, "gradient through GeLU", gelu,
                  s2 * (sp.Rational(1, 4) + sp.asin(sigma2 / s) / (2 * sp.pi)
                        + sigma2 * (5 * sigma2 + 3) / (2 * sp.pi * s * (1 + 2 * sigma2) ** sp.Rational(3, 2)))),
        _backward("gelu-gradient-pair", table, "gradient covariance through GeLU", gelu,
                  r_g * s2 * (sp.Rational(1, 4) + sp.asin(r * sigma2 / s) / (2 * sp.pi)
                              + r * sigma2 * (s * (2 * sigma2 + 3) - 2 * r**2 * sigma2**2)
                              / (2 * sp.pi * s * root ** sp.Rational(3, 2))), pair=True, expected=Status.AGREES),
        _forward("layernorm-variance", table, "LayerNorm leaves unit variance", LayerNorm(), "sigma2", sp.S.One, SHIFTED),
        _forward("layernorm-correlation", table, "correlation after LayerNorm over d coordinates", LayerNorm(finite=True), "r",
                 r * (1 - 1 / d), expected=Status.REFUTED, corrected_by="layernorm-correlation-exact",
                 note="Identical tokens stay identical, so that r = 1 is kept at every width. The sample correlation of two "
                 "Gaussian vectors falls short of r by r(1 - r^2)/(2(d - 1)) to leading order."),
        _forward("layernorm-correlation-exact", table, "expected sample correlation of two Gaussian vectors (Hotelling)",
                 LayerNorm(finite=True), "r", _hotelling(d - 1), expected=Status.AGREES, printed=False),
        _backward("layernorm-gradient", table, "gradient through LayerNorm over d coordinates", LayerNorm(finite=True),
                  s2 / sigma2, expected=Status.REFUTED, corrected_by="layernorm-gradient-exact",
                  note="Holds as the width tends to infinity; the exact factor is (d - 2)/(d - 3)."),
        _backward("layernorm-gradient-exact", table, "exact gradient through LayerNorm over d coordinates",
                  LayerNorm(finite=True), s2 / sigma2 * (d - 2) / (d - 3), printed=False),
        Claim("embedding-repeats", table, "two words of Zipf's law agree", lambda: _repeats(),
              sp.pi**2 / (6 * sp.log(V) ** 2), expected=Status.REFUTED, corrected_by="embedding-repeats-exact",
              note="The leading order of a series in 1/log V: 11% too large at V = 32000, 17% at V = 1000."),
        Claim("embedding-repeats-exact", table, "two words of Zipf's law agree", lambda: _repeats(),
              sp.harmonic(V, 2) / sp.harmonic(V) ** 2, printed=False),
        _forward("dropout-variance", table, "variance after dropout", dropout, "sigma2",
                 (sigma2 + P * mu**2) / (1 - P), SHIFTED),
        _forward("dropout-correlation", table, "independent masks lower the correlation", dropout, "r",
                 r * sigma2 * (1 - P) / (sigma2 + P * mu**2), SHIFTED),
        _backward("dropout-gradient", table, "gradient through dropout", dropout, s2 / (1 - P)),
        _backward("dropout-gradient-pair", table, "dropout keeps the gradient covariance", dropout, r_g * s2, pair=True),
    )


def block_claims() -> tuple[Claim, ...]:
    ffn, attn, blocks = feed_forward(), attention(), "block table"
    wide = {d_F: 4 * d}
    return (
        _forward("ffn-variance", blocks, "variance after a feed-forward block", ffn, "sigma2",
                 2 * d**2 * sigma_up2 * sigma_down2 * sigma2 / (1 - P), domain=wide),
        _forward("ffn-correlation", blocks, "correlation after a feed-forward block", ffn, "r", 2 * (1 - P) * KERNEL),
        _backward("ffn-gradient", blocks, "gradient through a feed-forward block", ffn,
                  2 * d**2 * sigma_up2 * sigma_down2 * s2 / (1 - P), domain=wide),
        _backward("ffn-gradient-pair", blocks, "gradient covariance through a feed-forward block", ffn,
                  4 * d**2 * sigma_up2 * sigma_down2 * ORTHANT * r_g * s2, pair=True, domain=wide),
        _forward("attention-variance", blocks, "variance after an attention block", attn, "sigma2",
                 d**2 * sigma_v2 * sigma_o2 * r * sigma2 / (1 - P), expected=Status.REFUTED,
                 note="Holds for infinitely many tokens only: at n tokens the average of uncorrelated tokens keeps 1/n of "
                 "their variance, which is all of it at r = 0.", corrected_by="attention-variance-finite"),
        _forward("attention-variance-finite", blocks, "variance after an attention block of n tokens", attn, "sigma2",
                 d**2 * sigma_v2 * sigma_o2 * (r + (1 - r) / n) * sigma2 / (1 - P), printed=False),
        _forward("attention-correlation", blocks, "after attention tokens differ by their dropout masks only", attn, "r",
                 1 - P),
        _backward("attention-gradient", blocks, "gradient through the values", attn,
                  d**2 * sigma_v2 * sigma_o2 * r_g * s2, expected=Status.REFUTED,
                  note="Leaves out 1/n of the uncorrelated part, what the block's dropout adds to it, and the gradient "
                  "through the softmax.",
                  corrected_by="attention-gradient-finite"),
        _backward("attention-gradient-finite", blocks, "gradient through the values of n tokens", attn,
                  d**2 * sigma_v2 * sigma_o2 * s2 * (r_g + (1 / (1 - P) - r_g) / n), printed=False),
    )


@lru_cache(maxsize=2)
def growing(activation: Activation) -> GrowingStream:
    """Feed-forward Pre-LN blocks, solved over depth."""
    return solve_growing(trace_of(pre_norm(feed_forward(activation)), X))


def _stream(expression: sp.Expr, quantity: str, rule: str, reason: str, activation: Activation | None = None) -> Result:
    provenance = growing(activation or Relu()).provenance
    shown = expression.subs(X.q, q_0)
    return Result(
        shown, quantity, (ProofStep(rule, reason, shown),), assumptions=provenance.assumptions,
        neglected=provenance.neglected, sources=provenance.sources,
    )


GAUSSIAN_ADDED = 2 * d**2 * sigma_up2 * sigma_down2 / (1 - P)
"""What a ReLU feed-forward block of hidden width 4d adds, as the paper writes it."""


def _post_factor(activation: Activation) -> Result:
    trace = trace_of(post_norm(feed_forward(activation)), X)
    factor = trace.substitute_moments(trace.backpropagate(INCOMING).q).subs(X.q, 1) / s2
    factor = min(factored(factor), factor, key=sp.count_ops)
    return _stream(factor**L, r"s_0^2/s_N^2", "gradient", "every block sees unit variance, so that all factors are equal",
                   activation)


def _scaled_factor(activation: Activation) -> sp.Expr:
    trace = trace_of(scaled(feed_forward(activation)), X)
    return sp.expand(trace.substitute_moments(trace.backpropagate(INCOMING).q).subs(X.q, 1) / s2)


def _scaled(strength: sp.Expr) -> Result:
    factor = _scaled_factor(Relu()).subs(lam, sp.sqrt(1 - beta**2)).subs(beta, sp.sqrt(strength))
    gain = growing(Relu()).gain
    shown = sp.expand(factor.subs(P, 0) - 1).subs(sp.expand(gain.subs(P, 0)), c_g)
    return _stream((1 + sp.factor(shown)) ** L, r"s_0^2/s_N^2", "gradient",
                   "lambda^2 + beta^2 = 1 keeps unit variance, so that all factors are equal")


def _scaled_growth(power: sp.Expr) -> Result:
    """The gradient over depth at beta^2 = k/N^power, to leading order in the depth."""
    finite = _scaled(kappa / L**power)
    found = scaled_growth(kappa * (c_g - 1), power, L).branches[0]
    step = ProofStep("infinite depth", "the logarithm of the product, expanded in beta^2", found.growth, relation=r"\sim")
    return Result(found.growth, r"s_0^2/s_N^2", (*finite.steps, step), assumptions=finite.assumptions,
                  neglected=f"relative O({sp.powsimp(sp.Abs(found.relative_error)).as_independent(L)[1]})",
                  sources=finite.sources)


def _correlation_over_depth() -> Result:
    """Attention blocks of unit variance: what the branch brings is the dropout's gap alone."""
    trace = trace_of(attention(), X)
    output = trace.expand()
    brought = sp.cancel(output.gap / output.q)
    solved = solve_affine({gap: (1 - beta**2) * gap + beta**2 * brought}, L)[gap]
    correlation = (1 - solved).subs(gap, 1 - r)
    limit = sp.limit(correlation.rewrite(sp.Pow).subs(beta, sp.sqrt(kappa / L)), L, sp.oo)
    steps = (ProofStep("unroll", "the recursion is solved over depth and put back into itself", correlation, r"r_N"),
             ProofStep("infinite depth", "beta^2 = k/N", limit))
    return Result(limit, r"\lim_{N \to \infty} r_N", steps, assumptions=trace.assumptions, neglected="O(1/L)")


def _preln_power_law() -> Result:
    """The ratio of gamma functions to leading order in the depth."""
    ratio = product_over_depth(1 + c_g / (q_0 + a_q * layer), layer, L)
    finite = _stream(ratio, r"s_0^2/s_N^2", "unroll", "a product of factors linear in the layer")
    leading = ratio.power_law()
    step = ProofStep("infinite depth", "Stirling's formula for both gamma functions", leading, relation=r"\sim")
    return Result(leading, finite.quantity, (*finite.steps, step), assumptions=finite.assumptions,
                  neglected="relative O(1/L)", sources=finite.sources)


def model_claims() -> tuple[Claim, ...]:
    models, wide = "model table", {d_F: 4 * d}
    return (
        Claim("preln-variance", models, "Pre-LN: the variance grows linearly",
              lambda: _stream(growing(Relu()).layers.subs(layer, L), r"\sigma^2_N", "unroll",
                              "the norm makes every block add the same"),
              q_0 + L * GAUSSIAN_ADDED, domain=wide),
        Claim("preln-gradient", models, "Pre-LN with any activation: the gradient as a ratio of gamma functions",
              lambda: _stream(product_over_depth(1 + c_g / (q_0 + a_q * layer), layer, L), r"s_0^2/s_N^2", "unroll",
                              "a product of factors linear in the layer"),
              sp.gamma(L + (q_0 + c_g) / a_q) * sp.gamma(q_0 / a_q)
              / (sp.gamma(L + q_0 / a_q) * sp.gamma((q_0 + c_g) / a_q))),
        Claim("preln-power-law", models, "Pre-LN: the gradient over many layers is a power of the depth", _preln_power_law,
              sp.gamma(q_0 / a_q) / sp.gamma((q_0 + c_g) / a_q) * L ** (c_g / a_q)),
        Claim("preln-hyperbolic", models, "Pre-LN with ReLU: the gradient grows like the variance",
              lambda: _stream(growing(Relu()).gradient, r"s_0^2/s_N^2", "unroll",
                              "a homogeneous activation has c = a, and the product telescopes"),
              1 + L * GAUSSIAN_ADDED / q_0, domain=wide),
        Claim("preln-hyperbolic-gelu", models, "Pre-LN with GeLU: the gradient grows like the variance",
              lambda: _stream(sp.cancel(growing(Gelu()).gain / growing(Gelu()).added), r"c/a", "ratio",
                              "hyperbolic growth needs equal gains forward and backward", Gelu()),
              sp.S.One, expected=Status.REFUTED,
              note="c exceeds a for GeLU: the gradient grows like N^(c/a) with c/a > 1.", corrected_by="preln-gradient"),
        Claim("postln-gradient", models, "Post-LN: the gradient is exponential in depth, by the ratio of the two gains",
              lambda: _post_factor(Gelu()),
              ((1 + growing(Gelu()).gain) / (1 + growing(Gelu()).added)) ** L, expected=Status.AGREES),
        Claim("postln-relu", models, "Post-LN with ReLU feed-forward blocks keeps the gradient", lambda: _post_factor(Relu()),
              sp.S.One),
        Claim("scaling-gradient", models, "scaled residuals, lambda^2 + beta^2 = 1",
              lambda: _scaled(beta**2), (1 + beta**2 * (c_g - 1)) ** L),
        Claim("scaling-limit", models, "scaled residuals, beta^2 = k/N",
              lambda: _scaled_growth(sp.S.One), sp.exp(kappa * (c_g - 1))),
        Claim("scaling-exponent", models, "scaled residuals, beta^2 = k/N^alpha with alpha = 3/4",
              lambda: _scaled_growth(sp.Rational(3, 4)), sp.exp(kappa * (c_g - 1) * L ** sp.Rational(1, 4))),
        Claim("scaling-exponent-half", models, "scaled residuals, beta^2 = k/N^alpha with alpha = 1/2",
              lambda: _scaled_growth(sp.S.Half), sp.exp(kappa * (c_g - 1) * sp.sqrt(L)), expected=Status.REFUTED,
              note="The second order of the logarithm stays: the form exp(k(c - 1) N^(1 - alpha)) is right for alpha > 1/2.",
              corrected_by="scaling-exponent-half-exact"),
        Claim("scaling-exponent-half-exact", models, "alpha = 1/2 with the second order of the logarithm",
              lambda: _scaled_growth(sp.S.Half),
              sp.exp(kappa * (c_g - 1) * sp.sqrt(L) - (kappa * (c_g - 1)) ** 2 / 2), printed=False),
        Claim("scaling-correlation", models, "attention blocks with scaled residuals: correlation at infinite depth",
              _correlation_over_depth, (1 - P) - ((1 - P) - r) * sp.exp(-kappa)),
    )


def _unit(block: Block, limit: bool = False) -> tuple[Trace, sp.Expr, sp.Expr]:
    """Second moment and inner product of two tokens after a block, for an input of unit variance and correlation r."""
    trace = trace_of(block, X)
    output = trace.expand()
    moments = (item.subs({X.q: 1, X.gap: 1 - r}) for item in (output.q, output.p))
    q, p = (sp.limit(item, n, sp.oo) if limit else item for item in moments)
    return trace, q, p


def _solved(block: Block, first: sp.Symbol, second: sp.Symbol, quantity: str, limit: bool = False) -> Result:
    """The variance, equal for both matrices, that gives a block unit variance at an input of unit variance."""
    trace, q, _ = _unit(block, limit)
    condition = q.subs(d_F, 4 * d)
    found = balance([first - second, sp.Eq(condition, 1)], [first, second])[first]
    steps = (ProofStep("unit variance", "second moment of the block's output", condition, r"\mathbb{E}\,y_t^2"),
             ProofStep("solve", "the positive solution of: the second moment equals one", found))
    return Result(found, quantity, steps, assumptions=trace.assumptions, neglected="O(1/n)" if limit else "exact")


def _embedding_variance() -> Result:
    s = sp.Symbol("s", positive=True)
    q = Dropout(P).forward(Embedding(d, s, Zipf(V), s, s).forward()).q
    found = sp.solve(sp.Eq(q, 1), s)[0]
    return Result(found, r"\sigma_e^2", (ProofStep("solve", "three tables and dropout have unit variance", found),),
                  assumptions=Embedding.assumptions)


def _correlation_map(*branches: Block) -> Result:
    """Correlation of what the branches add together, for many tokens: where a deep Pre-LN stream's correlation tends to."""
    parts = [_unit(branch, limit=True) for branch in branches]
    found = factored(sp.Add(*(p for _, _, p in parts)) / sp.Add(*(q for _, q, _ in parts)))
    step = ProofStep("many layers", "what a layer adds outweighs the input", found)
    return Result(found, r"r_{l+1}(r_l)", (step,), assumptions=parts[0][0].assumptions, neglected="O(1/n + 1/l)")


@lru_cache(maxsize=1)
def _post_norm_map() -> sp.Expr:
    _, q, p = _unit(post_norm(attention()), limit=True)
    return factored((p / q).subs({sigma_v2: 1 / d, sigma_o2: 1 / d}))


def _attracting() -> Result:
    points = solve_fixed_points(_post_norm_map(), r)
    (found,) = (point.value for point in points if point.attracting)
    step = ProofStep("fixed point", "of the map of the correlation, where its slope is below one", found)
    return Result(found, r"r^*", (ProofStep("map", "one block", _post_norm_map(), r"r_{l+1}"), step), neglected="O(1/n)")


def _rate() -> Result:
    found = approach(_post_norm_map(), r, _attracting().expression)
    step = ProofStep("linearise", "slope of the map at its fixed point", found.rate)
    return Result(found.rate, r"\lim (r_{l+1} - r^*)/(r_l - r^*)", (step,), neglected="O(1/n)")


def _small_dropout() -> Result:
    """The feed-forward map near r = 1: what dropout adds against what the kink removes."""
    _, q, p = _unit(feed_forward())
    update = sp.cancel(p / q)
    found = small_parameter(update, r, P)
    steps = (ProofStep("map", "correlation after a block", update, r"r_{l+1}"),
             ProofStep("balance", "the leading powers of dropout and of the distance from collapse cancel", found.leading))
    return Result(found.leading, r"1 - r^*", steps, neglected="relative O(p^(2/3))")


def recipe_claims() -> tuple[Claim, ...]:
    where = "DeepScaleLM"
    xavier = 2 / (5 * d)
    added = sp.Rational(8, 25)
    """Second moment that a ReLU feed-forward block of Xavier matrices adds, before dropout."""

    def equal_values(limit: bool = False) -> Result:
        return _solved(attention(), sigma_v2, sigma_o2, r"\sigma_v^2 = \sigma_o^2", limit)

    return (
        Claim("deepscalelm-embedding", where, "variance of three embedding tables", _embedding_variance, (1 - P) / 3),
        Claim("deepscalelm-ffn", where, "variance of both feed-forward matrices",
              lambda: _solved(feed_forward(), sigma_up2, sigma_down2, r"\sigma_f^2"), sp.sqrt((1 - P) / 2) / d),
        Claim("deepscalelm-attention", where, "variance of the value and output matrices",
              equal_values, sp.sqrt((1 - P) / r) / d,
              expected=Status.REFUTED, corrected_by="deepscalelm-attention-finite",
              note="The condition for infinitely many tokens; at n tokens the average keeps (1 - r)/n as well, which "
              "matters at small r."),
        Claim("deepscalelm-attention-finite", where, "variance of the value and output matrices at n tokens",
              equal_values, sp.sqrt((1 - P) / (r + (1 - r) / n)) / d, printed=False),
        Claim("deepscalelm-attention-limit", where, "its limit for many tokens",
              lambda: equal_values(limit=True), sp.sqrt((1 - P) / r) / d),
        Claim("attention-fixed-point", "rank collapse", "attention-only Post-LN ends at the correlation that dropout leaves",
              _attracting, 1 - P),
        Claim("attention-fixed-point-rate", "rank collapse", "and halves the distance at every layer", _rate, sp.S.Half),
        Claim("preln-correlation-map", "rank collapse", "Pre-LN of Xavier matrices: the correlation that depth leaves",
              lambda: _correlation_map(attention(), feed_forward()), (1 - P) * (r + 2 * added * KERNEL) / (r + added),
              domain={sigma_v2: 1 / d, sigma_o2: 1 / d, sigma_up2: xavier, sigma_down2: xavier, d_F: 4 * d}),
        Claim("dropout-fixed-point", "rank collapse", "feed-forward blocks with little dropout: distance from collapse",
              _small_dropout, (3 * sp.pi * P / (2 * sp.sqrt(2))) ** sp.Rational(2, 3)),
    )


def _moments(activation: Activation, mean: sp.Expr, name: str) -> FunctionSpec:
    outputs = {
        "mean": activation.mean(mean, sigma2),
        "second": activation.second(mean, sigma2),
        "change": activation.gap(mean, sigma2, gap),
        "slope_mean": activation.slope_mean(mean, sigma2),
        "slope_second": activation.slope_second(mean, sigma2),
        "slope_change": activation.slope_gap(mean, sigma2, gap),
    }
    component = Elementwise(activation)
    derived = {
        key: Derived(sp.sympify(value), component.assumptions, component.neglected, (*component.sources, *activation.sources))
        for key, value in outputs.items()
    }
    at = "zero mean" if mean == 0 else f"mean {mean}"
    return FunctionSpec.from_derived(
        name,
        f"Moments of {activation.name} and of its slope for two tokens of {at}, variance sigma2 and covariance sigma2 - "
        "gap: mean, E phi^2, E phi^2 - E phi(x) phi(y), and the same of the derivative.",
        (*(() if mean == 0 else (mean,)), sigma2, gap), derived, upper={gap: 2 * sigma2},
    )


def _activation_evaluators() -> tuple[EvaluatorBuilder, ...]:
    closed = (Relu(), Absolute(), SquaredRelu(), Gelu(), Erf(), Sine())
    centred = (EvaluatorBuilder(f"{item.name}_moments", partial(_moments, item, sp.S.Zero))
               for item in (*closed, Silu(), Tanh(), Sigmoid(), GeluTanh()))
    return (*centred, *(EvaluatorBuilder(f"{item.name}_moments_at_mean", partial(_moments, item, mu)) for item in closed))


def _depth_evaluators() -> tuple[FunctionSpec, ...]:
    product = product_over_depth(1 + c_g / (q_0 + a_q * layer), layer, L)
    provenance = growing(Relu()).provenance
    gradient = Derived(product, provenance.assumptions, provenance.neglected, (Source("kedia2024", "model table"),))
    strength = Derived((1 + beta**2 * (c_g - 1)) ** L, provenance.assumptions, provenance.neglected,
                       (Source("kedia2024", "DeepScaleLM"),))
    return (
        FunctionSpec.from_derived(
            "preln_gradient", "Gradient at the bottom of L Pre-LN blocks relative to the top; each adds a to the stream and "
            "has the gradient gain c.", (L, q_0, a_q, c_g), {"gradient": gradient}),
        FunctionSpec.from_derived(
            "scaled_gradient", "Gradient at the bottom of L blocks with lambda^2 + beta^2 = 1 and unit variance, relative to "
            "the top.", (L, beta, c_g), {"gradient": strength}, upper={beta: sp.S.One}),
    )


def _activations() -> dict[str, Activation]:
    half = sp.Rational(1, 2)
    return {
        "ReLU": Relu(), "leaky ReLU": LeakyRelu(half), "abs": Absolute(), "squared ReLU": SquaredRelu(), "GeLU": Gelu(),
        "SiLU": Silu(), "tanh": Tanh(), "sigmoid": Sigmoid(), "erf": Erf(), "sin": Sine(),
        "x/2 + 2 GeLU(x)": SkipSum(Gelu(), half, 2),
    }  # fmt: skip


def _cases(full: bool) -> tuple[Case, ...]:
    correlated, aligned = Setting(), Setting(variance=2.5, correlation=0.9)
    shifted = Setting(mean=0.6, variance=1.5, correlation=0.3)
    narrow = Setting(width=8, variance=2.0, correlation=0.5)
    few = Setting(tokens=4, correlation=0.1)
    given = Setting(width=16, hidden=32, given=True)
    grid = [Setting(variance=v, correlation=r) for v in (0.25, 1.0, 4.0) for r in (0.0, 0.3, 0.6, 0.9, 0.99)]
    wide = {"p": lambda s: s.correlation * (1 - 1 / s.width), "g_q": lambda s: GRADIENT[0] / s.variance}

    def attention_q(s: Setting) -> float:
        return s.correlation * s.variance / (1 - s.dropout)

    def attention_gradient(_: Setting) -> float:
        return GRADIENT[0] - GRADIENT[1]

    published = {"q": attention_q, "g_q": attention_gradient}
    row = Setting(correlation=0.0, tokens=64, width=16)
    scored = Setting(correlation=0.3, tokens=48, width=64)

    def softmax_q(s: Setting) -> float:
        return math.exp(s.variance * (1 - s.correlation)) / s.tokens**2

    def softmax_gradient(s: Setting) -> float:
        return GRADIENT[1] * softmax_q(s)

    def uniform_gradient(s: Setting) -> float:
        return GRADIENT[0] / s.tokens + (1 - 1 / s.tokens) * (GRADIENT[0] - GRADIENT[1])

    softmax = {"q": softmax_q, "g_q": softmax_gradient}
    settings, shifts = ((*grid, shifted), (shifted, *grid)) if full else ((correlated, aligned, shifted), (shifted,))
    return (
        *(Case("linear", Linear(2 * d, 1 / d), item) for item in shifts),
        *(Case(name, Elementwise(item), at) for name, item in _activations().items() for at in settings),
        Case("tanh GeLU", Elementwise(GeluTanh()), aligned),
        *(Case(name, GatedUnit(d_F, sigma_up2, sigma_up2, item), given)
          for name, item in (("bilinear unit", Identity()), ("GLU", Sigmoid()), ("ReGLU", Relu()), ("GeGLU", Gelu()),
                           ("SwiGLU", Silu()))),
        Case("ReGLU with biases", GatedUnit(d_F, sigma_up2, sigma_up2, Relu(), sp.S.Half, -sp.S.Half), given),
        Case("LayerNorm", LayerNorm(finite=True), narrow, wide),
        Case("RMSNorm", RMSNorm(finite=True), narrow),
        Case("dynamic tanh", DynamicTanh(Tanh(), sp.Rational(1, 2), 2, sp.Rational(1, 3)), aligned),
        Case("dynamic erf", DynamicTanh(Erf(), sp.Rational(1, 2), 2, sp.Rational(1, 3)), correlated),
        *(Case("dropout", Dropout(P), item) for item in shifts),
        Case("LayerScale", LayerScale(sp.Rational(1, 10)), shifted),
        Case("softmax", Softmax(), row, softmax, fewer=2),
        Case("attention", scored_attention(sp.S.Zero), scored, {"g_q": uniform_gradient}, fewer=8),
        Case("ReLU FFN block", feed_forward(), correlated),
        Case("GeLU FFN block", feed_forward(Gelu()), correlated),
        Case("attention block", attention(), few, published),
        Case("attention block", attention(), aligned, published),
    )


def _study_points(seed: int, full: bool) -> list[StudyPoint]:
    return simulation.study_points(_cases(full), seed, full)


def _figures(seed: int, full: bool, progress: Progress | None) -> tuple[Figure, ...]:
    depth, setting, built = 24, Setting(tokens=2, width=48, hidden=96, dropout=0.0, correlation=0.0), []
    for title, activation in (("Pre-LN, ReLU", Relu()), ("Pre-LN, GeLU", Gelu())):
        solved = growing(activation)
        at = {X.q: sp.S.One, **{key: sp.nsimplify(value) for key, value in setting.values.items()}}
        added, gain = (float(sp.N(item.subs(at), 20)) for item in (solved.added, solved.gain))

        def predict(level: int, added: float = added, gain: float = gain) -> tuple[float, float]:
            backward = 1.0
            for below in range(level, depth):
                backward *= 1 + gain / (1 + added * below)
            return 1 + added * level, backward

        draws = 400 if full else 60
        built += simulation.depth_figure(pre_norm(feed_forward(activation)), predict, depth, title, setting, seed, draws)
        if progress is not None:
            progress("figures", len(built), 2)
    return tuple(built)


DIAGRAM = Diagram(
    x=Axis(gap, "gap", 0.0, 2.0, 101),
    y=Axis(mu, "mu", -2.0, 2.0, 81),
    evaluators={name: f"{name}_moments_at_mean" for name in ("relu", "gelu", "squared_relu", "abs", "erf", "sin")},
    output=sp.Symbol("change"),
    title="Gap behind an activation of tokens with variance {sigma2}",
    label="gap behind the activation",
    values={sigma2: 1.0},
)


DERIVATION = PaperDerivation(
    paper=bibliography.KEDIA2024,
    view=KEDIA,
    values={},
    build_trace=lambda: trace_of(sequential(pre_norm(attention()), pre_norm(feed_forward())), X),
    build_claims=lambda: (*component_claims(), *attention_claims(), *block_claims(), *model_claims(), *recipe_claims()),
    build_evaluators=(*_activation_evaluators(), _depth_evaluators),
    study_points=_study_points,
    figures=_figures,
    diagram=DIAGRAM,
    references=(bibliography.CHO2009, bibliography.WILLIAMS1997, bibliography.BA2016, bibliography.NOCI2022),
)
