"""The operators of `operators` on the CPU: addresses, sizes and distances for the compiled kernels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from regard.attention.kernels.edges import backward, forward, small, small_backward
from regard.attention.kernels.edges.operators import along_edges, beside, rows_like
from regard.attention.kernels.edges.plain import EdgeSettings
from regard.attention.kernels.emit import WIDTH
from regard.attention.kernels.threads import in_threads, threads
from regard.attention.masks.edges import Lists, by_key

__all__ = ["attention", "attention_backward"]

ROWS = 64
"""How many queries, or keys, a thread takes at a time."""
MORE = 64
"""So many numbers more than a list has may be written to a row."""

SCORES = {
    "product": (forward.PRODUCT, 0.0),
    "distance": (forward.DISTANCE, 0.0),
    "additive": (forward.ADDITIVE, 0.0),
    "additive_leaky_relu": (forward.BENT, 0.2),
    "additive_relu": (forward.BENT, 0.0),
}
"""The scores and what their activation multiplies numbers below zero with."""
NORMALIZERS = {
    "entmax": forward.ENTMAX,
    "top": forward.TOP,
    "hardmax": forward.HARDMAX,
    "softmax": forward.SOFTMAX,
    "sigmoid": forward.SIGMOID,
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
    if beside(query, key, value, mask, bias):
        return _small_attention(query, key, value, weight, starts, keys, settings)
    batch, heads, query_len, size = query.shape
    item, value_size = query.element_size(), value.shape[-1]
    output = rows_like(value, query, value_size, False)
    weights = along_edges(query, len(keys), False)
    query, key, value = (_in_rows(t) for t in (query, key, value))
    weight = None if weight is None else weight.contiguous()
    score, numbers = _numbers(settings)
    room = _longest(starts) + MORE
    scratch = query.new_empty(threads() * forward.ROOMS * room)
    together = _together(key, heads)
    in_threads(
        forward.forward(item),
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
    if turns is None or queries is None or order is None:
        turns, queries, order = by_key(starts, keys, key.shape[-2])
    if beside(query, key, value, mask, bias):
        lists = Lists(starts, keys, turns, queries, order)
        return _small_attention_backward(
            grad_output, grad_weights, query, key, value, weight, lists, weights, settings
        )
    batch, heads, query_len, size = query.shape
    key_heads, key_len, value_size = *key.shape[1:3], value.shape[-1]
    item, group = query.element_size(), heads // key_heads
    grads = [rows_like(t, t, t.shape[-1], False) for t in (query, key, value)]
    query, key, value, grad_output = (_in_rows(t) for t in (query, key, value, grad_output))
    weight, grad_weights = (None if t is None else t.contiguous() for t in (weight, grad_weights))
    weights = weights.contiguous()
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
        backward.backward_queries(item),
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
        backward.backward_keys(item),
        [
            *_addresses(query, key, weight, turns, queries, order, grad_output, weights, slopes, *grads[1:], scratch),
            room, numbers.ctypes.data, heads, group, query_len, len(keys), size, value_size,
            score, key_len, ROWS, together, item, settings.seed, _own(weight),
            *_strides(query), *_strides(key), *_strides(grad_output), *_strides(grads[1]), *_strides(grads[2]), whole,
        ],
        batch * key_heads // together * -(-key_len // ROWS),
    )  # fmt: skip
    if weight is not None:
        grad_weight = _shared(grad_weight.sum((0, 2)), weight)
    return grads[0], grads[1], grads[2], grad_weight, grad_bias


def _small_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weight: Tensor | None,
    starts: Tensor,
    keys: Tensor,
    settings: EdgeSettings,
) -> tuple[Tensor, Tensor]:
    """Output and weights of small heads, which lie beside each other."""
    batch, heads, query_len, size = query.shape
    item, value_size = query.element_size(), value.shape[-1]
    output, weights = rows_like(value, query, value_size, True), along_edges(query, len(keys), True)
    query, key, value, own = _in_rows(query), _by_node(key), _by_node(value), _of_all(weight, heads)
    score, numbers = _numbers(settings)
    room, apart = _longest(starts) + MORE, _apart(heads, item)
    scratch = query.new_empty(threads() * ((apart + forward.ROOMS) * room + heads * size))
    in_threads(
        small.forward(item),
        [
            *_addresses(query, key, value, own, starts, keys, output, weights, scratch), room,
            numbers.ctypes.data, heads, query_len, key.shape[1], len(keys), size, value_size,
            score, NORMALIZERS[settings.normalizer], ROWS, item, settings.seed, *_strides(query),
        ],
        batch * -(-query_len // ROWS),
    )  # fmt: skip
    return output, weights


def _small_attention_backward(
    grad_output: Tensor,
    grad_weights: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weight: Tensor | None,
    lists: Lists,
    weights: Tensor,
    settings: EdgeSettings,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of small heads."""
    starts, keys, turns, queries, order = lists
    assert turns is not None
    (batch, heads, query_len, size), key_len = query.shape, key.shape[-2]
    item, value_size = query.element_size(), value.shape[-1]
    grads = [rows_like(t, t, t.shape[-1], True) for t in (query, key, value)]
    query, key, value, grad_output = (_by_node(t) for t in (query, key, value, grad_output))
    weights = weights.transpose(1, 2).contiguous()
    grad_weights = None if grad_weights is None else grad_weights.transpose(1, 2).contiguous()
    own, blocks = _of_all(weight, heads), -(-query_len // ROWS)
    grad_weight = query.new_zeros((batch, blocks, heads, size) if weight is not None else 0)
    slopes = torch.empty_like(weights)
    score, numbers = _numbers(settings)
    room, apart = _longest(starts) + MORE, _apart(heads, item)
    scratch = query.new_empty(threads() * (2 * apart * room + 2 * heads * size))
    in_threads(
        small_backward.backward_queries(item),
        [
            *_addresses(query, key, value, own, starts, keys, grad_output, grad_weights, weights, slopes),
            *_addresses(grads[0], grad_weight, scratch), room, numbers.ctypes.data,
            heads, query_len, key_len, len(keys), size, value_size,
            score, NORMALIZERS[settings.normalizer], ROWS, item, settings.seed,
        ],
        batch * blocks,
    )  # fmt: skip
    room = _longest(turns) + MORE
    scratch = query.new_empty(threads() * (apart * room + 2 * heads * size))
    in_threads(
        small_backward.backward_keys(item),
        [
            *_addresses(query, key, own, turns, queries, order, grad_output, weights, slopes, *grads[1:], scratch),
            room, numbers.ctypes.data, heads, query_len, key_len, len(keys), size, value_size,
            score, ROWS, item, settings.seed,
        ],
        batch * -(-key_len // ROWS),
    )  # fmt: skip
    if weight is not None:
        grad_weight = _shared(grad_weight.sum((0, 1)), weight)
    return grads[0], grads[1], grads[2], grad_weight, query.new_empty(0)


def _apart(heads: int, item: int) -> int:
    """The next multiple of the numbers of a vector."""
    lanes = WIDTH // item
    return -(-heads // lanes) * lanes


def _by_node(tensor: Tensor) -> Tensor:
    """*Shape:* `(batch, heads, length, size)` -> `(batch, length, heads, size)`."""
    found = tensor.transpose(1, 2)
    if found.is_contiguous():
        return found
    found, tensor = torch.empty_like(found, memory_format=torch.contiguous_format), _in_rows(tensor)
    batch, heads, length, size = tensor.shape
    in_threads(
        small.side_by_side(tensor.element_size()),
        [*_addresses(tensor, found), heads, length, size, ROWS, tensor.element_size(), *_strides(tensor)],
        batch * -(-length // ROWS),
    )
    return found


def _of_all(weight: Tensor | None, heads: int) -> Tensor | None:
    """The nets of all heads. *Shape:* `(heads or 1, size)` -> `(heads, size)`."""
    return None if weight is None else weight.expand(heads, -1).contiguous()


def _shared(grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient of the nets from that of each head's."""
    return grad if len(weight) > 1 else grad.sum(0, keepdim=True)


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
    return score, np.array([settings.parameter, settings.dropout, settings.leak, bend, settings.factor])


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
