"""The fused kernels as operators of PyTorch: seen by compilers and exporters, differentiable any number of times.

`torch.ops.regard.additive_scores` and `torch.ops.regard.attention` run a compiled kernel of Numba on the CPU and one of
Triton on a GPU. Their first derivatives are operators, too; the derivatives of these run the plain formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from regard.attention.kernels import plain
from regard.attention.kernels.settings import DENSE, Settings, kept_keys

__all__ = ["additive_scores", "attention"]

_LIBRARY = torch.library.Library("regard", "DEF")
_SETTINGS = "str score, str normalizer, float parameter, float scale, float dropout, int seed, "
_SETTINGS += "SymInt first, SymInt whole"
_LIBRARY.define("additive_scores(Tensor query, Tensor key, Tensor weight) -> Tensor")
_LIBRARY.define(
    "additive_scores_backward(Tensor grad, Tensor query, Tensor key, Tensor weight) -> (Tensor, Tensor, Tensor)"
)
_LIBRARY.define(
    "attention(Tensor query, Tensor key, Tensor value, Tensor? weight, Tensor? ranges, Tensor? mask, Tensor? bias, "
    f"{_SETTINGS}, bool want_weights, bool keep) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_LIBRARY.define(
    "attention_backward(Tensor grad_output, Tensor? grad_weights, Tensor query, Tensor key, Tensor value, "
    "Tensor? weight, Tensor? ranges, Tensor? mask, Tensor? bias, Tensor output, Tensor statistic, Tensor counts, "
    f"Tensor index, Tensor kept, {_SETTINGS}, bool want_bias) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def additive_scores(query: Tensor, key: Tensor, weight: Tensor) -> Tensor:
    """The additive score of every query and key.

    $$s_{ij} = \\sum_d w_d \\tanh(q_{id} + k_{jd})$$

    *Shape:* query `(batch, heads, query_len, size)`, key `(batch, key_heads, key_len, size)`, weight `(heads, size)` or
    `(1, size)` -> `(batch, heads, query_len, key_len)`.
    """
    found: Tensor = torch.ops.regard.additive_scores(query, key, weight)
    return found


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weight: Tensor | None,
    ranges: Tensor | None,
    mask: Tensor | None,
    bias: Tensor | None,
    settings: Settings,
    want_weights: bool = False,
    keep: bool = True,
) -> tuple[Tensor, Tensor]:
    """Output and weights of attention by one kernel, which keeps no more of a query than its support.

    `weight` is that of an additive score. `ranges` are the keys that each query sees, where those lie one after the
    other: from low to high (excluded). `mask` is True where it may look. Without `keep` there is no backward pass.

    *Shape:* query `(batch, heads, query_len, size)`, key `(batch, key_heads, key_len, size)`, value `(batch, key_heads,
    key_len, value_size)`, weight `(heads or 1, size)`, ranges int32 `(batch or 1, heads or 1, query_len, 2)`; mask and
    bias broadcastable to the weights, `(batch, heads, query_len, key_len)`, which are empty unless wanted.
    """
    found = torch.ops.regard.attention(
        query, key, value, weight, ranges, mask, bias, *settings, want_weights, keep
    )
    return found[0], found[1]


def _kernels(device: str) -> Any:
    """The module whose functions have the names of the operators."""
    if device == "cuda":
        from regard.attention.kernels import gpu

        return gpu
    from regard.attention.kernels import cpu

    return cpu


def _additive_scores(query: Tensor, key: Tensor, weight: Tensor) -> Any:
    _check(query, key, weight)
    return _kernels(query.device.type).additive_scores(query, key, weight)


def _additive_scores_backward(grad: Tensor, query: Tensor, key: Tensor, weight: Tensor) -> Any:
    _check(query, key, weight, grad)
    return _kernels(query.device.type).additive_scores_backward(grad, query, key, weight)


def _check(query: Tensor, key: Tensor, *others: Tensor | None) -> None:
    """Raise `ValueError` unless tensors have one type that kernels compute in, and queries and keys fit."""
    kinds = {tensor.dtype for tensor in (query, key, *others) if tensor is not None}
    allowed = [torch.float32, torch.float64, *((torch.float16, torch.bfloat16) if query.is_cuda else ())]
    if len(kinds) != 1 or query.dtype not in allowed:
        raise ValueError(f"tensors must have one type of {allowed}, they have {kinds}")
    ranks = query.ndim == key.ndim == 4
    if not ranks or query.shape[0] != key.shape[0] or query.shape[1] % max(key.shape[1], 1):
        raise ValueError(
            f"query and key must be (batch, heads, length, size): {tuple(query.shape)}, {tuple(key.shape)}"
        )
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"query has {query.shape[-1]} channels, key has {key.shape[-1]}")


def _check_pictures(query: Tensor, key: Tensor, value: Tensor, *pictures: Tensor | None) -> None:
    """Raise `ValueError` unless value, ranges, mask and bias fit query and key."""
    ranges, mask, bias = pictures
    if value.shape[:-1] != key.shape[:-1]:
        raise ValueError(f"value must fit key {tuple(key.shape)}, it is {tuple(value.shape)}")
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"mask must be boolean, it is {mask.dtype}")
    whole = (*query.shape[:-1], key.shape[-2])
    seen = None if ranges is None else (*query.shape[:-1], 2)
    for name, picture, shape in (("mask", mask, whole), ("bias", bias, whole), ("ranges", ranges, seen)):
        if picture is None:
            continue
        fits = [size in (1, full) for size, full in zip(picture.shape, shape or (), strict=False)]
        exact = name != "ranges" or picture.shape[-2:] == (query.shape[-2], 2)
        if picture.ndim != 4 or not all(fits) or not exact:
            raise ValueError(f"{name} must fit {shape}, it is {tuple(picture.shape)}")


def _attention(*arguments: Any) -> Any:
    tensors, settings, (want_weights, keep) = arguments[:7], Settings(*arguments[7:15]), arguments[15:]
    query, key, value, weight, ranges, mask, bias = tensors
    _check(query, key, value, weight, bias)
    _check_pictures(query, key, value, ranges, mask, bias)
    return _kernels(query.device.type).attention(*tensors, settings, want_weights, keep)


def _attention_backward(*arguments: Any) -> Any:
    tensors, settings, (want_bias,) = arguments[:14], Settings(*arguments[14:22]), arguments[22:]
    return _kernels(tensors[0].device.type).attention_backward(*tensors, settings, want_bias)


for _name, _run in (
    ("additive_scores", _additive_scores),
    ("additive_scores_backward", _additive_scores_backward),
    ("attention", _attention),
    ("attention_backward", _attention_backward),
):
    for _device in ("CPU", "CUDA"):
        _LIBRARY.impl(_name, _run, _device)


# Shapes, for compilers


def _scores_shape(query: Tensor, key: Tensor, weight: Tensor) -> Tensor:
    return query.new_empty(*query.shape[:-1], key.shape[-2])


def _scores_gradient_shapes(
    grad: Tensor, query: Tensor, key: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), weight.new_empty(weight.shape)


def _attention_shapes(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    settings, (want_weights, keep) = Settings(*rest[4:12]), rest[12:]
    rows, key_len = query.shape[:-1], key.shape[-2]
    if query.device.type == "cuda":
        found: tuple[Tensor, ...] = _kernels("cuda").shapes(query, key, value, settings, want_weights)
        return found
    output = query.new_empty(*rows, value.shape[-1])
    weights = query.new_empty(*rows, key_len) if want_weights else query.new_empty(0)
    if settings.normalizer in DENSE:
        none = query.new_empty(0, dtype=torch.int32)
        return output, weights, query.new_empty(*rows, 2), none, none.clone(), query.new_empty(0)
    share = kept_keys(settings.normalizer, settings.parameter, key_len) if keep else 0
    return (
        output,
        weights,
        query.new_empty(*rows, 0),
        query.new_empty(rows, dtype=torch.int32),
        query.new_empty(*rows, share, dtype=torch.int32),
        query.new_empty(*rows, share),
    )


def _attention_gradient_shapes(
    grad_output: Tensor,
    grad_weights: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weight: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, ...]:
    return (
        query.new_empty(query.shape),
        key.new_empty(key.shape),
        value.new_empty(value.shape),
        query.new_empty(0 if weight is None else weight.shape),
        query.new_empty(*query.shape[:-1], key.shape[-2]) if rest[-1] else query.new_empty(0),
    )


for _name, _shapes in (
    ("additive_scores", _scores_shape),
    ("additive_scores_backward", _scores_gradient_shapes),
    ("attention", _attention_shapes),
    ("attention_backward", _attention_gradient_shapes),
):
    torch.library.register_fake(f"regard::{_name}", _shapes)


# Derivatives


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _scores_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.ops.regard.additive_scores_backward(grad.contiguous(), *ctx.saved_tensors))


def _scores_gradient_again(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    def gradients(grad: Tensor, *inputs: Tensor) -> Sequence[Tensor | None]:
        return plain.gradients(plain.additive_scores, inputs, grad)

    return tuple(plain.through(gradients, ctx.saved_tensors, grads))


torch.library.register_autograd("regard::additive_scores", _scores_gradient, setup_context=_keep_inputs)
torch.library.register_autograd(
    "regard::additive_scores_backward", _scores_gradient_again, setup_context=_keep_inputs
)


def _keep_call(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    result, _, *state = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*state)
    ctx.settings = Settings(*inputs[7:15])
    # Of sparse weights on the CPU the support is all that the backward pass needs.
    needed = result.is_cuda or ctx.settings.normalizer in DENSE
    ctx.save_for_backward(*inputs[:7], result if needed else result.new_empty(0), *state)
    ctx.want_bias = inputs[6] is not None and ctx.needs_input_grad[6]


def _attention_gradient(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    query, key, value, weight, ranges, mask, bias, output, *state = ctx.saved_tensors
    grad_output, grad_weights = grads[0], grads[1]
    if grad_output is None:
        grad_output = query.new_zeros(*query.shape[:-1], value.shape[-1])
    found = torch.ops.regard.attention_backward(
        grad_output, grad_weights, query, key, value, weight, ranges, mask, bias, output, *state,
        *ctx.settings, ctx.want_bias,
    )  # fmt: skip
    grad_query, grad_key, grad_value, grad_weight, grad_bias = found
    if ctx.want_bias:
        grad_bias = grad_bias.sum_to_size(bias.shape)
    return (
        grad_query,
        grad_key,
        grad_value,
        None if weight is None else grad_weight,
        None,
        None,
        grad_bias if ctx.want_bias else None,
        *[None] * 10,
    )


def _keep_gradient(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:9])
    ctx.settings, ctx.want_bias, ctx.count = Settings(*inputs[14:22]), inputs[22], len(inputs)


def _attention_gradient_again(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    grad_output, grad_weights, query, key, value, weight, ranges, mask, bias = ctx.saved_tensors
    if not ctx.want_bias:  # An empty tensor has been in its place.
        grads = (*grads[:4], None)

    def gradients(*tensors: Any) -> Sequence[Tensor | None]:
        grad_output, grad_weights, query, key, value, weight, bias = tensors
        if bias is not None:  # The operator's gradient of a bias is not summed up to its shape.
            bias = bias.expand(*query.shape[:-1], key.shape[-2])

        def forward(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
            return plain.attention(query, key, value, rest[0], ranges, mask, rest[1], ctx.settings)

        return plain.gradients(forward, (query, key, value, weight, bias), grad_output, grad_weights)

    found = plain.through(gradients, (grad_output, grad_weights, query, key, value, weight, bias), grads)
    above, above_weights, query, key, value, weight, bias = found
    inputs = [above, above_weights, query, key, value, weight, None, None, bias]
    return (*inputs, *[None] * (ctx.count - len(inputs)))


torch.library.register_autograd("regard::attention", _attention_gradient, setup_context=_keep_call)
torch.library.register_autograd(
    "regard::attention_backward", _attention_gradient_again, setup_context=_keep_gradient
)
