"""The interface of a vector field."""

import abc
from typing import Self

import equinox as eqx
from jaxtyping import Array, Float


class AbstractVectorField(eqx.Module):
    """A time-dependent velocity v(t, x) on the zero-CoM subspace.

    Every implementation is equivariant to rotations, reflections and permutations of particles of the same type, and invariant to
    translations; its velocity has zero mean over particles, so that the flow stays on the zero-CoM subspace.

    Example:
        >>> class Shrink(bf.nets.AbstractVectorField):
        ...     def __call__(self, t, positions):
        ...         return -positions
        >>> Shrink()(jnp.float32(0.5), jnp.ones((4, 2))).shape
        (4, 2)
    """

    @abc.abstractmethod
    def __call__(self, t: Float[Array, ""], positions: Float[Array, "N D"]) -> Float[Array, "N D"]:
        """Velocity of one configuration at time t in [0, 1] (0: prior, 1: data)."""

    @property
    def log_temperature(self) -> Float[Array, ""] | None:
        """Logarithm of the temperature, as a multiple of the target's, that it is the field of; None where it knows of none."""
        return None

    def at(self, log_temperature: Float[Array, ""]) -> Self:
        """The field of another temperature.

        Args:
            log_temperature: logarithm of the temperature as a multiple of the target's.

        Raises:
            ValueError: if it knows of none.
        """
        raise ValueError("this vector field knows of no temperature")


class AbstractSparseVectorField(AbstractVectorField):
    """A vector field that knows its exact divergence at the cost of a few forward passes.

    Example:
        >>> issubclass(bf.nets.TwoInteraction, bf.nets.AbstractSparseVectorField)
        True
    """

    @abc.abstractmethod
    def velocity_and_divergence(self, t: Float[Array, ""], positions: Float[Array, "N D"]) -> tuple[Float[Array, "N D"], Float[Array, ""]]:
        """Velocity and its exact divergence on the zero-CoM subspace.

        Args:
            t: time in [0, 1].
            positions: (N, D) in units of the prior.
        """
