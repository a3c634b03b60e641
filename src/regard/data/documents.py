"""Documents and their summaries: JSON lines, tab-separated files and parallel text, of one or several references."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regard.data.faults import Faults
from regard.data.pairs import TEST, TRAIN, VALID, VALID_SHARE, Pair, Splits, read_lines, split_off
from regard.errors import UserError

__all__ = ["read_documents", "read_sources"]

SOURCES = ("source", "document", "article", "body", "text", "dialogue", "content", "src")
TARGETS = ("target", "summary", "highlights", "subject", "headline", "title", "tgt")
"""What fields, columns and the ends of parallel files are called, the likeliest first."""
FURTHER = re.compile(r"(?:ann|ref|reference)s?_?\d*|(?:summary|target)_?\d+")
"""Fields that hold further summaries, where they are not the target itself."""
JSON = (".jsonl", ".json", ".ndjson")
TABBED = (".tsv", ".txt")


@dataclass(frozen=True)
class Fields:
    """What source and target are called, "" where it is to be found out, and whether bad examples are left out."""

    source: str
    target: str
    skip: bool


Row = tuple[str, Any, Any, Sequence[Any]]
"""A place (file and line), a source, a target and further targets, as they were read."""


def read_documents(
    paths: Sequence[Path],
    source: str = "",
    target: str = "",
    *,
    skip_bad: bool = False,
    seed: int = 0,
    valid_share: float = VALID_SHARE,
) -> Splits:
    """Read documents and their summaries.

    `paths` is one of:

    - a directory with files whose names begin with `train`; beside them, if there are any, with `valid` (or `val`,
      `dev`, `validation`) and `test`; of the forms below;
    - one file of JSON lines (`.jsonl`, `.ndjson`; `.json` may also be one array), an object for each example;
    - one tab-separated file (`.tsv`, `.txt`), with or without a first line that names its columns;
    - two parallel files, one line of each an example, `a.source a.target`.

    Any may be compressed (`.gz`). `source` and `target` are the names of fields or columns, the numbers of columns, or
    how the names of parallel files end; where they are not given they are found among usual names, such as `document`
    and `summary`. A source that is a list of sentences is joined; a target that is a list holds several summaries that
    are right, each a text or a list of sentences. Fields such as `ann0`, `ann1` or `references` hold further ones
    (`Pair.others`). White space within a text becomes one space.

    Where there is no valid part, about `valid_share` of the examples become one, as in `read_pairs`.

    Raises `UserError`, naming file and line, for what cannot be read, and for examples without a source or a summary
    unless `skip_bad`.
    """
    paths = [Path(path) for path in paths]
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or directory")
    fields = Fields(source, target, skip_bad)
    match paths:
        case [folder] if folder.is_dir():
            return _read_folder(folder, fields, seed, valid_share)
        case [_] | [_, _]:
            return split_off(_read_part(paths, fields), paths[0], seed, valid_share)
    raise UserError(
        "expected a directory, one file of JSON lines or tab-separated text, or two parallel files, got "
        + (", ".join(map(str, paths)) or "nothing")
    )


def read_sources(path: Path, source: str = "") -> list[str] | None:
    """The documents alone of a file of JSON lines, in their order, "" for one that is missing; None for another file.

    Raises `UserError`, naming file and line, where it cannot be read.
    """
    if _kind(path) != "json":
        return None
    texts: list[str] = []
    name = source
    for line, record in _objects(path):
        record = _object(path, line, record)
        name = name or _named(path, list(record), "source", "", SOURCES)
        try:
            texts.append(_text(record.get(name)))
        except TypeError as error:
            raise UserError(f"{path}, line {line}: {error}") from None
    return texts


def _read_folder(folder: Path, fields: Fields, seed: int, valid_share: float) -> Splits:
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    parts = {}
    for name, beginnings in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        sets: dict[str, list[Path]] = {}
        for path in files:
            if path.name.startswith(beginnings):
                sets.setdefault(_stem(path), []).append(path)
        parts[name] = {stem: _read_part(found, fields) for stem, found in sets.items()}
    if not parts["train"]:
        found = ", ".join(path.name for path in files) or "nothing"
        raise UserError(f"{folder}: no file of examples whose name begins with train; found {found}")
    train, valid = ([pair for part in parts[name].values() for pair in part] for name in ("train", "valid"))
    if valid:
        return Splits(train, valid, parts["test"])
    split = split_off(train, folder, seed, valid_share)
    return Splits(split.train, split.valid, parts["test"])


def _read_part(paths: Sequence[Path], fields: Fields) -> list[Pair]:
    """The examples of one file, or of two parallel ones; the fault is told in the name of the first."""
    kinds = {_kind(path) for path in paths}
    if len(paths) == 1 and kinds == {"json"}:
        rows = _json_rows(paths[0], fields)
    elif len(paths) == 1 and kinds == {"tabbed"}:
        rows = _tabbed_rows(paths[0], fields)
    elif len(paths) == 2 and kinds == {"parallel"}:
        rows = _parallel_rows(*_in_order(paths[0], paths[1], fields))
    else:
        named = ", ".join(str(path) for path in paths)
        raise UserError(
            f"{named}: one file of JSON lines ({', '.join(JSON)}) or tab-separated text ({', '.join(TABBED)}) or two "
            "parallel files of one name and two endings are expected"
        )
    faults, pairs, total = Faults(str(paths[0]), fields.skip), [], 0
    for place, raw_source, raw_target, raw_others in rows:
        total += 1
        try:
            text = _text(raw_source)
            targets = [one for raw in (raw_target, *raw_others) for one in _texts(raw)]
        except TypeError as error:
            faults.add(place, str(error))
            continue
        if not text or not targets:
            faults.add(place, "the summary is empty" if text else "the source is empty")
            continue
        pairs.append(Pair(text, targets[0], place, tuple(targets[1:])))
    if not total:
        raise UserError(f"{paths[0]}: there are no examples in it")
    faults.settle(total)
    return pairs


def _text(raw: Any) -> str:
    """A text in one line, or the sentences of a list as one."""
    if raw is None:
        return ""
    parts = raw if isinstance(raw, list) else [raw]
    if not all(isinstance(part, str) for part in parts):
        raise TypeError(f"a text or a list of sentences is expected, not {json.dumps(raw)[:40]}")
    return " ".join(word for part in parts for word in part.split())


def _texts(raw: Any) -> list[str]:
    """Each text of a target that may be several; none of those that are empty."""
    found = [_text(one) for one in (raw if isinstance(raw, list) else [raw])]
    return [text for text in found if text]


def _json_rows(path: Path, fields: Fields) -> Iterator[Row]:
    names: tuple[str, str] | None = None
    for line, record in _objects(path):
        place = f"{path.name}:{line}"
        record = _object(path, line, record)
        if names is None:
            names = _names(path, list(record), fields)
        further = [value for name, value in record.items() if name not in names and FURTHER.fullmatch(name)]
        yield place, record.get(names[0]), record.get(names[1]), further


def _objects(path: Path) -> Iterator[tuple[int, Any]]:
    """The values of a file of JSON lines, or of one array, each with the number of its line (in an array, its own)."""
    lines = _lines(path)
    begins = next((line.lstrip()[:1] for line in lines if line.strip()), "")
    if begins == "[" and path.name.removesuffix(".gz").endswith(".json"):
        try:
            yield from enumerate(json.loads("\n".join(lines)), start=1)
            return
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}, line {number}: not JSON ({error.msg})") from None


def _object(path: Path, line: int, record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise UserError(
            f"{path}, line {line}: an object of fields is expected, not {json.dumps(record)[:40]}"
        )
    return record


def _names(path: Path, present: Sequence[str], fields: Fields) -> tuple[str, str]:
    """What source and target are called among the names that are present."""
    return (
        _named(path, present, "source", fields.source, SOURCES),
        _named(path, present, "target", fields.target, TARGETS),
    )


def _named(path: Path, present: Sequence[str], side: str, wanted: str, usual: Sequence[str]) -> str:
    for name in [wanted] if wanted else usual:
        if name in present:
            return name
    raise UserError(
        f"{path}: no field {wanted or ', '.join(usual)} for the {side}; there are {', '.join(present)} "
        f"(name it with --{side})"
    )


def _tabbed_rows(path: Path, fields: Fields) -> Iterator[Row]:
    lines = [(number, line.split("\t")) for number, line in enumerate(_lines(path), start=1) if line.strip()]
    head = [cell.strip() for cell in lines[0][1]] if lines else []
    columns = [0, 1]
    given = [name for name in (fields.source, fields.target) if name]
    if all(name.isascii() and name.isdigit() and name != "0" for name in given) and len(given) == 2:
        columns = [int(name) - 1 for name in given]
    elif given or (set(head) & set(SOURCES) and set(head) & set(TARGETS)):
        columns = [head.index(name) for name in _names(path, head, fields)]
        lines = lines[1:]
    for number, cells in lines:
        both = [cells[column] if column < len(cells) else None for column in columns]
        yield f"{path.name}:{number}", both[0], both[1], ()


def _parallel_rows(source: Path, target: Path) -> Iterator[Row]:
    sources, targets = _lines(source), _lines(target)
    if len(sources) != len(targets):
        raise UserError(
            f"{source} has {len(sources)} lines but {target} has {len(targets)}: "
            "line N of one must be the summary of line N of the other"
        )
    for number, (left, right) in enumerate(zip(sources, targets, strict=True), start=1):
        yield f"{source.name}:{number}", left, right, ()


def _in_order(first: Path, second: Path, fields: Fields) -> tuple[Path, Path]:
    """Two parallel files as source and target, by what their names end in; as given where that does not tell."""
    sources = (fields.source,) if fields.source else SOURCES
    targets = (fields.target,) if fields.target else TARGETS
    if _ending(second) in sources or _ending(first) in targets:
        first, second = second, first
    for path, wanted in ((first, fields.source), (second, fields.target)):
        if wanted and _ending(path) != wanted:
            raise UserError(f"{path} does not end in .{wanted}, which was asked for")
    return first, second


def _kind(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    return "json" if name.endswith(JSON) else "tabbed" if name.endswith(TABBED) else "parallel"


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[0] or path.name


def _ending(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[2]


def _lines(path: Path) -> list[str]:
    if path.suffix != ".gz":
        return read_lines(path)
    try:
        text = gzip.decompress(path.read_bytes()).decode("utf-8")
    except (OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8") from None
    return [line.removesuffix("\r") for line in text.removeprefix("\ufeff").removesuffix("\n").split("\n")]
