"""Symbolic derivation of signal propagation in transformers at initialisation.

>>> from symprop import Linear, UniformAttention, residual, sequential, solve, stack
>>> from symprop.core.symbols import alpha_1, d, sigma_v2
>>> block = residual(UniformAttention(d, sigma_v2), alpha_1)
>>> solve(stack(block)).signal.gap
gap_X
"""

from symprop.components import Linear, SoftmaxAttention, Sum, UniformAttention
from symprop.depth import DepthSolution, solve
from symprop.network import named, residual, sequential, stack, token_input, trace_of

__version__ = "0.1.0"

__all__ = [
    "DepthSolution",
    "Linear",
    "SoftmaxAttention",
    "Sum",
    "UniformAttention",
    "named",
    "residual",
    "sequential",
    "solve",
    "stack",
    "token_input",
    "trace_of",
]
