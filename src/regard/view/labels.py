"""Tokens as labels: every character of a token can be seen, and none of them can act on the page.

A token is data from anywhere. Before it is drawn, characters that are invisible (controls, zero-width
and direction marks, odd spaces, lone surrogates) are replaced by something that is not.
"""

from __future__ import annotations

import unicodedata

_NAMED = {"\n": "↵", "\t": "⇥"}
_MOST_MARKS = 4


def visible(token: str) -> str:
    """The token with every invisible character replaced by a visible sign.

    A space at either end becomes `␣`, a newline `↵`, a tab `⇥`, the empty token `∅`; other
    characters with no shape of their own become their number, such as `⟨U+202E⟩`. Joiners
    stay where Arabic and Indic spelling needs them.

    Example:
        >>> visible(" the"), visible("a\\u202eb"), visible("")
        ('␣the', 'a⟨U+202E⟩b', '∅')
    """
    if not token:
        return "∅"
    body = token.strip(" ")
    lead = len(token) - len(token.lstrip(" "))
    trail = len(token) - lead - len(body)
    out: list[str] = []
    marks = 0
    for place, char in enumerate(body):
        category = unicodedata.category(char)
        if category in ("Mn", "Me", "Mc") and not _is_variation(char):
            marks += 1
            if not out:
                out.append("◌")
            if marks <= _MOST_MARKS:
                out.append(char)
            elif marks == _MOST_MARKS + 1:
                out.append("…")
            continue
        marks = 0
        if char in _NAMED:
            out.append(_NAMED[char])
        elif char in "\u200c\u200d" and 0 < place < len(body) - 1 and _joins(body[place - 1]):
            out.append(char)
        elif char != " " and (category[0] in "CZ" or _is_blank(char)):
            out.append(code(char))
        else:
            out.append(char)
    return "␣" * lead + "".join(out) + "␣" * trail


def readable(text: str) -> str:
    """A sentence as it is, but for controls and direction marks, which become their number.

    Unlike `visible`, this leaves spaces, line ends and what emoji are made of alone: it is for prose.
    """
    return "".join(code(char) if _acts(char) else char for char in text)


def code(char: str) -> str:
    """A character written as its number: `⟨U+00AD⟩`."""
    return f"⟨U+{ord(char):04X}⟩"


def columns(text: str) -> int:
    """How many columns of a terminal the text takes: two for East Asian wide characters, none for marks."""
    return sum(_columns_of(char) for char in text)


def clip(text: str, width: int) -> str:
    """The text cut to at most `width` columns of a terminal, ending in `…` where something was cut."""
    if columns(text) <= width:
        return text
    kept, used = [], 1
    for char in text:
        used += _columns_of(char)
        if used > width:
            break
        kept.append(char)
    return "".join(kept) + "…"


def _columns_of(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf") or "\u1160" <= char <= "\u11ff":
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _acts(char: str) -> bool:
    """Whether the character steers a page or a terminal instead of being read."""
    category = unicodedata.category(char)
    if category in ("Cc", "Cs"):
        return char not in "\n\t"
    return (
        char in "\u061c\u200e\u200f\u2028\u2029\ufeff"
        or "\u202a" <= char <= "\u202e"
        or ("\u2060" <= char <= "\u206f" or "\U000e0000" <= char <= "\U000e007f" or char in "\ufffe\uffff")
    )


def _is_variation(char: str) -> bool:
    return "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef" or char == "\u034f"


def _is_blank(char: str) -> bool:
    """Letters and marks that draw nothing: Hangul fillers, the Braille blank, variation selectors."""
    return char in "\u115f\u1160\u3164\uffa0\u2800\u17b4\u17b5" or _is_variation(char)


def _joins(before: str) -> bool:
    return "\u0600" <= before <= "\u0dff"
