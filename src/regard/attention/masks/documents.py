"""Masks of several documents in one sequence, none of which may see another."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from regard.attention.grid import Grid
from regard.attention.masks.mask import Mask
from regard.attention.numbers import check_whole_tensor, readable

__all__ = ["Documents", "Segments", "documents", "segments"]


@dataclass(frozen=True, eq=False)
class Documents(Mask):
    """A query sees the keys of its own document, and of those what `mask` shows inside the document.

    *Shape:* offsets and key_offsets `(documents + 1,)`, the first place of each document and the whole length.
    """

    offsets: Tensor
    key_offsets: Tensor
    mask: Mask | None = None

    @cached_property
    def bounds(self) -> tuple[list[int], list[int]]:
        """The offsets of queries and keys as numbers."""
        return self.offsets.tolist(), self.key_offsets.tolist()

    def check(self, query: Tensor, key: Tensor) -> None:
        if len(self.offsets) != len(self.key_offsets):
            raise ValueError(
                f"offsets and key_offsets must be of as many documents: they have shapes "
                f"{tuple(self.offsets.shape)} and {tuple(self.key_offsets.shape)}"
            )
        if not readable(self.offsets, self.key_offsets):
            return
        lengths = query.shape[-2], key.shape[-2]
        for what, bounds, length in zip(("offsets", "key_offsets"), self.bounds, lengths, strict=True):
            if bounds[0] != 0 or bounds[-1] != length or bounds != sorted(bounds):
                shown = (
                    bounds if len(bounds) <= 8 else f"[{', '.join(map(str, bounds[:4]))}, ..., {bounds[-1]}]"
                )
                raise ValueError(
                    f"{what} must rise from 0 to the length of {'key' if what[0] == 'k' else 'query'}, {length}, "
                    f"they are {shown}"
                )

    def at(self, query: Tensor, key: Tensor, grid: Grid) -> Tensor:
        offsets, key_offsets = (t.to(grid.device, torch.int64) for t in (self.offsets, self.key_offsets))
        query_document = torch.searchsorted(offsets, query.contiguous(), right=True) - 1
        key_document = torch.searchsorted(key_offsets, key.contiguous(), right=True) - 1
        same = query_document == key_document
        if self.mask is None:
            return same
        # The lengths are those of each place's own document: the formula of a mask holds for tensors, too.
        query_len: Any = offsets.diff()[query_document]
        key_len: Any = key_offsets.diff()[key_document]
        inner = Grid(query_len, key_len, grid.ndim, grid.device)
        return same & self.mask.at(query - offsets[query_document], key - key_offsets[key_document], inner)

    def span(self, start: int, stop: int, grid: Grid) -> tuple[int, int]:
        if start >= stop or not readable(self.offsets, self.key_offsets):
            return 0, grid.key_len
        offsets, key_offsets = self.bounds
        first, last = bisect_right(offsets, start) - 1, bisect_right(offsets, stop - 1) - 1
        low, high = key_offsets[first], key_offsets[last + 1]
        if self.mask is not None:
            ends = start - offsets[first], min(stop, offsets[first + 1]) - offsets[first]
            seen = self.mask.span(*ends, self._inside(first, grid))
            starts = max(start, offsets[last]) - offsets[last], stop - offsets[last]
            low, high = (
                low + seen[0],
                key_offsets[last] + self.mask.span(*starts, self._inside(last, grid))[1],
            )
        return low, max(low, high)

    def _inside(self, document: int, grid: Grid) -> Grid:
        lengths = [bounds[document + 1] - bounds[document] for bounds in self.bounds]
        return Grid(lengths[0], lengths[1], grid.ndim, grid.device)

    def natural(self) -> tuple[int, int] | None:
        return self.bounds[0][-1], self.bounds[1][-1]


@dataclass(frozen=True, eq=False)
class Segments(Mask):
    """A query sees the keys of its own number. *Shape:* query `(batch, query_len)`, key `(batch, key_len)`."""

    query: Tensor
    key: Tensor

    def check(self, query: Tensor, key: Tensor) -> None:
        for what, numbers, places in (("query", self.query, query), ("key", self.key, key)):
            leading = tuple(places.shape[: numbers.ndim - 1])
            if numbers.ndim > places.ndim - 1 or tuple(numbers.shape) != (*leading, places.shape[-2]):
                raise ValueError(
                    f"numbers of the {what} segments must be (..., {what}_len), with leading axes of {what} "
                    f"{tuple(places.shape)}, they have shape {tuple(numbers.shape)}"
                )

    def at(self, query: Tensor, key: Tensor, grid: Grid) -> Tensor:
        axes = max(query.ndim, key.ndim)
        found = []
        for numbers, places in ((self.query, query), (self.key, key)):
            places = places.reshape(*(1,) * (axes - places.ndim), *places.shape)
            chosen = numbers.to(grid.device)[..., places]
            heads = self._heads(numbers, grid)
            found.append(chosen.reshape(*numbers.shape[:-1], *(1,) * heads, *places.shape))
        return found[0] == found[1]

    def shape(self, grid: Grid) -> tuple[int, ...]:
        leading = torch.broadcast_shapes(
            *((*t.shape[:-1], *(1,) * self._heads(t, grid)) for t in (self.query, self.key))
        )
        return (*leading, grid.query_len, grid.key_len)

    def natural(self) -> tuple[int, int] | None:
        return self.query.shape[-1], self.key.shape[-1]

    def _heads(self, numbers: Tensor, grid: Grid) -> int:
        """How many axes of query stand between the leading ones of `numbers` and the length."""
        return max(grid.ndim - 1 - numbers.ndim, 0) if numbers.ndim > 1 else 0


def documents(offsets: Tensor, key_offsets: Tensor | None = None, mask: Mask | None = None) -> Mask:
    """A mask under which a query sees the keys of its own document only, where several are packed into one sequence.

    `mask` says what a query sees inside its document: a causal or dilated mask, a window, prefix or function of places,
    or what `&`, `|` and `~` make of those. It is aligned at the end of each document, by the document's own lengths.

    *Shape:* offsets `(documents + 1,)`, whole numbers: the first place of each document, then the whole length; the
    same for the keys, where these are cut elsewhere (encoders' documents, caches). Raises `TypeError` or `ValueError`
    for other tensors and masks; `regard.attend` raises `ValueError` when they do not rise from 0 to the length.

    Example:
        >>> import torch
        >>> from regard.attention.masks import causal
        >>> print(documents(torch.tensor([0, 2, 5])))
        ■■···
        ■■···
        ··■■■
        ··■■■
        ··■■■
        >>> print(documents(torch.tensor([0, 2, 4]), torch.tensor([0, 2, 5]), mask=causal()))
        ■····
        ■■···
        ··■■·
        ··■■■

    It is a mask and nothing more: the places of rotary positions, biases and locations are those of the packed
    sequence (by distance alone, they are right where queries and keys are cut alike), and a normaliser that hands
    weights on from query to query raises `ValueError`. Jagged nested tensors are each sequence on its own in every
    respect.

    Krell et al. 2021, section 3.2. FlashAttention calls offsets `cu_seqlens_q` and `cu_seqlens_k`. On a GPU the values
    are read once for each mask: keep it for all layers.
    """
    key_offsets = offsets if key_offsets is None else key_offsets
    for what, tensor in (("offsets", offsets), ("key_offsets", key_offsets)):
        check_whole_tensor(what, tensor)
        if tensor.ndim != 1 or len(tensor) < 1:
            raise ValueError(f"{what} must be (documents + 1,), they have shape {tuple(tensor.shape)}")
    if mask is not None and not isinstance(mask, Mask):
        raise TypeError(f"mask inside documents must be a regard mask, it is {type(mask).__name__}")
    if mask is not None and not mask.formula:
        raise ValueError(
            "mask inside documents must be made of causal, window, dilated, prefix and function masks, "
            f"it is {type(mask).__name__}"
        )
    return Documents(offsets, key_offsets, mask)


def segments(query: Tensor, key: Tensor | None = None) -> Mask:
    """A mask under which a query sees the keys that have its own number, wherever they stand.

    *Shape:* whole numbers `(..., query_len)` and, where keys have others, `(..., key_len)`, with leading axes of query;
    the mask is `(batch, 1, query_len, key_len)` for `(batch, query_len)` where query has heads. Raises `TypeError` for
    other tensors; `regard.attend` raises `ValueError` when they do not fit.

    Example:
        >>> import torch
        >>> print(segments(torch.tensor([0, 0, 1, 1, 0])))
        ■■··■
        ■■··■
        ··■■·
        ··■■·
        ■■··■

    JAX calls them `segment_ids` in its flash attention. For documents one after the other, the mask `documents` knows
    which keys it need not compute.
    """
    key = query if key is None else key
    for what, tensor in (("query", query), ("key", key)):
        check_whole_tensor(f"numbers of the {what} segments", tensor)
        if tensor.ndim < 1:
            raise ValueError(f"numbers of the {what} segments must be (..., {what}_len), they are one number")
    return Segments(query, key)
