"""Similarity functions: how well each key answers each query.

A score function is a small frozen value. It says how queries and keys are *prepared* once (projected,
normalised), and how a block of prepared queries is *compared* with the keys. A score that is a plain
product of the prepared tensors says so (`product`), which is what fused kernels need to know.
To add one: write the class, list it in `SCORES`, or in `MODIFIERS` when it changes another score.
"""

from collections.abc import Callable

from regard.attention.scores.additive import Additive, Concat, LocationSensitive
from regard.attention.scores.distance import Distance
from regard.attention.scores.function import Function
from regard.attention.scores.modifier import Modifier
from regard.attention.scores.modifiers import LeakyReLU, QKNorm, SoftCap
from regard.attention.scores.prepared import Prepared
from regard.attention.scores.product import Cosine, Dot, General, Linear, Location, ScaledDot
from regard.attention.scores.rotary import Rotary, Rotary2D
from regard.attention.scores.score import Score

__all__ = [
    "MODIFIERS",
    "SCORES",
    "Additive",
    "Concat",
    "Cosine",
    "Distance",
    "Dot",
    "Function",
    "General",
    "LeakyReLU",
    "Linear",
    "Location",
    "LocationSensitive",
    "Modifier",
    "Prepared",
    "QKNorm",
    "Rotary",
    "Rotary2D",
    "ScaledDot",
    "Score",
    "SoftCap",
]

SCORES: dict[str, Callable[..., Score]] = {
    part.name: part
    for part in (Dot, ScaledDot, Cosine, General, Linear, Additive, Concat, Distance, Location)
}
"""Every score function by the name that spells it, with the numbers that may follow: `dot`, `location-200`."""

MODIFIERS: dict[str, Callable[..., Score]] = {
    part.name: part for part in (QKNorm, SoftCap, LeakyReLU, Rotary, Rotary2D)
}
"""What is spelt after a score and a plus sign, and changes it, with the numbers that follow: `dot+softcap-30`."""
