"""Tidy forms and three-valued equality of scalar expressions, and numbers without rounding.

Results of any form are tidied by :func:`factored`, which keeps functions and powers of symbolic exponent whole. Other modules
call SymPy's ``factor`` and ``simplify`` only for single formulas whose form they know.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy as sp

from symprop.core import symbols

DIGITS = 60
_REFUTING = sp.Float(10, DIGITS) ** (-40)


@dataclass(frozen=True)
class Comparison:
    """The answer of :func:`compare`.

    ``equal`` is True (proved), False (refuted at ``witness``) or None (undecided: equal to 60 digits at every point
    tried, without a proof). ``points`` counts the finite points that were compared.
    """

    equal: bool | None
    method: str
    points: int = 0
    witness: Mapping[sp.Symbol, sp.Expr] | None = None
    left: sp.Expr | None = None
    right: sp.Expr | None = None


def exact_value(value: Any) -> sp.Expr:
    """A number or formula as it is given; a binary float is the rational that it stores.

    >>> exact_value(0.5), exact_value(sp.Symbol("x"))
    (1/2, x)
    """
    number = sp.sympify(value)
    return sp.Rational(number) if isinstance(number, sp.Float) else number


def collect_linear(expression: sp.Expr, atoms: Sequence[sp.Symbol]) -> sp.Expr:
    """Write an expression that is linear in ``atoms`` as a sum of factored coefficients times atoms.

    >>> x, y, a = sp.symbols("x y a")
    >>> collect_linear((a**2 + 2*a + 1)*x + a*y + a*a*y, [x, y])
    a*y*(a + 1) + x*(a + 1)**2
    """
    expanded = sp.expand(expression)
    rest = expanded
    total = sp.S.Zero
    for atom in atoms:
        coefficient = expanded.coeff(atom, 1)
        if coefficient.has(*atoms):
            return sp.factor(sp.cancel(expression))
        rest = sp.expand(rest - coefficient * atom)
        total += factored(coefficient) * atom
    if rest.has(*atoms):
        return sp.factor(sp.cancel(expression))
    return total + factored(rest)


def factored(expression: sp.Expr) -> sp.Expr:
    """Cancel and factor, with powers of symbolic exponent and functions taken as opaque.

    >>> x, L = sp.symbols("x L", positive=True)
    >>> factored((1 + x)**L*x + (1 + x)**L)
    (x + 1)*(x + 1)**L
    >>> factored(x/(2 - L*2))
    x/(2*(1 - L))
    >>> factored((1 + sp.exp(-2))/(sp.exp(2) + sp.exp(4)))
    exp(-4)
    """
    flat, generators = _generators(expression)
    inverse = {dummy: original for original, dummy in generators.items()}
    return _upright(_joined_growth(sp.factor(sp.cancel(sp.together(flat))).xreplace(inverse)))


def with_factored_denominators(expression: sp.Expr) -> sp.Expr:
    """The same terms with their denominators in factors, whose signs and roots then meet those above.

    >>> x = sp.Symbol("x", positive=True)
    >>> with_factored_denominators(-x*sp.sqrt(x + 1)/(-x**2 - 3*x - 2) + 1/x)
    x/(sqrt(x + 1)*(x + 2)) + 1/x
    """

    def is_denominator(node: sp.Expr) -> bool:
        whole = node.is_Pow and node.exp.is_Integer and node.exp.is_negative and node.base.is_Add
        return bool(whole and node.base.is_polynomial(*node.base.free_symbols))

    return expression.replace(is_denominator, lambda node: sp.factor(node.base) ** node.exp)


def near_one(factor: sp.Expr) -> sp.Expr:
    """A growth factor as 1 + x, or as a product of such: where x is small, its logarithm keeps the digits of x.

    >>> a, m, c = sp.symbols("a m c", positive=True)
    >>> near_one((c + a*m)/(m*(1 + a)))
    1 + (c - m)/(m*(a + 1))
    >>> near_one((1 - a)*(m + c)/m)
    (1 - a)*(c/m + 1)
    """
    sign: sp.Expr = sp.S.One
    ones: list[sp.Expr] = []
    rest: list[sp.Expr] = []
    for item in sp.Mul.make_args(factored(factor)):
        base, exponent = item.as_base_exp()
        constant = base.as_coeff_Add()[0] if base.is_Add and exponent.is_Integer else sp.S.Zero
        if constant == -1:
            item, sign = (-base) ** exponent, sign * constant**exponent
        (ones if abs(constant) == 1 and exponent > 0 else rest).append(item)
    left = sp.Mul(sign, *rest)
    return sp.Mul(*ones, sp.Add(1, factored(left - 1), evaluate=False) if left.has(sp.Add) else left)


def without_cancellation(expression: sp.Expr) -> sp.Expr | None:
    """A quotient of sums of nonnegative terms, in registered symbols of range [0, 1] and what they lack to one.

    Polynomials in such symbols are written in powers of x and 1 - x, by Bernstein's coefficients; coefficients in counts from
    one on are factored. What one symbol lacks to a number is rounded once, whatever its sign. None where another sign is
    unknown.

    >>> from symprop.core.symbols import A, M, alpha_1, d
    >>> without_cancellation(1 + alpha_1**2*d - alpha_1**2)
    alpha_1**2*(d - 1) + 1
    >>> without_cancellation((A*M - A - M)/(A - 1))
    (A + M*(1 - A))/(1 - A)
    >>> without_cancellation(A - M) is None
    True
    >>> x = sp.Symbol("x")
    >>> without_cancellation((1 - x)/A)
    (1 - x)/A
    """
    total, sign = sp.S.One, sp.S.One
    for factor in sp.Mul.make_args(factored(expression)):
        base, exponent = factor.as_base_exp()
        shares = [symbol for symbol in sorted(base.free_symbols, key=str) if is_share(symbol)]
        if not base.is_polynomial(*shares):
            return None
        if not shares and exponent.is_Integer and _is_one_difference(base):
            flip = base.as_coeff_Add()[0] < 0
            total, sign = total * (-base if flip else base) ** exponent, sign * (-1) ** (exponent if flip else 0)
            continue
        found = _of_nonnegative_terms(base, shares)
        if found is None and exponent.is_Integer:
            found, sign = _of_nonnegative_terms(-base, shares), sign * (-1) ** exponent
        if found is None:
            return None
        total *= found**exponent
    return total if sign == 1 else None


def _is_one_difference(base: sp.Expr) -> bool:
    constant, rest = base.as_coeff_Add()
    return bool(rest.is_Symbol or (-rest).is_Symbol) and constant.is_Rational


def is_share(symbol: sp.Expr) -> bool:
    """Whether it is a registered symbol of range [0, 1]."""
    return symbols.is_registered(symbol) and symbols.info(symbol).domain.bounds() == (0.0, 1.0)


def _of_nonnegative_terms(base: sp.Expr, shares: Sequence[sp.Symbol]) -> sp.Expr | None:
    """A polynomial in the shares x as a sum of nonnegative terms in powers of x and 1 - x; None where that is not seen."""
    if base.is_nonnegative:
        return base
    if not shares:
        expanded = sp.expand(base)
        return expanded if _terms_are_nonnegative(expanded) else _of_nonnegative_counts(expanded)
    share, *rest = shares
    coefficients = sp.Poly(base, share).all_coeffs()[::-1]
    degree, total = len(coefficients) - 1, sp.S.Zero
    for k in range(degree + 1):
        weighted = sp.Add(*(sp.binomial(k, i) / sp.binomial(degree, i) * coefficients[i] for i in range(k + 1)))
        part = _of_nonnegative_terms(weighted, rest)
        if part is None:
            return None
        total += sp.binomial(degree, k) * part * share**k * (1 - share) ** (degree - k)
    return total


def _terms_are_nonnegative(expanded: sp.Expr) -> bool:
    return all(term.is_nonnegative for term in sp.Add.make_args(expanded))


def _of_nonnegative_counts(polynomial: sp.Expr) -> sp.Expr | None:
    """A polynomial whose coefficients, in counts from one on, are products of nonnegative factors; None for any other."""
    counts = {symbol: symbol + 1 for symbol in polynomial.free_symbols if symbol.is_integer and symbol.is_positive}
    others = sorted(polynomial.free_symbols - set(counts), key=str)
    if not counts or not others or not polynomial.is_polynomial(*others):
        return None
    total = sp.S.Zero
    for powers, coefficient in sp.Poly(polynomial, *others).terms():
        product = sp.factor(coefficient)
        rest = sp.Mul(*(other**power for other, power in zip(others, powers, strict=True)))
        parts = [sp.expand(factor.subs(counts, simultaneous=True)) for factor in sp.Mul.make_args(product)]
        if not all(map(_terms_are_nonnegative, (rest, *parts))):
            return None
        total += product * rest
    return total


def collected(expression: sp.Expr) -> sp.Expr:
    """A quotient factored, or as a polynomial in one of its symbols with factored coefficients: the shortest of these.

    >>> a, b, m = sp.symbols("a b m", positive=True)
    >>> collected((a*b*m - a - b*m)/(b*(a - 1)))
    a/(b*(1 - a)) + m
    """
    short = factored(expression)
    numerator, denominator = sp.fraction(short)
    forms = [short]
    for symbol in sorted(numerator.free_symbols - denominator.free_symbols, key=str):
        if numerator.is_polynomial(symbol):
            powers = sp.Poly(numerator, symbol).as_dict()
            forms.append(sp.Add(*(factored(value / denominator) * symbol**k for (k,), value in sorted(powers.items()))))
    return min(forms, key=sp.count_ops)


def _upright(expression: sp.Expr) -> sp.Expr:
    """Write -x/(p - 1) as x/(1 - p): the sign of a product goes into its first difference with a negative constant."""
    coefficient, factors = expression.as_coeff_mul()
    if not coefficient.is_negative:
        return expression
    for position, factor in enumerate(factors):
        base, exponent = factor.as_base_exp()
        if base.is_Add and exponent.is_odd and base.as_coeff_Add()[0].is_negative:
            flipped = sp.Pow(-base, exponent)
            return sp.Mul(-coefficient, *factors[:position], flipped, *factors[position + 1 :])
    return expression


def _joined_growth(expression: sp.Expr) -> sp.Expr:
    """Write ``1 + node`` as the power that a depth node says it is."""

    def is_joinable(node: sp.Expr) -> bool:
        return bool(node.is_Add) and len(node.args) == 2 and node.args[0] == 1 and hasattr(node.args[1], "plus_one")

    return expression.replace(is_joinable, lambda node: node.args[1].plus_one())


def compare(
    left: sp.Expr,
    right: sp.Expr,
    *,
    where: Mapping[sp.Symbol, sp.Expr] | None = None,
    points: int = 6,
    seed: int = 0,
) -> Comparison:
    """Decide whether two expressions are equal wherever both are finite.

    Numbers come first: 60-digit values at random points inside the ranges of the registered symbols refute in
    milliseconds. Then an exact argument is tried. ``where`` fixes some symbols.

    >>> x = sp.Symbol("x", positive=True)
    >>> compare(sp.exp(2*sp.log(x)), x**2).equal, compare(x, x + 1).equal
    (True, False)
    """
    fixed = dict(where or {})
    first, second = (sp.sympify(side).subs(fixed) for side in (left, right))
    if first == second:
        return Comparison(True, "identical")
    free = sorted(first.free_symbols | second.free_symbols, key=str)
    rng = random.Random(seed)
    finite = 0
    for _ in range(4 * points):
        point = _random_point(free, rng)
        one, two = (_value(side, point) for side in (first, second))
        if one is None or two is None:
            continue
        finite += 1
        scale = max(abs(one), abs(two), sp.Float(1, DIGITS))
        if abs(one - two) > _REFUTING * scale:
            return Comparison(False, "60-digit witness", finite, {**fixed, **point}, one, two)
        if finite == points or not free:
            break
    if _provably_zero(first - second):
        return Comparison(True, "algebra over transcendental generators", finite)
    return Comparison(None, "60-digit agreement" if finite else "no finite point", finite)


def _random_point(free: Iterable[sp.Symbol], rng: random.Random) -> dict[sp.Symbol, sp.Expr]:
    point: dict[sp.Symbol, sp.Expr] = {}
    bounded: list[sp.Symbol] = []
    for symbol in free:
        if symbols.is_registered(symbol) and symbols.info(symbol).domain.upper is not None:
            bounded.append(symbol)
        elif symbol.is_integer:
            point[symbol] = sp.Integer(rng.randint(2, 9))
        else:
            value = sp.Rational(rng.randint(1, 997), rng.randint(300, 700))
            point[symbol] = value if symbol.is_nonnegative or rng.random() < 0.5 else -value
    for symbol in bounded:
        domain = symbols.info(symbol).domain
        low = sp.S(0) if domain.lower is None else domain.lower.subs(point)
        low = low if low.is_number and low.is_finite else sp.S(0)
        high = sp.sympify(domain.upper).subs(point)
        point[symbol] = low + (high - low) * sp.Rational(rng.randint(1, 96), 97)
    return point


def _value(expression: sp.Expr, point: Mapping[sp.Symbol, sp.Expr]) -> sp.Expr | None:
    value = sp.N(expression.subs(point), DIGITS, maxn=4 * DIGITS)
    return value if value.is_number and value.is_finite and value.is_comparable else None


def _generators(expression: sp.Expr) -> tuple[sp.Expr, dict[sp.Expr, sp.Symbol]]:
    """Replace functions and powers of symbolic exponent by symbols, after splitting their exponents."""
    split = sp.expand(
        sp.sympify(expression),
        deep=True,
        power_exp=True,
        power_base=True,
        mul=False,
        multinomial=False,
        log=False,
        basic=False,
    )
    generators: dict[sp.Expr, sp.Symbol] = {}

    def flatten(node: sp.Expr) -> sp.Expr:
        if node.is_Pow and not node.exp.is_Integer:
            base, exponent = node.as_base_exp()
            key = sp.Pow(factored_base(base), sp.expand(exponent), evaluate=False)
            return generators.setdefault(key, sp.Dummy(f"g{len(generators)}", positive=True))
        if type(node).__name__ in ("exp", "ExpMinusOne") and node.args[0].is_Integer:
            # Powers of one number, which cancel.
            power = generators.setdefault(sp.E, sp.Dummy("e", positive=True)) ** node.args[0]
            return power if isinstance(node, sp.exp) else power - 1
        if isinstance(node, (sp.Function, sp.exp)):
            return generators.setdefault(node, sp.Dummy(f"g{len(generators)}"))
        if node.args and not node.is_Atom:
            return node.func(*(flatten(argument) for argument in node.args))
        return node

    def factored_base(base: sp.Expr) -> sp.Expr:
        return sp.expand(base) if base.is_Add or base.is_Mul else base

    return flatten(split), generators


def _provably_zero(difference: sp.Expr) -> bool:
    # Depth nodes rewrite to powers, so that both spellings of one quantity meet.
    one_angle = difference.rewrite(sp.Pow).replace(sp.acos, lambda x: sp.pi / 2 - sp.asin(sp.cancel(x)))
    flat, generators = _generators(one_angle)
    numerator = sp.fraction(sp.together(flat))[0]
    if sp.expand(numerator) == 0:
        return True
    if one_angle.has(sp.gamma) and sp.gammasimp(sp.together(one_angle)) == 0:
        return True
    roots = {key: dummy for key, dummy in generators.items() if key.is_Pow and key.exp.is_Rational}
    if roots:
        numerator = sp.expand(numerator)
        for key, dummy in roots.items():
            numerator = sp.rem(numerator, dummy ** key.exp.q - key.base ** key.exp.p, dummy)
        if sp.expand(numerator) == 0:
            return True
    return bool(sp.simplify(difference) == 0) if sp.count_ops(difference) < 200 else False
