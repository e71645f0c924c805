"""Random choices of known probability, so that what writes a text can also say how likely it is.

A generator is a function make(draw): it chooses with draw.choice and the like, and writes with
draw.write, from left to right. Run with a Draw it makes a document. Run again and again with
Replays, over all that it could have chosen, it weighs one:

    make(draw)                 draw.text, and draw.logp, log of the probability of these choices
    weigh(make, text)          log of the probability of the text, over all choices that lead to it
    derivations(make)          every text that it can write (of a small generator)
"""
import math


class Draw:
    """One document under way. text: what is written; logp: of the choices so far; trace: after
    each piece, (characters, logp)."""

    def __init__(self, rng):
        self.rng, self.text, self.logp, self.trace = rng, "", 0.0, []

    def pick(self, n, weights):
        """A place among n, by weight. One random number, whatever the weights: so two corpora that
        differ in a weight alone stay in step."""
        if weights is None:
            return int(self.rng.random() * n)
        mark = self.rng.random() * sum(weights)
        for i, weight in enumerate(weights):
            mark -= weight
            if mark < 0:
                return i
        return max(i for i, weight in enumerate(weights) if weight)     # rounding

    def choice(self, options, weights=None):
        i = self.pick(len(options), weights)
        self.logp += math.log(weights[i] / sum(weights)) if weights else -math.log(len(options))
        return options[i]

    def chance(self, p):
        return self.choice((True, False), (p, 1 - p))

    def randint(self, low, high):
        return self.choice(range(low, high + 1))

    def sample(self, options, n):
        """n different ones, drawn only as they are asked for."""
        left = list(options)
        for _ in range(n):
            left.remove(one := self.choice(left))
            yield one

    def write(self, text):
        self.text += text
        self.trace.append((len(self.text), self.logp))
        return text


class Fork(Exception):
    """A Replay came to a choice that its path does not make. Its argument: the ways to go on."""


class DeadEnd(Exception):
    """A Replay wrote what does not stand in the text."""


class Replay(Draw):
    """A Draw that makes the choices of a path, and checks what it writes against a text."""

    def __init__(self, path, wanted=None):
        super().__init__(None)
        self.path, self.made, self.wanted = path, 0, wanted

    def pick(self, n, weights):
        if self.made == len(self.path):
            raise Fork([i for i in range(n) if weights is None or weights[i]])
        self.made += 1
        return self.path[self.made - 1]

    def write(self, text):
        if self.wanted is not None and not self.wanted.startswith(text, len(self.text)):
            raise DeadEnd
        return super().write(text)


def derivations(make, wanted=None):
    """(text, logp) of each way through a generator; with a text, of each way that writes it.

    Ways that part from the text are left where they do, so it pays to write soon after a choice."""
    paths = [()]
    while paths:
        path = paths.pop()
        draw = Replay(path, wanted)
        try:
            make(draw)
        except Fork as fork:
            paths += [(*path, i) for i in fork.args[0]]
        except DeadEnd:
            continue
        else:
            if wanted in (None, draw.text):
                yield draw.text, draw.logp


def weigh(make, text):
    """(log of the probability of a text, in how many ways it can come about). The ways are
    different events, so their probabilities add up; none: -inf."""
    found = [logp for _, logp in derivations(make, text)]
    most = max(found, default=-math.inf)
    return most + math.log(sum(math.exp(p - most) for p in found)) if found else most, len(found)
