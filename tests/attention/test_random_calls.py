"""Random calls against the definition: any shape, layout, score, normaliser, mask and bias, on every backend.

`REGARD_RANDOM_CALLS=100000 python -m pytest tests/attention/test_random_calls.py` tries so many instead of 200.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.attention import cases
from tests.attention.cases import NORMALIZER_NAMES, SCORE_NAMES, Case
from torch import Tensor

import regard
from regard import biases, masks
from regard.attention.backends import BACKENDS, blockwise

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
