"""Attention with sparse weights on the CPU, backward: on the support alone, which the forward pass has kept.

First every query by itself: the gradient of its weights, one product with a value for each key of the support; that of
its scores; and from these its own gradient. Then every key by itself, or a range of keys where a head is to be shared
among threads: what it gets from the queries whose support it is in. So no two threads write to one place, and the order
of every sum is fixed.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import njit

from regard.attention.kernels.forward import ENTMAX, TOP, kept_share
from regard.attention.kernels.source import STAMP, compiled
from regard.attention.kernels.supports import additive_to_key, additive_to_queries, dots, sum_rows
from regard.attention.kernels.tile import DISTANCE, FAST, INT, INT32, PRODUCT
from regard.attention.kernels.vectors import add_scaled, fetch_add, get, like, put, take

__all__ = ["backward_keys", "backward_queries"]


@njit(error_model="numpy", fastmath=FAST)
def through_normalizer(normalizer, parameter, weights, slopes, count, zero):  # type: ignore[no-untyped-def]
    """The gradient of the scores of a support from that of its weights, in its place.

    Entmax: s (g - sum s g / sum s) with s = w^(2 - alpha) (Peters et al. 2019, proposition 2); softmax over the kept
    keys: w (g - sum w g).
    """
    total, mean = 0.0, 0.0
    for n in range(count):
        weight = np.float64(get(weights, n, zero))
        if normalizer == ENTMAX:
            weight = (
                weight * 0 + 1
                if parameter == 2
                else np.sqrt(weight)
                if parameter == 1.5
                else weight ** (2 - parameter)
            )
        total += weight
        mean += weight * get(slopes, n, zero)
    mean /= total
    for n in range(count):
        weight = np.float64(get(weights, n, zero))
        if normalizer == ENTMAX:
            weight = (
                weight * 0 + 1
                if parameter == 2
                else np.sqrt(weight)
                if parameter == 1.5
                else weight ** (2 - parameter)
            )
        put(slopes, n, weight * (get(slopes, n, zero) - mean), zero)


@njit(error_model="numpy", fastmath=FAST)
def query_tasks(arguments, zero):  # type: ignore[no-untyped-def]
    thread = fetch_add(arguments)
    tasks = get(arguments, 2, INT)
    (
        query, key, value, weight, grad_output, grad_weights, counts, index, kept, slopes, grad_query,
        grad_weight, grad_bias, scratch, numbers, heads, key_heads, query_len, key_len, size, value_size,
        score, normalizer, rows, share, item, weight_stride, seed, first_row, all_rows,
    ) = take(arguments + 24, 30)  # fmt: skip
    parameter, dropout, scale = get(numbers, 0, 0.0), get(numbers, 1, 0.0), get(numbers, 2, 0.0)
    blocks = -(-query_len // rows)
    sums = scratch + thread * 2 * size * item

    while True:
        task = fetch_add(arguments + 8)
        if task >= tasks:
            break
        head, number = task // blocks, task % blocks
        n, h = head // heads, head % heads
        key_head = n * key_heads + h // (heads // key_heads)
        keys, values = key + key_head * key_len * size * item, value + key_head * key_len * value_size * item
        own = weight + h * weight_stride * item
        base = (head * query_len + number * rows) * share
        for r in range(min(rows, query_len - number * rows)):
            i = number * rows + r
            row = head * query_len + i
            count = np.int64(get(counts, row, INT32))
            out = grad_query + row * size * item
            if count <= 0:
                for d in range(size):
                    put(out, d, 0.0, zero)
                continue
            places, weights, here = index + base * 4, kept + base * item, slopes + base * item
            base += count
            dots(
                grad_output + row * value_size * item,
                places,
                count,
                values,
                value_size,
                here,
                value_size,
                zero,
            )
            if dropout > 0:
                for k in range(count):
                    kept_by = kept_share(
                        seed, head * all_rows + first_row + i, get(places, k, INT32), dropout
                    )
                    put(here, k, get(here, k, zero) * kept_by, zero)
            if grad_weights:
                for k in range(count):
                    more = get(grad_weights, row * key_len + get(places, k, INT32), zero)
                    put(here, k, get(here, k, zero) + more, zero)
            if normalizer in (ENTMAX, TOP):
                through_normalizer(normalizer, parameter, weights, here, count, zero)
            else:
                for k in range(count):
                    put(here, k, 0.0, zero)
            if grad_bias:
                for k in range(count):
                    put(grad_bias, row * key_len + get(places, k, INT32), get(here, k, zero), zero)
            if scale != 1:
                for k in range(count):
                    put(here, k, get(here, k, zero) * scale, zero)
            source = query + row * size * item
            if score in (PRODUCT, DISTANCE):
                sum_rows(here, places, count, keys, size, out, size, zero)
                if score == DISTANCE:
                    total = 0.0
                    for k in range(count):
                        total += get(here, k, zero)
                    for d in range(size):
                        put(out, d, 2 * (get(out, d, zero) - total * get(source, d, zero)), zero)
            else:
                additive_to_queries(source, places, count, keys, size, here, sums, zero)
                part = grad_weight + task * size * item
                for d in range(size):
                    put(out, d, get(own, d, zero) * get(sums, d, zero), zero)
                    put(part, d, get(part, d, zero) + get(sums, size + d, zero), zero)


@njit(error_model="numpy", fastmath=FAST)
def key_tasks(arguments, zero):  # type: ignore[no-untyped-def]
    fetch_add(arguments)
    tasks = get(arguments, 2, INT)
    (
        query, key, weight, grad_output, counts, index, kept, slopes, grad_key, grad_value, numbers, heads,
        key_heads, query_len, key_len, size, value_size, score, chunks, rows, share, item, weight_stride,
        seed, first_row, all_rows,
    ) = take(arguments + 24, 26)  # fmt: skip
    dropout = get(numbers, 1, 0.0)
    blocks = -(-query_len // rows)
    group = heads // key_heads

    while True:
        task = fetch_add(arguments + 8)
        if task >= tasks:
            break
        key_head, chunk = task // chunks, task % chunks
        low, high = key_len * chunk // chunks, key_len * (chunk + 1) // chunks
        first = key_head // key_heads * heads + key_head % key_heads * group
        for head in range(first, first + group):
            own = weight + head % heads * weight_stride * item
            for number in range(blocks):
                base = (head * query_len + number * rows) * share
                for r in range(min(rows, query_len - number * rows)):
                    i = number * rows + r
                    row = head * query_len + i
                    source = query + row * size * item
                    above = grad_output + row * value_size * item
                    for _ in range(get(counts, row, INT32)):
                        place = np.int64(get(index, base, INT32))
                        one, slope = get(kept, base, zero), get(slopes, base, zero)
                        base += 1
                        if place < low or place >= high:
                            continue
                        if dropout > 0:
                            kept_by = kept_share(seed, head * all_rows + first_row + i, place, dropout)
                            one = like(one * kept_by, zero)
                        at = key_head * key_len + place
                        add_scaled(above, value_size, one, grad_value + at * value_size * item)
                        if slope == 0:
                            continue
                        out, it = grad_key + at * size * item, key + at * size * item
                        if score == PRODUCT:
                            add_scaled(source, size, slope, out)
                        elif score == DISTANCE:
                            twice = like(2 * slope, zero)
                            add_scaled(source, size, twice, out)
                            add_scaled(it, size, -twice, out)
                        else:
                            additive_to_key(source, it, own, size, slope, out)


@cache
def backward_queries(item: int) -> Any:
    """The kernel of the queries' gradients, for numbers of `item` bytes."""
    zero, stamp = (np.float32(0) if item == 4 else np.float64(0)), STAMP

    @compiled
    def attention_backward_queries(arguments):  # type: ignore[no-untyped-def]
        if stamp:
            query_tasks(arguments, zero)

    return attention_backward_queries


@cache
def backward_keys(item: int) -> Any:
    """The kernel of the keys' and values' gradients, for numbers of `item` bytes."""
    zero, stamp = (np.float32(0) if item == 4 else np.float64(0)), STAMP

    @compiled
    def attention_backward_keys(arguments):  # type: ignore[no-untyped-def]
        if stamp:
            key_tasks(arguments, zero)

    return attention_backward_keys
