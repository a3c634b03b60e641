"""Tensors that stand for the picture of all queries against all keys, or broadcast to it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["block_of", "broadcastable", "count", "pairs_of"]


def broadcastable(shape: tuple[int, ...], full: tuple[int, ...]) -> bool:
    """Whether a tensor of `shape` can be broadcast to `full` without making that any larger."""
    return len(shape) <= len(full) and all(
        one in (1, whole) for one, whole in zip(reversed(shape), reversed(full), strict=False)
    )


def count(shape: Iterable[int]) -> int:
    """How many elements a tensor of `shape` has. (`math.prod` would make a compiler take the sizes for constants.)"""
    elements = 1
    for size in shape:
        elements = elements * size
    return elements


def block_of(tensor: Tensor, rows: Tensor | slice, columns: slice) -> Tensor:
    """A block of a tensor that is broadcastable to the picture: a view where `rows` is a slice.

    *Shape:* broadcastable to `(..., query_len, key_len)` -> broadcastable to `(..., rows, columns)`.
    """
    tensor = _two_axes(tensor)
    if tensor.shape[-2] != 1:
        tensor = tensor[..., rows, :]
    return tensor[..., columns] if tensor.shape[-1] != 1 else tensor


def pairs_of(tensor: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Single places of a tensor that is broadcastable to the picture.

    *Shape:* broadcastable to `(..., query_len, key_len)`, places broadcastable to `(rows, columns)` ->
    `(..., rows, columns)`.
    """
    tensor = _two_axes(tensor)
    query, key = torch.broadcast_tensors(query, key)
    return tensor[
        ..., query if tensor.shape[-2] != 1 else query * 0, key if tensor.shape[-1] != 1 else key * 0
    ]


def _two_axes(tensor: Tensor) -> Tensor:
    return tensor.reshape(*(1,) * (2 - tensor.ndim), *tensor.shape) if tensor.ndim < 2 else tensor
