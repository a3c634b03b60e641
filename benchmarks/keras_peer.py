"""Keras' `AdditiveAttention` on its JAX backend, compiled by XLA: forward, or forward and backward, as one program."""

from __future__ import annotations

import os
import warnings

import torch
from torch import Tensor

from benchmarks.problems import Inputs, Problem, Run


def additive(inputs: Inputs, problem: Problem) -> Run:
    """One head; its scale is the weight of the additive score. XLA keeps to as many threads as PyTorch."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    os.environ.setdefault("NPROC", str(torch.get_num_threads()))  # read by XLA when it makes its threads
    if problem.device == "cpu":
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import jax
        import keras
    if keras.backend.backend() != "jax":
        raise RuntimeError(f"Keras was loaded with the backend {keras.backend.backend()}")
    query, key, value, gradient = (
        jax.numpy.asarray(tensor[:, 0].detach().cpu().numpy())
        for tensor in (inputs.query, inputs.key, inputs.value, inputs.gradient)
    )
    scale = jax.numpy.asarray(inputs.weight[0].detach().cpu().numpy())
    layer = keras.layers.AdditiveAttention()
    layer.build([query.shape, value.shape, key.shape])

    def attend(query, key, value, scale):
        return layer.stateless_call([scale], [], [query, value, key])[0]

    @jax.jit
    def both(query, key, value, scale, gradient):
        output, back = jax.vjp(attend, query, key, value, scale)
        return output, *back(gradient)

    @jax.jit
    def forward(query, key, value, scale, _):
        return (attend(query, key, value, scale),)

    compiled = both if problem.gradients else forward

    def run() -> tuple[Tensor, ...]:
        found = compiled(query, key, value, scale, gradient)
        return tuple(torch.from_dlpack(array) for array in jax.block_until_ready(found))

    return run
