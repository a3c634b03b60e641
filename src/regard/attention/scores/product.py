"""Scores that are a product of what query and key are made into: these run on fused kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from regard.attention.numbers import check_any_number, check_whole
from regard.attention.scores.score import Score, check_shape, for_each_head, needed

__all__ = ["Cosine", "Dot", "General", "Linear", "Location", "ScaledDot"]


@dataclass(frozen=True, eq=False)
class Dot(Score):
    r"""The dot product.

    $$s(q, k) = q^\top k$$

    *Shape:* query `(..., query_len, size)`, key `(..., key_len, size)` -> scores `(..., query_len, key_len)`.

    Example:
        >>> query, key = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 2.0]])
        >>> Dot().compare(query, key)
        tensor([[3., 4.]])

    Luong et al. 2015, section 3.1 ("dot"). PyTorch spells it `scaled_dot_product_attention(scale=1.0)`, Keras
    `Attention()`.
    """

    name: ClassVar[str] = "dot"


@dataclass(frozen=True, eq=False)
class ScaledDot(Score):
    r"""The dot product, divided by the square root of the size.

    $$s(q, k) = q^\top k \cdot \mathrm{scale}, \qquad \mathrm{scale} = 1/\sqrt{D}$$

    `scale` replaces the default $1/\sqrt{D}$.

    *Shape:* query `(..., query_len, size)`, key `(..., key_len, size)` -> scores `(..., query_len, key_len)`.

    Example:
        >>> query, key = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 2.0]])
        >>> ScaledDot().compare(query, key)
        tensor([[2.1213, 2.8284]])

    Vaswani et al. 2017, equation 1. PyTorch's `scaled_dot_product_attention` has the same `scale=`; Keras'
    `Attention(use_scale=True)` learns one number that starts at 1, and never divides by $\sqrt{D}$.
    """

    scale: float | None = None
    name: ClassVar[str] = "scaled_dot"

    def __post_init__(self) -> None:
        if self.scale is not None:
            check_any_number("the scale of scaled_dot", self.scale)

    def factor(self, size: int) -> float:
        return 1.0 / math.sqrt(max(size, 1)) if self.scale is None else self.scale


@dataclass(frozen=True, eq=False)
class Cosine(Score):
    r"""The cosine of the angle between query and key, times a scale (an inverse temperature).

    $$s(q, k) = \mathrm{scale} \cdot \frac{q^\top k}{\lVert q\rVert\,\lVert k\rVert}$$

    A zero vector has cosine 0 with everything.

    *Shape:* query `(..., heads, query_len, size)`, key `(..., heads, key_len, size)` -> scores
    `(..., heads, query_len, key_len)`; scale a number or a tensor, learned or not, `()` or `(heads,)`. Another
    shape raises `ValueError`.

    Example:
        >>> query, key = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 2.0]])
        >>> cosine = Cosine()
        >>> cosine.compare(*cosine.prepare(query, key))
        tensor([[0.4472, 0.8944]])

    Graves et al. 2014, equation 6; with a learned scale: Henry et al. 2020 (QKNorm). PyTorch and Keras have it in no
    attention; x-transformers spells it `attn_qk_norm=True` and its scale `attn_qk_norm_scale`.
    """

    scale: float | Tensor = 1.0
    name: ClassVar[str] = "cosine"

    def __post_init__(self) -> None:
        if not isinstance(self.scale, Tensor):
            check_any_number("the scale of cosine", self.scale)

    def learn(self, heads: int, size: int) -> Score:
        """A scale of 10 a head, for cosines of at most 1 could not make softmax prefer anything; a scale that was given
        stays as it is."""
        if isinstance(self.scale, Tensor) or self.scale != 1.0:
            return self
        return replace(self, scale=torch.full((heads,), 10.0))

    def factor(self, size: int) -> float:
        return 1.0 if isinstance(self.scale, Tensor) else self.scale

    def prepare(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        query, key = _unit(query), _unit(key)
        if isinstance(self.scale, Tensor):
            query = query * _per_head(self.scale, query, "scale").to(query.dtype)
        return query, key


@dataclass(frozen=True, eq=False)
class General(Score):
    r"""A bilinear form; query and key may have different sizes.

    $$s(q, k) = q^\top W k$$

    Without a `weight`, $W = I$.

    *Shape:* query `(..., heads, query_len, query_size)`, key `(..., heads, key_len, key_size)` -> scores
    `(..., heads, query_len, key_len)`; weight `(query_size, key_size)` or `(heads, query_size, key_size)`. Another
    shape raises `ValueError`.

    Example:
        >>> query, key = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 2.0]])
        >>> swap = General(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        >>> swap.compare(*swap.prepare(query, key))
        tensor([[6., 2.]])

    Luong et al. 2015, section 3.1 ("general"). allennlp's `BilinearAttention` adds a bias to every score.
    """

    weight: Tensor | None = None
    name: ClassVar[str] = "general"

    def learn(self, heads: int, size: int) -> Score:
        """The scaled dot product, to learn from there."""
        return replace(self, weight=torch.eye(size).repeat(heads, 1, 1) / math.sqrt(size))

    def check(self, query: Tensor, key: Tensor) -> None:
        if self.weight is None:
            super().check(query, key)
        else:
            check_shape("weight", self.name, self.weight, (query.shape[-1], key.shape[-1]), query)

    def prepare(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return (query if self.weight is None else query @ self.weight.to(query.dtype)), key


@dataclass(frozen=True, eq=False)
class Linear(Score):
    r"""A linear function of query, key and, where they have the same size, their product: the trilinear score.

    $$s(q, k) = w_q^\top q + w_k^\top k + w_m^\top (q \odot k) + b$$

    Computed as one product, $[w_m \odot q + w_k,\ w_q^\top q + b]^\top [k, 1]$. Without $w_m$ query and key may have
    different sizes, and it is a product of two numbers each, $[w_q^\top q + b,\ 1]^\top [1,\ w_k^\top k]$. What
    depends on the query alone, the first term and $b$, changes no weight under softmax, sparsemax or entmax.

    *Shape:* query `(..., heads, query_len, query_size)`, key `(..., heads, key_len, key_size)` -> scores
    `(..., heads, query_len, key_len)`; weight ($[w_q, w_k, w_m]$) `(3 * size,)` or without the product
    `(query_size + key_size,)`, or that once a head, `(heads, ...)`; bias ($b$) `()` or `(heads,)`, zero when
    absent. Another shape, or no weight, raises `ValueError`.

    Example:
        >>> query, key = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 2.0]])
        >>> linear = Linear(torch.tensor([1.0, 0.0, 0.0, 5.0, 1.0, 1.0]))
        >>> linear.compare(*linear.prepare(query, key))
        tensor([[ 4., 15.]])

    Seo et al. 2017 (BiDAF), equation 1. allennlp's `LinearMatrixAttention` with `combination="x,y,x*y"` is this with a
    bias, with its default `"x,y"` this without $w_m$; its other combinations ("x-y", "x/y") have no counterpart.
    """

    weight: Tensor | None = None
    bias: Tensor | None = None
    name: ClassVar[str] = "linear"

    def learn(self, heads: int, size: int) -> Score:
        """A uniform weight of all three parts with variance 1/(3 size), so that scores start near unit size, and no
        bias."""
        bound = 1 / math.sqrt(size)
        weight = torch.empty(heads, 3 * size).uniform_(-bound, bound)
        return replace(self, weight=weight, bias=torch.zeros(heads))

    def check(self, query: Tensor, key: Tensor) -> None:
        weight = needed("weight", self.name, self.weight)
        both = query.shape[-1] + key.shape[-1]
        plain = query.shape[-1] != key.shape[-1] or tuple(getattr(weight, "shape", ()))[-1:] == (both,)
        check_shape("weight", self.name, weight, (both if plain else 3 * query.shape[-1],), query)
        if self.bias is not None:
            check_shape("bias", self.name, self.bias, (), query)

    def operations(self, size: int) -> int:
        return 4 if self.weight is not None and self.weight.shape[-1] != 3 * size else 2 * (size + 1)

    def prepare(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        weight = needed("weight", self.name, self.weight).to(query.dtype)
        sizes = query.shape[-1], key.shape[-1]
        of_query, of_key, of_both = weight.unsqueeze(-2).split(
            [*sizes, weight.shape[-1] - sum(sizes)], dim=-1
        )
        offset = query @ of_query.mT
        if self.bias is not None:
            offset = offset + self.bias.to(query.dtype)[..., None, None]
        if of_both.shape[-1]:
            # The keys' own term is put on the queries' side: keys may be shared by heads of different weights.
            query = torch.cat([query * of_both + of_key, offset], dim=-1)
            return query, torch.cat([key, key.new_ones(*key.shape[:-1], 1)], dim=-1)
        if weight.ndim > 1:
            key = for_each_head(key, query)
        of_keys = key @ of_key.mT
        return torch.cat([offset, torch.ones_like(offset)], dim=-1), torch.cat(
            [torch.ones_like(of_keys), of_keys], dim=-1
        )


@dataclass(frozen=True, eq=False)
class Location(Score):
    r"""A score of the place alone: the query says where to look, whatever the key there.

    $$s(q, k_j) = w_j^\top q$$

    *Shape:* query `(..., heads, query_len, size)`, key `(..., heads, key_len, key_size)` -> scores
    `(..., heads, query_len, key_len)`; weight ($w$) `(places, size)` or `(heads, places, size)`, the first `key_len`
    places of which are used. `max_len` is the number of places that `learn` makes. Another shape, no weight, or more
    keys than places raises `ValueError`.

    Example:
        >>> query, key = torch.tensor([[1.0, 2.0]]), torch.randn(2, 7)
        >>> location = Location(weight=torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        >>> location.compare(*location.prepare(query, key))
        tensor([[1., 2.]])
        >>> Location(200).spelling
        'location-200'

    Luong et al. 2015, equation 8 ("location"), where $w$ is $W_a$. PyTorch's first tutorial on translation attends so,
    by a linear layer of `max_length` outputs, to sources padded to that length.
    """

    max_len: int = 512
    weight: Tensor | None = None
    name: ClassVar[str] = "location"

    def __post_init__(self) -> None:
        check_whole("max_len of the score 'location'", self.max_len, 1)

    def learn(self, heads: int, size: int) -> Score:
        """A uniform weight of `max_len` places with variance 1/size, so that scores start near unit size."""
        bound = math.sqrt(3 / size)
        return replace(self, weight=torch.empty(heads, self.max_len, size).uniform_(-bound, bound))

    def check(self, query: Tensor, key: Tensor) -> None:
        weight = needed("weight", self.name, self.weight)
        places = weight.shape[-2] if isinstance(weight, Tensor) and weight.ndim > 1 else self.max_len
        check_shape("weight", self.name, weight, (places, query.shape[-1]), query)
        if key.shape[-2] > places:
            raise ValueError(
                f"key must have at most the {places} places that the score 'location' knows, it has {key.shape[-2]} "
                f"(their number is spelt location-{key.shape[-2]})"
            )

    def prepare(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        weight = needed("weight", self.name, self.weight).to(query.dtype)[..., : key.shape[-2], :]
        heads = key.shape[:-2] if weight.ndim == 2 else query.shape[:-2]
        return query, weight.expand(*heads, *weight.shape[-2:])


def _unit(vectors: Tensor) -> Tensor:
    """Vectors divided by their length; zero vectors stay zero, with zero gradient."""
    largest = (
        vectors.detach().abs().amax(-1, keepdim=True) if vectors.shape[-1] else vectors[..., :0].sum(-1, True)
    )
    largest = torch.where(largest == 0, 1.0, largest)
    scaled = vectors / largest
    squared = scaled.square().sum(-1, keepdim=True)
    return scaled * torch.where(squared == 0, 1.0, squared).rsqrt()


def _per_head(tensor: Tensor, query: Tensor, name: str) -> Tensor:
    if tensor.ndim == 0:
        return tensor
    if tensor.ndim == 1 and query.ndim >= 3 and tensor.shape[0] == query.shape[-3]:
        return tensor[:, None, None]
    heads = query.shape[-3] if query.ndim >= 3 else 1
    raise ValueError(f"{name} must be a number or one number a head ({heads},), it is {tuple(tensor.shape)}")
