"""One vector, or a few, from a whole sequence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.attention.mechanism import Mechanism
from regard.layers.checks import check_sequence, check_sizes
from regard.layers.memory import MemoryAttention

__all__ = ["AttentionPooling"]


class AttentionPooling(nn.Module):
    r"""A sequence summed up by learned queries, the seeds.

    $$o_i = \sum_j w_{ij} x_j, \qquad
    w_i = \mathrm{normalizer}_j\bigl(\mathrm{score}(W_q z_i, W_k x_j)\bigr)$$

    With one head each output is a weighted mean of the sequence itself; with several, each head has its own projection
    of it. Order does not matter, unless the mechanism has places. The queries of additive attention, $W_q z_i + b$, are
    then the bias of a layer of `size` units on each place, whose outputs $v$ weighs.

    *Shape:* sequence `(batch, length, size)`, lengths `(batch,)` -> `(batch, seeds, size)`.

    Raises `ValueError` for a mechanism that does not exist, for sizes below 1 and sizes that the heads cannot share
    evenly.

    Example:
        >>> import torch
        >>> pool = AttentionPooling(8)
        >>> output, weights = pool(torch.randn(2, 5, 8), torch.tensor([5, 3]), return_weights=True)
        >>> output.shape, weights.shape
        (torch.Size([2, 1, 8]), torch.Size([2, 1, 1, 5]))

    Yang et al. 2016, section 2.2, equations 5 to 7; Ilse et al. 2018, equation 8, for bags of instances, whose gate
    (equation 9) has no counterpart here; with several seeds and heads, and `mechanism="scaled_dot/softmax"`, the
    attention in Lee et al. 2019 (set transformer), section 3.2, without what stands around it. PyTorch Geometric's
    `AttentionalAggregation` gives each place a score by a network of its own and softmax; Keras has no such layer.
    """

    def __init__(
        self,
        size: int,
        heads: int = 1,
        mechanism: str | Mechanism = "additive/softmax",
        *,
        seeds: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(size=size, seeds=seeds)
        self.seeds = nn.Parameter(torch.empty(seeds, size))
        nn.init.xavier_uniform_(self.seeds)
        self.attention = MemoryAttention(mechanism, size, size, heads=heads, dropout=dropout)

    def forward(
        self, sequence: Tensor, lengths: Tensor, *, return_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Sum each sequence up, as far as its length goes; one of length zero gives zeros.

        *Shape:* sequence `(batch, length, size)`, lengths `(batch,)` of whole numbers -> `(batch, seeds, size)`, and
        weights `(batch, heads, seeds, length)` when asked for. Raises `TypeError` or `ValueError` for others.
        """
        check_sequence("sequence", sequence, self.attention.memory_size)
        memory = self.attention.prepare(sequence, lengths)
        return self.attention(self.seeds.expand(memory.batch, -1, -1), memory, return_weights=return_weights)
