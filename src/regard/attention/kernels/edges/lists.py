"""The inner loops of attention along edges: one row of numbers against those that a list of places names.

The last argument of each is the bend of an activation, and where there is none a number of the same type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

from regard.attention.kernels.edges.intrinsics import emitted, load, store
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
]

LISTED = 4
"""So many rows of a list are read side by side: their sums need not wait for each other."""


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
"""From a row's vector, a listed row's, the weight's, the bend and a sum: that sum with what they add to it."""


def _compared(step: Step, weighted: bool) -> Callable[..., None]:
    def write(
        e: Emit, row: Value, weight: Value, places: Value, count: Value, rows: Value, size: Value, stride: Value,
        out: Value, bend: Value,
    ) -> None:  # fmt: skip
        group = min(LISTED, e.lanes)
        last, bent = e.add(count, -1), e.splat(bend)

        def some(n: Value) -> list[Value]:
            ones = []
            for r in range(group):
                # Beyond the end the last is read again.
                place = e.add(n, r)
                place = e.b.select(e.b.icmp_signed("<", place, last), place, last)
                ones.append(place_of(e, rows, places, place, stride))

            def body(d: Value, sums: Sequence[Value], mask: Value | None) -> list[Value]:
                mine, w = load(e, row, d, mask), load(e, weight, d, mask) if weighted else None
                return [
                    step(e, mine, load(e, one, d, mask), w, bent, total)
                    for one, total in zip(ones, sums, strict=True)
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


listed_product = emitted(_compared(step_product, False))
"""out[n] = row . rows[places[n]]; `out` needs room for a vector more."""
listed_distance = emitted(_compared(step_distance, False))
"""out[n] = -|row - rows[places[n]]|^2"""
listed_additive = emitted(_compared(step_additive, True))
"""out[n] = weight . tanh(row + rows[places[n]])"""
listed_bent = emitted(_compared(step_bent, True))
"""The same with x where x > 0, otherwise bend x, in the place of tanh x."""


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
        bent = e.splat(bend)

        def some(start: Value, vectors: int, mask: Value | None) -> None:
            mine = load(e, row, start, mask)

            def body(n: Value, *sums: Value) -> list[Value]:
                other = load(e, place_of(e, rows, places, n, stride), start, mask)
                steep, value = derive(e, e.b.fadd(mine, other), e.broadcast(slopes, n), bent)
                return [e.b.fadd(sums[0], steep), e.b.fadd(sums[1], value)]

            for n, total in enumerate(e.loop(0, count, 1, [e.const(0.0)] * 2, body)):
                store(e, total, out, e.add(start, e.mul(size, n)), mask)

        chunks(e, size, 1, some)

    return write


additive_sums = emitted(_summed(of_tanh))
"""out[0] = sum_n slopes[n] (1 - tanh^2), out[1] = sum_n slopes[n] tanh, each of tanh(row + rows[places[n]]) and of
`size` numbers: what gradients of rows and of the weight are made of."""
bent_sums = emitted(_summed(of_bent))
"""The same of x where x > 0, otherwise bend x."""
