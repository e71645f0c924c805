"""The CodeGen Transformer (arXiv 2203.13474, section 2.2), once for one device and for a TPU pod.

Letters used in every shape comment and einsum:

    B batch   T sequence (S for keys)   D n_embd    H heads   K head dim, D = H K
    F = 4D    L layers                  V vocabulary rows     R rotary dims, R <= K

The model takes mesh axes as arguments, `tp` (tensor parallel) and `fsdp` (sharded parameters). On a
laptop they are (), and every collective over () is the identity. Inside `jax.shard_map` (train.py)
they are names; H, F and V are then the local shares H/tp, F/tp, V/tp, and the same lines run on a
pod.

    python model.py import --hf DIR --out CKPT      released weights to a checkpoint
    python model.py export --ckpt CKPT --hf DIR     a checkpoint to a folder that transformers opens
"""
from harness.cli import cli
from harness.files import check, read_json
from harness.folder import read_config_json

import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from fast.attention import fused_attention, kernel_for
from fast.rotary import rotary as fast_rotary
from fast.weights import Turned, turn, unroll

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P

import tpu_mesh
from data import get_tokenizer
from tpu_mesh import gather, vary


@dataclass(frozen=True)
class Config:
    """Sizes of one model, named as in Hugging Face's CodeGenConfig and nanoGPT."""
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    rotary_dim: int = 16      # R: how many of a head's K dims are rotated (even)
    block_size: int = 256     # the context: the longest sequence that is trained on or sampled
    vocab_size: int = 512     # V: at least the tokenizer's entries, padded to divide over tp
    dtype: str = "float32"    # of activations and matrix products; the weights stay float32

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    def __post_init__(self):
        check(asdict(self), CONFIG_SCHEMA)
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} does not divide into n_head {self.n_head} "
                             "heads: change --n_head")
        if self.rotary_dim % 2 or self.rotary_dim > self.head_dim:
            raise ValueError(f"rotary_dim {self.rotary_dim} must be even and at most n_embd / "
                             f"n_head = {self.head_dim}: change --rotary_dim")
        weights = 12 * self.n_layer * self.n_embd ** 2 + 2 * self.vocab_size * self.n_embd
        if weights > 10 ** 13:
            raise ValueError(f"n_layer {self.n_layer}, n_embd {self.n_embd} and vocab_size "
                             f"{self.vocab_size} make {weights:.1e} weights, and nobody has room "
                             "for more than 1e13")


# What a Config's sizes may be, also in a checkpoint's config.json (see harness.files.check).
CONFIG_SCHEMA = dict(
    n_layer=(1, 10_000), n_head=(1, 2 ** 16), n_embd=(1, 2 ** 20), rotary_dim=(0, 2 ** 16),
    block_size=(1, 2 ** 20), vocab_size=(1, 2 ** 24), dtype={"float32", "bfloat16"})

# Four models small enough for a laptop, and the paper's sizes (released configurations; 1B is
# jaxformer's and not in the paper). V = 51200 is GPT-2's 50257 tokens and 38 runs of whitespace,
# padded so that it divides over 8 cores. With 33 layers the "6.1B" model has 7.06B parameters.
paper = partial(Config, block_size=2048, vocab_size=51200)
CONFIGS = {
    "0.1M":  Config(n_layer=2, n_head=2, n_embd=48, rotary_dim=12),
    "0.3M":  Config(n_layer=2, n_head=4, n_embd=96, rotary_dim=12),
    "toy":   Config(n_layer=4, n_head=4, n_embd=128, rotary_dim=16),
    "3M":    Config(n_layer=6, n_head=6, n_embd=192, rotary_dim=16),
    "350M":  paper(n_layer=20, n_head=16, n_embd=1024, rotary_dim=32),   #    356,712,448
    "1B":    paper(n_layer=16, n_head=16, n_embd=2048, rotary_dim=64),   #  1,015,306,240
    "2.7B":  paper(n_layer=32, n_head=32, n_embd=2560, rotary_dim=64),   #  2,779,356,160
    "6.1B":  paper(n_layer=33, n_head=16, n_embd=4096, rotary_dim=64),   #  7,064,213,504
    "16.1B": paper(n_layer=34, n_head=24, n_embd=6144, rotary_dim=64),   # 16,032,155,648
}


# ---- parameters ----------------------------------------------------------------------------------

def param_table(config: Config) -> dict:
    """name -> (shape, how it lies on the mesh, init): the only place that knows these three.

    init > 0 is the std of a truncated normal, 0 zeros, None ones. Layers' weights are stacked.
    `tp` splits heads, feed-forward and vocabulary; `fsdp` splits what is left of each large matrix.

    Two quirks of jaxformer are left out: its embedding has a bias (its release adds it into the
    weight, so nothing is lost), and it decays stacked vectors as if they were matrices.
    """
    c = config
    L, D, H, K, F, V = c.n_layer, c.n_embd, c.n_head, c.head_dim, 4 * c.n_embd, c.vocab_size
    into = D ** -0.5            # 1 / sqrt(fan in)
    out = 2 / L * D ** -0.5     # what writes to the residual stream shrinks with L
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


TABLE = param_table(Config())       # for what does not depend on sizes: names and specs
# A layer's weights, which are stacked; the others are there once.
LAYER = tuple(name for name in TABLE if not name.startswith(("wte", "ln_f", "lm_head")))
# The axis of a matrix (of one layer's) that is split over fsdp, and along which it is gathered.
FSDP_AXIS = {name: spec.index("fsdp") - (name in LAYER)
             for name, (_, spec, _) in TABLE.items() if "fsdp" in spec}


def init_params(key, config: Config) -> dict:
    """Fresh float32 weights, name -> array, as jaxformer's modules.py starts; the same on any
    mesh."""
    table = param_table(config)
    params = {}
    for i, (name, (shape, _, std)) in enumerate(table.items()):
        if std:
            own = jax.random.fold_in(key, i)
            draws = jax.random.truncated_normal(own, -2, 2, shape, jnp.float32)
            params[name] = std * draws
        else:
            params[name] = jnp.ones(shape) if std is None else jnp.zeros(shape)
    return params


def num_params(config: Config) -> int:
    """Number of parameters, without making any."""
    shapes = jax.eval_shape(partial(init_params, config=config), jax.random.key(0))
    return sum(x.size for x in shapes.values())


def flops_per_token(config: Config) -> float:
    """Matrix-product FLOPs of one training token, attention's causal half included.

    Each weight that multiplies the token costs 2 forward and 4 backward; a query meets T/2 keys on
    average, in two products of D each.
    """
    c = config
    weights = c.n_layer * 12 * c.n_embd ** 2 + c.n_embd * c.vocab_size
    return 6 * weights + 3 * c.n_layer * 2 * c.block_size * c.n_embd


# ---- the Transformer -----------------------------------------------------------------------------

def layer_norm(x, scale, bias):
    """LayerNorm over D, x: (B, T, D). In float32: bf16 keeps 8 bits and a variance needs more."""
    x32 = x.astype(jnp.float32)
    mean = x32.mean(-1, keepdims=True)
    var = jnp.square(x32 - mean).mean(-1, keepdims=True)
    return ((x32 - mean) * lax.rsqrt(var + 1e-5) * scale + bias).astype(x.dtype)


def rotary(x, positions, rotary_dim: int):
    """Rotate the pairs (0,1), (2,3), ... of the first R dims by position x 10000^(-2i/R).

        (a, b) -> (a cos - b sin, b cos + a sin)

    The score of a rotated q and k then depends only on how far apart they are. The other K - R dims
    pass through. x: (B, H, T, K), positions: (B or 1, T). Angles are float32, because in bf16
    position 257 would be rounded to 256. `block` calls fast/rotary.py, the same as one product.
    """
    R = rotary_dim
    speed = np.float32(10000 ** (-np.arange(0, R, 2) / max(R, 1)))       # (R/2,)
    angle = positions[:, None, :, None].astype(jnp.float32) * speed      # (B or 1, 1, T, R/2)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = x[..., :R:2], x[..., 1:R:2]                                   # (B, H, T, R/2) each
    pairs = jnp.stack([a * cos - b * sin, b * cos + a * sin], -1)        # (B, H, T, R/2, 2)
    rotated = pairs.reshape(*x.shape[:-1], R)
    return jnp.concatenate([rotated, x[..., R:]], -1).astype(x.dtype)


QUERIES = 64    # rows of the score matrix that plain_attention makes at a time


def attention(q, k, v):
    """softmax(q k^T / sqrt(K)) v, each token looking at itself and back. -> (B, H, T, K)

    q, k, v: (B, H, T, K). TPUs and GPUs have a kernel for it, the others take the plain form."""
    kernel = kernel_for(tpu_mesh.platform(), q)
    return fused_attention(kernel, q, k, v) if kernel else plain_attention(q, k, v)


def plain_attention(q, k, v):
    """The reference, and what a CPU runs.

    Queries go in chunks, and a chunk meets only the keys up to its own end, so most of the masked
    half of the T x T scores is never computed. Heads come second in (B, H, T, K) because a batched
    product wants its batch dimensions first: otherwise XLA's CPU backend is three times slower.
    """
    T, outs = q.shape[2], []
    for start in range(0, T, QUERIES):
        end = min(start + QUERIES, T)
        seen = jnp.arange(end) <= jnp.arange(start, end)[:, None]        # (chunk, end)
        outs.append(attend(q[:, :, start:end], [(k[:, :, :end], v[:, :, :end])], seen))
    return jnp.concatenate(outs, 2)


def attend(q, parts, seen):
    """Softmax in float32 over the keys that a query may see, then the average of their values.

    q: (B, H, T, K). parts: keys and values that stand one behind the other, [(k, v), ...], each
    (B, H, S, K). seen: bool, for all keys, broadcast to (B, H, T, S + ...). -> (B, H, T, K). The
    mask is a finite -1e10, because a row of -inf alone would turn into NaN.
    """
    product = partial(jnp.einsum, "bhtk,bhsk->bhts", preferred_element_type=jnp.float32)
    scores = jnp.concatenate([product(q, k) for k, _ in parts], -1) * q.shape[-1] ** -0.5
    weights = jax.nn.softmax(jnp.where(seen, scores, -1e10)).astype(q.dtype)
    ends = np.cumsum([k.shape[2] for k, _ in parts])[:-1]
    weights = jnp.split(weights, ends, -1)                               # (B, H, T, S) each
    return sum(jnp.einsum("bhts,bhsk->bhtk", w, v) for w, (_, v) in zip(weights, parts))


def linear(x, weights, name, fsdp=(), dtype=None):
    """x (N, I) times the weight `name`, (I, ..., O, ...), gathered from fsdp -> (N, O).

    The sum is float32 where dtype says so. A weight laid out for a CPU knows its own product."""
    w = weights[name]
    if isinstance(w, Turned):
        return w.product(x, dtype)
    w = gather(w, FSDP_AXIS[name], fsdp, x.dtype)
    return jnp.dot(x, w.reshape(x.shape[1], -1), preferred_element_type=dtype)


def block(x, w, config: Config, tp=(), fsdp=(), cache=None, lengths=None, at=0):
    """One layer, attention and MLP side by side on one LayerNorm (paper, section 2.2):

        y = x + Attention(LN(x)) + MLP(LN(x))

    x: (B, T, D) activations, equal on every tp rank. w: this layer's weights. Each tp rank computes
    its heads and its share of the feed-forward, and one all-reduce adds both up: one collective
    over tp forward, one backward. For decoding there are cache, lengths and at, as in
    cached_attention. Returns (y, the new keys and values or None).
    """
    (B, T, D), dtype = x.shape, x.dtype
    # Megatron's "f": it does nothing forward. Because h may differ between tp ranks from here on,
    # the backward pass adds up the ranks' gradients at this place, in one all-reduce.
    h = vary(layer_norm(x, w["ln_1.scale"], w["ln_1.bias"]), tp)         # (B, T, D)
    # Products of plain matrices take a CPU half the time of the same ones with B and T apart.
    h = h.reshape(B * T, D)

    heads = lambda x: x.reshape(B, T, -1, config.head_dim).swapaxes(1, 2)
    qkv = linear(h, w, "qkv_proj", fsdp)                                 # (B T, 3 H K)
    q, k, v = map(heads, jnp.split(qkv, 3, 1))                           # (B, H, T, K) each
    here = jnp.arange(T)[None]                                           # (1, T)
    if cache is not None:
        here = lengths[:, None] + at + here                              # (B, T)
    q, k = (fast_rotary(x, here, config.rotary_dim) for x in (q, k))
    if cache is None:
        a, new = attention(q, k, v), None
    else:
        a, new = cached_attention(q, k, v, cache, lengths, at)
    a = a.swapaxes(1, 2).reshape(B * T, -1)                              # (B T, H K)
    a = linear(a, w, "out_proj", fsdp)                                   # (B T, D), of own heads

    m = linear(h, w, "fc_in", fsdp) + w["fc_in.bias"].astype(dtype)      # (B T, F)
    m = jax.nn.gelu(m)                                                   # the tanh form
    m = linear(m, w, "fc_out", fsdp)                                     # (B T, D), of own F

    # Megatron's "g": the sum over ranks. The bias comes after it, or it would be counted tp times.
    y = x + lax.psum(a + m, tp).reshape(B, T, D) + w["fc_out.bias"].astype(dtype)
    return y, new


def embed(wte, ids, dtype, tp=()):
    """Rows of the embedding. wte: (V, D), ids: (B, T) -> (B, T, D).

    Each tp rank holds V of the vocabulary's rows (rank 0 the first V, ...) and adds zeros for the
    ids of others; psum puts them together. The rank is lax.axis_index(tp), which is 0 for tp=()."""
    local = ids - lax.axis_index(tp) * wte.shape[0]
    mine = (local >= 0) & (local < wte.shape[0])
    x = jnp.where(mine[..., None], wte[jnp.where(mine, local, 0)], 0)
    return lax.psum(x, tp).astype(dtype)


def over_layers(layer, x, each, n_layer: int):
    """x through layer(x, each[i]) -> (x, out) for i = 0 ... L-1. Returns (x, outs, as each).

    each: name -> array (L, ...), and one compiled layer is run L times; or name -> tuple of L
    arrays (`unstack`), and the program has L layers."""
    if isinstance(each["qkv_proj"], tuple):
        outs = []
        for i in range(n_layer):
            x, out = layer(x, {n: w[i] for n, w in each.items()})
            outs.append(out)
        return x, out and {n: tuple(o[n] for o in outs) for n in out}
    return lax.scan(layer, x, each, unroll=n_layer if unrolled(n_layer) else 1)


def unrolled(n_layer: int) -> bool:
    """Whether the loop over stacked layers is written out on this machine."""
    return unroll(tpu_mesh.platform(), n_layer)


def transformer(params, ids, config: Config, tp=(), fsdp=(), remat=False):
    """ids: (B, T) -> logits (B, T, V) float32, of the vocabulary rows of this tp rank."""
    dtype = jnp.dtype(config.dtype)
    wte = gather(params["wte"], FSDP_AXIS["wte"], fsdp, jnp.float32)
    x = embed(wte, ids, dtype, tp)                                       # (B, T, D)

    def layer(x, w):
        return block(x, w, config, tp, fsdp)[0], None

    if remat:
        # Keep only each layer's input: the backward pass gathers the weights and runs the layer
        # again. XLA could merge both runs into one only where the loop is written out.
        layer = jax.checkpoint(layer, prevent_cse=unrolled(config.n_layer))
    x, _ = over_layers(layer, x, {n: params[n] for n in LAYER}, config.n_layer)
    return head(params, x, tp, fsdp)


def head(params, x, tp=(), fsdp=()):
    """Final LayerNorm and the untied head with bias. x: (B, T, D) -> logits (B, T, V) float32."""
    h = vary(layer_norm(x, params["ln_f.scale"], params["ln_f.bias"]), tp)
    h = h.reshape(-1, h.shape[-1])                                       # (B T, D)
    logits = linear(h, params, "lm_head", fsdp, jnp.float32)             # (B T, V)
    return logits.reshape(*x.shape[:2], -1) + params["lm_head.bias"]


@partial(jax.jit, static_argnames="config")
def forward(params, ids, config: Config):
    """ids (B, T) -> float32 logits (B, T, V), on one device."""
    return transformer(params, ids, config)


def cross_entropy(logits, targets, z_loss=0.0, tp=()):
    """Token by token, -> two (B, T): the sum, and its first term alone.

        -log softmax(logits)[target]  +  z_loss * logsumexp(logits)^2

    logits: (B, T, V) float32 with the vocabulary split over tp, targets: (B, T). The z-loss keeps
    the normaliser near 1 (jaxformer uses 1e-4), so that bf16 logits stay small.
    """
    top = lax.pmax(lax.stop_gradient(logits).max(-1), tp)    # pmax has no derivative and needs none
    lse = jnp.log(lax.psum(jnp.exp(logits - top[..., None]).sum(-1), tp)) + top
    local = targets - lax.axis_index(tp) * logits.shape[-1]
    mine = (local >= 0) & (local < logits.shape[-1])
    hit = jnp.take_along_axis(logits, jnp.where(mine, local, 0)[..., None], -1)[..., 0]
    nll = lse - lax.psum(jnp.where(mine, hit, 0), tp)
    return nll + z_loss * jnp.square(lse), nll


def loss_fn(params, tokens, config: Config, n_tokens=None, z_loss=1e-4, tp=(), fsdp=(),
            remat=False):
    """Next-token loss of tokens (B, T+1), summed here and divided by the global number of targets.

    Returns (loss with z-loss, plain cross-entropy). There is no sum over data-parallel ranks in
    here: each rank holds its share of the global mean, and train.py adds the shares up once.
    """
    inputs, targets = tokens[:, :-1], tokens[:, 1:]                      # (B, T) each
    logits = transformer(params, inputs, config, tp, fsdp, remat)        # (B, T, V)
    loss, nll = cross_entropy(logits, targets, z_loss, tp)
    n_tokens = n_tokens or targets.size
    return loss.sum() / n_tokens, lax.stop_gradient(nll).sum() / n_tokens


# ---- the KV cache --------------------------------------------------------------------------------

def cached_attention(q, k, v, cache, lengths, at):
    """Attention of T tokens behind `lengths` (B,) cached and `at` new ones. q, k, v: (B, H, T, K).

    cache: (keys, values, new_keys, new_values), (B, H, S, K) twice and (B, H, N, K) twice. Which
    keys the T = 2 queries of a row with 5 cached tokens see (x), at = 1, S = 8, N = 4:

                   keys, S               new_keys, N
        query 0    x x x x x . . .       x x . .       the new key at place 1 is its own
        query 1    x x x x x . . .       x x x .

    A loop that makes tokens writes into the short part alone and only reads the long one, because
    XLA copies all of an array that one program both reads and writes. -> ((B, H, T, K), new part)
    """
    keys, values, new_keys, new_values = cache
    B, _, T, _ = q.shape
    S, N = keys.shape[2], new_keys.shape[2]
    write = lambda old, x: lax.dynamic_update_slice_in_dim(old, x.astype(old.dtype), at, 2)
    new = write(new_keys, k), write(new_values, v)
    held = jnp.arange(S) < lengths[:, None, None]                        # (B, 1, S)
    made = jnp.arange(N) <= at + jnp.arange(T)[:, None]                  # (T, N)
    seen = [jnp.broadcast_to(held, (B, T, S)), jnp.broadcast_to(made, (B, T, N))]
    seen = jnp.concatenate(seen, -1)[:, None]                            # (B, 1, T, S + N)
    return attend(q, [(keys, values), new], seen), new


def init_cache(config: Config, batch: int, size: int = 0, unstacked=False, sharding=None):
    """Zeros for the keys and values of `size` tokens (block_size by default): dict(k, v).

    Each is (L, B, H, S, K), or for weights that are unstacked a tuple of L arrays (B, H, S, K).
    sharding: where they lie, by default on one device."""
    L, shape = config.n_layer, (batch, config.n_head, size or config.block_size, config.head_dim)
    if unstacked:
        return {n: tuple(jnp.zeros(shape, config.dtype) for _ in range(L)) for n in "kv"}
    return {n: jnp.zeros((L, *shape), config.dtype, device=sharding) for n in "kv"}


def beside(cache, size: int):
    """Zeros for `size` new tokens of the rows of a cache."""
    return jax.tree.map(lambda x: jnp.zeros_like(x, shape=(*x.shape[:-2], size, x.shape[-1])),
                        cache)


def forward_cached(params, ids, cache, new, lengths, at, config: Config, tp=()):
    """Run tokens ids (B, T) of rows with lengths[b] tokens in `cache` and `at` more in `new`.

    cache comes from init_cache, new from beside; the keys and values of ids go into new. A row with
    fewer than T tokens is padded on the right, so prompts of different length share a batch: no
    token sees what stands behind it. -> (x (B, T, D), new)
    """
    x = embed(params["wte"], ids, jnp.dtype(config.dtype), tp)

    def layer(x, w):
        cache = w["k"], w["v"], w["new_k"], w["new_v"]
        x, (k, v) = block(x, w, config, tp, cache=cache, lengths=lengths, at=at)
        return x, dict(k=k, v=v)

    each = {n: params[n] for n in LAYER} | cache | {f"new_{n}": a for n, a in new.items()}
    return over_layers(layer, x, each, config.n_layer)


@partial(jax.jit, donate_argnums=0)
def extend_cache(cache, new, lengths):
    """The cache with the N new tokens of each row put behind the lengths[b] that it had.

    A padded row writes too much. That lies past the row's own end, where no query looks, until the
    row's next tokens overwrite it; past the end of the cache it is dropped."""
    def write(old, new):                                     # (..., B, H, S, K), (..., B, H, N, K)
        rows = jnp.arange(len(lengths))[:, None]                         # (B, 1)
        places = lengths[:, None] + jnp.arange(new.shape[-2])            # (B, N)
        new = jnp.moveaxis(new, (-4, -2), (0, 1))                        # (B, N, ..., H, K)
        return old.at[..., rows, :, places, :].set(new, mode="drop")

    return jax.tree.map(write, cache, new)


def unstack(params):
    """Weights laid out for sampling on a CPU or GPU, in place, one name at a time -> params.

    Every layer gets arrays of its own, because XLA copies a layer that it takes out of a stack, and
    its matrices are turned (fast/weights.py)."""
    for name in LAYER:
        stack = params[name]                                             # (L, ...)
        inputs = 2 if name == "out_proj" else 1                          # it is (L, H, K, D)
        if name in FSDP_AXIS:                                            # a matrix
            params[name] = tuple(turn(stack, i, inputs) for i in range(len(stack)))
        else:
            params[name] = tuple(stack[i] for i in range(len(stack)))
    params["lm_head"] = turn(params["lm_head"][None], 0)
    return params


# ---- what a folder holds -------------------------------------------------------------------------
# A checkpoint of train.py, or a Hugging Face folder of a CodeGen, which the modules of hf/ read.

def is_hf(folder) -> bool:
    """Whether a folder is Hugging Face's: its config.json says model_type, ours does not."""
    try:
        return "model_type" in read_json(Path(folder) / "config.json")
    except ValueError:      # damaged: whoever reads it says so
        return False


def read_meta(folder, tokenizer=None) -> dict:
    """config.json of a checkpoint, its tokenizer ready for get_tokenizer; for a Hugging Face folder
    the same, made up, and said which tokenizer it has. ValueError if it is damaged."""
    if is_hf(folder):
        import hf.config
        import hf.tokenizer
        config = hf.config.hf_config(folder)
        name = tokenizer or hf.tokenizer.read_hf_tokenizer(folder)
        check_rows(name, config, folder)
        return dict(model=asdict(config), tokenizer=name, recipe="finetune")
    meta = read_config_json(folder)
    where = f"checkpoint {folder} is damaged: config.json: "
    check(meta, dict(model=dict, tokenizer=str), where)
    meta["model"] = dict(dtype="float32") | meta["model"]
    check(meta["model"], CONFIG_SCHEMA, where)
    if unknown := meta["model"].keys() - CONFIG_SCHEMA.keys():
        raise ValueError(f"{where}another version wrote it, its model has "
                         + ", ".join(sorted(unknown)))
    name = meta["tokenizer"]
    if name.endswith(".tiktoken"):
        if name != Path(name).name:
            raise ValueError(f"{where}tokenizer {name!r} must be the name of a file beside it")
        name = str(Path(folder) / name)
    return meta | dict(tokenizer=name)


def check_rows(name, config: Config, folder):
    """Say which tokenizer a Hugging Face folder gets. ValueError if its ids outnumber the rows of
    the embedding."""
    n_vocab = get_tokenizer(name).n_vocab
    if n_vocab > config.vocab_size:
        raise ValueError(f"{folder}: tokenizer {name} has {n_vocab:,} ids and the embedding "
                         f"{config.vocab_size:,} rows: name the right one with python model.py "
                         "import --tokenizer")
    if jax.process_index() == 0:
        print(f"# {folder}: tokenizer {name}, {n_vocab:,} ids of {config.vocab_size:,} rows",
              file=sys.stderr)


def load_params(folder, config: Config, mesh=None, dtype="float32", mp_num=None):
    """The weights alone of a checkpoint or a Hugging Face folder, on `mesh` (default: one device).

    dtype: of matrices. mp_num: as in hf.config.blocks_of, for a Hugging Face folder."""
    mesh = mesh or tpu_mesh.make_mesh()
    if is_hf(folder):
        import hf.weights
        return hf.weights.read_hf(folder, config, mesh, dtype, mp_num)
    if mp_num is not None:
        raise ValueError(f"--mp_num is for Hugging Face folders, and {folder} is a checkpoint: "
                         "leave it out")
    to = tpu_mesh.shardings(param_table(config), mesh)
    wanted = {f"params/{name}": jax.ShapeDtypeStruct(shape, dtype if init else "float32",
                                                     sharding=to[name])
              for name, (shape, _, init) in param_table(config).items()}
    arrays = tpu_mesh.load_arrays(folder, wanted)
    return {name: arrays[f"params/{name}"] for name in to}


# ---- doors to hf/ --------------------------------------------------------------------------------

def import_hf(folder):
    """A Hugging Face CodeGen folder -> (config, params), float32 on one device."""
    import hf.weights
    return hf.weights.import_hf(folder)


def export_hf(params, config: Config, folder, tokenizer=None):
    """Write a folder that transformers opens. ValueError if it exists."""
    import hf.weights
    hf.weights.export_hf(params, config, folder, tokenizer)


def parser():
    """The parser of `python model.py import | export`."""
    import hf.__main__
    return hf.__main__.parser("model.py")


def main():
    """`python model.py import | export`."""
    import hf.__main__
    hf.__main__.main("model.py")


if __name__ == "__main__":
    cli(main)
