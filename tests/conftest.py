"""Eight virtual CPU devices for every test, and the benchmark files of a folder beside the checkout where there is one."""
import contextlib
import os
import signal
import tempfile
from pathlib import Path

import pytest

beside = Path(__file__).resolve().parents[2] / "shared"
for variable, folder in (("TIKTOKEN_CACHE_DIR", "tiktoken"), ("CODEGEN_BENCHMARKS", "benchmarks")):
    if (beside / folder).is_dir():
        os.environ.setdefault(variable, str(beside / folder))
os.environ["JAX_PLATFORMS"] = "cpu"
# Where a shell has started the tests in the background SIGINT is ignored, and would be in every command that they run.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Many tests and the commands that they run compile the same programs: the first to need one keeps it for the others.
COMPILED = tempfile.TemporaryDirectory()
os.environ.update(JAX_COMPILATION_CACHE_DIR=COMPILED.name, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0.1",
                  JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1")
# The device count is read once, when JAX starts: it must be set before any test imports jax. Compiling is most of the time
# that the tests take, so it is done without LLVM's optimisation, unless the caller has set XLA_FLAGS.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "--xla_backend_optimization_level=0") \
    + " --xla_force_host_platform_device_count=8"


# What a machine may lack: without a network and without these files the tests that need them are skipped, and say so.
MISSING = {"GPT-2's vocabulary cannot be loaded": "GPT-2's vocabulary is not here (TIKTOKEN_CACHE_DIR) and there is no network",
           "is not here and cannot be downloaded": "the benchmark files are not here (CODEGEN_BENCHMARKS), nor a network"}


@contextlib.contextmanager
def skipped_where_lacking():
    try:
        yield
    except Exception as error:
        if why := next((why for words, why in MISSING.items() if words in str(error)), None):
            pytest.skip(why)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    with skipped_where_lacking():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    with skipped_where_lacking():
        return (yield)


@pytest.fixture(scope="session")
def mesh_of():
    from tpu_mesh import make_mesh
    return lambda dp, fsdp, tp: make_mesh(dp, fsdp, tp)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """Config -> the folder of an untrained model of bytes, which a command can load."""
    import dataclasses

    from tpu_mesh import make_mesh, save_checkpoint
    from train import flatten, init_state

    def write(config):
        out = tmp_path_factory.mktemp("ckpt")
        save_checkpoint(out, 1, flatten(init_state(0, config, make_mesh())),
                        dict(model=dataclasses.asdict(config), tokenizer="bytes"))
        return out
    return write
