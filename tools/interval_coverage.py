"""Coverage of the 95 % intervals by simulation.

Run as: python tools/interval_coverage.py [--repetitions 500] [--only reverse_ess log_z ...]

Each line: how often the interval (or the one-sided claim) holds the truth, the share of answers that are one-sided, the share without any
claim, and the median width of those that are two-sided. `docs/intervals.md` explains how the intervals are made.

Log-weights are those of a table: `log-normal` and `student-t` (5 degrees of freedom, cut at 8, which makes all moments exist) with a width
that gives the stated effective sample size; `pareto` weights have a generalised Pareto tail whose fourth moment does not exist, and whose
second nearly does not. Distances are between sets of the same density (truth 0) and of shifted ones. Chains are first-order autoregressive.
"""

import argparse
import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator

import numpy as np
from scipy import optimize, stats
from scipy.signal import lfilter

from boltzflow.analysis import Estimate, correlation, estimate, free_energy, metrics, pooled, ramachandran, transport, trimmed, weights

SHARES = (0.70, 0.37, 0.10, 0.02, 0.005)
"""True effective sample sizes."""
NUMBERS = (1_000, 10_000)
FAMILIES = ("log-normal", "student-t", "pareto")
WEIGHTED = ("reverse_ess", "forward_ess", "log_z", "expectation", "difference", "profile")
EDGES = np.linspace(-2.5, 2.5, 11)


@dataclasses.dataclass(frozen=True)
class Table:
    """Log-weights of the flow's samples as a table of a coordinate g: log w = width g.

    Attributes:
        g: values of the coordinate.
        log_w: their log-weights.
        q: their probabilities under the flow.
        p: under the target.
    """

    g: np.ndarray
    log_w: np.ndarray
    q: np.ndarray
    p: np.ndarray

    @property
    def log_z(self) -> float:
        """Log of the mean weight."""
        return float(np.log(np.sum(self.q * np.exp(self.log_w - self.log_w.max()))) + self.log_w.max())

    @property
    def ess(self) -> float:
        """Effective sample size as a fraction."""
        return float(1.0 / np.sum(self.p * np.exp(self.log_w - self.log_z)))

    def draw(self, rng: np.random.Generator, n: int, *, target: bool = False) -> np.ndarray:
        """Indices of n samples of the flow, or of the target."""
        cumulative = np.cumsum(self.p if target else self.q)
        return np.minimum(np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right"), self.g.size - 1)


def _table(family: str, width: float) -> Table:
    if family == "pareto":
        # Quantiles, ever finer towards the tail; `width` is the shape k.
        above = np.concatenate([np.linspace(1.0, 1e-3, 20_000)[:-1], np.geomspace(1e-3, 1e-60, 40_000)])
        q = np.append(-np.diff(above), above[-1])
        log_w = np.log(np.expm1(-width * np.log(above - 0.5 * q)) / width + 0.05)
        g = stats.norm.isf(above - 0.5 * q)
    else:
        limit = 16.0 if family == "log-normal" else 8.0
        g = np.linspace(-limit, limit, 40_001)
        density = stats.norm if family == "log-normal" else stats.t(5)
        q = density.pdf(g)
        q = q / q.sum()
        if family == "student-t":
            q = q * (1.0 - 2.0 * density.sf(limit))
            q[[0, -1]] += density.sf(limit)
        log_w = width * g
    p = q * np.exp(log_w - log_w.max())
    return Table(g, log_w, q, p / p.sum())


@functools.cache
def table(family: str, share: float) -> Table:
    """The table whose effective sample size is as stated."""
    low, high = (1e-3, 0.9) if family == "pareto" else (1e-3, 12.0)
    if family == "pareto" and share > 0.45:
        # A pure Pareto tail has at most a half: the larger share has a body.
        flat = _table(family, 0.2)
        part = optimize.brentq(lambda c: _mixed(flat, c).ess - share, 0.0, 100.0)
        return _mixed(flat, part)
    return _table(family, optimize.brentq(lambda width: _table(family, width).ess - share, low, high))


def _mixed(flat: Table, constant: float) -> Table:
    log_w = np.log(np.exp(flat.log_w) + constant)
    p = flat.q * np.exp(log_w)
    return Table(flat.g, log_w, flat.q, p / p.sum())


def weighted(kind: str, family: str, share: float, n: int, seed: int) -> list[tuple[Estimate, float]]:
    """Estimates of one kind with their truths, from n samples."""
    found = table(family, share)
    rng = np.random.default_rng(seed)
    drawn = found.draw(rng, n, target=kind == "forward_ess")
    log_w, g = found.log_w[drawn], found.g[drawn]
    if kind == "reverse_ess":
        return [(weights.reverse_ess(log_w, seed=seed), found.ess)]
    if kind == "forward_ess":
        return [(weights.forward_ess(log_w, seed=seed), found.ess)]
    if kind == "log_z":
        return [(weights.log_z(log_w, seed=seed), found.log_z)]
    if kind == "expectation":
        values = np.tanh(g) + rng.normal(size=n)
        return [(weights.expectation(log_w, values, seed=seed), float(np.sum(found.p * np.tanh(found.g))))]
    x = 0.5 * g + rng.normal(size=n)
    if kind == "difference":
        inside = float(np.sum(found.p * stats.norm.sf(1.0 - 0.5 * found.g)))
        return [(free_energy.difference(log_w, x > 1.0, x <= 1.0, seed=seed), -math.log(inside / (1.0 - inside)))]
    profile = free_energy.profile(log_w, x, EDGES, seed=seed)
    exact = -np.log([np.sum(found.p * (stats.norm.cdf(b - 0.5 * found.g) - stats.norm.cdf(a - 0.5 * found.g))) for a, b in _pairs(EDGES)])
    exact = exact - exact[int(np.argmin(profile.free_energy))]
    kind_of_band = "none" if profile.note else "two-sided"
    ends = zip(profile.free_energy, profile.low, profile.high, exact, strict=True)
    return [(Estimate(value, low, high, n, kind_of_band), truth) for value, low, high, truth in ends if math.isfinite(value)]


def _pairs(edges: np.ndarray) -> Iterator[tuple[float, float]]:
    return zip(edges[:-1], edges[1:], strict=True)


def variation(shift: float, n: int, seed: int, *, weighted_by: float | None = None) -> list[tuple[Estimate, float]]:
    """Total variation distance of two normal densities, the second drawn from a wider one and reweighted if asked."""
    edges, rng = np.linspace(-6.0, 6.0, 61), np.random.default_rng(seed)
    truth = 0.5 * float(np.abs(np.diff(stats.norm.cdf(edges)) - np.diff(stats.norm.cdf(edges - shift))).sum())
    width = weighted_by or 1.0
    x = rng.normal(0.0, width, n)
    log_w = None if weighted_by is None else -0.5 * x**2 + 0.5 * (x / width) ** 2
    return [(metrics.total_variation_distance(rng.normal(size=n), x + shift, edges, log_w_b=log_w, seed=seed), truth)]


def torsions(shift: float, n: int, seed: int) -> list[tuple[Estimate, float]]:
    """Ramachandran divergence of two densities, products of wrapped normals."""
    rng, bins = np.random.default_rng(seed), 32
    edges = np.linspace(-math.pi, math.pi, bins + 1)

    def density(mean: float) -> np.ndarray:
        cumulative = sum(stats.norm.cdf((edges + 2 * math.pi * turn - mean) / 0.8) for turn in (-1, 0, 1))
        return np.diff(cumulative)

    def draw(mean: float) -> np.ndarray:
        return (rng.normal(mean, 0.8, n) + math.pi) % (2 * math.pi) - math.pi

    truth = float(np.sum(density(0.0) * np.log(density(0.0) / density(shift))))
    found = ramachandran.divergence(draw(0.0), draw(0.0), draw(shift), draw(0.0), bins=bins, seed=seed)
    return [(found, truth)]


def chains(rho: float, number: int, draws: int, seed: int, *, sweeps: bool = False) -> list[tuple[Estimate, float]]:
    """Mean over autoregressive chains, laid chain by chain, or sweep by sweep and put in order."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((number, draws)) * math.sqrt(1.0 - rho**2)
    noise[:, 0] /= math.sqrt(1.0 - rho**2)
    values = np.asarray(lfilter([1.0], [1.0, -rho], noise, axis=1))
    flat = values.T.ravel() if sweeps else values.ravel()
    flat = flat[correlation.chain_order(flat.size, correlation.period(flat))]
    flat = np.exp(0.5 * flat)
    return [(metrics.mean(flat, seed=seed, correlation=correlation.of_series(flat)), math.exp(0.125))]


def _autoregressive(rng: np.random.Generator, rho: float, n: int, columns: int) -> np.ndarray:
    """Normal columns of a chain, (n, columns)."""
    noise = rng.standard_normal((columns, n)) * math.sqrt(1.0 - rho**2)
    noise[:, 0] /= math.sqrt(1.0 - rho**2)
    return np.asarray(lfilter([1.0], [1.0, -rho], noise, axis=1)).T


def wasserstein(
    kind: str, shift: float, n: int, seed: int, *, width: float = 1.0, rho: float = 0.0, own_rho: float = 0.0
) -> list[tuple[Estimate, float]]:
    """W2 of normal distributions a shift apart, of samples of another width that are reweighted, or of chains.

    `line_w2` is of numbers, `pooled_w2` of five to a configuration, which have half of their variance in common, `torus_w2` of two narrow
    angles, `exact_w2` of points in two dimensions.
    """
    rng = np.random.default_rng(seed)
    columns = {"line_w2": 1, "pooled_w2": 6}.get(kind, 2)
    own, other = (_autoregressive(rng, r, n, columns) for r in (own_rho, rho))
    log_w = None
    if width != 1.0:
        own[:, 0] *= width
        log_w = stats.norm.logpdf(own[:, 0]) - stats.norm.logpdf(own[:, 0], 0.0, width)
    options = {"log_w": log_w, "seed": seed}
    if rho:
        options["grouping"] = correlation.of_series(*other.T)
    if own_rho:
        options["own_grouping"] = correlation.of_series(*own.T)
    if kind == "line_w2":
        return [(transport.on_line(own[:, 0] + shift, other[:, 0], replicas=100, **options), shift)]
    if kind == "pooled_w2":
        values = [math.sqrt(0.5) * (part[:, :1] + part[:, 1:]) for part in (own, other)]
        return [(pooled.on_line(values[0] + shift, values[1], replicas=100, **options), shift)]
    if kind == "torus_w2":
        angles = [(0.3 * part + np.pi + 0.3 * place) % (2 * np.pi) - np.pi for part, place in ((own, shift), (other, 0.0))]
        return [(transport.on_torus(*angles, **options), 0.3 * math.sqrt(2.0) * shift)]
    return [(transport.in_space(own + np.array([shift, 0.0]), other, **options), shift)]


def aligned(n: int, seed: int, *, rho: float = 0.0) -> list[tuple[Estimate, float]]:
    """Aligned W2 of two sets of the same density of five particles in the plane, in one of two shapes; frames may be chains."""
    # Numba looks for a module named as this file is; hence `python -P`.
    from boltzflow.geometry import matching

    rng = np.random.default_rng(seed)
    corners = np.array([[np.cos(turn), np.sin(turn)] for turn in 2.0 * np.pi * np.arange(4) / 4] + [[0.0, 0.0]])

    def draw(shape: np.ndarray) -> np.ndarray:
        x = corners * np.where(shape, 1.5, 1.0)[:, None, None] + 0.15 * rng.normal(size=(n, 5, 2))
        x[:, 4, 0] += np.where(shape, 0.6, 0.0)
        return x - x.mean(axis=1, keepdims=True)

    chain = _autoregressive(rng, rho, n, 1)[:, 0]
    own, other = draw(rng.normal(size=n) > 0.0), draw(chain > 0.0)
    least = functools.partial(matching.least_squares, classes=np.zeros(5, np.int64), reflections=True, threads=1)
    grouping = correlation.of_series((chain > 0.0).astype(float)) if rho else None
    found = transport.exact(
        lambda a, b: least(own[a], other[b]), lambda a, b: least(other[a], other[b]), n, n, grouping=grouping, seed=seed, most=100
    )
    return [(found, 0.0)]


def trimmed_ess(sigma: float, n: int, seed: int) -> list[tuple[Estimate, float]]:
    """Reverse and forward ESS of log-normal weights without the largest 0.2 %."""
    rng = np.random.default_rng(seed)
    cut = stats.norm.ppf(1.0 - trimmed.SHARE)

    def moment(power: float) -> float:
        """Mean of w^power of the weights exp(sigma g) below the cut."""
        return math.exp(0.5 * (power * sigma) ** 2) * float(stats.norm.cdf(cut - power * sigma)) / (1.0 - trimmed.SHARE)

    # Frames have the weights of the samples times the weight: g is shifted by sigma, and what is cut with it.
    log_w, on_frames = sigma * rng.normal(size=n), sigma * rng.normal(size=n) + sigma**2
    return [
        (trimmed.reverse_ess(log_w, seed=seed), moment(1.0) ** 2 / moment(2.0)),
        (trimmed.forward_ess(on_frames, seed=seed), 1.0 / (moment(1.0) * moment(-1.0))),
    ]


def settings() -> dict[str, dict[str, Callable[[int], list[tuple[Estimate, float]]]]]:
    """By interval, what is simulated, by name: a function of the seed."""
    found: dict[str, dict[str, Callable[[int], list[tuple[Estimate, float]]]]] = {}
    for kind in WEIGHTED:
        found[kind] = {
            f"{family}, ESS {100 * share:g} %, n = {n}": functools.partial(weighted, kind, family, share, n)
            for family in FAMILIES
            for share in SHARES
            for n in NUMBERS
        }
    found["total_variation"] = {
        f"shift {shift:g}, n = {n}": functools.partial(variation, shift, n) for shift in (0.0, 0.05, 0.2, 1.0) for n in NUMBERS
    } | {f"reweighted from width {w:g}, n = {n}": functools.partial(variation, 0.0, n, weighted_by=w) for w in (1.3, 2.5) for n in NUMBERS}
    found["ramachandran"] = {
        f"shift {shift:g}, n = {n}": functools.partial(torsions, shift, n) for shift in (0.0, 0.1, 0.5) for n in NUMBERS
    }
    found["mean_of_chains"] = {
        f"rho {rho:g}, {number} chains of {draws}, {'sweep by sweep' if sweeps else 'chain by chain'}": functools.partial(
            chains, rho, number, draws, sweeps=sweeps
        )
        for rho in (0.0, 0.5, 0.9, 0.98)
        for number, draws in ((1, 2000), (10, 500), (100, 50))
        for sweeps in (False, True)
        if not (sweeps and number == 1)
    }
    for kind, n in (("line_w2", 1_000), ("pooled_w2", 1_000), ("torus_w2", 300), ("exact_w2", 300)):
        found[kind] = (
            {f"shift {shift:g}, n = {n}": functools.partial(wasserstein, kind, shift, n) for shift in (0.0, 0.1, 1.0)}
            | {
                f"reweighted from width {w:g}, shift {shift:g}, n = {n}": functools.partial(wasserstein, kind, shift, n, width=w)
                for w in (1.3, 2.5)
                for shift in (0.0, 0.5)
            }
            | {
                f"frames of a chain, rho {rho:g}, shift {shift:g}, n = {n}": functools.partial(wasserstein, kind, shift, n, rho=rho)
                for rho in (0.5, 0.9)
                for shift in (0.0, 0.5)
            }
            | {f"both of chains, rho 0.9, shift 0, n = {n}": functools.partial(wasserstein, kind, 0.0, n, rho=0.9, own_rho=0.9)}
        )
    found["aligned_w2"] = {f"rho {rho:g}, n = 300": functools.partial(aligned, 300, rho=rho) for rho in (0.0, 0.9)}
    found["trimmed_ess"] = {
        f"log-normal, sigma {sigma:g}, n = {n}": functools.partial(trimmed_ess, sigma, n) for sigma in (0.5, 1.5) for n in NUMBERS
    }
    return found


@contextlib.contextmanager
def replicas_made_once() -> Iterator[None]:
    """The bootstrap's counts, which take most of the time, are made for two seeds and kept: repetitions differ in their data.

    Each repetition is what a user gets with one of these seeds, so the coverage is the same.
    """
    made, kept = estimate.bootstrap_counts, {}

    def counts(n: int, *, seed: int, replicas: int = estimate.REPLICAS) -> Iterator[np.ndarray]:
        key = (n, seed % 2, replicas)
        if key not in kept:
            if n > 1_000:
                kept.clear()
            kept[key] = list(made(n, seed=key[1], replicas=replicas))
        yield from kept[key]

    estimate.bootstrap_counts = counts
    try:
        yield
    finally:
        estimate.bootstrap_counts = made


@dataclasses.dataclass(frozen=True)
class Coverage:
    """What a simulation found: shares of all answers, and the median width of the two-sided ones."""

    held: float
    one_sided: float
    none: float
    width: float


def coverage(make: Callable[[int], list[tuple[Estimate, float]]], repetitions: int, *, first: int = 0) -> Coverage:
    """Coverage of the intervals that a function of a seed gives."""
    with replicas_made_once():
        answers = [answer for seed in sorted(range(first, first + repetitions), key=lambda seed: seed % 2) for answer in make(seed)]
    kinds = [estimate.kind for estimate, _ in answers]
    widths = [estimate.high - estimate.low for estimate, _ in answers if estimate.kind == "two-sided"]
    return Coverage(
        float(np.mean([estimate.low <= truth <= estimate.high for estimate, truth in answers])),
        float(np.mean([kind in ("at most", "at least") for kind in kinds])),
        float(np.mean([kind == "none" for kind in kinds])),
        float(np.median(widths)) if widths else math.nan,
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=500)
    parser.add_argument("--only", nargs="*", choices=list(settings()))
    arguments = parser.parse_args()
    print("| interval | setting | coverage | one-sided | no claim | median width |\n|---|---|---|---|---|---|")
    for kind, chosen in settings().items():
        if arguments.only and kind not in arguments.only:
            continue
        for name, make in chosen.items():
            found = coverage(make, arguments.repetitions)
            width = "" if math.isnan(found.width) else f"{found.width:.3g}"
            print(f"| {kind} | {name} | {found.held:.3f} | {found.one_sided:.2f} | {found.none:.2f} | {width} |", flush=True)


if __name__ == "__main__":
    main()
