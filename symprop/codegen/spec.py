"""What a generated function computes and says about itself, and its value to any number of digits."""

from __future__ import annotations

import keyword
import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Any, TypeAlias

import mpmath
import sympy as sp

from symprop.codegen.recursion import Recursion
from symprop.core import symbols
from symprop.core.errors import InputError, RefusedError, UnknownNameError
from symprop.core.expression import exact_value
from symprop.core.provenance import EXACT, Assumption, Derived, Source, merge_unique, neglected_order
from symprop.functions.arc_cosine import absolute_gap, arc_cosine
from symprop.functions.depth_nodes import ExpMinusOne, GeometricSum, GrowthMinusOne, Saturated
from symprop.functions.finite_width import correlation_deficit, correlation_slope_deficit
from symprop.functions.normal_moment import normal_moment
from symprop.functions.rising_ratio import ReciprocalSum, RisingRatio, reciprocal_sum, rising_ratio
from symprop.functions.softmax_double import DOUBLE, DOUBLE_DIGITS, ROUNDING, in_double
from symprop.functions.table_sum import LOG_OF_ONE_PLUS, callable_sums, exact_log

RESERVED = frozenset({"np", "torch", "check", "NamedTuple"})
"""Names that the generated modules use themselves."""


@dataclass(frozen=True)
class Parameter:
    """An argument of a generated function: a registered symbol with its meaning and range."""

    symbol: sp.Symbol
    latex: str
    meaning: str
    domain: symbols.Domain

    @property
    def name(self) -> str:
        return str(self.symbol.name)


Bounds: TypeAlias = Mapping[sp.Symbol, sp.Expr]
NO_BOUNDS: Bounds = MappingProxyType({})


def parameters(
    *wanted: sp.Symbol, lower: Bounds = NO_BOUNDS, upper: Bounds = NO_BOUNDS, above: Collection[sp.Symbol] = ()
) -> tuple[Parameter, ...]:
    """The parameters that belong to registered symbols; an unregistered one raises ``UnknownNameError``.

    ``lower`` and ``upper`` give bounds that hold for this function only, in its other parameters; those in ``above`` do not
    reach their lower bound.

    >>> parameters(symbols.L)[0].meaning
    'depth: number of blocks'
    >>> print(parameters(symbols.gap, upper={symbols.gap: 2 * symbols.q})[0].domain)
    a number in [0, 2*q]
    """
    def bounded(item: symbols.SymbolInfo) -> Parameter:
        domain = replace(item.domain, upper=upper.get(item.symbol, item.domain.upper))
        domain = replace(domain, lower=lower[item.symbol], least=None) if item.symbol in lower else domain
        domain = replace(domain, open_lower=domain.open_lower or item.symbol in above)
        return Parameter(item.symbol, item.latex, item.meaning, domain)

    return tuple(bounded(symbols.info(symbol)) for symbol in wanted)


@dataclass(frozen=True)
class FunctionSpec:
    """A function to generate: named outputs as expressions in registered parameters, and what they stand on.

    ``defaults`` gives a parameter's default as an expression in the others; defaults are filled in their order of
    listing. ``formula`` replaces the LaTeX derived from the outputs. With a ``recursion`` the outputs may use its state
    symbols, which stand for the state after the last layer. ``rounded_as_one`` names arguments and outputs that are known
    by their distance to one, or as a logarithm of a factor near one: generated code rounds them as it rounds 1. Raises
    ``RefusedError`` for a name that cannot be an argument, an unregistered or missing parameter, or a default of
    something that is not a parameter.

    >>> from symprop.core.symbols import L, alpha_1
    >>> spec = FunctionSpec("growth", parameters(alpha_1, L), (("C", (1 + alpha_1**2)**L),), "Growth of C.")
    >>> spec.formula_latex
    'C = \\\\left(\\\\alpha_1^{2} + 1\\\\right)^{L}'
    """

    name: str
    parameters: tuple[Parameter, ...]
    outputs: tuple[tuple[str, sp.Expr], ...]
    summary: str
    formula: str = ""
    assumptions: tuple[Assumption, ...] = ()
    neglected: str = EXACT
    sources: tuple[Source, ...] = ()
    defaults: Mapping[sp.Symbol, sp.Expr] = field(default_factory=dict)
    recursion: Recursion | None = None
    rounded_as_one: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "defaults", MappingProxyType({k: sp.sympify(v) for k, v in self.defaults.items()}))
        own = {parameter.symbol for parameter in self.parameters}
        loop = self.recursion
        state = set() if loop is None else set(loop.state)
        for name in (self.name, *(p.name for p in self.parameters), *(name for name, _ in self.outputs),
                     *sorted(map(str, state))):
            if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_") or name in RESERVED:
                raise RefusedError(f"FunctionSpec({self.name!r})", f"{name!r} cannot name an argument or a function",
                                   "declare the symbol under a Python identifier")
        if not self.outputs or not own or len(own) < len(self.parameters):
            raise RefusedError(f"FunctionSpec({self.name!r})", "no output, no parameter, or one listed twice",
                               "list every parameter once and at least one output")
        used: set[sp.Symbol] = set().union(*(expression.free_symbols for _, expression in self.outputs),
                                           *(default.free_symbols for default in self.defaults.values()))
        used = used - state | (set() if loop is None else loop.free_symbols)
        if {str(symbol) for symbol in state} & {str(symbol) for symbol in own}:
            raise RefusedError(f"FunctionSpec({self.name!r})", "a state and a parameter have one name", "rename the state")
        for symbol in sorted((used | set(self.defaults)) - own, key=str):
            raise RefusedError(f"FunctionSpec({self.name!r})", f"{symbol} is not among its parameters",
                               f"add {symbol} to the parameters")
        filled = own - set(self.defaults)
        for symbol, default in self.defaults.items():
            if not default.free_symbols <= filled:
                raise RefusedError(f"FunctionSpec({self.name!r})", f"the default of {symbol} needs a later default",
                                   "list the defaults in the order in which they can be filled")
            filled = filled | {symbol}

    @classmethod
    def from_derived(
        cls,
        name: str,
        summary: str,
        arguments: Iterable[sp.Symbol],
        outputs: Mapping[str, Derived],
        *,
        defaults: Mapping[sp.Symbol, sp.Expr] | None = None,
        formula: str = "",
        recursion: Recursion | None = None,
        lower: Bounds = NO_BOUNDS,
        upper: Bounds = NO_BOUNDS,
        above: Collection[sp.Symbol] = (),
        rounded_as_one: tuple[str, ...] = (),
    ) -> FunctionSpec:
        """A spec whose assumptions, neglected order and sources are those of the derived outputs.

        ``lower``, ``upper`` and ``above`` as in :func:`parameters`.
        """
        derived = tuple(outputs.values())
        return cls(
            name, parameters(*arguments, lower=lower, upper=upper, above=above),
            tuple((key, value.expression) for key, value in outputs.items()), summary, formula,
            merge_unique(*(value.assumptions for value in derived)),
            neglected_order(*(value.neglected for value in derived)),
            merge_unique(*(value.sources for value in derived)), dict(defaults or {}), recursion, rounded_as_one,
        )

    @property
    def signature(self) -> tuple[Parameter, ...]:
        """The parameters in the order of the generated signature: those without a default first."""
        return tuple(sorted(self.parameters, key=lambda parameter: parameter.symbol in self.defaults))

    @property
    def formula_latex(self) -> str:
        """The formula in LaTeX, with the registered names of the symbols."""
        if self.formula:
            return self.formula
        lines = [f"{_latex_name(name)} = {self.latex(expression)}" for name, expression in self.outputs]
        if self.recursion is not None:
            loop = self.recursion
            first = [f"{self.latex(state)} = {self.latex(value)}" for state, value in loop.start.items()]
            rest = [rf"{self.latex(state)} \leftarrow {self.latex(value)}" for state, value in loop.updates.items()]
            lines = [", ".join(first), ", ".join(rest) + rf"\ (\text{{{loop.count} times}})", *lines]
        return r" \\ ".join(lines)

    def latex(self, expression: sp.Expr) -> str:
        """An expression in LaTeX, with depth nodes as the powers that they stand for."""
        names = {parameter.symbol: parameter.latex for parameter in self.parameters}
        plain = expression.replace(lambda node: isinstance(node, _NODES), lambda node: node.elementary())
        return str(sp.latex(plain, symbol_names=names))


def _latex_name(name: str) -> str:
    return name if len(name) == 1 else r"\mathrm{" + name.replace("_", r"\_") + "}"


_NODES = (GrowthMinusOne, ExpMinusOne, GeometricSum, Saturated, RisingRatio, ReciprocalSum)


def evaluate(spec: FunctionSpec, values: Mapping[str, Any], digits: int = 15) -> dict[str, sp.Float]:
    """The outputs of a spec at one point, correct to ``digits`` significant digits.

    Moments of softmax weights are evaluated in double precision, so that an output that contains one has
    ten digits at most (a relative 1e-10, where its terms do not cancel).

    Numbers may be of any kind that SymPy takes exactly; floats stand for their binary value. Raises
    ``UnknownNameError`` for a name that is no parameter and ``InputError`` for a missing value, one outside its
    range, or a result that is not a finite real number.

    >>> from symprop.core.symbols import L, alpha_1
    >>> spec = FunctionSpec("growth", parameters(alpha_1, L), (("C", (1 + alpha_1**2)**L),), "Growth of C.")
    >>> evaluate(spec, {"alpha_1": sp.Rational(1, 10), "L": 1000000}, digits=20)
    {'C': 2.3647358888701483370e+4321}
    """
    known = {parameter.name: parameter for parameter in spec.signature}
    for name in values:
        if name not in known:
            raise UnknownNameError(f"parameter of {spec.name}", name, known)
    point: dict[sp.Symbol, sp.Expr] = {}
    for name, parameter in known.items():
        if name in values:
            point[parameter.symbol] = _exact(name, values[name], parameter.domain)
        elif parameter.symbol not in spec.defaults:
            raise InputError(name, "missing", f"{parameter.domain} ({parameter.meaning})")
    for symbol, default in spec.defaults.items():
        point.setdefault(symbol, default.xreplace(point))
    for name, parameter in known.items():
        if not parameter.domain.contains(point[parameter.symbol], point):
            raise InputError(name, point[parameter.symbol], str(parameter.domain))
    loop = spec.recursion
    rounded = loop is not None and any(update.has(*DOUBLE) for update in loop.updates.values())
    digits = min(digits, DOUBLE_DIGITS) if rounded else digits

    @cache
    def state(precision: int) -> dict[sp.Symbol, Any]:
        return {} if loop is None else dict(zip(loop.state, loop.final(point, precision), strict=True))

    states = () if loop is None else tuple(sorted(loop.state, key=str))
    return {name: _value(name, expression, point, digits, states, state) for name, expression in spec.outputs}


def neglected_by_evaluate(spec: FunctionSpec) -> str:
    """What the spec neglects and what :func:`evaluate` rounds.

    >>> from symprop.core.symbols import gap, n
    >>> from symprop.functions.softmax_overlap import Participation
    >>> spec = FunctionSpec("chi", parameters(gap, n), (("chi", Participation(gap, n)),), "Participation.")
    >>> neglected_by_evaluate(spec)
    'relative rounding of 1e-10 in moments of softmax weights'
    """
    rounded = any(expression.has(*DOUBLE) for _, expression in spec.outputs)
    return neglected_order(spec.neglected, ROUNDING if rounded else EXACT)


def _exact(name: str, value: Any, domain: symbols.Domain) -> sp.Expr:
    number = sp.S.NaN if isinstance(value, (str, bool)) else sp.sympify(value)
    if not (number.is_number and number.is_finite and number.is_real):
        raise InputError(name, value, str(domain))
    return exact_value(number)


def _value(
    name: str, expression: sp.Expr, point: Mapping[sp.Symbol, sp.Expr], digits: int,
    states: Sequence[sp.Symbol], state: Callable[[int], Mapping[sp.Symbol, Any]],
) -> sp.Float:
    """Evaluate at doubling precision until two values agree to the digits asked for."""
    order = sorted(point, key=str)
    if expression.has(*DOUBLE):
        digits = min(digits, DOUBLE_DIGITS)
        expression = expression.xreplace(in_double(expression, point))
    compute = _compiled(expression, (*order, *states))
    before: Any = None
    reached = shrinking = 0
    for precision in (2 * digits + 20, 4 * digits + 80, 8 * digits + 320, 16 * digits + 1280):
        with mpmath.workdps(precision):
            arguments = [mpmath.mpmathify(sp.N(point[symbol], precision)) for symbol in order]
            try:
                arguments += [state(precision)[symbol] for symbol in states]
                now = mpmath.mpmathify(compute(*arguments))
            except (ZeroDivisionError, ValueError):
                continue
            # What cancels to nothing at few digits has a logarithm or a root at more.
            if not mpmath.isfinite(now) or mpmath.im(now) != 0:
                continue
            now = mpmath.re(now)
            if before is not None and abs(now - before) <= abs(now) * mpmath.mpf(10) ** (-digits - 2):
                return sp.Float(mpmath.nstr(now, digits + 5, min_fixed=0, max_fixed=0), digits)
            # Terms that cancel leave their rounding, which falls with the precision.
            shrinking += before is not None and abs(now) <= abs(before) * mpmath.mpf(10) ** ((reached - precision) // 2)
            before, reached = now, precision
        if shrinking == 2:
            return sp.Float(0, digits)
    raise InputError(name, sp.Symbol("undefined"), "a point where the formula is a finite number")


@lru_cache(maxsize=512)
def _compiled(expression: sp.Expr, arguments: tuple[sp.Symbol, ...]) -> Callable[..., Any]:
    plain, sums = callable_sums(expression)
    formula = plain.replace(sp.log, exact_log)
    function: Callable[..., Any] = sp.lambdify(arguments, formula, modules=[dict(sums), IN_NUMBERS, BY_MPMATH, "mpmath"])
    return function


def _geometric_sum(r: Any, s: Any, depth: Any) -> Any:
    return depth * r ** (depth - 1) if r == s else (r**depth - s**depth) / (r - s)


ENOUGH_BITS = 1200
"""Bits in which 1 + x of quotients of doubles is not zero unless x is -1."""


def growth_minus_one(library: Any, bits: Callable[[], int]) -> Callable[[Any, Any], Any]:
    """(1 + x)^depth - 1 in the numbers of a library; below its precision, 1 + x would be one and the growth nothing.

    A negative power of zero is infinite where there are ``ENOUGH_BITS``; at fewer it raises ``ZeroDivisionError``, as x may
    be -1 by rounding only.
    """

    def growth(x: Any, depth: Any) -> Any:
        pole = x == -1 and depth < 0
        if pole and bits() < ENOUGH_BITS:
            raise ZeroDivisionError
        return library.expm1(depth * library.log1p(x)) if pole or 2 * x > -1 else (1 + x) ** depth - 1

    return growth


IN_NUMBERS: Mapping[str, Callable[..., Any]] = {
    "DepthPower": operator.pow, "GeometricSum": _geometric_sum, "Saturated": lambda x: x
}
"""Functions of numbers of any library."""
BY_MPMATH = {
    "GrowthMinusOne": growth_minus_one(mpmath, lambda: int(mpmath.mp.prec)),
    "ExpMinusOne": mpmath.expm1,
    LOG_OF_ONE_PLUS: mpmath.log1p,
    "ArcCosine": arc_cosine,
    "AbsoluteGap": absolute_gap,
    "NormalMoment": normal_moment,
    "RisingRatio": rising_ratio,
    "ReciprocalSum": reciprocal_sum,
    "CorrelationDeficit": correlation_deficit,
    "CorrelationSlopeDeficit": correlation_slope_deficit,
}
