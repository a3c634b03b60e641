"""The operators of `operators` on the CPU: tensors laid out for the compiled kernels, which get addresses and sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from regard.attention.kernels import additive, backward, dense_cpu, forward, tile
from regard.attention.kernels.emit import ROWS, WIDTH
from regard.attention.kernels.layout import SCORES, Layout, addresses, rows_of, strides_of
from regard.attention.kernels.settings import Settings, kept_keys
from regard.attention.kernels.threads import in_threads, threads

__all__ = ["additive_scores", "additive_scores_backward", "attention", "attention_backward"]

TILE_BYTES = 2**18
"""How much the scores of a block of queries may take: they and the keys are to stay in a core's own cache."""
AGAIN_BYTES = 2**24
"""How much a support that is found again in the backward pass may take."""
FEW = {"product": 16, "distance": 16, "additive": 4}
"""Up to so many queries, keys are read as they are: to put them into panels would take longer than the scores."""

NORMALIZERS = {"entmax": forward.ENTMAX, "top": forward.TOP, "hardmax": forward.HARDMAX}


def rows(query_len: int, key_len: int, item: int, score: str) -> int:
    """How many queries are a block."""
    if query_len <= FEW[score]:
        return query_len
    fit = TILE_BYTES // (max(key_len, 1) * item) // ROWS * ROWS
    return min(max(fit, ROWS), 4 * ROWS, tile.padded_rows(query_len))


def additive_scores(query: Tensor, key: Tensor, weight: Tensor) -> Tensor:
    """`weight . tanh(query + key)`. *Shape:* `(batch, heads, query_len, key_len)`."""
    batch, heads, query_len, _ = query.shape
    key_heads, key_len = key.shape[1], key.shape[-2]
    layout = Layout.of(query, key.contiguous(), weight, "additive", query_len <= FEW["additive"])
    item, size = query.element_size(), layout.query.shape[-1]
    height, stride = rows(query_len, key_len, item, "additive"), layout.stride
    scratch_size = height * size + height * stride
    scratch = query.new_empty(threads() * scratch_size + WIDTH)
    output = query.new_empty(batch, heads, query_len, key_len)
    in_threads(
        additive.scores(item),
        [
            *addresses(layout.query, layout.key, layout.weight, output, scratch), scratch_size,
            heads, key_heads, query_len, key_len, size,
            layout.score, layout.by_row, height, stride, item, layout.panel, layout.weight_stride,
        ],
        batch * heads * -(-query_len // height),
    )  # fmt: skip
    return output


def additive_scores_backward(
    grad: Tensor, query: Tensor, key: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and weight from those of the scores."""
    batch, heads, query_len, channels = query.shape
    key_heads, key_len = key.shape[1], key.shape[-2]
    item, group = query.element_size(), heads // key_heads
    grad, own = grad.contiguous(), weight.contiguous()
    stride = channels if len(weight) > 1 else 0
    grad_query = query.new_empty(query.shape)
    if query_len <= FEW["additive"]:
        query, key = query.contiguous(), key.contiguous()
        grad_key = query.new_zeros(key.shape)
        grad_weight = query.new_zeros(batch, heads, 1, channels)
        places = torch.arange(key_len, dtype=torch.int32)
        scratch = query.new_empty(threads() * 2 * channels)
        in_threads(
            additive.few_slopes(item),
            [
                *addresses(query, key, grad, own, places, grad_query, grad_key, grad_weight, scratch),
                heads, key_heads, query_len, key_len, channels, item, stride,
            ],
            batch * key_heads,
        )  # fmt: skip
    else:
        layout = Layout.of(query, key, weight, "additive", by_row=False)
        chunks = max(1, min(2 * threads() // max(batch * key_heads, 1), -(-query_len // ROWS)))
        into = query.new_zeros(batch, key_heads, chunks, group, layout.panels, channels, layout.panel)
        grad_weight = query.new_zeros(batch, heads, chunks, channels)
        panels = layout.panels * layout.panel
        scratch_size = ROWS * (channels + panels) + (ROWS + 1) * channels * WIDTH // item
        scratch = query.new_empty(threads() * scratch_size)
        in_threads(
            additive.slopes(item),
            [
                *addresses(layout.query, layout.key, grad, own, grad_query, into, grad_weight, scratch), scratch_size,
                heads, key_heads, query_len, key_len, channels, channels,
                layout.score, item, layout.panel, stride, chunks,
            ],
            batch * key_heads * chunks,
        )  # fmt: skip
        net = own.expand(heads, channels).view(1, key_heads, group, 1, channels, 1)
        grad_key = (into.sum(2) * net).sum(2).transpose(-1, -2).flatten(2, 3)[..., :key_len, :].contiguous()
    grad_weight = grad_weight.sum((0, 2))
    return grad_query, grad_key, grad_weight if len(weight) > 1 else grad_weight.sum(0, keepdim=True)


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
    keep: bool,
    share: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Output, weights, and what is kept of the support: no statistic; how many keys of each query, -1 where its
    block had no room for them; which, and their weights. There is room for `share` keys a query.

    Of dense weights no support is kept, but the statistic of `dense_cpu`."""
    if settings.normalizer in dense_cpu.NORMALIZERS:
        dense = dense_cpu.attention(query, key, value, weight, ranges, mask, bias, settings, want_weights)
        return (
            *dense,
            torch.empty(0, dtype=torch.int32),
            torch.empty(0, dtype=torch.int32),
            query.new_empty(0),
        )
    batch, heads, query_len, _ = query.shape
    key_heads, key_len, value_size = key.shape[1], key.shape[-2], value.shape[-1]
    layout = Layout.of(query, key, weight, settings.score, query_len <= FEW[settings.score])
    value = rows_of(value)
    item, size = query.element_size(), layout.query.shape[-1]
    height, stride = rows(query_len, key_len, item, settings.score), layout.stride
    blocks = -(-query_len // height)
    if share is None:
        share = kept_keys(settings.normalizer, settings.parameter, key_len) if keep else 0
    output = query.new_empty(batch, heads, query_len, value_size)
    weights = query.new_zeros((batch, heads, query_len, key_len) if want_weights else 0)
    counts = torch.empty(batch, heads, query_len, dtype=torch.int32)
    index = torch.empty(batch, heads, query_len, share, dtype=torch.int32)
    kept = query.new_empty(batch, heads, query_len, share)
    scratch_size = height * size + (height + 6) * (stride + 64)
    scratch = query.new_empty(threads() * scratch_size)
    numbers = np.array([settings.parameter, settings.dropout, settings.scale])
    if ranges is not None:
        ranges = ranges.to(torch.int32).contiguous()
    in_threads(
        forward.forward(item),
        [
            *addresses(layout.query, layout.key, value, layout.weight, ranges, mask, bias),
            *addresses(output, weights, counts, index, kept, scratch), scratch_size, numbers.ctypes.data,
            heads, key_heads, query_len, key_len, size, value_size,
            layout.score, NORMALIZERS[settings.normalizer], layout.by_row, height, stride, share, item, layout.panel,
            layout.weight_stride, settings.seed,
            *strides_of(ranges, 3), *strides_of(mask, 4), *strides_of(bias, 4), settings.first, settings.whole,
            *layout.key_strides, *value.stride()[:3],
        ],
        batch * heads * blocks,
    )  # fmt: skip
    return output, weights, query.new_empty(batch, heads, query_len, 0), counts, index, kept


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
    counts: Tensor,
    index: Tensor,
    kept: Tensor,
    settings: Settings,
    want_bias: bool,
) -> Gradients:
    """The gradients through the kernel: of sparse weights, on the support alone."""
    if settings.normalizer in dense_cpu.NORMALIZERS:
        return Gradients(
            *dense_cpu.attention_backward(
                grad_output, grad_weights, query, key, value, weight, ranges, mask, bias, output, statistic, settings,
                want_bias,
            )
        )  # fmt: skip
    tensors = [t.contiguous() for t in (grad_output, query, key, value)]
    grad_output, query, key, value = tensors
    weight, grad_weights = (None if t is None else t.contiguous() for t in (weight, grad_weights))
    found = _from_support(
        grad_output, grad_weights, query, key, value, weight, counts, index, kept, settings, want_bias
    )
    # Blocks whose supports had no room: they are found again, a few queries at a time.
    room = max(AGAIN_BYTES // (key.shape[-2] * (4 + query.element_size())), 1)
    for n, h, some in _without_support(counts, room):
        k = h // (query.shape[1] // key.shape[1])
        own, keys, values = query[n, h, some][None, None], key[n, k][None, None], value[n, k][None, None]
        net = None if weight is None else weight[min(h, len(weight) - 1)][None]
        # Dropout is drawn by the number of a query among those of all heads.
        before = (n * query.shape[1] + h) * settings.whole
        placed = settings._replace(first=before + settings.first + some.start)
        seen, shown, added = (_one_head(picture, n, h, some) for picture in (ranges, mask, bias))
        again = attention(own, keys, values, net, seen, shown, added, placed, False, True, key.shape[-2])
        part = _from_support(
            grad_output[n, h, some][None, None],
            None if grad_weights is None else grad_weights[n, h, some][None, None],
            own, keys, values, net, *again[3:], placed, want_bias,
        )  # fmt: skip
        found.query[n, h, some] = part.query[0, 0]
        found.key[n, k] += part.key[0, 0]
        found.value[n, k] += part.value[0, 0]
        if weight is not None:
            found.weight[min(h, len(weight) - 1)] += part.weight[0]
        if want_bias:
            found.bias[n, h, some] = part.bias[0, 0]
    return found


class Gradients(NamedTuple):
    """Those of a call's tensors; the last two are empty where there are none."""

    query: Tensor
    key: Tensor
    value: Tensor
    weight: Tensor
    bias: Tensor


def _from_support(
    grad_output: Tensor,
    grad_weights: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weight: Tensor | None,
    counts: Tensor,
    index: Tensor,
    kept: Tensor,
    settings: Settings,
    want_bias: bool,
) -> Gradients:
    """The gradients through the queries whose support was kept; those of the others are left zero."""
    batch, heads, query_len, size = query.shape
    key_heads, key_len, value_size = key.shape[1], key.shape[-2], value.shape[-1]
    item, share, height = (
        query.element_size(),
        index.shape[-1],
        rows(query_len, key_len, query.element_size(), settings.score),
    )
    blocks = -(-query_len // height)
    slopes = torch.empty_like(kept)
    grad_query, grad_key, grad_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
    grad_weight = query.new_zeros((batch, heads, blocks, size) if weight is not None else 0)
    grad_bias = query.new_zeros((batch, heads, query_len, key_len) if want_bias else 0)
    scratch = query.new_empty(threads() * 2 * size)
    numbers = np.array([settings.parameter, settings.dropout, settings.scale])
    code, weight_stride = SCORES[settings.score], size if weight is not None and len(weight) > 1 else 0
    in_threads(
        backward.backward_queries(item),
        [
            *addresses(query, key, value, weight, grad_output, grad_weights, counts, index, kept, slopes),
            *addresses(grad_query, grad_weight, grad_bias, scratch), numbers.ctypes.data,
            heads, key_heads, query_len, key_len, size, value_size, code, NORMALIZERS[settings.normalizer],
            height, share, item, weight_stride, settings.seed, settings.first, settings.whole,
        ],
        batch * heads * blocks,
    )  # fmt: skip
    chunks = max(1, min(2 * threads() // max(batch * key_heads, 1), key_len))
    in_threads(
        backward.backward_keys(item),
        [
            *addresses(query, key, weight, grad_output, counts, index, kept, slopes, grad_key, grad_value),
            numbers.ctypes.data, heads, key_heads, query_len, key_len, size, value_size, code, chunks,
            height, share, item, weight_stride, settings.seed, settings.first, settings.whole,
        ],
        batch * key_heads * chunks,
    )  # fmt: skip
    if weight is not None:
        grad_weight = grad_weight.sum((0, 2))
        grad_weight = grad_weight if len(weight) > 1 else grad_weight.sum(0, keepdim=True)
    return Gradients(grad_query, grad_key, grad_value, grad_weight, grad_bias)


def _without_support(counts: Tensor, most: int) -> Iterator[tuple[int, int, slice]]:
    """Runs of queries whose support was not kept: batch, head and at most so many places."""
    if int(counts.amin()) >= 0:
        return
    for n, h in (counts < 0).any(-1).nonzero().tolist():
        steps = pad((counts[n, h] < 0).int(), (1, 1)).diff()
        starts, stops = ((steps == step).nonzero().flatten().tolist() for step in (1, -1))
        for start, stop in zip(starts, stops, strict=True):
            for begin in range(start, stop, most):
                yield n, h, slice(begin, min(begin + most, stop))


def _one_head(picture: Tensor | None, n: int, h: int, some: slice) -> Tensor | None:
    """What a mask, a bias or ranges say of some queries of one head."""
    if picture is None:
        return None
    n, h = (0 if size == 1 else place for place, size in zip((n, h), picture.shape, strict=False))
    return picture[n : n + 1, h : h + 1, some if picture.shape[2] > 1 else slice(None)]
