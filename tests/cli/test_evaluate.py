"""`regard evaluate`: how good a run is, on its own data or others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_it_prints_every_held_out_split_and_how_it_was_measured(regard: Any, run: Path) -> None:
    lines = regard("evaluate", run).out.splitlines()
    assert lines[0].startswith("valid: 50 examples  exact_match ")
    assert any(line.startswith("bleu: nrefs:1|") and "tok:zh" in line for line in lines)
    assert not any(line.startswith("train") for line in lines)


def test_json_has_an_object_for_each_split(regard: Any, run: Path) -> None:
    [valid] = map(json.loads, regard("evaluate", run, "--json").out.splitlines())
    assert (valid["split"], valid["examples"]) == ("valid", 50)
    assert valid["chrf"] > 90
    assert "version:" in valid["chrf_signature"]
    [train] = map(
        json.loads, regard("evaluate", run, "--split", "train", "--json", "--beam", "3").out.splitlines()
    )
    assert (train["split"], train["examples"]) == ("train", 200)


def test_what_training_recorded_is_what_evaluate_finds(regard: Any, run: Path) -> None:
    saved = json.loads((run / "model.json").read_text(encoding="utf-8"))["metrics"]
    found = json.loads(regard("evaluate", run, "--json").out)
    assert {name: found[name] for name in saved} == pytest.approx(saved, abs=1e-4)


def test_other_files_are_judged_whole_and_in_order(regard: Any, run: Path, tmp_path: Path) -> None:
    pairs = [("いに", "一二"), ("さ", "三"), ("ろ", "五"), ("よごろ", "四五六"), ("ご", "五")]
    (tmp_path / "a.ja").write_text("".join(f"{a}\n" for a, _ in pairs), encoding="utf-8")
    (tmp_path / "a.zh").write_text("".join(f"{b}\n" for _, b in pairs), encoding="utf-8")
    data = ["--data", tmp_path / "a.ja", tmp_path / "a.zh"]
    found = json.loads(regard("evaluate", run, *data, "--json", "--output", tmp_path / "said").out)
    assert (found["examples"], found["exact_match"]) == (5, 0.8)
    said = (tmp_path / "said").read_text(encoding="utf-8").splitlines()
    assert said == ["一二", "三", "六", "四五六", "五"]


def test_the_output_has_a_line_for_each_example(
    regard: Any, run: Path, numerals: Path, tmp_path: Path
) -> None:
    assert regard("evaluate", run, "--split", "valid", "--output", tmp_path / "said").status == 0
    said = (tmp_path / "said").read_text(encoding="utf-8").splitlines()
    wanted = [
        line.split("\t")[1] for line in (numerals / "valid.tsv").read_text(encoding="utf-8").splitlines()
    ]
    assert sum(a == b for a, b in zip(said, wanted, strict=True)) >= 45


def test_bad_input_is_refused(refused: Callable[..., str], run: Path, tmp_path: Path) -> None:
    assert "no split 'vaild' (did you mean 'valid'?); there are: train, valid" in refused(
        "evaluate", run, "--split", "vaild"
    )
    assert "beam is 0; at least 1 is expected" in refused("evaluate", run, "--beam", "0")
    assert "is a folder" in refused("evaluate", run, "--output", tmp_path)
    assert "no folder" in refused("evaluate", run, "--output", tmp_path / "no/file")
    assert "no such file" in refused("evaluate", run, "--data", tmp_path / "no.tsv")
    assert "device is 'cudda'" in refused("evaluate", run, "--device", "cudda")
    (tmp_path / "a.tsv").write_text("い\t一\n" * 3 + f"{'い' * 600}\t一\n" + "に\t二\n", encoding="utf-8")
    assert "a.tsv:4: the source has 600 tokens; at most 512" in refused(
        "evaluate", run, "--data", tmp_path / "a.tsv"
    )
