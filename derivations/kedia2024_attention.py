"""What Kedia et al. 2024 say of the softmax and of attention with weights that are not uniform."""

from __future__ import annotations

import sympy as sp
from symprop.derivations.kedia2024_blocks import INCOMING, X, scored_attention

from symprop.claims import Claim, Result, Status, backward_result, forward_result
from symprop.components import Softmax
from symprop.core.expression import factored
from symprop.core.proof import ProofStep
from symprop.core.signal import Gradient
from symprop.core.symbols import P, d, d_k, n, omega, r, r_g, s2, sigma2, sigma_k2, sigma_q2, sigma_v2
from symprop.functions import ExpMinusOne
from symprop.functions.softmax_layer import small_scores
from symprop.functions.softmax_overlap import expanded
from symprop.notation import KEDIA

TABLE = "component table, softmax"
ATTENTION = "component table, single-head attention"


def _large_length(exact: Result) -> Result:
    """A moment of the weights, of order n^-2, up to its first correction in 1/n."""
    x = sp.Dummy("x", positive=True)
    grown = expanded(exact.expression, 1).replace(ExpMinusOne, lambda exponent: sp.exp(sp.factor(exponent)) - 1)
    series = sp.expand(grown.subs(n, 1 / x) / x**2, power_exp=False)
    shown = sp.Add(*(sp.factor_terms(series.coeff(x, k)) / n ** (2 + k) for k in (0, 1)))
    step = ProofStep("expand", "the moments of the weights, up to the first correction in 1/n", shown, relation=r"\approx")
    return Result(shown, exact.quantity, (*exact.steps, step), assumptions=exact.assumptions,
                  neglected="O(1/n^4)", sources=exact.sources)


def _small_scores(exact: Result) -> Result:
    """Attention up to the first order in the scores and in 1/n, for infinitely wide tokens and keys of unit variance."""
    gain = d * sigma_v2
    x = sp.Dummy("x", positive=True)
    expression = small_scores(exact.expression).subs({sigma_q2: omega / d, sigma_k2: 1 / d, sigma2: 1}) / gain
    shown = sp.S.Zero
    for order in (0, 1):
        coefficient = sp.cancel(sp.diff(expression, omega, order).subs(omega, 0))
        wide = sp.cancel(sp.limit(sp.limit(coefficient, d_k, sp.oo), d, sp.oo).subs(n, 1 / x))
        shown += omega**order * factored(sp.series(wide, x, 0, 2).removeO().subs(x, 1 / n))
    step = ProofStep("expand", "infinitely wide tokens and keys, unit variance, first order in the scores", gain * shown)
    return Result(gain * shown, exact.quantity, (step,), assumptions=exact.assumptions,
                  neglected="O(omega^2 + 1/n^2 + 1/d + 1/d_k)", sources=exact.sources)


def attention_claims() -> tuple[Claim, ...]:
    gain, scored = d * sigma_v2, scored_attention()
    variance = sp.exp((1 - r) * sigma2)
    square = variance**2
    chi = variance * (1 - (2 * (square - 1) - 3 * (variance - 1)) / n)
    kept, kept_noise = 1 / (1 - P), (1 - r + r * P) / (1 - P)
    uniform = gain * s2 * (kept / n + (1 - 1 / n) * r_g)

    def softmax_variance() -> Result:
        return _large_length(forward_result(Softmax(), KEDIA, "sigma2", X))

    def softmax_gradient() -> Result:
        return _large_length(backward_result(Softmax(), KEDIA, X, Gradient(s2, s2)))

    def forward() -> Result:
        return _small_scores(forward_result(scored, KEDIA, "sigma2", X))

    def gradient(pair: bool = False) -> Result:
        return _small_scores(backward_result(scored, KEDIA, X, INCOMING, pair=pair))

    many = "O(1/L) is left out: up to 6% at sigma = 1, r = 0 and L = 300."
    return (
        Claim("softmax-mean", TABLE, "mean of the weights", lambda: forward_result(Softmax(), KEDIA, "mu", X), 1 / n),
        Claim("softmax-variance", TABLE, "variance of the weights", softmax_variance,
              (variance - 1) / n**2, expected=Status.REFUTED, corrected_by="softmax-variance-finite", note=many),
        Claim("softmax-variance-finite", TABLE, "variance of the weights with the first correction in the length",
              softmax_variance, (chi - 1) / n**2, printed=False),
        Claim("softmax-gradient", TABLE, "independent gradients through the softmax", softmax_gradient,
              s2 * variance / n**2, expected=Status.REFUTED, corrected_by="softmax-gradient-finite", note=many),
        Claim("softmax-gradient-finite", TABLE, "gradient through the softmax with the first correction in the length",
              softmax_gradient,
              s2 / n**2 * (chi + (square - 2 * variance**3) / n), printed=False),
        Claim("sha-variance", ATTENTION, "variance after attention, first order in the scores", forward,
              gain * (r * (1 + P * kept / n) + (1 - r) * kept / n + omega * (1 - r) * (r * P + 1 - r) * kept / n)),
        Claim("sha-gradient", ATTENTION, "gradient through attention", gradient, uniform, expected=Status.REFUTED,
              corrected_by="sha-gradient-finite",
              note="The path through the values at uniform weights. The weights that are not uniform and the paths through "
              "queries and keys are missing: at r = r_g = 0, L = 1000 and omega = 0.36 more than half of the gradient."),
        Claim("sha-gradient-finite", ATTENTION, "gradient through attention, first order in the scores", gradient,
              uniform + gain * s2 * omega * ((1 - r) * kept / n + (2 - r) * kept_noise / n
                                             + r * (1 - r) * r_g * (2 - 4 / n)), printed=False),
        Claim("sha-gradient-pair", ATTENTION, "gradient covariance through attention", lambda: gradient(True),
              gain * s2 * (1 + (n - 1) * r_g) / n, expected=Status.REFUTED, corrected_by="sha-gradient-pair-finite",
              note="Holds at uniform weights."),
        Claim("sha-gradient-pair-finite", ATTENTION, "gradient covariance through attention, first order in the scores",
              lambda: gradient(True), gain * s2 * ((1 + (n - 1) * r_g) / n + omega * r_g * (1 - r) * (1 - 3 * r) / n),
              printed=False),
    )
