"""Flags that several commands share, and how `--set part.field=value` is read."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regard.errors import UserError


def changes(given: Sequence[str], shortcuts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The tables that `--set` flags and shortcut flags (`{"training.steps": 100}`, None where absent) describe.

    Example:
        >>> changes(["rnn.hidden_size=64", "rnn.cell=lstm"], {"training.steps": 9, "training.seed": None})
        {'rnn': {'hidden_size': 64, 'cell': 'lstm'}, 'training': {'steps': 9}}
    """
    tables: dict[str, dict[str, Any]] = {}
    for text in given:
        name, equals, value = text.partition("=")
        section, dot, field = name.strip().partition(".")
        if not (equals and dot and section and field):
            raise UserError(f"--set {text}: expected part.field=value, such as training.learning_rate=0.002")
        tables.setdefault(section, {})[field.replace("-", "_")] = _value(value.strip())
    for name, value in shortcuts.items():
        if value is not None:
            section, _, field = name.partition(".")
            tables.setdefault(section, {})[field] = value
    return tables


def answering(given: Sequence[str], shortcuts: dict[str, Any]) -> dict[str, Any]:
    """The settings of a task that `--set field=value` flags and shortcut flags (None where absent) give.

    Example:
        >>> answering(["length_penalty=0"], {"beam": 3})
        {'length_penalty': 0, 'beam': 3}
    """
    fields = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (equals and name.strip()):
            raise UserError(f"--set {text}: expected field=value, such as beam=5")
        fields[name.strip().replace("-", "_")] = _value(value.strip())
    return fields | {name: value for name, value in shortcuts.items() if value is not None}


def check_output(path: Path | None) -> None:
    """Raise `UserError` where no file can be written to, before the work for it is done."""
    if path is None:
        return
    if path.is_dir():
        raise UserError(f"--output {path} is a folder; a file is expected")
    if not path.parent.is_dir():
        raise UserError(f"--output {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"--output {path}: the folder {path.parent} cannot be written")


def _value(text: str) -> Any:
    """A TOML value, or the text itself where it is none."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
