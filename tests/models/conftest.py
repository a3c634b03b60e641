"""Tiny models and batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from regard.models import SequenceToSequence, build

TINY: dict[str, dict[str, Any]] = {
    "bahdanau": {"model": "rnn"},
    "bahdanau-lstm": {"model": "rnn", "cell": "lstm", "encoder_layers": 2, "decoder_layers": 2},
    "bahdanau-none": {"model": "rnn", "attention": "none"},
    "bahdanau-heads": {"model": "rnn", "attention": "scaled_dot/softmax", "heads": 2},
    "luong": {"model": "rnn", "wiring": "luong", "attention": "general/softmax", "decoder_layers": 2},
    "luong-lstm-none": {"model": "rnn", "wiring": "luong", "cell": "lstm", "attention": "none"},
    "luong-plain": {"model": "rnn", "wiring": "luong-plain", "attention": "dot/top-2", "decoder_layers": 2},
    "luong-plain-lstm": {"model": "rnn", "wiring": "luong-plain", "cell": "lstm", "bidirectional": False},
    "transformer": {"model": "transformer"},
    "transformer-post": {"model": "transformer", "pre_norm": False, "positions": "learned"},
    "transformer-additive": {
        "model": "transformer",
        "attention": "additive/sparsemax",
        "cross_attention": "cosine/softmax",
    },
    "transformer-places": {"model": "transformer", "attention": "scaled_dot+rotary/softmax/alibi"},
    "transformer-window": {"model": "transformer", "attention": "scaled_dot/softmax/window-2"},
    "pointer-generator": {"model": "pointer-generator"},
    "pointer-generator-lstm": {
        "model": "pointer-generator",
        "attention": "dot/sparsemax",
        "cell": "lstm",
        "encoder_layers": 2,
        "decoder_layers": 2,
        "tie_embeddings": "none",
    },
    "pointer-generator-sigmoid": {
        "model": "pointer-generator",
        "attention": "cosine/sigmoid",
        "bidirectional": False,
        "coverage": False,
    },
}
SIZES: dict[str, dict[str, Any]] = {
    "rnn": {"source_vocabulary": 11, "target_vocabulary": 12, "embedding_size": 6, "hidden_size": 8},
    "pointer-generator": {
        "source_vocabulary": 12,
        "target_vocabulary": 12,
        "embedding_size": 6,
        "hidden_size": 8,
    },
    "transformer": {
        "source_vocabulary": 11,
        "target_vocabulary": 12,
        "size": 8,
        "ffn_size": 12,
        "heads": 2,
        "encoder_layers": 2,
        "decoder_layers": 2,
    },
}


@pytest.fixture
def tiny() -> Callable[..., SequenceToSequence[Any]]:
    """A function from a name in TINY (and further settings) to a float64 model in evaluation mode."""

    def make(name: str, **more: Any) -> SequenceToSequence[Any]:
        torch.manual_seed(0)
        settings = {**SIZES[TINY[name]["model"]], **TINY[name], **more}
        model = build(settings).double().eval()
        with torch.no_grad():  # away from the flat start, so that differences would show
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
        return model

    return make


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four sentence pairs of different lengths: source, its lengths, target, its lengths."""
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(3, 11, (4, 7), generator=generator)
    source_lengths = torch.tensor([7, 3, 5, 1])
    source[torch.arange(7) >= source_lengths[:, None]] = 0
    target = torch.randint(3, 12, (4, 6), generator=generator)
    target[:, 0] = 1
    target_lengths = torch.tensor([5, 2, 4, 1])
    target[torch.arange(6) > target_lengths[:, None]] = 0
    return source, source_lengths, target, target_lengths
