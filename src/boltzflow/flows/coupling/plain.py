"""The baseline without equivariance: affine coupling in raw coordinates, given by a transformer over particles.

Source: the non-equivariant flow of Midgley, Stimper et al., NeurIPS 2023, arXiv:2308.10364, appendix C. Rotations are learned from
data that are rotated at random, translations are taken out by centring, and permutations of one type are a symmetry of the transformer.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from boltzflow.nets.mlp import Dense, normalized, positive, silu
from boltzflow.nets.stacking import stacked


class TransformerLayer(eqx.Module):
    """Self-attention and a node-wise network, each added to what it reads (with layer norm before it)."""

    query_key_value: Dense
    mix: Dense
    hidden: Dense
    out: Dense
    heads: int = eqx.field(static=True)

    def __init__(self, features: int, heads: int, *, key: PRNGKeyArray) -> None:
        """Layer of the given width."""
        keys = jax.random.split(key, 4)
        self.query_key_value = Dense(features, 3 * features, key=keys[0])
        self.mix = Dense(features, features, key=keys[1])
        self.hidden = Dense(features, 2 * features, key=keys[2])
        self.out = Dense(2 * features, features, key=keys[3])
        self.heads = heads

    def __call__(self, tokens: Float[Array, "N F"]) -> Float[Array, "N F"]:
        """New tokens."""
        n = tokens.shape[0]
        query, key, value = jnp.moveaxis(self.query_key_value(normalized(tokens)).reshape(n, 3, self.heads, -1), 1, 0)
        scores = jnp.einsum("iha,jha->hij", query, key) / np.sqrt(query.shape[-1])
        seen = jnp.einsum("hij,jha->iha", jax.nn.softmax(scores, axis=-1), value)
        tokens = tokens + self.mix(seen.reshape(n, -1))
        return tokens + self.out(silu(self.hidden(normalized(tokens))))


class PlainCoupling(eqx.Module):
    """Moves one group of M channels by an affine map of each coordinate, given the other group."""

    embedding: Dense
    layers: TransformerLayer
    out: Dense
    types: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, types: tuple[int, ...], dimension: int, *, pairs: int, layers: int, features: int, key: PRNGKeyArray) -> None:
        """Layer for groups of `pairs` channels; the identity at the start."""
        key_embedding, key_layers, key_out = jax.random.split(key, 3)
        self.types = types
        self.embedding = Dense(pairs * dimension + max(types) + 1, features, key=key_embedding)
        self.layers = stacked(lambda key: TransformerLayer(features, 4, key=key), layers, key=key_layers)
        self.out = jax.tree.map(jnp.zeros_like, Dense(features, 2 * pairs * dimension, key=key_out))

    def __call__(
        self, moving: Float[Array, "N M D"], given: Float[Array, "N M D"], *, inverse: bool
    ) -> tuple[Float[Array, "N M D"], Float[Array, ""], Float[Array, ""]]:
        """Moved channels, log-det and no penalty; the arguments are those of `CouplingLayer`."""
        n = given.shape[0]
        centre = jnp.mean(given, axis=0)[None]
        one_hot = jax.nn.one_hot(np.asarray(self.types), max(self.types) + 1, dtype=given.dtype)
        tokens = self.embedding(jnp.concatenate([(given - centre).reshape(n, -1), one_hot], axis=-1))
        arrays, static = eqx.partition(self.layers, eqx.is_array)

        def step(tokens: Array, layer: TransformerLayer) -> tuple[Array, None]:
            return eqx.combine(layer, static)(tokens), None

        tokens, _ = jax.lax.scan(step, tokens, arrays)
        raw = self.out(normalized(tokens)).reshape(n, 2, *moving.shape[1:])
        raw_scale, shift = raw[:, 0], raw[:, 1]
        scale = positive(raw_scale)
        log_det = jnp.sum(jnp.log(scale))
        # Relative to the given group, so that translations are a symmetry.
        moved = (moving - given - shift) / scale + given if inverse else scale * (moving - given) + given + shift
        return moved, -log_det if inverse else log_det, jnp.zeros((), moving.dtype)
