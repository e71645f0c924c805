"""The CodeGen Transformer (arXiv 2203.13474, section 2.2), once for one device and for a TPU pod.

Letters used in every shape comment and einsum; (B T, D) is a matrix of B x T rows:

    B batch   T sequence (S for keys)   D n_embd    H heads   K head dim, D = H K
    F = 4D    L layers                  V vocabulary rows     R rotary dims, R <= K

The model takes mesh axes as arguments, `tp` (tensor parallel) and `fsdp` (sharded parameters). Left
out they are (), and every collective over () is the identity: that is one device. train.py runs the
same lines inside `jax.shard_map`, on a laptop or a pod: there they are names, and B, H, F and V are
one chip's shares B/(dp fsdp), H/tp, F/tp and V/tp. Its place along tp is its tp rank.

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
    vocab_size: int = 512     # V: at least the tokenizer's entries; divides over tp x fsdp
    dtype: str = "float32"    # of activations and matrix products; the weights stay float32

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    def __post_init__(self):
        check_sizes(self)


# Four models small enough for a laptop, and the paper's sizes (released configurations; 1B is of
# jaxformer, the authors' library, and not in the paper) with their numbers of parameters. V = 51200
# is GPT-2's 50257 tokens and 38 runs of whitespace, padded so that tp 4 and 8 divide it. With 33
# layers the "6.1B" model has 7.06B parameters.
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

    Layers' weights are stacked, L first. `tp` splits heads, feed-forward and vocabulary, and `fsdp`
    another axis of each matrix. But of wte both split the rows; 16 of them over 2 x 2 chips:

        tp 0 fsdp 0: rows 0-3   tp 0 fsdp 1: 4-7   tp 1 fsdp 0: 8-11   tp 1 fsdp 1: 12-15

    If fsdp 16 split the 2560 columns of 2.7B, a chip would have 160, which are no whole tiles of a
    TPU (8 x 128), and XLA would send all of the matrix instead of shards.

    init of a vector: 0 for zeros, None for ones; of a matrix: the std of a normal, before it is cut
    at 2 std. All are jaxformer's, of which two quirks are left out: its embedding has a bias (its
    release adds it to the weight, so nothing is lost), and it decays stacked vectors, too."""
    c = config
    L, D, H, K, F, V = c.n_layer, c.n_embd, c.n_head, c.head_dim, 4 * c.n_embd, c.vocab_size
    # 1 / sqrt(fan in) for most: wte's is V, because a token is a row of V numbers, all 0 but one.
    # What out_proj and fc_out (fan in 4D) make is added to x (block, below): each of many layers
    # is to add less.
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
    """Fresh float32 weights, name -> array, as jaxformer starts; the same on any mesh."""
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


def flops_per_token(config: Config) -> int:
    """Matrix-product FLOPs of one training token: 2 forward (a product, a sum) and 4 backward for
    each number that it is multiplied with.

    These are a layer's weights, 4 D^2 in attention and 8 D^2 in the MLP, and the head's; and in
    attention D numbers of a key and D of its value, for T/2 keys on average."""
    L, D, T, V = config.n_layer, config.n_embd, config.block_size, config.vocab_size
    weights = L * (4 + 8) * D ** 2 + D * V
    attention = L * (D + D) * T // 2
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
    """Rotate pair i of the first R dims, (2i, 2i + 1), by the angle position x 10000^(-2i/R).

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

    q, k, v: (B, H, T, K). For most shapes TPUs and GPUs have a kernel; without one, plain form."""
    kernel = kernel_for(platform(), q)
    return fused_attention(kernel, q, k, v) if kernel else plain_attention(q, k, v)


QUERIES = 64    # rows of the score matrix that are made at a time


def plain_attention(q, k, v):
    """The reference, and what runs where there is no kernel.

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

    q: (B, H, T, K). parts: [(keys, values)], each (B, H, S, K). One pair in training; where tokens
    are made a long one and a short one (the KV cache, below), which are not joined, because that
    would copy them. mask: (T, sum of S) or (B, 1, T, sum of S), True where a query sees a key.
    -> (B, H, T, K)"""
    dots = partial(jnp.einsum, "bhtk,bhsk->bhts", preferred_element_type=jnp.float32)
    scores = jnp.concatenate([dots(q, k) for k, _ in parts], -1)         # (B, H, T, sum of S)
    scores = jnp.where(mask, scores * q.shape[-1] ** -0.5, -1e10)        # as jaxformer: e^-1e10 = 0
    probs = jax.nn.softmax(scores).astype(q.dtype)
    ends = np.cumsum([k.shape[2] for k, _ in parts])[:-1]
    probs = jnp.split(probs, ends, -1)                                   # (B, H, T, S) each
    return sum(jnp.einsum("bhts,bhsk->bhtk", p, v) for p, (_, v) in zip(probs, parts))


def linear(x, weights, name, fsdp=(), dtype=None):
    """x (B T, I) times weights[name] as a matrix (I, O) -> (B T, O) of `dtype`, by default x's.

        qkv_proj (D, 3, H, K), fc_in (D, F), lm_head (D, V)    I = D           fsdp splits the rows
        out_proj (H, K, D), fc_out (F, D)                      I = H K or F    the columns
    """
    w = weights[name]
    if isinstance(w, Turned):       # laid out for making tokens, with a product of its own
        return w.product(x, dtype)
    by_rows = FSDP_AXIS[name] == 0
    w = w.reshape((len(w), -1) if by_rows else (-1, w.shape[-1]))
    w = gather(w, 0 if by_rows else 1, fsdp, x.dtype)                    # (I, O), whole
    return mark_product(weight_product(x, w, dtype))    # a mark that fast/remat.py looks for


def block(x, w, config: Config, tp=(), fsdp=(), cache=None, lengths=None, at=0):
    """One layer, attention and MLP side by side on one LayerNorm (paper, section 2.2):

        y = x + Attention(LN(x)) + MLP(LN(x))

    x: (B, T, D) activations, equal on every tp rank. w: this layer's weights. Each tp rank computes
    its heads and its share of the feed-forward, and one all-reduce adds both up: one collective
    over tp forward, one backward. cache, lengths, at: where tokens are made, row b has lengths[b]
    of them in the long part of the KV cache (cached_attention, below) and `at` in the short one,
    and x stands behind both. Returns (y, the short part with x's keys and values, or None).
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
    """h: (B, T, D) -> (what this tp rank's heads add to x, (B T, D); the short part, as block)."""
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
    """h: (B, T, D) -> what this tp rank's share of the feed-forward adds to x, (B T, D)."""
    h = h.reshape(-1, h.shape[-1])
    m = linear(h, w, "fc_in", fsdp) + w["fc_in.bias"].astype(h.dtype)    # (B T, F)
    m = jax.nn.gelu(m)                                                   # the tanh form
    return linear(m, w, "fc_out", fsdp)


def own_rows(ids, size, tp):
    """Where each id stands among the `size` rows of the vocabulary of this tp rank -> (row, own).

    With size 4, rank 1 has ids 4 to 7: id 6 is its row 2. An id of another rank has row 0 and is
    not `own`. For tp = () lax.axis_index is 0: the one rank holds all."""
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

    each: name -> a tuple of L arrays (`unstack`), and the program has L layers; or one array
    (L, ...), and a loop runs one layer L times, written out as L layers where that is faster
    (`unrolled`). outs has the same form."""
    if isinstance(each["qkv_proj"], tuple):
        return over_unstacked(layer, x, each, n_layer)
    return lax.scan(layer, x, each, unroll=n_layer if unrolled(n_layer) else 1)


def transformer(params, ids, config: Config, tp=(), fsdp=(), remat="none"):
    """ids: (B, T) -> logits (B, T, V) float32, V this tp rank's share. remat: fast/remat.py."""
    dtype = jnp.dtype(config.dtype)
    # As float32, because embed rounds the rows that it takes, once they are added up over tp.
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

    cache: keys and values of the long part, (B, H, S, K) each, and of the short one, (B, H, N, K).
    The keys that the T = 2 queries of a row see (x), with lengths 5, at 1, S 8 and N 4:

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
    zeros = lambda x: jnp.zeros_like(x, shape=(*x.shape[:-2], size, x.shape[-1]))
    return jax.tree.map(zeros, cache)


def forward_cached(params, ids, cache, new, lengths, at, config: Config, tp=()):
    """Run tokens ids (B, T) of rows with lengths[b] tokens in `cache` and `at` more in `new`.

    cache comes from init_cache, new from beside; the keys and values of ids go into new. A row with
    fewer than T tokens is padded on the right, so prompts of different length share a batch: no
    token sees what stands behind it. -> (x (B, T, D), new)"""
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

        had, lengths 5, S = 8      a b c d e . . .
        new, N = 4, 2 are real     f g p p
        returned                   a b c d e f g p      the second p is past the end: dropped

    Padding (p) does no harm: no query looks there, and the row's next tokens overwrite it."""
    def write(old, new):                                     # (..., B, H, S, K), (..., B, H, N, K)
        rows = jnp.arange(len(lengths))[:, None]                         # (B, 1)
        places = lengths[:, None] + jnp.arange(new.shape[-2])            # (B, N)
        # Of two index arrays with a slice between them NumPy puts the axes first: here (B, N).
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
