"""Blocks built from components, the straight-line Trace they become, and its interpreters."""

from symprop.network.builders import Block, Parallel, Residual, Sequential, Stack, named, parallel, residual, sequential, stack
from symprop.network.trace import Step, Trace, token_input, trace_of

__all__ = [
    "Block",
    "Parallel",
    "Residual",
    "Sequential",
    "Stack",
    "Step",
    "Trace",
    "named",
    "parallel",
    "residual",
    "sequential",
    "stack",
    "token_input",
    "trace_of",
]
