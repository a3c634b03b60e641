"""One sentence that a model wrote, and how it is read off the steps that wrote it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Hypothesis", "default_max_length", "length_divisor"]

MaxLength = int | Callable[[int], int]
"""The most tokens of a target: a number, or a function of its source's length."""


@dataclass(frozen=True)
class Hypothesis:
    """One sentence the model wrote.

    `score` is its log-probability (EOS included) divided by the length penalty; `weights`, *shape*
    `(len(tokens) + 1, source_len)`, tell where the model looked for each token and for EOS, over the
    sentence's own source.
    """

    tokens: list[int]
    score: float
    log_probability: float
    weights: Tensor | None = field(default=None, compare=False, repr=False)


def length_divisor(length: int, penalty: float) -> float:
    """Return `((5 + length) / 6) ** penalty`, the divisor of log-probabilities (Wu et al. 2016, equation 14)."""
    return ((5 + length) / 6) ** penalty


def default_max_length(source_length: int) -> int:
    """Return the most tokens a target may have, unless told otherwise: twice the source's and ten more."""
    return 2 * source_length + 10


@dataclass(frozen=True)
class Plan:
    """What is settled about each sentence beforehand: how long its target may get, and how it begins."""

    limits: list[int]
    prefixes: list[list[int]]
    eos: int

    @classmethod
    def of(
        cls,
        lengths: Sequence[int],
        max_length: MaxLength,
        prefix: Sequence[Sequence[int]] | None,
        specials: tuple[int, int, int],
    ) -> Plan:
        """From the sources' lengths; a prefix longer than allowed is written whole, and nothing after it.

        Raises `ValueError` for a negative limit, and unless there is a prefix without `specials` (BOS, EOS and
        padding) for each source.
        """
        limits = [max_length(length) if callable(max_length) else max_length for length in lengths]
        if any(limit < 0 for limit in limits):
            raise ValueError(f"max_length must be at least 0, got {min(limits)}")
        prefixes = [[] for _ in limits] if prefix is None else [list(one) for one in prefix]
        if len(prefixes) != len(limits):
            raise ValueError(
                f"prefix must have one for each source, {len(limits)} in all, got {len(prefixes)}"
            )
        if wrong := [token for one in prefixes for token in one if token in specials]:
            raise ValueError(f"prefix must be without BOS, EOS and padding, got {wrong[0]}")
        longest = [max(limit, len(one)) for limit, one in zip(limits, prefixes, strict=True)]
        return cls(longest, prefixes, specials[1])

    @property
    def steps(self) -> int:
        """How many tokens, EOS included, the longest target may take."""
        return max(self.limits, default=-1) + 1

    def forced(self, sentence: int, length: int) -> int | None:
        """The only token that may follow the first `length` ones, where there is but one."""
        if length < len(self.prefixes[sentence]):
            return self.prefixes[sentence][length]
        return self.eos if length == self.limits[sentence] else None


class Trail:
    """What each step fed to the model, from which row, and where it looked: hypotheses are read off it."""

    def __init__(self) -> None:
        self.steps: list[tuple[list[int], list[int], Tensor | None]] = []

    def append(self, tokens: Tensor, parents: Tensor, weights: Tensor | None) -> None:
        """*Shape*: tokens and parents, the rows of the step before that they continue, `(rows,)`; weights `(rows,
        source_len)`."""
        self.steps.append((tokens.tolist(), parents.tolist(), weights))

    def follow(self, step: int, row: int, source_length: int) -> tuple[list[int], Tensor | None]:
        """The tokens up to the one that `row` was fed at `step`, without BOS, and where the model looked."""
        tokens: list[int] = []
        looked: list[Tensor] = []
        for fed, parents, weights in reversed(self.steps[: step + 1]):
            tokens.append(fed[row])
            if weights is not None:
                looked.append(weights[row, :source_length])
            row = parents[row]
        tokens.reverse()
        return tokens[1:], torch.stack(looked[::-1]) if looked else None
