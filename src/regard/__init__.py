"""Attention mechanisms as one exact operator, and a workbench to choose, tune, train and look at them."""

from regard import layers
from regard.attention import biases, masks, normalizers, rotary, scores
from regard.attention.mechanism import Mechanism
from regard.attention.operator import attend, explain, weights

__all__ = [
    "Mechanism",
    "attend",
    "biases",
    "explain",
    "layers",
    "masks",
    "normalizers",
    "rotary",
    "scores",
    "weights",
]
__version__ = "0.1.0"
