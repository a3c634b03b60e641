"""Translation: from one text to another, by an encoder and a decoder with attention between them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from regard.data import UNK, Batch, Pair, Vocabulary, read_pairs, sample_dates
from regard.data.vocabulary import check_placeholders
from regard.errors import UserError
from regard.models import Hypothesis, SequenceToSequence, sample, search
from regard.tasks.task import Tables
from regard.tasks.text_metrics import measure_texts, require_tokenizer
from regard.tasks.text_to_text import TextToText

__all__ = ["Translation", "TranslationSettings"]


@dataclass(frozen=True)
class TranslationSettings:
    """Everything about the texts, the metric and prediction.

    Raises `UserError` for a size or count below 1, and for a BLEU tokeniser that sacrebleu does not have.

    Example:
        >>> TranslationSettings(tokens="characters").beam
        5
    """

    source: str = ""
    """The source language, as the files' names end (`en` of train.en), or a column number of a tab-separated file."""
    target: str = ""
    """The target language, likewise."""
    tokens: Literal["bpe", "characters"] = "bpe"
    """Subwords by byte-pair encoding, or characters."""
    vocabulary: int = 8000
    """The most tokens of a vocabulary."""
    shared_vocabulary: bool = False
    """One vocabulary for both sides."""
    lowercase: bool = False
    """Read and write lower case only, and measure without regard to case."""
    max_length: int = 512
    """The most tokens of a source or target."""
    truncate: bool = False
    """Cut what is longer, and say how many texts were cut, instead of refusing it."""
    metric: Literal["bleu", "chrf", "exact_match"] = "bleu"
    """What checkpoints are compared by, and training stops by."""
    bleu_tokenizer: str = "auto"
    """sacrebleu's tokeniser: 13a, zh, ja-mecab, char, intl, none, ...; auto goes by the script."""
    evaluate_examples: int = 1000
    """How many validation examples are translated (greedily) at each evaluation during training."""
    beam: int = 5
    """The width of the search when predicting; 1 is greedy."""
    length_penalty: float = 0.6
    """The exponent of the length penalty of Wu et al. 2016; more than 0 favours longer translations."""
    temperature: float = 0.0
    """In prediction: 0 searches; more draws each token by chance, the further from the best the higher."""
    top_k: int = 0
    """Draw among so many of the best tokens only; 0 is all."""
    top_p: float = 1.0
    """Draw among the best tokens that together have this probability only."""
    seed: int = 0
    """Another number draws other translations."""
    prefix: str = ""
    """In prediction: how every translation begins."""
    replace_unknown: bool = False
    """Write for an unknown token what the model looked at most, instead of "�"."""
    placeholders: tuple[str, ...] = ()
    """Words that are one token wherever they stand, and never changed: ["<url>", "__name__"]."""

    def __post_init__(self) -> None:
        for name in ("vocabulary", "max_length", "evaluate_examples", "beam"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; at least 1 is expected")
        for name in ("temperature", "top_k", "seed"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"{name} is {getattr(self, name)}; at least 0 is expected")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; a number above 0 and at most 1 is expected")
        check_placeholders(self.placeholders)
        if not math.isfinite(self.length_penalty):
            raise UserError(f"length_penalty is {self.length_penalty}; a finite number is expected")
        require_tokenizer(self.bleu_tokenizer)


class Translation(TextToText):
    """Translation between two languages, or between any two ways of writing.

    The embedded sample is dates as people write them in many languages (Unicode CLDR) -> ISO 8601.

    Example:
        >>> settings = TranslationSettings(tokens="characters")
        >>> task = Translation.learn(settings, [Pair("3 March", "03-03"), Pair("4 March", "03-04")])
        >>> sorted(task.model_sizes())
        ['source_vocabulary', 'target_vocabulary']
    """

    name: ClassVar[str] = "translation"
    summary: ClassVar[str] = "text to text: languages, or (the sample) dates in 75 locales to ISO 8601"
    data_format: ClassVar[str] = (
        "a directory with train.en and train.de (or train/, valid/, test/), a tab-separated file, or two parallel files"
    )
    Settings: ClassVar[type[Any]] = TranslationSettings
    shares: ClassVar[Sequence[str]] = ("exact_match",)
    answering: ClassVar[Sequence[str]] = (
        *TextToText.answering,
        *("temperature", "top_k", "top_p", "seed", "prefix", "replace_unknown"),
    )
    settings: TranslationSettings

    @classmethod
    def recipe(cls, model: str, data: Sequence[Path]) -> Tables:
        if not data:
            settings = {
                "tokens": "characters", "lowercase": True, "vocabulary": 2000, "metric": "exact_match", "beam": 1,
                "evaluate_examples": 500,
            }  # fmt: skip
            models: dict[str, dict[str, Any]] = {
                "rnn": {"embedding_size": 64, "hidden_size": 96, "dropout": 0.05},
                "transformer": {"encoder_layers": 2, "decoder_layers": 2, "dropout": 0.1},
            }
            training = {
                "epochs": 4,
                "max_tokens": 2048,
                "learning_rate": {"rnn": 6e-3, "transformer": 2e-3}[model],
                "schedule": "linear",
                "warm_up": 50,
            }
        else:
            settings = {"shared_vocabulary": model == "transformer"}
            models = {
                "rnn": {
                    "embedding_size": 256,
                    "hidden_size": 256,
                    "dropout": 0.3,
                    "tie_embeddings": "output",
                },
                "transformer": {"dropout": 0.3, "tie_embeddings": "all"},
            }
            training = {
                "rnn": {"epochs": 16, "max_tokens": 2048, "learning_rate": 2e-3, "schedule": "cosine", "warm_up": 400},
                "transformer": {"epochs": 40, "learning_rate": 5e-3, "schedule": "inverse_sqrt", "warm_up": 2000},
            }[model]  # fmt: skip
            training |= {"label_smoothing": 0.1, "average": 5, "patience": 8}
        return {"settings": settings, "model": models[model], "training": training}

    @classmethod
    def read(cls, settings: TranslationSettings, data: Sequence[Path]) -> Mapping[str, Sequence[Pair]]:
        splits = (
            read_pairs(data, settings.source or None, settings.target or None) if data else sample_dates()
        )
        return {"train": splits.train, "valid": splits.valid, **splits.test}

    @classmethod
    def held_out(cls, settings: TranslationSettings, data: Sequence[Path]) -> Mapping[str, Sequence[Pair]]:
        splits = cls.read(settings, data)
        if len(data) == 1 and data[0].is_dir():
            return {name: pairs for name, pairs in splits.items() if name != "train"}
        both = [
            *splits["train"],
            *splits["valid"],
        ]  # files have no parts of their own: judge every line, in order
        return {"all": sorted(both, key=lambda pair: int(pair.origin.rpartition(":")[2]))}

    @classmethod
    def vocabulary_of(cls, settings: TranslationSettings, texts: Sequence[str]) -> Vocabulary:
        how = settings.tokens, settings.vocabulary, settings.lowercase, settings.placeholders
        return Vocabulary.train(texts, *how)

    def write(
        self, model: SequenceToSequence[Any], batch: Batch, n_best: int, lines: Sequence[int] | None
    ) -> list[list[Hypothesis]]:
        how, read = self.settings, (model, batch.source, batch.source_lengths)
        if lines is None:
            return super().write(model, batch, n_best, lines)
        prefix = [self.target.encode(how.prefix) if how.prefix else []] * len(batch.index)
        if how.temperature == 0:
            penalty = how.length_penalty
            return search(*read, beam=how.beam, length_penalty=penalty, n_best=n_best, prefix=prefix)
        return sample(
            *read,
            seeds=[(how.seed << 32) + line for line in lines],
            count=n_best,
            temperature=how.temperature,
            top_k=how.top_k,
            top_p=how.top_p,
            prefix=prefix,
        )

    def allow(self, n_best: int) -> None:
        if self.settings.temperature == 0:
            super().allow(n_best)

    def spell(self, hypothesis: Hypothesis, source: str) -> str:
        tokens, weights = hypothesis.tokens, hypothesis.weights
        if not self.settings.replace_unknown or weights is None or UNK not in tokens:
            return self.target.decode(tokens)
        parts, looked = self.source.parts(source), weights.argmax(1).tolist()
        unknown = [parts[place] for token, place in zip(tokens, looked, strict=False) if token == UNK]
        return self.target.decode(tokens, unknown)

    @property
    def metric(self) -> str:
        return str(self.settings.metric)

    def measure(
        self, predicted: Sequence[str], expected: Sequence[Sequence[str]]
    ) -> tuple[Mapping[str, float], Mapping[str, str]]:
        return measure_texts(
            predicted, expected, tokenizer=self.settings.bleu_tokenizer, lowercase=self.settings.lowercase
        )
