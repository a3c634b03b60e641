"""Attention with a weight for every key on the CPU, backward: weights are computed again, block by block.

Each block of queries and keys gives its part to the gradients of both, and of values: five products in all, or three
and the slopes of an additive score. A task has some queries and all keys of a head, so that no two write to one place.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import njit

from regard.attention.kernels.dense import (
    SIGMOID,
    SOFTMAX,
    add_tiles,
    copy_block,
    finish_scores,
    seen,
    seen_by_some,
)
from regard.attention.kernels.emit import ROWS, WIDTH
from regard.attention.kernels.forward import kept_share
from regard.attention.kernels.panels import additive_slopes, plain_additive_slopes, small_additive_slopes
from regard.attention.kernels.products import bend_row, exponential_row, scale_row, sigmoid_row, steepen_row
from regard.attention.kernels.source import STAMP, compiled
from regard.attention.kernels.tile import DISTANCE, EXPONENTIAL, INT, PRODUCT, SMALL, fill_tile
from regard.attention.kernels.vectors import add_scaled, fetch_add, get, lane_sum, like, put, take

__all__ = ["backward"]


@njit(error_model="numpy")
def backward_tasks(arguments, zero):  # type: ignore[no-untyped-def]
    thread = fetch_add(arguments)
    tasks = get(arguments, 2, INT)
    (
        query, key, value, key_rows, weight, above_all, grad_weights, statistic, means, bias, mask, ranges,
        grad_query, grad_key, grad_value, grad_weight, grad_bias, beyond, scratch, scratch_size, numbers,
        heads, key_heads, query_len, key_len, size, width, score, normalizer, rows, some, item, panel,
        chunks, weight_stride, seed, first_row, all_rows,
    ) = take(arguments + 24, 38)  # fmt: skip
    places = arguments + (3 + 38) * 8
    parameter, dropout, scale = get(numbers, 0, 0.0), get(numbers, 1, 0.0), get(numbers, 2, 0.0)

    stride = some + panel
    panels = -(-key_len // panel)
    block = scratch + thread * scratch_size * item
    above = block + rows * size * item
    tile = above + rows * width * item
    slopes = tile + rows * stride * item
    sums = slopes + rows * stride * item
    blocks = -(-query_len // rows)
    group = heads // key_heads
    lanes = WIDTH // item
    times = like(1 / parameter if normalizer == SOFTMAX else 1.0, zero)
    shift, factor = like(parameter, zero), like(scale, zero)
    # The keys' gradients from an additive score are yet to be multiplied with the weight of each head.
    each = group if weight else INT + 1

    while True:
        task = fetch_add(arguments + 8)
        if task >= tasks:
            break
        key_head, chunk = task // chunks, task % chunks
        n = key_head // key_heads
        first = n * heads + key_head % key_heads * group
        keys = key + key_head * panels * panel * size * item
        values = value + key_head * panels * panel * width * item
        by_rows = key_rows + key_head * key_len * size * item
        to_values = grad_value + task * panels * panel * width * item
        for head in range(first, first + group):
            h = head % heads
            own = weight + h * weight_stride * item if weight else INT
            to_keys = grad_key + (task * each + head % each) * panels * panel * size * item
            for number in range(blocks * chunk // chunks, blocks * (chunk + 1) // chunks):
                start = number * rows
                here = min(rows, query_len - start)
                padded = -(-here // ROWS) * ROWS
                low, high = seen_by_some(ranges, n, h, start, here, key_len, places)
                top = head * query_len + start
                copy_block(query + top * size * item, here, padded, size, block, item, zero)
                copy_block(above_all + top * width * item, here, padded, width, above, item, zero)
                for i in range((ROWS + 1) * lanes * size if weight else padded * size):
                    put(sums, i, 0.0, zero)
                for begin in range(low // panel * panel, high, some):
                    end = min(begin + some, high)
                    count = end - begin
                    fill_tile(
                        score,
                        block,
                        padded,
                        keys,
                        size,
                        own,
                        size,
                        tile - begin * item,
                        stride,
                        begin,
                        end,
                        False,
                        item,
                        panel,
                        zero,
                    )
                    fill_tile(
                        PRODUCT,
                        above,
                        padded,
                        values,
                        width,
                        INT,
                        width,
                        slopes - begin * item,
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
                        row, slope = tile + r * stride * item, slopes + r * stride * item
                        finish_scores(
                            row, i, n, h, begin, end, one, two, bias, mask, places, scale, item, zero
                        )
                        if normalizer == SIGMOID:
                            sigmoid_row(row, count, shift, shift)
                        else:
                            largest = get(statistic, 2 * (top + r), zero)
                            if largest == -np.inf:
                                for j in range(count):
                                    put(row, j, 0.0, zero)
                            else:
                                exponential_row(row, count, largest, times)
                                whole = get(statistic, 2 * (top + r) + 1, zero)
                                scale_row(row, count, whole, whole)
                        if dropout > 0:
                            for j in range(count):
                                kept_by = kept_share(
                                    seed, head * all_rows + first_row + i, begin + j, dropout
                                )
                                put(slope, j, get(slope, j, zero) * kept_by, zero)
                        if grad_weights:
                            more = grad_weights + ((top + r) * key_len + begin) * item
                            add_scaled(more, count, like(1.0, zero), slope)
                        if normalizer == SIGMOID:
                            steepen_row(row, slope, count, shift, times)
                        else:
                            bend_row(row, slope, count, get(means, top + r, zero), times)
                        if grad_bias:
                            out = (top + r) * key_len + begin
                            for j in range(count):
                                put(grad_bias, out + j, get(slope, j, zero), zero)
                        if scale != 1:
                            scale_row(slope, count, factor, factor)
                        if dropout > 0:
                            for j in range(count):
                                kept_by = kept_share(
                                    seed, head * all_rows + first_row + i, begin + j, dropout
                                )
                                put(row, j, get(row, j, zero) * kept_by, zero)
                    whole_tiles = -(-count // panel) * panel
                    for r in range(padded):
                        for j in range(count if r < here else INT, whole_tiles):
                            put(tile, r * stride + j, 0.0, zero)
                            put(slopes, r * stride + j, 0.0, zero)
                    add_tiles(
                        tile,
                        INT + 1,
                        stride,
                        -(-count // ROWS) * ROWS,
                        above,
                        width,
                        to_values + begin * width * item,
                        padded,
                        item,
                        panel,
                        zero,
                    )
                    if weight:
                        for j in range(0, whole_tiles, panel):
                            k, g, out = (
                                keys + (begin + j) * size * item,
                                slopes + j * item,
                                to_keys + (begin + j) * size * item,
                            )
                            if score == EXPONENTIAL:
                                additive_slopes(block, k, g, size, stride, sums, out, zero)
                            elif score == SMALL:
                                small_additive_slopes(block, k, g, size, stride, sums, out, zero)
                            else:
                                plain_additive_slopes(block, k, g, size, stride, sums, out, zero)
                        continue
                    add_tiles(
                        slopes,
                        stride,
                        INT + 1,
                        padded,
                        by_rows + begin * size * item,
                        size,
                        sums,
                        count,
                        item,
                        panel,
                        zero,
                    )
                    add_tiles(
                        slopes,
                        INT + 1,
                        stride,
                        -(-count // ROWS) * ROWS,
                        block,
                        size,
                        to_keys + begin * size * item,
                        padded,
                        item,
                        panel,
                        zero,
                    )
                    if score == DISTANCE:
                        # -|q - k|^2 has the slope 2 (k - q) for a query: beside the products, the sums of the slopes.
                        for r in range(here):
                            slope = slopes + r * stride * item
                            of_all = like(0.0, zero)
                            for j in range(count):
                                of_all += get(slope, j, zero)
                            add_scaled(block + r * size * item, size, -of_all, sums + r * size * item)
                            add_scaled(
                                slope,
                                count,
                                like(1.0, zero),
                                beyond + (task * panels * panel + begin) * item,
                            )
                if weight:
                    for d in range(size):
                        channel = sums + d * (ROWS + 1) * lanes * item
                        place = (task * each + head % each) * size + d
                        put(grad_weight, place, get(grad_weight, place, zero) + lane_sum(channel, zero), zero)
                        for r in range(here):
                            steep = lane_sum(channel + (r + 1) * lanes * item, zero)
                            put(grad_query, (top + r) * size + d, get(own, d, zero) * steep, zero)
                    continue
                double = like(2.0 if score == DISTANCE else 1.0, zero)
                for i in range(here * size):
                    put(grad_query, top * size + i, get(sums, i, zero) * double, zero)


@cache
def backward(item: int) -> Any:
    """The kernel of gradients, for numbers of `item` bytes."""
    zero, stamp = (np.float32(0) if item == 4 else np.float64(0)), STAMP

    @compiled
    def dense_backward(arguments):  # type: ignore[no-untyped-def]
        if stamp:
            backward_tasks(arguments, zero)

    return dense_backward
