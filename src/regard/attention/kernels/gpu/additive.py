r"""Additive scores on the GPU, forward and backward, with nothing of size query_len x key_len x size.

$$s_{ij} = \sum_d w_d \tanh(q_{id} + k_{jd}) = \sum_d w_d - 2 \sum_d w_d r_{ijd}, \qquad
r_{ijd} = \frac{1}{1 + e^{2 q_{id}} e^{2 k_{jd}}}$$

The exponentials are taken once per query and key, in linear memory and one channel after the other, so that a
tile reads them as short columns; four channels share one division. Where the largest query and key of a tile add
up to more than `REACH` their products could overflow, and the tile takes exponentials of its own sums instead. The
slope of tanh is $4 r (1 - r) = 4 e^{2 (q + k)} r^2$. Sums over a tile go into columns in global memory that one
program owns: no atomics, and the same sums every time.

Unmeasured: everything on a GPU. By its formula a score costs about 4.5 instructions per channel.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from regard.attention.kernels.gpu.operands import (
    TYPES,
    compute_dtype,
    head_of,
    operands_of,
    padded_channels,
    stored_dtype,
)
from regard.attention.kernels.gpu.tiles import tuned

__all__ = [
    "additive_gradient_tile",
    "additive_scores",
    "additive_scores_backward",
    "additive_tile",
]

REACH = tl.constexpr(10.0)
"""Four factors of 1 + exp(2 * 10) stay below the largest float32, and so does their sum with weights."""
SIZES = [
    {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 4, "num_stages": 2},
    {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 8, "num_stages": 2},
    {"BLOCK_M": 32, "BLOCK_N": 64, "num_warps": 4, "num_stages": 2},
]


@triton.jit
def _share(sums):
    """$1 / (1 + e^{2x})$ and $r (1 - r)$ of any numbers, without overflow."""
    power = tl.exp(-2 * tl.abs(sums))
    whole = 1 + power
    return tl.where(sums >= 0, power, 1.0) / whole, power / (whole * whole)


@triton.jit
def _near(head, rows, columns):
    return tl.max(tl.load(head.query_reach + rows), 0) + tl.max(tl.load(head.key_reach + columns), 0) <= REACH


@triton.jit
def _powers(head, q, k):
    """$e^{2q} e^{2k}$ for four channels, the first of which lie at `q` and `k`."""
    e0 = tl.load(q)[:, None] * tl.load(k)[None, :]
    q += head.query_channel_stride
    k += head.key_channel_stride
    e1 = tl.load(q)[:, None] * tl.load(k)[None, :]
    q += head.query_channel_stride
    k += head.key_channel_stride
    e2 = tl.load(q)[:, None] * tl.load(k)[None, :]
    q += head.query_channel_stride
    k += head.key_channel_stride
    e3 = tl.load(q)[:, None] * tl.load(k)[None, :]
    return e0, e1, e2, e3


@triton.jit
def additive_tile(head, rows, columns, SIZE: tl.constexpr, CHANNELS: tl.constexpr, COMPUTE: tl.constexpr):
    """The additive scores of a tile. *Shape:* rows `(M,)`, columns `(N,)` -> `(M, N)`."""
    shares = rows[:, None].to(COMPUTE) * 0 + columns[None, :].to(COMPUTE) * 0
    if _near(head, rows, columns):
        total = tl.sum(tl.zeros((1,), COMPUTE), 0)
        of_query = head.query_columns + rows
        of_key = head.key_columns + columns
        for d in range(0, CHANNELS, 4):
            q = of_query + d * head.query_channel_stride
            k = of_key + d * head.key_channel_stride
            w0 = tl.load(head.weight + d)
            w1 = tl.load(head.weight + d + 1)
            w2 = tl.load(head.weight + d + 2)
            w3 = tl.load(head.weight + d + 3)
            total += (w0 + w1) + (w2 + w3)
            e0, e1, e2, e3 = _powers(head, q, k)
            x0 = 1 + e0
            x1 = 1 + e1
            x2 = 1 + e2
            x3 = 1 + e3
            left = x0 * x1
            right = x2 * x3
            shares += ((w0 * x1 + w1 * x0) * right + (w2 * x3 + w3 * x2) * left) / (left * right)
        scores = total - 2 * shares
    else:
        scores = shares
        whole_query = head.query + rows.to(tl.int64) * head.query_stride
        whole_key = head.key + columns.to(tl.int64) * head.key_stride
        for d in range(SIZE):
            sums = tl.load(whole_query + d).to(COMPUTE)[:, None] + tl.load(whole_key + d).to(COMPUTE)[None, :]
            share, _ = _share(sums)
            scores += tl.load(head.weight + d) * (1 - 2 * share)
    return scores


@triton.jit
def _add(
    slopes, weighed, weight, sums, totals, channel, length, places, inside, started,
    AXIS: tl.constexpr, WEIGHT: tl.constexpr,
):  # fmt: skip
    """Add one channel's sums over an axis to what this program keeps of it, from nothing unless `started`."""
    weight = 4 * tl.load(weight + channel)
    sums += channel * length + places
    before = tl.where(started, tl.load(sums, mask=inside, other=0.0), 0.0)
    tl.store(sums, before + weight * tl.sum(slopes, AXIS), mask=inside)
    if WEIGHT:
        totals += channel * length + places
        before = tl.where(started, tl.load(totals, mask=inside, other=0.0), 0.0)
        tl.store(totals, before + tl.sum(weighed, AXIS), mask=inside)


@triton.jit
def additive_gradient_tile(
    grad, head, rows, columns, sums, totals, places, inside, length, started,
    AXIS: tl.constexpr, WEIGHT: tl.constexpr,
    SIZE: tl.constexpr, CHANNELS: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    r"""Add what a tile of score gradients $g$ says of queries (`AXIS` 1) or keys (`AXIS` 0).

    `sums` gets $4 w_d \sum g\, r (1 - r)$ over the axis, and with `WEIGHT` `totals` gets $\sum g (1 - 2 r)$.

    *Shape:* grad `(M, N)`; sums and totals `(CHANNELS, length)`, at `places` where `inside`.
    """
    if _near(head, rows, columns):
        of_query = head.query_columns + rows
        of_key = head.key_columns + columns
        for d in range(0, CHANNELS, 4):
            q = of_query + d * head.query_channel_stride
            k = of_key + d * head.key_channel_stride
            e0, e1, e2, e3 = _powers(head, q, k)
            x0 = 1 + e0
            x1 = 1 + e1
            x2 = 1 + e2
            x3 = 1 + e3
            left = x0 * x1
            right = x2 * x3
            whole = 1 / (left * right)
            right *= whole
            left *= whole
            r0 = x1 * right
            r1 = x0 * right
            r2 = x3 * left
            r3 = x2 * left
            g0 = grad * r0
            g1 = grad * r1
            g2 = grad * r2
            g3 = grad * r3
            w = head.weight + d
            step = sums + d * length
            total = totals
            if WEIGHT:
                total += d * length
            # fmt: off
            _add(g0 * (e0 * r0), grad - 2 * g0, w, step, total, 0, length, places, inside, started, AXIS, WEIGHT)
            _add(g1 * (e1 * r1), grad - 2 * g1, w, step, total, 1, length, places, inside, started, AXIS, WEIGHT)
            _add(g2 * (e2 * r2), grad - 2 * g2, w, step, total, 2, length, places, inside, started, AXIS, WEIGHT)
            _add(g3 * (e3 * r3), grad - 2 * g3, w, step, total, 3, length, places, inside, started, AXIS, WEIGHT)
            # fmt: on
    else:
        whole_query = head.query + rows.to(tl.int64) * head.query_stride
        whole_key = head.key + columns.to(tl.int64) * head.key_stride
        for d in range(SIZE):
            x = tl.load(whole_query + d).to(COMPUTE)[:, None] + tl.load(whole_key + d).to(COMPUTE)[None, :]
            share, slope = _share(x)
            slope *= grad
            share = grad * (1 - 2 * share)
            _add(slope, share, head.weight, sums, totals, d, length, places, inside, started, AXIS, WEIGHT)
    # What one thread has stored another may read at the next tile.
    tl.debug_barrier()


@tuned(SIZES, ["SIZE", "COMPUTE"])
@triton.jit
def _scores_kernel(
    operands, output,
    SIZE: tl.constexpr, CHANNELS: tl.constexpr, COMPUTE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    down = tl.cdiv(operands.query_len, BLOCK_M)
    across = tl.cdiv(operands.key_len, BLOCK_N)
    program = tl.program_id(0)
    place = program // (down * across)
    head = head_of(operands, place // operands.heads, place % operands.heads, SIZE, CHANNELS)
    rows = program // across % down * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = program % across * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (rows < head.query_len)[:, None] & (columns < head.key_len)[None, :]
    scores = additive_tile(
        head,
        tl.minimum(rows, head.query_len - 1),
        tl.minimum(columns, head.key_len - 1),
        SIZE,
        CHANNELS,
        COMPUTE,
    )
    rows = (place.to(tl.int64) * head.query_len + rows) * head.key_len
    tl.store(output + rows[:, None] + columns[None, :], scores, mask=inside)


@tuned(SIZES, ["SIZE", "COMPUTE", "AXIS"])
@triton.jit
def _gradient_kernel(
    operands, grad, sums, totals,
    SIZE: tl.constexpr, CHANNELS: tl.constexpr, COMPUTE: tl.constexpr, AXIS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The sums over keys for a block of queries (`AXIS` 1), or over queries for a block of keys (`AXIS` 0)."""
    if AXIS == 1:
        length = operands.query_len
        count = tl.cdiv(operands.key_len, BLOCK_N)
        blocks = tl.cdiv(length, BLOCK_M)
    else:
        length = operands.key_len
        count = tl.cdiv(operands.query_len, BLOCK_M)
        blocks = tl.cdiv(length, BLOCK_N)
    program = tl.program_id(0)
    place = program // blocks
    own = program % blocks
    head = head_of(operands, place // operands.heads, place % operands.heads, SIZE, CHANNELS)
    place = place.to(tl.int64)
    sums += place * CHANNELS * length
    if AXIS == 1:
        totals += place * CHANNELS * length
    for other in range(count):
        if AXIS == 1:
            rows = own * BLOCK_M + tl.arange(0, BLOCK_M)
            columns = other * BLOCK_N + tl.arange(0, BLOCK_N)
            places = rows
        else:
            rows = other * BLOCK_M + tl.arange(0, BLOCK_M)
            columns = own * BLOCK_N + tl.arange(0, BLOCK_N)
            places = columns
        pointers = grad + ((place * head.query_len + rows) * head.key_len)[:, None] + columns[None, :]
        inside = (rows < head.query_len)[:, None] & (columns < head.key_len)[None, :]
        additive_gradient_tile(
            tl.load(pointers, mask=inside, other=0.0).to(COMPUTE), head,
            tl.minimum(rows, head.query_len - 1), tl.minimum(columns, head.key_len - 1),
            sums, totals, places, places < length, length, other > 0, AXIS, AXIS == 1,
            SIZE, CHANNELS, COMPUTE,
        )  # fmt: skip


def additive_scores(query: Tensor, key: Tensor, weight: Tensor) -> Tensor:
    r"""The additive scores of every query and key, $s_{ij} = \sum_d w_d \tanh(q_{id} + k_{jd})$.

    *Shape:* query `(N, Hq, query_len, size)`, key `(N, Hk, key_len, size)`, weight `(Hq, size)` -> scores
    `(N, Hq, query_len, key_len)` in the dtype of query.
    """
    output = query.new_zeros((*query.shape[:-1], key.shape[-2]), dtype=stored_dtype(query.dtype))
    if output.numel() == 0 or query.shape[-1] == 0:
        return output.to(query.dtype)
    operands = operands_of(query, key, key, weight, None, None, None, "additive")

    def grid(meta: dict[str, int]) -> tuple[int]:
        down = triton.cdiv(query.shape[-2], meta["BLOCK_M"])
        return (query.shape[0] * query.shape[1] * down * triton.cdiv(key.shape[-2], meta["BLOCK_N"]),)

    _scores_kernel[grid](operands, output, **_constants(query))
    return output.to(query.dtype)


def additive_scores_backward(
    grad: Tensor, query: Tensor, key: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and weight from that of the additive scores.

    *Shape:* grad `(N, Hq, query_len, key_len)`, the others as in `additive_scores` -> those of query, key and weight.
    """
    if grad.numel() == 0 or query.shape[-1] == 0:
        return torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(weight)
    operands = operands_of(query, key, key, weight, None, None, None, "additive")
    grad = grad.contiguous()
    compute = compute_dtype(query.dtype)
    size, heads = query.shape[-1], query.shape[0] * query.shape[1]
    of_query, totals, of_key = (
        query.new_empty((*query.shape[:2], padded_channels(size), length), dtype=compute)
        for length in (query.shape[-2], query.shape[-2], key.shape[-2])
    )
    for axis, sums, block in ((1, of_query, "BLOCK_M"), (0, of_key, "BLOCK_N")):
        _gradient_kernel[
            lambda meta, sums=sums, block=block: (heads * triton.cdiv(sums.shape[-1], meta[block]),)
        ](operands, grad, sums, totals, AXIS=axis, **_constants(query))
    return (
        of_query[..., :size, :].mT.to(query.dtype).contiguous(),
        # Each query head's part of what is owed to the key head that it shares.
        of_key[..., :size, :].unflatten(1, (key.shape[1], -1)).sum(2).mT.to(key.dtype).contiguous(),
        totals[..., :size, :].sum((0, 3)).to(weight.dtype),
    )


def _constants(query: Tensor) -> dict[str, Any]:
    size = query.shape[-1]
    return {"SIZE": size, "CHANNELS": padded_channels(size), "COMPUTE": TYPES[compute_dtype(query.dtype)]}
