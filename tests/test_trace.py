"""Laws of the trace page: its numbers are decode's and prompt_logprob's, and nothing that a model wrote can act on it."""
from harness import session
from harness.transcript import program

import contextlib
import dataclasses
import io
import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtpb
import sample
from data import get_tokenizer
from model import Config, init_params, param_table
from runs import trace
from sample import Chat, generate, prompt_logprob, top_p_filter
from tpu_mesh import make_mesh, shardings

CONFIG = Config(n_layer=2, n_head=2, n_embd=32, rotary_dim=8, block_size=128, vocab_size=320)
TOKENIZER = get_tokenizer("bytes")
# Weights larger than at the start of training: a model with opinions.
PARAMS = {n: 6 * p if "proj" in n or "fc" in n or n == "lm_head" else p
          for n, p in init_params(jax.random.key(1), CONFIG).items()}
HOSTILE = "</script><script>document.title = 'ran'</script><!-- <img src=x onerror=\"document.title='ran'\"> & %DATA%"
ODD = "\u2028\u202eevil\x1b[2J\ud800\x00 é🙂"


def page_of(path, temperature=0.8, top_p=0.9, params=PARAMS, tokenizer=TOKENIZER, limit=40, config=CONFIG):
    args = SimpleNamespace(trace=str(path), temperature=temperature, top_p=top_p, limit=limit, ckpt="out")
    return trace.Page(args, params, config, tokenizer)


def data_of(path):
    text = Path(path).read_text()
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


# ---- the numbers ----

@pytest.mark.parametrize("temperature, top_p", [(0.2, 0.95), (1.0, 0.5), (0.8, 0.01), (1.0, 1.0)])
def test_the_nucleus_is_that_of_top_p_filter(temperature, top_p):
    """Among them rows with equals on the border."""
    rng = np.random.default_rng(0)
    for logits in (*rng.normal(size=(5, 300)), np.repeat(rng.normal(size=60), 5), np.zeros(300)):
        logits = logits.astype(np.float32)
        kept = trace.nucleus(logits, temperature, top_p)[2]
        want = np.isfinite(np.asarray(top_p_filter(jnp.asarray(logits)[None] / np.float32(temperature), top_p))[0])
        assert kept.tolist() == want.tolist() and kept.any()


@pytest.mark.parametrize("temperature, top_p", [(0.0, 0.95), (0.8, 0.9), (1.5, 1.0)])
def test_what_the_page_says_of_a_token_is_what_decode_used(tmp_path, temperature, top_p):
    """Greedy: the likeliest. Else: in its nucleus, and drawn again from the page's logits by the same key it is the same."""
    page, rows = page_of(tmp_path / "t.html", temperature, top_p), []
    prompts = ["# one\n", "# and two\n", "x"]
    generate(PARAMS, CONFIG, TOKENIZER, prompts, 30, temperature, top_p, 5, watch=rows.extend)
    chat = Chat(PARAMS, CONFIG, TOKENIZER, 1)
    for number, (row, prompt) in enumerate(zip(rows, prompts)):
        turn = page.turn_of_row(row, prompt, 0)
        assert [t["id"] for t in turn["made"]] == row.made and len(row.made) == 30
        likeliest = [t["rank"] == 1 and t["own"] == max(p for _, p, _ in t["kept"] + t["cut"]) for t in turn["made"]]
        assert all(likeliest) if turn["greedy"] else not all(likeliest)
        for token in turn["made"]:
            assert token["inside"] and token["id"] in [i for i, *_ in token["kept"]]
            total = sum(p for _, p, _ in token["kept"] + token["cut"]) + token["more"][1] + token["rest"][1]
            assert abs(total - 1) < 2e-3
            assert len(token["kept"]) + token["more"][0] + len(token["cut"]) + token["rest"][0] == TOKENIZER.n_vocab
        logits, = page.logits([*row.ids, *row.made[:-1]])
        places = np.arange(len(row.ids), len(logits) + 1, dtype=np.int32)
        logits = jnp.asarray(logits[len(row.ids) - 1:])
        keys = sample.row_keys(5, jnp.full(len(places), number), jnp.asarray(places))
        assert sample.sample_token(keys, logits, temperature, top_p, TOKENIZER.n_vocab).tolist() == row.made
        # The cached programs, which the sampler runs, give it the same probability.
        behind = sample.Row("", row.ids + row.made[:7], 0, 0, 1)
        cached = np.asarray(chat.read([behind], None))[0, :TOKENIZER.n_vocab] / (temperature or 1)
        chance = np.exp(cached - cached.max())[row.made[7]] / np.exp(cached - cached.max()).sum()
        assert abs(turn["made"][7]["p"] - chance) < 1e-3 * chance


def test_prompts_are_judged_as_prompt_logprob_does(tmp_path):
    """One text; and the asks of a whole program of MTPB, whose spans stand between answers."""
    page, rows = page_of(tmp_path / "t.html"), []
    for prompt in ("# some words\n", "é = 🙂\n", "\n\n# x" * 20):
        generate(PARAMS, CONFIG, TOKENIZER, [prompt], 4, watch=rows.extend)
        turn = page.turn_of_row(rows[-1], prompt, 0)
        (total, count), = prompt_logprob(PARAMS, CONFIG, TOKENIZER, [prompt])
        assert turn["logprob"][1] == count == len(turn["said"]) and abs(turn["logprob"][0] - total) < 1e-3
        assert math.isclose(turn["perplexity"], math.exp(-total / count), rel_tol=1e-5) and not turn["head"]
    pieces = mtpb.history(["# a is 1\n", "# é\n", "# print it\n"], ["a = 1", "b = 2", "print(a)"])
    turns = page.retell(trace.tell_program("", {"prompts_completions": pieces}))
    (total, count), = prompt_logprob(PARAMS, CONFIG, TOKENIZER, ["".join(pieces)], [mtpb.prompt_spans(pieces)])
    assert sum(t["logprob"][1] for t in turns) == count
    assert abs(sum(t["logprob"][0] for t in turns) - total) < 1e-3
    read = lambda turn, lane: "".join(t["text"] for t in turn[lane])
    assert read(turns[0], "head") == pieces[0] and [read(t, "said") for t in turns] == pieces[1::2]
    assert [read(t, "made") for t in turns] == ["a = 1", "b = 2", "print(a)"]


def test_run_reused_and_dropped_add_up_to_the_history(tmp_path):
    """Also where it outgrows the context; what was read before is reused."""
    asks, answers = [f"# ask number {i}, in so many words\n" for i in range(8)], ["a = 12345\nprint(a)"] * 8
    page = page_of(tmp_path / "t.html", config=dataclasses.replace(CONFIG, block_size=256))
    turns = page.retell(trace.tell_program("", {"prompts_completions": mtpb.history(asks, answers)}))
    text = mtpb.PREFIX
    for number, (turn, ask, answer) in enumerate(zip(turns, asks, answers, strict=True)):
        text += "\n\n" * (number > 0) + ask
        assert turn["run"] + turn["reused"] + turn["dropped"] == len(TOKENIZER.encode(text))
        text += answer
    assert turns[0]["reused"] == 0 < turns[1]["reused"] and turns[-1]["dropped"] > 0 == turns[1]["dropped"]


def test_a_session_page_is_what_the_session_was(tmp_path):
    """Turn by turn, with its own tokens; what it ran, reused and dropped is its history, also when old turns have gone."""
    path, config = tmp_path / "t.html", dataclasses.replace(CONFIG, block_size=160)
    page, chat, turns = page_of(path, config=config), Chat(PARAMS, config, TOKENIZER, 1, 0.8, 0.9, seed=3), []
    for number in range(6):
        said = f"# turn {number}\n"
        history = program(turns) + said
        turns.append(session.answer(chat, turns, said, 9, sample.truncate_turn))
        page.session(turns)
        shown = data_of(path)["talks"][0]["turns"]
        assert [t["id"] for t in shown[-1]["made"]] == turns[-1]["sampled"] == chat.rows[0].made
        assert all(t["inside"] for t in shown[-1]["made"])
        assert sum(shown[-1][name] for name in ("run", "reused", "dropped")) == len(TOKENIZER.encode(history))
    assert len(shown) == 6 and shown[0]["head"] and not shown[1]["head"] and shown[1]["reused"] and shown[-1]["dropped"]
    page.session([turns[0], turns[1] | dict(sampled=[1, "x", 10 ** 9])])        # two were taken back; a damaged transcript
    first, second = data_of(path)["talks"][0]["turns"]
    assert first == shown[0] and [t["id"] for t in second["made"]] == TOKENIZER.encode(turns[1]["made"])
    page.session([])
    assert data_of(path)["talks"][0]["turns"] == []


def test_tokens_that_a_rule_cut_are_shown_behind_the_answer(tmp_path):
    page, rows = page_of(tmp_path / "t.html"), []
    (whole, _), = generate(PARAMS, CONFIG, TOKENIZER, ["ab"], 30, 0.8)
    (text, reason), = generate(PARAMS, CONFIG, TOKENIZER, ["ab"], 30, 0.8, stop=(whole[8:10],), watch=rows.extend)
    turn = page.turn_of_row(rows[0], "ab", 0)
    made, kept = rows[0].made, turn["kept"]
    assert reason == turn["reason"] == "stop" and kept < len(turn["made"]) == len(made)
    assert TOKENIZER.decode(made[:kept]) == text != TOKENIZER.decode(made[:kept - 1])
    ends = PARAMS | {"lm_head.bias": PARAMS["lm_head.bias"].at[TOKENIZER.eot].set(1e4)}
    generate(ends, CONFIG, TOKENIZER, ["ab"], 60, watch=rows.extend)
    turn = page_of(tmp_path / "t.html", params=ends).turn_of_row(rows[-1], "ab", 0)
    assert turn["kept"] == 0 and [t["id"] for t in turn["made"]] == [TOKENIZER.eot]


def test_an_empty_answer_behind_more_than_the_context_is_shown(tmp_path):
    """As a program that was loaded may have it."""
    page, said = page_of(tmp_path / "t.html"), f"# {'long ' * 60}\n"
    page.session([dict(said=said, made="", first=0, temperature=0.2, top_p=0.9, reason="stop", run=0, reused=0, dropped=0)])
    turn, = data_of(page.path)["talks"][0]["turns"]
    assert turn["made"] == [] and len(turn["said"]) == CONFIG.block_size - 1


def test_a_mesh_gives_the_numbers_of_one_device(tmp_path):
    to = shardings(param_table(CONFIG), make_mesh(2, tp=2))
    spread = {n: jax.device_put(p, to[n]) for n, p in PARAMS.items()}
    told = [(mtpb.PREFIX, "# say\n", "x = 1"), ("\n\n", "# more\n", "y")]
    one, many = (page_of(tmp_path / "t.html", params=p).retell(told) for p in (PARAMS, spread))
    assert [t["logprob"] for t in many] == [pytest.approx(t["logprob"], rel=1e-5) for t in one]
    assert [t["p"] for turn in many for t in turn["made"]] == pytest.approx(
        [t["p"] for turn in one for t in turn["made"]], rel=2e-3)


# ---- the page ----

def test_characters_that_several_tokens_share_come_with_the_last():
    ids = TOKENIZER.encode("é🙂x")
    assert trace.pieces(ids, TOKENIZER) == ["", "é", "", "", "", "🙂", "x"]
    assert trace.name_of(ids[0], TOKENIZER) == "‹c3›" and trace.name_of(ord("x"), TOKENIZER) == "x"
    assert trace.visible("a\u202eb\x1b\u2028\ud800\n\t é") == "a‹U+202E›b‹U+001B›‹U+2028›‹U+D800›\n\t é"


def hostile_page(path):
    page = page_of(path)
    turns = page.retell([("", HOSTILE[:60] + "\n", HOSTILE[60:] + ODD)])
    page.add(HOSTILE, turns, passed=False, verdict=HOSTILE)
    page.model = HOSTILE
    page.write()
    return turns


def test_hostile_text_is_data(tmp_path):
    """No tag begins in it; it comes back as it was, but for what would act on the eye."""
    path = tmp_path / "t.html"
    turns = hostile_page(path)
    text = path.read_text(encoding="ascii", errors="strict") if path.read_text().isascii() else path.read_text()
    block = text.split('id="data">')[1].split("<")[0]
    assert json.loads(block)["talks"][0]["title"] == HOSTILE and block.isascii() and ">" not in block
    assert text.count("<script") == 2 and "%POLICY%" not in text
    assert re.search(r"default-src 'none'; .*script-src 'sha256-[\w+/]{43}='\">", text)
    assert "".join(t["text"] for t in turns[0]["said"]) == HOSTILE[:60] + "\n"
    for link in ("http:", "https:", "innerHTML", "eval(", "src="):
        assert link not in text.replace(block, "")


def test_titles_and_verdicts_do_nothing_to_the_eye_either(tmp_path):
    """They come from sample files."""
    page, odd, seen = page_of(tmp_path / "t.html"), "a\u202eb", "a‹U+202E›b"
    page.add(odd, [])
    (tmp_path / "s_results.jsonl").write_text(json.dumps(dict(passed=False, result=odd)) + "\n")
    verdict, = trace.verdicts_on([str(tmp_path / "s.jsonl")], [{}])
    assert page.talks[0]["title"] == verdict["verdict"] == seen


def chromium():
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    return found or pytest.skip("no Chromium is installed")


def test_a_browser_shows_the_token_that_the_address_names(tmp_path):
    """In headless Chromium: hostile text is text, the panel holds the token's nucleus, and the keyboard's place is there."""
    browser, path = chromium(), tmp_path / "t.html"
    token = hostile_page(path)[0]["made"][2]
    done = subprocess.run(
        [browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'home'}", "--dump-dom",
         f"{path.as_uri()}#0.{61 + 2}"], capture_output=True, text=True, timeout=120)
    dom = done.stdout.split("<script")[0]
    assert "<title>Token by token</title>" in dom and "<img" not in dom, done.stderr
    panel = re.search(r'<aside id="panel".*?</aside>', dom, re.DOTALL)[0]
    assert f"id {token['id']}" in panel and "turn 1, made" in panel and "cut by top_p 0.9" in panel
    assert panel.count("<th ") == len(token["kept"]) + len(token["cut"]) and "tokens run, 0 reused" in panel
    plain = re.sub(r"<[^>]*>", "", dom)
    assert "&lt;/script&gt;&lt;script&gt;document.title" in plain and "‹U+202E›" in plain
    current, = re.findall(r'<span class="token made[^"]*current[^"]*"[^>]*>', dom)
    assert 'tabindex="0"' in current and 'role="option"' in current and "aria-label=" in current


# ---- the command ----

@pytest.fixture(scope="module")
def ckpt(untrained):
    return str(untrained(CONFIG))


def command(*args):
    """sample.py's main with these flags -> (what it printed, its errors)."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out, \
            contextlib.redirect_stderr(io.StringIO()) as err:
        patch.setattr("sys.argv", ["sample.py", *map(str, args)])
        sample.main()
    return out.getvalue(), err.getvalue()


def test_samples_of_a_prompt(ckpt, tmp_path):
    path = tmp_path / "t.html"
    plain = ["--ckpt", ckpt, "--prompt", "x = ", "--num_samples", 3, "--max_new_tokens", 5, "--temperature", 0.8]
    assert command(*plain, "--trace", path, "--limit", 2)[0] == command(*plain)[0]
    talks = data_of(path)["talks"]
    assert [t["title"] for t in talks] == ["sample 0", "sample 1"] and all(len(t["turns"]) == 1 for t in talks)


def test_sample_files_of_both_benchmarks(ckpt, tmp_path):
    """Settings and verdicts come from beside the file; the first samples of all cases come before the second ones."""
    path, file = tmp_path / "t.html", tmp_path / "s.jsonl"
    records = [{"id": 7, "input": {"n": n}, "prompts_completions": mtpb.history(["# a\n", "# b\n"], ["x = 1", str(j)])}
               for n in range(2) for j in range(2)]
    file.write_text("".join(json.dumps(r) + "\n" for r in records))
    Path(f"{file}.json").write_text(json.dumps({"temperature": 0, "top_p": 0.5, "checkpoint": "another"}))
    (tmp_path / "s_results.jsonl").write_text('{"passed": true, "result": "passed"}\n' * 4)
    assert "sampled from another model" in command("--ckpt", ckpt, "--trace", path, "--samples", file, "--limit", 3)[1]
    talks = data_of(path)["talks"]
    assert [t["title"] for t in talks] == ["problem 7 · case 1", "problem 7 · case 2", "problem 7 · case 1 · sample 2"]
    assert {t["verdict"] for t in talks} == {"passed"} and {turn["greedy"] for t in talks for turn in t["turns"]} == {True}
    file.write_text('{"task_id": "Mine/0", "completion": "    return x\\n"}\n')
    problems = tmp_path / "p.jsonl"
    problems.write_text(json.dumps({"task_id": "Mine/0", "prompt": "def f(x):\n", "entry_point": "f",
                                    "test": "def check(candidate):\n    assert candidate(1) == 1\n"}))
    command("--ckpt", ckpt, "--trace", path, "--samples", file, "--problems", problems)
    talk, = data_of(path)["talks"]
    assert talk["title"] == "Mine/0" and "".join(t["text"] for t in talk["turns"][0]["said"]) == "def f(x):\n"
    for line in ("{}", '{"task_id": "No/1", "completion": ""}', '{"prompts_completions": ["a", "b"]}'):
        file.write_text(line + "\n")
        with pytest.raises(ValueError, match="line 1"):
            command("--ckpt", ckpt, "--trace", path, "--samples", file, "--problems", problems)


def test_verdicts_on_other_samples_are_shown_on_no_page_and_this_is_said(tmp_path, capsys):
    """Of a file that was sampled anew, and not yet scored."""
    file, results = str(tmp_path / "s.jsonl"), tmp_path / "s_results.jsonl"
    records = [{"task_id": f"T/{i}", "completion": f"x{i}"} for i in range(2)]
    passed = lambda record: json.dumps(record | dict(passed=True, result="passed")) + "\n"
    scored = lambda records: results.write_text("".join(map(passed, records)))
    assert trace.verdicts_on([file], records) == [{}, {}] and not capsys.readouterr().err
    scored(records)
    assert [v["passed"] for v in trace.verdicts_on([file], records)] == [True, True]
    for others in (records[::-1], records[:1], [records[0] | dict(completion="y"), records[1]]):
        scored(others)
        assert trace.verdicts_on([file], records) == [{}, {}] and capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("args, names", [
    (["--num_samples", "2"], "--num_samples"), (["--stop", "x"], "--stop"), (["--prompt", "x", "--stop", "x"], ""),
    (["--plan", "--prompt_file", __file__], "--prompt_file"), (["--plan", "--seed", "0"], "--seed"),
    (["--trace", "t.html", "--samples", __file__, "--seed", "0", "--stop", "x"], "--stop, --seed")])
def test_a_flag_that_is_not_heeded_is_named(args, names, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sample.parse_args(["--ckpt", "x", *args])
    said = capsys.readouterr().err
    assert said.endswith(f"not heeded: {names}\n") and said.count("\n") == 1 if names else not said


def test_a_sample_file_has_its_own_temperature(tmp_path, monkeypatch):
    """A flag that says otherwise is refused; where the file says nothing it counts."""
    monkeypatch.chdir(tmp_path)
    Path("s.jsonl").touch()
    read = lambda *more: sample.parse_args(["--ckpt", "x", "--trace", "t.html", "--samples", "s.jsonl", *more])
    for kept, flags, want in ((0.8, [], 0.8), (0.8, ["--temperature", "0.8"], 0.8), (0, [], 0), (None, [], 0.2),
                              (None, ["--temperature", "1"], 1)):
        Path("s.jsonl.json").write_text(json.dumps(dict(temperature=kept)))
        args = read(*flags)
        trace.settings_of(args)
        assert (args.temperature, args.top_p) == (want, 0.95)
    Path("s.jsonl.json").write_text(json.dumps(dict(temperature=0.8)))
    with pytest.raises(ValueError, match="sampled with temperature 0.8"):
        trace.settings_of(read("--temperature", "0.2"))


def test_nothing_but_an_earlier_page_is_replaced(tmp_path, capsys, monkeypatch):
    """And a page that cannot be, is refused as the flags are read, before a model is."""
    mine, page = tmp_path / "mine.html", tmp_path / "t.html"
    mine.write_text("<!doctype html>\nmy own\n")
    hostile_page(page)
    good = ["--ckpt", "x", "--trace", str(page)]
    assert sample.parse_args(good).trace == str(page) and data_of(page)
    for args, words in ((["--trace", str(mine)], "no trace page"), (["--trace", str(tmp_path)], "is a folder"),
                        (["--trace", str(tmp_path / "no" / "t.html")], "No such file"), (["--samples", str(mine)], "--trace"),
                        (["--prompt", "x", "--samples", str(mine), "--trace", str(page)], "without a prompt"),
                        (["--trace", str(page), "--problems", str(mine)], "--samples"),
                        (["--trace", str(page), "--plan"], "--plan")):
        with pytest.raises(SystemExit) as left:
            sample.parse_args(["--ckpt", "x", *args])
        error = capsys.readouterr().err
        assert left.value.code == 2 and words in error and error.count("\n") == 1
    assert mine.read_text() == "<!doctype html>\nmy own\n" and len(list(tmp_path.iterdir())) == 2

    def sealed(*_):
        raise PermissionError(13, "Permission denied")
    monkeypatch.setattr("harness.sampling.open", sealed, raising=False)
    with pytest.raises(SystemExit) as left:
        sample.parse_args(good)
    assert left.value.code == 2 and capsys.readouterr().err.count("\n") == 1
