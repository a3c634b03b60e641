"""Writing out the instructions of a kernel's inner loops: vectors of the machine, by LLVM's names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils, config

__all__ = ["I32", "I64", "ROWS", "VECTORS", "WIDTH", "Emit", "Value"]


def _width() -> int:
    if getattr(config, "CPU_NAME", None):
        features = getattr(config, "CPU_FEATURES", None) or ""
        return 64 if "+avx512f" in features else 32 if "+avx2" in features else 16
    found = llvm.get_host_cpu_features()
    return 64 if found.get("avx512f") else 32 if found.get("avx2") else 16


WIDTH = _width()
"""Bytes of a vector register."""
ROWS, VECTORS = (4, 2) if WIDTH == 32 else (8, 2)
"""A tile of sums that stays in registers: so many queries by so many vectors of keys."""

I32, I64 = ir.IntType(32), ir.IntType(64)
Value = Any

SMALL_TANH = (0.999999986757, -0.333330679444, 0.133247505048, -0.0529842388285, 0.0171313444313)
"""tanh x / x as a polynomial of x^2, exact to 1.4e-8 for |x| up to 0.5: interpolated in Chebyshev's points."""


class Emit:
    """The instructions of one intrinsic, for vectors of one type."""

    def __init__(self, builder: Any, kind: types.Float) -> None:
        self.b = builder
        self.scalar = ir.FloatType() if kind.bitwidth == 32 else ir.DoubleType()
        self.bytes = kind.bitwidth // 8
        self.lanes = WIDTH // self.bytes
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.suffix = f"v{self.lanes}f{kind.bitwidth}"
        self.whole = ir.VectorType(ir.IntType(kind.bitwidth), self.lanes)

    def const(self, value: float) -> Value:
        return ir.Constant(self.vector, [value] * self.lanes)

    def whole_number(self, value: int) -> Value:
        return ir.Constant(I64, value)

    def add(self, *terms: Any) -> Value:
        """The sum of whole numbers."""
        total = None
        for term in terms:
            value = self.whole_number(term) if isinstance(term, int) else term
            total = value if total is None else self.b.add(total, value)
        return total

    def mul(self, one: Value, two: Any) -> Value:
        return self.b.mul(one, self.whole_number(two) if isinstance(two, int) else two)

    def at(self, address: Value, index: Any, kind: Any = None) -> Value:
        """A pointer to the number `index` places after an address, as a pointer to `kind`."""
        place = self.add(
            address, self.mul(self.whole_number(index) if isinstance(index, int) else index, self.bytes)
        )
        return self.b.inttoptr(place, (kind or self.vector).as_pointer())

    def load(self, address: Value, index: Any = 0) -> Value:
        return self.b.load(self.at(address, index), align=self.bytes)

    def store(self, value: Value, address: Value, index: Any = 0) -> None:
        self.b.store(value, self.at(address, index), align=self.bytes)

    def load_one(self, address: Value, index: Any = 0) -> Value:
        return self.b.load(self.at(address, index, self.scalar), align=self.bytes)

    def splat(self, scalar: Value) -> Value:
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.b.insert_element(undefined, scalar, ir.Constant(I32, 0))
        order = ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        return self.b.shuffle_vector(first, undefined, order)

    def broadcast(self, address: Value, index: Any = 0) -> Value:
        return self.splat(self.load_one(address, index))

    def call(self, name: str, *values: Value, returns: Any = None) -> Value:
        kind = ir.FunctionType(returns or self.vector, [value.type for value in values])
        return self.b.call(cgutils.get_or_insert_function(self.b.module, kind, name), values)

    def fma(self, one: Value, two: Value, three: Value) -> Value:
        return self.call(f"llvm.fma.{self.suffix}", one, two, three)

    def smaller(self, one: Value, two: Value) -> Value:
        """The smaller; `two` where either is no number."""
        return self.b.select(self.b.fcmp_ordered("<", one, two), one, two)

    def magnitude(self, x: Value) -> Value:
        return self.call(f"llvm.fabs.{self.suffix}", x)

    def total(self, vector: Value) -> Value:
        """The sum of a vector's numbers."""
        name = f"llvm.vector.reduce.fadd.{self.suffix}"
        kind = ir.FunctionType(self.scalar, [self.scalar, self.vector])
        function = cgutils.get_or_insert_function(self.b.module, kind, name)
        return self.b.call(function, [ir.Constant(self.scalar, 0.0), vector], fastmath=["reassoc"])

    def inverse(self, value: Value) -> Value:
        """1 / value, to about one unit in the last place; `value` is neither so large nor so small that the first guess
        is 0 or infinite."""
        if self.bytes == 8 or WIDTH < 64:
            return self.b.fdiv(self.const(1.0), value)
        mask = ir.Constant(ir.IntType(16), -1)
        guess = self.call("llvm.x86.avx512.rcp14.ps.512", value, self.const(0.0), mask)
        # Newton's step as guess + guess (1 - guess value): the correction's rounding is far below the last place.
        error = self.fma(self.b.fneg(guess), value, self.const(1.0))
        return self.fma(guess, error, guess)

    def exp(self, x: Value) -> Value:
        """e to the x, for x from -80 to 80 in float32, -700 to 700 in float64."""
        n = self.call(f"llvm.rint.{self.suffix}", self.b.fmul(x, self.const(math.log2(math.e))))
        high, low = (
            (0.693359375, -2.12194440e-4)
            if self.bytes == 4
            else (6.93147180369123816490e-01, 1.90821492927058770002e-10)
        )
        r = self.fma(n, self.const(-high), x)
        r = self.fma(n, self.const(-low), r)
        # Cephes' polynomial for float32, Taylor's for float64: below one unit in the last place for |r| < ln(2) / 2.
        powers = (
            [
                1.9875691500e-4,
                1.3981999507e-3,
                8.3334519073e-3,
                4.1665795894e-2,
                1.6666665459e-1,
                5.0000001201e-1,
            ]
            if self.bytes == 4
            else [1 / math.factorial(k) for k in range(13, 1, -1)]
        )
        p = self.const(powers[0])
        for power in powers[1:]:
            p = self.fma(p, r, self.const(power))
        p = self.fma(self.b.fmul(p, r), r, r)
        p = self.b.fadd(p, self.const(1.0))
        places = 23 if self.bytes == 4 else 52
        exponent = self.b.shl(self.b.fptosi(n, self.whole), ir.Constant(self.whole, [places] * self.lanes))
        return self.b.bitcast(self.b.add(self.b.bitcast(p, self.whole), exponent), self.vector)

    def log(self, x: Value) -> Value:
        """The natural logarithm, for normal numbers above 0."""
        b, bits, places = self.b, 32 if self.bytes == 4 else 64, 23 if self.bytes == 4 else 52
        whole = lambda value: ir.Constant(self.whole, [value] * self.lanes)  # noqa: E731
        root = (
            0x3F3504F3 if self.bytes == 4 else 0x3FE6A09E667F3BCD
        )  # of one half: x = m 2^n with m from there to twice it
        raw = b.bitcast(x, self.whole)
        n = b.ashr(b.sub(raw, whole(root)), whole(places))
        m = b.bitcast(b.sub(raw, b.shl(n, whole(places))), self.vector)
        # log m = 2 artanh s with s = (m - 1) / (m + 1), whose square is below 0.03.
        s = b.fdiv(b.fsub(m, self.const(1.0)), b.fadd(m, self.const(1.0)))
        square = b.fmul(s, s)
        terms = 5 if bits == 32 else 11
        series = self.const(2.0 / (2 * terms + 1))
        for k in range(terms - 1, 0, -1):
            series = self.fma(series, square, self.const(2.0 / (2 * k + 1)))
        rest = self.fma(b.fmul(series, square), s, b.fmul(s, self.const(2.0)))
        return self.fma(b.sitofp(n, self.vector), self.const(math.log(2.0)), rest)

    def clamped(self, x: Value, most: float) -> Value:
        """`x` between `-most` and `most`; what is no number stays so."""
        most_, least = self.const(most), self.const(-most)
        x = self.b.select(self.b.fcmp_ordered(">", x, most_), most_, x)
        return self.b.select(self.b.fcmp_ordered("<", x, least), least, x)

    def tanh(self, x: Value) -> Value:
        """The hyperbolic tangent; in float64 its error near zero is that of numbers near one."""
        # Beyond this it is 1 to the last place.
        e = self.exp(self.b.fmul(self.clamped(x, 10.0 if self.bytes == 4 else 20.0), self.const(2.0)))
        large = self.fma(self.const(-2.0), self.inverse(self.b.fadd(e, self.const(1.0))), self.const(1.0))
        if self.bytes == 8:
            return large
        near = self.b.fcmp_ordered("<", self.magnitude(x), self.const(0.5))
        return self.b.select(near, self.small_tanh(x), large)

    def small_tanh(self, x: Value) -> Value:
        """The hyperbolic tangent for x up to 0.5 in magnitude, in float32: to the last place also near zero."""
        square = self.b.fmul(x, x)
        series = self.const(SMALL_TANH[-1])
        for power in SMALL_TANH[-2::-1]:
            series = self.fma(series, square, self.const(power))
        return self.b.fmul(x, series)

    def loop(
        self,
        start: Any,
        stop: Value,
        step: int,
        carried: Sequence[Value],
        body: Callable[..., Sequence[Value]],
    ) -> list[Value]:
        """`carried = body(i, *carried)` for i from start to stop; the last of them."""
        b = self.b
        start = self.whole_number(start) if isinstance(start, int) else start
        before = b.block
        test, inside, after = (b.append_basic_block(name) for name in ("test", "inside", "after"))
        b.branch(test)
        b.position_at_end(test)
        i = b.phi(I64)
        i.add_incoming(start, before)
        kept = []
        for value in carried:
            phi = b.phi(value.type)
            phi.add_incoming(value, before)
            kept.append(phi)
        b.cbranch(b.icmp_signed("<", i, stop), inside, after)
        b.position_at_end(inside)
        new = body(i, *kept)
        end = b.block
        i.add_incoming(self.add(i, step), end)
        for phi, value in zip(kept, new, strict=True):
            phi.add_incoming(value, end)
        b.branch(test)
        b.position_at_end(after)
        return kept

    def when(self, condition: Value, body: Callable[[], None]) -> None:
        with self.b.if_then(condition):
            body()

    def first(self, count: Value) -> Value:
        """A mask of the first `count` lanes."""
        order = ir.Constant(ir.VectorType(I64, self.lanes), list(range(self.lanes)))
        undefined = ir.Constant(ir.VectorType(I64, self.lanes), ir.Undefined)
        one = self.b.insert_element(undefined, count, ir.Constant(I32, 0))
        zeros = ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        return self.b.icmp_signed("<", order, self.b.shuffle_vector(one, undefined, zeros))

    def load_some(self, address: Value, index: Any, mask: Value, other: float = 0.0) -> Value:
        pointer = self.at(address, index)
        kind = ir.FunctionType(self.vector, [pointer.type, I32, mask.type, self.vector])
        name = f"llvm.masked.load.{self.suffix}.p0"
        function = cgutils.get_or_insert_function(self.b.module, kind, name)
        return self.b.call(function, [pointer, ir.Constant(I32, self.bytes), mask, self.const(other)])

    def store_some(self, value: Value, address: Value, index: Any, mask: Value) -> None:
        pointer = self.at(address, index)
        kind = ir.FunctionType(ir.VoidType(), [self.vector, pointer.type, I32, mask.type])
        name = f"llvm.masked.store.{self.suffix}.p0"
        function = cgutils.get_or_insert_function(self.b.module, kind, name)
        self.b.call(function, [value, pointer, ir.Constant(I32, self.bytes), mask])

    def over(
        self,
        size: Value,
        body: Callable[[Any, Value, Value | None], Sequence[Value]],
        carried: Sequence[Value] = (),
    ) -> list[Value]:
        """`body(place, carried, mask)` for each vector of a row of `size` numbers; the last is cut by a mask."""
        whole = self.b.and_(size, self.whole_number(-self.lanes))
        kept = self.loop(0, whole, self.lanes, carried, lambda i, *c: body(i, c, None))
        rest = self.b.sub(size, whole)
        mask = self.first(rest)
        return self.loop(whole, size, self.lanes, kept, lambda i, *c: body(i, c, mask))
