"""`regard train`: settings to a run directory, or an interrupted run to its end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from regard.cli.flags import changes
from regard.errors import UserError


def train(
    task: str | None = None,
    *,
    run: Path | None = None,
    data: Annotated[list[Path] | None, Parameter(consume_multiple=True, negative=())] = None,
    source: str | None = None,
    target: str | None = None,
    model: str | None = None,
    attention: str | None = None,
    config: Path | None = None,
    resume: Path | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    seconds: float | None = None,
    learning_rate: float | None = None,
    seed: int | None = None,
    threads: int | None = None,
    device: str | None = None,
    precision: Literal["float32", "bfloat16", "float16"] | None = None,
    set: Annotated[list[str] | None, Parameter(negative=())] = None,
    skip_bad: Annotated[bool, Parameter(negative=())] = False,
    settings: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Train a model into a new run directory; on the embedded sample unless --data is given.

    Several processes, on GPUs or the CPU: `torchrun --nproc-per-node 2 -m -- regard train ...`; without the `--`
    torchrun takes --run for its own. On GPUs also `accelerate launch --num_processes 2 -m regard train ...`; on the CPU
    accelerate runs one process unless it is told otherwise.

    Parameters
    ----------
    task
        The task, such as translation (`regard tasks` lists them).
    run
        The run directory to make; runs/TASK-MODEL-ATTENTION when not given.
    data
        Files or a directory, as `regard tasks` says.
    source
        The source language: how its files end.
    target
        The target language.
    model
        The kind of model, such as rnn or transformer.
    attention
        The mechanism, such as additive/softmax, dot/top-4, cosine/sparsemax, or none.
    config
        A TOML file of settings (the config.toml of any run will do).
    resume
        Go on with this interrupted run, exactly where it stopped.
    steps
        Budget: updates of the weights.
    epochs
        Budget: passes over the data.
    seconds
        Budget: wall-clock seconds.
    learning_rate
        The highest learning rate.
    seed
        Seeds the first weights, dropout and the order of the data.
    threads
        CPU threads.
    device
        auto, cpu, cuda, cuda:1, ...
    precision
        Arithmetic of the forward pass.
    set
        Any other setting, as part.field=value; may be repeated (--settings lists them).
    skip_bad
        Leave out the examples that cannot be used, and say which, instead of refusing the data.
    settings
        Print all settings as TOML and train nothing.
    """
    from regard.tasks.experiment import Experiment
    from regard.tasks.experiment import resume as resume_run
    from regard.tasks.experiment import train as train_run
    from regard.tasks.report import write_report
    from regard.training import first_process

    budgets = {"training.steps": steps, "training.epochs": epochs, "training.seconds": seconds}
    machine = {"training.threads": threads, "training.device": device}
    if resume is not None:
        fixed = {"task": task, "--run": run, "--data": data, "--source": source, "--target": target,
                 "--model": model, "--attention": attention, "--config": config, "--seed": seed,
                 "--learning-rate": learning_rate, "--precision": precision}  # fmt: skip
        if given := [name for name, value in fixed.items() if value is not None]:
            raise UserError(f"--resume goes on with the settings of {resume}: leave out {', '.join(given)}")
        resume_run(resume, changes=changes(set or [], budgets | machine))
        if first_process():
            write_report(resume, device=device)
        return 0
    first = Experiment.resolve(task, data=data or (), model=model, config=config)
    shortcuts = budgets | machine | {
        "training.learning_rate": learning_rate, "training.seed": seed, "training.precision": precision,
        f"{first.task}.source": source, f"{first.task}.target": target,
        f"{first.model_name}.attention": attention, f"{first.task}.skip_bad": skip_bad or None,
    }  # fmt: skip
    experiment = Experiment.resolve(
        task, data=data or (), model=model, config=config, changes=changes(set or [], shortcuts)
    )
    if settings:
        import tomli_w

        print(tomli_w.dumps(experiment.tables()), end="")
        return 0
    if run is None:
        mechanism = str(experiment.model.get("attention", "")).replace("/", "-")
        run = Path("runs") / "-".join(
            part for part in (experiment.task, experiment.model_name, mechanism) if part
        )
    train_run(experiment, run)
    if first_process():
        write_report(run)
    return 0
