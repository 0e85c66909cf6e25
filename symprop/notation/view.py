"""A view: coordinates of a signal, their inverse, and how symbols print."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import sympy as sp

from symprop.core import symbols
from symprop.core.expression import collect_linear, factored
from symprop.core.signal import Signal


@dataclass(frozen=True)
class Coordinate:
    """One quantity of a view.

    ``of`` computes it from a signal. ``text`` and ``latex`` are templates in which ``{X}`` stands for the signal's
    name. ``nonnegative`` and ``real`` follow from what it is.
    """

    key: str
    text: str
    latex: str
    of: Callable[[Signal], sp.Expr]
    nonnegative: bool = True

    @property
    def initial(self) -> sp.Symbol:
        """The coordinate of the given input of a network, such as ``N``."""
        return symbols.symbol(self.key) if symbols.is_registered(self.key) else self._named(self.key)

    def symbol(self, label: str) -> sp.Symbol:
        """The coordinate of a signal as a symbol, such as ``N_X``."""
        return self._named(f"{self.key}_{label}")

    def _named(self, name: str) -> sp.Symbol:
        assumption = {"nonnegative": True} if self.nonnegative else {"real": True}
        return sp.Symbol(name, **assumption)


DEPTH = r"\depth"
"""The number of blocks in the LaTeX of a quantity, which views write differently."""
LINE, COLUMN = 40.0, 20.5
"""Room for a formula, in em, where text is set in one column and in two."""


@dataclass(frozen=True)
class View:
    """Coordinates on the moment state, with the names of one paper.

    ``moments`` is the inverse: from the values of the coordinates, in order, and a signal that supplies tokens and
    width, to ``(mean, q, gap)``. ``latex_names`` overrides how registered symbols print, and ``line`` is the
    room, in em, for a formula in a report.
    """

    name: str
    title: str
    coordinates: tuple[Coordinate, ...]
    moments: Callable[..., tuple[sp.Expr, sp.Expr, sp.Expr]]
    latex_names: Mapping[sp.Symbol, str] = field(default_factory=dict)
    line: float = LINE

    def in_columns(self) -> View:
        """The same for text in two columns."""
        return replace(self, line=COLUMN)

    def quantity(self, latex: str) -> str:
        r"""What a formula is of, with the depth as this view writes it.

        >>> from symprop.notation import KEDIA
        >>> KEDIA.quantity(r"C(X^{\depth})")
        'C(X^{N})'
        """
        return re.sub(re.escape(DEPTH) + r"(?![A-Za-z])", lambda _: self.latex_names.get(symbols.L, "L"), latex)

    def values(self, signal: Signal) -> tuple[sp.Expr, ...]:
        """The coordinates of a signal."""
        return tuple(coordinate.of(signal) for coordinate in self.coordinates)

    def symbols(self, signal: Signal, label: str | None = None) -> tuple[sp.Symbol, ...]:
        """The coordinates of a signal as symbols named after it."""
        return tuple(coordinate.symbol(label or signal.label) for coordinate in self.coordinates)

    def signal(self, like: Signal, values: tuple[sp.Expr, ...]) -> Signal:
        """The signal that has the given coordinates, with the tokens, width and flags of ``like``."""
        mean, q, gap = self.moments(*values, like)
        return like.replace(mean=mean, q=q, gap=sp.S.Zero if like.tokens == 1 else gap)

    def opaque(self, signal: Signal) -> Signal:
        """The same signal with this view's symbols for its coordinates."""
        return self.signal(signal, self.symbols(signal))

    def rewriting(self, signal: Signal) -> dict[sp.Basic, sp.Basic]:
        """The moments of an opaque signal in terms of this view's symbols for it."""
        seen = self.opaque(signal)
        pairs = ((signal.q, seen.q), (signal.gap, seen.gap), (signal.mean, seen.mean))
        return {atom: value for atom, value in pairs if atom.is_Symbol}

    def initial(self, signal: Signal) -> dict[sp.Basic, sp.Basic]:
        """From this view's symbols for a signal to those of the given input of a network."""
        return {item.symbol(signal.label): item.initial for item in self.coordinates}

    def express(self, expression: sp.Expr, signals: tuple[Signal, ...]) -> sp.Expr:
        """An expression in the moments of opaque signals, rewritten and tidied in this view's symbols."""
        substitution: dict[sp.Basic, sp.Basic] = {}
        for signal in signals:
            substitution.update(self.rewriting(signal))
        return self.tidy(expression.xreplace(substitution), signals)

    def tidy(self, rewritten: sp.Expr, signals: tuple[Signal, ...]) -> sp.Expr:
        """Collect an expression by this view's symbols for the signals where it is linear in them."""
        names = [symbol for signal in signals for symbol in self.symbols(signal)]
        linear = all(not sp.diff(rewritten, name).has(*names) for name in names)
        if linear:
            return collect_linear(rewritten, names)
        # A quotient of one polynomial may be many times as long as the sum that it came from.
        return min(factored(rewritten), rewritten, key=sp.count_ops)
