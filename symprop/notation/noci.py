"""Noci et al. 2022: sums over the token matrix."""

import sympy as sp

from symprop.core import symbols
from symprop.core.signal import Signal
from symprop.notation.view import Coordinate, View


def _moments(c: sp.Expr, norm: sp.Expr, like: Signal) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    q = norm / (like.tokens * like.width)
    if like.tokens == 1:
        return like.mean, q, sp.S.Zero
    common = c / (like.tokens**2 * like.width)
    return like.mean, q, (q - common) / (1 - 1 / like.tokens)


NOCI = View(
    "noci",
    "C(X) = sum over all token pairs of <X_k, X_k'> and N(X) = ||X||_F^2, in expectation",
    (
        Coordinate("C", "E C({X})", r"\mathbb{{E}}\,C({X})", lambda x: x.tokens**2 * x.width * x.common),
        Coordinate(
            "N", "E||{X}||^2", r"\mathbb{{E}}\|{X}\|_F^2", lambda x: x.tokens * x.width * x.q
        ),
    ),
    _moments,
    {symbols.d: "d_v"},
)

