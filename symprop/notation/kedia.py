"""Kedia et al. 2024: mean, variance and centred correlation."""

import sympy as sp

from symprop.core.signal import Signal
from symprop.core.symbols import L, n
from symprop.notation.view import Coordinate, View


def _moments(mean: sp.Expr, variance: sp.Expr, r: sp.Expr, like: Signal) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    mean = sp.S.Zero if like.mean == 0 else mean
    return mean, variance + mean**2, variance * (1 - r)


KEDIA = View(
    "kedia",
    "mean mu, variance sigma^2 and correlation r = Cov(x_t, x_s)/sigma^2, per coordinate",
    (
        Coordinate("mu", "mu({X})", r"\mu_{{{X}}}", lambda x: x.mean, nonnegative=False),
        Coordinate("sigma2", "sigma^2({X})", r"\sigma^2_{{{X}}}", lambda x: x.var),
        Coordinate("r", "r({X})", r"r_{{{X}}}", lambda x: x.corr, nonnegative=False),
    ),
    _moments,
    {L: "N", n: "L"},
)
