"""Samples that are kept with probabilities of their own: estimates stay what they are."""

import numpy as np
import pytest

from boltzflow.errors import DataError
from boltzflow.sampling.samples import Samples
from boltzflow.sampling.thinning import thinned, thinning

N = 40_000


@pytest.fixture(scope="module")
def samples():
    # A standard normal in place of one of variance 1.2²; the first coordinate alone matters.
    x = np.random.default_rng(0).normal(size=N)
    positions = np.zeros((N, 2, 1))
    positions[:, 0, 0], positions[:, 1, 0] = x, -x
    log_q = -0.5 * x**2 - 0.5 * np.log(2 * np.pi)
    status = np.zeros(N, int)
    return Samples(positions, log_q, 0.5 * (x / 1.2) ** 2, status, status, np.zeros(N))


def test_estimates_stay_consistent_and_rare_regions_lose_no_precision(samples):
    rare = samples.positions[:, 0, 0] > 2.0
    found = thinned(samples, np.where(rare, 1.0, 0.1), seed=1)
    assert 0.1 * N < found.n < 0.14 * N
    assert np.sum(found.positions[:, 0, 0] > 2.0) == rare.sum()
    log_z = found.log_z()
    assert log_z.low - 0.02 < np.log(1.2 * np.sqrt(2 * np.pi)) < log_z.high + 0.02
    inside = found.positions[:, 0, 0] > 2.0
    difference = found.free_energy_difference(inside, ~inside)
    tail = 0.0477903522728147  # 1 - Phi(2 / 1.2)
    assert difference.low - 0.05 < -np.log(tail / (1 - tail)) < difference.high + 0.05
    plain = samples.take(np.arange(found.n))
    there = plain.positions[:, 0, 0] > 2.0
    other = plain.free_energy_difference(there, ~there)
    assert difference.high - difference.low < 0.7 * (other.high - other.low)


def test_all_are_kept_as_they_are(samples):
    found = thinned(samples, np.ones(N), seed=0)
    np.testing.assert_array_equal(found.log_q, samples.log_q)
    np.testing.assert_array_equal(found.log_weight, samples.log_weight)


def test_the_same_seed_keeps_the_same_samples(samples):
    keep = np.full(N, 0.5)
    first, again, other = (thinned(samples, keep, seed=seed).u for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert first.size != other.size or (first != other).any()


@pytest.mark.parametrize("value", [0.0, 1.5, np.nan])
def test_probabilities_must_be_probabilities(value):
    with pytest.raises(DataError):
        thinning(np.array([1.0, value]), seed=0)


def test_nothing_kept_is_said(samples):
    with pytest.raises(DataError, match="no sample is kept"):
        thinning(np.full(3, 1e-12), seed=0)
