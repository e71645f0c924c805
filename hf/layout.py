"""Where each weight lies in a Hugging Face CodeGen, whose linear layers are (out, in)."""
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from model import LAYER, param_table

HF_NAMES = {    # ours -> theirs; those of a layer stand behind "transformer.h.N."
    "wte": "transformer.wte.weight", "ln_1.scale": "ln_1.weight", "ln_1.bias": "ln_1.bias",
    "qkv_proj": "attn.qkv_proj.weight", "out_proj": "attn.out_proj.weight",
    "fc_in": "mlp.fc_in.weight", "fc_in.bias": "mlp.fc_in.bias",
    "fc_out": "mlp.fc_out.weight", "fc_out.bias": "mlp.fc_out.bias",
    "ln_f.scale": "transformer.ln_f.weight", "ln_f.bias": "transformer.ln_f.bias",
    "lm_head": "lm_head.weight", "lm_head.bias": "lm_head.bias"}
HF_BUFFERS = (".attn.bias", ".attn.masked_bias", ".attn.causal_mask")   # masks saved along
QVK = np.array([0, 2, 1])      # q, k, v -> q, v, k, and back


def to_hf(name, w, mp_num):
    """One layer's weight -> the tensor of a Hugging Face CodeGen.

    The 3D rows of its qkv_proj are mp_num blocks, one a core of the trainer's: in each D / mp_num
    rows of q, then of v, then of k. Nothing in a shape tells mp_num: with a wrong one all loads,
    and the model writes nonsense.
    """
    if name == "qkv_proj":
        D = w.shape[0]
        w = w.reshape(D, 3, mp_num, D // mp_num)[:, QVK]                 # (D, q v k, mp, D/mp)
        return w.transpose(2, 1, 3, 0).reshape(3 * D, D)
    return w if name == "wte" or w.ndim == 1 else w.reshape(-1, w.shape[-1]).T


def from_hf(name, w, shape, mp_num):
    """The inverse of to_hf, into one layer's `shape`."""
    if name == "qkv_proj":
        D = shape[0]
        w = w.reshape(mp_num, 3, D // mp_num, D)[:, QVK]
        w = w.transpose(3, 1, 0, 2)                                      # (D, q k v, mp, D/mp)
    return (w if name in ("wte", "qkv_proj") else w.T).reshape(shape)


def hf_tensors(config, mp_num):
    """Hugging Face's name of every tensor -> (our name, layer or None, its shape there)."""
    if mp_num < 1 or config.n_embd % mp_num:
        raise ValueError(f"--mp_num {mp_num} does not divide n_embd {config.n_embd}")
    tensors = {}
    for name, (shape, *_) in param_table(config).items():
        layers = range(config.n_layer) if name in LAYER else [None]
        one = jax.ShapeDtypeStruct(shape[1:] if name in LAYER else shape, jnp.float32)
        there = jax.eval_shape(partial(to_hf, name, mp_num=mp_num), one).shape
        for layer in layers:
            prefix = "" if layer is None else f"transformer.h.{layer}."
            tensors[prefix + HF_NAMES[name]] = name, layer, there
    return tensors
