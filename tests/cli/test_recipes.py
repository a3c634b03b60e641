"""Every recipe of tests/recipes.toml: the command works, leaves its files, and learns."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from regard.cli import main
from regard.data import Splits, manual, sample_dates, sample_reviews
from regard.data.docstrings import sample_docstrings
from regard.data.documentation import documented
from regard.data.manual import sample_questions
from regard.data.squad import Question

RECIPES = tomllib.loads((Path(__file__).parents[1] / "recipes.toml").read_text(encoding="utf-8"))["recipe"]


@pytest.mark.parametrize("number", range(len(RECIPES)), ids=[one["name"] for one in RECIPES])
def test_the_recipe_keeps_what_it_promises(
    number: int,
    trained: Callable[[int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = RECIPES[number]
    if recipe["data"] == "sample":
        monkeypatch.setattr("regard.tasks.translation.sample_dates", partial(sample_dates, size=60))
        monkeypatch.setattr("regard.tasks.sentiment.sample_reviews", partial(sample_reviews, size=200))
        monkeypatch.setattr("regard.tasks.summarisation.sample_docstrings", few_docstrings)
        monkeypatch.setattr("regard.tasks.question_answering.sample_questions", few_questions)
        run = tmp_path / "run"
        assert main([word.format(run=run) for word in shlex.split(recipe["command"])]) == 0
    else:
        run = trained(number)
    assert set(recipe["files"]) <= {path.name for path in run.iterdir()}
    assert not [path for path in run.rglob(".*") if path.name != ".lock"]
    assert {record["split"] for record in evaluated(run, capsys)} >= {"valid"}
    found = reached(run, evaluated(run, capsys, "--split", "train") + evaluated(run, capsys))
    for name, (least, most) in recipe["bounds"].items():
        assert least <= found[name] <= most, (name, found)


def few_docstrings() -> Splits:
    splits = sample_docstrings()
    return Splits(splits.train[:40], splits.valid[:10], {"test": splits.test["test"][:10]})


@lru_cache(1)
def few_questions() -> dict[str, tuple[Question, ...]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manual, "documented", lambda: islice(documented(), 900))
        found = sample_questions.__wrapped__()
    return {"train": found["train"][:160], "valid": found["test"][:40]}


def evaluated(run: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["evaluate", str(run), "--json", *flags]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def reached(run: Path, evaluations: list[dict[str, Any]]) -> dict[str, float]:
    """What a run reached, by the names of the bounds."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [record["loss"] for record in records if record["kind"] == "train"]
    metrics = {
        f"{one['split']}.{name}": value
        for one in evaluations
        for name, value in one.items()
        if isinstance(value, float)
    }
    return {**metrics, "loss": losses[-1], "fall": losses[-1] / losses[0]}
