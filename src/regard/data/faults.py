"""What is wrong with the examples of a data set: refused with a count and examples, or left out and reported."""

from __future__ import annotations

import sys

from regard.errors import UserError

SHOWN = 3


class Faults:
    """Collects bad examples while a data set is read; `settle` then refuses the data, or says what was left out.

    What keeps a whole file from being read (broken JSON, say) is no fault of one example: raise `UserError` for it.

    Example:
        >>> faults = Faults("dev.json", skip=False)
        >>> faults.add("question 7", "its answer is not in the context")
        >>> faults.settle(total=100)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        regard.errors.UserError: dev.json: 1 of 100 examples cannot be used: question 7: its answer is not in the ...
    """

    def __init__(self, where: str, skip: bool) -> None:
        self.where, self.skip = where, skip
        self.found: list[str] = []

    def add(self, place: str, what: str) -> None:
        """Note that the example at `place` (a line, an id) cannot be used, and why."""
        self.found.append(f"{place}: {what}")

    def settle(self, total: int) -> None:
        """Refuse the data, or report on standard error what was left out; `total` counts good and bad examples.

        Raises `UserError` for any bad example unless they are to be skipped, and where nothing else is left.
        """
        if not self.found:
            return
        shown = "; ".join(self.found[:SHOWN]) + ("; ..." if len(self.found) > SHOWN else "")
        said = f"{self.where}: {len(self.found):,} of {total:,} examples cannot be used: {shown}"
        if not self.skip:
            raise UserError(f"{said} (leave them out with --skip-bad)")
        if len(self.found) == total:
            raise UserError(f"{said}; none is left")
        print(f"left out: {said}", file=sys.stderr)
