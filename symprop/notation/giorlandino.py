"""Giorlandino and Goldt 2025: second moment and overlap."""

from symprop.notation.view import Coordinate, View

GIORLANDINO = View(
    "giorlandino",
    "q = E|x_t|^2/d and overlap rho = E x_t.x_s/(d q)",
    (
        Coordinate("q", "q({X})", "q({X})", lambda x: x.q),
        Coordinate("rho", "rho({X})", r"\rho({X})", lambda x: x.rho, nonnegative=False),
    ),
    lambda q, rho, like: (like.mean, q, q * (1 - rho)),
)
