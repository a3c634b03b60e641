"""Encoders, decoders and their search; attention is a field of each."""

from __future__ import annotations

from regard.models.build import MODELS, build, describe
from regard.models.decoding import repeats_and_haste, search
from regard.models.hypothesis import Hypothesis
from regard.models.loss import smoothed_cross_entropy
from regard.models.pointer_generator import PointerGenerator, PointerGeneratorSettings
from regard.models.rnn import RecurrentSeq2Seq, RecurrentSettings
from regard.models.sampling import sample
from regard.models.sequence import SequenceToSequence, State
from regard.models.transformer import TransformerSeq2Seq, TransformerSettings

__all__ = [
    "MODELS",
    "Hypothesis",
    "PointerGenerator",
    "PointerGeneratorSettings",
    "RecurrentSeq2Seq",
    "RecurrentSettings",
    "SequenceToSequence",
    "State",
    "TransformerSeq2Seq",
    "TransformerSettings",
    "build",
    "describe",
    "repeats_and_haste",
    "sample",
    "search",
    "smoothed_cross_entropy",
]
