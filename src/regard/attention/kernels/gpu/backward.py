r"""The gradients of attention on the GPU: one kernel for queries and bias, one for keys and values, no atomics.

With $g_{ij}$ the gradient of a weight, from the output (dropout drawn again) and from the weights themselves, that
of its score is $\mathrm{slope}_{ij} (g_{ij} - \delta_i)$. For softmax and top-k $\delta_i$ is the product of output
and its gradient (Dao 2023); where the weights have a gradient of their own, and for entmax, the first kernel takes
one more pass over its keys to have it. Softmax and sigmoid read the blocks of keys in the ranges, the others those
that the forward pass found to have weight, which come as lists. Every program owns what it writes: two runs agree
bit for bit.

Unmeasured: speed on any GPU, and which sizes of tiles are best.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import triton
import triton.language as tl

from regard.attention.kernels.gpu.additive import additive_gradient_tile
from regard.attention.kernels.gpu.dense import fits
from regard.attention.kernels.gpu.gradients import gradient_tile
from regard.attention.kernels.gpu.operands import head_of
from regard.attention.kernels.gpu.scores import cast_like
from regard.attention.kernels.gpu.sparse import SPARSE_SIZES
from regard.attention.kernels.gpu.tiles import (
    edge_block,
    load_rows,
    load_vector,
    parameter_of,
    product,
    span_of,
    store_rows,
    tuned,
)

__all__ = ["key_gradient", "key_gradient_listed", "query_gradient", "query_gradient_listed"]

SIZES = [
    {"BLOCK_M": 64, "BLOCK_N": 128, "num_warps": 8, "num_stages": 2},
    {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": 2},
    {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 4, "num_stages": 2},
    {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 8, "num_stages": 2},
    {"BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 4, "num_stages": 2},
    {"BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 8, "num_stages": 2},
    {"BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 4, "num_stages": 2},
    {"BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 8, "num_stages": 1},
]
KEY = ["SCORE", "FORM", "BLOCK_D", "BLOCK_V", "COMPUTE", "HALF", "DROP", "TILED"]


@triton.jit
def _query_step(
    head, query, grad_output, grad_weights, statistic, last_places, delta, row, column, grads_of, totals_of, started,
    grad_bias, gradient, row_sums, mean, share, parameter, dropout, seed,
    SCORE: tl.constexpr, FORM: tl.constexpr, SIZE: tl.constexpr, CHANNELS: tl.constexpr, VALUE_SIZE: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, COMPUTE: tl.constexpr, HALF: tl.constexpr, DROP: tl.constexpr,
    BIAS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EDGE: tl.constexpr, MEAN: tl.constexpr,
):  # fmt: skip
    """Add one block of keys to the gradient of a tile of queries, or with `MEAN` to the mean of its gradients."""
    key = load_rows(head.key, head.key_stride, column, head.key_len, SIZE, BLOCK_D, BLOCK_N, EDGE)
    value = load_rows(head.value, head.value_stride, column, head.key_len, VALUE_SIZE, BLOCK_V, BLOCK_N, EDGE)
    _, slopes, grads = gradient_tile(
        head, query, key, value, grad_output, grad_weights, statistic, last_places, row, column,
        parameter, dropout, seed,
        SCORE, FORM, SIZE, CHANNELS, COMPUTE, HALF, DROP, BLOCK_M, BLOCK_N, EDGE,
    )  # fmt: skip
    if MEAN:
        mean += tl.sum(slopes * grads, 1)
        share += tl.sum(slopes, 1)
    else:
        grads = slopes * (grads - delta[:, None])
        if FORM == "softmax":
            grads *= 1 / parameter
        rows = row + tl.arange(0, BLOCK_M)
        columns = column + tl.arange(0, BLOCK_N)
        if BIAS == "tile":
            pointers = grad_bias + (rows.to(tl.int64) * head.key_len)[:, None] + columns[None, :]
            inside = (rows < head.query_len)[:, None] & (columns < head.key_len)[None, :]
            tl.store(pointers, grads, mask=inside)
        if SCORE == "additive":
            additive_gradient_tile(
                grads, head, tl.minimum(rows, head.query_len - 1), tl.minimum(columns, head.key_len - 1),
                grads_of, totals_of, rows, rows < head.query_len, head.query_len, started, 1, True,
                SIZE, CHANNELS, COMPUTE,
            )  # fmt: skip
            if BIAS == "rows":
                row_sums += tl.sum(grads, 1)
        else:
            factor = cast_like(grads, key)
            if SCORE == "distance":
                if head.centre is not None:
                    channels = tl.arange(0, BLOCK_D)
                    key -= tl.load(head.centre + channels, mask=channels < SIZE, other=0.0)[None, :]
                row_sums += tl.sum(factor.to(COMPUTE), 1)
            elif BIAS == "rows":
                row_sums += tl.sum(grads, 1)
            gradient += product(factor, key, COMPUTE)
    return gradient, row_sums, mean, share


@triton.jit
def _query_pass(
    head, span, listed, count, query, grad_output, grad_weights, statistic, last_places, delta, row,
    grads_of, totals_of, grad_bias, gradient, row_sums, mean, share, parameter, dropout, seed,
    SCORE: tl.constexpr, FORM: tl.constexpr, SIZE: tl.constexpr, CHANNELS: tl.constexpr, VALUE_SIZE: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, COMPUTE: tl.constexpr, HALF: tl.constexpr, DROP: tl.constexpr,
    BIAS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EDGE: tl.constexpr, MEAN: tl.constexpr,
):  # fmt: skip
    """All blocks of keys that a tile of queries reads: the listed ones, or the inner ones and the others."""
    if listed is not None:
        for step in range(count):
            gradient, row_sums, mean, share = _query_step(
                head, query, grad_output, grad_weights, statistic, last_places, delta, row,
                tl.load(listed + step) * BLOCK_N, grads_of, totals_of, step > 0,
                grad_bias, gradient, row_sums, mean, share, parameter, dropout, seed,
                SCORE, FORM, SIZE, CHANNELS, VALUE_SIZE, BLOCK_D, BLOCK_V, COMPUTE, HALF, DROP, BIAS,
                BLOCK_M, BLOCK_N, EDGE, MEAN,
            )  # fmt: skip
    else:
        inner = span.inner_last - span.inner_first
        for step in range(inner):
            gradient, row_sums, mean, share = _query_step(
                head, query, grad_output, grad_weights, statistic, last_places, delta, row,
                (span.inner_first + step) * BLOCK_N, grads_of, totals_of, step > 0,
                grad_bias, gradient, row_sums, mean, share, parameter, dropout, seed,
                SCORE, FORM, SIZE, CHANNELS, VALUE_SIZE, BLOCK_D, BLOCK_V, COMPUTE, HALF, DROP, BIAS,
                BLOCK_M, BLOCK_N, False, MEAN,
            )  # fmt: skip
        for step in range(span.last - span.first - inner):
            gradient, row_sums, mean, share = _query_step(
                head, query, grad_output, grad_weights, statistic, last_places, delta, row,
                edge_block(step, span.first, span.inner_first, span.inner_last) * BLOCK_N,
                grads_of, totals_of, (step > 0) | (inner > 0),
                grad_bias, gradient, row_sums, mean, share, parameter, dropout, seed,
                SCORE, FORM, SIZE, CHANNELS, VALUE_SIZE, BLOCK_D, BLOCK_V, COMPUTE, HALF, DROP, BIAS,
                BLOCK_M, BLOCK_N, True, MEAN,
            )  # fmt: skip
    return gradient, row_sums, mean, share


@triton.jit(do_not_specialize=["seed"])
def _query_gradient(
    operands, lists, counts, output, grad_output, grad_weights, statistic, last_places,
    delta, grad_query, grads_of, totals_of, grad_bias, parameter, dropout, seed,
    SCORE: tl.constexpr, FORM: tl.constexpr, SIZE: tl.constexpr, CHANNELS: tl.constexpr, VALUE_SIZE: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, COMPUTE: tl.constexpr, HALF: tl.constexpr, DROP: tl.constexpr,
    TILED: tl.constexpr,
    BIAS: tl.constexpr, MEAN: tl.constexpr, EDGE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The gradient of a tile of queries, each query's delta, and what `BIAS` says of the bias."""
    tiles = tl.cdiv(operands.query_len, BLOCK_M)
    place = tl.program_id(0) // tiles
    tile = tiles - 1 - tl.program_id(0) % tiles
    row = tile * BLOCK_M
    rows = row + tl.arange(0, BLOCK_M)
    inside = rows < operands.query_len
    head = head_of(operands, place // operands.heads, place % operands.heads, SIZE, CHANNELS)
    parameter = parameter_of(parameter, COMPUTE)
    dropout = parameter_of(dropout, COMPUTE)
    place = place.to(tl.int64)
    start = place * head.query_len
    statistic += start * (3 if FORM == "top" else 2)
    if last_places is not None:
        last_places += start
    if grad_weights is not None:
        grad_weights += start * head.key_len
    if BIAS == "tile":
        grad_bias += start * head.key_len
    if SCORE == "additive":
        grads_of += start * CHANNELS
        totals_of += start * CHANNELS
    span = span_of(head, row, BLOCK_M, BLOCK_N)
    count = 0
    if lists is not None:
        lists += (place * tiles + tile) * tl.cdiv(head.key_len, BLOCK_N)
        count = tl.load(counts + place * tiles + tile)
    query = load_rows(head.query, head.query_stride, row, head.query_len, SIZE, BLOCK_D, BLOCK_M, True)
    gradient_out = load_rows(
        grad_output + start * VALUE_SIZE, VALUE_SIZE, row, head.query_len, VALUE_SIZE, BLOCK_V, BLOCK_M, True
    )
    gradient = tl.zeros((BLOCK_M, BLOCK_D), COMPUTE)
    row_sums = tl.zeros((BLOCK_M,), COMPUTE)
    mean = tl.zeros((BLOCK_M,), COMPUTE)
    share = tl.zeros((BLOCK_M,), COMPUTE)
    if MEAN:
        gradient, row_sums, mean, share = _query_pass(
            head, span, lists, count, query, gradient_out, grad_weights, statistic, last_places, mean, row,
            grads_of, totals_of, grad_bias, gradient, row_sums, mean, share, parameter, dropout, seed,
            SCORE, FORM, SIZE, CHANNELS, VALUE_SIZE, BLOCK_D, BLOCK_V, COMPUTE, HALF, DROP, BIAS,
            BLOCK_M, BLOCK_N, EDGE, True,
        )  # fmt: skip
        mean = mean / tl.where(share == 0, 1.0, share)
    elif FORM != "sigmoid":
        out = load_rows(
            output + start * VALUE_SIZE, VALUE_SIZE, row, head.query_len, VALUE_SIZE, BLOCK_V, BLOCK_M, True
        )
        mean = tl.sum(gradient_out.to(COMPUTE) * out.to(COMPUTE), 1)
    tl.store(delta + start + rows, mean, mask=inside)
    gradient, row_sums, _, _ = _query_pass(
        head, span, lists, count, query, gradient_out, grad_weights, statistic, last_places, mean, row,
        grads_of, totals_of, grad_bias, gradient, row_sums, mean, share, parameter, dropout, seed,
        SCORE, FORM, SIZE, CHANNELS, VALUE_SIZE, BLOCK_D, BLOCK_V, COMPUTE, HALF, DROP, BIAS,
        BLOCK_M, BLOCK_N, EDGE, False,
    )  # fmt: skip
    if BIAS == "rows":
        tl.store(grad_bias + start + rows, row_sums, mask=inside)
    if SCORE != "additive":
        if SCORE == "distance":
            query = query.to(COMPUTE)
            if head.centre is not None:
                channels = tl.arange(0, BLOCK_D)
                query -= tl.load(head.centre + channels, mask=channels < SIZE, other=0.0)[None, :]
            gradient = 2 * (gradient - row_sums[:, None] * query)
        store_rows(grad_query + start * SIZE, gradient, row, head.query_len, SIZE, BLOCK_D, BLOCK_M)


@triton.jit
def _key_step(
    head, key, value, grad_output, grad_weights, statistic, last_places, delta, row, column, grads_of, started,
    gradient, of_value, column_sums, bias_sums, parameter, dropout, seed,
    SCORE: tl.constexpr, FORM: tl.constexpr, SIZE: tl.constexpr, CHANNELS: tl.constexpr, VALUE_SIZE: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, COMPUTE: tl.constexpr, HALF: tl.constexpr, DROP: tl.constexpr,
    BIAS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """Add one block of queries to the gradients of a tile of keys and values."""
    query = load_rows(head.query, head.query_stride, row, head.query_len, SIZE, BLOCK_D, BLOCK_M, True)
    gradient_out = load_rows(grad_output, VALUE_SIZE, row, head.query_len, VALUE_SIZE, BLOCK_V, BLOCK_M, True)
    mean = load_vector(delta, row, head.query_len, 0.0, BLOCK_M, 1)
    weights, slopes, grads = gradient_tile(
        head, query, key, value, gradient_out, grad_weights, statistic, last_places, row, column,
        parameter, dropout, seed,
        SCORE, FORM, SIZE, CHANNELS, COMPUTE, HALF, DROP, BLOCK_M, BLOCK_N, EDGE,
    )  # fmt: skip
    of_value += product(tl.trans(cast_like(weights, gradient_out)), gradient_out, COMPUTE)
    if FORM != "hardmax":
        grads = slopes * (grads - mean[:, None])
        if FORM == "softmax":
            grads *= 1 / parameter
        if BIAS == "columns":
            bias_sums += tl.sum(grads, 0)
        if SCORE == "additive":
            columns = column + tl.arange(0, BLOCK_N)
            rows = row + tl.arange(0, BLOCK_M)
            additive_gradient_tile(
                tl.where((columns < head.key_len)[None, :], grads, 0.0), head,
                tl.minimum(rows, head.query_len - 1), tl.minimum(columns, head.key_len - 1),
                grads_of, grads_of, columns, columns < head.key_len, head.key_len, started, 0, False,
                SIZE, CHANNELS, COMPUTE,
            )  # fmt: skip
        else:
            factor = cast_like(grads, query)
            if SCORE == "distance":
                if head.centre is not None:
                    channels = tl.arange(0, BLOCK_D)
                    query -= tl.load(head.centre + channels, mask=channels < SIZE, other=0.0)[None, :]
                column_sums += tl.sum(factor.to(COMPUTE), 0)
            gradient += product(tl.trans(factor), query, COMPUTE)
    return gradient, of_value, column_sums, bias_sums


@triton.jit(do_not_specialize=["seed"])
def _key_gradient(
    operands, lists, counts, bounds, bounds_strides, grad_output, grad_weights, statistic, last_places,
    delta, grad_key, grad_value, grads_of, grad_bias, parameter, dropout, seed,
    SCORE: tl.constexpr, FORM: tl.constexpr, SIZE: tl.constexpr, CHANNELS: tl.constexpr, VALUE_SIZE: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, COMPUTE: tl.constexpr, HALF: tl.constexpr, DROP: tl.constexpr,
    TILED: tl.constexpr,
    BIAS: tl.constexpr, EDGE: tl.constexpr, GRAIN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The gradients of a tile of keys and values, from all query heads that read them."""
    blocks = tl.cdiv(operands.key_len, BLOCK_N)
    tiles = tl.cdiv(operands.query_len, BLOCK_M)
    key_heads = operands.heads // operands.group
    place = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    column = block * BLOCK_N
    columns = column + tl.arange(0, BLOCK_N)
    n = place // key_heads
    head = head_of(operands, n, place % key_heads * operands.group, SIZE, CHANNELS)
    parameter = parameter_of(parameter, COMPUTE)
    dropout = parameter_of(dropout, COMPUTE)
    place = place.to(tl.int64)
    if SCORE == "additive":
        grads_of += place * head.key_len * CHANNELS
    key = load_rows(head.key, head.key_stride, column, head.key_len, SIZE, BLOCK_D, BLOCK_N, True)
    value = load_rows(head.value, head.value_stride, column, head.key_len, VALUE_SIZE, BLOCK_V, BLOCK_N, True)
    gradient = tl.zeros((BLOCK_N, BLOCK_D), COMPUTE)
    of_value = tl.zeros((BLOCK_N, BLOCK_V), COMPUTE)
    column_sums = tl.zeros((BLOCK_N,), COMPUTE)
    done = 0
    for member in range(operands.group):
        h = place % key_heads * operands.group + member
        head = head_of(operands, n, h, SIZE, CHANNELS)
        own = n.to(tl.int64) * operands.heads + h
        start = own * head.query_len
        own_statistic = statistic + start * (3 if FORM == "top" else 2)
        own_last = last_places
        if last_places is not None:
            own_last += start
        own_weights = grad_weights
        if grad_weights is not None:
            own_weights += start * head.key_len
        own_grad = grad_output + start * VALUE_SIZE
        own_delta = delta + start
        bias_sums = tl.zeros((BLOCK_N,), COMPUTE)
        if lists is not None:
            listed = lists + (own * blocks + block) * tiles
            count = tl.load(counts + own * blocks + block)
            for step in range(count):
                gradient, of_value, column_sums, bias_sums = _key_step(
                    head, key, value, own_grad, own_weights, own_statistic, own_last, own_delta,
                    tl.load(listed + step) * BLOCK_M, column, grads_of, done + step > 0,
                    gradient, of_value, column_sums, bias_sums, parameter, dropout, seed,
                    SCORE, FORM, SIZE, CHANNELS, VALUE_SIZE, BLOCK_D, BLOCK_V, COMPUTE, HALF, DROP, BIAS,
                    BLOCK_M, BLOCK_N, EDGE,
                )  # fmt: skip
            done += count
        else:
            first = 0
            last = tiles
            inner_first = 0
            inner_last = tiles
            if EDGE:
                # Several grains of keys make a block: seen by any is the union, seen whole by all the intersection.
                grains = column // GRAIN + tl.arange(0, BLOCK_N // GRAIN)
                inside = grains < tl.cdiv(head.key_len, GRAIN)
                seen = bounds + n * bounds_strides[0] + h * bounds_strides[1] + grains * 4
                first = tl.min(tl.load(seen, mask=inside, other=0x7FFFFFFF), 0) // BLOCK_M
                last = tl.cdiv(tl.max(tl.load(seen + 1, mask=inside, other=0), 0), BLOCK_M)
                last = tl.maximum(last, first)
                inner_first = tl.cdiv(tl.max(tl.load(seen + 2, mask=inside, other=0), 0), BLOCK_M)
                inner_last = tl.min(tl.load(seen + 3, mask=inside, other=0x7FFFFFFF), 0)
                inner_last = tl.where(inner_last >= head.query_len, tiles, inner_last // BLOCK_M)
                whole = inner_last > inner_first
                inner_first = tl.where(whole, inner_first, last)
                inner_last = tl.where(whole, inner_last, last)
            for step in range(inner_first, inner_last):
                gradient, of_value, column_sums, bias_sums = _key_step(
                    head, key, value, own_grad, own_weights, own_statistic, own_last, own_delta,
                    step * BLOCK_M, column, grads_of, done + (step - inner_first) > 0,
                    gradient, of_value, column_sums, bias_sums, parameter, dropout, seed,
                    SCORE, FORM, SIZE, CHANNELS, VALUE_SIZE, BLOCK_D, BLOCK_V, COMPUTE, HALF, DROP, BIAS,
                    BLOCK_M, BLOCK_N, False,
                )  # fmt: skip
            done += inner_last - inner_first
            if EDGE:
                outer = last - first - (inner_last - inner_first)
                for step in range(outer):
                    gradient, of_value, column_sums, bias_sums = _key_step(
                        head, key, value, own_grad, own_weights, own_statistic, own_last, own_delta,
                        edge_block(step, first, inner_first, inner_last) * BLOCK_M, column,
                        grads_of, done + step > 0,
                        gradient, of_value, column_sums, bias_sums, parameter, dropout, seed,
                        SCORE, FORM, SIZE, CHANNELS, VALUE_SIZE, BLOCK_D, BLOCK_V, COMPUTE, HALF, DROP, BIAS,
                        BLOCK_M, BLOCK_N, True,
                    )  # fmt: skip
                done += outer
        if BIAS == "columns":
            tl.store(grad_bias + own * head.key_len + columns, bias_sums, mask=columns < head.key_len)
    start = place * head.key_len
    store_rows(grad_value + start * VALUE_SIZE, of_value, column, head.key_len, VALUE_SIZE, BLOCK_V, BLOCK_N)
    if (SCORE != "additive") and (FORM != "hardmax"):
        if SCORE == "distance":
            key = key.to(COMPUTE)
            if head.centre is not None:
                channels = tl.arange(0, BLOCK_D)
                key -= tl.load(head.centre + channels, mask=channels < SIZE, other=0.0)[None, :]
            gradient = 2 * (gradient - column_sums[:, None] * key)
        store_rows(grad_key + start * SIZE, gradient, column, head.key_len, SIZE, BLOCK_D, BLOCK_N)


query_gradient = tuned(SIZES, KEY, fits)(_query_gradient)
key_gradient = tuned(SIZES, KEY, fits)(_key_gradient)
query_gradient_listed = tuned(SPARSE_SIZES, KEY)(_query_gradient)
key_gradient_listed = tuned(SPARSE_SIZES, KEY)(_key_gradient)
