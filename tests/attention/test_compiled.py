"""Compilers and exporters: one graph without a break, for every length; the same numbers as without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import regard
from regard.attention.backends import blockwise
from regard.layers import LearnedMechanism, SelfAttention

# The warnings of compilers and exporters themselves are theirs to mend.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)

CALLS: dict[str, dict[str, Any]] = {
    "fused": {},
    "causal": {"mask": regard.masks.causal()},
    "additive sparsemax": {"score": "additive", "normalizer": "sparsemax", "mask": regard.masks.window(3)},
    "entmax and weights": {
        "normalizer": "entmax-1.3",
        "bias": regard.biases.alibi(2),
        "return_weights": True,
    },
    "top-3 of modified scores": {"score": "dot+qknorm+softcap-10", "normalizer": "top-3"},
    "a function": {"score": lambda q, k: -(q - k).abs().sum(-1)},
}


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()


def pair(length: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    made = (torch.randn(2, 2, n, 8, generator=generator) for n in (length, length + 3))
    return tuple(t.requires_grad_() for t in made)  # type: ignore[return-value]


def outcome(run: Any, query: Tensor, key: Tensor) -> list[Tensor]:
    found = run(query, key)
    ends = list(found) if isinstance(found, tuple) else [found]
    loss = sum((end.square().sum() for end in ends), torch.zeros(()))
    return [*ends, *torch.autograd.grad(loss, (query, key))]


@pytest.mark.parametrize("name", list(CALLS))
def test_one_graph_serves_every_length(name: str) -> None:
    graphs = 0

    def counting(graph: Any, inputs: Any) -> Any:
        nonlocal graphs
        graphs += 1
        return graph

    def run(query: Tensor, key: Tensor) -> Any:
        return regard.attend(query, key, key, **CALLS[name])

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend=counting)
    for length in (6, 9, 16):
        for found, expected in zip(
            outcome(compiled, *pair(length)), outcome(run, *pair(length)), strict=True
        ):
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)
    assert graphs == 1


def test_long_calls_are_compiled_into_blocks_that_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept for the backward pass is less than the scores, and the numbers stay the same."""
    query, key = pair(40)

    def run(query: Tensor, key: Tensor) -> Any:
        return regard.attend(query, key, key, score="distance", normalizer="relu")

    def kept(limit: int) -> tuple[int, list[Tensor]]:
        torch._dynamo.reset()
        monkeypatch.setattr(blockwise, "COMPILED_BLOCK_BYTES", limit)
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = compiled(query, key)
        return sum(sizes.values()), [output, *torch.autograd.grad(output.square().sum(), (query, key))]

    whole, expected = kept(10**9)
    blocks, found = kept(40_000)
    assert blocks < whole / 3
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    "settings", [{"dropout": 0.5}, {"normalizer": "gumbel_hard"}, {"normalizer": "sample"}]
)
def test_what_is_drawn_is_drawn_anew_by_each_compiled_call(settings: dict[str, Any]) -> None:
    compiled = torch.compile(
        lambda q: regard.attend(q, q, q, **settings), fullgraph=True, backend="aot_eager"
    )
    query = torch.randn(1, 2, 16, 8)
    assert not torch.equal(compiled(query), compiled(query))


class Layer(nn.Module):
    def __init__(self, mechanism: str) -> None:
        super().__init__()
        self.layer = SelfAttention(16, 4, mechanism)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x)[0]
        return output


class Look(nn.Module):
    def __init__(self, mechanism: str) -> None:
        super().__init__()
        self.look = LearnedMechanism(mechanism, heads=2, size=8)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        output: Tensor = self.look(query, key, key)[0]
        return output


EXPORTED = [
    "scaled_dot/softmax/causal",
    "additive/sparsemax/window-2",
    "cosine/top-3/causal",
    "scaled_dot+rotary/entmax15/alibi",
]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("mechanism", EXPORTED)
def test_exported_programs_hold_for_every_length(mechanism: str, strict: bool) -> None:
    batch, length = torch.export.Dim("batch", max=64), torch.export.Dim("length", min=2, max=4096)
    layer = Layer(mechanism).eval()
    program = torch.export.export(
        layer, (torch.randn(2, 7, 16),), dynamic_shapes={"x": {0: batch, 1: length}}, strict=strict
    )
    for shape in [(1, 2, 16), (5, 33, 16)]:
        x = torch.randn(shape)
        torch.testing.assert_close(program.module()(x), layer(x))
    lengths = {"query": {2: torch.export.Dim("n", min=2)}, "key": {2: torch.export.Dim("m", min=2)}}
    look = Look(mechanism).eval()
    program = torch.export.export(
        look, (torch.randn(2, 2, 7, 8), torch.randn(2, 2, 9, 8)), dynamic_shapes=lengths, strict=strict
    )
    query, key = torch.randn(2, 2, 11, 8), torch.randn(2, 2, 12, 8)
    torch.testing.assert_close(program.module()(query, key), look(query, key))


@pytest.mark.parametrize("mechanism", EXPORTED)
def test_layers_export_to_onnx(mechanism: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs the packages onnxruntime and onnxscript")
    layer = Layer(mechanism).eval()
    lengths = {"x": {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=2)}}
    program = torch.onnx.export(
        layer, (torch.randn(2, 7, 16),), dynamo=True, dynamic_shapes=lengths, verbose=False
    )
    assert program is not None
    path = tmp_path / "layer.onnx"
    program.save(path)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = torch.randn(3, 11, 16)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), layer(x).detach(), atol=1e-5, rtol=1e-5)


def test_dropout_under_vmap_is_drawn_as_asked() -> None:
    x = torch.randn(2, 5, 4).expand(3, -1, -1, -1)

    def run(query: Tensor) -> Any:
        return regard.attend(query, query, query, dropout=0.5)

    same = torch.func.vmap(run, randomness="same")(x)
    assert torch.equal(same[0], same[1])
    different = torch.func.vmap(run, randomness="different")(x)
    assert not torch.equal(different[0], different[1])
    with pytest.raises(RuntimeError, match="random"):
        torch.func.vmap(run)(x)
