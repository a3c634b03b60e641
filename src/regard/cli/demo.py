"""`regard demo`: train on the embedded sample with and without attention, and see the difference."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

MECHANISM = "additive/softmax"
LOCALES = ("en", "fr", "zh", "ja", "ru", "ar")


def demo(run: Path = Path("runs/demo"), *, attention: str = MECHANISM, threads: int | None = None) -> None:
    """Train a translator of dates with attention and the same one without, evaluate both, and write a report.

    It takes about 4 minutes on 2 cores. An interrupted demo goes on where it stopped.

    Parameters
    ----------
    run
        The folder for both runs and report.html.
    attention
        The mechanism to hold against none.
    threads
        CPU threads; 1 is best beside other work on the same CPU.
    """
    from regard.tasks.experiment import Experiment, Trained, resume, train
    from regard.tasks.report import by_length, write_report

    began = time.monotonic()
    paths = []
    for mechanism in (attention, "none"):
        changes: dict[str, dict[str, Any]] = {
            "rnn": {"attention": mechanism},
            "training": {} if threads is None else {"threads": threads},
        }
        experiment = Experiment.resolve("translation", changes=changes)
        path = run / mechanism.replace("/", "-")
        print(f"\n{mechanism}: training into {path}", flush=True)
        if (path / "config.toml").exists():
            resume(path)
        else:
            train(experiment, path)
        paths.append(path)

    trained = Trained.open(paths[0])
    unseen = trained.experiment.read()["held-out dates"]
    chosen = [next(pair for pair in unseen if pair.origin.split("/")[0] == locale) for locale in LOCALES]
    report = run / "report.html"
    found = write_report(
        paths[0],
        beside=paths[1:],
        to=report,
        look_at=[pair.source for pair in chosen[:4]],
        title="Dates in 75 locales",
    )

    print("\nDates it never saw:")
    answers = trained.task.predict(
        trained.model,
        [pair.source for pair in chosen],
    )
    for pair, answer in zip(chosen, answers, strict=True):
        mark = "✓" if answer.text == pair.target else f"✗ (it is {pair.target})"
        print(f"  {answer.text} {mark}  {pair.source}")
    print("\nWhere it looked:")
    for picture in trained.task.pictures(trained.model, chosen[2].source, layer=None, head=None):
        print(picture.text())
    print(f"Exact match              {attention:>18}                none")
    for split, one in found[0].items():
        shares = [evaluations[split].metrics["exact_match"] for evaluations in found]
        print(f"{split:<24} {shares[0]:>18.2%} {shares[1]:>19.2%}   of {len(one.judged):,}")
    for ours, others in zip(*(by_length(evaluations) for evaluations in found), strict=True):
        shares = [trained.task.quality(group) for group in (ours, others)]
        lengths = f"{ours[0].length} to {ours[-1].length} characters"
        print(f"{lengths:<24} {shares[0]:>18.2%} {shares[1]:>19.2%}   of {len(ours):,}")
    print(f"\n{report}  ({time.monotonic() - began:.0f} s in all)")
