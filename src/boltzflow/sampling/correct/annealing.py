"""Sequential Monte Carlo from a flow to its target (Del Moral, Doucet and Jasra, J. R. Stat. Soc. B 68, 411, 2006).

A population of draws of the flow is taken along the densities q^(1-b) p^b: at each b the weights are multiplied by
(p / q)^(b - previous b), the population is resampled where they are uneven, and moved. With b, step sizes and all else fixed beforehand the
mean of the weights is Z without bias for any size of the population, so that a pilot population chooses them, whose samples are left out.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from boltzflow.sampling.correct.moves import Walker, slope, walk
from boltzflow.sampling.correct.spaces import Space, alive

UNEVEN = 0.5
"""Effective sample size, as a share of the population, below which it is resampled."""

# What the pilot fits the step size to, and how fast.
_ACCEPTANCE, _GAIN = 0.75, 2.0

# Halvings of the interval in which the next b lies.
_BISECTIONS = 30


class Cloud(NamedTuple):
    """A population.

    Attributes:
        walkers: of P points.
        log_weight: (P,) such that the mean of the exponentials is Z at the end; -inf for those without weight.
    """

    walkers: Walker
    log_weight: Float[Array, " P"]


class Outcome(NamedTuple):
    """A population at the target.

    Attributes:
        positions: (P, N, D) in the target's units, in random order.
        u: (P,) reduced energies.
        log_q: (P,) log density of the flow; NaN where it is not known.
        log_weight: (P,) with the mean Z.
    """

    positions: Float[Array, "P N D"]
    u: Float[Array, " P"]
    log_q: Float[Array, " P"]
    log_weight: Float[Array, " P"]


def start(space: Space, *, size: int, chunk: int, key: PRNGKeyArray) -> Cloud:
    """Draws of the flow, at b = 0."""

    def one(key: PRNGKeyArray) -> tuple[Walker, Float[Array, ""]]:
        drawn = space.draw(key=key)
        parts = space.parts(drawn.coordinates)
        # Of a draw that failed nothing is known, even if a density can be computed where it ended.
        log_q = jnp.where(jnp.isfinite(drawn.log_q), parts.log_q, jnp.nan) if space.geometric else drawn.log_q
        usable = jnp.isfinite(log_q) & jnp.isfinite(parts.log_p)
        return Walker(drawn.coordinates, parts._replace(log_q=log_q)), jnp.where(usable, 0.0, -jnp.inf).astype(log_q.dtype)

    return Cloud(*jax.lax.map(one, jax.random.split(key, size), batch_size=chunk))


def reweighted(cloud: Cloud, change: Float[Array, ""]) -> Cloud:
    """The weights at a b that is larger by `change`; a walker without weight stays so."""
    parts = cloud.walkers.parts
    # Where b stays, log q need not be known: on the direct path it is not, once the walkers have moved.
    log_weight = cloud.log_weight + jnp.where(change > 0.0, change * (parts.log_p - parts.log_q), 0.0)
    return cloud._replace(log_weight=jnp.where(jnp.isneginf(cloud.log_weight) | ~jnp.isfinite(log_weight), -jnp.inf, log_weight))


def effective_share(log_weight: Float[Array, " P"]) -> Float[Array, ""]:
    """Kish's effective sample size as a share of the population; 0 where no walker has weight."""
    weight = jnp.exp(log_weight - jnp.maximum(jnp.max(log_weight), jnp.finfo(log_weight.dtype).min))
    return jnp.sum(weight) ** 2 / jnp.maximum(jnp.sum(weight**2), jnp.finfo(weight.dtype).tiny) / weight.size


def conditional_share(cloud: Cloud, change: Float[Array, ""]) -> Float[Array, ""]:
    """Effective share of the increments alone, weighted by what was before (Zhou, Johansen and Aston, J. Comput. Graph. Stat. 25, 2016)."""
    before, after = cloud.log_weight, reweighted(cloud, change).log_weight
    increments = jnp.where(jnp.isfinite(after), after - before, -jnp.inf)
    first = jax.nn.logsumexp(before + increments) - jax.nn.logsumexp(before)
    second = jax.nn.logsumexp(before + 2.0 * increments) - jax.nn.logsumexp(before)
    return jnp.nan_to_num(jnp.exp(2.0 * first - second), nan=0.0)


def next_b(cloud: Cloud, b: Float[Array, ""], share: Float[Array, ""]) -> Float[Array, ""]:
    """The largest b up to 1 with a conditional effective share of at least `share`, by bisection."""

    def halve(_: Int[Array, ""], ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        enough = conditional_share(cloud, middle) >= share
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    low, _ = jax.lax.fori_loop(0, _BISECTIONS, halve, (jnp.zeros_like(b), 1.0 - b))
    return jnp.where(conditional_share(cloud, 1.0 - b) >= share, 1.0, b + low)


def resampled(cloud: Cloud, *, key: PRNGKeyArray) -> tuple[Cloud, Int[Array, ""]]:
    """The population with equal weights where the weights are uneven, by systematic resampling (Kitagawa, 1996); else as it is."""
    log_weight = cloud.log_weight
    size = log_weight.size
    weight = jnp.exp(log_weight - jnp.maximum(jnp.max(log_weight), jnp.finfo(log_weight.dtype).min))
    total = jnp.cumsum(weight)
    places = (jnp.arange(size) + jax.random.uniform(key, (), weight.dtype)) / size * total[-1]
    chosen = jnp.minimum(jnp.searchsorted(total, places, side="right"), size - 1)
    # Rounding must not choose one without weight beyond the last that has some.
    chosen = jnp.minimum(chosen, size - 1 - jnp.argmax(weight[::-1] > 0))
    needed = effective_share(log_weight) < UNEVEN
    mean = jax.nn.logsumexp(log_weight) - jnp.log(size)
    others = Cloud(jax.tree.map(lambda leaf: leaf[chosen], cloud.walkers), jnp.full_like(log_weight, mean))
    return jax.tree.map(lambda new, old: jnp.where(needed, new, old), others, cloud), needed.astype(jnp.int32)


def masses_of(space: Space, cloud: Cloud, b: Float[Array, ""]) -> Float[Array, " 2"]:
    """Inverse masses of positions and copies: the mean square of the gradient is the mean curvature, and its median is safe."""
    squares = slope(cloud.walkers.parts, b) ** 2
    blocks = [squares[:, : space.freedom]] + ([squares[:, space.freedom :]] if space.size > space.freedom else [])
    curvature = jnp.stack([jnp.nanmedian(jnp.mean(block, axis=1)) for block in blocks])
    safe = 1.0 / jnp.where(jnp.isfinite(curvature) & (curvature > 0), curvature, 1.0)
    return jnp.broadcast_to(safe, (2,)) if len(blocks) == 1 else safe


def spread_masses(space: Space, masses: Float[Array, " 2"]) -> Float[Array, " M"]:
    """Inverse mass of each coordinate."""
    return jnp.where(jnp.arange(space.size) < space.freedom, masses[0], masses[1])


class Choice(NamedTuple):
    """What a stage is done with, or where the pilot begins to choose it.

    Attributes:
        b: what b becomes; where it is chosen, the present one does not matter.
        step: step size.
        masses: (2,) inverse masses of positions and copies.
    """

    b: Float[Array, ""]
    step: Float[Array, ""]
    masses: Float[Array, " 2"]


class Told(NamedTuple):
    """What is told of a stage.

    Attributes:
        choice: what it was done with, and the step size that the acceptance suggests.
        acceptance: mean acceptance probability.
        resampled: 1 if the population was resampled.
        living: walkers that have weight.
    """

    choice: Choice
    acceptance: Float[Array, ""]
    resampled: Int[Array, ""]
    living: Int[Array, ""]


@eqx.filter_jit
def begin(space: Space, size: int, chunk: int, *, key: PRNGKeyArray) -> Cloud:
    """`start`, compiled."""
    return start(space, size=size, chunk=chunk, key=key)


@eqx.filter_jit
def stage(
    space: Space,
    cloud: Cloud,
    b: Float[Array, ""],
    choice: Choice,
    share: Float[Array, ""],
    *,
    key: PRNGKeyArray,
    moves: int,
    leapfrog: int,
    chunk: int,
) -> tuple[Cloud, Told]:
    """From b to the next one; pilot and populations share the program, for gradients of log q take long to compile.

    Args:
        space: the space.
        cloud: the population at b.
        b: the present one.
        choice: what the stage is done with.
        share: 0 for this; else the conditional effective share that b is chosen by, and the masses by the gradients.
        key: of resampling and moves.
        moves: steps of Hamiltonian Monte Carlo of each walker.
        leapfrog: steps of each of them.
        chunk: walkers side by side.
    """
    key_resample, key_move = jax.random.split(key)
    following = jnp.where(share > 0.0, next_b(cloud, b, share), choice.b)
    cloud = reweighted(cloud, following - b)
    living = alive(cloud.log_weight)
    # Offspring that are not moved apart would only lose what the weights tell.
    cloud, again = resampled(cloud, key=key_resample) if moves else (cloud, jnp.zeros((), jnp.int32))
    masses = jnp.where(share > 0.0, masses_of(space, cloud, following), choice.masses)
    inverse_mass = spread_masses(space, masses)
    options = {"moves": moves, "leapfrog": leapfrog, "chunk": chunk, "key": key_move}
    walkers, rate = walk(space.parts, cloud.walkers, following, choice.step, inverse_mass, **options)
    return Cloud(walkers, cloud.log_weight), Told(
        Choice(following, choice.step * jnp.exp(_GAIN * (rate - _ACCEPTANCE)), masses), rate, again, living
    )


@eqx.filter_jit
def finish(space: Space, cloud: Cloud, *, key: PRNGKeyArray) -> Outcome:
    """What is told of a population at the target."""
    # Resampling leaves the offspring of one walker side by side; in random order any part of the population stands for it.
    order = jax.random.permutation(key, cloud.log_weight.size)
    walkers, log_weight = jax.tree.map(lambda leaf: leaf[order], (cloud.walkers, cloud.log_weight))
    noise = walkers.coordinates[:, space.freedom :]
    log_copies = -0.5 * jnp.sum(noise**2, axis=1) - 0.5 * noise.shape[1] * math.log(2.0 * math.pi)
    # Of the joint densities of an augmented flow: log q(x, a) - log pi(a|x), as samples have it.
    parts = walkers.parts
    return Outcome(space.positions(walkers.coordinates), log_copies - parts.log_p, parts.log_q - log_copies, log_weight)


def anneal(
    space: Space, stages: Sequence[Choice], *, size: int, moves: int, leapfrog: int, chunk: int, key: PRNGKeyArray
) -> tuple[Outcome, list[Told]]:
    """A population from the flow to the target with choices made beforehand; nothing is waited for in between."""
    key_start, key_stages, key_order = jax.random.split(key, 3)
    cloud, b, told = begin(space, size, chunk, key=key_start), jnp.zeros_like(stages[0].b), []
    for number, choice in enumerate(stages):
        following = jax.random.fold_in(key_stages, number)
        cloud, outcome = stage(space, cloud, b, choice, jnp.zeros_like(b), key=following, moves=moves, leapfrog=leapfrog, chunk=chunk)
        told.append(outcome)
        b = choice.b
    return finish(space, cloud, key=key_order), told
