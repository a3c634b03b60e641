"""Sentences a second in translating: regard's search beside Transformers' `generate` and CTranslate2, the same weights.

The weights are random, but pointed as after training (the best next token has most of the probability), and the vectors
of places pull the target towards its end, so that its lengths are like Multi30k's, with some spread. Length penalty 0,
for which all three mean the same by a score. Every contestant's translations are compared before any is timed; --run
takes the weights of a run of `regard train`, and --text sentences for it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contestants import Size
from benchmarks.harness import Machine, Missing, Report, Row, command, in_turns
from benchmarks.training_throughput import random_sentences
from regard.data import BOS, EOS, PAD
from regard.errors import UserError
from regard.models import TransformerSeq2Seq, TransformerSettings, build, search

BEAM, BATCH, LIMIT = 5, 64, 60
POINTED = 3.0
"""How many times larger than after initialisation the scores of random weights are made."""
QUIET = 0.3
"""How loud what each block adds is, so that places are not forgotten on the way through the layers."""
FIRST_END, PULL = 5, 2.0
"""From which place on the vectors of places have some of the vector of the end, and how much more each."""
OURS, GENERATE, EARLY, CPP = (
    "regard",
    "transformers generate",
    "transformers generate, early_stopping=True",
    "CTranslate2, float32",
)

Translate = Callable[[list[list[int]]], list[list[int]]]
"""From a batch of sources to the best target of each, without BOS and EOS."""


def random_model(size: Size, seed: int) -> TransformerSeq2Seq:
    """A Transformer with a normalisation after each block, as Marian's, that ends its sentences."""
    torch.manual_seed(seed)
    model = build(
        TransformerSettings(
            size.vocabulary,
            size.vocabulary,
            size=size.size,
            ffn_size=size.ffn_size,
            heads=size.heads,
            encoder_layers=size.layers,
            decoder_layers=size.layers,
            pre_norm=False,
            tie_embeddings="all",
        )
    ).eval()
    assert isinstance(model, TransformerSeq2Seq)
    words = model.embeddings.target
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("output.weight", "narrow.weight")):
                weight *= QUIET
        last: Any = model.decoder[-1]
        last.around_feed_forward.norm.weight *= POINTED
        words[[PAD, BOS, 3]] *= 0.01  # never said
        table: Any = model.positions.table
        pull = PULL * (torch.arange(len(table)) - FIRST_END).clamp_min(0)[:, None]
        table += pull * words[EOS]
    return model


def regard(model: TransformerSeq2Seq, sources: list[list[int]]) -> list[list[int]]:
    """`regard.models.search`."""
    found = search(model, *_padded(sources), beam=BEAM, length_penalty=0.0, max_length=LIMIT)
    return [best.tokens for (best,) in found]


def marian(model: TransformerSeq2Seq, early_stopping: bool) -> Translate:
    """`MarianMTModel.generate` with the same weights."""
    from transformers import MarianConfig, MarianMTModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    settings = model.settings
    if settings.pre_norm or settings.tie_embeddings != "all" or settings.attention != "scaled_dot/softmax":
        raise UserError(
            "MarianMTModel normalises after its blocks (pre_norm=false) and has one table (tie_embeddings=all)"
        )
    config = MarianConfig(
        vocab_size=settings.target_vocabulary,
        d_model=settings.size,
        encoder_layers=settings.encoder_layers,
        decoder_layers=settings.decoder_layers,
        encoder_ffn_dim=settings.ffn_size,
        decoder_ffn_dim=settings.ffn_size,
        encoder_attention_heads=settings.heads,
        decoder_attention_heads=settings.heads,
        activation_function="relu",
        scale_embedding=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        decoder_start_token_id=BOS,
        forced_eos_token_id=None,
    )
    config._attn_implementation = "sdpa"
    peer = MarianMTModel(config).eval()
    with torch.no_grad():
        peer.model.shared.weight.copy_(model.embeddings.target)
        places = model.positions(0, config.max_position_embeddings)
        for end, ours in ((peer.model.encoder, model.encoder), (peer.model.decoder, model.decoder)):
            end.embed_tokens.weight.copy_(model.embeddings.target)
            end.embed_positions.weight.copy_(places)
            for layer, of in zip(end.layers, ours, strict=True):
                _copy(layer, of)
        peer.lm_head.weight.copy_(model.output_weight)

    def translate(sources: list[list[int]]) -> list[list[int]]:
        ids, lengths = _padded(sources)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        found = peer.generate(
            input_ids=ids,
            attention_mask=mask,
            num_beams=BEAM,
            length_penalty=0.0,
            max_new_tokens=LIMIT,
            early_stopping=early_stopping,
            do_sample=False,
        )
        return [_until_end(row[1:]) for row in found.tolist()]

    return translate


def ctranslate2(model: TransformerSeq2Seq, threads: int) -> Translate:
    """CTranslate2 with the same weights, as `regard export` writes them."""
    from regard.errors import require
    from regard.export.ctranslate2 import convert

    peer = require("ctranslate2", "export")
    names = ["<pad>", "<bos>", "<eos>", "<unk>", *map(str, range(4, model.settings.target_vocabulary))]
    ids = {name: id for id, name in enumerate(names)}
    with tempfile.TemporaryDirectory() as name:
        convert(model, names, names, 1024, Path(name))
        translator = peer.Translator(name, device="cpu", compute_type="float32", intra_threads=threads)

    def translate(sources: list[list[int]]) -> list[list[int]]:
        found = translator.translate_batch(
            [[names[id] for id in source] for source in sources],
            beam_size=BEAM,
            length_penalty=0.0,
            min_decoding_length=0,
            max_decoding_length=LIMIT,
        )
        return [[ids[name] for name in one.hypotheses[0]] for one in found]

    return translate


def _padded(sources: list[list[int]]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(source) for source in sources])
    width = int(lengths.max())
    return torch.tensor([source + [PAD] * (width - len(source)) for source in sources]), lengths


def _until_end(row: list[int]) -> list[int]:
    return row[: row.index(EOS)] if EOS in row else [id for id in row if id != PAD]


def _copy(layer: Any, of: Any) -> None:
    """The weights of one of regard's layers into one of Marian's."""
    blocks = [(layer.self_attn, of.attention.query_key_value, of.attention.output)]
    norms = [(layer.self_attn_layer_norm, of.around_attention.norm)]
    if hasattr(of, "cross_attention"):
        over = of.cross_attention
        packed = nn.Linear(over.size, 3 * over.size)
        packed.weight.copy_(torch.cat([over.query.weight, over.key_value.weight]))
        packed.bias.copy_(torch.cat([over.query.bias, over.key_value.bias]))
        blocks.append((layer.encoder_attn, packed, over.output))
        norms.append((layer.encoder_attn_layer_norm, of.around_cross_attention.norm))
    pairs = [(layer.fc1, of.feed_forward.widen), (layer.fc2, of.feed_forward.narrow), *norms]
    pairs.append((layer.final_layer_norm, of.around_feed_forward.norm))
    for theirs, packed, output in blocks:
        pairs.append((theirs.out_proj, output))
        rows = zip(packed.weight.chunk(3), packed.bias.chunk(3), strict=True)
        for part, (weight, bias) in zip((theirs.q_proj, theirs.k_proj, theirs.v_proj), rows, strict=True):
            part.weight.copy_(weight)
            part.bias.copy_(bias)
    for theirs, ours in pairs:
        theirs.weight.copy_(ours.weight)
        theirs.bias.copy_(ours.bias)


def agreement(found: Sequence[list[int]], expected: Sequence[list[int]]) -> float:
    """The share of translations that are the same."""
    return statistics.mean(one == other for one, other in zip(found, expected, strict=True))


def profile(translate: Translate, batches: list[list[list[int]]]) -> str:
    """Where the time goes, by operation."""
    translate(batches[0])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        for batch in batches:
            translate(batch)
    return seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=40, max_name_column_width=60)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.translation_decoding", description=__doc__)
    parser.add_argument("--run", type=Path, help="a run of `regard train` instead of random weights")
    parser.add_argument("--text", type=Path, help="sentences for it, one a line")
    parser.add_argument("--rounds", type=int, default=8, help=f"batches of {BATCH} sentences")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", action="store_true", help="print a profile instead of a comparison")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if (asked.run is None) != (asked.text is None):
        parser.error("--run and --text go together")
    model, sources = _given(asked)
    sources = sorted(sources[: asked.rounds * BATCH], key=len)
    batches = [sources[first : first + BATCH] for first in range(0, len(sources), BATCH)]
    ours = partial(regard, model)
    if asked.profile:
        print(profile(ours, batches))
        return
    contestants: dict[str, Translate] = {OURS: ours}
    missing = []
    makers = {
        GENERATE: partial(marian, model, False),
        EARLY: partial(marian, model, True),
        CPP: partial(ctranslate2, model, asked.threads),
    }
    for name, make in makers.items():
        try:
            contestants[name] = make()
        except UserError as error:
            missing.append(Missing(name, "beam search", str(error)))
    found = {name: [one for batch in batches for one in run(batch)] for name, run in contestants.items()}
    same = {name: agreement(answers, found[OURS]) for name, answers in found.items()}
    lengths = [len(one) for one in found[OURS]]
    # float32 sums in another order may turn a near tie; anything more is another search, such as one that stops early.
    if differing := [name for name, share in same.items() if name != EARLY and share < 0.98]:
        raise SystemExit(f"not the same translations: {[(name, same[name]) for name in differing]}")
    machine = Machine.here()
    runs = {name: partial(_turn, run, batches) for name, run in contestants.items()}
    seconds = in_turns(runs, len(batches))
    speed = {
        name: [len(batch) / time for batch, time in zip(batches, times, strict=True)]
        for name, times in seconds.items()
    }
    rows = [
        Row.of("beam search", "sentences/s", speed[OURS], name, speed[name], f"{same[name]:.1%} the same")
        for name in contestants
        if name != OURS
    ]
    shape = model.settings
    low, middle, high = statistics.quantiles(lengths, n=4)
    Report(
        "translation_decoding",
        "Translating",
        f"Sentences a second of beam search, beam {BEAM}, batches of {BATCH} of one length or nearly, by a Transformer "
        f"of {shape.encoder_layers}+{shape.decoder_layers} layers of {shape.size}, feed-forward {shape.ffn_size}, "
        f"{shape.heads} heads, {shape.target_vocabulary:,} shared tokens, float32, with the same weights for all: "
        + ("random ones" if asked.run is None else f"those of {asked.run.name}")
        + f". Targets of {middle:.0f} tokens in the middle, quartiles {low:.0f} and {high:.0f}, at most "
        f"{max(lengths)}. Length penalty 0; batch by batch in turns.",
        "higher",
        command(),
        machine,
        tuple(rows),
        tuple(missing),
    ).publish()


def _turn(run: Translate, batches: list[list[list[int]]], turn: int) -> object:
    return run(batches[turn])


def _given(asked: argparse.Namespace) -> tuple[TransformerSeq2Seq, list[list[int]]]:
    """The model and the sources, in tokens."""
    if asked.run is None:
        size = Size()
        sources = [
            source for source, _ in random_sentences(asked.rounds * BATCH, size.vocabulary, asked.seed)
        ]
        return random_model(size, asked.seed), sources
    from regard.data import read_lines
    from regard.tasks.experiment import Trained

    trained = Trained.open(asked.run)
    if not isinstance(trained.model, TransformerSeq2Seq):
        raise SystemExit(f"{asked.run} is not a run of a Transformer")
    return trained.model, trained.task.source.encode_batch(read_lines(asked.text))  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
