"""What a score function is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from regard.attention.numbers import check_device
from regard.attention.parts import Part, spelt

__all__ = ["Score", "check_shape", "for_each_head", "needed"]


@dataclass(frozen=True, eq=False)
class Score(Part):
    """A function of a query and a key that says how well they match: *score(q, k) -> scalar*.

    *Shape:* query `(..., heads, query_len, size)`, key `(..., heads, key_len, size)` -> scores
    `(..., heads, query_len, key_len)`; the heads axis may be absent. `regard.attend` raises `ValueError` when their
    sizes do not suit the score.
    """

    name: ClassVar[str]

    @property
    def spelling(self) -> str:
        """The name under which the command line and config files know this value: `scaled_dot`, `scaled_dot-0.25`."""
        return spelt(self, self.name)

    @property
    def kernel(self) -> str | None:
        """The name of the fused kernel that compares prepared queries and keys; None where there is none.

        `product` is the product times `factor`, `distance` the negative squared distance times `factor`; `additive` is
        `net` times the hyperbolic tangent of their sum, `additive_relu` and `additive_leaky_relu` the same with these
        activations. `leaky_` before a name is that score, multiplied with `leak` where it is below zero. A backend
        names those that it knows.
        """
        return "product"

    @property
    def product(self) -> bool:
        """Whether the score is `factor * prepared_query . prepared_key`."""
        return self.kernel == "product"

    @property
    def leak(self) -> float:
        """What scores below zero are multiplied with where the name of the kernel begins with `leaky_`."""
        return 1.0

    def net(self, size: int, like: Tensor) -> Tensor | None:
        """The weight of each channel of a score whose kernel is an additive one. *Shape:* `(heads or 1, size)`."""
        return None

    @property
    def finite(self) -> bool:
        """Whether finite queries and keys have finite scores, unless they overflow: minus infinity hides a key."""
        return True

    def learn(self, heads: int, size: int) -> Score:
        """This score with the first values of the tensors that a layer of `heads` heads of `size` learns."""
        return self

    def check(self, query: Tensor, key: Tensor) -> None:
        """Raise `ValueError` when these queries and keys cannot be compared by this score.

        *Shape:* query `(..., query_heads, query_len, size)`, key `(..., key_heads, key_len, size)`.
        """
        if query.shape[-1] != key.shape[-1]:
            raise ValueError(
                f"query and key must have the same size for the score {self.name!r}: "
                f"query has {query.shape[-1]}, key has {key.shape[-1]} (the score 'general' compares different sizes)"
            )

    def factor(self, size: int) -> float:
        """The constant that multiplies the product of prepared query and key, of `size` numbers each."""
        return 1.0

    def width(self, size: int) -> int:
        """How many numbers are held at once for one query-key pair while comparing."""
        return 1

    def operations(self, size: int) -> int:
        """How many floating-point operations one comparison takes, a transcendental function counted as one."""
        return 2 * size

    def prepare(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Transform all queries and keys once, before they are compared.

        *Shape:* query `(..., query_heads, query_len, size)`, key `(..., query_heads or key_heads, key_len, size)`; so
        are the results, of any one size.
        """
        return query, key

    def compare(self, query: Tensor, key: Tensor) -> Tensor:
        """Score every prepared key against every prepared query.

        *Shape:* `(..., heads, query_len, size)`, `(..., heads, key_len, size)` -> `(..., heads, query_len, key_len)`.
        """
        factor = self.factor(key.shape[-1])
        return (query if factor == 1.0 else query * factor) @ key.transpose(-1, -2)


def check_shape(field: str, score: str, tensor: Tensor, one: tuple[int, ...], query: Tensor) -> None:
    """Raise `ValueError` unless `tensor` has the shape `one`, or that once a head of `query`."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"the {field} of the score {score!r} must be a tensor, it is {type(tensor).__name__}")
    check_device(f"the {field} of the score {score!r}", tensor, query)
    allowed = [one] if query.ndim < 3 else [one, (query.shape[-3], *one)]
    if tuple(tensor.shape) not in allowed:
        raise ValueError(
            f"the {field} of the score {score!r} must be {' or '.join(map(str, allowed))}, "
            f"it is {tuple(tensor.shape)}"
        )


def needed(field: str, score: str, tensor: Tensor | None) -> Tensor:
    """`tensor`; raises `ValueError` where it is None."""
    if tensor is None:
        raise ValueError(
            f"the score {score!r} needs its {field}: give the score as an object that has it "
            f"(regard.scores), or use a layer, which learns it"
        )
    return tensor


def for_each_head(key: Tensor, query: Tensor) -> Tensor:
    """The keys, once for every query head.

    *Shape:* key `(..., key_heads, key_len, size)` -> `(..., query_heads, key_len, size)`.
    """
    if query.ndim < 3 or key.shape[-3] in (0, query.shape[-3]):
        return key
    return key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
