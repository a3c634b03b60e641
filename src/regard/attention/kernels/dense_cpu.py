"""Attention with dense weights on the CPU: tensors laid out for the kernels of `dense` and `dense_backward`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from regard.attention.kernels import dense, dense_backward
from regard.attention.kernels.emit import ROWS, WIDTH
from regard.attention.kernels.layout import Layout, addresses, strides_of
from regard.attention.kernels.settings import Settings
from regard.attention.kernels.threads import in_threads, threads

__all__ = ["NORMALIZERS", "attention", "attention_backward"]

NORMALIZERS = {"softmax": dense.SOFTMAX, "sigmoid": dense.SIGMOID}
QUERIES, KEYS = 64, 512
"""A block: its scores stay in a core's own cache, with the keys and values that they are of."""
ADDITIVE_KEYS = 4096
"""The same of an additive score backward, whose sums over keys are the dearer the fewer keys a block has."""
GROUPS = 64
"""Room for the largest of each group of a row's numbers."""


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weight: Tensor | None,
    ranges: Tensor | None,
    mask: Tensor | None,
    bias: Tensor | None,
    settings: Settings,
    want_weights: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, weights, and for each query its largest score and one over its sum."""
    batch, heads, query_len, _ = query.shape
    key_heads, key_len, value_size = key.shape[1], key.shape[-2], value.shape[-1]
    layout, value, ranges = _laid_out(query, key, value, weight, ranges, settings)
    item, size, width = query.element_size(), layout.query.shape[-1], value.shape[-1]
    all_keys = layout.panels * layout.panel
    some = all_keys if want_weights else min(KEYS, all_keys)
    rows = min(QUERIES, _up(query_len, ROWS)) if some <= KEYS else ROWS
    output = query.new_empty(batch, heads, query_len, value_size)
    weights = query.new_zeros((batch, heads, query_len, key_len) if want_weights else 0)
    statistic = query.new_empty(batch, heads, query_len, 2)
    scratch_size = rows * (size + some + layout.panel + width + 2) + GROUPS
    scratch = query.new_empty(threads() * scratch_size)
    numbers = np.array([settings.parameter, settings.dropout, settings.scale])
    in_threads(
        dense.forward(item),
        [
            *addresses(layout.query, layout.key, value, layout.weight, output, weights, statistic, scratch),
            scratch_size, numbers.ctypes.data, *addresses(bias, mask, ranges),
            heads, key_heads, query_len, key_len, size, width, value_size, layout.score,
            NORMALIZERS[settings.normalizer], rows, some, item, layout.panel, layout.weight_stride,
            settings.seed, settings.first, settings.whole,
            *strides_of(ranges, 3), *strides_of(mask, 4), *strides_of(bias, 4),
        ],
        batch * heads * -(-query_len // rows),
    )  # fmt: skip
    return output, weights, statistic


def attention_backward(
    grad_output: Tensor,
    grad_weights: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weight: Tensor | None,
    ranges: Tensor | None,
    mask: Tensor | None,
    bias: Tensor | None,
    output: Tensor,
    statistic: Tensor,
    settings: Settings,
    want_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of query, key, value, weight and bias; the last two are empty where there are none."""
    batch, heads, query_len, channels = query.shape
    key_heads, key_len, value_size = key.shape[1], key.shape[-2], value.shape[-1]
    means = (grad_output * output).sum(-1)
    if grad_weights is not None:
        grad_weights, plain = grad_weights.contiguous(), settings._replace(dropout=0.0)
        weights = attention(query, key, value, weight, ranges, mask, bias, plain, True)[1]
        means += (weights * grad_weights).sum(-1)
    layout, value, ranges = _laid_out(query, key, value, weight, ranges, settings)
    grad_output, key = _whole(grad_output, layout.panel), _whole(key, layout.panel)
    item, size, width = query.element_size(), layout.query.shape[-1], value.shape[-1]
    all_keys, group = layout.panels * layout.panel, heads // key_heads
    if weight is None:
        rows, some, each, sums = min(QUERIES, _up(query_len, ROWS)), min(KEYS, all_keys), 1, QUERIES * size
    else:
        rows, some, each, sums = ROWS, min(ADDITIVE_KEYS, all_keys), group, (ROWS + 1) * size * WIDTH // item
    blocks = -(-query_len // rows)
    chunks = max(1, min(-(-4 * threads() // (batch * key_heads)), blocks)) if threads() > 1 else 1
    grad_query = torch.empty_like(layout.query)
    grad_key = query.new_zeros(batch, key_heads, chunks, each, all_keys, size)
    grad_value = query.new_zeros(batch, key_heads, chunks, all_keys, width)
    grad_weight = query.new_zeros((batch, key_heads, chunks, each, size) if weight is not None else 0)
    grad_bias = query.new_zeros((batch, heads, query_len, key_len) if want_bias else 0)
    beyond = query.new_zeros(batch, key_heads, chunks, all_keys if settings.score == "distance" else 0)
    scratch_size = rows * (size + width + 2 * (some + layout.panel)) + sums
    scratch = query.new_empty(threads() * scratch_size)
    numbers = np.array([settings.parameter, settings.dropout, settings.scale])
    values = Layout.of(grad_output, value, None, "product", by_row=False).key
    in_threads(
        dense_backward.backward(item),
        [
            *addresses(layout.query, layout.key, values, key, layout.weight, grad_output, grad_weights, statistic),
            *addresses(means, bias, mask, ranges, grad_query, grad_key, grad_value, grad_weight, grad_bias, beyond),
            *addresses(scratch), scratch_size, numbers.ctypes.data, heads, key_heads, query_len, key_len, size, width,
            layout.score, NORMALIZERS[settings.normalizer], rows, some, item, layout.panel, chunks,
            layout.weight_stride, settings.seed, settings.first, settings.whole,
            *strides_of(ranges, 3), *strides_of(mask, 4), *strides_of(bias, 4),
        ],
        batch * key_heads * chunks,
    )  # fmt: skip
    to_value = _sum(grad_value)[:, :, :key_len, :value_size]
    to_key = _sum(grad_key)
    if weight is not None:
        net = weight.expand(heads, channels).view(1, key_heads, group, 1, channels, 1)
        panels = to_key.view(batch, key_heads, group, layout.panels, channels, layout.panel)
        to_key = (panels * net).sum(2).transpose(-1, -2).flatten(2, 3)[:, :, :key_len]
        grad_weight = _sum(grad_weight).flatten(1, 2).sum(0).sum_to_size(weight.shape)
        return grad_query, to_key.contiguous(), to_value.contiguous(), grad_weight, grad_bias
    to_key = to_key[:, :, 0, :key_len]
    if settings.score == "distance":
        to_key = 2 * (to_key - _sum(beyond)[:, :, :key_len, None] * key)
    found = (grad_query[..., :channels], to_key[..., :channels], to_value)
    return (*(t.contiguous() for t in found), grad_weight, grad_bias)  # type: ignore[return-value]


def _laid_out(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weight: Tensor | None,
    ranges: Tensor | None,
    settings: Settings,
) -> tuple[Layout, Tensor, Tensor | None]:
    """Queries and keys as kernels read them, values of whole register tiles, and ranges as numbers of 32 bits."""
    layout = Layout.of(query, key, weight, settings.score, by_row=False)
    if weight is None:
        query, key = _whole(query, layout.panel), _whole(key, layout.panel)
        layout = Layout.of(query, key, weight, settings.score, by_row=False)
    return (
        layout,
        _whole(value, layout.panel),
        None if ranges is None else ranges.to(torch.int32).contiguous(),
    )


def _sum(chunks: Tensor) -> Tensor:
    return chunks[:, :, 0] if chunks.shape[2] == 1 else chunks.sum(2)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


def _whole(tensor: Tensor, panel: int) -> Tensor:
    """Channels up to a whole number of register tiles, the new ones zero."""
    return pad(tensor, (0, -tensor.shape[-1] % panel)).contiguous()
