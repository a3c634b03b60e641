"""PyTorch's jagged nested tensors, as documents packed into one sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from regard.attention.masks import Mask, documents

__all__ = ["packed"]


def packed(
    query: Any, key: Any, value: Any, mask: Mask | None
) -> tuple[tuple[Tensor, Tensor, Tensor], Mask, Callable[[Tensor], Tensor]]:
    """Jagged query, key and value as packed sequences, the mask that keeps them apart, and what makes an output jagged
    again.

    *Shape:* `(batch, heads, ragged, size)`, or without heads `(batch, ragged, size)` -> `(heads, total, size)` or
    `(total, size)`. Raises `TypeError` or `ValueError` naming the argument at fault.
    """
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not getattr(tensor, "is_nested", False) or tensor.layout != torch.jagged:
            raise TypeError(f"{name} must be a jagged nested tensor, as one of query, key and value is")
        if tensor.ndim not in (3, 4) or tensor._ragged_idx != tensor.ndim - 2:
            raise ValueError(
                f"{name} must be nested as (batch, heads, ragged, size) or (batch, ragged, size), "
                f"it has shape {tuple(tensor.shape)} (tensor.transpose(1, 2) puts heads before lengths)"
            )
        if tensor._lengths is not None:
            raise ValueError(f"{name} must be without holes between its sequences: use tensor.contiguous()")
    offsets, key_offsets = query.offsets(), key.offsets()
    if len(offsets) != len(key_offsets) or len(offsets) != len(value.offsets()):
        raise ValueError(
            f"query, key and value must be of as many sequences: they are of {len(offsets) - 1}, "
            f"{len(key_offsets) - 1} and {len(value.offsets()) - 1}"
        )
    if not torch.equal(key_offsets, value.offsets()):
        raise ValueError("value must have the lengths of key, its sequences have others")

    def jagged(output: Tensor) -> Tensor:
        made: Tensor = torch.nested.nested_tensor_from_jagged(output, offsets, jagged_dim=query.ndim - 2)
        return made

    flat = (query.values(), key.values(), value.values())
    return flat, documents(offsets, key_offsets, mask), jagged
