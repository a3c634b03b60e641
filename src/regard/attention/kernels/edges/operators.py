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


def _run(name: str) -> Any:
    """The kernel of an operator, which takes the settings as one."""
    fields = len(EdgeSettings._fields)

    def run(*arguments: Any) -> Any:
        from regard.attention.kernels.edges import cpu

        last = len(arguments) - (name == "attention_backward")
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
