"""Noci et al. 2023, The Shaped Transformer: attention I + softmax - uniform at a temperature that grows with the width.

A layer is lambda x + beta A(x) W with A = I + softmax(scores/(tau_0 sqrt(d d_k))) - 1/n and lambda^2 + beta^2 = 1. Over a depth
proportional to the width the covariance of the tokens follows a stochastic equation. Its drift is derived here for
exchangeable tokens, and integrated. Its noise, of the same order, comes from fourth moments of the weights at finite width;
moments here are expectations at large width, so that it is not derived, and the integrated drift is the mean of q to first
order in the time L/d only.
"""

from __future__ import annotations

from functools import lru_cache

import sympy as sp
from symprop.derivations import bibliography
from symprop.derivations import noci2023_simulation as simulation
from symprop.derivations.named_blocks import X, result

from symprop.claims import Claim, PaperDerivation, Result, Status, StudyPoint
from symprop.codegen import FunctionSpec
from symprop.components import Attention, Elementwise, Linear, RMSNorm, UniformAttention
from symprop.core.expression import collected, factored
from symprop.core.provenance import Derived
from symprop.core.symbols import beta, c_s, d, d_k, depth_ratio, gap, n, q, q_0, rho, tau_0
from symprop.depth.flow import TIME, integrate_powers
from symprop.depth.local_expansion import small_scores
from symprop.functions.activation import LeakyRelu
from symprop.network import residual, sequential, trace_of
from symprop.notation import SYMPROP

SKIP = sp.sqrt(1 - beta**2)
IDENTITY = residual(Linear(d, 1 / d), beta, SKIP)
"""A layer with A = I."""
UNIT = {X.q: q, X.gap: gap}
SHAPED = tau_0 * sp.sqrt(d)
"""Temperature of shaped attention, over sqrt(d_k)."""


def scored(temperature: sp.Expr) -> Attention:
    """Softmax attention of unit gains whose scores are divided by ``temperature`` times sqrt(d_k)."""
    return Attention(d, 1 / d, d_k, 1 / d, 1 / d, temperature=1 / temperature)


@lru_cache(maxsize=4)
def centred(temperature: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """What softmax - uniform adds to second moment and gap: the mean of the weights is 1/n, so that second moments subtract."""
    plain, real = UniformAttention(d, 1 / d).forward(X), scored(temperature).forward(X)
    return factored(small_scores(real.q - plain.q)), factored(small_scores(real.gap - plain.gap))


@lru_cache(maxsize=4)
def drift(temperature: sp.Expr = SHAPED) -> tuple[sp.Expr, sp.Expr]:
    """Change of second moment and gap per unit of L/d: a layer keeps both but for its scores."""
    kept = trace_of(IDENTITY, X).expand()
    second, apart = centred(temperature)
    moved = kept.q - X.q + beta**2 * second, kept.gap - X.gap + beta**2 * apart
    return factored(d * moved[0]).subs(UNIT), factored(d * moved[1]).subs(UNIT)


def _wide(expression: sp.Expr) -> sp.Expr:
    return factored(sp.limit(expression, d, sp.oo))


def _stands() -> Derived:
    trace, layer = trace_of(IDENTITY, X), scored(tau_0)
    return Derived(sp.S.Zero, (*trace.assumptions, *layer.assumptions), "O(1/d), the noise of finite width", trace.sources)


def _drift(index: int) -> Result:
    found = drift()[index]
    name = ("q", r"\Delta")[index]
    return result(_wide(found), rf"\dot {name}", _stands(),
                  ("scores", "what a layer adds, to second order in them", found, rf"d\,({name}_{{\ell+1}} - {name}_\ell)"),
                  last=("width", "d to infinity"))


def _share() -> Result:
    second, moved = map(_wide, drift())
    found = factored(moved / q - second * gap / q**2)
    return result(found, r"\frac{d}{dt}(1 - \rho)", _stands(), ("quotient", "of gap and second moment", found))


@lru_cache(maxsize=1)
def _solution() -> sp.Expr:
    """Second moment at time L/d for tokens that keep their correlation."""
    field = _wide(drift()[0]).subs(gap, (1 - rho) * q)
    found = factored(integrate_powers(field, q, q_0).subs(TIME, depth_ratio))
    return found.replace(lambda node: node.is_Pow, lambda node: collected(node.base) ** node.exp)


def _over_depth() -> Result:
    field = _wide(drift()[0]).subs(gap, (1 - rho) * q)
    return result(_solution(), "q(t)", _stands(), ("drift", "at gap = (1 - rho) q", field, r"\dot q"),
                  last=("integrate", "over the time t = L/d"))


@lru_cache(maxsize=1)
def _explosion() -> sp.Expr:
    (time,) = sp.solve(1 / _solution() ** 2, depth_ratio)
    return factored(time)


def _finite_time() -> Result:
    return result(_explosion(), r"t^*", _stands(), ("integrate", "the drift over the time t = L/d", _solution(), "q(t)"),
                  last=("pole", "where the inverse of q vanishes"))


def _plain() -> Result:
    """Drift over a depth proportional to the width at the usual temperature sqrt(d_k)."""
    found = drift(sp.S.One)[0]
    power = sp.limit(d * sp.diff(sp.log(found), d), d, sp.oo)
    return result(power, r"d\log\dot q/d\log d", _stands(), ("scores", "at temperature one", found, r"\dot q"),
                  last=("power", "of the width, as d grows"))


@lru_cache(maxsize=1)
def _relu_drift() -> sp.Expr:
    """Change of rho by a normalised leaky ReLU of slope 1 - e on one side, over e^2 at e to zero."""
    small = sp.Dummy("e", positive=True)
    after = trace_of(sequential(Elementwise(LeakyRelu(1 - small)), RMSNorm()), X.replace(q=sp.S.One)).expand()
    return sp.limit(factored((X.gap - after.gap) / small**2), small, 0)


def _shaped_relu() -> Result:
    found = (c_s**2 * _relu_drift()).subs(X.gap, 1 - rho)
    trace = trace_of(sequential(Elementwise(LeakyRelu(0)), RMSNorm()), X)
    stands = Derived(found, trace.assumptions, "O(1/sqrt(d)), the noise of finite width", trace.sources)
    return result(found, r"\dot\rho", stands, ("slopes", "that differ by c/sqrt(d)", found))


def _stated(pair: bool) -> sp.Expr:
    """The covariance of exchangeable tokens: V has q on its diagonal and p beside it, and averages over tokens are all c."""
    p = q - gap
    c = q / n + (1 - 1 / n) * p
    entry = p if pair else q
    s1 = n * q * entry * (q - c) + n * (n - 1) * p * entry * (p - c)
    s2 = (q + (n - 1) * p) * q * (q - 2 * c + 2 * c - q)
    return beta**2 / tau_0**2 * (s1 / n**2 + 2 * s2 / (2 * n))


def _claims() -> tuple[Claim, ...]:
    theorem, relu = "covariance of shaped attention", "shaped ReLU, Li et al. 2022"
    angle = sp.sqrt(1 - rho**2) - rho * sp.acos(rho)
    strength = beta**2 / tau_0**2 * (1 - rho) ** 2 * (n - 1) / n**2
    return (
        Claim("drift", theorem, "drift of the squared norm of a token", lambda: _drift(0), _stated(False)),
        Claim("drift-gap", theorem, "drift of the gap, squared norm less inner product", lambda: _drift(1),
              _stated(False) - _stated(True)),
        Claim("drift-correlation", theorem, "the drift leaves the correlation of exchangeable tokens alone", _share, sp.S.Zero),
        Claim("norm-over-depth", theorem, "second moment at L/d = t by the drift alone", _over_depth,
              q_0 / sp.sqrt(1 - 2 * strength * q_0**2 * depth_ratio)),
        Claim("finite-time", theorem, "the drift alone reaches infinity: hence a stopping time", _finite_time,
              1 / (2 * strength * q_0**2)),
        Claim("plain-temperature", "scaling", "at temperature sqrt(d_k) the drift over a depth of L = t d is finite", _plain,
              sp.S.Zero, expected=Status.REFUTED, corrected_by="plain-temperature-power",
              note="It grows like the width: a finite limit needs the further factor sqrt(d)."),
        Claim("plain-temperature-power", "scaling", "power of the width in that drift", _plain, sp.S.One, printed=False),
        Claim("shaped-relu", relu, "drift of the correlation by a shaped ReLU", _shaped_relu,
              c_s**2 / (2 * sp.pi) * angle),
    )


def _evaluators() -> tuple[FunctionSpec, ...]:
    stands = _stands()
    shared = (n, rho, beta, tau_0)
    return (
        FunctionSpec.from_derived("norm", "Second moment of a token after a depth of t widths, by the drift alone: right to "
                                  "first order in t.", (*shared, q_0, depth_ratio),
                                  {"q": stands.with_expression(_solution(), stands.neglected)}),
        FunctionSpec.from_derived("stopping_depth", "Depth over width at which the drift alone reaches infinity.",
                                  (*shared, q_0), {"t": stands.with_expression(_explosion(), stands.neglected)}),
    )


def _study_points(seed: int, full: bool) -> list[StudyPoint]:
    def predicted(setting: simulation.Setting) -> float:
        values = {n: setting.tokens, rho: setting.rho, beta: setting.beta, tau_0: setting.temperature, q_0: 1,
                  depth_ratio: setting.depth / setting.width}
        return float(_solution().subs(values))

    return simulation.study_points(predicted, seed, full)


DERIVATION = PaperDerivation(
    paper=bibliography.NOCI2023,
    view=SYMPROP,
    values={},
    build_trace=lambda: trace_of(IDENTITY, X),
    build_claims=_claims,
    build_evaluators=(_evaluators,),
    study_points=_study_points,
    figures=simulation.figures,
    references=(bibliography.NOCI2022, bibliography.KEDIA2024, bibliography.ZHANG2019, bibliography.LI2022),
)
