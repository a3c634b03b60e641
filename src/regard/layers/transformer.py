"""The blocks of a Transformer, with any attention mechanism in them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from regard.attention.masks import Mask, causal
from regard.attention.mechanism import Mechanism
from regard.layers.cache import Cache
from regard.layers.checks import check_batch, check_sequence, check_share, check_sizes
from regard.layers.dropout import Dropout
from regard.layers.linear import Linear
from regard.layers.memory import CrossAttention, Memory, check_memory
from regard.layers.selfattention import SelfAttention

__all__ = ["FeedForward", "TransformerDecoderLayer", "TransformerEncoderLayer"]

ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "relu": (functional.relu, False),
    "gelu": (functional.gelu, False),
    "swiglu": (functional.silu, True),
}
"""What stands between the two projections of a feed-forward block, and whether a third one multiplies it."""

NORMS = ("pre", "post")
"""Whether a block's input is normalised or its result."""


class FeedForward(nn.Module):
    r"""A network of one hidden layer, at each place by itself.

    $$f(x) = W_2\, \mathrm{activation}(W_1 x), \qquad f(x) = W_2\,(\mathrm{silu}(W_1 x) \odot W_3 x)$$

    the second with `"swiglu"`; all with biases. *Shape:* `(..., size)` -> the same. Raises `ValueError` for sizes below
    1 and an activation that is not `"relu"`, `"gelu"` or `"swiglu"`.

    Example:
        >>> import torch
        >>> FeedForward(8, 16, "swiglu")(torch.randn(2, 5, 8)).shape
        torch.Size([2, 5, 8])

    Vaswani et al. 2017, section 3.3; Shazeer 2020 (GLU variants), equation 6, without biases, with two thirds of
    the hidden units so as to have as many weights. PyTorch has it inside `nn.TransformerEncoderLayer` only, with
    dropout in between.
    """

    def __init__(self, size: int, inner: int, activation: str = "relu") -> None:
        super().__init__()
        check_sizes(size=size, inner=inner)
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, it is {activation!r}")
        self.activation, gated = ACTIVATIONS[activation]
        self.widen = Linear(size, inner)
        self.gate = Linear(size, inner) if gated else None
        self.narrow = Linear(inner, size)

    def forward(self, sequence: Tensor) -> Tensor:
        """*Shape:* `(..., size)` -> the same."""
        if self.activation is functional.relu and isinstance(self.widen, Linear):
            return self.narrow(self.widen(sequence, relu=True))
        inner = self.activation(self.widen(sequence))
        return self.narrow(inner if self.gate is None else inner * self.gate(sequence))


class Residual(nn.Module):
    """The bracket around every block: normalise, drop, add."""

    def __init__(self, size: int, norm: str, dropout: float) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, it is {norm!r}")
        self.norm = nn.LayerNorm(size)
        self.dropout = Dropout(dropout)
        self.pre = norm == "pre"

    def before(self, sequence: Tensor) -> Tensor:
        """What the block reads."""
        return self.norm(sequence) if self.pre else sequence

    def after(self, sequence: Tensor, written: Tensor) -> Tensor:
        """The sequence with what the block has written."""
        total = self.dropout.add(sequence, written)
        return total if self.pre else self.norm(total)


class TransformerEncoderLayer(nn.Module):
    r"""Every place looks at the sequence, then thinks by itself.

    $$y = x + \mathrm{attention}(\mathrm{norm}(x)), \qquad z = y + f(\mathrm{norm}(y))$$

    That is `norm="pre"`, after whose last layer one more normalisation belongs; `"post"` normalises the two sums
    instead. `dropout` is that of what each block adds, `attention_dropout` that of the weights.

    *Shape:* sequence `(batch, length, size)` -> the same.

    Raises `ValueError` for a mechanism, norm or activation that does not exist, and for sizes that the heads cannot
    share evenly.

    Example:
        >>> import torch, regard
        >>> layer = TransformerEncoderLayer(16, heads=4, ffn_size=32, mechanism="cosine/sparsemax", activation="swiglu")
        >>> output, weights = layer(torch.randn(2, 5, 16), regard.masks.padding(torch.tensor([5, 3])))
        >>> output.shape, weights
        (torch.Size([2, 5, 16]), None)

    Vaswani et al. 2017, section 3.1 ("post"); Xiong et al. 2020, figure 1 ("pre"). `nn.TransformerEncoderLayer` has the
    same numbers for the same weights; it is "post" unless `norm_first=True`, has dropout inside the feed-forward block,
    too, masks that are True where hidden, and no weights to show.
    """

    def __init__(
        self,
        size: int,
        heads: int,
        ffn_size: int,
        mechanism: str | Mechanism = "scaled_dot/softmax",
        *,
        norm: str = "pre",
        activation: str = "relu",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_share(dropout=dropout, attention_dropout=attention_dropout)
        self.attention = SelfAttention(size, heads, mechanism, dropout=attention_dropout)
        self.feed_forward = FeedForward(size, ffn_size, activation)
        self.around_attention = Residual(size, norm, dropout)
        self.around_feed_forward = Residual(size, norm, dropout)

    def forward(
        self, sequence: Tensor, mask: Mask | Tensor | None = None, *, return_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """The sequence after both blocks and, when asked for, the weights.

        *Shape:* sequence `(batch, length, size)`, weights `(batch, heads, length, length)`; a boolean mask
        broadcastable to that, True where the query may look. Raises what `SelfAttention` does.
        """
        around = self.around_attention
        written, weights, _ = self.attention(around.before(sequence), mask, return_weights=return_weights)
        sequence = around.after(sequence, written)
        around = self.around_feed_forward
        return around.after(sequence, self.feed_forward(around.before(sequence))), weights


class TransformerDecoderLayer(nn.Module):
    r"""Every place looks at what is written up to it, then at a memory, then thinks by itself.

    $$x' = x + \mathrm{attention}(\mathrm{norm}(x)), \qquad y = x' + \mathrm{attention}(\mathrm{norm}(x'), m), \qquad
    z = y + f(\mathrm{norm}(y))$$

    That is `norm="pre"`, after whose last layer one more normalisation belongs; `"post"` normalises the three sums
    instead. The first attention is causal. With the cache of earlier places, as few as one new place may come at a
    time, with the same numbers. `cross_mechanism` is `mechanism.over_memory()` when not given: without what tells how
    far a key is from a query, for the places of the memory are others.

    *Shape:* sequence `(batch, length, size)`, memory `(batch, memory_len, memory_size)` -> `(batch, length, size)`;
    `memory_size` is `size` when not given.

    Raises `ValueError` for a mechanism, norm or activation that does not exist, for sizes that the heads cannot share
    evenly, and for a `cross_mechanism` with a mask, a bias or rotary positions or whose queries do not stand by
    themselves (`monotonic`): step by step it would have other numbers.

    Example:
        >>> import torch
        >>> layer = TransformerDecoderLayer(16, heads=4, ffn_size=32)
        >>> memory = layer.prepare(torch.randn(2, 5, 16), torch.tensor([5, 3]))
        >>> cache = None
        >>> for place in torch.randn(3, 2, 1, 16):
        ...     output, weights, cache = layer(place, memory, cache, return_weights=True)
        >>> output.shape, weights.shape, cache.key.shape
        (torch.Size([2, 1, 16]), torch.Size([2, 4, 1, 5]), torch.Size([2, 4, 3, 4]))

    Vaswani et al. 2017, section 3.1 ("post"); Xiong et al. 2020, figure 1 ("pre"). `nn.TransformerDecoderLayer` has the
    same numbers for the same weights; it has no cache, projects the memory again at every step, is causal only if told,
    and has dropout inside the feed-forward block, too.
    """

    def __init__(
        self,
        size: int,
        heads: int,
        ffn_size: int,
        mechanism: str | Mechanism = "scaled_dot/softmax",
        *,
        cross_mechanism: str | Mechanism | None = None,
        memory_size: int | None = None,
        norm: str = "pre",
        activation: str = "relu",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_share(dropout=dropout, attention_dropout=attention_dropout)
        self.attention = SelfAttention(size, heads, mechanism, dropout=attention_dropout)
        over = self.attention.look.mechanism.over_memory()
        self.cross_attention = CrossAttention(
            size,
            heads,
            over if cross_mechanism is None else cross_mechanism,
            memory_size=memory_size,
            dropout=attention_dropout,
        )
        given = self.cross_attention.look.mechanism
        if given.over_memory() is not given:
            raise ValueError(
                f"cross_mechanism must have no mask, bias or rotary positions, for the places of the memory are not "
                f"those of the sequence: {given.over_memory().spelling!r}, it is {given.spelling!r}"
            )
        self.feed_forward = FeedForward(size, ffn_size, activation)
        self.around_attention = Residual(size, norm, dropout)
        self.around_cross_attention = Residual(size, norm, dropout)
        self.around_feed_forward = Residual(size, norm, dropout)

    def prepare(self, memory: Tensor, lengths: Tensor) -> Memory:
        """Project the memory once, for all places to come; as `CrossAttention.prepare`."""
        return self.cross_attention.prepare(memory, lengths)

    def forward(
        self,
        sequence: Tensor,
        memory: Memory,
        cache: Cache | None = None,
        *,
        mask: Mask | Tensor | None = None,
        width: int = 1,
        return_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None, Cache]:
        """The sequence after all blocks, its weights over the memory when asked for, and the cache with what is new.

        `width` rows of the sequence in a row share one memory, as in a beam. A `mask`, True where a place may look
        among those written, the new ones included, stands instead of the causal one, as where several places continue
        a sequence in several ways.

        *Shape:* sequence `(batch * width, length, size)`, weights `(batch, heads, width * length, memory_len)`. Raises
        what `SelfAttention` and `CrossAttention` do.
        """
        over = self.cross_attention
        check_memory(memory, over.heads, over.size // over.heads)
        check_sequence("sequence", sequence, self.attention.size)
        check_sizes(width=width)
        check_batch("sequence", sequence, f"memory times width {width}", memory.batch * width)
        around = self.around_attention
        written, _, cache = self.attention(around.before(sequence), causal() if mask is None else mask, cache)
        sequence = around.after(sequence, written)
        around = self.around_cross_attention
        query = around.before(sequence)
        grouped = query.reshape(-1, width * query.shape[1], query.shape[2])
        written, weights = self.cross_attention(grouped, memory, return_weights=return_weights)
        sequence = around.after(sequence, written.reshape(sequence.shape))
        around = self.around_feed_forward
        return around.after(sequence, self.feed_forward(around.before(sequence))), weights, cache
