"""A tiny data set, one run trained on it for all tests, and a command line to call."""

from __future__ import annotations

import itertools
import os
import random
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from regard.cli import main

RECIPES = tomllib.loads((Path(__file__).parents[1] / "recipes.toml").read_text(encoding="utf-8"))
KANA, NUMERALS = "いにさよごろ", "一二三四五六"
COMMAND = [sys.executable, "-m", "regard"]


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it said."""

    status: int
    out: str
    err: str


Call = Callable[..., Ended]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def regard(capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line, in this process."""

    def call(*arguments: object) -> Ended:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return Ended(status, *capsys.readouterr())

    return call


@pytest.fixture
def refused(regard: Call) -> Callable[..., str]:
    """A command that must be refused with one sentence, which is returned."""

    def call(*arguments: object) -> str:
        ended = regard(*arguments)
        assert ended.status == 2, ended
        assert ended.out == ""
        assert ended.err.startswith("regard: ")
        assert ended.err.count("\n") == 1
        assert "Traceback" not in ended.err
        return ended.err

    return call


@pytest.fixture(scope="session")
def numerals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of Japanese syllables to read as Chinese numerals: いにさ -> 一二三; unseen ones to judge by."""
    folder = tmp_path_factory.mktemp("numerals")
    every = [places for length in (1, 2, 3) for places in itertools.product(range(6), repeat=length)]
    chosen = random.Random(0).sample(every, 250)
    lines = [
        f"{''.join(KANA[place] for place in places)}\t{''.join(NUMERALS[place] for place in places)}\n"
        for places in chosen
    ]
    (folder / "train.tsv").write_text("".join(lines[:200]), encoding="utf-8")
    (folder / "valid.tsv").write_text("".join(lines[200:]), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared settings of the recipes for numerals."""
    path = tmp_path_factory.mktemp("config") / "numerals.toml"
    path.write_text(tomli_w.dumps(RECIPES["config"]["numerals"]), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(numerals: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The run of a recipe by its number, trained when first asked for; not to be written to."""
    made: dict[int, Path] = {}

    def run(number: int) -> Path:
        if number not in made:
            path = tmp_path_factory.mktemp("runs") / "run"
            words = shlex.split(RECIPES["recipe"][number]["command"])
            before = torch.get_num_threads()
            assert main([word.format(data=numerals, config=config, run=path) for word in words]) == 0
            torch.set_num_threads(before)
            made[number] = path
        return made[number]

    return run


@pytest.fixture(scope="session")
def run(trained: Callable[[int], Path]) -> Path:
    """A run with additive attention; not to be written to."""
    return trained(0)


@pytest.fixture
def own_run(run: Path, tmp_path: Path) -> Path:
    """A copy of it, to do anything with."""
    return Path(shutil.copytree(run, tmp_path / "own-run"))


@pytest.fixture
def tiny_train(numerals: Path, config: Path, tmp_path: Path) -> list[Any]:
    """The beginning of a command that trains a few steps into `tmp_path / "new"`."""
    return ["train", "translation", "--data", numerals, "--config", config, "--run", tmp_path / "new"]


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """The environment of subprocesses: one thread, warnings as loud as they are."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
