"""Every `regard` command that the documentation shows is one that the command line understands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from regard.cli import main

FOLDER = Path(__file__).parent
# Of a command that runs over several lines, or in a pipe, only the part from `regard` on.
SHOWN = re.compile(r"^\$ (?:.*\| |[A-Z_]+=\S+ |.*-m )?regard ((?:.*\\\n)*[^|>\n]*)", re.MULTILINE)


def commands() -> list[str]:
    """The arguments of each command, without repetitions."""
    pages = [path for path in sorted(FOLDER.rglob("*.md")) if "_build" not in path.parts]
    found = [shown for page in pages for shown in SHOWN.findall(page.read_text(encoding="utf-8"))]
    return sorted({" ".join(shown.replace("\\\n", " ").split()) for shown in found})


@pytest.mark.parametrize("command", commands())
def test_command_is_understood(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, *arguments = shlex.split(command, comments=True)
    if name == "train" and "--resume" not in arguments:
        (Path.cwd() / "my.toml").write_text('task = "translation"\n[training]\nlearning_rate = 0.002\n')
        assert main([name, *arguments, "--settings"]) == 0
    elif name == "demo":
        assert main([name, *arguments, "--help"]) == 0
    else:  # there is no such run here, but nothing else is wrong
        status = main([name, *arguments])
        assert status == 0 or "there is no such run directory" in capsys.readouterr().err
