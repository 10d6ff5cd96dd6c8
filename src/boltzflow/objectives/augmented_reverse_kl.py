"""The reverse Kullback-Leibler divergence of the joint densities of an augmented coupling flow, from energies at its own samples alone.

Sources: as for `reverse_kl`, here for the joint density of positions and copies.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from boltzflow import config
from boltzflow.flows.augmented import AugmentedCouplingFlow
from boltzflow.flows.coupling import CouplingStack
from boltzflow.objectives.augmented_path_gradient import drawn_latents, reverse_divergence
from boltzflow.objectives.base import AbstractObjective, Needs, Proposal
from boltzflow.objectives.path_gradient import bounded, energy_of, evaluations, with_gradient
from boltzflow.objectives.reverse_kl import precision_of


class CopiedLatents(NamedTuple):
    """Where the samples of one step come from, in units of the prior.

    Attributes:
        prior: latent positions, (B, N, D).
        noise: normal noise of their copies, (B, N, k, D).
    """

    prior: Float[Array | np.ndarray, "B N D"]
    noise: Float[Array | np.ndarray, "B N k D"]


@dataclasses.dataclass(frozen=True)
class AugmentedReverseKL(config.AugmentedReverseKL, AbstractObjective):
    """Log q(x, a) - log pi(a|x) + u(x) of draws of the flow: by path gradients, or through the whole map and its density."""

    needs: ClassVar[Needs] = Needs(frames=False, energy=True, gradient=True)

    def propose(self, state: Any, network: Any, frames: Any, *, step: int, key: Any = None) -> Proposal:
        """Draws latent positions and the noise of their copies on the host; they depend on the seed and the step alone."""
        flow, size, rng = cast(AugmentedCouplingFlow, self.setting.flow), self.setting.batch_size, self.setting.rng(6, step)
        dtype = precision_of(flow)
        prior = drawn_latents(flow, size, rng, dtype)
        noise = rng.standard_normal((size, flow.n_particles, flow.augmented, flow.dimension), dtype=dtype.type)
        return Proposal(state, CopiedLatents(prior, noise), evaluations=evaluations("reverse", size))

    def losses(self, network: CouplingStack, batch: CopiedLatents) -> Float[Array, " B"]:
        """Divergence of each draw up to log Z, with a gradient by the estimator that was chosen."""
        flow = cast(AugmentedCouplingFlow, self.setting.flow.with_network(network))
        estimate = self._by_path if self.estimator == "path-gradient" else self._through_the_map
        return jax.vmap(lambda x, e: estimate(flow, x, e))(jnp.asarray(batch.prior), jnp.asarray(batch.noise))

    def _by_path(self, flow: AugmentedCouplingFlow, latent: Float[Array, "N D"], noise: Float[Array, "N k D"]) -> Float[Array, ""]:
        return reverse_divergence(flow, self.setting, latent, noise, clip=self.clip)

    def _through_the_map(self, flow: AugmentedCouplingFlow, latent: Float[Array, "N D"], noise: Float[Array, "N k D"]) -> Float[Array, ""]:
        channels, log_q = flow.push_forward(flow.with_copies(latent, noise))
        x = channels[:, 0]
        u, gradient = jax.value_and_grad(lambda x: energy_of(self.setting, x))(jax.lax.stop_gradient(x))
        return with_gradient(u, bounded(gradient, self.clip), x) + log_q - flow.log_conditional(channels)
