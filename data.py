"""From source files to batches: tokenizers, the paper's five steps of preparation (section 2.1),
batches by step.

    python data.py prepare --input PATH ... --out DIR   filter, deduplicate, tokenize, shuffle, pack
    python data.py train-bpe --input PATH ... --vocab_size N --out FILE.tiktoken

JAX is never imported, because the worker processes of `prepare` import this file as they start.
"""
from harness import flags
from harness.cli import CORES, PROJECT, cli, one_line_errors, signals_end_once
from harness.files import replace_file

import argparse
import dataclasses
import functools
import hashlib
import json
import os
import re
from contextlib import closing
from pathlib import Path

from corpora import visits
from corpora.benchmarks import excluding_benchmarks
from corpora.bpe import learn_bpe, write_bpe
from corpora.cluster import absolute_paths, pool_for
from corpora.digests import DigestSet
from corpora.files import TextFiles, input_flags
from corpora.folder import settle_out, written_whole
from corpora.order import permute
from corpora.shards import ShardWriter, divided, open_folder, own_tokenizer, print_totals, totals
from corpora.text import LONGEST_LINE, measure
from corpora.vocabulary import encode_any, gpt2_arguments, read_tiktoken
from corpora.vocabulary import write_tiktoken as write_tiktoken  # for what train_bpe learns

import numpy as np
import tiktoken
from tqdm import tqdm

# ---- tokenizers ----------------------------------------------------------------------------------

END_OF_TEXT = b"<|endoftext|>"  # how the separator is shown; this text in a file is ordinary text

# CodeGen adds to GPT-2's ids 38 more for runs of white space: 31 down to 2 spaces are ids 50257 to
# 50286, 9 down to 2 tabs are 50287 to 50294. They are no special tokens of tiktoken, because its
# search for these would not always take the longest run.
N_GPT2 = 50257
RUNS = [b" " * n for n in range(31, 1, -1)] + [b"\t" * n for n in range(9, 1, -1)]

# Where a text is cut before the merges: GPT-2's pattern with two changes. Runs come first, each as
# long as it can be; and BLANK, a white space where no run begins, stands for its \s. So of
# "\n" + 5 spaces + "x" GPT-2 makes "\n    ", " x"; here it is "\n", the run of 5, "x".
RUN = r" {2,31}|\t{2,9}"
BLANK = r"(?:(?!  |\t\t)\s)"
CODEGEN_PATTERN = "|".join([
    RUN,
    r"'(?:[sdmt]|ll|ve|re)",        # how English words are shortened: 's, 'd, 'll, ...
    r" ?\p{L}+",                    # letters, with the space before them
    r" ?\p{N}+",                    # digits, likewise
    r" ?[^\s\p{L}\p{N}]+",          # punctuation, likewise
    rf"{BLANK}+(?!\S)",             # GPT-2's \s+(?!\S): all white space but the last before a word
    BLANK,                          # GPT-2's \s+: that last one, where the word does not take it
])

# How the text is cut before the merges of a .tiktoken file. Letters are A-Z, a-z and all beyond
# ASCII, because regex libraries (tiktoken's, the trainer's) differ in their tables of Unicode.
PATTERN = "|".join([
    r"[0-9]",                       # a digit alone
    r"[\r\n][ \t\r\n]*",            # a line break, blank lines, and the indentation after them
    r" ?[^\x00-@\[-`{-\x7f]+",      # letters, with the space before them
    r" ?[!-/:-@\[-`{-~\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+",    # all else, likewise
    r"[ \t]+",
])

# A guard that is not the paper's. The merges of one word take up to the square of its length, so a
# word or a gap of 4000 characters is encoded by itself, and what follows it anew; a cut never falls
# into a run. The group makes re.split keep what it cuts at.
ENDLESS = re.compile(r"(\S{4000}|\s{4000})")
CODEGEN_ENDLESS = re.compile(rf"({RUN}|\S{{4000}}|{BLANK}{{4000}})")


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Byte-level tokenizer with decode(encode(s)) == s for every str s. Made by `get_tokenizer`."""
    name: str
    vocab: list = dataclasses.field(repr=False)  # the bytes of each id, end of text included
    eot: int                 # id that ends each document; encode() never returns it
    bpe: object = None       # tiktoken.Encoding, or None for plain bytes
    endless: object = ENDLESS       # re.Pattern
    runs: dict = dataclasses.field(default_factory=dict)    # text -> id of the whitespace runs
    pattern: str = ""        # how the text is cut before the merges

    @property
    def identity(self):
        """A digest of vocabulary and cutting: tokenizers that share it give the same ids, whatever
        their names."""
        parts = [self.pattern, sorted(self.runs), self.eot, [token.hex() for token in self.vocab]]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def n_vocab(self):
        """Number of ids in use, end of text included (the model pads this: 51,200 for CodeGen)."""
        return len(self.vocab)

    def encode(self, text):
        """str -> list of ids. Nothing in the text is special: "<|endoftext|>" in a source file is
        13 characters. A lone surrogate, half a character of a damaged file, becomes 3 bytes."""
        if self.bpe is None:
            return list(text.encode("utf-8", "surrogatepass"))
        return encode_any(self.bpe, text, self.endless)

    def decode_bytes(self, ids):
        """ids -> bytes, for streaming: a character may be spread over tokens. ValueError for an
        unknown id."""
        for i in ids:
            if not 0 <= i < len(self.vocab):
                raise ValueError(f"token id {i} is outside the tokenizer {self.name} "
                                 f"(0 to {len(self.vocab) - 1})")
        return b"".join(self.vocab[i] for i in ids)

    def decode(self, ids):
        """ids -> str. Bytes that are no text (a sampled half of a character) become U+FFFD."""
        raw = self.decode_bytes(ids)
        try:
            return raw.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return raw.decode("utf-8", "replace")


def get_tokenizer(name):
    """"gpt2" (CodeGen-NL), "codegen" (MULTI, MONO), "bytes", "miniature", or the path of a
    .tiktoken file -> Tokenizer.

    ValueError says what is wrong: an unknown name, a damaged file, or GPT-2's vocabulary not there
    and no network.
    """
    name = str(name)
    if name == "bytes":
        return Tokenizer(name, [bytes([i]) for i in range(256)] + [END_OF_TEXT], 256)
    if name in ("gpt2", "codegen"):
        gpt2 = gpt2_arguments()
        ranks, eot = gpt2["mergeable_ranks"], 50256
        vocab = [*ranks, END_OF_TEXT]
        if name == "gpt2":
            return Tokenizer(name, vocab, eot, tiktoken.Encoding(**gpt2), pattern=gpt2["pat_str"])
        ids_of_runs = {run: N_GPT2 + i for i, run in enumerate(RUNS)}
        bpe = tiktoken.Encoding(
            name, pat_str=CODEGEN_PATTERN, mergeable_ranks=ranks | ids_of_runs, special_tokens={})
        runs = {run.decode(): i for run, i in ids_of_runs.items()}
        return Tokenizer(name, vocab + RUNS, eot, bpe, CODEGEN_ENDLESS, runs, CODEGEN_PATTERN)
    path = PROJECT / "miniature" / "miniature.tiktoken" if name == "miniature" else Path(name)
    if path.suffix != ".tiktoken":
        raise ValueError(f"unknown tokenizer {name!r}: use gpt2, codegen, bytes, miniature or a "
                         ".tiktoken file")
    ranks = read_tiktoken(path)
    bpe = tiktoken.Encoding(name, pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    return Tokenizer(name, list(ranks) + [END_OF_TEXT], len(ranks), bpe, pattern=PATTERN)


def train_bpe(texts, vocab_size):
    """Byte-pair encoding learned from an iterable of str -> dict bytes -> rank, for
    `write_tiktoken`: see `learn_bpe`."""
    return learn_bpe(texts, vocab_size, PATTERN)


# ---- step 1: filter ------------------------------------------------------------------------------

# The paper's filters: reason -> whether a file's Measures fail. It keeps files whose lines have
# fewer than 100 characters on average and none more than 1,000, and drops those of which more than
# 90 % are decimal or hexadecimal digits. In prose a paragraph is one long line.
PAPER = {
    "average_line": lambda m: m.in_lines / m.lines >= 100,
    "longest_line": lambda m: m.longest_line > LONGEST_LINE,
    "digits": lambda m: m.hexadecimal > 0.9 * m.characters,
}
FILTERS = {"code": list(PAPER), "prose": ["digits"], "none": []}


def inspect(file, filters="code"):
    """A binary file through the filters -> (None, digest, pieces), or (reason, None, []): dropped.

    What is no text is dropped first, whatever the filters. digest: SHA-256 of the text; pieces:
    [(offset, digest)] of its parts, a single one but for large files.
    """
    m = measure(file)
    failed = (reason for reason in FILTERS[filters] if PAPER[reason](m))
    reason = m.reason or next(failed, None)
    return (reason, None, []) if reason else (None, m.digest, m.pieces)


# ---- step 2: deduplicate -------------------------------------------------------------------------

def distinct(batches, count):
    """Lists of (Document, reason, digest, pieces), as `inspect` says -> lists of (Document, pieces)
    of those that stay: those that pass the filters, of equal ones the first. `count` (a Counter) is
    told of the others.

    The set of digests is the one thing that grows with the corpus, by 11 to 16 bytes a document.
    """
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

# Worker processes see each document twice. First they `inspect` it; then `distinct`, here, in the
# one process that sees all digests, lets through what stays; that they tokenize. So no text of a
# file travels between processes, and no duplicate is tokenized.

# The six languages of BIGQUERY, by their own names and by those of files. The paper puts the
# language's name before each file but does not print the exact text; ours is the name on a line of
# its own.
LANGUAGES = {".c": "C", ".h": "C", ".cc": "C++", ".cpp": "C++", ".cxx": "C++", ".hpp": "C++",
             ".c++": "C++", ".go": "Go", ".java": "Java", ".js": "JavaScript",
             ".javascript": "JavaScript", ".py": "Python", ".python": "Python"}


def language(name):
    """The language of a file's name, of an ending, or of its own name as records have it ("C++",
    "src/a.cc", ".h"); None where it is none of LANGUAGES."""
    return LANGUAGES.get("." + os.path.basename(name).lower().rpartition(".")[2])


def prepare_documents(documents, count, pool):
    """Steps 1 to 3: yields the uint16 ids of each Document that stays. `count` (a Counter) is told
    of the others; pool: the workers, here or on a cluster."""
    filtered = visits.inspected(pool, documents)
    yield from visits.tokenized(pool, distinct(filtered, count), count)


# ---- step 4: shuffle -----------------------------------------------------------------------------

# As in sorting by keys drawn at random: the bucket is a key's first digit, the place in it the
# rest. One bucket is in memory at a time: the ids of about so many bytes of text.
BUCKET = 2 ** 26


def to_buckets(documents, folder, n_buckets, eot, rng):
    """Writes each document, with its end of text, to the end of a bucket file drawn at random ->
    (number of documents, of tokens)."""
    n_documents = n_tokens = 0
    for ids in documents:
        with open(folder / f"bucket{rng.integers(n_buckets)}", "ab") as file:
            np.append(np.asarray(ids, np.uint16), np.uint16(eot)).tofile(file)
        n_documents += 1
        n_tokens += len(ids) + 1
    return n_documents, n_tokens


def shuffled(folder, n_buckets, eot, rng):
    """Yields the documents of all buckets, each bucket's permuted, and removes the buckets."""
    bar = tqdm(range(n_buckets), unit=" buckets", desc="shuffle, pack", disable=n_buckets == 1)
    for bucket in bar:
        path = folder / f"bucket{bucket}"
        if path.exists():       # some document has drawn it
            ids = np.fromfile(path, np.uint16)
            path.unlink()
            # Each ends in eot, which encode() never returns; behind the last one nothing is left.
            documents = np.split(ids, np.flatnonzero(ids == eot) + 1)[:-1]
            for i in rng.permutation(len(documents)):
                yield documents[i]


# ---- step 5: concatenate -------------------------------------------------------------------------

#   document 1 <eot> document 2 <eot> document 3 ...        one stream of tokens a split
#   |--- block_size ---|--- block_size ---|--- ...          sequence i, and one token more: its last
#                                                           target is the next one's first input
# Nothing is padded. The tokens after the last whole sequence are counted as unused.

def pack(documents, out, tokenizer, block_size, val_fraction, seed, n_buckets=1, about=dict):
    """Shuffles documents, packs them into sequences of block_size, writes shards and meta.json;
    returns the meta.

    documents: iterator of id lists or arrays, each without the end of text, which is added after
    each one. The first val_fraction of them after the shuffle are the validation split, one whole
    sequence at least; no document is in both but one, perhaps, that `divided` cuts. about: gives,
    after the last document, what meta.json says beside. ValueError, and nothing stays, where it
    cannot be done.
    """
    if tokenizer.n_vocab > 65536:
        raise ValueError(f"tokenizer {tokenizer.name} has {tokenizer.n_vocab} ids, shards of "
                         "uint16 hold 65536 at most")
    with written_whole(out) as folder:
        rng = np.random.default_rng(seed)
        n_documents, n_tokens = to_buckets(documents, folder, n_buckets, tokenizer.eot, rng)
        if not n_documents:
            raise ValueError("no document is left after the filters: look at --input and "
                             "--extensions")
        stream = shuffled(folder, n_buckets, tokenizer.eot, rng)
        writers = {split: ShardWriter(folder, split, block_size) for split in ("train", "val")}
        for split, part in divided(stream, val_fraction, n_documents, n_tokens, block_size):
            writers[split].add(part)
        for writer in writers.values():
            writer.close()
        meta = {"tokenizer": own_tokenizer(folder, tokenizer.name),
                "vocab_size": tokenizer.n_vocab, "eot": tokenizer.eot, "block_size": block_size,
                "dtype": "uint16", "seed": seed, "val_fraction": val_fraction,
                **about(), **totals(writers, n_documents)}
        replace_file(folder / "meta.json", (json.dumps(meta, indent=1) + "\n").encode())
    return meta


# ---- batches -------------------------------------------------------------------------------------

def open_data(spec):
    """A folder made by `prepare`, or "miniature:mono", "miniature:multi", "miniature:nl" -> Data.

    FileNotFoundError where there is no such folder, ValueError where its meta.json is damaged or
    does not agree with its shards.
    """
    if str(spec).startswith("miniature:"):
        from miniature.open import open_miniature
        spec = open_miniature(spec.split(":")[1])
    return open_folder(spec)


def get_sequences(data, split, seed, first, batch_size, process_id=0, num_processes=1):
    """The `batch_size` sequences from number `first` on -> int32 (batch_size // num_processes,
    block_size + 1), for x = b[:, :-1], y = b[:, 1:].

    A function of its arguments and nothing else: no loader state to save but a number. The
    sequences of the split come in an order drawn anew for each epoch, each once an epoch; a batch
    may run over the end of an epoch, or be longer than one. The processes' parts, one after the
    other, are the batch that a single process reads. ValueError for a token id outside the
    vocabulary: such data is damaged.
    """
    if batch_size % num_processes or not 0 <= process_id < num_processes:
        raise ValueError(f"batch_size {batch_size} does not divide over {num_processes} processes")
    n = int(data.starts[split][-1])     # sequences in the split
    if not n:
        raise ValueError(f"{data.folder} has no {split} sequences: prepare it with --val_fraction "
                         "above 0")
    local = batch_size // num_processes
    numbers = first + process_id * local + np.arange(local)     # (local,), over all epochs
    epochs, places = np.divmod(numbers, n)
    rows = np.empty(local, np.int64)                            # (local,), in the split's files
    for epoch in np.unique(epochs):     # one, or more where the batch runs over an epoch's end
        rows[epochs == epoch] = permute(places[epochs == epoch], n, (seed, int(epoch)))
    # Where the shards start at sequences 0 and 1000 and end at 2000, row 1500 lies in shard 1.
    starts = data.starts[split]
    shard_of = np.searchsorted(starts, rows, "right") - 1
    batch = np.empty((local, data.block_size + 1), np.int32)
    for i, (row, shard) in enumerate(zip(rows, shard_of)):
        start = (row - starts[shard]) * data.block_size
        batch[i] = data.shards[split][shard][start:start + data.block_size + 1]
    if batch.max() >= data.meta["vocab_size"]:
        raise ValueError(f"the data in {data.folder} is damaged ({split} holds the token id "
                         f"{batch.max()} of {data.meta['vocab_size']}): prepare it again")
    return batch


def get_batch(data, split, seed, step, batch_size, process_id=0, num_processes=1):
    """Batch number `step` of a run whose batches are all of one size; else as get_sequences, which
    train.py calls, because its batches may grow."""
    first = step * batch_size
    return get_sequences(data, split, seed, first, batch_size, process_id, num_processes)


# ---- the command ---------------------------------------------------------------------------------

def prepare(args):
    """The five steps over the files of --input; prints what came out."""
    if args.dask:
        absolute_paths(args)
    files = TextFiles.of(args)
    if args.language_prefix:
        files.check_languages(language, LANGUAGES)
    files.left_out |= {str(folder) for folder in settle_out(args.out)}
    tokenizer = get_tokenizer(args.tokenizer)
    n_bytes, n_text = files.measured()     # for the bar, the processes and the buckets
    about = lambda: {"extensions": files.endings, "filters": args.filters,
                     "language_prefix": args.language_prefix,
                     "exclude_benchmarks": args.exclude_benchmarks, **files.numbers()}
    check = functools.partial(inspect, filters=args.filters)
    if args.exclude_benchmarks:
        check = excluding_benchmarks(check)

    def documents():
        workers = min(args.workers, 1 + n_text // 2 ** 20)      # 0.3 s to start, or to encode 1 MB
        tools = visits.start, check, get_tokenizer, args.tokenizer
        with (pool_for(args, workers, *tools) as pool,
              tqdm(total=n_bytes, unit="B", unit_scale=True, desc="filter, tokenize") as bar):
            found = files.documents(bar, language if args.language_prefix else None)
            yield from prepare_documents(found, files.count, pool)

    try:
        with closing(documents()) as stream:
            meta = pack(stream, args.out, tokenizer, args.block_size, args.val_fraction, args.seed,
                        1 + n_text // BUCKET, about)
    except ValueError as error:
        counted = f" ({files.words()})" if files.all_read else ""
        raise ValueError(f"{error}{counted}") from None
    print(f"{meta['documents_seen']:,} documents, {files.words()}")
    print_totals(meta)
    # A folder of its own, because --out_dir is `out` by default and may hold a run already.
    print(f"written to {args.out}. Next:  python train.py --data {args.out} "
          f"--out_dir out-{Path(args.out).resolve().name}")


def parser():
    """The command line."""
    top = argparse.ArgumentParser(
        prog="data.py", description=" ".join(__doc__.split("\n\n")[0].split()), allow_abbrev=False)
    commands = top.add_subparsers(dest="command", required=True, metavar="prepare | train-bpe")
    p = commands.add_parser(
        "prepare", allow_abbrev=False, help="source files to shards of packed sequences")
    b = commands.add_parser(
        "train-bpe", allow_abbrev=False, help="learn a byte-level BPE, digits kept single")
    for command in (p, b):
        input_flags(command)
        command.add_argument("--filters", choices=FILTERS, default="code",
                             help="code: the paper's (default); prose: no limit to lines; none")
        one_line_errors(command)
    one_line_errors(top)
    p.add_argument("--out", type=flags.new_folder, required=True, metavar="DIR",
                   help="folder to make, or an empty one to fill")
    p.add_argument("--tokenizer", type=flags.text, default="codegen",
                   help="gpt2, codegen (default), bytes, miniature, a .tiktoken file")
    p.add_argument("--block_size", type=flags.whole(1), default=2048,
                   help="tokens a sequence (default 2048)")
    p.add_argument("--val_fraction", type=flags.number(0, 0.99), default=0.01,
                   help="documents kept for validation (default 0.01; 0: none)")
    p.add_argument("--seed", type=flags.whole(0, 2 ** 63 - 1), default=0,
                   help="of the shuffle (default 0)")
    p.add_argument("--workers", type=flags.whole(1, 1024), default=CORES,
                   help="processes (default one a core)")
    p.add_argument("--language_prefix", action="store_true",
                   help="put the language's name first (BIGQUERY)")
    p.add_argument("--exclude_benchmarks", action="store_true",
                   help="drop documents that hold a problem of HumanEval or MTPB")
    p.add_argument("--dask", type=flags.text, metavar="ADDRESS",
                   help="work on a dask.distributed cluster; local: start one here")
    b.add_argument("--vocab_size", type=flags.whole(257, 65536), required=True,
                   help="number of ids, end of text included")
    b.add_argument("--out", type=flags.new_file, required=True, metavar="FILE.tiktoken",
                   help="file to write")
    return top


def main(argv=None):
    args = parser().parse_args(argv)
    workers = args.workers if args.command == "prepare" else 1
    print(f"data.py: CPU, {workers} process{'es' if workers != 1 else ''}", flush=True)
    with signals_end_once():
        prepare(args) if args.command == "prepare" else write_bpe(
            args, PATTERN, functools.partial(inspect, filters=args.filters))


if __name__ == "__main__":
    cli(main)
