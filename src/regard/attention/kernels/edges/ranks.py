"""Normalisers of a row of scores that fits into one vector: each is compared with every other, nothing is sorted.

The scores that are at least as large as a score tell whether it is in the support, and how many are larger, whether it
is among the best; that takes a few instructions for each score, and no branch whose way cannot be foreseen.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from regard.attention.kernels.edges.intrinsics import emitted
from regard.attention.kernels.emit import I64, Emit, Value

__all__ = ["best_of_row", "entmax15_row", "sparsemax_row"]


def _ranked(become: Callable[[Emit, Value, Value, Value, Value], Value]) -> Callable[..., None]:
    """An intrinsic of a row, how many scores it has (at most one vector's) and a number, the largest of them or how
    many are to be kept; the decorated function tells what is to be in the row's place."""

    def write(e: Emit, row: Value, count: Value, number: Value) -> None:
        mask = e.first(count)
        x = e.load_some(row, 0, mask, float("-inf"))
        e.store_some(become(e, row, count, x, e.splat(number)), row, 0, mask)

    return emitted(write)


def _popcount(e: Emit, chosen: Value) -> Value:
    """How many lanes are true, in all lanes of numbers."""
    return e.splat(e.total(e.b.select(chosen, e.const(1.0), e.const(0.0))))


@_ranked
def sparsemax_row(e: Emit, row: Value, count: Value, x: Value, largest: Value) -> Value:
    """row = max(row - threshold, 0), which sum to one (Martins and Astudillo 2016, algorithm 1)"""
    b, none, one = e.b, e.const(0.0), e.const(1.0)
    x = b.fsub(x, largest)

    def body(n: Value, total: Value, above: Value) -> list[Value]:
        other = b.fsub(e.broadcast(row, n), largest)
        larger = b.fcmp_ordered(">=", other, x)
        return [b.fadd(total, b.select(larger, other, none)), b.fadd(above, b.select(larger, one, none))]

    total, above = e.loop(0, count, 1, [none, none], body)
    inside = b.fcmp_ordered(">", e.fma(above, x, one), total)
    whole = e.splat(e.total(b.select(inside, x, none)))
    threshold = b.fdiv(b.fsub(whole, one), _popcount(e, inside))
    found = b.fsub(x, threshold)
    return b.select(b.and_(inside, b.fcmp_ordered(">", found, none)), found, none)


@_ranked
def entmax15_row(e: Emit, row: Value, count: Value, x: Value, largest: Value) -> Value:
    """row = max(row / 2 - threshold, 0)^2 likewise (Peters et al. 2019, algorithm 2)"""
    b, none, one, half = e.b, e.const(0.0), e.const(1.0), e.const(0.5)
    x = b.fmul(b.fsub(x, largest), half)

    def body(n: Value, total: Value, squares: Value, above: Value) -> list[Value]:
        other = b.fmul(b.fsub(e.broadcast(row, n), largest), half)
        larger = b.fcmp_ordered(">=", other, x)
        kept = b.select(larger, other, none)
        return [b.fadd(total, kept), e.fma(kept, kept, squares), b.fadd(above, b.select(larger, one, none))]

    total, squares, above = e.loop(0, count, 1, [none] * 3, body)
    mean = b.fdiv(total, above)
    apart = e.fma(b.fneg(total), mean, squares)
    # Only scores less than one below the best may have weight: of others the squares are too large to be told apart.
    near = b.fcmp_ordered(">", x, e.const(-1.0))
    inside = b.and_(near, b.fcmp_ordered("<", b.fsub(mean, _root(e, b.fdiv(b.fsub(one, apart), above))), x))
    found = _popcount(e, inside)
    mean = b.fdiv(e.splat(e.total(b.select(inside, x, none))), found)
    off = b.select(inside, b.fsub(x, mean), none)
    apart = e.splat(e.total(b.fmul(off, off)))
    u = b.fsub(x, b.fsub(mean, _root(e, b.fdiv(b.fsub(one, apart), found))))
    u = b.select(b.and_(inside, b.fcmp_ordered(">", u, none)), u, none)
    return b.fmul(u, u)


def _root(e: Emit, x: Value) -> Value:
    x = e.b.select(e.b.fcmp_ordered(">", x, e.const(0.0)), x, e.const(0.0))
    return e.call(f"llvm.sqrt.{e.suffix}", x)


@_ranked
def best_of_row(e: Emit, row: Value, count: Value, x: Value, most: Value) -> Value:
    """row = row for the `most` largest, of equals the first, and minus infinity for the others"""
    b, none, one = e.b, e.const(0.0), e.const(1.0)
    order = ir.Constant(ir.VectorType(I64, e.lanes), list(range(e.lanes)))

    def body(n: Value, before: Value) -> list[Value]:
        other = e.broadcast(row, n)
        undefined = ir.Constant(ir.VectorType(I64, e.lanes), ir.Undefined)
        place = b.insert_element(undefined, n, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), e.lanes), [0] * e.lanes)
        later = b.icmp_signed("<", b.shuffle_vector(place, undefined, zeros), order)
        ahead = b.or_(b.fcmp_ordered(">", other, x), b.and_(b.fcmp_ordered("==", other, x), later))
        return [b.fadd(before, b.select(ahead, one, none))]

    (before,) = e.loop(0, count, 1, [none], body)
    return b.select(b.fcmp_ordered("<", before, most), x, e.const(float("-inf")))
