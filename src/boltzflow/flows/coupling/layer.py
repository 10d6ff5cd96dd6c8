"""Equivariant coupling layers between two groups of position channels.

Source: Midgley, Stimper et al., NeurIPS 2023, arXiv:2308.10364, section 3.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from boltzflow.flows.coupling.plain import PlainCoupling
from boltzflow.flows.coupling.projections import Projection
from boltzflow.nets.channel_egnn import ChannelEGNN, Residual
from boltzflow.nets.mlp import Dense


class Transformed(NamedTuple):
    """Result of a layer or a stack of them.

    Attributes:
        channels: the position channels.
        log_det: log determinant of the map.
        collinearity: penalty against degenerate frames, summed over layers.
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
        key: PRNGKeyArray,
    ) -> None:
        """Layer for groups of `pairs` channels; the other arguments are those of `ChannelEGNN`."""
        key_conditioner, key_heads = jax.random.split(key)
        self.projection, self.pairs = projection, pairs
        copies = projection.transforms * projection.vectors
        self.conditioner = ChannelEGNN(
            types, positions=pairs, copies=copies, layers=layers, features=features, width=width, key=key_conditioner
        )
        make = eqx.filter_vmap(lambda key: Head(features, width, pairs * projection.parameters, key=key))
        self.heads = make(jax.random.split(key_heads, projection.transforms))

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
        raw = eqx.filter_vmap(lambda head: head(features))(self.heads).reshape(transforms, n, pairs, self.projection.parameters)

        def step(z: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            z, log_det = self.projection(z, given, *inputs, inverse=inverse)
            return z, jnp.sum(log_det)

        moved, log_dets = jax.lax.scan(step, moving, (vectors, raw), reverse=inverse)
        return moved, jnp.sum(log_dets), _collinearity_penalty(self.projection.collinearity(vectors))


def _collinearity_penalty(cosine: Float[Array, "..."]) -> Float[Array, ""]:
    """Mean of -ln(1 - |c|), smooth and finite where the vectors are parallel, so that these are still pushed apart."""
    return -jnp.mean(jnp.log1p(-jnp.abs(cosine) + 1e-3))


def split(channels: Float[Array, "N K D"]) -> tuple[Float[Array, "N M D"], Float[Array, "N M D"]]:
    """The two groups: the positions with the first augmented variables, and the rest."""
    half = channels.shape[1] // 2
    return channels[:, :half], channels[:, half:]


class Block(eqx.Module):
    """Two coupling layers: first the second group moves, then the first one.

    Each move is made in the frame of the centre of mass of the first channel that it is given, and at the end all is centred on the
    positions. From data to latent, the second group thus moves in the frame of the positions, as it is; this keeps the positions on the
    zero-CoM subspace and the log-det that of the moves. Seen so, both moves are the same program with the groups exchanged, which is
    compiled once.

    Attributes:
        layers: the layers that move the second and the first group, stacked.
    """

    layers: CouplingLayer | PlainCoupling

    def __call__(self, channels: Float[Array, "N K D"], *, inverse: bool) -> Transformed:
        """Towards the latent space, or back to data for `inverse`."""
        groups = split(channels)
        arrays, static = eqx.partition(self.layers, eqx.is_array)

        def step(groups: tuple[Array, Array], layer: CouplingLayer) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
            given, moving = groups
            centre = jnp.mean(given[:, 0], axis=0)
            given = given - centre
            moved, log_det, penalty = eqx.combine(layer, static)(moving - centre, given, inverse=inverse)
            return (moved, given), (log_det, penalty)

        # What moves last on the way to the latent space moves first on the way back.
        groups, changes = jax.lax.scan(step, groups[::-1] if inverse else groups, arrays, reverse=inverse)
        moved = jnp.concatenate(groups[::-1] if inverse else groups, axis=1)
        return Transformed(moved - jnp.mean(moved[:, 0], axis=0), *(jnp.sum(change) for change in changes))
