"""Every `regard` command that the documentation shows is one that the command line understands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from regard.cli import main

FOLDER = Path(__file__).parent
# Of a command in a pipe or under a launcher, the part from `regard` on.
SHOWN = re.compile(r"^\$ (?:.*\| |.*-m (?:-- )?)?regard ([^|>\n]*)", re.MULTILINE)


def commands() -> dict[str, str]:
    """The arguments of each command, and the page that shows it."""
    pages = [path for path in sorted(FOLDER.rglob("*.md")) if "_build" not in path.parts]
    texts = [page.read_text(encoding="utf-8") for page in pages]
    return {shown.strip(): text for text in texts for shown in SHOWN.findall(text)}


@pytest.mark.parametrize(("command", "page"), commands().items(), ids=commands())
def test_command_is_understood(command: str, page: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("my.toml").write_text('task = "translation"\n[training]\nlearning_rate = 0.002\n', encoding="utf-8")
    name, *arguments = shlex.split(command)
    if name == "train" and not {"--resume", "--settings"} & set(arguments):
        arguments.append("--settings")  # read and check everything, train nothing
    elif name == "demo":
        arguments.append("--help")
    status = main([name, *arguments])
    error = capsys.readouterr().err
    # The runs and files of the page are not here; an error that the page shows is meant.
    assert status == 0 or ": there is no such" in error or error[:60] in page, error
