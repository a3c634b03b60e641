"""A bias against keys that are far away."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from regard.attention.biases.bias import Bias
from regard.attention.biases.distances import Distances, check_heads
from regard.attention.grid import Grid
from regard.attention.numbers import check_whole

__all__ = ["ALiBi", "alibi"]


@dataclass(frozen=True, eq=False)
class ALiBi(Distances):
    """Minus the distance, times each head's slope. *Shape:* slopes `(heads,)`, or `()` without an axis of heads.

    Without slopes it is what a layer starts from, which knows how many heads it has; they are not learned.
    """

    slopes: Tensor | None = None

    @property
    def fixed(self) -> frozenset[str]:
        return frozenset({"slopes"})

    def learn(self, heads: int) -> Bias:
        return self if self.slopes is not None else replace(self, slopes=_slopes(heads))

    def check(self, query: Tensor, key: Tensor) -> None:
        if self.slopes is None:
            raise ValueError("the bias alibi must know the number of heads: write regard.biases.alibi(heads)")
        check_heads("slopes of the bias alibi", self.slopes, (), query)

    def by(self, distance: Tensor) -> Tensor:
        assert self.slopes is not None
        return -self.slopes[(..., *(None,) * distance.ndim)] * distance.abs()

    def shape(self, grid: Grid) -> tuple[int, ...]:
        heads = () if self.slopes is None else self.slopes.shape
        return (*heads, grid.query_len, grid.key_len)


def alibi(heads: int | None = None) -> Bias:
    r"""A bias against keys that are far away, more so in some heads than in others; it needs no other positions.

    $$b_{ij} = -m_h \lvert i - j \rvert, \qquad m_h = 2^{-8h/H}, \quad h = 1 \dots H$$

    That is for $H$ a power of two. For another number of heads, the slopes of the largest power of two below it are
    followed by every second one of twice as many. Places are aligned at the end, as in a causal mask.

    *Shape:* `(heads, query_len, key_len)`. Without `heads` it is for layers, which fill them in. Raises `ValueError`
    unless they are a whole number of at least 1; `regard.attend` raises it when query has another number of heads.

    Example:
        >>> alibi(8).slopes
        tensor([0.5000, 0.2500, 0.1250, 0.0625, 0.0312, 0.0156, 0.0078, 0.0039])
        >>> print(alibi(2).picture(3, 3)[0])
        tensor([[-0.0000, -0.0625, -0.1250],
                [-0.0625, -0.0000, -0.0625],
                [-0.1250, -0.0625, -0.0000]])

    Press et al. 2022, section 3, who give it to causal attention alone; for both directions the same slopes serve, as
    in FlashAttention's `alibi_slopes`. Transformers' BLOOM adds slopes times the key's place, which softmax cannot tell
    from this as long as all keys come before the query.
    """
    return ALiBi(None if heads is None else _slopes(heads))


def _slopes(heads: int) -> Tensor:
    check_whole("heads of the bias alibi", heads, 1)
    below = 2 ** int(math.log2(heads))
    slopes = [2.0 ** (-8 * h / below) for h in range(1, below + 1)]
    slopes += [2.0 ** (-4 * h / below) for h in range(1, 2 * (heads - below), 2)]
    return torch.tensor(slopes)
