"""The inner loops of the kernels, as functions that Numba calls: every one says which vectors it keeps in registers.

A compiler's vectoriser keeps no tile of sums, and prefers half the width that AVX-512 has. Addresses are whole numbers,
sizes and distances count numbers, not bytes; `zero`, a NumPy number of value 0, stands for their type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from regard.attention.kernels.emit import I32, I64, ROWS, VECTORS, WIDTH, Emit, Value

__all__ = [
    "GROUPS",
    "add_scaled",
    "additive_panel",
    "additive_row",
    "additive_slopes",
    "additive_to_key",
    "additive_to_queries",
    "any_powers",
    "at_least",
    "best",
    "distance_panel",
    "distance_row",
    "dots",
    "fetch_add",
    "first_powers",
    "get",
    "lane_sum",
    "like",
    "plain_additive_panel",
    "plain_additive_slopes",
    "product_panel",
    "product_row",
    "put",
    "raise_all",
    "second_powers",
    "small_additive_panel",
    "small_additive_slopes",
    "sum_rows",
]


def instructions(write: Callable[..., None]) -> Any:
    """An intrinsic of seven whole numbers and `zero`, whose instructions the decorated function writes."""

    def typed(context: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, zero: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Sequence[Value]) -> Value:
            write(Emit(builder, zero), *arguments[:-1])
            return context.get_dummy_value()

        return types.void(*[types.intp] * 7, zero), codegen

    typed.__name__ = write.__name__
    return intrinsic(typed)


# Single numbers


@intrinsic
def fetch_add(context: Any, address: Any) -> Any:
    """The whole number at an address, which becomes one more; no two threads get the same."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Sequence[Value]) -> Value:
        pointer = builder.inttoptr(arguments[0], I64.as_pointer())
        return builder.atomic_rmw("add", pointer, ir.Constant(I64, 1), "monotonic")

    return types.int64(types.intp), codegen


@intrinsic
def get(context: Any, address: Any, index: Any, zero: Any) -> Any:
    """The number `index` places after an address; its type is that of `zero`: a float, an int32, an int64 or a bool."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Sequence[Value]) -> Value:
        pointer = _pointer(context, builder, arguments[0], arguments[1], zero)
        return context.unpack_value(builder, zero, pointer)

    return zero(types.intp, types.intp, zero), codegen


@intrinsic
def put(context: Any, address: Any, index: Any, value: Any, zero: Any) -> Any:
    """Write a number `index` places after an address, as one of the type of `zero`."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Sequence[Value]) -> Value:
        pointer = _pointer(context, builder, arguments[0], arguments[1], zero)
        number = context.cast(builder, arguments[2], value, zero)
        context.pack_value(builder, zero, number, pointer)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, value, zero), codegen


@intrinsic
def like(context: Any, value: Any, zero: Any) -> Any:
    """A number as one of the type of `zero`."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Sequence[Value]) -> Value:
        return context.cast(builder, arguments[0], value, zero)

    return zero(value, zero), codegen


def _pointer(context: Any, builder: Any, address: Value, index: Value, kind: Any) -> Value:
    stored = context.get_data_type(kind)
    size = ir.Constant(I64, context.get_abi_sizeof(stored))
    return builder.inttoptr(builder.add(address, builder.mul(index, size)), stored.as_pointer())


# Scores of a tile: some queries, one under the other, against a panel of keys, whose channels lie one under the other


Step = Callable[[Emit, Value, Value, Value, Value], Value]


def _tile(step: Step) -> Callable[..., None]:
    def write(
        e: Emit,
        query: Value,
        key: Value,
        weight: Value,
        out: Value,
        size: Value,
        query_stride: Value,
        out_stride: Value,
    ) -> None:
        rows = [e.add(query, e.mul(query_stride, e.bytes * r)) for r in range(ROWS)]

        def body(d: Value, *sums: Value) -> list[Value]:
            panel = e.add(key, e.mul(d, e.bytes * e.lanes * VECTORS))
            keys = [e.load(panel, e.lanes * v) for v in range(VECTORS)]
            w = e.broadcast(weight, d)
            found = []
            for r in range(ROWS):
                q = e.broadcast(rows[r], d)
                found += [step(e, q, keys[v], w, sums[r * VECTORS + v]) for v in range(VECTORS)]
            return found

        sums = e.loop(0, size, 1, [e.const(0.0)] * (ROWS * VECTORS), body)
        _write_tile(e, out, out_stride, sums)

    return write


def _write_tile(e: Emit, out: Value, out_stride: Value, tile: Sequence[Value]) -> None:
    for r in range(ROWS):
        row = e.add(out, e.mul(out_stride, e.bytes * r))
        for v in range(VECTORS):
            e.store(tile[r * VECTORS + v], row, e.lanes * v)


def _product(e: Emit, query: Value, key: Value, weight: Value, total: Value) -> Value:
    return e.fma(query, key, total)


def _distance(e: Emit, query: Value, key: Value, weight: Value, total: Value) -> Value:
    apart = e.b.fsub(query, key)
    return e.fma(e.b.fneg(apart), apart, total)


def _additive(e: Emit, query: Value, key: Value, weight: Value, total: Value) -> Value:
    return e.fma(weight, e.tanh(e.b.fadd(query, key)), total)


def _small_additive(e: Emit, query: Value, key: Value, weight: Value, total: Value) -> Value:
    return e.fma(weight, e.small_tanh(e.b.fadd(query, key)), total)


CAP = {4: 2.0**29, 8: 2.0**58}
"""Above this 1 + e^2x is cut off: there the hyperbolic tangent is 1 to the last place."""


def _exponential_tanh(e: Emit, query: Value, key: Value) -> Value:
    """tanh x = 1 - 2 / (1 + e^2x) with e^2x the product of e^2query and e^2key."""
    x = e.smaller(e.fma(query, key, e.const(1.0)), e.const(CAP[e.bytes]))
    return e.fma(e.const(-2.0), e.inverse(x), e.const(1.0))


def _exponential_additive(e: Emit, query: Value, key: Value, weight: Value, total: Value) -> Value:
    return e.fma(weight, _exponential_tanh(e, query, key), total)


@instructions
def product_panel(e: Emit, *arguments: Value) -> None:
    """out[r, j] = sum_d query[r, d] key[d, j]"""
    _tile(_product)(e, *arguments)


@instructions
def distance_panel(e: Emit, *arguments: Value) -> None:
    """out[r, j] = -sum_d (query[r, d] - key[d, j])^2"""
    _tile(_distance)(e, *arguments)


@instructions
def plain_additive_panel(e: Emit, *arguments: Value) -> None:
    """out[r, j] = sum_d weight[d] tanh(query[r, d] + key[d, j])"""
    _tile(_additive)(e, *arguments)


@instructions
def small_additive_panel(e: Emit, *arguments: Value) -> None:
    """The same for small queries and keys."""
    _tile(_small_additive)(e, *arguments)


@instructions
def additive_panel(e: Emit, *arguments: Value) -> None:
    """The same from e^2query and e^2key: an exponential for each of them, none for a pair."""
    _tile(_exponential_additive)(e, *arguments)


# Scores of one query, whose keys lie one after the other as they are given


def _row(step: Step) -> Callable[..., None]:
    def write(
        e: Emit, query: Value, key: Value, weight: Value, out: Value, size: Value, count: Value, stride: Value
    ) -> None:
        def each(j: Value) -> list[Value]:
            one = e.add(key, e.mul(e.mul(j, stride), e.bytes))

            def body(d: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
                if mask is None:
                    q, k, w = (e.load(a, d) for a in (query, one, weight))
                    return [step(e, q, k, w, carried[0])]
                q, k, w = (e.load_some(a, d, mask) for a in (query, one, weight))
                return [step(e, q, k, w, carried[0])]

            (total,) = e.over(size, body, [e.const(0.0)])
            e.b.store(e.total(total), e.at(out, j, e.scalar))
            return []

        e.loop(0, count, 1, [], each)

    return write


@instructions
def product_row(e: Emit, *arguments: Value) -> None:
    """out[j] = sum_d query[d] key[j, d]"""
    _row(_product)(e, *arguments)


@instructions
def distance_row(e: Emit, *arguments: Value) -> None:
    """out[j] = -sum_d (query[d] - key[j, d])^2"""
    _row(_distance)(e, *arguments)


@instructions
def additive_row(e: Emit, *arguments: Value) -> None:
    """out[j] = sum_d weight[d] tanh(query[d] + key[j, d])"""
    _row(_additive)(e, *arguments)


# Rows of scores


CHAINS = 4
"""How many maxima of a row are kept side by side: each has to wait for the one before."""
GROUPS = CHAINS * WIDTH
"""How many bytes the maxima of a row's groups take."""


@intrinsic
def best(context: Any, row: Any, count: Any, maxima: Any, zero: Any) -> Any:
    """The largest of `count` numbers; no number where one of them is none.

    `maxima` gets the largest of `CHAINS` x lanes groups that do not meet, minus infinity where there is none.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Sequence[Value]) -> Value:
        e = Emit(builder, zero)
        row, count, maxima, _ = arguments
        none = e.const(float("-inf"))
        chains = CHAINS

        def larger(some: Value, most: Value, bad: Value) -> list[Value]:
            taken = builder.select(builder.fcmp_ordered(">", some, most), some, most)
            return [taken, builder.or_(bad, builder.fcmp_unordered("uno", some, some))]

        def four(i: Value, *carried: Value) -> list[Value]:
            found = [
                larger(e.load(row, e.add(i, e.lanes * c)), carried[2 * c], carried[2 * c + 1])
                for c in range(chains)
            ]
            return [value for pair in found for value in pair]

        good = ir.Constant(ir.VectorType(ir.IntType(1), e.lanes), [0] * e.lanes)
        whole = builder.and_(count, e.whole_number(-e.lanes * chains))
        kept = e.loop(0, whole, e.lanes * chains, [none, good] * chains, four)
        for c in range(chains):
            e.store(kept[2 * c], maxima, e.lanes * c)
        most, bad = kept[:2]
        for c in range(1, chains):
            most = builder.select(builder.fcmp_ordered(">", kept[2 * c], most), kept[2 * c], most)
            bad = builder.or_(bad, kept[2 * c + 1])
        rest = e.add(row, e.mul(whole, e.bytes))

        def one(i: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
            return larger(
                e.load(rest, i) if mask is None else e.load_some(rest, i, mask, float("-inf")), *carried
            )

        most, bad = e.over(builder.sub(count, whole), one, [most, bad])
        most = builder.select(bad, e.const(float("nan")), most)
        return e.call(f"llvm.vector.reduce.fmaximum.{e.suffix}", most, returns=e.scalar)

    return zero(types.intp, types.intp, types.intp, zero), codegen


@intrinsic
def at_least(context: Any, row: Any, count: Any, limit: Any, values: Any, places: Any) -> Any:
    """The numbers of a row that are at least `limit`, and their places (int32), one after the other; how many they are.

    Both need room for a vector more than that.
    """
    number = limit

    def codegen(context: Any, builder: Any, signature: Any, arguments: Sequence[Value]) -> Value:
        e = Emit(builder, number)
        row, count, limit, values, places = arguments
        least = e.splat(limit)
        lanes32 = ir.VectorType(I32, e.lanes)
        order, undefined = ir.Constant(lanes32, list(range(e.lanes))), ir.Constant(lanes32, ir.Undefined)
        bits = ir.IntType(e.lanes)

        def body(i: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
            (found,) = carried
            some = e.load(row, i) if mask is None else e.load_some(row, i, mask)
            chosen = builder.fcmp_ordered(">=", some, least)
            if mask is not None:
                chosen = builder.and_(chosen, mask)
            as_bits = builder.bitcast(chosen, bits)
            # Without a branch on whether there is any: where some vectors have one, guesses cost more than this.
            # (LLVM fails where no instruction does it and the lanes left over are to be given floats: AVX2, for one.)
            rest = ir.Constant(e.vector, ir.Undefined)
            e.store(
                e.call(f"llvm.experimental.vector.compress.{e.suffix}", some, chosen, rest),
                values,
                found,
            )
            first = builder.insert_element(undefined, builder.trunc(i, I32), ir.Constant(I32, 0))
            first = builder.shuffle_vector(first, undefined, ir.Constant(lanes32, [0] * e.lanes))
            where = e.call(
                f"llvm.experimental.vector.compress.v{e.lanes}i32",
                builder.add(first, order), chosen, ir.Constant(lanes32, [0] * e.lanes), returns=lanes32,
            )  # fmt: skip
            address = builder.add(places, builder.mul(found, ir.Constant(I64, 4)))
            builder.store(where, builder.inttoptr(address, lanes32.as_pointer()), align=4)
            kind = ir.FunctionType(bits, [bits])
            counted = cgutils.get_or_insert_function(builder.module, kind, f"llvm.ctpop.i{e.lanes}")
            return [builder.add(found, builder.zext(builder.call(counted, [as_bits]), I64))]

        (found,) = e.over(count, body, [e.whole_number(0)])
        return found

    return types.intp(types.intp, types.intp, limit, types.intp, types.intp), codegen


Powers = Callable[[Emit, Value, Value], tuple[Value, Value]]


def _powers(powers: Powers) -> Any:
    """An intrinsic of a row, its length, a threshold, a power p and where to write two sums over the row: those of
    u^(p - 1) and of u^p, with u = max(row - threshold, 0)."""

    def typed(context: Any, row: Any, count: Any, threshold: Any, power: Any, out: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Sequence[Value]) -> Value:
            e = Emit(builder, threshold)
            row, count, least, power, out = arguments
            least, power, none = e.splat(least), e.splat(power), e.const(0.0)

            def body(i: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
                some = e.load(row, i) if mask is None else e.load_some(row, i, mask, float("-inf"))
                u = builder.fsub(some, least)
                inside = builder.fcmp_ordered(">", u, none)
                found = powers(e, u, power)
                return [
                    builder.fadd(total, builder.select(inside, one, none))
                    for total, one in zip(carried, found, strict=True)
                ]

            for n, total in enumerate(e.over(count, body, [none, none])):
                builder.store(e.total(total), e.at(out, n, e.scalar))
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, threshold, power, types.intp), codegen

    typed.__name__ = powers.__name__
    return intrinsic(typed)


@_powers
def first_powers(e: Emit, u: Value, power: Value) -> tuple[Value, Value]:
    """p = 1: sparsemax."""
    return e.const(1.0), u


@_powers
def second_powers(e: Emit, u: Value, power: Value) -> tuple[Value, Value]:
    """p = 2: entmax with alpha = 1.5."""
    return u, e.b.fmul(u, u)


@_powers
def any_powers(e: Emit, u: Value, power: Value) -> tuple[Value, Value]:
    """Any p."""
    one = _power(e, u, power)
    return e.b.fdiv(one, u), one


def _power(e: Emit, u: Value, power: Value) -> Value:
    """u to a power of at least 1, for u to 1; what would be next to nothing is e^-80."""
    least = e.const(1e-30)
    u = e.b.select(e.b.fcmp_ordered(">", u, least), u, least)
    return e.exp(e.clamped(e.b.fmul(e.log(u), power), 80.0 if e.bytes == 4 else 700.0))


@intrinsic
def raise_all(context: Any, row: Any, count: Any, threshold: Any, power: Any) -> Any:
    """row = max(row - threshold, 0)^power"""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Sequence[Value]) -> Value:
        e = Emit(builder, threshold)
        row, count, least, power = arguments
        least, power, none = e.splat(least), e.splat(power), e.const(0.0)

        def body(i: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
            u = builder.fsub(e.load(row, i) if mask is None else e.load_some(row, i, mask), least)
            found = builder.select(builder.fcmp_ordered(">", u, none), _power(e, u, power), none)
            if mask is None:
                e.store(found, row, i)
            else:
                e.store_some(found, row, i, mask)
            return []

        e.over(count, body)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, threshold, power), codegen


# Sums over a support: some weights and the places (int32) of their keys


@instructions
def sum_rows(
    e: Emit, weights: Value, places: Value, count: Value, rows: Value, size: Value, out: Value, stride: Value
) -> None:
    """out = sum_n weights[n] rows[places[n]], rows of `size` numbers `stride` apart."""
    most = 8

    def some(start: Value, vectors: int, mask: Value | None) -> None:
        def body(n: Value, *sums: Value) -> list[Value]:
            w = e.broadcast(weights, n)
            row = e.add(_place(e, rows, places, n, stride), e.mul(start, e.bytes))
            if mask is not None:
                return [e.fma(w, e.load_some(row, 0, mask), sums[0])]
            return [e.fma(w, e.load(row, e.lanes * v), sums[v]) for v in range(vectors)]

        sums = e.loop(0, count, 1, [e.const(0.0)] * vectors, body)
        for v, total in enumerate(sums):
            if mask is None:
                e.store(total, out, e.add(start, e.lanes * v))
            else:
                e.store_some(total, out, start, mask)

    _chunks(e, size, most, some)


def _chunks(e: Emit, size: Value, most: int, some: Callable[[Value, int, Value | None], None]) -> None:
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


def _place(e: Emit, rows: Value, places: Value, n: Value, stride: Value) -> Value:
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
        one = _place(e, rows, places, n, stride)

        def body(d: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
            if mask is None:
                return [e.fma(e.load(row, d), e.load(one, d), carried[0])]
            return [e.fma(e.load_some(row, d, mask), e.load_some(one, d, mask), carried[0])]

        (total,) = e.over(size, body, [e.const(0.0)])
        e.b.store(e.total(total), e.at(out, n, e.scalar))
        return []

    e.loop(0, count, 1, [], each)


@intrinsic
def add_scaled(context: Any, row: Any, size: Any, factor: Any, out: Any) -> Any:
    """out += factor row"""
    number = factor

    def codegen(context: Any, builder: Any, signature: Any, arguments: Sequence[Value]) -> Value:
        e = Emit(builder, number)
        row, size, factor, out = arguments
        times = e.splat(factor)

        def body(d: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
            if mask is None:
                e.store(e.fma(times, e.load(row, d), e.load(out, d)), out, d)
            else:
                e.store_some(e.fma(times, e.load_some(row, d, mask), e.load_some(out, d, mask)), out, d, mask)
            return []

        e.over(size, body)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, factor, types.intp), codegen


@instructions
def additive_to_queries(
    e: Emit, query: Value, places: Value, count: Value, keys: Value, size: Value, slopes: Value, out: Value
) -> None:
    """out[0] = sum_n slope[n] (1 - tanh^2), out[1] = sum_n slope[n] tanh, each of tanh(query + keys[places[n]]) and of
    `size` numbers: what the query's gradient and that of the weight are made of."""

    def some(start: Value, vectors: int, mask: Value | None) -> None:
        q = e.load(query, start) if mask is None else e.load_some(query, start, mask)

        def body(n: Value, *sums: Value) -> list[Value]:
            row = e.add(_place(e, keys, places, n, size), e.mul(start, e.bytes))
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

    _chunks(e, size, 1, some)


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


Tanh = Callable[[Emit, Value, Value], Value]


def _slopes(tanh: Tanh) -> Callable[..., None]:
    def write(
        e: Emit,
        query: Value,
        key: Value,
        slopes: Value,
        size: Value,
        stride: Value,
        sums: Value,
        panel: Value,
    ) -> None:
        g = [
            [e.load(e.add(slopes, e.mul(stride, e.bytes * r)), e.lanes * v) for v in range(VECTORS)]
            for r in range(ROWS)
        ]
        none = e.const(0.0)
        rows = [e.add(query, e.mul(size, e.bytes * r)) for r in range(ROWS)]

        def body(d: Value) -> list[Value]:
            place = e.mul(d, e.lanes * VECTORS)
            keys = [e.load(key, e.add(place, e.lanes * v)) for v in range(VECTORS)]
            to_keys, bent = [none] * VECTORS, none
            # One vector a channel: the weight's sums, then those of every query.
            own = e.mul(d, e.lanes * (ROWS + 1))
            for r in range(ROWS):
                q = e.broadcast(rows[r], d)
                to_query = none
                for v in range(VECTORS):
                    t = tanh(e, q, keys[v])
                    part = e.b.fmul(g[r][v], t)
                    bent = e.b.fadd(bent, part)
                    steep = e.fma(e.b.fneg(part), t, g[r][v])
                    to_keys[v] = e.b.fadd(to_keys[v], steep)
                    to_query = e.b.fadd(to_query, steep)
                at = e.add(own, e.lanes * (r + 1))
                e.store(e.b.fadd(e.load(sums, at), to_query), sums, at)
            e.store(e.b.fadd(e.load(sums, own), bent), sums, own)
            for v in range(VECTORS):
                at = e.add(place, e.lanes * v)
                e.store(e.b.fadd(e.load(panel, at), to_keys[v]), panel, at)
            return []

        size_of_all = none
        for one in (one for row in g for one in row):
            size_of_all = e.b.fadd(size_of_all, e.magnitude(one))
        different = e.b.fcmp_unordered("!=", size_of_all, none)
        bits = e.b.bitcast(different, ir.IntType(e.lanes))
        something = e.b.icmp_signed("!=", bits, ir.Constant(bits.type, 0))
        e.when(something, lambda: (e.loop(0, size, 1, [], body), None)[1])

    return write


@instructions
def additive_slopes(e: Emit, *arguments: Value) -> None:
    """From e^2query, e^2key and the gradient `slopes` of a register tile of scores, with t = tanh(query + key).

    In `sums`, lane by lane: the sums over the keys of slope t, for all queries together, and of slope (1 - t^2), for
    each query; in `panel` the sums of the latter over the queries. A tile of zeros costs nothing.
    """
    _slopes(_exponential_tanh)(e, *arguments)


@instructions
def plain_additive_slopes(e: Emit, *arguments: Value) -> None:
    """The same from query and key."""
    _slopes(lambda e, query, key: e.tanh(e.b.fadd(query, key)))(e, *arguments)


@instructions
def small_additive_slopes(e: Emit, *arguments: Value) -> None:
    """The same from small ones."""
    _slopes(lambda e, query, key: e.small_tanh(e.b.fadd(query, key)))(e, *arguments)


@intrinsic
def lane_sum(context: Any, address: Any, zero: Any) -> Any:
    """The sum of the numbers of one vector."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Sequence[Value]) -> Value:
        e = Emit(builder, zero)
        return e.total(e.load(arguments[0]))

    return zero(types.intp, zero), codegen
