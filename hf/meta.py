"""What a Hugging Face folder says of its model, as a checkpoint's config.json would."""
import sys
from dataclasses import asdict

import jax

from data import get_tokenizer
from hf.config import hf_config
from hf.tokenizer import read_hf_tokenizer
from model import Config


def read_hf_meta(folder, tokenizer=None) -> dict:
    """Its sizes, its tokenizer (which is also said), and the recipe with which train.py goes on.

    tokenizer: the name of another one than its files say. ValueError if the folder is damaged."""
    config = hf_config(folder)
    name = tokenizer or read_hf_tokenizer(folder)
    tokenizer = get_tokenizer(name)
    check_rows(name, tokenizer.n_vocab, config, folder)
    return dict(model=asdict(config), tokenizer=name, tokenizer_digest=tokenizer.identity,
                recipe="finetune")


def check_rows(name, n_vocab, config: Config, folder):
    """Say which tokenizer the folder gets. ValueError if its ids outnumber the rows of the
    embedding."""
    if n_vocab > config.vocab_size:
        raise ValueError(f"{folder}: tokenizer {name} has {n_vocab:,} ids and the embedding "
                         f"{config.vocab_size:,} rows: name the right one with python model.py "
                         "import --tokenizer")
    if jax.process_index() == 0:
        print(f"# {folder}: tokenizer {name}, {n_vocab:,} ids of {config.vocab_size:,} rows",
              file=sys.stderr)
