"""Derivatives of the fused kernels: first and second by differences; transforms go elsewhere and agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.attention.kernels.judge import Call, normal
from torch import Tensor

import regard
from regard import masks
from regard.attention.call import AttentionCall
from regard.attention.kernels import cpu, settings
from regard.attention.mechanism import normalizer_named

SCORES = ["product", "distance", "additive"]
SPARSE = ["sparsemax", "entmax15", "entmax-1.3", "top-3"]
PAIRS = [
    *(("sparse", score, name) for score in SCORES for name in [*SPARSE, "hardmax"]),
    *(("dense", score, name) for score in SCORES for name in ("softmax", "sigmoid")),
    *(("additive", "additive", name) for name in ("softmax", "sigmoid", "sparsemax", "sink", "top-3")),
]


def ask(score: str, name: str, query_len: int = 3, key_len: int = 8, **more: Any) -> Call:
    query, key = normal(1, 2, query_len, 4, seed=1), normal(1, 1, key_len, 4, seed=2)
    made = {
        "product": regard.scores.Dot(),
        "distance": regard.scores.Distance(1.0),
        "additive": regard.scores.Additive(normal(2, 4, seed=3), normal(2, 4, seed=4)),
    }[score]
    normalizer = (
        regard.normalizers.SinkSoftmax(normal(2, seed=5)) if name == "sink" else normalizer_named(name)
    )
    return Call(query, key, normal(1, 1, key_len, 3, seed=6), made, normalizer, **more)


def check(call: Call, backend: str, second: bool = True) -> None:
    leaves = tuple(t.detach().requires_grad_() for t in call.leaves.values())

    def run(*tensors: Tensor) -> Any:
        found: Any = call.with_leaves(tensors).attend(backend=backend, return_weights=True)
        return found

    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)
    if second:
        assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True)


@pytest.mark.parametrize("query_len", [3, 6])
@pytest.mark.parametrize(("backend", "score", "name"), PAIRS)
def test_first_and_second_derivatives(backend: str, score: str, name: str, query_len: int) -> None:
    if name == "hardmax":
        # No gradient reaches the scores; that of the values does.
        call = ask(score, name, query_len).to(torch.float64)
        output = call.attend(backend=backend)
        grads = torch.autograd.grad(output, list(call.leaves.values()), torch.ones_like(output))
        assert [bool(grad.any()) for grad in grads[:3]] == [False, False, True]
        return
    shown = normal(1, 2, query_len, 8, seed=7) > -0.5
    for mask, bias in [
        (None, None),
        (masks.causal(), normal(query_len, 8, seed=8)),
        (shown, normal(2, 1, 8, seed=8)),
    ]:
        check(ask(score, name, query_len, mask=mask, bias=bias), backend)


@pytest.mark.parametrize("shape", [(8,), (6, 1), (1, 1, 8), (2, 6, 1), (1, 2, 1, 8), (1, 2, 6, 8)])
@pytest.mark.parametrize("learned", [True, False])
def test_second_derivatives_beside_a_bias_of_any_shape(shape: tuple[int, ...], learned: bool) -> None:
    call = ask("product", "sparsemax", 6).to(torch.float64)
    bias = normal(*shape, seed=8).requires_grad_(learned)

    def run(*leaves: Tensor) -> Any:
        return regard.attend(
            *leaves[:3],
            score="dot",
            normalizer="sparsemax",
            bias=leaves[3] if learned else bias,
            backend="sparse",
            return_weights=True,
        )

    leaves = (call.query, call.key, call.value, *([bias] if learned else []))
    assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("name", SPARSE)
def test_derivatives_of_supports_that_are_found_again(
    score: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "SUPPORT", 1)
    monkeypatch.setattr(cpu, "AGAIN_BYTES", 100)
    check(ask(score, name, 6, mask=masks.causal(), bias=normal(2, 6, 8, seed=8)), "sparse")


@pytest.mark.parametrize(("backend", "score", "name"), PAIRS)
def test_gradients_of_some_of_the_tensors_and_ends(backend: str, score: str, name: str) -> None:
    """Of the weights alone, of the output alone, for one tensor alone: as when all are asked for."""
    call = ask(score, name, 6).to(torch.float64)
    output, weights = call.attend(backend=backend, return_weights=True)
    above, above_weights = normal(*output.shape, seed=1), normal(*weights.shape, seed=2)
    leaves = list(call.leaves.values())
    parts = [
        torch.autograd.grad(end, leaves, grad, retain_graph=True, materialize_grads=True)
        for end, grad in ((output, above), (weights, above_weights))
    ]
    both = torch.autograd.grad([output, weights], leaves, [above, above_weights], materialize_grads=True)
    for one, two, whole in zip(*parts, both, strict=True):
        torch.testing.assert_close(one + two, whole, atol=1e-12, rtol=1e-12)
    for place, (what, leaf) in enumerate(call.leaves.items()):
        alone = call.with_leaves([t if n == place else t.detach() for n, t in enumerate(leaves)])
        output, weights = alone.attend(backend=backend, return_weights=True)
        (grad,) = torch.autograd.grad(
            [end for end in (output, weights) if end.requires_grad],
            leaf,
            [g for end, g in ((output, above), (weights, above_weights)) if end.requires_grad],
            materialize_grads=True,
        )
        torch.testing.assert_close(grad, both[place], atol=1e-12, rtol=1e-12, msg=what)


def test_one_tensor_in_every_role() -> None:
    x = normal(1, 2, 9, 4).requires_grad_()
    for backend, settings_ in (
        ("sparse", {"normalizer": "sparsemax"}), ("dense", {}), ("additive", {"score": "additive"}),
    ):  # fmt: skip

        def run(x: Tensor, backend: str = backend, settings_: Any = settings_) -> Any:
            return regard.attend(x, x, x, backend=backend, **settings_)

        assert torch.autograd.gradcheck(run, x, fast_mode=True)
        assert torch.autograd.gradgradcheck(run, x, fast_mode=True)


@pytest.mark.parametrize(("backend", "score", "name"), [p for p in PAIRS if p[2] != "hardmax"])
def test_transforms_go_elsewhere_and_agree(backend: str, score: str, name: str) -> None:
    call = ask(score, name, 6)
    inputs = (call.query, call.key, call.value)

    def run(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        found = regard.attend(query, key, value, score=call.score, normalizer=call.normalizer)
        assert isinstance(found, Tensor)
        return found

    def fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        found = regard.attend(
            query, key, value, score=call.score, normalizer=call.normalizer, backend=backend
        )
        assert isinstance(found, Tensor)
        return found

    leaves = tuple(t.clone().requires_grad_() for t in inputs)
    expected = fused(*leaves)
    grad = normal(*expected.shape, seed=1)
    reverse = torch.autograd.grad(expected, leaves, grad, retain_graph=True)
    # Forward mode, twice over: u . (J v) = (J' u) . v
    tangents = tuple(normal(*t.shape, seed=n) for n, t in enumerate(inputs))
    value, forward = torch.func.jvp(run, inputs, tangents)
    torch.testing.assert_close(value, expected.detach(), atol=1e-12, rtol=1e-12)
    slope = sum(float((g * t).sum()) for g, t in zip(reverse, tangents, strict=True))
    assert abs(float((forward * grad).sum()) - slope) < 1e-9
    with torch.autograd.forward_ad.dual_level():
        duals = [torch.autograd.forward_ad.make_dual(t, v) for t, v in zip(inputs, tangents, strict=True)]
        dual = torch.autograd.forward_ad.unpack_dual(run(*duals)).tangent
    torch.testing.assert_close(dual, forward, atol=1e-12, rtol=1e-12)
    # Functions of functions.
    _, pull = torch.func.vjp(run, *inputs)
    for one, two in zip(pull(grad), reverse, strict=True):
        torch.testing.assert_close(one, two, atol=1e-10, rtol=1e-10)
    many = torch.stack([inputs[0], 2 * inputs[0], -inputs[0]])
    mapped = torch.func.vmap(run, in_dims=(0, None, None))(many, *inputs[1:])
    one_by_one = torch.stack([fused(query, *inputs[1:]) for query in many])
    torch.testing.assert_close(mapped, one_by_one, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(("backend", "score", "name"), PAIRS)
def test_batches_of_gradients(backend: str, score: str, name: str) -> None:
    """`is_grads_batched`, as Jacobians are made with: the same as one after the other."""
    call = ask(score, name, 6).to(torch.float64)
    output = call.attend(backend=backend)
    leaves, grads = list(call.leaves.values()), normal(3, *output.shape, seed=4)
    together = torch.autograd.grad(
        output, leaves, grads, is_grads_batched=True, retain_graph=True, materialize_grads=True
    )
    for place, grad in enumerate(grads):
        alone = torch.autograd.grad(output, leaves, grad, retain_graph=True, materialize_grads=True)
        for one, two in zip(together, alone, strict=True):
            torch.testing.assert_close(one[place], two, atol=1e-12, rtol=1e-12)


def test_transforms_are_refused_by_name() -> None:
    x = normal(1, 2, 9, 4)
    for backend, settings_ in (
        ("sparse", {"normalizer": "sparsemax"}), ("dense", {}), ("additive", {"score": "additive"}),
    ):  # fmt: skip

        def run(x: Tensor, backend: str = backend, settings_: Any = settings_) -> Any:
            call = AttentionCall.of(x, x, x, **settings_)
            assert any(
                "forward-mode" in reason
                for reason in regard.attention.backends.BACKENDS[backend].unsupported(call)
            )
            return regard.attend(x, x, x, backend=backend, **settings_)

        with pytest.raises(ValueError, match="no function transforms"):
            torch.func.vmap(run)(x)


def test_half_precision_is_differentiated_in_single() -> None:
    """Under autocast, too: parts keep their own precision."""
    x = normal(1, 2, 9, 8).float().requires_grad_()
    weight = normal(2, 8, seed=3).float().requires_grad_()
    for backend, name in (("sparse", "sparsemax"), ("additive", "softmax")):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = regard.attend(
                x, x, x, score=regard.scores.Additive(weight), normalizer=name, backend=backend
            )
        assert isinstance(output, Tensor)
        assert output.dtype == torch.bfloat16
        grads = torch.autograd.grad(output.float().sum(), (x, weight))
        assert [g.dtype for g in grads] == [torch.float32] * 2
        assert all(g.isfinite().all() for g in grads)
