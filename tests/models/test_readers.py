"""Readers: what padding, order and hidden words may change, and that both learn."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from regard.data.lexicon import Lexicon
from regard.data.passages import Window, passage
from regard.errors import UserError
from regard.models import build, describe
from regard.models.extraction import extract
from regard.models.reading import Reader, matches

TEXT = ["ann", "saw", "bob", "in", "rome", ".", "bob", "saw", "carol", "in", "paris", "."]
LEXICON = Lexicon.learn([TEXT, ["who", "where", "did", "?"]], words=40, characters=40)
SHAPES: dict[str, dict[str, Any]] = {
    "bidaf": {"word_size": 8, "character_size": 4, "size": 8, "hidden_size": 8, "dropout": 0.0},
    "transformer-reader": {
        "word_size": 8,
        "character_size": 4,
        "size": 8,
        "ffn_size": 16,
        "heads": 2,
        "dropout": 0.0,
    },
}
ROWS = [
    Window(("where", "did", "ann", "see", "bob", "?"), tuple(TEXT[:6]), ((4, 4, 1.0),)),
    Window(("who", "saw", "carol", "?"), tuple(TEXT), ((6, 6, 0.5), (6, 7, 0.5))),
    Window(("who", "?"), ("paris",)),
]


def made(name: str, null: int = 1, **more: Any) -> Reader:
    torch.manual_seed(0)
    sizes = {"words": len(LEXICON.words), "characters": len(LEXICON.characters), "null_scores": null}
    model = build({"model": name, **SHAPES[name], **sizes, **more})
    assert isinstance(model, Reader)
    return model.eval()


@pytest.mark.parametrize("attention", ["linear/softmax", "scaled_dot/sparsemax", "additive/top-2", "none"])
@pytest.mark.parametrize("name", SHAPES)
def test_padding_and_neighbours_change_nothing(name: str, attention: str) -> None:
    if name == "transformer-reader":
        if attention == "none":
            pytest.skip("made of attention")
        model = made(name, flow=attention, attention="cosine/sparsemax/window-4")
    else:
        model = made(name, attention=attention)
    together, weights = model.read(LEXICON.lay(ROWS), return_weights=True)
    assert (weights is None) == (attention == "none")
    for number, row in enumerate(ROWS):
        alone, looked = model.read(LEXICON.lay([row]), return_weights=True)
        length = len(row.context)
        torch.testing.assert_close(together[number, :, : length + 1], alone[0], atol=2e-5, rtol=1e-4)
        assert torch.isneginf(together[number, :, length + 1 :]).all()
        if weights is not None and looked is not None:
            own = weights[number, :, :, :length, : len(row.question)]
            torch.testing.assert_close(own, looked[0], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(own.sum(-1), torch.ones_like(own.sum(-1)))


@pytest.mark.parametrize("name", SHAPES)
def test_a_reader_learns_where_the_answer_is(name: str) -> None:
    model = made(name).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    batch = LEXICON.lay(ROWS)
    first = float(model(batch)[1])
    for _ in range(60):
        optimizer.zero_grad()
        model(batch)[0].backward()
        optimizer.step()
    least = 2 * 0.6931  # of the two ends that are equally right
    assert float(model.eval()(batch)[1]) < least + 0.2 * (first - least)
    asked = [(row.question, passage(" ".join(row.context))) for row in ROWS]
    how = {"window": 40, "stride": 20, "longest": 5}
    found = extract(model, LEXICON, asked, **how)
    assert found[0].spans[0].text == "rome"
    assert found[1].spans[0].text in ("bob", "bob saw")
    assert found[2].margin > 0 > found[0].margin


def test_the_loss_is_the_cross_entropy_of_starts_and_ends_by_their_shares() -> None:
    model = made("bidaf")
    batch = LEXICON.lay(ROWS)
    scores = model.read(batch)[0].log_softmax(-1)
    expected = -scores[0, 0, 5] - scores[0, 1, 5] - scores[1, 0, 7] - (scores[1, 1, 7] + scores[1, 1, 8]) / 2
    expected = expected - scores[2, 0, 0] - scores[2, 1, 0]
    loss, surprise = model(batch)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(surprise, expected)
    smooth, surprise = model(batch, smoothing=0.1)
    assert torch.isfinite(smooth)
    torch.testing.assert_close(surprise, expected.detach())
    without, _ = made("bidaf", null=0)(
        LEXICON.lay(ROWS[:2])
    )  # several answers beside one, and no score for none
    assert torch.isfinite(without)


def test_words_match_by_spelling_case_beginning_and_neighbour() -> None:
    window = Window(("Did", "cats", "see", "Rome", "?"), ("rome", "did", "Cats", "see", "cat", "x"))
    context, question = matches(LEXICON.lay([window, ROWS[1]]))
    assert context[0, :6].tolist() == [
        [0, 1, 1, 0],  # rome, Rome
        [0, 1, 1, 1],  # did Cats: both are there, side by side
        [0, 1, 1, 1],
        [1, 1, 1, 1],
        [0, 0, 1, 0],  # cat, cats
        [0, 0, 0, 0],
    ]
    assert question[0, 4].tolist() == [0, 0, 0, 0]
    assert not context[0, 6:].any()


def test_windows_together_give_the_best_answer_of_the_whole_text() -> None:
    """The likeliest span over all windows, each probability among all of them; spans stay in order and short."""
    model = made("bidaf")
    text = passage(" ".join(TEXT * 3))
    question = ("who", "saw", "carol", "?")
    [whole] = extract(model, LEXICON, [(question, text)], window=99, stride=50, longest=3, n_best=500)
    total = sum(torch.tensor([span.score for span in whole.spans]).exp().tolist())
    assert 0 < total < 1
    assert all(0 <= span.last - span.first < 3 for span in whole.spans)
    assert [span.score for span in whole.spans] == sorted((span.score for span in whole.spans), reverse=True)
    [cut] = extract(model, LEXICON, [(question, text)], window=12, stride=6, longest=3, n_best=5)
    assert len({(span.first, span.last) for span in cut.spans}) == 5
    assert all(span.text == text.between(span.first, span.last) for span in cut.spans)


def test_settings_go_to_a_dictionary_and_back_and_are_checked() -> None:
    for name in SHAPES:
        settings = made(name).settings  # type: ignore[attr-defined]
        assert build(describe(settings)).settings == settings
    for name, more, message in (
        ("bidaf", {"attention": "dot/softmax/causal"}, "attention must be score/normalizer without mask"),
        ("bidaf", {"hidden_size": 0}, "hidden_size must be at least 1"),
        ("transformer-reader", {"attention": "none"}, "choose the model 'bidaf'"),
        ("transformer-reader", {"kernel": 4}, "kernel must be odd"),
    ):
        with pytest.raises(UserError, match=message):
            made(name, **more)
