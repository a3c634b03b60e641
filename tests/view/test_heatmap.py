"""Heatmaps are legible, safe, small, and the same every time."""

import base64
import hashlib
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from fontTools.ttLib import TTFont
from PIL import Image

from regard.errors import UserError
from regard.view import Heatmap, heatmap
from regard.view.labels import columns

CHINESE = ["我", "爱", "北京", "天安门", "龍", "，"]
MIXED = ["私", "カタカナ", "한국어", "мир", "é", "สวัสดี", "नमस्ते", "مرحبا", "😀"]
HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    '"><svg onload=alert(2)>',
    "' onmouseover='alert(3)",
    "</style><style>*{background:url(//evil.example)}",
    "]]><!--",
    "</text><script>alert(4)</script>",
    "\u202egnp.exe",
    "\x00\x1b[31m\x08",
    "\ud800",
    "\ufffe\uffff",
    "&lt;b&gt;",
    "$x^2$",
]


def example(source: list[str] = CHINESE, target: list[str] = MIXED) -> Heatmap:
    scores = np.random.default_rng(0).normal(size=(len(target), len(source))) * 2
    weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return heatmap(
        weights, source=source, target=target, title="where it looked 注意力", subtitle="dot/softmax"
    )


class Page(HTMLParser):
    """Every element and attribute of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def carried(text: str) -> set[str]:
    """The characters of the fonts that a file carries."""
    found: set[str] = set()
    for data in re.findall(r"data:font/woff2;base64,([A-Za-z0-9+/=]+)", text):
        with TTFont(io.BytesIO(base64.b64decode(data))) as font:
            found.update(map(chr, font.getBestCmap()))
    return found


@pytest.mark.parametrize("suffix", ["png", "svg", "html"])
def test_two_saves_are_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    first, second = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    example().save(first)
    example().save(second)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [first.name, second.name]


def test_another_suffix_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.png, \.svg or \.html"):
        example().save(tmp_path / "picture.pdf")
    with pytest.raises(UserError, match="cannot write"):
        example().save(tmp_path / "missing" / "picture.svg")


def test_shapes_and_labels_must_agree() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 3\).*target has 2 labels.*source has 2"):
        heatmap(np.zeros((2, 3)), source=["a", "b"], target=["c", "d"])
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        heatmap(np.zeros(3), source=["a", "b", "c"], target=["d"])
    with pytest.raises(ValueError, match="nothing to draw"):
        heatmap(np.zeros((0, 1)), source=["a"], target=[])
    with pytest.raises(ValueError, match="zero or more"):
        heatmap([[-0.1]], source=["a"], target=["b"])
    with pytest.raises(ValueError, match="top"):
        heatmap([[0.1]], source=["a"], target=["b"], top=0)
    with pytest.raises(TypeError, match="str"):
        heatmap([[0.1]], source=[1], target=["b"])  # type: ignore[list-item]


def test_weights_may_be_a_tensor_with_a_gradient_in_half_precision() -> None:
    weights = torch.eye(2, dtype=torch.bfloat16, requires_grad=True)
    picture = heatmap(weights, source=["a", "b"], target=["c", "d"])
    assert picture.weights.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert not picture.weights.flags.writeable


def test_svg_is_well_formed_keeps_text_and_carries_its_glyphs() -> None:
    svg = example().svg()
    tree = ElementTree.fromstring(svg.encode("utf-8"))
    names = {"{http://www.w3.org/2000/svg}" + name for name in ("title", "desc", "text")}
    assert names <= {element.tag for element in tree.iter()}
    texts = {element.text for element in tree.iter() if element.tag.endswith("}text")}
    assert {*CHINESE, *MIXED} <= texts
    assert set("".join(CHINESE + MIXED)) <= carried(svg)
    assert len(svg) < 60_000


def test_html_carries_the_glyphs_a_machine_may_lack() -> None:
    page = example().html()
    assert set("".join(CHINESE) + "注意力私カタカナ한국어สวัสดีनमस्तेمرحبا") <= carried(page)
    assert len(page) < 80_000


def test_nothing_is_fetched() -> None:
    picture = example(HOSTILE[:3] + CHINESE, MIXED)
    for text in (picture.svg(), picture.html()):
        rest = text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//\w|@import", re.sub(r"base64,[A-Za-z0-9+/=]+", "", rest))


def test_hostile_tokens_become_neither_element_nor_attribute_in_html() -> None:
    plain = Page(example(["a"] * len(HOSTILE), ["b"] * len(HOSTILE)).html())
    page = Page(heatmap_of(HOSTILE).html())
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in plain.elements}
    # A label is level or turned by its length; beyond that, tokens add no attribute.
    known = {name for _, names in plain.elements for name in names} | {"transform", "text-anchor"}
    assert {name for _, names in page.elements for name in names} <= known
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert "</script><img src=x onerror=alert(1)>" in page.text
    assert "⟨U+202E⟩gnp.exe" in page.text
    figure = next(names for tag, names in page.elements if tag == "figure")
    assert json.loads(figure["data-source"] or "")[1] == HOSTILE[1]


def heatmap_of(tokens: list[str]) -> Heatmap:
    return heatmap(
        np.eye(len(tokens)), source=tokens, target=tokens, title=tokens[0] + "\x00\u202e", subtitle=tokens[1]
    )


def test_hostile_tokens_stay_text_in_svg() -> None:
    svg = heatmap_of(HOSTILE).svg()
    tree = ElementTree.fromstring(svg.encode("utf-8"))
    kinds = {element.tag.rpartition("}")[2] for element in tree.iter()}
    assert kinds == {"svg", "title", "desc", "style", "rect", "g", "path", "text"}
    assert not [name for element in tree.iter() for name in element.attrib if name.startswith("on")]
    assert not any(ord(char) < 32 and char != "\n" for char in svg)


def test_the_policy_allows_exactly_the_style_and_the_script_of_the_page() -> None:
    page = example().html()
    policy = next(
        names["content"]
        for tag, names in Page(page).elements
        if tag == "meta" and names.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    for tag in ("style", "script"):
        (body,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode("utf-8")).digest()).decode("ascii")
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert 'style="' not in page


def test_html_can_be_read_without_seeing_it() -> None:
    page = Page(example().html())
    tags = [tag for tag, _ in page.elements]
    assert dict(page.elements)["html"]["lang"] == "en"
    assert tags.count("td") == len(CHINESE) * len(MIXED) + 1
    svg = next(names for tag, names in page.elements if tag == "svg")
    assert svg["role"] == "img"
    assert "9 target tokens (rows) by 6 source tokens" in (svg["aria-label"] or "")
    assert svg["tabindex"] == "0"


def test_the_weights_behind_the_page_are_the_weights() -> None:
    picture = example()
    figure = next(names for tag, names in Page(picture.html()).elements if tag == "figure")
    codes = np.frombuffer(base64.b64decode(figure["data-weights"] or ""), dtype="<u2")
    weights = codes.reshape(picture.weights.shape) / 65534 * float(figure["data-top"] or "")
    np.testing.assert_allclose(weights, picture.weights, atol=2e-5)


def pixels(label: str) -> np.ndarray:
    image = Image.open(io.BytesIO(heatmap([[0.0]], source=["."], target=[label]).png()))
    return np.asarray(image.convert("L"))


@pytest.mark.parametrize("pair", ["爱受", "龍龜", "カヵ", "한힌", "नब", "กข", "אב", "жщ"])
def test_png_draws_real_glyphs(pair: str) -> None:
    first, second = (pixels(char) for char in pair)
    assert first.min() < 80
    assert first.shape != second.shape or (first != second).any()


def test_png_writes_the_number_of_a_character_without_a_glyph() -> None:
    # The rongorongo of tomorrow, a hieroglyph, and one that is not assigned: no warning, no empty box.
    assert pixels("𓀀").shape[1] > pixels("爱").shape[1]
    assert pixels("\U0002fff0").shape[1] > pixels("爱").shape[1]


def test_png_does_not_depend_on_the_readers_matplotlib_settings() -> None:
    import matplotlib

    expected = example().png()
    settings = {
        "font.size": 30,
        "font.family": "serif",
        "text.antialiased": False,
        "path.sketch": (1, 100, 2),
    }
    with matplotlib.rc_context(settings):
        assert example().png() == expected


def test_png_of_hostile_tokens_and_missing_weights() -> None:
    weights = np.eye(len(HOSTILE))
    weights[3] = np.nan
    picture = heatmap(weights, source=HOSTILE, target=HOSTILE, title=HOSTILE[0])
    image = Image.open(io.BytesIO(picture.png()))
    assert image.info["Title"] == HOSTILE[0]
    assert (232, 180, 160) in {color for _, color in image.convert("RGB").getcolors(1 << 20) or []}


def test_exactly_zero_is_told_from_nearly_zero() -> None:
    svg = heatmap([[1.0, 1e-9, 0.0]], source=["a", "b", "c"], target=["d"]).svg()
    paths = re.findall(r'<path fill="(#\w+)" d="([^"]+)"', svg)
    assert len(paths) == 2
    assert all(outline.count("M") == 1 for _, outline in paths)


def test_a_larger_weight_is_darker_in_equal_steps() -> None:
    image = Image.open(
        io.BytesIO(heatmap([np.linspace(0.02, 1, 9)], source=list("abcdefghi"), target=["x"]).png())
    )
    grey = np.asarray(image.convert("L")).astype(int)
    row = grey[np.argmin(grey.min(axis=1))]
    assert row.min() < 60


def test_long_inputs_stay_small(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).dirichlet(np.full(600, 0.02), size=600)
    labels = [f"词{place}" for place in range(600)]
    picture = heatmap(weights, source=labels, target=labels)
    sizes = {}
    for suffix, most in (("png", 1_500_000), ("svg", 500_000), ("html", 2_000_000)):
        path = tmp_path / f"long.{suffix}"
        picture.save(path)
        sizes[suffix] = path.stat().st_size
        assert sizes[suffix] < most, sizes
    with Image.open(tmp_path / "long.png") as image:
        assert max(image.size) < 4000


@pytest.mark.parametrize("width", [24, 40, 60, 100])
@pytest.mark.parametrize("colour", [False, True])
def test_terminal_lines_fit_and_cells_stand_under_their_labels(width: int, colour: bool) -> None:
    text = example(CHINESE, MIXED[:-1]).text(width, colour=colour)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = plain.splitlines()
    assert all(columns(line) <= width for line in lines)
    assert colour == ("\x1b" in text)
    for token in CHINESE if width >= 40 else []:
        assert token in plain
    panels = [block for block in plain.split("\n\n") if any(line.strip() for line in block.splitlines())]
    for panel in panels[1:-1]:
        starts = {
            columns(line[: line.index(label) + len(label)])
            for line, label in zip(panel.splitlines()[1:], MIXED, strict=False)
            if label in line
        }
        assert len(starts) <= 1


def test_terminal_lets_no_control_character_through() -> None:
    text = heatmap_of(HOSTILE).text(80, colour=False)
    assert "\x1b" not in text
    assert "\x00" not in text
    assert "\u202e" not in text
    text.encode("utf-8")


def test_colour_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert "\x1b" not in example().text(80)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" in example().text(80)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in example().text(80)


def test_notebooks_get_an_image_in_which_nothing_runs() -> None:
    picture = example()
    assert picture._repr_png_().startswith(b"\x89PNG")
    (element,) = Page(picture._repr_html_()).elements
    assert element[0] == "img"
    assert (element[1]["src"] or "").startswith("data:image/svg+xml;base64,")
