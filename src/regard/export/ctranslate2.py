"""Transformers for CTranslate2, which translates with them in C++."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from regard.data.vocabulary import BOS, EOS, SPECIALS, UNK
from regard.errors import UserError, require
from regard.models.hypothesis import default_max_length
from regard.models.transformer import TransformerSeq2Seq, TransformerSettings

if TYPE_CHECKING:
    from regard.tasks.experiment import Trained

__all__ = ["convert", "files"]

SCORES = {"scaled_dot/softmax": None, "dot/softmax": 1.0}
"""The mechanisms that CTranslate2 has, and the factor of their scores where it is not the usual one."""


def files(trained: Trained) -> Mapping[str, bytes]:
    """The files of CTranslate2's model folder, and beside them those of the vocabularies, as in the run.

    Raises `UserError` unless the run is a translation by a Transformer whose mechanisms CTranslate2 has, and where
    CTranslate2 is not installed.
    """
    from regard.tasks.translation import Translation

    task, model = trained.task, trained.model
    if not isinstance(task, Translation):
        raise UserError(
            f"CTranslate2 runs translations; {trained.run.path} is a run of the task {task.name!r}"
        )
    if not isinstance(model, TransformerSeq2Seq):
        name = trained.experiment.model_name
        raise UserError(f"CTranslate2 runs Transformers; {trained.run.path} has a model of the kind {name!r}")
    _check(model.settings)
    require("ctranslate2", "export")
    places = max(task.settings.max_length, default_max_length(task.settings.max_length)) + 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        convert(model, task.source.tokens, task.target.tokens, places, folder)
        task.save(folder)
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def convert(
    model: TransformerSeq2Seq,
    source_tokens: Sequence[str],
    target_tokens: Sequence[str],
    places: int,
    folder: Path,
) -> None:
    """Write CTranslate2's files of a model into a folder; sources and targets may have `places` tokens.

    Raises `UserError` where CTranslate2 is not installed, and for a mechanism that it does not have.
    """
    _check(model.settings)
    specs: Any = require("ctranslate2", "export").specs
    settings = model.settings
    spec = specs.TransformerSpec.from_config(
        (settings.encoder_layers, settings.decoder_layers), settings.heads, pre_norm=settings.pre_norm
    )
    learned = getattr(model.positions, "table").shape[0] if settings.positions == "learned" else places  # noqa: B009
    table = _array(model.positions(0, learned))
    tables = model.embeddings
    ends = (
        (spec.encoder, model.encoder_norm, tables.target if tables.source is None else tables.source),
        (spec.decoder, model.decoder_norm, tables.target),
    )
    for end, norm, words in ends:
        (end.embeddings[0] if end is spec.encoder else end.embeddings).weight = _array(words)
        end.scale_embeddings = tables.scale
        end.position_encodings.encodings = table
        if settings.pre_norm:
            _norm(end.layer_norm, norm)
    spec.decoder.projection.weight = _array(model.output_weight)
    of: Any
    for layer, of in zip(spec.encoder.layer, model.encoder, strict=True):
        _self_attention(layer.self_attention, of, settings.attention)
        _feed_forward(layer.ffn, of)
    for layer, of in zip(spec.decoder.layer, model.decoder, strict=True):
        _self_attention(layer.self_attention, of, settings.attention)
        over = of.cross_attention
        for linear, ours in zip(
            layer.attention.linear, (over.query, over.key_value, over.output), strict=True
        ):
            _linear(linear, ours)
        _scale(layer.attention, settings.over_source.spelling)
        _norm(layer.attention.layer_norm, of.around_cross_attention.norm)
        _feed_forward(layer.ffn, of)
    config = spec.config
    config.unk_token, config.bos_token, config.eos_token = (SPECIALS[id] for id in (UNK, BOS, EOS))
    config.decoder_start_token = SPECIALS[BOS]
    config.layer_norm_epsilon = nn.LayerNorm(1).eps
    spec.register_source_vocabulary(list(source_tokens))
    spec.register_target_vocabulary(list(target_tokens))
    spec.validate()
    spec.optimize(quantization=None)
    spec.save(str(folder))


def _check(settings: TransformerSettings) -> None:
    for field, spelling in (
        ("attention", settings.attention),
        ("cross_attention", settings.over_source.spelling),
    ):
        if spelling not in SCORES:
            raise UserError(
                f"CTranslate2 has no attention but {' and '.join(SCORES)}: a model with {field} {spelling!r} runs in "
                f"regard alone"
            )


def _self_attention(spec: Any, layer: Any, mechanism: str) -> None:
    _linear(spec.linear[0], layer.attention.query_key_value)
    _linear(spec.linear[1], layer.attention.output)
    _scale(spec, mechanism)
    _norm(spec.layer_norm, layer.around_attention.norm)


def _feed_forward(spec: Any, layer: Any) -> None:
    _linear(spec.linear_0, layer.feed_forward.widen)
    _linear(spec.linear_1, layer.feed_forward.narrow)
    _norm(spec.layer_norm, layer.around_feed_forward.norm)


def _scale(spec: Any, mechanism: str) -> None:
    if (factor := SCORES[mechanism]) is not None:
        spec.queries_scale = np.float32(factor)


def _linear(spec: Any, linear: nn.Linear) -> None:
    spec.weight, spec.bias = _array(linear.weight), _array(linear.bias)


def _norm(spec: Any, norm: nn.Module) -> None:
    assert isinstance(norm, nn.LayerNorm)
    spec.gamma, spec.beta = _array(norm.weight), _array(norm.bias)


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().to("cpu", torch.float32).contiguous().numpy()
