"""Attention along edges on the CPU with small heads: what a node has in all its heads lies side by side, and is read at once.

The steps are those of `edges` and `edges_backward`. Scores come for all heads of an edge, are turned into one row for
each head, normalised, and turned back into the weights of an edge, which lie beside each other.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import cfunc, njit, types

from regard.attention.kernels.edge_heads import (
    heads_additive,
    heads_additive_sums,
    heads_bent,
    heads_bent_sums,
    heads_distance,
    heads_product,
    heads_sum,
)
from regard.attention.kernels.edge_rows import leak_row, leak_slopes
from regard.attention.kernels.edges import ADDITIVE, DISTANCE, HARDMAX, PRODUCT, ROOMS, SIGMOID, SOFTMAX, weigh
from regard.attention.kernels.edges_backward import through_normalizer
from regard.attention.kernels.forward import kept_share
from regard.attention.kernels.source import STAMP
from regard.attention.kernels.tile import FAST, INT, INT32
from regard.attention.kernels.vectors import fetch_add, get, like, put

__all__ = ["backward_keys", "backward_queries", "forward"]


@njit(error_model="numpy")
def compare(score, row, weight, places, count, rows, size, stride, out, heads, width, bend):  # type: ignore[no-untyped-def]
    """The scores of a node's heads against those of a list."""
    if score == PRODUCT:
        heads_product(row, weight, places, count, rows, size, stride, out, heads, width, bend)
    elif score == DISTANCE:
        heads_distance(row, weight, places, count, rows, size, stride, out, heads, width, bend)
    elif score == ADDITIVE:
        heads_additive(row, weight, places, count, rows, size, stride, out, heads, width, bend)
    else:
        heads_bent(row, weight, places, count, rows, size, stride, out, heads, width, bend)


@njit(error_model="numpy")
def drop(weights, numbers, places, count, out, heads, seed, first, step, key, dropout, zero):  # type: ignore[no-untyped-def]
    """The weights of some edges with dropout, one edge after the other. Either `places` are keys of one query, or `key`
    is one key and `places` are queries; `first` is the number of the query, or of the first one."""
    for e in range(count):
        place = np.int64(get(places, e, INT32))
        number = np.int64(get(numbers, e, INT32)) if numbers else e
        for h in range(heads):
            row = first + h * step
            share = kept_share(seed, row, place, dropout) if key < 0 else kept_share(seed, row + place, key, dropout)
            put(out, e * heads + h, get(weights, number * heads + h, zero) * share, zero)


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
    parameter, dropout = get(numbers, 0, 0.0), get(numbers, 1, 0.0)
    leak, bend = like(get(numbers, 2, 0.0), zero), like(get(numbers, 3, 0.0), zero)

    beside = scratch + thread * (ROOMS + 2 * heads) * room * item
    lines = beside + heads * room * item
    # What a normaliser needs of room behind a row is taken from those of the heads that come later, and from its end.
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
            own, listed = query + (n * query_len + i) * width * item, keys + first * 4
            compare(score, own, weight, listed, count, base, size, width, beside, heads, width, bend)
            if leak != 1:
                leak_row(beside, count * heads, leak)
            for e in range(count):
                for h in range(heads):
                    put(lines, (heads - 1 - h) * room + e, get(beside, e * heads + h, zero), zero)
            kept = weights + (n * edges + first) * heads * item
            # From the end: a normaliser writes behind the row that it is given.
            for h in range(heads):
                line = lines + (heads - 1 - h) * room * item
                weigh(normalizer, parameter, line, count, room, item, zero)
                for e in range(count):
                    put(kept, e * heads + h, get(line, e, zero), zero)
            used = kept
            if dropout > 0:
                used, place = beside, n * heads * query_len + i
                drop(kept, INT, listed, count, used, heads, seed, place, query_len, INT - 1, dropout, zero)
            out = output + (n * query_len + i) * value_width * item
            heads_sum(INT, used, INT, listed, count, values, value_size, value_width, out, value_width, zero)


@njit(error_model="numpy")
def through_row(normalizer, parameter, weights, slopes, count, heads, h, row, above, local, item, zero):  # type: ignore[no-untyped-def]
    """The gradient of one head's scores from that of its weights, in place; edges have their heads side by side."""
    found = INT
    every = normalizer == SOFTMAX or normalizer == SIGMOID
    for e in range(count):
        weight = get(weights, e * heads + h, zero)
        put(row, found, weight, zero)
        put(above, found, get(slopes, e * heads + h, zero), zero)
        put(local, found, e, INT32)
        found += np.int64(every or not weight == 0)
    if found:
        through_normalizer(normalizer, parameter, row, above, found, like(2 - parameter, zero), zero)
    if every:
        for e in range(count):
            put(slopes, e * heads + h, get(above, e, zero), zero)
    else:
        for e in range(count):
            put(slopes, e * heads + h, 0.0, zero)
        for e in range(found):
            put(slopes, np.int64(get(local, e, INT32)) * heads + h, get(above, e, zero), zero)


@njit(error_model="numpy", fastmath=FAST)
def query_tasks(arguments, zero):  # type: ignore[no-untyped-def]
    thread = fetch_add(arguments)
    tasks = get(arguments, 2, INT)
    a = arguments + 24
    query, key, value, weight = get(a, 0, INT), get(a, 1, INT), get(a, 2, INT), get(a, 3, INT)
    starts, keys, grad_output, grad_weights = get(a, 4, INT), get(a, 5, INT), get(a, 6, INT), get(a, 7, INT)
    weights, slopes, grad_query, grad_weight = get(a, 8, INT), get(a, 9, INT), get(a, 10, INT), get(a, 11, INT)
    scratch, room, numbers = get(a, 12, INT), get(a, 13, INT), get(a, 14, INT)
    heads, query_len, key_len, edges = get(a, 15, INT), get(a, 16, INT), get(a, 17, INT), get(a, 18, INT)
    size, value_size, score, normalizer = get(a, 19, INT), get(a, 20, INT), get(a, 21, INT), get(a, 22, INT)
    rows, item, seed = get(a, 23, INT), get(a, 24, INT), get(a, 25, INT)
    parameter, dropout = get(numbers, 0, 0.0), get(numbers, 1, 0.0)
    leak, bend = like(get(numbers, 2, 0.0), zero), like(get(numbers, 3, 0.0), zero)

    width, value_width = heads * size, heads * value_size
    beside = scratch + thread * ((3 + heads) * room + 2 * width) * item
    row = beside + heads * room * item
    above, local, sums = row + room * item, row + 2 * room * item, row + 3 * room * item
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
            own, listed = query + (n * query_len + i) * width * item, keys + first * 4
            kept, here = weights + (n * edges + first) * heads * item, slopes + (n * edges + first) * heads * item
            source = grad_output + (n * query_len + i) * value_width * item
            compare(PRODUCT, source, INT, listed, count, values, value_size, value_width, beside, heads, value_width, zero)
            if dropout > 0:
                place = n * heads * query_len + i
                drop(beside, INT, listed, count, beside, heads, seed, place, query_len, INT - 1, dropout, zero)
            if grad_weights:
                more = grad_weights + (n * edges + first) * heads * item
                for e in range(count * heads):
                    put(beside, e, get(beside, e, zero) + get(more, e, zero), zero)
            for h in range(heads):
                through_row(normalizer, parameter, kept, beside, count, heads, h, row, above, local, item, zero)
            for e in range(count * heads):
                put(here, e, get(beside, e, zero), zero)
            if leak != 1:
                compare(score, own, weight, listed, count, base, size, width, beside, heads, width, bend)
                leak_slopes(here, beside, count * heads, leak)
            out = grad_query + (n * query_len + i) * width * item
            if score == PRODUCT or score == DISTANCE:
                heads_sum(INT, here, INT, listed, count, base, size, width, out, width, zero)
                if score == DISTANCE:
                    away_from(here, INT, count, own, out, heads, size, zero)
            else:
                if score == ADDITIVE:
                    heads_additive_sums(own, here, INT, listed, count, base, size, width, sums, width, bend)
                else:
                    heads_bent_sums(own, here, INT, listed, count, base, size, width, sums, width, bend)
                part = grad_weight + task * width * item
                for d in range(width):
                    put(out, d, get(weight, d, zero) * get(sums, d, zero), zero)
                    put(part, d, get(part, d, zero) + get(sums, width + d, zero), zero)


@njit(error_model="numpy", fastmath=FAST)
def away_from(slopes, numbers, count, row, out, heads, size, zero):  # type: ignore[no-untyped-def]
    """out = 2 (out - row sum slopes): the gradient of minus a squared distance, from the sum of the others."""
    for h in range(heads):
        total = zero
        for e in range(count):
            number = np.int64(get(numbers, e, INT32)) if numbers else e
            total = like(total + get(slopes, number * heads + h, zero), zero)
        for d in range(h * size, (h + 1) * size):
            put(out, d, 2 * (get(out, d, zero) - total * get(row, d, zero)), zero)


@njit(error_model="numpy", fastmath=FAST)
def key_tasks(arguments, zero):  # type: ignore[no-untyped-def]
    thread = fetch_add(arguments)
    tasks = get(arguments, 2, INT)
    a = arguments + 24
    query, key, weight, turns = get(a, 0, INT), get(a, 1, INT), get(a, 2, INT), get(a, 3, INT)
    queries, order, grad_output = get(a, 4, INT), get(a, 5, INT), get(a, 6, INT)
    weights, slopes, grad_key, grad_value = get(a, 7, INT), get(a, 8, INT), get(a, 9, INT), get(a, 10, INT)
    scratch, room, numbers = get(a, 11, INT), get(a, 12, INT), get(a, 13, INT)
    heads, query_len, key_len, edges = get(a, 14, INT), get(a, 15, INT), get(a, 16, INT), get(a, 17, INT)
    size, value_size, score, normalizer = get(a, 18, INT), get(a, 19, INT), get(a, 20, INT), get(a, 21, INT)
    rows, item, seed = get(a, 22, INT), get(a, 23, INT), get(a, 24, INT)
    dropout, bend = get(numbers, 1, 0.0), like(get(numbers, 3, 0.0), zero)

    width, value_width = heads * size, heads * value_size
    beside = scratch + thread * (heads * room + 2 * width) * item
    sums = beside + heads * room * item
    blocks = -(-key_len // rows)

    while True:
        task = fetch_add(arguments + 8)
        if task >= tasks:
            break
        n, number = task // blocks, task % blocks
        base, above = query + n * query_len * width * item, grad_output + n * query_len * value_width * item
        kept, here = weights + n * edges * heads * item, slopes + n * edges * heads * item
        for j in range(number * rows, min((number + 1) * rows, key_len)):
            first = get(turns, j, INT)
            count = get(turns, j + 1, INT) - first
            sources, listed = queries + first * 4, order + first * 4
            out = grad_value + (n * key_len + j) * value_width * item
            if dropout > 0:
                drop(kept, listed, sources, count, beside, heads, seed, n * heads * query_len, query_len, j, dropout, zero)
                heads_sum(INT, beside, INT, sources, count, above, value_size, value_width, out, value_width, zero)
            else:
                heads_sum(INT, kept, listed, sources, count, above, value_size, value_width, out, value_width, zero)
            own = key + (n * key_len + j) * width * item
            out = grad_key + (n * key_len + j) * width * item
            if normalizer == HARDMAX:
                # No gradient but that of what is no number.
                heads_sum(INT, here, listed, sources, count, base, size, width, out, width, zero)
            elif score == PRODUCT or score == DISTANCE:
                heads_sum(INT, here, listed, sources, count, base, size, width, out, width, zero)
                if score == DISTANCE:
                    away_from(here, listed, count, own, out, heads, size, zero)
            else:
                if score == ADDITIVE:
                    heads_additive_sums(own, here, listed, sources, count, base, size, width, sums, width, bend)
                else:
                    heads_bent_sums(own, here, listed, sources, count, base, size, width, sums, width, bend)
                for d in range(width):
                    put(out, d, get(weight, d, zero) * get(sums, d, zero), zero)


@cache
def forward(item: int) -> Any:
    """The kernel for numbers of `item` bytes."""
    zero, stamp = (np.float32(0) if item == 4 else np.float64(0)), STAMP

    @cfunc(types.void(types.intp), cache=True)
    def small_edge_attention(arguments):  # type: ignore[no-untyped-def]
        if stamp:
            forward_tasks(arguments, zero)

    return small_edge_attention


@cache
def backward_queries(item: int) -> Any:
    """The kernel of the queries' gradients, for numbers of `item` bytes."""
    zero, stamp = (np.float32(0) if item == 4 else np.float64(0)), STAMP

    @cfunc(types.void(types.intp), cache=True)
    def small_edge_attention_queries(arguments):  # type: ignore[no-untyped-def]
        if stamp:
            query_tasks(arguments, zero)

    return small_edge_attention_queries


@cache
def backward_keys(item: int) -> Any:
    """The kernel of the keys' and values' gradients, for numbers of `item` bytes."""
    zero, stamp = (np.float32(0) if item == 4 else np.float64(0)), STAMP

    @cfunc(types.void(types.intp), cache=True)
    def small_edge_attention_keys(arguments):  # type: ignore[no-untyped-def]
        if stamp:
            key_tasks(arguments, zero)

    return small_edge_attention_keys
