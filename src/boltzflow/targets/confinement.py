"""Whether an energy holds its particles together: exp(-u) of one that does not cannot be normalised."""

import numpy as np
from jaxtyping import Float

from boltzflow.errors import TargetError
from boltzflow.targets.invariance import Energies

# Multiples of the start's extent. Where the energy grows too slowly between the two it may still be a well so deep that nothing leaves.
_FAR, _FARTHER = 1e4, 1e6
_NEAR, _NEARER = 1e-4, 1e-6
_SIZES = (0.5, 1.0, 2.0, 4.0)
# Enough to find what is not held; all of them for small systems.
_MOST_PIECES, _MOST_PAIRS = 64, 64


def check_confinement(name: str, energies: Energies, start: Float[np.ndarray, "N D"]) -> float:
    """Tries to pull the configuration apart, and to push particles together.

    A piece with m degrees of freedom can leave unless the energy grows by more than m log s while its distance grows by s, and particles
    fall into each other if it sinks by more than that. What is tried: the whole configuration, each particle, and the particles up to
    each one (a dimer beside another is held within, but not to the other).

    Args:
        name: of the target.
        energies: of batches, in double precision.
        start: a starting configuration.

    Returns:
        The lowest energy seen among configurations of about the start's size, in kT; infinite where there was none.

    Raises:
        TargetError: says what leaves or falls.
    """
    # Infinities are compared, and their differences are not numbers: neither leaves nor falls.
    with np.errstate(invalid="ignore", over="ignore"):
        return _lowest(name, energies, start)


def _lowest(name: str, energies: Energies, start: Float[np.ndarray, "N D"]) -> float:
    n, dimension = start.shape
    generator = np.random.default_rng(0)
    x = start - start.mean(axis=0)
    extent = float(np.abs(x).max()) or 1.0
    x = x + 0.05 * extent * generator.standard_normal(x.shape)
    x -= x.mean(axis=0)
    low = float(np.nanmin(np.where(np.isfinite(u := energies(np.stack([s * x for s in _SIZES]))), u, np.nan), initial=np.inf))
    if not np.isfinite(low):
        return low

    pieces = [((n - 1) * dimension, "the whole configuration expands", x)]
    for members, words in _pieces(n, generator):
        step = np.zeros_like(x)
        direction = generator.standard_normal(dimension)
        step[members] = extent * direction / np.linalg.norm(direction)
        pieces.append((dimension, f"{words} moved away", step))
    far, farther = (energies(np.stack([x + s * step for _, _, step in pieces])) for s in (_FAR, _FARTHER))
    for (freedom, words, _), u, v in zip(pieces, far, farther, strict=True):
        if v == -np.inf or v < low - 1.0:
            raise TargetError(
                f"the energy of target {name!r} sinks without bound where {words}, so that exp(-u) cannot be normalised; check its sign."
            )
        leaves = v - low < freedom * np.log(_FARTHER)
        if leaves and v - u < freedom * np.log(_FARTHER / _FAR):
            raise TargetError(
                f"nothing holds the particles of target {name!r} together: where {words} by {_FARTHER:.0e} times the start's size, the "
                f"energy has grown by {v - low:.3g} kT only, so that exp(-u) cannot be normalised; add a term that does, such as "
                "0.5 * k * jnp.sum((x - x.mean(axis=0)) ** 2)."
            )
    collapses = [(n - 1) * dimension, *[dimension] * min(_MOST_PAIRS, n * (n - 1) // 2)]
    near = [[s * x for s in (_NEAR, _NEARER)]]
    for i, j in _pairs(n, generator):
        frames = []
        for s in (_NEAR, _NEARER):
            frame = x.copy()
            frame[j] = frame[i] + s * (x[j] - x[i])
            frames.append(frame)
        near.append(frames)
    first, second = (energies(np.stack([pair[k] for pair in near])) for k in (0, 1))
    for freedom, u, v in zip(collapses, first, second, strict=True):
        if v == -np.inf or v - u < -freedom * np.log(_NEAR / _NEARER) - 1.0:
            raise TargetError(
                f"the energy of target {name!r} sinks without bound where particles come together, so that exp(-u) cannot be normalised; "
                "add a repulsion, or check its sign."
            )
    return low


def _pieces(n: int, generator: np.random.Generator) -> list[tuple[np.ndarray, str]]:
    """Parts of the system that could leave, with words for them."""
    single = np.sort(generator.permutation(n)[:_MOST_PIECES])
    cuts = np.unique(np.linspace(2, n - 2, _MOST_PIECES).astype(int)) if n >= 4 else np.empty(0, int)
    return [(np.array([i]), f"particle {i} is") for i in single] + [(np.arange(cut), f"particles 0 to {cut - 1} are") for cut in cuts]


def _pairs(n: int, generator: np.random.Generator) -> np.ndarray:
    pairs = np.stack(np.triu_indices(n, 1), axis=1)
    return pairs[np.sort(generator.permutation(len(pairs))[:_MOST_PAIRS])]
