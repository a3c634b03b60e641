"""Layers on the operator: modules that own the projections and the learned parts of a mechanism."""

from regard.layers.bahdanau import BahdanauAttention
from regard.layers.biflow import BidirectionalAttentionFlow
from regard.layers.cache import Cache
from regard.layers.coverage import CoverageAttention, coverage_loss
from regard.layers.graph import GraphAttention
from regard.layers.hard import MovingBaseline, ReinforceLoss
from regard.layers.learned import LearnedMechanism
from regard.layers.location import LocationSensitiveAttention
from regard.layers.luong import LuongAttention
from regard.layers.memory import CrossAttention, Memory, MemoryAttention
from regard.layers.monotonic import MonotonicAttention
from regard.layers.multihead import MultiheadAttention
from regard.layers.pointer import CopyGate, PointerAttention
from regard.layers.pooling import AttentionPooling
from regard.layers.replace import replace_attention
from regard.layers.selfattention import SelfAttention
from regard.layers.transformer import TransformerDecoderLayer, TransformerEncoderLayer

__all__ = [
    "AttentionPooling",
    "BahdanauAttention",
    "BidirectionalAttentionFlow",
    "Cache",
    "CopyGate",
    "CoverageAttention",
    "CrossAttention",
    "GraphAttention",
    "LearnedMechanism",
    "LocationSensitiveAttention",
    "LuongAttention",
    "Memory",
    "MemoryAttention",
    "MonotonicAttention",
    "MovingBaseline",
    "MultiheadAttention",
    "PointerAttention",
    "ReinforceLoss",
    "SelfAttention",
    "TransformerDecoderLayer",
    "TransformerEncoderLayer",
    "coverage_loss",
    "replace_attention",
]
