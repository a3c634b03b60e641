"""PyTorch's fused attention, for every score that is a product and softmax."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from regard.attention.backends import blockwise
from regard.attention.call import AttentionCall
from regard.attention.masks import Causal, Dense
from regard.attention.normalizers import Softmax
from regard.attention.scores import ScaledDot

LARGEST_MASK = 2**20
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
    if call.dropout and call.query.device.type == "cpu":
        reasons.append("PyTorch's fused kernel has no dropout on the CPU")
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
    if call.needs_gradient and not torch.compiler.is_compiling():
        output = _Fused.apply(call, query, key, call.value)
    else:
        output = _fused(call, query, key, call.value)
    return output, blockwise.dense_weights(call) if call.return_weights else None


class _Fused(torch.autograd.Function):
    """PyTorch's fused forward and backward, with the exact second derivative that PyTorch's own lack."""

    @staticmethod
    def forward(ctx: Any, call: AttentionCall, *tensors: Tensor) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(*tensors)
        inside = [
            t.detach().requires_grad_(n) for t, n in zip(tensors, ctx.needs_input_grad[1:], strict=True)
        ]
        with torch.enable_grad():
            output = _fused(call, *inside)
        ctx.inside = [t for t in inside if t.requires_grad], output
        return output.detach()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        if not torch.is_grad_enabled():
            inputs, output = ctx.inside
            found = torch.autograd.grad(output, inputs, grad_output, retain_graph=True)
        else:
            call: AttentionCall = ctx.call
            if call.dropout:
                raise NotImplementedError("a second derivative through dropout needs backend='blockwise'")
            query, key, value = ctx.saved_tensors
            plain = replace(
                call,
                query=query,
                key=key,
                value=value,
                score=ScaledDot(call.score.factor(key.shape[-1])),
                return_weights=False,
            )
            inputs = [t for t, n in zip(ctx.saved_tensors, needed, strict=True) if n]
            found = torch.autograd.grad(blockwise.run(plain)[0], inputs, grad_output, create_graph=True)
        grads = iter(found)
        return (None, *(next(grads) if n else None for n in needed))


def _fused(call: AttentionCall, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The call from prepared queries and keys."""
    factor = call.score.factor(key.shape[-1])
    temperature = cast(Softmax, call.normalizer).temperature
    mask, is_causal = _mask_and_flag(call)
    output = scaled_dot_product_attention(
        _four_axes(query),
        _four_axes(key),
        _four_axes(value),
        mask if temperature == 1.0 or mask is None or mask.dtype == torch.bool else mask / temperature,
        call.dropout,
        is_causal,
        scale=factor / temperature,
        enable_gqa=call.groups > 1,
    )
    return output if query.ndim == 4 else output.reshape(*query.shape[:-1], value.shape[-1])


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
        bias = call.bias.to(call.query.dtype)
        shown = bias if shown is None else bias.masked_fill(~shown, -torch.inf)
    if shown is None:
        return None, False
    shown = shown.reshape(*(1,) * (2 - shown.ndim), *shown.shape)
    shown = shown.expand(*shown.shape[:-1], grid.key_len)
    if shown.ndim > 4 or (shown.ndim > 2 and call.query.ndim > 4):
        shown = shown.expand(*call.query.shape[:-2], *shown.shape[-2:])
    return _four_axes(shown), False


def _four_axes(tensor: Tensor) -> Tensor:
    """(batch, heads, length, size): the only form for which the kernels are fused."""
    if tensor.ndim == 4:
        return tensor if tensor.stride(-1) == 1 or tensor.dtype == torch.bool else tensor.contiguous()
    if tensor.ndim < 4:
        return _four_axes(tensor.reshape(*(1,) * (4 - tensor.ndim), *tensor.shape))
    return _four_axes(tensor.flatten(0, -4))
