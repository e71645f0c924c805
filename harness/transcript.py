"""What a session leaves: its transcript, a file that nobody else writes, and programs as texts.

    ~/.cache/codegen/sessions/out-20261128-143005-4f1a0c.json    of --ckpt out, from the first turn
                                                                 on written after every turn

A session that goes on with an earlier one (--continue) has a file of its own again. Of each model's
the newest hundred are kept, and any that the user has given another name."""
from harness.files import read_json, replace_file
from harness.problems import PREFIX
from harness.terminal import our_folder

import contextlib
import fcntl
import json
import os
import re
import secrets
import time
from pathlib import Path

KEPT = 100          # transcripts of a model
NAME = re.compile(r".+-\d{8}-\d{6}-[0-9a-f]{6}\.json", re.DOTALL)     # as new_file gives it
COUNT = (0, 2 ** 53)
TURN = {            # one turn of a session
    "said": str,            # what it added to the history: the line, as a comment
    "made": str,            # the answer, without the two newlines that follow in the history
    "reason": {"eos", "stop", "length"},    # why the answer ended
    "first": COUNT,         # the first turn that the model saw, the others did not fit the context
    "dropped": COUNT,       # tokens of those others
    "run": COUNT,           # tokens of the history that were run through the model
    "reused": COUNT,        # those whose keys and values the cache had
    "temperature": float,
    "top_p": float,
    "tries": (0, 2 ** 30),  # answers that were sampled at this place; a sample's number is int32
}
SETTINGS = {"max_new_tokens": (1, 10 ** 6), "temperature": float, "top_p": float,
            "seed": (0, 2 ** 32 - 1), "n": (1, 10 ** 3)}
TRANSCRIPT = {"ckpt": str, "head": str, "settings": SETTINGS, "turns": [TURN]}


# ---- turns as the text of a program --------------------------------------------------------------

def program(turns) -> str:
    """The program that the turns make: the history in which the model continues."""
    return PREFIX + "".join(turn["said"] + turn["made"] + "\n\n" for turn in turns)


def turns_of(text: str, **settings):
    """The turns of such a text -> [turn]. A comment at the beginning of a line is what was said,
    because no answer has one (truncate_turn). ValueError for code before the first."""
    text = text.removeprefix(PREFIX) + "\n"         # the last line may have no end
    before, *parts = re.split(r"^(# .*\n)", text, flags=re.MULTILINE)
    if before.strip():
        raise ValueError("it has code before the first comment, which no turn of a session has")
    blank = dict.fromkeys(TURN, 0) | dict(reason="stop", tries=1) | settings
    return [blank | dict(said=said, made=made.rstrip("\n"))
            for said, made in zip(parts[::2], parts[1::2])]


# ---- files ---------------------------------------------------------------------------------------

def new_file(ckpt) -> Path:
    """The name of the transcript of a session that begins now. RuntimeError without a home."""
    begun = time.strftime("%Y%m%d-%H%M%S")
    return our_folder() / "sessions" / f"{stem(ckpt)}-{begun}-{secrets.token_hex(3)}.json"


def short(file) -> str:
    """A file below the user's home, as the shell writes it."""
    return f"~/{file.relative_to(Path.home())}"


def stem(ckpt) -> str:
    return Path(os.path.realpath(ckpt)).name[:40] or "model"    # each may be four bytes of 255


def write(file, ckpt, turns, settings):
    """Write a transcript, whole or not at all; its folder is for the user's eyes alone."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    record = dict(ckpt=os.path.realpath(ckpt), head=PREFIX, settings=settings, turns=turns)
    replace_file(file, json.dumps(record, indent=1).encode())


def read(file) -> dict:
    """A transcript, checked. ValueError says what is wrong with it."""
    record = read_json(file, TRANSCRIPT)
    if record["head"] != PREFIX:
        raise ValueError(f"{file} is of another version: its programs begin with another head")
    return record


def newest(ckpt):
    """The last transcript of sessions with this model that holds a turn -> (file, record).
    ValueError where there is none."""
    for file in files_of(ckpt):
        try:
            record = read(file)
        except ValueError as error:
            raise ValueError(f"{error}; remove it to open the one before") from None
        if record["ckpt"] == os.path.realpath(ckpt) and record["turns"]:
            return file, record
    raise ValueError(f"{our_folder() / 'sessions'} holds no session with {ckpt}")


def files_of(ckpt) -> list:
    """The transcripts whose names begin as this model's do, the last written first."""
    found = []
    for file in (our_folder() / "sessions").glob("*.json"):
        if file.name.startswith(f"{stem(ckpt)}-"):
            with contextlib.suppress(OSError):      # another session has just removed it
                found.append((file.stat().st_mtime_ns, file))
    return [file for _, file in sorted(found, reverse=True)]


# ---- those that go -------------------------------------------------------------------------------

def hold(file):
    """A transcript, open: as long as it is, no other session removes it."""
    held = open(file, "rb")
    with contextlib.suppress(OSError):      # a disk that knows no locks: there none is removed
        fcntl.flock(held, fcntl.LOCK_SH)
    return held


def remove_old(ckpt) -> int:
    """Remove this model's transcripts but for the newest KEPT -> how many went. One that a session
    holds stays, and one that is damaged or that the user has named."""
    files, model = files_of(ckpt), os.path.realpath(ckpt)
    if len(files) <= KEPT:
        return 0
    seen = removed = 0
    for file in filter(lambda f: NAME.fullmatch(f.name), files):
        with contextlib.suppress(ValueError, OSError):
            if read(file)["ckpt"] != model:     # another model of that name
                continue
            seen += 1
            if seen > KEPT:
                with open(file, "r+b") as unheld:
                    fcntl.flock(unheld, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    file.unlink()
                removed += 1
    return removed
