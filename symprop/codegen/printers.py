"""Printer tables: which text each SymPy class becomes in numpy and in torch.

A class that is not in a table is refused by name; classes of formulas know nothing about code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import sympy as sp
from sympy.core.function import AppliedUndef
from sympy.core.symbol import Str
from sympy.printing.precedence import PRECEDENCE
from sympy.printing.str import StrPrinter

from symprop.codegen import lowering
from symprop.core.errors import RefusedError
from symprop.functions.finite_width import CorrelationDeficit, CorrelationSlopeDeficit
from symprop.functions.normal_moment import NormalMoment
from symprop.functions.piece_rule import PIECE_FUNCTIONS
from symprop.functions.rising_ratio import ReciprocalSum
from symprop.functions.table_sum import Larger, Smaller

NUMPY: Mapping[type, str] = {
    lowering.Exp: "np.exp",
    lowering.Expm1: "np.expm1",
    lowering.Log: "np.log",
    lowering.Log1p: "np.log1p",
    lowering.GrowthLog: "_log1p",
    lowering.LogNearOne: "_log_near_one",
    lowering.OnePlusProduct: "_one_plus_product",
    lowering.BoundedExponent: "_bounded_exponent",
    lowering.TimesGrowth: "_times_growth",
    lowering.PowerLog: "_log_positive",
    lowering.LogGeometricSum: "_geometric_sum",
    lowering.Power: "np.power",
    lowering.RisingStep: "_rising_ratio",
    ReciprocalSum: "_reciprocal_sum",
    lowering.Step: "_step",
    NormalMoment: "_normal_moment",
    sp.erf: "_erf",
    lowering.SoftmaxRow: "_softmax_row",
    lowering.SoftmaxPair: "_softmax_pair",
    lowering.SoftmaxWeightGap: "_softmax_weight_gap",
    lowering.SoftmaxRowGap: "_softmax_row_gap",
    lowering.SoftmaxOverlapGap: "_softmax_overlap_gap",
    lowering.TableWeightGap: "_softmax_table_weight_gap",
    lowering.TableRowGap: "_softmax_table_row_gap",
    lowering.ArcCosine0: "_arc_cosine_0",
    lowering.ArcCosine1: "_arc_cosine_1",
    lowering.ArcCosine2: "_arc_cosine_2",
    CorrelationDeficit: "_correlation_deficit",
    CorrelationSlopeDeficit: "_correlation_slope_deficit",
    **PIECE_FUNCTIONS,
    lowering.Square: "np.square",
    lowering.Sqrt: "np.sqrt",
    Larger: "np.maximum",
    Smaller: "np.minimum",
    sp.Max: "np.maximum",
    sp.Min: "np.minimum",
    sp.Abs: "np.abs",
    sp.sin: "np.sin",
    sp.cos: "np.cos",
    sp.tan: "np.tan",
    sp.asin: "np.arcsin",
    sp.acos: "np.arccos",
    lowering.ArcTangent: "np.arctan",
    sp.sinh: "np.sinh",
    sp.cosh: "np.cosh",
    sp.asinh: "np.arcsinh",
    sp.tanh: "np.tanh",
    sp.Piecewise: "np.where",
}

TORCH: Mapping[type, str] = {key: text.replace("np.", "torch.") for key, text in NUMPY.items()} | {
    lowering.Power: "torch.pow",
    lowering.GrowthLog: "torch.log1p",
    sp.erf: "torch.erf",
    sp.erfc: "torch.erfc",
}

COMPILED: Mapping[type, str] = {
    lowering.Exp: "f_exp",
    lowering.Expm1: "f_expm1",
    lowering.Log: "f_log",
    lowering.Log1p: "f_log1p",
    lowering.GrowthLog: "f_log1p",
    lowering.LogNearOne: "log_near_one",
    lowering.OnePlusProduct: "one_plus_product",
    lowering.BoundedExponent: "bounded_exponent",
    lowering.TimesGrowth: "times_growth",
    lowering.PowerLog: "log_positive",
    lowering.LogGeometricSum: "geometric_sum",
    lowering.ArcCosine0: "arc_cosine_0",
    lowering.ArcCosine1: "arc_cosine_1",
    lowering.ArcCosine2: "arc_cosine_2",
    lowering.Square: "square",
    lowering.Sqrt: "sqrt",
    lowering.Step: "step",
    Larger: "maximum",
    Smaller: "minimum",
    sp.Max: "maximum",
    sp.Min: "minimum",
    sp.Abs: "fabs",
    sp.asin: "f_asin",
    sp.acos: "f_acos",
    lowering.ArcTangent: "f_atan",
    sp.Piecewise: "",
}
"""Functions of C that work on vectors of points."""

POINT_BY_POINT: Mapping[type, str] = {
    lowering.Power: "pow",
    lowering.RisingStep: "rising_ratio",
    ReciprocalSum: "reciprocal_sum",
    sp.erf: "erf",
    sp.erfc: "erfc",
    sp.sin: "sin",
    sp.cos: "cos",
    sp.tan: "tan",
    sp.sinh: "sinh",
    sp.cosh: "cosh",
    sp.asinh: "asinh",
    sp.tanh: "tanh",
    CorrelationDeficit: "correlation_deficit",
    CorrelationSlopeDeficit: "correlation_slope_deficit",
}
"""Functions of C that take one point at a time."""

TABLES: Mapping[str, Mapping[type, str]] = {"numpy": NUMPY, "torch": TORCH, "compiled": {**COMPILED, **POINT_BY_POINT}}

_STRUCTURE = (sp.Add, sp.Mul, sp.Pow, sp.Symbol, sp.Integer, sp.Float)
_RELATIONS: Mapping[type, str] = {
    sp.Eq: "==", sp.Ne: "!=", sp.StrictLessThan: "<", sp.LessThan: "<=", sp.StrictGreaterThan: ">",
    sp.GreaterThan: ">=", sp.And: "&", sp.Or: "|",
}


@dataclass
class Code:
    """Prints lowered expressions with one table; raises ``RefusedError`` for a class that the table lacks.

    >>> x = sp.Symbol("x")
    >>> Code("numpy").text(2*lowering.Expm1(x)/(1 + lowering.Square(x)))
    '2*np.expm1(x)/(np.square(x) + 1)'
    >>> Code("numpy").text(sp.erfc(x))
    Traceback (most recent call last):
    ...
    symprop.core.errors.RefusedError: erfc: the numpy backend has no such function; remedy: use the torch backend
    """

    backend: str

    def text(self, expression: Any) -> str:
        """The expression as one line of code."""
        printer = _CompiledPrinter if self.backend == "compiled" else _Printer
        return str(printer(self.backend).doprint(expression))


class _Printer(StrPrinter):
    def __init__(self, backend: str) -> None:
        super().__init__()
        self.backend, self.table = backend, TABLES[backend]

    def _print(self, expr: Any, **kwargs: Any) -> str:
        kind = type(expr)
        if kind in _RELATIONS:
            return f" {_RELATIONS[kind]} ".join(f"({self._print(argument)})" for argument in expr.args)
        if kind is sp.Piecewise:
            return self._where(list(expr.args))
        if kind in (sp.Max, sp.Min, Larger, Smaller):
            return self._extreme(expr)
        if isinstance(expr, AppliedUndef) and kind.__name__ in lowering.LOOPS:
            return f"{kind.__name__}({', '.join(self._print(argument) for argument in expr.args)})"
        if kind is lowering.Grouped:
            return f"({self._print(expr.args[0])})*{self.parenthesize(expr.args[1], PRECEDENCE['Pow'])}"
        if kind is lowering.TimesGrowth and self.backend == "compiled":
            first, *growths = map(self._print, expr.args)
            return reduce(lambda product, growth: f"{self.table[kind]}({product}, {growth})", growths, first)
        if kind is lowering.Complement:
            return f"(1 - {self.parenthesize(expr.args[0], PRECEDENCE['Pow'])})"
        if kind is Str:
            return str(expr.name)
        if kind in (lowering.SoftmaxRow, lowering.SoftmaxPair, lowering.Entry) and self.backend == "compiled":
            raise RefusedError("moments of softmax weights", "the compiled backend has none", "use the numpy backend")
        if kind is lowering.SoftmaxCall:
            return f"{expr.args[0].name}({', '.join(self._print(argument) for argument in expr.args[1:])})"
        if kind is lowering.Entry:
            return f"{self._print(expr.args[0])}[{expr.args[1]}]"
        if kind in self.table:
            return f"{self.table[kind]}({', '.join(self._print(argument) for argument in self._arguments(expr))})"
        if not isinstance(expr, (str, *_STRUCTURE)):
            other = next((name for name, table in TABLES.items() if kind in table), None)
            remedy = f"use the {other} backend" if other else "rewrite the formula, or add the class to the table"
            raise RefusedError(kind.__name__, f"the {self.backend} backend has no such function", remedy)
        return str(super()._print(expr, **kwargs))

    def _arguments(self, expr: sp.Function) -> tuple[sp.Expr, ...]:
        """What the function of the table takes."""
        arguments: tuple[sp.Expr, ...] = expr.args
        return (sp.Mul(arguments[0], 1 / arguments[1]),) if isinstance(expr, lowering.ArcTangent) else arguments

    def _print_Add(self, expr: sp.Add, order: Any = None) -> str:
        terms = sorted(expr.as_ordered_terms(), key=lambda term: term.could_extract_minus_sign() and not term.is_Add)
        text: str = self.parenthesize(terms[0], PRECEDENCE["Add"])
        for term in terms[1:]:
            minus = term.could_extract_minus_sign()
            text += f" {'-' if minus else '+'} {self.parenthesize(-term if minus else term, PRECEDENCE['Add'])}"
        return text

    def _print_Float(self, expr: sp.Float) -> str:
        return repr(float(expr))

    def _print_Pow(self, expr: sp.Pow, rational: bool = False) -> str:
        base = self.parenthesize(expr.base, PRECEDENCE["Pow"], strict=False)
        if expr.exp == -1:
            return f"1/{base}"
        return f"{base}**{self.parenthesize(expr.exp, PRECEDENCE['Pow'], strict=False)}"

    def _where(self, pieces: list[Any]) -> str:
        value, condition = pieces[0]
        if condition == True or len(pieces) == 1:  # noqa: E712
            return self._print(value)
        if self.backend == "torch" and value.is_number and pieces[1][0].is_number:
            if not isinstance(condition, sp.core.relational.Relational):
                raise RefusedError("Piecewise", "torch.where of two numbers loses the dtype",
                                   "let one of two neighbouring branches depend on a parameter")
            # The numbers take the type of what is compared.
            value_text = f"torch.full_like({self._print(condition.lhs - condition.rhs)}, {self._print(value)})"
            return f"torch.where({self._print(condition)}, {value_text}, {self._where(pieces[1:])})"
        return f"{self.table[sp.Piecewise]}({self._print(condition)}, {self._print(value)}, {self._where(pieces[1:])})"

    def _extreme(self, expr: Any) -> str:
        """Max and Min of any number of arguments; torch bounds a tensor by a number with clamp."""
        numbers = [argument for argument in expr.args if argument.is_number]
        rest = sorted((argument for argument in expr.args if not argument.is_number), key=sp.default_sort_key)
        text = self._print(rest[0])
        for argument in rest[1:]:
            text = f"{self.table[type(expr)]}({text}, {self._print(argument)})"
        for number in numbers:
            bound = "min" if type(expr) in (sp.Max, Larger) else "max"
            text = (f"torch.clamp({text}, {bound}={self._bound(number, expr)})" if self.backend == "torch"
                    else f"{self.table[type(expr)]}({text}, {self._print(number)})")
        return text

    def _bound(self, number: Any, expr: Any) -> str:
        """A number that torch bounds a tensor by; the largest double is the largest number of the tensor's own dtype."""
        if number != lowering.LARGEST:
            return str(self._print(number))
        like = min(expr.free_symbols, key=sp.default_sort_key)
        return f"torch.finfo({self._print(like)}.dtype).max"


class _CompiledPrinter(_Printer):
    """C: every number is a double, and a name ends in an underscore, so that it is no word of the language."""

    def _print_Symbol(self, expr: sp.Symbol) -> str:
        return f"{expr}_"

    _print_Dummy = _print_Symbol

    def _arguments(self, expr: sp.Function) -> tuple[sp.Expr, ...]:
        arguments: tuple[sp.Expr, ...] = expr.args
        return arguments

    def _print_Integer(self, expr: sp.Integer) -> str:
        return f"{int(expr)}.0"

    def _print_Pow(self, expr: sp.Pow, rational: bool = False) -> str:
        if not expr.exp.is_Integer:
            return f"pow({self._print(expr.base)}, {self._print(expr.exp)})"
        text = self._print(expr.base)
        powered = "*".join([f"({text})"] * abs(int(expr.exp)))
        return f"({powered})" if expr.exp > 0 else f"1.0/({powered})"

    def _where(self, pieces: list[Any]) -> str:
        value, condition = pieces[0]
        if condition == True or len(pieces) == 1:  # noqa: E712
            return f"({self._print(value)})"
        return f"(({self._print(condition)}) ? ({self._print(value)}) : {self._where(pieces[1:])})"
