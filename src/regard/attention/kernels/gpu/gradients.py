"""The gradients of the weights of a tile on the GPU, which those of queries and those of keys are made of.

Unmeasured: speed on any GPU.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import triton
import triton.language as tl

from regard.attention.kernels.gpu.normalizers import weights_and_slopes
from regard.attention.kernels.gpu.scores import scores_of
from regard.attention.kernels.gpu.tiles import dropped, load_vector, product, span_of

__all__ = ["gradient_tile"]


@triton.jit
def gradient_tile(
    head, query, key, value, grad_output, grad_weights, statistic, last_places, row, column,
    parameter, dropout, seed,
    SCORE: tl.constexpr, FORM: tl.constexpr, SIZE: tl.constexpr, CHANNELS: tl.constexpr,
    COMPUTE: tl.constexpr, HALF: tl.constexpr, DROP: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """The weights of a tile as the output has them, their slopes, and their gradients. *Shape:* each `(M, N)`."""
    span = span_of(head, row, BLOCK_M, BLOCK_N)
    # Of the best score of rows past the end infinity is read: their weights are zero.
    STEP: tl.constexpr = 3 if FORM == "top" else 2
    first = load_vector(statistic, row, head.query_len, float("inf"), BLOCK_M, STEP)
    second = load_vector(statistic + 1, row, head.query_len, 0.0, BLOCK_M, STEP)
    third = second
    if FORM == "top":
        third = load_vector(statistic + 2, row, head.query_len, float("inf"), BLOCK_M, STEP)
    if (FORM == "top") or (FORM == "hardmax"):
        last_place = load_vector(last_places, row, head.query_len, -1, BLOCK_M, 1)
    else:
        last_place = tl.zeros((BLOCK_M,), tl.int32)
    if FORM == "hardmax":
        scores = tl.zeros((BLOCK_M, BLOCK_N), COMPUTE)
        first = tl.where(first == float("inf"), 0.0, first)
    else:
        scores = scores_of(
            head, query, key, row, column, span.low, span.high,
            SCORE, SIZE, CHANNELS, COMPUTE, BLOCK_M, BLOCK_N, EDGE,
        )  # fmt: skip
    weights, slopes = weights_and_slopes(
        scores, first, second, third, last_place, column, parameter, FORM, HALF, BLOCK_N
    )
    grads = product(grad_output, tl.trans(value), COMPUTE)
    if DROP:
        factor = dropped(
            tl.full((BLOCK_M, BLOCK_N), 1.0, COMPUTE), head, row, column, dropout, seed, BLOCK_M, BLOCK_N
        )
        weights *= factor
        grads *= factor
    if grad_weights is not None:
        rows = row + tl.arange(0, BLOCK_M)
        columns = column + tl.arange(0, BLOCK_N)
        pointers = grad_weights + (rows.to(tl.int64) * head.key_len)[:, None] + columns[None, :]
        inside = (rows < head.query_len)[:, None] & (columns < head.key_len)[None, :]
        grads += tl.load(pointers, mask=inside, other=0.0).to(COMPUTE)
    return weights, slopes, grads
