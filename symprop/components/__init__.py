"""The leaves of a network: each file holds one component's moment transform, its sampler and its sources."""

from symprop.components.base import Array, Component, PairState, Values, Vjp
from symprop.components.dropout import Dropout
from symprop.components.elementwise import Elementwise
from symprop.components.gated import GatedUnit
from symprop.components.layer_scale import LayerScale
from symprop.components.linear import Linear
from symprop.components.norm import LayerNorm, RMSNorm
from symprop.components.softmax_attention import SoftmaxAttention
from symprop.components.sum import Sum
from symprop.components.uniform_attention import UniformAttention

COMPONENTS: tuple[type[Component], ...] = (
    Linear,
    UniformAttention,
    SoftmaxAttention,
    Sum,
    Elementwise,
    GatedUnit,
    LayerNorm,
    RMSNorm,
    Dropout,
    LayerScale,
)

__all__ = [
    "COMPONENTS",
    "Array",
    "Component",
    "Dropout",
    "Elementwise",
    "GatedUnit",
    "LayerNorm",
    "LayerScale",
    "Linear",
    "PairState",
    "RMSNorm",
    "SoftmaxAttention",
    "Sum",
    "UniformAttention",
    "Values",
    "Vjp",
]
