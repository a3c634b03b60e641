"""Summarisation: a document to a few words or sentences that say what it is about."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import nn

from regard.data import Pair
from regard.data.docstrings import sample_docstrings
from regard.data.documents import read_documents, read_sources
from regard.errors import UserError
from regard.models import repeats_and_haste
from regard.tasks.rouge import ROUGES, RougeTokenizer, measure_summaries
from regard.tasks.task import Answer, Tables
from regard.tasks.text_to_text import TextToText
from regard.view import Heatmap

__all__ = ["Summarisation", "SummarisationSettings"]

COLUMNS = 60
"""The most columns of a picture."""
TITLE = 40
"""The most characters of a document in its title."""


@dataclass(frozen=True)
class SummarisationSettings:
    """Everything about the texts, the metric and prediction.

    Raises `UserError` for a size or count out of range.

    Example:
        >>> SummarisationSettings(max_length=200).max_summary
        100
    """

    source: str = ""
    """The field or column of the document, or how its file's name ends; found among usual names when not given."""
    target: str = ""
    """The field or column of the summary, likewise."""
    skip_bad: bool = False
    """Leave out examples without a document or summary, and say which, instead of refusing the data."""
    tokens: Literal["bpe", "characters"] = "bpe"
    """Subwords by byte-pair encoding, or characters."""
    vocabulary: int = 8000
    """The most tokens of the vocabulary, which documents and summaries share."""
    lowercase: bool = True
    """Read and write lower case only; ROUGE does not regard case."""
    max_length: int = 400
    """The most tokens of a document."""
    max_summary: int = 100
    """The most tokens of a summary, learnt from or written."""
    truncate: bool = False
    """Cut what is longer, and say how many texts were cut, instead of refusing it."""
    metric: Literal["rouge1", "rouge2", "rougeL", "rouge_mean"] = "rouge_mean"
    """What checkpoints are compared by, and training stops by; `rouge_mean` is the mean of the three."""
    rouge_tokenizer: RougeTokenizer = "auto"
    """What is a word: rouge-score's own (`standard`), or words of any script and Chinese characters (`unicode`)."""
    references: Literal["all", "first"] = "all"
    """Whether a summary is held against the best of several, or against the first alone."""
    evaluate_examples: int = 1000
    """How many validation examples are summarised (greedily) at each evaluation during training."""
    beam: int = 4
    """The width of the search when predicting; 1 is greedy."""
    length_penalty: float = 0.6
    """The exponent of the length penalty of Wu et al. 2016; more than 0 favours longer summaries."""
    min_summary: int = 1
    """The fewest tokens of a summary."""
    no_repeat: int = 3
    """How many tokens in a row are written no second time; 0: any are."""

    shared_vocabulary: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("vocabulary", "max_length", "max_summary", "evaluate_examples", "beam"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; at least 1 is expected")
        if self.no_repeat < 0:
            raise UserError(f"no_repeat is {self.no_repeat}; at least 0 is expected")
        if not 0 <= self.min_summary <= self.max_summary:
            raise UserError(
                f"min_summary is {self.min_summary}; 0 to max_summary = {self.max_summary} is expected"
            )
        if not math.isfinite(self.length_penalty):
            raise UserError(f"length_penalty is {self.length_penalty}; a finite number is expected")


class Summarisation(TextToText):
    """Summaries by a model that writes and copies, or by one that only writes.

    The embedded sample is the documentation of Python's standard library: the text below a first line -> that line.

    Example:
        >>> settings = SummarisationSettings(tokens="characters")
        >>> task = Summarisation.learn(settings, [Pair("It rains. It pours.", "Rain")])
        >>> task.model_sizes()["source_vocabulary"] == task.model_sizes()["target_vocabulary"]
        True
    """

    name: ClassVar[str] = "summarisation"
    summary: ClassVar[str] = (
        "a document to its summary: subjects, headlines, or (the sample) docstrings to first lines"
    )
    data_format: ClassVar[str] = (
        "a directory with train*, valid* and test*, or one file: JSON lines, tab-separated text or two parallel files"
    )
    Settings: ClassVar[type[Any]] = SummarisationSettings
    models: ClassVar[Sequence[str]] = ("pointer-generator", "rnn", "transformer")
    answering: ClassVar[Sequence[str]] = (
        *("beam", "length_penalty", "min_summary", "max_summary", "no_repeat"),
        *("references", "rouge_tokenizer", "truncate"),
    )
    settings: SummarisationSettings

    @classmethod
    def recipe(cls, model: str, data: Sequence[Path]) -> Tables:
        settings: dict[str, Any] = {"truncate": True}
        models: dict[str, dict[str, Any]] = {
            "pointer-generator": {"dropout": 0.3},
            "rnn": {"embedding_size": 128, "dropout": 0.3, "tie_embeddings": "all"},
            "transformer": {"encoder_layers": 3, "decoder_layers": 3, "tie_embeddings": "all"},
        }
        training: dict[str, Any] = {"schedule": "cosine", "label_smoothing": 0.1, "warm_up": 100}
        if not data:
            settings |= {
                "vocabulary": 1000,
                "max_length": 100,
                "max_summary": 30,
                "beam": 1,
                "evaluate_examples": 200,
            }
            models["pointer-generator"] |= {"embedding_size": 96, "hidden_size": 128, "dropout": 0.2}
            rate = 1e-3 if model == "transformer" else 3e-3
            training |= {"epochs": 10, "max_tokens": 2048, "learning_rate": rate}
        else:
            settings |= {"max_length": 200}
            training |= {"epochs": 8, "max_tokens": 2048, "learning_rate": 1e-3, "average": 3}
        return {"settings": settings, "model": models[model], "training": training}

    @classmethod
    def read(cls, settings: SummarisationSettings, data: Sequence[Path]) -> Mapping[str, Sequence[Pair]]:
        splits = (
            read_documents(data, settings.source, settings.target, skip_bad=settings.skip_bad)
            if data
            else sample_docstrings()
        )
        return {"train": splits.train, "valid": splits.valid, **splits.test}

    @classmethod
    def held_out(cls, settings: SummarisationSettings, data: Sequence[Path]) -> Mapping[str, Sequence[Pair]]:
        splits = cls.read(settings, data)
        if len(data) == 1 and data[0].is_dir():
            return {name: pairs for name, pairs in splits.items() if name != "train"}
        both = [
            *splits["train"],
            *splits["valid"],
        ]  # files have no parts of their own: judge every line, in order
        return {"all": sorted(both, key=lambda pair: int(pair.origin.rpartition(":")[2]))}

    def limit(self, side: str) -> tuple[str, int]:
        name = "max_length" if side == "source" else "max_summary"
        return name, getattr(self.settings, name)

    def search_options(self) -> Mapping[str, Any]:
        settings = self.settings
        options: dict[str, Any] = {"max_length": settings.max_summary}
        if settings.no_repeat or settings.min_summary:
            options["forbid"] = repeats_and_haste(settings.no_repeat, settings.min_summary)
        return options

    @property
    def metric(self) -> str:
        return str(self.settings.metric)

    def measure(
        self, predicted: Sequence[str], expected: Sequence[Sequence[str]]
    ) -> tuple[Mapping[str, float], Mapping[str, str]]:
        if self.settings.references == "first":
            expected = [texts[:1] for texts in expected]
        metrics, how = measure_summaries(predicted, expected, tokenizer=self.settings.rouge_tokenizer)
        return {**metrics, "rouge_mean": sum(metrics[name] for name in ROUGES) / len(ROUGES)}, how

    def predict(
        self,
        model: nn.Module,
        inputs: Sequence[str],
        *,
        n_best: int = 1,
        where: str = "the input",
        first: int = 1,
    ) -> list[Answer]:
        texts = [_spaced(text) for text in inputs]
        return super().predict(model, texts, n_best=n_best, where=where, first=first)

    def predict_file(self, model: nn.Module, path: Path) -> str | None:
        texts = read_sources(path, self.settings.source)
        if texts is None:
            return None
        answers = self.predict(model, texts, where=str(path))
        return "".join(f"{_spaced(answer.text)}\n" for answer in answers)

    def pictures(
        self, model: nn.Module, text: str, *, answer: str | None = None, layer: int | None, head: int | None
    ) -> list[Heatmap]:
        text = _spaced(text)
        found = super().pictures(model, text, answer=answer, layer=layer, head=head)
        return [_condensed(picture, text) for picture in found]


def _spaced(text: str) -> str:
    """The text with one space between words, as documents are read."""
    return " ".join(text.split())


def _condensed(picture: Heatmap, text: str) -> Heatmap:
    """The picture with the columns that received most weight, if there are many, and the beginning of its document."""
    title = picture.title
    if len(text) > TITLE:
        title = f"{text[: TITLE - 1]}… {title.removeprefix(text).strip()}"
    length = len(picture.source)
    if length <= COLUMNS:
        return dataclasses.replace(picture, title=title)
    received = picture.weights.sum(0)
    chosen = sorted(sorted(range(length), key=lambda place: -received[place])[:COLUMNS])
    share = received[chosen].sum() / max(received.sum(), 1e-12)
    said = f"the {COLUMNS} of {length} tokens that received most weight, {100 * share:.0f} % of it"
    return dataclasses.replace(
        picture,
        weights=picture.weights[:, chosen],
        source=tuple(picture.source[place] for place in chosen),
        title=title,
        subtitle=f"{picture.subtitle}; {said}".strip("; "),
    )
