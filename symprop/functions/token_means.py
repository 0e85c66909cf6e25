r"""Averages over the rows of a causal mask, and over pairs of rows, as SymPy functions.

Under a causal mask row t attends to the first t tokens, so that its weight moments are those of t tokens. What a component
says about exchangeable tokens is then an average over t, or over pairs t < u. :class:`RowMean` and :class:`PairMean` hold the
moment of one row or pair, with its weight moments (:mod:`symprop.functions.softmax_overlap`) in sight; rational moments are
summed to harmonic numbers, others in double precision (:mod:`symprop.functions.causal_numeric`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import sympy as sp

from symprop.core.errors import InputError, RefusedError
from symprop.core.symbols import declare
from symprop.functions.softmax_overlap import WeightNode
from symprop.functions.table_sum import extremes

ROW = declare("t", "t", "position of a token", lower=1, integer=True)
LATER = declare("u", "u", "position of a later token", lower=1, integer=True)
"""The number of keys of a row, and that of a later row."""
AMPLITUDE = sp.Symbol("P", positive=True)
"""Product of the fluctuating score scales of two rows, 1 on average at large width."""
COSINE = sp.Symbol("rho_s", real=True)
"""Correlation of the scores of two rows."""


class _RowsOnSphere(sp.Function):
    """Of two rows; arguments: variance a, score gap g, tokens t, additional keys of the later row, dimension of the keys."""

    nargs = (5,)


class SphereOverlap(_RowsOnSphere):
    r"""The overlap of two rows of softmax weights for keys on a sphere: :class:`RowOverlap` of cosines.

    >>> a, g, t, m, D = sp.symbols("a g t m D", positive=True)
    >>> SphereOverlap(0, 0, t, m, D)
    1/(m + t)
    """

    @classmethod
    def eval(cls, variance: sp.Expr, score_gap: sp.Expr, tokens: sp.Expr, extra: sp.Expr, dimension: sp.Expr) -> sp.Expr | None:
        return 1 / (tokens + extra) if variance == 0 else None


class SphereSlope(_RowsOnSphere):
    r"""How the overlap grows with the covariance of the scores at rows of fixed length.

    :math:`\tfrac{D}{D - 1} E \sum_j (1 - c_j^2) (J_t J_u)_{jj}` for equal scores, with the cosines c of the keys.

    >>> a, g, t, m, D = sp.symbols("a g t m D", positive=True)
    >>> SphereSlope(0, 0, t, m, D)
    (1 - 1/t)/(m + t)
    """

    @classmethod
    def eval(cls, variance: sp.Expr, score_gap: sp.Expr, tokens: sp.Expr, extra: sp.Expr, dimension: sp.Expr) -> sp.Expr | None:
        return (1 - 1 / tokens) / (tokens + extra) if variance == 0 else None


class OverlapGrowth(sp.Function):
    r"""How the overlap of two rows grows with the scale of their scores at a fixed correlation, :math:`s\, dO/ds`.

    Arguments as those of :class:`~symprop.functions.softmax_overlap.RowOverlap`: variance, score gap, tokens, additional keys;
    with a dimension, those of :class:`SphereOverlap`.

    >>> a, g, n = sp.symbols("a g n", positive=True)
    >>> OverlapGrowth(0, 0, n), OverlapGrowth(a, a, n)
    (0, 0)
    """

    nargs = (3, 4, 5)

    @classmethod
    def eval(cls, variance: sp.Expr, score_gap: sp.Expr, *rest: sp.Expr) -> sp.Expr | None:
        return sp.S.Zero if variance == 0 or (variance == score_gap and len(rest) < 3) else None


def _sum_of_powers(expression: sp.Expr, index: sp.Symbol, first: sp.Expr, last: sp.Expr) -> sp.Expr | None:
    """Sum of a Laurent polynomial in the index over first..last; None where the expression is none."""
    total = sp.S.Zero
    for term in sp.Add.make_args(sp.expand(sp.apart(sp.together(expression), index))):
        factor, power = term.as_independent(index, as_Add=False)
        exponent = sp.S.Zero if power == 1 else sp.S.One if power == index else None
        if power.is_Pow and power.base == index and power.exp.is_Integer:
            exponent = power.exp
        if exponent is None:
            return None
        if exponent >= 0:
            total += factor * sp.summation(index**exponent, (index, first, last))
        else:
            total += factor * (sp.harmonic(last, -exponent) - sp.harmonic(first - 1, -exponent))
    return total


def _rational(expression: sp.Expr) -> bool:
    return not expression.atoms(sp.Function) and not expression.has(AMPLITUDE)


class RowMean(sp.Function):
    r"""RowMean(f, n), the average :math:`\frac1n \sum_{t=1}^n f(t)` over rows, f a SymPy ``Lambda``.

    >>> from symprop.functions.softmax_overlap import Participation
    >>> a, n, t = sp.symbols("a n t", positive=True, integer=True)
    >>> RowMean(sp.Lambda(t, 1/t), n), RowMean(sp.Lambda(t, 3), n)
    (harmonic(n)/n, 3)
    >>> RowMean(sp.Lambda(t, Participation(a, t)), 1)
    1
    >>> sp.N(RowMean(sp.Lambda(t, Participation(1, t)), 2), 8)
    0.81841908
    """

    @classmethod
    def eval(cls, function: sp.Lambda, tokens: sp.Expr) -> sp.Expr | None:
        (index,), moment = function.signature, function.expr
        if tokens == 1:
            return moment.subs(index, 1)
        if index not in moment.free_symbols:
            return moment
        if _rational(moment):
            total = _sum_of_powers(moment, index, sp.S.One, tokens)
            return None if total is None else sp.expand(total / tokens)
        return None

    @property
    def tokens(self) -> sp.Expr:
        """The number of rows."""
        return self.args[1]

    def doit(self, **hints: Any) -> sp.Expr:
        """The sum written out, for an integer number of tokens."""
        if not self.tokens.is_Integer:
            return self
        (index,), moment = self.args[0].signature, self.args[0].expr
        return sp.Add(*(moment.subs(index, k) for k in range(1, int(self.tokens) + 1))) / self.tokens

    def _eval_evalf(self, prec: int) -> sp.Expr | None:
        return _double(self)

    @property
    def numbers(self) -> tuple[sp.Expr, ...]:
        """What the value depends on: the number of tokens, the law of two rows, and the symbols of the moment by name."""
        return (self.tokens, *(self.args[2] if len(self.args) > 2 else ()), *_free(self.args[0]))

    def at(self, *numbers: float) -> float:
        """The value in double precision at :attr:`numbers`.

        >>> from symprop.functions.softmax_overlap import Participation
        >>> a, n, t = sp.symbols("a n t", positive=True, integer=True)
        >>> round(RowMean(sp.Lambda(t, Participation(a, t)), n).at(2.0, 1.0), 6)
        0.818419
        """
        from symprop.functions.causal_numeric import row_means

        function = _moment(self.args[0])
        return float(row_means(lambda *at: [function(*at)], 1, *numbers)[0])

    def in_double(self) -> float:
        """The value in double precision; every argument must be a number."""
        return self.at(*map(float, self.numbers))

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        raise RefusedError(str(self), "a mean over tokens has no derivative in its number of tokens",
                           "take differences of values")

    def _eval_derivative(self, symbol: sp.Symbol) -> sp.Expr:
        if symbol in self.tokens.free_symbols:
            self.fdiff(2)
        return self.func(sp.Lambda(self.args[0].signature, self.args[0].expr.diff(symbol)), *self.args[1:])

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        (index,), moment = self.args[0].signature, self.args[0].expr
        count, name = printer._print(self.tokens), printer._print(index)
        text = rf"\frac{{1}}{{{count}}} \sum_{{{name}=1}}^{{{count}}} {printer.parenthesize(moment, 50)}"
        return text if exp is None else rf"\left({text}\right)^{{{exp}}}"


class PairMean(sp.Function):
    r"""PairMean(F, n, law), the average of F(t, u, P, rho) over all pairs of rows t < u and over the law of (P, rho).

    ``F`` is a SymPy ``Lambda`` of the keys t of the earlier row, u of the later row, the product P of the scales of their
    scores and their correlation rho, which fluctuate at finite width. ``law`` lists E P, E rho, var P, cov(P, rho), var rho;
    the average is a Gauss rule of 3 x 3 nodes of a normal law, with rho kept below one. 0 for a single token.

    >>> from symprop.functions.softmax_overlap import RowOverlap
    >>> t, u, P, rho, n = sp.symbols("t u P rho n", positive=True, integer=True)
    >>> sp.factor(PairMean(sp.Lambda((t, u, P, rho), 1/u), n, sharp(0)))
    2*(n - harmonic(n))/(n*(n - 1))
    >>> sp.N(PairMean(sp.Lambda((t, u, P, rho), RowOverlap(1, 1 - rho, t, u - t)), 2, sharp(sp.Rational(1, 2))), 8)
    0.50000000
    """

    @classmethod
    def eval(cls, function: sp.Lambda, tokens: sp.Expr, law: sp.Tuple) -> sp.Expr | None:
        (first, last, amplitude, cosine), moment = function.signature, function.expr
        if len(law) != 5:
            raise InputError("law", law, "E P, E rho, var P, cov(P, rho), var rho")
        if tokens == 1:
            return sp.S.Zero
        if not moment.free_symbols & {first, last, amplitude, cosine}:
            return moment
        if not moment.atoms(sp.Function) and not moment.free_symbols & {amplitude, cosine}:
            inner = _sum_of_powers(moment, first, sp.S.One, last - 1)
            # H_(u-1) = H_u - 1/u: one sum of harmonic numbers is left, by parts.
            total = None if inner is None else _outer_sum(inner, last, tokens)
            return None if total is None else sp.expand(2 * total / (tokens * (tokens - 1)))
        return None

    @property
    def tokens(self) -> sp.Expr:
        """The number of rows."""
        return self.args[1]

    def doit(self, **hints: Any) -> sp.Expr:
        """The sum over pairs written out at the mean of the law, for an integer number of tokens and a law without spread."""
        if not self.tokens.is_Integer or any(item != 0 for item in self.args[2][2:]):
            return self
        count, function = int(self.tokens), self.args[0]
        at = self.args[2][:2]
        terms = (function(t, u, *at) for u in range(2, count + 1) for t in range(1, u))
        return sp.Add(*terms) * 2 / (self.tokens * (self.tokens - 1))

    def _eval_evalf(self, prec: int) -> sp.Expr | None:
        return _double(self)

    numbers = RowMean.numbers

    def at(self, *numbers: float) -> float:
        """The value in double precision at :attr:`numbers`."""
        from symprop.functions.causal_numeric import pair_means

        function = _moment(self.args[0])
        return float(pair_means(lambda *at: [function(*at)], 1, numbers[0], numbers[1:6], *numbers[6:])[0])

    in_double = RowMean.in_double
    fdiff = RowMean.fdiff
    _eval_derivative = RowMean._eval_derivative

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        moment = self.args[0].expr
        text = rf"\bigl\langle {printer._print(moment)} \bigr\rangle_{{t < u}}"
        return text if exp is None else rf"{text}^{{{exp}}}"


def sharp(cosine: sp.Expr) -> sp.Tuple:
    """The law of a pair of rows whose scores do not fluctuate: P = 1 and one correlation."""
    return sp.Tuple(1, cosine, 0, 0, 0)


def _outer_sum(inner: sp.Expr, last: sp.Symbol, tokens: sp.Expr) -> sp.Expr | None:
    """Sum over u = 2, ..., n of terms u^k and u^k H_u with k >= -1 for the latter."""
    inner = sp.expand(inner.replace(
        lambda node: isinstance(node, sp.harmonic) and node.args[0] == last - 1,
        lambda node: sp.harmonic(last, *node.args[1:]) - last ** -(node.args[1] if len(node.args) > 1 else 1),
    ))
    kinds = {node for node in inner.atoms(sp.harmonic) if node.has(last)}
    if not kinds <= {sp.harmonic(last)}:
        return None
    marker = sp.Dummy("H")
    parts = sp.Poly(inner.subs(sp.harmonic(last), marker), marker)
    if parts.degree() > 1:
        return None
    plain = _sum_of_powers(parts.coeff_monomial(1), last, sp.S.One, tokens)
    if plain is None:
        return None
    total = plain - parts.coeff_monomial(1).subs(last, 1)
    for term in sp.Add.make_args(sp.expand(parts.coeff_monomial(marker))):
        factor, power = term.as_independent(last, as_Add=False)
        if factor == 0:
            continue
        if power == 1 / last:
            known = (sp.harmonic(tokens) ** 2 + sp.harmonic(tokens, 2)) / 2
        elif power == 1:
            known = (tokens + 1) * sp.harmonic(tokens) - tokens
        else:
            return None
        total += factor * (known - 1)
    return total


def _free(function: sp.Lambda) -> tuple[sp.Symbol, ...]:
    """The symbols of a moment that are not bound, by name."""
    return tuple(sorted(function.free_symbols, key=str))


def _moment(function: sp.Lambda) -> Callable[..., Any]:
    """A moment as a function of its bound symbols and its others."""
    return compiled((*function.signature, *_free(function)), function.expr)


def outermost(expression: sp.Expr, kinds: tuple[type, ...]) -> set[sp.Expr]:
    """The nodes of some kinds in an expression that are not inside an average of moments.

    >>> t, n = sp.symbols("t n", positive=True, integer=True)
    >>> from symprop.functions.softmax_overlap import Participation
    >>> mean = RowMean(sp.Lambda(t, Participation(n, t)), n)
    >>> outermost(1 + mean, (Participation, RowMean)) == {mean}
    True
    """
    found, steps = set(), sp.preorder_traversal(expression)
    for node in steps:
        if isinstance(node, kinds):
            found.add(node)
        if hasattr(node, "numbers"):
            steps.skip()
    return found


@lru_cache(maxsize=2048)
def _double(node: Any) -> sp.Expr | None:
    """The value in double precision, whatever precision is asked for."""
    bound = set(node.args[0].signature)
    if (node.args[0].expr.free_symbols - bound) or not node.tokens.is_Integer or node.tokens < 1:
        return None
    if any(not item.is_number for item in (node.args[2] if len(node.args) > 2 else ())):
        return None
    return sp.Float(node.in_double(), 15)


@lru_cache(maxsize=512)
def compiled(arguments: tuple[sp.Symbol, ...], expression: sp.Expr, masked: bool = True) -> Callable[..., Any]:
    """An expression in weight moments as a function of numpy arrays; those of masked rows are interpolated.

    >>> import numpy as np
    >>> from symprop.functions.softmax_overlap import Participation
    >>> t = sp.Symbol("t")
    >>> compiled((t,), Participation(1, t))(np.array([1.0, 2.0])).round(6).tolist()
    [1.0, 0.636838]
    """
    import numpy as np

    plain = expression.replace(_is_number, lambda node: node.evalf(20))
    made: Callable[..., Any] = sp.lambdify(arguments, plain, modules=[_moments(masked), np], cse=True)
    return made


def _is_number(node: sp.Basic) -> bool:
    """Whether a function is the same everywhere, so that its value can stand for it."""
    return isinstance(node, sp.Function) and not isinstance(node, WeightNode) and not node.free_symbols


def special_functions() -> Mapping[str, Callable[..., Any]]:
    """Functions of formulas that numpy has not, of numbers and of arrays."""
    import mpmath
    import numpy as np

    from symprop.functions.finite_width import correlation_deficit, correlation_slope_deficit

    def each(function: Callable[..., Any]) -> Callable[..., Any]:
        return np.vectorize(lambda *x: float(function(*map(mpmath.mpf, x))), otypes=[float])

    return {
        "ExpMinusOne": np.expm1,
        "CorrelationDeficit": each(correlation_deficit),
        "CorrelationSlopeDeficit": each(correlation_slope_deficit),
    }


_ROWS: dict[Any, Any] = {}
"""Series of moments of rows under a mask."""
_PAIRS: dict[Any, Any] = {}
"""Series of what two of them are interpolated from."""


def _moments(masked: bool) -> Mapping[str, Callable[..., Any]]:
    import numpy as np

    from symprop.functions import causal_numeric
    from symprop.functions.causal_tables import tabulated_ends, tabulated_rows
    from symprop.functions.softmax_numeric import averaged_moments, row_moments

    def rows(requests: Any, variance: Any, tokens: Any, dimension: Any) -> Any:
        at = requests, variance, tokens, dimension
        return tabulated_rows(*at, _ROWS) if masked else row_moments(*at)

    def row(powers: Any, variance: Any, tokens: Any, dimension: Any = np.inf, spread: Any = 0.0, weight: Any = 0.0) -> Any:
        pairs = tuple(item if isinstance(item, tuple) else (item, 0) for item in powers)
        a, n, law, w = (np.asarray(item, dtype=np.float64) for item in (variance, tokens, dimension, spread))
        return averaged_moments([(pairs, float(weight))], a, n, law, w, rows)[0]

    def ends(variance: Any, dimension: Any, tokens: Any, extra: Any) -> Any:
        return tabulated_ends(variance, dimension, tokens, extra, _PAIRS)

    def pair(evaluate: Callable[..., Any]) -> Callable[..., Any]:
        def value(variance: Any, gap: Any, tokens: Any, extra: Any = 0.0, dimension: Any = None) -> Any:
            return evaluate(variance, gap, tokens, extra + 0 * tokens, dimension, ends)

        return value

    overlap, slope = (pair(lambda *at, k=k: causal_numeric.overlap_and_slope(*at)[k]) for k in (0, 1))
    return {
        **special_functions(),
        **extremes(np),
        "WeightMoment": row,
        "Participation": lambda *rest: row(((2, 0),), *rest),
        "RowOverlap": overlap,
        "JacobianOverlap": slope,
        "SphereOverlap": overlap,
        "SphereSlope": slope,
        "OverlapGrowth": pair(causal_numeric.overlap_growth),
    }


__all__ = [
    "AMPLITUDE", "COSINE", "LATER", "ROW", "OverlapGrowth", "PairMean", "RowMean", "SphereOverlap", "SphereSlope", "compiled",
    "outermost", "sharp", "special_functions",
]
