"""Scores by register tiles, and their gradients: every loop says which vectors it keeps in registers.

A compiler's vectoriser keeps no tile of sums, and prefers half the width that AVX-512 has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

from regard.attention.kernels.emit import ROWS, VECTORS, Emit, Value
from regard.attention.kernels.vectors import instructions

__all__ = [
    "additive_panel",
    "additive_row",
    "additive_slopes",
    "distance_panel",
    "distance_row",
    "plain_additive_panel",
    "plain_additive_slopes",
    "product_panel",
    "product_row",
    "small_additive_panel",
    "small_additive_slopes",
]


Step = Callable[[Emit, Value, Value, Value, Value], Value]


def _tile(step: Step) -> Callable[..., None]:
    def write(
        e: Emit,
        query: Value,
        key: Value,
        weight: Value,
        out: Value,
        size: Value,
        query_stride: Value,
        out_stride: Value,
    ) -> None:
        rows = [e.add(query, e.mul(query_stride, e.bytes * r)) for r in range(ROWS)]

        def body(d: Value, *sums: Value) -> list[Value]:
            panel = e.add(key, e.mul(d, e.bytes * e.lanes * VECTORS))
            keys = [e.load(panel, e.lanes * v) for v in range(VECTORS)]
            w = e.broadcast(weight, d)
            found = []
            for r in range(ROWS):
                q = e.broadcast(rows[r], d)
                found += [step(e, q, keys[v], w, sums[r * VECTORS + v]) for v in range(VECTORS)]
            return found

        sums = e.loop(0, size, 1, [e.const(0.0)] * (ROWS * VECTORS), body)
        _write_tile(e, out, out_stride, sums)

    return write


def _write_tile(e: Emit, out: Value, out_stride: Value, tile: Sequence[Value]) -> None:
    for r in range(ROWS):
        row = e.add(out, e.mul(out_stride, e.bytes * r))
        for v in range(VECTORS):
            e.store(tile[r * VECTORS + v], row, e.lanes * v)


def _product(e: Emit, query: Value, key: Value, weight: Value, total: Value) -> Value:
    return e.fma(query, key, total)


def _distance(e: Emit, query: Value, key: Value, weight: Value, total: Value) -> Value:
    apart = e.b.fsub(query, key)
    return e.fma(e.b.fneg(apart), apart, total)


def _additive(e: Emit, query: Value, key: Value, weight: Value, total: Value) -> Value:
    return e.fma(weight, e.tanh(e.b.fadd(query, key)), total)


def _small_additive(e: Emit, query: Value, key: Value, weight: Value, total: Value) -> Value:
    return e.fma(weight, e.small_tanh(e.b.fadd(query, key)), total)


CAP = {4: 2.0**29, 8: 2.0**58}
"""Above this 1 + e^2x is cut off: there the hyperbolic tangent is 1 to the last place."""


def _exponential_tanh(e: Emit, query: Value, key: Value) -> Value:
    """tanh x = 1 - 2 / (1 + e^2x) with e^2x the product of e^2query and e^2key."""
    x = e.smaller(e.fma(query, key, e.const(1.0)), e.const(CAP[e.bytes]))
    return e.fma(e.const(-2.0), e.inverse(x), e.const(1.0))


def _exponential_additive(e: Emit, query: Value, key: Value, weight: Value, total: Value) -> Value:
    return e.fma(weight, _exponential_tanh(e, query, key), total)


@instructions
def product_panel(e: Emit, *arguments: Value) -> None:
    """out[r, j] = sum_d query[r, d] key[d, j]"""
    _tile(_product)(e, *arguments)


@instructions
def distance_panel(e: Emit, *arguments: Value) -> None:
    """out[r, j] = -sum_d (query[r, d] - key[d, j])^2"""
    _tile(_distance)(e, *arguments)


@instructions
def plain_additive_panel(e: Emit, *arguments: Value) -> None:
    """out[r, j] = sum_d weight[d] tanh(query[r, d] + key[d, j])"""
    _tile(_additive)(e, *arguments)


@instructions
def small_additive_panel(e: Emit, *arguments: Value) -> None:
    """The same for small queries and keys."""
    _tile(_small_additive)(e, *arguments)


@instructions
def additive_panel(e: Emit, *arguments: Value) -> None:
    """The same from e^2query and e^2key: an exponential for each of them, none for a pair."""
    _tile(_exponential_additive)(e, *arguments)


def _row(step: Step) -> Callable[..., None]:
    def write(
        e: Emit, query: Value, key: Value, weight: Value, out: Value, size: Value, count: Value, stride: Value
    ) -> None:
        def each(j: Value) -> list[Value]:
            one = e.add(key, e.mul(e.mul(j, stride), e.bytes))

            def body(d: Value, carried: Sequence[Value], mask: Value | None) -> list[Value]:
                if mask is None:
                    q, k, w = (e.load(a, d) for a in (query, one, weight))
                    return [step(e, q, k, w, carried[0])]
                q, k, w = (e.load_some(a, d, mask) for a in (query, one, weight))
                return [step(e, q, k, w, carried[0])]

            (total,) = e.over(size, body, [e.const(0.0)])
            e.b.store(e.total(total), e.at(out, j, e.scalar))
            return []

        e.loop(0, count, 1, [], each)

    return write


@instructions
def product_row(e: Emit, *arguments: Value) -> None:
    """out[j] = sum_d query[d] key[j, d]"""
    _row(_product)(e, *arguments)


@instructions
def distance_row(e: Emit, *arguments: Value) -> None:
    """out[j] = -sum_d (query[d] - key[j, d])^2"""
    _row(_distance)(e, *arguments)


@instructions
def additive_row(e: Emit, *arguments: Value) -> None:
    """out[j] = sum_d weight[d] tanh(query[d] + key[j, d])"""
    _row(_additive)(e, *arguments)


Tanh = Callable[[Emit, Value, Value], Value]


def _slopes(tanh: Tanh) -> Callable[..., None]:
    def write(
        e: Emit,
        query: Value,
        key: Value,
        slopes: Value,
        size: Value,
        stride: Value,
        sums: Value,
        panel: Value,
    ) -> None:
        g = [
            [e.load(e.add(slopes, e.mul(stride, e.bytes * r)), e.lanes * v) for v in range(VECTORS)]
            for r in range(ROWS)
        ]
        none = e.const(0.0)
        rows = [e.add(query, e.mul(size, e.bytes * r)) for r in range(ROWS)]

        def body(d: Value) -> list[Value]:
            place = e.mul(d, e.lanes * VECTORS)
            keys = [e.load(key, e.add(place, e.lanes * v)) for v in range(VECTORS)]
            to_keys, bent = [none] * VECTORS, none
            # One vector a channel: the weight's sums, then those of every query.
            own = e.mul(d, e.lanes * (ROWS + 1))
            for r in range(ROWS):
                q = e.broadcast(rows[r], d)
                to_query = none
                for v in range(VECTORS):
                    t = tanh(e, q, keys[v])
                    part = e.b.fmul(g[r][v], t)
                    bent = e.b.fadd(bent, part)
                    steep = e.fma(e.b.fneg(part), t, g[r][v])
                    to_keys[v] = e.b.fadd(to_keys[v], steep)
                    to_query = e.b.fadd(to_query, steep)
                at = e.add(own, e.lanes * (r + 1))
                e.store(e.b.fadd(e.load(sums, at), to_query), sums, at)
            e.store(e.b.fadd(e.load(sums, own), bent), sums, own)
            for v in range(VECTORS):
                at = e.add(place, e.lanes * v)
                e.store(e.b.fadd(e.load(panel, at), to_keys[v]), panel, at)
            return []

        size_of_all = none
        for one in (one for row in g for one in row):
            size_of_all = e.b.fadd(size_of_all, e.magnitude(one))
        different = e.b.fcmp_unordered("!=", size_of_all, none)
        bits = e.b.bitcast(different, ir.IntType(e.lanes))
        something = e.b.icmp_signed("!=", bits, ir.Constant(bits.type, 0))
        e.when(something, lambda: (e.loop(0, size, 1, [], body), None)[1])

    return write


@instructions
def additive_slopes(e: Emit, *arguments: Value) -> None:
    """From e^2query, e^2key and the gradient `slopes` of a register tile of scores, with t = tanh(query + key).

    In `sums`, lane by lane: the sums over the keys of slope t, for all queries together, and of slope (1 - t^2), for
    each query; in `panel` the sums of the latter over the queries. A tile of zeros costs nothing.
    """
    _slopes(_exponential_tanh)(e, *arguments)


@instructions
def plain_additive_slopes(e: Emit, *arguments: Value) -> None:
    """The same from query and key."""
    _slopes(lambda e, query, key: e.tanh(e.b.fadd(query, key)))(e, *arguments)


@instructions
def small_additive_slopes(e: Emit, *arguments: Value) -> None:
    """The same from small ones."""
    _slopes(lambda e, query, key: e.small_tanh(e.b.fadd(query, key)))(e, *arguments)
