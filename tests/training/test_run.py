"""The run directory: whole or not there, never shared, and clear about what is wrong with it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from regard import durable
from regard.errors import UserError
from regard.training import Run, TrainingSettings, checkpoints, randomness
from regard.training.checkpoints import State
from regard.training.tensors import pack, unpack


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", {"task": {"name": "copy", "words": ["日本", "ß"]}})


def test_the_config_is_read_back_as_written(run: Run) -> None:
    assert Run.open(run.path).config == {"format": 1, "task": {"name": "copy", "words": ["日本", "ß"]}}
    assert tomllib.loads((run.path / "config.toml").read_text(encoding="utf-8"))["format"] == 1


def test_an_existing_folder_is_refused_but_an_empty_one_is_taken(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run already exists: .*--resume"):
        Run.create(run.path, {})
    (tmp_path / "empty").mkdir()
    Run.create(tmp_path / "empty", {})
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="not a folder"):
        Run.create(tmp_path / "file", {})


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    Run.create(tmp_path / "run", {})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "is not a run directory: it has no config.toml"),
        (b"format = ", "config.toml is damaged"),
        (b"\xff\xfe", "config.toml is damaged"),
        (b"a = 1", "is not a run directory: its config.toml has no line 'format = 1'"),
        (b"format = 2", "is written in run format 2; this version of regard reads format 1"),
    ],
)
def test_what_is_not_a_run_is_told_in_one_sentence(
    tmp_path: Path, config: bytes | None, message: str
) -> None:
    if config is not None:
        (tmp_path / "config.toml").write_bytes(config)
    with pytest.raises(UserError, match=message):
        Run.open(tmp_path)
    with pytest.raises(UserError, match="no such run directory"):
        Run.open(tmp_path / "nothing")


def test_two_processes_never_train_into_one_run(run: Run) -> None:
    program = (
        "import sys; from regard.training import Run\n"
        "from regard.errors import UserError\n"
        "try:\n"
        "    with Run.open(sys.argv[1]).locked(): print('got it')\n"
        "except UserError as error: print(error)"
    )
    command = [sys.executable, "-c", program, str(run.path)]
    with run.locked():
        assert "in use: another process" in subprocess.run(command, capture_output=True, text=True).stdout
        with pytest.raises(UserError, match="in use"), run.locked():
            pass
    with run.locked():
        pass


def test_records_are_json_lines_and_rewind_to_a_step(run: Run) -> None:
    run.record(kind="train", step=1, loss=0.1 + 0.2)
    run.record(kind="train", step=2, loss=float("nan"))
    run.record(kind="evaluation", step=2, note="é")
    run.record(kind="train", step=3)
    with run.metrics.open("ab") as file:
        file.write(b'{"kind": "train", "st')  # a kill in the middle of a write
    assert [record["step"] for record in run.records()] == [1, 2, 2, 3]
    assert run.records()[0]["loss"] == 0.1 + 0.2
    assert run.records()[1]["loss"] is None
    run.rewind(2)
    assert [json.loads(line)["step"] for line in run.metrics.read_text(encoding="utf-8").splitlines()] == [
        1,
        2,
        2,
    ]
    run.rewind(0)
    assert run.metrics.read_bytes() == b""


def test_a_damaged_record_is_told_by_its_line(run: Run) -> None:
    run.metrics.write_text('{"kind": "train", "step": 1}\n???\n{"kind": "train", "step": 2}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2 is damaged"):
        run.records()


def full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_nothing_half_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    run.save_model(model.state_dict(), {"step": 1})
    checkpoints.save(run, State(step=1), model, optimizer, [])
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    monkeypatch.setattr(os, "fsync", full_disk)
    for write in (
        lambda: run.save_model({}, {}),
        lambda: checkpoints.save(run, State(step=1), model, optimizer, []),
        lambda: checkpoints.save(run, State(step=2), model, optimizer, []),
        lambda: Run.create(tmp_path / "other", {}),
    ):
        with pytest.raises(UserError, match="the disk is full"):
            write()
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "other").exists()


def test_a_record_that_does_not_fit_on_the_disk_is_cut_away(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.record(kind="train", step=1)
    before = run.metrics.read_bytes()
    opened = Path.open

    def open_full(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        file = opened(path, mode, 0) if mode == "ab" else opened(path, mode, *arguments, **options)
        if mode != "ab":
            return file

        class Full:
            def __enter__(self) -> Full:
                return self

            def __exit__(self, *error: object) -> None:
                file.close()

            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

            def write(self, content: bytes) -> None:
                file.write(content[:5])
                full_disk()

        return Full()

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(UserError, match=r"metrics\.jsonl: cannot be written, the disk is full"):
        run.record(kind="train", step=2)
    monkeypatch.undo()
    assert run.metrics.read_bytes() == before


def test_a_full_disk_during_training_spares_the_last_checkpoint(
    task: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = task.train(tmp_path / "whole")[2]
    sync, calls = os.fsync, []

    def fsync(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 25:
            full_disk()
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match="the disk is full"):
        task.train(tmp_path / "run", checkpoint_every=3)
    monkeypatch.undo()
    run = task.train(tmp_path / "run", resume=True, checkpoint_every=None)[2]
    assert (run.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()


def test_a_damaged_checkpoint_is_told_and_how_to_go_on(task: ModuleType, tmp_path: Path) -> None:
    run = task.train(tmp_path / "run", epochs=1)[2]
    [path] = run.checkpoints.iterdir()
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"is damaged: .*; delete that checkpoint's folder"):
        task.train(run.path, resume=True, epochs=2)
    (path / "state.json").write_text("{")
    with pytest.raises(UserError, match=r"state\.json is damaged"):
        task.train(run.path, resume=True, epochs=2)


def test_weights_of_another_model_are_told(run: Run) -> None:
    run.save_model(nn.Linear(2, 2).state_dict(), {})
    with pytest.raises(UserError, match=r"model\.safetensors does not fit the model: size mismatch"):
        run.load_model(nn.Linear(2, 2 + 1))
    with pytest.raises(UserError, match="has no model yet"):
        Run.create(run.path.with_name("new"), {}).load_model(nn.Linear(2, 2))


def test_tied_and_strided_tensors_survive_the_file(tmp_path: Path) -> None:
    weight = torch.arange(6.0).view(2, 3)
    tensors = {
        "first": weight,
        "tied": weight,
        "turned": weight.T,
        "empty": torch.zeros(0),
        "half": weight.bfloat16(),
    }
    durable.write_file(tmp_path / "file", pack(tensors))
    read = unpack(tmp_path / "file")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    assert read["tied"].data_ptr() == read["first"].data_ptr()


def test_no_file_of_a_run_is_a_pickle(task: ModuleType, tmp_path: Path) -> None:
    run = task.train(tmp_path / "run", epochs=1)[2]
    kinds = {path.suffix for path in run.path.rglob("*") if path.is_file()}
    assert kinds == {"", ".toml", ".json", ".jsonl", ".safetensors"}  # "" is the lock


def test_random_states_go_through_json() -> None:
    import random

    import numpy as np

    cpu = torch.device("cpu")

    def draw() -> list[float]:
        return [random.gauss(0, 1), float(np.random.randn()), float(torch.randn(()))]

    randomness.seed(3)
    draw()  # leaves half a pair of Gaussians in each generator
    states = json.loads(json.dumps(randomness.state(cpu)))
    with randomness.kept(cpu):
        expected = draw()
    assert draw() == expected
    randomness.restore(states, cpu)
    assert draw() == expected
    randomness.seed(3, rank=1)
    assert draw() != expected


def test_what_is_kept_of_the_checkpoints(run: Run) -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    for step, metric in enumerate([5.0, 1.0, float("nan"), 2.0, 3.0], start=1):
        checkpoints.save(run, State(step=step, evaluated=step, metric=metric), model, optimizer, [])
    checkpoints.save(run, State(step=6, evaluated=5, metric=3.0), model, optimizer, [])  # by the clock
    checkpoints.prune(run, TrainingSettings(keep=1, average=2), higher_is_better=False)
    assert [path.name for path in checkpoints.listed(run)] == ["step-000002", "step-000004", "step-000006"]
