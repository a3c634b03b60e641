"""Models by name: from settings, or from the plain dictionary that a run directory keeps, to a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from regard.errors import UserError
from regard.models.bidaf import BiDAF, BiDAFSettings
from regard.models.classifiers import (
    RecurrentClassifier,
    RecurrentClassifierSettings,
    TransformerClassifier,
    TransformerClassifierSettings,
)
from regard.models.pointer_generator import PointerGenerator, PointerGeneratorSettings
from regard.models.rnn import RecurrentSeq2Seq, RecurrentSettings
from regard.models.transformer import TransformerSeq2Seq, TransformerSettings
from regard.models.transformer_reader import TransformerReader, TransformerReaderSettings

MODELS: dict[str, tuple[type[Any], type[nn.Module]]] = {
    "rnn": (RecurrentSettings, RecurrentSeq2Seq),
    "transformer": (TransformerSettings, TransformerSeq2Seq),
    "pointer-generator": (PointerGeneratorSettings, PointerGenerator),
    "bidaf": (BiDAFSettings, BiDAF),
    "transformer-reader": (TransformerReaderSettings, TransformerReader),
    "rnn-classifier": (RecurrentClassifierSettings, RecurrentClassifier),
    "transformer-classifier": (TransformerClassifierSettings, TransformerClassifier),
}
"""Each model's settings and class, by the name used in configurations."""


def build(settings: Any) -> Any:
    """Return a newly initialised model.

    `settings` is a settings object, or what `describe` made of one: a dictionary with the model's name under
    `"model"`. Raises `UserError` for an unknown model, and for settings that are unknown, missing or out of range.

    Example:
        >>> model = build({"model": "rnn", "source_vocabulary": 9, "target_vocabulary": 9, "hidden_size": 4})
        >>> model.settings.hidden_size
        4
    """
    if isinstance(settings, Mapping):
        fields = dict(settings)
        name = fields.pop("model", None)
        if name not in MODELS:
            raise UserError(f"model must be one of {', '.join(MODELS)}, got {name!r}")
        kind, _ = MODELS[name]
        known = [field.name for field in dataclasses.fields(kind)]
        if unknown := [field for field in fields if field not in known]:
            raise UserError(f"model {name!r} has no setting {unknown[0]!r}; it has {', '.join(known)}")
        needed = [f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING]
        if missing := [field for field in needed if field not in fields]:
            raise UserError(f"model {name!r} needs the setting {missing[0]!r}")
        settings = kind(**fields)
    for kind, model in MODELS.values():
        if isinstance(settings, kind):
            return model(settings)
    raise TypeError(f"settings must be model settings or a mapping, got {type(settings).__name__}")


def describe(settings: Any) -> dict[str, str | int | float | bool]:
    """Return settings as a dictionary of plain values, ready for JSON or TOML; `build` reads it back.

    Example:
        >>> describe(RecurrentSettings(9, 9))["model"]
        'rnn'
    """
    for name, (kind, _) in MODELS.items():
        if isinstance(settings, kind):
            return {"model": name, **dataclasses.asdict(settings)}
    raise TypeError(f"settings must be model settings, got {type(settings).__name__}")
