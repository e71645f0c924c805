"""What a compiled program does on one device, read from its text (HLO): traffic, collectives,
products."""
import math
import re
from typing import NamedTuple

import numpy as np


class Collective(NamedTuple):
    kind: str           # all-gather, reduce-scatter, all-reduce, ...
    axes: tuple         # mesh axes that it runs over
    count: int          # times a step
    bytes: int          # of what goes in on one device, all times together
    hidden: bool        # started early and waited for later, so that the chip computes meanwhile

    def moved(self, ranks):
        """Bytes that leave a device, in rings of `ranks`: its part for every other one, in an
        all-reduce twice."""
        whole = self.bytes * (ranks if self.kind == "all-gather" else 1)
        return whole * (ranks - 1) / ranks * (2 if self.kind == "all-reduce" else 1)


# ------------------------------------- the text of a program --------------------------------------

WIDTH = dict(pred=1, s8=1, u8=1, bf16=2, f16=2, s16=2, u16=2, f32=4, s32=4, u32=4, f64=8, s64=8,
             u64=8)     # bytes of a number
NO_TRAFFIC = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota",
              "partition-id", "after-all", "async-update")
SUMS_AND_GATHERS = ("all-gather", "all-reduce", "reduce-scatter")
UPDATE = {"dynamic-update-slice": 1, "scatter": 2}  # writes in place -> the operand that is written
COLLECTIVES = (*SUMS_AND_GATHERS, "collective-permute", "all-to-all")


class Instruction(NamedTuple):
    type: str           # f32[5,100]{1,0:T(8,128)}, or a tuple of such
    op: str             # fusion, while, all-gather-start, ...
    operands: list      # names of instructions of the same computation
    rest: str           # the text behind the opening bracket: operands and attributes

    def called(self, word="calls"):
        """The computation that an attribute names: calls=, body=, condition=."""
        return re.search(rf"\b{word}=%?([\w.-]+)", self.rest)[1]


def computations(hlo: str) -> dict:
    """name -> {name: Instruction} of every computation in the text, instructions in order."""
    found = {}
    whole = r"^(?:ENTRY )?%?([\w.-]+) [^\n]*\{\n(.*?)^\}(?:, execution_thread=\S+)?$"
    line = r"^ +(?:ROOT )?%([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$"
    for name, body in re.findall(whole, hlo, re.M | re.S):
        found[name] = {n: Instruction(kind, op, re.findall(r"%([\w.-]+)", rest.split(")")[0]), rest)
                       for n, kind, op, rest in re.findall(line, body, re.M)}
    return found


def arrays(type_text: str):
    """[(bytes, in HBM or not)] of an HLO type. S(1), S(3), ... are memories on the chip."""
    each = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\](\{[^}]*\})?", type_text)
    count = lambda dims: math.prod(int(n) for n in dims.split(",") if n)
    return [(WIDTH[kind] * count(dims), "S(" not in layout)
            for kind, dims, layout in each if kind in WIDTH]


def size(body, names, everywhere=False) -> int:
    """Bytes of these instructions' results, those in HBM or all."""
    results = [array for name in names if name in body for array in arrays(body[name].type)]
    return sum(n for n, hbm in results if hbm or everywhere)


def groups_axes(text: str, mesh_shape: dict):
    """The mesh axes that replica groups run over, and how many ranks a group has.

    HLO writes the groups as {{0,1},{2,3}}, or as [2,2]<=[4]: 4 numbers, as 2 groups of 2."""
    numbers = lambda s: [int(n) for n in s.split(",")]
    iota = r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?"
    if found := re.search(iota, text):
        ids = np.arange(math.prod(numbers(found[3]))).reshape(numbers(found[3]))
        ids = ids.transpose(numbers(found[4]) if found[4] else None)
        group = ids.reshape(int(found[1]), int(found[2]))[0]
    elif found := re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}", text):
        group = numbers(found[1])
    else:
        group = range(math.prod(mesh_shape.values()))
    ranks = np.array(np.unravel_index(group, tuple(mesh_shape.values()))).T          # (ranks, axes)
    return tuple(a for a, column in zip(mesh_shape, ranks.T) if len(set(column)) > 1), len(ranks)


# ------------------------------------------- products --------------------------------------------

UNIT = 128      # rows and columns of the matrix unit of a TPU: a smaller side leaves part of it idle
# Products of JAX's attention kernels: q k and s v forward; k's and v's gradients take 4, q's takes 3,
# because each makes the scores anew and their gradient.
ATTENTION = {"splash_mha_fwd": 2, "splash_mha_dkv": 4, "splash_mha_dq": 3}


def dims(type_text: str) -> list:
    """[5, 100] of the first array in an HLO type, f32[5,100]{1,0}."""
    return [int(n) for n in re.search(r"\[([\d,]*)\]", type_text)[1].split(",") if n]


def product_flops(body, i: Instruction, unit=1) -> int:
    """FLOPs of a dot or convolution: 2 for each number of the result and each term of its sum.

    unit: sides of the right matrix count as the next multiple of it, where they are larger than 8.
    """
    whole = lambda n: -(-n // unit) * unit if n > 8 else n
    left, right = (dims(body[o].type) for o in i.operands[:2])
    if i.op == "dot":
        over = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", i.rest)[1]
        terms = math.prod(left[int(d)] for d in over.split(",") if d)
        return 2 * math.prod(dims(i.type)) * whole(terms)
    # TPUs have convolutions alone. 0bf_io0->0bf names the axes of both operands and of the result:
    # b rows, i and f the sides of the matrix, digits what a window (often of 1) slides over.
    names = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", i.rest)
    left, right, out = (dict(zip(n, d)) for n, d in zip(names.groups(), (left, right, dims(i.type))))
    flops = 2 * out["b"] * whole(out["f"]) * whole(right["i"])
    for k in filter(str.isdigit, out):
        flops *= window_terms(i.rest, int(k), left[k], right[k], out[k])
    return flops


def window_terms(text: str, axis: int, n_left: int, n_right: int, n_out: int) -> int:
    """How many pairs of numbers a window meets on one axis, in all of its places: it may hang over
    the edge, where nothing is."""
    window = re.search(r"window=\{([^}]*)\}", text)
    given = dict(part.split("=") for part in window[1].split()) if window else {}
    of = lambda name, default: given[name].split("x")[axis] if name in given else default
    before, stride = int(of("pad", "0_0").split("_")[0]), int(of("stride", 1))
    apart_left, apart_right = int(of("lhs_dilate", 1)), int(of("rhs_dilate", 1))
    place = stride * np.arange(n_out)[:, None] + apart_right * np.arange(n_right) - before
    there = (place >= 0) & (place < apart_left * (n_left - 1) + 1) & (place % apart_left == 0)
    return int(there.sum())


def attention_flops(body, name: str, unit=1) -> int:
    """FLOPs of an attention kernel, 0 for another one. It works through the n x n tiles of the
    scores that are not above the diagonal; its operands are the map of these, (1, n, n), and q, k
    and v, (B, H, T, K), or (H, T, K) where B is 1."""
    products = next((n for kernel, n in ATTENTION.items() if name.startswith(kernel)), 0)
    if not products:
        return 0
    shapes = [dims(body[o].type) for o in body[name].operands if o in body]
    tiles = next(s[-1] for s in shapes if len(s) == 3)
    *rows, T, K = max((s for s in shapes if len(s) >= 3), key=math.prod)    # (B, H) or (H,)
    keys = T * (tiles + 1) // (2 * tiles)                       # that a query meets, on average
    return products * 2 * math.prod(rows) * T * keys * -(-K // unit) * unit


# -------------------------------------- counting as it runs ---------------------------------------

class Count:
    """Adds up what a run of a program does: `traffic`, bytes of HBM, `moves`, its collectives, and
    the FLOPs of its matrix products: `flops` by their shapes, `busy` with sides made up to UNIT.

    Loops count as often as they run. HBM traffic is what instructions read and write outside of
    the chip's own memories; of an array that a fusion only slices or updates, the slice."""

    def __init__(self, bodies: dict, mesh_shape: dict):
        self.bodies, self.mesh_shape = bodies, mesh_shape
        self.traffic, self.moves, self.flops, self.busy = 0, {}, 0, 0

    def run(self, name: str, times: int):
        """Count a computation that runs so many times."""
        body = self.bodies[name]
        self.add_products(body, times)
        for n, i in body.items():
            if i.op == "while":
                trips = self.trips(i)
                self.run(i.called("body"), times * trips)
                self.ask(i.called("condition"), times * (trips + 1))
            elif i.op in ("conditional", "call"):
                for branch in re.findall(r"%([\w.-]+)", i.rest[i.rest.index(")"):]):
                    if branch in self.bodies:
                        self.run(branch, times)
            elif move := self.collective(i):
                text, kind = move
                self.add_move(text, kind, i, times, self.sent(body, i))
                self.traffic += times * self.reads_and_writes(body, n)
            elif i.op == "fusion":
                self.traffic += times * self.fusion(body, n)
            elif i.op in ("copy-start", "slice-start", "dynamic-slice", "slice"):
                self.traffic += times * min(size(body, i.operands), size(body, [n], True))
            elif i.op not in NO_TRAFFIC and not i.op.endswith("-done") \
                    and (i.op != "custom-call" or "tpu_custom_call" in i.rest):
                self.traffic += times * self.reads_and_writes(body, n)

    def ask(self, name: str, times: int):
        """Count the collectives of a loop's condition: all ranks go around as long as one has to."""
        body = self.bodies[name]
        for i in body.values():
            if move := self.collective(i):
                self.add_move(*move, i, times, size(body, i.operands, True))

    def trips(self, loop: Instruction) -> int:
        """How often a loop runs: the constant that its condition compares with."""
        condition = self.bodies[loop.called("condition")].values()
        constants = [i.rest.split(")")[0] for i in condition if i.op == "constant"]
        return max(int(c) for c in constants if c.isdigit())

    def reads_and_writes(self, body, n) -> int:
        """Bytes of an instruction's operands and result. The type of a -start has both."""
        return size(body, [n] if body[n].op.endswith("-start") else [*body[n].operands, n])

    # ---- collectives

    def collective(self, i: Instruction):
        """(the text that has its groups, kind) or None. It may stand alone, or inside a fusion, or
        in what a SparseCore is started on."""
        _, within = self.within(i)
        if within:
            return within.rest, "reduce-scatter" if "reduce-scatter" in i.called() else within.op
        kind = i.op.removesuffix("-start")
        return (i.rest, kind) if kind in COLLECTIVES else None

    def sent(self, body, i: Instruction) -> int:
        """Bytes that go into a collective. A start may have no operands, for its update has."""
        inside, within = self.within(i)
        return size(body, i.operands, True) or within and size(inside, within.operands, True)

    def within(self, i: Instruction):
        """(computation, the collective inside of this fusion or start) or ({}, None)."""
        if i.op not in ("fusion", "async-start"):
            return {}, None
        inside = self.bodies[i.called()]
        for j in inside.values():
            if "called_computations={" in j.rest:           # the call of a SparseCore
                inside = self.bodies[re.search(r"called_computations=\{%([\w.-]+)", j.rest)[1]]
        return inside, next((j for j in inside.values() if j.op in SUMS_AND_GATHERS), None)

    def add_move(self, text, kind, i: Instruction, times, n_bytes):
        axes, ranks = groups_axes(text, self.mesh_shape)
        key = kind, axes, ranks, i.op.endswith("-start")
        count, so_far = self.moves.get(key, (0, 0))
        self.moves[key] = count + times, so_far + times * n_bytes

    def collectives(self) -> list:
        """[Collective], of those between several ranks."""
        return [Collective(kind, axes, *self.moves[kind, axes, ranks, hidden], hidden)
                for kind, axes, ranks, hidden in self.moves if ranks > 1]

    # ---- products

    def add_products(self, body, times):
        """Count the products of a computation, and those inside of its fusions."""
        for n, i in body.items():
            if i.op == "fusion":
                self.add_products(self.bodies[i.called()], times)
            elif i.op in ("convolution", "dot"):
                self.flops += times * product_flops(body, i)
                self.busy += times * product_flops(body, i, UNIT)
            elif i.op == "custom-call" and "tpu_custom_call" in i.rest:
                self.flops += times * attention_flops(body, n)
                self.busy += times * attention_flops(body, n, UNIT)

    # ---- fusions

    def fusion(self, body, n) -> int:
        """Bytes that a fusion reads of operands in HBM, and writes there."""
        i = body[n]
        inside = self.bodies[i.called()]
        whole = {o for o in i.operands if o in body and any(hbm for _, hbm in arrays(body[o].type))}
        reads = sum(self.fusion_reads(inside, k) for k, o in enumerate(i.operands) if o in whole)
        return reads + self.fusion_writes(inside, size(body, [n]))

    def fusion_reads(self, inside, index: int) -> int:
        """Bytes that a fusion reads of its operand number `index`."""
        parameters = [n for n, i in inside.items() if i.op == "parameter"]
        me = next((n for n in parameters if inside[n].rest.startswith(f"{index})")), None)
        read = 0
        for name, i in inside.items():
            if me not in i.operands:
                continue
            if i.op in ("dynamic-slice", "slice") and i.operands[0] == me:   # and not its place
                read += size(inside, [name], True)
            elif i.op == "fusion":
                deeper = self.bodies[i.called()]
                places = [k for k, o in enumerate(i.operands) if o == me]
                read += sum(self.fusion_reads(deeper, k) for k in places)
            elif not (i.op in UPDATE and i.operands[0] == me):
                return size(inside, [me], True)
        return read

    def fusion_writes(self, inside, whole: int) -> int:
        """Bytes that it writes: of an update in place, the update."""
        updates = [i.operands[UPDATE[i.op]] for i in inside.values() if i.op in UPDATE]
        return min(whole, sum(size(inside, [u], True) for u in updates)) if updates else whole


def read_program(hlo: str, mesh_shape: dict):
    """(HBM bytes, [Collective]) of one run of a compiled program on one device, from its text."""
    count = count_program(hlo, mesh_shape)
    return count.traffic, count.collectives()


def count_program(hlo: str, mesh_shape: dict) -> Count:
    """One run of a compiled program on one device, counted from its text."""
    count = Count(computations(hlo), mesh_shape)
    count.run(re.search(r"^ENTRY %?([\w.-]+)", hlo, re.M)[1], 1)
    return count
