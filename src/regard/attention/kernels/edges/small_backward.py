"""Attention along edges on the CPU with small heads, backward: the steps of `backward` for all heads at once."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import njit

from regard.attention.kernels.edges.backward import away_from
from regard.attention.kernels.edges.forward import (
    ADDITIVE,
    DISTANCE,
    ENTMAX,
    HARDMAX,
    PRODUCT,
    SIGMOID,
    SOFTMAX,
)
from regard.attention.kernels.edges.heads import heads_additive_sums, heads_bent_sums, heads_sum
from regard.attention.kernels.edges.rows import shape_slopes
from regard.attention.kernels.edges.small import compare, drop
from regard.attention.kernels.edges.tables import (
    heads_compact,
    heads_through_itself,
    heads_through_one,
    heads_through_power,
    heads_through_root,
)
from regard.attention.kernels.emit import WIDTH
from regard.attention.kernels.source import STAMP, compiled
from regard.attention.kernels.tile import FAST, INT, INT32
from regard.attention.kernels.vectors import fetch_add, get, like, put

__all__ = ["backward_keys", "backward_queries"]


@njit(error_model="numpy")
def through_normalizer(normalizer, parameter, weights, slopes, count, heads, apart, zero):  # type: ignore[no-untyped-def]
    """The gradient of scores from that of weights, in its place, as in `backward`."""
    power, one = like(2 - parameter, zero), like(1.0, zero)
    if normalizer == ENTMAX:
        if parameter == 2:
            heads_through_one(weights, slopes, count, heads, apart, power, one)
        elif parameter == 1.5:
            heads_through_root(weights, slopes, count, heads, apart, power, one)
        else:
            heads_through_power(weights, slopes, count, heads, apart, power, one)
    elif normalizer == SIGMOID:
        for e in range(count):
            for h in range(heads):
                weight = get(weights, e * heads + h, zero)
                put(slopes, e * apart + h, get(slopes, e * apart + h, zero) * weight * (1 - weight), zero)
    elif normalizer == HARDMAX:
        for e in range(count):
            for h in range(heads):
                put(slopes, e * apart + h, 0 * get(weights, e * heads + h, zero), zero)
    else:
        scale = like(1 / parameter if normalizer == SOFTMAX else 1.0, zero)
        heads_through_itself(weights, slopes, count, heads, apart, power, scale)


@njit(error_model="numpy", fastmath=FAST)
def query_tasks(arguments, zero):  # type: ignore[no-untyped-def]
    thread = fetch_add(arguments)
    tasks = get(arguments, 2, INT)
    a = arguments + 24
    query, key, value, weight = get(a, 0, INT), get(a, 1, INT), get(a, 2, INT), get(a, 3, INT)
    starts, keys, grad_output, grad_weights = get(a, 4, INT), get(a, 5, INT), get(a, 6, INT), get(a, 7, INT)
    weights, slopes = get(a, 8, INT), get(a, 9, INT)
    grad_query, grad_weight = get(a, 10, INT), get(a, 11, INT)
    scratch, room, numbers = get(a, 12, INT), get(a, 13, INT), get(a, 14, INT)
    heads, query_len, key_len, edges = get(a, 15, INT), get(a, 16, INT), get(a, 17, INT), get(a, 18, INT)
    size, value_size, score, normalizer = get(a, 19, INT), get(a, 20, INT), get(a, 21, INT), get(a, 22, INT)
    rows, item, seed = get(a, 23, INT), get(a, 24, INT), get(a, 25, INT)
    parameter, dropout = get(numbers, 0, 0.0), get(numbers, 1, 0.0)
    leak, bend = like(get(numbers, 2, 0.0), zero), like(get(numbers, 3, 0.0), zero)
    factor = like(get(numbers, 4, 0.0), zero)

    width, value_width = heads * size, heads * value_size
    lanes = WIDTH // item
    apart = -(-heads // lanes) * lanes
    table = scratch + thread * (2 * apart * room + 2 * width) * item
    raw, sums = table + apart * room * item, table + 2 * apart * room * item
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
            line = (n * edges + first) * heads * item
            kept, here = weights + line, slopes + line
            source = grad_output + (n * query_len + i) * value_width * item
            compare(
                PRODUCT, source, INT, listed, count, values, value_size, value_width, table, apart, value_width, zero
            )  # fmt: skip
            if dropout > 0:
                place = n * heads * query_len + i
                drop(table, listed, count, heads, apart, seed, place, query_len, INT - 1, dropout, zero)
            if grad_weights:
                more = grad_weights + line
                for e in range(count):
                    for h in range(heads):
                        place = e * apart + h
                        put(table, place, get(table, place, zero) + get(more, e * heads + h, zero), zero)
            through_normalizer(normalizer, parameter, kept, table, count, heads, apart, zero)
            if leak != 1:
                compare(score, own, weight, listed, count, base, size, width, raw, apart, width, bend)
                shape_slopes(table, raw, count * apart, factor, leak)
            elif factor != 1:
                shape_slopes(table, table, count * apart, factor, leak)
            heads_compact(table, count, heads, apart, here, zero)
            out = grad_query + (n * query_len + i) * width * item
            if score in (PRODUCT, DISTANCE):
                heads_sum(INT, table, INT, listed, count, base, size, width, out, width, apart, zero)
                if score == DISTANCE:
                    away_from(table, INT, count, own, out, heads, apart, size, zero)
            else:
                if score == ADDITIVE:
                    heads_additive_sums(
                        own, table, INT, listed, count, base, size, width, sums, width, apart, bend
                    )
                else:
                    heads_bent_sums(
                        own, table, INT, listed, count, base, size, width, sums, width, apart, bend
                    )
                part = grad_weight + task * width * item
                for d in range(width):
                    put(out, d, get(weight, d, zero) * get(sums, d, zero), zero)
                    put(part, d, get(part, d, zero) + get(sums, width + d, zero), zero)


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
    size, value_size, score, rows = get(a, 18, INT), get(a, 19, INT), get(a, 20, INT), get(a, 21, INT)
    item, seed = get(a, 22, INT), get(a, 23, INT)
    dropout, bend = get(numbers, 1, 0.0), like(get(numbers, 3, 0.0), zero)

    width, value_width = heads * size, heads * value_size
    lanes = WIDTH // item
    apart = -(-heads // lanes) * lanes
    table = scratch + thread * (apart * room + 2 * width) * item
    sums = table + apart * room * item
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
            shares, numbered, stride = kept, listed, heads
            if dropout > 0:
                for e in range(count):
                    line = np.int64(get(listed, e, INT32)) * heads
                    for h in range(heads):
                        put(table, e * apart + h, get(kept, line + h, zero), zero)
                place = n * heads * query_len
                drop(table, sources, count, heads, apart, seed, place, query_len, j, dropout, zero)
                shares, numbered, stride = table, INT, apart
            heads_sum(
                INT, shares, numbered, sources, count, above, value_size, value_width, out, value_width, stride, zero
            )  # fmt: skip
            own = key + (n * key_len + j) * width * item
            out = grad_key + (n * key_len + j) * width * item
            if score in (PRODUCT, DISTANCE):
                heads_sum(INT, here, listed, sources, count, base, size, width, out, width, heads, zero)
                if score == DISTANCE:
                    away_from(here, listed, count, own, out, heads, heads, size, zero)
            else:
                if score == ADDITIVE:
                    heads_additive_sums(
                        own, here, listed, sources, count, base, size, width, sums, width, heads, bend
                    )
                else:
                    heads_bent_sums(
                        own, here, listed, sources, count, base, size, width, sums, width, heads, bend
                    )
                for d in range(width):
                    put(out, d, get(weight, d, zero) * get(sums, d, zero), zero)


@cache
def backward_queries(item: int) -> Any:
    """The kernel of the queries' gradients, for numbers of `item` bytes."""
    zero, stamp = (np.float32(0) if item == 4 else np.float64(0)), STAMP

    @compiled
    def small_edge_attention_queries(arguments):  # type: ignore[no-untyped-def]
        if stamp:
            query_tasks(arguments, zero)

    return small_edge_attention_queries


@cache
def backward_keys(item: int) -> Any:
    """The kernel of the keys' and values' gradients, for numbers of `item` bytes."""
    zero, stamp = (np.float32(0) if item == 4 else np.float64(0)), STAMP

    @compiled
    def small_edge_attention_keys(arguments):  # type: ignore[no-untyped-def]
        if stamp:
            key_tasks(arguments, zero)

    return small_edge_attention_keys
