"""Attention with sparse weights on the CPU, forward: a tile of scores, a threshold a row, then the support alone.

For each block of queries: scores by register tiles; the largest of each row; the few keys that can be in the support at
all (for entmax those less than 1 / (alpha - 1) below the best); the threshold among these; the sum of the support's
values. What is kept for the backward pass is the support: which keys, and their weights.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numba import njit

from regard.attention.kernels.emit import ROWS
from regard.attention.kernels.rows import (
    GROUPS,
    any_powers,
    at_least,
    best,
    first_powers,
    raise_all,
    second_powers,
)
from regard.attention.kernels.source import STAMP, compiled
from regard.attention.kernels.supports import sum_rows
from regard.attention.kernels.tile import FAST, INT, INT32, fill_tile, finish_row
from regard.attention.kernels.vectors import fetch_add, get, like, put, take

__all__ = ["ENTMAX", "HARDMAX", "TOP", "forward", "kept_share"]

ENTMAX, TOP, HARDMAX = range(3)
"""The normalisers; the parameter of ENTMAX is alpha, that of TOP how many keys are kept."""


@njit(error_model="numpy", fastmath=FAST)
def entmax(row, places, count, power, more, more_places, zero):  # type: ignore[no-untyped-def]
    """From (alpha - 1) (score - best) of some keys to the weights max(row - threshold, 0)^power, which sum to one.

    The norm of max(row - threshold, 0) is convex in the threshold, so Newton's steps from the left end at the root and
    never pass it. The threshold that they find tells the support; from that it is computed anew in double precision.
    The weights and keys of the support are left in `more` and `more_places`; returns how many they are.
    """
    threshold = like(-1.0, zero)
    for step_number in range(100):
        if step_number == 2 and power != 1 and power != 2:
            # Powers take long: keys that the threshold has passed already are out.
            found = at_least(row, count, threshold, more, more_places)
            for n in range(found):
                put(row, n, get(more, n, zero), zero)
                put(places, n, get(places, get(more_places, n, INT32), INT32), INT32)
            count = found
        if power == 1:
            first_powers(row, count, threshold, power, more)
        elif power == 2:
            second_powers(row, count, threshold, power, more)
        else:
            any_powers(row, count, threshold, power, more)
        slope, total = get(more, 0, zero), get(more, 1, zero)
        if power == 1:
            step = (total - 1) / slope
        elif power == 2:
            root = math.sqrt(total)
            step = (root - 1) * root / slope
        else:
            root = total ** (1 / power)
            step = (root - 1) * (total / root) / slope
        before = threshold
        threshold = like(before + step, zero)
        if not threshold > before:
            threshold = before
            break
    found = at_least(row, count, threshold, more, more_places)
    for n in range(found):
        put(more_places, n, get(places, get(more_places, n, INT32), INT32), INT32)
    if power > 2 or (power > 1 and power < 2):
        raise_all(more, found, threshold, power)
        total, slopes = 0.0, 0.0
        for n in range(found):
            weight = get(more, n, zero)
            total += weight
            slopes += weight ** (1 - 1 / power)
        # The rest of the rounding: each weight gives of it by its slope.
        beyond = (total - 1) / slopes
        kept = INT
        for n in range(found):
            weight = get(more, n, zero)
            weight -= beyond * weight ** (1 - 1 / power)
            if weight > 0:
                put(more, kept, weight, zero)
                put(more_places, kept, get(more_places, n, INT32), INT32)
                kept += 1
        return kept
    while True:
        total, squares = 0.0, 0.0
        for n in range(found):
            total += get(more, n, zero)
        mean = total / found
        if power == 1:
            exact = mean - 1.0 / found
        else:
            for n in range(found):
                apart = get(more, n, zero) - mean
                squares += apart * apart
            exact = mean - math.sqrt(max((1.0 - squares) / found, 0.0))
        kept = INT
        for n in range(found):
            value = get(more, n, zero)
            if value > exact:
                put(more, kept, value, zero)
                put(more_places, kept, get(more_places, n, INT32), INT32)
                kept += 1
        if kept == found or kept == 0:
            break
        found = kept
    for n in range(found):
        above = max(get(more, n, zero) - exact, 0.0)
        put(more, n, (above if power == 1 else above * above), zero)
    return found


@njit(error_model="numpy")
def put_up(heap, place, value, zero):  # type: ignore[no-untyped-def]
    """Put a number where the last place of a heap, with the smallest on top, has come to be empty."""
    while place > 0 and get(heap, (place - 1) // 2, zero) > value:
        put(heap, place, get(heap, (place - 1) // 2, zero), zero)
        place = (place - 1) // 2
    put(heap, place, value, zero)


@njit(error_model="numpy")
def put_down(heap, size, value, zero):  # type: ignore[no-untyped-def]
    """Put a number in the place of the smallest."""
    place = INT
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and get(heap, child + 1, zero) < get(heap, child, zero):
            child += 1
        if get(heap, child, zero) >= value:
            break
        put(heap, place, get(heap, child, zero), zero)
        place = child
    put(heap, place, value, zero)


@njit(error_model="numpy")
def last_of_best(row, count, most, heap, zero):  # type: ignore[no-untyped-def]
    """The smallest of the `most` largest numbers of a row, by a heap of them with the smallest on top."""
    for j in range(most):
        put_up(heap, j, get(row, j, zero), zero)
    for j in range(most, count):
        value = get(row, j, zero)
        if value > get(heap, 0, zero):
            put_down(heap, most, value, zero)
    return get(heap, 0, zero)


@njit(error_model="numpy")
def top(row, count, most, largest, maxima, values, places, heap, item, zero):  # type: ignore[no-untyped-def]
    """Softmax over the `most` best of a row, of equals the first: their weights and places; how many they are.

    The row's groups have a largest each: the `most`-th of these is no larger than the `most`-th of all, and few others
    are above it.
    """
    last = like(-np.inf, zero)
    groups = GROUPS // item
    if count > most:
        if 2 * most <= groups:
            last = last_of_best(maxima, groups, most, heap, zero)
            found = at_least(row, count, last, values, places)
            last = last_of_best(values, found, most, heap, zero)
        else:
            last = last_of_best(row, count, most, heap, zero)
    found = at_least(row, count, last, values, places)
    above = INT
    for n in range(found):
        if get(values, n, zero) > last:
            above += 1
    room, kept, total = most - above, INT, 0.0
    for n in range(found):
        value = get(values, n, zero)
        if value == -np.inf:
            continue
        if value == last:
            if room <= 0:
                continue
            room -= 1
        weight = math.exp(np.float64(value) - largest)
        total += weight
        put(values, kept, weight, zero)
        put(places, kept, get(places, n, INT32), INT32)
        kept += 1
    for n in range(kept):
        put(values, n, get(values, n, zero) / total, zero)
    return kept


@njit(error_model="numpy")
def kept_share(seed, query, key, dropout):  # type: ignore[no-untyped-def]
    """What a weight is multiplied with: 0, or one over the share that is kept. A hash of seed and place says which."""
    x = (
        np.uint64(seed)
        + np.uint64(query) * np.uint64(0x9E3779B97F4A7C15)
        + np.uint64(key) * np.uint64(0xD1B54A32D192ED03)
    )
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    drawn = np.float64(x >> np.uint64(11)) / 9007199254740992.0
    return 0.0 if drawn < dropout else 1.0 / (1.0 - dropout)


@njit(error_model="numpy")
def forward_tasks(arguments, zero):  # type: ignore[no-untyped-def]
    thread = fetch_add(arguments)
    tasks = get(arguments, 2, INT)
    (
        query, key, value, weight, ranges, mask, bias, output, weights, counts, index, kept, scratch,
        scratch_size, numbers, heads, key_heads, query_len, key_len, size, value_size, score, normalizer,
        by_row, rows, stride, share, item, panel, weight_stride, seed, ranges_n, ranges_h, ranges_i, mask_n,
        mask_h, mask_i, mask_j, bias_n, bias_h, bias_i, bias_j, first_row, all_rows, key_n, key_h, key_row,
        value_n, value_h, value_row,
    ) = take(arguments + 24, 50)  # fmt: skip
    parameter, dropout, scale = get(numbers, 0, 0.0), get(numbers, 1, 0.0), get(numbers, 2, 0.0)

    block = scratch + thread * scratch_size * item
    tile = block + rows * size * item
    row_room = (stride + 64) * item
    values, more = tile + rows * row_room, tile + (rows + 1) * row_room
    dropped = tile + (rows + 2) * row_room
    places, more_places = tile + (rows + 3) * row_room, tile + (rows + 4) * row_room
    maxima = tile + (rows + 5) * row_room
    blocks = -(-query_len // rows)
    power = like(1 / (parameter - 1) if normalizer == ENTMAX else 1.0, zero)

    while True:
        task = fetch_add(arguments + 8)
        if task >= tasks:
            break
        # The last queries first: under a causal mask these see the most keys.
        number = blocks - 1 - task % blocks
        head = task // blocks
        n, h = head // heads, head % heads
        key_head = h // (heads // key_heads)
        start = number * rows
        here = min(rows, query_len - start)
        low, high = INT, key_len
        if ranges:
            low, high = key_len, INT
            for r in range(here):
                place = n * ranges_n + h * ranges_h + (start + r) * ranges_i
                one, two = np.int64(get(ranges, place, INT32)), np.int64(get(ranges, place + 1, INT32))
                if one < two:
                    low, high = min(low, max(one, 0)), max(high, min(two, key_len))
        padded = here if by_row else -(-here // ROWS) * ROWS
        source = query + (head * query_len + start) * size * item
        for i in range(here * size):
            put(block, i, get(source, i, zero), zero)
        for i in range(here * size, padded * size):
            put(block, i, zero, zero)
        if low < high:
            keys = key + (n * key_n + key_head * key_h) * item
            fill_tile(
                score,
                block,
                padded,
                keys,
                key_row,
                weight + h * weight_stride * item,
                size,
                tile,
                stride,
                low,
                high,
                by_row,
                item,
                panel,
                zero,
            )
        base = (head * query_len + start) * share
        room, full = INT, False
        for r in range(here):
            i = start + r
            row = head * query_len + i
            one, two = INT, key_len
            if ranges:
                place = n * ranges_n + h * ranges_h + i * ranges_i
                one, two = (
                    max(np.int64(get(ranges, place, INT32)), 0),
                    min(np.int64(get(ranges, place + 1, INT32)), key_len),
                )
            found = INT
            out = output + row * value_size * item
            largest = like(-np.inf, zero)
            scores = tile + r * stride * item
            if one < two:
                finish_row(
                    scores,
                    scale,
                    one,
                    two,
                    bias + (n * bias_n + h * bias_h + i * bias_i) * item if bias else INT,
                    bias_j,
                    mask + n * mask_n + h * mask_h + i * mask_i if mask else INT,
                    mask_j,
                    item,
                    zero,
                )
                scores += one * item
                largest = best(scores, two - one, maxima, zero)
            if largest != -np.inf:
                if not (largest < np.inf or (normalizer == HARDMAX and largest == np.inf)):
                    # Whatever is no number, or infinite but for the best of all, makes the whole row so.
                    found = two - one
                    for k in range(found):
                        put(more, k, np.nan, zero)
                        put(more_places, k, k, INT32)
                elif normalizer == ENTMAX:
                    count = at_least(scores, two - one, largest - power, values, places)
                    for k in range(count):
                        put(values, k, (get(values, k, zero) - largest) / power, zero)
                    found = entmax(values, places, count, power, more, more_places, zero)
                elif normalizer == TOP:
                    found = top(
                        scores,
                        two - one,
                        np.int64(parameter),
                        largest,
                        maxima,
                        more,
                        more_places,
                        values,
                        item,
                        zero,
                    )
                else:
                    at_least(scores, two - one, largest, more, more_places)
                    found = INT + 1
                    put(more, 0, 1, zero)
                for k in range(found):
                    put(more_places, k, get(more_places, k, INT32) + one, INT32)
                if weights:
                    for k in range(found):
                        put(weights, row * key_len + get(more_places, k, INT32), get(more, k, zero), zero)
                used = more
                if dropout > 0:
                    used = dropped
                    for k in range(found):
                        kept_by = kept_share(
                            seed, head * all_rows + first_row + i, get(more_places, k, INT32), dropout
                        )
                        put(dropped, k, get(more, k, zero) * kept_by, zero)
                sum_rows(
                    used,
                    more_places,
                    found,
                    value + (n * value_n + key_head * value_h) * item,
                    value_size,
                    out,
                    value_row,
                    zero,
                )
                if room + found <= here * share and not full:
                    for k in range(found):
                        put(index, base + room + k, get(more_places, k, INT32), INT32)
                        put(kept, base + room + k, get(more, k, zero), zero)
                    room += found
                else:
                    full = True
            else:
                for d in range(value_size):
                    put(out, d, 0.0, zero)
            put(counts, row, found, INT32)
        if full:
            for r in range(here):
                put(counts, head * query_len + start + r, -1, INT32)


@cache
def forward(item: int) -> Any:
    """The kernel for numbers of `item` bytes."""
    zero, stamp = (np.float32(0) if item == 4 else np.float64(0)), STAMP

    @compiled
    def attention_forward(arguments):  # type: ignore[no-untyped-def]
        if stamp:
            forward_tasks(arguments, zero)

    return attention_forward
