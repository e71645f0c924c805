"""The manners of the command line: one line for bad input, exit codes, quiet ends.

Every script imports this before anything heavy, so that Ctrl-C is quiet from its first moments on.
"""
import contextlib
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()  # ours, not the machine's


def is_our_script() -> bool:
    """Whether a file of this project is what the process was started with (and not pytest, or somebody's notebook)."""
    started = getattr(sys.modules.get("__main__"), "__file__", None)
    return started is not None and PROJECT in Path(started).resolve().parents and "tests" not in Path(started).parts


if is_our_script():
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))      # while modules load there is nothing to clear up
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:      # closed by who started us: the next file opened would get its number
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
            setattr(sys, name, open(os.devnull, "r+" if descriptor else "r"))


def cli(main):
    """Runs a script's main(). Bad input (ValueError, OSError) is one line on stderr and exit code 2, Ctrl-C is 130."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")        # a character that the terminal does not know ends no run
    if is_our_script() and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
        sys.stdout.flush()
        code = 0
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError as error:
        code = 141 if reader_is_gone(1) else complain(error)
    except (ValueError, OSError) as error:
        code = complain(error)
    except MemoryError:
        code = complain("out of memory")
    leave(code)


def complain(error) -> int:
    """One line on stderr -> exit code 2."""
    with contextlib.suppress(OSError, ValueError):      # a full disk or a closed pipe: nobody can be told
        started = Path(sys.argv[0])
        name = started.parent.name if started.name == "__main__.py" else started.name    # python -m hf
        print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    return 2


def leave(code):
    """Exit, with no second complaint about output that can no longer be written."""
    if is_our_script() and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 2
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if code:
        sys.exit(code)


def reader_is_gone(descriptor) -> bool:
    """Whether the reader of our output has left (`... | head`). Any other broken pipe is an error like others."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


@contextlib.contextmanager
def signals_end_once():
    """Inside, the first SIGINT or SIGTERM ends the run with exit code 130 or 143, after what is
    under way was cleared up. Others are ignored, because the clearing would stay half done."""
    def end(number, _):
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        before.clear()
        raise SystemExit(128 + number)

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    for each, handler in before.items():
        if handler is not signal.SIG_IGN:       # a shell's background job: Ctrl-C is not for it
            signal.signal(each, end)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextlib.contextmanager
def signals_wait():
    """Inside, SIGINT and SIGTERM are only noted; they count when the block ends. Processes started
    inside are deaf to both, which a terminal or a supervisor sends to a whole command: their parent
    ends them, because one that dies halfway through an answer would be waited for."""
    came, both = [], (signal.SIGINT, signal.SIGTERM)
    before = {each: signal.signal(each, lambda number, _: came.append(number)) for each in both}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, both)       # a child inherits it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for each, handler in before.items():
            signal.signal(each, handler)
        for number in came:
            signal.raise_signal(number)


def stop_on_signal() -> list:
    """Ctrl-C, or the SIGTERM of a machine that is taken away, fills the list that this returns: a
    loop looks there, saves and leaves. A second one ends the run at once."""
    asked = []

    def ask(kind, frame):
        if asked:
            raise KeyboardInterrupt
        asked.append(kind)

    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, ask)
    return asked


def one_line_errors(parser):
    """Makes an argparse parser report a bad flag in one line, without the usage text, still with exit code 2."""
    def error(message):
        parser.exit(2, f"{parser.prog}: error: {' '.join(message.split())} (--help lists the flags)\n")
    parser.error = error
    return parser


# ------------------------------------------------- other commands -------------------------------------------------

def pass_flags(args, names):
    """Some of our own flags, for a command in another process: the one that starts programs never holds JAX."""
    return [f"--{name}={getattr(args, name)}" for name in names if getattr(args, name, None) is not None]


def call_script(script, *command):
    """Run a command of a script, show what it prints -> its last line, which is JSON. Exits with its code if it fails."""
    last = ""
    with subprocess.Popen([sys.executable, script, *command], stdout=subprocess.PIPE, text=True, errors="replace") as process:
        try:
            for last in process.stdout:
                print(last, end="", flush=True)
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        sys.exit(process.returncode)
    return last
