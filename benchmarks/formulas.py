"""The textbook formulas in plain PyTorch, as one writes them without a library: the peers of the operator.

*Shape* of all: query `(..., query_len, size)`, key and value `(..., key_len, size)` -> `(..., query_len, size)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Formula = Callable[..., Tensor]


def dot(query: Tensor, key: Tensor) -> Tensor:
    """`q . k`"""
    return query @ key.transpose(-1, -2)


def scaled_dot(query: Tensor, key: Tensor) -> Tensor:
    """`q . k / sqrt(size)`"""
    return query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])


def cosine(query: Tensor, key: Tensor, scale: Tensor) -> Tensor:
    """`scale * cos(q, k)`"""
    product = functional.normalize(query, dim=-1) @ functional.normalize(key, dim=-1).transpose(-1, -2)
    return product * scale[:, None, None]


def general(query: Tensor, key: Tensor, weight: Tensor) -> Tensor:
    """`q . W k`"""
    return query @ weight @ key.transpose(-1, -2)


def additive(query: Tensor, key: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`v . tanh(q + k + b)`"""
    energy = torch.tanh((query + bias[:, None]).unsqueeze(-2) + key.unsqueeze(-3))
    return (energy @ weight[:, None, :, None]).squeeze(-1)


def distance(query: Tensor, key: Tensor) -> Tensor:
    """`-|q - k|^2 / (2 sqrt(size))`"""
    difference = query.unsqueeze(-2) - key.unsqueeze(-3)
    return -difference.square().sum(-1) / (2 * math.sqrt(query.shape[-1]))


def softmax(scores: Tensor) -> Tensor:
    """`exp(s) / sum exp(s)`"""
    return torch.softmax(scores, dim=-1)


def sparsemax(scores: Tensor) -> Tensor:
    """`max(s - threshold, 0)`, the threshold from sorted scores (Martins & Astudillo 2016, algorithm 1)."""
    ordered = scores.sort(dim=-1, descending=True).values
    count = torch.arange(1, scores.shape[-1] + 1, dtype=scores.dtype, device=scores.device)
    sums = ordered.cumsum(-1) - 1
    size = (count * ordered > sums).sum(-1, keepdim=True)
    return (scores - sums.gather(-1, size - 1) / size).clamp(min=0)


SCORES: dict[str, Formula] = {
    "dot": dot,
    "scaled_dot": scaled_dot,
    "cosine": cosine,
    "general": general,
    "additive": additive,
    "distance": distance,
}
NORMALIZERS: dict[str, Callable[[Tensor], Tensor]] = {"softmax": softmax, "sparsemax": sparsemax}


def attend(
    query: Tensor, key: Tensor, value: Tensor, score: str, normalizer: str, **learned: Tensor
) -> Tensor:
    """Attention by its definition, every intermediate written out."""
    return NORMALIZERS[normalizer](SCORES[score](query, key, **learned)) @ value
