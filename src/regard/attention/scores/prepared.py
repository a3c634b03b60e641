"""A score whose queries and keys come prepared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from regard.attention.scores.modifier import Modifier

__all__ = ["Prepared"]


@dataclass(frozen=True, eq=False)
class Prepared(Modifier):
    """A score that compares queries and keys which the inner score has prepared already: for backends that cut them
    into pieces, each of which is a call of its own.

    *Shape:* as the inner score's `prepare` gives them.
    """

    name: ClassVar[str] = "prepared"

    def check(self, query: Tensor, key: Tensor) -> None:
        """Nothing: the inner score has checked what they were made of."""

    def prepare(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return query, key
