"""What the Triton kernels share: tiles of rows, products, drawn dropout, sizes of tiles.

Sizes of tiles are timed on the GPU among a few; under the interpreter (`TRITON_INTERPRET=1`) they are small and fixed,
so that short tests cross many tiles. Unmeasured: the lists of sizes are reasoned from shared memory and registers of
A100, H100 and H200, compiled for them, but have not been timed on any.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import triton
import triton.language as tl
from triton import knobs

__all__ = [
    "INTERPRETED",
    "Span",
    "dropped",
    "edge_block",
    "load_rows",
    "load_vector",
    "parameter_of",
    "product",
    "span_of",
    "store_rows",
    "tuned",
]

INTERPRETED = tl.constexpr(bool(knobs.runtime.interpret))


class Span(NamedTuple):
    """Which keys a tile of queries sees: each row's own, the blocks of all, and those that every row sees whole."""

    low: Any
    high: Any
    first: Any
    last: Any
    inner_first: Any
    inner_last: Any


@triton.jit
def span_of(head, row, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The keys that `ROWS` queries from `row` on see, in blocks of `COLUMNS` keys; queries past the end see none."""
    rows = row + tl.arange(0, ROWS)
    inside = rows < head.query_len
    if head.ranges is not None:
        pointers = head.ranges + rows.to(tl.int64) * 2
        low = tl.maximum(tl.load(pointers, mask=inside, other=0), 0)
        high = tl.minimum(tl.load(pointers + 1, mask=inside, other=0), head.key_len)
    else:
        low = tl.zeros((ROWS,), tl.int32)
        high = tl.where(inside, head.key_len, 0)
    some = inside & (low < high)
    tile_low = tl.min(tl.where(some, low, head.key_len), 0)
    tile_high = tl.max(tl.where(some, high, 0), 0)
    inner_low = tl.max(tl.where(inside, low, 0), 0)
    inner_high = tl.min(tl.where(inside, high, head.key_len), 0)
    first = tile_low // COLUMNS
    last = tl.maximum(tl.cdiv(tile_high, COLUMNS), first)
    inner_first = tl.cdiv(inner_low, COLUMNS)
    inner_last = tl.maximum(inner_high, 0) // COLUMNS
    whole = inner_last > inner_first
    return Span(
        low=low,
        high=high,
        first=first,
        last=last,
        inner_first=tl.where(whole, inner_first, last),
        inner_last=tl.where(whole, inner_last, last),
    )


@triton.jit
def edge_block(step, first, inner_first, inner_last):
    """The block that is the `step`th of those before and after the inner ones."""
    block = first + step
    return tl.where(block < inner_first, block, block + inner_last - inner_first)


@triton.jit
def load_rows(
    pointer,
    stride,
    row,
    length,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    GUARD: tl.constexpr,
):
    """`ROWS` rows of `SIZE` numbers from `row` on, zero beyond. *Shape:* `(ROWS, BLOCK)`."""
    rows = tl.arange(0, ROWS)
    channels = tl.arange(0, BLOCK)
    pointers = pointer + tl.cast(row, tl.int64) * stride + rows[:, None] * stride + channels[None, :]
    if GUARD and SIZE != BLOCK:
        return tl.load(pointers, mask=(row + rows < length)[:, None] & (channels < SIZE)[None, :], other=0.0)
    elif GUARD:
        return tl.load(pointers, mask=(row + rows < length)[:, None], other=0.0)
    elif SIZE != BLOCK:
        return tl.load(pointers, mask=(channels < SIZE)[None, :], other=0.0)
    else:
        return tl.load(pointers)


@triton.jit
def store_rows(pointer, tile, row, length, SIZE: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """Write a tile into contiguous rows of `SIZE` numbers from `row` on. *Shape:* tile `(ROWS, BLOCK)`."""
    rows = row + tl.arange(0, ROWS)
    channels = tl.arange(0, BLOCK)
    pointers = pointer + rows.to(tl.int64)[:, None] * SIZE + channels[None, :]
    tl.store(pointers, tile, mask=(rows < length)[:, None] & (channels < SIZE)[None, :])


@triton.jit
def load_vector(pointer, row, length, other, ROWS: tl.constexpr, STEP: tl.constexpr):
    """`ROWS` numbers, each `STEP` after the last, and `other` beyond `length`. *Shape:* `(ROWS,)`."""
    rows = row + tl.arange(0, ROWS)
    return tl.load(pointer + rows.to(tl.int64) * STEP, mask=rows < length, other=other)


@triton.jit
def product(left, right, COMPUTE: tl.constexpr):
    """The product of two tiles, accumulated in `COMPUTE`."""
    if INTERPRETED:
        # The interpreter multiplies the bits of bfloat16.
        left = left.to(COMPUTE)
        right = right.to(COMPUTE)
    return tl.dot(left, right, input_precision="ieee", out_dtype=COMPUTE)


@triton.jit
def parameter_of(parts, COMPUTE: tl.constexpr):
    """A number that came as three of float32, the only floats that a kernel is handed."""
    return tl.cast(parts[0], COMPUTE) + tl.cast(parts[1], COMPUTE) + tl.cast(parts[2], COMPUTE)


@triton.jit
def dropped(weights, head, row, column, share, seed, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Weights of which a `share` is drawn to be zero by (seed, head, query, key), and the others make up for them."""
    nothing = tl.zeros((ROWS, COLUMNS), tl.int32)
    rows = row + tl.arange(0, ROWS)[:, None] + nothing
    columns = column + tl.arange(0, COLUMNS)[None, :] + nothing
    bits, _, _, _ = tl.philox(seed, columns, rows, nothing + head.index, nothing)
    return tl.where(tl.uint_to_uniform_float(bits) >= share, weights / (1 - share), 0.0)


def tuned(
    sizes: list[dict[str, int]], key: list[str], fits: Callable[..., bool] | None = None
) -> Callable[[Any], Any]:
    """A decorator of kernels: the sizes of tiles are the quickest of a few, measured once for each value of `key`.

    Each of `sizes` names constants of the kernel and `num_warps`, `num_stages`; `fits` tells from the arguments which
    are worth a try. Under the interpreter the constants are all 16.
    """

    def decorate(kernel: Any) -> Any:
        constants = [{name: n for name, n in one.items() if not name.startswith("num_")} for one in sizes]
        if INTERPRETED.value:
            if not constants[0]:
                return kernel
            return triton.heuristics({name: lambda _: 16 for name in constants[0]})(kernel)
        configs = [
            triton.Config(constant, num_warps=one["num_warps"], num_stages=one["num_stages"])
            for constant, one in zip(constants, sizes, strict=True)
        ]

        def prune(configs: list[Any], arguments: dict[str, Any], **constants: Any) -> list[Any]:
            every = {**arguments, **constants}
            fitting = [
                c
                for c in configs
                if fits is None or fits({**every, **c.kwargs}, 32 * c.num_warps, c.num_stages)
            ]
            return fitting or configs[-1:]

        return triton.autotune(configs, key=key, prune_configs_by={"early_config_prune": prune})(kernel)

    return decorate
