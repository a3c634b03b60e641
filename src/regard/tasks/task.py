"""The contract every task keeps, so that the same commands train, evaluate, predict and show them all."""

from __future__ import annotations

import abc
import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

from torch import Tensor, nn

from regard.training.loop import TrainingBatches
from regard.view import Heatmap

Example = TypeVar("Example")
Tables = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Answer:
    """What a model said to one input: its best answer, and all that were asked for."""

    text: str
    """The best answer."""
    score: float
    """How probable it is to the model, as a logarithm, so 0 at best; 0 too for the answer to an empty input.

    Of a text that was searched for it is divided by the length penalty.
    """
    others: Sequence[tuple[str, float]] = ()
    """Every answer asked for and its score, the best first; empty for an empty input."""


class Judged(NamedTuple):
    """One example after evaluation: input, output, what was expected, whether they agree, the input's length."""

    source: str
    said: str
    expected: str
    right: bool
    length: int
    others: Sequence[str] = ()
    """Further outputs that are right too."""


@dataclass(frozen=True)
class Evaluation:
    """How well a model did: numbers by name, how they were computed, and every example judged."""

    metrics: Mapping[str, float]
    """Each metric by its name, `Task.metric` among them."""
    signatures: Mapping[str, str]
    """How a metric was computed, by its name, where there are several ways (sacrebleu's signature)."""
    judged: Sequence[Judged]
    """The examples in the order they were given."""


class Task(abc.ABC, Generic[Example]):
    """One application: how it reads data, builds a model, measures it, and pictures what it looked at.

    A task object is a task made ready for some data: it holds its settings and what it learnt from the training
    examples before any training, such as vocabularies.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    data_format: ClassVar[str]
    """What `--data` takes, in words."""
    Settings: ClassVar[type[Any]]
    """A frozen dataclass of everything about the data, the metric and prediction."""
    models: ClassVar[Sequence[str]]
    """The models it can be built with, by their names in `regard.models.MODELS`, the default first."""
    shares: ClassVar[Sequence[str]] = ()
    """The metrics that are the share of right answers, from 0 to 1."""
    answering: ClassVar[Sequence[str]] = ()
    """The settings that only evaluation and prediction use, so that they may be others than in training."""
    settings: Any

    @classmethod
    @abc.abstractmethod
    def recipe(cls, model: str, data: Sequence[Path]) -> Tables:
        """Good settings for the sample (no `data`) or for real data: tables `settings`, `model`, `training`.

        `model` is one of `models`.
        """

    @classmethod
    @abc.abstractmethod
    def read(cls, settings: Any, data: Sequence[Path]) -> Mapping[str, Sequence[Example]]:
        """The examples by split, `train` and `valid` among them; the embedded sample when `data` is empty.

        Raises `UserError` for data that cannot be read, naming file and line.
        """

    @classmethod
    @abc.abstractmethod
    def learn(cls, settings: Any, examples: Sequence[Example]) -> Self:
        """Make the task ready for its training examples: learn vocabularies."""

    @classmethod
    @abc.abstractmethod
    def load(cls, settings: Any, folder: Path) -> Self:
        """Make the task ready from what `save` wrote; raises `UserError` where that is missing or damaged."""

    @abc.abstractmethod
    def save(self, folder: Path) -> None:
        """Write what `learn` learnt into a run directory."""

    def changed(self, **settings: Any) -> Self:
        """The same task with other settings for answering, by name."""
        other = copy.copy(self)
        other.settings = dataclasses.replace(self.settings, **settings)
        return other

    def while_training(self) -> Self:
        """The task that evaluates during training: this one, unless it has a faster way to answer."""
        return self

    def begin(self, model: nn.Module) -> None:
        """Change a new model's first weights before it is trained, if there is something better to begin with."""

    @abc.abstractmethod
    def check(self, splits: Mapping[str, Sequence[Example]]) -> None:
        """Raise `UserError` for a held-out example that could not be judged, before any training."""

    @classmethod
    def held_out(cls, settings: Any, data: Sequence[Path]) -> Mapping[str, Sequence[Example]]:
        """Other data than a run's own, to judge it by: all of them, or every split that they come in but `train`."""
        return {name: part for name, part in cls.read(settings, data).items() if name != "train"}

    @abc.abstractmethod
    def model_sizes(self) -> Mapping[str, int]:
        """The model settings that follow from the data, such as vocabulary sizes."""

    @abc.abstractmethod
    def batches(self, examples: Sequence[Example], max_tokens: int, seed: int) -> TrainingBatches:
        """The training batches, of at most `max_tokens` tokens each, in an order drawn by `seed`.

        Raises `UserError` for an example that cannot be trained on, such as one that is too long.
        """

    @abc.abstractmethod
    def loss(self, model: nn.Module, batch: Any, smoothing: float) -> tuple[Tensor, int, dict[str, float]]:
        """The loss summed over tokens, the number of tokens, and further sums to record per token."""

    @property
    @abc.abstractmethod
    def metric(self) -> str:
        """The metric by which checkpoints are compared; higher is better."""

    @abc.abstractmethod
    def evaluate(self, model: nn.Module, examples: Sequence[Example]) -> Evaluation:
        """Measure a model in evaluation mode; raises `UserError` for an example that cannot be judged."""

    @abc.abstractmethod
    def quality(self, judged: Sequence[Judged]) -> float:
        """The metric of some judged examples."""

    @abc.abstractmethod
    def predict(
        self,
        model: nn.Module,
        inputs: Sequence[str],
        *,
        n_best: int = 1,
        where: str = "the input",
        first: int = 1,
    ) -> list[Answer]:
        """Answer inputs, in their order; an empty input gets an empty answer.

        `n_best` is the number of answers to each input. Raises `UserError` for an input that cannot be answered;
        `where` and the number of the `first` line name it.
        """

    def predict_file(self, model: nn.Module, path: Path) -> str | None:
        """The answers to a file of the task's own format, in the form that its scorers read.

        None where `path` is no such file but one input a line.
        """
        return None

    @abc.abstractmethod
    def pictures(
        self, model: nn.Module, text: str, *, answer: str | None = None, layer: int | None, head: int | None
    ) -> list[Heatmap]:
        """Where the model looked while it wrote `answer` (by default its own) to `text`.

        `layer` and `head` count from 1; None is the last layer and the mean of all heads. Raises `UserError` where
        there is no such layer or head, no attention, or nothing to look at.
        """
