"""Kernels in PyTorch's threads, in Python's where there is no OpenMP, from several threads at once, after a fork."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

import regard
from regard.attention.kernels import threads

CALLS: dict[str, dict[str, Any]] = {
    "sparsemax": {"normalizer": "sparsemax"},
    "additive": {"score": "additive"},
    "additive entmax": {"score": "additive", "normalizer": "entmax-1.3", "mask": regard.masks.causal()},
    "dropout": {"normalizer": "top-5", "dropout": 0.3},
    "softmax": {"mask": regard.masks.causal(), "dropout": 0.3},
    "additive softmax": {"score": "additive"},
}
BACKENDS = {"additive": "additive", "softmax": "dense", "additive softmax": "dense"}


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def results(name: str, heads: int = 3, length: int = 70) -> list[Tensor]:
    """Output and gradients of a call of several blocks of queries. *Shape:* of few or no batches."""
    generator = torch.Generator().manual_seed(3)
    query, key, value = (
        torch.randn(heads, n, 8, generator=generator, dtype=torch.float64).requires_grad_()
        for n in (length, length + 9, length + 9)
    )
    torch.manual_seed(0)
    output = regard.attend(query, key, value, backend=BACKENDS.get(name, "sparse"), **CALLS[name])
    assert isinstance(output, Tensor)
    return [output.detach(), *torch.autograd.grad(output.square().sum(), (query, key, value))]


def alike(one: list[Tensor], two: list[Tensor]) -> None:
    for first, second in zip(one, two, strict=True):
        torch.testing.assert_close(first, second, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", list(CALLS))
def test_any_number_of_threads_gives_the_same(name: str) -> None:
    for heads in (1, 3):
        torch.set_num_threads(1)
        expected = results(name, heads)
        for count in (2, 3, 7):
            torch.set_num_threads(count)
            found = results(name, heads)
            alike(found, expected)
            for one, two in zip(found, results(name, heads), strict=True):
                assert torch.equal(one, two), "the same number of threads gives the same bits"


@pytest.mark.parametrize("name", list(CALLS))
def test_without_openmp_threads_of_python_do_the_work(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    expected = results(name)
    torch.set_num_threads(3)
    monkeypatch.setattr(threads, "_openmp", lambda: None)
    threads._parallel.cache_clear()
    try:
        alike(results(name), expected)
    finally:
        monkeypatch.undo()
        threads._parallel.cache_clear()


def test_openmp_is_looked_for_in_pytorch() -> None:
    if sys.platform != "linux":
        pytest.skip("only PyTorch's builds for Linux are linked with GNU's OpenMP")
    assert threads._openmp() is not None


@pytest.mark.parametrize("openmp", [True, False])
@pytest.mark.parametrize("count", [1, 2])
def test_calls_from_several_threads_of_python_at_once(
    count: int, openmp: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(count)
    expected = {name: results(name) for name in CALLS if name != "dropout"}
    if not openmp:
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    threads._parallel.cache_clear()
    try:
        with ThreadPoolExecutor(4) as pool:
            names = [*expected] * 8
            for name, found in zip(names, pool.map(results, names), strict=True):
                alike(found, expected[name])
    finally:
        monkeypatch.undo()
        threads._parallel.cache_clear()


FORKED = """
    import multiprocessing, os, sys, torch
    from tests.attention.kernels.test_threads import CALLS, alike, results

    before, after = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(before)
    expected = {name: results(name) for name in CALLS}

    def child():
        torch.set_num_threads(after)
        for name in CALLS:
            alike(results(name), expected[name])
        os._exit(17)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    if process.exitcode is None:
        process.kill()
    sys.exit(0 if process.exitcode == 17 else 1)
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 1), (1, 2)])
def test_a_forked_process_computes_the_same(before: int, after: int) -> None:
    """As the workers of a DataLoader, which have one thread each.

    With two threads before and after a fork GNU's OpenMP waits for threads that the child has not got; PyTorch's own
    operations wait there as well.
    """
    command = [sys.executable, "-c", textwrap.dedent(FORKED), str(before), str(after)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert found.returncode == 0, found.stderr[-2000:]
