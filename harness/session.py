"""The session's manners: Ctrl-C, commands, running the program that is written there, saving it."""
from harness.cli import unheard
from harness.files import replace_file
from harness.outside import first_worker

import contextlib
import os
import re
import signal
import sys

SECONDS = 5         # that a program may run
OUTPUT = 20_000     # bytes that it may print


class Terminal:
    """Lines from a terminal, and its Ctrl-C.

    Ctrl-C sets a flag, because an exception that passes through XLA's callbacks while it compiles
    can crash the process; who works looks at the flag where an exception does no harm. It is raised
    only while we wait for a line or for a program that runs elsewhere."""

    def __init__(self):
        self.pressed = self.waits = False
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self.press)

    def press(self, *_):
        self.pressed = True
        if self.waits:
            self.look()

    def look(self):
        """KeyboardInterrupt if Ctrl-C was pressed since the last look."""
        if self.pressed:
            self.pressed = False
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def waiting(self):
        """In here Ctrl-C raises KeyboardInterrupt at once."""
        self.waits = True
        try:
            self.look()
            yield
        finally:
            self.waits = False

    def read(self):
        """The next line, None at the end. Ctrl-C drops what was typed; KeyboardInterrupt when it is
        pressed twice in a row."""
        self.pressed = False
        for warned in (False, True):
            try:
                with self.waiting():
                    return input("> ")
            except EOFError:
                print()
                return None
            except KeyboardInterrupt:
                if warned:
                    raise
                print("\n(Ctrl-C once more leaves, the program is lost then; /save FILE keeps it)")


def printable(text: str) -> str:
    """Text without control characters: a program's, or a model's, could command the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def run_program(source, unsafe=False, waiting=contextlib.nullcontext, seconds=SECONDS) -> str:
    """Run a program isolated as the benchmarks' are -> what it printed, and why it ended early.

    waiting: a context in which Ctrl-C may raise. ValueError where no isolation is possible and
    `unsafe` is not given."""
    pieces, end = [], ""

    def talk(channel, _):
        nonlocal end
        left = OUTPUT
        while left > 0:
            with waiting():
                message = channel.receive()
            if "code" in message:
                code = int(message["code"])
                # 0 is all is well; of 1 the traceback tells.
                end = f"(exit code {code})" if code not in (0, 1) else ""
                return
            pieces.append(message["text"].encode("latin-1")[:left])
            left -= len(pieces[-1])
        end = f"(stopped after {OUTPUT:,} bytes of output)"

    with unheard():
        worker = first_worker(unsafe, "shows")
    try:
        _, how, _ = worker.run({"secret": "", "source": source}, talk, seconds)
        if how:
            end = f"(stopped after {seconds} s)" if how == "timed out" else f"({how})"
    except KeyboardInterrupt:
        end = "(interrupted)"
    finally:
        worker.stop()
    text = printable(b"".join(pieces).decode("utf-8", "replace"))
    return text + "\n" * (text != "" and not text.endswith("\n")) + end + "\n" * bool(end)


def save(name, text, ours):
    """Write a file, UTF-8, whole or not at all. It joins `ours`, the files that may be replaced."""
    path = os.path.realpath(os.path.expanduser(name))
    if os.path.isdir(path) or name.endswith(os.sep):
        raise ValueError(f"{name} is a folder: give the name of a file")
    if os.path.lexists(path) and path not in ours:
        raise ValueError(f"{name} is there already and not of this session: give another name")
    try:
        replace_file(path, text.encode("utf-8", "replace"))
    except OSError as error:
        raise ValueError(f"{name} cannot be written: {error.strerror}") from None
    ours.add(path)


HELP = "/run the program   /undo the last turn   /again: sample it anew   /save FILE   /quit"


def talk(answer, program, unsafe=False):
    """Turns and commands from a terminal, or from a pipe: then the program is printed at the end.

    answer(turns, line, sample, stream) -> (code, reason) after the turns [(line, code)]; each
    `sample` is another draw. stream(text so far), None for a pipe, may raise KeyboardInterrupt.
    program(turns) -> its text. Whatever goes wrong, the turns stay."""
    live = sys.stdin.isatty()
    sys.stdin.reconfigure(errors="replace")
    terminal = Terminal() if live else None
    waiting = terminal.waiting if live else contextlib.nullcontext
    turns, saved, tries = [], set(), 0

    def turn(before, line):
        shown = ""

        def stream(text):
            nonlocal shown
            terminal.look()
            # A turn may end before its next line: that is shown once it begins no stop word.
            text = re.sub(r"\n+[^\n]{0,4}\Z", "", text)
            print(printable(text[len(shown):]), end="", flush=True)
            shown = text

        code, reason = answer(before, line, tries, stream if live else None)
        if live:
            print(printable(code[len(shown):]) + ("" if reason == "stop" else f"\n({reason})"))
        return line, code

    if live:
        print(f"Say what you want, turn by turn. {HELP}\n")
    while (line := terminal.read() if live else sys.stdin.readline() or None) is not None:
        line = line.strip()
        command, _, name = map(str.strip, line.partition(" "))
        try:
            if command == "/quit":
                break
            elif command == "/run":
                print(run_program(program(turns), unsafe, waiting), end="", flush=True)
            elif command == "/undo" and turns:
                turns.pop()
            elif command == "/again" and turns:
                tries += 1
                turns[-1] = turn(turns[:-1], turns[-1][0])
            elif command == "/save" and name:
                save(name, program(turns), saved)
                print(f"saved {name}")
            elif line.startswith("/"):
                print(HELP if turns else "nothing yet. " + HELP)
            elif line:
                turns.append(turn(turns, line))
        except KeyboardInterrupt:
            print("\n(interrupted: the program is as it was)")
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            text = " ".join(str(error).split()) or type(error).__name__
            print(f"error: {text}", file=sys.stderr)
    if not live:
        print(program(turns).rstrip("\n"))
