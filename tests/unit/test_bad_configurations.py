"""One bad configuration costs itself: in every objective the step is that of the others, and it is counted."""

import concurrent.futures
import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from boltzflow import targets
from boltzflow.config import EACF, ECNF, EGNN, Adam, GaussLegendre, Spherical, Stage
from boltzflow.flows import ContinuousFlow
from boltzflow.flows.build import build_flow
from boltzflow.nets.base import AbstractVectorField
from boltzflow.objectives.augmented_likelihood import AugmentedLikelihood
from boltzflow.objectives.augmented_path_gradient import AugmentedPathGradient
from boltzflow.objectives.base import AbstractObjective, Setting
from boltzflow.objectives.flow_matching import FlowMatching
from boltzflow.objectives.maximum_likelihood import MaximumLikelihood
from boltzflow.objectives.path_gradient import PathGradient, bounded
from boltzflow.training.sharding import data_mesh
from boltzflow.training.state import initial_state, make_step, place_batch, place_state

BAD, SIZE = 2, 4
TARGET = targets.double_well()


def ring(x: Any) -> Any:
    """A smooth energy of four particles, but infinite at large radii."""
    squared = jnp.sum((x - jnp.mean(x, axis=0, keepdims=True)) ** 2)
    return jnp.where(squared > 500.0, jnp.inf, 0.5 * squared)


def steep(x: Any) -> Any:
    """Finite everywhere, but with a gradient that is NaN at large radii."""
    squared = jnp.sum((x - jnp.mean(x, axis=0, keepdims=True)) ** 2)
    return 0.5 * squared + jnp.sqrt(jnp.where(squared > 500.0, 0.0, 1.0) * squared)


def outside(x: np.ndarray) -> tuple[float, np.ndarray]:
    """`ring` outside JAX; it raises where that is infinite."""
    centred = x - x.mean(axis=0)
    squared = float(np.sum(centred**2))
    if squared > 500.0:
        raise ValueError("the particles are gone")
    return 0.5 * squared, centred


def outside_steep(x: np.ndarray) -> tuple[float, np.ndarray]:
    """As `outside`, but with a gradient that is not finite there and an energy that is."""
    centred = x - x.mean(axis=0)
    squared = float(np.sum(centred**2))
    return 0.5 * squared, centred * (np.nan if squared > 500.0 else 1.0)


def continuous() -> Any:
    return build_flow(ECNF(EGNN(layers=1, hidden=4), GaussLegendre(2)), TARGET, 1.0, key=jax.random.key(0))


class Breathing(AbstractVectorField):
    """A field that compiles at once, for what does not hang on the network."""

    rate: Any

    def __call__(self, t, positions):
        centred = positions - jnp.mean(positions, axis=0, keepdims=True)
        return self.rate[0] * centred + self.rate[1] * t * jnp.tanh(centred)


def breathing() -> ContinuousFlow:
    return ContinuousFlow(field=Breathing(jnp.array([0.2, -0.3])), n_particles=4, dimension=2)


def coupling() -> Any:
    """A flow that is not the identity, of which losses and many gradients are nothing but rounding."""
    flow = build_flow(EACF(Spherical(width=4), blocks=1, layers=1, features=4), TARGET, 1.0, key=jax.random.key(1))
    leaves, structure = jax.tree.flatten(flow.network)
    rng = np.random.default_rng(3)
    moved = [x + 0.2 * rng.normal(size=x.shape).astype(np.float32) if eqx.is_inexact_array(x) else x for x in leaves]
    return flow.with_network(jax.tree.unflatten(structure, moved))


def bound(objective: Any, flow: Any, energy: Callable[[Any], Any] | None = None) -> Any:
    """The objective with an energy of the test's own."""
    target = TARGET if energy is None else dataclasses.replace(TARGET, energy_function=energy)
    return objective.bound(Setting(flow, target, SIZE))


def batch_of(objective: Any) -> Any:
    frames = np.random.default_rng(0).normal(size=(9, 4, 2)).astype(np.float32)
    return objective.propose((), None, frames - frames.mean(axis=1, keepdims=True), step=0).batch


def stepped(network: Any, objective: Any, batch: Any, microbatch: int) -> tuple[Any, Any]:
    size = len(batch.data)
    stage = Stage(optimiser=Adam(warmup_steps=0), batch_size=size, microbatch=microbatch)
    mesh = data_mesh(1, size, microbatch)
    state = place_state(initial_state(network, stage), mesh)
    return make_step(network, objective, stage, mesh)(state, place_batch(batch, mesh))


def assert_costs_itself(network: Any, objective: Any, batch: Any, bad: Any) -> None:
    """The step with one bad pair equals the one without that pair."""
    kept = [place for place in range(SIZE) if place != BAD]
    state, metrics = stepped(network, objective, bad, 2)
    expected, good = stepped(network, objective, type(batch)(*(np.asarray(part)[kept] for part in batch)), 3)
    assert_same_step(state, metrics, expected, good)


def assert_same_step(state: Any, metrics: Any, expected: Any, good: Any) -> None:
    assert (int(state.masked), int(state.left_out), int(state.step)) == (1, 0, 1)
    np.testing.assert_allclose(metrics.loss, good.loss, rtol=1e-4)
    np.testing.assert_allclose(metrics.grad_norm, good.grad_norm, rtol=1e-4)
    # Adam's mean is a tenth of the gradient.
    mean, wanted = (np.asarray(optax.tree.get(found.optimiser, "mu")) for found in (state, expected))
    assert np.abs(wanted).max() > 0
    np.testing.assert_allclose(mean, wanted, rtol=1e-3, atol=1e-5 * np.abs(wanted).max())


def far(part: Any) -> np.ndarray:
    """The batch's positions with those of one pair far too large."""
    moved = np.array(part)
    moved[BAD] *= 1e3
    return moved


class Marked(NamedTuple):
    """A batch some configurations of which are marked."""

    inner: Any
    data: Any
    mark: Any


@dataclasses.dataclass(frozen=True)
class Spoilt(AbstractObjective):
    """An objective whose loss is finite for the marked configurations and its gradient NaN."""

    inner: Any = None

    def propose(self, state: Any, network: Any, frames: Any, *, step: Any, key: Any) -> Any:
        raise NotImplementedError

    def losses(self, network: Any, batch: Marked) -> Any:
        first = jax.tree.leaves(network)[0].ravel()[0]
        # The square root of zero has a value, but its derivative times zero is NaN.
        zero = jnp.where(jnp.asarray(batch.mark) > 0.9, 0.0, 1.0) * first**2
        return self.inner.losses(network, batch.inner) + jnp.where(jnp.asarray(batch.mark) > 0.9, jnp.sqrt(zero), 0.0)


@pytest.mark.parametrize("objective", [FlowMatching(), pytest.param(MaximumLikelihood(nodes=2), marks=pytest.mark.slow)])
def test_a_gradient_that_is_nan_costs_its_pair_alone(objective):
    flow = continuous()
    inner = bound(objective, flow)
    batch, mark = batch_of(inner), np.zeros(SIZE, np.float32)
    marked = mark.copy()
    marked[BAD] = 1.0
    kept = [place for place in range(SIZE) if place != BAD]
    state, metrics = stepped(flow.network, Spoilt(inner), Marked(batch, batch.data, marked), 2)
    expected, good = stepped(flow.network, Spoilt(inner), jax.tree.map(lambda a: np.asarray(a)[kept], Marked(batch, batch.data, mark)), 3)
    assert_same_step(state, metrics, expected, good)


@pytest.mark.slow
def test_likelihood_of_a_coupling_flow():
    flow = coupling()
    objective = bound(AugmentedLikelihood(), flow)
    batch = batch_of(objective)
    noise = np.array(batch.noise)
    noise[BAD, 0, 0, 0] = np.inf
    assert_costs_itself(flow.network, objective, batch, batch._replace(noise=noise))


@pytest.mark.parametrize("make", [breathing, pytest.param(continuous, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("direction", "energy"),
    [("reverse", steep), ("forward", ring)]
    + [pytest.param("reverse", ring, marks=pytest.mark.slow), pytest.param("forward", steep, marks=pytest.mark.slow)],
)
def test_path_gradients(make, energy, direction):
    flow = make()
    objective = bound(PathGradient(nodes=2, direction=direction), flow, energy)
    batch = batch_of(objective)
    assert_costs_itself(flow.network, objective, batch, batch._replace(prior=far(batch.prior), data=far(batch.data)))


@pytest.mark.slow
@pytest.mark.parametrize("energy", [ring, steep])
def test_path_gradients_of_a_coupling_flow(energy):
    flow = coupling()
    objective = bound(AugmentedPathGradient(), flow, energy)
    batch = batch_of(objective)
    assert_costs_itself(flow.network, objective, batch, batch._replace(prior=far(batch.prior), data=far(batch.data)))


@pytest.mark.parametrize("make", [breathing, pytest.param(continuous, marks=pytest.mark.slow)])
@pytest.mark.parametrize("function", [pytest.param(outside, marks=pytest.mark.slow), outside_steep])
def test_path_gradients_with_energies_outside_jax(make, function):
    with concurrent.futures.ThreadPoolExecutor(1) as threads, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        target = targets.from_calculator(function, 4, 2, name="outside", executor=threads)
        flow = make()
        objective = PathGradient(nodes=2, direction="reverse").bound(Setting(flow, target, SIZE))
        batch = batch_of(objective)
        assert_costs_itself(flow.network, objective, batch, batch._replace(prior=far(batch.prior)))
        assert targets.failures(target).failed >= 1


def test_a_pull_whose_square_overflows_keeps_its_direction():
    pull = jnp.array([[3e25, 0.0], [0.0, -4e25]], jnp.float32)
    np.testing.assert_allclose(bounded(pull, 10.0), [[6.0, 0.0], [0.0, -8.0]], rtol=1e-5)
    np.testing.assert_allclose(bounded(jnp.array([[0.3, 0.4]]), 10.0), [[0.3, 0.4]], rtol=1e-6)
