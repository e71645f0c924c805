"""What is laid out for a machine equals the plain form that the scripts show."""
from functools import partial

from fast import weights
from fast.attention import fused_attention, splash_attention
from fast.rotary import rotary as fast_rotary
from fast.weights import Turned

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import model
from model import plain_attention, rotary
from tpu_mesh import make_mesh


@pytest.mark.parametrize("rotary_dim", [0, 2, 6, 8])
@pytest.mark.parametrize("dtype, error", [("float32", 1e-6), ("bfloat16", 2e-2)])
def test_rotary_by_a_product_is_the_rotation_of_pairs(rotary_dim, dtype, error):
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 8)).astype(dtype)
    positions = jnp.array([[0, 1, 2, 3, 4], [7, 8, 300, 301, 2047]])
    plain, fast = rotary(x, positions, rotary_dim), fast_rotary(x, positions, rotary_dim)
    assert plain.dtype == fast.dtype == dtype
    np.testing.assert_allclose(plain.astype("float32"), fast.astype("float32"), atol=error)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2)])
def test_attention_kernel_equals_the_plain_form(shape):
    """JAX's TPU kernel, interpreted on the CPU, forward and backward, inside shard_map as the model uses it."""
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v, grad = (jax.random.normal(key, (4, 2, 256, 16)) for key in keys)
    kernel = lambda *qkv: splash_attention(*qkv, interpret=True)
    spec = P(("dp", "fsdp"), "tp")

    def run(attention, shape):
        def both(q, k, v, grad):
            out, pullback = jax.vjp(attention, q, k, v)
            return out, *pullback(grad)
        sharded = jax.shard_map(both, mesh=make_mesh(*shape), in_specs=spec, out_specs=spec)
        return jax.jit(sharded)(q, k, v, grad)

    got = run(lambda *qkv: fused_attention(kernel, *qkv), shape)
    for a, b in zip(got, run(plain_attention, (1, 1, 1))):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("rows", [1, 2, 16, 40])
@pytest.mark.parametrize("dtype, error", [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_a_turned_weight_multiplies_as_the_weight_does(monkeypatch, rows, dtype, error):
    """Each form of the product, with a weight that is cut in two, beside NumPy."""
    weights.turn.clear_cache()          # it is compiled for parts of another size
    monkeypatch.setattr(weights, "INPUTS", 64)
    w = 0.1 * jax.random.normal(jax.random.key(0), (1, 96, 40), jnp.float32)
    x = jax.random.normal(jax.random.key(1), (rows, 96))
    turned = model.unstack({n: w for n in (*model.LAYER, "lm_head")} | {"lm_head": w[0]})["lm_head"]
    assert [part.shape for part in turned.parts] == [(40, 64), (40, 32)]
    turned = Turned(tuple(part.astype(dtype) for part in turned.parts))
    for out in (None, jnp.float32):
        got = jax.jit(partial(model.linear, name="lm_head", dtype=out))(x.astype(dtype), {"lm_head": turned})
        assert got.dtype == (out or dtype)
        np.testing.assert_allclose(got, np.asarray(x) @ np.asarray(w[0]), atol=20 * error, rtol=error)
