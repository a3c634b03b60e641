"""PyTorch's fused attention, for every score that is a product and softmax."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from regard.attention.backends import blockwise
from regard.attention.call import AttentionCall, transforming, unaltered
from regard.attention.masks import Causal, Dense
from regard.attention.normalizers import Softmax
from regard.attention.scores import ScaledDot

LARGEST_MASK = 2**22
"""The most elements of a mask that this backend writes out; a mask given as a tensor may have any size."""


def unsupported(call: AttentionCall) -> list[str]:
    reasons = []
    score, normalizer = call.score, call.normalizer
    if not score.product:
        reasons.append(f"the score {score.name!r} is not a product of query and key")
    if type(normalizer) is not Softmax:
        reasons.append(f"the normalizer {normalizer.spelling!r} is not softmax")
    if call.value.shape[-1] != call.query.shape[-1]:
        reasons.append("key and value have different sizes")
    if call.query.shape[-2] == 0 or call.key.shape[-2] == 0:
        reasons.append("there is no query or no key")
    if call.bias is not None and call.bias.requires_grad and torch.is_grad_enabled():
        reasons.append("PyTorch's fused kernels have no gradient for a bias")
    if call.dropout:
        reasons.append("PyTorch's fused kernels have no dropout that can be drawn again")
    if call.mask is not None and _mask_size(call) > LARGEST_MASK:
        reasons.append(f"the mask would be written out with {_mask_size(call):,} elements")
    if call.transformed:
        reasons.append("PyTorch's fused kernels have no function transforms and no forward-mode derivative")
    return reasons


def cost(call: AttentionCall) -> str:
    size = 0 if call.mask is None else _mask_size(call)
    return f"tiles in registers and cache{f', a mask of {size:,} elements' if size else ''}"


def derivatives(call: AttentionCall) -> str:
    return "first: fused; second: exact, memory quadratic in length; forward-mode: through 'blockwise'"


def run(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
    query, key = call.score.prepare(call.query, call.key)
    if torch.compiler.is_compiling() or not call.needs_gradient:
        output = _attend(call, query, key, call.value)
    else:
        output = _Fused.apply(call, query, key, call.value)
    if query.device.type == "cpu":
        # The CPU kernel answers zero to a query of NaN.
        output = output + query.amax(-1, keepdim=True) * 0
    return output, blockwise.dense_weights(call) if call.return_weights else None


class _Fused(torch.autograd.Function):
    """PyTorch's fused forward and backward, with the exact second derivative that PyTorch's own lack."""

    @staticmethod
    def forward(ctx: Any, call: AttentionCall, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.call = call
        if query.device.type != "cpu":
            ctx.save_for_backward(query, key, value)
            return _attend(call, query, key, value)
        output, log_sums = _CPU_FORWARD(*_four_axes_of(query, key, value), **_cpu_settings(call))
        ctx.save_for_backward(query, key, value, output, log_sums)
        return output.reshape(*query.shape[:-1], value.shape[-1])

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        call: AttentionCall = ctx.call
        query, key, value, *kept = ctx.saved_tensors
        with unaltered(grad_output.device):
            found = _gradients(call, (query, key, value), kept, grad_output)
        return (None, *(one if n else None for one, n in zip(found, ctx.needs_input_grad[1:], strict=True)))


def _gradients(
    call: AttentionCall, tensors: tuple[Tensor, ...], kept: list[Tensor], grad_output: Tensor
) -> tuple[Tensor, ...]:
    if torch.is_grad_enabled() or transforming(grad_output):
        return _exact_gradients(call, tensors, grad_output)
    if kept:
        found = _CPU_BACKWARD(_four_axes(grad_output), *_four_axes_of(*tensors), *kept, **_cpu_settings(call))
        return tuple(one.reshape(t.shape) for one, t in zip(found, tensors, strict=True))
    # Other devices keep what their own kernel needs in places of their own: run it again to have them.
    with torch.enable_grad():
        inputs = [t.detach().requires_grad_() for t in tensors]
        return torch.autograd.grad(_attend(call, *inputs), inputs, grad_output)


def _exact_gradients(
    call: AttentionCall, tensors: tuple[Tensor, ...], grad_output: Tensor
) -> tuple[Tensor, ...]:
    """The gradients by operations that PyTorch can differentiate again."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views cut the graph behind the tensors off: a path from one to another is not this call's to count.
        query, key, value = (
            t.view_as(t) if t.requires_grad else t.detach().requires_grad_() for t in tensors
        )
        score = ScaledDot(call.score.factor(key.shape[-1]))
        plain = replace(call, query=query, key=key, value=value, score=score, return_weights=False)
        output, _ = blockwise.run(plain)
        return torch.autograd.grad(output, (query, key, value), grad_output, create_graph=create_graph)


_CPU_FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_CPU_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def _cpu_settings(call: AttentionCall) -> dict[str, Any]:
    """The arguments of the CPU's kernels beside the tensors."""
    mask, is_causal = _mask_and_flag(call)
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=call.query.dtype).masked_fill_(~mask, -torch.inf)
    return {"dropout_p": 0.0, "is_causal": is_causal, "attn_mask": mask, "scale": _scale(call)}


def _attend(call: AttentionCall, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """PyTorch's attention of prepared queries and keys."""
    mask, is_causal = _mask_and_flag(call)
    output = scaled_dot_product_attention(
        _four_axes(query),
        _four_axes(key),
        _four_axes(value),
        mask,
        is_causal=is_causal,
        scale=_scale(call),
        enable_gqa=call.groups > 1,
    )
    return output.reshape(*query.shape[:-1], value.shape[-1])


def _scale(call: AttentionCall) -> float:
    return call.score.factor(call.key.shape[-1]) / cast(Softmax, call.normalizer).temperature


def _is_flag(call: AttentionCall) -> bool:
    """Whether the mask is the one that PyTorch's kernels know by a flag (theirs is aligned at the start)."""
    return type(call.mask) is Causal and call.bias is None and call.query.shape[-2] == call.key.shape[-2]


def _mask_size(call: AttentionCall) -> int:
    """How many elements of mask must be written out for this call."""
    if call.mask is None or isinstance(call.mask, Dense) or _is_flag(call) or not call.mask.hides(call.grid):
        return 0
    return math.prod(call.mask.shape(call.grid))


def _mask_and_flag(call: AttentionCall) -> tuple[Tensor | None, bool]:
    """The mask and bias as PyTorch takes them: a tensor, and whether the causal flag is set."""
    if call.mask is not None and _is_flag(call):
        return None, True
    grid = call.grid
    shown: Tensor | None = None
    if call.mask is not None and call.mask.hides(grid):
        rows = slice(0, min(call.mask.shape(grid)[-2], grid.query_len))
        shown = call.mask.block(rows, slice(0, grid.key_len), grid)
    if call.bias is not None:
        bias = call.bias.detach().to(call.query.dtype) / cast(Softmax, call.normalizer).temperature
        shown = bias if shown is None else bias.masked_fill(~shown, -torch.inf)
    if shown is None:
        return None, False
    shown = shown.reshape(*(1,) * (2 - shown.ndim), *shown.shape)
    shown = shown.expand(*shown.shape[:-1], grid.key_len)
    if shown.ndim > 4 or (shown.ndim > 2 and call.query.ndim > 4):
        shown = shown.expand(*call.query.shape[:-2], *shown.shape[-2:])
    return _four_axes(shown), False


def _four_axes_of(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(_four_axes(tensor) for tensor in tensors)


def _four_axes(tensor: Tensor) -> Tensor:
    """(batch, heads, length, size): the only form for which the kernels are fused."""
    if tensor.ndim == 4:
        return tensor if tensor.stride(-1) == 1 or tensor.dtype == torch.bool else tensor.contiguous()
    if tensor.ndim < 4:
        return _four_axes(tensor.reshape(*(1,) * (4 - tensor.ndim), *tensor.shape))
    return _four_axes(tensor.flatten(0, -4))
