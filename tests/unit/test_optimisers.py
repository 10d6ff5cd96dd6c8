"""Optimisers on flat parameters: which of them Muon orthogonalises, and how long its steps are."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow.config import TrainingConfig
from boltzflow.nets.mlp import Dense
from boltzflow.nets.stacking import stacked
from boltzflow.training.optimisers import optimiser
from boltzflow.training.parameters import flat, with_parameters

MUON = TrainingConfig(optimiser="muon", clip_norm=1e9)


def maps(count: int) -> Dense:
    return stacked(lambda key: Dense(6, 4, key=key), count, key=jax.random.key(0))


def first_step(network: eqx.Module, gradient: eqx.Module, config: TrainingConfig) -> eqx.Module:
    """What is subtracted from the parameters at a learning rate of 1."""
    transform = optimiser(config, network)
    updates, _ = transform.update(flat(gradient), transform.init(flat(network)), flat(network))
    return with_parameters(network, jnp.asarray(updates))


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
    np.testing.assert_allclose(np.abs(step.bias), np.abs(step.bias).mean(), rtol=1e-3)
    np.testing.assert_array_equal(np.sign(step.bias), np.sign(gradient.bias))


def test_decay_pulls_weights_towards_zero(gradient):
    network = maps(3)
    plain = first_step(network, gradient, MUON)
    decayed = first_step(network, gradient, dataclasses.replace(MUON, weight_decay=0.5))
    np.testing.assert_allclose(decayed.weight - plain.weight, 0.5 * network.weight, rtol=1e-3, atol=1e-5)


def test_adam_is_the_default(gradient):
    step = first_step(maps(3), gradient, TrainingConfig(clip_norm=1e9))
    np.testing.assert_allclose(np.abs(step.weight), 1.0, rtol=1e-3)
