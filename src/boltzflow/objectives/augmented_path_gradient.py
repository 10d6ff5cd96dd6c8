"""Refinement of a trained augmented coupling flow by path gradients: forces teach it what draws of frames and copies leave to chance.

Sources: Vaitl, Winkler, Richter and Kessel, ICLR 2024, arXiv:2403.15881, here for the joint density of positions and copies (Midgley,
Stimper et al., NeurIPS 2023, arXiv:2308.10364).
"""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from boltzflow.config import RefinementConfig
from boltzflow.flows.augmented import AugmentedCouplingFlow
from boltzflow.flows.coupling import CouplingStack
from boltzflow.objectives.flow_matching import Batch
from boltzflow.objectives.path_gradient import bounded, with_gradient


@dataclasses.dataclass(frozen=True)
class AugmentedPathGradient:
    """Path gradients of KL(q|p) over flow samples, of KL(p|q) over reference frames, or of their mean.

    The densities are joint ones, q(x, a) and p(x) pi(a|x).

    Attributes:
        options: the refinement's configuration; it has no use for nodes.
        energy: reduced energy of one configuration in data units; of the configuration that counts for one of the flow, which may be its
            mirror image (`flows.images.energy_that_counts`).
        flow: the flow; its coupling layers are those given to `losses`.
    """

    options: RefinementConfig
    energy: Callable[[Float[Array, "N D"]], Float[Array, ""]]
    flow: AugmentedCouplingFlow

    def prepare(self, frames: Float[np.ndarray, "n N D"], *, seed: int, step: int) -> Batch:
        """Draws latent positions, frames and the noise of the copies of both; they depend on `seed` and `step` alone.

        Args:
            frames: data in units of the prior, centred.
            seed: seed of the run.
            step: number of the step, counted from the beginning of the run.
        """
        rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 4, step]))
        size, (n, dimension) = self.options.batch_size, frames.shape[1:]
        data = frames[rng.integers(len(frames), size=size)]
        keys = jax.random.split(jax.random.key(int(rng.integers(2**31))), size)
        prior = np.asarray(jax.vmap(lambda key: self.flow.prior.sample(n, dimension, key=key))(keys), data.dtype)
        noise = rng.standard_normal((size, n, 2 * self.flow.augmented, dimension), dtype=data.dtype.type)
        return Batch(prior, data, np.zeros(size, data.dtype), noise)

    def losses(self, network: CouplingStack, batch: Batch) -> Float[Array, " B"]:
        """Divergence of each pair up to log Z, which cancels for "both", with the path gradient as its gradient."""
        flow = self.flow.with_network(network)
        precision = jnp.result_type(batch.prior, *jax.tree.leaves(eqx.filter(network, eqx.is_inexact_array)))
        latents, frames, noise = (jnp.asarray(part, precision) for part in (batch.prior, batch.data, batch.noise))
        parts = []
        if self.options.divergence in ("reverse", "both"):
            parts.append(jax.vmap(lambda x, e: self._reverse(flow, x, e))(latents, noise[:, :, flow.augmented :]))
        if self.options.divergence in ("forward", "both"):
            parts.append(jax.vmap(lambda x, e: self._forward(flow, x, e))(frames, noise[:, :, : flow.augmented]))
        return jnp.mean(jnp.stack(parts), axis=0)

    def _reverse(self, flow: AugmentedCouplingFlow, latent: Float[Array, "N D"], noise: Float[Array, "N k D"]) -> Float[Array, ""]:
        """Log q(x, a) - log pi(a|x) + u(x) of one draw; its gradient pulls (x, a) along the difference of the two scores."""
        end = flow.push_forward(flow.with_copies(latent, noise))[0]
        frozen = _frozen(flow)
        return self._pulled(lambda channels: frozen.joint(channels).log_q - self._log_target(channels), end)

    def _forward(self, flow: AugmentedCouplingFlow, frame: Float[Array, "N D"], noise: Float[Array, "N k D"]) -> Float[Array, ""]:
        """-log q(x, a) + log pi(a|x) - u(x) of one frame and its copies.

        In the latent space the density of the target, moved by the flow, is drawn towards the prior.
        """
        end = flow.stack(flow.with_copies(frame, noise), inverse=False).channels
        frozen = _frozen(flow)

        def log_ratio(latent: Float[Array, "N K D"]) -> Float[Array, ""]:
            channels, log_q = frozen.push_forward(latent)
            return self._log_target(channels) - log_q

        return self._pulled(log_ratio, end)

    def _pulled(self, log_ratio: Callable[[Float[Array, "N K D"]], Float[Array, ""]], end: Float[Array, "N K D"]) -> Float[Array, ""]:
        """Logarithm of the ratio of two densities at `end`, with the gradient of moving `end` alone."""
        value, pull = jax.value_and_grad(log_ratio)(jax.lax.stop_gradient(end))
        return with_gradient(value, bounded(pull, self.options.clip), end)

    def _log_target(self, channels: Float[Array, "N K D"]) -> Float[Array, ""]:
        """Log p(x) pi(a|x) up to log Z, of channels in units of the prior."""
        return self.flow.log_conditional(channels) - self.energy(channels[:, 0] * self.flow.scale)


def _frozen(flow: AugmentedCouplingFlow) -> AugmentedCouplingFlow:
    """The same flow, whose parameters no gradient reaches."""
    return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf, flow)
