"""`report.html`: one offline page that tells what a run did."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from regard.errors import UserError
from regard.tasks.experiment import Experiment, Trained, resume, train
from regard.tasks.report import write_report


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """A few steps with attention and without."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("report")
    lines = [f"{a}{b}\t{chr(0x4E00 + a)}{chr(0x4E00 + b)}\n" for a in range(10) for b in range(10)]
    (folder / "a.tsv").write_text("".join(lines), encoding="utf-8")
    paths = []
    for attention in ("additive/softmax", "none"):
        changes = {
            "translation": {"tokens": "characters", "metric": "exact_match", "beam": 2},
            "rnn": {"embedding_size": 8, "hidden_size": 8, "attention": attention},
            "training": {"steps": 2, "record_every": 1},
        }
        experiment = Experiment.resolve("translation", data=[folder / "a.tsv"], changes=changes)
        paths.append(folder / attention.split("/")[0])
        train(experiment, paths[-1], quiet=True)
    yield paths
    torch.set_num_threads(before)


def test_it_is_one_offline_page_about_the_run(runs: list[Path]) -> None:
    (found,) = write_report(runs[0])
    assert set(found) == {"valid"}
    page = (runs[0] / "report.html").read_text(encoding="utf-8")
    for part in ("exact_match", "parameters", "Where it looked", "hidden_size", "regard train translation"):
        assert part in page
    for loaded in ('src="http', "src='http", 'href="http', "url(http", "@import", "<link"):
        assert loaded not in page


def test_runs_are_shown_side_by_side(runs: list[Path], tmp_path: Path) -> None:
    write_report(runs[0], beside=runs[1:], to=tmp_path / "both.html", look_at=["12"], title="Both & more")
    page = (tmp_path / "both.html").read_text(encoding="utf-8")
    assert "Both &amp; more" in page
    assert "rnn additive/softmax" in page
    assert "rnn none" in page


def test_a_run_without_attention_has_a_report_without_pictures(runs: list[Path]) -> None:
    write_report(runs[1])
    assert "Where it looked" not in (runs[1] / "report.html").read_text(encoding="utf-8")


def test_a_trained_run_opens_by_itself(runs: list[Path]) -> None:
    trained = Trained.open(runs[0])
    assert not trained.model.training
    assert trained.experiment.model["source_vocabulary"] == len(trained.task.source)
    answers = trained.task.predict(trained.model, ["12", "", "3"], n_best=2, where="here")
    assert answers[1].text == ""
    assert [len(answer.others) for answer in answers] == [2, 0, 2]
    with pytest.raises(UserError, match="here, line 8: the source has 600 tokens"):
        trained.task.predict(trained.model, ["1", "2" * 600], where="here", first=7)


def test_resuming_a_finished_run_changes_nothing(runs: list[Path]) -> None:
    weights = (runs[0] / "model.safetensors").read_bytes()
    assert resume(runs[0], quiet=True).step == 2
    assert (runs[0] / "model.safetensors").read_bytes() == weights


def test_training_that_fails_at_once_leaves_no_run(tmp_path: Path, runs: list[Path]) -> None:
    data = [runs[0].parent / "a.tsv"]
    broken = Experiment.resolve(
        "translation", data=data, changes={"training": {"steps": 2, "device": "cudda"}}
    )
    with pytest.raises(UserError, match="device is 'cudda'"):
        train(broken, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_metric_that_is_no_share_has_a_report_too(runs: list[Path], tmp_path: Path) -> None:
    """BLEU goes to 100: it has no interval of a share."""
    table = (runs[0] / "config.toml").read_text(encoding="utf-8")
    copy = tmp_path / "bleu"
    shutil.copytree(runs[0], copy)
    (copy / "config.toml").write_text(table.replace('"exact_match"', '"bleu"'), encoding="utf-8")
    write_report(copy)
    assert "bleu by length of the input" in (copy / "report.html").read_text(encoding="utf-8")
