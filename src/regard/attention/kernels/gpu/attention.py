"""Attention on the GPU in linear memory, forward and backward: three scores, five normalisers, as Triton kernels.

The pieces: `operands` (tensors and strides), `tiles` (rows, products, dropout), `scores` and `additive` (scores of a
tile), `normalizers` (weights of a tile), `gradients` (theirs), `dense` and `sparse` (the forward passes), `weights` and
`backward`. This file allocates, chooses sizes and launches.

Importing it imports Triton. With `TRITON_INTERPRET=1` in the environment before that, tensors may be on the CPU: slow,
for tests. Unmeasured: nothing here has run on a GPU yet; the kernels compile for A100 and H100.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton
from torch import Tensor

from regard.attention.kernels.gpu.backward import (
    key_gradient,
    key_gradient_listed,
    query_gradient,
    query_gradient_listed,
)
from regard.attention.kernels.gpu.dense import dense_forward
from regard.attention.kernels.gpu.normalizers import form_of
from regard.attention.kernels.gpu.operands import (
    TYPES,
    Operands,
    compute_dtype,
    operands_of,
    padded_channels,
    stored_dtype,
)
from regard.attention.kernels.gpu.sparse import sparse_forward
from regard.attention.kernels.gpu.tiles import INTERPRETED
from regard.attention.kernels.gpu.weights import weights_kernel

__all__ = ["SCORES", "attention", "attention_backward", "blocks_of", "results_of", "unsupported"]

SCORES = ("product", "distance", "additive")
NORMALIZERS = ("softmax", "sigmoid", "entmax", "top", "hardmax")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LARGEST_SIZE = 256
"""A tile of more channels than this does not fit beside the others; of 32 and 64 bits, than half of it."""
GRAIN = 16 if INTERPRETED.value else 32
"""How many queries and keys share a bound of what sees what; tiles are multiples of it."""


def unsupported(
    score: str, normalizer: str, parameter: float, dtype: torch.dtype, size: int, value_size: int
) -> list[str]:
    """Why the kernels cannot compute a call; empty when they can.

    *Shape:* `size` is that of query and key, `value_size` that of value.
    """
    reasons = []
    if score not in SCORES:
        reasons.append(f"the GPU kernels have no score {score!r}")
    if normalizer not in NORMALIZERS:
        reasons.append(f"the GPU kernels have no normalizer {normalizer!r}")
    if dtype not in DTYPES:
        reasons.append(f"the GPU kernels do not compute in {dtype}")
    largest = LARGEST_SIZE if dtype in (torch.float16, torch.bfloat16) else LARGEST_SIZE // 2
    if max(size, value_size) > largest:
        reasons.append(f"the GPU kernels take heads of at most {largest} channels in {dtype}")
    return reasons


def blocks_of(score: str, dtype: torch.dtype, size: int, value_size: int) -> tuple[int, int]:
    """The queries and keys of a tile where the normaliser is sparse: forward and backward pass must agree on them."""
    if INTERPRETED.value:
        return 16, 16
    if dtype in (torch.float16, torch.bfloat16) and score == "product":
        return 64, 64
    return (32, 32) if dtype != torch.float64 or max(size, value_size) <= 64 else (16, 32)


def results_of(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score: str,
    normalizer: str,
    parameter: float,
    want_weights: bool,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Zeros of the shapes and dtypes of what `attention` gives, for it and for those who only ask about shapes.

    *Shape:* as in `attention`. `dtype` is that of output and weights, by default that of query.
    """
    shape = query.shape[:3]
    form = form_of(normalizer, parameter)
    rows, columns = blocks_of(score, query.dtype, query.shape[-1], value.shape[-1])
    blocks = (*shape[:2], -(-shape[2] // rows), -(-key.shape[2] // columns))
    dtype = dtype or query.dtype
    return (
        query.new_zeros((*shape, value.shape[-1]), dtype=dtype),
        query.new_zeros((*shape, key.shape[2]) if want_weights else (0,), dtype=dtype),
        query.new_zeros((*shape, 3 if form == "top" else 2), dtype=compute_dtype(query.dtype)),
        query.new_zeros((0,), dtype=torch.int32),
        query.new_full(shape if form in ("top", "hardmax") else (0,), -1, dtype=torch.int32),
        query.new_zeros((0,) if form in ("softmax", "sigmoid") else blocks, dtype=torch.int8),
    )


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weight: Tensor | None,
    ranges: Tensor | None,
    mask: Tensor | None,
    bias: Tensor | None,
    score: str,
    normalizer: str,
    parameter: float,
    dropout: float,
    seed: int,
    want_weights: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Attention; gives output, weights, statistic, counts, index, kept.

    *Shape:* query `(N, Hq, Tq, D)`, key `(N, Hk, Tk, D)`, value `(N, Hk, Tk, Dv)`, weight `(Hq, D)`, ranges
    `(N or 1, Hq or 1, Tq, 2)`, mask and bias broadcastable to `(N, Hq, Tq, Tk)` -> output `(N, Hq, Tq, Dv)` and
    weights `(N, Hq, Tq, Tk)`, empty unless wanted, in the dtype of query; statistic `(N, Hq, Tq, 2)`, for top
    `(N, Hq, Tq, 3)`, in float32 or float64, as `normalizers` says. counts are empty. index is int32
    `(N, Hq, Tq)` for top (the last kept key among equals) and hardmax (the best key), else empty. kept is int8
    `(N, Hq, query blocks, key blocks)` for the sparse normalisers: 1 where any weight of the block is not zero, by
    the blocks of `blocks_of`; else empty.
    """
    shape = query.shape[:3]
    form = form_of(normalizer, parameter)
    output, weights, statistic, counts, index, kept = results_of(
        query, key, value, score, normalizer, parameter, want_weights, stored_dtype(query.dtype)
    )
    rows, columns = blocks_of(score, query.dtype, query.shape[-1], value.shape[-1])
    if min(*shape, key.shape[2]) > 0:
        operands = operands_of(query, key, value, weight, ranges, mask, bias, score)
        constants = _constants(query, value, score, form)
        heads = shape[0] * shape[1]
        tiled = mask is not None or bias is not None
        if kept.ndim == 1:
            dense_forward[lambda meta: (heads * triton.cdiv(shape[2], meta["BLOCK_M"]),)](
                operands, output, statistic, _parts(parameter), _parts(dropout), seed,
                DROP=dropout > 0, TILED=tiled, VALUE_SIZE=value.shape[-1], **constants,
            )  # fmt: skip
        else:
            sparse_forward[(heads * kept.shape[2],)](
                operands, output, statistic, index, torch.empty_like(kept, dtype=torch.int32), kept,
                _parts(parameter), _parts(dropout), seed,
                DROP=dropout > 0, TILED=tiled, VALUE_SIZE=value.shape[-1], EDGE=_has_edges(operands, columns),
                BLOCK_M=rows, BLOCK_N=columns, **constants,
            )  # fmt: skip
        if want_weights:
            del constants["BLOCK_V"]
            tiles = triton.cdiv(shape[2], rows) * triton.cdiv(key.shape[2], columns)
            weights_kernel[(heads * tiles,)](
                operands, weights, statistic, index if index.ndim == 3 else None, _parts(parameter),
                BLOCK_M=rows, BLOCK_N=columns, **constants,
            )  # fmt: skip
    return output.to(query.dtype), weights.to(query.dtype), statistic, counts, index, kept


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
    index: Tensor,
    kept: Tensor,
    score: str,
    normalizer: str,
    parameter: float,
    dropout: float,
    seed: int,
    want_bias_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """The gradients of query, key, value, weight and bias; those of weight and bias are None where there is none.

    *Shape:* as in `attention`, whose results output, statistic, index and kept are; grad_weights is None or of the
    shape of weights; each gradient has the shape and dtype of what it is of.

    A gradient of the bias is written out in full, `(N, Hq, Tq, Tk)`, unless the bias has one query or one key only.
    """
    shape = query.shape[:3]
    key_len, size, value_size = key.shape[2], query.shape[-1], value.shape[-1]
    form = form_of(normalizer, parameter)
    compute = compute_dtype(query.dtype)
    grad_query, grad_key, grad_value = (
        t.new_zeros(t.shape, dtype=stored_dtype(t.dtype)) for t in (query, key, value)
    )
    sums = [
        query.new_zeros(
            (*t.shape[:2], padded_channels(size), t.shape[2]) if score == "additive" else (0,), dtype=compute
        )
        for t in (query, query, key)
    ]
    way = _bias_way(bias, shape[2], key_len) if want_bias_gradient and bias is not None else "none"
    bias_shape = {"tile": (*shape, key_len), "rows": shape, "columns": (*shape[:2], key_len), "none": (0,)}[
        way
    ]
    grad_bias = query.new_zeros(bias_shape, dtype=compute)
    if min(*shape, key_len) > 0:
        operands = operands_of(query, key, value, weight, ranges, mask, bias, score)
        constants = {
            **_constants(query, value, score, form), "DROP": dropout > 0, "VALUE_SIZE": value_size, "BIAS": way,
            "TILED": mask is not None or bias is not None,
        }  # fmt: skip
        grad_output = grad_output.contiguous()
        grad_weights = None if grad_weights is None else grad_weights.contiguous()
        output, statistic = output.contiguous(), statistic.contiguous()
        last_places = index.contiguous() if index.ndim == 3 else None
        delta = query.new_zeros(shape, dtype=compute)
        numbers = (_parts(parameter), _parts(dropout), seed)
        mean = form != "sigmoid" and (form not in ("softmax", "top") or grad_weights is not None)
        heads, key_heads = shape[0] * shape[1], shape[0] * key.shape[1]
        of_query = (
            output, grad_output, grad_weights, statistic, last_places, delta, grad_query, *sums[:2], grad_bias,
        )  # fmt: skip
        of_key = (
            grad_output, grad_weights, statistic, last_places, delta, grad_key, grad_value, sums[2], grad_bias,
        )  # fmt: skip
        if form in ("softmax", "sigmoid"):
            query_gradient[lambda meta: (heads * triton.cdiv(shape[2], meta["BLOCK_M"]),)](
                operands, None, None, *of_query, *numbers, MEAN=mean, EDGE=True, **constants
            )
            bounds = None if ranges is None else _bounds(ranges, key_len)
            key_gradient[lambda meta: (key_heads * triton.cdiv(key_len, meta["BLOCK_N"]),)](
                operands, None, None, bounds, None if bounds is None else _bounds_strides(bounds),
                *of_key, *numbers, EDGE=ranges is not None, GRAIN=GRAIN, **constants,
            )  # fmt: skip
        else:
            rows, columns = blocks_of(score, query.dtype, size, value_size)
            tiles = {"BLOCK_M": rows, "BLOCK_N": columns, "EDGE": _has_edges(operands, columns)}
            if form != "hardmax":
                query_gradient_listed[(heads * kept.shape[2],)](
                    operands, *_lists(kept), *of_query, *numbers, MEAN=mean, **tiles, **constants
                )
            key_gradient_listed[(key_heads * kept.shape[3],)](
                operands, *_lists(kept.mT), None, None, *of_key, *numbers, GRAIN=GRAIN, **tiles, **constants
            )
    grad_weight: Tensor | None = None
    if score == "additive":
        grad_query = sums[0][..., :size, :].mT.contiguous()
        grad_key = sums[2][..., :size, :].mT.contiguous()
        if weight is not None:
            grad_weight = sums[1][..., :size, :].sum((0, 3)).to(weight.dtype)
    of_bias: Tensor | None = None
    if want_bias_gradient and bias is not None:
        grad_bias = {"rows": grad_bias.unsqueeze(-1), "columns": grad_bias.unsqueeze(-2)}.get(way, grad_bias)
        of_bias = grad_bias.sum_to_size(bias.shape).to(bias.dtype)
    return (
        grad_query.to(query.dtype),
        grad_key.to(key.dtype),
        grad_value.to(value.dtype),
        grad_weight,
        of_bias,
    )


def _constants(query: Tensor, value: Tensor, score: str, form: str) -> dict[str, Any]:
    size = query.shape[-1]
    return {
        "SCORE": score,
        "FORM": form,
        "SIZE": size,
        "CHANNELS": max(padded_channels(size), 4),
        "BLOCK_D": max(triton.next_power_of_2(size), 16),
        "BLOCK_V": max(triton.next_power_of_2(value.shape[-1]), 16),
        "COMPUTE": TYPES[compute_dtype(query.dtype)],
        "HALF": query.element_size() == 2,
    }


def _parts(number: float) -> tuple[float, float, float]:
    """A number as three of float32 that add up to it."""
    first = float(np.float32(number))
    second = float(np.float32(number - first))
    return first, second, float(np.float32(number - first - second))


def _has_edges(operands: Operands, columns: int) -> bool:
    """Whether a tile may be cut by a range or by the end of the keys."""
    return operands.ranges is not None or operands.key_len % columns != 0


def _bias_way(bias: Tensor, query_len: int, key_len: int) -> str:
    """How the gradient of a bias is summed in the kernels: over keys, over queries, or not at all."""
    shape = (1,) * (4 - bias.ndim) + tuple(bias.shape)
    if shape[3] == 1 and key_len > 1:
        return "rows"
    return "columns" if shape[2] == 1 and query_len > 1 else "tile"


def _lists(kept: Tensor) -> tuple[Tensor, Tensor]:
    """The places of the kept blocks of each row, before the others, and how many there are."""
    kept = kept.contiguous()
    return kept.argsort(dim=-1, descending=True, stable=True).int(), kept.sum(-1, dtype=torch.int32)


def _bounds(ranges: Tensor, key_len: int) -> Tensor:
    """Which queries see any key of a grain of keys, and which see it whole: first and last, first and last.

    *Shape:* `(N or 1, Hq or 1, Tq, 2)` -> `(N or 1, Hq or 1, grains, 4)`, in multiples of `GRAIN` queries.
    """
    query_len = ranges.shape[2]
    blocks = triton.cdiv(query_len, GRAIN)
    low, high = ranges[..., 0].clamp(min=0), ranges[..., 1].clamp(max=key_len)
    short = blocks * GRAIN - query_len
    if short:
        # Queries past the end see what the last one sees.
        low, high = (torch.cat([t, t[..., -1:].expand(*t.shape[:-1], short)], -1) for t in (low, high))
    sees = low < high
    low, high = (t.unflatten(-1, (blocks, GRAIN)) for t in (low, high))
    sees = sees.unflatten(-1, (blocks, GRAIN))
    start = torch.arange(0, key_len, GRAIN, device=ranges.device)
    stop = (start + GRAIN).clamp(max=key_len)
    # From here on (..., grains, blocks of queries).
    lowest, highest = (
        t[..., None, :] for t in (low.where(sees, key_len).amin(-1), high.where(sees, 0).amax(-1))
    )
    some = (lowest < stop[:, None]) & (highest > start[:, None])
    whole = (low.amax(-1)[..., None, :] <= start[:, None]) & (high.amin(-1)[..., None, :] >= stop[:, None])
    places = torch.arange(blocks, device=ranges.device)
    first = places.where(some, blocks).amin(-1)
    last = (places + 1).where(some, 0).amax(-1)
    inner_first = places.where(whole, blocks).amin(-1)
    # Up to the first that does not see it whole again.
    inner_last = places.where(~whole & (places >= inner_first[..., None]), blocks).amin(-1)
    bounds = torch.stack([first, torch.maximum(first, last), inner_first, inner_last], -1) * GRAIN
    return bounds.int().contiguous()


def _bounds_strides(bounds: Tensor) -> tuple[int, int]:
    first, second = (0 if bounds.shape[axis] == 1 else bounds.stride(axis) for axis in (0, 1))
    return first, second
