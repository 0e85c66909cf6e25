"""Softmax attention that is right at finite length: what the literature says of it, what follows here, and the simulation."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import sympy as sp
from symprop.derivations import bibliography, softmax_attention_accuracy
from symprop.derivations import softmax_attention_simulation as simulation
from symprop.derivations.giorlandino2025_blocks import wide

from symprop.claims import Axis, Claim, Diagram, Paper, PaperDerivation, Result, Status
from symprop.codegen import FunctionSpec
from symprop.components import (
    Attention,
    CausalAttention,
    QueryKeyNormAttention,
    RMSNorm,
    RotaryAttention,
    ShapedAttention,
    UniformAttention,
)
from symprop.components.base import Component
from symprop.core.expression import Comparison
from symprop.core.proof import ProofStep
from symprop.core.provenance import Derived
from symprop.core.signal import Gradient, Signal
from symprop.core.symbols import (
    P,
    Y_row,
    a_row,
    beta_a,
    d,
    d_k,
    d_o,
    gain2,
    gain_v,
    gap,
    n,
    omega,
    q,
    r,
    r_g,
    s2,
    sigma_k2,
    sigma_q2,
    sigma_v2,
)
from symprop.functions.softmax_layer import small_scores
from symprop.functions.softmax_limits import (
    annealed_participation,
    condensed,
    condensed_participation,
    critical_scale,
    nearly_uniform,
)
from symprop.functions.softmax_overlap import (
    JacobianOverlap,
    Participation,
    RowGap,
    RowOverlap,
    jacobian_square,
    jacobian_trace_square,
)
from symprop.functions.softmax_values import value
from symprop.network import token_input, trace_of
from symprop.notation import KEDIA

PAPER = Paper(
    "softmax_attention", "symprop", "Softmax attention at finite length, forward and backward", "symprop", 2026,
)

X = Signal(q=q, gap=gap, tokens=n, width=d, gaussian=True)
LAYER = Attention(d_o, sigma_v2, d_k, sigma_q2, sigma_k2, P)
G = Gradient(s2, s2 * (1 - r_g))


def _result(expression: sp.Expr, quantity: str, rule: str, reason: str) -> Result:
    return Result(expression, quantity, (ProofStep(rule, reason, expression),), assumptions=LAYER.assumptions,
                  neglected=LAYER.neglected, sources=LAYER.sources)


def _at_zero(of: Callable[[Attention], sp.Expr], quantity: str) -> Result:
    """The limit of small scores of the exact level."""
    found = sp.factor(small_scores(of(Attention(d_o, sigma_v2, d_k, sigma_q2, sigma_k2))).subs(sigma_q2, 0))
    return _result(found, quantity, "small scores", "the moments of the weights at vanishing score variance")


def _first_order() -> sp.Expr:
    """The score variance's coefficient in the participation."""
    return sp.factor(sp.diff(small_scores(LAYER.participation(X)), sigma_q2) / sp.diff(LAYER.score_variance(X), sigma_q2))


def _query_gradient() -> Result:
    """Of the query weights at uniform weights and the paper's sizes and variances, for iid gradients of unit variance."""
    layer = Attention(d, 1 / d, d, 1 / d, 1 / d, level="uniform")
    found = sp.factor(layer.weight_gradients(Gradient(sp.S.One, sp.S.One), X).query)
    return _result(found, r"\|dW_Q\|^2", "uniform attention", "the query path with the softmax's Jacobian at equal weights")


def _first_orders(of: Callable[[Signal], sp.Expr], quantity: str) -> Result:
    """A moment of the output over that of the values: first order in the scores, in 1/n and in 1/d; wide keys."""
    few = sp.Dummy("few", positive=True)
    expression = small_scores(of(LAYER.forward(X))) / (d * sigma_v2)
    expression = expression.subs({sigma_q2: omega / d, sigma_k2: 1 / d, q: 1, gap: 1 - r}).subs({n: n / few, d: d / few})
    shown = sp.S.Zero
    for order in (0, 1):
        coefficient = sp.limit(sp.cancel(sp.diff(expression, omega, order).subs(omega, 0)), d_k, sp.oo)
        shown += omega**order * sum(sp.factor(sp.diff(coefficient, few, k).subs(few, 0)) for k in (0, 1))
    return _result(shown, quantity, "expand", "unit variance, first order in the scores and in 1/n and 1/d")


SCORES = a_row
"""Score variance of a row."""
Y = Y_row
"""Participation of a row."""


def _near_uniform(moment: Callable[..., sp.Expr], quantity: str) -> Result:
    return _result(sp.factor(nearly_uniform(moment(SCORES, n), SCORES)), quantity, "expand", "series about equal weights")


def _overlap_slope() -> Comparison:
    """Central differences of the overlap of two rows at a = 4, n = 32 and correlation 1/2 tend to a tr J_i J_k."""
    a, tokens, half = sp.Integer(4), sp.Integer(32), sp.Rational(1, 2)

    def rest(halvings: int) -> float:
        step = half**halvings
        above, below = (value(RowOverlap(a, a * (half - side * step), tokens)) for side in (1, -1))
        return (above - below) / (2 * float(step)) / (4 * value(JacobianOverlap(a, 2, tokens))) - 1

    return _approach(rest, (2, 3, 4, 5, 6), "the distance falls with every halving of the step in the correlation")


def _frozen_jacobian() -> Result:
    """E tr J^2 of weights with the Poisson-Dirichlet law, in their participation."""
    found = sp.factor(condensed(jacobian_square(SCORES, n), Y))
    return _result(found, r"E\,\mathrm{tr} J^2", "condensation", "the set partitions of Pitman's sampling formula")


def _condensation_point() -> Result:
    """Of n scores of variance beta^2 log n, n^(1 - x^2/2) exceed x beta log n: where the level that dominates has one."""
    level = sp.Symbol("x", positive=True)
    entropy = 1 - level**2 / 2
    (dominant,) = sp.solve(sp.diff(entropy + beta_a * level, level), level)
    found = next(root for root in sp.solve(entropy.subs(level, dominant), beta_a) if root.is_positive)
    return _result(found, r"\beta_c", "condensation", "the entropy of the scores that dominate the normaliser vanishes")


def _without_overlap(of: Callable[[Signal], sp.Expr], quantity: str) -> Result:
    """A moment of the output of infinitely wide tokens and keys where two rows attend to different tokens."""
    scale = beta_a * sp.sqrt(sp.log(n)) / d
    standard = {P: 0, sigma_v2: gain_v / d, sigma_q2: scale, sigma_k2: scale}
    found = wide(of(LAYER.forward(X)).subs(standard)).replace(Participation, lambda *_: Y).replace(RowGap, lambda *_: Y)
    return _result(sp.factor(found), quantity, "limit", "infinite width, and rows that do not overlap")


def _participation(variance: sp.Expr, tokens: sp.Expr) -> Result:
    return _result(sp.Float(value(Participation(variance, tokens)), 10), r"E \sum_j A_j^2", "integral",
                   "one row of weights at finite length, by an integral over the normaliser")


LENGTHS = tuple(10**power for power in range(2, 7))


def _approach(rest: Callable[[int], float], places: tuple[int, ...], what: str) -> Comparison:
    """Whether a relative distance from a limit falls towards zero from place to place."""
    sizes = [abs(rest(place)) for place in places]
    return Comparison(None if all(later < earlier for earlier, later in pairwise(sizes)) else False, what, len(places))


def _condensation() -> Comparison:
    """At multiples of the critical score deviation sqrt(2 log n) the participation tends to that of the random energy model."""

    def rest(size: int) -> float:
        variances = [sp.N((ratio * critical_scale(size)) ** 2) for ratio in (sp.Rational(3, 2), 2, 4)]
        return max(abs(value(Participation(a, sp.Integer(size))) / condensed_participation(a, size) - 1) for a in variances)

    return _approach(rest, LENGTHS, "the distance from the limit falls with every decade of n")


def _annealed() -> Comparison:
    """At half the variance (2/3) log n up to which lognormal sums concentrate."""

    def rest(size: int) -> float:
        a = sp.N(sp.log(size) / 3)
        return float(value(Participation(a, sp.Integer(size))) / annealed_participation(a, size) - 1)

    return _approach(rest, LENGTHS, "the distance from the lognormal form falls with every decade of n")


def _frozen() -> Comparison:
    """The Jacobian of a million tokens over that of the Poisson-Dirichlet law of the same participation."""

    def rest(deviation: int) -> float:
        a, tokens = sp.Integer(deviation**2), sp.Integer(10**6)
        own = value(Participation(a, tokens))
        return value(jacobian_square(a, tokens)) / float(condensed(jacobian_square(SCORES, n), own)) - 1

    return _approach(rest, (6, 10, 15, 20), "the distance from the law of frozen weights falls with the scores")


def _paths() -> Result:
    """Query path over key path of the input gradient at uniform weights, for iid gradients."""
    layer = Attention(d_o, sigma_v2, d_k, sigma_q2, sigma_k2, level="uniform")
    form, along, jacobian = (layer.moment(name, X) for name in ("form", "along", "jacobian"))
    own = ((d_k - 1) * form + d * along) / d_k
    return _result(sp.factor(gap / q * ((1 - 1 / d) * own + along) / jacobian), r"q_Q/q_K", "uniform attention",
                   "both paths with the Jacobian of the softmax at equal weights and the Gram matrix of Gaussian tokens")


def _numbers(expression: sp.Expr, at: dict[sp.Symbol, sp.Expr]) -> sp.Expr:
    return sp.Float(value(expression.subs(at)), 10)


POINT = {q: sp.S.One, gap: sp.S.One, n: sp.Integer(256), d: sp.Integer(64), d_o: sp.Integer(64), d_k: sp.Integer(32),
         sigma_v2: sp.Rational(1, 64), P: sp.S.Zero, s2: sp.S.One, r_g: sp.S.Zero}
"""Independent tokens of unit variance."""


def _scores(deviation: sp.Expr) -> dict[sp.Symbol, sp.Expr]:
    return {**POINT, sigma_q2: deviation / 64, sigma_k2: deviation / 64}


def _gradient(deviation: sp.Expr) -> Result:
    (back,) = LAYER.backward(G, X)
    return _result(_numbers(back.q, _scores(deviation)), r"E g_t^2", "attention", LAYER.reason)


def claims() -> tuple[Claim, ...]:
    """What the literature says of softmax attention."""
    uniform = UniformAttention(d_o, sigma_v2)
    noise, spread = P / (1 - P), (1 - r) * omega
    return (
        Claim("uniform-forward", "Noci et al. 2022, Lemma A.6", "small scores: the value layer of the average token",
              lambda: _at_zero(lambda layer: layer.forward(X).q, r"q'"), uniform.forward(X).q),
        Claim("uniform-gap", "Noci et al. 2022, Lemma A.6", "small scores: all outputs are equal",
              lambda: _at_zero(lambda layer: layer.forward(X).gap, r"\Delta'"), sp.S.Zero),
        Claim("uniform-backward", "Noci et al. 2022, Lemma A.6", "small scores: gradient by values",
              lambda: _at_zero(lambda layer: layer.backward(G, X)[0].q, r"E g_t^2"), uniform.backward(G, X)[0].q),
        Claim("value-gradient", "Noci et al. 2022, Eq. 17", "gradient of the value weights for iid gradients of unit variance",
              lambda: _at_zero(lambda layer: layer.weight_gradients(Gradient(sp.S.One, sp.S.One), X).value, r"\|dW_V\|^2"),
              n * d * d_o * (q - (1 - 1 / n) * gap)),
        Claim("query-gradient", "Noci et al. 2022, Eq. 18", "gradient of the query weights at equal weights, as printed",
              _query_gradient, q * gap**2 * (n - 1) / n * d * (n + d),
              note="Its further factor 1 + 4 (1 - rho)/(n d), from norms and correlations that depend on each other, is of "
              "the order that is neglected here."),
        Claim("participation-first-order", "Kedia et al. 2024, component table", "first order of the participation",
              lambda: _result(_first_order(), r"dY/da", "expand", "first order in the score variance"), (n - 1) / n**2),
        Claim("participation-small", "Taylor series", "the participation to first order in the score variance",
              lambda: _near_uniform(Participation, "Y"), 1 / n + SCORES * (n - 1) / n**2, printed=False),
        Claim("jacobian-small", "Taylor series", "squared norm of the softmax's Jacobian to first order",
              lambda: _near_uniform(jacobian_square, r"E\,\mathrm{tr} J^2"), (n - 1) / n**2 * (1 + SCORES * (1 - 4 / n)),
              printed=False),
        Claim("trace-small", "Taylor series", "squared trace of the softmax's Jacobian to first order",
              lambda: _near_uniform(jacobian_trace_square, r"E (\mathrm{tr} J)^2"), (1 - 1 / n) ** 2 * (1 - 2 * SCORES / n),
              printed=False),
        Claim("overlap-slope", "integration by parts", "slope of the overlap of two rows in the correlation of their scores",
              lambda: _result(sp.Float(4 * value(JacobianOverlap(sp.Integer(4), sp.Integer(2), sp.Integer(32))), 10),
                              r"dV_2/d\rho", "integral", "a times the overlap of the Jacobians of two rows"),
              statement=_overlap_slope, stated_latex=r"s^2\, E\, \mathrm{tr} J_i J_k", expected=Status.AGREES, printed=False),
        Claim("kedia-output", "Kedia et al. 2024, component table", "second moment of the output at small scores",
              lambda: _first_orders(lambda y: y.q, r"q'/(d \sigma_v^2)"),
              r * (1 + noise / n * (1 + spread)) + (1 - r) * (1 + spread) / n * (1 + noise) + (1 - r) ** 2 * omega / d),
        Claim("kedia-covariance", "Kedia et al. 2024, component table", "covariance of the output at small scores",
              lambda: _first_orders(lambda y: y.p, r"p'/(d \sigma_v^2)"),
              r + (1 - r) * (1 + spread * r) / n + (1 - r) ** 2 * r * omega / d),
        Claim("key-equals-query", "Noci et al. 2022, Eq. 36", "the query and key paths of the input gradient are equal",
              _paths, sp.S.One, expected=Status.REFUTED,
              note="At independent tokens the query path has the Gram fluctuation of n keys in d dimensions, of relative size "
              "n/d, which the key path has not; correlated tokens lower it by 1 - r."),
        Claim("uniform-beyond-range", "Noci et al. 2022, Assumption 3.1", "uniform weights at a score deviation of 1",
              lambda: _participation(sp.S.One, sp.Integer(256)), sp.Rational(1, 256), expected=Status.REFUTED,
              note="The participation is 2.65 times 1/n at n = 256."),
        Claim("lognormal", "Cowsik et al. 2024 (annealed)", "ratio of the means of numerator and denominator at deviation 3",
              lambda: _participation(sp.Integer(9), sp.Integer(1024)),
              annealed_participation(sp.Integer(9), sp.Integer(1024)), expected=Status.REFUTED,
              corrected_by="lognormal-limit",
              note="Valid for a < (2/3) log n; rare rows dominate beyond, and it is 6.58 times too large: 0.888 for 0.135."),
        Claim("lognormal-limit", "Cowsik et al. 2024 (annealed)", "the same at a = (1/3) log n as n grows",
              lambda: _participation(sp.N(sp.log(10**6) / 3), sp.Integer(10**6)), statement=_annealed,
              stated_latex=r"\frac{e^a}{n - 1 + e^a}", expected=Status.AGREES),
        Claim("random-energy", "Giorlandino and Goldt 2025", "condensed weights at n = 10^6 and deviation 6",
              lambda: _participation(sp.Integer(36), sp.Integer(10**6)), condensed_participation(sp.Integer(36), 10**6),
              expected=Status.REFUTED, corrected_by="random-energy-limit",
              note="The random energy model is reached logarithmically: 0.124 instead of 0.241 at a million tokens."),
        Claim("kedia-gradient", "Kedia et al. 2024, component table", "gradient by values alone at deviation 1",
              lambda: _gradient(sp.S.One), sp.Rational(1, 256), expected=Status.REFUTED,
              note="No path through the softmax and no participation: the gradient is 12.54 times as large, of which 2.65 by "
              "the participation."),
        Claim("random-energy-limit", "Giorlandino and Goldt 2025", "condensation: 1 - s_c/s at s = 1.5, 2 and 4 s_c as n grows",
              lambda: _participation(sp.N(4 * critical_scale(10**6) ** 2), sp.Integer(10**6)), statement=_condensation,
              stated_latex=r"1 - \sqrt{2 \log n}/s", expected=Status.AGREES),
        Claim("condensation-point", "Giorlandino and Goldt 2025", "inverse temperature at which the weights condense",
              _condensation_point, sp.powsimp(critical_scale(n) / sp.sqrt(sp.log(n)))),
        Claim("condensed-output", "Giorlandino and Goldt 2025", "second moment of the output of many tokens",
              lambda: _without_overlap(lambda y: y.q, r"q'"), gain_v * (q - gap + gap * Y)),
        Claim("condensed-covariance", "Giorlandino and Goldt 2025", "covariance of the output of many tokens",
              lambda: _without_overlap(lambda y: y.p, r"p'"), gain_v * (q - gap)),
        Claim("frozen-jacobian", "Poisson-Dirichlet law", "squared norm of the softmax's Jacobian of frozen weights",
              _frozen_jacobian, Y * (1 - Y) / 3, printed=False),
        Claim("frozen-jacobian-limit", "Poisson-Dirichlet law", "the same of a million tokens at deviations 6 to 20",
              lambda: _result(_frozen_jacobian().expression.subs(Y, value(Participation(sp.Integer(400), sp.Integer(10**6)))),
                              r"E\,\mathrm{tr} J^2", "condensation", "the participation by its integral at deviation 20"),
              statement=_frozen, stated_latex=r"\tfrac13 Y (1 - Y)", expected=Status.AGREES, printed=False),
    )


def _any_length(expression: sp.Expr) -> sp.Expr:
    """Finite for a single token, where what is divided by the number of other tokens vanishes."""
    return expression.xreplace({1 / (n - 1): 1 / sp.Max(1, n - 1)})


def _between_tokens(gap: sp.Expr) -> sp.Expr:
    """The gap of two tokens, 0 for a single one."""
    return sp.Piecewise((sp.S.Zero, sp.Eq(n, 1)), (_any_length(gap), True))


SCORED = (sigma_q2, sigma_k2)
_PARAMETERS = (sigma_v2, d_k, sigma_q2, sigma_k2)
DEFAULTS = {d_o: d, d_k: d, q: sp.S.One, gap: q, gain2: sp.S.One, sigma_v2: 1 / d, sigma_q2: 1 / d, sigma_k2: 1 / d,
            P: sp.S.Zero, s2: sp.S.One, r_g: sp.S.Zero}
LEAST = -1 / sp.Max(1, n - 1)
"""The lowest correlation that n vectors can have with each other; that of two for a single one."""
TURNING = sp.Integer(2)
"""The least width of keys of fixed norm that are more than a sign."""


def _spec(layer: Component, scores: tuple[sp.Symbol, ...], name: str, summary: str, **outputs: sp.Expr) -> FunctionSpec:
    """An evaluator of a layer: of its output, or of a gradient where an expression has that of the output."""
    derived = {key: Derived(item, layer.assumptions, layer.neglected, layer.sources) for key, item in outputs.items()}
    used = set().union(*(item.free_symbols for item in outputs.values()))
    arguments = (n, d, d_o, d_k, q, gap, sigma_v2, *scores, *(item for item in (P, s2, r_g) if item in used))
    return FunctionSpec.from_derived(
        name, summary, arguments, derived, formula=rf"\text{{see {type(layer).__name__}}}",
        defaults={key: item for key, item in DEFAULTS.items() if key in arguments},
        upper={gap: q * (1 - LEAST)}, lower={r_g: LEAST, **({d_k: TURNING} if gain2 in scores else {})},
    )


def _evaluators() -> tuple[FunctionSpec, ...]:
    y, (back,) = LAYER.forward(X), LAYER.backward(G, X)
    weights = LAYER.weight_gradients(G, X)
    return (
        _spec(LAYER, SCORED, "output_q", "Second moment of a coordinate of the output.", output_q=y.q),
        _spec(LAYER, SCORED, "output_moments", "Second moment and token gap of the output of softmax attention.", q=y.q,
              gap=_between_tokens(y.gap)),
        _spec(LAYER, SCORED, "input_gradient",
              "Second moment and token gap of the input gradient, for s2 and r_g of the output.", variance=back.q,
              gap=_between_tokens(back.gap)),
        _spec(LAYER, SCORED, "weight_gradients", "Expected squared norms of the gradients of the query, key and value weights.",
              query=weights.query, key=weights.key, value=weights.value),
    )


def _more_evaluators() -> tuple[FunctionSpec, ...]:
    """Attention after a norm, with normalised queries and keys, and centred."""
    norm = RMSNorm(finite=True)
    tokens = norm.forward(X)
    y, (above,) = LAYER.forward(tokens), LAYER.backward(G, tokens)
    (stream,) = norm.backward(above, X)
    queries = QueryKeyNormAttention(d_o, sigma_v2, d_k, 1 / d, 1 / d, P, norm=RMSNorm(gain2, finite=True))
    centred = ShapedAttention(d_o, sigma_v2, d_k, sigma_q2, sigma_k2, P)
    found = [
        _spec(LAYER, SCORED, "prenorm_output", "Second moment and token gap of attention after RMSNorm of a Gaussian stream.",
              q=y.q, gap=_between_tokens(y.gap)),
        _spec(LAYER, SCORED, "prenorm_gradient", "The gradient of the stream before RMSNorm and attention.",
              variance=_any_length(stream.q), gap=_between_tokens(stream.gap)),
    ]
    for name, of, layer, scores in (
        ("query_key_norm", "attention with RMSNorm of queries and keys", queries, (gain2,)),
        ("centred", "attention with weights less their mean", centred, SCORED),
    ):
        output, (back,) = layer.forward(X), layer.backward(G, X)
        found += [
            _spec(layer, scores, f"{name}_output", f"Second moment and token gap of the output of {of}.", q=output.q,
                  gap=_between_tokens(output.gap)),
            _spec(layer, scores, f"{name}_gradient", f"Second moment and token gap of the input gradient of {of}.",
                  variance=_any_length(back.q), gap=_between_tokens(back.gap)),
        ]
    return tuple(found)


def _several(one: sp.Expr, other: sp.Expr) -> sp.Expr:
    """A moment of one token, or of several."""
    return sp.Piecewise((one, sp.Eq(n, 1)), (_any_length(other), True))


def _positional_evaluators() -> tuple[FunctionSpec, ...]:
    """Attention under a causal mask, averaged over positions, also after a norm, and with rotary positions."""
    norm, causal = RMSNorm(finite=True), CausalAttention(d_o, *_PARAMETERS, dropout=P)
    tokens = norm.forward(X)
    y, (above,) = causal.forward(tokens), causal.backward(G, tokens)
    (stream,) = norm.backward(above, X)
    # The only token keeps its value, which does not grow with it.
    one = causal.forward(tokens.replace(tokens=sp.S.One, gap=sp.S.Zero)).q
    kept = norm.backward(Gradient(d_o * sigma_v2 * s2 / (1 - P), sp.S.Zero), X.replace(tokens=sp.S.One, gap=sp.S.Zero))[0].q
    found = [
        _spec(causal, SCORED, "causal_prenorm_output", "Second moment and token gap of attention under a causal mask after "
              "RMSNorm of a Gaussian stream, averaged over positions.", q=_several(one, y.q), gap=_between_tokens(y.gap)),
        _spec(causal, SCORED, "causal_prenorm_gradient", "The gradient of the stream before RMSNorm and attention under a "
              "causal mask, averaged over positions.", variance=_several(kept, stream.q), gap=_between_tokens(stream.gap)),
    ]
    for name, of, layer in (
        ("causal", "attention under a causal mask, averaged over positions", CausalAttention(d_o, *_PARAMETERS, dropout=P)),
        ("rotary", "attention with rotary positions of all d_k coordinates and base 10000", RotaryAttention(d_o, *_PARAMETERS)),
    ):
        output, (back,), weights = layer.forward(X), layer.backward(G, X), layer.weight_gradients(G, X)
        # One token has its value alone, whatever its position.
        alone = X.replace(tokens=sp.S.One, gap=sp.S.Zero)
        single = (layer.forward(alone).q, layer.backward(Gradient(s2, sp.S.Zero), alone)[0].q)
        value_alone = layer.weight_gradients(Gradient(s2, sp.S.Zero), alone).value
        found += [
            _spec(layer, SCORED, f"{name}_output", f"Second moment and token gap of the output of {of}.",
                  q=_several(single[0], output.q), gap=_between_tokens(output.gap)),
            _spec(layer, SCORED, f"{name}_gradient", f"Second moment and token gap of the input gradient of {of}.",
                  variance=_several(single[1], back.q), gap=_between_tokens(back.gap)),
            _spec(layer, SCORED, f"{name}_weights", f"Mean squared gradient of a weight of {of}.",
                  query=_several(sp.S.Zero, weights.query / (d * d_k)), key=_several(sp.S.Zero, weights.key / (d * d_k)),
                  value=_several(value_alone / (d * d_o), weights.value / (d * d_o))),
        ]
    return tuple(found)


DIAGRAM = Diagram(
    x=Axis(gap, "gap", 0.0, 1.0, 33),
    y=Axis(sigma_q2, "sigma_q2", 0.0, 0.08, 25),
    evaluators={"exact": "output_moments"},
    output=sp.Symbol("q"),
    title="Second moment behind attention, {n} tokens of width {d} with unit variance",
    label="second moment",
    values={n: 64, d: 256, d_o: 256, d_k: 64, q: 1.0, sigma_v2: 1 / 256, sigma_k2: 1 / 256, P: 0.0},
)


DERIVATION = PaperDerivation(
    paper=PAPER,
    view=KEDIA,
    values={},
    build_trace=lambda: trace_of(LAYER, token_input(gaussian=True)),
    build_claims=claims,
    build_evaluators=(_evaluators, _more_evaluators, _positional_evaluators),
    study_points=simulation.study_points,
    figures=simulation.figures,
    accuracy=softmax_attention_accuracy.study,
    diagram=DIAGRAM,
    references=(bibliography.NOCI2022, bibliography.KEDIA2024),
)
