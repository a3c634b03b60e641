"""The spelling of a mechanism: `score/normalizer[/mask...]`, or `none`.

Layers, config files and the command line all name mechanisms so: `additive/softmax`, `cosine/sparsemax`,
`dot/top-4/window-64`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from regard.attention.masks import MASKS, Mask
from regard.attention.normalizers import NORMALIZERS, NUMBERED, Normalizer
from regard.attention.scores import SCORES, Score

__all__ = ["LISTING", "Mechanism", "normalizer_named", "score_named"]

LISTING = (
    f"scores are {', '.join(SCORES)}; "
    f"normalizers are {', '.join([*NORMALIZERS, *(f'{name}-K' for name in NUMBERED)])}; "
    "masks are causal, window-N, window-LEFT-RIGHT"
)
"""What a spelling is made of, in words."""


@dataclass(frozen=True)
class Mechanism:
    """One way of attending: a score function, a normaliser and perhaps a mask, by name.

    Example:
        >>> mechanism = Mechanism.parse("dot/top-4/window-64")
        >>> mechanism.score, mechanism.normalizer.spelling, mechanism.spelling
        ('dot', 'top-4', 'dot/top-4/window-64')
    """

    score: str
    normalizer: Normalizer
    mask: Mask | None
    spelling: str

    @classmethod
    def parse(cls, spelling: str) -> Mechanism:
        """Read a spelling; raises `ValueError` that says what exists and what was probably meant."""
        parts = spelling.strip().split("/")
        if len(parts) < 2 or not all(parts):
            what = difflib.get_close_matches(spelling, SCORES, 1)
            meant = f"; did you mean {what[0]}/softmax?" if what else ""
            raise ValueError(
                f"unknown mechanism {spelling!r}: it is spelt score/normalizer[/mask], such as "
                f"additive/softmax or dot/top-4/window-64, or it is 'none' where a model may do "
                f"without attention{meant}; {LISTING}"
            )
        score_named(parts[0])
        mask: Mask | None = None
        for part in parts[2:]:
            one = _mask_named(part)
            mask = one if mask is None else mask & one
        return cls(parts[0], normalizer_named(parts[1]), mask, "/".join(parts))


def score_named(name: str) -> Score:
    """The score function that `name` spells, with its default parameters.

    Raises `ValueError` that says what exists and what was probably meant.

    Example:
        >>> score_named("scaled_dot")
        ScaledDot(scale=None)
    """
    if name not in SCORES:
        raise ValueError(f"unknown score {name!r}{_nearest(name, SCORES)}; {LISTING}")
    return SCORES[name]()


def normalizer_named(name: str) -> Normalizer:
    """The normaliser that `name` spells: `softmax`, `sparsemax`, `top-4`, ...

    Raises `ValueError` that says what exists and what was probably meant.

    Example:
        >>> normalizer_named("top-4")
        TopK(k=4)
    """
    if name in NORMALIZERS:
        return NORMALIZERS[name]()
    head, dash, number = name.partition("-")
    if dash and head in NUMBERED and number.isascii() and number.isdigit():
        return NUMBERED[head](int(number))
    known = [*NORMALIZERS, *(f"{numbered}-4" for numbered in NUMBERED)]
    raise ValueError(f"unknown normalizer {name!r}{_nearest(name, known)}; {LISTING}")


def _mask_named(name: str) -> Mask:
    head, *numbers = name.split("-")
    if head in MASKS and all(number.isascii() and number.isdigit() for number in numbers):
        try:
            return MASKS[head](*(int(number) for number in numbers))
        except TypeError:
            pass
    raise ValueError(f"unknown mask {name!r}{_nearest(name, ['causal', 'window-64'])}; {LISTING}")


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""
