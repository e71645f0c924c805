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
from harness.folder import is_hf, read_checkpoint_meta
from harness.sizes import check_sizes

from dataclasses import dataclass
from functools import partial

from fast import weights as layouts
from fast.attention import fused_attention, kernel_for
from fast.compiler import platform
from fast.product import weight_product
from fast.remat import mark_product, recompute
from fast.rotary import rotary as rotary_by_product
from fast.weights import Turned, over_unstacked, unrolled

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P

import tpu_mesh
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
        check_sizes(self)


# Four models small enough for a laptop, and the paper's sizes (released configurations; 1B is
# jaxformer's and not in the paper) with their numbers of parameters. V = 51200 is GPT-2's 50257
# tokens and 38 runs of whitespace, padded so that tp 4 and 8 divide it. With 33 layers the "6.1B"
# model has 7.06B parameters.
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

    init: the std of a truncated normal for a matrix; of vectors 0 means zeros, None ones. Layers'
    weights are stacked. `tp` splits heads, feed-forward and vocabulary; `fsdp` splits what is left
    of each large matrix. Of wte that is rows again, because its gradient is added up as rows, and
    because XLA sends no 160 columns (2560 / 16), no whole tile of 8 x 128, but all of the matrix.

    The stds are jaxformer's. `into` is 1 / sqrt(fan in); of wte the fan in is V, because a token is
    a row of V numbers, all 0 but one. `out` is for the two matrices whose products are added to the
    stream x: 2 / L of that, so that the more layers there are the less each adds. fc_out takes
    sqrt(D) as out_proj does, though its own fan in is 4D.

    Two quirks of jaxformer are left out: its embedding has a bias (its release adds it into the
    weight, so nothing is lost), and it decays stacked vectors as if they were matrices.
    """
    c = config
    L, D, H, K, F, V = c.n_layer, c.n_embd, c.n_head, c.head_dim, 4 * c.n_embd, c.vocab_size
    into, out = D ** -0.5, 2 / L * D ** -0.5
    return {
        "wte":         ((V, D),          P(("tp", "fsdp"), None),           V ** -0.5),
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
LAYER = tuple(n for n in TABLE if not n.startswith(("wte", "ln_f", "lm_head")))     # one a layer
MATRICES = tuple(n for n, (_, _, init) in TABLE.items() if init)    # no biases, no LayerNorms


def fsdp_axis(name):
    """The axis along which fsdp splits a weight, None where it does not. Of a layer's weights it is
    counted without the first axis, L, because inside a layer, where gather runs, that is gone."""
    for axis, split_by in enumerate(TABLE[name][1]):        # None, "tp", "fsdp" or ("tp", "fsdp")
        if split_by in ("fsdp", ("tp", "fsdp")):
            return axis - (name in LAYER)
    return None


# {"wte": 0, "qkv_proj": 0, "out_proj": 2, "fc_in": 0, "fc_out": 1, "lm_head": 0}
FSDP_AXIS = {name: axis for name in TABLE if (axis := fsdp_axis(name)) is not None}


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
    """Matrix-product FLOPs of one training token.

    A layer has 4 D^2 weights in attention and 8 D^2 in the MLP, and each costs 2 FLOPs forward (a
    product, a sum) and twice that backward. A query meets T/2 keys on average, in two products of D
    terms each: q with a key, and a weight with a value.
    """
    L, D, T, V = config.n_layer, config.n_embd, config.block_size, config.vocab_size
    weights = L * (4 + 8) * D ** 2 + D * V
    attention = L * 2 * D * T // 2
    forward, backward = 2, 4
    return (forward + backward) * (weights + attention)


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
    position 257 would be rounded to 256. This form is for reading, and for a GPU; a CPU and a TPU
    are faster with fast/rotary.py, which exchanges a and b by a product with a constant matrix.
    """
    R = rotary_dim
    speed = np.float32(10000 ** (-np.arange(0, R, 2) / max(R, 1)))       # (R/2,)
    angle = positions[:, None, :, None].astype(jnp.float32) * speed      # (B or 1, 1, T, R/2)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = x[..., :R:2], x[..., 1:R:2]                                   # (B, H, T, R/2) each
    pairs = jnp.stack([a * cos - b * sin, b * cos + a * sin], -1)        # (B, H, T, R/2, 2)
    rotated = pairs.reshape(*x.shape[:-1], R)
    return jnp.concatenate([rotated, x[..., R:]], -1).astype(x.dtype)


def attention(q, k, v):
    """softmax(q k^T / sqrt(K)) v, each token looking at itself and back. -> (B, H, T, K)

    q, k, v: (B, H, T, K). TPUs and GPUs have a kernel for it, the others take the plain form."""
    kernel = kernel_for(platform(), q)
    return fused_attention(kernel, q, k, v) if kernel else plain_attention(q, k, v)


QUERIES = 64    # rows of the score matrix that are made at a time


def plain_attention(q, k, v):
    """The reference, and what a CPU runs.

    Queries go in chunks, and a chunk meets only the keys up to its own end, so most of the masked
    half of the T x T scores is never computed. Heads come second in (B, H, T, K) because a batched
    product wants its batch dimensions first: otherwise XLA's CPU backend is three times slower.
    """
    T, outs = q.shape[2], []
    for start in range(0, T, QUERIES):
        end = min(start + QUERIES, T)
        mask = jnp.arange(end) <= jnp.arange(start, end)[:, None]        # (chunk, end)
        outs.append(attend(q[:, :, start:end], [(k[:, :, :end], v[:, :, :end])], mask))
    return jnp.concatenate(outs, 2)


def attend(q, parts, mask):
    """Softmax in float32 over the keys that a query may see, then the average of their values.

    q: (B, H, T, K). parts: [(keys, values)], each (B, H, S, K): one pair here, and two where tokens
    are made, the long cache and the newest, because to join them would copy the cache. mask: True
    where a query sees a key, for all keys: broadcast to (B, H, T, sum of S). -> (B, H, T, K)
    """
    dots = partial(jnp.einsum, "bhtk,bhsk->bhts", preferred_element_type=jnp.float32)
    scores = jnp.concatenate([dots(q, k) for k, _ in parts], -1)         # (B, H, T, sum of S)
    scores = scores * q.shape[-1] ** -0.5
    # A finite number, because a row of -inf alone would turn into NaN.
    weights = jax.nn.softmax(jnp.where(mask, scores, -1e10)).astype(q.dtype)
    ends = np.cumsum([k.shape[2] for k, _ in parts])[:-1]
    weights = jnp.split(weights, ends, -1)                               # (B, H, T, S) each
    return sum(jnp.einsum("bhts,bhsk->bhtk", w, v) for w, (_, v) in zip(weights, parts))


def linear(x, weights, name, fsdp=(), dtype=None):
    """x (N, I) times the weight `name` -> (N, O) of `dtype`, x's own by default.

    The weight has the axes of I first, then those of O: qkv_proj D and 3, H, K; out_proj H, K and
    D; fc_in D and F. It is gathered from fsdp, or it is Turned (fast/weights.py): laid out for
    making tokens, with a product of its own."""
    w = weights[name]
    if isinstance(w, Turned):
        return w.product(x, dtype)
    # Make it a matrix (I, O). fsdp splits its very first axis, so rows, or its last, so columns.
    by_rows = FSDP_AXIS[name] == 0
    w = w.reshape((len(w), -1) if by_rows else (-1, w.shape[-1]))
    w = gather(w, 0 if by_rows else 1, fsdp, x.dtype)                    # (I, O), whole
    return mark_product(weight_product(x, w, dtype))


def block(x, w, config: Config, tp=(), fsdp=(), cache=None, lengths=None, at=0):
    """One layer, attention and MLP side by side on one LayerNorm (paper, section 2.2):

        y = x + Attention(LN(x)) + MLP(LN(x))

    x: (B, T, D) activations, equal on every tp rank. w: this layer's weights. Each tp rank computes
    its heads and its share of the feed-forward, and one all-reduce adds both up: one collective
    over tp forward, one backward. Where tokens are made, row b has lengths[b] tokens in the long
    part of `cache` and `at` in the short one, and x stands behind both (cached_attention, below).
    Returns (y, the short part with x's keys and values; None in training).
    """
    # vary does nothing forward. Backward, the tp ranks' gradients of h are added up, in one
    # all-reduce, because from here on h may differ between them (the operator f of Megatron-LM).
    h = vary(layer_norm(x, w["ln_1.scale"], w["ln_1.bias"]), tp)         # (B, T, D)
    a, new = self_attention(h, w, config, fsdp, cache, lengths, at)      # (B T, D)
    m = mlp(h, w, fsdp)                                                  # (B T, D)
    # The sum over tp ranks (Megatron-LM's g; nothing happens here backward). The bias comes after
    # it, because before it it would be added tp times.
    y = x + lax.psum(a + m, tp).reshape(x.shape) + w["fc_out.bias"].astype(x.dtype)
    return y, new


def self_attention(h, w, config: Config, fsdp=(), cache=None, lengths=None, at=0):
    """h: (B, T, D) -> (what this tp rank's heads add, (B T, D); new keys and values, as block)."""
    B, T, D = h.shape
    h = h.reshape(B * T, D)     # a plain matrix, because its products take a CPU half the time
    split_heads = lambda z: z.reshape(B, T, -1, config.head_dim).swapaxes(1, 2)
    qkv = linear(h, w, "qkv_proj", fsdp)                                 # (B T, 3 H K)
    q, k, v = map(split_heads, jnp.split(qkv, 3, 1))                     # (B, H, T, K) each

    positions = jnp.arange(T)[None]                                      # (1, T)
    if cache is not None:
        positions = lengths[:, None] + at + positions                    # (B, T)
    rotate = rotary if platform() == "gpu" else rotary_by_product
    q, k = (rotate(z, positions, config.rotary_dim) for z in (q, k))
    if cache is None:
        a, new = attention(q, k, v), None
    else:
        a, new = cached_attention(q, k, v, cache, lengths, at)
    a = a.swapaxes(1, 2).reshape(B * T, -1)                              # (B T, H K)
    return linear(a, w, "out_proj", fsdp), new


def mlp(h, w, fsdp=()):
    """h: (B, T, D) -> what this tp rank's share of the feed-forward adds, (B T, D)."""
    h = h.reshape(-1, h.shape[-1])
    m = linear(h, w, "fc_in", fsdp) + w["fc_in.bias"].astype(h.dtype)    # (B T, F)
    m = jax.nn.gelu(m)                                                   # the tanh form
    return linear(m, w, "fc_out", fsdp)


def own_rows(ids, size, tp):
    """Which of the vocabulary's ids stand in the `size` rows that this tp rank holds, and where:
    rank 0 has the first, rank 1 the next, ... -> (row, 0 for an id of another rank; own: bool).

    For tp = () lax.axis_index is 0: the one rank holds all."""
    row = ids - lax.axis_index(tp) * size
    own = (row >= 0) & (row < size)
    return jnp.where(own, row, 0), own


def embed(wte, ids, dtype, tp=()):
    """Rows of the embedding. wte: (V, D), this tp rank's rows, ids: (B, T) -> (B, T, D).

    A rank has zeros for the ids of other ranks, so the sum over all is the row that is meant."""
    row, own = own_rows(ids, len(wte), tp)
    x = jnp.where(own[..., None], wte[row], 0)
    return lax.psum(x, tp).astype(dtype)


def over_layers(layer, x, each, n_layer: int):
    """Run x through layer(x, weights of layer i) -> (x, out), i = 0 ... L-1. Returns (x, outs).

    each: name -> what the layers have of it: one array (L, ...), and a loop runs one compiled layer
    L times; or a tuple of L arrays (`unstack`), and the program has L layers. outs has the same
    form."""
    if isinstance(each["qkv_proj"], tuple):
        return over_unstacked(layer, x, each, n_layer)
    return lax.scan(layer, x, each, unroll=n_layer if unrolled(n_layer) else 1)


def transformer(params, ids, config: Config, tp=(), fsdp=(), remat="none"):
    """ids: (B, T) -> logits (B, T, V) float32, of the vocabulary rows of this tp rank."""
    dtype = jnp.dtype(config.dtype)
    # Gathered as float32, because in this type the gradients of all places of a token are added up.
    wte = gather(params["wte"], FSDP_AXIS["wte"], fsdp, jnp.float32)
    x = embed(wte, ids, dtype, tp)                                       # (B, T, D)

    def layer(x, w):
        return block(x, w, config, tp, fsdp)[0], None

    layer = recompute(layer, remat, unrolled(config.n_layer))
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
    """-> (loss, nll), (B, T) each: loss = nll + z_loss * lse^2, where

        lse = logsumexp(logits)        nll = -log softmax(logits)[target] = lse - logits[target]

    logits: (B, T, V) float32, targets: (B, T). V is this tp rank's share: of 2 ranks the first has
    the logits of ids 0 ... V-1, the second those of V ... 2V-1. Largest and sum go over both; a
    target's logit is on one of them, and the other adds 0.

    The z-loss draws lse to 0 (jaxformer: 1e-4), because nll alone leaves open where the logits lie:
    it is the same when all of them grow by the same number.
    """
    largest = lax.stop_gradient(logits).max(-1)
    largest = lax.pmax(largest, tp)             # pmax has no derivative, and needs none
    lse = jnp.log(lax.psum(jnp.exp(logits - largest[..., None]).sum(-1), tp)) + largest
    row, own = own_rows(targets, logits.shape[-1], tp)
    found = jnp.take_along_axis(logits, row[..., None], -1)[..., 0]      # (B, T)
    nll = lse - lax.psum(jnp.where(own, found, 0), tp)
    return nll + z_loss * jnp.square(lse), nll


def loss_fn(params, tokens, config: Config, n_tokens=None, z_loss=1e-4, tp=(), fsdp=(),
            remat="none"):
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
    """Attention of T tokens that stand behind `lengths` (B,) tokens of the long part and `at` of
    the short one, into which their keys and values go. q, k, v: (B, H, T, K).

    cache: (keys, values, new_keys, new_values), (B, H, S, K) twice and (B, H, N, K) twice. Which
    keys the T = 2 queries of a row with 5 cached tokens see (x), at = 1, S = 8, N = 4:

                   keys, S               new_keys, N
        query 0    x x x x x . . .       x x . .       the new key at place 1 is its own
        query 1    x x x x x . . .       x x x .

    A loop that makes tokens writes into the short part alone and only reads the long one, because
    XLA copies all of an array that one program both reads and writes. -> ((B, H, T, K), short part)
    """
    keys, values, new_keys, new_values = cache
    B, _, T, _ = q.shape
    S, N = keys.shape[2], new_keys.shape[2]
    put = lambda old, x: lax.dynamic_update_slice_in_dim(old, x.astype(old.dtype), at, 2)
    short = put(new_keys, k), put(new_values, v)
    held = jnp.arange(S) < lengths[:, None, None]                        # (B, 1, S)
    made = jnp.arange(N) <= at + jnp.arange(T)[:, None]                  # (T, N)
    seen = [jnp.broadcast_to(held, (B, T, S)), jnp.broadcast_to(made, (B, T, N))]
    seen = jnp.concatenate(seen, -1)[:, None]                            # (B, 1, T, S + N)
    return attend(q, [(keys, values), short], seen), short


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

    A row with fewer than N is padded, and its padding is written too: behind the row's own end,
    where no query looks, and its next tokens overwrite it. Past the cache's end it is dropped."""
    def write(old, new):                                     # (..., B, H, S, K), (..., B, H, N, K)
        rows = jnp.arange(len(lengths))[:, None]                         # (B, 1)
        places = lengths[:, None] + jnp.arange(new.shape[-2])            # (B, N)
        # Of two index arrays with a slice between them numpy puts the axes, here (B, N), first.
        new = jnp.moveaxis(new, (-4, -2), (0, 1))                        # (B, N, ..., H, K)
        return old.at[..., rows, :, places, :].set(new, mode="drop")

    return jax.tree.map(write, cache, new)


def unstack(params):
    """Weights laid out for sampling on a CPU or GPU, in place -> params: each layer gets arrays of
    its own, and matrices are turned (fast/weights.py)."""
    return layouts.unstack(params, LAYER, FSDP_AXIS)


# ---- a model's folder ----------------------------------------------------------------------------
# A checkpoint of train.py, or a Hugging Face folder of a CodeGen, which the modules of hf/ read.

def read_meta(folder, tokenizer=None) -> dict:
    """What a folder says of its model: dict(model=sizes, tokenizer=name for get_tokenizer, ...).

    tokenizer: which one, for a Hugging Face folder that does not say. ValueError if it is damaged.
    """
    if is_hf(folder):
        from hf.meta import read_hf_meta
        return read_hf_meta(folder, tokenizer)
    return read_checkpoint_meta(folder)


def load_params(folder, config: Config, mesh=None, dtype="float32", mp_num=None):
    """The weights alone, on `mesh` (default: one device); matrices become `dtype`.

    mp_num: as in hf.config.blocks_of, for a Hugging Face folder."""
    mesh = mesh or tpu_mesh.make_mesh()
    if is_hf(folder):
        from hf.weights import load_hf
        return load_hf(folder, config, mesh, dtype, mp_num)
    if mp_num is not None:
        raise ValueError(f"--mp_num is for Hugging Face folders, and {folder} is a checkpoint: "
                         "leave it out")
    to = tpu_mesh.shardings(param_table(config), mesh)
    kind = lambda name: dtype if name in MATRICES else "float32"
    wanted = {f"params/{name}": jax.ShapeDtypeStruct(shape, kind(name), sharding=to[name])
              for name, (shape, _, _) in param_table(config).items()}
    arrays = tpu_mesh.load_arrays(folder, wanted)
    return {name: arrays[f"params/{name}"] for name in to}


def import_hf(folder):
    """A Hugging Face CodeGen folder -> (config, params), float32 on one device."""
    from hf.weights import import_hf
    return import_hf(folder)


def export_hf(params, config: Config, folder, tokenizer=None):
    """Write a folder that transformers opens. ValueError if it exists."""
    from hf.weights import export_hf
    export_hf(params, config, folder, tokenizer)


def parser():
    """The parser of `python model.py import | export`."""
    from hf.__main__ import parser
    return parser("model.py")


def main():
    """`python model.py import | export`."""
    from hf.__main__ import main
    main("model.py")


if __name__ == "__main__":
    cli(main)
