"""The sample of dates: every source settles its target, and held-out days stay held out."""

import datetime
import itertools
import time
import unicodedata

import pytest

from regard.data.dates import HELD_OUT_LOCALES, LOCALES, _letter_case, forms, sample_dates
from regard.errors import UserError

ALL = [*LOCALES, *HELD_OUT_LOCALES]
# Every day of a leap year, so that a wrong or swapped month or day shows; and years that differ in each digit.
DAYS = [datetime.date(2024, 1, 1) + datetime.timedelta(days=day) for day in range(366)]
DAYS += [datetime.date(year, 11, 12) for year in range(1800, 2200, 13)]
SPELLINGS = (0.0, 0.7, 0.9)  # as written, in small letters, with a capital


def written(locale: str, origin: str, day: datetime.date) -> str:
    return next(form for form in forms(locale) if form.origin == origin).write(day)


def test_no_source_has_two_targets_in_any_locale() -> None:
    targets: dict[str, datetime.date] = {}
    for locale in ALL:
        for form in forms(locale):
            for day in DAYS:
                text = form.write(day)
                for spelling in SPELLINGS:
                    source = _letter_case(text, spelling)
                    assert targets.setdefault(source, day) == day, (source, form.origin)


def test_days_and_years_are_whole_in_every_form() -> None:
    for locale in ALL:
        for form in forms(locale):
            numbers = [
                int("".join(run))
                for digits, run in itertools.groupby(
                    form.write(datetime.date(1987, 12, 26)), key=lambda c: c.isdecimal()
                )
                if digits
            ]
            if not form.origin.endswith(("hanidec", "jpan")):
                assert 1987 in numbers, form.origin
                assert 26 in numbers, form.origin


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("en/full", "Tuesday, March 3, 2026"),
        ("de/full", "Dienstag, 3. März 2026"),
        ("hi/long/deva", "३ मार्च २०२६"),
        ("ar/long/arab", "٣ مارس ٢٠٢٦"),
        ("fa/long/arabext", "۳ مارس ۲۰۲۶"),
        ("th/medium/thai", "๓ มี.ค. ๒๐๒๖"),
        ("zh/full", "2026年3月3日星期二"),
        ("zh/full/hanidec", "二〇二六年三月三日星期二"),
        ("ja/full/jpan", "二〇二六年三月三日火曜日"),
        ("ko/full", "2026년 3월 3일 화요일"),
    ],
)
def test_known_forms(origin: str, expected: str) -> None:
    assert written(origin.split("/")[0], origin, datetime.date(2026, 3, 3)) == expected


@pytest.mark.parametrize(
    ("month", "day", "expected"),
    [(10, 10, "十月十日"), (11, 21, "十一月二十一日"), (12, 30, "十二月三十日"), (1, 31, "一月三十一日")],
)
def test_han_numbers_are_written_as_they_are_read(month: int, day: int, expected: str) -> None:
    assert written("zh", "zh/long/hanidec", datetime.date(1905, month, day)) == "一九〇五年" + expected


def test_numbers_alone_never_stand_for_a_month() -> None:
    origins = {form.origin for form in forms("de")}
    assert "de/long" in origins
    assert "de/medium" not in origins  # 03.03.2026
    assert "cs/medium" not in {form.origin for form in forms("cs")}


def test_no_held_out_day_is_in_train() -> None:
    splits = sample_dates(size=3000, seed=1)
    train = {day for pair in splits.train for day in pair.target.split()}
    valid = {day for pair in splits.valid for day in pair.target.split()}
    tests = {
        name: {day for pair in pairs for day in pair.target.split()} for name, pairs in splits.test.items()
    }
    assert set(tests) == {"held-out dates", "held-out lists", "held-out locales"}
    for held_out in (valid, *tests.values()):
        assert held_out
        assert not held_out & train
    assert not valid & (tests["held-out dates"] | tests["held-out lists"] | tests["held-out locales"])


def test_lists_are_of_two_or_three_dates_and_a_sixth_of_train() -> None:
    splits = sample_dates(size=4000)
    counts = [len(pair.target.split()) for pair in splits.train]
    assert set(counts) == {1, 2, 3}
    assert sum(count > 1 for count in counts) / len(counts) == pytest.approx(1 / 6, abs=0.03)
    assert {len(pair.target.split()) for pair in splits.test["held-out lists"]} == {2, 3}
    assert all(len(pair.target) == 10 for pair in splits.test["held-out dates"])
    listed = next(pair for pair in splits.test["held-out lists"] if pair.origin.startswith("fr/"))
    assert " et " in listed.source


def test_held_out_locales_are_only_in_their_test() -> None:
    splits = sample_dates(size=3000)

    def locales(pairs: object) -> set[str]:
        return {pair.origin.split("/")[0] for pair in pairs}  # type: ignore[attr-defined]

    assert locales(splits.test["held-out locales"]) == set(HELD_OUT_LOCALES)
    assert locales(splits.train) == set(LOCALES)
    for pairs in (splits.valid, splits.test["held-out dates"]):
        assert locales(pairs) <= set(LOCALES)
    assert not set(LOCALES) & set(HELD_OUT_LOCALES)
    assert len(LOCALES) >= 60


def test_targets_are_iso_dates_and_sources_are_normal_text() -> None:
    for pair in sample_dates(size=2000).train:
        for day in pair.target.split(" "):
            assert datetime.date.fromisoformat(day).isoformat() == day
            assert 1800 <= int(day[:4]) <= 2199
        assert pair.source == pair.source.strip()
        assert unicodedata.is_normalized("NFC", pair.source)


def test_the_sample_depends_on_the_seed_and_nothing_else() -> None:
    first, again, other = sample_dates(300, seed=3), sample_dates(300, seed=3), sample_dates(300, seed=4)
    assert first == again
    assert first.train != other.train
    assert len(first.train) == 300


def test_sizes() -> None:
    splits = sample_dates(size=1)
    assert len(splits.train) == len(splits.valid) == 1
    with pytest.raises(UserError, match="size of at least 1, got 0"):
        sample_dates(size=0)


def test_twenty_thousand_dates_take_seconds() -> None:
    start = time.process_time()
    assert len(sample_dates(size=20_000).train) == 20_000
    assert time.process_time() - start < 6.0
