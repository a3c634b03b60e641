"""Documents packed into one sequence, taken out by their lengths and put back."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from regard.attention.masks import Documents

__all__ = ["Group", "groups", "in_place", "stacked", "unstacked"]


@dataclass(frozen=True)
class Group:
    """Documents of one length: where the queries and keys of each begin, and how many there are."""

    query_len: int
    key_len: int
    query_starts: list[int]
    key_starts: list[int]

    def rows(self, device: torch.device) -> Tensor:
        """*Shape:* `(documents, query_len)`."""
        starts = torch.tensor(self.query_starts, device=device)
        return starts[:, None] + torch.arange(self.query_len, device=device)

    def columns(self, device: torch.device) -> Tensor:
        """*Shape:* `(documents, key_len)`."""
        return torch.tensor(self.key_starts, device=device)[:, None] + torch.arange(
            self.key_len, device=device
        )


def groups(mask: Documents) -> list[Group]:
    """The documents that have any query, by their lengths."""
    query_bounds, key_bounds = mask.bounds
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i in range(len(query_bounds) - 1):
        lengths = query_bounds[i + 1] - query_bounds[i], key_bounds[i + 1] - key_bounds[i]
        if lengths[0]:
            found[lengths].append(i)
    return [
        Group(*lengths, [query_bounds[i] for i in documents], [key_bounds[i] for i in documents])
        for lengths, documents in found.items()
    ]


def stacked(tensor: Tensor, places: Tensor) -> Tensor:
    """*Shape:* `(..., heads, length, size)`, places `(documents, few)` -> `(documents, ..., heads, few, size)`."""
    if len(places) == 1:
        start = int(places[0, 0]) if places.numel() else 0
        return tensor[..., start : start + places.shape[1], :].unsqueeze(0)
    return tensor[..., places, :].movedim(-3, 0)


def unstacked(tensor: Tensor, ndim: int) -> Tensor:
    """*Shape:* `(documents, ..., heads, few, size)` -> `(..., heads, documents * few, size)`."""
    return tensor.movedim(0, -3).flatten(-3, -2)


def in_place(places: list[Tensor], parts: list[Tensor], whole: Tensor) -> Tensor:
    """The parts at their places among the queries."""
    return whole.index_copy(-2, torch.cat(places), torch.cat(parts, dim=-2)) if places else whole
