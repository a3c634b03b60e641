"""Trained models in the formats of other programs, which run them without regard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from regard.export import ctranslate2

if TYPE_CHECKING:
    from regard.tasks.experiment import Trained

__all__ = ["FORMATS"]

FORMATS: dict[str, Callable[[Trained], Mapping[str, bytes]]] = {"ctranslate2": ctranslate2.files}
"""What makes the files of each format, by name; raises `UserError` for a run that the format cannot express."""
