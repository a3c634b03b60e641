"""Tiles of scores on the GPU: products, distances and additive scores, with bias, mask and ranges; and their gradients.

A distance of float32 or float64 is summed from differences. Of float16 and bfloat16 it is taken apart into a product,
which tensor cores do, where the norms of a tile are small enough for that to be as exact, and summed from differences
elsewhere.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import triton
import triton.language as tl

from regard.attention.kernels.gpu.additive import additive_tile
from regard.attention.kernels.gpu.tiles import INTERPRETED, product

__all__ = ["cast_like", "scores_of"]

LARGEST_NORM = tl.constexpr(1024.0)
"""The squared norms of a query and a key up to which float32 takes their distance apart to within 2**-13."""


@triton.jit
def cast_like(tile, other):
    """A tile as a factor beside `other`, in whose precision tensor cores multiply."""
    if INTERPRETED:
        return tile
    else:
        return tile.to(other.dtype)


@triton.jit
def _distance_tile(head, rows, columns, SIZE: tl.constexpr, COMPUTE: tl.constexpr):
    of_query = head.query_columns + rows.to(tl.int64) * head.query_column_stride
    of_key = head.key_columns + columns.to(tl.int64) * head.key_column_stride
    scores = rows[:, None].to(COMPUTE) * 0 + columns[None, :].to(COMPUTE) * 0
    for d in range(SIZE):
        q = tl.load(of_query + d * head.query_channel_stride).to(COMPUTE)
        k = tl.load(of_key + d * head.key_channel_stride).to(COMPUTE)
        difference = q[:, None] - k[None, :]
        scores -= difference * difference
    return scores


@triton.jit
def scores_of(
    head, query, key, row, column, low, high,
    SCORE: tl.constexpr, SIZE: tl.constexpr, CHANNELS: tl.constexpr, COMPUTE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """The scores of the queries from `row` on and the keys from `column` on, minus infinity where hidden.

    With `EDGE` query i sees the keys from its `low` to before its `high` only. *Shape:* query `(M, D)`, key `(N, D)`,
    low and high `(M,)` -> `(M, N)`.
    """
    rows = tl.minimum(row + tl.arange(0, BLOCK_M), head.query_len - 1)
    places = column + tl.arange(0, BLOCK_N)
    columns = tl.minimum(places, head.key_len - 1)
    if SCORE == "product":
        scores = product(query, tl.trans(key), COMPUTE)
    elif SCORE == "additive":
        scores = additive_tile(head, rows, columns, SIZE, CHANNELS, COMPUTE)
    elif head.query_reach is None:
        scores = _distance_tile(head, rows, columns, SIZE, COMPUTE)
    else:
        of_query = tl.load(head.query_reach + rows)
        of_key = tl.load(head.key_reach + columns)
        if tl.max(of_query, 0) + tl.max(of_key, 0) <= LARGEST_NORM:
            scores = 2 * product(query, tl.trans(key), COMPUTE) - of_query[:, None] - of_key[None, :]
            scores = tl.where(scores > 0, 0.0, scores)
        else:
            scores = _distance_tile(head, rows, columns, SIZE, COMPUTE)
    if head.bias is not None:
        added = head.bias + (rows.to(tl.int64) * head.bias_row)[:, None]
        added += (columns.to(tl.int64) * head.bias_column)[None, :]
        scores += tl.load(added).to(COMPUTE)
    if head.mask is not None:
        shown = head.mask + (rows.to(tl.int64) * head.mask_row)[:, None]
        shown += (columns.to(tl.int64) * head.mask_column)[None, :]
        scores = tl.where(tl.load(shown) != 0, scores, float("-inf"))
    if EDGE:
        seen = (places[None, :] >= low[:, None]) & (places[None, :] < high[:, None])
        scores = tl.where(seen, scores, float("-inf"))
    return scores
