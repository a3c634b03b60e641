"""Modifiers of any score: what is done to its queries and keys before, and to its scores after."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from regard.attention.numbers import check_number
from regard.attention.scores.modifier import Modifier
from regard.attention.scores.score import Score, check_shape, for_each_head

__all__ = ["LeakyReLU", "QKNorm", "SoftCap"]


@dataclass(frozen=True, eq=False)
class SoftCap(Modifier):
    r"""Scores kept between minus and plus `cap`, smoothly.

    $$s'(q, k) = \mathrm{cap} \cdot \tanh(s(q, k) / \mathrm{cap})$$

    Scores that are small beside the cap hardly change. A mask and a bias come after it. Raises `ValueError` unless the
    cap is a finite number above 0.

    *Shape:* that of the inner `score`.

    Example:
        >>> import regard
        >>> query, key = torch.tensor([[10.0, 20.0]]), torch.tensor([[3.0, 0.0], [0.0, 200.0]])
        >>> SoftCap(regard.scores.Dot(), cap=30.0).compare(query, key)
        tensor([[22.8478, 30.0000]])
        >>> SoftCap(regard.scores.Dot(), cap=30.0).spelling
        'dot+softcap-30'

    Gemma 2 (2024), section 2 (cap 50); Bello et al. 2017 ("logit clipping", cap 10) do not divide inside the tangent.
    Transformers spells it `attn_logit_softcapping`, FlexAttention writes it as a `score_mod`.
    """

    cap: float = 50.0
    name: ClassVar[str] = "softcap"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("the cap of softcap", self.cap)

    def width(self, size: int) -> int:
        return max(self.score.width(size), 2)

    def operations(self, size: int) -> int:
        return self.score.operations(size) + 3

    def compare(self, query: Tensor, key: Tensor) -> Tensor:
        return torch.tanh(self.score.compare(query, key) / self.cap) * self.cap


@dataclass(frozen=True, eq=False)
class LeakyReLU(Modifier):
    r"""Scores below zero multiplied by `slope`.

    $$s'(q, k) = \max(s(q, k), 0) + \mathrm{slope} \cdot \min(s(q, k), 0)$$

    Around `Linear` it is the score of graph attention networks: `linear+leaky`. Raises `ValueError` unless the slope is
    a finite number above 0.

    *Shape:* that of the inner `score`.

    Example:
        >>> import regard
        >>> query, key = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, -2.0]])
        >>> LeakyReLU(regard.scores.Dot()).compare(query, key)
        tensor([[ 3.0000, -0.8000]])

    Velickovic et al. 2018 (GAT), equation 3, where the inner score is $a^\top [W h_i; W h_j]$. PyTorch Geometric's
    `GATConv` has the edges of a graph where this has a mask; its `negative_slope` is `slope`.
    """

    slope: float = 0.2
    name: ClassVar[str] = "leaky"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("the slope of leaky", self.slope)

    @property
    def kernel(self) -> str | None:
        inner = self.score.kernel
        return None if inner is None else f"leaky_{inner.removeprefix('leaky_')}"

    @property
    def leak(self) -> float:
        return float(self.slope) * self.score.leak

    def width(self, size: int) -> int:
        return max(self.score.width(size), 2)

    def operations(self, size: int) -> int:
        return self.score.operations(size) + 1

    def compare(self, query: Tensor, key: Tensor) -> Tensor:
        return leaky_relu(self.score.compare(query, key), float(self.slope))


@dataclass(frozen=True, eq=False)
class QKNorm(Modifier):
    r"""Queries and keys divided by their root mean square, with learned scales: scores cannot grow without bound.

    $$s'(q, k) = s(\mathrm{norm}(q) \odot g_q,\ \mathrm{norm}(k) \odot g_k), \qquad
    \mathrm{norm}(x) = \frac{x}{\sqrt{\tfrac{1}{D} \sum_i x_i^2 + \epsilon}}$$

    Without scales $g_q = g_k = 1$. A score that is a product stays one. Language models normalise queries and keys and
    then turn them by their place, which is `scaled_dot+rotary+qknorm`. Raises `ValueError` unless `epsilon` is a finite
    number above 0.

    *Shape:* query `(..., heads, query_len, query_size)`, key `(..., heads, key_len, key_size)`, as the inner `score`
    takes them; `query_scale` `(query_size,)` or `(heads, query_size)`, `key_scale` `(key_size,)` or
    `(heads, key_size)`, the heads being those of query. Another shape raises `ValueError`.

    Example:
        >>> import regard
        >>> norm = QKNorm(regard.scores.Dot())
        >>> query, key = torch.tensor([[10.0, 0.0]]), torch.tensor([[3.0, 0.0], [0.0, 2.0]])
        >>> norm.compare(*norm.prepare(query, key))
        tensor([[2.0000, 0.0000]])

    Dehghani et al. 2023 (ViT-22B), section 2, who subtract the mean too (layer normalisation); as here Qwen 3 (2025)
    and Transformers' `q_norm`, `k_norm` there. OLMo 2 takes the root mean square over all heads together. Henry et al.
    2020 divide by the length and learn one number: `Cosine`, as with x-transformers' `attn_qk_norm`.
    """

    epsilon: float = 1e-6
    query_scale: Tensor | None = None
    key_scale: Tensor | None = None
    name: ClassVar[str] = "qknorm"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("epsilon of qknorm", self.epsilon)

    def learn(self, heads: int, size: int) -> Score:
        """Scales of one, shared by the heads, around the inner score's first values."""
        return replace(
            self,
            score=self.score.learn(heads, size),
            query_scale=torch.ones(size),
            key_scale=torch.ones(size),
        )

    def check(self, query: Tensor, key: Tensor) -> None:
        super().check(query, key)
        if self.query_scale is not None:
            check_shape("query_scale", self.name, self.query_scale, (query.shape[-1],), query)
        if self.key_scale is not None:
            check_shape("key_scale", self.name, self.key_scale, (key.shape[-1],), query)

    def prepare(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        if self.key_scale is not None and self.key_scale.ndim > 1:
            key = for_each_head(key, query)
        return super().prepare(
            self._normal(query, self.query_scale),
            self._normal(key, self.key_scale),
        )

    def _normal(self, vectors: Tensor, scale: Tensor | None) -> Tensor:
        # In float16 the square of 256 is too large.
        found = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
        found = found * torch.rsqrt(found.square().mean(-1, keepdim=True) + self.epsilon)
        if scale is not None:
            found = found * (scale if scale.ndim == 1 else scale.unsqueeze(-2)).to(found.dtype)
        return found.to(vectors.dtype)
