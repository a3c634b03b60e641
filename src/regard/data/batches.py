"""Batches of sequence pairs: alike in length, bounded in padded tokens, in an order that can be resumed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from regard.data.vocabulary import BOS, EOS, PAD
from regard.errors import UserError

Example = tuple[list[int], list[int]]
Result = TypeVar("Result")

# How far apart the difference of two pairs' lengths may be for them to change places between epochs.
JITTER = 2.0


@dataclass(frozen=True)
class Batch:
    """Examples side by side, padded with PAD.

    *Shape*: source `(batch, source_len)` and target `(batch, target_len + 1)`, which is BOS ... EOS, int64;
    source_lengths and target_lengths `(batch,)`, int64. `target_lengths` counts the tokens to predict,
    EOS included. `index` holds each row's place in the examples; it is empty in the idle batch of a process
    that has no row (see `Batches.epoch`).
    """

    source: Tensor
    source_lengths: Tensor
    target: Tensor
    target_lengths: Tensor
    index: list[int]

    @property
    def target_input(self) -> Tensor:
        """What a decoder is fed: BOS and every token but the last. *Shape*: `(batch, target_len)`."""
        return self.target[:, :-1]

    @property
    def target_output(self) -> Tensor:
        """What a decoder should say: every token after BOS. *Shape*: `(batch, target_len)`."""
        return self.target[:, 1:]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(
            self.source.to(device),
            self.source_lengths.to(device),
            self.target.to(device),
            self.target_lengths.to(device),
            self.index,
        )


def collate(examples: Sequence[Example], index: Sequence[int]) -> Batch:
    """Lay the examples at `index` side by side, each target between BOS and EOS.

    Example:
        >>> collate([([5, 6], [7]), ([8], [9, 9])], [0, 1]).target.tolist()
        [[1, 7, 2, 0], [1, 9, 9, 2]]
    """
    sources = [examples[place][0] for place in index]
    targets = [[BOS, *examples[place][1], EOS] for place in index]
    return Batch(
        source=_pad(sources),
        source_lengths=torch.tensor([len(source) for source in sources], dtype=torch.int64),
        target=_pad(targets),
        target_lengths=torch.tensor([len(target) - 1 for target in targets], dtype=torch.int64),
        index=list(index),
    )


def _pad(rows: list[list[int]]) -> Tensor:
    width = max((len(row) for row in rows), default=0)
    return torch.tensor([row + [PAD] * (width - len(row)) for row in rows], dtype=torch.int64).view(-1, width)


def _idle() -> Batch:
    one = torch.tensor([1], dtype=torch.int64)
    nothing = torch.tensor([[PAD]], dtype=torch.int64)
    return Batch(nothing, one, torch.tensor([[BOS, PAD]], dtype=torch.int64), one - 1, [])


class Batches:
    """The batches of a data set, epoch after epoch.

    The size of an example is `max(len(source), len(target)) + 1` (one more for BOS or EOS), and a batch of
    `rows` examples takes `rows * (size of its largest)`, which is never more than `max_tokens`.

    Examples are sorted by size and cut into batches as full as that allows. Examples of one size can change
    places without moving a cut, so an epoch shuffles them, keeping similar differences of length together,
    and then shuffles the batches: the number of batches is the same in every epoch, while their members and
    order depend on `(seed, epoch)` and nothing else.

    Raises `UserError` if there are no examples, or one is larger than `max_tokens`.

    Example:
        >>> batches = Batches([([4, 5], [6]), ([7], [8, 9]), ([4], [5])], max_tokens=6)
        >>> len(batches), sum(len(batch.index) for batch in batches.epoch(0))
        (2, 3)
    """

    def __init__(self, examples: Sequence[Example], max_tokens: int, seed: int = 0) -> None:
        if not examples:
            raise UserError("there are no examples to make batches of")
        self.examples = examples
        self.max_tokens = max_tokens
        self.seed = seed
        self._sizes = [_size(example) for example in examples]
        for number, ((source, target), size) in enumerate(zip(examples, self._sizes, strict=True), start=1):
            if size > max_tokens:
                raise UserError(
                    f"example {number} of {len(examples)} (source of {len(source)} tokens, target of "
                    f"{len(target)}) needs {size} tokens, but a batch may have only {max_tokens}: "
                    "allow larger batches or leave the example out"
                )
        self._cuts = _cut(sorted(self._sizes), max_tokens)

    def __len__(self) -> int:
        """The number of batches in an epoch, the same for each."""
        return len(self._cuts) - 1

    def epoch(self, epoch: int, *, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """The batches of one epoch from batch `start` on: process `rank`'s share of each global batch.

        A share is the rows `rank::world`, so `world` processes together see the batch that one would see.
        A process whose share is empty gets an idle batch, so that all stay in step: one row of padding with
        nothing to predict (`target_lengths` 0, `index` empty).

        Raises `ValueError` if `start` or `rank` is out of range.
        """
        if not 0 <= start <= len(self):
            raise ValueError(f"start must be from 0 to {len(self)}, the number of batches, got {start}")
        if not 0 <= rank < world:
            raise ValueError(f"rank must be from 0 to world - 1 = {world - 1}, got {rank}")
        for members in self._plan(epoch)[start:]:
            share = members[rank::world]
            yield collate(self.examples, share) if share else _idle()

    def padding_waste(self) -> float:
        """The share of padding among all positions of the first epoch's sources and targets."""
        real = sum(len(source) + len(target) + 1 for source, target in self.examples)
        padded = 0
        for members in self._plan(0):
            source = max(len(self.examples[place][0]) for place in members)
            target = max(len(self.examples[place][1]) for place in members) + 1
            padded += len(members) * (source + target)
        return 1.0 - real / padded

    def _plan(self, epoch: int) -> list[list[int]]:
        """The members of every batch, in the order of this epoch."""
        rng = random.Random(f"batches {self.seed} {epoch}")
        keys = []
        for place, ((source, target), size) in enumerate(zip(self.examples, self._sizes, strict=True)):
            keys.append((size, len(source) - len(target) + JITTER * rng.random(), place))
        order = [place for _, _, place in sorted(keys)]
        plan = [order[first:last] for first, last in pairwise(self._cuts)]
        rng.shuffle(plan)
        return plan


def in_length_order(
    examples: Sequence[Example],
    max_tokens: int,
    predict: Callable[[Batch], Sequence[Result]],
) -> list[Result]:
    """Run `predict` on batches alike in length, longest first; give its results in the order of `examples`.

    `predict` returns one result for each row. For prediction, give empty targets. Batches are bounded as
    in `Batches`, but an example larger than `max_tokens` is let through, alone.

    Example:
        >>> in_length_order([([4], []), ([5, 6], [])], 100, lambda batch: batch.source_lengths.tolist())
        [1, 2]
    """
    sizes = [_size(example) for example in examples]
    order = sorted(range(len(examples)), key=lambda place: (sizes[place], len(examples[place][0]), place))
    cuts = _cut([sizes[place] for place in order], max_tokens)
    restored: dict[int, Result] = {}
    for first, last in reversed(list(pairwise(cuts))):
        batch = collate(examples, order[first:last])
        restored.update(zip(batch.index, predict(batch), strict=True))
    return [restored[place] for place in range(len(examples))]


def _size(example: Example) -> int:
    return max(len(example[0]), len(example[1])) + 1


def _cut(sizes: Sequence[int], max_tokens: int) -> list[int]:
    """Where to cut ascending sizes so that rows * largest <= max_tokens, or there is only one row."""
    cuts = [0]
    for place, size in enumerate(sizes):
        if place > cuts[-1] and (place - cuts[-1] + 1) * size > max_tokens:
            cuts.append(place)
    return [*cuts, len(sizes)] if sizes else cuts
