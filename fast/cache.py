"""Sizes of a KV cache and of what is read into it: few, because each is a program of its own to
compile, which takes seconds."""
from functools import partial

import jax
import jax.numpy as jnp


def piece() -> int:
    """How many tokens of a prompt one prefill reads. Of one size, so that one program reads all.

    With 16 tokens a CPU spends about as long on products as on reading the weights; a TPU or GPU
    needs more for that."""
    return 16 if jax.default_backend() == "cpu" else 256


def bucket(n: int) -> int:
    """n rounded up to a power of two, at least 16."""
    return max(16, 1 << (n - 1).bit_length())


@partial(jax.jit, static_argnames="size")
def grow(cache, size: int):
    """Room for `size` tokens instead of S. Each array: (..., S, K)."""
    longer = lambda x: jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, size - x.shape[-2]), (0, 0)])
    return jax.tree.map(longer, cache)
