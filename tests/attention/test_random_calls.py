"""Random calls against the definition: any shape, layout, score, normaliser, mask and bias, on every backend.

`REGARD_RANDOM_CALLS=100000 python -m pytest tests/attention/test_random_calls.py` tries so many instead of 200.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tests.attention import cases
from tests.attention.cases import NORMALIZER_NAMES, SCORE_NAMES, Case
from torch import Tensor

import regard
from regard import biases, masks
from regard.attention.backends import BACKENDS, blockwise, sparse
from regard.attention.kernels import missing
from regard.attention.kernels import settings as kernel_settings

LARGEST = 9
NORMALIZERS = [name for name in NORMALIZER_NAMES if name not in ("entmax-3", "monotonic_hard")]
# These choose keys. Where two scores are next to equal, rounding decides which, so weights are compared by size.
CHOOSING = {"hardmax", "top", "top-3", "top_p", "threshold"}
MASKS = [
    "none",
    "causal",
    "window",
    "dilated",
    "prefix",
    "documents",
    "edges",
    "dense",
    "row",
    "function",
    "mixed",
]


def some_mask(draw: st.DrawFn, generator: torch.Generator, query_len: int, key_len: int) -> Any:
    def whole(low: int, high: int) -> int:
        return draw(st.integers(low, high))

    def cuts(length: int, count: int) -> Tensor:
        inside = sorted(whole(0, length) for _ in range(count))
        return torch.tensor([0, *inside, length])

    def causal_or_not() -> Any:
        return draw(st.sampled_from([None, masks.causal(), masks.window(2), ~masks.window(1)]))

    def edges() -> Any:
        count = whole(0, 30)
        index = [torch.randint(n, (count,), generator=generator) for n in (key_len, query_len)]
        mask = masks.edges(torch.stack(index))
        return mask & masks.causal() if draw(st.booleans()) else mask

    documents = whole(0, 3)
    made = {
        "none": lambda: None,
        "causal": masks.causal,
        "window": lambda: masks.window(whole(0, 4), draw(st.one_of(st.none(), st.integers(0, 4)))),
        "dilated": lambda: masks.dilated(whole(0, 3), whole(1, 3)),
        "prefix": lambda: masks.prefix(whole(0, key_len)),
        "documents": lambda: masks.documents(
            cuts(query_len, documents), cuts(key_len, documents), causal_or_not()
        ),
        "edges": edges,
        "dense": lambda: torch.rand(query_len, key_len, generator=generator) > 0.5,
        "row": lambda: torch.rand(key_len, generator=generator) > 0.5,
        "function": lambda: masks.function(lambda query, key: (query + key) % 3 != 0),
        "mixed": lambda: (
            ~(masks.causal() & (torch.rand(query_len, key_len, generator=generator) > 0.3)) | masks.window(0)
        ),
    }
    return made[draw(st.sampled_from(MASKS))]()


def some_bias(draw: st.DrawFn, tensor: Any, heads: int, query_len: int, key_len: int) -> Any:
    kind = draw(st.sampled_from(["none", "none", "full", "row", "relative", "sum"]))
    return {
        "none": lambda: None,
        "full": lambda: biases.as_bias(tensor(query_len, key_len)),
        "row": lambda: biases.as_bias(tensor(1, key_len)),
        "relative": lambda: cases.bias_of("relative", heads),
        "sum": lambda: cases.bias_of("t5", heads) + tensor(query_len, key_len),
    }[kind]()


@st.composite
def calls(draw: st.DrawFn) -> tuple[Case, int]:
    key_heads, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    batch = draw(st.lists(st.integers(1, 2), max_size=2))
    query_len, key_len, size, value_size = (draw(st.integers(1, LARGEST)) for _ in range(4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    spread = draw(st.sampled_from([0.01, 1.0, 30.0]))

    def tensor(*shape: int) -> Tensor:
        made = torch.randn(shape, generator=generator, dtype=torch.float64) * spread
        layout = draw(st.sampled_from(["plain", "transposed", "sliced", "reversed"]))
        if layout == "transposed":
            return made.transpose(-1, -2).contiguous().transpose(-1, -2)
        if layout == "sliced":
            return torch.stack([made, made], -1).flatten(-2)[..., ::2]
        if layout == "reversed" and len(shape) > 2:
            order = list(reversed(range(len(shape))))
            return made.permute(*order).contiguous().permute(*order)
        return made

    heads = key_heads * groups
    score = draw(st.sampled_from([name for name in SCORE_NAMES if name != "location_sensitive"]))
    case = Case(
        tensor(*batch, heads, query_len, size),
        tensor(*batch, key_heads, key_len, size),
        tensor(*batch, key_heads, key_len, value_size),
        cases.score_of(score, heads, size),
        cases.normalizer_of(draw(st.sampled_from(NORMALIZERS)), heads),
        some_mask(draw, generator, query_len, key_len),
        some_bias(draw, tensor, heads, query_len, key_len),
    )
    return case, draw(st.sampled_from([1, 500, 10**9]))


@settings(
    max_examples=int(os.environ.get("REGARD_RANDOM_CALLS", "200")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(calls())
def test_any_call_agrees_with_the_definition(drawn: tuple[Case, int]) -> None:
    case, block = drawn
    # (Weights handed on from one query to the next are not to reach another document.)
    assume(not (case.normalizer.coupled and isinstance(case.mask, regard.masks.Documents)))
    expected, weights = case.expected()
    scale = max(float(case.value.abs().max()), 1.0)
    chosen = case.normalizer.spelling in CHOOSING
    value = case.value.repeat_interleave(case.query.shape[-3] // case.value.shape[-3], dim=-3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blockwise, "BLOCK_BYTES", block)
        for backend, one in BACKENDS.items():
            if one.unsupported(case.call):
                continue
            output, found = case.attend(return_weights=True, backend=backend)
            some = regard.weights(case.query, case.key, rows=[-1], **case.settings)
            assert isinstance(some, Tensor)
            last = weights[..., -1:, :]
            if chosen:
                expected = (found @ value).numpy()
                last, weights = np.sort(last), np.sort(weights)
                some, found = some.sort().values, found.sort().values
            np.testing.assert_allclose(found.numpy(), weights, atol=1e-7, err_msg=backend)
            np.testing.assert_allclose(output.numpy(), expected, atol=1e-7 * scale, err_msg=backend)
            np.testing.assert_allclose(some.numpy(), last, atol=1e-7)


FUSED = {"sparse": ["sparsemax", "entmax15", "entmax-1.2", "entmax-1.8", "top-3", "top-40", "hardmax"]}
FUSED["dense"] = ["softmax", "sigmoid"]
FUSED["additive"] = [*FUSED["sparse"], "softmax", "sigmoid", "relu"]
LENGTHS = st.one_of(st.sampled_from([1, 4, 5, 15, 16, 17, 31, 32, 33, 64, 65, 257, 300]), st.integers(1, 300))


@st.composite
def long_calls(draw: st.DrawFn) -> tuple[Case, str, int, int]:
    """Calls of the fused kernels, of more than a vector or a panel of keys; how many keys are kept of each query for
    the backward pass, and how much of a mask is written out at once."""
    backend = draw(st.sampled_from(list(FUSED)))
    key_heads, groups, query_len = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(LENGTHS) // 4 + 1
    key_len, size, value_size = draw(LENGTHS), draw(st.integers(1, 70)), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    spread, heads = draw(st.sampled_from([1e-3, 0.05, 0.5, 1.0, 5.0, 60.0])), key_heads * groups
    name = (
        "additive" if backend == "additive" else draw(st.sampled_from(["scaled_dot", "distance", "additive"]))
    )

    def tensor(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    case = Case(
        tensor(2, heads, query_len, size) * spread,
        tensor(2, key_heads, key_len, size) * spread,
        tensor(2, key_heads, key_len, value_size),
        cases.score_of(name, heads, size),
        cases.normalizer_of(draw(st.sampled_from(FUSED[backend])), heads),
        some_mask(draw, generator, query_len, key_len),
        some_bias(draw, tensor, heads, query_len, key_len),
    )
    return case, backend, draw(st.sampled_from([1, 20, 256])), draw(st.sampled_from([1000, 2**22]))


@torch.no_grad()
def magnitude(case: Case) -> float:
    """The largest sum of the magnitudes that a score is added up from: what its rounding is a share of."""
    query, key = case.score.prepare(case.query, case.key)
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    if case.score.kernel == "product":
        found = (query.abs() @ key.abs().mT) * case.score.factor(key.shape[-1])
    elif case.score.kernel == "distance":
        found = case.score.compare(query, key).abs()
    else:
        net = case.score.net(key.shape[-1], query)
        assert net is not None
        found = net.abs().sum(-1)
    grid = case.call.grid
    bias = 0.0
    if case.bias is not None:
        bias = float(case.bias.block(slice(0, grid.query_len), slice(0, grid.key_len), grid).abs().max())
    return float(found.max()) + bias


@pytest.mark.skipif(bool(missing("cpu")), reason="needs the package numba")
@settings(
    max_examples=max(int(os.environ.get("REGARD_RANDOM_CALLS", "200")) // 2, 1),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(long_calls())
def test_long_calls_of_fused_kernels_agree_with_the_plain_computation(
    drawn: tuple[Case, str, int, int],
) -> None:
    """In float64 with all gradients; in float32 what is continuous, as well as the rounding of scores allows."""
    case, backend, support, picture = drawn
    leaves = tuple(leaf.requires_grad_() for leaf in case.leaves)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel_settings, "SUPPORT", support)
        patch.setattr(sparse, "LARGEST_PICTURE", picture)
        ends = [case.attend(return_weights=True, backend=name) for name in ("blockwise", backend)]
        above = cases.normal(*ends[0][0].shape, seed=1), cases.normal(*ends[0][1].shape, seed=2)
        grads = [torch.autograd.grad(end, leaves, above, materialize_grads=True) for end in ends]
        single = case.with_leaves(tuple(leaf.detach().float() for leaf in leaves))
        found, found_weights = single.attend(return_weights=True, backend=backend)
    (expected, weights), (output, own) = ends
    torch.testing.assert_close(own, weights, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(output, expected, atol=1e-9, rtol=1e-9)
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(two, one, atol=1e-8 * max(float(one.abs().max()), 1.0), rtol=1e-8)
    most = 8 * torch.finfo(torch.float32).eps * (1 + magnitude(case))
    value = case.value.repeat_interleave(case.query.shape[-3] // case.value.shape[-3], dim=-3).detach()
    expected = found_weights.double() @ value
    weights, found_weights = weights.detach(), found_weights.double()
    if case.normalizer.spelling in CHOOSING or case.normalizer.spelling.startswith("top"):
        weights, found_weights = weights.sort().values, found_weights.sort().values
    assert float((found_weights - weights).abs().max()) <= most
    # The output is that of the weights.
    scale = float(
        (found_weights.sum(-1, keepdim=True) * value.abs().amax(-2).amax(-1)[..., None, None]).max()
    )
    assert float((found.double() - expected).abs().max()) <= 1e-6 * max(scale, 1e-30) + most
