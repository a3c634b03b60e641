"""The physical limit: how fast this machine can multiply and read at best, and how much of both a call needs at least.

The rates are measured by two loops in machine code that do nothing else: fused multiply-adds on registers, and loads.
The needs are counted from the formulas, in operations that the two vector pipes of a core do one a cycle each (a
multiply-add, product, sum, maximum or reciprocal estimate counts 1), for the cheapest way known to us.
"""

from __future__ import annotations

import ctypes
import functools
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.problems import Problem
from benchmarks.settings import Settings

ACCUMULATORS = 12
"""Independent sums: enough to hide the latency of an operation, few enough for the registers of AVX2."""
ADDITIVE = 4.25
"""tanh(a + b) = 1 - 2 / (1 + AB) with A, B = e^2a, e^2b. Four channels over one denominator: 4 multiply-adds, 3 times
(2 for the numerator, 1 for the denominator), 3 for a reciprocal with one Newton step and 1 for the sum: 17."""
ADDITIVE_BACKWARD = 13.25
"""The scores once more (4.25); then 1 multiply-add, its reciprocal shared by four channels (2.25 + 0.75), 1 for r - r²,
1 for the product with the gradient, 3 for the gradients of query, key and weight."""
EXPONENTIAL = 8
"""An exponential of a whole score: range reduction, a polynomial of degree 5, scaling."""


@dataclass(frozen=True)
class Peaks:
    """The most that so many threads of this machine do a second, and how that was found."""

    operations: float
    """Fused multiply-adds on single numbers of float32."""
    how: str


@dataclass(frozen=True)
class Work:
    """What a call needs at least: operations, and bytes read and written."""

    operations: float
    bytes: float

    def seconds(self, operations: float, bytes_: float) -> float:
        """The least time at these rates, computing and moving at once."""
        return max(self.operations / operations, self.bytes / bytes_)


def work_of(problem: Problem, normalizer: str, support: float) -> Work:
    """The least work for a problem in which a query gives weight to `support` keys."""
    pairs, size, value = problem.pairs, problem.size, problem.value_size
    kept = problem.heads * problem.queries * support
    sparse = normalizer != "softmax"
    each = ADDITIVE * size if problem.score == "additive" else size
    each += 1 if sparse else 1 + EXPONENTIAL
    operations = pairs * each + kept * value
    if problem.gradients:
        score = (ADDITIVE_BACKWARD if problem.score == "additive" else 2 if sparse else 3) * size
        operations += kept * (score + 2 * value)
    item = getattr(torch, problem.dtype).itemsize
    rows = problem.queries * (size + value) + problem.keys * (size + value)
    if sparse and problem.queries == 1:  # of the values only the support is read
        rows -= (problem.keys - support) * value
    moved = item * problem.heads * rows * (3 if problem.gradients else 1)
    return Work(operations, moved)


def free_memory(device: str = "cpu") -> int:
    """Bytes that may still be taken."""
    if device != "cpu":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return 8 * 2**30
    lines = meminfo.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


@functools.cache
def peaks(threads: int) -> Peaks:
    """Multiply-adds a second, by machine code where llvmlite is (it comes with Numba), else by a matrix product."""
    code = _machine_code()
    if code is None:
        one = torch.randn(1024, 1024)
        rate = max(1024**3 / _seconds(lambda: one @ one) for _ in range(20))
        return Peaks(rate, "by a matrix product")
    count = 20_000_000
    seconds = min(_in_threads([functools.partial(code.spin, count)] * threads) for _ in range(15))
    rate = threads * count * code.width * ACCUMULATORS / seconds
    return Peaks(rate, f"in registers of {32 * code.width} bits")


@functools.cache
def read_rate(threads: int, size: int) -> float:
    """Bytes read a second from a working set of about so many bytes, over and over: from a cache if it fits."""
    code = _machine_code()
    step = 4 * (code.width if code else 16) * ACCUMULATORS
    steps = max(size // step // threads, 1)
    store = torch.ones(threads * steps * step // 4)
    times = max(1, 2**28 // (steps * step))
    if code is None:
        target = torch.empty_like(store)
        seconds = min(_seconds(lambda: target.copy_(store)) for _ in range(20))
        return 2 * store.nbytes / seconds
    start = store.data_ptr()
    parts = [
        functools.partial(code.read, start + place * steps * step, steps, times) for place in range(threads)
    ]
    return max(times * store.nbytes / _in_threads(parts) for _ in range(9))


def limit_of(work: Work, settings: Settings) -> float:
    """The least seconds in which the device of these settings does so much work."""
    if settings.device.startswith("cuda"):
        return work.seconds(*_cuda_rates(settings.device, settings.dtype))
    size = 2 ** math.ceil(math.log2(max(work.bytes, 2**14)))
    return work.seconds(peaks(settings.threads).operations, read_rate(settings.threads, min(size, 2**28)))


def described(settings: Settings) -> str:
    """The rates from which limits are reckoned, in words."""
    if settings.device.startswith("cuda"):
        return "The limit is that of a matrix product and of a copy on this GPU."
    threads, peak = settings.threads, peaks(settings.threads)
    return (
        f"The limit is counted from operations and bytes (`benchmarks/limits.py`) at this machine's rates: with "
        f"{threads} thread{'s' if threads > 1 else ''} {peak.operations / 1e9:.0f} billion multiply-adds a second "
        f"({peak.how}) and {read_rate(threads, 2**28) / 1e9:.0f} GB/s read from memory, more from the caches."
    )


@functools.cache
def _cuda_rates(device: str, dtype: str) -> tuple[float, float]:
    """Multiply-adds and bytes a second of a GPU, by a matrix product and a copy."""
    one = torch.randn(8192, 8192, device=device, dtype=getattr(torch, dtype))
    two = torch.empty_like(one)

    def seconds(run: Callable[[], object]) -> float:
        run()
        torch.cuda.synchronize(device)
        return min(_seconds(lambda: (run(), torch.cuda.synchronize(device))) for _ in range(10))

    return 8192**3 / seconds(lambda: one @ one), 2 * one.nbytes / seconds(lambda: two.copy_(one))


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _in_threads(parts: list[Callable[[], object]]) -> float:
    """The seconds from the start of all to the end of the last; machine code runs without Python's lock."""
    threads = [threading.Thread(target=part) for part in parts]

    def run() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return _seconds(run)


@dataclass(frozen=True)
class _Code:
    spin: Callable[[int], float]
    read: Callable[[int, int, int], float]
    width: int
    """How many float32 a register holds."""
    owner: object
    """What keeps the code in memory."""


@functools.cache
def _machine_code() -> _Code | None:
    """The two loops; None without llvmlite."""
    try:
        from llvmlite import binding
    except ImportError:
        return None
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    features = binding.get_host_cpu_features()
    width = 16 if features.get("avx512f") else 8 if features.get("fma") else 4
    machine = binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=f"{features.flatten()},-prefer-256-bit", opt=2
    )
    module = binding.parse_assembly(_assembly(width))
    engine = binding.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    spin = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_int64)(engine.get_function_address("spin"))
    read = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(
        engine.get_function_address("read")
    )
    return _Code(spin, read, width, engine)


def _assembly(width: int) -> str:
    """In LLVM's language: `spin(n)` multiplies and adds, `read(p, n, times)` loads, ACCUMULATORS registers a step."""
    vector, sums = f"<{width} x float>", range(ACCUMULATORS)
    one, half = (f"<{', '.join([f'float {number}'] * width)}>" for number in (1.0, 0.5))
    phis = "\n".join(f"  %a{k} = phi {vector} [{one}, %entry], [%b{k}, %loop]" for k in sums)
    multiply = "\n".join(
        f"  %b{k} = call {vector} @llvm.fma.v{width}f32({vector} %a{k}, {vector} {half}, {vector} {one})"
        for k in sums
    )
    load = "\n".join(
        f"  %p{k} = getelementptr {vector}, ptr %p, i64 {k}\n"
        f"  %v{k} = load {vector}, ptr %p{k}, align 4\n  %b{k} = fadd {vector} %a{k}, %v{k}"
        for k in sums
    )
    total = "\n".join(f"  %t{k} = fadd {vector} %{f't{k - 1}' if k else 'b0'}, %b{k}" for k in sums)
    end = f"{total}\n  %r = extractelement {vector} %t{ACCUMULATORS - 1}, i32 0\n  ret float %r"
    return f"""
declare {vector} @llvm.fma.v{width}f32({vector}, {vector}, {vector})
define float @spin(i64 %n) #0 {{
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%j, %loop]
{phis}
{multiply}
  %j = add i64 %i, 1
  %more = icmp slt i64 %j, %n
  br i1 %more, label %loop, label %exit
exit:
{end}
}}
define float @read(ptr %start, i64 %n, i64 %times) #0 {{
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%wrapped, %loop]
  %round = phi i64 [0, %entry], [%next, %loop]
{phis}
  %place = mul i64 %i, {ACCUMULATORS}
  %p = getelementptr {vector}, ptr %start, i64 %place
{load}
  %j = add i64 %i, 1
  %last = icmp eq i64 %j, %n
  %wrapped = select i1 %last, i64 0, i64 %j
  %one = zext i1 %last to i64
  %next = add i64 %round, %one
  %more = icmp slt i64 %next, %times
  br i1 %more, label %loop, label %exit
exit:
{end}
}}
attributes #0 = {{ "min-legal-vector-width"="512" "prefer-vector-width"="512" }}
"""
