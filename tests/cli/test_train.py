"""`regard train`: settings in, a run directory out, and on again after an interruption."""

from __future__ import annotations

import errno
import json
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regard import durable
from regard.data import Vocabulary

CLOCK = ("seconds", "tokens_per_second")


def recorded(run: Path) -> list[dict[str, Any]]:
    """The records without what the clock says."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in CLOCK} for line in lines]


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_settings_are_printed_and_read_back(regard: Any, numerals: Path, tmp_path: Path) -> None:
    flags = ["--data", numerals, "--attention", "cosine/sparsemax", "--set", "rnn.cell=lstm", "--steps", "7"]
    first = regard("train", "translation", *flags, "--source", "1", "--target", "2", "--settings")
    table = tomllib.loads(first.out)
    assert table["rnn"]["attention"] == "cosine/sparsemax"
    assert table["rnn"]["cell"] == "lstm"
    assert (table["translation"]["source"], table["translation"]["target"]) == ("1", "2")
    assert table["training"]["steps"] == 7
    assert "epochs" not in table["training"], "the budget that was asked for replaces the recipe's"
    (tmp_path / "settings.toml").write_text(first.out, encoding="utf-8")
    assert regard("train", "--config", tmp_path / "settings.toml", "--settings").out == first.out
    changed = regard("train", "--config", tmp_path / "settings.toml", "--source", "2", "--settings").out
    assert tomllib.loads(changed)["translation"]["source"] == "2"
    assert not (tmp_path / "runs").exists()


def test_the_config_of_a_run_makes_the_same_run_again(regard: Any, run: Path, tmp_path: Path) -> None:
    assert regard("train", "--config", run / "config.toml", "--run", tmp_path / "again").status == 0
    assert recorded(tmp_path / "again") == recorded(run)
    for name in ("config.toml", "model.safetensors", "tokenizer.source.json"):
        assert (tmp_path / "again" / name).read_bytes() == (run / name).read_bytes()


def test_the_config_of_a_run_serves_another_model(regard: Any, run: Path) -> None:
    table = tomllib.loads(
        regard("train", "--config", run / "config.toml", "--model", "transformer", "--settings").out
    )
    assert table["model"] == "transformer"
    assert "rnn" not in table
    assert table["training"]["max_tokens"] == 320


def test_a_run_is_named_after_its_model_and_mechanism(
    regard: Any, tiny_train: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = tiny_train.index("--run")
    assert regard(*tiny_train[:place], "--steps", "2", "--attention", "dot/top-2").status == 0
    assert (tmp_path / "runs/translation-rnn-dot-top-2/report.html").exists()


def test_interrupted_and_resumed_is_the_uninterrupted_run(
    regard: Any, tiny_train: list[Any], tmp_path: Path, environment: dict[str, str]
) -> None:
    flags = [*tiny_train, "--steps", "110", "--set", "training.record_every=5"]
    flags += ["--set", "rnn.dropout=0.1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "regard", *map(str, flags)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    metrics = tmp_path / "new/metrics.jsonl"
    until = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert f"go on with: regard train --resume {tmp_path / 'new'}" in err
    stopped = int(re.findall(r"stopped after step (\d+)", err)[0])
    assert stopped < 110
    assert regard("train", "--resume", tmp_path / "new").status == 0
    whole = [tmp_path / "whole" if one == tmp_path / "new" else one for one in flags]
    assert regard(*whole).status == 0
    assert recorded(tmp_path / "new") == recorded(tmp_path / "whole")
    assert (tmp_path / "new/model.safetensors").read_bytes() == (
        tmp_path / "whole/model.safetensors"
    ).read_bytes()
    assert (tmp_path / "new/report.html").exists()


def test_resuming_with_more_steps_goes_on(regard: Any, own_run: Path) -> None:
    before = len(recorded(own_run))
    assert regard("train", "--resume", own_run, "--steps", "145").status == 0
    assert recorded(own_run)[before:]
    assert recorded(own_run)[-1]["step"] == 145


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["translation"], "leave out task"),
        (["--attention", "none", "--seed", "3"], "leave out --attention, --seed"),
        (["--data", "x.tsv"], "leave out --data"),
        (["--set", "rnn.hidden_size=3"], "'rnn' cannot be changed"),
        (["--set", "training.clip=3"], "'clip' cannot be changed, only epochs, steps, seconds"),
        (["--steps", "0"], "steps is 0"),
    ],
)
def test_resuming_keeps_the_settings(
    refused: Callable[..., str], own_run: Path, flags: list[str], said: str
) -> None:
    assert said in refused("train", *flags, "--resume", own_run)


def test_resuming_with_other_data_is_refused(
    regard: Any, refused: Callable[..., str], tmp_path: Path, numerals: Path, config: Path
) -> None:
    lines = (numerals / "train.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    data = tmp_path / "data.tsv"
    data.write_text("".join(lines), encoding="utf-8")
    flags = ["--data", data, "--config", config, "--run", tmp_path / "new", "--steps", "2"]
    assert regard("train", "translation", *flags).status == 0
    data.write_text("".join(lines[:-1]) + "い\t六\n", encoding="utf-8")
    assert "data have changed" in refused("train", "--resume", tmp_path / "new", "--steps", "4")
    data.unlink()
    assert "no such file" in refused("train", "--resume", tmp_path / "new", "--steps", "4")


@pytest.mark.parametrize("what", ["config.toml", "tokenizer"])
def test_a_disk_that_is_full_from_the_start_leaves_no_run(
    refused: Callable[..., str],
    tiny_train: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    if what == "tokenizer":
        monkeypatch.setattr(Vocabulary, "save", full)
    else:
        monkeypatch.setattr(durable, "_write", full)
    said = refused(*tiny_train, "--steps", "2")
    assert "disk is full" in said or "no space left" in said
    assert not (tmp_path / "new").exists()


def test_a_disk_that_fills_up_leaves_a_run_to_go_on_with(
    regard: Any,
    tiny_train: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = durable._write

    def filling(path: Path, content: bytes) -> None:
        if "step-000002" in str(path) and path.name == "optimizer.safetensors":
            full()
        write(path, content)

    flags = [*tiny_train, "--set", "training.evaluate_every=1", "--steps", "3"]
    with monkeypatch.context() as patch:
        patch.setattr(durable, "_write", filling)
        ended = regard(*flags)
    assert ended.status == 2
    assert ended.err.splitlines()[-1].startswith("regard: ")
    assert f"the disk is full; nothing half-written was left behind; then go on with: regard train --resume {tmp_path / 'new'}" in ended.err  # fmt: skip  # noqa: E501
    assert [path.name for path in (tmp_path / "new/checkpoints").iterdir()] == ["step-000001"]
    assert regard("predict", tmp_path / "new", "--text", "いに").status == 0
    assert regard("train", "--resume", tmp_path / "new").status == 0
    assert recorded(tmp_path / "new")[-1]["step"] == 3


def test_training_never_takes_a_folder_that_is_in_use(
    refused: Callable[..., str], tiny_train: list[Any], run: Path, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    place = tiny_train.index("--run")
    assert "already exists" in refused(*tiny_train[:place], "--run", run, "--steps", "2")
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    (tmp_path / "file").touch()
    assert "not a folder" in refused(*tiny_train[:place], "--run", tmp_path / "file", "--steps", "2")
