"""Seeds: whole numbers from 0 to 2^64 - 1, every bit of which counts, for NumPy's generators and for JAX's keys."""

import operator
from typing import TYPE_CHECKING, Any

from boltzflow.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import PRNGKeyArray

LARGEST = 2**64 - 1


def checked(seed: Any, name: str = "seed") -> int:
    """The seed as a Python number.

    Args:
        seed: a whole number, NumPy's included.
        name: what it is called in the sentence.

    Raises:
        ConfigError: if it is no whole number, negative or above 2^64 - 1.
    """
    try:
        number = operator.index(seed)
    except TypeError:
        raise ConfigError(f"{name} must be a whole number from 0 to {LARGEST}, got {seed!r}.") from None
    if isinstance(seed, bool) or not 0 <= number <= LARGEST:
        raise ConfigError(f"{name} must be a whole number from 0 to {LARGEST}, got {seed}.")
    return number


def after(seed: int, count: int = 1) -> int:
    """The seed that is `count` further on, beginning again at 0 after the last.

    Args:
        seed: the seed.
        count: how far on.
    """
    return (checked(seed) + count) % (LARGEST + 1)


def key(seed: Any) -> "PRNGKeyArray":
    """JAX's key of a seed, the same in single and in double precision.

    In single precision `jax.random.key` takes a seed modulo 2^32; here the upper half is folded in where there is one, so that a seed
    below 2^32 gives the key that it always gave.

    Args:
        seed: a whole number of at most 64 bits.

    Raises:
        ConfigError: as `checked`.
    """
    import jax

    upper, lower = divmod(checked(seed), 2**32)
    made = jax.random.key(lower)
    return jax.random.fold_in(made, upper) if upper else made
