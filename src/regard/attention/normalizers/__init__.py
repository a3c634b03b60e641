"""Normalisers: from the scores of one query to the weights of its keys.

A normaliser is a small frozen value. It receives rows of scores in which a hidden key has the score minus infinity
and at least one key does not; a row that may see nothing never reaches it.
To add one: write the class, list it in `NORMALIZERS`.
"""

from collections.abc import Callable
from functools import partial

from regard.attention.normalizers.drawn import GumbelSoftmax, Sample
from regard.attention.normalizers.entmax import Entmax, Entmax15, Sparsemax
from regard.attention.normalizers.hard import Hardmax, Threshold, TopK, TopP
from regard.attention.normalizers.local import Local
from regard.attention.normalizers.monotonic import Monotonic, MonotonicHard
from regard.attention.normalizers.normalizer import Normalizer
from regard.attention.normalizers.relu import ReLU
from regard.attention.normalizers.sink import SinkSoftmax
from regard.attention.normalizers.softmax import Sigmoid, Softmax

__all__ = [
    "NORMALIZERS",
    "Entmax",
    "Entmax15",
    "GumbelSoftmax",
    "Hardmax",
    "Local",
    "Monotonic",
    "MonotonicHard",
    "Normalizer",
    "ReLU",
    "Sample",
    "Sigmoid",
    "SinkSoftmax",
    "Softmax",
    "Sparsemax",
    "Threshold",
    "TopK",
    "TopP",
]

NORMALIZERS: dict[str, Callable[..., Normalizer]] = {
    "softmax": Softmax,
    "sparsemax": Sparsemax,
    "entmax15": Entmax15,
    "entmax": Entmax,
    "sigmoid": Sigmoid,
    "relu": ReLU,
    "sink": SinkSoftmax,
    "hardmax": Hardmax,
    "top": TopK,
    "top_p": TopP,
    "threshold": Threshold,
    "gumbel": GumbelSoftmax,
    "gumbel_hard": partial(GumbelSoftmax, hard=True),
    "sample": Sample,
    "monotonic": Monotonic,
    "monotonic_hard": MonotonicHard,
}
"""Every normaliser by the name that spells it, with the numbers that may follow: `softmax-0.5`, `top-8`."""
