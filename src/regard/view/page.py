"""An HTML page that is one file: it fetches nothing, and runs nothing but its own script.

Its content security policy allows exactly the style and the script written here, by their hashes, so a
token that slipped through as markup could still do nothing.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re

from regard.view import fonts
from regard.view.colours import DARK, LIGHT, SERIES, Theme
from regard.view.script import SCRIPT
from regard.view.style import STYLE

_TAG = re.compile(r"<[^>]*>")


def page(title: str, body: str) -> str:
    """The page with this body; `title` is text, `body` is markup whose texts have been escaped.

    Glyphs that some machines have no font for (Chinese, Hindi, Thai ...) travel inside the page.
    """
    shown = html.unescape(_TAG.sub("", body)) + title
    style = fonts.embedded("".join(char for char in set(shown) if _rare(char))) + _themes() + STYLE
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(SCRIPT)}'; "
        "font-src data:; img-src data:; base-uri 'none'; form-action 'none'"
    )
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{html.escape(title)}</title>\n"
        f"<style>{style}</style>\n</head>\n"
        f"<body>\n{body}\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _rare(char: str) -> bool:
    """Whether a machine may lack the character: beyond Latin, Greek, Cyrillic and common signs."""
    return not (char < "\u0530" or "\u1e00" <= char < "\u2c00")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _themes() -> str:
    light, dark = _colours(LIGHT, SERIES["light"]), _colours(DARK, SERIES["dark"])
    return f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}" + "".join(
        f".k{level}{{fill:var(--k{level})}}" for level in range(len(LIGHT.shades))
    )


def _colours(theme: Theme, series: tuple[str, ...]) -> str:
    named = {**theme.roles, **{f"k{level}": shade for level, shade in enumerate(theme.shades)}}
    named |= {f"s{place}": colour for place, colour in enumerate(series)}
    return "".join(f"--{name}:{colour};" for name, colour in named.items())
