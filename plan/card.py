"""The roofline of a plan beside what a GPU was measured to reach of it.

No TPU was at hand, so a plan's seconds are a ceiling that nothing here has touched. The same
ceiling for one GPU, where steps were measured, says how much of such a prediction comes true."""
from dataclasses import replace

import numpy as np

from model import CONFIGS
from plan.chips import Chip
from plan.formula import estimate
from plan.roofline import roofline
from train import Hyper

# The maker's data sheet of an H100 SXM. It stands alone: no slice, no links.
H100 = Chip("NVIDIA H100", 1, 1, 80 * 10 ** 9, 3350e9, 0.0, 1)
NONE, LAYER = "none", "layer"       # of Hyper.remat: what the backward pass computes again

# Tokens a second of train.py's step on one H100 80GB (bfloat16, context 2048, jax 0.11.2), as it
# was on 2026-11-27: before gradients were summed in float32 (fast/product.py).
MEASURED = [   # preset, sequences, remat, tokens/s
    ("350M",  8, NONE,  166_300),
    ("350M", 16, NONE,  171_700),
    ("2.7B",  8, LAYER,  23_290),
]


def flops_per_token(config, again: bool) -> float:
    """What a GPU multiplies for one training token: model.flops_per_token, the layers once more if
    they run `again`, and in attention's backward pass one product more, which makes the scores
    anew."""
    c = config
    layers, head = c.n_layer * 12 * c.n_embd ** 2, c.n_embd * c.vocab_size
    attention = (2 + 5 + 2 * again) * c.n_layer * c.block_size * c.n_embd
    return (6 + 2 * again) * layers + 6 * head + attention


def predicted(config, hyper, chip=H100) -> float:
    """Tokens a second of a step on one GPU, by formula, at the rates of its data sheet."""
    tokens = hyper.batch_size * config.block_size
    _, _, hbm, _ = estimate(config, hyper, 1, 1, 1)
    flops = tokens * flops_per_token(config, hyper.remat == LAYER)
    return tokens / roofline(chip, np.zeros((1, 1, 1, 1)), (1,), flops, hbm, [])["step"]


def reached():
    """[(preset, sequences, measured / predicted)] of the steps that were measured."""
    def share(preset, batch, remat, rate):
        config = replace(CONFIGS[preset], dtype="bfloat16")
        return rate / predicted(config, Hyper(batch_size=batch, remat=remat))

    return [(preset, batch, share(preset, batch, *more)) for preset, batch, *more in MEASURED]
