"""What the report computes: error bars that hold seeds and problems, verdicts, scaling laws."""
import numpy as np

NOT_MEASURED = "not measured"
HOLDS, OPPOSITE = "**holds**", "**does not hold at this scale**"     # verdicts


# ------------------------------------------------- error bars ------------------------------------

def mean_se(values):
    """The mean of (seeds, problems) values and its standard error, for other seeds and other
    problems than these.

    A value is mean + seed + problem + rest, each drawn anew: a good run is good on all problems, a
    hard problem is hard in all runs. With S seeds and P problems the mean then has the variance
        var(seed) / S + var(problem) / P + var(rest) / (S P),
    and the mean squares of a table with two margins estimate it: (MS_seed + MS_problem - MS_rest)
    / (S P). Neither margin is let count for less than nothing. One seed: its problems alone speak.
    """
    x = np.atleast_2d(np.asarray(values, float))
    (S, P), mean = x.shape, x.mean()
    if P < 2:
        return mean, np.nan
    seeds, problems = x.mean(1), x.mean(0)
    ms_problem = S * problems.var(ddof=1)
    if S == 1:
        return mean, np.sqrt(ms_problem / P)
    ms_seed = P * seeds.var(ddof=1)
    rest = x - seeds[:, None] - problems + mean
    ms_rest = (rest ** 2).sum() / ((S - 1) * (P - 1))
    return mean, np.sqrt(max(ms_seed + ms_problem - ms_rest, ms_seed, ms_problem) / (S * P))


def spread(values):
    """Mean and standard error of one number a seed."""
    values = np.asarray(values, float)
    return values.mean(), (values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan)


def difference(where, high, low):
    """(where, mean, error, whether every seed has its sign) of high - low, problem by problem and
    seed by seed; None where one is missing. high, low: {seed: (problems,)}."""
    seeds = [s for s in high or {} if s in (low or {})]
    if not seeds:
        return None
    x = np.array([high[s] - low[s] for s in seeds])
    mean, error = mean_se(x)
    return where, mean, error, bool((np.sign(x.mean(1)) == np.sign(mean)).all())


def verdict(said):
    """Does "higher is higher" hold? said: [(where, difference, error, all seeds agree)].

    A difference counts when it is more than two standard errors and has its sign with every seed;
    what does not count says neither yes nor no. Of many the number is told."""
    counts = lambda d, e, agree: agree and abs(d) > 2 * e
    groups = {
        "holds for": [w for w, d, e, agree in said if d > 0 and counts(d, e, agree)],
        "the opposite for": [w for w, d, e, agree in said if d < 0 and counts(d, e, agree)]}
    groups["within the error for"] = [w for w, *_ in said if w not in sum(groups.values(), [])]
    if len(groups["holds for"]) == len(said):
        return HOLDS if said else NOT_MEASURED
    short = lambda some: ", ".join(some) if len(some) <= 4 else f"{len(some)} of {len(said)}"
    parts = "; ".join(f"{text} {short(some)}" for text, some in groups.items() if some)
    if groups["holds for"]:
        return f"**holds in part**: {parts}"
    return f"{OPPOSITE if groups['the opposite for'] else '**undecided**'}: {parts}"


# ------------------------------------------------- scaling laws ----------------------------------
# Given the exponents a law is linear in all else, so least squares has one answer; the exponents
# are searched on a grid, which is laid finer around the best, again and again.

def searched(residual, n, low=0.02, high=3.0, rounds=12, places=25):
    """The n exponents between low and high for which residual(exponents) is least."""
    lows, highs = np.full(n, np.log(low)), np.full(n, np.log(high))
    for _ in range(rounds):
        axes = [np.linspace(a, b, places) for a, b in zip(lows, highs)]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, n)
        best = grid[np.argmin([residual(np.exp(point)) for point in grid])]
        width = (highs - lows) / 4
        lows = np.maximum(best - width / 2, np.log(low))
        highs = np.minimum(best + width / 2, np.log(high))
    return np.exp(best)


def linear(columns, loss, E):
    """Least squares for loss = E + columns @ coefficients -> (E, coefficients, sum of squares). E:
    given, or None: then it is fitted too."""
    X = np.stack(columns, 1)
    if E is None:
        X = np.c_[np.ones(len(loss)), X]
    found, *_ = np.linalg.lstsq(X, loss - (E or 0), rcond=None)
    squares = ((X @ found - (loss - (E or 0))) ** 2).sum()
    return (E, found, squares) if E is not None else (found[0], found[1:], squares)


def fit_law(N, loss, E=None):
    """L(N) = E + (N0 / N)^a by least squares -> dict(E, N0, a, at): at(N) is what it predicts. E:
    given, in nats a token, or None: fitted."""
    N, loss = np.asarray(N, float), np.asarray(loss, float)
    a, = searched(lambda p: linear([N ** -p[0]], loss, E)[2], 1)
    E, (c,), _ = linear([N ** -a], loss, E)
    return dict(E=E, a=a, N0=max(c, 0) ** (1 / a), at=lambda n: E + c * np.asarray(n, float) ** -a)


def fit_law_of_data(N, D, loss, E=None):
    """L(N, D) = E + (N0 / N)^a + (D0 / D)^b, D tokens of training, likewise."""
    N, D, loss = (np.asarray(x, float) for x in (N, D, loss))
    a, b = searched(lambda p: linear([N ** -p[0], D ** -p[1]], loss, E)[2], 2)
    E, (c, d), _ = linear([N ** -a, D ** -b], loss, E)
    return dict(E=E, a=a, b=b, N0=max(c, 0) ** (1 / a), D0=max(d, 0) ** (1 / b),
                at=lambda n, t: E + c * np.asarray(n, float) ** -a + d * np.asarray(t, float) ** -b)


def predictions(N, losses, E=None):
    """What the law that all sizes but the last follow says of the last -> (mean, error over the
    seeds, law of the seeds' mean). losses: (seeds, sizes)."""
    losses = np.asarray(losses, float)
    said = [fit_law(N[:-1], row[:-1], E)["at"](N[-1]) for row in losses]
    return *spread(said), fit_law(N[:-1], losses.mean(0)[:-1], E)
