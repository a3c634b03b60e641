"""The embedded sample of questions: exact answers, no function in two parts, the same every time."""

from __future__ import annotations

from functools import lru_cache

import pytest

from regard.data import manual
from regard.data.documentation import Documented, documented
from regard.data.manual import sample_questions


@lru_cache(1)
def parsed() -> list[Documented]:
    """The documentation, parsed once for all tests."""
    return list(documented())


@pytest.fixture(autouse=True)
def _parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manual, "documented", lambda: iter(parsed()))


def test_answers_stand_where_they_say_and_parts_share_no_module() -> None:
    sample = sample_questions()
    assert list(sample) == ["train", "valid", "test"]
    assert all(len(part) > 150 for part in sample.values())
    every = [one for part in sample.values() for one in part]
    assert all(one.context[start : start + len(text)] == text for one in every for text, start in one.answers)
    assert 0.1 < sum(not one.answers for one in every) / len(every) < 0.35
    assert len({one.id for one in every}) == len(every)
    modules = [{one.id.partition(",")[0] for one in part} for part in sample.values()]
    assert not modules[0] & modules[1] | modules[0] & modules[2] | modules[1] & modules[2]


def test_it_is_the_same_on_every_call() -> None:
    first = sample_questions()
    sample_questions.cache_clear()
    assert sample_questions() == first
