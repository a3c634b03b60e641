"""The settings of question answering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from regard.errors import UserError
from regard.tasks.squad_metrics import MEASURES

__all__ = ["QuestionAnsweringSettings"]


@dataclass(frozen=True)
class QuestionAnsweringSettings:
    """Everything about the texts, the metric and the answers; raises `UserError` for a value out of range."""

    vocabulary: int = 20000
    """The most words, without regard to case."""
    characters: int = 500
    """The most characters."""
    least: int = 2
    """How often a word must occur to be known."""
    word_vectors: str = ""
    """A file of word vectors to begin with, in the text format of GloVe, word2vec or fastText."""
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
    metric: Literal["f1", "exact"] = "f1"
    """What checkpoints are compared by."""
    evaluate_examples: int = 1000
    """How many validation questions are answered at each evaluation during training."""
    no_answer: Literal["auto", "never"] = "auto"
    """Whether to say nothing where no answer seems likelier; never where no question of the training data is such."""
    baseline: bool = False
    """Also answer without a model, by the sliding window, and measure that."""

    def __post_init__(self) -> None:
        sizes = ("vocabulary", "characters", "least", "window", "stride", "max_question", "max_answer")
        for name in (*sizes, "evaluate_examples"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; at least 1 is expected")
        if self.stride > self.window:
            raise UserError(
                f"stride is {self.stride}, more than window, {self.window}: words would go unread"
            )
        for name, known in (
            ("measure", ("auto", *MEASURES)),
            ("metric", ("f1", "exact")),
            ("no_answer", ("auto", "never")),
        ):
            if getattr(self, name) not in known:
                raise UserError(f"{name} is {getattr(self, name)!r}; one of {', '.join(known)} is expected")
