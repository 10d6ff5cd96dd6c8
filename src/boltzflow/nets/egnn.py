"""E(n) equivariant graph network as a vector field (Satorras et al., 2021; Klein, Krämer and Noé, 2023)."""

from typing import NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from boltzflow.nets.base import AbstractSparseVectorField
from boltzflow.nets.mlp import TEMPERATURE_FEATURES, Dense, RadialFunctions, cutoff_envelope, sigmoid, silu, temperature_features
from boltzflow.nets.sparse import tangents_of_sums, unit_displacements
from boltzflow.nets.stacking import stacked

# The published network scales each coordinate update by 15 / layers, which lets tanh-bounded messages reach the velocities needed.
_COORDINATE_RANGE = 15.0


State = tuple[Float[Array, "N H"], Float[Array, "N D"]]
"""Features and positions of all particles."""


class EdgeGeometry(NamedTuple):
    """Edge attributes from the input positions, the same in all layers: squared distance, and a mask that removes self-edges."""

    squared: Float[Array, "..."]
    mask: Float[Array, "..."]


class Scheme(NamedTuple):
    """What the layers of a network have in common."""

    radial: RadialFunctions | None
    coordinate_range: float


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

    def edges(
        self,
        receiver: Float[Array, "... H"],
        sender: Float[Array, "... H"],
        difference: Float[Array, "... D"],
        geometry: EdgeGeometry,
        scheme: Scheme,
    ) -> tuple[Float[Array, "... H"], Float[Array, "... D"]]:
        """Messages and shifts of edges: what each brings to the sums of its receiver.

        Args:
            receiver: projection of the receiver's features.
            sender: projection of the sender's features.
            difference: present displacement of the receiver from the sender.
            geometry: what does not change from layer to layer.
            scheme: choices of the network that all layers share.
        """
        squared = jnp.sum(difference**2, axis=-1)
        distance = jnp.sqrt(squared + 1e-8)
        attributes = [squared[..., None], geometry.squared[..., None]]
        if scheme.radial is not None:
            attributes.append(scheme.radial(distance))
        hidden = receiver + sender + self.geometry(jnp.concatenate(attributes, axis=-1))
        message = silu(self.message(silu(hidden)))
        if self.gate is not None:
            message = message * sigmoid(self.gate(message))
        message = message * geometry.mask[..., None]
        shift = jnp.tanh(self.shift_out(silu(self.shift_hidden(message)))) * scheme.coordinate_range
        # Self-edges have difference zero, but an envelope must still silence messages beyond the cut-off.
        weight = shift[..., 0] * geometry.mask / (distance + 1.0)
        return message, weight[..., None] * difference

    def update(self, features: Float[Array, "N H"], messages: Float[Array, "N H"]) -> Float[Array, "N H"]:
        """New features from the sums of messages."""
        if self.feature_hidden is None or self.feature_out is None:
            return features
        inputs = jnp.concatenate([features, messages], axis=-1)
        return features + self.feature_out(silu(self.feature_hidden(inputs)))

    def __call__(self, state: State, geometry: EdgeGeometry, scheme: Scheme) -> State:
        """New features and positions of all particles."""
        features, positions = state
        receiver, sender = self.receiver(features)[:, None], self.sender(features)[None]
        messages, shifts = self.edges(receiver, sender, positions[:, None] - positions[None], geometry, scheme)
        return self.update(features, jnp.sum(messages, axis=1)), positions + jnp.sum(shifts, axis=1)


class EGNN(AbstractSparseVectorField):
    """The published vector field, with distance features and a cut-off as options.

    Fully connected unless `cutoff` is given. Edge attributes are the squared distances of the input positions in all layers. The
    velocity is the total shift of the positions minus its mean over particles.

    Example:
        >>> config = bf.ECNF(network=bf.EGNN(hidden=4, layers=1), solver=bf.GaussLegendre(nodes=2))
        >>> net = bf.flows.build_flow(config, target, 1.0, key=jax.random.key(0)).network
        >>> jax.eval_shape(net, jnp.float32(0.5), jnp.zeros((4, 2))).shape
        (4, 2)

    Attributes:
        types: type of each particle; particles of the same type are treated alike.
        layers: message-passing layers.
        cutoff: distance in units of the prior beyond which particles do not see each other; None: all see all.
        temperature: logarithm of the temperature, as a multiple of the target's; None where the field knows of none.
    """

    embedding: Dense
    body: EGNNLayer | None
    last: EGNNLayer
    radial: RadialFunctions | None
    temperature: Float[Array, ""] | None
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
        tempered: bool = False,
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
            tempered: make it a field of the temperature, too (`at`).
            key: for the initial parameters.
        """
        key_embedding, key_body, key_last = jax.random.split(key, 3)
        self.types = types
        self.layers = layers
        self.cutoff = cutoff
        self.radial = RadialFunctions(radial, reach=reach, cutoff=cutoff) if radial else None
        edge_features = 2 + radial
        self.temperature = jnp.zeros(()) if tempered else None
        self.embedding = Dense(max(types) + 2 + (TEMPERATURE_FEATURES if tempered else 0), hidden, key=key_embedding)

        def make(key: PRNGKeyArray) -> EGNNLayer:
            return EGNNLayer(hidden, edge_features, attention=attention, last=False, key=key)

        # One stacked layer that is scanned over: compile time does not grow with depth.
        self.body = stacked(make, layers - 1, key=key_body) if layers > 1 else None
        self.last = EGNNLayer(hidden, edge_features, attention=attention, last=True, key=key_last)

    @property
    def log_temperature(self) -> Float[Array, ""] | None:
        """`temperature`."""
        return self.temperature

    def at(self, log_temperature: Float[Array, ""]) -> Self:
        """The field of another temperature.

        Args:
            log_temperature: logarithm of the temperature as a multiple of the target's.
        """
        if self.temperature is None:
            return super().at(log_temperature)
        return eqx.tree_at(lambda field: field.temperature, self, jnp.asarray(log_temperature, self.temperature.dtype))

    @property
    def _scheme(self) -> Scheme:
        return Scheme(self.radial, _COORDINATE_RANGE / self.layers)

    def _embed(self, t: Float[Array, ""], positions: Float[Array, "N D"]) -> Float[Array, "N H"]:
        one_hot = jax.nn.one_hot(np.asarray(self.types), max(self.types) + 1, dtype=positions.dtype)
        inputs = [one_hot, jnp.full((len(self.types), 1), t, positions.dtype)]
        if self.temperature is not None:
            inputs += [jnp.tile(temperature_features(self.temperature).astype(positions.dtype)[None], (len(self.types), 1))]
        return self.embedding(jnp.concatenate(inputs, axis=-1))

    def _geometry(self, difference: Float[Array, "*n N D"], others: Float[Array, "*n N"]) -> EdgeGeometry:
        """Attributes of edges with these displacements; `others` is zero for self-edges."""
        squared = jnp.sum(difference**2, axis=-1)
        mask = others if self.cutoff is None else others * cutoff_envelope(jnp.sqrt(squared + 1e-8), self.cutoff)
        return EdgeGeometry(squared, mask)

    def _scan(self, body: EGNNLayer, state: State, geometry: EdgeGeometry, *, recompute: bool) -> State:
        """Applies stacked layers one after the other.

        Args:
            body: the layers.
            state: what they begin with.
            geometry: attributes of all edges.
            recompute: keep only the matrix products of a layer for a backward pass and compute the rest again, which is cheaper there
                than storing and fetching all edge features.
        """
        arrays, static = eqx.partition(body, eqx.is_array)

        def step(state: State, layer: EGNNLayer) -> tuple[State, None]:
            return eqx.combine(layer, static)(state, geometry, self._scheme), None

        kept = jax.checkpoint(step, policy=jax.checkpoint_policies.dots_saveable)
        return jax.lax.scan(kept if recompute else step, state, arrays)[0]

    def __call__(self, t: Float[Array, ""], positions: Float[Array, "N D"]) -> Float[Array, "N D"]:
        """Velocity at time t."""
        geometry = self._geometry(positions[:, None] - positions[None], 1.0 - jnp.eye(positions.shape[0], dtype=positions.dtype))
        state = (self._embed(t, positions), positions)
        if self.body is not None:
            state = self._scan(self.body, state, geometry, recompute=True)
        _, moved = self.last(state, geometry, self._scheme)
        velocity = moved - positions
        return velocity - jnp.mean(velocity, axis=0)[None]

    def velocity_and_divergence(self, t: Float[Array, ""], positions: Float[Array, "N D"]) -> tuple[Float[Array, "N D"], Float[Array, ""]]:
        """Velocity and exact divergence; the first and the last layer cost D passes each, a layer between N·D.

        A tangent e_alpha of particle k reaches only the edges of k in the first layer, and of the last layer only the edges whose
        receiver is k are asked for.

        Args:
            t: time in [0, 1].
            positions: (N, D) in units of the prior.
        """
        n, dimension = positions.shape
        others = 1.0 - jnp.eye(n, dtype=positions.dtype)
        features = self._embed(t, positions)
        difference = positions[:, None] - positions[None]
        # Axes (alpha, k), i, component.
        axes, particles = (jnp.eye(size, dtype=positions.dtype) for size in (dimension, n))
        seeds = jnp.einsum("ab,ki->akib", axes, particles).reshape(-1, n, dimension)
        if self.body is None:
            state, tangents = (features, positions), (jnp.zeros((n * dimension, *features.shape), features.dtype), seeds)
        else:
            first = jax.tree.map(lambda a: a[0] if eqx.is_array(a) else a, self.body)
            receiver, sender = first.receiver(features)[:, None], first.sender(features)[None]

            def first_edges(d: Float[Array, "N N D"]) -> tuple[Array, Array]:
                return first.edges(receiver, sender, d, self._geometry(d, others), self._scheme)

            (messages, shifts), edge_tangent = jax.linearize(first_edges, difference)
            jacobian = jax.vmap(edge_tangent)(unit_displacements(n, dimension, positions.dtype))
            message_tangents, shift_tangents = jax.tree.map(tangents_of_sums, jacobian)
            features, update_tangent = jax.linearize(lambda m: first.update(features, m), jnp.sum(messages, axis=1))
            state = (features, positions + jnp.sum(shifts, axis=1))
            tangents = (jax.vmap(update_tangent)(message_tangents), seeds + shift_tangents)

        def between(state: State, x: Float[Array, "N D"]) -> State:
            rest = jax.tree.map(lambda a: a[1:] if eqx.is_array(a) else a, self.body)
            # All tangents share one evaluation, which recomputing would repeat for each.
            return self._scan(rest, state, self._geometry(x[:, None] - x[None], others), recompute=False) if self.layers > 2 else state

        def of_receiver(k: Array, not_self: Float[Array, " N"], state: State, x: Float[Array, "N D"]) -> Float[Array, " D"]:
            features, moved = state
            geometry = self._geometry(x[k][None] - x, not_self)
            receiver, sender = self.last.receiver(features[k])[None], self.last.sender(features)
            shifts = self.last.edges(receiver, sender, moved[k][None] - moved, geometry, self._scheme)[1]
            return moved[k] + jnp.sum(shifts, axis=0) - x[k]

        state, between_tangent = jax.linearize(between, state, positions)

        def diagonal_term(
            inputs: tuple[Array, Array, tuple[Float[Array, "D N H"], Float[Array, "D N D"]], Float[Array, "D N D"]],
        ) -> tuple[Float[Array, " D"], Float[Array, ""]]:
            k, not_self, tangents, seeds = inputs
            velocity, tangent = jax.linearize(lambda s, x: of_receiver(k, not_self, s, x), state, positions)
            columns = jax.vmap(lambda state_tangent, seed: tangent(between_tangent(state_tangent, seed), seed))(tangents, seeds)
            return velocity, jnp.trace(columns)

        by_particle = jax.tree.map(lambda a: jnp.swapaxes(a.reshape(dimension, n, *a.shape[1:]), 0, 1), (tangents, seeds))
        inputs = (jnp.arange(n), others, *by_particle)
        # Layers between are dense: one particle at a time keeps their N² edges times D tangents in cache.
        velocity, terms = jax.lax.map(diagonal_term, inputs) if self.layers > 2 else jax.vmap(diagonal_term)(inputs)
        return velocity - jnp.mean(velocity, axis=0)[None], jnp.sum(terms)
