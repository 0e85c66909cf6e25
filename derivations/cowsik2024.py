"""Cowsik et al. 2024, Geometric Dynamics of Signal Propagation: exponents, phases and boundaries of a Pre-LN block.

Each half is sqrt(1 - w) x + sqrt(w) branch(norm(x)), with w = A for attention of value gain 1 and w = M for a
feed-forward branch of gains sigma_w^2 and 1. What depends on the activation is its second moment m and its slope chi at
unit input; both stay symbols until an activation is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import TypeAlias

import numpy as np
import sympy as sp
from symprop.derivations import bibliography
from symprop.derivations import cowsik2024_simulation as simulation

from symprop.claims import (
    Axis,
    Boundary,
    Claim,
    Curve,
    Diagram,
    EvaluatorBuilder,
    Figure,
    LatexName,
    PaperDerivation,
    Progress,
    Region,
    Result,
    Status,
    StudyPoint,
)
from symprop.codegen import FunctionSpec
from symprop.components import Attention, Elementwise, LayerNorm, Linear, UniformAttention
from symprop.core.expression import Comparison, compare, factored, without_cancellation
from symprop.core.proof import ProofStep
from symprop.core.provenance import Derived, Source
from symprop.core.symbols import (
    A,
    L,
    M,
    alpha_1,
    chi,
    d,
    d_k,
    m_f,
    n,
    sigma_b2,
    sigma_k2,
    sigma_q2,
    sigma_v2,
    sigma_w,
)
from symprop.depth.collapse import Collapse, collapse
from symprop.depth.phase import find_boundary, solve_boundary
from symprop.functions.activation import Activation, Erf, Gelu, Relu
from symprop.functions.generic_activation import GenericActivation, SlopeMoment
from symprop.functions.logistic import Tanh
from symprop.network import Block, residual, sequential, token_input, trace_of
from symprop.notation import COWSIK
from symprop.simulate.measurement import Accuracy, Measurement, distance

X = token_input(gaussian=True)
MLP = {SlopeMoment(0, sigma_w**2): m_f, SlopeMoment(1, sigma_w**2): chi / sigma_w**2}
"""The moments of an unnamed activation, as the two numbers that the block needs."""


def attention_half(attention: Block | None = None) -> Block:
    """sqrt(1 - A) x + sqrt(A) attention(norm(x))."""
    branch = sequential(LayerNorm(), attention or UniformAttention(d, 1 / d))
    return residual(branch, sp.sqrt(A), sp.sqrt(1 - A))


def feed_forward_half(activation: Activation, bias: sp.Expr = sp.S.Zero) -> Block:
    """sqrt(1 - M) x + sqrt(M) W_2 phi(W_1 norm(x)), with an output bias where ``bias`` is its variance."""
    branch = sequential(LayerNorm(), Linear(d, sigma_w**2 / d), Elementwise(activation), Linear(d, 1 / d, bias))
    return residual(branch, sp.sqrt(M), sp.sqrt(1 - M))


def block(activation: Activation, bias: sp.Expr = sp.S.Zero) -> Block:
    """Both halves."""
    return sequential(attention_half(), feed_forward_half(activation, bias))


@lru_cache(maxsize=4)
def linearised(bias: sp.Expr = sp.S.Zero) -> Collapse:
    """The block of an unnamed activation at collapse."""
    return collapse(trace_of(block(GenericActivation(), bias), X))


def named(expression: sp.Expr, activation: Activation) -> sp.Expr:
    """An expression in the moments of an unnamed activation, for a named one."""
    moments = (activation.second, activation.slope_second)
    return expression.replace(SlopeMoment, lambda order, v: moments[int(order)](sp.S.Zero, v))


COMMON_MODE, DEVIATION = r"\lambda_g^{\mathrm{com}}", r"\lambda_g^{\mathrm{dev}}"
STATIONARY = ("result", "at the stationary second moment")
LOGARITHM = ("logarithm", "at the stationary second moment")
SOLVED = ("solve", "for the slope of the activation")


def _result(expression: sp.Expr, quantity: str, *steps: ProofStep, last: tuple[str, str] = STATIONARY, relation: str = "=",
            neglected: str = "O(1/d)") -> Result:
    """A derived expression; ``steps`` are of what it follows from, ``last`` is rule and reason of the step to itself."""
    found = linearised().provenance
    links = tuple(replace(step, expression=step.expression.subs(MLP)) for step in steps)
    shown = expression.subs(MLP)
    return Result(shown, quantity, (*links, ProofStep(*last, shown, relation=relation)),
                  assumptions=found.assumptions, neglected=neglected, sources=found.sources)


def _stationary() -> Result:
    found = linearised()
    return _result(found.stationary, "q^*", ProofStep("block", "second moment after a block, at collapse", found.q, "q(X')"))


def _half() -> Result:
    half = collapse(trace_of(attention_half(), X))
    kept = half.q.subs(X.q, linearised().stationary)
    return _result(kept, "q_A", ProofStep("attention", "second moment after the first half", half.q, r"q(X_A)"))


def _angle() -> Result:
    found = linearised()
    return _result(found.exponents.lyapunov_angle, r"\lambda_a",
                   ProofStep("chain rule", "d gap'/d gap at gap 0, step by step; attention adds nothing at linear order",
                             found.slope, r"d\Delta(X')/d\Delta(X)"), last=LOGARITHM)


def _common() -> Result:
    found = linearised()
    return _result(found.exponents.lyapunov_common, COMMON_MODE,
                   ProofStep("chain rule", "gradients that all tokens share, from the output back", found.common,
                             r"g_{\mathrm{com}}/g'_{\mathrm{com}}"), last=LOGARITHM)


def _deviation() -> Result:
    found = linearised()
    return _result(found.exponents.lyapunov_deviation, DEVIATION,
                   ProofStep("chain rule", "gradients of zero sum over tokens, from the output back", found.deviation,
                             r"g_{\mathrm{dev}}/g'_{\mathrm{dev}}"), last=LOGARITHM)


def _boundary() -> sp.Expr:
    return solve_boundary(linearised().exponents.angle_factor.subs(MLP), chi)


def _gradient_boundary(bias: sp.Expr = sp.S.Zero) -> Result:
    found = linearised(bias).exponents.common_factor.subs(MLP)
    return _result(solve_boundary(found, chi), r"\chi_g",
                   ProofStep("boundary", "growth of the common mode equals one", found, f"e^{{{COMMON_MODE}}}"), last=SOLVED)


def _small_strength() -> Result:
    size, ratio = sp.Dummy("size", positive=True), sp.Dummy("ratio", positive=True)
    path = _boundary().subs({A: ratio * size, M: size}, simultaneous=True)
    limit = sp.limit(path, size, 0).subs(ratio, A / M)
    return _result(limit, r"\chi_c", ProofStep(*SOLVED, _boundary()), last=("limit", "A and M to zero at a fixed ratio"),
                   relation=r"\to", neglected="O(A + M)")


@lru_cache(maxsize=1)
def _general_half() -> Collapse:
    branch = sequential(LayerNorm(), UniformAttention(d, sigma_v2 / d))
    return collapse(trace_of(residual(branch, 1, alpha_1), X))


def _two_exponents() -> Result:
    half = _general_half()
    ratio = factored(half.common / half.deviation)
    return _result(sp.log(ratio), f"{COMMON_MODE} - {DEVIATION}",
                   ProofStep("common", "through skip and values", half.common, f"e^{{{COMMON_MODE}}}"),
                   ProofStep("deviation", "through the skip alone", half.deviation, f"e^{{{DEVIATION}}}"),
                   last=("logarithm", "of the ratio"))


def _reciprocity() -> Comparison:
    """Steps of the block with its softmax: what takes deviations forward takes gradient deviations back."""
    scored = Attention(d, 1 / d, d_k, sigma_q2, sigma_k2)
    return collapse(trace_of(sequential(attention_half(scored), feed_forward_half(GenericActivation())), X)).reciprocity()


def _relu_is_ordered() -> Comparison:
    """1 minus the angle factor of ReLU is a product of positive terms for A in (0, 1), so that no boundary exists."""
    factor = named(linearised().exponents.angle_factor, Relu())
    excess = factored(1 - factor)
    keep, rest = sp.symbols("keep rest", positive=True)
    inside = factored(excess.subs({A: 1 / (1 + keep), M: 1 / (1 + rest)}))
    terms = [term for part in sp.fraction(inside) for term in sp.Add.make_args(sp.expand(part))]
    if all(term.is_nonnegative for term in terms):
        return Comparison(True, "1 - e^lambda_a is a ratio of sums of positive terms")
    return Comparison(None, "the sign was not decided", 1)


def _both_vanish() -> Result:
    found = linearised().exponents
    at = found.common_factor.subs(MLP).subs(chi, _boundary())
    return _result(factored(at), f"e^{{{COMMON_MODE}}}", ProofStep("boundary", "at lambda_a = 0", _boundary(), r"\chi"),
                   last=("result", "growth of the common mode there"))


def _crossover() -> Result:
    found = linearised().exponents
    expression = found.crossover_depth(n).subs(MLP)
    return _result(expression, r"L_\times",
                   ProofStep("modes", "an independent gradient", found.gradient_growth(n, L), r"g_0/g_{\depth}"),
                   last=("solve", "both modes have grown to the same size"))


def _same_depth(stated: sp.Expr) -> Comparison:
    """Both are log(n) over the exponent of a ratio, of which each may have taken the inverse."""
    return compare(sp.exp(sp.log(n) / _crossover().expression), sp.exp(sp.log(n) / stated))


def _claims() -> tuple[Claim, ...]:
    where, q_star = "exponents", ((1 - M) * A + M * m_f) / (1 - (1 - M) * (1 - A))
    q_half = (1 - A) * q_star + A
    angle = (1 - A) * (1 - M + M * chi / q_half)
    common = ((1 - M) * q_half + M * chi) / ((1 - M) * q_half + M * m_f)
    crossover = sp.log(n) / sp.log(1 + A / (q_star * (1 - A)))
    phases = "phase boundaries"
    return (
        Claim("second-moment", where, "second moment that a block keeps", _stationary, q_star),
        Claim("second-moment-half", where, "second moment between attention and feed-forward", _half, q_half),
        Claim("angle-exponent", where, "angle exponent at collapse", _angle, sp.log(angle)),
        Claim("gradient-exponent-common", where, "gradient exponent of the token-common mode", _common, sp.log(common)),
        Claim("gradient-exponent-deviation", where, "gradient exponent of the token-deviation mode", _deviation, sp.log(angle)),
        Claim("one-gradient-exponent", where, "the gradient has one exponent", _common, sp.log(angle), expected=Status.REFUTED,
              corrected_by="two-gradient-exponents",
              note="A gradient that all tokens share comes back through the values as well, one of zero sum over tokens "
              "through the skip alone: the two grow at different rates, and a measured gradient changes from one to the other "
              "at depth log(n) over their difference."),
        Claim("two-gradient-exponents", where, "common over deviation mode of an attention half r x + attention(norm(x))",
              _two_exponents, sp.log((alpha_1**2 + sigma_v2 / X.q) / alpha_1**2), printed=False),
        Claim("reciprocity", where, "gradient deviations grow as token deviations do, softmax included",
              lambda: _result(linearised().deviation, f"e^{{{DEVIATION}}}"), statement=_reciprocity),
        Claim("crossover-depth", where, "depth at which the common mode takes over", _crossover,
              crossover, statement=lambda: _same_depth(crossover), printed=False),
        Claim("order-chaos", phases, "boundary of order and chaos", lambda: _result(_boundary(), r"\chi_c", last=SOLVED),
              q_half / M * (1 / (1 - A) - 1 + M)),
        Claim("order-chaos-equal", phases, "the same at equal strengths",
              lambda: _result(_boundary().subs(M, A), r"\chi_c", last=SOLVED),
              (1 + m_f - A * m_f) / (1 - A)),
        Claim("order-chaos-small", phases, "the same at small strengths", _small_strength, m_f + A / M),
        Claim("relu-ordered", phases, "ReLU is ordered for every weight variance",
              lambda: _result(named(linearised().exponents.lyapunov_angle, Relu()), r"\lambda_a"), statement=_relu_is_ordered),
        Claim("relu-gradient", phases, "ReLU keeps the common gradient",
              lambda: _result(named(linearised().exponents.lyapunov_common, Relu()), COMMON_MODE), sp.S.Zero),
        Claim("gradient-boundary", phases, "boundary of exploding and vanishing common gradients", _gradient_boundary, m_f),
        Claim("gradient-boundary-bias", phases, "the same with an output bias",
              lambda: _gradient_boundary(sigma_b2), m_f + sigma_b2),
        Claim("both-vanish", phases, "both exponents vanish on the boundary of order and chaos", _both_vanish, sp.S.One,
              expected=Status.REFUTED, corrected_by="both-vanish-exact",
              note="With the common mode as the gradient they meet at zero attention strength only, A/M to 0 included; with "
              "the deviation mode they are equal everywhere."),
        Claim("both-vanish-exact", phases, "what the common gradient grows by on that boundary", _both_vanish,
              1 + A / ((1 - A) * q_star), printed=False),
    )


def _derived(expression: sp.Expr, *tags: str) -> Derived:
    found = linearised().provenance
    return Derived(expression, found.assumptions, found.neglected, (Source("cowsik2024", "exponents"),), (*found.tags, *tags))


LOGARITHMS = ("lyapunov_angle", "lyapunov_gradient_common", "lyapunov_gradient_deviation")


@lru_cache(maxsize=4)
def _by_slope(logarithm: sp.Expr) -> sp.Expr:
    """The logarithm of a growth factor, what multiplies chi apart from the rest, and neither with terms that cancel."""
    return sp.log(sp.Mul(*(
        1 + _without_cancellation_by_slope(item - 1) if item.is_Add and item.has(chi) else item
        for item in sp.Mul.make_args(logarithm.args[0])
    )))


def _without_cancellation_by_slope(rest: sp.Expr) -> sp.Expr:
    numerator, denominator = sp.fraction(factored(rest))
    terms = []
    for (power,), coefficient in sp.Poly(numerator, chi).terms():
        plus, minus = (without_cancellation(sign * coefficient / denominator) for sign in (1, -1))
        found = plus if plus is not None else coefficient / denominator if minus is None else -minus
        terms.append(found * chi**power)
    return sp.Add(*terms)


def _exponents(activation: Activation | None) -> dict[str, Derived]:
    found = linearised().exponents
    logs = (found.lyapunov_deviation, found.lyapunov_common, found.lyapunov_deviation)
    put = dict(zip(LOGARITHMS, (value.subs(MLP) for value in logs), strict=True))
    if activation is not None:
        moments = {m_f: SlopeMoment(0, sigma_w**2), chi: sigma_w**2 * SlopeMoment(1, sigma_w**2)}
        put = {key: named(_by_slope(value).subs(moments), activation) for key, value in put.items()}
    return {key: _derived(value) for key, value in put.items()}


EXPONENTS = "Exponents per block at collapse: of the angle between tokens, and of the gradient's common and deviation mode"


def _named_exponents(activation: Activation, name: str) -> FunctionSpec:
    return FunctionSpec.from_derived(
        name, f"{EXPONENTS}, for {activation.name}.", (A, M, sigma_w), _exponents(activation), rounded_as_one=LOGARITHMS)


def _generic_exponents(name: str) -> FunctionSpec:
    return FunctionSpec.from_derived(
        name, f"{EXPONENTS}, for an activation of second moment m and slope chi.", (A, M, m_f, chi), _exponents(None))


def _other_evaluators() -> tuple[FunctionSpec, ...]:
    growth = linearised().exponents.gradient_growth(n, L).subs(MLP)
    return (
        FunctionSpec.from_derived(
            "boundary", "Slope chi above which equal tokens move apart: the boundary of order and chaos.", (A, M, m_f),
            {"chi": _derived(_boundary())}),
        FunctionSpec.from_derived(
            "crossover_depth", "Depth at which the token-common mode of an independent gradient has caught up with the other.",
            (A, M, m_f, n), {"depth": _derived(_crossover().expression)}),
        FunctionSpec.from_derived(
            "gradient_growth", "Second moment of a gradient after L blocks, for one that starts independent for every token.",
            (A, M, m_f, chi, n, L), {"growth": _derived(growth)}),
    )


Cell: TypeAlias = tuple[Activation, sp.Rational, sp.Rational, int]
"""Activation, strengths of attention and feed-forward, scale of the weights."""
WEAK, STRONG = sp.Rational(3, 10), sp.Rational(3, 5)
CELLS: tuple[Cell, ...] = ((Tanh(), WEAK, WEAK, 3), (Relu(), WEAK, WEAK, 1), (Tanh(), WEAK, STRONG, 4))
"""In order, without a boundary, and in chaos."""


@lru_cache(maxsize=4)
def _factors(activation: Activation) -> simulation.Factors:
    found = linearised().exponents
    return simulation.Factors(*(
        named(item, activation) for item in (found.q, found.angle_factor, found.deviation_factor, found.common_factor)
    ))


def _study_points(seed: int, full: bool) -> list[StudyPoint]:
    sizes = {"width": 512, "draws": 40, "depth": 8} if full else {"width": 256, "draws": 12, "depth": 4}
    return study_points(CELLS, seed, **sizes)


def _accuracy(seed: int, progress: Progress | None) -> tuple[Accuracy, ...]:
    """Root mean square errors of both exponents of deviations in tanh blocks at 16 points, in order and in chaos."""
    tenths = (sp.Rational(strength, 10) for strength in (2, 3, 5, 8))
    cells = [(Tanh(), strength, strength, scale) for strength in tenths for scale in (1, 2, 4, 6)]
    rows: list[Measurement] = []
    for index, point in enumerate(study_points(cells, seed, width=512, draws=40, depth=8)):
        rows += point()
        if progress is not None:
            progress("exponents", index + 1, len(cells))
    return tuple(
        distance(f"{name} exponent at 16 points", [row for row in rows if row.quantity == f"exponent: {name}"], {"rms": 0.01})
        for name in ("angle", "gradient deviation")
    )


def study_points(cells: Sequence[Cell], seed: int, **sizes: int) -> list[StudyPoint]:
    """The three exponents of every cell in simulated blocks; ``sizes`` are fields of the simulation's setting."""
    return [partial(_measured, *cell, seed + index, sizes) for index, cell in enumerate(cells)]


def _measured(
    activation: Activation, attention: sp.Expr, feed_forward: sp.Expr, scale: int, seed: int, sizes: Mapping[str, int]
) -> Sequence[Measurement]:
    values = {A: attention**2, M: feed_forward**2, sigma_w: scale}
    name = f"{activation.name}, alpha = {attention}, {feed_forward}, sigma_w = {scale}"
    setting = simulation.Setting(name, values, **sizes)
    return simulation.measured(block(activation), _factors(activation), setting, seed)


def _figures(seed: int, full: bool, progress: Progress | None) -> tuple[Figure, ...]:
    del seed, full
    scales = np.linspace(0.2, 6, 59)
    squared = sp.Rational(9, 100)
    curves = []
    for activation in (Tanh(), Erf()):
        found = {key: item.expression.subs({A: squared, M: squared}) for key, item in _exponents(activation).items()}
        angle, common = (simulation.on_grid(found[key], sigma_w, scales)
                         for key in ("lyapunov_angle", "lyapunov_gradient_common"))
        curves += [Curve(f"{activation.name}: angle and deviation", scales.tolist(), angle.tolist()),
                   Curve(f"{activation.name}: common", scales.tolist(), common.tolist())]
    if progress is not None:
        progress("figures", 1, 2)
    strengths = np.linspace(0.1, 0.9, 33)
    lines = []
    for attention in (0.1, 0.3, 0.5):
        factor = named(linearised().exponents.deviation_factor, Tanh())
        at = find_boundary(factor, sigma_w, (0.01, 30), {A: attention**2, M: strengths**2})
        kept = np.isfinite(at)
        lines.append(Curve(f"alpha_A = {attention}", strengths[kept].tolist(), at[kept].tolist()))
    if progress is not None:
        progress("figures", 2, 2)
    return (
        Figure("exponents", "Exponents at collapse over the scale of the feed-forward weights, both strengths 0.3: the tokens "
               "move apart where the angle exponent is positive.", "sigma_w", "exponent per block", tuple(curves), ()),
        Figure("boundary", "Boundary of order (below) and chaos (above) for tanh.", "alpha_M", "sigma_w", tuple(lines), ()),
    )


Q_STAR, Q_HALF = sp.symbols("q_star q_half", positive=True)
NAMES = {Q_STAR: LatexName("q*", "q^*"), Q_HALF: LatexName("q_A", "q_A")}


def _dynamics() -> tuple[Result, ...]:
    """Exponents in the two second moments of a block, these themselves, and the boundaries."""
    found, half = linearised(), collapse(trace_of(attention_half(), X))
    rows = [(found.stationary, "q^*"), (half.q, "q_A")]
    rows += [(sp.log(found.slope), r"\lambda_a"), (sp.log(found.deviation), DEVIATION),
             (sp.log(found.common), COMMON_MODE)]
    rows += [(found.exponents.crossover_depth(n), r"L_\times"), (_boundary(), r"\chi_c"),
             (_small_strength().expression, r"\chi_c|_{A, M \to 0}"), (_gradient_boundary().expression, r"\chi_g")]
    shown = [rows[1], *((item.subs(half.q, Q_HALF), quantity) for item, quantity in rows if quantity != "q_A")]
    return tuple(replace(_result(item.subs(X.q, Q_STAR), quantity), names=NAMES) for item, quantity in shown)


ANGLE, COMMON = sp.symbols("lyapunov_angle lyapunov_gradient_common")
DIAGRAM = Diagram(
    x=Axis(sigma_w, "sigma_w", 0.2, 6.0, 200),
    y=Axis(A, "A", 0.01, 0.6, 200),
    evaluators={name: f"exponents_{name}" for name in ("tanh", "erf", "gelu", "relu")},
    output=ANGLE,
    title="Angle exponent at collapse, M = {M}",
    label="exponent per block",
    values={M: 0.09},
    boundaries=(
        Boundary("order and chaos", lambda: ANGLE, "solid"),
        Boundary("common gradient keeps its size", lambda: COMMON, "dashed"),
    ),
    regions=(Region("order: tokens align", ANGLE < 0), Region("chaos: tokens\nmove apart", ANGLE > 0)),
)


DERIVATION = PaperDerivation(
    paper=bibliography.COWSIK2024,
    view=COWSIK,
    values={},
    build_trace=lambda: linearised().trace,
    build_claims=_claims,
    build_evaluators=(
        EvaluatorBuilder("exponents", _generic_exponents),
        *(EvaluatorBuilder(f"exponents_{item.name}", partial(_named_exponents, item))
          for item in (Relu(), Gelu(), Erf(), Tanh())),
        _other_evaluators,
    ),
    study_points=_study_points,
    accuracy=_accuracy,
    figures=_figures,
    build_dynamics=_dynamics,
    diagram=DIAGRAM,
    references=(bibliography.NOCI2022, bibliography.BA2016, bibliography.KEDIA2024),
)
