"""The training loop."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch
from torch import nn

from regard.errors import UserError
from regard.training import checkpoints, randomness
from regard.training.book import Book, Evaluate
from regard.training.checkpoints import State
from regard.training.interruption import Interrupted, Interruption
from regard.training.place import Place
from regard.training.progress import Progress
from regard.training.run import Run
from regard.training.schedule import Budget, learning_rate
from regard.training.settings import TrainingSettings
from regard.training.update import Loss, TrainingBatch, Update, build_optimizer, update

# Steps in a row that float16 may skip while it looks for a scale of the loss that does not overflow.
MOST_SKIPPED = 50


class TrainingBatches(Protocol):
    """The batches of a data set, epoch after epoch (`regard.data.Batches` is one)."""

    def __len__(self) -> int:
        """Global batches in an epoch."""
        ...

    def epoch(self, epoch: int, *, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[TrainingBatch]:
        """This process's share of each global batch of an epoch, from batch `start` on."""
        ...


@dataclass(frozen=True)
class Result:
    """How training ended; the model holds the weights written to `model.safetensors`."""

    reason: str
    """What ended it: "steps", "epochs", "seconds" or "patience"."""
    step: int
    """Updates done."""
    seconds: float
    """Wall-clock seconds of everything, over all resumes."""
    best: float | None
    """The best metric of an evaluation."""


def fit(
    model: nn.Module,
    *,
    batches: TrainingBatches,
    loss: Loss,
    evaluate: Evaluate,
    metric: str,
    higher_is_better: bool,
    settings: TrainingSettings,
    run: Run,
    resume: bool = False,
    quiet: bool = False,
    about: str = "",
) -> Result:
    """Train `model` into `run`, and leave it with the best (or averaged) weights, in evaluation mode.

    `loss(model, batch)` returns the loss summed over tokens, the number of tokens, and further sums to record
    per token (right answers, say). `evaluate(model)` returns the metrics, `metric` among them; it runs in the
    first process, in float32, and the random numbers of training stay as they were. The caller seeds the model's
    first weights, the same in every process.

    With `resume`, training goes on from the last checkpoint (from the start if there is none yet): on the CPU bit
    for bit as if it had never stopped.

    Raises:
        UserError: No budget, no such device, a damaged checkpoint, a full disk, a loss that is not a number.
        Interrupted: Ctrl-C or SIGTERM came; the step was finished and a checkpoint written.
    """
    budget = Budget.of(settings, len(batches))
    if not resume and (run.metrics.exists() or checkpoints.listed(run)):
        raise UserError(
            f"{run.path} was trained already: choose another folder, or use --resume to go on with it"
        )
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    place = Place.find(settings)
    with (
        run.locked(),
        Interruption() as interruption,
        Progress(metric, show=place.first and not quiet) as progress,
        Book(run, place, progress, settings, metric, higher_is_better) as book,
    ):
        model.to(place.device).train()
        place.same(model)
        optimizer = build_optimizer(model, settings)
        scaler = place.scaler(settings.max_tokens)
        randomness.seed(settings.seed, place.rank)
        state = book.restore(model, optimizer, scaler) if resume else State()
        if state.step and state.batches != len(batches):
            raise UserError(_other_data(run, state.batches, len(batches)))
        state.batches, saved = len(batches), state.seconds
        groups = _groups(batches, settings.accumulate, state, place)
        reason = budget.reached(state.step, state.epoch, state.seconds) or book.exhausted(state)
        if about:
            progress.say(about)
        while reason is None:
            group, epoch_ends = next(groups)
            rate = learning_rate(settings, state.step + 1, budget.total_steps(state.step, state.seconds))
            # Every process goes by the first one's clock, and stops if any of them was asked to.
            flags = (interruption.requested, book.seconds() * place.first)
            done = update(
                model, group, loss, optimizer, place, scaler, rate=rate, clip=settings.clip, flags=flags
            )
            state.skipped = 0 if done.finite else state.skipped + 1
            if state.skipped > (0 if scaler is None else MOST_SKIPPED):
                raise UserError(_not_a_number(run, state.step + 1, done, rate))
            stop, state.seconds = done.flags[0] > 0, done.flags[1]
            state.step += 1
            state.batch += len(group)
            if epoch_ends:
                state.epoch, state.batch = state.epoch + 1, 0
            if done.finite:
                book.add(state, done)

            reason = budget.reached(state.step, state.epoch, state.seconds)
            evaluates = reason is not None or _due(settings.evaluate_every, state.step, otherwise=epoch_ends)
            if evaluates or _due(settings.record_every, state.step):
                book.trained(state, rate, done.norm)
            if evaluates:
                book.evaluate(state, model, evaluate)
                reason = reason or book.exhausted(state)
            late = (
                settings.checkpoint_seconds is not None
                and state.seconds - saved >= settings.checkpoint_seconds
            )
            if evaluates or stop or late or _due(settings.checkpoint_every, state.step):
                book.checkpoint(state, model, optimizer, scaler)
                saved = state.seconds
            progress.step(state, budget.share(state.step, state.seconds))
            if stop and reason is None:
                message = f"stopped after step {state.step}; go on with: regard train --resume {run.path}"
                progress.say(message)
                raise Interrupted(message)

        if state.evaluated < state.step:  # resumed with a budget that was spent before this step
            book.evaluate(state, model, evaluate)
            book.checkpoint(state, model, optimizer, scaler)
        book.finish(state, model, evaluate)
        best = "" if state.best is None else f"best {metric} {state.best:.4g}, "
        progress.say(f"finished after {state.step} steps ({reason}), {best}in {run.path}")
        return Result(reason, state.step, book.seconds(), state.best)


def _due(every: int | None, step: int, *, otherwise: bool = False) -> bool:
    return otherwise if every is None else step % every == 0


def _groups(
    batches: TrainingBatches, accumulate: int, state: State, place: Place
) -> Iterator[tuple[list[TrainingBatch], bool]]:
    """The batches of each update from `state` on, endlessly, and whether the epoch ends with them."""
    epoch, start = state.epoch, state.batch
    while True:
        shares = batches.epoch(epoch, start=start, rank=place.rank, world=place.world)
        for first in range(start, len(batches), accumulate):
            yield list(islice(shares, accumulate)), first + accumulate >= len(batches)
        epoch, start = epoch + 1, 0


def _not_a_number(run: Run, step: int, done: Update, rate: float) -> str:
    what = "gradient" if math.isfinite(done.loss) else "loss"
    saved = checkpoints.listed(run)
    kept = f"the last checkpoint, {saved[-1]}, is intact" if saved else "there is no checkpoint yet"
    return (
        f"training stopped at step {step}: the {what} is not a finite number at learning rate {rate:.3g}; {kept}; "
        "try a lower learning_rate"
    )


def _other_data(run: Run, before: int, now: int) -> str:
    return (
        f"{run.path} was trained with {before} batches an epoch, but there are {now} now: to resume, its data and "
        "max_tokens must be the same"
    )
