"""The files of a Hugging Face folder: JSON, and tensors as safetensors and torch keep them."""
from harness.files import read_json

import contextlib
import importlib
import json
import math
import os
import zipfile
from functools import lru_cache
from pathlib import Path

import numpy as np
from tqdm import tqdm

LARGEST = 5 * 10 ** 9       # bytes of a file that we write, as transformers does
WRAPPERS = ("model", "state_dict", "model_state_dict", "module")   # what trainers put weights under
FLOATS = ("F64", "F32", "F16", "BF16", "float64", "float32", "float16", "bfloat16")


# ----------------------------------------- what is there ------------------------------------------

def refuse_pointer(path):
    """ValueError for a file that stands for another one: git leaves such a pointer without LFS."""
    with open(path, "rb") as file:
        begin = file.read(40)
    if begin.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is a Git LFS pointer, not the file itself: "
                         f"run git lfs pull in {path.parent}, or download the file")
    if begin.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise ValueError(f"{path} is a web page, not the file itself: download it again")


def read_hf_json(path, wanted=None) -> dict:
    """As harness.files.read_json, for a file that may also be a pointer."""
    refuse_pointer(path)
    return read_json(path, wanted)


def weight_files(folder):
    """The files of a folder that hold its tensors, one or those of an index; safetensors first."""
    folder = Path(folder)
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            where = read_hf_json(index, dict(weight_map={str: str}))["weight_map"]
            files = sorted(set(where.values()))
            for file in files:
                if file != Path(file).name or file in ("", ".", ".."):
                    raise ValueError(f"{index} is damaged: {file!r} is no name of a file beside it")
            return [folder / file for file in files]
    raise FileNotFoundError(f"{folder} holds neither model.safetensors nor pytorch_model.bin")


# -------------------------------------------- reading ---------------------------------------------

def read_header(file) -> dict:
    """{name: (shape, type of number)} of a weight file's tensors, without reading any."""
    with one_line(file):
        if file.suffix == ".safetensors":
            with importlib.import_module("safetensors").safe_open(file, "numpy") as f:
                slices = {name: f.get_slice(name) for name in f.keys()}
                return {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
        return {name: (tuple(t.shape), str(t.dtype).removeprefix("torch."))
                for name, t in torch_tensors(file).items()}


def read_tensor(file, name):
    """One tensor of a weight file as numpy.

    A file is mapped, and anew for each tensor, because the pages of a map count as memory of the
    process until it is closed."""
    with one_line(file):
        if file.suffix == ".safetensors":
            with importlib.import_module("safetensors").safe_open(file, "numpy") as f:
                return f.get_tensor(name)
        return torch_tensors(file)[name].float().numpy()


@contextlib.contextmanager
def one_line(file):
    """Whatever goes wrong while a weight file is read is a ValueError that names it."""
    package = "safetensors" if file.suffix == ".safetensors" else "torch"
    try:
        if file.is_file():
            refuse_pointer(file)
        yield
    except ImportError:
        raise ValueError(f"to read {file} the package {package} is needed: "
                         f"pip install {package}") from None
    except ValueError as error:
        if str(file) in str(error):
            raise
        raise ValueError(f"{file} cannot be read: {error}") from None
    except Exception as error:      # each library has errors of its own
        why = " ".join(str(error).split())[:200]
        raise ValueError(f"{file} cannot be read ({type(error).__name__}): {why}") from None


def torch_tensors(file) -> dict:
    """name -> tensor of a torch file."""
    return torch_load(file, mmap=True) if zipfile.is_zipfile(file) else torch_old(file)


@lru_cache(maxsize=1)
def torch_old(file):
    """Torch's format before 1.6 cannot be mapped, so it is read whole, once."""
    return torch_load(file)


def torch_load(file, **how):
    """A pickle of anything but weights is refused, because it could run code."""
    load = importlib.import_module("torch").load
    return unwrap(file, load(file, map_location="cpu", weights_only=True, **how))


def unwrap(file, content) -> dict:
    """The dict of tensors in what was saved: itself, or one under a name that trainers use."""
    tensor = importlib.import_module("torch").Tensor
    wrapped = [content.get(w) for w in WRAPPERS] if isinstance(content, dict) else []
    for inner in (content, *wrapped):
        entries = inner.items() if isinstance(inner, dict) else []
        found = {n: t for n, t in entries if isinstance(n, str) and isinstance(t, tensor)}
        if found:
            return found
    raise ValueError(f"{file} holds no weights: a dict of tensors is expected, "
                     f"or one under {', '.join(WRAPPERS)}")


# -------------------------------------------- writing ---------------------------------------------

def write_tensors(folder, shapes: dict, tensor):
    """Write float32 tensors as model.safetensors, or as parts of at most LARGEST bytes and an
    index.

    tensor(name) is asked for one array after the other, and one part is held at a time."""
    save = safetensors_writer()
    sizes = {name: 4 * math.prod(shape) for name, shape in shapes.items()}
    parts = split(sizes)
    bar = tqdm(total=len(sizes), desc="write weights", unit=" tensors", delay=2, leave=False,
               disable=None)
    for file, names in parts.items():
        held = {}
        for name in names:
            held[name] = np.ascontiguousarray(tensor(name), np.float32)
            bar.update()
        save(held, folder / file, metadata=dict(format="pt"))
        with open(folder / file, "rb") as f:
            os.fsync(f.fileno())
    bar.close()
    if len(parts) > 1:
        where = {name: file for file, names in parts.items() for name in names}
        index = dict(metadata=dict(total_size=sum(sizes.values())), weight_map=where)
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def split(sizes: dict) -> dict:
    """File -> names of its tensors, in order. sizes: name -> bytes."""
    parts, room = [], 0
    for name, n_bytes in sizes.items():
        if n_bytes > room:
            parts.append([])
            room = LARGEST
        parts[-1].append(name)
        room -= n_bytes
    if len(parts) == 1:
        return {"model.safetensors": parts[0]}
    return {f"model-{i:05d}-of-{len(parts):05d}.safetensors": names
            for i, names in enumerate(parts, 1)}


def safetensors_writer():
    """safetensors' save_file. ValueError where the package is missing."""
    try:
        return importlib.import_module("safetensors.numpy").save_file
    except ImportError:
        raise ValueError("to write weights the package safetensors is needed: "
                         "pip install safetensors") from None
