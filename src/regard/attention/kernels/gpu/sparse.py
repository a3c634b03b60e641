r"""Attention on the GPU where most keys have no weight: entmax, top-k and hardmax, and the blocks they leave out.

A first pass finds each row's best score and lists the blocks of keys that can have weight at all. The threshold is then
closed in from both sides: every pass over the listed blocks tries two thresholds, and drops the blocks that lie below
the lower for all rows of the tile. For entmax with alpha at most 2 the norm of the bases, $\lVert a (s - m) - \tau
\rVert_p$ with $p = 1 / a$, is convex in $\tau$: Newton's step is a lower bound, the chord an upper one, and both close
in quadratically; beyond 2 Newton's step is tried beside the middle. For top-k both thresholds move to the nearest
score, so that ties end the search, and one of them halves the bits between. The last pass sums the values of the blocks
that are left, and notes in `kept` which blocks have weight: the backward pass reads no other.

Beside inputs and outputs this needs five bytes for each block of queries and block of keys. Unmeasured: speed on any
GPU, and how many passes real scores take.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import triton
import triton.language as tl

from regard.attention.kernels.gpu.normalizers import powers_of, shrunk, weights_and_slopes
from regard.attention.kernels.gpu.operands import head_of
from regard.attention.kernels.gpu.scores import cast_like, scores_of
from regard.attention.kernels.gpu.tiles import (
    dropped,
    load_rows,
    parameter_of,
    product,
    span_of,
    store_rows,
    tuned,
)

__all__ = ["SPARSE_SIZES", "sparse_forward"]

SPARSE_SIZES = [{"num_warps": 4, "num_stages": 2}, {"num_warps": 8, "num_stages": 2}]
MOST_PASSES = tl.constexpr(96)


@triton.jit
def _tile(
    head, span, query, row, block,
    SCORE: tl.constexpr, SIZE: tl.constexpr, CHANNELS: tl.constexpr, BLOCK_D: tl.constexpr, COMPUTE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    key = load_rows(head.key, head.key_stride, block * BLOCK_N, head.key_len, SIZE, BLOCK_D, BLOCK_N, EDGE)
    return scores_of(
        head, query, key, row, block * BLOCK_N, span.low, span.high,
        SCORE, SIZE, CHANNELS, COMPUTE, BLOCK_M, BLOCK_N, EDGE,
    )  # fmt: skip


@triton.jit
def _entmax_step(sums, slopes, order, FORM: tl.constexpr):
    """Newton's step of the threshold, on the norm of the bases, and how much that norm is above 1."""
    if FORM == "sparsemax":
        above = sums - 1
        step = above / slopes
    elif FORM == "entmax15":
        above = tl.sqrt(sums) - 1
        step = above * tl.sqrt(sums) / slopes
    else:
        power = order * tl.log(sums)
        above = tl.exp(power) - 1
        step = sums * shrunk(power) / slopes
    return step, above


@triton.jit
def _entmax_threshold(
    head, span, query, row, listed, count, best, active, order,
    FORM: tl.constexpr, SCORE: tl.constexpr, SIZE: tl.constexpr, CHANNELS: tl.constexpr, BLOCK_D: tl.constexpr,
    COMPUTE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """The threshold of every row, and how many blocks are left in the list."""
    EPSILON: tl.constexpr = 2.220446049250313e-16 if tl.float64 == COMPUTE else 1.1920928955078125e-07
    seen = tl.maximum(span.high - span.low, 1).to(COMPUTE)
    if FORM == "entmax_close":
        low = tl.zeros((BLOCK_M,), COMPUTE)
        high = shrunk(order * tl.log(seen))
        floor = order
    else:
        low = tl.full((BLOCK_M,), -1.0, COMPUTE)
        high = -tl.exp2(-order * tl.log2(seen))
        floor = order * 0
    one = low
    other = high
    going = tl.max(active.to(tl.int32), 0) > 0
    passes = 0
    while going:
        one_sum = tl.zeros((BLOCK_M,), COMPUTE)
        one_slope = tl.zeros((BLOCK_M,), COMPUTE)
        other_sum = tl.zeros((BLOCK_M,), COMPUTE)
        other_slope = tl.zeros((BLOCK_M,), COMPUTE)
        left = 0
        for place in range(count):
            block = tl.load(listed + place)
            scores = _tile(
                head, span, query, row, block,
                SCORE, SIZE, CHANNELS, BLOCK_D, COMPUTE, BLOCK_M, BLOCK_N, EDGE,
            )  # fmt: skip
            below = order * (scores - best[:, None])
            weights, slopes = powers_of(below, one[:, None], order, FORM)
            one_sum += tl.sum(weights, 1)
            one_slope += tl.sum(slopes, 1)
            weights, slopes = powers_of(below, other[:, None], order, FORM)
            other_sum += tl.sum(weights, 1)
            other_slope += tl.sum(slopes, 1)
            bound = low - 1 if FORM == "entmax_close" else low
            alive = tl.max(tl.max((~(below <= bound[:, None])).to(tl.int32), 1), 0)
            tl.store(listed + left, block)
            left += alive
        # Every thread has read the list, and the first has written it, before it is read again.
        tl.debug_barrier()
        count = left
        one_step, one_above = _entmax_step(one_sum, one_slope, order, FORM)
        other_step, other_above = _entmax_step(other_sum, other_slope, order, FORM)
        if FORM == "entmax_steep":
            low = tl.where(one_sum >= 1, tl.maximum(low, one), low)
            low = tl.where(other_sum >= 1, tl.maximum(low, other), low)
            high = tl.where(one_sum < 1, tl.minimum(high, one), high)
            high = tl.where(other_sum < 1, tl.minimum(high, other), high)
            there = tl.abs(one_sum - 1) <= 4 * EPSILON
            low = tl.where(there, one, low)
            high = tl.where(there, one, high)
            from_one = one + one_step
            from_other = other + other_step
            middle = -tl.sqrt(low * high)
            inside = (from_one > low) & (from_one < high)
            one = tl.where(
                inside, from_one, tl.where((from_other > low) & (from_other < high), from_other, middle)
            )
            other = tl.where(one == middle, (low + high) / 2, middle)
            active = active & (high - low > 2 * EPSILON * tl.abs(low))
        else:
            chord = one + (other - one) * (one_above / (one_above - other_above))
            high = tl.where((chord >= one) & (chord < high), chord, high)
            low = tl.where(one_step > 0, one + one_step, low)
            low = tl.where(other + other_step > low, other + other_step, low)
            scale = EPSILON * (tl.abs(low) + floor)
            active = active & (high - low > 16 * scale) & (low - one > 4 * scale)
            one = low
            other = high
        passes += 1
        going = (tl.max(active.to(tl.int32), 0) > 0) & (passes < MOST_PASSES)
    return low, count


@triton.jit
def _middle(low, high, COMPUTE: tl.constexpr):
    """The number that halves the bits between two numbers, above `low`."""
    kind: tl.constexpr = tl.int64 if tl.float64 == COMPUTE else tl.int32
    sign: tl.constexpr = 63 if tl.float64 == COMPUTE else 31
    most: tl.constexpr = 0x7FFFFFFFFFFFFFFF if tl.float64 == COMPUTE else 0x7FFFFFFF
    a = low.to(kind, bitcast=True)
    b = high.to(kind, bitcast=True)
    a = a ^ ((a >> sign) & most)
    b = b ^ ((b >> sign) & most)
    middle = (a & b) + ((a ^ b) >> 1) + 1
    middle = middle ^ ((middle >> sign) & most)
    return middle.to(COMPUTE, bitcast=True)


@triton.jit
def _top_threshold(
    head, span, query, row, listed, count, least, best, seen, active, k,
    SCORE: tl.constexpr, SIZE: tl.constexpr, CHANNELS: tl.constexpr, BLOCK_D: tl.constexpr,
    COMPUTE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """The `k`th best score of every row, the place of the last key that is kept of its equals, and the blocks left."""
    low = least
    high = tl.where(seen <= k, least, best)
    many = seen.to(COMPUTE)
    few = tl.full((BLOCK_M,), 1.0, COMPUTE)
    settled = seen <= k
    active = active & (low < high)
    going = tl.max(active.to(tl.int32), 0) > 0
    passes = 0
    while going:
        other = _middle(low, high, COMPUTE)
        # If the logarithm of the count fell evenly, this score would have k above it.
        share = tl.log(many / k) / tl.log(many / few)
        one = low + (high - low) * tl.minimum(tl.maximum(share, 0.02), 1.0)
        one = tl.where((one > low) & (one <= high), one, other)
        one_count = tl.zeros((BLOCK_M,), tl.int32)
        other_count = tl.zeros((BLOCK_M,), tl.int32)
        one_above = tl.full((BLOCK_M,), float("inf"), COMPUTE)
        other_above = tl.full((BLOCK_M,), float("inf"), COMPUTE)
        one_below = tl.full((BLOCK_M,), float("-inf"), COMPUTE)
        other_below = tl.full((BLOCK_M,), float("-inf"), COMPUTE)
        left = 0
        for place in range(count):
            block = tl.load(listed + place)
            scores = _tile(
                head, span, query, row, block,
                SCORE, SIZE, CHANNELS, BLOCK_D, COMPUTE, BLOCK_M, BLOCK_N, EDGE,
            )  # fmt: skip
            above = scores >= one[:, None]
            one_count += tl.sum(above.to(tl.int32), 1)
            one_above = tl.minimum(one_above, tl.min(tl.where(above, scores, float("inf")), 1))
            one_below = tl.maximum(one_below, tl.max(tl.where(above, float("-inf"), scores), 1))
            above = scores >= other[:, None]
            other_count += tl.sum(above.to(tl.int32), 1)
            other_above = tl.minimum(other_above, tl.min(tl.where(above, scores, float("inf")), 1))
            other_below = tl.maximum(other_below, tl.max(tl.where(above, float("-inf"), scores), 1))
            alive = tl.max(tl.max((~(scores < low[:, None])).to(tl.int32), 1), 0)
            tl.store(listed + left, block)
            left += alive
        tl.debug_barrier()
        count = left
        for_low = active & (one_count >= k) & (one_above > low)
        low = tl.where(for_low, one_above, low)
        many = tl.where(for_low, one_count.to(COMPUTE), many)
        for_low = active & (other_count >= k) & (other_above > low)
        low = tl.where(for_low, other_above, low)
        many = tl.where(for_low, other_count.to(COMPUTE), many)
        for_high = active & (one_count < k) & (one_below < high)
        high = tl.where(for_high, one_below, high)
        few = tl.where(for_high, tl.maximum(one_count, 1).to(COMPUTE), few)
        for_high = active & (other_count < k) & (other_below < high)
        high = tl.where(for_high, other_below, high)
        few = tl.where(for_high, tl.maximum(other_count, 1).to(COMPUTE), few)
        found = active & (
            ((one_count == k) & (one_above >= low)) | ((other_count == k) & (other_above >= low))
        )
        high = tl.where(found, low, high)
        settled = settled | found
        active = active & (low < high)
        passes += 1
        going = (tl.max(active.to(tl.int32), 0) > 0) & (passes < MOST_PASSES)
    last_place = tl.full((BLOCK_M,), 0x7FFFFFFF, tl.int32)
    if tl.max((~settled & (seen > 0)).to(tl.int32), 0) > 0:
        room = k - tl.zeros((BLOCK_M,), tl.int32)
        for place in range(count):
            scores = _tile(
                head, span, query, row, tl.load(listed + place),
                SCORE, SIZE, CHANNELS, BLOCK_D, COMPUTE, BLOCK_M, BLOCK_N, EDGE,
            )  # fmt: skip
            room -= tl.sum((scores > low[:, None]).to(tl.int32), 1)
        for place in range(count):
            block = tl.load(listed + place)
            scores = _tile(
                head, span, query, row, block,
                SCORE, SIZE, CHANNELS, BLOCK_D, COMPUTE, BLOCK_M, BLOCK_N, EDGE,
            )  # fmt: skip
            equal = (scores == low[:, None]).to(tl.int32)
            places = block * BLOCK_N + tl.arange(0, BLOCK_N)
            fits = (equal > 0) & (tl.cumsum(equal, 1) == room[:, None])
            here = tl.max(tl.where(fits, places[None, :], -1), 1)
            last_place = tl.where((here >= 0) & ~settled, here, last_place)
            room -= tl.sum(equal, 1)
    return low, last_place, count


@tuned(SPARSE_SIZES, ["SCORE", "FORM", "BLOCK_D", "BLOCK_V", "COMPUTE", "HALF", "DROP", "TILED"])
@triton.jit(do_not_specialize=["seed"])
def sparse_forward(
    operands, output, statistic, last_places, listed, kept, parameter, dropout, seed,
    SCORE: tl.constexpr, FORM: tl.constexpr, SIZE: tl.constexpr, CHANNELS: tl.constexpr, VALUE_SIZE: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, COMPUTE: tl.constexpr, HALF: tl.constexpr, DROP: tl.constexpr,
    TILED: tl.constexpr,
    EDGE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Output, statistic, last kept place and kept blocks of a tile of queries; `listed` is room to work in."""
    tiles = tl.cdiv(operands.query_len, BLOCK_M)
    blocks = tl.cdiv(operands.key_len, BLOCK_N)
    place = tl.program_id(0) // tiles
    tile = tiles - 1 - tl.program_id(0) % tiles
    row = tile * BLOCK_M
    rows = row + tl.arange(0, BLOCK_M)
    inside = rows < operands.query_len
    head = head_of(operands, place // operands.heads, place % operands.heads, SIZE, CHANNELS)
    parameter = parameter_of(parameter, COMPUTE)
    dropout = parameter_of(dropout, COMPUTE)
    span = span_of(head, row, BLOCK_M, BLOCK_N)
    listed += (place.to(tl.int64) * tiles + tile) * blocks
    kept += (place.to(tl.int64) * tiles + tile) * blocks
    query = load_rows(head.query, head.query_stride, row, head.query_len, SIZE, BLOCK_D, BLOCK_M, True)

    best = tl.full((BLOCK_M,), float("-inf"), COMPUTE)
    least = tl.full((BLOCK_M,), float("inf"), COMPUTE)
    seen = tl.zeros((BLOCK_M,), tl.int32)
    broken = tl.zeros((BLOCK_M,), tl.int32)
    last_place = tl.full((BLOCK_M,), -1, tl.int32)
    count = 0
    for block in range(span.first, span.last):
        scores = _tile(
            head, span, query, row, block, SCORE, SIZE, CHANNELS, BLOCK_D, COMPUTE, BLOCK_M, BLOCK_N, EDGE
        )
        broken = tl.maximum(broken, tl.max((scores != scores).to(tl.int32), 1))
        highest = tl.max(scores, 1)
        if FORM == "hardmax":
            places = block * BLOCK_N + tl.arange(0, BLOCK_N)
            first = tl.min(tl.where(scores == highest[:, None], places[None, :], 0x7FFFFFFF), 1)
            last_place = tl.where(highest > best, first, last_place)
            best = tl.maximum(best, highest)
        else:
            best = tl.maximum(best, highest)
            if FORM == "top":
                shown = ~(scores == float("-inf"))
                seen += tl.sum(shown.to(tl.int32), 1)
                least = tl.minimum(least, tl.min(tl.where(shown, scores, float("inf")), 1))
                alive = shown
            else:
                # A little more than the reach of the support, for rounding's sake.
                alive = ~(scores <= (best - 1.001 / (parameter - 1))[:, None])
            tl.store(listed + count, block)
            count += tl.max(tl.max(alive.to(tl.int32), 1), 0)
    tl.debug_barrier()
    blind = best == float("-inf")
    best = tl.where(broken > 0, float("nan"), tl.where(inside, best, float("inf")))
    best = tl.where(blind, 0.0, best)
    active = inside & ~blind & (broken == 0) & (best < float("inf"))

    sums = tl.zeros((BLOCK_M, BLOCK_V), COMPUTE)
    first = best
    second = best * 0
    third = second
    if FORM == "hardmax":
        last_place = tl.where(broken > 0, -1, last_place)
        tl.store(kept + last_place // BLOCK_N, 1, mask=inside & (last_place >= 0))
        channels = tl.arange(0, BLOCK_V)
        pointers = head.value + (last_place.to(tl.int64) * head.value_stride)[:, None] + channels[None, :]
        chosen = (inside & (last_place >= 0))[:, None] & (channels < VALUE_SIZE)[None, :]
        sums = tl.load(pointers, mask=chosen, other=0.0).to(COMPUTE)
        if DROP:
            nothing = tl.zeros((BLOCK_M,), tl.int32)
            bits, _, _, _ = tl.philox(seed, last_place, rows, nothing + head.index, nothing)
            sums = tl.where((tl.uint_to_uniform_float(bits) >= dropout)[:, None], sums / (1 - dropout), 0.0)
        first = tl.where(broken > 0, float("nan"), 0.0).to(COMPUTE)
        second = first
    elif FORM == "top":
        k = parameter.to(tl.int32)
        least = tl.where(active, least, best)
        third, last_place, count = _top_threshold(
            head, span, query, row, listed, count, least, best, tl.where(active, seen, 0), active, k,
            SCORE, SIZE, CHANNELS, BLOCK_D, COMPUTE, BLOCK_M, BLOCK_N, EDGE,
        )  # fmt: skip
        total = tl.zeros((BLOCK_M,), COMPUTE)
    else:
        second, count = _entmax_threshold(
            head, span, query, row, listed, count, best, active, parameter - 1,
            FORM, SCORE, SIZE, CHANNELS, BLOCK_D, COMPUTE, BLOCK_M, BLOCK_N, EDGE,
        )  # fmt: skip
    if FORM != "hardmax":
        for step in range(count):
            block = tl.load(listed + step)
            scores = _tile(
                head, span, query, row, block,
                SCORE, SIZE, CHANNELS, BLOCK_D, COMPUTE, BLOCK_M, BLOCK_N, EDGE,
            )  # fmt: skip
            weights, _ = weights_and_slopes(
                scores, first, second, third, last_place, block * BLOCK_N, parameter, FORM, HALF, BLOCK_N
            )
            if FORM == "top":
                total += tl.sum(weights, 1)
            alive = tl.max(tl.max((~(weights <= 0)).to(tl.int32), 1), 0)
            tl.store(kept + block, alive.to(tl.int8))
            if DROP:
                weights = dropped(weights, head, row, block * BLOCK_N, dropout, seed, BLOCK_M, BLOCK_N)
            value = load_rows(
                head.value, head.value_stride, block * BLOCK_N, head.key_len, VALUE_SIZE, BLOCK_V, BLOCK_N, EDGE,
            )  # fmt: skip
            sums += product(cast_like(weights, value), value, COMPUTE)
        if FORM == "top":
            total = tl.where(total == 0, 1.0, total)
            sums = sums / total[:, None]
            second = tl.log2(total)
    sums = tl.where((broken > 0)[:, None], float("nan"), sums)
    STEP: tl.constexpr = 3 if FORM == "top" else 2
    pointers = statistic + (place.to(tl.int64) * head.query_len + rows) * STEP
    tl.store(pointers, first, mask=inside)
    tl.store(pointers + 1, second, mask=inside)
    if FORM == "top":
        tl.store(pointers + 2, third, mask=inside)
    if (FORM == "top") or (FORM == "hardmax"):
        tl.store(last_places + place.to(tl.int64) * head.query_len + rows, last_place, mask=inside)
    output += place.to(tl.int64) * head.query_len * VALUE_SIZE
    store_rows(output, sums, row, head.query_len, VALUE_SIZE, BLOCK_V, BLOCK_M)
