"""The translation task: its settings, what it learns from the texts, what it measures and how it reads files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from regard.data import EOS, Pair
from regard.errors import UserError
from regard.models import MODELS, SequenceToSequence
from regard.tasks import TASKS, task_named, unknown
from regard.tasks.experiment import Experiment
from regard.tasks.task import Judged
from regard.tasks.text_metrics import TOKENIZERS, bleu_tokenizer, measure_texts
from regard.tasks.translation import Translation, TranslationSettings

PAIRS = [Pair("eins zwei", "一二", "a.de:1"), Pair("drei", "三", "a.de:2"), Pair("vier", "四", "a.de:3")] * 3
SMALL = TranslationSettings(tokens="characters", max_length=12)


@pytest.mark.parametrize("name", TASKS)
def test_every_recipe_is_valid_for_the_sample_and_for_data(name: str, tmp_path: Path) -> None:
    kind = task_named(name)
    for model in kind.models:
        assert model in MODELS
        for data in ([], [tmp_path / "data"]):
            experiment = Experiment.resolve(name, data=data, model=model)
            experiment.training.require_budget()
            again = Experiment.resolve(changes=None, task=name, data=data, model=model)
            assert experiment.tables() == again.tables()


def test_a_budget_that_is_asked_for_replaces_the_ones_before(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("task = 'translation'\n[training]\nsteps = 5\nseconds = 9.0\n", encoding="utf-8")
    training = Experiment.resolve(config=file).training
    assert (training.epochs, training.steps, training.seconds) == (None, 5, 9.0)
    training = Experiment.resolve(config=file, changes={"training": {"epochs": 2}}).training
    assert (training.epochs, training.steps, training.seconds) == (2, None, None)


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    for settings in (SMALL, TranslationSettings(tokens="characters", shared_vocabulary=True)):
        task = Translation.learn(settings, PAIRS)
        task.save(tmp_path)
        other = Translation.load(settings, tmp_path)
        assert other.model_sizes() == task.model_sizes()
        assert other.source.encode("eins") == task.source.encode("eins")
        assert (task.source is task.target) == settings.shared_vocabulary


def test_examples_that_are_too_long_are_named() -> None:
    task = Translation.learn(SMALL, PAIRS)
    long = Pair("eins " * 5, "一", "a.de:9")
    with pytest.raises(UserError, match=r"a\.de:9: the source has 25 tokens; at most 12 are allowed"):
        task.batches([*PAIRS, long], 100, 0)
    with pytest.raises(UserError, match=r"a\.de:9: the target has 25 tokens"):
        task.batches([*PAIRS, Pair("eins", "eins " * 5, "a.de:9")], 100, 0)
    with pytest.raises(UserError, match=r"a\.de:9: the source has 25 tokens"):
        task.check({"train": PAIRS, "valid": PAIRS, "test": [long]})
    task.check({"train": [long], "valid": [Pair("eins", "eins " * 5)]})  # references may have any length


def test_files_are_judged_whole_and_in_order(tmp_path: Path) -> None:
    file = tmp_path / "a.tsv"
    file.write_text("".join(f"wort {n}\t{n}\n" for n in range(40)), encoding="utf-8")
    [(name, pairs)] = Translation.held_out(SMALL, [file]).items()
    assert name == "all"
    assert [pair.target for pair in pairs] == [str(n) for n in range(40)]
    file.rename(tmp_path / "train.tsv")
    (tmp_path / "test.tsv").write_text("a\tb\n", encoding="utf-8")
    assert set(Translation.held_out(SMALL, [tmp_path])) == {"valid", "test"}


def test_texts_are_measured_by_their_script() -> None:
    assert bleu_tokenizer(["我来了。", "他也来了"]) == "zh"
    assert bleu_tokenizer(["私は行きます"]) == "ja-mecab"
    assert bleu_tokenizer(["안녕하세요"]) == "char"
    assert bleu_tokenizer(["ฉันมา"]) == "char"
    assert bleu_tokenizer(["I come", "2026-03-03"]) == bleu_tokenizer([]) == "13a"
    for tokenizer in ("13a", "zh", "ja-mecab", "char", "intl", "none"):
        metrics, signatures = measure_texts(
            ["私は今日も学校に行きます"], [["私は今日も学校に行きます"]], tokenizer=tokenizer
        )
        assert metrics["exact_match"] == 1.0
        assert metrics["chrf"] == pytest.approx(100)
        assert f"tok:{tokenizer}" in signatures["bleu"]
    metrics, signatures = measure_texts(["a cat sat on the mat", "x"], [["a cat sat on the mat"], ["y"]])
    assert metrics["exact_match"] == 0.5
    assert measure_texts([], [])[0]["exact_match"] == 0.0
    several = measure_texts(["a cat sat on the mat", "x"], [["y", "a cat sat on the mat"], ["x"]])[0]
    assert several["exact_match"] == 1.0
    assert several["bleu"] == pytest.approx(100)


def test_the_tokenizers_are_those_of_sacrebleu() -> None:
    bleu = pytest.importorskip("sacrebleu.metrics.bleu")
    assert set(TOKENIZERS) == {"auto", *bleu._TOKENIZERS}
    with pytest.raises(UserError, match="bleu_tokenizer is 'foo'; one of auto, "):
        TranslationSettings(bleu_tokenizer="foo")


def test_quality_is_the_metric_of_the_run() -> None:
    judged = [Judged("a", "一", "一", True, 1), Judged("b", "二", "三", False, 1)]
    exact = TranslationSettings(tokens="characters", metric="exact_match")
    assert Translation.learn(exact, PAIRS).quality(judged) == 0.5
    chrf = TranslationSettings(tokens="characters", metric="chrf")
    assert Translation.learn(chrf, PAIRS).quality(judged) == pytest.approx(50, abs=10)


def test_what_is_unknown_is_told_with_what_there_is() -> None:
    assert str(unknown("split", "vaild", ["train", "valid"])) == (
        "there is no split 'vaild' (did you mean 'valid'?); there are: train, valid"
    )
    with pytest.raises(UserError, match="there is no task 'speling'; there are: translation"):
        task_named("speling")


class Looking(SequenceToSequence[Any]):
    """A model that looks at one place after the other, and says what it is told to say at each."""

    output_weight = output_bias = torch.zeros(0)

    def __init__(self, says: dict[int, int], words: int) -> None:
        super().__init__()
        self.says, self.words = says, words
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def encode(self, source: Tensor, source_lengths: Tensor) -> Any:
        return Place(source, source_lengths, 0)

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any, Tensor]:
        source = state.source
        scores, weights = torch.zeros(len(source), self.words), torch.zeros(source.shape)
        for row, length in enumerate(state.lengths.tolist()):
            inside = state.place < length
            token = int(source[row, state.place]) if inside else EOS
            scores[row, self.says.get(token, token)] = 20.0
            weights[row, min(state.place, length - 1)] = 1.0
        return scores, Place(source, state.lengths, state.place + 1), weights

    def forward(self, *_: Any) -> Tensor:
        raise NotImplementedError

    def alignment(self, *_: Any) -> None:
        return None


@dataclass(frozen=True)
class Place:
    source: Tensor
    lengths: Tensor
    place: int

    def select(self, rows: Tensor) -> Place:
        flat = rows.flatten()
        return Place(self.source[flat], self.lengths[flat], self.place)


def asked(task: Translation, model: SequenceToSequence[Any], texts: list[str], n_best: int = 1) -> list[Any]:
    """What the task answers, in whatever way its settings say."""
    return task.changed(beam=2, length_penalty=0.0).predict(model, texts, n_best=n_best, where="a test")


@pytest.mark.parametrize("copied", [False, True])
def test_unknown_characters_are_what_was_looked_at(copied: bool) -> None:
    settings = TranslationSettings(tokens="characters", shared_vocabulary=True, replace_unknown=copied)
    task = Translation.learn(settings, [Pair("我是们的", "我是们的", "a:1")])
    answers = asked(task, Looking({}, len(task.target)), ["我是龘的犬", "", "猫"])
    expected = ["我是龘的犬", "", "猫"] if copied else ["我是\ufffd的\ufffd", "", "\ufffd"]
    assert [answer.text for answer in answers] == expected


def test_placeholders_are_carried_over() -> None:
    settings = TranslationSettings(
        tokens="characters", shared_vocabulary=True, lowercase=True, placeholders=("__NAME__", "<url>")
    )
    task = Translation.learn(settings, [Pair("we are 我们", "我们 we are", "a:1")])
    model = Looking({}, len(task.target))
    (answer,) = asked(task, model, ["We 我<url>们 __NAME__ are"])
    assert answer.text == "we 我<url>们 __NAME__ are"


def test_a_prefix_begins_every_prediction() -> None:
    settings = TranslationSettings(tokens="characters", shared_vocabulary=True, prefix="我我")
    task = Translation.learn(settings, [*PAIRS, Pair("我", "我", "a:1")])
    answers = asked(task, Looking({}, len(task.target)), ["drei", "eins zwei"])
    assert [answer.text for answer in answers] == ["我我ei", "我我ns zwei"]


def test_drawn_predictions_hang_on_seed_and_line_alone() -> None:
    how = {"tokens": "characters", "shared_vocabulary": True, "temperature": 8.0}
    task = Translation.learn(TranslationSettings(**how), PAIRS)  # type: ignore[arg-type]
    model = Looking({}, len(task.target))
    texts = ["drei", "eins zwei", "", "drei", "vier"]
    one = asked(task, model, texts, n_best=3)
    assert one == asked(task, model, texts, n_best=3)
    assert one[0].text != one[3].text
    later = task.changed(beam=1).predict(model, texts[3:], n_best=3, where="a test", first=4)
    assert later == one[3:]
    other = Translation.learn(TranslationSettings(**how, seed=1), PAIRS)  # type: ignore[arg-type]
    assert asked(other, model, texts, n_best=3) != one


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -1.0), ("temperature", float("nan")), ("top_k", -1), ("top_p", 0.0), ("seed", -1),
     ("placeholders", ("",))],
)  # fmt: skip
def test_settings_of_prediction_that_cannot_be_are_refused(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=field.rstrip("s")):
        TranslationSettings(**{field: value})
