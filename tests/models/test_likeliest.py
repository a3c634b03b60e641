"""The likeliest tokens are those of a full sort, and their prices those of a log-softmax."""

from __future__ import annotations

import pytest
import torch

from regard.models import likeliest as module
from regard.models.likeliest import likeliest


@pytest.fixture(params=[1, 2**30], ids=["kernel", "plain"])
def _either_way(request, monkeypatch):
    """By the compiled kernel where it can be, and never."""
    monkeypatch.setattr(module, "KERNEL", request.param)


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("vocabulary", [3, 40, 63, 64, 1000, 10_003])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_likeliest_are_the_first_of_a_sort(vocabulary, dtype):
    scores = 5 * torch.randn(6, vocabulary, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = scores.to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    expected = torch.log_softmax(scores.to(wide), 1)
    expected[:, [0, 1]] = -torch.inf
    likely, tokens = likeliest(scores.clone(), 10, (0, 1), [None] * 6, 1)
    assert likely.dtype == wide
    torch.testing.assert_close(likely, expected.topk(min(10, vocabulary), dim=1).values)
    torch.testing.assert_close(expected.gather(1, tokens), likely)
    assert all(len(set(row)) == len(row) for row in tokens.tolist())


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("vocabulary", [30, 3000])
def test_where_one_token_is_forced_it_keeps_its_price(vocabulary):
    scores = torch.randn(6, vocabulary, generator=torch.Generator().manual_seed(0))
    expected = torch.log_softmax(scores, 1)
    likely, tokens = likeliest(scores.clone(), 4, (0,), [None, 7, 2], 2)
    assert tokens[2:, 0].tolist() == [7, 7, 2, 2]
    torch.testing.assert_close(likely[2:4, 0], expected[2:4, 7])
    torch.testing.assert_close(likely[4:, 0], expected[4:, 2])
    assert (likely[2:, 1:] == -torch.inf).all()
    assert likely[:2].isfinite().all()


def test_scores_beyond_all_measure_are_no_trouble():
    scores = torch.tensor([[1e30, -1e30, -torch.inf, 0.0], [-1e4, -1e4, -1e4, -1e4]])
    likely, tokens = likeliest(scores, 2, (), [None, None], 1)
    assert tokens[0, 0] == 0
    torch.testing.assert_close(likely[:, 0], torch.tensor([0.0, -torch.tensor(4.0).log()]))


@pytest.mark.usefixtures("_either_way")
def test_ties_infinities_and_no_numbers_stay_in_their_row():
    scores = torch.zeros(7, 1500)
    scores[1] = -torch.inf
    scores[1, 9] = 3.0
    scores[2, 4] = torch.nan
    scores[3, 700:703] = 1.0
    scores[4] = torch.arange(1500.0)
    scores[5, 0] = 50.0  # the best of all is banned
    scores[6] = -1e4
    likely, tokens = likeliest(scores.clone(), 10, (0, 1), [None] * 7, 1)
    assert likely[2].isnan().all() or not likely[2].isfinite().any()
    scores[2] = 0.0
    expected = torch.log_softmax(scores, 1)
    expected[:, :2] = -torch.inf
    kept = [0, 1, 3, 4, 5, 6]
    torch.testing.assert_close(likely[kept], expected[kept].topk(10, dim=1).values)
    finite = likely[kept].isfinite()
    torch.testing.assert_close(expected[kept].gather(1, tokens[kept])[finite], likely[kept][finite])
    assert sorted(tokens[3, :3].tolist()) == [700, 701, 702]
    assert all(len(set(row)) == 10 for row in tokens[[0, 3, 4, 5, 6]].tolist())
