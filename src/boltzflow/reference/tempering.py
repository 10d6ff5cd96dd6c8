"""Parallel tempering with Hamiltonian Monte Carlo, many ladders of temperatures side by side.

One sweep is a few HMC steps at every temperature, turns about the bonds of a molecule that turn (`chemistry.turning`), and swaps of
neighbouring temperatures (Swendsen and Wang, 1986; Sugita and Okamoto, 1999). Chains live in coordinates with respect to an orthonormal
basis of the zero-CoM subspace, where the density has no constraint, so detailed balance is that of plain HMC.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.mcmc import hmc
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from boltzflow.chemistry.turning import Turns, turned, turns_of
from boltzflow.geometry import center_of_mass
from boltzflow.targets.base import Target


class LadderState(NamedTuple):
    """State of T temperatures × C chains in F = (N-1)·D coordinates.

    Attributes:
        coordinates: (T, C, F).
        energy: reduced energy u at the target's temperature, (T, C).
        gradient: gradient of u by the coordinates, (T, C, F).
    """

    coordinates: Float[Array, "T C F"]
    energy: Float[Array, "T C"]
    gradient: Float[Array, "T C F"]


class SweepInfo(NamedTuple):
    """What happened in a sweep.

    Attributes:
        acceptance: mean acceptance probability of the HMC steps at each temperature.
        swap: acceptance probability of the swap of temperatures t and t+1, averaged over the chains, whether or not it was tried;
            S = T - 1 of them.
        gradients: evaluations of energy and gradient by each chain at each temperature.
        turn: mean acceptance probability of the turns at each temperature; 0 without turns.
    """

    acceptance: Float[Array, " T"]
    swap: Float[Array, " S"]
    gradients: Int[Array, ""]
    turn: Float[Array, " T"]


@dataclasses.dataclass(frozen=True, eq=False)
class Ladder:
    """The sampler of one target on one ladder of temperatures.

    Attributes:
        target: the target.
        temperatures: multiples of the target's temperature, ascending from 1.
        leapfrog_steps: mean number of leapfrog steps of an HMC step; drawn anew for each, so that no trajectory length resonates.
        hmc_steps: HMC steps between swaps.
        turning: turns about bonds between swaps, if there are bonds that turn.
    """

    target: Target
    temperatures: tuple[float, ...]
    leapfrog_steps: int
    hmc_steps: int
    turning: int = 0

    @functools.cached_property
    def turns(self) -> Turns | None:
        """The turns of the molecule; None where there are none, or none are asked for."""
        molecule = self.turning and self.target.dimension == 3 and self.target.elements and self.target.bonds
        return turns_of(self.target.elements, self.target.bonds) if molecule else None

    @functools.cached_property
    def _basis(self) -> Float[np.ndarray, "K N"]:
        return center_of_mass.basis(self.target.n_particles).T

    def positions(self, coordinates: Float[Array, "... F"]) -> Float[Array, "... N D"]:
        """Zero-CoM positions of coordinates."""
        shaped = coordinates.reshape(*coordinates.shape[:-1], self.target.n_particles - 1, self.target.dimension)
        return jnp.einsum("kn,...kd->...nd", jnp.asarray(self._basis, coordinates.dtype), shaped)

    def init(self, positions: Float[Array, "T C N D"]) -> LadderState:
        """State at the given positions."""
        coordinates = self._coordinates(positions)
        energy, gradient = jax.vmap(jax.vmap(jax.value_and_grad(self._energy)))(coordinates)
        return LadderState(coordinates, energy, gradient)

    def sweep(
        self, state: LadderState, step_sizes: Float[Array, " T"], index: Int[Array, ""], *, key: PRNGKeyArray
    ) -> tuple[LadderState, SweepInfo]:
        """HMC steps and turns at every temperature, then swaps of the even or odd neighbours, in turn with `index`."""
        key_hmc, key_swap = jax.random.split(key)

        def body(state: LadderState, key: PRNGKeyArray) -> tuple[LadderState, tuple[Float[Array, " T"], Int[Array, ""]]]:
            return self._hmc_step(state, step_sizes, key=key)

        state, (acceptance, lengths) = jax.lax.scan(body, state, jax.random.split(key_hmc, self.hmc_steps))
        gradients, turn = jnp.sum(lengths), jnp.zeros(len(self.temperatures), state.energy.dtype)
        if self.turns is not None:
            # A key of its own: what has no turns draws as if there were none.
            state, accepted = jax.lax.scan(self._turn, state, jax.random.split(jax.random.fold_in(key, 2), self.turning))
            gradients, turn = gradients + self.turning, jnp.mean(accepted, axis=0)
        state, swap = self._swap(state, index % 2, key=key_swap)
        return state, SweepInfo(jnp.mean(acceptance, axis=0), swap, gradients, turn)

    def _coordinates(self, positions: Float[Array, "... N D"]) -> Float[Array, "... F"]:
        shaped = jnp.einsum("kn,...nd->...kd", jnp.asarray(self._basis, positions.dtype), positions)
        return shaped.reshape(*positions.shape[:-2], -1)

    def _turn(self, state: LadderState, key: PRNGKeyArray) -> tuple[LadderState, Float[Array, " T"]]:
        """A turn in each chain, and its mean acceptance at each temperature."""
        turns = self.turns
        assert turns is not None
        key_turn, key_accept = jax.random.split(key)
        shape, dtype = state.energy.shape, state.energy.dtype

        def propose(key: PRNGKeyArray, coordinates: Float[Array, " F"]) -> LadderState:
            new = self._coordinates(turned(turns, self.positions(coordinates), key=key))
            return LadderState(new, *jax.value_and_grad(self._energy)(new))

        proposed = jax.vmap(jax.vmap(propose))(jax.random.split(key_turn, shape), state.coordinates)
        # Where both energies are infinite their difference is NaN, and nothing moves.
        ratio = jnp.nan_to_num(jnp.exp(jnp.minimum(self._betas(dtype)[:, None] * (state.energy - proposed.energy), 0.0)))
        accept = jax.random.uniform(key_accept, shape, dtype) < ratio
        chosen = (jnp.where(accept if new.ndim == 2 else accept[..., None], new, old) for new, old in zip(proposed, state, strict=True))
        return LadderState(*chosen), jnp.mean(ratio, axis=1)

    def _energy(self, coordinates: Float[Array, " F"]) -> Float[Array, ""]:
        energy = self.target.energy(self.positions(coordinates))
        # Infinite energies are rejected by Metropolis' rule; NaN and -inf would be accepted or poison the chain.
        return jnp.where(jnp.isfinite(energy), energy, jnp.inf)

    def _hmc_step(
        self, state: LadderState, step_sizes: Float[Array, " T"], *, key: PRNGKeyArray
    ) -> tuple[LadderState, tuple[Float[Array, " T"], Int[Array, ""]]]:
        """A step of all chains, its mean acceptance at each temperature, and its leapfrog steps, one gradient each."""
        n_temperatures, n_chains, freedom = state.coordinates.shape
        dtype = state.coordinates.dtype
        # blackjax annotates scalars as Python numbers; what it takes and gives are traced arrays.
        kernel: Any = hmc.build_kernel()
        make_state: Any = hmc.HMCState
        key_length, key_jitter, key_chains = jax.random.split(key, 3)
        # One length for all chains: a length of their own would make every chain wait for the longest.
        length = jax.random.randint(key_length, (), (self.leapfrog_steps + 1) // 2, self.leapfrog_steps + self.leapfrog_steps // 2 + 1)
        jitter = jax.random.uniform(key_jitter, (n_temperatures, n_chains), dtype, minval=0.8, maxval=1.2)

        def step(
            key: PRNGKeyArray,
            coordinates: Float[Array, " F"],
            energy: Float[Array, ""],
            gradient: Float[Array, " F"],
            beta: Float[Array, ""],
            step_size: Float[Array, ""],
        ) -> tuple[Float[Array, " F"], Float[Array, ""], Float[Array, " F"], Float[Array, ""]]:
            chain = make_state(coordinates, -beta * energy, -beta * gradient)
            chain, info = kernel(key, chain, lambda y: -beta * self._energy(y), step_size, jnp.ones(freedom, dtype), length)
            return chain.position, -chain.logdensity / beta, -chain.logdensity_grad / beta, info.acceptance_rate

        over_chains = jax.vmap(step, in_axes=(0, 0, 0, 0, None, 0))
        over_ladder = jax.vmap(over_chains, in_axes=(0, 0, 0, 0, 0, 0))
        keys = jax.random.split(key_chains, (n_temperatures, n_chains))
        *new, acceptance = over_ladder(keys, *state, self._betas(dtype), step_sizes[:, None] * jitter)
        return LadderState(*new), (jnp.mean(acceptance, axis=1), length)

    def _betas(self, dtype: jnp.dtype) -> Float[Array, " T"]:
        return 1.0 / jnp.asarray(self.temperatures, dtype)

    def _swap(self, state: LadderState, parity: Int[Array, ""], *, key: PRNGKeyArray) -> tuple[LadderState, Float[Array, " S"]]:
        n_temperatures, n_chains = state.energy.shape
        betas = self._betas(state.energy.dtype)
        log_ratio = (betas[:-1] - betas[1:])[:, None] * (state.energy[:-1] - state.energy[1:])
        probability = jnp.exp(jnp.minimum(log_ratio, 0.0))
        uniform = jax.random.uniform(key, probability.shape, probability.dtype)
        tried = (jnp.arange(n_temperatures - 1) % 2 == parity)[:, None]
        accepted: Bool[Array, "S C"] = tried & (uniform < probability)
        none = jnp.zeros((1, n_chains), bool)
        up, down = (jnp.concatenate(pair).astype(int) for pair in ([accepted, none], [none, accepted]))
        source = jnp.arange(n_temperatures)[:, None] + up - down
        swapped = LadderState(
            jnp.take_along_axis(state.coordinates, source[:, :, None], axis=0),
            jnp.take_along_axis(state.energy, source, axis=0),
            jnp.take_along_axis(state.gradient, source[:, :, None], axis=0),
        )
        return swapped, jnp.mean(probability, axis=1)


class Draws(NamedTuple):
    """K draws, every `thin` sweeps.

    Attributes:
        positions: at the target's temperature, (K, C, N, D).
        energy: at the target's temperature, (K, C).
        info: per draw the means over its sweeps, (K, T) and (K, S), and their gradients in all, (K,).
    """

    positions: Float[Array, "K C N D"]
    energy: Float[Array, "K C"]
    info: SweepInfo


def advance(
    ladder: Ladder,
    state: LadderState,
    log_steps: Float[Array, " T"],
    thin: Int[Array, ""],
    gain: Float[Array, ""],
    *,
    draws: int,
    acceptance: float,
    key: PRNGKeyArray,
) -> tuple[LadderState, Float[Array, " T"], Draws]:
    """Runs `draws` times `thin` sweeps and keeps the state at the target's temperature after each.

    Warm-up and sampling are the same compiled program: with a positive gain the step sizes follow the acceptance (Robbins-Monro), with
    gain 0 they stay, and the chain is a Markov chain with the target as its stationary density.

    Returns:
        The state, the logarithms of the step sizes averaged over all sweeps, and the draws.
    """
    temperatures = len(ladder.temperatures)
    dtype = state.energy.dtype
    zeros = jnp.zeros(temperatures, dtype)
    none = SweepInfo(zeros, zeros[1:], jnp.zeros((), jnp.int32), zeros)

    def one_draw(carry: tuple, draw: Int[Array, ""]) -> tuple[tuple, Draws]:
        def one_sweep(index: Int[Array, ""], carry: tuple) -> tuple:
            state, log_steps, average, total = carry
            number = draw * thin + index
            state, info = ladder.sweep(state, jnp.exp(log_steps), number, key=jax.random.fold_in(key, number))
            log_steps = log_steps + gain * (info.acceptance - acceptance)
            return state, log_steps, average + log_steps / (draws * thin), jax.tree.map(jnp.add, total, info)

        state, log_steps, average, total = jax.lax.fori_loop(0, thin, one_sweep, (*carry, none))
        info = SweepInfo(total.acceptance / thin, total.swap / thin, total.gradients, total.turn / thin)
        return (state, log_steps, average), Draws(ladder.positions(state.coordinates[0]), state.energy[0], info)

    start = (state, log_steps, jnp.zeros_like(log_steps))
    (state, _, average), drawn = jax.lax.scan(one_draw, start, jnp.arange(draws))
    return state, average, drawn
