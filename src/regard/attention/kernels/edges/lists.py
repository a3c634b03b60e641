"""The inner loops of attention along edges: one row of numbers against those that a list of places names.

As in `vectors`, addresses are whole numbers and sizes and distances count numbers; the last argument, a number, stands
for their type, and is the bend of an activation where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from regard.attention.kernels.emit import I32, Emit, Value
from regard.attention.kernels.supports import chunks, place_of

__all__ = [
    "Derivative",
    "Step",
    "additive_sums",
    "bent_sums",
    "folded",
    "leaky",
    "listed_additive",
    "listed_bent",
    "listed_distance",
    "listed_product",
    "of_bent",
    "of_tanh",
    "step_additive",
    "step_bent",
    "step_distance",
    "step_product",
    "written",
]

LISTED = 4
"""So many rows of a list are read side by side: their sums need not wait for each other."""


def listed(write: Callable[..., None]) -> Any:
    """An intrinsic of eight whole numbers and a number, whose instructions the decorated function writes."""

    def typed(
        context: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any, number: Any
    ) -> Any:
        return types.void(*[types.intp] * 8, number), written(write, number)

    typed.__name__ = write.__name__
    return intrinsic(typed)


def written(write: Callable[..., None], number: Any) -> Callable[..., Value]:
    """Code for a type of number by the function that writes its instructions, the last argument in all lanes."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Sequence[Value]) -> Value:
        emit = Emit(builder, number)
        write(emit, *arguments[:-1], emit.splat(arguments[-1]))
        return context.get_dummy_value()

    return codegen


def folded(e: Emit, one: Value, two: Value) -> Value:
    """The sums of neighbouring lanes: those of `one`, then those of `two`."""
    order = [
        ir.Constant(ir.VectorType(I32, e.lanes), [2 * i + odd for i in range(e.lanes)]) for odd in (0, 1)
    ]
    return e.b.fadd(*(e.b.shuffle_vector(one, two, places) for places in order))


def _totals(e: Emit, vectors: Sequence[Value]) -> Value:
    """The sum of each vector's numbers, in the first lanes."""
    parts, lanes = list(vectors), e.lanes
    while len(parts) > 1:
        parts = [folded(e, *parts[i : i + 2]) for i in range(0, len(parts), 2)]
        lanes //= 2
    while lanes > 1:
        parts, lanes = [folded(e, parts[0], parts[0])], lanes // 2
    return parts[0]


Step = Callable[[Emit, Value, Value, Value | None, Value, Value], Value]


def _compared(step: Step, weighted: bool) -> Callable[..., None]:
    def write(
        e: Emit, row: Value, weight: Value, places: Value, count: Value, rows: Value, size: Value, stride: Value,
        out: Value, bend: Value,
    ) -> None:  # fmt: skip
        group = min(LISTED, e.lanes)
        last = e.add(count, -1)

        def some(n: Value) -> list[Value]:
            ones = []
            for r in range(group):
                # Beyond the end the last is read again.
                place = e.add(n, r)
                place = e.b.select(e.b.icmp_signed("<", place, last), place, last)
                ones.append(place_of(e, rows, places, place, stride))

            def body(d: Value, sums: Sequence[Value], mask: Value | None) -> list[Value]:
                load = e.load if mask is None else lambda a, i: e.load_some(a, i, mask)
                mine, w = load(row, d), load(weight, d) if weighted else None
                return [
                    step(e, mine, load(one, d), w, bend, total) for one, total in zip(ones, sums, strict=True)
                ]

            sums = e.over(size, body, [e.const(0.0)] * group)
            e.store(_totals(e, sums), out, n)
            return []

        e.loop(0, count, group, [], some)

    return write


def step_product(e: Emit, row: Value, one: Value, weight: Value | None, bend: Value, total: Value) -> Value:
    return e.fma(row, one, total)


def step_distance(e: Emit, row: Value, one: Value, weight: Value | None, bend: Value, total: Value) -> Value:
    apart = e.b.fsub(row, one)
    return e.fma(e.b.fneg(apart), apart, total)


def step_additive(e: Emit, row: Value, one: Value, weight: Value | None, bend: Value, total: Value) -> Value:
    return e.fma(weight, e.tanh(e.b.fadd(row, one)), total)


def step_bent(e: Emit, row: Value, one: Value, weight: Value | None, bend: Value, total: Value) -> Value:
    return e.fma(weight, leaky(e, e.b.fadd(row, one), bend), total)


def leaky(e: Emit, x: Value, bend: Value) -> Value:
    return e.b.select(e.b.fcmp_ordered(">", x, e.const(0.0)), x, e.b.fmul(x, bend))


@listed
def listed_product(e: Emit, *arguments: Value) -> None:
    """out[n] = row . rows[places[n]]; `out` needs room for a vector more."""
    _compared(step_product, False)(e, *arguments)


@listed
def listed_distance(e: Emit, *arguments: Value) -> None:
    """out[n] = -|row - rows[places[n]]|^2"""
    _compared(step_distance, False)(e, *arguments)


@listed
def listed_additive(e: Emit, *arguments: Value) -> None:
    """out[n] = weight . tanh(row + rows[places[n]])"""
    _compared(step_additive, True)(e, *arguments)


@listed
def listed_bent(e: Emit, *arguments: Value) -> None:
    """The same with x where x > 0, otherwise bend x, in the place of tanh x."""
    _compared(step_bent, True)(e, *arguments)


Derivative = Callable[[Emit, Value, Value, Value], tuple[Value, Value]]
"""Of an activation of x, with a slope and the bend: the slope times the derivative, and times the value."""


def of_tanh(e: Emit, x: Value, slope: Value, bend: Value) -> tuple[Value, Value]:
    t = e.tanh(x)
    value = e.b.fmul(slope, t)
    return e.fma(e.b.fneg(value), t, slope), value


def of_bent(e: Emit, x: Value, slope: Value, bend: Value) -> tuple[Value, Value]:
    steep = e.b.select(e.b.fcmp_ordered(">", x, e.const(0.0)), slope, e.b.fmul(slope, bend))
    return steep, e.b.fmul(steep, x)


def _summed(derive: Derivative) -> Callable[..., None]:
    def write(
        e: Emit, row: Value, slopes: Value, places: Value, count: Value, rows: Value, size: Value, stride: Value,
        out: Value, bend: Value,
    ) -> None:  # fmt: skip
        def some(start: Value, vectors: int, mask: Value | None) -> None:
            mine = e.load(row, start) if mask is None else e.load_some(row, start, mask)

            def body(n: Value, *sums: Value) -> list[Value]:
                one = e.add(place_of(e, rows, places, n, stride), e.mul(start, e.bytes))
                other = e.load(one) if mask is None else e.load_some(one, 0, mask)
                slope = e.broadcast(slopes, n)
                steep, value = derive(e, e.b.fadd(mine, other), slope, bend)
                return [e.b.fadd(sums[0], steep), e.b.fadd(sums[1], value)]

            for n, total in enumerate(e.loop(0, count, 1, [e.const(0.0)] * 2, body)):
                at = e.add(start, e.mul(size, n))
                if mask is None:
                    e.store(total, out, at)
                else:
                    e.store_some(total, out, at, mask)

        chunks(e, size, 1, some)

    return write


@listed
def additive_sums(e: Emit, *arguments: Value) -> None:
    """out[0] = sum_n slopes[n] (1 - tanh^2), out[1] = sum_n slopes[n] tanh, each of tanh(row + rows[places[n]]) and of
    `size` numbers: what gradients of rows and of the weight are made of."""

    _summed(of_tanh)(e, *arguments)


@listed
def bent_sums(e: Emit, *arguments: Value) -> None:
    """The same of x where x > 0, otherwise bend x."""

    _summed(of_bent)(e, *arguments)
