"""The inner loops of attention along edges: one row against those that a list of places names, and short rows of scores.

As in `vectors`, addresses are whole numbers and sizes and distances count numbers; the last argument, a number, stands
for their type, and is the bend of an activation where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from regard.attention.kernels.emit import I32, Emit, Value
from regard.attention.kernels.vectors import _chunks, _place, _power

__all__ = [
    "additive_sums",
    "bent_sums",
    "divide_row",
    "highest",
    "leak_row",
    "leak_slopes",
    "listed_additive",
    "listed_bent",
    "listed_distance",
    "listed_product",
    "sigmoid_row",
    "softmax_row",
    "through_itself",
    "through_one",
    "through_power",
    "through_root",
]

LISTED = 4
"""So many rows of a list are read side by side: their sums need not wait for each other."""


def listed(write: Callable[..., None]) -> Any:
    """An intrinsic of eight whole numbers and a number, whose instructions the decorated function writes."""

    def typed(context: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any, number: Any) -> Any:
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
                ones.append(_place(e, rows, places, place, stride))

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
    return e.fma(weight, _leaky(e, e.b.fadd(row, one), bend), total)


def _leaky(e: Emit, x: Value, bend: Value) -> Value:
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
                one = e.add(_place(e, rows, places, n, stride), e.mul(start, e.bytes))
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

        _chunks(e, size, 1, some)

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


# Short rows: the scores or weights of one query's edges


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


@_row(2)
def leak_row(e: Emit, row: Value, count: Value, leak: Value) -> None:
    """row = row where it is above zero, otherwise leak row"""
    times = e.splat(leak)

    def body(i: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
        _store(e, _leaky(e, _load(e, row, i, mask), times), row, i, mask)
        return []

    e.over(count, body)


@_row(3)
def leak_slopes(e: Emit, slopes: Value, row: Value, count: Value, leak: Value) -> None:
    """slopes = slopes where row is above zero, otherwise leak slopes"""
    times = e.splat(leak)

    def body(i: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
        slope = _load(e, slopes, i, mask)
        above = e.b.fcmp_ordered(">", _load(e, row, i, mask), e.const(0.0))
        _store(e, e.b.select(above, slope, e.b.fmul(slope, times)), slopes, i, mask)
        return []

    e.over(count, body)


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
    return e.b.select(e.b.fcmp_unordered("uno", weight, weight), weight, _power(e, weight, power))


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
