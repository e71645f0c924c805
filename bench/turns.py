"""A long session: seconds a turn when the cache keeps the history, beside reading the whole history anew each turn.

    python bench/turns.py                a toy shape with a long context, random weights: speed does not depend on them

Both sides run the same model, the same text and the same compiled functions; the second gets a new cache each turn."""
import argparse
import time
from statistics import median

import jax
import numpy as np
import versus  # noqa: F401 (puts the scripts on the path)

import sample
from model import CONFIGS, Config, init_params, unstack

TURNS, SAID, MADE = 10, 96, 32      # turns, tokens that a turn says and the model answers


class Numbers:
    """A tokenizer for a bench: token t is the character t, and the last one ends a text."""
    n_vocab = eot = CONFIGS["toy"].vocab_size - 1
    encode = staticmethod(lambda text: [ord(c) for c in text])
    decode = staticmethod(lambda ids: "".join(map(chr, ids)))


def session(params, config, keep):
    """-> seconds of each turn."""
    rng, chat, seconds = np.random.default_rng(0), None, []
    said = ["".join(map(chr, rng.integers(1, 500, SAID))) for _ in range(TURNS)]
    for turn in range(TURNS):
        texts = chat.texts if chat else [""]
        start = time.perf_counter()
        if not (chat and keep):
            chat = sample.Chat(params, config, Numbers, 1, temperature=0.8)
            chat.rewrite(texts)
        chat.turn([said[turn]], MADE)
        seconds.append(time.perf_counter() - start)
    return seconds


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=7, help="sessions of each kind (default 7)")
    p.add_argument("--n_layer", type=int, default=6, help="layers (default 6)")
    p.add_argument("--n_embd", type=int, default=384, help="width (default 384)")
    args = p.parse_args()
    config = Config(n_layer=args.n_layer, n_head=6, n_embd=args.n_embd, rotary_dim=16, block_size=2048, vocab_size=512)
    params = unstack(init_params(jax.random.key(0), config))
    for keep in (True, False):
        session(params, config, keep)                               # compiles
    rounds = [[session(params, config, keep) for keep in (True, False)] for _ in range(args.rounds)]
    print(f"{SAID} tokens said and {MADE} made a turn, {args.n_layer} layers of {args.n_embd}: ms of turn 1 ... {TURNS}")
    for side, name in enumerate(("the history kept", "the history read anew")):
        print(f"| {name} | " + " | ".join(f"{1000 * median(r[side][t] for r in rounds):.0f}" for t in range(TURNS)) + " |")


if __name__ == "__main__":
    main()
