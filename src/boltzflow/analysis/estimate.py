"""A number with its interval, and the bootstrap that makes the interval."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from boltzflow import display
from boltzflow.errors import DataError

REPLICAS = 400
LEVEL = 0.95
TWO_SIDED, AT_MOST, AT_LEAST, NONE = "two-sided", "at most", "at least", "none"
"""What an estimate claims: see `Estimate.kind`."""

_CHUNK_ELEMENTS = 1 << 18  # counts of this size stay in the cache, four times as fast as blocks of 32 MB


@dataclasses.dataclass(frozen=True, repr=False)
class Estimate:
    """A value with its 95 % interval, or with what can be said in place of one.

    Example:
        >>> found = samples.log_z()
        >>> found.low < found.value < found.high, found.n
        (True, 64)
        >>> bf.Estimate(0.405, 0.389, 0.423, n=10_000).scaled(100.0).texts()
        ('40.5', '[38.9, 42.3]')

    Attributes:
        value: the estimate.
        low: lower end of the interval; NaN where there are too few samples for one, -inf (or the least possible value) where nothing is
            claimed on this side.
        high: upper end of the interval; NaN and inf likewise.
        n: number of samples that the estimate rests on, failed ones included.
        kind: `TWO_SIDED`: the interval holds the truth with 95 %. `AT_MOST`, `AT_LEAST`: only its upper or lower end is claimed, with 95 %.
            `NONE`: nothing is.
        note: why there is no two-sided interval, in words, or what else is to be known; empty if nothing.
        n_effective: number of independent samples that correlated ones are worth; None where they count as independent.
    """

    value: float
    low: float
    high: float
    n: int
    kind: str = TWO_SIDED
    note: str = ""
    n_effective: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields for JSON, which knows neither NaN nor infinity: these become None. What is as usual is left out."""
        fields: dict[str, Any] = {
            "value": _finite_or_none(self.value),
            "low": _finite_or_none(self.low),
            "high": _finite_or_none(self.high),
            "n": self.n,
        }
        if self.kind != TWO_SIDED:
            fields["kind"] = self.kind
        if self.note:
            fields["note"] = self.note
        if self.n_effective is not None:
            fields["n_effective"] = _finite_or_none(self.n_effective)
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Estimate":
        """Inverse of `as_dict`, also for what older versions wrote; None becomes NaN, or the infinity that it stands for.

        Args:
            fields: as `as_dict` gives them.
        """
        kind = str(fields.get("kind") or TWO_SIDED)
        ends = {"value": math.nan, "low": math.nan, "high": math.nan}
        if kind != TWO_SIDED:
            ends.update(low=-math.inf, high=math.inf)
        value, low, high = (missing if fields.get(key) is None else float(fields[key]) for key, missing in ends.items())
        effective = fields.get("n_effective")
        effective = None if effective is None else float(effective)
        return cls(value, low, high, int(fields.get("n") or 0), kind, str(fields.get("note") or ""), effective)

    def shifted(self, by: float) -> "Estimate":
        """The same estimate plus a number that is known exactly, such as an NLL minus the entropy.

        Args:
            by: the number.
        """
        return dataclasses.replace(self, value=self.value + by, low=self.low + by, high=self.high + by)

    def scaled(self, by: float) -> "Estimate":
        """The same estimate times a positive number that is known exactly, such as 100 for per cent.

        Args:
            by: the number.
        """
        return dataclasses.replace(self, value=self.value * by, low=self.low * by, high=self.high * by)

    def texts(self) -> tuple[str, str]:
        """Value and interval with the digits that the interval can carry; the interval is empty where there is none."""
        if self.kind == AT_MOST:
            return significant(self.value), f"at most {significant(self.high)}"
        if self.kind == AT_LEAST:
            return significant(self.value), f"at least {significant(self.low)}"
        if self.kind == NONE:
            return significant(self.value), "no interval"
        if not (math.isfinite(self.value) and math.isfinite(self.low) and math.isfinite(self.high) and self.high > self.low):
            return significant(self.value, 4), ""
        # Two digits of the interval's width are all that the estimate can carry.
        decimals = min(max(1 - math.floor(math.log10(self.high - self.low)), 0), 6)
        return f"{self.value:.{decimals}f}", f"[{self.low:.{decimals}f}, {self.high:.{decimals}f}]"

    def __str__(self) -> str:
        value, interval = self.texts()
        effective = "" if self.n_effective is None else f", worth {significant(self.n_effective)} independent ones"
        note = f"; {self.note}" if self.note else ""
        return f"{value}{' ' if interval else ''}{interval} (n = {self.n}{effective}{note})"

    def __repr__(self) -> str:
        """In one line, with the digits that the interval can carry."""
        return f"<Estimate {self}>"

    def _repr_html_(self) -> str:
        """For notebooks: value, interval and n as a table, and the interval on an axis."""
        value, interval = self.texts()
        effective = None if self.n_effective is None else significant(self.n_effective)
        rows = [("value", value), ("95 % interval", interval), ("samples", self.n), ("independent ones", effective), ("note", self.note)]
        return display.page("Estimate", rows, display.thumbnail(self._draw, str(self)) if math.isfinite(self.value) else "")

    def _draw(self, axes: Any) -> None:
        low, high = (end if math.isfinite(end) else None for end in (self.low, self.high))
        if self.kind == TWO_SIDED and low is not None and high is not None:
            axes.plot([low, high], [0, 0], color=display.BLUE, linewidth=2.5, solid_capstyle="butt")
        elif self.kind == AT_MOST and high is not None:
            self._arrow(axes, high)
        elif self.kind == AT_LEAST and low is not None:
            self._arrow(axes, low)
        axes.plot([self.value], [0], marker="o", markersize=5, color=display.INK)
        axes.set(yticks=[], ylim=(-1, 1), xlabel="value and 95 % interval" if self.kind == TWO_SIDED else f"value, {self.kind}")
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.25)
        axes.locator_params(axis="x", nbins=4)

    def _arrow(self, axes: Any, bound: float) -> None:
        """From a bound to where the truth may be, beyond the value."""
        beyond = self.value + 0.5 * (self.value - bound)
        axes.annotate("", (beyond, 0), (bound, 0), arrowprops={"arrowstyle": "->", "color": display.BLUE, "linewidth": 1.5})
        axes.plot([bound, beyond], [0, 0], alpha=0.0)
        axes.plot([bound], [0], marker="|", markersize=12, color=display.BLUE)


def figure_rows(figures: Mapping[str, Any], names: Iterable[str]) -> list[display.Row]:
    """Rows of a table in a notebook: the figures of an evaluation or a card, with their intervals, as far as they are there.

    Args:
        figures: estimates as `Estimate.as_dict` makes them, `Estimate`s or numbers, by name.
        names: which of them, keys of `display.LABELS`.
    """
    rows: list[display.Row] = []
    for name in names:
        value = figures.get(name)
        if isinstance(value, Mapping):
            value = Estimate.from_dict(value)
        factor, unit = (100.0, " %") if name in display.SHARES else (1.0, "")
        if isinstance(value, Estimate) and math.isfinite(value.value):
            shown, interval = value.scaled(factor).texts()
            rows.append((display.LABELS[name], shown + unit, interval + unit if interval and interval != "no interval" else interval))
        elif isinstance(value, int | float):
            rows.append((display.LABELS[name], significant(factor * value) + unit))
    return rows


def significant(number: float, digits: int = 3) -> str:
    """A number in a few significant digits, without an exponent where it can be read without."""
    if not math.isfinite(number):
        return f"{number:g}"
    if number == 0 or not 1e-4 <= abs(number) < 1e6:
        return f"{number:.{digits}g}"
    return f"{number:.{max(0, digits - 1 - math.floor(math.log10(abs(number))))}f}"


def _finite_or_none(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None


@functools.cache
def _poisson_table() -> Float[np.ndarray, " 65536"]:
    """Maps 16 random bits to a Poisson(1) count; the mean is right to 6e-5, far below what an interval can show."""
    probabilities = [math.exp(-1.0) / math.factorial(count) for count in range(12)]
    uniform = (np.arange(65536) + 0.5) / 65536
    return np.searchsorted(np.cumsum(probabilities), uniform).astype(np.float64)


def bootstrap_counts(n: int, *, seed: int, replicas: int = REPLICAS) -> Iterator[Float[np.ndarray, "r n"]]:
    """Yields how often each of n samples occurs in each bootstrap replica, a block of replicas at a time.

    Poisson bootstrap: the counts are independent Poisson(1) instead of multinomial, which is the same for the n at hand and ten
    times as fast (Hanley and MacGibbon, 2006).
    """
    rng = np.random.default_rng(seed)
    table = _poisson_table()
    block = max(1, min(replicas, _CHUNK_ELEMENTS // max(n, 1)))
    for start in range(0, replicas, block):
        rows = min(block, replicas - start)
        bits = np.frombuffer(rng.bytes(2 * rows * n), dtype=np.uint16)
        yield table[bits].reshape(rows, n)


def bootstrap_means(columns: Any, *, seed: int, replicas: int = REPLICAS) -> Float[np.ndarray, "R m"]:
    """Means of each column in each bootstrap replica.

    Args:
        columns: (n, m), a NumPy array or a SciPy sparse matrix.
        seed: seed of the bootstrap; the same seed gives the same replicas, so that differences can be taken.
        replicas: R.

    Returns:
        (R, m); a row is NaN where a replica came out empty, which happens for a handful of samples only.
    """
    blocks = []
    for counts in bootstrap_counts(columns.shape[0], seed=seed, replicas=replicas):
        sums = counts @ columns if isinstance(columns, np.ndarray) else (columns.T @ counts.T).T
        with np.errstate(invalid="ignore", divide="ignore"):
            blocks.append(np.asarray(sums) / counts.sum(axis=1, keepdims=True))
    return np.concatenate(blocks)


def in_blocks(columns: Any, blocks: int | None) -> Any:
    """Rows of blocks of consecutive samples, for a bootstrap that draws whole blocks: consecutive samples may be correlated.

    Args:
        columns: (n, m), a NumPy array or a SciPy sparse matrix.
        blocks: their number B, a few tens or more, each much longer than the correlation; None leaves the columns as they are.

    Returns:
        (B, m) with the same column means.

    Raises:
        DataError: if there are fewer than two blocks or more blocks than samples.
    """
    if blocks is None:
        return columns
    from scipy.sparse import csr_array

    n = columns.shape[0]
    if not 2 <= blocks <= n:
        raise DataError(f"{n} samples cannot be divided into {blocks} blocks; choose a number from 2 to {n}.")
    share = csr_array((np.full(n, blocks / n), (np.arange(n) * blocks // n, np.arange(n))), shape=(blocks, n))
    return share @ columns


def bracket(value: float, low: float, high: float, n: int) -> Estimate:
    """An estimate whose interval is widened, where it must be, to hold the value."""
    return Estimate(value, min(low, value), max(high, value), n)


def percentile_interval(replicated: Float[np.ndarray, " R"], n: int) -> tuple[float, float]:
    """The 95 % percentile interval; NaN for fewer than two samples, where a bootstrap knows nothing.

    Replicas in which the statistic is undefined (NaN) are left out.
    """
    replicated = replicated[~np.isnan(replicated)]
    if n < 2 or replicated.size == 0:
        return math.nan, math.nan
    # "inverted_cdf" does not interpolate, and so can hold infinite replicas.
    low, high = np.quantile(replicated, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    return float(low), float(high)


def as_column(values: Any, name: str, *, n: int | None = None) -> Float[np.ndarray, " n"]:
    """Values as a one-dimensional float64 array of at least one number.

    Raises:
        DataError: if there are none, the shape is wrong, or their number is not `n`.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise DataError(f"{name} must have shape (n,), one number per sample, but have shape {array.shape}.")
    if array.size == 0:
        raise DataError(f"there are no {name} to estimate anything from (n = 0); draw at least one sample.")
    if n is not None and array.size != n:
        raise DataError(f"there are {array.size} {name} for {n} log-weights; pass one per sample.")
    return array
