"""Shards: parts of a drawing that are made by themselves, on machines that know nothing of each other, and joined afterwards.

Sample i depends on the seed and on i alone, so that shard k of K is the samples from (k-1)n/K to kn/K (rounded down), whatever else is
drawn. No engine is needed: an array job of any queue gives each task its number.
"""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from boltzflow.errors import ConfigError, DataError

META = "shard"
"""Name under which a file says which shard it is, as `described` does."""

# Shards that are named where they are missing.
_NAMED = 8

Shard = tuple[int, int]
"""(k, K): the k-th of K, counted from 1."""


def parsed(text: str) -> Shard:
    """Reads a shard such as "3/16", the third of sixteen.

    Args:
        text: two whole numbers with a slash in between.

    Raises:
        ConfigError: if it is anything else, or there is no such shard.
    """
    number, slash, of = text.partition("/")
    if not (slash and number.strip().isdecimal() and of.strip().isdecimal()):
        raise ConfigError(f"a shard is written as k/K, such as 3/16 for the third of sixteen, got {text!r}.")
    return checked((int(number), int(of)))


def checked(shard: Shard) -> Shard:
    """The shard, if there is one of that number.

    Args:
        shard: (k, K), counted from 1.

    Raises:
        ConfigError: if k is not among 1, ..., K.
    """
    number, of = shard
    if not 1 <= number <= of:
        raise ConfigError(f"shard {number}/{of} does not exist; shards of {of} are numbered from 1 to {of}.")
    return shard


def bounds(n: int, shard: Shard) -> tuple[int, int]:
    """First sample of a shard, and the first that is behind it.

    Args:
        n: samples of all shards together.
        shard: (k, K), counted from 1.

    Raises:
        ConfigError: if there is no such shard, or there are more shards than samples.
    """
    number, of = checked(shard)
    if of > n:
        raise ConfigError(f"{n} samples cannot be divided into {of} shards; take fewer shards.")
    return (number - 1) * n // of, number * n // of


def described(n: int, shard: Shard) -> dict[str, int]:
    """What a file says of the shard that it holds.

    Args:
        n: samples of all shards together.
        shard: (k, K), counted from 1.
    """
    return {"number": shard[0], "of": shard[1], "n": n}


def flat(n: int, shard: Shard, *, seed: int) -> dict[str, int]:
    """The same for a file that keeps numbers alone, with the seed of all shards together.

    Args:
        n: frames of all shards together.
        shard: (k, K), counted from 1.
        seed: of all shards together.
    """
    return {f"{META}_{name}": value for name, value in {**described(n, shard), "seed": seed}.items()}


def seed_of(shard: Shard, *, seed: int) -> int:
    """The seed of a shard of what is not numbered, such as chains: 64 bits that no other seed or shard has but by chance.

    Args:
        shard: (k, K), counted from 1.
        seed: of all shards together.
    """
    text = f"boltzflow shard {shard[0]} of {shard[1]} of seed {seed}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


class Part(NamedTuple):
    """A file that holds a shard.

    Attributes:
        path: its name.
        shard: (k, K), counted from 1.
        total: samples of all shards together.
        n: samples in it.
        meta: what else it says of itself.
    """

    path: Path
    shard: Shard
    total: int
    n: int
    meta: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Such as "3/16"."""
        return f"{self.shard[0]}/{self.shard[1]}"


def part(path: Path, n: int, meta: Mapping[str, Any]) -> Part:
    """A file of a shard, which must be there whole.

    Args:
        path: its name.
        n: samples in it.
        meta: what it says of itself, the shard among it.

    Raises:
        DataError: if it holds no shard, or not all of it.
    """
    found = meta.get(META)
    if found is None:
        raise DataError(f"{path} holds no shard, but what was made as a whole; only files that --shard has made can be joined.")
    made = Part(path, (int(found["number"]), int(found["of"])), int(found["n"]), n, meta)
    begin, end = bounds(made.total, made.shard)
    if n < end - begin:
        raise DataError(f"{path} holds {n} of the {end - begin} of shard {made.name}; continue it with --resume.")
    return made


def complete(parts: Sequence[Part], verb: str) -> list[Part]:
    """The shards in order, if all are there once.

    Args:
        parts: in any order; of one drawing.
        verb: the command that makes those that are missing, such as "sample MODEL".

    Raises:
        DataError: if they are of different divisions, or one is there twice or not at all; names it.
    """
    if not parts:
        raise DataError("there are no shards to join; name their files.")
    first = parts[0]
    for other in parts:
        if (other.total, other.shard[1]) != (first.total, first.shard[1]):
            raise DataError(
                f"{other.path} is one of {other.shard[1]} shards of {other.total}, but {first.path} one of {first.shard[1]} of "
                f"{first.total}; join shards of one division."
            )
    ordered = sorted(parts, key=lambda part: part.shard)
    for one, other in itertools.pairwise(ordered):
        if one.shard == other.shard:
            raise DataError(f"shard {one.name} is there twice, in {one.path} and in {other.path}; leave one out.")
    of = first.shard[1]
    missing = [f"{number}/{of}" for number in sorted(set(range(1, of + 1)) - {part.shard[0] for part in ordered})]
    if missing:
        named = ", ".join([*missing[:_NAMED], *(["..."] if len(missing) > _NAMED else [])])
        raise DataError(
            f"{len(missing)} of {of} shards {'is' if len(missing) == 1 else 'are'} missing: {named}; make what is missing by "
            f"`boltzflow {verb} -n {first.total} --shard {missing[0]} ...` with the arguments of the others."
        )
    return ordered
