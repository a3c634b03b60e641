"""Samples are distributed as the model says, reproducible one by one, and as selected as asked for."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from tests.models.oracle import BOS, EOS, LENGTHS, SOURCES, Oracle

from regard.models import sample, search


def probabilities(model, source, longest, temperature=1.0):
    """Every target of at most `longest` tokens with its probability, PAD and BOS never drawn."""
    found = {}
    for length in range(longest + 1):
        for tokens in itertools.product(range(EOS + 1, model.words), repeat=length):
            share, past = 1.0, [BOS]
            for token in [*tokens, EOS]:
                scores = model.scores(source, past) / temperature
                scores[:EOS] = -torch.inf
                if len(past) <= longest:
                    share *= torch.softmax(scores, -1)[token].item()
                past.append(token)
            found[tokens] = share
    return found


@pytest.mark.parametrize("temperature", [0.7, 1.0, 3.0])
def test_samples_are_distributed_as_the_model_says(temperature):
    model, count = Oracle(words=6, sharpness=1.0), 4000
    expected = probabilities(model, 3, 2, temperature)
    assert sum(expected.values()) == pytest.approx(1)
    (drawn,) = sample(
        model, SOURCES[:1], LENGTHS[:1], seeds=[1], count=count, temperature=temperature, max_length=2
    )
    seen = Counter(tuple(one.tokens) for one in drawn)
    assert seen.keys() <= expected.keys()
    squares = sum((seen[one] - count * share) ** 2 / (count * share) for one, share in expected.items())
    freedom = len(expected) - 1
    assert squares < freedom + 4 * (2 * freedom) ** 0.5  # a chi-square is that large once in ten thousand


def test_near_temperature_zero_samples_are_greedy():
    model = Oracle(words=9)
    greedy = search(model, SOURCES, LENGTHS, max_length=7)
    cold = sample(model, SOURCES, LENGTHS, seeds=range(6), temperature=1e-6, max_length=7)
    assert [[one.tokens for one in found] for found in cold] == [
        [one.tokens for one in found] for found in greedy
    ]
    assert [one.log_probability for (one,) in cold] == pytest.approx(
        [one.log_probability for (one,) in greedy]
    )


def test_one_candidate_is_greedy():
    model = Oracle(words=9)
    greedy = [best.tokens for (best,) in search(model, SOURCES, LENGTHS, max_length=7)]
    for how in ({"top_k": 1}, {"top_p": 1e-9}):
        drawn = sample(model, SOURCES, LENGTHS, seeds=[5] * 6, max_length=7, **how)
        assert [one.tokens for (one,) in drawn] == greedy


def test_only_what_is_selected_is_drawn():
    model = Oracle(words=12, sharpness=1.0)
    scores = model.scores(3, [BOS])
    scores[:EOS] = -torch.inf
    shares, order = torch.softmax(scores, -1).sort(descending=True)
    enough = int((shares.cumsum(0) < 0.6).sum()) + 1
    for how, kept in (({"top_k": 3}, 3), ({"top_p": 0.6}, enough), ({"top_k": 2, "top_p": 0.999}, 2)):
        (drawn,) = sample(model, SOURCES[:1], LENGTHS[:1], seeds=[0], count=500, max_length=1, **how)
        first = {one.tokens[0] if one.tokens else EOS for one in drawn}
        assert first == set(order[:kept].tolist())


def test_draws_hang_on_the_seed_alone():
    model = Oracle(words=9)
    how = {"max_length": 6, "temperature": 1.5}
    together = sample(model, SOURCES, LENGTHS, seeds=range(10, 16), count=3, **how)
    for row in range(6):
        alone = sample(model, SOURCES[row : row + 1], LENGTHS[:1], seeds=[10 + row], count=2 + row % 2, **how)
        assert alone[0] == together[row][: 2 + row % 2]
    others = sample(model, SOURCES, LENGTHS, seeds=range(20, 26), count=3, **how)
    assert others != together


@pytest.mark.parametrize("name", ["bahdanau", "luong", "transformer", "transformer-places"])
def test_models_price_what_they_sample(tiny, batch, name):
    source, lengths, _, _ = batch
    model = tiny(name)
    for row, drawn in enumerate(sample(model, source, lengths, seeds=range(4), count=3, max_length=5)):
        for one in drawn:
            length = int(lengths[row])
            read = (source[row : row + 1, :length], lengths[row : row + 1])
            written = torch.tensor([[BOS, *one.tokens, EOS]])
            surprise = model.loss(*read, written, torch.tensor([len(one.tokens) + 1]))[1].item()
            assert one.log_probability == one.score == pytest.approx(-surprise)
            looked = model.alignment(*read, written[:, :-1])[0, -1].mean(0)
            torch.testing.assert_close(one.weights, looked)


def test_a_prefix_is_kept_and_then_drawn_on():
    model = Oracle(words=9)
    prefixes = [[5, 6], [], [7], [8, 8, 8], [3], [4, 4]]
    drawn = sample(model, SOURCES, LENGTHS, seeds=range(6), count=4, max_length=6, prefix=prefixes)
    for source, prefix, found in zip(SOURCES[:, 0].tolist(), prefixes, drawn, strict=True):
        for one in found:
            assert one.tokens[: len(prefix)] == prefix
            assert one.log_probability == pytest.approx(model.price(source, one.tokens))
    assert len({tuple(one.tokens) for one in drawn[0]}) > 1


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"count": 0}, "count"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"seeds": [1]}, "seeds"),
        ({"prefix": [[3]]}, "prefix"),
        ({"prefix": [[EOS]] * 6}, "prefix"),
    ],
)
def test_refuses_what_cannot_be_drawn(how, named):
    with pytest.raises(ValueError, match=named):
        sample(Oracle(words=4), SOURCES, LENGTHS, **{"seeds": range(6), **how})
