"""From source files to batches: tokenizers, the paper's five steps of preparation (section 2.1), batches by step.

    python data.py prepare --input PATH ... --out DIR   filter, deduplicate, tokenize, shuffle, pack
    python data.py train-bpe --input PATH ... --vocab_size N --out FILE.tiktoken

Only numpy and tiktoken are imported, never jax: the worker processes of `prepare` start in a blink.
"""
import argparse
import base64
import codecs
import collections
import concurrent.futures
import contextlib
import dataclasses
import fcntl
import hashlib
import heapq
import io
import json
import multiprocessing
import os
import re
import shutil
import stat
import threading
import zlib
from pathlib import Path

from harness import flags
from harness.cli import CORES, PROJECT, cli, one_line_errors, signals_end_once, signals_wait
from harness.files import read_json, replace_file

import numpy as np
import tiktoken
from tiktoken_ext.openai_public import r50k_base
from tqdm import tqdm

# ---------------------------------------------------------------------------------------------------------------------
# Tokenizers

GPT2_URL = "https://openaipublic.blob.core.windows.net/encodings/r50k_base.tiktoken"
END_OF_TEXT = b"<|endoftext|>"  # how the separator shows when it is decoded; this text in a file is ordinary text

# CodeGen adds 38 whitespace runs to GPT-2's 50,257 entries: 31 down to 2 spaces are ids 50257 to 50286, 9 down to 2
# tabs are 50287 to 50294. They are cut from the text before GPT-2's words, each as long as it can be: 32 spaces are a
# run of 31 and one space that is left to the BPE. As special tokens of tiktoken they would not always be the longest.
RUNS = [b" " * n for n in range(31, 1, -1)] + [b"\t" * n for n in range(9, 1, -1)]
RUN = r" {2,31}|\t{2,9}"
BLANK = r"(?:(?!  |\t\t)\s)"     # white space that begins no run
CODEGEN_PATTERN = rf"{RUN}|'(?:[sdmt]|ll|ve|re)| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|{BLANK}+(?!\S)|{BLANK}"
# A lone surrogate is no valid UTF-8, hence nothing that tiktoken can encode: it goes in as its three bytes.
SURROGATE = re.compile("([\ud800-\udfff])")
# A merge takes up to n^2 steps in the length of one word and a regex may backtrack over it: cut the endless ones.
ENDLESS = re.compile(r"(\S{4000}|\s{4000})")
CODEGEN_ENDLESS = re.compile(rf"({RUN}|\S{{4000}}|{BLANK}{{4000}})")

# How the text is cut before the merges, for every .tiktoken file: a digit alone; a line break with the blank lines and
# the indentation after it (so a Python line starts with one token); letters, and all else, each with a space before.
# "Letters" are all characters but ASCII's non-letters: Python's re (trainer) and Rust's regex (tiktoken) cut alike.
PATTERN = r"[0-9]|[\r\n][ \t\r\n]*| ?[^\x00-@\[-`{-\x7f]+| ?[!-/:-@\[-`{-~\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+|[ \t]+"


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
        """Number of ids in use, end of text included (the model pads this: 51,200 rows for CodeGen)."""
        return len(self.vocab)

    def encode(self, text):
        """str -> list of ids. Nothing in the text is special: "<|endoftext|>" in a source file is 13 characters."""
        if self.bpe is None:
            return list(text.encode("utf-8", "surrogatepass"))
        ids = []
        for i, part in enumerate(SURROGATE.split(text)):  # odd places: a surrogate
            if i % 2:
                ids += [self.bpe.encode_single_token(bytes([b])) for b in part.encode("utf-8", "surrogatepass")]
            else:
                # Where 4000 characters are one word or one gap, one of these blocks of 2000 does not hold two words.
                blocks = (part[start:start + 2000] for start in range(0, len(part) - 1999, 2000))
                whole = all(len(block.split(None, 1)) == 2 for block in blocks)
                for piece in [part] if whole else self.endless.split(part):
                    ids += self.bpe.encode_ordinary(piece)
        return ids

    def decode_bytes(self, ids):
        """ids -> bytes, for streaming: a character may be spread over tokens. ValueError for an unknown id."""
        for i in ids:
            if not 0 <= i < len(self.vocab):
                raise ValueError(f"token id {i} is outside the tokenizer {self.name} (0 to {len(self.vocab) - 1})")
        return b"".join(self.vocab[i] for i in ids)

    def decode(self, ids):
        """ids -> str. Bytes that are no text (a sampled half of a character) become U+FFFD."""
        raw = self.decode_bytes(ids)
        try:
            return raw.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return raw.decode("utf-8", "replace")


def get_tokenizer(name):
    """"gpt2" (CodeGen-NL), "codegen" (MULTI, MONO), "bytes", "miniature", or the path of a .tiktoken file -> Tokenizer.

    ValueError says what is wrong: an unknown name, a damaged file, or GPT-2's vocabulary not there and no network.
    """
    name = str(name)
    if name == "bytes":
        return Tokenizer(name, [bytes([i]) for i in range(256)] + [END_OF_TEXT], 256)
    if name in ("gpt2", "codegen"):
        gpt2 = gpt2_arguments()
        vocab = [*gpt2["mergeable_ranks"], END_OF_TEXT]
        if name == "gpt2":
            return Tokenizer(name, vocab, 50256, tiktoken.Encoding(**gpt2), pattern=gpt2["pat_str"])
        runs = {run: 50257 + i for i, run in enumerate(RUNS)}
        ranks = gpt2["mergeable_ranks"] | runs
        bpe = tiktoken.Encoding(name, pat_str=CODEGEN_PATTERN, mergeable_ranks=ranks, special_tokens={})
        runs = {run.decode(): i for run, i in runs.items()}
        return Tokenizer(name, vocab + RUNS, 50256, bpe, CODEGEN_ENDLESS, runs, CODEGEN_PATTERN)
    path = PROJECT / "miniature" / "miniature.tiktoken" if name == "miniature" else Path(name)
    if path.suffix != ".tiktoken":
        raise ValueError(f"unknown tokenizer {name!r}: use gpt2, codegen, bytes, miniature or a .tiktoken file")
    ranks = read_tiktoken(path)
    bpe = tiktoken.Encoding(name, pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    return Tokenizer(name, list(ranks) + [END_OF_TEXT], len(ranks), bpe, pattern=PATTERN)


def gpt2_arguments():
    """What tiktoken.Encoding makes GPT-2's BPE of, from tiktoken's cache, or downloaded into it once (0.8 MB)."""
    try:
        return r50k_base()
    except Exception as error:  # requests' own errors, a checksum that differs, a cache folder that cannot be written
        file = hashlib.sha1(GPT2_URL.encode()).hexdigest()
        raise ValueError(f"GPT-2's vocabulary cannot be loaded ({type(error).__name__}): download {GPT2_URL}, "
                         f"save it as DIR/{file} and set TIKTOKEN_CACHE_DIR=DIR") from error


def read_tiktoken(path):
    """A .tiktoken file (one token a line: base64, space, rank) -> dict bytes -> rank, in rank order."""
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise ValueError(f"cannot read the tokenizer {path}: {error.strerror}") from error
    try:
        pairs = [line.split() for line in lines if line]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    except ValueError as error:
        raise ValueError(f"{path} is not a .tiktoken file (lines of base64, space, rank): {error}") from error
    if list(ranks.values()) != list(range(len(pairs))) or any(bytes([i]) not in ranks for i in range(256)):
        raise ValueError(f"{path} is damaged: ranks must count up from 0 and all 256 single bytes must be there")
    return ranks


def write_tiktoken(path, ranks):
    """dict bytes -> rank -> .tiktoken file, written under another name and renamed."""
    rows = sorted(ranks.items(), key=lambda item: item[1])
    replace_file(path, b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in rows))


def train_bpe(texts, vocab_size):
    """Byte-pair encoding learned from an iterable of str -> dict bytes -> rank, at most vocab_size - 1 entries.

    The id after the last rank is the end of text, so vocab_size is what the model sees. Fewer entries come back when
    the text has no pair left that occurs twice. Sennrich et al. 2016, on bytes, inside the pieces that PATTERN cuts.
    """
    if not 257 <= vocab_size <= 65536:
        raise ValueError(f"vocab_size {vocab_size}: must be 257 (256 bytes, end of text) to 65536 (uint16 shards)")
    counts = collections.Counter()
    for text in texts:
        counts.update(re.findall(PATTERN, text))
    words = [list(word.encode("utf-8", "surrogatepass")) for word in counts]
    weights = list(counts.values())

    # Each merge touches only the words that hold its pair: `where` finds them, pair_count is kept up to date, and the
    # heap gets a new entry whenever a count changes. An entry that disagrees with pair_count is stale and skipped.
    pair_count, where = collections.Counter(), collections.defaultdict(set)
    for w, word in enumerate(words):
        for pair in zip(word, word[1:]):
            pair_count[pair] += weights[w]
            where[pair].add(w)
    heap = [(-count, pair) for pair, count in pair_count.items()]
    heapq.heapify(heap)
    vocab = [bytes([i]) for i in range(256)]
    ranks = {token: i for i, token in enumerate(vocab)}
    while heap and len(vocab) < vocab_size - 1:
        count, pair = heapq.heappop(heap)
        if -count != pair_count[pair]:
            continue
        if -count < 2:
            break
        token = vocab[pair[0]] + vocab[pair[1]]
        if token not in ranks:  # "ab" + "c" may follow "a" + "bc": the same bytes are one token, as for tiktoken
            ranks[token] = len(vocab)
            vocab.append(token)
        changed = set()
        for w in where.pop(pair, ()):
            old, new, i = words[w], [], 0
            while i < len(old):
                if i + 1 < len(old) and (old[i], old[i + 1]) == pair:
                    new.append(ranks[token])
                    i += 2
                else:
                    new.append(old[i])
                    i += 1
            for p in zip(old, old[1:]):
                pair_count[p] -= weights[w]
                changed.add(p)
            for p in zip(new, new[1:]):
                pair_count[p] += weights[w]
                where[p].add(w)
                changed.add(p)
            words[w] = new
        for p in changed:
            if pair_count[p] > 0:
                heapq.heappush(heap, (-pair_count[p], p))
    return ranks


# ---------------------------------------------------------------------------------------------------------------------
# Filter and deduplicate (paper section 2.1, steps 1 and 2)

# The six languages of BIGQUERY. The paper puts the language's name before each file but does not print the exact text;
# ours is the name on a line of its own.
LANGUAGES = {".c": "C", ".h": "C", ".cc": "C++", ".cpp": "C++", ".cxx": "C++", ".hpp": "C++", ".go": "Go",
             ".java": "Java", ".js": "JavaScript", ".py": "Python"}
PIECE = 2 ** 24     # characters read at once: a longer file is a stream of pieces, each a document
LONGEST_LINE = 1000
# Why a file is left out, in the order of the tests: a file counts under the first that it fails.
REASONS = ("extension", "unreadable", "empty", "nul_byte", "not_utf8", "average_line",
           "longest_line", "digits", "duplicate")
# How a file says its encoding. UTF-32 stands first, because its mark begins with that of UTF-16.
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
         codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_text(file, place=0):
    """Yields (place, text) for each piece of a binary file: PIECE characters, on to the line's end.

    The byte order mark tells the encoding and is no part of the text; without one it is UTF-8. A
    piece can be read again from its place. UnicodeDecodeError where the bytes are no text.
    """
    start = file.read(4)
    encoding = next((name for mark, name in MARKS.items() if start.startswith(mark)), "utf-8")
    file.seek(0)
    reader = io.TextIOWrapper(file, encoding, newline="\n")
    reader.seek(place)
    while text := reader.read(PIECE):
        if len(text) == PIECE:
            text += reader.readline(LONGEST_LINE + 1)
        yield place, text
        place = reader.tell()


def comparable(text):
    """str -> the bytes by which copies are found: those with Windows' line ends are copies too."""
    return text.encode().replace(b"\r\n", b"\n")


def inspect(file):
    """A binary file through the filters -> (None, digest, pieces), or (reason, None, []): dropped.

    digest: SHA-256 of the text; pieces: [(place, digest of the piece)]. The last three filters are
    the paper's; they look at the whole file, of which one piece is in memory at a time.
    """
    digest, pieces = hashlib.sha256(), []
    blank, lines, in_lines, longest, hexadecimal, characters = True, 0, 0, 0, 0, 0
    try:
        for place, text in read_text(file):
            if "\0" in text:
                return "nul_byte", None, []
            raw = comparable(text)
            digest.update(raw)
            pieces.append((place, hashlib.sha256(raw).digest()))
            blank = blank and text.isspace()
            lengths = [len(line) for line in text.removesuffix("\n").split("\n")]
            lines += len(lengths)
            in_lines += sum(lengths)
            longest = max(longest, *lengths)
            hexadecimal += len(raw) - len(raw.translate(None, b"0123456789abcdefABCDEF"))
            characters += len(text)
    except UnicodeDecodeError as error:
        binary = error.encoding == "utf-8" and b"\0" in error.object
        return "nul_byte" if binary else "not_utf8", None, []
    if blank:
        return "empty", None, []
    if in_lines / lines >= 100:
        return "average_line", None, []
    if longest > LONGEST_LINE:
        return "longest_line", None, []
    if hexadecimal > 0.9 * characters:
        return "digits", None, []
    return None, digest.digest(), pieces


def filter_reason(raw):
    """bytes of a file -> None, or the first filter that drops it."""
    return inspect(io.BytesIO(raw))[0]


# Folders that hold no work of their owner, or hold it twice. One that --input names is read.
PASSED_OVER = {".git", ".hg", ".svn", "node_modules", "__pycache__"}
ENVIRONMENT = ("pyvenv.cfg", "conda-meta")     # what a virtual environment holds


def passed_over(folder):
    """What kind of folder it is that is passed over; None for all others."""
    name = os.path.basename(os.path.abspath(folder))
    if name in PASSED_OVER:
        return name
    if any(os.path.exists(os.path.join(folder, file)) for file in ENVIRONMENT):
        return "virtual environment"


def walk(inputs, skip=(), folders=None):
    """Yields (path, size in bytes) of the files that `inputs` name and of every file below its
    folders, sorted; size is None for what is no regular file.

    Links to folders are not followed, so loops end. Those in `skip` (our own output) are left out.
    `folders` (a Counter) is told of what is passed over by its kind, and of what is "unreadable".
    """
    folders = collections.Counter() if folders is None else folders

    def measured(path):
        try:
            status = os.stat(path)
            return path, status.st_size if stat.S_ISREG(status.st_mode) else None
        except OSError:  # a link to itself or to nothing
            return path, None

    for top in inputs:
        if not os.path.isdir(top):
            yield measured(top)
            continue
        everything = passed_over(top)
        for folder, names, files in os.walk(top, onerror=lambda _: folders.update(["unreadable"])):
            below = []
            for name in sorted(names):
                path = os.path.join(folder, name)
                if kind := not everything and passed_over(path):
                    folders[kind] += 1
                elif os.path.realpath(path) not in skip:
                    below.append(name)
            names[:] = below
            for file in sorted(files):
                yield measured(os.path.join(folder, file))


def ends_in(path, endings):
    """Whether a file is chosen: by its name's end (".d.ts", "py"), or by all of it ("Makefile")."""
    name = os.path.basename(path).lower()
    return any(name.endswith("." + ending.lstrip(".")) or name == ending for ending in endings)


def language(name):
    """The language of a file's name, or of an ending; None where it is none of LANGUAGES."""
    return LANGUAGES.get("." + os.path.basename(name).lower().rpartition(".")[2])


def chosen(inputs, endings, skip, files, folders):
    """Yields (path, size) of the files to read: those with one of the endings, and those that
    `inputs` name. The Counters are told of the others."""
    named = set(inputs)
    for path, size in walk(inputs, skip, folders):
        files["files_seen"] += 1
        if not ends_in(path, endings) and path not in named:
            files["extension"] += 1
        elif size is None:
            files["unreadable"] += 1
        else:
            yield path, size


def what_was_there(files, folders):
    """The Counters of a walk in words, and as they stand in meta.json."""
    dropped = {reason: files[reason] for reason in REASONS}
    others = {kind: n for kind, n in sorted(folders.items()) if kind != "unreadable"}
    kept = files["files_seen"] - sum(dropped.values())
    listed = lambda counts: ", ".join(f"{name} {n:,}" for name, n in counts.items() if n) or "none"
    words = f"{kept:,} kept; dropped: {listed(dropped)}"
    if others:
        words += f"; folders passed over: {listed(others)}"
    if folders["unreadable"]:
        words += f"; folders that cannot be read: {folders['unreadable']:,}"
    return words, {"files_seen": files["files_seen"], "kept": kept, "dropped": dropped,
                   "unreadable_folders": folders["unreadable"], "passed_over": others,
                   "large_files": files["large"], "documents_of_large_files": files["pieces"]}


def check_files(paths):
    """Worker, first visit: [path] -> [(path, reason, digest, pieces)]."""
    found = []
    for path in paths if not told_to_stop() else []:
        try:
            with open(path, "rb") as file:
                found.append((path, *inspect(file)))
        except OSError:
            found.append((path, "unreadable", None, []))
    return found


def read_piece(path, place, digest):
    """The text of a piece; None where the file has changed since its inspection, or is gone."""
    try:
        with open(path, "rb") as file:
            text = next(read_text(file, place))[1]
            return text if hashlib.sha256(comparable(text)).digest() == digest else None
    except (OSError, ValueError, OverflowError, StopIteration):
        return None


def tokenize_pieces(jobs):
    """Worker, second visit: [(path, place, digest, prefix)] -> [(path, uint16 ids)], None for the
    ids where the file has changed since."""
    documents = []
    for path, place, digest, prefix in jobs if not told_to_stop() else []:
        text = read_piece(path, place, digest)
        ids = None if text is None else np.array(WORKER.encode(prefix + text), np.uint16)
        documents.append((path, ids))
    return documents


STOP = WORKER = None    # of a worker: set when the run is over before its end; its tokenizer


def told_to_stop():
    return STOP is not None and STOP.is_set()


def start_worker(tokenizer, stop):
    """Runs once in each worker, which leaves when its parent was killed."""
    global STOP, WORKER
    STOP, WORKER = stop, get_tokenizer(tokenizer)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def bounded_map(pool, function, items, window):
    """pool.map in order, with at most `window` items on the way: `items` may be endless, memory is not."""
    pending = collections.deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) >= window:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def batched(files, size=2 ** 18):
    """(path, bytes) pairs -> lists of paths of about 256 KB together: work for some 0.04 s, little to keep in flight."""
    batch, total = [], 0
    for path, n_bytes in files:
        batch.append(path)
        total += n_bytes + 1024
        if total >= size:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def prepare_documents(paths, tokenizer, workers, language_prefix, files, total):
    """Steps 1 to 3: yields the uint16 ids of each document that stays. `paths`: (path, size), of
    `total` files; `files` (a Counter) is told what became of them.

    Two visits to each file, the second mostly from the page cache: the first decides (filters,
    digest), the second tokenizes only what stays, so duplicates cost no tokenization and no text
    travels between processes. The set of digests (32 bytes each) is the one thing that grows with
    the corpus: 0.1 GB a million distinct files.
    """
    def stay(pool):
        seen = set()
        for results in bounded_map(pool, check_files, batched(paths), 4 * workers):
            jobs = []
            for path, reason, digest, pieces in results:
                reason = reason or ("duplicate" if digest in seen else None)
                if reason:
                    files[reason] += 1
                    continue
                seen.add(digest)
                prefix = language(path) + "\n" if language_prefix else ""
                parts = [(path, *piece, prefix) for piece in pieces]
                if len(parts) == 1:
                    jobs += parts
                else:                       # a large file: each piece is work enough
                    files["large"] += 1
                    files["pieces"] += len(parts)
                    yield from ([part] for part in parts)
            bar.update(len(results))
            yield jobs

    changed = set()
    context = multiprocessing.get_context("spawn")  # fork would copy the caller's threads and locks
    stop = context.Event()
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, context, start_worker, (tokenizer, stop))
    with tqdm(total=total, unit=" files", desc="filter, tokenize") as bar:
        try:
            with signals_wait():
                for _ in range(workers):    # each call starts a process
                    pool.submit(int)
            for documents in bounded_map(pool, tokenize_pieces, stay(pool), 4 * workers):
                for path, ids in documents:
                    if ids is not None:
                        yield ids
                    elif path not in changed:
                        changed.add(path)
                        files["unreadable"] += 1
        except concurrent.futures.BrokenExecutor:
            for process in multiprocessing.active_children():   # the others, for which it waits
                process.kill()
            raise ValueError("a process that tokenizes was killed, perhaps for lack of memory: try "
                             "fewer --workers") from None
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


# ---------------------------------------------------------------------------------------------------------------------
# Shuffle and pack (steps 4 and 5)

SHARD = 2 ** 27       # tokens a shard file: 256 MB
BUCKET = 2 ** 26      # bytes of text that share a bucket of the shuffle: what `pack` holds in memory, and no more
MARKER = "unfinished"  # tells a half-written folder of ours from any other folder of that name


OURS = re.compile(rf"{MARKER}|bucket\d+|(train|val)\d{{5}}\.bin|meta\.json.*\.part")


def settle_out(out):
    """What `pack` is to write -> (the folder, links followed; where to write until it is whole).

    A folder that is there is filled, because neither a link's target nor a mount point can be
    renamed over. ValueError, before any work, where something else lies there or nothing can be
    written.
    """
    out = Path(os.path.realpath(out))
    if out.is_symlink():
        raise ValueError(f"{out} is a link that leads to itself: choose another --out")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: choose another --out")
    folder = out if out.is_dir() else out.with_name(out.name + ".tmp")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, and is needed while writing: choose another --out")
    check_ours(folder)
    above = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(f"nothing can be written in {above}: choose another --out")
    return out, folder


def check_ours(folder):
    """ValueError where a folder holds more than an unfinished run of ours left in it."""
    names = os.listdir(folder) if folder.exists() else []
    if any(not OURS.fullmatch(name) for name in names) or names and MARKER not in names:
        raise ValueError(f"{folder} exists already and is not an unfinished run of ours: delete "
                         "it, or choose another --out")


@contextlib.contextmanager
def unfinished_folder(folder, is_out):
    """A folder for the time of writing: what a killed run left in it goes. If this one fails, too,
    nothing stays but an `out` that was there before."""
    marker = folder / MARKER
    made = [] if is_out else [folder, *(path for path in folder.parents if not path.exists())]
    folder.mkdir(parents=True, exist_ok=True)
    with open(marker, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)   # given back however the process ends
        except BlockingIOError:
            raise ValueError(f"another run is writing {folder}: wait for it, or choose another "
                             "--out") from None
        check_ours(folder)      # again, because now nobody else writes
        try:
            for path in folder.iterdir():
                if path != marker:
                    path.unlink()
            yield
        except BaseException:
            for path in folder.iterdir():
                path.unlink()
            with contextlib.suppress(OSError):
                for path in made:
                    path.rmdir()
            raise
        marker.unlink()


class ShardWriter:
    """The token stream of one split, cut into shard files that each hold whole sequences and one token more."""

    def __init__(self, folder, split, block_size):
        self.folder, self.split, self.block_size = folder, split, block_size
        self.capacity = max(1, SHARD // block_size) * block_size + 1
        self.documents = self.tokens = self.sequences = 0
        self.shards, self.file, self.written, self.last = [], None, 0, None

    def add(self, ids):
        """Appends one document."""
        self.documents += 1
        self.tokens += len(ids)
        while len(ids):
            if self.file is None:
                self.file = open(self.folder / f"{self.split}{len(self.shards):05d}.bin", "wb")
                if self.last is not None:  # the last target of one shard is the first input of the next
                    self.file.write(self.last.tobytes())
                self.written = int(self.last is not None)
            part, ids = np.split(ids, [self.capacity - self.written])
            self.file.write(part.tobytes())
            self.written += len(part)
            self.last = part[-1:]
            if self.written == self.capacity:
                self.end_shard()

    def end_shard(self):
        """Closes the open file after its last whole sequence; a file without one goes."""
        sequences = (self.written - 1) // self.block_size
        self.file.truncate(2 * (sequences * self.block_size + 1))
        self.file.close()
        if sequences:
            crc32 = zlib.crc32(np.fromfile(self.file.name, np.uint8))
            name = Path(self.file.name).name
            self.shards.append({"file": name, "sequences": sequences, "crc32": crc32})
            self.sequences += sequences
        else:
            os.unlink(self.file.name)
        self.file = None

    def close(self):
        """After the last document."""
        if self.file is not None:
            self.end_shard()

    @property
    def unused(self):
        """Tokens after the last whole sequence."""
        return self.tokens - (self.sequences * self.block_size + 1 if self.sequences else 0)


def pack(documents, out, tokenizer, block_size, val_fraction, seed, n_buckets=1, about=None):
    """Shuffles documents, packs them into sequences of block_size, writes shards and meta.json; returns the meta.

    documents: iterator of id lists or arrays, each without the end of text, which is added after each one.
    Any corpus is shuffled in the memory of one bucket: each document goes to the end of a bucket file drawn at random,
    then each bucket is read whole and its documents are permuted, which together is one uniform shuffle of them all.
    The first val_fraction of the documents in that order are the validation split (one whole sequence at least), so no
    document is in both; where whole ones would take too much from training, one is cut (`divided`).
    A shard holds n * block_size + 1 tokens; sequence i is tokens i * block_size to
    (i + 1) * block_size, both included: its last target is the next one's first input. Nothing is
    padded; the tokens after the last whole sequence of a split are counted as unused. meta.json is
    written last, in OUT.tmp which is then renamed, or in OUT where that is an empty folder.
    """
    if tokenizer.n_vocab > 65536:
        raise ValueError(f"tokenizer {tokenizer.name} has {tokenizer.n_vocab} ids, shards of uint16 hold 65536 at most")
    out, folder = settle_out(out)
    with unfinished_folder(folder, is_out=folder == out):
        rng = np.random.default_rng(seed)
        n_documents = n_tokens = 0
        for ids in documents:
            with open(folder / f"bucket{rng.integers(n_buckets)}", "ab") as file:
                file.write(np.append(ids, tokenizer.eot).astype(np.uint16).tobytes())
            n_documents += 1
            n_tokens += len(ids) + 1
        if not n_documents:
            raise ValueError("no document is left after the filters: look at --input and --extensions")

        splits = {split: ShardWriter(folder, split, block_size) for split in ("train", "val")}
        stream = shuffled(folder, n_buckets, tokenizer.eot, rng)
        for split, part in divided(stream, val_fraction, n_documents, n_tokens, block_size):
            splits[split].add(part)
        for writer in splits.values():
            writer.close()
        name = tokenizer.name
        if name.endswith(".tiktoken"):  # the folder keeps its own copy and can be moved
            shutil.copyfile(name, folder / Path(name).name)
            name = Path(name).name
        meta = {"tokenizer": name, "vocab_size": tokenizer.n_vocab, "eot": tokenizer.eot, "block_size": block_size,
                "dtype": "uint16", "seed": seed, "val_fraction": val_fraction, **(about or {}),
                "documents": {split: writer.documents for split, writer in splits.items()},
                "cut_documents": sum(w.documents for w in splits.values()) - n_documents,
                "tokens": {split: writer.tokens for split, writer in splits.items()},
                "sequences": {split: writer.sequences for split, writer in splits.items()},
                "unused_tokens": {split: writer.unused for split, writer in splits.items()},
                "shards": {split: writer.shards for split, writer in splits.items()}}
        replace_file(folder / "meta.json", (json.dumps(meta, indent=1) + "\n").encode())
    if folder != out:
        try:
            os.replace(folder, out)
        except OSError as error:
            raise ValueError(f"the data is whole, but stays in {folder}: it could not be renamed "
                             f"to {out} ({error.strerror})") from None
    return meta


def shuffled(folder, n_buckets, eot, rng):
    """Yields the documents of all buckets, each with its end of text, and removes the buckets."""
    bar = tqdm(range(n_buckets), unit=" buckets", desc="shuffle, pack", disable=n_buckets == 1)
    for bucket in bar:
        path = folder / f"bucket{bucket}"
        if path.exists():
            ids = np.fromfile(path, np.uint16)
            path.unlink()
            pieces = np.split(ids, np.flatnonzero(ids == eot) + 1)[:-1]
            for i in rng.permutation(len(pieces)):
                yield pieces[i]


def divided(documents, val_fraction, n_documents, n_tokens, block_size):
    """Yields ("val", document) for the first val_fraction of the documents, at least a sequence of
    block_size, then ("train", document); n_tokens: of all documents.

    Training text is served first: validation takes whole documents as long as it gets at most twice
    its share of the tokens, and leaves training at least half of its own, and a sequence. A
    document that would go beyond is cut where the share is reached: so one alone trains, too.
    """
    least = block_size + 1
    if n_tokens < (2 * least if val_fraction else least):
        also = " and one for validation" if val_fraction else ""
        instead = "--val_fraction 0, " if n_tokens >= least else ""
        raise ValueError(f"{n_tokens} tokens in all do not fill one sequence of {block_size} for "
                         f"training{also}: use {instead}a smaller --block_size or more text")
    wanted = max(1, round(val_fraction * n_documents))
    share = min(max(least, round(val_fraction * n_tokens)), n_tokens - least)
    most = min(2 * share, (share + n_tokens) // 2, n_tokens - least)
    taken, tokens, open_ = 0, 0, val_fraction > 0
    for document in documents:
        open_ = open_ and (taken < wanted or tokens < least)
        if open_ and tokens + len(document) > most:
            cut = max(0, share - tokens)
            if cut:
                yield "val", document[:cut]
            document, open_ = document[cut:], False
        yield "val" if open_ else "train", document
        taken, tokens = taken + 1, tokens + len(document)


# ---------------------------------------------------------------------------------------------------------------------
# Batches

MINIATURE = {"n": 16000, "block_size": 256, "val_fraction": 0.02, "seed": 0}  # made on first use


@dataclasses.dataclass(frozen=True)
class Data:
    """A folder of packed sequences, opened. Shards are memory maps: only the rows of a batch are ever read."""
    folder: Path
    meta: dict
    tokenizer: str  # for get_tokenizer
    block_size: int
    shards: dict    # split -> list of uint16 arrays
    starts: dict    # split -> number of the first sequence of each shard, and the number of all at the end

    @property
    def digest(self):
        """A digest of what meta.json says, the shards' checksums with it: what the data is,
        wherever it lies."""
        return hashlib.sha256(json.dumps(self.meta, sort_keys=True).encode()).hexdigest()


SHARDS = [{"file": str, "sequences": (1, 2 ** 40)}]
META = {"tokenizer": str, "vocab_size": (1, 65536), "eot": (0, 65535), "dtype?": {"uint16"},
        "block_size": (1, 2 ** 31 - 1), "sequences": {"train": (1, 2 ** 60), "val": (0, 2 ** 60)},
        "shards": {"train": SHARDS, "val": SHARDS}}


def open_data(spec):
    """A folder made by `prepare`, or "miniature:mono", "miniature:multi", "miniature:nl" -> Data.

    FileNotFoundError where there is no such folder, ValueError where its meta.json is damaged or
    does not agree with its shards.
    """
    made = str(spec).startswith("miniature:")
    folder = open_miniature(spec.split(":")[1]) if made else Path(spec)
    if not (folder / "meta.json").is_file():
        raise FileNotFoundError(f"{folder} holds no prepared data: make it with "
                                f"python data.py prepare --out {folder}")
    try:
        meta = read_json(folder / "meta.json", META)
        block_size, tokenizer = meta["block_size"], meta["tokenizer"]
        shards, starts = {}, {}
        for split in ("train", "val"):
            rows = meta["shards"][split]
            shards[split] = [open_shard(folder, row, block_size) for row in rows]
            starts[split] = np.cumsum([0] + [row["sequences"] for row in rows])
            if starts[split][-1] != meta["sequences"][split]:
                raise ValueError(f"the {split} shards do not hold all of its sequences")
        if tokenizer.endswith(".tiktoken"):
            tokenizer = str(file_inside(folder, tokenizer))
        if meta["eot"] >= meta["vocab_size"]:
            raise ValueError("eot is outside the vocabulary")
    except (ValueError, OSError) as error:
        raise ValueError(f"the data in {folder} is damaged ({error}): prepare it again") from error
    return Data(folder, meta, tokenizer, block_size, shards, starts)


def file_inside(folder, name):
    """A file in the folder itself; ValueError for a name that leads out of it, or to no file."""
    if os.path.basename(name) != name or not (folder / name).is_file():
        raise ValueError(f"{name[:100]!r} is no file in the folder")
    return folder / name


def open_shard(folder, row, block_size):
    """A row of meta.json -> the uint16 tokens of its file, a memory map."""
    shard = np.memmap(file_inside(folder, row["file"]), np.uint16, "r")
    expected = row["sequences"] * block_size + 1
    if len(shard) != expected:
        raise ValueError(f"{row['file']} has {len(shard)} tokens, not {expected}")
    return shard


def open_miniature(kind):
    """Makes the miniature corpus (seconds, once) in a folder under out/ that is named after all that it depends on."""
    from miniature import corpus
    if kind not in corpus.KINDS:
        raise ValueError(f"unknown corpus miniature:{kind}: use miniature:{', miniature:'.join(corpus.KINDS)}")
    vocab = PROJECT / "miniature" / "miniature.tiktoken"
    if not vocab.is_file():
        raise FileNotFoundError(f"{vocab} is missing: it belongs to the project")
    depends = Path(corpus.__file__).read_bytes() + vocab.read_bytes() + json.dumps(MINIATURE).encode()
    folder = PROJECT / "out" / f"miniature-{kind}-{hashlib.sha256(depends).hexdigest()[:12]}"
    folder.parent.mkdir(exist_ok=True)
    with open(folder.parent / ".miniature.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes may start at once: one makes it, the others wait
        if not (folder / "meta.json").is_file():
            tokenizer = get_tokenizer("miniature")
            texts = corpus.documents(kind, MINIATURE["seed"], MINIATURE["n"])
            texts = tqdm(texts, total=MINIATURE["n"], unit=" documents", desc=f"miniature:{kind}")
            pack((tokenizer.encode(text) for text in texts), folder, tokenizer, MINIATURE["block_size"],
                 MINIATURE["val_fraction"], MINIATURE["seed"], about={"miniature": kind})
    return folder


def permute(index, n, key):
    """index (array of ints below n) -> their places in a permutation of n drawn by key (a tuple of ints), each below n.

    A Feistel network over the next even number of bits; a place that falls outside n is sent through again until it
    falls inside. So an epoch's order takes no memory: BIGPYTHON's 35 million sequences would be a table of 0.3 GB.
    """
    half = np.uint64(max(1, (int(n - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = np.random.SeedSequence(key).generate_state(12, np.uint64).reshape(6, 2)
    place = np.array(index, np.uint64)
    todo = np.arange(len(place))
    while len(todo):
        left, right = place[todo] >> half, place[todo] & mask
        for add, multiply in keys:  # six rounds; a round is a multiply-and-shift hash of one half into the other
            mixed = (right + add) * (multiply | np.uint64(1))
            mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)
            left, right = right, left ^ ((mixed >> np.uint64(32)) & mask)
        place[todo] = (left << half) | right
        todo = todo[place[todo] >= n]
    return place.astype(np.int64)


def get_batch(data, split, seed, step, batch_size, process_id=0, num_processes=1):
    """Batch number `step` of a run whose batches are all of one size; else as get_sequences."""
    first = step * batch_size
    return get_sequences(data, split, seed, first, batch_size, process_id, num_processes)


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
        raise ValueError(f"{data.folder} has no {split} sequences: prepare it with --val_fraction above 0")
    local = batch_size // num_processes
    epoch, place = np.divmod(first + process_id * local + np.arange(local), n)
    row = np.empty(local, np.int64)
    for e in np.unique(epoch):
        row[epoch == e] = permute(place[epoch == e], n, (seed, int(e)))
    batch = np.empty((local, data.block_size + 1), np.int32)
    for i, (r, shard) in enumerate(zip(row, np.searchsorted(data.starts[split], row, "right") - 1)):
        start = (r - data.starts[split][shard]) * data.block_size
        batch[i] = data.shards[split][shard][start:start + data.block_size + 1]
    if batch.max() >= data.meta["vocab_size"]:
        raise ValueError(f"the data in {data.folder} is damaged ({split} holds the token id "
                         f"{batch.max()} of {data.meta['vocab_size']}): prepare it again")
    return batch


# ---------------------------------------------------------------------------------------------------------------------
# Commands

def settle_input(args):
    """Checks --input and --extensions -> the endings of the names to read, in lower case."""
    for name in args.input:
        if not os.path.exists(name):
            raise FileNotFoundError(f"--input {name}: no such folder or file")
    endings = sorted({e.strip().lower() for e in args.extensions.split(",") if e.strip(" .")})
    if not endings:
        raise ValueError("--extensions is empty: give at least one, such as .py")
    return endings


def prepare(args):
    """The five steps over the files of --input; prints what came out."""
    endings = settle_input(args)
    named = [name for name in args.input if not os.path.isdir(name)]
    unknown = [name for name in (*endings, *named) if not language(name)]
    if args.language_prefix and unknown:
        raise ValueError(f"--language_prefix: no language known for {', '.join(unknown)}, only for "
                         f"{', '.join(LANGUAGES)}")
    out, folder = settle_out(args.out)
    tokenizer = get_tokenizer(args.tokenizer)
    skip, files, folders = {str(out), str(folder)}, collections.Counter(), collections.Counter()
    n_files = n_bytes = 0   # a first walk, without opening a file: for the bar and the buckets
    for _, size in chosen(args.input, endings, skip, files, folders):
        n_files, n_bytes = n_files + 1, n_bytes + size
    if not n_files:
        raise ValueError(f"no {' or '.join(endings)} file in {' '.join(args.input)} "
                         f"({what_was_there(files, folders)[0]})")
    files.clear()
    folders.clear()
    about = {"extensions": endings, "language_prefix": args.language_prefix}
    there = ""

    def documents():
        nonlocal there
        workers = min(args.workers, 1 + n_bytes // 2 ** 20)     # 0.3 s to start, or to encode 1 MB
        paths = chosen(args.input, endings, skip, files, folders)
        yield from prepare_documents(paths, args.tokenizer, workers, args.language_prefix, files,
                                     n_files)
        there, numbers = what_was_there(files, folders)
        about.update(numbers)

    try:
        with contextlib.closing(documents()) as stream:
            meta = pack(stream, args.out, tokenizer, args.block_size, args.val_fraction, args.seed,
                        1 + n_bytes // BUCKET, about)
    except ValueError as error:
        raise ValueError(f"{error} ({there})" if there else str(error)) from None
    print(f"{meta['files_seen']:,} files, {there}")
    if large := meta["large_files"]:
        print(f"larger than {PIECE:,} characters: {large:,} of them, read as "
              f"{meta['documents_of_large_files']:,} documents")
    for split in ("train", "val"):
        print(f"{split:5} {meta['documents'][split]:,} documents, {meta['tokens'][split]:,} tokens, "
              f"{meta['sequences'][split]:,} sequences of {args.block_size}")
    if meta["cut_documents"]:
        print("one document is cut: its first part is validation text, the rest is training text")
    print(f"written to {args.out}. Next:  python train.py --data {args.out}")


def train_bpe_command(args):
    """Learns a BPE from the files of --input that pass the filters."""
    endings = settle_input(args)
    if not args.out.endswith(".tiktoken"):
        raise ValueError(f"--out {args.out}: the name must end in .tiktoken")
    if os.path.lexists(args.out):
        raise ValueError(f"{args.out} exists already: delete it, or choose another --out")
    files, folders = collections.Counter(), collections.Counter()

    def texts():
        paths = chosen(args.input, endings, (), files, folders)
        for path, _ in tqdm(paths, unit=" files", desc="read"):
            _, reason, _, pieces = check_files([path])[0]
            if reason:
                files[reason] += 1
            for piece in pieces:
                yield read_piece(path, *piece) or ""

    ranks = train_bpe(texts(), args.vocab_size)
    there, numbers = what_was_there(files, folders)
    if not numbers["kept"]:
        raise ValueError(f"no {' or '.join(endings)} file in {' '.join(args.input)} passes the "
                         f"filters ({there})")
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    write_tiktoken(args.out, ranks)
    print(f"{numbers['files_seen']:,} files, {there}")
    short = "" if len(ranks) + 1 == args.vocab_size else " (no pair is left that occurs twice)"
    print(f"{len(ranks)} tokens and the end of text{short}, from {numbers['kept']:,} files, "
          f"written to {args.out}")


def parser():
    """The command line."""
    top = argparse.ArgumentParser(
        prog="data.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    commands = top.add_subparsers(dest="command", required=True, metavar="prepare | train-bpe")
    p = commands.add_parser(
        "prepare", allow_abbrev=False, help="source files to shards of packed sequences")
    b = commands.add_parser(
        "train-bpe", allow_abbrev=False, help="learn a byte-level BPE, digits kept single")
    for command in (p, b):
        command.add_argument(
            "--input", type=flags.text, nargs="+", required=True, metavar="PATH",
            help="folders to read, and all below but .git, node_modules, __pycache__ and virtual "
                 "environments (name such a folder itself to read it); files, whatever their names")
        command.add_argument(
            "--extensions", type=flags.text, default=".py", metavar="LIST",
            help="which files of the folders, with commas: .py,.d.ts,Makefile (default .py)")
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
        prepare(args) if args.command == "prepare" else train_bpe_command(args)


if __name__ == "__main__":
    cli(main)
