"""The contract every task keeps, so that the same commands train, evaluate, predict and show them all."""

from __future__ import annotations

import abc
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
    """What a model said to one input: its best answer, and others with their scores."""

    text: str
    score: float
    others: Sequence[tuple[str, float]] = ()


class Judged(NamedTuple):
    """One example after evaluation: input, output, the expected output, whether they agree, the input's length."""

    source: str
    said: str
    expected: str
    right: bool
    length: int


@dataclass(frozen=True)
class Evaluation:
    """How well a model did: numbers by name, how they were computed, and every example judged."""

    metrics: Mapping[str, float]
    signatures: Mapping[str, str]
    judged: Sequence[Judged]


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
    """The models it can be built with, the default first."""
    settings: Any

    @classmethod
    @abc.abstractmethod
    def recipe(cls, model: str, data: Sequence[Path]) -> Tables:
        """Good settings for the sample (no `data`) or for real data: tables `settings`, `model`, `training`."""

    @classmethod
    @abc.abstractmethod
    def read(cls, settings: Any, data: Sequence[Path]) -> Mapping[str, Sequence[Example]]:
        """The examples by split, `train` and `valid` among them; the embedded sample when `data` is empty."""

    @classmethod
    @abc.abstractmethod
    def learn(cls, settings: Any, examples: Sequence[Example]) -> Self:
        """Make the task ready for its training examples: learn vocabularies."""

    @classmethod
    @abc.abstractmethod
    def load(cls, settings: Any, folder: Path) -> Self:
        """Make the task ready from what `save` wrote."""

    @abc.abstractmethod
    def save(self, folder: Path) -> None:
        """Write what `learn` learnt into a run directory."""

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
        """The training batches."""

    @abc.abstractmethod
    def loss(self, model: nn.Module, batch: Any, smoothing: float) -> tuple[Tensor, int, dict[str, float]]:
        """The loss summed over tokens, the number of tokens, and further sums to record per token."""

    @property
    @abc.abstractmethod
    def metric(self) -> str:
        """The metric by which checkpoints are compared; higher is better."""

    @abc.abstractmethod
    def evaluate(self, model: nn.Module, examples: Sequence[Example], *, beam: int) -> Evaluation:
        """Measure a model in evaluation mode."""

    @abc.abstractmethod
    def quality(self, judged: Sequence[Judged]) -> float:
        """The metric of some judged examples."""

    @abc.abstractmethod
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
        """Answer inputs; `where` and the number of the `first` line name them in errors."""

    @abc.abstractmethod
    def pictures(
        self, model: nn.Module, text: str, *, answer: str | None = None, layer: int | None, head: int | None
    ) -> list[Heatmap]:
        """Where the model looked while it wrote `answer` (by default its own) to `text`."""
