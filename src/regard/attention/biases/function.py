"""Biases that are anybody's formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from regard.attention.biases.bias import Bias
from regard.attention.grid import Grid
from regard.attention.picture import broadcastable

__all__ = ["Function", "function"]


@dataclass(frozen=True, eq=False)
class Function(Bias):
    """What a function of the places of query and key, aligned at the end, and of some tensors gives."""

    function: Callable[..., Tensor]
    tensors: tuple[Tensor, ...] = ()

    def check(self, query: Tensor, key: Tensor) -> None:
        if torch.compiler.is_compiling():
            return
        found = Function(self.function, tuple(t.detach() for t in self.tensors))._once(query.device)
        if found.requires_grad:
            raise ValueError(
                "tensors that the function of a bias learns must be given to it: "
                "regard.biases.function(function, *tensors)"
            )

        full = (*query.shape[:-1], key.shape[-2])
        shape = (*found.shape[:-2], *full[-2:])
        if not broadcastable(shape, full):
            raise ValueError(
                "the function of a bias must give what is broadcastable to (..., heads, query_len, key_len) = "
                f"{full}, it gives {shape}"
            )

    def at(self, query: Tensor, key: Tensor, grid: Grid) -> Tensor:
        found = self.function(query + (grid.key_len - grid.query_len), key, *self.tensors)
        if not isinstance(found, Tensor) or found.dtype == torch.bool:
            kind = found.dtype if isinstance(found, Tensor) else type(found).__name__
            raise TypeError(f"the function of a bias must give a tensor of numbers, it gives {kind}")
        return found

    def shape(self, grid: Grid) -> tuple[int, ...]:
        return (*self._once(grid.device).shape[:-2], grid.query_len, grid.key_len)

    def _once(self, device: torch.device) -> Tensor:
        """What the function gives for a single place."""
        place = torch.zeros(1, 1, dtype=torch.int64, device=device)
        return self.at(place, place[0], Grid(1, 1, 2, device))


def function(function: Callable[..., Tensor], *tensors: Tensor) -> Bias:
    """A bias from a function of places: `function(query, key, *tensors)` is added to the scores.

    Places are counted from the first key; those of queries are aligned at the end, as in a causal mask: the last query
    stands at the last key. The function is asked for any places at once, and computes with tensors alone. What it
    learns is given to it as `tensors`, which get their gradients on every path.

    *Shape:* function: whole numbers `(rows, 1)` and `(columns,)`, or any two that can be broadcast, and the tensors ->
    numbers broadcastable to `(..., heads, rows, columns)`. Raises `TypeError` when it gives something else;
    `regard.attend` raises `ValueError` when it learns a tensor that was not given.

    Example:
        >>> import torch
        >>> function(lambda query, key, slope: slope * (key - query), torch.tensor(0.5)).picture(2, 2)
        tensor([[ 0.0000,  0.5000],
                [-0.5000,  0.0000]])

    FlexAttention's `score_mod` is given the score itself, the batch and the head, counts queries from the first, and
    may capture tensors.
    """
    if not callable(function):
        raise TypeError(f"function of a bias must be a function, it is {type(function).__name__}")
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"tensors of a function must be tensors, one is {type(tensor).__name__}")
    return Function(function, tensors)
