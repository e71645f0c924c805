"""The real programs, compiled by the TPU compiler alone: the chips need not be here."""
from harness.hosts import NO_TPU

import importlib.util
import os
import tempfile
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import sample
import train
from model import param_table
from tpu_mesh import DATA, make_mesh

NO_COMPILER = ("libtpu is not installed, so nothing is compiled and this is by formula alone: "
               "pip install libtpu")


def has_compiler() -> bool:
    """Whether the package libtpu, which holds the TPU compiler, is installed."""
    return importlib.util.find_spec("libtpu") is not None


def topology_mesh(topology: str, dp: int, fsdp: int, tp: int):
    """The mesh of a TPU that is not here, for compiling only; None without the package libtpu."""
    if not has_compiler():
        return None
    os.environ |= NO_TPU
    from jax.experimental import topologies
    # The two cores of a v4 chip are one device only if asked for.
    cores = dict(chip_config_name="megacore") if topology.startswith("v4") else {}
    devices = topologies.get_topology_desc(topology, platform="tpu", **cores).devices
    return make_mesh(dp, fsdp, tp, devices)


def lower_step(config, hyper, mesh):
    """The step of a mesh, ready to compile, from shapes alone: no weight is made, and the mesh may
    be one that is not here."""
    state = jax.eval_shape(partial(train.fresh_state, config=config), jax.random.key(0))
    state = jax.tree.map(lambda a, to: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=to), state,
                         train.state_shardings(config, mesh))
    tokens = jax.ShapeDtypeStruct((hyper.batch_size, config.block_size + 1), jnp.int32,
                                  sharding=NamedSharding(mesh, P(DATA)))
    return train.make_train_step(config, hyper, mesh).lower(state, tokens)


def lower_sampling(config, mesh, rows, room, piece):
    """The programs that sample `rows` texts of up to `room` tokens, ready to compile:
    dict(prefill, decode, extend). piece: tokens that a prefill reads."""
    def there(shape, dtype, spec):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    def keys_and_values(size):
        shapes = jax.eval_shape(partial(sample.init_cache, config, rows, size))
        return {n: there(a.shape, a.dtype, sample.CACHE) for n, a in shapes.items()}

    params = {name: there(shape, config.dtype if init else "float32", spec)
              for name, (shape, spec, init) in param_table(config).items()}
    cache, row = keys_and_values(room), there((rows,), "int32", sample.ROW)
    logits = there((rows, config.vocab_size), "float32", sample.LOGITS)
    ids, done = (there(s, d, sample.ROW) for s, d in (((rows, piece), "int32"), ((rows,), "bool")))
    seed, number = (there((), dtype, sample.ONE) for dtype in ("uint32", "float32"))
    on_mesh = partial(sample.on_mesh, mesh=mesh)
    decode = on_mesh(sample.decode, config=config, n_vocab=config.vocab_size, eot=0,
                     steps=sample.LOOK)
    return dict(
        prefill=on_mesh(sample.prefill, config=config).lower(params, ids, cache, logits, row, row),
        decode=decode.lower(params, cache, logits, row, done, row, seed, row, number, number),
        extend=on_mesh(sample.extend_cache).lower(cache, keys_and_values(sample.LOOK), row))


def compile_with_text(lowered):
    """(executable, its program as text). The text is what XLA itself writes down, because
    `as_text` cannot read back the programs of every TPU (jaxlib 0.10 and 0.11 with Pallas kernels
    on v5p)."""
    with tempfile.TemporaryDirectory() as folder:
        dump = dict(xla_dump_to=folder, xla_dump_hlo_as_text=True)
        program = lowered.compile(compiler_options=dump)
        return program, next(Path(folder).glob("*after_optimizations.txt")).read_text()
