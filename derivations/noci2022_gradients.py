"""Noci et al. 2022, the gradient half: Lemmas 3.1 and A.1 to A.3, Theorem 3.2, Sections 3.3, 3.4, A.2, A.5 and C.2.

Every claim is derived from the definition of the attention layer by :mod:`symprop.wick`. What the paper leaves
approximate or gets wrong stands beside the exact result; claims whose place begins with "Beyond" are not in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import sympy as sp

from symprop.claims import Claim, EvaluatorBuilder, LatexName, Result, Slip, Status, wick_result
from symprop.codegen import FunctionSpec
from symprop.core import symbols
from symprop.core.expression import Comparison, compare, factored
from symprop.core.proof import ProofStep
from symprop.core.provenance import Source
from symprop.core.symbols import (
    C,
    L,
    N,
    a_1,
    a_2,
    alpha_1,
    alpha_2,
    d,
    d_F,
    d_k,
    d_o,
    n,
    rho,
    sigma_down2,
    sigma_k2,
    sigma_q2,
    sigma_up2,
    sigma_v2,
    sigma_x2,
    tau,
)
from symprop.simulate.gradients import gradient_study
from symprop.wick import (
    AttentionLayer,
    Commutation,
    Derivation,
    Softmax,
    SoftmaxJacobian,
    at_tokens,
    at_uniform,
    attention_jacobian,
    block_gradient_norm,
    centring,
    collapsed_gradient_norm,
    distance_to_uniform,
    evaluate,
    factorised_gradient_norm,
    gradient_norm,
    gradient_norm_second_moment,
    input_gradient_parts,
    jacobian,
    kron,
    matching_temperature,
    matrices_equal,
    mean_gradient_norm,
    missing_factor,
    moment_map,
    norm_moments,
    output_norm_beyond_uniform,
    tail_ratio,
    tail_ratio_limit,
    token_average,
    trace,
)
from symprop.wick.invariants import G_2, G_4, K_2, Q_X, T_X, W_X
from symprop.wick.steps import squared_norm
from symprop.wick.words import Alphabet

study = gradient_study
"""Theory against simulation: ``study(seed, full, progress)``."""

SQUARE: Mapping[sp.Symbol, sp.Expr] = {d_o: d, tau: sp.S.One}
"""Lemma 3.1: values of output width d_v = d, temperature 1."""

XAVIER: Mapping[sp.Symbol, sp.Expr] = {**SQUARE, d_k: d, sigma_v2: 1 / d, sigma_q2: 1 / d, sigma_k2: 1 / d}
"""Section 3.3: d_k = d_v = d and Xavier initialisation."""

SLIPS = (
    Slip("A.1.2, both squared norms", r"$\operatorname{tr}(J J)$", r"$\operatorname{tr}(J J^\top)$"),
    Slip("A.1.2, fourth line of the values", r"$\frac{d}{n^2}$", r"$\frac{d_v}{n^2}$"),
    Slip("Lemma A.3, proof", r"$dA$, $\partial A / \partial X$", r"$dM$, $\partial M / \partial X$: the logits"),
    Slip("Lemma A.3, proof", r"$\mathrm{vec}_r(B) = \mathrm{vec}_r(B^\top)$",
         r"$\mathrm{vec}_r(B) = \mathrm{vec}_c(B^\top)$"),
    Slip("Theorem 3.2, remark before the proof", "Theorem 3.1", "Lemma 3.1"),
    Slip("Theorem 3.2, remark before the proof",
         "the gradient with respect to the input does not vanish, by Lemma 3.1",
         "Lemma 3.1 bounds it from above only; the exact value at rank collapse is positive"),
    Slip("Theorem 3.2, proof", r"$B_{X^\ell}$ almost surely bounded, by the tower property",
         r"$B_{X^\ell}$ finite; later layers share $W^{V,\ell}$ with $\partial S^\ell/\partial W^Q$, which is harmless "
         "because that gradient is zero for every draw"),
    Slip("Section C.2, warm-up", r"$\max(1, \mathrm{step}/\mathrm{steps}_{\mathrm{warmup}})$",
         r"$\min(1, \mathrm{step}/\mathrm{steps}_{\mathrm{warmup}})$: the maximum never warms up and grows for ever"),
)
"""Misprints of this half that are not formulas to refute."""


def _result(
    derive: Callable[..., Derivation], quantity: str, *arguments: object, **options: object
) -> Callable[[], Result]:
    return lambda: wick_result(derive(*arguments, **options), quantity)


def _layer_norm(parameter: str) -> Callable[[], Result]:
    return _result(gradient_norm, squared_norm("S", parameter), parameter)


def _part(key: str) -> Callable[[], Result]:
    quantity = rf"\mathbb{{E}}\|{key}\|_F^2"
    return lambda: wick_result(input_gradient_parts()[key], quantity)


def _token_mean(quantity: sp.Expr, latex: str) -> Callable[[], Result]:
    return _result(token_average, rf"\mathbb{{E}}\,{latex}", quantity)


def _matrix_result(
    expression: Callable[[], sp.Expr], quantity: str, where: str
) -> Callable[[], Result]:
    return lambda: Result(expression(), quantity, sources=(Source("noci2022", where),))


# Lemmas A.1 to A.3: statements about matrices.

_LAYER = AttentionLayer(tau=sp.S.One)
_X, _W_Q, _W_K, _W_V = _LAYER.X, _LAYER.W_Q, _LAYER.W_K, _LAYER.W_V
_A, _B = sp.MatrixSymbol("A", n, d), sp.MatrixSymbol("B", d_k, d_o)
_SQUARE_A, _SQUARE_B = sp.MatrixSymbol("A", n, n), sp.MatrixSymbol("B", d, d)
_RIGHT_A, _RIGHT_B = sp.MatrixSymbol("C", d, n), sp.MatrixSymbol("D", d_o, d)
_W = sp.MatrixSymbol("W", d, d_k)
_Q = sp.MatrixSymbol("Q", n, n)
_I, _K = sp.Identity(n), Commutation(n, n)
_ATTENTION = Softmax(_LAYER.logits)
_UNIFORM_JACOBIAN = kron(_I, centring(n)) / n


def _same(left: Callable[[], sp.Expr], right: Callable[[], sp.Expr]) -> Callable[[], Comparison]:
    """Equal multiplied-out forms prove two matrices equal; numbers at small sizes refute them."""

    def statement() -> Comparison:
        one, two = left(), right()
        if matrices_equal(one, two):
            return Comparison(True, "equal Kronecker normal forms")
        sizes = {size: sp.Integer(2) for size in sorted((one - two).free_symbols & {n, d, d_k, d_o}, key=str)}
        names = sorted((one - two).atoms(sp.MatrixSymbol), key=str)
        witness = {name: sp.ImmutableMatrix(2, 2, lambda i, j: 1 + 2 * i + j + i * j) for name in names}
        first, second = (evaluate(side, {**sizes, **witness}) for side in (one, two))
        if abs(first - second).max() > 1e-9:
            at = max((abs(first - second)[i, j], i, j) for i in range(len(first)) for j in range(len(first[0])))
            return Comparison(False, "numbers at small sizes", 1, {**sizes, **witness},
                              sp.Float(first[at[1:]]), sp.Float(second[at[1:]]))
        return Comparison(None, "numbers at small sizes", 1)

    return statement


def _trace_of_kronecker() -> Comparison:
    alphabet = Alphabet()
    difference = alphabet.polynomial(trace(kron(_SQUARE_A, _SQUARE_B)) - trace(_SQUARE_A) * trace(_SQUARE_B))
    return Comparison(not difference, "equal trace normal forms")


_A_Q, _A_J = sp.symbols("A_q A_j", positive=True)
_ENTRIES = {_A_Q: LatexName("A_iq", "A_{iq}"), _A_J: LatexName("A_ij", "A_{ij}"),
            sp.Symbol("q"): LatexName("q", "q"), sp.Symbol("j"): LatexName("j", "j")}


def _softmax_slopes() -> tuple[sp.Expr, sp.Expr]:
    """d A_q / d M_j of one row, at j = q and otherwise, in A_q and A_j; the other terms of the sum are a rest."""
    m_q, m_j = sp.symbols("M_q M_j", real=True)
    rest, total = sp.symbols("R T", positive=True)
    weight = sp.exp(m_q) / (sp.exp(m_q) + sp.exp(m_j) + rest)
    # The weights themselves, and what is left of a sum of any size.
    put = {sp.exp(m_q): _A_Q * total, sp.exp(m_j): _A_J * total, rest: (1 - _A_Q - _A_J) * total}
    same, other = (factored(weight.diff(logit).subs(put, simultaneous=True)) for logit in (m_q, m_j))
    return same, other


def _softmax_jacobian() -> Result:
    same, other = _softmax_slopes()
    entry = sp.Piecewise((same, sp.Eq(sp.Symbol("j"), sp.Symbol("q"))), (other, True))
    return Result(entry, r"\frac{\partial A_{iq}}{\partial M_{ij}}", sources=(Source("noci2022", "Eq. 23"),), names=_ENTRIES)


def _softmax_entries() -> Comparison:
    same, other = _softmax_slopes()
    diagonal = compare(same, _A_Q - _A_Q**2)
    return diagonal if not diagonal.equal else compare(other, -_A_Q * _A_J)


_LEMMA_A3 = (
    kron(_I, _W_V.T * _X.T) * SoftmaxJacobian(_ATTENTION)
    * (kron(_I, _X * _W_K * _W_Q.T) + _K * kron(_I, _X * _W_Q * _W_K.T)) / sp.sqrt(d_k) + kron(_ATTENTION, _W_V.T)
)
_LEMMA_A2 = kron(_I, _W_V.T * _X.T) * SoftmaxJacobian(_ATTENTION) * kron(_X, _X * _W_K) / sp.sqrt(d_k)
_MOVED = kron(_X * _W_Q * _W_K.T, _I) * Commutation(d, n)

_MATRIX_CLAIMS = (
    Claim(
        "eq20", "Eq. 20", "The Jacobian of A W B, row by row",
        _matrix_result(lambda: jacobian(_A * _W * _B, _W), r"\frac{\partial AWB}{\partial W}", "Eq. 20"),
        statement=_same(lambda: jacobian(_A * _W * _B, _W), lambda: kron(_A, _B.T)),
        stated_latex=r"A \otimes B^\top",
    ),
    Claim(
        "eq21", "Eq. 21, Lemma A.1", "Trace of a Kronecker product",
        _matrix_result(lambda: trace(_SQUARE_A) * trace(_SQUARE_B), r"\operatorname{tr}(A \otimes B)", "Lemma A.1"),
        statement=_trace_of_kronecker, stated_latex=r"\operatorname{tr}(A)\operatorname{tr}(B)",
    ),
    Claim(
        "eq22", "Eq. 22, Lemma A.1", "Mixed product",
        _matrix_result(lambda: kron(_A * _RIGHT_A, _B * _RIGHT_B), r"(A \otimes B)(C \otimes D)", "Lemma A.1"),
        statement=_same(lambda: kron(_A, _B) * kron(_RIGHT_A, _RIGHT_B), lambda: kron(_A * _RIGHT_A, _B * _RIGHT_B)),
        stated_latex=r"(AC) \otimes (BD)",
    ),
    Claim(
        "eq23", "Eq. 23, Lemma A.2", "Jacobian of one row of the softmax",
        _softmax_jacobian,
        statement=_softmax_entries,
        stated_latex=r"\frac{\partial A}{\partial M} = "
        r"\operatorname{blockdiag}\big(\operatorname{diag}(A_i) - A_i A_i^\top\big)",
        stated_whole=True,
    ),
    Claim(
        "eq24", "Eq. 24, Lemma A.2", "Jacobian of the softmax at the uniform point",
        _matrix_result(lambda: at_uniform(SoftmaxJacobian(_ATTENTION)), r"\frac{\partial A}{\partial M}", "Eq. 24"),
        statement=_same(lambda: at_uniform(SoftmaxJacobian(_ATTENTION)), lambda: _UNIFORM_JACOBIAN),
        stated_latex=r"\frac{1}{n} I_n \otimes \Pi",
    ),
    Claim(
        "lemma-a2-values", "Lemma A.2", "Jacobian in the values, true softmax",
        _matrix_result(lambda: attention_jacobian("W_V", _LAYER), r"\frac{\partial S}{\partial W^V}", "Lemma A.2"),
        statement=_same(lambda: attention_jacobian("W_V", _LAYER), lambda: kron(_ATTENTION * _X, sp.Identity(d_o))),
        stated_latex=r"A X \otimes I_{d_v}",
    ),
    Claim(
        "lemma-a2-queries", "Lemma A.2", "Jacobian in the queries, true softmax",
        _matrix_result(lambda: attention_jacobian("W_Q", _LAYER), r"\frac{\partial S}{\partial W^Q}", "Lemma A.2"),
        statement=_same(lambda: attention_jacobian("W_Q", _LAYER), lambda: _LEMMA_A2),
        stated_latex=r"\frac{1}{\sqrt{d_k}} (I_n \otimes W^{V\top} X^\top) \frac{\partial A}{\partial M} "
        r"(X \otimes X W^K)",
    ),
    Claim(
        "lemma-a3", "Eq. 25, Lemma A.3", "Jacobian in the input, true softmax",
        _matrix_result(lambda: attention_jacobian("X", _LAYER), r"\frac{\partial S}{\partial X}", "Lemma A.3"),
        statement=_same(lambda: attention_jacobian("X", _LAYER), lambda: _LEMMA_A3),
        stated_latex=r"\frac{1}{\sqrt{d_k}} (I_n \otimes W^{V\top} X^\top) \frac{\partial A}{\partial M} "
        r"\big(I_n \otimes X W^K W^{Q\top} + K_{nn} (I_n \otimes X W^Q W^{K\top})\big) + A \otimes W^{V\top}",
    ),
    Claim(
        "lemma-a3-commutation", "Lemma A.3, proof", "Moving the commutation matrix to the left",
        _matrix_result(lambda: _MOVED, r"(X W^Q W^{K\top} \otimes I_n) K_{dn}", "Lemma A.3"),
        statement=_same(lambda: _MOVED, lambda: _K * kron(_I, _X * _W_Q * _W_K.T)),
        stated_latex=r"K_{nn} (I_n \otimes X W^Q W^{K\top})",
    ),
    Claim(
        "eq35", "Eq. 35, Lemma 3.1", "Commutation matrices on both sides, as used for A_2",
        _matrix_result(lambda: kron(_Q, _I), r"K_{nn} (I_n \otimes Q) K_{nn}", "Eq. 35"),
        statement=_same(lambda: kron(_I, _Q), lambda: _K * kron(_I, _Q) * _K),
        stated_latex=r"I_n \otimes Q", expected=Status.REFUTED, corrected_by="eq35-corrected",
        note="The commutation matrices do not cancel: they exchange the factors, K (I kron Q) K = Q kron I.",
    ),
    Claim(
        "eq35-corrected", "Eq. 35, corrected", "Commutation matrices exchange the factors",
        _matrix_result(lambda: kron(_Q, _I), r"K_{nn} (I_n \otimes Q) K_{nn}", "Eq. 35"),
        statement=_same(lambda: kron(_Q, _I), lambda: _K * kron(_I, _Q) * _K), stated_latex=r"Q \otimes I_n", printed=False,
    ),
)

# Lemma 3.1. The mean token has squared norm C/n^2.

_MEAN_TOKEN = C / n**2


def _tokens(rows: list[list[int]]) -> dict[sp.Symbol, sp.Expr]:
    """The invariants of given tokens, with their sizes: a point that real tokens attain."""
    X = sp.Matrix(rows)
    count, width = X.shape
    K = X * X.T
    Pi = sp.eye(count) - sp.ones(count) / count
    G, total = X.T * Pi * X, sp.ones(count, 1)
    return {
        n: sp.Integer(count), d: sp.Integer(width), N: K.trace(), C: (total.T * K * total)[0], T_X: G.trace(),
        G_2: (G**2).trace(), G_4: (G**4).trace(), K_2: (K**2).trace(), Q_X: (total.T * K * Pi * K * total)[0],
    }


_NEAR_COLLAPSE = {**_tokens([[10, 0], [10, 1]]), d_k: sp.Integer(2), sigma_v2: sp.S.Half, sigma_q2: sp.S.Half,
                  sigma_k2: sp.S.Half}
_SPREAD = {**_tokens([[1, 2, 0], [0, -1, 1]]), d_k: sp.Integer(2), sigma_v2: sp.S.Half, sigma_q2: sp.S.Half,
           sigma_k2: sp.S.Half}
_QUERIES_STATED = sigma_v2 * sigma_k2 * d / n**2 * N * G_2
_A_STATED = sigma_q2 * sigma_k2 * sigma_v2 * d_k * d / n * G_2
_A_1 = sigma_q2 * sigma_k2 * sigma_v2 * d**2 / n * G_2
_A_2 = sigma_q2 * sigma_k2 * sigma_v2 * d**2 / n**2 * N * T_X
_A_12 = sigma_q2 * sigma_k2 * sigma_v2 * d / n**2 * G_2
_A_3 = sigma_v2 * d**2


def _safe_slack() -> Comparison:
    """2 (E||A_1||^2 + E||A_2||^2) + E||A_3||^2 - E||dS/dX||^2 = E||A_1 - A_2||^2 >= 0."""
    parts = {key: part.expression for key, part in input_gradient_parts().items()}
    crossed = compare(parts["A_1 A_3"] + parts["A_2 A_3"], sp.S.Zero)
    if not crossed.equal:
        return crossed
    bound = 2 * (parts["A_1"] + parts["A_2"]) + parts["A_3"]
    difference_norm = parts["A_1"] + parts["A_2"] - 2 * parts["A_1 A_2"]
    found = compare(bound - gradient_norm("X").expression, difference_norm)
    return replace(found, method="the slack is E||A_1 - A_2||^2") if found.equal else found


_a, _x = sp.MatrixSymbol("a", n, 1), sp.MatrixSymbol("x", d, 1)


def _rank_one() -> Derivation:
    return at_tokens(Derivation(G_2, sources=(Source("noci2022", "Section 3.1"),)), _a * _x.T)


def _rank_one_vanishes() -> Comparison:
    witness = {_a: sp.ImmutableMatrix([1, 0]), _x: sp.ImmutableMatrix([1, 0])}
    value = evaluate(_rank_one().expression, witness)
    return Comparison(False if value else None, "rank-one tokens", 1, witness, sp.S.Zero, sp.Float(value))


_LEMMA_CLAIMS = (
    Claim("eq6", "Eq. 6, Lemma 3.1", "Gradient of the values", _layer_norm("W_V"), d * n * _MEAN_TOKEN, domain=SQUARE),
    Claim("eq7", "Eq. 7, Lemma 3.1", "Gradient of the queries", _layer_norm("W_Q"), _QUERIES_STATED, domain=SQUARE),
    Claim(
        "eq7-restated", "Eq. 7 in the proof of Theorem 3.2", "Gradient of the queries, as restated",
        _layer_norm("W_Q"), sigma_v2 * sigma_k2 * d**2 / n**2 * N * G_2, expected=Status.REFUTED, domain=SQUARE,
        witness=_SPREAD, note="d^2 stands where Eq. 7 has d_v.", corrected_by="eq7",
    ),
    Claim(
        "eq7-keys", "Lemma 3.1, keys", "Gradient of the keys at equal query and key variance",
        _layer_norm("W_K"), _QUERIES_STATED, domain={**SQUARE, sigma_q2: sigma_k2},
    ),
    Claim(
        "eq7-keys-variances", "Lemma 3.1, keys", "Gradient of the keys: the case analogous to Eq. 7",
        _layer_norm("W_K"), _QUERIES_STATED, expected=Status.REFUTED, domain=SQUARE,
        witness={**_SPREAD, sigma_q2: sp.S.One}, corrected_by="eq7-keys-general",
        note="The variance that enters is that of the queries; the means agree only where sigma_q = sigma_k.",
    ),
    Claim(
        "eq7-keys-general", "Lemma 3.1, keys, corrected", "Gradient of the keys",
        _layer_norm("W_K"), sigma_v2 * sigma_q2 * d / n**2 * N * G_2, domain=SQUARE, printed=False,
    ),
    Claim(
        "eq7-keys-law", "Lemma 3.1, keys", "Gradients of queries and keys have the same second moment",
        _result(gradient_norm_second_moment, squared_norm("S", "W_K", 4), "W_K"),
        (sigma_v2 * sigma_k2 * N / (n**2 * d_k)) ** 2
        * (d**2 * (d_k**2 * G_2**2 + 2 * d_k * G_4) + 2 * d * (d_k**2 * G_4 + d_k * G_2**2 + d_k * G_4)),
        expected=Status.REFUTED, domain={**SQUARE, sigma_q2: sigma_k2}, witness=_SPREAD, corrected_by="keys-second",
        note="The case is analogous in the mean only: the second moments differ even at equal variances.",
    ),
    Claim(
        "eq8", "Eq. 8, Lemma 3.1", "Bound on the gradient of the input", _layer_norm("X"),
        8 * sigma_q2 * sigma_k2 * sigma_v2 * d_k * d / n * G_2 + 2 * d**2 * sigma_v2, expected=Status.REFUTED,
        relation="<=", domain=SQUARE, witness=_NEAR_COLLAPSE, corrected_by="eq8-exact",
        note="E||A_2||^2 is not E||A_1||^2: for large, nearly collapsed tokens the bound is violated.",
    ),
    Claim(
        "eq31", "Eqs. 30-32, Lemma 3.1", "The part of the queries", _part("A_1"), _A_STATED,
        expected=Status.REFUTED, domain=SQUARE, witness={**_SPREAD, d_k: sp.S.One}, corrected_by="eq31-corrected",
        note="d_k stands where d_v is right: E W^Q^T W^Q = d_v sigma_q^2 I; 1/d_k cancels the other width.",
    ),
    Claim("eq31-corrected", "Eqs. 30-32, corrected", "The part of the queries", _part("A_1"), _A_1, domain=SQUARE,
          printed=False),
    Claim(
        "eq36", "Eqs. 33-36, Lemma 3.1", "The part of the keys, even at d_k = d_v", _part("A_2"), _A_STATED,
        expected=Status.REFUTED, domain={**SQUARE, d_k: d}, witness=_NEAR_COLLAPSE, corrected_by="eq36-corrected",
        note="Eq. 35 drops the commutation matrices; with them ||G||^2/n becomes ||X||^2 ||Pi X||^2/n^2.",
    ),
    Claim("eq36-corrected", "Eqs. 33-36, corrected", "The part of the keys", _part("A_2"), _A_2, domain=SQUARE, printed=False),
    Claim("lemma3.1-a3", "Lemma 3.1, A_3", "The part of the values", _part("A_3"), _A_3, domain=SQUARE),
    Claim(
        "eq8-exact", "Eq. 8, replaced", "Gradient of the input, exact", _layer_norm("X"),
        _A_1 + _A_2 + 2 * _A_12 + _A_3, domain=SQUARE, printed=False,
    ),
    Claim(
        "eq8-safe", "Eq. 8, corrected bound", "A bound of the same type that holds",
        _layer_norm("X"), 2 * (_A_1 + _A_2) + _A_3, statement=_safe_slack,
        stated_latex=r"2\,\mathbb{E}\|A_1\|_F^2 + 2\,\mathbb{E}\|A_2\|_F^2 + \mathbb{E}\|A_3\|_F^2", relation="<=",
        domain=SQUARE, printed=False,
    ),
    Claim(
        "sec3.1-rank-one", "Section 3.1", "The centred covariance of any rank-one tokens vanishes",
        _result(_rank_one, r"\|G\|_F^2"), statement=_rank_one_vanishes, stated_latex="0", expected=Status.REFUTED,
        corrected_by="sec3.1-rank-one-corrected",
        note="Rank one is not enough: for X = a x^T it is |x|^4 (a^T Pi a)^2. All tokens must be equal.",
    ),
    Claim(
        "sec3.1-rank-one-corrected", "Section 3.1, corrected", "The centred covariance of rank-one tokens X = a x^T",
        _result(_rank_one, r"\|G\|_F^2"), trace(_x.T * _x) ** 2 * trace(_a.T * centring(n) * _a) ** 2, printed=False,
    ),
    Claim(
        "thm3.2-queries", "Eq. 9, Theorem 3.2", "No gradient of the queries under rank collapse, for every draw",
        _result(collapsed_gradient_norm, squared_norm("S", "W_Q").removeprefix(r"\mathbb{E}"), "W_Q"), sp.S.Zero,
    ),
    Claim(
        "thm3.2-keys", "Eq. 9, Theorem 3.2", "No gradient of the keys under rank collapse, for every draw",
        _result(collapsed_gradient_norm, squared_norm("S", "W_K").removeprefix(r"\mathbb{E}"), "W_K"), sp.S.Zero,
    ),
    Claim(
        "thm3.2-values", "Theorem 3.2, remark", "The gradient of the values survives rank collapse",
        _result(collapsed_gradient_norm, squared_norm("S", "W_V"), "W_V"), d_o * n * trace(_x.T * _x),
    ),
    Claim(
        "thm3.2-input", "Theorem 3.2, remark", "The gradient of the input survives rank collapse",
        _result(collapsed_gradient_norm, squared_norm("S", "X"), "X"), sigma_v2 * d * d_o,
    ),
)

# Sections 3.3, 3.4, A.2, C.2.

_EXACT_QUERIES = sigma_x2**3 * (1 - rho) ** 2 * (n - 1) * (n + d) * (n * d + 4 * (1 - rho)) / n**2
_PRINTED_QUERIES = sigma_x2**3 * (n - 1) / n * (1 - rho) ** 2 * d * (n + d)
_GRAM = sigma_x2**2 * (1 - rho) ** 2 * d * (n - 1) * (n + d)
_MATCH = n * d * (1 + rho * (n - 1)) / (sigma_x2**2 * (n - 1) * (1 - rho) ** 2 * (n + d))

_TOKEN_CLAIMS = (
    Claim(
        "eq17", "Eq. 17", "Gradient of the values, Gaussian tokens",
        _result(mean_gradient_norm, squared_norm("S", "W_V"), "W_V"), sigma_x2 * d**2 * (1 + rho * (n - 1)), domain=XAVIER,
    ),
    Claim(
        "eq18", "Eq. 18, Section A.2", "Gradient of the queries, Gaussian tokens",
        _result(mean_gradient_norm, squared_norm("S", "W_Q"), "W_Q"), _PRINTED_QUERIES, expected=Status.REFUTED,
        domain=XAVIER, witness={n: sp.Integer(3), d: sp.Integer(3), rho: sp.S.Zero, sigma_x2: sp.S.One},
        corrected_by="eq18-exact",
        note="Norm and correlation are not independent: the factor 1 + 4 (1 - rho)/(n d) is missing.",
    ),
    Claim(
        "eq18-factorised", "Eq. 18, under its assumption", "Eq. 18 with norm and correlation taken as independent",
        _result(factorised_gradient_norm, squared_norm("S", "W_Q"), "W_Q"), _PRINTED_QUERIES, domain=XAVIER,
    ),
    Claim(
        "eq18-exact", "Eq. 18, corrected", "Gradient of the queries, Gaussian tokens, exact",
        _result(mean_gradient_norm, squared_norm("S", "W_Q"), "W_Q"), _EXACT_QUERIES, domain=XAVIER, printed=False,
    ),
    Claim(
        "eq18-factor", "Eq. 18, corrected", "The factor that Eq. 18 misses",
        _result(missing_factor, r"\frac{\text{exact}}{\text{Eq. 18}}"), 1 + 4 * (1 - rho) / (n * d), printed=False,
    ),
    Claim(
        "a2-gram", "Section A.2", "Mean square of the centred covariance of Gaussian tokens",
        _token_mean(G_2, r"\|X^\top \Pi X\|_F^2"), _GRAM,
    ),
    Claim(
        "a2-independence", "Section 3.3", "Norm and centred covariance are uncorrelated",
        _token_mean(N * G_2, r"\|X\|_F^2 \|X^\top \Pi X\|_F^2"), n * d * sigma_x2 * _GRAM, expected=Status.REFUTED,
        witness={n: sp.Integer(3), d: sp.Integer(3), rho: sp.S.Zero, sigma_x2: sp.S.One}, corrected_by="a2-covariance",
        note="Their covariance is 4 sigma_x^2 (1 - rho) E||X^T Pi X||^2.",
    ),
    Claim(
        "a2-covariance", "Section 3.3, corrected", "Mean of the product of norm and centred covariance",
        _token_mean(N * G_2, r"\|X\|_F^2 \|X^\top \Pi X\|_F^2"), sigma_x2 * (n * d + 4 * (1 - rho)) * _GRAM, printed=False,
    ),
    Claim(
        "eq19", "Eqs. 19 and 45", "The squared gradient of the queries is proportional to tau^2",
        _layer_norm("W_Q"), tau**2 * _QUERIES_STATED, domain={d_o: d},
    ),
    Claim(
        "eq45-match", "Section C.2", "Temperature that matches Eqs. 17 and 18",
        _result(matching_temperature, r"\tau_*^2", factorised=True), _MATCH, domain=XAVIER,
    ),
    Claim(
        "eq45-match-exact", "Section C.2, exact", "Temperature that matches the gradients of queries and values",
        _result(matching_temperature, r"\tau_*^2"), _MATCH / (1 + 4 * (1 - rho) / (n * d)), domain=XAVIER, printed=False,
    ),
    Claim(
        "input-gaussian", "Beyond Section 3.3", "Gradient of the input, Gaussian tokens",
        _result(mean_gradient_norm, squared_norm("S", "X"), "X"),
        sigma_v2 * d_o * (d + tau**2 * sigma_q2 * sigma_k2 * sigma_x2**2 * (1 - rho) * d * (n - 1) / n**2
                          * ((n * d + 2) * (n + d) * (1 - rho) + d * (n * d + 2 * (1 - rho)))), printed=False,
    ),
)

# What the paper does not state.

_FEED_FORWARD_GAIN = d_F * sigma_up2 * d * sigma_down2
_EVERY_FF = 1 + alpha_2**2 * _FEED_FORWARD_GAIN
_V, _G = alpha_1**2 * d * sigma_v2, alpha_2**2 * _FEED_FORWARD_GAIN
_FF_A = 1 + 2 * _G + _G**2 * (1 + 2 / (d * d_F))
_FF_B = 2 * _G / d + _G**2 * (1 / d + 1 / d_F + 1 / (d * d_F))
_C2_FACTOR = ((1 + _V) ** 2 + 4 * _V / d + 2 * _V**2 / d) * (_FF_A + 2 * _FF_B)
_LAYER_NORMS = {
    "X": sigma_v2 * d * (d + tau**2 * sigma_q2 * sigma_k2 * ((n * d + 2) * G_2 + d * N * T_X) / n**2),
    "W_V": d * C / n,
    "W_Q": tau**2 * sigma_v2 * sigma_k2 * d * N * G_2 / n**2,
    "W_K": tau**2 * sigma_v2 * sigma_q2 * d * N * G_2 / n**2,
}


def _block_claim(parameter: str) -> Claim:
    inner = alpha_1**2 * _LAYER_NORMS[parameter] + (n * d if parameter == "X" else 0)
    return Claim(f"block-{parameter.lower().replace('_', '')}", "Beyond Section 3.1",
                 f"Gradient of a whole block in {parameter}",
                 _result(block_gradient_norm, squared_norm("X'", parameter), parameter), _EVERY_FF * inner, printed=False)


def _squared_sum() -> Derivation:
    """E C^2 after one block over C^2."""
    block = moment_map(2)
    step = ProofStep("block", "the factors of independent sublayers multiply", block.matrix[4, 4])
    return Derivation(block.matrix[4, 4], block.assumptions, sources=(Source("noci2022", "Figure 10"),),
                      steps=(*block.steps[4::5], step))


_BEYOND_CLAIMS = (
    *(_block_claim(parameter) for parameter in ("X", "W_V", "W_Q", "W_K")),
    Claim(
        "queries-second", "Beyond Lemma 3.1", "Second moment of the squared gradient norm of the queries",
        _result(gradient_norm_second_moment, squared_norm("S", "W_Q", 4), "W_Q"),
        (tau**2 * sigma_v2 * sigma_k2 * N / (n**2 * d_k)) ** 2
        * (d_o**2 * (d_k**2 * G_2**2 + 2 * d_k * G_4) + 2 * d_o * (d_k**2 * G_4 + d_k * G_2**2 + d_k * G_4)), printed=False,
    ),
    Claim(
        "keys-second", "Beyond Lemma 3.1", "Second moment of the squared gradient norm of the keys",
        _result(gradient_norm_second_moment, squared_norm("S", "W_K", 4), "W_K"),
        (tau**2 * sigma_v2 * sigma_q2 / (n**2 * d_k)) ** 2 * (d_o**2 * G_2**2 + 2 * d_o * G_4)
        * (d_k**2 * N**2 + 2 * d_k * K_2), printed=False,
    ),
    Claim(
        "tail-factor", "Beyond Figure 10", "Growth of E C^2 by one block at finite width",
        _result(_squared_sum, r"\mathbb{E}\,C(X')^2 / C(X)^2"), _C2_FACTOR, printed=False,
    ),
    Claim(
        "tail-ratio", "Beyond Figure 10", "How heavy the tail of the norm is after L blocks",
        _result(tail_ratio, r"\mathbb{E}\,C_{\depth}^2 / (\mathbb{E}\,C_{\depth})^2"),
        (_C2_FACTOR / ((1 + _V) * (1 + _G)) ** 2) ** L, printed=False,
    ),
    Claim(
        "tail-limit", "Beyond Figure 10", "The tail stays bounded in depth at alpha^2 = a/L",
        _result(tail_ratio_limit, r"\lim_{\depth \to \infty} \mathbb{E}\,C_{\depth}^2 / (\mathbb{E}\,C_{\depth})^2"),
        sp.exp(4 * (a_1 * d * sigma_v2 + a_2 * _FEED_FORWARD_GAIN) / d), printed=False,
    ),
    Claim(
        "a5-distance", "Beyond Section A.5", "Distance of the attention from uniform, small logits",
        _result(distance_to_uniform, r"\mathbb{E}\|A - P\|_F^2"), tau**2 * sigma_q2 * sigma_k2 * N * T_X / n**2, printed=False,
    ),
    Claim(
        "a5-distance-gaussian", "Beyond Section A.5", "Distance from uniform, small logits, Gaussian tokens",
        lambda: wick_result(token_average(distance_to_uniform()), r"\mathbb{E}\|A - P\|_F^2"),
        sigma_x2**2 * (1 - rho) * (n - 1) * (n * d + 2 * (1 - rho)) / (n**2 * d), domain=XAVIER, printed=False,
    ),
    Claim(
        "a5-output", "Beyond Lemma A.6", "Output norm with its first correction beyond uniform attention",
        _result(output_norm_beyond_uniform, r"\mathbb{E}\|S\|_F^2"),
        sigma_v2 * d_o * (C / n + tau**2 * sigma_q2 * sigma_k2 * N * (G_2 / n**2 + W_X / n)), printed=False,
    ),
)

CLAIMS: tuple[Claim, ...] = _MATRIX_CLAIMS + _LEMMA_CLAIMS + _TOKEN_CLAIMS + _BEYOND_CLAIMS
"""Every claim of the gradient half, in the order of the theory; nothing is derived before a claim is checked."""


_PARAMETERS = {"value": "W_V", "query": "W_Q", "key": "W_K", "input": "X", "up": "W_1", "down": "W_2"}
_WORDS = {"value": "the values", "query": "the queries", "key": "the keys", "input": "the input",
          "up": "the first feed-forward matrix", "down": "the second feed-forward matrix"}


def _spec(
    summary: str, output: str, derive: Callable[[], Derivation], defaults: Mapping[sp.Symbol, sp.Expr], name: str
) -> FunctionSpec:
    """A spec whose parameters are the symbols of its output, in the order of the registry."""
    derived = derive()
    wanted = derived.expression.free_symbols
    wanted = wanted.union(*(defaults[symbol].free_symbols for symbol in wanted if symbol in defaults))
    order = [item.symbol for item in symbols.registered() if item.symbol in wanted]
    used = {symbol: value for symbol, value in defaults.items() if symbol in wanted}
    return FunctionSpec.from_derived(name, summary, order, {output: derived}, defaults=used)


def _evaluator(
    name: str, summary: str, output: str, derive: Callable[[], Derivation], defaults: Mapping[sp.Symbol, sp.Expr]
) -> EvaluatorBuilder:
    return EvaluatorBuilder(name, partial(_spec, summary, output, derive, defaults))


def _bound() -> Derivation:
    parts = input_gradient_parts()
    bound = sp.Add(2 * parts["A_1"].expression, 2 * parts["A_2"].expression, parts["A_3"].expression)
    return replace(parts["A_3"], expression=bound)


def _norm_second_moment() -> Derivation:
    after = moment_map(2)
    return Derivation(norm_moments(symbols.L)["N^2"], after.assumptions, sources=(Source("noci2022", "Figure 10"),))


def _sum_second_moment() -> Derivation:
    block = _squared_sum()
    return replace(block, expression=block.expression**L * C**2)


_ONE = sp.S.One
_LAYER_DEFAULTS = {d_o: d, tau: _ONE, sigma_v2: 1 / d, sigma_q2: 1 / d, sigma_k2: 1 / d}
_BLOCK_DEFAULTS = {d_F: d, alpha_1: _ONE, alpha_2: _ONE, tau: _ONE, sigma_v2: 1 / d, sigma_q2: 1 / d, sigma_k2: 1 / d,
          sigma_up2: 1 / d, sigma_down2: 1 / d}
_TOKEN_DEFAULTS = {**_LAYER_DEFAULTS, d_k: d, sigma_x2: _ONE}


def _layer_evaluators(name: str) -> tuple[EvaluatorBuilder, EvaluatorBuilder]:
    """Of one attention layer, given the tokens and averaged over them."""
    parameter, word = _PARAMETERS[name], _WORDS[name]
    return (
        _evaluator(f"{name}_gradient", f"Mean squared gradient norm of one attention layer in {word}.", "gradient",
                   partial(gradient_norm, parameter), _LAYER_DEFAULTS),
        _evaluator(f"{name}_gradient_gaussian",
                   f"Mean squared gradient norm in {word}, averaged over equicorrelated Gaussian tokens.", "gradient",
                   partial(mean_gradient_norm, parameter), _TOKEN_DEFAULTS),
    )


EVALUATORS: tuple[EvaluatorBuilder, ...] = (
    *(item for name in ("value", "query", "key", "input") for item in _layer_evaluators(name)),
    *(_evaluator(f"{name}_gradient_second_moment",
                 f"Mean square of the squared gradient norm in {_WORDS[name]}, Gaussian weights.", "second_moment",
                 partial(gradient_norm_second_moment, _PARAMETERS[name]), _LAYER_DEFAULTS) for name in ("query", "key")),
    *(_evaluator(f"block_{name}_gradient", f"Mean squared gradient norm of a whole block in {_WORDS[name]}.", "gradient",
                 partial(block_gradient_norm, parameter), _BLOCK_DEFAULTS) for name, parameter in _PARAMETERS.items()),
    _evaluator("input_gradient_bound", "An upper bound on the mean squared gradient norm in the input that holds.",
               "bound", _bound, _LAYER_DEFAULTS),
    _evaluator("query_gradient_eq18", "Eq. 18 as printed: norm and correlation of the tokens taken as independent.",
               "gradient", partial(factorised_gradient_norm, "W_Q"), _TOKEN_DEFAULTS),
    _evaluator("eq18_missing_factor", "The exact token average of the query gradient over Eq. 18.", "factor",
               missing_factor, {}),
    _evaluator("matching_temperature", "Inverse temperature at which query and value gradients have equal mean square.",
               "tau_star", lambda: _root(matching_temperature()), _TOKEN_DEFAULTS),
    _evaluator("matching_temperature_eq18", "The same temperature from Eqs. 17 and 18 as printed.", "tau_star",
               lambda: _root(matching_temperature(factorised=True)), _TOKEN_DEFAULTS),
    _evaluator("norm_second_moment", "Mean of N^2 after L blocks at finite width, given the invariants of the input.",
               "second_moment", _norm_second_moment, _BLOCK_DEFAULTS),
    _evaluator("sum_second_moment", "Mean of C^2 after L blocks at finite width.", "second_moment", _sum_second_moment,
               _BLOCK_DEFAULTS),
    _evaluator("tail_ratio", "E C^2/(E C)^2 after L blocks: how heavy the tail of the norm is.", "ratio",
               lambda: _from_one(tail_ratio()), _BLOCK_DEFAULTS),
    _evaluator("tail_ratio_limit", "The limit of tail_ratio in depth at alpha^2 = a/L.", "ratio", tail_ratio_limit,
               {**_BLOCK_DEFAULTS, a_1: _ONE, a_2: _ONE}),
    _evaluator("distance_to_uniform", "Mean squared distance of the attention from uniform, small logits.", "distance",
               distance_to_uniform, _LAYER_DEFAULTS),
    _evaluator("distance_to_uniform_gaussian", "The same, averaged over equicorrelated Gaussian tokens.", "distance",
               lambda: token_average(distance_to_uniform()), _TOKEN_DEFAULTS),
    _evaluator("output_norm_beyond_uniform", "Mean squared norm of the output with its first correction beyond uniform.",
               "norm", output_norm_beyond_uniform, _LAYER_DEFAULTS),
    _evaluator("output_norm_beyond_uniform_gaussian", "The same, averaged over equicorrelated Gaussian tokens.", "norm",
               lambda: token_average(output_norm_beyond_uniform()), _TOKEN_DEFAULTS),
)
"""The functions to generate for this half, each derived when it is first asked for."""


def _from_one(power: Derivation) -> Derivation:
    """The same with the distance of its base from one written out, which keeps its digits at any depth."""
    base, exponent = power.expression.as_base_exp()
    return replace(power, expression=(1 + factored(base - 1)) ** exponent)


def _root(squared: Derivation) -> Derivation:
    return replace(squared, expression=sp.sqrt(squared.expression))


__all__ = ["CLAIMS", "EVALUATORS", "SLIPS", "study"]
