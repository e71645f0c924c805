"""Laws of the Transformer: sizes, causality, rotary, the block against NumPy, the cache against the full pass."""
import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import model
from model import (
    CONFIGS,
    Config,
    block,
    extend_cache,
    forward,
    forward_cached,
    head,
    init_cache,
    init_params,
    num_params,
    rotary,
)

SMALL = Config(n_layer=2, n_head=2, n_embd=16, rotary_dim=4, block_size=160, vocab_size=32)


@partial(jax.jit, static_argnums=(0, 1))
def random_params(config, seed=0):
    """Weights without a zero or a one in them, so that a forgotten bias or scale shows."""
    params = init_params(jax.random.key(seed), config)
    return {n: p + 0.1 * jax.random.normal(jax.random.fold_in(jax.random.key(seed + 1), i), p.shape)
            for i, (n, p) in enumerate(params.items())}


@pytest.mark.parametrize("name, count", [("350M", 356_712_448), ("1B", 1_015_306_240), ("2.7B", 2_779_356_160),
                                         ("6.1B", 7_064_213_504), ("16.1B", 16_032_155_648)])
def test_parameter_counts_are_the_papers(name, count):
    assert num_params(CONFIGS[name]) == count


def test_table_shapes_are_the_initialised_ones():
    for name, p in init_params(jax.random.key(0), SMALL).items():
        assert p.shape == model.param_table(SMALL)[name][0]


def test_init_std():
    params = init_params(jax.random.key(0), dataclasses.replace(CONFIGS["toy"], n_layer=8))
    # a normal truncated at two standard deviations has 0.88 of its std
    for name, std in (("qkv_proj", 128 ** -0.5), ("fc_out", 2 / 8 * 128 ** -0.5), ("wte", 512 ** -0.5)):
        assert float(params[name].std()) == pytest.approx(0.88 * std, rel=0.02)


@pytest.mark.parametrize("bad", [dict(n_head=3), dict(rotary_dim=3), dict(rotary_dim=10), dict(dtype="int8"),
                                 dict(n_layer=0)])
def test_impossible_sizes_are_refused(bad):
    with pytest.raises(ValueError):
        dataclasses.replace(SMALL, **bad)


@pytest.mark.parametrize("name", ["n_layer", "n_head", "n_embd", "rotary_dim", "block_size", "vocab_size"])
@pytest.mark.parametrize("bad", [-1, 2 ** 70, 10 ** 9, 2.0, "2", None, True, float("nan")], ids=repr)
def test_absurd_sizes_are_refused_by_name(name, bad):
    with pytest.raises(ValueError, match=name):
        dataclasses.replace(SMALL, **{name: bad})


def test_sizes_that_are_absurd_together_are_refused():
    with pytest.raises(ValueError, match="weights"):
        Config(n_layer=10_000, n_head=1024, n_embd=2 ** 20)


META = dict(model=dataclasses.asdict(SMALL), tokenizer="bytes", step=3)


@pytest.mark.parametrize("change", [
    dict(model=None), dict(model=[]), dict(model={}), dict(tokenizer=None), dict(tokenizer=7),
    dict(model=META["model"] | dict(n_layer="2")), dict(model=META["model"] | dict(n_embd=2 ** 70)),
    dict(model=META["model"] | dict(n_more=1)), dict(model=META["model"] | dict(dtype=None)),
    dict(tokenizer="../own.tiktoken"), dict(tokenizer="/own.tiktoken")], ids=repr)
def test_a_damaged_config_json_is_one_line(change, tmp_path):
    (tmp_path / "own.tiktoken").write_text("")
    folder = tmp_path / "step_00000003"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(META | change))
    with pytest.raises(ValueError, match="damaged"):
        model.read_meta(folder)


def test_causality_by_gradient():
    """No logit depends on a later embedding, and each depends on its own: d logits[t] / d x[s] is 0 exactly for s > t.

    130 tokens: three chunks of queries, so that a mistake at a chunk's edge shows."""
    T = 130
    params = random_params(SMALL)
    w = {n: params[n][0] for n in model.LAYER}

    @jax.jit
    def strength(x):   # (T, T): how much output t moves with input s
        grads = jax.jacrev(lambda x: block(x, w, SMALL)[0][0].sum(-1))(x)
        return jnp.abs(grads[:, 0]).sum(-1)

    s = np.asarray(strength(jax.random.normal(jax.random.key(3), (1, T, 16))))
    assert (np.triu(s, 1) == 0).all()
    assert (s[np.tril_indices(T)] > 0).all()


def test_rotary_scores_depend_on_distance_alone():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 16))
    score = lambda i, j: float((rotary(q, jnp.array([[i]]), 8) * rotary(k, jnp.array([[j]]), 8)).sum())
    assert score(5, 2) == pytest.approx(score(105, 102), abs=1e-4)
    assert score(5, 2) != pytest.approx(score(5, 3), abs=1e-4)


def test_rotary_turns_interleaved_pairs_and_leaves_the_rest():
    x = jnp.arange(1.0, 9.0).reshape(1, 1, 1, 8)
    y = np.asarray(rotary(x, jnp.array([[7]]), 4))[0, 0, 0]
    for i, speed in ((0, 1.0), (2, 10000 ** -0.5)):
        a, c, s = x[0, 0, 0, i:i + 2], np.cos(7 * speed), np.sin(7 * speed)
        np.testing.assert_allclose(y[i:i + 2], [a[0] * c - a[1] * s, a[1] * c + a[0] * s], rtol=1e-5)
    np.testing.assert_array_equal(y[4:], x[0, 0, 0, 4:])


def numpy_block(x, w, H, R):
    """The block written from the paper in NumPy, loops and all. x: (T, D)."""
    T, D = x.shape
    K = D // H
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    h = (x - mean) / np.sqrt(var + 1e-5) * w["ln_1.scale"] + w["ln_1.bias"]
    out = np.zeros((T, D))
    for n in range(H):
        q, k, v = (h @ w["qkv_proj"][:, i, n] for i in range(3))
        for t in range(T):
            for i in range(0, R, 2):
                c, s = np.cos(t * 10000 ** (-i / R)), np.sin(t * 10000 ** (-i / R))
                for z in (q, k):
                    z[t, i:i + 2] = z[t, i] * c - z[t, i + 1] * s, z[t, i + 1] * c + z[t, i] * s
        for t in range(T):
            e = np.exp(q[t] @ k[:t + 1].T / np.sqrt(K))
            out[t] += (e / e.sum()) @ v[:t + 1] @ w["out_proj"][n]
    m = h @ w["fc_in"] + w["fc_in.bias"]
    m = 0.5 * m * (1 + np.tanh(np.sqrt(2 / np.pi) * (m + 0.044715 * m ** 3)))
    return x + out + m @ w["fc_out"] + w["fc_out.bias"]


def test_block_equals_numpy():
    params = random_params(SMALL)
    w = {n: params[n][1] for n in model.LAYER}
    x = jax.random.normal(jax.random.key(5), (2, 70, 16))
    want = [numpy_block(np.asarray(row, np.float64), {n: np.asarray(a, np.float64) for n, a in w.items()}, 2, 4) for row in x]
    np.testing.assert_allclose(block(x, w, SMALL)[0], want, atol=2e-5)


def test_attention_equals_the_plain_formula():
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 3, 150, 8))
    scores = jnp.einsum("bhtk,bhsk->bhts", q, k) / 8 ** 0.5
    weights = jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((150, 150), bool)), scores, -jnp.inf))
    np.testing.assert_allclose(model.attention(q, k, v), weights @ v, atol=1e-6)


def test_remat_changes_nothing():
    params, tokens = random_params(SMALL), jax.random.randint(jax.random.key(1), (2, 41), 0, 32)
    grad = lambda remat: jax.jit(jax.grad(lambda p: model.loss_fn(p, tokens, SMALL, remat=remat)[0]))(params)
    whole = grad("none")
    for remat in ("products", "layer"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole, grad(remat))


@pytest.mark.parametrize("unstacked", [False, True])
def test_cached_decoding_equals_the_full_pass(unstacked):
    """Rows of different length in one batch, several tokens and then one at a time, give each row's full-pass logits."""
    params = random_params(SMALL)
    if unstacked:
        params = model.unstack(params)
    ids = jax.random.randint(jax.random.key(1), (3, 40), 0, 32)
    want = forward(params, ids, SMALL)
    first = np.array([5, 17, 30])
    prompt = jnp.where(jnp.arange(30) < first[:, None], ids[:, :30], 7)              # 7s are padding
    room = lambda size: init_cache(SMALL, 3, size, unstacked=unstacked)
    cache, lengths = room(40), jnp.zeros(3, int)
    step = jax.jit(partial(forward_cached, config=SMALL))
    x, new = step(params, prompt, cache, room(30), lengths, 0)
    logits = head(params, x)
    for b, n in enumerate(first):
        np.testing.assert_allclose(logits[b, :n], want[b, :n], atol=1e-4)
    cache = extend_cache(cache, new, lengths)
    for lengths in (jnp.asarray(first), jnp.asarray(first + 5)):         # five tokens one at a time, put away, and five more
        new = room(5)
        for i in range(5):
            token = ids[jnp.arange(3), lengths + i]
            x, new = step(params, token[:, None], cache, new, lengths, i)
            np.testing.assert_allclose(head(params, x)[:, 0], want[jnp.arange(3), lengths + i], atol=1e-4)
        cache = extend_cache(cache, new, lengths)


def test_loss_is_cross_entropy_and_z_loss():
    params, tokens = random_params(SMALL), jax.random.randint(jax.random.key(1), (2, 21), 0, 32)
    logits = np.asarray(forward(params, tokens[:, :-1], SMALL), np.float64)
    lse = np.log(np.exp(logits).sum(-1))
    nll = (lse - np.take_along_axis(logits, np.asarray(tokens)[:, 1:, None], -1)[..., 0]).mean()
    loss, plain = model.loss_fn(params, tokens, SMALL, z_loss=0.01)
    assert float(plain) == pytest.approx(nll, abs=1e-5)
    assert float(loss) == pytest.approx(nll + 0.01 * (lse ** 2).mean(), abs=1e-4)


def test_bfloat16_stays_near_float32():
    params, ids = init_params(jax.random.key(0), SMALL), jax.random.randint(jax.random.key(1), (2, 100), 0, 32)
    low = forward(params, ids, dataclasses.replace(SMALL, dtype="bfloat16"))
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, forward(params, ids, SMALL), atol=0.1)
