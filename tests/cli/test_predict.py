"""`regard predict`: answers to a file, to standard input, to a text; the best or the n best."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regard import durable

LINES = "いにさ\n\nろ\n  \nよご"
ANSWERS = ["一二三", "", "六", "", "四五"]


def test_a_file_is_answered_line_by_line(regard: Any, run: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_text(LINES, encoding="utf-8")
    assert regard("predict", run, tmp_path / "in").out.splitlines() == ANSWERS
    ended = regard("predict", run, tmp_path / "in", "--output", tmp_path / "out")
    assert ended.out == ""
    assert (tmp_path / "out").read_text(encoding="utf-8") == "".join(f"{one}\n" for one in ANSWERS)


@pytest.mark.parametrize("place", [[], ["-"]])
@pytest.mark.parametrize("form", ["plain", "marked, with carriage returns"])
def test_standard_input_is_answered_like_a_file(
    regard: Any, run: Path, monkeypatch: pytest.MonkeyPatch, place: list[str], form: str
) -> None:
    text = LINES if form == "plain" else "\ufeff" + LINES.replace("\n", "\r\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert regard("predict", run, *place).out.splitlines() == ANSWERS


def test_many_lines_keep_their_order(regard: Any, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [("い", "一"), ("にさ", "二三"), ("よごろ", "四五六")] * 200
    text = "".join(f"{source}\n" for source, _ in pairs)
    monkeypatch.setattr("regard.cli.predict.BLOCK", 100)  # cuts lines and characters anywhere
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert regard("predict", run).out.splitlines() == [target for _, target in pairs]


def test_nothing_in_nothing_out(
    regard: Any, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    assert regard("predict", run).out == ""
    (tmp_path / "in").touch()
    assert regard("predict", run, tmp_path / "in", "--output", tmp_path / "out").status == 0
    assert (tmp_path / "out").read_bytes() == b""


def test_the_n_best_are_ordered_distinct_and_begin_with_the_best(
    regard: Any, run: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").write_text(LINES, encoding="utf-8")
    best = regard("predict", run, tmp_path / "in", "--beam", "4").out.splitlines()
    rows = [
        line.split("\t")
        for line in regard("predict", run, tmp_path / "in", "--beam", "4", "--n-best", "3").out.splitlines()
    ]
    assert [place for place, _, _ in rows] == ["1"] * 3 + ["2"] + ["3"] * 3 + ["4"] + ["5"] * 3
    for place, answer in enumerate(best, 1):
        mine = [(float(score), text) for number, score, text in rows if int(number) == place]
        assert mine[0][1] == answer
        assert mine == sorted(mine, key=lambda one: -one[0])
        assert len({text for _, text in mine}) == len(mine)
    assert regard("predict", run, tmp_path / "in", "--n-best", "4").out.splitlines()[:3] == [
        "\t".join(row) for row in rows[:3]
    ], "without --beam the beam is as wide as --n-best asks for"
    assert best == ANSWERS


def test_bad_input_is_refused(
    refused: Callable[..., str], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no such run directory" in refused("predict", tmp_path / "no")
    assert "for a text itself use --text" in refused("predict", run, tmp_path / "no")
    assert "Is a directory" in refused("predict", run, tmp_path)
    assert "keeps 2 answers" in refused("predict", run, "--text", "い", "--beam", "2", "--n-best", "3")
    assert "beam is 0; at least 1" in refused("predict", run, "--text", "い", "--beam", "0")
    assert "may change: beam, length_penalty" in refused(
        "predict", run, "--text", "い", "--set", "tokens=bpe"
    )
    assert "expected field=value" in refused("predict", run, "--text", "い", "--set", "beam")
    assert "--n-best must be at least 1" in refused("predict", run, "--n-best", "0")
    assert "finite" in refused("predict", run, "--text", "い", "--length-penalty", "nan")
    assert "not both" in refused("predict", run, tmp_path / "in", "--text", "い")
    assert "--output" in refused("predict", run, "--text", "い", "--output", tmp_path)
    (tmp_path / "in").write_text("い\n" + "い" * 513 + "\n", encoding="utf-8")
    said = refused("predict", run, tmp_path / "in", "--output", tmp_path / "out")
    assert f"{tmp_path / 'in'}, line 2: the source has 513 tokens; at most 512" in said
    (tmp_path / "in").write_bytes(b"a\nb\n\xff\n")
    assert f"{tmp_path / 'in'}, line 3: not UTF-8 (byte 0xff)" in refused("predict", run, tmp_path / "in")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xe4\n")))
    assert "standard input, line 1: not UTF-8" in refused("predict", run)
    assert not (tmp_path / "out").exists()


def test_an_unreadable_file_is_named(
    refused: Callable[..., str], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "in").touch()
    monkeypatch.setattr(Path, "read_bytes", denied)
    assert f"{tmp_path / 'in'}: cannot be read (Permission denied)" in refused(
        "predict", run, tmp_path / "in"
    )


def test_a_full_disk_leaves_the_old_answers(
    refused: Callable[..., str], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").write_text("old", encoding="utf-8")

    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable, "_write", full)
    assert "the disk is full" in refused("predict", run, "--text", "い", "--output", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_text(encoding="utf-8") == "old"
