"""Exact match and F1 are those of the official scorers, told here once more from their definitions."""

from __future__ import annotations

import re
import string
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.tasks.squad_metrics import best_threshold, cmrc, measure_answers, measure_for, squad

WORDS = st.lists(
    st.sampled_from(["the", "a", "an", "Denver", "denver,", "Broncos", "U.S.", "-", "10", "ten"])
).map(" ".join)


def official_normal(text: str) -> str:
    """Lower case; punctuation; articles; white space, in this order, as evaluate-v1.1 and v2.0 have it."""
    text = text.lower()
    text = "".join(one for one in text if one not in set(string.punctuation))
    text = re.sub(re.compile(r"\b(a|an|the)\b", re.UNICODE), " ", text)
    return " ".join(text.split())


def official_f1(said: str, right: str) -> float:
    """evaluate-v2.0: if either has no words, F1 is 1 if they agree, 0 otherwise."""
    ours, theirs = official_normal(said).split(), official_normal(right).split()
    common = Counter(theirs) & Counter(ours)
    same = sum(common.values())
    if len(theirs) == 0 or len(ours) == 0:
        return int(theirs == ours)
    if same == 0:
        return 0
    precision, recall = same / len(ours), same / len(theirs)
    return 2 * precision * recall / (precision + recall)


@given(st.one_of(WORDS, st.text()), st.one_of(WORDS, st.text()))
def test_it_is_the_official_measure(said: str, right: str) -> None:
    assert squad.exact(said, right) == float(official_normal(said) == official_normal(right))
    assert squad.f1(said, right) == pytest.approx(official_f1(said, right))


def test_by_hand() -> None:
    assert squad.exact("The Denver Broncos.", "denver broncos") == 1
    assert squad.f1("in Denver", "Denver, Colorado") == pytest.approx(0.5)
    assert squad.f1("Denver", "Paris") == squad.f1("", "Denver") == squad.f1("Denver", "the") == 0
    assert squad.f1("", "the") == 1
    assert squad.f1("to to to", "to be") == pytest.approx(2 * 1 / 5)
    # One of three words and one of one: precision 1/3, recall 1.
    assert squad.f1("won in Denver", "Denver") == pytest.approx(0.5)


def test_the_best_of_several_answers_counts_and_both_kinds_of_questions_are_told_apart() -> None:
    said = ["Denver", "", "Paris", ""]
    right = [["Paris", "in Denver"], ["Rome"], [], []]
    metrics, scores = measure_answers(said, right, squad)
    assert scores == [(0.0, pytest.approx(2 / 3)), (0.0, 0.0), (0.0, 0.0), (1.0, 1.0)]
    assert metrics["exact"] == 25
    assert metrics["f1"] == pytest.approx(100 * (2 / 3 + 1) / 4)
    assert metrics["has_answer_f1"] == pytest.approx(100 / 3)
    assert metrics["no_answer_exact"] == metrics["no_answer_f1"] == 50
    assert set(measure_answers(["x"], [["x"]], squad)[0]) == {"exact", "f1"}
    assert measure_answers([], [], squad)[0] == {"exact": 0.0, "f1": 0.0}


def test_chinese_and_japanese_by_hand() -> None:
    assert cmrc.exact("光荣和ω-force。", "光荣和ω-force") == 1
    assert cmrc.f1("北京大学", "大学") == pytest.approx(2 * (2 / 4) * 1 / (2 / 4 + 1))
    assert cmrc.f1("北大学京", "北京大学") == pytest.approx(2 * 2 / 8)  # the longest run that both have: 大学
    assert cmrc.f1("2008年", "2008年8月") == pytest.approx(2 * 2 / 6)  # 2008 年 | 2008 年 8 月
    assert cmrc.f1("", "北京") == 0
    assert measure_for("auto", ["東京です"]) is measure_for("auto", ["他来了"]) is cmrc
    assert measure_for("auto", ["It is Tokyo (東京)."]) is measure_for("squad", ["他来了"]) is squad


def official_run(ours: str, theirs: str) -> int:
    """CMRC's table of common runs."""
    table = [[0] * (len(theirs) + 1) for _ in range(len(ours) + 1)]
    most = 0
    for i in range(len(ours)):
        for j in range(len(theirs)):
            if ours[i] == theirs[j]:
                table[i + 1][j + 1] = table[i][j] + 1
                most = max(most, table[i + 1][j + 1])
    return most


@given(st.text("北京大学の", min_size=1), st.text("北京大学の", min_size=1))
def test_f1_of_chinese_is_that_of_the_longest_common_run(said: str, right: str) -> None:
    same = official_run(said, right)
    precision, recall = same / len(said), same / len(right)
    assert cmrc.f1(said, right) == pytest.approx(2 * precision * recall / (precision + recall) if same else 0)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 2), st.integers(0, 2)), min_size=1))
def test_the_threshold_is_the_best_there_is(rows: list[tuple[int, int, int]]) -> None:
    margins, answered, silent = ([float(row[n]) for row in rows] for n in range(3))

    def total(threshold: float) -> float:
        return sum(s if m > threshold else a for m, a, s in zip(margins, answered, silent, strict=True))

    found = best_threshold(margins, answered, silent)
    assert total(found) == max(total(one) for one in [-9.0, *(m + 0.5 for m in margins)])
