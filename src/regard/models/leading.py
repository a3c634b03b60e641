"""The best, their sum and the first few of each row of scores in one visit, as Numba compiles it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import njit, types
from numba.extending import intrinsic
from torch import Tensor

from regard.attention.kernels.emit import WIDTH, Emit
from regard.attention.kernels.rows import GROUPS, at_least, best
from regard.attention.kernels.source import STAMP, compiled
from regard.attention.kernels.threads import in_threads, threads
from regard.attention.kernels.vectors import fetch_add, get, put

__all__ = ["leading"]

INT, INT32, INFINITE = np.int64(0), np.int32(0), -np.inf
ITEM, MAXIMA = 4, GROUPS // 4


def leading(scores: Tensor, count: int, banned: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best `count` scores of each row that are not banned, and where they are; the best of all, and the sum of the
    exponentials of all scores less it. Banned scores are written over.

    *Shape*: scores `(rows, vocabulary)` float32, at least `GROUPS / 4` wide, `count` at most that -> twice `(rows,
    count)`, twice `(rows, 1)`.
    """
    rows, vocabulary = scores.shape
    values, highest, total = (
        scores.new_empty(rows, count),
        scores.new_empty(rows, 1),
        scores.new_empty(rows, 1),
    )
    places = torch.empty(rows, count, dtype=torch.int64)
    forbidden = torch.tensor(banned, dtype=torch.int64)
    size = MAXIMA + 2 * (vocabulary + WIDTH // ITEM)
    scratch = scores.new_empty(threads() * size)
    tensors = (scores, values, places, highest, total, forbidden, scratch)
    in_threads(_kernel(), [*(t.data_ptr() for t in tensors), size, vocabulary, count, len(forbidden)], rows)
    return values, places, highest, total


@intrinsic
def exponentials(context: Any, row: Any, count: Any, highest: Any) -> Any:
    """The sum of e^(x - highest) over `count` numbers; what is less than e^-80 counts as that."""
    number = highest

    def codegen(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        e = Emit(builder, number)
        row, count, highest = arguments
        most = e.splat(highest)

        def body(i: Any, carried: Sequence[Any], mask: Any) -> list[Any]:
            some = e.load(row, i) if mask is None else e.load_some(row, i, mask, float("-inf"))
            found = e.exp(e.clamped(builder.fsub(some, most), 80.0))
            return [builder.fadd(carried[0], found)]

        (total,) = e.over(count, body, [e.const(0.0)])
        return e.total(total)

    return number(types.intp, types.intp, number), codegen


@njit(error_model="numpy")
def insert(values, places, count, value, place, zero):  # type: ignore[no-untyped-def]
    """Put a number in its place among the `count` largest so far, which lie in order; of the same, the first stays."""
    if not value > get(values, count - 1, zero):
        return
    i = count - 1
    while i > 0 and value > get(values, i - 1, zero):
        put(values, i, get(values, i - 1, zero), zero)
        put(places, i, get(places, i - 1, INT), INT)
        i -= 1
    put(values, i, value, zero)
    put(places, i, place, INT)


@njit(error_model="numpy")
def row_tasks(arguments, zero):  # type: ignore[no-untyped-def]
    thread = fetch_add(arguments)
    tasks = get(arguments, 2, INT)
    a = arguments + 24
    scores, values, places, highest, total = (
        get(a, 0, INT),
        get(a, 1, INT),
        get(a, 2, INT),
        get(a, 3, INT),
        get(a, 4, INT),
    )
    banned, scratch, size, vocabulary, count, bans = (
        get(a, 5, INT),
        get(a, 6, INT),
        get(a, 7, INT),
        get(a, 8, INT),
        get(a, 9, INT),
        get(a, 10, INT),
    )
    maxima = scratch + thread * size * ITEM
    some = maxima + GROUPS
    where = some + (vocabulary + WIDTH // ITEM) * ITEM
    while True:
        task = fetch_add(arguments + 8)
        if task >= tasks:
            break
        row, own, ids = (
            scores + task * vocabulary * ITEM,
            values + task * count * ITEM,
            places + task * count * 8,
        )
        most = best(row, vocabulary, maxima, zero)
        put(highest, task, most, zero)
        put(total, task, exponentials(row, vocabulary, most), zero)
        for b in range(bans):
            put(row, get(banned, b, INT), INFINITE, zero)
        best(row, vocabulary, maxima, zero)
        # The last of the `count` best groups' best: so many numbers are no less.
        for i in range(count):
            put(own, i, INFINITE, zero)
            put(ids, i, INT, INT)
        for g in range(MAXIMA):
            insert(own, ids, count, get(maxima, g, zero), INT, zero)
        found = at_least(row, vocabulary, get(own, count - 1, zero), some, where)
        for i in range(count):
            put(own, i, INFINITE, zero)
            put(ids, i, get(banned, INT, INT) if bans else INT, INT)
        for i in range(found):
            insert(own, ids, count, get(some, i, zero), np.int64(get(where, i, INT32)), zero)


@cache
def _kernel() -> Any:
    zero, stamp = np.float32(0), STAMP

    @compiled
    def leading_rows(arguments):  # type: ignore[no-untyped-def]
        if stamp:
            row_tasks(arguments, zero)

    return leading_rows
