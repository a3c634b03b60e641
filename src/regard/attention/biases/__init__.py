"""Biases: numbers that are added to the scores before they are normalised.

A bias is a small frozen value that can be asked for any block of rows and columns. Biases add up with `+`.
To add one: write the class; list it in `BIASES` when it has a spelling.
"""

from collections.abc import Callable

from regard.attention.biases.alibi import ALiBi, alibi
from regard.attention.biases.bias import Bias, Dense, Sum, as_bias
from regard.attention.biases.distances import Distances
from regard.attention.biases.function import Function, function
from regard.attention.biases.relative import T5, Relative, Relative2D, Table, relative, relative_2d, t5

__all__ = [
    "BIASES",
    "T5",
    "ALiBi",
    "Bias",
    "Dense",
    "Distances",
    "Function",
    "Relative",
    "Relative2D",
    "Sum",
    "Table",
    "alibi",
    "as_bias",
    "function",
    "relative",
    "relative_2d",
    "t5",
]

BIASES: dict[str, Callable[..., Bias]] = {
    "alibi": alibi,
    "t5": T5,
    "relative": Relative,
    "relative_2d": Relative2D,
}
"""Biases that have a spelling, with the numbers that follow the name; a layer gives them their heads."""
