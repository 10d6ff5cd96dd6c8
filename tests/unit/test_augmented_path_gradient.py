"""Path gradients of augmented coupling flows, against total gradients less the part that does not go through the path."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow import targets
from boltzflow.config import EACF, NoProjection, Spherical
from boltzflow.flows.build import build_flow
from boltzflow.objectives.augmented_path_gradient import AugmentedPathGradient
from boltzflow.objectives.base import Setting

SCALE = 0.7
FRAMES = np.random.default_rng(0).normal(size=(40, 4, 3))
FRAMES -= FRAMES.mean(axis=1, keepdims=True)


def energy(positions: Any) -> Any:
    """Neither harmonic nor separable, in data units."""
    positions = positions - jnp.mean(positions, axis=0, keepdims=True)
    return 1.5 * jnp.sum(positions**2) + 0.2 * jnp.sum(positions**4)


TARGET = targets.Target("quartic", 4, 3, energy, (0, 1, 2, 3))


# Frames of its own take a projection minutes to compile with all that this file does.
@pytest.fixture(
    scope="module", params=[NoProjection(), pytest.param(Spherical(width=8), marks=pytest.mark.slow)], ids=["none", "spherical"]
)
def flow(request):
    with jax.enable_x64(True):
        coupling = EACF(request.param, blocks=1, layers=1, features=8, noise=0.5)
        flow = build_flow(coupling, TARGET, SCALE, key=jax.random.key(0))
        flow = jax.tree.map(lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a, flow)
        # A flow that does something: fresh layers are close to the identity.
        noise = iter(jax.random.split(jax.random.key(1), 1000))
        return jax.tree.map(lambda a: a + 0.05 * jax.random.normal(next(noise), a.shape) if eqx.is_inexact_array(a) else a, flow)


def objective(flow: Any, *, seed: int = 0, **options: Any) -> AugmentedPathGradient:
    return AugmentedPathGradient(**options).bound(Setting(flow, TARGET, 3, seed))


def log_target(flow: Any, channels: Any) -> Any:
    return flow.log_conditional(channels) - energy(SCALE * channels[:, 0])


def values_and_gradient(values: Any, stack: Any) -> Any:
    """The values, and the gradient of their sum with weights of both signs, flat."""
    weights = jnp.asarray([1.0, -0.7, 0.4])

    def weighted(stack: Any) -> Any:
        found = values(stack)
        return jnp.sum(weights * found), found

    (_, found), gradient = eqx.filter_jit(eqx.filter_value_and_grad(weighted, has_aux=True))(stack)
    return np.asarray(found), np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(gradient)])


@pytest.fixture(scope="module")
def batch(flow):
    with jax.enable_x64(True):
        drawn = objective(flow).propose((), None, FRAMES, step=0).batch
        return jax.tree.map(lambda part: jnp.asarray(part, jnp.float64), drawn)


def found(flow: Any, batch: Any, direction: Any) -> Any:
    """Losses and gradient of the objective."""
    losses = objective(flow, direction=direction, clip=1e9).losses
    return values_and_gradient(lambda stack: losses(stack, batch), flow.stack)


def assert_same(found: Any, expected: Any) -> None:
    """The same values and gradients, which are not zero."""
    assert np.abs(expected[1]).max() > 0.1
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6, atol=1e-7 * np.abs(expected[1]).max())
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-8)


def test_samples_pull_by_the_total_gradient_less_that_of_the_density_where_they_are(flow, batch):
    with jax.enable_x64(True):
        latents = jax.vmap(flow.with_copies)(batch.prior, batch.noise[:, :, 1:])
        ends = jax.jit(jax.vmap(lambda z: flow.push_forward(z)[0]))(latents)

        def through_the_path(stack: Any) -> Any:
            own = flow.with_network(stack)

            def divergence(latent: Any, end: Any) -> Any:
                channels, log_q = own.push_forward(latent)
                in_place = own.joint(end).log_q
                return log_q - log_target(flow, channels) - in_place + jax.lax.stop_gradient(in_place)

            return jax.vmap(divergence)(latents, ends)

        expected, losses = values_and_gradient(through_the_path, flow.stack), found(flow, batch, "reverse")
    assert_same(losses, expected)


def test_frames_pull_by_the_total_gradient_less_that_of_their_density_in_the_latent_space(flow, batch):
    with jax.enable_x64(True):
        channels = jax.vmap(flow.with_copies)(batch.data, batch.noise[:, :, :1])
        latents = jax.jit(jax.vmap(lambda x: flow.stack(x, inverse=False).channels))(channels)

        def through_the_path(stack: Any) -> Any:
            own = flow.with_network(stack)

            def divergence(frame: Any, latent: Any) -> Any:
                moved = own.stack(latent, inverse=True)
                # The density of the frames, moved to the latent space.
                in_place = log_target(flow, moved.channels) + moved.log_det
                return log_target(flow, frame) - own.joint(frame).log_q - in_place + jax.lax.stop_gradient(in_place)

            return jax.vmap(divergence)(channels, latents)

        expected, losses = values_and_gradient(through_the_path, flow.stack), found(flow, batch, "forward")
    assert_same(losses, expected)


@pytest.mark.slow
def test_both_is_the_mean(flow, batch):
    with jax.enable_x64(True):
        both, reverse, forward = (found(flow, batch, direction) for direction in ("both", "reverse", "forward"))
    for part in (0, 1):
        np.testing.assert_allclose(both[part], 0.5 * (reverse[part] + forward[part]), rtol=1e-7, atol=1e-9 * np.abs(both[part]).max())


def test_batches_depend_on_seed_and_step_alone(flow):
    first, again, other = (objective(flow, seed=1).propose((), None, FRAMES, step=step).batch for step in (7, 7, 8))
    for name in ("data", "prior", "noise"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert np.abs(getattr(first, name) - getattr(other, name)).max() > 0.1
    np.testing.assert_allclose(first.prior.mean(axis=1), 0.0, atol=1e-6)
    assert first.noise.shape == (3, 4, 2, 3)
