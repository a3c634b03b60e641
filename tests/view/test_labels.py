"""Labels show every character and let none act."""

import unicodedata

import pytest

from regard.view.labels import clip, columns, readable, visible


@pytest.mark.parametrize(
    ("token", "label"),
    [
        ("the", "the"),
        ("", "∅"),
        (" the", "␣the"),
        ("  ", "␣␣"),
        ("new york ", "new york␣"),
        ("\n", "↵"),
        ("\t", "⇥"),
        ("\x00", "⟨U+0000⟩"),
        ("\x1b[31m", "⟨U+001B⟩[31m"),
        ("\x7f\x85", "⟨U+007F⟩⟨U+0085⟩"),
        ("a\u202eb", "a⟨U+202E⟩b"),
        ("\u2066x\u2069", "⟨U+2066⟩x⟨U+2069⟩"),
        ("\u200b", "⟨U+200B⟩"),
        ("\ufeff", "⟨U+FEFF⟩"),
        ("\u00a0", "⟨U+00A0⟩"),
        ("\u3000", "⟨U+3000⟩"),
        ("\u2028", "⟨U+2028⟩"),
        ("\u3164", "⟨U+3164⟩"),
        ("\ud800", "⟨U+D800⟩"),
        ("\ufe0f", "⟨U+FE0F⟩"),
        ("\U000e0041", "⟨U+E0041⟩"),
        ("\u0301", "◌\u0301"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("a\u200cb", "a⟨U+200C⟩b"),
        ("北京", "北京"),
        ("한국어", "한국어"),
    ],
)
def test_what_cannot_be_seen_is_made_visible(token: str, label: str) -> None:
    assert visible(token) == label


def test_no_character_of_unicode_stays_invisible_or_acts() -> None:
    for point in range(0x20000):
        label = visible(chr(point))
        assert label
        assert all(unicodedata.category(char)[0] not in "CZ" for char in label), hex(point)


def test_piled_up_marks_are_bounded() -> None:
    assert len(visible("a" + "\u0301" * 500)) < 10


def test_prose_keeps_its_spaces_but_not_its_controls() -> None:
    assert readable("il\u00a0dit\u3000：\n好") == "il\u00a0dit\u3000：\n好"
    assert readable("a\u202eb\x00\ud800\x1b") == "a⟨U+202E⟩b⟨U+0000⟩⟨U+D800⟩⟨U+001B⟩"


def test_width_in_columns() -> None:
    assert columns("abc") == 3
    assert columns("北京") == 4
    assert columns("カナｶﾅ") == 6
    assert columns("e\u0301") == 1
    assert columns(clip("天安门广场", 6)) <= 6
    assert clip("天安门广场", 6) == "天安…"
    assert clip("abc", 3) == "abc"
