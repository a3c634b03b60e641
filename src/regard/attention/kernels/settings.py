"""What a fused call is, but for its tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch

__all__ = ["DENSE", "SUPPORT", "Settings", "kept_keys"]

DENSE = frozenset(("softmax", "sigmoid"))
"""The normalisers that give every key a weight."""

SUPPORT = 256
"""How many keys of each query are kept for the backward pass, on average over a block of queries."""


class Settings(NamedTuple):
    """Score and normaliser by the names that kernels know, and how dropout is drawn.

    `score` is `product`, `distance` ($-|q - k|^2$) or `additive`, times `scale`. `normalizer` is `entmax`, whose
    `parameter` is alpha; `top`, how many keys are kept; `hardmax`; `softmax`, its temperature; or `sigmoid`, its bias.
    `first` is the place of the first query among the `whole` of its head: dropout is drawn by it.
    """

    score: str
    normalizer: str
    parameter: float
    scale: float = 1.0
    dropout: float = 0.0
    seed: int = 0
    first: int = 0
    whole: int = 0


def kept_keys(normalizer: str, parameter: float, key_len: int) -> int:
    """How many keys a query has room for in what is kept; the queries of a block share theirs."""
    most = {"entmax": SUPPORT, "top": min(int(parameter), SUPPORT), "hardmax": 1}[normalizer]
    return torch.sym_min(key_len, most)
