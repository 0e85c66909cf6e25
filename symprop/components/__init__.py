"""The leaves of a network: each file holds one component's moment transform, its sampler and its sources."""

from symprop.components.attention import Attention
from symprop.components.base import Array, Component, PairState, Values, Vjp
from symprop.components.causal_attention import CausalAttention
from symprop.components.cross_attention import CrossAttention
from symprop.components.dropout import Dropout
from symprop.components.dyt import DynamicTanh
from symprop.components.elementwise import Elementwise
from symprop.components.embedding import Embedding
from symprop.components.gated import GatedUnit
from symprop.components.layer_scale import LayerScale
from symprop.components.linear import Linear
from symprop.components.norm import LayerNorm, RMSNorm
from symprop.components.query_key_norm import QueryKeyNormAttention
from symprop.components.rotary_attention import RotaryAttention
from symprop.components.shaped_attention import ShapedAttention
from symprop.components.softmax import Softmax
from symprop.components.sum import Sum
from symprop.components.uniform_attention import UniformAttention

COMPONENTS: tuple[type[Component], ...] = (
    Embedding,
    Linear,
    UniformAttention,
    Attention,
    CrossAttention,
    CausalAttention,
    RotaryAttention,
    ShapedAttention,
    QueryKeyNormAttention,
    Softmax,
    Sum,
    Elementwise,
    GatedUnit,
    LayerNorm,
    RMSNorm,
    DynamicTanh,
    Dropout,
    LayerScale,
)

__all__ = [
    "COMPONENTS",
    "Array",
    "Attention",
    "CausalAttention",
    "Component",
    "CrossAttention",
    "Dropout",
    "DynamicTanh",
    "Elementwise",
    "Embedding",
    "GatedUnit",
    "LayerNorm",
    "LayerScale",
    "Linear",
    "PairState",
    "QueryKeyNormAttention",
    "RMSNorm",
    "RotaryAttention",
    "ShapedAttention",
    "Softmax",
    "Sum",
    "UniformAttention",
    "Values",
    "Vjp",
]
