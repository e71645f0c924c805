"""Laws of training: schedule, optimizer, sharded equals single, accumulation, resume, checkpoints that survive."""
from harness import hosts
from harness.cli import cli
from harness.devices import check_divides
from harness.folder import checkpoints, read_config_json

import dataclasses
import json
import os
import re
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import types
from functools import partial
from pathlib import Path

import corpora.tokenizer

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import data
import humaneval
import model
import sample
import tpu_mesh
import train
from model import Config, init_params, loss_fn, param_table
from runs import messages
from runs.settings import choose_settings, fit_to_data, remarks
from runs.source import check_data
from tpu_mesh import make_mesh
from train import Hyper, adamw, learning_rate, make_train_step, state_specs, train_step

ROOT = Path(__file__).parents[1]
TINY = Config(n_layer=3, n_head=8, n_embd=32, rotary_dim=4, block_size=16, vocab_size=96)
HYPER = Hyper(batch_size=8, lr_max=1e-2, lr_end=1e-3, warmup_steps=1, anneal_steps=10, grad_clip=0.5)
MESHES = [(2, 2, 2), (1, 1, 1), (2, 1, 4), (1, 2, 4), (8, 1, 1), (1, 8, 1), (4, 2, 1), (1, 1, 8)]


@partial(jax.jit, static_argnums=0)
def fresh_state(config=TINY):
    params = init_params(jax.random.key(0), config)
    params = {n: p + 0.1 * jax.random.normal(jax.random.fold_in(jax.random.key(9), i), p.shape)
              for i, (n, p) in enumerate(params.items())}
    # v as after some steps: from v = 0, Adam divides a gradient by its own size, and rounding noise decides its sign
    full = lambda x: {n: jnp.full_like(p, x) for n, p in params.items()}
    return dict(params=params, m=full(0), v=full(1e-6), step=jnp.int32(1))


def tokens_of(config=TINY, batch=8):
    return jax.random.randint(jax.random.key(1), (batch, config.block_size + 1), 0, config.vocab_size)


def place(state, mesh, config=TINY):
    return jax.tree.map(lambda a, s: jax.device_put(np.array(a), NamedSharding(mesh, s)), state, state_specs(config))


single_step = jax.jit(partial(train_step, config=TINY, hyper=HYPER, n_tokens=8 * TINY.block_size))


# ---- schedule and optimizer

def test_schedule():
    lr = partial(learning_rate, lr_max=1.0, lr_end=0.1, warmup_steps=10, anneal_steps=100)
    assert float(lr(0)) == 0 and float(lr(5)) == 0.5 and float(lr(10)) == 1
    assert float(lr(60)) == pytest.approx(0.55) and float(lr(110)) == pytest.approx(0.1)
    assert float(lr(1000)) == pytest.approx(0.1)


def test_adamw_equals_a_scalar_loop():
    p, m, v = 0.5, 0.0, 0.0
    state = [{"w": jnp.full((1,), x)} for x in (p, m, v)]
    for t, g in enumerate([0.3, -0.2, 0.7]):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        p -= 0.01 * (m / (1 - 0.9 ** (t + 1)) / ((v / (1 - 0.999 ** (t + 1))) ** 0.5 + 1e-8) + 0.1 * p)
        state = adamw(state[0], {"w": jnp.full((1,), g)}, state[1], state[2], jnp.int32(t), 0.01, {"w": 0.1})
    assert float(state[0]["w"][0]) == pytest.approx(p, rel=1e-5)


def test_decay_is_for_matrices_alone():
    """With a gradient of zero, a vector stays what it was and a matrix shrinks, layers stacked or not."""
    state = fresh_state()
    table = param_table(TINY)
    decay = {n: 0.1 if init else 0.0 for n, (_, _, init) in table.items()}
    zeros = {n: jnp.zeros_like(p) for n, p in state["params"].items()}
    new, _, _ = jax.jit(lambda p: adamw(p, zeros, zeros, zeros, jnp.int32(0), 1.0, decay))(state["params"])
    for n in table:
        vector = "bias" in n or "scale" in n
        assert (np.asarray(new[n]) == np.asarray(state["params"][n])).all() == vector, n


# ---- sharded equals single

@pytest.mark.parametrize("shape", MESHES)
def test_sharded_step_equals_single_device(shape):
    tokens = tokens_of()
    want, want_metrics = single_step(fresh_state(), tokens)
    mesh = make_mesh(*shape)
    step = make_train_step(TINY, HYPER, mesh)
    got, metrics = step(place(fresh_state(), mesh), jax.device_put(tokens, NamedSharding(mesh, P(("dp", "fsdp")))))
    for k in ("loss", "total_loss", "grad_norm", "lr"):
        np.testing.assert_allclose(metrics[k], want_metrics[k], rtol=1e-5)
    # m after one step is (1 - b1) x the clipped gradient: comparing it compares every gradient.
    for part, tol in (("m", 1e-6), ("params", 1e-5)):
        for n in want[part]:
            np.testing.assert_allclose(got[part][n], want[part][n], atol=tol, err_msg=f"{part}/{n}")


def test_gradients_of_the_single_step_are_those_of_the_loss():
    state, tokens = fresh_state(), tokens_of()
    grads = jax.jit(jax.grad(lambda p: loss_fn(p, tokens, TINY)[0]))(state["params"])
    norm = jnp.sqrt(sum(jnp.sum(g * g) for g in grads.values()))
    new, metrics = single_step(state, tokens)
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
    for n, g in grads.items():
        np.testing.assert_allclose(new["m"][n], 0.1 * g * min(1, 0.5 / norm), atol=1e-6)


def computations(hlo):
    """name -> body of each computation of a compiled program."""
    return {m[1]: m[2] for m in re.finditer(r"^(?:ENTRY )?%?([\w.-]+) [^\n]*\{\n(.*?)^\}", hlo, re.M | re.S)}


def test_collectives_of_the_compiled_step():
    """Over tp: one all-reduce a layer forward, one backward. Over fsdp: each of the four matrices gathered forward and
    its gradient reduce-scattered backward, inside the layers' loops. Over dp: nothing inside any loop, one after them."""
    config = dataclasses.replace(TINY, n_layer=9)                        # more than are unrolled: real loops
    mesh = make_mesh(2, 2, 2)
    hyper = dataclasses.replace(HYPER, remat="layer")
    specs = jax.tree.map(lambda s: NamedSharding(mesh, s), state_specs(config), is_leaf=lambda x: isinstance(x, P))
    state = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
                         jax.eval_shape(lambda: fresh_state(config)), specs)
    tokens = jax.ShapeDtypeStruct((8, 17), jnp.int32, sharding=NamedSharding(mesh, P(("dp", "fsdp"))))
    hlo = make_train_step(config, hyper, mesh).lower(state, tokens).compile().as_text()

    groups = {"tp": "{{0,1},{2,3},{4,5},{6,7}}", "fsdp": "{{0,2},{1,3},{4,6},{5,7}}", "dp": "{{0,4},{1,5},{2,6},{3,7}}"}
    iota = {"tp": "[4,2]<=[8]", "fsdp": "[4,2]<=[2,2,2]T(0,2,1)", "dp": "[4,2]<=[4,2]T(1,0)"}
    loops = set(re.findall(r"while\(.*?body=%?([\w.-]+)", hlo))
    count = {}
    for name, body in computations(hlo).items():
        for op, rest in re.findall(r" (all-reduce|all-gather|reduce-scatter)(?:-start)?\((.*)", body):
            axis = next((a for a in groups if groups[a] in rest.replace(" ", "") or iota[a] + "," in rest), "several")
            key = ("loop" if name in loops else "once", op, axis)
            count[key] = count.get(key, 0) + 1
    in_loop = {k[1:]: n for k, n in count.items() if k[0] == "loop"}
    assert in_loop[("all-reduce", "tp")] == 2, count                      # one forward, one backward
    assert in_loop[("all-gather", "fsdp")] == 8, count                    # four forward, four again under remat
    assert in_loop[("reduce-scatter", "fsdp")] == 4, count
    assert set(in_loop) == {("all-reduce", "tp"), ("all-gather", "fsdp"), ("reduce-scatter", "fsdp")}, count


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2)])
def test_accumulation_equals_the_large_batch(shape):
    tokens, mesh = tokens_of(batch=16), make_mesh(*shape)
    results = []
    for accum in (1, 4):
        hyper = dataclasses.replace(HYPER, batch_size=16, grad_accum=accum)
        # Micro-batches are cut from each rank's rows; which rows meet in one is of no matter to the sum.
        step = make_train_step(TINY, hyper, mesh)
        results.append(step(place(fresh_state(), mesh), jax.device_put(tokens, NamedSharding(mesh, P(("dp", "fsdp"))))))
    (a, ma), (b, mb) = results
    np.testing.assert_allclose(ma["loss"], mb["loss"], rtol=1e-6)
    np.testing.assert_allclose(ma["grad_norm"], mb["grad_norm"], rtol=1e-5)
    for n in a["m"]:
        np.testing.assert_allclose(a["m"][n], b["m"][n], atol=1e-6)


def test_one_reduction_over_dp_with_accumulation():
    """The loop over micro-batches holds no collective over dp: each rank adds up its own gradients first."""
    mesh = make_mesh(8, 1, 1)
    hyper = dataclasses.replace(HYPER, batch_size=32, grad_accum=4)
    state = place(fresh_state(), mesh)
    tokens = jax.device_put(tokens_of(batch=32), NamedSharding(mesh, P(("dp", "fsdp"))))
    hlo = make_train_step(TINY, hyper, mesh).lower(state, tokens).compile().as_text()
    loops = set(re.findall(r"while\(.*?body=%?([\w.-]+)", hlo))
    assert loops
    for name, body in computations(hlo).items():
        if name in loops:      # tp has one rank here: its all-reduces run over groups of one and move nothing
            groups = re.findall(r"all-reduce(?:-start)?\(.*?replica_groups=(\S+?), ", body)
            assert all(g.startswith(("{{0},{1}", "[8,1]")) for g in groups), groups


@pytest.mark.parametrize("dp, tp, parts", [(2, 4, [0, 0, 1, 1]), (8, 1, [0, 1, 2, 3]), (1, 8, [0, 0, 0, 0])])
def test_processes_that_differ_only_in_tp_feed_the_same_part_of_a_batch(dp, tp, parts, monkeypatch):
    chips = [types.SimpleNamespace(process_index=i // 2) for i in range(8)]      # 4 processes of 2 chips
    mesh = types.SimpleNamespace(devices=np.array(chips).reshape(dp, 1, tp), shape=dict(dp=dp, fsdp=1, tp=tp))
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    for process, part in enumerate(parts):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        assert tpu_mesh.batch_part(mesh) == (part, max(parts) + 1)


@pytest.mark.parametrize("sizes, flag", [(dict(tp=3), "--tp"), (dict(fsdp=3), "--fsdp"), (dict(dp=3), "--batch_size")])
def test_sizes_that_do_not_divide_name_the_flag(sizes, flag):
    with pytest.raises(ValueError, match=flag):
        check_divides(TINY, 8, 1, **(dict(dp=1, fsdp=1, tp=1) | sizes))


# ---- checkpoints

def checkpoint_of(tmp_path, shape, step=7):
    mesh = make_mesh(*shape)
    state = place(fresh_state(), mesh)
    return tpu_mesh.save_checkpoint(tmp_path, step, train.flatten(state), dict(model={}), keep=2), state


@pytest.mark.parametrize("written, read", [((1, 1, 1), (2, 2, 2)), ((2, 2, 2), (1, 1, 1)), ((1, 8, 1), (1, 2, 4))])
def test_any_mesh_reads_what_any_mesh_wrote(tmp_path, written, read):
    folder, state = checkpoint_of(tmp_path, written)
    got = train.load_state(folder, TINY, make_mesh(*read), ("params", "m", "v"))
    for part in got:
        for n, a in got[part].items():
            np.testing.assert_array_equal(a, state[part][n])
            assert a.sharding.spec == param_table(TINY)[n][1]


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 3):
        checkpoint_of(tmp_path, (1, 1, 1), step)
    assert [p.name for p in checkpoints(tmp_path)] == ["step_00000002", "step_00000003"]


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "json", "config"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_still_works(tmp_path, damage):
    before, _ = checkpoint_of(tmp_path, (1, 1, 1), 1)
    folder, _ = checkpoint_of(tmp_path, (1, 1, 1), 2)
    shards = folder / "shards_00000.bin"
    if damage == "flip":
        data = bytearray(shards.read_bytes())
        data[len(data) // 2] ^= 1
        shards.write_bytes(data)
    elif damage == "cut":
        os.truncate(shards, shards.stat().st_size // 2)
    elif damage == "missing":
        shards.unlink()
    else:
        (folder / ("index_00000.json" if damage == "json" else "config.json")).write_text("{")
    with pytest.raises(ValueError, match="step_00000002 is damaged"):
        train.load_state(folder, TINY, make_mesh(), ("params", "m", "v"))
    train.load_state(before, TINY, make_mesh(), ("params", "m", "v"))


@pytest.mark.parametrize("trouble", ["full", "removed"])
def test_a_checkpoint_that_cannot_be_written(tmp_path, trouble):
    """One clear line (an OSError, see data.cli), and the last good checkpoint is still there and whole."""
    run_folder = tmp_path / "run"
    good, _ = checkpoint_of(run_folder, (1, 1, 1), 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if trouble == "full":       # no file may grow beyond 10 kB: as on a full disk, a write fails in the middle
            resource.setrlimit(resource.RLIMIT_FSIZE, (10000, hard))
        else:                       # the folder is gone, and nothing can be made where it was
            good = run_folder.rename(tmp_path / "moved") / good.name
            run_folder.write_text("")
        with pytest.raises(OSError, match="step_00000002 could not be written .*checkpoint"):
            checkpoint_of(run_folder, (1, 1, 1), 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    train.load_state(good, TINY, make_mesh(), ("params", "m", "v"))
    assert checkpoints(good.parent) == [good] and not list(good.parent.glob("*.tmp"))


def test_another_shape_is_refused(tmp_path):
    folder, _ = checkpoint_of(tmp_path, (1, 1, 1))
    with pytest.raises(ValueError, match="shape"):
        train.load_state(folder, dataclasses.replace(TINY, vocab_size=192), make_mesh(), ("params",))


# ---- the command

@pytest.fixture(scope="module")
def tiny_data(tmp_path_factory):
    """A folder prepared by data.py from a few small files, for the runs below."""
    folder = tmp_path_factory.mktemp("src")
    for i in range(60):
        (folder / f"f{i}.py").write_text("\n".join(f"def f{i}_{j}(x):\n    return x + {i * j}\n" for j in range(20)))
    out = folder.parent / "tiny-data"
    run("data.py", "prepare", "--input", folder, "--out", out, "--tokenizer", "bytes", "--block_size", "32",
        "--val_fraction", "0.1")
    return out


def environment(devices=1):
    return os.environ | dict(XLA_FLAGS=re.sub(r"count=\d+", f"count={devices}", os.environ["XLA_FLAGS"]))


def run(script, *args, ok=True, devices=1):
    env = environment(devices)
    done = subprocess.run([sys.executable, ROOT / script, *map(str, args)], capture_output=True, text=True, env=env)
    if ok:
        assert done.returncode == 0, done.stderr
    return done


def train_args(data, out, steps, *more):
    return ("--data", data, "--model", "0.1M", "--block_size", 32, "--batch_size", 8, "--eval_every", 1000, "--out_dir", out,
            "--steps", steps, "--anneal_steps", 40, "--warmup_steps", 2, "--save_every", 5, *more)


def losses(out):
    return [json.loads(l)["loss"] for l in (Path(out) / "metrics.jsonl").read_text().splitlines()]


def weights(out):
    return (checkpoints(out)[-1] / "shards_00000.bin").read_bytes()


def test_resume_equals_the_straight_run_bit_for_bit_and_another_mesh_nearly(tmp_path, tiny_data):
    run("train.py", *train_args(tiny_data, tmp_path / "a", 20))
    run("train.py", *train_args(tiny_data, tmp_path / "b", 10))
    run("train.py", *train_args(tiny_data, tmp_path / "b", 20, "--init_from", "resume"))
    assert losses(tmp_path / "a") == losses(tmp_path / "b") and len(losses(tmp_path / "a")) == 20
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    run("train.py", *train_args(tiny_data, tmp_path / "c", 10))
    run("train.py", *train_args(tiny_data, tmp_path / "c", 20, "--init_from", "resume", "--fsdp", 2, "--tp", 2), devices=4)
    np.testing.assert_allclose(losses(tmp_path / "a"), losses(tmp_path / "c"), atol=1e-4)
    # A second run into the same folder must not overwrite the first.
    done = run("train.py", *train_args(tiny_data, tmp_path / "a", 20), ok=False)
    assert done.returncode == 2 and "already holds a run" in done.stderr and "Traceback" not in done.stderr
    # Weights alone: the step starts anew.
    run("train.py", *train_args(tiny_data, tmp_path / "d", 3, "--init_from", tmp_path / "a"))
    assert losses(tmp_path / "d")[0] < losses(tmp_path / "a")[0] - 0.5


def test_kill_in_the_middle_of_saving_loses_nothing(tmp_path):
    """A process saves one checkpoint after another and is killed at 8 moments: whatever is there always loads."""
    program = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import jax, numpy as np, tpu_mesh
from harness.folder import checkpoints
a = {{f"params/{{i}}": jax.numpy.full((200, 1000), float(i)) for i in range(6)}}
step = len(checkpoints({str(tmp_path)!r})) and int(checkpoints({str(tmp_path)!r})[-1].name[5:])
while True:
    step += 1
    tpu_mesh.save_checkpoint({str(tmp_path)!r}, step, {{n: x + step for n, x in a.items()}}, {{}})
    print("ready", flush=True)
"""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    seen = 0
    for i in range(8):
        p = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert p.stdout.readline() == "ready\n"
        time.sleep(0.02 + 0.037 * i)
        os.kill(p.pid, signal.SIGKILL)
        p.wait()
        found = checkpoints(tmp_path)
        if found:
            step = int(found[-1].name[5:])
            assert step >= seen
            seen = step
            want = {f"params/{i}": jax.ShapeDtypeStruct((200, 1000), jnp.float32, sharding=here) for i in range(6)}
            for n, a in tpu_mesh.load_arrays(found[-1], want).items():
                assert (np.asarray(a) == int(n[-1]) + step).all()
    assert seen > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_leaves(tmp_path, tiny_data, number):
    """Stopped somewhere in the middle: the last step is saved, every step is in the metrics, the code says which signal."""
    out = tmp_path / "s"
    args = [sys.executable, str(ROOT / "train.py"), *map(str, train_args(tiny_data, out, 4000, "--save_every", 100000))]
    p = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    metrics = out / "metrics.jsonl"
    while p.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") > 3):
        time.sleep(0.05)
    p.send_signal(number)
    shown, errors = p.communicate()
    assert p.returncode == 128 + number and "resume" in shown and "Traceback" not in errors, errors
    steps = int(checkpoints(out)[-1].name[5:])
    assert steps == len(losses(out))


def start_two(*args):
    """The same command as two processes with 4 devices each."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    return [subprocess.Popen([sys.executable, str(ROOT / "train.py"), *map(str, args), "--coordinator", f"127.0.0.1:{port}",
                              "--num_processes", "2", "--process_id", str(i)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True, env=environment(4)) for i in range(2)]


def one_line_of_the_end(errors):
    """Beside the progress bar, one line of ours and nothing of C++."""
    lines = [line for line in re.split("[\r\n]", errors) if line.strip()]
    others = [line for line in lines if "%|" not in line and not line.startswith("step ")]
    return len(others) == 1 and "another process has ended" in others[0]


def test_two_processes(tmp_path, tiny_data):
    """The losses of one process with 8 devices; a checkpoint that any number of devices reads; when one process is killed
    the other says so and ends; the same command resumes bit for bit; a SIGTERM to one saves and ends both."""
    mesh = ("--dp", 2, "--fsdp", 2, "--tp", 2, "--save_every", 10)
    two, one = tmp_path / "two", tmp_path / "one"
    run("train.py", *train_args(tiny_data, one, 20, *mesh), devices=8)
    for p in start_two(*train_args(tiny_data, two, 20, *mesh)):
        shown, errors = p.communicate(timeout=600)
        assert p.returncode == 0, errors
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-5)
    folder = checkpoints(two)[-1]
    config = Config(**read_config_json(folder)["model"])
    state = train.load_state(folder, config, make_mesh(), ("params",))["params"]
    for shape in ((1, 2, 1), (2, 2, 2)):
        for n, a in train.load_state(folder, config, make_mesh(*shape), ("params",))["params"].items():
            np.testing.assert_array_equal(a, state[n])

    def running(p, steps):
        while p.poll() is None and len(losses(two)) < steps:
            time.sleep(0.05)

    lead, other = start_two(*train_args(tiny_data, two, 4000, *mesh, "--init_from", "resume"))
    running(lead, 32)
    other.kill()
    _, errors = lead.communicate(timeout=60)
    assert lead.returncode == 3 and one_line_of_the_end(errors), errors
    other.communicate()
    at, lost = int(checkpoints(two)[-1].name[5:]), losses(two)
    assert 20 <= at and at + 1 < len(lost)
    lead, other = start_two(*train_args(tiny_data, two, 4000, *mesh, "--init_from", "resume"))
    running(lead, len(lost) + 2)
    lead.kill()                     # it is the one to which the others hold
    shown, errors = other.communicate(timeout=60)
    assert other.returncode == 3 and one_line_of_the_end(errors) and not shown, (shown, errors)
    lead.communicate()
    lost = losses(two)
    lead, other = start_two(*train_args(tiny_data, two, 4000, *mesh, "--init_from", "resume"))
    running(lead, len(lost) + 2)
    other.send_signal(signal.SIGTERM)
    for p in (lead, other):
        assert p.wait(timeout=120) == 128 + signal.SIGTERM, p.stderr.read()
    end = int(checkpoints(two)[-1].name[5:])
    assert end == len(losses(two)) and losses(two)[:len(lost)] == lost


def test_a_read_only_folder(tmp_path, tiny_data):
    """Resuming where nothing can be written: one line, and the checkpoint is as it was. root may write anywhere, so the
    folder is mounted read-only, in a namespace of its own."""
    out = tmp_path / "run"
    run("train.py", *train_args(tiny_data, out, 2))
    before = weights(out)
    namespace = ["unshare", "-rm", "sh", "-c", 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"', str(out)]
    if not shutil.which("unshare") or subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("no namespaces here to mount a folder read-only in")
    args = map(str, train_args(tiny_data, out, 4, "--init_from", "resume"))
    done = subprocess.run([*namespace, sys.executable, ROOT / "train.py", *args], capture_output=True, text=True,
                          env=environment())
    assert done.returncode == 2 and "Read-only file system" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert weights(out) == before and losses(out) == losses(out)[:2]


def test_nan_stops_the_run_and_names_the_step(tmp_path, tiny_data):
    flags = train_args(tiny_data, tmp_path / "n", 20, "--lr_max", "1e9", "--grad_clip", "1e9")
    done = run("train.py", *flags, ok=False)
    assert done.returncode == 1 and re.search(r"step \d+: loss", done.stderr) and "Traceback" not in done.stderr


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, tiny_data):
    for args, words in (
            (("--nonsense", "1"), "nonsense"), (("--model", "7B"), "7B"), (("--n_head", "5"), "--n_head"),
            (("--batch_size", "0"), "--batch_size"), (("--grad_accum", "0"), "--grad_accum"),
            (("--data", tmp_path / "nowhere"), "nowhere"), (("--init_from", tmp_path / "nowhere"), "nowhere"),
            (("--tp", "2"), "devices"), (("--steps", "x"), "steps")):
        done = run("train.py", "--data", tiny_data, "--out_dir", tmp_path / "x", *args, ok=False)
        assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr, (args, done.stderr)
    assert not (tmp_path / "x").exists()


# ---- a run that goes on is the same run

@pytest.fixture
def train_here(monkeypatch, tmp_path, tiny_data, capsys):
    """train.py in this process, in tmp_path, where d is a link to the tiny data -> what it
    printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "stop_on_signal", list)      # the signals belong to pytest
    Path("d").symlink_to(tiny_data)

    def run_it(*args):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, args)])
        train.main()
        return capsys.readouterr().out
    return run_it


SMALL = ("--data", "d", "--model", "0.1M", "--batch_size", 8, "--warmup_steps", 2,
         "--out_dir", "out")


def refused(run_it, *args, words):
    with pytest.raises(ValueError, match=words):
        run_it(*args)


def test_resume_alone_goes_on_bit_for_bit(train_here):
    """Every setting differs from the preset's; none is said again. The straight run saves at 3 and
    ends at 6."""
    flags = (*SMALL, "--lr_max", 1e-3, "--lr_end", 1e-5, "--weight_decay", 0.5, "--z_loss", 0,
             "--grad_clip", 0.3, "--anneal_steps", 3, "--grad_accum", 2, "--seed", 7, "--steps", 6)
    train_here(*flags, "--save_every", 3)
    want, final = losses("out"), weights("out")
    shutil.rmtree("out/step_00000006")
    shown = train_here("--init_from", "resume")
    assert losses("out") == want and weights("out") == final and "otherwise" not in shown


def test_what_a_resumed_run_does_otherwise_is_said_in_one_line_each(train_here):
    train_here(*SMALL, "--steps", 2)
    shown = train_here("--init_from", "resume", "--steps", 4, "--lr_max", 1e-4,
                       "--batch_size", 4, "--weight_decay", 0)
    said = [line for line in shown.splitlines() if line.startswith("otherwise")]
    assert [line.split(": ")[1].split(" (")[0] for line in said] == [
        "batch_size 8 -> 4", "lr_max 0.006 -> 0.0001", "weight_decay 0.1 -> 0.0", "steps 2 -> 4"]
    meta = read_config_json("out/step_00000004")
    assert (meta["hyper"]["lr_max"], meta["steps"], meta["sequences"]) == (1e-4, 4, 2 * 8 + 2 * 4)


def test_another_batch_size_repeats_and_skips_no_sequence(train_here, monkeypatch):
    read, real = [], train.get_sequences

    def noted(data, split, seed, first, size, *more):
        read.extend(range(first, first + size) if split == "train" else ())
        return real(data, split, seed, first, size, *more)

    monkeypatch.setattr(train, "get_sequences", noted)
    train_here(*SMALL, "--steps", 3)
    train_here("--init_from", "resume", "--batch_size", 6, "--steps", 5)
    train_here("--init_from", "resume", "--batch_size", 2, "--steps", 6)
    assert read == list(range(3 * 8 + 2 * 6 + 2))


@pytest.mark.parametrize("flags, words", [
    (("--data", "other"), "other data"), (("--seed", 3), "--seed 0"),
    (("--n_layer", 3), "--n_layer"), (("--vocab_size", 2048), "--vocab_size"),
    (("--block_size", 16), "--block_size"), (("--model", "3M"), "--model 3M")])
def test_a_flag_that_would_break_the_run_is_refused(train_here, tiny_data, flags, words):
    """`other` has another byte somewhere, at the same length: the same name later on is other data,
    too."""
    train_here(*SMALL, "--steps", 2)
    shutil.copytree(tiny_data, "other")
    meta = json.loads(Path("other/meta.json").read_text())
    meta["shards"]["train"][0]["crc32"] ^= 1
    Path("other/meta.json").write_text(json.dumps(meta))
    before = losses("out")
    refused(train_here, "--init_from", "resume", "--steps", 3, *flags, words=words)
    if flags[0] == "--data":
        Path("d").unlink()
        Path("other").rename("d")
        refused(train_here, "--init_from", "resume", "--steps", 3, words=words)
    assert losses("out") == before and len(checkpoints("out")) == 1


def test_the_same_data_by_another_name_goes_on(train_here, tiny_data):
    train_here(*SMALL, "--steps", 2)
    for i, name in enumerate(("./d", "d/", tiny_data)):
        train_here("--init_from", "resume", "--data", name, "--steps", 3 + i)
    assert len(losses("out")) == 5


def test_a_shard_is_part_of_what_data_is(tmp_path):
    """Two corpora that differ in one character have the same counts, and are not the same data."""
    digests = []
    for name, digit in (("a", 1), ("b", 2)):
        documents = iter([[digit] * 40, [5] * 40])
        data.pack(documents, tmp_path / name, data.get_tokenizer("bytes"), 8, 0, 0)
        digests.append(data.open_data(tmp_path / name).digest)
    assert digests[0] != digests[1]


def test_a_tokenizer_is_its_vocabulary_and_its_cutting(tmp_path):
    miniature = data.get_tokenizer("miniature")
    copy = shutil.copy(ROOT / "miniature" / "miniature.tiktoken", tmp_path / "own.tiktoken")
    assert data.get_tokenizer(copy).identity == miniature.identity
    assert dataclasses.replace(miniature, pattern=r"\S+|\s+").identity != miniature.identity
    turned = dataclasses.replace(miniature, vocab=miniature.vocab[::-1])
    assert turned.identity != miniature.identity


def test_another_version_of_a_tokenizer_is_never_taken_for_the_same(train_here, monkeypatch, capsys):
    """Its name is the same, its ids mean other text: data and checkpoints are refused; what
    keeps no digest, as earlier versions wrote it, is opened and said."""
    miniature = data.get_tokenizer("miniature")
    documents = [miniature.encode(f"x = {i}\n" * 20) for i in range(40)]
    data.pack(iter(documents), Path("m"), miniature, 32, 0.1, 0)
    train_here(*SMALL[2:], "--data", "m", "--block_size", 32, "--steps", 2)
    here = checkpoints("out")[-1]
    sample.load("out")
    assert "which version" not in capsys.readouterr().err

    monkeypatch.setattr(corpora.tokenizer, "PATTERN", r"\S+|\s+")
    refused(train_here, "--data", "m", "--out_dir", "new", "--block_size", 32, "--steps", 2,
            words="^m was made with another version of tokenizer")
    refused(train_here, "--init_from", "resume", "--steps", 3, words="another version of tokenizer")
    refused(sample.load, "out", words="another version of tokenizer")
    assert not Path("new").exists()

    damage(here, lambda meta: meta.pop("tokenizer_digest"))
    sample.load("out")
    assert "out/step_00000002 does not say which version" in capsys.readouterr().err


# ---- whose folder it is

def test_a_folder_that_holds_a_run_is_never_taken_over(train_here):
    train_here(*SMALL, "--steps", 2)
    before = losses("out")
    for source in ("scratch", "out", "out/step_00000002"):
        refused(train_here, *SMALL, "--init_from", source, words="already holds a run")
    refused(train_here, *SMALL[:-1], "out/step_00000002", words="a model's own folder")
    assert losses("out") == before
    assert [p.name for p in checkpoints("out")] == ["step_00000002"]


def test_two_processes_on_one_folder(train_here):
    """The lock is another process's; killed with -9 it lets go."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom harness import folder\n" \
              "lock = folder.take_folder('out'); print('taken', flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"taken\n"
    refused(train_here, *SMALL, "--steps", 2, words="written by another process")
    other.kill()
    other.wait()
    train_here(*SMALL, "--steps", 2)


def test_only_what_we_made_is_ours(train_here):
    """Copies and a stranger's files stay, and are no checkpoint; leftovers of a killed run go at
    the next start."""
    train_here(*SMALL, "--steps", 4, "--save_every", 2)
    for name in ("step_00000002_good", "step_best", "step_99999999.bak", "step_123",
                 "step_000000002"):
        shutil.copytree("out/step_00000002", f"out/{name}")
    # Killed while writing, while deleting, and while deleting as an earlier version did.
    for name in ("step_00000006.tmp", "step_00000001.old", "step_00000001"):
        shutil.copytree("out/step_00000002", f"out/{name}")
        Path(f"out/{name}/config.json").unlink()
    shutil.copytree("out/step_00000002", "out/step_00000009.tmp")
    Path("out/step_00000009.tmp/notes.txt").write_text("a stranger's")
    Path("out/step_00000077.tmp").write_text("a stranger's")
    train_here("--init_from", "resume", "--steps", 6, "--keep", 1)
    assert sorted(p.name for p in Path("out").glob("step_*")) == [
        "step_000000002", "step_00000002_good", "step_00000006", "step_00000009.tmp",
        "step_00000077.tmp", "step_123", "step_99999999.bak", "step_best"]
    assert len(losses("out")) == 6


def test_metrics_of_a_stranger_stay(train_here):
    for out, content in (("csv", "epoch,loss\n1,2\n"), ("json", '{"epoch": 1}\n')):
        Path(out).mkdir()
        Path(out, "metrics.jsonl").write_text(content)
        refused(train_here, *SMALL[:-1], out, "--steps", 2, words="not of a run of ours")
        assert Path(out, "metrics.jsonl").read_text() == content


def test_a_torn_line_of_metrics(train_here):
    train_here(*SMALL, "--steps", 2)
    with open("out/metrics.jsonl", "a") as file:
        file.write('{"step": 3, "loss": 4.1, "lr": 0.0')
    train_here("--init_from", "resume", "--steps", 3)
    assert len(losses("out")) == 3


# ---- numbers, warm-up, context, tokenizers

def test_zero_switches_off(train_here):
    train_here(*SMALL, "--steps", 3, "--eval_every", 0, "--save_every", 0, "--grad_clip", 0)
    rows = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    assert not any("val_loss" in row for row in rows)
    assert [p.name for p in checkpoints("out")] == ["step_00000003"]


def test_no_clipping_leaves_gradients_as_they_are():
    new = {clip: single(clip)[0]["m"] for clip in (0, 1e30, 1e-3)}
    for n in new[0]:
        np.testing.assert_allclose(new[0][n], new[1e30][n], atol=1e-7)
    assert any(abs(new[0][n] - new[1e-3][n]).max() > 1e-4 for n in new[0])


def single(clip):
    hyper = dataclasses.replace(HYPER, grad_clip=clip)
    step = partial(train_step, config=TINY, hyper=hyper, n_tokens=8 * TINY.block_size)
    return jax.jit(step)(fresh_state(), tokens_of())


@pytest.mark.parametrize("before, after", [(True, "layer"), (False, "none")])
def test_a_run_of_an_earlier_version_goes_on(train_here, before, after):
    """Its config.json says remat true or false, which are layer and none."""
    train_here(*SMALL, "--steps", 1, "--eval_every", 0)
    folder = Path("out/step_00000001")
    meta = read_config_json(folder)
    meta["hyper"]["remat"] = before
    (folder / "config.json").write_text(json.dumps({n: v for n, v in meta.items() if n != "crc32"}))
    assert "otherwise" not in train_here(*SMALL[-2:], "--init_from", "resume", "--steps", 2,
                                         "--eval_every", 0).replace("otherwise than before: steps", "")
    assert read_config_json("out/step_00000002")["hyper"]["remat"] == after


def test_remat_is_none_products_or_layer():
    of = lambda *flags: choose_settings(
        train.parser().parse_args(["--model", "350M", *flags]), "gpu")[1].remat
    assert of() == of("--remat") == of("--remat", "layer") == "layer"
    assert of("--no-remat") == of("--remat", "none") == "none" and of("--remat=products") == "products"


def test_a_checkpoint_whose_embedding_was_split_by_columns_opens(tmp_path):
    """As earlier versions split it."""
    mesh, params = make_mesh(2, 2, 2), init_params(jax.random.key(0), TINY)
    old = state_specs(TINY)["params"] | dict(wte=P("tp", "fsdp"))
    arrays = {f"params/{n}": jax.device_put(a, NamedSharding(mesh, old[n])) for n, a in params.items()}
    folder = tpu_mesh.save_checkpoint(tmp_path, 1, arrays, dict(model=dataclasses.asdict(TINY)))
    found = train.load_state(folder, TINY, mesh, ["params"])["params"]
    assert found["wte"].sharding.spec == state_specs(TINY)["params"]["wte"] != old["wte"]
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_a_warm_up_fits_the_run_or_is_said():
    def of(*flags):
        args = train.parser().parse_args(["--model", "350M", *flags])
        args.seed, args.data = 0, "d"
        config, hyper, steps = choose_settings(args, "gpu")
        return hyper.warmup_steps, remarks(args, config, hyper, steps, None)
    assert of() == (3000, [])
    scaled, said = of("--steps", "2000")
    assert scaled == 200 and len(said) == 1 and "3000" in said[0]
    asked, said = of("--steps", "2000", "--warmup_steps", "3000")
    assert asked == 3000 and len(said) == 1 and "never" in said[0]


def test_products_are_bfloat16_on_an_accelerator_whatever_it_starts_from():
    meta = dict(model=dataclasses.asdict(TINY), hyper=dataclasses.asdict(HYPER), recipe="toy",
                step=1)
    of = lambda platform, meta, *flags: choose_settings(
        train.parser().parse_args(["--model", "toy", *flags]), platform, None, meta)[0].dtype
    for start in ("scratch", "some-folder"):
        flags = ("--init_from", start)
        assert of("gpu", meta, *flags) == "bfloat16" and of("cpu", meta, *flags) == "float32"
        assert of("tpu", meta, *flags, "--dtype", "float32") == "float32"
    assert of("gpu", meta, "--init_from", "resume") == "float32"        # the same run


def test_fine_tuning_keeps_the_models_context(train_here, tmp_path):
    """Sequences of 32 train a model of 64, which stays one; a model of 16 refuses them."""
    for size in (64, 16):
        config = dataclasses.replace(model.CONFIGS["0.1M"], block_size=size)
        params = init_params(jax.random.key(0), config)
        meta = dict(model=dataclasses.asdict(config), tokenizer="bytes", recipe="toy")
        arrays = {f"params/{n}": a for n, a in params.items()}
        tpu_mesh.save_checkpoint(f"from{size}", 0, arrays, meta)
    shown = train_here("--init_from", "from64", "--data", "d", "--batch_size", 8, "--steps", 2)
    assert "8 x 32 = 256 tokens a step" in shown
    assert read_config_json("out/step_00000002")["model"]["block_size"] == 64
    refused(train_here, "--init_from", "from16", "--data", "d", "--out_dir", "new",
            words="--block_size 16")
    assert not Path("new").exists()


def test_from_gpt2_to_codegen_and_to_nothing_else(train_here, tmp_path):
    try:
        tokenizers = {name: data.get_tokenizer(name) for name in ("gpt2", "codegen")}
    except ValueError:
        pytest.skip("GPT-2's vocabulary is not here")
    for name in (*tokenizers, "bytes"):
        data.pack(iter([[65] * 40, [66] * 40]), tmp_path / name, data.get_tokenizer(name), 16, 0, 0)
    args = train.parser().parse_args(["--init_from", "nl"])

    def move(old, new):
        args.data = new
        return check_data(args, "nl", dict(tokenizer=old), data.open_data(tmp_path / new))

    assert "50257" in move("gpt2", "codegen") and move("gpt2", "gpt2") == ""
    for old, new in (("codegen", "gpt2"), ("gpt2", "bytes"), ("bytes", "codegen")):
        with pytest.raises(ValueError, match="was trained with tokenizer"):
            move(old, new)
    config = dataclasses.replace(TINY, vocab_size=50257)
    with pytest.raises(ValueError, match="50295"):
        fit_to_data(args, config, {}, data.open_data(tmp_path / "codegen"), dict(model={}))


@pytest.mark.parametrize("flags, words", [
    (("--topology", "v4:2x2x2"), "--plan"), (("--search",), "--plan"), (("--plan",), "--topology"),
    (("--keep", "0"), "--keep"), (("--steps", "0"), "--steps"), (("--lr_max", "nan"), "--lr_max"),
    (("--seed", str(2 ** 70)), "--seed"), (("--out_dir", ""), "--out_dir"),
    (("--dp", "-1"), "--dp"), (("--mp_num", "8", "--out_dir", "new"), "--mp_num"),
    (("--mp_num", "8", "--out_dir", "new", "--init_from", "resume"), "--mp_num")])
def test_flags_that_cannot_be_honoured(flags, words, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", *flags])
    with pytest.raises(SystemExit) as end:
        cli(train.main)
    assert end.value.code == 2 and words in capsys.readouterr().err


# ---- damaged files of ours

def damage(folder, change):
    """Change config.json as a program would, its checksum with it."""
    meta = json.loads((folder / "config.json").read_text())
    del meta["crc32"]
    change(meta)
    (folder / "config.json").write_text(json.dumps(meta))


def test_every_flipped_bit_of_the_small_files_is_seen_or_means_nothing(tmp_path):
    """One bit in each byte of config.json and of the index in turn: refused, or read as it was."""
    folder, _ = checkpoint_of(tmp_path, (1, 1, 1))
    want = read_config_json(folder)
    config = bytearray((folder / "config.json").read_bytes())
    for i in range(len(config)):
        config[i] ^= 1 << i % 7
        (folder / "config.json").write_bytes(config)
        try:
            got = read_config_json(folder)
            assert all(got[k] == want[k] for k in want if k != "crc32")
        except ValueError as error:
            assert "damaged" in str(error)
        config[i] ^= 1 << i % 7
    (folder / "config.json").write_bytes(config)
    index = bytearray((folder / "index_00000.json").read_bytes())
    for i in range(0, len(index), 7):
        index[i] ^= 1 << i % 8
        (folder / "index_00000.json").write_bytes(index)
        with pytest.raises(ValueError, match="damaged"):
            tpu_mesh.read_index(folder, want)
        index[i] ^= 1 << i % 8


WRONG = (None, [], {}, "x", -1, 2 ** 70, 1.5, True)


def test_values_of_another_type_in_an_index_are_one_line(tmp_path):
    """The checksum set right, as a checkpoint of an earlier version has none."""
    folder, _ = checkpoint_of(tmp_path, (1, 1, 1))
    whole = json.loads((folder / "index_00000.json").read_text())
    damage(folder, lambda meta: meta.pop("files"))
    first = next(iter(whole))
    for path in (("shape",), ("dtype",), ("shards",), ("shards", 0), ("shards", 0, "begin"),
                 ("shards", 0, "shape"), ("shards", 0, "offset"), ("shards", 0, "crc32")):
        for wrong in WRONG:
            index = json.loads(json.dumps(whole))
            place = index[first]
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = wrong
            (folder / "index_00000.json").write_text(json.dumps(index))
            with pytest.raises(ValueError):
                train.load_state(folder, TINY, make_mesh(), ("params",))
    for text in ("[]", "null", "{", '{"params/wte": 3}', "[" * 10 ** 5):
        (folder / "index_00000.json").write_text(text)
        with pytest.raises(ValueError, match="damaged"):
            train.load_state(folder, TINY, make_mesh(), ("params",))


def test_values_of_another_type_in_a_config_are_one_line(train_here):
    """For each value that a resumed run needs, every wrong kind; and what an earlier version did
    not write."""
    train_here(*SMALL, "--steps", 2)
    folder = Path("out/step_00000002")
    whole = (folder / "config.json").read_text()
    for path in (("step",), ("num_processes",), ("tokenizer",), ("data",), ("recipe",), ("seed",),
                 ("model",), ("hyper",), ("model", "n_layer"), ("model", "vocab_size"),
                 ("hyper", "batch_size")):
        for wrong in WRONG:
            if (path[-1], wrong) == ("tokenizer", "x") or (path[-1], wrong) == ("data", "x"):
                continue        # a text as it should be; that there is no such thing is found later

            def change(meta):
                place = meta
                for key in path[:-1]:           # noqa: B023
                    place = place[key]
                place[path[-1]] = wrong         # noqa: B023
            damage(folder, change)
            refused(train_here, "--init_from", "resume", "--steps", 3, words="config.json|weights "
                                                                             "alone")
            (folder / "config.json").write_text(whole)
    damage(folder, lambda meta: meta["model"].update(dropout=0.1))
    refused(train_here, "--init_from", "resume", "--steps", 3, words="dropout")
    (folder / "config.json").write_text(whole)
    new = ("files", "steps", "sequences", "data_digest", "mesh")
    damage(folder, lambda meta: [meta.pop(key) for key in new])
    train_here("--init_from", "resume", "--steps", 3)
    assert len(losses("out")) == 3


@pytest.mark.parametrize("name", ["../../own.tiktoken", "/etc/own.tiktoken", "a/own.tiktoken"])
def test_a_tokenizer_outside_of_its_checkpoint_is_refused(tmp_path, name):
    folder, _ = checkpoint_of(tmp_path, (1, 1, 1))
    damage(folder, lambda meta: meta.update(model=dataclasses.asdict(TINY), tokenizer=name))
    with pytest.raises(ValueError, match="outside"):
        model.read_meta(folder)


# ---- processes and devices

@pytest.mark.parametrize("named, words", [
    (("word", 2, 0), "HOST:PORT"), (("host:0", 2, 0), "HOST:PORT"), (("host:x", 2, 1), "HOST:PORT"),
    ((None, 2, 0), "need --coordinator"), ((None, None, 0), "need --coordinator"),
    (("host:1", 2, 2), "the last is 1")])
def test_processes_that_are_named_wrongly(named, words):
    with pytest.raises(ValueError, match=words):
        hosts.join(*named)
    assert hosts.join(None, 1) is None


def test_a_port_that_is_taken():
    with socket.socket() as s:
        s.bind(("", 0))
        s.listen()
        with pytest.raises(ValueError, match="cannot be opened"):
            hosts.join(f"localhost:{s.getsockname()[1]}", 2, 0)


@pytest.mark.parametrize("process", [0, 1])
def test_others_that_do_not_come_are_named(process):
    """Process 1 never starts; or process 0, at an address where nobody answers."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom harness import hosts\n" \
              f"hosts.WAIT = 1; hosts.join('127.0.0.1:{port}', 2, {process})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    *before, line = done.stderr.strip().splitlines()
    assert done.returncode == 2 and "waited 1 seconds for" in line, done.stderr
    assert f"127.0.0.1:{port}" in line
    assert all(said.startswith("# waiting for") for said in before)


@pytest.mark.parametrize("platform", ["tpu", "cuda", "nonsense"])
def test_a_device_that_is_not_there_is_one_line(platform, tmp_path):
    done = subprocess.run([sys.executable, ROOT / "train.py", "--out_dir", tmp_path / "x"],
                          capture_output=True, text=True,
                          env=environment() | dict(JAX_PLATFORMS=platform))
    assert done.returncode == 2 and f"JAX_PLATFORMS is {platform}" in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1


def test_a_signal_ends_the_closing_benchmark(tmp_path):
    """SIGTERM while the held-out problems are sampled ends both processes at once."""
    program = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import pathlib, subprocess
from miniature.closing import closing
real = subprocess.Popen
child = "import os, sys, time; print(os.getpid(), file=sys.stderr, flush=True); time.sleep(100)"
subprocess.Popen = lambda command, **more: real([sys.executable, "-c", child], **more)
closing(pathlib.Path({str(tmp_path)!r}), None)
"""
    p = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    child = next(int(line) for line in p.stderr if line.strip().isdigit())
    p.send_signal(signal.SIGTERM)
    assert p.wait(timeout=30) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_training_on_own_files_ends_with_commands_that_go_on(train_here, tiny_data):
    """Each is one that its script reads, of this model; the prompt is a line of the files."""
    shown = train_here(*SMALL, "--steps", 1, "--out_dir", "o 1")
    lines = shown[shown.index("next:"):].splitlines()
    assert all(line.endswith(":") for line in lines[::2])
    commands = [shlex.split(line) for line in lines[1::2]]      # as zsh does, which knows no comment
    assert [script for _, script, *_ in commands] == ["sample.py", "sample.py", "humaneval.py"]
    parsers = {"sample.py": sample.parser(), "humaneval.py": humaneval.parser()}
    found = [parsers[script].parse_args(flags) for _, script, *flags in commands]
    assert {args.ckpt for args in found} == {"o 1"} and found[1].prompt is None
    assert re.fullmatch(r"def f\d+_\d+\(x\)?:?", found[0].prompt)


@pytest.mark.parametrize("meta, kinds", [
    ({"miniature": "nl"}, ["train.py"]), ({"miniature": "multi@12"}, ["train.py"]),
    ({"miniature": "mono"}, ["sample.py"] * 2), ({"filters": "prose"}, ["sample.py"] * 2)])
def test_what_comes_next_follows_from_the_data(meta, kinds, tiny_data):
    """The paper's next corpus from these weights; and prose is asked for no programs."""
    own = data.open_data(tiny_data)
    own = dataclasses.replace(own, meta=own.meta | {"filters": "code"} | meta)
    commands = [shlex.split(command) for command, _ in messages.next_commands(Path("out"), own)]
    assert [script for _, script, *_ in commands] == kinds
    if kinds == ["train.py"]:
        args = train.parser().parse_args(commands[0][2:])
        new = {"nl": "multi", "multi@12": "mono@12"}[meta["miniature"]]
        assert (args.init_from, args.data, args.out_dir) == ("out", f"miniature:{new}", f"out-{new}")


def test_a_run_says_that_no_loss_will_be_measured_where_there_is_no_text_for_it(monkeypatch):
    said = []
    monkeypatch.setattr(messages, "say", lambda *lines: said.extend(lines))
    monkeypatch.setattr(messages, "remarks", lambda *of: [])
    for sequences, every in ((0, 10), (1, 10), (0, 0)):
        packed = types.SimpleNamespace(block_size=8, meta={"sequences": {"val": sequences}})
        args = train.parser().parse_args(["--eval_every", str(every)])
        args.model = "toy"
        messages.announce(args, model.CONFIGS["toy"], train.Hyper(batch_size=2), 5, packed, None, None, "")
    assert [line for line in said if "val" in line] == [
        "the data has no validation split: no val_loss is measured"]


def test_the_line_of_the_files_is_whole_words_and_no_half_of_a_character():
    """Never from the middle of a line, never what a sequence cuts inside a character."""
    def opening(text, cut=0):
        ids = np.array(data.get_tokenizer("bytes").encode(text))
        ids = ids[:len(ids) - cut]
        packed = types.SimpleNamespace(
            tokenizer="bytes", meta={"sequences": {"val": 0, "train": 1}},
            sequences=lambda split: 1, read=lambda split, rows: [ids] * len(rows))
        return messages.opening(packed)

    assert opening("in the middle of it\n  indented by two\nimport this, that\n") == "import this, that"
    assert opening("\n" + "word " * 20) == ("word " * 8).rstrip()
    assert opening("\n" + "word " * 20 + "w") == ("word " * 8).rstrip()
    assert opening("\n今天天气很好，我们去公园。") == "今天天气很好，我们去公园。"
    assert opening("\n今天天气很好，我们去公园。", cut=1) == "今天天气很好，我们去公园"
    assert opening("one line alone, and it is long") == opening("\na\x1b[2Jbcdefghijkl\n") == ""


def test_processes_that_slurm_started_look_for_each_other(tmp_path):
    """As srun names them: process 1 of 2 waits for the first. By sbatch alone: said, and alone."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom harness import hosts\n" \
              "hosts.WAIT = 1; hosts.join(); print('alone')"
    task = dict(SLURM_JOB_ID="5", SLURM_NTASKS="2", SLURM_PROCID="1", SLURM_LOCALID="1")
    by_srun, by_sbatch = (subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True,
        env=environment() | task | more) for more in (dict(SLURM_STEP_NODELIST="localhost"), {}))
    assert by_srun.returncode == 2 and "waited 1 seconds for the other processes" in by_srun.stderr
    assert by_sbatch.stdout == "alone\n" and "SLURM_NTASKS is 2" in by_sbatch.stderr


def test_the_cpu_is_named_where_libtpu_would_look_for_a_tpu(monkeypatch):
    named = []
    config = types.SimpleNamespace(jax_platforms=None, update=lambda *what: named.append(what))
    monkeypatch.setitem(sys.modules, "jax", types.SimpleNamespace(config=config))
    monkeypatch.setattr(hosts, "Path", lambda name: types.SimpleNamespace(glob=lambda what: []))
    for there in ({"libtpu", "jax_plugins"}, set()):        # a GPU's plug-in, or nothing
        monkeypatch.setattr(hosts.importlib.util, "find_spec", there.__contains__)
        hosts.name_platform()
    assert not named
    monkeypatch.setattr(hosts.importlib.util, "find_spec", lambda name: name == "libtpu")
    hosts.name_platform()
    assert named == [("jax_platforms", "cpu")]
    config.jax_platforms = "tpu"                            # its owner has said it
    hosts.name_platform()
    assert len(named) == 1
