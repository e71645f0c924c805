"""Documents as they lie about, in folders and in files of records: found, chosen, counted."""
from harness import flags

import collections
import functools
import os
import stat
import sys

from corpora.documents import Document
from corpora.ignore import left_out, left_out_of_any, rules_in, rules_of
from corpora.records import TEXT_KEYS, check_library, is_records, read_records, text_of

from tqdm import tqdm

# Why a document is dropped, in the order of the tests: it counts under the first that it fails.
REASONS = ("extension", "excluded", "unreadable", "not_json", "no_text", "no_language", "empty",
           "nul_byte", "not_utf8", "average_line", "longest_line", "digits", "benchmark",
           "duplicate")

# Folders that hold no work of their owner, or hold it twice. One that the user names is read.
PASSED_OVER = {".git", ".hg", ".svn", "node_modules", "__pycache__"}
ENVIRONMENT = ("pyvenv.cfg", "conda-meta")     # what a virtual environment holds

COMPRESSED = (".gz", ".zst", ".parquet")
EXPANDS = 5     # times, about: what compressed text takes when it is read


def input_flags(parser):
    """The flags of what is to be read."""
    parser.add_argument(
        "--input", type=flags.text, nargs="+", required=True, metavar="PATH",
        help="folders to read, and all below but .git, node_modules, __pycache__ and virtual "
             "environments (name such a folder itself to read it); files, whatever their names. "
             "In .jsonl, .jsonl.gz, .jsonl.zst and .parquet each record is a document")
    parser.add_argument(
        "--extensions", type=flags.text, default=".py", metavar="LIST",
        help="which files of the folders, with commas: .py,.d.ts,Makefile,.parquet (default .py)")
    parser.add_argument(
        "--exclude", type=flags.text, action="append", default=[], metavar="PATTERN",
        help="leave out files or folders, by a pattern of .gitignore's kind; may be repeated")
    parser.add_argument("--gitignore", action="store_true",
                        help="leave out what the folders' .gitignore files say")
    parser.add_argument("--text_key", type=flags.text, metavar="KEY",
                        help="where a record's text stands (default: the first of text, content, "
                             "code that holds one)")
    parser.add_argument("--language_key", type=flags.text, metavar="KEY",
                        help="with --language_prefix: where a record's language, or its file's "
                             "name, stands (default language)")


class TextFiles:
    """The documents that a command is to read, and the count of what becomes of each.

    They lie in the files that `inputs` name, and in those below its folders whose names end in one
    of `extensions` (a text: endings or whole names, with commas). Going over them yields
    (path, size in bytes), sorted; each walk counts anew. Whoever reads the files adds to the count.
    """

    def __init__(self, inputs, extensions=".py", exclude=(), gitignore=False, text_key=None,
                 language_key="language"):
        """FileNotFoundError for an input that is not there, ValueError for no extension."""
        for name in inputs:
            if not os.path.exists(name):
                raise FileNotFoundError(f"--input {name}: no such folder or file")
        self.inputs = inputs
        self.endings = sorted({e.strip().lower() for e in extensions.split(",") if e.strip(" .")})
        if not self.endings:
            raise ValueError("--extensions is empty: give at least one, such as .py")
        self.exclude = rules_of(exclude)
        self.gitignore = gitignore
        self.text_keys = [text_key] if text_key else TEXT_KEYS
        self.language_key = language_key
        self.left_out = set()                   # real paths of folders: our own output
        self.count = collections.Counter()      # of documents, by reason, and of files
        self.all_read = False                   # whether `documents` has come to its end
        self.folders = collections.Counter()    # by kind of those passed over, and "unreadable"

    @classmethod
    def of(cls, args):
        """As the flags of `input_flags` say. ValueError for one that would not be heeded."""
        if args.language_key and not getattr(args, "language_prefix", False):
            raise ValueError("--language_key is for --language_prefix, which alone puts a language "
                             "before a text")
        return cls(args.input, args.extensions, args.exclude, args.gitignore, args.text_key,
                   args.language_key or "language")

    def __iter__(self):
        self.count.clear()
        self.folders.clear()
        named = set(self.inputs)
        for path, size in self.walk():
            self.count["files"] += 1
            if not ends_in(path, self.endings) and path not in named:
                self.count["extension"] += 1
            elif size is EXCLUDED:
                self.count["excluded"] += 1
            elif size is None:
                self.count["unreadable"] += 1
            else:
                yield path, size

    def measured(self):
        """A walk that opens no file -> (their bytes, the bytes of their text, about). ValueError
        for none, and where a library is missing that reads one of them."""
        n_files = n_bytes = n_text = 0
        for path, size in self:
            check_library(path)
            n_files, n_bytes = n_files + 1, n_bytes + size
            n_text += size * (EXPANDS if path.lower().endswith(COMPRESSED) else 1)
        if not n_files:
            raise ValueError(f"no {self.wanted} ({self.words()})")
        return n_bytes, n_text

    def documents(self, bar, language=None):
        """Yields the Document of each file and record. `bar` (of tqdm) is told of the bytes.

        language: None, or what knows the language of a file's name or of the value of
        `language_key`; it is put before the text, on a line of its own.
        """
        for path, size in self:
            if is_records(path):
                yield from self.records(path, size, bar, language)
            else:
                yield Document(path, size, language(path) + "\n" if language else "")
                bar.update(size)
        self.all_read = True

    def records(self, path, size, bar, language):
        """`documents` of a file of records."""
        self.count["record_files"] += 1
        done = n = 0
        keys = (*self.text_keys, self.language_key)
        try:
            for record, place in read_records(path, keys):
                self.count["records"] += 1
                n += 1
                bar.update(place - done)
                done = place
                raw = None if record is None else text_of(record, self.text_keys)
                named = language and language(as_name(record and record.get(self.language_key)))
                if raw is None:
                    self.count["not_json" if record is None else "no_text"] += 1
                elif language and not named:
                    self.count["no_language"] += 1
                else:
                    yield Document(path, len(raw), named + "\n" if language else "", raw)
        except Exception as error:      # zlib's, zstandard's, pyarrow's, the system's
            self.count["damaged_files"] += 1
            tqdm.write(f"{shown(path)} is damaged ({one_line(error)}): {n:,} records of it could be read",
                       file=sys.stderr)
        bar.update(size - done)

    def check_languages(self, language, names):
        """ValueError where the language of a file that is to be read is not known by its name."""
        named = [name for name in self.inputs if not os.path.isdir(name)]
        unknown = [name for name in (*self.endings, *named)
                   if not language(name) and not is_records(name)]
        if unknown:
            raise ValueError(f"--language_prefix: no language known for {', '.join(unknown)}, only "
                             f"for {', '.join(names)}")

    @property
    def wanted(self):
        """What was asked for, in words."""
        return f"{' or '.join(self.endings)} file in {' '.join(self.inputs)}"

    @property
    def seen(self):
        """How many documents there were: files of source and records."""
        return self.count["files"] - self.count["record_files"] + self.count["records"]

    @property
    def kept(self):
        """How many documents have been found to stay."""
        return self.seen - sum(self.count[reason] for reason in REASONS)

    def words(self):
        """The count of the last walk, in words."""
        n = self.numbers()
        words = f"{n['kept']:,} kept; dropped: {listed(n['dropped'])}"
        if n["passed_over"]:
            words += f"; folders passed over: {listed(n['passed_over'])}"
        if n["unreadable_folders"]:
            words += f"; folders that cannot be read: {n['unreadable_folders']:,}"
        if n["damaged_files"]:
            words += f"; damaged files of records: {n['damaged_files']:,}"
        return words

    def numbers(self):
        """The count of the last walk, as it stands in meta.json."""
        kinds = {kind: n for kind, n in sorted(self.folders.items()) if kind != "unreadable"}
        return {
            "files_seen": self.count["files"],
            "record_files": self.count["record_files"],
            "damaged_files": self.count["damaged_files"],
            "documents_seen": self.seen,
            "kept": self.kept,
            "dropped": {reason: self.count[reason] for reason in REASONS},
            "unreadable_folders": self.folders["unreadable"],
            "passed_over": kinds,
            "large_files": self.count["large"],
            "documents_of_large_files": self.count["documents_of_large"],
        }

    # ---- the walk --------------------------------------------------------------------------------

    def walk(self):
        """Yields (path, size in bytes) of the files that `inputs` name and of every file below its
        folders, sorted; size is None for what is no regular file, EXCLUDED for what a pattern
        leaves out."""
        for top in self.inputs:
            if os.path.isdir(top):
                yield from self.walk_below(top)
            else:
                rules = [(os.path.dirname(top), self.exclude)]
                yield top, EXCLUDED if left_out(top, False, rules) else regular_size(top)

    def walk_below(self, top):
        """`walk` of a folder. Links to folders are not followed, so loops end."""
        everything = passed_over(top)
        exclude, rules_at = [(top, self.exclude)], {top: []}
        unreadable = lambda _: self.folders.update(["unreadable"])
        for folder, names, files in os.walk(top, onerror=unreadable):
            rules = rules_at.pop(folder)    # of .gitignore: this folder's and those above it
            if self.gitignore and ".gitignore" in files:
                rules = [*rules, (folder, rules_in(folder))]
            out = functools.partial(left_out_of_any, rule_lists=(exclude, rules))
            below = []
            for name in sorted(names):
                path = os.path.join(folder, name)
                kind = not everything and passed_over(path) or out(path, True) and "excluded"
                if kind:
                    self.folders[kind] += 1
                elif os.path.realpath(path) not in self.left_out:
                    below.append(name)
                    rules_at[path] = rules
            names[:] = below        # os.walk goes on into these
            for file in sorted(files):
                path = os.path.join(folder, file)
                yield path, EXCLUDED if out(path, False) else regular_size(path)


EXCLUDED = object()     # stands for the size of a file that a pattern leaves out


def as_name(value):
    """A record's value -> the name of a language or file that it is; "" for none."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


def one_line(error):
    """What an exception says, short."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:100]


def shown(path):
    """A file's name as it may stand in a line: quoted where it has line breaks, or is no UTF-8."""
    return path if path.isprintable() else repr(path)


def listed(counts):
    """{name: number} -> words, without the names that count none."""
    return ", ".join(f"{name} {n:,}" for name, n in counts.items() if n) or "none"


def ends_in(path, endings):
    """Whether a file is chosen: by its name's end (".d.ts", "py"), or by all of it ("Makefile")."""
    name = os.path.basename(path).lower()
    return any(name.endswith("." + ending.lstrip(".")) or name == ending for ending in endings)


def passed_over(folder):
    """What kind of folder it is that is passed over; None for all others."""
    name = os.path.basename(os.path.abspath(folder))
    if name in PASSED_OVER:
        return name
    if any(os.path.exists(os.path.join(folder, file)) for file in ENVIRONMENT):
        return "virtual environment"


def regular_size(path):
    """Bytes of a file; None for a pipe or a device, and for a link to itself or to nothing."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
