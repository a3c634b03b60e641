"""`report.html`: what a run did, how well, and where it looked, on one offline page."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from regard.tasks.experiment import Trained
from regard.tasks.task import Evaluation, Judged, Task
from regard.view import Chart, Code, Headline, Headlines, Heatmap, Report, Section, Series, Table

__all__ = ["by_length", "write_report"]

EXAMPLES = 20
PICTURES = 4
BINS = 6


def write_report(
    run: Path,
    *,
    beside: Sequence[Path] = (),
    to: Path | None = None,
    look_at: Sequence[str] = (),
    title: str | None = None,
    device: str | None = None,
) -> list[dict[str, Evaluation]]:
    """Evaluate a run on its held-out data and write its report.

    Returns the evaluations by split of the run, then those of the runs `beside` it.

    `beside` are other runs of the same task and data, shown in the same charts; `look_at` the inputs to picture,
    a few of the held-out ones when not given; `to` the file, `report.html` of the run when not given; `device` where
    to compute, where the run was trained when not given.

    Raises `UserError` when a run is not one, is damaged or has no model yet, its data cannot be read, an input to
    picture cannot be, or the file cannot be written or does not end in .html.
    """
    trained = [Trained.open(path, device) for path in (run, *beside)]
    first = trained[0]
    splits = first.experiment.read()
    names = _names(trained)
    held_out = {name: examples for name, examples in splits.items() if name != "train"}
    found = [one.evaluate(held_out) for one in trained]
    command = (
        f"regard train {first.experiment.task} --config {shlex.quote(str(run / 'config.toml'))} --run NEW_RUN"
    )
    sections = [
        Section("Result", _result(trained, names, found)),
        Section("Training", _curves(trained, names)),
        Section("Quality by length of the input", _by_length(first.task, names, found)),
        Section("Examples", _examples(found[0])),
    ]
    if pictures := _pictures(first, list(look_at) or _spread(found[0])):
        sections.append(
            Section("Where it looked", ["The weights of the attention: where, not why.", *pictures])
        )
    sections.append(
        Section("Settings", [_settings(first), "The command that makes this run again:", Code(command)])
    )
    lead = f"{first.experiment.task}: {_data_in_words(first, splits)}"
    Report(title or f"{first.experiment.task}, {names[0]}", sections, lead).save(to or run / "report.html")
    return found


def _names(trained: Sequence[Trained]) -> list[str]:
    """What each run is called: its attention, or its folder where that does not tell the runs apart."""
    names = [
        f"{one.experiment.model_name} {one.experiment.model.get('attention', '')}".strip() for one in trained
    ]
    return names if len(set(names)) == len(names) else [one.run.path.name for one in trained]


def _data_in_words(one: Trained, splits: Mapping[str, Sequence[Any]]) -> str:
    source = ", ".join(one.experiment.data) or "the embedded sample"
    return f"{source}; " + ", ".join(f"{len(examples):,} {name}" for name, examples in splits.items())


def _result(
    trained: Sequence[Trained], names: Sequence[str], found: Sequence[Mapping[str, Evaluation]]
) -> list[Any]:
    metric = trained[0].task.metric
    numbers = [
        Headline(
            _number(trained[0].task, one.metrics[metric]), f"{metric.replace('_', ' ')}, {split}", names[0]
        )
        for split, one in found[0].items()
    ]
    seconds = [record["seconds"] for record in trained[0].run.records() if "seconds" in record]
    numbers.append(Headline(f"{sum(p.numel() for p in trained[0].model.parameters()):,}", "parameters"))
    if seconds:
        numbers.append(Headline(f"{max(seconds):,.0f} s", "training"))
    kinds = list(next(iter(found[0].values())).metrics)
    rows: list[Any] = [
        [name, split, len(one.judged), *(round(one.metrics[kind], 4) for kind in kinds)]
        for name, evaluations in zip(names, found, strict=True)
        for split, one in evaluations.items()
    ]
    signatures = next(iter(found[0].values())).signatures
    parts: list[Any] = [Headlines(numbers), Table(["model", "split", "examples", *kinds], rows)]
    return [*parts, *(f"{kind}: {text}" for kind, text in signatures.items())]


def _number(task: Task[Any], value: float) -> str:
    return (
        f"{100 * value:.1f} %"
        if task.metric in task.shares
        else f"{value:.1f}"
        if value > 1
        else f"{value:.3f}"
    )


def _curves(trained: Sequence[Trained], names: Sequence[str]) -> list[Any]:
    metric = trained[0].task.metric
    losses, metrics = [], []
    for one, name in zip(trained, names, strict=True):
        records = one.run.records()
        losses.append(Series(name, [(r["step"], r["loss"]) for r in records if r.get("loss") is not None]))
        metrics.append(Series(name, [(r["step"], r[metric]) for r in records if r.get(metric) is not None]))
    return [
        Chart("Training loss", "step", "loss (nats per token)", losses),
        Chart(f"{metric} on validation data", "step", metric, metrics),
    ]


def _by_length(task: Task[Any], names: Sequence[str], found: Sequence[Mapping[str, Evaluation]]) -> list[Any]:
    """One point a bin of alike many examples; under exact match with 95 % Wilson intervals."""
    series = []
    for name, evaluations in zip(names, found, strict=True):
        groups = by_length(evaluations)
        points = [(sum(row.length for row in group) / len(group), task.quality(group)) for group in groups]
        ranges = None
        if task.metric in task.shares:
            ranges = [_wilson(share, len(group)) for (_, share), group in zip(points, groups, strict=True)]
        series.append(Series(name, points, ranges))
    note = (
        "Held-out examples of all splits, in groups of alike length. Without attention, all of the input has to fit "
        "into one vector."
    )
    return [Chart(f"{task.metric} by length of the input", "tokens of input", task.metric, series, note)]


def by_length(evaluations: Mapping[str, Evaluation]) -> list[list[Judged]]:
    """The judged examples of all splits, in groups of neighbouring lengths; those of one length are never split."""
    judged = sorted((row for one in evaluations.values() for row in one.judged), key=lambda row: row.length)
    groups: list[list[Judged]] = []
    for row in judged:
        full = groups and len(groups[-1]) >= len(judged) / BINS and groups[-1][-1].length != row.length
        if not groups or full:
            groups.append([])
        groups[-1].append(row)
    if len(groups) > 1 and len(groups[-1]) < len(judged) / BINS / 3:
        groups[-2] += groups.pop()
    return groups


def _wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share (Wilson 1927)."""
    z = 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return middle - half, middle + half


def _examples(found: Mapping[str, Evaluation]) -> list[Any]:
    tables: list[Any] = []
    for split, one in found.items():
        wrong = [row for row in one.judged if not row.right][: EXAMPLES // 2]
        right = [row for row in one.judged if row.right][: EXAMPLES - len(wrong)]
        rows: list[Any] = [[row.source, row.said, row.expected, row.right] for row in (*wrong, *right)]
        if not right:  # no answer equals the expected one word for word: marks would say nothing
            rows = [row[:3] for row in rows]
        columns = ["input", "output", "expected", "exact"][: len(rows[0]) if rows else 4]
        tables.append(Table(columns, rows, f"{split}: wrong ones first, {len(wrong)} shown"))
    return tables


def _spread(found: Mapping[str, Evaluation]) -> list[str]:
    """Inputs of short to long, the right ones first of all."""
    judged = [row for one in found.values() for row in one.judged]
    chosen = sorted([row for row in judged if row.right] or judged, key=lambda row: row.length)
    places = [round((i + 0.5) / PICTURES * len(chosen) - 0.5) for i in range(PICTURES)]
    return list(
        dict.fromkeys(chosen[min(max(place, 0), len(chosen) - 1)].source for place in places if chosen)
    )


def _pictures(one: Trained, texts: Sequence[str]) -> list[Heatmap]:
    if one.experiment.model.get("attention") == "none":
        return []
    return [
        picture for text in texts for picture in one.task.pictures(one.model, text, layer=None, head=None)
    ]


def _settings(one: Trained) -> Table:
    rows: list[list[Any]] = []
    for section, table in one.experiment.tables().items():
        for name, value in table.items() if isinstance(table, Mapping) else [("", table)]:
            rows.append([f"{section}.{name}".rstrip("."), str(value)])
    return Table(["setting", "value"], rows)
