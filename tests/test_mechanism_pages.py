"""Every mechanism has a page that says what a reader must know, with a picture of the one example."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import regard
from regard.attention.biases import BIASES
from regard.attention.masks import MASKS
from regard.attention.normalizers import NORMALIZERS
from regard.attention.scores import MODIFIERS, SCORES

DOCS = Path(__file__).parent.parent / "docs"
PAGES = DOCS / "mechanisms"
HEADINGS = [
    "When to choose it",
    "What it costs",
    "Parameters and spelling",
    "Example",
    "Elsewhere",
    "Source",
]


def functions(module: object) -> list[str]:
    """What a module makes by a function of its own: the public lower-case names."""
    names: list[str] = module.__all__  # type: ignore[attr-defined]
    return [name for name in names if name.islower() and not name.startswith("as_")]


# What has no spelling comes after what has one.
MECHANISMS = sorted(
    {f"scores/{name}" for name in (*SCORES, *MODIFIERS, "location_sensitive", "function")}
    | {f"normalizers/{name}" for name in (*NORMALIZERS, "local")}
    | {f"masks/{name}" for name in (*MASKS, *functions(regard.masks))}
    | {f"biases/{name}" for name in (*BIASES, *functions(regard.biases), "dense")}
)
WRITTEN = sorted(
    path.relative_to(PAGES).with_suffix("").as_posix()
    for path in PAGES.glob("*/*.md")
    if path.stem != "index"
)


@pytest.mark.parametrize("name", sorted({*MECHANISMS, *WRITTEN}))
def test_page_says_what_a_reader_must_know(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS
    parts = dict(zip(HEADINGS, re.split(r"^## .*$", text, flags=re.MULTILINE)[1:], strict=True))
    assert all(part.strip() for part in parts.values())
    assert "**Not**" in parts["When to choose it"], "says when to choose something else"
    assert ">>> " in parts["Example"], "an example that runs"
    assert "$$" in text, "a formula"
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert pictures
    for picture in pictures:
        path = ((PAGES / name).parent / picture).resolve()
        assert path.is_file(), f"{picture} is drawn by tools/draw_mechanisms.py"
        assert path.stat().st_size < 40_000


def test_every_layer_has_a_page() -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (PAGES / "layers").glob("*.md"))
    parts = {"Cache", "LearnedMechanism", "Memory"}  # of layers, not layers
    missing = [name for name in regard.layers.__all__ if name not in parts and f"`{name}`" not in pages]
    assert not missing


def test_index_leads_to_every_page_and_says_when_to_choose_it() -> None:
    text = (PAGES / "index.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| \[[^\]]+\]\(([^)]+)\.md\) \| (.+?) \|", text, re.MULTILINE))
    assert sorted(rows) == WRITTEN


@pytest.mark.parametrize("group", ["scores", "normalizers", "masks", "biases", "layers"])
def test_gallery_shows_every_page_of_its_group(group: str) -> None:
    text = (PAGES / group / "index.md").read_text(encoding="utf-8")
    names = [name.partition("/")[2] for name in WRITTEN if name.startswith(f"{group}/")]
    assert sorted(re.findall(r"^[a-z0-9_]+$", text, re.MULTILINE)) == names
    assert sorted(re.findall(r"\]\(([a-z0-9_]+)\.md\)", text)) == names
    for picture in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text):
        assert (PAGES / group / picture).resolve().is_file()


def test_mechanisms_on_pages_are_spelt_right() -> None:
    texts = [path.read_text(encoding="utf-8") for path in PAGES.rglob("*.md")]
    spelt = {found for text in texts for found in re.findall(r"`([a-z0-9_+.-]+(?:/[a-z0-9_.-]+)+)`", text)}
    assert len(spelt) > 20
    for spelling in spelt:
        regard.Mechanism.parse(spelling)


def test_every_picture_is_drawn_by_the_tool() -> None:
    from tools.draw_mechanisms import DESTINATION, pictures

    files = {path.relative_to(DESTINATION).with_suffix("").as_posix() for path in DESTINATION.rglob("*.svg")}
    drawn = {name: picture.weights for name, picture in pictures()}
    assert set(drawn) == files
    assert all(weights.any() for weights in drawn.values())
