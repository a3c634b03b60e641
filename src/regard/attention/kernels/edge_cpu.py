"""The operators of `edge_operators` on the CPU: addresses, sizes and distances for the compiled kernels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from regard.attention.kernels import edges, edges_backward
from regard.attention.kernels.edge_operators import rows_like
from regard.attention.kernels.edge_plain import EdgeSettings
from regard.attention.kernels.threads import in_threads, threads
from regard.attention.masks.edges import by_key

__all__ = ["attention", "attention_backward"]

ROWS = 64
"""How many queries, or keys, a thread takes at a time."""
MORE = 64
"""So many numbers more than a list has may be written to a row."""

SCORES = {
    "product": (edges.PRODUCT, 0.0),
    "distance": (edges.DISTANCE, 0.0),
    "additive": (edges.ADDITIVE, 0.0),
    "additive_leaky_relu": (edges.BENT, 0.2),
    "additive_relu": (edges.BENT, 0.0),
}
"""The scores and what their activation multiplies numbers below zero with."""
NORMALIZERS = {
    "entmax": edges.ENTMAX,
    "top": edges.TOP,
    "hardmax": edges.HARDMAX,
    "softmax": edges.SOFTMAX,
    "sigmoid": edges.SIGMOID,
}


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weight: Tensor | None,
    starts: Tensor,
    keys: Tensor,
    turns: Tensor | None,
    queries: Tensor | None,
    order: Tensor | None,
    mask: Tensor | None,
    bias: Tensor | None,
    settings: EdgeSettings,
) -> tuple[Tensor, Tensor]:
    """Output and weights."""
    batch, heads, query_len, size = query.shape
    item, value_size = query.element_size(), value.shape[-1]
    query, key, value = (_in_rows(t) for t in (query, key, value))
    weight = None if weight is None else weight.contiguous()
    output = rows_like(value, query, value_size)
    weights = query.new_empty(batch, heads, len(keys))
    score, numbers = _numbers(settings)
    room = _longest(starts) + MORE
    scratch = query.new_empty(threads() * edges.ROOMS * room)
    together = _together(key, heads)
    in_threads(
        edges.forward(item),
        [
            *_addresses(query, key, value, weight, starts, keys, mask, bias, output, weights, scratch), room,
            numbers.ctypes.data, heads, heads // key.shape[1], query_len, len(keys), size, value_size,
            score, NORMALIZERS[settings.normalizer], ROWS, together, item, settings.seed, _own(weight),
            *_strides(query), *_strides(key), *_strides(value), *_strides(output), *_strides(mask), *_strides(bias),
        ],
        batch * heads // together * -(-query_len // ROWS),
    )  # fmt: skip
    return output, weights


def attention_backward(
    grad_output: Tensor,
    grad_weights: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weight: Tensor | None,
    starts: Tensor,
    keys: Tensor,
    turns: Tensor | None,
    queries: Tensor | None,
    order: Tensor | None,
    mask: Tensor | None,
    bias: Tensor | None,
    weights: Tensor,
    settings: EdgeSettings,
    want_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of query, key, value, weight and bias; the last two are empty where there are none."""
    batch, heads, query_len, size = query.shape
    key_heads, key_len, value_size = *key.shape[1:3], value.shape[-1]
    item, group = query.element_size(), heads // key_heads
    if turns is None or queries is None or order is None:
        turns, queries, order = by_key(starts, keys, key_len)
    query, key, value, grad_output = (_in_rows(t) for t in (query, key, value, grad_output))
    weight, grad_weights = (None if t is None else t.contiguous() for t in (weight, grad_weights))
    grads = tuple(rows_like(t, t, t.shape[-1]) for t in (query, key, value))
    blocks = -(-query_len // ROWS)
    grad_weight = query.new_zeros((batch, heads, blocks, size) if weight is not None else 0)
    grad_bias = query.new_empty((batch, heads, len(keys)) if want_bias else 0)
    slopes = torch.empty_like(weights)
    score, numbers = _numbers(settings)
    # Whether no edge along which nothing may be looked has to be left out.
    whole = mask is None and bias is None and settings.normalizer in ("softmax", "sigmoid")
    room = _longest(starts) + MORE
    scratch = query.new_empty(threads() * (5 * room + 2 * size))
    together = _together(key, heads)
    in_threads(
        edges_backward.backward_queries(item),
        [
            *_addresses(query, key, value, weight, starts, keys, grad_output, grad_weights, weights, slopes),
            *_addresses(grads[0], grad_weight, grad_bias, scratch), room, numbers.ctypes.data,
            heads, group, query_len, len(keys), size, value_size,
            score, NORMALIZERS[settings.normalizer], ROWS, together, item, settings.seed, _own(weight), whole,
            *_strides(query), *_strides(key), *_strides(value), *_strides(grad_output), *_strides(grads[0]),
        ],
        batch * heads // together * blocks,
    )  # fmt: skip
    room = _longest(turns) + MORE
    scratch = query.new_empty(threads() * (3 * room + 2 * size + value_size))
    together = _together(key, key_heads)
    in_threads(
        edges_backward.backward_keys(item),
        [
            *_addresses(query, key, weight, turns, queries, order, grad_output, weights, slopes, *grads[1:], scratch),
            room, numbers.ctypes.data, heads, group, query_len, len(keys), size, value_size,
            score, key_len, ROWS, together, item, settings.seed, _own(weight),
            *_strides(query), *_strides(key), *_strides(grad_output), *_strides(grads[1]), *_strides(grads[2]), whole,
        ],
        batch * key_heads // together * -(-key_len // ROWS),
    )  # fmt: skip
    if weight is not None:
        grad_weight = grad_weight.sum((0, 2))
        grad_weight = grad_weight if len(weight) > 1 else grad_weight.sum(0, keepdim=True)
    return *grads, grad_weight, grad_bias


def _in_rows(tensor: Tensor) -> Tensor:
    """The tensor with its channels one after the other."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _together(key: Tensor, heads: int) -> int:
    """How many heads of a node are computed one after the other: all where they lie beside each other."""
    return heads if key.stride(1) < key.stride(2) else 1


def _longest(starts: Tensor) -> int:
    return int(starts.diff().amax()) if len(starts) > 1 else 0


def _numbers(settings: EdgeSettings) -> tuple[int, np.ndarray]:
    score, bend = SCORES[settings.score]
    return score, np.array([settings.parameter, settings.dropout, settings.leak, bend])


def _own(weight: Tensor | None) -> int:
    """How far the heads' nets are apart."""
    return 0 if weight is None or len(weight) == 1 else weight.shape[-1]


def _addresses(*tensors: Tensor | None) -> list[int]:
    return [0 if tensor is None or not tensor.numel() else tensor.data_ptr() for tensor in tensors]


def _strides(tensor: Tensor | None) -> list[int]:
    """The distances along the first three axes, zero where there is but one place."""
    if tensor is None:
        return [0] * 3
    return [
        stride if size > 1 else 0 for stride, size in zip(tensor.stride()[:3], tensor.shape[:3], strict=True)
    ]
