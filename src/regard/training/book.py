"""What the loop writes down: records, evaluations, checkpoints, and the model at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import UserError
from regard.training import checkpoints, randomness
from regard.training.checkpoints import State
from regard.training.place import Place
from regard.training.progress import Progress
from regard.training.run import Run, fill, finite
from regard.training.settings import TrainingSettings
from regard.training.tensorboard import TensorBoard
from regard.training.update import Update

Evaluate = Callable[[Any], dict[str, float]]
"""`evaluate(model)`: the metrics by name."""

# What every record says besides its values.
ABOUT = ("kind", "step", "epoch", "seconds")


@dataclass
class Book:
    """Keeps the run directory; every process calls each method, and only the first one writes."""

    run: Run
    place: Place
    progress: Progress
    settings: TrainingSettings
    metric: str
    higher_is_better: bool
    extras: dict[str, float] = field(default_factory=dict, init=False)
    """This process's further sums since the last record."""

    def __post_init__(self) -> None:
        wanted = self.place.first and self.settings.tensorboard
        self._board = TensorBoard(self.run.path / "tensorboard") if wanted else None
        self._started = self._since = time.monotonic()

    def __enter__(self) -> Book:
        return self

    def __exit__(self, *error: object) -> None:
        if self._board is not None:
            self._board.close()

    def seconds(self) -> float:
        """Wall-clock seconds of training so far, those before a resume included."""
        return time.monotonic() - self._started

    def restore(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None
    ) -> State:
        """Go back to the last checkpoint (or the start), and forget what was recorded after it."""
        state = State()
        if saved := checkpoints.listed(self.run):
            state, processes = checkpoints.load(saved[-1], model, optimizer)
            if self.place.rank < len(processes):  # more processes than before: the others keep their seed
                randomness.restore(processes[self.place.rank]["random"], self.place.device)
                self.extras = processes[self.place.rank]["extras"]
            if scaler is not None and state.scaler:
                scaler.load_state_dict(state.scaler)
            self._started = time.monotonic() - state.seconds
            self.progress.say(f"going on from {saved[-1]}")
        if len(set(self.place.gather(state.step))) > 1:
            raise UserError(
                f"{self.run.path} must be the same folder for every process; here some do not see it"
            )
        if self.place.first:
            self.run.rewind(state.step)
        return state

    def add(self, state: State, done: Update) -> None:
        """Add an update to the sums of the next record."""
        state.loss += done.loss
        state.tokens += done.tokens
        for name, value in done.extras.items():
            self.extras[name] = self.extras.get(name, 0.0) + value

    def trained(self, state: State, rate: float, norm: float) -> None:
        """Record the training since the last record, per token, and start new sums."""
        tokens = max(state.tokens, 1)
        now = time.monotonic()
        sums: dict[str, float] = {}
        for one in self.place.gather(self.extras):
            for name, value in one.items():
                sums[name] = sums.get(name, 0.0) + value
        record = {
            "loss": state.loss / tokens,
            **{name: value / tokens for name, value in sums.items()},
            "learning_rate": rate,
            "gradient_norm": norm,
            "tokens_per_second": round(state.tokens / max(now - self._since, 1e-9), 1),
        }
        self._record("train", state, record)
        self.progress.trained(record)
        state.loss, state.tokens, self.extras, self._since = 0.0, 0, {}, now

    def evaluate(self, state: State, model: nn.Module, evaluate: Evaluate) -> None:
        """Evaluate, record the metrics, and keep the weights if they are the best so far."""
        before = time.monotonic()
        metrics = self._measured(model, evaluate) if self.place.first else {self.metric: 0.0}
        [value] = self.place.sum([metrics[self.metric]])  # the other processes wait here
        better = self.better(value, state.best)
        state.evaluated, state.metric = state.step, value
        state.stale = 0 if better else state.stale + 1
        if self.place.first:
            self._record("evaluation", state, metrics)
            self.progress.evaluated(replace(state, seconds=self.seconds()), value, better)
            if better or state.best is None:
                self._save(model.state_dict(), state.step, "best", metrics)
        if better:
            state.best = value
        self._since += time.monotonic() - before

    def better(self, value: float, best: float | None) -> bool:
        """Whether the metric `value` is better than `best`; one that is not a number never is."""
        if best is None:
            return not math.isnan(value)
        return value > best if self.higher_is_better else value < best

    def exhausted(self, state: State) -> str | None:
        """ "patience" where as many evaluations in a row as `patience` says brought no better metric."""
        patience = self.settings.patience
        return "patience" if patience is not None and state.stale >= patience else None

    def checkpoint(
        self,
        state: State,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None,
    ) -> None:
        """Write a checkpoint, and remove those that are no longer needed."""
        before = time.monotonic()
        state.scaler = {} if scaler is None else scaler.state_dict()
        random = randomness.state(self.place.device)
        processes = self.place.gather({"random": random, "extras": self.extras})
        if self.place.first:
            now = replace(state, seconds=self.seconds())
            checkpoints.save(self.run, now, model, optimizer, processes)
            checkpoints.prune(self.run, self.settings, self.higher_is_better)
        self._since += time.monotonic() - before

    def finish(self, state: State, model: nn.Module, evaluate: Evaluate) -> None:
        """Leave the best weights, or the average where it is no worse, in the model and the run."""
        if self.place.first:
            evaluated = checkpoints.evaluated(self.run)
            [best] = checkpoints.chosen(evaluated, 1, "best", self.higher_is_better)
            settings = self.settings
            averaged = checkpoints.chosen(
                evaluated, settings.average, settings.average_of, self.higher_is_better
            )
            metrics: dict[str, float] = {}
            if len(averaged) > 1:
                model.load_state_dict(checkpoints.average(averaged))
                metrics = self._measured(model, evaluate)
                self._record("average", state, {**metrics, "checkpoints": len(averaged)})
                self.progress.say(
                    f"average of {len(averaged)} checkpoints  {self.metric} {metrics[self.metric]:.4g}"
                )
            if len(averaged) > 1 and not self.better(evaluated[best], metrics[self.metric]):
                self._save(model.state_dict(), state.step, "average", metrics)
            else:
                fill(model, best / "model.safetensors")
                step = int(best.name.removeprefix("step-"))
                self._save(model.state_dict(), step, "best", self._recorded(step))
        self.place.same(model)
        model.eval()

    def _measured(self, model: nn.Module, evaluate: Evaluate) -> dict[str, float]:
        """The metrics of the model as it is, leaving training's random numbers and mode alone."""
        model.eval()
        with torch.no_grad(), randomness.kept(self.place.device):
            metrics = evaluate(model)
        model.train()
        if self.metric not in metrics:
            raise ValueError(f"evaluate must return {self.metric!r}, got only {sorted(metrics)}")
        return metrics

    def _recorded(self, step: int) -> dict[str, Any]:
        """The metrics that were recorded at the evaluation at `step`."""
        for record in self.run.records():
            if record["kind"] == "evaluation" and record["step"] == step:
                return {name: value for name, value in record.items() if name not in ABOUT}
        return {}

    def _record(self, kind: str, state: State, values: Mapping[str, Any]) -> None:
        if self.place.first:
            about = (kind, state.step, state.epoch, round(self.seconds(), 3))
            record = {**dict(zip(ABOUT, about, strict=True)), **values}
            self.run.record(**record)
            if self._board is not None:
                self._board.write(record)

    def _save(self, weights: Mapping[str, Tensor], step: int, which: str, metrics: Mapping[str, Any]) -> None:
        self.run.save_model(weights, {"weights": which, "step": step, "metrics": finite(metrics)})
