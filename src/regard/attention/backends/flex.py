"""PyTorch's FlexAttention on a GPU: softmax of a product under a mask that hides whole blocks, which it skips.

Without a mask, and under the causal one, `scaled_dot_product_attention` has kernels made by hand, and those are faster;
any other mask it would need written out.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from regard.attention.backends import blockwise, sdpa
from regard.attention.call import AttentionCall, transforming, unaltered
from regard.attention.masks import Causal, Mask
from regard.attention.normalizers import Softmax
from regard.attention.picture import count
from regard.attention.scores import ScaledDot

SHORTEST = 256
"""From so many queries and keys on there are blocks to skip."""


def unsupported(call: AttentionCall) -> list[str]:
    if call.query.device.type != "cuda":
        return [f"FlexAttention trains on GPUs only, query is on the device {call.query.device.type!r}"]
    return cannot(call)


def cannot(call: AttentionCall) -> list[str]:
    """Why FlexAttention is not for this call, whatever the device."""
    reasons = []
    if not call.score.product:
        reasons.append(f"the score {call.score.spelling!r} is not a product of query and key")
    if type(call.normalizer) is not Softmax:
        reasons.append(f"the normalizer {call.normalizer.spelling!r} is not softmax")
    if call.mask is None or type(call.mask) is Causal or not call.mask.formula:
        reasons.append(
            "the mask is not a formula of places that hides blocks, or PyTorch's own kernels know it"
        )
    elif min(call.query.shape[-2], call.key.shape[-2]) < SHORTEST:
        reasons.append(f"there are no blocks to skip among fewer than {SHORTEST} queries or keys")
    if call.bias is not None:
        reasons.append("a bias would be written out")
    if call.dropout:
        reasons.append("FlexAttention has no dropout")
    if call.query.dtype == torch.float64:
        reasons.append("FlexAttention has no float64")
    if call.transformed:
        reasons.append("it is compiled itself, which no transform or compiler sees through")
    return reasons


def cost(call: AttentionCall) -> str:
    return "tiles in registers and cache, and which blocks of 128 x 128 the mask hides"


def pairs(call: AttentionCall) -> int:
    shown = _block_mask(call.mask, call)
    rows, columns = shown.BLOCK_SIZE
    blocks = int(shown.kv_num_blocks.sum()) + int(
        0 if shown.full_kv_num_blocks is None else shown.full_kv_num_blocks.sum()
    )
    return min(blocks * rows * columns, call.query.shape[-2] * call.key.shape[-2]) * count(
        call.query.shape[:-2]
    )


def derivatives(call: AttentionCall) -> str:
    return "first: fused; second: exact, memory quadratic in length; forward-mode: through 'blockwise'"


def run(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
    query, key = call.score.prepare(call.query, call.key)
    factor = call.score.factor(key.shape[-1]) / cast(Softmax, call.normalizer).temperature
    prepared = replace(
        call, query=query, key=key, score=ScaledDot(factor), normalizer=Softmax(), return_weights=False
    )
    if call.needs_gradient:
        output = _Fused.apply(prepared, query, key, call.value)
    else:
        output = attend(prepared, query, key, call.value)
    return output, blockwise.dense_weights(call) if call.return_weights else None


def attend(call: AttentionCall, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """FlexAttention of prepared queries and keys."""
    found: Tensor = _compiled(query.device.type)(
        *map(sdpa._four_axes, (query, key, value)),
        block_mask=_block_mask(call.mask, call),
        scale=call.score.factor(key.shape[-1]),
        enable_gqa=call.groups > 1,
    )
    return found.reshape(*query.shape[:-1], value.shape[-1])


class _Fused(torch.autograd.Function):
    """FlexAttention with the exact second derivative that it lacks."""

    @staticmethod
    def forward(ctx: Any, call: AttentionCall, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.call = call
        with torch.enable_grad():
            inputs = [t.detach().requires_grad_() for t in (query, key, value)]
            output = attend(call, *inputs)
        ctx.save_for_backward(query, key, value)
        ctx.kept = inputs, output
        return output.detach()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        with unaltered(grad_output.device):
            if torch.is_grad_enabled() or transforming(grad_output):
                found = sdpa._exact_gradients(ctx.call, ctx.saved_tensors, grad_output)
            else:
                inputs, output = ctx.kept
                found = torch.autograd.grad(output, inputs, grad_output, retain_graph=True)
        return (None, *found)


@cache
def _compiled(device: str) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False) if device == "cuda" else flex_attention


_MASKS: WeakKeyDictionary[Mask, dict[tuple[int, int, str], Any]] = WeakKeyDictionary()
"""The blocks that a mask shows, for the lengths and devices it was asked about: it takes longer than attention."""


def _block_mask(mask: Mask | None, call: AttentionCall) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    assert mask is not None
    grid = call.grid
    made = _MASKS.setdefault(mask, {})
    case = (grid.query_len, grid.key_len, str(grid.device))
    if case not in made:
        made[case] = create_block_mask(
            lambda batch, head, query, key: mask.at(query, key, grid),
            None, None, grid.query_len, grid.key_len, device=str(grid.device),
        )  # fmt: skip
    return made[case]
