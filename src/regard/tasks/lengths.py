"""Texts that are too long: refused, with how many there are, or cut when told, which is said once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TypeVar

from regard.errors import UserError

__all__ = ["Lengths"]

Tokens = TypeVar("Tokens", list[int], tuple[str, ...])


class Lengths:
    """Brings the texts of a task to a most length.

    Example:
        >>> Lengths("sentiment").bring([[4, 5, 6], [7]], ["a.txt:1", "a.txt:2"], 3, "text", "max_length", False)
        [[4, 5, 6], [7]]
    """

    def __init__(self, task: str) -> None:
        self.task = task
        self._told: set[str] = set()

    def bring(
        self,
        texts: Sequence[Tokens],
        origins: Sequence[str],
        limit: int,
        what: str,
        setting: str,
        truncate: bool,
        unit: str = "tokens",
    ) -> list[Tokens]:
        """The texts, none longer than `limit`; `what` they are, and the `setting` of the limit, are named.

        Raises `UserError`, naming the first that is too long, unless they are to be cut.
        """
        long = [place for place, text in enumerate(texts) if len(text) > limit]
        if long and not truncate:
            others = f", and {len(long) - 1:,} more of {len(texts):,} are too long" if len(long) > 1 else ""
            raise UserError(
                f"{origins[long[0]]}: the {what} has {len(texts[long[0]])} {unit}; at most {limit} are allowed"
                f"{others} (train with --set {self.task}.{setting}=... to allow more, or --set "
                f"{self.task}.truncate=true to cut it)"
            )
        said = f"{len(long):,} of {len(texts):,} {what}s cut to {limit} {unit}"
        if long and said not in self._told:  # the same texts are evaluated again and again
            self._told.add(said)
            print(said, file=sys.stderr)
        return [text[:limit] for text in texts]
