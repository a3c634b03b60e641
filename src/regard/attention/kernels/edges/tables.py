"""Normalisers of the scores along edges where the heads of an edge lie beside each other: a lane for each head.

The scores of one query are a table with a row for each of its edges and a column for each head. Every column becomes
weights without being taken apart from the others. Rows are whole vectors: what is read soon after it was written must
not have been written by a mask. Such tables are short: sums are taken in the precision of the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

from regard.attention.kernels.edges.intrinsics import emitted
from regard.attention.kernels.edges.rows import LEAST, itself, one, raised, root
from regard.attention.kernels.emit import Emit, Value

__all__ = [
    "heads_compact",
    "heads_entmax15",
    "heads_softmax",
    "heads_sparsemax",
    "heads_through_itself",
    "heads_through_one",
    "heads_through_power",
    "heads_through_root",
]

STEPS = 100
"""Newton's steps to a threshold, at most: as `forward.entmax` takes."""


class Columns:
    """Some columns of a table, as many as a vector has lanes."""

    def __init__(self, e: Emit, table: Value, count: Value, heads: Value, start: Value) -> None:
        self.e, self.table, self.count, self.heads, self.start = e, table, count, heads, start

    def get(self, n: Value) -> Value:
        return self.e.load(self.table, self.e.add(self.e.mul(n, self.heads), self.start))

    def put(self, value: Value, n: Value) -> None:
        self.e.store(value, self.table, self.e.add(self.e.mul(n, self.heads), self.start))

    def over(self, carried: Sequence[Value], body: Callable[..., Sequence[Value]]) -> list[Value]:
        """`carried = body(n, number, *carried)` for the numbers of each row."""
        return self.e.loop(0, self.count, 1, carried, lambda n, *c: body(n, self.get(n), *c))

    def largest(self) -> Value:
        """The largest of each column; no number where one of them is none."""
        e = self.e

        def body(n: Value, x: Value, most: Value, bad: Value) -> list[Value]:
            return [
                e.b.select(e.b.fcmp_ordered(">", x, most), x, most),
                e.b.or_(bad, e.b.fcmp_unordered("uno", x, x)),
            ]

        good = ir.Constant(ir.VectorType(ir.IntType(1), e.lanes), [0] * e.lanes)
        most, bad = self.over([e.const(float("-inf")), good], body)
        return e.b.select(bad, e.const(float("nan")), most)

    def finish(self, weights: Value, most: Value, n: Value) -> None:
        """Write weights, but zeros where nothing is seen and no numbers where the largest is none or infinite."""
        e = self.e
        weights = e.b.select(
            e.b.fcmp_unordered("uge", most, e.const(float("inf"))), e.const(float("nan")), weights
        )
        self.put(e.b.select(e.b.fcmp_ordered("==", most, e.const(float("-inf"))), e.const(0.0), weights), n)


def _table(become: Callable[[Columns, Value], None]) -> Callable[..., None]:
    """An intrinsic of a table, its rows and columns, and a number, whose instructions the decorated function writes for
    some columns at a time."""

    def write(e: Emit, table: Value, count: Value, heads: Value, number: Value) -> None:
        extra = e.splat(number)

        def some(start: Value) -> list[Value]:
            become(Columns(e, table, count, heads, start), extra)
            return []

        e.loop(0, heads, e.lanes, [], some)

    return emitted(write)


@_table
def heads_softmax(t: Columns, scale: Value) -> None:
    """e^(scale (score - largest)) over its sum"""
    e, most = t.e, t.largest()
    least = e.const(LEAST[e.bytes])

    def powers(n: Value, x: Value, total: Value) -> list[Value]:
        x = e.b.fmul(e.b.fsub(x, most), scale)
        seen = e.b.fcmp_ordered(">=", x, least)
        found = e.b.select(seen, e.exp(e.b.select(seen, x, least)), e.const(0.0))
        t.put(found, n)
        return [e.b.fadd(total, found)]

    (total,) = t.over([e.const(0.0)], powers)

    def divide(n: Value, x: Value) -> list[Value]:
        t.finish(e.b.fdiv(x, total), most, n)
        return []

    t.over([], divide)


def _until(e: Emit, carried: Value, step: Callable[[Value], Value]) -> Value:
    """`carried = step(carried)` in every lane in which that makes it larger, as long as there is one."""
    b, before = e.b, e.b.block
    inside, after = b.append_basic_block("step"), b.append_basic_block("settled")
    b.branch(inside)
    b.position_at_end(inside)
    count, value = b.phi(ir.IntType(64)), b.phi(carried.type)
    count.add_incoming(e.whole_number(0), before)
    value.add_incoming(carried, before)
    new = step(value)
    larger = b.fcmp_ordered(">", new, value)
    new = b.select(larger, new, value)
    some = b.bitcast(larger, ir.IntType(e.lanes))
    more = e.add(count, 1)
    again = b.and_(
        b.icmp_signed("!=", some, ir.Constant(some.type, 0)), b.icmp_signed("<", more, e.whole_number(STEPS))
    )
    count.add_incoming(more, b.block)
    value.add_incoming(new, b.block)
    b.cbranch(again, inside, after)
    b.position_at_end(after)
    return new


@_table
def heads_sparsemax(t: Columns, zero: Value) -> None:
    """max(score - threshold, 0), which sum to one; the threshold by Newton's steps from the left."""
    e, most, none = t.e, t.largest(), t.e.const(0.0)

    def counted(threshold: Value) -> tuple[Value, Value]:
        """How far the scores that are above it are above it, and how many they are."""

        def body(n: Value, x: Value, total: Value, count: Value) -> list[Value]:
            above = e.b.fsub(e.b.fsub(x, most), threshold)
            inside = e.b.fcmp_ordered(">", above, none)
            return [
                e.b.fadd(total, e.b.select(inside, above, none)),
                e.b.fadd(count, e.b.select(inside, e.const(1.0), none)),
            ]

        total, count = t.over([none, none], body)
        return total, count

    def step(threshold: Value) -> Value:
        total, count = counted(threshold)
        return e.b.fadd(threshold, e.b.fdiv(e.b.fsub(total, e.const(1.0)), count))

    threshold = _until(e, e.const(-1.0), step)
    # Once more from the support, without the rounding of the steps.
    total, count = counted(threshold)
    beyond = e.b.fdiv(e.b.fsub(total, e.const(1.0)), count)

    def write(n: Value, x: Value) -> list[Value]:
        above = e.b.fsub(e.b.fsub(e.b.fsub(x, most), threshold), beyond)
        t.finish(e.b.select(e.b.fcmp_ordered(">", above, none), above, none), most, n)
        return []

    t.over([], write)


@_table
def heads_entmax15(t: Columns, zero: Value) -> None:
    """max(score / 2 - threshold, 0)^2 likewise"""
    e, most, none, half = t.e, t.largest(), t.e.const(0.0), t.e.const(0.5)

    def above(x: Value, threshold: Value) -> Value:
        found = e.b.fsub(e.b.fmul(e.b.fsub(x, most), half), threshold)
        return e.b.select(e.b.fcmp_ordered(">", found, none), found, none)

    def squared(threshold: Value) -> tuple[Value, Value]:
        def body(n: Value, x: Value, total: Value, squares: Value) -> list[Value]:
            u = above(x, threshold)
            return [e.b.fadd(total, u), e.fma(u, u, squares)]

        total, squares = t.over([none, none], body)
        return total, squares

    def step(threshold: Value) -> Value:
        total, squares = squared(threshold)
        norm = root(e, squares, none)
        return e.b.fadd(threshold, e.b.fdiv(e.b.fmul(e.b.fsub(norm, e.const(1.0)), norm), total))

    threshold = _until(e, e.const(-1.0), step)
    # The rest of the rounding: each weight gives of it by its slope.
    total, squares = squared(threshold)
    beyond = e.b.fdiv(e.b.fmul(e.b.fsub(squares, e.const(1.0)), half), total)

    def write(n: Value, x: Value) -> list[Value]:
        u = above(x, threshold)
        less = e.b.fsub(u, beyond)
        less = e.b.select(e.b.fcmp_ordered(">", less, none), less, none)
        less = e.b.select(e.b.fcmp_ordered(">", u, none), less, none)
        t.finish(e.b.fmul(less, less), most, n)
        return []

    t.over([], write)


def _through(share: Callable[[Emit, Value, Value], Value]) -> Callable[..., None]:
    def write(
        e: Emit,
        weights: Value,
        slopes: Value,
        count: Value,
        heads: Value,
        width: Value,
        power: Value,
        scale: Value,
    ) -> None:
        exponent, times, none = e.splat(power), e.splat(scale), e.const(0.0)

        def some(start: Value) -> list[Value]:
            above, mask = Columns(e, slopes, count, width, start), e.first(e.b.sub(heads, start))

            def of(n: Value) -> Value:
                w = e.load_some(weights, e.add(e.mul(n, heads), start), mask)
                return e.b.select(e.b.fcmp_unordered("une", w, none), share(e, w, exponent), none)

            def add(n: Value, g: Value, total: Value, mean: Value) -> list[Value]:
                s = of(n)
                return [e.b.fadd(total, s), e.fma(s, g, mean)]

            total, mean = above.over([none, none], add)
            total = e.b.select(e.b.fcmp_ordered("==", total, none), e.const(1.0), total)
            mean = e.b.fdiv(mean, total)

            def put(n: Value, g: Value) -> list[Value]:
                above.put(e.b.fmul(e.b.fmul(of(n), e.b.fsub(g, mean)), times), n)
                return []

            above.over([], put)
            return []

        e.loop(0, heads, e.lanes, [], some)

    return emitted(write)


@emitted
def heads_compact(
    e: Emit, table: Value, count: Value, heads: Value, width: Value, out: Value, zero: Value
) -> None:
    """Write a table whose rows are `width` apart without what is between them."""

    def some(start: Value) -> list[Value]:
        mask = e.first(e.b.sub(heads, start))

        def each(n: Value) -> list[Value]:
            found = e.load(table, e.add(e.mul(n, width), start))
            e.store_some(found, out, e.add(e.mul(n, heads), start), mask)
            return []

        return e.loop(0, count, 1, [], each)

    e.loop(0, heads, e.lanes, [], some)


heads_through_one = _through(one)
"""slopes = scale s (slopes - sum s slopes / sum s) of every column, with s = 1 where there is a weight: sparsemax.
Slopes are a table whose rows are `width` apart, weights are not padded."""
heads_through_root = _through(root)
"""s = sqrt(weights): entmax with alpha = 1.5."""
heads_through_power = _through(raised)
"""s = weights^power."""
heads_through_itself = _through(itself)
"""s = weights: softmax."""
