"""What XLA is told: to keep what it has compiled, and on a TPU not to wait."""
import contextlib
import os
from pathlib import Path

import jax

# XLA for TPUs waits for each collective unless told not to. With these, weights are gathered while
# the layer computes. (Its further step, gathers fused into the matrix products, is refused by the
# compiler on v4.)
TPU_OPTIONS = {
    "xla_enable_async_all_gather": "true",
    "xla_enable_async_all_reduce": "true",
    "xla_enable_async_reduce_scatter_fusion": "true",
    "xla_tpu_overlap_compute_collective_tc": "true",
    "xla_tpu_enable_async_collective_fusion": "false",
}


def compiler_options(mesh):
    """For jax.jit of a step on this mesh."""
    return TPU_OPTIONS if mesh.devices.flat[0].platform == "tpu" else None


def keep_programs():
    """Let JAX keep compiled programs in ~/.cache/codegen/compiled, or where the environment's
    JAX_COMPILATION_CACHE_DIR says, because then the same command compiles once."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    with contextlib.suppress(OSError, RuntimeError):     # no home, or none to write to
        folder = Path.home() / ".cache" / "codegen" / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
