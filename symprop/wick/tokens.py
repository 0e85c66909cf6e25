"""Averages of the gradient norms over random tokens (Noci et al. 2022, Sections 3.3, 3.4 and A.2).

The tokens X are Gaussian with iid columns: equicorrelated by default, with covariance
sigma_x2 [(1 - rho) I + rho 1 1^T] over the tokens, or of any row covariance ``Gaussian(row_covariance=Sigma)``. Weights
and tokens are independent.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import sympy as sp

from symprop.core import symbols
from symprop.core.errors import RefusedError
from symprop.core.expression import factored
from symprop.core.proof import ProofStep, about
from symprop.core.provenance import Assumption, Source, merge_unique, neglected_order
from symprop.wick.attention import AttentionLayer, gradient_norm
from symprop.wick.distributions import Equicorrelated, Gaussian, Law
from symprop.wick.invariants import W_X
from symprop.wick.isserlis import expectation
from symprop.wick.matrices import SymmetricMatrix, UnitVector, centring, ones, trace
from symprop.wick.steps import Derivation, squared_norm

EQUICORRELATED = Equicorrelated(symbols.sigma_x2, symbols.rho)
"""The token model of Section 3.3: variance sigma_x2, correlation rho."""

INDEPENDENT_FACTORS = Assumption(
    "norm and correlation independent", "products of invariants of the tokens are averaged factor by factor"
)


def token_average(
    quantity: Derivation | sp.Expr, law: Law = EQUICORRELATED, layer: AttentionLayer | None = None
) -> Derivation:
    """The expectation of a polynomial in the invariants of the tokens over the law of the tokens.

    ``quantity`` is a result of :mod:`symprop.wick.attention`, whose proof and assumptions are kept, or an expression in
    invariants and traces of ``layer.X``. Raises :class:`RefusedError` for what is not a polynomial in the tokens.

    >>> from symprop.wick.invariants import G_2
    >>> token_average(G_2).expression
    d*sigma_x2**2*(d + n)*(n - 1)*(rho - 1)**2
    """
    layer = layer or AttentionLayer()
    start = quantity if isinstance(quantity, Derivation) else Derivation(sp.sympify(quantity))
    expression = start.expression
    if isinstance(law, Equicorrelated) or (isinstance(law, Gaussian) and law.row_covariance is None):
        expression = expression.xreplace({W_X: _exchangeable_W(layer)})
    traces = layer.invariants.traces(expression)
    mean = expectation(traces, {layer.X: law})
    expression = mean.expression if mean.expression.has(sp.MatrixExpr) else _compact(mean.expression)
    return Derivation(
        expression,
        merge_unique(start.assumptions, mean.assumptions),
        neglected_order(start.neglected, mean.neglected),
        start.sources,
        start.tags,
        (*start.steps, *mean.steps),
        start.setup,
        start.quantity if start.quantity is not None else quantity,
        mean.expression,
    )


def _exchangeable_W(layer: AttentionLayer) -> sp.Expr:
    """The sum over tokens in W as n times its first summand, for tokens of exchangeable law."""
    first, one, Pi = UnitVector(layer.n, 0), ones(layer.n), centring(layer.n)
    K = (layer.X, layer.X.T)
    return trace(sp.MatMul(first.T, Pi, *K, one)) * trace(sp.MatMul(first.T, Pi, *K, Pi, first))


def _compact(expression: sp.Expr) -> sp.Expr:
    """The shorter of the factored form and the sum of factored terms of equal scaling in tau and the variances."""
    whole = factored(expression)
    if not whole.has(sp.Add):
        return whole
    scales = sorted((s for s in whole.free_symbols if s.name == "tau" or s.name.startswith("sigma")), key=str)
    groups: dict[sp.Expr, list[sp.Expr]] = {}
    for term in sp.Add.make_args(sp.expand(expression)):
        rest, scale = term.as_independent(*scales, as_Add=False)
        groups.setdefault(scale, []).append(rest)
    parts = sp.Add(*(factored(sp.Add(*rests)) * scale for scale, rests in groups.items()))
    return min((whole, parts), key=sp.count_ops)


@lru_cache(maxsize=64)
def mean_gradient_norm(
    parameter: str, law: Law = EQUICORRELATED, layer: AttentionLayer | None = None
) -> Derivation:
    """E ||dS/d(parameter)||_F^2 over weights and tokens: Eq 17 for W_V; for W_Q the exact value behind Eq 18.

    >>> mean_gradient_norm("W_V").expression
    d*d_o*sigma_x2*(n*rho - rho + 1)
    """
    mean = token_average(gradient_norm(parameter, layer), law, layer)
    where = {"W_V": "Eq. 17", "W_Q": "Eq. 18", "W_K": "Eq. 18"}.get(parameter, "Section 3.3")
    return replace(mean, sources=(*mean.sources, Source("noci2022", where)))


def factorised_gradient_norm(
    parameter: str, law: Law = EQUICORRELATED, layer: AttentionLayer | None = None
) -> Derivation:
    """The average of the gradient norm with norm and correlation taken as independent: what Eq 18 states for W_Q.

    Every invariant of the tokens is replaced by its own mean. The assumption is false; :func:`missing_factor` is the
    exact ratio.
    """
    layer = layer or AttentionLayer()
    start = gradient_norm(parameter, layer)
    names = sorted(start.expression.free_symbols & set(layer.invariants.definitions), key=str)
    means = {name: token_average(name, law, layer) for name in names}
    put = start.expression.xreplace({name: mean.expression for name, mean in means.items()})
    expression = put if put.has(sp.MatrixExpr) else factored(put)
    step = ProofStep("independence", "each invariant is replaced by its mean, although they are correlated", expression,
                     relation=r"\approx")
    assumptions = merge_unique(start.assumptions, (INDEPENDENT_FACTORS,), *(m.assumptions for m in means.values()))
    return Derivation(expression, assumptions, "Cov(N, ||G||^2)", start.sources, start.tags, (*start.steps, step),
                      start.setup, start.quantity, put)


def missing_factor(
    parameter: str = "W_Q", law: Law = EQUICORRELATED, layer: AttentionLayer | None = None
) -> Derivation:
    """The exact token average over the factorised one: for the queries, what Eq 18 misses.

    >>> sp.expand(missing_factor().expression)
    1 - 4*rho/(d*n) + 4/(d*n)
    """
    exact = mean_gradient_norm(parameter, law, layer)
    factors = factorised_gradient_norm(parameter, law, layer)
    ratio = factored(exact.expression / factors.expression)
    steps = (
        *about(squared_norm("S", parameter), exact.steps), replace(factors.steps[-1], quantity=r"\text{Eq. 18}", relation="="),
        ProofStep("ratio", "exact average over the average of factors", ratio),
    )  # fmt: skip
    return replace(exact, expression=ratio, steps=steps, traces=ratio)


def matching_temperature(
    law: Law = EQUICORRELATED, layer: AttentionLayer | None = None, *, factorised: bool = False
) -> Derivation:
    """The square tau_*^2 of the inverse temperature at which query and value gradients have equal mean square norm.

    E ||dS/dW_Q||^2 is proportional to tau^2 and E ||dS/dW_V||^2 does not depend on tau (Eqs 19 and 45). With
    ``factorised`` the query gradient is the one of Eq 18, :func:`factorised_gradient_norm`. Raises
    :class:`RefusedError` where the query gradient vanishes identically (one token, rho = 1).
    """
    layer = replace(layer or AttentionLayer(), tau=symbols.tau)
    values = mean_gradient_norm("W_V", law, layer)
    queries = (factorised_gradient_norm if factorised else mean_gradient_norm)("W_Q", law, layer)
    slope = factored(queries.expression / symbols.tau**2)
    if slope == 0:
        raise RefusedError("matching_temperature", "the query gradient is zero for every temperature",
                           "use more than one token and rho < 1")
    # Collected, 1 + rho (n - 1) keeps its sign in floating point where it vanishes.
    squared = factored(values.expression / slope).replace(
        lambda part: part.is_Add and part.has(symbols.rho), lambda part: sp.collect(part, symbols.rho)
    )
    steps = (
        *about(squared_norm("S", "W_Q"), queries.steps),
        ProofStep("values", "their gradient in the same way", values.expression, squared_norm("S", "W_V")),
        ProofStep("solve", "tau^2 E||dS/dW_Q||^2 at tau = 1 equals E||dS/dW_V||^2", squared),
    )
    return Derivation(
        squared,
        merge_unique(values.assumptions, queries.assumptions),
        queries.neglected,
        sources=(Source("noci2022", "Eq. 19"), Source("noci2022", "Eq. 45")),
        steps=steps,
        setup=queries.setup,
        quantity=sp.Eq(values.expression, queries.expression),
        traces=squared,
    )


def token_covariance(name: str = "Sigma", n: sp.Expr | int = symbols.n) -> SymmetricMatrix:
    """A symbolic row covariance for ``Gaussian(row_covariance=...)``."""
    return SymmetricMatrix(name, n)
