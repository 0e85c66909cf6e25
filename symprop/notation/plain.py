"""symprop's own coordinates: second moment and gap per coordinate."""

from symprop.notation.view import Coordinate, View

SYMPROP = View(
    "symprop",
    "second moment q = E x_t^2 and gap = E x_t^2 - E x_t x_s, per coordinate",
    (
        Coordinate("q", "q({X})", "q({X})", lambda x: x.q),
        Coordinate("gap", "gap({X})", r"\Delta({X})", lambda x: x.gap),
    ),
    lambda q, gap, like: (like.mean, q, gap),
)
