"""Attention by JAX's own kernels, which keep the T x T scores on the chip.

At T 2048 writing the scores to memory and reading them again would move ten times the bytes of all other activations. The
plain form is model.plain_attention.
"""
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

TILE = 512      # rows and columns of the scores that a TPU keeps on the chip at a time


def kernel_for(platform, q):
    """The kernel (q, k, v) -> (B, H, T, K) that JAX has for these shapes on "tpu" or "gpu", or None."""
    T, K = q.shape[-2:]
    if platform == "tpu" and T % 128 == 0:
        return splash_attention
    if platform == "gpu" and q.dtype == jnp.bfloat16 and K <= 128 and K % 8 == 0:
        return cudnn_attention
    return None


def splash_attention(q, k, v, interpret=False):
    """JAX's Pallas kernel for TPUs: scores are made tile by tile, and tiles above the diagonal are skipped."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
    _, H, T, K = q.shape
    tile = next(t for t in (TILE, 256, 128) if T % t == 0)
    forward = ("q", "kv", "kv_compute")
    backward = ("q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    sizes = splash.BlockSizes(**{f"block_{name}": tile for name in forward + backward})
    mask = masks.MultiHeadMask([masks.CausalMask((T, T))] * H)
    kernel = splash.make_splash_mha_single_device(mask, block_sizes=sizes, interpret=interpret)
    return jax.vmap(kernel)(q * K ** -0.5, k, v)


def cudnn_attention(q, k, v):
    """cuDNN's flash attention, through jax.nn."""
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))                      # (B, T, H, K)
    out = jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")
    return out.swapaxes(1, 2)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def fused_attention(kernel, q, k, v):
    """A kernel inside shard_map. Each device works on its own rows and heads: no collective, forward or backward."""
    return fused_forward(kernel, q, k, v)[0]


def fused_forward(kernel, q, k, v):
    return untracked(partial(jax.vjp, kernel), q, k, v)


def fused_backward(kernel, pullback, grad):
    return untracked(lambda pullback, grad: pullback(grad), pullback, grad)


fused_attention.defvjp(fused_forward, fused_backward)


def untracked(f, *args):
    """f(*args) for an f that does not say over which mesh axes its results vary, as JAX's kernels do not.

    shard_map (check_vma) tracks for every value over which axes it differs from device to device; a kernel's results carry
    no such note, and shard_map would refuse them. So f runs in an inner shard_map that does not track, and its results are
    marked as varying wherever an argument varies. Only for an f without collectives that is handed its own gradient too:
    untracked, a derivative would not know over which axes to add up.
    """
    varying = lambda x: jax.typeof(x).manual_axis_type.varying
    axes = tuple(sorted(frozenset().union(*map(varying, jax.tree.leaves(args)))))
    if not axes:
        return f(*args)
    # The arguments of the inner shard_map still carry their notes; the result of any operation in there does not.
    forget = lambda x: x[None][0]
    plain = lambda *args: f(*jax.tree.map(forget, args))
    out = jax.shard_map(plain, in_specs=P(), out_specs=P(), check_vma=False)(*args)
    return jax.tree.map(lambda x: lax.pcast(x, tuple(set(axes) - varying(x)), to="varying"), out)
