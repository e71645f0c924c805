"""Laws of the session: what is taken back is gone, what is kept opens again, whole turns leave, no Ctrl-C is lost."""
from harness import outside, session, terminal, transcript
from harness.problems import PREFIX
from harness.session import answer

import contextlib
import os
import pty
import select
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

import sample
from data import get_tokenizer
from model import Config, init_params
from sample import Chat, generate, truncate_turn

ROOT = Path(__file__).parents[1]
CONFIG = Config(n_layer=2, n_head=2, n_embd=32, rotary_dim=8, block_size=160, vocab_size=320)
TOKENIZER = get_tokenizer("bytes")
PARAMS = {n: 6 * p if "proj" in n or "fc" in n or n == "lm_head" else p      # a model with opinions
          for n, p in init_params(jax.random.key(1), CONFIG).items()}


class Echo:
    """A chat of one row that answers what is said last with a print of it and the number of the sample, eight tokens at a
    time; "break" is interrupted half-way, "fail" fails. `seen` holds the histories that it was given."""

    def __init__(self, context=10 ** 6):
        self.config, self.tokenizer = SimpleNamespace(block_size=context), TOKENIZER
        self.temperature, self.top_p, self.seen = 0.2, 0.95, []
        self.rows = [SimpleNamespace(cached=0, made=[])]

    def rewrite(self, texts):
        self.history, = texts

    def turn(self, texts, limit, stop, stream):
        self.seen.append(self.history + texts[0])
        said, _, begun = self.seen[-1].rpartition("\n# ")[2].partition("\n")
        assert len(self.seen[-1]) < self.config.block_size
        if stream:
            stream("pri")
        if said == "break" or said == "twice" and self.sample_ids[0] > 0:
            os.kill(os.getpid(), signal.SIGINT)         # in the middle of something: it must not be heard here
            time.sleep(0)
            stream("print")
            raise AssertionError
        if said == "fail":
            raise RuntimeError("RESOURCE_EXHAUSTED")
        whole = f"print({said!r}, {self.sample_ids[0]})\n\n\n"
        text = whole[len(begun):][:limit]
        return [(stop(text), "stop" if len(stop(text)) < len(text) else "length")]


def flags(*more):
    return sample.parse_args(["--ckpt", "model", "--unsafe", "--temperature", "0.8", *more])


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home of its own, and a folder to work in; a checkpoint of which only the folder's name counts."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here" / "model").mkdir(parents=True)
    (tmp_path / "here" / "model" / "config.json").write_text('{"model_type": "codegen"}')
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


@pytest.fixture
def typed(monkeypatch):
    """typed(lines, chat) -> the turns of a session at a terminal; Ctrl-C and stdin are afterwards as before."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGALRM)
    open_ends = []

    def run(lines, chat, args=None):
        master, slave = pty.openpty()
        stdin = open(slave, encoding="utf-8")
        open_ends.extend([master, stdin])
        monkeypatch.setattr(sys, "stdin", stdin)
        os.write(master, "".join(line + "\n" for line in [*lines, "/quit"]).encode(errors="surrogateescape"))
        states = [[]]
        session.talk(chat, truncate_turn, args or flags(), lambda turns: states.append(list(turns)))
        return states[-1]
    yield run
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGALRM, before[1])
    for end in open_ends:
        end.close() if hasattr(end, "close") else os.close(end)


def piped(lines, chat, args=None, monkeypatch=None):
    """The same from a pipe."""
    with open("lines", "w") as file:
        file.writelines(line + "\n" for line in lines)
    states = [[]]
    with open("lines") as stdin, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", stdin)
        session.talk(chat, truncate_turn, args or flags(), lambda turns: states.append(list(turns)))
    os.remove("lines")
    return states[-1]


def new_chat():
    return Chat(PARAMS, CONFIG, TOKENIZER, 1, 0.8, seed=3)


text_of = lambda turns: [(turn["said"], turn["made"]) for turn in turns]


# ---- what is taken back, kept and opened again -------------------------------------------------------------------------

def test_what_is_taken_back_is_gone_and_the_same_seed_says_it_again():
    """After /undo k the history is that of k turns earlier, whatever was tried in between; what is then said again is
    answered as before, by samples that depend on the history, the seed and the number of the sample alone."""
    lines, limit = ["one", "two", "three"], flags("--max_new_tokens", "12")
    whole = piped(lines, new_chat(), limit)
    assert len({turn["made"] for turn in whole}) == 3
    for k in (1, 2, 3):
        assert text_of(piped([*lines, f"/undo {k}"], new_chat(), limit)) == text_of(whole[:-k])
        assert text_of(piped([*lines, "/again", f"/undo {k}", *lines[-k:]], new_chat(), limit)) == text_of(whole)


def test_a_session_that_goes_on_is_the_one_that_never_stopped(typed, home):
    """The same turns, settings and next answer; a file of its own, and the first stays as it was."""
    lines, more = ["/temp 1.1", "one", "two", "/n 2"], ["three", "/again"]
    settings = ("--max_new_tokens", "12", "--seed", "3")
    whole = typed(lines + more, new_chat(), flags(*settings))
    for file in (home / ".cache/codegen/sessions").iterdir():
        file.unlink()                                           # so that it is not the newest
    typed(lines, new_chat(), flags(*settings))
    first, = (home / ".cache/codegen/sessions").iterdir()
    content = first.read_bytes()
    args = sample.parse_args(["--ckpt", "model", "--continue"])
    assert (args.temperature, args.seed, args.max_new_tokens) == (1.1, 3, 12)
    chat = new_chat()
    chat.temperature = args.temperature
    assert text_of(piped(more, chat, args)) == text_of(whole)
    assert first.read_bytes() == content
    second, = {*first.parent.iterdir()} - {first}
    assert text_of(transcript.newest("model")[1]["turns"]) == text_of(whole) and transcript.newest("model")[0] == second
    assert sample.parse_args(["--ckpt", "model", "--continue", "--temperature", "0"]).temperature == 0
    assert stat.S_IMODE(first.parent.stat().st_mode) == 0o700


def test_what_continue_cannot_open_is_one_line(home, capsys):
    for words in ("holds no session", "is damaged"):
        with pytest.raises(SystemExit) as end:
            sample.parse_args(["--ckpt", "model", "--continue"])
        said = capsys.readouterr().err
        assert end.value.code == 2 and words in said and said.count("\n") == 1
        transcript.write(transcript.new_file("model"), "model", [dict(said="# a\n")], dict(n=1))


def test_a_pipe_says_what_is_typed_and_leaves_nothing(typed, home, capsys):
    lines = ["one", "", "/n 3", "two", "2", "/again", "/undo", "three", "3", "/temp 0.5", "four", "quit", "five"]
    want = piped(lines, Echo())
    assert capsys.readouterr().out == transcript.program(want).rstrip("\n") + "\n"
    assert not home.exists()
    assert typed(lines, Echo()) == want and len(want) == 3


def test_choices_are_told_apart_and_chosen_by_number(typed, capsys):
    """Answers that are the same count once; another number can be taken until the next line is said."""
    class Three(Echo):
        def turn(self, *args):
            self.sample_ids = [self.sample_ids[0] // 2]
            return super().turn(*args)
    turns = typed(["/n 5", "one", "3", "2", "4", "/n 1", "two", "7"], Three())
    out, err = capsys.readouterr()
    assert [t["made"] for t in turns] == ["print('one', 1)", "print('two', 0)", "print('7', 0)"]
    assert "[3]\nprint('one', 2)\n(5 answers, 3 different" in out and "between 1 and 3" in err
    assert typed(["one", "/again", "/again"], Echo())[0]["made"] == "print('one', 2)"
    assert typed(["/n 2", "one", "/again", "2"], Echo())[0]["made"] == "print('one', 3)"


def test_load_adds_turns_as_typed_as_saved_and_as_kept(typed, home):
    want = typed(["one", "two", "/save saved.py"], Echo())
    kept, = (home / ".cache/codegen/sessions").iterdir()
    Path("lines.txt").write_text("one\r\n\n  two\n")
    Path("code.py").write_text(PREFIX + "x = 1\n")
    for name in ("lines.txt", "saved.py", str(kept)):
        assert text_of(typed([f"/load {name}"], Echo())) == text_of(want)
        assert text_of(typed(["zero", f"/load {name}", "three"], Echo()))[1:3] == text_of(want)
    for name in ("nothing", ".", "code.py", ""):
        assert text_of(typed(["one", f"/load {name}"], Echo())) == text_of(want[:1])


def test_a_program_as_text_is_its_turns():
    turns = [dict(said="# a # b\n", made="def f():\n    # inner\n    return 1"), dict(said="# ## c\n", made=""),
             dict(said="#  d\n", made="\n\nx")]
    assert text_of(transcript.turns_of(transcript.program(turns))) == text_of(turns)
    assert text_of(transcript.turns_of(PREFIX + "# a\nx = 1\n\n# b")) == [("# a\n", "x = 1"), ("# b\n", "")]


# ---- what outgrows the context -------------------------------------------------------------------------------------------

def test_what_is_dropped_are_whole_turns_and_no_more_than_must_be():
    """Every history that the model is given is PREFIX, the newest turns whole, and what is said: with one more turn the
    context would not have a 16th of itself left. An answer that outgrows that goes on, and is what a larger context gives."""
    chat, turns, firsts = Echo(context=320), [], []
    for i in range(30):
        said = f"# {'long ' * (i % 7)}{i}\n"
        chat.sample_ids, before = [0], len(chat.seen)
        turn = answer(chat, turns, said, 100, truncate_turn)
        assert turn["made"] == f"print({said[2:-1]!r}, 0)"
        for seen in chat.seen[before:]:
            first = next(k for k in range(i + 1) if seen.startswith(transcript.program(turns[k:]) + said))
            behind = seen.removeprefix(transcript.program(turns[first:]))
            assert first == 0 or len(transcript.program(turns[first - 1:]) + behind) + 20 > 320
        assert turn["first"] == first and turn["dropped"] == sum(
            len(t["said"] + t["made"] + "\n\n") for t in turns[:first])
        firsts.append(first)
        turns.append(turn)
    assert firsts == sorted(firsts) and firsts[5] == 0 and len(chat.seen) > 31


def test_an_answer_that_is_cut_where_it_goes_on_ends_where_the_rule_says():
    """The word that ends it stands half before and half behind the place where a turn had to go."""
    chat = Echo(context=200)
    turns = [dict(said="# one\n", made="x" * 90)]
    for length in range(10, 60):
        class Prints(Echo):
            def turn(self, texts, limit, stop, stream, length=length):
                begun = (self.history + texts[0]).rpartition("\n# two\n")[2]
                text = ("print(1)" + " " * length + "\nprint(2)\n")[len(begun):][:limit]
                return [(stop(text), "stop" if len(stop(text)) < len(text) else "length")]
        chat = Prints(context=200)
        chat.sample_ids = [0]
        assert answer(chat, turns, "# two\n", 100, truncate_turn)["made"] == "print(1)" + " " * length


def test_the_cache_serves_a_session_and_its_tokens_are_counted():
    """A turn's tokens are run or reused, and no history is run twice but where turns have gone."""
    chat, turns = new_chat(), []
    for line in ("one", "two", "three", "four", "five", "six"):
        chat.sample_ids = [0]
        said = f"# {line}\n"
        turn = answer(chat, turns, said, 12, truncate_turn)
        seen = transcript.program(turns[turn["first"]:]) + said
        want, = generate(PARAMS, CONFIG, TOKENIZER, [seen], 12, 0.8, seed=3, stop=truncate_turn)
        if not turn["first"] or turn["run"] + turn["reused"] == len(TOKENIZER.encode(seen)):
            assert turn["run"] + turn["reused"] == len(TOKENIZER.encode(seen))
            assert turn["made"] == want[0].rstrip("\n")
        if turns and not turn["first"]:
            assert turn["run"] <= len(TOKENIZER.encode(turns[-1]["made"] + "\n\n" + said)) + 1
        turns.append(turn)
    assert turns[-1]["first"] > 0


# ---- what goes wrong ---------------------------------------------------------------------------------------------------

def test_what_goes_wrong_in_a_session_loses_nothing(typed, capfd):
    Path("mine").write_text("a stranger's")
    Path("sealed").write_text("a file, not a folder")
    typed(["\udcff half a character", "/undo", "one", "break", "fail", "/again", "twice", "/again", "/save", "/save .",
           "/save no/such", "/save sealed/x", "/save mine", "/save new", "/undo", "/save new", "/save " + "x" * 300,
           "/nonsense", "/undo 2", "/undo x", "/temp hot", "/n 0", "/run"], Echo())
    out, err = capfd.readouterr()
    assert Path("new").read_text() == PREFIX + "# one\nprint('one', 1)\n\n" and "saved new" in out
    assert Path("mine").read_text() == "a stranger's" and len(os.listdir()) == 4
    assert "> one 1\n" in out and out.count("interrupted") == 2 and out.count("print('one'") == 2
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 12


def test_no_line_ends_or_stalls_a_session_that_says_nothing_of_it(typed, monkeypatch, capsys):
    """Neither a NUL, nor a pipe to load, nor a file that loads itself, from which Ctrl-C leads back."""
    os.mkfifo("pipe")
    assert len(typed(["a\0b", "/load pipe", "quit this", "/quit this", "two"], Echo())) == 2
    assert "no ordinary file" in capsys.readouterr().err
    Path("self").write_text("/load self\n")
    read, loads = session.load, []

    def load(name):
        loads.append(name)
        assert len(loads) < 100
        if len(loads) == 9:
            os.kill(os.getpid(), signal.SIGINT)
        return read(name)
    monkeypatch.setattr(session, "load", load)
    assert len(typed(["/load self", "one"], Echo())) == 1 and "(interrupted" in capsys.readouterr().out


def test_what_is_pasted_is_said_line_by_line(typed, monkeypatch):
    """A line break of any kind begins another comment: what stands behind it must be no code."""
    Path("lines").write_bytes(b"one\rtwo\r\n\nthree")
    want = ["# one\n", "# two\n", "# three\n"]
    assert [turn["said"] for turn in typed(["/load lines"], Echo())] == want
    lines = iter(["one\r\ntwo\nthree", "", None])
    monkeypatch.setattr(terminal.Terminal, "read", lambda self: next(lines))
    assert [turn["said"] for turn in typed([], Echo())] == want


def test_a_transcript_that_no_session_of_ours_wrote_is_refused_in_a_line(home):
    for name in ("model", "名" * 80):
        file = transcript.new_file(name)
        transcript.write(file, name, *kept())
        assert transcript.read(file)["turns"] == kept()[0]
    for change, words in ((dict(tries=2 ** 40), "tries"), (dict(reason="constructor"), "reason"), (dict(made=None), "made")):
        transcript.write(file, "model", *kept(**change))
        with pytest.raises(ValueError, match=words):
            transcript.read(file)
    transcript.write(file, "model", *kept())
    file.write_text(file.read_text().replace("numpy", "math"))
    with pytest.raises(ValueError, match="of another version"):
        transcript.read(file)


def test_the_newest_transcripts_of_a_model_are_kept_and_what_is_somebodys(typed, home, capsys, monkeypatch):
    """One that is held, named by its owner, damaged, of another folder of that name or of another model stays."""
    monkeypatch.setattr(transcript, "KEPT", 3)
    sessions = home / ".cache/codegen/sessions"

    def written(age, name=None, ckpt="model"):
        file = sessions / name if name else transcript.new_file(ckpt)
        transcript.write(file, ckpt, *kept())
        os.utime(file, (10 ** 9 - age,) * 2)
        return file
    for path in ("other", "elsewhere/model"):
        Path(path).mkdir(parents=True)
    old, new = [written(age) for age in range(10, 15)], [written(age) for age in range(3)]
    stay = [*new, written(20, "model-my best one.json"), written(20, ckpt="elsewhere/model"), written(20, ckpt="other")]
    stay.append(written(20, "model-20261128-143005-0a1b2c.json"))
    stay[-1].write_text("damaged")
    os.utime(stay[-1], (1, 1))
    args = sample.parse_args(["--ckpt", "model", "--continue"])
    with transcript.hold(old[2]):
        typed([], Echo(), args)
    assert {*sessions.iterdir()} == {*stay, old[2]} and args.opened[0] == new[0]
    assert capsys.readouterr().err == "(the newest 3 transcripts of this model are kept, 4 older removed)\n"
    typed([], Echo())
    assert {*sessions.iterdir()} == {*stay} and "1 older removed" in capsys.readouterr().err
    typed([], Echo())
    assert not capsys.readouterr().err


def test_a_session_holds_its_transcript_as_long_as_it_lasts(typed, home, monkeypatch):
    """Also the one that was written last: another session that begins meanwhile, with none to keep, leaves it."""
    monkeypatch.setattr(transcript, "KEPT", 0)
    left = []

    class Meanwhile(Echo):
        def turn(self, *args):
            left.append(transcript.remove_old("model"))
            return super().turn(*args)
    typed(["one", "two", "/undo", "three"], Meanwhile())
    assert left == [0, 0, 0] and transcript.remove_old("model") == 1


def kept(**change):
    """A turn and the settings, as a transcript keeps them."""
    turn = dict.fromkeys(transcript.TURN, 0) | dict(said="# a\n", made="x", reason="stop") | change
    return [turn], dict(max_new_tokens=9, temperature=0.5, top_p=1, seed=0, n=1)


def test_who_goes_on_is_told_the_turns_that_are_there(typed):
    want = typed(["one", "two"], Echo())
    assert piped([], Echo(), sample.parse_args(["--ckpt", "model", "--continue"])) == want


def test_a_terminal_may_be_gone_and_a_line_need_not_be_remembered(monkeypatch):
    """A readline that does not append (libedit), and one that takes no NUL."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGALRM)
    where = terminal.Terminal()
    try:
        where.history, where.modes = "history", [0] * 6 + [[]]
        where.readline = SimpleNamespace(add_history=lambda line: line.index("x"))
        where.remember("x")
        where.remember("y")
        with open(os.devnull) as gone:
            monkeypatch.setattr(sys, "stdin", gone)
            where.restore()
            with where.unseen():
                pass
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGALRM, before[1])


def test_a_home_that_cannot_be_written_is_said_once_and_the_session_goes_on(typed, home, capsys):
    home.write_text("a file")
    assert len(typed(["one", "two"], Echo())) == 2
    assert capsys.readouterr().err.count("error: no transcript") == 1


def test_two_ctrl_c_in_a_row_leave_and_one_does_not(monkeypatch):
    before, lines = signal.getsignal(signal.SIGINT), iter(["^C", "one", "^C", "^C"])

    def line(prompt):
        if (line := next(lines)) == "^C":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(9)
        return line
    monkeypatch.setattr("builtins.input", line)
    try:
        where = terminal.Terminal()
        assert where.read() == "one"
        with pytest.raises(KeyboardInterrupt):
            where.read()
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def at_a_terminal(*command, keys=True):
    """A command that owns a terminal -> (its process, until(words): what came up to them, type(text))."""
    master, slave = pty.openpty()
    take = [sys.executable, "-c", "import fcntl, os, sys, termios\nos.setsid()\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
            "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"]
    env = {**os.environ, "TERM": "dumb", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([*take, *map(str, command)], stdin=slave, stdout=slave, stderr=slave, env=env) as process:
        os.close(slave)
        seen = b""

        def until(words):
            nonlocal seen
            while words not in seen:
                if not select.select([master], [], [], 60)[0]:
                    process.kill()
                    raise AssertionError(seen)
                seen += os.read(master, 4096)
            before, _, seen = seen.partition(words)
            return before
        yield process, until, lambda text: os.write(master, text)
        process.kill()
    os.close(master)


READS = """
from harness.terminal import Terminal
terminal = Terminal(["/run", "/show"])
while (line := terminal.read()) != "end":
    print("got", repr(line))
"""


def test_no_ctrl_c_at_the_prompt_is_lost_and_lines_are_edited_and_remembered(home):
    """It comes as soon as the prompt does, over and over; the line that was begun is dropped, what is typed next is whole."""
    pytest.importorskip("readline")
    with at_a_terminal("-c", READS) as (process, until, write):
        for _ in range(30):
            until(b"> ")
            write(b"\x03")
            until(b"(Ctrl-C once more")
            until(b"> ")
            write(b"whole\n")
            until(b"got 'whole'")
        until(b"> ")
        write(b"half")
        until(b"half")
        write(b"\x03")
        assert b"once more" not in until(b"> ")
        write(b"onf\x7fe\n")
        until(b"got 'one'")
        write(b"/sh\t\n")
        until(b"got '/show'")
        write(b"\x10\x10\n")                # up, up
        until(b"got 'one'")
        write(b"end\n")
        assert process.wait(60) == 0
    history = home / ".cache/codegen/history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert history.read_text().split("\n")[-5:] == ["one", "/show", "one", "end", ""]
    with at_a_terminal("-c", READS) as (process, until, write):
        until(b"> ")
        write(b"\x10\x10\n")                # of the session before
        until(b"got 'one'")
        process.send_signal(signal.SIGINT)
        until(b"once more")


@pytest.fixture(scope="module")
def ckpt(untrained):
    return untrained(CONFIG)


def test_a_session_on_a_terminal(ckpt):
    """Ctrl-C as soon as the first answer is asked for, so while it compiles; afterwards all is as before."""
    with at_a_terminal(ROOT / "sample.py", "--ckpt", ckpt, "--max_new_tokens", "20") as (process, until, write):
        assert b"Count how often" in until(b"\r\n> ")
        write(b"Say one.\n")
        until(b"one.\r\n")
        write(b"\x03")
        until(b"> ")
        write(b"/undo\n/save /\n/save saved.py\n")
        until(b"saved saved.py\r\n> ")
        write(b"\x03")
        until(b"once more")
        write(b"/quit\n")
        assert process.wait(60) == 0
    assert Path("saved.py").read_text() == PREFIX


def test_a_prompt_on_a_terminal_grows_to_what_a_pipe_gets(ckpt):
    Path("prompt").write_text("x = 1\ny")
    command = (ROOT / "sample.py", "--ckpt", ckpt, "--max_new_tokens", "20", "--prompt_file", "prompt", "--temperature", "0")
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    want = done.stdout.partition("(ended by length)\n")[2]
    with at_a_terminal(*command) as (process, until, _):
        until(b"----- sample 0\r\n")
        shown = until(b"\r\n----- ended by length\r\n").decode().rpartition("x = 1")
        assert process.wait(60) == 0
    assert terminal.printable(want) == "x = 1" + shown[2].replace("\r\n", "\n") + "\n"


def test_what_may_begin_a_stop_text_is_held_back(capsys):
    class Slow:
        def turn(self, texts, limit, stops, stream):
            for n in range(len("a = 1\n\nb")):
                text = "a = 1\n\nb"[:n]
                stream(text[:text.find("\n\n")] if "\n\n" in text else text)
                shown.append(capsys.readouterr().out)
            return [("a = 1", "stop")]
    shown = []
    session.show_sample(Slow(), "p ", 9, ("\n\n",))
    assert "".join(shown) == "----- sample 0\np a = 1"


# ---- /run ----------------------------------------------------------------------------------------------------------------

def test_run_shows_what_was_printed_and_why_it_ended():
    shown = lambda source, **more: session.run_program(source, unsafe=True, **more)
    assert shown("print('é。', flush=True)\nimport os\nos.system('echo below')") == "é。\nbelow\n"
    assert shown("print('so far')\nwhile True: pass", seconds=0.7) == "so far\n(stopped after 0.7 s)\n"
    flood = shown("while True: print('x' * 999)")
    assert flood.startswith("x" * 999 + "\n") and len(flood) < session.OUTPUT + 100 and "bytes of output" in flood
    first, *_, last = shown("print(1)\n1 / 0").splitlines()
    assert (first, last) == ("1", "ZeroDivisionError: division by zero")
    assert shown("print('a')\nimport os\nos.abort()") == "a\n(exit code -6)\n"
    assert shown("import sys\nsys.exit(3)") == "(exit code 3)\n" and shown("") == ""
    assert "\x1b" not in shown("print('\\x1b[2J')")


def test_run_is_isolated_or_says_how_not(monkeypatch):
    worker = outside.Worker

    def none_but_unsafe(isolation, *rest):
        if isolation != "none":
            raise OSError("not on this machine")
        return worker(isolation, *rest)
    monkeypatch.setattr(outside, "Worker", none_but_unsafe)
    with pytest.raises(ValueError, match="--unsafe"):
        session.run_program("print(1)")
    assert session.run_program("print(1)", unsafe=True) == "1\n"


def test_ctrl_c_stops_a_program_and_no_more():
    """What waits for the program may raise; what it had printed is shown."""
    pieces = 0

    @contextlib.contextmanager
    def waiting():
        nonlocal pieces
        pieces += 1
        if pieces == 2:
            raise KeyboardInterrupt
        yield
    assert session.run_program("print('first')\nwhile True: pass", True, waiting) == "first\n(interrupted)\n"
