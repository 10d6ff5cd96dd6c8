"""One bad configuration costs itself: in every objective the step is that of the others, and it is counted."""

import concurrent.futures
import dataclasses
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow import targets
from boltzflow.config import CouplingConfig, FlowConfig, RefinementConfig, SolverConfig, TrainingConfig
from boltzflow.flows.build import build_flow
from boltzflow.objectives.augmented_likelihood import AugmentedLikelihood
from boltzflow.objectives.augmented_path_gradient import AugmentedPathGradient
from boltzflow.objectives.flow_matching import Batch, FlowMatching
from boltzflow.objectives.maximum_likelihood import MaximumLikelihood
from boltzflow.objectives.path_gradient import PathGradient, bounded
from boltzflow.training.sharding import data_mesh
from boltzflow.training.state import initial_state, make_step, place_batch, place_state

BAD, SIZE = 2, 4
REFINEMENT = RefinementConfig(steps=1, batch_size=SIZE, microbatch=2, nodes=2)
TARGET = targets.double_well()


def ring(x: Any) -> Any:
    """A smooth energy of four particles, but infinite at large radii."""
    squared = jnp.sum((x - jnp.mean(x, axis=0)) ** 2)
    return jnp.where(squared > 500.0, jnp.inf, 0.5 * squared)


def steep(x: Any) -> Any:
    """Finite everywhere, but with a gradient that is NaN at large radii."""
    squared = jnp.sum((x - jnp.mean(x, axis=0)) ** 2)
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
    flow = FlowConfig(layers=1, hidden=4, solver=SolverConfig(method="gauss-legendre", steps=2))
    return build_flow(flow, TARGET, 1.0, key=jax.random.key(0))


def coupling() -> Any:
    return build_flow(
        FlowConfig(family="eacf", coupling=CouplingConfig(blocks=1, layers=1, features=4, width=4)), TARGET, 1.0, key=jax.random.key(1)
    )


def batch_of(augmented: int = 0) -> Batch:
    rng = np.random.default_rng(0)
    data, prior, noise = (rng.normal(size=(SIZE, 4, 2)).astype(np.float32) for _ in range(3))
    data, prior = (x - x.mean(axis=1, keepdims=True) for x in (data, prior))
    if augmented:
        noise = rng.normal(size=(SIZE, 4, augmented, 2)).astype(np.float32)
    return Batch(prior, data, np.linspace(0.2, 0.8, SIZE, dtype=np.float32), noise)


def stepped(network: Any, objective: Any, batch: Batch, microbatch: int) -> tuple[Any, Any]:
    size = len(batch.time)
    config = TrainingConfig(batch_size=size, microbatch=microbatch, warmup_steps=0)
    mesh = data_mesh(1, size, microbatch)
    state = place_state(initial_state(network, config), mesh)
    return make_step(network, objective, config, mesh)(state, place_batch(batch, mesh))


def assert_costs_itself(network: Any, objective: Any, batch: Batch, bad: Batch) -> None:
    """The step with one bad pair equals the one without that pair."""
    kept = [place for place in range(SIZE) if place != BAD]
    state, metrics = stepped(network, objective, bad, 2)
    expected, good = stepped(network, objective, Batch(*(np.asarray(part)[kept] for part in batch)), 3)
    assert (int(state.masked), int(state.skipped), int(state.step)) == (1, 0, 1)
    np.testing.assert_allclose(metrics.loss, good.loss, rtol=1e-4)
    np.testing.assert_allclose(metrics.grad_norm, good.grad_norm, rtol=1e-4)
    # Adam's mean is a tenth of the gradient.
    mean, wanted = (np.asarray(found.optimiser[1].mu) for found in (state, expected))
    assert np.abs(wanted).max() > 0
    np.testing.assert_allclose(mean, wanted, rtol=1e-3, atol=1e-5 * np.abs(wanted).max())


def far(part: Any) -> np.ndarray:
    """The batch's positions with those of one pair far too large."""
    moved = np.array(part)
    moved[BAD] *= 1e3
    return moved


@dataclasses.dataclass(frozen=True)
class Spoilt:
    """An objective whose loss is finite for one pair and its gradient NaN."""

    inner: Any

    def losses(self, network: Any, batch: Batch) -> Any:
        first = jax.tree.leaves(network)[0].ravel()[0]
        # The square root of zero has a value, but its derivative times zero is NaN.
        zero = jnp.where(jnp.asarray(batch.time) > 0.9, 0.0, 1.0) * first**2
        return self.inner.losses(network, batch) + jnp.where(jnp.asarray(batch.time) > 0.9, jnp.sqrt(zero), 0.0)


@pytest.mark.parametrize("objective", [FlowMatching(), MaximumLikelihood(nodes=2)])
def test_a_gradient_that_is_nan_costs_its_pair_alone(objective):
    batch = batch_of()
    marked = np.array(batch.time)
    marked[BAD] = 1.0
    assert_costs_itself(continuous().network, Spoilt(objective), batch, batch._replace(time=marked))


def test_likelihood_of_a_coupling_flow():
    flow = coupling()
    batch = batch_of(augmented=1)
    noise = np.array(batch.noise)
    noise[BAD, 0, 0, 0] = np.inf
    assert_costs_itself(flow.network, AugmentedLikelihood(flow), batch, batch._replace(noise=noise))


@pytest.mark.parametrize("divergence", ["reverse", "forward"])
@pytest.mark.parametrize("energy", [ring, steep])
def test_path_gradients(energy, divergence):
    objective = PathGradient(dataclasses.replace(REFINEMENT, divergence=divergence), energy, 1.0)
    batch = batch_of()
    assert_costs_itself(continuous().network, objective, batch, batch._replace(prior=far(batch.prior), data=far(batch.data)))


@pytest.mark.parametrize("energy", [ring, steep])
def test_path_gradients_of_a_coupling_flow(energy):
    flow = coupling()
    objective = AugmentedPathGradient(REFINEMENT, energy, flow)
    batch = batch_of(augmented=2)
    assert_costs_itself(flow.network, objective, batch, batch._replace(prior=far(batch.prior), data=far(batch.data)))


@pytest.mark.parametrize("function", [outside, outside_steep])
def test_path_gradients_with_energies_outside_jax(function):
    with concurrent.futures.ThreadPoolExecutor(1) as threads, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        target = targets.from_calculator(function, 4, 2, name="outside", executor=threads)
        objective = PathGradient(dataclasses.replace(REFINEMENT, divergence="reverse"), target.energy, 1.0)
        batch = batch_of()
        assert_costs_itself(continuous().network, objective, batch, batch._replace(prior=far(batch.prior)))
        assert targets.failures(target).failed >= 1


def test_a_pull_whose_square_overflows_keeps_its_direction():
    pull = jnp.array([[3e25, 0.0], [0.0, -4e25]], jnp.float32)
    np.testing.assert_allclose(bounded(pull, 10.0), [[6.0, 0.0], [0.0, -8.0]], rtol=1e-5)
    np.testing.assert_allclose(bounded(jnp.array([[0.3, 0.4]]), 10.0), [[0.3, 0.4]], rtol=1e-6)
