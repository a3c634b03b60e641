"""Every backend x score x normaliser x mask x dtype against the definition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import regard
from regard.attention import reference
from regard.attention.backends import BACKENDS, blockwise
from regard.attention.call import AttentionCall
from regard.attention.normalizers import NORMALIZERS
from regard.attention.scores import SCORES

SCORE_NAMES = list(SCORES)
NORMALIZER_NAMES = [*NORMALIZERS, "top-3"]
MASK_NAMES = ["none", "causal", "window", "padding", "dense", "blind rows", "combined", "everything hidden"]
DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that every call is cut into several."""
    monkeypatch.setattr(blockwise, "BLOCK_BYTES", 2000)


@dataclass
class Case:
    query: Tensor
    key: Tensor
    value: Tensor
    score: Any
    score_parameters: dict[str, Any]


def make(
    score: str,
    *,
    query_heads: int = 4,
    key_heads: int = 2,
    batch: int = 2,
    seed: int = 0,
    value_size: int = 6,
) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    size, query_len, key_len = 6, 9, 11
    query, key = normal(batch, query_heads, query_len, size), normal(batch, key_heads, key_len, size)
    value = normal(batch, key_heads, key_len, value_size)
    tensors = {
        "general": {"weight": normal(query_heads, size, size) / 2},
        "additive": {"weight": normal(query_heads, size), "bias": normal(query_heads, size)},
        "cosine": {"scale": normal(query_heads).abs() * 5},
    }.get(score, {})
    listed = {name: tuple(tensor.numpy()) for name, tensor in tensors.items()}
    return Case(query, key, value, SCORES[score](**tensors), listed)


def mask_named(name: str, case: Case) -> Any:
    query_len, key_len = case.query.shape[-2], case.key.shape[-2]
    generator = torch.Generator().manual_seed(5)
    dense = torch.rand(case.query.shape[0], 1, query_len, key_len, generator=generator) > 0.4
    if name == "blind rows":
        dense[:, :, ::3] = False
    lengths = torch.tensor([3, key_len])[: case.query.shape[0]]
    return {
        "none": None,
        "causal": regard.masks.causal(),
        "window": regard.masks.window(2, 1),
        "padding": regard.masks.padding(lengths),
        "dense": dense,
        "blind rows": dense,
        "combined": (regard.masks.causal() & regard.masks.padding(lengths)) | ~regard.masks.window(6),
        "everything hidden": torch.zeros(query_len, key_len, dtype=torch.bool),
    }[name]


def as_array(mask: Any, case: Case) -> np.ndarray | None:
    if mask is None:
        return None
    if isinstance(mask, Tensor):
        return mask.numpy()
    grid = AttentionCall.of(case.query, case.key, case.value).grid
    return mask.block(slice(0, grid.query_len), slice(0, grid.key_len), grid).numpy()


def expected(
    case: Case, normalizer: str, mask: Any, bias: Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    name, _, number = normalizer.partition("-")
    return reference.attend(
        case.query,
        case.key,
        case.value,
        score=case.score.name,
        normalizer=name,
        mask=as_array(mask, case),
        bias=None if bias is None else bias.numpy(),
        score_parameters=case.score_parameters,
        normalizer_parameters={"k": int(number)} if number else {},
    )


@pytest.mark.parametrize("mask_name", MASK_NAMES)
@pytest.mark.parametrize("normalizer", NORMALIZER_NAMES)
@pytest.mark.parametrize("score", SCORE_NAMES)
def test_every_backend_agrees_with_the_definition(score: str, normalizer: str, mask_name: str) -> None:
    case = make(score)
    mask = mask_named(mask_name, case)
    output, weights = expected(case, normalizer, mask)
    ran = []
    for backend, one in BACKENDS.items():
        call = AttentionCall.of(case.query, case.key, case.value, case.score, normalizer, mask)
        if one.unsupported(call):
            continue
        ran.append(backend)
        found, found_weights = regard.attend(
            case.query, case.key, case.value, score=case.score, normalizer=normalizer, mask=mask,
            return_weights=True, backend=backend,
        )  # fmt: skip
        np.testing.assert_allclose(found.numpy(), output, atol=1e-10, err_msg=backend)
        np.testing.assert_allclose(found_weights.numpy(), weights, atol=1e-10, err_msg=backend)
        alone = regard.attend(
            case.query,
            case.key,
            case.value,
            score=case.score,
            normalizer=normalizer,
            mask=mask,
            backend=backend,
        )
        assert torch.equal(alone, found), "asking for weights changed the output"
    assert "blockwise" in ran
    product = SCORES[score].product
    assert ("sdpa" in ran) == (product and normalizer == "softmax")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("normalizer", ["softmax", "sparsemax", "entmax15", "sigmoid"])
@pytest.mark.parametrize("score", SCORE_NAMES)
def test_error_is_at_most_twice_the_plain_computation_in_the_same_dtype(
    score: str, normalizer: str, dtype: str
) -> None:
    """The rule of docs/design.md: twice the error of the plain composition, plus rounding of the output."""
    kind = DTYPES[dtype]
    case = make(score, key_heads=4)
    case.query, case.key, case.value = (t.to(kind) for t in (case.query, case.key, case.value))
    case.score = type(case.score)(
        **{n: torch.stack([torch.as_tensor(p) for p in v]).to(kind) for n, v in case.score_parameters.items()}
    )
    listed = {
        n: tuple(np.asarray(p, dtype=np.float64) for p in getattr(case.score, n).double().numpy())
        for n in case.score_parameters
    }
    exact_case = Case(case.query.double(), case.key.double(), case.value.double(), case.score, listed)
    exact, _ = expected(exact_case, normalizer, None)
    query, key = case.score.prepare(case.query, case.key)
    plain_weights = NORMALIZERS[normalizer]().weigh(case.score.compare(query, key))
    plain = (plain_weights @ case.value).double().numpy()
    scale = np.abs(exact).max()
    allowed = 2 * np.abs(plain - exact).max() + torch.finfo(kind).eps * scale
    for backend, one in BACKENDS.items():
        call = AttentionCall.of(case.query, case.key, case.value, case.score, normalizer)
        if not one.unsupported(call):
            found = regard.attend(
                case.query, case.key, case.value, score=case.score, normalizer=normalizer, backend=backend
            )
            assert found.dtype == kind
            assert np.abs(found.double().numpy() - exact).max() <= allowed, backend


def _leaves(case: Case, bias: Tensor | None) -> list[Tensor]:
    leaves = [case.query, case.key, case.value, *vars(case.score).values(), bias]
    return [t for t in leaves if isinstance(t, Tensor)]


def _function(
    case: Case, normalizer: str, mask: Any, has_bias: bool, backend: str, with_weights: bool
) -> Any:
    names = [name for name, value in vars(case.score).items() if isinstance(value, Tensor)]

    def run(query: Tensor, key: Tensor, value: Tensor, *rest: Tensor) -> Any:
        bias = rest[-1] if has_bias else None
        score = type(case.score)(**dict(zip(names, rest, strict=False)))
        return regard.attend(
            query, key, value, score=score, normalizer=normalizer, mask=mask, bias=bias,
            backend=backend, return_weights=with_weights,
        )  # fmt: skip

    return run


@pytest.mark.parametrize("mask_name", ["none", "blind rows", "combined"])
@pytest.mark.parametrize("normalizer", ["softmax", "sparsemax", "entmax15", "sigmoid", "top-3"])
@pytest.mark.parametrize("score", SCORE_NAMES)
def test_first_second_and_forward_derivatives(score: str, normalizer: str, mask_name: str) -> None:
    case = make(score, query_heads=2, key_heads=1, batch=1, value_size=6)
    case.query, case.key, case.value = case.query[:, :, :4, :], case.key[:, :, :5, :], case.value[:, :, :5, :]
    mask = mask_named(mask_name, case)
    for backend, one in BACKENDS.items():
        call = AttentionCall.of(case.query, case.key, case.value, case.score, normalizer, mask)
        if one.unsupported(call):
            continue
        leaves = [t.clone().requires_grad_() for t in _leaves(case, None)]
        run = _function(case, normalizer, mask, False, backend, with_weights=True)
        assert torch.autograd.gradcheck(run, leaves, fast_mode=True)
        assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True)
    leaves = [t.detach() for t in _leaves(case, None)]
    run = _function(case, normalizer, mask, False, None, with_weights=False)
    tangents = [
        torch.randn(t.shape, dtype=t.dtype, generator=torch.Generator().manual_seed(i))
        for i, t in enumerate(leaves)
    ]
    _, forward = torch.func.jvp(run, tuple(leaves), tuple(tangents))
    step = 1e-6
    ahead = run(*(t + step * d for t, d in zip(leaves, tangents, strict=True)))
    behind = run(*(t - step * d for t, d in zip(leaves, tangents, strict=True)))
    torch.testing.assert_close(forward, (ahead - behind) / (2 * step), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("shape", ["full", "by key", "by head"])
def test_bias_is_added_and_learns(shape: str) -> None:
    case = make("scaled_dot", query_heads=2, key_heads=2, batch=1)
    full = (1, 2, case.query.shape[-2], case.key.shape[-2])
    size = {"full": full, "by key": (full[-1],), "by head": (2, 1, 1)}[shape]
    bias = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    output, _ = expected(case, "softmax", None, bias)
    for backend in BACKENDS:
        found = regard.attend(case.query, case.key, case.value, bias=bias, backend=backend)
        np.testing.assert_allclose(found.numpy(), output, atol=1e-10)
    leaf = bias.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda b: regard.attend(case.query, case.key, case.value, bias=b), leaf, fast_mode=True
    )


def test_minus_infinity_is_a_deleted_column() -> None:
    case = make("dot")
    bias = torch.zeros(case.key.shape[-2], dtype=torch.float64)
    bias[2:5] = -torch.inf
    for backend in BACKENDS:
        leaves = [t.clone().requires_grad_() for t in (case.query, case.key, case.value)]
        hidden = regard.attend(*leaves, bias=bias, backend=backend)
        deleted = regard.attend(*leaves[:1], *(t[..., bias == 0, :] for t in leaves[1:]), backend=backend)
        torch.testing.assert_close(hidden, deleted, atol=1e-12, rtol=1e-12)
        for one, two in zip(
            torch.autograd.grad(hidden.sum(), leaves), torch.autograd.grad(deleted.sum(), leaves), strict=True
        ):
            torch.testing.assert_close(one, two, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("backend", list(BACKENDS))
def test_blind_queries_give_zero_output_weights_and_gradients(backend: str) -> None:
    case = make("scaled_dot")
    leaves = [t.clone().requires_grad_() for t in (case.query, case.key, case.value)]
    mask = torch.ones(case.query.shape[-2], case.key.shape[-2], dtype=torch.bool)
    mask[4] = False
    output, weights = regard.attend(*leaves, mask=mask, backend=backend, return_weights=True)
    assert not output[..., 4, :].any()
    assert not weights[..., 4, :].any()
    grads = torch.autograd.grad(output.square().sum() + weights.square().sum(), leaves)
    assert all(g.isfinite().all() for g in grads)
    assert not grads[0][..., 4, :].any()
    nothing = torch.zeros_like(mask)
    output = regard.attend(*leaves, mask=nothing, backend=backend)
    assert not output.any()
    assert not any(g.any() for g in torch.autograd.grad(output.sum(), leaves))


@pytest.mark.parametrize("score", SCORE_NAMES)
@pytest.mark.parametrize("normalizer", NORMALIZER_NAMES)
def test_permuting_keys_permutes_weights(score: str, normalizer: str) -> None:
    case = make(score)
    order = torch.randperm(case.key.shape[-2], generator=torch.Generator().manual_seed(0))
    settings = {"score": case.score, "normalizer": normalizer, "return_weights": True}
    output, weights = regard.attend(case.query, case.key, case.value, **settings)
    shuffled, moved = regard.attend(
        case.query, case.key[..., order, :], case.value[..., order, :], **settings
    )
    torch.testing.assert_close(moved, weights[..., order], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(shuffled, output, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("normalizer", NORMALIZER_NAMES)
def test_changing_a_hidden_key_changes_nothing(normalizer: str) -> None:
    case = make("scaled_dot")
    lengths = torch.tensor([3, 7])
    outputs = []
    for junk in (0.0, 1e6):
        key, value = case.key.clone(), case.value.clone()
        for row, length in enumerate(lengths):
            key[row, :, length:], value[row, :, length:] = junk, junk
        outputs.append(
            regard.attend(case.query, key, value, normalizer=normalizer, mask=regard.masks.padding(lengths))
        )
    assert torch.equal(*outputs)


def test_top_k_equals_a_full_sort_and_prefers_the_first_of_equals() -> None:
    scores = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0], [3.0, 3.0, 3.0, 3.0, 3.0]])
    weights = regard.normalizers.TopK(2).weigh(scores)
    assert weights.tolist() == [[0.0, 0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0, 0.0]]


def test_nan_stays_in_its_row() -> None:
    case = make("scaled_dot")
    query = case.query.clone()
    query[0, 1, 2] = torch.nan
    for backend, one in BACKENDS.items():
        for normalizer in NORMALIZER_NAMES:
            if one.unsupported(AttentionCall.of(query, case.key, case.value, "scaled_dot", normalizer)):
                continue
            found = regard.attend(query, case.key, case.value, normalizer=normalizer, backend=backend)
            assert found[0, 1, 2].isnan().all(), (backend, normalizer)
            found[0, 1, 2] = 0
            assert found.isfinite().all(), (backend, normalizer)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (1, 1)])
def test_lengths_of_zero_and_one(shape: tuple[int, int]) -> None:
    query = torch.randn(2, 3, shape[0], 4, requires_grad=True)
    key = torch.randn(2, 3, shape[1], 4, requires_grad=True)
    for score in SCORE_NAMES:
        for normalizer in NORMALIZER_NAMES:
            for mask in (None, regard.masks.causal(), regard.masks.padding(torch.tensor([0, shape[1]]))):
                output, weights = regard.attend(
                    query, key, key, score=score, normalizer=normalizer, mask=mask, return_weights=True
                )
                assert output.shape == query.shape
                assert weights.shape == (2, 3, *shape)
                assert output.isfinite().all()
                output.sum().backward()


@pytest.mark.parametrize("axes", [2, 3, 4, 5])
def test_any_number_of_leading_axes(axes: int) -> None:
    leading = (2, 3, 2)[: axes - 2]
    query, key = torch.randn(*leading, 4, 8), torch.randn(*leading, 6, 8)
    whole = regard.attend(query, key, key, mask=regard.masks.causal())
    for place in np.ndindex(*leading):
        one = regard.attend(
            query[place], key[place], key[place], mask=regard.masks.causal(), backend="blockwise"
        )
        torch.testing.assert_close(whole[place], one)


def test_layout_in_memory_does_not_matter() -> None:
    base = torch.randn(2, 5, 3, 8)
    query = base.transpose(1, 2)
    reversed_key = torch.randn(8, 6, 3, 2).permute(3, 2, 1, 0)
    for backend in BACKENDS:
        found = regard.attend(query, reversed_key, reversed_key, backend=backend)
        tidy = regard.attend(
            query.contiguous(), reversed_key.contiguous(), reversed_key.contiguous(), backend=backend
        )
        torch.testing.assert_close(found, tidy)
