"""Word vectors in the text format of word2vec, GloVe and fastText: a word and its numbers on each line."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from regard.errors import UserError

__all__ = ["read_word_vectors"]


def read_word_vectors(path: Path, words: Mapping[str, int], size: int) -> dict[int, Tensor]:
    """The vectors of some words, by the numbers that these have.

    A first line of two whole numbers (how many, how wide) is passed over; a word may hold spaces. The file may be
    compressed (.gz). Of a word that stands twice the first counts.

    *Shape:* each vector `(size,)`.

    Raises `UserError`, naming the line, for vectors of another size, what is no number, and what is not UTF-8.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "vectors.txt")
        ...     _ = path.write_text("2 3\\nto 1 0 0.5\\nbe 0 1 0\\n", encoding="utf-8")
        ...     read_word_vectors(path, {"to": 7, "or": 8}, 3)
        {7: tensor([1.0000, 0.0000, 0.5000])}
    """
    found: dict[int, Tensor] = {}
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as lines:
            for number, raw in enumerate(lines, 1):
                parts = raw.decode("utf-8").rstrip().split(" ")
                if number == 1 and len(parts) == 2 and all(part.isdecimal() for part in parts):
                    continue
                if len(parts) <= size or (len(parts) > size + 1 and _number(parts[-size - 1])):
                    raise UserError(
                        f"{path}, line {number}: the vector of {parts[0]!r} has {len(parts) - 1} numbers; "
                        f"{size} are expected (the size of the model's embeddings)"
                    )
                word = words.get(" ".join(parts[:-size]))
                if word is None or word in found:
                    continue
                found[word] = torch.tensor([float(part) for part in parts[-size:]])
    except UnicodeDecodeError:
        raise UserError(f"{path}, line {number}: not UTF-8") from None
    except ValueError as error:
        raise UserError(f"{path}, line {number}: {error}") from None
    except (OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    return found


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
