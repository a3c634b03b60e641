"""Extractive question answering: where in a text is the answer to a question, if it is there."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from regard.data import Batches, in_length_order
from regard.data.lexicon import Lexicon
from regard.data.manual import sample_questions
from regard.data.passages import Questions, Window, spans, windows
from regard.data.squad import Question, is_squad, read_questions, read_squad
from regard.errors import UserError
from regard.models.reading import Reader
from regard.tasks.squad_metrics import MEASURES, best_threshold, measure_answers, measure_for
from regard.tasks.task import Answer, Evaluation, Judged, Tables, Task
from regard.view import Heatmap, heatmap

__all__ = ["QuestionAnswering", "QuestionAnsweringSettings"]

READ_AT_ONCE = 8192
"""Padded words of contexts read at once when answering."""
SHOWN = 40
"""The most words of a context in a picture."""


@dataclass(frozen=True)
class QuestionAnsweringSettings:
    """Everything about the texts, the metric and the answers; raises `UserError` for a value out of range."""

    vocabulary: int = 20000
    """The most words, without regard to case."""
    characters: int = 500
    """The most characters."""
    least: int = 2
    """How often a word must occur to be known."""
    window: int = 400
    """The most words of a context that are read at once; a longer one is read in windows."""
    stride: int = 200
    """How many words after each other windows begin."""
    max_question: int = 60
    """The most words of a question."""
    truncate: bool = True
    """Cut longer questions, and say how many were cut, instead of refusing them."""
    skip_bad: bool = False
    """Leave out questions that cannot be used, and say which, instead of refusing the data."""
    max_answer: int = 30
    """The most words of an answer that is said."""
    measure: Literal["auto", "squad", "cmrc"] = "auto"
    """How answers are held against right ones: as SQuAD's or CMRC's scorer does; auto goes by the script."""
    metric: Literal["f1", "exact_match"] = "f1"
    """What checkpoints are compared by."""
    evaluate_examples: int = 1000
    """How many validation questions are answered at each evaluation during training."""
    no_answer: Literal["auto", "never"] = "auto"
    """Whether to say nothing where no answer seems likelier; never where no question of the training data is such."""
    baseline: bool = False
    """Also answer without a model, by the sliding window, and measure that."""

    def __post_init__(self) -> None:
        for name in ("vocabulary", "characters", "least", "window", "stride", "max_question", "max_answer"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; at least 1 is expected")
        if self.evaluate_examples < 1:
            raise UserError(f"evaluate_examples is {self.evaluate_examples}; at least 1 is expected")
        if self.stride > self.window:
            raise UserError(f"stride is {self.stride}, more than window, {self.window}: words would go unread")
        for name, known in (
            ("measure", ("auto", *MEASURES)),
            ("metric", ("f1", "exact_match")),
            ("no_answer", ("auto", "never")),
        ):
            if getattr(self, name) not in known:
                raise UserError(f"{name} is {getattr(self, name)!r}; one of {', '.join(known)} is expected")


class Found(NamedTuple):
    """What a model says to a question: answers with their logarithmic probabilities, and that of none."""

    answers: list[tuple[str, float, int, int]]
    """Text, logarithm of the probability, first and last word."""
    none: float


class QuestionAnswering(Task[Question]):
    """Questions on a text, answered by a part of it, or by nothing where the answer is not there.

    The embedded sample is questions about the functions of the Python standard library, answered by their docstrings.
    """

    name: ClassVar[str] = "question-answering"
    summary: ClassVar[str] = "a question and a text to the answer in it, or none; sample: Python's documentation"
    data_format: ClassVar[str] = "SQuAD's JSON (1.1, 2.0, CMRC, DRCD, JaQuAD; .json or .json.gz): files or a directory"
    Settings: ClassVar[type[Any]] = QuestionAnsweringSettings
    models: ClassVar[Sequence[str]] = ("bidaf",)
    answering: ClassVar[Sequence[str]] = ("no_answer", "max_answer", "window", "stride", "baseline", "measure")
    settings: QuestionAnsweringSettings

    def __init__(self, settings: QuestionAnsweringSettings, lexicon: Lexicon, null: bool) -> None:
        self.settings, self.lexicon, self.null = settings, lexicon, null
        self.calibrating = False

    @classmethod
    def recipe(cls, model: str, data: Sequence[Path]) -> Tables:
        if not data:
            settings: dict[str, Any] = {}
            shape: dict[str, Any] = {"size": 64, "word_size": 64, "character_size": 32, "hidden_size": 32, "dropout": 0.1}
            training = {
                "epochs": 6, "max_tokens": 4096, "learning_rate": 4e-3, "schedule": "linear", "warm_up": 50,
            }  # fmt: skip
        else:
            settings = {"evaluate_examples": 3000}
            shape = {"dropout": 0.3, "word_dropout": 0.1}
            training = {
                "epochs": 10, "max_tokens": 6000, "learning_rate": 2e-3, "schedule": "cosine", "warm_up": 200, "average": 3,
            }  # fmt: skip
        return {"settings": settings, "model": shape, "training": training}

    @classmethod
    def read(cls, settings: QuestionAnsweringSettings, data: Sequence[Path]) -> Mapping[str, Sequence[Question]]:
        return read_questions(data, skip_bad=settings.skip_bad) if data else sample_questions()

    @classmethod
    def learn(cls, settings: QuestionAnsweringSettings, examples: Sequence[Question]) -> Self:
        contexts = dict.fromkeys(one.context for one in examples)
        texts = (_words(text) for source in (contexts, (one.text for one in examples)) for text in source)
        lexicon = Lexicon.learn(
            texts, words=settings.vocabulary, characters=settings.characters, least=settings.least
        )
        return cls(settings, lexicon, any(not one.answers for one in examples))

    @classmethod
    def load(cls, settings: QuestionAnsweringSettings, folder: Path) -> Self:
        try:
            null = json.loads((folder / "answers.json").read_text(encoding="utf-8"))["no_answer"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder / 'answers.json'}: cannot be read ({error})") from None
        return cls(settings, Lexicon.load(folder), bool(null))

    def save(self, folder: Path) -> None:
        self.lexicon.save(folder)
        (folder / "answers.json").write_text(json.dumps({"no_answer": self.null}) + "\n", encoding="utf-8")

    def check(self, splits: Mapping[str, Sequence[Question]]) -> None:
        for name, examples in splits.items():
            if name != "train":
                self._asked(examples)

    def model_sizes(self) -> Mapping[str, int]:
        return {
            "words": len(self.lexicon.words),
            "characters": len(self.lexicon.characters),
            "null_scores": int(self.null),
        }

    def while_training(self) -> Self:
        other = self.changed(baseline=False)
        other.calibrating = self.null
        return other

    def batches(self, examples: Sequence[Question], max_tokens: int, seed: int) -> Batches[Questions]:
        asked, rows = self._asked(examples), []
        without = 0
        cut: dict[str, list[tuple[int, int]]] = {}
        for one, question in zip(examples, asked, strict=True):
            places = cut.setdefault(one.context, spans(one.context))
            words = tuple(one.context[first:last] for first, last in places)
            answers = _places(one, places)
            limits = windows(len(words), self.settings.window, self.settings.stride)
            inside = [[a for a in answers if first <= a[0] and a[1] < last] for first, last in limits]
            if answers and not any(inside):
                without += 1
                continue
            best = max(range(len(limits)), key=lambda n: (len(inside[n]), -abs(_middle(limits[n], inside[n]))))
            for number, (first, last) in enumerate(limits):
                if number == best or (self.null and (not answers or not inside[number])):
                    chosen = inside[number]
                    targets = tuple((a - first, b - first, 1 / len(chosen)) for a, b in chosen)
                    rows.append(Window(question, words[first:last], targets))
        if without:
            print(f"{without:,} answers are longer than a window and not learnt from", file=sys.stderr)
        lengths = [(len(row.context), len(row.question)) for row in rows]
        return Batches(lengths, lambda index: self.lexicon.lay([rows[n] for n in index], index), max_tokens, seed)

    def loss(self, model: nn.Module, batch: Questions, smoothing: float) -> tuple[Tensor, int, dict[str, float]]:
        loss, surprise = model(batch, smoothing)
        return loss, 2 * len(batch.index), {"negative_log_likelihood": float(surprise)}

    @property
    def metric(self) -> str:
        return str(self.settings.metric)

    def evaluate(self, model: nn.Module, examples: Sequence[Question]) -> Evaluation:
        assert isinstance(model, Reader)
        found = self._find(model, examples)
        measure = measure_for(self.settings.measure, [one.context for one in examples[:200]])
        right = [[text for text, _ in one.answers] for one in examples]
        best = [one.answers[0][0] if one.answers else "" for one in found]
        if self.calibrating:
            answered = [f1 for _, f1 in measure_answers(best, right, measure)[1]]
            silent = [f1 for _, f1 in measure_answers([""] * len(best), right, measure)[1]]
            model.threshold.fill_(best_threshold([_margin(one) for one in found], answered, silent))
        said = ["" if self._silent(model, one) else text for one, text in zip(found, best, strict=True)]
        metrics, scores = measure_answers(said, right, measure)
        signatures = {"f1": measure.about}
        if self.null:
            metrics["no_answer_threshold"] = float(model.threshold)
        judged = [
            Judged(_input(one), text, texts[0] if texts else "", exact == 1.0, len(spans(one.context)), texts[1:])
            for one, text, texts, (exact, _) in zip(examples, said, right, scores, strict=True)
        ]
        return Evaluation(metrics, signatures, judged)

    def quality(self, judged: Sequence[Judged]) -> float:
        measure = measure_for(self.settings.measure, [row.source for row in judged[:200]])
        right = [[text for text in (row.expected, *row.others) if text] for row in judged]
        return measure_answers([row.said for row in judged], right, measure)[0][self.metric]

    def _silent(self, model: Reader, found: Found) -> bool:
        if not found.answers:
            return True
        return self.null and self.settings.no_answer == "auto" and _margin(found) > float(model.threshold)

    @torch.no_grad()
    def _find(self, model: nn.Module, examples: Sequence[Question], n_best: int = 1) -> list[Found]:
        """The answers to questions, the likeliest first, of all windows of their contexts together."""
        assert isinstance(model, Reader)
        device = next(model.parameters()).device
        rows: list[Window] = []
        owner: list[tuple[int, int]] = []
        cut: dict[str, list[tuple[int, int]]] = {}
        for number, (one, question) in enumerate(zip(examples, self._asked(examples), strict=True)):
            places = cut.setdefault(one.context, spans(one.context))
            words = tuple(one.context[first:last] for first, last in places)
            for first, last in windows(len(words), self.settings.window, self.settings.stride):
                rows.append(Window(question, words[first:last]))
                owner.append((number, first))

        def read(index: Sequence[int]) -> list[Tensor]:
            scores, _ = model.read(self.lexicon.lay([rows[n] for n in index], index).to(device))
            return [row[:, : len(rows[n].context) + 1] for row, n in zip(scores.float().cpu(), index, strict=True)]

        was_training = model.training
        model.eval()
        read_rows = in_length_order([(len(row.context), len(row.question)) for row in rows], READ_AT_ONCE, read)
        model.train(was_training)
        together: list[list[tuple[int, Tensor]]] = [[] for _ in examples]
        for (number, first), scores in zip(owner, read_rows, strict=True):
            together[number].append((first, scores))
        return [
            self._best(one, cut[one.context], parts, n_best) for one, parts in zip(examples, together, strict=True)
        ]

    def _best(
        self, one: Question, places: list[tuple[int, int]], parts: list[tuple[int, Tensor]], n_best: int
    ) -> Found:
        whole = torch.stack([scores.logsumexp(1) for _, scores in parts]).logsumexp(0).sum()
        spans_found: dict[tuple[int, int], float] = {}
        for offset, scores in parts:
            count = scores.shape[1] - 1
            if not count:
                continue
            pairs = (scores[0, 1:, None] + scores[1, None, 1:]).triu().tril(self.settings.max_answer - 1)
            allowed = torch.ones(count, count, dtype=torch.bool).triu().tril(self.settings.max_answer - 1)
            best = pairs.masked_fill(~allowed, -torch.inf).flatten().topk(min(n_best, count))
            for value, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                first, last = offset + place // count, offset + place % count
                if value > -torch.inf:
                    spans_found[first, last] = max(value, spans_found.get((first, last), -torch.inf))
        order = sorted(spans_found.items(), key=lambda pair: (-pair[1], pair[0]))[:n_best]
        answers = [
            (one.context[places[a][0] : places[b][1]], value - float(whole), a, b) for (a, b), value in order
        ]
        none = min(float(scores[:, 0].sum()) for _, scores in parts) - float(whole)
        return Found(answers, none)

    def _asked(self, examples: Sequence[Question]) -> list[tuple[str, ...]]:
        """The words of the questions, cut or refused where there are too many."""
        limit, cut, asked = self.settings.max_question, 0, []
        for one in examples:
            words = _words(one.text)
            if len(words) > limit:
                if not self.settings.truncate:
                    raise UserError(
                        f"{one.origin}: the question has {len(words)} words; at most {limit} are allowed (train with "
                        f"--set {self.name}.max_question=... to allow more, or --set {self.name}.truncate=true)"
                    )
                words, cut = words[:limit], cut + 1
            asked.append(words)
        if cut:
            print(f"{cut:,} of {len(asked):,} questions cut to {limit} words", file=sys.stderr)
        return asked

    def predict(
        self,
        model: nn.Module,
        inputs: Sequence[str],
        *,
        n_best: int = 1,
        where: str = "the input",
        first: int = 1,
    ) -> list[Answer]:
        raise NotImplementedError

    def pictures(
        self, model: nn.Module, text: str, *, answer: str | None = None, layer: int | None, head: int | None
    ) -> list[Heatmap]:
        return []


def _words(text: str) -> tuple[str, ...]:
    return tuple(text[first:last] for first, last in spans(text))


def _input(one: Question) -> str:
    """A question and its context on one line."""
    return "\t".join(" ".join(text.split()) for text in (one.text, one.context))


def _margin(found: Found) -> float:
    return found.none - found.answers[0][1] if found.answers else float("inf")


def _middle(limits: tuple[int, int], answers: Sequence[tuple[int, int]]) -> float:
    """How far the first answer in a window is from its middle."""
    return (answers[0][0] + answers[0][1] - limits[0] - limits[1]) / 2 if answers else 0.0


def _places(one: Question, places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The first and last word of each answer; a word that is partly in it is taken whole."""
    found = []
    for text, start in one.answers:
        if start < 0:
            continue
        first = start + len(text) - len(text.lstrip())
        last = start + len(text.rstrip())
        inside = [n for n, (a, b) in enumerate(places) if b > first and a < last]
        if inside:
            found.append((inside[0], inside[-1]))
    return found
