"""From source files to batches: tokenizers, the paper's five steps of preparation (section 2.1),
batches by step.

    python data.py prepare --input PATH ... --out DIR   filter, deduplicate, tokenize, shuffle, pack
    python data.py train-bpe --input PATH ... --vocab_size N --out FILE.tiktoken

What the paper does not speak of (files, encodings, processes, shard files, flags) is in corpora/.
JAX is never imported, because each worker process of `prepare` imports this file as it starts.
"""
from harness.cli import cli, signals_end_once

import functools
import re
from contextlib import closing

from corpora import commands, visits
from corpora.benchmarks import excluding_benchmarks
from corpora.bpe import write_bpe
from corpora.buckets import Buckets, buckets_for
from corpora.digests import DigestSet
from corpora.folder import written_whole
from corpora.order import permute
from corpora.shards import ShardWriter, check_fits, divided, open_folder, write_meta
from corpora.text import LONGEST_LINE, measure
from corpora.tokenizer import END_OF_TEXT, Tokenizer, other_tokenizer
from corpora.vocabulary import gpt2_arguments

import numpy as np
import tiktoken

# ---- tokenizers ----------------------------------------------------------------------------------

# CodeGen adds to GPT-2's ids 38 more for runs of white space: 31 down to 2 spaces are ids 50257 to
# 50286, 9 down to 2 tabs are 50287 to 50294. They stand in the merge table as ordinary tokens,
# because tiktoken's search for special tokens would not always take the longest run.
N_GPT2 = 50257
RUNS = [b" " * n for n in range(31, 1, -1)] + [b"\t" * n for n in range(9, 1, -1)]

# Where a text is cut before the merges: GPT-2's pattern with two changes. Runs come first, each as
# long as it can be; and BLANK, a white space where no run begins, stands for its \s. So for the
# line break, five spaces and x of an indented line ("_" is a space)
#
#     GPT-2       "\n____"   "_x"            the word takes the last space
#     CodeGen     "\n"   "_____"   "x"       the run of 5 is one token, id 50283
RUN = r" {2,31}|\t{2,9}"
BLANK = r"(?:(?!  |\t\t)\s)"      # not the first of two spaces or of two tabs
CODEGEN_PATTERN = "|".join([
    RUN,
    r"'(?:[sdmt]|ll|ve|re)",        # how English words are shortened: 's, 'd, 'll, ...
    r" ?\p{L}+",                    # letters, with the space before them
    r" ?\p{N}+",                    # digits, likewise
    r" ?[^\s\p{L}\p{N}]+",          # punctuation, likewise
    rf"{BLANK}+(?!\S)",             # GPT-2's \s+(?!\S): all white space but the last before a word
    BLANK,                          # GPT-2's \s+: that last one, where the word does not take it
])

# Not the paper's: the guard of corpora/tokenizer.py, which cuts endless words and gaps. RUN is
# first, so that a cut falls before or behind a run, as the pattern's own do, and never into it.
CODEGEN_ENDLESS = re.compile(rf"({RUN}|\S{{4000}}|{BLANK}{{4000}})")


def get_tokenizer(name):
    """"gpt2" (CodeGen-NL), "codegen" (MULTI, MONO), "bytes", "miniature", or the path of a
    .tiktoken file -> Tokenizer.

    ValueError says what is wrong: an unknown name, a damaged file, or GPT-2's vocabulary not there
    and no network."""
    name = str(name)
    if name not in ("gpt2", "codegen"):
        return other_tokenizer(name)
    gpt2 = gpt2_arguments()
    ranks, eot = gpt2["mergeable_ranks"], N_GPT2 - 1
    vocab = [*ranks, END_OF_TEXT]       # the ranks count up from 0, so a token's place is its id
    if name == "gpt2":
        return Tokenizer(name, vocab, eot, tiktoken.Encoding(**gpt2), pattern=gpt2["pat_str"])
    ids_of_runs = {run: N_GPT2 + i for i, run in enumerate(RUNS)}       # behind the end of text
    bpe = tiktoken.Encoding(
        name, pat_str=CODEGEN_PATTERN, mergeable_ranks=ranks | ids_of_runs, special_tokens={})
    runs = {run.decode(): i for run, i in ids_of_runs.items()}
    return Tokenizer(name, vocab + RUNS, eot, bpe, CODEGEN_ENDLESS, runs, CODEGEN_PATTERN)


# ---- step 1: filter ------------------------------------------------------------------------------

# reason -> whether a file fails, by its Measures m (corpora/text.py). The paper keeps files whose
# lines have fewer than 100 characters on average (m.in_lines are those of all lines) and none more
# than 1,000, and drops those of which more than 90 % are decimal or hexadecimal digits
# (m.hexadecimal counts both). Prose is let off the two on lines: a paragraph is one long line.
PAPER = {
    "average_line": lambda m: m.in_lines / m.lines >= 100,
    "longest_line": lambda m: m.longest_line > LONGEST_LINE,
    "digits": lambda m: m.hexadecimal > 0.9 * m.characters,
}
FILTERS = {"code": list(PAPER), "prose": ["digits"], "none": []}


def inspect(file, filters="code"):
    """A binary file through the filters -> (None, digest, pieces), or (reason, None, []): dropped.

    What is no text is dropped first, whatever the filters. digest: SHA-256 of the text; pieces:
    [(offset, digest)] of the parts in which it is read again, one but for large files."""
    m = measure(file)
    failed = (name for name in FILTERS[filters] if PAPER[name](m))
    reason = m.reason or next(failed, None)     # m.reason first: a file may have no lines at all
    return (reason, None, []) if reason else (None, m.digest, m.pieces)


# ---- step 2: deduplicate -------------------------------------------------------------------------

def distinct(batches, count):
    """Lists of (Document, reason, digest, pieces), as `inspect` says -> lists of (Document, pieces)
    of those that stay: those that pass the filters, of equal ones the first. `count` (a Counter) is
    told of the others.

    The set of digests is the one thing that grows with the corpus, by 11 to 16 bytes a document."""
    seen = DigestSet()
    for batch in batches:
        stay = []
        for document, reason, digest, pieces in batch:
            if reason or digest in seen:
                count[reason or "duplicate"] += 1
            else:
                seen.add(digest)
                stay.append((document, pieces))
        yield stay


# ---- step 3: tokenize ----------------------------------------------------------------------------

def tokenize(tokenizer, text, language_line=""):
    """The text of a document -> its uint16 ids.

    language_line: for BIGQUERY, whose files in six languages have the language's name before them.
    The paper does not print the exact text; ours is the name on a line of its own."""
    return np.array(tokenizer.encode(language_line + text), np.uint16)


# Worker processes visit each document twice. At the first visit they `inspect` it; then the main
# process, the only one that sees all digests, lets through what is `distinct`; at the second visit
# they `tokenize` that. So no duplicate is tokenized, and of a file only digests and ids travel
# between processes (but a record, such as a line of a .jsonl file, travels as text).
#
#     main process    Documents         distinct          shuffle, concatenate
#                             \         / digests \       / ids
#     workers                  inspect             tokenize

def prepare_documents(documents, count, pool):
    """Steps 1 to 3: yields the uint16 ids of each Document that stays. `count` (a Counter) is told
    of the others; pool: the workers, here or on a cluster."""
    filtered = visits.inspected(pool, documents)
    yield from visits.tokenized(pool, distinct(filtered, count), count)


# ---- step 4: shuffle -----------------------------------------------------------------------------

# A shuffle sorts by keys drawn at random. Here `scatter` draws a key's first digit, the bucket that
# a document goes to, and `shuffled` the rest, its place in there. Buckets are files; one at a time
# is in memory.

def scatter(documents, buckets, rng):
    """Each document, a list or array of ids, to a bucket drawn at random."""
    for ids in documents:
        buckets.add(ids, rng.integers(buckets.n))


def shuffled(buckets, rng):
    """Yields the documents of all buckets, each bucket's permuted, and empties them."""
    for documents in buckets.emptied():
        for i in rng.permutation(len(documents)):
            yield documents[i]


# ---- step 5: concatenate -------------------------------------------------------------------------

# One stream of tokens for each split: here documents a, b and c of 3, 2 and 2, block_size 4.
#
#     stream        a0 a1 a2 <eot> b0 b1 <eot> c0 c1 <eot>
#     sequence 0    a0 a1 a2 <eot> b0                         inputs are all but its last token,
#     sequence 1                   b0 b1 <eot> c0 c1          targets all but its first
#
# Nothing is padded. The tokens after the last whole sequence are counted as unused.

def pack(documents, out, tokenizer, block_size, val_fraction, seed, n_buckets=1, about=dict):
    """Shuffles documents, packs them into sequences of block_size, writes shards and meta.json;
    returns the meta.

    documents: iterator of id lists or arrays, without the end of text, which is added after each.
    After the shuffle the first val_fraction of them are the validation split: at least one whole
    sequence, nothing where it is 0. `divided` (corpora/shards.py) cuts one at most, whose rest is
    training text. about() -> more entries of meta.json, asked after the last document (dict() gives
    none). ValueError, and no folder stays, where it cannot be done."""
    check_fits(tokenizer)
    with written_whole(out) as folder:
        rng = np.random.default_rng(seed)
        buckets = Buckets(folder, n_buckets, tokenizer.eot)
        scatter(documents, buckets, rng)
        stream = shuffled(buckets, rng)
        writers = {split: ShardWriter(folder, split, block_size) for split in ("train", "val")}
        for split, part in divided(
                stream, val_fraction, buckets.documents, buckets.tokens, block_size):
            writers[split].add(part)
        for writer in writers.values():
            writer.close()
        return write_meta(folder, tokenizer, writers, buckets.documents,
                          seed=seed, val_fraction=val_fraction, **about())


# ---- batches -------------------------------------------------------------------------------------

def open_data(spec):
    """A folder made by `prepare`, or "miniature:" and a kind of miniature/open.py ("mono") -> Data.

    FileNotFoundError where there is no such folder, ValueError where its meta.json is damaged or
    does not agree with its shards."""
    if str(spec).startswith("miniature:"):
        from miniature.open import open_miniature
        spec = open_miniature(spec.split(":")[1])
    return open_folder(spec)


def get_sequences(data, split, seed, first, batch_size, process_id=0, num_processes=1):
    """The `batch_size` sequences from number `first` on -> int32 (batch_size // num_processes,
    block_size + 1): a batch, whose targets batch[:, 1:] follow on the inputs batch[:, :-1].

    A function of its arguments and nothing else: no loader state to save but a number. The
    sequences of the split come in an order drawn anew for each epoch, each once an epoch; a batch
    may run over the end of an epoch, or be longer than one. The processes' parts, one after the
    other, are the batch that a single process reads. ValueError where batch_size does not divide
    over them, the split is empty or the data damaged."""
    if batch_size % num_processes or not 0 <= process_id < num_processes:
        raise ValueError(f"batch_size {batch_size} does not divide over {num_processes} processes")
    n = data.sequences(split)
    local = batch_size // num_processes
    # (local,) each. On the right: a batch of 4 from number 8 on, of n = 5 sequences, seed 0.
    numbers = first + process_id * local + np.arange(local)     # over all epochs: 8, 9, 10, 11
    epochs, places = np.divmod(numbers, n)                      # 1, 1, 2, 2 and 3, 4, 0, 1
    rows = np.empty(local, np.int64)                            # of the split: 1, 0, 0, 2
    for epoch in np.unique(epochs):     # one, or more where the batch runs over an epoch's end
        here = epochs == epoch
        rows[here] = permute(places[here], n, (seed, int(epoch)))   # 4, 3, 2, 1, 0 is epoch 1
    return data.read(split, rows)


def get_batch(data, split, seed, step, batch_size, process_id=0, num_processes=1):
    """Batch number `step` of a run whose batches are all of one size; else as get_sequences, which
    train.py calls, because a resumed run may have another batch size."""
    first = step * batch_size
    return get_sequences(data, split, seed, first, batch_size, process_id, num_processes)


# ---- the command ---------------------------------------------------------------------------------

def prepare(args):
    """The five steps over the files of --input; prints what came out."""
    files = commands.chosen_files(args)
    tokenizer = get_tokenizer(args.tokenizer)
    n_bytes, n_text = files.measured()      # bytes to read, and about how many of text they hold
    check = functools.partial(inspect, filters=args.filters)
    if args.exclude_benchmarks:
        check = excluding_benchmarks(check)

    def documents():
        """The ids of each document. A generator, so that the workers leave with the last one."""
        # Each worker calls make_tools(check, ...) as it starts, and has its own tokenizer from it.
        tools = visits.make_tools, check, tokenize, get_tokenizer, args.tokenizer
        with commands.workers_over(args, files, n_bytes, n_text, *tools) as (found, pool):
            yield from prepare_documents(found, files.count, pool)

    # One after another: files -> Documents -> ids -> buckets -> sequences in shards.
    with commands.counted_in_errors(files), closing(documents()) as stream:
        meta = pack(stream, args.out, tokenizer, args.block_size, args.val_fraction, args.seed,
                    buckets_for(n_text), lambda: commands.entries(args, files))
    commands.print_written(args, files, meta)


def parser():
    """The command line."""
    return commands.command_line(" ".join(__doc__.split("\n\n")[0].split()), FILTERS)


def main(argv=None):
    args = parser().parse_args(argv)
    workers = args.workers if args.command == "prepare" else 1
    print(f"data.py: CPU, {workers} process{'es' if workers != 1 else ''}", flush=True)
    with signals_end_once():
        if args.command == "prepare":
            prepare(args)
        else:
            write_bpe(args, functools.partial(inspect, filters=args.filters))


if __name__ == "__main__":
    cli(main)
