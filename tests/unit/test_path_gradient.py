"""Path gradients: transported scores against autodiff, and gradients where they are known."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow import targets
from boltzflow.flows import ContinuousFlow, quadrature
from boltzflow.nets import TwoInteraction
from boltzflow.nets.base import AbstractVectorField
from boltzflow.objectives.base import Setting
from boltzflow.objectives.path_gradient import PathGradient, transport_with_score

FRAMES = np.random.default_rng(0).normal(size=(50, 3, 2))
FRAMES -= FRAMES.mean(axis=1, keepdims=True)
STIFFNESS = 3.0


class Dilation(AbstractVectorField):
    """v = rate · x, whose flow widens the prior by exp(rate)."""

    rate: Any

    def __call__(self, t, positions):
        return self.rate * (positions - jnp.mean(positions, axis=0, keepdims=True))


def harmonic(positions: Any) -> Any:
    """Normal density of variance 1/STIFFNESS in data units."""
    return 0.5 * STIFFNESS * jnp.sum((positions - jnp.mean(positions, axis=0, keepdims=True)) ** 2)


TARGET = targets.from_function(harmonic, 3, 2, name="harmonic")


def path_gradient(scale: float = 1.0, *, batch_size: int = 16, seed: int = 0, **options: Any) -> PathGradient:
    setting = Setting(ContinuousFlow(field=Dilation(0.0), n_particles=3, dimension=2, scale=scale), TARGET, batch_size, seed)
    return PathGradient(nodes=8, **options).bound(setting)


def proposed(objective: PathGradient, frames: np.ndarray = FRAMES, *, step: int = 0) -> Any:
    return objective.propose((), None, frames, step=step).batch


class Attraction(AbstractVectorField):
    """Pulls particles together, less the farther apart they are and more the later it is: not linear, not symmetric in time."""

    def __call__(self, t, positions):
        apart = positions[:, None] - positions[None]
        return -jnp.sum(apart * ((0.2 + t) / (1.0 + jnp.sum(apart**2, axis=-1, keepdims=True))), axis=1)


def a_network() -> TwoInteraction:
    field = TwoInteraction((0, 0, 0), layers=1, hidden=8, radial=6, channels=2, softening=0.5, key=jax.random.key(0))
    field = jax.tree.map(lambda a: a.astype(jnp.float64) if eqx.is_array(a) else a, field)
    return eqx.tree_at(lambda f: f.edge_out.weight, field, replace_fn=lambda weight: 30.0 * weight)


# The network takes half a minute to compile in each direction.
@pytest.mark.parametrize("make", [Attraction, pytest.param(a_network, marks=pytest.mark.slow)])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_transported_score_is_the_gradient_of_the_density(make, reverse):
    with jax.enable_x64(True):
        field = make()
        start = jnp.asarray(FRAMES[0])
        # The density where the path begins is a normal one of variance 1/STIFFNESS.
        end, score, _ = jax.jit(lambda x: transport_with_score(field, x, -STIFFNESS * x, 24, reverse=reverse))(start)

        def log_density(x: Any) -> Any:
            origin, change, _ = quadrature.transport(field, x, 24, reverse=not reverse)
            return change - harmonic(origin)

        expected = jax.jit(jax.grad(log_density))(end)
        start, end, score, expected = map(np.asarray, (start, end, score, expected))
    assert np.abs(end - start).max() > 0.01
    np.testing.assert_allclose(score, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(score + STIFFNESS * end).max() > 0.01


@pytest.mark.parametrize("direction", ["reverse", "forward", "both"])
@pytest.mark.parametrize("rate", [-0.5 * np.log(STIFFNESS), 0.3])
def test_the_gradient_is_the_known_one_sample_by_sample_and_vanishes_at_the_optimum(direction, rate):
    # The variance of the flow is exp(2 rate) and should be 1/STIFFNESS. For a latent z the gradient with respect to the rate is
    # (STIFFNESS exp(2 rate) - 1) |z|²; its mean is the derivative of the divergence.
    with jax.enable_x64(True):
        objective = path_gradient(direction=direction, clip=1e6)
        batch = proposed(objective)
        found = jax.jacrev(lambda r: objective.losses(Dilation(r), jax.tree.map(jnp.asarray, batch)))(jnp.float64(rate))
    latents = {"reverse": batch.prior, "forward": batch.data * np.exp(-rate)}
    squares = {name: np.sum(np.asarray(z, float) ** 2, axis=(1, 2)) for name, z in latents.items()}
    squares["both"] = 0.5 * (squares["reverse"] + squares["forward"])
    np.testing.assert_allclose(found, (STIFFNESS * np.exp(2 * rate) - 1.0) * squares[direction], rtol=1e-5, atol=1e-4)


def test_the_loss_is_the_divergence_up_to_a_constant():
    rate, scale = 0.3, 2.0
    with jax.enable_x64(True):
        batch = proposed(path_gradient(scale))
        batch = jax.tree.map(jnp.asarray, batch)
        reverse, forward = (path_gradient(scale, direction=d).losses(Dilation(jnp.float64(rate)), batch) for d in ("reverse", "forward"))
    z, x = np.asarray(batch.prior, float), np.asarray(batch.data, float)
    # Four degrees of freedom; densities with respect to units of the prior, without the normalisation of the prior.
    log_q = -0.5 * np.sum(z**2, axis=(1, 2)) - 4 * rate
    np.testing.assert_allclose(reverse, log_q + 0.5 * STIFFNESS * np.sum((scale * z * np.exp(rate)) ** 2, axis=(1, 2)), rtol=1e-5)
    nll = 0.5 * np.sum((x * np.exp(-rate)) ** 2, axis=(1, 2)) + 4 * rate
    np.testing.assert_allclose(forward, nll - 0.5 * STIFFNESS * np.sum((scale * x) ** 2, axis=(1, 2)), rtol=1e-5)


@pytest.mark.parametrize("rate", [-0.5 * np.log(STIFFNESS), 0.3])
def test_the_loss_of_both_is_the_mean_of_the_divergences(rate):
    # Against a flow of variance s² the normal target of variance 1/STIFFNESS has the divergences f - log f - 1 per two degrees of
    # freedom, with f = STIFFNESS s² one way and 1/f the other.
    n, f = 20_000, STIFFNESS * np.exp(2 * rate)
    rng = np.random.default_rng(1)
    frames = rng.normal(size=(n, 3, 2)) / np.sqrt(STIFFNESS)
    frames -= frames.mean(axis=1, keepdims=True)
    objective = path_gradient(batch_size=n, direction="both")
    batch = proposed(objective, frames)._replace(data=frames)
    with jax.enable_x64(True):
        losses = np.asarray(jax.jit(lambda b: objective.losses(Dilation(jnp.float64(rate)), b))(jax.tree.map(jnp.asarray, batch)))
    expected = 2.0 * (0.5 * (f + 1.0 / f) - 1.0)
    assert losses.mean() == pytest.approx(expected, abs=4 * losses.std() / np.sqrt(n) + 1e-6)


def test_no_configuration_pulls_beyond_the_bound():
    latents = jnp.asarray(FRAMES[:16], jnp.float32)
    batch = proposed(path_gradient(direction="reverse"))
    batch = batch._replace(prior=latents.at[0].multiply(100.0))
    gradients = {
        clip: jax.jacrev(lambda r, clip=clip: path_gradient(direction="reverse", clip=clip).losses(Dilation(r), batch))(jnp.asarray(0.3))
        for clip in (100.0, 1e6)
    }
    assert abs(gradients[100.0][0]) < 0.5 * abs(gradients[1e6][0])
    np.testing.assert_allclose(gradients[100.0][1:], gradients[1e6][1:], rtol=1e-5)


def test_batches_depend_on_seed_and_step_alone():
    objective = path_gradient(seed=1)
    first, again = (proposed(objective, step=7) for _ in range(2))
    other = proposed(objective, step=8)
    np.testing.assert_array_equal(first.data, again.data)
    np.testing.assert_array_equal(first.prior, again.prior)
    assert np.abs(first.prior - other.prior).max() > 0.1
    np.testing.assert_allclose(first.prior.mean(axis=1), 0.0, atol=1e-6)
