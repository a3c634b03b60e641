"""Masks that are anybody's formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from regard.attention.grid import Grid
from regard.attention.masks.mask import Mask
from regard.attention.picture import broadcastable

__all__ = ["Function", "function"]


@dataclass(frozen=True, eq=False)
class Function(Mask):
    """A query sees the keys for which a function of their two places is True, aligned at the end."""

    function: Callable[[Tensor, Tensor], Tensor]

    @property
    def formula(self) -> bool:
        return True

    def check(self, query: Tensor, key: Tensor) -> None:
        full = (*query.shape[:-1], key.shape[-2])
        found = self.shape(Grid(full[-2], full[-1], query.ndim, query.device))
        if not broadcastable(found, full):
            raise ValueError(
                "the function of a mask must give what is broadcastable to (..., heads, query_len, key_len) = "
                f"{full}, it gives {found}"
            )

    def at(self, query: Tensor, key: Tensor, grid: Grid) -> Tensor:
        shown = self.function(query + (grid.key_len - grid.query_len), key)
        if not isinstance(shown, Tensor) or shown.dtype != torch.bool:
            kind = shown.dtype if isinstance(shown, Tensor) else type(shown).__name__
            raise TypeError(f"the function of a mask must give a boolean tensor, it gives {kind}")
        return shown

    def shape(self, grid: Grid) -> tuple[int, ...]:
        place = torch.zeros(1, 1, dtype=torch.int64, device=grid.device)
        return (*self.at(place, place[0], grid).shape[:-2], grid.query_len, grid.key_len)


def function(function: Callable[[Tensor, Tensor], Tensor]) -> Mask:
    """A mask from a function of places: `function(query, key)` is True where a query may look.

    Places are counted from the first key; those of queries are aligned at the end, as in a causal mask: the last query
    stands at the last key. The function is asked for any places at once, and computes with tensors alone.

    *Shape:* function: whole numbers `(rows, 1)` and `(columns,)`, or any two that can be broadcast -> boolean,
    broadcastable to `(..., heads, rows, columns)`. Raises `TypeError` when it gives something else.

    Example:
        >>> print(function(lambda query, key: (key <= query) & (key % 2 == 0)))
        ■·····
        ■·····
        ■·■···
        ■·■···
        ■·■·■·
        ■·■·■·

    FlexAttention's `mask_mod` is also given the batch and head, and counts queries from the first.
    """
    if not callable(function):
        raise TypeError(f"function of a mask must be a function, it is {type(function).__name__}")
    return Function(function)
