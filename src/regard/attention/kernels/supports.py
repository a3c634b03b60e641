"""Sums over a support: some weights, and the places (int32) of their keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numba import types
from numba.extending import intrinsic

from regard.attention.kernels.emit import I32, I64, Emit, Value
from regard.attention.kernels.vectors import instructions

__all__ = [
    "additive_to_key",
    "additive_to_queries",
    "chunks",
    "dots",
    "place_of",
    "sum_rows",
]


@instructions
def sum_rows(
    e: Emit, weights: Value, places: Value, count: Value, rows: Value, size: Value, out: Value, stride: Value
) -> None:
    """out = sum_n weights[n] rows[places[n]], rows of `size` numbers `stride` apart."""
    most = 8

    def some(start: Value, vectors: int, mask: Value | None) -> None:
        def body(n: Value, *sums: Value) -> list[Value]:
            w = e.broadcast(weights, n)
            row = e.add(place_of(e, rows, places, n, stride), e.mul(start, e.bytes))
            if mask is not None:
                return [e.fma(w, e.load_some(row, 0, mask), sums[0])]
            return [e.fma(w, e.load(row, e.lanes * v), sums[v]) for v in range(vectors)]

        sums = e.loop(0, count, 1, [e.const(0.0)] * vectors, body)
        for v, total in enumerate(sums):
            if mask is None:
                e.store(total, out, e.add(start, e.lanes * v))
            else:
                e.store_some(total, out, start, mask)

    chunks(e, size, most, some)


def chunks(e: Emit, size: Value, most: int, some: Callable[[Value, int, Value | None], None]) -> None:
    """`some(start, vectors, mask)` for a row of `size` numbers: most, half, ... one vector at once, the rest masked."""
    start, vectors = e.whole_number(0), most
    while vectors:
        step = vectors * e.lanes
        end = e.add(start, e.mul(e.b.sdiv(e.b.sub(size, start), e.whole_number(step)), step))

        def step_by(i: Value, vectors: int = vectors) -> list[Value]:
            some(i, vectors, None)
            return []

        e.loop(start, end, step, [], step_by)
        start, vectors = end, vectors // 2
    mask = e.first(e.b.sub(size, start))
    e.when(e.b.icmp_signed("<", start, size), lambda: some(start, 1, mask))


def place_of(e: Emit, rows: Value, places: Value, n: Value, stride: Value) -> Value:
    """The address of the n-th row of a support."""
    address = e.add(places, e.mul(n, 4))
    place = e.b.sext(e.b.load(e.b.inttoptr(address, I32.as_pointer())), I64)
    return e.add(rows, e.mul(e.mul(place, stride), e.bytes))


@instructions
def dots(
    e: Emit, row: Value, places: Value, count: Value, rows: Value, size: Value, out: Value, stride: Value
) -> None:
    """out[n] = row . rows[places[n]]"""

    def each(n: Value) -> list[Value]:
        one = place_of(e, rows, places, n, stride)

        def body(d: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
            if mask is None:
                return [e.fma(e.load(row, d), e.load(one, d), carried[0])]
            return [e.fma(e.load_some(row, d, mask), e.load_some(one, d, mask), carried[0])]

        (total,) = e.over(size, body, [e.const(0.0)])
        e.b.store(e.total(total), e.at(out, n, e.scalar))
        return []

    e.loop(0, count, 1, [], each)


@instructions
def additive_to_queries(
    e: Emit, query: Value, places: Value, count: Value, keys: Value, size: Value, slopes: Value, out: Value
) -> None:
    """out[0] = sum_n slope[n] (1 - tanh^2), out[1] = sum_n slope[n] tanh, each of tanh(query + keys[places[n]]) and of
    `size` numbers: what the query's gradient and that of the weight are made of."""

    def some(start: Value, vectors: int, mask: Value | None) -> None:
        q = e.load(query, start) if mask is None else e.load_some(query, start, mask)

        def body(n: Value, *sums: Value) -> list[Value]:
            row = e.add(place_of(e, keys, places, n, size), e.mul(start, e.bytes))
            k = e.load(row) if mask is None else e.load_some(row, 0, mask)
            slope = e.broadcast(slopes, n)
            t = e.tanh(e.b.fadd(q, k))
            part = e.b.fmul(slope, t)
            return [e.b.fadd(sums[0], e.fma(e.b.fneg(part), t, slope)), e.b.fadd(sums[1], part)]

        steep, bent = e.loop(0, count, 1, [e.const(0.0)] * 2, body)
        for n, total in enumerate((steep, bent)):
            place = e.add(start, e.mul(size, n))
            if mask is None:
                e.store(total, out, place)
            else:
                e.store_some(total, out, place, mask)

    chunks(e, size, 1, some)


@intrinsic
def additive_to_key(context: Any, query: Any, key: Any, weight: Any, size: Any, slope: Any, out: Any) -> Any:
    """out += slope weight (1 - tanh^2(query + key))"""
    number = slope

    def codegen(context: Any, builder: Any, signature: Any, arguments: Sequence[Value]) -> Value:
        e = Emit(builder, number)
        query, key, weight, size, slope, out = arguments
        times = e.splat(slope)

        def body(d: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
            load = e.load if mask is None else lambda a, i: e.load_some(a, i, mask)
            q, k, w, before = (load(a, d) for a in (query, key, weight, out))
            t = e.tanh(e.b.fadd(q, k))
            after = e.fma(e.b.fmul(times, w), e.fma(e.b.fneg(t), t, e.const(1.0)), before)
            if mask is None:
                e.store(after, out, d)
            else:
                e.store_some(after, out, d, mask)
            return []

        e.over(size, body)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp, slope, types.intp), codegen
