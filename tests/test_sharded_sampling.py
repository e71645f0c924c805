"""Laws of sampling on a mesh: the texts and likelihoods of one device, one all-reduce a layer, each device its share."""
from harness import benchmark

import dataclasses
import math
import re
import tracemalloc
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

import humaneval
import model
import mtpb
import sample
import tpu_mesh
from data import get_tokenizer
from model import Config, init_params, param_table
from sample import CACHE, LOGITS, ONE, ROW, Chat, decode, generate, on_mesh, prompt_logprob
from tpu_mesh import make_mesh, save_checkpoint

CONFIG = Config(n_layer=2, n_head=8, n_embd=32, rotary_dim=4, block_size=128, vocab_size=320)
TOKENIZER = get_tokenizer("bytes")
PARAMS = {n: 6 * p if "proj" in n or "fc" in n or n == "lm_head" else p
          for n, p in init_params(jax.random.key(1), CONFIG).items()}
PROMPTS = ["# row %d\n" % n * (n + 1) for n in range(5)]


def placed(params, mesh, config=CONFIG):
    to = tpu_mesh.shardings(param_table(config), mesh)
    return {n: jax.device_put(p, to[n]) for n, p in params.items()}


@pytest.fixture(scope="module")
def one_device():
    texts = {t: generate(PARAMS, CONFIG, TOKENIZER, PROMPTS, 20, t, 0.95, seed=5, batch_size=3) for t in (0.0, 0.8)}
    return texts, prompt_logprob(PARAMS, CONFIG, TOKENIZER, PROMPTS)


@pytest.mark.parametrize("dp, tp", [(8, 1), (1, 8), (2, 4), (4, 2)])
def test_texts_and_likelihoods_are_those_of_one_device(one_device, dp, tp):
    """Five prompts, three together: rows divide neither over the batches nor over the mesh. The scratch rows of the
    vocabulary (257 to 319) fill the last ranks, which then have nothing to draw from."""
    params = placed(PARAMS, make_mesh(dp, tp=tp))
    for temperature, texts in one_device[0].items():
        assert generate(params, CONFIG, TOKENIZER, PROMPTS, 20, temperature, 0.95, seed=5, batch_size=3) == texts
    assert len({text for text, _ in texts}) == len(PROMPTS)
    for (total, n), (want, m) in zip(prompt_logprob(params, CONFIG, TOKENIZER, PROMPTS), one_device[1], strict=True):
        assert n == m and abs(total - want) / n < 1e-5


def test_a_session_on_a_mesh(monkeypatch):
    """One row, turn by turn, its cache kept and on the mesh also grown, its history rewritten."""
    chats = []
    for room, params in (128, PARAMS), (16, placed(PARAMS, make_mesh(2, tp=4))):
        monkeypatch.setattr(sample, "ROOM", room)
        chats.append(Chat(params, CONFIG, TOKENIZER, 1, 0.8, seed=3))
    for turn in ("a = 1\n", "# say\n" * 3):
        want, got = (chat.turn([turn], 8, stop=("q",)) for chat in chats)
        assert got == want and chats[0].texts == chats[1].texts and chats[0].tokens_run == chats[1].tokens_run
        for chat in chats:
            chat.rewrite(["# other\n" + chat.texts[0]])
    assert chats[0].room == 128 and chats[1].room == 64


def test_the_nucleus_of_a_split_vocabulary_is_that_of_the_whole():
    """Also where equals lie on several ranks, of which the greedy choice takes the first."""
    mesh = make_mesh(2, tp=4)
    logits = jax.random.normal(jax.random.key(0), (8, 400)) * 3
    logits = logits.at[0].set(1.0).at[1, 100:].set(9.0)
    keys = jax.random.split(jax.random.key(1), 8)

    def both(keys, logits, temperature, top_p, tp=()):
        return sample.top_p_filter(logits, top_p, tp), sample.sample_token(keys, logits, temperature, top_p, 390, tp)
    split = jax.jit(jax.shard_map(partial(both, tp="tp"), mesh=mesh, in_specs=(ROW, LOGITS, ONE, ONE),
                                  out_specs=(LOGITS, ROW)))
    whole = jax.jit(both)
    for top_p in (0.1, 0.5, 0.95):
        for temperature in (0.0, 1.0):
            for got, want in zip(split(keys, logits, temperature, top_p), whole(keys, logits, temperature, top_p)):
                np.testing.assert_array_equal(got, want)


def test_collectives_of_a_token():
    """Over tp one all-reduce a layer and one of the embedding, of (B, D). Drawing takes five more of a few numbers
    a row: the largest logit, their sum, the nucleus (six rounds of one), the best score, who has it first. Over dp one, of a
    bool: has every row ended? No weight, and nothing of the cache, is gathered."""
    mesh, rows = make_mesh(2, tp=4), 4
    at = lambda shape, dtype, spec: jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))
    to = tpu_mesh.shardings(param_table(CONFIG), mesh)
    params = {n: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=to[n]) for n, (shape, _, _) in param_table(CONFIG).items()}
    part = at((CONFIG.n_layer, rows, CONFIG.n_head, 64, CONFIG.head_dim), jnp.float32, CACHE)
    number, scalar = at((rows,), jnp.int32, ROW), at((), jnp.float32, ONE)
    program = on_mesh(decode, mesh, config=CONFIG, n_vocab=257, eot=0, steps=16).lower(
        params, dict(k=part, v=part), at((rows, CONFIG.vocab_size), jnp.float32, LOGITS), number, at((rows,), bool, ROW),
        number, at((), jnp.uint32, ONE), number, scalar, scalar).compile().as_text()
    found = re.findall(r" = (\w+\[[\d,]*\])\S* (all-\w+|reduce-scatter|collective-\w+)(?:-start)?\(.*?replica_groups=(\S+), ",
                       program)
    groups = {"{{0,1,2,3},{4,5,6,7}}": "tp", "{{0,4},{1,5},{2,6},{3,7}}": "dp"}
    kinds = sorted((groups[ranks], kind, shape) for shape, kind, ranks in found)
    b = rows // 2
    assert kinds == sorted(
        [("tp", "all-reduce", f"f32[{b},{CONFIG.n_embd}]")] * CONFIG.n_layer
        + [("tp", "all-reduce", f"f32[{b},1,{CONFIG.n_embd}]"), ("dp", "all-reduce", "pred[]")]
        + [("tp", "all-reduce", f"f32[{b},1]")] * 2 + [("tp", "all-reduce", f"f32[{b},31]")]
        + [("tp", "all-reduce", f"f32[{b}]"), ("tp", "all-reduce", f"s32[{b}]")])


# ----------------------------------------------------- weights ---------------------------------------------------

LARGE = Config(n_layer=2, n_head=4, n_embd=256, rotary_dim=4, block_size=64, vocab_size=2048)
LARGEST = 4 * 2048 * 256        # bytes of wte, lm_head, and of both layers' fc_in and fc_out each


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same weights as a checkpoint and as a Hugging Face folder."""
    top = tmp_path_factory.mktemp("large")
    params = init_params(jax.random.key(0), LARGE)
    save_checkpoint(top / "ours", 1, {f"params/{n}": p for n, p in params.items()},
                    dict(model=dataclasses.asdict(LARGE), tokenizer="bytes"))
    pytest.importorskip("safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf.meta.read_hf_tokenizer", lambda folder: "bytes")
        model.export_hf(params, LARGE, top / "theirs")
        yield params, top


def unaligned(read):
    """`read`, whose arrays begin where no CPU device takes numpy's memory as its own: it copies."""
    def copied(*args):
        found = read(*args)
        out = np.empty(found.size + 1, found.dtype)[1:].reshape(found.shape)
        out[:] = found
        return out
    return copied


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("folder", ["ours", "theirs"])
def test_a_host_holds_one_tensor_and_a_device_its_share(folders, folder, dtype, monkeypatch):
    """Both are measured while a folder is read: what Python and numpy have, and what lies on each device."""
    params, top = folders
    monkeypatch.setattr(tpu_mesh, "read_slice", unaligned(tpu_mesh.read_slice))
    mesh = make_mesh(2, tp=4)
    sample.load(top / folder, dtype, mesh=mesh)                 # what is compiled and imported is no weight
    tracemalloc.start()
    _, got, _ = sample.load(top / folder, dtype, mesh=mesh)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.2 * LARGEST, peak                           # one as it is read, and its parts; all have five times that
    held = dict.fromkeys(mesh.devices.flat, 0)
    for shard in (s for w in got.values() for s in w.addressable_shards):
        held[shard.device] += shard.data.nbytes
    share = sum(math.prod(shape) * (2 if init and dtype == "bfloat16" else 4) // (4 if "tp" in str(spec) else 1)
                for shape, spec, init in param_table(LARGE).values())
    assert set(held.values()) == {share}
    for n, w in got.items():
        assert w.dtype == (dtype if w.ndim > 1 and "ln" not in n and "bias" not in n else "float32")
        np.testing.assert_array_equal(np.asarray(w), np.asarray(params[n].astype(w.dtype)))


def test_sizes_that_do_not_divide_are_named_before_weights_are_read(folders, monkeypatch):
    _, top = folders
    monkeypatch.setattr(sample, "load_params", None)
    with pytest.raises(ValueError, match="n_head 4 does not divide by 8: change --tp"):
        sample.load(top / "ours", mesh=make_mesh(tp=8))
    with pytest.raises(ValueError, match="--dp 3 --tp 4 needs 12 devices and there are 8"):
        make_mesh(3, tp=4)


# --------------------------------------------------- the commands ------------------------------------------------

@pytest.mark.parametrize("script", [humaneval, mtpb])
def test_run_passes_the_mesh_and_the_dtype_on(script, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(benchmark, "call_script", lambda _, command, *args: asked.append((command, *args)) or "{}")
    monkeypatch.setattr(benchmark, "first_worker", lambda unsafe: SimpleNamespace(stop=lambda: None))
    args = script.parser().parse_args(["run", "--ckpt", str(tmp_path), "--dp", "2", "--tp", "4", "--dtype", "bfloat16"])
    benchmark.run(script.__file__, args, "problems", [("samples.jsonl", 0.2, None)], "id", {})
    sampling = [set(args) for command, *args in asked if command == "generate"]
    assert sampling and all({"--dp=2", "--tp=4", "--dtype=bfloat16"} <= flags for flags in sampling)


def test_the_dtype_makes_a_sample_what_it_is_and_the_mesh_does_not(folders, tmp_path):
    from runs.sampling import load_model

    _, top = folders
    problems, out = tmp_path / "problems", tmp_path / "samples.jsonl"
    problems.write_text("")
    parse = lambda *more: humaneval.parser().parse_args(["generate", f"--ckpt={top / 'ours'}", f"--out={out}", *more])
    load = lambda *more: load_model(parse(*more), ("n", "seed"), problems, "truncate_function")
    settings, *_ = load("--dtype=bfloat16", "--tp=2")
    with humaneval.samples.resume(out, settings, "task_id", {}):
        humaneval.samples.append_records(out, [{"task_id": "x", "completion": ""}])
    load("--dtype=bfloat16", "--dp=4")
    for other in ("--dtype=float32",), ():
        with pytest.raises(ValueError, match="other settings .dtype."):
            load(*other)
