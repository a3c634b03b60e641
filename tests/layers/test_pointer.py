"""A pointer's answer is a distribution over places, and a copied word's over words."""

from __future__ import annotations

import pytest
import torch

from regard.layers import CopyGate, MemoryAttention, PointerAttention


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, 3, 4).double(), torch.randn(2, 6, 5).double(), torch.tensor([6, 4])


def test_it_answers_with_the_weights_of_attention() -> None:
    torch.manual_seed(0)
    point = PointerAttention(4, 5, 3).double()
    look = MemoryAttention("additive/softmax", 4, 5, attention_size=3).double()
    look.load_state_dict({name.replace("score.", "look.score."): t for name, t in point.state_dict().items()})
    query, memory, lengths = inputs()
    found = point(query, point.prepare(memory, lengths))
    _, weights = look(query, look.prepare(memory, lengths), return_weights=True)
    torch.testing.assert_close(found.exp(), weights[:, 0])
    assert (found[1, :, 4:] == -torch.inf).all()


def test_what_is_visited_is_never_pointed_at() -> None:
    torch.manual_seed(0)
    point = PointerAttention(4, 5).double()
    query, memory, lengths = inputs()
    prepared = point.prepare(memory, lengths)
    free = torch.tensor([[[True, False, True, False, True, True]], [[False, True, False, False, True, True]]])
    found = point(query, prepared, mask=free)
    shown = free.expand(2, 3, 6) & (torch.arange(6) < lengths[:, None, None])
    assert torch.equal(found > -torch.inf, shown)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(2, 3).double())
    # Hiding a place is the same as having none there.
    alone = point(query[:1], point.prepare(memory[:1, [0, 2, 4, 5]], torch.tensor([4])))
    torch.testing.assert_close(found[:1, :, [0, 2, 4, 5]], alone)
    everywhere_been = point(query, prepared, mask=torch.zeros(2, 3, 6, dtype=torch.bool))
    assert (everywhere_been == -torch.inf).all()


def test_the_loss_of_an_improbable_place_is_finite_and_teaches() -> None:
    """The weight would be zero in float32, its logarithm minus infinity and the gradient no number."""
    point = PointerAttention(1, 1, 1, score="dot")
    with torch.no_grad():
        point.query.weight.fill_(1.0)
        point.key.weight.fill_(1.0)
    prepared = point.prepare(torch.tensor([[[0.0], [200.0], [7.0]]]), torch.tensor([2]))
    found = point(torch.ones(1, 1, 1), prepared)
    assert found[0, 0].tolist() == [-200.0, 0.0, -torch.inf]
    found[0, 0, 0].backward()
    assert point.query.weight.grad.item() == -200.0
    prepared = point.prepare(torch.ones(1, 3, 1), torch.tensor([3]))
    blind = point(torch.ones(1, 1, 1), prepared, mask=torch.tensor([False, False, False]))
    blind.exp().sum().backward()
    assert torch.isfinite(point.query.weight.grad).all()


def test_clipped_scores_leave_every_place_a_chance() -> None:
    torch.manual_seed(0)
    point = PointerAttention(4, 5, score="dot+softcap-2").double()
    query, memory, lengths = inputs()
    found = point(query * 1000, point.prepare(memory, lengths))
    assert found[0].min() > -4.0 - torch.tensor(6.0).log()


def test_a_copying_decoder_gives_each_word_what_it_writes_and_copies() -> None:
    torch.manual_seed(0)
    gate = CopyGate(3).double()
    features, scores = torch.randn(2, 2, 3).double(), torch.randn(2, 2, 4).double()
    weights = torch.softmax(torch.randn(2, 2, 3), -1).double()
    weights[0, 0] = torch.tensor([0.25, 0.75, 0.0])
    source = torch.tensor([[1, 1, 5], [4, 2, 5]])
    words = gate(features, scores, weights, source, extra=2)
    assert words.shape == (2, 2, 6)
    for row in range(2):
        for i in range(2):
            p = torch.sigmoid(gate.gate(features[row, i]))
            expected = torch.zeros(6).double()
            expected[:4] = p * torch.softmax(scores[row, i], 0)
            for place, word in enumerate(source[row].tolist()):
                expected[word] += ((1 - p) * weights[row, i, place]).item()
            torch.testing.assert_close(words[row, i].exp(), expected)
    torch.testing.assert_close(words.exp().sum(-1), torch.ones(2, 2).double())
    assert words[0, 0, 4] == -torch.inf  # neither in the vocabulary nor in this source
    assert words[0, 0, 5] == -torch.inf  # in the source, with no weight


def test_the_copied_and_the_written_both_learn() -> None:
    torch.manual_seed(0)
    gate = CopyGate(3).double()
    inputs = [torch.randn(1, 2, 3), torch.randn(1, 2, 4), torch.rand(1, 2, 3)]
    features, scores, weights = (tensor.double().requires_grad_() for tensor in inputs)
    source = torch.tensor([[1, 5, 1]])

    def loss(features, scores, weights):
        words = gate(features, scores, weights, source, extra=2)
        return words[..., [0, 1, 2, 3, 5]]  # word 4 can be neither written nor copied

    assert torch.autograd.gradcheck(loss, (features, scores, weights))
    words = gate(features, scores, weights, source, extra=2)
    torch.nn.functional.nll_loss(words.flatten(0, 1), torch.tensor([5, 1])).backward()
    assert all(torch.isfinite(t.grad).all() and t.grad.any() for t in (features, scores, weights))


def test_nothing_to_copy_leaves_writing() -> None:
    torch.manual_seed(0)
    gate = CopyGate(3).double()
    features, scores = torch.randn(1, 1, 3).double(), torch.randn(1, 1, 4).double().requires_grad_()
    words = gate(features, scores, torch.zeros(1, 1, 2).double(), torch.tensor([[1, 2]]))
    torch.testing.assert_close(words, torch.log_softmax(scores, -1))
    words[0, 0, 1].backward()
    assert torch.isfinite(scores.grad).all()


def test_known_words_have_the_same_probability_by_themselves() -> None:
    torch.manual_seed(0)
    gate = CopyGate(3).double()
    features, scores = torch.randn(6, 3).double(), torch.randn(6, 4).double()
    weights = torch.softmax(torch.randn(6, 5), -1).double()
    weights[5] = 0.0
    source, words = torch.randint(0, 4, (6, 5)), torch.tensor([0, 1, 2, 3, 0, 1])
    every = torch.cat([gate(features[i, None, None], scores[i, None, None], weights[i, None, None], source[i, None])
                       for i in range(6)])  # fmt: skip
    found = gate.of_words(features, scores, weights, source, words)
    torch.testing.assert_close(found, every[:, 0].gather(1, words[:, None])[:, 0])


def test_a_gate_that_is_shut_leaves_finite_logarithms() -> None:
    gate = CopyGate(1)
    with torch.no_grad():
        gate.gate.weight.fill_(200.0)
    source, weights = torch.tensor([[4]]), torch.ones(1, 1, 1)
    words = gate(torch.ones(1, 1, 1), torch.zeros(1, 1, 4), weights, source, extra=1)
    assert words[0, 0, 4].item() == pytest.approx(-200.0, abs=1.0)


def test_bad_arguments_are_named() -> None:
    point = PointerAttention(4, 5).double()
    query, memory, lengths = inputs()
    prepared = point.prepare(memory, lengths)
    with pytest.raises(
        TypeError, match=r"mask must be boolean, True where the query may point, it is torch.int64"
    ):
        point(query, prepared, mask=torch.ones(6, dtype=torch.int64))
    with pytest.raises(
        ValueError, match=r"mask must be broadcastable to \(batch, query_len, memory_len\) = \(2, 3, 6\)"
    ):
        point(query, prepared, mask=torch.ones(5, dtype=torch.bool))
    gate = CopyGate(3)
    features, scores, weights = torch.randn(1, 2, 3), torch.randn(1, 2, 4), torch.rand(1, 2, 3)
    with pytest.raises(ValueError, match=r"weights must be \(1, 2, 2\), they have shape \(1, 2, 3\)"):
        gate(features, scores, weights, torch.tensor([[1, 2]]))
    with pytest.raises(ValueError, match=r"source must hold words below 4, it holds 4"):
        gate(features, scores, weights, torch.tensor([[1, 4, 2]]))
    with pytest.raises(ValueError, match="extra must be a whole number of at least 0, it is -1"):
        gate(features, scores, weights, torch.tensor([[1, 2, 2]]), extra=-1)


def test_half_precision_has_the_logarithms_of_single() -> None:
    torch.manual_seed(0)
    half = PointerAttention(4, 6).bfloat16()
    memory = half.prepare(torch.randn(2, 5, 6).bfloat16(), torch.tensor([5, 3]))
    query = torch.randn(2, 3, 4).bfloat16()
    found = half(query, memory)
    assert found.dtype == torch.float32
    single = PointerAttention(4, 6)
    single.load_state_dict(half.state_dict())
    projected = half.query(query).float()[:, None], memory.key.float()
    scores = single.score().compare(*single.score().prepare(*projected)).squeeze(1)
    expected = torch.log_softmax(scores.masked_fill(~memory.mask[:, 0], -torch.inf), -1)
    torch.testing.assert_close(found, expected)
