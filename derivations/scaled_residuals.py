"""Residual branches that shrink with depth: DS-Init, T-Fixup, ReZero and DeepNorm.

A sublayer is two matrices of gain beta^2 (values and output, or both feed-forward layers with the identity between them), as
in the papers' own analyses; its branch then has gain beta^4. L counts blocks, two sublayers each, three in a decoder. What one
gradient step does to the output is the sum of all squared weight gradients (Wang et al. 2022 bound it from above).
"""

from __future__ import annotations

from functools import lru_cache, partial

import sympy as sp
from symprop.derivations import bibliography
from symprop.derivations import named_blocks as blocks
from symprop.derivations import scaled_residuals_simulation as simulation
from symprop.derivations.named_blocks import ATTENTION, X, feed_forward, result
from symprop.derivations.named_blocks_simulation import Setting, overlap_figure

from symprop.claims import Claim, Figure, Paper, PaperDerivation, Progress, Result, Status, StudyPoint
from symprop.codegen import FunctionSpec
from symprop.components import LayerNorm, Linear, UniformAttention
from symprop.core.expression import factored
from symprop.core.provenance import Derived
from symprop.core.symbols import L, L_d, a_1, alpha_1, beta, d, declare, gain_v, lam, layer, q_0
from symprop.depth.collapse import Collapse, collapse
from symprop.depth.phase import solve_boundary
from symprop.depth.product import product_over_depth
from symprop.depth.solution import DepthSolution, solve
from symprop.depth.update import model_update
from symprop.functions.activation import Relu
from symprop.network import Block, post_norm, pre_norm, residual, sequential, stack, token_input, trace_of
from symprop.notation import SYMPROP

PAPER = Paper("scaled_residuals", "symprop", "Residual branches that shrink with depth: DS-Init, T-Fixup, ReZero and DeepNorm",
              "symprop", 2026)
TOKEN = token_input(tokens=sp.S.One)
SUBLAYER = sequential(Linear(d, beta**2 / d), Linear(d, beta**2 / d))
"""Two matrices of gain beta^2 each."""
VALUES = sequential(UniformAttention(d, beta**2 / d), Linear(d, beta**2 / d))
"""The same as attention: values and output projection."""
LAW = {"encoder": (2, (2 * L) ** sp.Rational(1, 4), (8 * L) ** sp.Rational(-1, 4)),
       "decoder": (3, (3 * L) ** sp.Rational(1, 4), (12 * L) ** sp.Rational(-1, 4))}
"""DeepNorm: sublayers of a block, scale of the skip and of the weights, as published."""
DEPTH = 20
"""Blocks of the simulated networks."""
PAIR = (sp.Rational(81, 100) * (L**4 * L_d) ** sp.Rational(1, 16), sp.Rational(87, 100) * (L**4 * L_d) ** sp.Rational(-1, 16))
"""DeepNorm for the encoder of an encoder with a decoder of L_d blocks."""


POSITIVE = {item: sp.Symbol(item.name, positive=True) for item in (lam, beta)}


def deepnorm(branch: Block = SUBLAYER) -> Block:
    """norm(lambda x + branch(x))."""
    return post_norm(branch, 1, lam)


def ds_init(branch: Block | None = None) -> Block:
    """norm(x + branch(x)), the branch of layer l = 0, 1, ... with a gain divided by l + 1."""
    return post_norm(branch or UniformAttention(d, gain_v / (layer + 1) / d))


REZERO = sequential(residual(ATTENTION, alpha_1), residual(feed_forward(Relu()), alpha_1))
FIXED_UP = residual(SUBLAYER)
"""T-Fixup: no norm."""


@lru_cache(maxsize=8)
def update(block: Block, sublayers: sp.Expr) -> Derived:
    """What one gradient step does to the output, in units of the learning rate."""
    return model_update(trace_of(block, TOKEN), sublayers)


@lru_cache(maxsize=8)
def linearised(block: Block) -> Collapse:
    """A block near collapse."""
    return collapse(trace_of(block, X))


UPDATE, DEEP = r"\delta F/\eta", ("infinite depth", "many blocks")
LEFT, KEPT = r"\Delta_{\depth}/\Delta_0", r"\Delta_{\ell+1}/\Delta_\ell"
UNROLL = ("unroll", "every sublayer multiplies by the same")


def _update(block: Block, sublayers: sp.Expr, put: dict[sp.Symbol, sp.Expr] | None = None, *, limit: bool = False) -> Result:
    found = update(block, sublayers)
    value = found.expression.subs({TOKEN.q: q_0, **(put or {})}, simultaneous=True)
    return result(_limit(value) if limit else value, UPDATE, found,
                  ("weights", "sum of the squared weight gradients of all sublayers", found.expression.subs(TOKEN.q, q_0),
                   rf"{UPDATE}\,(\lambda, \beta)" if put else ""),
                  *((("scales", "those of the paper", value),) if put else ()), last=DEEP, relation=r"\to")


def _limit(expression: sp.Expr) -> sp.Expr:
    """L to infinity, by the fourth power of a depth that makes every root a power."""
    root = sp.Dummy("root", positive=True)
    return sp.limit(sp.powdenest(expression.subs(L, root**4 / 2), force=True), root, sp.oo)


def _deepnorm(kind: str) -> Result:
    count, skip, scale = LAW[kind]
    return _update(deepnorm(), count * L, {lam: skip, beta: scale}, limit=True)


def _skip() -> Result:
    """The skip that makes the update one at the published scale of the weights, over the published skip."""
    count, skip, scale = LAW["encoder"]
    found = update(deepnorm(), count * L)
    solved = solve_boundary(found.expression, lam)
    return result(_limit(solved.subs(beta, scale) / skip), r"\alpha/(2\depth)^{1/4}", found,
                  ("balance", "an update of one", solved, r"\alpha"), last=DEEP, relation=r"\to")


def _odds(branch: Block, *, limit: bool) -> Result:
    """Gap of the tokens after the attention sublayers of L blocks over the gap at the input."""
    found = linearised(deepnorm(branch))
    _, skip, scale = LAW["encoder"]
    slope = factored(found.slope.subs(X.q, 1))
    rate = factored(slope.subs({lam: skip, beta: scale}, simultaneous=True))
    value = sp.exp(_limit(L * sp.log(rate))) if limit else slope**L
    return result(value, LEFT, found.provenance, ("chain rule", "slope of the gap in a sublayer", slope, KEPT),
                  last=DEEP if limit else UNROLL, relation=r"\to" if limit else "=")


def _gradient_deviation() -> Result:
    found = linearised(deepnorm(VALUES))
    value = factored(found.deviation.subs(X.q, 1))
    return result(value**L, r"g_0/g_{\depth}", found.provenance,
                  ("chain rule", "gradient deviations, from the top down", value, r"g_\ell/g_{\ell+1}"), last=UNROLL)


def _encoder_of_pair() -> Result:
    """Update by the encoder's weights of an output behind L_d cross-attention sublayers of independent weights."""
    _, skip, scale = LAW["decoder"]
    through = _cross_attention().subs({lam: skip, beta: scale}, simultaneous=True).subs(L, L_d)
    own = update(deepnorm(), 2 * L).expression.subs({lam: PAIR[0], beta: PAIR[1]}, simultaneous=True)
    value = L_d * through * own
    ratio = sp.limit(sp.limit(sp.powdenest(value.subs(L, sp.Symbol("root", positive=True) ** 16), force=True),
                              sp.Symbol("root", positive=True), sp.oo) * L_d ** sp.Rational(3, 4), L_d, sp.oo)
    return result(ratio * L_d ** sp.Rational(-3, 4), UPDATE, update(deepnorm(), 2 * L),
                  ("cross-attention", "share of a squared gradient that one sublayer passes to the encoder", through,
                   r"g_{\mathrm{enc}}/g_{\mathrm{dec}}"),
                  ("encoder", "its own update", own, rf"({UPDATE})_{{\mathrm{{enc}}}}"),
                  last=("product", "with the number of sublayers, many blocks"), relation=r"\sim")


def _cross_attention() -> sp.Expr:
    """Share of a squared gradient that passes from behind a decoder's sublayer to what its branch reads."""
    size = trace_of(residual(SUBLAYER, 1, lam), TOKEN).expand().q.subs(TOKEN.q, 1)
    behind = collapse(trace_of(LayerNorm(), X)).common.subs(X.q, size)
    return factored(behind * collapse(trace_of(VALUES, X)).common)


def _rezero(quantity: str) -> Result:
    found = linearised(REZERO)
    factor = {"angle": found.angle, "common": found.common, "deviation": found.deviation}[quantity]
    return result(factor.subs(alpha_1, 0), r"\chi(0)", found.provenance,
                  ("chain rule", "one block, at any alpha", factor, r"\chi(\alpha)"), last=("value", "at alpha = 0"))


@lru_cache(maxsize=1)
def _grown() -> DepthSolution:
    return solve(stack(residual(Linear(d, 1 / d), alpha_1)))


def _rezero_growth(*, limit: bool) -> Result:
    found = _grown()
    deep = found.scaling_limit({alpha_1: sp.sqrt(a_1 / L)})
    signal, stands = (deep.signal, deep.provenance) if limit else (found.signal, found.provenance)
    return result(signal.q.subs(X.q, q_0), r"q_{\depth}", stands,
                  ("unroll", "the recursion over depth", found.signal.q.subs(X.q, q_0)), last=("depth", "alpha^2 = a/L"),
                  relation=r"\to")


C = declare("c_scale", "c", "scale of the weights times the fourth root of the depth", lower=0, open_lower=True)


def _tfixup(scale: sp.Expr, sublayers: int = 2, *, embedding: bool = True) -> sp.Expr:
    """Limit of the update for weights of scale c L^(-1/4): with embeddings of that scale, or of unit size over sqrt(L)."""
    found = update(FIXED_UP, sublayers * L).expression.subs(TOKEN.q, beta**2 if embedding else 1 / sp.sqrt(L))
    return _limit(found.subs(beta, scale * L ** sp.Rational(-1, 4)))


def _tfixup_update(scale: sp.Expr, sublayers: int = 2, *, embedding: bool = True) -> Result:
    value = _tfixup(scale, sublayers, embedding=embedding)
    found = update(FIXED_UP, sublayers * L)
    of = UPDATE if embedding else r"\delta F/(\eta \sqrt{\depth})"
    return result(value, of, found, ("weights", "at any scale", found.expression.subs(TOKEN.q, q_0),
                                      rf"{UPDATE}\,(q_0, \beta)"),
                  last=DEEP, relation=r"\to")


def _tfixup_constant() -> Result:
    """The c at which the limit of the update is one."""
    root = sp.Dummy("fourth", positive=True)
    (fourth,) = (item for item in sp.solve(_tfixup(C).subs(C, root ** sp.Rational(1, 4)) - 1, root) if item.is_positive)
    return result(fourth ** sp.Rational(1, 4), "c", update(FIXED_UP, 2 * L),
                  ("depth", "update at c L^(-1/4)", _tfixup(C), rf"\lim_{{\depth \to \infty}} {UPDATE}"),
                  last=("solve", "for an update of one"))


@lru_cache(maxsize=2)
def _ds_slope(*, scaled: bool) -> sp.Expr:
    block = ds_init() if scaled else post_norm(ATTENTION)
    return factored(linearised(block).slope.subs(X.q, 1))


def _ds_product(*, scaled: bool = True) -> Result:
    slope = _ds_slope(scaled=scaled)
    return result(product_over_depth(slope, layer, L), LEFT, linearised(ds_init()).provenance,
                  ("chain rule", "slope of the gap in layer l", slope, KEPT), last=("product", "over all layers"))


def _ds_power() -> Result:
    slope = _ds_slope(scaled=True)
    return result(sp.limit(layer * sp.log(slope), layer, sp.oo), r"d \log \Delta/d \log \ell", linearised(ds_init()).provenance,
                  ("chain rule", "slope of the gap in layer l", slope, KEPT), last=("power", "of the layer, as it grows"))


def _ds_stream(matrices: int, *, limit: bool = False) -> Result:
    """Second moment of a Pre-LN stream of equal tokens whose matrices have their variance divided by the layer."""
    found = linearised(pre_norm(UniformAttention(d, gain_v / (layer + 1) ** matrices / d)))
    index = sp.Dummy("layer", integer=True, positive=True)
    value = q_0 + sp.summation(found.added.subs(layer, index - 1), (index, 1, sp.oo if limit else L))
    return result(value, r"q_\infty" if limit else r"q_{\depth}", found.provenance,
                  ("block", "added in layer l", found.added, r"q_{\ell+1} - q_\ell"), last=("sum", "over all layers"))


def _claims() -> tuple[Claim, ...]:
    wang, where = "Wang et al. 2022, ", "Zhang et al. 2019"
    zero, fix = "Bachlechner et al. 2021", "Huang et al. 2020"
    fourth, paper = sp.Rational(1, 4), sp.Rational(67, 100)
    branch, skip = beta**4, lam**2
    published = 1 / (1 + 1 / (8 * L * sp.sqrt(2 * L)))
    return (
        Claim("postln-update", f"{wang}Post-LN", "the update of a Post-LN model grows with its depth",
              lambda: _update(deepnorm(), 2 * L, {lam: sp.S.One, beta: sp.S.One}), 2 * L),
        Claim("deepnorm-bound", f"{wang}the bound", "bound of the update of 2L sublayers",
              lambda: _update(deepnorm(), 2 * L), 2 * L * (beta**2 + beta**2) / skip, relation="<=", domain=POSITIVE),
        Claim("deepnorm-update", f"{wang}the bound", "the update itself, in expectation", lambda: _update(deepnorm(), 2 * L),
              4 * L * beta**2 / (skip + branch)),
        Claim("deepnorm-encoder", f"{wang}constants", "encoder or decoder alone: the update is one at any depth",
              lambda: _deepnorm("encoder"), sp.S.One),
        Claim("deepnorm-decoder", f"{wang}constants", "decoder of an encoder-decoder: the same with three sublayers",
              lambda: _deepnorm("decoder"), sp.S.One),
        Claim("deepnorm-skip", f"{wang}constants", "the skip that makes the update one, over the published one", _skip,
              sp.S.One),
        Claim("deepnorm-pair", f"{wang}constants", "encoder of an encoder-decoder: the update is of order one",
              _encoder_of_pair, sp.S.One, expected=Status.REFUTED, corrected_by="deepnorm-pair-expected",
              note="The rule bounds the worst case, in which the gradients of all cross-attention layers add up; with "
              "independent weights their squares do, and the update falls with the depth of the decoder: the rule is safe."),
        Claim("deepnorm-pair-expected", f"{wang}constants", "the same in expectation, many blocks", _encoder_of_pair,
              (sp.Rational(87, 81)) ** 2 / (3 * sp.sqrt(3)) * L_d ** sp.Rational(-3, 4), printed=False),
        Claim("deepnorm-gradient", "DeepNorm, gradients", "gradient deviations through L attention sublayers",
              _gradient_deviation, (skip / (skip + branch)) ** L),
        Claim("deepnorm-gap-one", "DeepNorm, overlap", "the gap kept through L layers, the gain on one matrix of the two",
              lambda: _odds(UniformAttention(d, beta**2 / d), limit=True), sp.exp(-fourth)),
        Claim("deepnorm-gap-both", "DeepNorm, overlap", "the same with the gain on values and output, as published",
              lambda: _odds(VALUES, limit=True), sp.exp(-fourth), expected=Status.REFUTED, corrected_by="deepnorm-gap",
              note="With both matrices scaled the branch shrinks like 1/L and its gap loss like L^(-3/2) a layer."),
        Claim("deepnorm-gap", "DeepNorm, overlap", "with both matrices scaled nothing is lost",
              lambda: _odds(VALUES, limit=True), sp.S.One, printed=False),
        Claim("deepnorm-gap-finite", "DeepNorm, overlap", "the same at finite depth", lambda: _odds(VALUES, limit=False),
              published**L, domain={lam: LAW["encoder"][1], beta: LAW["encoder"][2]}),
        Claim("rezero-angle", zero, "alpha = 0: chi is one", lambda: _rezero("angle"), sp.S.One),
        Claim("rezero-common", zero, "alpha = 0: gradients of all tokens alike are kept", lambda: _rezero("common"), sp.S.One),
        Claim("rezero-deviation", zero, "alpha = 0: and those of zero sum, so that every singular value is one",
              lambda: _rezero("deviation"), sp.S.One),
        Claim("rezero-growth", zero, "growth of the stream at alpha, a branch of unit gain",
              lambda: _rezero_growth(limit=False), q_0 * (1 + alpha_1**2) ** L),
        Claim("rezero-limit", zero, "the same at alpha^2 = a/L", lambda: _rezero_growth(limit=True), q_0 * sp.exp(a_1)),
        Claim("tfixup-update", fix, "update of 2L sublayers of weights beta and embeddings of second moment q_0",
              lambda: _update(FIXED_UP, 2 * L), 4 * L * q_0 * beta**2 * (1 + branch) ** (2 * L - 1)),
        Claim("tfixup-scale", f"{fix}, the scale", "scale c L^(-1/4), embeddings included: an update free of the depth",
              lambda: _tfixup_update(C), 4 * C**4 * sp.exp(2 * C**4)),
        Claim("tfixup-decoder", f"{fix}, constants", "decoder at (9L)^(-1/4)",
              lambda: _tfixup_update(9 ** -fourth, 3), sp.Rational(2, 3) * sp.exp(sp.Rational(1, 3))),
        Claim("tfixup-no-embedding", fix, "update over the square root of the depth where embeddings keep their size",
              lambda: _tfixup_update(C, embedding=False), 4 * C**2 * sp.exp(2 * C**4),
              note="It grows without bound: embeddings must shrink too."),
        Claim("tfixup-constant", f"{fix}, constants", "0.67 makes the encoder's update one", _tfixup_constant, paper,
              expected=Status.REFUTED, corrected_by="tfixup-constant-exact",
              note="The update at 0.67 L^(-1/4) is 1.21 in the limit: of order one, which is what the paper asks for."),
        Claim("tfixup-constant-exact", fix, "the constant at which it is one", _tfixup_constant,
              (sp.LambertW(sp.S.Half) / 2) ** fourth, printed=False),
        Claim("ds-unscaled", where, "Post-LN without DS-Init: the gap falls exponentially", lambda: _ds_product(scaled=False),
              (1 + gain_v) ** (-L)),
        Claim("ds-product", where, "DS-Init on one matrix: what is left of the gap", _ds_product,
              sp.gamma(L + 1) * sp.gamma(1 + gain_v) / sp.gamma(L + 1 + gain_v)),
        Claim("ds-power", where, "its exponent of the depth", _ds_power, -gain_v),
        Claim("ds-stream", where, "Pre-LN stream, DS-Init on one matrix: growth like the logarithm of the depth",
              lambda: _ds_stream(1), q_0 + gain_v * sp.harmonic(L)),
        Claim("ds-stream-both", where, "the same on values and output, as published: a bounded stream",
              lambda: _ds_stream(2, limit=True), q_0 + gain_v * sp.pi**2 / 6),
    )


def _evaluators() -> tuple[FunctionSpec, ...]:
    post, bare = update(deepnorm(), 2 * L), update(FIXED_UP, 2 * L)
    ds = linearised(ds_init()).provenance
    return (
        FunctionSpec.from_derived("deepnorm_update", "Update of the output by one gradient step, over the learning rate: norm("
                                  "lambda x + branch), both matrices of the branch scaled by beta, 2L sublayers.",
                                  (lam, beta, L), {"update": post}),
        FunctionSpec.from_derived("deepnorm_skip", "Scale of the skip at which that update is one.", (beta, L),
                                  {"skip": post.with_expression(solve_boundary(post.expression, lam), post.neglected)}),
        FunctionSpec.from_derived("tfixup_update", "The same without norms, for embeddings of second moment q_0.",
                                  (q_0, beta, L), {"update": bare.with_expression(bare.expression.subs(TOKEN.q, q_0),
                                                                                  bare.neglected)}),
        FunctionSpec.from_derived("ds_init_gap", "What is left of the gap of tokens after L Post-LN attention layers with "
                                  "DS-Init on one matrix.", (gain_v, L),
                                  {"gap_growth": ds.with_expression(_ds_product().expression, ds.neglected)}),
        FunctionSpec.from_derived("rezero_growth", "Second moment of a stream over its start after L branches of unit gain "
                                  "times alpha_1.", (alpha_1, L),
                                  {"growth": _grown().provenance.with_expression(_grown().signal.q / X.q,
                                                                                 _grown().provenance.neglected)}),
    )


def _study_points(seed: int, full: bool) -> list[StudyPoint]:
    depth = DEPTH
    numbers = {name: float(item.subs(L, depth)) for name, item in zip(("skip", "scale"), LAW["encoder"][1:], strict=True)}
    cases = {
        "deepnorm": (numbers["skip"], numbers["scale"], 1.0, update(deepnorm(), 2 * L)),
        "post-norm": (1.0, 1.0, 1.0, update(deepnorm(), 2 * L)),
        "tfixup": (None, 0.67 * depth**-0.25, 0.67**2 * depth**-0.5, update(FIXED_UP, 2 * L)),
    }
    updates = [
        partial(simulation.updates, name, 2 * depth, skip, scale, second, float(found.expression.subs(
            {lam: skip or 1, beta: scale, TOKEN.q: second, L: depth})), seed + index, 400 if full else 80)
        for index, (name, (skip, scale, second, found)) in enumerate(cases.items())
    ]
    return [*updates, *simulation.overlaps(_paths(384 if full else 192, 48 if full else 20), seed)]


def _paths(width: int, draws: int) -> dict[str, tuple[Block, Setting]]:
    """Attention blocks through which tokens are followed."""
    numeric = {lam: float(LAW["encoder"][1].subs(L, DEPTH)), beta: float(LAW["encoder"][2].subs(L, DEPTH))}
    both = ds_init(UniformAttention(d, gain_v / (layer + 1) ** 2 / d))
    cases = {
        "DeepNorm, one matrix": (deepnorm(UniformAttention(d, beta**2 / d)), numeric),
        "DeepNorm": (deepnorm(VALUES), numeric),
        "DS-Init, one matrix": (ds_init(), {gain_v: 1.0}),
        "DS-Init": (both, {gain_v: 1.0}),
        "ReZero at alpha = 0.3": (REZERO, {alpha_1: 0.3, gain_v: 1.0, blocks.sigma_w: 1.0}),
    }
    return {name: (block, Setting(name, values, tokens=16, width=width, depth=DEPTH, draws=draws, share=0.1))
            for name, (block, values) in cases.items()}


def _figures(seed: int, full: bool, progress: Progress | None) -> tuple[Figure, ...]:
    return overlap_figure("1 - rho over the layers of attention blocks whose branches shrink with depth: map and simulation.",
                          _paths(256 if full else 128, 24 if full else 8), seed, progress)


DERIVATION = PaperDerivation(
    paper=PAPER,
    view=SYMPROP,
    values={},
    build_trace=lambda: trace_of(deepnorm(VALUES), X),
    build_claims=_claims,
    build_evaluators=(_evaluators,),
    study_points=_study_points,
    figures=_figures,
    references=(
        bibliography.NOCI2022, bibliography.KEDIA2024, bibliography.BA2016, bibliography.ZHANG2019DS, bibliography.HUANG2020,
        bibliography.BACHLECHNER2021, bibliography.WANG2022,
    ),
)
