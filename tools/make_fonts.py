"""Make the fonts of `regard.view`: subsets of Noto, small enough to travel inside the package.

    python tools/make_fonts.py DIRECTORY_OF_NOTO_FONTS [...]

On Debian, `apt-get install fonts-noto-cjk fonts-noto-core` puts them under /usr/share/fonts. The subsets
are renamed ("Regard Sans", "Regard Sans CJK"), keep their licence (SIL Open Font License 1.1, beside
them), and are the same bytes whenever the same Noto release goes in.

What is covered: Chinese (GB 2312, and Big5's frequently used characters), Japanese (JIS X 0208) and
Korean (KS X 1001 hanja, every Hangul syllable), in the Simplified Chinese letterforms; Latin, Greek and
Cyrillic; and the scripts of `SCRIPTS`, which DejaVu Sans lacks. Arabic, Hebrew, Armenian, Georgian and
most symbols are left to DejaVu Sans, which comes with Matplotlib.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fontTools import merge, subset
from fontTools.ttLib import TTFont

DESTINATION = Path(__file__).parent.parent / "src" / "regard" / "view" / "fonts"

SCRIPTS = (
    "Devanagari",
    "Bengali",
    "Gurmukhi",
    "Gujarati",
    "Oriya",
    "Tamil",
    "Telugu",
    "Kannada",
    "Malayalam",
    "Sinhala",
    "Thai",
    "Khmer",
    "Myanmar",
    "Ethiopic",
    "Cherokee",
)


def characters(codec: str, first: range, second: list[int]) -> Iterator[int]:
    """The characters of a two-byte character set."""
    for lead in first:
        for trail in second:
            try:
                text = bytes((lead, trail)).decode(codec)
            except UnicodeDecodeError:
                continue
            if len(text) == 1:
                yield ord(text)


def cjk_characters() -> set[int]:
    high = list(range(0xA1, 0xFF))
    chosen = {
        *characters("gb2312", range(0xA1, 0xF8), high),
        *characters("euc_jp", range(0xA1, 0xF5), high),
        *characters("euc_kr", range(0xA1, 0xFE), high),
        *characters("big5", range(0xA1, 0xC7), [*range(0x40, 0x7F), *high]),
    }
    blocks = (
        range(0x3000, 0x3040),  # symbols and punctuation
        range(0x3040, 0x3100),  # kana
        range(0x3100, 0x3130),  # bopomofo
        range(0x3130, 0x3190),  # Hangul letters
        range(0x31F0, 0x3200),  # small kana
        range(0xAC00, 0xD7A4),  # Hangul syllables
        range(0xFF00, 0xFFF0),  # half and full width
    )
    # Greek, Cyrillic and Latin are full width in a CJK font: they are Regard Sans's.
    chosen = {code for code in chosen if code >= 0x2100}
    return chosen.union(*blocks)


def sans_characters() -> set[int]:
    blocks = (
        range(0x20, 0x250),  # Latin
        range(0x250, 0x300),  # phonetic letters, modifiers
        range(0x300, 0x370),  # combining marks
        range(0x370, 0x400),  # Greek
        range(0x400, 0x530),  # Cyrillic
        range(0x1E00, 0x2000),  # Latin additional, Greek extended
        range(0x2010, 0x2060),  # punctuation
        range(0x2070, 0x20D0),  # superscripts, currency
        range(0x2100, 0x2150),  # letter-like
    )
    return set().union(*blocks)


def renamed(font: TTFont, family: str) -> None:
    """Give the font a name of its own, as a changed font should have."""
    compact = family.replace(" ", "")
    names = {1: family, 2: "Regular", 3: f"{compact}-Regular", 4: family, 6: f"{compact}-Regular"}
    table = font["name"]
    table.names = [record for record in table.names if record.nameID in (0, 5, 13, 14)]
    for number, name in names.items():
        table.setName(name, number, 3, 1, 0x409)
    if "CFF " in font:
        fonts = font["CFF "].cff
        fonts.fontNames[0] = f"{compact}-Regular"
        fonts.topDictIndex[0].FullName = fonts.topDictIndex[0].FamilyName = family


def cut(font: TTFont, wanted: set[int], features: list[str]) -> TTFont:
    """The font with these characters only."""
    options = subset.Options()
    options.layout_features = features
    options.hinting = False
    options.notdef_outline = True
    options.name_IDs = [0, 5, 13, 14]
    options.drop_tables += ["vhea", "vmtx", "VORG", "BASE", "DSIG"]
    work = subset.Subsetter(options)
    work.populate(unicodes=wanted)
    work.subset(font)
    return font


def save(font: TTFont, family: str) -> None:
    """Write the font; its licence, `OFL.txt`, lies beside it."""
    renamed(font, family)
    path = DESTINATION / (family.replace(" ", "") + (".otf" if "CFF " in font else ".ttf"))
    font.save(path)
    print(f"{path.name}: {len(font.getBestCmap()):,} characters, {path.stat().st_size:,} bytes")


def find(name: str, folders: list[Path]) -> Path:
    for folder in folders:
        for path in sorted(folder.rglob(name)):
            return path
    raise SystemExit(f"{name} is in none of {', '.join(map(str, folders))}")


def main() -> None:
    folders = [Path(folder) for folder in sys.argv[1:]] or [Path("/usr/share/fonts")]
    cjk = TTFont(find("NotoSansCJK-Regular.ttc", folders), fontNumber=2, recalcTimestamp=False)
    save(cut(cjk, cjk_characters(), []), "Regard Sans CJK")

    taken: set[int] = set()
    with tempfile.TemporaryDirectory() as folder:
        parts = []
        for name in ("", *SCRIPTS):
            font = TTFont(find(f"NotoSans{name}-Regular.ttf", folders), recalcTimestamp=False)
            wanted = (sans_characters() if not name else set(font.getBestCmap())) - taken
            taken |= wanted
            part = Path(folder, f"{name or 'Latin'}.ttf")
            cut(font, wanted, ["*"] if name else ["kern", "mark", "mkmk", "ccmp", "locl"]).save(part)
            parts.append(str(part))
        merged = merge.Merger().merge(parts)
    merged["head"].modified = merged["head"].created
    merged.recalcTimestamp = False
    save(merged, "Regard Sans")


if __name__ == "__main__":
    main()
