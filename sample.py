"""Sample programs: where a text ends, nucleus sampling, prefill and decode, a chat, the session.

    python sample.py --ckpt out --prompt '# Assign 3 to "x".'      one or more samples of a prompt
    python sample.py --ckpt out                                   say what you want, turn by turn
    printf '%s\\n' 'Assign ...' 'Print ...' | python sample.py --ckpt out       turns from a pipe
    python sample.py --ckpt out --trace page.html     a page, too: what each token could have been
"""
from harness import sampling
from harness.cli import CORES, cli
from harness.devices import check_divides, find_devices
from harness.folder import find_checkpoint
from harness.samples import batches
from harness.sampling import read_prompt, unescape
from harness.session import show_sample, talk
from harness.spans import tokens_in

import dataclasses
import itertools
import math
import re
import sys
from functools import cache, partial

# The command's flags are read before JAX is imported, which takes half a second: --help and a wrong
# flag need not wait. main reads them again.
parser = partial(sampling.parser, __doc__)
parse_args = partial(sampling.parse_args, __doc__)
if __name__ == "__main__":
    parse_args()

from corpora.tokenizer import same_tokenizer
from fast.cache import bucket, grow, piece
from fast.cores import Shares

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from data import get_tokenizer
from model import (
    TABLE,
    Config,
    beside,
    cross_entropy,
    extend_cache,
    forward_cached,
    head,
    init_cache,
    load_params,
    num_params,
    read_meta,
    transformer,
    unstack,
)
from tpu_mesh import DATA, make_mesh

# ---- where a text ends ---------------------------------------------------------------------------
# The stop rules, all of them. Each is text -> the part that counts. No rule moves a cut when text
# is added behind it, so a row can stop as soon as its rule cuts.

def truncate_turn(text: str) -> str:
    """The paper's rule for one turn of MTPB (truncate in the released sampler).

    Cut at the second top-level print, the second def, or the first comment, docstring, end-of-text
    mark or two blank lines, whichever comes first. Prefixes count: `printer = 1` is a print too."""
    for word in ("print", "def"):
        starts = [m.start() for m in re.finditer(f"^{word}", text, re.MULTILINE)]
        if len(starts) >= 2:
            text = text[:starts[1]]
    stops = ("^#", re.escape("<|endoftext|>"), "^'''", '^"""', "\n\n\n")
    found = [re.search(stop, text, re.MULTILINE) for stop in stops]
    return text[:min((m.start() for m in found if m), default=len(text))]


def truncate_function(text: str) -> str:
    """The rule for HumanEval, whose prompts end inside a function: cut at the next statement of the
    top level, the first line that begins with neither white space nor a closing bracket."""
    found = re.search(r"^[^\s)\]}]", text, re.MULTILINE)
    return text[:found.start()] if found else text


def cut_at(stops, text: str) -> str:
    """Cut at that one of some literal strings which is complete first: "abc" and "b" cut "xabc"
    behind its a, where "xab" would have been cut."""
    found = [(i + len(s), i) for s in stops if (i := text.find(s)) >= 0]        # (end, start)
    return text[:min(found, default=(0, len(text)))[1]]


# ---- nucleus sampling ----------------------------------------------------------------------------

def top_p_filter(logits, top_p, tp=()):
    """Keep the smallest set of tokens whose probability reaches top_p, the one that crosses it
    included; the logits of all others become -inf.

    logits (B, V) float32, already divided by the temperature. Instead of sorting them we search for
    `low`, the largest number such that all tokens at least so probable have top_p together. Equals
    stay or go together. Positive floats order like their bits, and those up to 1.0 have 30, so 30
    rounds find low, a bit each. If floats had 3 bits, and with top_p .7:

        bits of the probabilities    110  100  011
        the probabilities             .5   .3   .2
        is the first bit 1?          try 100: .5 + .3 reach .7, yes    low = 100
        the second, too?             try 110: .5 does not, no          low = 100
        the third?                   try 101: .5 does not, no          low = 100: .5 and .3 stay

    Where tp splits the vocabulary every round has to ask all ranks. So it finds 5 bits at once: it
    tries 00001 ... 11111.
    """
    top = lax.pmax(logits.max(-1, keepdims=True), tp)
    probs = jnp.exp(logits - top)
    probs = probs / lax.psum(probs.sum(-1, keepdims=True), tp)                      # (B, V)
    order = lax.bitcast_convert_type(probs, jnp.int32)          # orders as probs does, < 2^30
    digit = 5 if tp else 1                                      # bits of low that a round finds

    def next_digit(i, low):                     # low (B, 1): the bits found so far, then zeros
        unit = 1 << (30 - digit * (i + 1))                      # what the last new bit is worth
        tried = low + unit * jnp.arange(1, 2 ** digit)                              # (B, M)
        mass = jnp.where(order[:, None] >= tried[..., None], probs[:, None], 0)     # (B, M, V)
        enough = lax.psum(mass.sum(-1), tp) >= top_p                                # (B, M)
        # The higher what is tried, the less mass: enough is True ... True False ... False, and the
        # number of Trues is the digit.
        return low + unit * enough.sum(-1, keepdims=True)

    low = lax.fori_loop(0, 30 // digit, next_digit, jnp.zeros_like(top, jnp.int32))
    return jnp.where(order >= low, logits, -jnp.inf)


def sample_token(keys, logits, temperature, top_p, n_vocab: int, tp=()):
    """One token per row. keys (B,), logits (B, V) -> (B,) int32.

    Temperature first, then the nucleus; temperature 0 or top_p 0 takes the likeliest token. Rows of
    the vocabulary that no token stands for (padding to 51,200) are never sampled.
    """
    size = logits.shape[-1]                 # this tp rank has the ids first ... first + size - 1
    first, whole = lax.axis_index(tp) * size, lax.axis_size(tp) * size
    logits = jnp.where(first + jnp.arange(size) < n_vocab, logits, -jnp.inf)
    nucleus = top_p_filter(logits / jnp.maximum(temperature, 1e-4), top_p, tp)
    # With Gumbel noise, argmax(log p + noise) is a draw from p. Each rank draws the noise of all
    # ids, as one device would, and takes its part.
    draw = lambda key: lax.dynamic_slice(jax.random.gumbel(key, (whole,)), (first,), (size,))
    noise = jax.vmap(draw)(keys)                                                    # (B, V)
    greedy = (temperature <= 0) | (top_p <= 0)
    scores = jnp.where(greedy, logits, nucleus + noise)
    # The id with the best score; of equals the lowest, as argmax takes it on one device. A rank
    # whose best is not the best of all names `whole`, which is larger than any id.
    best = scores.max(-1)
    index = jnp.where(best < lax.pmax(best, tp), whole, first + jnp.argmax(scores, -1))
    return lax.pmin(index, tp).astype(jnp.int32)


def row_keys(seed, sample_ids, positions):
    """A key for each row: sample_ids (B,), positions (B,) -> (B,).

    A row's draws depend on (seed, sample id, position in its text) alone, not on its batch."""
    key = jax.random.key(seed)
    fold = lambda i, p: jax.random.fold_in(jax.random.fold_in(key, i), p)
    return jax.vmap(fold)(sample_ids, positions)


# ---- prefill and the decode loop -----------------------------------------------------------------
# Neither prefill nor decode writes into the cache, because XLA copies all of what one program both
# reads and writes. What they compute, keys and values, waits in a small cache beside it, `new`, and
# afterwards extend_cache puts it behind the rest:
#
#     a row with 5 tokens, cache [ t t t t t . . . ], makes 2    new [ a b . . ]
#     and then has 7             cache [ t t t t t a b . ]

@partial(jax.jit, static_argnames=("config", "tp"))
def prefill(params, ids, cache, logits, lengths, counts, config: Config, tp=()):
    """Read a piece of the prompts, behind the lengths[b] tokens of row b that the cache has.

    ids: (B, T), the first counts[b] of row b are real. logits (B, V): what an earlier piece gave; a
    row that has no tokens left keeps them. Returns (logits after each row's last token, new)."""
    new = beside(cache, ids.shape[1])
    x, new = forward_cached(params, ids, cache, new, lengths, 0, config, tp)
    ends = jnp.maximum(counts - 1, 0)[:, None, None]
    last = jnp.take_along_axis(x, ends, 1)                               # (B, 1, D)
    return jnp.where((counts > 0)[:, None], head(params, last, tp)[:, 0], logits), new


@partial(jax.jit, static_argnames=("config", "n_vocab", "eot", "steps", "dp", "tp"))
def decode(params, cache, logits, lengths, done, budget, seed, sample_ids, temperature, top_p, *,
           config: Config, n_vocab: int, eot: int, steps: int, dp=(), tp=()):
    """Up to `steps` tokens for every row that is not done; the loop ends early when all are.

    logits (B, V): what the next token is drawn from. budget (B,): tokens that a row may still have.
    Returns (tokens (B, steps), -1 where a row had ended; new, logits, lengths, done, budget).
    """
    cached = lengths        # `lengths` grows in the loop; what the cache holds does not

    # The carry: i, the steps done; out (B, steps), their tokens; new, the keys and values of these;
    # logits, lengths, done and budget as they are after them.
    def more(carry):
        i, out, new, logits, lengths, done, budget = carry
        return (i < steps) & lax.pmax((~done).any(), dp)     # all ranks end together

    def one(carry):
        i, out, new, logits, lengths, done, budget = carry
        keys = row_keys(seed, sample_ids, lengths)
        token = sample_token(keys, logits, temperature, top_p, n_vocab, tp)          # (B,)
        token = jnp.where(done, -1, token)
        out = out.at[:, i].set(token)
        # An end of text counts in the budget, but not in the text.
        budget = budget - ~done
        done = done | (token == eot)
        lengths = lengths + ~done
        # The barrier ties each weight to this token: left alone, XLA makes float32 copies of
        # bfloat16 weights before the loop.
        weights = jax.tree.map(lambda w: lax.optimization_barrier((w, i))[0], params)
        # A row that has ended runs on as padding, and writes behind its own end, where only its own
        # padding looks.
        ids = jnp.maximum(token, 0)[:, None]                             # (B, 1)
        x, new = forward_cached(weights, ids, cache, new, cached, i, config, tp)
        logits = head(weights, x, tp)[:, 0]
        return i + 1, out, new, logits, lengths, done | (budget <= 0), budget

    out = jnp.full_like(lengths, -1, shape=(len(lengths), steps))
    new = beside(cache, steps)
    return lax.while_loop(more, one, (0, out, new, logits, lengths, done, budget))[1:]


@partial(jax.jit, static_argnames=("config", "tp"))
def token_logprobs(params, ids, config: Config, tp=()):
    """log p(ids[t] | ids[:t]) for t = 1 ... T-1. ids (B, T) -> (B, T-1) float32."""
    _, nll = cross_entropy(transformer(params, ids[:, :-1], config, tp), ids[:, 1:], tp=tp)
    return -nll


# ---- the same programs on a mesh -----------------------------------------------------------------
# Rows are split over dp; heads, feed-forward and vocabulary over tp. fsdp has one rank here: to
# gather a weight for every token would take longer than to read it.

WEIGHTS = {name: spec for name, (_, spec, _) in TABLE.items()}
ROW = P(DATA)                   # (B, ...): ids, lengths, counts, done, budget, sample_ids
CACHE = P(None, DATA, "tp")     # (L, B, H, S, K)
LOGITS = P(DATA, "tp")          # (B, V)
ONE = P()                       # (): seed, temperature, top_p
SPECS = {       # program -> how its arguments lie, how what it returns lies, the axes that it takes
    # params, ids, cache, logits, lengths, counts -> logits, new
    prefill: ((WEIGHTS, ROW, CACHE, LOGITS, ROW, ROW), (LOGITS, CACHE), dict(tp="tp")),
    # params, cache, logits, lengths, done, budget, seed, sample_ids, temperature, top_p
    # -> tokens, new, logits, lengths, done, budget
    decode: ((WEIGHTS, CACHE, LOGITS, ROW, ROW, ROW, ONE, ROW, ONE, ONE),
             (ROW, CACHE, LOGITS, ROW, ROW, ROW), dict(dp=DATA, tp="tp")),
    extend_cache: ((CACHE, CACHE, ROW), CACHE, {}),
    token_logprobs: ((WEIGHTS, ROW), ROW, dict(tp="tp")),
    transformer: ((WEIGHTS, ROW), P(DATA, None, "tp"), dict(tp="tp")),      # for runs/trace.py
}


def mesh_of(params):
    """The mesh that weights lie on, None for one device."""
    sharding = params["ln_f.bias"].sharding
    return sharding.mesh if len(sharding.device_set) > 1 else None


def fill(rows: int, mesh) -> int:
    """rows, rounded up so that each copy of the model has equally many: of 3 with dp 2, 4."""
    copies = mesh.shape["dp"] if mesh else 1
    return -(-rows // copies) * copies


@cache
def on_mesh(program, mesh, **static):
    """One of the programs of SPECS, with its static arguments, for a mesh; for None as it is."""
    if mesh is None:
        return partial(program, **static)
    arguments, results, axes = SPECS[program]
    sharded = jax.shard_map(partial(program, **static, **axes), mesh=mesh, in_specs=arguments,
                            out_specs=results)
    return jax.jit(sharded, donate_argnums=0 if program is extend_cache else ())


# ---- a chat: rows of text that grow turn by turn -------------------------------------------------
# Each size of the cache is a program of its own to compile, which takes seconds; a cache that is
# too large is read whole for every token. So a cache has room for few tokens at first. When a turn
# needs more, say 300 a row instead of 256, it grows to the next power of two, 512. Where all texts
# of a run are known it grows at once to what the longest needs (`reserve`).

ROOM = 256      # tokens of all rows together, 16 a row at least, for which a new cache has room
LOOK = 16       # tokens that the device makes before the host looks at the text again
LOOK_LIVE = 4   # the same where somebody reads along


@dataclasses.dataclass
class Row:
    """One history in one turn."""
    text: str           # the history, with what was just said
    ids: list           # its tokens, without the oldest where they do not fit the context
    dropped: int        # how many those are
    cached: int         # how many of ids the cache holds already
    budget: int         # tokens that the answer may have
    made: list = dataclasses.field(default_factory=list)    # tokens of the answer
    answer: str = ""    # its text, cut by the stop rule
    reason: str = ""    # why it ended: "eos", "stop" or "length"; "" while it goes on


class Chat:
    """Rows of text that grow turn by turn and share one KV cache. Each row is a history of its own.

        chat = Chat(params, config, tokenizer, rows=2, temperature=0.2, top_p=0.95, seed=0)
        chat.turn(["# Assign 1 to x.\\n", ...], max_new_tokens=64, stop=truncate_turn)
            -> [(text, reason), ...]

    A turn has three steps: `align` finds how far each history agrees with the tokens whose keys and
    values the cache holds, `read` runs the tokens behind these, `write` makes the answers. After it
    `chat.texts` holds each row's history with its new text.
    """

    def __init__(self, params, config: Config, tokenizer, rows: int, temperature=0.2, top_p=0.95,
                 seed=0, sample_ids=None):
        self.params, self.config, self.tokenizer = params, config, tokenizer
        self.temperature, self.top_p = float(temperature), float(top_p)
        self.seed = np.uint32(seed)
        self.mesh = mesh_of(params)
        self.sample_ids = list(range(rows) if sample_ids is None else sample_ids)
        self.texts = [""] * rows
        self.held = [[] for _ in range(rows)]   # the tokens whose keys and values the cache holds
        self.room = min(config.block_size, max(16, ROOM // rows))   # tokens of a row in the cache
        self.B = fill(rows, self.mesh)                              # rows of the cache
        unstacked = isinstance(params["qkv_proj"], tuple)
        self.cache = init_cache(config, self.B, self.room, unstacked, self.at(CACHE))
        self.tokens_run = 0                     # that went through the model, padding not counted
        self.dropped = [0] * rows               # tokens of the history that do not fit the context
        self.rows = []                          # each history's Row in the last turn

    def at(self, spec):
        """How an array with this spec lies on our mesh, None for one device."""
        return self.mesh and NamedSharding(self.mesh, spec)

    def for_rows(self, numbers):
        """Numbers, one a row -> (B,) int32, with zeros for the rows that only fill the mesh up."""
        filled = np.zeros(self.B, np.int32)
        filled[:len(numbers)] = numbers
        return filled

    def make_room(self, tokens: int):
        """Let the cache hold so many tokens a row: a multiple of 16, at most block_size."""
        size = min(self.config.block_size, -(-tokens // 16) * 16)
        if size > self.room:
            self.cache, self.room = grow(self.cache, size), size

    def reserve(self, texts, max_new_tokens: int):
        """Make room for the longest of these texts and its answer, so that all chats of a run have
        one size of cache and share their compiled programs."""
        self.make_room(max(len(self.tokenizer.encode(t)) for t in texts) + max_new_tokens)

    def rewrite(self, texts):
        """Set every row's whole history. What agrees with the cache is not computed again."""
        self.texts = list(texts)

    def turn(self, texts, max_new_tokens, stop=(), stream=None, keep_newest=False):
        """Append texts[b] to row b and sample its continuation -> [(text, reason)], reason "eos",
        "stop" or "length".

        stop: literal strings, or one of the truncate rules above. max_new_tokens: one number, or
        one a row; a row also ends where the context is full. A history that leaves no room raises
        ValueError, or with keep_newest loses its oldest tokens (self.dropped says how many).
        stream(text so far) is called for row 0 as the prompt is read ("") and as the text grows,
        without a character that is not whole yet. It may raise to end the turn; give the histories
        anew, with rewrite, before the next one.
        """
        cut = stop if callable(stop) else partial(cut_at, stop)
        budgets = np.broadcast_to(np.asarray(max_new_tokens, np.int32), len(texts))
        rows = [self.align(old + new, held, int(budget), keep_newest)
                for old, new, held, budget in zip(self.texts, texts, self.held, budgets)]
        self.rows, self.texts = rows, [row.text for row in rows]
        self.dropped = [row.dropped for row in rows]
        logits = self.read(rows, stream)
        self.write(rows, logits, cut, stream)
        self.texts = [row.text + row.answer for row in rows]
        return [(row.answer, row.reason) for row in rows]

    def align(self, text, held, asked, keep_newest) -> Row:
        """A history's tokens, and how many of them agree with those that the cache holds.

            held     [ a b c d e ]      the cache has their keys and values
            ids      [ a b c x y z ]    so cached is 3, and read runs x y z

        asked: tokens that the answer may have; its budget is less where the context ends before."""
        ids, context = self.tokenizer.encode(text), self.config.block_size
        if not ids:
            raise ValueError("the prompt is empty: give at least one character")
        # Tokens that the history leaves free: those asked for, at most half of the context; or one.
        free = min(asked, context // 2) if keep_newest else 1
        dropped = max(0, len(ids) + free - context)
        if dropped and not keep_newest:
            raise ValueError(f"the prompt has {len(ids)} tokens and the context {context}: "
                             "shorten it")
        ids = ids[dropped:]
        agree = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(ids, held))
        # The last token is always run: from its logits the answer's first token is drawn.
        cached = min(sum(1 for _ in agree), len(ids) - 1)
        return Row(text, ids, dropped, cached, min(asked, context - len(ids)))

    def read(self, rows, stream):
        """Fill the cache with each row's tokens, in pieces -> the logits that follow (B, V).

            ids of row 0    [ cached | piece | piece | pi ]      the last piece is padded
            ids of row 1    [ cached   | piece | pi ]            in the third it has no tokens left
        """
        # If `stream` raises half-way the cache is partly filled: then it counts as empty.
        self.held = [[] for _ in rows]
        need = max(len(row.ids) + row.budget for row in rows)
        if need > self.room:
            self.make_room(bucket(need))
        B, size = self.B, piece()
        logits = jnp.zeros((B, self.config.vocab_size), jnp.float32, device=self.at(LOGITS))
        prefill_here = on_mesh(prefill, self.mesh, config=self.config)
        for start in range(0, max(len(row.ids) - row.cached for row in rows), size):
            if stream:
                stream("")
            ids = np.zeros((B, size), np.int32)
            begins, counts = np.zeros((2, B), np.int32)
            for b, row in enumerate(rows):
                begins[b] = min(row.cached + start, len(row.ids))       # its end, if all is read
                next_ids = row.ids[begins[b]:][:size]
                ids[b, :len(next_ids)], counts[b] = next_ids, len(next_ids)
            logits, new = prefill_here(self.params, ids, self.cache, logits, begins, counts)
            self.cache = on_mesh(extend_cache, self.mesh)(self.cache, new, begins)
            self.tokens_run += int(counts.sum())
        self.held = [row.ids for row in rows]
        return logits

    def write(self, rows, logits, cut, stream):
        """Make tokens until every row has ended. Stop rules look at decoded text, on the host: so a
        few tokens at a time, then a look at every row."""
        lengths = self.for_rows([len(row.ids) for row in rows])
        budget = self.for_rows([row.budget for row in rows])
        sample_ids = self.for_rows(self.sample_ids)
        done = budget <= 0                      # True for rows that only fill the mesh up
        decode_here = on_mesh(decode, self.mesh, config=self.config, eot=self.tokenizer.eot,
                              n_vocab=self.tokenizer.n_vocab, steps=LOOK_LIVE if stream else LOOK)
        while not all(row.reason for row in rows):
            cached = lengths
            out, new, logits, lengths, done, budget = decode_here(
                self.params, self.cache, logits, lengths, done, budget, self.seed, sample_ids,
                self.temperature, self.top_p)
            self.cache = on_mesh(extend_cache, self.mesh)(self.cache, new, cached)
            for b, (row, tokens, ended) in enumerate(zip(rows, np.asarray(out), np.asarray(done))):
                if not row.reason:
                    self.take(b, row, tokens[tokens >= 0].tolist(), cut, ended)
            if stream:
                stream(rows[0].answer.rstrip("\ufffd"))
            # Where a stop rule has cut a row, only the host knows that it has ended.
            done = done | (self.for_rows([row.reason != "" for row in rows]) == 1)

    def take(self, b, row, tokens, cut, ended):
        """Row b has new tokens: decode all of its answer, and see whether a rule cuts it.

        ended: whether the row has, by end of text or because its budget is used up."""
        eot = self.tokenizer.eot
        row.made += tokens
        self.tokens_run += len(tokens)
        # A new list, because held[b] is still the list row.ids (see read), which stays as it is.
        # The cache also keeps tokens that a rule cuts away: in the next turn `align` sees how far
        # they agree with the history.
        self.held[b] = self.held[b] + [t for t in tokens if t != eot]
        text = self.tokenizer.decode([t for t in row.made if t != eot])
        row.answer = cut(text)
        if len(row.answer) < len(text):
            row.reason = "stop"
        elif ended:
            row.reason = "eos" if eot in row.made else "length"


SMALL = 8_000_000       # parameters; at 6.8M rows shared out are 1.5 times as fast as together


def Chats(params, config: Config, tokenizer, rows: int, temperature=0.2, top_p=0.95, seed=0,
          sample_ids=None):
    """Rows that talk as those of one Chat do. Those of a small model on a CPU are shared out to one
    Chat a core, which is faster (fast/cores.py)."""
    small = jax.default_backend() == "cpu" and not mesh_of(params) and num_params(config) <= SMALL
    parts = math.gcd(rows, CORES) if small else 1       # equal ones: each size compiles anew
    new_chat = lambda ids: Chat(params, config, tokenizer, len(ids), temperature, top_p, seed, ids)
    return Shares(new_chat, list(range(rows) if sample_ids is None else sample_ids), parts)


BATCH = 64      # rows that run together


def generate(params, config, tokenizer, prompts, max_new_tokens=128, temperature=0.2, top_p=0.95,
             seed=0, stop=(), sample_ids=None, batch_size=BATCH, watch=None):
    """Continue each prompt -> [(text, reason)], in order. ValueError for an empty or too long one.

    Row b's text depends on (seed, prompts[b], sample_ids[b]) and not on the rows beside it;
    sample_ids defaults to 0, 1, 2, ... stop: literal strings or a truncate rule. watch(Rows) is
    called after each batch."""
    sample_ids = range(len(prompts)) if sample_ids is None else sample_ids
    rows, out = list(zip(prompts, sample_ids, strict=True)), []
    size = min(batch_size, len(rows)) or 1
    for batch, wanted in batches(rows, size):       # the last is filled up: `wanted` of it count
        texts, ids = zip(*batch)
        chat = Chats(params, config, tokenizer, size, temperature, top_p, seed, ids)
        chat.reserve(prompts, max_new_tokens)
        out += chat.turn(texts, max_new_tokens, stop)[:wanted]
        if watch:
            watch(chat.rows[:wanted])
    return out


# ---- likelihoods of prompts (the paper's Tables 2 and 4) -----------------------------------------

def prompt_logprob(params, config, tokenizer, texts, spans=None):
    """Log-likelihood of each text -> [(sum of log p, number of tokens)].

    The first token is predicted from end of text. spans: for each text the (start, end) character
    ranges that count, all of it by default; a token counts when it begins in one. A text longer
    than the context keeps its newest tokens. Perplexity is exp(-sum / n)."""
    out, mesh = [], mesh_of(params)
    together = fill(1, mesh)                    # a text for each copy of the model
    for start in range(0, len(texts), together):
        batch = texts[start:start + together]
        tokens = [tokenizer.encode(text)[-(config.block_size - 1):] for text in batch]
        size = min(bucket(max(map(len, tokens)) + 1), config.block_size)
        padded = np.full((together, size), tokenizer.eot, np.int32)
        for row, ids in zip(padded, tokens):
            row[1:len(ids) + 1] = ids           # row[0] stays end of text
        logps = np.asarray(on_mesh(token_logprobs, mesh, config=config)(params, padded))
        for i, (text, ids, logp) in enumerate(zip(batch, tokens, logps), start):
            logp = logp[:len(ids)]
            if spans is not None:
                logp = logp[tokens_in(spans[i], text, ids, tokenizer)]
            out.append((float(logp.sum()), len(logp)))
    return out


# ---- loading -------------------------------------------------------------------------------------

def load(ckpt, dtype=None, mp_num=None, mesh=None):
    """A checkpoint folder, an out_dir (its newest) or a Hugging Face folder -> (config, params,
    tokenizer). Only the weights are read, one tensor at a time, each device its part.

    dtype: what matrices are held and multiplied in; by default they are held in float32 and
    multiplied in what config.json says. mp_num: see hf/README.md. mesh: where the model lies and
    runs, by default one device. ValueError for sizes that do not divide over the mesh, and where
    the tokenizer is another than the model was trained with."""
    folder = find_checkpoint(ckpt)
    meta = read_meta(folder)
    config = Config(**meta["model"])
    if dtype:
        config = dataclasses.replace(config, dtype=dtype)
    mesh = mesh or make_mesh()
    check_divides(config, batch_size=mesh.shape["dp"], grad_accum=1, **mesh.shape)  # a row a copy
    params = load_params(folder, config, mesh, dtype or "float32", mp_num)
    if mesh.size == 1 and jax.default_backend() != "tpu":
        params = unstack(params)
    tokenizer = get_tokenizer(meta["tokenizer"])
    return config, params, same_tokenizer(tokenizer, meta.get("tokenizer_digest"), folder)


# ---- the command ---------------------------------------------------------------------------------

def main():
    args = parse_args()
    if args.plan or args.model or args.topology:
        from plan.decoding import main as plan_main
        return plan_main(args)
    if args.samples:
        from runs.trace import main as trace_main
        return trace_main(args)
    prompt = read_prompt(args)
    find_devices()
    mesh = make_mesh(args.dp, tp=args.tp)
    config, params, tokenizer = load(args.ckpt, args.dtype, args.mp_num, mesh)
    page = None
    if args.trace:
        from runs.trace import Page
        page = Page(args, params, config, tokenizer)
    new_chat = partial(Chat, params, config, tokenizer, 1, args.temperature, args.top_p, args.seed)
    if prompt is None:
        # The session: each line is a turn, and the model answers with a subprogram and sees all
        # that came before (paper, section 4). harness/session.py has the commands.
        return talk(new_chat(), truncate_turn, args, page and page.session)
    sampling.remark(args, config, len(tokenizer.encode(prompt)))
    watch = page and partial(page.add_samples, prompt)
    stop = tuple(map(unescape, args.stop))
    if args.num_samples == 1 and sys.stdout.isatty():       # one is shown as it grows
        chat = new_chat()
        show_sample(chat, prompt, args.max_new_tokens, stop)
        return watch and watch(chat.rows)
    for start in range(0, args.num_samples, BATCH):         # many are shown as they come
        ids = range(start, min(start + BATCH, args.num_samples))
        samples = generate(params, config, tokenizer, [prompt] * len(ids), args.max_new_tokens,
                           args.temperature, args.top_p, args.seed, stop, ids, watch=watch)
        for i, (text, reason) in zip(ids, samples):
            print(f"----- sample {i} (ended by {reason})\n{prompt}{text}", flush=True)


if __name__ == "__main__":
    cli(main)
