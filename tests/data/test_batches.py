"""Batches: full, even, shuffled, the same again after a resume, and the same for any number of processes."""

import random
from collections.abc import Sequence
from itertools import chain

import pytest
import torch

from regard.data.batches import Batch, Batches, collate, in_length_order, pair_batches
from regard.errors import UserError

Example = tuple[list[int], list[int]]


def sentences(count: int, seed: int = 0) -> list[Example]:
    """Pairs as long as sentences are: mostly 8 to 20 tokens, sometimes much more, targets alike in length."""
    rng = random.Random(seed)
    examples = []
    for _ in range(count):
        length = max(1, min(120, round(rng.lognormvariate(2.5, 0.45))))
        target = max(1, round(length * rng.gauss(1.05, 0.15)))
        examples.append(([rng.randrange(4, 99) for _ in range(length)], [5] * target))
    return examples


def members(batches: Batches[Batch], epoch: int) -> list[list[int]]:
    return [batch.index for batch in batches.epoch(epoch)]


def same(left: Batch, right: Batch) -> bool:
    return left.index == right.index and all(
        torch.equal(getattr(left, name), getattr(right, name))
        for name in ("source", "source_lengths", "target", "target_lengths")
    )


def test_collate_pads_and_counts() -> None:
    batch = collate([([8], [9, 9]), ([5, 6], [7])], [1, 0])
    assert batch.source.tolist() == [[8, 0], [5, 6]]
    assert batch.source_lengths.tolist() == [1, 2]
    assert batch.target.tolist() == [[1, 9, 9, 2], [1, 7, 2, 0]]
    assert batch.target_lengths.tolist() == [3, 2]
    assert batch.target_input.tolist() == [[1, 9, 9], [1, 7, 2]]
    assert batch.target_output.tolist() == [[9, 9, 2], [7, 2, 0]]
    assert batch.index == [1, 0]
    assert {tensor.dtype for tensor in (batch.source, batch.target, batch.target_lengths)} == {torch.int64}
    assert same(batch.to("cpu"), batch)


def test_every_example_comes_once_an_epoch() -> None:
    batches = pair_batches(sentences(1000), 400)
    for epoch in range(3):
        assert sorted(chain.from_iterable(members(batches, epoch))) == list(range(1000))


def test_no_batch_is_larger_than_allowed_and_few_are_smaller() -> None:
    batches = pair_batches(sentences(3000), 1000)
    sizes = [len(b.index) * max(b.source.shape[1] + 1, b.target_output.shape[1]) for b in batches.epoch(2)]
    assert max(sizes) <= 1000
    assert sorted(sizes)[len(sizes) // 10] > 900


@pytest.mark.parametrize("max_tokens", [500, 1000, 4000])
def test_little_is_padding(max_tokens: int) -> None:
    batches = pair_batches(sentences(8000), max_tokens)
    assert batches.padding_waste() < 0.10
    real = padded = 0
    for batch in batches.epoch(0):
        real += int(batch.source_lengths.sum() + batch.target_lengths.sum())
        padded += batch.source.numel() + batch.target_output.numel()
    assert batches.padding_waste() == pytest.approx(1 - real / padded)


def test_epochs_have_as_many_batches_but_other_members_in_another_order() -> None:
    batches = pair_batches(sentences(2000), 500, seed=7)
    first, second = members(batches, 0), members(batches, 1)
    assert len(first) == len(second) == len(batches)
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in second}
    longest = [max(batches.lengths[place][0] for place in batch) for batch in first]
    assert longest != sorted(longest)


def test_order_depends_on_seed_and_epoch_alone() -> None:
    examples = sentences(500)
    random.seed(1)
    torch.manual_seed(1)
    once = members(pair_batches(examples, 300, seed=5), 4)
    random.seed(2)
    torch.manual_seed(2)
    batches = pair_batches(examples, 300, seed=5)
    members(batches, 0)  # an earlier epoch leaves no trace
    assert members(batches, 4) == once
    assert members(pair_batches(examples, 300, seed=6), 4) != once


@pytest.mark.parametrize("start", [0, 1, 7])
def test_resuming_in_the_middle_gives_the_same_batches(start: int) -> None:
    examples = sentences(400)
    whole = list(pair_batches(examples, 300, seed=2).epoch(3))
    rest = list(pair_batches(examples, 300, seed=2).epoch(3, start=start))
    assert len(rest) == len(whole) - start
    assert all(same(left, right) for left, right in zip(rest, whole[start:], strict=True))


def test_resuming_at_the_end_gives_nothing_and_beyond_is_an_error() -> None:
    batches = pair_batches(sentences(50), 300)
    assert list(batches.epoch(0, start=len(batches))) == []
    with pytest.raises(ValueError, match="start must be from 0 to"):
        next(batches.epoch(0, start=len(batches) + 1))
    with pytest.raises(ValueError, match="rank must be from 0 to"):
        next(batches.epoch(0, rank=2, world=2))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_together_see_the_batch_that_one_sees(world: int) -> None:
    batches = pair_batches(sentences(700), 600, seed=1)
    alone = members(batches, 5)
    shares = [list(batches.epoch(5, rank=rank, world=world)) for rank in range(world)]
    for number, batch in enumerate(alone):
        together = [share[number].index for share in shares]
        assert sorted(chain.from_iterable(together)) == sorted(batch)
        assert together == [batch[rank::world] for rank in range(world)]


def test_a_process_without_a_row_stays_in_step_with_nothing_to_predict() -> None:
    batches = pair_batches([([4] * 9, [4] * 9), ([4], [4])], max_tokens=10)
    shares = [list(batches.epoch(0, rank=rank, world=2)) for rank in range(2)]
    assert len(shares[0]) == len(shares[1]) == len(batches)
    idle = [batch for batch in shares[1] if not batch.index]
    assert idle
    for batch in idle:
        assert batch.target_lengths.tolist() == [0]
        assert batch.source_lengths.tolist() == [1]
        assert (batch.target_output == 0).all()


def test_an_example_too_large_is_named() -> None:
    with pytest.raises(
        UserError, match=r"example 2 of 3 \(source of 3 tokens, target of 9\) needs 10 tokens"
    ):
        pair_batches([([4], [4]), ([4] * 3, [4] * 9), ([4], [4])], max_tokens=9)
    assert len(pair_batches([([4] * 3, [4] * 9)], max_tokens=10)) == 1


def test_no_examples_is_an_error() -> None:
    with pytest.raises(UserError, match="no examples"):
        pair_batches([], 100)


def test_predictions_come_back_in_the_order_of_the_input() -> None:
    sources = [source for source, _ in sentences(300)]
    widths = []

    def answer(index: Sequence[int]) -> list[list[int]]:
        widths.append(max(len(sources[place]) for place in index))
        return [sources[place] for place in index]

    assert in_length_order([(len(source), 0) for source in sources], 200, answer) == sources
    assert widths == sorted(widths, reverse=True)
    assert len(widths) > 5


def test_prediction_lets_a_large_example_through_alone() -> None:
    rows = in_length_order([(1, 0), (50, 0), (2, 0)], 10, lambda index: [len(index)] * len(index))
    assert rows == [2, 1, 2]
    assert in_length_order([], 10, lambda index: index) == []
