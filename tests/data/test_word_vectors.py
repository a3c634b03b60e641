"""Word vectors: the usual text format and its oddities, and errors with the line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch

from regard.data.word_vectors import read_word_vectors
from regard.errors import UserError

WORDS = {"the": 4, "好": 5, "New York": 6, "3": 7}


@pytest.mark.parametrize("head", ["", "4 3\n"])
@pytest.mark.parametrize("compressed", [False, True])
def test_header_spaces_and_other_words(head: str, compressed: bool, tmp_path: Path) -> None:
    text = f"{head}the 1 2 3\n好 -1 0.5 1e-2 \nNew York 7 8 9\nother 0 0 0\nthe 9 9 9\n"
    path = tmp_path / ("v.txt" + ".gz" * compressed)
    path.write_bytes(gzip.compress(text.encode()) if compressed else text.encode())
    found = read_word_vectors(path, WORDS, 3)
    assert {place: vector.tolist() for place, vector in found.items()} == {
        4: [1, 2, 3], 5: [-1, 0.5, pytest.approx(0.01)], 6: [7, 8, 9]
    }  # fmt: skip
    assert all(vector.dtype == torch.float32 for vector in found.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"the 1 2\n", "line 1: the vector of 'the' has 2 numbers; 3 are expected"),
        (b"the 1 2 3\n\xe5\xa5\xbd 1 2 3 4\n", "line 2: the vector of '好' has 4 numbers; 3 are expected"),
        (b"the 1 2 x\n", "line 1: could not convert"),
        (b"the 1 2 3\n\xff 1 2 3\n", "line 2: not UTF-8"),
    ],
)
def test_errors_name_the_line(text: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_bytes(text)
    with pytest.raises(UserError, match=message):
        read_word_vectors(tmp_path / "v.txt", WORDS, 3)
    with pytest.raises(UserError, match="cannot be read"):
        read_word_vectors(tmp_path / "none.txt", WORDS, 3)
