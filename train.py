"""Train a CodeGen: the paper's optimizer and schedule, one sharded step, one loop.

    python train.py                             the toy model on the miniature corpus, no download
    python train.py --init_from resume          go on where it stopped
    python train.py --init_from out --data miniature:mono --out_dir out-mono
                                                weights only, as from NL to MULTI to MONO
    python train.py --model 350M --data DIR --dp 2 --fsdp 4
                                                a folder made by data.py, on 8 chips
    python train.py --model 16.1B --topology v4:8x8x4 --dp 2 --fsdp 128 --plan
                                                what it takes on a TPU that is not here
"""
from harness.cli import cli, stop_on_signal, unheard
from harness.devices import check_divides, find_devices
from harness.folder import take_run
from harness.hosts import agree, end_together, join, together
from harness.metrics import Metrics

import dataclasses
from functools import partial
from pathlib import Path

from fast.compiler import compiler_options
from fast.pages import huge_pages
from fast.peak import peak_flops

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import model
import tpu_mesh
from data import get_sequences, open_data
from model import FSDP_AXIS, MATRICES, flops_per_token, init_params, loss_fn, param_table
from tpu_mesh import DATA, vary, varying_axes

# What each preset is trained with where no flag says otherwise. 350M to 6.1B: jaxformer's
# configurations for the Pile. 16.1B has none there: its batch is the paper's, its rates continue
# the series, its steps are those of the others. The four small ones are this project's own.
# "finetune" is for imported weights, as in the released fine-tuning example. A batch has
# (tokens a step) / block_size sequences. The cosine goes from lr_max to lr_end.
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
    grad_accum: int = 1             # micro-batches of a step, one after another, to save memory
    lr_max: float = 1e-3            # this and the next three: of learning_rate, below
    lr_end: float = 1e-4
    warmup_steps: int = 100
    anneal_steps: int = 1000
    weight_decay: float = 0.1       # of matrices
    grad_clip: float = 1.0          # gradients are scaled down to this norm; 0: never
    z_loss: float = 1e-4            # weight of lse^2 in the loss (model.cross_entropy)
    remat: str = "none"             # what the backward pass computes again (fast/remat.py)


# ---- schedule and optimizer ----------------------------------------------------------------------

def learning_rate(step, lr_max, lr_end, warmup_steps, anneal_steps):
    """Linear warm-up, then a cosine over `anneal_steps`, then flat (jaxformer:
    create_lr_schedule_gpt3_fn).

        lr = lr_max * step / warmup                                 step <= warmup
        lr = lr_max - (lr_max - lr_end) * (1 - cos(pi * x)) / 2     x = (step - warmup) / anneal,
                                                                    at most 1
    Steps count from 0, so the very first update has rate 0, as in the released trainer. Where
    warmup or anneal is 0, max(1, ...) keeps 0 / 0 out.
    """
    x = jnp.clip((step - warmup_steps) / max(1, anneal_steps), 0, 1)
    cosine = lr_max - (lr_max - lr_end) * (1 - jnp.cos(jnp.pi * x)) / 2
    warmup = lr_max * jnp.clip(step / max(1, warmup_steps), 0, 1)
    return jnp.where(step <= warmup_steps, warmup, cosine)


def adamw(params, grads, m, v, step, lr, decay, b1=0.9, b2=0.999, eps=1e-8):
    """Adam with decoupled weight decay (paper, section 2.3), t = step + 1. All trees: name ->
    array; decay: name -> rate. -> (params, m, v)

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


# ---- the state: parameters, two moments, step ----------------------------------------------------

def state_specs(config):
    """How each array of the state lies on the mesh: a moment as its parameter."""
    specs = {n: spec for n, (_, spec, _) in param_table(config).items()}
    return dict(params=specs, m=specs, v=specs, step=P())


def state_shardings(config, mesh):
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), state_specs(config))


def fresh_state(key, config):
    params = init_params(key, config)
    m = {n: jnp.zeros_like(p) for n, p in params.items()}
    v = {n: jnp.zeros_like(p) for n, p in params.items()}
    return dict(params=params, m=m, v=v, step=jnp.int32(0))


def init_state(seed: int, config, mesh):
    """Fresh weights and zero moments, made on the mesh: no host need hold a whole matrix."""
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


# ---- the train step ------------------------------------------------------------------------------
# Each chip has the gradients of its own rows of the batch. What adds them up over each mesh axis:
#
#                    split over   over fsdp           over dp          over tp
#     matrices       fsdp, tp     gather's backward   sum_over_data    nothing: parts of one weight
#     fc_in.bias *   tp           sum_over_data       sum_over_data    nothing: parts of one weight
#     ln_1, ln_f     nothing      sum_over_data       sum_over_data    vary's backward, in model.py
#     fc_out.bias    nothing      sum_over_data       sum_over_data    nothing: it is equal on all
#
# * and lm_head.bias. gather and vary stand in tpu_mesh.py, sum_over_data below.

def train_step(state, tokens, *, config, hyper, n_tokens, dp=(), fsdp=(), tp=()):
    """One update. state: dict(params, m, v, step), tokens: (B, T+1), this data rank's rows
    -> (state, metrics).

    n_tokens: how many targets the batch has on all ranks. dp, fsdp, tp: the names of the mesh's
    axes inside shard_map; left out, the same lines are the step of one device."""
    table = param_table(config)
    params, m, v, step = state["params"], state["m"], state["v"], state["step"]
    data_axes = tuple(axis for axis in (dp, fsdp) if axis)      # a data rank is a place on them

    # Data ranks hold equal copies: of vectors all ranks, of matrices those of dp. JAX would add up
    # the copies' gradients at each use, in each layer and micro-batch. vary types the copies as
    # different (tpu_mesh.py), so their gradients stay apart, and sum_over_data adds them up once.
    own = {n: vary(p, data_axes) for n, p in params.items()}
    micro = tokens.reshape(hyper.grad_accum, -1, tokens.shape[-1])                 # (A, b, T+1)
    loss = partial(loss_fn, config=config, n_tokens=n_tokens, z_loss=hyper.z_loss, tp=tp,
                   fsdp=fsdp, remat=hyper.remat)
    (total, nll), grads = sum_micro_batches(own, micro, loss)       # total: nll and the z-loss

    grads = sum_over_data(grads, data_axes)
    total, nll = lax.psum(total, data_axes), lax.psum(nll, data_axes)

    norm = global_norm(grads)
    scale = jnp.minimum(1.0, hyper.grad_clip / (norm + 1e-12)) if hyper.grad_clip else 1.0
    lr = learning_rate(step, hyper.lr_max, hyper.lr_end, hyper.warmup_steps, hyper.anneal_steps)
    decay = {n: hyper.weight_decay if n in MATRICES else 0.0 for n in table}
    grads = {n: g * scale for n, g in grads.items()}
    params, m, v = adamw(params, grads, m, v, step, lr, decay)
    return (dict(params=params, m=m, v=v, step=step + 1),
            dict(loss=nll, total_loss=total, grad_norm=norm, lr=lr))


def sum_micro_batches(params, tokens, loss):
    """The sum of loss(params, micro) and of its gradients over tokens (A, b, T+1), A micro-batches
    one after another -> ((total, nll), grads)."""
    grad = jax.value_and_grad(loss, has_aux=True)
    if len(tokens) == 1:
        return grad(params, tokens[0])

    def add(sums, micro):
        return jax.tree.map(jnp.add, sums, grad(params, micro)), None

    # lax.scan wants its first sums in the type of all later ones: shape, dtype, and the mesh axes
    # over which they may differ from chip to chip. eval_shape tells all three, computing nothing.
    like = jax.eval_shape(grad, params, tokens[0])                      # ((total, nll), grads)
    zeros = jax.tree.map(lambda x: vary(jnp.zeros(x.shape, x.dtype), varying_axes(x)), like)
    sums, _ = lax.scan(add, zeros, tokens)
    return sums


def sum_over_data(grads, data_axes):
    """Add each gradient up over the data axes, but a matrix's over dp alone: over fsdp gather's
    backward has done it."""
    dp = tuple(axis for axis in data_axes if axis != "fsdp")
    return {n: lax.psum(g, dp if n in FSDP_AXIS else data_axes) for n, g in grads.items()}


def global_norm(grads):
    """The norm of all gradients together.

    After sum_over_data a gradient's type says which axes split it: fsdp and tp a matrix, tp
    fc_in.bias, none ln_1.scale. The squares of its shards are added up over these; over the others
    all chips hold the same numbers, which must count once."""
    axes = lambda g: tuple(sorted(varying_axes(g)))         # a set has no order, psum wants one
    squares = (lax.psum(jnp.sum(g * g), axes(g)) for g in grads.values())
    return jnp.sqrt(sum(squares))


def make_train_step(config, hyper, mesh):
    """The compiled step on a mesh: (state, tokens (B, T+1)) -> (state, metrics). The old state's
    memory goes to the new one."""
    def step(state, tokens):                # here tokens are this rank's: (B / (dp fsdp), T+1)
        n_tokens = hyper.batch_size * (tokens.shape[-1] - 1)
        return train_step(state, tokens, config=config, hyper=hyper, n_tokens=n_tokens,
                          dp="dp", fsdp="fsdp", tp="tp")

    specs = state_specs(config)
    sharded = jax.shard_map(step, mesh=mesh, in_specs=(specs, P(DATA)), out_specs=(specs, P()))
    return jax.jit(sharded, donate_argnums=0, compiler_options=compiler_options(mesh))


def make_eval_loss(config, mesh):
    """(params, tokens (B, T+1)) -> mean cross-entropy of the batch."""
    def eval_loss(params, tokens):          # here tokens are this rank's: (B / (dp fsdp), T+1)
        rows, length = tokens.shape
        n_tokens = mesh.shape["dp"] * mesh.shape["fsdp"] * rows * (length - 1)
        params = {n: vary(p, DATA) for n, p in params.items()}
        _, nll = loss_fn(params, tokens, config, n_tokens, z_loss=0.0, tp="tp", fsdp="fsdp")
        return lax.psum(nll, DATA)

    specs = state_specs(config)["params"]
    return jax.jit(jax.shard_map(eval_loss, mesh=mesh, in_specs=(specs, P(DATA)), out_specs=P()))


# ---- the loop ------------------------------------------------------------------------------------

AGREE_EVERY = 10    # steps after which several processes ask each other whether one is to stop
VAL_BATCHES = 4     # batches that an evaluation takes the mean of


def train(run):
    """The loop: step, evaluate, save -> the signal that stopped it, or 0."""
    signals, args, stop = stop_on_signal(), run.args, 0
    while run.done < run.steps and not stop:
        run.step()
        if run.has_val and args.eval_every and run.is_due(args.eval_every):
            run.evaluate()
        stop = run.stop_signal(signals)
        if run.is_due(args.save_every) or stop:
            run.save()
    run.finish_save()
    run.metrics.bar.close()
    return stop


class Run:
    """A run under way: its state on the mesh, its place in the data, and its folder. The methods
    stand in the order in which the loop calls them. A step's metrics are read while the next step
    runs, so that the device need not wait for the host (but where it evaluates or saves):

        device    step 7          step 8          step 9
        host      read 6's        read 7's        read 8's
    """

    def __init__(self, args, config, hyper, steps, data, mesh, source, first, place, record):
        """Take the folder and put the state on the mesh.

        first, steps: the step at which the run begins, and the one at which it ends. place: how
        many sequences of the training data are read before it. record: (what config.json says, the
        files to copy beside it), of runs.source.record_of."""
        self.args, self.config, self.hyper, self.data = args, config, hyper, data
        self.mesh, self.record = mesh, record
        self.has_val = data.meta["sequences"]["val"] > 0    # a small corpus may have none
        self.first, self.steps = first, steps
        self.done, self.place = first, place        # steps done, and sequences read, up to now
        self.part = tpu_mesh.batch_part(mesh)       # (i, n): this process feeds part i of n
        self.out, self.lead = Path(args.out_dir), jax.process_index() == 0
        resumed_from = source if args.init_from == "resume" else None
        self.lock = together(lambda: take_run(self.out, first, resumed_from))   # held until we end
        self.state = self.first_state(source)
        self.train_step = make_train_step(config, hyper, mesh)
        self.eval_loss = make_eval_loss(config, mesh)
        self.unread = None          # of the last step: (its number, its metrics on the device)
        self.wait_for_save = None   # where a checkpoint is being written, what waits for its end
        self.val_loss = None        # of the last evaluation
        length = data.block_size
        self.metrics = Metrics(self.out, first, steps, hyper.batch_size * length,
                               flops_per_token(dataclasses.replace(config, block_size=length)),
                               peak_flops(mesh), self.lead)

    def first_state(self, source):
        """A checkpoint's, a fresh one, or a fresh one with the weights of another model, as from NL
        to MULTI to MONO."""
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
        """Start a step, and read the metrics of the one before while it runs."""
        self.state, metrics = self.train_step(self.state, self.batch("train", self.place))
        self.done, self.place = self.done + 1, self.place + self.hyper.batch_size
        self.read_metrics()
        self.unread = self.done, metrics            # read when the next step has been started

    def batch(self, split, place):
        """A batch from the sequence `place` of a split on, placed on the mesh."""
        rows = get_sequences(self.data, split, self.args.seed, place, self.hyper.batch_size,
                             *self.part)
        return tpu_mesh.place_batch(rows, self.mesh)

    def read_metrics(self, val_loss=None):
        """Wait for the step in `unread`, and write its metrics down. After a NaN the run ends."""
        if self.unread:
            (step, on_device), self.unread = self.unread, None
            row = {name: float(on_device[name]) for name in ("loss", "lr", "grad_norm")}
            self.metrics.write(step, **row, val_loss=val_loss)

    def is_due(self, every):
        """Whether a multiple of `every` steps is done, or all of them; with 0 only when all are."""
        return self.done == self.steps or (every > 0 and self.done % every == 0)

    def evaluate(self):
        """The mean loss of VAL_BATCHES batches of the validation split, which no training step
        reads; written down with the metrics of the step."""
        size = self.hyper.batch_size
        batches = (self.batch("val", i * size) for i in range(VAL_BATCHES))
        losses = [float(self.eval_loss(self.state["params"], batch)) for batch in batches]
        self.val_loss = float(np.mean(losses))
        self.read_metrics(self.val_loss)

    def stop_signal(self, signals):
        """The signal that asked one of the processes to stop, or 0. signals: this one's so far.
        Several processes ask each other every AGREE_EVERY steps, all at the same."""
        signal = signals[0] if signals else 0
        if jax.process_count() == 1:
            return signal
        if self.done % AGREE_EVERY:
            return 0
        # A checkpoint of several processes gets its final name where all meet in finish_save.
        # Here they meet anyhow; without this call it would be at the next save.
        signal = agree(signal)
        self.finish_save()
        return signal

    def save(self):
        """Begin to write a checkpoint. Its step's metrics are read first, so that the run ends if
        they are NaN: such a state is never saved."""
        self.read_metrics()
        self.finish_save()
        record, files = self.record
        self.wait_for_save = tpu_mesh.begin_save(
            self.out, self.done, flatten(self.state), record | dict(sequences=self.place),
            self.args.keep, files)

    def finish_save(self):
        """Wait until the last checkpoint is written. If that failed the run ends, in one line."""
        wait, self.wait_for_save = self.wait_for_save, None
        if wait:
            wait()


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
    from runs.messages import announce, conclude
    from runs.settings import choose_settings
    from runs.source import check_data, open_source, place_of, record_of
    join(args.coordinator, args.num_processes, args.process_id)
    find_devices()

    # What the run starts from, and its data.
    source, meta = open_source(args)
    data = open_data(args.data)
    note = check_data(args, source, meta, data) if meta else ""
    first, place = place_of(meta) if args.init_from == "resume" else (0, 0)

    # What is trained and how, and on which devices.
    config, hyper, steps = choose_settings(args, jax.default_backend(), data, meta)
    mesh = tpu_mesh.make_mesh(args.dp, args.fsdp, args.tp)
    check_divides(config, hyper.batch_size, hyper.grad_accum, args.dp, args.fsdp, args.tp)
    announce(args, config, hyper, steps, data, source, meta, note)

    record = record_of(args, config, hyper, steps, data)
    run = Run(args, config, hyper, steps, data, mesh, source, first, place, record)
    conclude(run, train(run), source)


if __name__ == "__main__":
    with unheard():         # not Ctrl-C now: Python may start anew, and it would show a traceback
        huge_pages()
    cli(partial(end_together, main))
