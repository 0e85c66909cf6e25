"""Dong et al. 2021, Attention is not all you need: pure attention loses rank doubly exponentially with depth.

The residual of the tokens is what is left of them without their mean; its mean square is (1 - 1/n) of the gap. The paper
bounds it in the norm sqrt(|.|_1 |.|_inf), here it is derived in mean square: powers agree, constants are those of Gaussian
weights.
"""

from __future__ import annotations

from functools import lru_cache

import sympy as sp
from symprop.derivations import bibliography
from symprop.derivations import dong2021_simulation as simulation
from symprop.derivations import named_blocks as blocks
from symprop.derivations.named_blocks import ATTENTION, SCORED, X, feed_forward, result

from symprop.claims import Claim, PaperDerivation, Result, Status, StudyPoint
from symprop.codegen import FunctionSpec
from symprop.components import Attention, UniformAttention
from symprop.core.provenance import Derived
from symprop.core.symbols import L, chi, d, d_k, declare, gain_v, gap, layer, n, sigma_k2, sigma_q2
from symprop.depth.collapse import collapse
from symprop.depth.local_expansion import LocalExpansion, expand_at_collapse
from symprop.depth.phase import odds_law
from symprop.depth.rate import SHARE, RateLaw, rate_law
from symprop.functions.generic_activation import SlopeMoment
from symprop.network import residual, sequential, trace_of
from symprop.notation import SYMPROP

STRENGTH = r"\Delta'/\Delta^3"
K = declare("k_layer", "k", "what one layer multiplies the cube of the gap by", lower=0, open_lower=True)
"""What one layer multiplies the cube of the gap by: the square of the paper's 4 beta/sqrt(d_qk)."""


@lru_cache(maxsize=2)
def near_collapse(*, mixed: bool = False) -> LocalExpansion:
    """One layer of attention near collapse, with a feed-forward layer behind it where ``mixed``."""
    return expand_at_collapse(trace_of(sequential(SCORED, feed_forward()) if mixed else SCORED, X))


@lru_cache(maxsize=1)
def law() -> RateLaw:
    """Attention that keeps the second moment, over depth."""
    return rate_law(trace_of(Attention(d, 1 / d, d_k, sigma_q2, sigma_k2), X))


def _stands() -> Derived:
    trace = near_collapse().trace
    return Derived(sp.S.Zero, trace.assumptions, "the sixth power of the residual in a layer", trace.sources)


def _strength(*, mixed: bool = False) -> Result:
    coefficient, order = near_collapse(mixed=mixed).leading
    return result(coefficient, STRENGTH, _stands(), ("expand", f"leading power {order} of the gap", coefficient))


def _order(*, mixed: bool = False) -> Result:
    """The power of the residual: that of the gap, as both are squares."""
    coefficient, order = near_collapse(mixed=mixed).leading
    leading = coefficient * gap**order
    return result(order, r"d\log\Delta'/d\log\Delta", _stands(),
                  ("expand", "leading term of the gap", leading, r"\Delta'"), last=("power", "of the gap"))


def _over_depth() -> Result:
    """Gap after L layers, from the gap and the strength k of a layer."""
    others = sp.Dummy("others", positive=True)
    share, strength = (item.subs({X.q: 1, layer: L, SHARE: gap, gain_v: 1, n: 1 + others})
                       for item in (law().share, near_collapse().leading[0]))
    found = sp.powsimp(sp.powdenest(share.subs(sigma_q2, K / (strength / sigma_q2)), force=True), force=True)
    return result(found, r"\Delta_{\depth}", law().provenance, ("unroll", "gap' = k gap^3 over depth", found))


def _wide() -> Result:
    coefficient, _ = near_collapse().leading
    gains = {sigma_q2: 1 / d, sigma_k2: 1 / d}
    found = sp.limit(coefficient.subs(gains), d, sp.oo)
    return result(found, rf"\lim_{{d \to \infty}} {STRENGTH}", _stands(),
                  ("expand", "unit gains of queries and keys", coefficient.subs(gains), STRENGTH),
                  last=("width", "d to infinity"))


def _skip_gap() -> Result:
    found = collapse(trace_of(residual(ATTENTION), X))
    return result(found.slope, r"\Delta'/\Delta", found.provenance, ("chain rule", "skip and attention", found.slope))


def _skip_share() -> Result:
    found = odds_law(trace_of(residual(UniformAttention(d, gain_v / d)), X))
    trace = trace_of(residual(ATTENTION), X)
    stands = Derived(found.factor, trace.assumptions, trace.neglected, trace.sources)
    return result(found.factor**L, r"o_{\depth}/o_0", stands,
                  ("odds", "what tokens share over what they do not", found.factor, r"o_{\ell+1}/o_\ell"),
                  last=("unroll", "every layer multiplies by the same"))


def _claims() -> tuple[Claim, ...]:
    pure, path, mlp = "pure attention", "paths through skips", "feed-forward layers"
    return (
        Claim("cubic", pure, "one layer takes the residual to its cube", _order, sp.Integer(3)),
        Claim("strength", pure, "what it multiplies the cube of the gap by", _strength,
              gain_v * d**2 * sigma_q2 * sigma_k2 * (1 - 1 / n) * (1 / n + 1 / d)),
        Claim("strength-wide", pure, "the same for unit gains and wide tokens", _wide, gain_v * (n - 1) / n**2),
        Claim("doubly-exponential", pure, "the residual after L layers, squared: k^((3^L - 1)/2) gap^(3^L)", _over_depth,
              K ** ((3**L - 1) / 2) * gap ** (3**L)),
        Claim("skip-keeps", path, "with skips the residual does not shrink", _skip_gap, sp.S.One),
        Claim("skip-prevents", path, "with skips tokens do not align: odds of the overlap stay", _skip_share, sp.S.One,
              expected=Status.REFUTED, corrected_by="skip-odds",
              note="The residual stays, what tokens share grows: 1 - rho falls exponentially, no longer doubly so."),
        Claim("skip-odds", path, "with skips the odds of the overlap grow exponentially", _skip_share, (1 + gain_v) ** L,
              printed=False),
        Claim("mlp-order", mlp, "feed-forward layers do not change the cube", lambda: _order(mixed=True), sp.Integer(3)),
        Claim("mlp-strength", mlp, "they multiply it by their slope, which the squared Lipschitz constant bounds",
              lambda: _at_unit(_strength(mixed=True)),
              chi * d**2 * sigma_q2 * sigma_k2 * gain_v * (1 - 1 / n) * (1 / n + 1 / d)),
    )


def _at_unit(found: Result) -> Result:
    """The slope of the feed-forward branch at the second moment that a unit stream has behind attention."""
    put = found.expression.replace(SlopeMoment, lambda order, _: SlopeMoment(order, blocks.sigma_w**2)).subs(blocks.MOMENTS)
    return result(put, found.quantity, _stands(), ("expand", "leading term of the gap", put))


def _evaluators() -> tuple[FunctionSpec, ...]:
    stands = _stands()
    strength = near_collapse().leading[0]
    # Two logarithms times 3^L may overflow to infinities of opposite sign, their sum has one.
    logarithm = 3**L * (sp.log(gap) + sp.log(strength) / 2) - sp.log(strength) / 2
    return (
        FunctionSpec.from_derived("layer", "Gap of tokens behind one layer of attention, near collapse.",
                                  (n, d, gain_v, sigma_q2, sigma_k2, gap),
                                  {"gap": stands.with_expression(strength * gap**3, stands.neglected)}),
        FunctionSpec.from_derived("log_gap", "Logarithm of the gap after L layers of pure attention, for tokens that stay "
                                  "exchangeable.", (n, d, gain_v, sigma_q2, sigma_k2, gap, L),
                                  {"log_gap": stands.with_expression(logarithm, stands.neglected)}),
    )


def _study_points(seed: int, full: bool) -> list[StudyPoint]:
    return simulation.study_points(near_collapse().leading[0], seed, full)


DERIVATION = PaperDerivation(
    paper=bibliography.DONG2021,
    view=SYMPROP,
    values={},
    build_trace=lambda: trace_of(Attention(d, 1 / d, d_k, 1 / d, 1 / d), X),
    build_claims=_claims,
    build_evaluators=(_evaluators,),
    study_points=_study_points,
    figures=simulation.figures,
    references=(bibliography.NOCI2022, bibliography.KEDIA2024),
)
