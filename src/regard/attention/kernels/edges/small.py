"""Attention along edges on the CPU with small heads, forward: what a node has in all its heads is read at once.

The steps are those of `forward`. The scores of a query are a table, with a row for each edge and a column for each
head; softmax and the sparse normalisers of few edges take them so, for the others a head at a time is put into a row.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import njit

from regard.attention.kernels.edges.forward import (
    ADDITIVE,
    DISTANCE,
    ENTMAX,
    PRODUCT,
    ROOMS,
    SOFTMAX,
    weigh,
)
from regard.attention.kernels.edges.heads import (
    heads_additive,
    heads_bent,
    heads_distance,
    heads_product,
    heads_sum,
)
from regard.attention.kernels.edges.rows import copy_row, shape_row
from regard.attention.kernels.edges.tables import (
    heads_compact,
    heads_entmax15,
    heads_softmax,
    heads_sparsemax,
)
from regard.attention.kernels.emit import WIDTH
from regard.attention.kernels.forward import kept_share
from regard.attention.kernels.source import STAMP, compiled
from regard.attention.kernels.tile import FAST, INT, INT32
from regard.attention.kernels.vectors import fetch_add, get, like, put

__all__ = ["compare", "drop", "forward", "side_by_side"]

SHORT = 64
"""So many edges, at most, does a query have whose normaliser adds up in the precision of its numbers."""


@njit(error_model="numpy")
def compare(score, row, weight, places, count, rows, size, stride, out, apart, width, bend):  # type: ignore[no-untyped-def]
    """The scores of a node's heads against those of a list."""
    if score == PRODUCT:
        heads_product(row, weight, places, count, rows, size, stride, out, apart, width, bend)
    elif score == DISTANCE:
        heads_distance(row, weight, places, count, rows, size, stride, out, apart, width, bend)
    elif score == ADDITIVE:
        heads_additive(row, weight, places, count, rows, size, stride, out, apart, width, bend)
    else:
        heads_bent(row, weight, places, count, rows, size, stride, out, apart, width, bend)


@njit(error_model="numpy")
def drop(table, places, count, heads, apart, seed, first, step, key, dropout, zero):  # type: ignore[no-untyped-def]
    """Dropout of the weights of some edges, a row of a table each. Either `places` are keys of one query, or `key` is
    one key, not below zero, and `places` are queries. `first` is the number of the query, or of the first one, in
    the first head; in the next one it is `step` more."""
    for e in range(count):
        place = np.int64(get(places, e, INT32))
        for h in range(heads):
            row = first + h * step
            own, other = (row, place) if key < 0 else (row + place, key)
            share = kept_share(seed, own, other, dropout)
            put(table, e * apart + h, get(table, e * apart + h, zero) * share, zero)


@njit(error_model="numpy", fastmath=FAST)
def forward_tasks(arguments, zero):  # type: ignore[no-untyped-def]
    thread = fetch_add(arguments)
    tasks = get(arguments, 2, INT)
    a = arguments + 24
    query, key, value, weight = get(a, 0, INT), get(a, 1, INT), get(a, 2, INT), get(a, 3, INT)
    starts, keys, output, weights = get(a, 4, INT), get(a, 5, INT), get(a, 6, INT), get(a, 7, INT)
    scratch, room, numbers = get(a, 8, INT), get(a, 9, INT), get(a, 10, INT)
    heads, query_len, key_len, edges = get(a, 11, INT), get(a, 12, INT), get(a, 13, INT), get(a, 14, INT)
    size, value_size, score, normalizer = get(a, 15, INT), get(a, 16, INT), get(a, 17, INT), get(a, 18, INT)
    rows, item, seed = get(a, 19, INT), get(a, 20, INT), get(a, 21, INT)
    query_n, query_h, query_i = get(a, 22, INT), get(a, 23, INT), get(a, 24, INT)
    parameter, dropout = get(numbers, 0, 0.0), get(numbers, 1, 0.0)
    leak, bend = like(get(numbers, 2, 0.0), zero), like(get(numbers, 3, 0.0), zero)
    factor = like(get(numbers, 4, 0.0), zero)

    # A row of the table for each edge, of whole vectors; then a row for the scores of a head, with what a normaliser
    # needs behind it; then the query's heads side by side.
    lanes = WIDTH // item
    apart = -(-heads // lanes) * lanes
    table = scratch + thread * ((apart + ROOMS) * room + heads * size) * item
    line, own = table + apart * room * item, table + (apart + ROOMS) * room * item
    width, value_width = heads * size, heads * value_size
    blocks = -(-query_len // rows)

    while True:
        task = fetch_add(arguments + 8)
        if task >= tasks:
            break
        n, number = task // blocks, task % blocks
        base, values = key + n * key_len * width * item, value + n * key_len * value_width * item
        for i in range(number * rows, min((number + 1) * rows, query_len)):
            first = get(starts, i, INT)
            count = get(starts, i + 1, INT) - first
            listed = keys + first * 4
            for h in range(heads):
                copy_row(
                    query + (n * query_n + h * query_h + i * query_i) * item,
                    size,
                    own + h * size * item,
                    zero,
                )
            compare(score, own, weight, listed, count, base, size, width, table, apart, width, bend)
            if factor != 1 or leak != 1:
                shape_row(table, count * apart, factor, leak)
            if count <= SHORT and normalizer == SOFTMAX:
                heads_softmax(table, count, apart, like(1 / parameter, zero))
            elif count <= SHORT and normalizer == ENTMAX and parameter == 2:
                heads_sparsemax(table, count, apart, zero)
            elif count <= SHORT and normalizer == ENTMAX and parameter == 1.5:
                heads_entmax15(table, count, apart, zero)
            else:
                for h in range(heads):
                    for e in range(count):
                        put(line, e, get(table, e * apart + h, zero), zero)
                    weigh(normalizer, parameter, line, count, room, item, zero)
                    for e in range(count):
                        put(table, e * apart + h, get(line, e, zero), zero)
            heads_compact(table, count, heads, apart, weights + (n * edges + first) * heads * item, zero)
            if dropout > 0:
                place = n * heads * query_len + i
                drop(table, listed, count, heads, apart, seed, place, query_len, INT - 1, dropout, zero)
            out = output + (n * query_len + i) * value_width * item
            heads_sum(
                INT, table, INT, listed, count, values, value_size, value_width, out, value_width, apart, zero
            )


@cache
def forward(item: int) -> Any:
    """The kernel for numbers of `item` bytes."""
    zero, stamp = (np.float32(0) if item == 4 else np.float64(0)), STAMP

    @compiled
    def small_edge_attention(arguments):  # type: ignore[no-untyped-def]
        if stamp:
            forward_tasks(arguments, zero)

    return small_edge_attention


@njit(error_model="numpy")
def copy_tasks(arguments, zero):  # type: ignore[no-untyped-def]
    fetch_add(arguments)
    tasks = get(arguments, 2, INT)
    a = arguments + 24
    source, target, heads = get(a, 0, INT), get(a, 1, INT), get(a, 2, INT)
    length, size, rows, item = get(a, 3, INT), get(a, 4, INT), get(a, 5, INT), get(a, 6, INT)
    batch_stride, head_stride, stride = get(a, 7, INT), get(a, 8, INT), get(a, 9, INT)
    blocks = -(-length // rows)
    while True:
        task = fetch_add(arguments + 8)
        if task >= tasks:
            break
        n, number = task // blocks, task % blocks
        for i in range(number * rows, min((number + 1) * rows, length)):
            for h in range(heads):
                row = source + (n * batch_stride + h * head_stride + i * stride) * item
                copy_row(row, size, target + ((n * length + i) * heads + h) * size * item, zero)


@cache
def side_by_side(item: int) -> Any:
    """The kernel that puts the heads of each node beside each other, for numbers of `item` bytes."""
    zero, stamp = (np.float32(0) if item == 4 else np.float64(0)), STAMP

    @compiled
    def heads_side_by_side(arguments):  # type: ignore[no-untyped-def]
        if stamp:
            copy_tasks(arguments, zero)

    return heads_side_by_side
