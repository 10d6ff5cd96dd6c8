"""What all flows have in common."""

import abc
from typing import NamedTuple, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from boltzflow.errors import ConfigError


class FlowSolution(NamedTuple):
    """A configuration carried through the flow, one way or the other.

    Example:
        >>> drawn = jax.eval_shape(lambda key: model.flow.sample_and_log_prob(key=key), jax.random.key(0))
        >>> drawn.positions.shape, drawn.log_q.shape
        ((4, 2), ())

    Attributes:
        positions: the end point, (N, D): a sample in data units, or the latent configuration in units of the prior.
        log_q: log density of the configuration in data units on the zero-CoM subspace. Of an augmented flow it is a draw whose
            exponential has the density as its mean (`AugmentedCouplingFlow`).
        nfe: evaluations of the network.
        path_length: length of the path x(t) in units of the prior; NaN where there is no path.
        distance: straight distance between its ends in units of the prior.
        status: a `Status` as a number, 0 for success.
    """

    positions: Float[Array, "N D"]
    log_q: Float[Array, ""]
    nfe: Int[Array, ""]
    path_length: Float[Array, ""]
    distance: Float[Array, ""]
    status: Int[Array, ""]


class AbstractFlow(eqx.Module):
    """An invertible map from a prior to configurations of N particles in D dimensions.

    Methods act on one configuration; `vmap` them. All densities are on the zero-CoM subspace, in data units.

    Example:
        >>> isinstance(model.flow, bf.flows.AbstractFlow)
        True

    Attributes:
        n_particles: N.
        dimension: D.
        scale: one unit of the prior in data units.
    """

    n_particles: eqx.AbstractVar[int]
    dimension: eqx.AbstractVar[int]
    scale: eqx.AbstractVar[float]

    @property
    @abc.abstractmethod
    def network(self) -> eqx.Module:
        """What is trained, in units of the prior."""

    @abc.abstractmethod
    def with_network(self, network: eqx.Module) -> Self:
        """The same flow with another network.

        Args:
            network: of the same shapes.
        """

    @property
    @abc.abstractmethod
    def settings(self) -> dict[str, str]:
        """How log q is computed, in words; stored with samples."""

    @property
    def equivariant(self) -> bool:
        """Whether the density is the same for a configuration and all its rotations."""
        return True

    @property
    def unsaid(self) -> str:
        """Settings that decide log q and that `settings` leaves out."""
        return ""

    @property
    @abc.abstractmethod
    def mirror_symmetric(self) -> bool:
        """Whether a configuration and its mirror image have the same density."""

    @property
    def noisy_draws(self) -> int:
        """How many draws `log_prob` averages over, each of them right in the mean; 0 where it takes none, the density being exact."""
        return 0

    def with_draws(self, count: int) -> Self:
        """The same flow, its `log_prob` averaging over another number of draws.

        Args:
            count: of draws.

        Raises:
            ConfigError: if it takes none.
        """
        raise ConfigError("draws are of the copies of an augmented flow, and this flow has none: its log q is no average; leave them out.")

    def finer(self) -> Self | None:
        """The same flow, its log densities computed more finely, by which their error can be measured; None where they have none."""
        return None

    @property
    def tempered(self) -> bool:
        """Whether its density is known at other temperatures than the target's (`at_temperature`)."""
        return False

    def at_temperature(self, temperature: float | Float[Array, ""]) -> Self:
        """The same flow at another temperature.

        Args:
            temperature: as a multiple of the target's.

        Raises:
            ConfigError: if it knows one temperature alone, and this is another.
        """
        if isinstance(temperature, float) and temperature == 1.0:
            return self
        raise ConfigError(
            "this flow knows the target's temperature alone; train one by cooling with flow.tempered=true, whose network knows every rung."
        )

    @property
    @abc.abstractmethod
    def chunk_size(self) -> int:
        """Configurations per compiled call: a power of two, few enough that memory grows neither with samples nor with particles."""

    @abc.abstractmethod
    def sample_and_log_prob(self, *, key: PRNGKeyArray) -> FlowSolution:
        """Draws one configuration with its log density.

        Args:
            key: of the random numbers.
        """

    @abc.abstractmethod
    def log_prob(self, positions: Float[Array, "N D"], *, key: PRNGKeyArray | None = None) -> FlowSolution:
        """Log density of a configuration in data units, its centre of mass removed first; `positions` of the result is the latent.

        Args:
            positions: (N, D) in data units.
            key: of the draws or probes of a density that is estimated; None: always the same ones.
        """

    def log_importance_ratios(self, positions: Float[Array, "N D"], *, count: int, key: PRNGKeyArray) -> Float[Array, " K"]:
        """Draws in nats, in data units, the mean of whose exponentials is the density of a configuration, without bias.

        They are all the same where the density is exact.

        Args:
            positions: (N, D) in data units.
            count: K, how many.
            key: of the random numbers.
        """
        return jnp.broadcast_to(self.log_prob(positions, key=key).log_q, (count,))

    @property
    def _log_scale(self) -> float:
        """What the unit of length adds to -log q."""
        return (self.n_particles - 1) * self.dimension * float(np.log(self.scale))

    def _centred(self, positions: Float[Array, "N D"]) -> Float[Array, "N D"]:
        """A configuration without its centre of mass, in units of the prior."""
        return (positions - jnp.mean(positions, axis=0)[None]) / self.scale
