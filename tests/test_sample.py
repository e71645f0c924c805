"""Laws of sampling: the nucleus against a NumPy loop, rows that do not see their batch, stop rules, commands."""

from harness import sampling

import dataclasses
import json
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sample
from data import get_tokenizer
from model import Config, init_params, unstack
from sample import Chat, generate, sample_token, top_p_filter, truncate_function, truncate_turn

ROOT = Path(__file__).parents[1]
CONFIG = Config(n_layer=2, n_head=2, n_embd=32, rotary_dim=8, block_size=128, vocab_size=320)
TOKENIZER = get_tokenizer("bytes")                              # 257 entries: rows 257 to 319 stand for nothing
# Weights larger than at the start of training: a model with opinions, so that texts differ where they may.
PARAMS = {n: 6 * p if "proj" in n or "fc" in n or n == "lm_head" else p
          for n, p in init_params(jax.random.key(1), CONFIG).items()}


def kept(probs, p):
    return np.flatnonzero(np.isfinite(np.asarray(top_p_filter(jnp.log(jnp.asarray([probs], jnp.float32)), p))[0]))


def nucleus_loop(probs, p):
    """The definition: take the likeliest until their mass reaches p."""
    taken, mass = [], 0.0
    for i in np.argsort(-probs):
        taken.append(i)
        mass += probs[i]
        if mass >= p:
            break
    return sorted(taken)


def test_the_token_that_crosses_p_is_kept():
    probs = [0.5, 0.41, 0.09]
    assert list(kept(probs, 0.9)) == [0, 1]
    assert list(kept(probs, 0.49)) == [0]
    assert list(kept(probs, 1e-6)) == [0]
    assert list(kept(probs, 1.0)) == [0, 1, 2]
    assert list(kept([0.25] * 4, 0.3)) == [0, 1, 2, 3]           # equals stay together
    assert list(kept([1.0, 0.0, 0.0], 0.95)) == [0]


@pytest.mark.parametrize("size", [2, 10, 1000, 51200])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.95])
def test_nucleus_equals_the_loop(size, p):
    for seed in range(3):
        logits = np.random.default_rng(seed).normal(size=size) * 3
        probs = np.exp(logits - logits.max())
        probs = (probs / probs.sum()).astype(np.float32)
        want = nucleus_loop(probs.astype(np.float64), p)
        got = list(kept(probs, p))
        assert got == want or abs(probs[want].sum() - p) < 1e-5 or abs(probs[got].sum() - p) < 1e-5


def test_temperature_comes_before_the_nucleus():
    """At temperature 2 the probabilities .8 .1 .1 become about .59 .21 .21: a nucleus of .7 then holds more than one."""
    logits = jnp.tile(jnp.log(jnp.array([0.8, 0.1, 0.1])), (500, 1))
    keys = jax.random.split(jax.random.key(0), 500)
    hot = np.asarray(sample_token(keys, logits, 2.0, 0.7, 3))
    cold = np.asarray(sample_token(keys, logits, 1.0, 0.7, 3))
    assert set(cold) == {0} and set(hot) == {0, 1, 2}
    # by how much: 500 draws with p .586; five standard deviations are 0.11
    assert abs((hot == 0).mean() - 0.8 ** 0.5 / (0.8 ** 0.5 + 2 * 0.1 ** 0.5)) < 0.11


def test_temperatures_differ_in_entropy_and_zero_is_greedy():
    logits = jnp.tile(jax.random.normal(jax.random.key(0), (1, 50)) * 2, (400, 1))
    keys = jax.random.split(jax.random.key(1), 400)
    distinct = [len(set(np.asarray(sample_token(keys, logits, t, 0.95, 50)).tolist())) for t in (0.0, 0.2, 0.8)]
    assert distinct[0] == 1 and distinct[0] <= distinct[1] < distinct[2]
    assert int(sample_token(keys, logits, 0.0, 0.95, 50)[0]) == int(logits[0].argmax())


def test_ids_that_no_token_stands_for_are_never_sampled():
    logits = jnp.zeros((2000, 64)).at[:, 40:].set(5.0)
    tokens = np.asarray(sample_token(jax.random.split(jax.random.key(0), 2000), logits, 1.0, 1.0, 40))
    assert tokens.max() == 39 and tokens.min() == 0


def test_a_row_does_not_depend_on_its_batch():
    prompts = [f"# row {i}" * (1 + i % 3) for i in range(64)]
    alone = {i: generate(PARAMS, CONFIG, TOKENIZER, [prompts[i]], 24, 0.8, 0.95, 5, sample_ids=[i])[0] for i in (0, 3, 40, 63)}
    for size in (7, 64):
        together = generate(PARAMS, CONFIG, TOKENIZER, prompts, 24, 0.8, 0.95, 5, batch_size=size)
        assert {i: together[i] for i in alone} == alone
        assert len({text for text, _ in together}) > 60
    other = generate(PARAMS, CONFIG, TOKENIZER, prompts[:1], 24, 0.8, 0.95, 6)
    assert other[0] != alone[0]
    assert generate(PARAMS, CONFIG, TOKENIZER, prompts[:1], 24, 0.8, 0.95, 5, sample_ids=[9])[0] != alone[0]


def test_a_cache_that_grows_and_unstacked_weights_change_nothing(monkeypatch):
    """Room for 16 tokens at first and for more when a turn needs it; each layer's weights in arrays of their own."""
    want = Chat(PARAMS, CONFIG, TOKENIZER, 2, 0.8, seed=3)
    monkeypatch.setattr(sample, "ROOM", 16)
    chat, rooms = Chat(unstack(dict(PARAMS)), CONFIG, TOKENIZER, 2, 0.8, seed=3), []
    for new in (["a", "# b"], ["c = ", "dd"], ["# more of it", "e"]):
        assert chat.turn(new, 10) == want.turn(new, 10)
        rooms.append(chat.room)
    assert rooms[0] == 16 and rooms[0] < rooms[1] <= rooms[2] <= 128 == want.room


def test_rows_shared_out_to_the_cores_say_the_same(monkeypatch):
    monkeypatch.setattr(sample, "CORES", 3)
    prompts = ["x = 1" * n for n in range(1, 7)]
    chats = [sample.Chats(PARAMS, CONFIG, TOKENIZER, 6, 0.8, seed=3)]
    monkeypatch.setattr(sample, "SMALL", 0)
    chats.append(sample.Chats(PARAMS, CONFIG, TOKENIZER, 6, 0.8, seed=3))
    assert [len(c.chats) for c in chats] == [3, 1]
    for _ in range(2):
        apart, together = (c.turn(prompts, 70, keep_newest=True) for c in chats)
        assert apart == together and len({text for text, _ in apart}) == 6
    assert chats[0].dropped == chats[1].dropped and any(chats[0].dropped)


def test_a_run_compiles_two_programs(monkeypatch):
    """Prompts of 5 to 90 tokens in batches: one program reads them all and one makes tokens."""
    traced, run, config = set(), sample.forward_cached, dataclasses.replace(CONFIG, block_size=120)

    def spy(params, ids, cache, *rest):
        traced.add((ids.shape, cache["k"].shape))
        return run(params, ids, cache, *rest)
    monkeypatch.setattr(sample, "ROOM", 16)
    monkeypatch.setattr(sample, "forward_cached", spy)
    generate(PARAMS, config, TOKENIZER, ["x = 1" * n for n in (1, 3, 18, 7, 2, 11, 16)], 20, 0.8, batch_size=2)
    assert len(traced) == 2


@pytest.mark.parametrize("rows", [1, 4])
def test_half_the_memory_is_half_the_memory(rows):
    """The loop that makes tokens keeps no copy of bfloat16 weights."""
    config = Config(n_layer=2, n_head=4, n_embd=256, rotary_dim=16, block_size=64, vocab_size=4096, dtype="bfloat16")
    params = {n: p.astype("bfloat16") if p.ndim > 1 else p for n, p in init_params(jax.random.key(0), config).items()}
    cache = sample.init_cache(config, rows, 16, unstacked=True)
    logits, zeros = jnp.zeros((rows, 4096)), jnp.zeros(rows, jnp.int32)
    compiled = sample.decode.lower(unstack(params), cache, logits, zeros, zeros > 0, zeros + 8, 0, zeros, 0.8, 0.95,
                                   config=config, n_vocab=4096, eot=0, steps=8).compile()
    lm_head = 2 * 256 * 4096
    assert compiled.memory_analysis().temp_size_in_bytes < lm_head


def test_stop_reasons():
    (text, reason), = generate(PARAMS, CONFIG, TOKENIZER, ["abc"], 12, 0.8)
    assert reason == "length"
    (whole, _), = generate(PARAMS, CONFIG, TOKENIZER, ["abc"], 40, 0.8)
    stop = whole[10:12]
    (cut, reason), = generate(PARAMS, CONFIG, TOKENIZER, ["abc"], 40, 0.8, stop=(stop,))
    assert reason == "stop" and cut == whole[:whole.index(stop)]
    likes_eot = PARAMS | {"lm_head.bias": PARAMS["lm_head.bias"].at[TOKENIZER.eot].set(1e4)}
    assert generate(likes_eot, CONFIG, TOKENIZER, ["abc"], 40, 0.8) == [("", "eos")]


def test_prompts_that_cannot_be():
    with pytest.raises(ValueError, match="empty"):
        generate(PARAMS, CONFIG, TOKENIZER, [""])
    with pytest.raises(ValueError, match="context 128"):
        generate(PARAMS, CONFIG, TOKENIZER, ["x" * 128])


def test_turns_equal_one_long_prompt_and_cost_their_new_tokens_only():
    """Greedy: history kept in the cache gives what a fresh read of the whole history gives, turn after turn."""
    chat = Chat(PARAMS, CONFIG, TOKENIZER, 2, temperature=0)
    fresh = ["", ""]
    for turn in range(3):
        new = [f"# turn {turn}\n", f"# say {turn} more\n"]
        before, held = chat.tokens_run, sum(map(len, chat.held))
        got = chat.turn(new, 8)
        fresh = [f + n for f, n in zip(fresh, new)]
        want = generate(PARAMS, CONFIG, TOKENIZER, fresh, 8, temperature=0)
        assert got == want
        fresh = [f + t for f, (t, _) in zip(fresh, want)]
        assert chat.texts == fresh
        # Bytes of a sample may decode to a replacement character and then be re-read from there; otherwise only the new.
        if all("\ufffd" not in t for t, _ in got) and turn:
            assert chat.tokens_run - before <= sum(map(len, new)) + 2 * 8 + 2, held


def test_rewriting_history_keeps_what_agrees():
    chat = Chat(PARAMS, CONFIG, TOKENIZER, 1, temperature=0)
    chat.turn(["# a long first turn, forty characters or so\n"], 4)
    before = chat.tokens_run
    chat.rewrite(["# a long first turn, forty characters or SO\n"])
    got = chat.turn(["x"], 4)
    assert chat.tokens_run - before <= 4 + 4
    assert got == generate(PARAMS, CONFIG, TOKENIZER, ["# a long first turn, forty characters or SO\nx"], 4, temperature=0)


def test_a_long_history_keeps_its_newest_tokens():
    chat = Chat(PARAMS, CONFIG, TOKENIZER, 1, temperature=0)
    text = "".join(chr(97 + i % 26) for i in range(300))
    got = chat.turn([text], 10, keep_newest=True)
    assert chat.dropped == [300 - (128 - 10)]
    assert got == generate(PARAMS, CONFIG, TOKENIZER, [text[-118:]], 10, temperature=0)


def test_prompt_logprob_is_the_forward_pass():
    from model import forward
    text = "x = 1\ny = 2\n"
    ids = [TOKENIZER.eot] + TOKENIZER.encode(text)
    logp = jax.nn.log_softmax(forward(PARAMS, jnp.array([ids[:-1]]), CONFIG))[0]
    want = [float(logp[i, t]) for i, t in enumerate(ids[1:])]
    (total, n), = sample.prompt_logprob(PARAMS, CONFIG, TOKENIZER, [text])
    assert n == len(text) and total == pytest.approx(sum(want), abs=1e-3)
    (part, n), = sample.prompt_logprob(PARAMS, CONFIG, TOKENIZER, [text], spans=[[(6, 12)]])
    assert n == 6 and part == pytest.approx(sum(want[6:]), abs=1e-3)


@pytest.mark.parametrize("text, want", [
    ("x = 1\n\n# next", "x = 1\n\n"), ("print(1)\nprint(2)\n", "print(1)\n"), ("def f():\n  1\ndef g():\n", "def f():\n  1\n"),
    ("x\n\n\ny", "x"), ("x<|endoftext|>y", "x"), ("x\n'''doc", "x\n"), ('x\n"""doc', "x\n"), ("# all", ""),
    ("printer = 1\nprint(2)\n", "printer = 1\n"), ("default = 1\ndef f(): pass", "default = 1\n"),
    ("  print(1)\n  print(2)", "  print(1)\n  print(2)"), ("class A:\n  x = 1\nimport os", "class A:\n  x = 1\nimport os"),
    ("async def f(): 1\nasync def g(): 2", "async def f(): 1\nasync def g(): 2"), ("", ""),
    ("def f():\n  1\nprint(1)\ndef g():\n  2\nprint(2)\n", "def f():\n  1\nprint(1)\n")])
def test_truncate_turn(text, want):
    assert truncate_turn(text) == want


@pytest.mark.parametrize("text, want", [
    ("    return 1\n\ndef g():\n", "    return 1\n\n"), ("    return [\n        1,\n]\n", None),
    ("    return (\n)\nprint(1)", "    return (\n)\n"),
    ("    x = 1\n# note", "    x = 1\n"), ("    x = 1\n\n\n    return x\n", None), ("def other():\n    pass", ""),
    ("    return 1\nif __name__ == '__main__':\n", "    return 1\n"), ("    return 1\n@x", "    return 1\n"), ("", "")])
def test_truncate_function(text, want):
    assert truncate_function(text) == (text if want is None else want)


@pytest.mark.parametrize("rule", [
    truncate_turn, truncate_function, partial(sample.cut_at, ("f()", "\n\n", "int(1", "rint", "(")),
    partial(sample.cut_at, ("def f():\n", "f", "\n\n\nd", "\n\n"))])
def test_a_cut_stays_where_it_is_when_more_text_comes(rule):
    """Sampling stops at the first cut, so the cut must not move: checked on all prefixes of awkward texts."""
    for text in ("    a\n\n\n# x\nprint(1)\nprint(2)\n'''", "x\nprint(1)\ndef f():\n  1\n\n\ndef g():\nprint(3)\n#",
                 "\n\n\"\"\"\n\n\n'''"):
        for i in range(len(text)):
            if len(rule(text[:i])) < i:
                assert rule(text) == rule(text[:i])


@pytest.fixture(scope="module")
def ckpt(untrained):
    return untrained(CONFIG)


def run(*args, stdin=""):
    return subprocess.run([sys.executable, ROOT / "sample.py", *map(str, args)], input=stdin,
                          capture_output=True, text=not isinstance(stdin, bytes))


def test_commands(ckpt, tmp_path):
    done = run("--ckpt", ckpt, "--prompt", "x = ", "--num_samples", 2, "--max_new_tokens", 5)
    assert done.returncode == 0 and done.stdout.startswith("# platform cpu") and done.stdout.count("----- sample") == 2
    done = run("--ckpt", ckpt, "--max_new_tokens", 4, stdin="Say one.\nSay two.\n/undo\nSay three.\n")
    assert done.returncode == 0, done.stderr
    assert "# Say one.\n" in done.stdout and "# Say three.\n" in done.stdout and "Say two" not in done.stdout


@pytest.mark.parametrize("args, words", [
    (("--prompt", ""), "empty"), (("--nonsense",), "nonsense"), (("--prompt", "x", "--top_p", "2"), "top_p"),
    (("--prompt", "x" * 500), "context 128"), (("--prompt", "x", "--num_samples", "0"), "num_samples"),
    (("--prompt", "-"), "nothing came in"), (("--prompt", "x", "--stop", ""), "empty"),
    (("--prompt", "x", "--temperature", "nan"), "temperature"), (("--prompt", "x", "--seed", str(2 ** 32)), "seed")])
def test_bad_input_is_one_line_and_exit_code_2(ckpt, args, words):
    done = run("--ckpt", ckpt, *args)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [
    ("sample.py", "--prompt", "x", "--num_samples", "100000"),
    ("humaneval.py", "generate", "--problems", ROOT / "miniature" / "humaneval.jsonl", "--n", "9", "--out", "samples.jsonl")])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_commands_that_compile_stop_at_once(ckpt, tmp_path, command, number):
    """The signal comes with the first line, so while weights are read and programs compiled."""
    with subprocess.Popen([sys.executable, ROOT / command[0], *command[1:], "--ckpt", ckpt], cwd=tmp_path,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith(b"# platform")
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number and stderr == b""


def test_a_prompt_from_standard_input(ckpt):
    """Byte for byte, the last line end included; what is no text is refused."""
    settings = ("--ckpt", ckpt, "--max_new_tokens", 3)
    text = "# Zähle bis 3\n"
    assert run(*settings, "--prompt", "-", stdin=text.encode()).stdout == run(*settings, "--prompt", text, stdin=b"").stdout
    done = run(*settings, "--prompt", "-", stdin=b"\xff")
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1 and b"UTF-8" in done.stderr


@pytest.mark.parametrize("text, want", [
    ("ï", "ï"), ("。", "。"), (" ", " "), (r"\n\n", "\n\n"), (r"\t#", "\t#"), (r"\\n", r"\n"), ("\\", "\\"), (r"a\q", r"a\q"),
    (r"\x41\u3002", "A。"), (r"\x4", r"\x4"), ("\n", "\n")])
def test_stop_takes_any_text(text, want):
    args = sample.parse_args(["--ckpt", "x", "--stop", text])
    assert sample.unescape(args.stop[0]) == want


def test_seeds_are_all_different():
    """None is cut down to another one: those of 32 bits are taken, larger ones refused."""
    seeds = [0, 1, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1]
    assert [sample.parse_args(["--ckpt", "x", "--seed", str(s)]).seed for s in seeds] == seeds
    texts = [generate(PARAMS, CONFIG, TOKENIZER, ["abc"], 12, 0.8, seed=s)[0] for s in seeds]
    assert len(set(texts)) == len(seeds)


def test_streamed_characters_are_never_taken_back():
    """A model that says characters of three bytes alone, of which four tokens at a time hold one and a third."""
    bias = jnp.full(CONFIG.vocab_size, -1e4).at[jnp.array([0xE3, 0x81, 0x82])].set(0.0)
    params, whole = PARAMS | {"lm_head.bias": bias}, 0
    for seed in range(5):
        chat, streamed = Chat(params, CONFIG, TOKENIZER, 1, 5.0, 1.0, seed), []
        (text, _), = chat.turn(["abc"], 60, stream=streamed.append)
        assert len(streamed) > 10 and all(text.startswith(part) for part in streamed)
        whole += any("\u3042" in part for part in streamed)
    assert whole


@pytest.mark.parametrize("calls", [1, 3, 9, 12])
def test_a_turn_that_is_interrupted_leaves_a_chat_that_works(calls):
    """While the prompt is read or the text grows: the next turn is what a fresh chat says."""
    chat = Chat(PARAMS, CONFIG, TOKENIZER, 1, temperature=0)
    first = chat.turn(["# one\n"], 4)[0][0]
    left = calls

    def stream(text):
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        chat.turn(["# a turn that takes several pieces to read\n"], 40, stream=stream)
    for history in ("# one\n" + first, "# one\n# a turn that"):
        chat.rewrite([history])
        assert chat.turn(["\n# two\n"], 6) == generate(PARAMS, CONFIG, TOKENIZER, [history + "\n# two\n"], 6, temperature=0)


def test_a_prompt_that_is_refused_leaves_the_chat_as_it_was():
    chat = Chat(PARAMS, CONFIG, TOKENIZER, 2, temperature=0)
    chat.turn(["a = 1\n", "b = 2\n"], 4)
    texts = list(chat.texts)
    with pytest.raises(ValueError, match="context"):
        chat.turn(["c = 3\n", "x" * 200], 4)
    assert chat.texts == texts
    assert chat.turn(["c = 3\n", "d\n"], 4) == generate(
        PARAMS, CONFIG, TOKENIZER, [texts[0] + "c = 3\n", texts[1] + "d\n"], 4, temperature=0)


def test_missing_checkpoint(tmp_path):
    done = run("--ckpt", tmp_path / "nothing", "--prompt", "x")
    assert done.returncode == 2 and "no checkpoint" in done.stderr and "Traceback" not in done.stderr


def test_plan_counts_weights_and_cache():
    *_, last = run("--plan", "--model", "350M", "--topology", "v5p:1x1x1", "--num_samples", 8).stdout.splitlines()
    row = json.loads(last)
    assert row["weight_bytes"] == 4 * 356_712_448
    assert row["cache_bytes"] == 2 * 20 * 8 * 2048 * 1024 * 4          # keys and values, layers, rows, context, width, bytes
    assert row["step_seconds"] >= (row["weight_bytes"] + row["cache_bytes"]) / 2.8e12      # nothing reads faster than HBM
    done = run("--plan", "--model", "nope")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "350M" in done.stderr


def test_help_and_a_wrong_flag_do_not_wait_for_jax():
    for args in (["--help"], ["--nonsense"]):
        done = subprocess.run([sys.executable, "-X", "importtime", ROOT / "sample.py", *args], capture_output=True, text=True)
        assert "numpy" in done.stderr and not re.search(r"\bjax\b", done.stderr)


@pytest.mark.parametrize("flags, words", [
    ([], []), (["--num_samples", "3", "--temperature", "0"], ["all 3 samples are the same"]), (["--top_p", "0"], []),
    (["--max_new_tokens", "29"], ["room for 28 of"]), (["--max_new_tokens", "28"], [])])
def test_what_may_surprise_in_samples_is_said(flags, words, capsys):
    """Of a context of 128 tokens and a prompt of 100."""
    args = sample.parse_args(["--ckpt", "x", "--prompt", "y", "--max_new_tokens", "9", *flags])
    sampling.remark(args, CONFIG, 100)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == len(words) and all(word in line for word, line in zip(words, said))


def test_what_may_surprise_in_a_benchmarks_samples_is_said_before_them(ckpt, tmp_path):
    problem = dict(task_id="a/0", prompt="def f():\n", entry_point="f", test="def check(f):\n    assert f() == 1\n",
                   canonical_solution="    return 1\n")
    (tmp_path / "p.jsonl").write_text(json.dumps(problem) + "\n")
    flags = "--problems", "p.jsonl", "--out", "s.jsonl", "--n", "2", "--temperature", "0", "--max_new_tokens", "65"
    done = subprocess.run([sys.executable, ROOT / "humaneval.py", "generate", "--ckpt", ckpt, *flags], cwd=tmp_path,
                          capture_output=True, text=True)
    assert "greedy: all 2 samples are the same" in done.stdout and "room for 64 of --max_new_tokens 65" in done.stdout, done
