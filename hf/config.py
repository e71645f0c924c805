"""config.json of a Hugging Face CodeGen, read and written."""
from harness.files import check
from harness.sizes import CONFIG_SCHEMA

import re
from pathlib import Path

from hf.files import read_hf_json
from model import Config

OURS = dict(n_layer="n_layer", n_head="n_head", n_embd="n_embd", rotary_dim="rotary_dim",
            block_size="n_positions", vocab_size="vocab_size")      # our name of a size -> theirs
SIZES = {theirs: CONFIG_SCHEMA[ours] for ours, theirs in OURS.items()}
FIXED = dict(n_inner=None, activation_function="gelu_new", layer_norm_epsilon=1e-5,
             tie_word_embeddings=False)      # what the model here is, and a released one too
MP_NUM = 4      # the released weights come from 4 logical TPU-v4 cores; jaxformer's own copy has 8


def hf_config(folder) -> Config:
    """The sizes in a folder's config.json. ValueError for another kind of model, a damaged file."""
    path = Path(folder) / "config.json"
    c = read_hf_json(path)
    if c.get("model_type") != "codegen":
        raise ValueError(f"{path}: model_type is {c.get('model_type')}, "
                         "and only codegen is known here")
    check(c, SIZES, f"{path}: a size of the model is damaged: ")
    for key, value in FIXED.items():
        if c.get(key, value) not in (value, 4 * c["n_embd"] if key == "n_inner" else value):
            raise ValueError(f"{path}: {key} is {c[key]}, and only {value} is known here")
    try:
        return Config(**{ours: c[theirs] for ours, theirs in OURS.items()})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def blocks_of(folder, mp_num=None) -> int:
    """In how many blocks the fused qkv_proj of a folder lies: mp_num where it is given, else 4.

    ValueError for a folder that looks like a CodeGen2 and no mp_num: those have 8, nothing in the
    shapes tells, and with a wrong number all loads and the model writes nonsense."""
    c = read_hf_json(Path(folder) / "config.json")
    names = f"{c.get('_name_or_path')} {Path(folder).resolve().name}"
    if mp_num is None and (c.get("auto_map") or re.search(r"codegen[-_]?2(?!b)", names, re.I)):
        raise ValueError(f"{folder} looks like a CodeGen2, whose qkv_proj may lie in 8 blocks "
                         "and not in 4, and no shape tells: add --mp_num 8 (or 4), or make a "
                         "checkpoint with python model.py import --mp_num 8")
    return mp_num or MP_NUM


def config_json(config: Config, tokenizer=None) -> dict:
    """What config.json of an exported folder says."""
    sizes = {theirs: getattr(config, ours) for ours, theirs in OURS.items()}
    ends = dict(bos_token_id=tokenizer.eot, eos_token_id=tokenizer.eot) if tokenizer else {}
    return dict(model_type="codegen", architectures=["CodeGenForCausalLM"], torch_dtype="float32",
                **FIXED, **sizes, n_ctx=config.block_size, **ends)
