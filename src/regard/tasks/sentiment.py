"""Sentiment: from a text to its class, whatever the classes are."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard.data import UNK, Batches, Labelled, Vocabulary, in_length_order, read_labelled, sample_reviews
from regard.data.batches import padded
from regard.data.word_vectors import read_word_vectors
from regard.durable import write_file
from regard.errors import UserError
from regard.models.classifiers import TextClassifier
from regard.tasks.class_metrics import measure_classes, rank_correlation
from regard.tasks.lengths import Lengths
from regard.tasks.task import Answer, Evaluation, Judged, Tables, Task
from regard.view import Heatmap, heatmap

__all__ = ["LabelledBatch", "Sentiment", "SentimentSettings"]

PREDICTION_TOKENS = 8192
"""Padded tokens answered at once."""


@dataclass(frozen=True)
class SentimentSettings:
    """Everything about the texts and the metric; raises `UserError` for a size or count below 1."""

    text: str = ""
    """The column (name or number) or field of the text; found by the usual names when empty."""
    label: str = ""
    """That of the label."""
    tokens: Literal["words", "bpe", "characters"] = "words"
    """Words (of Chinese and Japanese, characters), subwords by byte-pair encoding, or characters."""
    vocabulary: int = 20000
    """The most tokens of the vocabulary."""
    lowercase: bool = True
    """Make no difference between capital and small letters."""
    max_length: int = 512
    """The most tokens of a text."""
    truncate: bool = False
    """Cut what is longer, and say how many texts were cut, instead of refusing it."""
    skip_bad: bool = False
    """Leave out examples without text or label, and say which, instead of refusing the data."""
    drop_seen: bool = False
    """Leave out held-out texts that are also in the training data, and say how many."""
    word_vectors: str = ""
    """A file of word vectors to begin the embeddings with, as wide as these are."""
    metric: Literal["accuracy", "macro_f1"] = "accuracy"
    """What checkpoints are compared by, and training stops by."""
    evaluate_examples: int = 2000
    """How many validation examples are answered at each evaluation during training."""

    def __post_init__(self) -> None:
        for name in ("vocabulary", "max_length", "evaluate_examples"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; at least 1 is expected")


@dataclass(frozen=True)
class LabelledBatch:
    """Texts side by side, padded with 0.

    *Shape:* ids `(batch, length)`, lengths and labels `(batch,)`, int64. `index` holds each row's place in the
    examples; it is empty in the idle batch of a process without a row.
    """

    ids: Tensor
    lengths: Tensor
    labels: Tensor
    index: list[int]

    def to(self, device: torch.device | str) -> LabelledBatch:
        """The same batch on another device."""
        return LabelledBatch(self.ids.to(device), self.lengths.to(device), self.labels.to(device), self.index)


class Sentiment(Task[Labelled]):
    """Classification of texts.

    The embedded sample is reviews, English and Chinese, by a grammar of negation, contrast and distance.

    Example:
        >>> examples = [Labelled("good film", "positive"), Labelled("bad film", "negative")]
        >>> dict(Sentiment.learn(SentimentSettings(), examples).model_sizes())
        {'vocabulary': 7, 'classes': 2}
    """

    name: ClassVar[str] = "sentiment"
    summary: ClassVar[str] = (
        "text to class: sentiment, topic, ...; the sample is reviews with negation and contrast"
    )
    data_format: ClassVar[str] = (
        "a directory with train.*, valid.* (or dev.*) and test.*, or one file: JSON lines, CSV, tab-separated, "
        "or a label and a text on each line"
    )
    Settings: ClassVar[type[Any]] = SentimentSettings
    models: ClassVar[Sequence[str]] = ("rnn-classifier", "transformer-classifier")
    shares: ClassVar[Sequence[str]] = ("accuracy",)
    settings: SentimentSettings

    def __init__(self, settings: SentimentSettings, words: Vocabulary, classes: Sequence[str]) -> None:
        self.settings, self.words, self.classes = settings, words, list(classes)
        self.lengths = Lengths(self.name)

    @classmethod
    def recipe(cls, model: str, data: Sequence[Path]) -> Tables:
        recurrent = model == "rnn-classifier"
        training: dict[str, Any]
        if not data:
            settings: dict[str, Any] = {}
            shape: dict[str, Any] = (
                {"embedding_size": 32, "hidden_size": 32, "dropout": 0.1}
                if recurrent
                else {"attention": "scaled_dot+rotary/softmax", "dropout": 0.1}
            )
            training = {
                "epochs": 8 if recurrent else 12,
                "max_tokens": 2048,
                "learning_rate": 5e-3 if recurrent else 2e-3,
            }
        else:
            settings = {"truncate": True}
            shape = {"embedding_size": 300, "dropout": 0.6} if recurrent else {"dropout": 0.3}
            shape["word_dropout"] = 0.3
            training = {"epochs": 15, "max_tokens": 2048, "learning_rate": 2e-3 if recurrent else 1e-3,
                        "label_smoothing": 0.1, "average": 5, "patience": 5}  # fmt: skip
        training |= {"schedule": "linear", "warm_up": 50}
        return {"settings": settings, "model": shape, "training": training}

    @classmethod
    def read(cls, settings: SentimentSettings, data: Sequence[Path]) -> Mapping[str, Sequence[Labelled]]:
        if not data:
            return sample_reviews()
        splits = read_labelled(data, settings.text, settings.label, skip_bad=settings.skip_bad)
        if not settings.drop_seen:
            return splits
        seen = {one.text for one in splits["train"]}
        for name, examples in splits.items():
            if name != "train":
                new = [one for one in examples if one.text not in seen]
                if len(new) < len(examples):
                    dropped = len(examples) - len(new)
                    print(
                        f"{name}: {dropped:,} of {len(examples):,} texts are also in train, left out",
                        file=sys.stderr,
                    )
                splits[name] = new
        return splits

    @classmethod
    def held_out(cls, settings: SentimentSettings, data: Sequence[Path]) -> Mapping[str, Sequence[Labelled]]:
        splits = cls.read(settings, data)
        if len(data) == 1 and data[0].is_dir():
            return {name: examples for name, examples in splits.items() if name != "train"}
        return {"all": [*splits["train"], *splits["valid"]]}

    @classmethod
    def learn(cls, settings: SentimentSettings, examples: Sequence[Labelled]) -> Sentiment:
        texts = [one.text for one in examples]
        words = Vocabulary.train(texts, settings.tokens, settings.vocabulary, settings.lowercase)
        return cls(settings, words, sorted({one.label for one in examples}))

    @classmethod
    def load(cls, settings: SentimentSettings, folder: Path) -> Sentiment:
        path = folder / "classes.txt"
        try:
            classes = path.read_text(encoding="utf-8").split("\n")[:-1]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot read the classes ({error})") from None
        return cls(settings, Vocabulary.load(folder / "tokenizer.json"), classes)

    def save(self, folder: Path) -> None:
        self.words.save(folder / "tokenizer.json")
        write_file(folder / "classes.txt", "".join(f"{label}\n" for label in self.classes).encode())

    def begin(self, model: nn.Module) -> None:
        if not self.settings.word_vectors:
            return
        assert isinstance(model, TextClassifier)
        table = model.embeddings.weight
        found = read_word_vectors(Path(self.settings.word_vectors), self.words.ids, table.shape[1])
        with torch.no_grad():
            for place, vector in found.items():
                table[place] = vector
        print(f"word vectors: {len(found):,} of {len(self.words.ids):,} words have one", file=sys.stderr)

    def check(self, splits: Mapping[str, Sequence[Labelled]]) -> None:
        for name, examples in splits.items():
            if name != "train":
                self._encoded(examples)
                self._labels(examples)

    def model_sizes(self) -> Mapping[str, int]:
        return {"vocabulary": len(self.words), "classes": len(self.classes)}

    def _labels(self, examples: Sequence[Labelled]) -> list[int]:
        places = {label: place for place, label in enumerate(self.classes)}
        new = sorted({one.label for one in examples} - places.keys())
        if new:
            where = next(one.origin for one in examples if one.label == new[0])
            raise UserError(
                f"{where}: the label {new[0]!r} is in no training example; there are: {', '.join(self.classes)}"
                + (f" (also new: {', '.join(new[1:4])})" if len(new) > 1 else "")
            )
        return [places[one.label] for one in examples]

    def _encoded(self, examples: Sequence[Labelled]) -> list[list[int]]:
        encoded = self.words.encode_batch(one.text for one in examples)
        origins, how = [one.origin for one in examples], self.settings
        fitting = self.lengths.bring(encoded, origins, how.max_length, "text", "max_length", how.truncate)
        return [ids or [UNK] for ids in fitting]  # of white space nothing is left but that it is unknown

    def _batch(
        self, texts: Sequence[list[int]], labels: Sequence[int], index: Sequence[int]
    ) -> LabelledBatch:
        if not texts:
            return LabelledBatch(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, dtype=torch.int64),
                                 torch.zeros(1, dtype=torch.int64), [])  # fmt: skip
        lengths = torch.tensor([len(ids) for ids in texts])
        return LabelledBatch(padded(texts), lengths, torch.tensor(labels), list(index))

    def batches(self, examples: Sequence[Labelled], max_tokens: int, seed: int) -> Batches[LabelledBatch]:
        texts, labels = self._encoded(examples), self._labels(examples)

        def lay(index: Sequence[int]) -> LabelledBatch:
            return self._batch([texts[place] for place in index], [labels[place] for place in index], index)

        return Batches([(len(ids), 0) for ids in texts], lay, max_tokens, seed)

    def loss(
        self, model: nn.Module, batch: LabelledBatch, smoothing: float
    ) -> tuple[Tensor, int, dict[str, float]]:
        scores, _ = model(batch.ids, batch.lengths)
        kept = len(batch.index)
        scores, labels = scores[:kept].float(), batch.labels[:kept]
        loss = functional.cross_entropy(scores, labels, label_smoothing=smoothing, reduction="sum")
        with torch.no_grad():
            right = float((scores.argmax(-1) == labels).sum())
        return loss + 0.0 * model.output.bias.sum(), kept, {"training_accuracy": right}  # type: ignore[operator, union-attr]

    @property
    def metric(self) -> str:
        return str(self.settings.metric)

    @torch.no_grad()
    def _scores(self, model: nn.Module, texts: Sequence[list[int]]) -> Tensor:
        """The log-probability of every class.  *Shape:* `(texts, classes)`."""
        device = next(model.parameters()).device

        def answer(index: Sequence[int]) -> list[Tensor]:
            batch = self._batch([texts[place] for place in index], [0] * len(index), index).to(device)
            return list(model(batch.ids, batch.lengths)[0].float().log_softmax(-1).cpu())

        was_training = model.training
        model.eval()
        found = in_length_order([(len(ids), 0) for ids in texts], PREDICTION_TOKENS, answer)
        model.train(was_training)
        return torch.stack(found) if found else torch.zeros(0, len(self.classes))

    def evaluate(self, model: nn.Module, examples: Sequence[Labelled]) -> Evaluation:
        self._labels(examples)
        texts = self._encoded(examples)
        said = [self.classes[place] for place in self._scores(model, texts).argmax(-1).tolist()]
        judged = [
            Judged(one.text, answer, one.label, answer == one.label, len(ids))
            for one, answer, ids in zip(examples, said, texts, strict=True)
        ]
        return Evaluation(measure_classes(said, [one.label for one in examples]), {}, judged)

    def quality(self, judged: Sequence[Judged]) -> float:
        return measure_classes([row.said for row in judged], [row.expected for row in judged])[self.metric]

    def predict(
        self,
        model: nn.Module,
        inputs: Sequence[str],
        *,
        n_best: int = 1,
        where: str = "the input",
        first: int = 1,
    ) -> list[Answer]:
        full = [place for place, text in enumerate(inputs) if text.strip()]
        texts = self._encoded(
            [Labelled(inputs[place], "", f"{where}, line {first + place}") for place in full]
        )
        answers = [Answer("", 0.0)] * len(inputs)
        for place, scores in zip(full, self._scores(model, texts), strict=True):
            best, classes = scores.topk(min(n_best, len(self.classes)))
            named = [
                (self.classes[c], value) for c, value in zip(classes.tolist(), best.tolist(), strict=True)
            ]
            answers[place] = Answer(named[0][0], named[0][1], named)
        return answers

    @torch.no_grad()
    def pictures(
        self, model: nn.Module, text: str, *, answer: str | None = None, layer: int | None, head: int | None
    ) -> list[Heatmap]:
        """The weight of every word, and beside it what leaving the word out costs the answer."""
        if not text.strip():
            raise UserError("there is nothing to look at: the text is empty")
        (ids,) = self._encoded([Labelled(text, "", f"the text {text[:40]!r}")])
        device = next(model.parameters()).device
        batch = self._batch([ids], [0], [0]).to(device)
        model.eval()
        _, weights = model(batch.ids, batch.lengths, return_weights=True)
        if weights is None:
            raise UserError("this model has no attention to show: it sums its states up without")
        heads = weights.shape[1]
        if layer not in (None, 1):
            raise UserError(f"there is no layer {layer}: shown is the attention that sums the text up")
        if head is not None and not 1 <= head <= heads:
            raise UserError(f"there is no head {head}: the model has {heads}")
        looked = weights[0].mean(0) if head is None else weights[0, head - 1]
        whole, *without = self._scores(
            model, [ids, *(ids[:n] + ids[n + 1 :] or [UNK] for n in range(len(ids)))]
        )
        chosen = (
            int(whole.argmax())
            if answer is None
            else self._labels([dataclasses.replace(Labelled(text, answer), origin="the answer")])[0]
        )
        cost = torch.stack([whole[chosen] - scores[chosen] for scores in without]).clamp(min=0)
        alike = rank_correlation(looked.tolist(), cost.tolist())
        shares = cost / cost.sum().clamp(min=1e-9)
        return [
            heatmap(
                torch.stack([looked.cpu(), shares]),
                source=self.words.labels(ids),
                target=["weight", "cost"],
                title=f"{text} → {self.classes[chosen]}",
                subtitle=f"cost: what is lost of the answer's log-probability without the word, as a share; "
                f"rank correlation with the weight {alike:.2f}",
            )
        ]
