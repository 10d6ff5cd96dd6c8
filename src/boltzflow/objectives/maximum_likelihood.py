"""Maximum likelihood through the ODE: what continuous flows were trained by before flow matching."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from boltzflow.config import ObjectiveConfig, ObjectiveName
from boltzflow.flows import prior, quadrature
from boltzflow.nets.base import AbstractVectorField
from boltzflow.objectives.flow_matching import Batch, centred_normal


@dataclasses.dataclass(frozen=True)
class MaximumLikelihood(ObjectiveConfig):
    """-log q of frames in units of the prior, differentiated through the solver.

    Every frame is carried to the prior, so that a step costs many evaluations of the vector field and of its divergence, and their
    gradients. Intervals of the solver are computed again on the way back, so that memory does not grow with their number.

    Source: Köhler, Klein and Noé, ICML 2020, arXiv:2006.02425; the options `nodes` and `divergence` are those of
    `ObjectiveConfig`.
    """

    method: ObjectiveName = "maximum-likelihood"

    def prepare(self, frames: Float[np.ndarray, "n N D"], *, batch_size: int, seed: int, step: int) -> Batch:
        """Draws frames and probe vectors of one step on the host; they depend on `seed` and `step` alone.

        Args:
            frames: data in units of the prior, centred.
            batch_size: frames B.
            seed: seed of the run.
            step: number of the step.
        """
        rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 2, step]))
        data = frames[rng.integers(len(frames), size=batch_size)]
        probes = centred_normal(rng, data.shape, data.dtype)
        return Batch(probes, data, np.zeros(batch_size, data.dtype), probes)

    def losses(self, field: AbstractVectorField, batch: Batch) -> Float[Array, " B"]:
        """Negative log-likelihood of each frame in nats, on the zero-CoM subspace and in units of the prior.

        Hutchinson's estimate of the divergence takes a single probe vector for each frame.
        """

        def loss(frame: Float[Array, "N D"], probe: Float[Array, "N D"]) -> Float[Array, ""]:
            latent, change, _ = quadrature.transport(
                field, frame, self.nodes, reverse=True, method=self.divergence, probes=probe[None], recompute=True
            )
            return -prior.log_prob(latent) - change

        return jax.vmap(loss)(jnp.asarray(batch.data), jnp.asarray(batch.noise))
