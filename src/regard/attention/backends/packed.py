"""Documents packed into one sequence, without padding: each is a call of its own, those of one length together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from regard.attention import backends
from regard.attention.call import AttentionCall
from regard.attention.masks import Documents
from regard.attention.normalizers import Normalizer
from regard.attention.scores import Prepared
from regard.attention.scores.score import for_each_head


def unsupported(call: AttentionCall) -> list[str]:
    if not isinstance(call.mask, Documents):
        return ["the mask is not one of documents"]
    reasons = []
    if call.query.shape[-2] == 0:
        reasons.append("there is no query")
    if call.bias is not None:
        reasons.append("the bias is one of the whole picture")
    if call.normalizer.coupled or type(call.normalizer).weigh_block is not Normalizer.weigh_block:
        reasons.append(f"the normalizer {call.normalizer.spelling!r} needs whole blocks of the picture")
    if call.transformed:
        reasons.append(
            "the lengths of documents decide what is computed, which no transform or compiler allows"
        )
    return reasons


def cost(call: AttentionCall) -> str:
    groups = list(_groups(call))
    documents = sum(len(group.query_starts) for group in groups)
    return f"{documents:,} documents of {len(groups):,} different lengths, each a call of its own"


def derivatives(call: AttentionCall) -> str:
    return "those of the backend that each document's own call takes"


def run(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
    assert isinstance(call.mask, Documents)
    query, key = call.score.prepare(call.query, call.key)
    value = for_each_head(call.value, key)
    whole = replace(call, query=query, key=key, score=Prepared(call.score), mask=call.mask.mask)
    places, outputs, parts = [], [], []
    for group in _groups(call):
        rows, columns = group.rows(query.device), group.columns(query.device)
        # (..., heads, documents, length, size): the documents go before the heads.
        one = replace(
            whole,
            query=_stacked(query, rows),
            key=_stacked(key, columns),
            value=_stacked(value, columns),
        )
        output, weight = backends.BACKENDS[backends.choose(one)].run(one)
        places.append(rows.flatten())
        outputs.append(_unstacked(output, query.ndim))
        if weight is not None:
            full = weight.new_zeros(*weight.shape[:-1], call.key.shape[-2])
            where = columns.reshape(len(columns), *(1,) * (weight.ndim - 2), -1).expand_as(weight)
            parts.append(_unstacked(full.scatter(-1, where, weight), query.ndim))
    shape = call.query.shape[:-1]
    output = _in_place(places, outputs, call.value.new_zeros(*shape, call.value.shape[-1]))
    if not call.return_weights:
        return output, None
    return output, _in_place(places, parts, call.value.new_zeros(*shape, call.key.shape[-2]))


@dataclass(frozen=True)
class _Group:
    """Documents of one length: where the queries and keys of each begin, and how many there are."""

    query_len: int
    key_len: int
    query_starts: list[int]
    key_starts: list[int]

    def rows(self, device: torch.device) -> Tensor:
        """*Shape:* `(documents, query_len)`."""
        starts = torch.tensor(self.query_starts, device=device)
        return starts[:, None] + torch.arange(self.query_len, device=device)

    def columns(self, device: torch.device) -> Tensor:
        """*Shape:* `(documents, key_len)`."""
        return torch.tensor(self.key_starts, device=device)[:, None] + torch.arange(
            self.key_len, device=device
        )


def _groups(call: AttentionCall) -> Iterator[_Group]:
    """The documents that have any query, by their lengths."""
    assert isinstance(call.mask, Documents)
    query_bounds, key_bounds = call.mask.bounds
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i in range(len(query_bounds) - 1):
        lengths = query_bounds[i + 1] - query_bounds[i], key_bounds[i + 1] - key_bounds[i]
        if lengths[0]:
            found[lengths].append(i)
    for (query_len, key_len), documents in found.items():
        yield _Group(
            query_len, key_len, [query_bounds[i] for i in documents], [key_bounds[i] for i in documents]
        )


def _stacked(tensor: Tensor, places: Tensor) -> Tensor:
    """*Shape:* `(..., heads, length, size)`, places `(documents, few)` -> `(documents, ..., heads, few, size)`."""
    if len(places) == 1:
        start = int(places[0, 0]) if places.numel() else 0
        return tensor[..., start : start + places.shape[1], :].unsqueeze(0)
    return tensor[..., places, :].movedim(-3, 0)


def _unstacked(tensor: Tensor, ndim: int) -> Tensor:
    """*Shape:* `(documents, ..., heads, few, size)` -> `(..., heads, documents * few, size)`."""
    return tensor.movedim(0, -3).flatten(-3, -2)


def _in_place(places: list[Tensor], parts: list[Tensor], whole: Tensor) -> Tensor:
    """The parts at their places among the queries."""
    return whole.index_copy(-2, torch.cat(places), torch.cat(parts, dim=-2)) if places else whole
