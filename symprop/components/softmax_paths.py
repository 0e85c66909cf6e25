r"""The moments of a softmax layer at random weights: what its forward map and its three backward paths need.

One query row has scores :math:`a_{ij} = x_j \cdot u_i`, :math:`u_i = W_K W_Q^\top x_i/\sqrt{d_k}`. Given the query, u_i is
an isotropic Gaussian vector, so that the row is a softmax of :math:`\sqrt{a G_i}\, \zeta_j` with independent
:math:`\zeta_j`: normal for Gaussian tokens, cosines for tokens of fixed norm. What all keys share cancels. Finite widths enter
in three ways:

- :math:`G_i`, of mean 1, is the squared length of u_i: a product of chi-squared variables;
- two rows have the score correlation :math:`\rho = \cos(u_i, u_k)` at the common scale :math:`P = \sqrt{G_i G_k}`; both
  fluctuate, with :math:`E P \rho = r` exactly;
- the private Gram matrix of the tokens is not the identity, and the weights see it.

:math:`G` is averaged by Gauss's rule of three nodes of a Gamma law; P has the nodes of G, shrunk, so that it becomes G where
the two rows become one, and :math:`\rho` three nodes around its regression on P. All is written so that the difference of one
row and two rows is carried: it vanishes with 1 - r term by term.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache


import sympy as sp

from symprop.functions.softmax_closed import closed_form
from symprop.functions.softmax_contractions import (
    aligned_slope,
    gram_jacobian_pair,
    gram_jacobian_square,
    private_square,
    query_square,
    score_jacobian_square,
    score_mean,
    score_mean_square,
    score_variance_square,
)
from symprop.functions.softmax_interpolation import interpolation
from symprop.functions.softmax_overlap import (
    JacobianOverlap,
    Participation,
    RowGap,
    RowOverlap,
    WeightGap,
    WeightMoment,
    jacobian_square,
    jacobian_trace_square,
)

_A, _N, _D, _X = sp.symbols("a n D x", positive=True, cls=sp.Dummy)
"""Score variance, tokens, dimension of the keys, and 1 - rho of two rows."""

Formulas = Mapping[str, sp.Expr]


def gamma_rule(variance: sp.Expr) -> tuple[tuple[sp.Expr, sp.Expr], ...]:
    r"""Gauss's rule of three nodes of a Gamma law of mean 1: pairs (deviation of the node from 1, weight).

    The orthogonal polynomial of degree 3 is, in :math:`(G - 1)/\sqrt v - 2 \sqrt v`, a Chebyshev polynomial: its roots are
    cosines.

    >>> rule = gamma_rule(sp.Rational(1, 5))
    >>> [sp.N(sum(w*(1 + x)**k for x, w in rule), 12) for k in (1, 2, 3, 4)]
    [1.00000000000, 1.20000000000, 1.68000000000, 2.68800000000]
    """
    v = sp.sympify(variance)
    e = sp.sqrt(v)
    m = sp.sqrt(1 + 2 * v)
    third = sp.atan(e / sp.sqrt(1 + v)) / 3
    found = []
    for place in (sp.cos(sp.pi / 6 - third), -sp.sin(third), -sp.cos(sp.pi / 6 + third)):
        t = 2 * e + 2 * m * place
        found.append((e * t, 1 / (1 + t**2 + (t**2 - 2 * e * t - 1) ** 2 / (2 * (1 + v)))))
    return tuple(found)


_LEGENDRE = tuple((sp.Rational(1, 2) + shift * sp.sqrt(15) / 10, weight)
                  for shift, weight in ((-1, sp.Rational(5, 18)), (0, sp.Rational(4, 9)), (1, sp.Rational(5, 18))))
"""Gauss's rule of three nodes on [0, 1]."""


@dataclass(frozen=True)
class Geometry:
    r"""What the tokens and the sizes of a layer say about its scores.

    ``tokens`` n, ``dimension`` of the token space (one less after LayerNorm), ``key_width`` d_k, ``variance`` a of a score about
    what its row shares, ``deficit`` 1 - r of the tokens, ``bias`` the second moment of the query bias relative to the rest of a
    query, ``unit`` whether tokens have a fixed norm. With ``fixed`` the scale of the scores does not fluctuate (normalised queries and keys).
    """

    tokens: sp.Expr
    dimension: sp.Expr
    key_width: sp.Expr
    variance: sp.Expr
    deficit: sp.Expr
    bias: sp.Expr = sp.S.Zero
    unit: bool = False

    @property
    def rho(self) -> sp.Expr:
        """r of the tokens."""
        return 1 - self.deficit

    @property
    def query_deficit(self) -> sp.Expr:
        """1 - r of the queries, which share a bias."""
        return self.deficit / (1 + self.bias)

    @property
    def query_rho(self) -> sp.Expr:
        """r of the queries."""
        return 1 - self.query_deficit

    @property
    def key_spread(self) -> sp.Expr:
        """Half the relative variance of |u|^2 that the weights cause."""
        return 1 / self.key_width + 1 / self.dimension

    @property
    def token_spread(self) -> sp.Expr:
        """Half the relative variance of |x|^2, in units of the squared query."""
        return sp.S.Zero if self.unit else 1 / (self.dimension * (1 + self.bias) ** 2)

    @property
    def product_variance(self) -> sp.Expr:
        """Variance of the inner product of two tokens, relative to their squared norm."""
        r, shared = self.rho, 1 / self.dimension
        return self.deficit**2 * (1 + 2 * r - r**2) * shared if self.unit else (1 + r**2) * shared

    @property
    def scale_variance(self) -> sp.Expr:
        """Variance of G."""
        return (1 + 2 / self.key_width) * (1 + 2 / self.dimension) * (1 + 2 * self.token_spread) - 1

    @cached_property
    def one_row(self) -> tuple[tuple[sp.Expr, sp.Expr], ...]:
        """Nodes (G - 1, weight)."""
        return gamma_rule(self.scale_variance)

    @cached_property
    def two_rows(self) -> tuple[tuple[sp.Expr, sp.Expr, sp.Expr, sp.Expr], ...]:
        """Nodes (P, G - P, 1 - rho, weight) of two rows: E P rho is r, and all but P vanish with 1 - r."""
        r, s, u, t = self.query_rho, self.rho, self.key_spread, self.token_spread
        turn = self.query_deficit * (1 + r)
        ratio = (1 + self.bias) * (1 + s) / (1 + r)
        # To first order in u and t: variance of P, covariance with rho and variance of rho over turn and turn^2.
        scale = (1 + r**2) * u + (1 + s**2) * t
        across = r * u + s * ratio * t
        own = (1 + 2 * s - s**2) / (self.dimension * (1 + r) ** 2) if self.unit else ratio**2 * t
        rest = u + own - across**2 / scale
        lost = turn * (u + ratio * t) / 2
        narrow = sp.sqrt(scale / (2 * (u + t)))
        # The outer nodes stay inside (-1, 1); their fourth moment is 3 rest^2 up to the next order.
        reach = turn * sp.sqrt(3 * rest / (1 + 6 * rest))
        outer = (1 + 6 * rest) / 6
        found = []
        for deviation, weight in self.one_row:
            inner = 1 + narrow * deviation
            change = (1 - scale / (2 * (u + t))) / (1 + narrow) * deviation
            slope = turn * across * (1 + lost) / (narrow * self.scale_variance)
            centre = self.query_deficit + turn * across * (1 + lost) - r * lost - slope * deviation
            for step, share in ((-reach, outer), (sp.S.Zero, 1 - 2 * outer), (reach, outer)):
                found.append((inner / (1 + lost), lost * inner / (1 + lost) + change, centre + step, weight * share))
        return tuple(found)


@lru_cache(maxsize=2)
def _row_formulas(sphere: bool) -> dict[str, sp.Expr]:
    """Moments of one row, for keys on a sphere or normal ones."""
    row = (_A, _N, _D) if sphere else (_A, _N)
    own = Participation(*row)
    square = jacobian_square(*row)
    if sphere:
        formulas = {
            "mean": private_square(*row), "jacobian": gram_jacobian_square(*row), "form": gram_jacobian_pair(*row),
            "along": query_square(*row), "gap": (_N * own - 1) / (_N - 1), "size": own,
        }
    else:
        along, double = score_jacobian_square(*row), score_variance_square(*row)
        trace = jacobian_trace_square(*row)
        formulas = {
            "mean": own + (score_mean_square(*row) - own) / _D,
            "jacobian": square + (along - square) / _D,
            "form": square + (trace - square) / _D + 2 * (_D - 1) / _D**2 * along + (double - trace) / _D**2,
            "along": (double + (_D - 1) * along) / _D**2,
            "gap": WeightGap(*row),
            "size": own + (WeightMoment(((2, 2),), *row) - own) / _D,
        }
    formulas |= {"own": own, "square": square, "slope": 2 * _A * own.diff(_A)}
    return formulas | {"mean_slope": formulas["mean"].diff(_A), "own_slope": own.diff(_A)}


@lru_cache(maxsize=4)
def _pair_formulas(sphere: bool, exact: bool) -> dict[str, sp.Expr]:
    """Moments of two rows at the score gap a x; ``exact`` by the kernel of two rows, for normal keys."""
    row = (_A, _N, _D) if sphere else (_A, _N)
    rho, lines, formulas = 1 - _X, interpolation(*row), _row_formulas(sphere)
    own, own_slope = formulas["own"], formulas["own_slope"]
    cube, square = WeightMoment((3,), *row), WeightMoment((2, 2), *row)
    mean = score_mean(*row)
    first = mean**2 / (_A * (_N - 1))
    end = aligned_slope(*row)
    trace = lines.trace_product(_A * _X)
    if exact:
        row_gap, jacobian = RowGap(_A, _A * _X, _N), JacobianOverlap(_A, _A * _X, _N)
        overlap = RowOverlap(_A, _A * _X, _N)
        less = end - jacobian
    else:
        row_gap, jacobian, overlap = lines.row_gap(_A * _X), lines.jacobian(_A * _X), lines.overlap(_A * _X)
        bend = lines.slope_one * (4 - 3 * _X) - lines.slope_zero * (1 - 3 * rho) - 6 * rho * (lines.at_one - lines.at_zero)
        less = _X * own * bend + row_gap * (lines.slope_one - _X * bend)
    flat = jacobian / (1 + lines.turn * rho**2)
    # d/da of the overlap at fixed rho beyond rho times the Jacobian overlap: known at both ends and in slope at rho = 0.
    start = 2 * mean * mean.diff(_A) / (_N - 1) - first
    change = start * rho + (own_slope - end - start) * rho**2
    if sphere:
        tilt = formulas["mean"] - own
        tilt_gap = tilt * _X * (3 - 3 * _X + _X**2) - rho * mean**2 / _D * _X * (2 - _X)
        tilt_gap += _X * 2 * _A / (_N * _D) * (1 - 3 * own + 2 * cube)
        joint = jacobian + trace / _D
    else:
        slant = 4 * (cube - square)
        low, high = lines.trace
        tilt_gap = _A / _D * (_X * (trace + jacobian - slant) + (high - low) * _X * (2 - _X) + less)
        joint = jacobian * (1 + 1 / _D) + trace / _D
    return {
        "row_gap": row_gap, "token_gap": row_gap + tilt_gap, "overlap": overlap, "jacobian": jacobian, "trace": trace,
        "joint": joint, "slope": 2 * _A * (rho * flat + change),
    }


LEVELS = ("uniform", "closed_form", "exact", "reference")
"""How exactly the weight moments enter, in order of accuracy and cost."""


@lru_cache(maxsize=8)
def _formulas(level: str, sphere: bool) -> tuple[Formulas, Formulas]:
    """Formulas of one row and of two rows at a level."""
    if level == "uniform":
        at = {"square": (_N - 1) / _N**2, "trace": (1 - 1 / _N) ** 2}
        along, double = score_jacobian_square(0, _N), score_variance_square(0, _N)
        zero = sp.S.Zero
        row = {
            "mean": 1 / _N, "own": 1 / _N, "size": 1 / _N, "gap": zero, "slope": zero, "mean_slope": zero, "own_slope": zero,
            "square": at["square"], "jacobian": at["square"] + (along - at["square"]) / _D,
            "form": at["square"] + (at["trace"] - at["square"]) / _D + 2 * (_D - 1) / _D**2 * along
            + (double - at["trace"]) / _D**2,
            "along": (double + (_D - 1) * along) / _D**2,
        }
        pair = {
            "row_gap": zero, "token_gap": zero, "overlap": 1 / _N, "jacobian": at["square"], "trace": at["trace"],
            "joint": at["square"] * (1 + 1 / _D) + at["trace"] / _D, "slope": zero,
        }
        return row, pair
    row, pair = _row_formulas(sphere), _pair_formulas(sphere, level == "reference" and not sphere)
    if level == "closed_form":
        return ({key: closed_form(item) for key, item in row.items()}, {key: closed_form(item) for key, item in pair.items()})
    return row, pair


@dataclass(frozen=True)
class Averages:
    """Expectations of the formulas of a level over the scales and correlations of a geometry."""

    geometry: Geometry
    level: str = "exact"
    sphere: bool = False
    """Keys on a sphere, otherwise normal."""

    def _put(self, expression: sp.Expr, variance: sp.Expr, deficit: sp.Expr = sp.S.Zero) -> sp.Expr:
        item = self.geometry
        return expression.xreplace({_A: variance, _N: item.tokens, _D: item.dimension, _X: deficit})

    @property
    def _fluctuates(self) -> bool:
        return self.level != "uniform"

    def one(self, name: str, scaled: bool = False) -> sp.Expr:
        """E over G of a moment of one row, times G with ``scaled``."""
        formula = _formulas(self.level, self.sphere)[0][name]
        if not self._fluctuates:
            return self._put(formula, sp.S.Zero)
        a = self.geometry.variance
        return sp.Add(*(
            weight * (1 + shift if scaled else 1) * self._put(formula, a * (1 + shift)) for shift, weight in self.geometry.one_row
        ))

    def two(self, name: str, scaled: bool = False) -> sp.Expr:
        """E over P and rho of a moment of two rows, times P rho with ``scaled``."""
        formula = _formulas(self.level, self.sphere)[1][name]
        if not self._fluctuates:
            return self._put(formula, sp.S.Zero) * (self.geometry.query_rho if scaled else 1)
        a = self.geometry.variance
        return sp.Add(*(
            weight * (scale * (1 - deficit) if scaled else 1) * self._put(formula, a * scale, deficit)
            for scale, _, deficit, weight in self.geometry.two_rows
        ))

    def scale_gap(self, name: str) -> sp.Expr:
        """E over G minus E over P of a moment of one row whose derivative is ``name``, without a difference."""
        formula = _formulas(self.level, self.sphere)[0][name]
        if not self._fluctuates:
            return sp.S.Zero
        a = self.geometry.variance
        total = sp.S.Zero
        scales: dict[tuple[sp.Expr, sp.Expr], list[sp.Expr]] = {}
        for scale, wider, _, weight in self.geometry.two_rows:
            scales.setdefault((scale, wider), []).append(weight)
        for (scale, wider), weights in scales.items():
            for place, part in _LEGENDRE:
                total += sp.Add(*weights) * part * a * wider * self._put(formula, a * (scale + place * wider))
        return total


NAMES = ("mean", "token_gap", "own", "size", "gap", "overlap_gap", "slope", "pair_slope", "square", "jacobian", "scaled_square",
         "scaled_jacobian", "form", "scaled_form", "along", "scaled_along", "pair_jacobian", "pair_trace", "joint", "scaled_joint")


def moments(geometry: Geometry, level: str) -> dict[str, sp.Expr]:
    """All averaged moments of a layer: of normal keys, or mixed with those of keys on a sphere for tokens of fixed norm.

    To first order in 1/d every correction is linear in the variance of the private norm of a token, which the norm of a stream
    reduces by (1 - r)^2: the mixture of the two laws of the keys with that weight.
    """
    found = _averaged(Averages(geometry, level))
    if not geometry.unit or level in ("uniform", "closed_form"):
        return found
    other, theta = _averaged(Averages(geometry, level, sphere=True)), geometry.deficit**2
    mixed = {key: theta * other[key] + (1 - theta) * found[key] for key in found}
    # The private part of a token is large where its shared part is small.
    plain = Averages(geometry, level)
    excess = sp.Add(*(w * a_k * plain._put(_EXCESS, a_k) for a_k, w in (
        (geometry.variance * (1 + shift), w) for shift, w in geometry.one_row)))
    mixed["trade"] = (1 - theta) / geometry.dimension * excess
    return mixed


_EXCESS = 1 - 3 * Participation(_A, _N) + 2 * WeightMoment((3,), _A, _N)


def _averaged(average: Averages) -> dict[str, sp.Expr]:
    item = average.geometry
    found = {name: average.one(name) for name in ("mean", "own", "size", "gap", "slope", "square", "jacobian", "form", "along")}
    found |= {f"scaled_{name}": average.one(name, scaled=True) for name in ("square", "jacobian", "form", "along")}
    found["row_gap"] = average.two("row_gap") + average.scale_gap("own_slope")
    found["token_gap"] = average.two("token_gap") + average.scale_gap("mean_slope")
    found["pair_slope"] = average.two("slope")
    found["pair_jacobian"] = average.two("jacobian", scaled=True)
    found["joint"], found["scaled_joint"] = average.two("joint"), average.two("joint", scaled=True)
    found["trade"] = sp.S.Zero
    # Own form of the query path: two keys of W_K W_K^T see u_i through d_k directions.
    for prefix in ("", "scaled_"):
        found[f"{prefix}query"] = ((item.key_width - 1) * found[f"{prefix}form"]
                                   + item.dimension * found[f"{prefix}along"]) / item.key_width
    return found
