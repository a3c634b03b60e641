"""Documents and summaries: every form of file, several references, and a clear sentence for every mistake."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from regard.data import Pair
from regard.data.docstrings import sample_docstrings
from regard.data.documents import read_documents, read_sources
from regard.errors import UserError


def jsonl(path: Path, *records: Any) -> Path:
    text = "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def folder_of(path: Path, *records: Any) -> Path:
    """A folder whose training part is the records, with a valid part that is always good."""
    jsonl(path / "train.jsonl", *records)
    jsonl(path / "valid.jsonl", *({**record, **GOOD} for record in records[:1]))
    return path


GOOD = {"text": "v w", "summary": "v"}
RECORD = {"text": "It rains.", "summary": "Rain"}


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("source", "target"), ("text", "summary"), ("document", "summary"), ("body", "subject"),
        ("article", "highlights"), ("content", "title"), ("dialogue", "headline"),
    ],
)  # fmt: skip
def test_fields_have_usual_names(tmp_path: Path, source: str, target: str) -> None:
    jsonl(tmp_path / "train.jsonl", {"id": "7", target: "Rain", source: "It rains."})
    jsonl(tmp_path / "valid.jsonl", {source: "It pours.", target: "Rain"})
    assert read_documents([tmp_path]).train == [Pair("It rains.", "Rain", "train.jsonl:1")]


def test_fields_may_be_named(tmp_path: Path) -> None:
    record = {"text": "long", "summary": "short", "title": "shorter"}
    folder = folder_of(tmp_path, record)
    assert read_documents([folder]).train[0].target == "short"
    assert read_documents([folder], "summary", "title").train[0] == Pair("short", "shorter", "train.jsonl:1")
    with pytest.raises(
        UserError, match=r"train\.jsonl: no field body for the source; there are text, summary, title"
    ):
        read_documents([folder], "body")


def test_sentences_are_joined_and_space_is_single(tmp_path: Path) -> None:
    folder_of(tmp_path, {"text": ["It  rains.", "It\n\npours."], "summary": " Much\train "})
    (pair,) = read_documents([tmp_path]).train
    assert (pair.source, pair.target) == ("It rains. It pours.", "Much rain")


def test_several_references_are_kept(tmp_path: Path) -> None:
    record = {
        "source": ["a", "b"],
        "target": ["one", "two", ""],
        "ann0": "three",
        "ann1": "",
        "references": ["four"],
    }
    jsonl(tmp_path / "train.jsonl", record)
    jsonl(tmp_path / "dev.jsonl", {"source": "a", "target": [["one.", "two."], "three"]})
    splits = read_documents([tmp_path])
    assert splits.train == [Pair("a b", "one", "train.jsonl:1", ("two", "three", "four"))]
    assert splits.valid == [Pair("a", "one. two.", "dev.jsonl:1", ("three",))]


def test_a_target_is_not_its_own_further_reference(tmp_path: Path) -> None:
    folder_of(tmp_path, {"text": "a", "summary": "b", "summary2": "c", "rouge": "d", "title": "e"})
    assert read_documents([tmp_path]).train[0].others == ("c",)


@pytest.mark.parametrize("name", ["valid", "val", "dev", "validation"])
def test_a_folder_has_parts(tmp_path: Path, name: str) -> None:
    jsonl(tmp_path / "train-1.jsonl.gz", {"text": "a", "summary": "A"})
    jsonl(tmp_path / "train-2.jsonl", {"text": "b", "summary": "B"})
    jsonl(tmp_path / f"{name}.jsonl.gz", {"text": "c", "summary": "C"})
    jsonl(tmp_path / "test-one.jsonl", {"text": "d", "summary": "D"})
    jsonl(tmp_path / "test-two.jsonl", {"text": "e", "summary": "E"})
    (tmp_path / "README.md").write_text("no data")
    splits = read_documents([tmp_path])
    assert [pair.source for pair in splits.train] == ["a", "b"]
    assert [pair.source for pair in splits.valid] == ["c"]
    assert {name: [pair.source for pair in pairs] for name, pairs in splits.test.items()} == {
        "test-one": ["d"], "test-two": ["e"],
    }  # fmt: skip


def test_tables_and_parallel_text_and_arrays_are_read_too(tmp_path: Path) -> None:
    rows = [(f"document {n}", f"summary {n}") for n in range(40)]
    files = {
        "a.tsv": "".join(f"{left}\t{right}\tmore\n" for left, right in rows),
        "b.tsv": "id\tsummary\ttext\n"
        + "".join(f"{n}\t{right}\t{left}\n" for n, (left, right) in enumerate(rows)),
        "c.source": "".join(f"{left}\n" for left, _ in rows),
        "c.target": "".join(f"{right}\r\n" for _, right in rows),
        "d.json": json.dumps([{"text": left, "summary": right} for left, right in rows], indent=1),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    (tmp_path / "e.tsv.gz").write_bytes(gzip.compress(files["a.tsv"].encode()))
    for paths in (
        ["a.tsv"],
        ["b.tsv"],
        ["c.source", "c.target"],
        ["c.target", "c.source"],
        ["d.json"],
        ["e.tsv.gz"],
    ):
        splits = read_documents([tmp_path / path for path in paths])
        assert len(splits.valid) == 2
        assert {(pair.source, pair.target) for pair in (*splits.train, *splits.valid)} == set(rows)
    swapped = read_documents([tmp_path / "a.tsv"], "2", "1")
    assert all(pair.source.startswith("summary") for pair in swapped.train)


def test_parts_of_parallel_files(tmp_path: Path) -> None:
    for name in ("train", "val"):
        (tmp_path / f"{name}.source").write_text(f"{name} text\n")
        (tmp_path / f"{name}.target").write_text(f"{name}\n")
    splits = read_documents([tmp_path])
    assert splits.train == [Pair("train text", "train", "train.source:1")]
    assert splits.valid == [Pair("val text", "val", "val.source:1")]


def test_broken_json_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "summary": "b"}\n\n{"text": "a", "summary"\n')
    with pytest.raises(UserError, match=r"a\.jsonl, line 3: not JSON"):
        read_documents([path], skip_bad=True)
    path.write_text('["text"]\n')
    with pytest.raises(UserError, match=r"a\.jsonl, line 1: an object of fields is expected"):
        read_documents([path])
    (tmp_path / "b.json").write_text('[{"text": "a",\n "summary"]')
    with pytest.raises(UserError, match=r"b\.json, line 2: not JSON"):
        read_documents([tmp_path / "b.json"])


def test_bad_examples_are_counted_and_refused_or_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [
        {"text": " ", "summary": "b"}, {"text": "a", "summary": ""}, {"summary": "b"}, {"text": "a"},
        {"text": 5, "summary": "b"}, {"text": "a", "summary": [7]}, {"text": ["a", None], "summary": "b"},
    ]  # fmt: skip
    folder_of(tmp_path, RECORD, *bad)
    with pytest.raises(UserError) as told:
        read_documents([tmp_path])
    assert str(told.value) == (
        f"{tmp_path / 'train.jsonl'}: 7 of 8 examples cannot be used: train.jsonl:2: the source is empty; "
        "train.jsonl:3: the summary is empty; train.jsonl:4: the source is empty; ... (leave them out with --skip-bad)"
    )
    assert [pair.source for pair in read_documents([tmp_path], skip_bad=True).train] == ["It rains."]
    assert "left out" in capsys.readouterr().err
    (tmp_path / "t.tsv").write_text("a b\ta\nno tab\n" + "".join(f"{n} x\t{n}\n" for n in range(40)))
    with pytest.raises(UserError, match=r"1 of 42 examples cannot be used: t\.tsv:2: the summary is empty"):
        read_documents([tmp_path / "t.tsv"])


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"other.jsonl": "{}"}, "no file of examples whose name begins with train; found other.jsonl"),
        ({"train.source": "a\n"}, "two parallel files of one name and two endings are expected"),
        ({"train.source": "a\n", "train.target": "a\nb\n"}, "has 1 lines but .*train.target has 2"),
        ({"train.jsonl": ""}, "there are no examples in it"),
        ({"train.jsonl.gz": "no gzip"}, "cannot be read"),
        (
            {"train.jsonl": '{"text": "a", "label": 1}\n'},
            "no field target, summary, .* there are text, label",
        ),
    ],
)
def test_other_mistakes_are_told(tmp_path: Path, files: dict[str, str], said: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said):
        read_documents([tmp_path])


def test_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_documents([tmp_path / "none.jsonl"])
    with pytest.raises(UserError, match="got nothing"):
        read_documents([])


def test_documents_alone_are_read_for_prediction(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl.gz", {"body": "It rains."}, {"body": ["It", "pours."]}, {"id": 3})
    assert read_sources(path) == ["It rains.", "It pours.", ""]
    assert read_sources(tmp_path / "a.txt") is None
    with pytest.raises(UserError, match=r"line 1: a text or a list of sentences is expected, not 3"):
        read_sources(jsonl(tmp_path / "b.jsonl", {"body": 3}))


def test_the_sample_is_large_and_leaks_nothing() -> None:
    splits = sample_docstrings()
    assert splits is sample_docstrings()  # read once
    held_out = [*splits.valid, *splits.test["test"]]
    assert len(splits.train) > 1500
    assert len(held_out) > 200
    module = lambda pair: pair.origin.partition(":")[0].partition("/")[0]  # noqa: E731
    for side in (
        module,
        lambda pair: pair.target.casefold(),
        lambda pair: pair.source.partition(": ")[2].casefold(),
    ):
        assert not {side(pair) for pair in splits.train} & {side(pair) for pair in held_out}
    assert all("\n" not in pair.source + pair.target for pair in splits.train)
