"""Optimisers on flat parameters: which of them Muon orthogonalises, and how long its steps are."""

import dataclasses
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from boltzflow.config import Adam, Muon, Optimiser
from boltzflow.nets.mlp import Dense
from boltzflow.nets.stacking import stacked
from boltzflow.training import transforms
from boltzflow.training.optimisers import optimiser
from boltzflow.training.parameters import flat, with_parameters

MUON = Muon(clip_norm=1e9, learning_rate=1.0, warmup_steps=0)


def maps(count: int) -> Dense:
    return stacked(lambda key: Dense(6, 4, key=key), count, key=jax.random.key(0))


def first_step(network: Dense, gradient: Dense, options: Optimiser) -> Dense:
    """What is subtracted from the parameters at a learning rate of 1."""
    transform = optimiser(options, 10, network)
    state, norm = transform.init(flat(network)), jnp.linalg.norm(flat(gradient))
    updates, _ = transform.update(flat(gradient), state, flat(network), norm=norm, step=jnp.asarray(0))
    return cast(Dense, with_parameters(network, -jnp.asarray(updates)))


@pytest.fixture
def gradient() -> Dense:
    # Singular values over three orders of magnitude, so that an orthogonal step is another one than a scaled gradient.
    rng = np.random.default_rng(0)
    left, right = np.linalg.qr(rng.normal(size=(3, 6, 6)))[0], np.linalg.qr(rng.normal(size=(3, 4, 4)))[0]
    weight = left[:, :, :4] * np.geomspace(1.0, 1e-2, 4) @ right
    return eqx.tree_at(
        lambda dense: (dense.weight, dense.bias),
        maps(3),
        (jnp.asarray(weight, jnp.float32), jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)),
    )


def test_muon_takes_steps_that_are_nearly_orthogonal_and_descend(gradient):
    step = first_step(maps(3), gradient, MUON)
    for taken, towards in zip(np.asarray(step.weight), np.asarray(gradient.weight), strict=True):
        values = np.linalg.svd(taken, compute_uv=False)
        assert values.min() > 0.4 * values.max()
        assert np.sum(taken * towards) > 0.0
        # The published common size: that of a step of Adam.
        assert np.sqrt(np.mean(taken**2)) == pytest.approx(0.2, rel=0.3)


def test_muon_treats_each_layer_of_a_stack_by_itself(gradient):
    together = first_step(maps(3), gradient, MUON)
    for layer in range(3):
        own = jax.tree.map(lambda a, layer=layer: a[layer : layer + 1], gradient)
        alone = first_step(maps(1), own, MUON)
        np.testing.assert_allclose(together.weight[layer], alone.weight[0], rtol=1e-4, atol=1e-6)


def test_muon_leaves_biases_to_adam(gradient):
    # The first step of Adam has one size everywhere.
    step = first_step(maps(3), gradient, MUON)
    assert step.bias is not None
    size = np.abs(np.asarray(step.bias))
    np.testing.assert_allclose(size, size.mean(), rtol=1e-3)
    np.testing.assert_array_equal(np.sign(np.asarray(step.bias)), np.sign(gradient.bias))


def test_decay_pulls_weights_towards_zero(gradient):
    network = maps(3)
    plain = first_step(network, gradient, MUON)
    decayed = first_step(network, gradient, dataclasses.replace(MUON, weight_decay=0.5))
    np.testing.assert_allclose(decayed.weight - plain.weight, 0.5 * network.weight, rtol=1e-3, atol=1e-5)


def test_adam_takes_steps_of_one_size(gradient):
    step = first_step(maps(3), gradient, Adam(clip_norm=1e9, learning_rate=1.0, warmup_steps=0))
    np.testing.assert_allclose(np.abs(step.weight), 1.0, rtol=1e-3)


class TestTransforms:
    """Each by itself, on a gradient that passes through what it guards as it is."""

    @staticmethod
    def run(transform, norms, *, parameters=None, updates=None):
        parameters = jnp.asarray([1.0, -2.0]) if parameters is None else parameters
        state, taken = transform.init(parameters), []
        for step, norm in enumerate(norms):
            given = jnp.asarray([0.6, 0.8]) * norm if updates is None else updates
            found, state = transform.update(given, state, parameters, norm=jnp.asarray(norm), step=jnp.asarray(step))
            taken.append(np.asarray(found))
        return np.array(taken), state

    def test_clipping_by_the_median_of_the_norms_before(self):
        taken, state = self.run(transforms.clip_by_median(2.0), [1.0, 3.0, 5.0, 100.0])
        # Medians of what came before: none, 1, 2, 3.
        np.testing.assert_allclose(np.linalg.norm(taken, axis=1), [1.0, 2.0, 4.0, 6.0], rtol=1e-6)
        assert int(state.seen) == 4

    def test_what_is_far_above_the_median_is_left_out_but_remembered(self):
        inner = optax.trace(decay=0.5)
        taken, state = self.run(transforms.skip_above_median(inner, 3.0), [1.0, 1.0, 10.0, 10.0, 10.0])
        norms = np.linalg.norm(taken, axis=1)
        # The median is 1 until three of five have the new size; then 5.5 lets them pass.
        np.testing.assert_allclose(norms[:4], [1.0, 1.5, 0.0, 0.0], rtol=1e-6)
        np.testing.assert_allclose(norms[4], 10.0 + 0.5 * 1.5, rtol=1e-6)
        assert int(transforms.skipped(state)) == 2

    def test_what_is_not_finite_changes_nothing(self):
        chain = transforms.skip_nonfinite(optax.chain(optax.trace(decay=0.5), transforms.average(0.9)))
        taken, state = self.run(chain, [1.0, np.nan, 1.0])
        assert np.all(taken[1] == 0.0)
        np.testing.assert_allclose(np.linalg.norm(taken[2]), 1.5, rtol=1e-6)
        assert int(transforms.skipped(state)) == 1
        assert np.all(np.isfinite(transforms.averaged(state)))

    def test_the_average_sees_the_whole_step_and_has_a_short_memory_at_first(self):
        parameters, updates = jnp.asarray([1.0, -2.0]), jnp.asarray([0.5, 0.5])
        _, state = self.run(transforms.average(0.9), [1.0], parameters=parameters, updates=updates)
        # 1 / 10 of the old, 9 / 10 of the new.
        np.testing.assert_allclose(transforms.averaged(state), parameters + 0.9 * updates, rtol=1e-6)

    def test_steps_left_out_do_not_hold_the_schedule_back(self):
        rate = optax.linear_schedule(1.0, 0.0, 4)
        chain = transforms.skip_nonfinite(transforms.scale_by_schedule(rate))
        taken, _ = self.run(chain, [1.0, np.nan, 1.0])
        np.testing.assert_allclose(np.linalg.norm(taken, axis=1), [1.0, 0.0, 0.5], rtol=1e-6)
