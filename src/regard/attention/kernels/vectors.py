"""What the inner loops of the kernels have in common: single numbers, and how an intrinsic is written.

Addresses are whole numbers, sizes and distances count numbers, not bytes; `zero`, a NumPy number of value 0, stands for
their type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from regard.attention.kernels.emit import I64, Emit, Value

__all__ = [
    "add_scaled",
    "fetch_add",
    "get",
    "instructions",
    "lane_sum",
    "like",
    "put",
    "take",
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


@intrinsic(prefer_literal=True)
def take(context: Any, address: Any, count: Any) -> Any:
    """The `count` (written out) whole numbers that begin at an address, as a tuple."""
    number = count.literal_value

    def codegen(context: Any, builder: Any, signature: Any, arguments: Sequence[Value]) -> Value:
        first = builder.inttoptr(arguments[0], I64.as_pointer())
        found = [builder.load(builder.gep(first, [ir.Constant(I64, n)])) for n in range(number)]
        return context.make_tuple(builder, signature.return_type, found)

    return types.UniTuple(types.int64, number)(types.intp, count), codegen


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


@intrinsic
def lane_sum(context: Any, address: Any, zero: Any) -> Any:
    """The sum of the numbers of one vector."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Sequence[Value]) -> Value:
        e = Emit(builder, zero)
        return e.total(e.load(arguments[0]))

    return zero(types.intp, zero), codegen
