"""The manners of the command line: one line for bad input, exit codes, quiet ends.

Every script imports this before all else: from then on Ctrl-C is quiet.
"""
import os
import signal
import sys

HERE = os.path.dirname(os.path.realpath(__file__))


def is_our_script() -> bool:
    """Whether a script of this project started the process (and not pytest, or a notebook)."""
    started = os.path.realpath(getattr(sys.modules.get("__main__"), "__file__", None) or "")
    folder, project = os.path.dirname(started), os.path.dirname(HERE)
    return folder == project or os.path.dirname(folder) == project != folder.removesuffix("/tests")


OURS = is_our_script()
if "--multiprocessing-fork" in sys.orig_argv:
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)    # a worker: Ctrl-C is for who started it
    except ValueError:
        pass        # a cluster's worker, which imports this in a thread, minds its own signals
elif OURS and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # While modules load there is nothing to clear up.
    signal.signal(signal.SIGINT, lambda *_, leave=os._exit: leave(130))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})         # see `unheard`

import atexit  # noqa: E402 (what takes its time comes after the lines above)
import contextlib  # noqa: E402
import functools  # noqa: E402
import select  # noqa: E402
import shlex  # noqa: E402
import subprocess  # noqa: E402
import threading  # noqa: E402
from pathlib import Path  # noqa: E402

PROJECT = Path(HERE).parent
# Ours, not the machine's.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

# ------------------------------------------ the two streams ---------------------------------------

def open_streams():
    """Standard streams that are there and take any character."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:      # closed: the next file would get its number
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_RDWR), number)
                os.set_inheritable(number, True)
            setattr(sys, name, open(os.devnull, "w" if number else "r"))
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")    # standard error escapes what it cannot say


def flush() -> bool:
    """Write what waits in both streams -> whether it could be; if not, nobody is to try again."""
    written = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            written = False
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return written


def last_words():
    """The end of every script, also one that left by way of argparse."""
    if not flush():
        os._exit(2)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_IGN)    # all is done but Python's own end


if OURS:
    open_streams()
    atexit.register(last_words)

# -------------------------------------- Ctrl-C, errors, the end -----------------------------------

unfinished = []     # functions that clear up what is half done, where Ctrl-C raises no exception


def interrupt(number, _):
    """Ctrl-C, and SIGTERM, while main() runs: KeyboardInterrupt, as Python does it.

    Where JAX is loaded we leave at once, because an exception that passes through XLA's callbacks,
    or an orderly exit beside its threads, can be a segmentation fault."""
    if "jax" in sys.modules:
        leave_at_once(128 + number)
    raise KeyboardInterrupt(number)


def leave_at_once(code):
    """End the process with no exception and no wait for threads."""
    for clear_up in reversed(unfinished):
        with contextlib.suppress(Exception):
            clear_up()
    with contextlib.suppress(Exception):    # the signal may have come while it was written
        if sys.stderr.isatty():
            print(file=sys.stderr)          # a bar stands in the line
        flush()
    os._exit(code)


def ignored_exception(args):
    """An interrupt that came while an object was destroyed: Python would print it and go on."""
    if isinstance(args.exc_value, KeyboardInterrupt):
        leave_at_once(128 + (args.exc_value.args or (signal.SIGINT,))[0])
    sys.__unraisablehook__(args)


def cli(main):
    """Runs a script's main(). Bad input (ValueError, OSError) is one line on stderr, exit code 2.

    Ctrl-C is 130 and SIGTERM 143, both without a word."""
    try:
        if OURS:
            sys.unraisablehook = ignored_exception
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:      # as a shell's & leaves it
                    signal.signal(number, interrupt)
        code = outcome(main)
        if OURS and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, lambda *_, leave=os._exit: leave(130))
    except KeyboardInterrupt as stopped:
        code = 128 + (stopped.args or (signal.SIGINT,))[0]
        if OURS:
            leave_at_once(code)
    if not flush():
        code = code or 2
    if code:
        sys.exit(code)


def outcome(main) -> int:
    """Run main() -> the exit code, the error said."""
    try:
        main()
        sys.stdout.flush()
        return 0
    except BrokenPipeError as error:
        return 141 if reader_is_gone(1) or reader_is_gone(2) else complain(error)
    except (ValueError, OSError) as error:
        return complain(error)
    except MemoryError:
        return complain("out of memory")
    except RuntimeError as error:       # JAX has a class for it, which is not imported here
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return complain(f"out of memory ({error})"[:300])


def complain(error) -> int:
    """One line on stderr -> exit code 2."""
    text, started = " ".join(str(error).split()), Path(sys.argv[0])
    name = started.parent.name if started.name == "__main__.py" else started.name    # python -m hf
    with contextlib.suppress(OSError, ValueError):      # a full disk: nobody can be told
        print(f"{name}: error: {text}", file=sys.stderr, flush=True)
    return 2


def reader_is_gone(descriptor) -> bool:
    """Whether who reads our output has left (`... | head`). Other broken pipes are errors."""
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


@contextlib.contextmanager
def signals_end_at_once():
    """Inside, SIGINT or SIGTERM ends the process with exit code 130 or 143, even while a library
    runs that never comes back to Python's own handlers. For work that leaves nothing to clear up;
    in the main thread."""
    def watch():
        if number := os.read(reader, 1):
            os._exit(128 + number[0])

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer)       # the kernel's side of a signal writes its number
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        watcher.join()
        os.close(reader)


def stop_on_signal() -> list:
    """Ctrl-C, or the SIGTERM of a machine that is taken away, fills the list that this returns: a
    loop looks there, saves and leaves. A second one ends the run at once."""
    asked = []

    def ask(kind, frame):
        if asked:
            leave_at_once(128 + kind)
        asked.append(kind)

    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, ask)
    return asked


def one_line_errors(parser):
    """Makes an argparse parser report a bad flag in one line, without the usage, exit code 2."""
    def error(message):
        message = " ".join(message.split())
        parser.exit(2, f"{parser.prog}: error: {message} (--help lists the flags)\n")
    parser.error = error
    return parser


# ------------------------------------------ other commands ----------------------------------------

def pasted(path) -> str:
    """A path as a word of a command that is printed, to be pasted into bash or zsh."""
    path = str(path)
    path = f"./{path}" if path.startswith(("-", "=")) else path     # a flag; to zsh a command
    if path.isprintable():
        return shlex.quote(path)
    plain = lambda byte: 32 <= byte < 127 and chr(byte) not in "'!\\"
    escaped = (chr(b) if plain(b) else f"\\x{b:02x}" for b in os.fsencode(path))
    return f"$'{''.join(escaped)}'"     # line breaks, what commands a terminal, what is no UTF-8


@contextlib.contextmanager
def unheard():
    """A process that is started in here does not hear Ctrl-C before its own harness.cli is ready.

    It has the signal mask of who starts it; else Ctrl-C would be a traceback of its imports."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def pass_flags(args, names):
    """Some of our own flags, for a command in another process: who starts programs has no JAX."""
    given = {name: getattr(args, name, None) for name in names}
    return [f"--{name}={value}" for name, value in given.items() if value is not None]


def call_script(script, *command):
    """Run a command of a script, show what it prints -> its last line, which is JSON.

    Exits with its code if it fails. It does not outlive us, because it would hold what we locked."""
    from harness.inside import die_with_parent
    last, bound = "", functools.partial(die_with_parent, os.getpid())
    with unheard():
        process = subprocess.Popen([sys.executable, script, *command], stdout=subprocess.PIPE,
                                   text=True, errors="replace", preexec_fn=bound)
    unfinished.append(process.terminate)
    with process:
        try:
            for last in process.stdout:
                print(last, end="", flush=True)
        except BaseException:
            process.terminate()
            raise
        finally:
            unfinished.remove(process.terminate)
    if process.returncode:
        sys.exit(process.returncode)
    return last
