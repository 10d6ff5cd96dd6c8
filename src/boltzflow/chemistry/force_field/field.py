"""A compiled force field: energies and forces of batches, with the batch kept last inside."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from boltzflow.chemistry.force_field.bonded import Term
from boltzflow.chemistry.force_field.geometry import Geometry

Results = TypeVar("Results")

# Configurations that are worked on together on a CPU: enough to fill vector registers, few enough for the cache.
_CHUNK = 64
# Of large molecules fewer, for each array has a number for every pair of atoms: chignolin (138 atoms, obc1, float64) takes 2.5 times as
# long with 64 as with 16, while hexa-alanine (63 atoms, 1 953 pairs) takes the same.
_CHUNK_OF_LARGE, _MANY_PAIRS = 16, 2_500


@dataclasses.dataclass(frozen=True, eq=False)
class ForceField:
    """The sum of the forces of a system.

    Attributes:
        n_particles: N.
        terms: energies of each force.
        names: names of the forces, in the same order.
    """

    n_particles: int
    terms: tuple[Term, ...]
    names: tuple[str, ...]

    def energy(self, positions: Float[Array, "N 3"]) -> Float[Array, ""]:
        """Potential energy in kJ/mol of positions in nm.

        Under `vmap` the batch is worked on as a whole. Derivatives are computed along with the energy, once: it can be differentiated
        once, in reverse mode.
        """
        return self._energy(positions)

    def energies(self, positions: Float[Array, "N 3 B"]) -> Float[Array, " B"]:
        """Potential energies in kJ/mol of a batch that is the last axis; an ordinary function of JAX, to be differentiated at will."""
        geometry = Geometry(positions)
        zero = jnp.zeros(positions.shape[2], positions.dtype)
        return sum((term(geometry) for term in self.terms), zero)

    @functools.cached_property
    def _energy(self) -> Callable[[Float[Array, "N 3"]], Float[Array, ""]]:
        single, with_gradient = _batched_last(self.energies), _batched_last(self._with_gradients)

        @jax.custom_vjp
        def energy(positions: Float[Array, "N 3"]) -> Float[Array, ""]:
            return single(positions)

        def forward(positions: Float[Array, "N 3"]) -> tuple[Float[Array, ""], Float[Array, "N 3"]]:
            return with_gradient(positions)

        def backward(gradient: Float[Array, "N 3"], cotangent: Float[Array, ""]) -> tuple[Float[Array, "N 3"]]:
            return (cotangent * gradient,)

        energy.defvjp(forward, backward)
        return energy

    def _with_gradients(self, positions: Float[Array, "N 3 B"]) -> tuple[Float[Array, " B"], Float[Array, "N 3 B"]]:
        energies, pull = jax.vjp(self.energies, positions)
        gradients = pull(jnp.ones_like(energies))[0]
        # Where atoms coincide there is no direction to go; the energy says what is wrong.
        return energies, jnp.where(jnp.isfinite(gradients), gradients, 0.0)


def _batched_last(function: Callable[[Float[Array, "N 3 B"]], Results]) -> Callable[[Float[Array, "N 3"]], Results]:
    """A function of batches that are the last axis as one of a single configuration, to which `vmap` hands whole batches.

    However many times it is mapped over, all configurations are one batch.
    """

    @jax.custom_batching.custom_vmap
    def batch(positions: Float[Array, "B N 3"]) -> Results:
        found = _in_chunks(function, jnp.moveaxis(positions, 0, -1))
        return jax.tree.map(lambda a: jnp.moveaxis(a, -1, 0), found)

    @batch.def_vmap
    def _(size: int, batched: list[bool], positions: Float[Array, "S B N 3"]) -> tuple[Results, Any]:
        found = batch(positions.reshape(-1, *positions.shape[2:]))
        shaped = jax.tree.map(lambda a: a.reshape(size, -1, *a.shape[1:]), found)
        return shaped, jax.tree.map(lambda _: True, shaped)

    def single(positions: Float[Array, "N 3"]) -> Results:
        return jax.tree.map(lambda a: a[0], batch(positions[None]))

    return single


def _in_chunks(function: Callable[[Float[Array, "N 3 B"]], Results], positions: Float[Array, "N 3 B"]) -> Results:
    """Results for a batch, a chunk at a time on a CPU."""
    n, _, size = positions.shape
    chunk = _CHUNK if n * (n - 1) // 2 <= _MANY_PAIRS else _CHUNK_OF_LARGE
    if size <= chunk or jax.default_backend() != "cpu":
        return function(positions)
    count = -(-size // chunk)
    padded = jnp.pad(positions, ((0, 0), (0, 0), (0, count * chunk - size)), mode="edge")
    parts = jnp.moveaxis(padded.reshape(*positions.shape[:2], count, chunk), 2, 0)
    found = jax.lax.map(function, parts)
    return jax.tree.map(lambda a: jnp.moveaxis(a, 0, -2).reshape(*a.shape[1:-1], -1)[..., :size], found)
