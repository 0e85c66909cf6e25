"""Each paper's coordinates and names, as views on the one state."""

from symprop.core.errors import UnknownNameError
from symprop.notation.cowsik import COWSIK
from symprop.notation.giorlandino import GIORLANDINO
from symprop.notation.kedia import KEDIA
from symprop.notation.noci import NOCI
from symprop.notation.plain import SYMPROP
from symprop.notation.view import COLUMN, LINE, Coordinate, View

VIEWS: tuple[View, ...] = (SYMPROP, NOCI, KEDIA, COWSIK, GIORLANDINO)


def view(name: str) -> View:
    """The view of that name; :class:`~symprop.core.errors.UnknownNameError` with the nearest one otherwise."""
    for candidate in VIEWS:
        if candidate.name == name:
            return candidate
    raise UnknownNameError("notation", name, (candidate.name for candidate in VIEWS))


__all__ = ["COLUMN", "COWSIK", "GIORLANDINO", "KEDIA", "LINE", "NOCI", "SYMPROP", "VIEWS", "Coordinate", "View", "view"]
