"""A page that shows a model think: `python sample.py --trace FILE.html`.

One forward pass over a turn gives each of its tokens a probability and all that could have stood in
its place; runs/trace.html draws it. The page is one file: no server, no network, no library.
"""
from harness import parts, samples
from harness.devices import find_devices
from harness.files import check, find_benchmark, read_lines, replace_file
from harness.folder import find_checkpoint, fingerprint
from harness.problems import read_humaneval
from harness.sampling import DEFAULTS, OF_SAMPLES
from harness.spans import tokens_in
from harness.transcript import program

import base64
import codecs
import hashlib
import json
import math
import re
import sys
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

from fast.cache import bucket

import jax
import numpy as np
from tqdm import tqdm

import sample
from model import num_params, transformer
from mtpb import MAX_GEN_LENGTH
from tpu_mesh import make_mesh

TEMPLATE = Path(__file__).with_name("trace.html")
FACTS = "temperature", "top_p", "reason", "run", "reused", "dropped"     # what a turn tells of itself
NUCLEUS, CUT, READ = 20, 3, 5   # candidates named: of a nucleus, of what was cut, for a token read


# ---- one token among all that could have stood in its place --------------------------------------

def nucleus(logits, temperature, top_p):
    """What one token is drawn from. logits (V,) float32 -> own, drawn (V,) and kept (V,) bool.

    own: the model's probabilities; drawn: those at the temperature; kept: whether a token is in the
    nucleus, by the rule of sample.top_p_filter, here by sorting. Greedy keeps the likeliest, and
    has no temperature: drawn is own."""
    def softmax(x):
        e = np.exp(x - x.max())
        return e / e.sum()

    own = softmax(logits)
    if is_greedy(temperature, top_p):
        return own, own, logits == logits.max()
    drawn = softmax(logits / np.float32(max(temperature, 1e-4)))
    order = np.argsort(-drawn, kind="stable")
    sorted_probs = drawn[order]
    before = np.concatenate([[0], np.cumsum(sorted_probs, dtype=np.float64)[:-1]])
    first = np.searchsorted(-sorted_probs, -sorted_probs)       # of several equals, the first place
    kept = np.zeros(len(logits), bool)
    kept[order] = before[first] < top_p
    return own, drawn, kept


def is_greedy(temperature, top_p) -> bool:
    return temperature <= 0 or top_p <= 0


def among_all(token, logits, temperature, top_p, most):
    """A token and its rivals, for the page. logits (V,): of its place. -> dict

        id, p, own       the token; its probability as drawn and by the model itself
        rank             1 for the likeliest
        inside, mass     whether it is in the nucleus, and what the nucleus has together
        kept, more       the nucleus: [[id, p, own], ...], at most `most`; [how many more, their p]
        cut, rest        what was cut, likewise
    """
    own, drawn, kept = nucleus(logits, temperature, top_p)
    order = np.argsort(-logits, kind="stable")

    def told(ids, most):
        named = [*ids[:most], *(i for i in ids[most:] if i == token)]
        others = np.setdiff1d(ids, named)
        rows = [[int(i), short(drawn[i]), short(own[i])] for i in named]
        return rows, [len(others), short(drawn[others].sum())]

    (inside, more), (cut, rest) = told(order[kept[order]], most), told(order[~kept[order]], CUT)
    return dict(id=int(token), p=short(drawn[token]), own=short(own[token]),
                rank=1 + int((logits > logits[token]).sum()), inside=bool(kept[token]),
                mass=short(drawn[kept].sum()), kept=inside, more=more, cut=cut, rest=rest)


def short(number) -> float:
    """Four digits, so that the page stays small."""
    return float(f"{number:.4g}")


def log_probability(token, logits) -> float:
    logits = logits.astype(np.float64)
    return logits[token] - logits.max() - np.log(np.exp(logits - logits.max()).sum())


# ---- text for the eye ----------------------------------------------------------------------------

def visible(text: str) -> str:
    """A text whose characters are all seen: control characters, marks that turn the direction of
    writing and halves of characters do nothing, and are named."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"‹U+{ord(c):04X}›" for c in text)


def pieces(tokens, tokenizer) -> list:
    """What each token adds to the text. A character that several tokens share comes with the last
    of them; the others add ""."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [visible(decoder.decode(tokenizer.decode_bytes([t]))) for t in tokens]


def name_of(token, tokenizer) -> str:
    """A token on its own: its text, or its bytes where it is a part of a character."""
    raw = tokenizer.decode_bytes([token])
    try:
        return visible(raw.decode("utf-8"))
    except UnicodeDecodeError:
        return f"‹{raw.hex(' ')}›"


# ---- the page ------------------------------------------------------------------------------------

class Page:
    """The page FILE of one model. It is written anew, whole, whenever there is more to show.

    A conversation is a dict with its title and its turns, each as `turn` returns it."""

    def __init__(self, args, params, config, tokenizer):
        self.path, self.params, self.config, self.tokenizer = args.trace, params, config, tokenizer
        self.temperature, self.top_p = args.temperature, args.top_p
        self.limit = args.limit
        mesh = sample.mesh_of(params)
        self.rows = sample.fill(2, mesh)            # of the forward pass
        self.forward = jax.jit(sample.on_mesh(transformer, mesh, config=config))
        about = f"{args.ckpt} · {num_params(config):,} parameters · {tokenizer.name} tokens"
        self.model = visible(about)
        self.talks, self.known = [], {}

    def logits(self, *lists):
        """What follows each token of some lists of them, all in one forward pass -> a (T, V)
        float32 each."""
        size = min(bucket(max(map(len, lists))), self.config.block_size)
        ids = np.zeros((self.rows, size), np.int32)
        for row, tokens in zip(ids, lists):
            row[:len(tokens)] = tokens
        logits = np.asarray(self.forward(self.params, ids))
        return [row[:len(tokens)] for row, tokens in zip(logits, lists)]

    def turn(self, text, said, answer, made, ids, begin, **facts):
        """One turn for the page.

        text: what the model was given, of which the end, `said`, counts as the prompt and `begin`
        is the first character to be shown; ids: its tokens. made: the tokens of the answer, those
        too that a stop rule cut away. What does not fit the context is left out, of an answer its
        end, of a history its beginning. facts: temperature, top_p, reason, run, reused, dropped.

        What was read is judged as sample.prompt_logprob does it, from end of text on, and what was
        made as decode saw it, behind ids: hence two lists in one forward pass."""
        key = text, begin, tuple(made), *facts.values()
        if key in self.known:
            return self.known[key]
        context, tokenizer = self.config.block_size, self.tokenizer
        made = made[:context]
        ids = ids[-(context + 1 - max(1, len(made))):]
        read = tokenizer.encode(text)[-(context - 1):]
        before_read, before_made = self.logits([tokenizer.eot, *read], [*ids, *made[:-1]])

        asked = tokens_in([(len(text) - len(said), len(text))], text, read, tokenizer)
        shown = tokens_in([(begin, len(text))], text, read, tokenizer)
        likely = [log_probability(read[i], before_read[i]) for i in np.flatnonzero(asked)]
        texts = pieces(read, tokenizer)
        known = slice(tokenizer.n_vocab)        # the rows behind it stand for nothing
        told = [[among_all(read[i], before_read[i, known], 1, math.inf, READ) | dict(text=texts[i])
                 for i in np.flatnonzero(part)] for part in (shown & ~asked, asked)]
        temperature, top_p = facts["temperature"], facts["top_p"]
        turn = facts | dict(
            head=told[0], said=told[1],
            made=[among_all(token, logits[known], temperature, top_p, NUCLEUS) | dict(text=piece)
                  for token, logits, piece in zip(made, before_made[len(ids) - 1:],
                                                  pieces(made, tokenizer))],
            kept=self.kept(made, answer), greedy=is_greedy(temperature, top_p),
            logprob=[sum(likely), len(likely)])
        self.known[key] = turn | dict(perplexity=perplexity([turn]))
        return self.known[key]

    def kept(self, made, answer) -> int:
        """How many of the tokens the answer holds; a stop rule cut away those behind them."""
        text = lambda n: self.tokenizer.decode([t for t in made[:n] if t != self.tokenizer.eot])
        return next((n for n in range(len(made)) if text(n).startswith(answer)), len(made))

    def turn_of_row(self, row, said, begin):
        """The same of a sample.Row that a chat has answered."""
        return self.turn(row.text, said, row.answer, row.made, row.ids, begin, reason=row.reason,
                         temperature=self.temperature, top_p=self.top_p, dropped=row.dropped,
                         run=len(row.ids) - row.cached, reused=row.cached)

    def add(self, title, turns, **more):
        """One more conversation, in memory."""
        self.talks.append(dict(title=visible(title), turns=turns, perplexity=perplexity(turns),
                               **more))

    def add_samples(self, prompt, rows):
        """More samples of one prompt, up to --limit of them; the page is written."""
        for row in rows[:self.limit - len(self.talks)]:
            self.add(f"sample {len(self.talks)}", [self.turn_of_row(row, prompt, 0)])
        self.write()

    def session(self, turns):
        """The turns of a session (harness/session.py), as they are now; the page is written."""
        shown = []
        for i, turn in enumerate(turns):
            text, made = program(turns[turn["first"]:i]) + turn["said"], turn["made"]
            facts = {name: turn[name] for name in FACTS}
            shown.append(self.turn(text, turn["said"], made, self.sampled(turn),
                                   self.tokenizer.encode(text), len(text) - len(turn["said"])
                                   if i else 0, **facts))
        self.talks = []
        self.add("the session", shown)
        self.write()

    def sampled(self, turn) -> list:
        """The tokens of an answer; its text cut into tokens anew where they are not known, as in a
        program that was loaded."""
        tokens, known = turn.get("sampled"), range(self.tokenizer.n_vocab)
        if isinstance(tokens, list) and all(type(t) is int and t in known for t in tokens):
            text = self.tokenizer.decode([t for t in tokens if t != self.tokenizer.eot])
            if text.startswith(turn["made"]):
                return tokens
        return self.tokenizer.encode(turn["made"])

    def retell(self, told):
        """The turns of a conversation of which the texts alone are known, as a session of its own
        would have held it: what it reused, ran and dropped. told: see read_samples."""
        chat = sample.Chat(self.params, self.config, self.tokenizer, 1)
        text, held, turns = "", [], []
        for before, said, answer in told:
            row = chat.align(text + before + said, held, MAX_GEN_LENGTH, keep_newest=True)
            row.made, row.answer = self.tokenizer.encode(answer), answer
            turns.append(self.turn_of_row(row, said, len(row.text) - len(said) if turns else 0))
            text, held = row.text + answer, row.ids + row.made
        return turns

    def write(self):
        """Write the page under a temporary name, then rename it."""
        tokens = [t for talk in self.talks for turn in talk["turns"]
                  for t in turn["head"] + turn["said"] + turn["made"]]
        ids = {i for t in tokens for i, *_ in [[t["id"]], *t["kept"], *t["cut"]]}
        names = {i: name_of(i, self.tokenizer) for i in sorted(ids)}
        page = fill_in(dict(model=self.model, names=names, end=self.tokenizer.eot,
                            talks=self.talks))
        replace_file(self.path, page.encode())


def perplexity(turns):
    """Of all that was said, None where nothing was. At most e^700, because a float holds no more,
    and a model that has learned nothing can mean it."""
    total, count = np.sum([turn["logprob"] for turn in turns], 0) if turns else (0, 0)
    return math.exp(min(700, -total / count)) if count else None


def fill_in(data) -> str:
    """The page with its data. The policy names the digests of its one style and one script, so a
    browser runs nothing else; the data are JSON in which no tag can begin or end."""
    page = TEMPLATE.read_text(encoding="utf-8")
    digests = {tag: base64.b64encode(hashlib.sha256(
        re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1].encode()).digest()).decode()
        for tag in ("style", "script")}
    policy = "default-src 'none'; base-uri 'none'; form-action 'none'" + "".join(
        f"; {tag}-src 'sha256-{digest}'" for tag, digest in digests.items())
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)     # all of it ASCII
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return page.replace("%POLICY%", policy).replace("%DATA%", text)


# ---- conversations of a sample file --------------------------------------------------------------

def main(args):
    """`python sample.py --trace FILE.html --samples SAMPLES`: texts that the benchmarks have
    sampled, as this model sees them."""
    talks = read_samples(args.samples, args.problems)[:args.limit]
    settings = settings_of(args)
    find_devices()
    folder = find_checkpoint(args.ckpt)
    if settings.get("checkpoint") not in (None, fingerprint(folder)):
        print(f"{args.samples} was sampled from another model: the page shows what {args.ckpt} "
              "thinks of it", file=sys.stderr)
    mesh = make_mesh(args.dp, tp=args.tp)
    config, params, tokenizer = sample.load(folder, args.dtype, args.mp_num, mesh)
    page = Page(args, params, config, tokenizer)
    for title, verdict, told in tqdm(talks, "conversations", disable=None):
        page.add(title, page.retell(told), **verdict)
    page.write()
    print(f"wrote {args.trace}, texts: {len(talks)}")


def settings_of(args):
    """The settings of a sample file; args takes temperature and top_p from them. {} without any.
    ValueError for a flag that says otherwise."""
    settings = samples.settings_of(parts.files_of(args.samples)[0]) or {}
    check(settings, {"temperature?": float, "top_p?": float}, f"{args.samples}.json: ")
    for name in OF_SAMPLES:
        kept, given = settings.get(name), getattr(args, name)
        if None not in (kept, given) and kept != given:
            raise ValueError(f"{args.samples} was sampled with {name} {kept}: leave out --{name}")
        setattr(args, name, next(x for x in (kept, given, DEFAULTS[name]) if x is not None))
    return settings


def read_samples(path, problems):
    """Sample files of mtpb.py or humaneval.py -> [(title, verdict, told)], the first sample of each
    case before all second ones.

    told: for each turn (what stands before it, what was said, the answer). verdict: {}, or passed
    and verdict from the results beside the file. ValueError names the line that is no sample."""
    files = parts.files_of(path)
    records = [(f"{file}, line {n}: ", r) for file in files for n, r in read_lines(file)]
    if not records:
        raise ValueError(f"{path} holds no sample")
    multi = "prompts_completions" in records[0][1]
    tell = tell_program if multi else partial(
        tell_function, read_humaneval(problems or find_benchmark("HumanEval.jsonl.gz")))
    verdicts = verdicts_on(files, [r for _, r in records])
    talks, count, cases = [], Counter(), defaultdict(list)
    for (where, r), verdict in zip(records, verdicts):
        told = tell(where, r)
        given, case = samples.as_json(r.get("input")), cases[name := str(r.get("id"))]
        case += [given] * (given not in case)
        title = f"problem {name} · case {case.index(given) + 1}" if multi else r["task_id"]
        count[title] += 1
        number = f" · sample {count[title]}" * (count[title] > 1)
        talks.append((count[title], title + number, verdict, told))
    return [talk[1:] for talk in sorted(talks, key=lambda talk: talk[0])]


def tell_program(where, record):
    """The turns of a record of MTPB: see mtpb.history and mtpb.converse."""
    check(record, {"prompts_completions": [str]}, where)
    first, *pieces = record["prompts_completions"] or [""]
    if not pieces or len(pieces) % 2:
        raise ValueError(f"{where}prompts_completions must hold a beginning and pairs of a prompt "
                         "and an answer")
    before = [first] + ["\n\n"] * (len(pieces) // 2 - 1)
    return [(b, said, answer.removesuffix("\n\n"))
            for b, said, answer in zip(before, pieces[::2], pieces[1::2])]


def tell_function(problems, where, record):
    """The one turn of a record of HumanEval."""
    check(record, {"task_id": str, "completion": str}, where)
    if record["task_id"] not in problems:
        raise ValueError(f"{where}there is no problem {record['task_id'][:50]!r}: give its file by "
                         "--problems")
    return [("", problems[record["task_id"]]["prompt"], record["completion"])]


def verdicts_on(files, records):
    """The verdicts that `score` left beside sample files, one a sample; {} each where there are
    none, or those of other samples, which is said."""
    path = Path(samples.results_path(parts.whole_of(files[0])))
    if not path.is_file():
        return [{}] * len(records)
    found = [v for _, v in read_lines(path)]
    # HumanEval's verdicts hold the whole sample, MTPB's the number of its problem.
    both = lambda v, r: v.keys() & r.keys() - {"passed", "result"}
    same = lambda v, r: all(str(v[key]) == str(r[key]) for key in both(v, r))
    fits = len(found) == len(records) and all(map(same, found, records))
    if not fits or any(type(v.get("passed")) is not bool for v in found):
        print(f"{path} holds verdicts on other samples: the page shows none", file=sys.stderr)
        return [{}] * len(records)
    return [dict(passed=v["passed"], verdict=visible(str(v.get("result")))) for v in found]
