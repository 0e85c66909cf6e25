"""Cowsik et al. 2024: second moment and inner product of two tokens."""

from symprop.notation.view import Coordinate, View

COWSIK = View(
    "cowsik",
    "q = E|x_t|^2/d and p = E x_t.x_s/d",
    (
        Coordinate("q", "q({X})", "q({X})", lambda x: x.q),
        Coordinate("p", "p({X})", "p({X})", lambda x: x.p, nonnegative=False),
    ),
    lambda q, p, like: (like.mean, q, q - p),
)
