"""Pairs of sentences from parallel files, tab-separated files, or a directory of either."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from regard.errors import UserError

TRAIN = ("train",)
VALID = ("valid", "val", "dev", "validation")
TEST = ("test",)
TABBED = ("tsv", "txt")  # endings of tab-separated files; any other ending is a language

VALID_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Pair:
    """A source text and its target; `origin` says where they are from, "train.en:17"."""

    source: str
    target: str
    origin: str = ""
    others: tuple[str, ...] = ()
    """Further targets that are right too: references to judge by, not to learn from."""


@dataclass(frozen=True)
class Splits:
    """What to learn from, what to choose by, and named sets to judge by (there may be none)."""

    train: Sequence[Pair]
    valid: Sequence[Pair]
    test: Mapping[str, Sequence[Pair]] = field(default_factory=dict)


def read_pairs(
    paths: Sequence[Path],
    source: str | None = None,
    target: str | None = None,
    *,
    seed: int = 0,
    valid_share: float = VALID_SHARE,
) -> Splits:
    """Read pairs of sentences; `source` and `target` are the languages, as the files' names end.

    `paths` is one of:

    - a directory with `train.en` and `train.de`; beside them, if there are any, `valid.en` (or `val`, `dev`,
      `validation`) and `test*.en`, each with its `.de`. `train.tsv` or `train.txt`, tab-separated, may stand
      for a pair of files, and sub-directories `train/`, `valid/`, `test/` for the beginnings of the names;
    - one tab-separated file: the source, the target, and further columns, which are not used;
    - two parallel files, `a.en b.de`.

    Languages may be left out when there are exactly two: two files are source and target as given, and in a
    directory the source is the first by alphabet. For tab-separated files `source` and `target` may be the
    numbers of columns, "2" and "1".

    Where there is no valid part, about `valid_share` of the pairs become one, chosen by a hash of their
    sentences and `seed` such that no sentence of either side is in both parts. Lines that are blank on both
    sides are skipped.

    Raises `UserError`, naming file and line, for all that does not fit this description.
    """
    paths = [Path(path) for path in paths]
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or directory")
    match paths:
        case [folder] if folder.is_dir():
            return _read_directory(folder, source, target, seed, valid_share)
        case [file]:
            return split_off(_read_tabbed(file, _columns(file, source, target)), file, seed, valid_share)
        case [first, second] if first.is_file() and second.is_file():
            first, second = _in_order(first, second, source, target)
            return split_off(_read_parallel(first, second), first, seed, valid_share)
    raise UserError(
        "expected a directory, one tab-separated file or two parallel files, got "
        + (", ".join(map(str, paths)) or "nothing")
    )


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, without line ends and byte order mark.

    Only a line feed ends a line (with or without a carriage return before it), never U+2028 or a form feed.
    Raises `UserError` if the file cannot be read, and with the line number if it is not UTF-8.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not UTF-8 (byte 0x{content[error.start]:02x})") from None
    lines = text.removeprefix("\ufeff").split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _read_parallel(source: Path, target: Path) -> list[Pair]:
    sources, targets = read_lines(source), read_lines(target)
    for path, lines in ((source, sources), (target, targets)):
        if not lines:
            raise UserError(f"{path}: the file is empty")
    if len(sources) != len(targets):
        raise UserError(
            f"{source} has {len(sources)} lines but {target} has {len(targets)}: "
            "line N of one must be the translation of line N of the other"
        )
    pairs = []
    for number, (left, right) in enumerate(zip(sources, targets, strict=True), start=1):
        left, right = left.strip(), right.strip()
        if not left and not right:
            continue
        if not left or not right:
            blank, filled = (target, source) if left else (source, target)
            raise UserError(f"{blank}, line {number}: blank, but {filled} has a sentence there")
        pairs.append(Pair(left, right, f"{source.name}:{number}"))
    if not pairs:
        raise UserError(f"{source} and {target}: all lines are blank")
    return pairs


def _read_tabbed(path: Path, columns: tuple[int, int]) -> list[Pair]:
    lines = read_lines(path)
    if not lines:
        raise UserError(f"{path}: the file is empty")
    pairs = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) < max(2, *(column + 1 for column in columns)):
            raise UserError(
                f"{path}, line {number}: {len(cells)} column{'s' * (len(cells) > 1)}, expected at least "
                f"{max(2, *(column + 1 for column in columns))}, separated by tabs"
            )
        left, right = cells[columns[0]], cells[columns[1]]
        if not left and not right:
            continue
        if not left or not right:
            blank = columns[1] if left else columns[0]
            raise UserError(f"{path}, line {number}: column {blank + 1} is blank")
        pairs.append(Pair(left, right, f"{path.name}:{number}"))
    if not pairs:
        raise UserError(f"{path}: all lines are blank")
    return pairs


def _columns(path: Path, source: str | None, target: str | None) -> tuple[int, int]:
    """The places of source and target in a tab-separated file, counted from 0."""
    if source is None and target is None:
        return 0, 1
    if source is not None and target is not None and source != target:
        numbers = [int(name) for name in (source, target) if name.isascii() and name.isdigit()]
        if len(numbers) == 2 and min(numbers) >= 1:
            return numbers[0] - 1, numbers[1] - 1
    raise UserError(
        f"{path}: a tab-separated file has columns, not languages: leave source and target out, or give two "
        f"column numbers such as 1 and 2 (got {source!r} and {target!r})"
    )


def _in_order(first: Path, second: Path, source: str | None, target: str | None) -> tuple[Path, Path]:
    """Two parallel files as source and target, by the languages if they are given."""
    for left, right in ((first, second), (second, first)):
        if source in (None, _ending(left)) and target in (None, _ending(right)):
            return left, right
    raise UserError(
        f"{first} and {second} do not end in the languages asked for: "
        f"source {source or 'any'}, target {target or 'any'}"
    )


def _ending(path: Path) -> str:
    return path.name.rpartition(".")[2] if "." in path.name else ""


@dataclass(frozen=True)
class _Part:
    """The files of one part of a data set: parallel ones by stem and language, and tab-separated ones."""

    parallel: dict[str, dict[str, Path]]
    tabbed: list[Path]

    @property
    def languages(self) -> set[str]:
        return {language for files in self.parallel.values() for language in files}


def _find(folder: Path, names: tuple[str, ...]) -> _Part:
    """The files `NAME.ending` or else `NAME*.ending` of a directory, or all `*.ending` of its `NAME/`."""
    visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    inside = [path for path in visible if path.is_dir() and path.name in names]
    files = [path for path in visible if path.is_file() and "." in path.name]
    exact = [path for path in files if _stem(path) in names]
    begun = [path for path in files if path.name.startswith(names)]
    if inside:
        if begun:
            raise UserError(f"{folder} has both {inside[0].name}/ and {begun[0].name}: keep only one of them")
        if len(inside) > 1:
            raise UserError(f"{folder} has {_listed(inside)}: keep only one of them")
        files = sorted(
            path for path in inside[0].iterdir() if path.is_file() and not path.name.startswith(".")
        )
    else:
        files = exact if exact and names != TEST else begun
    tabbed_stems = [_stem(path) for path in files if _ending(path) in TABBED]
    if len(tabbed_stems) > len(set(tabbed_stems)):
        raise UserError(f"{folder} has {_listed(files)}: keep only one tab-separated file of a name")
    part = _Part({}, [path for path in files if _ending(path) in TABBED])
    for path in files:
        if _ending(path) not in ("", *TABBED):
            part.parallel.setdefault(_stem(path), {})[_ending(path)] = path
    return part


def _stem(path: Path) -> str:
    return path.name.rpartition(".")[0] or path.name


def _listed(paths: Iterable[Path]) -> str:
    return ", ".join(path.name + "/" * path.is_dir() for path in paths) or "nothing"


def _read_directory(
    folder: Path, source: str | None, target: str | None, seed: int, valid_share: float
) -> Splits:
    train, valid, test = (_find(folder, names) for names in (TRAIN, VALID, TEST))
    if not train.parallel and not train.tabbed:
        raise UserError(
            f"{folder}: no training files; expected train.LANGUAGE twice, train.tsv or train.txt, found "
            + _listed(sorted(folder.iterdir()))
        )
    if train.parallel and train.tabbed:
        found = [*train.tabbed, *(path for files in train.parallel.values() for path in files.values())]
        raise UserError(f"{folder} has both tab-separated and parallel training files: {_listed(found)}")
    if train.tabbed:
        columns = _columns(train.tabbed[0], source, target)
        sets = {name: _read_sets(folder, part, None, columns) for name, part in _named(train, valid, test)}
    else:
        languages = _languages(folder, train, source, target)
        sets = {name: _read_sets(folder, part, languages, None) for name, part in _named(train, valid, test)}
    if not sets["valid"] and (valid.parallel or valid.tabbed):
        raise UserError(f"{folder} has a valid part, but not in the form and languages of its training files")
    for name in ("train", "valid"):
        if len(sets[name]) > 1 and not (folder / name).is_dir():
            raise UserError(f"{folder} has more than one {name} set: {', '.join(sets[name])}; keep only one")
    pairs = [pair for part in sets["train"].values() for pair in part]
    held_out = [pair for part in sets["valid"].values() for pair in part]
    if held_out:
        return Splits(pairs, held_out, sets["test"])
    split = split_off(pairs, folder, seed, valid_share)
    return Splits(split.train, split.valid, sets["test"])


def _named(train: _Part, valid: _Part, test: _Part) -> list[tuple[str, _Part]]:
    return [("train", train), ("valid", valid), ("test", test)]


def _read_sets(
    folder: Path, part: _Part, languages: tuple[str, str] | None, columns: tuple[int, int] | None
) -> dict[str, list[Pair]]:
    """Every set of a part, by the stem of its files, read as the training files are."""
    sets = {}
    if columns is not None:
        for path in part.tabbed:
            sets[_stem(path)] = _read_tabbed(path, columns)
    if languages is not None:
        for stem, files in part.parallel.items():
            here = [files.get(language) for language in languages]
            if here[0] is not None and here[1] is not None:
                sets[stem] = _read_parallel(here[0], here[1])
            elif here[0] is not None or here[1] is not None:
                there, missing = (0, 1) if here[0] is not None else (1, 0)
                raise UserError(f"{here[there]} has no counterpart {stem}.{languages[missing]} in {folder}")
    return sets


def _languages(folder: Path, train: _Part, source: str | None, target: str | None) -> tuple[str, str]:
    found = sorted(train.languages)
    for language in (source, target):
        if language is not None and language not in found:
            raise UserError(f"{folder}: no training file ends in .{language}; found {_training_files(train)}")
    if source is not None and target is not None:
        if source == target:
            raise UserError(f"source and target are both {source!r}: two languages are needed")
        return source, target
    if len(found) != 2:
        raise UserError(
            f"{folder}: which two languages are source and target? There are {len(found)}: "
            + _training_files(train)
        )
    other = {found[0]: found[1], found[1]: found[0]}
    if source is not None:
        return source, other[source]
    if target is not None:
        return other[target], target
    return found[0], found[1]


def _training_files(train: _Part) -> str:
    return _listed(path for files in train.parallel.values() for path in files.values())


def split_off(pairs: list[Pair], where: Path, seed: int, valid_share: float) -> Splits:
    """Hold out about `valid_share` of the pairs, sharing no sentence with the rest.

    Pairs that share a sentence belong together. Such groups are held out in the order of their hashes, if
    they still fit: a group is never larger than the held-out part.
    """
    if not 0.0 < valid_share < 1.0:
        raise UserError(f"the share of held-out pairs must be between 0 and 1, got {valid_share}")
    wanted = max(1, round(len(pairs) * valid_share))
    groups = _groups(pairs)
    held_out: set[int] = set()
    for group in sorted(groups, key=lambda group: min(_hash(pairs[place].source, seed) for place in group)):
        if len(held_out) + len(group) <= wanted:
            held_out.update(group)
        if len(held_out) == wanted:
            break
    if not held_out or len(held_out) == len(pairs):
        raise UserError(
            f"{where}: {len(pairs)} pair{'s' * (len(pairs) > 1)} cannot be split into train and valid with "
            "no sentence in both: give more pairs, or a directory with a valid part of its own"
        )
    return Splits(
        train=[pair for place, pair in enumerate(pairs) if place not in held_out],
        valid=[pair for place, pair in enumerate(pairs) if place in held_out],
    )


def _groups(pairs: list[Pair]) -> list[list[int]]:
    """The places of pairs that are connected by equal sources or equal targets."""
    parent = list(range(len(pairs)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    first: dict[tuple[str, str], int] = {}
    for place, pair in enumerate(pairs):
        for side, text in (("source", pair.source), ("target", pair.target)):
            seen = first.setdefault((side, _sentence(text)), place)
            parent[root(place)] = root(seen)
    groups: dict[int, list[int]] = {}
    for place in range(len(pairs)):
        groups.setdefault(root(place), []).append(place)
    return list(groups.values())


def _sentence(text: str) -> str:
    """What makes two sentences the same: neither letter case nor spacing."""
    return " ".join(text.casefold().split())


def _hash(text: str, seed: int) -> bytes:
    return hashlib.blake2b(
        _sentence(text).encode("utf-8"), digest_size=8, salt=seed.to_bytes(8, "big")
    ).digest()
