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
the two rows become one, and :math:`\rho` three nodes around its regression on P, of the odds
:math:`(1 - \rho)/(1 + \rho)`, so that it is a correlation at any width. All is written so that the difference of one row and
two rows is carried: it vanishes with 1 - r term by term.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import sympy as sp
from sympy.core.symbol import Str

from symprop.functions.softmax_closed import closed_form
from symprop.functions.softmax_contractions import (
    aligned_slope,
    centre_overlap,
    gram_jacobian_pair,
    gram_jacobian_square,
    private_square,
    query_square,
    radial_key_square,
    radial_value_key,
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
    RowNode,
    RowOverlap,
    WeightGap,
    WeightMoment,
    jacobian_square,
    jacobian_trace_square,
)
from symprop.functions.table_sum import Larger, Smaller

_A, _N, _D, _K, _X = sp.symbols("a n D d_k x", positive=True, cls=sp.Dummy)
"""Score variance, tokens, dimension of the tokens, width of the keys, and 1 - rho of two rows."""

ROW_ARGUMENTS = (_A, _N, _D, _K)
PAIR_ARGUMENTS = (_A, _N, _D, _K, _X)
Formulas = Mapping[str, sp.Expr]
_TINY, _WIDEST = sp.Rational(1, 10**100), sp.Rational(9, 10)
"""What divides by 1 + r for opposite tokens, and how far a rule for little fluctuation follows a large one."""


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


LEGENDRE = tuple((sp.Rational(1, 2) + shift * sp.sqrt(15) / 10, weight)
                  for shift, weight in ((-1, sp.Rational(5, 18)), (0, sp.Rational(4, 9)), (1, sp.Rational(5, 18))))
"""Gauss's rule of three nodes on [0, 1]."""


@dataclass(frozen=True)
class Geometry:
    r"""What the tokens and the sizes of a layer say about its scores.

    ``tokens`` n, ``dimension`` of the token space (one less after LayerNorm), ``key_width`` d_k, ``variance`` a of a score
    about what its row shares, ``deficit`` 1 - r of the tokens, ``bias`` the second moment of the query bias relative to the
    rest of a query. ``unit`` is 1 where tokens have a fixed norm, and 2 where queries and keys have one: then ``deficit`` is
    that of the keys and ``key_width`` the number of dimensions that they vary in.
    """

    tokens: sp.Expr
    dimension: sp.Expr
    key_width: sp.Expr
    variance: sp.Expr
    deficit: sp.Expr
    bias: sp.Expr = sp.S.Zero
    unit: int = 0

    @classmethod
    def of_nodes(cls, unit: int) -> tuple[tuple[sp.Symbol, ...], Geometry]:
        """A geometry of what the nodes of one row and of two depend on, after the symbols for it: D, d_k, deficit, bias."""
        names = sp.symbols("D d_k deficit bias", positive=True)
        dimension, key_width, deficit, bias = names
        return names, cls(sp.S.One, dimension, key_width, sp.S.One, deficit, bias, unit)

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
        """Half the relative variance of ``|u|^2`` that the weights cause; a normalised query has no part in it."""
        return 1 / self.dimension if self.unit == 2 else 1 / self.key_width + 1 / self.dimension

    @property
    def token_spread(self) -> sp.Expr:
        """Half the relative variance of ``|x|^2``, in units of the squared query."""
        return sp.S.Zero if self.unit else 1 / (self.dimension * (1 + self.bias) ** 2)

    @property
    def product_variance(self) -> sp.Expr:
        """Variance of the inner product of two tokens, relative to their squared norm."""
        r, shared = self.rho, 1 / self.dimension
        return self.deficit**2 * (1 + 2 * r - r**2) * shared if self.unit else (1 + r**2) * shared

    @property
    def scale_variance(self) -> sp.Expr:
        """Variance of G; with normalised keys that of a direction's share of the key covariance."""
        if self.unit == 2:
            return 2 / self.dimension * (1 - 1 / self.key_width)
        return (1 + 2 / self.key_width) * (1 + 2 / self.dimension) * (1 + 2 * self.token_spread) - 1

    @cached_property
    def one_row(self) -> tuple[tuple[sp.Expr, sp.Expr], ...]:
        """Nodes (G - 1, weight)."""
        return gamma_rule(self.scale_variance)

    @cached_property
    def two_rows(self) -> tuple[tuple[sp.Expr, sp.Expr, sp.Expr, sp.Expr], ...]:
        """Nodes (P, G - P, 1 - rho, weight) of two rows: E P rho is r, and all but P vanish with 1 - r."""
        r, s, u, t = self.query_rho, self.rho, self.key_spread, self.token_spread
        turn, facing = self.query_deficit * (1 + r), Larger(1 + r, _TINY)
        ratio = (1 + self.bias) * (1 + s) / facing
        # To first order in u and t: variance of P, covariance with rho and variance of rho over turn and turn^2.
        scale = (1 + r**2) * u + (1 + s**2) * t
        across = r * u + s * ratio * t
        own = {
            0: ratio**2 * t,
            1: (1 + 2 * s - s**2) / (self.dimension * facing**2),
            2: 1 / self.key_width + 1 / self.dimension,
        }[self.unit]
        rest = Larger(Smaller(u + own - across**2 / scale, _WIDEST), 0)
        loss = (u + ratio * t) / 2
        lost = turn * loss
        narrow = sp.sqrt(scale / (2 * (u + t)))
        # Where (1 - rho)/(1 + rho) stands to that of r: by regression of its logarithm on P, and around that as for k samples
        # that do not correlate, whose rho has the variance 1/k and the fourth moment 3/(k (k + 2)).
        slope = 2 * across * (1 + lost) / (narrow * self.scale_variance)
        reach, outer = sp.sqrt(3 * rest / (1 + 2 * rest)), (1 + 2 * rest) / 6
        nodes = []
        for deviation, weight in self.one_row:
            inner = 1 + narrow * deviation
            change = (1 - scale / (2 * (u + t))) / (1 + narrow) * deviation
            for place, share in ((-reach, outer), (sp.S.Zero, 1 - 2 * outer), (reach, outer)):
                odds = (1 + place) / (1 - place) * sp.exp(-slope * deviation)
                below = 2 - self.query_deficit + self.query_deficit * odds
                nodes.append((inner, change, (odds - 1) / below, 2 * odds / below**2, weight * share))
        # What the logistic curve adds to the mean of P rho is taken back along it, as far as rho stays well inside (-1, 1).
        missed = r * loss + sum(inner * moved * weight for inner, _, moved, _, weight in nodes)
        along = sum(inner * curve * weight for inner, _, _, curve, weight in nodes)
        back = Larger(Smaller(missed / along, _WIDEST), -_WIDEST)
        return tuple(
            (inner / (1 + lost), lost * inner / (1 + lost) + change, self.query_deficit + turn * (moved - back * curve), weight)
            for inner, change, moved, curve, weight in nodes
        )


def _row(sphere: bool, normed: bool) -> tuple[sp.Expr, ...]:
    """Arguments of the moments of a row.

    The score of one normalised key is a cosine in d_k dimensions, of excess kurtosis -6/d_k over all rows. As the scale of a
    row fluctuates by 2/D, the kurtosis within a row is lower by three times that.
    """
    return (_A, _N, _K * _D / (_K + _D) if normed else _D) if sphere else (_A, _N)


def _gram_forms(square: sp.Expr, trace: sp.Expr, along: sp.Expr, double: sp.Expr, normed: bool) -> dict[str, sp.Expr]:
    r"""Jacobians with the private Gram matrix of normal keys, from tr J^2, (tr J)^2, z J^2 z and (z J z)^2.

    With normalised keys the Gram matrix of a form is that of the keys once, which fluctuates by 1/d_k + 1/D, and that of the
    tokens once, which has the 1/D of it.
    """
    jacobian, seen = square + (along - square) / _D, (double + (_D - 1) * along) / _D**2
    if normed:
        form = jacobian + (1 / _K + 1 / _D) * (along - square) + (trace - square) / _D + (double - trace) / (_D * _K)
    else:
        form = square + (trace - square) / _D + 2 * (_D - 1) / _D**2 * along + (double - trace) / _D**2
    return {"jacobian": jacobian, "form": form, "along": seen}


@lru_cache(maxsize=4)
def _row_formulas(sphere: bool, normed: bool) -> dict[str, sp.Expr]:
    """Moments of one row, for keys on a sphere or normal ones."""
    row = _row(sphere, normed)
    own = Participation(*row)
    square = jacobian_square(*row)
    if sphere and normed:
        # Inner products of tokens are those of their keys up to noise: what is not on the diagonal is scaled.
        share, seen, once = row[2] / _D, score_jacobian_square(*row), gram_jacobian_square(*row) - square
        mean, twice = own + share * (private_square(*row) - own), gram_jacobian_pair(*row) - square - 2 * once
        formulas = {
            "mean": mean, "jacobian": square + share * once, "form": square + once + share * (once + twice),
            "along": (seen + share * (row[2] * query_square(*row) - seen)) / _D, "gap": (_N * own - 1) / (_N - 1), "size": own,
            "spread": mean - 1 / _N, "lean": share * centre_overlap(*row),
        }
    elif sphere:
        formulas = {
            "mean": private_square(*row), "jacobian": gram_jacobian_square(*row), "form": gram_jacobian_pair(*row),
            "along": query_square(*row), "gap": (_N * own - 1) / (_N - 1), "size": own,
            "spread": private_square(*row) - 1 / _N, "lean": centre_overlap(*row),
        }
    else:
        along, double = score_jacobian_square(*row), score_variance_square(*row)
        trace = jacobian_trace_square(*row)
        formulas = {
            **_gram_forms(square, trace, along, double, normed),
            "mean": own + (score_mean_square(*row) - own) / _D,
            "gap": WeightGap(*row),
            "size": own + (WeightMoment(((2, 2),), *row) - own) / _D,
            "spread": (1 - 1 / _N) * WeightGap(*row)
            + sp.factor(WeightMoment(((1, 1), (1, 1)), *row).by_parts() - own) / _D,
            "lean": sp.S.Zero,
        }
    formulas |= {"own": own, "square": square, "slope": 2 * _A * own.diff(_A)}
    cube = WeightMoment((3,), *row)
    formulas |= {"excess": _A * (1 - 3 * own + 2 * cube), "diagonal": own - 2 * cube + WeightMoment((4,), *row)}
    formulas |= _radial(sphere, row)
    return formulas | {"mean_slope": formulas["mean"].diff(_A), "own_slope": own.diff(_A)}


def row_moment(name: str, item: Geometry, spread: sp.Expr = sp.S.Zero, power: sp.Expr = sp.S.Zero) -> sp.Expr:
    """A moment of one row by its formula, averaged with G^power over a Gamma law of G with mean 1 and variance ``spread``.

    ``power`` counts the factors of the score variance in the formula. Tokens of fixed norm are mixed from keys on a sphere
    and normal ones. For a row of some of the tokens, whose number is ``item.tokens``.

    >>> n, d, a = sp.symbols("n d a", positive=True)
    >>> row_moment("jacobian", Geometry(n, d, d, sp.S.Zero, sp.S.Half))
    (n - 1)/n**2
    """
    def average(sphere: bool) -> sp.Expr:
        dimension = item.dimension if sphere else sp.oo
        formula = _row_formulas(sphere, False)[name].replace(
            lambda node: isinstance(node, RowNode),
            lambda node: WeightMoment(node.powers, item.variance, item.tokens, dimension, spread, power),
        )
        found: sp.Expr = formula.xreplace({_A: item.variance, _N: item.tokens, _D: item.dimension})
        return sp.factor(found) if item.variance == 0 else found

    if not item.unit:
        return average(False)
    return item.deficit**2 * average(True) + (1 - item.deficit**2) * average(False)


def _radial(sphere: bool, row: tuple[sp.Expr, ...]) -> dict[str, sp.Expr]:
    """What the key path has along its token, alone and with a value path of one or both weights; normal keys at large D."""
    if sphere:
        square, pulls = radial_key_square(*row) - gram_jacobian_square(*row), [radial_value_key(k, *row) for k in (1, 2)]
    else:
        def moment(*powers: tuple[int, int]) -> sp.Expr:
            return WeightMoment(powers, *row)

        square = moment((2, 2)) - 2 * moment((3, 2)) + moment((2, 0), (2, 2)) - jacobian_square(*row)
        pulls = [sp.sqrt(_A) * (moment((k, 1)) - moment((k + 1, 1))) for k in (1, 2)]
    return {"key_along": square, "pull": pulls[0], "value_along": pulls[1]}


@lru_cache(maxsize=8)
def _pair_formulas(sphere: bool, exact: bool, normed: bool) -> dict[str, sp.Expr]:
    """Moments of two rows at the score gap a x; ``exact`` by the kernel of two rows, for normal keys."""
    row = _row(sphere, normed)
    rho, lines, formulas = 1 - _X, interpolation(*row), _row_formulas(sphere, normed)
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


@lru_cache(maxsize=16)
def formulas(level: str, sphere: bool, normed: bool = False) -> tuple[Formulas, Formulas]:
    """Formulas of one row and of two rows at a level; ``normed`` for normalised queries and keys."""
    if level == "uniform":
        at = {"square": (_N - 1) / _N**2, "trace": (1 - 1 / _N) ** 2}
        along, double = score_jacobian_square(0, _N), score_variance_square(0, _N)
        zero = sp.S.Zero
        row = {
            "mean": 1 / _N, "own": 1 / _N, "size": 1 / _N, "gap": zero, "slope": zero, "mean_slope": zero,
            "own_slope": zero, "excess": zero, "pull": zero, "key_along": zero, "value_along": zero, "spread": zero,
            "lean": zero, "diagonal": (_N - 1) ** 2 / _N**3,
            "square": at["square"], **_gram_forms(at["square"], at["trace"], along, double, normed),
        }
        pair = {
            "row_gap": zero, "token_gap": zero, "overlap": 1 / _N, "jacobian": at["square"], "trace": at["trace"],
            "joint": at["square"] * (1 + 1 / _D) + at["trace"] / _D, "slope": zero,
        }
        return row, pair
    row, pair = _row_formulas(sphere, normed), _pair_formulas(sphere, level == "reference" and not sphere, normed)
    if level == "closed_form":
        return ({key: closed_form(item) for key, item in row.items()}, {key: closed_form(item) for key, item in pair.items()})
    return row, pair


@dataclass(frozen=True)
class _Averages:
    """Expectations of the formulas of a level over the scales and correlations of a geometry, as formulas."""

    geometry: Geometry
    level: str
    sphere: bool

    def _put(self, expression: sp.Expr, variance: sp.Expr, deficit: sp.Expr = sp.S.Zero) -> sp.Expr:
        item = self.geometry
        return expression.xreplace({_A: variance, _N: item.tokens, _D: item.dimension, _K: item.key_width, _X: deficit})

    def value(self, average: Average) -> sp.Expr:
        """One of the averages."""
        a, item = self.geometry.variance, self.geometry
        row, pair = formulas(self.level, self.sphere, item.unit == 2)
        if average.kind == "row":
            return sp.Add(*(
                weight * (1 + shift) ** average.power * self._put(row[average.formula], a * (1 + shift))
                for shift, weight in item.one_row
            ))
        total = sp.Add(*(
            weight * (scale * (1 - deficit)) ** average.power * self._put(pair[average.formula], a * scale, deficit)
            for scale, _, deficit, weight in item.two_rows
        ))
        if average.slope:
            total += sp.Add(*(
                weight * part * a * wider * self._put(row[average.slope], a * (scale + place * wider))
                for scale, wider, _, weight in item.two_rows for place, part in LEGENDRE
            ))
        return total


@dataclass(frozen=True)
class Average:
    """The expectation of one formula: of one row times G^power, or of two rows times (P rho)^power.

    With ``slope`` the mean over G of a moment of one row, less the mean of the moment of two rows: the difference of the
    two laws of the scale is the integral of that derivative.
    """

    kind: str
    formula: str
    power: int = 0
    slope: str = ""


AVERAGES: Mapping[str, Average] = {
    **{
        name: Average("row", name)
        for name in ("mean", "own", "size", "gap", "slope", "square", "jacobian", "form", "along", "excess", "pull",
                     "value_along", "spread", "lean", "diagonal")
    },
    **{f"scaled_{name}": Average("row", name, 1) for name in ("square", "jacobian", "form", "along", "key_along")},
    "row_gap": Average("pair", "row_gap", slope="own_slope"),
    "token_gap": Average("pair", "token_gap", slope="mean_slope"),
    "pair_slope": Average("pair", "slope"),
    "pair_jacobian": Average("pair", "jacobian", 1),
    "plain_jacobian": Average("pair", "jacobian"),
    "joint": Average("pair", "joint"),
    "scaled_joint": Average("pair", "joint", 1),
}
"""What :class:`LayerMoment` knows, by name."""
LINEAR = ("gap", "slope", "excess", "pull", "value_along", "scaled_key_along", "spread", "lean", "row_gap", "token_gap",
          "pair_slope")
"""Averages that vanish linearly with the score variance; the others tend to a constant."""
SINGLE = ("mean", "own", "size")
"""Averages that are 1 for a single token; the others are 0."""
SMALLEST = 1e-9
"""Below this score variance the first order of every average is right to double precision."""


class LayerMoment(sp.Function):
    r"""LayerMoment(name, level, a, n, D, d_k, deficit, bias, unit): an averaged moment of the softmax weights of a layer.

    ``name`` is one of :data:`AVERAGES`, ``level`` one of :data:`LEVELS`, and the rest is a :class:`Geometry`.
    Rational at the level ``uniform``; otherwise opaque, ``formula`` is its expression in moments of one and two rows.

    >>> n, d, a = sp.symbols("n d a", positive=True)
    >>> layer_moment("own", "uniform", Geometry(n, d, d, a, sp.S.Half))
    1/n
    """

    nargs = (9,)

    @classmethod
    def eval(cls, name: sp.Expr, level: sp.Expr, *rest: sp.Expr) -> sp.Expr | None:
        a, n, dimension = rest[:3]
        average = AVERAGES[str(name)]
        if n == 1:
            return sp.S.One if str(name) in SINGLE else sp.S.Zero
        if a == 0 or str(level) == "uniform":
            if average.slope:
                return sp.S.Zero
            row, pair = formulas("uniform", False, rest[6] == 2)
            formula = (row if average.kind == "row" else pair)[average.formula]
            scale = 1 if average.kind == "row" else (1 - rest[4] / (1 + rest[5])) ** average.power
            return scale * formula.xreplace({_N: n, _D: dimension, _K: rest[3]})
        return None

    @property
    def name(self) -> str:
        """Which average."""
        return str(self.args[0])

    @property
    def level(self) -> str:
        """How exactly."""
        return str(self.args[1])

    @property
    def geometry(self) -> Geometry:
        """Of which layer."""
        a, n, dimension, key_width, deficit, bias, unit = self.args[2:]
        return Geometry(n, dimension, key_width, a, deficit, bias, int(unit))

    def _eval_subs(self, old: sp.Basic, new: sp.Basic) -> sp.Expr:
        return self.func(*self.args[:2], *(argument._subs(old, new) for argument in self.args[2:]))

    def _eval_derivative(self, symbol: sp.Symbol) -> sp.Expr:
        """Opaque as well; that of ``formula`` is explicit."""
        terms = []
        for place, argument in enumerate(self.args[2:], 2):
            inner = argument.diff(symbol)
            if inner != 0:
                at = sp.Dummy("at", real=True)
                moved = self.func(*self.args[:place], at, *self.args[place + 1 :])
                terms.append(inner * sp.Subs(sp.Derivative(moved, at, evaluate=False), at, argument))
        return sp.Add(*terms)

    def formula(self) -> sp.Expr:
        """The moment in moments of one and two rows (thousands of terms at the level ``exact``)."""
        item, average = self.geometry, AVERAGES[self.name]
        plain = _Averages(item, self.level, False).value(average)
        if not item.unit or self.level == "closed_form":
            return plain
        theta = item.deficit**2
        return theta * _Averages(item, self.level, True).value(average) + (1 - theta) * plain

    @property
    def is_number(self) -> bool:
        return all(argument.is_number for argument in self.args[2:])

    def _eval_evalf(self, prec: int) -> sp.Expr | None:
        """In double precision (relative 1e-10) up to about 25 digits asked for, exact but slow beyond."""
        if not self.is_number:
            return None
        if prec > 100:
            return sp.N(self.formula(), int(prec / 3.32) + 3)._eval_evalf(prec)
        from symprop.functions.softmax_values import value

        return sp.Float(value(self), precision=prec)

    def small_scores(self) -> sp.Expr:
        """Up to the first order in the score variance.

        The difference of one row and two needs E (G - P) + E P (1 - rho) = 1 - r only.
        """
        a, n, dimension = self.args[2:5]
        item, average = self.geometry, AVERAGES[self.name]
        uniform = layer_moment(self.name, "uniform", item)
        if self.name == "row_gap":
            return a * item.query_deficit * layer_moment("square", "uniform", item)
        if self.name == "token_gap":
            return a * item.query_deficit * layer_moment("joint", "uniform", item)
        if self.name == "pair_slope":
            return 2 * a * item.query_rho * layer_moment("square", "uniform", item)
        if average.kind == "pair" or average.power or self.name not in (*SINGLE, *LINEAR):
            return uniform
        first = closed_form(formulas("exact", False, item.unit == 2)[0][self.name]).diff(_A).subs(_A, 0)
        return uniform + a * sp.factor(first.xreplace({_N: n, _D: dimension, _K: self.args[5]}))

    def _eval_is_real(self) -> bool | None:
        return True

    def _latex(self, printer: object, exp: str | None = None) -> str:
        text = rf"\mathrm{{{self.name.replace('_', ' ')}}}"
        return text if exp is None else rf"{text}^{{{exp}}}"


def small_scores(expression: sp.Expr) -> sp.Expr:
    """Every averaged moment that the paths need at the first order in the scores, where the others multiply a score variance.

    >>> n, d, a = sp.symbols("n d a", positive=True)
    >>> sp.factor(small_scores(layer_moment("own", "exact", Geometry(n, d, d, a, sp.S.Half))))
    (a*n - a + n)/n**2
    """
    return expression.replace(lambda node: isinstance(node, LayerMoment), lambda node: node.small_scores())


def layer_moment(name: str, level: str, geometry: Geometry) -> sp.Expr:
    """The moment of that name at a level."""
    item = geometry
    rest = (item.variance, item.tokens, item.dimension, item.key_width, item.deficit, item.bias, sp.Integer(item.unit))
    return LayerMoment(Str(name), Str(level), *rest)


__all__ = [
    "AVERAGES",
    "LEGENDRE",
    "LEVELS",
    "LINEAR",
    "PAIR_ARGUMENTS",
    "ROW_ARGUMENTS",
    "SINGLE",
    "SMALLEST",
    "Geometry",
    "LayerMoment",
    "formulas",
    "gamma_rule",
    "layer_moment",
    "row_moment",
    "small_scores",
]
