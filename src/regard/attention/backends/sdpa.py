"""PyTorch's fused attention, for every score that is a product and softmax."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from regard.attention.backends import blockwise, dense
from regard.attention.biases import Dense as DenseBias
from regard.attention.call import AttentionCall, transforming, unaltered
from regard.attention.masks import Causal, Dense
from regard.attention.normalizers import Softmax
from regard.attention.parts import tensors_of
from regard.attention.picture import count
from regard.attention.scores import ScaledDot
from regard.attention.scores.score import for_each_head

FEWEST = 2**20
"""With fewer pairs, in all heads, the time that another kernel would save is not worth loading it."""
LARGEST_MASK = 2**22
"""The most elements of a mask or bias that this backend writes out; those given as tensors may have any size."""


def unsupported(call: AttentionCall) -> list[str]:
    reasons = []
    query, key, bias = call.query, call.key, call.bias
    if not call.score.product:
        reasons.append(f"the score {call.score.spelling!r} is not a product of query and key")
    if type(call.normalizer) is not Softmax:
        reasons.append(f"the normalizer {call.normalizer.spelling!r} is not softmax")
    if not (query.numel() and key.numel() and call.value.numel()):
        reasons.append("query, key or value is empty")
    if bias is not None and torch.is_grad_enabled() and any(t.requires_grad for t in tensors_of(bias)):
        reasons.append("PyTorch's fused kernels have no gradient for a bias")
    if call.dropout:
        reasons.append("PyTorch's fused kernels have no dropout that can be drawn again")
    written = (call.mask is not None or bias is not None) and not torch.compiler.is_exporting()
    if written and (size := _written_size(call)) > LARGEST_MASK:
        reasons.append(f"the mask or bias would be written out with {size:,} elements")
    if call.transformed and not torch.compiler.is_compiling():
        reasons.append("PyTorch's fused kernels have no function transforms and no forward-mode derivative")
    return reasons


def yields(call: AttentionCall) -> list[str]:
    query = call.query
    # (A compiler's graph is for all lengths: it would be bound to one side of the limit.)
    if query.device.type != "cpu" or torch.compiler.is_compiling():
        return []
    if query.shape[-2] <= dense.FEW or pairs(call) < FEWEST:
        return []
    return [] if dense.unsupported(call) else [f"on the CPU 'dense' takes less time from {FEWEST:,} pairs on"]


def cost(call: AttentionCall) -> str:
    size = _written_size(call)
    return f"tiles in registers and cache{f', a mask of {size:,} elements' if size else ''}"


def pairs(call: AttentionCall) -> int:
    return count(call.query.shape[:-1]) * call.key.shape[-2]


def derivatives(call: AttentionCall) -> str:
    return "first: fused; second: exact, memory quadratic in length; forward-mode: through 'blockwise'"


def run(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
    asked = call
    query, key = call.score.prepare(call.query, call.key)
    if key is not call.key and key.shape[-1] != call.key.shape[-1]:
        call = replace(call, score=ScaledDot(call.score.factor(key.shape[-1])))
    query, key, value = _alike(query, key, call.value)
    weights: Tensor | None = None
    if torch.compiler.is_compiling():
        # The CPU's kernel answers zero to a query of NaN.
        output = _attend(call, query, key, value) + query.amax(-1, keepdim=True) * 0
    elif call.needs_gradient:
        output = _Fused.apply(call, query, key, value)
    elif query.device.type == "cpu":
        output, _, log_sums, trusted = _on_cpu(call, query, key, value)
        if call.return_weights and trusted:
            weights = _weights(call, query, key, log_sums)
    else:
        output = _attend(call, query, key, value)
    if value.shape[-1] != call.value.shape[-1]:
        output = output[..., : call.value.shape[-1]]
    if call.return_weights and weights is None:
        weights = blockwise.dense_weights(asked)
    return output, weights


def _weights(call: AttentionCall, query: Tensor, key: Tensor, log_sums: Tensor) -> Tensor:
    """The weights of prepared queries and keys, from the sums that the kernel has taken already."""
    key = for_each_head(key, query)
    scores = (_four_axes(blockwise.compute_dtype(query)) * _scale(call)) @ _four_axes(
        blockwise.compute_dtype(key)
    ).transpose(-1, -2)
    mask, is_causal = _additive_mask(call)
    if is_causal:
        scores.masked_fill_(torch.ones(scores.shape[-2:], dtype=torch.bool).triu_(1), -torch.inf)
    elif mask is not None:
        scores += mask
    weights = scores.sub_(log_sums.unsqueeze(-1)).exp_()
    return weights.reshape(*call.query.shape[:-1], call.key.shape[-2]).to(call.query.dtype)


def _alike(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of one size, by zeros at the end, and key and value with as many heads: the kernels demand
    it, and a score may have made queries and keys of another size, and keys for every query head."""
    if key.shape == value.shape:
        return query, key, value
    size, value_size = query.shape[-1], value.shape[-1]
    if size < value_size:
        query, key = pad(query, (0, value_size - size)), pad(key, (0, value_size - size))
    elif value_size < size:
        value = pad(value, (0, size - value_size))
    return query, key, for_each_head(value, key)


class _Fused(torch.autograd.Function):
    """PyTorch's fused forward and backward, with the exact second derivative that PyTorch's own lack."""

    @staticmethod
    def forward(ctx: Any, call: AttentionCall, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.call = call
        if query.device.type != "cpu":
            ctx.save_for_backward(query, key, value)
            return _attend(call, query, key, value)
        output, fused, log_sums, _ = _on_cpu(call, query, key, value)
        ctx.save_for_backward(query, key, value, fused, log_sums)
        return output

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
        mask, is_causal = _additive_mask(call)
        query, key, value = map(_four_axes, tensors)
        found = _CPU_BACKWARD(
            _four_axes(grad_output),
            query,
            key,
            value,
            *kept,
            0.0,
            is_causal,
            attn_mask=mask,
            scale=_scale(call),
        )
        return tuple(
            one if one.shape == t.shape else one.reshape(t.shape)
            for one, t in zip(found, tensors, strict=True)
        )
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
        output, _ = blockwise.run(_prepared(call, query, key, value))
        return torch.autograd.grad(output, (query, key, value), grad_output, create_graph=create_graph)


_CPU_FORWARD = torch._scaled_dot_product_flash_attention_for_cpu  # type: ignore[attr-defined]
_CPU_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


def _on_cpu(
    call: AttentionCall, query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor, bool]:
    """The output in the shape of `query`; the same in four axes; the logarithm of each query's sum; and whether these
    are right."""
    mask, is_causal = _additive_mask(call)
    fused, log_sums = _CPU_FORWARD(
        _four_axes(query),
        _four_axes(key),
        _four_axes(value),
        0.0,
        is_causal,
        attn_mask=mask,
        scale=_scale(call),
    )
    output = fused if query.ndim == 4 else fused.view(query.shape)
    trusted = _trusted(call, query, key, log_sums)
    if not trusted:
        plain, _ = blockwise.run(_prepared(call, query, key, value))
        doubtful = (log_sums == 0) | (log_sums == torch.inf)
        output = torch.where(doubtful.reshape(*query.shape[:-1], 1), plain, output)
    return output, fused, log_sums, trusted


def _trusted(call: AttentionCall, query: Tensor, key: Tensor, log_sums: Tensor) -> bool:
    """Whether the kernel's output is right: it answers zero not only to queries that may see nothing, but also to some
    whose scores are not finite. Those have a sum of exactly 1 or of infinity."""
    every = int(log_sums.count_nonzero()) == log_sums.numel()
    if every and (call.bias is None or not log_sums.isposinf().any()):
        return True
    largest = query.detach().abs().amax() * key.detach().abs().amax() * _scale(call) * query.shape[-1]
    return call.bias is None and bool(largest.isfinite())


def _prepared(call: AttentionCall, query: Tensor, key: Tensor, value: Tensor) -> AttentionCall:
    """The call with queries and keys that the score has prepared already."""
    score = ScaledDot(call.score.factor(call.key.shape[-1]))
    return replace(call, query=query, key=key, value=value, score=score, return_weights=False)


def _additive_mask(call: AttentionCall) -> tuple[Tensor | None, bool]:
    """The mask and bias as the CPU's kernels take them: numbers to add, and whether the causal flag is set."""
    if call.mask is None and call.bias is None:
        return None, False
    mask, is_causal = _mask_and_flag(call)
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=call.query.dtype).masked_fill_(~mask, -torch.inf)
    return mask, is_causal


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
        enable_gqa=True if call.groups > 1 else False,  # noqa: SIM210 (a compiler's symbol is no bool)
    )
    return output.reshape(*query.shape[:-1], value.shape[-1])


def _scale(call: AttentionCall) -> float:
    factor = call.score.factor(call.key.shape[-1])
    temperature = cast(Softmax, call.normalizer).temperature
    return factor if temperature == 1.0 else factor / temperature


def _is_flag(call: AttentionCall) -> bool:
    """Whether the mask is the one that PyTorch's kernels know by a flag (theirs is aligned at the start)."""
    if type(call.mask) is not Causal or call.bias is not None or call.score.factor(call.key.shape[-1]) <= 0.0:
        # The CPU's kernel multiplies what it has hidden by the scale, too.
        return False
    same = call.query.shape[-2] == call.key.shape[-2]
    if not torch.compiler.is_compiling():
        return same
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(same)


def _written_size(call: AttentionCall) -> int:
    """How many elements of mask and bias must be written out for this call."""
    shapes = []
    if call.mask is not None and not (isinstance(call.mask, Dense) or _is_flag(call)) and call.hides:
        shapes.append(call.mask.shape(call.grid))
    if call.bias is not None and not isinstance(call.bias, DenseBias):
        shapes.append(call.bias.shape(call.grid))
    several = [shape for shape in shapes if len(shape) > 3 and call.query.ndim > 4]
    leading = count(call.query.shape[:-3]) if several else 1
    return sum(count(shape[-3:]) * leading if shape in several else count(shape) for shape in shapes)


def _mask_and_flag(call: AttentionCall) -> tuple[Tensor | None, bool]:
    """The mask and bias as PyTorch takes them: a tensor, and whether the causal flag is set."""
    if call.mask is not None and _is_flag(call):
        return None, True
    grid = call.grid
    shown: Tensor | None = None
    if call.mask is not None and call.hides:
        rows = slice(0, min(call.mask.shape(grid)[-2], grid.query_len))
        shown = call.mask.block(rows, slice(0, grid.key_len), grid)
    if call.bias is not None:
        rows, columns = slice(0, grid.query_len), slice(0, grid.key_len)
        bias = call.bias.cut(rows, columns).block(rows, columns, grid).detach().to(call.query.dtype)
        bias = bias / cast(Softmax, call.normalizer).temperature
        shown = bias if shown is None else bias.masked_fill(~shown, -torch.inf)
    if shown is None:
        return None, False
    shown = shown.reshape(*(1,) * (2 - shown.ndim), *shown.shape)
    shown = shown.expand(*shown.shape[:-1], grid.key_len)
    if shown.ndim > 3 and call.query.ndim > 4:
        # The axes before the heads are to become one; that of the heads may stay a single one.
        shown = shown.expand(*call.query.shape[:-3], *shown.shape[-3:])
    return _four_axes(shown), False


def _four_axes(tensor: Tensor) -> Tensor:
    """(batch, heads, length, size): the only form for which the kernels are fused."""
    if tensor.ndim == 4:
        return tensor if tensor.stride(-1) == 1 or tensor.dtype == torch.bool else tensor.contiguous()
    if tensor.ndim < 4:
        return _four_axes(tensor.reshape(*(1,) * (4 - tensor.ndim), *tensor.shape))
    return _four_axes(tensor.flatten(0, -4))
