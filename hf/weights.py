"""A model in and out of a Hugging Face folder, one tensor after the other."""
from harness.cli import unfinished

import json
import os
import tempfile
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

import tpu_mesh
from hf.config import MP_NUM, blocks_of, config_json, hf_config
from hf.files import FLOATS, read_header, read_tensor, weight_files, write_tensors
from hf.layout import HF_BUFFERS, from_hf, hf_tensors, to_hf
from hf.tokenizer import write_hf_tokenizer
from model import Config, param_table


def plain_names(names) -> dict:
    """Hugging Face's name -> the name in a file, which may have "module." or the like before it.

    The embedding shows the prefix. A model saved without its head also lacks "transformer."."""
    embeddings = [n for n in names if n.endswith("wte.weight")]
    inner = embeddings[0].removesuffix("wte.weight") if len(embeddings) == 1 else "transformer."
    outer = inner.removesuffix("transformer.")
    plain = {}
    for n in names:
        if n.startswith(inner):
            plain["transformer." + n.removeprefix(inner)] = n
        else:
            plain[n.removeprefix(outer)] = n
    return plain


def find_tensors(folder, config, mp_num) -> dict:
    """Hugging Face's name of each tensor -> (file, name in it). Only headers are read.

    ValueError names tensors that are missing, unknown, of another shape than `config` wants, or no
    floats."""
    found = {n: (file, *about) for file in weight_files(folder)
             for n, about in read_header(file).items() if not n.endswith(HF_BUFFERS)}
    spelled, wanted = plain_names(found), hf_tensors(config, mp_num)
    wrong = [f"{n} is missing" for n in wanted if n not in spelled]
    wrong += [f"{n} is unknown" for n in spelled if n not in wanted]
    for n, (*_, shape) in wanted.items():
        _, there, kind = found.get(spelled.get(n), (None, shape, FLOATS[0]))
        if there != shape:
            wrong.append(f"{n} has shape {there}, not {shape}")
        elif kind not in FLOATS:
            wrong.append(f"{n} holds {kind} numbers, no floats: quantised ones are not read")
    if wrong:
        more = f"; and {len(wrong) - 5} more" * (len(wrong) > 5)
        raise ValueError(f"{folder}: " + "; ".join(wrong[:5]) + more)
    return {n: (found[spelled[n]][0], spelled[n]) for n in wanted}


@partial(jax.jit, donate_argnums=0)
def set_layer(stack, layer, w):
    """Write one layer's weight into the stacked array, in place."""
    return lax.dynamic_update_index_in_dim(stack, w, layer, 0)


def read_hf(folder, config, mesh=None, dtype="float32", mp_num=None):
    """The weights of a Hugging Face folder -> params on `mesh` (default: one device).

    Matrices become `dtype`, vectors float32. Tensors are read one at a time; the errors are
    blocks_of's and find_tensors', before any is read."""
    folder, mesh = Path(folder), mesh or tpu_mesh.make_mesh()
    mp_num = blocks_of(folder, mp_num)
    where, wanted = find_tensors(folder, config, mp_num), hf_tensors(config, mp_num)
    table, params = param_table(config), {}
    # Those that are no layer's first: they are the largest, and memory is still empty.
    order = sorted(wanted, key=lambda theirs: wanted[theirs][1] is not None)
    for theirs in tqdm(order, desc="read weights", unit=" tensors", delay=2, leave=False,
                       disable=None):
        name, layer, _ = wanted[theirs]
        shape, spec, init = table[name]
        kind = dtype if init else "float32"
        if layer == 0:
            params[name] = jnp.zeros(shape, kind, device=NamedSharding(mesh, spec))
        if layer is not None:
            shape, spec = shape[1:], P(*spec[1:])
        w = from_hf(name, read_tensor(*where[theirs]), shape, mp_num)
        want = jax.ShapeDtypeStruct(shape, kind, sharding=NamedSharding(mesh, spec))
        w = tpu_mesh.make_array(want, w.__getitem__)
        params[name] = w if layer is None else set_layer(params[name], layer, w)
    return params


def import_hf(folder):
    """A Hugging Face CodeGen folder -> (config, params), float32 on one device."""
    config = hf_config(folder)
    return config, read_hf(folder, config)


def export_hf(params, config: Config, folder, tokenizer=None, mp_num=MP_NUM):
    """Write a folder that transformers opens: AutoModelForCausalLM, and AutoTokenizer when a
    data.Tokenizer is given.

    Weights are float32. ValueError if the folder exists; it appears when it is whole.
    transformers 4 runs only models whose heads divide by 4, version 5 runs all."""
    folder = Path(folder)
    if folder.exists() or folder.is_symlink():
        raise ValueError(f"{folder} exists already: delete it, or choose another folder")
    tensors = hf_tensors(config, mp_num)

    def tensor(theirs):
        name, layer, _ = tensors[theirs]
        w = params[name] if layer is None else params[name][layer]
        return to_hf(name, np.asarray(w), mp_num)

    folder.parent.mkdir(parents=True, exist_ok=True)
    own = tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent)
    unfinished.append(own.cleanup)      # Ctrl-C raises no exception where JAX is loaded
    with own:
        part = Path(own.name) / folder.name
        part.mkdir()
        write_tensors(part, {n: shape for n, (*_, shape) in tensors.items()}, tensor)
        if tokenizer:
            write_hf_tokenizer(tokenizer, part, config.block_size)
        content = json.dumps(config_json(config, tokenizer), indent=1)
        (part / "config.json").write_text(content)
        os.rename(part, folder)
    unfinished.remove(own.cleanup)
