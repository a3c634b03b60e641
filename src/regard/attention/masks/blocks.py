"""Masks that are given block by block."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from regard.attention.grid import Block, Grid
from regard.attention.masks.mask import Mask
from regard.attention.numbers import check_whole, readable

__all__ = ["Blocks", "blocks"]


@dataclass(frozen=True, eq=False)
class Blocks(Mask):
    """A query sees the keys of the blocks that its own block sees.

    *Shape:* layout `(query_blocks, key_blocks)` or `(heads, query_blocks, key_blocks)`; size, of a block, `(rows,
    columns)`.
    """

    layout: Tensor
    size: tuple[int, int]

    @cached_property
    def reach(self) -> list[tuple[int, int]]:
        """For every block of queries, the range of key blocks outside which it sees nothing in any head."""
        layout = self.layout.reshape(-1, *self.layout.shape[-2:]).any(0).tolist()
        seen = [[j for j, shown in enumerate(row) if shown] for row in layout]
        return [(row[0], row[-1] + 1) if row else (0, 0) for row in seen]

    def check(self, query: Tensor, key: Tensor) -> None:
        heads = self.layout.shape[:-2]
        if heads and (query.ndim < 3 or heads[0] not in (1, query.shape[-3])):
            raise ValueError(
                f"layout must have one head, or as many as query {tuple(query.shape)}, "
                f"it has shape {tuple(self.layout.shape)}"
            )
        lengths = query.shape[-2], key.shape[-2]
        for what, count, size, length in zip(
            ("query", "key"), self.layout.shape[-2:], self.size, lengths, strict=True
        ):
            if count * size < length:
                raise ValueError(
                    f"layout must cover {what}, which has {length} places: it has {count} blocks of {size}"
                )

    def at(self, query: Tensor, key: Tensor, grid: Grid) -> Tensor:
        query, key = torch.broadcast_tensors(query // self.size[0], key // self.size[1])
        return self.layout.to(grid.device)[..., query, key]

    def block(self, rows: Tensor | slice, columns: slice, grid: Grid) -> Tensor:
        block = Block.of(rows, columns, grid)
        layout = self.layout.to(grid.device)[..., block.queries[:, 0] // self.size[0], :]
        return layout[..., block.keys // self.size[1]]

    def span(self, start: int, stop: int, grid: Grid) -> tuple[int, int]:
        if not readable(self.layout):
            return 0, grid.key_len
        seen = self.reach[start // self.size[0] : -(-stop // self.size[0])]
        seen = [one for one in seen if one[0] < one[1]] or [(0, 0)]
        low, high = min(one[0] for one in seen), max(one[1] for one in seen)
        return min(low * self.size[1], grid.key_len), min(high * self.size[1], grid.key_len)

    def shape(self, grid: Grid) -> tuple[int, ...]:
        return (*self.layout.shape[:-2], grid.query_len, grid.key_len)

    def natural(self) -> tuple[int, int] | None:
        return self.layout.shape[-2] * self.size[0], self.layout.shape[-1] * self.size[1]


def blocks(layout: Tensor, size: int | tuple[int, int]) -> Mask:
    """A mask that is given block by block: a query sees the keys of the blocks that its own block sees.

    `size` is how many places a block has: one number, or one for queries and one for keys. Blocks are counted from the
    start; the last one may be cut short.

    *Shape:* layout boolean `(query_blocks, key_blocks)` or `(heads, query_blocks, key_blocks)`. Raises `TypeError` or
    `ValueError` for another layout or size; `regard.attend` raises `ValueError` when it does not cover all places.

    Example:
        >>> import torch
        >>> print(blocks(torch.tensor([[True, False, False], [True, True, False]]), size=2))
        ■■····
        ■■····
        ■■■■··
        ■■■■··

    Child et al. 2019 (Sparse Transformer); Zaheer et al. 2020 (BigBird), section 2 and appendix D. FlexAttention
    derives its `BlockMask` from a function of places.
    """
    if not isinstance(layout, Tensor) or layout.dtype != torch.bool:
        kind = layout.dtype if isinstance(layout, Tensor) else type(layout).__name__
        raise TypeError(f"layout must be a boolean tensor, it is {kind}")
    if layout.ndim not in (2, 3):
        raise ValueError(
            "layout must be (query_blocks, key_blocks) or (heads, query_blocks, key_blocks), "
            f"it has shape {tuple(layout.shape)}"
        )
    both = size if isinstance(size, tuple) else (size, size)
    if len(both) != 2:
        raise ValueError(f"size of a block must be one number or two, it is {size!r}")
    for number in both:
        check_whole("size of a block", number, 1)
    return Blocks(layout, both)
