"""What dense weights need beside a tile of scores: sums of products by register tiles, and passes over a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numba import types
from numba.extending import intrinsic

from regard.attention.kernels.emit import ROWS, VECTORS, Emit, Value

__all__ = ["add_products", "bend_row", "exponential_row", "scale_row", "sigmoid_row", "steepen_row"]


@intrinsic
def add_products(
    context: Any,
    left: Any,
    left_row: Any,
    left_depth: Any,
    right: Any,
    right_depth: Any,
    out: Any,
    out_row: Any,
    depth: Any,
    zero: Any,
) -> Any:
    """out[r, c] += sum_d left[r, d] right[d, c], for a register tile of rows and of columns.

    In `left` a row is `left_row` numbers after the one before and a place in depth `left_depth`: one of them is 1.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Sequence[Value]) -> Value:
        e = Emit(builder, zero)
        left, left_row, left_depth, right, right_depth, out, out_row, depth, _ = arguments
        rows = [e.add(left, e.mul(left_row, e.bytes * r)) for r in range(ROWS)]
        outs = [e.add(out, e.mul(out_row, e.bytes * r)) for r in range(ROWS)]
        before = [e.load(outs[r], e.lanes * v) for r in range(ROWS) for v in range(VECTORS)]

        def body(d: Value, *sums: Value) -> list[Value]:
            one, place = e.mul(d, left_depth), e.add(right, e.mul(e.mul(d, right_depth), e.bytes))
            columns = [e.load(place, e.lanes * v) for v in range(VECTORS)]
            found = []
            for r in range(ROWS):
                factor = e.broadcast(rows[r], one)
                found += [e.fma(factor, columns[v], sums[r * VECTORS + v]) for v in range(VECTORS)]
            return found

        for place, total in enumerate(e.loop(0, depth, 1, before, body)):
            e.store(total, outs[place // VECTORS], e.lanes * (place % VECTORS))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 8, zero), codegen


Change = Callable[..., Value]


def _change(write: Callable[..., Callable[[Emit, Value], Value]]) -> Any:
    """An intrinsic of a row, its length and two numbers, which puts another number in the place of each and returns
    their sum; the decorated function makes, of the emitter and the two, what turns one vector into the other."""

    def typed(context: Any, row: Any, count: Any, one: Any, two: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Sequence[Value]) -> Value:
            e = Emit(builder, one)
            row, count, first, second = arguments
            turn, none = write(e, e.splat(first), e.splat(second)), e.const(0.0)

            def body(i: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
                found = turn(e, e.load(row, i) if mask is None else e.load_some(row, i, mask))
                if mask is None:
                    e.store(found, row, i)
                    return [builder.fadd(carried[0], found)]
                e.store_some(found, row, i, mask)
                return [builder.fadd(carried[0], builder.select(mask, found, none))]

            (total,) = e.over(count, body, [none])
            return e.total(total)

        return one(types.intp, types.intp, one, one), codegen

    typed.__name__ = write.__name__
    return intrinsic(typed)


def _below(e: Emit) -> Value:
    """Of less than this, the exponential is taken for 0: beside 1 it is nothing to the last place."""
    return e.const(-80.0 if e.bytes == 4 else -700.0)


def _exponential(e: Emit, x: Value) -> Value:
    """e to the x, for x of at most 0 (or a little above); 0 for much less; no number stays so."""
    least = _below(e)
    little = e.b.fcmp_ordered("<", x, least)
    found = e.b.select(little, e.const(0.0), e.exp(e.b.select(little, least, x)))
    return e.b.select(e.b.fcmp_unordered("uno", x, x), x, found)


@_change
def exponential_row(e: Emit, most: Value, times: Value) -> Callable[[Emit, Value], Value]:
    """row = e^((row - most) times)"""
    return lambda e, x: _exponential(e, e.b.fmul(e.b.fsub(x, most), times))


@_change
def sigmoid_row(e: Emit, shift: Value, _: Value) -> Callable[[Emit, Value], Value]:
    """row = 1 / (1 + e^-(row + shift))"""

    def turn(e: Emit, x: Value) -> Value:
        x = e.b.fadd(x, shift)
        size = _exponential(e, e.b.fneg(e.magnitude(x)))
        above = e.b.fdiv(e.const(1.0), e.b.fadd(size, e.const(1.0)))
        return e.b.select(e.b.fcmp_ordered("<", x, e.const(0.0)), e.b.fmul(size, above), above)

    return turn


@_change
def scale_row(e: Emit, times: Value, _: Value) -> Callable[[Emit, Value], Value]:
    """row = row times"""
    return lambda e, x: e.b.fmul(x, times)


def _slopes(write: Callable[[Emit, Value, Value, Value], Value]) -> Any:
    """An intrinsic of a row of weights, one of their gradients, the length and two numbers: the gradients become those
    of the scores."""

    def typed(context: Any, weights: Any, slopes: Any, count: Any, mean: Any, times: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Sequence[Value]) -> Value:
            e = Emit(builder, mean)
            weights, slopes, count, mean_, times_ = arguments
            mean_, times_ = e.splat(mean_), e.splat(times_)

            def body(i: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
                load = e.load if mask is None else lambda a, n: e.load_some(a, n, mask)
                weight = load(weights, i)
                found = e.b.fmul(write(e, weight, load(slopes, i), mean_), times_)
                # What has no weight has no slope, whatever the values of hidden keys are.
                found = e.b.select(e.b.fcmp_ordered("==", weight, e.const(0.0)), e.const(0.0), found)
                if mask is None:
                    e.store(found, slopes, i)
                else:
                    e.store_some(found, slopes, i, mask)
                return []

            e.over(count, body)
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, types.intp, mean, mean), codegen

    typed.__name__ = write.__name__
    return intrinsic(typed)


@_slopes
def bend_row(e: Emit, weight: Value, slope: Value, mean: Value) -> Value:
    """Through softmax: slopes = weights (slopes - mean) times"""
    return e.b.fmul(weight, e.b.fsub(slope, mean))


@_slopes
def steepen_row(e: Emit, weight: Value, slope: Value, _: Value) -> Value:
    """Through the sigmoid: slopes = weights (1 - weights) slopes times"""
    return e.b.fmul(e.fma(e.b.fneg(weight), weight, weight), slope)
