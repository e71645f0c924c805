"""What the sizes of a model may be, wherever a model.Config is made."""
from harness.files import check

from dataclasses import asdict

# Of a checkpoint's config.json as of model.Config (see harness.files.check).
CONFIG_SCHEMA = dict(
    n_layer=(1, 10_000), n_head=(1, 2 ** 16), n_embd=(1, 2 ** 20), rotary_dim=(0, 2 ** 16),
    block_size=(1, 2 ** 20), vocab_size=(1, 2 ** 24), dtype={"float32", "bfloat16"})
MOST_WEIGHTS = 10 ** 13     # of a model, 600 times the paper's largest


def check_sizes(config):
    """ValueError, which names the flag, where the sizes of a Config do not go together."""
    c = config
    check(asdict(c), CONFIG_SCHEMA)
    if c.n_embd % c.n_head:
        raise ValueError(f"n_embd {c.n_embd} does not divide into n_head {c.n_head} heads: "
                         "change --n_head")
    if c.rotary_dim % 2 or c.rotary_dim > c.head_dim:
        raise ValueError(f"rotary_dim {c.rotary_dim} must be even and at most n_embd / n_head = "
                         f"{c.head_dim}: change --rotary_dim")
    weights = 12 * c.n_layer * c.n_embd ** 2 + 2 * c.vocab_size * c.n_embd
    if weights > MOST_WEIGHTS:
        raise ValueError(f"n_layer {c.n_layer}, n_embd {c.n_embd} and vocab_size {c.vocab_size} "
                         f"make {weights:.1e} weights, and nobody has room for more than 1e13")
