"""Hamiltonian Monte Carlo between a flow and its target, with blackjax's kernel.

The density at the inverse temperature b is q^(1-b) p^b, from the flow at b = 0 by the target at 1 to p²/q at 2. Its two factors are kept
apart along a trajectory, values and gradients, so that a state that is moved on at another b costs no evaluation: blackjax carries what its
integrator gives it, which here is `Parts`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.mcmc import hmc
from blackjax.mcmc.integrators import IntegratorState
from jaxtyping import Array, Float, PRNGKeyArray


class Parts(NamedTuple):
    """Log densities of target and flow at a point, and their gradients.

    Attributes:
        log_p: of the target up to log Z; -inf where there is no finite energy.
        log_q: of the flow.
        grad_p: gradient of log p by the coordinates.
        grad_q: gradient of log q.
    """

    log_p: Float[Array, "*p"]
    log_q: Float[Array, "*p"]
    grad_p: Float[Array, "*p M"]
    grad_q: Float[Array, "*p M"]


class Walker(NamedTuple):
    """A point with what is known of it.

    Attributes:
        coordinates: (M,), or (P, M) of several.
        parts: log densities there.
    """

    coordinates: Float[Array, "*p M"]
    parts: Parts


def tempered(parts: Parts, b: Float[Array, ""]) -> Float[Array, "*p"]:
    """Log of q^(1-b) p^b; -inf where it is not finite. At the target itself, b = 1, log q need not be known."""
    value = b * parts.log_p + jnp.where(b == 1.0, 0.0, (1.0 - b) * parts.log_q)
    return jnp.where(jnp.isfinite(value), value, -jnp.inf)


def slope(parts: Parts, b: Float[Array, ""]) -> Float[Array, "*p M"]:
    """Gradient of `tempered`."""
    return b * parts.grad_p + jnp.where(b == 1.0, 0.0, (1.0 - b) * parts.grad_q)


def move(
    evaluate: Callable[[Float[Array, " M"]], Parts],
    walker: Walker,
    b: Float[Array, ""],
    step: Float[Array, ""],
    inverse_mass: Float[Array, " M"],
    *,
    leapfrog: int,
    key: PRNGKeyArray,
) -> tuple[Walker, Float[Array, ""]]:
    """One step of Hamiltonian Monte Carlo that leaves q^(1-b) p^b as it is; `leapfrog` evaluations of the gradient.

    Returns:
        The walker and the acceptance probability.
    """

    def integrator(_: Any, kinetic_energy: Callable) -> Callable:
        def velocity_verlet(state: Any, step: Float[Array, ""]) -> Any:
            momentum = state.momentum + 0.5 * step * slope(state.logdensity_grad, b)
            position = state.position + step * jax.grad(kinetic_energy)(momentum)
            parts = evaluate(position)
            return make_end(position, momentum + 0.5 * step * slope(parts, b), tempered(parts, b), parts)

        return velocity_verlet

    # blackjax annotates scalars as Python numbers; what it takes and gives are traced arrays.
    kernel: Any = hmc.build_kernel(integrator)
    make_end: Any = IntegratorState
    make_state: Any = hmc.HMCState
    key_jitter, key_step = jax.random.split(key)
    # Trajectories of one length would resonate with some vibration.
    jitter = jax.random.uniform(key_jitter, (), walker.coordinates.dtype, minval=0.8, maxval=1.2)
    state = make_state(walker.coordinates, tempered(walker.parts, b), walker.parts)
    state, info = kernel(key_step, state, None, step * jitter, inverse_mass, leapfrog)
    return Walker(state.position, state.logdensity_grad), info.acceptance_rate


def jump(
    evaluate: Callable[[Float[Array, " M"]], Parts],
    walker: Walker,
    b: Float[Array, ""],
    proposed: Float[Array, " M"],
    *,
    key: PRNGKeyArray,
) -> tuple[Walker, Float[Array, ""]]:
    """A step to a point that was proposed as probably as the way back would be, or none; one evaluation.

    Returns:
        The walker and the acceptance probability.
    """
    parts = evaluate(proposed)
    # From where nothing is finite to where nothing is leads no step.
    rate = jnp.nan_to_num(jnp.exp(jnp.minimum(tempered(parts, b) - tempered(walker.parts, b), 0.0)))
    accepted = jax.random.uniform(key, (), rate.dtype) < rate
    return jax.tree.map(lambda new, old: jnp.where(accepted, new, old), Walker(proposed, parts), walker), rate


def walk(
    evaluate: Callable[[Float[Array, " M"]], Parts],
    walkers: Walker,
    b: Float[Array, ""],
    step: Float[Array, ""],
    inverse_mass: Float[Array, " M"],
    *,
    moves: int,
    leapfrog: int,
    chunk: int,
    key: PRNGKeyArray,
) -> tuple[Walker, Float[Array, ""]]:
    """Several steps of each walker, `chunk` of them side by side; the walkers and their mean acceptance probability."""

    def one(inputs: tuple[Walker, PRNGKeyArray]) -> tuple[Walker, Float[Array, ""]]:
        def body(walker: Walker, key: PRNGKeyArray) -> tuple[Walker, Float[Array, ""]]:
            return move(evaluate, walker, b, step, inverse_mass, leapfrog=leapfrog, key=key)

        walker, key = inputs
        walker, acceptance = jax.lax.scan(body, walker, jax.random.split(key, moves))
        return walker, jnp.mean(acceptance)

    if moves == 0:
        return walkers, jnp.ones((), walkers.coordinates.dtype)
    keys = jax.random.split(key, walkers.coordinates.shape[0])
    walkers, acceptance = jax.lax.map(one, (walkers, keys), batch_size=chunk)
    return walkers, jnp.mean(acceptance)
