"""Readers of the standard formats, vocabularies, batches, and the embedded samples."""

from regard.data.batches import Batch, Batches, collate, in_length_order, pair_batches
from regard.data.dates import sample_dates
from regard.data.faults import Faults
from regard.data.labelled import Labelled, read_labelled
from regard.data.pairs import Pair, Splits, read_lines, read_pairs
from regard.data.reviews import sample_reviews
from regard.data.vocabulary import BOS, EOS, PAD, UNK, Vocabulary

__all__ = [
    "BOS",
    "EOS",
    "PAD",
    "UNK",
    "Batch",
    "Batches",
    "Faults",
    "Labelled",
    "Pair",
    "Splits",
    "Vocabulary",
    "collate",
    "in_length_order",
    "pair_batches",
    "read_labelled",
    "read_lines",
    "read_pairs",
    "sample_dates",
    "sample_reviews",
]
