"""A terminal: its Ctrl-C, lines that can be edited and are remembered, a sign of life."""
from harness.cli import unfinished

import contextlib
import itertools
import os
import signal
import sys
import termios
import threading
from pathlib import Path

TICK = 0.1          # seconds after which a Ctrl-C is heard that came just before a wait began
REMEMBERED = 1000   # lines


def our_folder() -> Path:
    """Where this project keeps what is the user's own. RuntimeError without a home."""
    return Path.home() / ".cache" / "codegen"


class Terminal:
    """Lines from a terminal, and its Ctrl-C.

    Ctrl-C sets a flag, because an exception that passes through XLA's callbacks while it compiles
    can crash the process; who works looks at the flag where an exception does no harm. It is raised
    only while we wait for a line or for a program that runs elsewhere."""

    def __init__(self, commands=()):
        self.pressed = self.waits = self.typed = False
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self.press)
        signal.signal(signal.SIGALRM, lambda *_: None)
        self.readline, self.history = edited_lines(commands)
        self.modes = termios.tcgetattr(sys.stdin) if sys.stdin.isatty() else None
        unfinished.append(self.restore)     # who is ended amid a line leaves it as it was

    def restore(self):
        """Give the terminal back as we found it."""
        if self.modes:
            self.set(self.modes)

    def set(self, modes):
        """Change the terminal, if it is still there."""
        with contextlib.suppress(termios.error):
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, modes)

    def press(self, *_):
        self.pressed = True
        if self.waits:
            self.typed = self.readline is not None and self.readline.get_line_buffer() != ""
            self.look()

    def look(self):
        """KeyboardInterrupt if Ctrl-C was pressed since the last look."""
        if self.pressed:
            self.pressed = False
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def waiting(self):
        """In here Ctrl-C raises KeyboardInterrupt at once.

        Python runs the handler of a signal between its own steps. One that comes after the last of
        them and before the wait would lie there until a key is pressed: the clock's signals
        interrupt the wait, and then both are seen."""
        self.waits = True
        signal.setitimer(signal.ITIMER_REAL, TICK, TICK)
        try:
            self.look()
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.waits = False

    @contextlib.contextmanager
    def unseen(self):
        """What is typed in here is not shown amid what we show: it stands in the next line."""
        if self.modes:
            *others, local, a, b, c = self.modes
            self.set([*others, local & ~termios.ECHO, a, b, c])
        try:
            yield
        finally:
            self.restore()

    def read(self):
        """The next line, None at the end. Ctrl-C drops what was typed; where nothing was it says
        how to leave, and pressed once more is a KeyboardInterrupt."""
        warned = False
        while True:
            self.typed = False
            try:
                with self.waiting():
                    line = input("> ")
                self.remember(line)
                return line
            except EOFError:
                print()
                return None
            except KeyboardInterrupt:
                print()
                if warned and not self.typed:
                    raise
                if not self.typed:
                    print("(Ctrl-C once more leaves; so do Ctrl-D and /quit)")
                warned = not self.typed

    def remember(self, line):
        """Put a line into the history, of which the file is another session's too."""
        if self.readline is None or not line.strip():
            return
        # The session goes on where that cannot be: with a NUL in the line, on a full disk, or with
        # libedit, which does not append.
        with contextlib.suppress(ValueError, OSError, AttributeError):
            self.readline.add_history(line)
            if self.history:
                self.readline.append_history_file(1, self.history)


def edited_lines(commands):
    """Let lines be edited, tab complete a command and the arrows bring back earlier lines, where
    Python has readline -> (its module, the file of the history), either may be None."""
    try:
        import readline
    except ImportError:
        return None, None
    complete = lambda text, i: [*(c for c in commands if text and c.startswith(text)), None][i]
    readline.set_completer(complete)
    readline.set_completer_delims(" ")
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
    readline.set_auto_history(False)        # `remember` does it, and writes it down
    readline.set_history_length(REMEMBERED)
    try:
        file = our_folder() / "history"
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))
        readline.clear_history()
        readline.read_history_file(file)
    except (OSError, RuntimeError):         # no home, or none to write to
        return readline, None
    return readline, file


def printable(text: str) -> str:
    """Text without control characters: a program's, or a model's, could command the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


class Growing:
    """Text on a terminal that grows."""

    def __init__(self, before=lambda: None):
        """before: what is called before the first of it is shown."""
        self.shown, self.before = "", before

    def show(self, text: str):
        """Show what has been added to it."""
        if len(text) > len(self.shown):
            self.before()
            print(printable(text[len(self.shown):]), end="", flush=True)
            self.shown = text


@contextlib.contextmanager
def counting(words):
    """Inside, a line says from the first second on what words() says and how long it has been ->
    a function that ends this and wipes the line."""
    ended, said = threading.Event(), ""

    def count():
        nonlocal said
        for seconds in itertools.count(1):
            if ended.wait(1):
                return
            line = f"({words()}, {seconds} s)"
            print("\r" + line.ljust(len(said)), end="", flush=True)
            said = line

    def wipe():
        nonlocal said
        ended.set()
        thread.join()
        if said:
            print("\r" + " " * len(said), end="\r", flush=True)
        said = ""

    thread = threading.Thread(target=count, daemon=True)
    if not sys.stdout.isatty():
        ended.set()
    thread.start()
    try:
        yield wipe
    finally:
        wipe()
