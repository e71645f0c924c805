"""What a step takes on one device, by counting alone: the check beside the compiled program, and
what ranks the meshes of a search.

Bytes of one device, each factor by its name. At a time it has b sequences of T tokens; D = n_embd,
F = 4 D, V = vocab_size; w is the bytes of a number of the type of the products, 2 for bf16.

    a weight of its shard
        STATE         12   the weight and Adam's two moments, float32
        GRADIENT       4   float32, as the gather's backward pass adds it up
        (copy)         w   of the shard in the type of the products
        MOMENTUM      32   that AdamW moves: 4 arrays read and 3 written, the gradient once more
    a weight of one layer, gathered
        GATHERED   2 x w   this layer's and the next one's, which arrives meanwhile
        WHOLE          4   its gradient before it is scattered
    a number of (b, T, D), a layer, w bytes                see fast/remat.py
        KEPT               what the forward pass leaves for the backward pass
        TOUCHED            what a layer writes and reads again in one pass
    a logit of (b, T, V), 4 bytes
        LOGITS     2 x 4   the logits and their gradient, float32
        PASSES     6 x 4   times that they are written or read: logits, maximum, sum, target,
                           gradient, and its two products together
"""
from dataclasses import replace

from fast.attention import TILE

import jax.numpy as jnp

from model import num_params
from plan.program import ATTENTION, UNIT, Collective

STATE, GRADIENT, MOMENTUM, WHOLE = 3 * 4, 4, 8 * 4, 4      # bytes a weight
GATHERED, LOGITS, PASSES = 2, 2, 6                          # how many: of w, of 4, of 4 bytes

# How many numbers of a layer's forward pass, in units of (b, T, D): (whole on each tp rank, split
# over tp).
#
#     whole   3           x, its LayerNorm, the sum that leaves
#     split   3 x 3       q, k and v: made, rotated, laid out for attention
#             2           attention's result, twice
#             4 x 4       F: made, with its bias, its gelu, the gelu's inner tanh
#
# KEPT: what of it the backward pass finds, the most first: `fastest_that_fits` relies on the order.
TOUCHED = (3, 3 * 3 + 2 + 4 * 4)
KEPT = {"none": TOUCHED, "products": (1, 3 + 4), "layer": (1, 0)}


def hardware_flops_per_token(config, remat: str, unit=UNIT) -> float:
    """What a TPU multiplies for one training token, beside model.flops_per_token.

    Layers run again under remat "layer", attention under "products" too; its tiles on the diagonal
    are whole, its backward kernels make the scores anew, and heads of fewer than `unit` dims take
    as long as `unit` (1: count what is there)."""
    c = config
    layers, head = c.n_layer * 12 * c.n_embd ** 2, c.n_embd * c.vocab_size
    keys = (c.block_size + min(TILE, c.block_size)) / 2
    width = -(-c.head_dim // unit) * unit
    products = sum(ATTENTION.values()) + (remat != "none") * ATTENTION["splash_mha_fwd"]
    attention = products * c.n_layer * 2 * keys * c.n_head * width
    return (6 + 2 * (remat == "layer")) * layers + 6 * head + attention


def estimate(config, hyper, dp, fsdp, tp):
    """(state bytes, temporary bytes, HBM bytes, [Collective]) of a step on one device. A layer's
    matrices have 12 D^2 weights, and only the larger of what the layers and what the head need at
    a time counts."""
    c, remat, A = config, hyper.remat, hyper.grad_accum
    width = jnp.dtype(c.dtype).itemsize
    b = hyper.batch_size // (dp * fsdp * A)           # sequences of one device at a time
    x = b * c.block_size * c.n_embd                   # numbers of (b, T, D)
    layer = 12 * c.n_embd ** 2 / tp                   # gathered weights of a tp rank
    ends = 2 * c.n_embd * c.vocab_size / tp           # embedding and head
    shard = num_params(c) / (fsdp * tp)
    logits = 4 * b * c.block_size * c.vocab_size / tp
    split = lambda numbers: width * x * (numbers[0] + numbers[1] / tp)
    touched, kept = split(TOUCHED), c.n_layer * split(KEPT[remat])
    passes = 1 + (remat != "none")

    # In memory at a time. With A > 1 the sum of the micro-batches' gradients stands beside one's.
    in_layers = (GATHERED * width + WHOLE) * layer + touched
    in_head = LOGITS * logits + WHOLE * ends / 2
    temp = shard * (width + GRADIENT * (1 + (A > 1))) + kept + max(in_layers, in_head)

    # Through HBM. A layer's gathered weights are written and read in each pass, the backward one
    # too, their gradient once; the backward pass writes and reads twice a forward one's numbers.
    weights = layer * (passes + 1) * 2 * width + layer * 2 * WHOLE
    hbm = shard * MOMENTUM + A * (
        c.n_layer * (weights + touched * (passes + 2)) + PASSES * logits)

    # Between chips. The embedding is gathered in float32, all else in the type of the products;
    # every gradient is scattered in float32.
    gathered_ends = (4 + width) * ends / 2
    gather_bytes = A * (width * passes * layer * c.n_layer + gathered_ends) / fsdp
    scatter_bytes = A * GRADIENT * (layer * c.n_layer + ends)
    matrices = 4 * c.n_layer        # qkv_proj, out_proj, fc_in, fc_out; and two ends beside them
    gathers, scatters = A * (matrices * passes + 2), A * (matrices + 2)
    added = A * 2 * (c.n_layer + 1)     # over tp, forward and back: one a layer, one at the ends
    # XLA for TPUs has no reduce-scatter over all chips of a slice, but an all-reduce and a cut.
    scatter = "all-reduce" if dp * tp == 1 and fsdp > 4 else "reduce-scatter"
    moves = [Collective("all-gather", ("fsdp",), gathers, gather_bytes, True),
             Collective(scatter, ("fsdp",), scatters, scatter_bytes, False),
             Collective("all-reduce", ("tp",), added, added * width * x, False),
             Collective("all-reduce", ("dp",), 1, GRADIENT * shard, False)]
    sizes = dict(dp=dp, fsdp=fsdp, tp=tp)
    return STATE * shard, temp, hbm, [m for m in moves if sizes[m.axes[0]] > 1]


def fastest_that_fits(config, hyper, dp, fsdp, tp, memory) -> str:
    """The first of none, products, layer whose step stays below nine tenths of `memory` bytes on
    one device by this count; layer where none does."""
    def takes(remat):
        state, temp, *_ = estimate(config, replace(hyper, remat=remat), dp, fsdp, tp)
        return state + temp

    return next((remat for remat in KEPT if takes(remat) < 0.9 * memory), "layer")
