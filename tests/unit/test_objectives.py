"""Flow matching: what a batch is made of, and what the loss says where it is known."""

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow import targets
from boltzflow.config import EACF, NoProjection, Vector
from boltzflow.errors import ConfigError
from boltzflow.flows import ContinuousFlow
from boltzflow.flows.augmented import AugmentedCouplingFlow
from boltzflow.flows.build import build_coupling, build_flow
from boltzflow.flows.prior import Normal
from boltzflow.nets.base import AbstractVectorField
from boltzflow.objectives.augmented_likelihood import AugmentedLikelihood
from boltzflow.objectives.base import Setting
from boltzflow.objectives.flow_matching import FlowMatching, Pairs
from boltzflow.objectives.maximum_likelihood import MaximumLikelihood
from boltzflow.objectives.paths import path

FRAMES = np.random.default_rng(0).normal(size=(50, 3, 2)).astype(np.float32)
FRAMES -= FRAMES.mean(axis=1, keepdims=True)
PLANAR = targets.from_function(lambda x: jnp.sum((x - jnp.mean(x, axis=0, keepdims=True)) ** 2), 3, 2, name="any")
INDEPENDENT = FlowMatching(pairing=cast(Any, "independent"))


def prepare(
    objective: Any = INDEPENDENT, *, frames: np.ndarray = FRAMES, seed: int = 1, step: int = 7, batch_size: int = 16, flow: Any = None
) -> Any:
    """The batch of a step, of a target that cannot tell its particles apart."""
    n, dimension = frames.shape[1:]
    target = dataclasses.replace(PLANAR, n_particles=n, dimension=dimension, classes=(0,) * n)
    flow = ContinuousFlow(field=Echo(), n_particles=n, dimension=dimension) if flow is None else flow
    return objective.bound(Setting(flow, target, batch_size, seed)).propose((), None, frames, step=step, key=None).batch


class Constant(AbstractVectorField):
    """The same velocity everywhere."""

    value: np.ndarray | jax.Array

    def __call__(self, t, positions):
        return jnp.asarray(self.value, positions.dtype)


class Echo(AbstractVectorField):
    """Returns time times position, so that the loss tells where the field was asked."""

    def __call__(self, t, positions):
        return t * positions


class GaussianOptimum(AbstractVectorField):
    """What flow matching tends to when prior and data are independent normals of width 1 and `width`, times a factor."""

    width: float
    sigma: float
    factor: float = 1.0
    shift: float = 0.0

    def __call__(self, t, positions):
        t = jnp.clip(t + self.shift, 0.0, 1.0)
        variance = (1 - t) ** 2 + (t * self.width) ** 2 + self.sigma**2
        return self.factor * positions * (t * self.width**2 - (1 - t)) / variance


class TestPrepare:
    @pytest.mark.parametrize("pairing", ["independent", "optimal-transport", "equivariant-optimal-transport"])
    def test_a_batch_depends_on_seed_and_step_alone(self, pairing):
        objective = FlowMatching(pairing=pairing, late_time=0.3)
        first = prepare(objective)
        prepare(objective, step=8)
        for name, values in first._asdict().items():
            np.testing.assert_array_equal(getattr(prepare(objective), name), values)
            for other in (prepare(objective, step=8), prepare(objective, seed=2), prepare(objective, seed=7, step=1)):
                assert np.mean(getattr(other, name) == values) < 0.1
            assert values.dtype == np.float32
            assert values.shape == ((16,) if name == "time" else (16, 3, 2))

    def test_prior_and_noise_are_normal_on_the_subspace_and_data_are_frames(self):
        batch = prepare(batch_size=20_000)
        for values in (batch.prior, batch.noise):
            np.testing.assert_allclose(values.mean(axis=1), 0.0, atol=1e-6)
            # 4 degrees of freedom per configuration.
            assert np.mean(np.sum(values**2, axis=(1, 2))) == pytest.approx(4.0, abs=5 * np.sqrt(8 / 20_000))
        assert abs(np.mean(np.sum(batch.prior * batch.noise, axis=(1, 2)))) < 5 * np.sqrt(4 / 20_000)
        counts = np.array([np.sum(np.all(batch.data == frame, axis=(1, 2))) for frame in FRAMES])
        assert counts.sum() == 20_000
        assert np.all(np.abs(counts - 400) < 5 * 20)

    @pytest.mark.parametrize("late", [0.0, 0.4, 1.0])
    def test_times_are_stratified_over_their_density(self, late):
        n = 2000
        time = np.sort(prepare(FlowMatching(pairing=cast(Any, "independent"), late_time=late), batch_size=n).time.astype(float))
        assert time[0] >= 0.0
        assert time[-1] <= 1.0
        # A share `late` has the density 1/(2 sqrt(1-t)), the rest is uniform.
        cumulative = late * (1.0 - np.sqrt(1.0 - time)) + (1.0 - late) * time
        # Drawn one by one they would stray by about 1/sqrt(n); one in each stratum strays by 1/n.
        assert np.abs(cumulative - (np.arange(n) + 0.5) / n).max() < 3.0 / n
        assert time.mean() == pytest.approx(late * 2 / 3 + (1 - late) / 2, abs=1e-3)

    def test_times_are_in_no_order(self):
        time = prepare(batch_size=1000).time
        assert abs(np.corrcoef(time, np.arange(1000))[0, 1]) < 0.15


class TestLosses:
    def test_zero_for_the_exact_velocity_of_a_pair(self):
        batch = prepare()
        single = Pairs(*(values[:1] for values in batch))
        field = Constant(single.data[0] - single.prior[0])
        assert INDEPENDENT.losses(field, single)[0] == 0.0
        assert np.all(np.asarray(INDEPENDENT.losses(field, batch))[1:] > 0.1)

    def test_known_for_a_constant_field(self):
        batch, value = prepare(), np.full((3, 2), 0.25)
        expected = np.sum((value - (batch.data - batch.prior)) ** 2, axis=(1, 2))
        np.testing.assert_allclose(INDEPENDENT.losses(Constant(value), batch), expected, rtol=1e-5)

    @pytest.mark.parametrize("sigma", [0.0, 0.5])
    def test_the_field_is_asked_on_the_noisy_straight_path(self, sigma):
        batch = prepare()
        t = batch.time[:, None, None]
        path = (1 - t) * batch.prior + t * batch.data + sigma * batch.noise
        expected = np.sum((t * path - (batch.data - batch.prior)) ** 2, axis=(1, 2))
        objective = dataclasses.replace(INDEPENDENT, sigma=sigma)
        np.testing.assert_allclose(objective.losses(Echo(), batch), expected, rtol=1e-5)

    def test_the_optimum_for_a_gaussian_target_is_the_closed_form(self):
        width, sigma, n = 0.4, 0.2, 50_000
        rng = np.random.default_rng(3)
        frames = width * rng.normal(size=(n, 2, 2)).astype(np.float32)
        frames -= frames.mean(axis=1, keepdims=True)
        objective = dataclasses.replace(INDEPENDENT, sigma=sigma)
        batch = prepare(objective, frames=frames, batch_size=n)

        def losses(**options: float) -> np.ndarray:
            return np.asarray(objective.losses(GaussianOptimum(width, sigma, **options), batch), np.float64)

        best = losses()
        # What is left is the variance of the velocity given the place: 2 degrees of freedom, averaged over time.
        t = (np.arange(1000) + 0.5) / 1000
        left = 1 + width**2 - (t * width**2 - (1 - t)) ** 2 / ((1 - t) ** 2 + (t * width) ** 2 + sigma**2)
        assert best.mean() == pytest.approx(2 * left.mean(), abs=5 * best.std() / np.sqrt(n))
        for options in ({"factor": 0.9}, {"factor": 1.1}, {"shift": 0.05}, {"shift": -0.05}):
            worse = losses(**options) - best
            assert worse.mean() > 3 * worse.std() / np.sqrt(n)


class TestDiffusionPath:
    TIMES = np.linspace(0.0, 1.0, 41)

    def test_the_variance_is_preserved_from_the_prior_to_the_data(self):
        at = path("diffusion", jnp.asarray(self.TIMES, jnp.float32))
        np.testing.assert_allclose(at.noise**2 + at.signal**2, 1.0, atol=1e-6)
        assert np.all(np.diff(at.signal) > 0)
        assert (at.noise[0], at.signal[0]) == (pytest.approx(1.0, abs=1e-4), pytest.approx(0.0, abs=0.01))
        assert (at.noise[-1], at.signal[-1]) == (pytest.approx(0.01, abs=1e-3), pytest.approx(1.0, abs=1e-4))
        # The schedule of rates: -2 d log(signal) / d(diffusion time) is 0.1 at the data and 20 at the prior.
        rates = 2 * at.signal_rate / at.signal
        assert (rates[0], rates[-1]) == (pytest.approx(20.0, rel=0.01), pytest.approx(0.1, rel=0.3))

    @pytest.mark.parametrize("name", ["linear", "diffusion"])
    def test_rates_are_derivatives(self, name):
        with jax.enable_x64(True):
            inner, h = jnp.asarray(self.TIMES[1:-1]), 1e-5
            ahead, behind, at = path(name, inner + h), path(name, inner - h), path(name, inner)
            np.testing.assert_allclose(at.noise_rate, (ahead.noise - behind.noise) / (2 * h), rtol=1e-6)
            np.testing.assert_allclose(at.signal_rate, (ahead.signal - behind.signal) / (2 * h), rtol=1e-6)

    def test_the_optimum_for_a_gaussian_target_transports_the_prior_to_it(self):
        # At the optimum the velocity is x (b b' + a a' w²) / (b² + a² w²), which widens the prior to b² + a² w² at every time.
        width, n = 0.4, 50_000
        frames = width * np.random.default_rng(3).normal(size=(n, 2, 2)).astype(np.float32)
        frames -= frames.mean(axis=1, keepdims=True)
        objective = FlowMatching(path="diffusion", pairing=cast(Any, "independent"), sigma=0.0)
        batch = prepare(objective, frames=frames, batch_size=n)

        class Optimum(AbstractVectorField):
            factor: float = 1.0

            def __call__(self, t, positions):
                at = path("diffusion", t)
                rate = at.noise * at.noise_rate + at.signal * at.signal_rate * width**2
                return self.factor * positions * rate / (at.noise**2 + (at.signal * width) ** 2)

        best = np.asarray(objective.losses(Optimum(), batch), np.float64)
        assert np.all(np.isfinite(best))
        for factor in (0.9, 1.1):
            worse = np.asarray(objective.losses(Optimum(factor), batch), np.float64) - best
            assert worse.mean() > 3 * worse.std() / np.sqrt(n)


class Dilation(AbstractVectorField):
    """v = rate · x, whose flow widens the prior by exp(rate)."""

    rate: Any

    def __call__(self, t, positions):
        return self.rate * (positions - jnp.mean(positions, axis=0, keepdims=True))


class TestMaximumLikelihood:
    @pytest.mark.parametrize("divergence", ["brute-force", "hutchinson"])
    def test_loss_and_gradient_are_the_known_ones_sample_by_sample(self, divergence):
        objective, rate = MaximumLikelihood(nodes=8, divergence=divergence), 0.3
        with jax.enable_x64(True):
            batch = prepare(objective, frames=FRAMES.astype(float), batch_size=8, seed=0, step=3)
            batch = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), batch)
            loss = objective.losses(Dilation(jnp.float64(rate)), batch)
            gradient = jax.jacrev(lambda r: objective.losses(Dilation(r), batch))(jnp.float64(rate))
        squares = np.sum(np.asarray(batch.data) ** 2, axis=(1, 2)) * np.exp(-2 * rate)
        # Three particles in two dimensions have (3 - 1) 2 degrees of freedom; an estimate counts them by the length of its probe.
        freedom = 4.0 if divergence == "brute-force" else np.sum(np.asarray(batch.probes) ** 2, axis=(1, 2))
        np.testing.assert_allclose(loss, 0.5 * squares + rate * freedom + 2 * np.log(2 * np.pi), rtol=1e-6)
        np.testing.assert_allclose(gradient, freedom - squares, rtol=1e-5, atol=1e-6)

    def test_a_batch_depends_on_seed_and_step_alone(self):
        def draw(seed: int, step: int) -> Any:
            return prepare(MaximumLikelihood(), seed=seed, step=step)

        for name in ("data", "probes"):
            np.testing.assert_array_equal(getattr(draw(1, 7), name), getattr(draw(1, 7), name))
            for other in (draw(1, 8), draw(2, 7)):
                assert np.mean(getattr(other, name) == getattr(draw(1, 7), name)) < 0.5


class TestAugmentedLikelihood:
    @staticmethod
    def identity(scale: float = 1.0) -> AugmentedCouplingFlow:
        """A flow of three particles in the plane that moves nothing."""
        options = EACF(Vector(width=8), blocks=1, layers=1, features=8, noise=0.3)
        stack = build_coupling(options, (0, 0, 0), 2, key=jax.random.key(0))
        return AugmentedCouplingFlow(stack=stack, prior=Normal(), n_particles=3, dimension=2, augmented=1, noise=0.3, scale=scale)

    def draw(self, flow: AugmentedCouplingFlow, **options: Any) -> Any:
        return prepare(AugmentedLikelihood(collinearity=0.0), flow=flow, **{"batch_size": 8, "step": 3, **options})

    def test_batches_depend_on_seed_and_step_alone(self):
        first, again, other = (self.draw(self.identity(), step=step) for step in (3, 3, 4))
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        assert not np.array_equal(first.data, other.data)
        assert not np.array_equal(first.noise, other.noise)
        assert first.noise.shape == (8, 3, 1, 2)

    def test_loss_of_the_identity_is_the_nll_of_the_prior(self):
        flow = self.identity()
        batch = self.draw(flow)
        objective = AugmentedLikelihood().bound(Setting(flow, PLANAR, 8))
        losses = jax.jit(objective.losses)(flow.network, batch)
        # The copies of the prior are drawn as those of the data, so that they cancel.
        expected = 0.5 * np.sum(batch.data**2, axis=(1, 2)) + 2.0 * np.log(2 * np.pi)
        np.testing.assert_allclose(losses, expected, rtol=1e-4)

    @pytest.mark.parametrize("reflections", [False, True])
    def test_frames_are_turned_for_networks_that_do_not_know_rotations(self, reflections):
        plain = build_flow(EACF(NoProjection(), blocks=1, layers=1, features=8, noise=0.3), PLANAR, 1.0, key=jax.random.key(0))
        setting = Setting(plain, dataclasses.replace(PLANAR, reflections=reflections), 200, 1)
        turned = AugmentedLikelihood().bound(setting).propose((), None, FRAMES, step=3).batch
        as_they_are = self.draw(self.identity(), batch_size=200)
        gram = [np.einsum("bij,bkj->bik", batch.data, batch.data) for batch in (as_they_are, turned)]
        np.testing.assert_allclose(gram[1], gram[0], atol=1e-4)
        areas = [np.linalg.det(batch.data[:, :2]) for batch in (as_they_are, turned)]
        mirrored = np.mean(areas[0] * areas[1] < 0)
        assert (0.3 < mirrored < 0.7) if reflections else mirrored == 0
        assert np.abs(turned.data - as_they_are.data).max() > 0.1

    def test_a_penalty_without_frames_is_refused(self):
        with pytest.raises(ConfigError, match="collinearity=2.0 would have no effect: the target has 2 dimensions"):
            AugmentedLikelihood(collinearity=2.0).bound(Setting(self.identity(), PLANAR, 8))
