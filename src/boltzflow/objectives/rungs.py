"""What a flow is cooled with: temperatures that its weights can reach, walkers moved there, and what is kept on the way.

Temperatures are multiples of the target's, so that a configuration of reduced energy u has the density exp(-u / temperature).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from boltzflow.chemistry.amides import amide_torsions
from boltzflow.chemistry.turning import Turns, turned
from boltzflow.flows.images import volumes
from boltzflow.sampling.correct.moves import Parts, Walker, jump, walk
from boltzflow.sampling.correct.spaces import Space
from boltzflow.targets.base import DerivedEnergy, ExactValues, Target

# Halvings of the interval in which the next temperature lies.
_BISECTIONS = 40
# What the step size of the moves is fitted to, and how fast.
_ACCEPTANCE, _GAIN = 0.7, 1.5


class Choice(NamedTuple):
    """A temperature that weighted samples of a flow can stand for.

    Attributes:
        temperature: as a multiple of the target's.
        before: effective share of the samples at the temperature that the flow has learnt.
        after: at the temperature chosen.
    """

    temperature: float
    before: float
    after: float


def effective_share(log_weight: Float[np.ndarray, " n"]) -> float:
    """Kish's effective sample size as a share; 0 where no sample has weight."""
    weight = np.exp(log_weight - max(np.max(log_weight, initial=-np.inf), np.finfo(float).min))
    return float(weight.sum() ** 2 / max((weight**2).sum(), np.finfo(float).tiny) / max(len(weight), 1))


def log_weights(u: Float[np.ndarray, " n"], log_q: Float[np.ndarray, " n"], temperature: float) -> Float[np.ndarray, " n"]:
    """Log weights of samples of a flow at a temperature; -inf for those that failed or have no finite energy."""
    with np.errstate(invalid="ignore", over="ignore"):
        log_weight = -np.asarray(u, np.float64) / temperature - np.asarray(log_q, np.float64)
    return np.where(np.isfinite(u) & np.isfinite(log_weight), log_weight, -np.inf)


def entropy(u: Float[np.ndarray, " n"], log_weight: Float[np.ndarray, " n"], temperature: float) -> float:
    """Entropy in nats at a temperature, from weighted samples: <u> / temperature + log Z."""
    good = np.isfinite(log_weight)
    largest = log_weight[good].max()
    weight = np.exp(log_weight[good] - largest)
    return float((weight * u[good]).sum() / weight.sum() / temperature + largest + math.log(weight.sum() / len(u)))


def next_temperature(
    u: Float[np.ndarray, " n"],
    log_q: Float[np.ndarray, " n"],
    current: float,
    *,
    share: float,
    entropy_drop: float | None = None,
    least: int = 100,
) -> Choice:
    """The lowest temperature down to the target's that samples of a flow can stand for, at no new energy.

    Args:
        u: reduced energies of the samples.
        log_q: their log densities.
        current: the temperature that the flow has learnt.
        share: part of the effective sample size at the current temperature that must be left.
        entropy_drop: nats that the entropy may fall by; None: any.
        least: effective samples that must be left in any case; with fewer the temperature stays.

    Sources: temperature-annealed Boltzmann generators, arXiv:2501.19077; the bound on the entropy is that of constrained mass transport.
    """
    before = effective_share(log_weights(u, log_q, current))
    needed = max(share * before, least / len(u))
    now = entropy(u, log_weights(u, log_q, current), current) if before > 0.0 else 0.0

    def within(temperature: float) -> bool:
        log_weight = log_weights(u, log_q, temperature)
        if effective_share(log_weight) < needed:
            return False
        return entropy_drop is None or now - entropy(u, log_weight, temperature) <= entropy_drop

    # In the inverse temperature, by which the weights change.
    low, high = 1.0 / current, 1.0
    if current <= 1.0 or within(1.0):
        low = 1.0
    else:
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if within(1.0 / middle) else (low, middle)
    chosen = 1.0 / low
    return Choice(chosen, before, effective_share(log_weights(u, log_q, chosen)))


def permitted(target: Target, *, trans: bool) -> Callable[[Float[Array, "N D"]], Bool[Array, ""]] | None:
    """Whether a configuration has the chirality that is meant, and trans amides where they are asked for; None where all are permitted."""
    torsions = amide_torsions(target.elements, target.bonds) if trans else np.zeros((0, 4), np.int64)
    if not target.chiral_centres and not len(torsions):
        return None

    def inside(positions: Float[Array, "N D"]) -> Bool[Array, ""]:
        right = jnp.ones((), bool)
        if target.chiral_centres:
            right = jnp.all(volumes(target, positions) > 0)
        if len(torsions):
            a, b, c, d = (positions[torsions[:, column]] for column in range(4))
            axis = c - b
            first, second = jnp.cross(axis, a - b), jnp.cross(axis, d - c)
            right = right & jnp.all(jnp.sum(first * second, axis=-1) < 0)
        return right

    return inside


def walled(target: Target, *, trans: bool, temperature: float = 1.0) -> Target:
    """The target at another temperature, its energy infinite where a configuration is not permitted, so that no move goes there."""
    inside, plain = permitted(target, trans=trans), target.at_temperature(temperature)
    if inside is None:
        return plain

    def energy(positions: Float[Array, "N D"]) -> Float[Array, ""]:
        return jnp.where(inside(positions), plain.energy(positions), jnp.inf)

    return dataclasses.replace(plain, energy_function=DerivedEnergy(cast(Any, plain.energy_function), energy), exact=ExactValues())


class Moved(NamedTuple):
    """Walkers after some moves.

    Attributes:
        positions: (n, N, D) in the target's units.
        step: the step size that the acceptance suggests.
        acceptance: mean acceptance probability.
    """

    positions: Float[Array, "n N D"]
    step: Float[Array, ""]
    acceptance: Float[Array, ""]


@eqx.filter_jit
def moved(
    space: Space,
    positions: Float[Array, "n N D"],
    temperature: Float[Array, ""],
    step: Float[Array, ""],
    *,
    key: PRNGKeyArray,
    moves: int,
    leapfrog: int,
    chunk: int,
    turns: Turns | None = None,
) -> Moved:
    """Walkers moved by Hamiltonian Monte Carlo at a temperature; the step size is fitted on the way, for all together.

    Where a molecule has bonds that turn, each move is followed by a turn about one of them, which crosses the barriers of torsions.

    Args:
        space: of the target, without log q.
        positions: where they begin.
        temperature: as a multiple of the target's.
        step: step size to begin with.
        key: of the moves.
        moves: of each walker; 1 + moves · leapfrog gradients, and one more for each turn.
        leapfrog: steps of a move.
        chunk: walkers side by side.
        turns: of the molecule; None: none.
    """

    def evaluate(coordinates: Float[Array, " M"]) -> Parts:
        # With log q = 0 everywhere q^(1-b) p^b is the target at the temperature 1 / b.
        parts = space.parts(coordinates)
        return parts._replace(log_q=jnp.zeros_like(parts.log_p))

    def turn(inputs: tuple[Walker, PRNGKeyArray]) -> Walker:
        (walker, key), molecule = inputs, cast(Turns, turns)
        key_turn, key_accept = jax.random.split(key)
        proposed = space.coordinates(turned(molecule, space.positions(walker.coordinates), key=key_turn))
        return jump(evaluate, walker, 1.0 / temperature, proposed, key=key_accept)[0]

    def step_of_all(carry: tuple[Walker, Array], key: PRNGKeyArray) -> tuple[tuple[Walker, Array], Array]:
        walkers, step = carry
        masses = jnp.ones(space.size, step.dtype)
        walkers, rate = walk(evaluate, walkers, 1.0 / temperature, step, masses, moves=1, leapfrog=leapfrog, chunk=chunk, key=key)
        if turns is not None:
            keys = jax.random.split(jax.random.fold_in(key, 1), positions.shape[0])
            walkers = jax.lax.map(turn, (walkers, keys), batch_size=chunk)
        return (walkers, step * jnp.exp(_GAIN * (rate - _ACCEPTANCE))), rate

    coordinates = jax.vmap(space.coordinates)(positions)
    walkers = Walker(coordinates, jax.lax.map(evaluate, coordinates, batch_size=chunk))
    (walkers, step), rates = jax.lax.scan(step_of_all, (walkers, step), jax.random.split(key, moves))
    return Moved(space.positions(walkers.coordinates), step, jnp.mean(rates))


def space_of(flow: Any, target: Target) -> Space:
    """Coordinates of the positions alone, in units of the prior."""
    return Space(flow, target, geometric=False)
