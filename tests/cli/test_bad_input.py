"""Bad input to training, and damaged runs: one sentence, status 2, and nothing left behind."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Change = Callable[[Path], object]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.en": "x\ny\nz\n", "b.de": "x\ny\n"}, ["a.en has 3 lines", "b.de has 2"]),
        ({"a.en": "", "b.de": ""}, ["a.en: the file is empty"]),
        ({"a.tsv": ""}, ["a.tsv: the file is empty"]),
        ({"a.tsv": "\n \n"}, ["a.tsv: all lines are blank"]),
        ({"a.tsv": b"a\tb\nc\t\xe4\n"}, ["a.tsv, line 2: not UTF-8 (byte 0xe4)"]),
        ({"a.tsv": "a\tb\nc\n"}, ["a.tsv, line 2: 1 column, expected at least 2"]),
        ({"a.tsv": "a\tb\n"}, ["a.tsv: 1 pair cannot be split"]),
        ({"a.en": "x\n\n", "b.de": "x\ny\n"}, ["a.en, line 2: blank", "b.de has a sentence"]),
        (
            {"a.tsv": "".join(f"{'x' * (600 if n == 6 else 3)}{n}\t{n}\n" for n in range(30))},
            ["a.tsv:7: the source has 601 tokens; at most 512 are allowed"],
        ),
        (
            {"a.tsv": "".join(f"{n}\t{'x' * (600 if n == 6 else 3)}{n}\n" for n in range(30))},
            ["a.tsv:7: the target has 601 tokens; at most 512 are allowed"],
        ),
    ],
)
def test_data_that_cannot_be_read(
    refused: Callable[..., str], config: Path, tmp_path: Path, files: dict[str, str | bytes], said: list[str]
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    data = [tmp_path / name for name in files]
    error = refused("train", "translation", "--config", config, "--run", tmp_path / "new", "--data", *data)
    for part in said:
        assert part in error
    assert not (tmp_path / "new").exists()


def test_a_held_out_sentence_that_is_too_long_is_found_before_training(
    refused: Callable[..., str], config: Path, numerals: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("train.tsv", "valid.tsv"):
        (folder / name).write_bytes((numerals / name).read_bytes())
    (folder / "test-2.tsv").write_text(f"い\t一\n{'い' * 600}\t二\n", encoding="utf-8")
    said = refused("train", "translation", "--config", config, "--run", tmp_path / "new", "--data", folder)
    assert "test-2.tsv:2: the source has 600 tokens" in said
    assert not (tmp_path / "new").exists()


def test_an_unreadable_file_is_named(
    refused: Callable[..., str], tiny_train: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", denied)
    assert "train.tsv: cannot be read (Permission denied)" in refused(*tiny_train)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--attention", "adative/softmax"],
            ["unknown score 'adative' (did you mean 'additive'?)", "cosine"],
        ),
        (
            ["--attention", "dot/sofmax"],
            ["unknown normalizer 'sofmax' (did you mean 'softmax'?)", "entmax15"],
        ),
        (["--attention", "softmax"], ["it is spelt score/normalizer"]),
        (["--attention", "dot/top-0"], ["top"]),
        (
            ["--model", "transfomer"],
            ["no model 'transfomer' (did you mean 'transformer'?)", "rnn, transformer"],
        ),
        (["--model", "transformer", "--attention", "none"], ["choose the model 'rnn'"]),
        (["--set", "rnn.hiden_size=3"], ["no setting 'hiden_size'; did you mean 'hidden_size'?"]),
        (["--set", "translation.xyz=3"], ["no setting 'xyz'; there are: source, target"]),
        (["--set", "trainng.steps=3"], ["no table 'trainng' (did you mean 'training'?)"]),
        (["--set", "rnn.hidden_size=big"], ["hidden_size is 'big'; a value of type int"]),
        (["--set", "rnn.hidden_size=0"], ["hidden_size must be at least 1"]),
        (["--set", "rnn.cell=rnn"], ["cell is 'rnn'; one of 'gru', 'lstm'"]),
        (["--set", "steps"], ["expected part.field=value"]),
        (["--set", "translation.metric=blue"], ["metric is 'blue'; one of 'bleu', 'chrf'"]),
        (["--set", "translation.bleu_tokenizer=13b"], ["bleu_tokenizer is '13b'; one of auto"]),
        (["--set", "translation.vocabulary=4"], ["a size of at least 5"]),
        (["--set", "training.max_tokens=2"], ["a batch may have only 2"]),
        (["--steps", "0"], ["steps is 0; a number above 0"]),
        (["--learning-rate=-1"], ["learning_rate is -1.0"]),
        (["--device", "cudda"], ["device is 'cudda', which is not here"]),
        (["--data", "nowhere"], ["nowhere: no such file or directory"]),
        (["--source", "en"], ["a tab-separated file has columns, not languages"]),
    ],
)
def test_settings_that_cannot_be(
    refused: Callable[..., str],
    numerals: Path,
    config: Path,
    tmp_path: Path,
    flags: list[str],
    said: list[str],
) -> None:
    data = [] if "--data" in flags else ["--data", numerals]
    error = refused("train", "translation", *data, "--config", config, "--run", tmp_path / "new", *flags)
    for part in said:
        assert part in error
    assert not (tmp_path / "new").exists()


def test_a_task_that_does_not_exist(refused: Callable[..., str], tmp_path: Path) -> None:
    said = refused("train", "translatoin", "--run", tmp_path / "new")
    assert "no task 'translatoin' (did you mean 'translation'?); there are: translation" in said
    assert "which task?" in refused("train", "--run", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a ==", "is not valid TOML"),
        (b"a = '\xff'", "is not valid TOML"),
        (b"", "which task?"),
        (b"task = 3", "which task?"),
        (b"task = 'translation'\nmodel = ['rnn']", "no model ['rnn']"),
        (b"task = 'translation'\ndata = 3", "a list of paths is expected"),
        (b"task = 'translation'\ntraining = 3", "training is 3; a table of settings is expected"),
        (b"task = 'translation'\n[trainng]\n", "no table 'trainng' (did you mean 'training'?)"),
        (b"task = 'translation'\n[rnn]\ncells = 1", "no setting 'cells'; did you mean 'cell'?"),
    ],
)
def test_a_file_of_settings_that_cannot_be(
    refused: Callable[..., str], tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "config.toml").write_bytes(content)
    assert said in refused("train", "--config", tmp_path / "config.toml", "--run", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_file_of_settings_that_is_not_there(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "there is no such file" in refused("train", "--config", tmp_path / "no.toml")
    assert "is a folder; --config takes a TOML file" in refused("train", "--config", tmp_path)


def edited(before: str, after: str) -> Change:
    """Replace a part of config.toml, which must be there."""

    def change(run: Path) -> None:
        text = (run / "config.toml").read_text(encoding="utf-8")
        assert before in text
        (run / "config.toml").write_text(text.replace(before, after), encoding="utf-8")

    return change


def cut(name: str, size: int) -> Change:
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[:size])


def without(name: str) -> Change:
    return lambda run: (run / name).unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (cut("model.safetensors", 5000), "model.safetensors is damaged"),
        (cut("model.safetensors", 0), "model.safetensors is damaged"),
        (without("model.safetensors"), "has no model yet"),
        (without("model.json"), "model.json is damaged"),
        (cut("model.json", 10), "model.json is damaged"),
        (without("tokenizer.source.json"), "tokenizer.source.json: cannot read the vocabulary"),
        (cut("tokenizer.target.json", 50), "tokenizer.target.json: not a vocabulary"),
        (without("config.toml"), "is not a run directory: it has no config.toml"),
        (cut("config.toml", 30), "config.toml is damaged"),
        (edited("format = 1", "format = 7"), "run format 7; this version of regard reads format 1"),
        (edited("format = 1", ""), "is not a run directory: its config.toml has no line"),
        (edited('task = "translation"', 'task = "trans"'), "config.toml: there is no task 'trans'"),
        (edited('task = "translation"', "task = 3"), "config.toml: there is no task 3"),
        (edited('task = "translation"', ""), "config.toml is damaged: it lacks 'task'"),
        (edited('model = "rnn"', 'model = "rmn"'), "no model 'rmn' (did you mean 'rnn'?)"),
        (edited("data = [", "data = [3,"), "a list of paths is expected"),
        (edited("[training]", "[other]"), "config.toml is damaged: it lacks 'training'"),
        (edited("hidden_size = 32", "hidden_size = 40"), "does not fit the model"),
        (edited("hidden_size = 32", "hiden_size = 32"), "did you mean 'hidden_size'?"),
        (edited('"additive/softmax"', '"additve/softmax"'), "unknown score 'additve'"),
    ],
)
@pytest.mark.parametrize("command", ["predict", "show", "evaluate"])
def test_a_damaged_run_is_told(
    refused: Callable[..., str], own_run: Path, command: str, change: Change, said: str
) -> None:
    change(own_run)
    before = sorted(own_run.rglob("*"))
    flags = {"predict": ["--text", "い"], "show": ["い"], "evaluate": []}[command]
    error = refused(command, own_run, *flags)
    assert said in error
    assert str(own_run) in error
    assert sorted(own_run.rglob("*")) == before


def test_a_damaged_checkpoint_is_told_on_resuming(refused: Callable[..., str], own_run: Path) -> None:
    last = max((own_run / "checkpoints").iterdir())
    (last / "optimizer.safetensors").write_bytes(b"")
    said = refused("train", "--resume", own_run, "--steps", "150")
    assert "optimizer.safetensors is damaged" in said
    assert "delete that checkpoint's folder to go on from the one before" in said


@pytest.mark.parametrize("command", ["predict", "evaluate", "show", "train"])
def test_what_is_no_run_is_told(refused: Callable[..., str], tmp_path: Path, command: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for name, said in (
        ("nowhere", "there is no such run directory"),
        ("file", "there is no such run directory"),
        ("folder", "is not a run directory: it has no config.toml"),
    ):
        flags = ["--resume", tmp_path / name] if command == "train" else [tmp_path / name]
        assert said in refused(command, *flags, *(["い"] if command == "show" else []))
    assert not list((tmp_path / "folder").iterdir())
