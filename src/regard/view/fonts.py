"""The fonts of pictures: which character which font has, how wide text is, and a font small enough to embed.

Pictures use fonts that come with the package, never the machine's, so that they are legible and the same
everywhere: `Regard Sans` (Latin, Greek, Cyrillic, and the scripts of India, South-East Asia and Ethiopia) and
`Regard Sans CJK` (Chinese, Japanese, Korean), subsets of Noto made by `tools/make_fonts.py`; then
`DejaVu Sans` from Matplotlib, which has most other scripts and symbols.
"""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from regard.errors import require
from regard.view.labels import code

_HERE = Path(__file__).parent / "fonts"


@dataclass(frozen=True)
class Face:
    """A font file, the family name it has, and the one under which pages carry a part of it."""

    family: str
    path: Path
    carried: str


@functools.cache
def faces() -> tuple[Face, ...]:
    """The fonts in the order in which they are asked for a character."""
    own = (
        Face("Regard Sans", _HERE / "RegardSans.ttf", "Regard Sans"),
        Face("Regard Sans CJK", _HERE / "RegardSansCJK.otf", "Regard Sans CJK"),
    )
    matplotlib = find_spec("matplotlib")
    if matplotlib is None or not matplotlib.submodule_search_locations:
        return own
    folder = Path(matplotlib.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf"
    return (*own, Face("DejaVu Sans", folder / "DejaVuSans.ttf", "Regard Sans More"))


@functools.cache
def advances(face: Face) -> Mapping[str, float]:
    """The width of every character the font has, as a share of the font size."""
    require("fontTools", "tasks")
    from fontTools.ttLib import TTFont

    with TTFont(face.path, lazy=True) as font:
        em = font["head"].unitsPerEm
        widths = font["hmtx"].metrics
        return {chr(point): widths[name][0] / em for point, name in font.getBestCmap().items()}


def face_of(char: str) -> Face | None:
    """The first font that has the character; None when none has."""
    return next((face for face in faces() if char in advances(face)), None)


def width(text: str, size: float) -> float:
    """The width of a line of text in pixels (without kerning) at a font size in pixels."""
    total = 0.0
    for char in text:
        face = face_of(char)
        total += advances(face)[char] if face is not None else 1.0
    return total * size


def clip(text: str, size: float, most: float) -> str:
    """The text cut to at most `most` pixels, ending in `…` where something was cut."""
    if width(text, size) <= most:
        return text
    kept, room = "", most - width("…", size)
    for char in text:
        room -= width(char, size)
        if room < 0:
            break
        kept += char
    return kept + "…"


def drawable(text: str) -> str:
    """The text with each character that no font here has written as its number: never an empty box."""
    return "".join(char if face_of(char) is not None else code(char) for char in text)


def embedded(text: str) -> str:
    """CSS `@font-face` rules that carry the glyphs of `text`, and no others, in the file itself.

    Characters that no font here has are left to the reader's fonts.
    """
    wanted: dict[Face, set[str]] = {}
    for char in set(text):
        face = face_of(char)
        if face is not None:
            wanted.setdefault(face, set()).add(char)
    rules = []
    for face in faces():
        if face in wanted:
            data = base64.b64encode(_subset(face, "".join(sorted(wanted[face])))).decode("ascii")
            rules.append(
                f'@font-face{{font-family:"{face.carried}";'
                f'src:url(data:font/woff2;base64,{data}) format("woff2")}}'
            )
    return "".join(rules)


@functools.lru_cache(maxsize=64)
def _subset(face: Face, characters: str) -> bytes:
    """A WOFF2 font with the glyphs of these characters only, the same bytes every time."""
    from fontTools import subset
    from fontTools.ttLib import TTFont

    options = subset.Options()
    options.flavor = "woff2"
    options.hinting = False
    options.notdef_outline = True
    options.drop_tables += ["FFTM"]  # a time stamp that fontTools would warn about
    with TTFont(face.path, lazy=True, recalcTimestamp=False) as font:
        work = subset.Subsetter(options)
        work.populate(text=characters)
        work.subset(font)
        font.flavor = "woff2"
        buffer = io.BytesIO()
        font.save(buffer)
    return buffer.getvalue()
