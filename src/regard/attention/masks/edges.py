"""Masks of graphs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from regard.attention.grid import Grid
from regard.attention.masks.mask import Mask
from regard.attention.numbers import check_whole_tensor, readable

__all__ = ["Edges", "Lists", "by_key", "edges"]

STRIDE = 2**31
"""The number of an edge is its query times this, plus its key."""


class Lists(NamedTuple):
    """Edges listed by query and, where that is wanted, also by key.

    *Shape:* `starts`, int64, where the list of each query begins and that of the last ends, `(query_len + 1,)`; `keys`,
    int32, of all edges, `(edges,)`; `turns` `(key_len + 1,)` and `queries` `(edges,)` likewise by key; `order`, int32,
    the places of those among the edges listed by query, `(edges,)`.
    """

    starts: Tensor
    keys: Tensor
    turns: Tensor | None = None
    queries: Tensor | None = None
    order: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Edges(Mask):
    """A query sees the keys to which it has an edge. *Shape:* numbers, of the edges, `(edges,)`, rising."""

    numbers: Tensor

    @property
    def query(self) -> Tensor:
        """The place of each edge's query, in order. *Shape:* `(edges,)`."""
        return self.numbers // STRIDE

    @property
    def key(self) -> Tensor:
        """The place of each edge's key, in order among those of one query. *Shape:* `(edges,)`."""
        return self.numbers % STRIDE

    def places(self, index: Tensor) -> Tensor:
        """Where the edges of a list stand among those of the mask, which `regard.weights` keeps in this order.

        *Shape:* `(2, edges)`, as in `regard.masks.edges` -> `(edges,)`. All must be edges of the mask.
        """
        source, target = index.to(self.numbers.device, torch.int64)
        return torch.searchsorted(self.numbers, target * STRIDE + source)

    def lists(self, grid: Grid, *, also_by_key: bool) -> Lists:
        """The edges as lists, which are kept for the next call. *Shape:* as in `Lists`."""
        starts, keys = (t.to(grid.device) for t in self._by_query)
        whole = _longer(starts, grid.query_len)
        if not also_by_key:
            return Lists(whole, keys)
        turns, queries, order = (t.to(grid.device) for t in self._by_key)
        return Lists(whole, keys, _longer(turns, grid.key_len), queries, order)

    @cached_property
    def _by_query(self) -> tuple[Tensor, Tensor]:
        return _starts(self.numbers >> 31, self._lengths[0]), (self.numbers & (STRIDE - 1)).to(torch.int32)

    @cached_property
    def _by_key(self) -> tuple[Tensor, Tensor, Tensor]:
        return by_key(*self._by_query, self._lengths[1])

    def natural(self) -> tuple[int, int] | None:
        return self._lengths

    @cached_property
    def _lengths(self) -> tuple[int, int]:
        """The least lengths that have a place for every edge."""
        if not len(self.numbers):
            return 0, 0
        return int(self.query[-1]) + 1, int(self.key.max()) + 1

    def check(self, query: Tensor, key: Tensor) -> None:
        if not readable(self.numbers):
            return
        for what, least, length in zip(
            ("query", "key"), self._lengths, (query.shape[-2], key.shape[-2]), strict=True
        ):
            if least > length:
                raise ValueError(
                    f"edges must join places of {what}, which are 0 to {length - 1}: one has {least - 1}"
                )

    def at(self, query: Tensor, key: Tensor, grid: Grid) -> Tensor:
        wanted, numbers = query * STRIDE + key, self.numbers.to(grid.device)
        if not len(numbers):
            return torch.zeros_like(wanted, dtype=torch.bool)
        found = torch.searchsorted(numbers, wanted).clamp(max=len(numbers) - 1)
        return numbers[found] == wanted


def by_key(starts: Tensor, keys: Tensor, key_len: int) -> tuple[Tensor, Tensor, Tensor]:
    """`turns`, `queries` and `order` of `Lists` from its `starts` and `keys`."""
    order = torch.argsort(keys, stable=True)
    queries = torch.arange(len(starts) - 1, dtype=torch.int32, device=keys.device).repeat_interleave(
        starts.diff()
    )
    return _starts(keys, key_len), queries[order], order.to(torch.int32)


def _starts(places: Tensor, length: int) -> Tensor:
    """Where each place's numbers would begin, were the places in order. *Shape:* `(edges,)` -> `(length + 1,)`."""
    return pad(torch.bincount(places, minlength=length).cumsum(0), (1, 0))


def _longer(starts: Tensor, length: int) -> Tensor:
    """The same with empty lists behind, up to `length`."""
    more = length + 1 - len(starts)
    return torch.cat([starts, starts[-1:].expand(more)]) if more else starts


def edges(index: Tensor) -> Edges:
    """A mask of a graph: a query sees the keys from which an edge leads to it.

    An edge that is listed twice counts once. Several graphs are one graph, with places counted on.

    *Shape:* index `(2, edges)`, whole numbers: in row 0 the source of each edge, the key that is looked at; in row 1
    its target, the query that looks. Raises `TypeError` or `ValueError` for another tensor; `regard.attend` raises
    `ValueError` when query or key lacks a place.

    Example:
        >>> import torch
        >>> print(edges(torch.tensor([[0, 1, 2, 2], [1, 2, 0, 2]])))
        ··■
        ■··
        ·■■

    Veličković et al. 2018 (graph attention networks), section 2.1. The convention is that of PyTorch Geometric's
    `edge_index`; an adjacency matrix has source and target the other way round. Compiled code is given the mask, and
    does not make it.
    """
    check_whole_tensor("index of edges", index)
    if index.ndim != 2 or index.shape[0] != 2:
        raise ValueError(f"index of edges must be (2, edges), it has shape {tuple(index.shape)}")
    if readable(index) and index.numel() and not 0 <= int(index.min()) <= int(index.max()) < STRIDE:
        raise ValueError(
            f"index of edges must be places from 0, it goes from {int(index.min())} to {int(index.max())}"
        )
    source, target = index.to(torch.int64)
    return Edges(torch.unique(target * STRIDE + source))
