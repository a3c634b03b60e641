"""What only a process of its own shows: several processes, a terminal, a pipe, and missing packages."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

COMMAND = [sys.executable, "-m", "regard"]


def losses(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record["loss"] for record in map(json.loads, lines) if record["kind"] == "train"]


def test_two_processes_learn_what_one_does(
    regard: Any, tiny_train: list[Any], tmp_path: Path, environment: dict[str, str]
) -> None:
    flags = [*tiny_train, "--steps", "12", "--device", "cpu", "--set", "training.record_every=2"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "--", "regard", *map(str, flags)],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("finished after 12 steps") == 1
    assert "Warning" not in done.stderr
    assert (tmp_path / "new/report.html").exists()
    alone = [tmp_path / "alone" if one == tmp_path / "new" else one for one in flags]
    assert regard(*alone).status == 0
    assert len(losses(tmp_path / "new")) == 6
    assert losses(tmp_path / "new") == pytest.approx(losses(tmp_path / "alone"), rel=1e-4)


def read_until(handle: int, wanted: bytes) -> bytes:
    """What comes from a pipe or terminal up to and with `wanted`."""
    seen = b""
    while wanted not in seen:
        ready, _, _ = select.select([handle], [], [], 120)
        assert ready, seen
        try:
            block = os.read(handle, 4096)
        except OSError:  # the other end of a terminal was closed
            block = b""
        assert block, seen
        seen += block
    return seen


@contextmanager
def started(arguments: list[str], **files: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does not outlive the test, whatever happens."""
    with subprocess.Popen(arguments, **files) as process:
        try:
            yield process
        finally:
            process.kill()


def test_predict_answers_each_line_of_a_pipe_as_it_comes(run: Path, environment: dict[str, str]) -> None:
    command = [*COMMAND, "predict", str(run)]
    with started(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line, answer in (("にさ\n", "二三\n"), ("ろ\n\n", "六\n\n")):
            process.stdin.write(line.encode())
            process.stdin.flush()
            assert read_until(process.stdout.fileno(), answer.encode()) == answer.encode()
        process.stdin.close()
        assert process.wait(60) == 0


def test_predict_asks_at_a_terminal(run: Path, environment: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    command = [*COMMAND, "predict", str(run)]
    with started(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        assert b"Ctrl-D" in read_until(ours, "› ".encode())
        for line, answer in (("いに", "一二"), ("い" * 600, "at most 512 are allowed"), ("さ", "三")):
            os.write(ours, f"{line}\n".encode())
            said = read_until(ours, "› ".encode()).decode()
            assert answer in said
            assert "Traceback" not in said
        os.write(ours, b"\x04")
        assert process.wait(60) == 0
    os.close(ours)


BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
import torch, regard
query = torch.ones(1, 2, 3)
print(regard.attend(query, query, query).shape)
from regard.cli import main
sys.exit(main(sys.argv[1:]))
"""
EXTRA = (
    *("accelerate", "babel", "cyclopts", "fontTools", "matplotlib", "PIL", "rich", "sacrebleu"),
    *("safetensors", "tokenizers", "tomli_w"),
)


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [(EXTRA, ["tasks"]), (("tokenizers",), ["predict", "RUN", "--text", "い"])],
)
def test_without_the_extra_the_library_works_and_the_command_says_what_to_install(
    run: Path, environment: dict[str, str], missing: tuple[str, ...], arguments: list[str]
) -> None:
    arguments = [str(run) if one == "RUN" else one for one in arguments]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(names=missing), *arguments],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout == "torch.Size([1, 2, 3])\n"
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'regard[tasks]'" in done.stderr
