"""The spelling of a mechanism: `score[+modifier...]/normalizer[/mask or bias...]`, or `none`.

Layers, config files and the command line all name mechanisms so: `additive/softmax`, `cosine/sparsemax`,
`dot/top-4/window-64`, `scaled_dot+rotary+qknorm/softmax/causal`, `dot/entmax-1.3/alibi`.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from regard.attention.biases import BIASES, Bias
from regard.attention.masks import MASKS, Mask
from regard.attention.normalizers import NORMALIZERS, Normalizer
from regard.attention.scores import MODIFIERS, SCORES, Modifier, Rotary, Rotary2D, Score

__all__ = ["Mechanism", "listing", "mask_named", "normalizer_named", "score_named"]


_KINDS: dict[str, Mapping[str, Callable[..., Any]]] = {
    "score": SCORES,
    "modifier": MODIFIERS,
    "normalizer": NORMALIZERS,
    "mask": MASKS,
    "bias": BIASES,
}


@dataclass(frozen=True)
class Mechanism:
    """One way of attending: a score function, a normaliser, and perhaps masks and biases.

    `spelling` is for people to read; where it is not given, a mask or bias stands in it by the name of its class.
    Raises `TypeError` for a part that is not of its kind.

    Example:
        >>> import regard
        >>> mechanism = Mechanism.parse("dot/top-4/window-64")
        >>> mechanism.score.name, mechanism.normalizer.spelling, mechanism.spelling
        ('dot', 'top-4', 'dot/top-4/window-64')
        >>> Mechanism(regard.scores.Dot(), regard.normalizers.TopK(4)).spelling
        'dot/top-4'
    """

    score: Score
    normalizer: Normalizer
    mask: Mask | None = None
    bias: Bias | None = None
    spelling: str = ""

    def __post_init__(self) -> None:
        kinds = {"score": Score, "normalizer": Normalizer, "mask": Mask, "bias": Bias}
        for field, kind in kinds.items():
            part = getattr(self, field)
            if not isinstance(part, kind) and (part is not None or field in ("score", "normalizer")):
                raise TypeError(
                    f"the {field} of a mechanism must be an object of regard.{_plural(field)}, it is {part!r}"
                )
        if not self.spelling:
            places = [type(part).__name__.lower() for part in (self.mask, self.bias) if part is not None]
            words = [self.score.spelling, self.normalizer.spelling, *places]
            object.__setattr__(self, "spelling", "/".join(words))

    @classmethod
    def parse(cls, spelling: str) -> Mechanism:
        """Read a spelling; raises `ValueError` that says what exists and what was probably meant."""
        if not isinstance(spelling, str):
            raise TypeError(
                f"a mechanism must be spelt score/normalizer[/mask], it is {type(spelling).__name__}"
            )
        parts = spelling.strip().split("/")
        if parts == ["none"]:
            raise ValueError(
                "mechanism 'none' is for models that can do without attention: here there must be one"
            )
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

    def over_memory(self) -> Mechanism:
        """This mechanism for queries over a memory, which has places of its own: without its mask, its bias and its
        score's rotary positions, which tell how far a key is from a query; itself, where it has none of them.

        Example:
            >>> Mechanism.parse("dot+rotary+softcap-30/sparsemax/window-2/alibi").over_memory().spelling
            'dot+softcap-30/sparsemax'
        """
        score = _unturned(self.score)
        if score is self.score and self.mask is None and self.bias is None:
            return self
        return Mechanism(score, self.normalizer)


def _unturned(score: Score) -> Score:
    """The score without the modifiers that turn queries and keys by their places."""
    if not isinstance(score, Modifier):
        return score
    inner = _unturned(score.score)
    if isinstance(score, Rotary | Rotary2D):
        return inner
    return score if inner is score.score else replace(score, score=inner)


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


def mask_named(name: str) -> Mask:
    """The mask that `name` spells: `causal`, `window-64`, ...

    Raises `ValueError` that says what exists and what was probably meant.

    Example:
        >>> mask_named("window-64-0")
        Window(left=64, right=0)
    """
    found: Mask = _built("mask", name, MASKS)
    return found


def listing() -> str:
    """What a spelling is made of, in words; a word in capitals stands for a number, in brackets one that may be left
    out."""
    return "; ".join(_listed(kind, registry) for kind, registry in _KINDS.items())


def _listed(kind: str, registry: Mapping[str, Callable[..., Any]]) -> str:
    return f"{_plural(kind)} are {', '.join(_signature(name, factory) for name, factory in registry.items())}"


def _plural(kind: str) -> str:
    return {"bias": "biases", "mask or bias": "masks and biases"}.get(kind, f"{kind}s")


def _built(kind: str, spelling: str, registry: Mapping[str, Callable[..., Any]], *before: Score) -> Any:
    """What a registry's factory makes of the numbers after the name; `before` are its first arguments."""
    name, dash, rest = spelling.partition("-")
    numbers = [_number(word) for word in _words(rest)] if dash else []
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
    elsewhere = [
        other for other, parts in _KINDS.items() if name in parts and parts[name] is not registry.get(name)
    ]
    if elsewhere:
        meant = f" ({name!r} is a {elsewhere[0]}: the order is score[+modifier]/normalizer[/mask or bias])"
    raise ValueError(f"unknown {kind} {spelling!r}{meant}; {_listed(kind, registry)}")


def _words(rest: str) -> list[str]:
    """The words between dashes; an empty one makes the next negative: `sigmoid--2.5`."""
    words: list[str] = []
    sign = ""
    for word in rest.split("-"):
        if not word and not sign:
            sign = "-"
        else:
            words.append(sign + word)
            sign = ""
    return [*words, *([sign] if sign else [])]


def _number(word: str) -> int | float | None:
    """The number that a word of plain digits spells, with a decimal point or without; None for another word."""
    digits = word.removeprefix("-")
    if not digits.isascii() or not digits.replace(".", "", 1).isdigit():
        return None
    return int(word) if digits.isdigit() else float(word)


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
