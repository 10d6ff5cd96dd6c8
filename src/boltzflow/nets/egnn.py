"""E(n) equivariant graph network as a vector field (Satorras et al., 2021; Klein, Krämer and Noé, 2023)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from boltzflow.nets.base import AbstractVectorField
from boltzflow.nets.mlp import Dense, RadialFunctions, cutoff_envelope

# The published network scales each coordinate update by 15 / layers, which lets tanh-bounded messages reach the velocities needed.
_COORDINATE_RANGE = 15.0


class EGNNLayer(eqx.Module):
    """One message-passing layer: messages on all edges, then shifts of positions and features.

    The first edge layer is split into per-particle projections of h_i and h_j that are added per edge, which is the same map at a
    fraction of the products.
    """

    receiver: Dense
    sender: Dense
    geometry: Dense
    message: Dense
    gate: Dense | None
    shift_hidden: Dense
    shift_out: Dense
    feature_hidden: Dense | None
    feature_out: Dense | None

    def __init__(self, hidden: int, edge_features: int, *, attention: bool, last: bool, key: PRNGKeyArray) -> None:
        """Layer of one width; the last layer has no feature update, which nothing would read."""
        keys = jax.random.split(key, 9)
        fan_in = 2 * hidden + edge_features
        share = {"n_hidden": np.sqrt(hidden / fan_in), "n_edge": np.sqrt(edge_features / fan_in)}
        self.receiver = Dense(hidden, hidden, gain=share["n_hidden"], key=keys[0])
        self.sender = Dense(hidden, hidden, bias=False, gain=share["n_hidden"], key=keys[1])
        self.geometry = Dense(edge_features, hidden, bias=False, gain=share["n_edge"], key=keys[2])
        self.message = Dense(hidden, hidden, key=keys[3])
        self.gate = Dense(hidden, 1, key=keys[4]) if attention else None
        self.shift_hidden = Dense(hidden, hidden, key=keys[5])
        self.shift_out = Dense(hidden, 1, bias=False, gain=1e-3, key=keys[6])
        self.feature_hidden = None if last else Dense(2 * hidden, hidden, key=keys[7])
        self.feature_out = None if last else Dense(hidden, hidden, key=keys[8])

    def __call__(
        self,
        features: Float[Array, "N H"],
        positions: Float[Array, "N D"],
        edges: Float[Array, "N N E"],
        mask: Float[Array, "N N"],
        radial: RadialFunctions | None,
        coordinate_range: float,
    ) -> tuple[Float[Array, "N H"], Float[Array, "N D"]]:
        """New features and positions; `edges` are the edge attributes of the input positions, `mask` removes self-edges."""
        difference = positions[:, None] - positions[None]
        squared = jnp.sum(difference**2, axis=-1)
        distance = jnp.sqrt(squared + 1e-8)
        geometry = [squared[..., None], edges]
        if radial is not None:
            geometry.append(radial(distance))
        hidden = self.receiver(features)[:, None] + self.sender(features)[None] + self.geometry(jnp.concatenate(geometry, axis=-1))
        message = jax.nn.silu(self.message(jax.nn.silu(hidden)))
        if self.gate is not None:
            message = message * jax.nn.sigmoid(self.gate(message))
        message = message * mask[..., None]
        shift = jnp.tanh(self.shift_out(jax.nn.silu(self.shift_hidden(message)))) * coordinate_range
        # Self-edges have difference zero, but an envelope must still silence messages beyond the cut-off.
        weight = shift[..., 0] * mask / (distance + 1.0)
        positions = positions + jnp.sum(weight[..., None] * difference, axis=1)
        if self.feature_hidden is not None and self.feature_out is not None:
            inputs = jnp.concatenate([features, jnp.sum(message, axis=1)], axis=-1)
            features = features + self.feature_out(jax.nn.silu(self.feature_hidden(inputs)))
        return features, positions


class EGNN(AbstractVectorField):
    """The published vector field, with distance features and a cut-off as options.

    Fully connected unless `cutoff` is given. Edge attributes are the squared distances of the input positions in all layers. The
    velocity is the total shift of the positions minus its mean over particles.

    Attributes:
        types: type of each particle; particles of the same type are treated alike.
        scale: one unit of the prior in units of the data; the cut-off is a length in data units.
    """

    embedding: Dense
    body: EGNNLayer | None
    last: EGNNLayer
    radial: RadialFunctions | None
    types: tuple[int, ...] = eqx.field(static=True)
    layers: int = eqx.field(static=True)
    cutoff: float | None = eqx.field(static=True)

    def __init__(
        self,
        types: tuple[int, ...],
        *,
        layers: int = 3,
        hidden: int = 32,
        attention: bool = True,
        radial: int = 0,
        reach: float = 6.0,
        cutoff: float | None = None,
        key: PRNGKeyArray,
    ) -> None:
        """Network with `layers` message-passing layers of width `hidden`.

        Args:
            types: type of each particle, numbered from 0.
            layers: message-passing layers, at least 1.
            hidden: width of features and messages.
            attention: gate each message by a learned sigmoid.
            radial: Gaussian radial functions of the current distance added to the edge features; 0: none, as published.
            reach: distance in units of the prior of the last radial function.
            cutoff: distance in units of the prior beyond which particles do not see each other.
            key: for the initial parameters.
        """
        key_embedding, key_body, key_last = jax.random.split(key, 3)
        self.types = types
        self.layers = layers
        self.cutoff = cutoff
        self.radial = RadialFunctions(radial, reach=reach, cutoff=cutoff) if radial else None
        edge_features = 2 + radial
        self.embedding = Dense(max(types) + 2, hidden, key=key_embedding)

        def make(key: PRNGKeyArray) -> EGNNLayer:
            return EGNNLayer(hidden, edge_features, attention=attention, last=False, key=key)

        # One stacked layer that is scanned over: compile time does not grow with depth.
        self.body = eqx.filter_vmap(make)(jax.random.split(key_body, layers - 1)) if layers > 1 else None
        self.last = EGNNLayer(hidden, edge_features, attention=attention, last=True, key=key_last)

    def __call__(self, t: Float[Array, ""], positions: Float[Array, "N D"]) -> Float[Array, "N D"]:
        """Velocity at time t."""
        n = positions.shape[0]
        one_hot = jax.nn.one_hot(np.asarray(self.types), max(self.types) + 1, dtype=positions.dtype)
        time = jnp.full((n, 1), t, positions.dtype)
        features = self.embedding(jnp.concatenate([one_hot, time], axis=-1))
        difference = positions[:, None] - positions[None]
        squared = jnp.sum(difference**2, axis=-1)
        mask = 1.0 - jnp.eye(n, dtype=positions.dtype)
        if self.cutoff is not None:
            mask = mask * cutoff_envelope(jnp.sqrt(squared + 1e-8), self.cutoff)
        edges = squared[..., None]
        coordinate_range = _COORDINATE_RANGE / self.layers
        state = (features, positions)
        if self.body is not None:
            arrays, static = eqx.partition(self.body, eqx.is_array)

            def step(state: tuple[Array, Array], layer: EGNNLayer) -> tuple[tuple[Array, Array], None]:
                layer = eqx.combine(layer, static)
                return layer(*state, edges, mask, self.radial, coordinate_range), None

            # Recomputing a layer in the backward pass is cheaper here than storing and fetching its edge features.
            state, _ = jax.lax.scan(jax.checkpoint(step), state, arrays)
        _, moved = self.last(*state, edges, mask, self.radial, coordinate_range)
        velocity = moved - positions
        return velocity - jnp.mean(velocity, axis=0)
