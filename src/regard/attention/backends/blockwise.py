"""Any score x any normaliser x any mask, exact: queries in blocks, recomputed in the backward pass.

Memory beyond inputs and outputs is one block of queries against all keys they may see, times the score's width:
it grows linearly with the length. A call that fits into one block keeps its block instead of recomputing it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from regard.attention.biases import Bias
from regard.attention.call import AttentionCall, transforming, unaltered
from regard.attention.grid import Block, Grid
from regard.attention.masks import Mask
from regard.attention.normalizers import Normalizer
from regard.attention.parts import Part, tensors_of, with_tensors
from regard.attention.picture import count
from regard.attention.scores import Score
from regard.attention.scores.score import for_each_head

BLOCK_BYTES = 8 * 2**20
"""How much one block of scores may take; a block has at least one query however long the keys."""

COMPILED_BLOCK_BYTES = 64 * 2**20
"""The same where a compiler writes every block out: fewer and larger ones."""

COMPILED_BLOCKS = 64
"""The most blocks that a compiler is given to write out."""


def unsupported(call: AttentionCall) -> list[str]:
    return []


def cost(call: AttentionCall) -> str:
    plan = Plan.of(call)
    held = plan.rows * plan.bytes_a_row
    return f"one block of {plan.rows} of {plan.grid.query_len} queries, about {held / 2**20:.1f} MiB"


def pairs(call: AttentionCall) -> int:
    heads = count(call.query.shape[:-2])
    blocks = Plan.of(call).blocks()
    return heads * sum((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in blocks)


def derivatives(call: AttentionCall) -> str:
    if call.transformed:
        return "first, second and forward-mode: PyTorch's own, every block kept: memory quadratic in length"
    if Plan.of(call).fits:
        return "first, second and forward-mode: PyTorch's own, through one kept block"
    return "first: recomputed block by block; second and forward-mode: exact, memory quadratic in length"


def run(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
    dtype = call.query.dtype
    call = in_compute_dtype(call)
    plan = Plan.of(call)
    if (call.dropout or call.normalizer.random) and not call.transformed:
        plan = dataclasses.replace(plan, seed=int(torch.randint(2**62, ())))
    query, key = call.score.prepare(call.query, call.key)
    key, value = for_each_head(key, query), for_each_head(call.value, query)
    parts = (call.score, call.normalizer, *(() if call.bias is None else (call.bias,)))
    tensors = [query, key, value, *(t for part in parts for t in tensors_of(part))]
    if torch.compiler.is_compiling():
        output, weights = plan.written_out(tensors, call.needs_gradient)
    elif call.needs_gradient and not plan.fits and not call.transformed:
        output, weights = _Recomputed.apply(plan, *tensors)
    elif not torch.is_grad_enabled() and not call.transformed:
        output, weights, _ = plan.filled(tensors)
    else:
        output, weights = plan.all_rows(tensors)
    return output.to(dtype), weights.to(dtype) if call.return_weights else None


def weights_of(call: AttentionCall, rows: Tensor | slice) -> Iterator[Tensor]:
    """The exact weights of the chosen query rows, block by block in their order.

    *Shape:* each `(..., query_heads, block, key_len)`.
    """
    dtype = call.query.dtype
    call = in_compute_dtype(call)
    plan = Plan.of(call)
    query, key = call.score.prepare(call.query, call.key)
    key = for_each_head(key, query).contiguous()
    weigh = plan.coupled_weights if call.normalizer.coupled else plan.chosen_weights
    yield from (weights.to(dtype) for weights in weigh(query, key, rows))


def dense_weights(call: AttentionCall) -> Tensor:
    """All the exact weights of a call, differentiable. *Shape:* `(..., query_heads, query_len, key_len)`."""
    blocks = ((block,) for block in weights_of(call, slice(None)))
    return joined(call, call.query.shape[-2], blocks)[0]


def joined(call: AttentionCall, count: int, blocks: Iterator[Sequence[Tensor]]) -> list[Tensor]:
    """Results of blocks of query rows, one after the other along the second last axis.

    Where nobody differentiates they are written into place as they come: small results kept between large temporaries
    would leave the allocator with holes of every size, far more than the results themselves.

    *Shape:* each `(..., some, any)` -> `(..., count, any)`.
    """
    if call.needs_gradient or call.transformed:
        return [
            parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2) for parts in zip(*blocks, strict=True)
        ]
    whole: list[Tensor] = []
    start = 0
    for parts in blocks:
        if not whole:
            whole = [part.new_empty(*part.shape[:-2], count, part.shape[-1]) for part in parts]
        for one, part in zip(whole, parts, strict=True):
            one[..., start : start + part.shape[-2], :] = part
        start += parts[0].shape[-2]
    return whole


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How a call is cut into blocks of query rows, and how one block is computed."""

    score: Score
    normalizer: Normalizer
    mask: Mask | None
    bias: Bias | None
    dropout: float
    seed: int | None
    return_weights: bool
    grid: Grid
    rows: int
    bytes_a_row: int

    @classmethod
    def of(cls, call: AttentionCall) -> Plan:
        grid = call.grid
        item = max(call.query.element_size(), 4)
        pairs = count(call.query.shape[:-2]) * grid.key_len
        width = call.score.width(call.key.shape[-1])
        if call.normalizer.coupled and not torch.compiler.is_compiling():
            width = max(width, call.normalizer.held(grid.key_len))
        bytes_a_row = max(pairs * width * item, 1)
        rows = _rows(grid.query_len, bytes_a_row)
        return cls(
            call.score,
            call.normalizer,
            call.mask if call.hides else None,
            call.bias,
            call.dropout,
            None,
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
        if torch.compiler.is_compiling():
            # A symbol may not be counted up to: one block, as `rows` says.
            yield slice(0, self.grid.query_len), slice(0, self.grid.key_len)
            return
        for start in range(0, max(self.grid.query_len, 1), self.rows):
            stop = min(start + self.rows, self.grid.query_len)
            low, high = 0, self.grid.key_len
            if self.mask is not None and not self.normalizer.coupled:
                low, high = self.mask.span(start, stop, self.grid)
            yield slice(start, stop), slice(low, high)

    def weigh(self, query: Tensor, key: Tensor, bias: Bias | None, block: Block) -> Tensor:
        """The weights of a block, from tensors already cut to it. *Shape:* `(..., heads, rows, columns)`."""
        scores = self.score.compare(query, key)
        if bias is not None:
            scores = scores + bias.block(block.rows, block.columns, self.grid).to(scores.dtype)
        if self.mask is not None:
            shown = self.mask.block(block.rows, block.columns, self.grid)
            scores = scores.masked_fill(~shown, -torch.inf)
        if key.shape[-2] == 0:
            return scores
        if self.mask is None and bias is None and self.score.finite:
            return self.normalizer.weigh_block(scores, block)
        return self.normalizer.weights(scores, block)

    def chosen_weights(self, query: Tensor, key: Tensor, rows: Tensor | slice) -> Iterator[Tensor]:
        """The weights of the chosen rows, as many at a time as a block has."""
        keys, everything = self.grid.key_len, slice(0, self.grid.key_len)
        if isinstance(rows, slice) and rows == slice(None):
            for some, columns in self.blocks():
                bias = None if self.bias is None else self.bias.cut(some, columns)
                block = Block.of(some, columns, self.grid)
                weights = self.weigh(query[..., some, :], key[..., columns, :], bias, block)
                after = keys - columns.stop
                yield (
                    torch.nn.functional.pad(weights, (columns.start, after))
                    if self.mask is not None
                    else weights
                )
            return
        for chosen in torch.arange(self.grid.query_len, device=query.device)[rows].split(max(self.rows, 1)):
            bias = None if self.bias is None else self.bias.cut(chosen, everything)
            yield self.weigh(query[..., chosen, :], key, bias, Block.of(chosen, everything, self.grid))

    def coupled_weights(self, query: Tensor, key: Tensor, rows: Tensor | slice) -> Iterator[Tensor]:
        """The weights of the chosen rows, where all before them must be computed, too."""
        chosen = torch.arange(self.grid.query_len, device=query.device)[rows]
        plan: Plan = self
        places, kept = [], []
        for block, columns in self.blocks():
            bias = None if self.bias is None else self.bias.cut(block, columns)
            weights = plan.weigh(query[..., block, :], key, bias, Block.of(block, columns, self.grid))
            if isinstance(rows, slice) and rows == slice(None):
                yield weights
            else:
                inside = ((chosen >= block.start) & (chosen < block.stop)).nonzero().squeeze(-1)
                places.append(inside)
                kept.append(weights[..., chosen[inside] - block.start, :])
            if (carry := self.handed_on(weights)) is not None:
                plan = dataclasses.replace(self, normalizer=self.normalizer.after(carry))
        if places:
            yield torch.cat(kept, dim=-2)[..., torch.cat(places).argsort(), :]

    def block(
        self, tensors: Sequence[Tensor], rows: slice, columns: slice, carry: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Output and weights of a block, from tensors already cut to its rows and columns; `carry` is the last row of
        weights of the block before, where the normaliser couples them."""
        query, key, value, *rest = tensors
        bias = None if self.bias is None else self.bias.cut(rows, columns)
        found: list[Any] = []
        for part in (self.score, self.normalizer, bias):
            count = 0 if part is None else len(tensors_of(part))
            found.append(with_tensors(part, rest[:count]) if part is not None and count else part)
            rest = rest[count:]
        score, normalizer, bias = found
        if carry is not None:
            normalizer = normalizer.after(carry)
        plan = dataclasses.replace(self, score=score, normalizer=normalizer)
        block = Block.of(rows, columns, self.grid, self.seed)
        weights = plan.weigh(query, key, bias, block)
        kept = weights if self.normalizer.through else weights.detach() + 0 * weights
        if self.dropout:
            noise = block.uniform(weights, stream=1)
            kept = kept * ((noise >= self.dropout) / (1 - self.dropout)).to(weights.dtype)
        return kept @ value, weights

    def handed_on(self, weights: Tensor) -> Tensor | None:
        """What the next block must know of these weights: where the normaliser couples, their last row."""
        return weights[..., -1, :] if self.normalizer.coupled and weights.shape[-2] else None

    def cut(self, tensors: Sequence[Tensor], rows: slice, columns: slice) -> list[Tensor]:
        """The part of each tensor that a block needs, as views."""
        query, key, value, *rest = tensors
        if self.bias is not None:
            own = len(rest) - len(tensors_of(self.bias))
            rest[own:] = tensors_of(with_tensors(self.bias, rest[own:]).cut(rows, columns))
        return [query[..., rows, :], key[..., columns, :], value[..., columns, :], *rest]

    def filled(self, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """What `all_rows` returns, where nobody differentiates, and what each block handed on to the next: every block
        is written into its place at once.

        Small results kept between large temporaries would leave the allocator with holes of every size.
        """
        query, value = tensors[0], tensors[2]
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        weights = (
            query.new_zeros(*query.shape[:-1], self.grid.key_len)
            if self.return_weights
            else query.new_empty(0)
        )
        carry, carries = None, []
        for rows, columns in self.blocks():
            inputs = self.cut(tensors, rows, columns)
            output[..., rows, :], block = self.block(inputs, rows, columns, carry)
            if self.return_weights:
                weights[..., rows, columns] = block
            carry = self.handed_on(block)
            carries += [] if carry is None else [carry.clone()]
        return output, weights, carries[:-1]

    def all_rows(self, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Every block, one after the other. Weights are an empty tensor when nobody wants them."""
        outputs, weights, carry = [], [], None
        for rows, columns in self.blocks():
            output, weight = self.block(self.cut(tensors, rows, columns), rows, columns, carry)
            outputs.append(output)
            if self.return_weights:
                after = self.grid.key_len - columns.stop
                weights.append(torch.nn.functional.pad(weight, (columns.start, after)))
            carry = self.handed_on(weight)
        output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-2)
        if not self.return_weights:
            return output, output.new_empty(0)
        return output, weights[0] if len(weights) == 1 else torch.cat(weights, dim=-2)

    def written_out(self, tensors: Sequence[Tensor], differentiated: bool) -> tuple[Tensor, Tensor]:
        """What `all_rows` returns, for a compiler: a few blocks of one size, each recomputed in the backward pass.

        The number of blocks is a power of two, so that the lengths may change without another compilation until the
        blocks would be twice as large. An exported program has one block, to be right for every length.
        """
        length, number = self.grid.query_len, 1
        if not torch.compiler.is_exporting() and not self.normalizer.coupled:
            while number < COMPILED_BLOCKS and length * self.bytes_a_row > number * COMPILED_BLOCK_BYTES:
                number *= 2
        size = (length + number - 1) // number
        columns = slice(0, self.grid.key_len)
        outputs, weights = [], []
        for part in (self.score, self.normalizer, *(() if self.bias is None else (self.bias,))):
            _meet(part)
        for i in range(number):
            rows = slice(i * size, (i + 1) * size if i + 1 < number else length)
            inputs = self.cut(tensors, rows, columns)
            if differentiated and number > 1:
                output, weight = checkpoint(self.block, inputs, rows, columns, use_reentrant=False)
            else:
                output, weight = self.block(inputs, rows, columns)
            outputs.append(output)
            weights.append(weight)
        if number == 1:
            return outputs[0], weights[0]
        output = torch.cat(outputs, dim=-2)
        return output, torch.cat(weights, dim=-2) if self.return_weights else output.new_empty(0)


class _Recomputed(torch.autograd.Function):
    """All blocks without keeping any; the backward pass computes each again."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        output, weights, carries = plan.filled(tensors)
        ctx.plan, ctx.count = plan, len(tensors)
        ctx.save_for_backward(*tensors, *carries)
        return output, weights

    @staticmethod
    def backward(ctx: Any, *grad_ends: Tensor) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[1:]) if needed]
        tensors, carries = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        with unaltered(grad_ends[0].device):
            if torch.is_grad_enabled() or transforming(*grad_ends):
                found = _kept(plan, tensors, grad_ends, wanted)
            else:
                found = _again(plan, tensors, carries, grad_ends, wanted)
        return (None, *(found.get(i) for i in range(ctx.count)))


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
    plan: Plan,
    tensors: Sequence[Tensor],
    carries: Sequence[Tensor],
    grad_ends: Sequence[Tensor],
    wanted: list[int],
) -> dict[int, Tensor | None]:
    """The gradients by computing one block after the other again, the last first: it may owe one to those before."""
    tensors = [tensor.detach() for tensor in tensors]
    sums = [
        torch.zeros_like(tensor, memory_format=torch.contiguous_format) if i in wanted else tensor
        for i, tensor in enumerate(tensors)
    ]
    owed = None
    for number, (rows, columns) in reversed(list(enumerate(plan.blocks()))):
        inputs = [
            t.detach().requires_grad_(i in wanted) for i, t in enumerate(plan.cut(tensors, rows, columns))
        ]
        carry = carries[number - 1].detach().requires_grad_() if carries and number else None
        with torch.enable_grad():
            ends = plan.block(inputs, rows, columns, carry)
        weights = grad_ends[1][..., rows, columns] if plan.return_weights else None
        if owed is not None:
            last = torch.zeros_like(ends[1])
            last[..., -1, :] = owed
            weights = last if weights is None else weights + last
        leaves = [inputs[i] for i in wanted] + ([] if carry is None else [carry])
        found = list(_gradients(ends, (grad_ends[0][..., rows, :], weights), leaves, create_graph=False))
        owed = None if carry is None else found.pop()
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


def in_compute_dtype(call: AttentionCall) -> AttentionCall:
    """The call with all its tensors, those of its parts too, in the precision in which it is computed."""

    def cast(part: Any) -> Any:
        return None if part is None else with_tensors(part, map(compute_dtype, tensors_of(part)))

    return dataclasses.replace(
        call,
        query=compute_dtype(call.query),
        key=compute_dtype(call.key),
        value=compute_dtype(call.value),
        score=cast(call.score),
        normalizer=cast(call.normalizer),
        bias=cast(call.bias),
    )


def compute_dtype(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _rows(length: int, bytes_a_row: int) -> int:
    """How many queries a block has: as many as `BLOCK_BYTES` hold, at least one; for a compiler all."""
    if torch.compiler.is_compiling():
        return max(length, 1)
    return min(max(BLOCK_BYTES // bytes_a_row, 1), max(length, 1))


def _meet(part: Part) -> None:
    """Read every number of a part: a compiler must have met them before it goes into a block to be recomputed."""
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if isinstance(value, Part):
            _meet(value)
