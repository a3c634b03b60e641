"""Frozen dataclasses of settings to and from the tables of a TOML file."""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from regard.errors import UserError

Settings = TypeVar("Settings")

# TOML has no null: a setting that may be None, but is not None by default, is written as this word.
NONE = "none"


def to_table(settings: Any) -> dict[str, Any]:
    """The TOML table of a settings dataclass; settings that are None by default and stay None are left out.

    Example:
        >>> from regard.training import TrainingSettings
        >>> to_table(TrainingSettings(steps=100))["steps"]
        100
    """
    table: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value is None and field.default is None:
            continue
        table[field.name] = NONE if value is None else list(value) if isinstance(value, tuple) else value
    return table


def from_table(kind: type[Settings], table: Mapping[str, Any], where: str) -> Settings:
    """The settings dataclass `kind` read from a TOML table found at `where` (named in errors).

    Example:
        >>> from regard.training import TrainingSettings
        >>> from_table(TrainingSettings, {"clip": "none", "betas": [0.9, 0.95]}, "my.toml, training").betas
        (0.9, 0.95)

    Raises:
        UserError: An unknown setting, or a value of the wrong type or out of range.
    """
    hints = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(names)}"
            raise UserError(f"{where}: there is no setting {name!r}; {hint}")
        values[name] = _read(hints[name], value, f"{where}: {name}")
    required = [
        field.name
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing := [name for name in required if name not in values]:
        raise UserError(f"{where}: the setting {missing[0]!r} is missing")
    try:
        return kind(**values)
    except (UserError, ValueError) as error:
        raise UserError(f"{where}: {error}") from None


def _read(hint: Any, value: Any, where: str) -> Any:
    """One TOML value as the annotated type `hint`: int, float, bool, str, Literal, tuple or an optional of these."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        if (value is None or value == NONE) and type(None) in get_args(hint):
            return None
        choices = [choice for choice in get_args(hint) if choice is not type(None)]
        for choice in choices:
            try:
                return _read(choice, value, where)
            except UserError:
                if choice is choices[-1]:
                    raise
    if origin is Literal:
        if value in get_args(hint):
            return value
        raise UserError(f"{where} is {value!r}; one of {', '.join(map(repr, get_args(hint)))} is expected")
    if origin is tuple and isinstance(value, (list, tuple)):
        inner = get_args(hint)
        if inner[-1] is Ellipsis:
            inner = (inner[0],) * len(value)
        if len(inner) != len(value):
            raise UserError(f"{where} has {len(value)} values; {len(inner)} are expected")
        return tuple(_read(part, item, where) for part, item in zip(inner, value, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool) == isinstance(value, bool):
        return value
    name = hint.__name__ if isinstance(hint, type) else str(hint)
    raise UserError(f"{where} is {value!r}; a value of type {name} is expected")
