"""How well a model of the miniature's Python can do at best, and how well one does.

    python miniature/entropy.py --kind mono@12                  the corpus alone
    python miniature/entropy.py --kind mono@12 --ckpt DIR       and a model on the same documents

The corpus is made by a program that knows the probability of each of its choices. So -log p of a
document is known, its mean over documents is the entropy, and no model's loss on whole documents
lies below that in the mean. What a model loses beyond it is its own ignorance: the Kullback-Leibler
divergence, measured document by document, so that the chance of which documents were drawn drops
out of it.

Two things are to be known about the number:

* A text that can come about in several ways is more likely than any one of them. `draws.weigh` adds
  them up; of the miniature's Python every text has one way (a test looks), so the entropy is exact
  but for the sampling of documents, whose error is told.
* Training packs documents into blocks, and the first document of a block is cut: a model does not
  see what came before. `packed` bounds the loss per token of such blocks from both sides.
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import flags  # noqa: E402
from harness.cli import cli, one_line_errors  # noqa: E402

from data import get_tokenizer  # noqa: E402
from miniature.corpus import draws, writer_of  # noqa: E402
from miniature.open import MINIATURE  # noqa: E402


def ratio(above, below):
    """Sum over sum of two arrays, document by document -> (it, its standard error)."""
    rate = above.sum() / below.sum()
    return rate, np.std(above - rate * below, ddof=1) / below.mean() / np.sqrt(len(above))


def through_tokens(draw, lengths):
    """Nats of the choices that were made until each token was written, (T,). lengths: (T,), of the
    tokens in characters. Never less than -log p of the text up to there, since that can go on, and
    may have come about, in other ways too."""
    ends, logp = np.array(draw.trace).T
    return -logp[np.searchsorted(ends, np.cumsum(lengths))]


def packed(nats, through, tokens, block_size):
    """Bounds (low, high) on the best mean loss, nats a token, in blocks of a packed stream.

    nats: (n,), -log p of n documents. through: a list of n arrays, `through_tokens` and for the end
    of text the nats of the whole document. tokens: a list of n arrays, the ids, the end of text
    last.

    A block shows tokens x_0 ... x_B of the stream and is asked for x_1 ... x_B. It begins at any
    token with the same probability; P is what stands before x_0 in its document.

    Low: who also sees P can do no worse, and with it -log p of all documents is paid, once a token:
    H / E[length].
    High: a window has the probability of a document and a place in it, p(document) / E[length],
    summed over all that it could be. One of the terms is what it really is, so
        -log p(x_0 ... x_B)  <=  log E[length] - log p(P x_0) - log p(x_1 ... x_B | P x_0).
    The last term is, in the mean, what Low counts. x_0 is not asked for: its entropy is taken off
    (that of its frequencies, which can only be too small for what is not known of them).
    """
    lengths = np.array([len(ids) for ids in tokens])
    low = nats.sum() / lengths.sum()
    counts = np.unique(np.concatenate(tokens), return_counts=True)[1] / lengths.sum()
    unseen = np.log(lengths.mean()) + np.concatenate(through).mean()
    return low, low + (unseen + (counts * np.log(counts)).sum()) / block_size


def corpus_rate(kind, seed, n):
    """n documents of a corpus -> (texts, nats, tokens of those that fit into a context, what there
    is to tell).

    One document in twenty is longer than the context of a model. Who knows that a document fits
    needs -log p(fits) fewer nats for it: so much is taken off each."""
    tokenizer, found = get_tokenizer("miniature"), [draw for draw, _ in draws(kind, seed, n)]
    ids = [tokenizer.encode(draw.text) for draw in found]
    nats = np.array([-draw.logp for draw in found])
    tokens = np.array([len(i) for i in ids])
    through = [np.append(through_tokens(draw, [len(tokenizer.vocab[t]) for t in i]), -draw.logp)
               for draw, i in zip(found, ids)]
    low, high = packed(nats, through, [np.append(i, tokenizer.eot) for i in ids],
                       MINIATURE["block_size"])
    fits = tokens < MINIATURE["block_size"]
    nats, tokens = nats[fits] + np.log(fits.mean()), tokens[fits]
    rate, error = ratio(nats, tokens)
    told = dict(kind=kind, documents=int(fits.sum()), too_long=int((~fits).sum()),
                tokens=int(tokens.sum()), entropy=rate, entropy_error=error,
                packed_low=low, packed_high=high)
    return [draw.text for draw, fit in zip(found, fits) if fit], nats, tokens, told


def model_rate(ckpt, texts, nats, tokens):
    """A model's loss on the same documents, and what of it is its own."""
    from sample import load, prompt_logprob  # JAX, only for this
    config, params, tokenizer = load(ckpt)
    if config.block_size != MINIATURE["block_size"]:
        raise ValueError(f"{ckpt} sees {config.block_size} tokens, the corpus has "
                         f"{MINIATURE['block_size']}")
    lost = np.array([-logp for logp, _ in prompt_logprob(params, config, tokenizer, texts)])
    (loss, _), (beyond, error) = ratio(lost, tokens), ratio(lost - nats, tokens)
    return dict(loss=loss, beyond=beyond, beyond_error=error)


def parser():
    """The command line."""
    p = one_line_errors(argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False))
    p.add_argument("--kind", type=flags.text, default="mono@12",
                   help="a corpus of Python, mono or mono@S (default mono@12)")
    p.add_argument("--ckpt", type=flags.folder, help="a model to measure beside it")
    p.add_argument("--n", type=flags.whole(2), default=1000, help="documents (default 1000)")
    p.add_argument("--seed", type=flags.whole(0), default=1,
                   help="of the documents (default 1; a corpus to train on has seed 0)")
    return p


def main():
    args = parser().parse_args()
    writer_of(args.kind)        # names another kind in one line
    if not args.kind.startswith("mono"):
        raise ValueError(f"--kind {args.kind}: the choices of mono alone are known from its text")
    texts, nats, tokens, told = corpus_rate(args.kind, args.seed, args.n)
    if args.ckpt:
        told |= model_rate(args.ckpt, texts, nats, tokens)
    print(json.dumps({k: round(float(v), 6) if isinstance(v, float) else v
                      for k, v in told.items()}))


if __name__ == "__main__":
    cli(main)
