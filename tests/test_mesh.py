"""Laws of what stands for a machine: its attention kernels equal the plain form."""
import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from model import fused_attention, plain_attention, splash_attention
from tpu_mesh import make_mesh


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
