"""The session: turns and commands from a terminal or a pipe, as people know it from ipython.

Without JAX: what it knows of the model is a chat, that of sample.py."""
from harness import flags, transcript
from harness.cli import unheard
from harness.files import replace_file
from harness.folder import find_checkpoint, read_config_json
from harness.outside import first_worker
from harness.problems import PREFIX
from harness.terminal import Growing, Terminal, counting, printable
from harness.transcript import program

import argparse
import contextlib
import os
import re
import sys

SECONDS = 5         # that a program may run
OUTPUT = 20_000     # bytes that it may print
LOADED = 1 << 20    # bytes of a file of turns, at most


# ---- one answer ----------------------------------------------------------------------------------

def tokens(chat, text) -> int:
    return len(chat.tokenizer.encode(text))


def first_seen(chat, turns, last, room) -> int:
    """The first turn that the context holds together with those after it, `last` behind them and
    room for so many tokens. len(turns) where it holds none."""
    first = len(turns)
    fits = lambda i: tokens(chat, program(turns[i:]) + last) + room <= chat.config.block_size
    while first and fits(first - 1):
        first -= 1
    return first


def answer(chat, turns, said, limit, stop, stream=None) -> dict:
    """The model's answer, of at most `limit` tokens, to what is said after these turns -> a turn.

    What the context does not hold goes by whole turns, the oldest first. Room is kept for a 16th of
    the context alone: an answer that takes more goes on when one more turn has gone.

        context   [ PREFIX | turn 2 | turn 3 | turn 4 | said, made          ]     it is full:
                  [ PREFIX | turn 3 | turn 4 | said, made ...               ]     made goes on
    """
    context, made, whole, reason = chat.config.block_size, "", "", ""
    first = run = reused = 0
    sampled = []        # its tokens, those too that the rule cut away

    def cut(more):      # the rule sees the whole answer, also where it was made in two parts
        nonlocal whole
        whole = stop(made + more)
        return whole[len(made):]

    def grow(more):
        stream(made + more)

    while not reason:
        room = min(limit, context // 16)
        first = max(first, first_seen(chat, turns, said + made, room))
        seen = program(turns[first:])
        size = tokens(chat, seen + said + made)
        budget = max(1, min(limit, context - size))
        chat.rewrite([seen])
        (_, reason), = chat.turn([said + made], budget, cut, stream and grow)
        row, = chat.rows
        run, reused = run + size - row.cached, reused + row.cached
        sampled += row.made
        made, limit = whole, limit - budget
        if reason == "length" and limit and first < len(turns):
            made, first, reason = made.rstrip("\ufffd"), first + 1, ""
    dropped = tokens(chat, program(turns)) - tokens(chat, program(turns[first:]))
    return dict(said=said, made=made.rstrip("\n"), reason=reason, first=first, dropped=dropped,
                run=run, reused=reused, temperature=chat.temperature, top_p=chat.top_p,
                sampled=sampled)


def show_sample(chat, prompt, limit, stops):
    """Sample one continuation of a prompt and show it as it grows, on a terminal."""
    print("----- sample 0")

    def stream(text):       # what may be the beginning of a stop text is held back
        held = max((n for s in stops for n in range(1, len(s)) if text.endswith(s[:n])), default=0)
        growing.show(prompt + text[:len(text) - held] if text else "")

    with counting(lambda: "compiling") as wipe:
        growing = Growing(wipe)
        (text, reason), = chat.turn([prompt], limit, stops, stream)
    growing.show(prompt + text)
    print(f"\n----- ended by {reason}")


# ---- running and saving what was made ------------------------------------------------------------

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


def load(name) -> str:
    """The text of a file of turns."""
    path = value(flags.file, os.path.expanduser(name))
    if not os.path.isfile(path):        # to open a pipe is to wait for who writes into it
        raise ValueError(f"{name} is no ordinary file")
    try:
        with open(path, "rb") as file:
            raw = file.read(LOADED + 1)
        if len(raw) > LOADED:
            raise ValueError(f"{name} has more than {LOADED:,} bytes: that is no file of turns")
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise ValueError(f"{name} is no UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}") from None


def value(kind, text):
    """What a command's argument means. kind: a type of harness/flags.py."""
    try:
        return kind(text)
    except argparse.ArgumentTypeError as error:
        raise ValueError(error) from None


# ---- the session ---------------------------------------------------------------------------------

MINIATURE = ('Assign the list [3, 1, 2] to a variable named "nums".',
             'Sort "nums" in descending order and assign it to "items".', 'Print "items".')
GENERAL = ('Assign the string "to be or not to be" to a variable named "text".',
           'Count how often each word occurs in "text" and store the result in "counts".',
           'Print the word with the largest count.')


def examples(ckpt):
    """Three turns to try: those of the miniature corpus for a model that knows nothing else."""
    data = read_config_json(find_checkpoint(ckpt)).get("data")
    return MINIATURE if str(data).startswith("miniature:") else GENERAL


class Session:
    """Turns, and the commands that change or show them. Whatever goes wrong, the turns stay."""

    def __init__(self, chat, stop, args, after_turn=None):
        """chat: of one row; stop: the rule that ends an answer; after_turn(turns): called after
        every answer, and where turns were taken back, loaded or gone on with."""
        self.chat, self.stop, self.args, self.after_turn = chat, stop, args, after_turn
        self.turns, self.n = [], 1          # the history; answers that are made at each turn
        self.choices = []                   # where several were made: those that differ
        self.lines = []                     # of a file of turns, still to be said
        self.saved, self.file, self.held = set(), None, None
        self.live = sys.stdin.isatty()
        self.terminal = Terminal(COMMANDS) if self.live else None
        self.compiled = False               # whether an answer was made before

    def talk(self):
        """Take lines until their end, or until one leaves; from a pipe, show the program then."""
        self.open()
        while (line := self.next_line()) is not None and not leaves(line):
            try:
                self.take(line)
            except KeyboardInterrupt:
                self.lines.clear()
                print("\n(interrupted: the program is as it was)")
            except (ValueError, OSError, RuntimeError, MemoryError) as error:
                text = " ".join(str(error).split()) or type(error).__name__
                print(f"error: {text}", file=sys.stderr)
        if not self.live:
            print(program(self.turns).rstrip("\n"))

    def open(self):
        """Greet, and go on where --continue says."""
        if self.live or self.args.opened:       # a pipe leaves what it prints, and no more
            with contextlib.suppress(RuntimeError):
                self.file = transcript.new_file(self.args.ckpt)
                if gone := transcript.remove_old(self.args.ckpt):
                    print(f"(the newest {transcript.KEPT} transcripts of this model are kept, "
                          f"{gone} older removed)", file=sys.stderr)
        if self.args.opened:
            before, record = self.args.opened
            self.turns, self.n = record["turns"], record["settings"]["n"]
            if self.after_turn:
                self.after_turn(self.turns)
        if not self.live:
            return
        if self.turns:
            self.note(f"The session in {transcript.short(before)} goes on. Turns so far: "
                      f"{len(self.turns)}, the last:\n")
            self.note(program(self.turns[-1:]).removeprefix(PREFIX).rstrip("\n") + "\n")
        else:
            print("Say what you want, turn by turn: each line is answered with its part of one "
                  "program. Try\n")
            print(*(f"    {line}" for line in examples(self.args.ckpt)), sep="\n", end="\n\n")
        kept = "there is no home folder for a transcript" if not self.file else (
            f"{transcript.short(self.file)} keeps what is said, --continue opens it")
        self.note(f"/help lists the commands; {kept}.\n")

    def next_line(self):
        """A line of a file of turns, else of the terminal or pipe; None at the end."""
        if self.lines:
            self.note(f"> {self.lines[0]}")
            return self.lines.pop(0)
        line = self.terminal.read() if self.live else sys.stdin.readline() or None
        if not line:
            return line
        # What is pasted may hold line breaks: what stood behind one would be no comment.
        first, *self.lines = lines_of(line) or [""]
        return first

    def note(self, text):
        """Say something to who sits at a terminal."""
        if self.live:
            print(printable(text))

    def take(self, line):
        """One line: a command, the number of a choice, or a turn."""
        if self.live:
            self.terminal.look()        # a file of lines may load itself, for ever
        name, _, text = map(str.strip, line.partition(" "))
        if name in COMMANDS:
            COMMANDS[name][0](self, text)
        elif name.startswith("/"):
            raise ValueError(f"there is no command {name[:50]}; /help lists them")
        elif self.choices and line.isdecimal():
            self.choose(value(flags.whole(1, len(self.choices)), line))
        elif line:
            self.change(self.turns, self.ask(self.turns, f"# {line}\n", 0))

    def change(self, turns, choices=()):
        """The turns are now these, behind them the first of the choices; write it down."""
        self.turns, self.choices = [*turns, *choices[:1]], choices if len(choices) > 1 else []
        self.changed()

    def changed(self):
        self.write()
        if self.after_turn:
            self.after_turn(self.turns)

    def write(self):
        """Write the transcript, from the first turn on."""
        if self.file and (self.turns or self.file.exists()):
            settings = {name: getattr(self.args, name) for name in ("max_new_tokens", "seed")}
            settings |= dict(temperature=self.chat.temperature, top_p=self.chat.top_p, n=self.n)
            try:
                transcript.write(self.file, self.args.ckpt, self.turns, settings)
                self.held = transcript.hold(self.file)
            except OSError as error:
                print(f"error: no transcript: {error}", file=sys.stderr)
                self.file = None

    # ---- answers ----

    def ask(self, turns, said, first):
        """Make n answers, samples first, first + 1, ... -> those that differ, shown."""
        choices = []
        for number in range(first, first + self.n):
            turn = self.sample(turns, said, number) | dict(tries=first + self.n)
            if all(turn["made"] != other["made"] for other in choices):
                choices.append(turn)
                if self.n > 1:
                    self.note(f"[{len(choices)}]\n{self.shown(turn)}")
        if self.n > 1:
            self.note(f"({self.n} answers, {len(choices)} different: 1 is taken, its number takes "
                      "another)" if len(choices) > 1 else
                      f"({self.n} answers, all the same; /temp 0.8 makes them differ)")
        return choices

    def sample(self, turns, said, number):
        """Sample number `number` of an answer; alone it is shown as it grows."""
        chat, grows = self.chat, self.live and self.n == 1
        chat.sample_ids = [number]

        def stream(text):
            self.terminal.look()
            # A turn may end before its next line: that is shown once it begins no stop word.
            if grows:
                growing.show(re.sub(r"\n+[^\n]{0,4}\Z", "", text).lstrip("\n"))

        with self.working() as wipe:
            growing = Growing(wipe)
            turn = answer(chat, turns, said, self.args.max_new_tokens, self.stop,
                          stream if self.live else None)
        self.compiled = True
        if grows:
            growing.show(self.shown(turn))
            print()
        if turn["first"] > (turns[-1]["first"] if turns else 0):
            print(f"(the context is full: the model no longer sees what was said before turn "
                  f"{turn['first'] + 1})", file=sys.stderr)
        return turn

    @contextlib.contextmanager
    def working(self):
        """Inside, a terminal says that and how long we work -> what wipes this."""
        if not self.live:
            yield None
            return
        with self.terminal.unseen(), counting(self.doing) as wipe:
            yield wipe

    def doing(self):
        """What takes so long."""
        if self.terminal.pressed:
            return "stopping"
        return "working" if self.compiled else "compiling"

    def shown(self, turn):
        """An answer without empty lines around it, and why it is no whole one."""
        text = turn["made"].strip("\n")
        if turn["reason"] == "length":
            text += f"\n(cut off after {tokens(self.chat, turn['made'])} tokens)"
        return text or "(an empty answer)"

    def choose(self, number):
        self.turns[-1] = self.choices[number - 1]
        self.note(f"({number} is taken)")
        self.changed()

    # ---- commands: each gets what stands behind its name ----

    def again(self, _):
        *before, last = self.at_least(1)
        self.change(before, self.ask(before, last["said"], last["tries"]))

    def undo(self, text):
        count = value(flags.whole(1), text or "1")
        gone = self.at_least(count)[-count:]
        self.change(self.turns[:-count])
        for turn in gone:
            self.note(f"(took back: {turn['said'][2:-1]})")
        self.note(f"(turns left: {len(self.turns)})")

    def at_least(self, count):
        """The turns; ValueError where there are fewer."""
        if len(self.turns) < count:
            raise ValueError(f"turns so far: {len(self.turns)}")
        return self.turns

    def show(self, _):
        print(printable(program(self.turns)).rstrip("\n"))

    def run(self, _):
        waiting = self.terminal.waiting if self.live else contextlib.nullcontext
        print(run_program(program(self.turns), self.args.unsafe, waiting), end="", flush=True)

    def temperature(self, text):
        if text:
            self.chat.temperature = value(flags.number(0, 100), text)
            self.write()
        self.note(f"(temperature {self.chat.temperature:g})")

    def answers(self, text):
        if text:
            self.n = value(flags.whole(1, 100), text)
            self.write()
        self.note(f"(answers at each turn: {self.n})")

    def save(self, name):
        save(value(flags.text, name), program(self.turns), self.saved)
        print(f"saved {name}")

    def load(self, name):
        """A transcript or a program of /save: its turns with their answers are added. Else its
        lines are said, one after another."""
        text, chat = load(value(flags.text, name)), self.chat
        if text.startswith(PREFIX) or text.startswith("{"):
            turns = transcript.read(os.path.expanduser(name))["turns"] if text[0] == "{" else (
                transcript.turns_of(text, temperature=chat.temperature, top_p=chat.top_p))
            self.change(self.turns + turns)
            self.note(f"(turns added: {len(turns)})")
        else:
            self.lines = lines_of(text) + self.lines

    def help(self, _):
        for name, (_, argument, words) in COMMANDS.items():
            print(f"{f'{name} {argument}':<12} {words}")
        print(f"{'Ctrl-C':<12} cancel the answer, or the line")


COMMANDS = {        # name -> what it does, what follows it, the same in words
    "/show": (Session.show, "", "the program so far"),
    "/run": (Session.run, "", "run the program, isolated"),
    "/again": (Session.again, "", "sample the last answer anew"),
    "/undo": (Session.undo, "[K]", "take back the last turn, or the last K"),
    "/temp": (Session.temperature, "[T]", "the temperature from now on; 0 is greedy"),
    "/n": (Session.answers, "[N]", "make N answers at each turn; a number chooses"),
    "/save": (Session.save, "FILE", "write the program"),
    "/load": (Session.load, "FILE", "add the turns of a file: a line each, or what /save wrote"),
    "/help": (Session.help, "", "this list"),
    "/quit": (None, "", "leave, as do quit, exit and Ctrl-D"),
}


def leaves(line) -> bool:
    """Whether a line ends the session. "quit this" is a turn, "/quit this" is none."""
    return line in ("quit", "exit") or line.partition(" ")[0] in ("/quit", "/exit")


def lines_of(text):
    """The lines that say something."""
    return [line.strip() for line in re.split(r"[\r\n]", text) if line.strip()]


def talk(chat, stop, args, after_turn=None):
    """Hold a session with a chat of one row (see Session). args: of harness/sampling.py."""
    sys.stdin.reconfigure(errors="replace")
    Session(chat, stop, args, after_turn).talk()
