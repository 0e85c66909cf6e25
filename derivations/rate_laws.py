"""How fast tokens align: laws over depth from the expansion of a block near collapse, and flows of depth-scaled branches.

Critical blocks and growing streams are iterated to any depth; branches that shrink with the depth as alpha^2 = a/L leave a flow
in t = layer/L, right to O(1/L). Laws of growing streams are in ``norm_placement`` (ratios of gamma functions and powers), of
branches that shrink from layer to layer in ``scaled_residuals``, of pure attention in ``dong2021`` (doubly exponential).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial

import sympy as sp
from symprop.derivations import bibliography
from symprop.derivations import named_blocks as blocks
from symprop.derivations import rate_laws_simulation as simulation
from symprop.derivations.named_blocks import ATTENTION, X, feed_forward, result
from symprop.derivations.named_blocks_simulation import Setting, overlap_figure

from symprop.claims import Claim, Figure, Paper, PaperDerivation, Progress, Result, StudyPoint
from symprop.codegen import FunctionSpec
from symprop.components import DynamicTanh, Linear
from symprop.core.expression import factored
from symprop.core.symbols import (
    L,
    a_1,
    a_2,
    alpha_1,
    alpha_2,
    c_2,
    chi,
    d,
    declare,
    gain_v,
    gain_w,
    layer,
    m_f,
    n,
    q_0,
    rho,
    sigma_b2,
    sigma_w,
)
from symprop.depth.collapse import collapse, gap_slope
from symprop.depth.flow import SHARE_0, TIME, DepthFlow, depth_flow, integrate_powers
from symprop.depth.phase import odds_law, solve_boundary
from symprop.depth.rate import SHARE, RateLaw, drift_law, rate_law
from symprop.functions.activation import Activation, Erf, Relu
from symprop.functions.generic_activation import GenericActivation, SlopeMoment
from symprop.functions.logistic import Tanh
from symprop.network import Block, post_norm, pre_norm, residual, sequential, trace_of
from symprop.notation import SYMPROP

PAPER = Paper("rate_laws", "symprop", "Alignment of tokens over depth at the edge of order and chaos", "symprop", 2026)
SLOPE = declare("g_slope", "g", "slope at the origin of a saturating function that replaces a norm", lower=0, open_lower=True)
"""Slope at the origin of a saturating function that replaces a norm."""
V = sigma_w**2
M_0, M_1 = (SlopeMoment(order, V) for order in range(2))
"""E phi^2 and E phi'^2 at the variance sigma_w^2."""


def relu_block() -> Block:
    """norm(alpha x + W_2 relu(W_1 x)), both matrices of gain sigma_w^2: critical, as ReLU's slope is its second moment."""
    return post_norm(feed_forward(Relu(), gain=V), 1, alpha_2)


def smooth_block(activation: Activation) -> Block:
    """norm(alpha x + W_2 phi(W_1 x) + b) for an odd phi; the bias lowers the slope to its critical value."""
    return post_norm(feed_forward(activation, bias=sigma_b2), 1, alpha_2)


def marginal_block() -> Block:
    """x + W_2 relu(W_1 norm(x)) without attention: 1 - rho is kept at linear order."""
    return pre_norm(feed_forward(Relu()))


def saturating_block(activation: Activation) -> Block:
    """x + W phi(g x): a saturating function where a norm was."""
    return residual(sequential(DynamicTanh(activation, SLOPE), Linear(d, gain_w / d)))


SHRINKING = {alpha_1: sp.sqrt(a_1 / L), alpha_2: sp.sqrt(a_2 / L)}
ALIGNING = post_norm(ATTENTION, alpha_1)
"""norm(x + alpha attention(x)) with equal weights."""
ALIGNING_RELU = sequential(ALIGNING, post_norm(feed_forward(Relu()), alpha_2))
"""The same and a ReLU branch."""


@lru_cache(maxsize=3)
def flow(block: Block) -> DepthFlow:
    """A block whose branches shrink with the depth, at infinite depth."""
    return depth_flow(trace_of(block, X), SHRINKING)


@lru_cache(maxsize=1)
def critical_bias() -> sp.Expr:
    """Variance of the output bias at which the slope of the smooth block is one."""
    factor = collapse(trace_of(smooth_block(GenericActivation(odd=True)), X)).exponents.angle_factor
    first, second = sp.symbols("first second", positive=True)
    return solve_boundary(factor.subs({M_0: first, M_1: second}), sigma_b2).subs({first: M_0, second: M_1})


@lru_cache(maxsize=5)
def law(kind: str) -> RateLaw:
    """The law of one of the blocks."""
    if kind == "relu":
        return rate_law(trace_of(relu_block(), X))
    if kind == "smooth":
        return rate_law(trace_of(smooth_block(GenericActivation(odd=True)), X), {sigma_b2: critical_bias()})
    blocks = {"marginal": marginal_block, "erf": partial(saturating_block, Erf()), "tanh": partial(saturating_block, Tanh())}
    return drift_law(trace_of(blocks[kind](), X)).angle


def _share(kind: str) -> Result:
    found = law(kind)
    return result(found.share, r"1 - \rho_\ell", found.provenance,
                  ("expand", f"the block near collapse: {found.kind}", found.share))


def _rate(kind: str) -> Result:
    found = law(kind)
    return result(found.rate, r"\frac{d \log(1 - \rho)}{d \log \ell}", found.provenance,
                  ("expand", f"the block near collapse: {found.kind}", found.share, r"1 - \rho_\ell"),
                  last=("power", "of the depth, for many layers"))


FLOWING, INTEGRATED = r"d(1 - \rho)/dt", ("integrate", "over the time of all layers, which is one")


def _flow_attention() -> Result:
    field = sp.limit(flow(ALIGNING).share, n, sp.oo)
    share = integrate_powers(field).subs({TIME: 1, SHARE_0: 1 - rho})
    return result(factored(1 - share), r"\rho_{\depth}", flow(ALIGNING).provenance,
                  ("flow", "what blocks change, many tokens", field, FLOWING), last=INTEGRATED)


def _flow_relu() -> Result:
    field = sp.limit(flow(ALIGNING_RELU).near_collapse(), n, sp.oo)
    return result(integrate_powers(field).subs({TIME: 1, SHARE_0: SHARE}), r"1 - \rho_{\depth}",
                  flow(ALIGNING_RELU).provenance,
                  ("flow", "what blocks change, to two powers, many tokens", field, FLOWING), last=INTEGRATED)


def _flow_linear() -> Result:
    found = flow(residual(Linear(d, gain_w / d), alpha_2))
    field = found.field[X.q]
    return result(integrate_powers(field, X.q, q_0).subs(TIME, 1), r"q_{\depth}", found.provenance,
                  ("flow", "what blocks add", field, "dq/dt"),
                  last=INTEGRATED)


def _flow_error() -> Result:
    """Relative error of the odds of the flow, times L."""
    grown = odds_law(trace_of(ALIGNING, X)).factor.subs(SHRINKING) ** L
    small = sp.Dummy("h", positive=True)
    logarithm = sp.series(sp.log(grown.subs(L, 1 / small)), small, 0, 2).removeO()
    return result(logarithm.coeff(small, 1), r"\lim_{\depth \to \infty} \depth\,(o_{\depth}/o(1) - 1)",
                  flow(ALIGNING).provenance,
                  ("depth", "growth of the odds over L layers", grown, r"o_{\depth}/o_0"),
                  last=("expand", "in 1/L, beside the growth of the flow"))


def _bias() -> Result:
    return result(critical_bias(), r"\sigma_b^2", law("smooth").provenance,
                  ("balance", "slope of the gap is one", critical_bias()))


def _claims() -> tuple[Claim, ...]:
    """No paper prints these laws: each is compared with one that was found by hand."""
    return tuple(replace(claim, printed=False) for claim in _laws())


def _laws() -> tuple[Claim, ...]:
    edge, stream, shrinking = "critical blocks", "growing streams", "branches with alpha^2 = a/L"
    kink = 2 * sp.sqrt(2) * a_2 * sigma_w**2 / (6 * sp.pi)
    drift = a_1 * gain_v
    weight = V**2 / 2 / (V**2 / 2 + alpha_2**2)
    b = c_2 / (2 * (alpha_2**2 + chi))
    a = 2 * sp.sqrt(2) / (3 * sp.pi)
    return (
        Claim("relu", edge, "critical ReLU", lambda: _share("relu"), 9 * sp.pi**2 / (2 * weight**2 * layer**2)),
        Claim("relu-power", edge, "its power of the depth", lambda: _rate("relu"), sp.Integer(-2)),
        Claim("critical-bias", edge, "bias at which an odd activation is critical", _bias, chi - m_f),
        Claim("smooth", edge, "smooth odd activation at slope one: 1/(b l)", lambda: _share("smooth"), 1 / (b * layer)),
        Claim("smooth-power", edge, "its power of the depth", lambda: _rate("smooth"), sp.Integer(-1)),
        Claim("marginal-relu", stream, "Pre-LN ReLU without attention: a power of the logarithm", lambda: _share("marginal"),
              4 / (a * sp.log(layer) + 2 / sp.sqrt(SHARE)) ** 2),
        Claim("saturating", stream, "a saturating function for a norm: tokens move apart, a stretched exponential",
              lambda: _rate("erf"), 4 * SLOPE * sp.sqrt(gain_w) / sp.pi),
        Claim("saturating-tanh", stream, "the same with tanh, as in DyT", lambda: _rate("tanh"),
              8 * SLOPE * sp.sqrt(gain_w) / (3 * sp.sqrt(2 * sp.pi))),
        Claim("flow-attention", shrinking, "attention alone: the logistic law", _flow_attention,
              rho * sp.exp(drift) / (1 - rho + rho * sp.exp(drift))),
        Claim("flow-error", shrinking, "its relative error in the odds at finite depth, times L", _flow_error, -(drift**2) / 2),
        Claim("flow-relu", shrinking, "attention and ReLU near collapse: a Bernoulli law", _flow_relu,
              ((1 / sp.sqrt(SHARE) + kink / drift) * sp.exp(drift / 2) - kink / drift) ** -2),
        Claim("flow-linear", shrinking, "linear branches without a norm: an exponential", _flow_linear,
              q_0 * sp.exp(a_2 * gain_w)),
    )


def _erf(expression: sp.Expr) -> sp.Expr:
    """An expression in moments of an unnamed activation, for erf."""
    def moment(order: sp.Expr, variance: sp.Expr) -> sp.Expr:
        gap = sp.Dummy("gap", positive=True)
        # Price's theorem: the second derivative's mean square is the slope of the first derivative's gap.
        curved = gap_slope(Erf().slope_gap(sp.S.Zero, variance, gap), gap, {gap: sp.S.Zero})
        return (Erf().second(sp.S.Zero, variance), Erf().slope_second(sp.S.Zero, variance), curved)[int(order)]

    return expression.replace(SlopeMoment, moment)


def _evaluators() -> tuple[FunctionSpec, ...]:
    relu, marginal = law("relu"), law("marginal")
    return (
        FunctionSpec.from_derived("critical_relu", "1 - rho at layer l of a critical Post-LN ReLU network, at large depth.",
                                  (sigma_w, alpha_2, layer), {"share": relu.provenance.with_expression(
                                      relu.share, relu.provenance.neglected)}),
        FunctionSpec.from_derived("critical_smooth", "1 - rho at layer l of a critical Post-LN network of a smooth odd "
                                  "activation, at large depth.", (chi, c_2, alpha_2, layer), {"share": relu.provenance
                                  .with_expression(law("smooth").share.subs(blocks.MOMENTS), relu.provenance.neglected)}),
        FunctionSpec.from_derived("critical_bias_erf", "Variance of the output bias at which an erf network is critical. "
                                  "It vanishes like the sixth power of sigma_w, and cancels in its terms.", (sigma_w,),
                                  {"sigma_b2": law("smooth").provenance.with_expression(
                                      _erf(critical_bias()), law("smooth").provenance.neglected)},
                                  lower={sigma_w: sp.Rational(1, 10)}),
        FunctionSpec.from_derived("marginal_relu", "1 - rho at layer l of a Pre-LN ReLU network without attention, which "
                                  "starts at q = 0.5 (1 - rho = 1/2).", (layer,), {"share": marginal.provenance.with_expression(
                                      marginal.share.subs(SHARE, sp.S.Half), marginal.provenance.neglected)}),
    )


def _cases(width: int, draws: int) -> dict[str, tuple[Block, Setting, RateLaw | None]]:
    """Blocks and settings, with the law of a power where it is one."""
    scale = 1.5
    bias = float(_erf(critical_bias()).subs(sigma_w, scale))

    def setting(name: str, values: dict[sp.Symbol, float], share: float) -> Setting:
        return Setting(name, values, width=width, depth=48, draws=draws, share=share)

    smooth = {sigma_w: scale, sigma_b2: bias, alpha_2: 0.5}
    return {
        "critical ReLU": (relu_block(), setting("critical ReLU", {sigma_w: 2**0.25, alpha_2: 0.5}, 0.6), law("relu")),
        "critical erf": (smooth_block(Erf()), setting("critical erf", smooth, 0.6), law("smooth")),
        "Pre-LN ReLU": (marginal_block(), setting("Pre-LN ReLU", {sigma_w: 2**0.5}, 0.5), None),
        "saturating tanh": (saturating_block(Tanh()), setting("saturating tanh", {SLOPE: 0.5, gain_w: 1.0}, 1e-9), None),
    }


def _study_points(seed: int, full: bool) -> list[StudyPoint]:
    width, draws = (384, 48) if full else (192, 20)
    depth, share, values = 24, 0.1, {a_1: 1.0, a_2: 1.0, gain_v: 1.0, sigma_w: 2**0.5}
    scaled = {symbol: float(value.subs({**values, L: depth})) for symbol, value in SHRINKING.items()}
    shrinking = Setting("alpha^2 = 1/L", values | scaled, width=width, depth=depth, draws=draws, share=share)
    return [*simulation.study_points(_cases(width, draws), _erf, seed),
            partial(simulation.flowing, ALIGNING_RELU, flow(ALIGNING_RELU), shrinking, seed)]


def _dynamics() -> tuple[Result, ...]:
    """Every law, by its block."""
    laws = {"critical ReLU": _share("relu"), "critical odd": _share("smooth"), "Pre-LN ReLU": _share("marginal"),
            "tanh for a norm": _share("tanh"), "attention, a/L": _flow_attention(), "attention and ReLU, a/L": _flow_relu(),
            "linear, a/L": _flow_linear()}
    named = (replace(found, quantity=rf"{found.quantity}\;(\text{{{name}}})") for name, found in laws.items())
    return (*named, _bias(), _flow_error())


def _figures(seed: int, full: bool, progress: Progress | None) -> tuple[Figure, ...]:
    cases = {name: (block, setting) for name, (block, setting, _) in _cases(256 if full else 128, 24 if full else 8).items()}
    return overlap_figure("1 - rho over layers: critical blocks fall like powers of the layer, a Pre-LN ReLU stream like "
                          "one of its logarithm; a saturating function moves tokens apart.", cases, seed, progress)


DERIVATION = PaperDerivation(
    paper=PAPER,
    view=SYMPROP,
    values={},
    build_trace=lambda: trace_of(relu_block(), X),
    build_claims=_claims,
    build_evaluators=(_evaluators,),
    build_dynamics=_dynamics,
    study_points=_study_points,
    figures=_figures,
    references=(bibliography.NOCI2022, bibliography.KEDIA2024, bibliography.BA2016),
)
