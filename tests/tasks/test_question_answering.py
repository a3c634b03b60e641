"""Question answering as a task: what it learns by, what it answers, and in which form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from regard.data.squad import Question
from regard.errors import UserError
from regard.models import build
from regard.models.reading import Reader
from regard.tasks.experiment import Experiment, Trained, train
from regard.tasks.question_answering import QuestionAnswering, QuestionAnsweringSettings
from regard.tasks.report import write_report
from regard.tasks.sliding_window import SlidingWindow

NAMES = ("Ann", "Bob", "Carol", "Dan")
CITIES = ("Rome", "Paris", "Oslo", "Bonn")


def questions(count: int) -> list[Question]:
    """Who was where; every third question about somebody of whom nothing is said."""
    made = []
    for n in range(count):
        a, b = NAMES[n % 4], NAMES[(n + 1) % 4]
        x, y = CITIES[n // 4 % 4], CITIES[(n // 4 + 1 + n // 16 % 3) % 4]
        context = f"{a} was in {x}.  Later\n{b} was in {y}."
        if n % 3 == 2:
            made.append(Question(f"Where was {NAMES[(n + 2) % 4]}?", context, (), str(n), f"a: {n}"))
        else:
            name, city = ((a, x), (b, y))[n % 2]
            made.append(
                Question(f"Where was {name}?", context, ((city, context.index(city)),), str(n), f"a: {n}")
            )
    return made


def squad(examples: Sequence[Question]) -> str:
    paragraphs = [
        {
            "context": one.context,
            "qas": [
                {
                    "id": one.id,
                    "question": one.text,
                    "is_impossible": not one.answers,
                    "answers": [{"text": text, "answer_start": start} for text, start in one.answers],
                }
            ],
        }
        for one in examples
    ]
    return json.dumps({"version": "v2.0", "data": [{"title": "T", "paragraphs": paragraphs}]})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader that has learnt who was where."""
    folder = tmp_path_factory.mktemp("who")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    (folder / "train.json").write_text(squad(questions(144)), encoding="utf-8")
    (folder / "dev.json").write_text(squad(questions(48)), encoding="utf-8")
    changes = {
        "question-answering": {"window": 9, "stride": 5},
        "bidaf": {"word_size": 16, "character_size": 0, "size": 16, "hidden_size": 16, "dropout": 0.0},
        "training": {
            "steps": 130,
            "max_tokens": 400,
            "learning_rate": 0.02,
            "evaluate_every": 65,
            "average": 1,
            "warm_up": 5,
        },
    }
    experiment = Experiment.resolve("question-answering", data=[folder], changes=changes)
    train(experiment, folder / "run", quiet=True)
    torch.set_num_threads(before)
    return folder / "run"


@pytest.fixture(scope="module")
def trained(run: Path) -> Trained:
    return Trained.open(run)


def reader(trained: Trained) -> Reader:
    assert isinstance(trained.model, Reader)
    return trained.model


def test_it_answers_from_the_right_place_and_is_silent_where_there_is_no_answer(trained: Trained) -> None:
    found = trained.evaluate({"valid": questions(48)})["valid"]
    assert found.metrics["f1"] > 90
    assert found.metrics["has_answer_f1"] > 85
    assert found.metrics["no_answer_f1"] > 85
    assert found.metrics["no_answer_threshold"] == pytest.approx(float(reader(trained).threshold))
    assert trained.task.quality(found.judged) == pytest.approx(found.metrics["f1"])
    assert "SQuAD" in found.signatures["f1"]


def test_the_threshold_is_chosen_in_training_and_saved_with_the_weights(run: Path, trained: Trained) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    best = max((one for one in records if one["kind"] == "evaluation"), key=lambda one: one["f1"])
    assert float(reader(trained).threshold) == pytest.approx(best["no_answer_threshold"], abs=1e-5)


def test_never_silent_it_always_answers(trained: Trained) -> None:
    task = trained.task.changed(no_answer="never")
    said = [row.said for row in task.evaluate(trained.model, questions(48)).judged]
    assert all(said)


def test_lines_are_answered_by_the_text_itself_or_by_nothing(trained: Trained) -> None:
    answerable = next(one for one in questions(48) if one.answers)
    silent = next(one for one in questions(48) if not one.answers)
    inputs = [answerable.line, "", json.dumps({"question": silent.text, "context": silent.context})]
    answers = trained.task.predict(trained.model, inputs, n_best=3)
    assert [one.text for one in answers] == [answerable.answers[0][0], "", ""]
    assert len(answers[0].others) == len(answers[2].others) == 3
    assert answers[0].others[0][0] == answers[0].text
    assert answers[2].others[0][0] == ""
    assert answers[1].others == ()
    assert all(score <= 1e-6 for one in answers for _, score in one.others)
    with pytest.raises(UserError, match="here, line 8: a question, a tab and its context are expected"):
        trained.task.predict(trained.model, [answerable.line, "Who?"], where="here", first=7)


def test_a_file_of_questions_gives_the_official_predictions(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "dev.json"
    path.write_text(squad(questions(12)), encoding="utf-8")
    said = json.loads(trained.task.predict_file(trained.model, path) or "")
    judged = trained.task.evaluate(trained.model, questions(12)).judged
    assert said == {str(n): row.said for n, row in enumerate(judged)}
    assert trained.task.predict_file(trained.model, tmp_path / "dev.txt") is None


def test_pictures_show_the_words_around_the_marked_answer(trained: Trained) -> None:
    one = next(one for one in questions(48) if one.answers)
    [picture] = trained.task.pictures(trained.model, one.line, layer=None, head=None)
    assert picture.target == tuple(f"Where was {one.text.split()[-1][:-1]} ?".split())
    assert f"[{one.answers[0][0]}]" in picture.source
    assert picture.weights.sum(0) == pytest.approx(1.0)
    long = one.text + "\t" + "It rained. " * 60 + one.context + " It rained." * 60
    [picture] = trained.task.pictures(trained.model, long, answer=one.answers[0][0], layer=1, head=1)
    assert "; words " in picture.subtitle
    assert f"[{one.answers[0][0]}]" in picture.source
    for text, answer, layer, message in (
        (one.line, "Atlantis", None, "the answer 'Atlantis' is not in the context"),
        (one.line, None, 2, "there is no layer 2"),
        (" ", None, None, "there is nothing to look at"),
    ):
        with pytest.raises(UserError, match=message):
            trained.task.pictures(trained.model, text, answer=answer, layer=layer, head=None)


def test_its_report_is_a_page_with_pictures(run: Path) -> None:
    write_report(run)
    page = (run / "report.html").read_text(encoding="utf-8")
    for part in (
        "Where it looked",
        "no_answer_threshold",
        "regard train question-answering",
        "has_answer_f1",
    ):
        assert part in page


def test_the_baseline_is_measured_beside_the_model(trained: Trained) -> None:
    task = trained.task.changed(baseline=True)
    metrics = task.evaluate(trained.model, questions(24)).metrics
    assert 0 < metrics["sliding_window_f1"] < metrics["f1"]


def test_the_sliding_window_takes_the_best_span_of_the_best_sentence() -> None:
    context = "Ann went home. The old king of Norway was crowned in Oslo. Bob slept."
    assert SlidingWindow([context]).answer("Where was the king of Norway crowned?", context) == "in Oslo"
    assert SlidingWindow([]).answer("Who?", "?!") == ""


def test_padding_wastes_less_than_a_tenth() -> None:
    examples = [
        Question(
            "Who " * (1 + n % 7), f"{'word ' * (20 + n * 37 % 150)}Ann", (("Ann", 5 * (20 + n * 37 % 150)),)
        )
        for n in range(600)
    ]
    task = QuestionAnswering.learn(QuestionAnsweringSettings(), examples)
    assert task.batches(examples, 4096, 0).padding_waste() < 0.1


def test_long_questions_are_cut_and_counted_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    long = Question("who " * 9, "Ann", (("Ann", 0),), origin="a.json: 7")
    task = QuestionAnswering.learn(QuestionAnsweringSettings(max_question=8), [long])
    task.batches([long], 100, 0)
    assert "1 of 1 questions cut to 8 words" in capsys.readouterr().err
    strict = QuestionAnswering.learn(QuestionAnsweringSettings(max_question=8, truncate=False), [long])
    with pytest.raises(UserError, match=r"a\.json: 7: the question has 9 words; at most 8 are allowed"):
        strict.check({"valid": [long]})


def test_answers_longer_than_a_window_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    text = "a " * 20
    examples = [Question("who?", text, ((text.strip(), 0),)), Question("who?", text, (("a", 0),))]
    task = QuestionAnswering.learn(QuestionAnsweringSettings(window=10, stride=5), examples)
    task.batches(examples, 100, 0)
    assert "1 questions not learnt from" in capsys.readouterr().err


def test_word_vectors_are_where_it_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text("rome 1 2 3\nnowhere 0 0 0\n", encoding="utf-8")
    task = QuestionAnswering.learn(QuestionAnsweringSettings(word_vectors=str(path)), questions(8))
    model = build({"model": "bidaf", "word_size": 3, **task.model_sizes()})
    task.begin(model)
    assert model.vectors.words[task.lexicon.words.ids["rome"]].tolist() == [1, 2, 3]
    assert "word vectors: 1 of " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("stride", 500, "stride is 500, more than window, 400"),
        ("window", 0, "window is 0; at least 1"),
        ("measure", "bleu", "measure is 'bleu'; one of auto, squad, cmrc"),
        ("metric", "em", "metric is 'em'; one of f1, exact"),
    ],
)
def test_settings_are_checked(field: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        QuestionAnsweringSettings(**{field: value})  # type: ignore[arg-type]


def test_a_damaged_run_is_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"answers\.json: cannot be read"):
        QuestionAnswering.load(QuestionAnsweringSettings(), tmp_path)
