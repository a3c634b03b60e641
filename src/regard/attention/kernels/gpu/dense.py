"""Attention on the GPU where every visible key has weight: softmax and sigmoid, in one pass over the keys.

The largest score and the sum of a row are corrected as the pass goes (Milakov & Gimelshein 2018; Dao 2023). Blocks of
keys that every query of a tile sees whole are read without any masking, those outside all ranges are not read.

Unmeasured: speed on any GPU, and which sizes of tiles are best.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from regard.attention.kernels.gpu.normalizers import LOG2E
from regard.attention.kernels.gpu.operands import head_of
from regard.attention.kernels.gpu.scores import cast_like, scores_of
from regard.attention.kernels.gpu.tiles import (
    dropped,
    edge_block,
    load_rows,
    parameter_of,
    product,
    span_of,
    store_rows,
    tuned,
)

__all__ = ["SHARED_BYTES", "dense_forward", "fits"]

SHARED_BYTES = 160 * 1024
"""What an A100 gives one program; an H100 or H200 gives more."""
SIZES = [
    {"BLOCK_M": 128, "BLOCK_N": 128, "num_warps": 8, "num_stages": 2},
    {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": 3},
    {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 4, "num_stages": 3},
    {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 4, "num_stages": 3},
    {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 8, "num_stages": 2},
    {"BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 4, "num_stages": 2},
    {"BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 8, "num_stages": 2},
    {"BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 4, "num_stages": 2},
    {"BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 8, "num_stages": 1},
]


def fits(arguments: dict[str, Any], threads: int, stages: int) -> bool:
    """Whether tiles of these sizes are worth a try: they fit into shared memory, and what a thread holds of them into
    registers. Tensor cores of 16-bit types leave registers free, all else is computed in them, and a mask or bias is
    read into them (`TILED`)."""
    item = 2 if arguments["HALF"] else 8 if arguments["COMPUTE"] == tl.float64 else 4
    width = arguments["BLOCK_D"] + arguments["BLOCK_V"]
    held = (arguments["BLOCK_M"] + stages * arguments["BLOCK_N"]) * width
    own = arguments["BLOCK_M"] * arguments["BLOCK_N"] // threads * (2 if arguments["TILED"] else 1)
    if item == 2 and arguments["SCORE"] == "product":
        return held * item <= SHARED_BYTES and 16 <= own <= 64
    return held * item <= SHARED_BYTES and 4 <= own <= (16 if item < 8 and width <= 128 else 8)


@triton.jit
def _sweep(
    head, span, query, row, best, total, sums, parameter, dropout, seed,
    SCORE: tl.constexpr, FORM: tl.constexpr, SIZE: tl.constexpr, CHANNELS: tl.constexpr, VALUE_SIZE: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, COMPUTE: tl.constexpr, HALF: tl.constexpr, DROP: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """Add the keys of the inner blocks, or with `EDGE` of those before and after them."""
    if EDGE:
        count = span.last - span.first - (span.inner_last - span.inner_first)
    else:
        count = span.inner_last - span.inner_first
    for step in range(count):
        if EDGE:
            column = edge_block(step, span.first, span.inner_first, span.inner_last) * BLOCK_N
        else:
            column = (span.inner_first + step) * BLOCK_N
        key = load_rows(head.key, head.key_stride, column, head.key_len, SIZE, BLOCK_D, BLOCK_N, EDGE)
        value = load_rows(
            head.value, head.value_stride, column, head.key_len, VALUE_SIZE, BLOCK_V, BLOCK_N, EDGE
        )
        scores = scores_of(
            head, query, key, row, column, span.low, span.high,
            SCORE, SIZE, CHANNELS, COMPUTE, BLOCK_M, BLOCK_N, EDGE,
        )  # fmt: skip
        if FORM == "softmax":
            scale = LOG2E / parameter
            higher = tl.maximum(best, tl.max(scores, 1))
            shift = tl.where(higher == float("-inf"), 0.0, higher)
            if HALF:
                weights = tl.exp2(scores * scale - (shift * scale)[:, None])
            else:
                weights = tl.exp2((scores - shift[:, None]) * scale)
            correction = tl.exp2((best - shift) * scale)
            total = total * correction + tl.sum(weights, 1)
            sums = sums * correction[:, None]
            best = higher
        else:
            weights = 1 / (1 + tl.exp2(-(scores + parameter) * LOG2E))
        if DROP:
            weights = dropped(weights, head, row, column, dropout, seed, BLOCK_M, BLOCK_N)
        sums += product(cast_like(weights, value), value, COMPUTE)
    return best, total, sums


@tuned(SIZES, ["SCORE", "FORM", "BLOCK_D", "BLOCK_V", "COMPUTE", "HALF", "DROP", "TILED"], fits)
@triton.jit(do_not_specialize=["seed"])
def dense_forward(
    operands, output, statistic, parameter, dropout, seed,
    SCORE: tl.constexpr, FORM: tl.constexpr, SIZE: tl.constexpr, CHANNELS: tl.constexpr, VALUE_SIZE: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, COMPUTE: tl.constexpr, HALF: tl.constexpr, DROP: tl.constexpr,
    TILED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The output of a tile of queries, and of softmax the best score and the binary logarithm of the sum."""
    tiles = tl.cdiv(operands.query_len, BLOCK_M)
    place = tl.program_id(0) // tiles
    # The last queries see most keys under a causal mask: they begin.
    row = (tiles - 1 - tl.program_id(0) % tiles) * BLOCK_M
    head = head_of(operands, place // operands.heads, place % operands.heads, SIZE, CHANNELS)
    parameter = parameter_of(parameter, COMPUTE)
    dropout = parameter_of(dropout, COMPUTE)
    span = span_of(head, row, BLOCK_M, BLOCK_N)
    query = load_rows(head.query, head.query_stride, row, head.query_len, SIZE, BLOCK_D, BLOCK_M, True)
    best = tl.full((BLOCK_M,), float("-inf"), COMPUTE)
    total = tl.zeros((BLOCK_M,), COMPUTE)
    sums = tl.zeros((BLOCK_M, BLOCK_V), COMPUTE)
    best, total, sums = _sweep(
        head, span, query, row, best, total, sums, parameter, dropout, seed,
        SCORE, FORM, SIZE, CHANNELS, VALUE_SIZE, BLOCK_D, BLOCK_V, COMPUTE, HALF, DROP, BLOCK_M, BLOCK_N, False,
    )  # fmt: skip
    best, total, sums = _sweep(
        head, span, query, row, best, total, sums, parameter, dropout, seed,
        SCORE, FORM, SIZE, CHANNELS, VALUE_SIZE, BLOCK_D, BLOCK_V, COMPUTE, HALF, DROP, BLOCK_M, BLOCK_N, True,
    )  # fmt: skip
    if FORM == "softmax":
        total = tl.where(total == 0, 1.0, total)
        sums = sums / total[:, None]
        rows = row + tl.arange(0, BLOCK_M)
        pointers = statistic + (place.to(tl.int64) * head.query_len + rows) * 2
        tl.store(pointers, tl.where(best == float("-inf"), 0.0, best), mask=rows < head.query_len)
        tl.store(pointers + 1, tl.log2(total), mask=rows < head.query_len)
    output += place.to(tl.int64) * head.query_len * VALUE_SIZE
    store_rows(output, sums, row, head.query_len, VALUE_SIZE, BLOCK_V, BLOCK_M)
