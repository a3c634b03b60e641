"""Attention mechanisms as one exact operator, and a workbench to choose, tune, train and look at them."""

from regard import layers
from regard.attention import masks, normalizers, scores
from regard.attention.mechanism import Mechanism
from regard.attention.operator import attend, explain, weights

__all__ = ["Mechanism", "attend", "explain", "layers", "masks", "normalizers", "scores", "weights"]
__version__ = "0.1.0"
