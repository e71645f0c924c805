"""Files as they lie about in folders: found, chosen by their names, counted."""
import collections
import os
import stat

# Why a file is left out, in the order of the tests: a file counts under the first that it fails.
REASONS = ("extension", "unreadable", "empty", "nul_byte", "not_utf8", "average_line",
           "longest_line", "digits", "benchmark", "duplicate")

# Folders that hold no work of their owner, or hold it twice. One that the user names is read.
PASSED_OVER = {".git", ".hg", ".svn", "node_modules", "__pycache__"}
ENVIRONMENT = ("pyvenv.cfg", "conda-meta")     # what a virtual environment holds


class TextFiles:
    """The files that a command is to read, and the count of what becomes of each.

    They are the files that `inputs` name, and those below its folders whose names end in one of
    `extensions` (a text: endings or whole names, with commas). Going over them yields
    (path, size in bytes), sorted; each walk counts anew. Whoever reads the files adds to the count.
    """

    def __init__(self, inputs, extensions):
        """FileNotFoundError for an input that is not there, ValueError for no extension."""
        for name in inputs:
            if not os.path.exists(name):
                raise FileNotFoundError(f"--input {name}: no such folder or file")
        self.inputs = inputs
        self.endings = sorted({e.strip().lower() for e in extensions.split(",") if e.strip(" .")})
        if not self.endings:
            raise ValueError("--extensions is empty: give at least one, such as .py")
        self.left_out = set()                   # real paths of folders: our own output
        self.count = collections.Counter()      # files: by reason, "seen", and the "large" ones
        self.folders = collections.Counter()    # by kind of those passed over, and "unreadable"

    def __iter__(self):
        self.count.clear()
        self.folders.clear()
        named = set(self.inputs)
        for path, size in walk(self.inputs, self.left_out, self.folders):
            self.count["seen"] += 1
            if not ends_in(path, self.endings) and path not in named:
                self.count["extension"] += 1
            elif size is None:
                self.count["unreadable"] += 1
            else:
                yield path, size

    def measured(self):
        """A walk that opens no file -> (number of files, their bytes). ValueError for none."""
        n_files = n_bytes = 0
        for _, size in self:
            n_files, n_bytes = n_files + 1, n_bytes + size
        if not n_files:
            raise ValueError(f"no {self.wanted} ({self.words()})")
        return n_files, n_bytes

    @property
    def wanted(self):
        """What was asked for, in words."""
        return f"{' or '.join(self.endings)} file in {' '.join(self.inputs)}"

    @property
    def kept(self):
        """How many files have been found to stay."""
        return self.count["seen"] - sum(self.count[reason] for reason in REASONS)

    def words(self):
        """The count of the last walk, in words."""
        n = self.numbers()
        words = f"{n['kept']:,} kept; dropped: {listed(n['dropped'])}"
        if n["passed_over"]:
            words += f"; folders passed over: {listed(n['passed_over'])}"
        if n["unreadable_folders"]:
            words += f"; folders that cannot be read: {n['unreadable_folders']:,}"
        return words

    def numbers(self):
        """The count of the last walk, as it stands in meta.json."""
        kinds = {kind: n for kind, n in sorted(self.folders.items()) if kind != "unreadable"}
        return {
            "files_seen": self.count["seen"],
            "kept": self.kept,
            "dropped": {reason: self.count[reason] for reason in REASONS},
            "unreadable_folders": self.folders["unreadable"],
            "passed_over": kinds,
            "large_files": self.count["large"],
            "documents_of_large_files": self.count["documents_of_large"],
        }


def listed(counts):
    """{name: number} -> words, without the names that count none."""
    return ", ".join(f"{name} {n:,}" for name, n in counts.items() if n) or "none"


def ends_in(path, endings):
    """Whether a file is chosen: by its name's end (".d.ts", "py"), or by all of it ("Makefile")."""
    name = os.path.basename(path).lower()
    return any(name.endswith("." + ending.lstrip(".")) or name == ending for ending in endings)


def walk(inputs, left_out, folders):
    """Yields (path, size in bytes) of the files that `inputs` name and of every file below its
    folders, sorted; size is None for what is no regular file.

    Links to folders are not followed, so loops end. `folders` (a Counter) is told of the folders
    that are passed over, by their kind, and of those that are "unreadable".
    """
    for top in inputs:
        if not os.path.isdir(top):
            yield top, regular_size(top)
            continue
        everything = passed_over(top)
        for folder, names, files in os.walk(top, onerror=lambda _: folders.update(["unreadable"])):
            below = []
            for name in sorted(names):
                path = os.path.join(folder, name)
                if kind := not everything and passed_over(path):
                    folders[kind] += 1
                elif os.path.realpath(path) not in left_out:
                    below.append(name)
            names[:] = below        # os.walk goes on into these
            for file in sorted(files):
                path = os.path.join(folder, file)
                yield path, regular_size(path)


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
