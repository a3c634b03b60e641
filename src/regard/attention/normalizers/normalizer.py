"""What a normaliser is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from regard.attention.grid import Block
from regard.attention.numbers import check_any_number, check_device
from regard.attention.parts import Part, spelt

__all__ = ["Normalizer", "check_per_head", "per_head"]


@dataclass(frozen=True, eq=False)
class Normalizer(Part):
    """A function from the scores of a query to non-negative weights of its keys.

    *Shape:* scores `(..., query_len, key_len)` -> weights of the same shape.
    """

    name: ClassVar[str]
    random: ClassVar[bool] = False
    """Whether the weights are drawn."""
    coupled: ClassVar[bool] = False
    """Whether the weights of a query depend on those of the queries before it."""
    through: ClassVar[bool] = True
    """Whether the gradient of the output reaches the scores."""

    @property
    def spelling(self) -> str:
        """The name under which the command line and config files know this value: `softmax`, `softmax-0.5`.

        The numbers follow up to the last that differs from its default.
        """
        return spelt(self, self.name)

    @property
    def by_row(self) -> bool:
        """Whether the weights of a query follow from its scores alone, whichever queries and keys these are."""
        return not self.coupled and type(self).weigh_block is Normalizer.weigh_block

    @property
    def kernel(self) -> tuple[str, float] | None:
        """The name and number under which fused kernels know this normaliser; None where they do not."""
        return None

    def learn(self, heads: int) -> Normalizer:
        """This normaliser with the first values of the tensors that a layer of `heads` heads learns."""
        return self

    def held(self, key_len: int) -> int:
        """How many numbers are held for one query and key while `weigh` works, where that depends on their number."""
        return 1

    def settled(self) -> Normalizer:
        """The normaliser to use where nothing is drawn or softened: after training."""
        return self

    def after(self, previous: Tensor) -> Normalizer:
        """This normaliser for the queries after one that had the weights `previous`: another only where it is coupled.

        *Shape:* previous `(..., heads, key_len)`.
        """
        return self

    def check(self, query: Tensor, key: Tensor) -> None:
        """Raise `ValueError` when this normaliser does not fit `query` and `key`."""

    def weigh(self, scores: Tensor) -> Tensor:
        """Turn scores into weights along the last axis.

        *Shape:* `(..., query_len, key_len)` -> the same. Hidden keys have score -inf and get weight 0; at least
        one key of each row is not hidden. `regard.attend` gives rows that may see nothing weights of zero.
        """
        raise NotImplementedError

    def weigh_block(self, scores: Tensor, block: Block) -> Tensor:
        """`weigh`, for those that also need to know which queries and keys these are, or random numbers."""
        return self.weigh(scores)

    def weights(self, scores: Tensor, block: Block) -> Tensor:
        """`weigh_block` where some rows may see nothing: those never reach it, and get weights of zero."""
        blind = (scores.detach() == -torch.inf).all(-1, keepdim=True)
        return self.weigh_block(scores.masked_fill(blind, 0.0), block).masked_fill(blind, 0.0)


def check_per_head(what: str, value: float | Tensor, query: Tensor) -> None:
    """Raise `ValueError` unless `value` is a number or a tensor with one number, or one a head of `query`."""
    if not isinstance(value, Tensor):
        check_any_number(what, value)
        return
    check_device(what, value, query)
    if value.ndim == 0:
        return
    heads = query.shape[-3] if query.ndim > 2 else None
    if value.ndim != 1 or value.shape[0] != heads:
        allowed = "one number ()" if heads is None else f"one number () or one a head ({heads},)"
        raise ValueError(f"{what} must be {allowed}, it is {tuple(value.shape)}")


def per_head(value: Tensor, scores: Tensor) -> Tensor:
    """A number, or one a head, beside scores. *Shape:* `()` or `(heads,)` -> `()` or `(heads, 1, 1)`."""
    return (value if value.ndim == 0 else value[:, None, None]).to(scores.dtype)
