"""What the corrections have in common: their checks, budgets of energies, and where their samples come from."""

import hashlib
from typing import Any, Literal

import numpy as np

from boltzflow.datasets import has_gradient
from boltzflow.errors import ConfigError, DataError, TargetError
from boltzflow.flows.base import AbstractFlow
from boltzflow.sampling.generate import MOST, origin
from boltzflow.targets.base import Target

Path = Literal["geometric", "direct"]

# Low bits of the numbers of groups, which count the groups of one drawing.
_GROUP_BITS = 24


def require_energy(target: Target) -> None:
    """Refuses a target without energy.

    Raises:
        DataError: if it has none.
    """
    if not target.has_energy:
        raise DataError(f"{target.name} has no energy, so that samples cannot be corrected to it; draw them without correction.")


def settled_moves(target: Target, moves: int | None, usual: int) -> int:
    """Moves of each walker: those asked for, else the usual number, or none where the energy has no gradient.

    Raises:
        TargetError: if moves are asked for that need a gradient which is not there.
        ConfigError: if their number is negative.
    """
    if moves is not None and moves < 0:
        raise ConfigError(f"the number of moves must not be negative, got {moves}.")
    if moves == 0 or has_gradient(target):
        return usual if moves is None else moves
    if moves is None:
        return 0
    raise TargetError(
        f"the energy of target {target.name!r} has no gradient, which Hamiltonian moves need; let it return (energy, gradient), or pass "
        "moves=0, and samples are corrected by energies alone."
    )


def settled_draws(flow: AbstractFlow, draws: int | None) -> int:
    """Further draws of the copies that log q is averaged over: those asked for, else `noisy_draws` of the flow.

    Raises:
        ConfigError: if they are asked for of a flow without copies, or negative.
    """
    if draws is None:
        return flow.noisy_draws
    if draws < 0 or (draws and not flow.noisy_draws):
        raise ConfigError(f"only an augmented flow has copies to average over, and their number is not negative; got draws={draws}.")
    return draws


def check_numbers(n: int | None, energies: float | None, **others: int) -> None:
    """Checks numbers of samples and energies, and others that must be positive.

    Raises:
        ConfigError: if one is not positive, more samples are asked for than can be numbered, or neither is given.
    """
    if n is None and energies is None:
        raise ConfigError("give the number of samples n, or the number of energies that they may cost.")
    if n is not None and not 1 <= n <= MOST:
        raise ConfigError(f"the number of samples must be from 1 to {MOST}, got {n}.")
    if energies is not None and not energies >= 1:
        raise ConfigError(f"the number of energies must be at least 1, got {energies:g}.")
    for name, value in others.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}.")


def affordable(n: int | None, energies: float | None, size: int, before: int, each: int, what: str) -> int:
    """How many pieces of `size` samples to make, for n samples within a number of energies.

    Args:
        n: samples; None: as many as the energies allow.
        energies: that may be spent; None: any number.
        size: samples of a piece.
        before: energies that are spent before the first piece.
        each: energies of a piece.
        what: a piece in words.

    Raises:
        ConfigError: if the energies do not suffice for one.
    """
    wanted = None if n is None else -(-n // size)
    if energies is None:
        assert wanted is not None
        return wanted
    most = int(energies - before) // each
    if most < 1:
        raise ConfigError(
            f"{energies:g} energies are too few: {before} go into the preparation and {each} into {what}; allow {before + each} or more."
        )
    most = min(most, MOST // size)
    return most if wanted is None else min(wanted, most)


def meta_of(flow: AbstractFlow, target: Target, model: str, correction: str, *, seed: int) -> dict[str, Any]:
    """Where corrected samples come from."""
    return {**origin(flow, target, model, seed=seed), "correction": correction}


def groups_from(meta: dict[str, Any], first: int, count: int) -> np.ndarray:
    """Numbers of groups, `count` from the first-th of a drawing on, which no other drawing has."""
    text = "|".join(str(meta.get(key)) for key in ("fingerprint", "identity", "weights", "seed", "correction"))
    base = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") >> (56 + _GROUP_BITS - 62) << _GROUP_BITS
    return base + 1 + first + np.arange(count, dtype=np.int64)
