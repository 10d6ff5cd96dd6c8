"""Stacks of layers, through which a scan runs, and their arrays as one array.

A scan slices every array that it is given, and adds to the gradient of each: for layers of many small arrays this takes longer to compile
than what the layers do.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

Layer = TypeVar("Layer")


def stacked(make: Callable[[PRNGKeyArray], Layer], count: int, *, key: PRNGKeyArray) -> Layer:
    """Layers of one structure with fresh parameters, each array with a leading axis of their number.

    Made one after the other: random numbers under `vmap` take seconds to compile for every shape.

    Args:
        make: makes a layer from a key.
        count: number of layers.
        key: split among them.
    """
    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *[make(key) for key in jax.random.split(key, count)])


class Packed(eqx.Module):
    """The arrays of a module one after the other.

    Attributes:
        array: their elements, after the leading axes that all of them share.
        structure: the module without its arrays.
        shapes: shape of each array behind the leading axes.
    """

    array: Float[Array, "... P"]
    structure: Any = eqx.field(static=True)
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    def unpack(self) -> Any:
        """The module, its arrays with the leading axes that are left."""
        leading = self.array.shape[:-1]
        parts = jax.lax.split(self.array, [math.prod(shape) for shape in self.shapes], axis=len(leading))
        leaves = [part.reshape(*leading, *shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return jax.tree.unflatten(self.structure, leaves)


def pack(module: Any, axes: int = 1) -> Packed:
    """A stacked module with one array.

    Args:
        module: all of its leaves are arrays of one type with the same leading axes.
        axes: number of these axes.
    """
    leaves, structure = jax.tree.flatten(module)
    array = jnp.concatenate([leaf.reshape(*leaf.shape[:axes], -1) for leaf in leaves], axis=-1)
    return Packed(array, structure, tuple(leaf.shape[axes:] for leaf in leaves))


def packed_within(module: Any, kind: type, axes: int) -> Any:
    """The module with all parts of a kind packed, each by itself."""

    def found(part: Any) -> bool:
        return isinstance(part, kind)

    return jax.tree.map(lambda part: pack(part, axes) if found(part) else part, module, is_leaf=found)
