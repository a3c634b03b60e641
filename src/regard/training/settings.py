"""The settings of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from regard.errors import UserError


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained; at least one of the budgets `epochs`, `steps` and `seconds` must be given.

    Raises `UserError` for a value out of range, naming it.

    Example:
        >>> TrainingSettings(steps=1000, learning_rate=2e-3).schedule
        'inverse_sqrt'
    """

    seed: int = 0
    """Seeds dropout, and (through the caller) the model's first weights and the order of the data."""
    max_tokens: int = 4096
    """Padded tokens in a global batch: the examples that all processes together see at once."""
    epochs: int | None = None
    """Budget: passes over the training data. Of the budgets that are given, the first reached ends training."""
    steps: int | None = None
    """Budget: updates of the weights."""
    seconds: float | None = None
    """Budget: wall-clock seconds of everything (updates, evaluation, checkpoints), summed over resumes."""
    learning_rate: float = 1e-3
    """The highest learning rate, reached at the end of the warm-up."""
    schedule: Literal["inverse_sqrt", "cosine", "linear", "constant"] = "inverse_sqrt"
    """How the learning rate falls after the warm-up (cosine, linear: to zero at the end of the budget)."""
    warm_up: int = 0
    """Steps during which the learning rate rises linearly from zero."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW) of the matrices; vectors (biases, norms) are not decayed."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's decay rates of the gradients' first and second moments."""
    clip: float | None = 1.0
    """Gradients of a larger norm are scaled down to this one; None: never."""
    label_smoothing: float = 0.0
    """Share of the probability that the training loss spreads over all tokens (used by the task's loss)."""
    accumulate: int = 1
    """Global batches whose gradients are summed before each update."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Arithmetic of the forward pass; weights, optimiser and evaluation stay in float32."""
    record_every: int = 50
    """Steps between two training records in `metrics.jsonl`."""
    evaluate_every: int | None = None
    """Steps between evaluations, each followed by a checkpoint; None: at the end of every epoch."""
    checkpoint_every: int | None = None
    """Steps between further checkpoints; None: none by steps."""
    checkpoint_seconds: float | None = 300.0
    """Seconds after which a further checkpoint is due; None: none by the clock."""
    keep: int = 1
    """The last checkpoints that stay on disk (besides the best ones)."""
    average: int = 1
    """Checkpoints whose weights are averaged at the end; the average is used where it is no worse than the best
    single checkpoint by the metric. 1: no averaging."""
    average_of: Literal["best", "last"] = "best"
    """Which evaluated checkpoints are averaged: the best by the metric, or the last."""
    patience: int | None = None
    """Training ends after this many evaluations in a row without a better metric; None: never for that reason."""
    device: str = "auto"
    """"auto", or a device of PyTorch such as "cpu", "cuda" or "cuda:1"."""
    threads: int | None = None
    """Threads of PyTorch on the CPU; None: PyTorch's own choice."""
    tensorboard: bool = False
    """Also write TensorBoard's event files into the run directory."""

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} is {value}; a number above 0 is expected")
        for name in ("learning_rate", "warm_up", "weight_decay", "seed"):
            value = getattr(self, name)
            if not value >= 0:
                raise UserError(f"{name} is {value}; a number of at least 0 is expected")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(
                f"label_smoothing is {self.label_smoothing}; a number from 0 to below 1 is expected"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"betas are {self.betas}; two numbers from 0 to below 1 are expected")
        for name, allowed in (
            ("schedule", ("inverse_sqrt", "cosine", "linear", "constant")),
            ("precision", ("float32", "bfloat16", "float16")),
            ("average_of", ("best", "last")),
        ):
            if getattr(self, name) not in allowed:
                raise UserError(f"{name} is {getattr(self, name)!r}; one of {', '.join(allowed)} is expected")

    def require_budget(self) -> None:
        """Say so where no budget is given, since training would then never end."""
        if self.epochs is None and self.steps is None and self.seconds is None:
            raise UserError("training needs an end: give at least one of epochs, steps and seconds")


_POSITIVE = (
    *("max_tokens", "epochs", "steps", "seconds", "clip", "accumulate", "record_every", "evaluate_every"),
    *("checkpoint_every", "checkpoint_seconds", "keep", "average", "patience", "threads"),
)
