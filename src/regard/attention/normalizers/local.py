"""Softmax in a window around a place that the query chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from regard.attention.grid import Block, Grid
from regard.attention.normalizers.normalizer import Normalizer
from regard.attention.normalizers.softmax import Softmax
from regard.attention.numbers import check_number

__all__ = ["Local"]


@dataclass(frozen=True, eq=False)
class Local(Normalizer):
    r"""Softmax over the keys near a centre of each query, weighed down by a Gaussian around it.

    $$w_j = [\,|j - c| \le D\,] \; \frac{e^{s_j}}{\sum_{|k - c| \le D} e^{s_k}} \;
    \exp\Bigl(-\frac{(j - c)^2}{2 (D/2)^2}\Bigr)$$

    `center` $c$ is a real place among the keys, counted from 0; it learns through the Gaussian (`local-p`: a network
    predicts it from the query). Without `gaussian` only the window is left (`local-m`: the query's own place is its
    centre), and the weights sum to one. A query whose window holds no key that it may see gets weights of zero. Raises
    `ValueError` for a `width` $D$ that is not above 0, and in `regard.attend` for a center of another shape.

    *Shape:* scores `(..., heads, query_len, key_len)` -> weights of the same shape; center `(..., heads, query_len)`,
    or of any shape that broadcasts to it.

    Example:
        >>> local = Local(center=torch.tensor([0.0, 2.5]), width=2)
        >>> local.weigh(torch.zeros(2, 5))
        tensor([[0.3333, 0.2022, 0.0451, 0.0000, 0.0000],
                [0.0000, 0.0812, 0.2206, 0.2206, 0.0812]])

    Luong et al. 2015, section 3.2, equations 9 and 10, where the centre is $S \cdot \sigma(v^\top \tanh(W h))$ for $S$
    keys. A layer does not learn the center itself. PyTorch, Keras and x-transformers have no such attention.
    """

    center: Tensor
    width: float
    gaussian: bool = True
    name: ClassVar[str] = "local"

    def __post_init__(self) -> None:
        check_number("the width of local", self.width)
        if not isinstance(self.center, Tensor):
            raise TypeError(f"the center of local must be a tensor, it is {type(self.center).__name__}")

    @property
    def fixed(self) -> frozenset[str]:
        return frozenset({"center"})

    def check(self, query: Tensor, key: Tensor) -> None:
        full = query.shape[:-1]
        try:
            fits = torch.broadcast_shapes(self.center.shape, full) == full and self.center.ndim > 0
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(
                f"the center of local must be broadcastable to (..., heads, query_len) = {tuple(full)}, "
                f"it is {tuple(self.center.shape)}"
            )

    def weigh(self, scores: Tensor) -> Tensor:
        grid = Grid(scores.shape[-2], scores.shape[-1], scores.ndim, scores.device)
        return self.weigh_block(scores, Block.of(slice(0, grid.query_len), slice(0, grid.key_len), grid))

    def weigh_block(self, scores: Tensor, block: Block) -> Tensor:
        center = self.center if self.center.shape[-1] == 1 else self.center[..., block.rows]
        away = (block.keys - center.unsqueeze(-1)) / self.width
        weights = Softmax().weights(scores.masked_fill(away.detach().abs() > 1, -torch.inf), block)
        return weights * torch.exp(-2 * away.square()).to(scores.dtype) if self.gaussian else weights
