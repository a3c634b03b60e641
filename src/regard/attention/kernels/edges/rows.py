"""Short rows of numbers: the scores or weights of one query's edges, and what normalisers make of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

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


def _row(count: int) -> Callable[[Callable[..., Value | None]], Any]:
    """An intrinsic of `count` whole numbers and a number, whose instructions the decorated function writes; it returns
    that number's type or nothing."""

    def decorated(write: Callable[..., Value | None]) -> Any:
        gives = write.__annotations__["return"] != "None"

        def codegen_of(number: Any) -> Any:
            def codegen(context: Any, builder: Any, signature: Any, arguments: Sequence[Value]) -> Value:
                found = write(Emit(builder, number), *arguments)
                return found if gives else context.get_dummy_value()

            return (number if gives else types.void)(*[types.intp] * count, number), codegen

        made: dict[int, Any] = {
            2: lambda context, a, b, number: codegen_of(number),
            3: lambda context, a, b, c, number: codegen_of(number),
        }
        typed = made[count]
        typed.__name__ = write.__name__
        return intrinsic(typed)

    return decorated


def _load(e: Emit, row: Value, i: Value, mask: Value | None, other: float = 0.0) -> Value:
    return e.load(row, i) if mask is None else e.load_some(row, i, mask, other)


def _store(e: Emit, value: Value, row: Value, i: Value, mask: Value | None) -> None:
    if mask is None:
        e.store(value, row, i)
    else:
        e.store_some(value, row, i, mask)


@_row(2)
def highest(e: Emit, row: Value, count: Value, zero: Value) -> Value:
    """The largest of `count` numbers; no number where one of them is none."""

    def body(i: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
        most, bad = carried
        some = _load(e, row, i, mask, float("-inf"))
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


@intrinsic
def softmax_row(context: Any, row: Any, count: Any, largest: Any, scale: Any) -> Any:
    """row = e^(scale (row - largest)); their sum. The largest is finite."""
    number = largest

    def codegen(context: Any, builder: Any, signature: Any, arguments: Sequence[Value]) -> Value:
        e = Emit(builder, number)
        row, count, largest, scale = arguments
        most, times, least = e.splat(largest), e.splat(scale), e.const(LEAST[e.bytes])

        def body(i: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
            x = builder.fmul(builder.fsub(_load(e, row, i, mask, float("-inf")), most), times)
            seen = builder.fcmp_ordered(">=", x, least)
            found = builder.select(seen, e.exp(builder.select(seen, x, least)), e.const(0.0))
            _store(e, found, row, i, mask)
            return [builder.fadd(carried[0], found)]

        return e.total(e.over(count, body, [e.const(0.0)])[0])

    return number(types.intp, types.intp, largest, scale), codegen


@_row(2)
def divide_row(e: Emit, row: Value, count: Value, total: Value) -> None:
    """row = row / total"""
    whole = e.splat(total)

    def body(i: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
        _store(e, e.b.fdiv(_load(e, row, i, mask), whole), row, i, mask)
        return []

    e.over(count, body)


@_row(2)
def sigmoid_row(e: Emit, row: Value, count: Value, shift: Value) -> None:
    """row = 1 / (1 + e^-(row + shift)), exactly zero for minus infinity."""
    more = e.splat(shift)

    def body(i: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
        x = e.b.fadd(_load(e, row, i, mask), more)
        power = e.exp(e.b.fneg(e.clamped(x, -LEAST[e.bytes])))
        found = e.b.fdiv(e.const(1.0), e.b.fadd(e.const(1.0), power))
        found = e.b.select(e.b.fcmp_ordered("<", x, e.const(LEAST[e.bytes])), e.const(0.0), found)
        _store(e, e.b.select(e.b.fcmp_unordered("uno", x, x), x, found), row, i, mask)
        return []

    e.over(count, body)


@intrinsic
def shape_row(context: Any, row: Any, count: Any, factor: Any, leak: Any) -> Any:
    """row = factor row, and where that is not above zero leak factor row"""
    number = factor

    def codegen(context: Any, builder: Any, signature: Any, arguments: Sequence[Value]) -> Value:
        e = Emit(builder, number)
        row, count, factor, leak = arguments
        times, less = e.splat(factor), e.splat(leak)

        def body(i: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
            _store(e, leaky(e, builder.fmul(_load(e, row, i, mask), times), less), row, i, mask)
            return []

        e.over(count, body)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, factor, leak), codegen


@intrinsic
def shape_slopes(context: Any, slopes: Any, row: Any, count: Any, factor: Any, leak: Any) -> Any:
    """The gradient of `row` from that of what `shape_row` makes of it, in its place."""
    number = factor

    def codegen(context: Any, builder: Any, signature: Any, arguments: Sequence[Value]) -> Value:
        e = Emit(builder, number)
        slopes, row, count, factor, leak = arguments
        times, less = e.splat(factor), e.splat(leak)

        def body(i: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
            slope = builder.fmul(_load(e, slopes, i, mask), times)
            above = builder.fcmp_ordered(">", builder.fmul(_load(e, row, i, mask), times), e.const(0.0))
            _store(e, builder.select(above, slope, builder.fmul(slope, less)), slopes, i, mask)
            return []

        e.over(count, body)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, factor, leak), codegen


@intrinsic
def copy_row(context: Any, row: Any, count: Any, out: Any, zero: Any) -> Any:
    """out = row"""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Sequence[Value]) -> Value:
        e = Emit(builder, zero)
        row, count, out, _ = arguments

        def body(i: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
            _store(e, _load(e, row, i, mask), out, i, mask)
            return []

        e.over(count, body)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, zero), codegen


def _through(share: Callable[[Emit, Value, Value], Value]) -> Any:
    def write(e: Emit, weights: Value, slopes: Value, count: Value, power: Value) -> None:
        exponent = e.splat(power)

        def of(i: Value, mask: Value | None) -> tuple[Value, Value]:
            s = share(e, _load(e, weights, i, mask, 1.0), exponent)
            if mask is not None:
                s = e.b.select(mask, s, e.const(0.0))
            return s, _load(e, slopes, i, mask)

        def add(i: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
            s, g = of(i, mask)
            return [e.b.fadd(carried[0], s), e.fma(s, g, carried[1])]

        whole, mean = (e.total(part) for part in e.over(count, add, [e.const(0.0)] * 2))
        mean = e.splat(e.b.fdiv(mean, whole))

        def put(i: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
            s, g = of(i, mask)
            _store(e, e.b.fmul(s, e.b.fsub(g, mean)), slopes, i, mask)
            return []

        e.over(count, put)

    write.__name__ = f"through_{share.__name__}"
    return _row(3)(write)


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
