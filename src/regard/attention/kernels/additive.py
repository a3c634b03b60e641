"""Additive scores on the CPU, forward and backward, with nothing of queries x keys x channels anywhere."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import njit

from regard.attention.kernels.emit import ROWS, WIDTH
from regard.attention.kernels.panels import additive_slopes, plain_additive_slopes, small_additive_slopes
from regard.attention.kernels.source import STAMP, compiled
from regard.attention.kernels.supports import additive_to_key, additive_to_queries
from regard.attention.kernels.tile import EXPONENTIAL, FAST, INT, SMALL, fill_tile
from regard.attention.kernels.vectors import fetch_add, get, lane_sum, put, take

__all__ = ["few_slopes", "scores", "slopes"]


@njit(error_model="numpy")
def score_tasks(arguments, zero):  # type: ignore[no-untyped-def]
    thread = fetch_add(arguments)
    tasks = get(arguments, 2, INT)
    (
        query, key, weight, output, scratch, scratch_size, heads, key_heads, query_len, key_len, size,
        score, by_row, rows, stride, item, panel, weight_stride,
    ) = take(arguments + 24, 18)  # fmt: skip
    blocks = -(-query_len // rows)
    block = scratch + thread * scratch_size * item
    tile = block + rows * size * item
    keys_size = key_len if by_row else -(-key_len // panel) * panel

    while True:
        task = fetch_add(arguments + 8)
        if task >= tasks:
            break
        head, start = task // blocks, task % blocks * rows
        n, h = head // heads, head % heads
        here = min(rows, query_len - start)
        padded = here if by_row else -(-here // ROWS) * ROWS
        source = query + (head * query_len + start) * size * item
        for i in range(here * size):
            put(block, i, get(source, i, zero), zero)
        for i in range(here * size, padded * size):
            put(block, i, 0.0, zero)
        keys = key + (n * key_heads + h // (heads // key_heads)) * keys_size * size * item
        own = weight + h * weight_stride * item
        fill_tile(
            score, block, padded, keys, size, own, size, tile, stride, INT, key_len, by_row, item, panel, zero
        )
        for r in range(here):
            out = output + (head * query_len + start + r) * key_len * item
            for j in range(key_len):
                put(out, j, get(tile, r * stride + j, zero), zero)


@njit(error_model="numpy", fastmath=FAST)
def slope_tasks(arguments, zero):  # type: ignore[no-untyped-def]
    thread = fetch_add(arguments)
    tasks = get(arguments, 2, INT)
    (
        query, key, grad, weight, grad_query, grad_key, grad_weight, scratch, scratch_size, heads,
        key_heads, query_len, key_len, size, weight_size, score, item, panel, weight_stride, chunks,
    ) = take(arguments + 24, 20)  # fmt: skip
    panels = -(-key_len // panel)
    stride = panels * panel
    lanes = WIDTH // item
    group = heads // key_heads
    # A block of queries, its gradients, its sums: all of one register tile's height.
    block = scratch + thread * scratch_size * item
    tile = block + ROWS * size * item
    sums = tile + ROWS * stride * item

    while True:
        task = fetch_add(arguments + 8)
        if task >= tasks:
            break
        key_head, chunk = task // chunks, task % chunks
        tiles = -(-query_len // ROWS)
        first = key_head // key_heads * heads + key_head % key_heads * group
        keys = key + key_head * stride * size * item
        out_keys = grad_key + task * group * stride * size * item
        for head in range(first, first + group):
            own = weight + head % heads * weight_stride * item
            into = out_keys + (head - first) * stride * size * item
            for number in range(tiles * chunk // chunks, tiles * (chunk + 1) // chunks):
                start = number * ROWS
                here = min(ROWS, query_len - start)
                source = query + (head * query_len + start) * size * item
                for i in range(ROWS * size):
                    put(block, i, get(source, i, zero) if i < here * size else zero, zero)
                for r in range(ROWS):
                    above = grad + (head * query_len + start + r) * key_len * item
                    for j in range(stride):
                        inside = r < here and j < key_len
                        put(tile, r * stride + j, get(above, j, zero) if inside else zero, zero)
                for i in range((ROWS + 1) * size * lanes):
                    put(sums, i, 0.0, zero)
                for p in range(panels):
                    k, g, out = (
                        keys + p * panel * size * item,
                        tile + p * panel * item,
                        into + p * panel * size * item,
                    )
                    if score == EXPONENTIAL:
                        additive_slopes(block, k, g, size, stride, sums, out, zero)
                    elif score == SMALL:
                        small_additive_slopes(block, k, g, size, stride, sums, out, zero)
                    else:
                        plain_additive_slopes(block, k, g, size, stride, sums, out, zero)
                part = grad_weight + (head * chunks + chunk) * weight_size * item
                for d in range(weight_size):
                    channel = sums + d * (ROWS + 1) * lanes * item
                    put(part, d, get(part, d, zero) + lane_sum(channel, zero), zero)
                    for r in range(here):
                        steep = lane_sum(channel + (r + 1) * lanes * item, zero)
                        place = (head * query_len + start + r) * weight_size + d
                        put(grad_query, place, get(own, d, zero) * steep, zero)


@njit(error_model="numpy", fastmath=FAST)
def few_slope_tasks(arguments, zero):  # type: ignore[no-untyped-def]
    thread = fetch_add(arguments)
    tasks = get(arguments, 2, INT)
    (
        query, key, grad, weight, places, grad_query, grad_key, grad_weight, scratch, heads, key_heads,
        query_len, key_len, size, item, weight_stride,
    ) = take(arguments + 24, 16)  # fmt: skip
    group = heads // key_heads
    sums = scratch + thread * 2 * size * item

    while True:
        key_head = fetch_add(arguments + 8)
        if key_head >= tasks:
            break
        keys, out = key + key_head * key_len * size * item, grad_key + key_head * key_len * size * item
        first = key_head // key_heads * heads + key_head % key_heads * group
        for head in range(first, first + group):
            own, part = weight + head % heads * weight_stride * item, grad_weight + head * size * item
            for row in range(head * query_len, (head + 1) * query_len):
                source, slopes = query + row * size * item, grad + row * key_len * item
                additive_to_queries(source, places, key_len, keys, size, slopes, sums, zero)
                for d in range(size):
                    put(grad_query, row * size + d, get(own, d, zero) * get(sums, d, zero), zero)
                    put(part, d, get(part, d, zero) + get(sums, size + d, zero), zero)
                for j in range(key_len):
                    at = j * size * item
                    additive_to_key(source, keys + at, own, size, get(slopes, j, zero), out + at)


@cache
def scores(item: int) -> Any:
    """The kernel of scores, for numbers of `item` bytes."""
    zero, stamp = (np.float32(0) if item == 4 else np.float64(0)), STAMP

    @compiled
    def additive_scores(arguments):  # type: ignore[no-untyped-def]
        if stamp:
            score_tasks(arguments, zero)

    return additive_scores


@cache
def slopes(item: int) -> Any:
    """The kernel of gradients, for numbers of `item` bytes."""
    zero, stamp = (np.float32(0) if item == 4 else np.float64(0)), STAMP

    @compiled
    def additive_gradients(arguments):  # type: ignore[no-untyped-def]
        if stamp:
            slope_tasks(arguments, zero)

    return additive_gradients


@cache
def few_slopes(item: int) -> Any:
    """The kernel of gradients where queries are few: keys are read as they are given."""
    zero, stamp = (np.float32(0) if item == 4 else np.float64(0)), STAMP

    @compiled
    def additive_gradients_of_few(arguments):  # type: ignore[no-untyped-def]
        if stamp:
            few_slope_tasks(arguments, zero)

    return additive_gradients_of_few
