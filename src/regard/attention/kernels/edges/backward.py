"""Attention along edges on the CPU, backward.

First along the lists by query: the gradients of weights, of scores, of queries. Then along lists by key, for those of
keys and values: so no two threads write to one place, and the order of every sum is fixed.
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
    SIGMOID,
    SOFTMAX,
    TOP,
    compare,
    support,
)
from regard.attention.kernels.edges.lists import additive_sums, bent_sums, listed_product
from regard.attention.kernels.edges.rows import (
    shape_slopes,
    through_itself,
    through_one,
    through_power,
    through_root,
)
from regard.attention.kernels.forward import kept_share
from regard.attention.kernels.source import STAMP, compiled
from regard.attention.kernels.supports import sum_rows
from regard.attention.kernels.tile import FAST, INT, INT32
from regard.attention.kernels.vectors import add_scaled, fetch_add, get, like, put

__all__ = ["away_from", "backward_keys", "backward_queries"]


@njit(error_model="numpy")
def through_normalizer(normalizer, parameter, weights, slopes, count, power, zero):  # type: ignore[no-untyped-def]
    """The gradient of the scores of a support from that of its weights, in its place: by `_through` of `rows`, for
    softmax over the temperature, and w (1 - w) for a sigmoid."""
    if normalizer == ENTMAX:
        if parameter == 2:
            through_one(weights, slopes, count, power)
        elif parameter == 1.5:
            through_root(weights, slopes, count, power)
        else:
            through_power(weights, slopes, count, power)
    elif normalizer in (SOFTMAX, TOP):
        through_itself(weights, slopes, count, power)
        if normalizer == SOFTMAX and parameter != 1:
            for e in range(count):
                put(slopes, e, get(slopes, e, zero) / parameter, zero)
    elif normalizer == SIGMOID:
        for e in range(count):
            weight = get(weights, e, zero)
            put(slopes, e, get(slopes, e, zero) * weight * (1 - weight), zero)
    else:
        for e in range(count):
            put(slopes, e, get(weights, e, zero) - 1, zero)  # zero, or no number


@njit(error_model="numpy", fastmath=FAST)
def query_tasks(arguments, zero):  # type: ignore[no-untyped-def]
    thread = fetch_add(arguments)
    tasks = get(arguments, 2, INT)
    a = arguments + 24
    query, key, value, weight = get(a, 0, INT), get(a, 1, INT), get(a, 2, INT), get(a, 3, INT)
    starts, keys, grad_output, grad_weights = get(a, 4, INT), get(a, 5, INT), get(a, 6, INT), get(a, 7, INT)
    weights, slopes, grad_query = get(a, 8, INT), get(a, 9, INT), get(a, 10, INT)
    grad_weight, grad_bias = get(a, 11, INT), get(a, 12, INT)
    scratch, room, numbers = get(a, 13, INT), get(a, 14, INT), get(a, 15, INT)
    heads, group, query_len, edges = get(a, 16, INT), get(a, 17, INT), get(a, 18, INT), get(a, 19, INT)
    size, value_size, score, normalizer = get(a, 20, INT), get(a, 21, INT), get(a, 22, INT), get(a, 23, INT)
    rows, together, item, seed = get(a, 24, INT), get(a, 25, INT), get(a, 26, INT), get(a, 27, INT)
    weight_h, whole = get(a, 28, INT), get(a, 29, INT)
    query_n, query_h, query_i = get(a, 30, INT), get(a, 31, INT), get(a, 32, INT)
    key_n, key_h, key_i = get(a, 33, INT), get(a, 34, INT), get(a, 35, INT)
    value_n, value_h, value_i = get(a, 36, INT), get(a, 37, INT), get(a, 38, INT)
    above_n, above_h, above_i = get(a, 39, INT), get(a, 40, INT), get(a, 41, INT)
    grad_n, grad_h, grad_i = get(a, 42, INT), get(a, 43, INT), get(a, 44, INT)
    parameter, dropout = get(numbers, 0, 0.0), get(numbers, 1, 0.0)
    leak, bend = like(get(numbers, 2, 0.0), zero), like(get(numbers, 3, 0.0), zero)
    factor = like(get(numbers, 4, 0.0), zero)

    here = scratch + thread * (5 * room + 2 * size) * item
    values, raw = here + room * item, here + 2 * room * item
    local, places = here + 3 * room * item, here + 4 * room * item
    sums = here + 5 * room * item
    power = like(2 - parameter, zero)
    blocks = -(-query_len // rows)

    while True:
        task = fetch_add(arguments + 8)
        if task >= tasks:
            break
        number, first_head = task % blocks, task // blocks * together
        n = first_head // heads
        for i in range(number * rows, min((number + 1) * rows, query_len)):
            first = get(starts, i, INT)
            count = get(starts, i + 1, INT) - first
            listed = keys + first * 4
            for h in range(first_head % heads, first_head % heads + together):
                k = h // group
                out = grad_query + (n * grad_n + h * grad_h + i * grad_i) * item
                line = ((n * heads + h) * edges + first) * item
                shares, found, named = weights + line, count, listed
                if not whole:
                    shares, named = values, places
                    found = support(weights + line, count, listed, values, local, places, zero)
                if found == 0:
                    for d in range(size):
                        put(out, d, 0.0, zero)
                    for e in range(count):
                        put(slopes + line, e, 0.0, zero)
                    if grad_bias:
                        for e in range(count):
                            put(grad_bias + line, e, 0.0, zero)
                    continue
                above = grad_output + (n * above_n + h * above_h + i * above_i) * item
                base = value + (n * value_n + k * value_h) * item
                listed_product(above, weight, named, found, base, value_size, value_i, here, zero)
                if dropout > 0:
                    for e in range(found):
                        share = kept_share(
                            seed, (n * heads + h) * query_len + i, get(named, e, INT32), dropout
                        )
                        put(here, e, get(here, e, zero) * share, zero)
                if grad_weights:
                    for e in range(found):
                        more = get(grad_weights + line, e if whole else np.int64(get(local, e, INT32)), zero)
                        put(here, e, get(here, e, zero) + more, zero)
                through_normalizer(normalizer, parameter, shares, here, found, power, zero)
                if grad_bias:
                    for e in range(count):
                        put(grad_bias + line, e, 0.0, zero)
                    for e in range(found):
                        place = e if whole else np.int64(get(local, e, INT32))
                        put(grad_bias + line, place, get(here, e, zero), zero)
                own = query + (n * query_n + h * query_h + i * query_i) * item
                base = key + (n * key_n + k * key_h) * item
                net = weight + h * weight_h * item
                if leak != 1:
                    compare(score, own, net, named, found, base, size, key_i, raw, bend)
                    shape_slopes(here, raw, found, factor, leak)
                elif factor != 1:
                    shape_slopes(here, here, found, factor, leak)
                if whole:
                    for e in range(found):
                        put(slopes + line, e, get(here, e, zero), zero)
                else:
                    for e in range(count):
                        put(slopes + line, e, 0.0, zero)
                    for e in range(found):
                        put(slopes + line, np.int64(get(local, e, INT32)), get(here, e, zero), zero)
                if score in (PRODUCT, DISTANCE):
                    sum_rows(here, named, found, base, size, out, key_i, zero)
                    if score == DISTANCE:
                        away_from(here, INT, found, own, out, 1, 1, size, zero)
                else:
                    if score == ADDITIVE:
                        additive_sums(own, here, named, found, base, size, key_i, sums, bend)
                    else:
                        bent_sums(own, here, named, found, base, size, key_i, sums, bend)
                    part = grad_weight + ((n * heads + h) * blocks + number) * size * item
                    for d in range(size):
                        put(out, d, get(net, d, zero) * get(sums, d, zero), zero)
                        put(part, d, get(part, d, zero) + get(sums, size + d, zero), zero)


@njit(error_model="numpy", fastmath=FAST)
def away_from(slopes, numbers, count, row, out, heads, apart, size, zero):  # type: ignore[no-untyped-def]
    """out = 2 (out - row sum slopes): the gradient of minus a squared distance, from the sum of the others.

    Of every head in a row of heads; the slopes of edges are `apart` from each other, and `numbers`, if there are any,
    say which edges they are.
    """
    for h in range(heads):
        total = zero
        for e in range(count):
            number = np.int64(get(numbers, e, INT32)) if numbers else e
            total = like(total + get(slopes, number * apart + h, zero), zero)
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
    heads, group, query_len, edges = get(a, 14, INT), get(a, 15, INT), get(a, 16, INT), get(a, 17, INT)
    size, value_size, score, key_len = get(a, 18, INT), get(a, 19, INT), get(a, 20, INT), get(a, 21, INT)
    rows, together, item, seed = get(a, 22, INT), get(a, 23, INT), get(a, 24, INT), get(a, 25, INT)
    weight_h = get(a, 26, INT)
    query_n, query_h, query_i = get(a, 27, INT), get(a, 28, INT), get(a, 29, INT)
    key_n, key_h, key_i = get(a, 30, INT), get(a, 31, INT), get(a, 32, INT)
    above_n, above_h, above_i = get(a, 33, INT), get(a, 34, INT), get(a, 35, INT)
    grad_n, grad_h, grad_i = get(a, 36, INT), get(a, 37, INT), get(a, 38, INT)
    value_n, value_h, value_i = get(a, 39, INT), get(a, 40, INT), get(a, 41, INT)
    whole = get(a, 42, INT)
    dropout, bend = get(numbers, 1, 0.0), like(get(numbers, 3, 0.0), zero)

    shares = scratch + thread * (3 * room + 2 * size + value_size) * item
    here, places = shares + room * item, shares + 2 * room * item
    sums = shares + 3 * room * item
    key_heads = heads // group
    blocks = -(-key_len // rows)
    one = like(1.0, zero)

    while True:
        task = fetch_add(arguments + 8)
        if task >= tasks:
            break
        number, first_head = task % blocks, task // blocks * together
        n = first_head // key_heads
        for j in range(number * rows, min((number + 1) * rows, key_len)):
            first = get(turns, j, INT)
            count = get(turns, j + 1, INT) - first
            sources, listed = queries + first * 4, order + first * 4
            for k in range(first_head % key_heads, first_head % key_heads + together):
                to_key = grad_key + (n * grad_n + k * grad_h + j * grad_i) * item
                to_value = grad_value + (n * value_n + k * value_h + j * value_i) * item
                own = key + (n * key_n + k * key_h + j * key_i) * item
                for h in range(k * group, (k + 1) * group):
                    line = (n * heads + h) * edges * item
                    found, named = INT, sources
                    if whole:
                        found = count
                        for e in range(count):
                            place = np.int64(get(listed, e, INT32))
                            put(shares, e, get(weights + line, place, zero), zero)
                            put(here, e, get(slopes + line, place, zero), zero)
                    else:
                        named = places
                        for e in range(count):
                            place = np.int64(get(listed, e, INT32))
                            share = get(weights + line, place, zero)
                            put(shares, found, share, zero)
                            put(here, found, get(slopes + line, place, zero), zero)
                            put(places, found, get(sources, e, INT32), INT32)
                            found += np.int64(share != 0)
                    if dropout > 0:
                        for e in range(found):
                            row = (n * heads + h) * query_len + np.int64(get(named, e, INT32))
                            share = kept_share(seed, row, j, dropout)
                            put(shares, e, get(shares, e, zero) * share, zero)
                    above = grad_output + (n * above_n + h * above_h) * item
                    base = query + (n * query_n + h * query_h) * item
                    # The first head of a group writes, the others add.
                    again = h > k * group
                    out = sums + 2 * size * item if again else to_value
                    sum_rows(shares, named, found, above, value_size, out, above_i, zero)
                    if again:
                        add_scaled(out, value_size, one, to_value)
                    if score in (PRODUCT, DISTANCE):
                        out = sums if again else to_key
                        sum_rows(here, named, found, base, size, out, query_i, zero)
                        if score == DISTANCE:
                            away_from(here, INT, found, own, out, 1, 1, size, zero)
                        if again:
                            add_scaled(out, size, one, to_key)
                        continue
                    if score == ADDITIVE:
                        additive_sums(own, here, named, found, base, size, query_i, sums, bend)
                    else:
                        bent_sums(own, here, named, found, base, size, query_i, sums, bend)
                    net = weight + h * weight_h * item
                    for d in range(size):
                        part = get(net, d, zero) * get(sums, d, zero)
                        put(to_key, d, get(to_key, d, zero) + part if again else part, zero)


@cache
def backward_queries(item: int) -> Any:
    """The kernel of the queries' gradients, for numbers of `item` bytes."""
    zero, stamp = (np.float32(0) if item == 4 else np.float64(0)), STAMP

    @compiled
    def edge_attention_queries(arguments):  # type: ignore[no-untyped-def]
        if stamp:
            query_tasks(arguments, zero)

    return edge_attention_queries


@cache
def backward_keys(item: int) -> Any:
    """The kernel of the keys' and values' gradients, for numbers of `item` bytes."""
    zero, stamp = (np.float32(0) if item == 4 else np.float64(0)), STAMP

    @compiled
    def edge_attention_keys(arguments):  # type: ignore[no-untyped-def]
        if stamp:
            key_tasks(arguments, zero)

    return edge_attention_keys
