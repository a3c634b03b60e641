"""`regard show`: where a run looked, in the terminal and as pictures."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regard.cli.show import file_stem


def test_it_draws_in_the_terminal_and_as_three_files(regard: Any, run: Path, tmp_path: Path) -> None:
    ended = regard("show", run, "いにさ", "--output", tmp_path / "pictures", "--width", "60")
    assert ended.status == 0
    for label in (*"いにさ", *"一二三", "■"):
        assert label in ended.out
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        "いにさ.png",
        "いにさ.svg",
        "いにさ.html",
    }
    assert (tmp_path / "pictures/いにさ.png").read_bytes().startswith(b"\x89PNG")
    for suffix in ("svg", "html"):
        text = (tmp_path / f"pictures/いにさ.{suffix}").read_text(encoding="utf-8")
        assert "に" in text
        assert "二" in text


def test_it_looked_where_it_had_to(regard: Any, run: Path, tmp_path: Path) -> None:
    from regard.tasks.experiment import Trained

    trained = Trained.open(run)
    [picture] = trained.task.pictures(trained.model, "いろご", layer=None, head=None)
    assert picture.weights.shape == (4, 3)
    assert picture.weights.sum(1) == pytest.approx([1.0] * 4, abs=1e-5)
    assert picture.source == ("い", "ろ", "ご")
    assert picture.target == ("一", "六", "五", "■")


def test_an_answer_is_forced_and_a_head_chosen(
    regard: Any, trained: Callable[[int], Path], tmp_path: Path
) -> None:
    transformer = trained(3)
    ended = regard(
        "show", transformer, "いに", "--answer", "五五五", "--layer", "1", "--head", "2", "--output", tmp_path
    )
    assert ended.status == 0
    assert "いに → 五五五" in ended.out
    assert "head 2 of 2" in ended.out
    assert (tmp_path / "いに.layer1.head2.svg").exists()
    assert "mean of 2 heads" in regard("show", transformer, "いに", "--output", tmp_path).out


def test_pictures_go_into_the_run_by_default(regard: Any, own_run: Path) -> None:
    assert regard("show", own_run, "ろ").status == 0
    assert (own_run / "pictures/ろ.png").exists()


def test_bad_input_is_refused(
    refused: Callable[..., str], run: Path, trained: Callable[[int], Path], tmp_path: Path
) -> None:
    assert "no attention to show" in refused("show", trained(2), "いに")
    assert not (trained(2) / "pictures").exists()
    assert "the text is empty" in refused("show", run, "  ")
    assert "there is no layer 2: the model has 1" in refused("show", run, "い", "--layer", "2")
    assert "there is no head 0" in refused("show", run, "い", "--head", "0")
    assert "--width must be at least 20" in refused("show", run, "い", "--width", "3")
    assert "has 600 tokens; at most 512" in refused("show", run, "い" * 600)
    assert "has 600 tokens; at most 512" in refused("show", run, "い", "--answer", "一" * 600)
    (tmp_path / "file").touch()
    assert "--output takes a folder" in refused("show", run, "い", "--output", tmp_path / "file")
    assert "--output takes a folder" in refused("show", run, "い", "--output", tmp_path / "file/in")


def test_a_full_disk_leaves_no_half_picture(
    regard: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    ended = regard("show", run, "い", "--output", tmp_path)
    assert ended.status == 2
    assert ended.err == f"regard: cannot write {tmp_path / 'い.png'}: No space left on device\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "stem"),
    [
        ("二〇二六年三月三日", "二〇二六年三月三日"),
        ("a/b\\c:d", "a-b-c-d"),
        ("..", "alignment"),
        ("年" * 99, "年" * 26),
    ],
)
def test_names_of_files_are_safe_and_short(text: str, stem: str) -> None:
    assert file_stem(text) == stem
