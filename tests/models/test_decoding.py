"""Search finds what an exhaustive search finds, and treats every sentence as if it were alone."""

from __future__ import annotations

import itertools

import pytest
import torch
from tests.models.oracle import BOS, EOS, LENGTHS, PAD, SOURCES, Oracle

from regard.models import repeats_and_haste, search
from regard.models.hypothesis import length_divisor


def _exhaustive(model, source, longest, penalty):
    """All targets of at most `longest` tokens with their scores, best first."""
    letters = range(EOS + 1, model.words)
    found = []
    for length in range(longest + 1):
        for tokens in itertools.product(letters, repeat=length):
            total = model.price(source, tokens)
            found.append((total / length_divisor(length + 1, penalty), list(tokens), total))
    return sorted(found, key=lambda one: -one[0])


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0, 2.0, -0.5])
@pytest.mark.parametrize("n_best", [1, 3])
def test_a_wide_beam_is_exhaustive(penalty, n_best):
    model = Oracle(words=6)
    found = search(model, SOURCES, LENGTHS, beam=64, length_penalty=penalty, max_length=3, n_best=n_best)
    for source, hypotheses in zip(SOURCES[:, 0].tolist(), found, strict=True):
        expected = _exhaustive(model, source, 3, penalty)[:n_best]
        assert [one.tokens for one in hypotheses] == [tokens for _, tokens, _ in expected]
        assert [one.score for one in hypotheses] == pytest.approx([score for score, _, _ in expected])
        assert [one.log_probability for one in hypotheses] == pytest.approx([total for *_, total in expected])


@pytest.mark.parametrize("sharpness", [1.0, 4.0])
def test_beam_one_is_greedy(sharpness):
    model = Oracle(words=8, sharpness=sharpness)
    for source, (hypothesis,) in zip(
        SOURCES[:, 0].tolist(), search(model, SOURCES, LENGTHS, max_length=9), strict=True
    ):
        past = [BOS]
        while len(past) <= 9:
            scores = model.scores(source, past)
            scores[[PAD, BOS]] = -torch.inf
            past.append(int(scores.argmax()))
            if past[-1] == EOS:
                break
        tokens = [token for token in past[1:] if token != EOS]
        assert hypothesis.tokens == tokens
        assert hypothesis.log_probability == pytest.approx(model.price(source, tokens))


@pytest.mark.parametrize("beam", [1, 2, 5])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_sentence_alone_gets_what_it_gets_in_a_batch(beam, penalty):
    model = Oracle(words=9, sharpness=3.0)
    how = {"beam": beam, "n_best": beam, "length_penalty": penalty, "max_length": 8}
    together = search(model, SOURCES, LENGTHS, **how)
    alone = [search(model, SOURCES[row : row + 1], LENGTHS[:1], **how)[0] for row in range(len(SOURCES))]
    assert together == alone


@pytest.mark.parametrize("name", ["bahdanau", "bahdanau-none", "luong", "luong-plain-lstm", "transformer"])
@pytest.mark.parametrize("beam", [1, 4])
def test_models_decode_alone_as_in_a_batch(tiny, batch, name, beam):
    source, lengths, _, _ = batch
    model = tiny(name)
    together = search(model, source, lengths, beam=beam, n_best=beam)
    for row, length in enumerate(lengths):
        (alone,) = search(
            model, source[row : row + 1, :length], lengths[row : row + 1], beam=beam, n_best=beam
        )
        assert [one.tokens for one in alone] == [one.tokens for one in together[row]]
        for one, other in zip(alone, together[row], strict=True):
            assert one.score == pytest.approx(other.score)
            if one.weights is not None:
                assert one.weights.shape == (len(one.tokens) + 1, length)
                torch.testing.assert_close(one.weights, other.weights)


class Scripted(Oracle):
    """End at once with probability `hasty`, or write ten certain tokens and then end."""

    def __init__(self, hasty):
        super().__init__(words=4)
        self.hasty, self.steps = hasty, 0

    def scores(self, source, past):
        end = self.hasty if len(past) == 1 else 1.0 if len(past) == 11 else 0.0
        return torch.tensor([0.0, 0.0, end, 1.0 - end], dtype=torch.float64).log()

    def step(self, tokens, state):
        self.steps += 1
        return super().step(tokens, state)


def test_stops_only_when_no_live_hypothesis_can_win():
    how = {"beam": 3, "length_penalty": 1.0, "max_length": 12}
    # 0.6 at once scores log(0.6) = -0.51; 0.4 for ten tokens scores log(0.4) / (16 / 6) = -0.34, but shows it late.
    ((found,),) = search(Scripted(0.6), SOURCES[:1], LENGTHS[:1], **how)
    assert found.tokens == [3] * 10
    # log(0.1) / (18 / 6) is worse than log(0.9): one look ahead is enough to see it.
    model = Scripted(0.9)
    ((found,),) = search(model, SOURCES[:1], LENGTHS[:1], **how)
    assert found.tokens == []
    assert model.steps == 1


@pytest.mark.parametrize("name", ["bahdanau", "luong", "luong-plain", "transformer"])
def test_hypotheses_carry_their_true_price_and_weights(tiny, batch, name):
    source, lengths, _, _ = batch
    model = tiny(name)
    for row, hypotheses in enumerate(search(model, source, lengths, beam=4, n_best=4, max_length=6)):
        for one in hypotheses:
            length = int(lengths[row])
            read = (source[row : row + 1, :length], lengths[row : row + 1])
            written = torch.tensor([[BOS, *one.tokens, EOS]])
            size = torch.tensor([len(one.tokens) + 1])
            surprise = model.loss(*read, written, size)[1].item()
            assert one.log_probability == pytest.approx(-surprise)
            looked = model.alignment(*read, written[:, :-1])[0, -1].mean(0)
            torch.testing.assert_close(one.weights, looked)


def test_hypotheses_are_distinct_best_first_and_without_specials():
    for hypotheses in search(Oracle(words=9), SOURCES, LENGTHS, beam=5, n_best=5, max_length=7):
        scores = [one.score for one in hypotheses]
        assert scores == sorted(scores, reverse=True)
        assert len({tuple(one.tokens) for one in hypotheses}) == len(hypotheses) == 5
        assert all(token > EOS for one in hypotheses for token in one.tokens)


def test_weights_follow_their_hypothesis():
    for hypotheses in search(Oracle(words=9), SOURCES, LENGTHS, beam=5, n_best=5, max_length=7):
        for one in hypotheses:
            past = list(itertools.accumulate([BOS, *one.tokens]))
            assert one.weights[:, 0].tolist() == past


def test_the_length_limit_may_hang_on_the_source():
    lengths = torch.tensor([1, 2])
    found = search(Oracle(words=40), SOURCES[:2], lengths, max_length=lambda length: 3 * length)
    assert [len(one.tokens) for (one,) in found] == [3, 6]
    assert search(Oracle(words=9), SOURCES[:1], LENGTHS[:1], max_length=0)[0][0].tokens == []


@pytest.mark.parametrize("beam", [1, 3, 400])
def test_what_is_forbidden_is_not_written_and_nothing_else_changes(beam):
    """Against an exhaustive search of all targets that repeat no pair of tokens and have at least two."""
    model, source, lengths = Oracle(6), torch.tensor([[5], [6], [9]]), torch.tensor([1, 1, 1])
    forbid = repeats_and_haste(2, least=2, eos=EOS)
    found = search(model, source, lengths, beam=beam, max_length=4, length_penalty=0.0, forbid=forbid)
    for number, (best,) in enumerate(found):
        pairs = list(itertools.pairwise(best.tokens))
        assert len(best.tokens) >= 2
        assert len(pairs) == len(set(pairs))
        assert best.log_probability == pytest.approx(model.price(int(source[number]), best.tokens))
        if beam == 400:
            allowed = [
                tokens
                for length in (2, 3, 4)
                for tokens in itertools.product((3, 4, 5), repeat=length)
                if len(set(itertools.pairwise(tokens))) == length - 1
            ]
            most = max(model.price(int(source[number]), tokens) for tokens in allowed)
            assert best.log_probability == pytest.approx(most)


def test_an_end_that_is_due_is_not_forbidden():
    (best,) = search(Oracle(6), torch.tensor([[5]]), torch.tensor([1]), max_length=2, forbid=lambda _: [EOS])[
        0
    ]
    assert len(best.tokens) == 2


def test_fewer_hypotheses_where_fewer_exist():
    (found,) = search(Oracle(words=4), SOURCES[:1], LENGTHS[:1], beam=5, n_best=5, max_length=2)
    assert sorted(one.tokens for one in found) == [[], [3], [3, 3]]


def test_refuses_more_hypotheses_than_the_beam_is_wide():
    with pytest.raises(ValueError, match="n_best"):
        search(Oracle(words=4), SOURCES, LENGTHS, beam=2, n_best=3)


class Certain(Oracle):
    """4 4 4 4 is nearly certain; whatever leaves that path ends at once."""

    def scores(self, source, past):
        scores = torch.full((6,), -20.0, dtype=torch.float64)
        if all(token == 4 for token in past[1:]) and len(past) < 5:
            scores[4], scores[5], scores[EOS] = 0.0, -7.0, -6.0
        else:
            scores[EOS] = 0.0
        return scores


@pytest.mark.parametrize("beam", [1, 2, 3])
def test_early_junk_does_not_end_the_search(beam):
    source = torch.tensor([[3, 3]])
    best = search(Certain(6), source, torch.tensor([2]), beam=beam, max_length=8)[0][0]
    assert best.tokens == [4, 4, 4, 4]


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
def test_with_a_prefix_the_rest_is_the_best_after_it(penalty):
    model, prefixes = Oracle(words=6), [[4], [], [5, 3], [3, 3, 3], [4, 4], [5]]
    how = {"beam": 64, "length_penalty": penalty, "max_length": 3, "n_best": 3}
    found = search(model, SOURCES, LENGTHS, prefix=prefixes, **how)
    for source, prefix, hypotheses in zip(SOURCES[:, 0].tolist(), prefixes, found, strict=True):
        every = _exhaustive(model, source, 3, penalty)
        expected = [one for one in every if one[1][: len(prefix)] == prefix][:3]
        assert [one.tokens for one in hypotheses] == [tokens for _, tokens, _ in expected]
        assert [one.score for one in hypotheses] == pytest.approx([score for score, _, _ in expected])


@pytest.mark.parametrize("beam", [1, 3])
def test_a_prefix_alone_as_in_a_batch_of_other_prefixes(tiny, batch, beam):
    source, lengths, _, _ = batch
    model, prefixes = tiny("transformer"), [[5, 6, 7], [], [8], [9, 9]]
    together = search(model, source, lengths, beam=beam, prefix=prefixes, max_length=6)
    for row, prefix in enumerate(prefixes):
        read = (source[row : row + 1], lengths[row : row + 1])
        (alone,) = search(model, *read, beam=beam, prefix=[prefix], max_length=6)
        assert alone[0].tokens == together[row][0].tokens
        assert alone[0].tokens[: len(prefix)] == prefix


def test_what_the_model_writes_itself_is_no_constraint(tiny, batch):
    source, lengths, _, _ = batch
    model = tiny("luong")
    free = search(model, source, lengths, beam=3)
    again = search(model, source, lengths, beam=3, prefix=[best.tokens[:2] for (best,) in free])
    assert [best.tokens for (best,) in again] == [best.tokens for (best,) in free]


def test_a_prefix_longer_than_allowed_is_written_whole():
    ((found,),) = search(Oracle(words=9), SOURCES[:1], LENGTHS[:1], max_length=1, prefix=[[4, 5, 6]])
    assert found.tokens == [4, 5, 6]


@pytest.mark.parametrize("wrong", [[[3]], [[3], [BOS]] * 3])
def test_refuses_prefixes_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="prefix"):
        search(Oracle(words=4), SOURCES, LENGTHS, prefix=wrong)


@pytest.mark.parametrize(
    "name", ["transformer", "transformer-additive", "transformer-places", "transformer-window"]
)
def test_hypotheses_that_share_a_cache_are_those_that_have_their_own(tiny, batch, name):
    source, lengths, _, _ = batch
    model = tiny(name)
    assert model.placeless == (name in ("transformer", "transformer-additive"))
    shared = search(model, source, lengths, beam=4, n_best=4, max_length=9)
    model.placeless = False
    own = search(model, source, lengths, beam=4, n_best=4, max_length=9)
    for one, other in zip(itertools.chain(*shared), itertools.chain(*own), strict=True):
        assert one.tokens == other.tokens
        assert one.log_probability == pytest.approx(other.log_probability)
        torch.testing.assert_close(one.weights, other.weights)
