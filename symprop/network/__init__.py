"""Blocks built from components, the straight-line Trace they become, and its interpreters."""

from symprop.network.builders import Block, Residual, Sequential, Stack, named, residual, sequential, stack
from symprop.network.trace import Step, Trace, token_input, trace_of

__all__ = [
    "Block",
    "Residual",
    "Sequential",
    "Stack",
    "Step",
    "Trace",
    "named",
    "residual",
    "sequential",
    "stack",
    "token_input",
    "trace_of",
]
