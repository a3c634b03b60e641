"""Short rows of numbers: the scores or weights of one query's edges, and what normalisers make of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir
from numba.core import cgutils

from regard.attention.kernels.edges.intrinsics import emitted, load, store
from regard.attention.kernels.edges.lists import leaky
from regard.attention.kernels.emit import Emit, Value
from regard.attention.kernels.rows import power_of

__all__ = [
    "LEAST",
    "copy_row",
    "divide_row",
    "highest",
    "itself",
    "one",
    "raised",
    "root",
    "shape_row",
    "shape_slopes",
    "sigmoid_row",
    "softmax_row",
    "through_itself",
    "through_one",
    "through_power",
    "through_root",
]


@emitted
def highest(e: Emit, row: Value, count: Value, zero: Value) -> Value:
    """The largest of `count` numbers; no number where one of them is none."""

    def body(i: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
        most, bad = carried
        some = load(e, row, i, mask, float("-inf"))
        larger = e.b.select(e.b.fcmp_ordered(">", some, most), some, most)
        return [larger, e.b.or_(bad, e.b.fcmp_unordered("uno", some, some))]

    good = ir.Constant(ir.VectorType(ir.IntType(1), e.lanes), [0] * e.lanes)
    most, bad = e.over(count, body, [e.const(float("-inf")), good])
    kind = ir.FunctionType(e.scalar, [e.vector])
    reduce = cgutils.get_or_insert_function(e.b.module, kind, f"llvm.vector.reduce.fmax.{e.suffix}")
    found = e.b.call(reduce, [most], fastmath=["nnan"])
    bits = e.b.bitcast(bad, ir.IntType(e.lanes))
    wrong = e.b.icmp_signed("!=", bits, ir.Constant(bits.type, 0))
    return e.b.select(wrong, ir.Constant(e.scalar, float("nan")), found)


LEAST = {4: -80.0, 8: -700.0}
"""e to less than this counts as zero."""


@emitted
def softmax_row(e: Emit, row: Value, count: Value, largest: Value, scale: Value) -> Value:
    """row = e^(scale (row - largest)); their sum. The largest is finite."""
    most, times, least = e.splat(largest), e.splat(scale), e.const(LEAST[e.bytes])

    def body(i: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
        x = e.b.fmul(e.b.fsub(load(e, row, i, mask, float("-inf")), most), times)
        seen = e.b.fcmp_ordered(">=", x, least)
        found = e.b.select(seen, e.exp(e.b.select(seen, x, least)), e.const(0.0))
        store(e, found, row, i, mask)
        return [e.b.fadd(carried[0], found)]

    return e.total(e.over(count, body, [e.const(0.0)])[0])


@emitted
def divide_row(e: Emit, row: Value, count: Value, total: Value) -> None:
    """row = row / total"""
    whole = e.splat(total)

    def body(i: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
        store(e, e.b.fdiv(load(e, row, i, mask), whole), row, i, mask)
        return []

    e.over(count, body)


@emitted
def sigmoid_row(e: Emit, row: Value, count: Value, shift: Value) -> None:
    """row = 1 / (1 + e^-(row + shift)), exactly zero for minus infinity."""
    more = e.splat(shift)

    def body(i: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
        x = e.b.fadd(load(e, row, i, mask), more)
        power = e.exp(e.b.fneg(e.clamped(x, -LEAST[e.bytes])))
        found = e.b.fdiv(e.const(1.0), e.b.fadd(e.const(1.0), power))
        found = e.b.select(e.b.fcmp_ordered("<", x, e.const(LEAST[e.bytes])), e.const(0.0), found)
        store(e, e.b.select(e.b.fcmp_unordered("uno", x, x), x, found), row, i, mask)
        return []

    e.over(count, body)


@emitted
def shape_row(e: Emit, row: Value, count: Value, factor: Value, leak: Value) -> None:
    """row = factor row, and where that is not above zero leak factor row"""
    times, less = e.splat(factor), e.splat(leak)

    def body(i: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
        store(e, leaky(e, e.b.fmul(load(e, row, i, mask), times), less), row, i, mask)
        return []

    e.over(count, body)


@emitted
def shape_slopes(e: Emit, slopes: Value, row: Value, count: Value, factor: Value, leak: Value) -> None:
    """The gradient of `row` from that of what `shape_row` makes of it, in its place."""
    times, less = e.splat(factor), e.splat(leak)

    def body(i: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
        slope = e.b.fmul(load(e, slopes, i, mask), times)
        above = e.b.fcmp_ordered(">", e.b.fmul(load(e, row, i, mask), times), e.const(0.0))
        store(e, e.b.select(above, slope, e.b.fmul(slope, less)), slopes, i, mask)
        return []

    e.over(count, body)


@emitted
def copy_row(e: Emit, row: Value, count: Value, out: Value, zero: Value) -> None:
    """out = row"""

    def body(i: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
        store(e, load(e, row, i, mask), out, i, mask)
        return []

    e.over(count, body)


def _through(share: Callable[[Emit, Value, Value], Value]) -> Callable[..., None]:
    def write(e: Emit, weights: Value, slopes: Value, count: Value, power: Value) -> None:
        exponent = e.splat(power)

        def of(i: Value, mask: Value | None) -> tuple[Value, Value]:
            s = share(e, load(e, weights, i, mask, 1.0), exponent)
            if mask is not None:
                s = e.b.select(mask, s, e.const(0.0))
            return s, load(e, slopes, i, mask)

        def add(i: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
            s, g = of(i, mask)
            return [e.b.fadd(carried[0], s), e.fma(s, g, carried[1])]

        none = ir.Constant(e.scalar, 0.0)
        whole, mean = (e.total(part) for part in e.over(count, add, [e.const(0.0)] * 2))
        # Scores may all have overflown to minus infinity: then there is no weight.
        whole = e.b.select(e.b.fcmp_ordered("==", whole, none), ir.Constant(e.scalar, 1.0), whole)
        mean = e.splat(e.b.fdiv(mean, whole))

        def put(i: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
            s, g = of(i, mask)
            store(e, e.b.fmul(s, e.b.fsub(g, mean)), slopes, i, mask)
            return []

        e.over(count, put)

    return emitted(write)


def one(e: Emit, weight: Value, power: Value) -> Value:
    return e.fma(weight, e.const(0.0), e.const(1.0))  # no number where the weight is none


def root(e: Emit, weight: Value, power: Value) -> Value:
    return e.call(f"llvm.sqrt.{e.suffix}", weight)


def raised(e: Emit, weight: Value, power: Value) -> Value:
    return e.b.select(e.b.fcmp_unordered("uno", weight, weight), weight, power_of(e, weight, power))


def itself(e: Emit, weight: Value, power: Value) -> Value:
    return weight


through_one = _through(one)
"""slopes = s (slopes - sum s slopes / sum s) with s = 1: sparsemax."""
through_root = _through(root)
"""s = sqrt(weights): entmax with alpha = 1.5."""
through_power = _through(raised)
"""s = weights^power."""
through_itself = _through(itself)
"""s = weights: softmax."""
