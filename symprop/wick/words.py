"""Words and trace polynomials: the normal form behind every expectation.

A *letter* is a matrix or its transpose, a *word* a product of letters, a *monomial* a product of traces of words, and
a :class:`Polynomial` a sum of monomials with scalar coefficients. A trace word stands for all its rotations and for
their transposes. The projections are part of the algebra: P is written (1/n) 1 1^T, Pi^2 = Pi, Pi 1 = 0, 1^T 1 = n,
tr Pi = n - 1; and a word is cut wherever its inner dimension is 1, so that tr(u v^T A) becomes the scalar v^T A u.

A term of a matrix expression is a coefficient times a Kronecker product of words behind a permutation of its factors,
which is how commutation matrices are kept exactly: ``T = (w_1 kron ... kron w_m) S`` with
``S (x_1 kron ... kron x_m) = x_{s(1)} kron ... kron x_{s(m)}``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import sympy as sp

from symprop.core.errors import InputError, RefusedError
from symprop.core.expression import factored
from symprop.wick.matrices import (
    Averaging,
    Centring,
    Commutation,
    Softmax,
    SoftmaxJacobian,
    SymmetricMatrix,
    UnitVector,
    averaging,
)


class Letter(NamedTuple):
    """A matrix of the alphabet, or its transpose."""

    name: str
    flipped: bool


Word = tuple[Letter, ...]
Monomial = tuple[Word, ...]


class Wire(NamedTuple):
    """One factor of a Kronecker product: a word with its shape (the word may be empty)."""

    word: Word
    rows: sp.Expr
    columns: sp.Expr


@dataclass(frozen=True)
class _Entry:
    base: sp.MatrixExpr
    rows: sp.Expr
    columns: sp.Expr
    symmetric: bool
    kind: str
    inverse_of: str = ""


class Polynomial:
    """A polynomial in traces: monomials with scalar coefficients; a zero coefficient is dropped."""

    __slots__ = ("terms",)

    def __init__(self, terms: Mapping[Monomial, sp.Expr] | None = None) -> None:
        self.terms: dict[Monomial, sp.Expr] = dict(terms or {})

    @classmethod
    def scalar(cls, value: sp.Expr | int) -> Polynomial:
        """A constant."""
        value = sp.sympify(value)
        return cls({(): value} if value != 0 else {})

    @classmethod
    def collected(cls, pairs: Iterable[tuple[Monomial, sp.Expr]]) -> Polynomial:
        """The sum of terms, with equal monomials added."""
        parts: dict[Monomial, list[sp.Expr]] = {}
        for monomial, coefficient in pairs:
            parts.setdefault(monomial, []).append(coefficient)
        made = cls()
        for monomial, coefficients in parts.items():
            total = coefficients[0] if len(coefficients) == 1 else sp.expand(sp.Add(*coefficients))
            if total != 0:
                made.terms[monomial] = total
        return made

    def __add__(self, other: Polynomial) -> Polynomial:
        return Polynomial.collected([*self.terms.items(), *other.terms.items()])

    def __mul__(self, other: Polynomial) -> Polynomial:
        return Polynomial.collected(
            (tuple(sorted(one + two)) if one and two else one or two, left * right)
            for one, left in self.terms.items()
            for two, right in other.terms.items()
        )

    def __bool__(self) -> bool:
        return bool(self.terms)


@dataclass(frozen=True)
class Term:
    """A coefficient times (wire_1 kron ... kron wire_m) behind a permutation of the m inputs."""

    coefficient: Polynomial
    wires: tuple[Wire, ...]
    permutation: tuple[int, ...]

    @property
    def inputs(self) -> tuple[sp.Expr, ...]:
        """The dimensions of the input factors, before the permutation."""
        sizes = [sp.S.Zero] * len(self.wires)
        for wire, source in zip(self.wires, self.permutation, strict=True):
            sizes[source] = wire.columns
        return tuple(sizes)


class Alphabet:
    """The letters of one calculation: their shapes and symmetries, and the reduction of words."""

    def __init__(self, random: Iterable[sp.MatrixSymbol] = ()) -> None:
        self.random = frozenset(random)
        self._entries: dict[str, _Entry] = {}
        self._canonical: dict[Word, Word] = {}
        self._reduced: dict[Word, tuple[sp.Expr, Monomial]] = {}

    # Letters

    def letter(self, base: sp.MatrixExpr, name: str | None = None, symmetric: bool | None = None) -> Letter:
        """The letter of a matrix that words do not look into."""
        if isinstance(base, sp.Transpose):
            inner = self.letter(base.arg)
            return self.flip(inner)
        key = name or str(base)
        rows, columns = (sp.sympify(size) for size in base.shape)
        known = self._entries.get(key)
        if known is not None and known.base != base and not isinstance(base, sp.MatrixSymbol):
            # Diagonals of projections print alike at every size.
            key = f"{key}[{rows}, {columns}]"
            known = self._entries.get(key)
        if known is None:
            kind = "centring" if isinstance(base, Centring) else "unit" if isinstance(base, UnitVector) else "plain"
            inverse_of = ""
            key = f"Pi[{rows}]" if kind == "centring" else key
            is_symmetric = _is_symmetric(base) if symmetric is None else symmetric
            if isinstance(base, sp.Inverse):
                inverse_of = self.letter(base.arg).name
                is_symmetric = is_symmetric or self._entries[inverse_of].symmetric
            known = self._entries.setdefault(key, _Entry(base, rows, columns, is_symmetric, kind, inverse_of))
        if known.base != base:
            raise InputError("expression", key, "one matrix of that name (two of different shape or kind occur)")
        return Letter(key, False)

    def ones(self, size: sp.Expr) -> Letter:
        """The vector 1 of that length."""
        key = f"1[{size}]"
        if key not in self._entries:
            self._entries[key] = _Entry(sp.OneMatrix(size, 1), sp.sympify(size), sp.S.One, False, "ones")
        return Letter(key, False)

    def flip(self, letter: Letter) -> Letter:
        """The transposed letter."""
        return letter if self._entries[letter.name].symmetric else Letter(letter.name, not letter.flipped)

    def flip_word(self, word: Word) -> Word:
        """The transposed word."""
        return tuple(self.flip(letter) for letter in reversed(word))

    def shape(self, letter: Letter) -> tuple[sp.Expr, sp.Expr]:
        """Rows and columns of the letter as it stands."""
        entry = self._entries[letter.name]
        return (entry.columns, entry.rows) if letter.flipped else (entry.rows, entry.columns)

    def matrix(self, letter: Letter) -> sp.MatrixExpr:
        """The letter as a SymPy matrix expression."""
        base = self._entries[letter.name].base
        return base.T if letter.flipped else base

    def base(self, name: str) -> sp.MatrixExpr:
        """The matrix behind a name."""
        return self._entries[name].base

    # Reduction of words

    def canonical(self, word: Word) -> Word:
        """The least of all rotations of a trace word and of its transpose."""
        known = self._canonical.get(word)
        if known is None:
            turned = self.flip_word(word)
            known = min(form[i:] + form[:i] for form in (word, turned) for i in range(len(word)))
            self._canonical[word] = known
        return known

    def closed(self, word: Word, size: sp.Expr) -> tuple[sp.Expr, Monomial]:
        """The trace of a word as a coefficient times a monomial of reduced words.

        ``size`` is the dimension of the identity, for an empty word.
        """
        if not word:
            return size, ()
        known = self._reduced.get(word)
        if known is None:
            known = self._reduced[word] = self._close(word)
        return known

    def _close(self, word: Word) -> tuple[sp.Expr, Monomial]:
        cuts = [i for i, letter in enumerate(word) if self.shape(letter)[0] == 1]
        if cuts:
            start = cuts[0]
            turned = word[start:] + word[:start]
            bounds = [cut - start for cut in cuts] + [len(word)]
            coefficient = sp.S.One
            words: list[Word] = []
            for left, right in pairwise(bounds):
                factor, piece = self._scalar(turned[left:right])
                coefficient *= factor
                if coefficient == 0:
                    return sp.S.Zero, ()
                words.extend(piece)
            return coefficient, tuple(sorted(words))
        reduced = self.contract(word)
        if reduced is None:
            return sp.S.Zero, ()
        while len(reduced) > 1:
            joined = self.contract((reduced[-1], reduced[0]))
            if joined is None:
                return sp.S.Zero, ()
            if len(joined) == 2:
                break
            inner = self.contract(joined + reduced[1:-1])
            if inner is None:
                return sp.S.Zero, ()
            reduced = inner
        if not reduced:
            return self.shape(word[0])[0], ()
        if len(reduced) == 1 and self._entries[reduced[0].name].kind == "centring":
            return self._entries[reduced[0].name].rows - 1, ()
        return sp.S.One, (self.canonical(reduced),)

    def _scalar(self, word: Word) -> tuple[sp.Expr, Monomial]:
        """A word of shape (1, 1) without an inner dimension 1."""
        reduced = self.contract(word)
        if reduced is None:
            return sp.S.Zero, ()
        if not reduced:
            return sp.S.One, ()
        if len(reduced) == 1:
            entry = self._entries[reduced[0].name]
            if entry.kind in ("ones", "unit"):
                return sp.S.One, ()
            if entry.kind == "centring":
                return sp.S.Zero, ()
        if len(reduced) == 2:
            one, two = (self._entries[letter.name] for letter in reduced)
            if one.kind == two.kind == "ones":
                return one.rows, ()
            if {one.kind, two.kind} == {"ones", "unit"}:
                return sp.S.One, ()
            if one.kind == two.kind == "unit":
                return sp.KroneckerDelta(one.base.args[1], two.base.args[1]), ()
        if len(reduced) == 3:
            one, middle, two = (self._entries[letter.name] for letter in reduced)
            if one.kind == two.kind == "unit" and middle.kind == "centring":
                return sp.KroneckerDelta(one.base.args[1], two.base.args[1]) - 1 / middle.rows, ()
        return sp.S.One, (self.canonical(reduced),)

    def contract(self, word: Word) -> Word | None:
        """Apply Pi Pi = Pi, Pi 1 = 0 and A^{-1} A = I to neighbours; None for a word that is zero."""
        stack: list[Letter] = []
        for letter in word:
            entry = self._entries[letter.name]
            if stack:
                last = stack[-1]
                before = self._entries[last.name]
                if entry.kind == "centring" and before.kind == "centring":
                    continue
                if {entry.kind, before.kind} == {"centring", "ones"}:
                    return None
                if letter.flipped == last.flipped and (
                    entry.inverse_of == last.name or before.inverse_of == letter.name
                ):
                    stack.pop()
                    continue
            if entry.kind == "centring" and entry.rows == 1:
                return None
            stack.append(letter)
        return tuple(stack)

    def open(self, wire: Wire) -> tuple[Polynomial, Wire] | None:
        """Reduce a word that is not traced, taking out the scalars between inner dimensions 1."""
        reduced = self.contract(wire.word)
        if reduced is None:
            return None
        cuts = [i for i in range(len(reduced)) if self.shape(reduced[i])[0] == 1]
        if reduced and self.shape(reduced[-1])[1] == 1:
            cuts.append(len(reduced))
        coefficient = Polynomial.scalar(1)
        if len(cuts) > 1:
            for left, right in pairwise(cuts):
                factor, words = self._scalar(reduced[left:right])
                if factor == 0:
                    return None
                coefficient = coefficient * Polynomial({words: factor})
            reduced = reduced[: cuts[0]] + reduced[cuts[-1] :]
        return coefficient, Wire(reduced, wire.rows, wire.columns)

    # From SymPy

    def polynomial(self, expression: sp.Expr) -> Polynomial:
        """A scalar expression in traces as a polynomial."""
        expression = sp.sympify(expression)
        if getattr(expression, "is_Matrix", False):
            raise InputError("expression", expression, "a scalar; take its trace")
        if isinstance(expression, sp.Trace):
            return self.traced(self.terms(expression.arg))
        if isinstance(expression, sp.Add):
            return Polynomial.collected(
                pair for part in expression.args for pair in self.polynomial(part).terms.items()
            )
        if isinstance(expression, sp.Mul):
            plain, others = expression.as_independent(sp.MatrixExpr, as_Add=False)
            product = Polynomial.scalar(plain)
            for part in sp.Mul.make_args(others):
                product = product * self.polynomial(part)
            return product
        if isinstance(expression, sp.Pow) and expression.exp.is_Integer and expression.exp.is_nonnegative:
            base = self.polynomial(expression.base) if expression.base.has(sp.MatrixExpr) else None
            if base is not None:
                power = Polynomial.scalar(1)
                for _ in range(int(expression.exp)):
                    power = power * base
                return power
        if expression.has(sp.matrices.expressions.matexpr.MatrixElement):
            element = expression
            if isinstance(element, sp.matrices.expressions.matexpr.MatrixElement):
                parent, row, column = element.args
                left = UnitVector(parent.shape[0], row)
                right = UnitVector(parent.shape[1], column)
                return self.traced(self.terms(left.T * parent * right))
        remedy = "write the entries of a product with entry(M, i, j)" if expression.has(sp.Sum) else ""
        self._check_deterministic(expression, remedy=remedy)
        return Polynomial.scalar(expression)

    def _check_deterministic(self, expression: sp.Basic, reason: str = "", remedy: str = "") -> None:
        if self.random:
            found = sorted(str(m) for m in expression.atoms(sp.MatrixSymbol) & self.random)
            if found:
                raise RefusedError(
                    _short(expression),
                    reason or f"it is not a polynomial in traces of the random matrix {', '.join(found)}",
                    remedy or "write it with products, sums and integer powers of traces",
                )

    def terms(self, expression: sp.MatrixExpr) -> list[Term]:
        """A matrix expression as a sum of terms."""
        return _merged(self._reduced_terms(self._terms(expression)))

    def _terms(self, expression: sp.MatrixExpr) -> list[Term]:
        rows, columns = (sp.sympify(size) for size in expression.shape)
        one = Polynomial.scalar(1)
        if isinstance(expression, sp.Identity):
            return [Term(one, (Wire((), rows, rows),), (0,))]
        if isinstance(expression, sp.ZeroMatrix):
            return []
        if isinstance(expression, sp.OneMatrix):
            left = () if rows == 1 else (self.ones(rows),)
            right = () if columns == 1 else (Letter(self.ones(columns).name, True),)
            return [Term(one, (Wire(left + right, rows, columns),), (0,))]
        if isinstance(expression, Averaging):
            if rows == 1:
                return [Term(one, (Wire((), rows, rows),), (0,))]
            letter = self.ones(rows)
            return [Term(Polynomial.scalar(1 / rows), (Wire((letter, Letter(letter.name, True)), rows, rows),), (0,))]
        if isinstance(expression, sp.MatAdd):
            return _merged([term for part in expression.args for term in self.terms(part)])
        if isinstance(expression, sp.MatMul):
            scalar, factors = expression.as_coeff_matrices()
            product: list[Term] | None = None
            for factor in factors:
                right_terms = self.terms(factor)
                if product is None:
                    product = right_terms
                else:
                    product = _merged(
                        [self._times(a, b, expression) for a in product for b in right_terms]
                    )
                    product = self._reduced_terms(product)
                if not product:
                    return []
            coefficient = self.polynomial(scalar)
            return [Term(coefficient * t.coefficient, t.wires, t.permutation) for t in product or []]
        if isinstance(expression, (sp.Transpose, sp.Adjoint)):
            return [self._transposed(term) for term in self.terms(expression.arg)]
        if isinstance(expression, sp.MatPow) and expression.exp.is_Integer and expression.exp.is_positive:
            base = self.terms(expression.base)
            power = base
            for _ in range(int(expression.exp) - 1):
                power = self._reduced_terms(_merged([self._times(a, b, expression) for a in power for b in base]))
            return power
        if isinstance(expression, sp.KroneckerProduct):
            product = [Term(one, (), ())]
            for factor in expression.args:
                product = [_beside(a, b) for a in product for b in self.terms(factor)]
            return product
        if isinstance(expression, Commutation):
            m, n = expression.args
            # The input is a kron b with a of size n and b of size m; the output is b kron a.
            return [Term(one, (Wire((), m, m), Wire((), n, n)), (1, 0))]
        if isinstance(expression, SoftmaxJacobian | Softmax):
            self._check_deterministic(
                expression,
                f"{type(expression).__name__} of a random matrix has no closed expectation",
                "put the softmax at the uniform point with at_uniform",
            )
        self._check_matrix(expression)
        return [Term(one, (Wire((self.letter(expression),), rows, columns),), (0,))]

    def _check_matrix(self, expression: sp.MatrixExpr) -> None:
        if isinstance(expression, sp.MatrixSymbol):
            return
        found = sorted(str(m) for m in expression.atoms(sp.MatrixSymbol) & self.random)
        if found:
            kind = type(expression).__name__
            raise RefusedError(
                _short(expression),
                f"the random matrix {', '.join(found)} occurs inside {kind}, which is not a polynomial in it",
                "use sums, products, transposes, integer powers, Kronecker products and traces",
            )

    def _reduced_terms(self, terms: list[Term]) -> list[Term]:
        kept = []
        for term in terms:
            coefficient, wires = term.coefficient, []
            for wire in term.wires:
                reduced = self.open(wire)
                if reduced is None:
                    break
                coefficient = coefficient * reduced[0]
                wires.append(reduced[1])
            else:
                kept.append(Term(coefficient, tuple(wires), term.permutation))
        return kept

    def _times(self, left: Term, right: Term, whole: sp.MatrixExpr) -> Term:
        coefficient = left.coefficient * right.coefficient
        if _is_identity(left) and len(left.wires) != len(right.wires):
            return Term(coefficient, right.wires, right.permutation)
        if _is_identity(right) and len(left.wires) != len(right.wires):
            return Term(coefficient, left.wires, left.permutation)
        outputs = tuple(wire.rows for wire in right.wires)
        if left.inputs != outputs:
            raise RefusedError(
                _short(whole),
                f"factors of Kronecker shape {_shape(left.inputs)} and {_shape(outputs)} do not match",
                "write every factor of the product as a Kronecker product of the same sizes",
            )
        wires = tuple(
            Wire(wire.word + right.wires[source].word, wire.rows, right.wires[source].columns)
            for wire, source in zip(left.wires, left.permutation, strict=True)
        )
        return Term(coefficient, wires, tuple(right.permutation[source] for source in left.permutation))

    def multiplied(self, left: Term, right: Term, whole: sp.MatrixExpr) -> list[Term]:
        """The reduced product of two terms: one term, or none where it vanishes."""
        return self._reduced_terms([self._times(left, right, whole)])

    def _transposed(self, term: Term) -> Term:
        back = [0] * len(term.permutation)
        for position, source in enumerate(term.permutation):
            back[source] = position
        wires = tuple(
            Wire(self.flip_word(term.wires[i].word), term.wires[i].columns, term.wires[i].rows) for i in back
        )
        return Term(term.coefficient, wires, tuple(back))

    def traced(self, terms: Iterable[Term]) -> Polynomial:
        """The trace of a sum of terms: one trace word for every cycle of the permutation."""
        return Polynomial.collected(pair for term in terms for pair in self._trace(term))

    def _trace(self, term: Term) -> Iterator[tuple[Monomial, sp.Expr]]:
        scalar = sp.S.One
        words: list[Word] = []
        left = set(range(len(term.wires)))
        if tuple(wire.rows for wire in term.wires) != term.inputs:
            raise RefusedError("trace", "a Kronecker product whose output and input factors differ", "reorder it")
        while left:
            start = position = min(left)
            word: Word = ()
            while position in left:
                left.remove(position)
                word += term.wires[position].word
                position = term.permutation[position]
            factor, reduced = self.closed(word, term.wires[start].rows)
            scalar *= factor
            words.extend(reduced)
        if scalar != 0:
            for monomial, coefficient in term.coefficient.terms.items():
                yield tuple(sorted((*monomial, *words))), coefficient * scalar

    # Substitution

    def substituted(self, polynomial: Polynomial, name: str, terms: list[Term]) -> Polynomial:
        """Replace a letter by a sum of (one-wire) terms, expanding by linearity."""
        pairs: list[tuple[Monomial, sp.Expr]] = []
        for monomial, coefficient in polynomial.terms.items():
            product = Polynomial({(): coefficient})
            passive = tuple(word for word in monomial if all(letter.name != name for letter in word))
            for word in monomial:
                if any(letter.name == name for letter in word):
                    product = product * self._substituted_word(word, name, terms)
            for other, factor in product.terms.items():
                pairs.append((tuple(sorted(passive + other)), factor))
        return Polynomial.collected(pairs)

    def _substituted_word(self, word: Word, name: str, terms: list[Term]) -> Polynomial:
        start = next(i for i, letter in enumerate(word) if letter.name == name)
        turned = word[start:] + word[:start]
        expanded: list[tuple[Polynomial, Word]] = [(Polynomial.scalar(1), ())]
        for letter in turned:
            if letter.name != name:
                expanded = [(c, (*w, letter)) for c, w in expanded]
                continue
            options = [self._transposed(t) for t in terms] if letter.flipped else terms
            longer = []
            for coefficient, partial in expanded:
                for option in options:
                    joined = self.contract(partial + option.wires[0].word)
                    if joined is not None:
                        longer.append((coefficient * option.coefficient, joined))
            merged: dict[Word, Polynomial] = {}
            for coefficient, partial in longer:
                merged[partial] = merged[partial] + coefficient if partial in merged else coefficient
            expanded = [(c, w) for w, c in merged.items() if c]
        size = self.shape(turned[0])[0]
        total: list[tuple[Monomial, sp.Expr]] = []
        for coefficient, full in expanded:
            factor, words = self.closed(full, size)
            if factor != 0:
                for monomial, value in coefficient.terms.items():
                    total.append((tuple(sorted(monomial + words)), value * factor))
        return Polynomial.collected(total)

    # Back to SymPy

    def product(self, word: Word) -> sp.MatrixExpr:
        """A word that is not empty as a SymPy product."""
        return sp.MatMul(*(self.matrix(letter) for letter in word)) if len(word) > 1 else self.matrix(word[0])

    def word_expression(self, word: Word) -> sp.Expr:
        """A trace word as a SymPy scalar; 1^T A 1 is written n tr(P A)."""
        if all(getattr(self.base(letter.name), "is_MatrixExpr", True) is False for letter in word):
            explicit = self.matrix(word[0])
            for letter in word[1:]:
                explicit = explicit * self.matrix(letter)
            return sp.trace(explicit)
        start = next((i for i, letter in enumerate(word) if self.shape(letter)[0] == 1), None)
        if start is not None:
            turned = word[start:] + word[:start]
            first, last = (self._entries[turned[i].name] for i in (0, -1))
            if first.kind == last.kind == "ones" and first.rows == last.rows and len(turned) > 2:
                size = first.rows
                inner = min(turned[1:-1], self.flip_word(turned[1:-1]))
                return size * sp.Trace(sp.MatMul(averaging(size), *(self.matrix(letter) for letter in inner)))
            flipped = self.flip_word(turned)
            if first.kind not in ("unit", "ones") or flipped[0] < turned[0]:
                turned = min(turned, flipped)
            return sp.Trace(self.product(turned))
        return sp.Trace(self.product(self._readable(word)))

    def _readable(self, word: Word) -> Word:
        """The rotation that reads best: few transposes, a transpose in front, names in order."""
        forms = [form[i:] + form[:i] for form in (word, self.flip_word(word)) for i in range(len(word))]

        def key(form: Word) -> tuple[int, list[bool], list[str]]:
            return sum(x.flipped for x in form), [not x.flipped for x in form], [x.name for x in form]

        return min(forms, key=key)

    def expression(self, polynomial: Polynomial, tidy: bool = True) -> sp.Expr:
        """The polynomial as a SymPy expression, with factored coefficients."""
        parts = []
        for monomial in sorted(polynomial.terms):
            coefficient = polynomial.terms[monomial]
            traces = sp.Mul(*(self.word_expression(word) for word in monomial))
            parts.append((coefficient, traces))
        grouped: dict[sp.Expr, list[sp.Expr]] = {}
        for coefficient, traces in parts:
            plain, kept = traces.as_independent(sp.MatrixExpr, as_Add=False)
            grouped.setdefault(kept, []).append(coefficient * plain)
        return sp.Add(*((factored(sp.Add(*c)) if tidy else sp.Add(*c)) * k for k, c in grouped.items()))

    def _pieces(self, wire: Wire) -> tuple[sp.Expr, sp.MatrixExpr]:
        """A word as a scalar times a SymPy product, with 1 1^T written n P."""
        scalar, factors, i = sp.S.One, [], 0
        word = wire.word
        while i < len(word):
            entry = self._entries[word[i].name]
            follows = word[i + 1] if i + 1 < len(word) else None
            if entry.kind == "ones" and follows == Letter(word[i].name, True) and not word[i].flipped:
                factors.append(averaging(entry.rows))
                scalar, i = scalar * entry.rows, i + 2
            else:
                factors.append(self.matrix(word[i]))
                i += 1
        if not factors:
            return scalar, sp.Identity(wire.rows)
        return scalar, factors[0] if len(factors) == 1 else sp.MatMul(*factors)

    def matrix_expression(self, terms: list[Term], tidy: bool = True) -> sp.MatrixExpr:
        """A sum of terms (not empty) as a SymPy matrix expression."""
        parts = []
        for term in sorted(terms, key=lambda t: (t.permutation, [w.word for w in t.wires])):
            pieces = [self._pieces(wire) for wire in term.wires]
            factors = [piece for _, piece in pieces]
            matrix = factors[0] if len(factors) == 1 else sp.KroneckerProduct(*factors)
            if term.permutation != tuple(range(len(term.permutation))):
                if term.permutation != (1, 0):
                    raise RefusedError("Kronecker product", "a permutation of three or more factors", "use two factors")
                # w_1 acts on the second input, so the input sizes are (columns of w_2, columns of w_1).
                swap = Commutation(term.wires[0].columns, term.wires[1].columns)
                matrix = matrix * swap if any(w.word for w in term.wires) else swap
            units = sp.Mul(*(unit for unit, _ in pieces))
            scalar = self.expression(term.coefficient * Polynomial.scalar(units), tidy)
            parts.append(matrix if scalar == 1 else scalar * matrix)
        return parts[0] if len(parts) == 1 else sp.MatAdd(*parts)


def _merged(terms: list[Term]) -> list[Term]:
    grouped: dict[tuple[tuple[Wire, ...], tuple[int, ...]], Polynomial] = {}
    for term in terms:
        key = (term.wires, term.permutation)
        grouped[key] = grouped[key] + term.coefficient if key in grouped else term.coefficient
    return [Term(coefficient, *key) for key, coefficient in grouped.items() if coefficient]


def _beside(left: Term, right: Term) -> Term:
    shift = len(left.wires)
    permutation = left.permutation + tuple(source + shift for source in right.permutation)
    return Term(left.coefficient * right.coefficient, left.wires + right.wires, permutation)


def _is_identity(term: Term) -> bool:
    return len(term.wires) == 1 and not term.wires[0].word


def _is_symmetric(base: sp.MatrixExpr) -> bool:
    if isinstance(base, SymmetricMatrix | sp.DiagMatrix | SoftmaxJacobian):
        return True
    if isinstance(base, sp.HadamardProduct):
        return any(isinstance(a, sp.Identity) for a in base.args) or all(_is_symmetric(a) for a in base.args)
    if isinstance(base, sp.Inverse | sp.MatPow | sp.HadamardPower):
        return _is_symmetric(base.args[0])
    if isinstance(base, sp.MatrixBase):
        return bool(base.is_symmetric())
    return False


def _shape(sizes: tuple[sp.Expr, ...]) -> str:
    return " x ".join(str(size) for size in sizes)


def _short(expression: sp.Basic) -> str:
    text = str(expression)
    return text if len(text) <= 80 else text[:77] + "..."
