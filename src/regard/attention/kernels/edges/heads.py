"""The inner loops of attention along edges with small heads: all heads of a node, side by side, in one row of vectors.

A head of 2, 4, 8 or 16 channels is a part of a vector; so scores of several heads come from one, and their weights go
into one. Rows are as in `lists`; scores and weights have the heads of one edge beside each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from llvmlite import ir

from regard.attention.kernels.edges.intrinsics import emitted, load, store
from regard.attention.kernels.edges.lists import (
    Derivative,
    Step,
    folded,
    of_bent,
    of_tanh,
    step_additive,
    step_bent,
    step_distance,
    step_product,
)
from regard.attention.kernels.emit import I32, I64, Emit, Value
from regard.attention.kernels.supports import chunks, place_of

__all__ = [
    "heads_additive",
    "heads_additive_sums",
    "heads_bent",
    "heads_bent_sums",
    "heads_distance",
    "heads_product",
    "heads_sum",
]


def _sizes(e: Emit) -> list[int]:
    """How large a head may be: a power of two that fits into a vector."""
    return [size for size in (2, 4, 8, 16) if size <= e.lanes]


def _compared(step: Step, weighted: bool) -> Callable[..., None]:
    def write(
        e: Emit, row: Value, weight: Value, places: Value, count: Value, rows: Value, size: Value, stride: Value,
        out: Value, apart: Value, width: Value, bend: Value,
    ) -> None:  # fmt: skip
        bent = e.splat(bend)

        def each(n: Value) -> list[Value]:
            one, line = place_of(e, rows, places, n, stride), e.mul(n, apart)

            def some(start: Value, vectors: int, mask: Value | None) -> None:
                parts = []
                for v in range(vectors):
                    at = e.add(start, e.lanes * v)
                    mine, other = load(e, row, at, mask), load(e, one, at, mask)
                    w = load(e, weight, at, mask) if weighted else None
                    parts.append(step(e, mine, other, w, bent, e.const(0.0)))

                def finish(parts: Sequence[Value], folds: int) -> None:
                    """Fold until a head of `size` is one number; which size that is, is known when it runs."""
                    pairs = zip(parts[::2], parts[1::2] if len(parts) > 1 else parts, strict=True)
                    parts = [folded(e, first, second) for first, second in pairs]
                    head = 2**folds
                    with e.b.if_else(e.b.icmp_signed("==", size, ir.Constant(I64, head))) as (yes, no):
                        with yes:
                            place = e.add(line, e.b.sdiv(start, ir.Constant(I64, head)))
                            for v, part in enumerate(parts):
                                # What is written too much, the next ones write over.
                                e.store(part, out, e.add(place, e.lanes * v))
                        with no:
                            if 2 * head <= max(_sizes(e)):
                                finish(parts, folds + 1)

                finish(parts, 1)

            chunks(e, width, 4, some)
            return []

        e.loop(0, count, 1, [], each)

    return write


heads_product = emitted(_compared(step_product, False))
"""out[n, h] = row[h] . rows[places[n], h], for heads of `size` in a row of `width`; rows of `out` are `apart`, and
behind the last there is room for a vector more."""
heads_distance = emitted(_compared(step_distance, False))
"""out[n, h] = -|row[h] - rows[places[n], h]|^2"""
heads_additive = emitted(_compared(step_additive, True))
"""out[n, h] = weight[h] . tanh(row[h] + rows[places[n], h])"""
heads_bent = emitted(_compared(step_bent, True))
"""The same with x where x > 0, otherwise bend x, in the place of tanh x."""


Add = Callable[[Emit, Value, Value, Value, Value], tuple[Value, ...]]
"""From a head's weight in all its lanes, a vector of a listed row, one of `row` and the bend: what is to be summed."""


def _summed(add: Add, sums: int, most: int) -> Callable[..., None]:
    def write(
        e: Emit, row: Value, weights: Value, numbers: Value, places: Value, count: Value, rows: Value, size: Value,
        stride: Value, out: Value, width: Value, apart: Value, bend: Value,
    ) -> None:  # fmt: skip
        numbered = e.b.icmp_signed("!=", numbers, ir.Constant(I64, 0))
        listed = e.b.select(numbered, numbers, places)
        heads, bent = e.b.sdiv(width, size), e.splat(bend)

        def sized(head: int) -> None:
            spread = ir.Constant(ir.VectorType(I32, e.lanes), [lane // head for lane in range(e.lanes)])

            def some(start: Value, vectors: int, mask: Value | None) -> None:
                at = [e.add(start, e.lanes * v) for v in range(vectors)]
                mine = [load(e, row, place, mask) if sums > 1 else e.const(0.0) for place in at]
                whose = [e.b.sdiv(place, ir.Constant(I64, head)) for place in at]
                theirs = [e.first(e.b.sub(heads, first)) for first in whose]

                def body(n: Value, *totals: Value) -> list[Value]:
                    address = e.add(listed, e.mul(n, 4))
                    number = e.b.sext(e.b.load(e.b.inttoptr(address, I32.as_pointer())), I64)
                    number = e.mul(e.b.select(numbered, number, n), apart)
                    one, found = place_of(e, rows, places, n, stride), []
                    for v in range(vectors):
                        w = e.load_some(weights, e.add(number, whose[v]), theirs[v])
                        w = e.b.shuffle_vector(w, ir.Constant(e.vector, ir.Undefined), spread)
                        more = add(e, w, load(e, one, at[v], mask), mine[v], bent)
                        found += [
                            e.fma(w, part, total) if sums == 1 else e.b.fadd(part, total)
                            for part, total in zip(more, totals[v * sums : (v + 1) * sums], strict=True)
                        ]
                    return found

                totals = e.loop(0, count, 1, [e.const(0.0)] * (sums * vectors), body)
                for v in range(vectors):
                    for s in range(sums):
                        store(e, totals[v * sums + s], out, e.add(at[v], e.mul(width, s)), mask)

            chunks(e, width, most, some)

        for head in _sizes(e):
            e.when(e.b.icmp_signed("==", size, ir.Constant(I64, head)), partial(sized, head))

    return write


def _derived(derive: Derivative) -> Add:
    return lambda e, w, one, mine, bend: derive(e, e.b.fadd(mine, one), w, bend)


heads_sum = emitted(_summed(lambda e, w, one, mine, bend: (one,), 1, 4))
"""out[h] = sum_n weights[numbers[n], h] rows[places[n], h]; without `numbers` it is weights[n, h]. The weights of
edges are `apart` from each other."""
heads_additive_sums = emitted(_summed(_derived(of_tanh), 2, 1))
"""out[0] = sum_n weights[n] (1 - tanh^2), out[1] = sum_n weights[n] tanh, each of tanh(row + rows[places[n]]) and of
`width` numbers, with a head's weight for all its channels."""
heads_bent_sums = emitted(_summed(_derived(of_bent), 2, 1))
"""The same of x where x > 0, otherwise bend x."""
