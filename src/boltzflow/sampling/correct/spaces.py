"""Coordinates in which flow and target are two densities of the same space, where walkers move.

Positions have coordinates in an orthonormal basis of the zero-CoM subspace, in units of the prior. Those of an augmented flow may be
followed by the normal noise e of its copies a = x + noise · e, which has the density N(0, 1) in the target p(x) pi(a|x), whatever x is.
"""

import math
from typing import NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from boltzflow.flows.augmented import AugmentedCouplingFlow
from boltzflow.flows.base import AbstractFlow
from boltzflow.flows.images import log_images, volumes
from boltzflow.flows.status import Status
from boltzflow.geometry import center_of_mass
from boltzflow.sampling.correct.moves import Parts
from boltzflow.targets.base import Target


class Drawn(NamedTuple):
    """A draw of the flow.

    Attributes:
        coordinates: (M,).
        log_q: log density of the draw, in nats; NaN where it failed.
    """

    coordinates: Float[Array, "*p M"]
    log_q: Float[Array, "*p"]


class Space(eqx.Module):
    """Flow and target over common coordinates. A mirror image is reflected first, where the target means one enantiomer.

    Attributes:
        flow: the flow.
        target: the target.
        geometric: whether log q is computed at every point, so that walkers can move between flow and target; coordinates then hold the
            noise of copies. Else log q is known of draws alone, and walkers move at the target.
        draws: further draws of the copies that log q of a draw is averaged over, for an augmented flow that is not geometric.
        gradients: whether gradients are computed with the values.
    """

    flow: AbstractFlow
    target: Target = eqx.field(static=True)
    geometric: bool = eqx.field(static=True)
    draws: int = eqx.field(static=True, default=0)
    gradients: bool = eqx.field(static=True, default=True)

    @property
    def freedom(self) -> int:
        """Coordinates of the positions alone."""
        return self.target.degrees_of_freedom

    @property
    def size(self) -> int:
        """M."""
        return self.freedom + math.prod(self._noise_shape)

    @property
    def evaluations_of_a_draw(self) -> int:
        """Passes of the network for a draw with its log q, one for each."""
        return 1 + self.draws + int(self.geometric)

    @property
    def _copied(self) -> bool:
        return self.geometric and self.flow.noisy_draws > 0

    @property
    def _augmented(self) -> AugmentedCouplingFlow:
        return cast(AugmentedCouplingFlow, self.flow)

    @property
    def _noise_shape(self) -> tuple[int, ...]:
        return (self.target.n_particles, self._augmented.augmented, self.target.dimension) if self._copied else (0,)

    def positions(self, coordinates: Float[Array, "*p M"]) -> Float[Array, "*p N D"]:
        """Positions in the target's units."""
        shape = (*coordinates.shape[:-1], self.target.n_particles - 1, self.target.dimension)
        basis = jnp.asarray(center_of_mass.basis(self.target.n_particles), coordinates.dtype)
        return jnp.einsum("nk,...kd->...nd", basis, coordinates[..., : self.freedom].reshape(shape)) * self.flow.scale

    def coordinates(self, positions: Float[Array, "N D"]) -> Float[Array, " F"]:
        """Coordinates of positions in the target's units, without copies."""
        basis = jnp.asarray(center_of_mass.basis(self.target.n_particles), positions.dtype)
        return (basis.T @ positions / self.flow.scale).ravel()

    def channels(self, coordinates: Float[Array, " M"]) -> Float[Array, "N K D"]:
        """Positions and copies in units of the prior."""
        noise = coordinates[self.freedom :].reshape(self._noise_shape)
        return self._augmented.with_copies(self.positions(coordinates) / self.flow.scale, noise)

    def coordinates_of(self, channels: Float[Array, "N K D"]) -> Float[Array, " M"]:
        """The coordinates that `channels` makes these of."""
        noise = (channels[:, 1:] - channels[:, :1]) / self._augmented.noise
        return jnp.concatenate([self.coordinates(channels[:, 0] * self.flow.scale), noise.ravel()])

    def draw(self, *, key: PRNGKeyArray) -> Drawn:
        """A configuration of the flow, on the side of the mirror that is meant."""
        if self._copied:
            channels, log_q = self._augmented.sample_joint(key=key)
            coordinates = self.coordinates_of(channels)
            solved = jnp.isfinite(log_q)
        else:
            key, key_copies = jax.random.split(key)
            solution = self.flow.sample_and_log_prob(key=key)
            coordinates, log_q = self.coordinates(solution.positions), solution.log_q
            if self.draws:
                log_q = self._averaged(log_q[None], solution.positions, key=key_copies)
            solved = solution.status == int(Status.SOLVED)
        reflect = jnp.all(self._hands(coordinates) < 0) if self._images else jnp.zeros((), bool)
        coordinates = jnp.where(reflect, -coordinates, coordinates)
        return Drawn(coordinates, jnp.where(solved, log_q + self._images, jnp.nan))

    def density(self, coordinates: Float[Array, " F"], *, key: PRNGKeyArray) -> Float[Array, ""]:
        """Log q of positions, that of `draws` + 1 new copies where they are averaged over; NaN where it could not be computed."""
        positions = self.positions(coordinates)
        if self.flow.noisy_draws:
            return self._averaged(jnp.zeros(0, positions.dtype), positions, key=key) + self._images
        solution = self.flow.log_prob(positions, key=key)
        return jnp.where(solution.status == int(Status.SOLVED), solution.log_q + self._images, jnp.nan)

    def parts(self, coordinates: Float[Array, " M"]) -> Parts:
        """Log densities at a point, with their gradients if these are wanted; log q NaN where it is known of draws alone."""
        nowhere = jnp.zeros_like(coordinates)
        if self.gradients:
            log_p, grad_p = jax.value_and_grad(self._log_p)(coordinates)
        else:
            log_p, grad_p = self._log_p(coordinates), nowhere
        if not self.geometric:
            return Parts(log_p, jnp.full_like(log_p, jnp.nan), grad_p, nowhere)
        log_q, grad_q = jax.value_and_grad(self.log_q)(coordinates)
        return Parts(log_p, log_q, grad_p, grad_q)

    @property
    def _images(self) -> float:
        return log_images(self.flow, self.target)

    def _averaged(self, own: Float[Array, " k"], positions: Float[Array, "N D"], *, key: PRNGKeyArray) -> Float[Array, ""]:
        """Log of the mean ratio q(x, a) / pi(a|x) of the copies that a draw came with, if any, and new ones, `draws` + 1 in all."""
        count = self.draws + 1 - own.size
        every = jnp.concatenate([own, self._augmented.log_importance_ratios(positions, count=count, key=key)])
        return jax.nn.logsumexp(every) - math.log(self.draws + 1)

    def _hands(self, coordinates: Float[Array, " M"]) -> Float[Array, " c"]:
        """Volumes at the chiral centres, positive where the chirality is the one that is meant."""
        return volumes(self.target, self.positions(coordinates))

    def _log_p(self, coordinates: Float[Array, " M"]) -> Float[Array, ""]:
        energy = self.target.energy(self.positions(coordinates))
        usable: Bool[Array, ""] = jnp.isfinite(energy)
        if self.target.chiral_centres:
            usable = usable & jnp.all(self._hands(coordinates) > 0)
        noise = coordinates[self.freedom :]
        log_copies = -0.5 * jnp.sum(noise**2) - 0.5 * noise.size * math.log(2.0 * math.pi)
        # What is nowhere on the target is rejected by Metropolis' rule; NaN would poison a walker.
        return jnp.where(usable, log_copies - energy, -jnp.inf)

    def log_q(self, coordinates: Float[Array, " M"]) -> Float[Array, ""]:
        """Log density of the flow at a point, joint with that of the noise of copies."""
        if not self._copied:
            return self.flow.log_prob(self.positions(coordinates)).log_q + self._images
        flow = self._augmented
        # Per unit of the noise and not of the copies, and in the target's units.
        units = math.prod(self._noise_shape) * math.log(flow.noise) - self.freedom * math.log(flow.scale)
        return flow.joint(self.channels(coordinates)).log_q + units + self._images


def alive(log_weights: Float[Array, " P"]) -> Int[Array, ""]:
    """How many have weight."""
    return jnp.sum(jnp.isfinite(log_weights))
