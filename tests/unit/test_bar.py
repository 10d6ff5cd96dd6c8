"""Bennett's acceptance ratio: closed forms, and intervals that hold."""

import jax
import numpy as np
import pytest
from scipy import stats

from boltzflow.analysis import bar, correlation, weights
from boltzflow.errors import DataError

LOG_Z = 3.0


def sets(rng, n, m, shift=0.8, width=1.3):
    """Samples of a normal q and of a normal p, with their log-weights; p~ is e^3 times normalised."""
    x, y = rng.normal(shift, width, n), rng.normal(size=m)
    log_w = lambda z: LOG_Z + stats.norm.logpdf(z) - stats.norm.logpdf(z, shift, width)  # noqa: E731
    return x, y, log_w(x), log_w(y)


def test_equal_densities_need_no_samples_to_agree():
    found = bar.between(np.full(50, LOG_Z), np.full(70, LOG_Z), replicas=20)
    assert found.log_z.value == pytest.approx(LOG_Z, abs=1e-6)
    assert found.overlap == pytest.approx(1.0)
    # JAX makes the attributes of its options at run time.
    assert not jax.config.jax_enable_x64, "pymbar must not switch the precision of the process"  # pyright: ignore[reportAttributeAccessIssue]


def test_samples_of_overlapping_particles_count_as_good_as_nothing():
    rng = np.random.default_rng(3)
    _, _, log_x, log_y = sets(rng, 400, 300)
    # Energies of clashes, finite and of any size, in the place of failures.
    clashes = -(10.0 ** rng.uniform(3, 9, 40))
    failed, clashed = (bar.between(np.concatenate([log_x, bad]), log_y, seed=2, replicas=60) for bad in (np.full(40, -np.inf), clashes))
    assert clashed.log_z.value == pytest.approx(failed.log_z.value, abs=1e-6)
    assert clashed.log_z.low == pytest.approx(failed.log_z.low, abs=1e-6)
    assert clashed.log_z.high == pytest.approx(failed.log_z.high, abs=1e-6)
    assert clashed.standard_error == pytest.approx(failed.standard_error, rel=1e-3)
    energies = np.concatenate([np.full(440, 0.5), np.full(300, 0.7)])
    mean = clashed.expectation(energies[:440], energies[440:])
    assert 0.5 < mean.low <= mean.high < 0.7


def test_sets_without_a_region_in_common_have_no_interval():
    rng = np.random.default_rng(5)
    _, _, log_x, log_y = sets(rng, 400, 300)
    found = bar.between(log_x - 50.0, log_y + 50.0, seed=2, replicas=60).log_z
    assert (found.low, found.high, found.kind) == (-np.inf, np.inf, "none")
    assert "no region in common" in found.note
    assert bar.between(log_x - 2.0, log_y + 2.0, seed=2, replicas=60).log_z.kind == "two-sided"


def test_frames_that_the_flow_hardly_knows_have_next_to_no_share():
    rng = np.random.default_rng(4)
    _, _, log_x, log_y = sets(rng, 400, 300)
    some, most = (bar.between(log_x, np.append(log_y, far), seed=2, replicas=60) for far in ([60.0, 60.0], [1e4, 1e7]))
    assert most.log_z.value == pytest.approx(some.log_z.value, abs=1e-6)
    assert most.log_z.high == pytest.approx(some.log_z.high, abs=1e-6)
    assert most.standard_error == pytest.approx(some.standard_error, rel=1e-3)


def test_intervals_of_both_sets_hold_and_are_narrower_than_those_of_one():
    held, means, differences, narrower = [], [], [], []
    inside = stats.norm.sf(1.0)
    for seed in range(1000, 1060):
        rng = np.random.default_rng(seed)
        x, y, log_x, log_y = sets(rng, 400, 300)
        found = bar.between(log_x, log_y, seed=seed, replicas=100)
        held.append(found.log_z.low <= LOG_Z <= found.log_z.high)
        mean = found.expectation(x, y)
        means.append(mean.low <= 0.0 <= mean.high)
        difference = found.free_energy_difference(x > 1.0, x <= 1.0, y > 1.0, y <= 1.0)
        differences.append(difference.low <= np.log((1 - inside) / inside) <= difference.high)
        alone = weights.log_z(log_x, seed=seed)
        narrower.append(found.log_z.high - found.log_z.low < alone.high - alone.low)
    assert min(np.mean(held), np.mean(means), np.mean(differences)) >= 0.88
    assert np.mean(narrower) > 0.8


def test_frames_in_chains_widen_the_interval():
    rng = np.random.default_rng(1)
    noise = rng.normal(size=4_000) * np.sqrt(1 - 0.95**2)
    y = np.zeros(4_000)
    for i in range(1, 4_000):
        y[i] = 0.95 * y[i - 1] + noise[i]
    x = rng.normal(0.8, 1.3, 4_000)
    log_w = lambda z: LOG_Z + stats.norm.logpdf(z) - stats.norm.logpdf(z, 0.8, 1.3)  # noqa: E731
    plain, blocks = (bar.between(log_w(x), log_w(y), grouping=g, replicas=60) for g in (None, correlation.of_series(log_w(y))))
    assert blocks.log_z.high - blocks.log_z.low > 1.5 * (plain.log_z.high - plain.log_z.low)


def test_the_solution_is_that_of_pymbar():
    from pymbar.other_estimators import bar as oracle

    _, _, log_x, log_y = sets(np.random.default_rng(5), 500, 300)
    found = bar.between(log_x, log_y, replicas=100)
    other = oracle(-log_x, log_y)
    assert found.log_z.value == pytest.approx(-other["Delta_f"], abs=1e-6)
    assert found.standard_error == pytest.approx(other["dDelta_f"], rel=1e-4)
    assert found.log_z.high - found.log_z.low == pytest.approx(2 * 1.96 * found.standard_error, rel=0.3)


def test_profiles_are_those_of_the_target():
    x, y, log_x, log_y = sets(np.random.default_rng(2), 4_000, 4_000)
    edges = np.linspace(-2.0, 2.0, 9)
    height, ends = bar.between(log_x, log_y, replicas=60).profile(x, y, edges)
    exact = -np.log(np.diff(stats.norm.cdf(edges)))
    exact -= exact[int(np.argmin(height))]
    assert np.mean((ends[:, 0] <= exact + 1e-9) & (exact - 1e-9 <= ends[:, 1])) >= 0.75
    np.testing.assert_allclose(height, exact, atol=0.2)


def test_failed_samples_count_as_samples_without_weight():
    rng = np.random.default_rng(3)
    _, _, log_x, log_y = sets(rng, 20_000, 20_000)
    # Half of the flow's probability is wasted: it is a flow of half the density where it has any.
    wasted = np.concatenate([log_x + np.log(2.0), np.full(20_000, -np.inf)])
    found = bar.between(wasted, log_y + np.log(2.0), replicas=20)
    assert found.log_z.value == pytest.approx(LOG_Z, abs=0.05)


def test_nearly_all_samples_may_have_failed():
    # The flow has 0.2 % of its probability where the target is, and is even there.
    log_w = LOG_Z - np.log(0.002)
    own = np.concatenate([np.full(40, log_w), np.full(19_960, -np.inf)])
    found = bar.between(own, np.full(20_000, log_w), replicas=200)
    assert found.log_z.value == pytest.approx(LOG_Z, abs=1e-6)
    # As uncertain as the logarithm of a count of 40.
    assert found.standard_error == pytest.approx(1 / np.sqrt(40), rel=0.05)
    assert found.log_z.high - found.log_z.low == pytest.approx(2 * 1.96 / np.sqrt(40), rel=0.25)


def test_what_cannot_be_joined_is_refused():
    with pytest.raises(DataError, match="at least two samples"):
        bar.between([-np.inf, -np.inf, 0.0], [0.0, 1.0])
    with pytest.raises(DataError, match="log-weights of frames must be finite"):
        bar.between([0.0, 1.0], [0.0, np.inf])
    with pytest.raises(DataError, match="pass one for each"):
        bar.between([0.0, 1.0], [0.0, 1.0], replicas=3).expectation([1.0], [1.0, 2.0])
