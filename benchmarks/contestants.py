"""One Transformer encoder-decoder four ways: regard's, PyTorch's and Transformers', each with its training step.

All have the same size, one shared embedding table, the same dropout, label smoothing, clipping and fused AdamW, and
see the same batches. regard's dropout follows each block, which is also what `MarianConfig.dropout` does.
`torch.nn.Transformer` has one rate for that, for attention weights and for the inside of the feed-forward block,
so it competes twice: as its constructor makes it, and with the two other dropouts switched off (which is faster).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard.data import BOS, EOS, PAD, Batch
from regard.models import RecurrentSettings, SequenceToSequence, TransformerSettings, build
from regard.training import TrainingSettings
from regard.training.place import Place
from regard.training.update import build_optimizer, update

RATE, CLIP, BETAS = 1e-3, 1.0, (0.9, 0.98)

Step = Callable[[Batch], object]
"""Forward, backward, clipping and an update of the weights on one batch."""


@dataclass(frozen=True)
class Size:
    """The shape of every contestant: Multi30k's Transformer-Tiny (Wu et al. 2021) unless said otherwise."""

    vocabulary: int = 10_000
    layers: int = 4
    size: int = 128
    ffn_size: int = 256
    heads: int = 4
    dropout: float = 0.3
    smoothing: float = 0.1


def regard_transformer(size: Size) -> Step:
    """regard's Transformer in the training step of `regard train`."""
    return _regard(
        build(
            TransformerSettings(
                size.vocabulary,
                size.vocabulary,
                size=size.size,
                ffn_size=size.ffn_size,
                heads=size.heads,
                encoder_layers=size.layers,
                decoder_layers=size.layers,
                dropout=size.dropout,
                tie_embeddings="all",
            )
        ),
        size,
    )


def regard_recurrent(size: Size) -> Step:
    """regard's GRU encoder-decoder with additive attention, at its own default size."""
    settings = RecurrentSettings(
        size.vocabulary, size.vocabulary, dropout=size.dropout, tie_embeddings="output"
    )
    return _regard(build(settings), size)


def _regard(model: SequenceToSequence, size: Size) -> Step:
    optimizer = build_optimizer(model.train(), TrainingSettings(betas=BETAS))
    place = Place(torch.device("cpu"))

    def loss(model: SequenceToSequence, batch: Batch) -> tuple[Tensor, int, dict[str, float]]:
        total, _, tokens = model.loss(
            batch.source, batch.source_lengths, batch.target, batch.target_lengths, size.smoothing
        )
        return total, tokens, {}

    return lambda batch: update(model, [batch], loss, optimizer, place, rate=RATE, clip=CLIP)


class PyTorchTransformer(nn.Module):
    """`torch.nn.Transformer` between a shared embedding and the output projection tied to it."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.scale = math.sqrt(size.size)
        self.embedding = nn.Embedding(size.vocabulary, size.size, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=size.size**-0.5)
        self.register_buffer("places", _sinusoids(1024, size.size))
        self.dropout = nn.Dropout(size.dropout)
        warnings.filterwarnings("ignore", "enable_nested_tensor")  # meant for inference
        self.transformer = nn.Transformer(
            size.size, size.heads, size.layers, size.layers, size.ffn_size, size.dropout, batch_first=True,
            norm_first=True,
        )  # fmt: skip
        self.output = nn.Linear(size.size, size.vocabulary, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """The scores of the next token. *Shape*: `(batch, target_len, vocabulary)`."""
        padding = source == PAD
        causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        states = self.transformer(
            self._embed(source),
            self._embed(target),
            tgt_mask=causal,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
            tgt_is_causal=True,
        )
        return self.output(states)

    def _embed(self, ids: Tensor) -> Tensor:
        return self.dropout(self.embedding(ids) * self.scale + self.places[: ids.shape[1]])


def pytorch_transformer(size: Size, *, same_dropout: bool) -> Step:
    """`torch.nn.Transformer` with `F.cross_entropy`."""
    model = PyTorchTransformer(size).train()
    if same_dropout:
        for layer in model.transformer.modules():
            if isinstance(layer, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
                layer.dropout = nn.Identity()
            if isinstance(layer, nn.MultiheadAttention):
                layer.dropout = 0.0

    def loss(batch: Batch) -> Tensor:
        scores = model(batch.source, batch.target_input)
        return functional.cross_entropy(
            scores.flatten(0, 1),
            batch.target_output.flatten(),
            ignore_index=PAD,
            label_smoothing=size.smoothing,
        )

    return _peer(model, loss)


def marian(size: Size) -> Step:
    """Transformers' `MarianMTModel` with the label smoothing of its `Trainer`."""
    from transformers import MarianConfig, MarianMTModel
    from transformers.trainer_pt_utils import LabelSmoother

    config = MarianConfig(
        vocab_size=size.vocabulary,
        decoder_vocab_size=size.vocabulary,
        d_model=size.size,
        encoder_layers=size.layers,
        decoder_layers=size.layers,
        encoder_ffn_dim=size.ffn_size,
        decoder_ffn_dim=size.ffn_size,
        encoder_attention_heads=size.heads,
        decoder_attention_heads=size.heads,
        activation_function="relu",
        dropout=size.dropout,
        scale_embedding=True,
        use_cache=False,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        decoder_start_token_id=BOS,
        forced_eos_token_id=None,
    )
    config._attn_implementation = "sdpa"
    model = MarianMTModel(config).train()
    smooth = LabelSmoother(size.smoothing)

    def loss(batch: Batch) -> Tensor:
        labels = batch.target_output.masked_fill(batch.target_output == PAD, -100)
        found = model(
            input_ids=batch.source,
            attention_mask=(batch.source != PAD).long(),
            decoder_input_ids=batch.target_input,
        )
        return smooth(found, labels)

    return _peer(model, loss)


def _peer(model: nn.Module, loss: Callable[[Batch], Tensor]) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=BETAS, weight_decay=0.0, fused=True)

    def step(batch: Batch) -> float:
        total = loss(batch)
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return total.item()

    return step


def _sinusoids(length: int, size: int) -> Tensor:
    rates = torch.exp(torch.arange(0, size, 2) * (-math.log(10000.0) / size))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
