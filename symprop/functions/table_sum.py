"""Sums over the rows of a table of numbers, with a summand that is a formula: mixtures and quadrature rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import mpmath
import sympy as sp
from sympy.core.symbol import Str

Row: TypeAlias = tuple[Any, ...]


class Larger(sp.Function):
    """The larger of two real numbers, compared only once they are numbers: SymPy's ``Max`` takes long to try."""

    nargs = (2,)

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        first, second = self.args
        own, other = (first, second) if argindex == 1 else (second, first)
        chosen = own <= other if isinstance(self, Smaller) else own >= other
        return sp.Piecewise((1, chosen), (0, True))

    def _eval_is_real(self) -> bool:
        return True

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        name = r"\min" if isinstance(self, Smaller) else r"\max"
        text = rf"{name}\left({', '.join(map(printer._print, self.args))}\right)"
        return text if exp is None else rf"{text}^{{{exp}}}"


class Smaller(Larger):
    """The smaller of two real numbers."""


def extremes(library: Any) -> dict[str, Callable[..., Any]]:
    """What :class:`Larger` and :class:`Smaller` are of the numbers of a library, of its arrays where it has any."""
    return {"Larger": getattr(library, "maximum", max), "Smaller": getattr(library, "minimum", min)}


class Reach(sp.Function):
    """The logarithm of one over the rounding error: a summand uses it to stop where nothing is left to add.

    As a number it is that of a double.
    """

    nargs = (0,)

    @staticmethod
    def at(precision: int) -> int:
        """The value for numbers of that many bits."""
        return precision * 7 // 10 + 3

    def _eval_evalf(self, prec: int) -> sp.Expr:
        return sp.Float._new(mpmath.mpf(self.at(53))._mpf_, prec)

    def _eval_is_positive(self) -> bool:
        return True


REACH = Reach()


@dataclass(frozen=True)
class Table:
    """Rows of mpmath numbers at the working precision; ``code`` writes a Python expression for them where they are many.

    ``doubles`` says that the sum is a fixed rule that has no more digits than doubles have: then it is evaluated in these.
    ``nested_above`` is a number of bits above which the rows are those of a rule of equal steps whose error is squared where
    the step is halved: then sums take as many of the rows, symmetric about the middle one, as they need.
    """

    rows: Callable[[], Sequence[Row]]
    code: Callable[[], str] | None = None
    doubles: bool = False
    nested_above: int | None = None


_TABLES: dict[str, Table] = {}


def register_table(
    name: str, rows: Callable[[], Sequence[Row]], code: Callable[[], str] | None = None, *, doubles: bool = False,
    nested_above: int | None = None,
) -> str:
    """Give a table its name."""
    _TABLES[name] = Table(rows, code, doubles, nested_above)
    return name


def in_doubles(name: str) -> bool:
    """Whether sums over a table are evaluated in doubles."""
    return _TABLES[name].doubles


def is_nested(name: str) -> bool:
    """Whether sums over a table take as many of its rows as they need."""
    return _TABLES[name].nested_above is not None


def table_code(name: str) -> str:
    """The rows of a table as a Python expression, rounded to the nearest double."""
    code = _TABLES[name].code
    if code is not None:
        return code()
    lines = (f"    ({', '.join(repr(float(item)) for item in row)})," for row in table_rows(name))
    return "(\n" + "\n".join(lines) + "\n)"


@lru_cache(maxsize=64)
def table_rows(name: str, precision: int = 100) -> tuple[Row, ...]:
    """The rows of a table in mpmath numbers of that many bits."""
    with mpmath.workprec(precision):
        return tuple(tuple(+mpmath.mpf(item) for item in row) for row in _TABLES[name].rows())


class TableSum(sp.Function):
    r"""TableSum(label, table, summand, x_1, ...), the sum of summand(row, x_1, ...) over the rows of a table.

    ``summand`` is a SymPy ``Lambda`` of the columns of the table and then of the arguments. ``label`` is what the sum stands
    for, and prints as a function of the arguments. Derivatives go under the sum.

    >>> a, b, x = sp.symbols("a b x")
    >>> name = register_table("doctest", lambda: [(1, 2), (3, 4)])
    >>> node = TableSum("f", name, sp.Lambda((a, b, x), a*sp.exp(b*x)), x)
    >>> node, sp.N(node.subs(x, 1), 6), sp.N(node.diff(x).subs(x, 0), 6)
    (f(x), 171.184, 14.0000)
    """

    is_commutative = True
    described_by = 3
    """How many of the arguments of the node say what it is; the others are what the sum is a function of."""

    @classmethod
    def eval(cls, label: Any, table: Any, summand: Any, *arguments: sp.Expr) -> sp.Expr | None:
        if isinstance(summand, sp.Lambda) and summand.expr == 0:
            return sp.S.Zero
        return None

    def __new__(cls, label: Any, table: Any, summand: Any, *arguments: Any, **options: Any) -> sp.Expr:
        label, table = (item if isinstance(item, Str) else Str(item) for item in (label, table))
        made: sp.Expr = super().__new__(cls, label, table, summand, *arguments, **options)
        return made

    @property
    def label(self) -> str:
        """What the sum stands for."""
        return str(self.args[0])

    @property
    def table(self) -> str:
        """The name of the table."""
        return str(self.args[1])

    @property
    def summand(self) -> sp.Lambda:
        """The function that is summed."""
        return self.args[2]

    @property
    def arguments(self) -> tuple[sp.Expr, ...]:
        """What the sum is a function of."""
        found: tuple[sp.Expr, ...] = self.args[self.described_by :]
        return found

    def _eval_subs(self, old: sp.Basic, new: sp.Basic) -> sp.Expr:
        return self.func(*self.args[: self.described_by], *(argument._subs(old, new) for argument in self.arguments))

    def fdiff(self, argindex: int = 4) -> sp.Expr:
        signature, body, index = self.summand.signature, self.summand.expr, argindex - self.described_by
        formal = signature[len(signature) - len(self.arguments) :][index - 1]
        label = f"d{index} {self.label}"
        return TableSum(label, self.table, sp.Lambda(signature, sp.diff(body, formal)), *self.arguments)

    def _eval_derivative(self, symbol: sp.Symbol) -> sp.Expr:
        terms = []
        for index, argument in enumerate(self.arguments):
            inner = sp.diff(argument, symbol)
            if inner != 0:
                terms.append(self.fdiff(index + self.described_by + 1) * inner)
        return sp.Add(*terms)

    def value(self, *arguments: Any) -> Any:
        """The sum at mpmath numbers, with the working precision where its table has that."""
        if in_doubles(self.table):
            return mpmath.mpf(double_function(self)(*map(float, arguments)))
        compiled = _compiled(self.summand, mpmath.mp.prec)
        rows = table_rows(self.table, mpmath.mp.prec)
        nested = _TABLES[self.table].nested_above
        if nested is None or mpmath.mp.prec <= nested:
            return mpmath.fsum(compiled(*row, *arguments) for row in rows)
        return _nested_sum(lambda row: compiled(*row, *arguments), rows)

    def _eval_evalf(self, prec: int) -> sp.Expr | None:
        digits = int(prec / 3.3) + 20
        numbers = [sp.N(argument, digits) for argument in self.arguments]
        if any(not number.is_Float and not number.is_Integer for number in numbers):
            return None
        with mpmath.workprec(prec + 30):
            value = self.value(*(mpmath.mpf(number._to_mpmath(prec + 30)) for number in numbers))
            return sp.Float._new(mpmath.mpf(value)._mpf_, prec)

    def _eval_is_real(self) -> bool | None:
        return True if all(argument.is_real for argument in self.arguments) else None

    def _sympystr(self, printer: Any) -> str:
        return f"{self.label}({', '.join(printer._print(argument) for argument in self.arguments)})"

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        text = self._latex_name() + rf"\left({', '.join(printer._print(item) for item in self.arguments)}\right)"
        return text if exp is None else rf"\left[{text}\right]^{{{exp}}}"

    def _latex_name(self) -> str:
        return r"\mathrm{" + "".join(_IN_NAMES.get(character, character) for character in self.label) + "}"


_IN_NAMES = {" ": r"\,", "\\": r"\backslash ", "^": r"\hat{\ }", "~": r"\sim "} | {sign: "\\" + sign for sign in "_&%#${}"}
"""Characters of a label in mathematics."""
LARGEST_STRIDE, AGREEING = 8, 0.6
"""The first step of a nested rule in steps of its table, and the share of the digits in which two rules agree at its end."""


def _nested_sum(term: Callable[[Row], Any], rows: Sequence[Row]) -> Any:
    middle, total, before = len(rows) // 2, mpmath.mpf(0), None
    stride = LARGEST_STRIDE
    while True:
        places = range(middle % stride, len(rows), stride)
        total += mpmath.fsum(term(rows[i]) for i in places if before is None or (i - middle) % (2 * stride) != 0)
        found = stride * total
        agree = before is not None and abs(found - before) <= mpmath.ldexp(abs(found), -int(AGREEING * mpmath.mp.prec))
        if agree or stride == 1:
            return found
        before, stride = found, stride // 2


class SmoothSum(TableSum):
    r"""SmoothSum(label, table, summand, factor, scale, v[, gap]), a table sum that is a factor times a smooth function.

    ``factor`` is a SymPy ``Lambda`` of the arguments: what the sum does where it vanishes. The rest is analytic in
    :math:`\log(1 + \Delta/s)` and :math:`\log(1 + (2v - \Delta)/s)` with s = ``scale`` for gap :math:`\Delta \in [0, 2v]`,
    in :math:`\log(1 + 2v/s)` without a gap, and bounded away from zero. Generated code interpolates that rest; the sum
    remains what the node means, for digits. Derivatives are smooth sums of their own.

    >>> a, x = sp.symbols("a x", positive=True)
    >>> name = register_table("doctest_smooth", lambda: [(1,), (3,)])
    >>> node = SmoothSum("f", name, sp.Lambda((a, x), x/sp.sqrt(a + x)), sp.Lambda(x, x), 1, x)
    >>> node, sp.N(node.subs(x, 1), 6), node.factor
    (f(x), 1.20711, x)
    """

    described_by = 5

    @property
    def factor(self) -> sp.Expr:
        """The factor at the arguments."""
        found: sp.Expr = self.args[3](*self.arguments)
        return found

    @property
    def formal_factor(self) -> sp.Lambda:
        """The factor as a function of the arguments."""
        return self.args[3]

    @property
    def scale(self) -> sp.Expr:
        """The length s, at most the distance of the nearest singularity of the sum from real gaps."""
        return self.args[4]

    def fdiff(self, argindex: int = 6) -> sp.Expr:
        """The derivative in an argument: in the variance it vanishes with the gap where the sum does."""
        plain = super().fdiff(argindex)
        if plain == 0:
            return plain
        formal = self.formal_factor.signature
        kept = sp.S.One
        if len(formal) == 2 and argindex == self.described_by + 1 and self.formal_factor.expr.subs(formal[1], 0) == 0:
            kept = formal[1]
        return SmoothSum(*plain.args[:3], sp.Lambda(formal, kept), self.scale, *self.arguments)


@lru_cache(maxsize=256)
def _compiled(summand: sp.Lambda, precision: int) -> Callable[..., Any]:
    return lambdified(summand, mpmath, precision)


def lambdified(summand: sp.Lambda, library: Any, precision: int = 53) -> Callable[..., Any]:
    """The summand in the numbers of a library; a function that has a ``formula`` is evaluated by that."""
    own = {
        kind.__name__: lambdified(kind.formula(), library, precision)
        for kind in {node.func for node in summand.expr.atoms(sp.Function)}
        if hasattr(kind, "formula")
    }
    modules = ["scipy", "numpy"] if library.__name__ == "numpy" and summand.expr.has(sp.erf, sp.erfc) else [library.__name__]
    own |= {"ExpMinusOne": library.expm1, LOG_OF_ONE_PLUS: library.log1p, "Reach": lambda: Reach.at(precision),
            "Saturated": lambda growth: growth, **extremes(library)}
    function: Callable[..., Any] = sp.lambdify(
        summand.signature, summand.expr.replace(sp.log, exact_log), modules=[own, *modules], cse=True
    )
    return function


LOG_OF_ONE_PLUS = "log_of_one_plus"
"""The name of the function x -> log(1 + x) in expressions that are compiled."""


def exact_log(argument: sp.Expr) -> sp.Expr:
    """A logarithm, by a function of its own near one."""
    one, rest = argument.as_coeff_Add()
    return sp.Function(LOG_OF_ONE_PLUS)(rest) if one == 1 else sp.log(argument)


def mpmath_function(node: TableSum) -> Callable[..., Any]:
    """A sum as a function of mpmath numbers, which keeps the working precision."""
    return node.value


def callable_sums(
    expression: sp.Expr, made: Callable[[TableSum], Callable[..., Any]] = mpmath_function
) -> tuple[sp.Expr, Mapping[str, Callable[..., Any]]]:
    """An expression with named functions in the place of its table sums, and these functions.

    ``made`` makes a function of a sum: :func:`mpmath_function`, or :func:`double_function`, whose functions take and return
    floats.

    >>> x = sp.Symbol("x")
    >>> callable_sums(x**2)
    (x**2, {})
    """
    names: dict[sp.Expr, str] = {}
    functions: dict[str, Callable[..., Any]] = {}

    def named(node: TableSum) -> sp.Expr:
        key = sp.Tuple(node.args[1], node.summand)
        if key not in names:
            names[key] = f"table_sum_{len(names)}"
            functions[names[key]] = made(node)
        return sp.Function(names[key])(*node.arguments)

    replaced = expression.replace(lambda node: isinstance(node, TableSum), named)
    return replaced, functions


def sums_in_double(expression: sp.Expr) -> sp.Expr:
    """An expression with doubles in the place of its table sums at numbers: as exact as a comparison with simulation needs.

    >>> x = sp.Symbol("x")
    >>> sums_in_double(x**2)
    x**2
    """
    return expression.replace(
        lambda node: isinstance(node, TableSum) and all(argument.is_number for argument in node.arguments),
        lambda node: sp.Float(double_function(node)(*map(float, node.arguments))),
    )


@lru_cache(maxsize=256)
def _doubled(table: str, summand: sp.Lambda) -> Callable[..., float]:
    import numpy as np

    columns = np.array([[float(item) for item in row] for row in table_rows(table)]).T
    compiled = lambdified(summand, np)

    def evaluate(*arguments: Any) -> float:
        with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
            return float(np.sum(np.broadcast_to(compiled(*columns, *map(np.float64, arguments)), columns.shape[1:])))

    return evaluate


def double_function(node: TableSum) -> Callable[..., float]:
    """A sum as a function of floats."""
    return _doubled(node.table, node.summand)
