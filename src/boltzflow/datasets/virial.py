"""The virial test: do these frames belong to this energy?"""

import dataclasses
import hashlib
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from boltzflow.analysis import weights
from boltzflow.errors import DataError
from boltzflow.targets.base import Target

_BLOCKS = 64
_BATCH = 4096
_RELATIVE_TOLERANCE = 0.1
# Frames below which nothing is told, the share of the exact value that a tolerance must be below to tell anything, and the number of
# standard errors beyond which a deviation that passes is told of.
_LEAST, _TELLING, _CLEAR = 32, 0.5, 4.0


@dataclasses.dataclass(frozen=True)
class VirialCheck:
    """Outcome of the virial test.

    Example:
        >>> check = bf.datasets.virial_check(data.positions, target)
        >>> check.expected
        6.0

    Attributes:
        value: mean of x · grad u over the frames.
        standard_error: its standard error, from blocks of consecutive frames.
        expected: (N-1)·D, exact for samples of the target.
        tolerance: largest deviation that passes.
        n: number of frames.
        ok: whether the test was passed, or left out.
        left_out: there was nothing to test with, because the energy has no gradient; the value then is NaN.
        worth: how many frames of equal weight those of unequal weight are worth (Kish); None where all count alike.
    """

    value: float
    standard_error: float
    expected: float
    tolerance: float
    n: int
    ok: bool
    left_out: bool = False
    worth: float | None = None

    @property
    def judged(self) -> bool:
        """Whether there are frames enough to tell; where not, the test passes for want of evidence."""
        return (self.n if self.worth is None else self.worth) >= _LEAST and self.tolerance <= _TELLING * self.expected

    def sentence(self) -> str:
        """The outcome in one sentence, with what it could not have seen."""
        if self.left_out:
            return f"virial check left out: the energy has no gradient; it is finite for all {self.n} frames."
        frames = f"{self.n} frames" if self.worth is None else f"{self.n} frames, by their weights worth {self.worth:.3g},"
        if self.ok and not self.judged:
            known = f" ± {self.standard_error:.2g}" if np.isfinite(self.standard_error) else ""
            return (
                f"virial check undecided: {frames} are too few to judge by; mean of x·grad u is {self.value:.4g}{known} where "
                f"{self.expected:g} is exact."
            )
        numbers = f"mean of x·grad u is {self.value:.4g} ± {self.standard_error:.2g} over {frames} where {self.expected:g} is exact"
        if self.ok:
            # Frames of temperature T' have about T'/T times the exact value: an energy that is off by a factor shows in the same way.
            share = 100.0 * self.tolerance / self.expected
            text = f"virial check passed: {numbers} (tolerance {self.tolerance:.2g}: a temperature that is off by less than {share:.0f} %"
            text += " would not show)."
            if abs(self.value - self.expected) > _CLEAR * self.standard_error:
                off = 100.0 * (self.value / self.expected - 1.0)
                text = f"{text[:-1]}; but it is off by {off:+.1f} %, more than chance: another temperature, or not quite in equilibrium?"
            return text
        return f"virial check failed: {numbers} (tolerance {self.tolerance:.2g})."


def virial_check(
    positions: Float[np.ndarray, "n N D"], target: Target, *, log_weight: Float[np.ndarray, " n"] | None = None
) -> VirialCheck:
    """Generalised equipartition: E[x · grad u] = (N-1)·D for exact samples on the zero-CoM subspace.

    The test finds frames of another energy, of another temperature, in other units, or from a sampler that has not converged. It does
    not see everything: the identity holds within each metastable basin, so it says nothing about the basins' weights.

    The tolerance is the larger of 4 standard errors and 10 % of the exact value. An energy that is off by a factor 2 misses by 25 % or
    more in Lennard-Jones clusters (LJ13 frames of epsilon = 2 give 27 with epsilon = 1, where 36 is exact), so it is always refused
    once there are enough frames for 4 standard errors to be below that: by its scatter about 1 000 frames of LJ13. With fewer frames the
    test may not tell. The published DW4 frames, slightly off equilibrium, are reported at 5.49 ± 0.12 where 6 is exact, 8.5 % off, and
    pass; a file of 10 000 of them gives 5.2 ± 0.4 here, passes with a tolerance of 1.6, and says so in `sentence()`.

    The standard error is the median absolute deviation of the means of up to 64 blocks of consecutive frames, scaled to a normal
    distribution: blocks see the correlation of consecutive frames, and the median does not let a few extreme frames widen the
    tolerance that should catch them.

    Args:
        positions: frames, (n, N, D), in the target's units.
        target: the target they should belong to.
        log_weight: log-weights of frames that do not count alike; the mean is theirs, and its error that of sums over blocks, by their
            standard deviation where that is larger: with unequal weights few blocks decide.

    Returns:
        The outcome; it is never raised here.

    Raises:
        DataError: if the energy or gradient of a frame is not finite; says of how many.
    """
    return check_with_energies(positions, target, log_weight)[0]


def check_with_energies(
    positions: Float[np.ndarray, "n N D"], target: Target, log_weight: Float[np.ndarray, " n"] | None = None
) -> tuple[VirialCheck, Float[np.ndarray, " n"]]:
    """The virial check, and the reduced energies of the frames, float64, which come with it.

    Raises:
        DataError: as `virial_check`.
    """
    positions = np.asarray(positions)
    energies, virials = np.empty(len(positions)), np.empty(len(positions))
    gradients = has_gradient(target)
    for first in range(0, len(positions), _BATCH):
        batch = positions[first : first + _BATCH]
        # The last batch is filled up, so that only one batch shape is compiled.
        missing = min(_BATCH, len(positions)) - len(batch)
        filled = jnp.asarray(np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)]) if missing else batch)
        here = slice(first, first + len(batch))
        if gradients:
            energy, gradient = (np.asarray(part, np.float64)[: len(batch)] for part in target.energies_and_gradients(filled))
            energies[here], virials[here] = energy, np.sum(batch * gradient, axis=(1, 2))
        else:
            energies[here], virials[here] = np.asarray(target.energies(filled), np.float64)[: len(batch)], 0.0
    weight = None if log_weight is None else weights.normalized(log_weight)
    counted = np.ones(len(positions), bool) if weight is None else weight > 0.0
    broken = int(np.sum(counted & ~(np.isfinite(energies) & np.isfinite(virials))))
    if broken:
        raise DataError(
            f"{broken} of {len(positions)} frames have an energy or gradient that is not finite for target {target.name!r}, as with "
            "particles that clash; remove them, or check units and the order of the particles."
        )
    expected, n = float(target.degrees_of_freedom), len(positions)
    worth = None if weight is None else float(1.0 / np.sum(weight**2))
    if not gradients:
        return VirialCheck(float("nan"), float("nan"), expected, float("inf"), n, ok=True, left_out=True, worth=worth), energies
    if weight is None:
        value, error = float(np.mean(virials)), _block_standard_error(virials)
    else:
        value, error = _weighted_mean(np.where(counted, virials, 0.0), weight)
    tolerance = max(4 * error, _RELATIVE_TOLERANCE * expected)
    return VirialCheck(value, error, expected, tolerance, n, abs(value - expected) <= tolerance, worth=worth), energies


def has_gradient(target: Target) -> bool:
    """Whether the energy of a target can be differentiated: energies outside JAX may come without gradients.

    Args:
        target: the target.
    """
    if not target.has_energy:
        return False
    evaluator = getattr(target.energy_function, "evaluator", None)
    if evaluator is not None and evaluator.has_gradient is None:
        # It is known once an energy has been computed.
        target.energies(target.starting_positions(key=jax.random.key(0))[None])
    if evaluator is not None:
        return evaluator.has_gradient is not False
    try:
        jax.eval_shape(jax.grad(target.energy), jax.ShapeDtypeStruct((target.n_particles, target.dimension), jnp.zeros(()).dtype))
    except Exception:  # a callback without a derivative: JAX and libraries say so in many ways
        return False
    return True


def memory_of(
    positions: Float[np.ndarray, "n N D"],
    fingerprint: str,
    check: VirialCheck | None = None,
    log_weight: Float[np.ndarray, " n"] | None = None,
) -> str:
    """What is remembered of a check with the frames: how it ended, and a hash of the frames, their weights and their target.

    Without a check only the hash, which ends what is remembered.
    """
    positions = np.ascontiguousarray(positions, np.float32)
    weight = b"" if log_weight is None else np.ascontiguousarray(log_weight, np.float64).tobytes()
    text = hashlib.sha256(f"{fingerprint} {positions.shape}".encode() + positions.tobytes() + weight).hexdigest()
    return text if check is None else f"{'passed' if check.ok else 'failed'} {text}"


def _weighted_mean(values: Float[np.ndarray, " n"], weight: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Mean with weights that sum to one, and its standard error from blocks of consecutive frames."""
    value = float(np.sum(weight * values))
    blocks = min(_BLOCKS, len(values))
    if blocks < 2:
        return value, float("inf")
    sums = np.array([part.sum() for part in np.array_split(weight * (values - value), blocks)])
    typical = 1.4826 * float(np.median(np.abs(sums - np.median(sums))))
    return value, math.sqrt(blocks) * max(typical, float(sums.std(ddof=1)))


def _block_standard_error(values: Float[np.ndarray, " n"]) -> float:
    blocks = min(_BLOCKS, len(values))
    if blocks < 2:
        return float("inf")
    means = np.array([block.mean() for block in np.array_split(values, blocks)])
    deviation = 1.4826 * np.median(np.abs(means - np.median(means)))
    return float(deviation / np.sqrt(blocks))
