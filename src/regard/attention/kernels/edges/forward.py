"""Attention along edges on the CPU, forward: every query against the keys of its own edges.

The edges are listed by query. For each query and head: the scores of its list, the normaliser on that short row, the
sum of the values. The weights along the edges are kept.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import njit

from regard.attention.kernels.edges.lists import listed_additive, listed_bent, listed_distance, listed_product
from regard.attention.kernels.edges.ranks import best_of_row, entmax15_row, sparsemax_row
from regard.attention.kernels.edges.rows import divide_row, highest, shape_row, sigmoid_row, softmax_row
from regard.attention.kernels.emit import WIDTH
from regard.attention.kernels.forward import entmax, kept_share, top
from regard.attention.kernels.rows import at_least, best
from regard.attention.kernels.source import STAMP, compiled
from regard.attention.kernels.supports import sum_rows
from regard.attention.kernels.tile import FAST, INT, INT32
from regard.attention.kernels.vectors import fetch_add, get, like, put

__all__ = [
    "ADDITIVE",
    "BENT",
    "DISTANCE",
    "ENTMAX",
    "HARDMAX",
    "PRODUCT",
    "ROOMS",
    "SIGMOID",
    "SOFTMAX",
    "TOP",
    "compare",
    "forward",
    "support",
    "weigh",
]

PRODUCT, DISTANCE, ADDITIVE, BENT = range(4)
"""The scores; BENT is the additive one with a leaky ReLU."""
ENTMAX, TOP, HARDMAX, SOFTMAX, SIGMOID = range(5)
"""The normalisers; the parameter of SOFTMAX is its temperature, that of SIGMOID what is added to scores."""

BOOL = np.bool_(False)
ROOMS = 6
"""How many rows' room `weigh` needs: scores, and what normalisers make of them."""


@njit(error_model="numpy")
def compare(score, row, weight, places, count, rows, size, stride, out, bend):  # type: ignore[no-untyped-def]
    """The scores of a row against those of a list."""
    if score == PRODUCT:
        listed_product(row, weight, places, count, rows, size, stride, out, bend)
    elif score == DISTANCE:
        listed_distance(row, weight, places, count, rows, size, stride, out, bend)
    elif score == ADDITIVE:
        listed_additive(row, weight, places, count, rows, size, stride, out, bend)
    else:
        listed_bent(row, weight, places, count, rows, size, stride, out, bend)


@njit(error_model="numpy")
def support(row, count, keys, values, local, places, zero):  # type: ignore[no-untyped-def]
    """The weights of a row that are not zero, where they stand in it, and their keys; how many they are."""
    found = INT
    for k in range(count):
        weight = get(row, k, zero)
        put(values, found, weight, zero)
        put(local, found, k, INT32)
        put(places, found, get(keys, k, INT32), INT32)
        found += np.int64(weight != 0)
    return found


@njit(error_model="numpy", fastmath=FAST)
def weigh(normalizer, parameter, row, count, room, item, zero):  # type: ignore[no-untyped-def]
    """The weights of a row of scores, in their place; it is the first of `ROOMS` rows' room.

    Returns how many are not zero, where the first row behind has these and the second their places; -1 where that is
    not known.
    """
    more, local, values, places = (
        row + room * item,
        row + 2 * room * item,
        row + 4 * room * item,
        row + 5 * room * item,
    )
    largest = like(-np.inf, zero)
    if count:
        largest = best(row, count, values, zero) if normalizer == TOP else highest(row, count, zero)
    if largest == -np.inf:
        for e in range(count):
            put(row, e, 0.0, zero)
        return INT
    if normalizer == SIGMOID:
        sigmoid_row(row, count, like(parameter, zero))
        return INT - 1
    if not largest < np.inf:
        # Whatever is no number, or infinite, makes the whole row so.
        for e in range(count):
            put(row, e, np.nan, zero)
        return INT - 1
    fits = count <= WIDTH // item
    if normalizer == ENTMAX and fits and parameter == 2:
        sparsemax_row(row, count, largest)
        return INT - 1
    if normalizer == ENTMAX and fits and parameter == 1.5:
        entmax15_row(row, count, largest)
        return INT - 1
    if normalizer == SOFTMAX or (normalizer == TOP and fits):
        if normalizer == TOP and parameter < count:
            best_of_row(row, count, like(parameter, zero))
        total = softmax_row(row, count, largest, like(1 / parameter if normalizer == SOFTMAX else 1.0, zero))
        divide_row(row, count, total)
        return INT - 1
    if normalizer == ENTMAX:
        power = like(1 / (parameter - 1), zero)
        found = at_least(row, count, largest - power, values, places)
        for e in range(found):
            put(values, e, (get(values, e, zero) - largest) / power, zero)
        found = entmax(values, places, found, power, more, local, zero)
    elif normalizer == TOP:
        most = min(np.int64(parameter), count)
        found = top(row, count, most, largest, values, more, local, places, item, zero)
    else:
        at_least(row, count, largest, more, local)
        found = INT + 1
        put(more, 0, 1.0, zero)
    for e in range(count):
        put(row, e, 0.0, zero)
    for e in range(found):
        put(row, get(local, e, INT32), get(more, e, zero), zero)
    return found


@njit(error_model="numpy", fastmath=FAST)
def forward_tasks(arguments, zero):  # type: ignore[no-untyped-def]
    thread = fetch_add(arguments)
    tasks = get(arguments, 2, INT)
    a = arguments + 24
    query, key, value, weight = get(a, 0, INT), get(a, 1, INT), get(a, 2, INT), get(a, 3, INT)
    starts, keys, mask, bias = get(a, 4, INT), get(a, 5, INT), get(a, 6, INT), get(a, 7, INT)
    output, weights = get(a, 8, INT), get(a, 9, INT)
    scratch, room, numbers = get(a, 10, INT), get(a, 11, INT), get(a, 12, INT)
    heads, group, query_len, edges = get(a, 13, INT), get(a, 14, INT), get(a, 15, INT), get(a, 16, INT)
    size, value_size, score, normalizer = get(a, 17, INT), get(a, 18, INT), get(a, 19, INT), get(a, 20, INT)
    rows, together, item, seed = get(a, 21, INT), get(a, 22, INT), get(a, 23, INT), get(a, 24, INT)
    weight_h = get(a, 25, INT)
    query_n, query_h, query_i = get(a, 26, INT), get(a, 27, INT), get(a, 28, INT)
    key_n, key_h, key_i = get(a, 29, INT), get(a, 30, INT), get(a, 31, INT)
    value_n, value_h, value_i = get(a, 32, INT), get(a, 33, INT), get(a, 34, INT)
    output_n, output_h, output_i = get(a, 35, INT), get(a, 36, INT), get(a, 37, INT)
    mask_n, mask_h, mask_e = get(a, 38, INT), get(a, 39, INT), get(a, 40, INT)
    bias_n, bias_h, bias_e = get(a, 41, INT), get(a, 42, INT), get(a, 43, INT)
    parameter, dropout = get(numbers, 0, 0.0), get(numbers, 1, 0.0)
    leak, bend = like(get(numbers, 2, 0.0), zero), like(get(numbers, 3, 0.0), zero)
    factor = like(get(numbers, 4, 0.0), zero)

    row = scratch + thread * ROOMS * room * item
    more, local, places = row + room * item, row + 2 * room * item, row + 3 * room * item
    whole = not mask and not bias and normalizer in (SOFTMAX, SIGMOID)
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
                out = output + (n * output_n + h * output_h + i * output_i) * item
                kept = weights + ((n * heads + h) * edges + first) * item
                if count:
                    own = query + (n * query_n + h * query_h + i * query_i) * item
                    base = key + (n * key_n + k * key_h) * item
                    compare(
                        score, own, weight + h * weight_h * item, listed, count, base, size, key_i, row, bend
                    )
                    if factor != 1 or leak != 1:
                        shape_row(row, count, factor, leak)
                    if bias:
                        at = n * bias_n + h * bias_h + first * bias_e
                        for e in range(count):
                            put(row, e, get(row, e, zero) + get(bias, at + e * bias_e, zero), zero)
                    if mask:
                        at = n * mask_n + h * mask_h + first * mask_e
                        for e in range(count):
                            if not get(mask, at + e * mask_e, BOOL):
                                put(row, e, -np.inf, zero)
                found = weigh(normalizer, parameter, row, count, room, item, zero)
                for e in range(count):
                    put(kept, e, get(row, e, zero), zero)
                if found == 0:
                    for d in range(value_size):
                        put(out, d, 0.0, zero)
                    continue
                used, named = row, listed
                if found > 0:
                    used, named = more, places
                    for e in range(found):
                        put(places, e, get(listed, get(local, e, INT32), INT32), INT32)
                elif whole:
                    found = count
                else:
                    # The value of a hidden key may be no number.
                    found = support(row, count, listed, more, local, places, zero)
                    used, named = more, places
                if dropout > 0:
                    for e in range(found):
                        share = kept_share(
                            seed, (n * heads + h) * query_len + i, get(named, e, INT32), dropout
                        )
                        put(used, e, get(used, e, zero) * share, zero)
                sum_rows(
                    used,
                    named,
                    found,
                    value + (n * value_n + k * value_h) * item,
                    value_size,
                    out,
                    value_i,
                    zero,
                )


@cache
def forward(item: int) -> Any:
    """The kernel for numbers of `item` bytes."""
    zero, stamp = (np.float32(0) if item == 4 else np.float64(0)), STAMP

    @compiled
    def edge_attention(arguments):  # type: ignore[no-untyped-def]
        if stamp:
            forward_tasks(arguments, zero)

    return edge_attention
