"""A mechanism whose score function learns: what every attention layer is built on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.attention.masks import Mask
from regard.attention.mechanism import Mechanism
from regard.attention.operator import attend
from regard.attention.scores import SCORES

__all__ = ["LearnedMechanism"]


class LearnedMechanism(nn.Module):
    """`regard.attend` with one mechanism, owning the tensors that its score function learns.

    `mechanism` is spelt `score/normalizer[/mask]`; `size` is the size of one head's queries and keys. What the score
    function learns starts from its `initial` values; dropout acts in training mode alone.

    Raises `ValueError` for a mechanism that does not exist.

    Example:
        >>> import torch
        >>> look = LearnedMechanism("additive/softmax", heads=2, size=8)
        >>> output, weights = look(*(torch.randn(1, 2, 5, 8) for _ in range(3)), return_weights=True)
        >>> output.shape, weights.shape
        (torch.Size([1, 2, 5, 8]), torch.Size([1, 2, 5, 5]))
    """

    def __init__(self, mechanism: str, *, heads: int, size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.mechanism = Mechanism.parse(mechanism)
        self.dropout = dropout
        initial = SCORES[self.mechanism.score].initial(heads, size)  # type: ignore[attr-defined]
        self.learned = nn.ParameterDict({name: nn.Parameter(value) for name, value in initial.items()})

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Mask | Tensor | None = None,
        *,
        return_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The output and, when asked for, the weights, as `regard.attend` gives them.

        A query sees what both `mask` and the mechanism's own mask show.

        *Shape:* query `(..., heads, query_len, size)`, key `(..., heads, key_len, size)`, value
        `(..., heads, key_len, value_size)` -> `(..., heads, query_len, value_size)` and, when asked for,
        `(..., heads, query_len, key_len)`. Raises what `regard.attend` does.
        """
        if self.mechanism.mask is not None:
            mask = self.mechanism.mask if mask is None else self.mechanism.mask & mask
        found = attend(
            query,
            key,
            value,
            score=SCORES[self.mechanism.score](**dict(self.learned.items())),
            normalizer=self.mechanism.normalizer,
            mask=mask,
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


def check_heads(size: int, heads: int) -> None:
    """Raise `ValueError` unless `size` can be divided among `heads`."""
    if heads < 1 or size % heads:
        raise ValueError(f"size must be a multiple of heads: size is {size}, heads is {heads}")


def visible(lengths: Tensor, key_len: int) -> Tensor:
    """True at the keys inside each sequence. *Shape:* `(batch,)` -> `(batch, 1, 1, key_len)`."""
    return (torch.arange(key_len, device=lengths.device) < lengths[:, None])[:, None, None]
