"""The spelling of a mechanism: `score[+modifier...]/normalizer[/mask or bias...]`, or `none`.

Layers, config files and the command line all name mechanisms so: `additive/softmax`, `cosine/sparsemax`,
`dot/top-4/window-64`, `scaled_dot+rotary+qknorm/softmax/causal`, `dot/entmax-1.3/alibi`.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from regard.attention.biases import BIASES, Bias
from regard.attention.masks import MASKS, Mask
from regard.attention.normalizers import NORMALIZERS, Normalizer
from regard.attention.scores import MODIFIERS, SCORES, Score

__all__ = ["Mechanism", "listing", "normalizer_named", "score_named"]


@dataclass(frozen=True)
class Mechanism:
    """One way of attending: a score function, a normaliser, and perhaps masks and biases.

    Example:
        >>> mechanism = Mechanism.parse("dot/top-4/window-64")
        >>> mechanism.score.name, mechanism.normalizer.spelling, mechanism.spelling
        ('dot', 'top-4', 'dot/top-4/window-64')
    """

    score: Score
    normalizer: Normalizer
    mask: Mask | None
    bias: Bias | None
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
                f"without attention{meant}; {_listed('score', SCORES)}"
            )
        mask: Mask | None = None
        bias: Bias | None = None
        for part in parts[2:]:
            one = _built("mask or bias", part, {**MASKS, **BIASES})
            if isinstance(one, Bias):
                bias = one if bias is None else bias + one
            else:
                mask = one if mask is None else mask & one
        return cls(score_named(parts[0]), normalizer_named(parts[1]), mask, bias, "/".join(parts))


def score_named(name: str) -> Score:
    """The score function that `name` spells, with its default parameters and its modifiers.

    Raises `ValueError` that says what exists and what was probably meant.

    Example:
        >>> score_named("scaled_dot")
        ScaledDot(scale=None)
        >>> score_named("scaled_dot+softcap-30").spelling
        'scaled_dot+softcap-30'
    """
    first, *modifiers = name.split("+")
    score: Score = _built("score", first, SCORES)
    for modifier in modifiers:
        score = _built("modifier", modifier, MODIFIERS, score)
    return score


def normalizer_named(name: str) -> Normalizer:
    """The normaliser that `name` spells: `softmax`, `sparsemax`, `top-4`, ...

    Raises `ValueError` that says what exists and what was probably meant.

    Example:
        >>> normalizer_named("top-4")
        TopK(k=4)
    """
    found: Normalizer = _built("normalizer", name, NORMALIZERS)
    return found


def listing() -> str:
    """What a spelling is made of, in words; a word in capitals stands for a number, in brackets one that may be left
    out."""
    kinds: dict[str, Mapping[str, Callable[..., Any]]] = {
        "score": SCORES,
        "modifier": MODIFIERS,
        "normalizer": NORMALIZERS,
        "mask": MASKS,
        "bias": BIASES,
    }
    return "; ".join(_listed(kind, registry) for kind, registry in kinds.items())


def _listed(kind: str, registry: Mapping[str, Callable[..., Any]]) -> str:
    plural = {"bias": "biases", "mask or bias": "masks and biases"}.get(kind, f"{kind}s")
    return f"{plural} are {', '.join(_signature(name, factory) for name, factory in registry.items())}"


def _built(kind: str, spelling: str, registry: Mapping[str, Callable[..., Any]], *before: Score) -> Any:
    """What a registry's factory makes of the numbers after the name; `before` are its first arguments."""
    name, *words = spelling.split("-")
    numbers = [_number(word) for word in words]
    if name in registry and None not in numbers:
        try:
            inspect.signature(registry[name]).bind(*before, *numbers)
        except TypeError:
            pass
        else:
            return registry[name](*before, *numbers)
    close = difflib.get_close_matches(name, registry, 1)
    meant = ""
    if close:
        same = close[0] == name
        meant = (
            f" (it is spelt {_signature(name, registry[name])})" if same else f" (did you mean {close[0]!r}?)"
        )
    raise ValueError(f"unknown {kind} {spelling!r}{meant}; {_listed(kind, registry)}")


def _number(word: str) -> int | float | None:
    """The number that a word of plain digits spells, with a decimal point or without; None for another word."""
    if not word.isascii() or not word.replace(".", "", 1).isdigit():
        return None
    return int(word) if word.isdigit() else float(word)


def _signature(name: str, factory: Callable[..., Any]) -> str:
    """A name and the numbers that may follow it."""
    spelt = name
    for parameter in inspect.signature(factory).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            continue
        kinds = set(str(parameter.annotation).replace("|", " ").split())
        if kinds & {"int", "float"}:
            letter = f"-{parameter.name.upper()}"
            spelt += letter if parameter.default is parameter.empty else f"[{letter}]"
    return spelt
