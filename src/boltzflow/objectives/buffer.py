"""A buffer of weighted points, of which heavy ones are drawn more often: what annealed importance sampling found, for many steps.

Source: the prioritised buffer of Midgley, Stimper, Simm, Schölkopf and Hernández-Lobato, ICLR 2023, arXiv:2208.01893, appendix.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray


class Items(NamedTuple):
    """Points of one pass.

    Attributes:
        coordinates: (B, M).
        log_weight: (B,); -inf for those without weight.
        log_q: (B,) log density of the flow that the weights are for.
        score: (B, M) gradient of the log density of the target; (B, 0) where nobody wants it.
    """

    coordinates: Float[Array, "B M"]
    log_weight: Float[Array, " B"]
    log_q: Float[Array, " B"]
    score: Float[Array, "B S"]


class Buffer(NamedTuple):
    """Slots for whole passes of B points, written one after the other and, when all are full, from the beginning again.

    Attributes:
        items: points in S slots; those that were never written have no weight.
        passes: that were written so far.
    """

    items: Items
    passes: Int[Array, ""]


def empty(slots: int, size: int, dtype: jnp.dtype, *, scores: bool = False) -> Buffer:
    """A buffer for `slots` points of M = `size` coordinates, with or without their scores."""
    places = jnp.zeros((slots, size), dtype)
    nothing = Items(places, jnp.full(slots, -jnp.inf, dtype), jnp.zeros(slots, dtype), jnp.zeros_like(places) if scores else places[:, :0])
    return Buffer(nothing, jnp.zeros((), jnp.int32))


def filled(buffer: Buffer, size: int) -> Int[Array, ""]:
    """Slots that were written, by passes of `size` points."""
    slots = buffer.items.log_weight.size
    return jnp.minimum(buffer.passes, slots // size) * size


def written(buffer: Buffer, fresh: Items) -> Buffer:
    """The buffer with a new pass in place of the oldest one."""
    size = fresh.log_weight.size
    at = (buffer.passes % (buffer.items.log_weight.size // size)) * size

    def put(old: Array, new: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), at, axis=0)

    return Buffer(jax.tree.map(put, buffer.items, fresh), buffer.passes + 1)


def truncated(log_weight: Float[Array, " S"], count: Int[Array, ""]) -> tuple[Float[Array, " S"], Int[Array, ""]]:
    """Weights cut at sqrt(n) times their mean, so that none of them rules the draws, and how many were cut.

    Source: Ionides, J. Comput. Graph. Stat. 17, 295 (2008).

    Args:
        log_weight: of all slots.
        count: n, slots that were written.
    """
    bound = jax.nn.logsumexp(log_weight) - 0.5 * jnp.log(jnp.maximum(count, 1).astype(log_weight.dtype))
    # Where nothing has weight the bound is -inf, and nothing is above it.
    return jnp.minimum(log_weight, bound), jnp.sum(log_weight > bound, dtype=jnp.int32)


def drawn(log_weight: Float[Array, " S"], count: int, *, key: PRNGKeyArray) -> Int[Array, " k"]:
    """Places of `count` points, none twice, in random order; the first of them is drawn by the weights, the next by those of the rest.

    Points without weight come when there are no others. By the largest of weights that are perturbed: Efraimidis and Spirakis, Inf.
    Process. Lett. 97, 181 (2006).
    """
    key_draw, key_order = jax.random.split(key)
    perturbed = log_weight + jax.random.gumbel(key_draw, log_weight.shape, log_weight.dtype)
    # The heaviest come first, and each step shall have its share of them.
    return jax.random.permutation(key_order, jax.lax.top_k(perturbed, count)[1])


def corrected(buffer: Buffer, places: Int[Array, " k"], log_q: Float[Array, " k"]) -> tuple[Buffer, Float[Array, " k"]]:
    """The buffer with the weights of some points for the flow as it is now.

    With p²/q as what is drawn from, a density of the flow that has fallen makes a point heavier.

    Args:
        buffer: the buffer.
        places: of the points.
        log_q: log density of the flow there.

    Returns:
        The buffer, and the logarithms of the factors by which the weights have changed; NaN for points that have no weight (any more).
    """
    items = buffer.items
    change = items.log_q[places] - log_q
    log_weight = items.log_weight[places] + change
    usable = jnp.isfinite(log_weight)
    items = items._replace(
        log_weight=items.log_weight.at[places].set(jnp.where(usable, log_weight, -jnp.inf)),
        log_q=items.log_q.at[places].set(jnp.where(usable, log_q, items.log_q[places])),
    )
    return buffer._replace(items=items), jnp.where(usable, change, jnp.nan)
