"""Reverse KL from energies alone: both estimators against closed forms, and against autodiff of the whole divergence."""

from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow import targets
from boltzflow.config import EACF, NoProjection
from boltzflow.errors import ConfigError
from boltzflow.flows import ContinuousFlow
from boltzflow.flows.build import build_flow
from boltzflow.nets.base import AbstractVectorField
from boltzflow.objectives.augmented_path_gradient import AugmentedPathGradient, Ends
from boltzflow.objectives.augmented_reverse_kl import AugmentedReverseKL, CopiedLatents
from boltzflow.objectives.base import Setting
from boltzflow.objectives.reverse_kl import Latents, ReverseKL

SCALE, SPREAD, RATE = 0.7, 1.4, 0.3
FREEDOM = 9


def energy(positions: Any) -> Any:
    return 0.5 * jnp.sum((positions - jnp.mean(positions, axis=0, keepdims=True)) ** 2) / SPREAD**2


TARGET = targets.Target("harmonic", 4, 3, energy, (0, 1, 2, 3))


class Linear(AbstractVectorField):
    """dx/dt = w x, without the centre of mass: the sample of z is exp(w) z."""

    rate: Any

    def __call__(self, t, positions):
        return self.rate * (positions - jnp.mean(positions, axis=0, keepdims=True))


def continuous() -> ContinuousFlow:
    return ContinuousFlow(field=Linear(jnp.asarray(RATE)), n_particles=4, dimension=3, scale=SCALE)


def reverse_kl(*, size: int = 6, seed: int = 0, **options: Any) -> ReverseKL:
    return ReverseKL(**options).bound(Setting(continuous(), TARGET, size, seed))


def drawn(objective: Any, step: int = 0) -> Any:
    return objective.propose((), None, np.zeros((0, 4, 3)), step=step).batch


def value_and_slope(objective: ReverseKL, latents: Any) -> tuple[np.ndarray, np.ndarray]:
    """Loss of each sample and its derivative by the rate."""
    with jax.enable_x64(True):
        z = jnp.asarray(latents, jnp.float64)

        def losses(rate: Any) -> Any:
            return objective.losses(Linear(rate), Latents(z))

        rate = jnp.asarray(RATE, jnp.float64)
        return np.asarray(losses(rate)), np.asarray(jax.jacfwd(losses)(rate))


def test_both_estimators_are_those_of_the_closed_form():
    latents = np.asarray(drawn(reverse_kl(size=500)).prior, np.float64)
    z2 = np.sum(latents**2, axis=(1, 2))
    # x = exp(w) z in units of the prior: log q = -z²/2 - w d, u = x²/2 · (scale / spread)².
    stiffness = (SCALE / SPREAD) ** 2 * np.exp(2 * RATE)
    path, path_slope = value_and_slope(reverse_kl(size=500, nodes=16), latents)
    whole, whole_slope = value_and_slope(reverse_kl(size=500, nodes=16, estimator="reparametrised"), latents)
    value = -0.5 * z2 - RATE * FREEDOM + 0.5 * stiffness * z2
    np.testing.assert_allclose(path, value, rtol=1e-5)
    np.testing.assert_allclose(whole, value, rtol=1e-5)
    np.testing.assert_allclose(whole_slope, -FREEDOM + stiffness * z2, rtol=1e-5)
    np.testing.assert_allclose(path_slope, -z2 + stiffness * z2, rtol=1e-4, atol=1e-4)
    # The same in the mean.
    difference = path_slope - whole_slope
    assert difference.std() > 1.0
    assert difference.mean() == pytest.approx(0.0, abs=4 * difference.std() / np.sqrt(len(z2)))


def test_the_force_of_a_clash_is_bounded():
    latents = np.asarray(drawn(reverse_kl()).prior, np.float64) * np.array([1.0, 50.0, 1.0, 1.0, 1.0, 1.0])[:, None, None]
    z2 = np.sum(latents**2, axis=(1, 2))
    stiffness = (SCALE / SPREAD) ** 2 * np.exp(RATE)
    _, slopes = value_and_slope(reverse_kl(nodes=8, estimator="reparametrised", clip=5.0), latents)
    forces = np.minimum(stiffness * np.sqrt(z2), 5.0)
    assert forces[1] == 5.0
    assert forces.min() < 5.0
    np.testing.assert_allclose(slopes, -FREEDOM + forces * np.exp(RATE) * np.sqrt(z2), rtol=1e-5)


def test_draws_depend_on_seed_and_step_alone_and_need_no_frames():
    for objective, other in ((reverse_kl(), reverse_kl(seed=1)), (augmented_kl(), augmented_kl(seed=1))):
        assert not objective.needs.frames
        assert objective.needs.gradient
        assert objective.on_host
        first, again, later, elsewhere = drawn(objective, 7), drawn(objective, 7), drawn(objective, 8), drawn(other, 7)
        for a, b, c, d in zip(first, again, later, elsewhere, strict=True):
            np.testing.assert_array_equal(a, b)
            assert np.abs(a - c).max() > 0.1
            assert np.abs(a - d).max() > 0.1
        np.testing.assert_allclose(first.prior.mean(axis=1), 0.0, atol=1e-6)
        assert objective.propose((), None, None, step=0).evaluations == (0, len(first.prior))


# --- augmented coupling flows


def quartic(positions: Any) -> Any:
    positions = positions - jnp.mean(positions, axis=0, keepdims=True)
    return 1.5 * jnp.sum(positions**2) + 0.2 * jnp.sum(positions**4)


QUARTIC = targets.Target("quartic", 4, 3, quartic, (0, 1, 2, 3))


def coupling() -> Any:
    flow = build_flow(EACF(NoProjection(), blocks=1, layers=1, features=4, noise=0.5), QUARTIC, SCALE, key=jax.random.key(0))
    noise = iter(jax.random.split(jax.random.key(1), 1000))
    return jax.tree.map(lambda a: a + 0.05 * jax.random.normal(next(noise), a.shape) if eqx.is_inexact_array(a) else a, flow)


def augmented_kl(*, seed: int = 0, **options: Any) -> AugmentedReverseKL:
    return AugmentedReverseKL(**options).bound(Setting(coupling(), QUARTIC, 3, seed))


def gradient(losses: Any, stack: Any) -> tuple[np.ndarray, np.ndarray]:
    def weighted(stack: Any) -> Any:
        found = losses(stack)
        return jnp.sum(jnp.asarray([1.0, -0.7, 0.4]) * found), found

    (_, found), slopes = eqx.filter_jit(eqx.filter_value_and_grad(weighted, has_aux=True))(stack)
    return np.asarray(found), np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(slopes)])


def test_through_the_map_the_gradient_is_that_of_the_whole_divergence():
    flow, objective = coupling(), augmented_kl(estimator="reparametrised", clip=1e9)
    batch = cast(CopiedLatents, drawn(objective))

    def divergence(stack: Any) -> Any:
        own = flow.with_network(stack)

        def one(latent: Any, noise: Any) -> Any:
            channels, _ = own.push_forward(flow.with_copies(latent, noise))
            # The density by the way back, and the copies written out.
            apart = (channels[:, 1:] - channels[:, :1]) / 0.5
            copies = -0.5 * jnp.sum(apart**2) - apart.size * (0.5 * jnp.log(2 * jnp.pi) + jnp.log(0.5))
            return own.joint(channels).log_q - copies + quartic(SCALE * channels[:, 0])

        return jax.vmap(one)(jnp.asarray(batch.prior), jnp.asarray(batch.noise))

    found, expected = gradient(lambda stack: objective.losses(stack, batch), flow.stack), gradient(divergence, flow.stack)
    assert np.abs(expected[1]).max() > 0.1
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-2, atol=1e-3 * np.abs(expected[1]).max())


def test_path_gradients_are_those_of_the_refinement_in_the_reverse_direction():
    flow, objective = coupling(), augmented_kl()
    batch = cast(CopiedLatents, drawn(objective))
    refinement = AugmentedPathGradient(direction="reverse").bound(Setting(flow, QUARTIC, 3))
    ends = Ends(batch.prior, batch.prior, np.concatenate([np.zeros_like(batch.noise), batch.noise], axis=2))
    found = gradient(lambda stack: objective.losses(stack, batch), flow.stack)
    expected = gradient(lambda stack: refinement.losses(stack, ends), flow.stack)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=1e-5 * np.abs(expected[1]).max())


def test_a_target_without_energy_is_refused():
    with pytest.raises(ConfigError, match="reverse-kl needs an energy"):
        ReverseKL().bound(Setting(continuous(), targets.Target("frames", 4, 3, None, (0, 1, 2, 3)), 4))
