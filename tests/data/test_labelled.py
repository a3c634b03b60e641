"""Labelled texts: every format gives the same examples, and what is wrong is named with file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from regard.data import Labelled, read_labelled
from regard.errors import UserError

ROWS = [("a fine film", "good"), ("糟糕，的 film", "bad"), ('it said "no"', "bad"), ("no, not so", "good")]


def pairs(examples: list[Labelled]) -> list[tuple[str, str]]:
    return [(one.text, one.label) for one in examples]


def table(separator: str, head: str = "") -> str:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if separator == "," else text

    return head + "".join(f"{label}{separator}{cell(text)}\n" for text, label in ROWS)


FORMATS = {
    "train.tsv": table("\t"),
    "train.txt": table("\t", "label\ttext_a\n"),
    "train.csv": table(",", "Sentiment,Review\n"),
    "train.no-header.csv": table(","),
    "train.jsonl": "".join(
        json.dumps({"id": 7, "label": label, "text": text}) + "\n" for text, label in ROWS
    ),
    "stsa.binary.train": "".join(f"{label} {text}\n" for text, label in ROWS),
    "train.blank-lines": "".join(f"\n{label} {text}\r\n" for text, label in ROWS),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("compressed", [False, True])
def test_every_format_says_the_same(name: str, compressed: bool, tmp_path: Path) -> None:
    data = FORMATS[name].encode()
    (tmp_path / (name + ".gz" * compressed)).write_bytes(gzip.compress(data) if compressed else data)
    (tmp_path / "dev.jsonl").write_text('{"text": "x", "label": 1}\n')
    splits = read_labelled([tmp_path])
    assert pairs(splits["train"]) == ROWS
    assert pairs(splits["valid"]) == [("x", "1")]
    assert splits["train"][0].origin.startswith(str(tmp_path / name))


def test_columns_and_fields_may_be_named_or_numbered(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text(
        "id\tsaid\tkind\n" + "".join(f"{n}\ttext {n}\tk{n % 2}\n" for n in range(40))
    )
    named = read_labelled([tmp_path / "a.tsv"], "said", "kind")
    assert sorted(pairs(named["train"] + named["valid"])) == sorted(
        (f"text {n}", f"k{n % 2}") for n in range(40)
    )
    (tmp_path / "b.tsv").write_text("".join(f"{n}\tk{n % 2}\ttext {n}\n" for n in range(40)))
    numbered = read_labelled([tmp_path / "b.tsv"], "3", "2")
    assert pairs(numbered["train"]) == pairs(named["train"])
    (tmp_path / "c.jsonl").write_text(
        "".join(json.dumps({"s": f"text {n}", "k": n % 2}) + "\n" for n in range(40))
    )
    assert len(read_labelled([tmp_path / "c.jsonl"], "s", "k")["train"]) == len(named["train"])


def test_a_directory_has_parts_and_several_test_sets(tmp_path: Path) -> None:
    for name in ("train.tsv", "dev.tsv", "test.tsv", "test2.tsv", "test_hard.tsv", "readme.md"):
        (tmp_path / name).write_text(f"good\t{name} a\nbad\t{name} b\n")
    splits = read_labelled([tmp_path])
    assert list(splits) == ["train", "valid", "test", "test_hard"]
    assert pairs(splits["test_hard"])[0] == ("test_hard.tsv a", "good")


def test_held_out_texts_are_in_no_other_part_and_the_same_each_time(tmp_path: Path) -> None:
    (tmp_path / "all.tsv").write_text("".join(f"k{n % 2}\ttext {n % 150}\n" for n in range(300)))
    splits = read_labelled([tmp_path / "all.tsv"])
    train, valid = ({one.text for one in splits[name]} for name in ("train", "valid"))
    assert not train & valid
    assert 5 < len(valid) < 30
    assert pairs(read_labelled([tmp_path / "all.tsv"])["valid"]) == pairs(splits["valid"])


WRONG: dict[str, tuple[str, str]] = {
    "broken.jsonl": ('{"text": "a", "label": 1}\n{"text": "b", "label"\n', r"broken.jsonl, line 2: not JSON"),
    "list.jsonl": ('{"text": "a", "label": 1}\n[1]\n', r"list.jsonl, line 2: '\[1\]' is no object"),
    "field.jsonl": (
        '{"text": "a", "labl": 1}\n',
        r"line 1: a field for the label .* is missing; there are: text, labl",
    ),
    "short.tsv": (
        "good\ta text\nbad\n",
        r"short.tsv, line 2: it has 1 column; a text and a label are expected",
    ),
    "header.tsv": ("label\ttext\ngood\n", r"header.tsv, line 2: it has 1 columns; at least 2 are expected"),
    "quote.csv": ('label,text\ngood,"a\n', r"quote.csv, line 3: not a table"),
    "empty.tsv": ("\n\n", r"empty.tsv: there are no examples"),
    "nothing.txt": (
        "good a\nbad\n",
        r"nothing.txt: 1 of 2 examples cannot be used: line 2: it has no text .*--skip-bad",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name: str, tmp_path: Path) -> None:
    content, message = WRONG[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_labelled([tmp_path / name])


def test_bytes_columns_folders_and_missing_files(tmp_path: Path) -> None:
    def refused(message: str, *arguments: str, paths: list[Path]) -> None:
        with pytest.raises(UserError, match=message):
            read_labelled(paths, *arguments)

    (tmp_path / "a.tsv").write_bytes(b"good\ta\nbad\t\xff\n")
    refused(r"a.tsv, line 2: not UTF-8 \(byte 0xff\)", paths=[tmp_path / "a.tsv"])
    (tmp_path / "b.tsv").write_text("kind\tsaid\ngood\ta\n")
    refused(
        r"b.tsv, line 1: there is no column 'says'; there are: kind, said", "says", paths=[tmp_path / "b.tsv"]
    )
    refused("no such file", paths=[tmp_path / "c.tsv"])
    refused("no file whose name says train", paths=[tmp_path])
    for name in ("train.tsv", "train.csv"):
        (tmp_path / name).write_text("good\ta\n")
    refused(r"several train files: train.csv, train.tsv", paths=[tmp_path])
    (tmp_path / "d.tsv").write_text("good\ta\n")
    refused(r"too few to hold some out", paths=[tmp_path / "d.tsv"])


def test_bad_examples_may_be_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train.txt").write_text("good a\nbad\nbad b\n")
    (tmp_path / "dev.txt").write_text("good c\n")
    assert pairs(read_labelled([tmp_path], skip_bad=True)["train"]) == [("a", "good"), ("b", "bad")]
    assert "1 of 3 examples cannot be used" in capsys.readouterr().err
