"""The reverse Kullback-Leibler divergence, KL(q|p), of a continuous flow: learnt from energies at its own samples, with no frames.

It seeks modes: where the flow has none of its samples, nothing is learnt. Sources: Noé, Olsson, Köhler and Wu, Science 365, eaaw1147
(2019), energy-based training; path gradients as in `path_gradient`.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from boltzflow import config
from boltzflow.flows import quadrature
from boltzflow.flows.base import AbstractFlow
from boltzflow.nets.base import AbstractVectorField
from boltzflow.objectives.base import AbstractObjective, Needs, Proposal
from boltzflow.objectives.flow_matching import centred_normal
from boltzflow.objectives.path_gradient import bounded, energy_of, evaluations, reverse_divergence, with_gradient


class Latents(NamedTuple):
    """Where the samples of one step come from.

    Attributes:
        prior: prior samples, (B, N, D).
    """

    prior: Float[Array | np.ndarray, "B N D"]


@dataclasses.dataclass(frozen=True)
class ReverseKL(config.ReverseKL, AbstractObjective):
    """Log q(x) + u(x) of flow samples, up to a constant: by path gradients, or through the whole map and its density.

    The energy is that of the configuration that counts for one of the flow, which may be its mirror image (`flows.images`).
    """

    needs: ClassVar[Needs] = Needs(frames=False, energy=True, gradient=True)

    def propose(self, state: Any, network: Any, frames: Any, *, step: int, key: Any = None) -> Proposal:
        """Draws prior samples on the host; they depend on the seed and the step alone."""
        flow, size = self.setting.flow, self.setting.batch_size
        prior = centred_normal(self.setting.rng(5, step), (size, self.setting.target.n_particles, flow.dimension), precision_of(flow))
        return Proposal(state, Latents(prior), evaluations=evaluations("reverse", size))

    def losses(self, field: AbstractVectorField, batch: Latents) -> Float[Array, " B"]:
        """Divergence of each sample up to a constant, with a gradient by the estimator that was chosen."""
        estimate = self._by_path if self.estimator == "path-gradient" else self._through_the_map
        return jax.vmap(lambda latent: estimate(field, latent))(jnp.asarray(batch.prior))

    def _energy(self, x: Float[Array, "N D"]) -> Float[Array, ""]:
        return energy_of(self.setting, x)

    def _by_path(self, field: AbstractVectorField, latent: Float[Array, "N D"]) -> Float[Array, ""]:
        return reverse_divergence(field, latent, self._energy, nodes=self.nodes, grading=self.grading, clip=self.clip)

    def _through_the_map(self, field: AbstractVectorField, latent: Float[Array, "N D"]) -> Float[Array, ""]:
        end, change, _ = quadrature.transport(field, latent, self.nodes, grading=self.grading, recompute=True)
        u, gradient = jax.value_and_grad(self._energy)(jax.lax.stop_gradient(end))
        return with_gradient(u, bounded(gradient, self.clip), end) - 0.5 * jnp.sum(latent**2) - change


def precision_of(flow: AbstractFlow) -> np.dtype:
    """Type of the numbers of a flow's parameters."""
    return np.dtype(jnp.result_type(*jax.tree.leaves(eqx.filter(flow.network, eqx.is_inexact_array))))
