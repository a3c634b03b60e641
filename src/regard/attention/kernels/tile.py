"""The scores of some queries against all their keys, as Numba compiles it: the first step of every kernel."""

from __future__ import annotations

import numpy as np
from numba import njit

from regard.attention.kernels.emit import ROWS, VECTORS, WIDTH
from regard.attention.kernels.panels import (
    additive_panel,
    additive_row,
    distance_panel,
    distance_row,
    plain_additive_panel,
    product_panel,
    product_row,
    small_additive_panel,
)
from regard.attention.kernels.vectors import add_scaled, get, like, put

__all__ = [
    "ADDITIVE",
    "DISTANCE",
    "EXPONENTIAL",
    "FAST",
    "INT",
    "INT32",
    "PRODUCT",
    "SMALL",
    "fill_tile",
    "finish_row",
    "padded_rows",
    "panel_keys",
]

PRODUCT, DISTANCE, ADDITIVE, EXPONENTIAL, SMALL = range(5)
"""The scores: EXPONENTIAL is the additive one from e^2query and e^2key, SMALL that of small queries and keys."""

FAST = {"reassoc", "contract", "nsz", "arcp"}
"""What may be rearranged: nothing is assumed of infinities and of what is no number."""

SOME = 64
"""So many keys are read for one query after the other, while they are in the cache."""

INT, INT32, BOOL = np.int64(0), np.int32(0), np.bool_(False)


def panel_keys(item: int) -> int:
    """How many keys a panel has, for numbers of `item` bytes."""
    return WIDTH // item * VECTORS


def padded_rows(rows: int) -> int:
    """The next multiple of the queries that a tile of registers has."""
    return -(-rows // ROWS) * ROWS


@njit(error_model="numpy")
def fill_tile(
    score, query, rows, key, key_row, weight, size, tile, stride, low, high, by_row, item, panel, zero
):  # type: ignore[no-untyped-def]
    """Scores of `rows` queries of `size` channels, a multiple of a register tile's, against the keys from low to high.

    Keys are in panels of `panel` keys, channel by channel, or with `by_row` as they are given, `key_row` apart. The
    score of key j stands j places after the start of its query's row of the tile; rows are `stride` apart.
    """
    # Scores without a weight read one, and do nothing with it.
    net = weight if weight else query
    if by_row:
        for start in range(low, high, SOME):
            count = min(SOME, high - start)
            for r in range(rows):
                q, k = query + r * size * item, key + start * key_row * item
                out = tile + (r * stride + start) * item
                if score == PRODUCT:
                    product_row(q, k, net, out, size, count, key_row, zero)
                elif score == DISTANCE:
                    distance_row(q, k, net, out, size, count, key_row, zero)
                else:
                    additive_row(q, k, net, out, size, count, key_row, zero)
        return
    for p in range(low // panel, -(-high // panel)):
        k = key + p * panel * size * item
        for r in range(0, rows, ROWS):
            q, out = query + r * size * item, tile + (r * stride + p * panel) * item
            if score == PRODUCT:
                product_panel(q, k, net, out, size, size, stride, zero)
            elif score == DISTANCE:
                distance_panel(q, k, net, out, size, size, stride, zero)
            elif score == ADDITIVE:
                plain_additive_panel(q, k, net, out, size, size, stride, zero)
            elif score == SMALL:
                small_additive_panel(q, k, net, out, size, size, stride, zero)
            else:
                additive_panel(q, k, net, out, size, size, stride, zero)


@njit(error_model="numpy")
def finish_row(row, scale, low, high, bias, bias_stride, mask, mask_stride, item, zero):  # type: ignore[no-untyped-def]
    """Scale a row's scores from low to high, add its bias to them, and hide what its mask hides."""
    if scale != 1:
        for j in range(low, high):
            put(row, j, get(row, j, zero) * like(scale, zero), zero)
    if bias:
        if bias_stride == 1:
            add_scaled(bias + low * item, high - low, like(1.0, zero), row + low * item)
        else:
            for j in range(low, high):
                put(row, j, get(row, j, zero) + get(bias, j * bias_stride, zero), zero)
    if mask:
        for j in range(low, high):
            if not get(mask, j * mask_stride, BOOL):
                put(row, j, -np.inf, zero)
