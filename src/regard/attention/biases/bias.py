"""What a bias is, and how biases add up."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from regard.attention.grid import Block, Grid
from regard.attention.parts import Part
from regard.attention.picture import block_of, broadcastable, pairs_of

__all__ = ["Bias", "Dense", "Sum", "as_bias"]


@dataclass(frozen=True, eq=False)
class Bias(Part):
    """Numbers that are added to the scores; what is learned of them gets its gradient on every path.

    A bias can be asked for any block of rows and columns, so that no backend ever needs the whole picture. Biases add
    up with `+`, also with tensors broadcastable to `(..., heads, query_len, key_len)`.
    """

    def at(self, query: Tensor, key: Tensor, grid: Grid) -> Tensor:
        """What is added to the scores of the queries at some places for the keys at others.

        *Shape:* places among all queries and among all keys, whole numbers broadcastable to each other `(rows,
        columns)` -> broadcastable to `(..., heads, rows, columns)`.
        """
        raise NotImplementedError

    def block(self, rows: Tensor | slice, columns: slice, grid: Grid) -> Tensor:
        """The bias of some query rows and key columns, from a bias that was `cut` to them.

        *Shape:* broadcastable to `(..., heads, rows, columns)`.
        """
        block = Block.of(rows, columns, grid)
        return self.at(block.queries, block.keys, grid)

    def cut(self, rows: Tensor | slice, columns: slice) -> Bias:
        """This bias with those of its tensors that stand for the picture cut to some rows and columns, as views."""
        return self

    def shape(self, grid: Grid) -> tuple[int, ...]:
        """The shape of the whole bias written out."""
        return grid.query_len, grid.key_len

    def check(self, query: Tensor, key: Tensor) -> None:
        """Raise `ValueError` when this bias does not fit `query` and `key`."""

    def picture(self, query_len: int, key_len: int) -> Tensor:
        """The whole bias, for looking at. *Shape:* `(query_len, key_len)`, or with leading axes."""
        grid = Grid(query_len, key_len, 2, torch.device("cpu"))
        rows, columns = slice(0, query_len), slice(0, key_len)
        shown = self.cut(rows, columns).block(rows, columns, grid)
        return shown.expand(*shown.shape[:-2], query_len, key_len)

    def learn(self, heads: int) -> Bias:
        """This bias with the first values of the tensors that a layer of `heads` heads keeps."""
        return self

    def __add__(self, other: Bias | Tensor) -> Bias:
        return Sum(self, as_bias(other))

    def __radd__(self, other: Tensor) -> Bias:
        return Sum(as_bias(other), self)


@dataclass(frozen=True, eq=False)
class Dense(Bias):
    """A tensor. *Shape:* broadcastable to `(..., heads, query_len, key_len)`."""

    tensor: Tensor

    def check(self, query: Tensor, key: Tensor) -> None:
        bias = self.tensor
        if bias.device != query.device:
            raise ValueError(f"bias must be on the device of query, {query.device}, it is on {bias.device}")
        full = (*query.shape[:-1], key.shape[-2])
        if not broadcastable(tuple(bias.shape), full):
            raise ValueError(
                f"bias must be broadcastable to (..., heads, query_len, key_len) = {full}, "
                f"it has shape {tuple(bias.shape)}"
            )

    def at(self, query: Tensor, key: Tensor, grid: Grid) -> Tensor:
        return pairs_of(self.tensor, query, key)

    def block(self, rows: Tensor | slice, columns: slice, grid: Grid) -> Tensor:
        return self.tensor

    def cut(self, rows: Tensor | slice, columns: slice) -> Bias:
        return Dense(block_of(self.tensor, rows, columns))

    def shape(self, grid: Grid) -> tuple[int, ...]:
        return (*(1,) * (2 - self.tensor.ndim), *self.tensor.shape)


@dataclass(frozen=True, eq=False)
class Sum(Bias):
    """Two biases, both added."""

    first: Bias
    second: Bias

    def at(self, query: Tensor, key: Tensor, grid: Grid) -> Tensor:
        return self.first.at(query, key, grid) + self.second.at(query, key, grid)

    def block(self, rows: Tensor | slice, columns: slice, grid: Grid) -> Tensor:
        return self.first.block(rows, columns, grid) + self.second.block(rows, columns, grid)

    def cut(self, rows: Tensor | slice, columns: slice) -> Bias:
        return Sum(self.first.cut(rows, columns), self.second.cut(rows, columns))

    def shape(self, grid: Grid) -> tuple[int, ...]:
        return tuple(torch.broadcast_shapes(self.first.shape(grid), self.second.shape(grid)))

    def check(self, query: Tensor, key: Tensor) -> None:
        self.first.check(query, key)
        self.second.check(query, key)

    def learn(self, heads: int) -> Bias:
        return replace(self, first=self.first.learn(heads), second=self.second.learn(heads))

    @property
    def fixed(self) -> frozenset[str]:
        parts = {"first": self.first, "second": self.second}
        return frozenset(f"{field}_{name}" for field, part in parts.items() for name in part.fixed)


def as_bias(bias: Bias | Tensor) -> Bias:
    """The bias itself, or the bias that a tensor of numbers is; `TypeError` for anything else."""
    if isinstance(bias, Bias):
        return bias
    if not isinstance(bias, Tensor):
        raise TypeError(
            "bias must be a regard bias, such as regard.biases.alibi(heads=8), or a tensor, "
            f"it is {type(bias).__name__}"
        )
    if not bias.is_floating_point():
        raise TypeError(f"bias must be of a floating-point type, it is {bias.dtype} (who may look is `mask`)")
    return Dense(bias)
