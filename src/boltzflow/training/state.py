"""The training state and the step that advances it: one compiled function over a device mesh.

Parameters are one flat array from here on: optimiser, average and sums of gradients are then a handful of programs however many arrays the
network has, which compiles in a fraction of the time.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from boltzflow.config import TrainingConfig
from boltzflow.objectives.flow_matching import Batch
from boltzflow.training.optimisers import optimiser, schedule
from boltzflow.training.parameters import flat, with_parameters


class Objective(Protocol):
    """What is minimised."""

    def losses(self, network: Any, batch: Batch, /) -> Float[Array, " B"]:
        """Loss of each pair of a batch."""
        ...


class MedianState(NamedTuple):
    """Gradient norms of the last steps that were taken, and what is guarded by their median.

    Attributes:
        norms: ring of norms before clipping; NaN where there is none yet.
        taken: steps taken.
        optimiser: state of the optimiser.
    """

    norms: Float[Array, " 100"]
    taken: Int[Array, ""]
    optimiser: PyTree


class TrainState(NamedTuple):
    """All that changes from step to step.

    Attributes:
        step: optimiser steps done, skipped ones included: a skipped step does not hold the schedule back.
        parameters: all arrays of the network, one after the other (`flat`).
        average: exponential moving average of the parameters; the one that samples.
        optimiser: state of the optimiser; with limits by the median norm a `MedianState`.
        skipped: steps without a single finite pair, or whose gradient was far above the median, and that changed nothing.
        masked: pairs whose loss or gradient was not finite and that were left out.
    """

    step: Int[Array, ""]
    parameters: Float[Array, " P"]
    average: Float[Array, " P"]
    optimiser: PyTree
    skipped: Int[Array, ""]
    masked: Int[Array, ""]


class StepMetrics(NamedTuple):
    """Loss per pair over the pairs kept, global gradient norm before clipping, and the learning rate."""

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    learning_rate: Float[Array, ""]


StepFunction = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]

Sums = tuple[Float[Array, ""], Int[Array, ""], Float[Array, " P"]]
"""Over pairs: of the losses, of the pairs themselves, and of the gradients."""


def _initial_optimiser(network: eqx.Module, parameters: Float[Array, " P"], config: TrainingConfig) -> PyTree:
    """State of the optimiser before its first step."""
    inner = optimiser(config, network).init(parameters)
    if config.clip_median is None and config.skip_median is None:
        return inner
    return MedianState(jnp.full(100, jnp.nan, parameters.dtype), jnp.zeros((), jnp.int32), inner)


def _limited(
    gradient: Float[Array, " P"], norm: Float[Array, ""], state: MedianState, config: TrainingConfig
) -> tuple[Float[Array, " P"], Bool[Array, ""], MedianState]:
    """Gradient scaled down to `clip_median` times the median norm, whether it is below `skip_median` times it, and the norms to come.

    Source: Midgley, Stimper et al., NeurIPS 2023, arXiv:2308.10364, appendix on training.
    """
    median = jnp.where(state.taken > 0, jnp.nanmedian(state.norms), jnp.inf)
    clip = jnp.inf if config.clip_median is None else config.clip_median * median
    keep = jnp.asarray(True) if config.skip_median is None else norm <= config.skip_median * median
    gradient = gradient * jnp.minimum(1.0, clip / (norm + 1e-12))
    norms = state.norms.at[state.taken % state.norms.size].set(norm)
    return gradient, keep, MedianState(norms, state.taken + 1, state.optimiser)


def refined_from(state: TrainState, network: eqx.Module, config: TrainingConfig) -> TrainState:
    """State before the first step of a refinement: the averaged parameters and a fresh optimiser; counters go on."""
    parameters, average = jnp.copy(state.average), jnp.copy(state.average)
    return state._replace(parameters=parameters, average=average, optimiser=_initial_optimiser(network, parameters, config))


def initial_state(network: eqx.Module, config: TrainingConfig) -> TrainState:
    """State before the first step."""
    # Every array has a buffer of its own, because the step donates the whole state.
    parameters, average = jnp.copy(flat(network)), jnp.copy(flat(network))
    step, skipped, masked = (jnp.zeros((), jnp.int32) for _ in range(3))
    return TrainState(step, parameters, average, _initial_optimiser(network, parameters, config), skipped, masked)


def make_step(
    network: eqx.Module, objective: Objective, config: TrainingConfig, mesh: jax.sharding.Mesh, *, begin: int = 0
) -> StepFunction:
    """The compiled training step.

    The batch is split over the axis "data" of the mesh; on each device the gradient is accumulated over microbatches that stay in the
    processor's cache. A pair whose loss or gradient is not finite costs itself alone: the step is that of the others. Which pair it is
    that spoils the gradient of its microbatch is found by going through the batch pair by pair, which is compiled when it is first needed.
    Without a single finite pair nothing changes but the counters.

    Args:
        network: gives the structure of what is trained; its parameters are taken from the state.
        objective: gives the loss of each pair.
        config: the optimiser and the loop.
        mesh: devices with one axis, "data".
        begin: step at which schedule and averaging begin.
    """
    transform, rate = optimiser(config, network), schedule(config)
    every, split = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("data")

    def chunk_loss(network: eqx.Module, batch: Batch) -> tuple[Float[Array, ""], Int[Array, ""]]:
        parts = (batch.data, batch.prior, batch.noise)
        usable = jnp.all(jnp.stack([jnp.all(jnp.isfinite(a), axis=tuple(range(1, a.ndim))) for a in map(jnp.asarray, parts)]), axis=0)
        # A masked pair must be finite too: zero times NaN in the backward pass is NaN.
        batch = jax.tree.map(lambda a: jnp.where(usable.reshape((-1,) + (1,) * (a.ndim - 1)), a, 0.5), batch)
        losses = objective.losses(network, batch)
        kept = usable & jnp.isfinite(losses)
        return jnp.sum(jnp.where(kept, losses, 0.0)), jnp.sum(kept, dtype=jnp.int32)

    def sums(parameters: Float[Array, " P"], own: Batch, size: int, *, guarded: bool) -> Sums:
        """Sums over the pairs of all devices, each of which has its own part of the batch; they exchange their sums once.

        Args:
            parameters: of the network.
            own: this device's part of the batch.
            size: pairs whose gradient is taken at once.
            guarded: leave out those whose gradient is not finite.
        """
        chunks = jax.tree.map(lambda a: a.astype(parameters.dtype).reshape(-1, size, *a.shape[1:]), own)
        unfolded = with_parameters(network, parameters)

        def accumulate(carry: Sums, part: Batch) -> tuple[Sums, None]:
            (loss, kept), gradient = eqx.filter_value_and_grad(chunk_loss, has_aux=True)(unfolded, part)
            found: Sums = (loss, kept, flat(gradient))
            if guarded:
                # Of the square, too: no square root of what overflows.
                sound = jnp.isfinite(jnp.sum(found[2] ** 2))
                found = jax.tree.map(lambda a: jnp.where(sound, a, jnp.zeros_like(a)), found)
            return jax.tree.map(jnp.add, carry, found), None

        start = (jnp.zeros((), parameters.dtype), jnp.zeros((), jnp.int32), jnp.zeros_like(parameters))
        return jax.lax.psum(jax.lax.scan(accumulate, start, chunks)[0], "data")

    # Without the check, gradients stay local until the sum at the end; with it they are summed in each chunk.
    def over_devices(size: int, *, guarded: bool) -> Callable[[Float[Array, " P"], Batch], Sums]:
        own = functools.partial(sums, size=size, guarded=guarded)
        return jax.shard_map(own, mesh=mesh, in_specs=(every, split), out_specs=every, check_vma=False)

    def taken(total: Callable[[Float[Array, " P"], Batch], Sums], state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        loss, kept, gradient = total(state.parameters, batch)
        count = jnp.maximum(kept, 1)
        loss = loss / count
        gradient = gradient / count
        norm = jnp.sqrt(jnp.sum(gradient**2))
        usable = jnp.isfinite(norm) & (kept > 0)

        inner, guard = state.optimiser, None
        if isinstance(inner, MedianState):
            gradient, below, guard = _limited(gradient, norm, inner, config)
            # The norm of a step that is left out counts, else a change for good would be left out for ever.
            guard = jax.tree.map(lambda new, old: jnp.where(usable, new, old), guard, inner)
            usable, inner = usable & below, inner.optimiser
        updates, new_inner = transform.update(gradient, inner, state.parameters)
        updates = jnp.asarray(updates)
        learning_rate = jnp.asarray(rate(state.step - begin))
        parameters = state.parameters - learning_rate.astype(updates.dtype) * updates
        # A short memory at first, so that the average forgets the initial parameters.
        decay = jnp.minimum(config.ema_decay, (1.0 + state.step - begin) / (10.0 + state.step - begin))
        average = state.average + (1.0 - decay).astype(parameters.dtype) * (parameters - state.average)
        parameters, average, new_inner = jax.tree.map(
            lambda new, old: jnp.where(usable, new, old), (parameters, average, new_inner), (state.parameters, state.average, inner)
        )
        new_optimiser = new_inner if guard is None else guard._replace(optimiser=new_inner)
        masked = state.masked + batch.time.shape[0] - kept
        skipped = state.skipped + (~usable).astype(jnp.int32)
        state = TrainState(state.step + 1, parameters, average, new_optimiser, skipped, masked)
        return state, StepMetrics(loss, norm, learning_rate)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics, Bool[Array, ""]]:
        """The step, and whether its gradient is finite; if it is not, the state is the old one."""
        after, metrics = taken(over_devices(config.microbatch, guarded=False), state, batch)
        sound = jnp.isfinite(metrics.grad_norm)
        return jax.tree.map(lambda new, old: jnp.where(sound, new, old), after, state), metrics, sound

    def pair_by_pair(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        return taken(over_devices(1, guarded=True), state, batch)

    whole, shared = (jax.sharding.NamedSharding(mesh, part) for part in (every, split))
    options: dict[str, Any] = {"donate_argnums": 0, "in_shardings": (whole, shared), "out_shardings": whole}
    quick, careful = jax.jit(step, **options), jax.jit(pair_by_pair, **options)

    def advance(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        state, metrics, sound = quick(state, batch)
        return (state, metrics) if bool(sound) else careful(state, batch)

    return advance


def place_batch(batch: Batch, mesh: jax.sharding.Mesh) -> Batch:
    """Puts a host batch on the devices of the mesh, split over the axis "data"."""
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    return jax.tree.map(lambda a: jax.device_put(np.asarray(a), sharding), batch)


def place_state(state: TrainState, mesh: jax.sharding.Mesh) -> TrainState:
    """Puts a whole copy of the state on each device of the mesh; a step that gets it elsewhere is compiled twice."""
    return jax.device_put(state, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
