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

# The cores of a v5p chip cannot multiply and gather at a time; its SparseCores gather for them.
V5P_OPTIONS = TPU_OPTIONS | {
    "xla_tpu_enable_sparse_core_collective_offload_all_gather": "true",
    "xla_tpu_enable_sparse_core_collective_offload_2d_all_gather": "true",
}


def compiler_options(mesh):
    """For jax.jit of a step on this mesh."""
    device = mesh.devices.flat[0]
    if device.platform != "tpu":
        return None
    return V5P_OPTIONS if device.device_kind in ("TPU v5", "TPU v5p") else TPU_OPTIONS


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
