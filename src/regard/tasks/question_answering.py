"""Extractive question answering: where in a text is the answer to a question, if it is there."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from regard.data import Batches
from regard.data.lexicon import Lexicon
from regard.data.manual import sample_questions
from regard.data.passages import Questions, Window, passage
from regard.data.squad import Question, is_squad, question_of, read_questions, read_squad
from regard.data.word_vectors import read_word_vectors
from regard.durable import write_file
from regard.errors import UserError
from regard.models.extraction import Found, extract
from regard.models.reading import Reader
from regard.tasks.lengths import Lengths
from regard.tasks.question_picture import picture, window_at
from regard.tasks.question_settings import QuestionAnsweringSettings
from regard.tasks.sliding_window import SlidingWindow
from regard.tasks.squad_metrics import best_threshold, measure_answers, measure_for
from regard.tasks.task import Answer, Evaluation, Judged, Tables, Task
from regard.view import Heatmap

__all__ = ["QuestionAnswering", "QuestionAnsweringSettings"]


class QuestionAnswering(Task[Question]):
    """Questions on a text, answered by a part of it, or by nothing where the answer is not there.

    The embedded sample is questions about the functions of the Python standard library, answered by their docstrings.

    Example:
        >>> examples = [Question("Who came?", "Ann came.", (("Ann", 0),)), Question("Who left?", "Ann came.")]
        >>> task = QuestionAnswering.learn(QuestionAnsweringSettings(least=1), examples)
        >>> task.model_sizes()["null_scores"]  # some questions have no answer
        1
    """

    name: ClassVar[str] = "question-answering"
    summary: ClassVar[str] = (
        "a question and a text to the answer in it, or none; sample: Python's documentation"
    )
    data_format: ClassVar[str] = (
        "SQuAD's JSON (1.1, 2.0, CMRC, DRCD, JaQuAD; .json or .json.gz): files or a directory"
    )
    Settings: ClassVar[type[Any]] = QuestionAnsweringSettings
    models: ClassVar[Sequence[str]] = ("bidaf", "transformer-reader")
    answering: ClassVar[Sequence[str]] = (
        "no_answer",
        "max_answer",
        "window",
        "stride",
        "baseline",
        "measure",
    )
    settings: QuestionAnsweringSettings

    def __init__(self, settings: QuestionAnsweringSettings, lexicon: Lexicon, null: bool) -> None:
        self.settings, self.lexicon, self.null = settings, lexicon, null
        self.lengths = Lengths(self.name)
        self.training = False

    @classmethod
    def recipe(cls, model: str, data: Sequence[Path]) -> Tables:
        recurrent = model == "bidaf"
        if not data:
            shape: dict[str, Any] = {"word_size": 64, "character_size": 32, "dropout": 0.1}
            shape |= (
                {"size": 64, "hidden_size": 32}
                if recurrent
                else {"size": 64, "ffn_size": 128, "modelling_layers": 1}
            )
            training = {"epochs": 5 if recurrent else 8, "max_tokens": 4096, "warm_up": 50, "schedule": "linear",
                        "learning_rate": 4e-3 if recurrent else 2e-3}  # fmt: skip
            return {"settings": {}, "model": shape, "training": training}
        training = {"epochs": 8 if recurrent else 20, "max_tokens": 6000, "warm_up": 200, "schedule": "cosine",
                    "learning_rate": 2e-3 if recurrent else 1e-3, "average": 3}  # fmt: skip
        shape = {"dropout": 0.2, "word_dropout": 0.1}
        return {"settings": {"evaluate_examples": 3000}, "model": shape, "training": training}

    @classmethod
    def read(
        cls, settings: QuestionAnsweringSettings, data: Sequence[Path]
    ) -> Mapping[str, Sequence[Question]]:
        return read_questions(data, skip_bad=settings.skip_bad) if data else sample_questions()

    @classmethod
    def held_out(
        cls, settings: QuestionAnsweringSettings, data: Sequence[Path]
    ) -> Mapping[str, Sequence[Question]]:
        if not all(path.is_file() for path in data):
            return super().held_out(settings, data)
        return {"all": [one for path in data for one in read_squad(path, skip_bad=settings.skip_bad)]}

    @classmethod
    def learn(cls, settings: QuestionAnsweringSettings, examples: Sequence[Question]) -> Self:
        texts = [*dict.fromkeys(one.context for one in examples), *(one.text for one in examples)]
        sizes = {"words": settings.vocabulary, "characters": settings.characters, "least": settings.least}
        lexicon = Lexicon.learn((passage(text).words for text in texts), **sizes)
        return cls(settings, lexicon, any(not one.answers for one in examples))

    @classmethod
    def load(cls, settings: QuestionAnsweringSettings, folder: Path) -> Self:
        file = folder / "answers.json"
        try:
            null = json.loads(file.read_text(encoding="utf-8"))["no_answer"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}: cannot be read ({error})") from None
        return cls(settings, Lexicon.load(folder), bool(null))

    def save(self, folder: Path) -> None:
        self.lexicon.save(folder)
        write_file(folder / "answers.json", json.dumps({"no_answer": self.null}).encode() + b"\n")

    def check(self, splits: Mapping[str, Sequence[Question]]) -> None:
        for name, examples in splits.items():
            if name != "train":
                self._asked(examples)

    def model_sizes(self) -> Mapping[str, int]:
        words, characters = len(self.lexicon.words), len(self.lexicon.characters)
        return {"words": words, "characters": characters, "null_scores": int(self.null)}

    @torch.no_grad()
    def begin(self, model: nn.Module) -> None:
        if not self.settings.word_vectors:
            return
        assert isinstance(model, Reader)
        path, vectors = Path(self.settings.word_vectors), model.vectors.words
        found = read_word_vectors(path, self.lexicon.words.ids, vectors.shape[1])
        for number, vector in found.items():
            vectors[number] = vector
        print(
            f"word vectors: {len(found):,} of {len(self.lexicon.words.ids):,} words have one", file=sys.stderr
        )

    def while_training(self) -> Self:
        other = self.changed(baseline=False)
        other.training = True
        return other

    def batches(self, examples: Sequence[Question], max_tokens: int, seed: int) -> Batches[Questions]:
        rows: list[Window] = []
        long = 0
        for one, question in zip(examples, self._asked(examples), strict=True):
            found = list(
                Window.to_learn(one, question, self.settings.window, self.settings.stride, self.null)
            )
            rows += found
            long += bool(one.answers) and not any(window.answers for window in found)
        if long:
            print(
                f"{long:,} questions not learnt from: their answers are longer than a window", file=sys.stderr
            )
        lengths = [(len(row.context), len(row.question)) for row in rows]
        return Batches(
            lengths, lambda index: self.lexicon.lay([rows[n] for n in index], index), max_tokens, seed
        )

    def loss(
        self, model: nn.Module, batch: Questions, smoothing: float
    ) -> tuple[Tensor, int, dict[str, float]]:
        loss, surprise = model(batch, smoothing)
        return loss, 2 * len(batch.index), {"negative_log_likelihood": float(surprise)}

    @property
    def metric(self) -> str:
        return str(self.settings.metric)

    def evaluate(self, model: nn.Module, examples: Sequence[Question]) -> Evaluation:
        assert isinstance(model, Reader)
        found = self._find(model, examples)
        measure = measure_for(self.settings.measure, [one.context for one in examples])
        right = [[text for text, _ in one.answers] for one in examples]
        if self.training and self.null:
            best = [one.spans[0].text if one.spans else "" for one in found]
            answered, silent = (
                [f1 for _, f1 in measure_answers(said, right, measure)[1]]
                for said in (best, [""] * len(best))
            )
            model.threshold.fill_(best_threshold([one.margin for one in found], answered, silent))
        said = [self._said(model, one) for one in found]
        metrics, scores = measure_answers(said, right, measure)
        if self.settings.baseline:
            window = SlidingWindow(one.context for one in examples)
            plain = measure_answers(
                [window.answer(one.text, one.context) for one in examples], right, measure
            )[0]
            metrics |= {f"sliding_window_{name}": plain[name] for name in ("exact", "f1")}
        if self.null:
            metrics["no_answer_threshold"] = float(model.threshold)
        judged = [
            Judged(
                one.line, text, (texts or [""])[0], exact == 1.0, len(passage(one.context).places), texts[1:]
            )
            for one, text, texts, (exact, _) in zip(examples, said, right, scores, strict=True)
        ]
        return Evaluation(metrics, {"f1": measure.about}, judged)

    def quality(self, judged: Sequence[Judged]) -> float:
        measure = measure_for(self.settings.measure, [row.source for row in judged])
        right = [[text for text in (row.expected, *row.others) if text] for row in judged]
        return measure_answers([row.said for row in judged], right, measure)[0][self.metric]

    def _silent(self, model: Reader, found: Found) -> bool:
        """Whether nothing is said."""
        may = self.null and self.settings.no_answer == "auto"
        return not found.spans or (may and found.margin > float(model.threshold))

    def _said(self, model: Reader, found: Found) -> str:
        return "" if self._silent(model, found) else found.spans[0].text

    def _find(self, model: nn.Module, examples: Sequence[Question], n_best: int = 1) -> list[Found]:
        assert isinstance(model, Reader)
        asked = [
            (question, passage(one.context))
            for one, question in zip(examples, self._asked(examples), strict=True)
        ]
        how = {
            "window": self.settings.window,
            "stride": self.settings.stride,
            "longest": self.settings.max_answer,
        }
        return extract(model, self.lexicon, asked, n_best=n_best, **how)

    def _asked(self, examples: Sequence[Question]) -> list[tuple[str, ...]]:
        """The words of the questions, cut or refused where there are too many."""
        asked, how = [passage(one.text).words for one in examples], self.settings
        origins = [one.origin for one in examples]
        return self.lengths.bring(
            asked, origins, how.max_question, "question", "max_question", how.truncate, "words"
        )

    def predict(
        self,
        model: nn.Module,
        inputs: Sequence[str],
        *,
        n_best: int = 1,
        where: str = "the input",
        first: int = 1,
    ) -> list[Answer]:
        assert isinstance(model, Reader)
        full = [place for place, text in enumerate(inputs) if text.strip()]
        questions = [question_of(inputs[place], f"{where}, line {first + place}") for place in full]
        answers = [Answer("", 0.0)] * len(inputs)
        for place, found in zip(full, self._find(model, questions, n_best), strict=True):
            said = [(" ".join(span.text.split()), span.score) for span in found.spans]
            if self._silent(model, found):
                said.insert(0, ("", found.none))
            elif self.null and self.settings.no_answer == "auto":
                said = [said[0], *sorted([*said[1:], ("", found.none)], key=lambda one: -one[1])]
            answers[place] = Answer(*said[0], said[:n_best])
        return answers

    def predict_file(self, model: nn.Module, path: Path) -> str | None:
        if not is_squad(path):
            return None
        assert isinstance(model, Reader)
        questions = read_squad(path, judged=False)
        found = self._find(model, questions)
        said = {one.id: self._said(model, best) for one, best in zip(questions, found, strict=True)}
        return json.dumps(said, ensure_ascii=False, indent=0) + "\n"

    @torch.no_grad()
    def pictures(
        self, model: nn.Module, text: str, *, answer: str | None = None, layer: int | None, head: int | None
    ) -> list[Heatmap]:
        assert isinstance(model, Reader)
        if not text.strip():
            raise UserError("there is nothing to look at: the text is empty")
        for name, value in (("layer", layer), ("head", head)):
            if value not in (None, 1):
                raise UserError(f"there is no {name} {value}: between question and context the model has 1")
        one = question_of(text, f"the text {text[:40]!r}")
        context, [question] = passage(one.context), self._asked([one])
        if answer is None:
            [found] = self._find(model, [one])
            said, likely = self._said(model, found), found.spans[0][2:] if found.spans else (0, 0)
        else:
            said, at = answer.strip(), one.context.find(answer.strip())
            if at < 0 or not said:
                raise UserError(f"the answer {answer[:40]!r} is not in the context")
            [likely] = context.answers(replace(one, answers=((said, at),)))
        batch, part = window_at(self.settings, self.lexicon, context, question, sum(likely) // 2)
        _, weights = model.eval().read(batch.to(next(model.parameters()).device), return_weights=True)
        if weights is None:
            raise UserError("this model has no attention to show: it was trained with attention 'none'")
        return [picture(weights[0, 0, 0], one, question, context, part, likely if said else None)]
