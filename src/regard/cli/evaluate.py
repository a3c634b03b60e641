"""`regard evaluate`: how good a trained run is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from regard.cli.flags import answering, check_output
from regard.errors import UserError


def evaluate(
    run: Path,
    *,
    data: Annotated[list[Path] | None, Parameter(consume_multiple=True, negative=())] = None,
    split: str | None = None,
    beam: int | None = None,
    set: Annotated[list[str] | None, Parameter(negative=())] = None,
    output: Path | None = None,
    json_lines: Annotated[bool, Parameter(name="--json", negative=())] = False,
    device: str = "cpu",
) -> None:
    """Measure a trained run on held-out data: its own, or other data of the same kind.

    Parameters
    ----------
    run
        The run directory.
    data
        Other data than the run's own: files are judged whole, a folder by its held-out parts.
    split
        Only this part (valid, or the name of a test set); all parts but train when not given.
    beam
        The width of the search; the run's own setting when not given.
    set
        Any other setting of the task with which to answer, as field=value; may be repeated.
    output
        A file for the predictions, one line an example; of more than one split, --split says which.
    json_lines
        Print one JSON object a split instead of a table.
    device
        Where to compute.
    """
    from regard.durable import write_file
    from regard.tasks import unknown
    from regard.tasks.experiment import Trained

    check_output(output)
    trained = Trained.open(run, device, answering(set or [], {"beam": beam}))
    if data and split is None:
        splits = trained.task.held_out(trained.task.settings, data)
    else:
        splits = trained.task.read(trained.task.settings, data) if data else trained.experiment.read()
    if split is not None:
        if split not in splits:
            raise unknown("split", split, splits)
        splits = {split: splits[split]}
    else:
        splits = {name: examples for name, examples in splits.items() if name != "train"}
    if output is not None and len(splits) != 1:
        raise UserError(
            f"--output takes the predictions of one split: add --split, one of {', '.join(splits)}"
        )
    found = trained.evaluate(splits)
    if output is not None:
        lines = "".join(f"{row.said}\n" for one in found.values() for row in one.judged)
        write_file(output, lines.encode())
    for name, one in found.items():
        numbers = {key: round(value, 4) for key, value in one.metrics.items()}
        if json_lines:
            print(json.dumps({"split": name, "examples": len(one.judged), **numbers, **{
                f"{key}_signature": text for key, text in one.signatures.items()}}, ensure_ascii=False))  # fmt: skip
        else:
            shown = "  ".join(f"{key} {value:g}" for key, value in numbers.items())
            print(f"{name}: {len(one.judged)} examples  {shown}")
    if not json_lines:
        for key, text in next(iter(found.values())).signatures.items():
            print(f"{key}: {text}")
