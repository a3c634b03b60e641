"""Attention of a decoder over a memory: encoder states whose keys and values are projected once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from regard.attention.mechanism import Mechanism
from regard.layers.checks import check_batch, check_heads, check_lengths, check_sequence, check_sizes
from regard.layers.learned import LearnedMechanism, join_heads, split_heads, visible
from regard.layers.linear import Linear

__all__ = ["CrossAttention", "Memory", "MemoryAttention", "Projections", "check_memory"]


@dataclass(frozen=True, slots=True)
class Memory:
    """Keys and values to look at, and which of them exist.

    *Shape:* key `(batch, heads, memory_len, size)`, value `(batch, heads, memory_len, value_size)`,
    mask boolean `(batch, 1, 1, memory_len)`.
    """

    key: Tensor
    value: Tensor
    mask: Tensor

    def select(self, rows: Tensor) -> Memory:
        """The memory of some rows of the batch, in the order and as often as `rows` names them.

        *Shape:* rows `(new_batch,)` int64.
        """
        return Memory(self.key[rows], self.value[rows], self.mask[rows])

    @property
    def batch(self) -> int:
        """How many sequences there are."""
        return self.key.shape[0]


def check_memory(memory: object, heads: int, size: int) -> None:
    """Raise `TypeError` or `ValueError` unless `memory` has been prepared by a layer of as many heads of this size."""
    if not isinstance(memory, Memory):
        raise TypeError(
            f"memory must be a Memory, it is {type(memory).__name__}: call layer.prepare(memory, lengths) first"
        )
    if (memory.key.shape[1], memory.key.shape[3]) != (heads, size):
        raise ValueError(
            f"memory must have been prepared by this layer, its key (batch, {heads}, memory_len, {size}): "
            f"it has shape {tuple(memory.key.shape)}"
        )


class Projections(nn.Module):
    """Queries and a memory, projected to where they can be compared: what all looks at a memory have in common.

    *Shape:* query `(batch, query_len, query_size)`, memory `(batch, memory_len, memory_size)`; `attention_size`, that
    of all heads' keys together, is `memory_size` when not given. Raises `ValueError` for sizes below 1 and sizes that
    the heads cannot share evenly.
    """

    def __init__(
        self, query_size: int, memory_size: int, attention_size: int | None = None, heads: int = 1
    ) -> None:
        super().__init__()
        size = memory_size if attention_size is None else attention_size
        check_sizes(query_size=query_size, memory_size=memory_size, attention_size=size)
        check_heads(heads, memory_size=memory_size, attention_size=size)
        self.query_size, self.memory_size, self.attention_size = query_size, memory_size, size
        self.heads = heads
        self.query = Linear(query_size, size, bias=False)
        self.key = Linear(memory_size, size, bias=False)
        self.value = nn.Identity() if heads == 1 else Linear(memory_size, memory_size)

    def prepare(self, memory: Tensor, lengths: Tensor) -> Memory:
        """Project the memory once, for all queries to come.

        *Shape:* memory `(batch, memory_len, memory_size)`, lengths `(batch,)` of whole numbers. Raises `TypeError` or
        `ValueError` for others.
        """
        check_sequence("memory", memory, self.memory_size, ("batch", "memory_len"))
        check_lengths("lengths", lengths, memory.shape[0])
        return Memory(
            split_heads(self.key(memory), self.heads),
            split_heads(self.value(memory), self.heads),
            visible(lengths, memory),
        )

    def project(self, query: Tensor, memory: Memory) -> Tensor:
        """The queries as they are compared with the keys of `memory`.

        *Shape:* `(batch, query_len, query_size)` -> `(batch, heads, query_len, attention_size / heads)`. Raises
        `TypeError` or `ValueError` for another query.
        """
        check_memory(memory, self.heads, self.attention_size // self.heads)
        check_sequence("query", query, self.query_size, ("batch", "query_len"))
        check_batch("query", query, "memory", memory.batch)
        return split_heads(self.query(query), self.heads)


class MemoryAttention(Projections):
    r"""A recurrent decoder's look at the encoder's states.

    $$c_i = \sum_j w_{ij} h_j, \qquad w_i = \mathrm{normalizer}_j\bigl(\mathrm{score}(W_q s_i, W_k h_j)\bigr)$$

    With one head the values are the memory itself, as in Bahdanau et al. 2015, appendix A.1.2, and Luong et al.
    2015, section 3.1; with several, each head has its own projection of it, as in Vaswani et al. 2017, section 3.2.2,
    but without that of what they found, $W^O$. Every call begins anew: a `monotonic` reader sets out at the first key
    (`MonotonicAttention` goes on), and a mechanism that has places (`window`, `alibi`, `rotary`) takes the last query
    of the call to stand at the last place of the memory, padding included: `Mechanism.over_memory` is without them.

    *Shape:* query `(batch, query_len, query_size)`, memory `(batch, memory_len, memory_size)` ->
    `(batch, query_len, memory_size)`. `attention_size`, that of all heads' keys together, is `memory_size` when not
    given.

    Raises `ValueError` for a mechanism that does not exist, for sizes below 1, and for sizes that the heads cannot
    share evenly.

    Example:
        >>> import torch
        >>> look = MemoryAttention("additive/softmax", query_size=6, memory_size=8)
        >>> memory = look.prepare(torch.randn(2, 5, 8), torch.tensor([5, 3]))
        >>> context, weights = look(torch.randn(2, 1, 6), memory, return_weights=True)
        >>> context.shape, weights.shape
        (torch.Size([2, 1, 8]), torch.Size([2, 1, 1, 5]))
    """

    def __init__(
        self,
        mechanism: str | Mechanism,
        query_size: int,
        memory_size: int,
        *,
        attention_size: int | None = None,
        heads: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(query_size, memory_size, attention_size, heads)
        size = self.attention_size // heads
        self.look = LearnedMechanism(mechanism, heads=heads, size=size, dropout=dropout)

    def forward(
        self, query: Tensor, memory: Memory, *, return_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Look once for each query.

        *Shape:* query `(batch, query_len, query_size)` -> `(batch, query_len, memory_size)`, and weights
        `(batch, heads, query_len, memory_len)` when asked for. Raises `TypeError` or `ValueError` for another query.
        """
        output, weights = self.look(
            self.project(query, memory), memory.key, memory.value, memory.mask, return_weights=return_weights
        )
        return join_heads(output), weights


class CrossAttention(nn.Module):
    r"""Multi-head attention of one sequence over another.

    $$o = W_o\,[c^1; \dots; c^H], \qquad
    c^h_i = \sum_j w^h_{ij} W_v^h m_j, \qquad
    w^h_i = \mathrm{normalizer}_j\bigl(\mathrm{score}(W_q^h x_i, W_k^h m_j)\bigr)$$

    *Shape:* query `(batch, query_len, size)`, memory `(batch, memory_len, memory_size)` -> `(batch, query_len, size)`;
    `memory_size` is `size` when not given. A mechanism that has places (`window`, `alibi`, `rotary`) takes the last
    query of a call to stand at the last place of the memory, padding included: `Mechanism.over_memory` is without them.

    Raises `ValueError` for a mechanism that does not exist or whose queries do not stand by themselves (`monotonic`),
    and unless `size` is a multiple of `heads`.

    Example:
        >>> import torch
        >>> layer = CrossAttention(16, heads=4, mechanism="dot/top-2", memory_size=8)
        >>> memory = layer.prepare(torch.randn(2, 5, 8), torch.tensor([5, 3]))
        >>> output, weights = layer(torch.randn(2, 3, 16), memory, return_weights=True)
        >>> output.shape, weights.shape
        (torch.Size([2, 3, 16]), torch.Size([2, 4, 3, 5]))

    Vaswani et al. 2017, sections 3.2.2 and 3.2.3. Unlike `nn.MultiheadAttention` it projects the memory once for all
    decoding steps, takes lengths instead of a mask that is True at the padding, and gives the weights of every head by
    the same computation that gives the output.
    """

    packed: ClassVar[Mapping[str, int]] = {"key_value": 2}
    """How many projections lie in one matrix, one above the other."""

    def __init__(
        self,
        size: int,
        heads: int,
        mechanism: str | Mechanism = "scaled_dot/softmax",
        *,
        memory_size: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.size, self.heads = size, heads
        self.memory_size = size if memory_size is None else memory_size
        check_sizes(size=size, memory_size=self.memory_size)
        check_heads(heads, size=size)
        self.query = Linear(size, size)
        self.key_value = Linear(self.memory_size, 2 * size)
        self.output = Linear(size, size)
        self.look = LearnedMechanism(mechanism, heads=heads, size=size // heads, dropout=dropout)
        if self.look.coupled:
            raise ValueError(
                f"the mechanism of cross attention must weigh each query by itself, for they may come one by one, "
                f"{self.look.mechanism.spelling!r} does not: MonotonicAttention goes on where the last query stopped"
            )

    def prepare(self, memory: Tensor, lengths: Tensor) -> Memory:
        """Project the memory once, for all queries to come.

        *Shape:* memory `(batch, memory_len, memory_size)`, lengths `(batch,)` of whole numbers. Raises `TypeError` or
        `ValueError` for others.
        """
        check_sequence("memory", memory, self.memory_size, ("batch", "memory_len"))
        check_lengths("lengths", lengths, memory.shape[0])
        key, value = self.key_value(memory).chunk(2, dim=-1)
        return Memory(split_heads(key, self.heads), split_heads(value, self.heads), visible(lengths, memory))

    def forward(
        self, query: Tensor, memory: Memory, *, return_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Look once for each query.

        *Shape:* `(batch, query_len, size)` -> the same, and weights `(batch, heads, query_len, memory_len)` when asked
        for. Raises `TypeError` or `ValueError` for another query.
        """
        check_memory(memory, self.heads, self.size // self.heads)
        check_sequence("query", query, self.size, ("batch", "query_len"))
        check_batch("query", query, "memory", memory.batch)
        heads = split_heads(self.query(query), self.heads)
        output, weights = self.look(
            heads, memory.key, memory.value, memory.mask, return_weights=return_weights
        )
        return self.output(join_heads(output)), weights
