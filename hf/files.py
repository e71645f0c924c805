"""The files of a Hugging Face folder that hold tensors: safetensors' and torch's."""
import importlib
import json
import math
import os

import numpy as np
from tqdm import tqdm


def weight_files(folder):
    """The files of a folder that hold its tensors, one or those of an index; safetensors before torch's."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            try:
                return sorted({folder / file for file in json.loads(index.read_text())["weight_map"].values()})
            except (ValueError, KeyError) as e:
                raise ValueError(f"{index} is damaged: {e!r}") from None
    raise FileNotFoundError(f"{folder} holds neither model.safetensors nor pytorch_model.bin")


def read_tensors(file, name=None):
    """The tensor `name` of a weight file as numpy, or without a name {name: shape} of all, from the file's header.

    A file is mapped, and anew for each tensor: the pages of a map count as memory of the process until it is closed."""
    package = "safetensors" if file.suffix == ".safetensors" else "torch"
    try:
        library = importlib.import_module(package)
        if package == "safetensors":
            with library.safe_open(file, "numpy") as f:
                return f.get_tensor(name) if name else {n: tuple(f.get_slice(n).get_shape()) for n in f.keys()}
        tensors = library.load(file, map_location="cpu", weights_only=True, mmap=True)
        return tensors[name].float().numpy() if name else {n: tuple(t.shape) for n, t in tensors.items()}
    except ImportError:
        raise ValueError(f"to read {file} the package {package} is needed: pip install {package}") from None
    except Exception as e:      # each library has errors of its own
        raise ValueError(f"{file} cannot be read ({type(e).__name__}): {e}") from None


def write_tensors(file, shapes: dict, tensor):
    """Write a float32 safetensors file, asking tensor(name) for one array after the other.

    The format: the length of a JSON header in 8 bytes, the header, then the tensors where the header says."""
    header, end = dict(__metadata__=dict(format="pt")), 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = dict(dtype="F32", shape=shape, data_offsets=[begin, end])
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)      # so that the tensors start at a multiple of 8
    with open(file, "wb") as f:
        f.write(len(raw).to_bytes(8, "little") + raw)
        for name in tqdm(shapes, desc="write weights", unit=" tensors", delay=2, leave=False, disable=None):
            f.write(np.ascontiguousarray(tensor(name), "<f4"))
        f.flush()
        os.fsync(f.fileno())
