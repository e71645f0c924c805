"""The most that a device can do, for MFU: the share of it that a model's products reach."""

PEAK_FLOPS = {      # dense bf16 FLOP/s of a data sheet, by the beginning of JAX's device_kind
    "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5": 459e12, "TPU v6 lite": 918e12,
    "NVIDIA H100": 989e12, "NVIDIA H200": 989e12, "NVIDIA A100": 312e12,
}


def peak_flops(mesh):
    """Peak of the whole mesh in FLOP/s; None for a device that is not in the table, a CPU among
    them."""
    kind = mesh.devices.flat[0].device_kind
    for name, flops in PEAK_FLOPS.items():
        if kind.startswith(name):
            return flops * mesh.size
    return None
