"""Classifiers of texts: padding changes nothing, every mechanism is one switch, and what cannot be is said."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from regard.errors import UserError
from regard.models import MODELS, build

SMALL: dict[str, dict[str, Any]] = {
    "rnn-classifier": {"embedding_size": 6, "hidden_size": 4},
    "transformer-classifier": {"size": 8, "ffn_size": 12, "heads": 2, "layers": 2},
}
MECHANISMS = ["additive/softmax", "dot/sparsemax", "cosine/entmax15", "scaled_dot/top-2", "distance/hardmax"]


def made(name: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    return build({"model": name, "vocabulary": 12, "classes": 3, **SMALL[name], **settings}).double().eval()


@pytest.mark.parametrize("mechanism", [*MECHANISMS, "none"])
@pytest.mark.parametrize("name", SMALL)
def test_padding_and_neighbours_change_nothing(name: str, mechanism: str) -> None:
    if mechanism == "none":
        model = made(name, **({"attention": "none"} if name == "rnn-classifier" else {"pooling": "none"}))
    else:
        model = made(name, attention=mechanism)
    ids = torch.tensor([[4, 5, 6, 7, 0, 0], [8, 9, 10, 11, 4, 5]])
    both, weights = model(ids, torch.tensor([4, 6]), return_weights=True)
    alone, own = model(ids[:1, :4], torch.tensor([4]), return_weights=True)
    torch.testing.assert_close(both[:1], alone)
    assert both.shape == (2, 3)
    if mechanism == "none":
        assert weights is None
    else:
        assert weights is not None
        assert weights.shape[::2] == (2, 6)
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        assert not weights[0, :, 4:].any()
        torch.testing.assert_close(weights[:1, :, :4], own)


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_learns(name: str) -> None:
    model = made(name, dropout=0.0)
    scores, _ = model(torch.tensor([[4, 5, 6], [7, 8, 0]]), torch.tensor([3, 2]))
    scores.square().sum().backward()
    for what, parameter in model.named_parameters():
        assert parameter.grad is not None, what
        assert parameter.grad.isfinite().all()
        assert what.endswith("bias") or parameter.grad.any(), what


def test_word_dropout_hides_words_in_training_only() -> None:
    model = made("rnn-classifier", word_dropout=0.5, dropout=0.0)
    ids, lengths = torch.randint(4, 12, (64, 9)), torch.full((64,), 9)
    assert torch.equal(model(ids, lengths)[0], model(ids, lengths)[0])
    model.train()
    assert not torch.equal(model(ids, lengths)[0], model(ids, lengths)[0])


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("rnn-classifier", {"attention": "dott/softmax"}, "attention: "),
        ("rnn-classifier", {"attention": "dot/softmax/causal"}, "without mask"),
        ("rnn-classifier", {"heads": 3}, "multiple of heads"),
        ("rnn-classifier", {"cell": "rnn"}, "cell must be one of"),
        ("transformer-classifier", {"attention": "none"}, "choose the model 'rnn-classifier'"),
        ("transformer-classifier", {"size": 9}, "size must be a multiple of heads"),
        ("transformer-classifier", {"dropout": 1.0}, "dropout must be"),
    ],
)
def test_what_cannot_be_is_said(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        made(name, **settings)
    assert name in MODELS
