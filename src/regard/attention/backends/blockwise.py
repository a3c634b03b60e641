"""Any score x any normaliser x any mask, exact: queries in blocks, recomputed in the backward pass.

Memory beyond inputs and outputs is one block of queries against all keys they may see, times the score's width:
it grows linearly with the length. A call that fits into one block keeps its block instead of recomputing it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regard.attention.call import AttentionCall, tensors_of, transforming, unaltered, with_tensors
from regard.attention.masks import Grid, Mask
from regard.attention.normalizers import Normalizer
from regard.attention.scores import Score

BLOCK_BYTES = 8 * 2**20
"""How much one block of scores may take; a block has at least one query however long the keys."""


def unsupported(call: AttentionCall) -> list[str]:
    return []


def cost(call: AttentionCall) -> str:
    plan = Plan.of(call)
    held = plan.rows * plan.bytes_a_row
    return f"one block of {plan.rows} of {plan.grid.query_len} queries, about {held / 2**20:.1f} MiB"


def derivatives(call: AttentionCall) -> str:
    if Plan.of(call).fits:
        return "first, second and forward-mode: PyTorch's own, through one kept block"
    return "first: recomputed block by block; second and forward-mode: exact, memory quadratic in length"


def run(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
    plan = Plan.of(call)
    if call.dropout:
        plan = dataclasses.replace(plan, seed=int(torch.randint(2**62, ())))
    query, key, value = _compute_dtype(call.query), _compute_dtype(call.key), _compute_dtype(call.value)
    query, key = call.score.prepare(query, key)
    if call.groups > 1:
        key = key.repeat_interleave(call.groups, dim=-3)
        value = value.repeat_interleave(call.groups, dim=-3)
    learned = [_compute_dtype(tensor) for tensor in (*tensors_of(call.score), *tensors_of(call.normalizer))]
    tensors = [query, key, value, *learned]
    if call.bias is not None:
        tensors.append(_compute_dtype(call.bias))
    if call.needs_gradient and not plan.fits and not call.transformed:
        output, weights = _Recomputed.apply(plan, *tensors)
    elif not torch.is_grad_enabled() and not call.transformed:
        output, weights = plan.filled(tensors)
    else:
        output, weights = plan.all_rows(tensors)
    output = output.to(call.query.dtype)
    return output, weights.to(call.query.dtype) if call.return_weights else None


def weights_of(call: AttentionCall, rows: Tensor | slice) -> Iterator[tuple[slice, Tensor]]:
    """The exact weights of the chosen query rows, block by block: (which of the chosen, their weights).

    *Shape:* each `(..., query_heads, block, key_len)`.
    """
    plan = Plan.of(call)
    query, key = call.score.prepare(_compute_dtype(call.query), _compute_dtype(call.key))
    if call.groups > 1:
        key = key.repeat_interleave(call.groups, dim=-3)
    bias = None if call.bias is None else _compute_dtype(call.bias)
    chosen = torch.arange(plan.grid.query_len, device=query.device)[rows]
    for start in range(0, max(len(chosen), 1), plan.rows):
        which = slice(start, min(start + plan.rows, len(chosen)))
        columns = slice(0, plan.grid.key_len)
        bias_rows = None if bias is None else _bias_block(bias, chosen[which], columns)
        weights = plan.weigh(query[..., chosen[which], :], key, chosen[which], columns, bias_rows)
        yield which, weights.to(call.query.dtype)


def dense_weights(call: AttentionCall) -> Tensor:
    """All the exact weights of a call, differentiable. *Shape:* `(..., query_heads, query_len, key_len)`."""
    blocks = [weights for _, weights in weights_of(call, slice(None))]
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=-2)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How a call is cut into blocks of query rows, and how one block is computed."""

    score: Score
    normalizer: Normalizer
    mask: Mask | None
    has_bias: bool
    dropout: float
    seed: int
    return_weights: bool
    grid: Grid
    rows: int
    bytes_a_row: int

    @classmethod
    def of(cls, call: AttentionCall) -> Plan:
        grid = call.grid
        item = max(call.query.element_size(), 4)
        pairs = math.prod(call.query.shape[:-2]) * grid.key_len
        bytes_a_row = max(pairs * call.score.width(call.key.shape[-1]) * item, 1)
        rows = min(max(BLOCK_BYTES // bytes_a_row, 1), max(grid.query_len, 1))
        hides = call.mask is not None and call.mask.hides(grid)
        return cls(
            call.score,
            call.normalizer,
            call.mask if hides else None,
            call.bias is not None,
            call.dropout,
            0,
            call.return_weights,
            grid,
            rows,
            bytes_a_row,
        )

    @property
    def fits(self) -> bool:
        """Whether the whole call is one block of the allowed size, small enough to be kept for the backward pass."""
        return self.rows >= self.grid.query_len and self.rows * self.bytes_a_row <= BLOCK_BYTES

    def blocks(self) -> Iterator[tuple[slice, slice]]:
        """Each block's query rows and the key columns outside which they see nothing."""
        for start in range(0, max(self.grid.query_len, 1), self.rows):
            stop = min(start + self.rows, self.grid.query_len)
            low, high = (
                (0, self.grid.key_len) if self.mask is None else self.mask.span(start, stop, self.grid)
            )
            yield slice(start, stop), slice(low, high)

    def weigh(
        self, query: Tensor, key: Tensor, rows: Tensor | slice, columns: slice, bias: Tensor | None
    ) -> Tensor:
        """The weights of a block. *Shape:* `(..., heads, rows, columns)`."""
        scores = self.score.compare(query, key)
        if bias is not None:
            scores = scores + bias
        if self.mask is not None:
            scores = scores.masked_fill(~self.mask.block(rows, columns, self.grid), -torch.inf)
        if self.mask is None and bias is None:
            return self.normalizer.weigh(scores) if key.shape[-2] else scores
        if key.shape[-2] == 0:
            return scores
        # A query that may look at nothing never meets the normaliser: its scores become 0, its weights 0.
        blind = (scores.detach() == -torch.inf).all(-1, keepdim=True)
        return self.normalizer.weigh(scores.masked_fill(blind, 0.0)).masked_fill(blind, 0.0)

    def block(self, tensors: Sequence[Tensor], rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """Output and weights of a block, from tensors already cut to its rows and columns."""
        query, key, value, *parameters = tensors
        bias = parameters.pop() if self.has_bias else None
        split = len(tensors_of(self.score))
        plan = dataclasses.replace(
            self,
            score=with_tensors(self.score, parameters[:split]),
            normalizer=with_tensors(self.normalizer, parameters[split:]),
        )
        weights = plan.weigh(query, key, rows, columns, bias)
        kept = weights
        if self.dropout:
            generator = torch.Generator(weights.device).manual_seed(self.seed + rows.start)
            noise = torch.rand(weights.shape, generator=generator, device=weights.device)
            kept = weights * ((noise >= self.dropout) / (1 - self.dropout)).to(weights.dtype)
        return kept @ value, weights

    def cut(self, tensors: Sequence[Tensor], rows: slice, columns: slice) -> list[Tensor]:
        """The part of each tensor that a block needs, as views."""
        query, key, value, *rest = tensors
        if self.has_bias:
            rest[-1] = _bias_block(rest[-1], rows, columns)
        return [query[..., rows, :], key[..., columns, :], value[..., columns, :], *rest]

    def filled(self, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """What `all_rows` returns, where nobody differentiates: every block is written into its place at once.

        Small results kept between large temporaries would leave the allocator with holes of every size.
        """
        query, value = tensors[0], tensors[2]
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        weights = (
            query.new_zeros(*query.shape[:-1], self.grid.key_len)
            if self.return_weights
            else query.new_empty(0)
        )
        for rows, columns in self.blocks():
            output[..., rows, :], block = self.block(self.cut(tensors, rows, columns), rows, columns)
            if self.return_weights:
                weights[..., rows, columns] = block
        return output, weights

    def all_rows(self, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Every block, one after the other. Weights are an empty tensor when nobody wants them."""
        outputs, weights = [], []
        for rows, columns in self.blocks():
            output, weight = self.block(self.cut(tensors, rows, columns), rows, columns)
            outputs.append(output)
            if self.return_weights:
                after = self.grid.key_len - columns.stop
                weights.append(torch.nn.functional.pad(weight, (columns.start, after)))
        output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-2)
        if not self.return_weights:
            return output, output.new_empty(0)
        return output, weights[0] if len(weights) == 1 else torch.cat(weights, dim=-2)


class _Recomputed(torch.autograd.Function):
    """All blocks without keeping any; the backward pass computes each again."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        ctx.plan = plan
        ctx.save_for_backward(*tensors)
        return plan.filled(tensors)

    @staticmethod
    def backward(ctx: Any, *grad_ends: Tensor) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[1:]) if needed]
        with unaltered(grad_ends[0].device):
            if torch.is_grad_enabled() or transforming(*grad_ends):
                found = _kept(plan, ctx.saved_tensors, grad_ends, wanted)
            else:
                found = _again(plan, ctx.saved_tensors, grad_ends, wanted)
        return (None, *(found.get(i) for i in range(len(ctx.saved_tensors))))


def _kept(
    plan: Plan, tensors: Sequence[Tensor], grad_ends: Sequence[Tensor], wanted: list[int]
) -> dict[int, Tensor | None]:
    """The gradients by keeping every block, so that PyTorch can differentiate or transform them further."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views cut the graph behind the tensors off: a path from one to another is not this call's to count.
        inputs = [t.view_as(t) if t.requires_grad else t for t in tensors]
        found = _gradients(
            plan.all_rows(inputs), grad_ends, [inputs[i] for i in wanted], create_graph=create_graph
        )
    return dict(zip(wanted, found, strict=True))


def _again(
    plan: Plan, tensors: Sequence[Tensor], grad_ends: Sequence[Tensor], wanted: list[int]
) -> dict[int, Tensor | None]:
    """The gradients by computing one block after the other again."""
    tensors = [tensor.detach() for tensor in tensors]
    sums = [
        torch.zeros_like(tensor, memory_format=torch.contiguous_format) if i in wanted else tensor
        for i, tensor in enumerate(tensors)
    ]
    for rows, columns in plan.blocks():
        inputs = [
            t.detach().requires_grad_(i in wanted) for i, t in enumerate(plan.cut(tensors, rows, columns))
        ]
        with torch.enable_grad():
            ends = plan.block(inputs, rows, columns)
        weights = grad_ends[1][..., rows, columns] if plan.return_weights else None
        found = _gradients(
            ends, (grad_ends[0][..., rows, :], weights), [inputs[i] for i in wanted], create_graph=False
        )
        parts = plan.cut(sums, rows, columns)
        for i, grad in zip(wanted, found, strict=True):
            if grad is not None:
                parts[i] += grad
    return {i: sums[i] for i in wanted}


def _gradients(
    ends: Sequence[Tensor], grad_ends: Sequence[Tensor | None], inputs: list[Tensor], *, create_graph: bool
) -> Sequence[Tensor | None]:
    """The gradients of `inputs`, through those `ends` that have a gradient and depend on anything."""
    pairs = [
        (end, grad)
        for end, grad in zip(ends, grad_ends, strict=True)
        if grad is not None and end.requires_grad
    ]
    if not pairs:
        return [None] * len(inputs)
    outputs, grads = zip(*pairs, strict=True)
    return torch.autograd.grad(outputs, inputs, grads, create_graph=create_graph, allow_unused=True)


def _compute_dtype(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _bias_block(bias: Tensor, rows: Tensor | slice, columns: slice) -> Tensor:
    bias = bias.reshape(*(1,) * (2 - bias.ndim), *bias.shape)
    if bias.shape[-2] != 1:
        bias = bias[..., rows, :]
    return bias[..., columns] if bias.shape[-1] != 1 else bias
