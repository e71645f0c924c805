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
import shutil
from contextlib import closing
from pathlib import Path

from corpora import visits
from corpora.benchmarks import excluding_benchmarks
from corpora.bpe import learn_bpe, write_bpe
from corpora.cluster import absolute_paths, pool_for
from corpora.digests import DigestSet
from corpora.files import TextFiles, input_flags
from corpora.folder import settle_out, written_whole
from corpora.shards import ShardWriter, divided, open_folder, print_totals, totals
from corpora.text import LONGEST_LINE, measure
from corpora.vocabulary import encode_any, gpt2_arguments, read_tiktoken
from corpora.vocabulary import write_tiktoken as write_tiktoken  # for what train_bpe learns

import numpy as np
import tiktoken
from tqdm import tqdm

# ---- tokenizers ----------------------------------------------------------------------------------

END_OF_TEXT = b"<|endoftext|>"  # how the separator is shown; this text in a file is ordinary text

# CodeGen adds 38 runs of white space to GPT-2's 50,257 entries: 31 down to 2 spaces are ids 50257
# to 50286, 9 down to 2 tabs are 50287 to 50294. The regex cuts each as long as it can be, before it
# looks for GPT-2's words: of 32 spaces 31 are a run, and the BPE gets the last. They are no special
# tokens of tiktoken, because it would not always take the longest.
RUNS = [b" " * n for n in range(31, 1, -1)] + [b"\t" * n for n in range(9, 1, -1)]
RUN = r" {2,31}|\t{2,9}"
BLANK = r"(?:(?!  |\t\t)\s)"        # white space that begins no run
CODEGEN_PATTERN = "|".join([
    RUN,
    r"'(?:[sdmt]|ll|ve|re)",        # how English words are shortened: 's, 'd, 'll, ...
    r" ?\p{L}+",                    # letters, with the space before them
    r" ?\p{N}+",                    # digits, likewise
    r" ?[^\s\p{L}\p{N}]+",          # punctuation, likewise
    rf"{BLANK}+(?!\S)",             # white space, but for the last one before a word,
    BLANK,                          # which stands alone where the word does not take it
])

# How the text is cut before the merges of a .tiktoken file. "Letters" are all characters but
# ASCII's others, because then every regex library cuts alike: tiktoken's and the trainer's.
PATTERN = "|".join([
    r"[0-9]",                       # a digit alone
    r"[\r\n][ \t\r\n]*",            # a line break, blank lines, and the indentation after them
    r" ?[^\x00-@\[-`{-\x7f]+",      # letters, with the space before them
    r" ?[!-/:-@\[-`{-~\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+",    # all else, likewise
    r"[ \t]+",
])

# Where a text is cut even before, because the merges of one word take up to the square of its
# length: after 4000 characters that are one word or one gap.
ENDLESS = re.compile(r"(\S{4000}|\s{4000})")
CODEGEN_ENDLESS = re.compile(rf"({RUN}|\S{{4000}}|{BLANK}{{4000}})")


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Byte-level tokenizer with decode(encode(s)) == s for every str s. Made by `get_tokenizer`."""
    name: str
    vocab: list = dataclasses.field(repr=False)  # the bytes of each id, end of text included
    eot: int                 # id that ends each document; encode() never returns it
    bpe: object = None       # tiktoken.Encoding, or None for plain bytes
    endless: object = ENDLESS
    runs: dict = dataclasses.field(default_factory=dict)  # text -> id of the whitespace runs
    pattern: str = ""        # how the text is cut before the merges

    @property
    def identity(self):
        """A digest of vocabulary and cutting: tokenizers that share it give the same ids, whatever
        their names."""
        said = [self.pattern, sorted(self.runs), self.eot, [token.hex() for token in self.vocab]]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    @property
    def n_vocab(self):
        """Number of ids in use, end of text included (the model pads this: 51,200 for CodeGen)."""
        return len(self.vocab)

    def encode(self, text):
        """str -> list of ids. Nothing in the text is special: "<|endoftext|>" in a source file is
        13 characters."""
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
        runs = {run: 50257 + i for i, run in enumerate(RUNS)}
        bpe = tiktoken.Encoding(
            name, pat_str=CODEGEN_PATTERN, mergeable_ranks=ranks | runs, special_tokens={})
        runs = {run.decode(): i for run, i in runs.items()}
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

# The paper's filters: reason -> whether a text's Measures fail. Prose is one long line a paragraph.
PAPER = {
    "average_line": lambda text: text.in_lines / text.lines >= 100,
    "longest_line": lambda text: text.longest_line > LONGEST_LINE,
    "digits": lambda text: text.hexadecimal > 0.9 * text.characters,
}
FILTERS = {"code": list(PAPER), "prose": ["digits"], "none": []}


def inspect(file, filters="code"):
    """A binary file through the filters -> (None, digest, pieces), or (reason, None, []): dropped.

    What is no text is dropped first, whatever the filters. digest: SHA-256 of the text; pieces:
    [(offset, digest)] of its parts, a single one but for large files.
    """
    text = measure(file)
    failed = (reason for reason in FILTERS[filters] if PAPER[reason](text))
    reason = text.reason or next(failed, None)
    return (reason, None, []) if reason else (None, text.digest, text.pieces)


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

BUCKET = 2 ** 26      # bytes of text that share a bucket: what `shuffled` holds in memory, no more


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
    """Yields the documents of all buckets, each bucket's permuted, and removes the buckets. Drawing
    the bucket and the place in it is together one uniform shuffle of all documents."""
    bar = tqdm(range(n_buckets), unit=" buckets", desc="shuffle, pack", disable=n_buckets == 1)
    for bucket in bar:
        path = folder / f"bucket{bucket}"
        if path.exists():
            ids = np.fromfile(path, np.uint16)
            path.unlink()
            pieces = np.split(ids, np.flatnonzero(ids == eot) + 1)[:-1]
            for i in rng.permutation(len(pieces)):
                yield pieces[i]


# ---- step 5: concatenate -------------------------------------------------------------------------

def pack(documents, out, tokenizer, block_size, val_fraction, seed, n_buckets=1, about=None):
    """Shuffles documents, packs them into sequences of block_size, writes shards and meta.json;
    returns the meta.

    documents: iterator of id lists or arrays, each without the end of text, which is added after
    each one. The first val_fraction of them after the shuffle are the validation split (one whole
    sequence at least), so no document is in both; where whole ones would take too much from
    training, one is cut (`divided`). Nothing is padded; the tokens after the last whole sequence of
    a split are counted as unused. meta.json is written last, in OUT.tmp which is then renamed, or
    in OUT where that is an empty folder. ValueError, and nothing stays, where it cannot be done.
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
        name = tokenizer.name
        if name.endswith(".tiktoken"):  # the folder keeps its own copy and can be moved
            shutil.copyfile(name, folder / Path(name).name)
            name = Path(name).name
        meta = {"tokenizer": name, "vocab_size": tokenizer.n_vocab, "eot": tokenizer.eot,
                "block_size": block_size, "dtype": "uint16", "seed": seed,
                "val_fraction": val_fraction, **(about or {}), **totals(writers, n_documents)}
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


def permute(index, n, key):
    """index (array of ints below n) -> their places in a permutation of n drawn by key (a tuple of
    ints), each below n.

    A Feistel network over the next even number of bits; a place that falls outside n is sent
    through again until it falls inside. So an epoch's order takes no memory: BIGPYTHON's 35 million
    sequences would be a table of 0.3 GB.
    """
    half = np.uint64(max(1, (int(n - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = np.random.SeedSequence(key).generate_state(12, np.uint64).reshape(6, 2)
    place = np.array(index, np.uint64)
    todo = np.arange(len(place))
    while len(todo):
        left, right = place[todo] >> half, place[todo] & mask
        for add, multiply in keys:  # six rounds: each hashes one half into the other
            mixed = (right + add) * (multiply | np.uint64(1))
            mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)
            left, right = right, left ^ ((mixed >> np.uint64(32)) & mask)
        place[todo] = (left << half) | right
        todo = todo[place[todo] >= n]
    return place.astype(np.int64)


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
    n = int(data.starts[split][-1])
    if not n:
        raise ValueError(f"{data.folder} has no {split} sequences: prepare it with --val_fraction "
                         "above 0")
    local = batch_size // num_processes
    epoch, place = np.divmod(first + process_id * local + np.arange(local), n)
    rows = np.empty(local, np.int64)
    for e in np.unique(epoch):
        rows[epoch == e] = permute(place[epoch == e], n, (seed, int(e)))
    batch = np.empty((local, data.block_size + 1), np.int32)
    shards = np.searchsorted(data.starts[split], rows, "right") - 1
    for i, (row, shard) in enumerate(zip(rows, shards)):
        start = (row - data.starts[split][shard]) * data.block_size
        batch[i] = data.shards[split][shard][start:start + data.block_size + 1]
    if batch.max() >= data.meta["vocab_size"]:
        raise ValueError(f"the data in {data.folder} is damaged ({split} holds the token id "
                         f"{batch.max()} of {data.meta['vocab_size']}): prepare it again")
    return batch


def get_batch(data, split, seed, step, batch_size, process_id=0, num_processes=1):
    """Batch number `step` of a run whose batches are all of one size; else as get_sequences."""
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
    about = {"extensions": files.endings, "filters": args.filters,
             "language_prefix": args.language_prefix, "exclude_benchmarks": args.exclude_benchmarks}
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
        about.update(files.numbers())

    try:
        with closing(documents()) as stream:
            meta = pack(stream, args.out, tokenizer, args.block_size, args.val_fraction, args.seed,
                        1 + n_text // BUCKET, about)
    except ValueError as error:
        counted = f" ({files.words()})" if "kept" in about else ""
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
