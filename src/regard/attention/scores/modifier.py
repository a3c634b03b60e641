"""What a modifier is: a score that changes another."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from regard.attention.parts import spelt
from regard.attention.scores.score import Score

__all__ = ["Modifier"]


@dataclass(frozen=True, eq=False)
class Modifier(Score):
    """A score that does what another does, but for what its class changes.

    It may change how queries and keys are prepared (before or after the inner score prepares them) or what the inner
    score's comparison gives; all that it leaves alone, the inner score answers. Modifiers compose: the first to be
    spelt is the innermost. So the last to be spelt is the first to see queries and keys, and the last to see scores.

    *Shape:* that of the inner `score`.
    """

    score: Score

    def __post_init__(self) -> None:
        if not isinstance(self.score, Score):
            raise TypeError(f"a modifier must be given a score, it is given {type(self.score).__name__}")

    @property
    def spelling(self) -> str:
        return f"{self.score.spelling}+{spelt(self, self.name)}"

    @property
    def fixed(self) -> frozenset[str]:
        return frozenset(f"score_{name}" for name in self.score.fixed)

    @property
    def kernel(self) -> str | None:
        return self.score.kernel if type(self).compare is Modifier.compare else None

    @property
    def leak(self) -> float:
        return self.score.leak

    def net(self, size: int, like: Tensor) -> Tensor | None:
        return self.score.net(size, like)

    @property
    def finite(self) -> bool:
        return self.score.finite

    def learn(self, heads: int, size: int) -> Score:
        """The inner score with its own first values."""
        return replace(self, score=self.score.learn(heads, size))

    def check(self, query: Tensor, key: Tensor) -> None:
        self.score.check(query, key)

    def factor(self, size: int) -> float:
        return self.score.factor(size)

    def width(self, size: int) -> int:
        return self.score.width(size)

    def operations(self, size: int) -> int:
        return self.score.operations(size)

    def prepare(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return self.score.prepare(query, key)

    def compare(self, query: Tensor, key: Tensor) -> Tensor:
        return self.score.compare(query, key)
