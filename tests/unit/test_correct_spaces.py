"""Where flow and target meet: weights as plain samples have them, gradients, and the one enantiomer that counts."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow.chemistry.chirality import ChiralCentre, chirality_signs
from boltzflow.flows import AugmentedCouplingFlow
from boltzflow.models import load_model
from boltzflow.sampling import correct
from boltzflow.sampling.correct.moves import Parts, Walker, move
from boltzflow.sampling.correct.spaces import Space
from boltzflow.targets.base import Target
from corrections import normal

WIDTH = 0.4


def gaussian(x):
    return 0.5 * jnp.sum((x - jnp.mean(x, axis=0, keepdims=True)) ** 2) / WIDTH**2


def test_a_move_is_reversible_and_counts_what_it_keeps():
    """Leapfrog there and back, by the kernel's own integrator: a step with the end's momentum turned round ends where it began."""

    def evaluate(x):
        log_p, grad_p = jax.value_and_grad(lambda x: -jnp.sum(x**4) + x[0] * x[1])(x)
        log_q, grad_q = jax.value_and_grad(lambda x: -0.5 * jnp.sum(x**2) * 0.3)(x)
        return Parts(log_p, log_q, grad_p, grad_q)

    with jax.enable_x64(True):
        b = jnp.asarray(0.6)
        keys = jax.random.split(jax.random.key(0), 4000)
        # From the exact density: by rejection from a normal.
        rng = np.random.default_rng(0)
        x = rng.normal(size=(400_000, 2)) * 0.9
        log_f = 0.6 * (-np.sum(x**4, axis=1) + x[:, 0] * x[:, 1]) - 0.4 * 0.15 * np.sum(x**2, axis=1)
        log_f += 0.5 * np.sum(x**2, axis=1) / 0.81
        x = x[np.log(rng.random(len(x))) < log_f - log_f.max()][:4000]
        walkers = Walker(jnp.asarray(x), jax.vmap(evaluate)(jnp.asarray(x)))
        step = jax.jit(jax.vmap(lambda w, k: move(evaluate, w, b, jnp.asarray(0.5), jnp.ones(2), leapfrog=3, key=k)))
        moved, rates = step(walkers, keys)
    y = np.asarray(moved.coordinates)
    assert 0.5 < float(np.asarray(rates).mean()) < 0.999
    assert np.abs(y - x).max() > 0.5
    # What is carried along is what is there.
    with jax.enable_x64(True):
        again = jax.vmap(evaluate)(moved.coordinates)
        for kept, fresh in zip(moved.parts, again, strict=True):
            np.testing.assert_allclose(np.asarray(kept), np.asarray(fresh), rtol=1e-10, atol=1e-12)
    for statistic in (lambda z: z[:, 0] ** 2, lambda z: z[:, 0] * z[:, 1], lambda z: np.abs(z[:, 1])):
        change = statistic(y) - statistic(x)
        assert abs(change.mean()) < 4.0 * change.std() / math.sqrt(len(x))


def test_weights_of_chirality():
    """Half of the configurations of a normal have the right hand; mirror images of the others count in their place."""
    centre = ChiralCentre(0, (1, 2, 3, 4), 1)
    target = Target("hands", 5, 3, gaussian, tuple(range(5)), reflections=False, chiral_centres=(centre,))
    flow = normal(target, 0.45)
    space = Space(flow, target, geometric=True)
    drawn = jax.vmap(lambda key: space.draw(key=key))(jax.random.split(jax.random.key(0), 500))
    positions = np.asarray(space.positions(drawn.coordinates))
    assert (chirality_signs(positions, target.chiral_centres) > 0).all()
    parts = jax.vmap(space.parts)(drawn.coordinates)
    np.testing.assert_allclose(np.asarray(parts.log_q), np.asarray(drawn.log_q), atol=1e-4)
    assert np.isneginf(np.asarray(jax.vmap(space.parts)(-drawn.coordinates).log_p)).all()
    # The mean weight is Z of the right half.
    log_weight = np.asarray(parts.log_p - drawn.log_q, np.float64)
    truth = 6.0 * math.log(2.0 * math.pi * WIDTH**2) - math.log(2.0)
    weight = np.exp(log_weight - truth)
    assert weight.mean() == pytest.approx(1.0, abs=4 * weight.std() / math.sqrt(500))


@pytest.mark.slow
def test_moves_never_change_the_hand():
    centre = ChiralCentre(0, (1, 2, 3, 4), -1)
    target = Target("hands", 5, 3, gaussian, tuple(range(5)), reflections=False, chiral_centres=(centre,))
    target.mark_checked()
    flow = normal(target, 0.45)
    truth = 6.0 * math.log(2.0 * math.pi * WIDTH**2) - math.log(2.0)
    annealed = correct.smc(flow, target, 40 * 64, seed=1, path="geometric", population=64)
    chained = correct.metropolis(flow, target, 16 * 16 * 10, seed=1, chains=16)
    for samples in (annealed, chained):
        weighty = np.isfinite(samples.log_weight)
        assert (chirality_signs(samples.positions[weighty], target.chiral_centres) > 0).all()
        energy = samples.expectation(samples.u)
        assert abs(energy.value - 6.0) < energy.high - energy.low
    found = annealed.log_z()
    assert abs(found.value - truth) < found.high - found.low


@pytest.mark.slow
def test_the_joint_space_of_an_augmented_flow():
    """Weights are those of plain samples, the gradient is that of differences, and copies are moved with their own scale."""
    model = load_model("dw4-eacf")
    flow, target = model.flow, model.target
    assert isinstance(flow, AugmentedCouplingFlow)
    space = Space(flow, target, geometric=True)
    assert space.size == 6 + 8 * flow.augmented
    keys = jax.random.split(jax.random.key(3), 16)
    drawn = jax.jit(jax.vmap(lambda key: space.draw(key=key)))(keys)
    parts = jax.jit(jax.vmap(space.parts))(drawn.coordinates)
    plain = jax.jit(jax.vmap(lambda key: flow.sample_and_log_prob(key=key)))(keys)
    np.testing.assert_allclose(np.asarray(space.positions(drawn.coordinates)), np.asarray(plain.positions), atol=1e-5)
    log_weight = -np.asarray(jax.vmap(target.energy)(plain.positions)) - np.asarray(plain.log_q)
    np.testing.assert_allclose(np.asarray(parts.log_p - parts.log_q), log_weight, atol=2e-3)
    direction = np.random.default_rng(0).normal(size=space.size)
    direction /= np.linalg.norm(direction)
    ahead, behind = (jax.jit(jax.vmap(space.parts))(drawn.coordinates + sign * 1e-2 * direction[None]) for sign in (1, -1))
    for value, grad in (("log_p", parts.grad_p), ("log_q", parts.grad_q)):
        slope = (np.asarray(getattr(ahead, value)) - np.asarray(getattr(behind, value))) / 2e-2
        np.testing.assert_allclose(np.asarray(grad) @ direction, slope, rtol=0.1, atol=0.15)
