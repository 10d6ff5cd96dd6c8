"""The augmented coupling flow (E-ACF): density of positions together with noisy copies of them, in one pass either way.

Source: Midgley, Stimper et al., NeurIPS 2023, arXiv:2308.10364.
"""

import dataclasses
import math
from typing import NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from boltzflow.flows.base import AbstractFlow, FlowSolution
from boltzflow.flows.coupling.stack import CouplingStack
from boltzflow.flows.prior import Prior
from boltzflow.flows.status import Status


class JointDensity(NamedTuple):
    """Log density of positions and augmented variables.

    Example:
        >>> density = bf.flows.augmented.JointDensity(log_q=jnp.float32(-3.2), collinearity=jnp.float32(0.0))
        >>> float(density.collinearity)
        0.0

    Attributes:
        log_q: log q(x, a) in units of the prior, on the zero-CoM subspace for x times all of space for each copy.
        collinearity: penalty against degenerate frames.
    """

    log_q: Float[Array, ""]
    collinearity: Float[Array, ""]


# Pairs of particles over all configurations of a compiled call; as for continuous flows, a guess for accelerators.
_PAIRS = {"cpu": 5_000, "accelerator": 1_000_000}


class AugmentedCouplingFlow(AbstractFlow):
    """Normal or harmonic prior on positions, with noisy copies of them, moved by equivariant coupling layers.

    The density that is known in closed form is the joint one, q(x, a), of positions and copies. A sample is reweighted with it: its
    weight p(x) pi(a|x) / q(x, a) needs no density of x alone. That one is the mean of q(x, a) / pi(a|x) over draws of the copies.

    Example:
        >>> draw = jax.jit(lambda key: model.flow.sample_and_log_prob(key=key))
        >>> drawn = draw(jax.random.key(0))
        >>> drawn.positions.shape, bool(jnp.isfinite(drawn.log_q))
        ((4, 2), True)

    Attributes:
        stack: the coupling layers, in units of the prior.
        prior: density of the latent positions.
        n_particles: N.
        dimension: D.
        augmented: copies k of the positions, an odd number.
        noise: standard deviation of a copy around the positions, in units of the prior.
        scale: one unit of the prior in data units.
        marginal_draws: draws of the copies that `log_prob` averages over.
    """

    stack: CouplingStack
    prior: Prior
    n_particles: int = eqx.field(static=True)
    dimension: int = eqx.field(static=True)
    augmented: int = eqx.field(static=True, default=1)
    noise: float = eqx.field(static=True, default=0.1)
    scale: float = eqx.field(static=True, default=1.0)
    marginal_draws: int = eqx.field(static=True, default=20)

    @property
    def network(self) -> CouplingStack:
        """The coupling layers."""
        return self.stack

    def with_network(self, network: eqx.Module) -> Self:
        """The same flow with other coupling layers.

        Args:
            network: coupling layers of the same shapes.
        """
        return eqx.tree_at(lambda flow: flow.stack, self, network)

    @property
    def settings(self) -> dict[str, str]:
        """That log q of samples comes from the joint density."""
        return {"divergence": "none", "solver": f"coupling layers, joint density with {self.augmented} copies"}

    @property
    def equivariant(self) -> bool:
        """That of the layers."""
        return self.stack.equivariant

    @property
    def mirror_symmetric(self) -> bool:
        """That of the projection."""
        return self.stack.mirror_symmetric

    @property
    def noisy_draws(self) -> int:
        """Those of the copies."""
        return self.marginal_draws

    def with_draws(self, count: int) -> Self:
        """The same flow with another number of `marginal_draws`.

        Args:
            count: of draws.
        """
        return dataclasses.replace(self, marginal_draws=count)

    @property
    def chunk_size(self) -> int:
        """Configurations whose messages fit into the cache together."""
        room = _PAIRS["cpu" if jax.default_backend() == "cpu" else "accelerator"] / self.n_particles**2
        return 2 ** min(max(round(math.log2(room)), 0), 10)

    def sample_and_log_prob(self, *, key: PRNGKeyArray) -> FlowSolution:
        """Draws one configuration; its log q is log q(x, a) - log pi(a|x), with which its weight is exact.

        Args:
            key: of the random numbers.
        """
        latent, channels, log_q = self._draw(key)
        positions = channels[:, 0]
        return self._solution(latent[:, 0], positions, positions * self.scale, log_q - self.log_conditional(channels) - self._log_scale)

    def log_prob(self, positions: Float[Array, "N D"], *, key: PRNGKeyArray | None = None) -> FlowSolution:
        """Log density of a configuration in data units, from `marginal_draws` draws of the copies; below the exact one in the mean.

        Args:
            positions: (N, D) in data units.
            key: of the draws; None: always the same ones.
        """
        key = jax.random.key(0) if key is None else key
        draws = self.log_importance_ratios(positions, count=self.marginal_draws, key=key)
        log_q = jax.nn.logsumexp(draws) - math.log(self.marginal_draws)
        centred = self._centred(positions)
        latent = self.stack(self.draw_copies(centred, key=key), inverse=False).channels[:, 0]
        return self._solution(centred, latent, latent, log_q)._replace(nfe=jnp.asarray(self.marginal_draws, jnp.int32))

    def _solution(self, start: Array, end: Array, shown: Array, log_q: Array) -> FlowSolution:
        """What is told of a configuration moved from `start` to `end`."""
        finite = jnp.all(jnp.isfinite(end)) & jnp.isfinite(log_q)
        status = jnp.where(finite, int(Status.SOLVED), int(Status.NOT_FINITE)).astype(jnp.int32)
        distance = jnp.sqrt(jnp.sum((end - start) ** 2))
        return FlowSolution(shown, log_q, jnp.ones((), jnp.int32), jnp.full_like(distance, jnp.nan), distance, status)

    def draw_copies(self, positions: Float[Array, "N D"], *, key: PRNGKeyArray) -> Float[Array, "N K D"]:
        """Positions in units of the prior with k copies drawn from pi(a | x), as channels.

        Args:
            positions: (N, D) in units of the prior.
            key: of the random numbers.
        """
        return self.with_copies(positions, jax.random.normal(key, (self.n_particles, self.augmented, self.dimension), positions.dtype))

    def with_copies(self, positions: Float[Array, "N D"], noise: Float[Array, "N k D"]) -> Float[Array, "N K D"]:
        """Positions in units of the prior with the copies that standard normal noise makes of them, as channels.

        Args:
            positions: (N, D) in units of the prior.
            noise: (N, k, D) standard normal.
        """
        return jnp.concatenate([positions[:, None], positions[:, None] + self.noise * noise], axis=1)

    def log_conditional(self, channels: Float[Array, "N K D"]) -> Float[Array, ""]:
        """Log pi(a | x): each copy is a normal around the positions, in units of the prior.

        Args:
            channels: (N, K, D): the positions and K - 1 copies.
        """
        deviation = (channels[:, 1:] - channels[:, :1]) / self.noise
        return -0.5 * jnp.sum(deviation**2) - deviation.size * (0.5 * math.log(2.0 * math.pi) + math.log(self.noise))

    def joint(self, channels: Float[Array, "N K D"]) -> JointDensity:
        """Log q(x, a) of channels in units of the prior; the same for all places of their centre of mass.

        Args:
            channels: (N, K, D): the positions and K - 1 copies.
        """
        moved = self.stack(channels - jnp.mean(channels[:, 0], axis=0)[None, None], inverse=False)
        return JointDensity(self._log_base(moved.channels) + moved.log_det, moved.collinearity)

    def sample_joint(self, *, key: PRNGKeyArray) -> tuple[Float[Array, "N K D"], Float[Array, ""]]:
        """Channels in units of the prior and their log q(x, a).

        Args:
            key: of the random numbers.
        """
        return self._draw(key)[1:]

    def _draw(self, key: PRNGKeyArray) -> tuple[Float[Array, "N K D"], Float[Array, "N K D"], Float[Array, ""]]:
        """Latent channels, channels and their log q(x, a)."""
        key_positions, key_copies = jax.random.split(key)
        latent = self.draw_copies(self.prior.sample(self.n_particles, self.dimension, key=key_positions), key=key_copies)
        return latent, *self.push_forward(latent)

    def push_forward(self, latent: Float[Array, "N K D"]) -> tuple[Float[Array, "N K D"], Float[Array, ""]]:
        """Latent channels moved to data, in units of the prior, and log q(x, a) there.

        Args:
            latent: (N, K, D) in units of the prior.
        """
        moved = self.stack(latent, inverse=True)
        # From latent to data the log-det has the other sign.
        return moved.channels, self._log_base(latent) - moved.log_det

    def log_importance_ratios(self, positions: Float[Array, "N D"], *, count: int, key: PRNGKeyArray) -> Float[Array, " K"]:
        """Log q(x, a) - log pi(a | x) for draws of a, in data units: the mean of their exponentials is q(x), without bias.

        Args:
            positions: (N, D) in data units.
            count: how many draws.
            key: of the random numbers.
        """
        centred = self._centred(positions)

        def one(key: PRNGKeyArray) -> Float[Array, ""]:
            channels = self.draw_copies(centred, key=key)
            return self.joint(channels).log_q - self.log_conditional(channels) - self._log_scale

        return jax.lax.map(one, jax.random.split(key, count))

    def _log_base(self, channels: Float[Array, "N K D"]) -> Float[Array, ""]:
        return self.prior.log_prob(channels[:, 0]) + self.log_conditional(channels)
