"""The translation task: its settings, what it learns from the texts, what it measures and how it reads files."""

from __future__ import annotations

from pathlib import Path

import pytest

from regard.data import Pair
from regard.errors import UserError
from regard.models import MODELS
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
