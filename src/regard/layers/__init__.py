"""Layers on the operator: modules that own the projections and the learned parts of a mechanism."""

from regard.layers.learned import LearnedMechanism
from regard.layers.memory import CrossAttention, Memory, MemoryAttention
from regard.layers.selfattention import Cache, SelfAttention

__all__ = ["Cache", "CrossAttention", "LearnedMechanism", "Memory", "MemoryAttention", "SelfAttention"]
