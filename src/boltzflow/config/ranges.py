"""Ranges of options, as annotations of their types: `hidden: Annotated[int, AT_LEAST_1]`, for which `Count` is short."""

import dataclasses
import math
from typing import Annotated

from boltzflow.seeds import LARGEST

# Steps and particles are counted in 32 bits, and what is far outside of the others under- or overflows in single precision.
_MOST, _LARGEST, _SMALLEST = 2**31 - 1, 1e12, 1e-12


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that an option may take.

    Attributes:
        words: what stands after "must be".
        low: the smallest.
        high: the largest; None: what the type can hold.
        above: whether `low` itself is left out.
        below: whether `high` itself is left out.
    """

    words: str
    low: float
    high: float | None = None
    above: bool = False
    below: bool = False

    def problem(self, value: float) -> str | None:
        """What is wrong with a number, as what stands after the option's name; None if nothing is."""
        high = math.inf if self.high is None else self.high
        inside = (value > self.low if self.above else value >= self.low) and (value < high if self.below else value <= high)
        if not (inside and math.isfinite(value)):
            return f"must be {self.words}, got {value}"
        most = _MOST if isinstance(value, int) else _LARGEST
        if self.high is None and value > most:
            return f"must be at most {most:.15g}, got {value}"
        if self.above and self.low == 0 and value < _SMALLEST:
            return f"must be at least {_SMALLEST:g}, got {value}"
        return None


AT_LEAST_1 = Range("at least 1", 1)
NOT_NEGATIVE = Range("0 or more", 0)
POSITIVE = Range("greater than 0", 0, above=True)

Count = Annotated[int, AT_LEAST_1]
CountOrNone = Annotated[int, NOT_NEGATIVE]
Positive = Annotated[float, POSITIVE]
NotNegative = Annotated[float, NOT_NEGATIVE]
AtLeastOne = Annotated[float, AT_LEAST_1]
Share = Annotated[float, Range("between 0 and 1", 0, 1)]
Decay = Annotated[float, Range("at least 0 and below 1", 0, 1, below=True)]
Seed = Annotated[int, Range(f"a whole number from 0 to {LARGEST}", 0, LARGEST)]
