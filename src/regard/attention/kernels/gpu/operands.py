"""The operands of attention as the Triton kernels read them: tensors, strides, and what a score needs of them once.

`Operands` are the tensors of a call; `Head` is the part of them that one query head reads.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from regard.attention.kernels.gpu.tiles import INTERPRETED

__all__ = [
    "TYPES",
    "Head",
    "Operands",
    "compute_dtype",
    "head_of",
    "operands_of",
    "padded_channels",
    "stored_dtype",
]

LARGEST_WEIGHT = 1e10
"""Additive weights beyond this leave the fast path, whose sums of four could overflow."""
TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


class Operands(NamedTuple):
    """The tensors that scores are made of, and their strides; what a call lacks is None.

    *Shape:* query `(N, Hq, Tq, D)`, key `(N, Hk, Tk, D)`, value `(N, Hk, Tk, Dv)`; the columns `(N, H, T, D)` by any
    strides; the reaches `(N, H, T)`; weight `(Hq, D')` with D' the next multiple of four; centre `(N, Hk, D)`; ranges
    `(N or 1, Hq or 1, Tq, 2)`; mask and bias `(N, Hq, Tq, Tk)` by any strides.
    """

    query: Any
    query_strides: Any
    key: Any
    key_strides: Any
    value: Any
    value_strides: Any
    query_columns: Any
    query_columns_strides: Any
    key_columns: Any
    key_columns_strides: Any
    query_reach: Any
    key_reach: Any
    weight: Any
    centre: Any
    ranges: Any
    ranges_strides: Any
    mask: Any
    mask_strides: Any
    bias: Any
    bias_strides: Any
    heads: Any
    group: Any
    query_len: Any
    key_len: Any


class Head(NamedTuple):
    """What one query head reads: pointers to its first row, and the strides that are left."""

    query: Any
    query_stride: Any
    key: Any
    key_stride: Any
    value: Any
    value_stride: Any
    query_columns: Any
    query_column_stride: Any
    query_channel_stride: Any
    key_columns: Any
    key_column_stride: Any
    key_channel_stride: Any
    query_reach: Any
    key_reach: Any
    weight: Any
    centre: Any
    ranges: Any
    mask: Any
    mask_row: Any
    mask_column: Any
    bias: Any
    bias_row: Any
    bias_column: Any
    query_len: Any
    key_len: Any
    index: Any


@triton.jit
def head_of(operands, n, h, size: tl.constexpr, channels: tl.constexpr):
    """The part of the operands that query head `h` of batch entry `n` reads."""
    n = n.to(tl.int64)
    h = h.to(tl.int64)
    k = h // operands.group
    key_heads = operands.heads // operands.group
    query_columns = operands.query_columns
    query_column_stride = 0
    query_channel_stride = 0
    key_columns = operands.key_columns
    key_column_stride = 0
    key_channel_stride = 0
    if operands.query_columns is not None:
        query_columns += n * operands.query_columns_strides[0] + h * operands.query_columns_strides[1]
        query_column_stride = operands.query_columns_strides[2]
        query_channel_stride = operands.query_columns_strides[3]
        key_columns += n * operands.key_columns_strides[0] + k * operands.key_columns_strides[1]
        key_column_stride = operands.key_columns_strides[2]
        key_channel_stride = operands.key_columns_strides[3]
    query_reach = operands.query_reach
    key_reach = operands.key_reach
    if operands.query_reach is not None:
        query_reach += (n * operands.heads + h) * operands.query_len
        key_reach += (n * key_heads + k) * operands.key_len
    weight = operands.weight
    if operands.weight is not None:
        weight += h * channels
    centre = operands.centre
    if operands.centre is not None:
        centre += (n * key_heads + k) * size
    ranges = operands.ranges
    if operands.ranges is not None:
        ranges += n * operands.ranges_strides[0] + h * operands.ranges_strides[1]
    mask = operands.mask
    mask_row = 0
    mask_column = 0
    if operands.mask is not None:
        mask += n * operands.mask_strides[0] + h * operands.mask_strides[1]
        mask_row = operands.mask_strides[2]
        mask_column = operands.mask_strides[3]
    bias = operands.bias
    bias_row = 0
    bias_column = 0
    if operands.bias is not None:
        bias += n * operands.bias_strides[0] + h * operands.bias_strides[1]
        bias_row = operands.bias_strides[2]
        bias_column = operands.bias_strides[3]
    return Head(
        query=operands.query + n * operands.query_strides[0] + h * operands.query_strides[1],
        query_stride=operands.query_strides[2],
        key=operands.key + n * operands.key_strides[0] + k * operands.key_strides[1],
        key_stride=operands.key_strides[2],
        value=operands.value + n * operands.value_strides[0] + k * operands.value_strides[1],
        value_stride=operands.value_strides[2],
        query_columns=query_columns,
        query_column_stride=query_column_stride,
        query_channel_stride=query_channel_stride,
        key_columns=key_columns,
        key_column_stride=key_column_stride,
        key_channel_stride=key_channel_stride,
        query_reach=query_reach,
        key_reach=key_reach,
        weight=weight,
        centre=centre,
        ranges=ranges,
        mask=mask,
        mask_row=mask_row,
        mask_column=mask_column,
        bias=bias,
        bias_row=bias_row,
        bias_column=bias_column,
        query_len=operands.query_len,
        key_len=operands.key_len,
        index=(n * operands.heads + h).to(tl.int32),
    )


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def stored_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that a kernel writes: the same, but that the interpreter cuts bfloat16 off where a GPU rounds it."""
    return torch.float32 if INTERPRETED.value and dtype == torch.bfloat16 else dtype


def padded_channels(size: int) -> int:
    """The next multiple of four: additive scores take four channels at a time."""
    return -(-size // 4) * 4


def operands_of(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weight: Tensor | None,
    ranges: Tensor | None,
    mask: Tensor | None,
    bias: Tensor | None,
    score: str,
) -> Operands:
    """The operands of a call, with the exponentials, norms or copies that its score reads. *Shape:* as `Operands`."""
    query, key, value = (t.detach() for t in (query, key, value))
    query, key, value = (t if t.stride(-1) == 1 else t.contiguous() for t in (query, key, value))
    compute = compute_dtype(query.dtype)
    shape = (*query.shape[:-1], key.shape[-2])
    columns: tuple[Tensor | None, Tensor | None] = (None, None)
    reaches: tuple[Tensor | None, Tensor | None] = (None, None)
    padded: Tensor | None = None
    centre: Tensor | None = None
    if score == "additive":
        padded = _weight(weight, query, compute)
        columns = (_powers(query, compute), _powers(key, compute))
        reach = query.abs().amax(-1).to(compute)
        heavy = padded.abs().amax(-1, keepdim=True) > LARGEST_WEIGHT
        reaches = (reach.masked_fill(heavy, torch.inf), key.abs().amax(-1).to(compute).contiguous())
    elif score == "distance" and query.dtype == compute:
        columns = (query.mT.contiguous().mT, key.mT.contiguous().mT)
        centre = key.mean(-2)
    elif score == "distance":
        columns = (query, key)
        reaches = (query.to(compute).square().sum(-1), key.to(compute).square().sum(-1))
    if ranges is not None:
        ranges = ranges.to(torch.int32).contiguous()
    if mask is not None:
        mask = mask.view(torch.uint8).expand(shape)
    if bias is not None:
        bias = bias.detach().expand(shape)
    return Operands(
        query=query,
        query_strides=query.stride()[:3],
        key=key,
        key_strides=key.stride()[:3],
        value=value,
        value_strides=value.stride()[:3],
        query_columns=columns[0],
        query_columns_strides=None if columns[0] is None else columns[0].stride(),
        key_columns=columns[1],
        key_columns_strides=None if columns[1] is None else columns[1].stride(),
        query_reach=None if reaches[0] is None else reaches[0].contiguous(),
        key_reach=reaches[1],
        weight=padded,
        centre=centre,
        ranges=ranges,
        ranges_strides=None
        if ranges is None
        else tuple(0 if ranges.shape[axis] == 1 else ranges.stride(axis) for axis in (0, 1)),
        mask=mask,
        mask_strides=None if mask is None else mask.stride(),
        bias=bias,
        bias_strides=None if bias is None else bias.stride(),
        heads=query.shape[1],
        group=query.shape[1] // key.shape[1],
        query_len=query.shape[2],
        key_len=key.shape[2],
    )


def _powers(tensor: Tensor, compute: torch.dtype) -> Tensor:
    """The exponentials of twice a tensor, a channel's one after the other; channels that pad are zero.

    *Shape:* `(N, H, T, D)` -> `(N, H, T, D')`.
    """
    size = tensor.shape[-1]
    powers = tensor.new_zeros((*tensor.shape[:2], padded_channels(size), tensor.shape[2]), dtype=compute)
    torch.exp(2 * tensor.to(compute).mT, out=powers[..., :size, :])
    return powers.mT


def _weight(weight: Tensor | None, query: Tensor, compute: torch.dtype) -> Tensor:
    """The weight with zeros for the channels that pad. *Shape:* `(Hq, D)` -> `(Hq, D')`."""
    heads, size = query.shape[1], query.shape[3]
    padded = query.new_zeros((heads, max(padded_channels(size), 4)), dtype=compute)
    padded[:, :size] = 1 if weight is None else weight.detach()
    return padded
