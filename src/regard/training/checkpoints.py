"""Checkpoints: all that going on from a step needs, in safetensors and JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from regard import durable
from regard.errors import UserError
from regard.training import tensors
from regard.training.run import FORMAT, Run, fill
from regard.training.settings import TrainingSettings


@dataclass
class State:
    """How far training has come: what `state.json` holds besides the random number generators."""

    step: int = 0
    """Updates done."""
    epoch: int = 0
    """Whole epochs done."""
    batch: int = 0
    """Global batches done in the present epoch."""
    batches: int = 0
    """Global batches in an epoch."""
    seconds: float = 0.0
    """Wall-clock seconds of everything so far."""
    evaluated: int = 0
    """The step of the last evaluation."""
    metric: float | None = None
    """The metric at the last evaluation."""
    best: float | None = None
    """The best metric so far."""
    stale: int = 0
    """Evaluations in a row without a better metric."""
    loss: float = 0.0
    """The training loss, summed over the tokens since the last record."""
    tokens: int = 0
    """Tokens since the last record."""
    skipped: int = 0
    """Steps in a row that float16 skipped because they overflowed."""
    scaler: dict[str, Any] = field(default_factory=dict)
    """The state of the loss scaling of float16."""


def save(
    run: Run, state: State, model: nn.Module, optimizer: torch.optim.Optimizer, processes: Sequence[Any]
) -> None:
    """Write the checkpoint of `state.step`; `processes` is each process's own JSON state."""
    path = run.checkpoints / f"step-{state.step:06d}"
    if run.metrics.exists():
        durable.sync_file(run.metrics)
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    moments = {
        f"{names[parameter]}.{key}": value
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
    }
    with durable.told(run.checkpoints):
        run.checkpoints.mkdir(exist_ok=True)
    durable.write_folder(
        path,
        {
            "model.safetensors": tensors.pack(model.state_dict()),
            "optimizer.safetensors": tensors.pack(moments),
            "processes.json": json.dumps(list(processes)).encode(),
            "state.json": json.dumps({"format": FORMAT, **asdict(state)}, indent=2).encode(),
        },
    )


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[State, list[Any]]:
    """Restore `model` and `optimizer`; returns the state and each process's own state.

    Raises:
        UserError: The checkpoint is damaged, or not one of this model.
    """
    try:
        content = read_state(path)
        processes = json.loads((path / "processes.json").read_text(encoding="utf-8"))
        state = State(**{name: value for name, value in content.items() if name != "format"})
        fill(model, path / "model.safetensors")
        moments = tensors.unpack(path / "optimizer.safetensors")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error}; {_DELETE}") from None
    except UserError as error:
        raise UserError(f"{error}; {_DELETE}") from None
    parameters = dict(model.named_parameters())
    for name, value in moments.items():
        parameter_name, key = name.rsplit(".", 1)
        if parameter_name not in parameters:
            raise UserError(f"{path} does not fit the model: it has no parameter {parameter_name!r}")
        parameter = parameters[parameter_name]
        # A scalar (AdamW's step count) stays on the CPU unless the update is fused, as AdamW itself has it.
        fused = any(group.get("fused") for group in optimizer.param_groups)
        optimizer.state[parameter][key] = value.to(parameter.device) if value.dim() or fused else value
    return state, processes


_DELETE = "delete that checkpoint's folder to go on from the one before"


def read_state(path: Path) -> dict[str, Any]:
    """The content of a checkpoint's `state.json`.

    Raises:
        UserError: It is damaged or of another format version.
    """
    file = path / "state.json"
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version = content["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged: {error}") from None
    if version != FORMAT:
        raise UserError(
            f"{path} is written in format {version}; this version of regard reads format {FORMAT}"
        )
    return content


def listed(run: Run) -> list[Path]:
    """The checkpoints of a run, the oldest first."""
    if not run.checkpoints.is_dir():
        return []
    found = [path for path in run.checkpoints.iterdir() if re.fullmatch(r"step-\d{6,}", path.name)]
    return sorted(found, key=lambda path: int(path.name[5:]))


def evaluated(run: Run) -> dict[Path, float]:
    """The checkpoints written right after an evaluation, with its metric, the oldest first."""
    metrics: dict[Path, float] = {}
    for path in listed(run):
        content = read_state(path)
        if content["metric"] is not None and content["evaluated"] == content["step"]:
            metrics[path] = content["metric"]
    return metrics


def chosen(metrics: Mapping[Path, float], count: int, of: str, higher_is_better: bool) -> list[Path]:
    """The `count` best or last of the evaluated checkpoints, the best or the last one first."""
    if of == "last":
        return list(reversed(list(metrics)))[:count]
    # A metric that is not a number is the worst; among equals the earlier is the better.
    worst = float("-inf") if higher_is_better else float("inf")
    rank = {path: worst if value != value else value for path, value in metrics.items()}
    return sorted(rank, key=lambda path: rank[path], reverse=higher_is_better)[:count]


def prune(run: Run, settings: TrainingSettings, higher_is_better: bool) -> None:
    """Remove every checkpoint but the last `keep`, the best one, and those to be averaged."""
    metrics = evaluated(run)
    kept = {*listed(run)[-settings.keep :], *chosen(metrics, 1, "best", higher_is_better)}
    if settings.average > 1:
        kept.update(chosen(metrics, settings.average, settings.average_of, higher_is_better))
    for path in listed(run):
        if path not in kept:
            durable.remove_folder(path)


def average(paths: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of the weights of several checkpoints, taken in float64; integers are those of the first.

    Raises:
        UserError: A checkpoint is damaged.
    """
    first = tensors.unpack(paths[0] / "model.safetensors")
    sums = {name: tensor.double() for name, tensor in first.items() if tensor.is_floating_point()}
    for path in paths[1:]:
        for name, tensor in tensors.unpack(path / "model.safetensors").items():
            if name in sums:
                sums[name] = sums[name] + tensor.double()
    return {
        name: (sums[name] / len(paths)).to(tensor.dtype) if name in sums else tensor
        for name, tensor in first.items()
    }
