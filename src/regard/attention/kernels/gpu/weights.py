"""The weights themselves on the GPU, for calls that ask for them: tiles of what the forward pass has not written.

Unmeasured: speed on any GPU.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import triton
import triton.language as tl

from regard.attention.kernels.gpu.normalizers import weights_and_slopes
from regard.attention.kernels.gpu.operands import head_of
from regard.attention.kernels.gpu.scores import scores_of
from regard.attention.kernels.gpu.tiles import load_rows, load_vector, parameter_of, span_of

__all__ = ["weights_kernel"]


@triton.jit
def weights_kernel(
    operands, output, statistic, last_places, parameter,
    SCORE: tl.constexpr, FORM: tl.constexpr, SIZE: tl.constexpr, CHANNELS: tl.constexpr,
    BLOCK_D: tl.constexpr, COMPUTE: tl.constexpr, HALF: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The weights of a tile of queries and a block of keys, from what the forward pass found out about the rows."""
    down = tl.cdiv(operands.query_len, BLOCK_M)
    across = tl.cdiv(operands.key_len, BLOCK_N)
    place = tl.program_id(0) // (down * across)
    row = tl.program_id(0) // across % down * BLOCK_M
    column = tl.program_id(0) % across * BLOCK_N
    head = head_of(operands, place // operands.heads, place % operands.heads, SIZE, CHANNELS)
    parameter = parameter_of(parameter, COMPUTE)
    span = span_of(head, row, BLOCK_M, BLOCK_N)
    start = place.to(tl.int64) * head.query_len
    rows = row + tl.arange(0, BLOCK_M)
    columns = column + tl.arange(0, BLOCK_N)
    STEP: tl.constexpr = 3 if FORM == "top" else 2
    statistic += start * STEP
    first = load_vector(statistic, row, head.query_len, 0.0, BLOCK_M, STEP)
    second = load_vector(statistic + 1, row, head.query_len, 0.0, BLOCK_M, STEP)
    third = second
    if FORM == "top":
        third = load_vector(statistic + 2, row, head.query_len, 0.0, BLOCK_M, STEP)
    last_place = tl.zeros((BLOCK_M,), tl.int32)
    if last_places is not None:
        last_place = load_vector(last_places + start, row, head.query_len, -1, BLOCK_M, 1)
    query = load_rows(head.query, head.query_stride, row, head.query_len, SIZE, BLOCK_D, BLOCK_M, True)
    key = load_rows(head.key, head.key_stride, column, head.key_len, SIZE, BLOCK_D, BLOCK_N, True)
    scores = scores_of(
        head, query, key, row, column, span.low, span.high,
        SCORE, SIZE, CHANNELS, COMPUTE, BLOCK_M, BLOCK_N, True,
    )  # fmt: skip
    weights, _ = weights_and_slopes(
        scores, first, second, third, last_place, column, parameter, FORM, HALF, BLOCK_N
    )
    pointers = output + ((start + rows) * head.key_len)[:, None] + columns[None, :]
    tl.store(pointers, weights, mask=(rows < head.query_len)[:, None] & (columns < head.key_len)[None, :])
