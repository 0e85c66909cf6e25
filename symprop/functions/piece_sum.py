r"""Gaussian moments of a function given on pieces, as sums over the nodes of :mod:`symprop.functions.piece_rule`.

Half the sum s and half the difference t of two tokens' variables are independent, and

.. math:: E f(x)^2 - E f(x) f(y) = \tfrac12 E [f(s + t) - f(s - t)]^2

has only positive terms. Given the narrower of the two, the other runs over pieces that end where s + t or s - t is at a kink;
the result is smooth in the narrower one but where two of these ends meet. So nothing has a layer that the nodes would miss,
however small the gap or the covariance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

import sympy as sp

from symprop.functions import gaussian_expectation as ge
from symprop.functions.admission import in_doubles
from symprop.functions.piece_rule import InnerScore, InnerShift, InnerWeight, Place, TailScore, TailWeight, gauss_rule
from symprop.functions.pieces import Pieces
from symprop.functions.table_sum import Larger, Smaller

_X, _WX, _Y, _WY = sp.symbols("node_x weight_x node_y weight_y", real=True)
LINE_COLUMNS, PLANE_COLUMNS = (_X, _WX), (_X, _WX, _Y, _WY)
_NEAR = sp.Rational(1, 50)
"""Half differences below this go through the derivative: the difference of doubles would lose digits."""
_CLOSE = tuple((sp.Float(u, 17), sp.Float(w, 17)) for u, w in gauss_rule(4))
_TINY = sp.Float("1e-150")


class _Variable:
    """A normal variable on one piece: its value at a node, and the probability that belongs to the node."""

    def __init__(
        self, node: sp.Expr, weight: sp.Expr, low: sp.Expr, high: sp.Expr, m: sp.Expr, v: sp.Expr, scale: sp.Expr = sp.S.One
    ) -> None:
        self.spread = sp.sqrt(v)
        if low == -sp.oo or high == sp.oo:
            at = (node, *((-1, high) if low == -sp.oo else (1, low)), m, v, scale)
            score, length = TailScore(*at), TailWeight(*at)
        else:
            self._at = at = (node, (low + high) / 2, (high - low) / 2, m, v, scale)
            score, length = InnerScore(*at), InnerWeight(*at)
        self.value = Place(m + self.spread * score)
        self.probability = weight * length * sp.exp(-(score**2) / 2) / sp.sqrt(2 * sp.pi)

    @property
    def shift(self) -> sp.Expr:
        """Distance from the middle of a finite piece."""
        return Place(self.spread * InnerShift(*self._at))


def features(pieces: Pieces) -> tuple[sp.Expr, ...]:
    """Where nodes crowd: the kinks, and zero where a smooth formula has its structure far from all of them."""
    smooth = not all(formula.is_polynomial(pieces.variable) for formula in pieces.formulas)
    if not pieces.kinks or (smooth and min(abs(kink) for kink in pieces.kinks) > 2):
        return _ascending((*pieces.kinks, sp.S.Zero))
    return pieces.kinks


def _at(pieces: Pieces, index: int, x: sp.Expr) -> sp.Expr:
    """The formula of an interval at x, as doubles can evaluate it."""
    return in_doubles(pieces.formulas[index], pieces.variable).xreplace({pieces.variable: Place(x)})


def _ascending(numbers: Sequence[sp.Expr]) -> tuple[sp.Expr, ...]:
    found: list[sp.Expr] = []
    for number in sorted(numbers, key=lambda item: sp.N(item, 30)):
        if not found or sp.N(number - found[-1], 30) > sp.Float("1e-20"):
            found.append(number)
    return tuple(found)


def _intervals(ends: Sequence[sp.Expr]) -> Iterator[tuple[sp.Expr, sp.Expr, sp.Expr]]:
    """Low end, high end and a number between, for every interval between ends that ascend."""
    for low, high in pairwise(ends):
        finite = [end for end in (low, high) if abs(end) != sp.oo]
        yield low, high, sp.Add(*finite) / 2 if len(finite) == 2 else finite[0] + (1 if high == sp.oo else -1)


@lru_cache(maxsize=256)
def line(pieces: Pieces) -> sp.Lambda:
    """Summand of E f(x), over ``LINE``, in mean and variance."""
    total = []
    for low, high, probe in _intervals((-sp.oo, *features(pieces), sp.oo)):
        x = _Variable(_X, _WX, low, high, ge.M1, ge.V1)
        total.append(x.probability * _at(pieces, pieces.index(probe), x.value))
    return sp.Lambda((*LINE_COLUMNS, ge.M1, ge.V1), sp.Add(*total))


@lru_cache(maxsize=256)
def difference(pieces: Pieces, slope: Pieces) -> sp.Lambda:
    """Summand of E f(x)^2 - E f(x) f(y), over ``PLANE``, in mean, variance and gap; ``slope`` is the derivative of f."""
    near, far = _small_gap(pieces, slope), _large_gap(pieces)
    return sp.Lambda((*PLANE_COLUMNS, ge.M1, ge.V1, ge.GAP), sp.Piecewise((near, ge.GAP <= ge.V1), (far, True)))


_HALF_SUM, _HALF_DIFFERENCE = ge.V1 - ge.GAP / 2, ge.GAP / 2
"""Variances of half the sum and half the difference of two variables."""


def _small_gap(pieces: Pieces, slope: Pieces) -> sp.Expr:
    """Half the difference outside: its ends are where a kink of x and one of y meet."""
    kinks = features(pieces)
    meet = _ascending([(one - other) / 2 for i, one in enumerate(kinks) for other in kinks[:i]])
    close = min([_NEAR, *(end / 2 for end in meet)])
    total = []
    for low, high, probe in _intervals((sp.S.Zero, close, *meet, sp.oo)):
        t = _Variable(_X, _WX, low, high, sp.S.Zero, _HALF_DIFFERENCE)
        ends = sorted([(kink + side * probe, kink, side) for kink in kinks for side in (-1, 1)], key=lambda end: sp.N(end[0]))
        places = (-sp.oo, *(place for place, _, _ in ends), sp.oo)
        exact = (-sp.oo, *(kink + side * t.value for _, kink, side in ends), sp.oo)
        for index, (_, _, middle) in enumerate(_intervals(places)):
            s = _Variable(_Y, _WY, exact[index], exact[index + 1], ge.M1, _HALF_SUM)
            left, right = pieces.index(middle - probe), pieces.index(middle + probe)
            if low == 0:
                change = _close_change(pieces, slope, left, right, s, t.value)
            else:
                change = _at(pieces, right, s.value + t.value) - _at(pieces, left, s.value - t.value)
            total.append(t.probability * s.probability * change**2)
    return sp.Add(*total)


def _close_change(pieces: Pieces, slope: Pieces, left: int, right: int, s: _Variable, t: sp.Expr) -> sp.Expr:
    """f(s + t) - f(s - t) for small t, where at most one kink is between: the jump there and the integrals of the slope."""
    if left == right:
        return 2 * t * sp.Add(*(w * _at(slope, left, s.value + (2 * u - 1) * t) for u, w in _CLOSE))
    kink, jump = pieces.kinks[left], pieces.jumps[left]
    above, below = t + s.shift, t - s.shift
    return jump + sp.Add(*(
        w * (above * _at(slope, right, kink + u * above) + below * _at(slope, left, kink - u * below)) for u, w in _CLOSE
    ))


def _large_gap(pieces: Pieces) -> sp.Expr:
    """Half the sum outside: its ends are the kinks, and where two of them are at the same distance."""
    kinks = features(pieces)
    ends = _ascending([(one + other) / 2 for i, one in enumerate(kinks) for other in kinks[: i + 1]])
    total = []
    for low, high, probe in _intervals((-sp.oo, *ends, sp.oo)):
        s = _Variable(_X, _WX, low, high, ge.M1, _HALF_SUM)
        away = sorted([(abs(kink - probe), kink, 1 if kink > probe else -1) for kink in kinks], key=lambda end: sp.N(end[0]))
        places = (sp.S.Zero, *(place for place, _, _ in away), sp.oo)
        exact = (sp.S.Zero, *(side * (kink - s.value) for _, kink, side in away), sp.oo)
        for index, (_, _, middle) in enumerate(_intervals(places)):
            t = _Variable(_Y, _WY, exact[index], exact[index + 1], sp.S.Zero, _HALF_DIFFERENCE)
            left, right = pieces.index(probe - middle), pieces.index(probe + middle)
            change = _at(pieces, right, s.value + t.value) - _at(pieces, left, s.value - t.value)
            total.append(s.probability * t.probability * change**2)
    return sp.Add(*total)


@lru_cache(maxsize=256)
def product(pieces: Pieces) -> sp.Lambda:
    """Summand of E f(x) f(y), over ``PLANE``, in the means, the variances and the covariance of two variables.

    x outside, on pieces that end at its kinks and where the mean of y given x is at one of its own. There a kink of f(y) is
    smoothed over the spread of y given x, which is the scale of crowding.
    """
    kinks = features(pieces)
    regression, rest = ge.COV / ge.V1, ge.V2 - ge.COV**2 / ge.V1
    inverse = regression / (regression**2 + _TINY)
    images = [ge.M1 + (kink - ge.M2) * inverse for kink in kinks]
    # In ascending order for either sign of the regression.
    images = [
        image if index == len(images) - 1 - index
        else (Smaller if 2 * index < len(images) - 1 else Larger)(image, images[len(images) - 1 - index])
        for index, image in enumerate(images)
    ]
    width = rest * inverse**2
    scale = sp.sqrt(width / (1 + width) + ge.V1 / (1 + ge.V1) * sp.Float("1e-8"))
    total = []
    for low, high, probe in _intervals((-sp.oo, *kinks, sp.oo)):
        inside = [Smaller(Larger(image, low), high) if abs(low) != sp.oo and abs(high) != sp.oo
                  else Larger(image, low) if high == sp.oo else Smaller(image, high) for image in images]
        for first, last in pairwise((low, *inside, high)):
            x = _Variable(_X, _WX, first, last, ge.M1, ge.V1, scale)
            mean = ge.M2 + regression * (x.value - ge.M1)
            given = []
            for under, over, other in _intervals((-sp.oo, *kinks, sp.oo)):
                y = _Variable(_Y, _WY, under, over, mean, rest)
                given.append(y.probability * _at(pieces, pieces.index(other), y.value))
            total.append(x.probability * _at(pieces, pieces.index(probe), x.value) * sp.Add(*given))
    return sp.Lambda((*PLANE_COLUMNS, ge.M1, ge.M2, ge.V1, ge.V2, ge.COV), sp.Add(*total))
