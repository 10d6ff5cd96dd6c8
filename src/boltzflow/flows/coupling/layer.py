"""Equivariant coupling layers between two groups of position channels.

Source: Midgley, Stimper et al., NeurIPS 2023, arXiv:2308.10364, section 3.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from boltzflow.flows.coupling.projections import Projection
from boltzflow.nets.channel_egnn import ChannelEGNN, Residual
from boltzflow.nets.mlp import Dense
from boltzflow.nets.stacking import stacked


class Transformed(NamedTuple):
    """Result of a layer or a stack of them.

    Attributes:
        channels: the position channels.
        log_det: log determinant of the map.
        collinearity: penalty against degenerate frames, mean over layers.
    """

    channels: Float[Array, "N K D"]
    log_det: Float[Array, ""]
    collinearity: Float[Array, ""]


class Head(eqx.Module):
    """Invariant features of a particle to raw parameters of its transforms; zeros at the start, so that the flow is the identity."""

    first: Dense
    hidden: Residual
    out: Dense

    def __init__(self, features: int, width: int, n_out: int, *, key: PRNGKeyArray) -> None:
        """Head with two hidden layers."""
        keys = jax.random.split(key, 2)
        # The softmax over the features has a mean of 1 / features; the first map makes it order one.
        self.first = Dense(features, features, gain=features**0.5, key=keys[0])
        self.hidden = Residual(features, (width, width), key=keys[1])
        self.out = jax.tree.map(jnp.zeros_like, Dense(width, n_out, key=keys[0]))

    def __call__(self, features: Float[Array, "N H"]) -> Float[Array, "N P"]:
        """Raw parameters of each particle."""
        return self.out(self.hidden(self.first(features)))


class CouplingLayer(eqx.Module):
    """Moves one group of M channels, given the other."""

    conditioner: ChannelEGNN
    heads: Head
    projection: Projection = eqx.field(static=True)
    pairs: int = eqx.field(static=True)

    def __init__(
        self,
        types: tuple[int, ...],
        projection: Projection,
        *,
        pairs: int,
        layers: int,
        features: int,
        width: int,
        radial: int = 0,
        key: PRNGKeyArray,
    ) -> None:
        """Layer for groups of `pairs` channels; the other arguments are those of `ChannelEGNN`."""
        key_conditioner, key_heads = jax.random.split(key)
        self.projection, self.pairs = projection, pairs
        copies = projection.transforms * projection.vectors
        self.conditioner = ChannelEGNN(
            types, positions=pairs, copies=copies, layers=layers, features=features, width=width, radial=radial, key=key_conditioner
        )
        count = pairs * projection.parameters
        self.heads = stacked(lambda key: Head(features, width, count, key=key), projection.transforms, key=key_heads)

    def __call__(
        self, moving: Float[Array, "N M D"], given: Float[Array, "N M D"], *, inverse: bool
    ) -> tuple[Float[Array, "N M D"], Float[Array, ""], Float[Array, ""]]:
        """Moved channels, log-det and the penalty against collinear frames.

        Args:
            moving: channels to move.
            given: channels on which the move depends; each channel m moves relative to the given channel m.
            inverse: undo the move.
        """
        n, pairs, dimension = given.shape
        features, vectors = self.conditioner(given)
        transforms = self.projection.transforms
        vectors = jnp.moveaxis(vectors.reshape(n, pairs, transforms, self.projection.vectors, dimension), 2, 0)
        # Recomputed on the way back: the many intermediate values of splines and frames would be stored for every layer, one by one.
        moved, log_det = eqx.filter_checkpoint(CouplingLayer._transform)(self, moving, given, features, vectors, inverse=inverse)
        return moved, log_det, _collinearity_penalty(self.projection.collinearity(vectors))

    def _transform(
        self,
        moving: Float[Array, "N M D"],
        given: Float[Array, "N M D"],
        features: Array,
        vectors: Float[Array, "T N M C D"],
        *,
        inverse: bool,
    ) -> tuple[Float[Array, "N M D"], Float[Array, ""]]:
        """Moved channels and the log-det, all transforms one after the other."""
        n, pairs, _ = given.shape
        transforms = self.projection.transforms
        raw = eqx.filter_vmap(lambda head: head(features))(self.heads).reshape(transforms, n, pairs, self.projection.parameters)

        def step(z: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            z, log_det = self.projection(z, given, *inputs, inverse=inverse)
            return z, jnp.sum(log_det)

        if transforms == 1:
            return step(moving, (vectors[0], raw[0]))
        moved, log_dets = jax.lax.scan(step, moving, (vectors, raw), reverse=inverse)
        return moved, jnp.sum(log_dets)


def _collinearity_penalty(cosine: Float[Array, "..."]) -> Float[Array, ""]:
    """Mean of -ln(1 - |c|), smooth and finite where the vectors are parallel, so that these are still pushed apart."""
    return -jnp.mean(jnp.log1p(-jnp.abs(cosine) + 1e-3))
