"""What is laid out for a machine equals the plain form that the scripts show."""
import re
from dataclasses import replace
from functools import partial

from fast import weights
from fast.attention import fused_attention, splash_attention
from fast.product import plain_product, weight_product
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
from train import Hyper, fresh_state, train_step


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


def bf16_values(seed, *shape):
    """float64 numbers that bfloat16 holds exactly, and the same as bfloat16."""
    x = jax.random.normal(jax.random.key(seed), shape, jnp.bfloat16)
    return np.asarray(x, np.float64), x


def off(got, want):
    return np.linalg.norm(np.asarray(got, np.float64) - want) / np.linalg.norm(want)


@pytest.mark.parametrize("dtype", [None, jnp.float32])
def test_a_weights_gradient_is_summed_and_kept_in_float32(dtype):
    """Beside float64: exact to float32's rounding, where the plain product's is rounded to bfloat16."""
    (x, x16), (w, w16), (g, g16) = bf16_values(0, 512, 24), bf16_values(1, 24, 40), bf16_values(2, 512, 40)

    def both(form):
        out, pull = jax.vjp(partial(form, dtype=dtype), x16, w16.astype(jnp.float32))
        return out, *pull(g16.astype(out.dtype))

    (out, x_grad, w_grad), (plain_out, plain_x, plain_w) = both(weight_product), both(plain_product)
    assert out.dtype == plain_out.dtype and (out == plain_out).all()
    assert x_grad.dtype == jnp.bfloat16 and w_grad.dtype == jnp.float32
    assert off(x_grad, g @ w.T) < 3e-3 and off(plain_x, g @ w.T) < 3e-3
    assert off(w_grad, x.T @ g) < 1e-6
    if dtype is None:
        assert off(plain_w, x.T @ g) > 1e-3


@pytest.mark.parametrize("fsdp", [1, 4])
def test_a_gathered_weights_gradient_is_float32_over_all_chips(fsdp):
    """Each chip has rows of its own; what is added up over fsdp loses no bit to bfloat16 either."""
    (x, x16), (g, g16), (_, w) = bf16_values(0, 512, 24), bf16_values(1, 512, 40), bf16_values(2, 24, 40)
    spec = P("fsdp")

    def gradient(w, x, g):
        out, pull = jax.vjp(lambda w: model.linear(x, {"lm_head": w}, "lm_head", "fsdp"), w)
        return pull(g)[0]

    sharded = jax.shard_map(gradient, mesh=make_mesh(1, fsdp, 1), in_specs=(spec,) * 3, out_specs=spec)
    assert off(jax.jit(sharded)(w.astype(jnp.float32), x16, g16), x.T @ g) < 1e-6


def lowered_step(platform, monkeypatch):
    """The text of a bfloat16 step as it is lowered for a GPU or a TPU that is not here, with plain attention."""
    for module in (model, weights):
        monkeypatch.setattr(module, "platform", lambda: platform)
    monkeypatch.setattr(model, "kernel_for", lambda *_: None)
    config = replace(model.CONFIGS["toy"], n_layer=1, block_size=64, dtype="bfloat16")
    state = jax.eval_shape(partial(fresh_state, config=config), jax.random.key(0))
    step = partial(train_step, config=config, hyper=Hyper(batch_size=2), n_tokens=128)
    traced = jax.jit(step).trace(state, jax.ShapeDtypeStruct((2, 65), jnp.int32))
    return traced.lower(lowering_platforms=({"gpu": "cuda"}.get(platform, platform),)).as_text()


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_products_of_a_lowered_step(platform, monkeypatch):
    """With weights: bfloat16 in, the head's backward pass too, and each weight's gradient float32 out. A GPU rotates without
    a product."""
    text = lowered_step(platform, monkeypatch)
    dots = re.findall(r"dot_general.* : \(tensor<(\S+)>, tensor<(\S+)>\) -> tensor<(\S+)>", text)
    of_weights = [dot for dot in dots if all(shape.count("x") == 2 for shape in dot)]
    assert len(of_weights) == 5 * 3                                      # qkv, out, in, out, head: one forward, two backward
    assert all(a.endswith("bf16") and b.endswith("bf16") for a, b, _ in of_weights)
    D, V = 128, 512
    gradients = {f"{i}x{o}x" for i, o in ((D, 3 * D), (D, D), (D, 4 * D), (4 * D, D), (D, V))}
    assert {f"{shape}f32" for shape in gradients} <= {out for *_, out in of_weights}
    turns = [dot for dot in dots if "32x32xbf16" in dot]                 # with the constant matrix (K, K)
    assert len(turns) == (0 if platform == "gpu" else 4)
