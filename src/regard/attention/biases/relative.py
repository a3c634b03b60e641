"""Learned biases: one number for every relative position."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from regard.attention.biases.bias import Bias
from regard.attention.biases.distances import Distances, check_heads
from regard.attention.grid import Grid
from regard.attention.numbers import check_whole

__all__ = ["T5", "Relative", "Relative2D", "Table", "relative", "relative_2d", "t5"]


@dataclass(frozen=True, eq=False)
class Table(Bias):
    """A bias that takes its numbers from a table. Without one it is what a layer starts from, with zeros.

    *Shape:* table `(heads, entries)`, or `(entries,)` for all heads.
    """

    table: Tensor | None = field(default=None, kw_only=True)

    @property
    def entries(self) -> int:
        """How many numbers the table has for one head."""
        raise NotImplementedError

    @property
    def filled(self) -> Tensor:
        """The table, where there is one."""
        if self.table is None:
            name = type(self).__name__.lower().replace("2d", "_2d")
            raise ValueError(
                f"the bias {name} must have a table: write regard.biases.{name}(heads, ...), or give it one"
            )
        return self.table

    def learn(self, heads: int) -> Bias:
        return self if self.table is not None else replace(self, table=torch.zeros(heads, self.entries))

    def check(self, query: Tensor, key: Tensor) -> None:
        check_heads(f"table of the bias {type(self).__name__}", self.filled, (self.entries,), query)

    def shape(self, grid: Grid) -> tuple[int, ...]:
        heads = () if self.table is None else self.table.shape[:-1]
        return (*heads, grid.query_len, grid.key_len)


@dataclass(frozen=True, eq=False)
class Relative(Table, Distances):
    """One number for each distance up to `distance`; those beyond share the last.

    *Shape:* table `(heads, 2 * distance + 1)`, from that many places before to as many after.
    """

    distance: int

    def __post_init__(self) -> None:
        check_whole("distance of the bias relative", self.distance)

    @property
    def entries(self) -> int:
        return 2 * self.distance + 1

    def by(self, distance: Tensor) -> Tensor:
        return self.filled[..., distance.clamp(-self.distance, self.distance) + self.distance]


@dataclass(frozen=True, eq=False)
class T5(Table, Distances):
    """One number for each bucket of distances, which are wider the further away.

    *Shape:* table `(heads, buckets)`.
    """

    buckets: int = 32
    distance: int = 128
    bidirectional: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        least = 4 if self.bidirectional else 2
        check_whole("buckets of the bias t5", self.buckets, least)
        if self.buckets % least:
            raise ValueError(f"buckets of the bias t5 must be a multiple of {least}, they are {self.buckets}")
        check_whole("distance of the bias t5", self.distance, self.buckets // least + 1)

    @property
    def entries(self) -> int:
        return self.buckets

    def bucket(self, distance: Tensor) -> Tensor:
        """The bucket of each distance, a key's place minus the query's. *Shape:* whole numbers, any -> the same."""
        count = self.buckets // 2 if self.bidirectional else self.buckets
        away = distance.abs() if self.bidirectional else (-distance).clamp(min=0)
        exact = count // 2
        growth = torch.log(away.clamp(min=1).float() / exact) / math.log(self.distance / exact)
        wide = (exact + (growth * (count - exact)).long()).clamp(max=count - 1)
        found = torch.where(away < exact, away, wide)
        return found + count * (distance > 0) if self.bidirectional else found

    def by(self, distance: Tensor) -> Tensor:
        return self.filled[..., self.bucket(distance)]


@dataclass(frozen=True, eq=False)
class Relative2D(Table):
    """One number for each offset of rows and columns between two pixels of an image, row after row.

    *Shape:* table `(heads, (2 * height - 1) * (2 * width - 1))`.
    """

    height: int
    width: int

    def __post_init__(self) -> None:
        check_whole("height of the bias relative_2d", self.height, 1)
        check_whole("width of the bias relative_2d", self.width, 1)

    @property
    def entries(self) -> int:
        return (2 * self.height - 1) * (2 * self.width - 1)

    def check(self, query: Tensor, key: Tensor) -> None:
        super().check(query, key)
        pixels = self.height * self.width
        for what, length in (("query", query.shape[-2]), ("key", key.shape[-2])):
            if length != pixels:
                raise ValueError(
                    f"{what} must have a place for each of the {self.height} x {self.width} = {pixels} pixels "
                    f"of the bias relative_2d, it has {length}"
                )

    def at(self, query: Tensor, key: Tensor, grid: Grid) -> Tensor:
        rows = query // self.width - key // self.width + self.height - 1
        columns = query % self.width - key % self.width + self.width - 1
        return self.filled[..., rows * (2 * self.width - 1) + columns]

    def block(self, rows: Tensor | slice, columns: slice, grid: Grid) -> Tensor:
        if not isinstance(rows, slice):
            return super().block(rows, columns, grid)
        start, stop = rows.start or 0, grid.query_len if rows.stop is None else rows.stop
        low, high = columns.start or 0, grid.key_len if columns.stop is None else columns.stop
        # For each offset of rows, all pairs of columns at once: one gather of those for a pair of image rows.
        table = self.filled.unflatten(-1, (2 * self.height - 1, 2 * self.width - 1))
        pairs = table.unfold(-1, self.width, 1).flip(-1)
        query_rows = torch.arange(start // self.width, -(-stop // self.width), device=grid.device)
        key_rows = torch.arange(low // self.width, -(-high // self.width), device=grid.device)
        found = pairs[..., query_rows[:, None] - key_rows + self.height - 1, :, :]
        found = found.transpose(-3, -2).flatten(-2).flatten(-3, -2)
        first, left = start // self.width * self.width, low // self.width * self.width
        return found[..., start - first : stop - first, low - left : high - left]


def relative(heads: int, distance: int) -> Bias:
    """A learned bias: one number for each head and each distance up to `distance`, places aligned at the end.

    *Shape:* `(heads, query_len, key_len)`; the table, which starts as zeros, `(heads, 2 * distance + 1)`, from that
    many places before the query's own to as many after; keys further away share the last number. Raises `ValueError`
    unless both are whole numbers.

    Example:
        >>> import torch
        >>> table = torch.tensor([[-1.0, 0.0, 3.0]])
        >>> Relative(1, table=table).picture(3, 3)
        tensor([[[ 0.,  3.,  3.],
                 [-1.,  0.,  3.],
                 [-1., -1.,  0.]]])

    Shaw et al. 2018, section 3.2, clip distances so, and learn a vector instead of a number for each; one number as in
    Raffel et al. 2020, section 2.1, and Liu et al. 2021 (Swin).
    """
    check_whole("heads of the bias relative", heads, 1)
    return Relative(distance).learn(heads)


def t5(heads: int, buckets: int = 32, distance: int = 128, bidirectional: bool = True) -> Bias:
    """A learned bias: one number for each head and each bucket of distances, places aligned at the end.

    Half of the buckets of a direction hold one distance each, the others ever more, up to `distance`, beyond which all
    are in the last. Without `bidirectional`, all keys after the query's place are in its own bucket.

    *Shape:* `(heads, query_len, key_len)`; the table, which starts as zeros, `(heads, buckets)`. Raises `ValueError`
    unless all are whole numbers, large enough.

    Example:
        >>> import torch
        >>> t5(8, buckets=8, distance=16).bucket(torch.tensor([-20, -4, -1, 0, 1, 4, 20]))
        tensor([3, 2, 1, 0, 5, 6, 7])

    Raffel et al. 2020, section 2.1; the buckets are those of Mesh TensorFlow and Transformers' T5, whose decoder is not
    `bidirectional`. T5 shares one table among all layers, and scores by the plain dot product.
    """
    check_whole("heads of the bias t5", heads, 1)
    return T5(buckets, distance, bidirectional=bidirectional).learn(heads)


def relative_2d(heads: int, height: int, width: int) -> Bias:
    """A learned bias for images of `height` x `width` pixels, row after row: one number for each head and each offset
    of rows and columns.

    *Shape:* `(heads, height * width, height * width)`; the table, which starts as zeros,
    `(heads, (2 * height - 1) * (2 * width - 1))`, by the query's row minus the key's, then by columns. Raises
    `ValueError` unless all are whole numbers of at least 1; `regard.attend` raises it for other lengths.

    Example:
        >>> relative_2d(heads=4, height=7, width=7).table.shape
        torch.Size([4, 169])

    Liu et al. 2021 (Swin), section 3.2; Swin's `relative_position_bias_table` is this table transposed.
    """
    check_whole("heads of the bias relative_2d", heads, 1)
    return Relative2D(height, width).learn(heads)
