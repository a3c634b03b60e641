"""Masks: who may see whom. A mask is True where the query may look.

A mask is a small frozen value that can be asked for any block of rows and columns, so that no backend ever
needs the whole `(query_len, key_len)` picture. Masks combine with `&`, `|` and `~`.
To add one: write the class; list it in `MASKS` when it has a spelling.
"""

from collections.abc import Callable

from regard.attention.masks.blocks import Blocks, blocks
from regard.attention.masks.dilated import Dilated, dilated
from regard.attention.masks.documents import Documents, Segments, documents, segments
from regard.attention.masks.edges import Edges, edges
from regard.attention.masks.function import Function, function
from regard.attention.masks.mask import Both, Dense, Either, Mask, Not, as_mask, dense
from regard.attention.masks.neighbourhood import Neighbourhood, neighbourhood
from regard.attention.masks.padding import Padding, padding
from regard.attention.masks.prefix import Prefix, prefix
from regard.attention.masks.window import Causal, Window, causal, window

__all__ = [
    "MASKS",
    "Blocks",
    "Both",
    "Causal",
    "Dense",
    "Dilated",
    "Documents",
    "Edges",
    "Either",
    "Function",
    "Mask",
    "Neighbourhood",
    "Not",
    "Padding",
    "Prefix",
    "Segments",
    "Window",
    "as_mask",
    "blocks",
    "causal",
    "dense",
    "dilated",
    "documents",
    "edges",
    "function",
    "neighbourhood",
    "padding",
    "prefix",
    "segments",
    "window",
]

MASKS: dict[str, Callable[..., Mask]] = {
    mask.__name__: mask for mask in (causal, window, dilated, prefix, neighbourhood)
}
"""Masks that have a spelling, with the whole numbers that follow the name: `causal`, `window-64`, `dilated-4-2`."""
