"""Devices: which there are, said in one line, and whether the flags --dp --fsdp --tp fit them.

JAX is imported inside the functions, because whoever only scores imports harness and never JAX.
"""
from harness.hosts import name_platform, say

import contextlib
import os
from pathlib import Path


def find_devices():
    """Say in one line where we run; the first thing that a script does with JAX.

    ValueError for a device that JAX_PLATFORMS names and that is not there."""
    import jax
    keep_programs()
    name_platform()
    try:
        devices, count = jax.devices(), jax.process_count()
    except (RuntimeError, AssertionError) as error:
        why = str(error).partition("\n")[0][:200] or "there is no such device"
        named = jax.config.jax_platforms or "not set"
        raise ValueError(f"JAX_PLATFORMS is {named}: {why}") from None
    say(f"# platform {devices[0].platform} · {len(devices)} x {devices[0].device_kind} · "
        f"{count} process{'es' * (count > 1)} · jax {jax.__version__}")


def keep_programs():
    """Let JAX keep compiled programs in ~/.cache/codegen/compiled, or where the environment's
    JAX_COMPILATION_CACHE_DIR says, because then the same command compiles once."""
    import jax
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    with contextlib.suppress(OSError, RuntimeError):     # no home, or none to write to
        folder = Path.home() / ".cache" / "codegen" / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def check_mesh(dp: int, fsdp: int, tp: int, devices: int, processes: int):
    """ValueError where so many devices and processes cannot make this mesh."""
    need = dp * fsdp * tp
    asked = f"--dp {dp} --fsdp {fsdp} --tp {tp}".replace(" --fsdp 1", "")   # sampling has no --fsdp
    if min(dp, fsdp, tp) < 1:
        raise ValueError(f"{asked}: each must be at least 1")
    if need > devices:
        raise ValueError(
            f"{asked} needs {need} devices and there are {devices}: lower one (on a CPU, "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={need} makes virtual devices)")
    if need < devices and processes > 1:
        raise ValueError(f"{asked} uses {need} of {devices} devices: with several processes the "
                         "product must be all of them")


def check_divides(config, batch_size: int, grad_accum: int, dp: int, fsdp: int, tp: int):
    """Every size that the mesh splits must divide. ValueError that names the flag, before anything
    compiles."""
    least_one = dict(dp=dp, fsdp=fsdp, tp=tp, batch_size=batch_size, grad_accum=grad_accum)
    for name, size in least_one.items():
        if size < 1:
            raise ValueError(f"--{name} is {size}: it must be at least 1")
    c, rows = config, dp * fsdp * grad_accum
    #     size            into parts  its name      what to change
    rules = [
        (c.n_head,        tp,        "n_head",     "--tp"),
        (4 * c.n_embd,    tp,        "4 x n_embd", "--tp"),
        (c.vocab_size,    tp * fsdp, "vocab_size", "--tp or --fsdp"),
        (c.n_embd,        fsdp,      "n_embd",     "--fsdp"),
        (batch_size,      rows,      "batch_size", "--batch_size (or --dp, --fsdp, --grad_accum)"),
    ]
    for size, parts, name, flag in rules:
        if size % parts:
            raise ValueError(f"{name} {size} does not divide by {parts}: change {flag}")
