"""Scores of a one-layer network on the sum of query and key."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu, pad

from regard.attention.scores.score import Score, check_shape, for_each_head, needed

__all__ = ["ACTIVATIONS", "Additive", "Concat", "LocationSensitive"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "leaky_relu": partial(leaky_relu, negative_slope=0.2),
    "relu": torch.relu,
}
"""What may stand between the two layers of an additive score."""


@dataclass(frozen=True, eq=False)
class Additive(Score):
    r"""A one-layer network on the sum of query and key.

    $$s(q, k) = v^\top \tanh(q + k + b)$$

    Query and key come already projected ($W_q q$, $W_k k$): layers own those projections. `activation` replaces the
    hyperbolic tangent: `"relu"`, or `"leaky_relu"` with the slope 0.2.

    *Shape:* query `(..., heads, query_len, size)`, key `(..., heads, key_len, size)` -> scores
    `(..., heads, query_len, key_len)`. `weight` ($v$) is `(size,)` or `(heads, size)`, and all ones when absent;
    `bias` ($b$) has the same shapes and is zero when absent. Another shape or activation raises `ValueError`.

    Example:
        >>> query, key = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 2.0]])
        >>> Additive(weight=torch.tensor([1.0, 2.0])).compare(query, key)
        tensor([[2.9274, 2.7603]])
        >>> Additive(weight=torch.tensor([1.0, 2.0]), activation="leaky_relu").compare(query, -key)
        tensor([[3.6000, 1.0000]])

    Bahdanau et al. 2015, appendix A.1.2; with `"leaky_relu"` Brody et al. 2022 (GATv2), equation 7. Keras'
    `AdditiveAttention` is this without $W_q$, $W_k$ and $b$; its `use_scale` is $v$. PyTorch Geometric's `GATv2Conv`
    has the edges of a graph where this has a mask.
    """

    weight: Tensor | None = None
    bias: Tensor | None = None
    activation: str = "tanh"
    name: ClassVar[str] = "additive"

    def __post_init__(self) -> None:
        _check_activation(self.activation, self.name)

    @property
    def kernel(self) -> str | None:
        return _kernel(self.activation)

    def net(self, size: int, like: Tensor) -> Tensor | None:
        return _net(self.weight, size, like)

    def learn(self, heads: int, size: int) -> Score:
        """A uniform weight with variance 1/size, so that scores start near unit size, and no bias."""
        return replace(self, weight=_uniform(1 / size, heads, size), bias=torch.zeros(heads, size))

    def check(self, query: Tensor, key: Tensor) -> None:
        super().check(query, key)
        for name, tensor in (("weight", self.weight), ("bias", self.bias)):
            if tensor is not None:
                check_shape(name, self.name, tensor, (key.shape[-1],), query)

    def width(self, size: int) -> int:
        return max(size, 1)

    def operations(self, size: int) -> int:
        return 4 * size

    def prepare(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return _plus(query, self.bias), key

    def compare(self, query: Tensor, key: Tensor) -> Tensor:
        return _network(query, key, self.weight, self.activation)


@dataclass(frozen=True, eq=False)
class Concat(Score):
    r"""A network of one hidden layer on query and key side by side; they may have different sizes.

    $$s(q, k) = v^\top \tanh(W [q; k] + b)$$

    It is the additive score with $W = [W_q, W_k]$, and is computed so. `activation` is as in `Additive`.

    *Shape:* query `(..., heads, query_len, query_size)`, key `(..., heads, key_len, key_size)` -> scores
    `(..., heads, query_len, key_len)`. `weight` ($W$) is `(hidden, query_size + key_size)` or
    `(heads, hidden, query_size + key_size)`; `vector` ($v$) is `(hidden,)` or `(heads, hidden)`, and all ones when
    absent; `bias` ($b$) has the same shapes and is zero when absent. Another shape or activation, or no weight, raises
    `ValueError`.

    Example:
        >>> query, key = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [0.0]])
        >>> concat = Concat(torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 1.0]]), torch.tensor([1.0, 2.0]))
        >>> concat.compare(*concat.prepare(query, key))
        tensor([[1.0358, 2.6896]])

    Luong et al. 2015, section 3.1 ("concat"), without a bias; with `"leaky_relu"` as Brody et al. 2022 (GATv2) write
    it. PyTorch, Keras and allennlp have no such score.
    """

    weight: Tensor | None = None
    vector: Tensor | None = None
    bias: Tensor | None = None
    activation: str = "tanh"
    name: ClassVar[str] = "concat"

    def __post_init__(self) -> None:
        _check_activation(self.activation, self.name)

    @property
    def kernel(self) -> str | None:
        return _kernel(self.activation)

    def net(self, size: int, like: Tensor) -> Tensor | None:
        return _net(self.vector, size, like)

    def learn(self, heads: int, size: int) -> Score:
        """A hidden layer of `size`, uniform weights that keep hidden layer and scores near unit size, and no bias."""
        return replace(
            self,
            weight=_uniform(1 / (2 * size), heads, size, 2 * size),
            vector=_uniform(1 / size, heads, size),
            bias=torch.zeros(heads, size),
        )

    def check(self, query: Tensor, key: Tensor) -> None:
        weight = needed("weight", self.name, self.weight)
        hidden = self._hidden(key.shape[-1])
        check_shape("weight", self.name, weight, (hidden, query.shape[-1] + key.shape[-1]), query)
        for name, tensor in (("vector", self.vector), ("bias", self.bias)):
            if tensor is not None:
                check_shape(name, self.name, tensor, (hidden,), query)

    def _hidden(self, size: int) -> int:
        """The size of the hidden layer, `size` where there is no weight that says it."""
        return self.weight.shape[-2] if isinstance(self.weight, Tensor) and self.weight.ndim > 1 else size

    def width(self, size: int) -> int:
        return max(self._hidden(size), 1)

    def operations(self, size: int) -> int:
        return 4 * self._hidden(size)

    def prepare(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        weight = needed("weight", self.name, self.weight).to(query.dtype)
        of_query, of_key = weight.split([query.shape[-1], key.shape[-1]], dim=-1)
        if weight.ndim > 2:
            key = for_each_head(key, query)
        return _plus(query @ of_query.mT, self.bias), key @ of_key.mT

    def compare(self, query: Tensor, key: Tensor) -> Tensor:
        return _network(query, key, self.vector, self.activation)


@dataclass(frozen=True, eq=False)
class LocationSensitive(Score):
    r"""The additive score that also knows where it looked before: for a decoder that reads its source in order.

    $$s(q, k_j) = v^\top \tanh(q + k_j + U f_j + b), \qquad f = F * \alpha$$

    $\alpha$ is the `alignment`: the weights of the step before, or those and their sum over all steps as two channels;
    the convolution along the keys is centred and sees zeros beyond the ends. All queries of a call see the same
    alignment. Without one, before the first step, it is zero and the score is additive. Query and key come already
    projected.

    *Shape:* query `(..., heads, query_len, size)`, key `(..., heads, key_len, size)` -> scores
    `(..., heads, query_len, key_len)`. `alignment` is `(..., heads, key_len)` or `(..., heads, channels, key_len)`,
    with the leading axes of query; `filters` ($F$) `(features, channels, kernel)` with an odd kernel; `projection`
    ($U$) `(size, features)` or `(heads, size, features)`; `weight` ($v$) and `bias` ($b$) are as in `Additive`. Another
    shape, or an alignment without filters and projection, raises `ValueError`.

    Example:
        >>> query, key = torch.zeros(1, 2), torch.zeros(4, 2)
        >>> before = torch.tensor([0.0, 1.0, 0.0, 0.0])
        >>> next_place, projection = torch.tensor([[[1.0, 0.0, 0.0]]]), torch.tensor([[1.0], [0.0]])
        >>> forwards = LocationSensitive(before, next_place, projection)
        >>> forwards.compare(*forwards.prepare(query, key))
        tensor([[0.0000, 0.0000, 0.7616, 0.0000]])

    Chorowski et al. 2015, equations 8 and 9; Shen et al. 2018 (Tacotron 2), section 2.2, give it the sum over all
    steps, and filters of the size that `learn` makes. As everywhere in PyTorch the convolution does not turn its
    filters round: $f_j$ is the sum of $F_r\, \alpha_{j + r}$ over the offsets $r$. PyTorch and Keras have no such
    score.
    """

    alignment: Tensor | None = None
    filters: Tensor | None = None
    projection: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    name: ClassVar[str] = "location_sensitive"

    @property
    def fixed(self) -> frozenset[str]:
        return frozenset({"alignment"})

    @property
    def kernel(self) -> str | None:
        return "additive"

    def net(self, size: int, like: Tensor) -> Tensor | None:
        return _net(self.weight, size, like)

    def learn(self, heads: int, size: int) -> Score:
        """32 uniform filters of 31 places and a projection, as `nn.Conv1d` and `nn.Linear` start theirs; weight and
        bias as those of `Additive`. The filters have the channels of those there are already, or one."""
        channels = 1 if self.filters is None else self.filters.shape[1]
        return replace(
            self,
            filters=_uniform(1 / (3 * channels * 31), 32, channels, 31),
            projection=_uniform(1 / (3 * 32), heads, size, 32),
            weight=_uniform(1 / size, heads, size),
            bias=torch.zeros(heads, size),
        )

    def check(self, query: Tensor, key: Tensor) -> None:
        super().check(query, key)
        size = key.shape[-1]
        for name, tensor in (("weight", self.weight), ("bias", self.bias)):
            if tensor is not None:
                check_shape(name, self.name, tensor, (size,), query)
        if self.alignment is None:
            return
        filters = needed("filters", self.name, self.filters)
        projection = needed("projection", self.name, self.projection)
        if not isinstance(filters, Tensor) or filters.ndim != 3 or filters.shape[-1] % 2 == 0:
            what = tuple(filters.shape) if isinstance(filters, Tensor) else type(filters).__name__
            raise ValueError(
                f"the filters of the score {self.name!r} must be (features, channels, kernel) with an odd kernel, "
                f"they are {what}"
            )
        check_shape("projection", self.name, projection, (size, filters.shape[0]), query)
        allowed = [(*query.shape[:-2], filters.shape[1], key.shape[-2])]
        if filters.shape[1] == 1:
            allowed.insert(0, (*query.shape[:-2], key.shape[-2]))
        if tuple(self.alignment.shape) not in allowed:
            raise ValueError(
                f"the alignment of the score {self.name!r} must be {' or '.join(map(str, allowed))}, "
                f"it is {tuple(self.alignment.shape)}"
            )

    def width(self, size: int) -> int:
        return max(size, 1)

    def operations(self, size: int) -> int:
        return 4 * size

    def prepare(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        if self.alignment is not None and key.shape[-2]:
            key = for_each_head(key, query) + self._places(query)
        return _plus(query, self.bias), key

    def _places(self, query: Tensor) -> Tensor:
        """What each place's surroundings add to its key. *Shape:* `(..., heads, key_len, size)`."""
        alignment = needed("alignment", self.name, self.alignment).to(query.dtype)
        filters = needed("filters", self.name, self.filters).to(query.dtype)
        projection = needed("projection", self.name, self.projection).to(query.dtype)
        if alignment.ndim < query.ndim:
            alignment = alignment.unsqueeze(-2)
        kernel = filters.shape[-1]
        around = pad(alignment, (kernel // 2, kernel // 2)).unfold(-1, kernel, 1)
        # Filters and projection are both linear: one product does for the two.
        return around.transpose(-2, -3).flatten(-2) @ (projection @ filters.flatten(1)).mT

    def compare(self, query: Tensor, key: Tensor) -> Tensor:
        return _network(query, key, self.weight, "tanh")


def _kernel(activation: str) -> str:
    return "additive" if activation == "tanh" else f"additive_{activation}"


def _check_activation(activation: str, score: str) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"the activation of the score {score!r} must be one of {', '.join(ACTIVATIONS)}, it is {activation!r}"
        )


def _uniform(variance: float, *shape: int) -> Tensor:
    bound = math.sqrt(3 * variance)
    return torch.empty(shape).uniform_(-bound, bound)


def _plus(query: Tensor, bias: Tensor | None) -> Tensor:
    """*Shape:* query `(..., heads, query_len, size)`, bias `(size,)` or `(heads, size)`."""
    if bias is None:
        return query
    bias = bias.to(query.dtype)
    return query + (bias if bias.ndim == 1 else bias.unsqueeze(-2))


def _net(weight: Tensor | None, size: int, like: Tensor) -> Tensor:
    """*Shape:* weight `(size,)` or `(heads, size)` -> `(heads or 1, size)`."""
    return like.new_ones(1, size) if weight is None else weight.to(like.dtype).reshape(-1, size)


def _network(query: Tensor, key: Tensor, weight: Tensor | None, activation: str) -> Tensor:
    """The weighted sum of the activated sums of every query and key. *Shape:* weight `(size,)` or `(heads, size)`."""
    energy = ACTIVATIONS[activation](query.unsqueeze(-2) + key.unsqueeze(-3))
    if weight is None:
        return energy.sum(-1)
    weight = weight.to(energy.dtype)
    if weight.numel() == weight.shape[-1]:
        return energy @ weight.flatten()
    return (energy @ weight[:, None, :, None]).squeeze(-1)
