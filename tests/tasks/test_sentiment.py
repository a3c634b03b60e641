"""The sentiment task: labels, lengths, measures, answers and pictures."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from regard.data import Labelled
from regard.errors import UserError
from regard.models import build
from regard.tasks.class_metrics import measure_classes, rank_correlation
from regard.tasks.sentiment import Sentiment, SentimentSettings

EXAMPLES = [
    Labelled(f"{word} film", label, f"a.tsv, line {n}")
    for n, (word, label) in enumerate(
        [("good", "yes"), ("bad", "no"), ("好", "yes"), ("odd", "maybe")] * 3, 1
    )
]


@pytest.fixture
def task() -> Sentiment:
    return Sentiment.learn(SentimentSettings(max_length=5), EXAMPLES)


@pytest.fixture
def model(task: Sentiment) -> torch.nn.Module:
    torch.manual_seed(0)
    return build({"model": "rnn-classifier", "hidden_size": 4, **task.model_sizes()})  # type: ignore[no-any-return]


def test_classes_are_those_of_training_and_others_are_refused(task: Sentiment) -> None:
    assert task.classes == ["maybe", "no", "yes"]
    new = Labelled("a film", "never", "b.tsv, line 7")
    with pytest.raises(
        UserError, match=r"b.tsv, line 7: the label 'never' is in no training example; there are: maybe"
    ):
        task.check({"train": EXAMPLES, "valid": [EXAMPLES[0], new]})
    task.check({"train": [new], "valid": EXAMPLES})


def test_long_texts_are_refused_or_cut_when_told(task: Sentiment, capsys: pytest.CaptureFixture[str]) -> None:
    long = Labelled("one two three four five six", "yes", "b.tsv, line 2")
    with pytest.raises(UserError, match=r"b.tsv, line 2: the text has 6 tokens; at most 5 are allowed"):
        task.batches([long], 100, 0)
    cutting = Sentiment.learn(SentimentSettings(max_length=5, truncate=True), EXAMPLES)
    (batch,) = cutting.batches([long, EXAMPLES[0]], 100, 0).epoch(0)
    assert sorted(batch.lengths.tolist()) == [2, 5]
    assert "1 of 2 texts cut to 5 tokens" in capsys.readouterr().err


def test_loss_is_that_of_cross_entropy_and_an_idle_batch_counts_nothing(
    task: Sentiment, model: torch.nn.Module
) -> None:
    model.eval()
    (batch,) = task.batches(EXAMPLES, 1000, 0).epoch(0)
    loss, count, _ = task.loss(model, batch, 0.0)
    scores, _ = model(batch.ids, batch.lengths)
    expected = -scores.log_softmax(-1)[torch.arange(12), batch.labels].sum()
    assert count == 12
    torch.testing.assert_close(loss, expected)
    idle = next(iter(task.batches(EXAMPLES[:1], 1000, 0).epoch(0, rank=1, world=2)))
    loss, count, _ = task.loss(model, idle, 0.1)
    assert (float(loss.detach()), count) == (0.0, 0)
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_answers_are_classes_with_their_log_probabilities(task: Sentiment, model: torch.nn.Module) -> None:
    answers = task.predict(model, ["good film", "  ", "坏"], n_best=3)
    assert [answer.text in task.classes for answer in answers] == [True, False, True]
    assert answers[1].text == ""
    for answer in (answers[0], answers[2]):
        assert sorted(label for label, _ in answer.others) == task.classes
        values = [value for _, value in answer.others]
        assert values == sorted(values, reverse=True)
        assert sum(np.exp(values)) == pytest.approx(1)
    alone = task.predict(model, ["坏"])[0]
    assert alone.text == answers[2].text
    assert alone.score == pytest.approx(answers[2].score, abs=1e-6)
    with pytest.raises(UserError, match="the input, line 2: the text has 6 tokens"):
        task.predict(model, ["a", "1 2 3 4 5 6"])


def test_what_is_learnt_is_kept(task: Sentiment, tmp_path: Path) -> None:
    task.save(tmp_path)
    again = Sentiment.load(task.settings, tmp_path)
    assert again.classes == task.classes
    assert again.words.encode("good 好 unknown") == task.words.encode("good 好 unknown")
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(UserError, match=r"classes.txt: cannot read the classes"):
        Sentiment.load(task.settings, tmp_path)


def test_word_vectors_begin_the_embeddings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "v.txt").write_text("good 1 2 3 4\n好 5 6 7 8\nother 0 0 0 0\n", encoding="utf-8")
    task = Sentiment.learn(SentimentSettings(word_vectors=str(tmp_path / "v.txt")), EXAMPLES)
    model = build({"model": "rnn-classifier", "embedding_size": 4, "hidden_size": 4, **task.model_sizes()})
    task.begin(model)
    assert model.embeddings.weight[task.words.ids["好"]].tolist() == [5, 6, 7, 8]
    assert "2 of 5 words have one" in capsys.readouterr().err


def test_texts_seen_in_training_may_be_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train.tsv").write_text("yes\ta\nno\tb\n")
    (tmp_path / "dev.tsv").write_text("yes\ta\nno\tc\n")
    splits = Sentiment.read(SentimentSettings(drop_seen=True), [tmp_path])
    assert [one.text for one in splits["valid"]] == ["c"]
    assert "valid: 1 of 2 texts are also in train" in capsys.readouterr().err
    assert len(Sentiment.read(SentimentSettings(), [tmp_path])["valid"]) == 2


def test_the_picture_has_weights_and_what_each_word_is_worth(task: Sentiment, model: torch.nn.Module) -> None:
    (picture,) = task.pictures(model, "good 好 film", layer=None, head=None)
    assert picture.source == ("good", "好", "film")
    assert picture.target == ("weight", "cost")
    assert picture.weights[0].sum() == pytest.approx(1)
    whole = task.predict(model, ["good 好 film"])[0]
    chosen = [
        dict(one.others)[whole.text]
        for one in task.predict(model, ["好 film", "good film", "good 好"], n_best=3)
    ]
    fall = np.clip(whole.score - np.array(chosen), 0, None)
    np.testing.assert_allclose(picture.weights[1], fall / fall.sum(), atol=1e-5)
    (forced,) = task.pictures(model, "good 好 film", answer="maybe", layer=None, head=1)
    assert forced.title.endswith("→ maybe")
    for wrong, message in (
        ({"text": " "}, "the text is empty"), ({"layer": 2}, "no layer 2"), ({"head": 2}, "no head 2"),
        ({"answer": "never"}, "the label 'never'"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            task.pictures(model, **{"text": "good", "layer": None, "head": None, **wrong})  # type: ignore[arg-type]


def test_measures() -> None:
    assert measure_classes([], []) == {"accuracy": 0.0, "macro_f1": 0.0}
    # Of "a" 2 are said, 3 expected, 2 right: F1 4/5; of "b" 2 said, 1 expected, 1 right: 2/3.
    found = measure_classes(["a", "a", "b", "b"], ["a", "a", "a", "b"])
    assert found["accuracy"] == 0.75
    assert found["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert measure_classes(["c"], ["d"])["macro_f1"] == 0.0


def test_rank_correlation_is_the_correlation_of_mean_ranks() -> None:
    values = [3.0, 1.0, 3.0, 7.0, -2.0]
    assert rank_correlation(values, [one * 2 for one in values]) == pytest.approx(1)
    assert rank_correlation(values, [-one for one in values]) == pytest.approx(-1)
    assert rank_correlation([1, 1, 1], [1, 2, 3]) == 0.0
    # Without ties it is 1 - 6 sum d^2 / (n (n^2 - 1)).
    for order in itertools.permutations(range(4)):
        gaps = sum((one - two) ** 2 for one, two in enumerate(order))
        assert rank_correlation(range(4), order) == pytest.approx(1 - 6 * gaps / (4 * 15))
