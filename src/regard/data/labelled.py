"""Texts with labels: JSON lines, tables with or without a header, and lines of a label and a text."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regard.data.faults import Faults
from regard.errors import UserError

__all__ = ["Labelled", "read_labelled"]

PARTS = {
    "train": "train", "training": "train",
    "valid": "valid", "val": "valid", "dev": "valid", "validation": "valid",
    "test": "test",
}  # fmt: skip
LABELS = ("label", "labels", "class", "category", "sentiment", "polarity", "target", "y")
TEXTS = (
    "text",
    "text_a",
    "sentence",
    "review",
    "content",
    "comment",
    "tweet",
    "question",
    "document",
    "body",
)
VALID_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text and its label; `origin` says where they are from, "train.tsv, line 17"."""

    text: str
    label: str
    origin: str = ""


def read_labelled(
    paths: Sequence[Path],
    text: str = "",
    label: str = "",
    *,
    skip_bad: bool = False,
    seed: int = 0,
    valid_share: float = VALID_SHARE,
) -> dict[str, list[Labelled]]:
    """Read labelled texts by split, "train" and "valid" among them.

    `paths` are files, or one directory with files whose names have `train`, `valid` (or `dev`, `val`) or `test` as a
    part; without a valid part about `valid_share` of the training texts become one, chosen by a hash of the text and
    `seed`, so that no text is in both. A file, which may be compressed (.gz), is one of:

    - JSON lines (.jsonl, .json): objects with the fields `text` and `label`;
    - a table (.csv, or separated by tabs): `text` and `label` are names of a header, or numbers from 1; found by the
      usual names or, without a header, by what the columns hold, when not given;
    - anything else: a label, a space and a text on each line, as the SST and TREC files have it.

    Blank lines are passed over. Raises `UserError`, naming file and line, for all that does not fit this description;
    examples without text or label are counted, and refused unless `skip_bad`.
    """
    paths = [Path(path) for path in paths]
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or directory")
    files = _files(paths[0]) if len(paths) == 1 and paths[0].is_dir() else {"train": paths}
    splits = {
        name: [one for path in some for one in _read(path, text, label, skip_bad)]
        for name, some in files.items()
    }
    if "valid" not in splits:
        splits |= _split_off(splits["train"], paths[0], seed, valid_share)
    first = {"train": splits.pop("train"), "valid": splits.pop("valid")}
    return first | splits


def _files(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        words = re.split(r"[^a-z0-9]+", path.name.lower())
        parts = {PARTS[word] for word in words if word in PARTS}
        if path.is_file() and len(parts) == 1:
            (part,) = parts
            name = path.name.partition(".")[0] if part == "test" else part
            found.setdefault(name, []).append(path)
    if "train" not in found:
        raise UserError(f"{folder}: there is no file whose name says train, such as train.tsv or train.jsonl")
    for part in ("train", "valid"):
        if len(found.get(part, [])) > 1:
            names = ", ".join(path.name for path in found[part])
            raise UserError(f"{folder}: there are several {part} files: {names}; one is expected")
    return found


def _read(path: Path, text: str, label: str, skip_bad: bool) -> list[Labelled]:
    lines = list(_lines(path))
    first = next((line for _, line in lines if line.strip()), "")
    ending = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if ending in ("jsonl", "json") or first.lstrip().startswith("{"):
        rows = _from_json(path, lines, text, label)
    elif ending == "csv":
        rows = _from_table(path, _csv_rows(path, lines), text, label)
    elif ending == "tsv" or "\t" in first:
        rows = _from_table(path, ((n, line.split("\t")) for n, line in lines if line.strip()), text, label)
    else:
        rows = _from_words(lines)
    faults, good, total = Faults(str(path), skip_bad), [], 0
    for number, one, kind in rows:
        total += 1
        if not isinstance(one, str) or not one.strip():
            faults.add(f"line {number}", "it has no text")
        elif not isinstance(kind, str | int | float) or not str(kind).strip():
            faults.add(f"line {number}", "it has no label")
        else:
            good.append(Labelled(one.strip(), str(kind).strip(), f"{path}, line {number}"))
    faults.settle(total)
    if not good:
        raise UserError(f"{path}: there are no examples in it")
    return good


Row = tuple[int, Any, Any]
"""The number of a line, a text and a label."""


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            decoded = line.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}, line {number}: not UTF-8 (byte 0x{line[error.start]:02x})") from None
        yield number, decoded.removeprefix("\ufeff") if number == 1 else decoded


def _from_json(path: Path, lines: Iterable[tuple[int, str]], text: str, label: str) -> Iterator[Row]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}, line {number}: not JSON ({error.msg} at column {error.colno})"
            ) from None
        if not isinstance(found, dict):
            raise UserError(
                f"{path}, line {number}: {line[:40]!r} is no object; one with text and label is expected"
            )
        names = [
            _field(path, number, found, *one) for one in ((text, TEXTS, "text"), (label, LABELS, "label"))
        ]
        yield number, found.get(names[0]), found.get(names[1])


def _field(
    path: Path, number: int, found: Mapping[str, Any], name: str, usual: Sequence[str], what: str
) -> str:
    chosen = name or next((one for one in usual if one in found), "")
    if chosen not in found:
        wanted = f"the field {name!r}" if name else f"a field for the {what} ({', '.join(usual[:4])} ...)"
        raise UserError(
            f"{path}, line {number}: {wanted} is missing; there are: {', '.join(map(str, found))}"
        )
    return chosen


def _csv_rows(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader((f"{line}\n" for _, line in lines), strict=True)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, row
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: not a table of comma-separated values ({error})"
        ) from None


def _from_table(path: Path, table: Iterable[tuple[int, list[str]]], text: str, label: str) -> Iterator[Row]:
    rows = list(table)
    if not rows:
        return
    (number, head), body = rows[0], rows
    columns = [_column(one, head, usual) for one, usual in ((text, TEXTS), (label, LABELS))]
    if None not in columns:
        body = rows if text.isdecimal() and label.isdecimal() else rows[1:]  # names are those of a header
    elif text or label:
        wanted = next(one for one, place in zip((text, label), columns, strict=True) if one and place is None)
        raise UserError(f"{path}, line {number}: there is no column {wanted!r}; there are: {', '.join(head)}")
    else:
        columns = _guessed(path, rows)
    width = max(place for place in columns if place is not None) + 1
    for number, row in body:
        if len(row) < width:
            raise UserError(
                f"{path}, line {number}: it has {len(row)} columns; at least {width} are expected"
            )
        yield number, row[columns[0] or 0], row[columns[1] or 0]


def _column(name: str, head: Sequence[str], usual: Sequence[str]) -> int | None:
    """The place of a column that is named, numbered from 1, or has one of the usual names."""
    if name.isdecimal():
        return int(name) - 1 if 1 <= int(name) <= len(head) else None
    small = [cell.strip().lower() for cell in head]
    return next((small.index(one) for one in ([name.lower()] if name else usual) if one in small), None)


def _guessed(path: Path, rows: Sequence[tuple[int, list[str]]]) -> list[int | None]:
    """Without a header: the label is the column with the fewest values, the text the longest of the others."""
    width = min(len(row) for _, row in rows)
    if width < 2:
        number = next(n for n, row in rows if len(row) == width)
        raise UserError(f"{path}, line {number}: it has 1 column; a text and a label are expected")
    values = [len({row[place] for _, row in rows}) for place in range(width)]
    label = values.index(min(values))
    lengths = {place: sum(len(row[place]) for _, row in rows) for place in range(width) if place != label}
    return [max(lengths, key=lambda place: lengths[place]), label]


def _from_words(lines: Iterable[tuple[int, str]]) -> Iterator[Row]:
    for number, line in lines:
        if line.strip():
            label, _, text = line.strip().partition(" ")
            yield number, text, label


def _split_off(examples: list[Labelled], where: Path, seed: int, share: float) -> dict[str, list[Labelled]]:
    def drawn(text: str) -> float:
        digest = hashlib.blake2b(f"{seed} {text}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64

    held_out = [drawn(one.text) < share for one in examples]
    valid = [one for one, out in zip(examples, held_out, strict=True) if out]
    train = [one for one, out in zip(examples, held_out, strict=True) if not out]
    if not (train and valid):
        raise UserError(
            f"{where}: {len(examples)} examples are too few to hold some out: give a valid part, too"
        )
    return {"train": train, "valid": valid}
