"""What the chains of the tempering sampler drew: as arrays of a file, and as what chains are judged by."""

from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Float

from boltzflow.analysis.observables import radius_of_gyration
from boltzflow.reference.observables import observables
from boltzflow.reference.tempering import Draws, SweepInfo
from boltzflow.targets.base import Target


def packed(draws: Draws) -> dict[str, np.ndarray]:
    """The arrays of draws by name."""
    return {f"draws{number}": np.asarray(leaf) for number, leaf in enumerate(jax.tree.leaves(draws))}


def unpacked(arrays: Mapping[str, np.ndarray]) -> Draws:
    """The draws of such arrays."""
    positions, energy, *info = (arrays[f"draws{number}"] for number in range(2 + len(SweepInfo._fields)))
    return Draws(positions, energy, SweepInfo(*info))  # pyright: ignore[reportArgumentType] (arrays of the host)


def observed(draws: Draws, target: Target) -> dict[str, Float[np.ndarray, "C K"]]:
    """Observables of all chains."""
    return observables(np.asarray(draws.energy).T, np.swapaxes(np.asarray(draws.positions), 0, 1), target)


def slow_ones(draws: Draws) -> dict[str, Float[np.ndarray, "C K"]]:
    """What the sweeps between two frames are measured by: a pilot is too short for torsions."""
    positions = np.asarray(draws.positions, np.float64)
    return {"energy": np.asarray(draws.energy, np.float64).T, "radius_of_gyration": radius_of_gyration(positions).T}
