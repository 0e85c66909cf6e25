"""The one loop that a generated function may have: a state that every layer takes to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import mpmath
import sympy as sp

from symprop.core import symbols
from symprop.core.errors import InputError
from symprop.depth.iterate import LayerMap, mpmath_compile


@dataclass(frozen=True)
class Recursion:
    """``count`` layers from ``start``, each of which replaces every state symbol by its update, all at once.

    ``start`` is in parameters, ``updates`` in state symbols, parameters and, where layers differ, ``symbols.layer``, the
    index of the layer from 0. ``count`` is the parameter that gives the number of layers. ``settled`` is a quantity in
    the state that falls to 0 as the state settles, such as gap/q: generated code can stop at a given size of it.
    Raises :class:`InputError` for a start or an update that is missing.

    >>> q, a = sp.symbols("q a", positive=True)
    >>> Recursion({q: 1}, {q: q + a}).final({a: sp.Rational(1, 2), symbols.L: 3}, 20)
    (mpf('2.5'),)
    """

    start: Mapping[sp.Symbol, sp.Expr]
    updates: Mapping[sp.Symbol, sp.Expr]
    count: sp.Symbol = symbols.L
    settled: sp.Expr | None = None

    def __post_init__(self) -> None:
        for name in ("start", "updates"):
            put = {key: sp.sympify(value) for key, value in getattr(self, name).items()}
            object.__setattr__(self, name, MappingProxyType(put))
        if set(self.start) != set(self.updates) or not self.start:
            raise InputError("start", sorted(map(str, self.start)), f"values of {sorted(map(str, self.updates))}")

    @classmethod
    def of(
        cls,
        layer: LayerMap,
        start: Mapping[sp.Symbol, sp.Expr],
        *,
        count: sp.Symbol = symbols.L,
        transfer: Sequence[sp.Symbol] = (),
        settled: sp.Expr | None = None,
    ) -> Recursion:
        """The recursion of a layer's map.

        ``transfer`` names the entries, row by row, of the matrix that takes gradient moments above all layers to those
        below them: the product of the layers' own matrices, bottom layer leftmost, is carried along with the state.

        >>> q, a, t = sp.symbols("q a t", positive=True)
        >>> found = Recursion.of(LayerMap({q: q + a}, sp.Matrix([[1 + a/q]])), {q: 1}, transfer=[t])
        >>> found.start[t], found.updates[t]
        (1, t*(a/q + 1))
        """
        begin, updates = dict(start), dict(layer.updates)
        if transfer:
            size = 0 if layer.transfer is None else layer.transfer.rows
            if layer.transfer is None or len(transfer) != size**2:
                raise InputError("transfer", f"{len(transfer)} names", f"{size**2}, the entries of the map's transfer matrix")
            carried = sp.Matrix(size, size, list(transfer))
            begin |= dict(zip(transfer, sp.eye(size), strict=True))
            updates |= dict(zip(transfer, carried * layer.transfer, strict=True))
        return cls(begin, updates, count, settled)

    @property
    def state(self) -> tuple[sp.Symbol, ...]:
        """The state symbols, in the order of the updates."""
        return tuple(self.updates)

    @property
    def varies(self) -> bool:
        """Whether layers differ, so that a state that one of them leaves alone may still change."""
        return any(update.has(symbols.layer) for update in self.updates.values())

    @property
    def free_symbols(self) -> set[sp.Symbol]:
        """The parameters that the loop needs."""
        used: set[sp.Symbol] = {self.count}
        for expression in (*self.start.values(), *self.updates.values(), *([] if self.settled is None else [self.settled])):
            used |= expression.free_symbols
        return used - set(self.state) - {symbols.layer}

    def final(self, point: Mapping[sp.Symbol, sp.Expr], precision: int) -> tuple[Any, ...]:
        """The state after all layers in mpmath numbers of ``precision`` digits; ``point`` gives every parameter."""
        order = sorted(point, key=str)
        start, step = self._compiled(order)
        with mpmath.workdps(precision):
            fixed = [mpmath.mpmathify(sp.N(point[key], precision)) for key in order]
            state = [mpmath.mpmathify(item) for item in start(*fixed)]
            for position in range(int(point[self.count])):
                state = [mpmath.mpmathify(item) for item in step(*state, mpmath.mpf(position), *fixed)]
            return tuple(state)

    def _compiled(self, order: Sequence[sp.Symbol]) -> tuple[Callable[..., Any], Callable[..., Any]]:
        start = mpmath_compile(order, tuple(self.start[symbol] for symbol in self.state))
        return start, mpmath_compile((*self.state, symbols.layer, *order), tuple(self.updates.values()))
