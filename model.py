"""The CodeGen Transformer (arXiv 2203.13474, section 2.2), written once for one device and for a TPU pod.

Letters used in every shape comment and einsum:

    B batch   T sequence (S for keys)   D n_embd    H heads   K head dim, D = H K
    F = 4D    L layers                  V vocabulary rows     R rotary dims, R <= K

The model takes mesh axes as arguments, `tp` (tensor parallel) and `fsdp` (sharded parameters). On a laptop they are (),
and every collective over () is the identity. Inside `jax.shard_map` (train.py) they are names, H, F and V are then
the local shares H/tp, F/tp, V/tp, and the same lines run on a pod.

    python model.py import --hf DIR --out CKPT      released weights to a checkpoint
    python model.py export --ckpt CKPT --hf DIR     a checkpoint to a folder that transformers opens
"""
from harness.cli import cli, one_line_errors

import argparse
import json
import os
import shutil
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

import tpu_mesh
from data import get_tokenizer, read_hf_tokenizer, write_hf_tokenizer
from tpu_mesh import gather, vary


@dataclass(frozen=True)
class Config:
    """Sizes of one model, named as in Hugging Face's CodeGenConfig and nanoGPT."""
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    rotary_dim: int = 16      # R: how many of a head's K dims are rotated (even)
    block_size: int = 256     # the context: the longest sequence that is trained on or sampled
    vocab_size: int = 512     # rows of the embedding: at least the tokenizer's entries, padded to divide over tp
    dtype: str = "float32"    # of activations and matrix products; the weights themselves stay float32

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    def __post_init__(self):
        for name in ("n_layer", "n_head", "n_embd", "block_size", "vocab_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} does not divide into n_head {self.n_head} heads: change --n_head")
        if self.rotary_dim % 2 or not 0 <= self.rotary_dim <= self.head_dim:
            raise ValueError(f"rotary_dim {self.rotary_dim} must be even and at most n_embd / n_head = {self.head_dim}: "
                             "change --rotary_dim")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype {self.dtype!r} is not known: use float32 or bfloat16")


# The paper's sizes (released configurations), and four models small enough for a laptop. V = 51200 is GPT-2's 50257
# tokens and 38 runs of whitespace, padded so that it divides over 8 cores.
# With 33 layers the "6.1B" model really has 7.06B parameters.
paper = partial(Config, block_size=2048, vocab_size=51200)
CONFIGS = {
    "0.1M":  Config(n_layer=2, n_head=2, n_embd=48, rotary_dim=12),
    "0.3M":  Config(n_layer=2, n_head=4, n_embd=96, rotary_dim=12),
    "toy":   Config(n_layer=4, n_head=4, n_embd=128, rotary_dim=16),
    "3M":    Config(n_layer=6, n_head=6, n_embd=192, rotary_dim=16),
    "350M":  paper(n_layer=20, n_head=16, n_embd=1024, rotary_dim=32),   #    356,712,448
    "1B":    paper(n_layer=16, n_head=16, n_embd=2048, rotary_dim=64),   #  1,015,306,240 (jaxformer's, not in the paper)
    "2.7B":  paper(n_layer=32, n_head=32, n_embd=2560, rotary_dim=64),   #  2,779,356,160
    "6.1B":  paper(n_layer=33, n_head=16, n_embd=4096, rotary_dim=64),   #  7,064,213,504
    "16.1B": paper(n_layer=34, n_head=24, n_embd=6144, rotary_dim=64),   # 16,032,155,648
}


# -------------------------------------------------- parameters ----------------------------------------------------

def param_table(config: Config) -> dict:
    """name -> (shape, how it lies on the mesh, init): the only place that knows shapes, specs and init.

    init > 0 is the std of a truncated normal, 0 zeros, None ones. Weights of the L layers are stacked on axis 0.
    `tp` splits heads, feed-forward and vocabulary; `fsdp` splits what is left of each large matrix.

    Two quirks of jaxformer are left out: its embedding is a linear layer with a bias (added into the weight on
    export, so nothing is lost), and it decays every stacked vector as if it were a matrix (here: only init > 0).
    """
    c = config
    L, D, H, K, F, V = c.n_layer, c.n_embd, c.n_head, c.head_dim, 4 * c.n_embd, c.vocab_size
    into, out = D ** -0.5, 2 / L * D ** -0.5    # 1/sqrt(fan in); the two that write to the residual stream shrink with L
    return {
        "wte":         ((V, D),          P("tp", "fsdp"),                   V ** -0.5),
        "ln_1.scale":  ((L, D),          P(),                               None),
        "ln_1.bias":   ((L, D),          P(),                               0),
        "qkv_proj":    ((L, D, 3, H, K), P(None, "fsdp", None, "tp", None), into),
        "out_proj":    ((L, H, K, D),    P(None, "tp", None, "fsdp"),       out),
        "fc_in":       ((L, D, F),       P(None, "fsdp", "tp"),             into),
        "fc_in.bias":  ((L, F),          P(None, "tp"),                     0),
        "fc_out":      ((L, F, D),       P(None, "tp", "fsdp"),             out),
        "fc_out.bias": ((L, D),          P(),                               0),
        "ln_f.scale":  ((D,),            P(),                               None),
        "ln_f.bias":   ((D,),            P(),                               0),
        "lm_head":     ((D, V),          P("fsdp", "tp"),                   into),
        "lm_head.bias": ((V,),           P("tp"),                           0),
    }


LAYER = ("ln_1.scale", "ln_1.bias", "qkv_proj", "out_proj", "fc_in", "fc_in.bias", "fc_out", "fc_out.bias")


def init_params(key, config: Config) -> dict:
    """Fresh float32 weights, name -> array (paper-trainer init: jaxformer's modules.py). Same numbers on any mesh."""
    table = param_table(config)
    params = {}
    for i, (name, (shape, _, std)) in enumerate(table.items()):
        if std:
            params[name] = std * jax.random.truncated_normal(jax.random.fold_in(key, i), -2, 2, shape, jnp.float32)
        else:
            params[name] = jnp.ones(shape) if std is None else jnp.zeros(shape)
    return params


def num_params(config: Config) -> int:
    """Number of parameters, without making any."""
    shapes = jax.eval_shape(partial(init_params, config=config), jax.random.key(0))
    return sum(x.size for x in shapes.values())


def flops_per_token(config: Config) -> float:
    """Matrix-product FLOPs of one training token: 6 for each weight that multiplies it, and attention's causal half.

    Each weight costs 2 forward and 4 backward; a query meets T/2 keys on average, in two products of D each.
    """
    c = config
    weights = c.n_layer * 12 * c.n_embd ** 2 + c.n_embd * c.vocab_size
    return 6 * weights + 3 * c.n_layer * 2 * c.block_size * c.n_embd


def hardware_flops_per_token(config: Config, remat: bool) -> float:
    """What a TPU multiplies for one training token, beside flops_per_token: the layers run twice under remat, attention's
    tiles on the diagonal are whole, its backward kernels make the scores anew (2 products forward, 7 backward), and a
    head of fewer dims than the 128 x 128 matrix unit has fills it only in part."""
    c = config
    layers, head = c.n_layer * 12 * c.n_embd ** 2, c.n_embd * c.vocab_size
    keys = (c.block_size + min(TILE, c.block_size)) / 2
    attention = (2 * (1 + remat) + 7) * c.n_layer * 2 * keys * c.n_head * -(-c.head_dim // 128) * 128
    return (6 + 2 * remat) * layers + 6 * head + attention


# ------------------------------------------------- the Transformer ------------------------------------------------

def layer_norm(x, scale, bias):
    """LayerNorm over D in float32, because bf16 keeps 8 bits and a variance needs more. x: (B, T, D)."""
    x32 = x.astype(jnp.float32)
    mean = x32.mean(-1, keepdims=True)
    var = jnp.square(x32 - mean).mean(-1, keepdims=True)
    return ((x32 - mean) * lax.rsqrt(var + 1e-5) * scale + bias).astype(x.dtype)


def rotary(x, positions, rotary_dim: int):
    """Rotate the pairs (0,1), (2,3), ... of the first R dims by position x 10000^(-2i/R); the other dims pass through.

        (a, b) -> (a cos - b sin, b cos + a sin)  =  (a, b) cos + (-b, a) sin

    The score of a rotated q and k depends only on how far apart they are. x: (B, H, T, K), positions: (B or 1, T).
    (-b, a) is a product with a constant matrix, exact, because taking every other number of a row and putting pairs back
    together is slow on each kind of machine. The angles are float32: in bf16 position 257 would be rounded to 256.
    """
    K, R = x.shape[-1], rotary_dim
    if R == 0:
        return x
    speed = 10000 ** (-(np.arange(K) // 2 * 2) / R) * (np.arange(K) < R)                  # (K,), 0 for the others
    angle = positions[:, None, :, None].astype(jnp.float32) * speed.astype(np.float32)    # (B, 1, T, K)
    cross = np.kron(np.eye(K // 2 + 1), [[0, 1], [-1, 0]])[:K, :K] * (np.arange(K) < R)   # (K, K)
    crossed = jnp.matmul(x, cross.astype(x.dtype), precision="highest")
    return (x * jnp.cos(angle) + crossed * jnp.sin(angle)).astype(x.dtype)


QUERIES = 64    # rows of the score matrix that the plain form makes at a time
TILE = 512      # rows and columns of the scores that a TPU keeps on the chip at a time


def attention(q, k, v):
    """softmax(q k^T / sqrt(K)) v, each token looking at itself and back. q, k, v: (B, H, T, K) -> (B, H, T, K).

    On a TPU or a GPU it is one of JAX's own kernels, which keeps the T x T scores on the chip: at T 2048 writing and
    reading them would move ten times the bytes of all other activations. Elsewhere it is the plain form."""
    kernel = attention_kernel(tpu_mesh.platform(), q)
    return plain_attention(q, k, v) if kernel is None else fused_attention(kernel, q, k, v)


def plain_attention(q, k, v):
    """The reference, and what a CPU runs.

    Queries go in chunks, and a chunk meets only the keys up to its own end, so most of the masked half of the T x T
    scores is never computed. Heads come second because a batched product wants its batch dimensions first: with
    (B, T, H, K) XLA's CPU backend is three times slower.
    """
    T, outs = q.shape[2], []
    for start in range(0, T, QUERIES):
        end = min(start + QUERIES, T)
        seen = jnp.arange(end) <= jnp.arange(start, end)[:, None]        # (chunk, end)
        outs.append(attend(q[:, :, start:end], [(k[:, :, :end], v[:, :, :end])], seen))
    return jnp.concatenate(outs, 2)


def attention_kernel(platform, q):
    """The kernel (q, k, v) -> (B, H, T, K) that JAX has for these shapes on this platform, or None."""
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
    sizes = {f"block_{x}": tile for x in ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")}
    kernel = splash.make_splash_mha_single_device(masks.MultiHeadMask([masks.CausalMask((T, T))] * H),
                                                  block_sizes=splash.BlockSizes(**sizes), interpret=interpret)
    return jax.vmap(kernel)(q * K ** -0.5, k, v)


def cudnn_attention(q, k, v):
    """cuDNN's flash attention, through jax.nn."""
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))                      # (B, T, H, K)
    return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn").swapaxes(1, 2)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def fused_attention(kernel, q, k, v):
    """A kernel inside shard_map. Each device works on its own rows and heads: no collective, forward or backward."""
    return fused_forward(kernel, q, k, v)[0]


def fused_forward(kernel, q, k, v):
    return tpu_mesh.untracked(partial(jax.vjp, kernel), q, k, v)


def fused_backward(kernel, pullback, grad):
    return tpu_mesh.untracked(lambda pullback, grad: pullback(grad), pullback, grad)


fused_attention.defvjp(fused_forward, fused_backward)


def attend(q, parts, seen):
    """Softmax in float32 over the keys that a query may see, then the average of their values -> (B, H, T, K).

    q: (B, H, T, K), parts: keys and values that stand one behind the other, [(k, v), ...], each (B, H, S, K). seen: bool, for
    all keys, broadcast to (B, H, T, S + ...). The mask is a finite -1e10 so that no row can turn into NaN.
    """
    scores = [jnp.einsum("bhtk,bhsk->bhts", q, k, preferred_element_type=jnp.float32) for k, _ in parts]
    scores = jnp.concatenate(scores, -1) * q.shape[-1] ** -0.5
    weights = jax.nn.softmax(jnp.where(seen, scores, -1e10)).astype(q.dtype)
    weights = jnp.split(weights, np.cumsum([k.shape[2] for k, _ in parts])[:-1], -1)
    return sum(jnp.einsum("bhts,bhsk->bhtk", w, v) for w, (_, v) in zip(weights, parts))


def cached_attention(q, k, v, cache, lengths, at):
    """Attention of T tokens behind the `lengths` (B,) tokens that their rows hold and `at` new ones -> (a, (new_k, new_v)).

    q, k, v: (B, H, T, K). cache: (keys, values, new_k, new_v), the first two (B, H, S, K), where row b has lengths[b] tokens,
    the others (B, H, N, K), where every row writes at `at`. A loop that makes tokens so only reads the long part: when it
    wrote there, XLA copied the whole of it, several times a token.
    """
    *old, new_k, new_v = cache
    new = tuple(lax.dynamic_update_slice_in_dim(n, x.astype(n.dtype), at, 2) for n, x in ((new_k, k), (new_v, v)))
    B, T, S, N = *q.shape[::2], old[0].shape[2], new_k.shape[2]
    held = jnp.broadcast_to(jnp.arange(S) < lengths[:, None, None], (B, T, S))
    behind = jnp.broadcast_to(jnp.arange(N) <= at + jnp.arange(T)[:, None], (B, T, N))
    return attend(q, [old, new], jnp.concatenate([held, behind], -1)[:, None]), new


class Turned(NamedTuple):
    """A weight as matrices (O, i), a row for each output; each has some of the inputs."""
    parts: tuple


INPUTS = 2048     # of one part: XLA makes a loop of `one row @ weight` if the row, as float32, has less than 16 KB


def linear(x, w, split, fsdp=(), dtype=None):
    """x times a weight, summed in float32 if dtype says so. x: (N, I), w: (I, ..., O, ...) with axis `split` sharded over
    fsdp -> (N, O)."""
    if isinstance(w, Turned):
        parts = [turned_product(x[:, i * INPUTS:(i + 1) * INPUTS], rows.astype(x.dtype)) for i, rows in enumerate(w.parts)]
        return sum(parts).astype(dtype or x.dtype)
    w = gather(w, split, fsdp, x.dtype)
    return jnp.dot(x, w.reshape(x.shape[1], -1), preferred_element_type=dtype)


def turned_product(x, rows):
    """x (N, i) times rows (O, i) -> (N, O) float32, in the form in which XLA's CPU backend reads the weight fastest.

    Few rows of x: the weight stands on the left and is read at 13 to 18 GB/s, beside 5 to 12 of x @ w, which packs it anew
    each time. The barrier keeps XLA from turning the product back.
    bfloat16: XLA first writes the weight as float32, unless the product is part of a sum; so x gets a column of zeros to add,
    and is 2 to 3 times faster. A row alone is faster still as x @ w, a loop over the weight that converts in passing."""
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)
    if len(x) > 32:
        return product("ni,oi->no", x, rows)
    if x.dtype == jnp.float32:
        return lax.optimization_barrier(product("oi,ni->on", rows, x)).T
    if len(x) == 1:
        return lax.optimization_barrier(jnp.dot(x, rows.T, preferred_element_type=jnp.float32))
    return lax.optimization_barrier(product("oi,nic->noc", rows, jnp.stack([x, jnp.zeros_like(x)], -1)).sum(-1))


def block(x, w, config: Config, tp=(), fsdp=(), cache=None, lengths=None, at=0):
    """One layer:  y = x + Attention(LN(x)) + MLP(LN(x)),  attention and MLP side by side on one LayerNorm.

    x: (B, T, D) activations, equal on every tp rank. w: this layer's weights. Each tp rank computes its heads and its
    share of the feed-forward, and one all-reduce adds both up: one collective over tp forward, one backward.
    For decoding there are cache, lengths and at, as in cached_attention. Returns (y, the new keys and values or None).
    """
    (B, T, D), dtype = x.shape, x.dtype
    # Megatron's "f": said once, here, the backward pass adds up the tp ranks' gradients in one all-reduce.
    h = vary(layer_norm(x, w["ln_1.scale"], w["ln_1.bias"]), tp)         # (B, T, D)
    h = h.reshape(B * T, D)    # plain matrix products: on a CPU half the time of the same ones with B and T apart

    qkv = linear(h, w["qkv_proj"], 0, fsdp)                              # (B T, 3 H K)
    q, k, v = (x.reshape(B, T, -1, config.head_dim).swapaxes(1, 2) for x in jnp.split(qkv, 3, 1))    # (B, H, T, K) each
    here = jnp.arange(T)[None] if cache is None else lengths[:, None] + at + jnp.arange(T)        # (1 or B, T)
    q, k = rotary(q, here, config.rotary_dim), rotary(k, here, config.rotary_dim)
    a, new = (attention(q, k, v), None) if cache is None else cached_attention(q, k, v, cache, lengths, at)
    a = a.swapaxes(1, 2).reshape(B * T, -1)                              # (B T, H K)
    a = linear(a, w["out_proj"], 2, fsdp)                                # (B T, D), a part of the sum over heads

    m = linear(h, w["fc_in"], 0, fsdp) + w["fc_in.bias"].astype(dtype)   # (B T, F)
    m = linear(jax.nn.gelu(m), w["fc_out"], 1, fsdp)                     # (B T, D), a part of the sum over F; tanh-form gelu

    # Megatron's "g". The bias comes after the sum, or it would be counted tp times.
    return x + lax.psum(a + m, tp).reshape(B, T, D) + w["fc_out.bias"].astype(dtype), new


def embed(wte, ids, dtype, tp=()):
    """Rows of the embedding. wte: (V, D), ids: (B, T) -> (B, T, D). Each tp rank holds some rows and adds zeros for
    the others; psum puts them together."""
    local = ids - lax.axis_index(tp) * wte.shape[0]
    mine = (local >= 0) & (local < wte.shape[0])
    x = jnp.where(mine[..., None], wte[jnp.where(mine, local, 0)], 0)
    return lax.psum(x, tp).astype(dtype)


def unstack(params):
    """Lay the weights out for sampling, in place and one name at a time, and return params.

    Every layer gets arrays of its own, because XLA copies a layer that it takes out of a stack. Matrices are turned: see
    `turned_product`. A token reads all weights once, so each copy would show."""
    @partial(jax.jit, static_argnames="inputs")
    def turn(stack, i, inputs):                                          # I is the product of the first `inputs` axes
        w = stack[i].reshape(np.prod(stack.shape[1:1 + inputs]), -1)     # (I, O)
        return Turned(tuple(w[start:start + INPUTS].T for start in range(0, len(w), INPUTS)))

    for name in LAYER:
        stack, inputs = params[name], 2 if name == "out_proj" else 1
        params[name] = tuple(stack[i] if stack.ndim == 2 else turn(stack, i, inputs) for i in range(len(stack)))
    params["lm_head"] = turn(params["lm_head"][None], 0, 1)
    return params


def over_layers(layer, x, each, n_layer: int):
    """x through layer(x, each[i]) -> (x, out) for i = 0 ... L-1. Returns (x, what came out, put together like `each`).

    each: a tree of arrays (L, ...), and one compiled layer is run L times; or of tuples of L arrays (unstack), and the program
    has L layers."""
    if isinstance(each["qkv_proj"], tuple):
        outs = []
        for i in range(n_layer):
            x, out = layer(x, {n: w[i] for n, w in each.items()})
            outs.append(out)
        return x, out and {n: tuple(o[n] for o in outs) for n in out}
    return lax.scan(layer, x, each, unroll=n_layer if unrolled(n_layer) else 1)


def unrolled(n_layer: int) -> bool:
    """Whether the loop over stacked layers is written out: 1.5 times faster for a few layers on a CPU, 1.2 times for the 20 of
    350M on a GPU (H200). On a TPU it only takes longer to compile."""
    return tpu_mesh.platform() == "gpu" or tpu_mesh.platform() == "cpu" and n_layer <= 8


def transformer(params, ids, config: Config, tp=(), fsdp=(), remat=False):
    """ids: (B, T) -> logits (B, T, V) float32, of the vocabulary rows of this tp rank."""
    dtype = jnp.dtype(config.dtype)
    x = embed(gather(params["wte"], 1, fsdp, jnp.float32), ids, dtype, tp)
    layer = lambda x, w: block(x, w, config, tp, fsdp)
    if remat:   # keep only each layer's input; the backward pass gathers the weights and runs the layer again
        layer = jax.checkpoint(layer, prevent_cse=unrolled(config.n_layer))     # a loop cannot share what both passes make
    x, _ = over_layers(lambda x, w: (layer(x, w)[0], None), x, {n: params[n] for n in LAYER}, config.n_layer)
    return head(params, x, tp, fsdp)


def head(params, x, tp=(), fsdp=()):
    """Final LayerNorm and the untied head with bias. x: (B, T, D) -> logits (B, T, V) float32."""
    h = vary(layer_norm(x, params["ln_f.scale"], params["ln_f.bias"]), tp)
    logits = linear(h.reshape(-1, h.shape[-1]), params["lm_head"], 0, fsdp, jnp.float32)     # (B T, V)
    return logits.reshape(*x.shape[:2], -1) + params["lm_head.bias"]


@partial(jax.jit, static_argnames="config")
def forward(params, ids, config: Config):
    """ids (B, T) -> float32 logits (B, T, V), on one device."""
    return transformer(params, ids, config)


def cross_entropy(logits, targets, z_loss=0.0, tp=()):
    """-log softmax(logits)[target] + z_loss * logsumexp(logits)^2, token by token. -> two (B, T): both, first alone.

    logits: (B, T, V) float32 with the vocabulary split over tp, targets: (B, T). The z-loss keeps the normaliser
    near 1 (jaxformer uses 1e-4), so that bf16 logits stay small.
    """
    top = lax.pmax(lax.stop_gradient(logits).max(-1), tp)                # pmax has no derivative and needs none
    lse = jnp.log(lax.psum(jnp.exp(logits - top[..., None]).sum(-1), tp)) + top
    local = targets - lax.axis_index(tp) * logits.shape[-1]
    mine = (local >= 0) & (local < logits.shape[-1])
    hit = jnp.take_along_axis(logits, jnp.where(mine, local, 0)[..., None], -1)[..., 0]
    nll = lse - lax.psum(jnp.where(mine, hit, 0), tp)
    return nll + z_loss * jnp.square(lse), nll


def loss_fn(params, tokens, config: Config, n_tokens=None, z_loss=1e-4, tp=(), fsdp=(), remat=False):
    """Next-token loss of tokens (B, T+1), summed here and divided by the global number of targets.

    Returns (loss with z-loss, plain cross-entropy). There is no sum over data-parallel ranks in here: each rank holds
    its share of the global mean, and train.py adds the shares up once.
    """
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    loss, nll = cross_entropy(transformer(params, inputs, config, tp, fsdp, remat), targets, z_loss, tp)
    n_tokens = n_tokens or targets.size
    return loss.sum() / n_tokens, lax.stop_gradient(nll).sum() / n_tokens


# --------------------------------------------------- the KV cache -------------------------------------------------

def init_cache(config: Config, batch: int, size: int = 0, unstacked=False):
    """Zeros for the keys and values of `size` tokens (block_size by default): dict(k, v), each (L, B, H, S, K), or a tuple of L
    arrays (B, H, S, K) for weights that are unstacked."""
    L, *shape = config.n_layer, batch, config.n_head, size or config.block_size, config.head_dim
    zeros = lambda: jnp.zeros(shape, config.dtype)
    return {n: tuple(zeros() for _ in range(L)) if unstacked else jnp.zeros((L, *shape), config.dtype) for n in "kv"}


def forward_cached(params, ids, cache, new, lengths, at, config: Config):
    """Run tokens ids (B, T) of rows with lengths[b] tokens in `cache` and `at` more in `new` -> (x (B, T, D), new).

    cache and new come from init_cache; the keys and values of ids are written into new. A row with fewer than T tokens is
    padded on the right, so prompts of different length share a batch: no token sees what stands behind it.
    """
    x = embed(params["wte"], ids, jnp.dtype(config.dtype))

    def layer(x, w):
        x, kv = block(x, w, config, cache=(w["k"], w["v"], w["new_k"], w["new_v"]), lengths=lengths, at=at)
        return x, dict(zip("kv", kv))

    each = {n: params[n] for n in LAYER} | cache | {f"new_{n}": a for n, a in new.items()}
    return over_layers(layer, x, each, config.n_layer)


@partial(jax.jit, donate_argnums=0)
def settle(cache, new, lengths):
    """The cache with the N new tokens of each row put behind the lengths[b] that it had. What would stand past the end is
    dropped, and what a padded row writes too much lies past its own end, where nothing looks."""
    def write(old, new):                                                 # (..., B, H, S, K), (..., B, H, N, K)
        rows, places = jnp.arange(len(lengths))[:, None], lengths[:, None] + jnp.arange(new.shape[-2])       # (B, 1), (B, N)
        new = jnp.moveaxis(new, (-4, -2), (0, 1))                        # (B, N, ..., H, K), as indexing wants it
        return old.at[..., rows, :, places, :].set(new, mode="drop")

    return jax.tree.map(write, cache, new)


# ------------------------------------------- released weights, in and out -----------------------------------------
# A Hugging Face folder of a CodeGen: config.json, the tokenizer's files, and float32, float16 or bfloat16 tensors in
# model.safetensors or pytorch_model.bin, or in several such files under an index. Linear layers are (out, in) there.

HF_NAMES = {    # ours -> theirs; those of a layer stand behind "transformer.h.N."
    "wte": "transformer.wte.weight", "ln_1.scale": "ln_1.weight", "ln_1.bias": "ln_1.bias",
    "qkv_proj": "attn.qkv_proj.weight", "out_proj": "attn.out_proj.weight",
    "fc_in": "mlp.fc_in.weight", "fc_in.bias": "mlp.fc_in.bias",
    "fc_out": "mlp.fc_out.weight", "fc_out.bias": "mlp.fc_out.bias",
    "ln_f.scale": "transformer.ln_f.weight", "ln_f.bias": "transformer.ln_f.bias",
    "lm_head": "lm_head.weight", "lm_head.bias": "lm_head.bias"}
HF_BUFFERS = (".attn.bias", ".attn.masked_bias", ".attn.causal_mask")     # causal masks saved along, no weights
HF_FIXED = dict(n_inner=None, activation_function="gelu_new", layer_norm_epsilon=1e-5, tie_word_embeddings=False)
MP_NUM = 4              # the released weights come from 4 logical TPU-v4 cores; jaxformer's own copy of the model has 8
QVK = np.array([0, 2, 1])                                                # q, k, v -> q, v, k, and back


def to_hf(name, w, mp_num):
    """One layer's weight -> the tensor of a Hugging Face CodeGen.

    The 3D rows of its qkv_proj are mp_num blocks, one a core of the trainer's: in each D / mp_num rows of q, then of v,
    then of k. Nothing in a shape tells mp_num: with a wrong one all loads, and the model writes nonsense.
    """
    if name == "qkv_proj":
        D = w.shape[0]
        w = w.reshape(D, 3, mp_num, D // mp_num)[:, QVK]                 # (D, q v k, mp, D/mp)
        return w.transpose(2, 1, 3, 0).reshape(3 * D, D)
    return w if name == "wte" or w.ndim == 1 else w.reshape(-1, w.shape[-1]).T


def from_hf(name, w, shape, mp_num):
    """The inverse of to_hf, into one layer's `shape`."""
    if name == "qkv_proj":
        D = shape[0]
        w = w.reshape(mp_num, 3, D // mp_num, D)[:, QVK].transpose(3, 1, 0, 2)   # (D, q k v, mp, D/mp)
    return (w if name in ("wte", "qkv_proj") else w.T).reshape(shape)


def hf_tensors(config, mp_num):
    """Hugging Face's name of every tensor -> (our name, layer or None, its shape there)."""
    if mp_num < 1 or config.n_embd % mp_num:
        raise ValueError(f"--mp_num {mp_num} does not divide n_embd {config.n_embd}")
    tensors = {}
    for name, (shape, *_) in param_table(config).items():
        layers = range(config.n_layer) if name in LAYER else [None]
        one = jax.ShapeDtypeStruct(shape[1:] if name in LAYER else shape, jnp.float32)
        there = jax.eval_shape(lambda w: to_hf(name, w, mp_num), one).shape     # noqa: B023 (used at once)
        tensors |= {(f"transformer.h.{l}." if name in LAYER else "") + HF_NAMES[name]: (name, l, there) for l in layers}
    return tensors


@partial(jax.jit, donate_argnums=0)
def set_layer(stack, layer, w):
    """Write one layer's weight into the stacked array, in place."""
    return lax.dynamic_update_index_in_dim(stack, w, layer, 0)


def read_hf(folder, config, mesh=None, dtype="float32", mp_num=MP_NUM):
    """The weights of a Hugging Face folder -> params, placed on `mesh` (default: one device) one tensor at a time.

    Matrices become `dtype`, vectors float32. Raises ValueError that names the tensors that are missing, unknown, or of
    another shape than `config` wants, before any is read."""
    folder, mesh = Path(folder), mesh or tpu_mesh.make_mesh()
    found = {n: (file, shape) for file in tpu_mesh.weight_files(folder) for n, shape in tpu_mesh.read_tensors(file).items()
             if not n.endswith(HF_BUFFERS)}
    wanted, table, params = hf_tensors(config, mp_num), param_table(config), {}
    wrong = [f"{n} is missing" for n in wanted if n not in found] + [f"{n} is unknown" for n in found if n not in wanted]
    wrong += [f"{n} has shape {found[n][1]}, not {shape}" for n, (*_, shape) in wanted.items()
              if n in found and found[n][1] != shape]
    if wrong:
        raise ValueError(f"{folder}: " + "; ".join(wrong[:5]) + f"; and {len(wrong) - 5} more" * (len(wrong) > 5))
    order = sorted(wanted, key=lambda theirs: wanted[theirs][1] is not None)     # the two largest while memory is empty
    for theirs in tqdm(order, desc="read weights", unit=" tensors", delay=2, leave=False, disable=None):
        name, layer, _ = wanted[theirs]
        shape, spec, init = table[name]
        kind = dtype if init else "float32"
        if layer == 0:
            params[name] = jnp.zeros(shape, kind, device=NamedSharding(mesh, spec))
        if layer is not None:
            shape, spec = shape[1:], P(*spec[1:])
        w = from_hf(name, tpu_mesh.read_tensors(found[theirs][0], theirs), shape, mp_num).astype(kind, copy=False)
        w = jax.make_array_from_callback(shape, NamedSharding(mesh, spec), w.__getitem__)
        params[name] = w if layer is None else set_layer(params[name], layer, w)
    return params


def hf_config(folder):
    """config.json of a Hugging Face CodeGen -> Config. Raises ValueError for another kind of model."""
    c = tpu_mesh.load_meta(folder)
    for key, value in (dict(model_type="codegen") | HF_FIXED).items():
        if c.get(key, value) != value and not (key == "n_inner" and c[key] == 4 * c.get("n_embd", 0)):
            raise ValueError(f"{folder}/config.json: {key} is {c[key]}, and only {value} is known here")
    try:
        return Config(c["n_layer"], c["n_head"], c["n_embd"], c["rotary_dim"], c["n_positions"], c["vocab_size"])
    except (KeyError, TypeError) as e:
        raise ValueError(f"{folder}/config.json lacks a size of the model, or has one that is none: {e}") from None


def import_hf(folder):
    """A Hugging Face CodeGen folder -> (config, params), float32 on one device. The errors are read_hf's."""
    return hf_config(folder), read_hf(folder, hf_config(folder))


def export_hf(params, config: Config, folder, tokenizer=None, mp_num=MP_NUM):
    """Write a folder that transformers opens: AutoModelForCausalLM, and AutoTokenizer when a data.Tokenizer is given.

    Weights are float32, in one file. ValueError if the folder exists; it appears when it is whole. transformers 4 runs
    only models whose heads divide by 4, version 5 runs all."""
    folder, temporary = Path(folder), Path(f"{Path(folder)}.tmp")
    if folder.exists():
        raise ValueError(f"{folder} exists already: delete it, or choose another folder")
    tensors = hf_tensors(config, mp_num)

    def tensor(theirs):
        name, layer, _ = tensors[theirs]
        return to_hf(name, np.asarray(params[name] if layer is None else params[name][layer]), mp_num)

    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tpu_mesh.write_tensors(temporary / "model.safetensors", {n: shape for n, (*_, shape) in tensors.items()}, tensor)
    c = dict(model_type="codegen", architectures=["CodeGenForCausalLM"], torch_dtype="float32", **HF_FIXED,
             **{n: getattr(config, n) for n in ("n_layer", "n_head", "n_embd", "rotary_dim", "vocab_size")},
             n_positions=config.block_size, n_ctx=config.block_size)
    if tokenizer:
        c |= dict(bos_token_id=tokenizer.eot, eos_token_id=tokenizer.eot)
        write_hf_tokenizer(tokenizer, temporary, config.block_size)
    (temporary / "config.json").write_text(json.dumps(c, indent=1))
    os.replace(temporary, folder)


# ---------------------------------------------- what a folder holds ----------------------------------------------

def read_meta(folder, tokenizer=None) -> dict:
    """config.json of a checkpoint, its tokenizer ready for get_tokenizer; for a Hugging Face folder the same, made up."""
    meta = tpu_mesh.load_meta(folder)
    if "model_type" in meta:
        return dict(model=asdict(hf_config(folder)), tokenizer=tokenizer or read_hf_tokenizer(folder), recipe="finetune")
    name = meta["tokenizer"]
    return meta | dict(tokenizer=str(Path(folder) / name) if name.endswith(".tiktoken") else name)


def load_params(folder, config: Config, mesh=None, dtype="float32"):
    """The weights alone of a checkpoint or a Hugging Face folder, on `mesh` (default: one device); dtype: of matrices."""
    mesh = mesh or tpu_mesh.make_mesh()
    if "model_type" in tpu_mesh.load_meta(folder):
        return read_hf(folder, config, mesh, dtype)
    params, to = {}, tpu_mesh.shardings(param_table(config), mesh)
    for name, (shape, _, init) in param_table(config).items():      # one by one, or a cast would hold all of them twice
        wanted = {f"params/{name}": jax.ShapeDtypeStruct(shape, jnp.float32, sharding=to[name])}
        params[name] = tpu_mesh.load_checkpoint(folder, wanted)[f"params/{name}"].astype(dtype if init else "float32")
    return params


def main():
    p = argparse.ArgumentParser(prog="model.py", description="Released weights, in and out.", allow_abbrev=False)
    commands = p.add_subparsers(dest="command", required=True, metavar="import | export")
    i = commands.add_parser("import", allow_abbrev=False, help="a Hugging Face CodeGen folder -> a checkpoint")
    e = commands.add_parser("export", allow_abbrev=False, help="a checkpoint -> a folder that transformers opens")
    i.add_argument("--out", required=True, metavar="DIR", help="checkpoint folder to make")
    i.add_argument("--tokenizer", help="gpt2 (the NL models), codegen (MULTI, MONO); default: what the folder's files say")
    e.add_argument("--ckpt", required=True, metavar="DIR", help="a checkpoint folder, or train.py's out_dir")
    for command in map(one_line_errors, (p, i, e)):
        if command is not p:
            command.add_argument("--hf", required=True, metavar="DIR", help="the Hugging Face folder")
            command.add_argument("--mp_num", type=int, default=MP_NUM, help="blocks of the fused qkv_proj (default 4; 8 in "
                                 "jaxformer's copy). Shapes do not tell: with a wrong one the model writes nonsense")
    args = p.parse_args()
    tpu_mesh.start()
    source = Path(args.hf) if args.command == "import" else tpu_mesh.find_checkpoint(args.ckpt)
    meta = read_meta(source, getattr(args, "tokenizer", None))
    config, tokenizer = Config(**meta["model"]), get_tokenizer(meta["tokenizer"])
    if args.command == "import":
        if tpu_mesh.checkpoints(args.out):
            raise ValueError(f"{args.out} already holds checkpoints: choose another --out")
        params = {f"params/{n}": w for n, w in read_hf(source, config, mp_num=args.mp_num).items()}
        files = [tokenizer.name] if tokenizer.name.endswith(".tiktoken") else []
        meta["tokenizer"] = Path(tokenizer.name).name if files else tokenizer.name
        out = tpu_mesh.save_checkpoint(args.out, 0, params, meta, files=files)
    else:
        out = args.hf
        export_hf(load_params(source, config), config, out, tokenizer, args.mp_num)
    print(f"{num_params(config):,} parameters, tokenizer {Path(tokenizer.name).name}, from {source} to {out}")


if __name__ == "__main__":
    cli(main)
