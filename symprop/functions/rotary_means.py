r"""Averages over the lags of rotary positions, as SymPy functions; see :mod:`symprop.functions.rotary_numeric`."""

from __future__ import annotations

from typing import Any

import sympy as sp
from sympy.core.symbol import Str

from symprop.core.errors import InputError, RefusedError
from symprop.functions.token_means import compiled

LAG, CENTRED = sp.symbols("K K_c", real=True)
"""Correlation of two positions: of the scores of what tokens share, and of its part that differs between keys."""
SCALE = sp.Symbol("G", positive=True)
"""Squared scale of the scores of a row, 1 on average."""
NORMAL = sp.Symbol("x", real=True)
"""A standard normal variable: how far the correlation of two rows is from its mean."""

_LATEX = {"coherence": r"\bar K", "square": r"\overline{K^2}", "sharing": r"\nu^{-1}", "peak": r"\beta"}


class _Rotary(sp.Function):
    """Common to both: the last four arguments are tokens, key width, rotated coordinates and base."""

    @property
    def places(self) -> tuple[sp.Expr, ...]:
        """Tokens, key width, rotated coordinates and base."""
        raise NotImplementedError

    @property
    def numbers(self) -> tuple[sp.Symbol, ...]:
        """What the value depends on: the symbols by name."""
        return tuple(sorted(self.free_symbols, key=str))

    def at(self, *numbers: float) -> float:
        """The value in double precision at :attr:`numbers`."""
        whole = (sp.Integer(int(item)) if item == int(item) else sp.Float(item) for item in numbers)
        return float(self.xreplace(dict(zip(self.numbers, whole, strict=True))).in_double())

    def _setting(self) -> tuple[int, int, int, float] | None:
        if not all(item.is_number for item in self.places):
            return None
        tokens, width, rotated, base = self.places
        if not (tokens.is_Integer and width.is_Integer and rotated.is_Integer) or width % 2 or rotated % 2:
            raise InputError("rotary positions", self.places[:3], "whole numbers, the last two even")
        if not 0 <= rotated <= width or base <= 0:
            raise InputError("rotary positions", self.places[1:], "at most d_k rotated coordinates and a base > 0")
        return int(tokens), int(width), int(rotated), float(base)

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        raise RefusedError(str(self), "averages over positions have no derivative in their sizes",
                           "take differences of values")

    def _eval_derivative(self, symbol: sp.Symbol) -> sp.Expr:
        if any(symbol in item.free_symbols for item in self.places):
            self.fdiff()
        return sp.S.Zero

    def _eval_is_real(self) -> bool:
        return True


class RotaryAverage(_Rotary):
    r"""RotaryAverage(kind, n, d_k, rotated, base), a number that the positions alone determine.

    ``coherence``: the mean :math:`\bar K` of K over all pairs of positions; ``square``: that of its square; ``sharing``:
    :math:`1/\nu = \mathrm{tr} K_c^2/(\mathrm{tr} K_c)^2`; ``peak``: :math:`\beta`, one over the number of planes that vary.

    >>> sp.N(RotaryAverage("coherence", 64, 64, 64, 10000), 6), RotaryAverage("coherence", 64, 64, 0, 10000)
    (0.633182, 1)
    """

    @classmethod
    def eval(cls, kind: Any, tokens: sp.Expr, width: sp.Expr, rotated: sp.Expr, base: sp.Expr) -> sp.Expr | None:
        if rotated == 0 or tokens == 1:
            return sp.S.One if str(kind) in ("coherence", "square") else sp.S.Zero
        return None

    def __new__(cls, kind: Any, *places: Any, **options: Any) -> sp.Expr:
        if str(kind) not in _LATEX:
            raise InputError("kind", kind, ", ".join(_LATEX))
        made: sp.Expr = super().__new__(cls, kind if isinstance(kind, Str) else Str(kind), *places, **options)
        return made

    @property
    def places(self) -> tuple[sp.Expr, ...]:
        found: tuple[sp.Expr, ...] = self.args[1:]
        return found

    @property
    def is_number(self) -> bool:
        return all(item.is_number for item in self.places)

    def _eval_subs(self, old: sp.Basic, new: sp.Basic) -> sp.Expr:
        return self.func(self.args[0], *(item._subs(old, new) for item in self.places))

    @property
    def place(self) -> int:
        """Which of the averages of :func:`~symprop.functions.rotary_numeric.lag_averages` it is."""
        return list(_LATEX).index(str(self.args[0]))

    def in_double(self) -> float:
        """The value in double precision; every argument must be a number."""
        from symprop.functions.rotary_numeric import lag_correlations

        tokens, width, rotated, base = map(float, self.places)
        return float(lag_correlations(int(tokens), int(width), int(rotated), base)[2][self.place])

    def _eval_evalf(self, prec: int) -> sp.Expr | None:
        return None if self._setting() is None else sp.Float(self.in_double(), 15)

    def _eval_is_nonnegative(self) -> bool:
        return True

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        text = _LATEX[str(self.args[0])]
        return text if exp is None else rf"\left({text}\right)^{{{exp}}}"


class RotaryMean(_Rotary):
    r"""RotaryMean(f, spread, n, d_k, rotated, base), the average of f(K, K_c, G, x) over all pairs of positions.

    Also over a Gamma law of G with mean 1 and variance ``spread`` (five nodes) and a standard normal x (three nodes). 0 for a
    single token.

    >>> f = sp.Lambda((LAG, CENTRED, SCALE, NORMAL), LAG*SCALE*NORMAL**2)
    >>> n, mean = 64, RotaryAverage("coherence", 64, 64, 64, 10000)
    >>> abs(sp.N(RotaryMean(f, sp.Rational(1, 9), 64, 64, 64, 10000) - (n*mean - 1)/(n - 1), 15)) < 1e-12
    True
    """

    @classmethod
    def eval(cls, function: sp.Lambda, spread: sp.Expr, *places: sp.Expr) -> sp.Expr | None:
        if places[0] == 1:
            return sp.S.Zero
        return None if function.expr.free_symbols & set(function.signature) else function.expr

    @property
    def places(self) -> tuple[sp.Expr, ...]:
        found: tuple[sp.Expr, ...] = self.args[2:]
        return found

    def _eval_derivative(self, symbol: sp.Symbol) -> sp.Expr:
        if symbol in self.args[1].free_symbols:
            self.fdiff(2)
        super()._eval_derivative(symbol)
        return self.func(sp.Lambda(self.args[0].signature, self.args[0].expr.diff(symbol)), *self.args[1:])

    def in_double(self) -> float:
        """The value in double precision; every argument must be a number."""
        from symprop.functions.rotary_numeric import lag_means

        function = compiled(self.args[0].signature, self.args[0].expr, masked=False)
        return float(lag_means(lambda *at: [function(*at)], 1, float(self.args[1]), *map(float, self.places))[0])

    def _eval_evalf(self, prec: int) -> sp.Expr | None:
        function = self.args[0]
        if self._setting() is None or not self.args[1].is_number or function.expr.free_symbols - set(function.signature):
            return None
        return sp.Float(self.in_double(), 15)

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        text = rf"\bigl\langle {printer._print(self.args[0].expr)} \bigr\rangle_{{K}}"
        return text if exp is None else rf"{text}^{{{exp}}}"


__all__ = ["CENTRED", "LAG", "NORMAL", "SCALE", "RotaryAverage", "RotaryMean"]
