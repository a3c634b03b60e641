"""A contest: who disagrees is refused, who would take too long is left out, and the physical limit adds up."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from benchmarks import contest, limits, peers, problems, settings

SMALL = problems.Problem("scaled_dot", 2, 16, 16, 4, 4)
SETTINGS = settings.Settings(quick=True, threads=1, seconds=0.0, rounds=3)


def peer(name: str, factor: float = 1.0, normalizer: str = "sparsemax", **more) -> peers.Peer:
    """A peer that computes sparsemax (or softmax) attention, times a factor."""

    def prepare(inputs, problem):
        (honest,) = (one for one in peers.PEERS if (one.name, one.score, one.normalizer) == WAYS[normalizer])
        run = honest.prepare(inputs, problem)
        return lambda: tuple(factor * part for part in run())

    return peers.Peer(name, "scaled_dot", normalizer, prepare, **more)


WAYS = {
    "sparsemax": (peers.EAGER, "scaled_dot", "sparsemax"),
    "softmax": ("SDPA softmax", "scaled_dot", "softmax"),
}


def once(self, contestants):
    """The time of the call that every contestant makes before the rounds."""
    return {one.key: [one.seconds] for one in contestants}


@pytest.fixture
def arena(monkeypatch):
    """A contest whose peers are given, on a machine whose rates are known."""
    monkeypatch.setattr(contest.Contest, "_times", once)
    monkeypatch.setattr(limits, "peaks", lambda threads: limits.Peaks(1e9, "as told"))
    monkeypatch.setattr(limits, "read_rate", lambda threads, size: 1e9)

    def held(*some):
        monkeypatch.setattr(contest, "peers_for", lambda problem: list(some))
        return contest.Contest(SETTINGS)

    return held


@pytest.mark.parametrize("gradients", [False, True])
def test_a_peer_that_disagrees_is_refused(arena, gradients):
    held = arena(peer("honest"), peer("wrong", 1.1), peer("yardstick", normalizer="softmax"),
                 peer("wrong yardstick", 1.1, "softmax"))  # fmt: skip
    held.run(dataclasses.replace(SMALL, gradients=gradients, mask="causal"), ["sparsemax"])
    assert [row.peer for row in held.rows] == ["honest", "yardstick"]
    assert [one.who for one in held.missing] == ["wrong", "wrong yardstick"]
    assert all("1.0e-01 from regard's" in one.why for one in held.missing)


def test_a_wrong_gradient_is_a_disagreement():
    expected = torch.ones(3), torch.ones(3, 2)
    contest.verify(expected, expected, "float32")
    for wrong in (torch.ones(3, 2) * 1.01, torch.full((3, 2), torch.nan)):
        with pytest.raises(contest.Disagreement):
            contest.verify((expected[0], wrong), expected, "float32")


def test_who_cannot_run_is_told_with_the_reason(arena, monkeypatch):
    def broken(inputs, problem):
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr(limits, "free_memory", lambda device="cpu": 100)
    held = arena(
        peer("refusing", refuse=lambda problem: "has no backward"),
        peer("large", copies=1),
        peers.Peer("broken", "scaled_dot", "sparsemax", broken),
    )
    held.run(SMALL, ["sparsemax"])
    assert [(one.who, one.why) for one in held.missing] == [
        ("refusing", "has no backward"),
        ("large", "would need more than half of the free memory"),
        ("broken", "RuntimeError: no compiler"),
    ]
    assert [(row.peer, row.ratio) for row in held.rows] == [("", None)]


def test_what_would_take_too_long_is_not_begun():
    clock = contest.Clock(patience=10.0)
    assert not clock.too_long("peer", 1e9)
    clock.note("peer", 100, 3.0)
    assert not clock.too_long("peer", 300)  # 9 seconds
    assert clock.too_long("peer", 400)  # 12
    assert not clock.too_long("another", 400)


def test_the_share_of_the_limit_follows_from_the_count(arena):
    held = arena()
    held.run(dataclasses.replace(SMALL, kind="all equal"), ["sparsemax"], "{} here")
    (row,) = held.rows
    pairs = 2 * 16 * 16
    operations = pairs * (4 + 1) + pairs * 4  # scores and one comparison; the values of all keys
    assert row.limit == pytest.approx(1e3 * operations / 1e9)
    assert row.share == pytest.approx(row.limit / row.regard.median)
    assert (row.panel, row.length) == ("sparsemax here", 16)
    assert "16 keys a query" in row.note
    assert "blockwise" in row.note or "sparse" in row.note


def test_work_is_counted_by_hand():
    both = problems.Problem("scaled_dot", 1, 10, 20, 4, 8, gradients=True)
    work = limits.work_of(both, "sparsemax", support=2.0)
    forward = 200 * (4 + 1) + 10 * 2 * 8
    assert work.operations == forward + 10 * 2 * (2 * 4 + 2 * 8)
    assert work.bytes == 4 * (10 * 12 + 20 * 12) * 3
    additive = limits.work_of(problems.Problem("additive", 1, 10, 20, 4, 8), "softmax", support=20.0)
    assert additive.operations == 200 * (4.25 * 4 + 9) + 200 * 8
    causal = limits.work_of(
        problems.Problem("scaled_dot", 1, 10, 10, 4, 4, mask="causal"), "top-8", support=1.0
    )
    assert causal.operations == 55 * 5 + 10 * 4
    assert work.seconds(1e9, 1e6) == work.bytes / 1e6


def test_decoding_reads_only_the_values_that_get_weight():
    work = limits.work_of(problems.Problem("scaled_dot", 1, 1, 100, 4, 8), "sparsemax", support=3.0)
    assert work.bytes == 4 * (1 * 12 + 100 * 4 + 3 * 8)


def test_rates_of_this_machine_are_plausible():
    assert 1e8 < limits.peaks(1).operations < 1e12
    assert 1e8 < limits.read_rate(1, 2**20) < 1e13


@pytest.mark.parametrize(("kind", "keys"), [("all equal", 32), ("one huge", 1)])
def test_kinds_of_scores_have_the_supports_they_are_named_for(kind, keys):
    problem = problems.Problem("scaled_dot", 2, 32, 32, 64, 64, kind=kind)
    assert problems.support_of(problem, problems.inputs_of(problem), "sparsemax") == keys
    assert kind in problems.KINDS


@pytest.mark.parametrize(
    ("score", "normalizers", "mask"),
    [
        ("additive", ["softmax"], ""),
        ("scaled_dot", ["sparsemax", "top-8"], "causal"),
        ("additive", ["softmax"], "edges-3"),
        ("scaled_dot", ["softmax"], "edges-3"),
    ],
)
def test_peers_are_right_about_a_small_problem(monkeypatch, score, normalizers, mask):
    """All but those that are compiled, which takes long."""
    compiled = (peers.COMPILED, "the same", "Flex", "Keras", peers.ADASPLASH)
    eager = [one for one in peers.PEERS if not one.name.startswith(compiled)]
    monkeypatch.setattr(peers, "PEERS", tuple(eager))
    monkeypatch.setattr(contest.Contest, "_times", once)
    held = contest.Contest(SETTINGS)
    held.run(problems.Problem(score, 1, 12, 12, 4, 4, gradients=True, mask=mask), normalizers)
    assert all("is not installed" in one.why for one in held.missing)
    assert len({row.case for row in held.rows if row.peer}) == len(normalizers)
