"""Attention along edges as an operator of PyTorch, differentiable any number of times.

`torch.ops.regard.edge_attention` and its first derivative run compiled kernels of Numba on the CPU; the derivatives of
that run the plain formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from regard.attention.kernels import plain
from regard.attention.kernels.edges import plain as along
from regard.attention.kernels.edges.plain import EdgeSettings
from regard.attention.masks.edges import Lists

__all__ = ["attention"]

_LIBRARY = torch.library.Library("regard", "FRAGMENT")
_TENSORS = (
    "Tensor query, Tensor key, Tensor value, Tensor? weight, Tensor starts, Tensor keys, Tensor? turns, "
    "Tensor? queries, Tensor? order, Tensor? mask, Tensor? bias"
)
_SETTINGS = "str score, float factor, float leak, str normalizer, float parameter, float dropout, int seed"
_LIBRARY.define(f"edge_attention({_TENSORS}, {_SETTINGS}) -> (Tensor, Tensor)")
_LIBRARY.define(
    f"edge_attention_backward(Tensor grad_output, Tensor? grad_weights, {_TENSORS}, Tensor weights, {_SETTINGS}, "
    "bool want_bias) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weight: Tensor | None,
    lists: Lists,
    mask: Tensor | None,
    bias: Tensor | None,
    settings: EdgeSettings,
) -> tuple[Tensor, Tensor]:
    """Output and weights of attention along edges; the weights are in the order in which `lists` has these by query.

    `weight` is that of an additive score; `mask` is True where an edge may be looked along; `bias` is added to scores.

    *Shape:* query `(batch, heads, query_len, size)`, key `(batch, key_heads, key_len, size)`, value `(batch, key_heads,
    key_len, value_size)`, weight `(heads or 1, size)`, mask and bias `(batch or 1, heads or 1, edges)` -> output
    `(batch, heads, query_len, value_size)`, weights `(batch, heads, edges)`.
    """
    found: tuple[Tensor, Tensor] = torch.ops.regard.edge_attention(
        query, key, value, weight, *lists, mask, bias, *settings
    )
    return found


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weight: Tensor | None,
    starts: Tensor,
    keys: Tensor,
    turns: Tensor | None,
    queries: Tensor | None,
    order: Tensor | None,
    mask: Tensor | None,
    bias: Tensor | None,
) -> None:
    """Raise `ValueError` unless tensors have the types and shapes that the kernels read; places are not looked at."""
    kinds = {tensor.dtype for tensor in (query, key, value, weight, bias) if tensor is not None}
    if len(kinds) != 1 or query.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"tensors must have one type, float32 or float64, they have {kinds}")
    shapes = [tuple(tensor.shape) for tensor in (query, key, value)]
    if not query.ndim == key.ndim == value.ndim == 4 or shapes[1][:3] != shapes[2][:3]:
        raise ValueError(f"query, key and value must be (batch, heads, length, size), they are {shapes}")
    batch, heads, query_len, size = query.shape
    if key.shape[0] != batch or heads % max(key.shape[1], 1) or key.shape[-1] != size:
        raise ValueError(f"key must fit query {shapes[0]}, it is {shapes[1]}")
    if weight is not None and weight.shape not in ((1, size), (heads, size)):
        raise ValueError(
            f"weight must be (heads or 1, size) of query {shapes[0]}, it is {tuple(weight.shape)}"
        )
    for name, picture in (("mask", mask), ("bias", bias)):
        if picture is None:
            continue
        if picture.ndim != 3 or picture.shape[0] not in (1, batch) or picture.shape[1] not in (1, heads):
            raise ValueError(f"{name} must be (batch or 1, heads or 1, edges), it is {tuple(picture.shape)}")
        if picture.shape[2] != len(keys):
            raise ValueError(f"{name} must say something of {len(keys)} edges, it is {tuple(picture.shape)}")
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"mask must be boolean, it is {mask.dtype}")
    for name, listed, dtype, length in (
        ("starts", starts, torch.int64, query_len + 1),
        ("keys", keys, torch.int32, len(keys)),
        ("turns", turns, torch.int64, key.shape[2] + 1),
        ("queries", queries, torch.int32, len(keys)),
        ("order", order, torch.int32, len(keys)),
    ):
        if listed is not None and not (
            listed.dtype == dtype and listed.shape == (length,) and listed.is_contiguous()
        ):
            raise ValueError(f"{name} must be {length} contiguous numbers of {dtype}")


def _run(name: str) -> Any:
    """The kernel of an operator, which takes the settings as one."""
    fields = len(EdgeSettings._fields)

    def run(*arguments: Any) -> Any:
        from regard.attention.kernels.edges import cpu

        first, last = (0, len(arguments)) if name == "attention" else (2, len(arguments) - 1)
        _check(*arguments[first : first + 11])
        settings = EdgeSettings(*arguments[last - fields : last])
        return getattr(cpu, name)(*arguments[: last - fields], settings, *arguments[last:])

    return run


_LIBRARY.impl("edge_attention", _run("attention"), "CPU")
_LIBRARY.impl("edge_attention_backward", _run("attention_backward"), "CPU")


def beside(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, bias: Tensor | None) -> bool:
    """Whether heads are so small that those of a node are computed together, and lie beside each other in results."""
    from regard.attention.kernels.emit import WIDTH

    small = all(
        any(tensor.shape[-1] == size for size in (2, 4, 8, 16) if size * tensor.element_size() <= WIDTH)
        for tensor in (query, value)
    )
    return small and mask is None and bias is None and 1 < query.shape[1] == key.shape[1]


def rows_like(tensor: Tensor, rows: Tensor, size: int, together: bool) -> Tensor:
    """An empty tensor with as many rows as `rows` has, laid out as `tensor` or with the heads of a row `together`.

    *Shape:* tensor `(batch, heads, any, any)`, rows `(batch, heads, length, any)` -> `(batch, heads, length, size)`.
    """
    batch, heads, length, _ = rows.shape
    if together or (heads > 1 and tensor.stride(1) < tensor.stride(2)):
        return tensor.new_empty(batch, length, heads, size).transpose(1, 2)
    return tensor.new_empty(batch, heads, length, size)


def along_edges(query: Tensor, edges: int, together: bool) -> Tensor:
    """An empty tensor with a number for each edge and head.

    *Shape:* query `(batch, heads, any, any)` -> `(batch, heads, edges)`.
    """
    batch, heads = query.shape[:2]
    if together:
        return query.new_empty(batch, edges, heads).transpose(1, 2)
    return query.new_empty(batch, heads, edges)


# Shapes, for compilers


def _shapes(
    query: Tensor, key: Tensor, value: Tensor, weight: Any, starts: Tensor, keys: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    together = beside(query, key, value, rest[3], rest[4])
    return rows_like(value, query, value.shape[-1], together), along_edges(query, keys.shape[0], together)


def _gradient_shapes(
    grad_output: Tensor, grad_weights: Any, query: Tensor, key: Tensor, value: Tensor, weight: Any, *rest: Any
) -> tuple[Tensor, ...]:
    together = beside(query, key, value, rest[5], rest[6])
    return (
        *(rows_like(t, t, t.shape[-1], together) for t in (query, key, value)),
        query.new_empty(0 if weight is None else weight.shape),
        along_edges(query, rest[1].shape[0], False) if rest[-1] else query.new_empty(0),
    )


torch.library.register_fake("regard::edge_attention", _shapes)
torch.library.register_fake("regard::edge_attention_backward", _gradient_shapes)


# Derivatives


def _keep_call(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:11], output[1])
    ctx.settings = inputs[11:]
    ctx.want_bias = inputs[10] is not None and ctx.needs_input_grad[10]


def _gradient(ctx: Any, grad_output: Tensor | None, grad_weights: Tensor | None) -> tuple[Any, ...]:
    query, _, value, weight, *_, bias, _ = ctx.saved_tensors
    if grad_output is None:
        grad_output = query.new_zeros(*query.shape[:-1], value.shape[-1])
    found = torch.ops.regard.edge_attention_backward(
        grad_output, grad_weights, *ctx.saved_tensors, *ctx.settings, ctx.want_bias
    )
    return (
        *found[:3],
        None if weight is None else found[3],
        *[None] * 6,
        found[4].sum_to_size(bias.shape) if ctx.want_bias else None,
        *[None] * len(ctx.settings),
    )


def _keep_gradient(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:13])
    ctx.settings, ctx.count = EdgeSettings(*inputs[14:-1]), len(inputs)


def _gradient_again(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    above, above_weights, query, key, value, weight, starts, keys, *_, mask, bias = ctx.saved_tensors

    def gradients(*tensors: Any) -> Sequence[Tensor | None]:
        above, above_weights, query, key, value, weight, bias = tensors
        if bias is not None:  # The operator's gradient of a bias is not summed up to its shape.
            bias = bias.expand(*query.shape[:2], bias.shape[-1])

        def forward(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
            return along.attention(query, key, value, rest[0], starts, keys, mask, rest[1], ctx.settings)

        return plain.gradients(forward, (query, key, value, weight, bias), above, above_weights)

    found = plain.through(gradients, (above, above_weights, query, key, value, weight, bias), grads)
    inputs = [*found[:6], *[None] * 6, found[6]]
    return (*inputs, *[None] * (ctx.count - len(inputs)))


torch.library.register_autograd("regard::edge_attention", _gradient, setup_context=_keep_call)
torch.library.register_autograd(
    "regard::edge_attention_backward", _gradient_again, setup_context=_keep_gradient
)
