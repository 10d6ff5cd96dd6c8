"""All parameters of a network as one flat array, and back."""

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

T = TypeVar("T")


def flat(network: PyTree) -> Float[Array, " P"]:
    """All parameters of a network (or a gradient of its form) one after the other."""
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(eqx.filter(network, eqx.is_inexact_array))])


def with_parameters(network: T, parameters: Float[Array, " P"]) -> T:
    """The network, or another pytree, with these numbers in the places of its own."""
    arrays, static = eqx.partition(network, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(arrays)
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = [parameters[end - leaf.size : end].reshape(leaf.shape) for leaf, end in zip(leaves, ends, strict=True)]
    return eqx.combine(jax.tree.unflatten(structure, parts), static)
