"""Intervals and comparisons of correlated samples, on autoregressive chains whose density is normal."""

import math

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import norm

from boltzflow.analysis import agreement, free_energy
from boltzflow.errors import DataError

RHO = 0.9
EDGES = np.linspace(-3.0, 3.0, 21)


def chain(seed: int, n: int = 20_000, shift: float = 0.0) -> np.ndarray:
    """A standard normal first-order autoregressive series, whose mean has 19 times the variance of independent draws."""
    noise = np.random.default_rng(seed).standard_normal(n) * math.sqrt(1 - RHO**2)
    noise[0] /= math.sqrt(1 - RHO**2)
    return np.asarray(lfilter([1.0], [1.0, -RHO], noise)) + shift


def test_blocks_widen_the_interval_of_a_difference_to_what_correlated_samples_know():
    exact = math.log(norm.cdf(1.0) / norm.sf(1.0))
    hits = {None: 0, 64: 0}
    for seed in range(60):
        above = chain(seed) > 1.0
        for blocks in hits:
            estimate = free_energy.difference(np.zeros(above.size), above, ~above, seed=seed, blocks=blocks)
            hits[blocks] += estimate.low <= exact <= estimate.high
            assert estimate.n == above.size
    assert hits[64] >= 51
    assert hits[None] <= 45


def test_blocks_leave_the_value_as_it_is():
    above = chain(0, 1001) > 1.0
    single, blocked = (free_energy.difference(np.zeros(1001), above, ~above, blocks=blocks) for blocks in (None, 13))
    assert single.value == pytest.approx(blocked.value, abs=1e-12)
    profiles = [free_energy.profile(np.zeros(1001), chain(0, 1001), EDGES, blocks=blocks) for blocks in (None, 13)]
    np.testing.assert_array_equal(profiles[0].free_energy, profiles[1].free_energy)


def test_blocks_widen_the_band_of_a_profile_to_what_correlated_samples_know():
    exact = -np.log(np.diff(norm.cdf(EDGES)))
    inside = []
    for seed in range(20):
        profile = free_energy.profile(np.zeros(20_000), chain(seed), EDGES, seed=seed, blocks=64)
        centre = slice(5, 15)
        # The band is about the whole profile, whose constant is that of the bin at the minimum.
        shift = np.mean(profile.free_energy[centre] - exact[centre])
        inside.append((profile.low[centre] <= exact[centre] + shift) & (exact[centre] + shift <= profile.high[centre]))
    assert np.mean(inside) > 0.85


def test_sets_of_the_same_density_disagree_as_often_as_chance_does():
    found = [agreement.of_histograms(chain(2 * i), chain(2 * i + 1), EDGES, seed=i, replicas=400) for i in range(60)]
    assert sum(not outcome.agree for outcome in found) <= 9
    assert np.mean([outcome.p_value for outcome in found]) == pytest.approx(0.5, abs=0.15)
    assert np.mean([outcome.within / outcome.bins for outcome in found]) == pytest.approx(0.95, abs=0.04)
    assert all(outcome.expected == pytest.approx(outcome.bins, rel=0.05) for outcome in found)


def test_rare_bins_of_a_smaller_set_do_not_make_it_disagree():
    wide = np.linspace(-5.0, 5.0, 41)
    found = [agreement.of_histograms(chain(2 * i), chain(2 * i + 1, 4000), wide, blocks=40, seed=i, replicas=400) for i in range(60)]
    assert sum(not outcome.agree for outcome in found) <= 9
    assert all(20 < outcome.bins < 30 for outcome in found)


def test_a_basin_that_one_set_has_never_entered_makes_it_disagree():
    values = chain(0)
    values[:400] += 20.0
    outcome = agreement.of_histograms(np.concatenate([values, values]), chain(1), np.linspace(-5.0, 25.0, 31))
    assert not outcome.agree


def test_sets_of_different_densities_are_told_apart():
    outcome = agreement.of_histograms(chain(0), chain(1, shift=0.4), EDGES)
    assert not outcome.agree
    assert outcome.within < outcome.bins
    assert outcome.sentence().startswith("DISAGREE: chi-square")


def test_bad_arguments():
    with pytest.raises(DataError, match="cannot be divided into 64 blocks"):
        agreement.of_histograms(np.zeros(10), np.zeros(10), EDGES)
    with pytest.raises(DataError, match="no value lies between -3 and 3"):
        agreement.of_histograms(np.full(100, 9.0), np.zeros(100), EDGES)
