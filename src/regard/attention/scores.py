"""Similarity functions: how well each key answers each query.

A score function is a small frozen value. It says how queries and keys are *prepared* once (projected,
normalised), and how a block of prepared queries is *compared* with the keys. A score that is a plain
product of the prepared tensors says so (`product = True`), which is what fused kernels need to know.
To add one: write the class, list it in `SCORES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

__all__ = ["SCORES", "Additive", "Cosine", "Distance", "Dot", "General", "ScaledDot", "Score"]


@dataclass(frozen=True, eq=False)
class Score:
    """A function of a query and a key that says how well they match: *score(q, k) -> scalar*.

    *Shape:* query `(..., heads, query_len, size)`, key `(..., heads, key_len, size)` -> scores
    `(..., heads, query_len, key_len)`; the heads axis may be absent. `regard.attend` raises `ValueError` when their
    sizes do not suit the score.
    """

    name: ClassVar[str]
    product: ClassVar[bool] = True
    """Whether the score is `factor * prepared_query . prepared_key`."""

    @classmethod
    def initial(cls, heads: int, size: int) -> dict[str, Tensor]:
        """The values from which layers learn the tensors of this score, by field, for `heads` heads of `size`."""
        return {}

    def check(self, query_size: int, key_size: int, heads: int | None) -> None:
        """Raise `ValueError` when queries of `query_size`, in so many heads (None: no such axis), cannot be compared
        with keys of `key_size`."""
        if query_size != key_size:
            raise ValueError(
                f"query and key must have the same size for the score {self.name!r}: "
                f"query has {query_size}, key has {key_size} (the score 'general' compares different sizes)"
            )

    def factor(self, key_size: int) -> float:
        """The constant that multiplies the product of prepared query and key, of `key_size` numbers each."""
        return 1.0

    def width(self, key_size: int) -> int:
        """How many numbers are held at once for one query-key pair while comparing."""
        return 1

    def operations(self, key_size: int) -> int:
        """How many floating-point operations one comparison takes, a transcendental function counted as one."""
        return 2 * key_size

    def prepare(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Transform all queries and keys once, before they are compared.

        *Shape:* query `(..., heads, query_len, size)`, key `(..., heads, key_len, size)`; so are the results.
        """
        return query, key

    def compare(self, query: Tensor, key: Tensor) -> Tensor:
        """Score every prepared key against every prepared query.

        *Shape:* `(..., query_len, size)`, `(..., key_len, size)` -> `(..., query_len, key_len)`.
        """
        factor = self.factor(key.shape[-1])
        return (query if factor == 1.0 else query * factor) @ key.transpose(-1, -2)


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

    def factor(self, key_size: int) -> float:
        return 1.0 / math.sqrt(max(key_size, 1)) if self.scale is None else self.scale


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

    @classmethod
    def initial(cls, heads: int, size: int) -> dict[str, Tensor]:
        """A scale of 10: cosines of at most 1 could not make softmax prefer anything."""
        return {"scale": torch.full((heads,), 10.0)}

    def factor(self, key_size: int) -> float:
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

    @classmethod
    def initial(cls, heads: int, size: int) -> dict[str, Tensor]:
        """The scaled dot product, to learn from there."""
        return {"weight": torch.eye(size).repeat(heads, 1, 1) / math.sqrt(size)}

    def check(self, query_size: int, key_size: int, heads: int | None) -> None:
        if self.weight is None:
            super().check(query_size, key_size, heads)
        else:
            _check_shape("weight", self.name, self.weight, (query_size, key_size), heads)

    def prepare(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return (query if self.weight is None else query @ self.weight.to(query.dtype)), key


@dataclass(frozen=True, eq=False)
class Additive(Score):
    r"""A one-layer network on the sum of query and key.

    $$s(q, k) = v^\top \tanh(q + k + b)$$

    Query and key come already projected ($W_q q$, $W_k k$): layers own those projections.

    *Shape:* query `(..., heads, query_len, size)`, key `(..., heads, key_len, size)` -> scores
    `(..., heads, query_len, key_len)`. `weight` ($v$) is `(size,)` or `(heads, size)`, and all ones when absent;
    `bias` ($b$) has the same shapes and is zero when absent. Another shape raises `ValueError`.

    Example:
        >>> query, key = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 2.0]])
        >>> Additive(weight=torch.tensor([1.0, 2.0])).compare(query, key)
        tensor([[2.9274, 2.7603]])

    Bahdanau et al. 2015, appendix A.1.2. Keras' `AdditiveAttention` is this without $W_q$, $W_k$ and $b$; its
    `use_scale` is $v$.
    """

    weight: Tensor | None = None
    bias: Tensor | None = None
    name: ClassVar[str] = "additive"
    product: ClassVar[bool] = False

    @classmethod
    def initial(cls, heads: int, size: int) -> dict[str, Tensor]:
        """A uniform weight with variance 1/size, so that scores start near unit size, and no bias."""
        bound = math.sqrt(3 / size)
        return {"weight": torch.empty(heads, size).uniform_(-bound, bound), "bias": torch.zeros(heads, size)}

    def check(self, query_size: int, key_size: int, heads: int | None) -> None:
        super().check(query_size, key_size, heads)
        for name, tensor in (("weight", self.weight), ("bias", self.bias)):
            if tensor is not None:
                _check_shape(name, self.name, tensor, (key_size,), heads)

    def width(self, key_size: int) -> int:
        return max(key_size, 1)

    def operations(self, key_size: int) -> int:
        return 4 * key_size

    def prepare(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        if self.bias is not None:
            bias = self.bias.to(query.dtype)
            query = query + (bias if bias.ndim == 1 else bias.unsqueeze(-2))
        return query, key

    def compare(self, query: Tensor, key: Tensor) -> Tensor:
        energy = torch.tanh(query.unsqueeze(-2) + key.unsqueeze(-3))
        if self.weight is None:
            return energy.sum(-1)
        weight = self.weight.to(energy.dtype)
        if weight.numel() == weight.shape[-1]:
            return energy @ weight.flatten()
        return (energy @ weight[:, None, :, None]).squeeze(-1)


@dataclass(frozen=True, eq=False)
class Distance(Score):
    r"""Minus the squared Euclidean distance: under softmax, a Gaussian kernel.

    $$s(q, k) = -\mathrm{scale} \cdot \lVert q - k \rVert^2, \qquad \mathrm{scale} = 1/(2\sqrt{D})$$

    With the default scale it is the scaled dot product less a penalty on long queries and keys, so the two
    can be compared like for like. Computed from differences, which is exact for near keys.

    *Shape:* query `(..., query_len, size)`, key `(..., key_len, size)` -> scores `(..., query_len, key_len)`.

    Example:
        >>> query, key = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 2.0]])
        >>> Distance(scale=1.0).compare(query, key)
        tensor([[-8., -1.]])

    Tsai et al. 2019 ("Transformer Dissection"), who read attention as a kernel smoother and try this kernel (RBF)
    among others. PyTorch's `scaled_dot_product_attention` and Keras have no such score.
    """

    scale: float | None = None
    name: ClassVar[str] = "distance"
    product: ClassVar[bool] = False

    def width(self, key_size: int) -> int:
        return max(key_size, 1)

    def operations(self, key_size: int) -> int:
        return 3 * key_size

    def compare(self, query: Tensor, key: Tensor) -> Tensor:
        scale = 0.5 / math.sqrt(max(key.shape[-1], 1)) if self.scale is None else self.scale
        return (query.unsqueeze(-2) - key.unsqueeze(-3)).square().sum(-1) * -scale


SCORES: dict[str, Callable[[], Score]] = {
    part.name: part for part in (Dot, ScaledDot, Cosine, General, Additive, Distance)
}
"""Every score function by the name that spells it."""


def _unit(vectors: Tensor) -> Tensor:
    """Vectors divided by their length; zero vectors stay zero, with zero gradient."""
    largest = (
        vectors.detach().abs().amax(-1, keepdim=True) if vectors.shape[-1] else vectors[..., :0].sum(-1, True)
    )
    largest = torch.where(largest == 0, 1.0, largest)
    scaled = vectors / largest
    squared = scaled.square().sum(-1, keepdim=True)
    return scaled * torch.where(squared == 0, 1.0, squared).rsqrt()


def _check_shape(field: str, score: str, tensor: Tensor, one: tuple[int, ...], heads: int | None) -> None:
    """Raise `ValueError` unless `tensor` has the shape `one`, or that once a head."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"the {field} of the score {score!r} must be a tensor, it is {type(tensor).__name__}")
    allowed = [one] if heads is None else [one, (heads, *one)]
    if tuple(tensor.shape) not in allowed:
        raise ValueError(
            f"the {field} of the score {score!r} must be {' or '.join(map(str, allowed))}, "
            f"it is {tuple(tensor.shape)}"
        )


def _per_head(tensor: Tensor, query: Tensor, name: str) -> Tensor:
    if tensor.ndim == 0:
        return tensor
    if tensor.ndim == 1 and query.ndim >= 3 and tensor.shape[0] == query.shape[-3]:
        return tensor[:, None, None]
    heads = query.shape[-3] if query.ndim >= 3 else 1
    raise ValueError(f"{name} must be a number or one number a head ({heads},), it is {tuple(tensor.shape)}")
