"""Mirror images where flow and target meet: the energy that counts, and path gradients that pull with it."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow import targets
from boltzflow.config import EACF, ECNF, EGNN, GaussLegendre, Projection, RunConfig, Stage
from boltzflow.config import AugmentedPathGradient as AugmentedOptions
from boltzflow.config import PathGradient as Options
from boltzflow.flows import ContinuousFlow
from boltzflow.flows.build import build_flow
from boltzflow.flows.images import energy_that_counts, mirror_difference
from boltzflow.nets.base import AbstractVectorField
from boltzflow.objectives.augmented_path_gradient import AugmentedPathGradient
from boltzflow.objectives.base import Setting
from boltzflow.objectives.path_gradient import PathGradient
from boltzflow.targets import ChiralCentre, Target, chirality_signs
from boltzflow.training.sharding import data_mesh
from boltzflow.training.stages import parts

CENTRE = ChiralCentre(0, (1, 2, 3, 4), -1)


def volume(x: Any) -> Any:
    edges = x[1:4] - x[4:]
    return jnp.dot(edges[0], jnp.cross(edges[1], edges[2]))


def energy(x: Any) -> Any:
    """Mirror images differ by up to 4 kT."""
    x = x - jnp.mean(x, axis=0, keepdims=True)
    return 1.5 * jnp.sum(x**2) + 2.0 * jnp.tanh(volume(x))


TARGET = Target("uneven", 5, 3, energy, (0, 1, 2, 3, 4), reflections=False, chiral_centres=(CENTRE,))
FRAMES = np.random.default_rng(0).normal(size=(40, 5, 3))
FRAMES -= FRAMES.mean(axis=1, keepdims=True)
FOLDED = np.where(chirality_signs(FRAMES, [CENTRE])[:, :1, None] > 0, 1.0, -1.0) * FRAMES


def options_of(family: str, projection: str = "vector") -> Any:
    if family == "ecnf":
        return ECNF(EGNN(layers=1, hidden=8), GaussLegendre(2))
    seen: Any = Projection.named(projection)
    return EACF(seen(width=8), blocks=1, layers=1, features=8, noise=0.5)


def flow_of(family: str, projection: str = "vector") -> Any:
    return build_flow(options_of(family, projection), TARGET, 1.0, key=jax.random.key(0))


class Dilation(AbstractVectorField):
    rate: Any

    def __call__(self, t, positions):
        return self.rate * (positions - jnp.mean(positions, axis=0, keepdims=True))


@pytest.mark.parametrize("family", ["ecnf", "eacf"])
def test_the_energy_that_counts_is_that_of_the_right_hand(family):
    counting = energy_that_counts(flow_of(family), TARGET)
    assert 10 < np.sum(FRAMES[:, 0, 0] != FOLDED[:, 0, 0]) < 30
    x, folded = jnp.asarray(FRAMES, jnp.float32), jnp.asarray(FOLDED, jnp.float32)
    found, gradient = jax.vmap(jax.value_and_grad(counting))(x)
    expected, there = TARGET.energies_and_gradients(folded)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, there * np.sign(FRAMES * FOLDED), rtol=1e-4, atol=1e-4)
    assert np.abs(found - TARGET.energies(x)).max() > 0.5


def test_other_flows_and_targets_keep_their_energy():
    assert energy_that_counts(flow_of("eacf", projection="spherical"), TARGET) == TARGET.energy
    even = dataclasses.replace(TARGET, chiral_centres=())
    assert energy_that_counts(flow_of("ecnf"), even) == even.energy


def test_mirror_images_are_compared_and_not_believed():
    assert mirror_difference(TARGET) > 0.5
    assert mirror_difference(targets.get("lj13")) < 1e-3
    # In two dimensions -x is a rotation; a mirror image is not.
    area = lambda x: jnp.cross(x[1] - x[0], x[2] - x[0])  # noqa: E731
    flat = targets.from_function(
        lambda x: 0.5 * jnp.sum((x - x.mean(0, keepdims=True)) ** 2) + jnp.tanh(area(x)), 3, 2, name="flat", classes=(0, 1, 2)
    )
    assert mirror_difference(flat) > 0.1


@pytest.mark.parametrize("direction", ["reverse", pytest.param("forward", marks=pytest.mark.slow)])
def test_continuous_flows_are_pulled_towards_the_right_hand(direction):
    # Per sample, against central differences of the energy of the folded configuration: x = exp(r) z, whose score is -z exp(-r).
    rate, step, scale = 0.2, 1e-5, 0.8
    with jax.enable_x64(True):
        setting = Setting(ContinuousFlow(field=Dilation(0.0), n_particles=5, dimension=3, scale=scale), TARGET, 16)
        objective = PathGradient(nodes=8, clip=1e9, direction=direction).bound(setting)
        batch = objective.propose((), None, FRAMES, step=0).batch
        found = jax.jacrev(lambda r: objective.losses(Dilation(r), jax.tree.map(jnp.asarray, batch)))(jnp.float64(rate))
        found = np.asarray(found)

        def folded(x: np.ndarray) -> np.ndarray:
            right = np.where(chirality_signs(x, [CENTRE])[:, :1, None] > 0, x, -x)
            return np.asarray(jax.vmap(energy)(jnp.asarray(scale * right)), np.float64)

        starts = np.asarray(batch.prior if direction == "reverse" else batch.data, np.float64)
        if direction == "reverse":
            ends = [np.exp(rate + shift) * starts for shift in (step, -step)]
            expected = (folded(ends[0]) - folded(ends[1])) / (2 * step) - np.sum(starts**2, axis=(1, 2))
        else:
            # Moved along dz/dr = -z, against the scores of the prior and of the frames' density pulled back.
            latent = np.exp(-rate) * starts
            ends = [np.exp(shift) * starts for shift in (step, -step)]
            expected = (-np.sum(latent**2, axis=(1, 2))) + (folded(ends[0]) - folded(ends[1])) / (2 * step)
    assert 3 < np.sum(chirality_signs(starts, [CENTRE]) < 0) < 13
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


# Gradients of gradients of coupling layers take long to compile.
@pytest.mark.slow
def test_coupling_flows_pull_a_sample_as_the_mirror_image_that_counts():
    # The flow carries -z to -x: samples of the wrong enantiomer must pull as those do that start at -z, with the plain energy.
    flow = flow_of("eacf")
    noise = iter(jax.random.split(jax.random.key(1), 1000))
    flow = jax.tree.map(lambda a: a + 0.05 * jax.random.normal(next(noise), a.shape) if eqx.is_inexact_array(a) else a, flow)
    options, blind = AugmentedPathGradient(clip=1e9, direction="reverse"), dataclasses.replace(TARGET, chiral_centres=())
    batch = options.bound(Setting(flow, TARGET, 8)).propose((), None, FRAMES, step=0).batch
    latents = jax.vmap(flow.with_copies)(jnp.asarray(batch.prior), jnp.asarray(batch.noise[:, :, 1:]))
    ends = np.asarray(jax.jit(jax.vmap(lambda z: flow.push_forward(z)[0][:, 0]))(latents))
    sign = np.where(chirality_signs(ends, [CENTRE])[:, :1, None] > 0, 1.0, -1.0).astype(np.float32)
    assert 0 < np.sum(sign < 0) < 8
    turned = batch._replace(prior=sign * batch.prior, noise=sign[..., None] * batch.noise)

    def compiled(target: Target) -> Any:
        losses = options.bound(Setting(flow, target, 8)).losses

        def total(stack: Any, batch: Any) -> Any:
            values = losses(stack, batch)
            return jnp.sum(values), values

        run = eqx.filter_jit(eqx.filter_value_and_grad(total, has_aux=True))

        def found(batch: Any) -> tuple[np.ndarray, np.ndarray]:
            (_, values), gradient = run(flow.stack, jax.tree.map(jnp.asarray, batch))
            return np.asarray(values), np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(gradient)])

        return found

    counting, plain = compiled(TARGET), compiled(blind)
    values, gradient = counting(batch)
    expected, direction = plain(turned)
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(gradient, direction, rtol=1e-3, atol=1e-3 * np.abs(direction).max())
    unfolded, other = plain(batch)
    assert np.abs(values - unfolded).max() > 0.5
    assert np.abs(gradient - other).max() > 0.05 * np.abs(direction).max()


@pytest.mark.parametrize(("family", "objective"), [("ecnf", Options()), ("eacf", AugmentedOptions())])
def test_runs_follow_the_energy_that_counts(family, objective):
    config = RunConfig("uneven", flow=options_of(family), stages=(Stage(objective=objective),))
    (part,) = parts(config, flow_of(family), TARGET, data_mesh(1, 256, 32))
    wrong = jnp.asarray(-FOLDED[0], jnp.float32)
    assert float(part.objective.setting.energy(wrong)) == pytest.approx(float(energy(-wrong)), rel=1e-5)
