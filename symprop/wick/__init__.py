"""A trace and Wick calculus for random matrices, and the gradient norms of attention derived with it.

Matrices are SymPy's ``MatrixSymbol`` of symbolic shape; :func:`averaging` (P), :func:`centring` (Pi), :func:`ones`,
:class:`SymmetricMatrix`, :class:`Commutation`, :func:`kron` and :class:`Softmax` add what the calculus knows by name.
:func:`expectation` takes the mean of a polynomial in traces, or of a matrix expression, over Gaussian (or, where that
suffices, merely iid) matrices; :func:`jacobian` differentiates matrix expressions; :func:`kronecker_form` multiplies
out Kronecker products with their commutation matrices; :class:`TokenInvariants` names the traces of tokens.

The moments of a Wishart matrix X X^T:

>>> import sympy as sp
>>> n, d = sp.symbols("n d", integer=True, positive=True)
>>> X, Pi = sp.MatrixSymbol("X", n, d), centring(n)
>>> sp.expand(expectation(trace((X*X.T)**2), X=Gaussian()).expression)
d**2*n + d*n**2 + d*n
>>> expectation(trace(X.T*Pi*X*X.T*Pi*X), {X: Gaussian()}).expression
d*(d + n)*(n - 1)

Columns of covariance Sigma, and random signs, whose fourth cumulant is -2:

>>> Sigma = SymmetricMatrix("Sigma", n)
>>> expectation(trace(X*X.T)**2, X=Gaussian(row_covariance=Sigma)).expression
d**2*Trace(Sigma)**2 + 2*d*Trace(Sigma*Sigma)
>>> expectation(trace(X*X.T)**2, X=Iid(1, fourth_cumulant=-2)).expression
d**2*n**2

What cannot be done is refused by name:

>>> expectation(trace(X*X.T)**2, X=Iid(1))
Traceback (most recent call last):
...
symprop.core.errors.RefusedError: Trace(X.T*X)**2: it has order 4 in the iid matrix X: cumulants beyond the variance \
enter; remedy: give fourth_cumulant, or use a Gaussian law
"""

from symprop.wick.attention import (
    AttentionBlock,
    AttentionLayer,
    at_tokens,
    attention_jacobian,
    block_gradient_norm,
    collapsed_gradient_norm,
    distance_to_uniform,
    gradient_norm,
    gradient_norm_second_moment,
    input_gradient,
    input_gradient_parts,
    key_gradient,
    logit_moment,
    output_norm,
    output_norm_beyond_uniform,
    output_norm_variance,
    query_gradient,
    softmax_expansion,
    value_gradient,
)
from symprop.wick.differentials import (
    at_constant_logits,
    at_uniform,
    evaluate,
    jacobian,
    kronecker_form,
    matrices_equal,
)
from symprop.wick.distributions import Equicorrelated, Gaussian, Iid, Law
from symprop.wick.invariants import TokenInvariants
from symprop.wick.isserlis import expectation, pairings
from symprop.wick.matrices import (
    Averaging,
    Centring,
    Commutation,
    Softmax,
    SoftmaxJacobian,
    SymmetricMatrix,
    UnitVector,
    averaging,
    centring,
    entry,
    frobenius2,
    kron,
    ones,
    trace,
)
from symprop.wick.moments import MomentMap, moment_map, norm_moments, tail_ratio, tail_ratio_limit
from symprop.wick.steps import Derivation, ProofStep
from symprop.wick.tokens import (
    factorised_gradient_norm,
    matching_temperature,
    mean_gradient_norm,
    missing_factor,
    token_average,
    token_covariance,
)

__all__ = [
    "AttentionBlock", "AttentionLayer", "Averaging", "Centring", "Commutation", "Derivation", "Equicorrelated",
    "Gaussian", "Iid", "Law", "MomentMap", "ProofStep", "Softmax", "SoftmaxJacobian", "SymmetricMatrix",
    "TokenInvariants", "UnitVector", "at_constant_logits", "at_tokens", "at_uniform", "attention_jacobian",
    "averaging", "block_gradient_norm", "centring", "collapsed_gradient_norm", "distance_to_uniform", "entry",
    "evaluate", "expectation", "factorised_gradient_norm", "frobenius2", "gradient_norm", "gradient_norm_second_moment",
    "input_gradient", "input_gradient_parts", "jacobian", "key_gradient", "kron", "kronecker_form", "logit_moment",
    "matching_temperature", "matrices_equal", "mean_gradient_norm", "missing_factor", "moment_map", "norm_moments",
    "ones",
    "output_norm", "output_norm_beyond_uniform", "output_norm_variance", "pairings", "query_gradient",
    "softmax_expansion", "tail_ratio", "tail_ratio_limit", "token_average", "token_covariance", "trace",
    "value_gradient",
]
