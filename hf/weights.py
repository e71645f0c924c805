"""A model in and out of a Hugging Face folder: config.json, and one tensor after the other."""
import json
import os
import shutil
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
from hf.files import read_tensors, weight_files, write_tensors
from hf.layout import HF_BUFFERS, MP_NUM, from_hf, hf_tensors, to_hf
from hf.tokenizer import write_hf_tokenizer
from model import Config, param_table

HF_FIXED = dict(n_inner=None, activation_function="gelu_new", layer_norm_epsilon=1e-5, tie_word_embeddings=False)


def hf_config(folder):
    """config.json of a Hugging Face CodeGen -> Config. Raises ValueError for another kind of model."""
    c = tpu_mesh.load_meta(folder)
    for key, value in (dict(model_type="codegen") | HF_FIXED).items():
        if c.get(key, value) != value and not (key == "n_inner" and c[key] == 4 * c.get("n_embd", 0)):
            raise ValueError(f"{folder}/config.json: {key} is {c[key]}, and only {value} is known here")
    try:
        return Config(c["n_layer"], c["n_head"], c["n_embd"], c["rotary_dim"], c["n_positions"], c["vocab_size"])
    except (KeyError, TypeError) as e:
        raise ValueError(f"{folder}/config.json lacks a size of the model, or has one that is none: {e}") from None


@partial(jax.jit, donate_argnums=0)
def set_layer(stack, layer, w):
    """Write one layer's weight into the stacked array, in place."""
    return lax.dynamic_update_index_in_dim(stack, w, layer, 0)


def read_hf(folder, config, mesh=None, dtype="float32", mp_num=MP_NUM):
    """The weights of a Hugging Face folder -> params, placed on `mesh` (default: one device) one tensor at a time.

    Matrices become `dtype`, vectors float32. Raises ValueError that names the tensors that are missing, unknown, or of
    another shape than `config` wants, before any is read."""
    folder, mesh = Path(folder), mesh or tpu_mesh.make_mesh()
    found = {n: (file, shape) for file in weight_files(folder) for n, shape in read_tensors(file).items()
             if not n.endswith(HF_BUFFERS)}
    wanted, table, params = hf_tensors(config, mp_num), param_table(config), {}
    wrong = [f"{n} is missing" for n in wanted if n not in found]
    wrong += [f"{n} is unknown" for n in found if n not in wanted]
    wrong += [f"{n} has shape {found[n][1]}, not {shape}" for n, (*_, shape) in wanted.items()
              if n in found and found[n][1] != shape]
    if wrong:
        more = f"; and {len(wrong) - 5} more" * (len(wrong) > 5)
        raise ValueError(f"{folder}: " + "; ".join(wrong[:5]) + more)
    order = sorted(wanted, key=lambda theirs: wanted[theirs][1] is not None)     # the largest while memory is empty
    for theirs in tqdm(order, desc="read weights", unit=" tensors", delay=2, leave=False, disable=None):
        name, layer, _ = wanted[theirs]
        shape, spec, init = table[name]
        kind = dtype if init else "float32"
        if layer == 0:
            params[name] = jnp.zeros(shape, kind, device=NamedSharding(mesh, spec))
        if layer is not None:
            shape, spec = shape[1:], P(*spec[1:])
        w = from_hf(name, read_tensors(found[theirs][0], theirs), shape, mp_num).astype(kind, copy=False)
        w = jax.make_array_from_callback(shape, NamedSharding(mesh, spec), w.__getitem__)
        params[name] = w if layer is None else set_layer(params[name], layer, w)
    return params


def import_hf(folder):
    """A Hugging Face CodeGen folder -> (config, params), float32 on one device. The errors are read_hf's."""
    return hf_config(folder), read_hf(folder, hf_config(folder))


def export_hf(params, config: Config, folder, tokenizer=None, mp_num=MP_NUM):
    """Write a folder that transformers opens: AutoModelForCausalLM, and AutoTokenizer when a data.Tokenizer is given.

    Weights are float32, in one file. ValueError if the folder exists; it appears when it is whole. transformers 4 runs
    only models whose heads divide by 4, version 5 runs all."""
    folder, temporary = Path(folder), Path(f"{Path(folder)}.tmp")
    if folder.exists():
        raise ValueError(f"{folder} exists already: delete it, or choose another folder")
    tensors = hf_tensors(config, mp_num)

    def tensor(theirs):
        name, layer, _ = tensors[theirs]
        return to_hf(name, np.asarray(params[name] if layer is None else params[name][layer]), mp_num)

    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write_tensors(temporary / "model.safetensors", {n: shape for n, (*_, shape) in tensors.items()}, tensor)
    sizes = {n: getattr(config, n) for n in ("n_layer", "n_head", "n_embd", "rotary_dim", "vocab_size")}
    c = dict(model_type="codegen", architectures=["CodeGenForCausalLM"], torch_dtype="float32", **HF_FIXED, **sizes,
             n_positions=config.block_size, n_ctx=config.block_size)
    if tokenizer:
        c |= dict(bos_token_id=tokenizer.eot, eos_token_id=tokenizer.eot)
        write_hf_tokenizer(tokenizer, temporary, config.block_size)
    (temporary / "config.json").write_text(json.dumps(c, indent=1))
    os.replace(temporary, folder)
