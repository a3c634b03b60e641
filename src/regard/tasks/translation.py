"""Translation: from one text to another, by an encoder and a decoder with attention between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from regard.data import BOS, UNK, Batch, Batches, Pair, Vocabulary, in_length_order, read_pairs, sample_dates
from regard.data.vocabulary import check_placeholders
from regard.errors import UserError
from regard.models import Hypothesis, SequenceToSequence, sample, search
from regard.tasks.task import Answer, Evaluation, Judged, Tables, Task
from regard.tasks.text_metrics import measure_texts, require_tokenizer
from regard.view import Heatmap, heatmap

__all__ = ["Translation", "TranslationSettings"]

PREDICTION_TOKENS = 4096
"""Padded source tokens decoded at once."""


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
        require_tokenizer(self.bleu_tokenizer)


class Translation(Task[Pair]):
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
    models: ClassVar[Sequence[str]] = ("rnn", "transformer")

    def __init__(self, settings: TranslationSettings, source: Vocabulary, target: Vocabulary) -> None:
        self.settings = settings
        self.source = source
        self.target = target

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
    def learn(cls, settings: TranslationSettings, examples: Sequence[Pair]) -> Translation:
        sources, targets = [pair.source for pair in examples], [pair.target for pair in examples]
        if settings.shared_vocabulary:
            both = cls._vocabulary(settings, [*sources, *targets])
            return cls(settings, both, both)
        return cls(settings, cls._vocabulary(settings, sources), cls._vocabulary(settings, targets))

    @staticmethod
    def _vocabulary(settings: TranslationSettings, texts: Sequence[str]) -> Vocabulary:
        return Vocabulary.train(
            texts, settings.tokens, settings.vocabulary, settings.lowercase, settings.placeholders
        )

    @classmethod
    def load(cls, settings: TranslationSettings, folder: Path) -> Translation:
        if settings.shared_vocabulary:
            both = Vocabulary.load(folder / "tokenizer.json")
            return cls(settings, both, both)
        return cls(
            settings, *(Vocabulary.load(folder / f"tokenizer.{side}.json") for side in ("source", "target"))
        )

    def save(self, folder: Path) -> None:
        if self.settings.shared_vocabulary:
            self.source.save(folder / "tokenizer.json")
        else:
            self.source.save(folder / "tokenizer.source.json")
            self.target.save(folder / "tokenizer.target.json")

    def check(self, splits: Mapping[str, Sequence[Pair]]) -> None:
        for name, pairs in splits.items():
            if name != "train":
                origins = [pair.origin for pair in pairs]
                self._encoded(self.source, [pair.source for pair in pairs], "source", origins)

    def model_sizes(self) -> Mapping[str, int]:
        return {"source_vocabulary": len(self.source), "target_vocabulary": len(self.target)}

    def batches(self, examples: Sequence[Pair], max_tokens: int, seed: int) -> Batches:
        origins = [pair.origin for pair in examples]
        sources = self._encoded(self.source, [pair.source for pair in examples], "source", origins)
        targets = self._encoded(self.target, [pair.target for pair in examples], "target", origins)
        return Batches(list(zip(sources, targets, strict=True)), max_tokens, seed)

    def _encoded(
        self, vocabulary: Vocabulary, texts: Sequence[str], side: str, origins: Sequence[str]
    ) -> list[list[int]]:
        encoded = vocabulary.encode_batch(texts)
        for ids, origin in zip(encoded, origins, strict=True):
            if len(ids) > self.settings.max_length:
                raise UserError(
                    f"{origin}: the {side} has {len(ids)} tokens; at most {self.settings.max_length} are allowed "
                    f"(train with --set {self.name}.max_length=... to allow more)"
                )
        return encoded

    def loss(self, model: nn.Module, batch: Batch, smoothing: float) -> tuple[Tensor, int, dict[str, float]]:
        assert isinstance(model, SequenceToSequence)
        loss, surprise, tokens = model.loss(
            batch.source, batch.source_lengths, batch.target, batch.target_lengths, smoothing
        )
        return loss, tokens, {"negative_log_likelihood": float(surprise)}

    @property
    def metric(self) -> str:
        return str(self.settings.metric)

    def evaluate(self, model: nn.Module, examples: Sequence[Pair], *, beam: int) -> Evaluation:
        sources = [pair.source for pair in examples]
        found = self._search(
            model, sources, [pair.origin for pair in examples], beam, self.settings.length_penalty, 1
        )
        predicted = [self._text(best[0], source) for best, source in zip(found, sources, strict=True)]
        expected = [pair.target for pair in examples]
        if self.settings.lowercase:
            predicted, expected = [t.lower() for t in predicted], [t.lower() for t in expected]
        metrics, signatures = self._measure(predicted, expected)
        lengths = [len(ids) for ids in self.source.encode_batch(sources)]
        judged = [
            Judged(source, said, wanted, said == wanted, length)
            for source, said, wanted, length in zip(sources, predicted, expected, lengths, strict=True)
        ]
        return Evaluation(metrics, signatures, judged)

    def quality(self, judged: Sequence[Judged]) -> float:
        return self._measure([row.said for row in judged], [row.expected for row in judged])[0][self.metric]

    def _measure(
        self, predicted: Sequence[str], expected: Sequence[str]
    ) -> tuple[dict[str, float], dict[str, str]]:
        return measure_texts(
            predicted, expected, tokenizer=self.settings.bleu_tokenizer, lowercase=self.settings.lowercase
        )

    def _search(
        self,
        model: nn.Module,
        texts: Sequence[str],
        origins: Sequence[str],
        beam: int,
        penalty: float,
        n_best: int,
        lines: Sequence[int] | None = None,
    ) -> list[list[Hypothesis]]:
        """The `n_best` translations of each text; with `lines`, their numbers, as prediction is asked for."""
        encoded = self._encoded(self.source, texts, "source", origins)
        device = next(model.parameters()).device

        assert isinstance(model, SequenceToSequence)

        how = self.settings
        prefix = self.target.encode(how.prefix) if lines is not None and how.prefix else []

        def translate(batch: Batch) -> list[list[Hypothesis]]:
            batch = batch.to(device)
            read, prefixes = (model, batch.source, batch.source_lengths), [prefix] * len(batch.index)
            if lines is None or how.temperature == 0:
                return search(*read, beam=beam, length_penalty=penalty, n_best=n_best, prefix=prefixes)
            return sample(
                *read,
                seeds=[(how.seed << 32) + lines[place] for place in batch.index],
                count=n_best,
                temperature=how.temperature,
                top_k=how.top_k,
                top_p=how.top_p,
                prefix=prefixes,
            )

        was_training = model.training
        model.eval()
        found = in_length_order([(ids, []) for ids in encoded], max(PREDICTION_TOKENS // beam, 1), translate)
        model.train(was_training)
        return found

    def predict(
        self,
        model: nn.Module,
        inputs: Sequence[str],
        *,
        beam: int,
        length_penalty: float,
        n_best: int,
        where: str,
        first: int = 1,
    ) -> list[Answer]:
        full = [place for place, text in enumerate(inputs) if text.strip()]
        origins = [f"{where}, line {first + place}" for place in full]
        texts = [inputs[place] for place in full]
        found = self._search(
            model, texts, origins, beam, length_penalty, n_best, [first + place for place in full]
        )
        answers = [Answer("", 0.0)] * len(inputs)
        for place, best in zip(full, found, strict=True):
            said = [(self._text(one, inputs[place]), one.score) for one in best]
            answers[place] = Answer(*said[0], said)
        return answers

    def _text(self, hypothesis: Hypothesis, source: str) -> str:
        tokens, weights = hypothesis.tokens, hypothesis.weights
        if not self.settings.replace_unknown or weights is None or UNK not in tokens:
            return self.target.decode(tokens)
        parts, looked = self.source.parts(source), weights.argmax(1).tolist()
        unknown = [parts[place] for token, place in zip(tokens, looked, strict=False) if token == UNK]
        return self.target.decode(tokens, unknown)

    @torch.no_grad()
    def pictures(
        self, model: nn.Module, text: str, *, answer: str | None = None, layer: int | None, head: int | None
    ) -> list[Heatmap]:
        assert isinstance(model, SequenceToSequence)
        model.eval()
        if not text.strip():
            raise UserError("there is nothing to look at: the text is empty")
        source = self._encoded(self.source, [text], "source", [f"the text {text[:40]!r}"])[0]
        if answer is None:
            target = self._search(
                model, [text], ["the text"], self.settings.beam, self.settings.length_penalty, 1
            )[0][0].tokens
        else:
            target = self._encoded(self.target, [answer], "target", [f"the answer {answer[:40]!r}"])[0]
        device = next(model.parameters()).device
        ids = torch.tensor([source], device=device)
        weights = model.alignment(
            ids, torch.tensor([len(source)], device=device), torch.tensor([[BOS, *target]], device=device)
        )
        if weights is None:
            raise UserError("this model has no attention to show: it was trained with attention 'none'")
        layers, heads = weights.shape[1:3]
        for name, value, count in (("layer", layer, layers), ("head", head, heads)):
            if value is not None and not 1 <= value <= count:
                raise UserError(f"there is no {name} {value}: the model has {count}")
        chosen = weights[0, (layers if layer is None else layer) - 1]
        shown = chosen.mean(0) if head is None else chosen[head - 1]
        what = f"layer {layer or layers} of {layers}, " if layers > 1 else ""
        what += (f"mean of {heads} heads" if heads > 1 else "") if head is None else f"head {head} of {heads}"
        return [
            heatmap(
                shown,
                source=self.source.labels(source),
                target=[*self.target.labels(target), "■"],
                title=f"{text} → {self.target.decode(target)}",
                subtitle=what.strip(", "),
            )
        ]
