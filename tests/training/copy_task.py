"""A tiny task for the tests of training: say every token again. As a script, one training in a process of its own."""

from __future__ import annotations

import argparse
import os
import random
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regard.training import Run, TrainingSettings, fit, from_table, to_table

TOKENS = 12


@dataclass
class Rows:
    tokens: Tensor
    index: Sequence[int]

    def to(self, device: Any) -> Rows:
        return Rows(self.tokens.to(device), self.index)


class Batches:
    """The first interface of regard.data.Batches, over rows of random tokens, with a short last batch."""

    def __init__(self, rows: int = 45, per_batch: int = 4) -> None:
        self.rows = torch.randint(TOKENS, (rows, 6), generator=torch.Generator().manual_seed(0))
        self.per_batch = per_batch

    def __len__(self) -> int:
        return -(-len(self.rows) // self.per_batch)

    def epoch(self, epoch: int, *, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Rows]:
        order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(epoch)).tolist()
        for number in range(start, len(self)):
            share = order[number * self.per_batch : (number + 1) * self.per_batch][rank::world]
            yield Rows(self.rows[share], share)


class Copier(nn.Module):
    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.embedding = nn.Embedding(TOKENS, 8)
        self.dropout = nn.Dropout(dropout)
        self.middle = nn.Linear(8, 8)
        self.output = nn.Linear(8, TOKENS, bias=False)
        self.output.weight = self.embedding.weight  # tied, as in many models
        self.unused = nn.Parameter(torch.ones(3))  # no gradient, ever

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output(torch.tanh(self.middle(self.dropout(self.embedding(tokens)))))


def plain_loss(model: nn.Module, batch: Rows) -> tuple[Tensor, int, dict[str, float]]:
    scores = model(batch.tokens).flatten(0, 1).float()
    tokens = batch.tokens.flatten()
    right = float((scores.argmax(-1) == tokens).sum())
    return nn.functional.cross_entropy(scores, tokens, reduction="sum"), len(tokens), {"accuracy": right}


def noisy_loss(model: nn.Module, batch: Rows) -> tuple[Tensor, int, dict[str, float]]:
    """Draws from every global generator, so that an exact resume must restore them all."""
    loss, tokens, extras = plain_loss(model, batch)
    return loss * (1 + 0.1 * random.random() + 0.1 * np.random.rand()), tokens, extras


def evaluate(model: nn.Module) -> dict[str, float]:
    random.random(), np.random.rand(), torch.rand(3)  # evaluating draws numbers too, and must change nothing
    with torch.no_grad():
        losses = [plain_loss(model, batch) for batch in Batches(20).epoch(99)]
    return {"loss": sum(float(loss) for loss, _, _ in losses) / sum(tokens for _, tokens, _ in losses)}


def settings(**changes: Any) -> TrainingSettings:
    table = {"epochs": 4, "threads": 1, "device": "cpu", "record_every": 5, "learning_rate": 0.05, **changes}
    return TrainingSettings(**table)


def train(path: Path, resume: bool = False, **changes: Any) -> tuple[Copier, Any, Run]:
    """Train a new model, or go on with `path`; `loss`, `evaluate`, `batches`, `model` may be given."""
    given = {name: changes.pop(name) for name in ("loss", "evaluate", "batches", "model") if name in changes}
    if resume:
        run = Run.open(path)
        chosen = from_table(TrainingSettings, {**run.config["training"], **changes}, "config.toml: training")
    else:
        chosen = settings(**changes)
        run = Run.create(path, {"training": to_table(chosen)})
    model = given.get("model", Copier())
    result = fit(
        model,
        batches=given.get("batches", Batches()),
        loss=given.get("loss", noisy_loss),
        evaluate=given.get("evaluate", evaluate),
        metric="loss",
        higher_is_better=False,
        settings=chosen,
        run=run,
        resume=resume,
        quiet=True,
    )
    return model, result, run


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--kill-in-step", type=int, default=0)
    parser.add_argument("--kill-in-checkpoint", type=int, default=0)
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    calls = 0

    def loss(model: nn.Module, batch: Rows) -> tuple[Tensor, int, dict[str, float]]:
        nonlocal calls
        calls += 1
        if calls == options.kill_in_step:
            os.kill(os.getpid(), signal.SIGKILL)
        return noisy_loss(model, batch)

    if options.kill_in_checkpoint:
        sync = os.fsync

        def fsync(handle: int) -> None:
            name = f"step-{options.kill_in_checkpoint:06d}"
            if name in os.readlink(f"/proc/self/fd/{handle}"):
                os.kill(os.getpid(), signal.SIGKILL)
            sync(handle)

        os.fsync = fsync
    if options.plain:
        train(options.path, loss=plain_loss, model=Copier(dropout=0.0), checkpoint_every=7)
    else:
        train(options.path, options.resume, loss=loss, checkpoint_every=7, keep=2)


if __name__ == "__main__":
    main()
