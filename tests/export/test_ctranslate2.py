"""CTranslate2 finds with exported weights what regard's search finds with its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from regard.errors import UserError
from regard.models import build, search
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
    """A model that writes no special token but EOS, since CTranslate2 forbids none."""
    torch.manual_seed(1)
    model = build({**SIZES, **more}).eval()
    assert isinstance(model, TransformerSeq2Seq)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
        words = model.embeddings.target
        pointing = torch.randn(words.shape[1])
        last: Any = (
            model.decoder_norm if model.settings.pre_norm else model.decoder[-1].around_feed_forward.norm
        )
        last.bias += 3 * pointing
        model.output_weight[[0, 1, 3]] = -5 * pointing
    return model


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"pre_norm": False},
        {"tie_embeddings": "all", "pre_norm": False},
        {"tie_embeddings": "none", "positions": "learned", "longest": 30},
        {"attention": "dot/softmax"},
        {"cross_attention": "dot/softmax"},
    ],
)
def test_the_same_translations(how: dict[str, Any], tmp_path: Path) -> None:
    peer = pytest.importorskip(
        "ctranslate2", reason="ctranslate2 is not installed: pip install 'regard[export]'"
    )
    from regard.export.ctranslate2 import convert

    model = model_of(**how)
    convert(model, NAMES, NAMES, 64, tmp_path)
    translator = peer.Translator(str(tmp_path), compute_type="float32", intra_threads=1)
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([9, 5, 7, 2, 4, 6, 8, 3])
    source = torch.randint(4, 40, (8, 9), generator=generator)
    source[torch.arange(9) >= lengths[:, None]] = 0
    sentences = [
        [NAMES[id] for id in row[:length]] for row, length in zip(source.tolist(), lengths, strict=True)
    ]
    for beam in (1, 4):
        theirs = translator.translate_batch(
            sentences,
            beam_size=beam,
            length_penalty=0.0,
            min_decoding_length=0,
            max_decoding_length=20,
            return_scores=True,
        )
        ours = search(model, source, lengths, beam=beam, length_penalty=0.0, max_length=20)
        ended = 0
        for found, (best,) in zip(theirs, ours, strict=True):
            assert [int(name) for name in found.hypotheses[0]] == best.tokens
            if len(best.tokens) < 20:  # CTranslate2 does not price the end that the limit is
                ended += 1
                assert found.scores[0] == pytest.approx(best.log_probability, abs=1e-3)
        assert ended


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
