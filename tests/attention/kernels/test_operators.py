"""The operators as PyTorch sees them: checked by its own checker, compiled, exported."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.attention.kernels.judge import normal
from torch import Tensor, nn

import regard
from regard import masks
from regard.attention.call import AttentionCall
from regard.attention.kernels.settings import Settings
from regard.layers import SelfAttention

# The warnings of compilers and exporters themselves are theirs to mend.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


def tensors(
    score: str, query_len: int = 6, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    query, key, value = (
        normal(2, heads, length, size, seed=n).to(dtype).requires_grad_()
        for n, (heads, length, size) in enumerate([(4, query_len, 5), (2, 9, 5), (2, 9, 3)])
    )
    return query, key, value, normal(4, 5, seed=4).to(dtype).requires_grad_() if score == "additive" else None


@pytest.mark.parametrize("query_len", [3, 6])
def test_additive_scores_pass_opcheck(query_len: int) -> None:
    query, key, _, weight = tensors("additive", query_len)
    torch.library.opcheck(torch.ops.regard.additive_scores.default, (query, key, weight))
    above = normal(2, 4, query_len, 9).requires_grad_()
    torch.library.opcheck(torch.ops.regard.additive_scores_backward.default, (above, query, key, weight))


@pytest.fixture
def _filled() -> Iterator[None]:
    """Whatever room is left over is filled with the same numbers each time."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_filled")
@pytest.mark.parametrize(
    ("score", "normalizer", "parameter", "seen", "dropout", "want"),
    [
        ("product", "entmax", 1.5, "ranges", 0.3, True),
        ("distance", "top", 3.0, "mask", 0.0, False),
        ("additive", "entmax", 1.3, "all", 0.0, True),
        ("product", "hardmax", 0.0, "all", 0.0, False),
    ],
)
def test_attention_passes_opcheck(
    score: str, normalizer: str, parameter: float, seen: str, dropout: float, want: bool
) -> None:
    query, key, value, weight = tensors(score)
    checks = ["test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    if seen == "ranges":
        checks.pop()  # It compares the numbers of all results, also those of the room that is left over.
    if weight is not None:
        weight = (
            weight.detach() / 1000
        ).requires_grad_()  # Every key is in the support: no room is left over.
    low = torch.zeros(1, 1, 6, dtype=torch.int32)
    ranges = (
        torch.stack([low, low + torch.arange(6, dtype=torch.int32) + 3], -1) if seen == "ranges" else None
    )
    mask = normal(2, 1, 1, 9, seed=5) > -1 if seen == "mask" else None
    bias = normal(1, 4, 6, 9, seed=6).requires_grad_(seen == "ranges") if seen != "all" else None
    settings = Settings(score, normalizer, parameter, dropout, 7, 0, 6)
    arguments = (query, key, value, weight, ranges, mask, bias, *settings, want, True)
    torch.library.opcheck(torch.ops.regard.attention.default, arguments, test_utils=checks)
    output, weights, *state = (t.detach() for t in torch.ops.regard.attention(*arguments))
    above = torch.ones_like(output).requires_grad_(), torch.ones_like(weights) if want else None
    torch.library.opcheck(
        torch.ops.regard.attention_backward.default,
        (*above, *arguments[:7], output, *state, *settings, seen == "ranges"),
        test_utils=checks,
    )


CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "sparsemax": ("attention", {"normalizer": "sparsemax"}),
    "causal entmax": ("attention", {"normalizer": "entmax-1.3", "mask": masks.causal()}),
    "distance top-4": ("attention", {"score": "distance", "normalizer": "top-4", "mask": masks.window(5, 2)}),
    "cosine hardmax": ("attention", {"score": "cosine", "normalizer": "hardmax"}),
    "additive entmax15": (
        "attention",
        {"score": "additive", "normalizer": "entmax15", "return_weights": True},
    ),
    "additive softmax": ("attention", {"score": "additive", "mask": masks.causal()}),
    "additive relu": ("additive_scores", {"score": "additive", "normalizer": "relu"}),
    "additive sigmoid": (
        "attention",
        {"score": "additive", "normalizer": "sigmoid", "return_weights": True},
    ),
    "dilated and biased": (
        "attention",
        {"normalizer": "sparsemax", "mask": masks.dilated(3, 2), "bias": regard.biases.alibi(2)},
    ),
}


def pair(length: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    made = (torch.randn(2, 2, n, 8, generator=generator) for n in (length, length + 3))
    query, key = (t.requires_grad_() for t in made)
    return query, key


def outcome(run: Any, query: Tensor, key: Tensor) -> list[Tensor]:
    found = run(query, key)
    ends = list(found) if isinstance(found, tuple) else [found]
    loss = sum((end.square().sum() for end in ends), torch.zeros(()))
    return [*ends, *torch.autograd.grad(loss, (query, key))]


@pytest.mark.parametrize("name", list(CALLS))
def test_compiled_graphs_have_the_operator(name: str) -> None:
    """One graph for every length, forward and backward, in which it stands; the numbers are those of the eager call."""
    operator, settings = CALLS[name]
    graphs: list[list[str]] = []

    def keeping(graph: Any, inputs: Any) -> Any:
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return graph

    def run(query: Tensor, key: Tensor) -> Any:
        return regard.attend(query, key, key, **settings)

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend=keeping)
    for length in (6, 9, 40):
        for found, expected in zip(
            outcome(compiled, *pair(length)), outcome(run, *pair(length)), strict=True
        ):
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)
    assert len(graphs) == 1
    assert any(f"regard.{operator}" in target for target in graphs[0]), graphs[0]


@pytest.mark.parametrize("name", ["causal entmax", "additive softmax", "additive relu", "dilated and biased"])
def test_the_backward_graph_has_its_operator(name: str) -> None:
    from torch._dynamo.backends.common import aot_autograd

    operator, settings = CALLS[name]
    graphs: dict[str, list[str]] = {}

    def keeping(kind: str) -> Any:
        def keep(graph: Any, inputs: Any) -> Any:
            graphs[kind] = [str(node.target) for node in graph.graph.nodes]
            return graph

        return keep

    backend = aot_autograd(fw_compiler=keeping("forward"), bw_compiler=keeping("backward"))

    def run(query: Tensor, key: Tensor) -> Any:
        return regard.attend(query, key, key, **settings)

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend=backend)
    for found, expected in zip(outcome(compiled, *pair(20)), outcome(run, *pair(20)), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)
    assert f"regard.{operator}.default" in graphs["forward"]
    assert f"regard.{operator}_backward.default" in graphs["backward"]


def test_inductor_compiles_what_is_around_it() -> None:
    def run(query: Tensor, key: Tensor) -> Tensor:
        output = regard.attend(query.sin(), key, key.cos(), normalizer="sparsemax", mask="causal")
        assert isinstance(output, Tensor)
        return output.square()

    compiled = torch.compile(run, fullgraph=True)
    for found, expected in zip(outcome(compiled, *pair(20)), outcome(run, *pair(20)), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


class Layer(nn.Module):
    def __init__(self, mechanism: str) -> None:
        super().__init__()
        self.layer = SelfAttention(16, 4, mechanism)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x)[0]
        return output


@pytest.mark.parametrize(
    ("mechanism", "operator"),
    [
        ("scaled_dot/sparsemax/causal", "attention"),
        ("additive/softmax/window-2", "attention"),
        ("additive/relu/window-2", "additive_scores"),
    ],
)
def test_exported_programs_have_it_and_onnx_has_not(mechanism: str, operator: str, tmp_path: Path) -> None:
    layer = Layer(mechanism).eval()
    length = torch.export.Dim("length", min=2, max=4096)
    program = torch.export.export(layer, (torch.randn(2, 7, 16),), dynamic_shapes={"x": {1: length}})
    targets = {str(node.target) for node in program.graph.nodes}
    assert f"regard.{operator}.default" in targets
    saved = tmp_path / "layer.pt2"
    torch.export.save(program, saved)
    x = torch.randn(2, 33, 16)
    torch.testing.assert_close(torch.export.load(saved).module()(x), layer(x))

    pytest.importorskip("onnxscript", reason="needs the package onnxscript")
    model = torch.onnx.export(layer, (torch.randn(2, 7, 16),), dynamo=True, verbose=False)
    assert model is not None
    assert not any("regard" in (node.domain or "") or operator in node.op_type for node in model.model.graph)


def test_shapes_are_known_without_numbers() -> None:
    """On `meta` tensors and in fake mode nothing is computed."""
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        query, key, value = torch.empty(2, 4, 7, 8), torch.empty(2, 2, 9, 8), torch.empty(2, 2, 9, 3)
        settings = Settings("product", "entmax", 2.0)
        found = torch.ops.regard.attention(query, key, value, None, None, None, None, *settings, True, True)
        assert [tuple(t.shape) for t in found[:2]] == [(2, 4, 7, 3), (2, 4, 7, 9)]
        assert torch.ops.regard.additive_scores(query, key, torch.empty(1, 8)).shape == (2, 4, 7, 9)
    meta = torch.empty(2, 7, 8, device="meta")
    call = AttentionCall.of(meta, meta, meta, normalizer="sparsemax")
    (reason,) = (r for r in regard.attention.backends.sparse.unsupported(call) if "meta" in r)
    assert "no compiled kernels for the device" in reason
    assert regard.attend(meta, meta, meta, normalizer="sparsemax").shape == (2, 7, 8)  # type: ignore[union-attr]
