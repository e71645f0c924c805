"""Plain values as messages: what crosses the border between a program and its judge.

JSON trees with type tags, made of content alone. A subclass arrives as its base, so an __eq__ that always says yes stays
behind. This file also travels to the isolated process, so it imports the standard library alone (numpy where it is there).
"""
import contextlib
import itertools
import json
import math
import sys
import time

MESSAGE = 1 << 20           # bytes of one answer
NODES = 50_000              # values in one message
MEMBERS = 2_000             # of one set or dict, for their hashes are the program's choice
BITS = 100_000              # of one integer


def encode(x, look=True):
    """A value -> a JSON tree. ValueError when it is too large.

    Objects become ["object", casts]: with look, what bool() and list() make of them here, which runs their own code."""
    left, np = NODES, sys.modules.get("numpy")     # where nobody has imported it there are no arrays

    def tree(x):
        nonlocal left
        kind = type(x)
        left -= 1 + (len(x) // 64 if kind is str else 0)
        if left < 0:
            raise ValueError("the value is too large")
        if x is None or kind is bool or kind is float or kind is str:
            return x
        if np and issubclass(kind, (np.ndarray, np.generic)):
            if x.dtype.itemsize > 8 and x.dtype.kind in "fc":       # what Python's numbers cannot hold: long doubles
                x = x.astype({"f": np.float64, "c": np.complex128}[x.dtype.kind])
            if x.dtype.kind not in "biufcOUS" or x.dtype.itemsize > 10_000 or x.size > left:
                raise ValueError("an array of this type or size cannot be sent")
            return ["array" if issubclass(kind, np.ndarray) else "scalar", x.dtype.str, tree(x.tolist())]
        if issubclass(kind, int):
            value = int.__int__(x)
            return value if abs(value) < 2 ** 53 else ["int", hex(value)]
        if issubclass(kind, float):
            return float.__float__(x)
        if issubclass(kind, str):
            return str.__str__(x)
        for base in (list, tuple, set, frozenset):
            if issubclass(kind, base):
                return [base.__name__, [tree(item) for item in base.__iter__(x)]]
        if issubclass(kind, dict):
            return ["dict", [[tree(k), tree(v)] for k, v in dict.items(x)]]
        if kind is type({}.keys()):
            return ["keys", [tree(k) for k in x]]
        if kind is range:
            return ["range", [hex(i) for i in (x.start, x.stop, x.step)]]
        if kind in (bytes, bytearray):
            return [kind.__name__, x.decode("latin-1")]
        if kind is complex or str(kind) == "<class 'decimal.Decimal'>":
            return [kind.__name__, str(x)]
        if str(kind) == "<class 'fractions.Fraction'>":
            return ["Fraction", tree(x.numerator), tree(x.denominator)]
        if str(kind) in ("<class 'collections.UserList'>", "<class 'collections.UserDict'>"):
            return tree(x.data)
        if str(kind) == "<class 'pandas.core.series.Series'>":
            return ["series", x.to_numpy().dtype.str, tree(x.tolist())]
        casts = {}
        if look:
            with contextlib.suppress(Exception):
                casts["bool"] = bool(x)
            if hasattr(kind, "__iter__"):
                with contextlib.suppress(Exception):
                    casts["list"] = tree(list(itertools.islice(iter(x), NODES)))        # an endless one is then too large
        return ["object", casts]

    return tree(x)


def decode(tree):
    """The inverse of encode. Raises ValueError, TypeError or the like for a tree that is not its work; what comes back
    is made of builtins, numbers, numpy arrays, Series and Opaque, small enough for any test to chew."""
    if not isinstance(tree, list):
        return tree
    tag, *rest = tree
    if tag in ("list", "tuple", "set", "frozenset", "keys"):
        items = [decode(item) for item in rest[0]]
        if tag in ("list", "tuple"):
            return items if tag == "list" else tuple(items)
        if len(items) > MEMBERS:
            raise ValueError("too many members")
        return dict.fromkeys(items).keys() if tag == "keys" else {"set": set, "frozenset": frozenset}[tag](items)
    if tag == "dict":
        if len(rest[0]) > MEMBERS:
            raise ValueError("too many members")
        return {decode(k): decode(v) for k, v in rest[0]}
    if tag == "int":
        if len(rest[0]) > BITS // 4:
            raise ValueError("the integer is too long")
        return int(rest[0], 16)
    if tag == "range":
        value = range(*(int(i[:40], 16) for i in rest[0]))
        if len(value) > NODES:
            raise ValueError("the range is too long")
        return value
    if tag in ("bytes", "bytearray"):
        return {"bytes": bytes, "bytearray": bytearray}[tag](rest[0], "latin-1")
    if tag == "complex":
        return complex(rest[0])
    if tag == "Fraction":
        # Imported here and below because it is rare: every import at the top costs each fork, numpy a third of its time.
        from fractions import Fraction
        return Fraction(decode(rest[0]), decode(rest[1]))
    if tag == "Decimal":
        from decimal import Decimal
        value = Decimal(rest[0])
        if value.is_finite() and abs(value.adjusted()) > 5000:      # int() of it would never end
            raise ValueError("the Decimal is too large")
        return value
    if tag in ("array", "scalar", "series"):
        import numpy as np
        dtype, items = np.dtype(rest[0]), decode(rest[1])
        # Lists of single values only: numpy would unfold a range or a tuple, and choose the width of U0 by itself.
        single = (bool, int, float, complex, str, bytes, type(None))
        leaves = lambda x: sum(map(leaves, x)) if type(x) is list else 1 if isinstance(x, single) else math.inf
        if dtype.kind not in "biufcOUS" or not dtype.itemsize or leaves(items) * dtype.itemsize > 1 << 24:
            raise ValueError("an array of an unknown type or too large")
        array = np.array(items, dtype)
        return array if tag == "array" else array[()] if tag == "scalar" else Series(array)
    if tag == "object":
        return Opaque({name: decode(value) for name, value in rest[0].items()})
    raise ValueError(f"unknown tag {tag!r}")


class Opaque:
    """An object that stayed in the isolated process: equal to nothing but itself, and what casts made of it there."""

    def __init__(self, casts):
        if any(type(value).__name__ != name for name, value in casts.items()):
            raise ValueError("a cast of the wrong type")
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


class Channel:
    """JSON messages over a socket: four bytes of length, then the text. Past the deadline: TimeoutError.

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
        if size > most:
            raise ValueError("a message is too long")
        try:
            message = json.loads(self.read(size))
        except RecursionError:
            raise ValueError("a message is too deep") from None
        if not isinstance(message, dict):
            raise ValueError("a message must be an object")
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
