"""Numbers and expressions from text, through a whitelist of syntax nodes. Nothing is evaluated as code."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping

import sympy as sp

from symprop.core.errors import InputError

MAX_LENGTH = 200
MAX_DIGITS = 400
MAX_EXPONENT = 1000
MAX_ROOT = 10**4
"""Denominator of an exponent: SymPy takes integers to powers as large as that when it combines roots."""
ALLOWED = "a number or an expression in numbers, {}, + - * / **, sqrt, exp, log, pi"
LISTED = 8
"""Names up to which a refusal lists them all."""

_FUNCTIONS = {"sqrt": sp.sqrt, "exp": sp.exp, "log": sp.log}
_CONSTANTS = {"pi": sp.pi, "e": sp.E}
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)


def parse_expression(text: str, names: Mapping[str, sp.Expr] | None = None, *, argument: str = "value") -> sp.Expr:
    """Read an expression in the given names.

    Decimal numbers are taken exactly (0.1 is 1/10). Raises :class:`InputError` for anything outside the whitelist,
    for more than 200 characters, numbers with more than 400 digits, and exponents whose denominator exceeds 10^4.

    >>> parse_expression("sqrt(2)/4 + 0.5")
    sqrt(2)/4 + 1/2
    >>> parse_expression("__import__('os').system('x')")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    symprop.core.errors.InputError: value = __import__('os').system('x') is not allowed: expected a number or ...
    """
    if len(text) > MAX_LENGTH:
        raise InputError(argument, f"text of {len(text)} characters", f"at most {MAX_LENGTH} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval")
        value = _build(tree.body, {**_CONSTANTS, **(names or {})}, text.strip())
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError, ZeroDivisionError):
        known = ", ".join(names) if names and len(names) <= LISTED else "parameter names"
        raise InputError(argument, text, ALLOWED.format(known)) from None
    if value.has(sp.zoo, sp.nan, sp.oo, -sp.oo) or (value.is_number and value.is_real is False):
        raise InputError(argument, text, "a finite real value")
    return value


def parse_assignments(words: list[str], names: Mapping[str, sp.Expr] | None = None) -> dict[str, sp.Expr]:
    """Read ``key=value`` words, each key once.

    >>> parse_assignments(["L=24", "rho=1/4"])
    {'L': 24, 'rho': 1/4}
    """
    found: dict[str, sp.Expr] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.isidentifier() or not key.isascii():
            raise InputError("argument", word, "key=value")
        if key in found:
            raise InputError(key, value, "one value for each key")
        found[key] = parse_expression(value, names, argument=key)
    return found


def _build(node: ast.expr, names: Mapping[str, sp.Expr], text: str) -> sp.Expr:
    if isinstance(node, ast.Constant):
        source = ast.get_source_segment(text, node) or ""
        if isinstance(node.value, bool) or not _NUMBER.fullmatch(source) or len(source) > MAX_DIGITS:
            raise ValueError
        return sp.Rational(source)
    if isinstance(node, ast.Name) and node.id in names:
        return names[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _build(node.operand, names, text)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        return _binary(node.op, _build(node.left, names, text), _build(node.right, names, text))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords and len(node.args) == 1:
        function = _FUNCTIONS.get(node.func.id)
        if function is not None:
            argument = _build(node.args[0], names, text)
            if function is sp.exp and argument.has(sp.log):
                # SymPy turns exp(x log 12) into 12**x.
                _check_roots(*argument.atoms(sp.Rational))
            if function is sp.sqrt:
                return _binary(ast.Pow(), argument, sp.S.Half)
            if function is sp.exp and argument.is_number and abs(sp.N(argument, 5)) > MAX_EXPONENT:
                raise OverflowError
            return function(argument)
    raise ValueError


def _binary(operator: ast.operator, left: sp.Expr, right: sp.Expr) -> sp.Expr:
    if isinstance(operator, ast.Add):
        return left + right
    if isinstance(operator, ast.Sub):
        return left - right
    if isinstance(operator, ast.Mult | ast.Div):
        _check_roots(*_exponents(left), *_exponents(right))
    if isinstance(operator, ast.Mult):
        return left * right
    if isinstance(operator, ast.Div):
        if right == 0:
            raise ZeroDivisionError
        return left / right
    if isinstance(operator, ast.Pow):
        if right.is_number and abs(right) > MAX_EXPONENT:
            raise OverflowError
        if left.is_Rational and right.is_Integer and abs(int(right)) * len(str(left)) > 20 * MAX_DIGITS:
            raise OverflowError
        if right.is_Rational:
            _check_roots(right * _check_roots(*_exponents(left)))
        return left**right
    raise ValueError


def _exponents(expression: sp.Expr) -> list[sp.Rational]:
    return [power.exp for power in expression.atoms(sp.Pow) if power.exp.is_Rational]


def _check_roots(*exponents: sp.Rational) -> sp.Rational:
    """The inverse of the least common denominator; refuses one whose root SymPy would not take in reasonable time."""
    denominator = math.lcm(1, *(int(item.q) for item in exponents))
    if denominator > MAX_ROOT:
        raise OverflowError
    return sp.Rational(1, denominator)
