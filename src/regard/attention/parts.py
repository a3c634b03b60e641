"""Parts of a mechanism: small frozen values that may hold tensors, themselves or in the parts they are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["Part", "named_tensors", "spelt", "tensors_of", "with_tensors"]


@dataclass(frozen=True, eq=False)
class Part:
    """A score function, normaliser or bias: its fields are numbers, words, tensors, tuples of tensors, other parts."""

    @property
    def fixed(self) -> frozenset[str]:
        """The names of those tensors, as `named_tensors` has them, that a layer does not learn."""
        return frozenset()


Some = TypeVar("Some", bound=Part)


def tensors_of(part: Part) -> list[Tensor]:
    """The tensors of a part and of the parts it is made of, in the order of its fields."""
    found: list[Tensor] = []
    for value in vars(part).values():
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, Part):
            found += tensors_of(value)
        elif isinstance(value, tuple):
            found += [one for one in value if isinstance(one, Tensor)]
    return found


def named_tensors(part: Part) -> dict[str, Tensor]:
    """The same tensors by name: the fields that lead to each, joined by underscores.

    Example:
        >>> import torch, regard
        >>> score = regard.scores.SoftCap(regard.scores.Additive(weight=torch.ones(4)), cap=30.0)
        >>> list(named_tensors(score))
        ['score_weight']
    """
    found: dict[str, Tensor] = {}
    for name, value in vars(part).items():
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, Part):
            found |= {f"{name}_{inner}": tensor for inner, tensor in named_tensors(value).items()}
        elif isinstance(value, tuple):
            found |= {f"{name}_{i}": one for i, one in enumerate(value) if isinstance(one, Tensor)}
    return found


def with_tensors(part: Some, tensors: Iterable[Tensor]) -> Some:
    """The same part with other tensors, in the order of `tensors_of`."""
    return _filled(part, iter(tensors))


def _filled(part: Some, tensors: Iterator[Tensor]) -> Some:
    changes: dict[str, Any] = {}
    for name, value in vars(part).items():
        if isinstance(value, Tensor):
            changes[name] = next(tensors)
        elif isinstance(value, Part) and tensors_of(value):
            changes[name] = _filled(value, tensors)
        elif isinstance(value, tuple) and any(isinstance(one, Tensor) for one in value):
            changes[name] = tuple(next(tensors) if isinstance(one, Tensor) else one for one in value)
    return dataclasses.replace(part, **changes) if changes else part


def spelt(part: Part, name: str) -> str:
    """A name and, after dashes, the numbers among the fields of a part, up to the last that is not as by default.

    Example:
        >>> import regard
        >>> spelt(regard.normalizers.Softmax(temperature=0.5), "softmax")
        'softmax-0.5'
    """
    words, kept = [name], 1
    if torch.compiler.is_compiling():
        # A compiler has no digits of a number that it keeps open.
        return name
    for field in dataclasses.fields(part):
        number = getattr(part, field.name)
        if isinstance(number, int | float) and not isinstance(number, bool) and not field.kw_only:
            words.append(_plain(number))
            kept = kept if number == field.default else len(words)
    return "-".join(words[:kept])


def _plain(number: float) -> str:
    """A number in digits alone, as many as tell it from any other."""
    text = repr(number)
    if "e" in text:
        digits, _, exponent = text.partition("e")
        text = f"{number:.{max(len(digits.partition('.')[2]) - int(exponent), 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
