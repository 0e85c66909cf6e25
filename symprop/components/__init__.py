"""The leaves of a network: each file holds one component's moment transform, its sampler and its sources."""

from symprop.components.base import Array, Component, PairState, Values, Vjp
from symprop.components.linear import Linear
from symprop.components.softmax_attention import SoftmaxAttention
from symprop.components.sum import Sum
from symprop.components.uniform_attention import UniformAttention

COMPONENTS: tuple[type[Component], ...] = (Linear, UniformAttention, SoftmaxAttention, Sum)

__all__ = [
    "COMPONENTS",
    "Array",
    "Component",
    "Linear",
    "PairState",
    "SoftmaxAttention",
    "Sum",
    "UniformAttention",
    "Values",
    "Vjp",
]
