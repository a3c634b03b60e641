"""The embedded sample: dates as 75 languages and regions write them, to be turned into ISO 8601.

The sources are real text, written from the Unicode Common Locale Data Repository (CLDR) through Babel:
"Dienstag, 3. März 2026", "3 de mar. de 2026", "٣ مارس ٢٠٢٦", "二〇二六年三月三日星期二". The target is always
"2026-03-03". Where a model looks is easy to judge: at the day when it writes the day.

A form is kept only if its source settles its target: the month is written in letters or marked by its own
character (月, 월), the year has all four digits and the calendar is Gregorian, so "03/04/2026" never occurs.
"""

from __future__ import annotations

import datetime
import random
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from regard.data.pairs import Pair, Splits
from regard.errors import UserError, require

# fmt: off
LOCALES = (
    "en", "en_GB", "en_AU", "en_CA", "de", "de_AT", "nl", "fy", "fr", "fr_CA", "es", "es_MX", "ca", "it",
    "pt", "ro", "pl", "cs", "sl", "hr", "sr", "sr_Latn", "bs", "bg", "ru", "uk", "lt", "lv", "et", "fi",
    "sv", "da", "nb", "is", "ga", "cy", "eu", "hu", "el", "tr", "az", "uz", "kk", "mn", "ka", "hy", "sq",
    "ar", "he", "fa", "ur", "hi", "mr", "ne", "bn", "pa", "gu", "ta", "te", "kn", "ml", "th", "lo", "km",
    "my", "ko", "ja", "zh", "zh_Hant", "vi", "id", "fil", "sw", "zu", "am",
)
# fmt: on

# Locales never seen in training, and their close relatives among LOCALES. A few of their forms are just as a
# relative writes them; most names of months and weekdays differ by some letters, so that a model reads them
# only if it learnt more than whole words.
HELD_OUT_LOCALES = {
    "af": "Afrikaans: nl",
    "fo": "Faroese: is, da",
    "gl": "Galician: pt, es",
    "lb": "Luxembourgish: de, nl",
    "mk": "Macedonian: bg, sr",
    "ms": "Malay: id",
    "nn": "Norwegian Nynorsk: nb, da",
    "pt_PT": "European Portuguese: pt (Brazilian)",
    "sk": "Slovak: cs, sl, hu",
    "zh_Hant_HK": "Chinese in Hong Kong: zh_Hant, zh",
}

STYLES = ("full", "long", "medium")
SKELETONS = ("yMMMMEEEEd", "yMMMEEEEd", "yMMMMEd", "yMMMEd", "yMMMMd", "yMMMd", "yMEEEEd")

# The zero of each native numbering system whose ten digits follow one another in Unicode.
ZEROS = {
    "arab": "٠",
    "arabext": "۰",
    "beng": "০",
    "deva": "०",
    "gujr": "૦",
    "guru": "੦",
    "khmr": "០",
    "knda": "೦",
    "laoo": "໐",
    "mlym": "൦",
    "mymr": "၀",
    "tamldec": "௦",
    "telu": "౦",
    "thai": "๐",
}
# Chinese and Japanese: the year digit by digit, month and day as numbers (二〇二六年三月二十一日).
HAN_SYSTEMS = ("hanidec", "jpan")
HAN_DIGITS = "〇一二三四五六七八九"

FIRST_DAY = datetime.date(1800, 1, 1)
LAST_DAY = datetime.date(2199, 12, 31)
HELD_OUT_SHARE = 0.1  # of all days, for `valid`, and as many again for the tests

ONE = (1,)
SOME = (2, 3)
MIXED = (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, *SOME)  # a sixth of the pairs are lists of dates


@dataclass(frozen=True)
class Form:
    """One way to write a date: a locale, a style and a set of digits."""

    origin: str
    write: Callable[[datetime.date], str]


def sample_dates(size: int = 20_000, seed: int = 0) -> Splits:
    """Write `size` training pairs (date as people write it, ISO 8601) and held-out sets a twentieth as large.

    A sixth of train and valid are lists of two or three dates, joined as the locale joins them ("3 mars 2026, 4 mai
    2026 et 1 juin 2027"), so that short and long inputs can be told apart. The days from 1800 to 2199 are first
    dealt out to train, valid and test, so that a held-out day is never in train, in any locale. The tests are
    "held-out dates" and "held-out lists", in the training locales, and "held-out locales", dates in
    HELD_OUT_LOCALES (held-out days too). `Pair.origin` names the form: "de_AT/full", "hi/long/deva".

    Raises `UserError` if `size` is less than 1 or Babel is not installed.

    Example:
        >>> pair = sample_dates(size=100).test["held-out dates"][0]
        >>> len(pair.target)
        10
    """
    if size < 1:
        raise UserError(f"the sample of dates needs a size of at least 1, got {size}")
    rng = random.Random(seed)
    days = [datetime.date.fromordinal(day) for day in range(FIRST_DAY.toordinal(), LAST_DAY.toordinal() + 1)]
    rng.shuffle(days)
    held_out = int(len(days) * HELD_OUT_SHARE)
    valid_days, test_days, train_days = days[:held_out], days[held_out : 2 * held_out], days[2 * held_out :]
    seen, unseen = LOCALES, tuple(HELD_OUT_LOCALES)
    small = max(1, size // 20)
    return Splits(
        train=_write(train_days, seen, size, MIXED, rng),
        valid=_write(valid_days, seen, small, MIXED, rng),
        test={
            "held-out dates": _write(test_days, seen, small, ONE, rng),
            "held-out lists": _write(test_days, seen, small, SOME, rng),
            "held-out locales": _write(test_days, unseen, small, ONE, rng),
        },
    )


def _write(
    days: list[datetime.date],
    locales: tuple[str, ...],
    size: int,
    counts: tuple[int, ...],
    rng: random.Random,
) -> tuple[Pair, ...]:
    from babel.lists import format_list

    pairs = []
    for _ in range(size):
        locale = rng.choice(locales)
        form = rng.choice(forms(locale))
        chosen = [rng.choice(days) for _ in range(rng.choice(counts))]
        written = [form.write(day) for day in chosen]
        source = (
            written[0]
            if len(written) == 1
            else unicodedata.normalize("NFC", format_list(written, locale=locale))
        )
        source = _letter_case(source, rng.random())
        pairs.append(Pair(source, " ".join(day.isoformat() for day in chosen), form.origin))
    return tuple(pairs)


def _letter_case(text: str, draw: float) -> str:
    """As CLDR writes it (60%), in small letters (25%), or with a capital first letter (15%)."""
    if draw < 0.6:
        return text
    changed = text.lower() if draw < 0.85 else text[:1].title() + text[1:]
    return unicodedata.normalize("NFC", changed)


@cache
def forms(locale: str) -> tuple[Form, ...]:
    """Every different, unambiguous way CLDR has to write a date in `locale` (a name such as "de_AT")."""
    require("babel", "tasks")
    from babel import Locale

    known = Locale.parse(locale)
    patterns: dict[str, str] = {}  # pattern -> the first style that has it
    for style in STYLES:
        patterns.setdefault(known.date_formats[style].pattern, style)
    for skeleton in SKELETONS:
        if skeleton in known.datetime_skeletons:
            patterns.setdefault(known.datetime_skeletons[skeleton].pattern, skeleton)

    systems = dict.fromkeys([known.default_numbering_system, *known.other_numbering_systems.values()])
    found = []
    for pattern, style in patterns.items():
        if not _is_unambiguous(pattern):
            continue
        found.append(Form(f"{locale}/{style}", _writer(known, pattern, None)))
        for system in systems:
            digits = ZEROS.get(system) or (system if system in HAN_SYSTEMS else None)
            if digits is not None:
                found.append(Form(f"{locale}/{style}/{system}", _writer(known, pattern, digits)))
    return tuple(found)


def _is_unambiguous(pattern: str) -> bool:
    """Whether a CLDR pattern has the whole year, the day, and a month that nobody takes for the day."""
    fields = re.sub(r"'[^']*'", "", pattern)  # quoted text is literal
    whole_year = re.search(r"(?<!y)(y|yyyy)(?!y)", fields) is not None
    named_month = "MMM" in fields or "LLL" in fields or "月" in fields or "월" in fields
    return whole_year and named_month and "d" in fields


def _writer(locale: Any, pattern: str, digits: str | None) -> Callable[[datetime.date], str]:
    from babel.dates import parse_pattern

    parsed = parse_pattern(pattern)

    def write(day: datetime.date) -> str:
        text = unicodedata.normalize("NFC", parsed.apply(day, locale))
        if digits is None:
            return text
        if digits in HAN_SYSTEMS:
            return re.sub(r"[0-9]+", lambda number: _han_number(number[0]), text)
        return text.translate({ord("0") + value: chr(ord(digits) + value) for value in range(10)})

    return write


def _han_number(number: str) -> str:
    """A year digit by digit; a month or day (1 to 31) as it is read: 二十一."""
    if len(number) > 2:
        return "".join(HAN_DIGITS[int(digit)] for digit in number)
    tens, ones = divmod(int(number), 10)
    ten = "" if tens == 0 else ("十" if tens == 1 else HAN_DIGITS[tens] + "十")
    return ten + (HAN_DIGITS[ones] if ones else "")
