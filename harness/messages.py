"""Plain values as messages: what crosses the border between a program and its judge.

JSON trees with type tags, made of content alone: a subclass arrives as its base, so an __eq__ that
always says yes stays behind. The program can send what it likes, so whatever a tree says it must
give no more than an honest value of the same words would, and cost little: sizes are looked at
before anything is built. This file also travels to the isolated process, so it imports the
standard library alone (numpy where it is there).
"""
import collections
import contextlib
import itertools
import json
import sys
import time

MESSAGE = 1 << 20           # bytes of one answer
NODES = 50_000              # values in one message
DEPTH = 300                 # of values in values
MEMBERS = 2_000             # of one set or dict
ALIKE = 64                  # of them with the same hash, which the program can choose
BITS = 100_000              # of one integer
POWER = 4_000               # of ten, in a Decimal, and its digits: int() of more takes long
ITEM = 10_000               # bytes of one item of an array
ARRAY = 1 << 24             # bytes of one array


def need(true, what):
    if not true:
        raise ValueError(what)


# --------------------------------------- what each tag says ---------------------------------------

def integer(text):
    need(type(text) is str and len(text) <= BITS // 4, "no integer, or too long a one")
    return int(text, 16)


def unique(items):
    """Members of a set, keys of a dict. Each that is added is compared with those of the same
    hash."""
    need(len(items) <= MEMBERS, "too many members")
    alike = collections.Counter(map(hash, items)).values()
    need(max(alike, default=0) <= ALIKE, "too many members with the same hash")
    return items


def mapping(*items):
    return dict(zip(unique(items[::2]), items[1::2], strict=True))


def counted(start, stop, step):
    need(all(type(i) is int and abs(i) < 1 << 160 for i in (start, stop, step)), "no range")
    need(len(range(start, stop, step)) <= NODES, "the range is too long")
    return range(start, stop, step)


def complex_number(real, imaginary):
    need(type(real) is float and type(imaginary) is float, "no complex number")
    return complex(real, imaginary)


# Fraction, Decimal and numpy are imported where one is met: every import costs each fork.
def fraction(above, below):
    from fractions import Fraction
    need(type(above) is int and type(below) is int and below > 0, "no Fraction")
    return Fraction(above, below)


def split_decimal(x):
    sign, digits, power = x.as_tuple()
    need(len(digits) <= POWER, "the Decimal is too long")
    return [sign, int("".join(map(str, digits)) or "0"), power]


def decimal(sign, digits, power):
    from decimal import Decimal
    need(type(sign) is int and sign in (0, 1), "no Decimal")
    need(type(digits) is int and 0 <= digits < 10 ** POWER, "no Decimal")
    need(power in ("F", "n", "N") or type(power) is int and abs(power) <= POWER, "no Decimal")
    return Decimal((sign, tuple(map(int, str(digits))), power))


def split_array(x):
    np = sys.modules["numpy"]
    # long doubles, which no other type holds
    if x.dtype.itemsize > 8 and x.dtype.kind in "fc":
        x = x.astype({"f": np.float64, "c": np.complex128}[x.dtype.kind])
    need(x.dtype.kind in "biufcOUS" and x.dtype.itemsize <= ITEM and x.size <= NODES,
         "an array of this type or size cannot be sent")
    return [x.dtype.str, x.tolist()]


def array(dtype, items):
    import numpy as np
    need(type(dtype) is str and len(dtype) < 20, "no array")
    dtype = np.dtype(dtype)
    need(dtype.kind in "biufcOUS" and 0 < dtype.itemsize <= ITEM, "an array of an unknown type")
    single = (bool, int, float, complex, str, bytes, type(None))

    def leaves(x):      # in lists only: numpy would unfold a range or a tuple
        need(type(x) is list or isinstance(x, single), "no single values")
        return sum(map(leaves, x)) if type(x) is list else 1
    need(leaves(items) * dtype.itemsize <= ARRAY, "an array is too large")
    return np.array(items, dtype)


def series(dtype, items):
    """A Series is equal to more than it says, when it is empty to any number: never without
    pandas."""
    import importlib.util
    need(importlib.util.find_spec("pandas"), "a Series, where pandas is not installed")
    return Series(array(dtype, items))


# Type -> tag, the values that it is made of, the way back with its bounds. A type by its name is
# looked up in its module, if that was imported. A subclass of those in BASES is sent as its base.
Row = collections.namedtuple("Row", "type tag pack unpack")
TABLE = [
    Row(int, "int", lambda x: [hex(x)], integer),
    Row(list, "list", list.__iter__, lambda *items: list(items)),
    Row(tuple, "tuple", tuple.__iter__, lambda *items: items),
    Row(set, "set", set.__iter__, lambda *items: set(unique(items))),
    Row(frozenset, "frozenset", frozenset.__iter__, lambda *items: frozenset(unique(items))),
    Row(dict, "dict", lambda x: itertools.chain.from_iterable(dict.items(x)), mapping),
    Row(type({}.keys()), "keys", iter, lambda *items: dict.fromkeys(unique(items)).keys()),
    Row(range, "range", lambda x: [x.start, x.stop, x.step], counted),
    Row(bytes, "bytes", lambda x: [x.decode("latin-1")], lambda x: x.encode("latin-1")),
    Row(bytearray, "bytearray", lambda x: [x.decode("latin-1")], lambda x: bytearray(x, "latin-1")),
    Row(complex, "complex", lambda x: [x.real, x.imag], complex_number),
    Row("numpy.ndarray", "array", split_array, array),
    Row("numpy.generic", "scalar", split_array, lambda *parts: array(*parts)[()]),
    Row("decimal.Decimal", "Decimal", split_decimal, decimal),
    Row("fractions.Fraction", "Fraction", lambda x: [x.numerator, x.denominator], fraction),
    Row("collections.UserList", "list", lambda x: list(x.data), None),
    Row("collections.UserDict", "dict", lambda x: itertools.chain(*dict.items(x.data)), None),
    Row("pandas.Series", "series", lambda x: split_array(x.to_numpy()), series),
    Row(None, "object", None, lambda *items: Opaque(mapping(*items))),
]
BASES = (int, float, str, list, tuple, set, frozenset, dict)
EXACT = {row.type: row for row in TABLE if isinstance(row.type, type)}
NAMED = [row for row in TABLE if isinstance(row.type, str)]
UNPACK = {row.tag: row.unpack for row in TABLE if row.unpack}


def row_of(kind):
    """The row that a type is sent by; None for an object."""
    if kind in EXACT:
        return EXACT[kind]
    for row in NAMED:
        module, name = row.type.split(".")
        # the type itself: its text can be anyone's
        known = getattr(sys.modules.get(module), name, None)
        if isinstance(known, type) and (
                kind is known or module == "numpy" and issubclass(kind, known)):
            return row
    for base in BASES:
        if issubclass(kind, base):
            return EXACT.get(base, base)
    return None


def encode(x, look=True):
    """A value -> a JSON tree: itself, or [tag, [trees]]. ValueError when it is too large.

    Objects become ["object", casts]: with look, what bool() and list() make of them here, which
    runs their own code."""
    left = NODES

    def tree(x, depth):
        nonlocal left
        kind = type(x)
        left -= 1 + (len(x) // 64 if kind is str else 0)
        need(left >= 0 and depth <= DEPTH, "the value is too large")
        if x is None or kind is bool or kind is float or kind is str:
            return x
        row = row_of(kind)
        if row in (float, str):
            return tree({float: float.__float__, str: str.__str__}[row](x), depth)
        if row is None:
            parts = casts_of(x, left) if look else []
        else:
            if row.tag == "int" and abs(value := int.__int__(x)) < 2 ** 53:
                return value
            parts = row.pack(x)
        return [row.tag if row else "object", [tree(part, depth + 1) for part in parts]]

    return tree(x, 0)


def casts_of(x, most):
    """What bool() and list() make of an object -> their names and values in turn."""
    casts = []
    with contextlib.suppress(Exception):
        casts += "bool", bool(x)
    if hasattr(type(x), "__iter__"):
        with contextlib.suppress(Exception):
            # an endless one is too large
            casts += "list", list(itertools.islice(iter(x), most + 1))
    return casts


def decode(tree):
    """The inverse of encode. Raises ValueError, TypeError or the like for a tree that is not its
    work; what comes back is made of builtins, numbers, numpy arrays, Series and Opaque, small
    enough for any test to chew."""
    left = 4 * NODES        # here tags and texts count too

    def value(tree, depth):
        nonlocal left
        left -= 1
        need(left >= 0 and depth <= DEPTH + 5, "a message is too large")
        if type(tree) is not list:
            need(tree is None or type(tree) in (bool, int, float, str), "no value")
            return tree
        tag, parts = tree
        need(type(tag) is str and tag in UNPACK and type(parts) is list, "an unknown tag")
        made = UNPACK[tag](*[value(part, depth + 1) for part in parts])
        # numpy gives each text of an array the room of the longest
        left -= getattr(getattr(made, "array", made), "nbytes", 0) // 100
        return made

    return value(tree, 0)


CASTS = {"bool": bool, "str": str, "int": int, "float": float, "list": list}


class Opaque:
    """An object that stayed in the isolated process: equal to nothing but itself, and what casts
    made of it there."""

    def __init__(self, casts):
        for name, value in casts.items():
            need(type(value) is CASTS[name], "a cast of the wrong type")
        self.casts = casts

    def cast(self, name):
        if name not in self.casts:
            raise TypeError(f"this object has no {name}")
        return self.casts[name]

    __bool__ = lambda self: self.cast("bool")
    __str__ = __repr__ = lambda self: self.cast("str")
    __int__ = lambda self: self.cast("int")
    __float__ = lambda self: self.cast("float")
    __iter__ = lambda self: iter(self.cast("list"))


class Series:
    """The values of a pandas Series, which this process need not import."""

    def __init__(self, array):
        self.array = array


# ------------------------------------------ the channel -------------------------------------------

def once(pairs):
    need(len(found := dict(pairs)) == len(pairs), "a key is there twice")
    return found


def small(text):
    need(len(text) <= 20, "a number is too long")
    return int(text)


READER = json.JSONDecoder(object_pairs_hook=once, parse_int=small)


class Channel:
    """JSON messages over a socket: four bytes of length, then the text. Past the deadline:
    TimeoutError.

    EOFError when the other side is gone, ValueError for what is no message."""

    def __init__(self, sock, deadline=None):
        self.sock, self.deadline, self.arrived = sock, deadline, bytearray()

    def limit(self):
        if self.deadline:
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.sock.settimeout(left)

    def send(self, message):
        data = json.dumps(message).encode()
        self.limit()
        try:
            self.sock.sendall(len(data).to_bytes(4, "big") + data)
        except (BrokenPipeError, ConnectionResetError):
            raise EOFError from None

    def receive(self, most=MESSAGE):
        size = int.from_bytes(self.read(4), "big")
        need(size <= most, "a message is too long")
        try:
            message = READER.decode(self.read(size).decode())
        except RecursionError:
            raise ValueError("a message is too deep") from None
        need(isinstance(message, dict), "a message must be an object")
        return message

    def read(self, size):
        while len(self.arrived) < size:
            self.limit()
            try:
                part = self.sock.recv(1 << 16)
            except ConnectionResetError:
                part = b""
            if not part:
                raise EOFError
            self.arrived += part
        data = bytes(self.arrived[:size])
        del self.arrived[:size]
        return data
