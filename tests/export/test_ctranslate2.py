"""CTranslate2 computes with exported weights what regard does with its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from regard.data import BOS, EOS
from regard.errors import UserError
from regard.models import build
from regard.models.transformer import TransformerSeq2Seq

NAMES = ["<pad>", "<bos>", "<eos>", "<unk>", *map(str, range(4, 40))]
SIZES: dict[str, Any] = {
    "model": "transformer",
    "source_vocabulary": 40,
    "target_vocabulary": 40,
    "size": 16,
    "ffn_size": 24,
    "heads": 2,
    "encoder_layers": 2,
    "decoder_layers": 3,
}


def model_of(**more: Any) -> TransformerSeq2Seq:
    """A model away from its first weights, so that differences would show."""
    torch.manual_seed(1)
    model = build({**SIZES, **more}).eval()
    assert isinstance(model, TransformerSeq2Seq)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"pre_norm": False},
        {"tie_embeddings": "all", "pre_norm": False},
        {"tie_embeddings": "none", "positions": "learned", "longest": 64},
        {"attention": "dot/softmax"},
        {"cross_attention": "dot/softmax"},
    ],
)
def test_every_token_has_the_same_price(how: dict[str, Any], tmp_path: Path) -> None:
    peer = pytest.importorskip(
        "ctranslate2", reason="ctranslate2 is not installed: pip install 'regard[export]'"
    )
    from regard.export.ctranslate2 import convert

    model = model_of(**how)
    convert(model, NAMES, NAMES, 64, tmp_path)
    translator = peer.Translator(str(tmp_path), compute_type="float32", intra_threads=1)
    generator = torch.Generator().manual_seed(0)
    for source_len, target_len in ((9, 3), (1, 20), (14, 0), (5, 7)):
        source = torch.randint(4, 40, (1, source_len), generator=generator)
        target = torch.randint(4, 40, (target_len,), generator=generator).tolist()
        written = torch.tensor([[BOS, *target]])
        prices = model.project(model(source, torch.tensor([source_len]), written)).log_softmax(-1)[0].detach()
        expected = [float(prices[place, token]) for place, token in enumerate([*target, EOS])]
        (found,) = translator.score_batch(
            [[NAMES[id] for id in source[0].tolist()]], [[NAMES[id] for id in target]]
        )
        assert found.log_probs == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ({"attention": "cosine/softmax"}, "cosine/softmax"),
        ({"attention": "scaled_dot/softmax/window-2"}, "window-2"),
        ({"cross_attention": "additive/sparsemax"}, "cross_attention 'additive/sparsemax'"),
    ],
)
def test_mechanisms_that_it_does_not_have_are_refused(
    how: dict[str, Any], named: str, tmp_path: Path
) -> None:
    from regard.export.ctranslate2 import convert

    with pytest.raises(UserError, match=named):
        convert(model_of(**how), NAMES, NAMES, 64, tmp_path)
    assert not list(tmp_path.iterdir())
