"""Writing or copying: what the pointer-generator promises beyond `SequenceToSequence` (test_sequence.py)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from regard.data import collate
from regard.errors import UserError
from regard.layers import CoverageAttention
from regard.models import PointerGeneratorSettings, build, search
from regard.models.pointer_generator import CoveringLook

NAMES = ["pointer-generator", "pointer-generator-lstm", "pointer-generator-sigmoid"]
EXACT = {"rtol": 1e-10, "atol": 1e-12}


@pytest.mark.parametrize("name", NAMES)
def test_the_probabilities_sum_to_one(tiny, batch, name):
    source, lengths, target, _ = batch
    model = tiny(name)
    words = model(source, lengths, target[:, :-1]).exp()
    torch.testing.assert_close(words.sum(-1), torch.ones(4, 5).double(), **EXACT)
    assert words.shape == (4, 5, 12)


@pytest.mark.parametrize(
    "attention", ["additive/softmax", "dot/top-2", "cosine/sigmoid", "dot/relu", "dot/entmax15"]
)
def test_they_do_with_every_mechanism_that_has_weights(tiny, batch, attention):
    source, lengths, target, _ = batch
    words = tiny("pointer-generator", attention=attention)(source, lengths, target[:, :-1]).exp()
    torch.testing.assert_close(words.sum(-1), torch.ones(4, 5).double(), **EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_that_of_the_plain_formula(tiny, batch, name):
    """Equations 8 to 13 of See et al. 2017, word by word, from the parts of the model."""
    source, lengths, target, target_lengths = batch
    model = tiny(name, coverage_loss=0.7)
    loss, surprise, tokens = model.loss(source, lengths, target, target_lengths, 0.2)
    features, weights, _ = model._unroll(target[:, :-1], model.encode(source, lengths))
    written = torch.softmax(model._scores(features), -1)
    gate = torch.sigmoid(model.copy.gate(features)).squeeze(-1)
    expected, expected_surprise, count = torch.zeros(()).double(), torch.zeros(()).double(), 0
    for row in range(4):
        covered = torch.zeros(7).double()
        for place in range(int(target_lengths[row])):
            word = int(target[row, place + 1])
            looked = weights[row, place]
            copied = sum(looked[at] for at in range(7) if source[row, at] == word) / looked.sum()
            probable = gate[row, place] * written[row, place, word] + (1 - gate[row, place]) * copied
            smooth = -written[row, place].log().mean()
            expected = (
                expected - 0.8 * probable.log() + 0.2 * smooth + 0.7 * torch.minimum(looked, covered).sum()
            )
            expected_surprise = expected_surprise - probable.log()
            covered = covered + looked
            count += 1
    torch.testing.assert_close(loss, expected, **EXACT)
    torch.testing.assert_close(surprise, expected_surprise, **EXACT)
    assert tokens == count == 12


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_without_smoothing_is_that_of_the_words(tiny, batch, name):
    source, lengths, target, target_lengths = batch
    model = tiny(name)
    loss, surprise, _ = model.loss(source, lengths, target, target_lengths)
    words = model.project(model(source, lengths, target[:, :-1]))
    wanted = target[:, 1:].masked_fill(torch.arange(5) >= target_lengths[:, None], -100)
    expected = functional.nll_loss(words.flatten(0, 1), wanted.flatten(), reduction="sum")
    torch.testing.assert_close(loss, expected, **EXACT)
    torch.testing.assert_close(surprise, expected.detach(), **EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_finite_differences(tiny, batch, name):
    source, lengths, target, target_lengths = batch
    model = tiny(name, coverage_loss=0.7)
    value = lambda: model.loss(source, lengths, target, target_lengths, 0.1)[0]  # noqa: E731
    value().backward()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        way = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        found = float((parameter.grad * way).sum())
        with torch.no_grad():
            parameter.add_(way, alpha=1e-6)
            above = value()
            parameter.add_(way, alpha=-2e-6)
            below = value()
            parameter.add_(way, alpha=1e-6)
        assert found == pytest.approx(float(above - below) / 2e-6, rel=1e-5, abs=1e-6)


def test_additive_coverage_is_that_of_the_paper():
    """Coverage in the key is equation 11: the same as the layer that is made for it."""
    torch.manual_seed(0)
    look = CoveringLook("additive/softmax", 6, 8, 4, True).double()
    paper = CoverageAttention(6, 8, 4).double()
    with torch.no_grad():
        for parameter in look.parameters():
            parameter.normal_()
        paper.query.weight.copy_(look.query.weight)
        paper.key.weight.copy_(look.key.weight)
        paper.score.weight.copy_(look.look.score.weight)
        paper.score.bias.copy_(look.look.score.bias)
        paper.score.projection.copy_(look.coverage.view(1, 4, 1))
    states, lengths, queries = (
        torch.randn(2, 5, 8).double(),
        torch.tensor([5, 3]),
        torch.randn(3, 2, 6).double(),
    )
    memory, other = look.prepare(states, lengths), paper.prepare(states, lengths)
    covered, state = torch.zeros(2, 5).double(), None
    for query in queries:
        context, weights = look.once(query[:, None], memory, covered[:, None])
        expected, expected_weights, state = paper.step(query, other, state)
        torch.testing.assert_close(weights[:, 0], expected_weights, **EXACT)
        torch.testing.assert_close(context[:, 0], expected, **EXACT)
        covered = covered + weights[:, 0]


def test_coverage_changes_where_it_looks_from_the_second_word_on(tiny, batch):
    source, lengths, target, _ = batch
    model = tiny("pointer-generator")
    before = model.alignment(source, lengths, target[:, :-1])
    with torch.no_grad():
        model.look.coverage.zero_()
    after = model.alignment(source, lengths, target[:, :-1])
    torch.testing.assert_close(after[..., :1, :], before[..., :1, :], **EXACT)
    assert not torch.allclose(after[0, ..., 1:, :], before[0, ..., 1:, :])


def sentences(count: int, seed: int, words: list[int]) -> tuple[Tensor, Tensor]:
    """Four words of which the one after the sign 3 is wanted; its target `BOS word EOS`."""
    generator = torch.Generator().manual_seed(seed)
    among = torch.tensor(words)
    source = among[torch.randint(0, len(words), (count, 5), generator=generator)]
    place = torch.randint(0, 4, (count,), generator=generator)
    rows = torch.arange(count)
    source[rows, place] = 3
    wanted = source[rows, place + 1]
    return source, torch.stack([torch.ones_like(wanted), wanted, torch.full_like(wanted, 2)], 1)


def share_right(model: torch.nn.Module, source: Tensor, target: Tensor) -> float:
    found = search(model, source, torch.full((len(source),), 5), max_length=3)
    return sum(
        best.tokens == [word] for (best,), word in zip(found, target[:, 1].tolist(), strict=True)
    ) / len(source)


@pytest.mark.parametrize(("name", "least", "most"), [("pointer-generator", 0.9, 1.0), ("rnn", 0.0, 0.1)])
def test_words_it_has_never_written_are_copied(name, least, most):
    """Words 24 to 43 are in the vocabulary, but no target of training: who cannot copy cannot know what to write."""
    torch.manual_seed(0)
    sizes = {"source_vocabulary": 44, "target_vocabulary": 44, "embedding_size": 24, "hidden_size": 24}
    model = build({"model": name, **sizes, "dropout": 0.0, "tie_embeddings": "all"})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    known, new = list(range(4, 24)), list(range(24, 44))
    for step in range(150):
        source, target = sentences(64, step, known + new)
        kept = target[:, 1] < 24
        source, target = source[kept], target[kept]
        lengths = torch.full((len(source),), 5)
        optimizer.zero_grad()
        loss, _, tokens = model.loss(source, lengths, target, torch.full((len(source),), 2))
        (loss / tokens).backward()
        optimizer.step()
    model.eval()
    source, target = sentences(200, 1000, known + new)
    fresh = target[:, 1] >= 24
    assert fresh.sum() > 60
    assert least <= share_right(model, source[fresh], target[fresh]) <= most
    if name == "pointer-generator":
        assert share_right(model, source[~fresh], target[~fresh]) > 0.95


def test_what_is_copied_needs_weights_and_one_vocabulary():
    with pytest.raises(UserError, match="copies by its weights, which 'none' has not"):
        PointerGeneratorSettings(9, 9, attention="none")
    with pytest.raises(UserError, match="need one vocabulary, got 9 source and 8 target words"):
        PointerGeneratorSettings(9, 8)
    with pytest.raises(UserError, match="coverage_loss must be at least 0, got -1"):
        PointerGeneratorSettings(9, 9, coverage_loss=-1.0)
    with pytest.raises(UserError, match="without mask, bias and rotary positions"):
        PointerGeneratorSettings(9, 9, attention="dot/softmax/causal")
    with pytest.raises(UserError, match="attention_size must be at least 0"):
        PointerGeneratorSettings(9, 9, attention_size=-3)


def test_a_process_without_rows_stays_in_step(tiny):
    """The idle batch of a process that has no row: nothing to predict, a gradient of zero for every parameter."""
    idle = collate([])
    model = tiny("pointer-generator", coverage_loss=0.7).train()
    loss, surprise, tokens = model.loss(
        idle.source, idle.source_lengths, idle.target, idle.target_lengths, 0.1
    )
    loss.backward()
    assert (loss.item(), surprise.item(), tokens) == (0.0, 0.0, 0)
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())
