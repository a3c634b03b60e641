"""SQuAD's JSON: what is read, from where to where, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from regard.data.squad import question_of, read_questions, read_squad
from regard.errors import UserError

CONTEXT = "Ann came in 1562. Bob saw Ann."


def asked(id: str, *answers: Any, **more: Any) -> dict[str, Any]:
    given = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": id, "question": f"Who is {id}?", "answers": given, **more}


def content(*qas: Any, context: str = CONTEXT) -> dict[str, Any]:
    return {
        "version": "2.0",
        "data": [{"title": "T", "paragraphs": [{"context": context, "qas": list(qas)}]}],
    }


def written(path: Path, what: Any) -> Path:
    data = what if isinstance(what, str) else json.dumps(what, ensure_ascii=False)
    path.write_bytes(gzip.compress(data.encode()) if path.suffix == ".gz" else data.encode())
    return path


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_questions_come_in_order_with_their_answers(tmp_path: Path, name: str) -> None:
    qas = [
        asked("x", ("Ann", 0), ("Ann", 26)),
        asked("y", is_impossible=True),
        asked("z", ("1562", 12), question_type="?"),
    ]
    read = read_squad(written(tmp_path / name, content(*qas)))
    assert [one.id for one in read] == ["x", "y", "z"]
    assert read[0].answers == (("Ann", 0), ("Ann", 26))
    assert read[1].answers == ()
    assert read[2].origin == f"{name}: z"
    assert read[2].line == f"Who is z?\t{CONTEXT}"


def test_an_impossible_question_has_no_answer_whatever_it_lists(tmp_path: Path) -> None:
    [one] = read_squad(written(tmp_path / "a.json", content(asked("x", ("Ann", 0), is_impossible=True))))
    assert one.answers == ()


def test_an_answer_elsewhere_is_looked_for_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in CMRC: the nearest place counts; one that is nowhere is kept to judge by, beside one that is there."""
    qas = [asked("x", ("Ann", 24)), {**asked("y"), "answers": ["Bob"]}, asked("z", ("Carol", 3), ("Bob", 18))]
    read = read_squad(written(tmp_path / "a.json", content(*qas)))
    assert [one.answers for one in read] == [(("Ann", 26),), (("Bob", 18),), (("Carol", -1), ("Bob", 18))]
    assert "a.json: 3 answers do not stand at their answer_start: 2 taken where" in capsys.readouterr().err


def test_questions_that_cannot_be_used_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(
        tmp_path / "a.json",
        content(asked("x", ("Carol", 0)), asked("y", ("Ann", 0)), {**asked("z"), "question": " "}),
    )
    with pytest.raises(
        UserError, match="2 of 3 examples cannot be used: question x: its answer 'Carol' is not in the"
    ):
        read_squad(path)
    assert [one.id for one in read_squad(path, skip_bad=True)] == ["y"]
    assert "left out: " in capsys.readouterr().err
    assert len(read_squad(written(tmp_path / "b.json", content(asked("x", ("Carol", 0)))), judged=False)) == 1


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ('{"data": [\n{"paragraphs": }]}', r"a\.json, line 2: not JSON"),
        ("[]", r"a\.json: the field 'data' is missing"),
        ({"data": [{"paragraphs": []}]}, r"a\.json: there are no questions"),
        ({"data": [{}]}, r"a\.json: data\[0\]: the field 'paragraphs' is missing"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, r"data\[0\]\.paragraphs\[0\]: the field 'context' is missing"),
        (content({"id": "x"}), r"data\[0\]\.paragraphs\[0\]\.qas\[0\]: the field 'question' is missing"),
        (content({**asked("x"), "question": 3}), r"the field 'question' is int, a text is expected"),
        (content({**asked("x"), "answers": [{"text": "Ann", "answer_start": "0"}]}), r"answers\[0\]: an object"),
        (content({**asked("x"), "answers": {}}), r"qas\[0\]\.answers is no list"),
        (content("?"), r"qas\[0\]: the field 'question' is missing"),
    ],
)  # fmt: skip
def test_what_is_broken_is_named(tmp_path: Path, what: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_squad(written(tmp_path / "a.json", what))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'{"data":\n"\xff"}')
    with pytest.raises(UserError, match=r"a\.json, line 2: not UTF-8 \(byte 0xff\)"):
        read_squad(tmp_path / "a.json")
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(b"{}" * 999)[:30])
    with pytest.raises(UserError, match="the gzip file is damaged"):
        read_squad(tmp_path / "b.json.gz")
    for path, message in (
        (tmp_path / "c", "no such file or folder"),
        (tmp_path / "d", r"no \.json or \.json\.gz"),
    ):
        if path.name == "d":
            path.mkdir()
        with pytest.raises(UserError, match=message):
            read_questions([path])


def test_parts_go_by_the_names_of_files(tmp_path: Path) -> None:
    for name in ("wiki-train.json", "wiki-dev.json.gz", "mail_train.json", "mail_dev.json", "test.json"):
        written(tmp_path / name, content(asked(name, ("Ann", 0))))
    (tmp_path / "README.md").write_text("no data")
    parts = read_questions([tmp_path])
    assert {part: [one.id for one in several] for part, several in parts.items()} == {
        "train": ["mail_train.json", "wiki-train.json"],
        "valid": ["mail_dev.json", "wiki-dev.json.gz"],
        "test": ["test.json"],
        "mail_dev": ["mail_dev.json"],
        "wiki-dev": ["wiki-dev.json.gz"],
    }


def test_without_a_valid_part_whole_contexts_are_held_out(tmp_path: Path) -> None:
    paragraphs = [
        {"context": f"{CONTEXT} {n}", "qas": [asked(f"{n}.{m}", ("Ann", 0)) for m in range(3)]}
        for n in range(60)
    ]
    path = written(tmp_path / "a.json", {"data": [{"paragraphs": paragraphs}]})
    parts = read_questions([path])
    assert len(parts["train"]) + len(parts["valid"]) == 180
    assert 3 <= len(parts["valid"]) <= 45
    assert not {one.context for one in parts["train"]} & {one.context for one in parts["valid"]}
    assert parts == read_questions([path])


@pytest.mark.parametrize(
    "line", ["Who?", "Who?\t ", " \tAnn", '{"question": "Who?"}', '{"question": 3, "context": "x"}', "{"]
)
def test_a_line_that_is_no_question_is_named(line: str) -> None:
    with pytest.raises(UserError, match=r"^here, line 7: "):
        question_of(line, "here, line 7")
