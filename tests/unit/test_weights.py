"""Estimators against closed forms: if log w ~ normal(mu, s^2) under the flow, ESS = exp(-s^2) and log Z = mu + s^2 / 2."""

import json
import math

import numpy as np
import pytest

from boltzflow.analysis import Estimate, free_energy, metrics, observables, weights
from boltzflow.errors import DataError


def normal_log_weights(n: int, s: float, mu: float = 0.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mu, s, n)


def gaussian_proposal(n: int, width: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """x from a normal of the given width, with log-weights against exp(-x^2 / 2), whose log Z is log(2 pi) / 2."""
    x = np.random.default_rng(seed).normal(0.0, width, n)
    log_q = -0.5 * (x / width) ** 2 - math.log(width) - 0.5 * math.log(2 * math.pi)
    return x, -0.5 * x**2 - log_q


class TestClosedForms:
    def test_log_normal(self) -> None:
        log_w = normal_log_weights(60_000, 0.8, mu=3.0)
        assert weights.reverse_ess(log_w).value == pytest.approx(math.exp(-0.64), rel=0.02)
        assert weights.log_z(log_w).value == pytest.approx(3.0 + 0.32, abs=0.01)

    def test_gaussian_proposal(self) -> None:
        x, log_w = gaussian_proposal(60_000, width=1.5)
        # (E_q w)^2 / E_q w^2 for normals of variance 1 (target) and v (flow): sqrt(2 v - 1) / v.
        assert weights.reverse_ess(log_w).value == pytest.approx(math.sqrt(2 * 2.25 - 1) / 2.25, rel=0.01)
        assert weights.log_z(log_w).value == pytest.approx(0.5 * math.log(2 * math.pi), abs=0.01)
        variance = weights.expectation(log_w, x**2)
        assert variance.value == pytest.approx(1.0, abs=0.02)
        assert variance.low < 1.0 < variance.high

    def test_forward_equals_reverse_in_expectation(self) -> None:
        s = 0.7
        forward = weights.forward_ess(normal_log_weights(60_000, s, mu=5.0 + s**2, seed=1))
        reverse = weights.reverse_ess(normal_log_weights(60_000, s, mu=5.0, seed=2))
        assert forward.value == pytest.approx(reverse.value, rel=0.02)
        assert forward.value == pytest.approx(math.exp(-(s**2)), rel=0.02)

    def test_forward_notices_a_missed_mode(self) -> None:
        """Half of the target where the flow puts e^-12 of its mass: reverse samples look perfect, forward ones do not."""
        assert weights.reverse_ess(np.zeros(1000)).value == 1.0
        assert weights.forward_ess(np.repeat([0.0, 12.0], 500)).value < 1e-4

    def test_perfect_flow(self) -> None:
        estimate = weights.reverse_ess(np.full(100, 7.0))
        assert (estimate.value, estimate.low, estimate.high, estimate.n) == (1.0, 1.0, 1.0, 100)
        assert weights.log_z(np.full(100, 7.0)) == Estimate(7.0, 7.0, 7.0, 100)


class TestStability:
    @pytest.mark.parametrize("constant", [-5000.0, 0.0, 5000.0])
    def test_constants_do_not_matter(self, constant: float) -> None:
        x, log_w = gaussian_proposal(2000, width=1.4)
        shifted = log_w + constant
        for estimate, reference in [
            (weights.reverse_ess(shifted), weights.reverse_ess(log_w)),
            (weights.forward_ess(shifted), weights.forward_ess(log_w)),
            (weights.expectation(shifted, x), weights.expectation(log_w, x)),
            (weights.log_z(shifted).shifted(-constant), weights.log_z(log_w)),
            (free_energy.difference(shifted, x > 0, x < 0), free_energy.difference(log_w, x > 0, x < 0)),
        ]:
            np.testing.assert_allclose(
                [estimate.value, estimate.low, estimate.high], [reference.value, reference.low, reference.high], rtol=1e-8, atol=1e-8
            )
        assert weights.pareto_k(shifted) == pytest.approx(weights.pareto_k(log_w), abs=1e-8)

    def test_one_huge_weight(self) -> None:
        log_w = np.zeros(1000)
        log_w[3] = 1e6
        estimate = weights.reverse_ess(log_w)
        assert estimate.value == pytest.approx(1 / 1000)
        # One sample seen of what carries all the weight: its share is below 4.74 / n with 95 % (Garwood), and no lower end is known.
        assert (estimate.kind, estimate.low) == ("at most", 0.0)
        assert estimate.high == pytest.approx(4.744 / 1000, rel=1e-3)
        assert weights.log_z(log_w).value == pytest.approx(1e6 - math.log(1000))

    def test_samples_without_weight_count(self) -> None:
        log_w = np.concatenate([np.zeros(750), np.full(250, -np.inf)])
        assert weights.reverse_ess(log_w).value == pytest.approx(0.75)
        assert weights.log_z(log_w).value == pytest.approx(math.log(0.75))
        assert weights.reverse_ess(log_w).n == 1000
        values = np.where(np.isfinite(log_w), 2.0, np.nan)
        assert weights.expectation(log_w, values).value == pytest.approx(2.0)

    def test_nothing_has_weight(self) -> None:
        log_w = np.full(10, -np.inf)
        none = weights.reverse_ess(log_w)
        # The rule of three: of 10 samples that were without weight, 0.05^(1/10) is 1 - 0.26, and 3 / 10 by Poisson.
        assert (none.value, none.low, none.kind) == (0.0, 0.0, "at most")
        assert none.high == pytest.approx(-math.log(0.05) / 10)
        assert weights.log_z(log_w).value == -math.inf
        assert weights.log_z(log_w).as_dict() == {
            "value": None,
            "low": None,
            "high": None,
            "n": 10,
            "kind": "none",
            "note": "none of the samples has weight",
        }
        with pytest.raises(DataError, match="none of the 10 samples has weight"):
            weights.expectation(log_w, np.ones(10))

    def test_forward_with_infinite_weights(self) -> None:
        for infinite in (np.inf, -np.inf):
            assert weights.forward_ess(np.array([0.0, 0.0, infinite])).value == 0.0

    @pytest.mark.parametrize("estimator", [weights.reverse_ess, weights.forward_ess, weights.log_z, weights.pareto_k, weights.normalized])
    @pytest.mark.parametrize(
        ("log_w", "sentence"), [([], "n = 0"), ([0.0, np.nan], "1 of 2 log-weights are NaN"), (np.zeros((2, 2)), "shape")]
    )
    def test_bad_input(self, estimator, log_w, sentence: str) -> None:
        with pytest.raises(DataError, match=sentence):
            estimator(log_w)

    def test_infinite_weight_is_refused(self) -> None:
        with pytest.raises(DataError, match=r"\+inf"):
            weights.reverse_ess([0.0, np.inf])

    def test_one_sample_has_no_interval(self) -> None:
        estimate = weights.reverse_ess([1.0])
        assert (estimate.value, estimate.n) == (1.0, 1)
        assert math.isnan(estimate.low)
        assert math.isnan(estimate.high)
        assert json.loads(json.dumps(estimate.as_dict(), allow_nan=False))["low"] is None

    def test_float32_is_computed_in_double(self) -> None:
        log_w = normal_log_weights(20_000, 0.5).astype(np.float32) - np.float32(300)
        assert weights.reverse_ess(log_w).value == pytest.approx(math.exp(-0.25), rel=0.02)


class TestIntervals:
    @staticmethod
    def coverage(estimate, truth: float, repetitions: int = 200) -> float:
        estimates = [estimate(seed) for seed in range(repetitions)]
        return float(np.mean([e.low <= truth <= e.high for e in estimates]))

    def test_reverse_ess(self) -> None:
        s = 0.6
        covered = self.coverage(lambda seed: weights.reverse_ess(normal_log_weights(1000, s, seed=seed), seed=seed), math.exp(-(s**2)))
        assert 0.88 <= covered <= 0.99

    def test_forward_ess(self) -> None:
        s = 0.6
        draw = normal_log_weights
        covered = self.coverage(lambda seed: weights.forward_ess(draw(1000, s, s**2, seed=seed), seed=seed), math.exp(-(s**2)))
        assert 0.88 <= covered <= 0.99

    def test_log_z(self) -> None:
        covered = self.coverage(lambda seed: weights.log_z(normal_log_weights(1000, 0.6, seed=seed), seed=seed), 0.18)
        assert 0.88 <= covered <= 0.99

    def test_expectation(self) -> None:
        def estimate(seed: int) -> Estimate:
            x, log_w = gaussian_proposal(1000, 1.3, seed=seed)
            return weights.expectation(log_w, x**2, seed=seed)

        assert 0.88 <= self.coverage(estimate, 1.0) <= 0.99

    def test_mean(self) -> None:
        covered = self.coverage(lambda seed: metrics.mean(np.random.default_rng(seed).exponential(2.0, 1000), seed=seed), 2.0)
        assert 0.88 <= covered <= 0.99

    def test_free_energy_difference(self) -> None:
        def estimate(seed: int) -> Estimate:
            log_w, left = two_basins(1000, seed)
            return free_energy.difference(log_w, left, ~left, seed=seed)

        assert 0.88 <= self.coverage(estimate, -math.log(0.25)) <= 0.99

    def test_same_seed_same_interval(self) -> None:
        log_w = normal_log_weights(500, 1.0)
        assert weights.reverse_ess(log_w, seed=3) == weights.reverse_ess(log_w, seed=3)
        assert weights.reverse_ess(log_w, seed=3) != weights.reverse_ess(log_w, seed=4)


def two_basins(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A flow that draws both basins alike where the left one should hold a fifth of the weight: -ln(0.2 / 0.8) = 1.386 kT."""
    rng = np.random.default_rng(seed)
    left = rng.random(n) < 0.5
    return np.where(left, math.log(0.4), math.log(1.6)) + rng.normal(0.0, 0.5, n), left


class TestFreeEnergy:
    def test_two_basins(self) -> None:
        log_w, left = two_basins(100_000)
        estimate = free_energy.difference(log_w, left, ~left)
        assert estimate.value == pytest.approx(math.log(4), abs=0.03)
        assert estimate.low < math.log(4) < estimate.high
        swapped = free_energy.difference(log_w, ~left, left)
        assert swapped.value == pytest.approx(-estimate.value)

    def test_empty_region(self) -> None:
        nowhere = np.zeros(50, bool)
        assert free_energy.difference(np.zeros(50), nowhere, ~nowhere).value == math.inf
        assert free_energy.difference(np.zeros(50), ~nowhere, nowhere).value == -math.inf
        with pytest.raises(DataError, match="neither region"):
            free_energy.difference(np.zeros(50), nowhere, nowhere)

    def test_mask_must_be_boolean(self) -> None:
        with pytest.raises(DataError, match="region A must be a boolean array of shape \\(3,\\)"):
            free_energy.difference(np.zeros(3), np.array([0, 1, 2]), np.ones(3, bool))

    def test_profile_of_a_harmonic_well(self) -> None:
        x, log_w = gaussian_proposal(100_000, width=1.5)
        log_w[:10] = -np.inf
        x[:10] = np.nan
        profile = free_energy.profile(log_w, x, np.linspace(-2, 2, 42))
        exact = 0.5 * profile.centers**2
        np.testing.assert_allclose(profile.free_energy, exact, atol=0.1)
        assert profile.free_energy.min() == 0.0
        assert np.all(profile.low <= profile.free_energy)
        assert np.all(profile.free_energy <= profile.high)
        # Only the constant is free: the bands hold the exact profile at the share they promise, give or take correlations.
        constant = np.median(profile.free_energy - exact)
        inside = (profile.low <= exact + constant) & (exact + constant <= profile.high)
        assert inside.mean() > 0.8

    def test_profile_of_empty_bins(self) -> None:
        profile = free_energy.profile(np.zeros(100), np.linspace(0, 0.99, 100), np.linspace(0, 2, 5))
        assert np.isinf(profile.free_energy[2:]).all()
        assert np.isnan(profile.low[2:]).all()


class TestParetoK:
    @pytest.mark.parametrize("k", [0.3, 0.9])
    def test_known_tail(self, k: float) -> None:
        # w = U^-k is Pareto with shape k.
        log_w = -k * np.log(np.random.default_rng(0).random(50_000))
        assert weights.pareto_k(log_w) == pytest.approx(k, abs=0.1)

    def test_agrees_with_psis(self) -> None:
        from arviz_stats.base.array import array_stats

        log_w = normal_log_weights(5000, 1.5)
        _, k = array_stats.psislw(-log_w)
        assert weights.pareto_k(log_w) == pytest.approx(float(k), abs=1e-3)

    def test_too_few_or_flat(self) -> None:
        assert math.isnan(weights.pareto_k(normal_log_weights(100, 1.0)))
        assert math.isnan(weights.pareto_k(np.zeros(5000)))
        assert math.isnan(weights.pareto_k(np.full(5000, -np.inf)))
        mostly_failed = np.full(5000, -np.inf)
        mostly_failed[:20] = np.arange(20)
        assert math.isnan(weights.pareto_k(mostly_failed))


class TestResampling:
    def test_each_index_as_often_as_its_weight(self) -> None:
        log_w = np.array([0.0, math.log(2.0), -np.inf, math.log(7.0)])
        indices = weights.resample_indices(log_w, 1000, seed=0)
        np.testing.assert_array_equal(np.bincount(indices, minlength=4), [100, 200, 0, 700])

    def test_never_without_weight(self) -> None:
        log_w = normal_log_weights(501, 2.0)
        log_w[::2] = -np.inf
        for seed in range(20):
            assert np.all(weights.resample_indices(log_w, 100, seed=seed) % 2 == 1)

    def test_order_and_seed(self) -> None:
        log_w = normal_log_weights(200, 1.0)
        first = weights.resample_indices(log_w, 50, seed=1)
        np.testing.assert_array_equal(first, weights.resample_indices(log_w, 50, seed=1))
        assert np.any(np.diff(first) < 0)
        assert np.any(first != weights.resample_indices(log_w, 50, seed=2))

    def test_zero_is_refused(self) -> None:
        with pytest.raises(DataError, match="cannot resample 0"):
            weights.resample_indices([0.0], 0, seed=0)


class TestMetrics:
    def test_histogram_integrates_to_one(self) -> None:
        x = np.random.default_rng(0).normal(size=20_000)
        histogram = metrics.histogram(x, np.linspace(-1, 1, 11))
        inside = np.sum(histogram.density * np.diff(histogram.edges))
        assert inside + histogram.outside == pytest.approx(1.0)
        assert inside == pytest.approx(0.6827, abs=0.01)
        assert np.all(histogram.low <= histogram.density)
        assert np.all(histogram.density <= histogram.high)

    def test_reweighting_repairs_the_histogram(self) -> None:
        edges = np.linspace(-4, 4, 33)
        x, log_w = gaussian_proposal(50_000, width=1.5)
        exact = metrics.histogram(np.random.default_rng(9).normal(size=50_000), edges)
        plain, reweighted = metrics.histogram(x, edges), metrics.histogram(x, edges, log_w=log_w)
        assert metrics.total_variation(exact, plain) > 0.15
        assert metrics.total_variation(exact, reweighted) < 0.03

    def test_last_edge_belongs_to_the_last_bin(self) -> None:
        histogram = metrics.histogram([0.0, 1.0, 1.0, np.nan], [0.0, 0.5, 1.0])
        np.testing.assert_allclose(histogram.density, [0.5, 1.0])
        assert histogram.outside == pytest.approx(0.25)

    def test_several_values_per_sample(self) -> None:
        values = np.array([[0.1, 0.9], [0.2, 0.3]])
        histogram = metrics.histogram(values, [0.0, 0.5, 1.0], log_w=[math.log(3.0), 0.0])
        np.testing.assert_allclose(histogram.density * 0.5, [0.75 * 0.5 + 0.25, 0.75 * 0.5])

    def test_total_variation_interval(self) -> None:
        rng = np.random.default_rng(0)
        estimate = metrics.total_variation_distance(rng.random(4000), 0.25 + rng.random(4000), np.linspace(0, 1.25, 11))
        assert estimate.low <= 0.25 <= estimate.high
        assert estimate.high - estimate.low < 0.08
        same = metrics.total_variation_distance(rng.random(4000), rng.random(4000), np.linspace(0, 1, 11))
        assert same.low < 0.01

    def test_different_bins_are_refused(self) -> None:
        first, second = (metrics.histogram([0.1], np.linspace(0, 1, n)) for n in (3, 4))
        with pytest.raises(DataError, match="different bins"):
            metrics.total_variation(first, second)

    def test_mean_refuses_nan(self) -> None:
        with pytest.raises(DataError, match="1 of 2 values are not finite"):
            metrics.mean([1.0, np.nan])


class TestObservables:
    def test_pair_distances(self) -> None:
        triangle = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
        np.testing.assert_allclose(observables.pair_distances(triangle), [3.0, 4.0, 5.0])
        np.testing.assert_allclose(observables.pair_distances(np.stack([triangle, 2 * triangle])), [[3, 4, 5], [6, 8, 10]])

    def test_radius_of_gyration(self) -> None:
        x = np.random.default_rng(0).normal(size=(5, 13, 3))
        mean_square = (observables.pair_distances(x) ** 2).sum(axis=1) / 13**2
        np.testing.assert_allclose(observables.radius_of_gyration(x + 7.0), np.sqrt(mean_square))

    def test_one_axis_is_too_few(self) -> None:
        with pytest.raises(DataError, match="must have shape"):
            observables.pair_distances(np.zeros(8))


def test_estimate_reads_well() -> None:
    assert str(Estimate(0.88713, 0.88011, 0.89402, 10_000)) == "0.887 [0.880, 0.894] (n = 10000)"
    assert str(Estimate(-120.5, -121.9, -119.3, 50)) == "-120.5 [-121.9, -119.3] (n = 50)"
    assert Estimate.from_dict({"value": 1.0, "low": None, "high": 2.0, "n": 5}).high == 2.0
