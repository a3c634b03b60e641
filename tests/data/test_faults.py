"""Bad examples: refused with a count and the first of them, or left out and reported."""

import pytest

from regard.data import Faults
from regard.errors import UserError


def three_bad(skip: bool) -> Faults:
    faults = Faults("train.json", skip)
    for number in range(5):
        faults.add(f"line {number}", "no answer")
    return faults


def test_bad_examples_are_counted_and_the_first_shown() -> None:
    with pytest.raises(
        UserError, match=r"train.json: 5 of 1,000 .*line 0: no answer; .*line 2.*; \.\.\. .*--skip-bad"
    ):
        three_bad(skip=False).settle(1000)


def test_skipped_ones_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    three_bad(skip=True).settle(1000)
    assert capsys.readouterr().err.startswith("left out: train.json: 5 of 1,000 examples")
    Faults("train.json", skip=False).settle(0)
    assert capsys.readouterr().err == ""


def test_nothing_left_is_an_error_all_the_same() -> None:
    with pytest.raises(UserError, match="none is left"):
        three_bad(skip=True).settle(5)
