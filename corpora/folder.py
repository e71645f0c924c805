"""A folder that is written whole or not at all, and never over what a stranger left there."""
from harness.files import check_folder

import contextlib
import fcntl
import os
import re
from pathlib import Path

MARKER = "unfinished"  # tells a half-written folder of ours from any other folder of that name
OURS = re.compile(rf"{MARKER}|bucket\d+|(train|val)\d{{5}}\.bin|meta\.json.*\.part")


def folders_for(out):
    """--out -> (the folder to make, links followed; where to write until it is whole).

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
    check_folder(folder)
    return out, folder


def check_ours(folder):
    """ValueError where a folder holds more than an unfinished run of ours left in it."""
    names = os.listdir(folder) if folder.exists() else []
    if any(not OURS.fullmatch(name) for name in names) or names and MARKER not in names:
        raise ValueError(f"{folder} exists already and is not an unfinished run of ours: delete "
                         "it, or choose another --out")


@contextlib.contextmanager
def written_whole(out):
    """The folder to write in; `out` is there, whole, when the block ends well."""
    out, folder = folders_for(out)
    with unfinished_folder(folder, is_out=folder == out):
        yield folder
    if folder != out:
        try:
            os.replace(folder, out)
        except OSError as error:
            raise ValueError(f"the data is whole, but stays in {folder}: it could not be renamed "
                             f"to {out} ({error.strerror})") from None


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
