"""Attention of a decoder that reads its source once, from left to right."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from regard.attention.normalizers import Monotonic, MonotonicHard
from regard.attention.operator import attend
from regard.attention.scores import Score
from regard.layers.checks import check_batch, check_sequence
from regard.layers.learned import learned_score
from regard.layers.memory import Memory, Projections

__all__ = ["MonotonicAttention"]


class MonotonicAttention(Projections):
    r"""A reader that goes on through its memory, and for each query stops at a place or reads to the end.

    $$c_i = \sum_j w_{ij} h_j, \qquad p_{ij} = \sigma(\mathrm{score}(W_q s_i, W_k h_j) + r)$$

    In training $w$ is the expected alignment of a reader that stops with probability $p_{ij}$; `noise` is the
    deviation of Gaussian noise on the scores, by which the probabilities learn to be near 0 and 1. In evaluation the
    reader stops where $p_{ij} > 1/2$, and its output needs no place beyond that one. Scores are computed for all
    queries and keys in either mode, in time that grows with the product of their numbers. $r$ is learned and starts at
    `offset`: below zero, or at first no reader would get far.

    The state is where the last query stopped; steps with one query each, every one with the state of the last, give the
    numbers of one call.

    *Shape:* query `(batch, query_len, query_size)`, memory `(batch, memory_len, memory_size)` ->
    `(batch, query_len, memory_size)`; the state `(batch, memory_len)`, whose rows may be reordered for a beam.
    `attention_size` is `memory_size` when not given.

    Raises `ValueError` for sizes below 1, a noise below 0 and a score that does not exist.

    Example:
        >>> import torch
        >>> look = MonotonicAttention(query_size=6, memory_size=8).eval()
        >>> memory = look.prepare(torch.randn(2, 5, 8), torch.tensor([5, 3]))
        >>> state = None
        >>> for query in torch.randn(3, 2, 1, 6):
        ...     context, weights, state = look(query, memory, state)
        >>> context.shape, weights.shape, state.shape
        (torch.Size([2, 1, 8]), torch.Size([2, 1, 1, 5]), torch.Size([2, 5]))

    Raffel et al. 2017, sections 2.2 to 2.5; they also divide $v$ by its length, times a learned gain. TensorFlow
    Addons' `BahdanauMonotonicAttention` takes the way of reading as an argument, in training and evaluation alike;
    PyTorch has no counterpart.
    """

    def __init__(
        self,
        query_size: int,
        memory_size: int,
        attention_size: int | None = None,
        *,
        score: Score | str = "additive",
        noise: float = 1.0,
        offset: float = -1.0,
    ) -> None:
        super().__init__(query_size, memory_size, attention_size)
        self.score = learned_score(score, 1, self.attention_size)
        self.offset = nn.Parameter(torch.tensor(float(offset)))
        self.normalizer = Monotonic(noise)

    def forward(
        self, query: Tensor, memory: Memory, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Read on for each query: the contexts, the weights, and where the last query stopped.

        *Shape:* query `(batch, query_len, query_size)` -> `(batch, query_len, memory_size)`,
        `(batch, 1, query_len, memory_len)` and `(batch, memory_len)`. Raises `TypeError` or `ValueError` for others.
        """
        queries = self.project(query, memory)
        if state is not None:
            check_sequence("state", state, memory.key.shape[2], ("batch",))
            check_batch("state", state, "memory", memory.batch)
        before = None if state is None else state.unsqueeze(1)
        reader = replace(self.normalizer, previous=before) if self.training else MonotonicHard(before)
        contexts, weights = attend(
            queries,
            memory.key,
            memory.value,
            score=self.score(),
            normalizer=reader,
            mask=memory.mask,
            bias=self.offset,
            return_weights=True,
        )
        return contexts.squeeze(1), weights, weights[:, 0, -1] if query.shape[1] else state

    def extra_repr(self) -> str:
        return f"{self.query_size}, {self.memory_size}, noise={self.normalizer.noise}"
