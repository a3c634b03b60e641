"""The embedded sample of summarisation: the documentation of the standard library, each text and its first line."""

from __future__ import annotations

import hashlib
from functools import cache

from regard.data.documentation import documented
from regard.data.pairs import Pair, Splits

__all__ = ["sample_docstrings"]

FIRST, BELOW = 2, 8
"""The fewest words of a first line and of what follows it."""


@cache
def sample_docstrings() -> Splits:
    """What stands below the first line of a docstring, and that line: by convention (PEP 257) it says what all of it is
    about.

    A source begins with the full name and the parameters of what is documented. Held-out examples are of modules (a
    package is one) of which nothing is learnt, and share neither text nor first line with what is. The same on every
    call with one version of Python; the standard library is read once.

    Example:
        >>> splits = sample_docstrings()
        >>> next(pair.target for pair in splits.train if pair.source.startswith("textwrap.indent("))
        "Adds 'prefix' to the beginning of selected lines in 'text'."
    """
    parts: dict[str, list[Pair]] = {"train": [], "valid": [], "test": []}
    seen: dict[str, str] = {}
    for one in documented():
        paragraph, _, below = one.text.partition("\n\n")
        first, body = " ".join(paragraph.split()), " ".join(below.split())
        if "\n" in paragraph or len(first.split()) < FIRST or len(body.split()) < BELOW:
            continue
        part = _part(one.origin.partition(":")[0].partition("/")[0].removesuffix(".py"))
        if any(seen.setdefault(text.casefold(), part) != part for text in (first, body)):
            continue
        call = f"({', '.join(one.parameters)})" if one.parameters else ""
        parts[part].append(Pair(f"{one.name}{call}: {body}", first, one.origin))
    return Splits(parts["train"], parts["valid"], {"test": parts["test"]})


def _part(module: str) -> str:
    """Where a module belongs, by a hash of its name."""
    drawn = hashlib.blake2b(module.encode(), digest_size=2).digest()[0]
    return "valid" if drawn < 20 else "test" if drawn < 40 else "train"
