"""Maximum likelihood through the ODE: what continuous flows were trained by before flow matching."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from boltzflow import config
from boltzflow.flows import prior, quadrature
from boltzflow.nets.base import AbstractVectorField
from boltzflow.objectives.base import AbstractObjective, Proposal
from boltzflow.objectives.flow_matching import centred_normal


class Probed(NamedTuple):
    """Frames of one step, in units of the prior.

    Attributes:
        data: frames, (B, N, D).
        probes: a probe vector of the divergence for each, (B, N, D).
    """

    data: Float[Array | np.ndarray, "B N D"]
    probes: Float[Array | np.ndarray, "B N D"]


@dataclasses.dataclass(frozen=True)
class MaximumLikelihood(config.MaximumLikelihood, AbstractObjective):
    """-log q of frames in units of the prior, differentiated through the solver.

    Every frame is carried to the prior, so that a step costs many evaluations of the vector field and of its divergence, and their
    gradients. Intervals of the solver are computed again on the way back, so that memory does not grow with their number.

    Source: Köhler, Klein and Noé, ICML 2020, arXiv:2006.02425.
    """

    weighted: ClassVar[bool] = True

    def propose(self, state: Any, network: Any, frames: Float[np.ndarray, "n N D"], *, step: int, key: Any = None) -> Proposal:
        """Draws frames and probe vectors of one step on the host; they depend on the seed and the step alone."""
        rng = self.setting.rng(2, step)
        data = self.setting.drawn(rng, frames)
        return Proposal(state, Probed(data, centred_normal(rng, data.shape, data.dtype)))

    def losses(self, field: AbstractVectorField, batch: Probed) -> Float[Array, " B"]:
        """Negative log-likelihood of each frame in nats, on the zero-CoM subspace and in units of the prior.

        Hutchinson's estimate of the divergence takes a single probe vector for each frame.
        """

        def loss(frame: Float[Array, "N D"], probe: Float[Array, "N D"]) -> Float[Array, ""]:
            latent, change, _ = quadrature.transport(
                field, frame, self.nodes, reverse=True, method=self.divergence, probes=probe[None], recompute=True
            )
            return -prior.log_prob(latent) - change

        return jax.vmap(loss)(jnp.asarray(batch.data), jnp.asarray(batch.probes))
