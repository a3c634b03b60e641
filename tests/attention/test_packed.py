"""Sequences without padding and graphs: packed documents, jagged nested tensors, edges."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import regard
from regard import masks

LENGTHS = [3, 5, 3, 1]
KEY_LENGTHS = [4, 5, 2, 1]


def sequences(lengths: list[int], heads: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, heads, 8, generator=generator, dtype=torch.float64) for length in lengths]


def jagged(parts: list[Tensor]) -> Tensor:
    nested = torch.nested.nested_tensor(parts, layout=torch.jagged, requires_grad=True)
    assert isinstance(nested, Tensor)
    return nested


SETTINGS: dict[str, dict[str, Any]] = {
    "fused": {},
    "causal": {"mask": masks.causal()},
    "additive sparsemax": {"score": "additive", "normalizer": "sparsemax", "mask": masks.window(1)},
    "rotary": {"score": "scaled_dot+rotary", "mask": "causal"},
    "monotonic": {"normalizer": "monotonic"},
    "biases": {"bias": regard.biases.alibi(4), "normalizer": "top-2"},
}


@pytest.mark.parametrize("name", list(SETTINGS))
def test_nested_tensors_are_each_sequence_on_its_own(name: str) -> None:
    settings = SETTINGS[name]
    queries, keys = sequences(LENGTHS, 4, 0), sequences(KEY_LENGTHS, 2, 1)
    query, key = jagged(queries), jagged(keys)
    turned, turned_key = query.transpose(1, 2), key.transpose(1, 2)
    output = regard.attend(turned, turned_key, turned_key, **settings)
    assert isinstance(output, Tensor)
    assert output.shape[:2] == (4, 4)
    output.transpose(1, 2).values().square().sum().backward()
    assert query.grad is not None
    for one, other, found, grad in zip(queries, keys, output.unbind(), query.grad.unbind(), strict=True):
        alone = one.transpose(0, 1).clone().requires_grad_()
        expected = regard.attend(alone, other.transpose(0, 1), other.transpose(0, 1), **settings)
        assert isinstance(expected, Tensor)
        torch.testing.assert_close(found, expected)
        (wanted,) = torch.autograd.grad(expected.square().sum(), alone)
        torch.testing.assert_close(grad.transpose(0, 1), wanted)


def test_nested_tensors_without_heads() -> None:
    query = jagged([part[:, 0] for part in sequences(LENGTHS, 1, 0)])
    output = regard.attend(query, query, query)
    assert isinstance(output, Tensor)
    for one, found in zip(query.unbind(), output.unbind(), strict=True):
        torch.testing.assert_close(found, regard.attend(one, one, one))


def test_bad_nested_tensors_are_named() -> None:
    query = jagged(sequences(LENGTHS, 4, 0)).transpose(1, 2)
    key = jagged(sequences(KEY_LENGTHS, 4, 1)).transpose(1, 2)
    fewer = jagged(sequences(LENGTHS[:2], 4, 0)).transpose(1, 2)
    with pytest.raises(TypeError, match="key must be a jagged nested tensor"):
        regard.attend(query, query.values(), query.values())
    with pytest.raises(ValueError, match=r"query must be nested as \(batch, heads, ragged, size\)"):
        regard.attend(query.transpose(1, 2), key, key)
    with pytest.raises(ValueError, match="must be of as many sequences: they are of 4, 2 and 2"):
        regard.attend(query, fewer, fewer)
    with pytest.raises(ValueError, match="value must have the lengths of key"):
        regard.attend(query, key, query)
    with pytest.raises(ValueError, match="return_weights needs padded or packed"):
        regard.attend(query, key, key, return_weights=True)
    with pytest.raises(TypeError, match="takes jagged tensors"):
        regard.explain(query, key, key)


def test_autocast_of_nested_tensors_is_that_of_each_sequence() -> None:
    parts = [part.float() for part in sequences(LENGTHS, 4, 0)]
    query = torch.nested.nested_tensor(parts, layout=torch.jagged).transpose(1, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = regard.attend(query, query, query, normalizer="sparsemax")
        assert isinstance(output, Tensor)
        for part, found in zip(parts, output.unbind(), strict=True):
            one = part.transpose(0, 1)
            torch.testing.assert_close(found, regard.attend(one, one, one, normalizer="sparsemax"))


def test_what_is_handed_on_from_query_to_query_is_not_for_documents() -> None:
    x = torch.randn(2, 5, 8)
    with pytest.raises(ValueError, match="'monotonic' hands its weights on"):
        regard.attend(x, x, x, normalizer="monotonic", mask=masks.documents(torch.tensor([0, 2, 5])))


def test_documents_of_one_length_are_computed_together(capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.randn(2, 12, 8)
    offsets = torch.tensor([0, 4, 8, 8, 12])
    found = regard.explain(x, x, x, mask=masks.documents(offsets), normalizer="sparsemax")
    assert found.backend == "packed"
    assert "3 documents of 1 different lengths" in capsys.readouterr().out


def test_weights_of_edges_are_those_of_the_pairs() -> None:
    index = torch.tensor([[0, 1, 2, 2, 4, 1], [1, 1, 0, 3, 3, 1]])
    mask = masks.edges(index)
    x = torch.randn(2, 4, 5, 8, dtype=torch.float64, requires_grad=True)
    for both in (mask, mask & masks.causal()):
        settings: dict[str, Any] = {"normalizer": "sparsemax", "mask": both}
        found = regard.weights(x, x, reduce="edges", **settings)
        full = regard.weights(x, x, **settings)
        assert isinstance(found, Tensor)
        assert isinstance(full, Tensor)
        torch.testing.assert_close(found[..., mask.places(index)], full[..., index[1], index[0]])
        grad = torch.randn_like(found)
        (one,) = torch.autograd.grad(found, x, grad)
        places = mask.places(index[:, :5])  # without the edge that is listed twice
        (two,) = torch.autograd.grad(full[..., index[1, :5], index[0, :5]], x, grad[..., places])
        torch.testing.assert_close(one, two)
    with pytest.raises(ValueError, match="the mask is not one of edges"):
        regard.weights(x, x, reduce="edges")


def test_a_nan_that_no_edge_leads_from_stays_where_it_is() -> None:
    index = torch.tensor([[0, 1, 2, 3, 3, 2], [0, 1, 1, 1, 2, 3]])
    x, value = torch.randn(1, 4, 8), torch.randn(1, 4, 8)
    value[:, 0] = torch.nan
    output = regard.attend(x, x, value, mask=masks.edges(index))
    assert isinstance(output, Tensor)
    assert output.isnan().any(-1)[0].tolist() == [True, False, False, False]


def test_edges_take_memory_by_their_number_whatever_the_pairs() -> None:
    """A thousand times as many pairs as edges: no tensor of the call is larger than a few of its edges."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple | list) else (result,):
                if isinstance(tensor, Tensor):
                    Largest.size = max(Largest.size, tensor.numel())
            return result

    nodes, edges, size = 4000, 12000, 4
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(nodes, (2, edges), generator=generator)
    index[1, :1000] = 7  # one node looks at many
    x = torch.randn(1, nodes, size, requires_grad=True)
    mask = masks.edges(index)
    for score in ("scaled_dot", "additive"):
        Largest.size = 0
        with Largest():
            output = regard.attend(x, x, x, score=score, normalizer="sparsemax", mask=mask)
            assert isinstance(output, Tensor)
            output.sum().backward()
        assert Largest.size <= 3 * edges * size
