"""Runs keep how they write: placeholders, unknown characters, beginnings and draws go from settings to answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def pairs(numerals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The numerals, every other line with a placeholder in the middle of its words."""
    folder = tmp_path_factory.mktemp("placeholders")
    for name in ("train.tsv", "valid.tsv"):
        lines = (numerals / name).read_text(encoding="utf-8").splitlines()
        for place, line in enumerate(lines[::2]):
            source, target = line.split("\t")
            lines[2 * place] = f"{source[:1]}<url>{source[1:]}\t{target[:1]}<url>{target[1:]}"
        (folder / name).write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_placeholders_are_learnt_carried_over_and_remembered(
    regard: Callable[..., Any], pairs: Path, config: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = ["train", "translation", "--data", pairs, "--config", config, "--run", run, "--steps", 170]
    ended = regard(*command, "--set", 'translation.placeholders=["<url>"]')
    assert ended.status == 0, ended.err
    assert 'placeholders = [\n    "<url>",\n]' in (run / "config.toml").read_text(encoding="utf-8")
    (tmp_path / "in.txt").write_text("い<url>に\nさに\nに<url>い\n", encoding="utf-8")
    assert regard("predict", run, tmp_path / "in.txt").out.splitlines() == ["一<url>二", "三二", "二<url>一"]


def test_answers_are_drawn_and_begun_as_the_run_s_settings_say(
    regard: Callable[..., Any], own_run: Path, tmp_path: Path
) -> None:
    def answers(**settings: object) -> list[str]:
        flags = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        ended = regard("predict", own_run, "--text", "いにさ", "--n-best", 4, *flags)
        assert ended.status == 0, ended.err
        return [line.split("\t")[2] for line in ended.out.splitlines()]

    searched = answers()
    assert searched[0] == "一二三"
    drawn = answers(temperature=30.0)
    assert drawn == answers(temperature=30.0) != searched
    assert answers(temperature=30.0, seed=1) != drawn
    assert all(answer.startswith("二一") for answer in answers(prefix='"二一"'))
