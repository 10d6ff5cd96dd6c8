"""The augmented coupling flow (E-ACF): density of positions together with noisy copies of them, in one pass either way.

Source: Midgley, Stimper et al., NeurIPS 2023, arXiv:2308.10364.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from boltzflow.flows import prior
from boltzflow.flows.coupling.layer import Block, Transformed
from boltzflow.flows.coupling.scaling import Scaling


class JointDensity(NamedTuple):
    """Log density of positions and augmented variables.

    Attributes:
        log_q: log q(x, a) in units of the prior, on the zero-CoM subspace for x times all of space for each copy.
        collinearity: penalty against degenerate frames.
    """

    log_q: Float[Array, ""]
    collinearity: Float[Array, ""]


class Stage(eqx.Module):
    """A block and the scaling on its data side."""

    scaling: Scaling | None
    block: Block

    def __call__(self, channels: Float[Array, "N K D"], *, inverse: bool) -> Transformed:
        """Towards the latent space, or back to data for `inverse`."""
        if self.scaling is None:
            return self.block(channels, inverse=inverse)
        first, second = (self.block, self.scaling) if inverse else (self.scaling, self.block)
        one = first(channels, inverse=inverse)
        two = second(one.channels, inverse=inverse)
        return Transformed(two.channels, one.log_det + two.log_det, one.collinearity + two.collinearity)


class CouplingStack(eqx.Module):
    """Stages one after the other, stacked and scanned over: compile time does not grow with depth."""

    stages: Stage

    def __call__(self, channels: Float[Array, "N K D"], *, inverse: bool) -> Transformed:
        """Towards the latent space, or back to data for `inverse`."""
        arrays, static = eqx.partition(self.stages, eqx.is_array)

        @jax.checkpoint
        def step(carry: Transformed, stage: Any) -> tuple[Transformed, None]:
            moved = eqx.combine(stage, static)(carry.channels, inverse=inverse)
            return Transformed(moved.channels, carry.log_det + moved.log_det, carry.collinearity + moved.collinearity), None

        zero = jnp.zeros((), channels.dtype)
        return jax.lax.scan(step, Transformed(channels, zero, zero), arrays, reverse=inverse)[0]


class AugmentedCouplingFlow(eqx.Module):
    """Normal prior on positions and copies, moved by equivariant coupling layers.

    Methods act on one configuration; `vmap` them. Densities of positions are on the zero-CoM subspace, in data units.

    Attributes:
        network: the coupling layers, in units of the prior.
        n_particles: N.
        dimension: D.
        augmented: copies k of the positions, an odd number.
        noise: standard deviation of a copy around the positions, in units of the prior.
        scale: one unit of the prior in data units.
    """

    network: CouplingStack
    n_particles: int = eqx.field(static=True)
    dimension: int = eqx.field(static=True)
    augmented: int = eqx.field(static=True, default=1)
    noise: float = eqx.field(static=True, default=0.1)
    scale: float = eqx.field(static=True, default=1.0)

    @property
    def _log_scale(self) -> float:
        return (self.n_particles - 1) * self.dimension * math.log(self.scale)

    def draw_copies(self, positions: Float[Array, "N D"], *, key: PRNGKeyArray) -> Float[Array, "N K D"]:
        """Positions in units of the prior with k copies drawn from pi(a | x), as channels."""
        noise = jax.random.normal(key, (self.n_particles, self.augmented, self.dimension), positions.dtype)
        return jnp.concatenate([positions[:, None], positions[:, None] + self.noise * noise], axis=1)

    def log_conditional(self, channels: Float[Array, "N K D"]) -> Float[Array, ""]:
        """Log pi(a | x): each copy is a normal around the positions, in units of the prior."""
        deviation = (channels[:, 1:] - channels[:, :1]) / self.noise
        return -0.5 * jnp.sum(deviation**2) - deviation.size * (0.5 * math.log(2.0 * math.pi) + math.log(self.noise))

    def joint(self, channels: Float[Array, "N K D"]) -> JointDensity:
        """Log q(x, a) of channels in units of the prior; the same for all places of their centre of mass."""
        moved = self.network(channels - jnp.mean(channels[:, 0], axis=0), inverse=False)
        return JointDensity(self._log_base(moved.channels) + moved.log_det, moved.collinearity)

    def sample_joint(self, *, key: PRNGKeyArray) -> tuple[Float[Array, "N K D"], Float[Array, ""]]:
        """Channels in units of the prior and their log q(x, a)."""
        key_positions, key_copies = jax.random.split(key)
        latent = self.draw_copies(prior.sample(self.n_particles, self.dimension, key=key_positions), key=key_copies)
        moved = self.network(latent, inverse=True)
        return moved.channels, self._log_base(latent) - moved.log_det

    def log_marginals(self, positions: Float[Array, "N D"], *, count: int, key: PRNGKeyArray) -> Float[Array, " K"]:
        """Log q(x, a) - log pi(a | x) for draws of a, in data units: the mean of their exponentials is q(x), without bias."""
        centred = (positions - jnp.mean(positions, axis=0)) / self.scale

        def one(key: PRNGKeyArray) -> Float[Array, ""]:
            channels = self.draw_copies(centred, key=key)
            return self.joint(channels).log_q - self.log_conditional(channels) - self._log_scale

        return jax.vmap(one)(jax.random.split(key, count))

    def _log_base(self, channels: Float[Array, "N K D"]) -> Float[Array, ""]:
        return prior.log_prob(channels[:, 0]) + self.log_conditional(channels)
