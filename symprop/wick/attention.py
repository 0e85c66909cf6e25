"""Gradient norms of one attention layer, derived from its definition.

The layer is ``S = softmax(tau X W_Q W_K^T X^T / sqrt(d_k)) X W_V`` with X of shape (n, d), W_Q and W_K of shape
(d, d_k), W_V of shape (d, d_o) and entries of variance sigma_q2, sigma_k2, sigma_v2. Every function differentiates this
expression, evaluates the Jacobian at the uniform point, writes its squared Frobenius norm in traces and takes the
expectation over the weights, conditional on X. Nothing is looked up. Results are in the invariants of
:mod:`symprop.wick.invariants`. The subject is Noci et al. 2022, Sections 3.1 and A.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import sympy as sp

from symprop.core import symbols
from symprop.core.errors import InputError, UnknownNameError
from symprop.core.expression import factored
from symprop.core.proof import ProofStep
from symprop.core.provenance import EXACT, Assumption, Source
from symprop.wick.differentials import at_constant_logits, at_uniform, jacobian, kronecker_form
from symprop.wick.distributions import Gaussian, Law, scalar
from symprop.wick.invariants import TokenInvariants
from symprop.wick.isserlis import expectation
from symprop.wick.matrices import Softmax, averaging, centring, frobenius2, ones, trace
from symprop.wick.steps import Derivation
from symprop.wick.words import Alphabet

UNIFORM = Assumption(
    "uniform attention", "A = (1/n) 1 1^T, with the true derivative of the softmax at that point (Assumption 3.1)"
)
SMALL_LOGITS = Assumption(
    "small logits",
    "the softmax is expanded to second order in its logits; the next order is tau^4 for weights of symmetric law",
)
_PAPER = "noci2022"


@dataclass(frozen=True)
class AttentionLayer:
    """One attention layer, with symbolic or numeric sizes, variances and inverse temperature.

    Every argument defaults to the registered symbol of that name; ``AttentionLayer(d_k=symbols.d)`` ties two of them.

    >>> AttentionLayer().output.shape
    (n, d_o)
    """

    n: sp.Expr | int = symbols.n
    d: sp.Expr | int = symbols.d
    d_k: sp.Expr | int = symbols.d_k
    d_o: sp.Expr | int = symbols.d_o
    tau: sp.Expr | float = symbols.tau
    sigma_v2: sp.Expr | float = symbols.sigma_v2
    sigma_q2: sp.Expr | float = symbols.sigma_q2
    sigma_k2: sp.Expr | float = symbols.sigma_k2
    X: sp.MatrixSymbol = field(init=False, compare=False)
    W_Q: sp.MatrixSymbol = field(init=False, compare=False)
    W_K: sp.MatrixSymbol = field(init=False, compare=False)
    W_V: sp.MatrixSymbol = field(init=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("n", "d", "d_k", "d_o", "tau", "sigma_v2", "sigma_q2", "sigma_k2"):
            object.__setattr__(self, name, scalar(name, getattr(self, name)))
        for name in ("n", "d", "d_k", "d_o"):
            size = getattr(self, name)
            if size.is_number and not (size.is_Integer and size > 0):
                raise InputError(name, size, "an integer >= 1")
        object.__setattr__(self, "X", sp.MatrixSymbol("X", self.n, self.d))
        object.__setattr__(self, "W_Q", sp.MatrixSymbol("W_Q", self.d, self.d_k))
        object.__setattr__(self, "W_K", sp.MatrixSymbol("W_K", self.d, self.d_k))
        object.__setattr__(self, "W_V", sp.MatrixSymbol("W_V", self.d, self.d_o))

    @property
    def logits(self) -> sp.MatrixExpr:
        """M = tau X W_Q W_K^T X^T / sqrt(d_k), of shape (n, n)."""
        return self.tau / sp.sqrt(self.d_k) * self.X * self.W_Q * self.W_K.T * self.X.T

    @property
    def output(self) -> sp.MatrixExpr:
        """S = softmax(M) X W_V, of shape (n, d_o)."""
        return Softmax(self.logits) * self.X * self.W_V

    @property
    def laws(self) -> dict[sp.MatrixSymbol, Law]:
        """The laws of the three weight matrices."""
        return {
            self.W_Q: Gaussian(self.sigma_q2),
            self.W_K: Gaussian(self.sigma_k2),
            self.W_V: Gaussian(self.sigma_v2),
        }

    @property
    def invariants(self) -> TokenInvariants:
        """The invariants of the tokens X."""
        return TokenInvariants(self.X)

    def variable(self, name: str) -> sp.MatrixSymbol:
        """The matrix of that name: X, W_Q, W_K or W_V."""
        table = {"X": self.X, "W_Q": self.W_Q, "W_K": self.W_K, "W_V": self.W_V}
        if name not in table:
            raise UnknownNameError("matrix of the attention layer", name, table)
        return table[name]


@dataclass(frozen=True)
class AttentionBlock:
    """A block X' = Z + alpha_2 Z W_1 W_2, Z = X + alpha_1 S(X): attention, linear feed-forward, two skips.

    The value width d_o equals d, W_1 has shape (d, d_F) and variance sigma_up2, W_2 shape (d_F, d) and variance
    sigma_down2. ``layer`` supplies the attention (its d_o must equal its d).
    """

    layer: AttentionLayer = field(default_factory=lambda: AttentionLayer(d_o=symbols.d))
    d_F: sp.Expr | int = symbols.d_F
    alpha_1: sp.Expr | float = symbols.alpha_1
    alpha_2: sp.Expr | float = symbols.alpha_2
    sigma_up2: sp.Expr | float = symbols.sigma_up2
    sigma_down2: sp.Expr | float = symbols.sigma_down2

    def __post_init__(self) -> None:
        if self.layer.d_o != self.layer.d:
            raise InputError("d_o", self.layer.d_o, f"the width d = {self.layer.d}, for the skip connection")
        for name in ("d_F", "alpha_1", "alpha_2", "sigma_up2", "sigma_down2"):
            object.__setattr__(self, name, scalar(name, getattr(self, name)))

    @property
    def W_1(self) -> sp.MatrixSymbol:
        """The first feed-forward matrix."""
        return sp.MatrixSymbol("W_1", self.layer.d, self.d_F)

    @property
    def W_2(self) -> sp.MatrixSymbol:
        """The second feed-forward matrix."""
        return sp.MatrixSymbol("W_2", self.d_F, self.layer.d)

    @property
    def output(self) -> sp.MatrixExpr:
        """X', of shape (n, d)."""
        middle = self.layer.X + self.alpha_1 * self.layer.output
        return middle + self.alpha_2 * middle * self.W_1 * self.W_2

    @property
    def laws(self) -> dict[sp.MatrixSymbol, Law]:
        """The laws of the five weight matrices."""
        return {**self.layer.laws, self.W_1: Gaussian(self.sigma_up2), self.W_2: Gaussian(self.sigma_down2)}

    def variable(self, name: str) -> sp.MatrixSymbol:
        """The matrix of that name: X, W_Q, W_K, W_V, W_1 or W_2."""
        table = {"W_1": self.W_1, "W_2": self.W_2}
        return table[name] if name in table else self.layer.variable(name)


def attention_jacobian(parameter: str, layer: AttentionLayer | None = None, *, uniform: bool = False) -> sp.MatrixExpr:
    """dS/d(parameter) for the true softmax, or at the uniform point, in Kronecker form.

    ``parameter`` is W_V, W_Q, W_K or X; rows are indexed by (token, output), columns by the entries of the parameter,
    both row by row. Noci et al. 2022, Lemmas A.2 and A.3.

    >>> attention_jacobian("W_Q", uniform=True)
    (tau/(sqrt(d_k)*n))*(KroneckerProduct(X, W_V.T*X.T*Pi*X*W_K))
    """
    layer = layer or AttentionLayer()
    exact = jacobian(layer.output, layer.variable(parameter))
    return kronecker_form(at_uniform(exact)) if uniform else exact


@lru_cache(maxsize=64)
def gradient_norm(parameter: str, layer: AttentionLayer | None = None) -> Derivation:
    """E ||dS/d(parameter)||_F^2 over the weights, given X, under uniform attention, for any shapes and variances.

    ``parameter`` is W_V (Eq 6), W_Q (Eq 7), W_K or X (the exact value that Eq 8 bounds). Raises
    :class:`UnknownNameError` for another name.

    >>> gradient_norm("W_V").expression
    C*d_o/n
    >>> gradient_norm("W_Q").expression
    G_2*N*d_o*sigma_k2*sigma_v2*tau**2/n**2
    """
    layer = layer or AttentionLayer()
    return _norm_moment(layer, parameter, 1)


@lru_cache(maxsize=16)
def gradient_norm_second_moment(parameter: str, layer: AttentionLayer | None = None) -> Derivation:
    """E ||dS/d(parameter)||_F^4 over Gaussian weights, given X, under uniform attention; not in the paper."""
    layer = layer or AttentionLayer()
    return _norm_moment(layer, parameter, 2)


def value_gradient(layer: AttentionLayer | None = None) -> Derivation:
    """E ||dS/dW_V||^2, Eq 6: no weight enters, so that it holds for every draw."""
    return gradient_norm("W_V", layer)


def query_gradient(layer: AttentionLayer | None = None) -> Derivation:
    """E ||dS/dW_Q||^2, Eq 7, for any shapes, variances and temperature."""
    return gradient_norm("W_Q", layer)


def key_gradient(layer: AttentionLayer | None = None) -> Derivation:
    """E ||dS/dW_K||^2: Eq 7 with the variance of the queries in place of that of the keys."""
    return gradient_norm("W_K", layer)


def input_gradient(layer: AttentionLayer | None = None) -> Derivation:
    """E ||dS/dX||^2, exact: what Eq 8 bounds, with wrong constants."""
    return gradient_norm("X", layer)


_WHERE = {"W_V": "Eq. 6", "W_Q": "Eq. 7", "W_K": "Lemma 3.1", "X": "Eq. 8"}


def _norm_moment(layer: AttentionLayer, parameter: str, power: int) -> Derivation:
    variable = layer.variable(parameter)
    setup = _setup(layer.output, variable, parameter)
    return _moment(layer.invariants, setup, frobenius2(setup[-1].expression) ** power, layer.laws,
                   (UNIFORM,), (Source(_PAPER, _WHERE[parameter]),))


def _setup(output: sp.MatrixExpr, variable: sp.MatrixSymbol, name: str) -> tuple[ProofStep, ...]:
    exact = jacobian(output, variable)
    uniform = kronecker_form(at_uniform(exact))
    return (
        ProofStep("definition", "the output as a function of its inputs and weights", output),
        ProofStep("differential", f"product, chain and softmax rules, one term for every occurrence of {name}; "
                  "d(AWB)/dW = A kron B^T", exact),
        ProofStep("uniform attention", "A = P and dA/dM = (1/n) I kron Pi; mixed product", uniform),
    )


def _moment(
    invariants: TokenInvariants,
    setup: tuple[ProofStep, ...],
    quantity: sp.Expr,
    laws: Mapping[sp.MatrixSymbol, Law],
    assumptions: tuple[Assumption, ...],
    sources: tuple[Source, ...],
    neglected: str = EXACT,
) -> Derivation:
    """The chain quantity = traces = (weights eliminated one by one) = invariants."""
    present = {matrix: law for matrix, law in laws.items() if quantity.has(matrix)}
    alphabet = Alphabet()
    steps = [ProofStep("traces", "||A kron B||^2 = ||A||^2 ||B||^2, mixed product and commutation matrices",
                       alphabet.expression(alphabet.polynomial(quantity)))]
    mean = expectation(quantity, present)
    steps.extend(mean.steps)
    named = invariants.named(mean.expression)
    steps.append(ProofStep("invariants", "G = X^T Pi X, N = ||X||^2, T = ||Pi X||^2, C = ||X^T 1||^2", named))
    return Derivation(named, assumptions + mean.assumptions, neglected, sources, steps=tuple(steps), setup=setup,
                      quantity=quantity, traces=mean.expression)


@lru_cache(maxsize=8)
def input_gradient_parts(layer: AttentionLayer | None = None) -> dict[str, Derivation]:
    """The pieces of E ||dS/dX||^2: one for every occurrence of X, and their inner products.

    A_1 comes from the X of the queries, A_2 from that of the keys, A_3 from that of the values. The keys of the result
    are ``A_1, A_2, A_3`` (E ||A_i||^2) and ``A_1 A_2, A_1 A_3, A_2 A_3`` (E <A_i, A_j>); E ||dS/dX||^2 is the sum of
    the squares plus twice the inner products.
    """
    layer = layer or AttentionLayer()
    copies = [sp.MatrixSymbol(f"X_{i}", layer.n, layer.d) for i in (1, 2, 3)]
    logits = layer.tau / sp.sqrt(layer.d_k) * copies[0] * layer.W_Q * layer.W_K.T * copies[1].T
    output = Softmax(logits) * copies[2] * layer.W_V
    back = dict.fromkeys(copies, layer.X)
    parts, setups = {}, {}
    for i, copy in enumerate(copies, 1):
        exact = jacobian(output, copy).xreplace(back)
        parts[i] = kronecker_form(at_uniform(exact))
        setups[i] = ProofStep(f"A_{i}", "the occurrence of X in the " + ("queries", "keys", "values")[i - 1], parts[i])
    results = {}
    for i, j in ((1, 1), (2, 2), (3, 3), (1, 2), (1, 3), (2, 3)):
        quantity = trace(parts[i] * parts[j].T)
        setup = (setups[i],) if i == j else (setups[i], setups[j])
        key = f"A_{i}" if i == j else f"A_{i} A_{j}"
        results[key] = _moment(layer.invariants, setup, quantity, layer.laws, (UNIFORM,),
                               (Source(_PAPER, "Eqs. 30-40"),))
    return results


@lru_cache(maxsize=32)
def block_gradient_norm(parameter: str, block: AttentionBlock | None = None) -> Derivation:
    """E ||dX'/d(parameter)||_F^2 of a whole block with linear feed-forward, given X, under uniform attention.

    ``parameter`` is X, W_V, W_Q, W_K, W_1 or W_2.
    """
    block = block or AttentionBlock()
    setup = _setup(block.output, block.variable(parameter), parameter)
    return _moment(block.layer.invariants, setup, frobenius2(setup[-1].expression), block.laws, (UNIFORM,),
                   (Source(_PAPER, "Section 3.1"),))


COLLAPSE = Assumption("rank collapse", "X = 1 x^T: all tokens are equal")


@lru_cache(maxsize=16)
def collapsed_gradient_norm(parameter: str, layer: AttentionLayer | None = None) -> Derivation:
    """||dS/d(parameter)||_F^2 at X = 1 x^T for the *true* softmax: Theorem 3.2 in its stronger form.

    The logits are constant along rows, so that the softmax is exactly uniform; for W_Q and W_K the Jacobian itself is
    the zero matrix, for every draw of the weights: no assumption on them is listed. The gradients of W_V and X survive.

    >>> collapsed_gradient_norm("W_Q").expression, collapsed_gradient_norm("W_Q").assumptions == (COLLAPSE,)
    (0, True)
    """
    layer = layer or AttentionLayer()
    x = sp.MatrixSymbol("x", layer.d, 1)
    exact = jacobian(layer.output, layer.variable(parameter)).xreplace({layer.X: ones(layer.n) * x.T})
    reduced = kronecker_form(at_constant_logits(exact))
    setup = (
        ProofStep("rank collapse", "X = 1 x^T in the Jacobian of the true softmax", exact),
        ProofStep("constant logits", "M Pi = 0, so that A = P and dA/dM = (1/n) I kron Pi exactly; Pi 1 = 0", reduced),
    )
    quantity = frobenius2(reduced)
    mean = expectation(quantity, {m: law for m, law in layer.laws.items() if quantity.has(m)})
    steps = mean.steps or (ProofStep("traces", "the squared norm in traces", mean.expression),)
    return Derivation(mean.expression, (COLLAPSE, *mean.assumptions), sources=(Source(_PAPER, "Theorem 3.2"),),
                      steps=steps, setup=setup, quantity=quantity, traces=mean.expression)


def at_tokens(derivation: Derivation, tokens: sp.MatrixExpr, layer: AttentionLayer | None = None) -> Derivation:
    """The result for tokens of a given form, such as ``a x^T`` (rank one) or ``1 x^T`` (rank collapse).

    >>> n, d = symbols.n, symbols.d
    >>> a, x = sp.MatrixSymbol("a", n, 1), sp.MatrixSymbol("x", d, 1)
    >>> at_tokens(gradient_norm("W_V"), ones(n)*x.T).expression
    d_o*n*Trace(x.T*x)
    """
    layer = layer or AttentionLayer()
    alphabet = Alphabet()
    put = layer.invariants.traces(derivation.expression).xreplace({layer.X: tokens})
    result = alphabet.expression(alphabet.polynomial(put))
    step = ProofStep("tokens", f"X = {tokens}", result)
    return Derivation(result, derivation.assumptions, derivation.neglected, derivation.sources, derivation.tags,
                      (*derivation.steps, step), derivation.setup, derivation.quantity, result)


@lru_cache(maxsize=8)
def logit_moment(order: int, layer: AttentionLayer | None = None) -> Derivation:
    """E M_ij^order over the weights, given X: Eq 43 at order 2, Gaussian weights needed at order 4.

    The tokens x_i and x_j are columns of length d; the result is in ``Trace(x_i.T*x_i)``, the squared norm of
    x_i, and that of x_j.

    >>> logit_moment(2).expression
    sigma_k2*sigma_q2*tau**2*Trace(x_i.T*x_i)*Trace(x_j.T*x_j)
    """
    layer = layer or AttentionLayer()
    x_i, x_j = (sp.MatrixSymbol(name, layer.d, 1) for name in ("x_i", "x_j"))
    logit = layer.tau / sp.sqrt(layer.d_k) * trace(x_i.T * layer.W_Q * layer.W_K.T * x_j)
    mean = expectation(logit**order, {layer.W_Q: Gaussian(layer.sigma_q2), layer.W_K: Gaussian(layer.sigma_k2)})
    setup = (ProofStep("definition", "M_ij = tau x_i^T W_Q W_K^T x_j / sqrt(d_k)", logit),)
    return Derivation(mean.expression, mean.assumptions, sources=(Source(_PAPER, "Eq. 43"),), steps=mean.steps,
                      setup=setup, quantity=logit**order, traces=mean.expression)


def softmax_expansion() -> tuple[sp.Expr, sp.Expr, sp.Symbol, sp.Symbol]:
    """The softmax about equal logits: n A_j = 1 + eps c_j + eps^2 (c_j^2 - m_2)/2 + ... for centred logits c.

    Returns the coefficients of eps and eps^2 with their symbols c_j and m_2 = mean of c^2; the first moment of c is
    zero because adding a constant to a row of logits changes nothing.
    """
    eps, c, m_2 = sp.symbols("epsilon c m_2", real=True)
    normaliser = 1 + eps**2 * m_2 / 2
    expanded = sp.series(sp.exp(eps * c) / normaliser, eps, 0, 3).removeO()
    return expanded.coeff(eps, 1), sp.expand(expanded.coeff(eps, 2)), c, m_2


@lru_cache(maxsize=8)
def distance_to_uniform(layer: AttentionLayer | None = None) -> Derivation:
    """E ||A - P||_F^2 to leading order in the logits, given X; ||P||_F^2 = 1, so this is the relative squared error."""
    layer = layer or AttentionLayer()
    first, _, c, _ = softmax_expansion()
    deviation = first.coeff(c) / layer.n * layer.logits * centring(layer.n)
    setup = (ProofStep("expansion", "A - P = M Pi / n to first order in the logits", deviation),)
    return _moment(layer.invariants, setup, frobenius2(deviation), layer.laws, (SMALL_LOGITS,),
                   (Source(_PAPER, "Section A.5"),), "O(tau^4)")


@lru_cache(maxsize=8)
def output_norm(layer: AttentionLayer | None = None, power: int = 1) -> Derivation:
    """E ||S||_F^(2 power) over Gaussian values, given X, under uniform attention (Lemma A.6 for power 1)."""
    layer = layer or AttentionLayer()
    output = averaging(layer.n) * layer.X * layer.W_V
    setup = (ProofStep("uniform attention", "S = P X W_V", output),)
    return _moment(layer.invariants, setup, frobenius2(output) ** power, layer.laws, (UNIFORM,),
                   (Source(_PAPER, "Lemma A.6"),))


def output_norm_variance(layer: AttentionLayer | None = None) -> Derivation:
    """Var ||S||_F^2 over Gaussian values, given X, under uniform attention."""
    first, second = output_norm(layer, 1), output_norm(layer, 2)
    value = factored(second.expression - first.expression**2)
    step = ProofStep("variance", "E Y^2 - (E Y)^2", value)
    return Derivation(value, second.assumptions, sources=second.sources, steps=(*second.steps, step),
                      setup=second.setup, quantity=second.quantity, traces=value)


@lru_cache(maxsize=8)
def output_norm_beyond_uniform(layer: AttentionLayer | None = None) -> Derivation:
    """E ||S||_F^2 with its first correction beyond uniform attention, given X; the next order is tau^4.

    With C = M Pi the softmax is A = P + C/n + ((C o C) Pi)/(2n) + ..., so that to second order
    ||S||^2 = tr(A X W_V W_V^T X^T A^T) gains ||C X W_V||^2/n^2 and twice the product of the second-order term with P.
    The latter is linear in C o C and uses 1^T (C o C) u = tr(C diag(u) C^T).
    """
    layer = layer or AttentionLayer()
    n, X = layer.n, layer.X
    _, second, c, _ = softmax_expansion()
    curvature = second.coeff(c, 2)
    centred = layer.logits * centring(n)
    linear = centred * X * layer.W_V / n
    # E W_V W_V^T is a multiple of the identity, so that E (X W_V)(X W_V)^T = gain K.
    gain = expectation(trace(layer.W_V * layer.W_V.T), {layer.W_V: Gaussian(layer.sigma_v2)}).expression / layer.d
    diagonal = sp.DiagMatrix(centring(n) * X * X.T * ones(n))
    curved = 2 * curvature * gain * trace(centred * diagonal * centred.T) / n**2
    uniform = averaging(n) * X * layer.W_V
    quantity = frobenius2(uniform) + frobenius2(linear) + curved
    setup = (
        ProofStep("expansion", "A = P + C/n + (C o C) Pi/(2n), C = M Pi; for symmetric laws odd orders vanish", linear),
        ProofStep("diagonal", "tr((C o C) Pi V P) = tr(C diag(Pi V 1) C^T)/n", curved),
    )
    return _moment(layer.invariants, setup, quantity, layer.laws, (SMALL_LOGITS,), (Source(_PAPER, "Section A.5"),),
                   "O(tau^4)")

