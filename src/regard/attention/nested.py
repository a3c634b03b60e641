"""PyTorch's jagged nested tensors: every sequence on its own, without padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from regard.attention.masks import Documents
from regard.attention.sequences import groups, in_place, stacked, unstacked

__all__ = ["attend_each"]


def attend_each(query: Any, key: Any, value: Any, one: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """What `one` makes of the sequences of jagged query, key and value, those of one length together, jagged again.

    *Shape:* `(batch, heads, ragged, size)`, or without heads `(batch, ragged, size)`; `one` gets
    `(sequences, heads, length, size)` or `(sequences, length, size)`. Raises `TypeError` or `ValueError` naming the
    argument at fault.
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

    flat = (query.values(), key.values(), value.values())
    places, outputs = [], []
    for group in groups(Documents(offsets, key_offsets)):
        rows, columns = group.rows(query.device), group.columns(query.device)
        output = one(stacked(flat[0], rows), stacked(flat[1], columns), stacked(flat[2], columns))
        places.append(rows.flatten())
        outputs.append(unstacked(output, flat[0].ndim))
    like = outputs[0] if outputs else flat[2]
    whole = in_place(places, outputs, like.new_zeros(*flat[0].shape[:-1], flat[2].shape[-1]))
    jagged: Tensor = torch.nested.nested_tensor_from_jagged(whole, offsets, jagged_dim=query.ndim - 2)
    return jagged
