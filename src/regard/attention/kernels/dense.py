"""Attention with a weight for every key on the CPU, forward: softmax and sigmoid, block by block.

A block of queries goes through its keys a block at a time: scores by register tiles, their exponentials beside the
largest score so far, the sum of values by register tiles; when a larger score comes, what is there is scaled down
(Milakov & Gimelshein 2018; Dao et al. 2022, algorithm 1). Kept for the backward pass are two numbers a query: its
largest score and one over its sum.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import njit

from regard.attention.kernels.emit import ROWS
from regard.attention.kernels.forward import kept_share
from regard.attention.kernels.products import (
    add_products,
    exponential_row,
    scale_row,
    sigmoid_row,
)
from regard.attention.kernels.rows import best
from regard.attention.kernels.source import STAMP, compiled
from regard.attention.kernels.tile import (
    INT,
    INT32,
    fill_tile,
    finish_row,
)
from regard.attention.kernels.vectors import fetch_add, get, like, put, take

__all__ = [
    "SIGMOID",
    "SOFTMAX",
    "add_tiles",
    "copy_block",
    "finish_scores",
    "forward",
    "seen",
    "seen_by_some",
]

SOFTMAX, SIGMOID = range(2)
"""The normalisers; the parameter of SOFTMAX is its temperature, that of SIGMOID is added to every score."""


@njit(error_model="numpy")
def add_tiles(left, left_row, left_depth, rows, right, width, out, depth, item, panel, zero):  # type: ignore[no-untyped-def]
    """out[r, c] += sum_d left[r, d] right[d, c], in register tiles; rows of `right` and `out` are `width` apart."""
    for c in range(0, width, panel):
        for r in range(0, rows, ROWS):
            add_products(
                left + r * left_row * item,
                left_row,
                left_depth,
                right + c * item,
                width,
                out + (r * width + c) * item,
                width,
                depth,
                zero,
            )


@njit(error_model="numpy")
def copy_block(source, here, padded, size, block, item, zero):  # type: ignore[no-untyped-def]
    """Some rows, and rows of zeros up to a register tile's."""
    for i in range(here * size):
        put(block, i, get(source, i, zero), zero)
    for i in range(here * size, padded * size):
        put(block, i, 0.0, zero)


@njit(error_model="numpy")
def finish_scores(scores, i, n, h, low, high, one, two, bias, mask, places, scale, item, zero):  # type: ignore[no-untyped-def]
    """Scale and bias a row's scores of the keys from low to high, which begin at `scores`, and hide what is hidden."""
    first, last = max(one, low), min(two, high)
    for j in range(low, min(first, high)):
        put(scores, j - low, -np.inf, zero)
    for j in range(max(last, low), high):
        put(scores, j - low, -np.inf, zero)
    if first < last:
        finish_row(
            scores - low * item,
            scale,
            first,
            last,
            bias + (n * get(places, 7, INT) + h * get(places, 8, INT) + i * get(places, 9, INT)) * item
            if bias
            else INT,
            get(places, 10, INT),
            mask + n * get(places, 3, INT) + h * get(places, 4, INT) + i * get(places, 5, INT)
            if mask
            else INT,
            get(places, 6, INT),
            item,
            zero,
        )


@njit(error_model="numpy")
def seen(ranges, n, h, i, key_len, places):  # type: ignore[no-untyped-def]
    """The first key that a query sees, and the first after those."""
    if not ranges:
        return INT, key_len
    place = n * get(places, 0, INT) + h * get(places, 1, INT) + i * get(places, 2, INT)
    low = max(np.int64(get(ranges, place, INT32)), 0)
    return low, max(min(np.int64(get(ranges, place + 1, INT32)), key_len), low)


@njit(error_model="numpy")
def seen_by_some(ranges, n, h, start, here, key_len, places):  # type: ignore[no-untyped-def]
    """The first key that any of some queries sees, and the first after all of those."""
    low, high = key_len, INT
    for i in range(start, start + here):
        one, two = seen(ranges, n, h, i, key_len, places)
        if one < two:
            low, high = min(low, one), max(high, two)
    return low, high


@njit(error_model="numpy")
def forward_tasks(arguments, zero):  # type: ignore[no-untyped-def]
    thread = fetch_add(arguments)
    tasks = get(arguments, 2, INT)
    (
        query, key, value, weight, output, weights, statistic, scratch, scratch_size, numbers, bias, mask,
        ranges, heads, key_heads, query_len, key_len, size, width, value_size, score, normalizer, rows,
        some, item, panel, weight_stride, seed, first_row, all_rows,
    ) = take(arguments + 24, 30)  # fmt: skip
    places = arguments + (3 + 30) * 8
    parameter, dropout, scale = get(numbers, 0, 0.0), get(numbers, 1, 0.0), get(numbers, 2, 0.0)

    stride = some + panel
    panels = -(-key_len // panel)
    block = scratch + thread * scratch_size * item
    tile = block + rows * size * item
    sums = tile + rows * stride * item
    most = sums + rows * width * item
    total = most + rows * item
    maxima = total + rows * item
    blocks = -(-query_len // rows)
    times = like(1 / parameter if normalizer == SOFTMAX else 1.0, zero)
    shift = like(parameter, zero)

    while True:
        task = fetch_add(arguments + 8)
        if task >= tasks:
            break
        # The last queries first: under a causal mask these see the most keys.
        number, head = blocks - 1 - task % blocks, task // blocks
        n, h = head // heads, head % heads
        own = weight + h * weight_stride * item if weight else INT
        key_head = n * key_heads + h // (heads // key_heads)
        start = number * rows
        here = min(rows, query_len - start)
        padded = -(-here // ROWS) * ROWS
        low, high = seen_by_some(ranges, n, h, start, here, key_len, places)
        copy_block(query + (head * query_len + start) * size * item, here, padded, size, block, item, zero)
        for i in range(padded * width):
            put(sums, i, 0.0, zero)
        for r in range(padded):
            put(most, r, -np.inf, zero)
            put(total, r, 0.0, zero)
        keys = key + key_head * panels * panel * size * item
        values = value + key_head * key_len * width * item
        for begin in range(low // panel * panel, high, some):
            end = min(begin + some, high)
            shifted = tile - begin * item
            fill_tile(
                score,
                block,
                padded,
                keys,
                size,
                own,
                size,
                shifted,
                stride,
                begin,
                end,
                False,
                item,
                panel,
                zero,
            )
            for r in range(here):
                i = start + r
                one, two = seen(ranges, n, h, i, key_len, places)
                row = tile + r * stride * item
                finish_scores(row, i, n, h, begin, end, one, two, bias, mask, places, scale, item, zero)
                if normalizer == SOFTMAX:
                    largest = best(row, end - begin, maxima, zero)
                    before = get(most, r, zero)
                    if largest <= before:
                        largest = before
                    if largest == -np.inf:
                        for j in range(end - begin):
                            put(row, j, 0.0, zero)
                        continue
                    if largest != before:
                        less = like(np.exp((np.float64(before) - largest) * times), zero)
                        scale_row(sums + r * width * item, width, less, less)
                        put(total, r, get(total, r, zero) * less, zero)
                        put(most, r, largest, zero)
                    added = exponential_row(row, end - begin, largest, times)
                    put(total, r, get(total, r, zero) + added, zero)
                else:
                    # What is hidden stays without weight: 1 / (1 + e^infinity).
                    sigmoid_row(row, end - begin, shift, shift)
                if weights:  # Then there is but one block of keys.
                    out, whole = (head * query_len + i) * key_len, like(1.0, zero)
                    if normalizer == SOFTMAX:
                        whole = like(1.0 / np.float64(get(total, r, zero)), zero)
                    for j in range(begin, end):
                        put(weights, out + j, get(row, j - begin, zero) * whole, zero)
                if dropout > 0:
                    for j in range(begin, end):
                        kept_by = kept_share(seed, head * all_rows + first_row + i, j, dropout)
                        put(row, j - begin, get(row, j - begin, zero) * kept_by, zero)
            for r in range(here, padded):
                for j in range(end - begin):
                    put(tile, r * stride + j, 0.0, zero)
            add_tiles(
                tile,
                stride,
                INT + 1,
                padded,
                values + begin * width * item,
                width,
                sums,
                end - begin,
                item,
                panel,
                zero,
            )
        for r in range(here):
            row = head * query_len + start + r
            one = like(1.0, zero)
            if normalizer == SOFTMAX and get(most, r, zero) != -np.inf:
                one = like(1.0 / np.float64(get(total, r, zero)), zero)
            put(statistic, 2 * row, get(most, r, zero), zero)
            put(statistic, 2 * row + 1, one, zero)
            for d in range(value_size):
                put(output, row * value_size + d, get(sums, r * width + d, zero) * one, zero)


@cache
def forward(item: int) -> Any:
    """The kernel of outputs, for numbers of `item` bytes."""
    zero, stamp = (np.float32(0) if item == 4 else np.float64(0)), STAMP

    @compiled
    def dense_forward(arguments):  # type: ignore[no-untyped-def]
        if stamp:
            forward_tasks(arguments, zero)

    return dense_forward
