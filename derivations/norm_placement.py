"""Where the norms of a block sit: Pre-LN, Peri-LN and sandwich norms, parallel branches, and norms of queries and keys.

Every stream here is ``x + branch``, so that its second moment grows with depth; what a branch adds beside it decides how fast
tokens align and how gradients grow towards the input. Values and output projection of attention are one matrix of gain
sigma_v^2; the feed-forward branch has second moment m and slope chi at unit input.
"""

from __future__ import annotations

from functools import lru_cache, partial

import sympy as sp
from symprop.derivations import bibliography
from symprop.derivations import named_blocks as blocks
from symprop.derivations import norm_placement_simulation as simulation
from symprop.derivations.named_blocks import ATTENTION, MOMENTS, SCORED, X, feed_forward, result
from symprop.derivations.named_blocks_simulation import Setting, overlap_figure

from symprop.claims import Claim, Figure, Paper, PaperDerivation, Progress, Result, Status, StudyPoint
from symprop.codegen import FunctionSpec
from symprop.components import Linear, RMSNorm
from symprop.core.expression import factored
from symprop.core.provenance import Derived, Source
from symprop.core.symbols import L, chi, d, d_k, gain_v, m_f, q_0, sigma_k2, sigma_q2
from symprop.depth.rate import DriftLaw, drift_law
from symprop.functions.activation import Relu
from symprop.functions.rising_ratio import RisingRatio
from symprop.network import Block, parallel, peri_norm, pre_norm, sequential, trace_of
from symprop.notation import SYMPROP

PAPER = Paper("norm_placement", "symprop", "Norms around the branches of a transformer block: growth, overlap and gradients "
              "over depth", "symprop", 2026)
PRE, PERI, PARALLEL = "pre", "peri", "parallel"


def block(placement: str, feed: Block | None = None) -> Block:
    """Attention and feed-forward branch with norms at ``placement``."""
    branches = (ATTENTION, feed or feed_forward())
    if placement == PARALLEL:
        return parallel(*branches)
    around = {PRE: pre_norm, PERI: peri_norm}[placement]
    return sequential(*(around(branch) for branch in branches))


@lru_cache(maxsize=3)
def law(placement: str) -> DriftLaw:
    """The block near collapse, over depth."""
    return drift_law(trace_of(block(placement), X))


def _provenance(placement: str) -> Derived:
    return law(placement).angle.provenance


ADDED, SUMMED = r"q_{\ell+1} - q_\ell", ("sum", "over all blocks")
UNIT_SUM = ("sum", "over all blocks, for matrices of unit gain and a stream that starts at one")


def _second(placement: str) -> Result:
    found = law(placement)
    return result(q_0 + L * found.added, r"q_{\depth}", _provenance(placement),
                  ("block", "added by every block", found.added, ADDED), last=SUMMED)


def _angle(placement: str) -> Result:
    found = law(placement)
    return result(found.angle.rate, r"\frac{d \log(1 - \rho)}{d \log \ell}", _provenance(placement),
                  ("block", "added by every block", found.added, ADDED),
                  ("law", "at large depth", found.angle.share, r"1 - \rho_\ell"), last=("power", "of the depth"))


def _gradient(placement: str, mode: str) -> Result:
    found = law(placement)
    exponent = {"common": found.common, "deviation": found.deviation}[mode]
    assert exponent is not None
    return result(exponent, rf"p_{{\mathrm{{{mode}}}}}", _provenance(placement),
                  ("chain rule", "a gradient at layer l of L has grown by (L/l)^p", exponent))


def _product(placement: str) -> Result:
    product = law(placement).product
    assert product is not None
    return result(product.subs(X.q, q_0), r"\Delta_{\depth}/\Delta_0", _provenance(placement),
                  ("product", "of the slopes of all layers, at linear order in the gap", product.subs(X.q, q_0)))


def _spread_tokens() -> Result:
    """Second moment of Xiong's block for orthogonal tokens whose average vanishes: attention adds nothing."""
    end = trace_of(block(PRE, feed_forward(Relu())), X).expand()
    apart = end.q.subs(X.gap, X.tokens / (X.tokens - 1) * X.q) - X.q
    grown = 1 + L * factored(apart).subs(blocks.sigma_w, 1)
    return result(grown, r"q_{\depth}", _provenance(PRE), ("block", "added by a block", apart, ADDED), last=UNIT_SUM)


def _equal_tokens() -> Result:
    added = trace_of(block(PRE, feed_forward(Relu())), X.replace(gap=sp.S.Zero)).expand().q - X.q
    return result(1 + L * factored(added).subs({blocks.sigma_w: 1, gain_v: 1}), r"q_{\depth}", _provenance(PRE),
                  ("block", "added by a block", added, ADDED), last=UNIT_SUM)


def _relu(expression: sp.Expr) -> sp.Expr:
    """For ReLU, whose slope is its second moment."""
    return factored(expression.subs(MOMENTS).subs(chi, m_f))


def _relu_common(placement: str) -> Result:
    return result(_relu(_gradient(placement, "common").expression), "p", _provenance(placement))


def _relu_is_homogeneous() -> Result:
    relu = Relu()
    scale = blocks.sigma_w**2
    return result(scale * relu.slope_second(sp.S.Zero, scale) / relu.second(sp.S.Zero, scale), r"\chi/m", _provenance(PRE))


QUERY, KEY = (trace_of(sequential(Linear(d_k, variance), RMSNorm()), X) for variance in (sigma_q2, sigma_k2))
"""Queries and keys behind a norm of their own."""


def _score(moment: sp.Expr, quantity: str, *steps: blocks.Shown, last: tuple[str, str] = ("result", "put together")) -> Result:
    found = Derived(moment, QUERY.assumptions, QUERY.neglected, (Source("henry2020", "QK norm"), *QUERY.sources))
    return result(moment, quantity, found, *steps, last=last)


def _score_variance() -> Result:
    """Variance of a row's scores about what they share, for q.k/sqrt(d_k): second moment of a query times the keys' gap."""
    query, key = QUERY.expand(), KEY.expand()
    return _score(factored(query.q * key.gap), "s^2", ("norm", "second moment of a query coordinate", query.q, "q(Q)"),
                  ("norm", "gap of two keys", key.gap, r"\Delta(K)"), last=("product", "of the two"))


def _plain_variance() -> Result:
    return _score(SCORED.score_variance(X).subs(SCORED.temperature, 1), "s^2")


def _score_bound() -> Result:
    """Cauchy and Schwarz: a norm leaves |q|^2 = |k|^2 = d_k exactly."""
    sizes = [d_k * trace.expand().q for trace in (QUERY, KEY)]
    return _score(sp.sqrt(sizes[0] * sizes[1] / d_k), r"\max |q \cdot k|/\sqrt{d_k}",
                  ("norm", "squared norm of a query", sizes[0], "|q|^2"), last=("Cauchy-Schwarz", "with keys of the same norm"))


def _claims() -> tuple[Claim, ...]:
    xiong, kim, ding = "Xiong et al. 2020", "Kim et al. 2025", "Ding et al. 2021"
    share, wang, qk = "overlap of tokens", "Wang and Komatsuzaki 2021", "Henry et al. 2020; Dehghani et al. 2023"
    both = gain_v + m_f
    return (
        Claim("pre-growth-lower", f"{xiong}, size", "second moment of a Pre-LN stream, lower end: tokens of zero average",
              _spread_tokens, 1 + L / 2),
        Claim("pre-growth-upper", f"{xiong}, size", "second moment of a Pre-LN stream, upper end: equal tokens",
              _equal_tokens, 1 + 3 * L / 2),
        Claim("pre-growth", xiong, "second moment of a Pre-LN stream", lambda: _second(PRE), q_0 + L * both),
        Claim("relu-homogeneous", xiong, "ReLU: slope over second moment", _relu_is_homogeneous, sp.S.One),
        Claim("pre-gradient-relu", f"{xiong}, gradient", "Pre-LN ReLU: squared gradients fall like 1/l with the layer l",
              lambda: _relu_common(PRE), sp.S.One),
        Claim("pre-gradient", xiong, "Pre-LN: exponent of the token-common gradient", lambda: _gradient(PRE, "common"),
              (gain_v + chi) / both),
        Claim("pre-gradient-deviation", xiong, "the same of gradients of zero sum over tokens",
              lambda: _gradient(PRE, "deviation"), chi / both),
        Claim("pre-exponential", kim, "the second moment of a Pre-LN stream grows exponentially",
              lambda: _second(PRE), q_0 * (1 + both) ** L, expected=Status.REFUTED, corrected_by="pre-growth",
              note="Exponential growth is a matter of training: at initialisation a branch behind a norm adds a constant."),
        Claim("peri-growth", f"{ding}; {kim}", "sandwich norms add 2 a block, whatever the weights", lambda: _second(PERI),
              q_0 + 2 * L),
        Claim("peri-gradient", kim, "Peri-LN: exponent of the token-common gradient", lambda: _gradient(PERI, "common"),
              (1 + chi / m_f) / 2),
        Claim("peri-gradient-relu", kim, "Peri-LN ReLU: a power law with exponent one, free of the gains",
              lambda: _relu_common(PERI), sp.S.One),
        Claim("pre-angle", share, "Pre-LN: exponent of 1 - rho over depth", lambda: _angle(PRE), chi / both - 1),
        Claim("peri-angle", share, "Peri-LN: the same, free of the gains", lambda: _angle(PERI), chi / (2 * m_f) - 1),
        Claim("parallel-angle", share, "parallel branches: the same as Pre-LN", lambda: _angle(PARALLEL), chi / both - 1),
        Claim("pre-product", share, "Pre-LN: the gap after L layers is a ratio of gamma functions", lambda: _product(PRE),
              sp.gamma(L + (q_0 + gain_v + chi) / both) * sp.gamma((q_0 + gain_v) / both)
              / (sp.gamma(L + (q_0 + gain_v) / both) * sp.gamma((q_0 + gain_v + chi) / both))),
        Claim("parallel-growth", wang, "parallel branches add what serial ones do", lambda: _second(PARALLEL), q_0 + L * both),
        Claim("parallel-serial", wang, "the gap is that of serial branches at every depth", lambda: _product(PARALLEL),
              RisingRatio((q_0 + gain_v + chi) / both, (q_0 + gain_v) / both, L), expected=Status.REFUTED,
              corrected_by="parallel-product",
              note="The power is the same; the serial feed-forward branch sees a stream that attention has already widened."),
        Claim("parallel-product", wang, "the gap of parallel branches", lambda: _product(PARALLEL),
              RisingRatio((q_0 + chi) / both, q_0 / both, L), printed=False),
        Claim("qk-norm-variance", qk, "score variance with normalised queries and keys: free of stream size and weights",
              _score_variance, X.gap / X.q),
        Claim("plain-variance", qk, "the same without norms: it grows with the square of the stream and with the weights",
              _plain_variance, d**2 * sigma_q2 * sigma_k2 * X.q * X.gap),
        Claim("qk-norm-bound", qk, "largest score with normalised queries and keys", _score_bound, sp.sqrt(d_k),
              relation="<=", note="For every draw, not in expectation only."),
    )


def _evaluators() -> tuple[FunctionSpec, ...]:
    shared = (q_0, gain_v, m_f, chi, L)
    specs = []
    for placement, words in ((PRE, "Pre-LN"), (PERI, "Peri-LN or sandwich norm"), (PARALLEL, "parallel branches")):
        found = law(placement)
        assert found.product is not None and found.common is not None and found.deviation is not None
        base = found.angle.provenance
        second, product = (item.subs(X.q, q_0).subs(MOMENTS) for item in (q_0 + L * found.added, found.product))
        arguments = tuple(item for item in shared if (second + product).has(item))
        rest = {"second_moment": second, "share_growth": product * q_0 / second}
        specs.append(FunctionSpec.from_derived(
            f"{placement}_stream", f"{words}: second moment after L blocks, and 1 - rho over its value at the input.",
            arguments, {key: base.with_expression(item, base.neglected) for key, item in rest.items()}))
        powers = {"angle": found.angle.rate, "gradient_common": found.common, "gradient_deviation": found.deviation}
        put = {key: item.subs(MOMENTS) for key, item in powers.items()}
        specs.append(FunctionSpec.from_derived(
            f"{placement}_exponents", f"{words}: exponents of the depth of 1 - rho and of the gradient in its two modes.",
            tuple(item for item in (gain_v, m_f, chi) if any(value.has(item) for value in put.values())),
            {key: base.with_expression(item, base.neglected) for key, item in put.items()}))
    return tuple(specs)


def _cases() -> dict[str, tuple[Block, float]]:
    """ReLU blocks whose branches both add one, and the law of 1 - rho at infinite depth."""
    at = {gain_v: 1, m_f: 1}
    return {item: (block(item, feed_forward(Relu())), float(_relu(law(item).angle.rate).subs(at)))
            for item in (PRE, PERI, PARALLEL)}


def _study_points(seed: int, full: bool) -> list[StudyPoint]:
    variance = _score_variance().expression
    return [*simulation.placements(_cases(), seed, full), partial(
        simulation.scores, lambda share: float(variance.subs({X.q: 1, X.gap: share})), seed, 400 if full else 100)]


def _figures(seed: int, full: bool, progress: Progress | None) -> tuple[Figure, ...]:
    width, draws = (256, 24) if full else (128, 6)
    cases = {name: (item, Setting(name, simulation.UNIT_GAINS, width=width, depth=64, draws=draws))
             for name, (item, _) in _cases().items()}
    return overlap_figure("1 - rho over the layers of ReLU blocks by the place of their norms: map and simulation.",
                          cases, seed, progress)


DERIVATION = PaperDerivation(
    paper=PAPER,
    view=SYMPROP,
    values={},
    build_trace=lambda: trace_of(block(PRE), X),
    build_claims=_claims,
    build_evaluators=(_evaluators,),
    study_points=_study_points,
    figures=_figures,
    references=(
        bibliography.XIONG2020, bibliography.NOCI2022, bibliography.KEDIA2024, bibliography.BA2016, bibliography.ZHANG2019,
        bibliography.KIM2025, bibliography.DING2021, bibliography.WANG2021, bibliography.HENRY2020, bibliography.DEHGHANI2023,
    ),
)
