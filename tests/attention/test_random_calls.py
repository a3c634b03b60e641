"""Random calls against the definition: any shape, layout, dtype, score, normaliser, mask and bias."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import regard
from regard.attention import reference
from regard.attention.backends import BACKENDS, blockwise
from regard.attention.call import AttentionCall

NORMALIZERS = ["softmax", "sparsemax", "entmax15", "sigmoid", "hardmax", "top-1", "top-3"]


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    key_heads, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    batch = draw(st.lists(st.integers(1, 2), max_size=2))
    query_len, key_len, size, value_size = (draw(st.integers(1, 9)) for _ in range(4))
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
            return (
                made.permute(*reversed(range(len(shape)))).contiguous().permute(*reversed(range(len(shape))))
            )
        return made

    mask: Any = None
    kind = draw(st.sampled_from(["none", "causal", "window", "dense", "row", "mixed"]))
    if kind == "causal":
        mask = regard.masks.causal()
    elif kind == "window":
        mask = regard.masks.window(draw(st.integers(0, 4)), draw(st.one_of(st.none(), st.integers(0, 4))))
    elif kind == "dense":
        mask = torch.rand(query_len, key_len, generator=generator) > 0.5
    elif kind == "row":
        mask = torch.rand(key_len, generator=generator) > 0.5
    elif kind == "mixed":
        mask = ~(regard.masks.causal() & (torch.rand(query_len, key_len, generator=generator) > 0.3))
    return {
        "query": tensor(*batch, key_heads * groups, query_len, size),
        "key": tensor(*batch, key_heads, key_len, size),
        "value": tensor(*batch, key_heads, key_len, value_size),
        "score": draw(st.sampled_from(list(regard.scores.SCORES))),
        "normalizer": draw(st.sampled_from(NORMALIZERS)),
        "mask": mask,
        "bias": tensor(query_len, key_len) if draw(st.booleans()) else None,
        "block": draw(st.sampled_from([1, 500, 10**9])),
    }


@settings(max_examples=200, deadline=None)
@given(calls())
def test_any_call_agrees_with_the_definition(call: dict[str, Any]) -> None:
    block = call.pop("block")
    query, key, value = (call.pop(name) for name in ("query", "key", "value"))
    mask = call["mask"]
    if isinstance(mask, regard.masks.Mask):
        mask = mask.picture(query.shape[-2], key.shape[-2])
    name, _, number = call["normalizer"].partition("-")
    expected, weights = reference.attend(
        query,
        key,
        value,
        score=call["score"],
        normalizer=name,
        mask=None if mask is None else mask.numpy(),
        bias=None if call["bias"] is None else call["bias"].numpy(),
        normalizer_parameters={"k": int(number)} if number else {},
    )
    scale = max(float(value.abs().max()), 1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blockwise, "BLOCK_BYTES", block)
        for backend, one in BACKENDS.items():
            if one.unsupported(AttentionCall.of(query, key, value, **call)):
                continue
            output, found = regard.attend(query, key, value, **call, return_weights=True, backend=backend)
            np.testing.assert_allclose(found.numpy(), weights, atol=1e-7, err_msg=backend)
            np.testing.assert_allclose(output.numpy(), expected, atol=1e-7 * scale, err_msg=backend)
