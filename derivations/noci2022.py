"""Noci et al. 2022: residual transformers at initialisation under uniform attention, forward.

The block is Z = X + alpha_1 S, X' = Z + alpha_2 Y with S uniform attention and Y a linear feed-forward layer of hidden
width d_F. Value and feed-forward variances are free; the paper's values are ``VALUES``.
"""

from __future__ import annotations

from functools import lru_cache, partial

import sympy as sp
from symprop.derivations import bibliography
from symprop.derivations import noci2022_gradients as gradients

from symprop.claims import (
    Claim,
    Figure,
    PaperDerivation,
    Progress,
    Result,
    Slip,
    Status,
    StudyPoint,
    component_result,
    depth_result,
    gram_result,
    limit_result,
    pair_result,
    signal_result,
    wick_result,
)
from symprop.codegen import FunctionSpec, parameters
from symprop.components import Linear, PairState, Sum, UniformAttention
from symprop.core.expression import Comparison
from symprop.core.proof import ProofStep, about
from symprop.core.provenance import Source
from symprop.core.symbols import (
    A_ij,
    B_ij,
    C,
    K_ii,
    K_ij,
    K_jj,
    L,
    N,
    a_1,
    a_2,
    alpha_1,
    alpha_2,
    d,
    d_F,
    d_k,
    declare,
    gamma,
    n,
    rho,
    sigma_down2,
    sigma_k2,
    sigma_q2,
    sigma_up2,
    sigma_v2,
    sigma_w2,
)
from symprop.depth import DepthSolution, solve
from symprop.functions import GeometricSum, Saturated
from symprop.network import named, residual, sequential, stack
from symprop.notation import NOCI

VALUES = {d_F: d, sigma_v2: 1 / d, sigma_up2: 1 / d, sigma_down2: 1 / d}
SCALING = {alpha_1: sp.sqrt(a_1 / L), alpha_2: sp.sqrt(a_2 / L)}

B_COLUMNS = declare("B_columns", r"\mathbb{E}[B_{ij} B_{ij'}]", "second moment of two entries of a stream in one row")

BLOCK = sequential(
    named(residual(named(UniformAttention(d, sigma_v2), "S"), alpha_1), "Z"),
    named(residual(named(sequential(Linear(d_F, sigma_up2), Linear(d, sigma_down2)), "Y"), alpha_2), "X'"),
)


@lru_cache(maxsize=1)
def solution() -> DepthSolution:
    """The block, solved over depth."""
    return solve(stack(BLOCK, L))


def _correlation(scaled: bool = False) -> Result:
    return signal_result(
        solution(),
        NOCI,
        lambda x: x.rho,
        r"\rho^{\depth}",
        "tokens of equal norm have E<X_k, X_k'> = rho E||X||^2/n, so that rho = (E C/E||X||^2 - 1)/(n - 1)",
        SCALING if scaled else None,
    )


def _collapse() -> Result:
    return signal_result(
        solution(),
        NOCI,
        lambda _: solution().correlation_limit(),
        r"\lim_{\depth \to \infty} \rho^{\depth}",
        "the common mode outgrows the gap in every block, unless it is zero or the attention branch is",
    )


def _dependence_on_expansion(down_variance: sp.Expr) -> Result:
    """Growth per block of E C at d_F = gamma d, over that at gamma = 1."""
    factor = solution().mode("common").factor.subs({d_F: gamma * d, sigma_up2: 1 / d, sigma_down2: down_variance})
    ratio = sp.factor(factor / factor.subs(gamma, 1))
    step = ProofStep("ratio", "g(gamma) = E C(X^(l+1))/E C(X^l) at expansion gamma", ratio)
    return Result(
        ratio,
        r"\frac{g(\gamma)}{g(1)}",
        (step,),
        assumptions=solution().provenance.assumptions,
    )


def _logits(variance: sp.Expr | None = None) -> Result:
    from symprop.wick.attention import AttentionLayer, logit_moment

    derivation = logit_moment(2, AttentionLayer(tau=1))
    traces = sorted(derivation.expression.atoms(sp.Trace), key=str)
    result = wick_result(
        derivation, r"\mathbb{E}[M_{kk'}^2 \mid X]", dict(zip(traces, (K_ii, K_jj), strict=True))
    )
    if variance is None:
        return result
    special = result.expression.subs({sigma_q2: variance, sigma_k2: variance})
    step = ProofStep("variances", f"sigma_q^2 = sigma_k^2 = {variance}", special)
    return Result(special, result.quantity, (*result.steps, step), assumptions=result.assumptions)


def _logit_limit(variance: sp.Expr) -> Result:
    result = _logits(variance)
    limit = sp.limit(result.expression, d_k, sp.oo)
    step = ProofStep("d_k to infinity", "the tokens and d are fixed", limit)
    return Result(
        limit,
        r"\lim_{d_k \to \infty} \mathbb{E}[M_{kk'}^2 \mid X]",
        (*about(result.quantity, result.steps), step),
        assumptions=result.assumptions,
    )


def _summable(variance: sp.Expr) -> Comparison:
    """Markov's inequality and Borel-Cantelli give almost sure convergence where the second moments are summable."""
    moment = _logits(variance).expression.subs({K_ii: 1, K_jj: 1, d: 1})
    summable = bool(sp.Sum(moment, (d_k, 1, sp.oo)).is_convergent())
    return Comparison(summable, "summability of E M^2 over d_k (Markov, Borel-Cantelli)", 1)


def _order(variance: sp.Expr) -> Comparison:
    scaled = sp.limit(d_k**2 * _logits(variance).expression, d_k, sp.oo)
    return Comparison(bool(scaled.is_finite), f"d_k^2 E M^2 tends to {scaled}", 1)


def _forward_claims() -> tuple[Claim, ...]:
    linear, attention = Linear(d, sigma_w2), UniformAttention(d, sigma_v2)
    plain = {sigma_w2: 1 / d}
    value = {sigma_v2: 1 / d}
    entry = PairState(K_ij / d, C / (n**2 * d), d)
    glorot, per_key, per_value = 2 / (d + d_k), 1 / d_k, 1 / d
    return (
        Claim(
            "lemma-a4",
            "Lemma A.4",
            "inner products after a linear layer",
            lambda: pair_result(linear, r"\mathbb{E}[D_{kj} D_{k'j}]", entry),
            K_ij / d,
            domain=plain,
        ),
        Claim(
            "lemma-a4-norm",
            "Lemma A.4",
            "a linear layer keeps the expected norm",
            lambda: component_result(linear, NOCI, "N"),
            N,
            domain=plain,
        ),
        Claim(
            "lemma-a4-products",
            "Lemma A.4",
            "a linear layer keeps the expected sum of inner products",
            lambda: component_result(linear, NOCI, "C"),
            C,
            domain=plain,
        ),
        Claim(
            "eq42",
            "Lemma A.5, Eq. 42",
            "skip connection, with the indices as printed",
            _skip,
            alpha_1**2 * A_ij + B_COLUMNS,
            stated_latex=r"\alpha^2 \mathbb{E}[A_{ij} A_{i'j}] + \mathbb{E}[B_{ij} B_{ij'}]",
            expected=Status.REFUTED,
            note="The last factor must be B_{i'j}: two tokens in one column, not two columns of one token.",
            corrected_by="lemma-a5",
        ),
        Claim("lemma-a5", "Lemma A.5", "skip connection", _skip, alpha_1**2 * A_ij + B_ij),
        Claim(
            "lemma-a6",
            "Lemma A.6",
            "inner products after uniform attention",
            lambda: pair_result(attention, r"\mathbb{E}[S_{kj} S_{k'j}]", entry),
            C / (d * n**2),
            domain=value,
        ),
        Claim(
            "lemma-a6-norm",
            "Lemma A.6",
            "norm after uniform attention",
            lambda: component_result(attention, NOCI, "N"),
            C / n,
            domain=value,
        ),
        Claim(
            "lemma-a6-products",
            "Lemma A.6",
            "uniform attention keeps the sum of inner products",
            lambda: component_result(attention, NOCI, "C"),
            C,
            domain=value,
        ),
        Claim(
            "eq10",
            "Lemma 3.2, Eq. 10",
            "inner products at depth L",
            lambda: depth_result(solution(), NOCI, "C"),
            (alpha_2**2 + 1) ** L * (alpha_1**2 + 1) ** L * C,
            domain=VALUES,
        ),
        Claim(
            "eq11",
            "Lemma 3.2, Eq. 11",
            "inner products in the depth limit",
            lambda: limit_result(solution(), NOCI, "C", SCALING),
            sp.exp(a_1 + a_2) * C,
            domain=VALUES,
        ),
        Claim(
            "eq12",
            "Lemma 3.3, Eq. 12",
            "norm at depth L",
            lambda: depth_result(solution(), NOCI, "N"),
            n * (alpha_2**2 + 1) ** L * alpha_1**2 * GeometricSum(alpha_1**2 + 1, 1, L) * (C / n**2)
            + (alpha_2**2 + 1) ** L * N,
            domain=VALUES,
        ),
        Claim(
            "eq13",
            "Lemma 3.3, Eq. 13",
            "norm in the depth limit",
            lambda: limit_result(solution(), NOCI, "N", SCALING),
            n * sp.exp(a_2) * (sp.exp(a_1) - 1) * (C / n**2) + sp.exp(a_2) * N,
            domain=VALUES,
        ),
        Claim(
            "section-a4",
            "Section A.4",
            "correlation at any depth",
            _correlation,
            (alpha_2**2 + 1) ** L
            * (alpha_1**2 + 1) ** L
            * C
            / ((n - 1) * ((alpha_2**2 + 1) ** L * (N + ((alpha_1**2 + 1) ** L - 1) * C / n)))
            - 1 / (n - 1),
            domain=VALUES,
        ),
        Claim(
            "eq15",
            "Theorem 3.3, Eq. 15",
            "correlation in the depth limit",
            lambda: _correlation(scaled=True),
            n * sp.exp(a_1) * C / ((n - 1) * ((sp.exp(a_1) - 1) * C + n * N)) - 1 / (n - 1),
            domain=VALUES,
        ),
        Claim(
            "eq16",
            "Theorem 3.3, Eq. 16",
            "constant residual weights collapse the tokens",
            _collapse,
            sp.S.One,
            expected=Status.REFUTED,
            witness={C: sp.S.Zero, N: sp.Integer(3), n: sp.Integer(4)},
            domain=VALUES,
            note="Needs C(X) != 0 and alpha_1 != 0. If the tokens sum to zero the correlation stays at -1/(n-1) at every "
            "depth, and without the attention branch it stays where it is; alpha_2 plays no part.",
            corrected_by="eq16-corrected",
        ),
        Claim(
            "eq16-corrected",
            "Theorem 3.3, Eq. 16",
            "constant residual weights collapse tokens that do not sum to zero",
            _collapse,
            sp.S.One,
            domain={**VALUES, C: sp.Symbol("C_positive", positive=True), alpha_1: sp.Symbol("alpha_positive", positive=True)},
        ),
        Claim(
            "gram",
            "Section A.3",
            "every pair of tokens gains the same term",
            lambda: gram_result(solution(), K_ij, C / n**2),
            (alpha_2**2 + 1) ** L * (K_ij + ((alpha_1**2 + 1) ** L - 1) * C / n**2),
            domain=VALUES,
        ),
        Claim(
            "footnote2",
            "Footnote 2",
            "a feed-forward expansion gamma changes a constant factor only",
            lambda: _dependence_on_expansion(1 / d),
            sp.S.One,
            expected=Status.REFUTED,
            note="With both feed-forward variances 1/d_v every block multiplies by (1 + gamma alpha_2^2), so the factor is "
            "exponential in depth.",
            corrected_by="footnote2-corrected",
        ),
        Claim(
            "footnote2-corrected",
            "Footnote 2",
            "with fan-in variances the expansion does not matter",
            lambda: _dependence_on_expansion(1 / (gamma * d)),
            sp.S.One,
        ),
        Claim(
            "eq43",
            "Lemma A.7, Eq. 43",
            "second moment of a logit",
            _logits,
            sigma_k2**2 * K_ii * K_jj,
            domain={sigma_q2: sigma_k2},
        ),
        Claim(
            "eq44",
            "Lemma A.7, Eq. 44",
            "logits vanish like 1/d_k^2 in mean square (Glorot variance)",
            lambda: _logits(glorot),
            statement=lambda: _order(glorot),
            stated_latex=r"\mathcal{O}(1/d_k^2)",
        ),
        Claim(
            "theorem-a2",
            "Theorem A.2",
            "attention becomes uniform almost surely (Glorot variance)",
            lambda: _logit_limit(glorot),
            statement=lambda: _summable(glorot),
            stated_latex=r"A \to \tfrac{1}{n} 1_{n \times n} \text{ almost surely as } d_k \to \infty", stated_whole=True,
        ),
        Claim(
            "theorem-a2-keys",
            "Theorem A.2",
            "attention becomes uniform almost surely (variance 1/d_k of the main text)",
            lambda: _logit_limit(per_key),
            statement=lambda: _summable(per_key),
            stated_latex=r"A \to \tfrac{1}{n} 1_{n \times n} \text{ almost surely as } d_k \to \infty", stated_whole=True,
        ),
        Claim(
            "theorem-a2-values",
            "Theorem A.2",
            "attention becomes uniform as d_k grows (variance 1/d_v of Appendix A)",
            lambda: _logit_limit(per_value),
            sp.S.Zero,
            expected=Status.REFUTED,
            note="With the variance 1/d_v that Appendix A states for queries and keys, the logits do not depend on d_k in "
            "mean square, and attention does not become uniform. The three variances of the paper agree only at d_k = d_v.",
            corrected_by="theorem-a2",
        ),
    )


def _skip() -> Result:
    stream, branch = PairState(B_ij, B_ij, d), PairState(A_ij, A_ij, d)
    return pair_result(Sum(alpha_1), r"\mathbb{E}[D_{ij} D_{i'j}]", stream, branch)


DEFAULTS = {d: sp.Integer(1), **VALUES}
WIDTH_NOTE = "Only products of widths and variances enter; at the paper's values, the defaults, they cancel."
VARIANCES = (d, d_F, sigma_v2, sigma_up2, sigma_down2)


def _spec(name: str, summary: str, result: Result, *arguments: sp.Symbol) -> FunctionSpec:
    return _spec_of(name, summary, ((name, result.expression),), result, *arguments)


def _spec_of(
    name: str, summary: str, outputs: tuple[tuple[str, sp.Expr], ...], result: Result, *arguments: sp.Symbol
) -> FunctionSpec:
    widths = [symbol for symbol in VARIANCES if any(expression.has(symbol) for _, expression in outputs)]
    return FunctionSpec(
        name,
        parameters(*arguments, *widths),
        outputs,
        f"{summary} {WIDTH_NOTE}" if widths else summary,
        assumptions=result.assumptions,
        neglected=result.neglected,
        sources=(Source("noci2022", ""), *result.sources),
        defaults={symbol: DEFAULTS[symbol] for symbol in widths},
    )


def _overlap(scaled: bool) -> tuple[tuple[str, sp.Expr], ...]:
    """Correlation and its distance from one, for tokens of unit norm and correlation rho.

    The growth of the common mode saturates where it would overflow: the correlation is one to every digit there.
    """
    excess = solution().scaling_limit(SCALING).excess if scaled else solution().excess
    start = solution().input
    # Multiplied out, one is not taken from one where the mean token vanishes, at rho = -1/(n - 1).
    average = sp.collect(sp.expand(n * start.common.xreplace({start.q: sp.S.One, start.gap: 1 - rho})), rho) / n
    added = Saturated(excess) * average
    return ("correlation", (rho + added) / (1 + added)), ("one_minus_correlation", (1 - rho) / (1 + added))


def _pair_correlation() -> tuple[tuple[str, sp.Expr], ...]:
    added = Saturated(solution().excess * C / n**2)
    return (("pair_correlation", (K_ij + added) / (sp.sqrt(K_ii + added) * sp.sqrt(K_jj + added))),)


def _forward_evaluators() -> tuple[FunctionSpec, ...]:
    depth, limit = (L, alpha_1, alpha_2), (a_1, a_2)
    products, norm = (depth_result(solution(), NOCI, key) for key in "CN")
    products_limit, norm_limit = (limit_result(solution(), NOCI, key, SCALING) for key in "CN")
    gram = gram_result(solution(), K_ij, C / n**2)
    correlation, correlation_limit = _correlation(), _correlation(scaled=True)
    return (
        _spec("inner_products", "Expected sum of token inner products after L blocks (Eq. 10).", products, *depth, C),
        _spec("inner_products_limit", "Its limit for alpha^2 = a/L (Eq. 11).", products_limit, *limit, C),
        _spec("norm", "Expected squared norm of the tokens after L blocks (Eq. 12).", norm, *depth, n, C, N),
        _spec("norm_limit", "Its limit for alpha^2 = a/L (Eq. 13).", norm_limit, *limit, n, C, N),
        _spec_of(
            "correlation",
            "Token correlation after L blocks, for tokens of equal norm (Section A.4), and its distance from one.",
            _overlap(scaled=False),
            correlation,
            L,
            alpha_1,
            n,
            rho,
        ),
        _spec_of(
            "correlation_limit",
            "Its limit for alpha_1^2 = a_1/L (Eq. 15).",
            _overlap(scaled=True),
            correlation_limit,
            a_1,
            n,
            rho,
        ),
        _spec("gram_entry", "Expected inner product of two tokens after L blocks.", gram, *depth, n, C, K_ij),
        _spec_of(
            "pair_correlation",
            "Correlation of two tokens of unequal norms after L blocks.",
            _pair_correlation(),
            gram,
            L,
            alpha_1,
            n,
            C,
            K_ij,
            K_ii,
            K_jj,
        ),
        _spec(
            "logit_second_moment",
            "Second moment of an attention logit given the tokens, at temperature one (Eq. 43).",
            _logits(),
            sigma_q2,
            sigma_k2,
            K_ii,
            K_jj,
        ),
    )


def _gradient_claims() -> tuple[Claim, ...]:
    return gradients.CLAIMS


def _study_points(seed: int, full: bool) -> list[StudyPoint]:
    from symprop.derivations import noci2022_simulation as simulation

    forward = simulation.study_points(stack(BLOCK, L), _predictions(), seed, full)
    return [*forward, partial(gradients.study, seed, full)]


def _figures(seed: int, full: bool, progress: Progress | None) -> tuple[Figure, ...]:
    from symprop.derivations import noci2022_simulation as simulation

    return simulation.figures(stack(BLOCK, L), _predictions(), seed, full, progress)


def _predictions() -> dict[str, sp.Expr]:
    products, norm = (depth_result(solution(), NOCI, key).expression for key in "CN")
    return {"C": products, "N": norm, "K": gram_result(solution(), K_ij, C / n**2).expression}


SLIPS = (
    Slip("Eqs. 15, 16 and Section A.3", "limit of the correlation at layer l", "at the last layer, l = L"),
    Slip("Section A.3, remark", "C(X) sums X_kj X_kj'", "X_kj X_k'j"),
    Slip("Proof of Theorem A.2", "continuous functions of A", "continuous functions of M"),
    *gradients.SLIPS,
)

DERIVATION = PaperDerivation(
    paper=bibliography.NOCI2022,
    view=NOCI,
    values=VALUES,
    build_trace=lambda: solution().trace,
    build_solution=solution,
    build_claims=lambda: (*_forward_claims(), *_gradient_claims()),
    build_evaluators=(_forward_evaluators, *gradients.EVALUATORS),
    study_points=_study_points,
    figures=_figures,
    slips=SLIPS,
    references=(bibliography.DONG2021,),
)
