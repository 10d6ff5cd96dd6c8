"""Chains over proposals of a flow with local moves: stationary, counted, continued to the same bits, and refused where they cannot be."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow import targets
from boltzflow.errors import ConfigError, DataError, TargetError
from boltzflow.sampling import correct
from boltzflow.sampling.correct import chains
from boltzflow.sampling.correct.spaces import Space
from boltzflow.sampling.samples import Samples
from boltzflow.sampling.thinning import thinned
from corrections import goes_on_after_trouble, normal

WIDTH = 0.4
FREEDOM = 4


def gaussian(x):
    return 0.5 * jnp.sum((x - jnp.mean(x, axis=0, keepdims=True)) ** 2) / WIDTH**2


@pytest.fixture(scope="module")
def target():
    return targets.from_function(gaussian, 3, 2, name="gaussian")


@pytest.fixture(scope="module")
def flow(target):
    return normal(target, 0.55, scale=0.7)


ASKED: Any = {"seed": 4, "chains": 16, "leapfrog": 2}


@pytest.fixture(scope="module")
def whole(flow, target):
    return correct.metropolis(flow, target, 16 * 16 * 40, **ASKED)


def test_means_are_exact_and_intervals_say_so(whole):
    energy = whole.expectation(whole.u)
    assert energy.low < FREEDOM / 2 < energy.high
    assert energy.high - energy.low < 0.2
    square = whole.expectation(whole.u**2)
    assert square.low < FREEDOM / 2 * (FREEDOM / 2 + 1) < square.high
    # Correlated samples are worth fewer than their number.
    assert energy.n == whole.n
    assert energy.n_effective < whole.n
    assert 0.05 < whole.ess().value <= 1.0
    found = whole.meta["diagnostics"]
    assert 0.2 < found["acceptance"] < 0.9
    assert found["local_acceptance"] > 0.6
    assert found["r_hat"] < 1.05
    assert found["longest_stay"] >= 2
    assert found["autocorrelation_time"] >= 1.0
    assert math.isnan(whole.log_z().value)
    assert "chains know no log Z" in whole.log_z().note
    assert whole.summary()["log_z"]["value"] is None


@pytest.mark.slow
def test_one_step_leaves_the_target_as_it_is(flow, target):
    """From exact draws of the target, one step of each part: the distribution of the energy is still that of the target."""
    space = Space(flow, target, geometric=False)
    count = 20_000
    x = np.random.default_rng(0).normal(size=(count, 3, 2)) * WIDTH
    x -= x.mean(axis=1, keepdims=True)
    log_q = jax.vmap(lambda p: flow.log_prob(p).log_q)(jnp.asarray(x, jnp.float32))
    state = chains.State(jnp.asarray(x, jnp.float32), log_q, jnp.zeros(count, jnp.int32))
    block = chains.advance(space, state, jnp.asarray(0.9), jnp.asarray(0.3), key=jax.random.key(1), steps=1, moves=1, leapfrog=2)
    u = np.asarray(block.u[0], np.float64)
    from scipy.stats import gamma, kstest

    moved = np.abs(np.asarray(block.positions[0]) - x).max(axis=(1, 2)) > 1e-6
    assert moved.mean() > 0.5
    assert float(block.acceptance) < 0.99
    assert kstest(u, gamma(FREEDOM / 2).cdf).pvalue > 1e-3
    # Detailed balance of the jumps: as many pairs go from below a level to above it as back.
    before = np.asarray(jax.vmap(gaussian)(jnp.asarray(x)))
    up, down = int(np.sum((before < 2) & (u >= 2))), int(np.sum((before >= 2) & (u < 2)))
    assert abs(up - down) < 4 * math.sqrt(up + down)


def test_energies_are_counted_and_kept_to(whole, flow, target):
    each = 16 * (1 + 16 * (1 + 2))
    before = 16 * 4 + 4 * each
    assert whole.meta["gradient_evaluations"] == before + 40 * each
    assert whole.meta["energy_evaluations"] == 0
    few = correct.metropolis(flow, target, energies=before + 3 * each + 7, **ASKED)
    assert few.n == 3 * 256
    assert few.meta["gradient_evaluations"] == before + 3 * each
    np.testing.assert_array_equal(few.positions, whole.positions[: few.n])
    with pytest.raises(ConfigError, match=f"allow {before + each} or more"):
        correct.metropolis(flow, target, energies=before + each - 1, **ASKED)


def test_what_a_kill_leaves_is_continued_to_the_same_bits(whole, flow, target, tmp_path):
    path = tmp_path / "chains.h5"
    correct.metropolis(flow, target, 300, out=path, **ASKED)
    found = correct.metropolis(flow, target, 5 * 256, out=path, resume=True, **ASKED)
    for name in ("positions", "u", "log_q", "stay", "group", "log_weight"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name)[: 5 * 256])
    stored = Samples.load(path, target)
    assert stored.meta["gradient_evaluations"] == 16 * 4 + 9 * 16 * 49
    assert correct.judged(stored)["longest_stay"] == found.meta["diagnostics"]["longest_stay"]
    assert stored.expectation(stored.u) == found.expectation(found.u)


@pytest.mark.parametrize("trouble", ["ctrl-c", "full disk"])
def test_trouble_in_the_middle(whole, flow, target, tmp_path, trouble):
    run = functools.partial(correct.metropolis, flow, target, 8 * 256, **ASKED)
    goes_on_after_trouble(run, whole.take(slice(8 * 256)), tmp_path / "s.h5", trouble, ("positions", "u", "stay", "group"))


def test_samples_of_chains_keep_to_themselves(whole, flow, target):
    other = correct.metropolis(flow, target, 256, **{**ASKED, "seed": 5})
    assert not set(other.group) & set(whole.group)
    joined = Samples.concatenate([whole, other])
    assert np.unique(joined.group).size == 32
    plain = dataclasses.replace(other, meta={k: v for k, v in other.meta.items() if k != "correction"})
    with pytest.raises(DataError, match="differ in the correction"):
        Samples.concatenate([whole, plain])
    assert thinned(whole, np.full(whole.n, 0.5), seed=0).grouped
    with pytest.raises(DataError, match="no chains"):
        correct.judged(plain)


@pytest.mark.slow
def test_energies_without_gradient(target):
    @jax.custom_jvp
    def stiff(x):
        return gaussian(x)

    @stiff.defjvp
    def refuse(primals, tangents):
        raise TargetError("no gradient")

    bare = dataclasses.replace(target, energy_function=stiff)
    flow = normal(bare, 0.45)
    with pytest.raises(TargetError, match="has no gradient, which Hamiltonian moves need"):
        correct.metropolis(flow, bare, 100, seed=0, moves=1)
    with pytest.raises(TargetError, match="has no gradient"):
        correct.smc(flow, bare, 100, seed=0, moves=1)
    found = correct.metropolis(flow, bare, 16 * 16 * 20, seed=0, chains=16)
    assert found.meta["gradient_evaluations"] == 0
    assert found.meta["energy_evaluations"] > 0
    energy = found.expectation(found.u)
    assert energy.low < FREEDOM / 2 < energy.high
    resampled = correct.smc(flow, bare, 20 * 64, seed=0, population=64)
    assert "direct" in resampled.meta["correction"]
    assert resampled.meta["energy_evaluations"] == 20 * 64
    log_z = resampled.log_z()
    assert log_z.low < 2.0 * math.log(2.0 * math.pi * WIDTH**2) < log_z.high


@pytest.mark.slow
def test_proposals_that_fail_cost_themselves(target):
    def cracked(x):
        return jnp.where(jnp.abs(x[0, 0]) < 0.05, jnp.nan, gaussian(x))

    broken = targets.Target("cracked", 3, 2, cracked, (0, 0, 0))
    found = correct.metropolis(normal(broken, 0.55, broken=0.2), broken, 16 * 16 * 10, **ASKED)
    assert np.isfinite(found.u).all()
    assert (np.abs(found.positions[:, 0, 0]) >= 0.05).all()

    def nowhere(x):
        return gaussian(x) + jnp.nan

    nothing = targets.Target("nowhere", 3, 2, nowhere, (0, 0, 0))
    with pytest.raises(DataError, match="no chain can begin"):
        correct.metropolis(normal(nothing, 0.5), nothing, 100, seed=0)
    with pytest.raises(DataError, match="has no energy"):
        correct.metropolis(normal(target, 0.5), targets.Target("none", 3, 2, None, (0, 0, 0)), 10, seed=0)
