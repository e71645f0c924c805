"""What a session leaves: its transcript, a file that nobody else writes, and programs as texts.

    ~/.cache/codegen/sessions/out-20261128-143005-4f1a0c.json    of --ckpt out, from the first turn
                                                                 on written after every turn

A session that goes on with an earlier one (--continue) has a file of its own again."""
from harness.files import read_json, replace_file
from harness.problems import PREFIX
from harness.terminal import our_folder

import json
import os
import re
import secrets
import time
from pathlib import Path

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
    folder, model = our_folder() / "sessions", os.path.realpath(ckpt)
    files = [f for f in folder.glob("*.json") if f.name.startswith(f"{stem(ckpt)}-")]
    for file in sorted(files, key=lambda f: f.stat().st_mtime_ns, reverse=True):
        try:
            record = read(file)
        except ValueError as error:
            raise ValueError(f"{error}; remove it to open the one before") from None
        if record["ckpt"] == model and record["turns"]:
            return file, record
    raise ValueError(f"{folder} holds no session with {ckpt}")
