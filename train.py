"""Train a CodeGen: the paper's optimizer and schedule, one sharded step, one loop.

    python train.py                             the toy model on the miniature corpus, no download
    python train.py --init_from resume          go on where it stopped
    python train.py --init_from out --data miniature:mono --out_dir out-mono
                                                weights only, as from NL to MULTI to MONO
    python train.py --model 350M --data DIR --dp 2 --fsdp 4
                                                a folder made by data.py, on 8 chips
    python train.py --model 16.1B --topology v4:8x8x4 --fsdp 64 --tp 4 --plan
                                                what it takes on a TPU that is not here
"""
from harness.cli import cli, stop_on_signal, unheard
from harness.folder import METRICS, take_run
from harness.hosts import agree, end_together, join, say, together

import dataclasses
import json
import math
import time
from functools import partial
from pathlib import Path

from fast.compiler import compiler_options
from fast.pages import huge_pages

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

import model
import tpu_mesh
from data import get_sequences, open_data
from model import FSDP_AXIS, flops_per_token, init_params, loss_fn, num_params, param_table
from tpu_mesh import DATA, vary, varying

# What each preset is trained with when no flag says otherwise. The large ones are those of
# jaxformer's configurations for the Pile; 16.1B has no released one. The cosine goes from lr_max to
# lr_end. "finetune" is for imported weights: as the released fine-tuning example.
#
#              tokens    steps    lr_max   lr_end   warm-up   cosine
#              a step                               steps     steps
RECIPES = {
    "0.1M":     (4096,       800,  6e-3,    3e-4,       50,      750),
    "0.3M":     (4096,       800,  5e-3,    3e-4,       50,      750),
    "toy":      (4096,       800,  4e-3,    2e-4,       50,      750),
    "3M":       (4096,       800,  3e-3,    1e-4,       50,      750),
    "350M":     (2 ** 19, 350000,  3.0e-4,  3.0e-5,   3000,   300000),
    "1B":       (2 ** 19, 350000,  2.0e-4,  2.0e-5,   3000,   300000),
    "2.7B":     (2 ** 20, 350000,  1.6e-4,  1.6e-5,   3000,   300000),
    "6.1B":     (2 ** 20, 350000,  1.2e-4,  1.2e-5,   3000,   300000),
    "16.1B":    (2 ** 21, 350000,  0.9e-4,  0.9e-5,   3000,   300000),
    "finetune": (2 ** 16,   1000,  1.0e-5,  1.0e-6,    100,      900),
}


@dataclasses.dataclass(frozen=True)
class Hyper:
    """What the compiled step depends on, beside the model's Config."""
    batch_size: int = 16            # sequences a step
    grad_accum: int = 1             # parts of a batch, one after another
    lr_max: float = 1e-3
    lr_end: float = 1e-4
    warmup_steps: int = 100
    anneal_steps: int = 1000
    weight_decay: float = 0.1       # of matrices
    grad_clip: float = 1.0          # the largest norm of the gradients, 0: any
    z_loss: float = 1e-4            # weight of the squared log normalizer
    remat: str = "none"             # what the backward pass computes again (fast/remat.py)


# ---- schedule and optimizer ----------------------------------------------------------------------

def learning_rate(step, lr_max, lr_end, warmup_steps, anneal_steps):
    """Linear warm-up, then a cosine over `anneal_steps`, then flat (jaxformer:
    create_lr_schedule_gpt3_fn).

        lr = lr_max * step / warmup                                 step <= warmup
        lr = lr_max - (lr_max - lr_end) * (1 - cos(pi * x)) / 2     x = (step - warmup) / anneal,
                                                                    at most 1
    Steps count from 0, so that the very first update has rate 0, as in the released trainer.
    """
    x = jnp.clip((step - warmup_steps) / max(1, anneal_steps), 0, 1)
    cosine = lr_max - (lr_max - lr_end) * (1 - jnp.cos(jnp.pi * x)) / 2
    return jnp.where(step <= warmup_steps,
                     lr_max * jnp.clip(step / max(1, warmup_steps), 0, 1), cosine)


def adamw(params, grads, m, v, step, lr, decay, b1=0.9, b2=0.999, eps=1e-8):
    """Adam with decoupled weight decay (paper, section 2.3). All trees: name -> array; decay:
    name -> rate. -> (params, m, v)

        m <- b1 m + (1 - b1) g          v <- b2 v + (1 - b2) g^2
        p <- p - lr ( (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) + decay p )
    """
    t = (step + 1).astype(jnp.float32)
    new_params, new_m, new_v = {}, {}, {}
    for n, g in grads.items():
        new_m[n] = b1 * m[n] + (1 - b1) * g
        new_v[n] = b2 * v[n] + (1 - b2) * g * g
        update = (new_m[n] / (1 - b1 ** t)) / (jnp.sqrt(new_v[n] / (1 - b2 ** t)) + eps)
        new_params[n] = params[n] - lr * (update + decay[n] * params[n])
    return new_params, new_m, new_v


# ---- the train step ------------------------------------------------------------------------------
# Each chip has the gradients of its own rows. Where they are added up, for each mesh axis:
#
#                   split over     fsdp               dp                 tp
#     a matrix      fsdp, tp       gather's own       sum_over_data      never: each has its part
#                                  gradient
#     fc_in.bias    tp             sum_over_data      sum_over_data      never: each has its part
#     ln_1.scale    nothing        sum_over_data      sum_over_data      vary in the block
#
# On one device the axes are () and nothing is added.

def train_step(state, tokens, *, config, hyper, n_tokens, dp=(), fsdp=(), tp=()):
    """One update. state: dict(params, m, v, step), tokens: (B, T+1) of this data rank
    -> (state, metrics).

    The same function is the single-device step (axes ()) and the body of shard_map.
    """
    table = param_table(config)
    params, m, v, step = state["params"], state["m"], state["v"], state["step"]
    data = tuple(a for a in (dp, fsdp) if a)

    # Out here, once, the parameters begin to differ from data rank to data rank. So the gradients
    # stay local through the layers and the micro-batches, and are sent over dp once, as shards.
    local = {n: vary(p, data) for n, p in params.items()}
    micro = tokens.reshape(hyper.grad_accum, -1, tokens.shape[-1])                 # (A, b, T+1)
    loss = partial(loss_fn, config=config, n_tokens=n_tokens, z_loss=hyper.z_loss, tp=tp,
                   fsdp=fsdp, remat=hyper.remat)
    (total, nll), grads = sum_micro_batches(local, micro, loss)

    grads = sum_over_data(grads, data)
    total, nll = lax.psum(total, data), lax.psum(nll, data)

    norm = global_norm(grads)
    scale = jnp.minimum(1.0, hyper.grad_clip / (norm + 1e-12)) if hyper.grad_clip else 1.0
    lr = learning_rate(step, hyper.lr_max, hyper.lr_end, hyper.warmup_steps, hyper.anneal_steps)
    decay = {n: hyper.weight_decay if init else 0.0 for n, (_, _, init) in table.items()}
    grads = {n: g * scale for n, g in grads.items()}
    params, m, v = adamw(params, grads, m, v, step, lr, decay)
    return (dict(params=params, m=m, v=v, step=step + 1),
            dict(loss=nll, total_loss=total, grad_norm=norm, lr=lr))


def sum_micro_batches(params, tokens, loss):
    """The sum of the gradients of loss(params, micro) over tokens (A, b, T+1), A micro-batches one
    after another -> ((total, nll), grads).

    Made for params that already vary over the data axes: each rank adds up its own, with no
    reduction in the loop."""
    grad = jax.value_and_grad(loss, has_aux=True)
    if len(tokens) == 1:
        return grad(params, tokens[0])

    def add(sums, micro):
        return jax.tree.map(jnp.add, sums, grad(params, micro)), None

    shapes = jax.eval_shape(grad, params, tokens[0])
    zeros = jax.tree.map(lambda x: vary(jnp.zeros(x.shape, x.dtype), varying(x)), shapes)
    return lax.scan(add, zeros, tokens)[0]


def sum_over_data(grads, data):
    """Add the gradients up over the data axes. A matrix is left out over fsdp, because its gather
    has added it up there on the way back."""
    def left(name):
        return tuple(axis for axis in data if axis != "fsdp" or name not in FSDP_AXIS)

    return {n: lax.psum(g, left(n)) for n, g in grads.items()}


def global_norm(grads):
    """The norm of all gradients together: each is added up over just those axes on which its shards
    lie."""
    squares = (lax.psum(jnp.sum(g * g), tuple(sorted(varying(g)))) for g in grads.values())
    return jnp.sqrt(sum(squares))


def make_train_step(config, hyper, mesh):
    """The compiled step on a mesh: (state, tokens (B, T+1)) -> (state, metrics). The old state is
    given up."""
    def step(state, tokens):
        n_tokens = hyper.batch_size * (tokens.shape[-1] - 1)
        return train_step(state, tokens, config=config, hyper=hyper, n_tokens=n_tokens,
                          dp="dp", fsdp="fsdp", tp="tp")

    specs = state_specs(config)
    sharded = jax.shard_map(step, mesh=mesh, in_specs=(specs, P(DATA)), out_specs=(specs, P()))
    return jax.jit(sharded, donate_argnums=0, compiler_options=compiler_options(mesh))


def make_eval_loss(config, mesh):
    """(params, tokens (B, T+1)) -> mean cross-entropy of the batch."""
    def eval_loss(params, tokens):
        ranks = mesh.shape["dp"] * mesh.shape["fsdp"]
        n_tokens = ranks * tokens.shape[0] * (tokens.shape[1] - 1)
        params = {n: vary(p, DATA) for n, p in params.items()}
        _, nll = loss_fn(params, tokens, config, n_tokens, 0.0, "tp", "fsdp")
        return lax.psum(nll, DATA)

    specs = state_specs(config)["params"]
    return jax.jit(jax.shard_map(eval_loss, mesh=mesh, in_specs=(specs, P(DATA)), out_specs=P()))


# ---- the state: parameters, two moments, step ----------------------------------------------------

def state_specs(config):
    specs = {n: spec for n, (_, spec, _) in param_table(config).items()}
    return dict(params=specs, m=specs, v=specs, step=P())


def state_shardings(config, mesh):
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), state_specs(config),
                        is_leaf=lambda x: isinstance(x, P))


def fresh_state(key, config):
    params = init_params(key, config)
    zeros = {n: jnp.zeros_like(p) for n, p in params.items()}
    return dict(params=params, m=zeros, v=dict(zeros), step=jnp.int32(0))


def init_state(seed: int, config, mesh):
    """Fresh weights and zero moments, made in place on the mesh: no host ever holds a whole large
    matrix."""
    init = jax.jit(partial(fresh_state, config=config), out_shardings=state_shardings(config, mesh))
    return init(jax.random.key(seed))


def flatten(state) -> dict:
    """The state as one flat dict of arrays, "params/wte", "m/wte", ..., as checkpoints hold it."""
    return {f"{part}/{n}": a for part in ("params", "m", "v") for n, a in state[part].items()}


def load_state(folder, config, mesh, parts):
    """Parts ("params", "m", "v") of a checkpoint on a mesh -> {part: {name: array}}."""
    to = tpu_mesh.shardings(param_table(config), mesh)
    wanted = {f"{part}/{n}": jax.ShapeDtypeStruct(shape, jnp.float32, sharding=to[n])
              for part in parts for n, (shape, _, _) in param_table(config).items()}
    flat = tpu_mesh.load_arrays(folder, wanted)
    return {part: {n: flat[f"{part}/{n}"] for n in to} for part in parts}


# ---- the loop ------------------------------------------------------------------------------------

AGREE = 10          # steps after which several processes ask each other whether one is to stop
VAL_BATCHES = 4     # of an evaluation


def train(run):
    """Batch, step, read what came out, evaluate, save, leave."""
    asked, args = stop_on_signal(), run.args
    while run.done < run.steps:
        run.step()
        if run.data.meta["sequences"]["val"] and args.eval_every and run.is_due(args.eval_every):
            run.evaluate()
        stop = run.signal_of(asked)
        if run.is_due(args.save_every) or stop:
            run.save()
        if stop:
            run.leave(stop)
    run.finish_save()
    run.bar.close()


class Run:
    """A run under way: its state on the mesh, its place in the data, and its folder. The methods
    stand in the order in which a step calls them."""

    def __init__(self, args, config, hyper, steps, data, mesh, source, first, place):
        """Take the folder and put the state on the mesh. first: the step, and place: the sequence
        of the training data, at which it begins."""
        self.args, self.config, self.hyper, self.data = args, config, hyper, data
        self.first = self.done = first
        self.steps, self.place = steps, place
        self.mesh, self.peak = mesh, tpu_mesh.peak_flops(mesh)
        self.part, self.parts = tpu_mesh.batch_rows(mesh)
        self.out, self.lead = Path(args.out_dir), jax.process_index() == 0
        before = source if args.init_from == "resume" else None
        self.lock = together(lambda: take_run(self.out, first, before))
        self.state = self.first_state(source)
        self.step_fn = make_train_step(config, hyper, mesh)
        self.eval_fn = make_eval_loss(config, mesh)
        self.pending, self.val, self.wait_for_save = None, None, lambda: None
        self.clock = time.perf_counter()
        self.bar = tqdm(total=steps, initial=first, unit="step", disable=not self.lead,
                        dynamic_ncols=True, smoothing=0.05)

    def first_state(self, source):
        """A checkpoint's, a fresh one, or a fresh one with the weights of another model."""
        if self.args.init_from == "resume":
            step = jax.device_put(jnp.int32(self.first), NamedSharding(self.mesh, P()))
            arrays = load_state(source, self.config, self.mesh, ("params", "m", "v"))
            return arrays | dict(step=step)
        state = init_state(self.args.seed, self.config, self.mesh)
        if source:
            state["params"] = model.load_params(source, self.config, self.mesh,
                                                mp_num=self.args.mp_num)
        return state

    def step(self):
        """Start a step, and read the metrics of the one before while it runs: the device never
        waits for the host."""
        self.state, metrics = self.step_fn(self.state, self.batch("train", self.place))
        self.done, self.place = self.done + 1, self.place + self.hyper.batch_size
        self.read_metrics()
        self.pending = (self.done, metrics)

    def batch(self, split, first):
        """A batch from the sequence `first` of a split on, placed on the mesh."""
        rows = get_sequences(self.data, split, self.args.seed, first, self.hyper.batch_size,
                             self.part, self.parts)
        return tpu_mesh.place_batch(rows, self.mesh)

    def read_metrics(self):
        """Wait for the metrics of the last step, and write them down. A NaN ends the run."""
        if not self.pending:
            return
        (step, metrics), self.pending = self.pending, None
        row = {name: float(metrics[name]) for name in ("loss", "lr", "grad_norm")}
        if not math.isfinite(row["loss"] + row["grad_norm"]):
            self.bar.close()
            why = (f"step {step}: loss {row['loss']}, gradient norm {row['grad_norm']}: stopped. "
                   f"The newest checkpoint in {self.out} is from before; try a lower --lr_max or "
                   "more --warmup_steps")
            raise SystemExit(why if self.lead else 1)
        now, length = time.perf_counter(), self.data.block_size
        rate, self.clock = self.hyper.batch_size * length / (now - self.clock), now
        flops = flops_per_token(dataclasses.replace(self.config, block_size=length))
        mfu = rate * flops / self.peak if self.peak else None
        row = dict(step=step) | row | dict(tokens_per_s=round(rate), mfu=mfu)
        if "val_loss" in metrics:
            row["val_loss"] = metrics["val_loss"]
        if self.lead:
            with open(self.out / METRICS, "a") as file:
                file.write(json.dumps(row) + "\n")
        self.bar.set_postfix_str(f"loss {row['loss']:.3f} · {rate:,.0f} tokens/s")
        self.bar.update()

    def is_due(self, every):
        """Whether something that happens every so many steps, and at the end, happens now."""
        return self.done == self.steps or every and self.done % every == 0

    def evaluate(self):
        """The mean loss of VAL_BATCHES batches of the validation split, which no training step
        reads."""
        size, metrics = self.hyper.batch_size, self.pending[1]
        batches = (self.batch("val", i * size) for i in range(VAL_BATCHES))
        losses = [float(self.eval_fn(self.state["params"], batch)) for batch in batches]
        self.val = metrics["val_loss"] = float(np.mean(losses))
        if self.lead:
            loss, norm = float(metrics["loss"]), float(metrics["grad_norm"])
            self.bar.write(f"step {self.done:>6}  loss {loss:.3f}  val_loss {self.val:.3f}  "
                           f"norm {norm:.2f}")

    def signal_of(self, asked):
        """The signal that asked one of the processes to stop, or 0; they agree now and then."""
        several = jax.process_count() > 1
        if several and self.done % AGREE:
            return 0
        stop = agree(asked[0] if asked else 0)
        if several:                         # a checkpoint gets its name once all have written
            self.finish_save()
        return stop

    def save(self):
        """Begin to write a checkpoint; a state that turned into NaN is never saved."""
        self.read_metrics()
        self.finish_save()
        args, tokenizer, files = self.args, self.data.tokenizer, []
        if tokenizer.endswith(".tiktoken"):         # one of its own: a copy goes along
            tokenizer, files = Path(tokenizer).name, [tokenizer]
        meta = dict(
            model=dataclasses.asdict(self.config), tokenizer=tokenizer, recipe=args.model,
            data=args.data, data_digest=self.data.digest, seed=args.seed, steps=self.steps,
            sequences=self.place, mesh=dict(self.mesh.shape), hyper=dataclasses.asdict(self.hyper))
        self.wait_for_save = tpu_mesh.begin_save(self.out, self.done, flatten(self.state), meta,
                                                 args.keep, files)

    def finish_save(self):
        """Wait until the last checkpoint is written. If that failed the run ends, in one line."""
        wait, self.wait_for_save = self.wait_for_save, lambda: None
        wait()

    def leave(self, stop):
        """The end before the end, by a signal."""
        self.finish_save()
        self.bar.close()
        if self.done < self.steps:
            say(f"stopped after step {self.done}, saved. The same command with --init_from resume "
                "goes on")
        else:
            say(f"all {self.steps} steps are done and saved")
        raise SystemExit(128 + stop)


# ---- the command ---------------------------------------------------------------------------------

def parser():
    """The parser of `python train.py`."""
    from runs.flags import parser
    return parser(__doc__)


def main():
    args = parser().parse_args()
    if args.plan or args.topology or args.search:
        from plan.training import main as plan_main
        return plan_main(args)
    from runs.settings import choose_settings, mesh_of, remarks, show
    from runs.source import check_data, open_source, place_of
    join(args.coordinator, args.num_processes, args.process_id)
    tpu_mesh.find_devices()
    source, meta = open_source(args)
    data = open_data(args.data)
    note = check_data(args, source, meta, data) if meta else ""
    config, hyper, steps = choose_settings(args, jax.default_backend(), data, meta)
    mesh = tpu_mesh.make_mesh(args.dp, args.fsdp, args.tp)
    tpu_mesh.check_divides(config, hyper.batch_size, hyper.grad_accum, args.dp, args.fsdp, args.tp)
    resumed, rows, length = args.init_from == "resume", hyper.batch_size, data.block_size
    say(f"model {args.model}: {num_params(config):,} parameters · mesh {show(mesh_of(args))} · "
        f"{rows} x {length} = {rows * length:,} tokens a step · {steps} steps · data {args.data}")
    if source:
        say(f"from {source}, " + (f"step {meta['step']}" if resumed else "weights alone"))
    say(*filter(None, [note, *remarks(args, config, hyper, steps, meta)]))
    first, place = place_of(meta) if resumed else (0, 0)
    run = Run(args, config, hyper, steps, data, mesh, source, first, place)
    train(run)
    if first >= steps:
        say(f"{source} is already at step {first}: raise --steps to train on")
    elif run.lead and data.meta.get("miniature") == "mono" and not args.no_benchmark:
        from miniature.closing import closing
        closing(run.out, run.val)


if __name__ == "__main__":
    with unheard():         # Python starts anew, and Ctrl-C would be a traceback of its imports
        huge_pages()
    cli(partial(end_together, main))
