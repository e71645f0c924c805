"""For which machine XLA compiles, and what it is told there: on a TPU not to wait."""
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


def platform() -> str:
    """cpu, gpu or tpu: what is being compiled for. Inside shard_map it is the mesh's, which may be
    a TPU that is not here (train.py --plan)."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    kind = device.device_kind if device else ""
    if kind.startswith("TPU"):
        return "tpu"
    return "cpu" if kind == "cpu" else jax.default_backend()
