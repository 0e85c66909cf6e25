"""How far one gradient step moves the output of a deep network: what initialisations for depth keep bounded."""

from __future__ import annotations

import sympy as sp

from symprop.components.linear import Linear
from symprop.core import symbols
from symprop.core.errors import RefusedError
from symprop.core.expression import factored
from symprop.core.provenance import Derived
from symprop.core.signal import Gradient
from symprop.depth.solution import INDEPENDENT_LAYERS
from symprop.functions import GeometricSum
from symprop.network.trace import Trace


def model_update(trace: Trace, depth: sp.Expr = symbols.L) -> Derived:
    r"""First-order change of the loss by one step of gradient descent, for one token and ``depth`` blocks.

    The step :math:`\delta W = -\eta\, \partial W` moves the output F so that
    :math:`-g \cdot \delta F = \eta \sum_W \|\partial W\|^2` with g the gradient at the output: returned is the expectation
    of the sum over all :class:`Linear` layers, for a random g of squared norm 1/width. A block must either
    leave a fixed second moment, or multiply it by a constant. In the second case the result has that of the input,
    ``trace.input.q``. Raises :class:`RefusedError` for several tokens and for other blocks. Wang et al. 2022, Section 4.2.

    >>> from symprop.core.symbols import beta, d, lam
    >>> from symprop.network import post_norm, sequential, token_input, trace_of
    >>> branch = sequential(Linear(d, beta**2/d), Linear(d, beta**2/d))
    >>> model_update(trace_of(post_norm(branch, 1, lam), token_input(tokens=1))).expression
    2*L*beta**2/(beta**4 + lam**2)
    """
    start = trace.input
    if start.tokens != 1:
        raise RefusedError("update of the model", f"{start.tokens} tokens share its weights", "token_input(tokens=1)")
    above = Gradient(1 / start.width**2, sp.S.Zero)
    total = sp.Add(*(_weights(trace, step.inputs[0], step.component, reached) for step, reached in trace.reaching(above)
                     if isinstance(step.component, Linear)))
    moved = factored(trace.substitute_moments(total))
    back = factored(trace.substitute_moments(trace.backpropagate(above).q) / above.q)
    end = factored(trace.expand().q)
    if not end.has(start.q):
        growth, moved, back = sp.S.One, moved.subs(start.q, end), back.subs(start.q, end)
    else:
        growth = factored(end / start.q)
        if growth.has(start.q) or back.has(start.q) or factored(moved / start.q).has(start.q):
            raise RefusedError("update of the model", f"a block takes {start.q} to {end}", "normalise the stream, or scale it")
    update = factored(moved) * GeometricSum(growth, factored(back), depth)
    return Derived(update, (*trace.assumptions, INDEPENDENT_LAYERS), trace.neglected, trace.sources,
                   ("first order in the learning rate", "one token"))


def _weights(trace: Trace, position: int, component: Linear, gradient: Gradient) -> sp.Expr:
    """E ||dLoss/dW||^2 of one layer."""
    signal = trace.signal(position)
    return signal.width * component.width * component.weight_gradient(gradient, signal)
