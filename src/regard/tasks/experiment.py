"""An experiment: one task, data, model and training, from settings to a run directory and back."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from regard.attention.mechanism import Mechanism
from regard.errors import UserError
from regard.models import MODELS, build
from regard.tasks import TASKS, task_named, unknown
from regard.tasks.task import Evaluation, Task
from regard.training import Result, Run, TrainingSettings, first_process, fit, from_table, to_table
from regard.training.checkpoints import listed
from regard.training.place import Place

__all__ = ["Experiment", "Trained", "train"]


@dataclass(frozen=True)
class Experiment:
    """Everything that decides a run: the content of `config.toml`.

    `settings` are the task's, `model` the table of the model named `model_name`, in which what follows from the data
    (vocabulary sizes) may still be missing.

    Example:
        >>> experiment = Experiment.resolve("translation", changes={"rnn": {"attention": "dot/sparsemax"}})
        >>> experiment.model_name, experiment.model["attention"]
        ('rnn', 'dot/sparsemax')
    """

    task: str
    data: tuple[str, ...]
    model_name: str
    settings: Any
    model: Mapping[str, Any]
    training: TrainingSettings

    @classmethod
    def resolve(
        cls,
        task: str | None = None,
        *,
        data: Sequence[Path] = (),
        model: str | None = None,
        config: Path | None = None,
        changes: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Experiment:
        """Settings from the task's recipe, overridden by a TOML file, overridden by `changes`.

        The tables of the file and of `changes` are named after the task, after the model, and `training`.
        Raises `UserError` for anything unknown or out of range.
        """
        file = {} if config is None else _read_toml(config)
        chosen = task or file.get("task")
        if not isinstance(chosen, str):
            raise UserError("which task? Give its name (`regard tasks` lists them), or a file with --config")
        kind = task_named(chosen)
        data = list(data) or _paths(file.get("data", []), str(config))
        name = model or file.get("model", kind.models[0])
        if name not in kind.models:
            raise unknown("model", name, kind.models)
        recipe = kind.recipe(name, data)
        tables = {
            chosen: dict(recipe["settings"]),
            name: dict(recipe["model"]),
            "training": dict(recipe["training"]),
        }
        given = changes or {}
        where = dict.fromkeys(tables, "the recipe")
        other = [model for model in kind.models if model != name]  # a file may be of a run of another model
        for source, overlay in ((str(config), file), ("the command line", given)):
            for section, table in overlay.items():
                if section in _PLAIN or (overlay is file and section in other):
                    continue
                if section not in tables:
                    raise UserError(f"{source}: {unknown('table', section, tables)}")
                table = _table(table, f"{source}, {section}")
                if section == "training" and not table.keys().isdisjoint(_BUDGETS):
                    for budget in _BUDGETS:  # what is asked for replaces the budgets before
                        tables[section].pop(budget, None)
                tables[section] |= table
                where[section] = source
        settings = from_table(kind.Settings, tables[chosen], f"{where[chosen]}, {chosen}")
        training = from_table(TrainingSettings, tables["training"], f"{where['training']}, training")
        complete = whole_model(name, tables[name], f"{where[name]}, {name}")
        files = tuple(str(path.absolute()) for path in data)  # a run is read from any folder
        return cls(chosen, files, name, settings, complete, training)

    def read(self) -> Mapping[str, Sequence[Any]]:
        """The examples by split; raises `UserError` for data that cannot be read."""
        return task_named(self.task).read(self.settings, [Path(path) for path in self.data])

    def build(self, task: Task[Any]) -> nn.Module:
        """A new model, its first weights drawn by the training seed."""
        torch.manual_seed(self.training.seed)
        return build({"model": self.model_name, **self.model, **task.model_sizes()})

    def tables(self) -> dict[str, Any]:
        """The content of `config.toml`: every setting, defaults included."""
        return {
            "task": self.task,
            "data": list(self.data),
            "model": self.model_name,
            self.task: to_table(self.settings),
            self.model_name: dict(self.model),
            "training": to_table(self.training),
        }


@dataclass(frozen=True)
class Trained:
    """A run directory opened for use: its experiment, its task made ready, its trained model in evaluation mode."""

    run: Run
    experiment: Experiment
    task: Task[Any]
    model: nn.Module

    @classmethod
    def open(
        cls, path: Path, device: str | None = "cpu", answering: Mapping[str, Any] | None = None
    ) -> Trained:
        """Load a trained run onto a device (None: the one of its training).

        `answering` are settings of the task, by name, with which it is to answer instead of its own.

        Raises `UserError` when it is not one, is damaged, or has no model yet, and for settings that may not change.
        """
        run, experiment, task = _opened(path)
        task = _answering(task, answering or {})
        where = Place.find(TrainingSettings(device=device or experiment.training.device)).device
        model = experiment.build(task)
        run.load_model(model)
        return cls(run, experiment, task, model.to(where).eval())

    def evaluate(self, splits: Mapping[str, Sequence[Any]]) -> dict[str, Evaluation]:
        """The evaluation of every split given; raises `UserError` for an example that cannot be judged."""
        return {name: self.task.evaluate(self.model, examples) for name, examples in splits.items()}


def train(experiment: Experiment, path: Path, *, quiet: bool = False) -> Result:
    """Train an experiment into a new run directory; where it fails before anything is learnt, none is left behind.

    Raises `UserError` when the training has no budget, the data cannot be read or trained on, the directory exists and
    is not empty or cannot be written, there is no such device, the disk is full, or the loss is not a number.
    """
    kind = task_named(experiment.task)
    experiment.training.require_budget()
    if first_process():  # another process may look only after the first has made it
        Run.check_new(path)
    splits = experiment.read()
    task = kind.learn(experiment.settings, splits["train"])
    task.check(splits)
    model = experiment.build(task)
    task.begin(model)
    complete = dataclasses.replace(experiment, model=dataclasses.asdict(model.settings))  # type: ignore[call-overload]
    batches = task.batches(splits["train"], experiment.training.max_tokens, experiment.training.seed)
    run = Run.create(path, {**complete.tables(), "fingerprint": _fingerprint(splits["train"])})
    try:
        if first_process():
            task.save(run.path)
        return _fit(task, model, batches, splits, complete, run, resume=False, quiet=quiet)
    except BaseException as error:
        kept = run.metrics.exists() or bool(listed(run))
        if first_process() and not kept:
            shutil.rmtree(run.path, ignore_errors=True)
        if kept and isinstance(error, UserError) and isinstance(error.__cause__, OSError):
            raise UserError(f"{error}; then go on with: regard train --resume {run.path}") from error
        raise


def resume(
    path: Path, *, changes: Mapping[str, Mapping[str, Any]] | None = None, quiet: bool = False
) -> Result:
    """Go on with a run that was interrupted, exactly; `changes` may give it a larger budget.

    Raises `UserError` when there is no such run, it is damaged or in use, its data have changed or cannot be read,
    `changes` name anything but a budget, threads or device, and whenever `train` does for want of disk or device.
    """
    run, experiment, task = _opened(path)
    if changes:
        unknown = [section for section in changes if section != "training"]
        if unknown:
            raise UserError(
                f"a resumed run keeps its settings: {unknown[0]!r} cannot be changed, only training budgets"
            )
        budgets = ("epochs", "steps", "seconds", "threads", "device")
        if other := [name for name in changes["training"] if name not in budgets]:
            raise UserError(
                f"a resumed run keeps its settings: {other[0]!r} cannot be changed, only {', '.join(budgets)}"
            )
        table = to_table(experiment.training) | dict(changes["training"])
        training = from_table(TrainingSettings, table, "the command line, training")
        experiment = dataclasses.replace(experiment, training=training)
    splits = experiment.read()
    if _fingerprint(splits["train"]) != run.config.get("fingerprint"):
        raise UserError(
            f"the training data have changed since {run.path} began: an exact resume is not possible"
        )
    task.check(splits)
    model = experiment.build(task)
    if not listed(run):
        task.begin(model)
    batches = task.batches(splits["train"], experiment.training.max_tokens, experiment.training.seed)
    return _fit(task, model, batches, splits, experiment, run, resume=True, quiet=quiet)


def whole_model(name: str, table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The table of the model `name` with its defaults, but for sizes from the data that it does not give.

    Raises `UserError` where it cannot be one.
    """
    kind = MODELS[name][0]
    sizes = {field.name: 8 for field in dataclasses.fields(kind) if field.default is MISSING}
    settings = from_table(kind, {**sizes, **table}, where)
    for field in ("attention", "cross_attention"):
        spelling = getattr(settings, field, "")
        if spelling not in ("", "none"):
            try:
                Mechanism.parse(spelling)
            except ValueError as error:
                raise UserError(f"{where}: {field}: {error}") from None
    return {
        field: value for field, value in to_table(settings).items() if field in table or field not in sizes
    }


def _answering(task: Task[Any], changes: Mapping[str, Any]) -> Task[Any]:
    """The task with other settings for answering."""
    for name in changes:
        if name not in task.answering:
            may = ", ".join(task.answering) or "none"
            raise UserError(
                f"{task.name} cannot answer with another {name!r} than it was trained with; may change: {may}"
            )
    if not changes:
        return task
    settings = from_table(
        type(task.settings), to_table(task.settings) | dict(changes), f"the command line, {task.name}"
    )
    return task.changed(**{name: getattr(settings, name) for name in changes})


def _fit(
    task: Task[Any],
    model: nn.Module,
    batches: Any,
    splits: Mapping[str, Sequence[Any]],
    experiment: Experiment,
    run: Run,
    *,
    resume: bool,
    quiet: bool,
) -> Result:
    smoothing = experiment.training.label_smoothing
    watched = splits["valid"][: experiment.settings.evaluate_examples]
    watching = task.while_training()
    return fit(
        model,
        batches=batches,
        loss=lambda trained, batch: task.loss(trained, batch, smoothing),
        evaluate=lambda trained: dict(watching.evaluate(trained, watched).metrics),
        metric=task.metric,
        higher_is_better=True,
        settings=experiment.training,
        run=run,
        resume=resume,
        quiet=quiet,
        about=_in_words(splits, task, model),
    )


def _opened(path: Path) -> tuple[Run, Experiment, Task[Any]]:
    run = Run.open(path)
    where = path / "config.toml"
    try:
        if (task := run.config["task"]) not in list(TASKS):
            raise UserError(f"{where}: {unknown('task', task, TASKS)}")
        kind = task_named(task)
        if (name := run.config["model"]) not in kind.models:
            raise UserError(f"{where}: {unknown('model', name, kind.models)}")
        tables = [_table(run.config[part], f"{where}, {part}") for part in (kind.name, "training", name)]
        data = tuple(str(one) for one in _paths(run.config["data"], str(where)))
    except KeyError as error:
        raise UserError(f"{where} is damaged: it lacks {error}") from None
    settings = from_table(kind.Settings, tables[0], f"{where}, {kind.name}")
    training = from_table(TrainingSettings, tables[1], f"{where}, training")
    model = tables[2]
    whole_model(name, model, f"{where}, {name}")
    return run, Experiment(kind.name, data, name, settings, model, training), kind.load(settings, path)


_PLAIN = ("task", "data", "model", "format", "fingerprint")
"""What a config.toml holds outside of its tables."""


_BUDGETS = ("epochs", "steps", "seconds")


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where} is {value!r}; a table of settings is expected")
    return dict(value)


def _paths(value: Any, where: str) -> list[Path]:
    if not (isinstance(value, list) and all(isinstance(path, str) for path in value)):
        raise UserError(f"{where}: data is {value!r}; a list of paths is expected")
    return [Path(path) for path in value]


def _in_words(splits: Mapping[str, Sequence[Any]], task: Task[Any], model: nn.Module) -> str:
    """What is about to be trained, on what."""
    sizes = [f"{len(examples):,} {name}" for name, examples in splits.items()]
    sizes += [f"{size:,} {name.replace('_', ' ')}" for name, size in task.model_sizes().items()]
    return f"{', '.join(sizes)}; {sum(p.numel() for p in model.parameters()):,} parameters"


def _fingerprint(examples: Sequence[Any]) -> str:
    """A digest of the training examples, by which a resumed run knows that they are still the same."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr(dataclasses.astuple(example)[:2]).encode())
    return digest.hexdigest()[:16]


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(
            f"{path} is a folder; --config takes a TOML file (a run's is {path / 'config.toml'})"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
