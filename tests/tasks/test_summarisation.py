"""Summarisation: ROUGE in any script and against several references, limits, settings for answering, pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from regard.cli import main
from regard.data import Pair
from regard.errors import UserError
from regard.tasks.experiment import Experiment, Trained, train
from regard.tasks.rouge import lead, measure_summaries, rouge_words
from regard.tasks.summarisation import COLUMNS, Summarisation, SummarisationSettings

WORDS = ["rain", "sun", "wind", "snow", "fog", "hail", "storm", "cloud", "frost", "heat"]
DOCUMENTS = [
    {"text": f"On {day} there was {a} , then {b} .", "summary": f"{a} then {b}", "ann0": f"{a} and {b}"}
    for day in ("monday", "friday")
    for a in WORDS
    for b in WORDS
    if a != b
]


@pytest.fixture(scope="module")
def weather(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weather")
    for name, part in (("train", DOCUMENTS[10:]), ("valid", DOCUMENTS[:10])):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in part))
    return folder


@pytest.fixture(scope="module")
def run(weather: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A pointer-generator that has learnt to name the weather."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    changes = {
        "summarisation": {"vocabulary": 330, "beam": 2},
        "pointer-generator": {"embedding_size": 24, "hidden_size": 24, "dropout": 0.0},
        "training": {"steps": 150, "max_tokens": 400, "learning_rate": 0.01, "warm_up": 10, "average": 1,
                     "evaluate_every": 75},
    }  # fmt: skip
    path = tmp_path_factory.mktemp("runs") / "weather"
    train(Experiment.resolve("summarisation", data=[weather], changes=changes), path, quiet=True)
    yield path
    torch.set_num_threads(before)


def test_it_learns_to_copy_what_a_text_is_about(run: Path, weather: Path) -> None:
    trained = Trained.open(run)
    found = trained.evaluate({"valid": trained.experiment.read()["valid"]})["valid"]
    assert found.metrics["rouge1"] > 90
    assert found.metrics["rouge_mean"] == pytest.approx(
        sum(found.metrics[name] for name in ("rouge1", "rouge2", "rougeL")) / 3
    )
    assert "references:2, the best" in found.signatures["rouge1"]
    assert trained.task.quality(found.judged) == pytest.approx(found.metrics["rouge_mean"])


def test_answers_may_be_asked_for_in_other_ways(run: Path) -> None:
    text = DOCUMENTS[0]["text"]
    (short,) = Trained.open(run, answering={"max_summary": 2}).task.predict(Trained.open(run).model, [text])
    one = Trained.open(run, answering={"min_summary": 8})
    (long,) = one.task.predict(one.model, [f"  {text}\t"])
    assert len(one.task.target.encode(long.text)) >= 8
    assert len(one.task.target.encode(short.text)) <= 2
    first = Trained.open(run, answering={"references": "first"})
    valid = first.experiment.read()["valid"]
    found = first.evaluate({"valid": valid})["valid"]
    assert "references:1, the best" in found.signatures["rouge1"]
    with pytest.raises(UserError, match="cannot answer with another 'vocabulary'"):
        Trained.open(run, answering={"vocabulary": 3})


def test_a_file_of_json_lines_gets_a_line_for_each_document(
    run: Path, weather: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(run), str(weather / "valid.jsonl")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    trained = Trained.open(run)
    (answer,) = trained.task.predict(trained.model, [DOCUMENTS[3]["text"]])
    assert lines[3] == answer.text


def test_the_picture_of_a_long_text_has_the_columns_that_matter(run: Path) -> None:
    trained = Trained.open(run)
    text = f"{'nothing of note . ' * 40}On monday there was snow , then hail ."
    (picture,) = trained.task.pictures(trained.model, text, layer=None, head=None)
    (whole,) = super(Summarisation, trained.task).pictures(trained.model, text, layer=None, head=None)
    assert len(picture.source) == COLUMNS < len(whole.source)
    assert f"the {COLUMNS} of {len(whole.source)} tokens that received most weight" in picture.subtitle
    assert picture.weights.sum() >= 0.5 * whole.weights.sum()
    assert len(picture.title) < 200
    (short,) = trained.task.pictures(trained.model, DOCUMENTS[0]["text"], layer=None, head=None)
    assert "received" not in short.subtitle
    torch.testing.assert_close(torch.tensor(short.weights.sum(1)), torch.ones(len(short.target)).double())


def test_the_best_of_several_references_counts() -> None:
    said, references = ["rain in the evening"], ["heavy rain", "rain in the evening", "weather"]
    assert measure_summaries(said, [references])[0]["rouge1"] == pytest.approx(100)
    each = [measure_summaries(said, [[one]])[0]["rouge2"] for one in references]
    assert measure_summaries(said, [references])[0]["rouge2"] == pytest.approx(max(each))
    assert measure_summaries([], [])[0] == {"rouge1": 0.0, "rouge2": 0.0, "rougeL": 0.0}


def test_english_is_measured_as_rouge_score_does() -> None:
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    said, right = "The cats' naïve running, 3.5 km!", "A cat ran 3.5 kilometres naively"
    expected = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True).score(right, said)
    metrics, how = measure_summaries([said], [[right]])
    assert metrics == pytest.approx({name: 100 * score.fmeasure for name, score in expected.items()})
    assert how["rouge1"] == "rouge-score|F1|stem:porter|tok:standard|references:1, the best"


def test_other_scripts_are_not_nothing() -> None:
    """rouge-score keeps a to z and digits: of Chinese it leaves nothing, of German umlauts holes."""
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    assert rouge_scorer.RougeScorer(["rouge1"]).score("我来了", "我来了")["rouge1"].fmeasure == 0
    for text in ("我来了", "東京へ行きます", "Привет мир", "Größe", "สวัสดี", "안녕하세요 여러분"):
        metrics, how = measure_summaries([text], [[text]])
        assert metrics["rouge1"] == pytest.approx(100)
        assert "tok:unicode" in how["rouge1"]
    assert measure_summaries(["我来了"], [["他走了"]])[0]["rouge1"] == pytest.approx(100 / 3)
    assert measure_summaries(["天气很好"], [["很好天气"]])[0]["rougeL"] == pytest.approx(50)
    assert rouge_words("GPU模型 running快") == ["gpu", "模", "型", "run", "快"]


def test_lead_is_the_beginning() -> None:
    text = "It rains. It pours! The end"
    assert [lead(text, count) for count in (1, 2, 3)] == ["It rains.", "It rains. It pours!", text]
    assert lead("") == ""


def test_what_is_too_long_is_counted_and_refused_or_cut(capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [Pair("a b c", "a", "a:1"), Pair("a " * 30, "b", "a:2"), Pair("b " * 40, "c" * 30, "a:3")]
    settings = {"tokens": "characters", "max_length": 20, "max_summary": 5}
    task = Summarisation.learn(SummarisationSettings(**settings), pairs)
    with pytest.raises(
        UserError, match=r"a:2: the source has 60 tokens; at most 20 are allowed, and 1 more of 3 are"
    ):
        task.batches(pairs, 100, 0)
    short = [pairs[0], Pair("a", "b c d e f", "a:4")]
    with pytest.raises(
        UserError, match=r"a:4: the target .* at most 5 are .*summarisation\.max_summary=\.\.\."
    ):
        task.batches(short, 100, 0)
    task = Summarisation.learn(SummarisationSettings(**settings, truncate=True), pairs)
    batches = task.batches(pairs, 100, 0)
    assert sorted(batches.lengths) == [(5, 1), (20, 1), (20, 5)]
    task.batches(pairs, 100, 0)
    told = capsys.readouterr().err
    assert told == "2 of 3 sources cut to 20 tokens\n1 of 3 targets cut to 5 tokens\n"  # said once


def test_settings_out_of_range_are_named() -> None:
    for given, said in (
        ({"beam": 0}, "beam is 0; at least 1"),
        ({"no_repeat": -1}, "no_repeat is -1; at least 0"),
        ({"min_summary": 200}, "min_summary is 200; 0 to max_summary = 100"),
        ({"length_penalty": float("nan")}, "a finite number"),
    ):
        with pytest.raises(UserError, match=said):
            SummarisationSettings(**given)


def test_files_are_judged_whole_and_in_order(tmp_path: Path, weather: Path) -> None:
    settings = SummarisationSettings()
    [(name, pairs)] = Summarisation.held_out(settings, [weather / "train.jsonl"]).items()
    assert name == "all"
    assert [pair.source for pair in pairs] == [one["text"] for one in DOCUMENTS[10:]]
    assert set(Summarisation.held_out(settings, [weather])) == {"valid"}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--attention", "none"], "copies by its weights, which 'none' has not; choose the model 'rnn'"),
        (["--source", "body"], "no field body for the source; there are text, summary, ann0"),
        (["--set", "summarisation.max_length=3"], "the source has"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    weather: Path, tmp_path: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "train",
        "summarisation",
        "--data",
        str(weather),
        "--run",
        str(tmp_path / "run"),
        "--steps",
        "1",
    ]
    assert main([*command, "--set", "summarisation.truncate=false", *flags]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_batches_hold_little_padding() -> None:
    experiment = Experiment.resolve("summarisation")
    examples = experiment.read()["train"]
    task = Summarisation.learn(experiment.settings, examples)
    batches = task.batches(examples, experiment.training.max_tokens, 0)
    assert batches.padding_waste() < 0.10
