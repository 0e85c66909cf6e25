"""Expectations over random matrices by Isserlis' theorem on trace words.

For one matrix X (rows x columns) with ``E X_ij X_kl = v R_ik S_jl`` a pairing of its occurrences joins row ends to row
ends through R and column ends to column ends through S; what is left is a set of closed loops, and each loop is a
trace. With R, S the identity a loop without other letters is a dimension, so an expectation is a sum over pairings of
``columns^(number of column loops)`` times traces of row words. Matrices are eliminated one after the other, and equal
trace words (up to rotation and transposition) are collected in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

import sympy as sp

from symprop.core.errors import InputError, RefusedError
from symprop.core.proof import ProofStep
from symprop.core.provenance import Assumption
from symprop.wick.distributions import Equicorrelated, Gaussian, Iid, Law
from symprop.wick.matrices import SymmetricMatrix
from symprop.wick.steps import Derivation
from symprop.wick.words import Alphabet, Monomial, Polynomial, Term, Wire, Word

_ROW, _COLUMN = 0, 1
_MAX_ORDER = 14
_End = tuple[int, int]


def expectation(
    expression: sp.Expr, laws: Mapping[sp.MatrixSymbol, Law] | None = None, *, tidy: bool = True, **named: Law
) -> Derivation:
    """The expectation of a polynomial in traces, or of a matrix expression, over independent random matrices.

    ``expression`` is a scalar made of sums, products and nonnegative integer powers of traces (:func:`trace`,
    :func:`frobenius2`, entries ``X[i, j]``) with scalar coefficients, or a matrix expression. ``laws`` gives the law of
    every random matrix; ``X=Gaussian(...)`` names it instead. All other matrices are constants. Kronecker products and
    commutation matrices may occur inside traces.

    Returns a :class:`Derivation`: ``expression``, the ``assumptions`` that sufficed (zero-mean iid entries where a
    matrix occurs at most twice, else its Gaussian law), and one proof step for every eliminated matrix.

    Raises :class:`RefusedError`, naming the factor, for what is not a polynomial in the random matrices, for an
    :class:`Iid` matrix at an order that its law does not determine, and beyond order 14 in one matrix;
    :class:`InputError` for a law that does not fit.

    The mean of a Wishart matrix and of the square of its trace, for columns of variance 1:

    >>> from symprop.wick import Gaussian, expectation, trace
    >>> n, d = sp.symbols("n d", integer=True, positive=True)
    >>> X = sp.MatrixSymbol("X", n, d)
    >>> expectation(X*X.T, X=Gaussian()).expression
    d*I
    >>> expectation(trace(X*X.T)**2, X=Gaussian()).expression
    d*n*(d*n + 2)

    Weight elimination, with a constant Q:

    >>> W, Q = sp.MatrixSymbol("W", n, n), sp.MatrixSymbol("Q", n, n)
    >>> s2 = sp.Symbol("s2", positive=True)
    >>> [expectation(e, W=Gaussian(s2)).expression for e in (W.T*Q*W, W*Q*W)]
    [(s2*Trace(Q))*I, s2*Q.T]
    """
    table = _laws(expression, laws, named)
    alphabet = Alphabet(table)
    for matrix, law in table.items():
        for covariance in law.covariances(*matrix.shape):
            if isinstance(covariance, sp.MatrixSymbol):
                alphabet.letter(covariance, symmetric=True)
    probe, shape = None, (sp.S.One, sp.S.One)
    if getattr(expression, "is_Matrix", False):
        shape = expression.shape
        terms = alphabet.terms(expression)
        if any(len(term.wires) != 1 for term in terms):
            raise RefusedError("expectation of a Kronecker product", "only its traces have a closed form here",
                               "take a trace or a Frobenius norm")
        # Contracting with an arbitrary matrix turns E[M] into the gradient of a scalar expectation.
        probe = sp.MatrixSymbol(_fresh_name(expression), shape[1], shape[0])
        letter = alphabet.letter(probe)
        traced = [Term(t.coefficient, (Wire((*t.wires[0].word, letter), shape[0], shape[0]),), (0,)) for t in terms]
        polynomial = alphabet.traced(traced)
    else:
        polynomial = alphabet.polynomial(expression)

    def display(current: Polynomial) -> sp.Expr:
        if probe is None:
            return alphabet.expression(current, tidy)
        return _unprobed(alphabet, current, alphabet.letter(probe).name, shape, tidy)

    steps, assumptions = [], []
    for matrix in _order(polynomial, table):
        polynomial, order = _eliminate(alphabet, polynomial, matrix, table[matrix])
        assumption = _assumption(matrix, table[matrix], order)
        assumptions.append(assumption)
        steps.append(ProofStep(f"E over {matrix}", _reason(matrix, table[matrix], order), display(polynomial)))
    result = steps[-1].expression if steps else display(polynomial)
    return Derivation(result, tuple(assumptions), steps=tuple(steps), quantity=expression, traces=result)


def pairings(count: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """All ways to split ``0, ..., count - 1`` into pairs.

    >>> len(list(pairings(8)))
    105
    """
    yield from _pairings(tuple(range(count)))


def _pairings(items: tuple[int, ...]) -> Iterator[tuple[tuple[int, int], ...]]:
    if not items:
        yield ()
        return
    first, rest = items[0], items[1:]
    for i, other in enumerate(rest):
        for remaining in _pairings(rest[:i] + rest[i + 1 :]):
            yield ((first, other), *remaining)


@lru_cache(maxsize=16)
def _all_pairings(count: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    return tuple(pairings(count))


def _laws(
    expression: sp.Expr, laws: Mapping[sp.MatrixSymbol, Law] | None, named: Mapping[str, Law]
) -> dict[sp.MatrixSymbol, Law]:
    symbols = sorted(expression.atoms(sp.MatrixSymbol), key=str)
    table: dict[sp.MatrixSymbol, Law] = {}
    for matrix, law in (laws or {}).items():
        if not isinstance(matrix, sp.MatrixSymbol):
            raise InputError("random matrix", matrix, "a MatrixSymbol")
        table[matrix] = law
    for name, law in named.items():
        found = [matrix for matrix in symbols if matrix.name == name]
        if len(found) != 1:
            raise InputError("random matrix", name, f"the name of one matrix of the expression ({_names(symbols)})")
        table[found[0]] = law
    for matrix, law in table.items():
        if not isinstance(law, Law):
            raise InputError(f"law of {matrix}", law, "Gaussian(...), Equicorrelated(...) or Iid(...)")
        if isinstance(matrix, SymmetricMatrix):
            raise RefusedError(str(matrix), "a symmetric matrix has no independent entries",
                               "write it as (W + W^T)/sqrt(2) with W of independent entries")
        for covariance in law.covariances(*matrix.shape):
            shared = covariance.atoms(sp.MatrixSymbol) & set(table) if covariance is not None else set()
            if shared:
                raise RefusedError(str(matrix), f"its covariance contains the random matrix {_names(shared)}",
                                   "take the inner expectation first, with a constant covariance")
    return table


def _names(matrices: object) -> str:
    return ", ".join(sorted(map(str, matrices))) or "none"  # type: ignore[call-overload]


def _fresh_name(expression: sp.Expr) -> str:
    taken = {matrix.name for matrix in expression.atoms(sp.MatrixSymbol)}
    return next(name for name in ("~", *(f"~{i}" for i in range(len(taken) + 1))) if name not in taken)


def _order(polynomial: Polynomial, table: Mapping[sp.MatrixSymbol, Law]) -> list[sp.MatrixSymbol]:
    """Lowest order first, to keep the polynomial small; fourth cumulants last, as they leave Hadamard products."""

    def highest(matrix: sp.MatrixSymbol) -> int:
        return max((_count(monomial, str(matrix)) for monomial in polynomial.terms), default=0)

    def key(matrix: sp.MatrixSymbol) -> tuple[bool, int, str]:
        order = highest(matrix)
        return isinstance(table[matrix], Iid) and order > 2, order, str(matrix)

    return sorted(table, key=key)


def _count(monomial: Monomial, name: str) -> int:
    return sum(letter.name == name for word in monomial for letter in word)


def _eliminate(
    alphabet: Alphabet, polynomial: Polynomial, matrix: sp.MatrixSymbol, law: Law
) -> tuple[Polynomial, int]:
    """The expectation over one matrix, and the highest order that contributed."""
    name = str(matrix)
    rows, columns = matrix.shape
    covariances = law.covariances(rows, columns)
    letters: list[tuple[str, bool] | None] = []
    for side, covariance in zip("rc", covariances, strict=True):
        if covariance is None:
            letters.append(None)
        else:
            stand_in = sp.MatrixSymbol(f"~{side}({name})", *covariance.shape)
            letters.append(alphabet.letter(stand_in, symmetric=True))
    variance = sp.sympify(law.variance)
    highest = 0
    results: list[tuple[Monomial, sp.Expr]] = []
    for monomial, coefficient in polynomial.terms.items():
        order = _count(monomial, name)
        if order == 0:
            results.append((monomial, coefficient))
            continue
        if order % 2:
            _check_odd(alphabet, monomial, matrix, law, order)
            continue
        highest = max(highest, order)
        if order > _MAX_ORDER:
            raise RefusedError(_text(alphabet, monomial), f"order {order} in {name} has too many pairings",
                               f"stay at order {_MAX_ORDER} or below in one matrix")
        loops = _Loops(alphabet, monomial, name, (rows, columns), (letters[_ROW], letters[_COLUMN]))
        scale = coefficient * variance ** (order // 2)
        for pairs in _all_pairings(order):
            value, words = loops.close(pairs)
            if value != 0:
                results.append((words, scale * value))
        if isinstance(law, Iid) and order > 2:
            if law.fourth_cumulant is None or order > 4:
                need = "cumulants beyond the variance enter"
                remedy = "give fourth_cumulant" if order == 4 else "use a Gaussian law"
                if order == 4:
                    remedy += ", or use a Gaussian law"
                raise RefusedError(
                    _text(alphabet, monomial), f"it has order {order} in the iid matrix {name}: {need}", remedy
                )
            for words, value in loops.joined():
                results.append((words, coefficient * law.fourth_cumulant * value))
    collected = Polynomial.collected(results)
    for letter, covariance in zip(letters, covariances, strict=True):
        if letter is not None and covariance is not None:
            collected = alphabet.substituted(collected, letter[0], _covariance_terms(alphabet, covariance))
    return collected, highest


def _covariance_terms(alphabet: Alphabet, covariance: sp.MatrixExpr) -> list[Term]:
    if isinstance(covariance, sp.MatrixSymbol) and not isinstance(covariance, SymmetricMatrix):
        rows = sp.sympify(covariance.shape[0])
        letter = alphabet.letter(covariance, name=str(covariance), symmetric=True)
        return [Term(Polynomial.scalar(1), (Wire((letter,), rows, rows),), (0,))]
    return alphabet.terms(covariance)


def _check_odd(alphabet: Alphabet, monomial: Monomial, matrix: sp.MatrixSymbol, law: Law, order: int) -> None:
    if isinstance(law, Iid) and order > 1 and not law.symmetric:
        raise RefusedError(
            _text(alphabet, monomial),
            f"it has odd order {order} in the iid matrix {matrix}, whose third cumulant is unknown",
            "set symmetric=True for a symmetric law, or use a Gaussian law",
        )


def _text(alphabet: Alphabet, monomial: Monomial) -> str:
    return str(sp.Mul(*(alphabet.word_expression(word) for word in monomial)))


class _Loops:
    """The occurrences of one matrix in a monomial, and the loops that a pairing of them closes."""

    def __init__(
        self,
        alphabet: Alphabet,
        monomial: Monomial,
        name: str,
        sizes: tuple[sp.Expr, sp.Expr],
        covariances: tuple[object, object],
    ) -> None:
        self.alphabet, self.sizes, self.covariances = alphabet, sizes, covariances
        self.monomial, self.name = monomial, name
        self.passive = tuple(word for word in monomial if all(letter.name != name for letter in word))
        self.kind: dict[_End, int] = {}
        self.segments: dict[_End, tuple[_End, Word]] = {}
        occurrence = 0
        for word in monomial:
            places = [i for i, letter in enumerate(word) if letter.name == name]
            for k, place in enumerate(places):
                here, following = occurrence + k, occurrence + (k + 1) % len(places)
                flipped = word[place].flipped
                self.kind[here, 0] = _COLUMN if flipped else _ROW
                self.kind[here, 1] = _ROW if flipped else _COLUMN
                stop = places[(k + 1) % len(places)]
                between = word[place + 1 : stop] if stop > place else word[place + 1 :] + word[:stop]
                self.segments[here, 1] = ((following, 0), between)
                self.segments[following, 0] = ((here, 1), alphabet.flip_word(between))
            occurrence += len(places)

    def close(self, pairs: tuple[tuple[int, int], ...]) -> tuple[sp.Expr, Monomial]:
        """The value of one pairing: a coefficient and a monomial."""
        partner = {}
        for one, two in pairs:
            partner[one], partner[two] = two, one
        value, words = sp.S.One, list(self.passive)
        open_ends = dict.fromkeys(self.segments)
        while open_ends:
            start = current = next(iter(open_ends))
            word: list[object] = []
            while True:
                other, between = self.segments[current]
                open_ends.pop(current, None)
                open_ends.pop(other, None)
                word.extend(between)
                side = self.kind[other]
                if self.covariances[side] is not None:
                    word.append(self.covariances[side])
                mate = partner[other[0]]
                current = (mate, 0) if self.kind[mate, 0] == side else (mate, 1)
                if current == start:
                    break
            factor, reduced = self.alphabet.closed(tuple(word), self.sizes[side])  # type: ignore[arg-type]
            if factor == 0:
                return factor, ()
            if factor is not sp.S.One:
                value *= factor
            words.extend(reduced)
        return value, tuple(sorted(words))

    def joined(self) -> list[tuple[Monomial, sp.Expr]]:
        """The fourth-cumulant term: all four row indices equal and all four column indices equal."""
        alphabet = self.alphabet
        row_diagonals: list[sp.MatrixExpr] = []
        column_diagonals: list[sp.MatrixExpr] = []
        across: list[sp.MatrixExpr] = []
        seen: set[_End] = set()
        rows, columns = self.sizes
        for end, (other, between) in self.segments.items():
            if end in seen:
                continue
            seen |= {end, other}
            sides = self.kind[end], self.kind[other]
            others = sorted({x.name for x in between if alphabet.base(x.name) in alphabet.random})
            if others:
                raise RefusedError(
                    _text(alphabet, self.monomial),
                    f"the fourth cumulant of {self.name} multiplies entries of the random matrix {', '.join(others)}",
                    "use a Gaussian law for one of them",
                )
            if sides == (_COLUMN, _ROW):
                between, sides = alphabet.flip_word(between), (_ROW, _COLUMN)
            reduced = alphabet.contract(between)
            if reduced is None:
                return []
            size = rows if sides[0] == _ROW else columns
            matrix = alphabet.product(reduced) if reduced else sp.Identity(size)
            if sides == (_ROW, _COLUMN):
                across.append(matrix)
            else:
                (row_diagonals if sides[0] == _ROW else column_diagonals).append(matrix)

        def diagonal(matrices: list[sp.MatrixExpr], size: sp.Expr) -> sp.MatrixExpr:
            parts = [sp.HadamardProduct(m, sp.Identity(size)) for m in matrices if not isinstance(m, sp.Identity)]
            return sp.MatMul(*parts) if len(parts) > 1 else parts[0] if parts else sp.Identity(size)

        left, right = diagonal(row_diagonals, rows), diagonal(column_diagonals, columns)
        if across:
            # Entries of the identity are their own powers.
            different = [m for m in across if not isinstance(m, sp.Identity)]
            across = different + [m for m in across if isinstance(m, sp.Identity)][:1]
            middle = across[0] if len(across) == 1 else sp.HadamardProduct(*across)
            total = sp.Trace(sp.OneMatrix(1, rows) * left * middle * right * sp.OneMatrix(columns, 1))
        else:
            total = sp.Trace(left) * sp.Trace(right)
        polynomial = alphabet.polynomial(total)
        return [(tuple(sorted(self.passive + m)), c) for m, c in polynomial.terms.items()]


def _unprobed(
    alphabet: Alphabet, polynomial: Polynomial, name: str, shape: tuple[sp.Expr, sp.Expr], tidy: bool
) -> sp.MatrixExpr:
    """Read M off a polynomial whose every monomial holds the probe once: tr(M D)."""
    terms = []
    for monomial, coefficient in polynomial.terms.items():
        rest, found = [], None
        for word in monomial:
            place = next((i for i, letter in enumerate(word) if letter.name == name), None)
            if place is None:
                rest.append(word)
            else:
                turned = word[place + 1 :] + word[:place]
                found = alphabet.flip_word(turned) if word[place].flipped else turned
        if found is None:
            raise RefusedError("expectation", "a scalar term in a matrix expression", "check the shapes")
        terms.append(Term(Polynomial({tuple(rest): coefficient}), (Wire(found, *shape),), (0,)))
    return alphabet.matrix_expression(terms, tidy) if terms else sp.ZeroMatrix(*shape)


def _assumption(matrix: sp.MatrixSymbol, law: Law, order: int) -> Assumption:
    if isinstance(law, Iid):
        if order <= 2:
            return _second_moments(matrix, law)
        return Assumption(
            f"iid {matrix}", f"the entries of {matrix} are iid with mean 0, variance {law.variance} and fourth "
            f"cumulant {law.fourth_cumulant}; zero-mean iid suffices, their law need not be Gaussian"
        )
    if order <= 2:
        return _second_moments(matrix, law)
    if isinstance(law, Equicorrelated):
        return Assumption(
            f"Gaussian {matrix}", f"Gaussian needed: the columns of {matrix} are iid N(0, "
            f"{law.variance} [(1 - {law.rho}) I + {law.rho} 1 1^T]) (order {order})"
        )
    return Assumption(
        f"Gaussian {matrix}", f"Gaussian needed: {matrix} is Gaussian with {_moments(law)} (order {order})"
    )


def _second_moments(matrix: sp.MatrixSymbol, law: Law) -> Assumption:
    return Assumption(
        f"zero-mean iid {matrix}" if not _correlated(law) else f"second moments of {matrix}",
        f"zero-mean iid suffices: {matrix} has independent entries with mean 0 and variance {law.variance}"
        if not _correlated(law) else f"second moments suffice: {matrix} has mean 0 and {_moments(law)}",
    )


def _correlated(law: Law) -> bool:
    if isinstance(law, Gaussian):
        return law.row_covariance is not None or law.column_covariance is not None
    return isinstance(law, Equicorrelated)


def _moments(law: Law) -> str:
    if isinstance(law, Equicorrelated):
        return f"row covariance {law.variance} [(1 - {law.rho}) I + {law.rho} 1 1^T]"
    if isinstance(law, Gaussian) and _correlated(law):
        parts = [f"{side} covariance {matrix}" for side, matrix in
                 (("row", law.row_covariance), ("column", law.column_covariance)) if matrix is not None]
        return " and ".join(([f"variance {law.variance}"] if law.variance != 1 else []) + parts)
    return f"iid entries of variance {law.variance}"


def _reason(matrix: sp.MatrixSymbol, law: Law, order: int) -> str:
    if order == 0:
        return f"{matrix} occurs to odd order or not at all, and its mean is zero"
    if order == 2:
        if _correlated(law):
            return f"{matrix} has mean 0 and {_moments(law)}; only its second moments enter"
        rule = f"E[{matrix} Q {matrix}^T] = {law.variance} tr(Q) I, E[{matrix}^T Q {matrix}] = {law.variance} tr(Q) I"
        return f"weight elimination: {rule}; only second moments of {matrix} enter"
    count = sp.factorial2(order - 1)
    return f"Isserlis: {count} pairings of the {order} factors {matrix}, one trace for every closed loop"
