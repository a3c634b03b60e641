"""`regard export`: another program says what the run says, and what it cannot run is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regard.data import Vocabulary

TRANSFORMER = 3  # the recipe's number


def test_ctranslate2_says_what_the_run_says(
    regard: Callable[..., Any], trained: Callable[[int], Path], numerals: Path, tmp_path: Path
) -> None:
    peer = pytest.importorskip(
        "ctranslate2", reason="ctranslate2 is not installed: pip install 'regard[export]'"
    )
    run, folder = trained(TRANSFORMER), tmp_path / "exported"
    ended = regard("export", run, "--format", "ctranslate2", "--output", folder)
    assert ended.status == 0, ended.err
    texts = [
        line.split("\t")[0] for line in (numerals / "valid.tsv").read_text(encoding="utf-8").splitlines()
    ]
    (tmp_path / "in.txt").write_text("\n".join(texts), encoding="utf-8")
    expected = regard(
        "predict", run, tmp_path / "in.txt", "--beam", 4, "--length-penalty", 0
    ).out.splitlines()
    words = Vocabulary.load(folder / "tokenizer.json")
    translator = peer.Translator(str(folder), compute_type="float32", intra_threads=1)
    tokens = [[words.tokens[id] for id in ids] for ids in words.encode_batch(texts)]
    found = translator.translate_batch(tokens, beam_size=4, length_penalty=0)
    ids = {token: id for id, token in enumerate(words.tokens)}
    said = [words.decode([ids[token] for token in one.hypotheses[0]]) for one in found]
    assert said == expected
    assert len(set(said)) > 10


def test_what_cannot_be_exported_is_refused(refused: Callable[..., str], run: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    assert "'rnn'" in refused("export", run, "--format", "ctranslate2", "--output", new)
    assert "ctranslate2" in refused("export", run, "--format", "ctranslate", "--output", new)
    assert "already exists" in refused("export", run, "--format", "ctranslate2", "--output", tmp_path)
    assert "no such run" in refused("export", tmp_path / "no", "--format", "ctranslate2", "--output", new)
    assert not new.exists()


def test_without_ctranslate2_it_says_what_to_install(
    refused: Callable[..., str],
    trained: Callable[[int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    said = refused("export", trained(TRANSFORMER), "--format", "ctranslate2", "--output", tmp_path / "new")
    assert "pip install 'regard[export]'" in said
