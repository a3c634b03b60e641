"""Target tokens a second in training: regard's Transformer beside PyTorch's and Transformers' of the same size.

By default the sentences are random, their lengths and the tokens' frequencies like Multi30k's (en-de, 10,000
byte pairs); --data reads real ones. Every contestant trains on the same batch before any goes on to the next.
"""

from __future__ import annotations

import argparse
import random
from functools import partial
from itertools import accumulate
from pathlib import Path

import torch

from benchmarks.contestants import (
    Size,
    Step,
    marian,
    pytorch_transformer,
    regard_recurrent,
    regard_transformer,
)
from benchmarks.harness import Machine, Report, Row, Spread, command, in_turns
from regard.data import Batch, Vocabulary, pair_batches, read_pairs

FIRST_WORD = 4
OURS, INFORMATION = "regard", "regard, GRU additive/softmax"
PEERS = ("torch.nn.Transformer", "torch.nn.Transformer, dropout as regard's", "transformers MarianMTModel")


def random_sentences(count: int, vocabulary: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Pairs of random sentences: log-normal lengths, a target as long as its source but for some 18%, Zipf's law."""
    rng = random.Random(seed)
    words = range(FIRST_WORD, vocabulary)
    weights = list(accumulate(1 / rank for rank in range(1, len(words) + 1)))
    pairs = []
    for _ in range(count):
        source = min(max(round(rng.lognormvariate(2.577, 0.31)), 4), 48)
        target = min(max(round(source * rng.lognormvariate(0.007, 0.178)), 3), 50)
        pairs.append(
            (
                rng.choices(words, cum_weights=weights, k=source),
                rng.choices(words, cum_weights=weights, k=target),
            )
        )
    return pairs


def real_sentences(data: Path, languages: str, vocabulary: int) -> list[tuple[list[int], list[int]]]:
    """The training pairs of a parallel corpus, in one shared vocabulary of lowercase byte pairs."""
    pairs = read_pairs([data], *languages.split("-")).train
    sources, targets = [pair.source for pair in pairs], [pair.target for pair in pairs]
    words = Vocabulary.train([*sources, *targets], "bpe", vocabulary, lowercase=True)
    return list(zip(words.encode_batch(sources), words.encode_batch(targets), strict=True))


def batches(
    data: Path | None, languages: str, size: Size, max_tokens: int, count: int, seed: int
) -> list[Batch]:
    """The first batches of an epoch."""
    if data is None:
        examples = random_sentences(10_000, size.vocabulary, seed)
    else:
        examples = real_sentences(data, languages, size.vocabulary)
    return [
        batch
        for batch, _ in zip(pair_batches(examples, max_tokens, seed).epoch(0), range(count), strict=False)
    ]


def contestants(size: Size) -> dict[str, Step]:
    """Everyone's training step, each from the same seed."""
    make = {
        OURS: regard_transformer,
        PEERS[0]: partial(pytorch_transformer, same_dropout=False),
        PEERS[1]: partial(pytorch_transformer, same_dropout=True),
        PEERS[2]: marian,
        INFORMATION: regard_recurrent,
    }
    steps = {}
    for name, build in make.items():
        torch.manual_seed(0)
        steps[name] = build(size)
    return steps


def profile(step: Step, given: list[Batch]) -> str:
    """Where the time of a contestant's steps goes, by operation."""
    for batch in given[:2]:
        step(batch)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        for batch in given:
            step(batch)
    return seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=40, max_name_column_width=60)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_throughput", description=__doc__)
    parser.add_argument("--data", type=Path, help="a directory of parallel text, as `regard train` reads it")
    parser.add_argument("--languages", default="en-de", help="source and target of --data")
    parser.add_argument("--rounds", type=int, default=24, help="batches to train on")
    parser.add_argument("--max-tokens", type=int, default=4096, help="padded tokens in a batch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--profile",
        nargs="?",
        const=OURS,
        metavar="CONTESTANT",
        help="print a profile instead of a comparison",
    )
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    size = Size()
    given = batches(asked.data, asked.languages, size, asked.max_tokens, asked.rounds, asked.seed)
    steps = contestants(size)
    if asked.profile is not None:
        if asked.profile not in steps:
            parser.error(f"there is no contestant {asked.profile!r}; there are {', '.join(map(repr, steps))}")
        print(profile(steps[asked.profile], given[:6]))
        return

    def train(step: Step, turn: int) -> object:
        return step(given[turn])

    machine = Machine.here()
    seconds = in_turns({name: partial(train, step) for name, step in steps.items()}, len(given), warm_up=2)
    tokens = [int(batch.target_lengths.sum()) for batch in given]
    speed = {
        name: [count / time for count, time in zip(tokens, times, strict=True)]
        for name, times in seconds.items()
    }
    case, unit = "Transformer", "tokens/s"
    rows = [Row.of(case, unit, speed[OURS], peer, speed[peer]) for peer in PEERS]
    rows.append(Row("GRU 256, additive/softmax", unit, Spread.of(speed[INFORMATION]), len(given)))
    text = (
        "random sentences of Multi30k's lengths"
        if asked.data is None
        else f"{asked.data.name} {asked.languages}"
    )
    Report(
        "training_throughput",
        "Training",
        f"Target tokens a second (padding not counted) in training a Transformer of {size.layers}+{size.layers} layers "
        f"of {size.size}, feed-forward {size.ffn_size}, {size.heads} heads, {size.vocabulary:,} shared tokens, "
        f"dropout {size.dropout}, label smoothing {size.smoothing}, float32: forward, backward, clipping, fused AdamW. "
        f"Batches of {asked.max_tokens} padded tokens, {text}; batch by batch in turns.",
        "higher",
        command(),
        machine,
        tuple(rows),
    ).publish()


if __name__ == "__main__":
    main()
