"""Rotary positions with one product instead of taking every other number of a row."""
import jax.numpy as jnp
import numpy as np


def rotary(x, positions, rotary_dim: int):
    """model.rotary as (a, b) cos + (-b, a) sin, where (-b, a) is x times a constant matrix. x: (B, H, T, K).

    The product is exact, for each of its sums has one term. A CPU and a TPU are slow at taking the even and the odd numbers of
    a row apart and at putting them together again. A GPU is not, and takes the plain form: 350M's step with 16 sequences was
    178.7 ms with it and 185.2 with the product (H100).
    """
    K, R = x.shape[-1], rotary_dim
    if R == 0:
        return x
    dims = np.arange(K)
    speed = np.where(dims < R, 10000 ** (-(dims // 2 * 2) / R), 0)                        # (K,)
    angle = positions[:, None, :, None].astype(jnp.float32) * speed.astype(np.float32)    # (B, 1, T, K)
    cross = np.zeros((K, K))                                                              # x @ cross is (-b, a)
    even = np.arange(0, R, 2)
    cross[even + 1, even], cross[even, even + 1] = -1, 1
    crossed = jnp.matmul(x, cross.astype(x.dtype), precision="highest")
    return (x * jnp.cos(angle) + crossed * jnp.sin(angle)).astype(x.dtype)
