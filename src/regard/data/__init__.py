"""Reading pairs of sentences, vocabularies, batches, and the embedded sample of dates."""

from regard.data.batches import Batch, Batches, collate, in_length_order
from regard.data.dates import sample_dates
from regard.data.pairs import Pair, Splits, read_lines, read_pairs
from regard.data.vocabulary import BOS, EOS, PAD, UNK, Vocabulary

__all__ = [
    "BOS",
    "EOS",
    "PAD",
    "UNK",
    "Batch",
    "Batches",
    "Pair",
    "Splits",
    "Vocabulary",
    "collate",
    "in_length_order",
    "read_lines",
    "read_pairs",
    "sample_dates",
]
