"""A mechanism whose score function learns: what every attention layer is built on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from regard.attention.call import mask_of
from regard.attention.masks import Mask
from regard.attention.mechanism import Mechanism, normalizer_named, score_named
from regard.attention.normalizers import Normalizer
from regard.attention.operator import attend
from regard.attention.parts import Part, named_tensors, tensors_of, with_tensors
from regard.attention.scores import Function, Score
from regard.layers.checks import check_share, check_sizes

__all__ = ["LearnedMechanism", "LearnedPart"]


class LearnedPart(nn.Module):
    """A score function, normaliser or bias whose tensors are parameters; calling it gives the part with them.

    The parameters are copies: what was given is not trained, and two layers made from it share nothing.

    Example:
        >>> import regard
        >>> part = LearnedPart(regard.scores.Additive().learn(heads=2, size=4))
        >>> [name for name, _ in part.named_parameters()], part().weight is part.weight
        (['weight', 'bias'], True)
    """

    def __init__(self, part: Part) -> None:
        super().__init__()
        named = named_tensors(part)
        for name, tensor in named.items():
            if name in part.fixed:
                self.register_buffer(name, tensor.detach().clone())
            else:
                self.register_parameter(name, nn.Parameter(tensor.detach().clone()))
        self.names = tuple(named)
        self.part = with_tensors(part, [tensor.to("meta") for tensor in named.values()])

    def forward(self) -> Any:
        """The part with its parameters as they are now."""
        return (
            with_tensors(self.part, [getattr(self, name) for name in self.names]) if self.names else self.part
        )

    def extra_repr(self) -> str:
        return repr(self.part)


def learned_score(
    score: Score | Callable[[Tensor, Tensor], Tensor] | str, heads: int, size: int
) -> LearnedPart:
    """A score function that learns: from the tensors it was given, or from the values of its `learn`.

    Raises `TypeError` for what is no score, no name and no function of query and key.
    """
    if isinstance(score, str):
        score = score_named(score)
    elif not isinstance(score, Score):
        if not callable(score) or isinstance(score, type):
            raise TypeError(
                f"score must be a regard score, its name or a function of query and key, it is {score!r}"
            )
        score = Function(score)
    return LearnedPart(score if tensors_of(score) else score.learn(heads, size))


def learned_normalizer(normalizer: Normalizer | str, heads: int) -> LearnedPart:
    """A normaliser that learns: from the tensors it was given, or from the values of its `learn`.

    Raises `TypeError` for what is no normaliser and no name.
    """
    if isinstance(normalizer, str):
        normalizer = normalizer_named(normalizer)
    elif not isinstance(normalizer, Normalizer):
        raise TypeError(f"normalizer must be a regard normalizer or its name, it is {normalizer!r}")
    return LearnedPart(normalizer if tensors_of(normalizer) else normalizer.learn(heads))


class LearnedMechanism(nn.Module):
    """`regard.attend` with one mechanism, owning the tensors that its score function learns.

    `mechanism` is spelt `score/normalizer[/mask]`; `size` is the size of one head's queries and keys. What the score
    function, normaliser and bias learn starts from the values of their `learn`, or, where `mechanism` is an object with
    tensors, from copies of those; dropout acts in training mode alone.

    Raises `ValueError` for a mechanism that does not exist, sizes below 1 and a dropout that is not at least 0 and
    below 1; `TypeError` for a mechanism that is neither a spelling nor a `regard.Mechanism`.

    Example:
        >>> import torch
        >>> look = LearnedMechanism("additive/softmax", heads=2, size=8)
        >>> output, weights = look(*(torch.randn(1, 2, 5, 8) for _ in range(3)), return_weights=True)
        >>> output.shape, weights.shape
        (torch.Size([1, 2, 5, 8]), torch.Size([1, 2, 5, 5]))
    """

    def __init__(self, mechanism: str | Mechanism, *, heads: int, size: int, dropout: float = 0.0) -> None:
        super().__init__()
        check_sizes(heads=heads, size=size)
        check_share(dropout=dropout)
        self.mechanism = mechanism if isinstance(mechanism, Mechanism) else Mechanism.parse(mechanism)
        self.dropout = dropout
        bias = self.mechanism.bias
        self.score = learned_score(self.mechanism.score, heads, size)
        self.normalizer = learned_normalizer(self.mechanism.normalizer, heads)
        self.bias = None if bias is None else LearnedPart(bias.learn(heads))

    @property
    def coupled(self) -> bool:
        """Whether the weights of a query depend on those of the queries before it."""
        return self.mechanism.normalizer.coupled

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Mask | Tensor | None = None,
        *,
        return_weights: bool = False,
        previous: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The output and, when asked for, the weights, as `regard.attend` gives them.

        A query sees what both `mask` and the mechanism's own mask show. `previous`, for a mechanism that is `coupled`,
        is the last row of weights of the call before this one.

        *Shape:* query `(..., heads, query_len, size)`, key `(..., heads, key_len, size)`, value
        `(..., heads, key_len, value_size)`, previous `(..., heads, key_len)` -> `(..., heads, query_len, value_size)`
        and, when asked for, `(..., heads, query_len, key_len)`. Raises what `regard.attend` does.
        """
        if self.mechanism.mask is not None:
            mask = self.mechanism.mask if mask is None else self.mechanism.mask & mask_of(mask)
        normalizer = self.normalizer() if self.training else self.normalizer().settled()
        if previous is not None:
            normalizer = normalizer.after(previous)
        found = attend(
            query,
            key,
            value,
            score=self.score(),
            normalizer=normalizer,
            mask=mask,
            bias=None if self.bias is None else self.bias(),
            dropout=self.dropout if self.training else 0.0,
            return_weights=return_weights,
        )
        return found if isinstance(found, tuple) else (found, None)

    def extra_repr(self) -> str:
        return f"{self.mechanism.spelling!r}, dropout={self.dropout}"


def split_heads(tensor: Tensor, heads: int) -> Tensor:
    """*Shape:* `(batch, length, heads * size)` -> `(batch, heads, length, size)`."""
    return tensor.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(tensor: Tensor) -> Tensor:
    """*Shape:* `(batch, heads, length, size)` -> `(batch, length, heads * size)`."""
    return tensor.transpose(1, 2).flatten(2)


def visible(lengths: Tensor, sequence: Tensor) -> Tensor:
    """True at the places inside each sequence.

    *Shape:* `(batch,)`, `(batch, length, size)` -> `(batch, 1, 1, length)`.
    """
    places = torch.arange(sequence.shape[1], device=sequence.device)
    return (places < lengths.to(sequence.device)[:, None])[:, None, None]


def uniform(variance: float, *shape: int) -> Tensor:
    """First values around zero with a variance."""
    bound = math.sqrt(3 * variance)
    return torch.empty(shape).uniform_(-bound, bound)
