"""Eight virtual CPU devices for every test, and the benchmark files of a folder beside the checkout where there is one."""
import os
from pathlib import Path

import pytest

beside = Path(__file__).resolve().parents[2] / "shared"
for variable, folder in (("TIKTOKEN_CACHE_DIR", "tiktoken"), ("CODEGEN_BENCHMARKS", "benchmarks")):
    if (beside / folder).is_dir():
        os.environ.setdefault(variable, str(beside / folder))
os.environ["JAX_PLATFORMS"] = "cpu"
# The device count is read once, when JAX starts: it must be set before any test imports jax.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"


@pytest.fixture(scope="session")
def mesh_of():
    from tpu_mesh import make_mesh
    return lambda dp, fsdp, tp: make_mesh(dp, fsdp, tp)
