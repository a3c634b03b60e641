"""What a bias by distance is: it depends on how far a key stands from the query's own place, and on nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from regard.attention.biases.bias import Bias
from regard.attention.grid import Grid

__all__ = ["Distances", "check_heads"]


@dataclass(frozen=True, eq=False)
class Distances(Bias):
    """A bias that depends on the distance alone: the key's place minus the query's, aligned at the end."""

    def by(self, distance: Tensor) -> Tensor:
        """What is added at some distances.

        *Shape:* whole numbers, any -> the same, after the axis of heads.
        """
        raise NotImplementedError

    def at(self, query: Tensor, key: Tensor, grid: Grid) -> Tensor:
        return self.by(key - (query + (grid.key_len - grid.query_len)))

    def block(self, rows: Tensor | slice, columns: slice, grid: Grid) -> Tensor:
        if not isinstance(rows, slice):
            return super().block(rows, columns, grid)
        start, stop = rows.start or 0, grid.query_len if rows.stop is None else rows.stop
        low, high = columns.start or 0, grid.key_len if columns.stop is None else columns.stop
        height, width = stop - start, high - low
        # One number for each distance; every row is those, one place further to the right than in the row above. A
        # table's gradient is then summed along diagonals, where a gather would add single places one by one.
        first, size = low - (start + grid.key_len - grid.query_len) - height, height + width
        strip = self.by(torch.arange(first, first + size + 1, device=grid.device))
        leading = strip.shape[:-1]
        flat = strip[..., None, :].expand(*leading, height, size + 1).reshape(*leading, height * (size + 1))
        return flat[..., height:].reshape(*leading, height, size)[..., :width]


def check_heads(what: str, tensor: Tensor, one: tuple[int, ...], query: Tensor) -> None:
    """Raise `ValueError` unless `tensor` has the shape `one`, or that once a head of `query`, on its device."""
    if tensor.device != query.device:
        raise ValueError(f"{what} must be on the device of query, {query.device}, it is on {tensor.device}")
    allowed = [one] if query.ndim < 3 else [one, (query.shape[-3], *one)]
    if tuple(tensor.shape) not in allowed:
        raise ValueError(
            f"{what} must have the shape {' or '.join(map(str, allowed))}, it has {tuple(tensor.shape)}"
        )
