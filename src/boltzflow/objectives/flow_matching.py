"""Flow matching on given paths between paired prior and data samples."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from boltzflow.config import ObjectiveConfig, ObjectiveName
from boltzflow.nets.base import AbstractVectorField
from boltzflow.objectives.pairing import PairingInfo, pair
from boltzflow.objectives.paths import path


class Batch(NamedTuple):
    """Paired samples of one training step, in units of the prior.

    Attributes:
        prior: x0, (B, N, D).
        data: x1, (B, N, D).
        time: t in [0, 1], (B,).
        noise: zero-CoM normal noise around the path, (B, N, D).
    """

    prior: Float[Array | np.ndarray, "B N D"]
    data: Float[Array | np.ndarray, "B N D"]
    time: Float[Array | np.ndarray, " B"]
    noise: Float[Array | np.ndarray, "B N D"]


@dataclasses.dataclass(frozen=True)
class FlowMatching(ObjectiveConfig):
    """Conditional flow matching: |v(t, x_t) - dx_t/dt|² at x_t = b x0 + a x1 + sigma·noise; on the linear path b = 1-t, a = t.

    Other paths have times at which the velocity is many times larger than at others; there the error is divided by half the sum of the
    squared rates of b and a, which is 1 on the linear path and moves no minimum.

    Source: Klein, Krämer and Noé, NeurIPS 2023, arXiv:2306.15030, section 4; Lipman et al., ICLR 2023, arXiv:2210.02747, section 4; the
    options are those of `ObjectiveConfig`.
    """

    method: ObjectiveName | None = "flow-matching"

    def prepare(
        self,
        frames: Float[np.ndarray, "n N D"],
        *,
        batch_size: int,
        seed: int,
        step: int,
        classes: np.ndarray,
        reflections: bool,
        threads: int = 1,
    ) -> tuple[Batch, PairingInfo]:
        """Draws and pairs the batch of one step on the host.

        All that is random comes from `seed` and `step` alone, so that a resumed run sees the same batches. Times are stratified over
        the batch, which lowers the variance of the loss.

        Args:
            frames: data in units of the prior, centred.
            batch_size: pairs B.
            seed: seed of the run.
            step: number of the step.
            classes: interchangeability class of each particle.
            reflections: whether reflections are a symmetry.
            threads: threads of the pairing.
        """
        rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, step]))
        shape = (batch_size, *frames.shape[1:])
        data = frames[rng.integers(len(frames), size=batch_size)]
        prior, noise = (centred_normal(rng, shape, data.dtype) for _ in range(2))
        prior, data, info = pair(
            prior, data, pairing=self.pairing, full_cost=self.full_cost, classes=classes, reflections=reflections, threads=threads
        )
        quantile = (rng.permutation(batch_size) + rng.random(batch_size)) / batch_size
        return Batch(prior, data, self._times(quantile).astype(data.dtype), noise), info

    def _times(self, quantile: Float[np.ndarray, " B"]) -> Float[np.ndarray, " B"]:
        """Uniform times, a share of which is mapped to a density that grows as 1/sqrt(1-t) towards the data."""
        share = self.late_time
        if share in (0.0, 1.0):
            return 1.0 - quantile**2 if share else quantile
        late = quantile < share
        return np.where(late, 1.0 - (quantile / share) ** 2, (quantile - share) / (1.0 - share))

    def losses(self, field: AbstractVectorField, batch: Batch) -> Float[Array, " B"]:
        """Squared error of the velocity of each pair; `field` is vmapped here."""
        batch = jax.tree.map(jnp.asarray, batch)
        at = path(self.path, jnp.asarray(batch.time)[:, None, None])
        positions = at.noise * batch.prior + at.signal * batch.data + self.sigma * batch.noise
        velocity = jax.vmap(field)(jnp.asarray(batch.time), jnp.asarray(positions))
        error = velocity - (at.noise_rate * batch.prior + at.signal_rate * batch.data)
        weight = 2.0 / (at.noise_rate**2 + at.signal_rate**2)
        return jnp.sum(weight * error**2, axis=(1, 2))


def centred_normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float32) -> Float[np.ndarray, "B N D"]:
    """Standard normal configurations on the zero-CoM subspace, drawn in float32 or float64."""
    values = rng.standard_normal(shape, dtype=np.float64 if dtype == np.float64 else np.float32)
    return values - values.mean(axis=1, keepdims=True)
