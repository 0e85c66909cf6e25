"""Expressions as a mathematician writes them: in LaTeX, and in Unicode for a terminal.

Coefficients stand before moments, constants first inside sums, positive terms before negative ones. SymPy's own
printer sorts by its internal order and writes ``C(Y) \\alpha_2^2``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sympy as sp
from sympy.printing.latex import LatexPrinter

from symprop.claims import LatexName
from symprop.core import symbols
from symprop.notation import LINE, View
from symprop.report.escape import escape
from symprop.report.unicode import unicode_of
from symprop.report.width import BESIDE, width

MATRICES = {"Pi": r"\Pi", "W_1": "W^{F_1}", "W_2": "W^{F_2}"}
"""Matrices that print otherwise than their names say."""
MATRIX_MEANINGS = {
    "P": r"$\mathbf{1}\mathbf{1}^\top/n$, which puts the mean of the tokens in the place of each",
    "Pi": "$I - P$, which takes the mean of the tokens from each",
    "W_1": "first feed-forward weights",
    "W_2": "second feed-forward weights",
    "W_K": "weights of the keys",
    "W_Q": "weights of the queries",
    "W_V": "weights of the values",
    "X": "tokens, one in a row",
}
"""What matrices mean whose names are the same in all derivations, in LaTeX."""
FUNCTIONS = {
    "ArcCosine": (
        r"A_k(\Delta, v)", r"$v^k$ times the arc-cosine function of order $k$ at $t = \Delta/v$: $A_0 = \arccos(1 - t)$, "
        r"$A_k' = A_{k-1}$, $A_k(0) = 0$"),
    "CorrelationDeficit": (
        r"H(t, f)",
        r"one minus the expected sample correlation of Gaussian variables of correlation $1 - t$ at $f$ degrees of freedom"),
    "Commutation": (
        r"K_{m,k}", r"commutation matrix: $K_{m,k}\,(a \otimes b) = b \otimes a$ for $a$ of $k$ and $b$ of $m$ entries"),
    "KernelCall": (
        r"\mathbb{E}[\phi\phi](v, w, c)", r"expectation of $\phi(x)\phi(y)$ for Gaussian $x$, $y$ of variances $v$, $w$ and "
        r"covariance $c$; $\mathbb{E}[\phi^2](v)$ where these are all $v$"),
    "OneMatrix": (r"\mathbf{1}", "vector of ones"),
    "SlopeMoment": (
        r"\mathbb{E}[\phi'^2](v)", r"expectation at variance $v$ of the square of the activation or of its derivative"),
    "SlopeDifference": (
        r"\Delta[\phi'](v, \Delta)", r"that expectation less the one of the product for two tokens of covariance $v - \Delta$"),
    "Softmax": ("A", "attention matrix: softmax of every row of the scores $M$"),
}
"""Functions that print by a sign of their own: the sign, and what it means, both in LaTeX."""
_SQUARE = re.compile(r"(\\?[A-Za-z]+(?:\{[^{}]*\})?(?:_(?:\w|\{[^{}]*\}))?|\\\|[^|]*\\\|(?:_F)?)\^(?:2|\{2\})")
_MOMENT = re.compile(r"[A-Z]_\w+|[CNTWqp]|q_X")
_ELEMENTARY = {name: rf"\{name}" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")} | {
    "asin": r"\arcsin", "acos": r"\arccos", "atan": r"\arctan", "erf": r"\operatorname{erf}", "erfc": r"\operatorname{erfc}",
    "asinh": r"\operatorname{arsinh}",
}
_BUILT_UP = re.compile(r"\\frac|\\sum|\\begin")


class ProofPrinter(LatexPrinter):
    """LaTeX of scalar and matrix expressions in the order and spelling of a paper.

    Symbols print as ``names`` says, then as the view's ``latex_names``, then as registered. Brackets are never
    ``\\left ... \\right``, so that a formula may be broken inside them.
    """

    printmethod = "_proof_latex"

    def __init__(self, names: Mapping[sp.Symbol, LatexName] | None = None, view: View | None = None) -> None:
        super().__init__()
        self._names = dict(names or {})
        self._view_names = dict(view.latex_names) if view else {}
        self._widest = (view.line if view else LINE) - BESIDE
        self._softmax_named = False

    def doprint(self, expression: Any) -> str:
        expression = sp.sympify(expression, strict=True)
        nodes = sp.preorder_traversal(expression)
        self._softmax_named = any(type(node).__name__ == "SoftmaxJacobian" for node in nodes)
        return str(self._print(expression))

    def name(self, symbol: sp.Symbol) -> str:
        """How a symbol prints."""
        if symbol in self._names:
            return str(self._names[symbol].latex)
        if symbol in self._view_names:
            return str(self._view_names[symbol])
        if symbols.is_registered(symbol):
            return symbols.info(symbol).latex
        return plain_name(str(symbol.name))

    def _print_Symbol(self, expr: sp.Symbol, style: str = "plain") -> str:
        return self.name(expr)

    _print_Dummy = _print_Symbol

    def is_moment(self, expr: sp.Expr) -> bool:
        """Whether a factor is a quantity that coefficients multiply: a moment, an invariant or a trace."""
        if isinstance(expr, sp.Pow):
            return self.is_moment(expr.base)
        if expr.is_Symbol:
            known = expr not in self._names and symbols.is_registered(expr)
            return not known or bool(_MOMENT.fullmatch(expr.name) and not expr.is_integer)
        return isinstance(expr, sp.Trace)

    # Sums.

    def _print_Add(self, expr: sp.Expr, order: Any = None) -> str:
        return _signed(self.terms(expr))

    def terms(self, expr: sp.Expr) -> list[tuple[str, str]]:
        """Sign and absolute value of every term of a sum, in print order."""
        positive: list[sp.Expr] = []
        negative: list[sp.Expr] = []
        for term in sp.Add.make_args(expr):
            minus, body = _sign_apart(term)
            (negative if minus else positive).append(body)
        counting = all(term.is_number or (term.is_Symbol and term.is_integer) for term in positive)

        def rank(term: sp.Expr) -> tuple[Any, ...]:
            number = term.is_number
            moments = any(self.is_moment(factor) for factor in sp.Mul.make_args(term))
            return (number if counting else not number, moments, sp.count_ops(term), str(term))

        signed = [("+", self._term(term)) for term in sorted(positive, key=rank)]
        # A growth node prints as a difference: keep it in brackets after a minus sign.
        return signed + [("-", self._bracketed(term, product=True)) for term in sorted(negative, key=rank)]

    def _term(self, term: sp.Expr) -> str:
        return str(self._print(term))

    def _bracketed(self, expr: sp.Expr, *, product: bool) -> str:
        text = str(self._print(expr))
        loose = expr.is_Add or _is_growth(expr) or isinstance(expr, (sp.Piecewise, sp.MatAdd))
        return brackets(text) if loose and product else text

    # Products.

    def _print_Mul(self, expr: sp.Expr) -> str:
        factors = _oriented(sp.Mul.make_args(expr))
        if any(factor.is_Rational and factor.is_negative for factor in factors):
            return "-" + self._bracketed(-expr, product=True)
        above: list[sp.Expr] = []
        below: list[sp.Expr] = []
        for factor in factors:
            if factor.is_Rational and not factor.is_Integer:
                above.append(sp.Integer(factor.p))
                below.append(sp.Integer(factor.q))
            elif factor.is_Pow and factor.exp.is_Rational and factor.exp < 0:
                below.append(1 / factor)
            else:
                above.append(factor)
        above = [factor for factor in above if factor != 1]
        if not below:
            return self._product(above)
        bottom = self._product(below, alone=len(below) == 1)
        simple = [f for f in above if not self.is_moment(f) and self._rank(f)[0] < 6]
        rest = [f for f in above if f not in simple]
        if any(self.is_moment(node) for factor in below for node in sp.preorder_traversal(factor)):
            simple, rest = above, []
        elif not simple and len(rest) == 1:
            simple, rest = rest, []
        elif not simple:
            growth = [f for f in rest if not self.is_moment(f)]
            if len(growth) == 1:
                simple, rest = growth, [f for f in rest if f not in growth]
        top = self._product(simple, alone=len(simple) == 1) if simple else "1"
        if width(bottom) <= 0.7 * self._widest and width(top) > self._widest:
            fraction = rf"\frac{{1}}{{{bottom}}}\,{brackets(top)}"
        elif max(width(top), width(bottom)) > self._widest:
            fraction = rf"{top if top == '1' else brackets(top)}\big/{brackets(bottom)}"
        else:
            fraction = rf"\frac{{{top}}}{{{bottom}}}"
        return fraction if not rest else rf"{fraction}\,{self._product(rest)}"

    def _rank(self, factor: sp.Expr) -> tuple[Any, ...]:
        base = factor.base if factor.is_Pow else factor
        name = str(base)
        if self.is_moment(base):
            return (9, name)
        if factor.is_number:
            return (0 if factor.is_Rational else 1, name)
        if base.is_Symbol:
            for rank, prefix in ((2, "tau"), (3, "alpha_"), (3, "a_")):
                if name.startswith(prefix):
                    return (rank, name)
            size = base.is_integer or name == "gamma"
            return (4 if size else 5, "" if name == "n" else self.name(base))
        if base.is_Add and all(symbol.is_integer for symbol in base.free_symbols) and factor.is_Add:
            return (5, "~" + name)
        kind = 8 if type(factor).__name__ == "GeometricSum" else 7 if _is_growth(factor) else 6
        return (kind, isinstance(base, sp.exp), sp.count_ops(base) if base.is_Add else 0, name)

    def _product(self, factors: Iterable[sp.Expr], *, alone: bool = False) -> str:
        ordered = sorted(factors, key=self._rank)
        if not ordered:
            return "1"
        parts: list[str] = []
        for factor in ordered:
            text = self._bracketed(factor, product=not alone)
            previous = parts[-1] if parts else ""
            if not previous:
                parts.append(text)
            elif previous[-1:].isdigit() and text[:1].isdigit():
                parts.append(rf" \cdot {text}")
            elif self.is_moment(factor) or text.startswith(r"\sum"):
                parts.append(rf"\,{text}")
            else:
                parts.append(f" {text}")
        return "".join(parts)

    # Powers and functions.

    def _print_Pow(self, expr: sp.Expr) -> str:
        base, exponent = expr.base, expr.exp
        if exponent.is_Rational and exponent < 0:
            below = str(self._print(1 / expr))
            return rf"1\big/{brackets(below)}" if width(below) > self._widest else rf"\frac{{1}}{{{below}}}"
        if base.is_Symbol and exponent.is_Rational:
            square = _SQUARE.fullmatch(self.name(base))
            if square and (2 * exponent).is_Integer:
                return _power(square[1], str(2 * exponent))
        if exponent.is_even and _awkward(base):
            base = -base
        text = str(self._print(base))
        if exponent == sp.Rational(1, 2) and width(text) <= self._widest:
            return rf"\sqrt{{{text}}}"
        compound = not (base.is_Symbol or (base.is_Integer and base >= 0)) or "^" in text or r"\mathbb{E}" in text
        return _power(brackets(text) if compound else text, str(self._print(exponent)))

    def _print_exp(self, expr: sp.Expr, exp: Any = None) -> str:
        power = _power("e", str(self._print(expr.args[0])))
        return power if exp is None else _power(brackets(power), exp)

    def _print_DepthPower(self, expr: sp.Expr, exp: Any = None) -> str:
        return str(self._power_of(*expr.args))

    def _print_GrowthMinusOne(self, expr: sp.Expr, exp: Any = None) -> str:
        x, depth = expr.args
        return f"{self._power_of(1 + x, depth)} - 1"

    def _print_ExpMinusOne(self, expr: sp.Expr, exp: Any = None) -> str:
        return f"{_power('e', str(self._print(expr.args[0])))} - 1"

    def _print_GeometricSum(self, expr: sp.Expr, exp: Any = None) -> str:
        first, second, depth = expr.args
        last = str(self._print(depth - 1))
        if 1 in (first, second):
            return rf"\sum_{{j=0}}^{{{last}}} {self._power_text(second if first == 1 else first, 'j')}"
        return rf"\sum_{{j=0}}^{{{last}}} {self._power_text(first, 'j')} " + self._power_text(second, f"{last} - j")

    def _print_Pi(self, expr: sp.Expr) -> str:
        return r"\pi"

    def _print_EulerGamma(self, expr: sp.Expr) -> str:
        return r"\gamma_E"

    def _print_ArcCosine(self, expr: sp.Expr, exp: Any = None) -> str:
        order, *rest = (str(self._print(argument)) for argument in expr.args)
        return self._called(f"A_{{{order}}}", rest, exp)

    def _print_KernelCall(self, expr: sp.Expr, exp: Any = None) -> str:
        order, first, second, covariance = expr.args
        name = _slope(order)
        if first == second == covariance:
            return self._called(rf"\mathbb{{E}}[{name}^2]", [str(self._print(first))], exp)
        arguments = [str(self._print(item)) for item in (first, second, covariance)]
        return self._called(rf"\mathbb{{E}}[{name}{name}]", arguments, exp)

    def _print_CorrelationDeficit(self, expr: sp.Expr, exp: Any = None) -> str:
        return self._called("H", [str(self._print(argument)) for argument in expr.args], exp)

    def _print_SlopeMoment(self, expr: sp.Expr, exp: Any = None) -> str:
        order, v = expr.args
        return self._called(rf"\mathbb{{E}}[{_slope(order)}^2]", [str(self._print(v))], exp)

    def _print_SlopeDifference(self, expr: sp.Expr, exp: Any = None) -> str:
        order, *rest = expr.args
        return self._called(rf"\Delta[{_slope(order)}]", [str(self._print(argument)) for argument in rest], exp)

    def _print_TableSum(self, expr: sp.Expr, exp: Any = None) -> str:
        arguments = [str(self._print(argument)) for argument in expr.arguments]
        return self._called(rf"\text{{{escape(expr.label)}}}", arguments, exp)

    # SymPy looks for printers of base classes for other kinds of nodes only.
    _print_SmoothSum = _print_TableSum

    def _print_LayerMoment(self, expr: sp.Expr, exp: Any = None) -> str:
        name, _, strength, tokens, _, _, deficit, *_ = expr.args
        arguments = [str(self._print(argument)) for argument in (strength, deficit, tokens)]
        call = rf"\mathcal{{M}}_{{\text{{{str(name).replace('_', ' ')}}}}}" + brackets(", ".join(arguments))
        return call if exp is None else _power(brackets(call), exp)

    def _print_log(self, expr: sp.Expr, exp: Any = None) -> str:
        argument = expr.args[0]
        body = str(self._print(argument))
        call = rf"\log {body}" if argument.is_Symbol or argument.is_Integer else rf"\log{brackets(body)}"
        return call if exp is None else _power(brackets(call), exp)

    def _print_gamma(self, expr: sp.Expr, exp: Any = None) -> str:
        return self._called(r"\Gamma", [str(self._print(expr.args[0]))], exp)

    def _print_Function(self, expr: sp.Function, exp: Any = None) -> str:
        name = _ELEMENTARY.get(type(expr).__name__)
        if name is None:
            return str(super()._print_Function(expr, exp))
        return self._called(name, [str(self._print(argument)) for argument in expr.args], exp)

    def _print_RisingRatio(self, expr: sp.Expr, exp: Any = None) -> str:
        first, second, count = expr.args
        index = sp.Symbol("j")
        above, below = (str(self._print(item + index)) for item in (first, second))
        text = rf"\prod_{{j=0}}^{{{self._print(count - 1)}}} \frac{{{above}}}{{{below}}}"
        return text if exp is None else _power(brackets(text), exp)

    @staticmethod
    def _called(name: str, arguments: list[str], exp: str | None) -> str:
        call = name + brackets(", ".join(arguments))
        return call if exp is None else _power(brackets(call), exp)

    def _power_of(self, base: sp.Expr, exponent: sp.Expr) -> str:
        return self._power_text(base, str(self._print(exponent)))

    def _power_text(self, base: sp.Expr, exponent: str) -> str:
        text = str(self._print(base))
        single = (base.is_Symbol and "^" not in text) or (base.is_Integer and base >= 0)
        return _power(text if single else brackets(text), exponent)

    def _print_Piecewise(self, expr: sp.Piecewise) -> str:
        rows = []
        for value, condition in expr.args:
            when = r"\text{otherwise}" if condition == True else rf"\text{{if }} {self._print(condition)}"  # noqa: E712
            rows.append(f"{self._print(value)} & {when}")
        return r"\begin{cases} " + r" \\ ".join(rows) + r" \end{cases}"

    # Matrices.

    def _print_MatrixSymbol(self, expr: sp.MatrixSymbol) -> str:
        name = str(expr.name)
        if name in MATRICES:
            return MATRICES[name]
        weight = re.fullmatch(r"W_([A-Z])", name)
        return f"W^{{{weight[1]}}}" if weight else plain_name(name)

    _print_Averaging = _print_Centring = _print_SymmetricMatrix = _print_MatrixSymbol

    def _print_Identity(self, expr: sp.Expr) -> str:
        size = str(self._print(expr.shape[0]))
        return f"I_{size}" if len(size) == 1 else f"I_{{{size}}}"

    def _print_OneMatrix(self, expr: sp.Expr) -> str:
        return r"\mathbf{1}" if expr.shape[1] == 1 else r"\mathbf{1}\mathbf{1}^\top"

    def _print_ZeroMatrix(self, expr: sp.Expr) -> str:
        return "0"

    def _print_UnitVector(self, expr: sp.Expr) -> str:
        return f"e_{{{self._print(expr.args[1] + 1)}}}"

    def _print_Commutation(self, expr: sp.Expr) -> str:
        return f"K_{{{self._print(expr.args[0])},{self._print(expr.args[1])}}}"

    def _print_Softmax(self, expr: sp.Expr) -> str:
        return "A" if self._softmax_named else rf"\operatorname{{softmax}}{brackets(str(self._print(expr.args[0])))}"

    def _print_SoftmaxJacobian(self, expr: sp.Expr) -> str:
        return r"\frac{\partial A}{\partial M}"

    def _print_DiagMatrix(self, expr: sp.Expr) -> str:
        return rf"\operatorname{{diag}}{brackets(str(self._print(expr.args[0])))}"

    def _print_Transpose(self, expr: sp.Expr) -> str:
        inner = expr.args[0]
        text = str(self._print(inner))
        weight = re.fullmatch(r"([A-Za-z])\^\{(.*)\}", text)
        if weight:
            return rf"{weight[1]}^{{{weight[2]}\top}}"
        return rf"{text if isinstance(inner, sp.MatrixSymbol) or inner.func is sp.OneMatrix else brackets(text)}^\top"

    def _print_Trace(self, expr: sp.Expr, exp: Any = None) -> str:
        text = rf"\operatorname{{tr}}{brackets(str(self._print(expr.args[0])))}"
        return text if exp is None else rf"{brackets(text)}^{{{exp}}}"

    def _print_MatAdd(self, expr: sp.Expr) -> str:
        terms: list[tuple[str, str]] = []
        for term in sorted(expr.args, key=lambda term: (sp.count_ops(term), str(term))):
            text = str(self._print(term))
            terms.append(("-", text[1:]) if text.startswith("-") else ("+", text))
        return _signed(sorted(terms, key=lambda pair: pair[0] == "-"))

    def _print_MatMul(self, expr: sp.Expr) -> str:
        scalar, matrices = expr.as_coeff_matrices()
        text = " ".join(
            brackets(str(self._print(m)))
            if isinstance(m, (sp.MatAdd, sp.KroneckerProduct, sp.HadamardProduct)) and len(matrices) > 1
            else str(self._print(m))
            for m in matrices
        )
        if scalar == 1:
            return text
        if scalar.could_extract_minus_sign():
            return "-" + (text if scalar == -1 else rf"{self._bracketed(-scalar, product=True)}\,{text}")
        if isinstance(matrices[0], (sp.MatAdd, sp.KroneckerProduct, sp.HadamardProduct)) and len(matrices) == 1:
            text = brackets(text)
        return rf"{self._bracketed(scalar, product=True)}\,{text}"

    def _print_MatPow(self, expr: sp.Expr) -> str:
        text = str(self._print(expr.base))
        return _power(text if isinstance(expr.base, sp.MatrixSymbol) else brackets(text), str(self._print(expr.exp)))

    def _print_KroneckerProduct(self, expr: sp.Expr) -> str:
        return self._joined(expr, r" \otimes ")

    def _print_HadamardProduct(self, expr: sp.Expr) -> str:
        return self._joined(expr, r" \circ ")

    def _joined(self, expr: sp.Expr, sign: str) -> str:
        loose = (sp.MatAdd, sp.KroneckerProduct, sp.HadamardProduct)
        texts = ((isinstance(part, loose), str(self._print(part))) for part in expr.args)
        return sign.join(brackets(body) if inner else body for inner, body in texts)


def _awkward(base: sp.Expr) -> bool:
    """Whether a sum reads better with its sign changed: mostly negative terms, or x - 1 for an x of at most one."""
    names = [item for item in base.free_symbols if isinstance(item, sp.Symbol)]
    if not base.is_Add or all(item.is_integer for item in names):
        return False
    negative = sum(term.could_extract_minus_sign() for term in base.args)
    if 2 * negative != len(base.args):
        return bool(2 * negative > len(base.args))
    small = (symbols.is_registered(item) and symbols.info(item).domain.upper == 1 for item in names)
    return bool(base.as_coeff_Add()[0].is_negative) and any(small)


def _sign_apart(term: sp.Expr) -> tuple[bool, sp.Expr]:
    """Whether a term of a sum is subtracted, and what is added or subtracted."""
    factors = list(sp.Mul.make_args(term))
    turned = _turned(factors)
    if len(turned) % 2 == 0:
        minus = bool(term.could_extract_minus_sign() and not _is_growth(term))
        return minus, -term if minus else term
    negative = any(factor.is_Rational and factor.is_negative for factor in factors)
    body = sp.Mul(*_oriented([sp.S.NegativeOne, *factors]))
    return not negative, -body if negative and body.as_coeff_Mul()[0].is_negative else body


def _turned(factors: Sequence[sp.Expr]) -> list[int]:
    """The odd powers among factors whose base reads better with its sign changed."""
    powers = (item.as_base_exp() for item in factors)
    return [index for index, (base, exponent) in enumerate(powers) if exponent.is_odd and _awkward(base)]


def _oriented(factors: Sequence[sp.Expr]) -> list[sp.Expr]:
    """The factors of a product, with the signs of sums changed where they read better and the product stays the same."""
    found = list(factors)
    turned = _turned(found)
    minus = next((index for index, item in enumerate(found) if item.is_Rational and item.is_negative), None)
    if len(turned) % 2 and minus is None:
        turned.pop()
    elif len(turned) % 2 and minus is not None:
        found[minus] = -found[minus]
    for index in turned:
        base, exponent = found[index].as_base_exp()
        found[index] = (-base) ** exponent
    return found


def _slope(order: sp.Expr) -> str:
    """A derivative of an activation that is not named."""
    return rf"\phi^{{({order})}}" if order > 2 else r"\phi" + "'" * int(order)


def latex(expression: Any, names: Mapping[sp.Symbol, LatexName] | None = None, view: View | None = None) -> str:
    """An expression in LaTeX.

    >>> from symprop.core.symbols import L, alpha_1, d, sigma_v2
    >>> latex((alpha_1**2*d*sigma_v2 + 1)**L)
    '(1 + \\\\alpha_1^2 d \\\\sigma_v^2)^L'
    """
    return ProofPrinter(names, view).doprint(expression)


def text(expression: Any, names: Mapping[sp.Symbol, LatexName] | None = None, view: View | None = None) -> str:
    """An expression in one line of Unicode.

    >>> from symprop.core.symbols import L, alpha_1, d, sigma_v2
    >>> text((alpha_1**2*d*sigma_v2 + 1)**L)
    '(1 + α₁² d σ_v²)^L'
    """
    return unicode_of(latex(expression, names, view))


def brackets(body: str) -> str:
    """Parentheses that grow with what they hold, without ``\\left`` and ``\\right``."""
    size = "Big" if _BUILT_UP.search(body) else "big" if "(" in body else ""
    return rf"\{size}l({body}\{size}r)" if size else f"({body})"


def _is_growth(expr: sp.Expr) -> bool:
    return type(expr).__name__ in {"GrowthMinusOne", "ExpMinusOne"}


def _signed(terms: list[tuple[str, str]]) -> str:
    head, *tail = terms
    return ("-" if head[0] == "-" else "") + head[1] + "".join(f" {sign} {body}" for sign, body in tail)


def _power(base: str, exponent: str) -> str:
    if exponent == "1":
        return base
    return f"{base}^{exponent}" if len(exponent) == 1 else f"{base}^{{{exponent}}}"


def plain_name(name: str) -> str:
    """LaTeX of an unregistered name: Greek letters, primes, hats and subscripts."""
    head, *subscripts = name.rstrip("'").split("_")
    hat = re.fullmatch(r"(\w+)(hat|tilde|bar)", head)
    stem = _greek(hat[1]) if hat else _greek(head)
    numbered = re.fullmatch(r"([A-Za-z])(\d+)", stem)
    if numbered and not subscripts:
        stem, subscripts = numbered[1], [numbered[2]]
    body = rf"\{hat[2]}{{{stem}}}" if hat else stem
    primes = "'" * (len(name) - len(name.rstrip("'")))
    if not subscripts:
        return body + primes
    # A prime at the end is that of the last index: X_k' is a row of X.
    index = ", ".join(map(_greek, subscripts)) + primes
    return f"{body}_{index if len(index) == 1 else '{' + index + '}'}"


def _greek(word: str) -> str:
    known = {
        "alpha",
        "beta",
        "gamma",
        "delta",
        "epsilon",
        "eta",
        "theta",
        "kappa",
        "lambda",
        "mu",
        "nu",
        "xi",
        "pi",
        "rho",
        "sigma",
        "tau",
        "phi",
        "chi",
        "psi",
        "omega",
        "Gamma",
        "Delta",
        "Theta",
        "Lambda",
        "Sigma",
        "Pi",
    }
    return f"\\{word}" if word in known else word
