"""`regard demo`, `regard tasks`, and what the command says about itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from regard import __version__
from regard.data import sample_dates
from regard.tasks.translation import Translation


def test_the_demo_compares_two_runs_and_goes_on_where_it_stopped(
    regard: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Translation.recipe

    def short(model: str, data: Any) -> Any:
        few = {"embedding_size": 8, "hidden_size": 8}
        return {
            **recipe(model, data),
            "model": few,
            "training": {"steps": 3, "max_tokens": 256, "threads": 1},
        }

    small = partial(sample_dates, size=60)
    unseen = small().test["held-out dates"]
    monkeypatch.setattr(Translation, "recipe", short)
    monkeypatch.setattr("regard.tasks.translation.sample_dates", small)
    monkeypatch.setattr("regard.cli.demo.LOCALES", tuple(pair.origin.split("/")[0] for pair in unseen[:3]))
    ended = regard("demo", tmp_path / "demo")
    assert ended.status == 0, ended.err
    assert {path.name for path in (tmp_path / "demo").iterdir()} == {
        "additive-softmax",
        "none",
        "report.html",
    }
    assert re.search(r"held-out dates +[\d.]+% +[\d.]+% +of \d", ended.out)
    assert re.search(r"\d+ to \d+ characters +[\d.]+% +[\d.]+%", ended.out)
    assert "Where it looked" in ended.out
    assert "■" in ended.out
    page = (tmp_path / "demo/report.html").read_text(encoding="utf-8")
    assert "rnn additive/softmax" in page
    assert "rnn none" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    again = regard("demo", tmp_path / "demo")
    assert again.status == 0
    assert "going on from" in again.err


def test_tasks_says_what_there_is(regard: Any) -> None:
    ended = regard("tasks")
    assert ended.status == 0
    for word in ("translation", "rnn", "transformer", "additive", "sparsemax", "window-LEFT", "regard train"):
        assert word in ended.out


@pytest.mark.parametrize("command", ["tasks", "train", "evaluate", "predict", "show", "demo"])
def test_every_command_explains_itself(regard: Any, command: str) -> None:
    ended = regard(command, "--help")
    assert ended.status == 0
    assert f"regard {command}" in ended.out


def test_the_command_alone_explains_itself(regard: Any) -> None:
    assert regard("--version").out.strip() == __version__
    assert "score/normalizer" in regard("--help").out
    assert regard().status == 0


def test_unknown_words_are_refused_with_the_nearest_known_one(refused: Callable[..., str]) -> None:
    assert 'Did you mean "train"?' in refused("trian")
    assert "Did you mean --steps?" in refused("train", "translation", "--stepz", "3")
    assert "--steps" in refused("train", "translation", "--steps", "many")
    assert '"float32", "bfloat16", "float16"' in refused("train", "translation", "--precision", "int8")
