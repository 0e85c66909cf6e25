"""Named invariants of a token matrix X (n tokens in rows, width d) under uniform attention.

With the centring projection Pi, G = X^T Pi X and K = X X^T, the traces that occur are called

====== ============================ ==========================================
symbol definition                   meaning
====== ============================ ==========================================
N      ||X||^2 = tr K               squared norm of the tokens
T      ||Pi X||^2 = tr G            squared norm off the mean token
C      ||X^T 1||^2 = 1^T K 1        n^2 times the squared norm of the mean token
G_k    tr G^k                       G_2 = ||G||^2
K_2    tr K^2                       squared norm of the token Gram matrix
q      1^T K Pi K 1                 ||Pi X X^T 1||^2
W      tr(diag(Pi K 1) Pi K Pi)/n   sum_j ((Pi K Pi)_jj - T/n) <mean token, x_j>
====== ============================ ==========================================

N = T + C/n and K_2 = G_2 + 2 q/n + C^2/n^2: T, C, G_k and q are independent, and :meth:`TokenInvariants.reduced`
writes everything in them, so that two equal polynomials in traces become the same expression.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import sympy as sp

from symprop.core import symbols
from symprop.core.expression import factored
from symprop.wick.matrices import centring, ones, trace
from symprop.wick.words import Alphabet, Monomial, Polynomial

N_X = symbols.N
T_X = symbols.declare("T_X", r"T", "squared norm of the centred tokens, ||Pi X||^2", lower=0)
C_X = symbols.C
G_2 = symbols.declare("G_2", r"\|G\|_F^2", "squared norm of G = X^T Pi X", lower=0)
G_3 = symbols.declare("G_3", r"\operatorname{tr} G^3", "tr G^3 for G = X^T Pi X", lower=0)
G_4 = symbols.declare("G_4", r"\operatorname{tr} G^4", "tr G^4 for G = X^T Pi X", lower=0)
K_2 = symbols.declare("K_2", r"\operatorname{tr} K^2", "squared norm of the token Gram matrix K = X X^T", lower=0)
W_X = symbols.declare("W_X", r"W", "sum over tokens j of ((Pi K Pi)_jj - T/n) <mean token, x_j>")
Q_X = symbols.declare("Q_X", r"\|\Pi K 1\|^2", "1^T K Pi K 1 for K = X X^T", lower=0)


@dataclass(frozen=True)
class TokenInvariants:
    """The invariants of one token matrix.

    >>> n, d = sp.symbols("n d", integer=True, positive=True)
    >>> X = sp.MatrixSymbol("X", n, d)
    >>> names = TokenInvariants(X)
    >>> names.named(trace(X.T*centring(n)*X)**2 + trace(X*X.T))
    N + T_X**2
    >>> names.reduced(trace((X*X.T)**2))
    C**2/n**2 + G_2 + 2*Q_X/n
    """

    tokens: sp.MatrixSymbol

    @property
    def definitions(self) -> dict[sp.Symbol, sp.Expr]:
        """Every invariant with the trace that defines it."""
        return dict(_definitions(self.tokens))

    def traces(self, expression: sp.Expr) -> sp.Expr:
        """Replace the invariants by their definitions."""
        return expression.xreplace(self.definitions)

    def named(self, expression: sp.Expr) -> sp.Expr:
        """Write a polynomial in traces with the invariants wherever a trace is one of them.

        A trace that is not is split into the independent invariants if that names all of it, and else left as it is.
        """
        alphabet = Alphabet()
        return self._written(alphabet, alphabet.polynomial(self.traces(expression)), splitting=True)

    def reduced(self, expression: sp.Expr) -> sp.Expr:
        """Write a polynomial in traces in the independent invariants T, C, G_k, q, expanded: the unique form."""
        alphabet = Alphabet()
        polynomial = self._split(alphabet, alphabet.polynomial(self.traces(expression)))
        return sp.expand(self._written(alphabet, polynomial, splitting=False))

    def relation(self, invariant: sp.Symbol) -> sp.Expr:
        """An invariant in terms of the independent ones.

        >>> n, d = sp.symbols("n d", integer=True, positive=True)
        >>> TokenInvariants(sp.MatrixSymbol("X", n, d)).relation(N_X)
        C/n + T_X
        """
        return self.reduced(invariant)

    def _split(self, alphabet: Alphabet, polynomial: Polynomial) -> Polynomial:
        X = self.tokens
        n = X.shape[0]
        parts = alphabet.terms(centring(n) * X + ones(n) * ones(n).T * X / n)
        return alphabet.substituted(polynomial, str(X), parts)

    def _table(self, alphabet: Alphabet) -> dict[Monomial, tuple[sp.Symbol, sp.Expr]]:
        table: dict[Monomial, tuple[sp.Symbol, sp.Expr]] = {}
        for symbol, definition in self.definitions.items():
            for monomial, coefficient in alphabet.polynomial(definition).terms.items():
                table.setdefault(monomial, (symbol, coefficient))
        return table

    def _written(self, alphabet: Alphabet, polynomial: Polynomial, splitting: bool) -> sp.Expr:
        table = self._table(alphabet)
        parts: dict[sp.Expr, list[sp.Expr]] = {}
        for monomial, coefficient in polynomial.terms.items():
            product, scale = sp.S.One, coefficient
            for word in monomial:
                if (word,) in table:
                    symbol, unit = table[(word,)]
                    product *= symbol
                    scale /= unit
                    continue
                split = self._split(alphabet, Polynomial({(word,): sp.S.One})) if splitting else Polynomial()
                if splitting and all((w,) in table for m in split.terms for w in m):
                    product *= self._written(alphabet, split, splitting=False)
                else:
                    product *= alphabet.word_expression(word)
            for part in sp.Add.make_args(sp.expand(product)):
                plain, kept = part.as_independent(sp.MatrixExpr, *self.definitions, as_Add=False)
                parts.setdefault(kept, []).append(scale * plain)
        return sp.Add(*(factored(sp.Add(*scales)) * kept for kept, scales in parts.items()))


@lru_cache(maxsize=64)
def _definitions(X: sp.MatrixSymbol) -> tuple[tuple[sp.Symbol, sp.Expr], ...]:
    n = X.shape[0]
    one, Pi, row = ones(n), centring(n), ones(n).T
    K, G = (X, X.T), (X.T, Pi, X)

    def word(*factors: sp.MatrixExpr) -> sp.Expr:
        return trace(sp.MatMul(*factors))

    spread = sp.DiagMatrix(sp.MatMul(Pi, *K, one))
    return (
        (N_X, word(X.T, X)),
        (T_X, word(*G)),
        (C_X, word(row, *K, one)),
        (G_2, word(*G, *G)),
        (G_3, word(*G, *G, *G)),
        (G_4, word(*G, *G, *G, *G)),
        (K_2, word(*K, *K)),
        (Q_X, word(row, *K, Pi, *K, one)),
        (W_X, word(spread, Pi, *K, Pi) / n),
    )
