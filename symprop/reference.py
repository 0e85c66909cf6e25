"""The functions of a spec in gmpy2 numbers, with as many digits as they need, at thousands of points a second.

:func:`symprop.codegen.spec.evaluate` says the same and checks what it is given; it takes milliseconds a point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gmpy2
import mpmath
import sympy as sp
from sympy.printing.pycode import PythonCodePrinter

from symprop.codegen.spec import BY_MPMATH, IN_NUMBERS, FunctionSpec, growth_minus_one
from symprop.core.errors import RefusedError
from symprop.core.symbols import layer
from symprop.functions.softmax_double import DOUBLE
from symprop.functions.table_sum import (
    LOG_OF_ONE_PLUS,
    Reach,
    TableSum,
    callable_sums,
    exact_log,
    extremes,
    in_doubles,
    is_nested,
    table_rows,
)

PRECISIONS = (160, 320, 1280, 5120)
"""Bits that are tried; two results in turn have to agree."""
AGREEMENT = 1e-25
"""The relative difference of two results that agree."""


class _Printer(PythonCodePrinter):
    """Python whose constants have the precision of the moment."""

    def _print_Rational(self, expr: sp.Rational) -> str:
        return f"(mpfr({expr.p})/{expr.q})"

    def _print_Float(self, expr: sp.Float) -> str:
        return self._print_Rational(sp.Rational(expr))

    def _print_Pi(self, expr: sp.Expr) -> str:
        return "const_pi()"

    def _print_Infinity(self, expr: sp.Expr) -> str:
        return "mpfr('inf')"


def _from_mpmath(value: Any) -> Any:
    sign, mantissa, exponent, _ = mpmath.mpmathify(value)._mpf_
    if not mantissa:
        return gmpy2.mpfr("nan" if exponent else 0)
    scale = gmpy2.mul_2exp if exponent >= 0 else gmpy2.div_2exp
    return scale(gmpy2.mpfr(-mantissa if sign else mantissa), abs(exponent))


def _to_mpmath(value: Any) -> Any:
    mantissa, exponent = gmpy2.mpfr(value).as_mantissa_exp()
    return mpmath.ldexp(mpmath.mpf(int(mantissa)), int(exponent))


def _by_mpmath(function: Callable[..., Any]) -> Callable[..., Any]:
    def value(*arguments: Any) -> Any:
        if not all(map(gmpy2.is_finite, arguments)):
            return gmpy2.mpfr("nan")
        with mpmath.workprec(gmpy2.get_context().precision):
            return _from_mpmath(function(*map(_to_mpmath, arguments)))

    return value


def _arc_cosine(k: Any, gap: Any, v: Any) -> Any:
    if gap == 0 or v == 0:
        return gmpy2.mpfr(0)
    t = gap / v
    angle, sine, cosine = 2 * gmpy2.asin(gmpy2.sqrt(t / 2)), gmpy2.sqrt(t * (2 - t)), 1 - t
    values = (angle, sine - angle * cosine, (angle * (1 + 2 * cosine**2) - 3 * sine * cosine) / 4)
    return v ** int(k) * values[int(k)]


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **IN_NUMBERS,
    **{name: _by_mpmath(function) for name, function in BY_MPMATH.items()},
    **{name: getattr(gmpy2, name) for name in ("mpfr", "const_pi", "sqrt", "exp", "log", "sin", "cos", "tan", "asin", "acos",
                                               "atan", "sinh", "cosh", "tanh", "asinh", "erf", "erfc", "expm1")},
    "GrowthMinusOne": growth_minus_one(gmpy2, lambda: int(gmpy2.get_context().precision)),
    "ExpMinusOne": gmpy2.expm1,
    LOG_OF_ONE_PLUS: gmpy2.log1p,
    "ArcCosine": _arc_cosine,
    "Reach": lambda: Reach.at(gmpy2.get_context().precision),
    **extremes(gmpy2),
}


def _table_sum(node: TableSum) -> Callable[..., Any]:
    if in_doubles(node.table):
        raise RefusedError(node.label, "its table has the digits of doubles", "use evaluate")
    if is_nested(node.table):
        return _by_mpmath(node.value)
    term = _compiled(node.summand.signature, [node.summand.expr])
    tables: dict[int, list[list[Any]]] = {}

    def value(*arguments: Any) -> Any:
        precision = gmpy2.get_context().precision
        if precision not in tables:
            tables[precision] = [list(map(_from_mpmath, row)) for row in table_rows(node.table, precision)]
        return sum((term(*row, *arguments)[0] for row in tables[precision]), gmpy2.mpfr(0))

    return value


def _compiled(arguments: Sequence[sp.Symbol], expressions: Sequence[sp.Expr]) -> Callable[..., Sequence[Any]]:
    """Raises ``RefusedError`` for a function that has no counterpart here."""
    plain, sums = callable_sums(sp.Tuple(*expressions), _table_sum)
    functions = {**_FUNCTIONS, **sums}
    whole = plain.replace(sp.log, exact_log)
    for kind in sorted({node.func for node in whole.atoms(sp.Function)}, key=str):
        if hasattr(kind, "formula"):
            functions[kind.__name__] = _from_formula(kind.formula())
        elif kind.__name__ not in functions and kind not in (sp.Piecewise, sp.Max, sp.Min, sp.Abs):
            raise RefusedError(kind.__name__, "it is not evaluated in many digits", "use evaluate")
    printer = _Printer({"fully_qualified_modules": False, "allow_unknown_functions": True})
    made: Callable[..., Sequence[Any]] = sp.lambdify(
        arguments, tuple(whole), modules=[functions], printer=printer, cse=True
    )
    return made


def _from_formula(formula: sp.Lambda) -> Callable[..., Any]:
    inner = _compiled(formula.signature, [formula.expr])
    return lambda *values: inner(*values)[0]


class Reference:
    """The outputs of a spec at points inside its ranges.

    Raises ``RefusedError`` for a spec with functions that have no more digits than doubles.
    """

    def __init__(self, spec: FunctionSpec) -> None:
        self.spec, self.symbols = spec, [parameter.symbol for parameter in spec.signature]
        loop = spec.recursion
        states = list(loop.state) if loop else []
        parts = [expression for _, expression in spec.outputs]
        parts += [*loop.updates.values(), *loop.start.values()] if loop else []
        if any(part.has(*DOUBLE) for part in parts):
            raise RefusedError(spec.name, "moments of softmax weights have the digits of doubles", "use evaluate")
        self.outputs = _compiled([*self.symbols, *states], [expression for _, expression in spec.outputs])
        if loop:
            self.start = _compiled(self.symbols, [loop.start[state] for state in states])
            self.step = _compiled([*states, layer, *self.symbols], [loop.updates[state] for state in states])

    def at(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs by name, to 25 digits; empty where one of them is no finite number."""
        before: list[Any] | None = None
        for precision in PRECISIONS:
            with gmpy2.context(precision=precision, emax=gmpy2.get_emax_max(), emin=gmpy2.get_emin_min()):
                try:
                    now = self._values([_given(point[symbol.name]) for symbol in self.symbols])
                except ZeroDivisionError:
                    continue
                if before is not None and all(map(_agree, before, now)):
                    return {name: value for (name, _), value in zip(self.spec.outputs, now, strict=True)}
                before = now
        return {}

    def _values(self, arguments: list[Any]) -> list[Any]:
        state: Sequence[Any] = ()
        if self.spec.recursion is not None:
            state = self.start(*arguments)
            for position in range(int(arguments[self.symbols.index(self.spec.recursion.count)])):
                state = self.step(*state, gmpy2.mpfr(position), *arguments)
        return [gmpy2.mpfr(value) for value in self.outputs(*arguments, *state)]


def _given(value: Any) -> Any:
    return gmpy2.mpfr(value) if isinstance(value, int | float) else gmpy2.mpfr(int(value.p)) / int(value.q)


def _agree(before: Any, now: Any) -> bool:
    return bool(gmpy2.is_finite(now)) and abs(now - before) <= AGREEMENT * abs(now)
