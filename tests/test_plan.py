"""Laws of plans: collectives counted in the TPU's own program, links of a slice, rooflines, what is refused."""
from harness.problems import PREFIX

import dataclasses
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import humaneval
import mtpb
import sample
import train
from data import get_tokenizer
from model import CONFIGS, Config, flops_per_token, num_params
from plan import protocols, sampling
from plan.chips import CHIPS, parse_topology
from plan.compiler import compile_with_text, lower_step, topology_mesh
from plan.formula import estimate, fastest_that_fits, hardware_flops_per_token
from plan.program import Collective, attention_flops, computations, count_program, product_flops, read_program
from plan.roofline import Place, coordinates, links, places
from plan.search import better_plans
from tpu_mesh import device_grid

ROOT = Path(__file__).parents[1]


def plan(*args, ok=True, env=None, script="train.py"):
    done = subprocess.run([sys.executable, ROOT / script, "--plan", *map(str, args)], capture_output=True, text=True,
                          env=env and os.environ | env)
    assert (done.returncode == 0) == ok, done.stderr
    return done


def test_collectives_of_the_tpu_program():
    """Compiled by the TPU's compiler for 8 v4 chips: over tp one all-reduce a layer forward and one backward; over fsdp each
    of a layer's four matrices gathered once a pass (forward, and again under remat) and its gradient reduce-scattered
    once; over dp one reduction a step. The gathers run while the chip computes."""
    pytest.importorskip("libtpu", reason="libtpu, the TPU compiler, is not installed")
    config = Config(n_layer=9, n_head=2, n_embd=256, rotary_dim=64, block_size=64, vocab_size=512, dtype="bfloat16")
    hyper = train.Hyper(batch_size=8, remat="layer")
    mesh = topology_mesh("v4:2x2x2", 2, 2, 2)
    _, text = compile_with_text(lower_step(config, hyper, mesh))
    _, found = read_program(text, mesh.shape)
    count = lambda kind, axes: sum(c.count for c in found if (c.kind, c.axes) == (kind, axes))
    L = config.n_layer
    once = 2                                                              # embedding and head
    assert count("all-gather", ("fsdp",)) == 2 * 4 * L + once, found
    assert count("reduce-scatter", ("fsdp",)) == 4 * L + once, found
    # Outside of the layers: the embedding forward, the head backward, and the loss's maximum, sum and target.
    assert 2 * L + 2 <= count("all-reduce", ("tp",)) <= 2 * L + 5, found
    # The gradients: a matrix over dp, a vector over both data axes, which XLA joins; the loss and the norm are numbers.
    large = [c for c in found if "dp" in c.axes and c.bytes > 1e5]
    assert sum(c.count for c in large) <= 2 and {c.kind for c in large} == {"all-reduce"}, found
    matrices = sum(np.prod(shape) for shape, _, init in train.param_table(config).values() if init)
    assert sum(c.bytes for c in large) == pytest.approx(4 * matrices / 4, rel=0.05), found
    assert all(c.hidden for c in found if c.kind == "all-gather"), found


def fsdp_of(text, mesh):
    """(the whole count, what runs over fsdp alone by kind) of a program."""
    run = count_program(text, mesh.shape)
    return run, {kind: [c for c in run.collectives() if (c.kind, c.axes) == (kind, ("fsdp",))]
                 for kind in ("all-gather", "reduce-scatter", "all-reduce")}


def check_pod_step(config, hyper, topology, *mesh):
    """The laws of a step on a pod, read in its program -> the Count of it."""
    mesh = topology_mesh(topology, *mesh)
    _, text = compile_with_text(lower_step(config, hyper, mesh))
    run, over = fsdp_of(text, mesh)
    matrices = 4 * config.n_layer
    assert sum(c.count for c in over["all-gather"]) == 2 * matrices + 2, over
    assert sum(c.count for c in over["reduce-scatter"]) == matrices + 2, over
    assert sum(c.bytes for c in over["all-reduce"]) <= 4 * config.n_layer * 8 * config.n_embd, over     # vectors
    assert all(c.hidden for c in over["all-gather"]), over
    tokens = hyper.batch_size * config.block_size / mesh.size
    by_formula = tokens * hardware_flops_per_token(config, hyper.remat, unit=1)
    assert by_formula <= run.flops <= 1.02 * by_formula, (run.flops, by_formula)    # the rest: rotation
    assert run.flops <= 1.1 * tokens * flops_per_token(config)
    return run


def test_a_small_step_on_a_pod_gathers_and_scatters_in_whole_tiles():
    """As wide as 2.7B and on its chips, with few layers: no matrix is sent by an all-reduce, and nothing that a product
    made is multiplied again."""
    pytest.importorskip("libtpu", reason="libtpu, the TPU compiler, is not installed")
    config = Config(n_layer=3, n_head=20, n_embd=2560, rotary_dim=64, block_size=256, vocab_size=1024, dtype="bfloat16")
    check_pod_step(config, train.Hyper(batch_size=128, remat="products"), "v4:4x4x4", 2, 32, 1)


@pytest.mark.skipif("CODEGEN_PODS" not in os.environ, reason="CODEGEN_PODS=1 compiles 2.7B, which takes minutes")
def test_the_2_7b_step_on_a_pod():
    pytest.importorskip("libtpu", reason="libtpu, the TPU compiler, is not installed")
    config = dataclasses.replace(CONFIGS["2.7B"], dtype="bfloat16")
    check_pod_step(config, train.Hyper(batch_size=512, remat="products"), "v4:4x4x4", 2, 32, 1)


HLO = """HloModule m

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%slice_fusion (p: f32[5,100], i: s32[]) -> f32[1,100] {
  %p = f32[5,100]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %ds = f32[1,100]{1,0} dynamic-slice(%p, %i), dynamic_slice_sizes={1,100}
}

%async_computation (p: f32[100]) -> f32[100] {
  %p = f32[100]{0} parameter(0)
  ROOT %c = f32[100]{0} copy(%p)
}, execution_thread="sparsecore"

%body (t: (s32[], f32[5,100], f32[100])) -> (s32[], f32[5,100], f32[100]) {
  %t = (s32[], f32[5,100], f32[100]) parameter(0)
  %w = f32[5,100]{1,0} get-tuple-element(%t), index=1
  %n = s32[]{:S(6)} get-tuple-element(%t), index=0
  %one = f32[1,100]{1,0} fusion(%w, %n), kind=kLoop, calls=%slice_fusion
  %r = f32[1,100]{1,0:T(8,128)} all-reduce(%one), channel_id=1, replica_groups=[4,2]<=[2,2,2]T(0,2,1), to_apply=%add
  %g = (f32[1,100]{1,0}, f32[1,200]{1,0}) all-gather-start(%r), channel_id=2, replica_groups={{0,1},{2,3},{4,5},{6,7}}
  %old = f32[100]{0} get-tuple-element(%t), index=2
  %s = ((f32[100]{0}), f32[100]{0}, s32[]) async-start(%old), calls=%async_computation
  %u = ((f32[100]{0}), f32[100]{0}, s32[]) async-update(%s)
  %d = f32[100]{0} async-done(%u)
  ROOT %out = (s32[], f32[5,100], f32[100]) tuple(%n, %w, %d)
}

%condition (t: (s32[], f32[5,100], f32[100])) -> pred[] {
  %t = (s32[], f32[5,100], f32[100]) parameter(0)
  %limit = s32[] constant(5)
  %n = s32[] get-tuple-element(%t), index=0
  ROOT %lt = pred[] compare(%n, %limit), direction=LT
}

ENTRY %main (x: (s32[], f32[5,100], f32[100])) -> (s32[], f32[5,100], f32[100]) {
  %x = (s32[], f32[5,100], f32[100]) parameter(0)
  ROOT %while = (s32[], f32[5,100], f32[100]) while(%x), condition=%condition, body=%body
}
"""


def test_a_loop_counts_as_often_as_it_runs():
    """Five times around: a slice of 400 bytes read and written, an all-reduce over fsdp, a gather over tp that is waited
    for later, a copy of 400 bytes in another thread. The array that is sliced is not counted whole."""
    traffic, found = read_program(HLO, dict(dp=2, fsdp=2, tp=2))
    assert set(found) == {Collective("all-reduce", ("fsdp",), 5, 5 * 400, False),
                          Collective("all-gather", ("tp",), 5, 5 * 400, True)}
    assert traffic == 5 * (800 + 800 + 1200 + 804)


def test_products_count_what_their_sums_have():
    """A TPU writes products as convolutions: plain, transposed, several matrices side by side, and with a window that makes
    an axis of the result although it hangs over the edge. Attention's kernels by their shapes, half of the scores."""
    text = """
ENTRY %main (a: bf16[64,48]) -> bf16[64,96] {
  %a = bf16[64,48]{1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[48,96]{1,0} parameter(1)
  %plain = bf16[64,96]{1,0} convolution(%a, %b), dim_labels=bf_io->bf
  %turned = bf16[64,48]{1,0} convolution(%plain, %b), dim_labels=bf_oi->bf
  %dot = bf16[64,96]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %x = bf16[8,20,1,48]{3,2,1,0} parameter(2)
  %w = bf16[1,32,10,48]{3,2,1,0} parameter(3)
  %heads = bf16[8,20,32,10]{3,1,2,0} convolution(%x, %w), window={size=1x32 pad=0_0x31_31}, dim_labels=0b1f_01oi->0b1f
  %map = s8[1,4,4]{2,1,0} parameter(4)
  %q = bf16[2,3,512,80]{3,2,1,0} parameter(5)
  %splash_mha_dq_no.7 = bf16[2,3,512,80]{3,2,1,0} custom-call(%map, %map, %q, %q, %q), custom_call_target="tpu_custom_call"
}
"""
    body = computations(text)["main"]
    for name in ("plain", "turned", "dot"):
        assert product_flops(body, body[name]) == 2 * 64 * 48 * 96, name
        assert product_flops(body, body[name], 128) in (2 * 64 * 128 * 128, 2 * 64 * 96 * 128), name
    assert attention_flops(body, "splash_mha_dq_no.7") == 3 * 2 * 2 * 3 * 512 * 320 * 80
    assert attention_flops(body, "splash_mha_dq_no.7", 128) == 3 * 2 * 2 * 3 * 512 * 320 * 128
    run = count_program(text, dict(dp=1))
    heads = product_flops(body, body["heads"])
    assert run.flops == 3 * 2 * 64 * 48 * 96 + heads + attention_flops(body, "splash_mha_dq_no.7")
    assert heads == 2 * 8 * 20 * 48 * 32 * 10


def test_what_is_kept_is_the_most_that_fits():
    """More memory, fewer products anew; and the three differ in what they multiply and keep."""
    config, hyper = dataclasses.replace(CONFIGS["2.7B"], dtype="bfloat16"), train.Hyper(batch_size=512)
    mesh = dict(dp=2, fsdp=32, tp=1)
    chosen = [fastest_that_fits(config, hyper, **mesh, memory=g * 2 ** 30) for g in (1000, 32, 8)]
    assert chosen == ["none", "products", "layer"]
    flops = [hardware_flops_per_token(config, remat) for remat in chosen]
    bytes_ = [sum(estimate(config, dataclasses.replace(hyper, remat=r), **mesh)[:2]) for r in chosen]
    assert flops == sorted(set(flops)) and bytes_ == sorted(set(bytes_), reverse=True)


def test_the_formula_gathers_in_the_type_of_the_products_but_the_embedding_in_float32():
    """So float32 gathers twice the bytes of bf16, less what the embedding has in both."""
    hyper, mesh = train.Hyper(batch_size=512), dict(dp=2, fsdp=32, tp=1)
    config = CONFIGS["2.7B"]
    gathered = {}
    for dtype in ("bfloat16", "float32"):
        *_, moves = estimate(dataclasses.replace(config, dtype=dtype), hyper, **mesh)
        gathered[dtype] = next(m.bytes for m in moves if m.kind == "all-gather")
    embedding = 4 * config.n_embd * config.vocab_size / 32
    assert gathered["float32"] - embedding == pytest.approx(2 * (gathered["bfloat16"] - embedding))


def test_links_of_a_slice():
    """On 8 x 8 x 4 v4 chips tp 4 runs around the short side, fsdp 64 around both long ones; on half a side there is no ring."""
    chip = CHIPS["v4"]
    ring, coords = chip.ring, places(chip, (8, 8, 4), 1, 64, 4)
    assert links(coords, (8, 8, 4), ring, ("tp",)) == 2 and links(coords, (8, 8, 4), ring, ("fsdp",)) == 4
    assert links(places(chip, (8, 8, 4), 1, 256, 1), (8, 8, 4), ring, ("fsdp",)) == 6
    assert links(places(chip, (4, 4, 4), 1, 32, 2), (4, 4, 4), ring, ("tp",)) == 1
    assert links(places(CHIPS["v5e"], (4, 4), 1, 4, 4), (4, 4), CHIPS["v5e"].ring, ("tp",)) == 1


def test_bytes_that_leave_a_device():
    """8 ranks that each hold 100 of 800 bytes: a gather sends 100 to 7 others; a sum over all of it does it twice."""
    assert Collective("all-gather", ("fsdp",), 1, 100, False).moved(8) == 700
    assert Collective("reduce-scatter", ("fsdp",), 1, 800, False).moved(8) == 700
    assert Collective("all-reduce", ("fsdp",), 1, 800, False).moved(8) == 1400


def test_plan_by_formula_says_what_fits(tmp_path):
    """Without libtpu (hidden here) the plan is counted and its last line is JSON; one that does not fit names one that does."""
    env = hidden_compiler(tmp_path)
    done = plan("--model", "16.1B", "--topology", "v4:8x8x4", "--fsdp", 64, "--tp", 4, env=env)
    row = json.loads(done.stdout.splitlines()[-1])
    assert "libtpu is not installed" in done.stdout and not row["compiled"] and row["fits"]
    assert row["chips"] == 256 and row["params"] == num_params(CONFIGS["16.1B"]) and row["batch_size"] == 1024
    assert row["state_bytes_per_chip"] == pytest.approx(12 * row["params"] / 256, rel=1e-3)
    assert row["mfu"] == pytest.approx(row["flops_per_chip"] / row["step_seconds"] / 275e12)
    small = plan("--model", "16.1B", "--topology", "v4:4x4x4", "--tp", 4, "--dp", 16, env=env)
    assert not json.loads(small.stdout.splitlines()[-1])["fits"]
    assert "does not fit" in small.stdout and "try --dp" in small.stdout


@pytest.mark.parametrize("args, words", [
    (("--topology", "v9:2x2"), "v9:2x2"), ((), "--topology"), (("--topology", "v4:2x2x2", "--fsdp", 4), "8 chips"),
    (("--topology", "v4:4x4", "--fsdp", 16), "no such slice"),
    (("--topology", "v4:2x2x1", "--fsdp", 4, "--batch_size", 2 ** 30), "--batch_size"),
    (("--topology", "v4:2x2x1", "--n_embd", 10 ** 9), "n_embd"), (("--topology", "v4:2x2x2", "--search", "--tp", 2), "--tp"),
    (("--topology", "v4:2x2x2", "--init_from", "out"), "--init_from out")])
def test_a_plan_that_makes_no_sense_is_one_line(args, words):
    done = plan("--model", "350M", *args, ok=False)
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("script, flag, value", [
    ("train.py", "--topology", "v4:2x2x2"), ("train.py", "--search", None), ("sample.py", "--topology", "v4:1x1x1"),
    ("sample.py", "--model", "350M")])
def test_flags_of_a_plan_without_plan_do_nothing_else(script, flag, value, tmp_path):
    """Neither trains nor samples."""
    args = [flag, *filter(None, [value])] + (["--ckpt", tmp_path] if script == "sample.py" else [])
    done = subprocess.run([sys.executable, ROOT / script, *args], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "--plan" in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert not list(tmp_path.iterdir())


SLICES = ["v4:1x1x1", "v4:2x2x1", "v4:2x2x4", "v4:4x4x8", "v4:8x8x4", "v4:16x16x16", "v5p:4x4x2", "v5p:16x16x24",
          "v5e:1x1", "v5e:2x4", "v5e:16x16", "v6e:4x4", "v6e:8x16"]


@pytest.mark.parametrize("text", SLICES)
def test_slices_that_there_are(text):
    chip, sides = parse_topology(text)
    assert chip is CHIPS[text.split(":")[0]] and "x".join(map(str, sides)) == text.split(":")[1]


@pytest.mark.parametrize("text", [
    "v5e:4x4x4", "v4:4x4", "v4:0x4x4", "v4:4x4x0", "v5e:0x0", "v4:3x3x3", "v4:2x2x8", "v5e:2x8", "v6e:3x3", "v6e:32x16",
    "v4:32x32x32", "v5p:99999x99999x99999", "v4:" + "9" * 5000, "v4", "v4:", ":", "v4:4", "v4:4x4x4x4", "v4:-4x4x4",
    "v4:4x4x\u0664", "v4:4x4x4 ", "v4:4x4x4\n", "nan", "inf"])
def test_slices_that_no_chip_has_are_refused(text):
    """Before the compiler, which ends the process at some of them."""
    with pytest.raises(ValueError, match="--topology"):
        parse_topology(text)


@pytest.mark.parametrize("text", SLICES)
def test_every_mesh_of_a_slice_has_an_order(text):
    """Those that split a side too, with each chip once."""
    chip, sides = parse_topology(text)
    for tp, dp in itertools.product((1, 2, 4, 8), (1, 2, 4, 16)):
        fsdp, rest = divmod(math.prod(sides), tp * dp)
        if rest == 0:
            coords = places(chip, sides, dp, fsdp, tp)
            assert coords.shape == (dp, fsdp, tp, 3)
            assert len(set(map(tuple, coords.reshape(-1, 3)))) == math.prod(sides)
            assert coords.reshape(-1, 3).max(0).tolist()[:len(sides)] == [n - 1 for n in sides]


def test_neighbours_on_a_split_side():
    """v6e:4x4: the chips of fsdp 8 are two rows of four, beside the other two; 3 chips of 4 stay as they are listed."""
    grid = places(CHIPS["v6e"], (4, 4), 2, 8, 1)[:, :, 0, :2]
    for half in grid:
        spans = half.max(0) - half.min(0) + 1
        assert sorted(spans.tolist()) == [2, 4]
    left = [Place((i % 2, i // 2, 0), "TPU v4") for i in range(3)]
    assert device_grid(left, 1, 3, 1).ravel().tolist() == left


@pytest.mark.parametrize("topology, mesh", [("v6e:4x4", (2, 8, 1)), ("v4:2x2x4", (2, 4, 2))])
def test_the_compiler_has_the_order_of_the_formula(topology, mesh):
    pytest.importorskip("libtpu", reason="libtpu, the TPU compiler, is not installed")
    chip, sides = parse_topology(topology)
    np.testing.assert_array_equal(coordinates(topology_mesh(topology, *mesh).devices), places(chip, sides, *mesh))


def test_a_split_side_compiles():
    pytest.importorskip("libtpu", reason="libtpu, the TPU compiler, is not installed")
    done = plan("--model", "0.1M", "--topology", "v6e:4x4", "--dp", 2, "--fsdp", 8, "--batch_size", 16)
    row = json.loads(done.stdout.splitlines()[-1])
    assert row["compiled"] and row["fits"] and row["mesh"] == dict(dp=2, fsdp=8, tp=1)


def test_the_search_tries_meshes_that_split_a_side():
    config = CONFIGS["350M"]
    hyper = train.Hyper(batch_size=256, remat="layer")
    meshes = {tuple(p["mesh"].values()) for p in better_plans(config, hyper, "v4:8x8x4", 1e9, [256])}
    assert (16, 16, 1) in meshes and (2, 128, 1) in meshes


def test_plan_counts_weights_and_cache():
    *_, last = plan("--model", "350M", "--topology", "v5p:1x1x1", "--num_samples", 8, script="sample.py").stdout.splitlines()
    row = json.loads(last)
    assert row["weight_bytes"] == 4 * 356_712_448
    assert row["cache_bytes"] == 2 * 20 * 8 * 2048 * 1024 * 4          # keys and values, layers, rows, context, width, bytes
    assert row["step_seconds"] >= (row["weight_bytes"] + row["cache_bytes"]) / 2.8e12      # nothing reads faster than HBM
    done = plan("--model", "nope", script="sample.py", ok=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "350M" in done.stderr


# ---- sampling ----

def hidden_compiler(folder):
    """An environment in which libtpu is not found."""
    (folder / "sitecustomize.py").write_text(
        "import importlib.util as u\nreal = u.find_spec\nu.find_spec = lambda n, *a: None if n == 'libtpu' else real(n, *a)\n")
    return dict(PYTHONPATH=str(folder))


def test_sampling_by_formula(tmp_path):
    """Two copies of two chips: a chip holds half of the matrices and of the keys and values of half of the rows."""
    done = plan("--model", "3M", "--topology", "v4:2x2x1", "--dp", 2, "--tp", 2, "--num_samples", 8, "--dtype", "bfloat16",
                script="sample.py", env=hidden_compiler(tmp_path))
    row, c = json.loads(done.stdout.splitlines()[-1]), CONFIGS["3M"]
    assert "libtpu is not installed" in done.stdout and row["fits"] and not row["compiled"]
    assert (row["chips"], row["mesh"], row["rows"]) == (4, dict(dp=2, tp=2), 8)
    matrices = 12 * c.n_layer * c.n_embd ** 2 + 2 * c.vocab_size * c.n_embd
    assert row["weight_bytes_per_chip"] == pytest.approx(2 * matrices / 2, rel=0.02)        # vectors are float32
    assert row["cache_bytes"] == 2 * c.n_layer * 8 * c.block_size * c.n_embd * 2
    assert row["cache_bytes_per_chip"] == row["cache_bytes"] / 4
    over = {tuple(m["axes"]): m for m in row["collectives"]}
    assert over["tp",]["count"] == c.n_layer + 11 and set(over) == {("tp",), ("dp",)}
    assert over["tp",]["bytes"] == (c.n_layer + 1) * 4 * c.n_embd * 2 + 4 * 4 * (4 + 6 * 31)
    assert row["tokens_per_s"] == pytest.approx(8 / row["step_seconds"], rel=1e-3)
    assert row["humaneval"]["hours"] > 0 and row["mtpb"]["hours"] > 0


def test_what_does_not_fit_names_flags_that_fit(tmp_path):
    """16.1B with 64 rows: the flags that are named, given to the same command, fit."""
    env = hidden_compiler(tmp_path)
    done = plan("--model", "16.1B", "--topology", "v4:2x2x1", "--tp", 4, "--num_samples", 64, script="sample.py", env=env)
    assert not json.loads(done.stdout.splitlines()[-1])["fits"]
    line, = (line for line in done.stdout.splitlines() if line.startswith("does not fit"))
    flags = line.partition("try ")[2].split()
    assert "--dtype" in flags, line
    again = plan("--model", "16.1B", *flags, script="sample.py", env=env)
    assert json.loads(again.stdout.splitlines()[-1])["fits"] and "does not fit" not in again.stdout
    one = plan("--model", "16.1B", "--topology", "v4:1x1x1", "--dtype", "bfloat16", script="sample.py", env=env)
    assert "try --topology v4:2x2x1" in one.stdout, one.stdout           # a chip holds 32 GiB, the weights have 30


@pytest.mark.parametrize("args, words", [
    (("--topology", "v4:2x2x1", "--tp", 2), "4 chips"), (("--topology", "v4:2x2x2", "--tp", 8), "--tp"),
    (("--topology", "v6e:2x4", "--tp", 8, "--model", "toy"), "--tp"), (("--ckpt", "out"), "--ckpt")])
def test_a_sampling_plan_that_makes_no_sense_is_one_line(args, words):
    done = plan(*args, script="sample.py", ok=False)
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("topology, dp, tp, dtype", [
    ("v4:2x2x1", 2, 2, "bfloat16"), ("v4:2x2x1", 4, 1, "float32")])
def test_the_compiled_sampling_is_that_of_the_formula(topology, dp, tp, dtype):
    """Memory and traffic within a factor of 1.5, collectives exactly."""
    pytest.importorskip("libtpu", reason="libtpu, the TPU compiler, is not installed")
    config = dataclasses.replace(CONFIGS["350M"], dtype=dtype)
    texts = sampling.Texts(config, 64, 2048, dp, tp)
    found, why = sampling.works_of(texts, topology_mesh(topology, dp, 1, tp))
    counted = sampling.estimate(texts)
    held = sampling.weight_bytes(config, tp) + sampling.cache_bytes(texts, 2048)
    assert not why
    for program, work in found.items():
        assert held + work.temp == pytest.approx(held + counted[program].temp, rel=0.5), program
        assert counted[program].hbm / 1.5 < work.hbm < counted[program].hbm * 1.5, program
        assert work.moves == counted[program].moves, program


def test_the_protocols_are_those_of_the_official_files(monkeypatch):
    """Problems, pieces of prompts and tokens, counted in the files; a filled-up batch costs as much as a full one."""
    folder = os.environ.get("CODEGEN_BENCHMARKS")
    if not folder:
        pytest.skip("CODEGEN_BENCHMARKS names no folder with the official files")
    tokenizer = get_tokenizer("codegen")
    count = lambda text: len(tokenizer.encode(text))
    pieces = lambda texts: -(-max(map(count, texts)) // protocols.PIECE)
    ours, prompts = protocols.humaneval(256), [
        p["prompt"] for p in humaneval.read_problems(Path(folder) / "HumanEval.jsonl.gz").values()]
    assert ours.room == max(map(count, prompts)) + 256 and ours.makes == 164 * 256
    assert (ours.problems, ours.reads) == (len(prompts), sum(pieces([p]) for p in prompts))
    ours, problems = protocols.mtpb(), mtpb.read_problems(Path(folder) / "mtpb.jsonl")
    limits = [p.get("max_gen_length", mtpb.MAX_GEN_LENGTH) * len(p["prompts"]) for p in problems]
    turns = [[("\n\n" if i else PREFIX) + text for text in said] for p in problems
             for i, said in enumerate(zip(*(mtpb.asks(p, case, "multi") for case in range(5))))]
    assert (ours.problems, ours.makes, ours.reads) == (len(problems), sum(limits), sum(map(pieces, turns)))
    monkeypatch.setattr(sample.jax, "default_backend", lambda: "tpu")
    assert sample.piece() == protocols.PIECE


def test_hours_of_a_protocol():
    """200 samples are 4 batches of 64 rows, 1 of 200, and half a batch of 400 where problems share one."""
    alone, shared = protocols.mtpb(), protocols.humaneval(256)
    assert [protocols.batches(alone, n) for n in (64, 200, 400)] == [4, 1, 1]
    assert [protocols.batches(shared, n) for n in (64, 200, 400)] == [4, 1, 0.5]
    assert protocols.hours(shared, 100, 0.01, 0.5) == pytest.approx(3 * 2 * (178 * 0.5 + 164 * 256 * 0.01) / 3600)


def test_a_loop_asks_all_ranks_once_more_than_it_runs():
    """Its condition has a sum over fsdp."""
    asks = HLO.replace("  ROOT %lt", "  %more = s32[4]{0} all-reduce(%t), channel_id=3, "
                       "replica_groups=[4,2]<=[2,2,2]T(0,2,1), to_apply=%add\n  ROOT %lt")
    _, found = read_program(asks, dict(dp=2, fsdp=2, tp=2))
    assert {c.count for c in found if c.axes == ("fsdp",)} == {5 + 6}


def test_a_slice_is_read_once_wherever_its_place_lies():
    """The index of the slice lies in HBM here, and costs its own 4 bytes."""
    before, _ = read_program(HLO, dict(dp=2, fsdp=2, tp=2))
    after, _ = read_program(HLO.replace("s32[]{:S(6)}", "s32[]"), dict(dp=2, fsdp=2, tp=2))
    assert after == before + 5 * 4
