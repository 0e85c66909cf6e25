"""Giorlandino and Goldt 2025, Two failure modes of deep transformers: overlap of tokens over depth, and where it collapses.

Tokens enter attention behind a norm wherever the block has one there: what freezes its weights is the gap of these tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import TypeAlias

import numpy as np
import sympy as sp
from symprop.derivations import bibliography
from symprop.derivations import giorlandino2025_simulation as simulation
from symprop.derivations.giorlandino2025_blocks import (
    GAP,
    STREAM,
    UNIT,
    attention,
    block,
    causal_attention,
    of_rows,
    over_depth,
    traced,
    wide,
)

from symprop.claims import (
    Axis,
    Boundary,
    Claim,
    Curve,
    Diagram,
    Figure,
    PaperDerivation,
    Points,
    Progress,
    Region,
    Result,
    Status,
    StudyPoint,
)
from symprop.codegen import FunctionSpec
from symprop.codegen.render import load
from symprop.codegen.spec import NO_BOUNDS, Bounds
from symprop.components import LayerNorm, UniformAttention
from symprop.components.base import Array
from symprop.core.expression import Comparison, compare, factored, near_one
from symprop.core.proof import ProofStep, about
from symprop.core.provenance import Derived, Source, merge_unique, neglected_order
from symprop.core.signal import Gradient
from symprop.core.symbols import (
    L,
    Y_row,
    a_row,
    alpha_mlp,
    alpha_sa,
    beta_a,
    d,
    d_k,
    declare,
    gain_v,
    gain_w,
    gap,
    n,
    q,
    q_0,
    rho,
    rho_T,
    sigma_b2,
)
from symprop.depth.collapse import Collapse, collapse
from symprop.depth.phase import OddsLaw, odds_law
from symprop.functions.activation import Activation
from symprop.functions.arc_cosine import ArcCosine
from symprop.functions.depth_nodes import ExpMinusOne, GrowthMinusOne
from symprop.functions.logistic import Tanh
from symprop.functions.softmax_closures import ANNEALED, CLOSURES, EXACT, REM, UNIFORM, Closure
from symprop.functions.softmax_overlap import Participation, RowGap, SoftmaxSlope
from symprop.functions.softmax_values import value
from symprop.functions.token_means import AMPLITUDE, COSINE, LATER, ROW
from symprop.network import residual, sequential, trace_of
from symprop.notation import GIORLANDINO
from symprop.simulate.measurement import Accuracy, Measurement, distance

SOURCE = Source("giorlandino2025", "")
Y, SCORE = Y_row, a_row
MU = declare("mu_frozen", r"\mu", "index of the law of frozen weights, beta_c/beta", lower=0, upper=1, open_lower=True)
SIZE = q
STANDARD = {"rho": 0.2, "gain_v": 0.2, "gain_w": 0.2, "sigma_b2": 4e-4, "alpha_mlp": 1.0}
"""The paper's values."""


def _result(expression: sp.Expr, quantity: str, *steps: ProofStep, neglected: str = "O(1/d)") -> Result:
    trace = traced("post")
    links = steps or (ProofStep("block", "composed of its components", expression),)
    shown = tuple(replace(step, expression=step.expression.subs(GAP, gap)) for step in links)
    return Result(expression.subs(GAP, gap), quantity, shown, assumptions=trace.assumptions, neglected=neglected,
                  sources=(SOURCE, *trace.sources))


def _frozen_weights(expression: sp.Expr) -> sp.Expr:
    """An expression with Y for the participation, where two rows do not overlap."""
    return wide(expression).replace(Participation, lambda *_: Y).replace(RowGap, lambda *_: Y)


def _first_half(*, centred: bool = False) -> sp.Expr:
    """Overlap after the attention half in that before it."""
    trace = traced("post", centred=centred)
    middle = next(step for step in trace.steps if isinstance(step.component, LayerNorm))
    return _frozen_weights(1 - trace.substitute_moments(middle.atoms.gap)).subs(GAP, 1 - rho)


@lru_cache(maxsize=1)
def _halves() -> tuple[sp.Expr, sp.Expr]:
    """Overlap after the attention half in that before it, and after the feed-forward half in that before it."""
    half = _first_half()
    whole = trace_of(sequential(*block("post").blocks[2:]), UNIT).expand()
    return half, (1 - whole.gap).subs(GAP, 1 - rho)


def _attention_half() -> Result:
    return _result(_halves()[0], r"\rho_0",
                   ProofStep("attention", "norm of the skip and of the attention's output", _halves()[0]))


def _feed_forward_half() -> Result:
    return _result(_halves()[1], r"\rho'", ProofStep("feed-forward", "norm of the skip and of the branch", _halves()[1]))


@lru_cache(maxsize=1)
def linearised() -> Collapse:
    """The Post-LN block at collapse, where attention adds nothing to the gap at linear order."""
    return collapse(trace_of(block("post", scored=False), UNIT))


ANGLE, COMMON_MODE = r"\lambda_{\mathrm{angle}}", r"\lambda_{\mathrm{common}}"


def _growth(factor: sp.Expr, quantity: str) -> Result:
    """The logarithm of what a block multiplies by."""
    return _result(sp.log(factor), quantity,
                   ProofStep("chain rule", "step by step, at equal tokens", factor, f"e^{{{quantity}}}"),
                   ProofStep("logarithm", "of what a block multiplies by", sp.log(factor)))


def _centred_half() -> Result:
    half = _first_half(centred=True)
    return _result(half, r"\rho_0", ProofStep("attention", "norm of the skip and of the centred attention's output", half))


def _centred_exponent() -> Result:
    slope = collapse(trace_of(block("post", scored=False, centred=True), UNIT)).slope
    return _growth(slope, ANGLE)


def _exponent(name: str) -> Result:
    found = linearised()
    factor, quantity = {"angle": (found.slope, ANGLE), "common": (found.common, COMMON_MODE)}[name]
    return _growth(factor, quantity)


@lru_cache(maxsize=1)
def odds() -> OddsLaw:
    """Attention halves with equal weights and no bias: an exact law of the odds rho/(1 - rho) + 1/n."""
    half = residual(UniformAttention(d, gain_v / d), 1, alpha_sa)
    return odds_law(trace_of(sequential(half, LayerNorm()), STREAM))


def _many_tokens(expression: sp.Expr) -> sp.Expr:
    few = sp.Dummy("few")
    return sp.sympify(expression).subs(n, 1 / few).subs(few, 0)


GROWN = r"o_{\ell+1}/o_\ell"


def _odds() -> Result:
    factor = odds().factor
    return _result(factor**L, r"o_{\depth}/o_0",
                   ProofStep("attention", "what tokens share over what they do not", factor, GROWN),
                   ProofStep("unroll", "every block multiplies by the same", factor**L))


def _critical() -> sp.Expr:
    many = OddsLaw(_many_tokens(odds().factor), sp.oo)
    return many.critical(alpha_sa, rho, rho_T, L)


def _same_strength(stated: sp.Expr) -> Comparison:
    """Both strengths are positive, and agree where their squares do, whose expanded powers have one base."""
    plain = _critical().replace(GrowthMinusOne, lambda deficit, depth: factored(1 / (1 + deficit)) ** -depth - 1)
    return compare(sp.expand(plain**2), sp.expand(stated**2))


def _critical_result() -> Result:
    return _result(_critical(), r"\alpha_c",
                   ProofStep("attention", "what tokens share over what they do not", odds().factor, GROWN),
                   ProofStep("odds", "of the overlap wanted after L blocks of many tokens", _critical()))


def _interior() -> Comparison:
    """Both halves raise the overlap for every participation up to 1: numerators of positive terms."""
    o, y, rest = sp.symbols("o y rest", positive=True)
    first, second = _halves()
    rise = factored((first - rho).subs({rho: o / (1 + o), Y: y / (1 + y)}, simultaneous=True))
    shrunk = factored((1 - rho - (1 - second)).replace(ArcCosine, lambda *_: rest).subs(rho, o / (1 + o)))
    for part in (*sp.fraction(rise), *sp.fraction(shrunk)):
        if not all(term.is_nonnegative for term in sp.Add.make_args(sp.expand(part))):
            return Comparison(None, "the sign was not decided", 1)
    return Comparison(True, "the rise of the overlap in either half is a ratio of sums of positive terms")


def _kept_signal() -> Comparison:
    """Overlap after many layers deep in the high-beta regime, where a fixed point was to keep it away from 1."""
    at = load(_overlap("post", REM))(**STANDARD, alpha_sa=1.0, beta_a=10.0, L=400)
    return Comparison(False, "", 1, {beta_a: sp.Integer(10), alpha_sa: sp.S.One, L: sp.Integer(400)},
                      sp.Float(0.5), sp.Float(float(at.overlap))) if at.overlap > 0.99 else Comparison(None, "", 1)


def _freezing(placement: str) -> sp.Expr:
    """beta at which the scores that enter the softmax freeze, from the score variance of the block's own attention."""
    trace = traced(placement)
    at = next(step for step in trace.steps if hasattr(step.component, "score_variance"))
    signal = trace.signal(at.inputs[0])
    variance = trace.substitute_moments(at.component.score_variance(signal)) / sp.log(n)
    return sp.sqrt(2 / sp.cancel(variance / beta_a**2))


def _beta_c(placement: str) -> Result:
    found = _freezing(placement).subs(STREAM.q, SIZE)
    return _result(found, r"\beta_c", ProofStep("freezing", "score variance equals 2 log n", found), neglected="O(1/log n)")


def _causal_half() -> sp.Expr:
    """Overlap of tokens t < u after attention with equal weights under a causal mask."""
    layer, kept = causal_attention(scored=False), alpha_sa**2
    own, pair = layer.position(UNIT), layer.position_pair(UNIT)(ROW, LATER, AMPLITUDE, COSINE)
    sizes = (kept * UNIT.q + own(position) for position in (ROW, LATER))
    return ((kept * UNIT.p + pair) / sp.sqrt(sp.Mul(*sizes))).subs(GAP, 1 - rho)


def _causal_rows() -> Result:
    return _result(_causal_half(), r"\rho_{tu}", ProofStep("attention", "row t averages the tokens 1 to t", _causal_half()))


def _late_rows() -> Result:
    """Positions that grow with the length, at any ratio: early tokens are then a vanishing share of every row."""
    length, ratio = sp.symbols("length ratio", positive=True)
    late = sp.limit(_causal_half().subs({ROW: length, LATER: ratio * length}, simultaneous=True), length, sp.oo)
    found = factored(sp.powdenest(late, force=True))
    return _result(found, r"\rho_{tu}", *_causal_rows().steps,
                   ProofStep("positions", "growing with the length, at any ratio", found, relation=r"\to"), neglected="O(1/t)")


def _causal_freezing() -> Result:
    """beta at which the scores of row t, over t tokens, freeze."""
    variance = causal_attention().score_variance(UNIT) / (beta_a**2 * sp.log(n))
    found = sp.sqrt(2 * sp.log(ROW) / (sp.cancel(variance) * sp.log(n)))
    return _result(found, r"\beta_c(t)", ProofStep("freezing", "score variance equals 2 log t", found), neglected="O(1/log t)")


def _frozen_moment(*powers: int) -> sp.Expr:
    """E of a sum over distinct tokens of powers of frozen weights, whose law is that of Poisson and Dirichlet with index mu."""
    blocks = sp.Mul(*(sp.rf(1 - MU, power - 1) for power in powers))
    return MU ** (len(powers) - 1) * sp.factorial(len(powers) - 1) / sp.factorial(sum(powers) - 1) * blocks


def _query_profile() -> Result:
    moment = _frozen_moment(2) - 2 * _frozen_moment(3) + _frozen_moment(4) + _frozen_moment(2, 2)
    slope = sp.factor(moment)
    return _result(slope, "F", ProofStep("moments", "E[Y_2 - 2 Y_3 + Y_2^2] over frozen weights", slope),
                   neglected="O(1/log n)")


FLOW = declare("g_out", "g", "second moment of the gradient of an output of attention", lower=0, open_lower=True)
SHARE = declare("F_row", "F", "what the softmax passes of a gradient", lower=0, open_lower=True)


@lru_cache(maxsize=1)
def _query_norm() -> sp.Expr:
    """E||dLoss/dW_Q||^2 of normalised tokens at any width, for gradients that are independent of each other."""
    return attention().weight_gradients(Gradient(FLOW, FLOW), UNIT).query


@lru_cache(maxsize=1)
def _wide_query_norm() -> sp.Expr:
    """The same for wide tokens and keys; how both widths go to infinity does not matter once the rows are sharp."""
    return d**2 * wide(sp.expand(of_rows(_query_norm() / d**2)))


def _query_slope() -> sp.Expr:
    """What the softmax passes of a gradient at infinite width, F."""
    (node,) = _wide_query_norm().atoms(SoftmaxSlope)
    return (n - 1) * node.subs(GAP, 1 - rho)


def _query_gradient() -> Result:
    found = factored(_wide_query_norm().replace(SoftmaxSlope, lambda *_: SHARE / (n - 1)))
    return _query_result(found, ProofStep("gradient", "independent gradients of the tokens' outputs", found))


def _query_result(expression: sp.Expr, *steps: ProofStep, neglected: str = "O(1/d)") -> Result:
    return _result(expression, r"\|\partial L/\partial W_Q\|^2", *steps, neglected=neglected)


def _query_scaling() -> Result:
    """In the frozen regime, for a mean over tokens: gradients of second moment 1/n^2."""
    put = {SHARE: _query_profile().expression.subs(MU, _freezing("post") / beta_a), FLOW: 1 / n**2}
    found = sp.factor(_query_gradient().expression.subs(put, simultaneous=True))
    step = ProofStep("profile", "frozen weights, a loss that is a mean over tokens", found)
    return _query_result(found, step, neglected="O(1/log n)")


def _query_maximum() -> Result:
    profile = _query_profile().expression
    (at,) = sp.solve(sp.diff(profile, MU), MU)
    largest = profile.subs(MU, at)
    return _result(largest, r"\max_\beta F", *about("F", _query_profile().steps),
                   ProofStep("maximum", f"at mu = {at}, twice the freezing point", largest), neglected="O(1/log n)")


def _below_freezing() -> Result:
    """F by its expansion in 1/n, which holds while the weights are not frozen."""
    series = _query_slope().replace(SoftmaxSlope, lambda _, count: SoftmaxSlope(SCORE, count).expansion(0))
    leading = sp.limit(series * n, n, sp.oo)
    found = (leading / n).replace(ExpMinusOne, lambda x: sp.exp(x) - 1).subs(SCORE, beta_a**2 * (1 - rho) * sp.log(n))
    found = sp.powsimp(sp.expand(found))
    return _result(found, "F",
                   ProofStep("expansion", "leading order in 1/n at a given score variance a", leading.replace(
                       ExpMinusOne, lambda x: sp.exp(x) - 1), r"\lim_{n \to \infty} n F"),
                   ProofStep("scores", "a = beta^2 (1 - rho) log n", found, relation=r"\sim"), neglected="O(e^(2a)/n^2)")


def _witness(found: sp.Expr, at: dict[sp.Symbol, sp.Expr], stated: float, holds: Callable[[float], bool]) -> Comparison:
    """A value at a point, which refutes what is stated of it where that does not hold."""
    number = float(value(found.subs(at)))
    return Comparison(None, "", 1) if holds(number) else Comparison(False, "", 1, at, sp.Float(stated), sp.Float(number))


def _not_vanishing() -> Comparison:
    """F at the freezing point for a hundred tokens that are orthogonal."""
    at = {n: sp.Integer(100), rho: sp.S.Zero, beta_a: sp.sqrt(2)}
    return _witness(_query_slope(), at, 0.0, lambda share: share < 0.05)


def _floor() -> Comparison:
    """The norm over that of infinite width, well below the freezing point at a width below the number of tokens."""
    at = {n: sp.Integer(768), d: sp.Integer(64), d_k: sp.Integer(64), beta_a: sp.Rational(2, 5), gap: sp.Rational(4, 5)}
    return _witness((_query_norm() / _wide_query_norm()).subs(GAP, gap), at, 1.0, lambda ratio: ratio < 2)


def _not_monotone() -> Comparison:
    """F at four times the freezing point, less that at twice."""
    profile = _query_profile().expression
    rise = profile.subs(MU, sp.Rational(1, 4)) - profile.subs(MU, sp.S.Half)
    return _witness(rise, {beta_a: sp.Integer(4)}, 0.0, lambda rise: rise > 0)


def _claims() -> tuple[Claim, ...]:
    skip, other = alpha_sa**2, alpha_mlp**2
    size = gain_w * (gain_w + sigma_b2) / 2
    c = (gain_w * rho + sigma_b2) / (gain_w + sigma_b2)
    kernel = (sp.sqrt(1 - c**2) + c * (sp.pi - sp.acos(c))) / sp.pi
    second = (gain_w**2 / 2 + other) / (size + sigma_b2 + other)
    halves, law, query = "signal propagation, Post-LN", "rank collapse", "entropy collapse"
    gain, mask, freezing = "gain-controlled attention", "causal attention", sp.sqrt(2 / gap)
    unmasked = (gain_v + skip) * rho / (gain_v * rho + skip)
    odds_wanted = (rho_T / (1 - rho_T) / (rho / (1 - rho))) ** (1 / L) - 1
    critical = sp.sqrt(gain_v / odds_wanted)
    return (
        Claim("attention-half", halves, "overlap after attention", _attention_half,
              ((gain_v + skip) * rho + sigma_b2) / (gain_v * (rho + (1 - rho) * Y) + sigma_b2 + skip),
              note="Rows that do not overlap."),
        Claim("feed-forward-half", halves, "overlap after the ReLU network", _feed_forward_half,
              (size * kernel + sigma_b2 + other * rho) / (size + sigma_b2 + other), expected=Status.AGREES),
        Claim("angle-exponent", law, "exponent of the gap at collapse", lambda: _exponent("angle"),
              sp.log(skip / (gain_v + sigma_b2 + skip) * second)),
        Claim("common-gradient-exponent", law, "gradient exponent of the token-common mode", lambda: _exponent("common"),
              sp.log((skip + gain_v) / (skip + gain_v + sigma_b2) * second)),
        Claim("odds-law", law, "growth of the odds with equal weights", _odds, (1 + gain_v / skip) ** L),
        Claim("critical-strength", law, "skip that keeps the overlap below a bound after L blocks", _critical_result,
              critical, statement=lambda: _same_strength(critical), note="Attention halves alone, no bias, many tokens."),
        Claim("signal-preserved", law, "at high beta the overlap stays away from 1 at every depth",
              lambda: _result(sp.S.One, r"\rho_L"), statement=_kept_signal, stated_latex=r"\rho_L \le \tfrac12",
              expected=Status.REFUTED, corrected_by="no-interior-fixed-point",
              note="With ReLU a high beta delays collapse and does not prevent it: as the gap falls beta_c grows past beta.",
              stated_whole=True),
        Claim("no-interior-fixed-point", law, "both halves raise the overlap, whatever the weights",
              lambda: _result(_halves()[0], r"\rho_0"), statement=_interior, stated_latex=r"\rho' > \rho_0 > \rho",
              printed=False, stated_whole=True),
        Claim("centred-half", gain, "overlap after centred attention", _centred_half,
              (skip * rho - gain_v * (1 - rho) / n) / (skip + gain_v * (1 - rho) * (Y - 1 / n)),
              note="Rows that do not overlap: centred attention never raises the overlap."),
        Claim("centred-exponent", gain, "exponent of the gap at collapse with centred attention", _centred_exponent,
              sp.log(second), note="Centred attention adds nothing at equal tokens: what aligns them is feed-forward alone."),
        Claim("causal-half", mask, "overlap of tokens t < u after attention with equal weights", _causal_rows,
              ((gain_v + skip) * rho + gain_v * (1 - rho) / LATER)
              / sp.sqrt(sp.Mul(*(gain_v * (rho + (1 - rho) / position) + skip for position in (ROW, LATER)))),
              note="The value bias is zero here and below."),
        Claim("causal-every", mask, "every token follows the map of many tokens without a mask", _causal_rows, unmasked,
              expected=Status.REFUTED, corrected_by="causal-late", note="The first tokens see few others: they align less."),
        Claim("causal-late", mask, "late tokens do", _late_rows, unmasked,
              note="They stay exchangeable among themselves, so that this holds in every layer; corrections are O(1/t), and "
              "O(1/log t) where rows freeze.", printed=False),
        Claim("causal-freezing", mask, "freezing point of row t", _causal_freezing, freezing * sp.sqrt(sp.log(ROW) / sp.log(n)),
              note="That without a mask for positions that grow with the length; early rows freeze first."),
        Claim("beta-c", query, "freezing point of the weights, Post-LN", lambda: _beta_c("post"), sp.sqrt(2 / gap)),
        Claim("beta-c-preln-stream", query, "freezing point, Pre-LN, from the stream that is not normalised",
              lambda: _beta_c("pre"), sp.sqrt(2 / (SIZE * gap)), expected=Status.REFUTED, corrected_by="beta-c-preln",
              note="Attention reads normalised tokens; the stream's own q gap grows with depth and would freeze every row."),
        Claim("beta-c-preln", query, "freezing point, Pre-LN, of the tokens that enter attention", lambda: _beta_c("pre"),
              sp.sqrt(2 * SIZE / gap), printed=False),
        Claim("beta-c-no-norm", query, "freezing point without norms", lambda: _beta_c("none"), sp.sqrt(2 / (SIZE * gap))),
        Claim("query-gradient", query, "squared query gradient over beta, in the frozen regime", _query_profile,
              MU * (1 - MU) / 3),
        Claim("query-gradient-norm", query, "squared norm of the query gradient, wide tokens", _query_gradient,
              d**2 * n * gain_v * gap**2 * beta_a * sp.sqrt(sp.log(n)) * SHARE * FLOW,
              note="F is what the softmax passes of a gradient, g the second moment of the gradient of an output.",
              printed=False),
        Claim("query-gradient-scaling", query, "the same in the frozen regime for a loss that is a mean over tokens",
              _query_scaling, gain_v * gap**2 * d**2 / n * sp.sqrt(sp.log(n)) * freezing / 3 * (1 - freezing / beta_a)),
        Claim("query-gradient-maximum", query, "largest F over beta", _query_maximum, sp.Rational(1, 12)),
        Claim("query-gradient-monotone", query, "F grows with beta above the freezing point",
              lambda: _result(_query_profile().expression, "F"), statement=_not_monotone,
              stated_latex=r"\partial F/\partial\beta > 0", expected=Status.REFUTED, corrected_by="query-gradient-scaling",
              note="F is largest at twice the freezing point; what grows is beta F, the norm itself.", stated_whole=True),
        Claim("query-gradient-below", query, "F below the freezing point at finite length", _below_freezing,
              n ** (beta_a**2 * (1 - rho) - 1), note="For scores of variance below log(n)/2 it falls as a power of n.",
              printed=False),
        Claim("query-gradient-vanishes", query, "the query gradient vanishes at and below the freezing point",
              lambda: _result(_query_slope(), "F", neglected="exact"), statement=_not_vanishing, stated_latex="F(\\beta_c) = 0",
              expected=Status.REFUTED, corrected_by="query-gradient-below",
              note="At infinite length only; at finite length F falls as a power of n below beta_c, and is not small at it.",
              stated_whole=True),
        Claim("query-gradient-floor", query, "finite width does not matter below the freezing point",
              lambda: _query_result(_query_norm()), statement=_floor,
              stated_latex=r"\|\partial L/\partial W_Q\|^2 = \|\partial L/\partial W_Q\|^2_{d \to \infty}",
              expected=Status.REFUTED, corrected_by="query-gradient-norm",
              note="Heads of finite width pass a share 1/d of the gradient whatever beta: it hides the decay of F in n.",
              stated_whole=True),
    )


MANY: Bounds = {rho: sp.S.Zero}
"""The range of an overlap that all pairs of many tokens have."""


def _overlap(
    placement: str, closure: Closure, activation: Activation | None = None, *, centred: bool = False
) -> FunctionSpec:
    depth = over_depth(placement, closure, activation, centred=centred)
    trace = traced(placement, activation, centred=centred)
    where = {"post": "Post-LN", "pre": "Pre-LN", "none": "norm-free"}[placement]
    name = "" if placement == "post" else {"pre": "preln_", "none": "noln_"}[placement]
    name = f"{'centred_' if centred else ''}{f'{activation.name}_' if activation else ''}{name}"
    kind = f"{where} {activation.name if activation else 'ReLU'} blocks{' with centred attention' if centred else ''}"
    outputs = {"overlap": depth.shared / depth.second, "one_minus_overlap": GAP / depth.second}
    outputs |= {} if placement == "post" else {"second_moment": depth.second}
    limit = "" if placement == "post" else "; no overlap is known where the second moment is inf or nan, beyond doubles"
    derived = Derived(
        sp.S.Zero, merge_unique(trace.assumptions, (closure.assumption,)), neglected_order("O(1/d)", closure.neglected),
        merge_unique((SOURCE,), trace.sources, (closure.source,)),
    )
    return FunctionSpec.from_derived(
        f"{name}overlap_{closure.name}", f"Overlap of tokens after L {kind}, softmax moments closed by: "
        f"{closure.assumption.name}{limit}.", depth.arguments,
        {key: derived.with_expression(item) for key, item in outputs.items()}, recursion=depth.recursion,
        lower={} if n in depth.arguments else MANY, rounded_as_one=("rho", "overlap"),
        formula=r"\rho_L = (c_L - \Delta_L/n)/q_L, \quad q = c + (1 - 1/n)\Delta, \quad (c, \Delta)_{l+1} = F(c_l, \Delta_l)",
    )


def _scalar(name: str, summary: str, expression: sp.Expr, output: str, *arguments: sp.Symbol, neglected: str,
            upper: Bounds = NO_BOUNDS, above: Collection[sp.Symbol] = ()) -> FunctionSpec:
    trace = traced("post")
    derived = Derived(expression, trace.assumptions, neglected, (SOURCE,))
    return FunctionSpec.from_derived(name, summary, arguments, {output: derived}, lower=MANY, upper=upper, above=above)


def _overlap_evaluators() -> tuple[FunctionSpec, ...]:
    closed = tuple(_overlap("post", closure) for closure in (REM, UNIFORM, ANNEALED, EXACT))
    others = (("pre", REM), ("none", REM), ("pre", EXACT))
    return (*closed, *(_overlap(placement, closure) for placement, closure in others), _overlap("post", REM, Tanh()),
            _overlap("post", EXACT, centred=True))


def _scalar_evaluators() -> tuple[FunctionSpec, ...]:
    bias = (gain_v, gain_w, sigma_b2, alpha_sa, alpha_mlp)
    return (
        _scalar("critical_strength", "Skip strength at which the overlap reaches rho_T after L blocks of equal weights.",
                _critical(), "alpha_sa", rho, rho_T, L, gain_v, neglected="O(1/n), feed-forward branches", upper={rho: rho_T},
                # Of tokens without any overlap, equal weights make none.
                above=(rho,)),
        _scalar("freezing_point", "beta above which the weights of tokens of overlap rho freeze.",
                _freezing("post").subs(GAP, 1 - rho), "beta", rho, neglected="O(1/log n)"),
        _scalar("angle_exponent", "Exponent per block of the gap at collapse.",
                sp.log(near_one(wide(linearised().slope))), "lyapunov_angle", *bias, neglected="O(1/d)"),
        _scalar("query_gradient_frozen", "Squared query gradient over beta, up to its scale, at infinite length.",
                _query_profile().expression.subs(MU, 1 / sp.Max(1, beta_a / _freezing("post"))).subs(GAP, 1 - rho), "F",
                beta_a, rho, neglected="O(1/log n)"),
    )


Values: TypeAlias = dict[sp.Symbol, float]
SLACK = simulation.ACCURACY / 2
"""What a row allows for finite width and length, beside its standard error."""


def _predicted(spec: FunctionSpec, beta: float, tokens: int, layers: Sequence[int], **changed: float) -> tuple[Array, Values]:
    """Overlaps at the paper's values by an evaluator, and these values for a simulation."""
    given = {**STANDARD, "alpha_sa": 1.0, "beta_a": beta, "q_0": 1.0, "n": tokens, **changed}
    names = {parameter.name for parameter in spec.parameters}
    theory = load(spec)(**{key: value for key, value in given.items() if key in names}, L=np.array(layers)).overlap
    symbols = (rho, q_0, n, beta_a, gain_v, gain_w, sigma_b2, alpha_sa, alpha_mlp)
    return theory, {symbol: given[str(symbol)] for symbol in symbols}


def _compared(placement: str, beta: float, level: str, layers: Sequence[int], *, seed: int, holds: bool = True,
              slack: float = SLACK, centred: bool = False, tokens: int = 64, width: int = 256,
              draws: int = 4) -> list[Measurement]:
    """Overlaps after some of the layers, of the evaluator and in simulated blocks."""
    theory, values = _predicted(_overlap(placement, CLOSURES[level], centred=centred), beta, tokens, layers)
    measured = simulation.overlaps(
        placement, values, depth=layers[-1], width=width, draws=draws, seed=seed, centred=centred)
    name = f"{placement}{', centred' if centred else ''}, beta = {beta}, {level}"
    return simulation.rows(name, theory, layers, measured, holds=holds, slack=slack)


def _masked(beta: float, level: str, *, seed: int, holds: bool, tokens: int = 64, width: int = 256,
            draws: int = 4) -> list[Measurement]:
    """Overlaps among late tokens (where the theory may hold) and early ones under a causal mask, beside the map without one."""
    part, depth = tokens // 4, 20
    (theory,), values = _predicted(_overlap("post", CLOSURES[level]), beta, tokens, (depth,), sigma_b2=0.0)
    found = simulation.causal_overlaps(
        values, (slice(-part, None), slice(part)), depth=depth, width=width, draws=draws, seed=seed)
    return [
        simulation.row(f"overlap of the {which} {part} tokens after layer {depth}", f"causal, beta = {beta}, {level}",
                       theory, found[:, index], holds=holds and which == "last", slack=SLACK)
        for index, which in enumerate(("last", "first"))
    ]


def _study_points(seed: int, full: bool) -> list[StudyPoint]:
    cases = [("post", 0.5, "uniform", True), ("post", 3.0, "rem", True)]
    cases += [("pre", 1.0, "rem", False), ("pre", 1.0, "exact", True)]
    cases += [("post", 1.6, "rem", False), ("post", 1.6, "exact", True)] if full else []
    sizes = {"tokens": 128, "width": 512, "draws": 16} if full else {}
    more = {"draws": 12, **sizes}
    layers = (1, 5, 10, 20, 30, 50)
    return [
        *(partial(_compared, placement, beta, level, layers, seed=seed + index, holds=holds, **sizes)
          for index, (placement, beta, level, holds) in enumerate(cases)),
        *(partial(_compared, "post", beta, "exact", layers, seed=seed + 10, centred=True, **more) for beta in (0.5, 3.0)),
        # Frozen rows of t keys reach their limit like 1/log t.
        *(partial(_masked, beta, level, seed=seed + 20, holds=level == "uniform", **more)
          for beta, level in ((0.5, "uniform"), (3.0, "exact"))),
    ]


def _accuracy(seed: int, progress: Progress | None) -> tuple[Accuracy, ...]:
    """The largest absolute error of the overlap over 50 layers, on both sides of the freezing point.

    It falls like one over the width: .022 (standard error .005) at 256 coordinates and beta = 3, .014 (.006) at 512.
    """
    found = []
    for index, beta in enumerate((0.5, 3.0)):
        rows = _compared("post", beta, "exact", range(1, 51), seed=seed + index, slack=0.0, width=512, draws=64)
        found.append(distance(f"overlap after each of 50 layers, {rows[0].setting}", rows, {"largest": simulation.ACCURACY}))
        simulation.report(progress, index + 1, 2)
    return tuple(found)


def _figures(seed: int, full: bool, progress: Progress | None) -> tuple[Figure, ...]:
    layers = np.arange(1, 51)
    curves, points = [], []
    for index, beta in enumerate((0.5, 3.0)):
        theory = load(_overlap("post", REM))(**STANDARD, alpha_sa=1.0, beta_a=beta, L=layers).overlap
        label = f"beta = {beta:g}"
        curves.append(Curve(label, layers.tolist(), theory.tolist()))
        values = {symbol: STANDARD[str(symbol)] for symbol in (rho, gain_v, gain_w, sigma_b2, alpha_mlp)}
        values |= {alpha_sa: 1.0, beta_a: beta, n: 64}
        found = simulation.overlaps("post", values, depth=50, width=256, draws=12 if full else 3, seed=seed + index)[:, 5::5]
        error = found.std(axis=0, ddof=1) / len(found) ** 0.5
        points.append(Points(label, layers[4::5].tolist(), found.mean(axis=0).tolist(), error.tolist()))
        simulation.report(progress, index + 1, 2)
    return (Figure("overlap", "Overlap of tokens over the layers of a Post-LN ReLU network, 64 tokens of width 256: random "
                   "energy model and simulation.", "layer", "overlap", tuple(curves), tuple(points)),)


def _dynamics() -> tuple[Result, ...]:
    """Exponents at collapse, without and with centring, the freezing point and the critical strength."""
    angle, common, centred = _exponent("angle"), _exponent("common"), _centred_exponent()
    centred = replace(centred, quantity=rf"{ANGLE}^{{\mathrm{{centred}}}}")
    return angle, common, centred, _beta_c("post"), _critical_result()


OVERLAP = sp.Symbol("overlap")
DIAGRAM = Diagram(
    x=Axis(beta_a, "beta", 0.2, 5.0, 200),
    y=Axis(alpha_sa, "alpha_sa", 0.1, 3.0, 200),
    evaluators={closure.name: f"overlap_{closure.name}" for closure in (REM, UNIFORM, ANNEALED, EXACT)},
    output=OVERLAP,
    title="Overlap of tokens after {L} layers",
    label="overlap of tokens",
    values={L: 50, n: 64, **{symbol: STANDARD[str(symbol)] for symbol in (rho, gain_v, gain_w, sigma_b2, alpha_mlp)}},
    names={"sigma_v2": gain_v, "sigma_w2": gain_w},
    boundaries=(
        Boundary("overlap 0.95", lambda: OVERLAP - sp.Rational(95, 100), "solid"),
        Boundary("weights freeze at the input", lambda: beta_a - _freezing("post").subs(GAP, 1 - rho), "dashed"),
        Boundary("critical strength, equal weights", lambda: alpha_sa - _critical().subs(rho_T, sp.Rational(95, 100)),
                 "dotted"),
    ),
    regions=(
        Region("rank collapse", sp.Rational(95, 100) < OVERLAP),
        Region("entropy collapse:\nfrozen weights",
               sp.And(sp.Rational(95, 100) > OVERLAP, beta_a > sp.sqrt(2 / (1 - rho)))),
        Region("signal and\nattention kept", sp.And(sp.Rational(95, 100) > OVERLAP, beta_a < sp.sqrt(2 / (1 - rho)))),
    ),
    simulate=simulation.at_the_end,
    limits=(0.0, 1.0),
)

DERIVATION = PaperDerivation(
    paper=bibliography.GIORLANDINO2025,
    view=GIORLANDINO,
    values={},
    build_trace=lambda: traced("post"),
    build_claims=_claims,
    build_evaluators=(_scalar_evaluators, _overlap_evaluators),
    study_points=_study_points,
    accuracy=_accuracy,
    figures=_figures,
    diagram=DIAGRAM,
    build_dynamics=_dynamics,
    references=(bibliography.NOCI2022, bibliography.COWSIK2024, bibliography.KEDIA2024, bibliography.BA2016),
)
