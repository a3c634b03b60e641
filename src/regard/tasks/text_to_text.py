"""Tasks from one text to another: vocabularies, batches, search and pictures, whatever the texts and their measure."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from torch import Tensor, nn

from regard.data import BOS, Batch, Batches, Pair, Vocabulary, collate, in_length_order, pair_batches
from regard.errors import UserError
from regard.models import Hypothesis, SequenceToSequence, search
from regard.tasks.lengths import Lengths
from regard.tasks.task import Answer, Evaluation, Judged, Task
from regard.view import Heatmap, heatmap

__all__ = ["TextSettings", "TextToText"]

PREDICTION_TOKENS = 4096
"""Padded source tokens decoded at once."""


class TextSettings(Protocol):
    """The settings that every such task has."""

    @property
    def tokens(self) -> Literal["bpe", "characters"]:
        """Subwords by byte-pair encoding, or characters."""
        ...

    @property
    def vocabulary(self) -> int:
        """The most tokens of a vocabulary."""
        ...

    @property
    def shared_vocabulary(self) -> bool:
        """One vocabulary for both sides."""
        ...

    @property
    def lowercase(self) -> bool:
        """Read and write lower case only, and measure without regard to case."""
        ...

    @property
    def max_length(self) -> int:
        """The most tokens of a source or target."""
        ...

    @property
    def truncate(self) -> bool:
        """Cut what is longer, and say how many texts were cut, instead of refusing it."""
        ...

    @property
    def beam(self) -> int:
        """The width of the search when predicting; 1 is greedy."""
        ...

    @property
    def length_penalty(self) -> float:
        """The exponent of the length penalty of Wu et al. 2016; more than 0 favours longer texts."""
        ...


class TextToText(Task[Pair]):
    """A task from one text to another, by an encoder and a decoder; a subclass reads the texts and measures them."""

    models: ClassVar[Sequence[str]] = ("rnn", "transformer")
    answering: ClassVar[Sequence[str]] = ("beam", "length_penalty")
    settings: TextSettings

    def __init__(self, settings: TextSettings, source: Vocabulary, target: Vocabulary) -> None:
        self.settings = settings
        self.source = source
        self.target = target
        self.lengths = Lengths(self.name)

    def limit(self, side: str) -> tuple[str, int]:
        """The most tokens of a "source" or "target", and the setting that says so."""
        return "max_length", self.settings.max_length

    def search_options(self) -> Mapping[str, Any]:
        """Further arguments of `regard.models.search`."""
        return {}

    @abc.abstractmethod
    def measure(
        self, predicted: Sequence[str], expected: Sequence[Sequence[str]]
    ) -> tuple[Mapping[str, float], Mapping[str, str]]:
        """The metrics of texts, each held against one or more right ones, and how they were computed.

        All are in lower case already where the settings say so.
        """

    @classmethod
    def learn(cls, settings: Any, examples: Sequence[Pair]) -> Self:
        sources, targets = [pair.source for pair in examples], [pair.target for pair in examples]
        if settings.shared_vocabulary:
            both = cls.vocabulary_of(settings, [*sources, *targets])
            return cls(settings, both, both)
        return cls(settings, cls.vocabulary_of(settings, sources), cls.vocabulary_of(settings, targets))

    @classmethod
    def vocabulary_of(cls, settings: Any, texts: Sequence[str]) -> Vocabulary:
        """A vocabulary learnt from some texts."""
        return Vocabulary.train(texts, settings.tokens, settings.vocabulary, settings.lowercase)

    @classmethod
    def load(cls, settings: Any, folder: Path) -> Self:
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

    def while_training(self) -> Self:
        return self.changed(beam=1)

    def batches(self, examples: Sequence[Pair], max_tokens: int, seed: int) -> Batches[Batch]:
        origins = [pair.origin for pair in examples]
        sources = self._encoded(self.source, [pair.source for pair in examples], "source", origins)
        targets = self._encoded(self.target, [pair.target for pair in examples], "target", origins)
        return pair_batches(list(zip(sources, targets, strict=True)), max_tokens, seed)

    def _encoded(
        self, vocabulary: Vocabulary, texts: Sequence[str], side: str, origins: Sequence[str]
    ) -> list[list[int]]:
        setting, limit = self.limit(side)
        encoded = vocabulary.encode_batch(texts)
        return self.lengths.bring(encoded, origins, limit, side, setting, self.settings.truncate)

    def loss(self, model: nn.Module, batch: Batch, smoothing: float) -> tuple[Tensor, int, dict[str, float]]:
        assert isinstance(model, SequenceToSequence)
        loss, surprise, tokens = model.loss(
            batch.source, batch.source_lengths, batch.target, batch.target_lengths, smoothing
        )
        return loss, tokens, {"negative_log_likelihood": float(surprise)}

    def evaluate(self, model: nn.Module, examples: Sequence[Pair]) -> Evaluation:
        sources = [pair.source for pair in examples]
        found = self._search(model, sources, [pair.origin for pair in examples])
        predicted = [self.spell(best[0], source) for best, source in zip(found, sources, strict=True)]
        expected = [(pair.target, *pair.others) for pair in examples]
        if self.settings.lowercase:
            predicted = [text.lower() for text in predicted]
            expected = [tuple(text.lower() for text in texts) for texts in expected]
        metrics, signatures = self.measure(predicted, expected)
        lengths = [len(ids) for ids in self.source.encode_batch(sources)]
        judged = [
            Judged(source, said, wanted[0], said in wanted, length, wanted[1:])
            for source, said, wanted, length in zip(sources, predicted, expected, lengths, strict=True)
        ]
        return Evaluation(metrics, signatures, judged)

    def quality(self, judged: Sequence[Judged]) -> float:
        said = [row.said for row in judged]
        return self.measure(said, [(row.expected, *row.others) for row in judged])[0][self.metric]

    def _search(
        self,
        model: nn.Module,
        texts: Sequence[str],
        origins: Sequence[str],
        n_best: int = 1,
        lines: Sequence[int] | None = None,
    ) -> list[list[Hypothesis]]:
        """The `n_best` answers to each text; with `lines`, their numbers, as prediction is asked for."""
        encoded = self._encoded(self.source, texts, "source", origins)
        device = next(model.parameters()).device
        assert isinstance(model, SequenceToSequence)

        def answer(index: Sequence[int]) -> list[list[Hypothesis]]:
            batch = collate([(encoded[place], []) for place in index]).to(device)
            return self.write(
                model, batch, n_best, None if lines is None else [lines[place] for place in index]
            )

        was_training = model.training
        model.eval()
        lengths = [(len(ids), 0) for ids in encoded]
        found = in_length_order(lengths, max(PREDICTION_TOKENS // self.settings.beam, 1), answer)
        model.train(was_training)
        return found

    def write(
        self, model: SequenceToSequence[Any], batch: Batch, n_best: int, lines: Sequence[int] | None
    ) -> list[list[Hypothesis]]:
        """The `n_best` answers to each source of a batch; in prediction `lines` are the numbers of the inputs."""
        beam, penalty = self.settings.beam, self.settings.length_penalty
        read = model, batch.source, batch.source_lengths
        options = self.search_options()
        return search(*read, beam=beam, length_penalty=penalty, n_best=n_best, **options)

    def allow(self, n_best: int) -> None:
        """Raise `UserError` where so many answers cannot be given to one input."""
        if n_best > self.settings.beam:
            raise UserError(
                f"the search keeps {self.settings.beam} answers (the beam); {n_best} are asked for"
            )

    def spell(self, hypothesis: Hypothesis, source: str) -> str:
        """The text of an answer to a source."""
        return self.target.decode(hypothesis.tokens)

    def predict(
        self,
        model: nn.Module,
        inputs: Sequence[str],
        *,
        n_best: int = 1,
        where: str = "the input",
        first: int = 1,
    ) -> list[Answer]:
        self.allow(n_best)
        full = [place for place, text in enumerate(inputs) if text.strip()]
        origins = [f"{where}, line {first + place}" for place in full]
        lines = [first + place for place in full]
        found = self._search(model, [inputs[place] for place in full], origins, n_best, lines)
        answers = [Answer("", 0.0)] * len(inputs)
        for place, best in zip(full, found, strict=True):
            texts = [(self.spell(one, inputs[place]), one.score) for one in best]
            answers[place] = Answer(texts[0][0], texts[0][1], texts)
        return answers

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
            target = self._search(model, [text], ["the text"])[0][0].tokens
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
