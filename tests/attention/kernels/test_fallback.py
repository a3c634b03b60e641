"""Without Numba, and on processors with fewer instructions: everything runs, and the results are right."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import textwrap

import pytest
import torch

import regard


def run(code: str, **environment: str) -> str:
    """What a new process prints; one that must end well."""
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert found.returncode == 0, found.stdout[-1000:] + found.stderr[-3000:]
    return found.stdout


BLOCKED = """
    import sys

    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("numba", "llvmlite"):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Absent())
    import importlib.util
    find = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *rest: None if name == "numba" else find(name, *rest)
"""


def test_importing_regard_imports_no_compiler() -> None:
    """Nor does a call that needs none."""
    run(
        """
        import sys, torch, regard
        x = torch.randn(1, 4, 8)
        regard.attend(x, x, x)
        regard.attend(x, x, x, normalizer="sink")
        loaded = {"numba", "llvmlite", "triton"} & set(sys.modules)
        assert not loaded, loaded
        """
    )


@pytest.mark.parametrize("how", ["finder", "none"])
def test_without_numba_everything_runs_by_the_next_backend(how: str) -> None:
    start = textwrap.dedent(BLOCKED) if how == "finder" else "import sys\nsys.modules['numba'] = None\n"
    code = """
        import torch, regard
        assert "numba" not in {name for name, module in sys.modules.items() if module is not None}
        x = torch.randn(2, 3, 40, 8, requires_grad=True)
        for settings in ({"normalizer": "sparsemax"}, {"score": "additive"}, {"normalizer": "top-3", "dropout": 0.2}):
            found = regard.explain(x, x, x, **settings)
            assert found.backend == "blockwise", found.backend
            name = "additive" if "score" in settings else "sparse"
            assert "the package numba is not installed" in found.refused[name], found.refused
            output, weights = regard.attend(x, x, x, return_weights=True, **settings)
            torch.autograd.grad(output.sum(), x)
            torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 40))
            try:
                regard.attend(x, x, x, backend=name, **settings)
            except ValueError as error:
                assert "numba is not installed" in str(error)
            else:
                raise AssertionError("it was not refused")
        edges = regard.masks.edges(torch.tensor([[0, 1, 2], [0, 0, 5]]))
        for normalizer in ("softmax", "sparsemax"):
            regard.attend(x, x, x, mask=edges, normalizer=normalizer, backend="edges").sum().backward()
        compiled = torch.compile(
            lambda x: regard.attend(x, x, x, normalizer="sparsemax"), fullgraph=True, backend="eager"
        )
        torch.testing.assert_close(compiled(x), regard.attend(x, x, x, normalizer="sparsemax"))
    """
    run(start + textwrap.dedent(code))


PROCESSORS = {
    "haswell": ("haswell", "+avx,+avx2,+fma,+bmi,+bmi2,+f16c,+popcnt,+sse4.2,+lzcnt,+movbe,+cx16,+sahf"),
    "plain": ("x86-64", ""),
}

KERNELS = """
    import torch
    from tests.attention.kernels import test_additive, test_dense, test_sparse
    from tests.attention.kernels.judge import Call, judge, normal
    from regard.attention.kernels import emit
    from regard.attention.mechanism import normalizer_named
    import regard

    print(emit.WIDTH)
    for dtype in (torch.float32, torch.float64):
        for name in ("sparsemax", "entmax-1.3", "top-3", "top-40", "hardmax"):
            for query_len in (3, 9):
                scores = test_sparse.supports(torch.tensor([1, 4, 17, 40]), 70, 1.5)[0]
                for score in ("product", "distance", "additive"):
                    query, key, made = test_sparse.scored(score, scores, query_len)
                    judge(Call(query, key, normal(4, 70, 5), made, normalizer_named(name)), dtype)
        for score in test_dense.SCORES:
            for name in ("softmax", "sigmoid"):
                judge(test_dense.ask(score, name, 9, 70), dtype, "dense", floor=0.1)
        for scale in (0.05, 1.0, 100.0):
            for query_len in (3, 9):
                judge(test_additive.call_of(query_len, 70, 7, scale), dtype, "additive", floor=0.1)
"""


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="processors by Intel's names need one of x86"
)
@pytest.mark.parametrize("name", list(PROCESSORS))
def test_on_a_processor_with_fewer_instructions(name: str) -> None:
    processor, features = PROCESSORS[name]
    width = run(KERNELS, NUMBA_CPU_NAME=processor, NUMBA_CPU_FEATURES=features)
    assert int(width) == {"haswell": 32}.get(name, 16)


@pytest.mark.parametrize("device", ["meta"])
def test_a_device_without_kernels_says_so(device: str) -> None:
    x = torch.empty(1, 9, 8, device=device)
    for backend, settings in (("sparse", {"normalizer": "sparsemax"}), ("additive", {"score": "additive"})):
        with pytest.raises(ValueError, match="no compiled kernels for the device 'meta'"):
            regard.attend(x, x, x, backend=backend, **settings)
