"""Kernels run in PyTorch's own threads: one pool, whose size `torch.set_num_threads` sets.

PyTorch's threads wait for their next work by spinning. A second pool beside them, such as that of Numba's `prange`,
would find every core taken. So the compiled kernel is handed to `GOMP_parallel`, the entry of the OpenMP library that
PyTorch itself is linked with. Where there is none (Windows, and macOS as a rule), threads of Python's do the work.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["in_threads", "threads"]


def threads() -> int:
    """How many threads a kernel runs in: as many as PyTorch's own."""
    return torch.get_num_threads()


def in_threads(kernel: Any, arguments: Sequence[int], tasks: int) -> None:
    """Run a compiled kernel in all threads, until its tasks are done.

    A kernel is a Numba `cfunc` of one address: that of two counters, both zero at first, from which it takes the number
    of its thread and of its next task, followed by the number of tasks and the `arguments`.
    """
    packed = np.array([0, 0, tasks, *arguments], dtype=np.int64)
    workers = min(threads(), tasks)
    if workers <= 1:
        kernel.ctypes(packed.ctypes.data)
    else:
        _parallel()(kernel, packed.ctypes.data, workers)


@cache
def _parallel() -> Callable[[Any, int, int], object]:
    entry = _openmp()
    if entry is not None:
        return lambda kernel, address, workers: entry(kernel.address, address, workers, 0)
    pool = ThreadPoolExecutor(thread_name_prefix="regard")

    def in_python(kernel: Any, address: int, workers: int) -> None:
        # A ctypes function lets go of the interpreter while it runs.
        running = [pool.submit(kernel.ctypes, address) for _ in range(workers)]
        try:
            wait(running)
        finally:
            # Whatever interrupts this, no thread may go on writing into tensors that are given up.
            wait(running)

    return in_python


def _openmp() -> Callable[[int, int, int, int], None] | None:
    """`GOMP_parallel` as PyTorch sees it: a library's symbols are looked for in those that it is linked with, too."""
    if sys.platform == "win32":
        return None
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*")):
        try:
            entry = ctypes.CDLL(str(path)).GOMP_parallel
        except (OSError, AttributeError):
            continue
        entry.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        entry.restype = None
        return lambda function, data, workers, flags: entry(function, data, workers, flags)
    return None
