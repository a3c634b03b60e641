"""Attention of the reader's choice in a model that already exists."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from regard.attention.normalizers import Normalizer
from regard.attention.scores import Score
from regard.layers.learned import learned_normalizer, learned_score
from regard.layers.multihead import MultiheadAttention

__all__ = ["replace_attention"]


def replace_attention(
    model: nn.Module,
    *,
    score: Score | Callable[[Tensor, Tensor], Tensor] | str = "scaled_dot",
    normalizer: Normalizer | str = "softmax",
) -> int:
    """Put a `regard.layers.MultiheadAttention` in the place of every `torch.nn.MultiheadAttention` of a model.

    The new layers own the same parameter objects, so an optimiser made before goes on with them; what a score or
    normaliser learns is new, and in no optimiser made before: make it after, or add these parameters. They are on the
    same device, of the same type, in training or evaluation as before, and a layer that stands in several places is
    replaced by one. Subclasses of `torch.nn.MultiheadAttention` are left alone, for their own `forward` may do
    anything. Returns how many layers were replaced.

    *Shape:* of every parameter as it was.

    Raises `TypeError` unless `model` is a module; `ValueError` when `model` itself is the layer, which nobody could put
    into its place, for a score or normaliser that does not exist, and for a layer that has hooks or that does not hold
    the parameters it was made with (parametrisations, weight norm, pruning, adapters): then nothing is replaced.

    Example:
        >>> import torch
        >>> model = torch.nn.TransformerEncoderLayer(16, 4, batch_first=True)
        >>> replace_attention(model, normalizer="sparsemax")
        1
        >>> model(torch.randn(2, 5, 16)).shape
        torch.Size([2, 5, 16])

    PyTorch has no such thing; Hugging Face Transformers lets a model choose among attentions registered under a name
    (`attn_implementation`), in models written for it.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, it is {type(model).__name__}")
    if isinstance(model, nn.MultiheadAttention):
        raise ValueError(
            "model must contain the layers to be replaced, it is a torch.nn.MultiheadAttention itself: make a "
            "regard.layers.MultiheadAttention with the same arguments and load its state_dict"
        )
    places = list(_places(model))
    replaced: dict[nn.Module, MultiheadAttention] = {}
    for _, _, path, old in places:
        if old not in replaced:
            _check(old, path)
            replaced[old] = _like(old, path, score, normalizer)
    for parent, name, _, old in places:
        parent.register_module(name, replaced[old])
    return len(replaced)


def _places(model: nn.Module) -> Iterator[tuple[nn.Module, str, str, nn.MultiheadAttention]]:
    """The layers to be replaced and where they stand: the parent, the name there, and the path in the model."""
    for path, parent in model.named_modules():
        for name, child in parent._modules.items():
            if child is not None and type_before_parametrizations(child) is nn.MultiheadAttention:
                yield parent, name, f"{path}.{name}" if path else name, cast(nn.MultiheadAttention, child)


def _check(layer: nn.MultiheadAttention, path: str) -> None:
    """Raise `ValueError` if anything hangs on the layer that a new one would lose."""
    if any(is_parametrized(part) for part in layer.modules()):
        raise ValueError(f"the attention layer {path!r} must have no parametrisations: remove them first")
    hooks = [
        name for part in layer.modules() for name, on in vars(part).items() if name.endswith("_hooks") and on
    ]
    if hooks:
        raise ValueError(
            f"the attention layer {path!r} must have no hooks, it has some ({', '.join(hooks)}): remove them, "
            "replace the layer, and register them again"
        )


def _like(
    layer: nn.MultiheadAttention,
    path: str,
    score: Score | Callable[[Tensor, Tensor], Tensor] | str,
    normalizer: Normalizer | str,
) -> MultiheadAttention:
    """A layer of regard's that owns the parameters of PyTorch's."""
    new = MultiheadAttention(
        layer.embed_dim,
        layer.num_heads,
        dropout=layer.dropout,
        bias=layer.in_proj_bias is not None,
        add_bias_kv=layer.bias_k is not None,
        add_zero_attn=layer.add_zero_attn,
        kdim=layer.kdim,
        vdim=layer.vdim,
        batch_first=layer.batch_first,
        device="meta",
        score=score,
        normalizer=normalizer,
    )
    found = dict(layer.named_parameters(remove_duplicate=False))
    own = ("score.", "normalizer.")
    expected = [n for n, _ in new.named_parameters(remove_duplicate=False) if not n.startswith(own)]
    surplus = {*found, *dict(layer.named_buffers())} ^ set(expected)
    if surplus:
        raise ValueError(
            f"the attention layer {path!r} must hold the parameters it was made with and no others, it differs by "
            f"{', '.join(sorted(surplus))}: take off first what was added"
        )
    for name in expected:
        parent, _, leaf = name.rpartition(".")
        new.get_submodule(parent).register_parameter(leaf, found[name])
    # What the score and the normaliser learn is new: it has no storage yet.
    weight = layer.out_proj.weight
    new.score = learned_score(score, layer.num_heads, layer.head_dim).to(weight.device, weight.dtype)
    new.normalizer = learned_normalizer(normalizer, layer.num_heads).to(weight.device, weight.dtype)
    return new.train(layer.training)
