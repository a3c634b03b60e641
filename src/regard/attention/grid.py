"""The picture of all queries against all keys, and the block of it that is computed at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Block", "Grid"]


@dataclass(frozen=True, slots=True)
class Grid:
    """The size of the picture of queries against keys: lengths, number of axes of the query tensor, and device."""

    query_len: int
    key_len: int
    ndim: int
    device: torch.device


@dataclass(frozen=True, slots=True)
class Block:
    """Some query rows and key columns of the picture, which are computed together.

    *Shape:* `chosen`, where the rows are not a range, `(rows,)` whole numbers.
    """

    chosen: Tensor | tuple[int, int]
    between: tuple[int, int]
    grid: Grid
    seed: int | None

    @classmethod
    def of(cls, rows: Tensor | slice, columns: slice, grid: Grid, seed: int | None = None) -> Block:
        """The block of these rows and columns. (A compiler would take slices that are kept for constants.)"""
        chosen = (rows.start, rows.stop) if isinstance(rows, slice) else rows
        return cls(chosen, (columns.start, columns.stop), grid, seed)

    @property
    def rows(self) -> Tensor | slice:
        """The query rows."""
        return slice(*self.chosen) if isinstance(self.chosen, tuple) else self.chosen

    @property
    def columns(self) -> slice:
        """The key columns."""
        return slice(*self.between)

    @property
    def queries(self) -> Tensor:
        """The places of the rows among all queries. *Shape:* `(rows, 1)`."""
        if isinstance(self.chosen, tuple):
            return torch.arange(*self.chosen, device=self.grid.device)[:, None]
        return self.chosen[:, None]

    @property
    def keys(self) -> Tensor:
        """The places of the columns among all keys. *Shape:* `(columns,)`."""
        return torch.arange(*self.between, device=self.grid.device)

    def uniform(self, like: Tensor, stream: int = 0) -> Tensor:
        """Random numbers from 0 to 1 (excluded), the same each time this block is computed; `stream` tells apart
        those of different purpose.

        *Shape:* that of `like`. A block without a seed draws from PyTorch's own generator: under a function transform
        or a compiler, which see to it that numbers can be drawn again.
        """
        dtype = like.dtype if like.dtype == torch.float64 else torch.float32
        if self.seed is None:
            return torch.rand_like(like, dtype=dtype)
        start = self.chosen[0] if isinstance(self.chosen, tuple) else 0
        generator = torch.Generator(like.device).manual_seed((self.seed + start + 2**40 * stream) % 2**63)
        return torch.rand(like.shape, generator=generator, device=like.device, dtype=dtype)
