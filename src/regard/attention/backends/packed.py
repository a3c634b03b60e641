"""Documents packed into one sequence, without padding: each is a call of its own, those of one length together."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from regard.attention import backends
from regard.attention.call import AttentionCall
from regard.attention.masks import Documents
from regard.attention.picture import count
from regard.attention.scores import Prepared
from regard.attention.scores.score import for_each_head
from regard.attention.sequences import groups, in_place, stacked, unstacked


def unsupported(call: AttentionCall) -> list[str]:
    if not isinstance(call.mask, Documents):
        return ["the mask is not one of documents"]
    reasons = []
    if call.query.shape[-2] == 0:
        reasons.append("there is no query")
    if call.bias is not None:
        reasons.append("the bias is one of the whole picture")
    if not call.normalizer.by_row:
        reasons.append(f"the normalizer {call.normalizer.spelling!r} needs whole blocks of the picture")
    if call.transformed:
        reasons.append(
            "the lengths of documents decide what is computed, which no transform or compiler allows"
        )
    return reasons


def cost(call: AttentionCall) -> str:
    assert isinstance(call.mask, Documents)
    alike = groups(call.mask)
    documents = sum(len(group.query_starts) for group in alike)
    return f"{documents:,} documents of {len(alike):,} different lengths, each a call of its own"


def pairs(call: AttentionCall) -> int:
    assert isinstance(call.mask, Documents)
    alike = groups(call.mask)
    own = [len(group.query_starts) * group.query_len * group.key_len for group in alike]
    return count(call.query.shape[:-2]) * sum(own)


def derivatives(call: AttentionCall) -> str:
    return "those of the backend that each document's own call takes"


def run(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
    assert isinstance(call.mask, Documents)
    query, key = call.score.prepare(call.query, call.key)
    value = for_each_head(call.value, key)
    whole = replace(call, query=query, key=key, score=Prepared(call.score), mask=call.mask.mask)
    places, outputs, parts = [], [], []
    for group in groups(call.mask):
        rows, columns = group.rows(query.device), group.columns(query.device)
        # (..., heads, documents, length, size): the documents go before the heads.
        one = replace(
            whole,
            query=stacked(query, rows),
            key=stacked(key, columns),
            value=stacked(value, columns),
        )
        output, weight = backends.BACKENDS[backends.choose(one)].run(one)
        places.append(rows.flatten())
        outputs.append(unstacked(output, query.ndim))
        if weight is not None:
            full = weight.new_zeros(*weight.shape[:-1], call.key.shape[-2])
            where = columns.reshape(len(columns), *(1,) * (weight.ndim - 2), -1).expand_as(weight)
            parts.append(unstacked(full.scatter(-1, where, weight), query.ndim))
    shape = call.query.shape[:-1]
    output = in_place(places, outputs, call.value.new_zeros(*shape, call.value.shape[-1]))
    if not call.return_weights:
        return output, None
    return output, in_place(places, parts, call.value.new_zeros(*shape, call.key.shape[-2]))
