"""Attention that knows where it looked before."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from regard.attention.normalizers import Normalizer
from regard.attention.operator import attend
from regard.attention.scores import LocationSensitive
from regard.layers.checks import check_sequence, check_sizes
from regard.layers.learned import LearnedPart, learned_normalizer, uniform
from regard.layers.memory import Memory, Projections, check_memory

__all__ = ["LocationSensitiveAttention", "RecallingAttention"]


class RecallingAttention(Projections):
    """What attentions have in common whose score sees the weights of earlier steps: the loop over the queries.

    A subclass says what is recalled, in `remember`. *Shape:* query `(batch, query_len, query_size)`, memory
    `(batch, memory_len, memory_size)` -> `(batch, query_len, memory_size)`; the state, what is recalled,
    `(batch, channels, memory_len)`, whose rows may be reordered for a beam.
    """

    def __init__(
        self,
        query_size: int,
        memory_size: int,
        attention_size: int,
        score: LocationSensitive,
        channels: int,
        normalizer: Normalizer | str,
    ) -> None:
        super().__init__(query_size, memory_size, attention_size)
        self.channels = channels
        self.score = LearnedPart(score)
        self.normalizer = learned_normalizer(normalizer, 1)
        if self.normalizer().coupled:
            raise ValueError(
                f"normalizer must weigh each query by itself, for every step is a call of its own, "
                f"{self.normalizer().spelling!r} does not: MonotonicAttention goes on where the last query stopped"
            )

    def remember(self, state: Tensor, weights: Tensor) -> Tensor:
        """The state after a step. *Shape:* `(batch, channels, memory_len)`, weights `(batch, memory_len)`."""
        raise NotImplementedError

    def start(self, memory: Memory) -> Tensor:
        """The state before the first step: nothing was looked at.

        *Shape:* `(batch, channels, memory_len)`, in single precision at least, for it may be a long sum. Raises
        `TypeError` for what is no memory.
        """
        check_memory(memory, 1, self.attention_size)
        precise = torch.promote_types(memory.value.dtype, torch.float32)
        return memory.value.new_zeros(memory.batch, self.channels, memory.key.shape[2], dtype=precise)

    def step(
        self, query: Tensor, memory: Memory, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Look once: the context, the weights, and the state for the next step.

        *Shape:* query `(batch, query_size)` -> `(batch, memory_size)`, `(batch, memory_len)` and
        `(batch, channels, memory_len)`. Raises `TypeError` or `ValueError` for another query or state.
        """
        check_sequence("query", query, self.query_size, ("batch",))
        contexts, weights, state = self.forward(query.unsqueeze(1), memory, state)
        return contexts.squeeze(1), weights[:, 0, 0], state

    def forward(
        self, query: Tensor, memory: Memory, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Look once for each query, one after the other: the contexts, the weights, and the state after the last.

        *Shape:* query `(batch, query_len, query_size)` -> `(batch, query_len, memory_size)`,
        `(batch, 1, query_len, memory_len)` and `(batch, channels, memory_len)`. Raises `TypeError` or `ValueError` for
        another query or state.
        """
        queries = self.project(query, memory)
        state = self.start(memory) if state is None else state
        expected = (memory.batch, self.channels, memory.key.shape[2])
        if not isinstance(state, Tensor):
            raise TypeError(f"state must be a tensor, it is {type(state).__name__}")
        if tuple(state.shape) != expected:
            raise ValueError(
                f"state must be (batch, channels, memory_len) = {expected}, it has shape {tuple(state.shape)}"
            )
        score, normalizer = self.score(), self.normalizer()
        normalizer = normalizer if self.training else normalizer.settled()
        contexts, seen = [], []
        for i in range(query.shape[1]):
            context, weights = attend(
                queries[:, :, i : i + 1],
                memory.key,
                memory.value,
                score=replace(score, alignment=state.unsqueeze(1).to(queries.dtype)),
                normalizer=normalizer,
                mask=memory.mask,
                return_weights=True,
            )
            state = self.remember(state, weights[:, 0, 0])
            contexts.append(context.squeeze(1))
            seen.append(weights)
        if not seen:
            empty = query.new_zeros(memory.batch, 0, self.memory_size)
            return empty, query.new_zeros(memory.batch, 1, 0, memory.key.shape[2]), state
        return torch.cat(contexts, dim=1), torch.cat(seen, dim=2), state


class LocationSensitiveAttention(RecallingAttention):
    r"""Additive attention that also sees where it looked before, for a decoder that reads its source in order.

    $$c_i = \sum_j w_{ij} h_j, \qquad w_i = \mathrm{normalizer}_j(e_{ij}), \qquad
    e_{ij} = v^\top \tanh(W_q s_i + W_k h_j + U f_{ij} + b), \qquad f_i = F * w_{i-1}$$

    The filters $F$ (`features` of them, each `kernel` places wide) see the weights of the step before; with
    `cumulative` also, as a second channel, their sum over all steps before. Every step needs the weights of the last:
    `step` takes one query, a call of the layer loops over many, with the same numbers.

    *Shape:* query `(batch, query_len, query_size)`, memory `(batch, memory_len, memory_size)` ->
    `(batch, query_len, memory_size)`; the state `(batch, 1 or 2, memory_len)`, whose rows may be reordered for a beam.
    `attention_size` is `memory_size` when not given.

    Raises `ValueError` for sizes below 1, an even `kernel`, and a normaliser that does not exist or whose
    queries do not stand by themselves (`monotonic`).

    Example:
        >>> import torch
        >>> look = LocationSensitiveAttention(query_size=6, memory_size=8, attention_size=4)
        >>> memory = look.prepare(torch.randn(2, 5, 8), torch.tensor([5, 3]))
        >>> state = look.start(memory)
        >>> for query in torch.randn(3, 2, 6):
        ...     context, weights, state = look.step(query, memory, state)
        >>> context.shape, weights.shape, state.shape
        (torch.Size([2, 8]), torch.Size([2, 5]), torch.Size([2, 2, 5]))

    Chorowski et al. 2015, equations 8 and 9 (`cumulative=False`); Shen et al. 2018 (Tacotron 2), section
    2.2, whose 32 filters of 31 places are the default, and whose authors speak of the sum alone, while most code gives
    both, as here. Chorowski's sharpening is `normalizer="softmax-0.5"`. speechbrain's `LocationAwareAttention` keeps
    its state inside the module, and has to be reset between sequences; PyTorch and Keras have no such layer.
    """

    def __init__(
        self,
        query_size: int,
        memory_size: int,
        attention_size: int | None = None,
        *,
        features: int = 32,
        kernel: int = 31,
        cumulative: bool = True,
        normalizer: Normalizer | str = "softmax",
    ) -> None:
        size = memory_size if attention_size is None else attention_size
        channels = 2 if cumulative else 1
        check_sizes(attention_size=size, features=features, kernel=kernel)
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, it is {kernel}")
        score = LocationSensitive(
            filters=uniform(1 / (3 * channels * kernel), features, channels, kernel),
            projection=uniform(1 / (3 * features), 1, size, features),
            weight=uniform(1 / size, 1, size),
            bias=torch.zeros(1, size),
        )
        super().__init__(query_size, memory_size, size, score, channels, normalizer)

    def remember(self, state: Tensor, weights: Tensor) -> Tensor:
        if self.channels == 1:
            return weights.unsqueeze(1).to(state.dtype)
        return torch.stack([weights.to(state.dtype), state[:, 1] + weights], dim=1)
