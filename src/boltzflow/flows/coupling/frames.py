"""Orthonormal frames from equivariant vectors, exact and with finite gradients where the vectors degenerate.

Where a vector vanishes or two of them are parallel no equivariant frame exists; a fixed direction takes their place. That happens with
probability zero, and keeps the transform a bijection with the reported log-det, because the frame depends on the conditioning alone.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Squared lengths below these count as zero: absolute, and as a share of the squared length before a projection.
_TINY = 1e-20
_PARALLEL = 1e-10


def unit(vector: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """The vector at length 1; the first axis where it vanishes."""
    squared = jnp.sum(vector**2, axis=-1, keepdims=True)
    axis = jnp.asarray(np.eye(vector.shape[-1])[0], vector.dtype)
    safe = jnp.where(squared > _TINY, vector, jax.lax.broadcast_to_rank(axis, vector.ndim))
    return safe / jnp.sqrt(jnp.sum(safe**2, axis=-1, keepdims=True))


def perpendicular(vector: Float[Array, "... 3"], axis: Float[Array, "... 3"]) -> Float[Array, "... 3"]:
    """Unit vector perpendicular to a unit axis, in the half-plane of the axis and the vector."""
    rest = _without(vector, axis)
    squared, whole = jnp.sum(rest**2, axis=-1, keepdims=True), jnp.sum(vector**2, axis=-1, keepdims=True)
    # The coordinate axis that is farthest from parallel to the axis.
    other = jnp.asarray(np.eye(3), vector.dtype)[jnp.argmin(jnp.abs(axis), axis=-1)]
    safe = jnp.where(squared > _TINY + _PARALLEL * whole, rest, _without(other, axis))
    # Projected twice: after once, rounding leaves a share of the axis in what is short.
    return unit(_without(unit(safe), axis))


def frame(first: Float[Array, "... D"], second: Float[Array, "... D"] | None = None) -> Float[Array, "... D D"]:
    """Orthonormal frame, its vectors as columns, from one vector in the plane and from two vectors in space.

    Right-handed, hence equivariant under rotations and not under reflections.

    Args:
        first: direction of the first column.
        second: the second column lies in the half-plane of `first` and `second` (in space only).
    """
    e1 = unit(first)
    if e1.shape[-1] == 2:
        return jnp.stack([e1, jnp.stack([-e1[..., 1], e1[..., 0]], axis=-1)], axis=-1)
    if second is None:
        raise ValueError("a frame in space takes two vectors.")
    e2 = perpendicular(second, e1)
    return jnp.stack([e1, e2, jnp.cross(e1, e2)], axis=-1)


def cosine(first: Float[Array, "... D"], second: Float[Array, "... D"]) -> Float[Array, "..."]:
    """Cosine of the angle between two vectors."""
    return jnp.sum(unit(first) * unit(second), axis=-1)


def _without(vector: Float[Array, "... D"], axis: Float[Array, "... D"]) -> Float[Array, "... D"]:
    return vector - jnp.sum(vector * axis, axis=-1, keepdims=True) * axis
