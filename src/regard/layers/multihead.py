"""The drop-in for `torch.nn.MultiheadAttention`, with any score function and normaliser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from regard.attention.masks import Mask, causal, dense
from regard.attention.normalizers import Normalizer
from regard.attention.operator import attend
from regard.attention.scores import Score
from regard.layers.checks import check_share
from regard.layers.learned import join_heads, learned_normalizer, learned_score, split_heads

__all__ = ["MultiheadAttention"]


class MultiheadAttention(nn.Module):
    r"""Multi-head attention with the arguments, parameters and numbers of `torch.nn.MultiheadAttention`.

    $$o = W_o\,[c^1; \dots; c^H] + b_o, \qquad
    c^h_i = \sum_j w^h_{ij} v^h_j, \qquad
    w^h_i = \mathrm{normalizer}_j\bigl(\mathrm{score}(q^h_i, k^h_j)\bigr)$$

    `score` and `normalizer` are what `regard.attend` takes, names, objects or (`score`) a function; all other
    arguments are PyTorch's. So are the names and shapes of the parameters (a `state_dict` loads either way), their
    first values from a seed, and the polarity of the masks: True **hides** a key, numbers are added to the scores. A
    score function or normaliser that learns adds its own parameters, `score.weight` and the like.

    *Shape:* query `(query_len, batch, embed_dim)`, key `(key_len, batch, kdim)`, value `(key_len, batch, vdim)`; with
    `batch_first` the first two axes change places, and all three may come without the axis `batch`. The output has the
    shape of query.

    Raises `ValueError` for sizes that are not positive or that the heads cannot share evenly, and for a score or
    normaliser that does not exist.

    Example:
        >>> import torch
        >>> layer = MultiheadAttention(16, 4, batch_first=True, score="cosine", normalizer="sparsemax")
        >>> sequence = torch.randn(2, 5, 16)
        >>> output, weights = layer(sequence, sequence, sequence, is_causal=True)
        >>> output.shape, weights.shape
        (torch.Size([2, 5, 16]), torch.Size([2, 5, 5]))

    Vaswani et al. 2017, section 3.2.2. Where it differs from `torch.nn.MultiheadAttention` (2.13):

    - A query from which every key is hidden gets weights and heads of zero, hence the output `out_proj.bias`; PyTorch
      gives NaN.
    - `is_causal=True` alone is causal (PyTorch raises), as its mask would be: query 0 sees key 0, whatever the
      lengths. Beside `attn_mask` it says, as in PyTorch, that `attn_mask` is that mask, and the word is taken for it
      where it is boolean and there is no `key_padding_mask`; in PyTorch, whatever its type, if `need_weights` is False
      too. Numbers to be added are always added. The keys of `add_bias_kv` and `add_zero_attn` stay visible; in PyTorch
      only if `need_weights` is True.
    - The returned weights are those before dropout, and asking for them does not change the output; PyTorch's are those
      after dropout.
    - The two masks may be of different types, and numbers to be added of any floating-point type.
    - `nn.TransformerEncoderLayer` always calls this layer: a hook keeps it off the fused path that computes from the
      parameters alone, scaled dot and softmax whatever the layer is. `out_proj` is called too, with its hooks.
    - Bad input raises `ValueError` or `TypeError`, in PyTorch also `AssertionError` and `RuntimeError`; `dropout` must
      be below 1.
    """

    in_proj_weight: nn.Parameter | None
    q_proj_weight: nn.Parameter | None
    k_proj_weight: nn.Parameter | None
    v_proj_weight: nn.Parameter | None
    in_proj_bias: nn.Parameter | None
    bias_k: nn.Parameter | None
    bias_v: nn.Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        score: Score | Callable[[Tensor, Tensor], Tensor] | str = "scaled_dot",
        normalizer: Normalizer | str = "softmax",
    ) -> None:
        if embed_dim < 1 or num_heads < 1 or embed_dim % num_heads:
            raise ValueError(
                f"embed_dim must be a positive multiple of num_heads: embed_dim is {embed_dim}, "
                f"num_heads is {num_heads}"
            )
        check_share(dropout=dropout)
        super().__init__()
        self.embed_dim = embed_dim
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self._qkv_same_embed_dim = self.kdim == embed_dim and self.vdim == embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.dropout = dropout
        self.batch_first = batch_first
        self.add_zero_attn = add_zero_attn

        def new(exists: bool, *shape: int) -> nn.Parameter | None:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype)) if exists else None

        packed = self._qkv_same_embed_dim
        self.register_parameter("q_proj_weight", new(not packed, embed_dim, embed_dim))
        self.register_parameter("k_proj_weight", new(not packed, embed_dim, self.kdim))
        self.register_parameter("v_proj_weight", new(not packed, embed_dim, self.vdim))
        self.register_parameter("in_proj_weight", new(packed, 3 * embed_dim, embed_dim))
        self.register_parameter("in_proj_bias", new(bias, 3 * embed_dim))
        self.register_parameter("bias_k", new(add_bias_kv, 1, 1, embed_dim))
        self.register_parameter("bias_v", new(add_bias_kv, 1, 1, embed_dim))
        # The class says to whoever quantises a model to leave this layer alone.
        self.out_proj = NonDynamicallyQuantizableLinear(
            embed_dim, embed_dim, bias=bias, device=device, dtype=dtype
        )
        self._reset_parameters()
        self.score = learned_score(score, num_heads, self.head_dim).to(device, dtype)
        self.normalizer = learned_normalizer(normalizer, num_heads).to(device, dtype)
        self.register_forward_pre_hook(_called)

    def _reset_parameters(self) -> None:
        """Draw first values, in PyTorch's order."""
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                nn.init.xavier_uniform_(weight)
        if self.in_proj_bias is not None:
            nn.init.zeros_(self.in_proj_bias)
            nn.init.zeros_(self.out_proj.bias)
        for extra in (self.bias_k, self.bias_v):
            if extra is not None:
                nn.init.xavier_normal_(extra)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The output and, unless `need_weights` is False, the weights, their mean over heads or those of each.

        *Shape:* key_padding_mask `(batch, key_len)`; attn_mask `(query_len, key_len)` or
        `(batch * num_heads, query_len, key_len)`; weights `(batch, query_len, key_len)`, of each head
        `(batch, num_heads, query_len, key_len)`, with one more key for each of `add_bias_kv` and `add_zero_attn`.
        Without the axis `batch` in query, none of these has it. A self-attention layer with `batch_first` also takes
        the nested tensor that `nn.TransformerEncoder` makes of a padded batch, and answers with one.

        Raises `TypeError` or `ValueError` naming the argument at fault.
        """
        if isinstance(query, Tensor) and query.is_nested:
            return self._nested(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
        self._check(query, key, value)
        batched = query.ndim == 3
        query, key, value = self._projected(query, key, value)
        if not batched:
            query, key, value = query[None], key[None], value[None]
        elif not self.batch_first:
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        mask, bias = self._masks(query, key, key_padding_mask, attn_mask, is_causal, batched)
        key, value = self._extended(key, value)
        found = attend(
            split_heads(query, self.num_heads),
            split_heads(key, self.num_heads),
            split_heads(value, self.num_heads),
            score=self.score(),
            normalizer=self.normalizer() if self.training else self.normalizer().settled(),
            mask=mask,
            bias=bias,
            dropout=self.dropout if self.training else 0.0,
            return_weights=need_weights,
        )
        heads, weights = found if isinstance(found, tuple) else (found, None)
        joined = join_heads(heads)
        if not batched:
            joined = joined[0]
        elif not self.batch_first:
            joined = joined.transpose(0, 1)
        if weights is not None:
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights[0]
        return self.out_proj(joined), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of all heads, by one product for those that are the same tensor.

        *Shape:* the axes given, but for the last: `embed_dim`.
        """
        if self.in_proj_weight is None:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
            biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
            parts = zip((query, key, value), weights, biases, strict=True)
            query, key, value = (linear(t, weight, bias) for t, weight, bias in parts)  # type: ignore[arg-type]
            return query, key, value
        if key is not value:
            sources, counts = [query, key, value], [1, 1, 1]
        elif query is not key:
            sources, counts = [query, key], [1, 2]
        else:
            sources, counts = [query], [3]
        sizes = [self.embed_dim * count for count in counts]
        pieces = self.in_proj_weight.split(sizes)
        offsets = [None] * len(sizes) if self.in_proj_bias is None else self.in_proj_bias.split(sizes)
        found: list[Tensor] = []
        for source, weight, bias, count in zip(sources, pieces, offsets, counts, strict=True):
            found += linear(source, weight, bias).chunk(count, dim=-1)
        return found[0], found[1], found[2]

    def _extended(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Key and value with the keys of `add_bias_kv` and `add_zero_attn` after the others.

        *Shape:* `(batch, key_len, embed_dim)` -> the same with as many keys more.
        """
        if self.bias_k is not None and self.bias_v is not None:
            key, value = (
                torch.cat([t, extra.to(t.dtype).expand(t.shape[0], 1, -1)], dim=1)
                for t, extra in ((key, self.bias_k), (value, self.bias_v))
            )
        if self.add_zero_attn:
            key, value = pad(key, (0, 0, 0, 1)), pad(value, (0, 0, 0, 1))
        return key, value

    def _masks(
        self,
        query: Tensor,
        key: Tensor,
        key_padding_mask: Tensor | None,
        attn_mask: Tensor | None,
        is_causal: bool,
        batched: bool,
    ) -> tuple[Mask | None, Tensor | None]:
        """What PyTorch's masks hide, as a mask of the operator, and what they add, as its bias.

        *Shape:* query `(batch, query_len, embed_dim)`, key `(batch, key_len, embed_dim)`.
        """
        batch, pair, extra = query.shape[0], (query.shape[1], key.shape[1]), self._extra_keys
        if key_padding_mask is not None:
            _check_mask("key_padding_mask", key_padding_mask, (batch, pair[1]) if batched else (pair[1],))
            key_padding_mask = key_padding_mask.reshape(batch, 1, 1, pair[1])
        if attn_mask is not None:
            _check_mask("attn_mask", attn_mask, pair, (batch * self.num_heads, *pair))
            attn_mask = attn_mask if attn_mask.ndim == 2 else attn_mask.unflatten(0, (batch, self.num_heads))
        mask: Mask | None = None
        told = attn_mask is None or (attn_mask.dtype == torch.bool and key_padding_mask is None)
        if is_causal and told:
            if pair[0] == pair[1] and not extra:
                mask, attn_mask = causal(), None
            else:
                attn_mask = torch.ones(pair, dtype=torch.bool, device=query.device).triu(1)
        given = [t for t in (attn_mask, key_padding_mask) if t is not None]
        if extra:
            given = [pad(t, (0, extra)) for t in given]
        hidden = [t for t in given if t.dtype == torch.bool]
        added = [t for t in given if t.dtype != torch.bool]
        if hidden:
            shown = ~(hidden[0] | hidden[-1])
            mask = dense(shown) if mask is None else mask & dense(shown)
        return mask, sum(added[1:], start=added[0]) if added else None

    @property
    def _extra_keys(self) -> int:
        return (self.bias_k is not None) + self.add_zero_attn

    def _nested(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None,
        need_weights: bool,
        attn_mask: Tensor | None,
        average_attn_weights: bool,
        is_causal: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Self-attention of a nested tensor; weights are those of the padded one."""
        if key is not query or value is not query or not self.batch_first:
            raise ValueError(
                "a nested query must be key and value too, and the layer made with batch_first=True"
            )
        if key_padding_mask is not None or attn_mask is not None:
            raise ValueError("key_padding_mask and attn_mask must be None where query is a nested tensor")
        lengths = [sequence.shape[0] for sequence in query.unbind()]
        padded = query.to_padded_tensor(0.0)
        places = torch.arange(padded.shape[1], device=query.device)
        hidden = places >= torch.tensor(lengths, device=query.device)[:, None]
        output, weights = self.forward(
            padded, padded, padded, hidden, need_weights, None, average_attn_weights, is_causal
        )
        rows = [row[:length] for row, length in zip(output, lengths, strict=True)]
        return torch.nested.as_nested_tensor(rows), weights

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Raise `TypeError` or `ValueError` unless the three fit each other and the layer."""
        weight = self.q_proj_weight if self.in_proj_weight is None else self.in_proj_weight
        assert weight is not None
        for name, tensor, size in (
            ("query", query, self.embed_dim),
            ("key", key, self.kdim),
            ("value", value, self.vdim),
        ):
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{name} must be a tensor, it is {type(tensor).__name__}")
            if tensor.ndim not in (2, 3) or tensor.ndim != query.ndim:
                raise ValueError(
                    f"query, key and value must all have three axes, or two without the batch: query has "
                    f"{query.ndim}, {name} has {tensor.ndim}"
                )
            if tensor.shape[-1] != size:
                raise ValueError(f"{name} must have size {size}, it has shape {tuple(tensor.shape)}")
            if tensor.dtype != weight.dtype and not torch.is_autocast_enabled(tensor.device.type):
                raise TypeError(f"{name} must be of the layer's type, {weight.dtype}, it is {tensor.dtype}")
        if key.shape[:-1] != value.shape[:-1]:
            raise ValueError(
                f"value must have the axes of key {tuple(key.shape)} but for the last, it has {tuple(value.shape)}"
            )
        batch = 0 if self.batch_first else 1
        if query.ndim == 3 and query.shape[batch] != key.shape[batch]:
            raise ValueError(
                f"query and key must have one batch size: query has {query.shape[batch]}, key has {key.shape[batch]}"
            )

    def extra_repr(self) -> str:
        return (
            f"{self.embed_dim}, num_heads={self.num_heads}, score={self.score().spelling!r}, "
            f"normalizer={self.normalizer().spelling!r}, dropout={self.dropout}, batch_first={self.batch_first}"
        )


def _check_mask(name: str, mask: Tensor, *shapes: tuple[int, ...]) -> None:
    if not isinstance(mask, Tensor):
        raise TypeError(f"{name} must be a tensor, it is {type(mask).__name__}")
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise TypeError(
            f"{name} must be boolean, True where a key is hidden, or numbers to be added to the scores, of a "
            f"floating-point type; it is {mask.dtype}"
        )
    if tuple(mask.shape) not in shapes:
        raise ValueError(
            f"{name} must have shape {' or '.join(map(str, shapes))}, it has {tuple(mask.shape)}"
        )


def _called(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
    """Nothing: that it is there makes `nn.TransformerEncoderLayer` call the layer in evaluation too."""
