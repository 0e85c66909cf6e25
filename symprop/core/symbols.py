"""Every symbol once: its name, assumptions, LaTeX, meaning and range.

``Symbol('L') != Symbol('L', positive=True)`` in SymPy, so nothing outside this module creates a named parameter:
ask :func:`symbol` for one of these, or :func:`declare` a new one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import sympy as sp

from symprop.core.errors import InputError, UnknownNameError


@dataclass(frozen=True)
class Domain:
    """The allowed values of a parameter: an interval, whose bounds may depend on other parameters.

    ``least`` is the lowest that a lower bound gets: it holds where those parameters are unknown or the bound is infinite.
    """

    lower: sp.Expr | None = None
    upper: sp.Expr | None = None
    integer: bool = False
    open_lower: bool = False
    least: sp.Expr | None = None

    def bounds(self, others: Mapping[sp.Symbol, object] | None = None) -> tuple[float | None, float | None]:
        """The bounds where ``others`` have their values, without them those that always hold; None where there is none.

        >>> info("rho").domain.bounds(), info("rho").domain.bounds({symbol("n"): 5})
        ((-1.0, 1.0), (-0.25, 1.0))
        """
        lower = self._bound(self.lower, others)
        return self._bound(self.least, others) if lower is None else lower, self._bound(self.upper, others)

    def __str__(self) -> str:
        kind = "an integer" if self.integer else "a number"
        if self.lower is not None and self.upper is not None:
            return f"{kind} in {'(' if self.open_lower else '['}{self.lower}, {self.upper}]"
        if self.lower is not None:
            return f"{kind} {'>' if self.open_lower else '>='} {self.lower}"
        return f"{kind}" if self.upper is None else f"{kind} <= {self.upper}"

    def contains(self, value: float | int | sp.Expr, others: Mapping[sp.Symbol, object] | None = None) -> bool:
        """Whether ``value`` lies inside; bounds that depend on other parameters use ``others``.

        >>> Domain(lower=sp.Integer(1), integer=True).contains(2.5)
        False
        >>> Domain().contains(1 + sp.I)
        False
        """
        number = _double(value)
        if not math.isfinite(number) or (self.integer and number != math.floor(number)):
            return False
        lower, upper = self.bounds(others)
        if lower is not None and (number < lower or (self.open_lower and number == lower)):
            return False
        return upper is None or number <= upper

    @staticmethod
    def _bound(bound: sp.Expr | None, others: Mapping[sp.Symbol, object] | None) -> float | None:
        if bound is None:
            return None
        if bound.is_Number:
            return float(bound) if bound.is_finite else None
        known = others or {}
        return _at(bound, tuple((symbol, known[symbol]) for symbol in bound.free_symbols if symbol in known))


def _double(value: float | int | sp.Expr) -> float:
    """The nearest double, infinite beyond the largest and nan for a complex number."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except TypeError:
        return math.nan


@lru_cache(maxsize=4096)
def _at(bound: sp.Expr, values: tuple[tuple[sp.Symbol, object], ...]) -> float | None:
    """A bound where parameters have values; None where it is infinite or depends on others."""
    found = bound.xreplace({symbol: sp.sympify(value) for symbol, value in values})
    return None if found.free_symbols or not found.is_finite else float(found)


@dataclass(frozen=True)
class SymbolInfo:
    """A registered parameter."""

    symbol: sp.Symbol
    latex: str
    meaning: str
    domain: Domain


_REGISTRY: dict[str, SymbolInfo] = {}


def declare(
    name: str,
    latex: str,
    meaning: str,
    *,
    lower: sp.Expr | int | None = None,
    upper: sp.Expr | int | None = None,
    integer: bool = False,
    open_lower: bool = False,
    least: sp.Expr | int | None = None,
) -> sp.Symbol:
    """Register a parameter and return its symbol; declaring the same name again must repeat the same facts.

    Sign assumptions follow from the range: ``lower >= 0`` makes the symbol nonnegative, an integer from 1 or an open
    lower bound 0 makes it positive.
    """
    low = None if lower is None else sp.sympify(lower)
    high = None if upper is None else sp.sympify(upper)
    floor = None if least is None else sp.sympify(least)
    assumptions: dict[str, bool] = {"integer": True} if integer else {"real": True}
    if low is not None and low.is_number:
        if low > 0 or (low == 0 and open_lower):
            assumptions["positive"] = True
        elif low == 0:
            assumptions["nonnegative"] = True
    info = SymbolInfo(sp.Symbol(name, **assumptions), latex, meaning, Domain(low, high, integer, open_lower, floor))
    known = _REGISTRY.get(name)
    if known is not None and known != info:
        raise InputError("symbol", name, f"the facts it was first declared with ({known.meaning}, {known.domain})")
    _REGISTRY[name] = info
    return info.symbol


def symbol(name: str) -> sp.Symbol:
    """The registered symbol of that name.

    >>> symbol("L").is_integer
    True
    """
    return info(name).symbol


def info(name: str | sp.Symbol) -> SymbolInfo:
    """What is registered about a symbol.

    >>> info("n").meaning
    'number of tokens'
    """
    key = str(name)
    if key not in _REGISTRY:
        raise UnknownNameError("symbol", key, sorted(_REGISTRY))
    return _REGISTRY[key]


def is_registered(name: str | sp.Basic) -> bool:
    """Whether a symbol of that name is registered; an expression that is no symbol is not."""
    return (isinstance(name, str) or name.is_Symbol) and str(name) in _REGISTRY


def registered() -> tuple[SymbolInfo, ...]:
    """All registered parameters, in order of declaration."""
    return tuple(_REGISTRY.values())


def check_values(values: Mapping[sp.Symbol, float | int]) -> None:
    """Raise :class:`InputError` for the first value outside its parameter's range."""
    for key, value in values.items():
        if is_registered(key) and not info(key).domain.contains(value, values):
            beyond = " that a double holds" if math.isinf(_double(value)) else ""
            raise InputError(str(key), value, f"{info(key).domain}{beyond}")


n = declare("n", "n", "number of tokens", lower=1, integer=True)
d = declare("d", "d", "width of the residual stream", lower=1, integer=True)
d_k = declare("d_k", "d_k", "width of queries and keys", lower=1, integer=True)
d_o = declare("d_o", "d_o", "output width of the value layer", lower=1, integer=True)
d_F = declare("d_F", "d_F", "hidden width of the feed-forward layer", lower=1, integer=True)
gamma = declare("gamma", r"\gamma", "feed-forward expansion d_F/d", lower=0, open_lower=True)
L = declare("L", "L", "depth: number of blocks", lower=1, integer=True)
layer = declare("layer", r"\ell", "index of a block", lower=0, integer=True)
alpha_1 = declare("alpha_1", r"\alpha_1", "residual weight of the attention branch")
alpha_2 = declare("alpha_2", r"\alpha_2", "residual weight of the feed-forward branch")
a_1 = declare("a_1", r"\tilde{\alpha}_1", "depth-scaled attention weight: alpha_1^2 = a_1/L", lower=0)
a_2 = declare("a_2", r"\tilde{\alpha}_2", "depth-scaled feed-forward weight: alpha_2^2 = a_2/L", lower=0)
sigma_v2 = declare("sigma_v2", r"\sigma_v^2", "variance of the value weights", lower=0)
sigma_q2 = declare("sigma_q2", r"\sigma_q^2", "variance of the query weights", lower=0)
sigma_k2 = declare("sigma_k2", r"\sigma_k^2", "variance of the key weights", lower=0)
sigma_up2 = declare("sigma_up2", r"\sigma_{F_1}^2", "variance of the first feed-forward weights", lower=0)
sigma_down2 = declare("sigma_down2", r"\sigma_{F_2}^2", "variance of the second feed-forward weights", lower=0)
sigma_x2 = declare("sigma_x2", r"\sigma_x^2", "variance of a token coordinate", lower=0)
tau = declare("tau", r"\tau", "inverse temperature of the softmax", lower=0)
q = declare("q", "q", "second moment of a coordinate, E x^2", lower=0)
gap = declare("gap", r"\Delta", "E x_t^2 - E x_t x_s for two tokens t, s", lower=0)
rho = declare("rho", r"\rho", "token correlation p/q", lower=-1 / (n - 1), upper=1, least=-1)
N = declare("N", r"\|X\|_F^2", "squared norm of the given tokens, sum_k |X_k|^2", lower=0)
C = declare("C", "C(X)", "sum of the inner products of all pairs of given tokens, n^2 |mean token|^2", lower=0, upper=n * N)
K_ij = declare("K_ij", r"\langle X_k, X_{k'} \rangle", "inner product of two given tokens")
K_ii = declare("K_ii", r"\|X_k\|^2", "squared norm of a given token", lower=0)
K_jj = declare("K_jj", r"\|X_{k'}\|^2", "squared norm of another given token", lower=0)
sigma_w2 = declare("sigma_w2", r"\sigma^2", "variance of the weights of a linear layer", lower=0)
A_ij = declare("A_ij", r"\mathbb{E}[A_{ij} A_{i'j}]", "second moment of two entries of a branch in one column")
B_ij = declare("B_ij", r"\mathbb{E}[B_{ij} B_{i'j}]", "second moment of two entries of a stream in one column")
mu = declare("mu", r"\mu", "mean of a coordinate")
sigma2 = declare("sigma2", r"\sigma^2", "variance of a coordinate", lower=0)
r = declare("r", "r", "centred correlation of two tokens", lower=-1, upper=1)
s2 = declare("s2", r"s^2", "second moment of a coordinate of the gradient", lower=0, open_lower=True)
r_g = declare("r_g", "r_g", "correlation of the gradients of two tokens", lower=-1, upper=1)
sigma_o2 = declare("sigma_o2", r"\sigma_o^2", "variance of the weights of the attention's output layer", lower=0)
lam = declare("lam", r"\lambda", "scale of the skip connection", lower=0)
beta = declare("beta", r"\beta", "scale of a residual branch", lower=0)
kappa = declare("kappa", "k", "strength of residual scaling: beta^2 = k/N^alpha", lower=0)
alpha = declare("alpha", r"\alpha", "exponent of residual scaling: beta^2 = k/N^alpha", lower=0, open_lower=True)
q_0 = declare("q_0", "q_0", "second moment of a coordinate that enters the first block", lower=0, open_lower=True)
a_q = declare("a_q", "a", "second moment that a block adds to the stream", lower=0, open_lower=True)
c_g = declare("c_g", "c", "gradient gain of a block's branch, for an input of unit second moment", lower=0)
P = declare("P", "p", "dropout probability", lower=0, upper=1)
sigma_t2 = declare("sigma_t2", r"\sigma_t^2", "variance of the token embeddings", lower=0)
sigma_p2 = declare("sigma_p2", r"\sigma_p^2", "variance of the position embeddings", lower=0)
sigma_s2 = declare("sigma_s2", r"\sigma_s^2", "variance of the segment embeddings", lower=0)
V = declare("V", "V", "vocabulary size", lower=1, integer=True)
zipf = declare("zipf", "s", "exponent of Zipf's law", lower=0)
C_rep = declare("C_rep", r"C_{\mathrm{rep}}", "probability that two tokens are the same word", lower=0, upper=1)
omega = declare("omega", r"\omega", "product of the query and key gains, d^2 sigma_q^2 sigma_k^2", lower=0)
alpha_t = declare("alpha_t", r"\alpha_t", "slope at the origin of a dynamic tanh")
gain2 = declare("gain2", r"\mathbb{E}[g^2]", "second moment of the gain of a norm", lower=0)
eps = declare("eps", r"\epsilon", "constant added to a token's variance in a norm", lower=0)
A = declare("A", "A", "squared weight of the attention branch; that of its skip is 1 - A", lower=0, upper=1)
M = declare("M", "M", "squared weight of the feed-forward branch; that of its skip is 1 - M", lower=0, upper=1)
m_f = declare("m", "m", "second moment of the feed-forward branch for unit input", lower=0)
chi = declare("chi", r"\chi", "slope of the gap through the feed-forward branch at collapse, for unit input", lower=0)
sigma_w = declare("sigma_w", r"\sigma_w", "scale of the first feed-forward weights: their variance is sigma_w^2 over fan-in",
                  lower=0)
sigma_b2 = declare("sigma_b2", r"\sigma_b^2", "variance of a bias", lower=0)
beta_a = declare("beta_a", r"\beta", "inverse temperature: scores of unit tokens have variance beta^2 log n", lower=0)
alpha_sa = declare("alpha_sa", r"\alpha_{\mathrm{SA}}", "strength of the skip around attention", lower=0)
alpha_mlp = declare("alpha_mlp", r"\alpha_{\mathrm{MLP}}", "strength of the skip around the feed-forward branch", lower=0)
gain_v = declare("gain_v", r"\sigma_v^2", "gain of the value weights: their variance times fan-in", lower=0)
gain_w = declare("gain_w", r"\sigma_w^2", "gain of the feed-forward weights: their variance times fan-in", lower=0)
rho_T = declare("rho_T", r"\rho_T", "largest token correlation wanted after L blocks", lower=0, upper=1)
heads = declare("H", "H", "number of attention heads", lower=1, integer=True)
L_d = declare("L_d", "L_d", "depth of a decoder: number of blocks", lower=1, integer=True)
c_2 = declare("c_2", "c_2", "sigma_w^4 times the mean square of the activation's second derivative, for unit input", lower=0)
c_s = declare("c_s", "c", "difference of the two slopes of a shaped ReLU, times the square root of the width", lower=0)
tau_0 = declare("tau_0", r"\tau_0", "temperature of shaped attention, over the square root of d d_k", lower=0, open_lower=True)
depth_ratio = declare("depth_ratio", "t", "depth over width, L/d", lower=0)
delta_0 = declare("delta_0", r"\delta_0", "1 - rho of two tokens at the start", lower=0, open_lower=True)
delta = declare("delta", r"\delta", "1 - rho of two tokens", lower=0, open_lower=True)
Y_row = declare("Y_row", "Y", "participation of a row: expected sum of its squared weights", lower=0, upper=1, open_lower=True)
a_row = declare("a_row", "a", "variance of a row's scores about what they share", lower=0, open_lower=True)
