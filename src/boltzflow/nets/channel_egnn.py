"""E(n) equivariant graph network with several position channels per particle: the conditioner of equivariant coupling layers.

Source: Midgley, Stimper et al., NeurIPS 2023, arXiv:2308.10364, appendix B; Satorras et al., 2021.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from boltzflow.nets.mlp import Dense, RadialFunctions, normalized, sigmoid, silu
from boltzflow.nets.stacking import Packed, pack, stacked

# Added to squared distances under roots.
_TINY = 1e-12

State = tuple[Float[Array, "N H"], Float[Array, "N C D"]]
"""Features and position channels of all particles."""


def of_others(values: Float[Array, "N ..."]) -> Float[Array, "N O ..."]:
    """What each particle sees of the O = N - 1 others: row i holds the values of i+1, i+2, ..., around to i-1.

    Rows of N + 1 numbers cut from copies of 0..N-1 begin one further each, so that no index is looked up, either way.
    """
    n = values.shape[0]
    copies = jnp.broadcast_to(values, (n + 1, *values.shape))
    return copies.reshape(n, n + 1, *values.shape[1:])[:, 1:n]


class Residual(eqx.Module):
    """Dense, SiLU, then residual blocks of layer norm, dense and SiLU."""

    first: Dense
    blocks: tuple[Dense, ...]

    def __init__(self, n_in: int, widths: tuple[int, ...], *, key: PRNGKeyArray) -> None:
        """Hidden layers of the given widths, which must be equal."""
        keys = jax.random.split(key, len(widths))
        self.first = Dense(n_in, widths[0], key=keys[0])
        self.blocks = tuple(Dense(widths[0], width, key=k) for width, k in zip(widths[1:], keys[1:], strict=True))

    def __call__(self, x: Float[Array, "... in"]) -> Float[Array, "... out"]:
        """Hidden features of each element."""
        return self.after(self.first(x))

    def after(self, x: Float[Array, "... out"]) -> Float[Array, "... out"]:
        """Hidden features from what the first layer gives."""
        x = silu(x)
        for block in self.blocks:
            x = x + silu(block(normalized(x)))
        return x


class ChannelLayer(eqx.Module):
    """One message-passing layer on features and position channels."""

    receiver: Dense
    sender: Dense
    distance: Dense
    message: Residual
    shift_hidden: Dense
    shift_out: Dense
    cross_hidden: Dense
    cross_out: Dense
    feature_hidden: Residual
    feature_out: Dense

    def __init__(self, features: int, channels: int, width: int, gain: float, *, radial: int, key: PRNGKeyArray) -> None:
        """Layer with messages of the given width that reads `radial` more features of each edge.

        The maps that end in shifts start at `gain` times their usual size.
        """
        keys = jax.random.split(key, 10)
        pairs = channels * (channels - 1) // 2
        self.receiver = Dense(features + pairs, width, gain=np.sqrt(0.5), key=keys[0])
        self.sender = Dense(features + pairs, width, bias=False, gain=np.sqrt(0.5), key=keys[1])
        self.distance = Dense(channels + radial, width, bias=False, gain=np.sqrt(0.5), key=keys[2])
        self.message = Residual(width, (width, width), key=keys[3])
        self.shift_hidden = Dense(width, width + 1, key=keys[4])
        self.shift_out = Dense(width, channels, bias=False, gain=gain, key=keys[5])
        self.cross_hidden = Dense(width, width, key=keys[6])
        self.cross_out = Dense(width, channels * channels, bias=False, gain=gain, key=keys[7])
        self.feature_hidden = Residual(width + features, (width, width), key=keys[8])
        self.feature_out = Dense(width, features, key=keys[9])

    def __call__(self, state: State, radial: Float[Array, "N O R"] | None) -> State:
        """New features and positions.

        Args:
            state: features and position channels.
            radial: more features of each edge, in the order of `of_others`; None: no more.
        """
        features, positions = state
        n, channels, _ = positions.shape
        between = positions[:, None] - of_others(positions)
        squared = jnp.sum(between**2, axis=-1)
        within = positions[:, :, None] - positions[:, None]
        within_squared = jnp.sum(within**2, axis=-1)
        first, second = np.triu_indices(channels, 1)
        node = jnp.concatenate([features, jnp.log1p(within_squared[:, first, second])], axis=-1)
        distances = jnp.log1p(squared)
        edge = distances if radial is None else jnp.concatenate([distances, radial], axis=-1)
        message = self.message.after(self.receiver(node)[:, None] + of_others(self.sender(node)) + self.distance(edge))
        # The gate as a column of the same product: the gradient of a map to one number alone is slow.
        hidden, gate = jnp.split(self.shift_hidden(message), [message.shape[-1]], axis=-1)
        weight = self.shift_out(silu(hidden)) / (1.0 + jnp.sqrt(squared + _TINY))
        shift = jnp.einsum("ijc,ijca->ica", weight, between) / max(n - 1, 1)
        total = jnp.sum(message, axis=1)
        cross = self.cross_out(silu(self.cross_hidden(total))).reshape(n, channels, channels) / (1.0 + jnp.sqrt(within_squared + _TINY))
        shift = shift + jnp.einsum("icd,icda->ica", cross, within) / max(channels - 1, 1)
        gated = jnp.sum(sigmoid(gate) * message, axis=1) / np.sqrt(max(n - 1, 1))
        update = self.feature_out(self.feature_hidden(jnp.concatenate([gated, features], axis=-1)))
        return features + update, positions + shift


class ChannelEGNN(eqx.Module):
    """Equivariant vectors and invariant features of every particle from several positions of each.

    Invariant under translations; equivariant under rotations, reflections and permutations of particles of one type.

    Attributes:
        layers: message-passing layers, stacked (and packed while a stack of networks is scanned).
        types: type of each particle; particles of the same type are treated alike.
        copies: channels that are made of each given position.
        radial: functions of the distances between given positions, read by every layer; None: no such functions, as published.
    """

    embedding: Dense
    layers: ChannelLayer | Packed
    types: tuple[int, ...] = eqx.field(static=True)
    copies: int = eqx.field(static=True)
    radial: RadialFunctions | None

    def __init__(
        self,
        types: tuple[int, ...],
        *,
        positions: int,
        copies: int,
        layers: int = 3,
        features: int = 128,
        width: int = 64,
        radial: int = 0,
        gain: float = 0.1,
        key: PRNGKeyArray,
    ) -> None:
        """Network that reads some positions of each particle and returns `copies` vectors for each of them.

        Args:
            types: type of each particle, numbered from 0.
            positions: given positions of each particle.
            copies: vectors per given position.
            layers: message-passing layers.
            features: invariant features of a particle.
            width: width of messages and hidden layers.
            radial: radial functions of each distance between given positions; 0: none, as published.
            gain: size of the vectors at the start; small, but large enough for frames made of their differences.
            key: for the initial parameters.
        """
        key_embedding, key_layers = jax.random.split(key)
        self.types = types
        self.copies = copies
        self.radial = RadialFunctions(radial) if radial else None
        self.embedding = Dense(max(types) + 1, features, key=key_embedding)

        def make(key: PRNGKeyArray) -> ChannelLayer:
            return ChannelLayer(features, positions * copies, width, gain, radial=positions * radial, key=key)

        self.layers = stacked(make, layers, key=key_layers)

    def __call__(self, positions: Float[Array, "N M D"]) -> tuple[Float[Array, "N H"], Float[Array, "N M V D"]]:
        """Features of each particle, normalised by a softmax, and V vectors for each of its positions."""
        n, given, dimension = positions.shape
        centred = positions - jnp.mean(positions, axis=0)[None]
        start = jnp.repeat(centred, self.copies, axis=1)
        one_hot = jax.nn.one_hot(np.asarray(self.types), max(self.types) + 1, dtype=positions.dtype)
        radial = None
        if self.radial is not None:
            between = centred[:, None] - of_others(centred)
            radial = self.radial(jnp.sqrt(jnp.sum(between**2, axis=-1) + _TINY)).reshape(n, n - 1, -1)
        layers = self.layers if isinstance(self.layers, Packed) else pack(self.layers)

        def step(state: State, layer: Packed) -> tuple[State, None]:
            return layer.unpack()(state, radial), None

        (features, end), _ = jax.lax.scan(jax.checkpoint(step), (self.embedding(one_hot), start), layers)
        return jax.nn.softmax(features, axis=-1), (end - start).reshape(n, given, self.copies, dimension)
