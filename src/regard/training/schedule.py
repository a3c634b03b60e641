"""The learning rate of each step, and when the budget is spent."""

from __future__ import annotations

import math
from dataclasses import dataclass

from regard.training.settings import TrainingSettings


def learning_rate(settings: TrainingSettings, step: int, total: float) -> float:
    r"""The learning rate of update number `step` (the first is 1) of `total` updates.

    With :math:`w` = `warm_up`, or half of `total` where that is less, the rate
    is the highest one times :math:`s/w` while :math:`s \le w`, then times

    - inverse_sqrt: :math:`\sqrt{\max(w, 1)/s}` (Vaswani et al. 2017, section 5.3, with the peak given),
    - linear: :math:`1 - p`, cosine: :math:`(1 + \cos \pi p)/2` (Loshchilov & Hutter 2017, section 3), where
      :math:`p = (s - 1 - w)/(total - w)`,
    - constant: 1.

    Example:
        >>> learning_rate(TrainingSettings(steps=10, learning_rate=0.5, warm_up=5), 1, 10)
        0.1
    """
    warm_up = min(settings.warm_up, total / 2)
    if step <= warm_up:
        return settings.learning_rate * step / warm_up
    if settings.schedule == "inverse_sqrt":
        return settings.learning_rate * math.sqrt(max(warm_up, 1) / step)
    share = (step - 1 - warm_up) / max(total - warm_up, 1)
    share = min(max(share, 0.0), 1.0)
    if settings.schedule == "linear":
        return settings.learning_rate * (1 - share)
    if settings.schedule == "cosine":
        return settings.learning_rate * (1 + math.cos(math.pi * share)) / 2
    return settings.learning_rate


@dataclass(frozen=True)
class Budget:
    """How long training lasts: the first of steps, epochs and seconds to be reached ends it."""

    steps: int | None
    epochs: int | None
    seconds: float | None
    steps_per_epoch: int

    @classmethod
    def of(cls, settings: TrainingSettings, batches: int) -> Budget:
        """The budget of `settings` when an epoch has `batches` global batches."""
        settings.require_budget()
        return cls(
            settings.steps, settings.epochs, settings.seconds, math.ceil(batches / settings.accumulate)
        )

    def reached(self, step: int, epoch: int, seconds: float) -> str | None:
        """Which budget is spent after `step` steps, `epoch` whole epochs and `seconds`; None: none yet."""
        if self.steps is not None and step >= self.steps:
            return "steps"
        if self.epochs is not None and epoch >= self.epochs:
            return "epochs"
        if self.seconds is not None and seconds >= self.seconds:
            return "seconds"
        return None

    def total_steps(self, step: int, seconds: float) -> float:
        """Updates until the end: exact for steps and epochs; by the pace so far where only seconds are given."""
        totals = [] if self.steps is None else [self.steps]
        if self.epochs is not None:
            totals.append(self.epochs * self.steps_per_epoch)
        if totals:
            return min(totals)
        return max(step, 1) * (self.seconds or 0.0) / max(seconds, 1e-3)

    def share(self, step: int, seconds: float) -> float:
        """The share of the budget spent, from 0 to 1."""
        share = step / max(self.total_steps(step, seconds), 1e-9)
        if self.seconds is not None:
            share = max(share, seconds / self.seconds)
        return min(share, 1.0)
