"""Distances between two densities from samples of both, with the noise that finite samples add taken off.

The plain distance of two sets of samples of the same density is not 0: it is the floor. It falls with the number of samples and rises with
that of the bins. What a set of samples says about the true distance is found by asking which true distances would have given what was seen:
populations on the way from "no difference" to "all the difference that was seen" are sampled with the noise of the sets, and those whose
plain distances hold the seen one within 95 % make the interval. It holds 0 where there is no difference.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from boltzflow.analysis.estimate import LEVEL, NONE, Estimate, significant
from boltzflow.errors import DataError

# Steps on the way from no difference to the one that was seen, and somewhat beyond; where there is no largest distance, as far as need be.
_STEPS = np.concatenate([[0.0], np.geomspace(0.02, 1.0, 18), [1.1, 1.25, 1.5]])
_FURTHEST = 30.0


@dataclasses.dataclass(frozen=True)
class Distance(Estimate):
    """A distance with its interval.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> edges = np.linspace(-3, 3, 13)
        >>> found = bf.analysis.metrics.total_variation_distance(rng.normal(size=500), rng.normal(size=500), edges)
        >>> found.value <= found.seen, found.low
        (True, 0.0)

    Attributes:
        value: the true distance that would give the seen one in half of all cases; 0 where chance alone would.
        seen: the plain distance of the two sets as they are.
        floor: what two such sets of the same density are apart on average.
    """

    seen: float = math.nan
    floor: float = math.nan

    def as_dict(self) -> dict[str, Any]:
        """The fields for JSON."""
        beside = {"seen": self.seen, "floor": self.floor}
        return {**super().as_dict(), **{key: float(part) if math.isfinite(part) else None for key, part in beside.items()}}

    def __str__(self) -> str:
        return f"{super().__str__()[:-1]}; {self.beside()})"

    def beside(self) -> str:
        """The plain distance and its floor, in words."""
        if not math.isfinite(self.floor):
            return f"{significant(self.seen)} as seen"
        return f"{significant(self.seen)} as seen, where equal densities give {significant(self.floor)}"


def inverted(
    population: Callable[[float], float],
    sampled: Callable[[float], Float[np.ndarray, " R"]],
    seen: float,
    n: int,
    *,
    largest: float = math.inf,
    widening: float = 1.0,
) -> Distance:
    """The distances that would have given what was seen.

    Args:
        population: the true distance at a step, from 0 (no difference) to 1 (all the difference that was seen), and beyond.
        sampled: plain distances of sets that are sampled at a step with the noise of the given ones.
        seen: the plain distance of the given sets.
        n: number of samples of the smaller set.
        largest: the largest possible distance.
        widening: how much further apart the seen distances lie than sampled ones, which know less noise.
    """
    at_zero = sampled(0.0)
    floor = float(at_zero.mean())
    tail = (1.0 - LEVEL) / 2.0
    true: list[float] = []
    quantiles: list[np.ndarray] = []

    def reach(step: float) -> None:
        drawn = at_zero if step == 0.0 else sampled(step)
        true.append(population(step))
        spread = np.quantile(drawn, [tail, 0.5, 1.0 - tail])
        quantiles.append(spread[1] + widening * (spread - spread[1]))

    for step in _STEPS:
        reach(float(step))
    # A distance without bound may be several times what noise has let be seen of it.
    step = float(_STEPS[-1])
    while math.isinf(largest) and max(low for low, *_ in quantiles) <= seen and step < _FURTHEST:
        step *= 1.3
        reach(step)
    # The noise of the replicas must not make a larger difference look smaller.
    distances = np.maximum.accumulate(true)
    rising = np.maximum.accumulate(np.array(quantiles), axis=0)

    def crossing(column: int) -> float:
        """The distance at which this quantile of the seen distance is what was seen."""
        return float(np.interp(seen, rising[:, column], distances, left=0.0))

    low, value, high = crossing(2), crossing(1), crossing(0)
    if seen >= rising[-1, 0]:
        high = max(high, seen + (seen - floor))
    # Sums of probabilities may be rounded above the largest distance.
    low, value, high, seen = (min(part, largest) for part in (low, value, max(high, value), seen))
    return Distance(value, low, high, n, seen=seen, floor=floor)


def joined(found: Sequence[Distance]) -> Distance:
    """The same distance by several assumptions: the interval that holds all theirs, and the mean value."""
    value, low, high = np.mean([d.value for d in found]), min(d.low for d in found), max(d.high for d in found)
    return dataclasses.replace(found[0], value=float(value), low=low, high=high)


def unknown(seen: float, n: int, note: str, *, largest: float = math.inf) -> Distance:
    """A distance of which nothing can be claimed."""
    return Distance(seen, 0.0, largest, n, NONE, note, seen=seen)


def check_replicas(count: int) -> None:
    """Checks that there are replicas left.

    Raises:
        DataError: if there are none.
    """
    if count == 0:
        raise DataError("every bootstrap replica came out empty; give more samples.")
