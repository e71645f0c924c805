"""Every flag of every command, found by walking over the parsers: a bad value is one line and exit code 2.

A new flag is covered on the day that it is added; one whose type is not from harness/flags.py fails here.
"""
from harness import flags

import argparse
import importlib
import os
import socket

import pytest

COMMANDS = ("data", "model", "train", "sample", "humaneval", "mtpb", "miniature.run",
            "miniature.corpus", "miniature.asked", "miniature.entropy", "miniature.report", "hf.__main__",
            "real.run", "real.page")
BAD = ["nan", "NaN", "inf", "-inf", "-1", "-1e9", "1e999", str(2 ** 70), "", " ", "1.5x", "0x10", "٣x", "1" * 5000]
KINDS = ("whole_number", "real_number", "list_of_values", "text", "file", "sample_file", "folder", "new_file", "new_folder")


def walk(parser, command=()):
    """(command words, parser, action) for each flag and positional argument, those of subcommands too."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from walk(inner, (*command, name))
        elif not isinstance(action, argparse._HelpAction):
            yield command, parser, action


ACTIONS = [(module, *found) for module in COMMANDS for found in walk(importlib.import_module(module).parser())]
VALUED = [a for a in ACTIONS if a[3].nargs != 0]
name_of = lambda a: "-".join((a[0], *a[1], a[3].option_strings[0] if a[3].option_strings else a[3].dest))


@pytest.mark.parametrize("case", VALUED, ids=name_of)
def test_every_flag_reads_its_value_through_a_checked_type(case):
    *_, action = case
    assert action.choices or getattr(action.type, "__name__", None) in KINDS and action.type.__module__ == "harness.flags"
    assert action.help


@pytest.mark.parametrize("case", VALUED, ids=name_of)
def test_bad_values_of_every_flag(case, tmp_path, monkeypatch):
    """A number is refused, unless it lies in the flag's range; a name may be odd ("nan" is a good name for a folder), but
    it is not empty and, to be read, is there."""
    monkeypatch.chdir(tmp_path)
    for bad in BAD:
        try_bad_value(*case[2:], bad)


def try_bad_value(parser, action, bad):
    kind = getattr(action.type, "__name__", "choices")
    try:
        parser._get_values(action, [bad])       # what argparse does with the text, without the flags that are required
    except argparse.ArgumentError as error:
        assert "\n" not in str(error).strip() or kind == "choices"
        return
    accepts = {"text", "new_file", "new_folder"}
    if kind == "real_number" or kind == "whole_number" or kind == "list_of_values":
        assert kind != "whole_number" or bad == "-1" and action.type("-1") == -1, f"{bad} was accepted"
        assert kind == "whole_number" or bad.startswith("-") and action.type(bad) is not None, f"{bad} was accepted"
    else:
        assert kind in accepts and (bad.strip() or kind == "text" and bad), f"{bad!r} was accepted"


def test_numbers_lie_in_their_ranges():
    for bad in BAD:
        for kind in (flags.whole(0, 10), flags.number(0, 10)):
            with pytest.raises(argparse.ArgumentTypeError):
                kind(bad)
    assert flags.whole(0, 10)("10") == 10 and flags.number(0, 10)("1e-3") == 0.001


def test_paths(tmp_path):
    (tmp_path / "f").write_text("x")
    for kind, good, bad in ((flags.file, "f", ["", ".", "no"]), (flags.folder, ".", ["", "f", "no"]),
                            (flags.new_file, "new", ["", ".", "f/x"]), (flags.new_folder, "new", ["", "f", "f/x"])):
        assert kind(str(tmp_path / good))
        for name in bad:
            with pytest.raises(argparse.ArgumentTypeError):
                kind(str(tmp_path / name) if name else "")


def test_a_file_to_write_is_none_that_one_waits_for(tmp_path, monkeypatch):
    """A pipe, a socket, a device: refused in every command, because all have the one type. Our own streams are taken, and
    a name that is too long is left to who writes there."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    server = socket.socket(socket.AF_UNIX)
    monkeypatch.chdir(tmp_path)     # because the name of a socket is short
    server.bind("socket")
    for bad in ("pipe", "link", "socket", "/dev/zero", "/dev/full", "/dev/fd/77777"):
        with pytest.raises(argparse.ArgumentTypeError):
            flags.new_file(bad)
    for good in ("/dev/null", "/dev/stdout", "/dev/stderr", "/dev/fd/1", "x" * 300 + "/y"):
        assert flags.new_file(good) == good
    server.close()
