"""Attention of a sequence over itself, with a key-value cache for decoding step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from torch import Tensor, nn

from regard.attention.masks import Mask
from regard.attention.mechanism import Mechanism
from regard.layers.cache import Cache
from regard.layers.checks import check_heads, check_sequence, check_sizes
from regard.layers.learned import LearnedMechanism, join_heads, split_heads
from regard.layers.linear import Linear

__all__ = ["SelfAttention"]


class SelfAttention(nn.Module):
    r"""Multi-head attention of a sequence over itself.

    $$o = W_o\,[c^1; \dots; c^H], \qquad
    c^h_i = \sum_j w^h_{ij} W_v^h x_j, \qquad
    w^h_i = \mathrm{normalizer}_j\bigl(\mathrm{score}(W_q^h x_i, W_k^h x_j)\bigr)$$

    *Shape:* sequence `(batch, length, size)` -> the same.

    Raises `ValueError` for a mechanism that does not exist, and unless `size` is a multiple of `heads`.

    Example:
        >>> import torch, regard
        >>> layer = SelfAttention(16, heads=4, mechanism="cosine/sparsemax")
        >>> output, weights, _ = layer(torch.randn(2, 5, 16), regard.masks.causal(), return_weights=True)
        >>> output.shape, weights.shape
        (torch.Size([2, 5, 16]), torch.Size([2, 4, 5, 5]))

    Vaswani et al. 2017, section 3.2.2. Unlike `nn.MultiheadAttention` its mask is True where the query may look, its
    weights are those of every head and not their mean, asking for them does not change how the output is computed,
    and a cache of keys and values is its third result.
    """

    packed: ClassVar[Mapping[str, int]] = {"query_key_value": 3}
    """How many projections lie in one matrix, one above the other."""

    def __init__(
        self,
        size: int,
        heads: int,
        mechanism: str | Mechanism = "scaled_dot/softmax",
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(size=size)
        check_heads(heads, size=size)
        self.size, self.heads = size, heads
        self.query_key_value = Linear(size, 3 * size)
        self.output = Linear(size, size)
        self.look = LearnedMechanism(mechanism, heads=heads, size=size // heads, dropout=dropout)

    def forward(
        self,
        sequence: Tensor,
        mask: Mask | Tensor | None = None,
        cache: Cache | None = None,
        *,
        return_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None, Cache]:
        """Attend, after the places in `cache` if there are any; the returned cache has the new ones too.

        *Shape:* sequence `(batch, length, size)` -> the same; weights `(batch, heads, length, cached + length)`; a
        boolean mask broadcastable to that, True where the query may look. Raises what `regard.attend` does, and
        `TypeError` or `ValueError` for a sequence or cache of another shape.
        """
        check_sequence("sequence", sequence, self.size)
        if cache is not None and not isinstance(cache, Cache):
            raise TypeError(f"cache must be the Cache of an earlier call, it is {type(cache).__name__}")
        query, key, value = (
            split_heads(t, self.heads) for t in self.query_key_value(sequence).chunk(3, dim=-1)
        )
        cache = Cache(key, value) if cache is None else cache.append(key, value)
        output, weights = self.look(
            query,
            cache.key,
            cache.value,
            mask,
            return_weights=return_weights or self.look.coupled,
            previous=cache.stopped,
        )
        if self.look.coupled and weights is not None and weights.shape[2]:
            cache = replace(cache, stopped=weights[:, :, -1])
        return self.output(join_heads(output)), weights if return_weights else None, cache
