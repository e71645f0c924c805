"""One plan of sampling: every figure of a token and of a prompt, on a mesh, by formula or read from
the compiled programs."""
from harness.devices import check_divides

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from model import num_params, param_table
from plan import protocols
from plan.chips import HOST, parse_topology
from plan.compiler import compile_with_text, lower_sampling, topology_mesh
from plan.figures import out_of_memory
from plan.program import Collective, read_program
from plan.protocols import PIECE
from plan.roofline import places, roofline
from sample import LOOK


class Work(NamedTuple):
    """What one run of a program is for one chip."""
    temp: float         # bytes in memory beside the weights and the cache
    flops: float        # matrix products
    hbm: float          # bytes read and written
    moves: list         # of Collective


class Texts(NamedTuple):
    """What is sampled: `rows` texts of up to `room` tokens, split over dp copies of the model."""
    config: object
    rows: int
    room: int
    dp: int
    tp: int

    @property
    def here(self) -> int:
        """Rows of one copy. Some may only fill the mesh up."""
        return -(-self.rows // self.dp)


# ---- by formula ----------------------------------------------------------------------------------

def weight_bytes(config, tp=1) -> int:
    """Of one chip: matrices are held in the dtype of the model, vectors in float32."""
    width = jnp.dtype(config.dtype).itemsize
    split = lambda spec: tp if "tp" in jax.tree.leaves(tuple(spec)) else 1
    return sum(math.prod(shape) * (width if init else 4) // split(spec)
               for shape, spec, init in param_table(config).values())


def cache_bytes(texts: Texts, tokens: int) -> int:
    """Keys and values of so many tokens of each row, on one chip."""
    c = texts.config
    width = jnp.dtype(c.dtype).itemsize
    return 2 * c.n_layer * texts.here * tokens * c.n_embd * width // texts.tp


def products(texts: Texts, tokens: int) -> float:
    """FLOPs of running so many tokens of each row on one chip. Every key of the cache is met,
    because those that a query may not see are masked; the head sees one token of each row."""
    c, each = texts.config, texts.here * tokens
    layers = c.n_layer * (12 * c.n_embd ** 2 + 2 * (texts.room + tokens) * c.n_embd)
    return 2 * (each * layers + texts.here * c.n_embd * c.vocab_size) / texts.tp


def estimate(texts: Texts) -> dict:
    """name -> Work of the three programs, by counting: a piece of a prompt, LOOK tokens, and
    putting these into the cache."""
    c, b, tp = texts.config, texts.here, texts.tp
    width = jnp.dtype(c.dtype).itemsize
    weights, cache = weight_bytes(c, tp), cache_bytes(texts, texts.room)
    x = width * b * c.n_embd                                    # bytes of (B, 1, D)
    scores = b * c.n_head * PIECE * (texts.room + PIECE) / tp   # of one layer
    qkv = 3 * width * c.n_layer * c.n_embd ** 2 / tp
    logits = 4 * b * c.vocab_size / tp

    # Beside each layer's activations a prefill writes its scores down, in float32 and in `dtype`;
    # the softmax goes over them in about six passes of 4 bytes.
    # What is float32 is multiplied as bfloat16, and copied to that once and not layer by layer.
    halves = (width == 4) / 2
    temp = cache_bytes(texts, PIECE) + 2 * logits + (4 + width) * scores + 4 * PIECE * x
    temp += halves * (weights + cache)
    hbm = weights + cache + c.n_layer * (24 * scores + (8 + 20 / tp) * PIECE * x)
    prefill = Work(temp, products(texts, PIECE), hbm, sums(texts, PIECE))

    # qkv_proj is laid out anew before the loop: its heads stand behind each other there.
    temp = 2 * cache_bytes(texts, LOOK) + 2 * logits + qkv + halves * weights
    hbm = LOOK * (weights + cache) + 2 * qkv
    decode = Work(temp, LOOK * products(texts, 1), hbm, sums(texts, 1, LOOK, draws=True))

    # A head of fewer than 128 dims lies another way around in memory than it is written, so both
    # parts of the cache are copied there and back.
    copied = cache if c.head_dim < 128 else 0
    new = cache_bytes(texts, LOOK)
    return dict(prefill=prefill, decode=decode, extend=Work(new + copied, 0, 4 * (copied + new), []))


def sums(texts: Texts, tokens: int, times=1, draws=False) -> list:
    """The collectives: over tp one sum a layer and one of the embedding. A draw takes two maxima, a
    minimum and a sum of each row's numbers, and 6 sums of 31 for the nucleus; and all copies ask
    each other before each token whether anybody goes on."""
    c = texts.config
    x = jnp.dtype(c.dtype).itemsize * texts.here * tokens * c.n_embd
    count, n_bytes = c.n_layer + 1, (c.n_layer + 1) * x
    if draws:
        count, n_bytes = count + 10, n_bytes + texts.here * 4 * (4 + 6 * 31)
    found = [Collective("all-reduce", ("tp",), times * count, times * n_bytes, False)]
    if draws:
        found.append(Collective("all-reduce", ("dp",), times + 1, 4 * (times + 1), False))
    return [m for m in found if getattr(texts, m.axes[0]) > 1]


# ---- from the compiled programs ------------------------------------------------------------------

def measure(texts: Texts, mesh, names) -> dict:
    """name -> Work, as `estimate` has it, of the programs compiled for this mesh. FLOPs are those
    of the formula."""
    c, works = texts.config, estimate(texts)
    held = weight_bytes(c, texts.tp) + cache_bytes(texts, texts.room)
    lowered = lower_sampling(c, mesh, texts.here * texts.dp, texts.room, PIECE)
    for name in names:
        program, text = compile_with_text(lowered[name])
        m = program.memory_analysis()
        used = m.argument_size_in_bytes + m.temp_size_in_bytes
        used += m.output_size_in_bytes - m.alias_size_in_bytes
        if name == "extend":            # the weights lie there, though it does not read them
            used += weight_bytes(c, texts.tp)
        works[name] = Work(used - held, works[name].flops, *read_program(text, mesh.shape))
    return works


def works_of(texts: Texts, mesh, names=("prefill", "decode", "extend")):
    """(name -> Work, why it does not fit or ""), by formula where there is no mesh to compile
    for or the compiler has found that it does not fit."""
    try:
        return (measure(texts, mesh, names) if mesh else estimate(texts)), ""
    except jax.errors.JaxRuntimeError as e:
        return estimate(texts), out_of_memory(e)


# ---- the plan ------------------------------------------------------------------------------------

def check_mesh(config, topology, dp, tp):
    """(Chip, sides). ValueError for a mesh that is not the slice, or does not divide."""
    chip, sides = parse_topology(topology)
    chips, host = math.prod(sides), HOST[chip.dims]
    if dp * tp != chips:
        raise ValueError(f"--dp {dp} --tp {tp} is a mesh of {dp * tp} and {topology} has {chips} "
                         f"chips: choose two numbers whose product is {chips}")
    if tp > host:
        raise ValueError(f"--tp {tp}: a copy of the model lies on the chips of one host, and a "
                         f"host of {topology} has {host}: lower --tp")
    check_divides(config, dp, 1, dp, 1, tp)
    return chip, sides


def make_plan(config, topology, dp, tp, rows, max_new_tokens, compiled=True) -> dict:
    """One plan, the JSON of --plan: `rows` texts together, each with a cache of the whole context.

    max_new_tokens: of a HumanEval sample. ValueError as check_mesh."""
    chip, sides = check_mesh(config, topology, dp, tp)
    mesh = topology_mesh(topology, dp, 1, tp) if compiled else None
    coords = places(chip, sides, dp, 1, tp)
    seconds_of = lambda w: roofline(chip, coords, sides, w.flops, w.hbm, w.moves)
    texts = Texts(config, rows, config.block_size, dp, tp)
    works, why = works_of(texts, mesh)
    token, piece = a_token(works), seconds_of(works["prefill"])
    line, held = seconds_of(token), memory_of(texts, works)

    def protocol(p):
        """The hours of one benchmark, whose rows need a cache of their own size."""
        own = texts._replace(room=min(-(-p.room // 16) * 16, config.block_size))
        its, why = works_of(own, mesh, ("decode", "extend"))
        # The temporary memory of a prefill is that of the whole context: a little more.
        its["prefill"], step = works["prefill"], seconds_of(a_token(its))["step"]
        return dict(fits=not why and sum(memory_of(own, its)) < chip.hbm, cache_tokens=own.room,
                    step_seconds=step, hours=protocols.hours(p, rows, step, piece["step"]),
                    assumes=p.assumes)

    ranks = lambda m: math.prod(dict(dp=dp, tp=tp)[a] for a in m.axes)
    width = jnp.dtype(config.dtype).itemsize
    return dict(
        fits=not why and sum(held) < chip.hbm, why=why, compiled=bool(mesh) and not why, topology=topology,
        chips=dp * tp, mesh=dict(dp=dp, tp=tp), rows=rows, context=config.block_size,
        dtype=config.dtype, params=num_params(config), weight_bytes=weight_bytes(config),
        cache_bytes=2 * config.n_layer * rows * config.block_size * config.n_embd * width,
        weight_bytes_per_chip=held[0], cache_bytes_per_chip=held[1],
        temp_bytes_per_chip=round(held[2]), hbm_bytes=chip.hbm,
        flops_per_chip=token.flops, hbm_traffic_bytes=round(token.hbm),
        collectives=[m._asdict() | dict(moved_bytes=round(m.moved(ranks(m)))) for m in token.moves],
        seconds={k: line[k] for k in ("compute", "hbm", "hidden", "waiting")},
        step_seconds=line["step"], bound=line["bound"], tokens_per_s=round(rows / line["step"]),
        prefill=dict(tokens=PIECE * rows, seconds=piece["step"], bound=piece["bound"]),
        humaneval=protocol(protocols.humaneval(min(max_new_tokens, config.block_size))),
        mtpb=protocol(protocols.mtpb()), jax=jax.__version__)


def a_token(works) -> Work:
    """A token's part of the programs that make LOOK tokens and put them into the cache."""
    decode, extend = works["decode"], works["extend"]
    moves = [m._replace(count=round(m.count / LOOK, 2), bytes=m.bytes / LOOK)
             for m in decode.moves + extend.moves]
    return Work(0, decode.flops / LOOK, (decode.hbm + extend.hbm) / LOOK, moves)


def memory_of(texts: Texts, works):
    """(weights, cache, temporary) bytes of one chip, while the program runs that needs the most."""
    return (weight_bytes(texts.config, texts.tp), cache_bytes(texts, texts.room),
            max(w.temp for w in works.values()))


def used_bytes(plan):
    return sum(plan[f"{what}_bytes_per_chip"] for what in ("weight", "cache", "temp"))
