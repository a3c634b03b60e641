"""Any function as a score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from regard.attention.numbers import check_whole
from regard.attention.parts import with_tensors
from regard.attention.scores.score import Score, for_each_head

__all__ = ["Function"]


@dataclass(frozen=True, eq=False)
class Function(Score):
    r"""A score function of your own: a function of tensors, or a module.

    $$s(q, k) = f(q, k, \theta_1, \theta_2, \dots)$$

    $f$ is called with queries and keys that broadcast against each other, a block of queries at a time, and again when
    gradients are computed: it must give the same result for the same arguments. The tensors that learn are its
    `parameters`, and are given to it in the dtype of query; a module brings its own. A tensor that $f$ merely captures
    would get no gradient from a block that is computed again, so one that wants a gradient raises `ValueError`.
    `pair_size` is how many numbers $f$ holds at once for one query and key, `size` when absent: a block has as many
    queries as that allows.

    *Shape:* $f$: query `(..., heads, query_len, 1, size)`, key `(..., heads, 1, key_len, size)`, and the parameters as
    they are -> `(..., heads, query_len, key_len)`, any axis of which may be 1. Query and key may differ in size. A
    result of another shape raises `ValueError`, what is no function or no tensor `TypeError`.

    Example:
        >>> query, key = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 2.0]])
        >>> weight = torch.tensor([1.0, 10.0], requires_grad=True)
        >>> score = Function(lambda q, k, w: -(w * (q - k).abs()).sum(-1), (weight,))
        >>> score.compare(query, key)
        tensor([[-22.,  -1.]], grad_fn=<ExpandBackward0>)

    The alignment model $a$ of Bahdanau et al. 2015, section 3.1, may be any function. FlexAttention's `score_mod`
    changes the dot product of a query and a key but does not see them; Keras has a method to be overridden in a
    subclass of its `Attention` (`_calculate_scores`).
    """

    f: Callable[..., Tensor]
    parameters: tuple[Tensor, ...] = ()
    pair_size: int | None = None
    name: ClassVar[str] = "function"

    def __post_init__(self) -> None:
        if not callable(self.f):
            raise TypeError(
                f"the function of a score must be a function or a module, it is {type(self.f).__name__}"
            )
        if isinstance(self.f, nn.Module) and not self.parameters:
            object.__setattr__(self, "parameters", tuple(self.f.parameters()))
        if not isinstance(self.parameters, tuple) or not all(isinstance(t, Tensor) for t in self.parameters):
            raise TypeError("the parameters of a score function must be a tuple of tensors")
        if self.pair_size is not None:
            check_whole("pair_size", self.pair_size, 1)

    @property
    def kernel(self) -> str | None:
        return None

    @property
    def finite(self) -> bool:
        return False

    def check(self, query: Tensor, key: Tensor) -> None:
        """Raise `ValueError` when the function's scores of one query and key want a gradient of their own."""
        transforming = torch._C._functorch.peek_interpreter_stack() is not None
        if torch.compiler.is_compiling() or transforming or not torch.is_grad_enabled():
            return
        dtype = torch.promote_types(query.dtype, torch.float32)
        query, key = query[..., :1, :].detach().to(dtype), key[..., :1, :].detach().to(dtype)
        detached = with_tensors(self, [tensor.detach() for tensor in self.parameters])
        if detached.compare(query, for_each_head(key, query)).requires_grad:
            raise ValueError(
                "the function of a score must get every tensor that learns as a parameter, it has captured one: "
                "give regard.scores.Function(f, parameters), where f(query, key, *parameters), or a module"
            )

    def width(self, size: int) -> int:
        return max(size, 1) if self.pair_size is None else self.pair_size

    def operations(self, size: int) -> int:
        """An estimate: a subtraction, a product and a sum of every number held for a pair."""
        return 3 * self.width(size)

    def compare(self, query: Tensor, key: Tensor) -> Tensor:
        full = (*query.shape[:-1], key.shape[-2])
        found = self._called(query.unsqueeze(-2), key.unsqueeze(-3))
        if not isinstance(found, Tensor):
            raise TypeError(f"the function of a score must give a tensor, it gave {type(found).__name__}")
        if found.ndim != len(full) or any(
            one != 1 and one != whole for one, whole in zip(found.shape, full, strict=True)
        ):
            raise ValueError(
                f"the function of a score must give (..., query_len, key_len) = {full} for query "
                f"(..., query_len, 1, size) and key (..., 1, key_len, size), it gave {tuple(found.shape)}"
            )
        return found.to(query.dtype).expand(full)

    def _called(self, query: Tensor, key: Tensor) -> Any:
        parameters = [t.to(query.dtype) if t.is_floating_point() else t for t in self.parameters]
        if not isinstance(self.f, nn.Module):
            return self.f(query, key, *parameters)
        named: dict[str, Tensor] = {
            name: buffer.to(query.dtype) if buffer.is_floating_point() else buffer
            for name, buffer in self.f.named_buffers()
        }
        named |= dict(zip((name for name, _ in self.f.named_parameters()), parameters, strict=True))
        return functional_call(self.f, named, (query, key))
