"""Normalisers that read the keys from left to right and never go back."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from regard.attention.grid import Block
from regard.attention.normalizers.normalizer import Normalizer
from regard.attention.numbers import check_any_number

__all__ = ["Monotonic", "MonotonicHard"]


@dataclass(frozen=True, eq=False)
class Monotonic(Normalizer):
    r"""The expected alignment of a reader that goes through the keys once, and for each query stops at one or at none.

    $$p_{ij} = \sigma(s_{ij}), \qquad w_{ij} = p_{ij}\, q_{ij}, \qquad
    q_{ij} = (1 - p_{i,j-1})\, q_{i,j-1} + w_{i-1,j}$$

    $p$ is the chance of stopping at a key, $q$ that of coming to it; query $i$ sets out where query $i - 1$ stopped,
    the first query at key 0, or with `previous` where the alignment of an earlier call ended: decoding step by step,
    each with the last row of weights of the step before, gives the numbers of one call. `noise` is the deviation of
    Gaussian noise added to the scores, by which chances learn to be near 0 and 1; `regard.attend` draws it anew at each
    call, and none is drawn outside training (`settled`).

    A hidden key is passed over. The chance that a query stops at no key is lost for it and for those after it: its
    weights sum to less than one, theirs to no more. So a query that may see nothing has weights of zero, and so have
    those after it; NaN in the scores of a query makes those after it NaN.

    All products are of numbers between 0 and 1 and nothing is divided, so nothing overflows. Each query takes
    $\log_2$ of the key length steps. Raises `ValueError` for a `noise` below 0, and in `regard.attend` for a previous
    alignment of another shape.

    *Shape:* scores `(..., heads, query_len, key_len)` -> weights of the same shape; previous `(..., heads, key_len)`,
    or of any shape that broadcasts to it.

    Example:
        >>> Monotonic().weigh(torch.zeros(2, 3))
        tensor([[0.5000, 0.2500, 0.1250],
                [0.2500, 0.2500, 0.1875]])

    Raffel et al. 2017, section 2.3, and 2.5 for the noise; the offset of 2.4, by which scores start below zero, is left
    to the score function or a bias. Their parallel form divides by running products, which underflow, and
    clips them. TensorFlow Addons' `monotonic_attention` returns one step.
    """

    noise: float = 0.0
    _: KW_ONLY
    previous: Tensor | None = None
    name: ClassVar[str] = "monotonic"
    coupled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_any_number("the noise of monotonic", self.noise)
        if not 0.0 <= self.noise < float("inf"):
            raise ValueError(f"the noise of monotonic must be a number of at least 0, it is {self.noise!r}")

    @property
    def random(self) -> bool:  # type: ignore[override]
        return self.noise > 0

    @property
    def fixed(self) -> frozenset[str]:
        return frozenset({"previous"})

    def held(self, key_len: int) -> int:
        return max(2 * key_len.bit_length(), 1)

    def settled(self) -> Normalizer:
        """The reader itself, which stops at the first key whose chance is above one half."""
        return MonotonicHard(previous=self.previous)

    def after(self, previous: Tensor) -> Normalizer:
        return replace(self, previous=previous)

    def check(self, query: Tensor, key: Tensor) -> None:
        _check_previous(self.previous, query, key)

    def weigh(self, scores: Tensor) -> Tensor:
        return _expected(torch.sigmoid(scores), torch.sigmoid(-scores), self.previous)

    def weigh_block(self, scores: Tensor, block: Block) -> Tensor:
        if not self.noise:
            return self.weigh(scores)
        uniform = block.uniform(scores)
        drawn = torch.special.ndtri(uniform.clamp(min=torch.finfo(uniform.dtype).tiny))
        return self.weigh(scores + self.noise * drawn.to(scores.dtype))

    def weights(self, scores: Tensor, block: Block) -> Tensor:
        # Hidden keys are passed over, so a row that may see nothing needs no protection.
        return self.weigh_block(scores, block)


@dataclass(frozen=True, eq=False)
class MonotonicHard(Normalizer):
    r"""A reader that goes through the keys once, and for each query stops at the first key whose score is above zero.

    $$w_{ij} = [j = t_i], \qquad t_i = \min \{ j \ge t_{i-1} : s_{ij} > 0 \}$$

    The first query sets out at key 0, or with `previous` where an earlier call stopped. A query that finds no such key
    has weights of zero, and so have those after it: the reader is at the end. No gradient reaches the scores; train
    with `Monotonic`, of which this is the limit when every chance is 0 or 1. NaN in the scores of a query makes those
    after it NaN. Raises `ValueError` in `regard.attend` for a previous alignment of another shape.

    *Shape:* scores `(..., heads, query_len, key_len)` -> weights of the same shape; previous `(..., heads, key_len)`,
    or of any shape that broadcasts to it.

    Example:
        >>> MonotonicHard().weigh(torch.tensor([[-1.0, 2.0, 3.0], [5.0, -1.0, 1.0]]))
        tensor([[0., 1., 0.],
                [0., 0., 1.]])

    Raffel et al. 2017, section 2.2 and algorithm 1, whose output is zero, too, where no key is chosen. TensorFlow
    Addons' `monotonic_attention(mode="hard")` takes the chances, already 0 or 1, and returns one step.
    """

    previous: Tensor | None = None
    name: ClassVar[str] = "monotonic_hard"
    coupled: ClassVar[bool] = True

    @property
    def fixed(self) -> frozenset[str]:
        return frozenset({"previous"})

    def held(self, key_len: int) -> int:
        return max(2 * key_len.bit_length(), 1)

    def after(self, previous: Tensor) -> Normalizer:
        return replace(self, previous=previous)

    def check(self, query: Tensor, key: Tensor) -> None:
        _check_previous(self.previous, query, key)

    def weigh(self, scores: Tensor) -> Tensor:
        stops = (scores.detach() > 0).to(scores.dtype).masked_fill(scores.isnan(), torch.nan)
        # Depends on the scores for autograd's sake, with a gradient of zero.
        stops = torch.where(torch.zeros_like(scores, dtype=torch.bool), scores, stops)
        return _expected(stops, 1 - stops, self.previous)

    def weights(self, scores: Tensor, block: Block) -> Tensor:
        return self.weigh_block(scores, block)


def _expected(stops: Tensor, goes: Tensor, previous: Tensor | None) -> Tensor:
    """The alignment, from the chances of stopping at each key and of going on.

    The recurrence along the keys is solved by doubling: after the step of size k each key has received what set out
    from the 2k keys up to it. What that multiplies by does not depend on the queries before, so it is computed for all
    at once. It is zero where the keys would begin before the first, which is why they may be rolled.
    """
    query_len, key_len = stops.shape[-2:]
    carry, size, levels = pad(goes[..., :-1], (1, 0)), 1, []
    while size < key_len:
        levels.append((size, carry.unbind(-2)))
        carry = carry * carry.roll(size, -1)
        size *= 2
    if previous is None:
        previous = (torch.arange(key_len, device=stops.device) == 0).to(stops.dtype)
    rows = []
    for i, stop in enumerate(stops.unbind(-2)):
        for size, carries in levels:
            previous = previous + carries[i] * previous.roll(size, -1)
        previous = stop * previous
        rows.append(previous)
    return torch.stack(rows, dim=-2) if query_len else stops


def _check_previous(previous: Tensor | None, query: Tensor, key: Tensor) -> None:
    if previous is None:
        return
    full = torch.Size((*query.shape[:-2], key.shape[-2]))
    try:
        fits = torch.broadcast_shapes(previous.shape, full) == full and previous.shape[-1:] == full[-1:]
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"the previous alignment must be broadcastable to (..., heads, key_len) = {tuple(full)}, "
            f"it is {tuple(previous.shape)}"
        )
