"""Batches of sequence pairs: alike in length, bounded in padded tokens, in an order that can be resumed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, TypeVar

import torch
from torch import Tensor

from regard.data.vocabulary import BOS, EOS, PAD
from regard.errors import UserError

Example = tuple[list[int], list[int]]
Result = TypeVar("Result")
Collated = TypeVar("Collated")

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


def collate(examples: Sequence[Example], index: Sequence[int] | None = None) -> Batch:
    """Lay examples side by side, each target between BOS and EOS; `index` are their numbers (0, 1, ... if not given).

    Of no example it makes the idle batch: one row of padding with nothing to predict.

    Example:
        >>> collate([([5, 6], [7]), ([8], [9, 9])]).target.tolist()
        [[1, 7, 2, 0], [1, 9, 9, 2]]
    """
    if not examples:
        one = torch.tensor([1], dtype=torch.int64)
        return Batch(torch.tensor([[PAD]]), one, torch.tensor([[BOS, PAD]]), one - 1, [])
    sources = [source for source, _ in examples]
    targets = [[BOS, *target, EOS] for _, target in examples]
    return Batch(
        source=padded(sources),
        source_lengths=torch.tensor([len(source) for source in sources], dtype=torch.int64),
        target=padded(targets),
        target_lengths=torch.tensor([len(target) - 1 for target in targets], dtype=torch.int64),
        index=list(range(len(examples)) if index is None else index),
    )


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of ids side by side, padded with PAD on the right.  *Shape*: `(rows, longest)`, int64.

    Example:
        >>> padded([[5, 6], [7]]).tolist()
        [[5, 6], [7, 0]]
    """
    width = max((len(row) for row in rows), default=0)
    return torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows], dtype=torch.int64).view(
        -1, width
    )


def pair_batches(examples: Sequence[Example], max_tokens: int, seed: int = 0) -> Batches[Batch]:
    """The batches of pairs of a source and a target, given as ids.

    Example:
        >>> batches = pair_batches([([4, 5], [6]), ([7], [8, 9]), ([4], [5])], max_tokens=6)
        >>> len(batches), sum(len(batch.index) for batch in batches.epoch(0))
        (2, 3)
    """
    lengths = [(len(source), len(target)) for source, target in examples]

    def lay(index: Sequence[int]) -> Batch:
        return collate([examples[place] for place in index], index)

    return Batches(lengths, lay, max_tokens, seed)


class Batches(Generic[Collated]):
    """The batches of a data set, epoch after epoch.

    An example has two lengths, those of a source and a target (0 where a task has none); `lay` makes a batch of the
    examples of some numbers, and of none the idle batch (see `epoch`). The size of an example is the larger length and
    one more for BOS or EOS, and a batch of `rows` examples takes `rows * (size of its largest)`, which is never more
    than `max_tokens`.

    Examples are sorted by size and cut into batches as full as that allows. Examples of one size can change
    places without moving a cut, so an epoch shuffles them, keeping similar differences of length together,
    and then shuffles the batches: the number of batches is the same in every epoch, while their members and
    order depend on `(seed, epoch)` and nothing else.

    Raises `UserError` if there are no examples, or one is larger than `max_tokens`.

    """

    def __init__(
        self,
        lengths: Sequence[tuple[int, int]],
        lay: Callable[[Sequence[int]], Collated],
        max_tokens: int,
        seed: int = 0,
    ) -> None:
        if not lengths:
            raise UserError("there are no examples to make batches of")
        self.lengths = lengths
        self.lay = lay
        self.max_tokens = max_tokens
        self.seed = seed
        self._sizes = [max(both) + 1 for both in lengths]
        for number, ((source, target), size) in enumerate(zip(lengths, self._sizes, strict=True), start=1):
            if size > max_tokens:
                raise UserError(
                    f"example {number} of {len(lengths)} (source of {source} tokens, target of "
                    f"{target}) needs {size} tokens, but a batch may have only {max_tokens}: "
                    "allow larger batches or leave the example out"
                )
        self._cuts = _cut(sorted(self._sizes), max_tokens)

    def __len__(self) -> int:
        """The number of batches in an epoch, the same for each."""
        return len(self._cuts) - 1

    def epoch(self, epoch: int, *, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Collated]:
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
            yield self.lay(members[rank::world])

    def padding_waste(self) -> float:
        """The share of padding among all positions of the first epoch's sources and targets."""
        real = sum(source + target + 1 for source, target in self.lengths)
        filled = 0
        for members in self._plan(0):
            source = max(self.lengths[place][0] for place in members)
            target = max(self.lengths[place][1] for place in members) + 1
            filled += len(members) * (source + target)
        return 1.0 - real / filled

    def _plan(self, epoch: int) -> list[list[int]]:
        """The members of every batch, in the order of this epoch."""
        rng = random.Random(f"batches {self.seed} {epoch}")
        keys = []
        for place, ((source, target), size) in enumerate(zip(self.lengths, self._sizes, strict=True)):
            keys.append((size, source - target + JITTER * rng.random(), place))
        order = [place for _, _, place in sorted(keys)]
        plan = [order[first:last] for first, last in pairwise(self._cuts)]
        rng.shuffle(plan)
        return plan


def in_length_order(
    lengths: Sequence[tuple[int, int]],
    max_tokens: int,
    answer: Callable[[Sequence[int]], Sequence[Result]],
) -> list[Result]:
    """Run `answer` on numbers of examples alike in length, longest first; give its results in the order of examples.

    `lengths` are those of sources and targets, 0 where there is none yet. `answer` returns one result for each number.
    Batches are bounded as in `Batches`, but an example larger than `max_tokens` is let through, alone.

    Example:
        >>> texts = ["a", "b c"]
        >>> in_length_order([(len(text), 0) for text in texts], 100, lambda index: [texts[i].upper() for i in index])
        ['A', 'B C']
    """
    sizes = [max(both) + 1 for both in lengths]
    order = sorted(range(len(lengths)), key=lambda place: (sizes[place], lengths[place][0], place))
    cuts = _cut([sizes[place] for place in order], max_tokens)
    restored: dict[int, Result] = {}
    for first, last in reversed(list(pairwise(cuts))):
        members = order[first:last]
        restored.update(zip(members, answer(members), strict=True))
    return [restored[place] for place in range(len(lengths))]


def _cut(sizes: Sequence[int], max_tokens: int) -> list[int]:
    """Where to cut ascending sizes so that rows * largest <= max_tokens, or there is only one row."""
    cuts = [0]
    for place, size in enumerate(sizes):
        if place > cuts[-1] and (place - cuts[-1] + 1) * size > max_tokens:
            cuts.append(place)
    return [*cuts, len(sizes)] if sizes else cuts
