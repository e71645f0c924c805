"""What a step takes on one device, by counting alone."""
from fast.attention import TILE

import jax.numpy as jnp

from model import num_params
from plan.program import Collective


def hardware_flops_per_token(config, remat: bool) -> float:
    """What a TPU multiplies for one training token, beside model.flops_per_token.

    The layers run twice under remat, attention's tiles on the diagonal are whole, its backward
    kernels make the scores anew (2 products forward, 7 backward), and a head of fewer dims than the
    128 x 128 matrix unit fills it in part."""
    c = config
    layers, head = c.n_layer * 12 * c.n_embd ** 2, c.n_embd * c.vocab_size
    keys = (c.block_size + min(TILE, c.block_size)) / 2
    width = -(-c.head_dim // 128) * 128
    attention = (2 * (1 + remat) + 7) * c.n_layer * 2 * keys * c.n_head * width
    return (6 + 2 * remat) * layers + 6 * head + attention


def estimate(config, hyper, dp, fsdp, tp):
    """(state bytes, temporary bytes, HBM bytes, [Collective]) of a step on one device.

    A layer's matrices have 12 D^2 weights. Activations that a layer writes and reads, bf16, in
    units of (B, T, D): about 8 that are whole on each tp rank and 20 that are split, forward; all
    again under remat; twice that backward."""
    c, remat, A = config, hyper.remat, hyper.grad_accum
    width = jnp.dtype(c.dtype).itemsize
    b = hyper.batch_size // (dp * fsdp * A)           # sequences of one device at a time
    x = b * c.block_size * c.n_embd                   # elements of (b, T, D)
    layer = 12 * c.n_embd ** 2 / tp                   # gathered weights of a tp rank
    ends = 2 * c.n_embd * c.vocab_size / tp
    shard = num_params(c) / (fsdp * tp)
    logits = 4 * b * c.block_size * c.vocab_size / tp
    touched = width * x * (8 + 20 / tp)
    passes = 1 + remat

    temp = shard * (4 + width + 4 * (A > 1)) + 2 * width * layer + 4 * layer + 2.5 * logits
    temp += 2 * touched + c.n_layer * (width * x if remat else touched)
    weights = layer * (passes + 1) * 2 * width + layer * 8
    hbm = shard * 4 * 8 + A * (c.n_layer * (weights + touched * (passes + 2)) + 6 * logits)

    gathered = A * (width * passes * layer * c.n_layer + 3 * ends) / fsdp
    scattered = A * 4 * (layer * c.n_layer + ends)
    added = A * 2 * (c.n_layer + 1)
    moves = [Collective("all-gather", ("fsdp",), A * (4 * c.n_layer * passes + 2), gathered, True),
             Collective("reduce-scatter", ("fsdp",), A * (4 * c.n_layer + 2), scattered, False),
             Collective("all-reduce", ("tp",), added, added * width * x, False),
             Collective("all-reduce", ("dp",), 1, 4 * shard, False)]
    sizes = dict(dp=dp, fsdp=fsdp, tp=tp)
    return 12 * shard, temp, hbm, [m for m in moves if sizes[m.axes[0]] > 1]
