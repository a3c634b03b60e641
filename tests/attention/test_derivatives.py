"""Derivatives where they could go wrong unseen: shared inputs, second use, autocast, hooks, batches of gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import regard
from regard.attention.backends import blockwise

CALLS = {"sdpa": "scaled_dot", "blockwise": "additive"}


@pytest.fixture(params=[800, 10**9], ids=["many blocks", "one block"], autouse=True)
def block_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockwise, "BLOCK_BYTES", request.param)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(
        shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    ).requires_grad_()


@pytest.mark.parametrize("backend", list(CALLS))
@pytest.mark.parametrize("shared", ["one tensor thrice", "key made from query", "value is key"])
def test_shared_inputs_have_one_gradient_with_and_without_a_graph(backend: str, shared: str) -> None:
    x, w = normal(2, 6, 4), normal(4, 4, seed=1)

    def output() -> Tensor:
        tensors = {
            "one tensor thrice": (x, x, x),
            "key made from query": (x, x @ w, x),
            "value is key": (x, x @ w, x @ w),
        }[shared]
        return regard.attend(*tensors, score=CALLS[backend], backend=backend).square().sum()

    plain = torch.autograd.grad(output(), (x, w), allow_unused=True)
    graphed = torch.autograd.grad(output(), (x, w), allow_unused=True, create_graph=True)
    for one, two in zip(plain, graphed, strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            torch.testing.assert_close(one, two)


@pytest.mark.parametrize("name", ["additive", "general", "cosine"])
def test_parameters_of_a_score_have_one_gradient_with_and_without_a_graph(name: str) -> None:
    parameters = {
        "additive": {"weight": normal(2, 4, seed=2), "bias": normal(2, 4, seed=3)},
        "general": {"weight": normal(2, 4, 4, seed=2)},
        "cosine": {"scale": normal(2, seed=2)},
    }[name]
    x = normal(2, 6, 4)
    leaves = [x, *parameters.values()]

    def output() -> Tensor:
        score = regard.scores.SCORES[name](**parameters)  # type: ignore[call-arg]
        return regard.attend(x, x, x, score=score, backend="blockwise").square().sum()

    for one, two in zip(
        torch.autograd.grad(output(), leaves),
        torch.autograd.grad(output(), leaves, create_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("backend", list(CALLS))
def test_hessian_equals_that_of_the_plain_formula(backend: str) -> None:
    x = normal(3, 3)

    def ours(x: Tensor) -> Tensor:
        return regard.attend(x, x.sin(), x * 2, backend=backend).square().sum()

    def plain(x: Tensor) -> Tensor:
        return (torch.softmax(x @ x.sin().T / 3**0.5, -1) @ (x * 2)).square().sum()

    torch.testing.assert_close(
        torch.autograd.functional.hessian(ours, x), torch.autograd.functional.hessian(plain, x)
    )


@pytest.mark.parametrize("backend", list(CALLS))
def test_batched_gradients_and_function_transforms(backend: str) -> None:
    x = normal(2, 5, 4)

    def run(x: Tensor) -> Any:
        return regard.attend(x, x, x, score=CALLS[backend], backend=backend)

    output = run(x)
    several = torch.randn(3, *output.shape, dtype=torch.float64)
    (batched,) = torch.autograd.grad(output, x, several, is_grads_batched=True, retain_graph=True)
    for grad, found in zip(several, batched, strict=True):
        torch.testing.assert_close(found, torch.autograd.grad(output, x, grad, retain_graph=True)[0])

    def chosen(x: Tensor) -> Any:
        return regard.attend(x, x, x, score=CALLS[backend])

    torch.testing.assert_close(torch.func.vmap(chosen)(x.detach()), run(x.detach()))
    torch.testing.assert_close(
        torch.func.grad(lambda x: chosen(x).square().sum())(x.detach()),
        torch.autograd.grad(run(x).square().sum(), x)[0],
    )


@pytest.mark.parametrize("backend", list(CALLS))
def test_saved_tensors_are_pytorchs_to_move_and_free(backend: str) -> None:
    """Hooks on saved tensors see everything kept; a second backward pass without leave is refused."""
    x = normal(2, 6, 4)
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = regard.attend(x, x, x, score=CALLS[backend], backend=backend)
    assert kept
    output.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        output.sum().backward()


def test_recomputing_keeps_no_block(block_bytes: None) -> None:
    """What is kept for the backward pass is the inputs, not the scores: counted where autograd stores it."""
    x = torch.randn(1, 1, 512, 4, requires_grad=True)
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = regard.attend(x, x, x, score="additive", normalizer="sparsemax", backend="blockwise")
    output.sum().backward()
    many = blockwise.BLOCK_BYTES < 10**6
    assert (sum(kept.values()) <= 4 * x.nbytes) == many


def test_dropout_is_the_same_in_the_recomputed_backward_pass() -> None:
    x = normal(1, 1, 24, 3)
    grad = torch.randn(1, 1, 24, 3, dtype=torch.float64)

    def gradient(graph: bool) -> Tensor:
        torch.manual_seed(5)
        output = regard.attend(x, x, x, dropout=0.5)
        return torch.autograd.grad(output, x, grad, create_graph=graph)[0]

    def outputs(x: Tensor) -> Tensor:
        torch.manual_seed(5)
        return regard.attend(x, x, x, dropout=0.5)

    step, direction = 1e-6, torch.randn(1, 1, 24, 3, dtype=torch.float64)
    with torch.no_grad():
        slope = ((outputs(x + step * direction) - outputs(x - step * direction)) / (2 * step) * grad).sum()
    torch.testing.assert_close((gradient(False) * direction).sum(), slope, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient(False), gradient(True))


@pytest.mark.parametrize("score", ["scaled_dot", "additive"])
@pytest.mark.parametrize("normalizer", ["softmax", "top-2"])
def test_autocast_chooses_the_dtype_and_nothing_else(score: str, normalizer: str) -> None:
    """Under autocast a call is the call with its tensors cast, forward and backward."""
    x = torch.randn(1, 2, 40, 8, generator=torch.Generator().manual_seed(0))
    found = []
    for cast in (True, False):
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast):
            inputs = (leaf, leaf * 2, leaf.half() if cast else leaf)
            if not cast:
                inputs = tuple(t.bfloat16() for t in (leaf, leaf * 2, leaf.half()))  # type: ignore[assignment]
            output = regard.attend(*inputs, score=score, normalizer=normalizer)
        assert output.dtype == torch.bfloat16
        output.float().square().sum().backward()
        found.append((output, leaf.grad))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gradients_accumulate_in_float32(dtype: torch.dtype) -> None:
    """The error of many blocks is that of one: sums over blocks are not rounded to half precision on the way."""
    x = torch.randn(1, 1, 256, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    weight = torch.randn(8, generator=torch.Generator().manual_seed(1)).to(dtype)

    def gradients(kind: torch.dtype) -> list[Tensor]:
        leaves = [x.to(kind).requires_grad_(), weight.to(kind).requires_grad_()]
        score = regard.scores.Additive(leaves[1])
        output = regard.attend(leaves[0], leaves[0], leaves[0], score=score)
        return [g.double() for g in torch.autograd.grad(output.double().square().sum(), leaves)]

    for exact, found in zip(gradients(torch.float64), gradients(dtype), strict=True):
        assert (found - exact).norm() / exact.norm() < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", list(CALLS))
def test_nan_query_gives_a_nan_row_in_every_dtype(backend: str, dtype: torch.dtype) -> None:
    query = torch.randn(2, 5, 8).to(dtype)
    query[1, 2, 3] = torch.nan
    found = regard.attend(
        query, torch.randn(2, 6, 8).to(dtype), torch.randn(2, 6, 8).to(dtype), backend=backend
    )
    assert found[1, 2].isnan().all()
    assert int(found.isnan().any(-1).sum()) == 1


def test_hardmax_has_a_zero_gradient_on_every_path() -> None:
    x = normal(1, 6, 4)
    key = torch.randn(1, 6, 4, dtype=torch.float64)
    (grad,) = torch.autograd.grad(regard.attend(x, key, key, normalizer="hardmax").sum(), x)
    assert not grad.any()


@pytest.mark.parametrize("name", ["gumbel", "gumbel_hard", "sample"])
def test_what_is_drawn_is_drawn_again_in_the_recomputed_backward_pass(name: str) -> None:
    x = normal(1, 1, 24, 3)

    def gradient(graph: bool) -> Tensor:
        torch.manual_seed(5)
        output, weights = regard.attend(x, x, x, normalizer=name, dropout=0.25, return_weights=True)
        loss = output.square().sum() + (weights * torch.arange(24)).sum()
        return torch.autograd.grad(loss, x, create_graph=graph)[0]

    torch.testing.assert_close(gradient(False), gradient(True))
    assert gradient(False).abs().max() > 0


def test_an_output_of_drawn_keys_hands_no_gradient_to_the_scores() -> None:
    query, value = normal(1, 6, 4), normal(1, 6, 4, seed=1)
    key = torch.randn(1, 6, 4, dtype=torch.float64)
    output = regard.attend(query, key, value, normalizer="sample")
    to_query, to_value = torch.autograd.grad(output.sum(), (query, value))
    assert not to_query.any()
    assert to_value.any()


def test_a_coupled_normaliser_has_one_result_in_blocks_and_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key = normal(2, 3, 9, 4), normal(2, 3, 11, 4, seed=1)
    previous = torch.rand(2, 3, 11, dtype=torch.float64).softmax(-1).requires_grad_()

    def results(size: int) -> list[Tensor]:
        monkeypatch.setattr(blockwise, "BLOCK_BYTES", size)
        normalizer = regard.normalizers.Monotonic(previous=previous)
        settings: dict[str, Any] = {"normalizer": normalizer, "mask": regard.masks.window(6)}
        output, weights = regard.attend(query, key, key, **settings, return_weights=True)
        some = regard.weights(query, key, rows=[7, 2, -1], **settings)
        received = regard.weights(query, key, reduce="received", **settings)
        assert isinstance(some, Tensor)
        assert isinstance(received, Tensor)
        torch.testing.assert_close(some, weights[..., [7, 2, -1], :])
        loss = output.square().sum() + weights.pow(3).sum()
        return [output, weights, received, *torch.autograd.grad(loss, (query, key, previous))]

    for one, other in zip(results(10**9), results(3000), strict=True):
        torch.testing.assert_close(one, other)
