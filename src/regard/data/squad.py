"""Questions on a text with their answers in it: SQuAD's JSON, of any version, and what others have made of it."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regard.data.faults import Faults
from regard.data.pairs import TEST, TRAIN, VALID
from regard.errors import UserError

__all__ = ["Question", "is_squad", "question_of", "read_questions", "read_squad", "sorted_by_part"]

VALID_SHARE = 0.1
ENDINGS = (".json", ".json.gz")


@dataclass(frozen=True, slots=True)
class Question:
    """A question on a context, and where its answers stand there; none where the context does not answer it.

    `origin` says where it is from: "train-v2.0.json: 56be85543aeaaa14008c9063".
    """

    text: str
    context: str
    answers: tuple[tuple[str, int], ...] = ()
    """Each answer and the number of its first character in the context, -1 where it does not stand there; all are
    right, and there is one that stands there unless there is none at all."""
    id: str = ""
    origin: str = ""

    @property
    def line(self) -> str:
        """The question, a tab and its context, on one line."""
        return "\t".join(" ".join(text.split()) for text in (self.text, self.context))


def question_of(line: str, where: str) -> Question:
    """The question of a line: a question, a tab and its context, or an object of JSON with both.

    Raises `UserError` that begins with `where` for any other line.

    Example:
        >>> question_of("Who came?\\tAnn came.", "line 1") == question_of(
        ...     '{"question": "Who came?", "context": "Ann came."}', "line 1")
        True
    """
    text, tab, context = line.partition("\t")
    if line.lstrip().startswith("{"):
        try:
            both = json.loads(line)
            text, context = both["question"], both["context"]
        except (ValueError, KeyError, TypeError):
            text = context = ""
        if not (isinstance(text, str) and isinstance(context, str) and text and context):
            raise UserError(f'{where}: JSON of the form {{"question": "...", "context": "..."}} is expected')
    elif not tab:
        raise UserError(f"{where}: a question, a tab and its context are expected, there is no tab")
    for name, part in (("question", text), ("context", context)):
        if not part.strip():
            raise UserError(f"{where}: the {name} is empty")
    return Question(text, context, origin=where)


def read_questions(paths: Sequence[Path], *, skip_bad: bool = False) -> dict[str, list[Question]]:
    """Read questions by part: `train`, `valid`, tests, and each held-out file by itself where there are several.

    `paths` are files of SQuAD's JSON (`.json` or `.json.gz`), or directories of them. A file belongs to the part that
    its name tells: a word `train`; `valid`, `val`, `dev` or `validation`; `test`. Where there is no train part,
    everything is; where there is no valid part, about a tenth of the contexts become one, with all their questions.

    Raises `UserError` for all that does not fit this description, and for questions that cannot be used, unless
    `skip_bad`: then they are left out, and counted on standard error.

    Example:
        >>> from regard.data.squad import sorted_by_part
        >>> sorted_by_part([Path("a/wiki-train.json.gz"), Path("a/dev-v2.0.json")])
        {'train': [PosixPath('a/wiki-train.json.gz')], 'valid': [PosixPath('a/dev-v2.0.json')]}
    """
    parts = sorted_by_part(_files(paths))
    read = {path: read_squad(path, skip_bad=skip_bad) for files in parts.values() for path in files}
    found = {part: [one for path in files for one in read[path]] for part, files in parts.items()}
    if "train" not in found:
        found = {"train": [one for part in found.values() for one in part]}
    elif len(parts.get("valid", ())) > 1:
        found |= {_stem(path): read[path] for path in parts["valid"]}
    if "valid" not in found:
        held = [_held_out(one.context) for one in found["train"]]
        whole = found["train"]
        found["train"] = [one for one, out in zip(whole, held, strict=True) if not out]
        found["valid"] = [one for one, out in zip(whole, held, strict=True) if out]
    for part in ("train", "valid"):
        if not found[part]:
            raise UserError(f"{', '.join(map(str, paths))}: there are no questions for the part {part!r}")
    return {"train": found.pop("train"), "valid": found.pop("valid"), **found}


def sorted_by_part(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Files by the part that their names tell; `train` where they tell none."""
    parts: dict[str, list[Path]] = {}
    for path in files:
        words = re.split(r"[^a-z]+", path.name.lower())
        part = "train"
        for name, known in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
            if any(word in known for word in words):
                part = name
                break
        parts.setdefault(part, []).append(path)
    return parts


def read_squad(path: Path, *, skip_bad: bool = False, judged: bool = True) -> list[Question]:
    """The questions of one file, in its order.

    An answer that does not stand at its `answer_start` (or has none, as in CMRC) is looked for in the context, the
    nearest place taken, and the number of such answers told on standard error. One that the context has not is kept to
    judge by, beside another that it has.

    Raises `UserError`: with the line for broken JSON, with the path within it for what is missing; and for answers that
    are not in their context, unless `skip_bad`. Unless `judged`, answers are not looked at.
    """
    name, content = path.name, _loaded(path)
    faults, moved, absent, total = Faults(str(path), skip_bad), 0, 0, 0
    questions: list[Question] = []
    articles = _field(content, "data", list, f"{path}: data", name="")
    for a, article in enumerate(articles):
        for p, paragraph in enumerate(_field(article, "paragraphs", list, f"{path}: data[{a}]")):
            place = f"{path}: data[{a}].paragraphs[{p}]"
            context = _field(paragraph, "context", str, place)
            for q, asked in enumerate(_field(paragraph, "qas", list, place)):
                here = f"{place}.qas[{q}]"
                total += 1
                text, id = _field(asked, "question", str, here), str(asked.get("id", total))
                given = [] if asked.get("is_impossible") or not judged else asked.get("answers", [])
                if not isinstance(given, list):
                    raise UserError(f"{here}.answers is no list")
                answers = []
                for n, answer in enumerate(given):
                    said, start = _answer(answer, f"{here}.answers[{n}]")
                    at = _found(said, start, context)
                    moved += at is not None and at != start
                    answers.append((said, -1 if at is None else at))
                if not text.strip():
                    faults.add(f"question {id}", "it is empty")
                elif answers and all(at < 0 for _, at in answers):
                    faults.add(f"question {id}", f"its answer {answers[0][0][:40]!r} is not in the context")
                else:
                    absent += sum(at < 0 for _, at in answers)
                    questions.append(Question(text, context, tuple(answers), id, f"{name}: {id}"))
    if not total:
        raise UserError(f"{path}: there are no questions in it")
    faults.settle(total)
    if moved or absent:
        print(
            f"{path}: {moved + absent:,} answers do not stand at their answer_start: {moved:,} taken where the context "
            f"has them, {absent:,} that it has nowhere kept to judge by",
            file=sys.stderr,
        )
    return questions


def is_squad(path: Path) -> bool:
    """Whether a file is one of questions in JSON, by its name."""
    return path.name.lower().endswith(ENDINGS)


def _found(answer: str, start: int, context: str) -> int | None:
    """Where an answer stands in its context: at `start`, or the place nearest to it."""
    if not answer.strip():
        return None
    if start >= 0 and context.startswith(answer, start):
        return start
    places = [match.start() for match in re.finditer(re.escape(answer), context)]
    return min(places, key=lambda place: abs(place - start)) if places else None


def _answer(answer: Any, where: str) -> tuple[str, int]:
    if isinstance(answer, str):
        return answer, -1
    start = answer.get("answer_start", -1) if isinstance(answer, Mapping) else None
    if not isinstance(start, int) or isinstance(start, bool):
        raise UserError(f"{where}: an object with 'text' and a whole number 'answer_start' is expected")
    return _field(answer, "text", str, where), start


def _field(value: Any, field: str, kind: type, where: str, name: str | None = None) -> Any:
    """A field of an object of the JSON; raises `UserError` where it is not there or of another kind."""
    words = "a list" if kind is list else "a text"
    if not isinstance(value, Mapping) or field not in value:
        raise UserError(
            f"{where if name is None else where.rpartition(': ')[0]}: the field {field!r} is missing"
        )
    if not isinstance(value[field], kind):
        raise UserError(f"{where}: the field {field!r} is {type(value[field]).__name__}, {words} is expected")
    return value[field]


def _loaded(path: Path) -> Any:
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        return json.loads(content.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}: not JSON ({error.msg}, column {error.colno})"
        ) from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not UTF-8 (byte 0x{content[error.start]:02x})") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(f"{path}: the gzip file is damaged") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deep to be a file of questions") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _files(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(one for one in path.iterdir() if is_squad(one))
            if not found:
                raise UserError(f"{path}: there is no .json or .json.gz file in this folder")
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise UserError(f"{path}: there is no such file or folder")
    return files


def _stem(path: Path) -> str:
    return path.name.lower().removesuffix(".gz").removesuffix(".json")


def _held_out(context: str) -> bool:
    digest = hashlib.sha256(context.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < VALID_SHARE * 2**64
