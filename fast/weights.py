"""Weights laid out for making tokens on a CPU: a layer's own arrays, and matrices turned.

A token reads every weight once, so a copy of one, or a slow way to read it, shows at once in tokens a second.
"""
from functools import partial
from typing import NamedTuple

from fast.compiler import platform

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

FEW = 8           # layers up to which a CPU's program has them all
INPUTS = 2048     # of one part: XLA makes a loop of `one row @ weight` if the row, as float32, has less than 16 KB


class Turned(NamedTuple):
    """A weight as matrices (O, i), a row for each output; each has some of the inputs."""
    parts: tuple

    def product(self, x, dtype=None):
        """x (N, I) times the weight -> (N, O), summed in float32."""
        pieces = [x[:, start:start + INPUTS] for start in range(0, x.shape[1], INPUTS)]
        sums = [row_product(piece, rows.astype(x.dtype)) for piece, rows in zip(pieces, self.parts)]
        return sum(sums).astype(dtype or x.dtype)


def row_product(x, rows):
    """x (N, i) times rows (O, i) -> (N, O) float32, in the form in which XLA's CPU backend reads the weight fastest.

    With few rows of x the weight stands on the left and is read at 13 to 18 GB/s, beside 5 to 12 of x @ w, which packs it
    anew each time; the barrier keeps XLA from turning the product back. In bfloat16 XLA would first write the weight as
    float32, unless the product is part of a sum: so x gets a column of zeros to add, and is 2 to 3 times faster. A row alone
    is faster still as x @ w, a loop over the weight that converts in passing.
    """
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)
    if len(x) > 32:                         # from here on packing the weight is worth it
        return product("ni,oi->no", x, rows)
    if x.dtype == jnp.float32:
        return lax.optimization_barrier(product("oi,ni->on", rows, x)).T
    if len(x) == 1:
        return lax.optimization_barrier(jnp.dot(x, rows.T, preferred_element_type=jnp.float32))
    padded = jnp.stack([x, jnp.zeros_like(x)], -1)                       # (N, i, 2)
    return lax.optimization_barrier(product("oi,nic->noc", rows, padded).sum(-1))


@partial(jax.jit, static_argnames="inputs")
def turn(stack, layer, inputs=1):
    """One layer of a stacked weight (L, ..., ...) -> Turned. Its first `inputs` axes are what x is multiplied with."""
    w = stack[layer].reshape(np.prod(stack.shape[1:1 + inputs]), -1)     # (I, O)
    return Turned(tuple(w[start:start + INPUTS].T for start in range(0, len(w), INPUTS)))


def unrolled(n_layer: int) -> bool:
    """Whether the loop over stacked layers is better written out where it is to run.

    It is 1.5 times faster for a few layers on a CPU and 1.2 times for the 20 of 350M on a GPU (H200). On a TPU it only takes
    longer to compile."""
    return platform() == "gpu" or platform() == "cpu" and n_layer <= FEW


def unstack(params, layer, matrices):
    """Weights laid out for sampling on a CPU or GPU, in place, one name at a time -> params.

    layer: the names of what each layer has, stacked; matrices: the names of those that are turned.
    Every layer gets arrays of its own, because XLA copies a layer that it takes out of a stack."""
    for name in layer:
        stack = params[name]                                             # (L, ...)
        inputs = 2 if name == "out_proj" else 1                          # (L, H, K, D): H and K
        if name in matrices:
            params[name] = tuple(turn(stack, i, inputs) for i in range(len(stack)))
        else:
            params[name] = tuple(stack[i] for i in range(len(stack)))
    params["lm_head"] = turn(params["lm_head"][None], 0)
    return params


def over_unstacked(layer, x, each, n_layer: int):
    """model.over_layers for tuples: the program has L layers, one behind the other."""
    outs = []
    for i in range(n_layer):
        x, out = layer(x, {n: w[i] for n, w in each.items()})
        outs.append(out)
    return x, jax.tree.map(lambda *layers: layers, *outs)
