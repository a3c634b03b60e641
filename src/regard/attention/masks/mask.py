"""What a mask is, and how masks combine."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from regard.attention.grid import Block, Grid
from regard.attention.picture import block_of, broadcastable, pairs_of

__all__ = ["Both", "Dense", "Either", "Mask", "Not", "as_mask", "dense"]


@dataclass(frozen=True, eq=False)
class Mask:
    """Who may see whom: True where the query may look.

    Masks combine with `&` (what both show), `|` (what either shows) and `~` (what it hides), also with boolean
    tensors broadcastable to `(..., heads, query_len, key_len)`.

    Example:
        >>> from regard import masks
        >>> (masks.causal() & ~masks.window(0)).picture(3, 3).int().tolist()
        [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
        >>> (masks.causal() | torch.tensor([True, False, True])).picture(3, 3).int().tolist()
        [[1, 0, 1], [1, 1, 1], [1, 1, 1]]
        >>> print(masks.causal() & masks.window(1))
        ■·····
        ■■····
        ·■■···
        ··■■··
        ···■■·
        ····■■

    PyTorch's `scaled_dot_product_attention` has the same polarity; `nn.MultiheadAttention` has the opposite.
    """

    def at(self, query: Tensor, key: Tensor, grid: Grid) -> Tensor:
        """Whether the queries at some places may look at the keys at others.

        *Shape:* places among all queries and among all keys, whole numbers broadcastable to each other `(rows,
        columns)` -> boolean, broadcastable to `(..., heads, rows, columns)`.
        """
        raise NotImplementedError

    def block(self, rows: Tensor | slice, columns: slice, grid: Grid) -> Tensor:
        """The mask for some query rows and key columns.

        *Shape:* boolean, broadcastable to `(..., heads, rows, columns)`.
        """
        block = Block.of(rows, columns, grid)
        return self.at(block.queries, block.keys, grid)

    def span(self, start: int, stop: int, grid: Grid) -> tuple[int, int]:
        """A range of keys outside which the queries from `start` to `stop` (excluded) see nothing."""
        return 0, grid.key_len

    def ranges(self, grid: Grid) -> Tensor | None:
        """The keys that each query sees, from the first to the one after the last; None where they are not always one
        after the other.

        *Shape:* int32, broadcastable to `(..., heads, query_len, 2)`.
        """
        return None

    def shape(self, grid: Grid) -> tuple[int, ...]:
        """The shape of the whole mask written out; a row axis of 1 means that all queries see the same keys."""
        return grid.query_len, grid.key_len

    def hides(self, grid: Grid) -> bool:
        """Whether this mask may hide anything at all on `grid`."""
        return True

    @property
    def formula(self) -> bool:
        """Whether `at` is a formula of places and lengths alone, which holds inside each of packed documents."""
        return False

    def natural(self) -> tuple[int, int] | None:
        """The query and key length that this mask is made for; None where it suits any."""
        return None

    def check(self, query: Tensor, key: Tensor) -> None:
        """Raise `ValueError` when this mask does not fit `query` and `key`."""

    def picture(self, query_len: int, key_len: int) -> Tensor:
        """The whole mask, for looking at. *Shape:* boolean `(query_len, key_len)`, or with leading axes."""
        grid = Grid(query_len, key_len, 2, torch.device("cpu"))
        shown = self.block(slice(0, query_len), slice(0, key_len), grid)
        return shown.expand(*shown.shape[:-2], query_len, key_len)

    def draw(self, query_len: int | None = None, key_len: int | None = None) -> str:
        """The mask as text, one line a query: ■ where it may look, · where it may not; leading axes one below the
        other. Lengths that are not given are those that the mask is made for, or 6."""
        rows, columns = self.natural() or (6, 6)
        query_len, key_len = rows if query_len is None else query_len, columns if key_len is None else key_len
        shown = self.picture(query_len, key_len).reshape(-1, query_len, key_len)
        pictures = ["\n".join("".join("·■"[seen] for seen in row) for row in one) for one in shown.int()]
        return "\n\n".join(pictures)

    def __str__(self) -> str:
        return self.draw()

    def __and__(self, other: Mask | Tensor) -> Mask:
        return Both(self, as_mask(other))

    def __or__(self, other: Mask | Tensor) -> Mask:
        return Either(self, as_mask(other))

    def __rand__(self, other: Tensor) -> Mask:
        return Both(as_mask(other), self)

    def __ror__(self, other: Tensor) -> Mask:
        return Either(as_mask(other), self)

    def __invert__(self) -> Mask:
        return Not(self)

    def __bool__(self) -> bool:
        raise TypeError(
            "a mask is neither true nor false: masks combine with &, | and ~, not with and, or and not"
        )


@dataclass(frozen=True, eq=False)
class Dense(Mask):
    """A boolean tensor. *Shape:* broadcastable to `(..., heads, query_len, key_len)`."""

    tensor: Tensor

    def check(self, query: Tensor, key: Tensor) -> None:
        if self.tensor.device != query.device:
            raise ValueError(
                f"mask must be on the device of query, {query.device}, it is on {self.tensor.device}"
            )
        full = (*query.shape[:-1], key.shape[-2])
        if not broadcastable(tuple(self.tensor.shape), full):
            raise ValueError(
                f"mask must be broadcastable to (..., heads, query_len, key_len) = {full}, "
                f"it has shape {tuple(self.tensor.shape)}"
            )

    def at(self, query: Tensor, key: Tensor, grid: Grid) -> Tensor:
        return pairs_of(self.tensor.to(grid.device), query, key)

    def block(self, rows: Tensor | slice, columns: slice, grid: Grid) -> Tensor:
        return block_of(self.tensor.to(grid.device), rows, columns)

    def shape(self, grid: Grid) -> tuple[int, ...]:
        return (*(1,) * (2 - self.tensor.ndim), *self.tensor.shape)

    def natural(self) -> tuple[int, int] | None:
        rows, columns = self.shape(Grid(0, 0, 2, self.tensor.device))[-2:]
        return (columns if rows == 1 else rows), (rows if columns == 1 else columns)


@dataclass(frozen=True, eq=False)
class Pair(Mask):
    """Two masks, of which one is made."""

    first: Mask
    second: Mask

    def shape(self, grid: Grid) -> tuple[int, ...]:
        return tuple(torch.broadcast_shapes(self.first.shape(grid), self.second.shape(grid)))

    @property
    def formula(self) -> bool:
        return self.first.formula and self.second.formula

    def natural(self) -> tuple[int, int] | None:
        return self.first.natural() or self.second.natural()

    def check(self, query: Tensor, key: Tensor) -> None:
        self.first.check(query, key)
        self.second.check(query, key)


@dataclass(frozen=True, eq=False)
class Both(Pair):
    """A query sees what both masks let it see."""

    def at(self, query: Tensor, key: Tensor, grid: Grid) -> Tensor:
        return self.first.at(query, key, grid) & self.second.at(query, key, grid)

    def block(self, rows: Tensor | slice, columns: slice, grid: Grid) -> Tensor:
        return self.first.block(rows, columns, grid) & self.second.block(rows, columns, grid)

    def span(self, start: int, stop: int, grid: Grid) -> tuple[int, int]:
        one, two = self.first.span(start, stop, grid), self.second.span(start, stop, grid)
        low = max(one[0], two[0])
        return low, max(low, min(one[1], two[1]))

    def ranges(self, grid: Grid) -> Tensor | None:
        one, two = self.first.ranges(grid), self.second.ranges(grid)
        if one is None or two is None:
            return None
        return ranges_between(
            torch.maximum(one[..., 0], two[..., 0]), torch.minimum(one[..., 1], two[..., 1]), grid
        )

    def hides(self, grid: Grid) -> bool:
        return self.first.hides(grid) or self.second.hides(grid)


@dataclass(frozen=True, eq=False)
class Either(Pair):
    """A query sees what at least one of the masks lets it see."""

    def at(self, query: Tensor, key: Tensor, grid: Grid) -> Tensor:
        return self.first.at(query, key, grid) | self.second.at(query, key, grid)

    def block(self, rows: Tensor | slice, columns: slice, grid: Grid) -> Tensor:
        return self.first.block(rows, columns, grid) | self.second.block(rows, columns, grid)

    def span(self, start: int, stop: int, grid: Grid) -> tuple[int, int]:
        spans = [self.first.span(start, stop, grid), self.second.span(start, stop, grid)]
        seen = [(low, high) for low, high in spans if low < high] or spans[:1]
        return min(low for low, _ in seen), max(high for _, high in seen)

    def hides(self, grid: Grid) -> bool:
        return self.first.hides(grid) and self.second.hides(grid)


@dataclass(frozen=True, eq=False)
class Not(Mask):
    """A query sees what the mask hides."""

    mask: Mask

    def at(self, query: Tensor, key: Tensor, grid: Grid) -> Tensor:
        return ~self.mask.at(query, key, grid)

    def block(self, rows: Tensor | slice, columns: slice, grid: Grid) -> Tensor:
        return ~self.mask.block(rows, columns, grid)

    def shape(self, grid: Grid) -> tuple[int, ...]:
        return self.mask.shape(grid)

    @property
    def formula(self) -> bool:
        return self.mask.formula

    def natural(self) -> tuple[int, int] | None:
        return self.mask.natural()

    def check(self, query: Tensor, key: Tensor) -> None:
        self.mask.check(query, key)


def ranges_between(low: Tensor, high: Tensor, grid: Grid) -> Tensor:
    """Ranges of keys from their bounds, which may lie beyond the keys.

    *Shape:* `(..., query_len)`, the same -> int32 `(..., query_len, 2)`.
    """
    return torch.stack(torch.broadcast_tensors(low, high), -1).clamp(0, grid.key_len).to(torch.int32)


def dense(tensor: Tensor) -> Mask:
    """A mask from a boolean tensor, True where the query may look.

    *Shape:* broadcastable to `(..., heads, query_len, key_len)`. Raises `TypeError` unless it is boolean;
    `regard.attend` raises `ValueError` when it does not fit. `regard.attend` takes the tensor itself just as well.

    Example:
        >>> dense(torch.eye(2, dtype=torch.bool)).picture(2, 2).int().tolist()
        [[1, 0], [0, 1]]
    """
    return as_mask(tensor)


def as_mask(mask: Mask | Tensor) -> Mask:
    """The mask itself, or the mask that a boolean tensor describes; `TypeError` for anything else."""
    if isinstance(mask, Mask):
        return mask
    if not isinstance(mask, Tensor):
        raise TypeError(
            "mask must be a regard mask, such as regard.masks.causal(), its name, or a boolean tensor; "
            f"it is {'a function, which is to be called' if callable(mask) else type(mask).__name__}"
        )
    if mask.dtype != torch.bool:
        raise TypeError(
            f"mask must be boolean, True where the query may look; it is {mask.dtype} "
            "(numbers to be added to the scores are `bias`)"
        )
    return Dense(mask)
