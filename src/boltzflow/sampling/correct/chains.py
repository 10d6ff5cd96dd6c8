"""Chains that jump to proposals of a flow and move locally in between, compiled (Gabrié, Rotskoff and Vanden-Eijnden, PNAS 119, 2022).

Each step of a chain leaves the target as it is: Hamiltonian Monte Carlo at the target; new copies a ~ pi(.|x) where the flow has some; and
a proposal of the flow, taken with probability min(1, w' / w). With K + 1 copies of each configuration, p(x) over the mean of
q(x, a_k) / pi(a_k|x) is the exact ratio w of two densities of x and all its copies, of which any may be the one that the flow drew.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from boltzflow.sampling.correct.moves import Walker, walk
from boltzflow.sampling.correct.spaces import Space


class State(NamedTuple):
    """Chains between two blocks; all that what follows depends on, as samples store it.

    Attributes:
        positions: (C, N, D) in the target's units.
        log_q: (C,) log density of the flow with the copies of the last step; counts where there are no local moves.
        stay: (C,) steps since a proposal was taken.
    """

    positions: Float[Array, "C N D"]
    log_q: Float[Array, " C"]
    stay: Int[Array, " C"]


class Block(NamedTuple):
    """K steps of C chains.

    Attributes:
        positions: (K, C, N, D) after each step.
        u: (K, C) reduced energies.
        log_q: (K, C).
        stay: (K, C).
        acceptance: mean acceptance probability of the local moves.
    """

    positions: Float[Array, "K C N D"]
    u: Float[Array, "K C"]
    log_q: Float[Array, "K C"]
    stay: Int[Array, "K C"]
    acceptance: Float[Array, ""]


@eqx.filter_jit
def advance(
    space: Space,
    state: State,
    step: Float[Array, ""],
    inverse_mass: Float[Array, ""],
    *,
    key: PRNGKeyArray,
    steps: int,
    moves: int,
    leapfrog: int,
) -> Block:
    """A block of steps of chains side by side.

    The log densities of the first configurations are computed from their positions, so that a block that begins from what is on the disk
    is the same as one that follows another.
    """
    coordinates = jax.vmap(space.coordinates)(state.positions)
    parts = jax.vmap(space.parts)(coordinates)
    walkers = Walker(coordinates, parts._replace(log_q=state.log_q))
    masses = jnp.full(space.size, inverse_mass)

    def one(carry: tuple[Walker, Array], key: PRNGKeyArray) -> tuple[tuple[Walker, Array], tuple[Array, ...]]:
        walkers, stay = carry
        key_local, key_copies, key_global = jax.random.split(key, 3)
        rate = jnp.ones((), step.dtype)
        if moves:
            chunk = walkers.coordinates.shape[0]
            options = {"moves": moves, "leapfrog": leapfrog, "chunk": chunk, "key": key_local}
            walkers, rate = walk(space.parts, walkers, jnp.ones((), step.dtype), step, masses, **options)
            log_q = jax.vmap(lambda x, key: space.density(x, key=key))(walkers.coordinates, jax.random.split(key_copies, chunk))
            walkers = walkers._replace(parts=walkers.parts._replace(log_q=log_q))
        walkers, taken = jump(space, walkers, key=key_global)
        stay = jnp.where(taken, 0, stay + 1)
        shown = space.positions(walkers.coordinates), -walkers.parts.log_p, walkers.parts.log_q, stay, rate
        return (walkers, stay), shown

    _, (positions, u, log_q, stay, rates) = jax.lax.scan(one, (walkers, state.stay), jax.random.split(key, steps))
    return Block(positions, u, log_q, stay, jnp.mean(rates))


def jump(space: Space, walkers: Walker, *, key: PRNGKeyArray) -> tuple[Walker, Array]:
    """A proposal of the flow for each walker, taken by Metropolis' rule; the walkers, and whether each took it.

    A proposal that failed or has no finite energy is not taken; neither is any where log q of the walker itself could not be computed.
    """
    count = walkers.coordinates.shape[0]
    key_draw, key_accept = jax.random.split(key)
    drawn = jax.vmap(lambda key: space.draw(key=key))(jax.random.split(key_draw, count))
    parts = jax.vmap(space.parts)(drawn.coordinates)
    proposed = Walker(drawn.coordinates, parts._replace(log_q=drawn.log_q))
    log_ratio = (parts.log_p - drawn.log_q) - (walkers.parts.log_p - walkers.parts.log_q)
    uniform = jax.random.uniform(key_accept, (count,), log_ratio.dtype, minval=jnp.finfo(log_ratio.dtype).tiny)
    # Comparisons with NaN are false.
    taken = (jnp.log(uniform) < log_ratio) & jnp.isfinite(parts.log_p) & jnp.isfinite(drawn.log_q)

    def chosen(new: Array, old: Array) -> Array:
        return jnp.where(taken.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)

    return jax.tree.map(chosen, proposed, walkers), taken
