"""The training state and the step that advances it: one compiled function over a device mesh.

Parameters are one flat array from here on: optimiser, average and sums of gradients are then a handful of programs however many arrays the
network has, which compiles in a fraction of the time.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from boltzflow import cluster
from boltzflow.config import Stage
from boltzflow.objectives.base import AbstractObjective
from boltzflow.training import transforms
from boltzflow.training.optimisers import optimiser, schedule
from boltzflow.training.parameters import flat, with_parameters


class TrainState(NamedTuple):
    """All that changes from step to step.

    Attributes:
        step: optimiser steps done in the whole run, those that were left out included.
        done: those of the present stage: a step that is left out does not hold the schedule back.
        parameters: all arrays of the network, one after the other (`flat`).
        optimiser: state of the optimiser, in which are the average that samples and the steps left out in the present stage.
        objective: what the objective keeps.
        skipped: steps left out in the stages before: those without a single finite configuration, or whose gradient was far above the
            median, and that changed nothing.
        masked: configurations whose loss or gradient was not finite and that were left out.
    """

    step: Int[Array, ""]
    done: Int[Array, ""]
    parameters: Float[Array, " P"]
    optimiser: PyTree
    objective: PyTree
    skipped: Int[Array, ""]
    masked: Int[Array, ""]

    @property
    def average(self) -> Float[Array | np.ndarray, " P"]:
        """Moving average of the parameters, the one that samples."""
        return transforms.averaged(self.optimiser)

    @property
    def left_out(self) -> Int[Array | np.ndarray, ""] | np.integer:
        """Steps left out in the whole run."""
        return self.skipped + transforms.skipped(self.optimiser)


class StepMetrics(NamedTuple):
    """Loss over the configurations kept, global gradient norm before clipping, and the learning rate.

    Of several processes also `asked`: the signal by which one of them was asked to end before this step, 0 for none; the same in all.
    """

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    learning_rate: Float[Array, ""]
    asked: Int[Array, ""] | int = 0


StepFunction = Callable[[TrainState, PyTree], tuple[TrainState, StepMetrics]]

Sums = tuple[Float[Array, ""], Int[Array, ""], Float[Array, " P"]]
"""Over configurations: of the losses, of the configurations themselves, and of the gradients."""


def initial_state(network: eqx.Module, stage: Stage, kept: PyTree = ()) -> TrainState:
    """State before the first step of the first stage.

    Args:
        network: what is trained.
        stage: the first.
        kept: what its objective keeps.
    """
    # Every array has a buffer of its own, because the step donates the whole state.
    parameters = jnp.copy(flat(network))
    zeros = (jnp.zeros((), jnp.int32) for _ in range(4))
    return TrainState(next(zeros), next(zeros), parameters, _fresh(network, stage, parameters), _owned(kept), next(zeros), next(zeros))


def next_state(state: TrainState, network: eqx.Module, stage: Stage, kept: PyTree = ()) -> TrainState:
    """State before the first step of a later stage: the averaged parameters and a fresh optimiser; counters go on."""
    parameters = jnp.copy(state.average)
    return state._replace(
        done=jnp.zeros((), jnp.int32),
        parameters=parameters,
        optimiser=_fresh(network, stage, parameters),
        objective=_owned(kept),
        skipped=state.left_out,
    )


def _fresh(network: eqx.Module, stage: Stage, parameters: Float[Array, " P"]) -> PyTree:
    return _owned(optimiser(stage.optimiser, stage.steps, network).init(parameters))


def _owned(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.array, tree)


def make_step(
    network: eqx.Module,
    objective: AbstractObjective,
    stage: Stage,
    mesh: jax.sharding.Mesh,
    asked: Callable[[], int] = lambda: 0,
) -> StepFunction:
    """The compiled training step.

    The batch is split over the axis "data" of the mesh; on each device the gradient is accumulated over microbatches that stay in the
    processor's cache. A configuration whose loss or gradient is not finite costs itself alone: the step is that of the others. Which one
    it is that spoils the gradient of its microbatch is found by going through the batch one by one, which is compiled when it is first
    needed. Without a single finite configuration nothing changes but the counters.

    Args:
        network: gives the structure of what is trained; its parameters are taken from the state.
        objective: gives the loss of each configuration.
        stage: optimiser and batch sizes.
        mesh: devices with one axis, "data".
        asked: the signal by which this process was asked to end, 0 for none; looked at before each step of several processes.
    """
    transform, rate = optimiser(stage.optimiser, stage.steps, network), schedule(stage.optimiser, stage.steps)
    every, split = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("data")

    # Without the check, gradients stay local until the sum at the end; with it they are summed in each chunk.
    def total(size: int, *, guarded: bool) -> Callable[[Float[Array, " P"], PyTree], Sums]:
        own = functools.partial(_sums, network, objective, size=size, guarded=guarded)
        return jax.shard_map(own, mesh=mesh, in_specs=(every, split), out_specs=every, check_vma=False)

    def taken(sums: Callable[[Float[Array, " P"], PyTree], Sums], state: TrainState, batch: PyTree) -> tuple[TrainState, StepMetrics]:
        loss, kept, gradient = sums(state.parameters, batch)
        count = jnp.maximum(kept, 1).astype(gradient.dtype)
        loss = loss / count
        gradient = gradient / count
        norm = jnp.sqrt(jnp.sum(gradient**2))
        # A gradient of nothing is no gradient.
        known = jnp.where(kept > 0, norm, jnp.nan)
        updates, inner = transform.update(gradient, state.optimiser, state.parameters, norm=known, step=state.done)
        metrics = StepMetrics(loss, norm, jnp.asarray(rate(state.done)))
        state = state._replace(
            step=state.step + 1,
            done=state.done + 1,
            parameters=state.parameters + jnp.asarray(updates),
            optimiser=inner,
            masked=state.masked + _size(batch) - kept,
        )
        return state, metrics

    def step(state: TrainState, batch: PyTree) -> tuple[TrainState, StepMetrics, Bool[Array, ""]]:
        """The step, and whether its gradient is finite; if it is not, the state is the old one."""
        after, metrics = taken(total(stage.microbatch, guarded=False), state, batch)
        sound = jnp.isfinite(metrics.grad_norm)
        return jax.tree.map(lambda new, old: jnp.where(sound, new, old), after, state), metrics, sound

    def one_by_one(state: TrainState, batch: PyTree) -> tuple[TrainState, StepMetrics]:
        return taken(total(1, guarded=True), state, batch)

    whole, shared = (jax.sharding.NamedSharding(mesh, part) for part in (every, split))
    options: dict[str, Any] = {"donate_argnums": 0, "in_shardings": (whole, shared), "out_shardings": whole}
    quick, careful = jax.jit(step, **options), jax.jit(one_by_one, **options)

    def advance(state: TrainState, batch: PyTree) -> tuple[TrainState, StepMetrics]:
        state, metrics, sound = quick(state, batch)
        return (state, metrics) if bool(sound) else careful(state, batch)

    return _together(advance, mesh, asked) if cluster.joined() else advance


def _together(advance: StepFunction, mesh: jax.sharding.Mesh, asked: Callable[[], int]) -> StepFunction:
    """A step that all processes make together: what one was asked, all know after it."""
    whole, shared = (jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*names)) for names in ((), ("data",)))
    # A step's sums wait for all of them anyway.
    heard = jax.jit(jnp.max, in_shardings=shared, out_shardings=whole)

    def advance_together(state: TrainState, batch: PyTree) -> tuple[TrainState, StepMetrics]:
        with cluster.watched():
            signals = heard(_spread(np.full(mesh.size, asked(), np.int32), shared))
            state, metrics = advance(state, batch)
            return state, metrics._replace(asked=int(signals))

    return advance_together


def _sums(
    network: eqx.Module, objective: AbstractObjective, parameters: Float[Array, " P"], own: PyTree, *, size: int, guarded: bool
) -> Sums:
    """Sums over the configurations of all devices, each of which has its own part of the batch; they exchange their sums once.

    Args:
        network: what is trained.
        objective: gives the losses.
        parameters: of the network.
        own: this device's part of the batch.
        size: configurations whose gradient is taken at once.
        guarded: leave out those whose gradient is not finite.
    """

    def cast(leaf: Array) -> Array:
        leaf = leaf.astype(parameters.dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
        return leaf.reshape(leaf.shape[0] // size, size, *leaf.shape[1:])

    chunks = jax.tree.map(cast, own)
    unfolded = with_parameters(network, parameters)

    def accumulate(carry: Sums, part: PyTree) -> tuple[Sums, None]:
        (loss, kept), gradient = eqx.filter_value_and_grad(_chunk_loss, has_aux=True)(unfolded, objective, part)
        found: Sums = (loss, kept, flat(gradient))
        if guarded:
            # Of the square, too: no square root of what overflows.
            sound = jnp.isfinite(jnp.sum(found[2] ** 2))
            found = jax.tree.map(lambda a: jnp.where(sound, a, jnp.zeros_like(a)), found)
        return jax.tree.map(jnp.add, carry, found), None

    start = (jnp.zeros((), parameters.dtype), jnp.zeros((), jnp.int32), jnp.zeros_like(parameters))
    return jax.lax.psum(jax.lax.scan(accumulate, start, chunks)[0], "data")


def _chunk_loss(network: eqx.Module, objective: AbstractObjective, batch: PyTree) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Sum of the losses of the configurations that are finite, and their number."""
    numbers = [leaf for leaf in jax.tree.leaves(batch) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    finite = [jnp.all(jnp.isfinite(leaf), axis=tuple(range(1, leaf.ndim))) for leaf in numbers]
    usable = jnp.all(jnp.stack(finite), axis=0) if finite else jnp.ones(_size(batch), bool)

    def masked(leaf: Array) -> Array:
        # What is left out must be finite too: zero times NaN in the backward pass is NaN.
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        return jnp.where(usable.reshape((-1,) + (1,) * (leaf.ndim - 1)), leaf, jnp.asarray(0.5, leaf.dtype))

    losses = objective.losses(network, jax.tree.map(masked, batch))
    kept = usable & jnp.isfinite(losses)
    return jnp.sum(jnp.where(kept, losses, 0.0)), jnp.sum(kept, dtype=jnp.int32)


def _size(batch: PyTree) -> int:
    """Configurations in a batch."""
    return jax.tree.leaves(batch)[0].shape[0]


def place_batch(batch: PyTree, mesh: jax.sharding.Mesh) -> PyTree:
    """Puts a host batch on the devices of the mesh, split over the axis "data"."""
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    return jax.tree.map(lambda a: _spread(np.asarray(a), sharding), batch)


def _spread(array: Any, sharding: jax.sharding.Sharding) -> Array:
    """An array on the devices of a mesh; of several processes each puts its own part there, of an array that all have."""
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, sharding, lambda part: host[part])


def place_state(state: TrainState, mesh: jax.sharding.Mesh) -> TrainState:
    """Puts a whole copy of the state on each device of the mesh; a step that gets it elsewhere is compiled twice."""
    return place(state, mesh)


def place(tree: PyTree, mesh: jax.sharding.Mesh) -> PyTree:
    """Puts a whole copy of arrays on each device of the mesh."""
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.device_put(tree, whole) if whole.is_fully_addressable else jax.tree.map(lambda a: _spread(a, whole), tree)
