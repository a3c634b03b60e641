"""Passes over a row of scores: its best, the few that are near it, and the powers of which entmax is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from regard.attention.kernels.emit import I32, I64, WIDTH, Emit, Value

__all__ = [
    "GROUPS",
    "any_powers",
    "at_least",
    "best",
    "first_powers",
    "power_of",
    "raise_all",
    "second_powers",
]


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
    one = power_of(e, u, power)
    return e.b.fdiv(one, u), one


def power_of(e: Emit, u: Value, power: Value) -> Value:
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
            found = builder.select(builder.fcmp_ordered(">", u, none), power_of(e, u, power), none)
            if mask is None:
                e.store(found, row, i)
            else:
                e.store_some(found, row, i, mask)
            return []

        e.over(count, body)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, threshold, power), codegen
