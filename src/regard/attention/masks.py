"""Masks: who may see whom. A mask is True where the query may look.

A mask is a small frozen value that can be asked for any block of rows and columns, so that no backend ever
needs the whole `(query_len, key_len)` picture. Masks combine with `&`, `|` and `~`.
To add one: write the class; list it in `MASKS` when it has a spelling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import EllipsisType

import torch
from torch import Tensor

__all__ = [
    "MASKS",
    "Causal",
    "Dense",
    "Grid",
    "Mask",
    "Padding",
    "Window",
    "causal",
    "dense",
    "padding",
    "window",
]


@dataclass(frozen=True, slots=True)
class Grid:
    """The size of the picture a mask is asked about: lengths, number of axes and device."""

    query_len: int
    key_len: int
    ndim: int
    device: torch.device


@dataclass(frozen=True, eq=False)
class Mask:
    """Who may see whom: True where the query may look.

    Masks combine with `&` (what both show), `|` (what either shows) and `~` (what it hides), also with boolean
    tensors broadcastable to `(..., heads, query_len, key_len)`.

    Example:
        >>> (causal() & ~window(0)).picture(3, 3).int().tolist()
        [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
        >>> (causal() | torch.tensor([True, False, True])).picture(3, 3).int().tolist()
        [[1, 0, 1], [1, 1, 1], [1, 1, 1]]

    PyTorch's `scaled_dot_product_attention` has the same polarity; `nn.MultiheadAttention` has the opposite.
    """

    def block(self, rows: Tensor | slice, columns: slice, grid: Grid) -> Tensor:
        """The mask for some query rows and key columns.

        *Shape:* boolean, broadcastable to `(..., heads, rows, columns)`.
        """
        raise NotImplementedError

    def span(self, start: int, stop: int, grid: Grid) -> tuple[int, int]:
        """A range of keys outside which the queries from `start` to `stop` (excluded) see nothing."""
        return 0, grid.key_len

    def shape(self, grid: Grid) -> tuple[int, ...]:
        """The shape of the whole mask written out; a row axis of 1 means that all queries see the same keys."""
        return grid.query_len, grid.key_len

    def hides(self, grid: Grid) -> bool:
        """Whether this mask may hide anything at all on `grid`."""
        return True

    def check(self, query: Tensor, key: Tensor) -> None:
        """Raise `ValueError` when this mask does not fit `query` and `key`."""

    def picture(self, query_len: int, key_len: int) -> Tensor:
        """The whole mask, for looking at. *Shape:* boolean `(query_len, key_len)`, or with leading axes."""
        grid = Grid(query_len, key_len, 2, torch.device("cpu"))
        shown = self.block(slice(0, query_len), slice(0, key_len), grid)
        return shown.expand(*shown.shape[:-2], query_len, key_len)

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


@dataclass(frozen=True, eq=False)
class Window(Mask):
    """A query sees from `left` keys before to `right` keys after its own place; None is no limit.

    Places are aligned at the end (bottom right): the last query stands at the last key, so that the mask is
    right with a key-value cache. FlashAttention >= 2.1 aligns so too; PyTorch's `is_causal` aligns top left.
    Raises `ValueError` for a limit that is not a whole number of at least 0.
    """

    left: int | None
    right: int | None

    def __post_init__(self) -> None:
        for name, value in (("left", self.left), ("right", self.right)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise ValueError(f"{name} of a window must be a whole number of at least 0, it is {value!r}")

    def block(self, rows: Tensor | slice, columns: slice, grid: Grid) -> Tensor:
        place = _positions(rows, grid.query_len, grid.device)[:, None] + (grid.key_len - grid.query_len)
        key = torch.arange(grid.key_len, device=grid.device)[columns]
        seen = torch.ones((), dtype=torch.bool, device=grid.device).expand(place.shape[0], key.shape[0])
        if self.right is not None:
            seen = key <= place + self.right
        if self.left is not None:
            seen = seen & (key >= place - self.left)
        return seen

    def span(self, start: int, stop: int, grid: Grid) -> tuple[int, int]:
        shift = grid.key_len - grid.query_len
        low = 0 if self.left is None else start + shift - self.left
        high = grid.key_len if self.right is None else stop + shift + self.right
        low = min(max(low, 0), grid.key_len)
        return low, min(max(high, low), grid.key_len)

    def hides(self, grid: Grid) -> bool:
        shift = grid.key_len - grid.query_len
        before = self.left is not None and grid.key_len - 1 > self.left
        after = self.right is not None and grid.key_len - 1 > shift + self.right
        return before or after


@dataclass(frozen=True, eq=False)
class Causal(Window):
    """A query sees the keys up to its own place, the last query all of them."""

    left: int | None = None
    right: int | None = 0


@dataclass(frozen=True, eq=False)
class Padding(Mask):
    """Each sequence of the batch sees its first `lengths` keys. *Shape:* lengths `(batch,)`, the leading axes."""

    lengths: Tensor

    def check(self, query: Tensor, key: Tensor) -> None:
        leading = tuple(key.shape[: self.lengths.ndim])
        if self.lengths.ndim > key.ndim - 2 or tuple(self.lengths.shape) != leading:
            raise ValueError(
                f"lengths of a padding mask must have the leading axes of key {tuple(key.shape)}, "
                f"they have shape {tuple(self.lengths.shape)}"
            )

    def block(self, rows: Tensor | slice, columns: slice, grid: Grid) -> Tensor:
        key = torch.arange(grid.key_len, device=grid.device)[columns]
        trailing = max(grid.ndim - self.lengths.ndim, 2)
        lengths = self.lengths.to(grid.device)
        return key < lengths.reshape(*lengths.shape, *(1,) * trailing)

    def shape(self, grid: Grid) -> tuple[int, ...]:
        trailing = max(grid.ndim - self.lengths.ndim, 2)
        return (*self.lengths.shape, *(1,) * (trailing - 1), grid.key_len)


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
        try:
            fits = torch.broadcast_shapes(self.tensor.shape, full) == torch.Size(full)
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(
                f"mask must be broadcastable to (..., heads, query_len, key_len) = {full}, "
                f"it has shape {tuple(self.tensor.shape)}"
            )

    def block(self, rows: Tensor | slice, columns: slice, grid: Grid) -> Tensor:
        tensor = self.tensor.to(grid.device)
        tensor = tensor.reshape(*(1,) * (2 - tensor.ndim), *tensor.shape)
        if tensor.shape[-2] != 1:
            tensor = tensor[..., rows, :]
        return tensor[..., columns] if tensor.shape[-1] != 1 else tensor

    def shape(self, grid: Grid) -> tuple[int, ...]:
        return (*(1,) * (2 - self.tensor.ndim), *self.tensor.shape)


@dataclass(frozen=True, eq=False)
class Both(Mask):
    """A query sees what both masks let it see."""

    first: Mask
    second: Mask

    def block(self, rows: Tensor | slice, columns: slice, grid: Grid) -> Tensor:
        return self.first.block(rows, columns, grid) & self.second.block(rows, columns, grid)

    def span(self, start: int, stop: int, grid: Grid) -> tuple[int, int]:
        one, two = self.first.span(start, stop, grid), self.second.span(start, stop, grid)
        low = max(one[0], two[0])
        return low, max(low, min(one[1], two[1]))

    def shape(self, grid: Grid) -> tuple[int, ...]:
        return tuple(torch.broadcast_shapes(self.first.shape(grid), self.second.shape(grid)))

    def hides(self, grid: Grid) -> bool:
        return self.first.hides(grid) or self.second.hides(grid)

    def check(self, query: Tensor, key: Tensor) -> None:
        self.first.check(query, key)
        self.second.check(query, key)


@dataclass(frozen=True, eq=False)
class Either(Mask):
    """A query sees what at least one of the masks lets it see."""

    first: Mask
    second: Mask

    def block(self, rows: Tensor | slice, columns: slice, grid: Grid) -> Tensor:
        return self.first.block(rows, columns, grid) | self.second.block(rows, columns, grid)

    def span(self, start: int, stop: int, grid: Grid) -> tuple[int, int]:
        one, two = self.first.span(start, stop, grid), self.second.span(start, stop, grid)
        return min(one[0], two[0]), max(one[1], two[1])

    def shape(self, grid: Grid) -> tuple[int, ...]:
        return tuple(torch.broadcast_shapes(self.first.shape(grid), self.second.shape(grid)))

    def hides(self, grid: Grid) -> bool:
        return self.first.hides(grid) and self.second.hides(grid)

    def check(self, query: Tensor, key: Tensor) -> None:
        self.first.check(query, key)
        self.second.check(query, key)


@dataclass(frozen=True, eq=False)
class Not(Mask):
    """A query sees what the mask hides."""

    mask: Mask

    def block(self, rows: Tensor | slice, columns: slice, grid: Grid) -> Tensor:
        return ~self.mask.block(rows, columns, grid)

    def shape(self, grid: Grid) -> tuple[int, ...]:
        return self.mask.shape(grid)

    def check(self, query: Tensor, key: Tensor) -> None:
        self.mask.check(query, key)


def causal() -> Mask:
    """A mask under which a query sees the keys up to its own place, aligned at the end.

    *Shape:* `(query_len, key_len)`, whatever they are.

    Example:
        >>> causal().picture(2, 3).int().tolist()
        [[1, 1, 0], [1, 1, 1]]

    Vaswani et al. 2017, section 3.2.3. PyTorch's `is_causal=True` aligns at the start: it shows the first query of the
    example one key.
    """
    return Causal()


def window(left: int | None, right: int | EllipsisType | None = ...) -> Mask:
    """A mask under which a query sees `left` keys before and `right` after its place (both sides alike when
    `right` is not given), aligned at the end; None is no limit.

    *Shape:* `(query_len, key_len)`, whatever they are. Raises `ValueError` for a limit that is not a whole number of at
    least 0.

    Example:
        >>> window(1, 0).picture(3, 3).int().tolist()
        [[1, 0, 0], [1, 1, 0], [0, 1, 1]]

    Beltagy et al. 2020 (Longformer), section 3.1. FlashAttention spells no limit -1 in `window_size=(left, right)`.
    """
    return Window(left, left if isinstance(right, EllipsisType) else right)


def padding(lengths: Tensor) -> Mask:
    """A mask that hides the keys past each sequence's length.

    *Shape:* lengths `(batch,)`, or more leading axes of key; the mask is `(batch, 1, 1, key_len)` where key has heads.
    Raises `TypeError` unless they are a tensor of whole numbers; `regard.attend` raises `ValueError` when they do not
    fit key.

    Example:
        >>> padding(torch.tensor([1, 3])).picture(1, 3).int().tolist()
        [[[1, 0, 0]], [[1, 1, 1]]]

    `nn.MultiheadAttention` wants the opposite written out: `key_padding_mask`, True at the padding.
    """
    if not isinstance(lengths, Tensor) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise TypeError(f"lengths must be a tensor of whole numbers, it is {_kind(lengths)}")
    return Padding(lengths)


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
            f"mask must be a regard mask, such as regard.masks.causal(), or a boolean tensor; it is {_kind(mask)}"
        )
    if mask.dtype != torch.bool:
        raise TypeError(
            f"mask must be boolean, True where the query may look; it is {mask.dtype} "
            "(numbers to be added to the scores are `bias`)"
        )
    return Dense(mask)


MASKS: dict[str, Callable[..., Mask]] = {"causal": causal, "window": window}
"""Masks that have a spelling, with the whole numbers that follow the name: `causal`, `window-64`, `window-64-0`."""


def _positions(rows: Tensor | slice, length: int, device: torch.device) -> Tensor:
    return torch.arange(length, device=device)[rows]


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
